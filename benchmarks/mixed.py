"""Rows of several activations or depths in one stack: the gain, on a toy of the stack's layers.

    python benchmarks/mixed.py --rounds 9

Knobs trains rows of one activation and one depth as a stack. Here a stack for each kind of row
stands beside one stack of all rows. That splits what a layer gives by activation and puts it
together again; of several depths a row leaves after its last hidden layer, and waits for the
others. An MLP, Adam, no dropout, no regrouping. Printed: microseconds of processor of a step of
all rows, medians; the gain as median [lowest .. highest] of the ratios round by round; and how far
apart the losses of both ways are in the end.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = (torch.relu, F.gelu, torch.tanh, F.silu, F.elu, F.leaky_relu, F.mish, F.softplus)
STEPS = 15  # of a turn


class Kind(NamedTuple):
    """Rows alike, beside one another in a stack.

    Args:
        activation: of every hidden layer. depth: hidden layers. count: rows.
    """

    activation: Callable[[Tensor], Tensor]
    depth: int
    count: int


class Stack:
    """Rows of an MLP 64-width-...-10, their weights side by side.

    Args:
        kinds: the deepest first. width: of every hidden layer.
    """

    def __init__(self, kinds: Sequence[Kind], width: int):
        self.kinds, self.rows = kinds, sum(kind.count for kind in kinds)
        self.layers: list[tuple[Tensor, Tensor]] = []
        for i in range(kinds[0].depth):
            rows = sum(kind.count for kind in kinds if kind.depth > i)
            self.layers.append(_layer(rows, width if i else 64, width))
        self.layers.append(_layer(self.rows, width, 10))
        self.optimizer = torch.optim.Adam([w for layer in self.layers for w in layer], 1e-3)

    def activate(self, x: Tensor) -> Tensor:
        """Return the activations of (rows, batch, width), of the first rows of the stack."""
        if len({kind.activation for kind in self.kinds}) == 1:
            return self.kinds[0].activation(x)
        parts = x.split([kind.count for kind in self.kinds])
        return torch.cat([k.activation(part) for k, part in zip(self.kinds, parts, strict=True)])

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Make a step of all rows on one batch; return their losses, summed."""
        hidden, left = x.expand(self.rows, *x.shape), []
        for weight, bias in self.layers[:-1]:
            if len(hidden) > len(weight):
                left.insert(0, hidden[len(weight) :])
                hidden = hidden[: len(weight)]
            hidden = self.activate(torch.baddbmm(bias, hidden, weight))
        weight, bias = self.layers[-1]
        outputs = torch.baddbmm(bias, torch.cat([hidden, *left]) if left else hidden, weight)
        loss = F.cross_entropy(outputs.flatten(0, 1), y.repeat(self.rows)) * self.rows
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _layer(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return weights and biases, every row's alike."""
    draw = torch.Generator().manual_seed(inputs)
    weight = torch.randn(inputs, outputs, generator=draw) / inputs**0.5
    weights = weight.repeat(rows, 1, 1).requires_grad_()
    return weights, torch.zeros(rows, 1, outputs, requires_grad=True)


def measure(kinds: Sequence[Kind], width: int, batch: int, rounds: int) -> str:
    """Time both ways in turns; return a line."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(batch, 64, generator=draw), torch.randint(10, (batch,), generator=draw)
    ways = {"each": [Stack([kind], width) for kind in kinds], "mixed": [Stack(kinds, width)]}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        losses = {}
        for name, stacks in ways.items():
            began = time.process_time()
            for _ in range(STEPS):
                losses[name] = sum(stack.step(x, y).item() for stack in stacks)
            if turn:  # the first one warms up
                found[name].append((time.process_time() - began) / STEPS * 1e6)
    gain = [a / b for a, b in zip(found["each"], found["mixed"], strict=True)]
    times = [f"{name} {statistics.median(values):7.0f} us" for name, values in found.items()]
    times.append(f"gain {statistics.median(gain):.2f} [{min(gain):.2f} .. {max(gain):.2f}]")
    apart = abs(losses["each"] - losses["mixed"])
    return f"width {width:3} batch {batch:3}: {', '.join(times)}; apart {apart:.0e}"


def main() -> None:
    """Measure each shape, of several activations and of several depths."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for width, batch in ((32, 64), (64, 64), (128, 64), (256, 64), (64, 16), (64, 256)):
        for many, rows in ((4, 1), (4, 5), (8, 1)):
            kinds = [Kind(activation, 2, rows) for activation in ACTIVATIONS[:many]]
            line = measure(kinds, width, batch, rounds)
            print(f"{many} activations x {rows} rows, {line}", flush=True)
        for rows in (1, 5):
            kinds = [Kind(torch.relu, depth, rows) for depth in (4, 3, 2, 1)]
            print(f"depths 1-4 x {rows} rows, {measure(kinds, width, batch, rounds)}", flush=True)


if __name__ == "__main__":
    main()
