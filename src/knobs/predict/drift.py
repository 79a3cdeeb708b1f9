"""Differences between raw rows and those of training, counted while they are prepared."""

import collections
import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from knobs.data.columns import MISSING, OTHER
from knobs.data.inputs import Table

SHOWN = 10  # columns in a line, or lines of a kind


@dataclass
class Tally:
    """Counts over all blocks of rows.

    Args:
        rows: all of them.
        faults: those that cannot be read.
        missing, outside, unseen: column -> its rows.
        ranges: column -> the range of its training rows, in words.
        tokens, unknown: of texts.
    """

    rows: int = 0
    faults: int = 0
    first: str = ""
    missing: collections.Counter = field(default_factory=collections.Counter)
    outside: collections.Counter = field(default_factory=collections.Counter)
    unseen: collections.Counter = field(default_factory=collections.Counter)
    ranges: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    unknown: int = 0

    def add_faults(self, rows: list, count: int, faults: Mapping[int, str]) -> None:
        """Count the rows of a block.

        Args:
            rows: their names. count: of them. faults: place in the block -> what is wrong.
        """
        self.rows += count
        self.faults += len(faults)
        if faults and not self.first:
            place = min(faults)
            self.first = f"row {rows[place]}: {faults[place]}"

    def add_numbers(self, inputs: Table, typed: Mapping[str, np.ndarray]) -> None:
        """Count numbers that are missing, or outside the range of training.

        Args:
            typed: as `Columns.typed` returns it.
        """
        for i, name in enumerate(inputs.numbers):
            column, _, part = name.rpartition(": ")
            made_of = inputs.columns.columns if inputs.columns else {}
            is_date = name not in made_of and column in made_of
            if is_date and part != "day":  # the cycles of a date are those of its day
                continue
            shown, values = column if is_date else name, typed[name]
            self.missing[shown] += int(np.isnan(values).sum())
            if inputs.low is None or inputs.high is None:
                continue
            low, high = inputs.low[i], inputs.high[i]
            self.outside[shown] += int(((values < low) | (values > high)).sum())
            words = map(_as_date, (low, high)) if is_date else (f"{v:.6g}" for v in (low, high))
            self.ranges[shown] = " .. ".join(words)

    def add_words(self, name: str, words: np.ndarray, missing: np.ndarray) -> None:
        """Count categories that are missing, or that training did not have.

        Args:
            words: (n,) as `Columns.typed` returns them. missing: (n,) whether a cell is.
        """
        self.missing[name] += int(missing.sum())
        self.unseen[name] += int(((words == OTHER) & ~missing & (words != MISSING)).sum())

    def add_tokens(self, ids: np.ndarray) -> None:
        """Count tokens that the vocabulary does not have.

        Args:
            ids: (n, length), 0 padding and 1 an unknown token.
        """
        self.tokens += int((ids > 0).sum())
        self.unknown += int((ids == 1).sum())

    def lines(self, inputs: object) -> list[str]:
        """Return what there is to say, a line each."""
        told = []
        if self.faults:
            told.append(f"{self.faults:,} of {self.rows:,} rows not predicted ({self.first})")
        if absent := [f"{n:,} of {name}" for name, n in self.missing.most_common() if n]:
            told.append(f"missing: {_some(absent)}")
        for name, n in self.outside.most_common(SHOWN):
            if n:
                told.append(f"{self._share(n)} of {name} outside the training range "
                            f"({self.ranges[name]})")  # fmt: skip
        for name, n in self.unseen.most_common(SHOWN):
            if n:
                rare = isinstance(inputs, Table) and OTHER in inputs.levels.get(name, ())
                seen = "rare in training, or never seen there" if rare else "never seen in training"
                told.append(f"{self._share(n)} of {name} {seen}")
        if self.unknown:
            share = _percent(self.unknown / self.tokens)
            told.append(f"{share} of the tokens never seen in training")
        return told

    def _share(self, n: int) -> str:
        return _percent(n / max(1, self.rows))


def _percent(share: float) -> str:
    return "under 1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _some(items: list[str]) -> str:
    more = f", and {len(items) - SHOWN} more columns" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _as_date(day: float) -> str:
    """Return the date of a number of days since 1970."""
    try:
        return str(datetime.date(1970, 1, 1) + datetime.timedelta(days=int(np.floor(day))))
    except OverflowError:
        return f"day {day:.6g}"
