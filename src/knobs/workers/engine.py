"""What starts workers for a driver, and the options of every launcher that has workers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from knobs.errors import ConfigError
from knobs.sweep.jobs import Job


class Engine(Protocol):
    """Where workers run. `groups` of one call may become one array.

    Args:
        name: as workers/N.json has it; an engine follows jobs of its own name alone.
        room: how many groups may be sent and not ended; None where it keeps a queue itself.
        keeps: whether its jobs outlive the driver.
        inside: whether they run in the driver's process.
        said: lines for a person; the driver prints them and takes them out.
    """

    name: str
    room: int | None
    keeps: bool
    inside: bool
    said: list[str]

    def start(self, folder: Path, groups: Sequence[tuple[str, str]]) -> list[str]:
        """Send groups, each with its token: worker.work(folder, group, token); return job ids."""

    def ended(self, ids: Collection[str], seconds: float) -> dict[str, str]:
        """Wait up to so many seconds; return jobs that have ended, and their faults, if any."""

    def stop(self, ids: Collection[str]) -> None:
        """Ask jobs to save and end; those that have not begun never begin."""

    def alive(self, ids: Collection[str]) -> set[str]:
        """Return the jobs that wait or run, of those that a driver of before has sent."""


@dataclass(frozen=True)
class Options:
    """What the launcher was told of workers, beside what its engine needs.

    Args:
        workers: how many at once. width: most rows of a stack; None leaves it to a measurement.
        cpus, gpus: of each. wait: whether to follow them to their ends.
    """

    workers: int = 2
    width: int | None = None
    cpus: int = 1
    gpus: int = 0
    wait: bool = True


def check(options: Options, jobs: Mapping[int, Job]) -> None:
    """Refuse options of workers that cannot be, before anything is sent.

    Raises:
        ConfigError: naming the option.
    """
    at_least_one = {"workers": options.workers, "cpus": options.cpus, "width": options.width}
    for name, value in at_least_one.items():
        if value is not None and value < 1:
            or_null = "null or " if name == "width" else ""
            raise ConfigError(
                f"hydra.launcher.{name}={value}: must be {or_null}a whole number >= 1"
            )
    if options.gpus not in (0, 1):
        one = "a worker runs on one GPU at most; more GPUs are more workers"
        raise ConfigError(f"hydra.launcher.gpus={options.gpus}: must be 0 or 1; {one}")
    devices = {str(job.config["training"]["device"]) for job in jobs.values() if job.config}
    if not options.gpus and (asked := [d for d in sorted(devices) if d.startswith("cuda")]):
        raise ConfigError(
            f"training.device={asked[0]}: hydra.launcher.gpus=0 gives workers none; gpus=1 does"
        )
