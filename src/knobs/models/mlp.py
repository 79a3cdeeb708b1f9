"""Linear models and multi-layer perceptrons, for tables and for images laid flat."""

from collections import OrderedDict

from torch import nn

from knobs.models.layers import Activation, Dropout, hidden_layers, widths
from knobs.shape import Shape


def linear(
    shape: Shape, *, bias: bool, activation: Activation, norm: str | None, dropout: float
) -> nn.Sequential:
    """Return (N, *input) -> (N, outputs) without a hidden layer, hence activation or norm."""
    head = nn.Linear(shape.features, shape.outputs, bias=bias)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), dropout=Dropout(dropout), head=head))


def mlp(
    shape: Shape,
    *,
    width: int | str | list[int],
    depth: int,
    bias: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
) -> nn.Sequential:
    """Return (N, *input) -> (N, outputs) through `depth` hidden layers with a `bias` or not."""
    sizes = [shape.features, *widths(width, depth, shape.features, shape.outputs)]
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=hidden_layers(sizes, bias, activation, norm, dropout),
            head=nn.Linear(sizes[-1], shape.outputs),
        )
    )
