"""Folders that older versions of knobs left (tests/old/<commit>) read, go on and report as ever.

681e2c3, of schema 1: a run; a run killed in its tenth epoch of 12; a grid of 8 killed in its sixth
run; a search of 6 killed in its fifth.
"""

import json
import shutil

import pytest
import torch
from conftest import REPO
from trained import train_py

import knobs
from knobs import ledger, record
from knobs.identity import identity
from knobs.report.read import read_sweep

OLD = REPO / "tests" / "old" / "681e2c3"
RUNS = sorted(path.parent for path in OLD.rglob("config.json"))
GRID = ["-m", "model.width=8", "tracking=local", "training.epochs=3", "optimizer=adam,rprop",
        "optimizer.lr=1e-2,1e-1", "seed=0,1", "hydra.sweep.dir=grid"]  # fmt: skip
SEARCH = ["-m", "model.width=8", "tracking=local", "training.epochs=2", "hydra/sweeper=search",
          "search.runs=6", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweep.dir=search",
          "hydra/launcher=basic"]  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """A copy of the old folders."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("run", RUNS, ids=lambda p: str(p.relative_to(OLD)))
def test_an_old_run_reads_and_keeps_its_identity(run):
    about = record.read_config(run)
    assert "schema" not in about
    assert about["config"]["training"]["gradient_accumulation_steps"] == 1
    assert "accumulate" not in about["config"]["training"]
    assert identity(about["config"]) == about["identity"]
    assert ledger.holds(run, about["config"])
    rows = record.read_metrics(run)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))


def test_the_weights_of_an_old_run_load():
    net = knobs.load(OLD / "run")
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert not net.training


def test_a_killed_old_run_goes_on_to_the_end_it_would_have_had(old):
    done = train_py(old, "resume=killed")
    assert done.returncode == 0, done.stderr
    rows = record.read_metrics(old / "killed")
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    # As the code of then went on; another processor rounds a little otherwise.
    assert rows[-1]["train/loss"] == pytest.approx(END, rel=1e-3)
    assert record.read_config(old / "killed")["schema"] == record.SCHEMA
    names = {path.name for path in (old / "killed" / "checkpoints").iterdir()}
    assert {"last.pt", "last.safetensors", "manifest.json"} <= names
    again = train_py(old, "resume=killed", "training.epochs=13")
    assert again.returncode == 0, again.stderr
    assert len(record.read_metrics(old / "killed")) == 13


def test_an_old_grid_goes_on_with_what_is_missing(old):
    done = train_py(old, *GRID)
    assert done.returncode == 0, done.stderr
    assert "5 runs ended before and left alone" in done.stdout
    assert "1 run begun before, continued" in done.stdout
    for n in range(8):
        assert record.read_summary(old / "grid" / str(n))["status"] == "finished"
        assert [r["epoch"] for r in record.read_metrics(old / "grid" / str(n))] == [1, 2, 3]
    for n in range(5):  # as they were
        for name in ("metrics.jsonl", "summary.json", "config.json"):
            assert (old / f"grid/{n}/{name}").read_bytes() == (
                OLD / f"grid/{n}/{name}"
            ).read_bytes()
    again = train_py(old, *GRID)
    assert (again.returncode, "8 runs ended before" in again.stdout) == (0, True)


def test_an_old_search_goes_on_with_its_budget(old):
    done = train_py(old, *SEARCH)
    assert done.returncode == 0, done.stderr
    searched = read_sweep([old / "search"])
    trials = [run for run in searched.runs if run.role in ("default", "search")]
    assert len(trials) == 6
    assert all(run.ok for run in trials)
    for n in range(4):
        assert (old / f"search/{n}/summary.json").read_bytes() == (
            OLD / f"search/{n}/summary.json"
        ).read_bytes()


def test_a_folder_is_held_against_its_trial(old):
    """Another run's folder in a trial's place would be told to the search as the trial's result."""
    shutil.rmtree(old / "search" / "4")
    shutil.copytree(old / "search" / "0", old / "search" / "4")
    done = train_py(old, *SEARCH)
    assert done.returncode == 2
    assert "search/4: its config.json is not that of its trial; move it away" in done.stderr
    shutil.rmtree(old / "search" / "4")
    assert train_py(old, *SEARCH).returncode == 0


def test_old_sweeps_report(old):
    grid, search = read_sweep([old / "grid"]), read_sweep([old / "search"])
    assert (len(grid.runs), len(search.runs)) == (6, 5)
    assert [run.status for run in grid.runs] == ["finished"] * 5 + ["interrupted"]
    assert search.study is not None
    knobs.report(old / "search")


def test_a_record_of_a_newer_knobs_is_refused(old):
    path = old / "killed" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(record.NewerSchema, match="has schema 99, this knobs reads 4; update knobs"):
        record.read_config(old / "killed")
    (old / "grid" / "sweep.json").write_text('{"schema": 99}')
    done = train_py(old, *GRID)
    assert (done.returncode, "update knobs" in done.stderr) == (1, True)


END = 1.1073761335772796
