"""A whole sweep, end to end from the shell: knobs beside what people write today.

    .venv-bench/bin/python benchmarks/sweep.py                      # every part
    .venv-bench/bin/python benchmarks/sweep.py --part a --arms stack lightning
    .venv-bench/bin/python benchmarks/sweep.py --part a --wandb none   # and again without W&B
    .venv-bench/bin/python benchmarks/sweep.py --part b --override optimizer.fused=true
    .venv-bench/bin/python benchmarks/sweep.py --part e g --arms stack plain lightning
    .venv-bench/bin/python benchmarks/sweep.py --small --rounds 1   # do all arms run? no figures

a. 64 runs (4 learning rates, 4 weight decays, 2 dropouts, 2 seeds) of an MLP 64-128-128-10 on
   digits: Adam, batch 64, 20 epochs, metrics of every epoch to W&B offline, the best weights of
   every run kept. Each arm is one command, timed from its start to its end; the arms take turns,
   so a slow moment of the machine hits neighbours alike. Printed: seconds as median
   [lowest .. highest] over the rounds, and how many times as long as knobs' stack launcher an arm
   takes, as the median of the ratios round by round. After each turn every run is looked at: its
   best weights lie in its folder, W&B's file holds the validation accuracy of each epoch, and the
   best of them all is that of a trained network; else the measurement ends with an error.
   `import torch` alone is the floor under every command. With --wandb none no arm knows W&B: each
   keeps its metrics in a file of the run's folder, and that is looked at.
b. Training steps a second of stacks of several widths and sizes, beside other ways to train the
   same runs and the machine's limit: see stack_speed.py.
c. What a sweep costs as rows, epochs and runs of its folder grow: see stack_cost.py.
d. A stack on an accelerator, where there is one: see stack_speed.py.
e. As a: 5 folds of the rows outside the test split times 5 seeds, 25 runs of 20 epochs.
f. 64 linear heads on a frozen network: see heads.py.
g. As a: 32 learning rates times 8 widths, 256 runs of 10 epochs.
"""

import argparse
import csv
import functools
import importlib.util
import json
import math
import os
import shlex
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import heads
import torch
from shell import WANDB, timed
from solo import ratio, spread
from stack_cost import part_c
from stack_speed import part_b, part_d
from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768  # bytes of a .wandb file
METRIC = "val/accuracy"
BASELINE = "stack"


@dataclass(frozen=True)
class Size:
    """How large a sweep is.

    Args:
        grid: knob -> its values, by the names of Arm.keys.
        accuracy: what the best run reaches at least, on validation.
    """

    grid: dict[str, str]
    epochs: int
    accuracy: float

    @property
    def runs(self) -> int:
        """Points of the grid."""
        return math.prod(len(values.split(",")) for values in self.grid.values())


RATES = ",".join(f"{10 ** (-4 + i * 2.5 / 31):.3g}" for i in range(32))  # 1e-4 .. 3e-2
WIDTHS = "16,32,48,64,96,128,192,256"
SIZES = {
    "a": Size(
        {
            "lr": "3e-4,1e-3,3e-3,1e-2",
            "weight_decay": "0,1e-5,1e-4,1e-3",
            "dropout": "0,0.2",
            "width": "128",
            "seed": "0,1",
        },
        epochs=20,
        accuracy=0.95,
    ),
    "e": Size({"fold": "0,1,2,3,4", "width": "128", "seed": "0,1,2,3,4"}, epochs=20, accuracy=0.95),
    "g": Size({"lr": RATES, "width": WIDTHS}, epochs=10, accuracy=0.95),
}
SMALL = {
    "a": Size({"lr": "1e-3,3e-3", "dropout": "0,0.2", "width": "128"}, epochs=2, accuracy=0.5),
    "e": Size({"fold": "0,1", "width": "128", "seed": "0,1"}, epochs=2, accuracy=0.5),
    "g": Size({"lr": "1e-3,3e-3", "width": "32,64"}, epochs=2, accuracy=0.3),
}


@dataclass(frozen=True)
class Arm:
    """One way to run a sweep.

    Args:
        keys: what the script calls the knobs of Size.grid, and the epochs.
        weights: where a run's folder keeps the best ones.
        quiet: the override that leaves W&B out. metrics: where its metrics are then.
        extra: further overrides. of: more of them, where a knob is in the grid.
    """

    script: str
    keys: dict[str, str]
    weights: str
    quiet: str
    metrics: str
    extra: tuple[str, ...] = ()
    of: dict[str, str] = field(default_factory=dict)

    def command(self, size: Size, folder: Path | str, wandb: bool) -> list[str]:
        """What follows `python`."""
        grid = [f"{self.keys[knob]}={values}" for knob, values in size.grid.items()]
        more = [self.of[knob] for knob in size.grid if knob in self.of]
        more += [] if wandb else [self.quiet]
        epochs = f"{self.keys['epochs']}={size.epochs}"
        return [self.script, "-m", *self.extra, *more, epochs, *grid, f"hydra.sweep.dir={folder}"]


KNOBS = {
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "dropout": "regularization.dropout",
    "width": "model.width",
    "fold": "data.fold",
    "seed": "seed",
    "epochs": "training.epochs",
}
LIGHTNING = {
    "lr": "model.lr",
    "weight_decay": "model.weight_decay",
    "dropout": "model.dropout",
    "width": "model.width",
    "fold": "data.fold",
    "seed": "seed",
    "epochs": "trainer.max_epochs",
}
PLAIN = {knob: knob for knob in KNOBS}
TASK = ("training.batch_size=64",)
LAUNCHERS = {
    "stack": (),
    "basic": ("hydra/launcher=basic",),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.threads=1"),
}
LINES = "metrics.jsonl"
KEPT = ("checkpoints/best.safetensors", "tracking=local", LINES)
PEERS = "benchmarks/peers"
ARMS = {
    name: Arm("train.py", KNOBS, *KEPT, (*words, *TASK), {"fold": "data.folds=5"})
    for name, words in LAUNCHERS.items()
} | {
    "lightning": Arm(
        f"{PEERS}/lightning_sweep.py",
        LIGHTNING,
        "checkpoints/best.ckpt",
        "logger=csv",
        "metrics.csv",
    ),
    "plain": Arm(f"{PEERS}/plain_sweep.py", PLAIN, "best.pt", "wandb=false", LINES),
}
FLOOR = "import torch"


def wandb_records(file: Path) -> Iterator[Record]:
    """What a .wandb file holds: pieces of records in blocks, as LevelDB writes its log."""
    data, at, pieces = file.read_bytes(), 7, []
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:  # no room for the header of a piece
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        pieces.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield Record.FromString(b"".join(pieces))
            pieces = []


def accuracies(run: Path, arm: Arm, wandb: bool) -> list[float]:
    """Validation accuracy of each epoch, as W&B has it, or as the arm's own file has."""
    if wandb:
        (file,) = run.glob("wandb/offline-run-*/*.wandb")
        items = (item for record in wandb_records(file) for item in record.history.item)
        return [float(i.value_json) for i in items if METRIC in (i.key, *i.nested_key)]
    if [*run.glob("wandb*")]:
        raise ValueError(f"{run}: W&B was there")
    with (run / arm.metrics).open() as lines:
        rows = csv.DictReader(lines) if arm.metrics.endswith(".csv") else map(json.loads, lines)
        return [float(row[METRIC]) for row in rows if row[METRIC]]


def best_accuracy(arm: Arm, size: Size, folder: Path, wandb: bool) -> float:
    """Best validation accuracy of a sweep, all of whose runs are looked at.

    Raises:
        ValueError: runs, epochs, weights or W&B files are missing, or the best run has not learned.
    """
    runs = [path for path in folder.iterdir() if path.name.isdigit()]
    if len(runs) != size.runs:
        raise ValueError(f"{len(runs)} runs instead of {size.runs}")
    best = 0.0
    for run in runs:
        epochs = accuracies(run, arm, wandb)
        if len(epochs) != size.epochs or not (run / arm.weights).is_file():
            raise ValueError(f"{run}: {len(epochs)} epochs, or no {arm.weights}")
        best = max(best, *epochs)
    if not best > size.accuracy:
        raise ValueError(f"best validation accuracy {best}")
    return best


def sweep(arm: Arm, size: Size, wandb: bool) -> tuple[float, float]:
    """Seconds and best validation accuracy of one sweep, in a folder that is then removed."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "sweep"
        seconds = timed(arm.command(size, folder, wandb), Path(parent) / "log")
        return seconds, best_accuracy(arm, size, folder, wandb)


def floor() -> float:
    """Seconds of `import torch` alone."""
    return timed(["-c", FLOOR], Path(os.devnull))


def show(name: str, seconds: dict[str, list[float]], note: str) -> None:
    """One line of results."""
    line = f"  {name:<13} {spread(seconds[name])} s"
    if BASELINE in seconds:
        line += f"   {ratio(seconds[name], seconds[BASELINE]):6.2f} x {BASELINE}"
    print(f"{line}   {note}".rstrip())


def grid(part: str, args: argparse.Namespace) -> None:
    """Many small runs: every arm's whole sweep, in turns."""
    wandb = args.wandb == "offline"
    size = SMALL[part] if args.small else SIZES[part]
    arms = {name: ARMS[name] for name in args.arms}
    if "lightning" in arms and not importlib.util.find_spec("lightning"):
        print("  lightning: not installed here; make bench has it", file=sys.stderr)
        del arms["lightning"]
    print(f"\n{part}. {size.runs} runs of {size.epochs} epochs: {args.rounds} rounds")
    kept = " ".join(f"{name}={value}" for name, value in WANDB.items())
    print(f"  environment: {kept}" if wandb else "  without W&B, every arm")
    for name, arm in arms.items():
        print(f"  {name}: {shlex.join(['python', *arm.command(size, 'FOLDER', wandb)])}")
        sweep(arm, SMALL[part], wandb)  # warms up: files of packages read and compiled once
    seconds: dict[str, list[float]] = {name: [] for name in [FLOOR, *arms]}
    best: dict[str, float] = {}
    for turn in range(args.rounds):
        seconds[FLOOR].append(floor())
        for name, arm in arms.items():
            took, best[name] = sweep(arm, size, wandb)
            seconds[name].append(took)
            print(f"  round {turn + 1}: {name} {took:.1f} s", file=sys.stderr, flush=True)
    show(FLOOR, seconds, "")
    for name in arms:
        show(name, seconds, f"best {METRIC} {best[name]:.4f}, {size.runs} runs checked")


def part_f(args: argparse.Namespace) -> None:
    """Heads on cached features; the whole network is timed by heads.py alone."""
    print("\nf.", end=" ")
    heads.measure("digits", args.rounds, 2 if args.small else 10, whole=0)


PARTS = {
    "a": functools.partial(grid, "a"),
    "b": part_b,
    "c": part_c,
    "d": part_d,
    "e": functools.partial(grid, "e"),
    "f": part_f,
    "g": functools.partial(grid, "g"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help="of parts a, e, g")
    parser.add_argument(
        "--wandb", choices=("offline", "none"), default="offline", help="of parts a, e, g"
    )
    parser.add_argument("--small", action="store_true", help="a few short runs: does it work?")
    parser.add_argument("--optimizer", default="adam", help="of part b")
    parser.add_argument("--batch", type=int, help="of part b; else 64, and 32 for small nets")
    parser.add_argument("--override", nargs="+", default=[], help="further overrides of part b")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for part in args.part:
        PARTS[part](args)


if __name__ == "__main__":
    main()
