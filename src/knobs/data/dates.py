"""Notations of dates and times: texts -> days since 1970, and the cycles of dates."""

import contextlib
import datetime
import re
from collections.abc import Mapping, Sequence

import numpy as np

from knobs.data.notation import plain_numbers
from knobs.errors import DataError

PARTS = ("day", *(f"{c} {f}" for c in ("weekday", "month", "hour") for f in ("sin", "cos")))
FORMS = ("ymd", "dmy", "mdy", "epoch", "compact", "time")  # how the dates of a column are written
FIRST, LAST = 1800, 2199  # years of a month, quarter or week
COMPACT = (1900_01_01, 2099_12_31)  # as 20240131 is a date
_TIME = (
    r"(?:[T ]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([ap]m)?"
    r"\s*(?:Z|GMT|UTC|[+-]\d{2}:?\d{2})?)?"
)
_NUMERIC = re.compile(rf"(\d{{1,4}})([-/.])(\d{{1,2}})\2(\d{{1,4}}){_TIME}", re.IGNORECASE)
# What numpy reads as `read_day` does, and sooner.
_ISO = re.compile(
    r"^\d{4}-(?:0[1-9]|1[0-2])-\d\d(?:[ T](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d)?)?$", re.MULTILINE
)
_WORD = r"([^\W\d_]{3})[^\W\d_]*\.?"
_NAMED = re.compile(rf"(\d{{1,2}})\.?[ -]{_WORD}[ -](\d{{4}}|\d{{2}}){_TIME}", re.IGNORECASE)
_MONTH_FIRST = re.compile(r"^([^\W\d_]{3,9})\.? (\d{1,2}),? (\d{4})")
_WEEKDAY = re.compile(r"^(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? (?=\S*\d)", re.IGNORECASE)
_MONTHS = {
    name: month
    for names in ("jan feb mar apr may jun jul aug sep oct nov dec",
                  "jan feb mär apr mai jun jul aug sep okt nov dez")
    for month, name in enumerate(names.split(), start=1)
}  # fmt: skip
_MONTHS["mrz"] = 3
_PERIODS = (  # the year and the month, quarter or week, by name
    re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})"),
    re.compile(r"(?P<month>\d{1,2})[-/.](?P<year>\d{4})"),
    re.compile(r"(?P<name>[^\W\d_]{3})[^\W\d_]*\.?[- ](?P<year>\d{4})"),
    re.compile(r"(?P<year>\d{4})[- ]?Q(?P<quarter>[1-4])", re.IGNORECASE),
    re.compile(r"Q(?P<quarter>[1-4])[- /]?(?P<year>\d{4})", re.IGNORECASE),
    re.compile(r"(?P<year>\d{4})-?W(?P<week>\d{1,2})", re.IGNORECASE),
)
_CLOCK = re.compile(
    r"(?:(\d+) days?,? )?(\d{1,3}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?(?: ?([ap])\.?m\.?)?",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"(?:(\d+) ?d(?:ays?)?)?,? ?(?:(\d+) ?h(?:(?:ou)?rs?)?)?,? ?"
    r"(?:(\d+) ?m(?:in(?:ute)?s?)?)?,? ?(?:(\d+) ?s(?:ec(?:ond)?s?)?)?",
    re.IGNORECASE,
)
EPOCH = datetime.date(1970, 1, 1).toordinal()


def read_day(word: str, order: str) -> float:
    """Return days since 1970, with the time of day as written; NaN where it is no date."""
    word = _WEEKDAY.sub("", word)
    if match := _NUMERIC.fullmatch(word):
        first, dot, second, third, *time = match.groups()
        if len(first) == 4 and len(third) <= 2:
            date = int(first), int(second), int(third)
        elif len(first) <= 2 and len(third) in (2, 4):
            turned = order == "mdy" and dot != "."
            if order == "ymd" and dot != "." and first != second:
                return np.nan
            day, month = (second, first) if turned else (first, second)
            date = _year(third), int(month), int(day)
        else:
            return np.nan
    elif match := _named(word):
        day, month, year, *time = match.groups()
        date = _year(year), _MONTHS[month.lower()], int(day)
    else:
        return _period(word)
    hour, minute, second = (int(part or 0) for part in time[:3])
    if time[3]:
        hour = hour % 12 + 12 * (time[3].lower() == "pm")
    try:
        days = datetime.date(*date).toordinal() - EPOCH
    except ValueError:
        return np.nan
    return days + (hour * 3600 + minute * 60 + second) / 86400 if hour < 24 else np.nan


def _year(text: str) -> int:
    """Return a year; one of two digits is 1970 .. 2069."""
    return int(text) + (0 if len(text) == 4 else 2000 if int(text) < 70 else 1900)


def _named(word: str) -> re.Match | None:
    """Return the match of a date with a month's name, `3 Jan 2024` or `January 3, 2024`."""
    match = _NAMED.fullmatch(_MONTH_FIRST.sub(r"\2 \1 \3", word))
    return match if match and match[2].lower() in _MONTHS else None


def _period(word: str) -> float:
    """Return the first day of a month, a quarter or an ISO week; NaN where it is none."""
    for form in _PERIODS:
        if not (match := form.fullmatch(word)):
            continue
        parts = match.groupdict()
        year, month = int(parts["year"]), int(parts.get("month") or 1)
        if not FIRST <= year <= LAST:
            continue
        if parts.get("quarter"):
            month = 3 * int(parts["quarter"]) - 2
        if name := parts.get("name"):
            month = _MONTHS.get(name[:3].lower(), 0)
        try:
            if week := parts.get("week"):
                return float(datetime.date.fromisocalendar(year, int(week), 1).toordinal() - EPOCH)
            return float(datetime.date(year, month, 1).toordinal() - EPOCH)
        except ValueError:
            continue
    return np.nan


def read_time(word: str) -> float:
    """Return days of a time of day, `17:30` or `5:30 PM`, or of a duration, `2h 5m`; else NaN."""
    if match := _CLOCK.fullmatch(word):
        days, hour, minute, second = (int(part or 0) for part in match.groups()[:4])
        if match[5]:
            if not 1 <= hour <= 12:
                return np.nan
            hour = hour % 12 + 12 * (match[5].lower() == "p")
        if minute > 59 or second > 59:
            return np.nan
    elif word[:1].isdigit() and (match := _SPAN.fullmatch(word)):
        days, hour, minute, second = (int(part or 0) for part in match.groups())
    else:
        return np.nan
    return days + hour / 24 + minute / 1440 + second / 86400


def read_days(words: Sequence[str], order: str) -> np.ndarray:
    """Return (n,) days since 1970, NaN where a word is no date of the form.

    Args:
        order: one of FORMS.
    """
    if order in ("epoch", "compact"):
        return of_numbers(plain_numbers(np.array(words, object)).astype(float), order)
    if order == "time":
        return np.array([read_time(word) for word in words], float)
    if len(_ISO.findall("\n".join(words))) == len(words) > 0:
        with contextlib.suppress(ValueError):  # no such day
            seconds = np.array(words, "datetime64[s]").astype(np.int64)
            return seconds // 86400 + seconds % 86400 / 86400
    return np.array([read_day(word, order) for word in words], float)


def of_numbers(values: np.ndarray, order: str) -> np.ndarray:
    """Return (n,) days since 1970 of numbers, NaN where one is no date.

    Args:
        order: compact, as 20240131; else seconds since 1970, or milliseconds above 1e11.
    """
    if order != "compact":
        return np.where(np.abs(values) > 1e11, values / 1000, values) / 86400
    with np.errstate(invalid="ignore"):
        fits = (values >= COMPACT[0]) & (values <= COMPACT[1]) & (np.floor(values) == values)
    whole = np.where(fits, values, COMPACT[0]).astype(np.int64)
    months = (whole // 10000 - 1970) * 12 + whole // 100 % 100 - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + whole % 100 - 1
    again = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    fits &= (whole // 100 % 100 >= 1) & (whole // 100 % 100 <= 12) & (whole % 100 >= 1)
    return np.where(fits & (again == months), days, np.nan)


def share_of_dates(words: Mapping[str, int]) -> float:
    """Return the share of cells that are dates or times, written in the way that most of them are.

    Args:
        words: word -> its number of cells.
    """
    some, counts, best = list(words)[:200], np.array(list(words.values())), 0.0
    for order in ("time", "dmy", "mdy"):
        if np.isfinite(read_days(some, order)).sum() < 0.5 * len(some) or best == 1:
            continue
        fits = np.isfinite(read_days(list(words), order))
        best = max(best, float(counts[fits].sum() / max(1, counts.sum())))
    return best


def dates_order(name: str, words: Sequence[str]) -> str:
    """Return how dates are written, of FORMS.

    Raises:
        DataError: 3/4/2024 and the like alone, which may be either.
    """
    whole = plain_numbers(np.array(words, object)).astype(float)
    if len(whole) and not np.isnan(whole).any():
        return "compact" if np.isfinite(of_numbers(whole, "compact")).all() else "epoch"
    if np.isfinite(read_days(words[:200], "time")).sum() > 0.5 * len(words[:200]):
        return "time"
    both = {order: read_days(words, order) for order in ("dmy", "mdy")}
    counts = {order: int((~np.isnan(days)).sum()) for order, days in both.items()}
    same = np.array_equal(both["dmy"], both["mdy"], equal_nan=True)
    if counts["dmy"] == counts["mdy"] and not same:
        example = next(w for w, a, b in zip(words, *both.values(), strict=True) if a != b)
        raise DataError(
            f"{name}: {example!r} may begin with the day or the month; "
            f"say 'data.columns=[\"{name}:dmy\"]', or :mdy, or :drop"
        )
    return "ymd" if same else max(counts, key=counts.get)


def varying(days: np.ndarray, order: str) -> tuple[str, ...]:
    """Return the PARTS that are not the same on all days; of durations the length alone."""
    made = {part: values[~np.isnan(values)] for part, values in date_parts(days).items()}
    if order == "time" and np.nanmax(days) >= 1:
        made = {"day": made["day"]}
    return tuple(part for part, v in made.items() if v.max() - v.min() > 1e-9)


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
