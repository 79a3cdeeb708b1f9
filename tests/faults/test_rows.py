"""Code of one run's own that ends the process, or kills it, costs that run alone."""

import json

import pytest
from forked import Forked
from injected import assert_clean, faults

from knobs.record import SUMMARY, read_summary, sealed, write
from knobs.sweep import deaths

FOLDER = "outputs/sweeps/s"
OWN = '''
"""A loss and a metric of one's own that fail where the outputs are large: with a large rate."""
import os, signal, sys
from torch.nn import functional as F

class Odd(BaseException):
    pass

def fail(outputs, where):
    if os.environ.get("WHERE") != where or outputs.detach().abs().max() < 50:
        return
    how = os.environ["HOW"]
    if how == "SystemExit":
        sys.exit(3)
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if how == "Odd":
        raise Odd("odd")
    if how == "ValueError":
        raise ValueError("wrong")
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    os._exit(3)

def loss(outputs, targets):
    fail(outputs, "loss")
    return F.cross_entropy(outputs, targets, reduction="none")

def metric(outputs, targets):
    fail(outputs, "metric")
    return 1.0
'''
LOSS = "_target_: ownlab.loss\n_partial_: true\ntasks: [classification]\n"
METRIC = """
defaults:
  - default
  - _self_

own:
  mine:
    _target_: ownlab.metric
    _partial_: true
    mode: max             # min or max
"""
SWEEP = ["--config-dir", "conf", "-m", "sweep=s", "tracking=local", "training.device=cpu",
         "data=wine", "loss=own", "metrics=own", "optimizer=sgd", "training.epochs=3",
         "training.batch_size=64"]  # fmt: skip
RATES = "optimizer.lr=1e-3,10,2e-3,3e-3"
BAD = 1  # the number of the job with the large rate


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A process that forks sweeps which may use the code above; and a folder with its YAML files."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "ownlab.py").write_text(OWN)
    from conftest import REPO

    with Forked(KNOBS_ALLOW="ownlab.", PYTHONPATH=f"{REPO / 'src'}:{folder}") as run:
        yield run


@pytest.fixture
def sweep(own, tmp_path):
    """Run the sweep in a folder of its own; how often is up to the test."""

    def run(name, *words, how="", where="loss"):
        folder = tmp_path / name
        for group, text in (("loss", LOSS), ("metrics", METRIC)):
            (folder / "conf" / group).mkdir(parents=True, exist_ok=True)
            (folder / "conf" / group / "own.yaml").write_text(f"# Of one's own.\n{text}")
        env = {"HOW": how, "WHERE": where if how else ""}
        code, told = own(folder, *SWEEP, *words, env=env, save=0)
        return code, told, folder / FOLDER

    return run


def ends(folder):
    runs = sorted(path for path in folder.iterdir() if path.name.isdecimal())
    return {
        int(run.name): read_summary(run)["status"]
        for run in runs
        if (run / "summary.json").exists()
    }


ONE_FAILED = {n: "failed" if n == BAD else "finished" for n in range(4)}


@faults(
    "code of a run's own calls for the end of the process, in a stack and alone",
    "that run fails at once, with its name and the fix; the others finish; exit code 10",
    quick=5,
    whole=16,
)
def test_a_run_that_exits_fails_alone(cases, tried, sweep):
    hows = ["SystemExit", "KeyboardInterrupt", "Odd", "ValueError"]
    every = [
        (how, where, launcher)
        for launcher in ("stack", "basic")
        for where in ("loss", "metric")
        for how in hows
    ]
    chosen = every if cases == len(every) else [every[i] for i in (0, 1, 4, 6, 8)]
    assert len(chosen) == cases
    for how, where, launcher in chosen:
        name = f"{how}-{where}-{launcher}"
        words = [RATES, f"hydra/launcher={launcher}"]
        code, told, folder = sweep(name, *words, how=how, where=where)
        assert code == 10, told
        assert ends(folder) == ONE_FAILED, told
        if how != "ValueError":
            assert f"code of the run's own ended the process ({how}" in told
            assert "raise an error there instead" in told
        assert_clean(told, folder)
        tried()


@faults(
    "code of a run's own kills the process (os._exit, a segmentation fault), at every repeat",
    "the same command isolates it by halves and marks it failed; the others finish; exit code 10",
    quick=2,
    whole=4,
)
def test_a_run_that_kills_the_process_is_isolated(cases, tried, sweep):
    every = [("_exit", "stack"), ("segfault", "basic"), ("segfault", "stack"), ("_exit", "basic")]
    for how, launcher in every[:cases]:
        words = [RATES, f"hydra/launcher={launcher}"]
        lines = []
        for _ in range(8):
            code, told, folder = sweep(f"{how}-{launcher}", *words, how=how)
            lines += [line for line in told.splitlines() if "without a word" in line]
            if code == 10:
                break
            assert code in (3, -11), told
        # 4 together twice, 2 of them once, and it alone twice; after each a line.
        assert len(lines) == (5 if launcher == "stack" else 2), lines
        assert lines[-1] == f"run {BAD}: {deaths.ALONE}; failed"
        assert ends(folder) == ONE_FAILED
        assert read_summary(folder / str(BAD))["reason"] == deaths.ALONE
        assert_clean(told, folder)
        left = [path.name for path in folder.iterdir() if path.name.startswith(("under", "susp"))]
        assert left == []
        code, told, _ = sweep(f"{how}-{launcher}", *words, "retry_failed=true")  # mended
        assert code == 0, told
        assert ends(folder) == ONE_FAILED | {BAD: "diverged"}  # at a rate of 10, after its end
        tried()


@faults(
    "code of a trial's own kills the process of a search, at every repeat",
    "the trial is isolated and reported as failed; the search goes on to its end",
    quick=1,
)
def test_a_trial_that_kills_the_process_is_told_failed(cases, tried, sweep):
    words = ["hydra/sweeper=search", "search.method=grid", "search.width=2",
             "optimizer.lr=1e-3,10"]  # fmt: skip
    for _ in range(7):
        code, told, folder = sweep("search", *words, how="_exit")
        if code == 10:
            break
    assert code == 10, told
    assert sorted(ends(folder).values()) == ["failed", "finished"]
    journal = (folder / "trials.journal").read_text().splitlines()
    told_as = [a["status"] for row in map(json.loads, journal)
               if "status" in (a := row.get("user_attr") or {})]  # fmt: skip
    assert sorted(told_as) == ["failed", "finished"]
    assert cases == 1
    tried()


def test_deaths_after_which_there_was_progress_change_nothing():
    suspects, line = deaths._blamed([0, 1, 2], False, [])
    assert suspects == [{"runs": [0, 1, 2], "deaths": 1, "apart": False}]
    assert line.endswith("; going on as before")
    assert deaths._blamed([0, 1, 2], True, suspects)[0] == suspects  # however often
    halves, _ = deaths._blamed([0, 1, 2], False, suspects)
    assert [(u["runs"], u["deaths"], u["apart"]) for u in halves] == [
        ([0, 1], 1, True),
        ([2], 0, True),
    ]
    once, _ = deaths._blamed([2], False, halves)
    assert once == [halves[0], {"runs": [2], "deaths": 1, "apart": True}]
    twice, line = deaths._blamed([2], False, once)
    assert twice[1]["deaths"] == 2
    assert line == f"run 2: {deaths.ALONE}; failed"


def test_suspects_are_kept_and_struck_off_once_they_have_ended(tmp_path):
    units = [{"runs": [0, 1], "deaths": 1, "apart": False}]
    deaths._keep(tmp_path, units)
    assert deaths._suspects(tmp_path, tmp_path) == units
    deaths.forget(tmp_path)
    assert deaths._suspects(tmp_path, tmp_path) == units  # neither has ended
    for number in (0, 1):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number) / SUMMARY, sealed({"status": "finished"}))
    deaths.forget(tmp_path)
    assert not (tmp_path / deaths.SUSPECTS).exists()
