"""The faults a user can mend, each with the exit code that scripts can tell apart."""


class UserError(ValueError):
    """A fault with a message for a person: printed without a traceback."""

    exit_code = 1


class ConfigError(UserError):
    exit_code = 2


class DataError(UserError):
    exit_code = 3


class CheckpointError(UserError):
    exit_code = 4


class LockedError(UserError):
    exit_code = 9


DIVERGED = 5  # exit code of a run whose loss left the finite numbers: a result, not an error
STORAGE = 6
MEMORY = 7
