"""Computations that members of a run share while they train, each to the bits it has alone.

Their weights lie in one tensor, which one step of the real optimizer moves; members that are plain
sequences of layers are computed layer by layer, so that what a layer costs beside arithmetic is
paid once. All of it is put back at the end of an epoch: outside, a run with members is an ordinary
model and an ordinary optimizer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from knobs.models.layers import ELEMENTWISE, Dropout
from knobs.models.members import BLOCK, Members, at_blocks, places
from knobs.optimizers import ELEMENT_BY_ELEMENT

LANES = 32  # numbers that a vector loop takes at once; it rounds what is left over its own way
# Layers that are computed for all members before the next one.
LAYERS = (nn.Linear, nn.Flatten, nn.BatchNorm1d, nn.LayerNorm, nn.PReLU, Dropout, *ELEMENTWISE)
Forward = Callable[[Tensor], Tensor]
Zero = Callable[[], None]


@contextmanager
def sharing(
    model: Members, optimizer: torch.optim.Optimizer, in_turn: bool, sums: bool
) -> Iterator[tuple[Forward, Zero]]:
    """Share inside what can be shared.

    Returns:
        The forward pass, [M, N, ...] -> [M, N, outputs], and what makes every gradient 0.

    Args:
        in_turn: whether the members' forward passes are to stay one after the other.
        sums: whether gradients of a weight are added up, from several terms or microbatches.
    """
    layers = [sequence(network) for network in model.members]
    plain = type(optimizer) in ELEMENT_BY_ELEMENT and not any(
        group.get(switch) for group in optimizer.param_groups for switch in ("foreach", "fused")
    )
    if not (plain and layers[0] and all(p.ndim and p.requires_grad for p in model.parameters())):
        yield model, optimizer.zero_grad
        return
    joined = Joined(model, optimizer)
    try:
        shared = not in_turn and all(type(layer) in LAYERS for layer in layers[0])
        forward = layer_by_layer(model, layers, joined, sums) if shared else model
        yield forward, joined.zero_grad
    finally:
        joined.part()


def sequence(network: nn.Module) -> list[nn.Module]:
    """Return the layers that a network is a plain sequence of; none if it is anything else."""
    if type(network) is not nn.Sequential:
        return []
    children = ([c] if type(c) is not nn.Sequential else sequence(c) for c in network)
    return list(chain(*children))


class Joined:
    """An optimizer whose parameters, those of M networks, are one tensor a group.

    In it a weight's M values follow each other, each at a place that its own tensor could have;
    its gradient is there all the time, and those of the networks' parameters are views of it.
    """

    def __init__(self, model: Members, optimizer: torch.optim.Optimizer):
        self.optimizer, self.count = optimizer, len(model.members)
        self.groups = [group["params"] for group in optimizer.param_groups]
        self.leaves: dict[nn.Parameter, nn.Parameter] = {}  # of member 0 -> of all, [M, ...]
        # Each group's one tensor, the parameters in it, and where each of them begins.
        self.parts: list[tuple[nn.Parameter, list[nn.Parameter], list[int]]] = []
        index = {p: i for m in model.members for i, p in enumerate(m.parameters())}
        for group in optimizer.param_groups:
            params = sorted(group["params"], key=index.get)  # stable: members in their order
            step = BLOCK // params[0].element_size()
            starts = [0]
            for p in params:
                starts.append(starts[-1] + -(-p.numel() // step) * step)
            whole = nn.Parameter(params[0].new_zeros(starts[-1]))
            whole.grad = torch.zeros_like(whole)
            self.parts.append((whole, params, starts))
            self._take_state(whole, params, starts)
            for p, start in zip(params, starts[:-1], strict=True):
                values = piece(whole.data, p, start)
                values.copy_(p.data)
                p.data, p.grad = values, piece(whole.grad, p, start)
            group["params"] = [whole]
            for i in range(0, len(params), self.count):
                first, size = params[i], starts[i + 1] - starts[i]
                shape, strides = (self.count, *first.shape), (size, *first.stride())
                leaf = nn.Parameter(whole.data.as_strided(shape, strides, starts[i]))
                leaf.grad = whole.grad.as_strided(shape, strides, starts[i])
                self.leaves[first] = leaf

    def _take_state(self, whole: Tensor, params: list, starts: list[int]) -> None:
        """Join what the optimizer remembers of each parameter."""
        states = [self.optimizer.state.pop(p, {}) for p in params]
        for name, value in states[0].items():
            if isinstance(value, Tensor) and value.shape == params[0].shape:
                value = torch.zeros_like(whole.data)
                for p, state, start in zip(params, states, starts[:-1], strict=True):
                    piece(value, p, start).copy_(state[name])
            self.optimizer.state[whole][name] = value

    def zero_grad(self) -> None:
        """Make every gradient 0."""
        for whole, _, _ in self.parts:
            whole.grad.zero_()

    def part(self) -> None:
        """Give every network parameters, and the optimizer a state, of its own again."""
        for group, params in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["params"] = params
        for whole, params, starts in self.parts:
            state = self.optimizer.state.pop(whole, {})
            for p, start in zip(params, starts[:-1], strict=True):
                p.data, p.grad = p.data.clone(), None
                for name, value in state.items():
                    if isinstance(value, Tensor):
                        joint = value.shape == whole.shape
                        value = (piece(value, p, start) if joint else value).clone()
                    self.optimizer.state[p][name] = value


def piece(whole: Tensor, like: Tensor, start: int) -> Tensor:
    """Return the view of a flat tensor, from an element on, that is laid out as `like`."""
    return whole.as_strided(like.shape, like.stride(), start)


def layer_by_layer(
    model: Members, layers: list[list[nn.Module]], joined: Joined, sums: bool
) -> Forward:
    """Return the forward pass that computes one layer of all members before the next."""
    ranks = [
        Weights([m.weight for m in rank], [m.bias for m in rank], joined, sums)
        if type(rank[0]) is nn.Linear
        else rank
        for rank in zip(*layers, strict=True)
    ]

    def forward(x: Tensor) -> Tensor:
        for rank in ranks:
            if isinstance(rank, Weights):
                x = Linear.apply(x, rank.leaf, rank)
            elif type(rank[0]) is nn.Flatten:
                x = x.flatten(2)
            elif type(rank[0]) in ELEMENTWISE and x[0].numel() % LANES == 0:
                x = rank[0](x)
            else:
                x = model.each(rank, x)
        return x

    return forward


class Weights:
    """The weights of M linear layers: joined in the optimizer, and each as a matrix.

    Args:
        weights: M of (O, I).
        biases: M of (O,), or M times None.
        sums: whether their gradients are added up.
    """

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None], joined: Joined, sums: bool
    ):
        self.sums, self.shape = sums, weights[0].shape
        self.leaf, self.matrices = joined.leaves[weights[0]], [w.data for w in weights]
        self.turned, self.grads = [w.data.t() for w in weights], [w.grad for w in weights]
        self.biases = self.bias_grad = None
        if biases[0] is not None:
            self.biases = [b.data for b in biases]
            self.bias_grad = joined.leaves[biases[0]].grad


class Linear(torch.autograd.Function):
    """M linear layers, [M, N, I] -> [M, N, O], each by the kernels of torch's own.

    A batched product costs no less for a few members, and rounds otherwise: of 200 random shapes 21
    differed, with these kernels none. Gradients of weights are added to .grad right here.
    """

    @staticmethod
    def forward(ctx, x, leaf, layers):  # noqa: ANN001
        count, size, _ = x.shape
        ctx.layers, ctx.parts, ctx.shape = layers, x.unbind(0), x.shape
        out = places(x, count, (size, layers.shape[0]))
        rows = zip(ctx.parts, layers.turned, out.unbind(0), strict=True)
        if layers.biases is None:
            for part, turned, place in rows:
                torch.mm(part, turned, out=place)
        else:
            for bias, (part, turned, place) in zip(layers.biases, rows, strict=True):
                torch.addmm(bias, part, turned, out=place)
        return out

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        layers, of_x = ctx.layers, None
        grad = at_blocks(grad.contiguous())
        for g, part, place in zip(grad.mT.unbind(0), ctx.parts, layers.grads, strict=True):
            if layers.sums:
                place += g.mm(part)  # as torch does: a sum within the product rounds otherwise
            else:
                place.addmm_(g, part)  # onto 0
        if layers.bias_grad is not None:
            layers.bias_grad += grad.sum(1)
        if ctx.needs_input_grad[0]:
            count, *shape = ctx.shape
            of_x = places(grad, count, shape)
            rows = zip(grad.unbind(0), layers.matrices, of_x.unbind(0), strict=True)
            for g, matrix, place in rows:
                torch.mm(g, matrix, out=place)
        return of_x, None, None
