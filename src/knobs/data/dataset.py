"""Data of a run: splits that give batches by index, and facts about them."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.data.preparation import Preparation
from knobs.errors import DataError
from knobs.processes import end_with
from knobs.shape import Shape

Inputs = Tensor | dict[str, Tensor]  # (N, ...), or several of them by name


class Batch(NamedTuple):
    """Some examples of a split.

    Args:
        x: (N, ...), or several such tensors by name.
        y: (N,), or (N, T) where there are several targets.
        weight: (N,) weights >= 0 of the examples; None where all count alike.
    """

    x: Inputs
    y: Tensor
    weight: Tensor | None = None


def each(x: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return the inputs, every tensor of them changed."""
    return change(x) if isinstance(x, Tensor) else {name: change(v) for name, v in x.items()}


def chunks(batch: Batch, count: int, dim: int = 0) -> Iterator[Batch]:
    """Yield a batch in at most `count` parts along a dimension, as torch.chunk cuts tensors."""
    total = batch.y.shape[dim]
    size = -(-total // count)
    for start in range(0, total, size):
        cut = partial(torch.narrow, dim=dim, start=start, length=min(size, total - start))
        weight = None if batch.weight is None else cut(batch.weight)
        yield Batch(each(batch.x, cut), cut(batch.y), weight)


@dataclass(frozen=True)
class Tensors:
    """A split in memory, on the device, or its inputs in a file's map; gathered by index.

    Args:
        x, y, weight: of all its examples, as a Batch has them.
        rows: (N,) int64 on the CPU, their numbers among the source's rows; None: 0, 1, 2, ...
        mapped: whether x is the map of a file, which stays on the CPU wherever the rest is. Those
            of a source lie behind each other in one file.
    """

    x: Inputs
    y: Tensor
    weight: Tensor | None = None
    rows: Tensor | None = None
    mapped: bool = False

    def __len__(self) -> int:
        return len(self.y)

    def batches(self, indices: list[Tensor]) -> Iterator[Batch]:
        """Yield one batch for each tensor of indices."""
        for index in indices:
            yield take(self, index)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield every example once, `size` at a time."""
        for start in range(0, max(1, len(self)), size):  # a split may be empty
            yield take(self, slice(start, start + size))

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Tensors":
        """Return the split on a device, images in the memory order that the model wants."""

        def move(x: Tensor) -> Tensor:
            order = memory_format if x.ndim == 4 else torch.preserve_format
            return x.to(device, memory_format=order)

        weight = None if self.weight is None else self.weight.to(device)
        x = self.x if self.mapped else each(self.x, move)
        return Tensors(x, self.y.to(device), weight, self.rows, self.mapped)


@dataclass(frozen=True)
class Stream:
    """A split read from disk as it is needed, for sets larger than memory.

    Args:
        examples: index -> one example, a uint8 tensor (C, H, W), or any inputs without N.
        y, weight: of all examples, as a Batch has them; on the CPU.
        normalize: inputs of a batch, (N, C, H, W) uint8 for one, -> float, on the device.
        workers: processes that read ahead; 0 reads in this one.
        rows: as of Tensors.
        random: whether examples are drawn: `examples` is then given (index, seed). The seed follows
            from the numbers of its batch, hence from (seed, epoch, step) where rows are shuffled.
    """

    examples: Callable[[Any], Inputs]
    y: Tensor
    normalize: Callable[[Inputs], Inputs]
    workers: int = 0
    device: torch.device | str = "cpu"
    weight: Tensor | None = None
    rows: Tensor | None = None
    random: bool = False

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> Inputs:
        return self.examples(index if self.random else int(index))

    def batches(self, indices: list[Tensor]) -> Iterator[Batch]:
        """Yield one batch for each tensor of indices, through a DataLoader."""
        loader = torch.utils.data.DataLoader(
            self,
            batch_sampler=[self._asked(i) for i in indices],
            num_workers=self.workers,
            worker_init_fn=partial(_begin_reader, os.getpid()),
        )
        rest = Tensors(torch.empty(len(self), 0), self.y, self.weight)
        for x, index in zip(_read(loader), indices, strict=True):
            some = take(rest, index)
            weight = None if some.weight is None else some.weight.to(self.device)
            x = self.normalize(each(x, lambda v: v.to(self.device)))
            yield Batch(x, some.y.to(self.device), weight)

    def _asked(self, index: Tensor) -> list:
        """Return what is asked of `examples` for a batch."""
        rows = index.tolist()
        if not self.random:
            return rows
        digest = hashlib.sha256(str(rows).encode()).digest()
        first = int.from_bytes(digest[:4])
        return [(row, (first + i) % 2**32) for i, row in enumerate(rows)]

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield every example once, `size` at a time."""
        yield from self.batches(list(torch.arange(len(self)).split(size)))

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Stream":
        """Return the split with its batches on a device."""
        return replace(self, device=device)


def _begin_reader(parent: int, _number: int) -> None:
    """Let a process that reads ahead end with the one that trains: it holds the run's lock too."""
    end_with(parent, getattr(signal, "SIGKILL", signal.SIGTERM))


def _read(loader: Iterable[Inputs]) -> Iterator[Inputs]:
    """Yield a loader's batches; a DataError of a worker without the traceback torch puts before."""
    try:
        yield from loader
    except DataError as error:
        message = str(error).rpartition(f"{DataError.__name__}: ")[2]
        raise DataError(message.strip()) from None


def take(split: Tensors | Stream, index: Tensor | slice) -> Batch:
    """Gather examples of a split; every batch of a run comes from here.

    Args:
        index: (n,) numbers of examples, beside the split's y; or a slice, which copies nothing and
            a stream does not take.
    """
    if isinstance(split, Stream):
        return next(split.batches([index]))

    place = split.y.device

    def pick(values: Tensor) -> Tensor:
        if values.device != place:  # the map of a file: a batch of it is moved
            return values[index.to(values.device) if isinstance(index, Tensor) else index].to(place)
        # index_select is the faster of the two, and forgets the memory order of NHWC images.
        plain = isinstance(index, Tensor) and values.is_contiguous()
        return values.index_select(0, index) if plain else values[index]

    weight = None if split.weight is None else pick(split.weight)
    return Batch(each(split.x, pick), pick(split.y), weight)


@dataclass(frozen=True)
class Augment:
    """Random shifts and mirror images of a training batch (N, C, H, W).

    Args:
        crop: shift by up to this many pixels each way, the border filled with the mean colour.
        flip: mirror each image left to right with probability 1/2.
        more: what else changes a batch by draws; see augmenting.py.

    Source: Krizhevsky 2009; He et al. 2015, section 4.2, for 4 pixels and flips.
    """

    crop: int = 0
    flip: bool = False
    more: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Shift and mirror by draws of a CPU generator: a GPU run sees what a CPU run sees."""
        n, _, height, width = x.shape
        if self.crop:
            windows = F.pad(x, [self.crop] * 4).unfold(2, height, 1).unfold(3, width, 1)
            shift = torch.randint(2 * self.crop + 1, (2, n), generator=generator).to(x.device)
            x = windows[torch.arange(n, device=x.device), :, shift[0], shift[1]]
        if self.flip:
            mirrored = torch.rand(n, generator=generator).to(x.device) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return self.more(x, generator) if self.more else x


@dataclass(frozen=True)
class Data:
    """A data set, split, with all statistics taken from its training split.

    Args:
        kind: table, image or text.
        task: classification, multilabel or regression.
        classes: their names, or those of labels, in the order of the model's outputs; empty for
            regression.
        target_mean, target_std: (T,) float64; a standardised regression target times the second
            plus the first is in its own unit. 0 and 1 where a target is no number.
        preparation: what made the tensors from raw rows; None where a data function gives none.
        hash: of the raw content, the target and the split; empty where none is given.
        rows_hash: of the validation (val) and the test rows with their targets alone; empty where
            none is given.
        notes: short sentences on how the source was read: what was passed over, what is odd.
        source: the data that these are features of, see training/features.py; None: of none.
        all_y: targets of all rows outside the test split, where folds share them out; else None.
    """

    name: str
    kind: str
    task: str
    shape: Shape
    train: Tensors | Stream
    val: Tensors | Stream
    test: Tensors | Stream
    classes: list[str] = field(default_factory=list)
    target_mean: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    target_std: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))
    augment: Augment | None = None
    preparation: Preparation | None = None
    hash: str = ""
    rows_hash: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    all_y: Tensor | None = None
    source: "Data | None" = None

    @property
    def origin(self) -> "Data":
        """Return the data that these are features of; themselves where they are none."""
        return self.source or self

    def about(self) -> dict[str, Any]:
        """Return what a record keeps of the data: hashes, the rows of each split, the notes."""
        rows = [len(split) for split in (self.train, self.val, self.test)]
        hashes = {"hash": self.hash or None, "rows_hash": self.rows_hash}
        return {**hashes, "rows": rows, "notes": list(self.notes)}

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Data":
        """Return the same data with every split on a device."""
        moved = {s: getattr(self, s).to(device, memory_format) for s in ("train", "val", "test")}
        return replace(self, **moved)

    def joined(self) -> "Data":
        """Return the same data with the validation rows at the end of the training split."""
        none = self.val.y[:0]
        return replace(self, train=_joined(self.train, self.val), val=Tensors(none, none))


def _joined(first: Tensors | Stream, second: Tensors | Stream) -> Tensors | Stream:
    """Return two splits of one source as one."""

    def both(name: str) -> Tensor | None:
        parts = [getattr(split, name) for split in (first, second)]
        return None if parts[0] is None else torch.cat(parts)

    rest = {name: both(name) for name in ("y", "weight", "rows")}
    if isinstance(first, Stream):
        examples = partial(_either, first.examples, second.examples, len(first))
        return replace(first, examples=examples, **rest)
    if first.mapped:
        x, end = first.x, first.x.data_ptr() + first.x.nbytes
        assert second.x.data_ptr() == end, "a source's splits lie behind each other"
        x = x.as_strided((len(rest["y"]), *x.shape[1:]), x.stride())
        return Tensors(x=x, mapped=True, **rest)
    if isinstance(first.x, Tensor):
        return Tensors(x=torch.cat([first.x, second.x]), **rest)
    return Tensors(x={k: torch.cat([v, second.x[k]]) for k, v in first.x.items()}, **rest)


# A function of the module, so that worker processes can receive it.
def _either(first: Callable, second: Callable, count: int, index: Any) -> Inputs:
    row, *seed = index if isinstance(index, tuple) else (index,)
    part, row = (first, row) if row < count else (second, row - count)
    return part((row, *seed) if seed else row)
