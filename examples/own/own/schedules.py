"""Learning rate schedules: t -> factor of the base learning rate."""


def staircase(t: int, *, every: int, factor: float) -> float:
    """Return factor, once more after each `every` epochs."""
    return factor ** (t // every)
