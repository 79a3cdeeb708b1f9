"""Files that processes share: written whole, appended to by lines, and locked. Nothing else writes.

A reader finds the old file or the new one; of lines, those that were written whole. A file may
carry its own SHA-256 (see `signed`), a line its CRC-32 (see `as_line`): what was damaged is not
believed.

A lock file is held by one process, and freed by the system when that process ends. It never holds
data: Windows lets nobody else read the locked byte. It is removed as it is released, so only a
killed process leaves one, which is in nobody's way.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

from knobs.errors import ConfigError, LockedError, StorageError, note
from knobs.words import count

T = TypeVar("T")
OURS = 0o755  # of a new folder, less what the umask takes away
OTHERS = stat.S_IWGRP | stat.S_IWOTH
MOST_BYTES = 2**28  # of a file of JSON; a sweep of 100,000 jobs has a tenth
POLL = 0.01  # seconds between two looks at a lock that is waited for
UNSIGNED = "0" * 64  # stands where a file's own SHA-256 goes while it is computed
_CRC = b',"crc":"%08x"}\n'  # ends a line that carries its own checksum
_CRC_BEGINS, _CRC_BYTES = _CRC[:8], len(_CRC % 0)


def _on_full_disks(write: Callable[..., None]) -> Callable[..., None]:
    """Make a failed write name its file, and leave no part of it: what says so may fit then."""

    @functools.wraps(write)
    def tried(path: Path, *args: Any, **kwargs: Any) -> None:
        try:
            write(path, *args, **kwargs)
        except BaseException as error:
            with contextlib.suppress(OSError):
                path.with_name(f"{path.name}.partial").unlink()
            _name(error, path)
            raise

    return tried


def _name(error: BaseException, path: Path) -> None:
    """Let an error say which file could not be written; of some calls the system does not."""
    if isinstance(error, OSError) and error.errno is not None:
        error.filename, error.filename2 = str(path), None


@_on_full_disks
def write(path: Path, data: bytes, sync: bool = False, name: bool = True) -> None:
    """Write a file that nobody ever sees half-written.

    Args:
        sync: whether it is to outlive a power cut; a millisecond, ten on a busy disk.
        name: whether the names of its folder's files are to as well, for one more sync; without
            it a power cut leaves the file before or this one, each whole.
    """
    partial = path.with_name(f"{path.name}.partial")
    with contextlib.suppress(FileNotFoundError):
        about = partial.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
            partial.unlink()  # a foreign folder's link or pipe: what it leads to is not ours
    with partial.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)
    if sync and name:
        sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that takes the place of `path` at the end, synced; nothing on an error."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # a disk that has become read-only
            partial.unlink()
        _name(error, path)
        raise
    sync_folder(path.parent)


def replace_folder(new: Path, path: Path) -> None:
    """Let a folder take the place of `path`, whose own, if there is one, is removed.

    Raises:
        OSError: naming `path`, which is as it was; or a disk refused that too, and it is said
            where what was there is now.
    """
    old = path.with_name(f"{path.name}.{time.time_ns()}.old")
    if there := path.exists():
        os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException as error:
        _name(error, path)
        if there:
            try:
                os.replace(old, path)
            except OSError:
                back = shlex.join(["mv", str(old), str(path)])
                note(f"{path}: what was there is {old.name} now; {back} puts it back")
        raise
    if there:
        shutil.rmtree(old)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files outlive a power cut."""
    if os.name == "nt":  # where folders are not opened
        return
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs none
            raise


def sync_file(path: Path) -> None:
    """Make what a file holds by now outlive a power cut, if somebody has not removed it."""
    with contextlib.suppress(FileNotFoundError):
        _sync(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))


def sync_all(folders: Iterable[Path]) -> None:
    """Make all that lies in these folders, and in those below, outlive a power cut.

    With one call to the system where it has one that waits; file by file elsewhere.
    """
    if sys.platform == "linux":
        os.sync()
        return
    for folder in folders:
        for here, _, files in os.walk(folder):
            for name in files:
                sync_file(Path(here, name))
            sync_folder(Path(here))
        sync_folder(folder.parent)


def _sync(path: Path, flags: int) -> None:
    number = os.open(path, flags)
    try:
        os.fsync(number)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        os.close(number)


# ------------------------------------------------------------------ checksums
def signed(data: bytes) -> bytes:
    """Return a file's bytes with their own SHA-256 in the place of UNSIGNED, which they hold."""
    return data.replace(UNSIGNED.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def intact(data: bytes, digest: Any) -> bool:
    """Return whether bytes that carry this digest are those that `signed` returned."""
    if not (isinstance(digest, str) and digest.isascii() and len(digest) == len(UNSIGNED)):
        return False
    unsigned = data.replace(digest.encode(), UNSIGNED.encode(), 1)
    return hashlib.sha256(unsigned).hexdigest() == digest


def about(data: bytes) -> dict[str, Any]:
    """Return what a file of safetensors says of itself, once its own digest is verified.

    An older one says its `epoch` alone, a text.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: damaged, or not a file that knobs writes.
    """
    size = int.from_bytes(data[:8], "little")
    said = json.loads(data[8 : 8 + size])["__metadata__"]
    if said.keys() == {"epoch"}:
        return said
    told = json.loads(said["knobs"])
    if not intact(data, told.get("digest")):
        raise ValueError("damaged, its SHA-256 is another")
    return told


def as_line(row: dict[str, Any]) -> bytes:
    """Return an object that is not empty as a line of JSON, its CRC-32 its last entry."""
    text = json.dumps(row).encode()[:-1]
    return text + _CRC % zlib.crc32(text)


def carries_its_checksum(line: bytes) -> bool:
    """Return whether a line, without its end, is one of `as_line`, undamaged."""
    text = line[: 1 - _CRC_BYTES]
    return line[len(text) :] + b"\n" == _CRC % zlib.crc32(text)


def checked(line: bytes) -> bytes:
    """Return the JSON text of a line, without the checksum that it carries; older lines have none.

    Raises:
        ValueError: damaged.
    """
    text = line[: 1 - _CRC_BYTES]
    if not line[len(text) :].startswith(_CRC_BEGINS):
        return line
    if not carries_its_checksum(line):
        raise ValueError("damaged: its checksum is another")
    return text + b"}"


def of_line(line: bytes) -> dict[str, Any]:
    """Return the object of a line, without its checksum; older lines have none.

    Raises:
        ValueError, RecursionError: damaged, or no JSON object.
    """
    row = json.loads(checked(line.rstrip(b"\r\n")))
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    if "crc" in row:
        raise ValueError("damaged: its checksum is none")
    return row


def rows(path: Path, parse: Callable[[dict[str, Any]], T], lost: str) -> list[T]:
    """Return what `parse` makes of each line of a log, in their order; damaged ones are left out.

    How many those are is said, once.

    Args:
        parse: raises ValueError, KeyError, TypeError or AttributeError of a row that is none.
        lost: what comes of it, for the message.

    Raises:
        OSError, ValueError: as `read`.
    """
    return rows_of(path, read(path), parse, lost)


def rows_of(path: Path, data: bytes, parse: Callable[[dict[str, Any]], T], lost: str) -> list[T]:
    """Return what `rows` does of some whole lines of a log that were read already."""
    found, damaged = [], 0
    for line in filter(None, data.splitlines()):
        try:
            found.append(parse(of_line(line)))
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            damaged += 1
    if damaged:
        _say_damaged(path, damaged, lost)
    return found


@functools.cache  # a search reads its log at every rung
def _say_damaged(path: Path, damaged: int, lost: str) -> None:
    note(f"{path}: {count(damaged, 'line')} damaged, and left out; {lost}")


@_on_full_disks
def append(path: Path, data: bytes) -> None:
    """Append whole lines, on a line of their own where a killed process left half a one.

    A process that is killed as it writes can leave half a line, a power cut any damage: readers
    know by the checksum of each line.
    """
    with _opened(path) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            data = data if file.read(1) == b"\n" else b"\n" + data
        file.write(data)


def _opened(path: Path, buffering: int = -1) -> Any:
    """Open a file to append to and read, through no link.

    Raises:
        StorageError: it is a link, or no file.
    """

    def opener(name: str, flags: int) -> int:
        number = os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
        about = os.fstat(number)
        if stat.S_ISREG(about.st_mode) and about.st_nlink <= 1:
            return number
        os.close(number)
        if about.st_nlink > 1:
            raise StorageError(_link(path))
        raise StorageError(f"{path}: is no file, but a pipe or a device; remove it")

    try:
        return open(path, "ab+", buffering, opener=opener)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise StorageError(_link(path)) from None
        raise


def _link(path: Path) -> str:
    kind = "a link" if path.is_symlink() else "a hard link, a file with a second name"
    return f"{path}: is {kind}, and nothing is written through one; put the file itself there"


def read(path: Path, most: int = MOST_BYTES, start: int = 0) -> bytes:
    """Return what a file holds; of one that nobody has vouched for, at once or not at all.

    Args:
        most: bytes; a larger file is none that knobs writes.
        start: bytes to pass over.

    Raises:
        OSError: it cannot be read. ValueError: a pipe, a socket, a device, or too large.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(number, "rb") as file:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path}: no file, but a pipe, a socket or a device")
        if about.st_size > most:
            raise ValueError(f"{path}: has {about.st_size:,} bytes, and {most:,} at most are read")
        file.seek(start)
        return file.read(max(0, about.st_size - start))


def memory() -> int:
    """Return the bytes of this machine's memory: no larger file can be read whole."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**40


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder in which something that is to be written into is a link.

    The folder itself may be reached through links.

    Args:
        names: of its files and folders.

    Raises:
        StorageError: naming the link.
    """
    for name in names:
        with contextlib.suppress(OSError):  # what is not there is no link
            about = (folder / name).lstat()
            hard = stat.S_ISREG(about.st_mode) and about.st_nlink > 1
            if hard or stat.S_ISLNK(about.st_mode):
                raise StorageError(_link(folder / name))


def closed(folder: Path) -> None:
    """Refuse a folder that others may write into, before anything in it is relied on.

    A group of this user's own is nobody else. Where modes mean nothing (a file system that keeps
    none, a read-only one, Windows) nothing is refused.

    Raises:
        ConfigError: with the chmod that closes it.
    """
    for place in (folder, folder / "checkpoints") if os.name != "nt" else ():
        try:
            about = place.stat()
        except OSError:
            continue
        open_to = about.st_mode & (OTHERS if _shared(about.st_gid) else stat.S_IWOTH)
        if open_to and _keeps_modes(place, about):
            who = "everybody" if open_to & stat.S_IWOTH else "its group"
            mend = f"chmod -R go-w {shlex.quote(str(folder))}"
            raise ConfigError(
                f"{place}: {who} may write there (mode {stat.S_IMODE(about.st_mode):o}), so it may "
                f"hold anything; look at what it holds, then: {mend}"
            )


def _shared(group: int) -> bool:
    """Return whether a group is more than the private one of this user: ssh's rule on Debian."""
    import grp
    import pwd

    try:
        about, me = grp.getgrgid(group), pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # nobody knows its name
        return group != os.getgid()
    return about.gr_name != me or any(name != me for name in about.gr_mem)


def _keeps_modes(folder: Path, about: os.stat_result) -> bool:
    """Return whether chmod changes a folder's mode; tried, and undone, where it is one's own."""
    mode = stat.S_IMODE(about.st_mode)
    try:
        folder.chmod(mode & ~OTHERS)
        changed = stat.S_IMODE(folder.stat().st_mode) != mode
        if changed:
            folder.chmod(mode)
        return changed
    except OSError as error:
        return error.errno == errno.EPERM and about.st_uid != os.getuid()


def make_folder(folder: Path) -> None:
    """Make a folder that this user alone may write into, if it is not there; see `closed`.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(OURS, parents=True, exist_ok=True)


_CLAIMED: list[Path] = []


def give_back_claimed() -> None:
    """Remove the folders that `claim` has made in this process, where nothing is in them."""
    while _CLAIMED:
        with contextlib.suppress(OSError):
            _CLAIMED.pop().rmdir()


def claim(folder: Path) -> Path:
    """Make a new folder, and return it: `folder`, or `folder-2`, ... where another process has it.

    Raises:
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for name in itertools.chain([folder.name], (f"{folder.name}-{i}" for i in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            (folder.parent / name).mkdir(OURS)
            _CLAIMED.append(folder.parent / name)
            return folder.parent / name
    raise AssertionError("there is always a further number")


def cut_half_line(path: Path) -> None:
    """Take off the half a line that a killed process left, for readers that refuse it."""
    with _opened(path) as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def as_json(document: Any, indent: int | None = 1) -> bytes:
    """Return plain data as a JSON text that ends its line; null for a number that is not finite."""
    try:
        text = json.dumps(document, indent=indent, allow_nan=False)
    except ValueError:  # JSON has no NaN: other readers would refuse the whole file
        text = json.dumps(_finite(document), indent=indent, allow_nan=False)
    return text.encode() + b"\n"


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(child) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(child) for child in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


_MINE: dict[Path, "Lock"] = {}  # taken by this process before what they are for has begun


class Lock(contextlib.AbstractContextManager):
    """A lock file, held until it is released or the process ends.

    Args:
        path: made if it is not there. Its first byte is locked; who holds it stands behind.
        refusal: of a LockedError, about the file's folder; {who} becomes the holder.
        wait: for the holder to release it.

    Raises:
        LockedError: another process holds it.
    """

    def __init__(self, path: Path, refusal: str = "held by {who}", wait: bool = False):
        from filelock import lock_descriptor  # 20 ms to import, for which --help need not wait

        self.path, self._file = path, _opened(path, buffering=0)
        while lock_descriptor(self._file.fileno(), blocking=wait, poll_interval=POLL):
            if os.fstat(self._file.fileno()).st_nlink:
                with contextlib.suppress(OSError):  # a full disk: it is held all the same
                    self._file.truncate(0)
                    self._file.write(f" process {os.getpid()} on {platform.node()}\n".encode())
                return
            self._file.close()  # its holder removed it after it was opened here: lock the next one
            self._file = _opened(path, buffering=0)
        with self._file as file:
            file.seek(1)
            who = file.read().decode(errors="replace").strip() or "another process"
        raise LockedError(f"{path.parent}: {refusal.format(who=who)}")

    def release(self) -> None:
        """Remove the file, then unlock it: whoever locks it after that sees that it is gone."""
        from filelock import unlock_descriptor

        if not self._file.closed:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                self.path.unlink()
            unlock_descriptor(self._file.fileno())  # in a forked reader of data too
            self._file.close()

    def __exit__(self, *_: object) -> None:
        self.release()


def held(path: Path) -> bool:
    """Return whether a process holds this lock file; one that a killed process left is removed."""
    try:
        if path.exists():
            Lock(path).release()
    except LockedError:
        return True
    except OSError:
        pass  # nobody holds what nobody may write
    return False


def untied(path: Path) -> str:
    """Return who holds a lock, by its file, where this process could take it all the same.

    Empty where it cannot, as it should be. Its holder has ended, or locks of this file system do
    not hold between machines; the file stays as it is.
    """
    from filelock import lock_descriptor, unlock_descriptor

    try:
        with path.open("rb+", buffering=0) as file:
            if not lock_descriptor(file.fileno(), blocking=False):
                return ""
            unlock_descriptor(file.fileno())
            return file.read()[1:].decode(errors="replace").strip() or "nobody"
    except OSError:
        return ""


def keep(lock: Lock) -> None:
    """Keep a lock for `take_over`: a run's folder is held before Hydra writes into it."""
    _MINE[lock.path.absolute()] = lock


def take_over(path: Path) -> Lock | None:
    """Return the lock of a path that this process has kept; None where there is none."""
    return _MINE.pop(path.absolute(), None)


def release_kept() -> list[Path]:
    """Release every lock that was kept and that nobody took over; return their files."""
    paths = [*_MINE]
    for path in paths:
        _MINE.pop(path).release()
    return paths
