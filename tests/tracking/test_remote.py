"""W&B for the runs of a stack: one process, a W&B run each, and no harm when it dies."""

import json
import os
import signal
import sys
from pathlib import Path

import processes
import pytest
from conftest import REPO
from wandb_server import WandbServer

from knobs.record import read_metrics, read_summary
from knobs.sweep import launch
from knobs.tracking.remote import MirrorProcess

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

    class Kept(MirrorProcess):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(launch, "MirrorProcess", Kept)
    return made


def test_each_run_of_a_stack_is_a_wandb_run(online, sweep, tmp_path, mirrors):
    code, told = sweep(
        *GRID, "tracking.timeout=60", "tracking.artifact=true", "tracking.group='an evening'"
    )
    assert code == 0, told
    assert f"W&B {online.url}/me/knobs/groups/an%20evening" in told
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
        assert run.about["groupName"] == "an evening"
        assert run.about["displayName"] == f"lr{key[0]:g}-seed{key[1]}"
        assert run.about["tags"] == ["digits", "mlp", "s"]
        assert run.about["jobType"] == "train"
        assert f"optimizer.lr={key[0]:g}" in run.about["notes"]
        assert run.config["choices"]["optimizer"] == "sgd"
        assert run.config["started"]["number"] == int(folder.name)
        assert run.summary["seconds"] == read_summary(folder)["seconds"]
    values = {arrived[0.1, s].about["name"]: arrived[0.1, s].summary["objective"] for s in (0, 1)}
    best = max(values, key=values.get)
    assert [name for name, run in online.runs.items() if "confusion" in run.summary] == [best]
    sent = [one for one in online.artifacts if one["artifactTypeName"] == "model"]
    aliases = [{alias["alias"] for alias in one["aliases"]} - {"latest"} for one in sent]
    assert {frozenset(a) for a in aliases} == {
        frozenset({name, "best"} if name == best else {name}) for name in values
    }


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
    early = "its process ended early; the records are whole"
    assert f"W&B {early}  (and 1 more run)" in told
    assert [mirrors[0].line(run) for run in (1, 2)] == [early, early]  # one began after its death
    for n in "01":
        assert len(read_metrics(tmp_path / SWEEPS / "s" / n)) == 3
        assert read_summary(tmp_path / SWEEPS / "s" / n)["status"] == "finished"


def test_without_an_account_a_stack_has_no_process_of_mirrors(online, sweep, mirrors, monkeypatch):
    monkeypatch.setattr("knobs.tracking.account.traced", lambda: False)
    code, told = sweep("sweep=s", "seed=0,1", "training.epochs=1")
    assert code == 0, told
    assert "W&B no account; log in" in told
    (mirror,) = mirrors
    assert mirror._process is None
    assert online.requests == []


def test_a_mirror_that_cannot_start_is_one_line(online, sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("knobs.tracking.remote.sys.executable", str(tmp_path / "no-python"))
    code, told = sweep("sweep=s", "seed=0,1", "training.epochs=1")
    assert code == 0, told
    assert "W&B its process did not start (" in told
    assert read_summary(tmp_path / SWEEPS / "s" / "1")["status"] == "finished"


# ------------------------------------------------------------------ mirrors of one's own
MINE = """
import json
from knobs.tracking import Mirror
class Table(Mirror):
    label = "table"
    def __init__(self, config, folder, earlier, *, file):
        self.path, self.rows = folder / file, list(earlier)
        if config["seed"] == 7:
            raise RuntimeError("no table today")
    def log(self, metrics):
        if len(self.rows) == 1 and self.path.name == "broken.csv":
            raise OSError("table full")
        self.rows.append(metrics)
    def end(self, summary, exit_code, checkpoint):
        self.rows.append({"objective": summary["objective"], "code": exit_code})
        assert checkpoint.name == "best.safetensors"
    def wait(self):
        self.path.write_text("\\n".join(map(json.dumps, self.rows)))
        return f"{len(self.rows)} rows"
"""


@pytest.fixture
def mine(tmp_path):
    """Run train.py in a folder that has a mirror of its own: one class and one YAML."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own" / "tracking").mkdir(parents=True)
    yaml = "# A table.\n_target_: mine.Table\nfile: table.csv  # word\n"
    (tmp_path / "own" / "tracking" / "table.yaml").write_text(yaml)

    def run(*words):
        env = os.environ | {
            "KNOBS_ALLOW": "mine.",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPO / "src")]),
        }
        command = [sys.executable, str(REPO / "train.py"), "--config-dir", "own", "tracking=table"]
        done = processes.run([*command, *words], tmp_path, env, timeout=180)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_mirror_of_ones_own_serves_runs_and_stacks_alike(mine, tmp_path):
    code, told = mine("training.epochs=2", "hydra.run.dir=solo")
    assert (code, "  table      3 rows" in told) == (0, True), told
    code, told = mine("-m", "sweep=s", "training.epochs=2", "seed=0,1")
    assert (code, "table 3 rows  (and 1 more run)" in told) == (0, True), told
    for folder in (tmp_path / "solo", *(tmp_path / SWEEPS / "s" / n for n in "01")):
        rows = [json.loads(line) for line in (folder / "table.csv").read_text().splitlines()]
        assert rows[:2] == read_metrics(folder)
        assert rows[2] == {"objective": read_summary(folder)["objective"]["value"], "code": 0}


def test_a_mirror_that_fails_is_one_line(mine, tmp_path):
    failed = "failed, the run's own record did not: "
    code, told = mine("training.epochs=3", "tracking.file=broken.csv", "hydra.run.dir=solo")
    assert (code, f"  table      {failed}OSError: table full" in told) == (0, True), told
    assert len(read_metrics(tmp_path / "solo")) == 3
    code, told = mine("-m", "sweep=s", "training.epochs=1", "seed=7,8")
    assert (code, f"{failed}RuntimeError: no table today" in told) == (0, True), told
    assert len((tmp_path / SWEEPS / "s" / "1" / "table.csv").read_text().splitlines()) == 2
    code, told = mine("tracking.fil=x")
    assert (code, "tracking.fil" in told) == (2, True)
