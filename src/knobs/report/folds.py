"""A setting's mean over folds, and the interval that overlapping training splits leave it.

Source: Nadeau and Bengio 2003, "Inference for the generalization error": the variance of the mean
is sd^2 (1/k + n_val/n_train), which for k folds is sd^2 (1/k + 1/(k - 1)); of repeated folds
Bouckaert and Frank 2004.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from knobs import metrics
from knobs.report.records import Entry, RunRecord, knob_value
from knobs.report.stats import LEVEL
from knobs.words import count, number, percent


@dataclass(frozen=True)
class OverFolds:
    """The objective over folds.

    Args:
        mean, sd: over `n` folds, of each the mean over its seeds; sd None below two.
        seeds: that every fold has, at least.
        low, high: ends of the interval of the mean, that of a share within 0 and 1; None below 3
            folds.
    """

    mean: float
    sd: float | None
    n: int
    seeds: int
    low: float | None = None
    high: float | None = None


def over_folds(runs: Sequence[RunRecord], level: float = LEVEL) -> OverFolds | None:
    """Average runs of one setting over seeds within each fold, then over folds.

    Folds of several splits count each for itself, unless they hold out the same rows, as those by
    time do. Runs without a value are left out.

    Args:
        level: of the interval.

    Returns:
        None where no run with folds has a value.
    """
    folds: dict[Any, list[RunRecord]] = {}
    for run in runs:
        count_of = knob_value(run, "data.folds")
        if run.ok and run.value is not None and type(count_of) is int and count_of > 1:
            folds.setdefault(run.val_rows or run.data_hash or run.repeat[1:], []).append(run)
    if not folds:
        return None
    # A seed that comes to the same bits again, as in another sweep, is no further observation.
    once = [[value for _, value in {(r.seed, r.value) for r in same}] for same in folds.values()]
    values = [statistics.mean(sorted(same)) for same in once]
    n, mean, seeds = len(values), statistics.mean(values), min(map(len, once))
    if n < 2:
        return OverFolds(mean, None, n, seeds)
    sd = statistics.stdev(values)
    if n < 3:
        return OverFolds(mean, sd, n, seeds)
    from scipy.special import stdtrit  # 0.1 s

    reach = float(stdtrit(n - 1, (1 + level) / 2)) * sd * math.sqrt(1 / n + _overlap(folds))
    low, high = mean - reach, mean + reach
    if metrics.in_points(runs[0].metric):
        low, high = max(0.0, low), min(1.0, high)
    return OverFolds(mean, sd, n, seeds, low, high)


def _overlap(folds: dict[Any, list[RunRecord]]) -> float:
    """Return validation rows for each training row; 1 / (folds - 1) where records lack them."""
    sizes = [(run.validation_examples, run.training_examples) for run, *_ in folds.values()]
    if all(val and train for val, train in sizes):
        return sum(val for val, _ in sizes) / sum(train for _, train in sizes)
    return 1 / (knob_value(next(iter(folds.values()))[0], "data.folds") - 1)


def fold_lines(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield a line for each setting that ran on folds."""
    for entry in entries:
        if not (found := over_folds(entry.runs)):
            continue
        each = f", each the mean of {found.seeds} seeds" if found.seeds > 1 else ""
        text = f"mean {number(found.mean, 4)} over {count(found.n, 'fold')}{each}"
        if found.sd is not None:
            text += f", sd {number(found.sd, 2)}"
        if found.low is not None:
            ends = f"{number(found.low, 3)} to {number(found.high, 3)}"
            text += f", {percent(LEVEL)} interval {ends} (corrected: folds share training rows)"
        yield f"rank {entry.rank}: {text}" if len(entries) > 1 else text
