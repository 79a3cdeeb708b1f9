"""Notations of numbers: texts -> float64, whatever their decimal sign and unit."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SIGNS = "$€£¥₹%"
_CURRENCIES = r"(?:US|R|A|C)\$|Rs\.?|USD|EUR|GBP|CHF|JPY|INR|CNY|CAD|AUD|SEK|NOK|DKK|PLN|BRL"
# A unit is one word: kg, km/h, °C, m², USD; a currency may stand before the number.
_UNIT = r"°?[^\W\d_][^\W\d_²³]{0,9}[²³]?(?:/[^\W\d_]{1,5}[²³]?)?|°"
_SPACES = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2212": "-", "\u2019": "'"})
_FRAME = re.compile(
    rf"(\()?([-+]?)\s*([{SIGNS}]|{_CURRENCIES})?\s*([-+]?)"
    rf"(\d[\d.,' ]*|[.,]\d+)((?:[eE][-+]?\d+)?)\s*([{SIGNS}]|{_UNIT})?(-?)(\))?"
)
_GROUPS = r"\d+|\d{1,3}([%s])\d{3}(?:\1\d{3})*"
_POINT, _COMMA = _GROUPS % ",' ", _GROUPS % ".' "
DIGITS = {  # 12,34,567 as in India has a decimal point
    "point": re.compile(rf"(?:{_POINT}|\d{{1,2}}(?:,\d\d)+,\d{{3}})?(?:\.\d*)?"),
    "comma": re.compile(rf"(?:{_COMMA})?(?:,\d*)?"),
}
_MARKS = {"point": str.maketrans("", "", ",' "), "comma": str.maketrans(",", ".", ".' ")}
FORM = re.compile(rf"(?:point|comma)(?: (?:[{SIGNS}]|{_CURRENCIES}|{_UNIT}))?", re.IGNORECASE)


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
            texts = standard_forms([text_of(word) for word in words], form)
            if unit != "%":  # a number that is no text has no decimal sign to be read by
                both = zip(words, texts, strict=True)
                texts = [word if isinstance(word, int | float) else text for word, text in both]
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
    opened, sign, before, sign2, digits, power, after, behind, closed = match.groups()
    if bool(opened) != bool(closed) or (opened and (sign or sign2 or behind)):
        return None
    if sum(map(bool, (sign, sign2, behind))) > 1 or (before and after):
        return None
    return (
        ("-" if opened else sign or sign2 or behind),
        digits.strip() + power,
        unit_of(before or after or ""),
    )


def unit_of(text: str) -> str:
    """Return a unit in lower case and the singular: `Months` and `month` are one."""
    text = text.lower().rstrip(".")
    return text[:-1] if len(text) > 2 and text.endswith("s") else text


def standard_forms(words: list[str], form: str) -> list[str]:
    """Return numbers as pandas reads them; empty texts where they are none of the form.

    A column whose numbers are all of the plain kind, `-1,234.5 kg`, is changed as a whole.
    """
    sign_of, _, unit = form.partition(" ")
    group, mark = (",", "[.]") if sign_of == "point" else ("[.]", ",")
    number = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+|\d+)(?:{mark}\d*)?"
    name = re.escape(unit) + "s?" * (len(unit) > 1)
    either = rf"{number} ?{name}" if unit else number
    if re.fullmatch(rf"[{SIGNS}]|{_CURRENCIES}", unit, re.IGNORECASE):
        either = rf"(?:{name} ?{number}|{either})"
    whole = "\n".join(words)
    plain = re.compile(rf"^[-+]?{either}$", re.MULTILINE | re.IGNORECASE)
    if len(words) < 2 or len(plain.findall(whole)) < len(words) or whole.count("\n") >= len(words):
        return [standard_form(word, sign_of, unit) for word in words]
    bare = re.sub(rf"[^\d\n{mark.strip('[]')}+-]+", "", whole)
    return (bare if sign_of == "point" else bare.replace(",", ".")).split("\n")


def standard_form(text: str, sign_of: str, unit: str) -> str:
    """Return a number as pandas reads it; an empty text where it is none of this form."""
    parts = parts_of(text)
    if parts is None or parts[2] != unit:
        return ""
    digits, e, power = parts[1].lower().partition("e")
    if not DIGITS[sign_of].fullmatch(digits):
        return ""
    return parts[0] + digits.translate(_MARKS[sign_of]) + e + power
