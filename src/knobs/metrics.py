"""Facts about the metrics that a run is judged by. No torch.

training/metrics.py computes the usual ones, training/scores.py the others, where asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric of a split.

    Args:
        tasks: that have it.
        mode: max where more is better, else min.
        points: whether it is a share of 1, whose differences are told in hundredths.
        usual: whether every run of these tasks has it; others are computed where asked for.
    """

    tasks: tuple[str, ...]
    mode: str
    points: bool = False
    usual: bool = False


CLASSES, LABELS, NUMBERS = TASKS = ("classification", "multilabel", "regression")
METRICS = {
    "loss": Metric(TASKS, "min", usual=True),
    "accuracy": Metric((CLASSES, LABELS), "max", points=True, usual=True),
    "f1": Metric((CLASSES, LABELS), "max", points=True, usual=True),
    "r2": Metric((NUMBERS,), "max", usual=True),
    "rmse": Metric((NUMBERS,), "min", usual=True),
    "mae": Metric((NUMBERS,), "min", usual=True),
    "auroc": Metric((CLASSES, LABELS), "max", points=True),
    "average_precision": Metric((CLASSES, LABELS), "max", points=True),
    "balanced_accuracy": Metric((CLASSES,), "max", points=True),
    "precision": Metric((CLASSES, LABELS), "max", points=True),
    "recall": Metric((CLASSES, LABELS), "max", points=True),
    "f1_macro": Metric((CLASSES, LABELS), "max", points=True),
    "f1_micro": Metric((CLASSES, LABELS), "max", points=True),
    "f1_weighted": Metric((CLASSES, LABELS), "max", points=True),
    "top_5": Metric((CLASSES,), "max", points=True),
    "mcc": Metric((CLASSES,), "max"),
    "calibration_error": Metric((CLASSES,), "min", points=True),
    "log_loss": Metric((CLASSES, LABELS), "min"),
    "spearman": Metric((NUMBERS,), "max"),
}
SUMMARIES = ("max", "min", "last", "mean", "best")  # of a metric over the epochs, in W&B
# task -> its objective. F1 of labels: it has a value on every split, as the average precision of a
# label that a split lacks has not, and is not near 1 for a model that finds nothing.
RARE = "val/balanced_accuracy"  # the objective in the place of the accuracy: see `objective`
DEFAULT = {CLASSES: "val/accuracy", LABELS: "val/f1", NUMBERS: "val/r2"}


def objective(config: dict, counts: Sequence[int]) -> dict[str, str]:
    """Return the metric and mode that a run is judged by.

    Accuracy hides a model that never predicts a rare class: see `objective.rare` in config.yaml.

    Args:
        config: the section `objective`.
        counts: training examples of each class; empty where there are no classes.
    """
    stated = {key: config[key] for key in ("metric", "mode")}
    if not counts or not config.get("rare"):
        return stated
    share = min(counts) / sum(counts)
    rare = share < min(config["rare"], 0.5 / len(counts))
    return {"metric": RARE, "mode": "max"} if rare else stated


def of(task: str) -> tuple[str, ...]:
    """Return the validation metrics of a task, as an objective names them."""
    return tuple(f"val/{name}" for name, metric in METRICS.items() if task in metric.tasks)


def asked(config: dict) -> dict[str, str]:
    """Return name -> the override that asks for it, of each metric that a config names."""
    section = config.get("metrics") or {}  # an older config has none
    names = {name: f"metrics.extra=[{name}]" for name in section.get("extra", ())}
    names |= {name: f"metrics.own.{name}" for name in section.get("own") or ()}
    for path, metric in watched(config).items():
        names[metric.rpartition("/")[2]] = f"{path}={metric}"
    return names


def watched(config: dict) -> dict[str, str]:
    """Return path -> metric of the keys that name one: `objective.metric`, a plateau's monitor."""
    monitor = config["scheduler"].get("monitor")
    named = {"scheduler.monitor": monitor} if monitor else {}
    return named | {"objective.metric": config["objective"]["metric"]}


def unusual(names: Iterable[str]) -> list[str]:
    """Return those of the names that are computed only where asked for, in their order."""
    return [name for name in names if name not in METRICS or not METRICS[name].usual]


def plain(metric: str) -> str:
    """Return the name alone: of `val/accuracy`, and of `val/accuracy.max`, as W&B exports it."""
    name = metric.rpartition("/")[2]
    short, _, summary = name.rpartition(".")
    return short if summary in SUMMARIES else name


def known(metric: str) -> bool:
    """Return whether `val/accuracy` and the like stand in METRICS."""
    return plain(metric) in METRICS


def mode_of(metric: str) -> str:
    """Return max or min for `val/accuracy` and the like; min for one that is not known."""
    return METRICS[plain(metric)].mode if known(metric) else "min"


def in_points(metric: str) -> bool:
    """Return whether differences of `val/accuracy` and the like are told in hundredths."""
    return known(metric) and METRICS[plain(metric)].points
