"""Decide which runs of a search end early, in any number of processes on one folder.

A run is looked at after a few epochs, its rungs; at each the best 1 / eta of the runs that came as
far go on. Nobody waits for the others: a run is ranked among those that are there. The values lie
in a file of JSON lines, written under a lock, so a stack, a process a run, and several commands on
one folder prune alike; half a line of a killed process is passed over.

asha: rungs at r, r eta, r eta^2, ... epochs (Li et al. 2020, A System for Massively Parallel
Hyperparameter Tuning, algorithm 2, in its form without pauses: a run that is not among the best
when it arrives is ended, not kept for later).
hyperband: brackets whose first rung is r, r eta, ...; a run is ranked in its own bracket only, and
brackets get as many runs as spend the same number of epochs (Li et al. 2018, Hyperband, section 3).
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from knobs.errors import ConfigError
from knobs.locks import Lock

FILE, LOCK = "rungs.jsonl", "rungs.lock"
PRUNERS = ("asha", "hyperband", "none")


@dataclass(frozen=True)
class Pruner:
    """The rule, and where the values lie. Plain data: any process makes one from the config.

    Args:
        method: asha, hyperband or none.
        folder: the sweep's.
        mode: max or min, of the value reported.
        eta: of a rung's runs, one in eta goes on.
        first: epochs to the first rung; None: 4 % of a run's, at least 2.
        group: runs are ranked within theirs: the arm of a study, whose arms do not compete.

    Raises:
        ConfigError: a name, a mode or a number that cannot be.
    """

    method: str
    folder: Path
    mode: str = "max"
    eta: int = 3
    first: int | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if self.method not in PRUNERS:
            raise ConfigError(f"search.pruner={self.method}: must be one of {', '.join(PRUNERS)}")
        if self.mode not in ("max", "min"):
            raise ConfigError(f"objective.mode={self.mode}: must be max or min")
        if self.eta < 2 or (self.first is not None and self.first < 1):
            raise ConfigError(
                f"search: eta={self.eta}, first rung={self.first}: at least 2 and at least 1"
            )

    def rungs(self, epochs: int, run: int = 0) -> list[int]:
        """Return the epochs after which a run of so many epochs is looked at."""
        rungs = list(self._ladder(epochs))
        return rungs[self.bracket(epochs, run) :]

    def bracket(self, epochs: int, run: int) -> int:
        """Return which of hyperband's brackets a run is in; 0 otherwise.

        A function of the run's number alone; each bracket has its share of any row of numbers.
        The last bracket has no rung: its runs are never ended.
        """
        if self.method != "hyperband":
            return 0
        rungs = len(list(self._ladder(epochs)))
        sizes = [math.ceil((rungs + 1) / (s + 1) * self.eta**s) for s in range(rungs, -1, -1)]
        return _turn(run, sizes)

    def stop(self, run: int, epoch: int, epochs: int, value: float) -> bool:
        """Return whether a run should end here, after `epoch` of its `epochs`; see `stops`."""
        return bool(self.stops({run: value}, epoch, epochs))

    def stops(self, values: Mapping[int, float], epoch: int, epochs: int) -> set[int]:
        """Return those of some runs that should end here.

        Runs that arrive together are ranked together: a stack ends all but the best 1 / eta of
        its rows at once. Fewer than eta runs at a rung all go on; equal values go on together. A
        run that reports a rung again, resumed, replaces what it said before.

        Args:
            values: run -> the best objective so far; a value that is not finite is the worst.
            epoch: trained so far, from 1; most epochs are no rung, and nothing is read or written.
            epochs: of the whole schedule: runs are compared with those of the same length only.
        """
        if self.method == "none":
            return set()
        due = {run: self.bracket(epochs, run) for run in values}
        due = {run: b for run, b in due.items() if epoch in self.rungs(epochs, run)}
        if not due:
            return set()
        rung = {"rung": epoch, "epochs": epochs, "group": self.group}
        rows = [
            {"run": run, "value": _json(values[run]), "bracket": bracket, **rung}
            for run, bracket in due.items()
        ]
        with Lock(self.folder / LOCK, wait=True), (self.folder / FILE).open("a+b") as file:
            earlier = _read(file)
            _append(file, rows)
        losses: dict[int, dict[int, float]] = {b: {} for b in due.values()}
        for row in earlier + rows:
            if row["bracket"] in losses and all(row[name] == rung[name] for name in rung):
                losses[row["bracket"]][row["run"]] = self._loss(row["value"])
        return {run for run, b in due.items() if self._last(run, losses[b])}

    def _last(self, run: int, losses: dict[int, float]) -> bool:
        """Return whether a run is not among the best of its rung."""
        if len(losses) < self.eta:
            return False
        return losses[run] > sorted(losses.values())[len(losses) // self.eta - 1]

    def _loss(self, value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return math.inf
        return value if self.mode == "min" else -value

    def _ladder(self, epochs: int) -> Iterator[int]:
        rung = self.first or max(2, round(0.04 * epochs))
        while rung < epochs:
            yield rung
            rung *= self.eta


def _turn(run: int, sizes: list[int]) -> int:
    """Return whose turn it is if each place has its share of turns, as evenly as can be."""
    given = [0] * len(sizes)
    for turn in range(run % sum(sizes) + 1):
        behind = [n * (turn + 1) / sum(sizes) - got for n, got in zip(sizes, given, strict=True)]
        place = behind.index(max(behind))
        given[place] += 1
    return place


def _json(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _read(file: BinaryIO) -> list[dict[str, Any]]:
    """Read rows in the order written; what is no row is passed over."""
    file.seek(0)
    rows = []
    for line in file:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            row = json.loads(line)
            numbers = [row[name] for name in ("run", "rung", "epochs", "bracket")]
            whole = all(type(number) is int for number in numbers)
            if whole and type(row["group"]) is str and type(row["value"]) in (float, type(None)):
                rows.append(row)
    return rows


def _append(file: BinaryIO, rows: list[dict[str, Any]]) -> None:
    """Write rows; a line that a killed process left half-written is ended first."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    end = file.seek(0, 2)
    file.seek(max(end - 1, 0))
    cut = end and file.read(1) != b"\n"
    file.write(b"\n" + text if cut else text)
