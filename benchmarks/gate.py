"""How often is the gate wrong, and how many pairs does it take? Whole gates on simulated commands.

    python benchmarks/gate.py                  # --gates 1000 --pairs 20

Two commands whose results are normal draws; of a pair the difference has standard deviation 1, and
the same seed moves both alike. `seeds`: one validation split. `splits`: a split a pair, and the
differences are correlated as shared training rows make them (Nadeau and Bengio 2003; 20 % held
out). Effect 0 is A/A: its `decided` is the rate of wrong verdicts, which is to be at most 6.2 %.
"""

import argparse
import json
import math
import random
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from knobs.compare import gate
from knobs.compare.__main__ import main as compare
from knobs.compare.decide import BETTER, WORSE
from knobs.report.stats import RATIO

EFFECTS = (0.0, 0.5, 1.0, 2.0)  # standard deviations of a pair's difference


def one(number: int, effect: float, splits: bool, pairs: int, folder: Path) -> tuple[int, int]:
    """Run a gate; return its exit code and how many pairs it ran."""
    shared = RATIO / (1 + RATIO) if splits else 0.0
    common = random.Random(f"{number} {effect} common").gauss(0, math.sqrt(shared))
    drawn = random.Random(f"{number} {effect} own")

    def execute(words: list[str], deadline: float | None) -> tuple[int, list[str], list[str]]:
        value = random.Random(f"{number} {words[1]}").gauss(0, 3)  # of the seed, in both alike
        value += drawn.gauss(0, math.sqrt((1 - shared) / 2))
        value += (effect + common) * (words[0] == "b")
        return 0, [json.dumps({"score": value})], []

    gate.execute = execute
    path = folder / f"{number}-{effect}-{splits}.jsonl"
    words = [f"{name} {{seed}}{' {split}' * splits}" for name in "ab"]
    plan = ["--pairs", str(pairs), "--keep", str(path), "--mode", "max"]
    with redirect_stdout(StringIO()):
        code = compare(["--gate", *words, *plan])
    ran = path.read_bytes().count(b"\n") // 2
    path.unlink()
    return code, ran


def main() -> None:
    """Print a line a cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args()
    print("units   effect  decided  right  pairs run  seconds")
    for splits in (False, True):
        for effect in EFFECTS:
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                cell = (effect, splits, given.pairs, Path(folder))
                ends = [one(number, *cell) for number in range(given.gates)]
            decided = sum(code in (BETTER, WORSE) for code, _ in ends) / given.gates
            right = sum(code == BETTER for code, _ in ends) / given.gates * bool(effect)
            ran = sum(n for _, n in ends) / given.gates
            units, seconds = "splits" if splits else "seeds", time.perf_counter() - began
            print(
                f"{units:7} {effect:6.1f} {decided:8.1%} {right:6.1%} {ran:10.1f} {seconds:8.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
