"""One run's speed: knobs beside a hand-written loop and Lightning, same tensors, same arithmetic.

    make bench                                   # or: .venv-bench/bin/python benchmarks/solo.py

Each arm trains the same network with the same optimizer on the same tensors, draws the order of
its batches anew each epoch, and evaluates on the validation split after every epoch. The arms take
turns in one process, so a slow moment of the machine hits neighbours alike. Printed: microseconds
a step (training alone) and milliseconds an epoch (training and evaluation), as median
[lowest .. highest] over the rounds, and knobs' speed to each arm's as the median of the ratios
round by round: 0.98 means that knobs takes 2 % longer.

Then the time from `python train.py` to the first optimizer step, beside `import torch` alone.
"""

import argparse
import dataclasses
import logging
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

import knobs.torchvision_shim  # noqa: F401  (lightning imports torchvision)
from knobs import build
from knobs.config import command
from knobs.data import Data, Tensors
from knobs.errors import DataError
from knobs.shape import Shape
from knobs.training import loop
from knobs.training.setup import assemble
from knobs.training.state import Run

REPO = Path(__file__).parents[1]
# name: (overrides, training examples, epochs a turn)
CASES = {
    "digits mlp 64-128-128-10, batch 64": (["model.width=128", "training.batch_size=64"], 1078, 20),
    "Fashion-MNIST cnn, batch 64": (
        ["experiment=fashion_cnn", "data.augment.crop=0", "data.augment.flip=false"],
        3200,
        1,
    ),
}
QUIET = {  # of Lightning's Trainer: nothing but training
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip
FIRST_STEP = """
import os, runpy, sys
from torch.optim import optimizer
def leave(stepped, *_):  # the check before a run steps a stand-in of a few weights
    if sum(p.numel() for g in stepped.param_groups for p in g["params"]) > 1000:
        os._exit(0)
optimizer.register_optimizer_step_post_hook(leave)
sys.argv = ["train.py", "hydra.run.dir=" + sys.argv[2]]
runpy.run_path("train.py", run_name="__main__")
"""


def knobs_arm(run: Run) -> float:
    """knobs' own fit, without the record on disk; seconds of training."""
    for _ in loop.fit(run):
        pass
    return run.progress.train_seconds


def by_hand(run: Run) -> float:
    """The loop that anyone would write; seconds of training."""
    model, optimizer, schedule, criterion = run.model, run.optimizer, run.scheduler, run.loss
    x, y, val_x, val_y = run.data.train.x, run.data.train.y, run.data.val.x, run.data.val.y
    seconds = 0.0
    for _ in range(run.training["epochs"]):
        began = time.perf_counter()
        model.train()
        total = torch.zeros(())
        for index in torch.randperm(len(x)).split(run.training["batch_size"]):
            optimizer.zero_grad()
            loss = criterion(model(x[index]), y[index])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
            if run.interval == "step":
                schedule.step()
        total.item()
        seconds += time.perf_counter() - began
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in val_x.split(1024)])
            F.cross_entropy(outputs, val_y).item()
            (outputs.argmax(1) == val_y).float().mean().item()
        if run.interval == "epoch":
            schedule.step()
    return seconds


def lightning_arm(run: Run) -> float:
    """A LightningModule and DataLoaders; no logger, bar or checkpoint. Seconds of training."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.seconds, self.began = run.model, 0.0, 0.0

        def on_train_epoch_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_batch_end(self, _outputs: object, _batch: object, index: int) -> None:
            if index == self.trainer.num_training_batches - 1:
                self.seconds += time.perf_counter() - self.began

        def training_step(self, batch: list, _index: int) -> torch.Tensor:
            loss = run.loss.mean(self.model(batch[0]), batch[1])
            self.log("train/loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch: list, _index: int) -> None:
            outputs = self.model(batch[0])
            self.log("val/loss", F.cross_entropy(outputs, batch[1]))
            self.log("val/accuracy", (outputs.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> dict:
            schedule = {"scheduler": run.scheduler, "interval": run.interval}
            return {"optimizer": run.optimizer, "lr_scheduler": schedule}

    def loader(split: Tensors, size: int, shuffle: bool) -> torch.utils.data.DataLoader:
        dataset = torch.utils.data.TensorDataset(split.x, split.y)
        return torch.utils.data.DataLoader(dataset, batch_size=size, shuffle=shuffle)

    module = Module()
    trainer = lightning.Trainer(max_epochs=run.training["epochs"], **QUIET)
    train = loader(run.data.train, run.training["batch_size"], True)
    trainer.fit(module, train, loader(run.data.val, 1024, False))
    return module.seconds


# An arm and how its images lie in memory: as knobs lays them, or as people leave them, NCHW.
ARMS = {
    "knobs": (knobs_arm, True),
    "hand-written": (by_hand, True),
    "Lightning": (lightning_arm, True),
    "hand-written, NCHW": (by_hand, False),
    "Lightning, NCHW": (lightning_arm, False),
}


def load(plain: dict, examples: int) -> Data:
    """The case's data, its training split cut to `examples`; random pixels where it is not here."""
    try:
        data = build.data(plain)
    except DataError:
        print("  (the data set is not here: random images of its shape)")
        draw = torch.Generator().manual_seed(0)
        parts = [
            Tensors(
                torch.randn(n, 1, 28, 28, generator=draw), torch.randint(10, (n,), generator=draw)
            )
            for n in (examples, 3000, 1)
        ]
        names = [str(i) for i in range(10)]
        return Data(
            "random", "image", "classification", Shape((1, 28, 28), 10), *parts, classes=names
        )
    part = Tensors(data.train.x[:examples], data.train.y[:examples])
    return dataclasses.replace(data, train=part)


def measure(case: str, rounds: int) -> None:
    """Every arm of one case, in turns."""
    overrides, examples, epochs = CASES[case]
    print(f"\n{case}: {rounds} rounds of {epochs} epochs of {examples:,} examples")
    plain = command.checked([*overrides, f"training.epochs={epochs}"])
    arms = {a: how for a, how in ARMS.items() if how[1] or plain["model"]["name"] == "cnn"}
    data = load(plain, examples)
    steps = epochs * -(-examples // plain["training"]["batch_size"])
    step: dict[str, list[float]] = {arm: [] for arm in arms}
    epoch: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(rounds + 1):
        for arm, (train, channels_last) in arms.items():
            training = plain["training"] | {"channels_last": channels_last}
            run = assemble(plain | {"training": training}, data, torch.device("cpu"))
            began = time.perf_counter()
            seconds = train(run)
            if turn:  # the first turn warms up
                step[arm].append(seconds / steps * 1e6)
                epoch[arm].append((time.perf_counter() - began) / epochs * 1e3)
    for arm in arms:
        ratios = (ratio(step[arm], step["knobs"]), ratio(epoch[arm], epoch["knobs"]))
        print(
            f"  {arm:<18} step {spread(step[arm])} us   epoch {spread(epoch[arm])} ms"
            f"   knobs' speed to it: step {ratios[0]:.3f}, epoch {ratios[1]:.3f}"
        )


def ratio(others: list[float], own: list[float]) -> float:
    """Median of other / own, round by round: how much faster knobs is."""
    return statistics.median(a / b for a, b in zip(others, own, strict=True))


def spread(values: list[float]) -> str:
    """Median [lowest .. highest]."""
    return f"{statistics.median(values):8.1f} [{min(values):.1f} .. {max(values):.1f}]"


def start_up(rounds: int) -> None:
    """Seconds from the shell to the first step of a default run, beside `import torch` alone."""
    import tempfile

    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=REPO, check=True, capture_output=True)
        return time.perf_counter() - began

    found: dict[str, list[float]] = {"import torch": [], "first step": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            bare = seconds("-c", "import torch")
            first = seconds("-c", FIRST_STEP, "--", f"{folder}/{turn}")
            if turn:
                found["import torch"].append(bare)
                found["first step"].append(first)
    print("\nfrom `python train.py` to its first optimizer step, default config")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"  {name:<13} {middle:.2f} [{min(values):.2f} .. {max(values):.2f}] s")
    pairs = zip(found["first step"], found["import torch"], strict=True)
    print(f"  beyond torch  {statistics.median(a - b for a, b in pairs):.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {args.threads} threads")
    for case in CASES:
        measure(case, args.rounds)
    start_up(args.rounds)


if __name__ == "__main__":
    main()
