"""Decide which runs of a search end early, in any number of processes on one folder.

A run is looked at after a few epochs, its rungs; at each the best 1 / ETA of the runs that came as
far go on. Nobody waits for the others: a run is ranked among those that are there. The values lie
in a file of JSON lines, written under a lock, so a stack, a process a run, and several commands on
one folder prune alike; damaged lines, as a killed process leaves half a one, are left out.

asha: rungs at r, r ETA, r ETA^2, ... epochs (Li et al. 2020, A System for Massively Parallel
Hyperparameter Tuning, algorithm 2, in its form without pauses: a run that is not among the best
when it arrives is ended, not kept for later).
hyperband: brackets whose first rung is r, r ETA, ...; a run is ranked in its own bracket only, and
brackets get as many runs as spend the same number of epochs (Li et al. 2018, Hyperband, section 3).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs import storage
from knobs.search.space import MODES, one_of
from knobs.storage import Lock, append, as_line, make_folder, read

FILE, LOCK = "rungs.jsonl", "rungs.lock"
FOLDER = "rungs"  # of workers elsewhere: a file each, so that nothing depends on locks between them
ETA = 3  # of a rung's runs, one in ETA goes on
FIRST = 0.04  # of a run's epochs, to its first rung; at least 2


_WRITERS: list[str] = []  # the worker that this process is, if it is one


@contextlib.contextmanager
def written_by(worker: str) -> Iterator[None]:
    """Report the runs inside in the file of a worker, by its name."""
    _WRITERS.append(worker)
    try:
        yield
    finally:
        _WRITERS.pop()


@dataclass(frozen=True)
class Pruner:
    """The rule, and where the values lie. Plain data: any process makes one from the config.

    Args:
        method: one of PRUNERS.
        folder: the sweep's.
        mode: max or min, of the value reported.
        group: runs are ranked within theirs: the arm of a study, whose arms do not compete.

    Raises:
        ConfigError: a method or a mode that cannot be.
    """

    method: str
    folder: Path
    mode: str = "max"
    group: str = ""

    def __post_init__(self) -> None:
        one_of("search.pruner", self.method, PRUNERS)
        one_of("objective.mode", self.mode, MODES)

    def rungs(self, epochs: int, run: int = 0) -> list[int]:
        """Return the epochs after which a run of so many epochs is looked at."""
        return _rungs(epochs)[self.bracket(epochs, run) :]

    def bracket(self, epochs: int, run: int) -> int:
        """Return how many of the first rungs a run passes by, by its number alone."""
        return PRUNERS[self.method](run, len(_rungs(epochs)))

    def stops(self, values: Mapping[int, float], epoch: int, epochs: int) -> set[int]:
        """Return those of some runs that should end here.

        Runs that arrive together are ranked together: a stack ends all but the best 1 / ETA of
        its rows at once. Fewer than ETA runs at a rung all go on; equal values go on together. A
        run that reports a rung again, resumed, replaces what it said before.

        Args:
            values: run -> the best objective so far; a value that is not finite is the worst.
            epoch: trained so far, from 1; most epochs are no rung, and nothing is read or written.
            epochs: of the whole schedule: runs are compared with those of the same length only.
        """
        due = {run: self.bracket(epochs, run) for run in values if epoch in self.rungs(epochs, run)}
        if not due:
            return set()
        rung = {"rung": epoch, "epochs": epochs, "group": self.group}
        finite = {run: float(v) if math.isfinite(v) else None for run, v in values.items()}
        rows = [{"run": r, "value": finite[r], "bracket": b, **rung} for r, b in due.items()]
        worker = _WRITERS[-1] if _WRITERS else ""
        path = self.folder / (f"{FOLDER}/{worker}.jsonl" if worker else FILE)
        make_folder(path.parent)
        with contextlib.nullcontext() if worker else Lock(self.folder / LOCK, wait=True):
            files = [self.folder / FILE, *sorted((self.folder / FOLDER).glob("*.jsonl"))]
            reported = [*map(_reported, files)]  # of a worker after those before it
            append(path, b"".join(map(as_line, rows)))
        stops = set()
        for bracket in {*due.values()}:
            mine = {row["run"]: row["value"] for row in rows if row["bracket"] == bracket}
            before: dict[int, float | None] = {}
            for values in reported:
                before |= values.get((epoch, epochs, self.group, bracket), {})
            losses = {run: self._loss(value) for run, value in (before | mine).items()}
            ranked = sorted(losses.values())
            stops |= {run for run in mine if behind(losses[run], ranked)}
        return stops

    def _loss(self, value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return math.inf
        return value if self.mode == "min" else -value


def behind(loss: float, ranked: Sequence[float]) -> bool:
    """Return whether a loss is not among the best 1 / ETA of its rung's, ascending."""
    best = len(ranked) // ETA
    return best > 0 and loss > ranked[best - 1]


@dataclass
class _Log:
    """Lines of a file of rungs that this process has read; it is only ever appended to."""

    inode: int
    end: int = 0  # bytes
    values: dict[tuple, dict[int, float | None]] = field(default_factory=dict)


_LOGS: dict[Path, _Log] = {}


def _reported(path: Path) -> dict[tuple, dict[int, float | None]]:
    """Return (rung, epochs, group, bracket) -> run -> its last value there, null for none.

    Each line is read once: a search of 5,000 runs looks here 20,000 times.
    """
    if not path.exists():
        return {}
    about = path.stat()
    log = _LOGS.get(path)
    if log is None or log.inode != about.st_ino or about.st_size < log.end:
        log = _LOGS[path] = _Log(about.st_ino)
    new = read(path, start=log.end)
    new = new[: new.rfind(b"\n") + 1]  # a killed process leaves half a line, which gets its end yet
    for row in storage.rows_of(path, new, _row, "the others are ranked without it"):
        place = row["rung"], row["epochs"], row["group"], row["bracket"]
        log.values.setdefault(place, {})[row["run"]] = row["value"]
    log.end += len(new)
    return log.values


def _rungs(epochs: int) -> list[int]:
    rungs = [max(2, round(FIRST * epochs))]
    while rungs[-1] < epochs:
        rungs.append(rungs[-1] * ETA)
    return rungs[:-1]


def _hyperband(run: int, rungs: int) -> int:
    """Return the bracket whose turn it is; each has its share of any row of numbers.

    The last bracket has no rung: its runs are never ended.
    """
    sizes = [math.ceil((rungs + 1) / (s + 1) * ETA**s) for s in range(rungs, -1, -1)]
    turns = [0] * len(sizes)
    for turn in range(run % sum(sizes) + 1):
        behind = [n * (turn + 1) / sum(sizes) - got for n, got in zip(sizes, turns, strict=True)]
        bracket = behind.index(max(behind))
        turns[bracket] += 1
    return bracket


# Method -> (run, number of rungs) -> how many of the first rungs the run passes by.
PRUNERS: dict[str, Callable[[int, int], int]] = {
    "asha": lambda run, rungs: 0,
    "hyperband": _hyperband,
    "none": lambda run, rungs: rungs,
}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row that is one of this log.

    Raises:
        ValueError: it is not. KeyError: it lacks something.
    """
    whole = all(type(row[name]) is int for name in ("run", "rung", "epochs", "bracket"))
    rest = type(row["group"]) is str and type(row["value"]) in (float, type(None))
    if not (whole and rest and len(row) == 6):
        raise ValueError("no value at a rung")
    return row
