"""Columns of text -> kinds and values, by written rules and the training rows alone.

The rules, in their order; cells that are missing do not count:

- empty: every cell is missing. Left out.
- constant: one value, and no cell is missing. Left out.
- id: whole numbers, all different, none missing, that only rise or only fall, or whose column is
  named id, index, no or not at all. Left out.
- number: at least 95 % of the cells are numbers, and none has a leading zero, as codes have.
- date: at least 95 % of the cells are dates. The day, and the cycles that vary.
- text: over half of the cells differ, and their median has more than 3 words. Left out.
- id: texts, all different, none missing. Left out.
- category: all others. Values with at least max(5, .1 %) rows, 100 at most; the rest is `other`.

Where at least half of the cells are numbers, but not 95 %, and more than 20 values differ, the
user is asked. Fewer than 10 rows prove no id: any two numbers rise or fall.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.data.notation import (
    DATE,
    DIGITS,
    PARTS,
    UNITS,
    by_words,
    date_parts,
    decimal_evidence,
    epoch_days,
    is_missing,
    month_first,
    parts_of,
    plain_numbers,
    read_days,
    read_numbers,
    standard_form,
    text_of,
)
from knobs.data.stored import Fields
from knobs.errors import ConfigError, DataError, did_you_mean

MISSING, OTHER = "missing", "other"  # the category of an empty cell, and of rare values
MARKERS = frozenset(("", "?", "na", "n/a", "n.a.", "nan", "null", "none", "-", "--"))
ENOUGH = 0.95  # of the cells must be numbers, or dates
LEVELS, LEAST, SHARE = 100, 5, 0.001  # categories at most; rows of one at least
FEW = 20  # values of a column that may be half numbers, half words
PROOF = 10  # rows that make an id
MOST_WORDS = 1000  # of a column that is read as missing
IDS = ("id", "index", "no")  # the last word of a name of ids
MISSING_KEY = ""  # of a count of words: all that is missing
ORDERS = {"date": "", "dmy": "dmy", "mdy": "mdy", "epoch": "epoch"}  # as an override -> an order
KINDS = ("number", "category", *ORDERS, "drop")


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
        form: of numbers, `point` or `comma`, the decimal sign, and with a unit that all of them
            have behind it (`point $`); of dates, `dmy`, `mdy`, `epoch` or `ymd`.
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
        decimals = [f"{sign} {unit}".strip() for sign in DIGITS for unit in ("", *UNITS)]
        forms = {"number": decimals, "date": ["ymd", "dmy", "mdy", "epoch"], "category": [""]}
        form = fields.choice("form", forms[kind])
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
            date = column.kind == "date"
            if column.form != "epoch" if date else column.form.endswith("%"):
                return np.full(len(numbers), np.nan), np.flatnonzero(~np.isnan(numbers))
            return (epoch_days(numbers) if date else numbers), np.array([], int)
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


def overrides(columns: Sequence[str]) -> dict[str, str]:
    """Return name -> kind of `data.columns`, such as `Total Charges:number`.

    Raises:
        ConfigError: one without a kind, or with another.
    """
    found = {}
    for text in columns:
        name, colon, kind = text.rpartition(":")
        if not colon or kind not in KINDS:
            must = f"must be NAME:KIND, with a kind of {', '.join(KINDS)}"
            raise ConfigError(f"data.columns={text}: {must}; 'data.columns=[\"NAME:number\"]'")
        found[name] = kind
    return found


def decide(
    table: Mapping[str, np.ndarray], train: np.ndarray,
    kinds: Mapping[str, str] = {}, na: Sequence[str] = (), decimal: str = "auto",
) -> tuple[Columns, list[str]]:  # fmt: skip
    """Return how the columns of a table are read, and what is to be said of it.

    Args:
        table: name -> (n,) texts, or numbers with NaN where missing; no rows of an official test
            table.
        train: numbers of the training rows, which alone decide.
        kinds: of some columns, as the user says.
        na: words that count as missing besides MARKERS.
        decimal: auto, point or comma, or "" for unknown; it decides where a column leaves doubt.

    Raises:
        DataError: a column that two rules fit, or that is not as the user says.
    """
    if unknown := sorted(set(kinds) - set(table)):
        near = did_you_mean(unknown[0], table)
        have = ", ".join([*table][:50])
        raise DataError(f"data.columns: no column {unknown[0]}; it has {have}{near}")
    markers = MARKERS | {word.strip().lower() for word in na}
    own = {name: _typed(cells) for name, cells in table.items()}
    seen = {name: cells[train] for name, cells in own.items()}
    decimal = table_decimal(seen, na) if decimal == "auto" else decimal
    found: dict[str, Column] = {}
    left: dict[str, str] = {}
    notes: list[str] = []
    for name, cells in seen.items():
        column = _decide(name, cells, kinds.get(name, ""), markers, decimal)
        if isinstance(column, str):
            left[name] = column
            continue
        if column.kind != "category":
            column, note = _with_words(name, column, own[name], markers)
            notes += note
        found[name] = column
    made = [output for name, column in found.items() for output in column.outputs(name)]
    if twice := [name for name, n in collections.Counter(made).items() if n > 1]:
        raise DataError(f"{twice[0]}: is also made of a date; rename the column")
    return Columns(found, markers), [_understood(len(own), found, left), *notes]


def _typed(values: Any) -> np.ndarray:
    """Return a column as numbers if they are its type, else as objects."""
    values = np.asarray(values)
    return values if values.dtype.kind in "iuf" else values.astype(object, copy=False)


def _decide(
    name: str, cells: np.ndarray, kind: str, markers: frozenset, decimal: str
) -> Column | str:
    """Return how a column is read, or why it is left out."""
    if kind == "drop":
        return "as you say"
    if kind in ORDERS:
        return _date(name, cells, markers, ORDERS[kind])
    if cells.dtype.kind in "iuf":
        return _of_numbers(name, cells, "comma" if decimal == "comma" else "point")
    words = _counts(cells, markers)
    if kind == "category":
        return _category(words)
    missing = words.pop(MISSING_KEY, 0)
    present = len(cells) - missing
    if kind == "number":
        column, share = _number(name, words, decimal)
        if words and not share:
            example = next(iter(words))[:30]
            raise DataError(f"data.columns={name}:number: no cell is one, {example!r} for instance")
        return column
    if not present:
        return "empty"
    if len(words) == 1 and not missing:
        return "constant"
    if not _codes(words):
        column, share = _number(name, words, decimal)
        if share >= ENOUGH:
            values = plain_numbers(cells) if share == 1 and not missing else None
            if values is None or np.isnan(values).any():
                values = Columns({}, markers).numbers(cells, column)[0]
            found = _of_numbers(name, values)
            return column if isinstance(found, Column) else found
        if share >= 0.5 and len(words) > FEW:
            some = np.array(list(words), object)
            example = some[Columns({}, markers).numbers(some, column)[1][0]][:30]
            raise DataError(
                f"{name}: {share:.0%} of its cells are numbers, others not, {example!r} for one; "
                f"say 'data.columns=[\"{name}:number\"]', or :category, or :drop"
            )
    if _date_share(words) >= ENOUGH:
        return _date(name, cells, markers, "")
    lengths = np.repeat([len(word.split()) for word in words], list(words.values()))
    if len(words) > present / 2 and np.median(lengths) > 3:
        return "text"
    if len(words) == present >= PROOF and not missing:
        return "all different"
    return _category(words | ({MISSING_KEY: missing} if missing else {}))


def _of_numbers(name: str, values: np.ndarray, form: str = "point") -> Column | str:
    """Return how a column of int64, or of float64 with NaN, is read, or why it is left out."""
    if values.dtype.kind in "iu" and _is_id(name, values):
        return "id: whole numbers, all different"
    present = values[~np.isnan(values)]
    if not len(present):
        return "empty"
    return "constant" if (present == present[0]).all() else Column("number", form)


def _counts(cells: np.ndarray, markers: frozenset) -> dict[str, int]:
    """Return word -> its number of cells, those that are missing under MISSING_KEY."""
    found: dict[str, int] = {}
    for word, n in collections.Counter(cells.tolist()).items():
        key = MISSING_KEY if is_missing(word, markers) else text_of(word)
        found[key] = found.get(key, 0) + n
    return found


def _codes(words: Iterable[str]) -> bool:
    """Return whether any word is digits that begin with 0, as postal codes do."""
    return any(word[:1] == "0" and len(word) > 1 and word.isdigit() for word in words)


def _is_id(name: str, values: np.ndarray) -> bool:
    """Return whether whole numbers are all different, and monotone or named as ids are."""
    if len(values) < PROOF:
        return False
    steps = np.diff(values)
    if (steps > 0).all() or (steps < 0).all():
        return True
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    named = not name or name.startswith("Unnamed") or (parts and parts[-1].lower() in IDS)
    return bool(named) and len(np.unique(values)) == len(values)


def table_decimal(table: Mapping[str, np.ndarray], na: Sequence[str] = ()) -> str:
    """Return the decimal sign of the columns that leave no doubt; "" if there are none, or both."""
    markers = MARKERS | {word.strip().lower() for word in na}
    signs = set()
    for cells in table.values():
        point, comma, _ = decimal_evidence(_some_numbers(cells, markers))
        if point != comma:
            signs.add("point" if point > comma else "comma")
    return signs.pop() if len(signs) == 1 else ""


def _some_numbers(cells: np.ndarray, markers: frozenset) -> list[str]:
    """Return the numbers of a column's first 1,000 cells; none where under half of them are."""
    if cells.dtype.kind in "iuf":
        return []
    some = [text_of(cell) for cell in cells[:1000].tolist() if not is_missing(cell, markers)]
    found = [word for word in some if parts_of(word)]
    return found if len(found) >= 0.5 * len(some) else []


def _number(name: str, words: Mapping[str, int], decimal: str) -> tuple[Column, float]:
    """Return how a column of numbers is read, and the share of its cells that are numbers.

    Args:
        words: word -> its number of cells, without those that are missing.

    Raises:
        DataError: 1,234 and the like alone, which may be either.
    """
    if decimal != "comma" and not np.isnan(plain_numbers(np.array(list(words), object))).any():
        return Column("number", "point"), 1.0
    total = sum(words.values())
    units = collections.Counter()
    for word, n in words.items():
        if parts := parts_of(word):
            units[parts[2]] += n
    unit = units.most_common(1)[0][0] if units else ""
    point, comma, both = decimal_evidence(list(words))
    share = {
        sign: sum(n for w, n in words.items() if standard_form(w, sign, unit)) / max(1, total)
        for sign in DIGITS
    }
    sign = decimal or ("point" if point >= comma else "comma")
    if decimal in ("", "point", "comma") and point != comma:
        sign = "point" if point > comma else "comma"
    elif not decimal and both and share["point"] >= ENOUGH and any("," in word for word in words):
        example = next(word for word in words if "," in word)
        raise DataError(
            f"{name}: {example!r} may be thousands or a fraction; say data.decimal=point or comma"
        )
    return Column("number", f"{sign} {unit}".strip()), share[sign]


def as_numbers(
    name: str, cells: np.ndarray, own: int, decimal: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return a target's (n,) numbers, NaN where missing, and the rows that hold another word.

    Args:
        own: rows, the first ones, that decide how numbers are written.
    """
    import pandas as pd

    codes, words = pd.factorize(cells)
    if all(str(word).strip().lower() in ("true", "false") for word in words):
        return np.array([str(w).strip().lower() == "true" for w in words], float)[codes], codes[:0]
    found = _counts(cells[:own], MARKERS)
    found.pop(MISSING_KEY, None)
    column, _ = _number(name, found, decimal)
    return Columns({}).numbers(cells, column)


def as_times(
    name: str, cells: np.ndarray, kind: str, decimal: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) numbers that grow with time, NaN where missing, and rows that hold no such.

    Args:
        kind: of `data.columns`, which may say how dates are written; else "".

    Raises:
        DataError: a column of neither numbers nor dates, or of dates that may be read two ways.
    """
    words = _counts(cells, MARKERS)
    words.pop(MISSING_KEY, None)
    column: Column | str = ""
    if kind in ORDERS or (kind != "number" and _date_share(words) >= ENOUGH):
        column = _date(name, cells, MARKERS, ORDERS.get(kind, ""))
        column = column if isinstance(column, Column) else Column("date", "ymd")
    else:
        column, share = _number(name, words, decimal)
        if share < ENOUGH:
            example = next(iter(words), "")[:40]
            raise DataError(f"{name}: neither dates nor numbers, {example!r} for one")
    return Columns({}).numbers(cells, column)


def _with_words(
    name: str, column: Column, cells: np.ndarray, markers: frozenset
) -> tuple[Column, list[str]]:
    """Return a column whose cells that are no numbers count as missing, and a note of them."""
    wrong = Columns({}, markers).numbers(cells, column)[1]
    if not len(wrong):
        return column, []
    words = sorted({text_of(cell) for cell in cells[wrong]})
    if len(words) > MOST_WORDS:
        raise DataError(
            f"{name}: {len(words)} words that are no {column.kind}, {words[0]!r} for one"
        )
    cells_are = f"{len(wrong)} cells are no {column.kind}s"
    note = f"{name}: {cells_are} and count as missing ({', '.join(map(repr, words[:3]))})"
    folded = dict.fromkeys(word.lower() for word in words)
    whole = Column(column.kind, column.form, (), column.parts, tuple(folded))
    return whole, [note]


def _category(words: dict[str, int]) -> Column | str:
    """Return a category of the values that have rows enough; the one that has not stays itself."""
    total = sum(words.values())
    least = max(LEAST, SHARE * total)
    ranked = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))
    kept = [word for word, n in ranked if n >= least][:LEVELS]
    rest = [word for word, _ in ranked if word not in set(kept)]
    if len(rest) == 1 and len(kept) < LEVELS:
        kept += rest  # "other" would be the same input by another name
    if not kept:
        return f"no value has {int(np.ceil(least))} rows"
    if len(kept) == 1 and not rest:
        return "constant"
    levels = [MISSING if word == MISSING_KEY else word for word in kept]
    return Column("category", "", tuple(sorted({*levels, *([OTHER] if len(rest) > 1 else [])})))


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


def _date_share(words: Mapping[str, int]) -> float:
    """Return the share of cells that are dates, in the order that most of them fit."""
    some = list(words)[:200]
    if sum(bool(DATE.fullmatch(word) or month_first(word)) for word in some) < 0.5 * len(some):
        return 0.0
    counts = np.array(list(words.values()))
    hits = [counts[~np.isnan(read_days(list(words), order))].sum() for order in ("dmy", "mdy")]
    return max(hits) / max(1, counts.sum())


def _date(name: str, cells: np.ndarray, markers: frozenset, order: str) -> Column | str:
    """Return how a column of dates is read.

    Raises:
        DataError: 3/4/2024 and the like alone, which may be either.
    """
    words = [word for word in _counts(cells, markers) if word != MISSING_KEY]
    if not order:
        whole = plain_numbers(np.array(words, object))
        order = "epoch" if len(whole) and not np.isnan(whole).any() else ""
    if not order:
        both = {order: read_days(words, order) for order in ("dmy", "mdy")}
        counts = {order: int((~np.isnan(days)).sum()) for order, days in both.items()}
        same = np.array_equal(both["dmy"], both["mdy"], equal_nan=True)
        if counts["dmy"] == counts["mdy"] and not same:
            example = next(w for w, a, b in zip(words, *both.values(), strict=True) if a != b)
            raise DataError(
                f"{name}: {example!r} may begin with the day or the month; "
                f"say 'data.columns=[\"{name}:dmy\"]', or :mdy, or :drop"
            )
        order = "ymd" if same else max(counts, key=counts.get)
    days = read_days(words, order)
    made = {part: values[~np.isnan(values)] for part, values in date_parts(days).items()}
    if not len(made["day"]):
        raise DataError(f"{name}: no cell is a date; say 'data.columns=[\"{name}:drop\"]'")
    parts = tuple(part for part, values in made.items() if values.max() - values.min() > 1e-9)
    return Column("date", order, (), parts) if parts else "constant"


def _understood(total: int, found: Mapping[str, Column], left: Mapping[str, str]) -> str:
    """Return one line: how many columns of each kind there are, and which are left out, and why."""
    kinds = collections.Counter(column.kind for column in found.values())
    plural = {"number": "numbers", "category": "categories", "date": "dates"}
    counts = [f"{kinds[k]} {k if kinds[k] == 1 else plural[k]}" for k in plural if kinds[k]]
    line = f"{total} column{'s' * (total != 1)}: {', '.join(counts) or 'none of use'}"
    named = [f"{name or 'the unnamed'} ({why})" for name, why in left.items()]
    if len(named) > 12:
        named = [*named[:12], f"and {len(named) - 12} more"]
    return line + (f"; left out: {', '.join(named)}" if named else "")
