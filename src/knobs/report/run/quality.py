"""Strengths and mistakes of a run on its validation split, from predictions.safetensors alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from knobs.report.run import figures, scores
from knobs.report.run.parts import Part, Table, named
from knobs.report.run.records import RunFiles
from knobs.report.run.scores import Counts, Fit
from knobs.words import listed, number, percent

MOST_CLASSES = 20  # of a confusion matrix: those with the most wrong rows
MOST_ROWS = 200  # of a table of classes, labels or targets
MOST_PLOTTED = 6  # targets with figures of their own
MOST_MISTAKES = 20
MOST_PAIRS = 10  # of classes that are taken for each other
GROUPS, LEAST = 10, 5  # of a target's values, with so many rows at least
MISCALIBRATED = 0.05  # expected calibration error
TREND = 0.05  # share of the residuals' variance that the prediction explains


@dataclass(frozen=True)
class Mistake:
    """One row that the run has wrong.

    Args:
        place: among the predictions. row: of the source, from 0.
        truth, said: class, labels or values as texts.
        more: what else the table says of it, a cell a head.
        loss: by which mistakes are ordered.
    """

    place: int
    row: int
    truth: str
    said: str
    more: tuple[str, ...]
    loss: float


@dataclass(frozen=True)
class Quality:
    """The predictions of a run, judged; there is a task and there are predictions.

    Args:
        files: of the run.
    """

    files: RunFiles

    @cached_property
    def targets(self) -> np.ndarray:
        """Return class numbers (n,), labels (n, L), or values (n, T) in their own unit."""
        values, prepared = self.files.predictions.targets, self.files.prepared
        if self.files.task != "regression":
            return values
        values = values.reshape(len(values), -1).astype(float)
        return values * prepared.std + prepared.mean if prepared else values

    @cached_property
    def values(self) -> np.ndarray:
        """Return a regression's predictions (n, T), in the targets' own unit."""
        outputs, prepared = self.files.predictions.outputs, self.files.prepared
        if self.files.log_rates:
            return np.exp(outputs)
        return outputs * prepared.std + prepared.mean if prepared else outputs

    @cached_property
    def guess(self) -> np.ndarray:
        """Return the classes (n,) said, or the labels (n, L)."""
        outputs = self.files.predictions.outputs
        return outputs.argmax(1) if self.files.task == "classification" else outputs > 0

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Return (n, C), of classes or of labels."""
        outputs = self.files.predictions.outputs
        return scores.probabilities(outputs, labels=self.files.task == "multilabel")

    @cached_property
    def counts(self) -> Counts:
        """Return the decisions by class or label."""
        if self.files.task == "multilabel":
            return scores.label_counts(self.targets, self.guess)
        return scores.class_counts(self.targets, self.guess, self.probabilities.shape[1])

    @cached_property
    def calibration(self) -> scores.Calibration:
        """Return confidence beside accuracy."""
        return scores.calibration(self.probabilities, self.targets)

    @cached_property
    def fits(self) -> list[Fit]:
        """Return a regression's numbers, target by target."""
        return [scores.fit(*pair) for pair in zip(self.targets.T, self.values.T, strict=True)]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of classes or labels, of a regression those of the targets."""
        prepared = self.files.prepared
        if self.files.task == "regression":
            return prepared.names if prepared else ()
        return tuple(self.files.classes)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Return the usual metrics, as training/metrics.py has them."""
        if self.files.task == "regression":
            return {
                f"val/{name}": float(np.mean([getattr(f, name) for f in self.fits]))
                for name in ("r2", "rmse", "mae")
            }
        there = (self.counts.support + self.counts.guessed) > 0
        right = self.guess == (self.targets > 0 if self.targets.ndim == 2 else self.targets)
        if self.targets.ndim == 2:
            return {
                "val/accuracy": float(right.all(1).mean()),
                "val/f1": float(self.counts.f1.mean()),
            }
        return {"val/accuracy": float(right.mean()), "val/f1": float(self.counts.f1[there].mean())}


def quality(judged: Quality) -> list[Part]:
    """Return the sections of the run's task."""
    makers: dict[str, tuple[Callable[[Quality], Part | None], ...]] = {
        "classification": (_confusion, _classes, _reliability, mistakes_part),
        "multilabel": (_labels, mistakes_part),
        "regression": (_regression, mistakes_part),
    }
    return [part for make in makers[judged.files.task] if (part := make(judged))]


# ------------------------------------------------------------------ classes
def _confusion(judged: Quality) -> Part:
    """Return the confusion matrix, of many classes those with the most wrong rows."""
    counts, classes = judged.counts, len(judged.counts.support)
    wrong = counts.support - counts.hits
    chosen = np.arange(classes)
    see = "Each row is an actual class: where the model puts its rows, as shares and counts."
    if classes > MOST_CLASSES:
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
        see += f" The {MOST_CLASSES} of {classes:,} classes with the most wrong rows."
    table = scores.confusion(judged.targets, judged.guess, chosen)
    names = [named(judged.names, int(c)) for c in chosen]
    figure = figures.confusion(table, names, others=classes > MOST_CLASSES)
    wrong = judged.targets != judged.guess
    pairs, n = np.unique(
        np.stack([judged.targets[wrong], judged.guess[wrong]], 1), axis=0, return_counts=True
    )
    order = [i for i in np.argsort(-n, kind="stable")[:MOST_PAIRS] if n[i] > 1]
    rows = tuple(
        (
            named(judged.names, int(truth)),
            named(judged.names, int(said)),
            f"{rows:,}",
            percent(rows / counts.support[truth]),
        )
        for (truth, said), rows in zip(pairs[order].tolist(), n[order].tolist(), strict=True)
    )
    heads = ("actual", "predicted", "rows", "of the class")
    tables = (Table(heads, rows, "Most often confused"),) if rows else ()
    return Part("confusion", "Confusion matrix", (see,), figures=(figure,), tables=tables)


def _classes(judged: Quality) -> Part:
    """Return precision, recall, F1 and support by class; the worst first where there are many."""
    table = _by_name(judged, "class")
    return Part("classes", "Class by class", (_balance(judged),), _overall(judged), tables=(table,))


def _overall(judged: Quality) -> dict[str, str]:
    """Return the usual metrics of the split."""
    return {name: number(value, 4) for name, value in judged.metrics.items()}


def _balance(judged: Quality) -> str:
    """Say how the validation rows spread over the classes."""
    support = judged.counts.support
    low, high = int(support.argmin()), int(support.argmax())
    what = "validation rows" if judged.files.whole else "rows of the sample"
    spread = f"{support[high]:,} of each"
    if support[low] < support[high]:
        largest, smallest = (f"{named(judged.names, i)} ({support[i]:,})" for i in (high, low))
        spread = f"the most of {largest}, the fewest of {smallest}"
    return f"{len(support):,} classes, {support.sum():,} {what}: {spread}."


def _by_name(judged: Quality, what: str, extra: list[str] | None = None) -> Table:
    """Return a row a class or label, in their order, of many the one with the least F1 first."""
    counts = judged.counts
    order, see = np.arange(len(counts.support)), ""
    if len(order) > MOST_CLASSES:
        order = np.lexsort([order, counts.f1])
        see = "The lowest F1 first."
    if len(order) > MOST_ROWS:
        see = f"The {MOST_ROWS} with the lowest F1; {len(order) - MOST_ROWS:,} more are left out."
    rows = tuple(
        (
            named(judged.names, i),
            *(number(v[i], 3) for v in (counts.precision, counts.recall, counts.f1)),
            *([extra[i]] if extra else []),
            f"{counts.support[i]:,}",
            f"{counts.guessed[i]:,}",
        )
        for i in order[:MOST_ROWS].tolist()
    )
    more = ("AUROC",) if extra else ()
    heads = (what, "precision", "recall", "F1", *more, "actual rows", "predicted rows")
    return Table(heads, rows, see=see)


def _reliability(judged: Quality) -> Part:
    """Return the reliability diagram."""
    found = judged.calibration
    text = (
        f"Expected calibration error {number(found.error, 3)} ({scores.BINS} bins). On the dotted "
        "line the confidence is the share that is right; below it the model is overconfident. "
        "Larger dots stand for more rows."
    )
    return Part("reliability", "Calibration", (text,), figures=(figures.reliability(found),))


# ------------------------------------------------------------------ labels
def _labels(judged: Quality) -> Part:
    columns = zip(judged.files.predictions.outputs.T, judged.targets.T, strict=True)
    areas = [scores.auroc(*column) for column in columns]
    texts = ["none" if area is None else number(area, 3) for area in areas]
    see = "A label is predicted where its probability is above 1/2."
    table = _by_name(judged, "label", texts)
    return Part("labels", "Label by label", (see,), _overall(judged), tables=(table,))


# ------------------------------------------------------------------ numbers
def _regression(judged: Quality) -> Part:
    """Return each target's numbers and figures, in its own unit."""
    names = [named(judged.names, i) if judged.names else "target" for i in range(len(judged.fits))]
    heads = ("target", "R2", "MAE", "RMSE", "bias")
    rows = tuple(
        (name, *(number(v, 4) for v in (f.r2, f.mae, f.rmse, f.bias)))
        for name, f in list(zip(names, judged.fits, strict=True))[:MOST_ROWS]
    )
    texts = ["Bias is the mean of predicted - actual."]
    if not judged.files.prepared:
        texts = ["In standard deviations of the training target, as the run kept no preparation."]
    if len(judged.targets) > figures.MOST_DOTS:
        texts.append(
            f"The clouds show {figures.MOST_DOTS:,} of {len(judged.targets):,} rows, chosen with "
            f"seed {figures.SEED}."
        )
    more = len(names) - MOST_PLOTTED
    if more > 0:
        texts.append(f"Figures of the first {MOST_PLOTTED} targets; {more:,} more have none.")
    plotted = [f for i in range(min(len(names), MOST_PLOTTED)) for f in _plots(judged, i, names[i])]
    single = dict(zip(heads[1:], rows[0][1:], strict=True)) if len(rows) == 1 else {}
    tables = () if single else (Table(heads, rows),)
    return Part("errors", "Predicted and actual", tuple(texts), single, tuple(plotted), tables)


def _plots(judged: Quality, i: int, name: str) -> Iterator[figures.Figure]:
    actual, predicted = judged.targets[:, i], judged.values[:, i]
    yield figures.cloud(i, name, actual, predicted)
    yield figures.residuals(i, name, actual - predicted)
    rows = []
    for places in scores.by_quantile(actual, GROUPS, LEAST):
        low, high = number(actual[places].min()), number(actual[places].max())
        error = predicted[places] - actual[places]
        ends = low if low == high else f"{low} to {high}"
        rows.append(
            (f"{ends}, {len(places):,} rows", float(abs(error).mean()), float(error.mean()))
        )
    yield figures.groups(i, name, rows)


# ------------------------------------------------------------------ mistakes
def mistakes(judged: Quality) -> list[Mistake]:
    """Return the rows with the largest loss that are wrong; of numbers, with the largest error."""
    makers = {
        "classification": _of_classes, "multilabel": _of_labels, "regression": _of_numbers,
    }  # fmt: skip
    return makers[judged.files.task](judged)


def _largest(losses: np.ndarray, wrong: np.ndarray) -> list[int]:
    """Return the places of the wrong rows with the largest losses, the largest first."""
    places = np.flatnonzero(wrong)
    return places[np.argsort(-losses[places], kind="stable")[:MOST_MISTAKES]].tolist()


def _of_classes(judged: Quality) -> list[Mistake]:
    predictions, p, guess = judged.files.predictions, judged.probabilities, judged.guess
    losses = scores.class_losses(predictions.outputs, judged.targets)
    found = []
    for i in _largest(losses, guess != judged.targets):
        truth, said = int(judged.targets[i]), int(guess[i])
        more = (number(p[i, said], 3), number(p[i, truth], 3), number(losses[i], 3))
        names = named(judged.names, truth), named(judged.names, said)
        found.append(Mistake(i, int(predictions.rows[i]), *names, more, float(losses[i])))
    return found


def _of_labels(judged: Quality) -> list[Mistake]:
    """Return the rows with the largest loss of a label, and say which label that is."""
    predictions, p = judged.files.predictions, judged.probabilities
    each = scores.label_losses(predictions.outputs, judged.targets)
    each = np.where(judged.guess != (judged.targets > 0), each, 0.0)
    found = []
    for i in _largest(each.max(1), each.any(1)):
        label = int(each[i].argmax())
        name = named(judged.names, label)
        truth, said = (
            f"{name}" if there else f"not {name}"
            for there in (judged.targets[i, label] > 0, judged.guess[i, label])
        )
        more = (number(p[i, label], 3), number(each[i, label], 3))
        loss = float(each[i, label])
        found.append(Mistake(i, int(predictions.rows[i]), truth, said, more, loss))
    return found


def _of_numbers(judged: Quality) -> list[Mistake]:
    error = judged.values - judged.targets
    scale = judged.files.prepared.std if judged.files.prepared else 1.0
    losses = np.abs(error) / scale
    found = []
    for i in _largest(losses.max(1), losses.max(1) > 0):
        t = int(losses[i].argmax())
        texts = [number(v, 5) for v in (judged.targets[i, t], judged.values[i, t])]
        name = (named(judged.names, t),) * (len(judged.fits) > 1)
        more = (*name, number(error[i, t], 4))
        row = int(judged.files.predictions.rows[i])
        found.append(Mistake(i, row, *texts, more, float(losses[i, t])))
    return found


def mistakes_part(judged: Quality) -> Part | None:
    """Return the table of the most confident mistakes; None where nothing is wrong."""
    found = mistakes(judged)
    if not found:
        return None
    more = {
        "classification": ("p of predicted", "p of actual", "loss"),
        "multilabel": ("p of the label", "loss"),
        "regression": (*["target"] * (judged.targets.shape[-1] > 1), "predicted - actual"),
    }[judged.files.task]
    rows = tuple((f"{m.row + 1:,}", m.truth, m.said, *m.more) for m in found)
    title = "Largest errors" if judged.files.task == "regression" else "Most confident mistakes"
    text = "Rows count from 1 in the order of the source: the first below the header of a table."
    table = Table(("row", "actual", "predicted", *more), rows)
    return Part("mistakes", title, (text,), tables=(table,))


def never(judged: Quality) -> tuple[str, str]:
    """Return the classes or labels that are never predicted, and those that are never right."""
    counts = judged.counts
    unsaid = np.flatnonzero((counts.support > 0) & (counts.guessed == 0))
    wrong = np.flatnonzero((counts.support > 0) & (counts.guessed > 0) & (counts.hits == 0))
    return tuple(
        listed([named(judged.names, int(c)) for c in found.tolist()], 4)
        for found in (unsaid, wrong)
    )  # fmt: skip
