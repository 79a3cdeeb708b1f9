"""Looks at what a run is made of: gradients, weights and metrics must be finite numbers.

A look waits for the device, so there is none each step: every CHECK_EVERY steps, where a run stops,
before a checkpoint, and at an epoch's end. NaN in a weight is there to stay, so a later look sees
it, and the losses, all of which are read, name the step.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from knobs.errors import DataError
from knobs.training.scores import undefined
from knobs.training.state import Diverged, Run

GRADIENT, WEIGHTS = "the gradient", "a weight"
RUNNING = ("running_mean", "running_var")  # buffers that training moves; others may be infinite


def watched(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield by name what must be finite of a network: its parameters and running statistics."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] in RUNNING:
            yield name, buffer


def finite(tensors: list[Tensor]) -> bool:
    """Return whether all numbers of some tensors are finite; one wait for the device if so."""
    if not tensors:
        return True
    # NaN and inf stay in a sum, which is six times as fast as to look for them.
    total = torch.stack([t.detach().sum() for t in tensors]).sum().item()
    return math.isfinite(total) or all(bool(t.isfinite().all()) for t in tensors)


def fault(run: Run) -> tuple[str, int | None] | None:
    """Return what of a run is not finite, and of which member; None where all is.

    The gradient is that of the last step, as it was clipped.
    """
    looks = [(GRADIENT, network, _gradients(network)) for network in run.networks]
    looks += [(WEIGHTS, n, [t for _, t in watched(run.live(n))]) for n in run.networks]
    if run.average:
        looks.append((WEIGHTS, None, [t for _, t in watched(run.average.module)]))
    if finite([t for _, _, tensors in looks for t in tensors]):
        return None
    for what, network, tensors in looks:
        if not finite(tensors):
            several = network is not None and len(run.networks) > 1
            return what, run.networks.index(network) if several else None
    return None


def _gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


def check(run: Run) -> None:
    """Refuse to go on where a gradient or a weight is not finite.

    Raises:
        Diverged: naming the step that has just been made.
    """
    if found := fault(run):
        what, member = found
        raise Diverged(run.progress.step, member, what)


def check_metrics(
    run: Run, values: Mapping[str, float], member: int | None = None, split: str = ""
) -> None:
    """Refuse an epoch of which a usual metric of the validation split is not finite.

    R2 has no value where the targets do not vary, and one that is asked for may have none: that is
    a fact about the split, unless it is the objective.

    Args:
        values: of the split, and of others.
        split: what the names begin with.

    Raises:
        Diverged: naming the metric. DataError: the objective has no value though the loss has.
    """
    loss, outputs = values.get(f"{split}loss", math.nan), run.data.shape.outputs
    judged = {"objective.metric": run.objective["metric"], "scheduler.monitor": run.monitor or ""}
    judged = {key: named.partition("val/")[2] for key, named in judged.items()}
    for key, name in judged.items():
        if math.isnan(values.get(f"{split}{name}", 0.0)) and math.isfinite(loss):
            whose = "" if member is None else f" of member {member}"
            raise DataError(
                f"{key}=val/{name}: not a number after epoch {run.progress.epoch + 1}{whose}, "
                "though val/loss is: the metric has no value on this validation split; choose "
                "another"
            )
    for full, value in values.items():
        name = full.removeprefix(split)
        if math.isfinite(value) or not full.startswith(split):
            continue
        no_value = name in run.scores or undefined(name, run.data.val.y, outputs, [])
        if name in judged.values() or not no_value:
            raise Diverged(run.progress.step, member, f"val/{name}")
