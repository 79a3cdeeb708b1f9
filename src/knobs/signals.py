"""End this process before its work is done: by signals; code of a run's own that exits may not."""

import contextlib
import itertools
import signal
from collections.abc import Iterator
from types import FrameType

# Signals that ask a process to end, after which it can go on: of Ctrl-C, of schedulers (SIGUSR1
# comes before a time limit), of a terminal that is closed. Windows has not all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
STOPPED = {128 + number for number in STOPPING}  # exit codes: 130, 143, 129, 138
IMPORTING = "<frozen importlib._bootstrap>"  # the file of a frame that imports a module
AGAIN, MOST_AGAIN = 0.02, 500  # seconds between two tries to end, and how many: 10 s


class Exited(Exception):
    """The end of the process, called for by code of a run's own: it fails that run instead."""


@contextlib.contextmanager
def exits() -> Iterator[None]:
    """Turn what would end the process inside, as a SystemExit, into an Exited.

    What a person wants is let through: Stopped, and where Python handles Ctrl-C itself, as it does
    unless signals are collected, KeyboardInterrupt.
    """
    try:
        yield
    except (Exception, Stopped):
        raise
    except BaseException as error:
        collected = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if isinstance(error, KeyboardInterrupt) and not collected:
            raise
        what = f"{type(error).__name__} {error}".strip()
        mend = "raise an error there instead"
        raise Exited(f"code of the run's own ended the process ({what}); {mend}") from error


class Stopped(SystemExit):
    """The end of this process where it stands, because of a signal; 128 + its number."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.number = number


class Received(list[int]):
    """The numbers of the signals that asked this process to stop, in their order.

    Args:
        at_once: whether the first one ends what runs, by Stopped, instead of being noted for
            whoever looks here; a second one always does. Later ones wait until that is done.
    """

    def __init__(self, at_once: bool):
        self.at_once = at_once
        self.raised = False  # whether Stopped has been


@contextlib.contextmanager
def still_stopped(received: Received) -> Iterator[None]:
    """Raise Stopped in the place of what came of one that was raised inside.

    What it passes through may raise an error of its own, as OmegaConf does where it was about to
    put a config back together: nothing of that is a fault, and the process was asked to end.
    """
    try:
        yield
    except BaseException as error:
        if received.raised and getattr(error, "code", None) not in STOPPED:
            raise Stopped(received[0]) from error
        raise


@contextlib.contextmanager
def stop_signals(at_once: bool = False) -> Iterator[Received]:
    """Collect the signals of STOPPING inside; see Received.

    One that this process was started to ignore, as nohup does with SIGHUP, is still ignored.
    None is raised where it would be lost, but as soon as that is over, or after 10 s. Code in C
    that imports a module, as torch does with numpy, drops what is raised, and goes on with half of
    it; and of what a finalizer raises Python prints a traceback, no more.
    """
    received, before, tries = Received(at_once), {}, itertools.count()

    def ask(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if received.at_once or len(received) == 2:
            end(number, frame)

    def end(_number: int, frame: FrameType | None) -> None:
        waits = hasattr(signal, "setitimer") and _is_lost(frame) and next(tries) < MOST_AGAIN
        if not waits:
            received.raised = True
            raise Stopped(received[0])
        before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, end))
        signal.setitimer(signal.ITIMER_REAL, AGAIN)

    with contextlib.suppress(ValueError):  # not the main thread: signals are someone else's
        for number in STOPPING:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if not ignored or number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask)
    try:
        with still_stopped(received):
            yield received
    finally:
        if hasattr(signal, "SIGALRM") and signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_lost(frame: FrameType | None) -> bool:
    """Return whether what is raised here may be lost: within an import, or a finalizer."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename == IMPORTING or code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
