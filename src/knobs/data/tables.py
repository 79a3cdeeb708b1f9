"""Files of tables -> texts: CSV of any separator and encoding, packed or not; Parquet and Excel."""

import codecs
import collections
import csv
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from knobs.data.columns import MARKERS
from knobs.errors import DataError, first_line

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
PACKED = {".gz", ".bz2", ".xz", ".zip"}
PACKAGES = {".parquet": "pyarrow", ".xlsx": "openpyxl"}
# MARKERS as they are written, most of the time.
WORDS = [*MARKERS, "NA", "N/A", "N.A.", "NaN", "NAN", "Null", "NULL", "None", "NONE"]
GLANCE = 20  # records that tell the separator
# A packed file holds at most so many times its bytes, once it is beyond the second number; and no
# line of text is longer than the third. A crafted file of 10 MB unpacks to 10 GB.
MOST_RATIO, SMALL, MOST_LINE = 200, 2**28, 2**26
BROKEN = (ValueError, OSError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error, LookupError)


@dataclass(frozen=True)
class Form:
    """The separator and the encoding of a file of text; empty for other files."""

    sep: str = ""
    encoding: str = ""

    def notes(self, file: Path) -> list[str]:
        """Return what is to be said of it: nothing of UTF-8 and commas."""
        names = {sign: name for name, sign in SEPARATORS.items()}
        told = []
        if self.encoding and not self.encoding.replace("-", "").startswith("utf8"):
            told.append(f"read as {self.encoding}")
        if self.sep and self.sep != ",":
            told.append(f"separated by {names[self.sep]}")
        return [f"{file.name}: {', '.join(told)}"] if told else []


def read(
    file: Path,
    sep: str,
    encoding: str,
    texts: Collection[str] | None = None,
    na: Sequence[str] = (),
) -> tuple[Any, Form]:
    """Return a data frame of texts, an empty one where there is no cell, and how it was read.

    Args:
        sep: auto, or a name of SEPARATORS.
        texts: columns that must be texts; others may be numbers with NaN, if no cell of the file
            begins as a code does, `01`. That takes a fifth of the time. None: all are texts.
        na: words that mean missing in those others, besides MARKERS.
        encoding: auto, or a name that Python knows. Auto is UTF-8, UTF-16 if a byte order mark says
            so, and Windows' cp1252 for bytes that are no UTF-8.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected a CSV with a header")
    try:
        if file.suffix.lower() in PACKAGES:
            frame, form = _of_cells(file), Form()
        else:
            frame, form = _of_text(file, sep, encoding, texts, na)
    except DataError:
        raise
    except BROKEN as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{file}: not a CSV with a header ({first_line(error)})") from None
    if not len(frame):
        raise DataError(f"{file}: has no rows")
    return frame, form


def stream(file: Path, sep: str, encoding: str, rows: int) -> Iterator[Any]:
    """Yield a file's rows as data frames of at most `rows`, all of them alike, never the whole.

    Cells are texts, but of .parquet and .xlsx, which has a million rows at most and is read whole:
    these are as they are.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; expected a CSV with a header")
    suffix = file.suffix.lower()
    read = {".parquet": _parquet_blocks, ".xlsx": _excel_blocks}.get(suffix)
    try:
        yield from read(file, rows) if read else _text_blocks(file, sep, encoding, rows)
    except DataError:
        raise
    except ImportError:
        raise _lacks_package(file) from None
    except BROKEN as error:
        what = {".parquet": "a Parquet file", ".xlsx": "an Excel file"}.get(suffix)
        what = what or "a CSV with a header"
        raise DataError(f"{file}: not {what} ({first_line(error)})") from None


def _text_blocks(file: Path, sep: str, encoding: str, rows: int) -> Iterator[Any]:
    form, names = header(file, sep, encoding)
    options = {"dtype": object, "na_filter": False, "chunksize": rows}
    with (
        _text(file, form.encoding) as lines,
        _read_csv(file, lines, form, names, options) as blocks,
    ):
        while True:
            with _no_more_cells(file):
                block = next(blocks, None)
            if block is None:
                return
            yield block


def _parquet_blocks(file: Path, rows: int) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        names = _names(file, list(map(str, table.schema_arrow.names)))
        for batch in table.iter_batches(batch_size=rows):
            yield batch.to_pandas().set_axis(names, axis=1)


def _excel_blocks(file: Path, rows: int) -> Iterator[Any]:
    import pandas as pd

    with zipfile.ZipFile(file) as archive:
        _bound(file, sum(part.file_size for part in archive.infolist()))
    frame = pd.read_excel(file, engine="openpyxl", header=None, dtype=object)
    first = frame.iloc[0] if len(frame) else frame
    names = _names(file, ["" if cell != cell else str(cell) for cell in first])
    for start in range(1, len(frame), rows):
        yield frame.iloc[start : start + rows].set_axis(names, axis=1)


def _bound(file: Path, unpacked: int) -> None:
    """Refuse a packed file that holds far more than files do: it would fill memory or disk."""
    if unpacked > max(SMALL, MOST_RATIO * file.stat().st_size):
        most = f"{MOST_RATIO} times its size, and more than {SMALL // 2**20} MiB"
        raise DataError(f"{file}: unpacks to more than {most}; if it is sound, unpack it first")


class _Bounded(io.RawIOBase):
    """Unpacked bytes of a file, refused where there are far too many, or one line has no end."""

    def __init__(self, file: Path, stream: IO[bytes]):
        self.file, self.stream, self.total, self.line = file, stream, 0, 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, room: Any) -> int:
        """Read into a buffer; return how many bytes.

        Raises:
            DataError: see MOST_RATIO and MOST_LINE.
        """
        data = self.stream.read(len(room))
        room[: len(data)] = data
        self.total += len(data)
        if self.file.suffix.lower() in PACKED:
            _bound(self.file, self.total)
        ends = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.line = self.line + len(data) if ends < 0 else len(data) - ends
        if self.line > MOST_LINE:
            raise DataError(f"{self.file}: a line of more than {MOST_LINE // 2**20} MiB")
        return len(data)


def records(file: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, from 1, and its cells; empty lines are none."""
    with _text(file, form.encoding) as lines:
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
    encoding = _encoding(file) if encoding == "auto" else encoding
    try:
        codecs.lookup(encoding)
    except LookupError:
        must = "auto or a name such as utf-8, latin-1 or cp1252"
        raise DataError(f"data.encoding={encoding}: must be {must}") from None
    form = Form(_separator(file, encoding) if sep == "auto" else SEPARATORS[sep], encoding)
    first = next((cells for _, cells in records(file, form)), None)
    if first is None:
        raise DataError(f"{file}: not a CSV with a header (it is empty)")
    return form, _names(file, first)


def _of_text(
    file: Path, sep: str, encoding: str, texts: Collection[str] | None, na: Sequence[str]
) -> tuple[Any, Form]:
    form, names = header(file, sep, encoding)
    if texts is None or _has_codes(file, form):
        return _frame(file, form, names, dtype=object, na_filter=False), form
    free = [name for name in names if name not in texts]
    words = {name: [*WORDS, *na] for name in free}
    frame = _frame(file, form, names, dtype=dict.fromkeys(texts, object), na_values=words)
    # True and False, of which pandas makes its own, and what may have been whole numbers.
    unsure = [name for name in free if frame[name].dtype in (bool, object) or _whole(frame[name])]
    if unsure:
        again = _frame(file, form, names, dtype=object, na_filter=False, usecols=unsure)
        frame = frame.assign(**{name: again[name] for name in unsure})
    return frame.astype({c: object for c in free if frame[c].dtype.kind not in "iuf"}), form


def _frame(file: Path, form: Form, names: list[str], **options: Any) -> Any:
    """Return the data frame of a file of text.

    Raises:
        DataError: the first row has more cells than there are names.
    """
    with _text(file, form.encoding) as lines:
        return _read_csv(file, lines, form, names, options)


def _read_csv(
    file: Path, lines: IO[str], form: Form, names: list[str], options: dict[str, Any]
) -> Any:
    """Return what pandas makes of a text; as of `_frame`."""
    import pandas as pd

    with _no_more_cells(file):
        return pd.read_csv(
            lines, sep=r"\s+" if form.sep == " " else form.sep, header=0, names=names,
            keep_default_na=False, index_col=False, low_memory=False, **options,
        )  # fmt: skip


@contextmanager
def _no_more_cells(file: Path) -> Iterator[None]:
    """Refuse a first row that has more cells than there are names; pandas would cut it."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            yield
        except pd.errors.ParserWarning:
            raise DataError(f"{file}: its rows have more cells than its header has names") from None


def _whole(column: Any) -> bool:
    """Return whether whole numbers, all different, are floats, for the cells that are missing."""
    present = column.dropna() if column.dtype.kind == "f" else column[:0]
    return 0 < len(present) < len(column) and bool((present % 1 == 0).all() and present.is_unique)


def _has_codes(file: Path, form: Form) -> bool:
    """Return whether a cell begins with 0 and a digit, or may do so in an encoding of two bytes."""
    if form.encoding not in ("utf-8", "utf-8-sig", "cp1252", "latin-1"):
        return True
    code = re.compile(rb"[\n\r\"" + re.escape(form.sep.encode()) + rb"] *0\d")
    tail = b"\n"
    with _binary(file) as stream:
        while block := stream.read(2**20):
            if code.search(tail + block):
                return True
            tail = block[-64:]
    return False


def _of_cells(file: Path) -> Any:
    """Return the table of a file whose cells have types, as texts."""
    import pandas as pd

    package = PACKAGES[file.suffix.lower()]
    try:
        if package == "pyarrow":
            frame = pd.read_parquet(file, engine="pyarrow")
        else:
            frame = pd.read_excel(file, engine="openpyxl", header=None, dtype=object)
    except ImportError:
        raise _lacks_package(file) from None
    frame = frame.astype(object).where(frame.notna(), "").map(str)
    if package == "openpyxl":
        names = _names(file, frame.iloc[0].tolist() if len(frame) else [])
        frame = frame.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    return frame.set_axis(_names(file, list(map(str, frame.columns))), axis=1)


def _lacks_package(file: Path) -> DataError:
    package = PACKAGES[file.suffix.lower()]
    mend = f"pip install {package}, or write the table as a CSV"
    return DataError(f"{file}: to read it takes {package}; {mend}")


def _names(file: Path, header: list[str]) -> list[str]:
    """Return the names of columns; one without is named by its place, as pandas names it.

    Raises:
        DataError: two of one name.
    """
    names = [name if name.strip() else f"Unnamed: {i}" for i, name in enumerate(header)]
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise DataError(f"{file}: more than one column {', '.join(twice)}; rename all but one")
    return names


def member(file: Path) -> str:
    """Return the name of the one file that a .zip holds.

    Raises:
        DataError: it holds none, or several.
    """
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    if len(names) != 1:
        raise DataError(f"{file}: has {len(names)} files; must have one, the table")
    return names[0]


@contextmanager
def _binary(file: Path) -> Iterator[IO[bytes]]:
    """Open a file, unpacked if its name ends in .gz, .bz2, .xz or .zip."""
    import bz2
    import gzip
    import lzma

    unpack = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    suffix = file.suffix.lower()
    if suffix != ".zip":
        with unpack.get(suffix, open)(file, "rb") as stream:
            yield io.BufferedReader(_Bounded(file, stream), 2**16)
        return
    with zipfile.ZipFile(file) as archive, archive.open(member(file)) as stream:
        yield io.BufferedReader(_Bounded(file, stream), 2**16)


@contextmanager
def lines_of(file: Path, encoding: str) -> Iterator[IO[str]]:
    """Open a file of lines; `auto` as of `read`."""
    with _text(file, _encoding(file) if encoding == "auto" else encoding) as lines:
        yield lines


@contextmanager
def _text(file: Path, encoding: str) -> Iterator[IO[str]]:
    with _binary(file) as stream, io.TextIOWrapper(stream, encoding, newline="") as lines:
        yield lines


def _encoding(file: Path) -> str:
    """Return what a file begins with, or what its bytes are: utf-8, else cp1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _binary(file) as stream:
        block = stream.read(2**20)
        for mark, name in ENCODINGS.items():
            if block.startswith(mark):
                return name
        try:
            while block:
                decoder.decode(block)
                block = stream.read(2**20)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


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
