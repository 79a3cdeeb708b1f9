"""Processes with a parent of ours, which do not outlive it. On Windows they do: it keeps none.

And those that torchrun starts, of which the first one speaks for all.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from knobs.errors import UserError, tell

POLL = 0.5  # seconds between two looks for the parent
PATIENCE = 3.0  # seconds that the first process has to end with a fault that others have too
GRACE = 8.0  # seconds that a process has to end once its parent has


def of_torchrun() -> tuple[int, int]:
    """Return this process's number, and how many torchrun started for a run; 0, 1 without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # other tools set WORLD_SIZE too
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def tell_apart(error: UserError, number: int, count: int) -> int:
    """Tell the fault of another process than the first, if that lives on; return its exit code.

    A fault that the first one has too is told by it, and its end is that of all.
    """
    time.sleep(PATIENCE)
    sys.stderr = sys.__stderr__
    return tell(error, f"knobs: process {number} of {count}: ")


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
