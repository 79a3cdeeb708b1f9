"""When a sweep stops early: its first runs have all failed with one cause. Imports no torch."""

import re
from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus

from knobs.errors import SWEEP_FAILED, UserError, first_line, for_a_person

FIRST = 3  # runs that fail alike before the sweep stops
_PATH = re.compile(r"\S*[/\\]\S*")
_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?")


class Halted(UserError):
    """A sweep whose first runs failed alike; the rest was not begun.

    Args:
        reason: what the first of them says.
        failed: how many have failed.
        left: how many were not begun.
        returns: of the jobs that have run.
    """

    exit_code = SWEEP_FAILED

    def __init__(self, reason: str, failed: int, left: int, returns: Sequence[JobReturn] = ()):
        self.returns = list(returns)
        mend = "mend it, or go on with keep_going=true"
        super().__init__(
            f"stopped: the first {failed} runs failed alike ({reason}); {mend}; {left} not started"
        )


class Interrupted(Exception):
    """A sweep that a signal ended before all of it was begun.

    Args:
        number: of the signal.
        returns: of the jobs that have run.
    """

    def __init__(self, number: int, returns: Sequence[JobReturn]):
        super().__init__(number)
        self.exit_code, self.returns = 128 + number, list(returns)


def failure(returned: JobReturn) -> Exception | None:
    """Return what failed a job; None where it did not fail, or was interrupted."""
    error = returned._return_value
    failed = returned.status is JobStatus.FAILED and isinstance(error, Exception)
    return for_a_person(error) if failed else None


def cause(error: Exception) -> str:
    """Return what two failures have in common that are alike: the class, and the message.

    Of the message its first line; a path (a word with a slash) and a number in it, as those of a
    job's folder and of its values, count as any other.
    """
    line = _NUMBER.sub("0", _PATH.sub("/", first_line(error)))
    return f"{type(error).__name__}: {line}"


def alike(ended: Sequence[Exception | None], whole_stack: bool = False) -> bool:
    """Return whether a sweep stops: all runs so far failed alike, and they are enough to say so.

    One that finished, diverged or failed otherwise ends the rule for the rest of the sweep.

    Args:
        ended: what failed each run that has ended, None where nothing did.
        whole_stack: whether they were all rows of one stack: then fewer than FIRST will do.
    """
    enough = len(ended) >= FIRST or (whole_stack and len(ended) > 1)
    if not enough or ended[0] is None:  # asked after each of 100,000 runs
        return False
    first = cause(ended[0])
    return all(error is not None and cause(error) == first for error in ended)
