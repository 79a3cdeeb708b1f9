"""Metrics of a whole split."""

from torch import Tensor


def worst_recall(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the lowest recall of any class, 0 .. 1; (N, C) and (N,)."""
    right = outputs.argmax(1) == targets
    counts = targets.bincount(minlength=outputs.shape[1])
    return (targets[right].bincount(minlength=len(counts)) / counts)[counts > 0].min()
