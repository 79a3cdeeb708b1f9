"""Rows of a table that name pictures -> the pictures, each once, and none left over."""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from knobs.data.images import SPLITS, counted
from knobs.data.pixels import picture_files
from knobs.errors import DataError
from knobs.words import listed

# Columns that `auto` takes for the paths of pictures; the first is Hugging Face's.
FILE_COLUMNS = ("file_name", "filename", "file", "path", "file_path", "image", "image_path")


def file_column(table: Path, columns: Sequence[str]) -> str:
    """Return the column that is called as one of paths is.

    Raises:
        DataError: there is none, or there are several.
    """
    named = [column for column in columns if column.casefold().replace(" ", "_") in FILE_COLUMNS]
    if len(named) != 1:
        which = "no column" if not named else f"{' and '.join(named)} are columns"
        fix = f"name it file_name, or choose with data.file=COLUMN: it has {', '.join(columns)}"
        raise DataError(f"{table}: {which} of files; {fix}")
    return named[0]


def matched(
    base: Path, table: Path, names: Sequence[str], place: Callable[[int], str], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture of each row, (N,) paths, and the split folder it lies in, (N,).

    Args:
        base: the folder below which the pictures lie.
        names: (N,) paths below base, as the table has them.
        place: a row -> where it stands in the table.

    Raises:
        DataError: a row whose picture is not there, two rows of one picture, a picture without a
            row, or pictures beside split folders.
    """
    passed: Counter[str] = Counter()
    pictures = picture_files(base, passed)
    known = {_plain(path.relative_to(base).as_posix()): path for path in pictures}
    if table.resolve().is_relative_to(base.resolve()):
        passed[table.suffix.lower()] -= 1
    if passed := +passed:
        notes.append(f"{passed.total():,} passed over: {counted(passed)}")
    keys = [_plain(name.replace("\\", "/")) for name in names]
    if lost := [row for row, key in enumerate(keys) if key not in known]:
        some = "; ".join(f"{place(row)}: {names[row][:80]!r}" for row in lost[:3])
        hint = _like(keys[lost[0]], known)
        raise DataError(f"{table}: {len(lost):,} rows name no image in {base} ({some}); {hint}")
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if first.setdefault(key, row) != row:
            rows = f"{place(first[key])} and {place(row)}"
            raise DataError(f"{table}: two rows of {key} ({rows}); keep one")
    if left := sorted(known.keys() - first.keys()):
        lack, fix = f"{len(left):,} images have no row in {table}", "add rows, or move them away"
        raise DataError(f"{base}: {lack}: {listed(left)}; {fix}")
    return np.array([known[key] for key in keys]), _origins(base, keys)


def _plain(name: str) -> str:
    """Return a path without `./`, and a letter in one form, whatever file system wrote it."""
    return unicodedata.normalize("NFC", posixpath.normpath(name))


def _like(key: str, known: dict[str, Path]) -> str:
    """Return a hint at a picture of the same name with an ending, or in another folder."""
    last = posixpath.basename(key)
    near = [name for name in known if last in (posixpath.basename(name), Path(name).stem)]
    way = "names are paths below data.root, with their endings"
    return f"{way}, as {near[0]}" if near else f"{way}; mend the rows, or add the images"


def _origins(base: Path, keys: Sequence[str]) -> np.ndarray:
    """Return the split folder of each picture: all lie in one, or all are `train`.

    Raises:
        DataError: some lie in split folders and others do not, or none in that of training.
    """
    heads = [key.partition("/")[0] if "/" in key else "" for key in keys]
    origin = [SPLITS.get(head.casefold(), "") for head in heads]
    splits = sorted({head for head, part in zip(heads, origin, strict=True) if part})
    if not splits:
        return np.full(len(keys), "train")
    if "train" not in origin:
        fix = "add the folder train, or rename these"
        raise DataError(f"{base}: {listed(splits)} look like splits, and there is no train; {fix}")
    if "" in origin:
        lone = keys[origin.index("")]
        raise DataError(f"{base}: {lone} is beside the folder of a split; move it into one")
    return np.array(origin)
