"""Whatever holds raw rows, texts or pictures -> blocks of them, never all at once."""

import csv
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knobs.data import blocks, opening, tables
from knobs.data.inputs import Pictures, Table
from knobs.data.pixels import IMAGES, picture_files
from knobs.errors import DataError, first_line, starved
from knobs.predict.reading import BLOCK, PICTURES, Model, Rows, columns_of

TABULAR = (".csv", ".tsv", ".parquet", ".xlsx")


def blocks_of(x: Any, model: Model) -> Iterator[Rows]:
    """Yield the raw rows of a file, a folder, a frame, a list, an array or one text.

    Raises:
        DataError: saying what this model takes.
    """
    if type(x).__module__.startswith("torch"):
        raise DataError("predict takes raw rows; tensors that are prepared go to model(tensor)")
    if hasattr(x, "to_pandas"):  # of polars and pyarrow
        x = x.to_pandas()
    kind = {"table": _of_table, "image": _of_pictures, "text": _of_texts}
    yield from kind[model.inputs.kind](x, model)


def file_blocks(path: Path, model: Model) -> Iterator[Rows]:
    """Yield the raw rows of a file or a folder.

    Raises:
        DataError: there is none, or it is of another kind.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    kind = model.inputs.kind
    if path.is_dir() and kind != "image":
        raise DataError(f"{path}: is a folder; this model takes {_takes(model)}")
    if kind == "image":
        yield from _picture_blocks(path)
    elif kind == "table" or _is_table(path, model):
        yield from _table_blocks(path, model)
    else:
        yield from _line_blocks(path, model)


def _takes(model: Model) -> str:
    """Return what a model takes, in words."""
    if isinstance(model.inputs, Table):
        names = list(columns_of(model.inputs).columns)
        shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
        what = "a data frame or a table file, of the columns"
        if not model.inputs.columns:
            what = f"an array (N, {len(names)}), or {what}"
        return f"{what} {shown}"
    if isinstance(model.inputs, Pictures):
        shape = ", ".join(map(str, ("N", len(model.inputs.mean), *model.inputs.size)))
        return f"pictures: a folder, a file, a list of files, or a uint8 array ({shape})"
    return "texts: a list, a file with one text a line, a table file, or one text"


def _cut(names: Sequence, raw: Any, size: int = BLOCK) -> Iterator[Rows]:
    """Yield rows that are in memory, in blocks."""
    places = getattr(raw, "iloc", raw)
    for start in range(0, len(names), size):
        yield Rows(names[start : start + size], places[start : start + size])


# ------------------------------------------------------------------ tables
def _of_table(x: Any, model: Model) -> Iterator[Rows]:
    import pandas as pd

    if isinstance(x, str | os.PathLike):
        yield from file_blocks(opening.path_of(x), model)
        return
    if isinstance(x, np.ndarray) and not model.inputs.columns:
        x = _named_array(x, model)
    elif isinstance(x, pd.Series):  # one row
        x = x.to_frame().T.reset_index(drop=True)
    elif isinstance(x, Mapping):
        single = all(np.ndim(value) == 0 for value in x.values())
        x = pd.DataFrame([dict(x)]) if single else pd.DataFrame(dict(x))
    elif isinstance(x, list | tuple) and x and all(isinstance(row, Mapping) for row in x):
        x = pd.DataFrame(list(x))
    if not isinstance(x, pd.DataFrame):
        raise DataError(f"{_shown(x)}: this model takes {_takes(model)}")
    yield from _cut(range(len(x)), x)


def _named_array(x: np.ndarray, model: Model) -> Any:
    import pandas as pd

    names = list(columns_of(model.inputs).columns)
    if x.ndim != 2 or x.shape[1] != len(names) or x.dtype.kind not in "iuf":
        raise DataError(f"{_shown(x)}: this model takes {_takes(model)}")
    return pd.DataFrame(x, columns=names)


def _table_blocks(path: Path, model: Model) -> Iterator[Rows]:
    source, start = model.source, 0
    for frame in blocks.stream(path, source.sep, source.encoding, BLOCK):
        yield Rows(range(start, start + len(frame)), frame, str(path))
        start += len(frame)


# ------------------------------------------------------------------ texts
def _of_texts(x: Any, model: Model) -> Iterator[Rows]:
    import pandas as pd

    if isinstance(x, os.PathLike) or (isinstance(x, str) and _is_path(x)):
        yield from file_blocks(opening.path_of(x), model)
        return
    if isinstance(x, pd.DataFrame):
        yield from _cut(range(len(x)), x)
        return
    x = [x] if isinstance(x, str) else x
    if not isinstance(x, list | tuple | pd.Series | np.ndarray) or np.ndim(x) != 1:
        raise DataError(f"{_shown(x)}: this model takes {_takes(model)}")
    yield from _cut(range(len(x)), list(x))


def _is_path(text: str) -> bool:
    """Return whether a text names a file: one that is there, or one word that ends as files do."""
    if not text.strip("."):  # the folder here or above it is no text's name, nor is an empty one
        return False
    try:
        there = Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL in it
        return False
    name = text.strip().lower()
    return there or (
        len(name.split()) == 1 and name.endswith((*TABULAR, *opening.UNPACK, ".zip", ".txt"))
    )


def _is_table(path: Path, model: Model) -> bool:
    """Return whether a file of texts is a table: by its ending, or the column that its header has.

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        inner = Path(opening.member(path)) if path.suffix.lower() == ".zip" else path
        if {suffix.lower() for suffix in inner.suffixes} & set(TABULAR):
            return True
        names = tables.header(path, model.source.sep, model.source.encoding)[1]
    except (DataError, csv.Error):
        return False  # an empty first line, two equal words in it: a line of text
    except tables.BROKEN as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    return bool(model.source.text) and model.source.text in names


def _line_blocks(path: Path, model: Model) -> Iterator[Rows]:
    """Yield one text a line; the last line may end or not."""
    start = 0
    try:
        with blocks.lines_of(path, model.source.encoding) as lines:
            while some := [line.rstrip("\r\n") for line in itertools.islice(lines, BLOCK)]:
                yield Rows(range(start, start + len(some)), some, str(path))
                start += len(some)
    except tables.BROKEN as error:
        if isinstance(error, DataError) or starved(error):
            raise
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None


# ------------------------------------------------------------------ pictures
def _of_pictures(x: Any, model: Model) -> Iterator[Rows]:
    if isinstance(x, str | os.PathLike):
        yield from file_blocks(opening.path_of(x), model)
    elif isinstance(x, np.ndarray) and x.dtype.kind in "iuf":
        pixels = _in_order(x, model)
        yield from _cut(range(len(pixels)), pixels, PICTURES)
    else:
        paths = list(x) if hasattr(x, "__iter__") else [x]
        if not all(isinstance(path, str | os.PathLike) for path in paths):
            raise DataError(f"{_shown(x)}: this model takes {_takes(model)}")
        yield from _cut(range(len(paths)), [Path(path).expanduser() for path in paths], PICTURES)


def _in_order(x: np.ndarray, model: Model) -> np.ndarray:
    """Return pixels (N, C, H, W) of an array, whose channels may come last or not at all.

    Raises:
        DataError: another shape, or values that are no pixels of this model.
    """
    inputs = model.inputs
    channels, (height, width) = len(inputs.mean), inputs.size
    n = len(x)
    if x.shape[1:] == (height, width, channels) != (channels, height, width):
        x = x.transpose(0, 3, 1, 2)
    elif channels == 1 and x.shape[1:] in ((height, width), (height * width,)):
        x = x.reshape(n, 1, height, width)
    if x.ndim != 4 or x.shape[1:] != (channels, height, width):
        raise DataError(f"{_shown(x)}: this model takes {_takes(model)}")
    deep = inputs.unit == 255  # others are numbers of a bundled set, which has its own scale
    if deep and (x.dtype.kind == "f" or x.min(initial=0) < 0 or x.max(initial=0) > 255):
        raise DataError(f"{_shown(x)}: pixels must be whole numbers from 0 to 255")
    if not np.isfinite(x).all():
        raise DataError(f"{_shown(x)}: pixels must be finite")
    return x


def _picture_blocks(path: Path) -> Iterator[Rows]:
    """Yield the pictures below a folder, sorted by their paths within it, or the one of a file."""
    if not path.is_dir():
        yield Rows([path.name], [path], "")
        return
    try:
        files = picture_files(path, Counter())
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror})") from None
    if not files:
        raise DataError(f"{path}: no pictures; expected files in {', '.join(sorted(IMAGES))}")
    names = [file.relative_to(path).as_posix() for file in files]
    yield from _cut(names, files, PICTURES)


def _shown(x: Any) -> str:
    """Return what was given, in a few words."""
    shape = getattr(x, "shape", None)
    if shape is not None:
        return f"{type(x).__name__} {tuple(shape)} of {getattr(x, 'dtype', 'no type')}"
    return f"{type(x).__name__} {str(x)[:40]!r}"
