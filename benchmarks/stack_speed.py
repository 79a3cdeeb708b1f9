"""A stack's speed: member-steps per second beside other ways to train the same runs.

A member-step is one optimizer step of one run, whole: batch gathered, forward, backward, optimizer;
K rows that step once are K of them. All arms train the same network on the same 1,024 examples of
digits (whole batches only), every run in an order of its own. An arm's turn is as many whole
epochs as fill `least` seconds; the arms take turns, so a slow moment of the machine hits
neighbours alike. The first turn warms up.

b. On the CPU. The stack with all threads; knobs' own loop, one run at a time, with all threads; as
   many processes as there are threads, each with one thread and the loop of a run of its own, all
   at once, their rates added up. And the limit: nothing but the matrix products of the three
   layers, forward and backward, batched over K as the stack batches them, with all threads. Its
   time a member-step to the stack's is the share of the step that is arithmetic at full speed.
   A stack uses torch's fused optimizers, a run alone what its config says, by default not these:
   with `--override optimizer.fused=true` the loop and the processes use them as well.
d. On an accelerator. The stack, the loop, and on CUDA the whole solo step as one captured graph.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

import torch
from solo import ratio, spread
from torch import Tensor

from knobs import build
from knobs.config import command
from knobs.data import Data, Tensors
from knobs.stack import loop as stack
from knobs.stack.loop import Stack
from knobs.sweep import groups, timing
from knobs.training import batches, loop
from knobs.training.setup import assemble
from knobs.training.state import Run

CPU = torch.device("cpu")
EXAMPLES = 1024  # a multiple of every batch size here
PIXELS, CLASSES = 64, 10
PAUSE = 120  # seconds that processes wait for each other at most
Epoch = Callable[[], int]  # trains for one epoch; how many member-steps that was
Times = dict[str, list[float]]  # arm: microseconds a member-step, a turn each


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        cases: (width, batch).
        counts: rows of a stack.
        least: seconds of a turn.
    """

    cases: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    least: float


FULL = Size(
    (*((width, 64) for width in (16, 32, 64, 128, 256)), (16, 32), (32, 32)),
    (1, 8, 32, 128, 512),
    0.5,
)
SMALL = Size(((16, 64), (16, 32)), (1, 8), 0.02)


# ------------------------------------------------------------------ runs, stacks, their epochs
def prepared(overrides: list[str]) -> tuple[dict, Data]:
    """A checked config and its data, the training split cut to whole batches."""
    plain = command.checked(overrides)
    data = build.data(plain)
    part = Tensors(data.train.x[:EXAMPLES], data.train.y[:EXAMPLES])
    return plain, dataclasses.replace(data, train=part)


def assembled(overrides: list[str], device: torch.device = CPU) -> Run:
    """A run at its first step."""
    return assemble(*prepared(overrides), device)


def rows(run: Run, count: int) -> list[Run]:
    """Copies of a run, each with a seed of its own, so that no two see one order."""
    copies = timing.clones(run, count)
    for k, copy in enumerate(copies):
        copy.seed = k
    return copies


def solo_epoch(run: Run) -> int:
    """One epoch of knobs' own loop."""
    before = run.progress.step
    for batch in loop.epoch_batches(run):
        loop.train_step(run, *batch)
    run.progress.epoch += 1
    return run.progress.step - before


def stack_epoch(stacked: Stack) -> int:
    """One epoch of every row."""
    before = stacked.runs[0].progress.step
    for batch in stack.epoch_batches(stacked):
        stack.train_step(stacked, *batch)
    for run in stacked.runs:
        run.progress.epoch += 1
    return (stacked.runs[0].progress.step - before) * len(stacked.runs)


def micros(epoch: Epoch, least: float, device: torch.device = CPU) -> float:
    """Microseconds a member-step over `least` seconds of whole epochs."""
    done, began, seconds = 0, time.perf_counter(), 0.0
    while seconds < least or not done:
        done += epoch()
        if device.type != "cpu":
            torch.accelerator.synchronize()  # else only the launches would be timed
        seconds = time.perf_counter() - began
    return seconds / done * 1e6


def in_turns(arms: dict[str, Callable[[], float]], rounds: int) -> Times:
    """What each arm measures, round by round; what it says first is forgotten."""
    times: Times = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            value = arm()
            if turn:
                times[name].append(value)
    return times


# ------------------------------------------------------------------ part b: other ways on a CPU
class Processes:
    """As many processes as threads, each a run alone with one thread.

    Args:
        overrides: of the runs.
    """

    def __init__(self, overrides: list[str]):
        context = multiprocessing.get_context("spawn")  # a fork would share OpenMP's threads
        self.count = torch.get_num_threads()
        self.barrier = context.Barrier(self.count)  # kept: its name ends with it
        self.pipes: list[Connection] = []
        for seed in range(self.count):
            here, there = context.Pipe()
            context.Process(
                target=serve, args=(overrides, seed, self.barrier, there), daemon=True
            ).start()
            there.close()  # the process has its own end: if it dies, ours says so
            self.pipes.append(here)

    def micros(self, least: float) -> float:
        """Microseconds a member-step of all processes together."""
        for pipe in self.pipes:
            pipe.send(least)
        return 1 / sum(1 / pipe.recv() for pipe in self.pipes)

    def close(self) -> None:
        """Let them end."""
        for pipe in self.pipes:
            pipe.close()


def serve(overrides: list[str], seed: int, barrier: Barrier, pipe: Connection) -> None:
    """One of the processes: train whenever asked, beginning when all do."""
    torch.set_num_threads(1)
    run = assembled([*overrides, f"seed={seed}"])
    while True:
        try:
            least = pipe.recv()
        except EOFError:
            return
        barrier.wait(PAUSE)
        pipe.send(micros(lambda: solo_epoch(run), least))


def products(count: int, batch: int, widths: list[int]) -> Callable[[], int]:
    """Every matrix product of one step of `count` rows, into memory that is there already.

    Args:
        widths: inputs, hidden layers, outputs.
    """
    work: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        x, weight = torch.randn(count, batch, inputs), torch.randn(count, inputs, outputs)
        grad = torch.randn(count, batch, outputs)
        work += [(x, weight, torch.empty_like(grad)), (x.mT, grad, torch.empty_like(weight))]
        if layer:  # no gradient of the data
            work.append((grad, weight.mT, torch.empty_like(x)))

    def step() -> int:
        for a, b, out in work:
            torch.bmm(a, b, out=out)
        return count

    return step


def fitting(run: Run, counts: tuple[int, ...]) -> list[int]:
    """Those stacks that there is memory for, all at once."""
    free, each = build.free_memory(run.device) * groups.MEMORY_SHARE, timing.row_bytes(run)
    kept: list[int] = []
    for count in counts:
        if (sum(kept) + count) * each <= free:
            kept.append(count)
        else:
            print(f"  K = {count} is left out: {count * each / 2**20:,.0f} MiB")
    return kept


def measure(width: int, batch: int, size: Size, args: argparse.Namespace) -> None:
    """One width: every arm in turns, and its table."""
    task = [f"model.width={width}", f"training.batch_size={batch}", f"optimizer={args.optimizer}"]
    overrides = [*task, "training.device=cpu", *args.override]
    run = assembled(overrides)
    alone, crowd = rows(run, 1)[0], Processes(overrides)
    arms: dict[str, Callable[[], float]] = {
        "loop": lambda: micros(lambda: solo_epoch(alone), size.least),
        "processes": lambda: crowd.micros(size.least),
    }
    print(f"\nb. mlp 64-{width}-{width}-10, batch {batch}: {' '.join(overrides)}", flush=True)
    counts = fitting(run, size.counts)
    for count in counts:
        stacked = Stack(rows(run, count))
        step = products(count, batch, [PIXELS, width, width, CLASSES])
        arms[f"stack {count}"] = lambda s=stacked: micros(lambda: stack_epoch(s), size.least)
        arms[f"limit {count}"] = lambda s=step: micros(s, size.least / 5)
    times = in_turns(arms, args.rounds)
    crowd.close()
    print(f"  loop {spread(times['loop'])}   {crowd.count} processes {spread(times['processes'])}")
    print("     K  stack                             loop  processes  stack's speed   limit  share")
    others = [min(pair) for pair in zip(times["loop"], times["processes"], strict=True)]
    for count in counts:
        own, limit = times[f"stack {count}"], times[f"limit {count}"]
        middle = [statistics.median(times[name]) for name in ("loop", "processes")]
        print(
            f"  {count:4d}  {spread(own):<30} {middle[0]:7.1f}  {middle[1]:9.1f}"
            f"  {ratio(others, own):11.2f} x  {statistics.median(limit):6.1f}"
            f"  {ratio(limit, own):4.0%}",
            flush=True,
        )


def part_b(args: argparse.Namespace) -> None:
    """Stacks of several widths and sizes beside other ways on a CPU."""
    size = SMALL if args.small else FULL
    cases = size.cases
    if args.batch:
        cases = tuple(dict.fromkeys((width, args.batch) for width, _ in cases))
    print(f"\nb. us a member-step: {args.rounds} rounds, turns of at least {size.least:g} s")
    print("   stack's speed: beside the better of loop and processes; share: of the limit's speed")
    for width, batch in cases:
        measure(width, batch, size, args)


# ------------------------------------------------------------------ part d: on an accelerator
class Graphed:
    """A run whose step, gather and optimizer included, is one CUDA graph."""

    def __init__(self, run: Run):
        self.run, self.device = run, run.device
        weights = [*run.model.parameters()]
        self.optimizer = torch.optim.Adam(weights, run.lr, fused=True, capturable=True)
        batch = run.training["batch_size"]
        self.index = torch.zeros(batch, dtype=torch.int64, device=run.device)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # whatever is made at first use is made before the capture
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()  # so that gradients lie in the graph's own memory
        with torch.cuda.graph(self.graph):
            self._step()

    def _step(self) -> None:
        train = self.run.data.train
        x, y = train.x.index_select(0, self.index), train.y.index_select(0, self.index)
        self.optimizer.zero_grad()
        self.run.loss.mean(self.run.model(x), y).backward()
        self.optimizer.step()

    def epoch(self) -> int:
        """One epoch in the run's own order."""
        order = batches.epoch_order(self.run, self.run.seed)
        for index in order:
            self.index.copy_(index)
            self.graph.replay()
        self.run.progress.epoch += 1
        return len(order)


def accelerated(
    task: list[str], count: int, device: torch.device, args: argparse.Namespace
) -> None:
    """One network's stack on an accelerator beside a run alone."""
    size = SMALL if args.small else FULL
    run = assembled([*task, f"training.device={device.type}"], device)
    stacked, alone = Stack(rows(run, count)), rows(run, 1)[0]
    epochs: dict[str, Epoch] = {
        "stack": lambda: stack_epoch(stacked),
        "loop": lambda: solo_epoch(alone),
    }
    if device.type == "cuda" and "model=cnn" not in task:
        epochs["graphed"] = Graphed(rows(run, 1)[0]).epoch
    arms = {
        name: lambda epoch=epoch: micros(epoch, size.least, device)
        for name, epoch in epochs.items()
    }
    times = in_turns(arms, args.rounds)
    print(f"\nd. K = {count}: {' '.join(task)}")
    for name, values in times.items():
        print(
            f"  {name:<8} {spread(values)} us a member-step"
            f"   {1e6 / statistics.median(values):12,.0f} member-steps/s"
            f"   {ratio(values, times['stack']):7.2f} x stack",
            flush=True,
        )


def part_d(args: argparse.Namespace) -> None:
    """Stacks on an accelerator."""
    if not torch.accelerator.is_available():
        print("\nd. no accelerator: part D is skipped")
        return
    device = torch.accelerator.current_accelerator()
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    print(f"\nd. on {name}: {args.rounds} rounds")
    mlp = ["model.width=128", "training.batch_size=64"]
    cnn = ["model=cnn", "model.width=8", "training.batch_size=64"]
    for task, count in ((mlp, 256), (cnn, 32)):
        try:
            accelerated(task, count, device, args)
        except RuntimeError as error:  # the other network is measured all the same
            print(f"  {' '.join(task)}: {error}", file=sys.stderr)
