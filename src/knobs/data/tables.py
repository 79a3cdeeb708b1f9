"""Files of tables -> texts: CSV of any separator and encoding, packed or not; Parquet and Excel."""

import codecs
import collections
import csv
import io
import itertools
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from knobs.data import cells, opening
from knobs.data.columns import MARKERS, table_decimal
from knobs.data.notation import name_of, parts_of, plain_numbers
from knobs.errors import DataError, first_line, making, size, starved

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
# MARKERS as they are written, most of the time.
WORDS = [*MARKERS, "NA", "N/A", "N.A.", "NaN", "NAN", "Null", "NULL", "None", "NONE"]
GLANCE = 20  # records that tell the separator
MOST_COLUMNS = 20_000  # of a table
MOST_CELL = 2**24  # characters of a cell
MOST_AT_ONCE = 2**22  # cells that are read at once, of a table of many columns
HEAD = 1000  # rows that tell the decimal sign, as many as table_decimal looks at
KIND = "a CSV with a header"
BROKEN = (
    ValueError, OSError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    LookupError, RuntimeError, SyntaxError,  # of zip, and of XML
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """The way in which a file was read.

    Args:
        sep, encoding: of a file of text; empty for other files.
        decimal: of a file of text, the sign of the columns that leave no doubt; "" if none does.
        first: rows before the first that is read, of other files.
        said: what is to be said of other files.
    """

    sep: str = ""
    encoding: str = ""
    decimal: str = ""
    first: int = 0
    said: tuple[str, ...] = ()

    def notes(self, file: Path) -> list[str]:
        """Return what is to be said of it: nothing of UTF-8 and commas."""
        names = {sign: name for name, sign in SEPARATORS.items()}
        told = []
        if self.encoding and not self.encoding.replace("-", "").startswith("utf8"):
            told.append(f"read as {self.encoding}")
        if self.sep and self.sep != ",":
            told.append(f"separated by {names[self.sep]}")
        return [f"{file.name}: {', '.join(told)}", *self.said] if told else [*self.said]


def read(
    file: Path,
    sep: str,
    encoding: str,
    texts: Collection[str] | None = None,
    na: Sequence[str] = (),
    decimal: str = "auto",
    drop: Collection[str] = (),
) -> tuple[Any, Form]:
    """Return a data frame of texts, an empty one where there is no cell, and how it was read.

    Args:
        sep: auto, or a name of SEPARATORS.
        texts: columns that must be texts; others are numbers with NaN where each of their cells is
            missing or a plain number, and none a code, `01`. That takes a fifth of the time. None:
            all are texts.
        na: words that mean missing in those others, besides MARKERS.
        encoding: auto, or a name that Python knows. Auto is UTF-8, UTF-16 if a byte order mark says
            so, and Windows' cp1252 for bytes that are no UTF-8.
        decimal: auto, point or comma, the decimal sign of plain numbers.
        drop: columns of Parquet that may be of any type, as they are left out.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    opening.check(file)
    with reading(file):
        if file.suffix.lower() in cells.PACKAGES:
            frame, form = _of_cells(file, texts, drop, na)
        else:
            frame, form = _of_text(file, sep, encoding, texts, na, decimal)
        refuse_long_cells(file, frame)
    if not len(frame):
        raise DataError(f"{file}: has no rows")
    return frame, form


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Say of a file's reader which file is no table, or too large for memory, or changes.

    Raises:
        DataError: naming the file. MemoryShortage: naming it with its size.
    """
    suffix = file.suffix.lower()
    kind = {".parquet": "a Parquet file", ".xlsx": "an Excel file"}.get(suffix, KIND)
    what = f"the cells of {file}, a file of {size(file.stat().st_size)}"
    smaller = "take fewer rows or columns"
    if suffix != ".xlsx":
        smaller += ", or train with data.storage=map, from the disk"
    with making(what, smaller):
        try:
            with opening.unchanged(file):
                yield
        except BROKEN as error:  # pandas' parser errors are ValueErrors
            if isinstance(error, DataError) or starved(error):
                raise
            raise DataError(f"{file}: not {kind} ({first_line(error)})") from None


def refuse_long_cells(file: Path, frame: Any) -> None:
    """Refuse a cell that no table has, as an open quote makes one of the rest of its file.

    Raises:
        DataError: naming the file and the column.
    """
    if file.stat().st_size <= MOST_CELL and file.suffix.lower() not in opening.UNPACK:
        return
    for name in frame:
        texts = frame[name] if frame[name].dtype == object else ()
        if max((len(text) for text in texts if isinstance(text, str)), default=0) > MOST_CELL:
            more = f"has a cell of more than {MOST_CELL:,} characters"
            raise DataError(f"{file}: {name} {more}; is a quote left open?")


def records(file: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, from 1, and its cells; empty lines are none."""
    csv.field_size_limit(opening.MOST_LINE)
    with text(file, form.encoding, whole=False) as lines:
        cells = csv.reader(lines, delimiter=form.sep, skipinitialspace=form.sep == " ")
        line = 1
        for record in cells:
            if "".join(record).strip() or len(record) > 1:  # pandas skips empty lines
                yield line, record
            line = cells.line_num + 1


def header(file: Path, sep: str, encoding: str) -> tuple[Form, list[str]]:
    """Return how a file of text is read, and the names of its columns.

    Raises:
        DataError: no such encoding, no header, or two columns of one name.
    """
    encoding = encoding_of(file, encoding)
    form = Form(_separator(file, encoding) if sep == "auto" else SEPARATORS[sep], encoding)
    first = next((record for _, record in records(file, form)), None)
    if first is None:
        raise DataError(f"{file}: not a CSV with a header (it is empty)")
    return form, names_of(file, first)


def _of_text(
    file: Path, sep: str, encoding: str, texts: Collection[str] | None, na: Sequence[str],
    decimal: str,
) -> tuple[Any, Form]:  # fmt: skip
    form, names, options = plan(file, sep, encoding, texts, na, decimal)
    frame = _frame(file, form, names, **options)
    last = frame.iloc[:, -1]
    if (last.isna() | (last.astype(object) == "")).any():
        refuse_short(file, form, len(names))
    if texts is None:
        return frame, form
    free = [name for name in names if name not in texts]
    # True and False, of which pandas makes its own; whole numbers with cells missing; codes.
    codes = coded(file, form, names)
    doubtful = [
        name for name in free
        if frame[name].dtype in (bool, object) or unsure(frame[name].to_numpy(), name in codes)
    ]  # fmt: skip
    if doubtful:
        again = _frame(file, form, names, dtype=object, na_filter=False, usecols=doubtful)
        frame = frame.assign(**{name: again[name] for name in doubtful})
    return frame.astype({c: object for c in free if frame[c].dtype.kind not in "iuf"}), form


def plan(
    file: Path, sep: str, encoding: str, texts: Collection[str] | None, na: Sequence[str],
    decimal: str,
) -> tuple[Form, list[str], dict[str, Any]]:  # fmt: skip
    """Return how a file of text is read, its names, and the options of `parsed`."""
    form, names = header(file, sep, encoding)
    every = {"dtype": object, "na_filter": False}
    if texts is None:
        return form, names, every
    if decimal == "auto":
        head = _frame(file, form, names, **every, nrows=HEAD)
        decimal = table_decimal({name: head[name].to_numpy() for name in names}, na)
    options = {"dtype": dict.fromkeys(texts, object), "decimal": "," if decimal == "comma" else "."}
    options["na_values"] = {name: [*WORDS, *na] for name in names if name not in texts}
    return replace(form, decimal=decimal), names, options


def chunks(file: Path, form: Form, names: list[str], rows: int, **options: Any) -> Iterator[Any]:
    """Yield the data frame of a file of text by at most `rows` rows; as of `parsed`."""
    rows = max(1, min(rows, MOST_AT_ONCE // len(names)))
    with (
        text(file, form.encoding, whole=False) as lines,
        parsed(lines, form, names, **options, chunksize=rows) as blocks,
    ):
        while True:
            with no_more_cells(file):
                block = next(blocks, None)
            if block is None:
                return
            refuse_long_cells(file, block)
            yield block


def _frame(file: Path, form: Form, names: list[str], **options: Any) -> Any:
    """Return the data frame of a file of text; as of `parsed`."""
    with text(file, form.encoding) as lines, no_more_cells(file):
        return parsed(lines, form, names, **options)


def parsed(lines: IO[str], form: Form, names: list[str], **options: Any) -> Any:
    """Return what pandas makes of lines below a header."""
    import pandas as pd

    return pd.read_csv(
        lines, sep=r"\s+" if form.sep == " " else form.sep, header=0, names=names,
        keep_default_na=False, index_col=False, low_memory=False, **options,
    )  # fmt: skip


@contextmanager
def no_more_cells(file: Path) -> Iterator[None]:
    """Refuse a first row that has more cells than there are names; pandas would cut it.

    Raises:
        DataError: naming the file.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            yield
        except pd.errors.ParserWarning:
            raise DataError(f"{file}: its rows have more cells than its header has names") from None


def unsure(values: np.ndarray, codes: bool) -> bool:
    """Return whether numbers must be seen as texts.

    They are if some may be codes, or if whole numbers, all different, are floats for the cells
    that are missing.
    """
    if codes or values.dtype.kind != "f":
        return codes
    present = values[~np.isnan(values)]
    some = 0 < len(present) < len(values)
    return some and bool((np.floor(present) == present).all()) and _unique(present)


def _unique(values: np.ndarray) -> bool:
    return bool((np.diff(np.sort(values)) > 0).all())


def refuse_short(file: Path, form: Form, width: int) -> None:
    """Refuse a row with fewer cells than there are names; pandas takes the rest as empty.

    It takes as long as to read the file: every row has its last cell, unless that is empty.

    Raises:
        DataError: naming its line.
    """
    if form.sep == " ":  # whitespace has no empty cells
        return
    for line, record in records(file, form):
        if len(record) < width:
            has = f"has {len(record)} cells, the header {width} names"
            raise DataError(f"{file}, line {line}: {has}; correct it, or take it out")


def coded(file: Path, form: Form, names: list[str]) -> Collection[str]:
    """Return the columns in which a cell begins with 0 and a digit; all of them where unknown."""
    if form.encoding not in ("utf-8", "utf-8-sig", "cp1252", "latin-1") or form.sep == " ":
        return names
    sep = form.sep.encode()
    quoted = re.compile(rb'"(?! *0\d)[^"\r\n]*"')
    quoted_code = re.compile(rb'"( *0\d[^"\r\n' + sep + rb']*)"')
    code = re.compile(rb"[\r\n" + re.escape(sep) + rb"] *0\d")
    found, tail = set(), b"\n"
    with opening.binary(file) as stream:
        while (block := stream.read(2**20)) or tail.strip():
            lines, tail = tail + block, b""
            if block:  # the last line may not be whole
                end = max(lines.rfind(b"\n"), lines.rfind(b"\r"))
                lines, tail = lines[:end], lines[end:]
            if b'"' in lines and b'"' in (lines := quoted_code.sub(rb"\1", quoted.sub(b"", lines))):
                return names  # quoted cells of several lines, or with the separator in them
            found.update(_places(lines, code, sep))
    return [names[i] for i in found if i < len(names)]


def _places(block: bytes, cell: re.Pattern, sep: bytes) -> Iterator[int]:
    """Yield the columns, from 0, of what is found in lines without quotes."""
    start = 0
    for match in cell.finditer(block):
        at = match.start()
        if block[at : at + 1] != sep:
            start = at
            yield 0
            continue
        start = max(block.rfind(b"\n", start, at), block.rfind(b"\r", start, at), start)
        yield block.count(sep, start, at + 1)


def _of_cells(
    file: Path, texts: Collection[str] | None, drop: Collection[str], na: Sequence[str]
) -> tuple[Any, Form]:
    """Return the table of a file whose cells have types."""
    import pandas as pd

    made = cells.read(file, texts, drop)
    names = names_of(file, [name for name, _ in made.columns])
    columns = zip(names, (values for _, values in made.columns), strict=True)
    series = {name: pd.Series(values, dtype=values.dtype) for name, values in columns}
    series = without_words(series, na)
    return pd.DataFrame(series), Form(first=made.first, said=tuple(made.notes))


def without_words(columns: dict[str, Any], na: Sequence[str]) -> dict[str, Any]:
    """Return columns with those numbers as NaN that are words which mean missing."""
    import pandas as pd

    gone = plain_numbers(np.array(na, object))
    gone = gone[~np.isnan(gone)]
    for name, values in columns.items() if len(gone) else ():
        cells = pd.Series(values, dtype=values.dtype)
        if values.dtype.kind in "iuf" and (found := cells.isin(gone)).any():
            columns[name] = cells.astype(float).mask(found)
    return columns


def names_of(file: Path, header: list[str]) -> list[str]:
    """Return the names of columns; one without is named by its place, as pandas names it.

    Raises:
        DataError: two of one name, or a first line of numbers, which is no header.
    """
    if len(header) > MOST_COLUMNS:
        mend = "leave columns out of the file; are its rows its columns?"
        raise DataError(f"{file}: has {len(header):,} columns, at most {MOST_COLUMNS:,}; {mend}")
    if header and header[0].strip().lower() == "sep=":
        raise DataError(f"{file}: its first line is for Excel alone (sep=); take it out")
    numbers = [name.strip() for name in header if (parts := parts_of(name)) and not parts[2]]
    whole = [int(name) if name.isdigit() else -1 for name in numbers]
    rising = all(a < b for a, b in itertools.pairwise([-1, *whole]))  # years, or 0, 1, 2, ...
    if len(numbers) >= 0.5 * len(header) and numbers and not rising:
        first = ", ".join(name.strip() for name in header[:4])
        mend = "write a line with the names of the columns above it"
        raise DataError(
            f"{file}: its first line looks like data ({first}); has it a header? {mend}"
        )
    names = [name_of(name) or f"Unnamed: {i}" for i, name in enumerate(header)]
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{file}: more than one column {', '.join(twice)}; rename all but one")
    return names


@contextmanager
def text(file: Path, encoding: str, whole: bool = True) -> Iterator[IO[str]]:
    """Open a file of text; `whole` is as of `opening.check`."""
    with (
        opening.binary(file, whole) as stream,
        io.TextIOWrapper(stream, encoding, newline="") as lines,
    ):
        yield lines


def encoding_of(file: Path, encoding: str) -> str:
    """Return the encoding of a file: what it begins with, or what its bytes are, utf-8 or cp1252.

    Args:
        encoding: auto, or a name that Python knows.

    Raises:
        DataError: no such encoding, or bytes that no text has.
    """
    if encoding != "auto":
        try:
            codecs.lookup(encoding)
        except LookupError:
            must = "auto or a name such as utf-8, latin-1 or cp1252"
            raise DataError(f"data.encoding={encoding}: must be {must}") from None
        return encoding
    decoder, found = codecs.getincrementaldecoder("utf-8")(), "utf-8"
    with opening.binary(file, whole=False) as stream:
        block = stream.read(2**20)
        for mark, name in ENCODINGS.items():
            if block.startswith(mark):
                return name
        while block:
            if b"\0" in block:
                ask = "is it UTF-16, data.encoding=utf-16-le?"
                raise DataError(f"{file}: has bytes that no text has (NUL); {ask}")
            if found == "utf-8":
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    found = "cp1252"
            block = stream.read(2**20)
        if found == "utf-8":
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                found = "cp1252"
    return found


def _separator(file: Path, encoding: str) -> str:
    """Return the sign that cuts the first records into the most cells, as many in each."""
    even, ragged = {}, {}
    for sign in (",", ";", "\t", "|"):
        try:
            some = [len(cells) for _, cells in islice(records(file, Form(sign, encoding)), GLANCE)]
        except csv.Error:
            continue
        if some and some[0] > 1:
            (even if len(set(some)) == 1 else ragged)[sign] = some[0]
    found = even or ragged
    return max(found, key=found.get) if found else ","
