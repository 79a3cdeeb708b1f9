"""How long is a pruner's first rung to be? Random settings of the learned table under ASHA.

    python benchmarks/fidelity.py            # --repeats 20: quicker

For each task of benchmarks/table random runs of its table arrive one after another and end at a
rung where they are not among the best third of those that came as far. A budget is 10 or 20 whole
runs. Regret: (found - best of the table) / (median - best), at most 1. Printed: the mean over
tasks, and its difference from a first rung at 2 epochs, with a 90 % t-interval over tasks.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from scipy import stats

from knobs.search import table
from knobs.search.pruning import ETA, behind

FIRST = (1, 2, 3, 4, 6, None)  # epochs to the first rung; None prunes nothing
BUDGETS = (10, 20)


def losses(found: table.Table) -> np.ndarray:
    """The best objective so far after each epoch, low is good, (runs, epochs)."""
    values = found.curves[0].astype(float)
    values = -values if found.facts["mode"] == "max" else values
    return np.minimum.accumulate(np.where(np.isnan(values), np.inf, values), 1)


def rungs(first: int | None, epochs: int) -> list[int]:
    """The epochs at which a run may end."""
    found = []
    while first and first < epochs:
        found.append(first)
        first *= ETA
    return found


def regret(best: np.ndarray, first: int | None, budget: int, seed: int) -> float:
    """The regret of one search."""
    epochs, ends = best.shape[1], best[:, -1]
    seen: dict[int, list[float]] = {rung: [] for rung in rungs(first, epochs)}
    spent, reached = 0, []
    for run in np.random.default_rng(seed).permutation(len(best)):
        if spent > epochs * (budget - 0.5):
            break
        stop = epochs
        for rung, values in seen.items():
            values.append(best[run, rung - 1])
            if behind(values[-1], sorted(values)):
                stop = rung
                break
        spent += stop
        reached.append((best[run, stop - 1], run))
    low, middle = ends.min(), np.median(ends[np.isfinite(ends)])
    return min(1.0, float((ends[min(reached)[1]] - low) / (middle - low)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = Path(__file__).parent / "table"
    parser.add_argument("--folder", type=Path, default=folder)
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    tasks = [losses(table.read(path)) for path in sorted(args.folder.glob("*.table"))]
    print(f"{len(tasks)} tasks, {args.repeats} searches each")
    for budget in BUDGETS:
        means = {
            first: [
                statistics.mean(regret(best, first, budget, seed) for seed in range(args.repeats))
                for best in tasks
            ]
            for first in FIRST
        }
        for first, found in means.items():
            less = np.array(found) - np.array(means[2])
            half = stats.t.ppf(0.95, len(less) - 1) * less.std(ddof=1) / len(less) ** 0.5
            rung = f"first rung at {first}" if first else "no rung"
            print(
                f"{budget} runs, {rung:<16} {np.mean(found):.3f}  {less.mean():+.3f} ± {half:.3f}"
            )


if __name__ == "__main__":
    main()
