"""Text classifiers over token ids (N, tokens), 0 being padding."""

import torch
from torch import Tensor, nn

from knobs.models.layers import Activation, hidden_layers, norm_layer, widths
from knobs.shape import Shape


def mean_over_tokens(x: Tensor, real: Tensor) -> Tensor:
    """(N, L, D) and which tokens are real (N, L) -> (N, D), the mean over the real ones."""
    real = real.unsqueeze(-1).to(x.dtype)
    return (x * real).sum(1) / real.sum(1).clamp(min=1)


class TextModel(nn.Module):
    """Embedding, body, then dropout and head: what the four text models have in common."""

    def __init__(self, shape: Shape, embedding_dim: int, features: int, norm: str | None, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, embedding_dim, padding_idx=0)
        self.pooled = nn.Sequential(*norm_layer(norm, features), nn.Dropout(dropout))
        self.head = nn.Linear(features, shape.outputs)

    def features(self, embedded: Tensor, real: Tensor) -> Tensor:
        """(N, L, D) and (N, L) -> (N, features)."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.pooled(self.features(self.embedding(ids), ids != 0)))


class Bag(TextModel):
    """Mean of the embeddings through hidden layers."""

    def __init__(self, shape, embedding_dim, sizes, bias, activation, norm, dropout):
        super().__init__(shape, embedding_dim, sizes[-1], norm if len(sizes) == 1 else None, 0.0 if len(sizes) > 1 else dropout)
        self.hidden = hidden_layers(sizes, bias, activation, norm, dropout)

    def features(self, embedded, real):
        return self.hidden(mean_over_tokens(embedded, real))


class Convolutions(TextModel):
    """Filters of several sizes, each at the place where it answers most."""

    def __init__(self, shape, embedding_dim, width, kernel_sizes, bias, activation, norm, dropout):
        super().__init__(shape, embedding_dim, width * len(kernel_sizes), norm, dropout)
        # Padding by k - 1 keeps texts shorter than a filter from having no place at all.
        self.hidden = nn.ModuleList(
            nn.Conv1d(embedding_dim, width, k, padding=k - 1, bias=bias) for k in kernel_sizes
        )
        self.activation = activation()

    def features(self, embedded, real):
        x = embedded.transpose(1, 2)
        return torch.cat([self.activation(conv(x)).amax(2) for conv in self.hidden], 1)


class Recurrent(TextModel):
    """An LSTM, its states averaged over the real tokens."""

    def __init__(self, shape, embedding_dim, width, depth, bidirectional, activation, norm, dropout):
        super().__init__(shape, embedding_dim, width * (1 + bidirectional), norm, dropout)
        self.hidden = nn.LSTM(
            embedding_dim,
            width,
            depth,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if depth > 1 else 0.0,
        )
        self.activation = activation()

    def features(self, embedded, real):
        states, _ = self.hidden(embedded)
        return mean_over_tokens(self.activation(states), real)


class Transformer(TextModel):
    """A pre-norm encoder with learnt positions, averaged over the real tokens."""

    def __init__(self, shape, embedding_dim, width, depth, heads, activation, norm, dropout):
        super().__init__(shape, embedding_dim, embedding_dim, "layer", dropout)
        self.positions = nn.Embedding(shape.input[0], embedding_dim)
        layers = [
            nn.TransformerEncoderLayer(
                embedding_dim, heads, width, dropout, activation(), batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        self.hidden = nn.ModuleList(layers)

    def features(self, embedded, real):
        x = embedded + self.positions.weight[: embedded.shape[1]]
        padding = ~(real | ~real.any(1, keepdim=True))  # an empty text attends to its padding
        for layer in self.hidden:
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
) -> nn.Module:
    """(N, tokens) -> (N, outputs): fastText's bag of embeddings, and hidden layers if depth > 0."""
    sizes = [embedding_dim, *widths(width, depth, embedding_dim, shape.outputs)]
    return Bag(shape, embedding_dim, sizes, bias, activation, norm, dropout)


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
    """(N, tokens) -> (N, outputs): `width` filters of each size, maximum over time."""
    return Convolutions(shape, embedding_dim, width, kernel_sizes, bias, activation, norm, dropout)


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
    """(N, tokens) -> (N, outputs): `activation` acts on the LSTM's states before their mean."""
    return Recurrent(shape, embedding_dim, width, depth, bidirectional, activation, norm, dropout)


def text_transformer(
    shape: Shape,
    *,
    embedding_dim: int,
    width: int,
    depth: int,
    heads: int,
    activation: Activation,
    norm: str | None,
    dropout: float,
) -> nn.Module:
    """(N, tokens) -> (N, outputs): `width` is the feed-forward layers', norms are layer norms."""
    return Transformer(shape, embedding_dim, width, depth, heads, activation, norm, dropout)
