"""Parquet and Excel: cells that have types -> numbers, and texts as a CSV would have them."""

import datetime
import decimal
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from knobs.data import opening
from knobs.data.notation import name_of, text_of
from knobs.errors import DataError

# Arrow's own pools reserve a GiB at once, which a limit of memory counts. Read at its first use.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
PACKAGES = {".parquet": "pyarrow", ".xlsx": "openpyxl"}
MOST_CELLS, CELL_BYTES = 2**26, 16  # of a sheet; the bytes of one, at the least
_INDEX = re.compile(r"__index_level_\d+__")  # of pandas, without a name
# A formula that no program has computed yet; one that gives an empty text is of the type str.
_FORMULA = re.compile(
    rb'<c r="([A-Z]+[0-9]+)"(?:(?! t="str")[^>])*>\s*<f(?:[^>]*/>|[^>]*>[^<]*</f>)\s*'
    rb"(?:<v\s*/>|<v>\s*</v>)?\s*</c>"
)
_MERGED = re.compile(rb'<mergeCell ref="([A-Z0-9:]+)"')


@dataclass(frozen=True)
class Read:
    """The columns of a file.

    Args:
        columns: (name, (n,) numbers or texts), in order.
        first: rows of the file before the first of them.
        notes: on what was not read.
    """

    columns: list[tuple[str, np.ndarray]]
    first: int = 0
    notes: list[str] = field(default_factory=list)


def read(file: Path, texts: Collection[str] | None, drop: Collection[str]) -> Read:
    """Return a file's columns.

    Args:
        texts: columns that must be texts; others are numbers with NaN where their type is one.
            None: all are texts.
        drop: columns that may be of any type, and are then empty.

    Raises:
        DataError: the package is not installed, or cells that are no values.
    """
    package = PACKAGES[file.suffix.lower()]
    try:
        return (_parquet if package == "pyarrow" else _excel)(file, texts, drop)
    except ImportError:
        raise lacking(file) from None


def lacking(file: Path) -> DataError:
    """Return the error that what reads a file is not installed."""
    package = PACKAGES[file.suffix.lower()]
    mend = f"pip install {package}, or write the table as a CSV"
    return DataError(f"{file}: to read it takes {package}; {mend}")


def _parquet(file: Path, texts: Collection[str] | None, drop: Collection[str]) -> Read:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        _refuse_large(file, opened.metadata)
        table = opened.read()
    made = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _INDEX.fullmatch(name):
            continue
        known = name_of(name)
        values = np.full(len(column), "", object)
        if known not in drop:
            values = _of_arrow(column, texts is None or known in texts)
        if values is None:
            raise _of_no_type(file, known, column.type)
        made.append((name, values))
    return Read(made)


def of_frame(frame: Any, place: str, texts: Collection[str], drop: Collection[str]) -> Any:
    """Return a data frame as `tables.read` returns that of a Parquet file: numbers, and texts.

    Args:
        frame: of pandas. place: where it comes from, for messages.
        texts, drop: as of `read`.

    Raises:
        DataError: a column of no plain values, or of several kinds.
    """
    import pandas as pd

    made = {}
    for i, name in enumerate(map(str, frame.columns)):
        column = frame.iloc[:, i]
        values = np.full(len(frame), "", object)
        if name not in drop:
            values = _of_series(column, name in texts)
        if values is None:
            what = f"column {name} holds {column.dtype}, which is no number, text or date"
            raise DataError(f"{place}: {what}; leave it out, or by 'data.drop=[\"{name}\"]'")
        made[name] = pd.Series(values, dtype=values.dtype)
    return pd.DataFrame(made)


def _of_series(column: Any, as_text: bool) -> np.ndarray | None:
    """Return what `_of_arrow` does, of a series of pandas."""
    kind = column.dtype
    if kind.name == "category":
        return _of_series(column.astype(kind.categories.dtype), as_text)
    if kind.kind == "m":
        column = column.dt.total_seconds()
        kind = column.dtype
    if kind.kind in "iuf" and not as_text:
        whole = kind.kind in "iu" and not column.isna().any() and kind.name.lower() != "uint64"
        return column.to_numpy(np.int64 if whole else np.float64, na_value=np.nan)
    if kind.kind == "M":
        days = column.dropna()
        form = "%Y-%m-%d" if (days == days.dt.normalize()).all() else "%Y-%m-%d %H:%M:%S"
        column = column.dt.strftime(form)
    cells = column.astype(object).where(column.notna(), "").to_list()
    plain = (str, int, float, bool, np.generic, datetime.date, datetime.time, decimal.Decimal)
    if not all(isinstance(cell, plain) for cell in cells):
        return None
    return np.array([_shown(cell) for cell in cells], object)


def _shown(cell: object) -> str:
    """Return a cell of a series as a CSV has it."""
    if isinstance(cell, datetime.datetime):
        return str(_value(cell))
    return str(cell.item() if isinstance(cell, np.generic) else cell)


def _refuse_large(file: Path, about: Any) -> None:
    """Refuse a table that memory does not hold: a few bytes may say a million times the same.

    Raises:
        DataError: naming the file and its size.
    """
    count, free = about.num_rows * about.num_columns, opening.free_memory()
    if 8 * count > opening.SHARE * free:
        what = f"{about.num_rows:,} rows of {about.num_columns:,} columns"
        need = f"need {8 * count / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free"
        raise DataError(f"{file}: {what} {need}; take fewer rows or columns")


def parquet_names(file: Path) -> list[str]:
    """Return the names of a file's columns, less those of pandas' index.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        from pyarrow.parquet import read_schema
    except ImportError:
        raise lacking(file) from None
    return [name for name in read_schema(file).names if not _INDEX.fullmatch(name)]


def parquet_blocks(
    file: Path, rows: int, texts: Collection[str] | None = (),
    only: Sequence[str] | None = None,
) -> Iterator[list[tuple[str, np.ndarray]]]:  # fmt: skip
    """Yield the columns of a file, at most `rows` rows at a time.

    They are as `Read.columns` has them.

    Args:
        texts: as of `read`.
        only: columns that are read, where not all are; then each must be of a type that is read,
            else a column of another type than numbers, texts and dates is empty.

    Raises:
        DataError: pyarrow is not installed, or a column of `only` is of another type.
    """
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise lacking(file) from None
    with ParquetFile(file, pre_buffer=False, buffer_size=2**16) as table:  # no whole row group
        columns = None if only is None else [*only]
        for batch in table.iter_batches(rows, columns=columns, use_threads=False):
            part, made = pa.table(batch), []
            for name, column in zip(part.column_names, part.columns, strict=True):
                if _INDEX.fullmatch(name):
                    continue
                values = _of_arrow(column, texts is None or name_of(name) in texts)
                if values is None and only is not None:
                    raise _of_no_type(file, name_of(name), column.type)
                made.append((name, np.full(len(part), "", object) if values is None else values))
            yield made


def _of_no_type(file: Path, name: str, kind: Any) -> DataError:
    what = f"column {name} holds {kind}, which is no number, text or date"
    mend = f"leave it out of the file, or by 'data.drop=[\"{name}\"]'"
    return DataError(f"{file}: {what}; {mend}")


def _of_arrow(column: Any, as_text: bool) -> np.ndarray | None:
    """Return a column's cells as numbers, or as texts, empty where missing; None of other types."""
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_decimal(kind) and not as_text:
        kind = pa.float64()
        column = column.cast(kind)
    if types.is_duration(kind):
        unit = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        column = compute.divide(column.cast(pa.int64()).cast(pa.float64()), unit)
        kind = column.type
    if (types.is_integer(kind) or types.is_floating(kind)) and not as_text:
        values = column.to_numpy()
        small = values.dtype.kind in "iu" and values.dtype != np.uint64
        return values.astype(np.int64 if small else np.float64)
    if types.is_timestamp(kind) or types.is_date(kind):
        form = "%Y-%m-%d" if types.is_date(kind) else "%Y-%m-%d %H:%M:%S"
        column = compute.strftime(column, format=form)  # a zone's own time, as a CSV has it
    elif not any(
        test(kind) for test in (
            types.is_null, types.is_string, types.is_large_string, types.is_string_view,
            types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_time,
        )
    ):  # fmt: skip
        return None
    values = column.to_numpy() if types.is_floating(kind) else column.to_pylist()
    return np.array(["" if v is None or v != v else str(v) for v in values], object)


def _excel(file: Path, texts: Collection[str] | None, drop: Collection[str]) -> Read:
    import openpyxl

    with file.open("rb") as stream:
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
        names = [sheet.title for sheet in book.worksheets]
        if not names:
            return Read([])
        sheet = book.worksheets[0]
        sheet.reset_dimensions()
        cells = list(_rows(file, sheet))
        _refuse_half(file, sheet)
    kept = [row for row in cells if any(value is not None for value in row)]
    first = cells.index(kept[0]) + 1 if kept else 0
    width = max((len(row) for row in kept), default=0)
    kept = [row + [None] * (width - len(row)) for row in kept]
    while width and all(row[width - 1] is None for row in kept):
        width -= 1
    header = ["" if name is None else text_of(name) for name in kept[0][:width]] if kept else []
    made = []
    for i, name in enumerate(header):
        column = [row[i] for row in kept[1:]]
        made.append((name, _typed(column, texts is None or name_of(name) in texts)))
    rest = f" of {len(names)} ({', '.join(names[1:4])}{', ...' * (len(names) > 4)} not read)"
    note = [f"{file.name}: sheet {names[0]}{rest}"] if len(names) > 1 else []
    return Read(made, first, note)


def _rows(file: Path, sheet: Any) -> Iterator[list]:
    """Yield the rows of a sheet, without the empty cells at their ends.

    Raises:
        DataError: more cells than memory holds; a few bytes may name the last one of a sheet.
    """
    count, most = 0, min(MOST_CELLS, opening.SHARE * opening.free_memory() / CELL_BYTES)
    for row in sheet.iter_rows(values_only=True):
        if (count := count + len(row)) > most:
            mend = "remove the far ones, or take fewer rows or columns"
            raise DataError(f"{file}: sheet {sheet.title}: more than {most:,.0f} cells; {mend}")
        cells = [_value(value) for value in row]
        while cells and cells[-1] is None:
            cells.pop()
        yield cells


def _value(cell: object) -> object:
    """Return a cell of Excel as a number or a text; None where it is empty."""
    if isinstance(cell, datetime.datetime):
        whole = cell.time() == datetime.time()
        return f"{cell:%Y-%m-%d}" if whole else f"{cell:%Y-%m-%d %H:%M:%S}"
    if isinstance(cell, datetime.timedelta):
        return cell.total_seconds()
    if isinstance(cell, bool | datetime.date | datetime.time):
        return str(cell)
    return None if cell == "#N/A" or (isinstance(cell, str) and not cell.strip()) else cell


def _typed(column: list, as_text: bool) -> np.ndarray:
    """Return cells of Excel as numbers with NaN where all are numbers, else as texts."""
    numbers = [value for value in column if value is not None]
    if not as_text and numbers and all(isinstance(value, int | float) for value in numbers):
        if len(numbers) == len(column) and all(isinstance(value, int) for value in numbers):
            return np.array(column, np.int64 if max(map(abs, numbers)) < 2**62 else np.float64)
        return np.array([np.nan if value is None else value for value in column], float)
    return np.array(["" if value is None else text_of(value) for value in column], object)


def _refuse_half(file: Path, sheet: Any) -> None:
    """Refuse merged cells, and formulas whose values are not in the file.

    Raises:
        DataError: naming the first of them.
    """
    with zipfile.ZipFile(file) as archive:
        raw = archive.read(sheet._worksheet_path)
    at = f"{file}: sheet {sheet.title}:"
    if merged := _MERGED.search(raw):
        why = "are merged cells, of which only the first has the value; unmerge them, and fill in"
        raise DataError(f"{at} {merged[1].decode()} {why} the others")
    if formula := _FORMULA.search(raw):
        why = "is a formula without a value; save the file in Excel, or the table as a CSV"
        raise DataError(f"{at} {formula[1].decode()} {why}")
