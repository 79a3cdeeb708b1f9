"""Tables larger than memory: converted once, a block of rows at a time, to columns on the disk.

A part is one file: of each block its columns one behind the other, whole numbers and numbers as
they are, texts as numbers of the words of the block. A column is read back as a whole,
so that what is decided of it is decided as in memory, to the same bits; never all columns at once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from knobs import cache, storage
from knobs.data import cells, opening, tables
from knobs.data.inputs import BLOCK
from knobs.data.tables import Form
from knobs.errors import ConfigError, DataError, size

FORMAT = 1  # of a converted table; another one is another entry
GLANCES, GLANCE = 64, 2**16  # blocks of a file that tell it from another, beside first and last
NONE, WHOLE, NUMBER, UNSIGNED, TEXT = range(5)  # kinds of a piece; NONE: the column is elsewhere
TYPES = {WHOLE: np.int64, NUMBER: np.float64, UNSIGNED: np.uint64}
CODES = {"i": WHOLE, "f": NUMBER, "u": UNSIGNED}  # by the kinds of numpy's types
AT_ONCE = 5  # times its cells that a table in memory takes until it is tensors
AT_A_TIME, FEWEST = 2**21, 512  # cells that are converted at once; rows at least
COLUMNS = 32  # of Parquet that are read at once: each has a page of a MiB in memory
PACKED = 4  # times its size that packed text takes, on the whole


# ------------------------------------------------------------------ memory, or the disk
def chosen(files: Sequence[Path], where: str) -> str:
    """Return a sentence where tables are to be read from the disk; "" where memory takes them.

    Args:
        where: data.storage, auto, memory or map.

    Raises:
        ConfigError: an Excel file is to be mapped.
    """
    if where == "memory" or not all(file.is_file() for file in files):  # who reads it says so
        return ""
    if excel := [file for file in files if file.suffix.lower() == ".xlsx"]:
        if where == "map":
            mend = "save it as .parquet or .csv, or leave data.storage at auto"
            raise ConfigError(f"data.storage=map: {excel[0]} is an Excel file; {mend}")
        return ""
    if where == "map":
        return "data are read from the disk (data.storage=map)"
    need, free = sum(map(needed, files)), opening.free_memory()
    if need <= free:
        return ""
    return (f"data are read from the disk: in memory they may take {size(need)}, and {size(free)} "
            f"are free (data.storage=auto)")  # fmt: skip


def needed(file: Path) -> int:
    """Return the bytes that a table may take in memory until it is tensors, by its size."""
    count = file.stat().st_size
    if file.suffix.lower() == ".parquet":
        try:
            from pyarrow.parquet import read_metadata

            about = read_metadata(file)
        except (ImportError, *tables.BROKEN):  # who reads it says so
            return 0
        groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        return AT_ONCE * max(8 * about.num_rows * about.num_columns, sum(groups))
    packed = file.suffix.lower() in (*opening.UNPACK, ".zip")
    return AT_ONCE * count * (PACKED if packed else 1)


# ------------------------------------------------------------------ columns, read
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


def mapped(columns: Mapping, change: Callable[[Any], Any]) -> Mapping:
    """Return a mapping with its values changed; of a Lazy one as they are asked for."""
    changed = Lazy(columns, lambda name: change(columns[name]))
    return changed if isinstance(columns, Lazy) else dict(changed)


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


# ------------------------------------------------------------------ files -> columns
@dataclass(frozen=True)
class Reading:
    """How a file is read; as `tables.read` takes it.

    Args:
        skip: columns that nobody reads.
        only: columns that somebody reads; None: all but `skip`.
    """

    sep: str
    encoding: str
    texts: tuple[str, ...] | None
    na: tuple[str, ...]
    decimal: str
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None

    def wants(self, name: str) -> bool:
        """Return whether somebody reads a column."""
        return name not in self.skip and (self.only is None or name in self.only)


def read(file: Path, how: Reading) -> tuple[OnDisk, Form]:
    """Return a file's table, converted where it has not been; the counterpart of `tables.read`.

    Raises:
        DataError: naming what is not there, or cannot be read. StorageError: the disk is full.
    """
    opening.check(file, whole=False)
    name = f"table-{_key(file, how)}"
    need = needed(file) // AT_ONCE

    def make(folder: Path) -> dict[str, Any]:
        with opening.unchanged(file):
            return _convert(file, folder, how)

    def use(folder: Path, facts: dict[str, Any]) -> tuple[OnDisk, Form]:
        found: dict[str, Cells] = {}
        for part, about in facts["parts"].items():
            opened = read_part(folder, part, about)
            for i, column in enumerate(about["columns"]):
                if part != "cells" or column not in facts["elsewhere"]:
                    found[column] = Cells(((opened, i),))
        form = Form(**facts["form"] | {"said": tuple(facts["form"]["said"])})
        digest = bytes.fromhex(facts["digest"])
        return OnDisk(facts["columns"], found, facts["rows"], (digest,)), form

    return cache.entry(name, str(file), need, make, use)


def _key(file: Path, how: Reading) -> str:
    """Hash what a converted table depends on: the file, how it is read, and who reads it."""
    import pandas as pd

    about, digest = file.stat(), hashlib.sha256()
    facts = [str(file.resolve()), about.st_size, about.st_mtime_ns, about.st_ino]
    facts += [FORMAT, BLOCK, pd.__version__, dataclasses.asdict(how)]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    with file.open("rb") as stream:
        last = max(0, about.st_size - GLANCE)
        for start in sorted({0, last, *(last * i // (GLANCES + 1) for i in range(GLANCES + 1))}):
            stream.seek(start)
            digest.update(stream.read(GLANCE))
    return digest.hexdigest()[:32]


def _convert(file: Path, folder: Path, how: Reading) -> dict[str, Any]:
    """Write a file's columns into a folder, and return what `read` has to know."""
    parquet = file.suffix.lower() == ".parquet"
    facts = _of_parquet(file, folder, how) if parquet else _of_text(file, folder, how)
    if not (rows := sum(facts["parts"]["cells"]["sizes"])):
        raise DataError(f"{file}: has no rows")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return facts | {"rows": rows, "digest": digest}


def _read(file: Path, blocks: Iterator) -> Iterator:
    """Yield blocks of a file; what its reader says is said of the file, not what the disk says."""
    while True:
        with tables.reading(file):
            block = next(blocks, None)
        if block is None:
            return
        yield block


def _rows(columns: Collection) -> int:
    """Return how many rows of some columns are one block."""
    return min(BLOCK, max(FEWEST, AT_A_TIME // len(columns)))


def _of_parquet(file: Path, folder: Path, how: Reading) -> dict[str, Any]:
    """Write the columns of a Parquet file, as `cells.read` has them."""
    with tables.reading(file):
        raw = cells.parquet_names(file)
        names = tables.names_of(file, raw)
    kept = {old: new for old, new in zip(raw, names, strict=True) if how.wants(new)}
    kept = kept or dict(zip(raw[:1], names, strict=False))

    rows = _rows(kept)

    def blocks(some: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        for block in cells.parquet_blocks(file, rows, how.texts, some):
            found = tables.without_words({kept[name]: v for name, v in block}, how.na)
            tables.refuse_long_cells(file, found)
            yield len(block[0][1]), {name: np.asarray(v) for name, v in found.items()}

    parts: dict[str, dict] = {}
    for i in range(0, len(kept), COLUMNS):
        some = [*kept][i : i + COLUMNS]
        name = f"cells{i}" if i else "cells"
        parts[name] = write(
            folder, name, [kept[column] for column in some], _read(file, blocks(some))
        )
        assert parts[name]["sizes"] == parts["cells"]["sizes"], "columns have the same blocks"
    return {"columns": names, "parts": parts, "elsewhere": [], "form": dataclasses.asdict(Form())}


def _of_text(file: Path, folder: Path, how: Reading) -> dict[str, Any]:
    """Write the columns of a file of text, as `tables.read` has them.

    Numbers are written at once. What turns out to be texts is read once more, as there.
    """
    with tables.reading(file):
        plan = tables.plan(file, how.sep, how.encoding, how.texts, how.na, how.decimal)
    form, names, options = plan
    free = [] if how.texts is None else [name for name in names if name not in how.texts]
    kept, kinds = [name for name in names if how.wants(name)], {name: set() for name in free}
    short, rows = False, _rows(names)

    def numbers() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        nonlocal short
        for block in tables.chunks(file, form, names, rows, **options):
            last = block.iloc[:, -1]
            short = short or bool((last.isna() | (last.astype(object) == "")).any())
            for name in free:
                kinds[name].add(_kind(block[name]))
            there = [n for n in kept if n not in kinds or block[n].dtype.kind in CODES]
            yield len(block), {n: block[n].to_numpy() for n in there}

    parts = {"cells": write(folder, "cells", kept, _read(file, numbers()))}
    opened = read_part(folder, "cells", parts["cells"])
    with tables.reading(file):
        if short:
            tables.refuse_short(file, form, len(names))
        codes = tables.coded(file, form, names) if free else ()
    again, raw = [], []
    for i, name in enumerate(kept):
        if name not in kinds:
            continue
        if not (kinds[name] <= {"i", "f", "-"} or kinds[name] == {"u"}):
            again.append(name)
            raw += [name] * _stays_raw(kinds[name])
        elif tables.unsure(Cells(((opened, i),)).whole(), name in codes):
            again.append(name)
            raw.append(name)
    if again:
        words = {name: w for name, w in options["na_values"].items() if name in {*again} - {*raw}}
        more = {"dtype": object, "na_values": words, "usecols": again}
        texts = tables.chunks(file, form, names, rows, **more)
        found = ((len(block), {n: block[n].to_numpy() for n in again}) for block in texts)
        parts["texts"] = write(folder, "texts", again, _read(file, found))
    form = dataclasses.asdict(form)
    return {"columns": names, "parts": parts, "elsewhere": again, "form": form}


def _kind(values: Any) -> str:
    """Return what pandas made of cells: i, f, u, numbers; - nothing; b, o, s, texts and others."""
    kind = values.dtype.kind
    if kind == "f":
        return "f" if values.notna().any() else "-"
    if kind in CODES:
        return kind
    return {"b": "b"}.get(kind, "o" if values.dtype == object else "s")


def _stays_raw(kinds: set[str]) -> bool:
    """Return whether memory reads a column once more, words that mean missing included.

    It does where pandas makes objects of the column: of True and False, before its version 3 of all
    texts.
    """
    import pandas as pd

    return pd.Series(["a"]).dtype == object or not kinds & {"s", "i", "f", "u"}


def reading_of(
    sep: str, encoding: str, texts: Collection[str] | None, na: Sequence[str], decimal: str,
    skip: Collection[str] = (), only: Collection[str] | None = None,
) -> Reading:  # fmt: skip
    """Return how a file is read, in one order, so that equal ways have one entry of the cache."""
    ordered = None if texts is None else tuple(sorted(texts))
    some = None if only is None else tuple(sorted(only))
    return Reading(sep, encoding, ordered, tuple(na), decimal, tuple(sorted(skip)), some)
