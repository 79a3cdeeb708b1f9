"""The jobs of a sweep -> their JobReturns: begun, trained as stacks or sequentially, ended."""

import contextlib
import gc
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from knobs import record
from knobs.data import Data
from knobs.errors import SWEEP_FAILED, ConfigError, MemoryShortage, first_line, for_a_person
from knobs.signals import Received, Stopped, exits, stop_signals
from knobs.stack.layers import CannotStack
from knobs.sweep import deaths, failing, groups
from knobs.sweep.deaths import UnderWay
from knobs.sweep.failing import Halted, Interrupted
from knobs.sweep.grid import Supply, compose
from knobs.sweep.jobs import Job
from knobs.sweep.kin import reader
from knobs.sweep.screen import Screen, labels
from knobs.sweep.stacks import Stacks
from knobs.sweep.together import Row, Together
from knobs.tracking import Mirror
from knobs.tracking.remote import MirrorProcess
from knobs.training import loop
from knobs.training.session import Outcome, Session, keep_best, prune
from knobs.training.setup import machine

log = logging.getLogger("knobs")
FILES, OTHER_FILES = 4096, 64  # a process opens so many at most, so many of them not for rows
ROWS = (FILES - OTHER_FILES) // 2  # of a stack, where more files may be open
MANY = 256  # jobs of a stack: half a gigabyte that is not to wait
COLLECT_AFTER = 20_000  # new objects, before Python looks for cycles among them


def launch(
    jobs: dict[int, Job],
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    width: int | None = None,
    supply: Supply | None = None,
    face: Callable[..., Any] = Screen,
    notes: Path | None = None,
    out: Console | None = None,
) -> list[JobReturn]:
    """Run jobs, those that can share a computation as stacks.

    Args:
        jobs: by their numbers.
        context, task_function, master: as Hydra hands them to a launcher.
        width: most rows of a stack; None leaves it to a measurement.
        supply: has further jobs when some have ended; none if None.
        face: makes what shows progress, as Screen does.
        notes: where stacks and deaths are noted; None: in the sweep's folder.
        out: where lines about the data go; None: to the terminal.

    Raises:
        Halted: the first runs failed alike, and `master` has no keep_going=true.
        Interrupted: a signal came before all was begun, also where no job was under way to say so.
    """
    if width is not None and width < 1:
        raise ConfigError(f"hydra.launcher.width={width}: must be null or a whole number >= 1")
    setup_globals()
    plain = reader(out or Console(highlight=False, soft_wrap=True))

    def read(config: dict) -> Data:
        with exits():
            return plain(config)

    def begin(job: Job) -> None:
        job.begin(compose(job.overrides, context, master), context, task_function)

    searching, supply, timed = supply is not None, supply or Supply(), {}
    folder, fixed = Path(str(master.hydra.sweep.dir)).absolute(), type(supply) is Supply
    now = {"width": min(width or FILES, files()), "threads": torch.get_num_threads()}
    width = most_rows(width)
    stacks = Stacks(folder, now, fixed, notes)

    def plan(jobs: dict[int, Job]) -> list[groups.Group]:
        kept = groups.restored(jobs, stacks, read)
        rest = {*jobs}.difference(*(group.jobs for group in kept))
        with under_way.at([*jobs]):
            new = groups.plan_groups({n: jobs[n] for n in jobs if n in rest}, read, width, timed)
        stacks.plan(new)
        return sorted([*kept, *new], key=lambda group: group.jobs[0])

    whole, (jobs, *apart) = jobs, deaths.apart(folder, jobs, notes) or [{}]
    keep_going = bool(master.get("keep_going"))
    with (
        rare_collections(),
        UnderWay(folder, notes) as under_way,
        face(labels(whole), groups.planned(planned := plan(jobs)), supply) as screen,
        stop_signals() as stopped,
    ):
        launched = Launch(
            screen, stopped, read, begin, supply, folder, stacks, under_way, keep_going
        )
        while jobs:
            for group in planned:
                chunks = group.chunks
                while chunks and not launched.ends:
                    numbers = chunks.pop(0)
                    with under_way.at(numbers):
                        launched.run([jobs[number] for number in numbers])
                    if chunks and not launched.ends:
                        chunks = replanned(launched, group, chunks, width, timed)
            waiting, launched.waiting = launched.waiting, {}  # the screen knows of them
            if launched.halted:
                launched.left |= {*jobs, *waiting, *(number for part in apart for number in part)}
            known = waiting or (apart.pop(0) if apart else {})
            jobs = {} if launched.ends else known or supply.more()
            planned = plan(jobs)
            screen.add({} if known else labels(jobs), sum(group.steps for group in planned))
        stopped.at_once = True  # the records are complete: a signal ends the wait for mirrors
        launched.wait()
    returns = [returned for _, returned in sorted(launched.returns.items())]
    left = len(launched.left - set(launched.returns))
    if launched.halted and not stopped and (left or searching):
        raise Halted(launched.halted, len(launched.failures), left, returns)
    if stopped and (searching or len(returns) < len(whole)):
        raise Interrupted(stopped[0], returns)
    return returns


def how_ended(job: Job) -> tuple[str, str]:
    """Return the status of a job that has ended, and what failed it, in one line."""
    if job.outcome:
        return job.outcome.status, ""
    if job.returned.status is not JobStatus.FAILED:
        return "finished", ""
    error = job.returned._return_value
    return "failed", f"{type(error).__name__}: {first_line(for_a_person(error))}"


def train(session: Session, stopped: Received) -> None:
    """Train a run by itself, to its end."""
    with session.fitting(Console(quiet=True), stopped) as (_, watch):
        for metrics in loop.fit(session.run, watch, session.keep):
            session.epoch(metrics)
            prune([session])
            session.save_when_due()


def replanned(
    launched: "Launch",
    group: groups.Group,
    chunks: list[list[int]],
    width: int,
    timed: dict[str, groups.Group],
) -> list[list[int]]:
    """Return the stacks of a group that have not begun, otherwise than planned where that pays.

    Args:
        chunks: as planned; what has run of the group says whether the plan was right.
        width, timed: as groups.plan_groups takes them.
    """
    again = groups.plan_again(group, chunks, launched.seen, launched.read, width, timed)
    if not again:
        return chunks
    launched.stacks.plan([again])
    launched.screen.note(
        f"stacks of {group.width} are {again.slower[group.width]:.1f} times as slow as planned; "
        f"the {len(again.jobs)} runs left train {again.width} at a time"
    )
    return again.chunks


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let Python look for cycles more rarely: the jobs of a sweep are many objects, all in use.

    As it is by default, half of the time in which a job's config is copied goes into looking.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def most_rows(width: int | None = None) -> int:
    """Return how many rows a stack may have, of each of which a lock and a log are open.

    Args:
        width: as it was asked for; None: ROWS, a gigabyte of runs that are under way.
    """
    return min(width or ROWS, files())


def files() -> int:
    """Return for how many rows this process may open files."""
    return (open_files() - OTHER_FILES) // 2


def open_files() -> int:
    """Return how many files this process may have open, once it asked for as many as it may."""
    try:
        import resource
    except ImportError:  # not on Windows, which sets no such limit
        return FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in range(FILES):
        soft = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return FILES if soft == resource.RLIM_INFINITY else soft


@dataclass
class Launch:
    """Trains the runs that jobs hand over.

    Args:
        screen: what a person watches.
        stopped: signals that asked the sweep to stop; more may come.
        read: a config -> its data.
        begin: lets a job run until it waits for its run, or has ended.
        supply: of jobs that take the places of those that have left a stack.
        folder: the sweep's.
        stacks: which runs train together, in this process and in those before.
        under_way: says which of them are under way, should this process die.
        keep_going: whether to go on where the first runs all failed alike.
        waiting: handed out by the supply, of no stack under way.
        returns: of jobs that have ended.
        failures: what failed each run that has ended, None where nothing did, in that order.
        halted: why no further run begins: what the first failures say.
        left: numbers of jobs that did not begin because of it.
        told: lines about features of frozen backbones that have been shown.
        seen: seconds that a step of one run took in the stack that ran last, an epoch each, as
            long as every row was in it.
    """

    screen: Screen
    stopped: Received
    read: groups.Reader
    begin: Callable[[Job], None]
    supply: Supply
    folder: Path
    stacks: Stacks
    under_way: UnderWay
    keep_going: bool = False
    waiting: dict[int, Job] = field(default_factory=dict)
    returns: dict[int, JobReturn] = field(default_factory=dict)
    failures: list[Exception | None] = field(default_factory=list)
    halted: str = ""
    left: set[int] = field(default_factory=set)
    seen: list[float] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    _mirrors: MirrorProcess = field(default_factory=lambda: MirrorProcess())
    _trackers: list[Mirror] = field(default_factory=list)
    _sessions: list[Session] = field(default_factory=list)

    @property
    def ends(self) -> bool:
        """Return whether no further run begins: a signal came, or the first ones failed alike."""
        return bool(self.stopped or self.halted)

    def run(self, jobs: list[Job]) -> None:
        """Run jobs that train together, from their beginning to their end.

        Raises:
            Stopped: by a second signal, once every record under way says interrupted.
        """
        self._sessions.clear()
        try:
            self._run(jobs)
            keep_best(self._sessions)
            if len(jobs) > MANY:  # whose configs are cycles, which Python looks for rarely here
                self._sessions.clear()
                gc.collect()
        except Stopped as error:
            for session in self._sessions:
                session.abandon(error.number)
            raise

    def _run(self, jobs: list[Job]) -> None:
        self.seen.clear()
        first, rest = jobs[: failing.FIRST], jobs[failing.FIRST :]
        waiting = self.begun(first)
        # Those that are to train alike are opened under one setting; the first ones try it.
        if not waiting and rest and not self._halts():
            waiting, rest = self.begun(rest), []
        if waiting:
            with machine(waiting[0].config["training"]) as device:
                placed: dict[str, Data] = {}
                rows = self.opened(waiting, device, placed)
                if rest and (rows or not self._halts()):
                    rows += self.opened(self.begun(rest), device, placed)
                for part in self._at_one_batch(rows):
                    self._train(part)
        self._halts(whole_stack=len(jobs) > 1)

    def _at_one_batch(self, rows: list[Row]) -> list[list[Row]]:
        """Return rows in parts that stand at one batch each, unless a stack had them all."""
        if rows and {job.number for job, _ in rows} <= self.stacks.rows(rows[0][0].number).keys():
            return [rows]
        parts: dict[int, list[Row]] = {}
        for job, session in rows:
            parts.setdefault(session.run.progress.batch, []).append((job, session))
        return [*parts.values()]

    def _halts(self, whole_stack: bool = False) -> bool:
        """Note that no further run is to begin, where the first ones have failed alike."""
        if self.alike(whole_stack):
            self.halted = first_line(self.failures[0])
        return bool(self.halted)

    def alike(self, whole_stack: bool = False) -> bool:
        return not self.keep_going and failing.alike(self.failures, whole_stack)

    def wait(self) -> None:
        """Wait until everything is mirrored."""
        lines = [(tracker.label, tracker.wait()) for tracker in self._trackers]
        self._mirrors.close()
        self.screen.mirrored([f"{label} {line}" for label, line in lines if line])

    def begun(self, jobs: list[Job]) -> list[Job]:
        """Begin jobs, until a signal comes; return those that wait for their runs to be trained."""
        for job in jobs:
            if self.stopped:
                break
            self.begin(job)
            if not job.waiting:
                self._ended(job)
        return [job for job in jobs if job.waiting]

    def opened(self, jobs: list[Job], device: torch.device, placed: dict[str, Data]) -> list[Row]:
        """Return jobs with their sessions; one that cannot be opened ends its job.

        After a signal no further one is opened: its job ends, and leaves no folder.

        Args:
            placed: sets of data on the device already, kept up to date; one copy serves all.
        """
        rows: list[Row] = []
        for job in jobs:
            if self.stopped:
                job.end(Stopped(self.stopped[0]))
                record.unbegun(job.folder)
                continue
            try:
                name = str(job.config["data"])
                with job.environment(), exits():
                    data = placed.get(name) or self.read(job.config)
                    track = self._mirrors.mirror
                    session = Session(job.config, job.folder, device, job.about, data, track, True)
                rows.append((job, session))
                self._sessions.append(session)
                placed[name] = session.run.data.origin
                if session.run.cut and session.run.features not in self.told:
                    self.told.add(session.run.features)
                    self.screen.note(session.run.features)
                self._trackers.append(session.tracker)
            except Exception as error:
                self.end(job, error)
        return rows

    def _train(self, rows: list[Row]) -> None:
        """Train several runs as a stack; one alone, and where a stack fails, sequentially."""
        if len(rows) == 1 and not self.stacks.rows(rows[0][0].number):
            return self._alone(rows)
        try:
            with exits():
                return Together(self, rows).train()
        except CannotStack as error:  # of a run that has joined it later as well
            going = [row for row in rows if not row[1].outcome]
            self.stacks.alone([job.number for job, _ in going])
            self.screen.note(f"{len(going)} runs train sequentially: {error}")
            return self._alone(going)
        except Exception as error:  # of the computation that all rows share
            fault = for_a_person(error)
            log.exception("a stack of %d runs failed; they begin again", len(rows))
        left: list[Row] = []
        self.stacks.alone([job.number for job, _ in rows])
        for job, session in rows:
            if session.outcome:
                continue
            try:
                session.restart()
                left.append((job, session))
            except Exception as error:
                session.close("failed", error)
                self.end(job, error)
        if isinstance(fault, MemoryShortage) and len(left) > 1:
            self.screen.note(f"no memory for {len(left)} runs at once: they go on as two halves")
            self._train(left[::2])
            self._train(left[1::2])
        elif left:
            self.screen.note(f"{len(left)} runs begin again, sequentially: {fault}")
            self._alone(left)
        return None

    def _alone(self, rows: list[Row]) -> None:
        for place, (job, session) in enumerate(rows):
            if self.stopped:
                self.end(job, session.close("interrupted", None, self.stopped[0]))
                continue
            if place >= failing.FIRST and self._halts():  # no step of it has been made
                self.left.add(job.number)
                job.end(session.close("interrupted", None, SWEEP_FAILED - 128))
                continue
            try:
                with self.under_way.at([job.number]), job.environment():
                    train(session, self.stopped)
                answer = session.outcome
            except Exception as error:
                answer = error
            self.screen.steps(session.run.progress.step)
            self.end(job, answer)

    def end(self, job: Job, answer: Outcome | Exception) -> None:
        job.end(answer)
        self._ended(job)

    def _ended(self, job: Job) -> None:
        self.returns[job.number] = job.returned
        self.failures.append(failing.failure(job.returned))
        if (outcome := job.outcome) and not math.isnan(outcome.value):
            summary = outcome.summary
            best = summary["objective"], outcome.value, summary["best_epoch"]
            self.screen.epoch(job.number, *best)
        self.screen.ended(job.number, *how_ended(job))
        self.supply.ended(job.number, job.returned)
