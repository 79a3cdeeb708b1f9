"""Raw rows or pictures -> tensors, by statistics of training rows, block by block."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from knobs.data.columns import MISSING, Columns
from knobs.data.encodings import bin_edges, piecewise, read_edges, saved_edges
from knobs.data.opening import room
from knobs.data.stored import Fields
from knobs.errors import DataError

BLOCK = 65_536  # raw rows that are prepared at once
FEWER = "fewer rows, or leaving out columns of many categories (data.drop), may fit"
_TOO_LARGE = "numbers too large to standardise; leave the column out, or scale it"
MOST_PIXELS = 2**14  # a side


def rows_in(blocks: Iterable, rows: np.ndarray, size: Callable) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield each block with the places in it of those of its rows that are asked for.

    Args:
        blocks: of raw rows, in order.
        rows: increasing numbers of rows, counted over all blocks.
        size: a block -> its number of rows.
    """
    assert (np.diff(rows) > 0).all(), "rows increase"
    start = 0
    for block in blocks:
        first, last = np.searchsorted(rows, [start, start + size(block)])
        yield block, rows[first:last] - start
        start += size(block)
    assert not len(rows) or rows[-1] < start, "rows lie in the blocks"


def moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation by feature (N, F) or channel (N, C, H, W), kept broadcast.

    In float32 and torch's order of summation, whose bits are those of every run so far. The
    deviation of a constant is 1.
    """
    dims = [0, *range(2, sample.ndim)]
    mean, std = sample.mean(dims, keepdim=True), sample.std(dims, correction=0, keepdim=True)
    return mean, torch.where(std > 1e-8, std, 1.0)


def column_moments(values: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of a float64 column (N,); that of a constant is 1.

    numpy's pairwise sums over the whole column, and the bits of scikit-learn's StandardScaler.
    Source: Chan, Golub and LeVeque 1983, the corrected two-pass algorithm and its error bound.
    """
    n, eps = float(len(values)), np.finfo(float).eps
    mean = values.sum() / n
    off = values - mean
    correction = off.sum()
    off **= 2
    variance = (off.sum() - correction**2 / n) / n
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    scale = np.sqrt(np.maximum(variance, 0))
    return float(mean), 1.0 if constant and np.isfinite(variance) else float(scale)


@dataclass(frozen=True)
class Table:
    """Numbers standardised, a missing one as the median; categories one-hot, an unknown one as 0s.

    Numbers may be encoded in bins as well, or instead: behind the categories, see encodings.py.

    A block maps a column's name to its cells: a data frame, or a dict of arrays.

    Args:
        numbers: columns of numbers, in the order of the features.
        levels: column -> its categories, whose features come after the numbers.
        low, high: (numbers,) float64, the least and most of the training rows; None: not known.
        median, mean, scale: (numbers,), of the type in which a number is standardised.
        columns: how the columns of a raw block are read; None: its cells are numbers and
            categories as they are.
        encoding: one of encodings.ENCODINGS.
        edges: of each number's bins, where they are encoded in bins.
    """

    numbers: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    median: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    columns: Columns | None = None
    encoding: str = "standard"
    edges: tuple[np.ndarray, ...] = ()
    kind: ClassVar = "table"
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @classmethod
    def fit(
        cls,
        blocks: Iterable[Mapping],
        train_rows: np.ndarray,
        single: bool = False,
        encoding: str = "standard",
    ) -> "Table":
        """Take medians, means, deviations and bins, and the categories, from the training rows.

        Args:
            blocks: of numbers and categories, as `Columns.typed` returns them.
            single: in float32, as the bundled sets have it, not float64.
            encoding: of the numbers, one of encodings.ENCODINGS.

        Raises:
            DataError: numbers too large, or none that has bins where nothing else is an input.
        """
        blocks = [*blocks]
        first = next(iter(blocks), {})  # a column is of the kind that it has in the first block
        numbers, edges, found, filled = [], [], [], []
        levels: dict[str, tuple[str, ...]] = {}
        for name in map(str, first):  # one after the other: memory need not hold them all
            if np.asarray(first[name]).dtype.kind not in "iuf":
                some = (_words(b, name, rows) for b, rows in rows_in(blocks, train_rows, _count))
                levels[name] = tuple(sorted(set().union(*some)))
                continue
            values = _rows_of(blocks, name, train_rows)
            numbers.append(name)
            edges += [] if encoding == "standard" else [bin_edges(values, train_rows)]
            found.append(_statistics(values))
            filled += [np.where(np.isnan(values), found[-1][2], values)] if single else []
        low, high, median, mean, scale = np.array(found, float).reshape(-1, 5).T.copy()
        if filled:
            sample = torch.from_numpy(np.stack(filled, 1).astype(np.float32))
            median = median.astype(np.float32)
            mean, scale = (values.flatten().numpy() for values in moments(sample))
        for name, *both in zip(numbers, mean, scale, strict=True):
            if not np.isfinite(both).all():
                raise DataError(f"{name}: {_TOO_LARGE}")
        fitted = median, mean, scale, None, encoding, tuple(edges)
        made = cls(tuple(numbers), levels, *fitted, low=low, high=high)
        if not made.width:
            raise DataError("no number varies, so none has bins; use data.numbers=standard")
        return made

    @property
    def width(self) -> int:
        """Return the number of features."""
        return self.standardised + sum(map(len, self.levels.values())) + sum(self._bins)

    @property
    def standardised(self) -> int:
        """Return how many features are standardised numbers."""
        return 0 if self.encoding == "ple" else len(self.numbers)

    @property
    def _bins(self) -> list[int]:
        """Return how many bins each number has, where numbers have bins."""
        return [max(0, len(edges) - 1) for edges in self.edges]

    def unlike(self, other: "Table") -> str:
        """Return the first column of which another table makes other inputs; "" if there is none.

        Sums round otherwise on another machine: means and deviations may differ by 1e-4 of both.
        """
        mine, its = ({**t.levels, **dict.fromkeys(t.numbers, ())} for t in (self, other))
        if odd := [name for name in {**mine, **its} if mine.get(name) != its.get(name)]:
            return odd[0]
        if self.numbers != other.numbers:
            return "the order of the numbers"
        if (self.encoding, self._bins) != (other.encoding, other._bins):
            return "data.numbers"
        for name, scale, mine, its in zip(
            self.numbers * bool(self.edges), self.scale, self.edges, other.edges, strict=False
        ):
            if len(mine) and abs(mine - its).max() > 1e-4 * (scale + abs(mine).max()):
                return name
        for name, mean, scale, near, size in zip(
            self.numbers, self.mean, self.scale, other.mean, other.scale, strict=True
        ):
            if max(abs(mean - near), abs(scale - size)) > 1e-4 * (scale + abs(mean)):
                return name
        return ""

    def apply(self, block: Mapping) -> Tensor:
        """Return (n, features) float32.

        Raises:
            DataError: a column is not there, or a cell of numbers holds none or too large a one.
        """
        return self.encoded(self.columns.typed(block) if self.columns else block)

    def encoded(self, block: Mapping) -> Tensor:
        """Return (n, features) float32 of a block of numbers and categories."""
        rows = _count(block)
        what = f"the encoding of {rows:,} rows as {self.width:,} columns"
        with room(what, 4 * rows * self.width, FEWER):
            return self._encoded(block, np.zeros((rows, self.width), np.float32))

    def _encoded(self, block: Mapping, x: np.ndarray) -> Tensor:
        at = self.width - sum(self._bins)
        for i, name in enumerate(self.numbers):
            values = _numbers(block, name)
            values = np.where(np.isnan(values), self.median[i], values)
            if self.edges:
                piecewise(values, self.edges[i], x[:, at : at + self._bins[i]])
                at += self._bins[i]
            values = values.astype(self.mean.dtype)
            with np.errstate(over="ignore"):
                values = ((values - self.mean[i]) / self.scale[i]).astype(np.float32)
            if not np.isfinite(values).all():
                raise DataError(f"{name}: {_TOO_LARGE}")
            if self.standardised:
                x[:, i] = values
        start = self.standardised
        for name, known in self.levels.items():
            places = {level: start + i for i, level in enumerate(known)}
            found = np.array([places.get(word, -1) for word in _words(block, name)], int)
            rows = np.flatnonzero(found >= 0)
            x[rows, found[rows]] = 1
            start += len(known)
        return torch.from_numpy(x)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return names and arrays."""
        levels = {name: list(known) for name, known in self.levels.items()}
        arrays = {"median": self.median, "mean": self.mean, "scale": self.scale}
        if self.low is not None and len(self.low) == len(self.numbers):  # theirs, not of others
            arrays |= {"low": self.low, "high": self.high}
        about = {"numbers": list(self.numbers), "levels": levels}
        encoded, edges = saved_edges(self.encoding, self.edges)
        return about | encoded | (self.columns.saved() if self.columns else {}), arrays | edges

    @classmethod
    def read(cls, fields: Fields) -> "Table":
        """Return the table that fields describe."""
        numbers = tuple(fields.names("numbers"))
        levels = fields.section("levels")
        known = {name: tuple(levels.names(name, least=1)) for name in levels.node}
        if not (numbers or known) or set(numbers) & set(known):
            raise fields.wrong("numbers", list(numbers), "columns, none of which are in levels")
        types = ("float64", "float32")
        mean = fields.array("mean", len(numbers), types)
        types = (mean.dtype.name,)
        median = fields.array("median", len(numbers), types)
        scale = fields.array("scale", len(numbers), types, positive=True)
        columns = Columns.read(fields) if "columns" in fields.node else None
        if columns and columns.outputs() != (set(numbers), set(known)):
            raise fields.wrong(
                "columns", list(columns.columns), "those that numbers and levels name"
            )
        encoding, edges = read_edges(fields, len(numbers))
        told = f"{fields.path}low" in fields.arrays  # the first preparations have none
        bounds = {b: fields.array(b, len(numbers), ("float64",)) for b in ("low", "high") if told}
        made = cls(numbers, known, median, mean, scale, columns, encoding, edges, **bounds)
        if not made.width:
            raise fields.wrong("bins", [0] * len(numbers), "above 0 for one number at least")
        return made


def _count(block: Mapping) -> int:
    """Return the number of rows of a table's block."""
    return len(block[next(iter(block))])


def _cells(block: Mapping, name: str) -> Any:
    if name not in block:
        raise DataError(f"{name}: no such column; it has {', '.join(map(str, block))}")
    return block[name]


def _numbers(block: Mapping, name: str) -> np.ndarray:
    """Return a column as (n,) float64, NaN where a cell is empty."""
    values = np.asarray(_cells(block, name))
    if values.dtype.kind not in "iufb":
        numbers = np.full(len(values), np.nan)
        for i, cell in enumerate(values):
            try:
                numbers[i] = np.nan if cell is None or cell == "" else float(cell)
            except (TypeError, ValueError):
                raise DataError(f"{name}: {str(cell)[:40]!r} is not a number") from None
        values = numbers
    values = values.astype(float)
    if np.isinf(values).any():
        raise DataError(f"{name}: an infinite number; leave it out, or the cell empty")
    return values


def _words(block: Mapping, name: str, rows: np.ndarray | None = None) -> list[str]:
    """Return a column's cells as categories."""
    cells = np.asarray(_cells(block, name), dtype=object)
    cells = cells if rows is None else cells[rows]
    return [MISSING if cell is None or cell != cell else str(cell) for cell in cells]


def _rows_of(blocks: Sequence[Mapping], name: str, rows: np.ndarray) -> np.ndarray:
    """Return a column's numbers of some rows."""
    return np.concatenate(
        [np.zeros(0), *(_numbers(b, name)[some] for b, some in rows_in(blocks, rows, _count))]
    )


def _statistics(values: np.ndarray) -> tuple[float, float, float, float, float]:
    """Return the least, the most, the median, the mean and the deviation of a column.

    NaN counts as the median; of nothing but NaN, least, most and median are 0.
    """
    missing = np.isnan(values)
    present = values[~missing]
    low, high = (present.min(), present.max()) if len(present) else (0.0, 0.0)
    median = _median(values)
    with np.errstate(over="ignore", invalid="ignore"):
        return (low, high, median, *column_moments(np.where(missing, median, values)))


def _median(values: np.ndarray) -> float:
    """Return the median of what is no NaN; 0 where nothing is."""
    present = values[~np.isnan(values)]
    return float(np.median(present)) if len(present) else 0.0


@dataclass(frozen=True)
class Pictures:
    """Pixels standardised by channel. A block is a tensor (n, C, H, W) of pixels.

    Args:
        size: (H, W).
        unit: the pixel value that counts as 1.
        mean, scale: (C,) float32.
        resize, resample: how files of pictures are scaled; see pixels.read_pixels.
    """

    size: tuple[int, int]
    unit: int
    mean: np.ndarray
    scale: np.ndarray
    kind: ClassVar = "image"
    resize: int = 0
    resample: str = "bicubic"

    @classmethod
    def fit(cls, blocks: Iterable[Tensor], train_rows: np.ndarray, unit: int = 255) -> "Pictures":
        """Take each channel's mean and deviation from the training rows."""
        sample = [block[torch.from_numpy(rows)] for block, rows in rows_in(blocks, train_rows, len)]
        pixels = sample[0] if len(sample) == 1 else torch.cat(sample)
        mean, scale = moments(pixels.to(torch.float32, copy=True).div_(unit))
        size = tuple(pixels.shape[2:])
        return cls(size, unit, mean.flatten().numpy(), scale.flatten().numpy())

    @cached_property
    def _channels(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.scale))

    def apply(self, block: Tensor) -> Tensor:
        """Return (n, C, H, W) float32 on the block's device, in its memory order.

        Raises:
            DataError: pictures of another shape.
        """
        expected = (len(self.mean), *self.size)
        if block.ndim != 4 or tuple(block.shape[1:]) != expected:
            raise DataError(f"pictures of shape {tuple(block.shape[1:])}: must be {expected}")
        mean, scale = (values.to(block.device) for values in self._channels)
        return block.to(torch.float32, copy=True).div_(self.unit).sub_(mean).div_(scale)

    def pixels(self, x: Tensor) -> Tensor:
        """Return the uint8 pixels of which `apply` made (n, C, H, W); of others the nearest."""
        mean, scale = (values.to(x.device) for values in self._channels)
        raw = (x.float() * scale).add_(mean).mul_(self.unit)
        return raw.round_().clamp_(0, 255).to(torch.uint8)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return numbers and arrays."""
        height, width = self.size
        arrays = {"mean": self.mean, "scale": self.scale}
        channels = len(self.mean)
        about = {"channels": channels, "height": height, "width": width, "unit": self.unit}
        if self.resize:  # the first preparations have none
            about |= {"resize": self.resize, "resample": self.resample}
        return about, arrays

    @classmethod
    def read(cls, fields: Fields) -> "Pictures":
        """Return the pictures that fields describe."""
        channels = fields.whole("channels", 1, 2**10)
        size = fields.whole("height", 1, MOST_PIXELS), fields.whole("width", 1, MOST_PIXELS)
        mean = fields.array("mean", channels, ("float32",))
        scale = fields.array("scale", channels, ("float32",), positive=True)
        unit, how = fields.whole("unit", 1, 2**16), {}
        if "resize" in fields.node:
            how["resize"] = fields.whole("resize", min(size), MOST_PIXELS)
            how["resample"] = fields.choice("resample", ("bilinear", "bicubic"))
        return cls(size, unit, mean, scale, **how)
