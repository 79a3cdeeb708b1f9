"""Initial weights of one tensor."""

import torch
from torch import Tensor


def signs(tensor: Tensor, *, gain: float) -> None:
    """Fill with gain / sqrt(fan_in), each weight's sign drawn."""
    drawn = torch.randint(2, tensor.shape, dtype=tensor.dtype) * 2 - 1
    with torch.no_grad():
        tensor.copy_(drawn * gain / tensor[0].numel() ** 0.5)
