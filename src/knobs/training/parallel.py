"""One run in several processes: each computes its rows of every batch, all make the same step.

What is random, and what orders the data, is drawn for the whole batch in every process, which then
takes its rows of it: no result depends on how many processes there are. Sums over processes go
through `add`, one after each backward pass; all then hold equal gradients, weights and metrics.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from knobs.data import Stream, Tensors
from knobs.data.dataset import Batch, each
from knobs.errors import ProcessLost, UserError, first_line
from knobs.models.layers import Dropout, at_least, dropout_threshold, random_bits
from knobs.training.state import Run

_rank, _size = 0, 1  # this process, and how many train this run
_batch: tuple[int, slice] | None = None  # rows of the batch under way, and which are of this one


def size() -> int:
    """Return how many processes train this run."""
    return _size


def rank() -> int:
    """Return the number of this process; 0 keeps the record."""
    return _rank


@contextlib.contextmanager
def as_one_of(number: int, count: int) -> Iterator[None]:
    """Be process `number` of `count` inside."""
    global _rank, _size
    before, (_rank, _size) = (_rank, _size), (number, count)
    try:
        yield
    finally:
        _rank, _size = before


def add(values: Tensor) -> None:
    """Add up a tensor over all processes, in place.

    Raises:
        ProcessLost: another one has ended.
    """
    try:
        dist.all_reduce(values)
    except RuntimeError as error:  # gloo: the connection is closed
        why = first_line(error)
        raise ProcessLost(f"another process of this run does not answer ({why})") from error


def rows(count: int) -> slice:
    """Return this process's rows of a batch: contiguous, as even as can be, maybe none."""
    part, more = divmod(count, _size)
    start = _rank * part + min(_rank, more)
    return slice(start, start + part + (_rank < more))


def part_of_loss(
    run: Run, loss: Callable[..., Tensor], batch: Batch, total: Tensor | None, mixing: list
) -> Tensor:
    """Return what this process's rows add to the loss of a batch; of several members [M].

    Args:
        loss: (run, x, y, weight, total, mixing) -> the loss of a part of a batch.
        total: what divides the weighted sum over the whole batch; None: nothing is weighted.
        mixing: of the whole batch, as loop.batch_loss has it.
    """
    global _batch
    dim = run.batch_dim
    whole = batch.y.shape[dim]
    mine = rows(whole)
    count = mine.stop - mine.start
    cut = partial(torch.narrow, dim=dim, start=mine.start, length=count)
    weight = None if batch.weight is None else cut(batch.weight)
    x, y, share = each(batch.x, cut), cut(batch.y), count / whole
    _batch = whole, mine
    try:
        if not count:  # its forward pass still draws, and has its part in every sum
            return run.forward(x).flatten(dim).sum(-1)
        own = [_own_mixing(mix, mine) for mix in mixing] if dim else _own_mixing(mixing, mine)
        return loss(run, x, y, weight, None if total is None else total * share, own) * share
    finally:
        _batch = None


def _own_mixing(mixing: list | tuple, mine: slice) -> list:
    """Return the partners of this process's rows, their weights, and the share of their own."""
    if not mixing:
        return []
    partners, others, share = mixing
    return [partners[mine], None if others is None else others[mine], share]


def reduced(run: Run, loss: Tensor) -> Tensor:
    """Add up every gradient over all processes, in place; return the sum of their losses.

    One message a step: every .grad, which weights have one, the loss, and whether a process was
    asked to stop. So all of them see that, and stop, at the same step.
    """
    weights = [p for p in run.model.parameters() if p.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    said = [float(p.grad is not None) for p in weights] + [float(run.stop_requested)]
    flat = torch.cat([*(g.reshape(-1) for g in parts), loss.reshape(-1), loss.new_tensor(said)])
    add(flat)
    *sums, losses, said = flat.split([*(g.numel() for g in parts), loss.numel(), len(said)])
    *there, stop = said.tolist()
    for p, own, total, some in zip(weights, parts, sums, there, strict=True):
        if some:  # of no process: a weight without a gradient, which optimizers pass over
            p.grad = own.copy_(total.view(own.shape))
    run.stopping = run.stopping or stop > 0
    return losses.view(loss.shape).to(loss.dtype)


def stops(run: Run) -> bool:
    """Return whether the run is to stop here; of several processes, whether all of them do."""
    return run.stop_requested if _size == 1 else run.stopping


def in_order(split: Tensors | Stream, most: int) -> Iterator[Batch]:
    """Yield a split's examples, `most` at a time; of these batches this process's: every size-th.

    So an output is computed in the same batch, to the same bits, by one process and by several.
    """
    if _size == 1:
        return split.in_order(most)
    batches = torch.arange(len(split), device=split.y.device).split(most)
    return split.batches(list(batches[_rank::_size]))


def whole_outputs(run: Run, split: Tensors | Stream, most: int, outputs: list[Tensor]) -> Tensor:
    """Return the outputs on a whole split, (N, C) or [M, N, C], from those of `in_order`."""
    dim = run.batch_dim
    if _size == 1:
        return torch.cat(outputs, dim)
    like = next(run.model.parameters())
    members = [len(run.networks)] * dim
    whole = torch.zeros(
        *members, len(split), run.data.shape.outputs, dtype=like.dtype, device=like.device
    )
    for own, place in zip(outputs, whole.split(most, dim)[_rank::_size], strict=True):
        place.copy_(own)
    add(whole)  # each number and zeros: exact
    return whole


def compare(run: Run) -> None:
    """Hold the weights and buffers of all processes against each other, bit by bit.

    Raises:
        UserError: they differ, so that the run would be that of no process.
    """
    tensors = [*run.model.parameters(), *run.model.buffers()]
    bits = [t.detach().reshape(-1).view(torch.int16) for t in tensors if t.is_floating_point()]
    sums = torch.zeros(_size, dtype=torch.int64, device=run.device)
    sums[_rank] = torch.stack([b.sum(dtype=torch.int64) for b in bits]).sum()
    add(sums)
    if (other := (sums != sums[0]).nonzero()).numel():
        where = f"after {run.progress.step:,} steps process {int(other[0])} has other weights"
        why = "than process 0: their machines may round otherwise"
        raise UserError(f"training.processes={_size}: {where} {why}; use machines of one kind")


# ------------------------------------------------------------------ modules that see the batch
def spread(model: nn.Module) -> None:
    """Let the modules of a network that look beyond a row, or draw, do so for the whole batch."""
    for module in model.modules():
        if forward := WHOLE.get(type(module)):
            module.forward = MethodType(forward, module)


def _plain(module: nn.Module) -> bool:
    """Return whether a module has nothing to share here: it evaluates, or one process trains."""
    return not module.training or _size == 1 or _batch is None


def _dropout(self: Dropout, x: Tensor) -> Tensor:
    """Drop numbers by the mask of the whole batch; see layers.Dropout."""
    if _plain(self) or not self.p:
        return type(self).forward(self, x)
    whole, mine = _batch
    shape = (whole, *x.shape[1:])
    if type(self) is nn.Dropout or x.device.type != "cpu":
        ones = x.new_ones(shape)
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)  # torch draws in this order
        return x * F.dropout(ones, self.p)[mine]
    threshold, scale = dropout_threshold(self.p)
    count = math.prod(shape)
    bits = random_bits(torch.empty(-(-count // 4), dtype=torch.int64))[:count].view(shape)[mine]
    return x * at_least(bits, threshold, x.dtype).mul_(scale)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):  # noqa: ANN001
        total = x.clone()
        add(total)
        return total

    @staticmethod
    def backward(ctx, grad):  # noqa: ANN001
        total = grad.clone()
        add(total)
        return total


def _batch_norm(self: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Normalize by the mean and the variance of the whole batch: in two passes, on any device."""
    if _plain(self):
        return type(self).forward(self, x)
    count = _batch[0] * math.prod(x.shape[2:])
    if count < 2:
        raise ValueError("Expected more than 1 value per channel when training")  # as torch does
    dims, shape = [d for d in range(x.ndim) if d != 1], [1, -1] + [1] * (x.ndim - 2)
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    mean = _Sum.apply(values.sum(dims)) / count
    centred = values - mean.view(shape)
    var = _Sum.apply(centred.square().sum(dims)) / count
    if self.running_mean is not None:
        with torch.no_grad():
            self.num_batches_tracked += 1
            m = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, m)
            self.running_var.lerp_(var * (count / (count - 1)), m)
    y = centred * torch.rsqrt(var + self.eps).view(shape)
    if self.affine:
        y = y * self.weight.view(shape) + self.bias.view(shape)
    return y.to(x.dtype)


def _attention(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **more: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend with the dropout mask of the whole batch: a sequence to itself, batch first.

    What else it is asked for it computes as torch does; `prove` refuses it if that draws.
    """
    to_itself = query is key and key is value and self.batch_first and self.in_proj_bias is not None
    if (
        _plain(self) or not self.dropout or not to_itself or attn_mask is not None or need_weights
        or key_padding_mask is None or key_padding_mask.dtype == torch.bool
    ):  # fmt: skip
        given = (query, key, value, key_padding_mask, need_weights, attn_mask)
        return type(self).forward(self, *given, **more)
    whole, mine = _batch
    projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
    q, k, v = (
        part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, -1)
    )
    scores = (q / q.shape[-1] ** 0.5) @ k.mT + key_padding_mask[:, None, None, :]
    weights = scores.softmax(-1)
    mask = weights.new_ones(whole, *weights.shape[1:]).bernoulli_(1 - self.dropout)
    mixed = (weights * mask[mine] / (1 - self.dropout)) @ v
    return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


WHOLE: dict[type[nn.Module], Callable] = {
    Dropout: _dropout,
    nn.Dropout: _dropout,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.MultiheadAttention: _attention,
}
