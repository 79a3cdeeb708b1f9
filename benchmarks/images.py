"""Streamed images: the decoder beside torchvision's ImageFolder and DataLoader.

    OMP_NUM_THREADS=1 python benchmarks/images.py
    OMP_NUM_THREADS=1 python benchmarks/images.py --images 4000 --pixels 500 --workers 2

JPEGs of two classes are written into a temporary folder and read in one random order, in
alternating rounds within one process: by data=image_folder with data.memory_gib=0, and by
torchvision (ImageFolder: Resize to data.size, CenterCrop, ToTensor, Normalize; in a DataLoader).
Both decode by Pillow. Printed: medians of images a second, their spread, and the ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from knobs import build
from knobs.config import command
from knobs.torchvision_shim import torchvision

BATCH, SIZE = 64, 64


def write(root: Path, images: int, pixels: int) -> None:
    """Write noise of low frequency as JPEGs, in folders of two classes."""
    draw = np.random.default_rng(0)
    for i in range(images):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (pixels // 8, pixels // 6, 3)).astype(np.uint8)
        Image.fromarray(small).resize((pixels, pixels * 3 // 4)).save(folder / f"{i}.jpg")


def peer(root: Path, rows: list[int], workers: int) -> Iterable:
    """Return torchvision's loader of some images."""
    t = torchvision.transforms
    steps = [t.Resize(SIZE), t.CenterCrop(SIZE), t.ToTensor(), t.Normalize([0.5] * 3, [0.25] * 3)]
    images = torchvision.datasets.ImageFolder(root, t.Compose(steps))
    return DataLoader(Subset(images, rows), BATCH, num_workers=workers)


def speed(batches: Callable[[], Iterable], count: int) -> float:
    """Return images a second."""
    start = time.perf_counter()
    for _ in batches():
        pass
    return count / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--pixels", type=int, default=320)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), given.images, given.pixels)
        line = ["data=image_folder", f"data.root={folder}", f"data.size={SIZE}", "model=cnn",
                "data.memory_gib=0", f"data.workers={given.workers}"]  # fmt: skip
        train = build.data(command.checked(line)).train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        loader = peer(Path(folder), train.rows[order].tolist(), given.workers)
        ways = {
            "knobs": lambda: train.batches([*order.split(BATCH)]),
            "torchvision": lambda: loader,
        }
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, batches in ways.items():
                speeds[name].append(speed(batches, len(train)))
    for name, found in speeds.items():
        spread = f"{min(found):,.0f} .. {max(found):,.0f}"
        print(f"{name:12} {statistics.median(found):8,.0f} images a second ({spread})")
    ratio = statistics.median(a / b for a, b in zip(*speeds.values(), strict=True))
    print(f"knobs / torchvision {ratio:.2f}, the median of {given.rounds} rounds")


if __name__ == "__main__":
    main()
