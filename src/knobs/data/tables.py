"""Files of tables -> texts: CSV of any separator and encoding, packed or not; Parquet and Excel."""

import codecs
import collections
import csv
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from knobs.errors import DataError, first_line

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "space": " "}
ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
PACKAGES = {".parquet": "pyarrow", ".xlsx": "openpyxl"}
GLANCE = 20  # records that tell the separator
BROKEN = (ValueError, OSError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error, LookupError)


@dataclass(frozen=True)
class Form:
    """How a file of text is read: its separator and its encoding; empty for other files."""

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


def read(file: Path, sep: str, encoding: str) -> tuple[Any, Form]:
    """Return a data frame of texts, an empty one where there is no cell, and how it was read.

    Args:
        sep: auto, or a name of SEPARATORS.
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
            frame, form = _of_text(file, sep, encoding)
    except DataError:
        raise
    except BROKEN as error:  # pandas' parser errors are ValueErrors
        raise DataError(f"{file}: not a CSV with a header ({first_line(error)})") from None
    if not len(frame):
        raise DataError(f"{file}: has no rows")
    return frame, form


def records(file: Path, form: Form) -> Iterator[tuple[int, list[str]]]:
    """Yield the line on which each record begins, from 1, and its cells; empty lines are none."""
    with _text(file, form.encoding) as lines:
        cells = csv.reader(lines, delimiter=form.sep, skipinitialspace=form.sep == " ")
        line = 1
        for record in cells:
            if "".join(record).strip() or len(record) > 1:  # pandas skips empty lines
                yield line, record
            line = cells.line_num + 1


def _of_text(file: Path, sep: str, encoding: str) -> tuple[Any, Form]:
    import pandas as pd

    encoding = _encoding(file) if encoding == "auto" else encoding
    try:
        codecs.lookup(encoding)
    except LookupError:
        must = "auto or a name such as utf-8, latin-1 or cp1252"
        raise DataError(f"data.encoding={encoding}: must be {must}") from None
    form = Form(_separator(file, encoding) if sep == "auto" else SEPARATORS[sep], encoding)
    header = next((cells for _, cells in records(file, form)), None)
    if header is None:
        raise DataError(f"{file}: not a CSV with a header (it is empty)")
    names = _names(file, header)
    with _text(file, encoding) as lines, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(
                lines, sep=r"\s+" if form.sep == " " else form.sep, header=0, names=names,
                dtype=object, keep_default_na=False, na_filter=False, index_col=False,
                low_memory=False,
            )  # fmt: skip
        except pd.errors.ParserWarning:
            raise DataError(f"{file}: its rows have more cells than its header has names") from None
    return frame, form


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
        mend = f"pip install {package}, or write the table as a CSV"
        raise DataError(f"{file}: to read it takes {package}; {mend}") from None
    frame = frame.astype(object).where(frame.notna(), "").map(str)
    if package == "openpyxl":
        names = _names(file, frame.iloc[0].tolist() if len(frame) else [])
        frame = frame.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    return frame.set_axis(_names(file, list(map(str, frame.columns))), axis=1)


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
            yield stream
        return
    with zipfile.ZipFile(file) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/")]
        if len(members) != 1:
            raise DataError(f"{file}: has {len(members)} files; must have one, the table")
        with archive.open(members[0]) as stream:
            yield stream


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
