"""The cost of a deep ensemble: a run with several members beside the same run with one.

    OMP_NUM_THREADS=1 python benchmarks/members.py       # 4 members of the digits mlp
    OMP_NUM_THREADS=1 python benchmarks/members.py --members 2 8 --override model.width=128

Each arm is a whole `loop.fit` of the run: every epoch trained, evaluated, its best weights kept;
no record on disk. The arms take turns in one process, one thread, so a slow moment of the machine
hits neighbours alike; the first turn warms up. Printed: milliseconds as median [lowest .. highest]
over the rounds, and how many times one run's as the median of the ratios round by round; by the
clock, and of this process's CPU, which is the fairer one on a machine that others use as well.
Afterwards it is checked that member 0 is the run with one member, bit for bit, in weights and
metrics.
"""

import argparse
import sys
import time

import torch
from solo import ratio, spread

from knobs import build
from knobs.config import command
from knobs.training import loop
from knobs.training.setup import assemble
from knobs.training.state import Run


def trained(overrides: list[str], members: int) -> tuple[Run, float, float]:
    """A run trained from its first step to its end, milliseconds by the clock, and of the CPU."""
    plain = command.checked([*overrides, f"training.members={members}"])
    run = assemble(plain, build.data(plain), torch.device("cpu"))
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in loop.fit(run):
        pass
    return run, (time.perf_counter() - clock) * 1e3, (time.process_time() - cpu) * 1e3


def same_bits(one: Run, several: Run) -> bool:
    """Whether member 0 has the weights, buffers and metrics of the run with one member."""
    pairs = zip(
        one.model.state_dict().values(), several.networks[0].state_dict().values(), strict=True
    )
    own = loop.evaluate(one, one.data.val, "val")
    member = {f"val/{name}": value for name, value in several.member_metrics[0].items()}
    return all(torch.equal(a, b) for a, b in pairs) and own == member


def main() -> int:
    """Measure and print; 1 where a bit of member 0 differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--override", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    overrides = ["tracking=local", "training.device=cpu", *args.override]
    counts = [1, *args.members]
    clock: dict[int, list[float]] = {count: [] for count in counts}
    cpu: dict[int, list[float]] = {count: [] for count in counts}
    runs: dict[int, Run] = {}
    for turn in range(args.rounds + 1):
        for count in counts:
            runs[count], *taken = trained(overrides, count)
            if turn:
                clock[count].append(taken[0])
                cpu[count].append(taken[1])
    print(f"one thread, {args.rounds} rounds, {' '.join(args.override) or 'all defaults'}")
    for name, table in (("clock", clock), ("CPU", cpu)):
        for count, values in table.items():
            times = ratio(values, table[1])
            print(f"{name:6}{count:3} members {spread(values)} ms, {times:.2f} times one")
    differing = [count for count in args.members if not same_bits(runs[1], runs[count])]
    print(f"member 0: {f'DIFFERS with {differing}' if differing else 'the same bits as one run'}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
