"""M networks of one shape that are trained together and answer with their mean prediction."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knobs import rng
from knobs.regularization import mixed

BLOCK = 64  # bytes: a matrix that begins at a multiple is multiplied to the same bits anywhere


class Members(nn.Module):
    """M networks side by side, each with inputs of its own: [M, N, ...] -> [M, N, outputs].

    Args:
        networks: of one shape. Their weights are called `members.0...`, `members.1...`.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(networks)
        self.streams: list[torch.Generator] = []  # of each member's draws, once it is seeded

    def seed(self, keys: Sequence[int]) -> None:
        """Put every member's random stream at one moment."""
        self.streams = [torch.Generator().manual_seed(key) for key in keys]

    def forward(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        """Map [M, N, ...], or several such inputs by name, -> [M, N, outputs], one by one."""
        return self.each(list(self.members), x)

    def each(self, modules: Sequence[nn.Module], x: Tensor | dict[str, Tensor]) -> Tensor:
        """Return what each member's module computes of its part of x, drawing from its stream."""
        if isinstance(x, Tensor):
            parts, device = x.unbind(0), x.device
        else:
            parts = [{name: v[m] for name, v in x.items()} for m in range(len(modules))]
            device = next(iter(x.values())).device
        outputs, draws = [], self.training and self.streams
        for m, (module, part) in enumerate(zip(modules, parts, strict=True)):
            if getattr(module, "inplace", False) and isinstance(part, Tensor):
                part = part.clone()  # autograd lets nobody change a part of x
            with drawing(self.streams[m], device) if draws else nullcontext():
                outputs.append(module(part))
        return side_by_side(outputs)


@contextmanager
def drawing(stream: torch.Generator, device: torch.device) -> Iterator[None]:
    """Draw from a CPU stream inside, where modules draw from torch's default generator.

    On an accelerator its default generator is seeded from the stream instead.
    """
    if device.type != "cpu":
        rng.seed_global(int(torch.randint(2**62, (), generator=stream)), device)
    torch.default_generator.set_state(stream.get_state())
    try:
        yield
    finally:
        stream.set_state(torch.default_generator.get_state())


def places(like: Tensor, count: int, shape: Sequence[int]) -> Tensor:
    """Return an empty tensor [count, *shape] each part of which begins at a multiple of BLOCK."""
    size, step = math.prod(shape), BLOCK // like.element_size()
    if size % step == 0:
        return like.new_empty(count, *shape)
    room = like.new_empty(count, -(-size // step) * step)
    return room[:, :size].unflatten(1, tuple(shape))


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors of one shape, each laid out as it is, where one of its own would begin."""
    if parts[0].nbytes % BLOCK == 0 and parts[0].is_contiguous():
        return torch.stack(list(parts))
    return _SideBySide.apply(*parts)


def at_blocks(x: Tensor) -> Tensor:
    """Return [M, ...] of inputs with each part where a tensor of its own would begin."""
    return x if x[0].nbytes % BLOCK == 0 else side_by_side(x.unbind(0))


def mix_members(
    x: Tensor,
    y: Tensor,
    weight: Tensor | None,
    alpha: float,
    streams: Sequence[torch.Generator],
) -> tuple[Tensor, list[tuple]]:
    """Return every member's mixed inputs, [M, N, ...], and what else `mixed` returns for each.

    Args:
        x: [M, N, ...]. y: [M, N] or [M, N, T]. weight: [M, N] of the examples.
        alpha: as of `mixed`.
        streams: what each member draws from.
    """
    weights = [None] * len(y) if weight is None else weight.unbind(0)
    rows = zip(x.unbind(0), y.unbind(0), weights, streams, strict=True)
    xs, *rest = zip(*(mixed(*row, alpha, s) for *row, s in rows), strict=True)
    return side_by_side(xs), list(zip(*rest, strict=True))


class _SideBySide(torch.autograd.Function):
    """torch.stack, into places that begin at a multiple of BLOCK."""

    @staticmethod
    def forward(ctx, *parts):  # noqa: ANN001, ANN002
        first = torch.empty_like(parts[0])  # dense, in the order of memory of images
        step = places(first, len(parts), first.shape).stride(0)
        room = first.new_empty(len(parts), step)
        out = room.as_strided((len(parts), *first.shape), (step, *first.stride()))
        for place, part in zip(out.unbind(0), parts, strict=True):
            place.copy_(part)
        return out

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        return tuple(part.clone() for part in grad.unbind(0))


def mean_prediction(task: str, outputs: Tensor, log_rates: bool = False) -> Tensor:
    """Return what M members answer together, (..., M, N, C) -> (..., N, C).

    Classification: the log of their mean probability, whose softmax is that probability.
    Multilabel: for each label the logit of its mean probability. Regression: their mean; where
    outputs are log rates, the log of the mean rate.

    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474, section 2.4.
    """
    if task == "multilabel":  # log p - log (1 - p), whose shares 1 / M cancel out
        there, absent = F.logsigmoid(outputs), F.logsigmoid(-outputs)
        return there.logsumexp(-3) - absent.logsumexp(-3)
    if task == "regression" and not log_rates:
        return outputs.mean(-3)
    count = torch.tensor(outputs.shape[-3], dtype=outputs.dtype, device=outputs.device)
    logs = outputs if log_rates else outputs.log_softmax(-1)
    return logs.logsumexp(-3) - count.log()


def with_mean(task: str, outputs: Tensor, log_rates: bool = False) -> Tensor:
    """Return the outputs of M members, (..., M, N, C), and behind them their mean prediction."""
    return torch.cat([outputs, mean_prediction(task, outputs, log_rates).unsqueeze(-3)], -3)


class Ensemble(nn.Module):
    """Trained members as one network: (N, ...) -> (N, outputs), their mean prediction.

    Args:
        task, log_rates: as of `mean_prediction`.
        counts: how often each member counts; once if None.
    """

    def __init__(
        self, networks: Sequence[nn.Module], task: str, log_rates: bool = False,
        counts: Sequence[int] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.members, self.task, self.log_rates = nn.ModuleList(networks), task, log_rates
        self.places = [i for i, n in enumerate(counts or [1] * len(networks)) for _ in range(n)]

    def forward(self, x: Tensor | dict[str, Tensor]) -> Tensor:
        """Map (N, ...), or several inputs by name, -> (N, outputs)."""
        outputs = [member(x) for member in self.members]
        whole = torch.stack([outputs[i] for i in self.places])
        return mean_prediction(self.task, whole, self.log_rates)
