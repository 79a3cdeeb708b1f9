"""nn.GRU in operations that vmap has rules for: torch's own, a step of all rows at once, has none.

Its LSTM has none either; but alone that is one fused kernel on a CPU, which no loop over its steps
has reached (docs/LOG.md), so it is left as it is and its run trains alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UnrolledGRU(nn.GRU):
    """nn.GRU step by step. Source: Cho et al. 2014, arXiv:1406.1078, as torch has it."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map a batch of sequences, as nn.GRU does; what it cannot goes to torch's own."""
        draws = self.training and self.dropout and self.num_layers > 1
        if draws or not isinstance(x, Tensor) or x.ndim != 3:
            return super().forward(x, hx)
        x = x.transpose(0, 1) if self.batch_first else x
        ends: list[Tensor] = []
        for layer in range(self.num_layers):
            outputs = []
            for suffix in ("", "_reverse")[: 1 + self.bidirectional]:
                first = x.new_zeros(x.shape[1], self.hidden_size) if hx is None else hx[len(ends)]
                states = self._states(x, first, f"_l{layer}{suffix}", suffix != "")
                ends.append(states[0] if suffix else states[-1])
                outputs.append(torch.stack(states))
            x = torch.cat(outputs, -1)
        return x.transpose(0, 1) if self.batch_first else x, torch.stack(ends)

    def _states(self, x: Tensor, h: Tensor, name: str, backwards: bool) -> list[Tensor]:
        """Return the states (N, H) of one layer and direction, by place in the sequence.

        Args:
            x: (L, N, D). h: (N, H), before the first step.
            name: what the layer's weights end in.
        """
        weight, bias = getattr(self, f"weight_hh{name}"), getattr(self, f"bias_hh{name}", None)
        inputs = F.linear(
            x, getattr(self, f"weight_ih{name}"), getattr(self, f"bias_ih{name}", None)
        ).unbind(0)
        states = []
        for given in reversed(inputs) if backwards else inputs:
            own = F.linear(h, weight, bias)
            size = 2 * self.hidden_size
            reset, keep = (given[:, :size] + own[:, :size]).sigmoid().chunk(2, -1)
            new = torch.addcmul(given[:, size:], reset, own[:, size:]).tanh()
            h = torch.lerp(new, h, keep)
            states.append(h)
        return states[::-1] if backwards else states
