"""A group of jobs as plain data: what a worker is to do, in SWEEP/groups/N.json. Imports no torch.

The driver writes the file before a worker is asked for, and hands on its SHA-256, the token. So a
worker does what its driver said, or nothing: one that was asked for before the file was written
anew, or that finds another file, refuses. Nothing in it is executed.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from knobs.errors import StorageError, UserError
from knobs.record import BROKEN, read_json
from knobs.storage import as_json, make_folder, read, write

FOLDER, WORKERS = "groups", "workers"  # in the sweep's
DRIVER = "driver.lock"  # in WORKERS, held by the driver that follows them
CANCELLED = ".cancelled"  # beside a group's file: no worker is to begin it
PAYS = 16  # runs of a group at least, as long as every worker has one: the width that a stack needs
ROUNDS = 2  # groups a worker at most, so that fast workers take more


class Refused(UserError):
    """A group that a worker does not take."""


@dataclass(frozen=True)
class Task:
    """A job of a group.

    Args:
        number, overrides, label, differs: of the job.
        before: SHA-256 of the summary of a run that has failed, and is to run again; else empty.
    """

    number: int
    overrides: list[str]
    label: str = ""
    differs: list[str] = field(default_factory=list)
    before: str = ""


@dataclass(frozen=True)
class Group:
    """Jobs for one worker, with all that composes them there as it did at the driver.

    Args:
        jobs: its tasks.
        hydra: overrides of Hydra's own.
        folders: of the configs: conf/, and that of `--config-dir`.
        config_name: the root YAML, without its ending.
        directory: where relative paths begin.
        allow: KNOBS_ALLOW.
        width: most rows of a stack; None leaves it to a measurement.
        gpus: 0 or 1.
        threads: cores of the worker.
        nonce: makes the token of each sending another.
    """

    jobs: list[Task]
    hydra: list[str]
    folders: list[str]
    config_name: str
    directory: str
    allow: str
    width: int | None
    gpus: int
    threads: int
    nonce: str = ""

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of its jobs."""
        return [task.number for task in self.jobs]


def path(folder: Path, name: str) -> Path:
    """Return the file of a group."""
    return folder / FOLDER / f"{name}.json"


def cancelled(folder: Path, name: str) -> Path:
    """Return the file that says that no worker is to begin a group."""
    return path(folder, name).with_suffix(CANCELLED)


def told_path(folder: Path, name: str) -> Path:
    """Return the file of lines of the worker that has a group: see wire.py."""
    return folder / WORKERS / f"{name}.jsonl"


def own_folder(folder: Path, name: str) -> Path:
    """Return the folder that the worker of a group has for itself, beside those of its runs."""
    return folder / WORKERS / name


def write_group(folder: Path, name: str, group: Group) -> str:
    """Put a group where its worker finds it; return its token, which no earlier worker has."""
    make_folder(folder / FOLDER)
    data = as_json(asdict(group) | {"nonce": secrets.token_hex(8)}, None)
    write(path(folder, name), data, sync=True)
    return hashlib.sha256(data).hexdigest()


def read_group(folder: Path, name: str, token: str | None = None) -> Group:
    """Return a group.

    Args:
        token: that its file must have; None takes any.

    Raises:
        Refused: another file, or none that knobs writes. StorageError: it cannot be read.
    """
    file = path(folder, name)
    try:
        data = read(file)
    except (OSError, ValueError) as error:
        shared = "workers need a folder that every node sees under this name"
        raise StorageError(f"{file}: cannot be read ({error}); {shared}") from None
    if token is not None and hashlib.sha256(data).hexdigest() != token:
        raise Refused(f"{file}: is not the file that this worker was sent for; it runs nothing")
    if token is not None and cancelled(folder, name).exists():
        raise Refused(f"{file}: was cancelled; this worker runs nothing")
    try:
        return _group(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise Refused(f"{file}: is no group of jobs ({type(error).__name__})") from None


def _group(said: Any) -> Group:
    texts = ("config_name", "directory", "allow", "nonce")
    lists = ("hydra", "folders")
    jobs = [Task(**{**job, "number": int(job["number"])}) for job in said["jobs"]]
    group = Group(**{**said, "jobs": jobs})
    lines = [*(t for name in lists for t in getattr(group, name))]
    lines += [line for job in jobs for line in (*job.overrides, *job.differs, job.label)]
    if not all(isinstance(text, str) for text in [*lines, *(getattr(group, n) for n in texts)]):
        raise TypeError("texts")
    return group


def names(folder: Path) -> list[str]:
    """Return the groups of a sweep's folder, in the order in which they were cut."""
    return sorted(file.stem for file in (folder / FOLDER).glob("*.json") if file.stem.isdecimal())


def cut(alike: Mapping[int, str], workers: int, most: int | None = None) -> list[list[int]]:
    """Return numbers of jobs in groups, the largest first.

    Jobs of a group can share a computation. There are as many groups as workers, and up to ROUNDS
    for each where every group has PAYS jobs then.

    Args:
        alike: number -> what the jobs of a stack have in common.
        most: jobs of a group; None: any number.
    """
    kinds: dict[str, list[int]] = {}
    for number, kind in alike.items():
        kinds.setdefault(kind, []).append(number)
    largest = most or len(alike)
    wanted = min(max(workers, min(ROUNDS * workers, len(alike) // PAYS)), len(alike))
    groups: list[list[int]] = []
    for numbers in kinds.values():
        share, least = -(-len(numbers) * wanted // len(alike)), -(-len(numbers) // largest)
        count = max(share, least)
        groups += [numbers[i::count] for i in range(count)]
    return sorted(groups, key=lambda group: (-len(group), group))


def labelled(tasks: Sequence[Task]) -> dict[int, str]:
    """Return number -> label."""
    return {task.number: task.label for task in tasks}


def note_sent(
    folder: Path, name: str, engine: str, job: str, numbers: Sequence[int], over: bool = False
) -> None:
    """Write workers/N.json: where a group was sent, and whether that job has ended."""
    about = {"engine": engine, "job": job, "jobs": list(numbers), "over": over}
    write(folder / WORKERS / f"{name}.json", as_json(about), sync=True)


def numbers_of(folder: Path, name: str) -> list[int]:
    """Return the jobs of a group, by where it was sent, or by its own file; none where neither."""
    try:
        about = read_json(folder / WORKERS / f"{name}.json")
        return [int(number) for number in about["jobs"]]
    except (*BROKEN, KeyError, TypeError):
        pass
    try:
        return read_group(folder, name).numbers
    except UserError:
        return []


def where_sent(folder: Path, name: str) -> tuple[str, str, bool]:
    """Return the engine of a group, its job there, and whether that has ended."""
    try:
        about = read_json(folder / WORKERS / f"{name}.json")
        return str(about["engine"]), str(about["job"]), bool(about["over"])
    except (*BROKEN, KeyError, TypeError):
        return "", "", False
