"""Text classifiers over token ids (N, tokens), 0 being padding.

Dimensions are counted from the end, so that the same code runs on a stack's tensors [K, N, ...].
"""

from typing import Literal

import torch
from torch import Tensor, nn

from knobs.models.layers import Activation, Dropout, hidden_layers, norm_layer, widths
from knobs.shape import Shape


def mean_over_tokens(x: Tensor, real: Tensor) -> Tensor:
    """Return the mean (N, D) of (N, L, D) over the tokens that are real (N, L)."""
    real = real.unsqueeze(-1).to(x.dtype)
    return (x * real).sum(-2) / real.sum(-2).clamp(min=1)


class TextClassifier(nn.Module):
    """Token ids -> embedding -> body -> norm, dropout -> head.

    Args:
        dim: numbers of an embedding.
        body: (N, L, dim) and which tokens are real (N, L) -> (N, size).
        norm: of what the body returns.
    """

    def __init__(
        self, shape: Shape, dim: int, body: nn.Module, size: int, norm: str | None, dropout: float
    ):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, dim, padding_idx=0)
        self.body = body
        self.regularize = nn.Sequential(*norm_layer(norm, size), Dropout(dropout))
        self.head = nn.Linear(size, shape.outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """Map (N, L) -> (N, outputs)."""
        return self.head(self.regularize(self.body(self.embedding(ids), ids != 0)))


class Bag(nn.Module):
    """The sum of the real tokens' embeddings by their number, or its root, through hidden layers.

    Args:
        root: whether the sum is divided by the root, which keeps the variance of a text's numbers
            whatever its length, where the mean of a long text is near 0.
    """

    def __init__(self, hidden: nn.Module, root: bool):
        super().__init__()
        self.hidden, self.root = hidden, root

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        """Map (N, L, D), (N, L) -> (N, features)."""
        x = mean_over_tokens(embedded, real)
        return self.hidden(x * real.sum(-1, keepdim=True).sqrt().to(x.dtype) if self.root else x)


class Convolutions(nn.Module):
    """Filters of several sizes, each where it answers most; `embedded` is 0 at padding."""

    def __init__(self, dim: int, width: int, sizes: list[int], bias: bool, activation: Activation):
        super().__init__()
        # Padding by k - 1 keeps texts shorter than a filter from having no place at all.
        self.convs = nn.ModuleList(
            nn.Conv1d(dim, width, k, padding=k - 1, bias=bias) for k in sizes
        )
        self.activation = activation()

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        """Map (N, L, D), (N, L) -> (N, features)."""
        x = embedded.transpose(-1, -2)
        return torch.cat([self.activation(conv(x)).amax(-1) for conv in self.convs], -1)


class Recurrent(nn.Module):
    """An LSTM, its activated states averaged over the real tokens."""

    def __init__(self, lstm: nn.LSTM, activation: Activation):
        super().__init__()
        self.lstm, self.activation = lstm, activation()

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        """Map (N, L, D), (N, L) -> (N, features)."""
        states, _ = self.lstm(embedded)
        return mean_over_tokens(self.activation(states), real)


class Positions(nn.Embedding):
    """Adds a learned vector to each place of a text."""

    def forward(self, embedded: Tensor) -> Tensor:
        """Map (N, L, D) -> (N, L, D), L being at most the number of places."""
        return embedded + self.weight[: embedded.shape[-2]]


class Encoder(nn.Module):
    """Transformer layers over embeddings with learned positions, averaged over the real tokens."""

    def __init__(self, length: int, dim: int, layers: list[nn.Module]):
        super().__init__()
        self.positions = Positions(length, dim)
        self.layers = nn.ModuleList(layers)

    def forward(self, embedded: Tensor, real: Tensor) -> Tensor:
        """Map (N, L, D), (N, L) -> (N, features)."""
        x = self.positions(embedded)
        padding = ~(real | ~real.any(-1, keepdim=True))  # an empty text attends to its padding
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return mean_over_tokens(x, real)


def text_bag(
    shape: Shape,
    *,
    embedding_dim: int,
    width: int | str | list[int],
    depth: int,
    bias: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
    pool: Literal["mean", "root"] = "mean",
    embedding_std: float = 1.0,
) -> nn.Module:
    """Return (N, tokens) -> (N, outputs): fastText's bag of embeddings, then hidden layers.

    Args:
        pool: see Bag.
        embedding_std: of the first embeddings, where init has none.
    """
    sizes = [embedding_dim, *widths(width, depth, embedding_dim, shape.outputs)]
    hidden = hidden_layers(sizes, bias, activation, norm, dropout)
    deep = len(sizes) > 1  # then norm and dropout stand in the hidden layers
    body, rest = Bag(hidden, pool == "root"), (None, 0.0) if deep else (norm, dropout)
    net = TextClassifier(shape, embedding_dim, body, sizes[-1], *rest)
    net.embedding.first_std = embedding_std
    return net


def text_cnn(
    shape: Shape,
    *,
    embedding_dim: int,
    width: int,
    kernel_sizes: list[int],
    bias: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
) -> nn.Module:
    """Return (N, tokens) -> (N, outputs): `width` filters of each size, maximum over time."""
    body = Convolutions(embedding_dim, width, kernel_sizes, bias, activation)
    return TextClassifier(shape, embedding_dim, body, width * len(kernel_sizes), norm, dropout)


def text_lstm(
    shape: Shape,
    *,
    embedding_dim: int,
    width: int,
    depth: int,
    bidirectional: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
) -> nn.Module:
    """Return (N, tokens) -> (N, outputs): the mean of an LSTM's states after `activation`."""
    between = dropout if depth > 1 else 0.0  # torch warns of dropout between layers that are one
    lstm = nn.LSTM(
        embedding_dim, width, depth, batch_first=True, dropout=between, bidirectional=bidirectional
    )
    body, features = Recurrent(lstm, activation), width * (1 + bidirectional)
    return TextClassifier(shape, embedding_dim, body, features, norm, dropout)


def text_transformer(
    shape: Shape,
    *,
    embedding_dim: int,
    width: int,
    depth: int,
    heads: int,
    activation: Activation,
    norm: Literal["layer"] | None,
    dropout: float,
) -> nn.Module:
    """Return (N, tokens) -> (N, outputs): `width` is that of the feed-forward layers."""
    layers = []
    for _ in range(depth):
        layer = nn.TransformerEncoderLayer(
            embedding_dim, heads, width, dropout, activation(), batch_first=True, norm_first=True
        )
        layer.dropout, layer.dropout1, layer.dropout2 = (Dropout(dropout) for _ in range(3))
        layers.append(layer)
    body = Encoder(shape.input[0], embedding_dim, layers)
    return TextClassifier(shape, embedding_dim, body, embedding_dim, "layer", dropout)
