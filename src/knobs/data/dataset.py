"""Data of a run: splits that give batches by index, and facts about them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.shape import Shape

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tensors:
    """A split in memory: x (N, ...) and y (N,), on the device, gathered by index."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, indices: list[Tensor]) -> Batches:
        """Yield one (x, y) for each tensor of indices."""
        # index_select is the faster of the two, and forgets the memory order of NHWC images.
        plain = self.x.is_contiguous()
        for index in indices:
            x = self.x.index_select(0, index) if plain else self.x[index]
            yield x, self.y.index_select(0, index)

    def in_order(self, size: int) -> Batches:
        """Yield every example once, `size` at a time."""
        yield from zip(self.x.split(size), self.y.split(size), strict=True)

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Tensors":
        """Return the split on a device, images in the memory order that the model wants."""
        order = memory_format if self.x.ndim == 4 else torch.preserve_format
        return Tensors(self.x.to(device, memory_format=order), self.y.to(device))


@dataclass(frozen=True)
class Stream:
    """A split read from disk as it is needed, for sets larger than memory.

    Args:
        examples: index -> one example, a uint8 tensor (C, H, W).
        y: (N,) targets.
        normalize: (N, C, H, W) uint8 -> float, on the device.
        workers: processes that read ahead; 0 reads in this one.
    """

    examples: Callable[[int], Tensor]
    y: Tensor
    normalize: Callable[[Tensor], Tensor]
    workers: int = 0
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.examples(int(index)), self.y[index]

    def batches(self, indices: list[Tensor]) -> Batches:
        """Yield one (x, y) for each tensor of indices, through a DataLoader."""
        loader = torch.utils.data.DataLoader(
            self, batch_sampler=[i.tolist() for i in indices], num_workers=self.workers
        )
        for x, y in loader:
            yield self.normalize(x.to(self.device)), y.to(self.device)

    def in_order(self, size: int) -> Batches:
        """Yield every example once, `size` at a time."""
        yield from self.batches(list(torch.arange(len(self)).split(size)))

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Stream":
        """Return the split with its batches on a device."""
        return replace(self, device=device)


@dataclass(frozen=True)
class Augment:
    """Random shifts and mirror images of a training batch (N, C, H, W).

    Args:
        crop: shift by up to this many pixels each way, the border filled with the mean colour.
        flip: mirror each image left to right with probability 1/2.

    Source: Krizhevsky 2009; He et al. 2015, section 4.2, for 4 pixels and flips.
    """

    crop: int = 0
    flip: bool = False

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
        return x


@dataclass(frozen=True)
class Data:
    """A data set, split, with all statistics taken from its training split.

    Args:
        kind: table, image or text.
        task: classification, multilabel or regression.
        classes: their names, or those of labels, in the order of the model's outputs; empty for
            regression.
        target_std, target_mean: a standardised regression target times the one, plus the other, is
            in its own unit; (T,) of several targets.
    """

    name: str
    kind: str
    task: str
    shape: Shape
    train: Tensors | Stream
    val: Tensors | Stream
    test: Tensors | Stream
    classes: list[str] = field(default_factory=list)
    target_std: float | Tensor = 1.0
    augment: Augment | None = None
    target_mean: float | Tensor = 0.0

    def to(self, device: torch.device, memory_format: torch.memory_format) -> "Data":
        """Return the same data with every split on a device."""
        moved = {s: getattr(self, s).to(device, memory_format) for s in ("train", "val", "test")}
        return replace(self, **moved)
