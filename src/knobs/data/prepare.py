"""From examples to Data: seeded, stratified splits, statistics of the training split alone."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data import tokenizer as by_tokenizer
from knobs.data.dataset import Augment, Data, Stream, Tensors
from knobs.data.inputs import BLOCK, Pictures, Table, moments
from knobs.data.preparation import Preparation, Target
from knobs.data.splits import of_validation
from knobs.data.texts import Counted, Texts, check, remarks
from knobs.errors import DataError
from knobs.shape import Shape

RARE = 2  # rows of a class that all stay in training
# Indices of the training, validation and test examples, increasing.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Targets:
    """y (N,) or (N, T): class numbers, labels 0 and 1 or standardised values; and what it means.

    Args:
        values: in their own unit, where y is standardised by the training split; else None.
    """

    y: Tensor
    target: Target
    values: np.ndarray | None = None


def split(y: np.ndarray, share: float, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices kept and those held out.

    Stratified: examples are shuffled, laid out class by class, and every 1/share-th is held out,
    so each class gives its share to within one example.

    Args:
        y: (N,) targets.
        share: 0 .. 1, of the examples to hold out.
        seed: of the shuffle.
        stratify: whether y holds classes.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    position = np.floor(np.arange(len(y) + 1) * share + 0.5)
    held = np.diff(position) > 0
    return np.sort(order[~held]), np.sort(order[held])


def three_way(
    y: np.ndarray, val: float, test: float, seed: int, task: str, official: int = 0
) -> Parts:
    """Return the indices of training, validation and test examples.

    A class of one or two examples stays in training as a whole, official examples aside.

    Args:
        val: share of all examples but the official ones for validation.
        test: share for test, where no example is official.
        official: number of examples at the end that are the official test split.
    """
    stratify = task == "classification"
    mine = len(y) - official
    test = 0.0 if official else test
    rest, held = split(y[:mine], test, seed, stratify)
    train, chosen = (
        rest[i] for i in split(y[rest], val / (1 - test), of_validation(seed) + 1, stratify)
    )
    if stratify:
        classes, counts = np.unique(y[:mine], return_counts=True)
        rare = np.flatnonzero(np.isin(y[:mine], classes[counts <= RARE]))
        if not np.isin(chosen, rare).all():  # else no row would be left to choose by
            train = np.union1d(train, rare)
            chosen, held = np.setdiff1d(chosen, rare), np.setdiff1d(held, rare)
    for name, part in (("training", train), ("validation", chosen)):
        if not len(part):
            raise DataError(
                f"no example is left for the {name} split; change data.val or data.test"
            )
    return train, chosen, np.arange(mine, len(y)) if official else held


def encode_targets(
    values: np.ndarray, train: np.ndarray, task: str, names: Sequence[str] = ("target",)
) -> Targets:
    """Number classes in sorted order; standardise regression targets by the training split.

    Args:
        values: (N,), or (N, T) where there are several targets.
        train: indices of the training examples.
        names: of the targets.

    Raises:
        DataError: a target that is the same everywhere, or names where numbers are needed.
    """
    if task == "classification":
        classes, numbers = np.unique(values, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"the target has one value only, {str(classes[0])!r}; nothing to learn")
        y = torch.from_numpy(numbers.astype(np.int64))
        return Targets(y, classes_of([str(c) for c in classes], names))
    if values.dtype.kind not in "biuf":
        names = f"a {task} needs numbers, and the targets are names, {values[0]!r} for one"
        raise DataError(f"{names}; use data.task=classification")
    columns = [column[train] for column in values.reshape(len(values), -1).T]
    for name, column in zip(names, columns, strict=True):
        if (column == column[0]).all():
            raise DataError(f"{name} is {column[0]:g} in every training row; nothing to learn")
    mean, std = np.zeros(len(names)), np.ones(len(names))
    if task == "regression":
        # numpy's pairwise sums, whose bits are those of every run so far.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.array([column.mean() for column in columns], np.float64)
            std = np.array([column.std() for column in columns], np.float64)
    for name, *both in zip(names, mean, std, strict=True):
        if not np.isfinite(both).all() or not both[1]:
            raise DataError(f"{name}: its numbers cannot be standardised; scale them")
    labels = tuple(names) if task == "multilabel" else ()
    target = Target(task, tuple(names), labels, mean, std)
    return Targets(target.encode(values), target, values if task == "regression" else None)


def classes_of(classes: Sequence[str], names: Sequence[str] = ("target",)) -> Target:
    """Return the meaning of class numbers."""
    return Target("classification", tuple(names), tuple(classes), np.zeros(1), np.ones(1))


def tensors(x: Tensor, y: Tensor, parts: Parts, weight: Tensor | None = None) -> list[Tensors]:
    """Return the splits of examples in memory: x (N, ...), y (N,) or (N, T), weights (N,)."""
    indices = map(torch.from_numpy, parts)
    return [Tensors(x[i], y[i], None if weight is None else weight[i], i) for i in indices]


def blocks(rows: Any) -> Iterator[Any]:
    """Yield rows, a list, a data frame or texts on the disk, in blocks to be prepared at once."""
    if hasattr(rows, "blocks"):
        yield from rows.blocks()
        return
    places = getattr(rows, "iloc", rows)
    for start in range(0, len(rows), BLOCK):
        yield places[start : start + BLOCK]


def prepared(inputs: Table | Texts, rows: Any) -> Tensor:
    """Return the tensor of all rows, a list or a data frame, prepared block by block."""
    return torch.cat([inputs.apply(block) for block in blocks(rows)])


def picture_splits(
    pixels: Tensor, y: Tensor, parts: Parts, unit: int = 255, inputs: Pictures | None = None
) -> tuple[Pictures, list[Tensors]]:
    """Return the splits of pictures (N, C, H, W) in memory, and their preparation.

    Args:
        unit: the pixel value that counts as 1.
        inputs: their preparation, where it is given; None: by the training split.
    """
    inputs = inputs or Pictures.fit([pixels], parts[0], unit)
    indices = map(torch.from_numpy, parts)
    return inputs, [Tensors(inputs.apply(pixels[i]), y[i], rows=i) for i in indices]


def standardize(x: Tensor, train: np.ndarray) -> Tensor:
    """Return (x - mean) / std by feature (N, F) or channel (N, C, H, W); a constant stays 0.

    Args:
        train: indices of the examples that give mean and std.
    """
    mean, std = moments(x[torch.from_numpy(train)])
    return (x - mean) / std


def content_hash(
    parts: Sequence[np.ndarray], *content: Tensor | np.ndarray | Path | bytes | Sequence[str] | str
) -> str:
    """Hash raw content and the split: 32 hexadecimal digits, whatever machine and path.

    The raw content, and not the tensors made of it: sums round otherwise with other threads.

    Args:
        content: arrays, texts, and files, of which the bytes count and not the names; a file's
            SHA-256 says the same.
    """
    digest = hashlib.sha256()
    for part in (*parts, *content):
        if isinstance(part, Path):
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").digest()
        elif isinstance(part, bytes):
            found = part
        elif isinstance(part, Tensor | np.ndarray):
            values = np.ascontiguousarray(np.asarray(part))
            digest.update(f"{values.dtype.str} {values.shape}".encode())
            found = hashlib.sha256(values.data).digest()
        else:
            texts = [part] if isinstance(part, str) else part
            encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
            lengths = np.array([len(text) for text in encoded], "<i8").tobytes()
            found = hashlib.sha256(lengths + b"".join(encoded)).digest()
        digest.update(found)
    return digest.hexdigest()[:32]


def make_data(
    name: str, kind: str, task: str, splits: Sequence[Tensors | Stream], targets: Targets,
    shape: Sequence[int], vocabulary: int = 0, augment: dict | None = None,
    inputs: Table | Pictures | Texts | None = None, hash: str = "", notes: Sequence[str] = (),
    folds: int | None = None,
) -> Data:  # fmt: skip
    """Return Data of the training, validation and test split, whatever they are made of.

    Args:
        shape: of one example.
        vocabulary: number of token ids; 0 where there is no text.
        augment: as `augmentation` has it.
        inputs: what made the tensors from raw rows, where it is known; it is saved with each run.
        hash: of `content_hash`; a resumed run compares it. Empty: nothing is compared.
        notes: on how the source was read.
        folds: their number; None where the rows are not shared out in folds.
    """
    target = targets.target
    numbers = inputs.standardised if isinstance(inputs, Table) else 0
    return Data(
        name, kind, task,
        Shape(tuple(shape), len(target.classes) or len(target.names), vocabulary, numbers), *splits,
        classes=list(target.classes),
        target_mean=torch.from_numpy(target.mean), target_std=torch.from_numpy(target.std),
        augment=augmentation(augment or {}, inputs),
        preparation=inputs and Preparation(inputs, target), hash=hash, notes=[*notes],
        rows_hash={s: rows_hash(targets, splits[i]) for i, s in ((1, "val"), (2, "test"))},
        all_y=_outside(targets.y, splits[2]) if folds else None,
    )  # fmt: skip


def augmentation(given: dict, inputs: Table | Pictures | Texts | None) -> Augment | None:
    """Return what changes training pictures by draws; None where nothing does.

    Args:
        given: crop and flip, see Augment; transforms, see augmenting.py.
    """
    if not any(given.values()):
        return None
    from knobs.data.augmenting import named  # late, as it is rare

    rest = {name: value for name, value in given.items() if name != "transforms"}
    return Augment(**rest, more=named(given.get("transforms") or (), inputs))


def rows_hash(targets: Targets, split: Tensors | Stream) -> str:
    """Hash the rows of a split and their targets: the same, whatever else of the data changes.

    Of other columns, another cut of the other splits or another preparation it does not know: a
    model is judged on the same rows. Empty where the split does not number its rows.
    """
    if split.rows is None:
        return ""
    target, rows = targets.target, split.rows
    y = targets.y[rows] if targets.values is None else targets.values[rows.numpy()]
    return content_hash((rows.numpy(),), y, [target.task, *target.names, *target.classes])


def _outside(y: Tensor, test: Tensors | Stream) -> Tensor:
    """Return the targets of the rows that are not of the test split."""
    mine = torch.ones(len(y), dtype=torch.bool)
    mine[test.rows] = False
    return y[mine]


def text_data(
    name: str, kind: str, task: str, texts: list[str], values: np.ndarray, parts: Parts,
    *, ngrams: int, max_length: int | str, max_vocabulary: int, min_count: int,
    names: Sequence[str] = ("target",), weight: Tensor | None = None, hash: str = "",
    column: str = "text", folds: int | None = None, tokenizer: str | None = None,
    place: Callable[..., list[Tensors]] | None = None,
) -> Data:  # fmt: skip
    """Return Data of texts, the vocabulary and the length taken from the training split.

    Args:
        texts: or an object whose `blocks` yields them, for texts on the disk.
        values: (N,) or (N, T) targets of `names`, as the task has them.
        max_length: tokens, or `auto`.
        column: of the texts, for messages.
        folds: their number; with them the length is taken from all rows outside the test split,
            so that every fold has the same.
        tokenizer: the folder of a network of transformers, whose own is used; None for words.
        place: makes the splits, as `mapped.splits` does; None: in memory.

    Raises:
        DataError: a target that never changes, or texts that a vocabulary says nothing of.
    """
    targets = encode_targets(values, parts[0], task, names)
    outside = np.setdiff1d(np.arange(len(texts)), parts[2]) if folds else parts[0]
    if tokenizer:
        inputs, lengths = by_tokenizer.fit(tokenizer, blocks(texts), outside, max_length)
        told = [by_tokenizer.note(inputs, lengths, tokenizer)]
    else:
        counted, told = Counted.of(blocks(texts), parts[0], ngrams), []
        lengths = Counted.of(blocks(texts), outside, ngrams).lengths if folds else counted.lengths
        inputs = Texts.by_counts(counted, ngrams, max_length, max_vocabulary, min_count, lengths)
        check(inputs, counted, column, min_count, max_vocabulary)
        lengths = counted.lengths
    hash = hash or content_hash(parts, texts, values)
    shape, size = (inputs.length,), len(inputs.tokens) + 2
    if place:
        splits = place(inputs, targets, lambda: blocks(texts), parts, weight, hash, shape)
    else:
        splits = tensors(prepared(inputs, texts), targets.y, parts, weight)
    data = make_data(
        name, kind, task, splits, targets, shape, size, inputs=inputs, hash=hash, folds=folds
    )
    seen = [split.x for split in splits]
    return replace(data, notes=[*told, *remarks(inputs, lengths, seen, column)])
