"""Processes with a parent of ours, which do not outlive it. On Windows they do: it keeps none."""

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable

POLL = 0.5  # seconds between two looks for the parent
GRACE = 8.0  # seconds that a process has to end once its parent has


def orphaned(parent: int) -> bool:
    """Return whether the process that started this one, by its id, has ended."""
    return os.name != "nt" and os.getppid() != parent


def end_with(parent: int, number: int = 0) -> None:
    """Let this process end when its parent has: ask it by a signal, and make it GRACE s later.

    Args:
        parent: the id of the process that started this one.
        number: of the signal; 0 asks nothing of it, it sees by itself.
    """

    def watch() -> None:
        while not orphaned(parent):
            time.sleep(POLL)
        with contextlib.suppress(OSError):
            os.kill(os.getpid(), number)
        time.sleep(GRACE)
        os._exit(128 + (number or signal.SIGTERM))

    if os.name != "nt":
        threading.Thread(target=watch, daemon=True, name="end with the parent").start()


def ends_with_us() -> Callable[[], None] | None:
    """Return a preexec_fn of subprocess.Popen: the system sends a program SIGTERM when we end.

    For programs that are not ours; Linux alone, and from the main thread alone. Else None.
    """
    import ctypes  # late: readers of data need it not

    prctl = getattr(ctypes.CDLL(None), "prctl", None) if os.name == "posix" else None
    return prctl and functools.partial(prctl, 1, signal.SIGTERM)  # 1: PR_SET_PDEATHSIG
