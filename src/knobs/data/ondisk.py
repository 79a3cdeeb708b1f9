"""Tables larger than memory: converted once, a block of rows at a time, to columns on the disk.

A column is read back as a whole, so that what is decided of it is decided as in memory, to the same
bits; never all columns at once.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knobs import cache
from knobs.data import cells, opening, tables
from knobs.data.columnar import CODES, Cells, OnDisk, read_part, write
from knobs.data.inputs import BLOCK
from knobs.data.tables import Form
from knobs.errors import ConfigError, DataError, size

FORMAT = 1  # of a converted table; another one is another entry
GLANCES, GLANCE = 64, 2**16  # blocks of a file that tell it from another, beside first and last
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


# ------------------------------------------------------------------ files -> columns
@dataclass(frozen=True)
class Reading:
    """The way a file is read; as `tables.read` takes it.

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
