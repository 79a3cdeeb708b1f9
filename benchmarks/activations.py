"""Rows of several activations in one stack: what it would gain, on a toy of the stack's layers.

    python benchmarks/activations.py --rounds 9

Knobs trains rows of one activation as a stack. Here a stack for each activation stands beside
one stack of all rows, which splits what a layer gives by activation and puts it together again. An
MLP of two hidden layers, Adam, no dropout, no regrouping. Printed: microseconds of processor of a
step of all rows, medians; the gain as median [lowest .. highest] of the ratios round by round; and
how far apart the weights of both ways are in the end.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS = (torch.relu, F.gelu, torch.tanh, F.silu, F.elu, F.leaky_relu, F.mish, F.softplus)
STEPS = 15  # of a turn


class Stack:
    """Rows of an MLP 64-width-width-10, their weights side by side.

    Args:
        weights: (rows, inputs, outputs) and (rows, 1, outputs) of each layer.
        activations: each with the number of its rows, which stand beside one another.
    """

    def __init__(self, weights: Sequence[Tensor], activations: Sequence[tuple[Activation, int]]):
        self.weights = [value.clone().requires_grad_() for value in weights]
        self.activations = activations
        self.optimizer = torch.optim.Adam(self.weights, 1e-3, foreach=True)

    def activate(self, x: Tensor) -> Tensor:
        """Return the activations of (rows, batch, width)."""
        if len(self.activations) == 1:
            return self.activations[0][0](x)
        parts = x.split([count for _, count in self.activations])
        pairs = zip(self.activations, parts, strict=True)
        return torch.cat([function(part) for (function, _), part in pairs])

    def step(self, x: Tensor, y: Tensor) -> None:
        """Make a step of all rows on one batch."""
        rows = len(self.weights[0])
        hidden, layers = x.expand(rows, *x.shape), len(self.weights) // 2
        for i in range(layers):
            hidden = torch.baddbmm(self.weights[2 * i + 1], hidden, self.weights[2 * i])
            hidden = self.activate(hidden) if i < layers - 1 else hidden
        loss = F.cross_entropy(hidden.flatten(0, 1), y.repeat(rows)) * rows
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(width: int, batch: int, kinds: int, rows: int, rounds: int) -> None:
    """Time both ways in turns, and print a line."""
    draw = torch.Generator().manual_seed(0)
    weights = []
    for a, b in ((64, width), (width, width), (width, 10)):
        weights += [torch.randn(kinds * rows, a, b, generator=draw) / a**0.5]
        weights += [torch.zeros(kinds * rows, 1, b)]
    x = torch.randn(batch, 64, generator=draw)
    y = torch.randint(10, (batch,), generator=draw)
    counts = [(function, rows) for function in ACTIVATIONS[:kinds]]
    parts = [slice(i * rows, (i + 1) * rows) for i in range(kinds)]
    each = [
        Stack([value[part] for value in weights], [kind])
        for part, kind in zip(parts, counts, strict=True)
    ]
    mixed = Stack(weights, counts)
    found: dict[str, list[float]] = {"each": [], "mixed": []}
    for turn in range(rounds + 1):
        for name, stacks in (("each", each), ("mixed", [mixed])):
            began = time.process_time()
            for _ in range(STEPS):
                for stack in stacks:
                    stack.step(x, y)
            if turn:  # the first one warms up
                found[name].append((time.process_time() - began) / STEPS * 1e6)
    apart = max(
        (of_all[part] - own).abs().max().item()
        for part, stack in zip(parts, each, strict=True)
        for of_all, own in zip(mixed.weights, stack.weights, strict=True)
    )
    gain = [a / b for a, b in zip(found["each"], found["mixed"], strict=True)]
    times = [f"{name} {statistics.median(values):7.0f} us" for name, values in found.items()]
    kind = f"width {width:3} batch {batch:3}, {kinds} activations x {rows} rows"
    times.append(f"gain {statistics.median(gain):.2f} [{min(gain):.2f} .. {max(gain):.2f}]")
    print(f"{kind}: {', '.join(times)}; apart {apart:.0e}", flush=True)


def main() -> None:
    """Measure each shape."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for width, batch in ((32, 64), (64, 64), (128, 64), (256, 64), (64, 16), (64, 256)):
        for kinds, rows in ((4, 1), (4, 5), (8, 1)):
            measure(width, batch, kinds, rows, rounds)


if __name__ == "__main__":
    main()
