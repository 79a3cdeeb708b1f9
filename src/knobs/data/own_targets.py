"""Targets of one's own: checked for the task, named, in splits; and the weights of their rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.examples import Examples
from knobs.data.folds import folded
from knobs.data.images import folder_parts
from knobs.data.prepare import Parts, Targets, classes_of, encode_targets, three_way
from knobs.data.rows import MOST_WEIGHT
from knobs.errors import DataError
from knobs.words import listed


def as_task(read: Mapping[str, Examples], place: str, task: str) -> np.ndarray:
    """Return the targets of all rows, checked for the task.

    Raises:
        DataError: of another shape or kind than the task has, naming a row.
    """
    try:
        y = np.concatenate([e.y for e in read.values()])
    except ValueError:
        raise DataError(f"{place}: targets of the splits differ in shape") from None
    shape = f"{place}: y has shape {y.shape}"
    if task == "classification" and y.ndim != 1:
        raise DataError(f"{shape}: a classification has one class a row, (N,); of one-hot rows "
                        "return y.argmax(1), or use task: multilabel")  # fmt: skip
    if task == "multilabel" and (
        y.ndim != 2 or y.dtype.kind == "U" or not np.isin(y, (0, 1)).all()
    ):
        raise DataError(f"{shape}: a multilabel has 0 or 1 for each label, (N, L)")
    if task == "regression" and (y.ndim > 2 or y.dtype.kind == "U"):
        raise DataError(f"{shape} of {y.dtype}: a regression has numbers, (N,) or (N, T)")
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            row = int(np.argwhere(~np.isfinite(y))[0][0])
            raise DataError(f"{place}: y of row {row} is {y[row]}; leave rows without target out")
        if task == "classification":
            if (broken := np.flatnonzero(y != np.floor(y))).size:
                fix = "a class is a whole number or a name; task: regression takes numbers"
                raise DataError(f"{place}: y of row {broken[0]} is {y[broken[0]]:g}; {fix}")
            y = y.astype(np.int64)
    if task != "classification":
        return y.astype(np.float64)
    return y.astype(np.int64) if y.dtype.kind in "iu" else y


def names_of(
    read: Mapping[str, Examples], y: np.ndarray, place: str, options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the names of classes or labels in the order of their numbers; empty: none are known.

    Raises:
        DataError: labels that no class has, or names that are none.
    """
    said = {e.classes for e in read.values()}
    names = tuple(map(str, options["classes"] or ())) or (said.pop() if len(said) == 1 else ())
    if len(set(names)) != len(names) or len(names) == 1:
        raise DataError(f"data.classes={list(names)}: must be two names or more, each once")
    if options["task"] == "multilabel":
        if names and len(names) != y.shape[1]:
            raise DataError(f"{place}: {len(names)} names of labels, and y has {y.shape[1]}")
        return names
    if options["task"] != "classification":
        if options["classes"]:
            raise DataError(f"data.classes={list(names)}: a regression has none; leave it out")
        return ()
    if y.dtype.kind == "U":
        if names and (odd := np.flatnonzero(~np.isin(y, names))).size:
            raise DataError(
                f"{place}: y of row {odd[0]} is {y[odd[0]]}: not one of {listed(names)}"
            )
        return names
    low, high = int(y.min()), int(y.max())
    if names and (low < 0 or high >= len(names)):
        row = int(np.flatnonzero((y < 0) | (y >= len(names)))[0])
        must = f"must be 0 .. {len(names) - 1}, the numbers of {listed(names)}"
        raise DataError(f"{place}: y of row {row} is {y[row]}: {must}")
    if low < 0 and set(np.unique(y)) != {-1, 1}:  # -1 and 1 are two classes of old
        row = int(np.flatnonzero(y < 0)[0])
        fix = "leave out rows without a label; classes are 0, 1, ... or names"
        raise DataError(f"{place}: y of row {row} is {y[row]}; {fix}")
    return names


def columns_of(y: np.ndarray, options: Mapping[str, Any]) -> list[str]:
    """Return the names of the targets (N,) or (N, T)."""
    if y.ndim == 1:
        return [options["target"] or "target"]
    return [f"y{i}" for i in range(y.shape[1])]


def encoded(
    y: np.ndarray, train: np.ndarray, classes: tuple[str, ...], options: Mapping, place: str
) -> Targets:
    """Return the targets as tensors; classes with names keep the order of these.

    Raises:
        DataError: a target that never changes.
    """
    names = columns_of(y, options)
    try:
        if options["task"] != "classification" or not classes:
            return encode_targets(y, train, options["task"], classes or names)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    numbers = y
    if y.dtype.kind == "U":
        places = {name: i for i, name in enumerate(classes)}
        numbers = np.array([places[str(label)] for label in y])
    return Targets(torch.from_numpy(numbers.astype(np.int64)), classes_of(classes, names))


def parts_of(
    y: np.ndarray, origin: np.ndarray, read: Mapping[str, Examples], options: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[Parts, list[str]]:  # fmt: skip
    """Return the rows of each split, and notes on them.

    Raises:
        DataError: a split without rows, or folds beside a validation split.
    """
    task, seed = options["task"], options["split_seed"]
    val, test, folds = options["val"], options["test"], options["folds"]
    unread = [f"data.{n}" for n in ("val", "test") if n in read and settings.get(n) is not None]
    notes = [f"{listed(unread)} of no effect: the data have such splits"] if unread else []
    if folds and "val" in read:
        raise DataError(f"data.folds={folds}: the data have a validation split of their own; "
                        "leave data.folds out, or join it to train")  # fmt: skip
    if "val" in read:
        classes = task == "classification"
        split = folder_parts(y, origin, {*read}, val, test, seed, classes, what="row")
    else:
        official = int((origin == "test").sum())
        split = three_way(y, val, test, seed, task, official)
    split, more = folded(split, y, task, folds, options["fold"], seed)
    return split, [*notes, *more]


def weights_of(given: Sequence[np.ndarray | None], split: Parts, place: str) -> Tensor | None:
    """Return (N,) float32 weights of all rows; None where no split has any.

    Raises:
        DataError: a weight that is none, or every one of a split is 0.
    """
    if all(weight is None for weight in given):
        return None
    if any(weight is None for weight in given):
        raise DataError(f"{place}: some splits have weights, others have none")
    weights = np.concatenate(given).astype(np.float64)
    wrong = np.flatnonzero(~((weights >= 0) & (weights <= MOST_WEIGHT)))
    if weights.ndim != 1 or wrong.size:
        at = f" (row {wrong[0]} has {weights[wrong[0]]})" if weights.ndim == 1 else ""
        raise DataError(f"{place}: weights must be (N,) numbers from 0 to {MOST_WEIGHT:g}{at}")
    for name, rows in zip(("training", "validation", "test"), split, strict=True):
        if len(rows) and not weights[rows].any():
            raise DataError(f"{place}: every weight of the {name} split is 0; some must be above 0")
    return torch.from_numpy(weights.astype(np.float32))


def hashable(values: np.ndarray) -> Any:
    """Return an array as `content_hash` takes it: texts as a list."""
    return [*map(str, values.flat)] if values.dtype.kind in "OU" else values
