"""Data converted once: a folder an entry below one root, verified as it is used.

The root is $KNOBS_CACHE, else ~/.cache/knobs, of this user alone. An entry is made in a folder of
another name and renamed, its manifest written last, so that there is a whole one or none. Beyond
MOST bytes those go first that were used the longest ago.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs import storage
from knobs.errors import LockedError, StorageError, ended, size

VARIABLE = "KNOBS_CACHE"
MANIFEST = "manifest.json"
PARTIAL, LOCK = ".partial", ".lock"  # ends of names beside an entry's
VERSION = 1
MOST = 20 * 2**30  # bytes of all entries
SPARE = 2**28  # bytes of the disk that stay free
_FIX = f"free space, or name a folder on another disk: export {VARIABLE}=FOLDER"

log = logging.getLogger(__name__)
_verified: dict[Path, tuple] = {}  # by this process: a folder and what its files were then


def root() -> Path:
    """Return the cache's folder, which is made where it is not there.

    Raises:
        StorageError: it is no folder, or cannot be made. ConfigError: others may write into it.
    """
    given = os.environ.get(VARIABLE)
    try:
        folder = Path(given or "~/.cache/knobs").expanduser().absolute()
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"{VARIABLE}={given or '~/.cache/knobs'}: {why}; {_FIX}") from None
    storage.closed(folder)
    return folder


def entry(
    name: str, about: str, need: int, make: Callable[[Path], Any], use: Callable[[Path, Any], Any]
) -> Any:
    """Return what `use` makes of an entry's folder, which is made first where no whole one is.

    One process makes it, others wait. What is open stays readable after its file is removed.

    Args:
        name: of the entry; it says all that its content depends on.
        about: it is, for the listing.
        need: bytes that it takes.
        make: writes its files into a new folder, and returns facts as plain data.
        use: opens its files; it gets the folder and the facts.

    Raises:
        StorageError: the disk is too small for it. OSError: the disk refuses.
    """
    place = root()
    folder = place / name
    with _held(folder, about):
        found = _manifest(folder)
        if found is None or not _intact(folder, found):
            if folder.exists():
                log.warning("%s: damaged, so it is made again", folder)
            _remove(folder)
            _refuse_full(place, about, need)
            found = _made(folder, about, make)
        with contextlib.suppress(OSError):
            os.utime(folder / MANIFEST)
        return use(folder, found["facts"])


@contextlib.contextmanager
def _held(folder: Path, about: str) -> Iterator[None]:
    """Hold an entry, waiting for the process that makes it."""
    path = folder.with_name(folder.name + LOCK)
    try:
        lock = storage.Lock(path)
    except LockedError:
        log.info("%s: another process converts it; waiting", about)
        lock = storage.Lock(path, wait=True)
    with lock:
        yield


def _made(folder: Path, about: str, make: Callable[[Path], Any]) -> dict[str, Any]:
    """Make an entry; leave nothing of it where that fails."""
    partial = folder.with_name(folder.name + PARTIAL)
    _remove(partial)
    try:
        partial.mkdir(0o700)
        facts = make(partial)
        files = {}
        for path in sorted(partial.iterdir()):
            files[path.name] = [path.stat().st_size, _digest(path)]
        found = {"version": VERSION, "about": about, "facts": facts, "files": files}
        text = storage.as_json(found | {"sha256": storage.UNSIGNED}, indent=None)
        storage.write(partial / MANIFEST, storage.signed(text), sync=True)
        os.replace(partial, folder)
        storage.sync_folder(folder.parent)
    except BaseException:
        _remove(partial)
        raise
    _verified[folder] = _stats(folder, found)
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return an entry's manifest; None where it is not there, or not as it was written."""
    try:
        if folder.is_symlink():
            return None
        data = storage.read(folder / MANIFEST)
        found = json.loads(data)
        whole = found["version"] == VERSION and storage.intact(data, found["sha256"])
        return found if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _intact(folder: Path, found: dict[str, Any]) -> bool:
    """Return whether an entry's files are those of its manifest; their bytes are read once."""
    try:
        stats = _stats(folder, found)
        if _verified.get(folder) == stats:
            return True
        sizes = all(stat[0] == found["files"][name][0] for name, *stat in stats)
        if not sizes or any(_digest(folder / n) != digest for n, (_, digest) in
                            found["files"].items()):  # fmt: skip
            return False
    except OSError:
        return False
    _verified[folder] = stats
    return True


def _stats(folder: Path, found: dict[str, Any]) -> tuple:
    stats = ((name, (folder / name).lstat()) for name in sorted(found["files"]))
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in stats)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_full(place: Path, about: str, need: int) -> None:
    """Make room for an entry, and refuse one that the disk does not hold.

    Raises:
        StorageError: naming the cache, what is needed and what is free.
    """
    trim(max(0, MOST - need))
    free = shutil.disk_usage(place).free
    if need + SPARE > free:
        room = f"needs {size(need)}, and {size(free)} are free"
        raise StorageError(f"{place}: {about} {room}; {_FIX}")


def _remove(folder: Path) -> None:
    """Remove an entry's folder, or a link in its place."""
    _verified.pop(folder, None)
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


# ------------------------------------------------------------------ all entries
@dataclass(frozen=True)
class Entry:
    """One folder of the cache.

    Args:
        about: what it is; "" of one that no process finished.
        size: bytes. used: seconds since 1970.
    """

    folder: Path
    about: str
    size: int
    used: float


def entries() -> list[Entry]:
    """Return the entries, those used the longest ago first; unfinished ones before all."""
    found = []
    for folder in root().iterdir():
        with contextlib.suppress(OSError):
            if folder.is_symlink() or not folder.is_dir():
                continue
            manifest = None if folder.suffix == PARTIAL else _manifest(folder)
            total = sum(path.lstat().st_size for path in folder.iterdir())
            used = (folder / MANIFEST).stat().st_mtime if manifest else 0.0
            found.append(Entry(folder, manifest["about"] if manifest else "", total, used))
    return sorted(found, key=lambda one: (one.used, one.folder.name))


def trim(most: int) -> list[Entry]:
    """Remove what no process finished, and entries used the longest ago beyond `most` bytes.

    Those that a process makes or opens at the moment stay.
    """
    found = entries()
    total, removed = sum(one.size for one in found), []
    for one in found:
        if one.used and total <= most:
            continue
        name = one.folder.name.removesuffix(PARTIAL)
        with contextlib.suppress(LockedError, OSError), storage.Lock(
            one.folder.with_name(name + LOCK)
        ):  # fmt: skip
            _remove(one.folder)
            total -= one.size
            removed.append(one)
    return removed


def main(arguments: Sequence[str] | None = None) -> int:
    """List the cache's entries, or remove them; return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m knobs.cache",
        description=f"Data that knobs has converted to train from the disk; ${VARIABLE} names "
        f"the folder. Beyond {size(MOST)} those used the longest ago are removed by themselves.",
    )
    parser.add_argument("--clear", action="store_true", help="remove all that no process opens")
    given = parser.parse_args(arguments)
    removed = trim(-1) if given.clear else []
    if given.clear:
        freed = size(sum(one.size for one in removed))
        print(f"{root()}: {len(removed)} removed, {freed}")
    for one in reversed(entries()):
        used = (
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)) if one.used else "unfinished"
        )
        print(f"{used:16}  {size(one.size):>9}  {one.folder.name}  {one.about}")
    if not given.clear:
        print(f"{root()}: {size(sum(one.size for one in entries()))} of {size(MOST)} at most")
    return 0


if __name__ == "__main__":
    sys.exit(ended(main))
