"""W&B for the runs of a stack: one process, a W&B run each, and no harm when it dies."""

import os
import signal
from pathlib import Path

import pytest
from wandb_server import WandbServer

from knobs.record import read_metrics, read_summary
from knobs.sweep import launch
from knobs.tracking.remote import Mirror

SWEEPS = Path("outputs/sweeps")

GRID = ["sweep=s", "optimizer=sgd", "optimizer.lr=0.1,1e30", "seed=0,1", "training.epochs=2"]


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A server of the tests' own, which W&B finds."""
    with WandbServer() as server:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        monkeypatch.delenv("WANDB_MODE")
        for name, value in (server.env | {"HOME": str(tmp_path / "home")}).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def mirrors(monkeypatch):
    """The mirrors of a sweep, once it has begun."""
    made = []

    class Kept(Mirror):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(launch, "Mirror", Kept)
    return made


def test_each_run_of_a_stack_is_a_wandb_run(online, sweep, tmp_path, mirrors):
    code, told = sweep(*GRID, "tracking.timeout=60", "tracking.group=evening")
    assert code == 0, told
    assert f"W&B {online.url}/me/knobs/runs/" in told
    assert "(and 3 more runs)" in told
    (mirror,) = mirrors
    assert mirror._process.wait(60) == 0
    folders = [tmp_path / SWEEPS / "s" / n for n in "0123"]
    arrived = {(r.config["optimizer"]["lr"], r.config["seed"]): r for r in online.runs.values()}
    assert len(online.runs) == len(arrived) == 4
    for folder, key in zip(folders, [(0.1, 0), (0.1, 1), (1e30, 0), (1e30, 1)], strict=True):
        run = arrived[key]
        assert run.history == read_metrics(folder)
        assert len(run.history) == (2 if key[0] < 1 else 0)
        assert run.summary["status"] == read_summary(folder)["status"]
        assert run.exit_code == (0 if key[0] < 1 else 5)
        assert run.about["groupName"] == "evening"


def test_a_mirror_that_dies_neither_ends_nor_holds_up_a_sweep(
    online,
    sweep,
    at_epoch,
    tmp_path,
    mirrors,
):
    def kill():
        os.kill(mirrors[0]._process.pid, signal.SIGKILL)
        mirrors[0]._process.wait()

    at_epoch(1, kill)
    code, told = sweep("sweep=s", "seed=0,1", "training.epochs=3", "hydra.launcher.width=1")
    assert code == 0, told
    early = "W&B's process ended early; the records are whole"
    assert f"W&B {early}  (and 1 more run)" in told
    assert [mirrors[0].line(run) for run in (1, 2)] == [early, early]  # one began after its death
    for n in "01":
        assert len(read_metrics(tmp_path / SWEEPS / "s" / n)) == 3
        assert read_summary(tmp_path / SWEEPS / "s" / n)["status"] == "finished"


def test_a_mirror_that_cannot_start_is_one_line(online, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("knobs.tracking.remote.sys.executable", str(tmp_path / "no-python"))
    code, told = sweep("sweep=s", "seed=0,1", "training.epochs=1")
    assert code == 0, told
    assert "W&B W&B's process did not start (" in told
    assert read_summary(tmp_path / SWEEPS / "s" / "1")["status"] == "finished"
