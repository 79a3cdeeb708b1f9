"""Penalties and mixtures. Dropout and norm layers stand in the models, L2 in the optimizer."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]


def decayed(model: nn.Module) -> list[nn.Parameter]:
    """The weights proper: parameters of two or more dimensions, so neither biases nor norms'."""
    return [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]


def l1_norm(weights: Iterable[Tensor]) -> Tensor:
    """sum |w|, a scalar. Its gradient is sign(w), 0 at 0."""
    return torch.stack([w.abs().sum() for w in weights]).sum()


def make_loss(task: str, label_smoothing: float = 0.0) -> Loss:
    """The mean loss of (N, outputs) against targets: cross-entropy, or MSE for regression."""
    if task == "regression":
        return lambda outputs, targets: F.mse_loss(outputs.squeeze(1), targets)
    return lambda outputs, targets: F.cross_entropy(
        outputs, targets, label_smoothing=label_smoothing
    )


def mixup(
    x: Tensor, y: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, float]:
    """Mix each example with another of its batch: weight w for itself, 1 - w for its partner.

    Args:
        x: (N, ...) real-valued inputs.
        y: (N,) targets.
        alpha: > 0; w is drawn from Beta(alpha, alpha), once a batch.
        generator: a CPU generator.

    Returns:
        Mixed inputs, the partners' targets and w: the loss is w loss(y) + (1 - w) loss(partners).

    Source: Zhang et al. 2017, arXiv:1710.09412, equation 1.
    """
    # Beta(a, a) from two gammas, which torch draws from a named generator.
    a, b = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator).tolist()
    weight = a / (a + b) if a + b else 0.5
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return weight * x + (1 - weight) * x[partner], y[partner], weight
