"""Losses: a value per example."""

from torch import Tensor


def generalized(outputs: Tensor, targets: Tensor, *, q: float) -> Tensor:
    """Return (1 - p^q) / q of the target's class, (N, C) and (N,) -> (N,)."""
    p = outputs.softmax(1).gather(1, targets[:, None]).squeeze(1)
    return (1 - p**q) / q
