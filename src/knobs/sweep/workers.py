"""Jobs that Hydra's own launchers run: their folders are held, their processes end with this one.

`basic` runs them here, one after the other. `joblib` runs them in processes of its own, which take
no signal from the terminal: they are told here, so that each keeps a checkpoint, and they see by
themselves when this process has ended.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins import basic_launcher
from hydra.core import utils
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from knobs import ledger
from knobs.config import command  # noqa: F401 - in a worker too, Hydra writes as knobs does
from knobs.errors import SWEEP_FAILED, UserError
from knobs.processes import POLL, end_with, orphaned
from knobs.signals import STOPPED, STOPPING

received: list[int] = []  # signals that asked this process to stop, while its jobs run
_in_job: list[bool] = []  # of a worker: whether one is under way


class WorkerDied(UserError):
    """A process of joblib's that was ended from outside; the others ended with it."""

    exit_code = SWEEP_FAILED


def launch(launcher: Launcher, lines: Sequence[list[str]], first: int) -> Sequence[JobReturn]:
    """Run jobs by a launcher of Hydra's, each with its folder held before Hydra writes into it.

    Args:
        lines: the overrides of each job.
        first: the number of the first.

    Raises:
        SystemExit: a signal ended it. WorkerDied: a process of it died.
    """
    basic_launcher.run_job = run_job
    if "joblib" not in type(launcher).__module__:
        return launcher.launch(lines, initial_job_idx=first)
    from hydra_plugins.hydra_joblib_launcher import _core
    from joblib.externals.loky.process_executor import BrokenProcessPool

    _core.execute_job = functools.partial(execute_job, os.getpid())
    with _signals_told():
        try:
            returns = launcher.launch(lines, initial_job_idx=first)
        except BrokenProcessPool as error:
            if received:
                raise SystemExit(128 + received[0]) from None
            why = "a process of the sweep was ended from outside, for want of memory perhaps"
            raise WorkerDied(why) from error
        ended = any(isinstance(r._return_value, SystemExit) for r in returns)
        if received and not ended:  # it came as the last of them ended
            raise SystemExit(128 + received[0])
    return returns


def run_job(*, config: DictConfig, **rest: Any) -> JobReturn:
    """Do what Hydra's run_job does, with the job's folder held; one held by others fails the job.

    Args:
        config: composed.
        rest: as Hydra's run_job takes it.
    """
    folder = Path(str(config.hydra.sweep.dir), str(config.hydra.job.num))
    try:
        with ledger.held_run(folder):
            return utils.run_job(config=config, **rest)
    except UserError as error:
        return failed(config, error)


def failed(config: DictConfig, error: BaseException) -> JobReturn:
    """Return what comes of a job that did not end by itself."""
    returned = JobReturn(overrides=list(config.hydra.overrides.task), hydra_cfg=config)
    returned.return_value, returned.status = error, JobStatus.FAILED
    return returned


def execute_job(
    parent: int,
    number: int,
    overrides: Sequence[str],
    context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    singletons: dict[Any, Any],
) -> JobReturn:
    """Run one job in a process of joblib's, or here where joblib has one process alone.

    Args:
        parent: the id of the process that the sweep runs in.
        number, overrides, context, config, task_function, singletons: as joblib's launcher hands
            them over.
    """
    alone = os.getpid() == parent
    if not alone:
        _become_worker(parent)
    _in_job.append(not alone)
    composed = config
    try:
        if received:
            raise SystemExit(128 + received[0])
        utils.setup_globals()
        Singleton.set_state(singletons)
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.num = number
            composed.hydra.job.id = f"{composed.hydra.job.name}_{number}"
        HydraConfig.instance().set_config(composed)
        return run_job(
            config=composed,
            hydra_context=context,
            task_function=task_function,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    except (SystemExit, KeyboardInterrupt) as error:
        code = error.code if isinstance(error, SystemExit) else 128 + signal.SIGINT
        if code in STOPPED and not received:
            received.append(code - 128)  # its run took the signal; no other one begins
        return failed(composed, SystemExit(code))
    finally:
        _in_job.pop()
        if not alone and orphaned(parent):
            os._exit(128 + signal.SIGTERM)


@functools.cache
def _become_worker(parent: int) -> None:
    """Let this process end with its parent, and take signals from it alone."""
    for number in STOPPING:
        signal.signal(number, _stop)
    end_with(parent, signal.SIGTERM)
    if hasattr(os, "setsid"):
        os.setsid()  # last: the parent sees by it that its signals are taken


def _stop(number: int, _frame: object) -> None:
    """Note a signal; end a job under way whose run has not begun, and so does not listen."""
    received.append(number)
    if _in_job:
        raise SystemExit(128 + number)


@contextlib.contextmanager
def _signals_told() -> Iterator[None]:
    """Tell joblib's processes the signals that come, in place of ending before they have."""
    received.clear()
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in STOPPING}
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(done,), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(done: threading.Event) -> None:
    """Hand each signal to each process once, when it has become a worker."""
    told: Counter[int] = Counter()
    while not done.wait(POLL / 5):
        for child in multiprocessing.active_children() if received else ():
            with contextlib.suppress(OSError):
                if told[child.pid] < len(received) and os.getsid(child.pid) == child.pid:
                    os.kill(child.pid, received[told[child.pid]])
                    told[child.pid] += 1
