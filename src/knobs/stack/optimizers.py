"""A stack's optimizers: torch's own classes, one for each kind of row.

A row is p - lr u, where the update u does not depend on lr (of the classes whose names are in
sweep/stackable.py). So a real optimizer with lr 1 and no weight decay steps a zero tensor, the
shadow, from which each row takes its own p += lr[k] shadow[k]. L2 is added to the gradient and
decoupled decay taken off p row by row, as torch does it. Equal to the solo optimizer but for the
rounding of that one product.
"""

import functools
import inspect
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from knobs.models.layers import ELEMENTWISE
from knobs.optimizers import Muon
from knobs.stack import muon
from knobs.stack.layers import StackedParameter, per_row
from knobs.training.state import Run

LINEAR_IN_LR = (  # sweep/stackable.py has their names
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.Adamax, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop),
)
PER_ROW = {"params", "lr", "weight_decay"}
SWITCHES = ("maximize", "differentiable", "capturable")  # which a slice leaves out
# What an optimizer keeps of a parameter as a whole, also of one that is a single number.
WHOLE = {"step", "eta", "mu", "mu_product"}
SPEED = {"foreach", "fused"}  # how torch computes, not what


def kind(run: Run) -> tuple:
    """Return what rows that share an optimizer have in common; sorting by it makes slices."""
    optimizer, scheduler = run.optimizer, run.scheduler
    options = sorted((name, str(value)) for name, value in _options(optimizer).items())
    # The momentum that a schedule moves is one of the shared values at every step.
    moved = {k: v for k, v in vars(scheduler).items() if "lr" not in k and k != "optimizer"}
    cycle = str(sorted(moved.items())) if getattr(scheduler, "cycle_momentum", False) else ""
    return type(optimizer).__name__, str(options), run.progress.step, cycle


def shares(runs: Sequence[Run]) -> bool:
    """Return whether one optimizer can step rows of one kind at once, as a Slice does."""
    if isinstance(runs[0].optimizer, Muon):
        return muon.steps_together(runs)
    groups = runs[0].optimizer.param_groups
    free = {"params", "weight_decay"}
    rest = [{name: v for name, v in group.items() if name not in free} for group in groups]
    switched = any(groups[0].get(name) for name in SWITCHES)
    return (
        type(runs[0].optimizer) in LINEAR_IN_LR and not switched and all(r == rest[0] for r in rest)
    )


def in_slices(runs: Sequence[Run]) -> list[Run]:
    """Return runs with those of one kind beside each other: as they are, if they are already.

    Of those, rows with the same activations are beside each other.
    """
    runs = sorted(runs, key=_activations)
    kinds = [key for key, _ in groupby(map(kind, runs))]
    return runs if len(kinds) == len({*kinds}) else sorted(runs, key=kind)


def _activations(run: Run) -> list[str]:
    """Return a run's modules that treat every number alone."""
    modules = run.live(run.networks[0]).modules()
    return [str(module) for module in modules if type(module) in ELEMENTWISE]


def by_weight(name: str, value: Any, like: Tensor) -> bool:
    """Return whether what an optimizer keeps of a parameter has a number for each of its own."""
    return isinstance(value, Tensor) and value.shape == like.shape and name not in WHOLE


def states(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[Tensor, dict[str, Any]]:
    """Return where an optimizer keeps what it remembers of a parameter, by parameter."""
    return (optimizer.holder(parameter) if isinstance(optimizer, Muon) else optimizer).state


@functools.cache
def _takes(kind: type[torch.optim.Optimizer]) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters)


def _options(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return this optimizer's arguments, as a schedule may since have moved them."""
    if isinstance(optimizer, Muon):
        return optimizer.options
    shared = _takes(type(optimizer)) - PER_ROW - SPEED
    return {k: v for k, v in optimizer.param_groups[0].items() if k in shared}


class Slice:
    """Neighbouring rows of a stack that one optimizer steps.

    Args:
        runs: theirs.
        first: the number of the first row.
        stacked: all of the stack's parameters.
        lr: [K], each row's rate, kept up to date by the stack.
    """

    def __init__(
        self, runs: Sequence[Run], first: int, stacked: Sequence[StackedParameter], lr: Tensor
    ):
        assert len({kind(run) for run in runs}) == 1, "a slice has one optimizer"
        self.runs, self.rows = runs, slice(first, first + len(runs))
        self.stacked = stacked
        self.parameters = [p.parameter for p in stacked]
        self.views = [p.views[self.rows] for p in stacked]
        self.values = [parameter.detach()[self.rows] for parameter in self.parameters]
        self.shadows = [torch.zeros_like(value) for value in self.values]
        solo = runs[0].optimizer
        if isinstance(solo, Muon):
            self.optimizer = muon.for_rows(solo, stacked, self.shadows, self.views)
        else:
            fast = {"fused": True} if "fused" in _takes(type(solo)) else {}
            self.optimizer = type(solo)(
                self.shadows, lr=1.0, weight_decay=0.0, **_options(solo), **fast
            )
        self.rates = [per_row(lr[self.rows], value) for value in self.values]
        decoupled = solo.param_groups[0].get("decoupled_weight_decay", False)
        self.decoupled = decoupled or isinstance(solo, Muon)
        self.decays = [self._decay(*both) for both in zip(self.views, self.values, strict=True)]
        self._take_state()

    def _decay(self, views: Sequence[Tensor], value: Tensor) -> Tensor | None:
        """Return each row's weight decay of a parameter, [rows, 1, ...]; None if no row has any."""
        decays = [
            group["weight_decay"]
            for run, view in zip(self.runs, views, strict=True)
            for group in run.optimizer.param_groups
            if any(parameter is view for parameter in group["params"])
        ]
        if not any(decays):
            return None
        return per_row(torch.tensor(decays, dtype=torch.float64).to(value), value)

    @torch.no_grad()
    def step(self) -> None:
        """Update these rows once from the stack's gradients."""
        for t, (parameter, value, decay) in enumerate(
            zip(self.parameters, self.values, self.decays, strict=True)
        ):
            grad = None if parameter.grad is None else parameter.grad[self.rows]
            if decay is not None and grad is not None:
                if self.decoupled:
                    value.mul_(1 - self.rates[t] * decay)
                else:
                    grad.addcmul_(value, decay)
            self.shadows[t].grad = grad
        self.optimizer.step()
        for value, shadow, rate in zip(self.values, self.shadows, self.rates, strict=True):
            value.addcmul_(shadow, rate)
        torch._foreach_zero_(self.shadows)

    def follow_schedule(self) -> None:
        """Take over the momentum or betas that the rows' schedules have moved alike."""
        if getattr(self.runs[0].scheduler, "cycle_momentum", False):
            self.optimizer.param_groups[0].update(_options(self.runs[0].optimizer))

    def _take_state(self) -> None:
        """Go on from the rows' optimizer states, if they have any."""
        for p, shadow, views in zip(self.stacked, self.shadows, self.views, strict=True):
            kept = [states(r.optimizer, v).get(v) for r, v in zip(self.runs, views, strict=True)]
            for name, value in (kept[0] or {}).items():
                if by_weight(name, value, views[0]):
                    value = torch.zeros_like(shadow)
                    for k, (state, view) in enumerate(zip(kept, views, strict=True)):
                        p.row(value, k, view).copy_(state[name])
                elif isinstance(value, Tensor):
                    value = value.clone().to(shadow.device)
                states(self.optimizer, shadow)[shadow][name] = value

    def give_state(self) -> None:
        """Put every row's share of the state into its run's optimizer."""
        for p, shadow, views in zip(self.stacked, self.shadows, self.views, strict=True):
            for k, (run, view) in enumerate(zip(self.runs, views, strict=True)):
                state = dict(states(self.optimizer, shadow)[shadow])
                states(run.optimizer, view)[view] = state
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        own = by_weight(name, value, shadow)
                        state[name] = p.row(value, k, view) if own else value.clone().cpu()


class Each:
    """Neighbouring rows of a stack that step one by one, each by its run's own optimizer.

    For those whose update is not proportional to the learning rate, or mixes weights.

    Args:
        runs, first, stacked, lr: as of Slice.
    """

    def __init__(
        self, runs: Sequence[Run], first: int, stacked: Sequence[StackedParameter], lr: Tensor
    ):
        self.optimizers = [run.optimizer for run in dict.fromkeys(runs)]
        self.rows, self.stacked = range(first, first + len(runs)), stacked

    def step(self) -> None:
        """Update these rows once from the stack's gradients."""
        for p in self.stacked:
            grad = p.parameter.grad
            for k in self.rows:
                p.views[k].grad = None if grad is None else p.row(grad, k, p.views[k])
        for optimizer in self.optimizers:
            optimizer.step()
        for p in self.stacked:
            for k in self.rows:
                p.views[k].grad = None

    def follow_schedule(self) -> None:
        """Do nothing: the schedules move these optimizers themselves."""

    def give_state(self) -> None:
        """Do nothing: it is the runs' own."""
