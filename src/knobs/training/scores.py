"""Metrics that are computed where asked for: functions of one run's outputs and targets.

torchmetrics computes those that it has as scikit-learn defines them, row by row of a stack: it has
no form for several models at once. It takes 2.3 s to import (half of it the torchvision that it
imports): `ready` does so where one of its metrics is asked for. Arithmetic is in float64.

Where a mean over classes or labels is taken, the functions say over which. Given finite outputs, a
metric is NaN only where the targets alone make it so, which `undefined` says before any training.
"""

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor, Tensor], Tensor | float]  # outputs (N, C), targets (N,) or (N, T)


def _torchmetrics() -> ModuleType:
    """Return torchmetrics' functions of classes and labels."""
    from knobs.torchvision_shim import torchvision  # noqa: F401  which torchmetrics imports

    # isort: split
    from torchmetrics.functional import classification

    return classification


def _one_hot(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return (N, C) 0 or 1: the labels, or each class against the rest."""
    return targets.long() if targets.ndim == 2 else F.one_hot(targets, outputs.shape[1])


def _probabilities(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return (N, C): sigmoids of labels, the softmax of classes."""
    return outputs.double().sigmoid() if targets.ndim == 2 else outputs.double().softmax(1)


def _judged(truth: Tensor) -> Tensor:
    """Return (C,): whether a class or label has examples with it and examples without it."""
    positive = truth.sum(0)
    return (positive > 0) & (positive < len(truth))


def _against_the_rest(name: str) -> Score:
    """Return the mean of torchmetrics' binary score, of each class against the rest or each label.

    It is over those with examples of both kinds; without any, NaN.
    """

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        truth, p = _one_hot(outputs, targets), _probabilities(outputs, targets)
        columns = _judged(truth).nonzero().flatten().tolist()
        function = getattr(_torchmetrics(), f"binary_{name}")
        each = [function(p[:, c], truth[:, c]) for c in columns]
        return torch.stack(each).mean() if each else p.new_full((), torch.nan)

    return score


auroc = _against_the_rest("auroc")  # of two classes, both are the same
average_precision = _against_the_rest("average_precision")  # of two classes, the mean of both


def _counted(name: str, average: str) -> Score:
    """Return torchmetrics' score of the decisions: 0 where it is 0 / 0, as scikit-learn has it.

    The macro mean is over classes that occur or are guessed, and over all labels.
    """

    def score(outputs: Tensor, targets: Tensor) -> Tensor:
        classes = outputs.shape[1]
        if targets.ndim == 2:
            function = getattr(_torchmetrics(), f"multilabel_{name}")
            return function((outputs > 0).long(), targets.long(), classes, average=average)
        function = getattr(_torchmetrics(), f"multiclass_{name}")
        return function(outputs.argmax(1), targets, classes, average=average)

    return score


precision = _counted("precision", "macro")
recall = _counted("recall", "macro")


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean recall of the classes that occur."""
    counts = targets.bincount(minlength=outputs.shape[1])
    right = targets[outputs.argmax(1) == targets].bincount(minlength=outputs.shape[1])
    return (right.double() / counts)[counts > 0].mean()


def mcc(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Matthews' correlation, of several classes too; 0 where either side is constant."""
    return _torchmetrics().multiclass_matthews_corrcoef(
        outputs.argmax(1), targets, outputs.shape[1]
    )


def calibration_error(outputs: Tensor, targets: Tensor, *, bins: int = 15) -> Tensor:
    """Return the expected calibration error: mean |accuracy - confidence| over equal bins.

    Source: Guo et al. 2017, arXiv:1706.04599, equation 3, with its 15 bins.
    """
    return _torchmetrics().multiclass_calibration_error(
        _probabilities(outputs, targets), targets, outputs.shape[1], n_bins=bins, norm="l1"
    )


def top(outputs: Tensor, targets: Tensor, *, k: int) -> Tensor:
    """Return the share of examples whose class is among the k likeliest.

    Of equal outputs the class with the higher number comes first, as in scikit-learn.
    """
    own = outputs.gather(1, targets.unsqueeze(1))
    numbers = torch.arange(outputs.shape[1], device=outputs.device)
    before = (outputs > own) | ((outputs == own) & (numbers > targets.unsqueeze(1)))
    return (before.sum(1) < k).double().mean()


def top_5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the share of examples whose class is among the five likeliest."""
    return top(outputs, targets, k=5)


def log_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean -log p of the class, or of every label, whatever the loss and its weights."""
    if targets.ndim == 2:
        return F.binary_cross_entropy_with_logits(outputs.double(), targets.double())
    return F.cross_entropy(outputs.double(), targets)


def spearman(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return Spearman's rank correlation, its mean over targets; 0 for constant predictions.

    Ties have their mean rank. By two sorts: torchmetrics' takes a pass over the split per tie.
    """
    guess, truth = outputs.double(), targets.double().view(len(targets), -1)
    pairs = zip(guess.unbind(1), truth.unbind(1), strict=True)
    return torch.stack([_correlation(_ranks(g), _ranks(t)) for g, t in pairs]).mean()


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place].double()


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation; 0 where only `a` is constant, NaN where `b` is."""
    a, b = a - a.mean(), b - b.mean()
    if not a.any() and b.any():
        return a.new_zeros(())
    return (a @ b) / (a.norm() * b.norm())


_SHARED: dict[str, Score] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "precision": precision,
    "recall": recall,
    "f1_macro": _counted("f1_score", "macro"),
    "f1_micro": _counted("f1_score", "micro"),
    "f1_weighted": _counted("f1_score", "weighted"),
    "log_loss": log_loss,
}
OWN = {"balanced_accuracy", "top_5", "log_loss"}  # without torchmetrics
_OF_CLASSES: dict[str, Score] = {
    "balanced_accuracy": balanced_accuracy,
    "top_5": top_5,
    "mcc": mcc,
    "calibration_error": calibration_error,
}
SCORES: dict[str, dict[str, Score]] = {
    "classification": _SHARED | _OF_CLASSES,
    "multilabel": _SHARED,
    "regression": {"spearman": spearman},
}


@torch.no_grad()
def score(scores: Mapping[str, Score], outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return each score of one run; NaN for all where the outputs are no finite numbers."""
    if not scores:
        return {}
    if not outputs.isfinite().all():
        return dict.fromkeys(scores, float("nan"))
    return {name: float(function(outputs, targets)) for name, function in scores.items()}


def undefined(name: str, targets: Tensor, outputs: int, names: list[str]) -> str:
    """Say why a metric has no value, or one only, on a split whatever the predictions, and the fix.

    Empty if it has one.

    Args:
        targets: of the split. outputs: of the model. names: of classes or labels, for the message.
    """
    mend = "choose another metric, or change data.val or data.split_seed"
    if name in ("auroc", "average_precision"):
        truth = targets if targets.ndim == 2 else F.one_hot(targets, outputs)
        if not _judged(truth).any():
            if targets.ndim == 2:
                return f"no label is both there and not there in the validation split; {mend}"
            only = names[int(targets[0])] if names else int(targets[0])
            return f"the validation split has one class only, {only}; {mend}"
    if name == "top_5" and outputs <= 5:
        return f"with {outputs} classes it is always 1; choose another metric"
    if name in ("r2", "spearman") and (same := (targets == targets[:1]).all(0)).any():
        which = f" number {int(same.int().argmax()) + 1}" if targets.ndim == 2 else ""
        return f"target{which} is the same in every example of the validation split; {mend}"
    return ""


def ready(names: Iterable[str]) -> None:
    """Import what the metrics need, before any clock of a run starts."""
    if {*_SHARED, *_OF_CLASSES}.intersection(names) - OWN:
        _torchmetrics()
