"""hydra/launcher=slurm and ray: groups of a sweep's jobs on workers elsewhere. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, configure_log

from hydra_plugins.knobs_launcher import StackLauncher
from knobs.errors import ConfigError


@dataclass
class SlurmLauncherConf:
    """hydra.launcher of hydra/launcher=slurm: each worker is a job of Slurm, through submitit."""

    _target_: str = "hydra_plugins.knobs_workers.SlurmLauncher"
    cluster: str = "slurm"  # slurm, local or debug; local: processes of this machine
    workers: int = 2  # whole number >= 1; how many work at once
    cpus: int = 1  # whole number >= 1; cores of a worker
    memory: float | None = None  # null or > 0; GiB of a worker; null is what Slurm gives
    gpus: int = 0  # 0 or 1; of a worker; several stacks on one GPU are never wanted
    time: int = 60  # whole number >= 1; minutes, after which a job is queued again and goes on
    partition: str | None = None  # null or word; null is Slurm's default
    setup: list[str] = field(default_factory=list)  # shell lines before a worker; typed, of no YAML
    width: int | None = None  # null or whole number >= 1; most runs of a stack; null: measured
    wait: bool = True  # false submits and ends; the same command follows and reports


@dataclass
class RayLauncherConf:
    """hydra.launcher of hydra/launcher=ray: each worker is an actor of Ray."""

    _target_: str = "hydra_plugins.knobs_workers.RayLauncher"
    address: str | None = None  # null, auto or HOST:PORT; null starts Ray on this machine
    workers: int = 2  # whole number >= 1; how many work at once
    cpus: int = 1  # whole number >= 1; cores of a worker
    memory: float | None = None  # null or > 0; GiB of a worker; null: Ray does not count it
    gpus: int = 0  # 0 or 1; of a worker; several stacks on one GPU are never wanted
    width: int | None = None  # null or whole number >= 1; most runs of a stack; null: measured


for _name, _node in (("slurm", SlurmLauncherConf), ("ray", RayLauncherConf)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="knobs")


class WorkersLauncher(StackLauncher):
    """A thin adapter: knobs.workers.driver does the work, an engine starts the workers.

    Args:
        workers, cpus, gpus, width, wait: as engine.Options has them.
        options: of the engine.
    """

    def __init__(
        self,
        workers: int = 2,
        cpus: int = 1,
        gpus: int = 0,
        width: int | None = None,
        wait: bool = True,
        **options: Any,
    ):
        super().__init__(width)
        self.workers, self.cpus, self.gpus, self.wait = workers, cpus, gpus, wait
        self.options, self.submits = options, not wait

    def engine(self, folder: Path) -> Any:
        """Return what starts workers for a sweep's folder: an engine.Engine."""
        raise NotImplementedError

    def launch_numbered(self, jobs: dict[int, Any], supply: Any = None) -> Sequence[JobReturn]:
        """Launch jobs under numbers of the caller's; the supply has more where some have ended."""
        from knobs.workers import driver
        from knobs.workers import engine as engines

        options = engines.Options(self.workers, self.width, self.cpus, self.gpus, self.wait)
        engines.check(options, jobs)
        hydra = self.config.hydra
        configure_log(hydra.hydra_logging, hydra.verbose)
        engine = self.engine(Path(str(hydra.sweep.dir)).absolute())
        return driver.launch(jobs, engine, options, self.config, supply)


class SlurmLauncher(WorkersLauncher):
    """Workers as jobs of Slurm."""

    def engine(self, folder: Path) -> Any:
        """Return Slurm, or this machine, as the option `cluster` says."""
        from knobs.workers.slurm import Submitit

        typed = [str(line).lstrip("+") for line in self.config.hydra.overrides.hydra]
        if self.options["setup"] and not any(
            line.startswith(("hydra.launcher.setup=", "hydra.launcher={")) for line in typed
        ):
            alone = "a shell runs these lines, so they are taken from the command line alone"
            raise ConfigError(f"hydra.launcher.setup: comes from a YAML; {alone}: give it there")
        own = {"workers": self.workers, "cpus": self.cpus, "gpus": self.gpus}
        return Submitit(folder, **own, **self.options)


class RayLauncher(WorkersLauncher):
    """Workers as actors of Ray, which stay for all phases of a study."""

    _engine: Any = None

    def engine(self, folder: Path) -> Any:
        """Return Ray, connected."""
        if not self._engine:
            from knobs.workers.ray import Ray

            self._engine = Ray(self.workers, self.cpus, self.gpus, **self.options)
        return self._engine
