"""The faults a user can mend, each with the exit code that scripts can tell apart."""

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator

# Read once: the command line sets it, so that Hydra raises what it would print in its own way.
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
BUG = 1  # a fault of knobs itself
DIVERGED = 5  # the loss left the finite numbers: a result, not an error
SWEEP_FAILED = 10  # a sweep of which some runs failed
INTERRUPTED = 130  # Ctrl-C; a SIGTERM ends in 143


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


class Exited(Exception):
    """The end of the process, called for by code of a run's own: it fails that run instead."""


class Insisted(KeyboardInterrupt):
    """A second Ctrl-C or SIGTERM, where the first one only asked to stop."""


@contextlib.contextmanager
def exits() -> Iterator[None]:
    """Turn what would end the process inside, as a SystemExit, into an Exited.

    What a person wants is let through: Insisted, and where Python handles Ctrl-C itself, as it does
    unless signals are collected, KeyboardInterrupt.
    """
    try:
        yield
    except (Exception, Insisted):
        raise
    except BaseException as error:
        collected = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        if isinstance(error, KeyboardInterrupt) and not collected:
            raise
        what = f"{type(error).__name__} {error}".strip()
        mend = "raise an error there instead"
        raise Exited(f"code of the run's own ended the process ({what}); {mend}") from error


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
