"""What a record costs: the share of a 64-run grid that goes into its files, kind by kind.

    OMP_NUM_THREADS=1 python benchmarks/record.py             # 64 runs of a digits MLP, 20 epochs
    OMP_NUM_THREADS=1 python benchmarks/record.py --rounds 5 --override training.epochs=5

The grid of benchmarks/sweep.py runs in this process, in a folder that is removed, without W&B. A
watch is put around what a session writes: checkpoints, predictions, the summary, and every fsync.
Printed: seconds as median [lowest .. highest] over the rounds, each kind's share of the whole, and
how many times a run synced.
"""

import argparse
import os
import runpy
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solo import spread

from knobs import record
from knobs.training.session import Session

ROOT = Path(__file__).parents[1]
GRID = [
    "tracking=local",
    "training.epochs=20",
    "model.width=128",
    "optimizer.lr=1e-4,1e-3,1e-2,1e-1",
    "optimizer.weight_decay=0,1e-4,1e-3,1e-2",
    "regularization=none,dropout",
    "seed=0,1",
]
WATCHED = {
    "checkpoints": (Session, "save"),
    "predictions": (Session, "_keep_predictions"),
    "summary": (record.Record, "finish"),
    "config, preparation": (record.Record, "begin"),
    "metrics": (record.Record, "log"),
    "fsync (within these)": (os, "fsync"),
}
RUNS = 64


def _timed(name: str, real: Callable, seconds: Counter, calls: Counter) -> Callable:
    def timed(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*args, **more)
        finally:
            seconds[name] += time.perf_counter() - began
            calls[name] += 1

    return timed


def watched(seconds: Counter, calls: Counter) -> list:
    """Put a watch around everything in WATCHED; what was there before."""
    before = []
    for name, (owner, attribute) in WATCHED.items():
        real = getattr(owner, attribute)

        setattr(owner, attribute, _timed(name, real, seconds, calls))
        before.append((owner, attribute, real))
    return before


def one_round(overrides: list[str]) -> tuple[float, Counter, Counter]:
    """The grid once: its seconds, those of each kind, and how often."""
    seconds, calls, here = Counter(), Counter(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.argv = ["train.py", "-m", *GRID, *overrides]
        before = watched(seconds, calls)
        began = time.perf_counter()
        try:
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        finally:
            for owner, attribute, real in before:
                setattr(owner, attribute, real)
            os.chdir(here)
        return time.perf_counter() - began, seconds, calls


def main() -> None:
    """Run the rounds and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--override", nargs="*", default=[])
    args = parser.parse_args()
    rounds = [one_round(args.override) for _ in range(args.rounds)]
    print(f"\nthe grid: {spread([whole for whole, _, _ in rounds])} s")
    for name in WATCHED:
        shares = [100 * seconds[name] / whole for whole, seconds, _ in rounds]
        each = rounds[-1][2][name] / RUNS
        middle = f"{statistics.median(shares):6.2f} [{min(shares):.2f} .. {max(shares):.2f}] %"
        print(f"{name:<24} {middle}, {each:.1f} calls a run")


if __name__ == "__main__":
    main()
