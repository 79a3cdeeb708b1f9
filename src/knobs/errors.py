"""The faults a user can mend, each with the exit code that scripts can tell apart."""

import errno

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


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its class name if that is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def for_a_person(error: Exception) -> Exception:
    """The same fault as a UserError where a user can mend it; any other comes back as it is."""
    line = first_line(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return StorageError(f"the disk cannot be written to ({line}); free space, then resume")
    # torch's own class on an accelerator; on a CPU a RuntimeError with these words.
    starved = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in line
    if starved or isinstance(error, MemoryError):
        smaller = "a smaller training.batch_size, or training.accumulate=2, may fit"
        return MemoryShortage(f"out of memory ({line}); {smaller}")
    return error
