"""Stacks of networks of one's own (stack/whole.py): the speed of a step beside the loop's.

A step is whole: batch, forward, backward, optimizer. A turn times both arms one after the other by
the processor time of one thread, so that other work on the machine is left out; each arm's turn is
at least 0.3 s. The ratio is solo seconds a step by the stack's seconds a step and row, over the
turns: median, least and most. First every network is proved, as before any stack.

    OMP_NUM_THREADS=1 KNOBS_ALLOW=whole. PYTHONPATH=benchmarks python benchmarks/whole.py
"""

# ruff: noqa: ANN001, ANN201 (networks as a user writes them)
import argparse
import statistics
import time

import torch
from torch import nn

from knobs import build
from knobs.config import command
from knobs.stack.layers import CannotStack
from knobs.sweep import timing
from knobs.training.setup import assemble

LEAST = 0.3  # seconds of a turn


class Residual(nn.Module):
    """A residual MLP."""

    def __init__(self, shape, *, activation, norm, dropout, width=64, depth=3):
        super().__init__()
        self.first = nn.Linear(shape.features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), activation())
            for _ in range(depth)
        )
        self.head = nn.Linear(width, shape.outputs)

    def forward(self, x):
        x = self.first(x.flatten(1))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class NormDropout(nn.Module):
    """An MLP with batch norm and dropout, two hidden layers of 64."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.first, self.second = nn.Linear(shape.features, 64), nn.Linear(64, 64)
        self.norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in range(2))
        self.drop, self.act, self.head = nn.Dropout(0.1), activation(), nn.Linear(64, shape.outputs)

    def forward(self, x):
        x = self.drop(self.act(self.norms[0](self.first(x.flatten(1)))))
        return self.head(self.drop(self.act(self.norms[1](self.second(x)))))


class Attention(nn.Module):
    """The rows of an image as tokens, one encoder layer of 32."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.embed = nn.Linear(shape.input[-1], 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, shape.outputs)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.squeeze(1))).mean(1))


class Depthwise(nn.Module):
    """Two depthwise separable convolutions of 16 channels."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.stem = nn.Conv2d(shape.input[0], 16, 3, padding=1)
        self.deep = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(2))
        self.wide = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.act, self.head = activation(), nn.Linear(16, shape.outputs)

    def forward(self, x):
        x = self.act(self.stem(x))
        for deep, wide in zip(self.deep, self.wide, strict=True):
            x = x + self.act(wide(deep(x)))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A GRU of 32 over the rows of an image."""

    def __init__(self, shape, *, activation, norm, dropout):
        super().__init__()
        self.rnn = nn.GRU(shape.input[-1], 32, batch_first=True)
        self.head = nn.Linear(32, shape.outputs)

    def forward(self, x):
        return self.head(self.rnn(x.squeeze(1))[0].mean(1))


OWN = ("Residual", "NormDropout", "Attention", "Depthwise", "Recurrent")
OPTIMIZERS = ("adam", "asgd", "rprop", "adafactor", "muon", "schedule_free")


def seconds(probe: timing.Probe) -> float:
    """Return the processor seconds of a step and run."""
    steps, began, took = 0, time.process_time(), 0.0
    while took < LEAST:
        before = probe.runs[0].progress.step
        probe.visit(LEAST / 10)
        steps += probe.runs[0].progress.step - before
        took = time.process_time() - began
    return took / steps / len(probe.runs)


def measure(name: str, overrides: list[str], args: argparse.Namespace, **sections: dict) -> None:
    """Print the ratio of one network."""
    config = command.checked([*overrides, f"training.batch_size={args.batch}"]) | sections
    run = assemble(config, build.data(config), torch.device("cpu"))
    alone = timing.probe_alone(timing.clones(run, 1)[0])
    try:
        began = time.process_time()
        stack = timing.probe_stack(timing.clones(run, args.rows))
    except CannotStack as error:
        print(f"{name:<28} {error}")
        return
    took = time.process_time() - began
    alone.visit(0.1), stack.visit(0.1)
    pairs = [(seconds(alone), seconds(stack)) for _ in range(args.rounds)]
    ratios = [a / b for a, b in pairs]
    solo, row = (statistics.median(values) * 1e6 for values in zip(*pairs, strict=True))
    spread = f"{statistics.median(ratios):5.2f} x  [{min(ratios):.2f}, {max(ratios):.2f}]"
    print(f"{name:<28} {solo:9.0f} {row:9.0f}   {spread}   {took:.2f}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=[*OWN, "resnet18", *OPTIMIZERS, "ema"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"K = {args.rows}, batch {args.batch}, one thread, digits")
    print(f"{'':<28} {'solo us':>9} {'row us':>9}   ratio  [least, most]   s to build")
    for name in args.only:
        if name in OWN:
            node = {"_target_": f"whole.{name}", "_partial_": True, "name": name}
            measure(name, ["data=digits"], args, model=node)
        elif name == "resnet18":
            measure(name, ["data=digits", "model=resnet18"], args)
        elif name == "ema":
            measure("mlp, training.ema=.99", ["data=digits", "training.ema=0.99"], args)
        else:
            measure(f"mlp, {name}", ["data=digits", f"optimizer={name}"], args)


if __name__ == "__main__":
    main()
