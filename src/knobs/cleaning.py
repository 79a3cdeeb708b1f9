"""`knobs clean`: what could be removed below a folder, and how much space that frees.

Only what knobs itself has written is listed, and nothing is removed without --yes. Links are not
followed; a run or a sweep that a process holds is left alone.
"""

import argparse
import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from knobs import ledger, record, storage
from knobs.errors import ConfigError, LockedError
from knobs.listing import held
from knobs.report.read import read_run
from knobs.tracking import sync
from knobs.words import count, printable

OF_SEARCHES = (record.STUDY, record.PLACES, record.JOURNAL)  # which know runs by their folders
LOCKS = (record.LOCK, ledger.LOCK, "trials.lock", "rungs.lock", sync.LOCK)
# Of storage.write, in a process that was killed meanwhile.
LEFTOVER = re.compile(r".+\.(json|jsonl|safetensors|pt|csv|html|md|png)\.partial")
PREVIOUS = re.compile(r"(best|last)\.previous\.(safetensors|pt)")
UNITS = ("bytes", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Waste:
    """Something that could be removed.

    Args:
        owner: the folder of the run or the sweep that it belongs to, whose lock is held meanwhile.
        path: a file, or a folder with all that is in it.
        size: in bytes on disk.
    """

    owner: Path
    path: Path
    why: str
    size: int


def find(root: Path) -> Iterator[Waste]:
    """Yield what could be removed of the runs and sweeps at and below a folder.

    Raises:
        ConfigError: there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; knobs clean FOLDER looks below one")
    for here, names, files in os.walk(root):
        names.sort()
        folder = Path(here)
        if record.ENSEMBLE in files:
            names.clear()  # all that it holds is needed
        elif record.CONFIG in files:
            names.clear()
            if not _held(folder):
                yield from _of_run(folder)
        elif {record.LEDGER, record.STUDY, record.PLACES} & {*files}:
            if _held(folder):
                names.clear()  # its runs are under way, or about to be
            else:
                yield from _of_sweep(folder)


def _held(folder: Path) -> bool:
    """Return whether a process holds a run, a sweep, or the sweep of a run."""
    return any(held(place / name) for place in (folder, folder.parent) for name in LOCKS)


def _of_run(folder: Path) -> Iterator[Waste]:
    """Yield what could be removed of one run, or the whole of it."""
    run = read_run(folder)
    weights = folder / record.CHECKPOINTS
    kept = [p for p in weights.iterdir() if not PREVIOUS.fullmatch(p.name)] if _own(weights) else []
    searched = any((folder.parent / name).exists() for name in OF_SEARCHES)
    if not run.config:
        return  # no record of knobs, or one that cannot be read
    if run.status in ("failed", "interrupted") and not kept and not searched:
        again = "; the same sweep runs it again" if (folder.parent / record.LEDGER).exists() else ""
        yield Waste(folder, folder, f"{run.status}, with no checkpoint{again}", _size(folder))
        return
    yield from _leftovers(folder, folder)
    if _own(weights):
        yield from _leftovers(folder, weights)
        if run.status in (*record.FINISHED, "pruned"):  # others may have to go on from it
            why = "the checkpoint before the last one"
            for path in sorted(weights.iterdir()):
                if PREVIOUS.fullmatch(path.name) and _own(path):
                    yield Waste(folder, path, why, _size(path))
    if _own(folder / "wandb"):
        yield from _leftovers(folder, folder / "wandb")
        yield from _synced(folder)


def _of_sweep(folder: Path) -> Iterator[Waste]:
    """Yield what could be removed of a sweep's own files; no process holds it."""
    yield from _leftovers(folder, folder)
    path = folder / record.PLACES
    if _own(path) and _said_twice(path):
        yield Waste(folder, path, f"{record.STUDY} has all that it says", _size(path))


def _said_twice(path: Path) -> bool:
    """Return whether study.json has each run of a places.jsonl; no line of it is damaged."""
    try:
        known = dict(record.read_json(path.with_name(record.STUDY))["runs"])
        lines = filter(None, storage.read(path).splitlines())
        return all(str(storage.of_line(line)["run"]) in known for line in lines)
    except (*record.BROKEN, LookupError, TypeError):
        return False


def _leftovers(owner: Path, folder: Path) -> Iterator[Waste]:
    """Yield half-written files and locks of processes that are no more; the owner is not held."""
    for path in sorted(folder.iterdir()):
        if not path.is_symlink() and path.is_file():
            if LEFTOVER.fullmatch(path.name):
                yield Waste(owner, path, "half-written by a process that was killed", _size(path))
            elif path.name in LOCKS:
                yield Waste(owner, path, "lock of a process that was killed", _size(path))


def _synced(folder: Path) -> Iterator[Waste]:
    """Yield W&B's offline files of a run that the server was seen to have."""
    try:
        (run,) = sync.find(folder)
        noted = record.read_json(folder / "wandb" / sync.ARRIVED)
        whole = not run.fault and noted == run.facts(noted["server"])
    except (*record.BROKEN, KeyError, TypeError):
        return
    for path in run.parts if whole and run.status else ():
        if path.name.startswith("offline-") and _own(path):
            yield Waste(folder, path, "W&B has it: knobs sync verified it", _size(path))


def _own(path: Path) -> bool:
    return path.exists() and not path.is_symlink()


def _size(path: Path) -> int:
    """Return the bytes that a file or a folder takes on disk; links count for themselves."""
    paths = [path]
    for here, names, files in os.walk(path):
        paths += [Path(here, name) for name in (*names, *files)]
    total = 0
    for each in paths:
        with contextlib.suppress(OSError):
            about = each.lstat()
            total += getattr(about, "st_blocks", 0) * 512 or about.st_size
    return total


def remove(waste: Waste) -> str:
    """Remove it while its owner is held; return why it was left, empty where it is gone.

    What has changed since it was listed is left, and a lock that is held.
    """
    if waste.path.name in LOCKS:
        return "held by a process" if storage.held(waste.path) else ""
    with contextlib.ExitStack() as stack:
        try:
            if (waste.owner.parent / record.LEDGER).exists():
                stack.enter_context(ledger.held(waste.owner.parent))
            lock = record.LOCK if (waste.owner / record.CONFIG).exists() else ledger.LOCK
            stack.enter_context(storage.Lock(waste.owner / lock))
            if {found.path: found.why for found in _still(waste.owner)}.get(
                waste.path
            ) != waste.why:
                return "changed meanwhile"
            if waste.path.is_dir():
                shutil.rmtree(waste.path)
            else:
                waste.path.unlink()
        except (LockedError, OSError) as error:
            return str(error)
    return ""


def _still(owner: Path) -> Iterator[Waste]:
    """Yield what could be removed of a run or a sweep that this process holds itself."""
    if (owner / record.CONFIG).exists():
        yield from _of_run(owner)
    else:
        yield from _of_sweep(owner)


def in_bytes(size: float) -> str:
    """Format `512 bytes`, `1.5 MB`."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {UNITS[unit]}" if unit < 2 or size >= 10 else f"{size:.1f} {UNITS[unit]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `knobs clean`; return the exit code.

    Raises:
        ConfigError: there is no such folder.
    """
    parser = argparse.ArgumentParser(prog="knobs clean", description=__doc__.partition("`: ")[2])
    folder = "holds runs (default: outputs)"
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help=folder)
    parser.add_argument("--yes", action="store_true", help="remove what is listed")
    given = parser.parse_args(arguments)
    found = list(find(given.folder))
    left: dict[Path, str] = {}
    for waste in found:
        place = printable(os.path.relpath(waste.path, given.folder))
        why = remove(waste) if given.yes else ""
        left |= {waste.path: why} if why else {}
        print(f"{in_bytes(waste.size):>9}  {place}: {waste.why}" + f" (left: {why})" * bool(why))
    freed = in_bytes(sum(waste.size for waste in found if waste.path not in left))
    if not found:
        print(f"nothing to remove below {given.folder}")
    elif given.yes:
        print(f"freed {freed}" + f"; {count(len(left), 'thing')} left" * bool(left))
    else:
        print(f"{count(len(found), 'thing')}, {freed}; knobs clean --yes removes them")
    return 0
