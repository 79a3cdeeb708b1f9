"""The axes of a search space, and settings as points of the unit cube."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.report.records import Knob, finite

Array, Row = np.ndarray, dict[str, Any]
BEYOND = 0.25  # how far outside its range, in ranges, a value may lie and be told from the bound


class Space:
    """The knobs that varied, as columns of numbers.

    A position is a knob's value on a scale: 0 to 1 from low to high (a scale of choices: from the
    first to the last), the number of the choice for a categorical one, NaN where it is inactive.

    Args:
        rows: [n, d], positions of the runs; default: [d], of the default.
        varied: [d], which of the knobs given they are.
        owner: [C], the knob of each column of `encode`.
    """

    def __init__(self, knobs: Sequence[Knob], rows: Sequence[Row], default: Row | None):
        seen = [*rows, *([] if default is None else [default])]
        at, scales = np.zeros((len(seen), len(knobs))), []
        for k, knob in enumerate(knobs):
            values = [row.get(knob.name) for row in seen]
            scales.append(_scale(knob, values))
            at[:, k] = list(map(scales[k].position, values))
        runs = at[: len(rows)]
        self.varied = [k for k, x in enumerate(runs.T) if len(np.unique(x[~np.isnan(x)])) > 1]
        self.scales = [scales[k] for k in self.varied]
        self.rows = runs[:, self.varied]
        self.default = None if default is None else at[-1, self.varied]
        widths = [scale.levels or 1 for scale in self.scales]
        self.owner = np.repeat(np.arange(len(self.varied)), widths)
        self.rules = [self._rule(k) for k in range(len(self.varied))]

    def _rule(self, k: int) -> tuple[int, list[float]] | None:
        """The first knob with choices that tells where knob k is inactive, and by which values."""
        absent = np.isnan(self.rows[:, k])
        for other, scale in enumerate(self.scales):
            if other == k or not scale.choices or not absent.any():
                continue
            at = np.nan_to_num(self.rows[:, other], nan=-1)
            share = {value: absent[at == value].mean() for value in np.unique(at)}
            if set(share.values()) <= {0.0, 1.0}:
                return other, [value for value, gone in share.items() if gone]
        return None

    def active(self, at: Array) -> Array:
        """Positions [m, d], with NaN where a rule says that a knob is inactive."""
        at = at.copy()
        for k, rule in enumerate(self.rules):
            if rule:
                at[np.isin(np.nan_to_num(at[:, rule[0]], nan=-1), rule[1]), k] = np.nan
        return at

    def encode(self, at: Array) -> Array:
        """Columns [m, C] in the unit cube; two choices are as far apart as low and high."""
        columns = [np.zeros((len(at), 0))]
        for k, scale in enumerate(self.scales):
            x = at[:, k, None]
            category = (x == np.arange(scale.levels)) / math.sqrt(2)
            columns.append(category if scale.levels else np.where(np.isnan(x), 0.5, x))
        return np.concatenate(columns, 1)

    def points(self, rng: np.random.Generator, log2: int) -> tuple[Array, Array]:
        """Two quasi-random samples of the space, [m, d] each, as positions."""
        from scipy.stats import qmc

        d = len(self.varied)
        u = qmc.Sobol(2 * d, rng=rng).random_base2(log2)
        at = np.stack([scale.spread(u[:, k]) for k, scale in enumerate([*self.scales] * 2)], 1)
        return at[:, :d], at[:, d:]


@dataclass(frozen=True)
class _Scale:
    """A knob's values as positions; `levels` is 0 unless they are categories."""

    position: Callable[[Any], float]
    spread: Callable[[Array], Array]  # uniform in [0, 1) -> positions of the search space
    choices: int = 0
    levels: int = 0


def _scale(knob: Knob, seen: list[Any]) -> _Scale:
    if knob.choices is None:
        return _numeric(knob)
    count = len(knob.choices)
    numbers = [finite(choice) for choice in knob.choices]

    def cell(u: Array) -> Array:
        return np.minimum(np.floor(u * count), count - 1)

    if count > 2 and None not in numbers:
        ranks = np.linspace(0, 1, count)

        def position(value: Any) -> float:
            number = finite(value)
            return np.nan if number is None else float(np.interp(number, sorted(numbers), ranks))

        return _Scale(position, lambda u: ranks[cell(u).astype(int)], count)
    options = [_key(choice) for choice in knob.choices]
    options += dict.fromkeys(k for k in map(_key, seen) if k != _key(None) and k not in options)
    place = {key: float(i) for i, key in reversed(list(enumerate(options)))}
    return _Scale(lambda value: place.get(_key(value), np.nan), cell, count, len(options))


def _numeric(knob: Knob) -> _Scale:
    warp, back = (math.log, np.exp) if knob.log else (float, np.asarray)
    low, width = warp(knob.low), warp(knob.high) - warp(knob.low)

    def position(value: Any) -> float:
        if finite(value) is None:
            return np.nan
        if knob.log and value <= 0:  # "off"
            return 0.0
        return min(max((warp(value) - low) / width, -BEYOND), 1 + BEYOND)

    def spread(u: Array) -> Array:
        if not knob.integer:
            return u
        least, most = warp(knob.low - 0.5), warp(knob.high + 0.5)
        whole = np.clip(np.round(back(least + u * (most - least))), knob.low, knob.high)
        return ((np.log(whole) if knob.log else whole) - low) / width

    return _Scale(position, spread)


def _key(value: Any) -> str:
    """Return a text that equal choices share: 1 is 1.0, True is not."""
    number = finite(value)
    return repr(value if number is None else number)
