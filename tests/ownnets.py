"""Networks as a user writes them, in a module that KNOBS_ALLOW would admit; see test_whole.py."""

import random

import torch
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """A residual MLP with batch norm and torch's dropout."""

    def __init__(self, shape, *, activation, norm, dropout, width=8):
        super().__init__()
        self.first = nn.Linear(shape.features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm1d(width), activation(), nn.Dropout(dropout),
                nn.Linear(width, width, bias=False),
            )
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(width, shape.outputs)

    def forward(self, x):
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class ResNet(nn.Module):
    """A stem, a block with a shortcut, a strided one, the mean over places."""

    def __init__(self, shape, *, activation, norm, dropout, width=4):
        super().__init__()
        self.stem = nn.Conv2d(shape.input[0], width, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(2 * width, shape.outputs)

    def forward(self, x):
        x = self.stem(x)
        x = x + F.relu(self.norm1(self.conv1(x)))
        x = self.shortcut(x) + F.relu(self.norm2(self.conv2(x)))
        return self.head(self.drop(x.mean((2, 3))))


class Attention(nn.Module):
    """Rows of an image as tokens, torch's encoder layer and multi-head attention."""

    def __init__(self, shape, *, activation, norm, dropout, width=8):
        super().__init__()
        self.embed = nn.Linear(shape.input[-1], width)
        self.place = nn.Parameter(torch.randn(1, shape.input[-2], width) * 0.1)
        self.layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.layer.dropout1, self.layer.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.head = nn.Linear(width, shape.outputs)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.squeeze(1)) + self.place).mean(1))


class Tied(nn.Module):
    """Two layers with one weight, a learned scale, a buffer that is kept in place."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.first, self.a, self.b = nn.Linear(shape.features, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, shape.outputs)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(1)))
        if self.training:
            self.seen.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.head(self.scale * self.b(torch.tanh(self.a(x))) + self.seen)


class Frozen(Residual):
    """The first layer drawn once and never trained, another one frozen."""

    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        for parameter in (*self.first.parameters(), *self.blocks[0].parameters()):
            parameter.requires_grad_(False)


class Words(nn.Module):
    """The mean of a text's embeddings, 0 being padding."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


class Plain(nn.Module):
    """The ground of those below, whose `step` is in the way of a stack."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.first, self.head = nn.Linear(shape.features, 8), nn.Linear(8, shape.outputs)

    def forward(self, x):
        return self.head(self.step(torch.tanh(self.first(x.flatten(1)))))


class Decides(Plain):
    def step(self, x):
        return x if x.sum() > 0 else -x


class Reads(Plain):
    def step(self, x):
        return x * x.max().item()


class Draws(Plain):
    def step(self, x):
        return x + 0.1 * torch.randn_like(x)


class FunctionalDropout(Plain):
    def step(self, x):
        return F.dropout(x, 0.2, self.training)


class DrawsFromPython(Plain):
    def step(self, x):
        return x * (1 if random.random() < 0.999 else 0.5)


class Counts(Plain):
    steps = 0

    def step(self, x):
        self.steps += 1
        return x / self.steps


class Reassigns(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.register_buffer("mean", torch.zeros(8))

    def step(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


class OfItsOwn(Plain):
    """An attribute that is drawn anew for every network, and is no buffer."""

    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.mask = (torch.rand(8) > 0.5).float()

    def step(self, x):
        return x * self.mask


class Recurrent(nn.Module):
    """A GRU over the rows of an image, both ways, two layers; its last state."""

    def __init__(self, shape, *, activation, norm, dropout, width=6):
        super().__init__()
        self.rnn = nn.GRU(shape.input[-1], width, 2, batch_first=True, bidirectional=True)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(4 * width, shape.outputs)

    def forward(self, x):
        states, last = self.rnn(x.squeeze(1))
        return self.head(self.drop(torch.cat([states.mean(1), last[0], last[-1]], 1)))


class WithLSTM(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.rnn = nn.LSTM(8, 8, batch_first=True)

    def step(self, x):
        return self.rnn(x.unsqueeze(1))[0].squeeze(1)


class WithRNN(WithLSTM):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.rnn = nn.RNN(8, 8, batch_first=True)


class WithDroppingGRU(WithLSTM):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.rnn = nn.GRU(8, 8, 2, batch_first=True, dropout=0.1)


class WithCell(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.cell = nn.GRUCell(8, 8)

    def step(self, x):
        return self.cell(x)


class WithSpectralNorm(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.layer = nn.utils.spectral_norm(nn.Linear(8, 8))

    def step(self, x):
        return self.layer(x)


class NewSpectralNorm(WithSpectralNorm):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))


class CumulativeNorm(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.norm = nn.BatchNorm1d(8, momentum=None)

    def step(self, x):
        return self.norm(x)


class RandomReLU(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.act = nn.RReLU()

    def step(self, x):
        return self.act(x)


class WithWeightNorm(Plain):
    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def step(self, x):
        return self.layer(x)


class Hidden(Plain):
    """A layer in a list of Python's, of which torch knows nothing."""

    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.layers = [nn.Linear(8, 8)]

    def step(self, x):
        return self.layers[0](x)


class HoldsItsWeight(Plain):
    """Computes with a weight that it also holds in a list."""

    def __init__(self, shape, **options):
        super().__init__(shape, **options)
        self.held = [self.first.weight]

    def forward(self, x):
        return self.head(torch.tanh(F.linear(x.flatten(1), self.held[0], self.first.bias)))
