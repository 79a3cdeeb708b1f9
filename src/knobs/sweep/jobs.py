"""A job of a sweep, and Hydra's side of it, which waits while its run trains with others.

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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import OmegaConfDumper

from knobs import ledger
from knobs.config.copies import part, plain
from knobs.secrets import public
from knobs.shell import literal
from knobs.storage import make_folder, refuse_links, write

ROOT = logging.getLogger()
MOST_TEXTS = 1024  # sections of configs as YAML, about 1 kB each


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # libyaml's: ten times as fast
    """Writes what OmegaConf.to_yaml writes."""


_Dumper.add_representer(str, OmegaConfDumper.str_representer)


@dataclass(frozen=True)
class ProcessState:
    """The state that the process has once and each job needs separately."""

    hydra: DictConfig | None
    handlers: list[logging.Handler]
    level: int
    directory: str
    variables: dict[str, str | None]

    @classmethod
    def now(cls, names: Iterable[str]) -> "ProcessState":
        """Return the process as it is, with those environment variables that a job sets."""
        variables = {name: os.environ.get(name) for name in names}
        hydra = HydraConfig.instance().cfg
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


@dataclass(eq=False)
class Job:
    """One job of a sweep: `begin` it, and if it is then `waiting`, `end` it with an answer.

    Args:
        number: in the sweep; its folder's name unless the config says otherwise.
        overrides: all but hydra's own.
        config: what it trains, resolved; None where it is no training run of knobs.
        label: what sets it apart from others, for a person; empty: its overrides say it.
        differs: those of its overrides that set it apart.
        waiting: whether its run is to be trained: `config`, `folder` and `about` then are the
            arguments of training.run.execute.
        outcome: of its run (training.session.Outcome); None where it had none, or it failed.
        returned: when it has ended.
    """

    number: int
    overrides: list[str]
    config: dict[str, Any] | None
    label: str = ""
    differs: list[str] = field(default_factory=list)
    waiting: bool = False
    folder: Path = Path()
    about: dict[str, Any] = field(default_factory=dict)
    outcome: Any = None
    returned: JobReturn | None = None

    def begin(
        self, composed: DictConfig, context: HydraContext, task_function: TaskFunction
    ) -> None:
        """Run until the job wants its run trained, or has ended.

        Args:
            composed: its config with its hydra node.
            context: of the sweep; the job has callbacks of its own.
            task_function: the user's.
        """
        self._names = list(composed.hydra.job.env_set)
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        outside = ProcessState.now(self._names)
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = self.number
        work = (composed, copy.deepcopy(context.callbacks), task_function)
        thread = threading.Thread(
            target=self._work, args=work, name=f"job {self.number}", daemon=True
        )
        # Which training.run.start looks for.
        thread.train, thread.differs = self._hand_over, self.differs
        thread.start()
        self._stopped.acquire()
        self._state = ProcessState.now(self._names)
        outside.enter()
        self._close_log()

    def end(self, answer: Any) -> None:
        """Hand the job its run's outcome, or what its run raised, and let it end."""
        with self.environment():
            self.waiting, self._answer = False, answer
            self.outcome = None if isinstance(answer, BaseException) else answer
            self._go.release()
            self._stopped.acquire()
        self._close_log()

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Enter the job's own log, working directory and environment."""
        outside = ProcessState.now(self._names)
        self._state.enter()
        try:
            yield
        finally:
            outside.enter()

    @contextmanager
    def log(self) -> Iterator[None]:
        """Enter the job's own log alone: cheap enough for every epoch."""
        outside = ROOT.handlers
        ROOT.handlers = self._state.handlers
        try:
            yield
        finally:
            ROOT.handlers = outside

    def _close_log(self) -> None:
        """Close its log, which reopens by itself; let go of an ended job's configs."""
        for handler in self._state.handlers:
            if handler not in ROOT.handlers:
                handler.close()
        if self.config and self.returned and self.returned.status is JobStatus.COMPLETED:
            # Of those that failed one asks where their logs are. Of 10,000 jobs these are 10 GB.
            self.returned.cfg = self.returned.hydra_cfg = None
            self._state = replace(self._state, hydra=None)

    def _work(self, composed: DictConfig, callbacks: Any, task_function: TaskFunction) -> None:
        try:
            HydraConfig.instance().cfg = composed  # which the folder's name may read
            folder = Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir))
            with ledger.held_run(folder):
                self.returned = run_job(composed, callbacks, task_function)
        except BaseException as error:  # a folder that cannot be made, a callback that exits
            overrides = list(composed.hydra.overrides.task)
            self.returned = JobReturn(overrides=overrides, hydra_cfg=composed)
            self.returned.return_value, self.returned.status = error, JobStatus.FAILED
        finally:
            self._stopped.release()

    def _hand_over(self, config: dict, folder: Path, _out: object, about: dict[str, Any]) -> Any:
        """Wait for the outcome, in place of training.run.execute."""
        self.config, self.about = config, about
        self.folder = folder.absolute()  # the job may have gone elsewhere
        self.waiting = True
        self._stopped.release()
        self._go.acquire()
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def run_job(config: DictConfig, callbacks: Any, task_function: Callable[[Any], Any]) -> JobReturn:
    """Do what Hydra's run_job does; write .hydra/ faster, and let no SystemExit out."""
    folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = literal(str(folder.absolute()))
    OmegaConf.set_readonly(config.hydra, True)
    hidden = part(config, ["hydra"])  # a copy, as HydraConfig.set_config keeps one
    hidden.hydra._set_parent(config)
    HydraConfig.instance().cfg = hidden
    task_config = part(config, [key for key in config if key != "hydra"])
    for flag in ("struct", "readonly"):
        task_config._set_flag(flag, config._get_node_flag(flag))
    overrides = OmegaConf.to_container(config.hydra.overrides.task)
    returned = JobReturn(overrides, task_config, HydraConfig.instance().cfg)
    refuse_links(folder, [f"{config.hydra.job.name}.log"])
    chdir = config.hydra.job.chdir
    if chdir is None:
        chdir = not version.base_at_least("1.2")
    if chdir:
        os.chdir(folder)
    returned.working_dir = str(folder) if chdir else os.getcwd()
    configure_log(config.hydra.job_logging, config.hydra.verbose)
    if config.hydra.output_subdir is not None:
        hydra_folder = Path(config.hydra.runtime.output_dir) / config.hydra.output_subdir
        make_folder(hydra_folder)
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
    shown = public(plain(config))
    text = "".join(_texts(shown)) if isinstance(shown, dict) and shown else _yaml(shown)
    if "\\" in text:  # libyaml escapes characters that PyYAML writes as they are
        text = OmegaConf.to_yaml(OmegaConf.create(shown))
    write(path, text.encode())


def _texts(shown: dict[str, Any]) -> Iterator[str]:
    """Yield each section with its name as YAML; Hydra's own in parts, of which few differ."""
    for name, node in shown.items():
        if name == "hydra" and node:
            yield "hydra:\n"
            yield from (_text({name: {k: v}}).partition("\n")[2] for k, v in node.items())
        else:
            yield _text({name: node})


def _text(section: dict[str, Any]) -> str:
    """Return a section as YAML; most are those of the job before."""
    key = repr(section)  # tells the types as well
    if key not in _TEXTS:
        if len(_TEXTS) >= MOST_TEXTS:
            _TEXTS.clear()
        _TEXTS[key] = _yaml(section)
    return _TEXTS[key]


_TEXTS: dict[str, str] = {}


def _yaml(node: Any) -> str:
    return yaml.dump(
        node, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
