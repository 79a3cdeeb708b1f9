"""64 linear heads on a frozen network: knobs' features and stack beside what people write.

    .venv-bench/bin/python benchmarks/heads.py                # digits, 8 x 8
    .venv-bench/bin/python benchmarks/heads.py --data fashion_mnist --rounds 3   # KNOBS_DATA
    .venv-bench/bin/python benchmarks/heads.py --small --rounds 1   # do all arms run? no figures
    .venv-bench/bin/python benchmarks/heads.py --whole 0            # not through the whole network

The network is torchvision's resnet18 with random weights in a file, frozen but for its last layer;
the heads are 8 learning rates x 4 weight decays x 2 optimizers, batches of 64, no checkpoints.
Each arm is one command, timed from its start to its end; the arms take turns. Printed: seconds as
median [lowest .. highest], and how many times as long as knobs an arm takes, as the median of the
ratios round by round.

knobs   `train.py -m` over the grid, its cache empty: features once, 64 heads as one stack
again   the same with the features in the cache
whole   as many runs of it as --whole says with model.cache=never, one by one through the whole
        network; what they take beyond `import torch` and one run is extrapolated to 64
hand    a loop with torch alone: features once, then 64 heads one by one, and their accuracy
lightning   the same by Lightning's Trainer, where it is installed
"""

import argparse
import importlib.util
import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from shell import timed
from solo import QUIET, ratio, spread
from torch import nn

LRS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
DECAYS = (0.0, 1e-4, 1e-3, 1e-2)
BATCH, HEADS = 64, 64


def main() -> None:
    """Time the arms in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=("digits", "fashion_mnist"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--whole", type=int, default=2, help="runs through the whole network")
    parser.add_argument("--small", action="store_true", help="two epochs")
    parser.add_argument(
        "--peer", nargs=3, metavar=("PEER", "WEIGHTS", "EPOCHS"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.peer:
        peer, weights, epochs = given.peer
        return by_peer(PEERS[peer], given.data, weights, int(epochs))
    measure(given.data, given.rounds, 2 if given.small else given.epochs, given.whole)


def measure(data: str, rounds: int, epochs: int, whole: int) -> None:
    """Time the arms in turns and print the table.

    Args:
        whole: runs through the whole network; 0: none.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in one_round(data, epochs, whole).items():
            found.setdefault(name, []).append(seconds)
    print(f"{HEADS} heads, {data}, {epochs} epochs, {torch.get_num_threads()} threads")
    for name, values in found.items():
        print(f"{name:9} {spread(values)} s {ratio(values, found['knobs']):8.2f} times knobs")


def one_round(data: str, epochs: int, whole: int) -> dict[str, float]:
    """Return the seconds of each arm, once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "net.pt"
        torch.manual_seed(0)
        torch.save(network().state_dict(), weights)
        os.environ["KNOBS_CACHE"] = str(folder / "cache")
        line = ["train.py", "-m", f"data={data}", "model=torchvision", f"model.weights={weights}"]
        line += ["model.freeze=backbone", "tracking=local", "training.checkpoint=false"]
        line += [f"training.batch_size={BATCH}", f"training.epochs={epochs}"]
        grid = [f"optimizer.lr={','.join(map(str, LRS))}", "optimizer=adamw,momentum"]
        grid += [f"optimizer.weight_decay={','.join(map(str, DECAYS))}"]

        def sweep(run: str, *more: str) -> float:
            return timed([*line, *more, f"hydra.sweep.dir={folder / run}"], folder / f"{run}.log")

        seconds = {"knobs": sweep("knobs", *grid), "again": sweep("again", *grid)}
        if whole:
            few = ["model.cache=never", "optimizer=adamw"]
            one = sweep("one", *few, "optimizer.lr=1e-3")
            lrs = ",".join(f"{1e-3 * (1 + i)}" for i in range(1 + whole))
            several = sweep("several", *few, f"optimizer.lr={lrs}")
            seconds["whole"] = one + (several - one) / whole * (HEADS - 1)
        for peer in PEERS:
            if peer != "lightning" or importlib.util.find_spec("lightning"):
                words = [__file__, "--data", data, "--peer", peer, str(weights), str(epochs)]
                seconds[peer] = timed(words, folder / f"{peer}.log")
        return seconds


def network() -> nn.Module:
    """Return a resnet18 of 1,000 classes."""
    from knobs.torchvision_shim import torchvision as tv

    return tv.models.resnet18(weights=None)


Splits = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def by_peer(train: Callable[..., float], name: str, weights: str, epochs: int) -> None:
    """Compute features once and train the heads one by one; their best accuracy is printed."""
    from knobs import build
    from knobs.config import command

    data = build.data(command.checked([f"data={name}", "tracking=local"]))  # the same splits
    net = network()
    net.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():  # one channel, as knobs takes it
        net.conv1.weight = nn.Parameter(net.conv1.weight.sum(1, keepdim=True))
    net.fc = nn.Identity()
    net.eval().to(memory_format=torch.channels_last)

    @torch.no_grad()
    def features(x: torch.Tensor) -> torch.Tensor:
        parts = x.to(memory_format=torch.channels_last).split(256)
        return torch.cat([net(part) for part in parts])

    splits = features(data.train.x), data.train.y, features(data.val.x), data.val.y
    best = 0.0
    for kind, lr, decay in itertools.product(OPTIMIZERS, LRS, DECAYS):
        torch.manual_seed(0)
        head = nn.Linear(splits[0].shape[1], data.shape.outputs)
        optimizer = kind(head.parameters(), lr=lr, weight_decay=decay)
        best = max(best, train(head, optimizer, splits, epochs))
    print(f"best val/accuracy {best:.4f}", file=sys.stderr)


def by_hand(
    head: nn.Module, optimizer: torch.optim.Optimizer, splits: Splits, epochs: int
) -> float:
    """Train a head as a plain loop does; its best accuracy on validation."""
    x, y, val_x, val_y = splits
    best = 0.0
    for _ in range(epochs):
        for index in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(x[index]), y[index]).backward()
            optimizer.step()
        with torch.no_grad():
            best = max(best, (head(val_x).argmax(1) == val_y).float().mean().item())
    return best


def by_lightning(
    head: nn.Module, optimizer: torch.optim.Optimizer, splits: Splits, epochs: int
) -> float:
    """Train a head by Lightning, without logger, bar or checkpoint; its last accuracy."""
    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    class Head(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def training_step(self, batch: list, _index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.head(batch[0]), batch[1])

        def validation_step(self, batch: list, _index: int) -> None:
            right = self.head(batch[0]).argmax(1) == batch[1]
            self.log("val/accuracy", right.float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    x, y, val_x, val_y = splits
    trainer = lightning.Trainer(max_epochs=epochs, **QUIET)
    val = DataLoader(TensorDataset(val_x, val_y), batch_size=1024)
    trainer.fit(Head(), DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True), val)
    return trainer.callback_metrics["val/accuracy"].item()


def momentum(parameters: Iterator[nn.Parameter], **settings: float) -> torch.optim.Optimizer:
    """Return SGD with the usual momentum."""
    return torch.optim.SGD(parameters, momentum=0.9, **settings)


OPTIMIZERS = (torch.optim.AdamW, momentum)
PEERS = {"hand": by_hand, "lightning": by_lightning}


if __name__ == "__main__":
    main()
