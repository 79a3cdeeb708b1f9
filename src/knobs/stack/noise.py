"""Each row's own random numbers during a step, and its own values beside a stack's tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from knobs.models.layers import at_least, dropout_threshold, random_bits


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
        """Return [K, N, ...] of 0 and 1 / (1 - p); None where no row drops anything.

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
        least = per_row(torch.tensor(thresholds, dtype=torch.int16), like)
        mask = at_least(bits, least, like.dtype)
        return mask.mul_(per_row(torch.tensor(scales, dtype=like.dtype), like))

    def torch_mask(
        self, like: Tensor, dropout: Sequence[float], order: Sequence[int] | None = None
    ) -> Tensor | None:
        """Return the same as torch's own dropout draws it.

        Args:
            order: of a solo run's dimensions in memory, in which torch draws; as they are if None.
        """
        if self.device.type != "cpu" or not any(dropout):
            return self.mask(like, dropout)
        order = order or range(like.ndim - 1)
        mask = torch.ones(
            len(dropout), *(like.shape[1 + d] for d in order), dtype=like.dtype
        ).permute(0, *(1 + list(order).index(d) for d in range(like.ndim - 1)))
        for k, p in enumerate(dropout):
            if p:
                mask[k].bernoulli_(1 - p, generator=self.generators[k]).div_(1 - p)
        return mask


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return [K] as [K, 1, ...], to meet a tensor [K, ...]."""
    return values.view(-1, *[1] * (like.ndim - 1))
