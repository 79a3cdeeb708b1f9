"""The jobs of a sweep -> their JobReturns: begun, trained together or one by one, ended."""

import logging
import time
from collections.abc import Callable

import torch
from hydra.core.utils import JobReturn, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from rich.console import Console

from knobs import build
from knobs.data import Data
from knobs.errors import ConfigError, MemoryShortage, for_a_person
from knobs.stack import loop as stack
from knobs.stack.layers import CannotStack
from knobs.sweep import groups
from knobs.sweep.grid import Source, Task, compose
from knobs.sweep.groups import Group
from knobs.sweep.jobs import Job
from knobs.sweep.screen import Screen
from knobs.tracking.remote import Mirror, Remote
from knobs.training import run
from knobs.training.loop import Run
from knobs.training.session import SAVE_SECONDS, Outcome, Session, prune
from knobs.training.setup import machine, steps_per_epoch

log = logging.getLogger("knobs")
SAVE_SHARE = 20  # checkpoints of a stack take at most one part in so many of its time
FILES, OTHER_FILES = 4096, 64  # a process opens so many at most, so many of them not for rows


def launch(
    tasks: dict[int, Task],
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    width: int | None = None,
    source: Source | None = None,
) -> list[JobReturn]:
    """Run jobs, those that can share a computation as stacks.

    Args:
        tasks: number -> job.
        context, task_function, master: as Hydra hands them to a launcher.
        width: most rows of a stack; None leaves it to a measurement.
        source: has further jobs when some have ended; none if None.
    """
    if width is not None and width < 1:
        raise ConfigError(f"hydra.launcher.width={width}: must be null or a whole number >= 1")
    setup_globals()
    sets: dict[str, Data] = {}

    def read(plain: dict) -> Data:
        key = str(plain["data"])
        if key not in sets:
            sets[key] = build.data(plain)
        return sets[key]

    def job(number: int, task: Task) -> Job:
        return Job(number, compose(task.overrides, context, master), context, task_function)

    source, timed = source or Source(), {}
    groups = grouped(tasks, read, width, timed)
    with Screen(tasks, groups, source) as screen, run.stop_signals() as stopped:
        work = Work(screen, stopped, read, job, source)
        while tasks:
            for group in groups:
                for numbers in group.chunks:
                    if not stopped:
                        work.run({number: tasks[number] for number in numbers})
            waiting, work.waiting = work.waiting, {}  # the screen knows of them
            tasks = {} if stopped else waiting or source.more()
            groups = grouped(tasks, read, width, timed)
            screen.add({} if waiting else tasks, sum(group.steps for group in groups))
        work.wait()
    return [returned for _, returned in sorted(work.returns.items())]


def grouped(
    tasks: dict[int, Task], read: groups.Reader, width: int | None, timed: dict[str, Group]
) -> list[Group]:
    """Runs of knobs as they train together; any other job by itself; in the order of jobs."""
    width = min(width or FILES, (open_files() - OTHER_FILES) // 2)  # a row's metrics and its log
    configs = {n: task.plain for n, task in tasks.items() if task.plain}
    planned = groups.plan(configs, read, width, timed)
    planned += [Group([number]) for number, task in tasks.items() if not task.plain]
    return sorted(planned, key=lambda group: group.jobs[0])


def open_files() -> int:
    """How many files this process may have open, after asking for as many as it may have."""
    try:
        import resource
    except ImportError:  # not on Windows, which sets no such limit
        return FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in range(FILES):
        soft = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return FILES if soft == resource.RLIM_INFINITY else soft


class Work:
    """Trains what jobs ask for.

    Args:
        screen: what a person watches.
        stopped: signals that asked the sweep to stop; more may come.
        read: a config -> its data.
        job: makes a job of a task.
        source: of jobs that take the places of those that have left a stack.
    """

    def __init__(
        self,
        screen: Screen,
        stopped: list[int],
        read: groups.Reader,
        job: Callable[[int, Task], Job],
        source: Source,
    ):
        self.screen, self.stopped, self.read = screen, stopped, read
        self.job, self.source = job, source
        self.waiting: dict[int, Task] = {}  # handed out by the source, of no stack under way
        self.returns: dict[int, JobReturn] = {}
        self._mirror = Mirror()
        self._trackers: list[Remote] = []

    def run(self, tasks: dict[int, Task]) -> None:
        """Jobs that train together, from their beginning to their end."""
        if jobs := self._begun(tasks):
            with machine(jobs[0].request.plain["training"]) as device:
                self._trained(jobs, device)

    def _begun(self, tasks: dict[int, Task]) -> list[Job]:
        """Jobs up to where they want their runs trained, without those that want none."""
        jobs = [self.job(number, task) for number, task in tasks.items()]
        for job in jobs:
            job.begin()
            if not job.request:
                self._ended(job)
        return [job for job in jobs if job.request]

    def _trained(self, jobs: list[Job], device: torch.device) -> None:
        sessions = self._opened(jobs, device)
        places: dict[int, dict[Job, Session]] = {}  # a stack stands at one batch of its epochs
        for job, session in sessions.items():
            places.setdefault(session.run.progress.batch, {})[job] = session
        for group in places.values():
            self._train(group)

    def _opened(
        self, jobs: list[Job], device: torch.device, data: Data | None = None
    ) -> dict[Job, Session]:
        """Each job's session; one that cannot be opened ends its job.

        Args:
            data: on the device already; one copy serves all.
        """
        sessions: dict[Job, Session] = {}
        for job in jobs:
            ask, track = job.request, self._mirror.tracker
            try:
                with job.world():
                    data = data or self.read(ask.plain)
                    session = Session(ask.plain, ask.folder, device, ask.about, data, track)
            except Exception as error:
                self._end(job, error)
            else:
                sessions[job], data = session, session.run.data
                self._trackers.append(session.tracker)
        return sessions

    def wait(self) -> None:
        """Until W&B has everything."""
        lines = [tracker.wait() for tracker in self._trackers]
        self._mirror.close()
        self.screen.mirrored([line for line in lines if line])

    def _train(self, sessions: dict[Job, Session]) -> None:
        """As a stack where there are several; else, or where that fails, one by one."""
        if len(sessions) == 1:
            return self._alone(sessions)
        try:
            return self._together(sessions)
        except CannotStack as error:
            self.screen.note(f"{len(sessions)} runs train one by one: {error}")
            return self._alone(sessions)
        except Exception as error:  # of the computation that all rows share
            fault = for_a_person(error)
            log.exception("a stack of %d runs failed; they begin again", len(sessions))
        left = {job: session for job, session in sessions.items() if not session.outcome}
        for job, session in list(left.items()):
            try:
                session.restart()
            except Exception as error:
                session.close("failed", error)
                self._end(job, error)
                del left[job]
        if not left:
            return None
        if isinstance(fault, MemoryShortage) and len(left) > 1:
            self.screen.note(f"no memory for {len(left)} runs at once: they go on as two halves")
            items = list(left.items())
            self._train(dict(items[::2]))
            return self._train(dict(items[1::2]))
        self.screen.note(f"{len(left)} runs begin again one by one: {fault}")
        return self._alone(left)

    def _alone(self, sessions: dict[Job, Session]) -> None:
        for job, session in sessions.items():
            if self.stopped:
                self._end(job, session.close("interrupted", None, self.stopped[0]))
                continue
            try:
                with job.world():
                    answer = run.complete(session, Console(quiet=True))
            except Exception as error:
                answer = error
            if session.outcome and session.outcome.status == "interrupted":
                self.stopped.append(session.outcome.exit_code - 128)
            self.screen.steps(session.run.progress.step)
            self._end(job, answer)

    def _together(self, sessions: dict[Job, Session]) -> None:
        by_run = {session.run: (job, session) for job, session in sessions.items()}
        saved = Clock()
        unsaved: dict[Run, Exception] = {}  # fails that run alone, at its next epoch

        def on_epoch(one: Run, metrics: dict) -> None:
            if one in unsaved:
                raise unsaved[one]
            job, session = by_run[one]
            with job.log():
                session.epoch(metrics)
            self.screen.epoch(job.number, one)

        def on_round(rows: stack.Stack) -> None:
            if saved.due():
                with saved:
                    for one in rows.release():
                        try:
                            by_run[one][1].save()
                        except Exception as error:
                            unsaved[one] = error

        def judge(going: list[Run]) -> None:
            prune([by_run[one][1] for one in going])

        def refill(places: int) -> list[Run]:
            first, (_, like) = next(iter(by_run.items()))
            new = {} if self.stopped else self.source.more(places)
            fit = {n: t for n, t in new.items() if t.plain and joins(t.plain, like.plain)}
            self.waiting |= {n: t for n, t in new.items() if n not in fit}
            steps = steps_per_epoch(len(first.data.train), first.training)
            self.screen.add(new, sum(steps * t.plain["training"]["epochs"] for t in fit.values()))
            opened = self._opened(self._begun(fit), first.device, first.data)
            by_run.update({session.run: (job, session) for job, session in opened.items()})
            return [session.run for session in opened.values()]

        def on_end(one: Run, status: str, error: Exception | None) -> None:
            job, session = by_run[one]
            try:
                with job.log():
                    answer = session.close(status, error, *self.stopped[:1])
            except Exception as fault:  # a full disk
                session.close("failed", fault)
                answer = error = fault
            self._end(job, error if status == "failed" else answer)

        def watch(rows: stack.Stack) -> None:
            self.screen.steps(len(rows.runs))
            rows.stop_requested = bool(self.stopped)

        stack.fit(list(by_run), on_epoch, on_end, watch, on_round, judge, refill)

    def _end(self, job: Job, answer: Outcome | Exception) -> None:
        job.end(answer)
        self._ended(job)

    def _ended(self, job: Job) -> None:
        self.returns[job.number] = job.returned
        self.screen.ended(job)
        self.source.ended(job.number, job.returned)


def joins(plain: dict, other: dict) -> bool:
    """Whether a run can take a place in the stack of another."""
    whole = plain["resume"] is None  # one that goes on may stand in the middle of an epoch
    return whole and not groups.alone(plain) and groups.shared(plain) == groups.shared(other)


class Clock:
    """When a stack's checkpoints are due: not too often for what they take."""

    def __init__(self) -> None:
        self._last, self._took = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Whether it is time."""
        pause = max(SAVE_SECONDS, SAVE_SHARE * self._took)
        return time.perf_counter() - self._last > pause

    def __enter__(self) -> None:
        self._last = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        self._last, self._took = now, now - self._last
