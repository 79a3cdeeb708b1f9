"""The cost of a sweep as it grows: in rows, in epochs, in runs of its folder.

c. 1. A step of K rows (MLP 64-128-128-10 on digits, batch 64, Adam) and the most memory its
      process ever held, less what it held before the stack was there; each K in a new process.
      Beside it what knobs expects a row to need, by which it chooses how many train at once.
   2. `stack.fit` of 16 rows for 5 to 40 epochs: evaluation, best weights and all, no record.
   3. A folder of 2,000 finished runs (200 learning rates, 10 seeds), from the shell: reading them
      into a leaderboard and its CSV; the command that made them, given again, which finds nothing
      to do and ends in the leaderboard; and once, the same command with its words in another
      order, where every job is composed to see that it is there already. Two runs are real, the
      others are copies of the first one's files with other knobs in them.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from shell import timed
from solo import spread
from stack_speed import CPU, assembled, micros, prepared, rows, stack_epoch

from knobs import ledger
from knobs.config import command, overrides
from knobs.identity import identity, job_of
from knobs.record import CONFIG, METRICS, SUMMARY, read_config, read_summary
from knobs.report import leaderboard
from knobs.stack import loop as stack
from knobs.stack.loop import Stack
from knobs.sweep import timing
from knobs.training.setup import assemble

TASK = ["model.width=128", "training.batch_size=64", "training.device=cpu"]
COUNTS = (1, 4, 16, 64, 256, 1024)
EPOCHS, ROWS = (5, 10, 20, 40), 16
RATES, SEEDS = 200, 10
LEAST = 0.5  # seconds of a turn
TARGET = 5.0  # seconds
READ = """
import sys
from pathlib import Path
from knobs.report import leaderboard, read
from knobs.sweep import timing
from knobs.stack import loop as stack
folder = Path(sys.argv[1])
entries = leaderboard.leaderboard(read.read_runs(folder))
leaderboard.write_csv(folder / leaderboard.CSV, entries)
"""


# ------------------------------------------------------------------ 1. rows
def peak() -> float:
    """MiB that this process ever held at once."""
    status = Path("/proc/self/status")
    if status.exists():  # rusage would count what the parent held when it began this process
        fields = dict(line.split(":") for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cost_of(count: int, least: float) -> tuple[float, float, float]:
    """Milliseconds of a step of so many rows; MiB they needed, and MiB that knobs expected."""
    run = assembled(TASK)
    expected = timing.row_bytes(run) * count / 2**20
    before = peak()
    stacked = Stack(rows(run, count))
    stack_epoch(stacked)
    step = micros(lambda: stack_epoch(stacked), least) * count / 1e3
    return step, peak() - before, expected


def rows_cost(args: argparse.Namespace) -> None:
    """Time and memory against K."""
    counts, least = (COUNTS[:3], 0.02) if args.small else (COUNTS, LEAST)
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
    for _ in range(args.rounds):
        for count in counts:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as pool:
                found[count].append(pool.submit(cost_of, count, least).result())
    print(f"\nc1. rows of a stack: {args.rounds} rounds, {' '.join(TASK)}")
    print("     K  ms a step                    us a row      MiB  KiB a row  expected")
    for count, values in found.items():
        steps, memory, expected = zip(*values, strict=True)
        held, each = statistics.median(memory), 1e3 / count
        print(
            f"  {count:4d}  {spread(list(steps)):<27} {statistics.median(steps) * each:9.1f}"
            f"  {held:7.0f}  {held * 2**10 / count:9.0f}  {expected[0] * 2**10 / count:8.0f}"
        )


# ------------------------------------------------------------------ 2. epochs
def fit_seconds(epochs: int) -> float:
    """Seconds of `stack.fit`."""
    plain, data = prepared([*TASK, f"training.epochs={epochs}"])
    runs = [assemble(plain | {"seed": seed}, data, CPU) for seed in range(ROWS)]
    began = time.perf_counter()
    stack.fit(runs, lambda *_: None, lambda *_: None, lambda _: None, lambda _: None)
    seconds = time.perf_counter() - began
    if any(run.progress.epoch != epochs for run in runs):
        raise ValueError(f"not every run trained for {epochs} epochs")
    return seconds


def epochs_cost(args: argparse.Namespace) -> None:
    """Seconds against epochs."""
    lengths = EPOCHS[:2] if args.small else EPOCHS
    fit_seconds(lengths[0])  # warms up
    found: dict[int, list[float]] = {epochs: [] for epochs in lengths}
    for _ in range(args.rounds):
        for epochs in lengths:
            found[epochs].append(fit_seconds(epochs))
    print(f"\nc2. epochs of a stack of {ROWS} rows: {args.rounds} rounds")
    print("  epochs  ms                              ms an epoch")
    for epochs, seconds in found.items():
        millis = [value * 1e3 for value in seconds]
        print(f"  {epochs:6d}  {spread(millis):<30} {statistics.median(millis) / epochs:8.2f}")


# ------------------------------------------------------------------ 3. runs of a folder
def command_line(folder: Path, rates: int, seeds: int, reverse: bool = False) -> list[str]:
    """What a person types after `python train.py -m`.

    Args:
        reverse: whether the grid's words stand the other way round.
    """
    lr = ",".join(f"{i * 1e-5:g}" for i in range(1, rates + 1))
    grid = [f"optimizer.lr={lr}", f"seed=range(0,{seeds})"]
    fixed = ["training.epochs=1", "tracking=local"]
    return [*fixed, *(reversed(grid) if reverse else grid), f"hydra.sweep.dir={folder}"]


def fill(folder: Path, rates: int, seeds: int) -> None:
    """A folder in which the whole grid has ended, from a sweep of its first jobs."""
    timed(["train.py", "-m", *command_line(folder, 1, 2)], folder.with_name("log"))
    about, summary = read_config(folder / "0"), read_summary(folder / "0")
    metrics = (folder / "0" / METRICS).read_text()
    book = ledger.read(folder)
    if book is None or len(book.jobs) != 2:
        raise ValueError(f"{folder}: the first sweep left no ledger of 2 jobs")
    jobs = [job_of(job) for job in overrides.jobs(command_line(folder, rates, seeds))]
    for number, job in enumerate(jobs):
        values = dict(line.split("=") for line in job)
        plain = about["config"]
        plain["optimizer"]["lr"], plain["seed"] = float(values["optimizer.lr"]), int(values["seed"])
        own = identity(plain)
        known = book.jobs.get(number)
        if known and known != ledger.Entry(job, own):
            raise ValueError(f"{known}: not the job of that number, {job} {own}")
        book.jobs[number] = ledger.Entry(job, own)
        about |= {"overrides": [*job], "identity": own}
        summary["config_hash"] = own
        summary["objective"]["value"] = 0.5 + number * 7919 % len(jobs) / len(jobs) / 2
        run = folder / str(number)
        run.mkdir(exist_ok=True)
        (run / CONFIG).write_text(json.dumps(about, indent=2) + "\n")
        (run / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
        (run / METRICS).write_text(metrics)
    book.write(folder)
    if ledger.done(folder, ledger.digest([command.CONF]), False) != set(jobs):
        print("  overrides alone do not tell that every job is over", file=sys.stderr)


def folder_cost(args: argparse.Namespace) -> None:
    """Seconds of commands on a folder of many runs."""
    rates, seeds = (10, 2) if args.small else (RATES, SEEDS)
    names = ("import torch", "leaderboard and CSV", "the same command", "in another order")
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as parent:
        folder, log = Path(parent) / "sweep", Path(parent) / "log"
        fill(folder, rates, seeds)
        again, other = (
            ["train.py", "-m", *command_line(folder, rates, seeds, r)] for r in (False, True)
        )
        commands = [["-c", "import torch"], ["-c", READ, str(folder)], again]
        turns = [*zip(names, commands, strict=False)] * (args.rounds + 1)
        for turn, (name, words) in enumerate([*turns, (names[-1], other)]):
            (folder / leaderboard.CSV).unlink(missing_ok=True)
            seconds = timed(words, log)
            if words in (again, other):
                check(folder, log, rates, seeds)
            if turn >= len(commands):  # the first round warms up
                found[name].append(seconds)
    print(f"\nc3. a folder of {rates * seeds:,} finished runs: {args.rounds} rounds")
    for name, seconds in found.items():
        over = "" if statistics.median(seconds) < TARGET else f"   more than {TARGET:g} s"
        print(f"  {name:<20} {spread(seconds)} s{over}")


def check(folder: Path, log: Path, rates: int, seeds: int) -> None:
    """That a command trained nothing and left a whole leaderboard.

    Raises:
        ValueError: it did not.
    """
    lines = (folder / leaderboard.CSV).read_text().count("\n")
    runs = [path for path in folder.iterdir() if path.name.isdigit()]
    trained = sum((run / ".hydra").exists() for run in runs)
    if (lines, len(runs), trained) != (rates + 1, rates * seeds, 2):
        what = f"{lines} lines, {len(runs)} runs, {trained} of them trained"
        raise ValueError(f"{what}\n{log.read_text()[-3000:]}")


def part_c(args: argparse.Namespace) -> None:
    """What grows with rows, with epochs, and with runs."""
    rows_cost(args)
    epochs_cost(args)
    folder_cost(args)
