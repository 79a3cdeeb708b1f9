"""A disk that refuses: the system's calls below a folder fail as a full or a broken disk's do."""

import builtins
import contextlib
import errno
import io
import os
from pathlib import Path

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Disk:
    """What is written below a folder, call by call: open, write, fsync, rename, mkdir.

    Args:
        number: of the error that is raised.
        first, last: the calls that fail, from 0; none where `first` is None, as it only counts.
        names: only files whose path holds one of these words.
    """

    def __init__(self, folder, number=errno.ENOSPC, first=None, last=None, names=()):
        self.folder, self.number, self.names = os.path.abspath(folder), number, names
        self.first, self.last = first, first if last is None else last
        self.calls = []

    def ask(self, what, path):
        """Count a call, and raise if it is to fail."""
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(self.folder) or not all(name in place for name in self.names):
            return
        self.calls.append((what, place))
        if self.first is not None and self.first <= len(self.calls) - 1 <= self.last:
            named = () if what in ("write", "fsync") else (place,)
            raise OSError(self.number, os.strerror(self.number), *named)


class Writer:
    """A file whose writes are asked for; of one that fails the first half is there."""

    def __init__(self, file, path, disk):
        self.file, self.path, self.disk = file, path, disk

    def write(self, data):
        try:
            self.disk.ask("write", self.path)
        except OSError:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        self.file.close()

    def __iter__(self):
        return iter(self.file)


@contextlib.contextmanager
def refusing(monkeypatch, disk):
    """Let a disk answer inside; it is yielded."""
    true_open, true_os_open, paths = io.open, os.open, {}

    def opened(file, mode="r", *args, **kwargs):
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return true_open(file, mode, *args, **kwargs)
        disk.ask("open", file)
        made = true_open(file, mode, *args, **kwargs)
        paths[made.fileno()] = file
        return Writer(made, file, disk)

    def os_opened(path, flags, *args, **kwargs):
        if flags & WRITES:
            disk.ask("open", path)
        number = true_os_open(path, flags, *args, **kwargs)
        paths[number] = path
        return number

    def of_path(name, call):
        true = getattr(os, name)

        def asked(path, *args, **kwargs):
            disk.ask(call, path)
            return true(path, *args, **kwargs)

        patch.setattr(os, name, asked)

    true_sync = os.fsync

    def synced(number):
        disk.ask("fsync", paths.get(number, "/"))
        return true_sync(number)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "open", os_opened)
        patch.setattr(os, "fsync", synced)
        for name in ("replace", "rename"):
            of_path(name, "rename")
        of_path("mkdir", "mkdir")
        yield disk


def left_over(folder):
    """Files that a process leaves only where it was killed: half ones, and locks."""
    found = [*Path(folder).rglob("*.partial"), *Path(folder).rglob("*.lock")]
    return sorted(str(path.relative_to(folder)) for path in found)
