"""How often a verdict is wrong, and what it can show: simulated studies, and real ones.

    python benchmarks/verdict.py                 # the rates and the power, about 3 minutes
    python benchmarks/verdict.py --real 20       # studies of equal arms on digits

A simulated study has arms whose values over validation splits are normal and correlated, as those
of overlapping training sets are (Nadeau and Bengio 2003): a value is sqrt(1 - c) z + sqrt(c) z', z'
the same in all splits of an arm. Equal arms have one mean; a study is wrong where the best arm
beats any other.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from knobs.report.stats import paired

STUDIES = 1000  # a cell
LOOKS = (5, 10, 15, 20)
POWER = 0.8


def table(
    random: np.random.Generator, arms: int, pairs: int, shared: float, unequal: bool
) -> np.ndarray:
    """Return drawn values of a study of equal arms, (arms, pairs)."""
    values = random.standard_normal((arms, pairs)) * math.sqrt(1 - shared)
    values += random.standard_normal((arms, 1)) * math.sqrt(shared)
    return values * np.linspace(1, 2, arms)[:, None] if unequal else values


def decided(values: np.ndarray, ratio: float, looks: tuple[int, ...] = ()) -> tuple[int, list[int]]:
    """Return the best arm, and the arms that it beats, as a study would say: at its last look.

    A study of several looks ends at the first one where the best beats all others.
    """
    first, beaten = 0, []
    for n in looks or (values.shape[1],):
        order = np.argsort(-values[:, :n].mean(1))
        arms = [{(s, s, 0): float(v) for s, v in enumerate(values[arm, :n])} for arm in order]
        pairs = paired(arms[0], arms[1:], ratio=ratio, looks=looks)
        first = int(order[0])
        beaten = [int(arm) for arm, p in zip(order[1:], pairs, strict=True) if p.beats]
        if len(beaten) == len(arms) - 1:
            break
    return first, beaten


def rates(studies: int) -> None:
    """Print how many studies of equal arms find a difference."""
    print("arms  pairs  correlation  variances  looks  wrong of", studies)
    random = np.random.default_rng(0)
    cells = product((2, 5), (5, 10), (0.0, 0.2, 0.4), (False, True))
    several = ((arms, 20, c, u) for arms, c, u in product((2, 5), (0.0, 0.2, 0.4), (False, True)))
    for arms, pairs, shared, unequal in (*cells, *several):
        looks = LOOKS if pairs == 20 else ()
        drawn = (table(random, arms, pairs, shared, unequal) for _ in range(studies))
        wrong = sum(bool(decided(v, shared / (1 - shared), looks)[1]) for v in drawn)
        kind = "unequal" if unequal else "equal"
        print(f"{arms:4}  {pairs:5}  {shared:11}  {kind:9}  {len(looks) or 1:5}  {wrong}")


def kept(n: int = 200) -> None:
    """Print of how many "beats" of two unequal arms the sign holds over 20 fresh pairs."""
    random, ratio = np.random.default_rng(1), 0.25
    same = seen = 0
    while seen < n:
        lead = np.array([abs(random.standard_normal()), 0.0])
        values = table(random, 2, 25, ratio / (1 + ratio), False) + lead[:, None]
        first, beaten = decided(values[:, :5], ratio)
        if beaten:
            fresh = values[:, 5:]  # other splits of the same data
            seen += 1
            same += fresh[first].mean() > fresh[beaten[0]].mean()
    print(f"of {seen} verdicts `beats` {same} keep their sign over 20 fresh pairs")


def power(studies: int) -> None:
    """Print the smallest difference, in sd of a pair's difference, that 80 % of studies show."""
    ratio = 0.25
    shared = ratio / (1 + ratio)
    for arms, (pairs, looks) in product((2, 5), ((5, ()), (10, ()), (20, ()), (20, LOOKS))):
        low, high = 0.0, 8.0
        for _ in range(8):
            middle, random = (low + high) / 2, np.random.default_rng(2)
            lead = np.zeros((arms, 1))
            lead[0] = middle * math.sqrt(2)
            drawn = (table(random, arms, pairs, shared, False) + lead for _ in range(studies))
            shown = np.mean([len(decided(v, ratio, looks)[1]) == arms - 1 for v in drawn])
            low, high = (low, middle) if shown >= POWER else (middle, high)
        print(f"{arms} arms, {pairs} pairs, {len(looks) or 1} looks: {high:.2f} sd")


def real(studies: int) -> None:
    """Print how many studies of two equal arms on digits find a difference.

    The arms differ in `name` alone, which no run computes with; each has runs of its own.
    """
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for study in range(studies):
            seeds = [
                range(1000 * study + 500 * arm, 1000 * study + 500 * arm + 5) for arm in (0, 1)
            ]
            arms = []
            for arm in (0, 1):
                name = f"s{study}_{arm}"
                numbers = ",".join(map(str, seeds[arm]))
                splits = ",".join(str(100 * study + i) for i in range(5))
                words = [f"zip={{seed:[{numbers}],data.val_seed:[{splits}]}}", f"sweep={name}"]
                words += ["training.epochs=5", "tracking=local"]
                train = str(Path(__file__).parents[1] / "train.py")
                done = [sys.executable, train, "-m", *words]
                subprocess.run(done, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                ended = sorted(Path(folder, "outputs/sweeps", name).glob("[0-9]*/summary.json"))
                values = {}
                for path in ended:
                    config = json.loads(path.with_name("config.json").read_text())["config"]
                    value = json.loads(path.read_text())["objective"]["value"]
                    split = config["data"]["val_seed"]
                    values[split, split, 0] = value
                arms.append(values)
            (pair,) = paired(arms[0], arms[1:], ratio=360 / 1078, examples=360)
            wrong += pair.beats or pair.high < 0
            print(f"{study + 1} studies, {wrong} wrong: {pair.low:+.4f} to {pair.high:+.4f}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--real", type=int, default=0, help="real studies of equal arms instead")
    given = parser.parse_args()
    if given.real:
        return real(given.real)
    rates(given.studies)
    kept()
    power(max(100, given.studies // 4))


if __name__ == "__main__":
    main()
