"""hydra/launcher=slurm: groups of jobs on workers, through submitit; here `debug` and `local`."""

import csv
import dataclasses
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TRAIN
from injected import command
from safetensors.numpy import load_file
from trained import ENV

from knobs.record import read_metrics, read_summary
from knobs.storage import of_line
from knobs.training import session

pytest.importorskip("submitit", reason="hydra/launcher=slurm needs the extra: submitit")
SWEEPS = Path("outputs/sweeps")
DEBUG = ["hydra/launcher=slurm", "hydra.launcher.cluster=debug"]
LOCAL = ["hydra/launcher=slurm", "hydra.launcher.cluster=local"]
GRID = ["tracking=local", "training.epochs=3", "optimizer=adam,sgd", "optimizer.lr=3e-3,1e-2",
        "seed=0,1"]  # fmt: skip


def leaderboard(folder):
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_alike(a, b, runs):
    """Records of two sweeps: in float64 equal to 1e-8, the leaderboard but for seconds."""
    assert leaderboard(a) == leaderboard(b)
    for number in map(str, range(runs)):
        mine, other = read_summary(a / number), read_summary(b / number)
        for key in ("status", "best_epoch", "epochs", "steps", "config_hash"):
            assert mine[key] == other[key]
        rows = read_metrics(a / number), read_metrics(b / number)
        for row, same in zip(*rows, strict=True):
            numbers = {k: v for k, v in row.items() if isinstance(v, float) and "second" not in k}
            assert numbers == pytest.approx({k: same[k] for k in numbers}, rel=1e-8, abs=1e-12)
        weights = (load_file(f / number / "checkpoints" / "best.safetensors") for f in (a, b))
        for mine, other in zip(*(sorted(w.items()) for w in weights), strict=True):
            assert mine[0] == other[0]
            assert mine[1].dtype == "float64"
            assert abs(mine[1] - other[1]).max() <= 1e-8 * max(1, abs(other[1]).max())


@pytest.fixture
def float64(monkeypatch):
    """Every run of a sweep in this process has weights and data in float64."""
    whole, casts = session.assemble, {}

    def split(part, dtype):
        cast = [v.to(dtype) if v.is_floating_point() else v for v in (part.x, part.y)]
        return dataclasses.replace(part, x=cast[0], y=cast[1])

    def cast(data, dtype):
        if (id(data), dtype) not in casts:
            parts = {n: split(getattr(data, n), dtype) for n in ("train", "val", "test")}
            casts[id(data), dtype] = dataclasses.replace(data, **parts), data  # which stays
        return casts[id(data), dtype][0]

    def assemble(config, data, device):
        run = whole(config, cast(data, torch.float32), device)
        run.model.to(torch.float64)
        run.data, run.loss = cast(run.data, torch.float64), run.loss.to(torch.float64)
        return run

    monkeypatch.setattr(session, "assemble", assemble)


def test_records_and_leaderboard_are_those_of_a_local_sweep(sweep, tmp_path, float64):
    args = [*GRID, "sweep=s"]
    assert sweep(*args, cwd="stack")[0] == 0
    code, told = sweep(*args, *DEBUG, cwd="workers")
    assert code == 0, told
    assert "8 runs in 2 groups for 2 workers" in told
    stack, workers = (tmp_path / cwd / SWEEPS / "s" for cwd in ("stack", "workers"))
    assert_alike(workers, stack, 8)
    mode = stat.S_IMODE((workers / "workers" / "submitit").stat().st_mode)
    assert oct(mode) == "0o700"
    assert sorted(p.name for p in (workers / "groups").iterdir()) == ["00000.json", "00001.json"]
    shared = {p.name for p in workers.iterdir() if p.is_file()}
    assert shared == {"leaderboard.csv", "multirun.yaml", "sweep.json"}  # one writer: the driver
    assert sweep(*args, *DEBUG, cwd="workers")[0] == 0  # again: nothing to do
    assert sorted(p.name for p in (workers / "groups").iterdir()) == ["00000.json", "00001.json"]


# ---------------------------------------------------------------------- processes
EPOCHS = 200
LONG = ["-m", *LOCAL, "tracking=local", "sweep=s", f"training.epochs={EPOCHS}", "optimizer.lr=1e-3,3e-3",
        "seed=0,1"]  # fmt: skip


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def begins(folder):
    """Group -> process ids of the workers that began it, in order."""
    told = {}
    for file in sorted((folder / "workers").glob("*.jsonl")):
        lines = file.read_bytes().splitlines()
        told[file.stem] = [
            of_line(line)["begins"]["pid"] for line in lines if line.startswith(b'{"begins"')
        ]
    return told


def under_way(folder, rows=5):
    """Whether each run has some epochs behind it, and a checkpoint."""
    runs = [folder / str(n) for n in range(4)]
    return all(
        (run / "metrics.jsonl").exists()
        and len((run / "metrics.jsonl").read_text().splitlines()) >= rows
        and [*run.glob("checkpoints/last.*")]
        for run in runs
    )


def driver(cwd):
    with (cwd / "told.txt").open("a") as told:
        return subprocess.Popen([sys.executable, TRAIN, *LONG], cwd=cwd, env=ENV,
                                stdout=told, stderr=told, start_new_session=True)  # fmt: skip


def assert_each_row_once(folder):
    for number in range(4):
        assert read_summary(folder / str(number))["status"] == "finished"
        rows = read_metrics(folder / str(number))
        assert [row["epoch"] for row in rows] == [*range(1, EPOCHS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM", "SIGKILL"])
def test_a_worker_that_is_ended_goes_on(name, tmp_path):
    """SIGUSR2: time limit or preemption, submitit sends it again; else the driver does."""
    process, folder = driver(tmp_path), tmp_path / SWEEPS / "s"
    until(lambda: under_way(folder))
    os.kill(begins(folder)["00000"][0], getattr(signal, name))
    assert process.wait(240) == 0, (tmp_path / "told.txt").read_text()
    assert_each_row_once(folder)
    assert {group: len(pids) for group, pids in begins(folder).items()} == {"00000": 2, "00001": 1}
    told = (tmp_path / "told.txt").read_text()
    assert ("sent again" in told) == (name != "SIGUSR2")
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_driver_that_dies_is_followed_by_the_same_command(tmp_path):
    process, folder = driver(tmp_path), tmp_path / SWEEPS / "s"
    until(lambda: under_way(folder))
    os.killpg(process.pid, 0)
    process.kill()
    process.wait()
    second = driver(tmp_path)
    assert second.wait(240) == 0, (tmp_path / "told.txt").read_text()
    told = (tmp_path / "told.txt").read_text()
    assert "2 groups of before under way: followed" in told
    assert_each_row_once(folder)
    assert {group: len(pids) for group, pids in begins(folder).items()} == {"00000": 1, "00001": 1}
    assert leaderboard(folder)
