"""Schedules as functions of time, for LambdaLR and MultiplicativeLR; durations as percentages.

A function takes t, the intervals (epochs or optimizer steps) done so far, from 0, and returns what
the base rate is multiplied by.
"""

import math
import re
from typing import Any

_PERCENT = re.compile(r"(\d+(\.\d+)?)%")


def inverse_time(t: int, *, rate: float) -> float:
    """Return 1 / (1 + rate t)."""
    return 1 / (1 + rate * t)


def fixed_factor(t: int, *, factor: float) -> float:
    """Return factor, at every t: for MultiplicativeLR, which multiplies the rate it has."""
    return factor


def _warm(t: int, warmup: int) -> float:
    """Rise in a straight line, (t + 1) / warmup, to 1: no step is taken at rate 0."""
    return min(1.0, (t + 1) / warmup) if warmup else 1.0


def warmup_cosine(t: int, *, warmup: int, total: int, floor: float) -> float:
    """Warm up, then return floor + (1 - floor) (1 + cos(pi u)) / 2, u going 0 .. 1 to `total`."""
    if t < warmup:
        return _warm(t, warmup)
    u = min(1.0, (t - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * u)) / 2


def inverse_sqrt(t: int, *, warmup: int) -> float:
    """Warm up, then return sqrt(warmup / (t + 1)); with no warm-up 1 / sqrt(t + 1)."""
    return _warm(t, warmup) if t < warmup else math.sqrt(max(1, warmup) / (t + 1))


def wsd(t: int, *, warmup: int, decay: int, total: int, floor: float) -> float:
    """Warm up, then return 1, then a line to floor over the last `decay` of `total`."""
    left = max(0, total - t)
    if t < warmup:
        return _warm(t, warmup)
    return floor + (1 - floor) * min(1.0, left / decay) if decay else 1.0


def percent(value: Any) -> float | None:
    """Return the share that `30%` stands for, 0.3; None where the value is not such a word."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return float(match[1]) / 100 if match else None


def lengths(node: Any, total: int) -> Any:
    """Return a scheduler's config with every percentage of the run as a whole number of intervals.

    Args:
        total: intervals in the run. A share above 0 % is at least one interval.
    """
    if isinstance(node, dict):
        return {name: lengths(child, total) for name, child in node.items()}
    if isinstance(node, list):
        return [lengths(child, total) for child in node]
    part = percent(node)
    if part is None:
        return node
    return max(1, round(part * total)) if part else 0
