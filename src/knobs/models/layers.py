"""Parts shared by the models: widths by name, norm layers, hidden layers."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]
# Modules without weights that treat every number alone and draw none: they stack as they are.
ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softsign, nn.Tanhshrink),
    *(nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.Threshold),
)
SHARES = 2**16  # to one of so many a dropout probability is rounded


def widths(width: int | str | list[int], depth: int, inputs: int, outputs: int) -> list[int]:
    """Return the width of each hidden layer, from a number, a list or the name of a rule.

    Rules are rounded to the nearest multiple of 8, `under_double` to the one just under.

    Args:
        width: a number for every layer; a list, one a layer; or `between` (mean of inputs and
            outputs), `two_thirds` (2/3 of inputs plus 2/3 of outputs), `under_double` (just
            under twice the inputs).
        depth: hidden layers, where width is not a list.
        inputs: numbers that enter the first hidden layer.
        outputs: numbers that leave the network.
    """
    if isinstance(width, list):
        return width
    if width == "between":
        width = _eights((inputs + outputs) / 2)
    elif width == "two_thirds":
        width = _eights(2 / 3 * inputs + 2 / 3 * outputs)
    elif width == "under_double":
        width = max(8, (2 * inputs - 1) // 8 * 8)
    return [width] * depth


def _eights(value: float) -> int:
    return max(8, int(value / 8 + 0.5) * 8)


def norm_layer(norm: str | None, features: int, dims: int = 1) -> list[nn.Module]:
    """Return no layer or the one `norm` names, for (N, features) or, dims=2, (N, features, H, W).

    Layer norm over an image normalises each place's channels together with all others of its
    example: GroupNorm with one group.
    """
    if norm == "batch":
        return [nn.BatchNorm1d(features) if dims == 1 else nn.BatchNorm2d(features)]
    if norm == "layer":
        return [nn.LayerNorm(features) if dims == 1 else nn.GroupNorm(1, features)]
    return []


def hidden_layers(
    sizes: list[int], bias: bool, activation: Activation, norm: str | None, dropout: float
) -> nn.Sequential:
    """Return linear, norm, activation, dropout for each pair of neighbouring sizes."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), *norm_layer(norm, after), activation()]
        layers += [Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)


class Dropout(nn.Dropout):
    """torch's dropout in a third of its time on a CPU, where torch draws number after number.

    A number is dropped by 16 random bits of its own: p is rounded to the nearest 1/65536, and what
    is kept is divided by the share that this keeps, so that the mean is exact. Draws from torch's
    default generator. Source: Srivastava et al. (2014), JMLR 15.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop numbers of a tensor of any shape."""
        if not (self.training and self.p) or x.device.type != "cpu":
            return super().forward(x)
        threshold, scale = dropout_threshold(self.p)
        bits = random_bits(torch.empty(-(-x.numel() // 4), dtype=torch.int64))[: x.numel()]
        return x * at_least(bits.view(x.shape), threshold, x.dtype).mul_(scale)


def dropout_threshold(p: float) -> tuple[int, float]:
    """Return the least int16 of random bits that stays, and what a number is multiplied by."""
    dropped = min(round(p * SHARES), SHARES - 1)
    return dropped - SHARES // 2, SHARES / (SHARES - dropped)


def at_least(bits: Tensor, threshold: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Return 1 where bits are not below a threshold, else 0.

    As numbers at once: of truth values torch makes numbers one by one, in six times the time.
    """
    return torch.ge(bits, threshold, out=torch.empty(bits.shape, dtype=dtype))


def random_bits(room: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill an int64 tensor [n] with random bits; return its memory as int16 [4 n]."""
    return room.random_(-(2**63), None, generator=generator).view(torch.int16)
