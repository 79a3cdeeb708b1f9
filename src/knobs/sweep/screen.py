"""A sweep on the screen: its cost, its progress, its leaders, its failures. Imports no torch."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.console import Group as Lines
from rich.constrain import Constrain
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from knobs.sweep.grid import Supply
from knobs.sweep.jobs import Job
from knobs.sweep.lines import note
from knobs.words import count, duration

LEADERS = 3
PLAIN_SECONDS = 5.0  # between lines where there is no terminal
MAX_REASONS = 5
MUCH = 10e6  # bytes on disk that are worth a word
SOON = 0.02  # of the work done before a rate says anything


@dataclass(frozen=True)
class Planned:
    """Facts about jobs that train together, or sequentially: what a screen says of them.

    Args:
        runs: how many. stacks: that they train in; 0 where they train sequentially.
        reason: why sequentially, in one line.
        steps: optimizer steps of all of them. seconds: what these are expected to take.
        disk: bytes that they leave, about; 0 where it is not known.
    """

    runs: int
    stacks: int
    reason: str
    steps: int
    seconds: float
    disk: float = 0.0


class Screen:
    """Shows progress: `with Screen(labels, planned, supply) as screen`. It is told plain facts.

    Args:
        labels: number -> what sets a job apart, for a person.
        planned: how they train.
        supply: knows how many more there will be.
    """

    def __init__(self, labels: dict[int, str], planned: Sequence[Planned], supply: Supply):
        self.out = Console(highlight=False, soft_wrap=True)
        self.labels, self.planned, self.supply = dict(labels), planned, supply
        self.count, self.done = len(labels), Counter()
        self.best: dict[int, tuple[float, float, int]] = {}  # number: rank key, value, epoch
        self.metric = ""
        self._steps, self._total = 0, sum(group.steps for group in planned)
        self._began = self._looked = time.perf_counter()
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        if cost := self._cost():
            self.note(cost)
        alone = Counter(group.reason for group in self.planned if group.reason)
        most = MAX_REASONS if self.out.is_terminal else None
        for reason, _ in alone.most_common(most):
            runs = sum(group.runs for group in self.planned if group.reason == reason)
            self.note(f"  {count(runs, 'run')} sequentially: {reason}")
        if most and len(alone) > most:
            self.note(f"  and more for {count(len(alone) - most, 'other reason')}")
        if self.out.is_terminal:
            self._live = Live(self, console=self.out, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __rich__(self) -> Constrain:
        lines = [self._line(), *("  " + line for line in self._leaders())]
        texts = (Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
        return Constrain(Lines(*texts), self.out.width - 3)  # room for the ^C of a terminal

    def add(self, labels: dict[int, str], steps: int) -> None:
        """Count further jobs, and further optimizer steps, as far as they are known."""
        self.labels |= labels
        self.count += len(labels)
        self._total += steps

    def note(self, line: str) -> None:
        """Print one line that stays; what is too long for a terminal goes on below it."""
        note(self.out, line)

    def steps(self, count: int) -> None:
        """Count so many optimizer steps more, over all runs."""
        self._steps += count
        if not self._live and time.perf_counter() - self._looked > PLAIN_SECONDS:
            self._looked = time.perf_counter()
            self.note(self._line())

    def epoch(self, number: int, objective: dict, best: float, epoch: int) -> None:
        """Rank a run by its best value so far.

        Args:
            number: the job's. objective: its metric and mode.
            best: the value. epoch: where it was reached.
        """
        self.metric = objective["metric"]
        key = -best if objective["mode"] == "max" else best
        self.best[number] = (key, best, epoch)

    def ended(self, number: int, status: str, fault: str = "") -> None:
        """Count a job that has ended; print what failed it at once."""
        self.done[status] += 1
        if fault:
            what = f"job {number} failed: {fault}"
            self.out.print(f"[red]{escape(what)}[/]  [dim]{escape(self.labels[number])}[/]")

    def mirrored(self, lines: list[str]) -> None:
        """Print what the mirrors have to say: the same thing of all runs once."""
        if len(lines) > 1:
            lines = [f"{lines[0]}  (and {count(len(lines) - 1, 'more run')})"]
        if lines:
            self.note(lines[0])

    def _cost(self) -> str:
        stacks = sum(group.stacks for group in self.planned)
        singles = sum(group.runs for group in self.planned if not group.stacks)
        parts = [f"{count(self.count - singles, 'run')} in {count(stacks, 'stack')}"] * bool(stacks)
        parts += [f"{count(singles, 'run')} sequentially"] * bool(singles)
        seconds = sum(group.seconds for group in self.planned)
        if seconds:
            parts.append(f"about {duration(seconds)}")
        if seconds and (coming := self.supply.coming):
            whole = seconds * (self.count + coming) / self.count
            parts.append(f"with the {count(coming, 'run')} to come about {duration(whole)}")
        coming = self.supply.coming
        size = sum(group.disk for group in self.planned)
        parts += on_disk(size * (self.count + coming) / max(self.count, 1))
        return ", ".join(parts)

    def _line(self) -> str:
        done, seconds = sum(self.done.values()), time.perf_counter() - self._began
        count, before = self.count + self.supply.coming, self.supply.before
        handed_out = min(1.0, self._steps / self._total) if self._total else done / self.count
        share = handed_out * self.count / count
        parts = [f"runs {before + done}/{before + count}"]
        parts += [f"{name} {n}" for name in ("failed", "diverged") if (n := self.done[name])]
        if share > SOON:
            rate = count * share / seconds
            parts.append(f"{rate:.1f} runs/s" if rate >= 1 else f"{60 * rate:.1f} runs/min")
            parts.append(f"{duration(seconds * (1 - share) / share)} left")
        if self.best:
            number, (_, value, _) = min(self.best.items(), key=lambda item: item[1])
            parts.append(f"best {self.metric} {value:.4f} (#{number})")
        return "  ".join(parts)

    def _leaders(self) -> list[str]:
        ranked = sorted(self.best.items(), key=lambda item: item[1])[:LEADERS]
        return [
            f"{place}. {value:.4f}  #{number}  epoch {epoch}  {self.labels[number]}"
            for place, (number, (_, value, epoch)) in enumerate(ranked, 1)
        ]


def on_disk(size: float) -> list[str]:
    """Return the words for the bytes that runs will take on disk, where they are many."""
    return [f"about {size / 1e6:,.0f} MB on disk"] if size >= MUCH else []


def labels(jobs: dict[int, Job]) -> dict[int, str]:
    """Return what sets each job apart: its overrides without those that all share."""
    count = Counter(line for job in jobs.values() for line in job.overrides)
    shared = {line for line, n in count.items() if n == len(jobs) > 1}
    return {
        number: job.label or " ".join(line for line in job.overrides if line not in shared)
        for number, job in jobs.items()
    }
