"""Columns on the disk: written a block of rows at a time, read back one at a time.

A part is one file: of each block its columns one behind the other, whole numbers and numbers as
they are, texts as numbers of the words of the block.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from knobs import storage

NONE, WHOLE, NUMBER, UNSIGNED, TEXT = range(5)  # kinds of a piece; NONE: the column is elsewhere
TYPES = {WHOLE: np.int64, NUMBER: np.float64, UNSIGNED: np.uint64}
CODES = {"i": WHOLE, "f": NUMBER, "u": UNSIGNED}  # by the kinds of numpy's types


@dataclass(frozen=True)
class Part:
    """A file of columns.

    Args:
        bytes: all of it, mapped.
        index: (blocks, columns, 3), of each piece its kind, its first byte, its number of words.
        sizes: rows of each block.
    """

    bytes: np.ndarray
    index: np.ndarray
    sizes: tuple[int, ...]

    def piece(self, block: int, column: int) -> np.ndarray:
        """Return a block's cells of a column: numbers as they are mapped, or texts."""
        rows = self.sizes[block]
        kind, start, words = self.index[block, column].tolist()
        if kind != TEXT:
            return self.bytes[start : start + 8 * rows].view(TYPES[kind])
        ends = start + 8 * words
        codes = ends + _even(4 * rows)
        ends_of = self.bytes[start:ends].view(np.int64).tolist()
        text = self.bytes[codes : codes + (ends_of[-1] if words else 0)].tobytes()
        starts = [0, *ends_of]
        known = np.full(words + 1, np.nan, object)  # the last one is that of number -1
        known[:words] = [
            text[a:b].decode("utf-8", "surrogatepass")
            for a, b in zip(starts, ends_of, strict=False)
        ]
        return known[self.bytes[ends : ends + 4 * rows].view(np.int32)]


@dataclass(frozen=True)
class Cells:
    """A column on the disk: (part, its number there) of each file, in the order of the rows."""

    parts: tuple[tuple[Part, int], ...]

    @cached_property
    def dtype(self) -> np.dtype:
        """Return the type of the whole column, as memory has it."""
        kinds = {int(kind) for part, i in self.parts for kind in part.index[:, i, 0]}
        if TEXT in kinds:
            return np.dtype(object)
        return np.dtype(TYPES[kinds.pop()] if len(kinds) == 1 else np.float64)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield its cells in blocks of rows, all of one type."""
        for part, i in self.parts:
            for block in range(len(part.sizes)):
                yield part.piece(block, i).astype(self.dtype, copy=False)

    def whole(self) -> np.ndarray:
        """Return all its cells (N,); equal texts are one text, so that few of them take little."""
        rows = sum(sum(part.sizes) for part, _ in self.parts)
        made, start = np.empty(rows, self.dtype), 0
        known: dict[str, str] = {}
        for piece in self.blocks():
            if self.dtype == object:
                piece = [known.setdefault(word, word) for word in piece.tolist()]
            made[start : start + len(piece)] = piece
            start += len(piece)
        return made


@dataclass(frozen=True)
class OnDisk:
    """A table on the disk; of what a data frame does, it does what `rows.py` asks for.

    Args:
        columns: names of all columns; one that nobody reads has no cells.
        cells: by name.
        digests: SHA-256 of each file's content.
    """

    columns: list[str]
    cells: Mapping[str, Cells]
    count: int
    digests: tuple[bytes, ...] = field(default=())

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Any:
        """Return a column as a pandas Series, in memory."""
        import pandas as pd

        values = self.cells[name].whole() if name in self.cells else np.full(len(self), "", object)
        return pd.Series(values, dtype=values.dtype)

    def type_of(self, name: str) -> np.dtype:
        """Return a column's type without reading it."""
        return self.cells[name].dtype if name in self.cells else np.dtype(object)

    def blocks(self, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield blocks of rows of some columns."""
        columns = [self.cells[name].blocks() for name in names]
        for pieces in zip(*columns, strict=True):
            assert len({len(piece) for piece in pieces}) == 1, "columns have the same blocks"
            yield dict(zip(names, pieces, strict=True))

    def texts(self, name: str) -> "Texts":
        """Return a column as blocks of texts, never as a whole."""
        return Texts(self.cells[name], self.count)

    def behind(self, other: "OnDisk") -> "OnDisk":
        """Return this table with the rows of another at its end."""
        joined = {n: Cells(c.parts + other.cells[n].parts) for n, c in self.cells.items()}
        digests = self.digests + other.digests
        return OnDisk(self.columns, joined, self.count + other.count, digests)


@dataclass(frozen=True)
class Texts:
    """A column of texts, in blocks."""

    cells: Cells
    count: int

    def __len__(self) -> int:
        return self.count

    def blocks(self) -> Iterator[list[str]]:
        """Yield lists of texts, in order."""
        for piece in self.cells.blocks():
            yield piece.tolist()


class Lazy(Mapping):
    """A mapping whose values are made as they are asked for, and not kept."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Any]):
        self.names, self.make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    def __contains__(self, name: object) -> bool:  # without making it
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def changed(columns: Mapping, change: Callable[[Any], Any]) -> Mapping:
    """Return a mapping with its values changed; of a Lazy one as they are asked for."""
    made = Lazy(columns, lambda name: change(columns[name]))
    return made if isinstance(columns, Lazy) else dict(made)


# ------------------------------------------------------------------ columns, written
def _even(count: int) -> int:
    """Return a number of bytes, rounded up to whole numbers of 8."""
    return -(-count // 8) * 8


def _bytes_of(values: np.ndarray) -> tuple[int, int, list[bytes]]:
    """Return the kind of a piece, its number of words, and its bytes."""
    import pandas as pd

    if values.dtype.kind in CODES:
        kind = CODES[values.dtype.kind]
        return kind, 0, [np.ascontiguousarray(values, TYPES[kind]).tobytes()]
    codes, words = pd.factorize(values)
    encoded = [str(word).encode("utf-8", "surrogatepass") for word in words]
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64)
    return TEXT, len(words), [ends.tobytes(), codes.astype(np.int32).tobytes(), b"".join(encoded)]


def write(
    folder: Path, name: str, columns: Sequence[str], blocks: Iterable[tuple[int, Mapping]]
) -> dict[str, Any]:
    """Write blocks of columns as a part; return facts by which `read_part` finds them.

    Args:
        blocks: numbers of rows, and name -> (n,) numbers or texts; a column that a block lacks is
            of another part.
    """
    index, sizes, place = [], [], 0
    with storage.writing(folder / name) as file:
        for rows, block in blocks:
            sizes.append(rows)
            row = []
            for column in columns:
                kind, words, data = NONE, 0, []
                if column in block:
                    kind, words, data = _bytes_of(block[column])
                row.append((kind, place, words))
                for piece in data:
                    file.write(piece)
                    file.write(b"\0" * (_even(len(piece)) - len(piece)))
                    place += _even(len(piece))
            index.append(row)
        file.write(b"\0" * 8)  # an empty file cannot be mapped
    made = np.array(index, np.int64).reshape(len(sizes), len(columns), 3)
    storage.write(folder / f"{name}.index", made.tobytes())
    return {"columns": list(columns), "sizes": sizes}


def read_part(folder: Path, name: str, facts: dict[str, Any]) -> Part:
    """Return a part that `write` has written."""
    shape = len(facts["sizes"]), len(facts["columns"]), 3
    index = np.fromfile(folder / f"{name}.index", np.int64).reshape(shape)
    mapped = np.memmap(folder / name, np.uint8, mode="r")
    return Part(mapped.view(np.ndarray), index, tuple(facts["sizes"]))
