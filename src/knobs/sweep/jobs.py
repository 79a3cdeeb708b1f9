"""Hydra's side of a job, which waits while its run trains with others.

A job runs its task function in a thread of its own, as Hydra's run_job would, with its folder, its
.hydra/, its log, its callbacks. Where the task function asks for its run to be trained, the thread
stops until the run's outcome is handed to it. One thread moves at a time, so a job sees its own
HydraConfig, log, working directory and environment, although Hydra keeps one of each a process.
"""

import copy
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper

from knobs.training.run import executor
from knobs.training.session import Outcome

ROOT = logging.getLogger()


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # libyaml's: ten times as fast
    """Writes what OmegaConf.to_yaml writes."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


@dataclass(frozen=True)
class Request:
    """A run that a job wants trained: the arguments of training.run.execute."""

    plain: dict
    folder: Path
    about: dict[str, Any]


@dataclass(frozen=True)
class World:
    """What a job has of its own and the process has one of."""

    hydra: DictConfig | None
    handlers: list[logging.Handler]
    level: int
    directory: str
    variables: dict[str, str | None]

    @classmethod
    def here(cls, names: Iterable[str]) -> "World":
        """The process as it is now, with those environment variables that a job sets."""
        hydra, variables = (
            HydraConfig.instance().cfg,
            {name: os.environ.get(name) for name in names},
        )
        return cls(hydra, ROOT.handlers[:], ROOT.level, os.getcwd(), variables)

    def enter(self) -> None:
        """Make it the process's."""
        HydraConfig.instance().cfg = self.hydra
        ROOT.handlers[:], ROOT.level = self.handlers, self.level
        os.chdir(self.directory)
        for name, value in self.variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Job:
    """One job of a sweep: `begin` it, and if it then has a `request`, `end` it with an answer.

    Args:
        number: in the sweep; its folder's name unless the config says otherwise.
        config: composed, with its hydra node.
        context: of the sweep; the job has callbacks of its own.
        task_function: the user's.
    """

    def __init__(
        self, number: int, config: DictConfig, context: HydraContext, task_function: TaskFunction
    ):
        self.number, self.config, self.task_function = number, config, task_function
        self.callbacks = copy.deepcopy(context.callbacks)
        self.request: Request | None = None  # while it waits
        self.returned: JobReturn | None = None  # when it has ended
        self._answer: Outcome | BaseException | None = None
        self._world: World | None = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, name=f"job {number}", daemon=True)

    @property
    def outcome(self) -> Outcome | None:
        """How its run ended; None where it had none, or it failed."""
        return self._answer if isinstance(self._answer, Outcome) else None

    @property
    def error(self) -> BaseException | None:
        """What the task function raised."""
        failed = self.returned and self.returned.status is JobStatus.FAILED
        return self.returned._return_value if failed else None

    def begin(self) -> None:
        """Run until the job wants its run trained, or has ended."""
        outside = self._here()
        with open_dict(self.config):
            self.config.hydra.job.id = self.config.hydra.job.num = self.number
        self._thread.start()
        self._stopped.acquire()
        self._world = self._here()
        outside.enter()
        self._close_log()

    def end(self, answer: Outcome | BaseException) -> None:
        """Hand the job its run's outcome, or what its run raised, and let it end."""
        with self.world():
            self.request, self._answer = None, answer
            self._go.release()
            self._stopped.acquire()
        self._close_log()

    @contextmanager
    def world(self) -> Iterator[None]:
        """The job's own log, working directory and environment."""
        outside = self._here()
        self._world.enter()
        try:
            yield
        finally:
            outside.enter()

    @contextmanager
    def log(self) -> Iterator[None]:
        """The job's own log alone: cheap enough for every epoch."""
        outside = ROOT.handlers
        ROOT.handlers = self._world.handlers
        try:
            yield
        finally:
            ROOT.handlers = outside

    def _close_log(self) -> None:
        """Close the files of its log; one that is written again opens by itself."""
        for handler in self._world.handlers:
            if handler not in ROOT.handlers:
                handler.close()

    def _here(self) -> World:
        return World.here(self.config.hydra.job.env_set)

    def _work(self) -> None:
        try:
            executor.set(self._wait)
            self.returned = run_job(self.config, self.callbacks, self.task_function)
        except BaseException as error:  # a folder that cannot be made, a callback that exits
            overrides = list(self.config.hydra.overrides.task)
            self.returned = JobReturn(overrides=overrides, hydra_cfg=self.config)
            self.returned.return_value, self.returned.status = error, JobStatus.FAILED
        finally:
            self._stopped.release()

    def _wait(self, plain: dict, folder: Path, _out: object, about: dict[str, Any]) -> Outcome:
        """In place of training.run.execute."""
        self.request = Request(plain, folder.absolute(), about)  # the job may have gone elsewhere
        self._stopped.release()
        self._go.acquire()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def run_job(config: DictConfig, callbacks: Any, task_function: Callable[[Any], Any]) -> JobReturn:
    """Hydra's run_job, with a faster writer of .hydra/ and no way out for a SystemExit."""
    HydraConfig.instance().cfg = config  # which the folder's name may read
    folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder.absolute())
    HydraConfig.instance().set_config(config)  # which keeps a copy of the hydra node
    hydra_config = HydraConfig.instance().cfg
    task_config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    for flag in ("struct", "readonly"):
        task_config._set_flag(flag, config._get_node_flag(flag))
    returned = JobReturn(overrides=OmegaConf.to_container(config.hydra.overrides.task))
    returned.cfg, returned.hydra_cfg = task_config, hydra_config
    folder.mkdir(parents=True, exist_ok=True)
    chdir = config.hydra.job.chdir
    if chdir is None:
        chdir = not version.base_at_least("1.2")
    if chdir:
        os.chdir(folder)
    returned.working_dir = str(folder) if chdir else os.getcwd()
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    if config.hydra.output_subdir is not None:
        hydra_folder = Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir
        hydra_folder.mkdir(parents=True, exist_ok=True)
        _write(hydra_folder / "config.yaml", task_config)
        _write(hydra_folder / "hydra.yaml", returned.hydra_cfg)
        _write(hydra_folder / "overrides.yaml", config.hydra.overrides.task)
    with env_override(dict(config.hydra.job.env_set)):
        callbacks.on_job_start(config=config, task_function=task_function)
        try:
            returned.return_value = task_function(task_config)
            returned.status = JobStatus.COMPLETED
        except BaseException as error:  # SystemExit too: it ends this job, not the sweep
            returned.return_value, returned.status = error, JobStatus.FAILED
    returned.task_name = JobRuntime.instance().get("name")
    for handler in ROOT.handlers:
        handler.flush()
    callbacks.on_job_end(config=config, job_return=returned)
    return returned


def _write(path: Path, config: Any) -> None:
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    text = yaml.dump(
        plain, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    if "\\" in text:  # libyaml escapes characters that PyYAML writes as they are
        text = OmegaConf.to_yaml(config)
    path.write_text(text, encoding="utf-8")
