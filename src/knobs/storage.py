"""Files that processes share: written whole, appended to by lines, and locked.

A lock file is held by one process, and freed by the system when that process ends. It never holds
data: Windows lets nobody else read the locked byte. It is removed as it is released, so only a
killed process leaves one, which is in nobody's way.
"""

import contextlib
import os
import platform
from pathlib import Path
from typing import BinaryIO

from knobs.errors import LockedError

POLL = 0.01  # seconds between two looks at a lock that is waited for


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody ever sees half-written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def open_lines(path: Path) -> BinaryIO:
    """Open lines to read and append, freed of the half a line that a killed process left."""
    file = path.open("a+b")
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0)
    return file


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

        self._path, self._file = path, path.open("a+b", buffering=0)
        while lock_descriptor(self._file.fileno(), blocking=wait, poll_interval=POLL):
            if os.fstat(self._file.fileno()).st_nlink:
                self._file.truncate(0)
                self._file.write(f" process {os.getpid()} on {platform.node()}\n".encode())
                return
            self._file.close()  # its holder removed it after it was opened here: lock the next one
            self._file = path.open("a+b", buffering=0)
        with self._file as file:
            file.seek(1)
            who = file.read().decode(errors="replace").strip() or "another process"
        raise LockedError(f"{path.parent}: {refusal.format(who=who)}")

    def release(self) -> None:
        """Remove the file, then unlock it: whoever locks it after that sees that it is gone."""
        from filelock import unlock_descriptor

        if not self._file.closed:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                self._path.unlink()
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
