"""The speed of several processes for one run: milliseconds a step beside one process.

    OMP_NUM_THREADS=1 python benchmarks/parallel.py
    OMP_NUM_THREADS=1 python benchmarks/parallel.py --processes 2 4 --override model.width=4096

Every arm is a run from the shell with one thread a process. Its step is what its summary says was
trained in a second, so starting and evaluating do not count. The arms take turns; printed are
median [lowest .. highest] over the rounds, and the median of the ratios round by round. On a
machine that others use as well the ratios are low: all processes wait for the slowest.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from solo import ratio, spread

from knobs import record

TRAIN = Path(__file__).parents[1] / "train.py"
SETTINGS = {
    "small: digits, mlp of 64, batches of 32": ["training.epochs=10"],
    "large: digits, mlp of 2 x 2048, batches of 512": [
        *("model.width=2048", "model.depth=2", "training.batch_size=512", "training.epochs=20"),
    ],
}


def step(overrides: list[str], count: int) -> float:
    """Train a run; return its milliseconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["data=digits", "tracking=local", "training.threads=1", "training.device=cpu"]
        words += [*overrides, f"training.processes={count}", f"hydra.run.dir={folder}/run"]
        subprocess.run(
            [sys.executable, TRAIN, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        summary = record.read_summary(Path(folder, "run"))
    size = summary["epochs"] * summary["training_examples"] / summary["steps"]
    return 1e3 * size / summary["samples_per_second"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--override", action="append", default=[])
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, one thread a process, {args.rounds} rounds")
    for name, settings in SETTINGS.items():
        times: dict[int, list[float]] = {count: [] for count in [1, *args.processes]}
        for _ in range(args.rounds):
            for count, taken in times.items():
                taken.append(step([*settings, *args.override], count))
        print(name)
        for count, taken in times.items():
            print(f"  {count} processes {spread(taken)} ms a step, {ratio(taken, times[1]):.2f} x")


if __name__ == "__main__":
    main()
