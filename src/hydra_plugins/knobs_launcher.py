"""hydra/launcher=stack: jobs that can share one computation train together. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class StackLauncherConf:
    """hydra.launcher: `width` bounds the runs of a stack; null leaves it to a measurement."""

    _target_: str = "hydra_plugins.knobs_launcher.StackLauncher"
    width: int | None = None


ConfigStore.instance().store(
    group="hydra/launcher", name="stack", node=StackLauncherConf, provider="knobs"
)


class StackLauncher(Launcher):
    """A thin adapter: knobs.sweep.launch does the work."""

    def __init__(self, width: int | None = None):
        self.width = width

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from knobs.sweep.grid import job

        numbers = enumerate(job_overrides, initial_job_idx)
        jobs = {n: job(list(lines), self.context, self.config, number=n) for n, lines in numbers}
        return self.launch_numbered(jobs)

    def launch_numbered(self, jobs: dict[int, Any], supply: Any = None) -> Sequence[JobReturn]:
        """Launch jobs under numbers of the caller's; the supply has more where some have ended."""
        from knobs.sweep.launch import launch  # late: it imports torch

        hydra = self.config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose)
        Path(str(hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        return launch(jobs, self.context, self.task_function, self.config, self.width, supply)
