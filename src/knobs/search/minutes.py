"""Minutes in which at least one run was under way, by clocks that nobody sets.

A span is [clock, start, end] in seconds of a monotonic clock; `end` is None while it goes on. All
processes of one boot of a machine share a clock. Spans of one clock that lie side by side count
once; what other clocks measured is added.
"""

import functools
import secrets
import time
from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")  # Linux's; elsewhere each process has a clock
Span = tuple[str, float, float]


def now() -> tuple[str, float]:
    """Return this process's clock, and what it shows."""
    return _clock(), time.monotonic()


@functools.cache
def _clock() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return secrets.token_hex(8)


def used(spans: Iterable[Span]) -> float:
    """Return the minutes that spans cover."""
    total = 0.0
    for _, of_one in groupby(sorted(spans), key=lambda span: span[0]):
        reached = float("-inf")
        for _, start, end in of_one:
            total += max(end - max(start, reached), 0.0)
            reached = max(reached, end)
    return total / 60


def begun(spans: list[Any], seen: Any = None) -> list[Any]:
    """Return spans with one more, which begins now; one left open ends where it was last seen.

    Args:
        seen: (clock, seconds) at which the process of that one was last known to be at it.
    """
    return [*ended(spans, seen or ("", 0.0)), [*now(), None]]


def ended(spans: list[Any], at: Any) -> list[Any]:
    """Return spans, one left open ended at a moment (clock, seconds), or at its start."""
    if not spans or spans[-1][2] is not None:
        return spans
    clock, start, _ = spans[-1]
    return [*spans[:-1], [clock, start, max(start, at[1]) if at[0] == clock else start]]


def of_dates(start: datetime | None, end: datetime | None) -> list[Any]:
    """Return the span of a trial by the machine's date, as journals had it before."""
    return [["dates", start.timestamp(), end.timestamp()]] if start and end else []


def of_seconds(before: float, seconds: float) -> list[Any]:
    """Return a span of a run of which only its length is known, behind those before."""
    return [["records", before, before + seconds]]
