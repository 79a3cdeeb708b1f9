"""A grid in a folder of its own: what is done is left, what is not goes on, the rest begins."""

import contextlib
import logging
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from knobs import ledger
from knobs.config import command, copies, overrides
from knobs.config.hydra_settings import without_secrets
from knobs.errors import (
    BUG,
    SWEEP_FAILED,
    ConfigError,
    StorageError,
    UserError,
    first_line,
    for_a_person,
    tell,
)
from knobs.identity import identity, job_of
from knobs.ledger import Entry
from knobs.record import CONFIG, LEDGER, resumable, wait_for_writers, write
from knobs.record import LOCK as RUN_LOCK
from knobs.shell import literal, quoted
from knobs.signals import STOPPED
from knobs.storage import Lock, closed, make_folder
from knobs.sweep import deaths, failing, places, workers
from knobs.sweep.jobs import Job
from knobs.sweep.lines import failures
from knobs.words import count

SECTIONS = {"data", "model", "activation", "init", "optimizer", "scheduler", "regularization"}
SUBDIR = "${hydra.job.num}"
# What `outstanding` counts.
ENDED = "ended before and left alone"
RESUMED, TWICE = "begun before, continued", "stated twice, run once"
SIGNALS = STOPPED  # exit codes
log = logging.getLogger("knobs")


class Supply:
    """Has further jobs while others run: a search. This one has none."""

    before = 0  # jobs that have ended already, in earlier phases and processes
    coming = 0  # jobs that there will be beside those handed out, as far as is known

    def more(self, count: int | None = None) -> dict[int, Job]:
        """Return number -> job, at most `count`; none when the search is over."""
        return {}

    def ended(self, number: int, returned: JobReturn) -> None:
        """Note that a job has ended; its record is complete."""


@dataclass
class SweepContext:
    """A sweep under way: what Hydra hands to a sweeper, its folder, and what became of its jobs.

    Args:
        launcher, context, master: as Hydra hands them to a sweeper.
        returns: of the jobs that have run.
        stopped: the exit code of what ended it early, a signal or runs that failed alike, or 0.
        halted: why it stopped early, where its first runs failed alike.
        submitted: whether its runs go on elsewhere, and this process does not wait for them.
    """

    launcher: Launcher
    context: HydraContext
    master: DictConfig
    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    returns: list[JobReturn] = field(default_factory=list)
    stopped: int = 0
    halted: str = ""
    submitted: bool = False

    @property
    def folder(self) -> Path:
        """Return the sweep's folder."""
        return Path(str(self.master.hydra.sweep.dir))

    @property
    def retry(self) -> bool:
        """Return whether runs that failed are to run again."""
        return bool(self.master.get("retry_failed"))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Print a fault of what is done inside, and end the process in its exit code."""
        try:
            yield
        except UserError as error:
            sys.exit(tell(error))

    def held_folder(self) -> Lock:
        """Make the sweep's folder and hold it for this process alone, before it is written into.

        Raises:
            LockedError: another holds it.
        """
        self.make_folder(written=False)
        lock = ledger.held(self.folder)
        self.make_folder()
        return lock

    def make_folder(self, written: bool = True) -> None:
        """Make the sweep's folder, with its multirun.yaml if it is to be `written`.

        Raises:
            StorageError: it cannot be made. ConfigError: its runs could not be found again,
                it holds a run, or others may write there.
        """
        subdir = OmegaConf.to_container(self.master.hydra.sweep)["subdir"]
        if subdir != SUBDIR:
            raise ConfigError(f"hydra.sweep.subdir={subdir}: a sweep finds its runs by {SUBDIR}")
        closed(self.folder)
        if (self.folder / CONFIG).exists():
            raise ConfigError(f"{self.folder}: holds a run; name another folder for the sweep")
        try:
            make_folder(self.folder)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be made ({error.strerror})") from None
        if written:
            write(
                self.folder / "multirun.yaml",
                OmegaConf.to_yaml(without_secrets(self.master)).encode(),
            )

    def outstanding(self, jobs: list[list[str]], first: int = 0) -> dict[int, Job]:
        """Return the jobs that are to run, by their numbers; all are in sweep.json then.

        Args:
            first: the least number of a new job.
        """
        folder, retry = self.folder, self.retry
        sources = self.master.hydra.runtime.config_sources
        digest = ledger.digest([Path(s.path) for s in sources if s.schema == "file"])
        if not hasattr(self.launcher, "engine"):  # workers wait, for the runs of their own group
            wait_for_writers(path.parent for path in folder.glob(f"*/{RUN_LOCK}"))
        book, found = ledger.known(folder)
        done = ledger.over(book, folder, digest, retry)
        if found:
            which = f"{count(found, 'run')} known by what they recorded"
            self.out.print(f"{LEDGER} is not that of the runs that are here: {which}")
        book.conf = digest
        numbers = {entry.identity: number for number, entry in book.jobs.items() if entry.identity}
        runs = (path.name for path in folder.glob("*") if ledger.holds_a_run(path))
        last = max([first - 1, *book.jobs, *map(int, filter(str.isdecimal, runs))])
        todo: dict[int, Job] = {}
        counts = dict.fromkeys((ENDED, RESUMED, TWICE), 0)
        shared = Counter(line for lines in jobs for line in set(lines))
        for lines in jobs:
            key = job_of(lines)
            if key in done:
                counts[ENDED] += 1
                continue
            new = job(lines, self.context, self.master)
            name = ledger.name_of(identity(new.config), key) if new.config else ""
            new.differs = [line for line in lines if shared[line] < len(jobs) or len(jobs) == 1]
            new.number = numbers.get(name, last + 1)
            last = max(last, new.number)
            if new.number in todo:
                counts[TWICE] += 1
                continue
            if again := renewed(new, folder / str(new.number), retry):
                counts[RESUMED] += again is not new
                todo[new.number] = again
            else:
                counts[ENDED] += 1
            book.jobs[new.number] = Entry(key, name)
            if name:
                numbers[name] = new.number
        book.write(folder)
        for what, n in counts.items():
            if n:
                self.out.print(f"{count(n, 'run')} {what}")
        return todo

    def run(self, jobs: dict[int, Job], supply: Supply | None = None) -> None:
        """Run jobs, and those of the supply; note their returns, and a signal that stopped them."""
        keep_going = bool(self.master.get("keep_going"))
        for line in deaths.notice(self.folder):
            self.out.print(escape(line))
        for number in deaths.condemned(self.folder, jobs):
            job = jobs.pop(number)
            if supply:
                supply.ended(number, job.returned)
        try:
            returns = _launch(jobs, self.launcher, supply, keep_going, self.folder) if jobs else []
        except failing.Halted as stop:
            self.returns += stop.returns
            self.stopped, self.halted = stop.exit_code, str(stop)
            return
        except failing.Interrupted as stop:
            self.returns += stop.returns
            self.stopped = stop.exit_code
            deaths.forget(self.folder)
            return
        except workers.WorkerDied as stop:
            self.stopped = stop.exit_code
            self.halted = f"stopped: {stop}; go on with: {self._same_command()}"
            return
        except (SystemExit, KeyboardInterrupt) as error:  # Hydra's basic launcher lets them through
            code = error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT
            if code not in SIGNALS:
                raise
            self.stopped = code
            return
        self.returns += returns
        self.submitted = bool(jobs) and getattr(self.launcher, "submits", False)
        deaths.forget(self.folder)
        self.stopped = next((c for c in map(exit_code, returns) if c in SIGNALS), 0)

    def conclude(
        self, report: bool = False, others: bool = False, lost: int = 0
    ) -> list[list[JobReturn]]:
        """Show the leaderboard, what failed and how to go on; end in the exit code that follows.

        Args:
            report: whether something was asked: then a report takes the leaderboard's place.
            others: another process still works on the sweep, and will say how it ended.
            lost: trials of a search that failed, in this process or before.
        """
        from knobs.report.read import read_runs

        if self.submitted:
            return [self.returns]
        code, runs = 0, read_runs(self.folder)
        if others and not self.stopped:
            self.out.print("done here; another process goes on with the last runs, and reports")
        elif runs:
            code = self._answer(runs, report and not self.stopped)
        failed = [
            r for r in self.returns if r.status is JobStatus.FAILED and exit_code(r) not in SIGNALS
        ]
        if failed:
            show_failures(self.out, failed)
        if self.halted:
            self.out.print(escape(self.halted))
            code = self.stopped
        elif self.stopped:
            self.out.print(escape(f"interrupted; go on with: {self._same_command()}"))
            code = self.stopped
        elif failed or lost or any(run.status == "failed" for run in runs):
            where = " of the search" if lost else ""
            many = lost or max(sum(run.status == "failed" for run in runs), len(failed))
            before = "" if runs else " before a first step"
            again = "once that is mended, the same command with retry_failed=true runs"
            these = "it" if many == 1 else "them"
            self.out.print(f"{count(many, 'run')}{where} failed{before}; {again} {these} again")
            code = SWEEP_FAILED
        if code:  # Hydra's last callback, which it would call if the process did not end here
            name = self.master.hydra.job.config_name
            self.context.callbacks.on_multirun_end(config=self.master, config_name=name)
            sys.exit(code)
        return [self.returns]

    def _same_command(self) -> str:
        """Return the command that goes on with this sweep."""
        words = sys.argv[1:]
        if not any(word.startswith(("sweep=", "hydra.sweep.dir=")) for word in words):
            words.append(f"hydra.sweep.dir={quoted(literal(str(self.folder)))}")
        return shlex.join(["python", "train.py", *words])

    def _answer(self, runs: list[Any], report: bool) -> int:
        """Write leaderboard.csv, then show it, or the report; return the exit code."""
        from knobs.report import leaderboard, terminal  # late, and the report's numpy and plotly

        entries, path = leaderboard.leaderboard(runs), self.folder / leaderboard.CSV
        leaderboard.write_csv(path, entries)
        try:
            if report:
                from knobs.report import analysis, write

                conclusions = analysis.make([self.folder])
                terminal.show(self.out, conclusions, write.write(conclusions, self.folder))
                return 0
        except StorageError:
            raise
        except Exception as error:  # the report's own: the runs and their leaderboard are whole
            log.debug("the report failed", exc_info=error)
            why = f"{type(error).__name__}: {first_line(error)}"
            self.out.print(escape(f"the report failed ({why}), a fault of its own; runs are whole"))
        terminal.leaderboard(self.out, entries, path=path)
        place = shlex.quote(_near(self.folder))
        self.out.print(escape(f"report: python -m knobs.report {place}"))
        return BUG if report else 0


def sweep(
    arguments: list[str], launcher: Launcher, context: HydraContext, master: DictConfig
) -> list[list[JobReturn]]:
    """Run a grid; the exit code follows from how its runs ended.

    Args:
        arguments: the command line's overrides, hydra's own left out.
        launcher, context, master: as Hydra hands them to a sweeper.
    """
    under_way = SweepContext(launcher, context, master)
    with under_way.ending():
        folder = under_way.folder
        if places.kind(folder) == "study":  # whose trials would take the grid's runs for theirs
            raise ConfigError(f"{folder}: holds a search or a study; name another sweep")
        with under_way.held_folder():
            jobs = overrides.jobs(arguments)
            if not jobs:
                raise ConfigError("the grid is empty: one of its overrides has no values")
            under_way.run(under_way.outstanding(jobs))
            return under_way.conclude()


def _launch(
    jobs: dict[int, Job],
    launcher: Launcher,
    supply: Supply | None,
    keep_going: bool,
    folder: Path,
) -> list[JobReturn]:
    """Hand jobs to a launcher: all at once to ours, else in batches of neighbouring numbers.

    Raises:
        Halted: the first of them failed alike: of ours, and of one that runs one job at a time.
    """
    if hasattr(launcher, "launch_numbered"):
        return list(launcher.launch_numbered(jobs, supply))
    # One job after the other, in this process. By name: Hydra may have loaded the class anew.
    in_turn = BasicLauncher.__name__ in [kind.__name__ for kind in type(launcher).__mro__]
    watched = in_turn and not keep_going
    returns: list[JobReturn] = []
    for _, batch in groupby(enumerate(sorted(jobs)), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in batch]
        for part in [[number] for number in numbers] if in_turn else [numbers]:
            lines = [jobs[number].overrides for number in part]
            with deaths.noted(folder, part) if in_turn else contextlib.nullcontext():
                ends = workers.launch(launcher, lines, part[0])
            for number, returned in zip(part, ends, strict=True):
                returns.append(returned)
                if supply:
                    supply.ended(number, returned)
            ended = [failing.failure(returned) for returned in returns]
            if watched and failing.alike(ended):
                left = len(jobs) - len(returns)
                if left or supply:
                    raise failing.Halted(first_line(ended[0]), len(ended), left, returns)
    return returns


def renewed(job: Job, run: Path, retry: bool) -> Job | None:
    """Return a job as it is to run now, by what its run has left; None where that is settled.

    One with a checkpoint goes on from it; others begin, and those that have failed begin anew. So
    a grid, a search and a worker may be started again at any time.

    Args:
        job: as it was asked for, or renewed before.
        run: the folder of its run, whether that is there or not.
        retry: whether one that has failed is to run again.
    """
    status = ledger.status(run)
    if ledger.settled(status, retry):
        return None
    if not job.config or status == "failed" or not resumable(run):
        return job
    goes_on = f"resume={quoted(literal(str(run)))}"
    lines = [*(line for line in job.overrides if line != goes_on), goes_on]
    return replace(job, overrides=lines, config=job.config | {"resume": str(run)})


def job(overrides: list[str], context: HydraContext, master: DictConfig, number: int = -1) -> Job:
    """Return a job, its config from what was checked before, or composed."""
    checked = command.LAST.covers(master) and command.LAST.resolved(overrides)
    config = checked or resolved(compose(overrides, context, master))
    trains = config and config["task"] == "train"
    return Job(number, overrides, config if trains else None)


def compose(overrides: Sequence[str], context: HydraContext, master: DictConfig) -> DictConfig:
    """Return a job's config: from what was checked before, or as Hydra's own launchers get it."""
    hydra = OmegaConf.to_container(master.hydra.overrides.hydra)
    checked = command.LAST.covers(master)
    composed = command.LAST.compose([*hydra, *overrides]) if checked else None
    if composed is None:
        return context.config_loader.load_sweep_config(master, list(overrides))
    OmegaConf.copy_cache(master, composed)  # the time stamps of the sweep's folder
    return composed


def resolved(composed: DictConfig) -> dict[str, Any] | None:
    """Return what a job will train, resolved; None where it is no training run of knobs."""
    if not {*SECTIONS, "training", "task"} <= set(composed):
        return None
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = composed
    try:
        rest = copies.part(composed, [key for key in composed if key != "hydra"])
        return OmegaConf.to_container(rest, resolve=True)
    finally:
        HydraConfig.instance().cfg = before


def show_failures(out: Console, failed: list[JobReturn]) -> None:
    """Print a line for each job that failed, and where its traceback is."""
    rows = []
    for returned in failed:
        hydra, error = returned.hydra_cfg.hydra, returned._return_value
        kind = getattr(error, "kind", type(error).__name__)  # of one that a worker has told
        why = f"{kind}: {first_line(for_a_person(error))}"
        log = Path(str(hydra.runtime.get("output_dir"))) / f"{hydra.job.name}.log"
        where = _near(log) if log.is_file() else ""
        rows.append((str(hydra.job.num), why, where))
    failures(out, rows)


def _near(path: Path) -> str:
    """Return a path as seen from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def exit_code(returned: JobReturn) -> Any:
    """Return the code of a job that ended the process, 0 of any other."""
    error = returned._return_value
    return error.code if isinstance(error, SystemExit) else 0
