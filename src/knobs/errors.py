"""The faults a user can mend, each with the exit code that scripts can tell apart."""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator

from knobs.secrets import cleared
from knobs.signals import Stopped, stop_signals
from knobs.words import printable

# Read once: the command line sets it, so that Hydra raises what it would print in its own way.
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
BUG = 1  # a fault of knobs itself
DIVERGED = 5  # the loss left the finite numbers: a result, not an error
SWEEP_FAILED = 10  # a sweep of which some runs failed
MAX_REASON = 300  # characters of what another error says
LONGEST = 10_000  # characters of a line of a message
INTERRUPTED = 130  # Ctrl-C


class UserError(ValueError):
    """A fault with a message for a person: printed without a traceback, and without secrets."""

    exit_code = 1

    def __str__(self) -> str:
        return cleared(super().__str__())


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


class ProcessLost(UserError):
    """Another process of a run that several train has ended before its time."""


class Bug(UserError):
    """A fault of knobs itself, or of code of the user's own; where its traceback is, it says."""

    exit_code = BUG

    def __init__(self, error: BaseException, place: str = "shown with HYDRA_FULL_ERROR=1"):
        what = f"{type(error).__name__}: {reason(error)}"
        super().__init__(f"{what}; a bug of knobs or of your own code, its traceback is {place}")


MOST_PLACE = 200  # characters of a name in a message
_LONG_WORD = re.compile(rf"\S{{{2 * MOST_PLACE},}}")


def _ends(word: re.Match) -> str:
    """Return the ends of a name of thousands of characters."""
    return f"{word[0][: MOST_PLACE // 2]}...{word[0][-MOST_PLACE // 2 :]}"


def tell(error: UserError, before: str = "knobs: ") -> int:
    """Print a fault to stderr; return its exit code."""
    note(str(error), before)
    return error.exit_code


def note(text: str, before: str = "knobs: ") -> None:
    """Print a line, or lines, to stderr; what they quote from files cannot steer the terminal."""
    lines = (printable(_LONG_WORD.sub(_ends, line), LONGEST) for line in text.split("\n"))
    with contextlib.suppress(OSError):  # stderr may lie on the full disk as well
        print(before + "\n".join(lines), file=sys.stderr)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its class if it says nothing.

    Of a library, or a server: without secrets, and fit for a terminal.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(cleared(line), MAX_REASON)


# Lines of Hydra's and OmegaConf's messages that tell a user of knobs nothing.
NO_REASON = (
    *("full_key:", "object_type=", "reference_type=", "Config search path:", "provider="),
    *("Set the environment", "To append to your config"),
)


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


# ------------------------------------------------------------------ faults of the machine
_AGAIN = "then resume the run, or repeat the command"
_ELSEWHERE = "make it writable, or name another folder"
_FILES = f"raise the limit of open files (ulimit -n), {_AGAIN}"
# What a disk refuses, whatever was asked of it, and the fix.
DISK = {
    errno.ENOSPC: f"free space, {_AGAIN}",
    errno.EDQUOT: f"free space within the quota, {_AGAIN}",
    errno.EFBIG: f"raise the limit of a file's size (ulimit -f), {_AGAIN}",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EIO: "the disk may be failing: copy what it holds, and name another folder",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead in a circle; name another",
    errno.ENOTDIR: "a file is where a folder must be; name another",
    errno.EISDIR: "a folder is where a file must be; move it away",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # also without a name
# Rust's way to say an error of the system (safetensors), and Arrow's.
_NUMBER = re.compile(r"\((?:os error|errno) (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
# torch's writer of zip files, which does not say what the system said.
_TORCH_WRITES = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs|iostream error")
# torch's allocators, C++'s, CUDA's libraries, and pandas' parser; numpy and Arrow have classes.
_STARVED = re.compile(
    "can't allocate memory|not enough memory|cannot allocate memory|bad_alloc|out of memory|"
    "_ALLOC_FAILED|failed to map segment|can't start new thread",
    re.IGNORECASE,
)


def starved(error: BaseException | None) -> bool:
    """Return whether an error says that there is no memory, whoever asked for it."""
    if isinstance(error, UserError) or error is None:
        return isinstance(error, MemoryShortage)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    kinds = (RuntimeError, ImportError, ValueError)  # a ParserError of pandas is a ValueError
    return isinstance(error, kinds) and bool(_STARVED.search(str(error)))


@contextlib.contextmanager
def making(what: str, fix: str) -> Iterator[None]:
    """Name what was being made, and the fix, where memory does not hold it.

    Args:
        what: with its size, `an encoding of 90,000 x 20,000 numbers (6.7 GiB)`.
        fix: what makes it smaller.

    Raises:
        MemoryShortage: as the work inside ran out of memory, on whatever device.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not starved(error):
            raise
        raise MemoryShortage(f"out of memory for {what} ({_allocator(error)}); {fix}") from None


def size(count: float) -> str:
    """Return a number of bytes in words: `6.7 GiB`."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 2**power:
            return f"{count / 2**power:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"


def _allocator(error: BaseException) -> str:
    """Return what an allocator says, without the place in torch's code and its advice."""
    why = re.sub(r"^\[enforce fail at [^]]*\]\s*(?:\S+ \S+ \S+\. )?", "", first_line(error))
    why = re.sub(r"(?<=[.]) (?:If reserved|Error code|See documentation|Search for).*", "", why)
    return why.removeprefix("DefaultCPUAllocator: ").rstrip(". ")


def refused(error: BaseException) -> int:
    """Return the number of the system's error by which a disk refused; 0 where none did.

    That of an error which was raised from another counts as well: logging says ValueError where a
    log cannot be opened.
    """
    if isinstance(error, UserError):
        return 0
    if isinstance(error, OSError) and error.errno is not None:
        named = error.filename is not None or error.errno in _FULL
        return error.errno if error.errno in DISK and named else 0
    text = str(error)
    if match := _NUMBER.search(text):
        number = int(match[1] or match[2])
        return number if number in DISK else 0
    if isinstance(error, RuntimeError) and _TORCH_WRITES.search(text):
        return (error.__context__ and refused(error.__context__)) or errno.ENOSPC
    return refused(error.__cause__) if error.__cause__ else 0


def for_a_person(error: Exception) -> Exception:
    """Return the same fault as a UserError where a user can mend it, else the error itself."""
    if starved(error):  # always a new one: the frames of the old one hold what it was made for
        if isinstance(error, UserError):
            return MemoryShortage(str(error))
        fix = "less data, a smaller model or a smaller training.batch_size may fit"
        return MemoryShortage(f"out of memory ({_allocator(error)}); {fix}")
    if number := refused(error):
        while error.__cause__ and not isinstance(error, OSError):
            error = error.__cause__
        place = str(getattr(error, "filename", None) or "the disk").removesuffix(".partial")
        return StorageError(f"{place}: {os.strerror(number)}; {DISK[number]}")
    return error


def fault_of(error: Exception) -> UserError:
    """Return any error as one message for a person; a fault of knobs is a Bug."""
    fault = for_a_person(error)
    if isinstance(fault, UserError):
        return fault
    if isinstance(error, OSError) and error.strerror:  # a folder that is gone
        return StorageError(f"{error.filename or 'the disk'}: {error.strerror}")
    return Bug(error)


def ended(command: Callable[[], int], before: str = "knobs: ") -> int:
    """Run a command to its end; return its exit code, a fault told in one message.

    A signal that asks it to stop ends it where it stands: nothing half written is left.

    Args:
        before: stands before the message.

    Raises:
        Exception: a fault of knobs, if HYDRA_FULL_ERROR=1 asks for its traceback.
    """
    quiet_logging()
    try:
        with stop_signals(at_once=True):
            code = command()
        sys.stdout.flush()  # here, where a full disk is told
        return code
    except UserError as error:
        return tell(error, before)
    except (Stopped, KeyboardInterrupt) as error:
        print("\ninterrupted", file=sys.stderr)
        return getattr(error, "code", INTERRUPTED)
    except BrokenPipeError:  # `... | head` has read enough
        close_output()
        return 0
    except Exception as error:
        fault = fault_of(error)
        if FULL_ERROR and isinstance(fault, Bug):
            raise
        close_output()
        return tell(fault, before)


def quiet_logging() -> None:
    """Keep the log's own faults off the screen: a full disk has its message already."""
    import logging

    logging.raiseExceptions = False


def close_output() -> None:
    """Write out what is printed, or drop it where it cannot be: Python's end would say it again."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # a test's stream has no number
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
