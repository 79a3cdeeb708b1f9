"""A sweep on the screen: what it will cost, its progress, its leaders, its failures."""

import math
import time
from collections import Counter
from collections.abc import Callable

from hydra.core.utils import JobStatus
from rich.console import Console
from rich.console import Group as Lines
from rich.constrain import Constrain
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from knobs import build
from knobs.data import Data
from knobs.errors import first_line, for_a_person
from knobs.sweep.grid import Supply
from knobs.sweep.groups import Group
from knobs.sweep.jobs import Job
from knobs.sweep.kin import SPLIT
from knobs.sweep.lines import note
from knobs.training.screen import MAX_NOTES, chosen
from knobs.training.state import Run
from knobs.words import count, duration, printable

LEADERS = 3
PLAIN_SECONDS = 5.0  # between lines where there is no terminal
MAX_REASONS = 5
MUCH = 10e6  # bytes on disk that are worth a word
SOON = 0.02  # of the work done before a rate says anything


def reader(out: Console) -> Callable[[dict], Data]:
    """Return what reads the data of a config, each set once, and prints how they were read.

    Beside it the objective, where a rare class has changed it.

    Data that differ in the seed of their split or in the fold alone are told of once.
    """
    sets: dict[str, Data] = {}
    told: set[str] = set()

    def read(config: dict) -> Data:
        key = str(config["data"])
        if key not in sets:
            sets[key] = build.data(config)
            source = str({**config["data"], **dict.fromkeys(SPLIT)})
            notes = [*filter(None, [chosen(sets[key], config)]), *sets[key].notes]
            if notes and source not in told:
                told.add(source)
                said = printable("; ".join(notes), MAX_NOTES)
                note(out, f"{sets[key].name}: {said}")
        return sets[key]

    return read


class Screen:
    """Shows progress: `with Screen(jobs, groups, supply) as screen`.

    Args:
        jobs: number -> job.
        groups: what was planned.
        supply: knows how many more there will be.
    """

    def __init__(self, jobs: dict[int, Job], groups: list[Group], supply: Supply):
        self.out = Console(highlight=False, soft_wrap=True)
        self.labels, self.groups, self.supply = labels(jobs), groups, supply
        self.count, self.done = len(jobs), Counter()
        self.best: dict[int, tuple[float, float, int]] = {}  # number: rank key, value, epoch
        self.metric = ""
        self._steps, self._total = 0, sum(group.steps for group in groups)
        self._began = self._looked = time.perf_counter()
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        self.note(self._cost())
        alone = Counter(group.reason for group in self.groups if group.reason)
        most = MAX_REASONS if self.out.is_terminal else None
        for reason, _ in alone.most_common(most):
            runs = sum(len(group.jobs) for group in self.groups if group.reason == reason)
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

    def add(self, jobs: dict[int, Job], steps: int) -> None:
        """Count further jobs, and further optimizer steps, as far as they are known."""
        self.labels |= labels(jobs)
        self.count += len(jobs)
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

    def epoch(self, number: int, run: Run) -> None:
        """Rank a run at the end of an epoch."""
        if run.progress.best is not None:
            self._rank(number, run.objective, run.progress.best, run.progress.best_epoch)

    def ended(self, job: Job) -> None:
        """Count a job that has ended; print a failure at once."""
        if outcome := job.outcome:
            self.done[outcome.status] += 1
            summary = outcome.summary
            if not math.isnan(outcome.value):
                self._rank(job.number, summary["objective"], outcome.value, summary["best_epoch"])
        elif job.returned.status is JobStatus.FAILED:
            error = job.returned._return_value
            self.done["failed"] += 1
            why = first_line(for_a_person(error))
            what = f"job {job.number} failed: {type(error).__name__}: {why}"
            self.out.print(f"[red]{escape(what)}[/]  [dim]{escape(self.labels[job.number])}[/]")
        else:
            self.done["finished"] += 1

    def mirrored(self, lines: list[str]) -> None:
        """Print what the mirrors have to say: the same thing of all runs once."""
        if len(lines) > 1:
            lines = [f"{lines[0]}  (and {count(len(lines) - 1, 'more run')})"]
        if lines:
            self.note(lines[0])

    def _rank(self, number: int, objective: dict, value: float, epoch: int) -> None:
        self.metric = objective["metric"]
        key = -value if objective["mode"] == "max" else value
        self.best[number] = (key, value, epoch)

    def _cost(self) -> str:
        stacks = sum(len(g.chunks) for g in self.groups if g.width > 1)
        singles = sum(len(g.jobs) for g in self.groups if g.width == 1)
        parts = [f"{count(self.count - singles, 'run')} in {count(stacks, 'stack')}"] * bool(stacks)
        parts += [f"{count(singles, 'run')} sequentially"] * bool(singles)
        seconds = sum(group.steps * group.step_seconds for group in self.groups)
        if seconds:
            parts.append(f"about {duration(seconds)}")
        if seconds and (coming := self.supply.coming):
            whole = seconds * (self.count + coming) / self.count
            parts.append(f"with the {count(coming, 'run')} to come about {duration(whole)}")
        coming = self.supply.coming
        parts += on_disk(self.groups, (self.count + coming) / max(self.count, 1))
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


def on_disk(groups: list[Group], times: float = 1.0) -> list[str]:
    """Return the words for the space that runs will take on disk, where it is much.

    Args:
        times: as many runs as these groups have.
    """
    size = times * sum(group.disk * len(group.jobs) for group in groups)
    return [f"about {size / 1e6:,.0f} MB on disk"] if size >= MUCH else []


def labels(jobs: dict[int, Job]) -> dict[int, str]:
    """Return what sets each job apart: its overrides without those that all share."""
    count = Counter(line for job in jobs.values() for line in job.overrides)
    shared = {line for line, n in count.items() if n == len(jobs) > 1}
    return {
        number: job.label or " ".join(line for line in job.overrides if line not in shared)
        for number, job in jobs.items()
    }
