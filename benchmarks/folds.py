"""Five folds times five seeds beside one run, end to end from the shell.

    python benchmarks/folds.py --rounds 5

Each arm is one command on digits with an MLP and `tracking=local`, timed from its start to its end:
one run; 5 seeds; 5 folds times 5 seeds. The arms take turns, so that a slow moment of the machine
hits neighbours alike. Printed: seconds as median [lowest .. highest] over the rounds, of the clock
and of the processor (user and system, all threads), which other work on the machine moves less, and
how many times as long as one run an arm takes, as the median of the ratios round by round.
"""

import argparse
import os
import resource
import statistics
import tempfile
from pathlib import Path

from shell import timed
from solo import spread

SEEDS = "seed=range(0,5)"
ARMS = {
    "one run": [],
    "5 seeds": ["-m", SEEDS],
    "5 folds x 5 seeds": ["-m", "data.folds=5", "data.fold=all", SEEDS],
}


def processor() -> float:
    """Seconds of processor time of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(words: list[str], place: Path) -> tuple[float, float]:
    """Seconds of one command, by the clock and of the processor."""
    key = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
    before = processor()
    took = timed(
        ["train.py", *words, "tracking=local", f"{key}={place}"], place.with_suffix(".log")
    )
    return took, processor() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name, words in ARMS.items():
                place = Path(folder) / f"{turn}-{name.replace(' ', '-')}"
                found[name].append(measure(words, place))
                print(turn, name, *(f"{value:.1f}" for value in found[name][-1]), flush=True)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{rounds} rounds; load {load} on {os.cpu_count()} cores")
    base = found["one run"]
    for name, times in found.items():
        for i, what in enumerate(("clock", "processor")):
            seconds = [one[i] for one in times]
            ratios = [a[i] / b[i] for a, b in zip(times, base, strict=True)]
            times_as = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]"
            print(f"{name:18} {what:10} {spread(seconds)} s  {times_as} times one run")


if __name__ == "__main__":
    main()
