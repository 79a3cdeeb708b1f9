"""Plain data of one run: its record, its preparation, its predictions."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.report.files import of
from knobs.report.records import RunRecord, finite

TASKS = ("classification", "multilabel", "regression")


@dataclass(frozen=True)
class Prepared:
    """The preparation of a run's data, as it was fitted on the training rows.

    Args:
        kind: table, image or text, or another that a newer knobs has.
        inputs: plain data of the inputs, by the names of its kind.
        arrays: of the inputs, by name: medians, means and scales.
        classes: in the order of the outputs; empty for a regression.
        mean, std: (T,) of a regression's targets, in their own unit.
    """

    kind: str
    inputs: dict[str, Any]
    arrays: dict[str, np.ndarray]
    task: str
    names: tuple[str, ...]
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Predictions:
    """The outputs of a run's best weights on its validation split, or on a sample of it.

    Args:
        rows: (n,) numbers of the source's rows, from 0.
        targets: (n,) class numbers, (n, L) of 0 and 1, or (n, T) standardised values.
        outputs: (n, C) float64: logits, or standardised values, or log rates.
        epoch: whose weights they are of; 0 where the file does not tell.
    """

    rows: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    epoch: int


@dataclass(frozen=True)
class RunFiles:
    """All that a run's folder says.

    Args:
        data: what config.json says of the data: hash, rows of the splits, notes.
        faults: of the files, a sentence each.
        under_way: whether a process is writing this run.
        why: the last warning or error of its log, where it diverged or failed.
    """

    run: RunRecord
    data: dict[str, Any]
    prepared: Prepared | None
    predictions: Predictions | None
    faults: tuple[str, ...]
    under_way: bool = False
    why: str = ""

    @property
    def task(self) -> str:
        """Return the task, one of TASKS; empty where the record does not tell."""
        section = of(self.run.config, "data", dict)
        task = self.prepared.task if self.prepared else section.get("task")
        return task if task in TASKS else ""

    @property
    def classes(self) -> list[str]:
        """Return the names of classes or labels; numbers where the record has no names."""
        if self.prepared:
            return list(self.prepared.classes)
        return (
            [str(i) for i in range(self.predictions.outputs.shape[1])] if self.predictions else []
        )

    @property
    def objective(self) -> tuple[str, int]:
        """Return the metric, and 1 where more of it is better, else -1."""
        node = of(self.run.config, "objective", dict)
        metric = self.run.metric or node.get("metric")
        mode = self.run.mode if self.run.metric else node.get("mode")
        return metric if isinstance(metric, str) else "", -1 if mode == "min" else 1

    @property
    def best(self) -> tuple[int, float | None]:
        """Return the best epoch, 0 where there is none, and the objective there.

        As summary.json has them; of a run that has none, by the epochs of its curve.
        """
        metric, sign = self.objective
        if self.run.summary:
            reached = of(self.run.summary, "objective", dict).get("value")
            return int(self.run.best_epoch or 0), finite(reached)
        rows = [row for row in self.run.curve if metric in row]
        if not rows:
            return 0, None
        best = max(rows, key=lambda row: sign * row[metric])
        return int(best["epoch"]), best[metric]

    @property
    def epochs(self) -> int:
        """Return how many epochs it was trained."""
        return of(self.run.summary, "epochs", int) or len(self.run.curve)

    @property
    def refit_of(self) -> str:
        """Return the run whose config was trained anew with its validation rows; empty for none."""
        return of(self.run.summary, "refit_of", str)

    @property
    def log_rates(self) -> bool:
        """Return whether the outputs are log rates: losses.PREDICTIONS, which imports torch."""
        return of(self.run.config, "loss", dict).get("_target_") == "knobs.losses.poisson"

    @property
    def whole(self) -> bool:
        """Return whether the predictions are of every validation example."""
        size = self.run.validation_examples
        return self.predictions is not None and size in (None, len(self.predictions.rows))
