"""Notations of numbers and dates: texts -> float64, days since 1970, and the cycles of dates."""

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

UNITS = "$€£¥₹%"
_SIGNS = {"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2212": "-", "\u2019": "'"}
_SPACES = str.maketrans(_SIGNS)
_FRAME = re.compile(
    rf"(\()?([-+]?)\s*([{UNITS}]?)\s*([-+]?)"
    rf"(\d[\d.,' ]*|[.,]\d+)((?:[eE][-+]?\d+)?)\s*([{UNITS}]?)(\))?"
)
DIGITS = {
    "point": re.compile(r"(?:\d+|\d{1,3}([,' ])\d{3}(?:\1\d{3})*)?(?:\.\d*)?"),
    "comma": re.compile(r"(?:\d+|\d{1,3}([.' ])\d{3}(?:\1\d{3})*)?(?:,\d*)?"),
}
_MARKS = {"point": str.maketrans("", "", ",' "), "comma": str.maketrans(",", ".", ".' ")}
_TIME = r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([ap]m)?\s*(?:Z|[+-]\d{2}:?\d{2})?)?"
DATE = re.compile(rf"(\d{{1,4}})([-/.])(\d{{1,2}})\2(\d{{1,4}}){_TIME}", re.IGNORECASE)
_NAMED = re.compile(rf"(\d{{1,2}})[ -]([a-z]{{3}})[a-z]*\.?[ -](\d{{4}}){_TIME}", re.IGNORECASE)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
PARTS = ("day", *(f"{c} {f}" for c in ("weekday", "month", "hour") for f in ("sin", "cos")))


def is_missing(cell: Any, markers: frozenset | set) -> bool:
    """Return whether a cell is empty, or one of the markers whatever its case."""
    return cell is None or cell != cell or text_of(cell).lower() in markers


def text_of(cell: Any) -> str:
    """Return a cell as a category: stripped; a whole number without a point."""
    if isinstance(cell, str):
        return cell.strip()
    whole = isinstance(cell, float) and cell.is_integer()
    return str(int(cell)) if whole else str(cell)


def name_of(text: str) -> str:
    """Return a column's name on one line, without blanks around it."""
    return " ".join(text.split())


def by_words(cells: np.ndarray, read: Callable[[list], np.ndarray]) -> np.ndarray:
    """Return what `read` makes of cells, each different one read once."""
    import pandas as pd

    codes, words = pd.factorize(cells)
    if not len(words):
        return np.full(len(cells), np.nan)
    values = np.append(read(list(words)), np.nan)
    return values[codes]  # -1: missing


def decimal_evidence(words: Sequence[str]) -> tuple[int, int, int]:
    """Return how many numbers fit a decimal point only, a comma only, and both."""
    point = comma = both = 0
    for word in words:
        parts = parts_of(word)
        if parts is None or not ("." in parts[1] or "," in parts[1]):
            continue
        digits = parts[1].lower().partition("e")[0]
        fits = [bool(DIGITS[sign].fullmatch(digits)) for sign in ("point", "comma")]
        point, comma, both = point + (fits == [1, 0]), comma + (fits == [0, 1]), both + all(fits)
    return point, comma, both


def read_numbers(cells: np.ndarray, form: str) -> np.ndarray:
    """Return (n,) float64, NaN where a cell is no number of the form."""
    sign_of, _, unit = form.partition(" ")
    if sign_of == "point" and not unit:
        numbers = plain_numbers(cells).astype(float)
    else:
        numbers = np.full(len(cells), np.nan)
    rest = np.flatnonzero(np.isnan(numbers))
    if len(rest):

        def read(words: list[Any]) -> np.ndarray:
            texts = [  # a number that is no text has no decimal sign to be read by
                word if unit != "%" and isinstance(word, int | float)
                else standard_form(text_of(word), sign_of, unit) for word in words
            ]  # fmt: skip
            return plain_numbers(np.array(texts, object)).astype(float)

        numbers[rest] = by_words(cells[rest], read)
    return numbers


def plain_numbers(cells: np.ndarray) -> np.ndarray:
    """Return cells as pandas reads numbers: int64, or float64 with NaN for what is none."""
    import pandas as pd

    values = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy()
    return values if values.dtype.kind in "iuf" else np.full(len(cells), np.nan)


def parts_of(text: str) -> tuple[str, str, str] | None:
    """Return the sign, the digits with their marks and the unit of a number; None of others."""
    match = _FRAME.fullmatch(text.strip().translate(_SPACES))
    if not match:
        return None
    opened, sign, before, sign2, digits, power, after, closed = match.groups()
    if bool(opened) != bool(closed) or (opened and (sign or sign2)):
        return None
    if (sign and sign2) or (before and after):
        return None
    return ("-" if opened else sign or sign2), digits.strip() + power, before or after


def standard_form(text: str, sign_of: str, unit: str) -> str:
    """Return a number as pandas reads it; an empty text where it is none of this form."""
    parts = parts_of(text)
    if parts is None or parts[2] != unit:
        return ""
    digits, e, power = parts[1].lower().partition("e")
    if not DIGITS[sign_of].fullmatch(digits):
        return ""
    return parts[0] + digits.translate(_MARKS[sign_of]) + e + power


def read_day(word: str, order: str) -> float:
    """Return days since 1970, with the time of day as written; NaN where it is no date."""
    if match := DATE.fullmatch(word):
        first, dot, second, third, *time = match.groups()
        if len(first) == 4 and len(third) <= 2:
            date = int(first), int(second), int(third)
        elif len(first) <= 2 and len(third) in (2, 4):
            turned = order == "mdy" and dot != "."
            if order == "ymd" and dot != "." and first != second:
                return np.nan
            day, month = (second, first) if turned else (first, second)
            year = int(third) + (0 if len(third) == 4 else 2000 if int(third) < 70 else 1900)
            date = year, int(month), int(day)
        else:
            return np.nan
    elif match := month_first(word):
        day, month, year, *time = match.groups()
        date = int(year), 1 + _MONTHS.index(month.lower()), int(day)
    else:
        return np.nan
    hour, minute, second = (int(part or 0) for part in time[:3])
    if time[3]:
        hour = hour % 12 + 12 * (time[3].lower() == "pm")
    try:
        days = datetime.date(*date).toordinal() - datetime.date(1970, 1, 1).toordinal()
    except ValueError:
        return np.nan
    return days + (hour * 3600 + minute * 60 + second) / 86400 if hour < 24 else np.nan


def read_days(words: Sequence[str], order: str) -> np.ndarray:
    """Return (n,) days since 1970, NaN where a word is no date."""
    if order == "epoch":
        return epoch_days(plain_numbers(np.array(words, object)).astype(float))
    return np.array([read_day(word, order) for word in words], float)


def epoch_days(values: np.ndarray) -> np.ndarray:
    """Return days since 1970 of seconds, or of milliseconds where they are above 1e11."""
    return np.where(np.abs(values) > 1e11, values / 1000, values) / 86400


def month_first(word: str) -> re.Match | None:
    """Return the match of a date with a month's English name, `3 Jan 2024` or `January 3, 2024`."""
    turned = re.sub(r"^([A-Za-z]{3,9})\.? (\d{1,2}),? (\d{4})", r"\2 \1 \3", word)
    match = _NAMED.fullmatch(turned)
    return match if match and match[2].lower() in _MONTHS else None


def date_parts(days: np.ndarray) -> dict[str, np.ndarray]:
    """Return PARTS of days since 1970: the number, and the places in the week, year and day.

    A cycle is a sine and a cosine, so that December is beside January: (sin, cos)(2 pi k / n), with
    k = 0 on Monday, in January and at midnight.
    """
    whole = np.floor(np.where(np.isnan(days), 0, days))
    months = whole.astype(np.int64).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    turns = {"weekday": (whole + 3) % 7 / 7, "month": months % 12 / 12, "hour": days - whole}
    found = {"day": days}
    for name, turn in turns.items():
        angle = np.where(np.isnan(days), np.nan, 2 * np.pi * turn)
        found |= {f"{name} sin": np.sin(angle), f"{name} cos": np.cos(angle)}
    return found
