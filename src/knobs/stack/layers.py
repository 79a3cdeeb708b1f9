"""K modules of one shape as one module: weights [K, ...], activations [K, N, ...].

A model's leaves are replaced by the classes here, its containers run as they are, since they count
dimensions from the end. What a leaf computes for row k is what modules[k] computes for x[k]; the
rows' own parameters and buffers become views of the stack's, so each row stays a whole module.
A convolution's output lies in memory as (N, K C, H, W), so that the next one, or a norm or pool,
takes it as it is: one grouped kernel serves all rows.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knobs.models.layers import ELEMENTWISE, Dropout, dropout_threshold, random_bits
from knobs.models.text import Bag, Convolutions, Encoder, Positions, Recurrent, TextClassifier

# Modules that only pass tensors on to their children.
CONTAINERS = (
    *(nn.Sequential, nn.ModuleList, TextClassifier, Bag, Convolutions, Encoder, Recurrent),
)


class CannotStack(Exception):
    """A module that has no stacked form; the message names it."""


class Noise:
    """Dropout masks, each row's from its own stream: those that its solo run draws.

    On an accelerator a solo run's masks cannot be had; there one draw serves the stack, and rows
    equal their solo runs in distribution only.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int, device: torch.device):
        self.device = device
        self.generators = [torch.Generator() for _ in range(rows)]

    def seed(self, keys: Sequence[int]) -> None:
        """Put every row's stream at one moment."""
        for generator, key in zip(self.generators, keys, strict=True):
            generator.manual_seed(key)
        if self.device.type != "cpu":
            torch.manual_seed(keys[0])

    def mask(self, like: Tensor, dropout: Sequence[float]) -> Tensor | None:
        """[K, N, ...] of 0 and 1 / (1 - p); None where no row drops anything.

        Args:
            like: the tensor to be masked.
            dropout: each row's probability p.
        """
        if not any(dropout):
            return None
        if self.device.type != "cpu":
            keep = 1 - torch.tensor(dropout, device=self.device, dtype=like.dtype)
            return (torch.rand_like(like) < per_row(keep, like)) / per_row(keep, like)
        size = like[0].numel()
        room = torch.empty(len(dropout), -(-size // 4), dtype=torch.int64)
        for k, p in enumerate(dropout):
            if p:
                random_bits(room[k], self.generators[k])
        thresholds, scales = zip(*map(dropout_threshold, dropout), strict=True)
        bits = room.view(torch.int16)[:, :size].view(like.shape)
        kept = bits >= per_row(torch.tensor(thresholds, dtype=torch.int16), like)
        return kept.to(like.dtype).mul_(per_row(torch.tensor(scales, dtype=like.dtype), like))

    def torch_mask(self, like: Tensor, dropout: Sequence[float]) -> Tensor | None:
        """The same as torch's own attention draws it."""
        if self.device.type != "cpu" or not any(dropout):
            return self.mask(like, dropout)
        mask = torch.ones_like(like, memory_format=torch.contiguous_format)
        for k, p in enumerate(dropout):
            if p:
                mask[k].bernoulli_(1 - p, generator=self.generators[k]).div_(1 - p)
        return mask


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """[K] -> [K, 1, ...], to meet a tensor [K, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))


def stack(models: Sequence[nn.Module], noise: Noise) -> nn.Module:
    """The stacked form of models of one shape; afterwards each is made of views of it.

    Models without dropout may lack the layers that others have for it.

    Raises:
        CannotStack: a module has no stacked form.
    """
    template = max(models, key=lambda m: sum(isinstance(c, Dropout) for c in m.modules()))
    return _stack(template, models, noise)


def _stack(template: nn.Module, rows: Sequence[nn.Module], noise: Noise) -> nn.Module:
    kind = type(template)
    if kind in LEAVES:
        return LEAVES[kind](rows, noise)
    if kind in ELEMENTWISE:
        plain = copy.deepcopy(template)
        if kind is nn.ReLU:
            plain.inplace = True  # what comes before needs its output no more, and memory is time
        return plain
    if kind not in CONTAINERS:
        raise CannotStack(f"{kind.__name__} has no stacked form")
    children = [_weighing(row) for row in rows]
    stacked = copy.copy(template)
    stacked._modules, position = {}, 0
    for name, child in template._modules.items():
        if type(child) is Dropout:  # rows that have it have it under the same name
            stacked._modules[name] = StackedDropout([_named(row, name) for row in rows], noise)
        else:
            stacked._modules[name] = _stack(child, [c[position] for c in children], noise)
            position += 1
    return stacked


def _named(module: nn.Module, name: str) -> Dropout:
    found = module._modules.get(name)
    return found if type(found) is Dropout else Dropout(0.0)


def _weighing(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if type(child) is not Dropout]


class Pair(NamedTuple):
    """A stack's parameter [K, ...] and the rows' own, each a view of it.

    Args:
        turned: whether a row's matrix lies here transposed.
    """

    parameter: nn.Parameter
    views: list[nn.Parameter]
    turned: bool

    def row(self, values: Tensor, k: int) -> Tensor:
        """Row k of a tensor laid out as the parameter, in the shape the row knows."""
        return values[k].mT if self.turned else values[k]


class Stacked(nn.Module):
    """A leaf: parameters and buffers of K modules, stacked, each row's own made a view.

    Args:
        rows: K modules of one kind and shape.
        noise: where dropout draws.
    """

    turned: tuple[str, ...] = ()  # matrices kept as [K, I, O]: so their gradients come out in place

    def __init__(self, rows: Sequence[nn.Module], noise: Noise):
        super().__init__()
        self.noise, self.count = noise, len(rows)
        self.pairs: list[Pair] = []
        first = rows[0]
        for name in first._parameters:
            views = [getattr(row, name) for row in rows]
            if views[0] is None:
                self.register_parameter(name, None)
                continue
            values = torch.stack([v.detach() for v in views])
            turned = name in self.turned
            self.register_parameter(name, nn.Parameter(_turned(values) if turned else values))
            pair = Pair(getattr(self, name), views, turned)
            for k, view in enumerate(views):
                view.data = pair.row(pair.parameter.data, k)
            self.pairs.append(pair)
        for name in first._buffers:
            values = [getattr(row, name) for row in rows]
            shared = torch.stack(values) if values[0] is not None else None
            self.register_buffer(name, shared)
            for k, row in enumerate(rows if shared is not None else ()):
                row._buffers[name] = shared[k]
        self.settings(first)

    def settings(self, module: nn.Module) -> None:
        """Keep what the arithmetic needs beside weights."""


def _turned(values: Tensor) -> Tensor:
    return values.mT.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[K, ..., I], [K, I, O] and [K, O] -> [K, ..., O]."""
    flat = x.reshape(len(weight), -1, x.shape[-1])
    if bias is None:
        y = torch.bmm(flat, weight)
    else:
        y = torch.baddbmm(bias.unsqueeze(1), flat, weight)
    return y.view(*x.shape[:-1], y.shape[-1])


class Linear(Stacked):
    """nn.Linear: [K, ..., I] -> [K, ..., O]."""

    turned = ("weight",)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def folded(x: Tensor) -> Tensor:
    """[K, N, C, ...] -> (N, K C, ...); no copy of what `unfolded` made."""
    return x.transpose(0, 1).flatten(1, 2)


def unfolded(x: Tensor, count: int) -> Tensor:
    """(N, K C, ...) -> [K, N, C, ...]."""
    return x.unflatten(1, (count, -1)).transpose(0, 1)


class Conv2d(Stacked):
    """nn.Conv2d as one grouped convolution: [K, N, C, H, W] -> [K, N, O, H, W]."""

    function = staticmethod(F.conv2d)

    def settings(self, module: nn.Conv1d | nn.Conv2d) -> None:
        if module.groups != 1 or module.padding_mode != "zeros":
            raise CannotStack(f"{module} has no stacked form")
        self.options = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.flatten(0, 1), self.bias
        bias = None if bias is None else bias.flatten()
        y = self.function(folded(x), weight, bias, groups=self.count, **self.options)
        return unfolded(y, self.count)


class Conv1d(Conv2d):
    """nn.Conv1d: [K, N, C, L] -> [K, N, O, L']."""

    function = staticmethod(F.conv1d)


class Pool(nn.Module):
    """A pooling layer without weights: [K, N, C, H, W] -> [K, N, C, H', W']."""

    def __init__(self, rows: Sequence[nn.Module], noise: Noise):
        super().__init__()
        self.pool = copy.deepcopy(rows[0])

    def forward(self, x: Tensor) -> Tensor:
        return unfolded(self.pool(folded(x)), len(x))


class Flatten(nn.Module):
    """nn.Flatten: [K, N, ...] -> [K, N, features]."""

    def __init__(self, rows: Sequence[nn.Flatten], noise: Noise):
        super().__init__()
        if (rows[0].start_dim, rows[0].end_dim) != (1, -1):
            raise CannotStack(f"{rows[0]} has no stacked form")

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


class BatchNorm2d(Stacked):
    """nn.BatchNorm2d on [K, N, C, H, W]: to torch's own kernel these are K C channels."""

    def settings(self, module: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        if module.momentum is None or not module.affine or not module.track_running_stats:
            raise CannotStack(f"{module} has no stacked form")
        self.momentum, self.eps = module.momentum, module.eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        means, variances = self.running_mean.view(-1), self.running_var.view(-1)
        weight, bias = self.weight.flatten(), self.bias.flatten()
        y = F.batch_norm(
            folded(x), means, variances, weight, bias, self.training, self.momentum, self.eps
        )
        return unfolded(y, self.count)


class BatchNorm1d(BatchNorm2d):
    """nn.BatchNorm1d on [K, N, C]: means over N."""

    def forward(self, x: Tensor) -> Tensor:
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

    def settings(self, module: nn.LayerNorm) -> None:
        if len(module.normalized_shape) != 1 or module.weight is None or module.bias is None:
            raise CannotStack(f"{module} has no stacked form")
        self.shape, self.eps = module.normalized_shape, module.eps

    def forward(self, x: Tensor) -> Tensor:
        middle = [1] * (x.ndim - 2)
        weight, bias = (p.view(self.count, *middle, -1) for p in (self.weight, self.bias))
        return torch.addcmul(bias, F.layer_norm(x, self.shape, eps=self.eps), weight)


class GroupNorm(Stacked):
    """nn.GroupNorm on [K, N, C, H, W]: K times the groups."""

    def settings(self, module: nn.GroupNorm) -> None:
        self.groups, self.eps = module.num_groups, module.eps

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.flatten(), self.bias.flatten()
        y = F.group_norm(folded(x), self.count * self.groups, weight, bias, self.eps)
        return unfolded(y, self.count)


class PReLU(Stacked):
    """nn.PReLU with one slope a row."""

    def settings(self, module: nn.PReLU) -> None:
        if module.num_parameters != 1:
            raise CannotStack("PReLU with several slopes has no stacked form")

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, per_row(self.weight, x) * x)


class Embedding(Stacked):
    """nn.Embedding: ids [K, N, L] -> [K, N, L, D], as one table of K V rows."""

    def settings(self, module: nn.Embedding) -> None:
        if module.max_norm is not None or module.sparse or module.scale_grad_by_freq:
            raise CannotStack(f"{module} has no stacked form")
        if module.padding_idx is not None:

            def spare(parameter: nn.Parameter) -> None:
                parameter.grad[:, module.padding_idx] = 0  # padding learns nothing

            self.weight.register_post_accumulate_grad_hook(spare)

    def forward(self, ids: Tensor) -> Tensor:
        offset = torch.arange(self.count, device=ids.device) * self.weight.shape[1]
        return F.embedding(ids + per_row(offset, ids), self.weight.flatten(0, 1))


class StackedPositions(Stacked):
    """models.text.Positions: [K, N, L, D] -> the same."""

    def forward(self, embedded: Tensor) -> Tensor:
        return embedded + self.weight[:, None, : embedded.shape[-2]]


class StackedDropout(nn.Module):
    """models.layers.Dropout with each row's own probability and stream."""

    def __init__(self, rows: Sequence[Dropout], noise: Noise):
        super().__init__()
        self.noise, self.dropout = noise, [row.p for row in rows]

    def forward(self, x: Tensor) -> Tensor:
        mask = self.noise.mask(x, self.dropout) if self.training else None
        return x if mask is None else x * mask


class Attention(Stacked):
    """nn.MultiheadAttention of a sequence with itself, batch first, without the weights."""

    turned = ("in_proj_weight",)

    def __init__(self, rows: Sequence[nn.MultiheadAttention], noise: Noise):
        super().__init__(rows, noise)
        self.dropout = [row.dropout for row in rows]
        self.out = Linear([row.out_proj for row in rows], noise)

    def settings(self, module: nn.MultiheadAttention) -> None:
        plain = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
        if not plain or not module.batch_first:
            raise CannotStack(f"{module} has no stacked form")
        self.heads = module.num_heads

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        """[K, N, L, D] and [K, N, L], true at padding -> [K, N, L, D]."""
        projected = linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in projected.chunk(3, -1)
        )
        scores = (query / query.shape[-1] ** 0.5) @ key.mT
        scores = scores.masked_fill(padding[..., None, None, :], float("-inf"))
        weights = scores.softmax(-1)
        mask = self.noise.torch_mask(weights, self.dropout) if self.training else None
        mixed = (weights if mask is None else weights * mask) @ value
        return self.out(mixed.transpose(-2, -3).flatten(-2))


class EncoderLayer(Stacked):
    """nn.TransformerEncoderLayer, norms first."""

    def __init__(self, rows: Sequence[nn.TransformerEncoderLayer], noise: Noise):
        super().__init__(rows, noise)
        self.attention = Attention([row.self_attn for row in rows], noise)
        for name, kind in (
            *(("linear1", Linear), ("linear2", Linear)),
            *(("norm1", LayerNorm), ("norm2", LayerNorm)),
        ):
            setattr(self, name, kind([getattr(row, name) for row in rows], noise))
        self.activation = _stack(rows[0].activation, [row.activation for row in rows], noise)
        self.dropout = StackedDropout([row.dropout for row in rows], noise)

    def settings(self, module: nn.TransformerEncoderLayer) -> None:
        if not module.norm_first or not isinstance(module.activation, nn.Module):
            raise CannotStack("a transformer layer with norms last has no stacked form")

    def forward(self, x: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        attended = self.attention(self.norm1(x), src_key_padding_mask)
        x = x + self.dropout(attended)
        inner = self.dropout(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout(self.linear2(inner))


LEAVES: dict[type[nn.Module], Callable[[Sequence[nn.Module], Noise], nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.Conv1d: Conv1d,
    nn.Flatten: Flatten,
    nn.MaxPool2d: Pool,
    nn.AdaptiveAvgPool2d: Pool,
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.LayerNorm: LayerNorm,
    nn.GroupNorm: GroupNorm,
    nn.PReLU: PReLU,
    nn.Embedding: Embedding,
    Positions: StackedPositions,
    Dropout: StackedDropout,
    nn.TransformerEncoderLayer: EncoderLayer,
}
