"""Keep stacks.jsonl: which runs of a sweep train together, so that a resume joins them again.

A row's last bits depend on the number of rows and on its place among them, and how wide stacks are
is chosen by timing. So a sweep writes down its plan, and each stack as it begins:

| line | says |
|---|---|
| `plan` | groups of jobs: the jobs of each of their stacks, what a step takes, why sequentially |
| `rows` | a stack that begins: the number of each run and the epochs it has behind it |
| `alone` | runs of a stack that could not be made, or that failed: each trains by itself |

The last line about a run counts. When a run left its stack, its own summary tells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs import storage
from knobs.errors import first_line, note
from knobs.record import BROKEN, append

FILE = "stacks.jsonl"
KEYS = ({"plan", "now"}, {"rows"}, {"alone"})  # of each kind of line
LOST = "stacks may be made up otherwise, and their runs have other last bits"
FACTS = ("epoch_steps", "step_seconds", "alone_seconds", "reason")  # of a group, beside its stacks


@dataclass(frozen=True)
class Planned:
    """A stack of a plan.

    Args:
        jobs: their numbers.
        facts: of its group, see FACTS.
        rows: once it has begun, the numbers in the order of its rows -> epochs before it began.
    """

    jobs: tuple[int, ...]
    facts: Mapping[str, Any]
    rows: Mapping[int, int] = field(default_factory=dict)


class Stacks:
    """The stacks of a sweep.

    Args:
        folder: the sweep's.
        now: what a plan depends on beside the jobs: one of before that was made otherwise is void.
        keeps: whether anything is written; a search, whose stacks are filled up, keeps nothing.
        notes: where the file is; None: there.
    """

    def __init__(
        self, folder: Path, now: Mapping[str, Any], keeps: bool = True, notes: Path | None = None
    ):
        self.folder, self.path = folder, (notes or folder) / FILE
        self.now, self.keeps = dict(now), keeps
        self._of: dict[int, Planned] = {}
        if keeps and self.path.exists():
            try:
                storage.rows(self.path, self._note, LOST)
            except BROKEN as error:
                note(f"{self.path}: cannot be read ({first_line(error)}); {LOST}")

    def __contains__(self, number: int) -> bool:
        return number in self._of

    def _note(self, line: dict[str, Any]) -> None:
        if line.keys() not in KEYS:
            raise ValueError("no line of this log")
        if "plan" in line:
            valid = line["now"] == self.now
            for group in line["plan"]:
                facts = {name: group[name] for name in FACTS}
                for chunk in group["stacks"]:
                    for number in chunk:
                        self._of.pop(number, None)
                        if valid:
                            self._of[number] = Planned(tuple(chunk), facts)
        elif "rows" in line:
            rows = {int(number): int(epoch) for number, epoch in line["rows"]}
            for number in rows:
                if before := self._of.get(number):
                    self._of[number] = Planned(before.jobs, before.facts, rows)
        else:
            for number in line["alone"]:
                if before := self._of.get(number):
                    self._of[number] = Planned((number,), before.facts)

    def _write(self, line: dict[str, Any]) -> None:
        if self.keeps:
            append(self.path, storage.as_line(line))
            self._note(line)

    def plan(self, groups: Iterable[Any]) -> None:
        """Write down what is planned, of groups that have facts and chunks."""
        plan = [{name: getattr(g, name) for name in FACTS} | {"stacks": g.chunks} for g in groups]
        if plan:
            self._write({"plan": plan, "now": self.now})

    def begun(self, rows: Sequence[tuple[int, int]]) -> None:
        """Write down a stack that begins: numbers, and epochs before, in the order of its rows."""
        if not all(self.rows(number) == dict(rows) for number, _ in rows):
            self._write({"rows": [*map(list, rows)]})

    def alone(self, numbers: Sequence[int]) -> None:
        """Write down that runs train one after the other, whatever was planned."""
        self._write({"alone": list(numbers)})

    def rows(self, number: int) -> dict[int, int]:
        """Return the rows of the stack that a run trained in; empty where it did not."""
        planned = self._of.get(number)
        return dict(planned.rows) if planned else {}

    def kept(
        self, numbers: Iterable[int], together: Callable[[list[int]], bool]
    ) -> list[tuple[list[int], Mapping[str, Any]]]:
        """Return the stacks that jobs make up as before, and the facts of each.

        Args:
            numbers: of jobs that are to run; those that are new have no stack yet.
            together: whether jobs may still train together.
        """
        found: dict[tuple[int, ...], list[int]] = {}
        for number in numbers:
            if planned := self._of.get(number):
                found.setdefault(tuple(planned.rows) or planned.jobs, []).append(number)
        return [(jobs, self._of[jobs[0]].facts) for jobs in found.values() if together(jobs)]
