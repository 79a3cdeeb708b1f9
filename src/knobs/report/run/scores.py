"""Numbers of a validation split, by numpy alone: as scikit-learn and training/ compute them."""

from dataclasses import dataclass

import numpy as np

BINS = 15  # of calibration; Guo et al. 2017, arXiv:1706.04599


def probabilities(outputs: np.ndarray, labels: bool = False) -> np.ndarray:
    """Return (n, C) float64: the softmax of logits, or the sigmoid of each of several labels."""
    if labels:
        return np.exp(-np.logaddexp(0.0, -outputs))
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def class_losses(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (n,) the negative log of the probability of each row's own class."""
    highest = outputs.max(1)
    total = highest + np.log(np.exp(outputs - highest[:, None]).sum(1))
    return total - outputs[np.arange(len(targets)), targets]


def label_losses(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (n, L) the binary cross-entropy of each label."""
    return np.logaddexp(0.0, np.where(targets > 0, -outputs, outputs))


@dataclass(frozen=True)
class Counts:
    """Decisions by class or label: each (C,); a share that is 0 / 0 is 0, as in scikit-learn.

    Args:
        support: rows of it. guessed: rows said to be it. hits: rows that are both.
    """

    support: np.ndarray
    guessed: np.ndarray
    hits: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        """Return the share of the guessed rows that are right."""
        return self.hits / np.maximum(self.guessed, 1)

    @property
    def recall(self) -> np.ndarray:
        """Return the share of its rows that were found."""
        return self.hits / np.maximum(self.support, 1)

    @property
    def f1(self) -> np.ndarray:
        """Return the harmonic mean of both."""
        return 2 * self.hits / np.maximum(self.support + self.guessed, 1)


def class_counts(targets: np.ndarray, guess: np.ndarray, classes: int) -> Counts:
    """Count class numbers (n,)."""
    numbers = (targets, guess, targets[targets == guess])
    return Counts(*(np.bincount(values, minlength=classes) for values in numbers))


def label_counts(targets: np.ndarray, guess: np.ndarray) -> Counts:
    """Count labels (n, L) of 0 and 1."""
    there, said = targets > 0, guess > 0
    return Counts(there.sum(0), said.sum(0), (there & said).sum(0))


def confusion(targets: np.ndarray, guess: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return (k, k + 1) counts: rows of the chosen classes, by what was said; others are the last.

    Args:
        chosen: (k,) class numbers, in the order of rows and columns.
    """
    places = {int(c): i for i, c in enumerate(chosen)}
    size = len(chosen)
    table = np.zeros((size, size + 1), int)
    within = np.flatnonzero(np.isin(targets, chosen))
    for truth, said in zip(targets[within].tolist(), guess[within].tolist(), strict=True):
        table[places[truth], places.get(said, size)] += 1
    return table


@dataclass(frozen=True)
class Calibration:
    """Confidence beside accuracy, bin by bin: each (bins,), of those that have rows.

    Args:
        error: expected calibration error, the mean distance of the two over all rows.
        chance: what a calibrated model would have, as so few rows spread by chance.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    rows: np.ndarray
    error: float
    chance: float


def calibration(p: np.ndarray, targets: np.ndarray) -> Calibration:
    """Compare the largest probability of each row (n, C) with how often its class is right.

    Bins are those of torchmetrics, which has a confidence of exactly 1 apart.
    """
    confidence, right = p.max(1), p.argmax(1) == targets
    edges = np.linspace(0, 1, BINS + 1, dtype=np.float32)
    bins = np.searchsorted(edges, confidence, side="right") - 1
    rows = np.bincount(bins, minlength=BINS + 1)
    there = rows > 0
    sums = (np.bincount(bins, weights=v, minlength=BINS + 1)[there] for v in (confidence, right))
    confidence, accuracy = (values / rows[there] for values in sums)
    share = rows[there] / len(targets)
    # The mean distance of a binomial share from its mean, where it is about normal.
    spread = np.sqrt(2 / np.pi * confidence * (1 - confidence).clip(0) / rows[there])
    error, chance = (float(values @ share) for values in (abs(confidence - accuracy), spread))
    return Calibration(confidence, accuracy, rows[there], error, chance)


def auroc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Return the area under the ROC curve, ties counting half; None where one kind is missing."""
    positive = truth > 0
    n, found = len(truth), int(positive.sum())
    if not 0 < found < n:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - found * (found + 1) / 2) / (found * (n - found)))


@dataclass(frozen=True)
class Fit:
    """A regression of one target, in its own unit; r2 is NaN where the target never changes."""

    r2: float
    mae: float
    rmse: float
    bias: float  # mean of predicted - actual


def fit(actual: np.ndarray, predicted: np.ndarray) -> Fit:
    """Return how far predictions (n,) are from the values (n,)."""
    error = predicted - actual
    spread = actual.var()
    r2 = 1 - (error**2).mean() / spread if spread > 0 else np.nan
    return Fit(
        float(r2),
        float(np.abs(error).mean()),
        float(np.sqrt((error**2).mean())),
        float(error.mean()),
    )


def trend(actual: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Return the share of the residuals' variance that a parabola of the prediction explains.

    Beside it the slope of residual (actual - predicted) on prediction; 0 and 0 where the
    predictions are all the same.
    """
    residual, spread = actual - predicted, predicted.std()
    if not spread > 0 or not residual.var() > 0 or len(actual) < 4:
        return 0.0, 0.0
    z = (predicted - predicted.mean()) / spread
    basis = np.stack([np.ones_like(z), z, z**2], 1)
    solution = np.linalg.lstsq(basis, residual, rcond=None)[0]
    left = residual - basis @ solution
    slope = float((z * residual).mean() / spread)
    return float(1 - left.var() / residual.var()), slope


def by_quantile(values: np.ndarray, most: int, least: int) -> list[np.ndarray]:
    """Return places of the values in groups of about equal size, ascending; equal ones together.

    Args:
        most: groups. least: values of a group, where the values allow it.
    """
    groups = max(1, min(most, len(values) // least))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, groups + 1)))
    which = np.searchsorted(edges[1:-1], values, side="left")
    found = (np.flatnonzero(which == i) for i in range(len(edges)))
    return [places for places in found if len(places)]
