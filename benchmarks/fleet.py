"""Simulated workers: what one driver, one index and one disk can take before each breaks.

    OMP_NUM_THREADS=1 python benchmarks/fleet.py --workers 10 100 1000 --jobs 10000 100000

Of --workers: knobs' own driver (workers/driver.py) follows workers that are simulated in this
process. Each is a group under way; between two looks each ends a run, and writes what a real worker
writes of it: config.json, summary.json, lines of its own. Printed are the driver's CPU milliseconds
a run and a look, those of the simulation left out, and how many workers whose runs take a minute
one driver can follow. Of --jobs: sweep.json written and read. Last: appends to one journal, each
synced, a second; and the results of runs read from folders, or from one index. JSON lines.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from knobs import ledger, record, storage
from knobs.config import command
from knobs.identity import identity
from knobs.signals import stop_signals
from knobs.sweep.jobs import Job
from knobs.workers import groups, wire
from knobs.workers.driver import Driver
from knobs.workers.engine import Options

RUNS = 4  # of each worker
FILES = 1000  # results that are read in two ways
SYNCS = 200


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--jobs", type=int, nargs="*", default=[10_000, 100_000])
    given = parser.parse_args()
    config = command.checked(["tracking=local", "data=digits", "model.width=8"])
    with tempfile.TemporaryDirectory() as place:
        for i, workers in enumerate(given.workers):
            print(json.dumps(followed(Path(place, f"sweep{i}"), config, workers)), flush=True)
        for jobs in given.jobs:
            print(json.dumps(index(Path(place), jobs)), flush=True)
        print(json.dumps(disk(Path(place))), flush=True)


def cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


class Simulated:
    """An engine whose workers each end a run between two looks of the driver."""

    name, keeps, inside = "simulated", False, False

    def __init__(self, folder: Path, config: dict, workers: int):
        self.folder, self.config, self.room, self.said = folder, config, workers, []
        self.left: dict[str, list[int]] = {}  # job: the runs that it has not ended
        self.looks, self.own = 0, 0.0  # CPU seconds of the simulation

    def start(self, folder: Path, sent: list[tuple[str, str]]) -> list[str]:
        self.left |= {name: groups.numbers_of(folder, name) for name, _ in sent}
        return [name for name, _ in sent]

    def ended(self, ids: list[str], _: float) -> dict[str, str]:
        self.looks += 1
        self.own += cpu(lambda: [self._end_one(name) for name in ids if self.left[name]])
        return {name: "" for name in ids if not self.left[name]}

    def stop(self, ids: list[str]) -> None:
        for name in ids:
            self.left[name] = []

    def alive(self, ids: list[str]) -> set[str]:
        return {*ids}

    def _end_one(self, name: str) -> None:
        number = self.left[name].pop()
        run = self.folder / str(number)
        result(run, self.config | {"seed": number})
        told = groups.told_path(self.folder, name)
        best = {str(number): ["accuracy", "max", 0.5, 1]}
        wire.tell(told, {"steps": 3, "best": best})
        wire.tell(told, {"ended": number, "status": "finished", "fault": ""})


def result(run: Path, config: dict) -> None:
    """Write the files by which a run is known to have ended."""
    run.mkdir(parents=True)
    about = {"schema": record.SCHEMA, "identity": identity(config), "config": config}
    objective = {"metric": "accuracy", "mode": "max", "value": 0.5}
    summary = {"status": "finished", "epochs": 1, "objective": objective}
    storage.write(run / record.CONFIG, record.sealed(about))
    storage.append(run / record.METRICS, b"")
    storage.write(run / record.SUMMARY, record.sealed({"schema": record.SCHEMA} | summary))


def followed(folder: Path, config: dict, workers: int) -> dict[str, Any]:
    """Return what a driver takes that follows so many workers to their ends."""
    runs = workers * RUNS
    jobs = {n: Job(n, [f"seed={n}"], config | {"seed": n}) for n in range(runs)}
    job = {"config_name": "config"}
    master = OmegaConf.create({"hydra": {"overrides": {"hydra": []}, "job": job}})
    command.LAST.composer = SimpleNamespace(folders=[])  # no worker reads its group
    nothing = lambda *_: None  # noqa: E731
    screen = SimpleNamespace(note=nothing, add=nothing, steps=nothing, epoch=nothing, ended=nothing)
    engine = Simulated(folder, config, workers)
    (folder / groups.WORKERS).mkdir(parents=True)
    with stop_signals() as stopped:
        driver = Driver(folder, engine, Options(workers=workers), master, screen, stopped, None)
        took = cpu(lambda: driver.run(jobs)) - engine.own
    assert len(driver.returns) == runs
    most = round(60 * runs / took)  # workers of runs that take a minute each
    told = {
        "ms a run": round(1000 * took / runs, 2),
        "ms a look": round(1000 * took / engine.looks),
    }
    return {"workers": workers, "runs": runs} | told | {"most workers of 60 s runs": most}


def index(folder: Path, jobs: int) -> dict[str, Any]:
    """Return what sweep.json of so many jobs takes."""
    entries = {n: ledger.Entry((f"seed={n}", "optimizer.lr=0.1"), f"{n:016x}") for n in range(jobs)}
    writes = cpu(lambda: ledger.Ledger("x", entries).write(folder))
    reads = cpu(lambda: ledger.read(folder))
    size = (folder / record.LEDGER).stat().st_size
    told = {"MB": round(size / 1e6, 1), "write s": round(writes, 2), "read s": round(reads, 2)}
    return {"jobs": jobs} | told


def disk(folder: Path) -> dict[str, Any]:
    """Return synced appends a second, and milliseconds to read a result in two ways."""
    journal, index = folder / "journal", folder / "index.jsonl"
    began = time.perf_counter()
    for i in range(SYNCS):
        storage.append(journal, storage.as_line({"op": i}))
        storage.sync_file(journal)
    syncs = SYNCS / (time.perf_counter() - began)
    runs = [folder / f"run{i}" for i in range(FILES)]
    for run in runs:
        result(run, {"seed": 0})
        storage.append(index, storage.as_line(record.read_summary(run)))
    apart = cpu(lambda: [record.read_summary(run) for run in runs])
    whole = cpu(lambda: storage.rows(index, lambda row: row["objective"]["value"], ""))
    told = {"folders": round(1000 * apart / FILES, 3), "index": round(1000 * whole / FILES, 3)}
    return {"synced appends a second": round(syncs), "ms a result": told}


if __name__ == "__main__":
    main()
