"""A sweep's driver: cuts jobs into groups, sends them to workers, follows, sends again. No torch.

It trains and measures nothing. What it knows of a run is what the run has recorded; what workers
tell (wire.py) is for the screen. It alone writes groups/N.json, and workers/N.json, which says
where a group was sent: so that the same command, after a death of the driver, follows what is
under way instead of sending it a second time.
"""

import os
import platform
import shlex
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from knobs import ledger
from knobs.config import command
from knobs.errors import ConfigError, first_line
from knobs.record import ended
from knobs.signals import Received, stop_signals
from knobs.storage import Lock, make_folder
from knobs.sweep import deaths, failing
from knobs.sweep.grid import Supply
from knobs.sweep.jobs import Job
from knobs.sweep.screen import Screen, labels
from knobs.sweep.stackable import alone, shared
from knobs.words import count
from knobs.workers import ends, groups, wire
from knobs.workers.engine import Engine, Options
from knobs.workers.groups import Group, Task
from knobs.workers.worker import summary_digest

LOOK = 0.5  # seconds between two looks at the workers
TRIES = 3  # times that a group is sent without any of its runs coming further
MANY = 8  # workers, above which their runs are uploaded afterwards: W&B limits its rates
ASKS = 4  # groups of a search's width: what one would train at once is asked in so many parts
DETACHING = ("SIGHUP", "SIGTERM", "SIGUSR1")  # after which the workers go on; SIGINT stops them


@dataclass
class Sent:
    """A group under way, or to be sent.

    Args:
        name: of its files. numbers: of its jobs.
        id: of the engine's job; empty where it was not sent.
        tries: how many times it was sent since one of its runs came further. mark: where they were.
    """

    name: str
    numbers: list[int]
    id: str = ""
    tries: int = 0
    mark: tuple = ()


def launch(
    jobs: Mapping[int, Job],
    engine: Engine,
    options: Options,
    master: DictConfig,
    supply: Supply | None = None,
) -> list[JobReturn]:
    """Run jobs on an engine's workers; return how each of them ended.

    Raises:
        ConfigError: jobs that are not train.py's, or options that do not go together.
        LockedError: another driver follows workers of this sweep.
        Halted: the first runs failed alike, and `master` has no keep_going=true.
    """
    if not command.LAST.covers(master):
        raise ConfigError(f"hydra/launcher={engine.name}: runs jobs of knobs' train.py alone")
    if supply and not options.wait:
        raise ConfigError(
            "hydra.launcher.wait=false: a search asks by what came out; leave wait=false out"
        )
    folder = Path(str(master.hydra.sweep.dir)).absolute()
    make_folder(folder / groups.WORKERS)
    following = "workers of this sweep are followed by {who}"
    with (
        Lock(folder / groups.WORKERS / groups.DRIVER, following),
        stop_signals() as stopped,
        Screen(labels(dict(jobs)), [], supply or Supply()) as screen,
    ):
        driver = Driver(folder, engine, options, master, screen, stopped, supply)
        driver.run(dict(jobs))
    return [returned for _, returned in sorted(driver.returns.items())]


@dataclass
class Driver:
    """The jobs of one launch, followed to their ends.

    Args:
        folder: the sweep's.
        engine, options, master, supply: as `launch` takes them.
        screen: what a person watches. stopped: signals that asked to stop.
        jobs: by number, those of the supply too. returns: of those that have ended.
        waiting: groups to be sent. under_way: job of the engine -> its group.
        failures: what failed each job that has ended, None where nothing did, in that order.
        retried: runs that had failed before, and run again -> the SHA-256 of their summaries then.
        halted: why no further group is sent: what the first failures say.
        ends: whether no further group is sent, and those under way were asked to end.
    """

    folder: Path
    engine: Engine
    options: Options
    master: DictConfig
    screen: Screen
    stopped: Received
    supply: Supply | None
    jobs: dict[int, Job] = field(default_factory=dict)
    returns: dict[int, JobReturn] = field(default_factory=dict)
    waiting: deque[Sent] = field(default_factory=deque)
    under_way: dict[str, Sent] = field(default_factory=dict)
    failures: list[Exception | None] = field(default_factory=list)
    retried: dict[int, str] = field(default_factory=dict)
    halted: str = ""
    ends: bool = False
    _size: int = 1  # jobs of the largest group so far

    def run(self, jobs: dict[int, Job]) -> None:
        """Send jobs, and follow them until all have ended, or a signal says to leave.

        Raises:
            Halted: the first of them failed alike. Interrupted: by a signal, a search.
        """
        self.follow = wire.Follow(self.folder, self.screen, self.jobs)
        self.take(jobs)
        if not self.options.wait:
            self._refuse_a_queue()
        self._send()
        if not self.options.wait:
            return self._detach("submitted")
        while (self.waiting or self.under_way) and not self._leaves():
            if ending := [job for job, sent in self.under_way.items() if self._cancelled(sent)]:
                self.engine.stop(ending)
            done = self.engine.ended(list(self.under_way), LOOK)
            self._look()
            for job, fault in done.items():
                self._ended(self.under_way.pop(job), fault)
            if self.supply and not self.ends and (free := self._free()):
                self.take(self.supply.more(free))
            self._send()
        left = sorted(self.jobs.keys() - self.returns.keys())
        if self.halted and not self.stopped:
            returns = [*self.returns.values()]
            raise failing.Halted(self.halted, len(self.failures), len(left), returns)
        for number in left:
            self._note(number, ends.interrupted(self.jobs[number], self.stopped))
        if self.stopped and self.supply:  # which may have had more
            raise failing.Interrupted(self.stopped[0], [*self.returns.values()])
        return None

    def _refuse_a_queue(self) -> None:
        """Refuse to submit and end where this process would have to send the rest later."""
        room, many = self.engine.room, len(self.waiting)
        if (room is not None and len(self.under_way) + many > room) or not self.engine.keeps:
            raise ConfigError(
                f"hydra.launcher.wait=false: {self.engine.name} keeps no queue for {many} groups; "
                f"hydra.launcher.workers={many} begins all at once, or leave wait=false out"
            )

    # ------------------------------------------------------------------ to workers
    def take(self, jobs: dict[int, Job]) -> None:
        """Take jobs over: those of groups that are there already, and new ones in new groups."""
        if not jobs:
            return
        if self.jobs:
            self.screen.add(labels(jobs), 0)
        self.jobs |= jobs
        failed = [n for n in jobs if ledger.status(self._run(n)) == "failed"]  # they run again
        self.retried |= {number: summary_digest(self._run(number)) for number in failed}
        known = self._known(jobs)
        here = {number for sent in known for number in sent.numbers}
        rest = {n: _kind(n, job) for n, job in jobs.items() if n not in here}
        first = 1 + max(map(int, groups.names(self.folder)), default=-1)
        cut = groups.cut(rest, self.options.workers, self._most()) if rest else []
        new = [Sent(f"{first + i:05d}", numbers) for i, numbers in enumerate(cut)]
        for sent in new:
            self._write(sent)  # which takes its number
        self._size = max([self._size, *map(len, cut)])
        self.under_way |= {sent.id: sent for sent in known if sent.id}
        self.waiting += [sent for sent in [*known, *new] if not sent.id]
        going = sum(bool(sent.id) for sent in known)
        if going:
            self.screen.note(f"{count(going, 'group')} of before under way: followed")
        mirrored = any(_mirrors(job) for job in jobs.values())
        if new and mirrored and self.options.workers > MANY:
            self._say_once(
                f"more than {MANY} workers: runs are mirrored offline, as W&B limits its rates; "
                f"at the end: make sync SWEEP={shlex.quote(str(self.folder))}"
            )
        if new:
            runs, many = count(len(rest), "run"), count(len(new), "group")
            self.screen.note(f"{runs} in {many} for {count(self.options.workers, 'worker')}")

    def _known(self, jobs: Mapping[int, Job]) -> list[Sent]:
        """Return the groups of before that have some of these jobs; one under way has its id.

        Raises:
            ConfigError: another engine has one, which cannot be asked about it from here.
        """
        there = {name: groups.where_sent(self.folder, name) for name in groups.names(self.folder)}
        for name, (engine, id_, over) in there.items():
            numbers = groups.numbers_of(self.folder, name)
            if id_ and not over and engine != self.engine.name and jobs.keys() & {*numbers}:
                sweep = str(self.folder)
                raise ConfigError(
                    f"{sweep}: group {int(name)} was sent by {engine} (job {id_}); go on with that "
                    f"launcher, or end it first: python -m knobs cancel {sweep}"
                )
        ids = [id_ for _, id_, over in there.values() if id_ and not over]
        alive = self.engine.alive(ids) if ids else set()
        found, taken = [], {*self.returns, *(n for s in self.under_way.values() for n in s.numbers)}
        for name, (_, id_, over) in reversed(there.items()):  # the last that has a run counts
            numbers = [n for n in groups.numbers_of(self.folder, name) if n in jobs]
            if numbers := [n for n in numbers if n not in taken]:
                found.append(Sent(name, numbers, id_ if id_ in alive and not over else ""))
                if not found[-1].id:
                    groups.cancelled(self.folder, name).unlink(missing_ok=True)
                taken |= {*numbers}
        return found[::-1]

    def _write(self, sent: Sent) -> str:
        """Write a group's file; return its token."""
        lines = OmegaConf.to_container(self.master.hydra.overrides.hydra)
        composer, options = command.LAST.composer, self.options
        offline = "tracking.mode=offline" if options.workers > MANY else ""
        tasks = []
        for number in sent.numbers:
            job = self.jobs[number]
            own = [line for line in job.overrides if not line.startswith("resume=")]
            if offline and _mirrors(job):
                own.append(offline)
            before = self.retried.get(number, "")
            tasks.append(Task(number, own, job.label, job.differs, before))
        group = Group(
            tasks,
            hydra=[str(line) for line in lines if line != command.MULTIRUN],
            folders=[str(folder) for folder in composer.folders],
            config_name=self.master.hydra.job.config_name,
            directory=os.getcwd(),
            allow=os.environ.get("KNOBS_ALLOW", ""),
            width=options.width,
            gpus=options.gpus,
            threads=options.cpus,
        )
        return groups.write_group(self.folder, sent.name, group)

    def _send(self) -> None:
        """Send the groups that wait, as many as the engine has room for."""
        self.waiting = deque(sent for sent in self.waiting if not self._cancelled(sent))
        room = len(self.waiting)
        if self.engine.room is not None:
            room = min(room, self.engine.room - len(self.under_way))
        sending = [self.waiting.popleft() for _ in range(max(0, room))]
        if not sending:
            return
        for sent in sending:
            sent.mark = self._mark(sent)
            self.follow.skip(sent.name)
            groups.note_sent(self.folder, sent.name, self.engine.name, "", sent.numbers)
        tokens = [(sent.name, self._write(sent)) for sent in sending]
        for sent, job in zip(sending, self.engine.start(self.folder, tokens), strict=True):
            sent.id, sent.tries = job, sent.tries + 1
            groups.note_sent(self.folder, sent.name, self.engine.name, job, sent.numbers)
            self.under_way[job] = sent

    def _most(self) -> int | None:
        """Return the most jobs of a group: of a search few, as it asks anew by what came out."""
        width = OmegaConf.select(self.master, "search.width") if self.supply else None
        return width and max(1, width // ASKS)

    def _free(self) -> int:
        """Return how many jobs more the workers could be given."""
        return self._size * max(0, self.options.workers - len(self.under_way) - len(self.waiting))

    # ------------------------------------------------------------------ from workers
    def _look(self) -> None:
        """Show what workers have told, and note the runs that have ended."""
        while self.engine.said:
            self.screen.note(self.engine.said.pop(0))
        for number, status, fault in self.follow.look([s.name for s in self.under_way.values()]):
            if number in self.jobs and number not in self.returns:
                if status == "failed" and not fault.startswith("LockedError"):
                    self._note(number, ends.failed(self.jobs[number], fault, self._run(number)))
                elif ledger.settled(status, retry_failed=False):
                    self._note(number, ends.settled(self.jobs[number], self._run(number)))
        locks = {told.lock for told in self.follow.told.values() if told.begun}
        if f"process {os.getpid()} on {platform.node()}" in locks:
            self._say_once(
                "locks of this file system do not hold between nodes; each file has one writer, "
                "and a second start of this command is not noticed: start none"
            )

    def _ended(self, sent: Sent, fault: str) -> None:
        """Note how the runs of a group ended whose job has; send it again where some are left."""
        groups.note_sent(self.folder, sent.name, self.engine.name, sent.id, sent.numbers, over=True)
        told, id_, sent.id = self.follow.told.get(sent.name, wire.Told()), sent.id, ""
        for number in sent.numbers:
            if number not in self.returns and self._is_over(number):
                self._note(number, ends.settled(self.jobs[number], self._run(number)))
        left = [number for number in sent.numbers if number not in self.returns]
        if told.left and self.engine.inside:
            self.stopped.append(told.left)
        if not left or self.ends or self._cancelled(sent) or self.stopped:
            return
        if told.refused:
            for number in left:
                self._note(number, ends.failed(self.jobs[number], told.refused, self._run(number)))
            return
        why = fault or ("its worker was asked to end" if told.left else "its worker was lost")
        if not told.begun:
            why += f"; it had not begun: do all nodes see {self.folder} under this name?"
        if self._mark(sent) != sent.mark:
            sent.tries = 0
        if sent.tries < TRIES:
            self.screen.note(f"group {int(sent.name)} (job {id_}): {why}; sent again")
            self.waiting.append(Sent(sent.name, left, tries=sent.tries))
            return
        for number in left:
            self._note(number, ends.lost(self.jobs[number], f"{why}, {TRIES} times in a row"))

    def _note(self, number: int, returned: JobReturn) -> None:
        """Note that a job has ended, and stop the sweep where the first ones failed alike."""
        self.returns[number] = returned
        error = returned._return_value
        if not isinstance(error, SystemExit):
            self.failures.append(failing.failure(returned))
            end = ended(self._run(number))
            status = "failed" if self.failures[-1] else end.status if end else "finished"
            self.screen.ended(
                number, status, f"{ends.kind_of(error)}: {error}" if status == "failed" else ""
            )
        if self.supply:
            self.supply.ended(number, returned)
        keep_going = bool(self.master.get("keep_going"))
        if not keep_going and not self.halted and failing.alike(self.failures):
            self.halted = first_line(self.failures[0])
            self._stop()

    # ------------------------------------------------------------------ signals
    def _leaves(self) -> bool:
        """Heed a signal: Ctrl-C ends the workers too, others this process alone, where it can."""
        if not self.stopped or self.ends:
            return False
        if self.engine.keeps and signal.Signals(self.stopped[0]).name in DETACHING:
            self._detach("the workers go on")
            return True
        self.screen.note("the workers are asked to save and to end; again: at once")
        self._stop()
        return False

    def _stop(self) -> None:
        self.ends = True
        self.waiting.clear()
        self.engine.stop(list(self.under_way))

    def _detach(self, what: str) -> None:
        sweep = str(self.folder)
        self.screen.note(f"{what}: the same command follows them and reports at the end;")
        self.screen.note(f"  python -m knobs status {sweep}")
        self.screen.note(f"  python -m knobs cancel {sweep}")

    # ------------------------------------------------------------------
    def _run(self, number: int) -> Path:
        return self.folder / str(number)

    def _is_over(self, number: int) -> bool:
        """Return whether a run has ended by its record, which is not that of a failure before."""
        run = self._run(number)
        anew = number in self.retried and summary_digest(run) == self.retried[number]
        return ledger.settled(ledger.status(run), retry_failed=False) and not anew

    def _cancelled(self, sent: Sent) -> bool:
        return groups.cancelled(self.folder, sent.name).exists()

    def _mark(self, sent: Sent) -> tuple:
        """Return how far a group has come: what changes with each step forward of its runs."""
        runs = [self._run(number) for number in sent.numbers]
        suspects = groups.own_folder(self.folder, sent.name) / deaths.SUSPECTS
        blamed = suspects.read_bytes() if suspects.is_file() else b""
        return (*((ledger.status(run), deaths.mark_of(run)) for run in runs), blamed)

    def _say_once(self, line: str) -> None:
        if line not in self.follow.said:
            self.follow.said.add(line)
            self.screen.note(line)


def _kind(number: int, job: Job) -> str:
    """Return what the jobs of a stack have in common, as a text to compare."""
    return f"{alone(job.config)} {shared(job.config)}" if job.config else str(number)


def _mirrors(job: Job) -> bool:
    """Return whether a job's run is shown by a server as it trains."""
    return bool(job.config) and job.config["tracking"].get("mode") in ("auto", "online")
