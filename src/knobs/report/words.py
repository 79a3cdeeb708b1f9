"""Numbers and names as a report says them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS = ("accuracy", "f1")  # shares of 1, whose differences are told in hundredths


@dataclass(frozen=True)
class Objective:
    """What a sweep looks for: a metric and whether more of it is better ("max") or less ("min")."""

    metric: str = "objective"
    mode: str = "max"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is: a gain is `sign * (a - b)`."""
        return -1 if self.mode == "min" else 1

    @property
    def in_points(self) -> bool:
        """Whether differences are told in hundredths."""
        return self.metric.rpartition("/")[2] in POINTS

    def value(self, value: float | None) -> str:
        """A value of the metric."""
        return "none" if value is None else number(value, 4)

    def amount(self, difference: float, unit: bool = True) -> str:
        """A difference between two values of the metric."""
        if not self.in_points:
            return number(difference, 2)
        points = 100 * difference
        text = f"{points:.1f}" if abs(points) >= 0.095 else f"{points:.2f}"
        text = "0" if float(text) == 0 else text
        return f"{text} points" if unit else text


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent where it can be done without."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(decimals, 6)}f}"
    return f"{value:.{digits - 1}e}"


def duration(seconds: float) -> str:
    """`41 s`, `12 min`, `3.4 h`."""
    if seconds < 120:
        return f"{number(seconds, 2)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(n: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n:,} {what}{'s' * (n != 1)}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c and 5 more`."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def printable(text: str, most: int = 400) -> str:
    """Text that does nothing to a terminal or a page but stand there."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else "�" for c in short)
