"""K modules of one shape as one module: weights [K, ...], activations [K, N, ...].

A model's leaves are replaced by the classes here, its containers run as they are, since they count
dimensions from the end. What a leaf computes for row k is what modules[k] computes for x[k]; the
rows' own parameters and buffers become views of the stack's, so each row stays a whole module.
A convolution's output lies in memory as (N, K C, H, W), so that the next one, or a norm or pool,
takes it as it is: one grouped kernel serves all rows.
"""

import copy
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knobs.models.layers import ELEMENTWISE, Dropout
from knobs.models.tabular import Periodic, embed
from knobs.models.text import Bag, Convolutions, Encoder, Positions, Recurrent, TextClassifier
from knobs.stack.noise import Noise, per_row

# Modules that only pass tensors on to their children.
CONTAINERS = (
    *(nn.Sequential, nn.ModuleList, TextClassifier, Bag, Convolutions, Encoder, Recurrent),
)
DROPOUTS = (Dropout, nn.Dropout)


class CannotStack(Exception):
    """A module that has no stacked form; the message names it."""


def stack(models: Sequence[nn.Module], noise: Noise) -> nn.Module:
    """Return the stacked form of models of one shape; afterwards each is made of views of it.

    Models without dropout may lack the layers that others have for it.

    Raises:
        CannotStack: a module has no stacked form.
    """
    template = max(models, key=lambda m: sum(type(c) in DROPOUTS for c in m.modules()))
    kind, kinds = type(template), {type(m) for m in models}
    if len(kinds) > 1 and not kinds <= {*ELEMENTWISE}:
        raise CannotStack(f"{' and '.join(sorted(k.__name__ for k in kinds))} share no computation")
    if kind in LEAVES:
        if kind in UNCOVERED and UNCOVERED[kind](template):
            raise CannotStack(f"{template} has no stacked form")
        return LEAVES[kind](models, noise)
    if kind in ELEMENTWISE and len({*map(repr, models)}) > 1:
        return ByRow(models)
    if kind in ELEMENTWISE:
        plain = copy.deepcopy(template)
        if kind is nn.ReLU:
            plain.inplace = True  # what comes before needs its output no more, and memory is time
        return plain
    if kind not in CONTAINERS:
        raise CannotStack(f"{kind.__name__} has no stacked form")
    # Not children(): one layer may stand in two places.
    rest = zip(
        *([c for c in m._modules.values() if type(c) not in DROPOUTS] for m in models), strict=True
    )
    stacked = copy.copy(template)
    stacked._modules = {
        name: StackedDropout([_probability(model, name) for model in models], noise, type(child))
        if type(child) in DROPOUTS
        else stack(next(rest), noise)
        for name, child in template._modules.items()
    }
    if kind is nn.Sequential:
        for before, child in itertools.pairwise([None, *stacked._modules.values()]):
            if getattr(child, "inplace", False):  # never on the data, or what autograd has saved
                child.inplace = isinstance(before, Stacked)
    return stacked


def fast(model: nn.Module) -> bool:
    """Return whether a model is plain sequences of layers that have a stacked form here.

    Knobs' own text models are as well. One whose layers share weights, or have hooks or a forward
    of their own, is not.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return len(names) == len([*model.parameters()]) and _known(model)


def _known(module: nn.Module, parent: type = nn.Sequential) -> bool:
    kind, own = type(module), vars(module)
    if "forward" in own or any(own[name] for name in own if name.endswith("_hooks")):
        return False
    if kind is nn.TransformerEncoderLayer:  # which takes the padding
        return parent is nn.ModuleList
    if kind in LEAVES:
        return not (kind in UNCOVERED and UNCOVERED[kind](module))
    if kind in CONTAINERS:
        return all(_known(child, kind) for child in module._modules.values())
    return kind in ELEMENTWISE or kind in DROPOUTS


def _probability(module: nn.Module, name: str) -> float:
    """Return that of a dropout layer, 0 where the module has none of this name."""
    layer = module._modules.get(name)
    return layer.p if type(layer) in DROPOUTS else 0.0


class StackedParameter(NamedTuple):
    """A stack's parameter [K, ...] and those of the rows, each a view of it.

    Args:
        turned: whether a row's matrix lies here transposed.
    """

    parameter: nn.Parameter
    views: list[nn.Parameter]
    turned: bool

    def row(self, values: Tensor, k: int, like: Tensor) -> Tensor:
        """Return row k of a tensor laid out as the parameter, in the shape the row knows.

        Args:
            like: of that shape; a narrower row's part of the padded tensor is cut out.
        """
        row = values[k].mT if self.turned else values[k]
        return row if row.shape == like.shape else row[tuple(map(slice, like.shape))]


class Stacked(nn.Module):
    """A leaf: parameters and buffers of K modules, stacked, those of each row made views.

    Args:
        rows: K modules of one kind and shape.
        noise: where dropout draws.
        names: of the parameters and buffers that it has; all of the modules' own if None.
    """

    padded: tuple[str, int] = ("", 0)  # a weight and its dimension in which rows may differ
    turned: tuple[str, ...] = ()  # matrices kept as [K, I, O]: so their gradients come out in place
    settings: tuple[str, ...] = ()  # of a row, which the arithmetic needs beside weights

    def __init__(
        self, rows: Sequence[nn.Module], noise: Noise, names: Collection[str] | None = None
    ):
        super().__init__()
        self.noise, self.count = noise, len(rows)
        self.stacked: list[StackedParameter] = []
        first = rows[0]
        for name in first._parameters:
            views = [getattr(row, name) for row in rows]
            if views[0] is None or (names is not None and name not in names):
                self.register_parameter(name, None)
                continue
            if len(learns := {view.requires_grad for view in views}) > 1:
                raise CannotStack(f"{type(first).__name__}.{name} is frozen in some runs only")
            values, turned = self._together(name, views), name in self.turned
            values = values.mT.contiguous() if turned else values
            parameter = nn.Parameter(values, requires_grad=learns.pop())
            self.register_parameter(name, parameter)
            self.stacked.append(StackedParameter(parameter, views, turned))
            for k, view in enumerate(views):
                view.data = self.stacked[-1].row(parameter.data, k, view)
        for name, buffer in first._buffers.items():
            if buffer is None or (names is not None and name not in names):
                self.register_buffer(name, None)
                continue
            self.register_buffer(name, self._together(name, [row._buffers[name] for row in rows]))
            for k, row in enumerate(rows):
                row._buffers[name] = getattr(self, name)[k]
        for name in self.settings:
            setattr(self, name, getattr(first, name))

    def _together(self, name: str, views: Sequence[Tensor]) -> Tensor:
        """Return the rows' values of a weight [K, ...], narrower ones padded with zeros.

        Raises:
            CannotStack: they differ in another dimension than inputs may.
        """
        shapes = {view.shape for view in views}
        if len(shapes) == 1:
            return torch.stack([view.detach() for view in views])
        weight, dim = self.padded
        if name != weight or len({(*s[:dim], *s[dim + 1 :]) for s in shapes}) > 1:
            raise CannotStack(f"{type(self).__name__}.{name} has a shape of its own in each run")
        values = views[0].new_zeros(len(views), *map(max, zip(*shapes, strict=True)))
        for row, view in zip(values, views, strict=True):
            row[tuple(map(slice, view.shape))] = view.detach()
        return values


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map [K, ..., I] by [K, I, O] and [K, O] -> [K, ..., O]."""
    flat = x if x.ndim == 3 else x.reshape(len(weight), -1, x.shape[-1])
    y = flat.bmm(weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, weight)
    # Of a view, an activation in place would let autograd copy the gradient twice.
    return y if x.ndim == 3 else y.view(*x.shape[:-1], y.shape[-1])


class Linear(Stacked):
    """nn.Linear: [K, ..., I] -> [K, ..., O]; of rows of fewer inputs the last ones are 0."""

    turned, padded = ("weight",), ("weight", 1)

    def __init__(self, rows: Sequence[nn.Module], noise: Noise):
        super().__init__(rows, noise)
        weight = self.stacked[0]
        if len({view.shape for view in weight.views}) > 1 and weight.parameter.requires_grad:
            real = torch.zeros_like(weight.parameter)
            for k, view in enumerate(weight.views):
                weight.row(real, k, view).fill_(1)

            def keep_zeros(parameter: nn.Parameter) -> None:
                parameter.grad.mul_(real)  # whatever an activation before makes of a 0

            weight.parameter.register_post_accumulate_grad_hook(keep_zeros)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def folded(x: Tensor) -> Tensor:
    """Turn [K, N, C, ...] into (N, K C, ...), without a copy where `unfolded` was before."""
    return x.transpose(0, 1).flatten(1, 2)


def unfolded(x: Tensor, count: int) -> Tensor:
    """Turn (N, K C, ...) into [K, N, C, ...]."""
    return x.unflatten(1, (count, -1)).transpose(0, 1)


class Folded(Stacked):
    """A leaf that one kernel of torch's computes for all rows, on (N, K C, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (p if p is None else p.flatten(0, 1) for p in (self.weight, self.bias))
        return unfolded(self.kernel(folded(x), weight, bias), self.count)


class Conv(Folded):
    """nn.Conv1d and nn.Conv2d as one grouped convolution: [K, N, C, ...] -> [K, N, O, ...]."""

    settings = ("stride", "padding", "dilation")

    def kernel(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve = F.conv1d if x.ndim == 3 else F.conv2d
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.count)


class Pool(nn.Module):
    """A pooling layer without weights: [K, N, C, H, W] -> [K, N, C, H', W']."""

    def __init__(self, rows: Sequence[nn.Module], noise: Noise):
        super().__init__()
        self.pool = copy.deepcopy(rows[0])

    def forward(self, x: Tensor) -> Tensor:
        return unfolded(self.pool(folded(x)), len(x))


class BatchNorm2d(Folded):
    """nn.BatchNorm2d on [K, N, C, H, W]: to torch's own kernel these are K C channels."""

    settings = ("momentum", "eps")

    def kernel(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        means, variances = self.running_mean.view(-1), self.running_var.view(-1)
        return F.batch_norm(
            x, means, variances, weight, bias, self.training, self.momentum, self.eps
        )


class BatchNorm1d(BatchNorm2d):
    """nn.BatchNorm1d on [K, N, C]: means over N; on [K, N, C, L] as the one for images."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim > 3:
            return super().forward(x)
        weight, bias = self.weight.unsqueeze(1), self.bias.unsqueeze(1)
        if not self.training:
            scale = weight * torch.rsqrt(self.running_var.unsqueeze(1) + self.eps)
            return (x - self.running_mean.unsqueeze(1)) * scale + bias
        var, mean = torch.var_mean(x.detach(), 1, correction=0, keepdim=True)
        with torch.no_grad():
            self.num_batches_tracked += 1
            n = x.shape[1]
            self.running_mean.lerp_(mean.squeeze(1), self.momentum)
            self.running_var.lerp_(var.squeeze(1) * (n / (n - 1)), self.momentum)
        return Normalize.apply(x, mean, torch.rsqrt(var + self.eps), weight, bias)


class Normalize(torch.autograd.Function):
    """(x - mean) rstd weight + bias over dimension 1, the batch; mean and rstd are x's own.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3, for the gradient.
    """

    @staticmethod
    def forward(ctx, x, mean, rstd, weight, bias):  # noqa: ANN001
        normed = (x - mean).mul_(rstd)
        ctx.save_for_backward(normed, rstd, weight)
        return torch.addcmul(bias, normed, weight)

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        normed, rstd, weight = ctx.saved_tensors
        n = grad.shape[1]
        grad_bias = grad.sum(1, keepdim=True)
        grad_weight = (grad * normed).sum(1, keepdim=True)
        inner = torch.addcmul(grad - grad_bias / n, normed, grad_weight / n, value=-1)
        return inner.mul_(rstd * weight), None, None, grad_weight, grad_bias


class LayerNorm(Stacked):
    """nn.LayerNorm over the last dimension of [K, ..., C]."""

    settings = ("normalized_shape", "eps")

    def forward(self, x: Tensor) -> Tensor:
        middle = [1] * (x.ndim - 2)
        weight, bias = (p.view(self.count, *middle, -1) for p in (self.weight, self.bias))
        return torch.addcmul(bias, F.layer_norm(x, self.normalized_shape, eps=self.eps), weight)


class GroupNorm(Folded):
    """nn.GroupNorm on [K, N, C, H, W]: K times the groups."""

    settings = ("num_groups", "eps")

    def kernel(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(x, self.count * self.num_groups, weight, bias, self.eps)


class PReLU(Stacked):
    """nn.PReLU with one slope a row."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, per_row(self.weight, x) * x)


def spare_padding(weight: nn.Parameter, row: nn.Embedding) -> None:
    """Let padding learn nothing: the stacked weight's gradient is 0 there."""
    if (padding := row.padding_idx) is not None and weight.requires_grad:

        def spare(parameter: nn.Parameter) -> None:
            parameter.grad[:, padding] = 0

        weight.register_post_accumulate_grad_hook(spare)


class Embedding(Stacked):
    """nn.Embedding: ids [K, N, L] -> [K, N, L, D], as one table of K V rows."""

    padded = ("weight", 0)

    def __init__(self, rows: Sequence[nn.Embedding], noise: Noise):
        super().__init__(rows, noise)
        spare_padding(self.weight, rows[0])

    def forward(self, ids: Tensor) -> Tensor:
        offset = torch.arange(self.count, device=ids.device) * self.weight.shape[1]
        return F.embedding(ids + per_row(offset, ids), self.weight.flatten(0, 1))


class StackedPositions(Stacked):
    """models.text.Positions: [K, N, L, D] -> the same."""

    def forward(self, embedded: Tensor) -> Tensor:
        return embedded + self.weight[:, None, : embedded.shape[-2]]


class StackedPeriodic(Stacked):
    """models.tabular.Periodic: [K, N, F] -> [K, N, F D]."""

    def forward(self, x: Tensor) -> Tensor:
        return embed(x, self.frequency, self.weight, self.bias)


class StackedDropout(nn.Module):
    """models.layers.Dropout or torch's with each row's own probability and stream."""

    def __init__(self, dropout: Sequence[float], noise: Noise, kind: type = Dropout):
        super().__init__()
        self.draw, self.dropout = noise.mask if kind is Dropout else noise.torch_mask, dropout

    def forward(self, x: Tensor) -> Tensor:
        mask = self.draw(x, self.dropout) if self.training else None
        return x if mask is None else x * mask


class ByRow(nn.Module):
    """Activations of several kinds, each on the rows that have it: [K, ...] -> the same.

    Rows of one kind that stand beside one another are computed at once; see `in_slices`.
    """

    def __init__(self, rows: Sequence[nn.Module]):
        super().__init__()
        alike = [list(part) for _, part in itertools.groupby(rows, key=repr)]
        self.kinds = nn.ModuleList(copy.deepcopy(part[0]) for part in alike)
        self.counts = [len(part) for part in alike]
        for kind in self.kinds:
            if getattr(kind, "inplace", False):
                kind.inplace = False  # of a part of what others compute on

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.kinds, x.split(self.counts), strict=True)
        return torch.cat([kind(part) for kind, part in parts])


class Attention(Stacked):
    """nn.MultiheadAttention of a sequence with itself, batch first, without the weights."""

    turned, settings = ("in_proj_weight",), ("num_heads",)

    def __init__(self, rows: Sequence[nn.MultiheadAttention], noise: Noise):
        super().__init__(rows, noise)
        self.dropout = [row.dropout for row in rows]
        self.out = Linear([row.out_proj for row in rows], noise)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """Map [K, N, L, D] and [K, N, L], true at padding -> [K, N, L, D]."""
        projected = linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for part in projected.chunk(3, -1)
        )
        scores = (query / query.shape[-1] ** 0.5) @ key.mT
        scores = scores.masked_fill(padding[..., None, None, :], float("-inf"))
        weights = scores.softmax(-1)
        mask = self.noise.torch_mask(weights, self.dropout) if self.training else None
        mixed = (weights if mask is None else weights * mask) @ value
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class EncoderLayer(nn.Module):
    """nn.TransformerEncoderLayer, norms first."""

    def __init__(self, rows: Sequence[nn.TransformerEncoderLayer], noise: Noise):
        super().__init__()
        first = rows[0]
        if not (first.norm_first and isinstance(first.activation, nn.Module)):
            raise CannotStack("a transformer layer with norms last has no stacked form")
        if not first.self_attn.batch_first:
            raise CannotStack(f"{first.self_attn} has no stacked form")
        self.attention = Attention([row.self_attn for row in rows], noise)
        for name in ("linear1", "linear2", "norm1", "norm2", "activation"):
            setattr(self, name, stack([getattr(row, name) for row in rows], noise))
        self.dropout = StackedDropout([row.dropout.p for row in rows], noise)

    def forward(self, x: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x), src_key_padding_mask)
        x = x + self.dropout(attended)
        inner = self.dropout(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout(self.linear2(inner))


LEAVES: dict[type[nn.Module], Callable[[Sequence[nn.Module], Noise], nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv,
    nn.Conv1d: Conv,
    nn.Flatten: lambda rows, noise: nn.Flatten(2),
    nn.MaxPool2d: Pool,
    nn.AdaptiveAvgPool2d: Pool,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.LayerNorm: LayerNorm,
    nn.GroupNorm: GroupNorm,
    nn.PReLU: PReLU,
    nn.Embedding: Embedding,
    Positions: StackedPositions,
    Periodic: StackedPeriodic,
    nn.TransformerEncoderLayer: EncoderLayer,
}
# What the stacked form of a kind leaves out.
UNCOVERED: dict[type[nn.Module], Callable[[Any], bool]] = {
    nn.Conv2d: lambda m: m.groups != 1 or m.padding_mode != "zeros",
    nn.Conv1d: lambda m: m.groups != 1 or m.padding_mode != "zeros",
    nn.Flatten: lambda m: (m.start_dim, m.end_dim) != (1, -1),
    nn.BatchNorm1d: lambda m: m.momentum is None or not (m.affine and m.track_running_stats),
    nn.BatchNorm2d: lambda m: m.momentum is None or not (m.affine and m.track_running_stats),
    nn.LayerNorm: lambda m: len(m.normalized_shape) != 1 or m.weight is None or m.bias is None,
    nn.MaxPool2d: lambda m: m.return_indices,
    nn.PReLU: lambda m: m.num_parameters != 1,
    nn.Embedding: lambda m: m.max_norm is not None or m.sparse or m.scale_grad_by_freq,
}
