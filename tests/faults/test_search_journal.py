"""A search's journal and study.json, lost, damaged or another's; trials that failed, reopened."""

import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from injected import assert_clean, assert_no_orphans, command, faults
from trained import ENV, TRAIN

from knobs.errors import DataError, LockedError
from knobs.record import read_study, read_summary
from knobs.search.recovery import Runs
from knobs.search.space import Choice, Range, Space
from knobs.search.trials import JOURNAL, Search

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
QUICK = ["tracking=local", "training.epochs=1", "model.width=8", "sweep=s"]
SEARCH = ["hydra/sweeper=search", LR, "optimizer=adam,sgd", *QUICK]
FOLDER = Path("outputs/sweeps/s")
RECORDS = ("config.json", "metrics.jsonl", "summary.json")


def stored(folder=FOLDER):
    """The journal's trials: run -> (params, value, status, phase)."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    trials = [t for s in storage.get_all_studies() for t in storage.get_all_trials(s._study_id)]
    about = {t.user_attrs["run"]: t for t in trials}
    return {
        n: (t.params, t.value, t.user_attrs.get("status"), t.user_attrs["phase"])
        for n, t in sorted(about.items())
    }


def records(folder=FOLDER):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.name in RECORDS}


def damage(name, whole, other):
    """The bytes of a damaged journal; None where it is lost."""
    lines = whole.splitlines(keepends=True)
    return {
        "lost": None,
        "empty": b"",
        "cut": whole[: len(whole) // 4],
        "its first lines alone": b"".join(lines[: len(lines) // 4]),
        "a line lost": b"".join(lines[:5] + lines[6:]),
        "noise": bytes(range(256)),
        "JSON of another kind": b"[]\n{}\nnull\n",
        "nested deeply": b"[" * 10_000 + b"\n",
        "another search's values": other,
        "another's, longer": other + b"".join(other.splitlines(keepends=True)[2:]),
    }[name]


KINDS = ["lost", "another search's values", "its first lines alone", "empty", "cut", "a line lost",
         "noise", "JSON of another kind", "nested deeply", "another's, longer"]  # fmt: skip


@faults(
    "a search's journal lost, damaged or another's: the same command",
    "made anew from the records of the runs: nothing trains twice, no trial has another's result",
    quick=1,
    whole=len(KINDS),
)
def test_a_journal_is_made_anew_from_the_runs(sweep, tmp_path, tried, cases):
    few = [*SEARCH, "search.method=random", "search.runs=3"]
    assert sweep(*few, "search.seed=3", cwd="other")[0] == 0
    other = (tmp_path / "other" / FOLDER / JOURNAL).read_bytes()
    assert sweep(*few, cwd="a")[0] == 0
    whole, runs, study = (FOLDER / JOURNAL).read_bytes(), records(), read_study(FOLDER)["runs"]
    before = stored()
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    for name in KINDS[:cases]:
        shutil.rmtree(tmp_path / "a")
        shutil.copytree(tmp_path / "copy", tmp_path / "a")
        path, text = tmp_path / "a" / FOLDER / JOURNAL, damage(name, whole, other)
        path.unlink() if text is None else path.write_bytes(text)
        code, told = sweep(*few, cwd="a")
        assert code == 0, told
        # Its first half may be what a kill leaves: all were asked for, and none had told its end.
        if name != "its first half alone":
            assert f"{JOURNAL} " in told, told
            assert "made anew from 3 runs" in told, told
        assert_clean(told, tmp_path / "a")
        assert records() == runs, name
        assert stored() == before, name
        assert read_study(FOLDER)["runs"] == study, name
        tried()


# ------------------------------------------------------------------ folders without training
SPACE = Space({
    "x": {"lr": Range(1e-4, 1e-1, True), "model.width": Range(2, 64, False, integer=True)},
    "y": {"optimizer": Choice(("adam", "sgd", None))},
})  # fmt: skip


def opened(folder, **options):
    runs = Runs({}, lambda one: True, True)
    return Search(folder, SPACE, **{"method": "random", "budget": 12, "runs": runs} | options)


def value(values):
    return sum(len(str(v)) for v in values.values()) / 7


def write_run(folder, trial, status="finished"):
    """What a run of a trial leaves, as far as a search looks at it."""
    run = folder / str(trial.run)
    run.mkdir()
    choices = {"optimizer": trial.values["optimizer"]} if trial.arm == "y" else {}
    width = {"model": {"width": trial.values.get("model.width")}}
    document = {
        "run": {"number": trial.run, "role": "search", "arm": trial.arm, "phase": trial.phase},
        "choices": choices,
        "config": {"lr": trial.values.get("lr")} | width,
    }
    end = {"status": status, "objective": {"value": value(trial.values)}, "epochs": 1, "seconds": 6}
    (run / "config.json").write_text(json.dumps(document))
    (run / "summary.json").write_text(json.dumps(end))


def searched(folder, runs=8):
    """A folder in which so many of 12 trials have ended, one of them diverged, and two began."""
    with opened(folder) as search:
        for trial in search.ask(runs):
            status = "diverged" if trial.run == 3 else "finished"
            write_run(folder, trial, status)
            search.tell(trial, value(trial.values), status, 1)
        search.ask(2)
    return stored(folder)


def flips(text, count, seed):
    """The text with one bit flipped, so many times."""
    draw = random.Random(seed)
    for place in draw.sample(range(len(text)), count):
        yield text[:place] + bytes([text[place] ^ (1 << draw.randrange(8))]) + text[place + 1 :]


@faults(
    "a search's journal cut or with a flipped bit, anywhere",
    "every run that is recorded has its own values and result in it, and is not run again",
    quick=30,
    whole=1500,
)
def test_a_damaged_journal_gives_no_trial_anothers_result(tmp_path, tried, cases):
    before = searched(tmp_path)
    path = tmp_path / JOURNAL
    whole = path.read_bytes()
    cuts = random.Random(1).sample(range(len(whole)), cases // 3)
    for text in [*(whole[:n] for n in cuts), *flips(whole, cases - len(cuts), 2)]:
        path.write_bytes(text)
        with opened(tmp_path) as search:
            for trial in search.ask(12):
                if (
                    trial.run < 8
                ):  # handed out once more: then its values are its run's, see study.py
                    status = before[trial.run][2]
                    search.tell(trial, value(trial.values), status, 1)
        after = stored(tmp_path)
        assert {n: after[n] for n in range(8)} == {n: before[n] for n in range(8)}
        assert sorted(after) == list(range(len(after)))
        assert {p.name for p in tmp_path.iterdir() if p.is_file()} <= {
            JOURNAL,
            f"{JOURNAL}.damaged",
        }
        tried()


def test_a_journal_that_says_nothing_else_is_left_as_it_is(tmp_path):
    searched(tmp_path)
    before = (tmp_path / JOURNAL).read_bytes()
    with opened(tmp_path) as search:
        assert search.repaired == ""
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_a_journal_is_not_made_anew_beside_another_process(tmp_path):
    searched(tmp_path)
    whole = (tmp_path / JOURNAL).read_bytes()
    with opened(tmp_path):
        (tmp_path / JOURNAL).write_bytes(whole[: len(whole) // 5])
        with pytest.raises(LockedError, match="another process searches here"):
            opened(tmp_path)
    with opened(tmp_path) as search:
        assert "made anew from 8 runs" in search.repaired


def test_a_record_of_another_run_gives_no_trial_its_result(tmp_path):
    """A run that is not of this search takes no part; its number is not given out again."""
    before = searched(tmp_path)
    (tmp_path / JOURNAL).unlink()
    runs = Runs({}, lambda one: one.run != 2, True)
    with opened(tmp_path, runs=runs) as search:
        assert "is lost: made anew from 7 runs" in search.repaired
    assert stored(tmp_path) == {n: before[n] for n in range(8) if n != 2}


@faults(
    "trials of a search that failed, asked for again",
    "they run again with retry_failed=true, the others keep their results",
    quick=6,
)
def test_failed_trials_are_reopened_when_asked(tmp_path, tried, cases):
    with opened(tmp_path) as search:
        trials = search.ask(12)
        for trial in trials:
            if trial.run >= cases:  # the others failed before they had a folder
                write_run(tmp_path, trial)
            search.tell(trial, value(trial.values), "failed" if trial.run < cases else "finished")
    before = stored(tmp_path)
    with opened(tmp_path) as search:
        assert search.ask(12) == []
    with opened(tmp_path, retry=True) as search:
        again = search.ask(12)
        assert sorted(t.run for t in again) == list(range(cases))
        assert all(t.values == trials[t.run].values for t in again)
        for trial in again:
            search.tell(trial, value(trial.values), "finished", 1)
    after = stored(tmp_path)
    for run, (params, _, _, phase) in before.items():
        assert after[run] == (params, value(trials[run].values), "finished", phase)
        if run < cases:
            tried()


def test_a_search_whose_runs_all_failed_before_a_first_step(sweep, monkeypatch):
    """It says so each time, and exits 10; when the cause is mended, retry_failed=true runs them."""
    words = [*SEARCH, "search.method=random", "search.runs=2", "keep_going=true"]

    def missing(*_):
        raise DataError("table.csv: no such file")

    with monkeypatch.context() as broken:
        broken.setattr("knobs.sweep.launch.Session", missing)
        code, told = sweep(*words)
    line = "2 runs of the search failed before a first step; once that is mended, the same command"
    assert (code, line in told) == (10, True), told
    code, told = sweep(*words)
    assert (code, line in told) == (10, True), told
    assert not records()
    code, told = sweep(*words, "retry_failed=true")
    assert code == 0, told
    assert [status for _, _, status, _ in stored().values()] == ["finished", "finished"]
    assert {read_summary(FOLDER / str(n))["status"] for n in (0, 1)} == {"finished"}


@faults("a search on joblib's processes killed", "nothing trains twice, every trial has its run's result",
        quick=1, whole=3)  # fmt: skip
def test_a_search_on_joblibs_processes_goes_on_after_a_kill(cases, tmp_path, tried):
    pytest.importorskip(
        "hydra_plugins.hydra_joblib_launcher", reason="joblib's launcher is not installed"
    )
    words = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *SEARCH, "data=wine",
             "search.method=random", "search.runs=6"]  # fmt: skip
    for case in range(cases):
        cwd = tmp_path / str(case)
        cwd.mkdir()
        folder = cwd / FOLDER
        with (cwd / "out.txt").open("w") as out:
            search = subprocess.Popen([*TRAIN, *words], cwd=cwd, env=ENV | {"PYTHONWARNINGS": "ignore"},
                                      stdout=out, stderr=out, start_new_session=True)  # fmt: skip
            while len([*folder.glob("*/summary.json")]) < 1 + case and search.poll() is None:
                time.sleep(0.01)
            search.kill()
            search.wait()
        assert_no_orphans(
            search.pid, 60
        )  # a worker that has just begun imports torch before it looks
        done = {
            path: path.read_bytes()
            for run in folder.glob("*/summary.json")
            if read_summary(run.parent)["status"] == "finished"
            for path in (run, run.with_name("metrics.jsonl"), run.with_name("config.json"))
        }
        told = command(cwd, *words, env={"PYTHONWARNINGS": "ignore"}, timeout=300)
        assert "Traceback" not in (cwd / "out.txt").read_text()
        assert {path: path.read_bytes() for path in done} == done, told
        trials = stored(folder)
        runs = sorted(int(path.parent.name) for path in folder.glob("*/summary.json"))
        assert [*trials] == runs == [*range(6)]
        for number, (_, value, *_) in trials.items():
            assert value == read_summary(folder / str(number))["objective"]["value"]
        tried()
