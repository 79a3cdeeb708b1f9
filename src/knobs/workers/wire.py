"""Lines that a worker writes, and how its driver shows them. Imports no torch.

A worker tells what a screen would show, in SWEEP/workers/N.jsonl, at most twice a second; the
driver reads the lines of all workers, each once. The file only adds to the records of the runs,
which say how each has ended. Lines, each with its checksum:

| key | says |
|---|---|
| `begins` | a worker begins, or again: process, host, and the driver's lock if it could take it |
| `planned` | how its runs train: runs, stacks, reason, steps, seconds of each part |
| `add` | further optimizer steps |
| `steps`, `best` | optimizer steps since the last line; of runs: metric, mode, value, epoch |
| `ended` | the number of a run, with `status` and `fault` |
| `note` | a line for a person |
| `refused` | why this worker runs nothing, and no other would |
| `left` | the worker has ended, by this signal or 0 |
"""

import contextlib
import io
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from knobs.storage import append, as_line, of_line
from knobs.sweep.screen import Planned
from knobs.workers.groups import told_path

EVERY = 0.5  # seconds between two lines about progress


class Wire:
    """A worker's screen: writes what a sweep.screen.Screen would show.

    Args:
        file: of this worker.
        labels, planned, supply: as Screen takes them; their labels are known to the driver.
    """

    def __init__(
        self, file: Path, labels: Mapping[int, str], planned: Sequence[Planned], supply: object
    ):
        self.file, self._sent = file, 0.0
        self._steps, self._best = 0, {}
        self._planned = [astuple(part) for part in planned]

    def __enter__(self) -> "Wire":
        tell(self.file, {"planned": self._planned})
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, labels: Mapping[int, str], steps: int) -> None:
        """Count further optimizer steps."""
        if steps:
            tell(self.file, {"add": steps})

    def note(self, line: str) -> None:
        """Tell a line that stays."""
        tell(self.file, {"note": line})

    def steps(self, count: int) -> None:
        """Count so many optimizer steps more, over all runs."""
        self._steps += count
        if time.monotonic() - self._sent > EVERY:
            self._flush()

    def epoch(self, number: int, objective: Mapping[str, str], best: float, epoch: int) -> None:
        """Tell a run's best value so far, with the next line about progress."""
        self._best[str(number)] = [objective["metric"], objective["mode"], best, epoch]

    def ended(self, number: int, status: str, fault: str = "") -> None:
        """Tell that a run has ended, at once."""
        self._flush()
        tell(self.file, {"ended": number, "status": status, "fault": fault})

    def mirrored(self, lines: Sequence[str]) -> None:
        """Tell what the mirrors have to say: the same thing of all runs once."""
        for line in lines[:1]:
            more = f"  (and {len(lines) - 1} more)" if lines[1:] else ""
            self.note(f"{line}{more}")

    def _flush(self) -> None:
        self._sent = time.monotonic()
        if self._steps or self._best:
            row = {"steps": self._steps, "best": self._best}
            self._steps, self._best = 0, {}
            tell(self.file, row)


def tell(file: Path, row: dict[str, Any]) -> None:
    """Append a line; a disk that is full costs the line, not the run."""
    with contextlib.suppress(OSError):
        append(file, as_line(row))


class _Notes(io.TextIOBase):
    """A text stream whose lines are told as notes."""

    def __init__(self, file: Path):
        self.file = file

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            tell(self.file, {"note": line})
        return len(text)


def console(file: Path) -> Console:
    """Return a console whose lines are told as notes."""
    return Console(file=_Notes(file), highlight=False, soft_wrap=True, no_color=True)


@dataclass
class Told:
    """What a worker has told of its group, over all its beginnings.

    Args:
        runs, total, steps: of its last beginning: runs planned, their optimizer steps, those done.
        ended: number -> status and fault of runs that have ended.
        begun: how many times a worker began.
        host: where the last one is.
        refused: why it runs nothing.
        left: the signal that ended the last one, 0 where none did; None while it works.
        lock: who held the driver's lock, where the worker could take it.
    """

    runs: int = 0
    total: int = 0
    steps: int = 0
    ended: dict[int, tuple[str, str]] = field(default_factory=dict)
    begun: int = 0
    host: str = ""
    refused: str = ""
    left: int | None = None
    lock: str = ""
    at: int = 0

    def read(self, file: Path) -> Iterator[dict[str, Any]]:
        """Yield the lines since the last look, taken into account; half a line is left there."""
        try:
            with file.open("rb") as lines:
                lines.seek(self.at)
                new = lines.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self.at += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                row = of_line(line)
                self._note(row)
                yield row

    def _note(self, row: Mapping[str, Any]) -> None:
        if "begins" in row:
            self.begun, self.runs, self.total, self.steps = self.begun + 1, 0, 0, 0
            self.left, self.refused = None, ""
            self.host, self.lock = str(row["begins"]["host"]), str(row["begins"]["lock"])
        if "planned" in row:
            parts = [Planned(*part) for part in row["planned"]]
            self.runs += sum(part.runs for part in parts)
            self.total += sum(part.steps for part in parts)
        self.total += int(row.get("add", 0))
        self.steps += int(row.get("steps", 0))
        if "ended" in row:
            self.ended[int(row["ended"])] = str(row["status"]), str(row["fault"])
        self.refused = str(row.get("refused", self.refused))
        if "left" in row:
            self.left = int(row["left"])


class Follow:
    """Reads what the workers of some groups tell, and shows it on a screen.

    Args:
        folder: the sweep's.
        screen: a sweep.screen.Screen.
        jobs: the driver's, by number; others that a group has are not shown.
    """

    def __init__(self, folder: Path, screen: Any, jobs: Collection[int]):
        self.folder, self.screen, self.jobs = folder, screen, jobs
        self.told: dict[str, Told] = {}
        self.said: set[str] = set()  # notes, each shown once
        self._total = self._steps = 0  # as the screen has them

    def look(self, groups: Iterable[str]) -> list[tuple[int, str, str]]:
        """Show what is new; return number, status and fault of runs that have ended since."""
        ended: list[tuple[int, str, str]] = []
        for group in groups:
            told = self.told.setdefault(group, Told())
            for row in told.read(told_path(self.folder, group)):
                self._show(row)
                if "ended" in row:
                    ended.append((int(row["ended"]), str(row["status"]), str(row["fault"])))
        planned = sum(told.runs for told in self.told.values())
        total = sum(told.total for told in self.told.values())
        if planned:  # of groups that wait no worker has said what they take: as much as the others
            total = round(total * max(1.0, len(self.jobs) / planned))
        steps = sum(told.steps for told in self.told.values())
        if total != self._total:
            self.screen.add({}, total - self._total)
        if steps != self._steps:
            self.screen.steps(steps - self._steps)
        self._total, self._steps = total, steps
        return ended

    def skip(self, group: str) -> None:
        """Leave out what was told of a group before it is sent, but for the runs that ended."""
        told = self.told.setdefault(group, Told())
        for _ in told.read(told_path(self.folder, group)):
            pass
        told.begun = told.runs = told.total = told.steps = 0
        told.refused, told.left = "", None

    def _show(self, row: Mapping[str, Any]) -> None:
        if "note" in row and str(row["note"]) not in self.said:
            self.said.add(str(row["note"]))
            self.screen.note(str(row["note"]))
        for number, (metric, mode, value, epoch) in dict(row.get("best", {})).items():
            if int(number) in self.jobs:
                self.screen.epoch(int(number), {"metric": metric, "mode": mode}, value, epoch)
