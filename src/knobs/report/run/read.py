"""A run's folder -> plain data for its page.

Only what the run recorded is read, never its data. A file that is missing, damaged or of another
make is said, and stops nothing.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from knobs import record, storage
from knobs.errors import first_line
from knobs.report.files import BROKEN, load, of
from knobs.report.read import curve, damage, how_it_went, what_ran
from knobs.report.records import RunRecord
from knobs.report.run.records import TASKS, Predictions, Prepared, RunFiles
from knobs.words import count

PREPARATION, ARRAYS = "preparation.json", "preparation.safetensors"
PREDICTIONS, LOG = "predictions.safetensors", "train.log"
MOST_RATE, MOST_VALUE = 100.0, 1e100  # an output, a value whose squares are numbers
MOST_BYTES = 2**26  # of a preparation with a large vocabulary, or of predictions
TAIL = 2**16  # bytes of a log that are looked at


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run's, not a sweep's with runs in it."""
    files = (record.CONFIG, record.SUMMARY, record.METRICS)
    try:
        if not any(os.path.lexists(folder / name) for name in files):
            return False
        numbered = [path for path in folder.iterdir() if path.name.isdecimal()]
    except OSError:  # whoever reads it as a sweep says why
        return False
    return not any(os.path.lexists(path / record.CONFIG) for path in numbered)


def read_files(folder: Path) -> RunFiles:
    """Read a run's folder, as much of it as can be read."""
    faults: list[str] = []

    def tried(name: str, reader: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return reader()
        except FileNotFoundError as error:
            faults.append(f"{Path(error.filename or name).name} is missing.")
        except Exception as error:  # whatever a foreign file makes a reader raise
            why = getattr(error, "strerror", None) or first_line(error)
            faults.append(f"{name} cannot be read: {why.removeprefix(f'{folder / name}: ')}.")
        return otherwise

    run = RunRecord(folder, folder.resolve().name, load_curve=functools.partial(curve, folder))
    run = replace(run, **tried(record.CONFIG, lambda: what_ran(folder), {}))
    run = replace(run, **tried(record.SUMMARY, lambda: how_it_went(folder), {}))
    looked = lambda: (_damaged(folder / record.METRICS), damage(run))  # noqa: E731
    damaged, missing = tried(record.METRICS, looked, (0, ""))
    if damaged:
        faults.append(f"{count(damaged, 'line')} of {record.METRICS} damaged and left out.")
    if missing:
        faults.append(f"{record.METRICS}: {missing}; resume={folder} writes it again.")
    data = _about_data(folder)
    prepared, predictions = None, None
    if (folder / PREPARATION).exists():
        prepared = tried(PREPARATION, lambda: _prepared(folder), None)
    if (folder / PREDICTIONS).exists():
        predictions = tried(PREDICTIONS, lambda: _predictions(folder), None)
    files = RunFiles(run, data, prepared, predictions, (), record.held(folder), _why(run))
    if predictions is not None and (odd := _misfit(files)):
        faults.append(f"{PREDICTIONS} does not fit this run: {odd}.")
        files = replace(files, predictions=None)
    return replace(files, faults=(*faults, *_missing(files)))


def _missing(files: RunFiles) -> Iterator[str]:
    """Yield what a run of this status should have left and did not."""
    run, removed = files.run, "or the file was removed"
    if run.ok and not files.refit_of and not (run.folder / PREDICTIONS).exists():
        yield f"{PREDICTIONS} is missing: the run is older, {removed}."
    if not (run.folder / record.SUMMARY).exists() and not files.under_way:
        yield f"{record.SUMMARY} is missing: the run was killed, {removed}."


def _about_data(folder: Path) -> dict[str, Any]:
    try:
        return of(load(folder / record.CONFIG, record.read_config), "data", dict)
    except BROKEN:  # said already
        return {}


def _damaged(path: Path) -> int:
    """Return the number of lines that are no rows."""
    return load(path, record.read_log)[1]


def _content(path: Path) -> bytes:
    return load(path, lambda folder: (folder / path.name).read_bytes(), MOST_BYTES)


def _prepared(folder: Path) -> Prepared:
    """Return the preparation.

    Raises:
        ValueError: it is not as it was written, or a field is not as it must be.
    """
    from safetensors.numpy import load as unpacked

    node = json.loads(_content(folder / PREPARATION).decode("utf-8", "surrogatepass"))
    if not isinstance(node, dict):
        raise ValueError("no JSON object")
    packed = _content(folder / ARRAYS)
    rest = {name: value for name, value in node.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True).encode()
    # As data/preparation.py seals them, which imports torch.
    if node.get("sha256") != hashlib.sha256(hashlib.sha256(text).digest() + packed).hexdigest():
        raise ValueError(f"not as it was written, or not with its {ARRAYS}")
    arrays, target = unpacked(packed), of(node, "target", dict, strict=True)
    names, classes = (of(target, key, list, strict=True) for key in ("names", "classes"))
    mean, std = arrays["target.mean"], arrays["target.std"]
    if target.get("task") not in TASKS or not len(mean) == len(std) == len(names) > 0:
        raise ValueError("its target is not one that this knobs knows")
    return Prepared(
        str(node.get("kind")),
        of(node, "inputs", dict, strict=True),
        {name.partition(".")[2]: v for name, v in arrays.items() if name.startswith("inputs.")},
        target["task"],
        tuple(map(str, names)),
        tuple(map(str, classes)),
        mean.astype(float),
        std.astype(float),
    )


def _predictions(folder: Path) -> Predictions:
    """Return the predictions.

    Raises:
        ValueError: they are not what a run writes.
    """
    from safetensors import safe_open

    path = folder / PREDICTIONS
    epoch = storage.about(_content(path)).get("epoch", "0")  # no link, no pipe, not huge
    with safe_open(path, framework="numpy") as file:
        rows, targets, outputs = map(file.get_tensor, ("rows", "targets", "outputs"))
    outputs = outputs.astype(float)
    if rows.ndim != 1 or outputs.ndim != 2 or not len(rows) == len(targets) == len(outputs) > 0:
        raise ValueError("its rows, targets and outputs are not of one length")
    if not (np.isfinite(outputs).all() and np.isfinite(targets).all()):
        raise ValueError("it holds what is no finite number")
    return Predictions(rows, targets, outputs, int(epoch) if epoch.isdecimal() else 0)


def _misfit(files: RunFiles) -> str:
    """Say how the predictions differ from what the task has; empty where they do not."""
    predictions, task, prepared = files.predictions, files.task, files.prepared
    targets, outputs = predictions.targets, predictions.outputs
    expected = outputs.shape[1]
    if prepared:
        expected = len(prepared.classes or prepared.names)
    best, size = files.run.best_epoch, files.run.validation_examples
    if not task:
        return "the record does not tell the task"
    if task == "regression" and not files.run.config:
        return "without config.json the loss is not known, and so not what its outputs mean"
    if files.log_rates and not prepared:
        return "its outputs are log rates, which need the preparation to be compared with targets"
    if outputs.shape[1] != expected:
        return f"it has {outputs.shape[1]:,} outputs, its preparation {expected:,}"
    if task == "classification":
        fits = targets.ndim == 1 and targets.min() >= 0 and targets.max() < expected
        if not fits or targets.dtype.kind not in "iu":
            return "its targets are no class numbers"
    elif task == "regression" and (odd := _too_large(files)):
        return odd
    elif targets.size != outputs.size:
        return f"targets of shape {targets.shape}, outputs of {outputs.shape}"
    elif task == "multilabel" and not np.isin(targets, (0, 1)).all():
        return "its targets are not 0 and 1"
    if best and predictions.epoch and predictions.epoch != best:
        return f"it is of epoch {predictions.epoch}, the best epoch is {best:g}"
    if size and len(predictions.rows) > size:
        return f"{len(predictions.rows):,} rows, the validation split has {size:,}"
    return ""


def _too_large(files: RunFiles) -> str:
    """Say that values of a regression are too large to be judged; empty where they are not."""
    predictions, prepared = files.predictions, files.prepared
    if files.log_rates and predictions.outputs.max() > MOST_RATE:
        return f"log rates of up to {predictions.outputs.max():g}"
    both = max(float(np.abs(v).max()) for v in (predictions.outputs, predictions.targets))
    largest = both * prepared.std.max() + np.abs(prepared.mean).max() if prepared else both
    return "" if largest < MOST_VALUE else f"values of up to {largest:g}"


def _why(run: RunRecord) -> str:
    """Return the last warning or error in the log of a run that diverged or failed."""
    if not run.broke:
        return ""
    try:
        text = load(run.folder / LOG, lambda folder: (folder / LOG).read_bytes(), MOST_BYTES)
    except BROKEN:
        return ""
    text = text[-TAIL:].decode(errors="replace")
    found = re.findall(r"^\[[^]]*\]\[knobs\]\[(?:ERROR|WARNING)\] (.*)", text, re.MULTILINE)
    return found[-1].strip() if found else ""
