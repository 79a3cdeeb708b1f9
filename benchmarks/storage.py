"""Data in memory and on the disk: time of a batch, and of training from end to end.

    OMP_NUM_THREADS=1 python benchmarks/storage.py
    OMP_NUM_THREADS=1 python benchmarks/storage.py --rows 2000000 --columns 40 --rounds 9

A table of normal numbers, written as Parquet into a temporary folder, is read with
data.storage=memory and data.storage=map, in alternating rounds within one process. Printed: seconds
to read the table at first (map: converted); medians with the least and the most of seconds to read
it once more (map: verified), of seconds of an epoch of the default network, and of milliseconds to
gather a batch of 256 random rows. The bits of the weights after the epochs are compared.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from knobs import build, cache
from knobs.config import command
from knobs.data import Data
from knobs.training import loop
from knobs.training.setup import assemble

BATCH, GATHERED = 256, 400
PLACES = ("memory", "map")


def table(path: Path, rows: int, columns: int) -> None:
    """Write a table of numbers and a class."""
    import pandas as pd

    x = np.random.default_rng(0).normal(size=(rows, columns))
    frame = pd.DataFrame(x, columns=[f"c{i}" for i in range(columns)])
    frame.assign(y=np.where(x[:, 0] + x[:, 1] > 0, "up", "down")).to_parquet(path)


def gather(data: Data) -> float:
    """Return milliseconds a batch of random rows."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    indices = [*order.split(BATCH)][:GATHERED]
    start = time.perf_counter()
    for _ in data.train.batches(indices):
        pass
    return 1000 * (time.perf_counter() - start) / len(indices)


def shown(values: list[float]) -> str:
    """Return a median with the least and the most."""
    return f"{statistics.median(values):8.3f} ({min(values):.3f} .. {max(values):.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ[cache.VARIABLE] = str(Path(folder) / "cache")
        path = Path(folder) / "t.parquet"
        table(path, given.rows, given.columns)
        line = ["data=csv", f"data.path={path}", "data.task=classification", "data.target=y",
                "training.epochs=1", f"training.batch_size={BATCH}"]  # fmt: skip
        names = ("s to read", "s an epoch", "ms a batch")
        times = {name: {place: [] for place in PLACES} for name in names}
        weights = {}
        for _ in range(given.rounds):
            for place in PLACES:
                config = command.checked([*line, f"data.storage={place}"])
                cache._verified.clear()
                start = time.perf_counter()
                data = build.data(config)
                times["s to read"][place].append(time.perf_counter() - start)
                run = assemble(config, data, torch.device("cpu"))
                start = time.perf_counter()
                list(loop.fit(run))
                times["s an epoch"][place].append(time.perf_counter() - start)
                times["ms a batch"][place].append(gather(data))
                weights[place] = run.model.state_dict()
        first = {place: times["s to read"][place].pop(0) for place in PLACES}
        print("s at first  ", *(f"{place} {first[place]:.3f}" for place in PLACES))
        for what, by in times.items():
            ratio = statistics.median(by["map"]) / statistics.median(by["memory"])
            print(f"{what:12}", *(f"{p} {shown(by[p])}" for p in PLACES), f"ratio {ratio:.2f}")
        same = all(torch.equal(v, weights["map"][k]) for k, v in weights["memory"].items())
        print("the same bits:", same)


if __name__ == "__main__":
    main()
