"""The faults a user can mend, and the signals that end a process, each with its exit code."""

import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

# Read once: the command line sets it, so that Hydra raises what it would print in its own way.
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
BUG = 1  # a fault of knobs itself
DIVERGED = 5  # the loss left the finite numbers: a result, not an error
SWEEP_FAILED = 10  # a sweep of which some runs failed
INTERRUPTED = 130  # Ctrl-C
# Signals that ask a process to end, after which it can go on: of Ctrl-C, of schedulers (SIGUSR1
# comes before a time limit), of a terminal that is closed. Windows has not all of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOPPING = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
STOPPED = {128 + number for number in STOPPING}  # exit codes: 130, 143, 129, 138


class UserError(ValueError):
    """A fault with a message for a person: printed without a traceback."""

    exit_code = 1


class ConfigError(UserError):
    """A value, a name or a combination that cannot be."""

    exit_code = 2


class DataError(UserError):
    """Data missing, unreadable, corrupt or not what was expected."""

    exit_code = 3


class CheckpointError(UserError):
    """No checkpoint, or one that does not fit."""

    exit_code = 4


class StorageError(UserError):
    """A disk that cannot be written to."""

    exit_code = 6


class MemoryShortage(UserError):
    """More memory asked for than there is."""

    exit_code = 7


class LockedError(UserError):
    """A folder that another process is writing."""

    exit_code = 9


class Bug(UserError):
    """A fault of knobs itself, or of code of the user's own; where its traceback is, it says."""

    exit_code = BUG

    def __init__(self, error: BaseException, place: str = "shown with HYDRA_FULL_ERROR=1"):
        what = f"{type(error).__name__}: {reason(error)}"
        super().__init__(f"{what}; a bug of knobs or of your own code, its traceback is {place}")


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


@contextmanager
def stop_signals(at_once: bool = False) -> Iterator[Received]:
    """Collect the signals of STOPPING inside; see Received.

    One that this process was started to ignore, as nohup does with SIGHUP, is still ignored.
    """
    received = Received(at_once)

    def ask(number: int, _frame: object) -> None:
        received.append(number)
        if received.at_once or len(received) == 2:
            raise Stopped(received[0])

    before = {}
    with suppress(ValueError):  # not the main thread: signals are someone else's
        for number in STOPPING:
            ignored = signal.getsignal(number) is signal.SIG_IGN
            if not ignored or number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, ask)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def tell(error: UserError) -> int:
    """Print a fault to stderr; return its exit code."""
    print(f"knobs: {error}", file=sys.stderr)
    return error.exit_code


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# Lines of Hydra's and OmegaConf's messages that tell a user of knobs nothing.
NO_REASON = (
    *("full_key:", "object_type=", "reference_type=", "Config search path:", "provider="),
    *("Set the environment", "To append to your config"),
)
MAX_REASON = 300  # characters


def reason(error: BaseException) -> str:
    """Return all that an error says in one line, its bookkeeping and its ruler left out."""
    cause = error.__cause__  # where Hydra says which key, OmegaConf says what is wrong with it
    told = [error, *([cause] if type(cause).__module__.startswith("omegaconf.") else [])]
    lines = [line.strip() for e in told for line in str(e).splitlines()]
    lines = [line for line in lines if line.strip("^ ") and not line.startswith(NO_REASON)]
    if not lines:
        return type(error).__name__
    text = " ".join(dict.fromkeys(lines))
    text = re.sub(r"^\w+ raised while resolving interpolation: ['\"](.*)['\"]$", r"\1", text)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"


def closest(word: str, words: Iterable, cutoff: float = 0.7) -> str:
    """Return the word that is nearest to one mistyped; empty where none is near."""
    import difflib

    near = difflib.get_close_matches(str(word), [str(w) for w in words], n=1, cutoff=cutoff)
    return near[0] if near else ""


def did_you_mean(word: str, words: Iterable) -> str:
    """Return `; did you mean X?`, or nothing where none of the words is near."""
    near = closest(word, words, cutoff=0.6)
    return f"; did you mean {near}?" if near else ""


def for_a_person(error: Exception) -> Exception:
    """Return the same fault as a UserError where a user can mend it, else the error itself."""
    why = first_line(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StorageError(f"the disk cannot be written to ({why}); free space, then resume")
    # torch's own class on an accelerator; on a CPU a RuntimeError with these words.
    starved = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in why
    if starved or isinstance(error, MemoryError):
        smaller = (
            "a smaller training.batch_size, or training.gradient_accumulation_steps=2, may fit"
        )
        return MemoryShortage(f"out of memory ({why}); {smaller}")
    return error
