"""A worker: runs one group of a sweep's jobs as one machine runs all, and may be started again.

It is handed three texts, and reads the rest. What is settled it leaves, what has a checkpoint goes
on, the rest begins: so a retry, a requeue and the same command again are all one. Its answer is the
records of its runs. It writes into its runs' folders, and SWEEP/workers/N*, which are its own.

Nothing of knobs that reads KNOBS_ALLOW is imported before the group has said what that is.
"""

import contextlib
import functools
import hashlib
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from knobs.errors import ConfigError, UserError, first_line, for_a_person
from knobs.storage import untied
from knobs.workers.groups import (
    DRIVER,
    WORKERS,
    Group,
    Refused,
    Task,
    own_folder,
    read_group,
    told_path,
)

PATIENCE = 120.0  # seconds for the locks of a node that has died: NFS frees them after 90
POLL = 0.5  # seconds between two looks at them


def work(folder: str, group: str, token: str) -> None:
    """Run a group of jobs.

    Args:
        folder: the sweep's. group: its number. token: the SHA-256 of its file.

    Raises:
        StorageError: its file cannot be read: the folder is not shared with this machine.
        Refused: the file is another one than the driver meant.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        with contextlib.suppress(OSError):
            os.setsid()  # Ctrl-C is the driver's: of two signals the second one ends at once
    place = Path(folder)
    about, file = read_group(place, group, token), told_path(place, group)
    if "knobs.targets" in sys.modules and os.environ.get("KNOBS_ALLOW", "") != about.allow:
        raise Refused(f"{file}: was written under another KNOBS_ALLOW than this process began with")
    os.environ["KNOBS_ALLOW"] = about.allow
    from knobs.workers import wire

    lock = untied(place / WORKERS / DRIVER)
    wire.tell(file, {"begins": {"pid": os.getpid(), "host": platform.node(), "lock": lock}})
    ended = 0
    try:
        with _as_the_driver(about), _preempted(own_folder(place, group)):
            ended = _run(place, group, about)
    except Exception as error:
        fault = for_a_person(error)
        if not isinstance(fault, UserError):
            traceback.print_exc()  # in the engine's log of this worker
        wire.tell(file, {"refused": f"{type(fault).__name__}: {first_line(fault)}"})
    wire.tell(file, {"left": ended})


def again(folder: str, group: str, token: str) -> Any:
    """Return what submitit sends in place of a worker that is preempted or out of time."""
    from submitit.helpers import DelayedSubmission

    return DelayedSubmission(work, folder, group, token)


work.checkpoint = again  # type: ignore[attr-defined]  # which submitit asks the function for


@contextlib.contextmanager
def _preempted(notes: Path) -> Iterator[None]:
    """End this process at once where submitit is told that its job is preempted or out of time.

    It queues the job again, by a handler that raises SystemExit, which a run that is under way
    would take for a fault of its own. No run is to blame for this end: its notes go.
    """
    number = getattr(signal, "SIGUSR2", None)
    before = number and signal.getsignal(number)

    def end(_number: int, frame: object) -> None:
        try:
            before(_number, frame)
            code = 1
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else 1
        for path in notes.glob("under-way-*.json"):
            path.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255 if isinstance(code, int) else 1)

    if not callable(before):
        yield
        return
    signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _as_the_driver(about: Group) -> Iterator[None]:
    """Enter the driver's directory, with this worker's cores and graphics card.

    What the process had before is there again afterwards: it may be the driver's own.
    """
    from hydra.core.singleton import Singleton

    from knobs.config import command

    environment, directory = dict(os.environ), os.getcwd()
    state, last = Singleton.get_state(), dict(vars(command.LAST))
    os.environ.setdefault("OMP_NUM_THREADS", str(about.threads))
    if not about.gpus:  # several stacks on one are never wanted
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for entry in (str(command.CONF.parent), about.directory):  # of a user's own code
        if entry not in sys.path:
            sys.path.append(entry)
    try:
        os.chdir(about.directory)
        yield
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environment)
        Singleton.set_state(state)
        vars(command.LAST).update(last)


def _run(folder: Path, name: str, group: Group) -> int:
    """Run what is left of a group; return the signal that ended it, 0 if none did."""
    from hydra.core.utils import configure_log

    from knobs.search import pruning
    from knobs.signals import STOPPED
    from knobs.sweep import deaths
    from knobs.sweep.grid import exit_code
    from knobs.sweep.launch import launch
    from knobs.training.run import start
    from knobs.workers import wire

    file, notes = told_path(folder, name), own_folder(folder, name)
    context, master = _composed(folder, group)
    configure_log(master.hydra.hydra_logging, master.hydra.verbose)
    jobs = _left(folder, name, group, context, master)
    notes.mkdir(0o755, exist_ok=True)
    for line in deaths.notice(folder, notes):
        wire.tell(file, {"note": line})
    for number in deaths.condemned(folder, jobs, notes):
        del jobs[number]
        wire.tell(file, {"ended": number, "status": "failed", "fault": deaths.ALONE})
    if not jobs:
        return 0
    wait_for_locks([folder / str(number) for number in jobs])
    face = functools.partial(wire.Wire, file)
    with pruning.written_by(name):
        out = wire.console(file)
        returns = launch(jobs, context, start, master, group.width, face=face, notes=notes, out=out)
    deaths.forget(folder, notes)
    return next((code - 128 for code in map(exit_code, returns) if code in STOPPED), 0)


def _composed(folder: Path, group: Group) -> tuple[Any, Any]:
    """Compose and check the jobs of a group; return Hydra's context and the sweep's config.

    Raises:
        ConfigError: naming all faults. The driver has found none: this is another machine, or the
            files have changed since.
    """
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import HydraContext, RunMode

    from knobs.config import command
    from knobs.shell import literal, quoted

    lines = [line for line in group.hydra if not line.startswith("hydra.sweep.dir=")]
    lines.append(f"hydra.sweep.dir={quoted(literal(str(folder)))}")
    folders = [Path(path) for path in group.folders]
    GlobalHydra.instance().clear()
    jobs = [[*lines, *task.overrides] for task in group.jobs]
    if faults := command.check_jobs(jobs, folders, group.config_name):
        raise ConfigError("; ".join(faults))
    search = create_config_search_path(str(folders[0]))
    for own in folders[1:]:
        anchor = SearchPathQuery(provider="schema")
        search.prepend(provider="command-line", path=f"file://{own}", anchor=anchor)
    hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search)
    master = hydra.compose_config(
        config_name=group.config_name,
        # The driver sees the runs of all groups, and stops where the first ones fail alike.
        overrides=[*lines, "keep_going=true"],
        run_mode=RunMode.MULTIRUN,
        with_log_configuration=False,
    )
    return HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(master)), master


def _left(folder: Path, name: str, group: Group, context: Any, master: Any) -> dict[int, Any]:
    """Return the jobs that are to run, and tell how the others have ended."""
    from knobs import ledger
    from knobs.sweep import grid
    from knobs.workers import wire

    told, file = wire.Told(), told_path(folder, name)
    for _ in told.read(file):
        pass
    jobs = {}
    for task in group.jobs:
        run = folder / str(task.number)
        job = grid.job(task.overrides, context, master, task.number)
        job.label, job.differs = task.label, task.differs
        over = job.config is None and task.number in told.ended  # which leaves no record
        left = None if over else grid.renewed(job, run, retry=fails_again(run, task))
        if left:
            jobs[task.number] = left
        elif not over:
            how = {"status": ledger.status(run), "fault": ""}
            wire.tell(file, {"ended": task.number, **how})
    return jobs


def fails_again(run: Path, task: Task) -> bool:
    """Return whether a run that has failed is the failure that the driver wants run again."""
    return bool(task.before) and summary_digest(run) == task.before


def summary_digest(run: Path) -> str:
    """Return the SHA-256 of a run's summary; empty where it has none."""
    from knobs.record import SUMMARY

    try:
        return hashlib.sha256((run / SUMMARY).read_bytes()).hexdigest()
    except OSError:
        return ""


def wait_for_locks(runs: Sequence[Path]) -> None:
    """Wait for runs that another process holds, PATIENCE at most: its node may have died."""
    from knobs.record import held

    latest = time.monotonic() + PATIENCE
    for run in runs:
        while held(run) and time.monotonic() < latest:
            time.sleep(POLL)
