"""Findings about a run: faults of its record, and what its curves and predictions warn of."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from knobs.config.hints import hints
from knobs.report.conclusions import Finding
from knobs.report.files import of
from knobs.report.records import finite
from knobs.report.run import quality, scores
from knobs.report.run.quality import Quality
from knobs.report.run.records import RunFiles
from knobs.shape import Shape
from knobs.words import number, percent

SURE = 1.5  # times the calibration error that chance makes
RISE = 0.1  # of the validation loss over its least value, before it is called overfitting
LEAST_ROWS = 30  # of predictions, before a trend or a calibration error says anything
ROUNDED = 2.0**-9  # of an output, what 16 bits can make of a tie
LEVELS = ("act", "note", "ok")


def findings(files: RunFiles, judged: Quality | None) -> list[Finding]:
    """Return what stands out, what is to be done first."""
    found = [*_below(files), *(Finding("record", "note", fault) for fault in files.faults)]
    found += [*(_agreement(judged) if judged else ()), *_sampled(files), *_curves(files)]
    found += [*(_of_task(judged) if judged else ()), *_hints(files)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


# ------------------------------------------------------------------ baselines
def baselines(files: RunFiles) -> dict[str, float]:
    """Return name -> the objective that a constant and a linear model reach, where recorded."""
    given = files.run.summary.get("baselines")
    if not isinstance(given, dict):
        return {}
    return {str(name): v for name, value in given.items() if (v := finite(value)) is not None}


def below(files: RunFiles) -> dict[str, float]:
    """Return the baselines that the run is no better than."""
    run = files.run
    sign = -1 if run.mode == "min" else 1
    if run.value is None:
        return {}
    return {n: v for n, v in baselines(files).items() if sign * run.value <= sign * v}


def _below(files: RunFiles) -> Iterator[Finding]:
    run = files.run
    for name, value in below(files).items():
        text = (
            f"{run.metric} is {number(run.value, 4)}, the {name} baseline has {number(value, 4)}: "
            "this run is no better."
        )
        do = "Train longer or with another learning rate, and check the columns and the target."
        yield Finding("baseline", "act", text, do)


# ------------------------------------------------------------------ curves
def _curves(files: RunFiles) -> Iterator[Finding]:
    run = files.run
    rows = [row for row in run.curve if "val/loss" in row and "train/loss" in row]
    if run.status == "finished" and files.best[0] == files.epochs > 1:
        text = "The best epoch is the last one: the run was still getting better."
        yield Finding("length", "act", text, "Train for more epochs.")
    if len(rows) < 3:
        return
    best = min(rows, key=lambda row: row["val/loss"])
    last = rows[-1]
    rise = last["val/loss"] - best["val/loss"]
    if rise > RISE * abs(best["val/loss"]) and last["train/loss"] < best["train/loss"]:
        after = f"from {number(best['val/loss'])} at epoch {best['epoch']:g}"
        text = (
            f"Overfitting: val/loss rose {after} to {number(last['val/loss'])} at the end, while "
            f"train/loss fell from {number(best['train/loss'])} to {number(last['train/loss'])}."
        )
        do = "Regularize, use a smaller model or more data; the best epoch's weights are kept."
        yield Finding("overfitting", "act", text, do)


# ------------------------------------------------------------------ predictions
def _agreement(judged: Quality) -> Iterator[Finding]:
    """Yield where the predictions give another metric than summary.json, beyond rounding."""
    files = judged.files
    recorded = files.run.summary.get("metrics")
    if not files.whole or not isinstance(recorded, dict):
        return
    name = "val/r2" if files.task == "regression" else "val/accuracy"
    mine, theirs = judged.metrics[name], finite(recorded.get(name))
    if theirs is None or not np.isfinite(mine):
        return
    off = abs(mine - theirs)
    if off > _rounding(judged, mine) + 1e-9:
        text = (
            f"{name} is {number(mine, 4)} by predictions.safetensors and {number(theirs, 4)} by "
            "summary.json: the two files are not of one run, or one is damaged."
        )
        yield Finding("record", "act", text, "Do not trust the sections made of predictions.")
    elif off > 1e-4:
        text = (
            f"{name} is {number(mine, 4)} on this page and {number(theirs, 4)} in summary.json: "
            "outputs are kept with 16 bits, which makes ties of close ones."
        )
        yield Finding("record", "note", text)


def _rounding(judged: Quality, r2: float) -> float:
    """Return how far outputs of 16 bits may move the accuracy, or R2."""
    if judged.files.task == "regression":
        return 0.01 + 0.05 * abs(1 - r2)
    outputs = judged.files.predictions.outputs
    if judged.files.task == "multilabel":
        return float((np.abs(outputs) < 1e-6).any(1).mean())
    second, first = np.partition(outputs, -2, axis=1)[:, -2:].T
    close = first - second <= ROUNDED * np.maximum(np.abs(first), np.abs(second))
    return float(close.mean())


def _of_task(judged: Quality) -> Iterator[Finding]:
    if judged.files.task == "regression":
        yield from _trends(judged)
        return
    what = "label" if judged.files.task == "multilabel" else "class"
    unsaid, wrong = quality.never(judged)
    if unsaid:
        text = f"Never predicted, though there are rows of it: {what} {unsaid}."
        do = "loss.weight=balanced, more rows of it, or a longer run may help."
        yield Finding(f"{what} never predicted", "act", text, do * (what == "class"))
    if wrong:
        yield Finding(f"{what} never right", "act", f"Predicted, and never right: {what} {wrong}.")
    if what == "label" or len(judged.targets) < LEAST_ROWS:
        return
    error, chance = judged.calibration.error, judged.calibration.chance
    if error > max(quality.MISCALIBRATED, SURE * chance):
        confidence = float(judged.probabilities.max(1).mean())
        bold = confidence > judged.metrics["val/accuracy"]
        text = (
            f"Miscalibrated: expected calibration error {number(error, 3)}, above "
            f"{quality.MISCALIBRATED:g}; mean confidence {percent(confidence)}, accuracy "
            f"{percent(judged.metrics['val/accuracy'])}."
        )
        do = "regularization.label_smoothing or an earlier stop may help." * bold
        yield Finding("calibration", "note", text, do)


def _trends(judged: Quality) -> Iterator[Finding]:
    if len(judged.targets) < LEAST_ROWS:
        return
    for i, (actual, said) in enumerate(zip(judged.targets.T, judged.values.T, strict=True)):
        share, slope = scores.trend(actual, said)
        if share <= quality.TREND or i >= quality.MOST_PLOTTED:
            continue
        name = quality.named(judged.names, i) if judged.names else "the target"
        how = "the predictions spread too little" if slope > 0 else "the predictions spread too far"
        text = (
            f"Residual trend: the prediction explains {percent(share)} of the variance of "
            f"{name}'s residuals (slope {number(slope, 2)}): {how}, or bend."
        )
        yield Finding("residual trend", "note", text, "A larger model or a longer run may help.")


def _sampled(files: RunFiles) -> Iterator[Finding]:
    """Yield that the predictions are not of all rows, or not of the best epoch so far."""
    if files.predictions is None:
        return
    epoch, best = files.predictions.epoch, files.best[0]
    if epoch and epoch != best:
        text = f"Predictions are of epoch {epoch:,}, from before the run went on; best is {best:,}."
        yield Finding("sample", "note", text)
    if files.whole:
        return
    n, size = len(files.predictions.rows), files.run.validation_examples
    text = (
        f"Predictions were kept of {n:,} of the {size:,} validation rows, chosen by a hash of the "
        "row number: what is counted from them here is of this sample."
    )
    yield Finding("sample", "note", text)


# ------------------------------------------------------------------ config
def _hints(files: RunFiles) -> Iterator[Finding]:
    """Yield the hints that the run itself printed, where its config can be read."""
    shape = _shape(files)
    if shape is None:
        return
    config: dict[str, Any] = {"silence": []} | files.run.config
    try:
        found = hints(config, shape)
    except (LookupError, TypeError, ValueError, AttributeError, OSError):
        return  # a config of another make
    for hint in found:
        yield Finding("hint", "note", f"{hint.says} ({hint.source}).")


def _shape(files: RunFiles) -> Shape | None:
    """Return the sizes of the model's input and output; None where they are not recorded."""
    prepared = files.prepared
    if prepared is None:
        return None
    inputs = prepared.inputs
    try:
        size = {
            "table": lambda: (len(inputs["numbers"]) + sum(map(len, inputs["levels"].values())),),
            "image": lambda: (inputs["channels"], inputs["height"], inputs["width"]),
            "text": lambda: (inputs["length"],),
        }[prepared.kind]()
    except (LookupError, TypeError, AttributeError):
        return None
    words = len(of(inputs, "tokens", list)) + 2 if prepared.kind == "text" else 0
    return Shape(size, len(prepared.classes or prepared.names), words)
