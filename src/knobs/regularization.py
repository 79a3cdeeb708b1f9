"""Penalties and mixtures. Dropout and norm layers stand in the models, L2 in the optimizer.

A penalty is a function over any leading dimensions: of one run's tensors it is a scalar,
of a stack's, which have one more dimension in front, it is [K]. Torch is imported where something
is computed: what may share a stack is decided by these names, in processes without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def decayed(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of two or more dimensions, so neither biases nor norms."""
    return [p for p in model.parameters() if p.ndim >= 2 and p.requires_grad]


def l1_norm(outputs: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return the sum of |w|, (*). Its gradient is sign(w), 0 at 0."""
    import torch

    rows = outputs.ndim - 2
    norms = [w.abs().flatten(rows).sum(-1) if rows else w.abs().sum() for w in weights]
    return torch.stack(norms).sum(0)


# By the key of `regularization` that each is multiplied by: outputs (*, N, C), weights (*, ...).
PENALTIES: dict[str, Callable[[Tensor, Sequence[Tensor]], Tensor]] = {"l1": l1_norm}


def penalized(
    loss: Tensor,
    coefficients: Mapping[str, float | Tensor],
    outputs: Tensor,
    weights: Sequence[Tensor],
) -> Tensor:
    """Return the loss, (*), with every penalty that has a coefficient."""
    for name, coefficient in coefficients.items():
        loss = loss + coefficient * PENALTIES[name](outputs, weights)
    return loss


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
    import torch

    # Beta(a, a) from two gammas, which torch draws from a named generator.
    a, b = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator).tolist()
    weight = a / (a + b) if a + b else 0.5
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    return weight * x + (1 - weight) * x[partner], y[partner], weight


def mixed(
    x: Tensor, y: Tensor, weight: Tensor | None, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Return mixed inputs, the partners' targets and weights, and the share of their own."""
    if weight is None:
        x, partners, share = mixup(x, y, alpha, generator)
        return x, partners, None, share
    import torch

    rows = torch.arange(len(y), device=y.device)
    x, partner, share = mixup(x, rows, alpha, generator)
    return x, y[partner], weight[partner], share
