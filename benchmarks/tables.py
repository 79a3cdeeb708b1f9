"""Tables: the recommended command beside boosted trees, a linear model and a constant.

    KNOBS_DATA=/path/to/data OMP_NUM_THREADS=1 python benchmarks/tables.py
    OMP_NUM_THREADS=1 python benchmarks/tables.py --tables wine tips --override data.numbers=both

knobs trains as `python train.py experiment=tabular data=csv ...` does, or experiment=tabular_large
where a table has more than 5,000 rows; nothing is set for a single table. The others are
scikit-learn's with their defaults, Ridge or LogisticRegression and HistGradientBoosting, fitted on
the same prepared rows of the same splits (60 % training, 20 % validation, 20 % test); `+val` are
trees fitted on the validation rows as well, which knobs stops and chooses by. The test rows are
read once.

Printed for each table: medians over the splits of R2 or accuracy, the paired difference to trees
with its 90 % interval (t over the splits), whether that is ahead (the interval above 0), level (it
reaches within .005 of 0 and its half width is at most .02) or behind, the least difference to the
linear model, seconds of training by the clock, and how many times the trees' they are.

The tables are of scikit-learn and plotly as installed, and of KNOBS_DATA: California housing,
UCI Abalone and Wine Quality, and the diamonds of ggplot2.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge

from knobs import build
from knobs.config import command
from knobs.training.run import execute

MANY = 5_000  # rows: experiment=tabular_large beyond
NEAR, NARROW = 0.005, 0.02  # of a difference that is level
R, C = "regression", "classification"
TABLES = {
    "wine": ("target", C), "tips": ("tip", R), "diabetes": ("target", R),
    "breast_cancer": ("target", C), "winequality": ("quality", R), "gapminder": ("lifeExp", R),
    "digits": ("target", C), "abalone": ("rings", R), "california": ("median_house_value", R),
    "diamonds": ("price", R),
}  # fmt: skip
FILES = {
    "california": "california_housing/housing.csv",
    "abalone": "tables/abalone.csv",
    "diamonds": "tables/diamonds.csv",
    "winequality": "tables/winequality-red.csv",
}


def frame(name: str) -> pd.DataFrame:
    """Return a table with a header."""
    if name in FILES:
        path = Path(os.environ.get("KNOBS_DATA", "data")) / FILES[name]
        if name == "winequality":  # it has no header
            rows = pd.read_csv(path, header=None)
            return rows.set_axis([*(f"x{i}" for i in range(rows.shape[1] - 1)), "quality"], axis=1)
        return pd.read_csv(path, lineterminator="\r" if name == "diamonds" else None)
    if name in ("tips", "gapminder"):
        import plotly

        folder = Path(plotly.__file__).parent / "package_data" / "datasets"
        rows = pd.read_csv(folder / f"{name}.csv.gz")
        return rows.drop(columns=["iso_alpha", "iso_num"], errors="ignore")
    return getattr(datasets, f"load_{name}")(as_frame=True).frame


def trained(lines: list[str], folder: Path) -> tuple[float, float]:
    """Return R2 or accuracy on the test split of one run, and the seconds of its training."""
    summary = execute(command.checked([*lines, "test=true"]), folder).summary
    metric = "test/r2" if "test/r2" in summary["test"] else "test/accuracy"
    return summary["test"][metric], summary["seconds"]


def peers(lines: list[str], task: str) -> dict[str, tuple[float, float]]:
    """Return name -> (R2 or accuracy on the test split, seconds) of what knobs is held against."""
    data = build.data(command.checked(lines))
    (x, y), (more, z), (test, truth) = (
        (split.x.numpy(), split.y.numpy()) for split in (data.train, data.val, data.test)
    )
    trees, linear = {
        R: (HistGradientBoostingRegressor, Ridge()),
        C: (HistGradientBoostingClassifier, LogisticRegression(max_iter=1000)),
    }[task]
    found = {}
    for name, model, rows in (
        ("linear", linear, (x, y)), ("trees", trees(random_state=0), (x, y)),
        ("+val", trees(random_state=0), (np.concatenate([x, more]), np.concatenate([y, z]))),
    ):  # fmt: skip
        began = time.perf_counter()
        model.fit(*rows)
        seconds = time.perf_counter() - began
        found[name] = model.score(test, truth), seconds
    guess = np.zeros_like(truth) if task == R else np.bincount(y).argmax()
    hits = truth == guess
    variance = truth.var()
    constant = 1 - np.mean((truth - guess) ** 2) / variance if task == R else hits.mean()
    return found | {"constant": (float(constant), 0.0)}


def judged(differences: list[float]) -> tuple[float, float, str]:
    """Return the mean paired difference, the half width of its 90 % interval, and the verdict."""
    mean, n = statistics.mean(differences), len(differences)
    half = stats.t.ppf(0.95, n - 1) * statistics.stdev(differences) / n**0.5
    if mean - half > 0:
        return mean, half, "ahead"
    level = mean + half >= -NEAR and half <= NARROW
    return mean, half, "level" if level else "behind" if mean + half < 0 else "unclear"


def measured(name: str, splits: int, overrides: list[str]) -> dict[str, Any]:
    """Return what is printed of one table."""
    target, task = TABLES[name]
    values: dict[str, list[float]] = {}
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = frame(name)
        rows.to_csv(Path(folder) / f"{name}.csv", index=False)
        recipe = "tabular_large" if len(rows) > MANY else "tabular"
        for split in range(splits):
            lines = [
                f"experiment={recipe}", "data=csv", f"data.path={folder}/{name}.csv",
                f"data.target={target}", f"data.task={task}", f"data.split_seed={split}",
                "tracking=local",
            ]  # fmt: skip
            found = peers(lines, task)
            found["knobs"] = trained([*lines, *overrides], Path(folder) / str(split))
            for who, (value, seconds) in found.items():
                values.setdefault(who, []).append(value)
                times.setdefault(who, []).append(seconds)
    gaps = {w: [a - b for a, b in zip(values["knobs"], values[w], strict=True)] for w in values}
    medians = {who: statistics.median(value) for who, value in values.items()}
    seconds = {who: statistics.median(value) for who, value in times.items()}
    return {
        "table": name, "rows": len(rows), **medians, "spread": statistics.stdev(values["knobs"]),
        "judged": judged(gaps["trees"]), "val": judged(gaps["+val"]),
        "over_linear": judged(gaps["linear"]), "seconds": seconds["knobs"],
        "times": seconds["knobs"] / seconds["trees"],
    }  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--override", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"one thread, {args.splits} splits, {' '.join(args.override) or 'nothing overridden'}")
    print(
        f"{'table':14}{'rows':>7}{'constant':>9}{'linear':>8}{'trees':>8}{'+val':>8}{'knobs':>8}"
        f"{'sd':>7}{'knobs - trees':>18}{'':9}{'- +val':>17}{'- linear':>17}{'s':>7}{'times':>7}"
    )
    for name in args.tables:
        row = measured(name, args.splits, args.override)
        mean, half, verdict = row["judged"]
        val, linear = (f"{row[k][0]:+.4f} ± {row[k][1]:.4f}" for k in ("val", "over_linear"))
        print(
            f"{name:14}{row['rows']:7,}{row['constant']:9.4f}{row['linear']:8.4f}"
            f"{row['trees']:8.4f}{row['+val']:8.4f}{row['knobs']:8.4f}{row['spread']:7.4f}"
            f"{mean:+10.4f} ± {half:.4f}  {verdict:8}{val:>17}{linear:>17}{row['seconds']:7.1f}"
            f"{row['times']:7.1f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
