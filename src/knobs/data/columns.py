"""Columns of text -> kinds and values, by written rules and the training rows alone.

The rules, in their order; cells that are missing do not count:

- empty: every cell is missing. Left out.
- constant: one value, and no cell is missing. Left out.
- id: whole numbers, all different, none missing, that only rise or only fall, or whose column is
  named id, index, no or not at all. Left out.
- number: at least 95 % of the cells are numbers, and none is a code: digits with a leading zero, or
  too many of them for a float64.
- date: at least 95 % of the cells are dates, times or durations. The day, and the cycles that vary.
- text: over half of the cells differ, and their median has more than 3 words. Left out.
- id: texts, all different, none missing. Left out.
- category: all others. Values with at least max(5, .1 %) rows, 100 at most; the rest is `other`.

Where at least half of the cells are numbers, but not 95 %, and more than 20 values differ, the
user is asked. Fewer than 10 rows prove no id: any two numbers rise or fall.
"""

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from knobs.data.dates import COMPACT, dates_order, of_numbers, read_days, share_of_dates, varying
from knobs.data.notation import (
    decimal_evidence,
    is_missing,
    parts_of,
    plain_numbers,
    standard_forms,
    text_of,
)
from knobs.data.reading import MARKERS, MISSING, OTHER, CellError, Column, Columns
from knobs.errors import ConfigError, DataError, did_you_mean
from knobs.words import listed

__all__ = [
    "MARKERS", "MISSING", "OTHER", "CellError", "Column", "Columns", "as_numbers", "as_times",
    "decide", "overrides", "table_decimal",
]  # fmt: skip

ENOUGH = 0.95  # of the cells must be numbers, or dates
LEVELS, LEAST, SHARE = 100, 5, 0.001  # categories at most; rows of one at least
FEW = 20  # values of a column that may be half numbers, half words
PROOF = 10  # rows that make an id
MANY = 50  # categories that are worth a note
CODES = (-99, -999, -9999, -99999, 999, 9999, 99999)  # often put for missing numbers
GLANCE = 20_000  # cells in which they are looked for, and that tell a notation where they can
UNITS = 5  # of the numbers of a column, at most; more are no units
MOST_WORDS = 1000  # of a column that is read as missing
IDS = ("id", "index", "no")  # the last word of a name of ids
MISSING_KEY = ""  # of a count of words: all that is missing
# As an override -> how dates are written.
ORDERS = {"date": "", "dmy": "dmy", "mdy": "mdy", "epoch": "epoch", "time": "time"}
EXACT = 2**53  # whole numbers that are larger are codes: float64 has not all of them
KINDS = ("number", "category", *ORDERS, "drop")


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
    if decimal == "auto":
        decimal = table_decimal({n: _typed(cells)[train] for n, cells in table.items()}, na)
    found: dict[str, Column] = {}
    left: dict[str, str] = {}
    notes: list[str] = []
    for name in table:  # one after the other: memory need not hold them all
        whole = _typed(table[name])
        cells = whole[train]
        column = _decide(name, cells, kinds.get(name, ""), markers, decimal)
        if isinstance(column, str):
            left[name] = column
            continue
        if column.kind != "category":
            column, note = _with_words(name, column, whole, markers)
            notes += note
        notes += _doubts(name, column, cells, markers)
        found[name] = column
    made = [output for name, column in found.items() for output in column.outputs(name)]
    if twice := [name for name, n in collections.Counter(made).items() if n > 1]:
        raise DataError(f"{twice[0]}: is also made of a date; rename the column")
    return Columns(found, markers), [_understood(len(table), found, left), *notes]


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
    if cells.dtype.kind in "iu" and (cells > EXACT).any() and kind != "number":
        cells = cells.astype(str).astype(object)
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
            is_number = isinstance(found, Column) and found.kind == "number"
            return column if is_number else found
        _ask_of_units(name, words)
        if share >= 0.5 and len(words) > FEW:
            some = np.array(list(words), object)
            example = some[Columns({}, markers).numbers(some, column)[1][0]][:30]
            raise DataError(
                f"{name}: {share:.0%} of its cells are numbers, others not, {example!r} for one; "
                f"say 'data.columns=[\"{name}:number\"]', or :category, or :drop"
            )
    if share_of_dates(words) >= ENOUGH:
        return _date(name, cells, markers, "")
    lengths = np.repeat([len(word.split()) for word in words], list(words.values()))
    if len(words) > present / 2 and np.median(lengths) > 3:
        return "text"
    if len(words) == present >= PROOF and not missing:
        return "all different"
    return _category(words | ({MISSING_KEY: missing} if missing else {}))


def _of_numbers(name: str, values: np.ndarray, form: str = "point") -> Column | str:
    """Return how a column of int64, or of float64 with NaN, is read, or why it is left out."""
    present = values[~np.isnan(values)]
    low, high = (present.min(), present.max()) if len(present) >= PROOF else (0, 0)
    if COMPACT[0] <= low < high <= COMPACT[1]:
        days = of_numbers(values.astype(float), "compact")
        if np.isnan(days).sum() == len(values) - len(present):
            return Column("date", "compact", (), varying(days, "compact"))
    if values.dtype.kind in "iu" and _is_id(name, values):
        return "id: whole numbers, all different"
    if not len(present):
        return "empty"
    return "constant" if (present == present[0]).all() else Column("number", form)


def _counts(cells: np.ndarray, markers: frozenset) -> dict[str, int]:
    """Return word -> its number of cells, those that are missing under MISSING_KEY."""
    found: dict[str, int] = {}
    for word, n in collections.Counter(cells.tolist()).items():
        if type(word) is str:  # nearly all are
            key = word.strip()
            key = MISSING_KEY if key.lower() in markers else key
        else:
            key = MISSING_KEY if is_missing(word, markers) else text_of(word)
        found[key] = found.get(key, 0) + n
    return found


def _codes(words: Iterable[str]) -> bool:
    """Return whether any word is digits that begin with 0, or too many for a number."""
    digits = (word for word in words if word.isdigit())
    return any((word[0] == "0" and len(word) > 1) or len(word) > 16 for word in digits)


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
    some, units = list(words)[:GLANCE], collections.Counter()
    for word in some:
        if parts := parts_of(word):
            units[parts[2]] += words[word]
    unit = units.most_common(1)[0][0] if units else ""
    point, comma, both = decimal_evidence(some)
    if point == comma and len(words) > len(some):
        point, comma, both = decimal_evidence(list(words))

    def share(sign: str) -> float:
        forms = standard_forms(list(words), f"{sign} {unit}".strip())
        fits = sum(n for n, form in zip(words.values(), forms, strict=True) if form)
        return fits / max(1, sum(words.values()))

    sign = decimal or "point"
    if point != comma:
        sign = "point" if point > comma else "comma"
    elif not decimal and both and share("point") >= ENOUGH and any("," in word for word in words):
        example = next(word for word in words if "," in word)
        raise DataError(
            f"{name}: {example!r} may be thousands or a fraction; say data.decimal=point or comma"
        )
    return Column("number", f"{sign} {unit}".strip()), share(sign)


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
    if kind in ORDERS or (kind != "number" and share_of_dates(words) >= ENOUGH):
        column = _date(name, cells, MARKERS, ORDERS.get(kind, ""))
        column = column if isinstance(column, Column) else Column("date", "ymd")
    else:
        column, share = _number(name, words, decimal)
        if share < ENOUGH:
            example = next(iter(words), "")[:40]
            raise DataError(f"{name}: neither dates nor numbers, {example!r} for one")
    return Columns({}).numbers(cells, column)


def _ask_of_units(name: str, words: Mapping[str, int]) -> None:
    """Refuse numbers with different units, such as kg and g; codes such as 12A pass.

    Raises:
        DataError: naming the units.
    """
    units = collections.Counter()
    for word, n in words.items():
        if (parts := parts_of(word)) and parts[2] and not re.search(r"\d[AC-JLN-Z]$", word):
            units[parts[2]] += n
    if (
        len(words) > FEW
        and 1 < len(units) <= UNITS
        and units.total() >= ENOUGH * sum(words.values())
    ):
        some = " and ".join(unit for unit, _ in units.most_common(2))
        raise DataError(
            f"{name}: its numbers have {len(units)} units, {some}; write them in one, or say "
            f"'data.columns=[\"{name}:category\"]', or :drop"
        )


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


def _date(name: str, cells: np.ndarray, markers: frozenset, order: str) -> Column | str:
    """Return how a column of dates is read.

    Raises:
        DataError: 3/4/2024 and the like alone, which may be either; or no cell is a date.
    """
    words = [word for word in _counts(cells, markers) if word != MISSING_KEY]
    order = order or dates_order(name, words)
    days = read_days(words, order)
    if np.isnan(days).all():
        raise DataError(f"{name}: no cell is a date; say 'data.columns=[\"{name}:drop\"]'")
    parts = varying(days, order)
    return Column("date", order, (), parts) if parts else "constant"


def _doubts(name: str, column: Column, cells: np.ndarray, markers: frozenset) -> list[str]:
    """Return notes on a column that was read by the rules, but may be meant otherwise."""
    if column.kind == "number":
        values = Columns({}, markers).numbers(cells[:GLANCE], column)[0]
        return [
            f"{name}: is {code} missing? then 'data.na=[\"{code}\"]'"
            for code in CODES if _stands_off(values[~np.isnan(values)], code)
        ]  # fmt: skip
    if column.kind != "category":
        return []
    words, notes = _counts(cells, markers), []
    total, missing = len(cells), words.pop(MISSING_KEY, 0)
    folded = collections.defaultdict(list)
    for word in words:
        folded[word.lower()].append(word)
    if alike := [same for same in folded.values() if len(same) > 1]:
        notes.append(f"{name}: {listed(sorted(alike[0]))} differ in case alone")
    others = total - missing - sum(n for word, n in words.items() if word in column.levels)
    if others > total / 2 and OTHER in column.levels:
        notes.append(f"{name}: {others / total:.0%} of its cells are rare values, read as {OTHER}")
    if len(column.levels) > MANY:
        notes.append(f"{name}: {len(column.levels)} categories; a number, or a date?")
    return notes


def _stands_off(values: np.ndarray, code: float) -> bool:
    """Return whether some numbers are `code`, and it is unlike all others.

    A negative code among numbers from 0 on; or five times as large as any of the others.
    """
    is_code = values == code
    if is_code.sum() < 2 or is_code.all():
        return False
    others = values[~is_code]
    return code < 0 <= others.min() or abs(code) > 5 * np.abs(others).max()


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
