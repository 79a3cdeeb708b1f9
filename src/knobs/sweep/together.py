"""A stack of a sweep: its rows trained together, and what becomes of each."""

import time
from typing import Any

from knobs import targets
from knobs.data import Data
from knobs.errors import first_line, making
from knobs.record import BROKEN, read_config, read_summary
from knobs.signals import exits
from knobs.stack import loop as stack
from knobs.stack.optimizers import in_slices
from knobs.stack.stand_ins import Place, StandIns, stand_in
from knobs.sweep import groups
from knobs.sweep.jobs import Job
from knobs.sweep.screen import labels
from knobs.sweep.stackable import alone, shared
from knobs.training.session import SAVE_SECONDS, SAVE_SHARE, Session, later, prune
from knobs.training.setup import assemble, steps_per_epoch
from knobs.training.state import Run

Row = tuple[Job, Session]


class Together:
    """Jobs whose runs train as one stack, each as if it were alone.

    Args:
        launch: the sweep under way, a launch.Launch, which makes these.
        rows: jobs with their sessions; those that join the stack are added.
    """

    def __init__(self, launch: Any, rows: list[Row]):
        self.launch, self.rows = launch, rows
        self.by_run = {session.run: (job, session) for job, session in rows}
        self.unsaved: dict[Run, Exception] = {}  # fails that run alone, at its next epoch
        self.due = time.perf_counter() + SAVE_SECONDS
        self.within = self.due  # that of the next checkpoint between two steps
        # A run to time the stack by, until any row has left.
        self.first, self.left = rows[0][1].run, False
        self.before = [self.first.progress.train_seconds, self.first.progress.step]

    def train(self) -> None:
        """Train until every run has ended."""
        runs, stand_ins = self._as_before() or (in_slices(list(self.by_run)), {})
        if not stand_ins:
            begun = [(self.by_run[run][0].number, run.progress.epoch) for run in runs]
            self.launch.stacks.begun(begun)
        hooks = self.on_epoch, self.on_end, self.watch, self.on_round, self.judge, self.refill
        with making(f"a stack of {len(runs)} runs", "a smaller hydra.launcher.width may fit"):
            stack.fit(runs, *hooks, stand_ins)

    def _as_before(self) -> tuple[list[Run], StandIns] | None:
        """Return the rows of a stack that is resumed in its order, with stand-ins where needed.

        Returns:
            None where it cannot be as before: then it is a new one.
        """
        here = {job.number: session.run for job, session in self.rows}
        before = self.launch.stacks.rows(next(iter(here)))
        if not here.keys() <= before.keys():
            return None
        rounds = {n: (r.progress.epoch - before[n], r.progress.batch) for n, r in here.items()}
        start = min(rounds.values())
        if start < (0, 0):
            return None
        steps = steps_per_epoch(len(self.first.data.train), self.first.training)
        runs: list[Run] = []
        stand_ins: StandIns = {}
        for number, epoch in before.items():
            run = here.get(number)
            if run and rounds[number] == start:
                runs.append(run)
                continue
            leaves = rounds[number] if run else (self._rounds(number, epoch, steps), 0)
            if leaves <= start:
                continue
            if other := self._assembled(number, run):
                runs.append(stand_in(other, epoch + start[0], start[1], steps))
                stand_ins[other] = Place(epoch + leaves[0], leaves[1], run)
            elif run:
                return None
        return runs, stand_ins

    def _rounds(self, number: int, epoch: int, steps: int) -> int:
        """Return after how many epochs of the stack a run of it has ended.

        Args:
            epoch: those that it had behind it. steps: of an epoch.
        """
        try:
            made = read_summary(self.launch.folder / str(number))["steps"]
            return -(-made // steps) - epoch
        except (*BROKEN, KeyError, TypeError):
            return 0  # it has not ended: its folder is gone, or cannot be opened

    def _assembled(self, number: int, run: Run | None) -> Run | None:
        """Return a run of the stack at its first step, from its session or from its record."""
        try:
            if run:
                config = next(s.config for j, s in self.rows if j.number == number)
            else:
                config = read_config(self.launch.folder / str(number))["config"]
            if shared(config) != shared(self.rows[0][1].config) or any(targets.faults(config)):
                raise ValueError("its config is another now")
            data = run.data.origin if run else self.launch.read(config)
            with exits():
                return assemble(config | {"resume": None}, data, self.first.device)
        except Exception as error:
            why = f"run {number} cannot be put in its place ({first_line(error)})"
            self.launch.screen.note(f"{why}: the others go on without it, up to rounding as before")
            return None

    def on_epoch(self, run: Run, metrics: dict) -> None:
        """Write down an epoch of a run."""
        if run in self.unsaved:
            raise self.unsaved[run]
        job, session = self.by_run[run]
        with job.log():
            session.epoch(metrics)
        reached = run.progress
        if reached.best is not None:
            self.launch.screen.epoch(job.number, run.objective, reached.best, reached.best_epoch)
        seconds, steps = run.progress.train_seconds, run.progress.step
        if run is self.first and not self.left and steps > self.before[1]:
            self.launch.seen.append((seconds - self.before[0]) / (steps - self.before[1]))
            self.before[:] = seconds, steps

    def on_round(self, stacked: stack.Stack) -> None:
        """Keep the checkpoints of a stack when they are due."""
        began = time.perf_counter()
        if began <= min(self.due, self.within):
            return
        for run in stacked.release():
            if run in self.by_run and run not in stacked.broken:  # no stand-in
                try:
                    self.by_run[run][1].save()
                except Exception as error:
                    self.unsaved[run] = error
        self.within, now = later(began), time.perf_counter()
        self.due = now + max(SAVE_SECONDS, SAVE_SHARE * (now - began))

    def judge(self, going: list[Run]) -> None:
        """Let a pruner mark the runs that are to end."""
        prune([self.by_run[run][1] for run in going])

    def refill(self, places: int) -> list[Run]:
        """Return new runs of the supply that take places in the stack."""
        launch, config = self.launch, self.rows[0][1].config
        jobs = {} if launch.stopped or launch.alike() else launch.supply.more(places)
        joining = [job for job in jobs.values() if joins(job.config, config, launch.read)]
        launch.waiting |= {n: job for n, job in jobs.items() if job not in joining}
        steps = steps_per_epoch(len(self.first.data.train), self.first.training)
        epochs = sum(job.config["training"]["epochs"] for job in joining)
        placed: dict[str, Data] = {
            str(job.config["data"]): session.run.data.origin for job, session in self.rows
        }
        launch.screen.add(labels(jobs), steps * epochs)
        launch.under_way.join([job.number for job in joining])
        opened = launch.opened(launch.begun(joining), self.first.device, placed)
        self.rows.extend(opened)
        self.by_run |= {session.run: (job, session) for job, session in opened}
        return [session.run for _, session in opened]

    def on_end(self, run: Run, status: str, error: Exception | None) -> None:
        """Close the record of a run, and let its job end."""
        self.left = True
        job, session = self.by_run[run]
        try:
            with job.log(), exits():
                answer = session.close(status, error, *self.launch.stopped[:1])
        except Exception as fault:  # a full disk
            session.close("failed", fault)
            answer = error = fault
        self.launch.end(job, error if status == "failed" else answer)

    def watch(self, stacked: stack.Stack) -> None:
        """Show a step, and hand on that the sweep is to stop."""
        self.launch.screen.steps(len(stacked.runs))
        stacked.stop_requested = bool(self.launch.stopped)
        stacked.save_requested = time.perf_counter() > self.within


def joins(config: dict | None, other: dict, read: groups.Reader) -> bool:
    """Return whether a run can take a place in the stack of another.

    Args:
        read: a config -> its data.
    """
    if not config or config["resume"]:  # one that goes on may stand in the middle of an epoch
        return False
    return not alone(config) and len({*groups.together({0: config, 1: other}, read).values()}) == 1
