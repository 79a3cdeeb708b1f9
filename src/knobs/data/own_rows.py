"""Rows of one's own in memory, or read as needed -> Data: prepared, hashed, in splits."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data import own_targets
from knobs.data.dataset import Data, Inputs, Stream, Tensors
from knobs.data.examples import Examples, Reader, apply_each, joined, likeness, nth, parts
from knobs.data.inputs import Pictures, Table, moments
from knobs.data.prepare import Parts, Targets, content_hash, make_data, text_data
from knobs.errors import DataError
from knobs.words import listed

SAMPLE = 1000  # training items, evenly spread, that give a streamed set its statistics
GLANCES = 64  # items of a streamed set whose content is hashed
CHANNELS = (1, 3, 4)  # of a picture


@dataclass(frozen=True)
class Rows:
    """All rows of a source, the training split's first, but for their inputs.

    Args:
        place: of the source, for messages.
        options: every setting.
        y: raw targets. targets: as the run has them. classes: their names, if any are known.
        split: rows of each split.
        weight: (N,) or None.
        notes: on how they were read.
    """

    place: str
    options: Mapping[str, Any]
    y: np.ndarray
    targets: Targets
    classes: tuple[str, ...]
    split: Parts
    weight: Tensor | None
    notes: list[str]

    def hash(self, *content: Any) -> str:
        """Hash content, the targets and the split."""
        return content_hash(self.split, *content, own_targets.hashable(self.y), [*self.classes])


def data_of(
    read: Mapping[str, Examples], place: str, options: Mapping[str, Any], given: Mapping[str, Any]
) -> Data:
    """Return Data of examples.

    Args:
        read: split -> its examples; `train` alone where nothing is split.
        given: the settings that a YAML has.

    Raises:
        DataError: inputs, targets or weights that cannot be used, naming a row where one is.
    """
    y = own_targets.as_task(read, place, options["task"])
    classes = own_targets.names_of(read, y, place, options)
    origin = np.repeat([*read], [len(e.y) for e in read.values()])
    split, notes = own_targets.parts_of(y, origin, read, options, given)
    targets = own_targets.encoded(y, split[0], classes, options, place)
    weight = own_targets.weights_of([e.weight for e in read.values()], split, place)
    notes = [*(note for e in read.values() for note in e.notes), *notes]
    rows = Rows(place, options, y, targets, classes, split, weight, notes)
    xs = [e.x for e in read.values()]
    kinds = {type(x) if isinstance(x, list | Reader) else Tensor for x in xs}
    if len(kinds) > 1:
        fix = "return the same for each; data.memory_gib=0 reads all of them as needed"
        raise DataError(f"{place}: splits of several kinds, in memory, random, or texts; {fix}")
    if kinds == {list}:
        return _texts([text for x in xs for text in x], rows)
    like = [x.like if isinstance(x, Reader) else likeness_of_rows(x) for x in xs]
    if odd := [name for name, one in zip(read, like, strict=True) if one != like[0]]:
        raise DataError(f"{place}: inputs of {odd[0]} are not of the shape and type of train's")
    return _streamed(xs, rows) if kinds == {Reader} else _gathered(joined(xs), rows)


def likeness_of_rows(x: Inputs) -> dict[str, tuple]:
    """Return what the rows of splits must share: the shape and the type of each input."""
    return likeness(x[:1].squeeze(0) if isinstance(x, Tensor) else {k: v[0] for k, v in x.items()})


def _texts(texts: list[str], rows: Rows) -> Data:
    """Return Data of texts, as a table of texts gives it."""
    options, y = rows.options, rows.y
    if options["kind"] != "text":
        raise DataError(f"data.kind={options['kind']}: {rows.place} returns texts; use kind: text")
    if rows.classes and options["task"] == "classification" and y.dtype.kind != "U":
        y = np.array(rows.classes)[y]
    names = own_targets.columns_of(y, options)
    if options["task"] == "multilabel" and rows.classes:
        names = list(rows.classes)
    keys = ("name", "kind", "task", "ngrams", "max_length", "max_vocabulary", "min_count", "folds",
            "tokenizer")  # fmt: skip
    data = text_data(
        texts=texts, values=y, parts=rows.split, weight=rows.weight, names=names,
        hash=rows.hash(texts), **{key: options[key] for key in keys},
    )  # fmt: skip
    return replace(data, notes=[*rows.notes, *data.notes])


# ------------------------------------------------------------------ in memory
def _gathered(x: Inputs, rows: Rows) -> Data:
    """Return Data of tensors in memory."""
    kind, scaled, notes = rows.options["kind"], rows.options["normalize"], []
    content = rows.hash(*parts(x).values(), [*parts(x)])
    if isinstance(x, Tensor):
        x, notes = _oriented(x, kind, rows.place)
    _finite(x, rows.place, kind)
    inputs = _fitted(x, rows.split[0], rows.options)
    if isinstance(inputs, Table):
        ready: Inputs = inputs.apply(_columns(x))
        if lacking := int(x.isnan().sum()):
            notes = [*notes, f"{lacking:,} missing numbers, taken as the training median"]
    elif inputs:
        ready = inputs.apply(x)
    else:
        train = torch.from_numpy(rows.split[0])
        scales = {name: _scale(values[train], scaled) for name, values in parts(x).items()}
        ready = apply_each(scales, x)
    splits = []
    for i in map(torch.from_numpy, rows.split):
        some = {name: values[i] for name, values in parts(ready).items()}
        weight = None if rows.weight is None else rows.weight[i]
        splits.append(Tensors(some.get("", some), rows.targets.y[i], weight, i))
    notes = [*rows.notes, *notes, *_told(x, scaled)]
    return _made(splits, ready, rows, inputs, content, notes)


def _fitted(x: Inputs, train: np.ndarray, options: Mapping[str, Any]) -> Table | Pictures | None:
    """Return what prepares rows of numbers (N, F), or pictures; None of other inputs.

    Raises:
        DataError: numbers too large, or an encoding for what is no row of numbers.
    """
    kind, encoding = options["kind"], options["numbers"]
    inputs: Any = None
    if isinstance(x, Tensor) and kind == "table" and x.ndim == 2:
        inputs = Table.fit([_columns(x)], train, single=True, encoding=encoding)
    elif encoding != "standard":
        raise DataError(f"data.numbers={encoding}: is for rows of numbers (N, F); leave it out")
    elif isinstance(x, Tensor) and kind == "image":
        inputs = Pictures.fit([x], train, 255 if x.dtype == torch.uint8 else 1)
    if inputs and not options["normalize"]:
        unit = {"mean": np.zeros_like(inputs.mean), "scale": np.ones_like(inputs.scale)}
        inputs = replace(inputs, **unit)
    return inputs


def _columns(x: Tensor) -> dict[str, np.ndarray]:
    return {f"x{i}": column for i, column in enumerate(x.numpy().T)}


def _oriented(x: Tensor, kind: str, place: str) -> tuple[Tensor, list[str]]:
    """Return pictures as (N, C, H, W), single numbers as (N, 1), and a note where they were not."""
    if kind == "table" and x.ndim == 1:
        return x[:, None], []
    if kind == "text" and (x.ndim != 2 or x.is_floating_point() or x.min() < 0):
        raise DataError(f"{place}: x of shape {tuple(x.shape)}, {x.dtype}: kind: text takes texts, "
                        "or token ids (N, tokens), whole numbers from 0 on")  # fmt: skip
    if kind != "image":
        return x, []
    if x.ndim == 3:
        return x[:, None], []
    if x.ndim != 4:
        raise DataError(f"{place}: x of shape {tuple(x.shape)}: kind: image takes (N, C, H, W); "
                        "use kind: table for other shapes")  # fmt: skip
    if x.shape[1] not in CHANNELS and x.shape[3] in CHANNELS:
        return x.permute(0, 3, 1, 2).contiguous(), ["pictures (N, H, W, C) taken as (N, C, H, W)"]
    return x, []


def _finite(x: Inputs, place: str, kind: str) -> None:
    """Refuse numbers that are not finite; of a table (N, F) a NaN is a missing number."""
    for name, values in parts(x).items():
        if not values.is_floating_point():
            continue
        table = kind == "table" and isinstance(x, Tensor) and values.ndim == 2
        wrong = values.isinf() if table else ~values.isfinite()
        if wrong.any():
            row, *at = wrong.nonzero()[0].tolist()
            what = f"{name or 'x'} of row {row} is {values[(row, *at)].item()}"
            raise DataError(f"{place}: {what} at {at}; numbers must be finite")


def _scale(sample: Tensor, scaled: bool) -> functools.partial:
    """Return what turns an input into what the network takes: numbers standardised.

    uint8 pixels of four dimensions count 1 at 255; other whole numbers are ids, as they are.
    """
    pixels = sample.dtype == torch.uint8 and sample.ndim >= 4
    if not (sample.is_floating_point() or pixels):
        return functools.partial(_scaled, mean=None, std=None, unit=1)
    unit = 255 if pixels else 1
    if not scaled:
        return functools.partial(_scaled, mean=torch.zeros(1), std=torch.ones(1), unit=unit)
    mean, std = moments(sample.float() / unit)
    return functools.partial(_scaled, mean=mean, std=std, unit=unit)


# A function of the module, so that worker processes can receive it.
def _scaled(x: Tensor, mean: Tensor | None, std: Tensor | None, unit: int) -> Tensor:
    if mean is None:
        return x.long()
    return (x.float() / unit - mean.to(x.device)) / std.to(x.device)


def _told(x: Inputs, scaled: bool) -> list[str]:
    """Return a note on the normalization of one's own inputs."""
    numbers = [n for n, v in parts(x).items() if v.is_floating_point() or v.ndim >= 4]
    if not numbers:
        return ["whole numbers are taken as ids, as they are"]
    which = "inputs" if isinstance(x, Tensor) else listed(numbers)
    if scaled:
        return [f"{which} standardised by the training split; data.normalize=false leaves them"]
    return [f"{which} as they are (data.normalize=false)"]


# ------------------------------------------------------------------ as needed
def _streamed(xs: Sequence[Reader], rows: Rows) -> Data:
    """Return Data whose items are read when their batch is due."""
    options, train = rows.options, rows.split[0]
    starts = np.concatenate([[0], np.cumsum([len(x.dataset) for x in xs])[:-1]])
    some = train[:: -(-len(train) // SAMPLE)]
    sample = [nth(xs, starts, some, (i, i)) for i in range(len(some))]
    x = {name: torch.stack([parts(one)[name] for one in sample]) for name in parts(sample[0])}
    whole: Inputs = x.get("", x)
    _finite(whole, rows.place, "streamed")
    inputs = None
    if options["kind"] == "image" and isinstance(whole, Tensor) and whole.ndim == 4:
        inputs = _fitted(whole, np.arange(len(some)), options)
        normalize: Any = inputs.apply
    else:
        scales = {name: _scale(values, options["normalize"]) for name, values in x.items()}
        normalize = functools.partial(apply_each, scales)
    varies = any(reader.random for reader in xs)
    glances = [] if varies else [values[:GLANCES] for values in x.values()]
    splits = []
    for part in rows.split:
        examples = functools.partial(nth, xs, starts, part)
        i = torch.from_numpy(part)
        weight = None if rows.weight is None else rows.weight[i]
        y, workers = rows.targets.y[i], options["workers"]
        splits.append(Stream(examples, y, normalize, workers, weight=weight, rows=i, random=varies))
    notes = [*rows.notes, *_told(whole, options["normalize"])]
    content = rows.hash([str(xs[0].like)], *glances)
    return _made(splits, normalize(whole), rows, inputs, content, notes)


def _made(
    splits: Sequence[Tensors | Stream], ready: Inputs, rows: Rows, inputs: Table | Pictures | None,
    content: str, notes: list[str],
) -> Data:  # fmt: skip
    """Return Data, its shape that of the prepared inputs."""
    options, several = rows.options, not isinstance(ready, Tensor)
    shapes = {name: tuple(values.shape[1:]) or (1,) for name, values in parts(ready).items()}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    shape = (sum(sizes),) if several else shapes[""]
    vocabulary = int(ready.max()) + 1 if options["kind"] == "text" and not several else 0
    augment = options["augment"] or {}
    if any(augment.values()) and (several or len(shape) != 3):
        raise DataError(f"data.augment={augment}: is for pictures (N, C, H, W); leave it out")
    data = make_data(
        options["name"], options["kind"], options["task"], splits, rows.targets, shape, vocabulary,
        augment=augment, inputs=inputs, hash=content, notes=notes, folds=options["folds"],
    )  # fmt: skip
    return replace(data, shape=replace(data.shape, parts=shapes)) if several else data
