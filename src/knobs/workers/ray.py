"""Workers as actors of Ray, each of which takes one group after the other. Imports no torch.

An actor imports torch once, and is handed three texts for each group: worker.work does the rest.
Which group goes to which actor is decided when one is free; those that Ray has no room for yet
hold none. An actor that dies costs its group's present stretch: the driver says so and sends the
group again, as often as its runs come further. Nothing of ours is pickled but a reference to the
class below; Ray's own retries are off, as they would be silent.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs.errors import ConfigError, UserError, first_line, for_a_person
from knobs.words import count
from knobs.workers import apart
from knobs.workers.worker import work

GIB = 2**30
STORE = 128 * 2**20  # bytes of a started cluster's object store, which holds texts
TRIES = 2  # to start a cluster: Ray waits 15 s for its own parts, which a busy machine exceeds
KNOCK, ANSWERS = 5.0, 30.0  # seconds in which a machine must answer, and a cluster there
FIRST = 60.0  # seconds without any worker, after which that is said
# Before Ray is imported. One that is started here listens on 127.0.0.1 alone (Ray has this switch
# for other systems), sends no statistics, and its workers have the priority of this process.
PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}  # what Ray prints of workers: the driver says it
INIT = {"include_dashboard": False, "log_to_driver": False, "logging_level": "critical"}
PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"


class RayError(UserError):
    """Ray does not start, or does not answer."""

    exit_code = 2


class Actor:
    """What runs in Ray's process of a worker."""

    def where(self) -> tuple[int, str]:
        """Return this process and Ray's name of its machine."""
        import ray

        return os.getpid(), ray.get_runtime_context().get_node_id()

    def work(self, folder: str, group: str, token: str) -> str:
        """Run a group; return apart.UNSEEN where its folder is not here, else what is at fault."""
        if not apart.sees(Path(folder), group):
            return apart.UNSEEN
        return _fault(lambda: work(folder, group, token))

    def work_apart(self, folder: str, group: str, document: bytes) -> tuple[str, bytes, bytes]:
        """Run a group whose folder is not here; return what is at fault, and the runs' files."""
        files = (b"[]", b"")

        def run() -> None:
            nonlocal files
            files = apart.work_apart(folder, group, document)

        return (_fault(run), *files)


def _fault(run: Any) -> str:
    """Return in a line what an error says, which then need not travel itself; empty if none."""
    try:
        run()
    except Exception as error:
        fault = for_a_person(error)
        return f"{type(fault).__name__}: {first_line(fault)}"
    return ""


def _signal(process: int, number: int) -> None:
    """Send a signal to a process of this machine."""
    with contextlib.suppress(OSError):
        os.kill(process, number)


@dataclass
class _Worker:
    """An actor, and what it is at.

    Args:
        actor: of Ray. call: what it is doing; None where it has nothing to do.
        job: the group's; empty while it starts.
        process, node: where it is; 0 while it starts.
    """

    actor: Any
    call: Any
    job: str = ""
    process: int = 0
    node: str = ""


@dataclass
class Ray:
    """An engine of workers: engine.Engine says what each method does.

    Args:
        workers: at once. cpus, gpus: of each. memory: GiB of each; None: Ray does not count it.
        address: of a cluster: auto, or HOST:PORT; None starts one on this machine.
        said: lines for a person, which the driver prints.

    Raises:
        ConfigError: there is no Ray, or no cluster there, or no machine of it has so much.
        RayError: it does not start.
    """

    workers: int = 2
    cpus: int = 1
    gpus: int = 0
    memory: float | None = None
    address: str | None = None
    said: list[str] = field(default_factory=list)
    name = "ray"
    keeps = inside = False  # Ray ends the actors of a driver that has ended
    _queue: deque[str] = field(default_factory=deque)
    _groups: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # job -> of worker.work
    _workers: list[_Worker] = field(default_factory=list)
    _began: float | None = None  # when the first actors were asked for; None once one is there
    _told: bool = False  # that folders are not shared

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory <= 0:
            raise ConfigError(f"hydra.launcher.memory={self.memory}: must be null or > 0 (GiB)")
        asked, cores = self.workers * self.cpus, os.cpu_count() or 1
        self._ray = connect(self.address, asked)
        if self.address is None and asked > cores:
            self.said.append(f"{asked} cores are asked for and this machine has {cores}: slow")
        self._here = self._ray.get_runtime_context().get_node_id()
        self._numbers = itertools.count()
        fit = self._room(self._ray.nodes())
        if fit < self.workers:
            workers = count(fit, "worker")
            self.said.append(f"the cluster has room for {workers} of {self.workers} at once")
        self.room = min(fit, self.workers)
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        if self.memory:
            options["memory"] = int(self.memory * GIB)
        self._kind = self._ray.remote(Actor).options(**options, max_task_retries=0)

    def start(self, folder: Path, groups: Sequence[tuple[str, str]]) -> list[str]:
        """Put groups where the next free actor takes them; hire actors."""
        jobs = [f"{os.getpid()}-{next(self._numbers)}" for _ in groups]
        for job, (group, token) in zip(jobs, groups, strict=True):
            self._groups[job] = str(folder), group, token
        self._queue += jobs
        self._hire()
        return jobs

    def ended(self, ids: Collection[str], seconds: float) -> dict[str, str]:
        """Wait for an actor to end a group, or to begin; hand on what waits."""
        there = {*self._queue, *(worker.job for worker in self._workers)}
        if gone := [job for job in ids if job not in there]:  # stopped before they began
            return dict.fromkeys(gone, "")
        self._hire()
        calls = {worker.call: worker for worker in self._workers if worker.call is not None}
        if not calls:
            time.sleep(seconds)
            return {}
        done, _ = self._ray.wait([*calls], num_returns=1, timeout=seconds)
        if done:
            done, _ = self._ray.wait([*calls], num_returns=len(calls), timeout=0)
        over: dict[str, str] = {}
        for call in done:
            over |= self._over(calls[call], call)
        self._hire()
        if self._began and time.monotonic() - self._began > FIRST:
            self._began = None
            self.said.append(
                "no worker has begun yet: the cluster has no room, or its machines are busy; "
                "waiting for it"
            )
        return over

    def stop(self, ids: Collection[str]) -> None:
        """Ask actors to save and end: SIGTERM, on the machine of each."""
        self._queue = deque(job for job in self._queue if job not in ids)
        for worker in [*self._workers]:
            if not worker.process or not worker.job:
                self._dismiss(worker)
            elif worker.job in ids:
                self._terminate(worker)

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return none: actors end with their driver."""
        return set()

    def _hire(self) -> None:
        """Hand groups to free actors; where there are more, ask Ray for further actors."""
        for worker in self._workers:
            if self._queue and worker.call is None:
                worker.job = self._queue.popleft()
                worker.call = worker.actor.work.remote(*self._groups[worker.job])
        starting = sum(not worker.process for worker in self._workers)
        wanted = min(len(self._queue) - starting, self.room - len(self._workers))
        for _ in range(wanted):
            actor = self._kind.remote()
            self._workers.append(_Worker(actor, actor.where.remote()))
        if wanted > 0 and not any(worker.process for worker in self._workers):
            self._began = time.monotonic()

    def _over(self, worker: _Worker, call: Any) -> dict[str, str]:
        """Note what an actor has ended; return its job, where that was one, and its fault."""
        job, worker.call = worker.job, None
        try:
            answer = self._ray.get(call)
        except Exception as error:  # of Ray: the process, or its machine, has died
            self._workers.remove(worker)
            job = job or (self._queue.popleft() if self._queue else "")
            return {job: _why(error)} if job else {}
        if not worker.process:
            worker.process, worker.node = answer
            self._began = None
            return {}
        folder, group, _ = self._groups[job]
        if answer == apart.UNSEEN:
            self._say_apart()
            document = apart.document(Path(folder), group)
            worker.call = worker.actor.work_apart.remote(folder, group, document)
            return {}
        worker.job = ""
        if isinstance(answer, str):
            return {job: answer}
        fault, names, data = answer
        return {job: fault or _fault(lambda: apart.receive(Path(folder), group, names, data))}

    def _say_apart(self) -> None:
        if not self._told:
            self.said.append(
                "workers do not see the sweep's folder: their runs come back when a group has "
                f"ended, up to {apart.MOST // GIB} GiB a group, without W&B's files; a worker that "
                "dies costs its whole group"
            )
        self._told = True

    def _terminate(self, worker: _Worker) -> None:
        if worker.node == self._here:
            return _signal(worker.process, signal.SIGTERM)
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id=worker.node, soft=False)
        send = self._ray.remote(_signal).options(num_cpus=0, scheduling_strategy=there)
        return send.remote(worker.process, int(signal.SIGTERM)) and None

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        with contextlib.suppress(Exception):
            self._ray.kill(worker.actor)

    def _room(self, nodes: Sequence[dict[str, Any]]) -> int:
        """Return how many workers the machines of a cluster hold at once.

        Raises:
            ConfigError: not one; naming the option that asks for too much.
        """
        wanted = {
            "cpus": ("CPU", self.cpus, 1),
            "gpus": ("GPU", self.gpus, 1),
            "memory": ("memory", self.memory or 0, GIB),
        }
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        fit = []
        for machine in alive:
            shares = (
                machine.get(kind, 0) // (amount * unit)
                for kind, amount, unit in wanted.values()
                if amount
            )
            fit.append(int(min(shares)))
        if sum(fit):
            return sum(fit)
        for option, (kind, amount, unit) in wanted.items():
            most = max((machine.get(kind, 0) / unit for machine in alive), default=0)
            if amount > most:
                raise ConfigError(
                    f"hydra.launcher.{option}={amount:g}: no machine of the cluster has more than "
                    f"{most:.4g}"
                )
        asked = ", ".join(f"{o}={amount:g}" for o, (_, amount, _) in wanted.items() if amount)
        raise ConfigError(f"hydra.launcher: no machine of the cluster has all of {asked}")


def _why(error: Exception) -> str:
    """Return in a line why an actor is lost; Ray's own text is a page."""
    name = type(error).__name__
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        lines = [line.strip() for line in text.splitlines() if "Error" in line]
        return f"{lines[-1][:200]}; the same code must be installed on every machine"
    if "memory" in text and "OutOfMemory" in name:
        return "its machine had no memory left, and Ray ended the worker"
    return f"its worker died ({name})"


def connect(address: str | None, cpus: int) -> Any:
    """Return Ray, connected to a cluster.

    Args:
        address: auto, HOST:PORT, or None: one is started here, with so many cores.

    Raises:
        ConfigError: there is no Ray, or no cluster at this address. RayError: none starts.
    """
    for name, value in (QUIET | PRIVATE if address is None else QUIET).items():
        os.environ.setdefault(name, value)
    if address and _has_token():  # which `ray start` looks for, and `ray.init` does not
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise ConfigError("hydra/launcher=ray: needs ray: pip install ray") from None
    if ray.is_initialized():  # by whoever calls knobs, or by the phase before
        return ray
    if address is None:
        return _started(ray, cpus)
    probed(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="critical")
    except Exception as error:
        raise ConfigError(f"hydra.launcher.address={address}: {_short(error)}") from None
    return ray


def _has_token() -> bool:
    """Return whether Ray has a token of this user: then clusters that are started ask for it."""
    named = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return named or (Path.home() / ".ray" / "auth_token").is_file()


def _started(ray: Any, cpus: int) -> Any:
    """Start a cluster on this machine.

    Raises:
        RayError: it does not start in several tries.
    """
    for left in range(TRIES)[::-1]:
        try:
            ray.init(address="local", num_cpus=cpus, object_store_memory=STORE, **INIT)
            return ray
        except Exception as error:
            with contextlib.suppress(Exception):
                ray.shutdown()
            if not left:
                raise RayError(
                    f"ray did not start, {TRIES} times: {_short(error)}; on a busy machine start "
                    "one that stays: `ray start --head`, then hydra.launcher.address=auto"
                ) from None
    raise AssertionError("TRIES is at least 1")


def probed(address: str) -> None:
    """Refuse an address at which no cluster answers, in seconds: Ray itself takes minutes.

    Another process tries it, as Ray's own tries cannot be ended.

    Raises:
        ConfigError: naming the address, and how to start a cluster.
    """
    field = f"hydra.launcher.address={address}"
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"{field}: must be null, auto or HOST:PORT")
    start = "start one on each machine: `ray start --head`, `ray start --address=HOST:6379`"
    try:
        if address != "auto":
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        subprocess.run(
            [sys.executable, "-c", PROBE, address],
            capture_output=True,
            text=True,
            check=True,
            timeout=ANSWERS,
        )
    except OSError as error:
        raise ConfigError(f"{field}: nothing answers there ({error}); {start}") from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{field}: no cluster answers there in {ANSWERS:.0f} s; {start}"
        ) from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        raise ConfigError(
            f"{field}: {_short(lines[-1] if lines else 'no answer')}; {start}"
        ) from None


def _short(error: object) -> str:
    """Return the first sentence of what Ray says."""
    return first_line(error).partition(". ")[0].rstrip(".")[:300]
