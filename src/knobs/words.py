"""Numbers and names as text, by one rule each for the terminal, the pages and W&B.

A value of a metric has four significant digits; a standard deviation, a difference and a duration
have two; a p-value has three.
"""

import json
import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def number(value: float, digits: int = 3) -> str:
    """Format so many significant digits, without an exponent where it can be done without."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(decimals, 6)}f}"
    return f"{value:.{digits - 1}e}"


def cell(value: Any) -> Any:
    """Return a value as a cell of a CSV file: no spreadsheet takes it for a formula.

    A text that begins as a formula does gets a `'` in front, unless it is a finite number. Source:
    OWASP, CSV Injection.
    """
    if not isinstance(value, str) or value[:1] not in FORMULA:
        return value
    try:
        return value if math.isfinite(float(value)) else f"'{value}"
    except ValueError:
        return f"'{value}"


def sd(value: float) -> str:
    """Format a standard deviation."""
    return number(value, 2)


def score(mean: float | None, spread: float | None, n: int) -> str:
    """Format `0.9722 ± 0.0012 (3)`: mean, sample standard deviation and number of runs."""
    if mean is None:
        return ""
    return number(mean, 4) + ("" if spread is None else f" ± {sd(spread)} ({n})")


def percent(share: float) -> str:
    """Format a share of 1: `5 %`."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Format `41 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{number(seconds, 2)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(n: int, what: str) -> str:
    """Format `1 run`, `2 runs`."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join `a`, `a and b`, `a, b and c`, `a, b, c and 5 more`."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def sentence(text: str) -> str:
    """Begin with a capital and end with a full stop; empty stays empty."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def printable(text: str, most: int = 400) -> str:
    """Return text with control characters removed, cut to a length."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else "�" for c in short)


def folded(text: str, room: int) -> list[str]:
    """Break a text into lines of at most `room` characters, 20 at least.

    It is broken at spaces only: a longer word or path is a line of its own.
    """
    return textwrap.wrap(text, max(20, room), break_long_words=False, break_on_hyphens=False)


def short(value: Any) -> str:
    """Format a knob's value in few characters."""
    return f"{value:g}" if isinstance(value, float) else as_text(value)


def as_text(value: Any) -> str:
    """Format a knob's value as the command line takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace('"', "")


def short_names(names: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Map each name to its last parts, as many as tell it from the others: optimizer.lr to lr.

    Args:
        taken: names of other things, which none becomes.
    """

    def tails(name: str) -> list[str]:
        return [name.split(".", i)[-1] for i in range(name.count("."), -1, -1)]

    seen = Counter(taken) + Counter(tail for name in names for tail in tails(name))
    return {name: next((t for t in tails(name) if seen[t] == 1), name) for name in names}
