"""What a split's outputs are worth, by task. All are means over the whole split."""

import torch
from torch import Tensor

from knobs.regularization import make_loss


def classification(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Cross-entropy, accuracy, and macro F1 over the classes that occur.

    Args:
        outputs: (N, classes) logits.
        targets: (N,) class numbers.
    """
    classes = outputs.shape[1]
    pairs = targets * classes + outputs.argmax(1)
    confusion = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    hits, both = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    # F1 = 2 TP / (actual + guessed); a class neither there nor guessed has none, 0 / 0.
    return {
        "loss": make_loss("classification")(outputs, targets).item(),
        "accuracy": hits.sum().item() / len(targets),
        "f1": (2 * hits / both).nanmean().item(),
    }


def regression(outputs: Tensor, targets: Tensor, target_std: float = 1.0) -> dict[str, float]:
    """MSE of the standardised target, R2, and RMSE and MAE in the target's own unit.

    Args:
        outputs: (N, 1).
        targets: (N,) standardised.
        target_std: one standard deviation, in the target's unit.
    """
    error = outputs.squeeze(1) - targets
    squared = (error**2).mean()
    variance = targets.var(correction=0)
    return {
        "loss": squared.item(),
        "r2": (1 - squared / variance).item(),
        "rmse": (squared.sqrt() * target_std).item(),
        "mae": (error.abs().mean() * target_std).item(),
    }
