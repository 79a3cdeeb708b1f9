"""The jobs of a sweep -> their JobReturns: begun, trained as stacks or sequentially, ended."""

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
from knobs.sweep.grid import Supply, compose
from knobs.sweep.groups import Group
from knobs.sweep.jobs import Job
from knobs.sweep.screen import Screen
from knobs.tracking.remote import Mirror, Remote
from knobs.training import loop
from knobs.training.loop import Run
from knobs.training.session import SAVE_SECONDS, Outcome, Session, prune, stop_signals
from knobs.training.setup import machine, steps_per_epoch

log = logging.getLogger("knobs")
SAVE_SHARE = 20  # checkpoints of a stack take at most one part in so many of its time
FILES, OTHER_FILES = 4096, 64  # a process opens so many at most, so many of them not for rows


def launch(
    jobs: dict[int, Job],
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    width: int | None = None,
    supply: Supply | None = None,
) -> list[JobReturn]:
    """Run jobs, those that can share a computation as stacks.

    Args:
        jobs: by their numbers.
        context, task_function, master: as Hydra hands them to a launcher.
        width: most rows of a stack; None leaves it to a measurement.
        supply: has further jobs when some have ended; none if None.
    """
    if width is not None and width < 1:
        raise ConfigError(f"hydra.launcher.width={width}: must be null or a whole number >= 1")
    setup_globals()
    sets: dict[str, Data] = {}

    def read(config: dict) -> Data:
        key = str(config["data"])
        if key not in sets:
            sets[key] = build.data(config)
        return sets[key]

    def begin(job: Job) -> None:
        job.begin(compose(job.overrides, context, master), context, task_function)

    supply, timed = supply or Supply(), {}
    planned = grouped(jobs, read, width, timed)
    with Screen(jobs, planned, supply) as screen, stop_signals() as stopped:
        launched = Launch(screen, stopped, read, begin, supply)
        while jobs:
            for group in planned:
                for numbers in group.chunks:
                    if not stopped:
                        launched.run([jobs[number] for number in numbers])
            waiting, launched.waiting = launched.waiting, {}  # the screen knows of them
            jobs = {} if stopped else waiting or supply.more()
            planned = grouped(jobs, read, width, timed)
            screen.add({} if waiting else jobs, sum(group.steps for group in planned))
        launched.wait()
    return [returned for _, returned in sorted(launched.returns.items())]


def grouped(
    jobs: dict[int, Job], read: groups.Reader, width: int | None, timed: dict[str, Group]
) -> list[Group]:
    """Return runs of knobs as they train together, any other job by itself, in order."""
    width = min(width or FILES, (open_files() - OTHER_FILES) // 2)  # a row's lock and its log
    configs = {number: job.config for number, job in jobs.items() if job.config}
    planned = groups.plan_groups(configs, read, width, timed)
    planned += [Group([number]) for number, job in jobs.items() if not job.config]
    return sorted(planned, key=lambda group: group.jobs[0])


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


class Launch:
    """Trains the runs that jobs hand over.

    Args:
        screen: what a person watches.
        stopped: signals that asked the sweep to stop; more may come.
        read: a config -> its data.
        begin: lets a job run until it waits for its run, or has ended.
        supply: of jobs that take the places of those that have left a stack.
    """

    def __init__(
        self,
        screen: Screen,
        stopped: list[int],
        read: groups.Reader,
        begin: Callable[[Job], None],
        supply: Supply,
    ):
        self.screen, self.stopped, self.read = screen, stopped, read
        self.begin, self.supply = begin, supply
        self.waiting: dict[int, Job] = {}  # handed out by the supply, of no stack under way
        self.returns: dict[int, JobReturn] = {}
        self._mirror = Mirror()
        self._trackers: list[Remote] = []

    def run(self, jobs: list[Job]) -> None:
        """Run jobs that train together, from their beginning to their end."""
        jobs = self._begun(jobs)
        if jobs:
            with machine(jobs[0].config["training"]) as device:
                sessions = self._opened(jobs, device)
                places: dict[int, dict[Job, Session]] = {}  # a stack stands at one batch
                for job, session in sessions.items():
                    places.setdefault(session.run.progress.batch, {})[job] = session
                for group in places.values():
                    self._train(group)

    def wait(self) -> None:
        """Wait until W&B has everything."""
        lines = [tracker.wait() for tracker in self._trackers]
        self._mirror.close()
        self.screen.mirrored([line for line in lines if line])

    def _begun(self, jobs: list[Job]) -> list[Job]:
        """Begin jobs; return those that wait for their runs to be trained."""
        for job in jobs:
            self.begin(job)
            if not job.waiting:
                self._ended(job)
        return [job for job in jobs if job.waiting]

    def _opened(
        self, jobs: list[Job], device: torch.device, data: Data | None = None
    ) -> dict[Job, Session]:
        """Return each job's session; one that cannot be opened ends its job.

        Args:
            data: on the device already; one copy serves all.
        """
        sessions: dict[Job, Session] = {}
        for job in jobs:
            try:
                with job.environment():
                    data = data or self.read(job.config)
                    track = self._mirror.tracker
                    session = Session(job.config, job.folder, device, job.about, data, track)
            except Exception as error:
                self._end(job, error)
            else:
                sessions[job], data = session, session.run.data
                self._trackers.append(session.tracker)
        return sessions

    def _train(self, sessions: dict[Job, Session]) -> None:
        """Train several runs as a stack; one alone, and where a stack fails, sequentially."""
        if len(sessions) == 1:
            return self._alone(sessions)
        try:
            return self._together(sessions)
        except CannotStack as error:
            self.screen.note(f"{len(sessions)} runs train sequentially: {error}")
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
        self.screen.note(f"{len(left)} runs begin again, sequentially: {fault}")
        return self._alone(left)

    def _alone(self, sessions: dict[Job, Session]) -> None:
        for job, session in sessions.items():
            if self.stopped:
                self._end(job, session.close("interrupted", None, self.stopped[0]))
                continue
            try:
                with job.environment(), session.fitting(Console(quiet=True)) as face:
                    for metrics in loop.fit(session.run, face.step):
                        session.epoch(metrics)
                        prune([session])
                        session.save_when_due()
                answer = session.outcome
            except Exception as error:
                answer = error
            if session.outcome and session.outcome.status == "interrupted":
                self.stopped.append(session.outcome.exit_code - 128)
            self.screen.steps(session.run.progress.step)
            self._end(job, answer)

    def _together(self, sessions: dict[Job, Session]) -> None:
        by_run = {session.run: (job, session) for job, session in sessions.items()}
        saved = SaveTimer()
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
            new = {} if self.stopped else self.supply.more(places)
            fit = {
                n: job for n, job in new.items() if job.config and joins(job.config, like.config)
            }
            self.waiting |= {n: job for n, job in new.items() if n not in fit}
            steps = steps_per_epoch(len(first.data.train), first.training)
            epochs = sum(job.config["training"]["epochs"] for job in fit.values())
            self.screen.add(new, steps * epochs)
            opened = self._opened(self._begun(list(fit.values())), first.device, first.data)
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
        self.supply.ended(job.number, job.returned)


def joins(config: dict, other: dict) -> bool:
    """Return whether a run can take a place in the stack of another."""
    whole = config["resume"] is None  # one that goes on may stand in the middle of an epoch
    return whole and not groups.alone(config) and groups.shared(config) == groups.shared(other)


class SaveTimer:
    """Says when a stack's checkpoints are due: not too often for what they take."""

    def __init__(self) -> None:
        self._last, self._took = time.perf_counter(), 0.0

    def due(self) -> bool:
        """Return whether it is time."""
        pause = max(SAVE_SECONDS, SAVE_SHARE * self._took)
        return time.perf_counter() - self._last > pause

    def __enter__(self) -> None:
        self._last = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        self._last, self._took = now, now - self._last
