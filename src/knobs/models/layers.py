"""What the models share: widths by name, norm layers, hidden layers."""

import itertools
from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]


def widths(width: int | str | list[int], depth: int, inputs: int, outputs: int) -> list[int]:
    """The width of each hidden layer, from a number, a list or the name of a rule.

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
    """No layer, or the one `norm` names, for (N, features) or, with dims=2, (N, features, H, W).

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
    """Linear, norm, activation, dropout for each pair of neighbouring sizes."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after, bias=bias), *norm_layer(norm, after), activation()]
        layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers)
