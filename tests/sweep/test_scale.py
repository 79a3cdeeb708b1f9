"""Costs that must not grow with a sweep, as counts: never as times."""

import csv
import random
import sys

import processes
import pytest
from conftest import TRAIN
from omegaconf import OmegaConf
from optuna.trial import TrialState, create_trial

from knobs import record, storage
from knobs.config import check, command
from knobs.errors import CheckpointError
from knobs.search import journal, methods, minutes
from knobs.search.pruning import Pruner
from knobs.search.space import Range, Space
from knobs.search.trials import Search
from knobs.sweep import failing, jobs, timing

LR = Range(1e-4, 1e-1, log=True)


def test_25_seeds_are_one_check(monkeypatch):
    built = []
    monkeypatch.setattr(check, "dry_build", lambda config: built.append(1) or [])
    jobs, faults = command.check_overrides(["seed=range(0,25)"], grid=True)
    assert (len(jobs), faults, len(built)) == (25, [], 1)


def test_each_job_of_a_large_grid_is_checked():
    """There is no number of jobs from which on they run unchecked."""
    lines = ["training.epochs=1,0", "seed=range(0,4100)"]  # the first 4,100 are sound
    _, faults = command.check_overrides(lines, grid=True)
    assert len(faults) == 1
    assert "training.epochs=0" in faults[0]
    assert "4100, 4101" in faults[0]


@pytest.mark.parametrize(
    "config",
    [
        {"a": {"b": [1, {"c": None}], "s": "yes", "t": "é \u2028 x", "n": "1e3"}, "d": []},
        {"a": 1, "b": True, "c": 1.0, "d": "1", "e": {}, "f": "two\nlines", "g": "x" * 200},
        ["a=1", "b='x y'"],
        {},
        [],
    ],
)
def test_configs_are_written_as_omegaconf_writes_them(tmp_path, config):
    for _ in range(2):  # its sections are known by the second time
        jobs._write(tmp_path / "config.yaml", OmegaConf.create(config))
        wanted = OmegaConf.to_yaml(OmegaConf.create(config))
        assert (tmp_path / "config.yaml").read_text() == wanted


def test_sections_that_differ_in_a_type_alone_are_written_apart(tmp_path):
    for value in (1, 1.0, True, "1"):
        jobs._write(tmp_path / "config.yaml", OmegaConf.create({"a": {"b": value}}))
        read = OmegaConf.load(tmp_path / "config.yaml").a.b
        assert (type(read), read) == (type(value), value)


def test_a_job_s_config_is_checked_by_content(monkeypatch):
    built = []
    monkeypatch.setattr(check, "dry_build", lambda config: built.append(1) or [])
    for seed in range(5):  # each resolved anew, as each job of a sweep does
        config, _ = command.check_overrides([f"seed={seed}"])
        mine = {name: node for name, node in config[0].items() if name != "hydra"}
        built.clear()
        assert check.check_job(mine) == []
        assert len(built) == (seed == 0)
    wrong = mine | {"training": mine["training"] | {"epochs": True}}  # 1 == True
    assert "training.epochs" in str(check.check_job(wrong))


def filled(folder, count):
    """Return a search of which so many trials have ended."""
    search = Search(folder, Space({"": {"lr": LR}}), method="random", budget=10 * count)
    drawn = random.Random(0)
    for run in range(count):
        about = {"phase": "random", "run": run, "process": "x", "status": "finished", "epochs": 1}
        trial = create_trial(
            state=TrialState.COMPLETE,
            value=drawn.random(),
            params=methods.to_optuna({"lr": LR}, {"lr": LR.from_unit(drawn.random())}),
            distributions={"lr": methods.distribution(LR)},
            user_attrs=about | {"spans": minutes.begun([])},
        )
        search._storage.create_new_trial(search._arms[""], template_trial=trial)
    search.tell(search.ask()[0], 0.5)  # which looks at all of them
    return search


def test_an_ask_reads_what_is_new_alone(tmp_path, monkeypatch):
    counts = []
    for n in (20, 200):
        (folder := tmp_path / str(n)).mkdir()
        with filled(folder, n) as search:
            lines, seen = [], []
            read, values = journal._Checked.read_logs, methods.from_optuna

            def logs(self, start, read=read, lines=lines):
                for line in read(self, start):
                    lines.append(line)
                    yield line

            monkeypatch.setattr(journal._Checked, "read_logs", logs)
            monkeypatch.setattr(
                methods, "from_optuna", lambda *a, v=values, s=seen: s.append(1) or v(*a)
            )
            before = (folder / record.JOURNAL).stat().st_size
            for _ in range(3):
                search.tell(search.ask()[0], 0.5)
            monkeypatch.undo()
            counts.append((len(lines), len(seen)))
            assert (folder / record.JOURNAL).stat().st_size - before < 10_000
    assert counts[0] == counts[1]


def test_places_are_appended_and_read_with_study_json(tmp_path):
    storage.write(tmp_path / record.STUDY, record.sealed({"schema": 4, "runs": {"0": {"arm": ""}}}))
    whole, sizes = (tmp_path / record.STUDY).read_bytes(), []
    for run in (1, 2, 3):
        record.append_places(tmp_path, {run: {"arm": "a", "role": "search", "phase": "sobol"}})
        sizes.append((tmp_path / record.PLACES).stat().st_size)
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0]
    with (tmp_path / record.PLACES).open("ab") as file:
        file.write(b'{"run": 4, "arm"')  # a killed process
    record.append_places(tmp_path, {5: {"arm": "a", "role": "search", "phase": "gp"}})
    runs = record.read_study(tmp_path)["runs"]
    assert [*runs] == ["0", "1", "2", "3", "5"]
    assert runs["5"]["phase"] == "gp"
    assert (tmp_path / record.STUDY).read_bytes() == whole


def test_a_rung_reads_each_line_once_and_ranks_as_before(tmp_path, monkeypatch):
    parsed, of_line = [], storage.of_line
    monkeypatch.setattr(storage, "of_line", lambda line: parsed.append(1) or of_line(line))
    pruner, values, drawn = Pruner("asha", tmp_path), {}, random.Random(1)
    for run in range(60):
        values[run] = drawn.random()
        best = sorted(values.values(), reverse=True)[max(0, len(values) // 3 - 1)]
        stops = pruner.stops({run: values[run]}, 2, 40)
        assert stops == ({run} if len(values) >= 3 and values[run] < best else set())
    assert len(parsed) == 59


@pytest.mark.parametrize("keep", ["all", "best"])
def test_keep_best_leaves_the_best_weights_alone(tmp_path, keep):
    from knobs.config.command import checked
    from knobs.training.checkpoint import load
    from knobs.training.run import execute

    lines = ["tracking=local", "model.width=4", "training.epochs=2", f"training.keep={keep}"]
    outcome = execute(checked(lines), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert outcome.status == "finished"
    assert ("last.safetensors" in names) == (keep == "all")
    if keep == "best":
        fault = "trained with training.keep=best, which removes what a resume needs.*keep=all"
        with pytest.raises(CheckpointError, match=fault):
            execute(checked([*lines, f"resume={tmp_path / 'run'}"]), tmp_path / "run")
        assert names == {"best.safetensors", "manifest.json"}
        assert not record.resumable(tmp_path / "run")
    assert sum(p.numel() for p in load(tmp_path / "run").parameters()) > 0


def blocks(folder):
    """Bytes of a folder in blocks of 4 kB, but for checkpoints that a slow run leaves twice."""
    paths = [folder, *(path for path in folder.rglob("*") if ".previous." not in path.name)]
    return sum(-(-path.stat().st_size // 4096) * 4096 if path.is_file() else 4096 for path in paths)


@pytest.mark.parametrize(
    "words",
    [
        ["model.width=8", "model.depth=1"],
        ["model.width=8", "model.depth=1", "training.keep=best"],
        ["model.width=512", "optimizer=sgd"],
        ["model.width=512", "optimizer=adam", "training.ema=0.9"],
        ["training.checkpoint=false", "training.epochs=20"],
    ],
    ids=" ".join,
)
def test_a_run_takes_about_as_much_on_disk_as_its_sweep_says(sweep, tmp_path, monkeypatch, words):
    said, real = [], timing.disk_bytes
    monkeypatch.setattr(timing, "disk_bytes", lambda *args: said.append(real(*args)) or said[-1])
    quick = ["tracking=local", "data=digits", "training.epochs=2", "training.batch_size=512"]
    code, out = sweep("sweep=s", *quick, *words, "seed=0,1")
    assert code == 0, out
    runs = [path.parent for path in tmp_path.rglob("s/*/config.json")]
    assert len(runs) == 2
    taken = sum(map(blocks, runs)) / 2
    assert 0.8 < said[0][0] / taken < 1.2


def test_looking_for_failures_that_are_alike_does_not_grow_with_the_runs(monkeypatch):
    looked, cause = [], failing.cause
    monkeypatch.setattr(failing, "cause", lambda error: looked.append(1) or cause(error))
    error = ValueError("lr=1: no")
    assert not failing.alike([None, *[error] * 1000])
    assert not failing.alike([error, None, *[error] * 1000])
    assert len(looked) <= 2
    assert failing.alike([error] * failing.FIRST)


@pytest.mark.slow
def test_10_000_runs(tmp_path):
    """Check, launch, leaderboard, the same command again, report: for real, on one machine."""
    words = ["data=digits", "model.width=8", "model.depth=1", "training.epochs=1"]
    words += ["tracking=local", "training.batch_size=512", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    words += ["seed=range(0,2500)", "optimizer=adam,sgd", "optimizer.lr=0.1,0.01"]
    for said in ("10,000 runs in ", "10,000 runs ended before and left alone"):
        done = processes.run([sys.executable, TRAIN, "-m", *words], tmp_path, timeout=3600)
        assert done.returncode == 0, done.stderr[-2000:]
        assert said in done.stdout + done.stderr
    with (tmp_path / "sweep" / "leaderboard.csv").open() as file:
        ranked = [*csv.DictReader(file)]
    assert [row["n"] for row in ranked] == ["2500"] * 4  # a setting's seeds are one row
    assert {row["status"] for row in ranked} == {"finished"}
    files = [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10_000 * 50_000
    command = [sys.executable, "-m", "knobs.report", str(tmp_path / "sweep")]
    done = processes.run(command, tmp_path, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "sweep").glob("report*.html"))
