"""The metrics of a split, by task. All are means over the whole split.

Each function takes the outputs of one run, or of the K runs of a stack at once.
"""

import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.regularization import LOSSES, weighted


def evaluation(
    task: str,
    outputs: Tensor,
    targets: Tensor,
    target_std: Tensor | float,
    weight: Tensor | None = None,
) -> list[dict]:
    """Return the metrics of K runs on one split.

    Args:
        outputs: [K, N, outputs].
        targets: (N,), or (N, T).
        target_std: (T,), of a regression's standardised targets, in their own unit.
        weight: (N,) of the examples, which the loss alone takes.
    """
    if task == "multilabel":
        columns = multilabel(outputs, targets)
    elif task == "regression":
        columns = regression(outputs, targets, target_std)
    else:
        columns = classification(outputs, targets)
    if weight is not None:
        weights, truth = (
            weight.expand(outputs.shape[:2]),
            targets.expand(len(outputs), *targets.shape),
        )
        columns["loss"] = weighted(LOSSES[task], outputs, truth, 0.0, weights).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def classification(outputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Return cross-entropy, accuracy, and macro F1 over the classes that occur.

    Args:
        outputs: [K, N, classes] logits.
        targets: (N,) class numbers.
    """
    runs, n, classes = outputs.shape
    losses = F.cross_entropy(outputs.flatten(0, 1), targets.repeat(runs), reduction="none")
    pairs = targets * classes + outputs.argmax(-1)
    pairs += torch.arange(runs, device=pairs.device).unsqueeze(1) * classes**2
    confusion = torch.bincount(pairs.flatten(), minlength=runs * classes**2)
    confusion = confusion.view(runs, classes, classes)
    hits, both = confusion.diagonal(dim1=1, dim2=2), confusion.sum(1) + confusion.sum(2)
    return {
        "loss": losses.view(runs, n).mean(1).tolist(),
        "accuracy": [hit / n for hit in hits.sum(1).tolist()],
        # F1 = 2 TP / (actual + guessed); a class neither there nor guessed has none, 0 / 0.
        "f1": (2 * hits / both).nanmean(1).tolist(),
    }


def multilabel(outputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Return binary cross-entropy, and accuracy over all labels of all examples.

    Args:
        outputs: [K, N, T] logits.
        targets: (N, T) of 0 and 1.
    """
    targets = targets.expand_as(outputs)
    losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    hits = (outputs > 0) == (targets > 0.5)
    return {
        "loss": losses.mean((1, 2)).tolist(),
        "accuracy": hits.double().mean((1, 2)).tolist(),
    }


def regression(outputs: Tensor, targets: Tensor, target_std: Tensor) -> dict[str, list[float]]:
    """Return the MSE of standardised targets, R2, and RMSE and MAE in the target's own unit.

    Of several targets it is the mean of each metric over them.

    Args:
        outputs: [K, N, T].
        targets: (N,) standardised, or (N, T).
        target_std: (T,), one standard deviation, in the target's unit; of the outputs' type.
    """
    if targets.ndim == 2:
        single = [
            regression(outputs[..., t : t + 1], targets[:, t], target_std[t : t + 1])
            for t in range(targets.shape[1])
        ]
        rows = {name: zip(*(one[name] for one in single), strict=True) for name in single[0]}
        return {name: list(map(statistics.fmean, values)) for name, values in rows.items()}
    error = outputs.squeeze(-1) - targets
    squared = (error**2).mean(1)
    variance = targets.var(correction=0)
    return {
        "loss": squared.tolist(),
        "r2": (1 - squared / variance).tolist(),
        "rmse": (squared.sqrt() * target_std).tolist(),
        "mae": (error.abs().mean(1) * target_std).tolist(),
    }
