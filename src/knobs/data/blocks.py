"""Files of tables and of texts, a block of rows at a time: what is larger than memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from knobs.data import cells, opening, tables


def stream(file: Path, sep: str, encoding: str, rows: int) -> Iterator[Any]:
    """Yield a file's rows as data frames of at most `rows`, all of them alike.

    Cells are texts; of .parquet, and of .xlsx, which has a million rows at most and is read whole,
    also numbers.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    opening.check(file, whole=False)
    suffix = file.suffix.lower()
    if suffix == ".xlsx":
        frame, _ = tables.read(file, sep, encoding)
        for start in range(0, len(frame), rows):
            yield frame.iloc[start : start + rows]
        return
    made = _parquet(file, rows) if suffix == ".parquet" else _text(file, sep, encoding, rows)
    with opening.unchanged(file):
        while True:
            with tables.reading(file):
                block = next(made, None)
            if block is None:
                return
            yield block


def _text(file: Path, sep: str, encoding: str, rows: int) -> Iterator[Any]:
    form, names = tables.header(file, sep, encoding)
    yield from tables.chunks(file, form, names, rows, dtype=object, na_filter=False)


def _parquet(file: Path, rows: int) -> Iterator[Any]:
    import pandas as pd

    rows = max(1, min(rows, tables.MOST_AT_ONCE // max(1, len(cells.parquet_names(file)))))
    for block in cells.parquet_blocks(file, rows):
        names = tables.names_of(file, [name for name, _ in block])
        columns = zip(names, (values for _, values in block), strict=True)
        yield pd.DataFrame({name: pd.Series(v, dtype=v.dtype) for name, v in columns})


@contextmanager
def lines_of(file: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a file of lines; `auto` as of `tables.read`."""
    opening.check(file, whole=False)
    with tables.text(file, tables.encoding_of(file, encoding), whole=False) as lines:
        yield lines
