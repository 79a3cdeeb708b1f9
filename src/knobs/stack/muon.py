"""Muon for all rows of a stack at once: torch's arithmetic, a batched product where it has one.

Its update of a matrix does not depend on the learning rate, so a Slice can hold it. Newton-Schulz
runs in bfloat16, where another order of a sum would show at once: rows are stepped together only
where a batched product has been seen to give the bits of single ones, for matrices of their shape.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from knobs.optimizers import Muon
from knobs.stack.layers import StackedParameter
from knobs.training.state import Run

TRIED = 3  # matrices whose bits are compared, one after the other and batched


class Matrices(torch.optim.Optimizer):
    """torch.optim.Muon of parameters [K, ...] whose every row is a matrix; without weight decay.

    Args:
        params: groups; `turned` says that the matrices lie transposed.
        lr: > 0.
        options: torch.optim.Muon's others.
    """

    def __init__(self, params: list[dict], lr: float, weight_decay: float, **options: Any):
        assert not weight_decay, "decay is taken off row by row"
        super().__init__(params, {"lr": lr} | options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        """Update all matrices once."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for values in group["params"]:
                if values.grad is None:
                    continue
                buffer = self.state[values].setdefault("momentum_buffer", torch.zeros_like(values))
                buffer.lerp_(values.grad, 1 - momentum)
                update = values.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                if group["turned"]:
                    update, values = update.mT, values.mT
                update = orthogonalized(
                    update, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], update.shape[1:])
                values.add_(update, alpha=-rate)


class StackedMuon(Muon):
    """knobs' Muon whose matrices are those of many rows."""

    matrices = Matrices


def orthogonalized(
    values: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Return every matrix with its singular values moved towards 1, in bfloat16.

    torch.optim.Muon's Newton-Schulz iteration, step by step.

    Args:
        values: [K, A, B].
        coefficients, steps, eps: torch.optim.Muon's ns_coefficients, ns_steps and eps.
    """
    a, b, c = coefficients
    tall = values.shape[1] > values.shape[2]
    x = values.bfloat16()
    x = x.mT if tall else x
    norms = torch.stack(torch._foreach_norm(list(x)))
    x = x / norms.clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def steps_together(runs: Sequence[Run]) -> bool:
    """Return whether one StackedMuon gives the weights of these runs the bits of their own."""
    shapes = [[p.shape for p in _hidden(run.optimizer)] for run in runs]
    if any(its != shapes[0] for its in shapes):  # one is padded
        return False
    options = runs[0].optimizer.options
    iteration = options["ns_coefficients"], options["ns_steps"], options["eps"]
    device, dtype = runs[0].device, next(runs[0].model.parameters()).dtype
    return all(_alike(tuple(shape), iteration, device, dtype) for shape in {*shapes[0]})


@functools.cache
def _alike(
    shape: tuple[int, int], iteration: tuple, device: torch.device, dtype: torch.dtype
) -> bool:
    """Return whether matrices of this shape come out the same one by one and together."""
    draw = torch.Generator().manual_seed(0)  # a run's own numbers stay as they are
    values = torch.randn(TRIED, *shape, generator=draw).to(device, dtype)
    turned = values.mT.contiguous().mT
    return all(
        torch.equal(together, _zeropower_via_newtonschulz(one, *iteration))
        for tried in (values, turned)
        for together, one in zip(orthogonalized(tried, *iteration), tried, strict=True)
    )


def _hidden(optimizer: Muon) -> list[Tensor]:
    """Return the matrices that it updates as such."""
    return [p for group in optimizer.param_groups if group["hidden"] for p in group["params"]]


def for_rows(
    solo: Muon, stacked: Sequence[StackedParameter], shadows: Sequence[Tensor],
    views: Sequence[Sequence[Tensor]],
) -> StackedMuon:  # fmt: skip
    """Return the optimizer of a slice's shadows, with rate 1 and without decay.

    Args:
        solo: of its first run, whose options it takes.
        stacked, shadows, views: all of the stack's parameters, with the slice's rows of each.
    """
    hidden = _hidden(solo)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter, shadow, its in zip(stacked, shadows, views, strict=True):
        matrix = any(its[0] is p for p in hidden)
        groups.setdefault((matrix, matrix and parameter.turned), []).append(shadow)
    made = [{"params": ps, "hidden": h, "turned": t} for (h, t), ps in groups.items()]
    return StackedMuon(made, lr=1.0, weight_decay=0.0, **solo.options)
