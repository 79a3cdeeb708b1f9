"""Facts about the metrics that a run is judged by; training/metrics.py computes them. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric of a split.

    Args:
        tasks: that have it.
        mode: max where more is better, else min.
        points: whether it is a share of 1, whose differences are told in hundredths.
    """

    tasks: tuple[str, ...]
    mode: str
    points: bool = False


METRICS = {
    "loss": Metric(("classification", "multilabel", "regression"), "min"),
    "accuracy": Metric(("classification", "multilabel"), "max", points=True),
    "f1": Metric(("classification",), "max", points=True),
    "r2": Metric(("regression",), "max"),
    "rmse": Metric(("regression",), "min"),
    "mae": Metric(("regression",), "min"),
}
# Task -> its objective.
DEFAULT = {
    "classification": "val/accuracy",
    "multilabel": "val/loss",
    "regression": "val/r2",
}


def of(task: str) -> tuple[str, ...]:
    """Return the validation metrics of a task, as an objective names them."""
    return tuple(f"val/{name}" for name, metric in METRICS.items() if task in metric.tasks)


def mode_of(metric: str) -> str:
    """Return max or min for `val/accuracy` and the like; min for one that is not known."""
    known = METRICS.get(metric.rpartition("/")[2])
    return known.mode if known else "min"


def in_points(metric: str) -> bool:
    """Return whether differences of `val/accuracy` and the like are told in hundredths."""
    known = METRICS.get(metric.rpartition("/")[2])
    return known is not None and known.points
