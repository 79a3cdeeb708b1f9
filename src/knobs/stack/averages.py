"""The running averages of a stack's rows (training.ema), which then are what is evaluated."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from knobs.data.dataset import Inputs
from knobs.models.members import Members
from knobs.stack.layers import Stacked
from knobs.stack.proof import form_of


class Averages:
    """The averages of the rows' weights and buffers, stacked as these are.

    Args:
        stack: a loop.Stack, whose module imports this one; its rows share training.ema.
        inputs: as of proof.form_of.
    """

    def __init__(self, stack: Any, inputs: Sequence[Inputs]):
        self.runs, self.decay = stack.runs, stack.training["ema"]
        modules = [run.average.module for run in self.runs]
        networks = [n for m in modules for n in (m.members if isinstance(m, Members) else [m])]
        self.model = form_of(networks, stack.noise, inputs, stack.training["batch_size"])
        pairs = [*zip(_tensors(self.model), _tensors(stack.model), strict=True)]
        self.moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self.counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move every average by a step; torch.optim.swa_utils.AveragedModel does one's."""
        if any(run.progress.step == 1 for run in self.runs):  # which copies
            for run in self.runs:
                run.average.update_parameters(run.model)
            return
        averages, values = zip(*self.moving, strict=True)
        torch._foreach_lerp_([*averages], [*values], 1 - self.decay)
        for average, value in self.counts:
            average.copy_(average * self.decay + value * (1 - self.decay))
        for run in self.runs:
            run.average.n_averaged += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    """Return the stacked weights and buffers."""
    leaves = [module for module in model.modules() if isinstance(module, Stacked)]
    tensors = [t for leaf in leaves for t in (*leaf._parameters.values(), *leaf._buffers.values())]
    return [tensor.detach() for tensor in tensors if tensor is not None]
