"""Workers as jobs of Slurm, or as processes of this machine, through submitit. Imports no torch.

What submitit pickles is a reference to worker.work and three texts, in a folder of this user alone;
nothing is unpickled here: whether a job has ended is asked of Slurm, and what came of it of the
records. `local` are processes of this machine, as many at once as there are workers; `debug` runs
each group in the driver's process, where a debugger can follow it.
"""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs.errors import ConfigError, UserError, first_line
from knobs.storage import make_folder
from knobs.workers.groups import WORKERS
from knobs.workers.worker import work

CLUSTERS = ("slurm", "local", "debug")
PLACE = "submitit"  # folder in SWEEP/workers: scripts, pickled references, logs
ASK = 5.0  # seconds between two questions to Slurm
SETTLES = 20.0  # seconds that Slurm may take to list a new job, and a file system to show a file
REQUEUES = 1000  # time limits that a job may run into; the next one goes on from checkpoints
FOREVER = 60 * 24 * 365  # minutes, of a process of this machine
WORD = re.compile(r"[\w.-]+(,[\w.-]+)*", re.ASCII)
LARGEST_ARRAY = 1001  # Slurm's default of MaxArraySize


class SlurmError(UserError):
    """Slurm refused a job."""

    exit_code = 2


@dataclass
class Submitit:
    """An engine of workers: engine.Engine says what each method does.

    Args:
        folder: the sweep's.
        cluster: one of CLUSTERS.
        workers: at once. cpus, gpus: of each. memory: GiB of each; None: what Slurm gives.
        time: minutes until Slurm ends a job, which is then queued again and goes on.
        partition: of Slurm; None: its default.
        setup: shell lines before a worker starts: modules, an environment.

    Raises:
        ConfigError: there is no Slurm here, no submitit, or options do not go together.
    """

    folder: Path
    cluster: str = "slurm"
    workers: int = 2
    cpus: int = 1
    gpus: int = 0
    memory: float | None = None
    time: int = 60
    partition: str | None = None
    setup: Sequence[str] = ()
    said: list[str] = field(default_factory=list)
    _jobs: dict[str, Any] = field(default_factory=dict)
    _sent: dict[str, float] = field(default_factory=dict)
    _asked: float = 0.0
    _listed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.cluster not in CLUSTERS:
            raise ConfigError(
                f"hydra.launcher.cluster={self.cluster}: must be one of {', '.join(CLUSTERS)}"
            )
        if self.cluster == "slurm" and not shutil.which("sbatch"):
            raise ConfigError(
                "hydra.launcher.cluster=slurm: no sbatch on this machine; give the command where "
                "jobs are submitted, or hydra.launcher.cluster=local for processes here"
            )
        if not self.time >= 1:
            raise ConfigError(f"hydra.launcher.time={self.time}: must be a whole number >= 1")
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise ConfigError(f"hydra.launcher.memory={self.memory}: must be null or > 0, in GiB")
        if self.partition is not None and not WORD.fullmatch(self.partition):
            raise ConfigError(
                f"hydra.launcher.partition={self.partition!r}: must be null or words of letters, "
                "digits, ., - and _, with commas between them"
            )
        if "\n" in str(self.folder):  # which would end a line of sbatch's script
            raise ConfigError(f"hydra.sweep.dir={str(self.folder)!r}: must have no line break")
        if self.cluster != "slurm" and self.gpus and self.workers > 1:
            raise ConfigError(
                f"hydra.launcher.cluster={self.cluster}: {self.workers} workers would share one "
                "GPU; hydra.launcher.workers=1, or gpus=0"
            )
        self.name = f"slurm ({self.cluster})"
        self.keeps, self.inside = self.cluster != "debug", self.cluster == "debug"
        self.room = {"local": self.workers, "debug": 1}.get(self.cluster)

    def start(self, folder: Path, groups: Sequence[tuple[str, str]]) -> list[str]:
        """Send groups, as arrays of one submission each as far as Slurm allows."""
        make_folder(folder / WORKERS)
        place = folder / WORKERS / PLACE
        place.mkdir(0o700, exist_ok=True)
        place.chmod(0o700)
        ids: list[str] = []
        most = self._largest_array() if self.cluster == "slurm" else 1
        for first in range(0, len(groups), most):
            part = groups[first : first + most]
            arguments = zip(*((str(folder), *group) for group in part), strict=True)
            try:
                with _left_alone():
                    jobs = self._executor(place).map_array(work, *arguments)
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                raise SlurmError(f"sbatch: {_said(error)}") from error
            for job in jobs:
                self._jobs[job.job_id], self._sent[job.job_id] = job, time.monotonic()
                ids.append(job.job_id)
        return ids

    def ended(self, ids: Collection[str], seconds: float) -> dict[str, str]:
        """Wait a moment; return the jobs that have ended, and what went wrong with each."""
        if self.cluster == "debug":
            return {id_: self._run_here(id_) for id_ in ids}
        time.sleep(seconds)
        alive = self._alive({id_ for id_ in ids if not self._answered(id_)})
        return {id_: self._fault(id_) for id_ in ids if id_ not in alive}

    def stop(self, ids: Collection[str]) -> None:
        """Ask jobs to end: SIGTERM, by which a worker saves."""
        if self.cluster == "slurm" and ids:
            subprocess.run(["scancel", *ids], capture_output=True, check=False)
        for id_ in ids if self.cluster == "local" else ():
            for process in _controllers(int(id_), self._place):
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGTERM)

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return the jobs that wait or run."""
        return self._alive({id_ for id_ in ids if not self._answered(id_)}, fresh=True)

    @property
    def _place(self) -> Path:
        return self.folder / WORKERS / PLACE

    def _executor(self, place: Path) -> Any:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "hydra/launcher=slurm: needs submitit: make EXTRA=slurm, or pip install submitit"
            ) from None
        if self.cluster == "debug":
            return submitit.DebugExecutor(place)
        if self.cluster == "local":
            executor = submitit.LocalExecutor(place, max_num_timeout=REQUEUES)
            executor.update_parameters(
                timeout_min=FOREVER, gpus_per_node=self.gpus, setup=list(self.setup)
            )
            return executor
        executor = submitit.SlurmExecutor(place, max_num_timeout=REQUEUES)
        options = {
            "partition": self.partition,
            "mem": None if self.memory is None else f"{round(1024 * self.memory)}MB",
            "gpus_per_node": self.gpus or None,
            "setup": list(self.setup) or None,
        }
        executor.update_parameters(
            job_name="knobs",
            time=self.time,
            cpus_per_task=self.cpus,
            array_parallelism=self.workers,
            **{name: value for name, value in options.items() if value is not None},
        )
        return executor

    def _largest_array(self) -> int:
        """Return how many jobs an array may have: MaxArraySize is one more than the last index."""
        try:
            shown = subprocess.run(
                ["scontrol", "show", "config"], capture_output=True, text=True, check=True
            ).stdout
            lines = (line.split("=") for line in shown.splitlines() if "MaxArraySize" in line)
            return max(1, int(next(lines)[1]) - 1)
        except (OSError, subprocess.SubprocessError, StopIteration, ValueError, IndexError):
            return LARGEST_ARRAY - 1

    def _answered(self, id_: str) -> bool:
        """Return whether a job has left its answer, which nobody reads."""
        return (self._place / f"{id_}_0_result.pkl").exists()

    def _alive(self, ids: set[str], fresh: bool = False) -> set[str]:
        if self.cluster == "debug":
            return set()
        if self.cluster == "local":
            return {id_ for id_ in ids if self._runs_here(id_)}
        if fresh or time.monotonic() - self._asked > ASK:
            self._ask()
        new = {i for i in ids if time.monotonic() - self._sent.get(i, -SETTLES) < SETTLES}
        return ids & (self._listed | new)

    def _ask(self) -> None:
        """Ask Slurm which jobs of this user wait or run; where it does not answer, as before."""
        command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            self._listed = {*shown.stdout.split()}
            self._asked = time.monotonic()

    def _runs_here(self, id_: str) -> bool:
        job = self._jobs.get(id_)
        if job is not None:
            return job._process.poll() is None
        return bool(_controllers(int(id_), self._place))

    def _run_here(self, id_: str) -> str:
        error = self._jobs[id_].exception()
        return first_line(error) if error else ""

    def _fault(self, id_: str) -> str:
        """Return the last line of a job's log where it left no answer, or an error of ours."""
        log = self._place / f"{id_}_0_log.err"
        with contextlib.suppress(OSError):
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            last = lines[-1].strip()[:300] if lines else ""
            if self._answered(id_) and not last.startswith("knobs."):
                return ""
            what = last.partition(": ")[2] if last.startswith("knobs.") else last
            return f"{what or 'its worker ended without a word'} (see {log})"
        return "" if self._answered(id_) else "it left no log"


@contextlib.contextmanager
def _left_alone() -> Any:
    """Let processes that are started inside ignore Ctrl-C and the end of the terminal."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _controllers(process: int, place: Path) -> list[int]:
    """Return submitit's process of a local job, by its id or below the shell of that id."""
    try:
        below = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        below = []
    found = []
    for number in (process, *map(int, below)):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
            if b"submitit.local._local" in words and str(place).encode() in words:
                found.append(number)
    return found


def _said(error: BaseException) -> str:
    """Return what sbatch said."""
    said = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    return text.strip().splitlines()[-1][:300] if text.strip() else type(error).__name__
