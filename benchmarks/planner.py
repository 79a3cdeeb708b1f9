"""The planner's choice of a stack's width on a busy machine, beside the best width there.

    python benchmarks/planner.py                 # 20 plans, one process of endless work beside them
    python benchmarks/planner.py --busy 0        # on a machine that is left alone
    python benchmarks/planner.py --small         # does it run? no figures

A plan is that of a grid of 64 runs of an MLP on digits, 40 epochs each, as `train.py -m` makes it:
widths of the network 32, 64, 128 by batches of 32 and 128, in turns, until there are 20. Beside it
a process does nothing but `while True: pass`. After each plan the stacks that there might have been
are timed under the same load: 1, 4, 8, 16, 32 or 64 runs at a time, in turns, each turn at least
0.2 s of whole steps. A width's time is the mean of its turns over all plans of the cell, since a
sweep takes as long as all its steps together, slow ones included; the best width is the one with
the least. Printed for each plan: the width chosen, its speed as a share of
the best width's, and the plan's share of the sweep. The sweep is not run: its length is the steps
of all runs at the measured time of the chosen width, without what a run costs beside its steps, so
a real sweep's share is less. The aim: 85 % of the best speed in 19 of 20 plans, a share under 3 %.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from knobs import build
from knobs.config import command
from knobs.data import Data
from knobs.sweep import groups, timing
from knobs.sweep.jobs import Job
from knobs.training.setup import assemble

CELLS = tuple(itertools.product((32, 64, 128), (32, 128)))  # width of the network, batch
RUNS = 64
WIDTHS = (1, 4, 8, 16, 32, 64)
NEAR = 0.85  # of the best width's speed
SHARE = 0.03


@dataclass
class Cell:
    """One network and batch size: its grid, its data, and what its stacks took.

    Args:
        times: width -> seconds of a step and run, a turn each.
    """

    configs: list[dict]
    data: Data
    times: dict[int, list[float]] = field(default_factory=lambda: {w: [] for w in WIDTHS})

    def plan(self) -> tuple[groups.Group, float]:
        """The group that a sweep would train, and the seconds that it took to plan it."""
        jobs = {number: Job(number, [], config) for number, config in enumerate(self.configs)}
        began = time.perf_counter()
        [group] = groups.plan_groups(jobs, lambda config: self.data, RUNS, {})
        return group, time.perf_counter() - began

    def measure(self, rounds: int, least: float) -> None:
        """Time every width in turns."""
        run = assemble(self.configs[0], self.data, torch.device("cpu"))
        probes = {width: timing.probe_stack(timing.clones(run, width)) for width in WIDTHS[1:]}
        probes[1] = timing.probe_alone(run)
        for probe in probes.values():
            probe.visit(0)  # warms up
        for _, width in itertools.product(range(rounds), WIDTHS):
            self.times[width].append(probes[width].visit(least))

    def seconds(self, width: int) -> float:
        """Of a step and run in a stack so wide; of a width between those timed, the next wider."""
        return statistics.mean(self.times[min(w for w in WIDTHS if w >= width)])


def cell(width: int, batch: int, epochs: int) -> Cell:
    """The grid of 64 seeds of one network."""
    words = [f"model.width={width}", f"training.batch_size={batch}", f"training.epochs={epochs}"]
    words += ["tracking=local", "training.device=cpu"]
    configs = [command.checked([*words, f"seed={seed}"]) for seed in range(RUNS)]
    return Cell(configs, build.data(configs[0]))


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many processes of endless work beside what is done inside."""
    work = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(work) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> int:
    """Plan, measure, print; 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each width after a plan")
    parser.add_argument("--busy", type=int, default=1, help="processes of endless work beside it")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, help="torch's choice by default")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    plans, rounds, least = (2, 1, 0.0) if args.small else (args.plans, args.rounds, 0.2)
    cells = {names: cell(*names, args.epochs) for names in CELLS}
    chosen: list[tuple[tuple[int, int], groups.Group, float]] = []
    print(f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {args.busy} busy beside it")
    print(f"load before: {os.getloadavg()[0]:.1f}")
    cells[CELLS[0]].plan()  # warms up
    with busy(args.busy):
        for names in itertools.islice(itertools.cycle(CELLS), plans):
            chosen.append((names, *cells[names].plan()))
            cells[names].measure(rounds, least)
    print(f"load after: {os.getloadavg()[0]:.1f}\n")
    print(
        "microseconds of a step and run, mean of turns\nnet batch"
        + "".join(f"{w:9d}" for w in WIDTHS)
    )
    for (width, batch), one in cells.items():
        if any(one.times.values()):
            values = [f"{one.seconds(w) * 1e6:9.0f}" for w in WIDTHS]
            print(f"{width:3d} {batch:5d}" + "".join(values))
    print("\nnet batch  chosen  best  speed   plan s  sweep s  share")
    near, shares = 0, []
    for (width, batch), group, took in chosen:
        one = cells[width, batch]
        best = min(WIDTHS, key=one.seconds)
        speed = one.seconds(best) / one.seconds(group.width)
        sweep = group.steps * one.seconds(group.width)
        shares.append(took / sweep)
        near += speed >= NEAR
        print(
            f"{width:3d} {batch:5d}  {group.width:6d}  {best:4d}  {speed:5.0%}  {took:7.2f}"
            f"  {sweep:7.1f}  {took / sweep:5.1%}"
        )
    low = sum(share < SHARE for share in shares)
    print(f"\nwithin 15 % of the best width: {near} of {plans} plans")
    print(f"share of the sweep under 3 %: {low} of {plans}, median {statistics.median(shares):.1%}")
    return 0 if args.small or near >= 0.95 * plans else 1


if __name__ == "__main__":
    sys.exit(main())
