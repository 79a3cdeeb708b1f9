"""Groups of workers that do not see the sweep's folder: their runs travel as files. Ray only.

The driver sends the document of a group; the worker runs it in a folder of its own, and sends back
the files that a run leaves, by names that are listed here, as JSON and bytes. The driver writes
them where they belong. Small runs only: a group brings back MOST bytes, or nothing. Imports no
torch.
"""

import dataclasses
import json
import re
import tempfile
import time
from pathlib import Path

from knobs.errors import ConfigError, StorageError
from knobs.record import SUMMARY
from knobs.storage import make_folder, read, refuse_links, write
from knobs.workers import groups, worker

UNSEEN = "unseen"
MOST = 2**30  # bytes that a group brings back
SHOWS = 20.0  # seconds that a shared file system may take to show a new file to another machine
POLL = 0.5
# What comes back of a run's folder.
NAMES = (
    *("config.json", "metrics.jsonl", "train.log", "predictions.safetensors"),
    *("preparation.json", "preparation.safetensors"),
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    *("checkpoints/best.safetensors", "checkpoints/best.previous.safetensors"),
    *("checkpoints/last.safetensors", "checkpoints/last.previous.safetensors"),
    *("checkpoints/manifest.json", SUMMARY),
)
_RUN = re.compile(r"(0|[1-9]\d{0,8})/(.+)")


def sees(folder: Path, group: str) -> bool:
    """Return whether this machine sees a sweep's folder: by the file of a group in it."""
    latest = time.monotonic() + SHOWS
    while not (seen := groups.path(folder, group).is_file()):
        if not folder.is_dir() or time.monotonic() > latest:
            break
        time.sleep(POLL)
    return seen


def document(folder: Path, group: str) -> bytes:
    """Return the document of a group, for a worker that does not see it."""
    return read(groups.path(folder, group))


def work_apart(folder: str, group: str, document: bytes) -> tuple[bytes, bytes]:
    """Run a group in a folder of this machine; return the names and sizes of its files, and those.

    Args:
        folder: the sweep's at the driver; its name is kept.

    Returns:
        None of runs that are more than MOST: their driver is told, and does not ask again.
    """
    from knobs.config import command
    from knobs.workers import wire

    with tempfile.TemporaryDirectory(prefix="knobs-", ignore_cleanup_errors=True) as root:
        place = Path(root, Path(folder).name)
        make_folder(groups.path(place, group).parent)
        make_folder(place / groups.WORKERS)
        write(groups.path(place, group), document)
        asked = groups.read_group(place, group)
        main, *more = asked.folders
        main = main if Path(main).is_dir() else str(command.CONF)
        where = asked.directory if Path(asked.directory).is_dir() else root
        here = dataclasses.replace(asked, folders=[main, *more], directory=where)
        worker.work(str(place), group, groups.write_group(place, group, here))
        try:
            return packed(place, group, asked.numbers)
        except ConfigError as error:  # to run it again would come to the same
            told = groups.told_path(place, group)
            told.unlink()  # which says that runs have ended, whose records stay here
            wire.tell(told, {"refused": f"{type(error).__name__}: {error}"})
            return packed(place, group, [])


def packed(folder: Path, group: str, numbers: list[int]) -> tuple[bytes, bytes]:
    """Return names and sizes of the files of a group's runs as JSON, and their bytes in that order.

    Raises:
        ConfigError: they are more than MOST.
    """
    told = groups.told_path(folder, group)
    files = {name: folder / name for n in numbers for name in _names(n)}
    files |= {f"{groups.WORKERS}/{told.name}": told}
    there = {name: path for name, path in files.items() if path.is_file() and not path.is_symlink()}
    size = sum(path.stat().st_size for path in there.values())
    if size > MOST:
        raise ConfigError(
            f"group {int(group)}: its runs take {size / 2**30:.1f} GiB; more than "
            f"{MOST // 2**30} GiB does not come back from a worker that does not see the sweep's "
            "folder; put that on a file system which all machines share (hydra.sweep.dir=...)"
        )
    data = {name: path.read_bytes() for name, path in there.items()}
    index = [[name, len(part)] for name, part in data.items()]
    return json.dumps(index).encode(), b"".join(data.values())


def receive(folder: Path, group: str, names: bytes, data: bytes) -> None:
    """Write the files that a worker sent back into the folders of its group's runs.

    Raises:
        StorageError: one is not of those runs, or not of the names that come back; a link is in the
            way; sizes do not agree. Nothing has been written then.
    """
    numbers = set(groups.read_group(folder, group).numbers)
    told = f"{groups.WORKERS}/{groups.told_path(folder, group).name}"
    parts: dict[str, bytes] = {}
    at = 0
    try:
        for name, size in json.loads(names):
            match = _RUN.fullmatch(name)
            ours = match and int(match[1]) in numbers and match[2] in NAMES
            if not (ours or name == told) or type(size) is not int or size < 0 or name in parts:
                raise ValueError(f"{name!r:.100} is no file of its runs")
            parts[name], at = data[at : at + size], at + size
        if at != len(data) or at > MOST:
            raise ValueError("its files are not as large as it says")
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(
            f"group {int(group)}: what its worker sent is refused: {error}"
        ) from None
    for name in parts:
        above = [str(part) for part in Path(name).parents if part != Path()]
        refuse_links(folder, [*above, name])
    # What says that something is there comes after it: the summary, then the worker's lines.
    for name in sorted(parts, key=lambda name: (name == told, name.endswith(SUMMARY))):
        make_folder((folder / name).parent)
        write(folder / name, parts[name], sync=name.endswith(SUMMARY))


def _names(number: int) -> list[str]:
    return [f"{number}/{name}" for name in NAMES]
