"""K networks of any class as one: torch.func.vmap over their stacked weights, as a whole.

For networks that are not made of layers.py's leaves; proof.py tries each kind before it is used.
The rows' own parameters and buffers become views of the stack's, so each row stays a whole module.
"""

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from knobs.data.dataset import Inputs
from knobs.models.frozen import still
from knobs.models.layers import Dropout
from knobs.stack.layers import DROPOUTS, Stacked, spare_padding
from knobs.stack.noise import Noise
from knobs.stack.recurrent import UnrolledGRU

Orders = dict[str, list[list[int]]]  # a dropout layer's path: dimensions by stride, a list a call


class Whole(nn.Module):
    """K networks of one class: [K, N, ...], or several such inputs by name -> [K, N, ...].

    What is frozen and alike in all of them is used as it is, and stays each network's own.

    Args:
        rows: that differ in nothing but the values of weights and buffers, and in dropout's p.
        noise: where dropout draws.
        orders: of the dimensions in memory of what torch's dropout gets; see `orders_of`.
    """

    def __init__(self, rows: Sequence[nn.Module], noise: Noise, orders: Orders):
        super().__init__()
        template = copy.deepcopy(rows[0])
        self.leaves, self.values = nn.ModuleList(), {}
        weights, buffers = ([*map(dict, each)] for each in zip(*map(_named, rows), strict=True))
        owned: dict[str, set[str]] = {}
        for name, weight in weights[0].items():
            alike = (torch.equal(weight, other[name]) for other in weights[1:])
            if weight.requires_grad or not all(alike):
                owned.setdefault(name.rpartition(".")[0], set()).add(name.rpartition(".")[2])
        for name in buffers[0]:
            owned.setdefault(name.rpartition(".")[0], set()).add(name.rpartition(".")[2])
        for path, names in owned.items():
            leaf = Stacked([row.get_submodule(path) for row in rows], noise, names)
            self.leaves.append(leaf)
            if type(owner := rows[0].get_submodule(path)) is nn.Embedding and "weight" in names:
                spare_padding(leaf.weight, owner)  # of which vmap's rule knows nothing
            tensors = leaf._parameters | leaf._buffers
            self.values |= {f"{path}.{name}".lstrip("."): tensors[name] for name in sorted(names)}
        for row, before in zip(rows, buffers, strict=True):
            _follow(row, before)
        _draw_by_row(template, rows, noise, orders)
        for module in template.modules():
            if type(module) is nn.GRU:
                module.__class__ = UnrolledGRU
        # A partial, since a module's modules are its own: the template's weights are nobody's.
        self.call = functools.partial(functional_call, template)

    def forward(self, x: Inputs) -> Tensor:
        """Map the rows' batches to their outputs."""

        def one(values: dict[str, Tensor], x: Inputs) -> Tensor:
            return self.call(values, (x,))

        with _no_fused_attention():
            return vmap(one, randomness="error")(self.values, x)

    @property
    def template(self) -> nn.Module:
        """Return the network through which each row's values go."""
        return self.call.args[0]

    def train(self, mode: bool = True) -> "Whole":
        super().train(mode)
        still(self.template.train()) if mode else self.template.eval()
        return self


@contextlib.contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Leave out attention's kernels that vmap has no rule for."""
    mha, cuda = torch.backends.mha, torch.backends.cuda  # whose switch holds on a CPU as well
    switches = (
        (mha.set_fastpath_enabled, mha.get_fastpath_enabled()),
        (cuda.enable_flash_sdp, cuda.flash_sdp_enabled()),
    )
    try:
        for switch, _ in switches:
            switch(False)
        yield
    finally:
        for switch, before in switches:
            switch(before)


def _named(model: nn.Module) -> tuple[list, list]:
    """Return parameters and buffers by name, what has several names once."""
    return [*model.named_parameters()], [*model.named_buffers()]


def _follow(row: nn.Module, before: dict[str, Tensor]) -> None:
    """Let a buffer that has several names be the same view under each.

    Args:
        before: the buffers by their first names, as they were.
    """
    names = {id(buffer): name for name, buffer in before.items()}
    for module in row.modules():
        for name, buffer in module._buffers.items():
            if first := names.get(id(buffer)):
                module._buffers[name] = row.get_buffer(first)


@contextlib.contextmanager
def orders_of(network: nn.Module) -> Iterator[Orders]:
    """Enter with a dictionary that notes what a network's calls of torch's dropout get.

    torch draws a mask in the order of memory, which inside vmap is another one.
    """
    orders: Orders = {}
    hooks = []
    for path, module in network.named_modules():
        if type(module) is nn.Dropout:

            def note(_: nn.Module, inputs: tuple, path: str = path) -> None:
                strides = inputs[0].stride()
                order = sorted(range(len(strides)), key=lambda d: -strides[d])
                orders.setdefault(path, []).append(order)

            hooks.append(module.register_forward_pre_hook(note))
    try:
        yield orders
    finally:
        for hook in hooks:
            hook.remove()


def _draw_by_row(
    template: nn.Module, rows: Sequence[nn.Module], noise: Noise, orders: Orders
) -> None:
    """Put dropout that draws each row's mask in place of a template's."""
    made: dict[nn.Module, RowDropout] = {}
    for path, module in [*template.named_modules(remove_duplicate=False)]:
        if type(module) in DROPOUTS:
            if module not in made:
                p = [row.get_submodule(path).p for row in rows]
                made[module] = RowDropout(p, noise, type(module), orders.get(path, []))
            template.set_submodule(path, made[module])


class RowDropout(nn.Module):
    """models.layers.Dropout or torch's inside vmap: each row's own probability and stream.

    Args:
        dropout: each row's p. kind: of the two.
        orders: as of Whole, of this layer's calls in turn.
    """

    def __init__(self, dropout: Sequence[float], noise: Noise, kind: type, orders: list[list[int]]):
        super().__init__()
        draw = noise.mask if kind is Dropout else noise.torch_mask
        self.draw = functools.partial(draw, dropout=dropout)
        self.orders = itertools.cycle(orders) if kind is nn.Dropout and orders else None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        order = {"order": next(self.orders)} if self.orders else {}
        return Masked.apply(x, functools.partial(self.draw, **order))


class Masked(torch.autograd.Function):
    """x times the rows' masks, which are drawn for all rows at once."""

    @staticmethod
    def forward(x, mask):  # noqa: ANN001
        raise RuntimeError("dropout of a tensor that is the same in all runs")

    @staticmethod
    def setup_context(ctx, inputs, output):  # noqa: ANN001
        pass

    @staticmethod
    def vmap(info, in_dims, x, mask):  # noqa: ANN001
        x = x.movedim(in_dims[0], 0)
        drawn = mask(x)
        return (x.clone() if drawn is None else x * drawn), 0
