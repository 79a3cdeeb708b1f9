"""Reading of a table's columns: cells -> numbers, days and categories, as was decided for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.data.dates import FORMS, PARTS, date_parts, of_numbers, read_days
from knobs.data.notation import FORM, by_words, is_missing, read_numbers, text_of
from knobs.data.stored import Fields
from knobs.errors import DataError

MISSING, OTHER = "missing", "other"  # the category of an empty cell, and of rare values
MARKERS = frozenset(("", "?", "na", "n/a", "n.a.", "nan", "null", "none", "-", "--"))


class CellError(DataError):
    """A cell that is not of its column's kind: the row of its block, from 0, and the fault."""

    def __init__(self, row: int, fault: str):
        self.row = row
        self.fault = fault
        super().__init__(f"row {row + 1}: {self.fault}")


@dataclass(frozen=True)
class Column:
    """The reading of one column's cells.

    Args:
        kind: number, category or date.
        form: of numbers, `point` or `comma`, the decimal sign, and behind it a unit that all of
            them have (`point $`); of dates, one of FORMS.
        levels: of a category, the values that have an input; others are OTHER.
        parts: of a date, those of PARTS that have an input.
        missing: words that count as missing besides the markers.
    """

    kind: str
    form: str = ""
    levels: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def outputs(self, name: str) -> list[str]:
        """Return the names of the columns that are made of it."""
        return [f"{name}: {part}" for part in self.parts] if self.kind == "date" else [name]

    def saved(self) -> dict[str, Any]:
        """Return plain data."""
        lists = {"levels": self.levels, "parts": self.parts, "missing": self.missing}
        return {"kind": self.kind, "form": self.form, **{k: list(v) for k, v in lists.items()}}

    @classmethod
    def read(cls, fields: Fields) -> "Column":
        """Return the column that fields describe."""
        kind = fields.choice("kind", ("number", "category", "date"))
        form = fields.text("form")
        fits = {"number": FORM.fullmatch(form), "date": form in FORMS, "category": not form}
        if not fits[kind]:
            raise fields.wrong("form", form, f"the form of a {kind}")
        levels, parts = fields.names("levels"), fields.names("parts", least=kind == "date")
        if not set(parts) <= set(PARTS):
            raise fields.wrong("parts", parts, f"some of {', '.join(PARTS)}")
        return cls(kind, form, tuple(levels), tuple(parts), tuple(fields.names("missing")))


@dataclass(frozen=True)
class Columns:
    """The reading of a table: texts, or what pandas made of them, to numbers and categories.

    Args:
        columns: name -> how it is read, for each that has an input.
        markers: words that count as missing, in lower case.
    """

    columns: Mapping[str, Column]
    markers: frozenset[str] = MARKERS

    def typed(self, block: Mapping, faults: dict[int, str] | None = None) -> dict[str, np.ndarray]:
        """Return name -> (n,) float64 with NaN where missing, or (n,) categories.

        Args:
            faults: takes row -> the first cell of it that is none of its column's kind, which then
                counts as missing; None: such a cell is an error.

        Raises:
            CellError: a cell is none of its column's kind.
            DataError: a column is not there.
        """
        found: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            if name not in block:
                raise DataError(f"{name}: no such column; it has {', '.join(map(str, block))}")
            if column.kind == "category":
                found[name] = _categories(block[name], column, self.markers)
                continue
            values, wrong = self.numbers(block[name], column)
            if faults is not None:
                for row in wrong.tolist():
                    cell = str(np.asarray(block[name], object)[row])[:40]
                    faults.setdefault(row, f"{name}={cell!r}: is not a {column.kind}")
            elif len(wrong):
                cell = str(np.asarray(block[name], object)[wrong[0]])[:40]
                mend = "correct it, or empty the cell"
                fault = f"{name}={cell!r}: is not a {column.kind}; {mend}"
                raise CellError(int(wrong[0]), fault)
            if column.kind == "date":
                made = date_parts(values)
                found |= {f"{name}: {part}": made[part] for part in column.parts}
            else:
                found[name] = values
        return found

    def numbers(self, cells: Any, column: Column) -> tuple[np.ndarray, np.ndarray]:
        """Return (n,) numbers or days, NaN where missing, and the rows that hold neither.

        Numbers that are no texts are dates where dates are numbers, and never percentages: whether
        5 % is 5 or 0.05 there, nothing says.
        """
        values = np.asarray(cells)
        if values.dtype.kind in "iufb":
            numbers = values.astype(float)
            if column.kind != "date":
                unsure = ~np.isnan(numbers) & column.form.endswith("%")
                return np.where(unsure, np.nan, numbers), np.flatnonzero(unsure)
            if column.form not in ("epoch", "compact"):
                return np.full(len(numbers), np.nan), np.flatnonzero(~np.isnan(numbers))
            days = of_numbers(numbers, column.form)
            return days, np.flatnonzero(np.isnan(days) & ~np.isnan(numbers))
        values = np.asarray(cells, object)
        if column.kind == "number":
            numbers = read_numbers(values, column.form)
        else:
            read = lambda words: read_days([text_of(w) for w in words], column.form)  # noqa: E731
            numbers = by_words(values, read)
        left = np.flatnonzero(np.isnan(numbers))
        known = self.markers | {word.lower() for word in column.missing}
        wrong = [i for i in left if not is_missing(values[i], known)]
        return numbers, np.array(wrong, int)

    def outputs(self) -> tuple[set[str], set[str]]:
        """Return the names of the numbers and of the categories that are made of the columns."""
        named = {kind: set() for kind in ("number", "category", "date")}
        for name, column in self.columns.items():
            named[column.kind].update(column.outputs(name))
        return named["number"] | named["date"], named["category"]

    def saved(self) -> dict[str, Any]:
        """Return plain data."""
        columns = {name: column.saved() for name, column in self.columns.items()}
        return {"markers": sorted(self.markers), "columns": columns}

    @classmethod
    def read(cls, fields: Fields) -> "Columns":
        """Return the columns that fields describe."""
        columns = fields.section("columns")
        known = {name: Column.read(columns.section(name)) for name in columns.node}
        return cls(known, frozenset(fields.names("markers")))


def _categories(cells: Any, column: Column, markers: frozenset) -> np.ndarray:
    """Return (n,) categories: the levels, and OTHER for all else."""
    import pandas as pd

    codes, words = pd.factorize(np.asarray(cells, object))
    known = set(column.levels)
    texts = [MISSING if is_missing(word, markers) else text_of(word) for word in words] + [MISSING]
    # A number may be written as one of a file whose cells have types was: 5.0 beside 5.
    spelled = [*map(str, words), MISSING]
    found = [
        text if text in known else other if other in known else OTHER
        for text, other in zip(texts, spelled, strict=True)
    ]
    return np.array(found, object)[codes]
