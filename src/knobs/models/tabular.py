"""A network for tables: each number embedded by itself, in waves of learned frequencies."""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from knobs.models.layers import Activation, hidden_layers, widths
from knobs.shape import Shape


def embed(x: Tensor, frequency: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map (..., N, F + R) -> (..., N, F D + R): the first F features embedded, the rest as it is.

    An embedding is ReLU of a linear map of the number and its waves.

    Args:
        frequency: (..., F, K) cycles per unit of x.
        weight: (..., F, 2 K + 1, D). bias: (..., F, D).
    """
    features = frequency.shape[-2]
    column = x[..., :features].transpose(-1, -2).unsqueeze(-1)  # (..., F, N, 1)
    angles = 2 * math.pi * column * frequency.unsqueeze(-2)
    waves = torch.cat([column, angles.cos(), angles.sin()], -1)
    embedded = (waves @ weight + bias.unsqueeze(-2)).relu()
    return torch.cat([embedded.transpose(-2, -3).flatten(-2), x[..., features:]], -1)


class Periodic(nn.Module):
    """PLR embeddings of numbers, (N, F + R) -> (N, F D + R); the number is beside its waves.

    Source: Gorishniy et al. 2022, arXiv:2203.05556, sections 3.3 and 3.4.

    Args:
        features: F. frequencies: K of each number. dim: D.
        sigma: standard deviation of the frequencies at first, per unit of a standardised number.
    """

    def __init__(self, features: int, frequencies: int, dim: int, sigma: float):
        super().__init__()
        inputs = 2 * frequencies + 1
        self.frequency = nn.Parameter(sigma * torch.randn(features, frequencies))
        self.weight = nn.Parameter(torch.randn(features, inputs, dim) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(features, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, F + R) -> (N, F D + R)."""
        return embed(x, self.frequency, self.weight, self.bias)


def tabular(
    shape: Shape,
    *,
    dim: int,
    frequencies: int,
    sigma: float,
    width: int | str | list[int],
    depth: int,
    bias: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
) -> nn.Sequential:
    """Return (N, *input) -> (N, outputs): numbers embedded, then `depth` hidden layers.

    Categories and bins enter the hidden layers as they are. Where it is not known which features
    are numbers, all are taken for such.
    """
    numbers = shape.numbers or shape.features
    first = numbers * dim + shape.features - numbers
    sizes = [first, *widths(width, depth, first, shape.outputs)]
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            embedding=Periodic(numbers, frequencies, dim, sigma),
            hidden=hidden_layers(sizes, bias, activation, norm, dropout),
            head=nn.Linear(sizes[-1], shape.outputs),
        )
    )
