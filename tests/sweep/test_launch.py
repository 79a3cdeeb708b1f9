"""A sweep stops where its first runs all fail alike: the rule, and train.py -m in a process."""

import json
import os
import sys
from pathlib import Path

import processes
import pytest
from conftest import TRAIN

from knobs.errors import DataError
from knobs.record import CONFIG
from knobs.sweep.failing import alike, cause

FOLDER = Path("outputs/sweeps/s")
QUICK = ["data=wine", "training.epochs=2", "tracking=local", "training.device=cpu"]
# train.py in a process, where opening a run of one of these learning rates fails.
BROKEN = f"""
import os, runpy, sys
from knobs.training.session import Session
whole = Session.__init__
def opened(session, config, folder, *rest):
    if str(config["optimizer"]["lr"]) in os.environ["BROKEN"].split():
        raise RuntimeError(f"no luck with {{config['optimizer']['lr']}} in {{folder}}")
    whole(session, config, folder, *rest)
Session.__init__ = opened
sys.argv[0] = {TRAIN!r}
runpy.run_path({TRAIN!r}, run_name="__main__")
"""
RATES = "optimizer.lr=0.001,0.002,0.003,0.004,0.005"
ALL = "0.001 0.002 0.003 0.004 0.005"


def sweep(folder, broken, *words):
    """Exit code and output of train.py -m, in which runs of some learning rates fail."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "BROKEN": broken}
    command = [sys.executable, "-c", BROKEN, "-m", "sweep=s", *QUICK, *words]
    done = processes.run(command, folder, environment)
    return done.returncode, done.stdout + done.stderr


def begun(folder):
    """The numbers of the runs that have a folder, and of those that were recorded."""
    runs = [path for path in (folder / FOLDER).iterdir() if path.name.isdecimal()]
    recorded = [run.name for run in runs if (run / CONFIG).exists()]
    return "".join(sorted(run.name for run in runs)), "".join(sorted(recorded))


def test_failures_are_alike_up_to_numbers_and_paths():
    a = DataError("/data/1/a.csv: row 12 has 3 cells, must have 4.5")
    b = DataError("/data/2/b.csv: row 9 has 5e-3 cells, must have 4")
    assert cause(a) == cause(b) == "DataError: / row 0 has 0 cells, must have 0"
    assert cause(a) != cause(DataError("/data/a.csv: column 3 is missing"))
    assert cause(RuntimeError("x")) != cause(ValueError("x"))
    assert cause(RuntimeError("x\nat 1")) == cause(RuntimeError("x\nat line two"))


def test_a_sweep_stops_where_three_or_a_whole_stack_failed_alike_and_none_did_not():
    x, y = RuntimeError("x 1"), RuntimeError("y")
    same = RuntimeError("x 2")
    assert not alike([])
    assert not alike([x, same])
    assert alike([x, same, x])
    assert not alike([x, y, x])
    assert not alike([None, x, x, x])  # one has finished: the rule is over
    assert not alike([x, x, None])
    assert alike([x, same], whole_stack=True)
    assert not alike([x], whole_stack=True)  # one run is no stack
    assert not alike([x, None], whole_stack=True)


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_sweep_stops_after_three_and_goes_on_when_told_to(tmp_path, launcher):
    words = [RATES, f"hydra/launcher={launcher}"]
    code, told = sweep(tmp_path, ALL, *words)
    assert code == 10, told
    line = "stopped: the first 3 runs failed alike (no luck with 0.001 in "
    assert line in told
    assert "; mend it, or go on with keep_going=true; 2 not started" in told
    assert begun(tmp_path) == ("012", "")
    code, told = sweep(tmp_path, ALL, *words, "keep_going=true")
    assert code == 10
    assert "stopped" not in told
    assert begun(tmp_path)[0] == "01234"
    code, told = sweep(tmp_path, "", *words)  # mended
    assert code == 0, told
    assert begun(tmp_path) == ("01234", "01234")


def test_runs_that_fail_otherwise_or_after_one_that_does_not_stop_nothing(tmp_path):
    code, told = sweep(tmp_path, "0.002 0.003 0.004 0.005", RATES)
    assert code == 10
    assert "stopped" not in told
    assert begun(tmp_path) == ("01234", "0")


def test_a_search_stops_too_and_confirms_nothing(tmp_path):
    values = ",".join(f"0.00{i}" for i in range(1, 9))
    words = ["hydra/sweeper=search", f"optimizer.lr={values}", "search.runs=8",
             "search.method=random", "search.width=2"]  # fmt: skip
    code, told = sweep(tmp_path, values.replace(",", " "), *words)
    assert code == 10, told
    assert "runs failed alike (no luck with 0.00" in told
    count = len(begun(tmp_path)[0])
    assert count <= 3
    places = json.loads((tmp_path / FOLDER / "study.json").read_text())["runs"]
    assert {place["role"] for place in places.values()} <= {"default", "search"}
    code, told = sweep(tmp_path, "", *words)
    assert code in (0, 10), told
    assert len(begun(tmp_path)[1]) >= 8 - count
    assert "stopped" not in told


def test_keep_going_belongs_to_a_sweep(tmp_path):
    command = [sys.executable, TRAIN, *QUICK, "keep_going=true"]
    done = processes.run(command, tmp_path)
    assert done.returncode == 2
    assert "keep_going=true: belongs to a grid; put -m first" in done.stderr
