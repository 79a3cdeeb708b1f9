"""The rows of a table of one's own: of one file or two, each with its line; targets and weights."""

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data import ondisk, tables
from knobs.data.columnar import Lazy, OnDisk, changed
from knobs.data.columns import CellError, as_numbers
from knobs.data.dates import read_day
from knobs.data.opening import path_of
from knobs.data.prepare import Parts
from knobs.errors import DataError, did_you_mean

MOST_WEIGHT = 1e30  # of an example: sums of weights stay finite in float32
FACTORIZED = 2**16  # cells of which codes are made at once


@dataclass(frozen=True)
class Tables:
    """The rows of one file or two, and where each comes from.

    Args:
        files: that of `path`, then that of `test_path` if there is one.
        forms: how each of them was read.
        sizes: rows of the first, and of the official test table.
        rows: a data frame of texts, or a table on the disk.
        said: where they are read from, if that is the disk.
    """

    files: list[Path]
    forms: list[tables.Form]
    sizes: tuple[int, int]
    rows: Any
    said: str = ""

    @property
    def notes(self) -> list[str]:
        """Return what is to be said of how the files were read."""
        pairs = zip(self.files, self.forms, strict=True)
        return [self.said] * bool(self.said) + [n for file, form in pairs for n in form.notes(file)]

    @property
    def content(self) -> list[Path] | list[bytes]:
        """Return what a hash counts of the files' content."""
        return [*self.rows.digests] if self.said else self.files

    def own(self) -> Mapping[str, np.ndarray]:
        """Return name -> texts of the rows that are not of the official test table."""
        return changed(self.columns(), lambda cells: cells[: self.sizes[0]])

    def columns(self, but: Collection[str] = ()) -> Mapping[str, np.ndarray]:
        """Return name -> cells of all columns but some; from the disk one at a time."""
        names = [str(name) for name in self.rows if name not in but]
        found = Lazy(names, lambda name: self.rows[name].to_numpy())
        return found if self.said else dict(found)

    def place(self, row: int) -> str:
        """Return the file and the line where a row begins, `FILE, line N`; the header is line 1."""
        return f"{self.files[row >= self.sizes[0]]}, {self.lines([row])[0].rpartition(', ')[2]}"

    def lines(self, rows: Sequence[int]) -> list[str]:
        """Return the lines where rows begin, `line 17`, of the official table with its name."""
        found = {}
        for i, (file, form) in enumerate(zip(self.files, self.forms, strict=True)):
            start = i * self.sizes[0]
            mine = {row - start for row in rows if (row >= self.sizes[0]) == bool(i)}
            lines = {row: f"row {row + 1 + form.first}" for row in mine}
            if form.sep and mine:
                with contextlib.suppress(*tables.BROKEN):  # what only pandas reads
                    some = islice(tables.records(file, form), max(mine) + 2)
                    lines |= {
                        n - 1: f"line {at}" for n, (at, _) in enumerate(some) if n - 1 in mine
                    }
            found |= {row + start: f"{file.name}, " * i + line for row, line in lines.items()}
        return [found[row] for row in rows]

    def places(self, rows: np.ndarray) -> str:
        """Return where the first three rows are."""
        return "; ".join(self.place(int(row)) for row in rows[:3])


@contextlib.contextmanager
def naming(table: Tables) -> Iterator[None]:
    """Put the file, and the line where it is known, before an error's words."""
    try:
        yield
    except CellError as error:
        raise DataError(f"{table.place(error.row)}: {error.fault}") from None
    except DataError as error:
        raise DataError(f"{table.files[0]}: {error}") from None


def tables_of(
    path: str, test_path: str | None, columns: set[str], sep: str = "auto", encoding: str = "auto",
    texts: set[str] | None = None, decimal: str = "auto", na: Sequence[str] = (),
    drop: Sequence[str] = (), storage: str = "memory", unread: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Tables:  # fmt: skip
    """Return the rows of both tables, in which each of `columns` is there.

    Args:
        texts: columns that must be texts, beside `columns`; others may be numbers. None: all are
            texts.
        decimal, na, drop: as `tables.read` takes them.
        storage: auto, memory or map; see `ondisk.chosen`.
        unread, only: columns that nobody reads, and that somebody does (None: all), which spares
            the disk.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    import pandas as pd

    files = [path_of(name) for name in ([path, test_path] if test_path else [path])]
    texts = None if texts is None else texts | columns
    said = ondisk.chosen(files, storage)

    def read(
        file: Path, texts: set[str] | None, na: Sequence[str], decimal: str
    ) -> tuple[Any, tables.Form]:
        if said:
            how = ondisk.reading_of(sep, encoding, texts, na, decimal, unread, only)
            return ondisk.read(file, how)
        return tables.read(file, sep, encoding, texts, na, decimal, drop)

    found = [read(files[0], texts, na, decimal)]
    if test_path:
        decimal = found[0][1].decimal or decimal
        found.append(read(files[1], texts, na, decimal))
        if texts is not None and _unlike(*(frame for frame, _ in found)):
            found = [(read(f, None, (), decimal)[0], form)
                     for f, (_, form) in zip(files, found, strict=True)]  # fmt: skip
    frames, forms = [frame for frame, _ in found], [form for _, form in found]
    have = list(frames[0].columns)
    if missing := sorted(columns - set(have)):
        near = did_you_mean(missing[0], have)
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(have[:50])}{near}"
        )
    if test_path:
        one, other = set(have), set(frames[1].columns)
        lacks = [name for name in have if name not in other]
        more = [name for name in frames[1].columns if name not in one]
        if lacks or more:
            said = [*(f"no {name}" for name in lacks[:5]), *(f"also {name}" for name in more[:5])]
            raise DataError(
                f"{test_path}: its columns are not those of {path}: it has {', '.join(said)}"
            )
        frames[1] = frames[1] if said else frames[1][have]
    sizes = len(frames[0]), len(frames[1]) if test_path else 0
    rows = frames[0]
    if test_path:
        rows = rows.behind(frames[1]) if said else pd.concat(frames, ignore_index=True)
    return Tables(files, forms, sizes, rows, said)


def _unlike(first: Any, second: Any) -> bool:
    """Return whether a column has two types in two tables: it takes texts to tell."""
    return any(_type(first, n) != _type(second, n) for n in second if n in first)


def _type(table: Any, name: str) -> np.dtype:
    return table.type_of(name) if isinstance(table, OnDisk) else table[name].dtype


def _labels(table: Tables, name: str) -> np.ndarray:
    """Return classes (N,), each as its cell has it, less blanks around it.

    Whole numbers written with and without `.0` are one class.

    Raises:
        DataError: empty cells, other numbers written in two ways, a class that only the official
            test table has.
    """
    import pandas as pd

    codes, words = factorized(table.rows[name].to_numpy())
    words = [str(word).strip() for word in words]
    own = dict.fromkeys(words[code] for code in np.unique(codes[: table.sizes[0]]))
    labels = np.array([_one_name(word, own) for word in words])[codes]
    all_there(table, name, labels == "")
    known = np.unique(labels[: table.sizes[0]])
    new = np.flatnonzero(~np.isin(labels, known))
    if len(new):
        place, some = table.place(int(new[0])), ", ".join(known[:20])
        raise DataError(f"{place}: {name}={labels[new[0]]}: not one of the classes {some}")
    numbers = pd.to_numeric(pd.Series(known, dtype=object), errors="coerce")
    plain = ~pd.Series(known, dtype=object).str.match(r"[+-]?0\d") & numbers.notna()
    if (twice := numbers[plain].duplicated(keep=False)).any():
        pair = " and ".join(known[numbers[plain][twice].index[:2]])
        raise DataError(f"{table.files[0]}: {name}: {pair} are one number; write it one way")
    return labels


def factorized(cells: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Return the code of each cell and the words that they stand for, as pandas.factorize does.

    In blocks: pandas makes a table as large as the column, whatever few words there are.
    """
    import pandas as pd

    codes, places = np.empty(len(cells), np.int64), dict[Any, int]()
    for start in range(0, len(cells), FACTORIZED):
        own, words = pd.factorize(cells[start : start + FACTORIZED])
        known = [places.setdefault(word, len(places)) for word in words]
        codes[start : start + FACTORIZED] = np.array(known, np.int64)[own]
    return codes, list(places)


def _one_name(word: str, names: Collection[str]) -> str:
    """Return the name of a class: where `1` is one of the names, `1.0` is it, and else `1` is."""
    match = re.fullmatch(r"([-+]?\d+)(?:\.0*)?", word)
    if not match:
        return word
    if match[1] in names:
        return match[1]
    return next((same for same in (f"{match[1]}.0", f"{match[1]}.00") if same in names), word)


def all_there(table: Tables, name: str, missing: np.ndarray) -> None:
    """Refuse rows without a target: a count, and the first of them."""
    rows = np.flatnonzero(missing)
    if len(rows):
        first = table.places(rows)
        file = table.files[int(rows[0] >= table.sizes[0])]
        raise DataError(f"{file}: {len(rows)} rows have no {name} ({first})")


def target_values(table: Tables, names: list[str], task: str, decimal: str) -> np.ndarray:
    """Return the targets, (N,) or (N, T): classes as texts, labels and values as float64."""
    if task == "classification":
        return _labels(table, names[0])
    columns = []
    for name in names:
        cells = table.rows[name].to_numpy()
        try:
            numbers, wrong = as_numbers(name, cells, table.sizes[0], decimal)
        except DataError as error:
            raise DataError(f"{table.files[0]}: {error}") from None
        missing = np.isnan(numbers)
        missing[wrong] = False
        all_there(table, name, missing)
        if len(wrong):
            row = int(wrong[0])
            file = table.files[row >= table.sizes[0]]
            hint = "; data.task=classification?" if len(names) == 1 else ""
            if np.isfinite(read_day(str(cells[row]).strip(), "dmy")):
                hint = "; it holds dates, so give the days since one of them"
            at = f"{table.place(row)}: {str(cells[row])[:40]!r}"
            raise DataError(f"{file}: {name} is not a column of numbers ({at}){hint}")
        labels = np.isin(numbers, (0, 1)) if task == "multilabel" else np.isfinite(numbers)
        if not labels.all():
            row = int(np.flatnonzero(~labels)[0])
            must = "0 or 1, as task=multilabel has it" if task == "multilabel" else "finite"
            raise DataError(f"{table.place(row)}: {name}={numbers[row]:g}: must be {must}")
        columns.append(numbers)
    return np.stack(columns, 1) if len(names) > 1 else columns[0]


def weights_of(table: Tables, column: str | None, parts: Parts) -> Tensor | None:
    """Return (N,) float32 weights of the examples; None where no column has them.

    Raises:
        DataError: naming the first row whose weight is none, or where every one of a split is 0.
    """
    import pandas as pd

    if not column:
        return None
    cells = table.rows[column]
    weights = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    wrong = ~((weights >= 0) & (weights <= MOST_WEIGHT))  # NaN is neither
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        must = f"must be a number from 0 to {MOST_WEIGHT:g}"
        cell = cells[row].strip() or "empty"
        raise DataError(f"{table.place(row)}: {column}={cell}: a weight {must}")
    weights = weights.astype(np.float32)
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) and not weights[part].any():
            place = table.place(int(part[0]))
            none = f"0, as in every row of the {name} split"
            raise DataError(f"{place}: {column}={none}; some of each must be above 0")
    return torch.from_numpy(weights)
