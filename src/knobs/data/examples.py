"""Datasets, arrays and tensors of one's own -> examples: inputs, targets and weights, row by row.

A dataset is whatever has `len` and takes row numbers: torch's map-style datasets, those of Hugging
Face, a list. Its items are (x, y), or a dict with a target. Items that are drawn at random (a
transform that augments) are told by reading some twice; their draws follow from their batch.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Inputs
from knobs.errors import DataError, UserError, first_line, for_a_person
from knobs.words import listed

TARGETS = ("label", "labels", "target", "targets", "y", "class")  # of a dict, unless data.target
PROBED = 16  # items that are read twice
TEXT = {"": ("a text",)}  # the likeness of items that are texts
WAY = (
    "return a map-style Dataset, (x, y) arrays or tensors, a DataFrame, or a dict of such by split"
)
ITERABLE = (
    "can only be read in order, and splits, shuffling and resuming take items by number; return a "
    "map-style Dataset, with __getitem__ and __len__, or list(it) if memory holds it"
)


@dataclass(frozen=True)
class Reader:
    """Row number -> inputs and target of a dataset's item, each of them of one shape.

    Args:
        place: of the dataset, for messages.
        target: key of the target in an item that is a dict; None: the one of TARGETS.
        drop: keys of a dict that are no input.
        like: name -> (shape, type) of the inputs; None: not known yet.
        random: whether items are drawn at random.
    """

    dataset: Any
    place: str
    target: str | None = None
    drop: Sequence[str] = ()
    like: Mapping[str, tuple] | None = None
    random: bool = False

    def __call__(self, index: int | tuple[int, int]) -> Any:
        """Return the inputs of an item; of one that is random, from (row, seed)."""
        return self.item(*index)[0] if isinstance(index, tuple) else self.item(index)[0]

    def item(self, index: int, seed: int | None = None) -> tuple[Any, Any]:
        """Return inputs and target.

        Raises:
            DataError: naming the item that raised, is of another shape, or no item at all.
        """
        try:
            with contextlib.nullcontext() if seed is None else seeded(seed):
                found = self.dataset[index]
        except Exception as error:  # code of one's own raises anything
            if isinstance(fault := for_a_person(error), UserError):
                raise fault from None
            said = f"raised {type(error).__name__}: {first_line(error)}"
            raise DataError(f"{self.place}: item {index} {said}") from None
        try:
            x, y = self._halves(found)
            x = inputs_of(x)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.place}: item {index}: {error}") from None
        if self.like is not None and (mine := likeness(x)) != self.like:
            one, other = (listed([f"{n} {k}".strip() for n, k in part.items()]) for part in
                          (mine, self.like))  # fmt: skip
            fix = "resize, crop or pad them to one shape, in the dataset or its transform"
            raise DataError(f"{self.place}: item {index} is {one}, others are {other}; {fix}")
        return x, y

    def _halves(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            keys = [self.target] if self.target else [key for key in TARGETS if key in item]
            if len(keys) != 1 or keys[0] not in item:
                raise ValueError(f"which key is the target? it has {listed([*map(str, item)])}; "
                                 "set data.target")  # fmt: skip
            if lacks := [name for name in self.drop if name not in item]:
                raise ValueError(
                    f"data.drop: no key {lacks[0]}; it has {listed([*map(str, item)])}"
                )
            rest = {k: v for k, v in item.items() if k != keys[0] and k not in self.drop}
            if not rest:
                raise ValueError("no input is left beside the target")
            return next(iter(rest.values())) if len(rest) == 1 else rest, item[keys[0]]
        if self.drop:
            raise ValueError(f"data.drop={list(self.drop)}: is for items that are a dict")
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise ValueError(f"a {type(item).__name__}; must be (x, y), or a dict with a target")
        *x, y = item
        return x[0] if len(x) == 1 else tuple(x), y


@dataclass(frozen=True)
class Examples:
    """Rows of one split as a data function has them.

    Args:
        x: inputs of all rows; texts; or what reads an item, where memory is not to hold them.
        y: (N,) or (N, T).
        weight: (N,) or None.
        classes: their names in the order of the numbers in y; empty where nothing says them.
        notes: on how they were read.
    """

    x: Inputs | list[str] | Reader
    y: np.ndarray
    weight: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def of_arrays(x: Any, y: Any, weight: Any, place: str) -> Examples:
    """Return the examples of arrays, tensors, lists; x may be several, by name or in a tuple.

    Raises:
        DataError: lengths that differ, or what is no array of numbers.
    """
    if len(x := list(x) if isinstance(x, Sequence) and not isinstance(x, tuple) else x) == 0:
        raise DataError(f"{place}: x has no rows")
    try:
        texts = isinstance(x, list | np.ndarray) and isinstance(x[0], str)
        made = [str(text) for text in x] if texts else inputs_of(x)
        y, weight = targets_of(y), None if weight is None else targets_of(weight)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}") from None
    counts = (
        {"x": len(made)} if not isinstance(made, dict) else {k: len(v) for k, v in made.items()}
    )
    counts |= {"y": len(y)} | ({} if weight is None else {"weight": len(weight)})
    if len({*counts.values()}) > 1:
        told = listed([f"{name} {n:,}" for name, n in counts.items()])
        raise DataError(f"{place}: rows of {told}: must be as many of each")
    return Examples(made, y, weight)


def of_dataset(
    dataset: Any, place: str, target: str | None, drop: Sequence[str], memory_gib: float
) -> Examples:
    """Return the examples of a map-style dataset, in memory up to a size, else read as needed.

    Raises:
        DataError: no items by number, items that differ in shape, what is no item.
    """
    count = length(dataset, place)
    some = np.unique(np.linspace(0, count - 1, min(count, PROBED)).astype(int)).tolist()
    read = Reader(dataset, place, target, drop)
    first = [read.item(i, seed=i) for i in some]
    like = likeness(first[0][0])
    read = replace(read, like=like, random=_varies(read, some, [x for x, _ in first]))
    size = 0 if like == TEXT else sum(v.nbytes for v in parts(first[0][0]).values()) * count
    notes = []
    if read.random or size > memory_gib * 2**30:
        told = "drawn anew in each epoch, as its items are random" if read.random else (
            f"{size / 2**30:.1f} GiB, read from the dataset batch by batch")  # fmt: skip
        notes.append(f"{place}: {told}")
        x: Any = read
        y = _listed_targets(dataset, dict(zip(some, (y for _, y in first), strict=True)))
        y = [read.item(i)[1] for i in range(count)] if y is None else y
    else:
        pairs = [read.item(i) for i in range(count)]
        texts = [x for x, _ in pairs]
        x, y = texts if like == TEXT else stacked(texts), [y for _, y in pairs]
    try:
        return Examples(x, targets_of(y), None, class_names(dataset, target), notes)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}") from None


def _varies(read: Reader, some: Sequence[int], first: Sequence[Any]) -> bool:
    """Return whether items are drawn at random.

    Raises:
        DataError: from a generator that no global seed sets.
    """
    if all(same(x, read.item(i, seed=i + 2**31)[0]) for i, x in zip(some, first, strict=True)):
        return False
    if not all(same(x, read.item(i, seed=i)[0]) for i, x in zip(some, first, strict=True)):
        own = "its items are random, and no seed sets their draws"
        fix = "draw from the global generators of torch, numpy or random"
        raise DataError(f"{read.place}: {own}; {fix}")
    return True


def _listed_targets(dataset: Any, known: Mapping[int, Any]) -> Any:
    """Return `targets` of a dataset, which saves reading all items; None where they are not sure.

    Args:
        known: item -> its target, as it was read.
    """
    found = getattr(dataset, "targets", None)
    if getattr(dataset, "target_transform", None) is not None or not isinstance(
        found, list | Tensor | np.ndarray
    ):
        return None
    sure = len(found) == len(dataset) and all(
        np.array_equal(np.asarray(found[i]), np.asarray(y)) for i, y in known.items()
    )
    return found if sure else None


def length(dataset: Any, place: str) -> int:
    """Return the number of items.

    Raises:
        DataError: it has no length or no items by number, or none at all.
    """
    iterable = isinstance(dataset, torch.utils.data.IterableDataset)
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise DataError(f"{place}: is a DataLoader; return its dataset: knobs makes the batches")
    if (isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__")) or iterable:
        raise DataError(f"{place}: a {type(dataset).__name__} {ITERABLE}")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        lacks = "__len__" if hasattr(dataset, "__getitem__") else "items"
        raise DataError(f"{place}: a {type(dataset).__name__} has no {lacks}; {WAY}")
    if not (count := len(dataset)):
        raise DataError(f"{place}: has no items")
    return count


def class_names(dataset: Any, target: str | None) -> tuple[str, ...]:
    """Return the names of classes that a dataset says; empty where it says none.

    `classes` as torchvision has it, of what a Subset is of too; the names of Hugging Face's label.
    """
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        keys = [target] if target else [key for key in TARGETS if key in features]
        names = getattr(features.get(keys[0]), "names", None) if keys else None
    else:
        names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and len({*map(str, names)}) == len(names) > 1:
        return tuple(map(str, names))
    inner = getattr(dataset, "dataset", None)
    return () if inner is None else class_names(inner, target)


# ------------------------------------------------------------------ values
def inputs_of(x: Any) -> Any:
    """Return inputs as a tensor, several by name: `x0`, `x1` of a tuple; or a text as it is.

    Raises:
        TypeError, ValueError: what is no array of numbers.
    """
    if isinstance(x, str):
        return x
    if isinstance(x, tuple):
        x = {f"x{i}": part for i, part in enumerate(x)}
    if isinstance(x, Mapping):
        made = {str(name): tensor(part, str(name)) for name, part in x.items()}
        return made if len(made) > 1 else next(iter(made.values()))
    return tensor(x, "x")


def tensor(value: Any, name: str) -> Tensor:
    """Return numbers or a picture as a tensor: float32, int64 or uint8; a picture as (C, H, W)."""
    if hasattr(value, "convert") and hasattr(value, "mode"):  # of Pillow
        if value.mode in ("I", "F") or value.mode.startswith("I;"):  # more than 8 bits
            return torch.from_numpy(np.array(value).astype(np.float32)[None])
        value = value if value.mode in ("L", "RGB") else value.convert("RGB")
        pixels = np.array(value)
        return torch.from_numpy(
            pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy()
        )
    if isinstance(value, str):
        fix = "leave it out by data.drop, or make numbers of it"
        raise TypeError(f"{name} is a text, {value[:40]!r}; {fix}")
    if not isinstance(value, Tensor):
        values = np.asarray(value)
        if values.dtype.kind not in "biuf":
            kind = (
                "lists of several lengths, or objects" if values.dtype == object else values.dtype
            )
            raise TypeError(f"{name} is a {type(value).__name__} of {kind}; must be numbers")
        if values.dtype.kind == "u" and values.dtype != np.uint8:
            values = values.astype(np.int64)
        value = torch.from_numpy(
            np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))
        )
    value = value.detach().cpu()
    if value.is_complex() or value.layout != torch.strided:
        raise TypeError(f"{name} is {value.dtype} {value.layout}; must be dense real numbers")
    if value.dtype == torch.uint8:
        return value
    return value.float() if value.is_floating_point() or value.dtype == torch.bool else value.long()


def targets_of(y: Any) -> np.ndarray:
    """Return targets (N,) or (N, T): numbers, or names as texts.

    Raises:
        TypeError: a target is missing, or is neither.
    """
    if isinstance(y, list):
        y = [v.tolist() if isinstance(v, Tensor | np.ndarray | np.generic) else v for v in y]
    values = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if values.dtype == object and all(isinstance(v, str) for v in values.flat):
        values = values.astype(str)
    if values.dtype.kind not in "biufU" or values.ndim == 0:
        raise TypeError("y must be a number, a name, or one list of numbers for each row")
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def parts(x: Inputs) -> dict[str, Tensor]:
    """Return the inputs by name; of a single one, "" is the name."""
    return {"": x} if isinstance(x, Tensor) else x


def likeness(x: Any) -> dict[str, tuple]:
    """Return what items of one dataset share: the shape and the type of each input."""
    if isinstance(x, str):
        return TEXT
    return {name: (*v.shape, str(v.dtype).removeprefix("torch.")) for name, v in parts(x).items()}


def same(one: Any, other: Any) -> bool:
    """Return whether two readings of an item are equal; NaN equals NaN."""
    if likeness(one) != likeness(other) or isinstance(one, str):
        return one is other or (isinstance(one, str) and one == other)
    pairs = zip(parts(one).values(), parts(other).values(), strict=True)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def stacked(items: list[Inputs]) -> Inputs:
    """Return items as one: (N, ...) each."""
    if isinstance(items[0], Tensor):
        return torch.stack(items)
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def joined(some: Sequence[Inputs]) -> Inputs:
    """Return the rows of several splits behind each other."""
    if isinstance(some[0], Tensor):
        return torch.cat(list(some))
    return {name: torch.cat([x[name] for x in some]) for name in some[0]}


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let Python's, numpy's and torch's global draws follow from a seed, and put them back."""
    seed %= 2**32
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


# Functions of the module, so that worker processes can receive them.
def nth(readers: Sequence[Reader], starts: np.ndarray, rows: np.ndarray, index: Any) -> Inputs:
    """Return an example of a split: `index`, or (index, seed), of its rows over all readers."""
    place, *seed = index if isinstance(index, tuple) else (index,)
    row = int(rows[place])
    which = int(np.searchsorted(starts, row, side="right")) - 1
    return readers[which].item(row - int(starts[which]), *seed)[0]


def apply_each(scales: Mapping[str, Callable[[Tensor], Tensor]], x: Inputs) -> Inputs:
    """Return a batch's inputs, each as it is prepared."""
    if isinstance(x, Tensor):
        return scales[""](x)
    return {name: scales[name](values) for name, values in x.items()}
