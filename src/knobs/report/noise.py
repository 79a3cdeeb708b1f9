"""The noise of a validation split: how far two equal networks differ on it by its size alone."""

import math

import numpy as np

from knobs.report.run import scores
from knobs.report.run.records import RunFiles
from knobs.report.stats import noise_floor

ESTIMATED = ("accuracy", "balanced_accuracy", "f1", "r2", "rmse", "mae", "loss", "log_loss")
DRAWS = 200  # bootstrap samples of the rows: the standard error of a spread is 5 % of it


def of_split(files: RunFiles) -> float | None:
    """Return the noise of a split, by the predictions of a run on it.

    Of an accuracy sqrt(error / (2 size)), as everywhere in a report. Of others the standard
    deviation over bootstrap samples of the rows, over sqrt(2): two runs are judged on the same
    rows, so that about half of the variance is common to both, as it is in that formula.

    Args:
        files: of a run that is judged on the split, the best one.

    Returns: None where its metric is none of ESTIMATED, or it did not record what that takes.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap.
    """
    name = files.run.metric.rpartition("/")[2]
    if name not in ESTIMATED:
        return None
    size, value = files.run.validation_examples, files.run.value
    if name == "accuracy":
        known = size and value is not None and value <= 1
        return noise_floor(1 - value, size) if known else None
    if files.predictions is None or not files.task:
        return None
    n = len(files.predictions.rows)
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        drawn = [_metric(files, name, rng.integers(n, size=n)) for _ in range(DRAWS)]
    drawn = [value for value in drawn if value is not None and math.isfinite(value)]
    if len(drawn) < DRAWS / 2:
        return None
    return float(np.std(drawn)) * math.sqrt(n / (size or n) / 2)


def _metric(files: RunFiles, name: str, rows: np.ndarray) -> float | None:
    """Return a metric of these rows; None where the task has no such metric."""
    outputs, targets = files.predictions.outputs[rows], files.predictions.targets[rows]
    if files.task == "regression":
        if files.log_rates:
            outputs = np.exp(outputs)
        error = (outputs - targets.reshape(outputs.shape)).astype(float)
        unit = files.prepared.std if files.prepared and not files.log_rates else 1.0
        if name == "r2":
            spread = targets.reshape(outputs.shape).var(0)
            return float(np.mean(1 - (error**2).mean(0) / spread))
        if name == "mae":
            return float(np.mean(np.abs(error * unit)))
        square = float(np.mean(np.sqrt(((error * unit) ** 2).mean(0))))
        return square if name == "rmse" else float((error**2).mean()) if name == "loss" else None
    if name in ("loss", "log_loss"):
        losses = scores.class_losses if files.task == "classification" else scores.label_losses
        return float(losses(outputs, targets).mean())
    if files.task == "multilabel":
        return float(scores.label_counts(targets, outputs > 0).f1.mean()) if name == "f1" else None
    counts = scores.class_counts(targets, outputs.argmax(1), outputs.shape[1])
    if name == "balanced_accuracy":
        return float(counts.recall[counts.support > 0].mean())
    there = counts.support + counts.guessed > 0
    return float(counts.f1[there].mean()) if name == "f1" else None
