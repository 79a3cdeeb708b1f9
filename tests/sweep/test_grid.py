"""train.py -m from its command line to its folder: what a sweep promises, job by job."""

import csv
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import processes
import pytest
from conftest import TRAIN
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import OmegaConf

import knobs
from knobs import targets
from knobs.config import conflicts
from knobs.errors import ConfigError
from knobs.record import read_config, read_metrics, read_summary
from knobs.sweep import launch, together
from knobs.training import loop

SWEEPS = Path("outputs/sweeps")
# A sweep as a process of its own, whose checkpoints are never old.
EAGER = f"""
import runpy, sys
from knobs.sweep import groups, together
together.SAVE_SECONDS = together.SAVE_SHARE = 0
groups.LEAST_GAIN = float("inf")
sys.argv[0] = {TRAIN!r}
runpy.run_path({TRAIN!r}, run_name="__main__")
"""


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def leaderboard(folder):
    return list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))


def lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_a_job_leaves_what_hydras_own_launcher_leaves(sweep, tmp_path):
    args = ["sweep=s", "optimizer=adam,sgd", "seed=0,1", "training.epochs=2",
            "tracking.tags=[a,'é 😀 x: y','on','1e3']"]  # fmt: skip
    assert sweep(*args, cwd="stack")[0] == 0
    code, told = sweep(*args, "hydra/launcher=basic", cwd="basic")
    assert code == 0, told
    stack, basic = tmp_path / "stack" / SWEEPS / "s", tmp_path / "basic" / SWEEPS / "s"
    assert files(stack) == files(basic) | {"stacks.jsonl"}
    for number in "0123":
        ours, theirs = stack / number, basic / number
        for name in (".hydra/config.yaml", ".hydra/overrides.yaml", "config.json"):
            assert (ours / name).read_text() == (theirs / name).read_text(), name
        assert hydra_node(ours) == hydra_node(theirs)
        assert read_summary(ours).keys() == read_summary(theirs).keys()
        assert read_summary(ours)["config_hash"] == read_summary(theirs)["config_hash"]
        sizes = {read_summary(run)["validation_examples"] for run in (ours, theirs)}
        assert sizes == {360}
        assert len(read_metrics(ours)) == 2
        for row, expected in zip(read_metrics(ours), read_metrics(theirs), strict=True):
            assert list(row) == list(expected)
            assert row == pytest.approx(expected, rel=1e-4)
        logs = [(f / "train.log").read_text().splitlines() for f in (ours, theirs)]
        assert len(logs[0]) == len(logs[1]) == 2
    knobs = [[(r["rank"], r["n"], r["optimizer"]) for r in leaderboard(f)] for f in (stack, basic)]
    assert knobs[0] == knobs[1] == [("1", "2", "sgd"), ("2", "2", "adam")]


def hydra_node(folder):
    """hydra.yaml without the launcher's name and the places that the test chose."""
    node = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "hydra.yaml"))["hydra"]
    del node["launcher"], node["runtime"]["choices"]["hydra/launcher"]
    del node["runtime"]["output_dir"], node["runtime"]["cwd"]
    del node["help"], node["hydra_help"]
    node["overrides"]["hydra"] = [o for o in node["overrides"]["hydra"] if "launcher" not in o]
    return node


class Watch(Callback):
    """Writes down what Hydra tells callbacks, and where."""

    told: list = []  # noqa: RUF012

    def on_multirun_start(self, config, **_):
        self.told.append("start")

    def on_job_start(self, config, *, task_function, **_):
        self.told.append(("begins", config.hydra.job.num, *self.place()))

    def on_job_end(self, config, job_return, **_):
        assert isinstance(job_return, JobReturn)
        assert job_return.status is JobStatus.COMPLETED
        self.told.append(("ends", config.hydra.job.num, *self.place(), job_return.return_value))

    def on_multirun_end(self, config, **_):
        self.told.append("end")

    def place(self):
        (log,) = (h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler))
        number = Path(log.baseFilename).parent.name
        assert HydraConfig.get().job.num == int(number)
        return (
            os.path.relpath(Path.cwd(), self.home),
            os.environ.get("TZ"),
            os.environ["NCCL_DEBUG"],
        )


def test_callbacks_folders_and_variables_are_each_jobs_own(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_ADMITTED", (f"{__name__}.",))
    monkeypatch.setattr(Watch, "told", [])
    monkeypatch.setattr(Watch, "home", tmp_path, raising=False)
    monkeypatch.setenv("NCCL_DEBUG", "as before")
    monkeypatch.delenv("TZ", raising=False)
    code, told = sweep(
        "sweep=s", "seed=0,1,2", "training.epochs=1", "hydra.job.chdir=true",
        f"+hydra.callbacks.watch._target_={__name__}.Watch",
        "+hydra.job.env_set.TZ='job ${hydra:job.num}'", "hydra.job.env_copy=[NCCL_DEBUG]",
    )  # fmt: skip
    assert code == 0, told
    folders = [str(SWEEPS / "s" / str(n)) for n in range(3)]
    best = [read_summary(tmp_path / folder)["objective"]["value"] for folder in folders]
    assert len(set(best)) == 3
    assert (Watch.told[0], Watch.told[-1]) == ("start", "end")
    begun = [("begins", n, folders[n], f"job {n}", "as before") for n in range(3)]
    ended = [("ends", n, folders[n], None, "as before", best[n]) for n in range(3)]
    assert sorted(Watch.told[1:-1], key=str) == begun + ended
    assert Path.cwd() == tmp_path
    assert "TZ" not in os.environ
    assert HydraConfig.instance().cfg is None
    assert not [h for h in logging.getLogger().handlers if isinstance(h, logging.FileHandler)]
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]  # nothing went to the wrong place


def test_the_same_command_runs_what_is_new_and_nothing_twice(sweep, tmp_path):
    code, told = sweep("sweep=s", "seed=0,0,1", "training.epochs=1")
    assert (code, "1 run stated twice, run once" in told) == (0, True), told
    folder = tmp_path / SWEEPS / "s"
    before = {n: (folder / n / "metrics.jsonl").stat().st_mtime_ns for n in "01"}
    code, told = sweep("sweep=s", "seed=1,2,0", "training.epochs=1")
    assert (code, "2 runs ended before and left alone" in told) == (0, True), told
    assert {n: (folder / n / "metrics.jsonl").stat().st_mtime_ns for n in "01"} == before
    assert [read_config(folder / n)["config"]["seed"] for n in "012"] == [0, 1, 2]
    assert not (folder / "3").exists()
    (entry,) = leaderboard(folder)
    values = [read_summary(folder / n)["objective"]["value"] for n in "012"]
    assert (entry["rank"], entry["n"]) == ("1", "3")
    assert float(entry["val/accuracy"]) == pytest.approx(sum(values) / 3)


@pytest.mark.parametrize("text", [None, '{"conf": "x", "jobs": {"0": {'])
def test_without_its_ledger_a_sweep_overwrites_no_run(text, sweep, tmp_path):
    assert sweep("sweep=s", "seed=5,6", "training.epochs=1")[0] == 0
    folder = tmp_path / SWEEPS / "s"
    before = {n: (folder / n / "metrics.jsonl").read_bytes() for n in "01"}
    (folder / "sweep.json").unlink() if text is None else (folder / "sweep.json").write_text(text)
    assert sweep("sweep=s", "seed=7", "training.epochs=1")[0] == 0
    assert {n: (folder / n / "metrics.jsonl").read_bytes() for n in "01"} == before
    assert [read_config(folder / n)["config"]["seed"] for n in "012"] == [5, 6, 7]


@pytest.mark.parametrize(("width", "members"), [
    ("1", 1), ("null", 4),  # each value once; the other pairs, 4 s each:
    *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("null", 1), ("1", 4))),
])  # fmt: skip
def test_after_ctrl_c_the_printed_command_goes_on_to_the_same_metrics(
    width, members, sweep, tmp_path, at_epoch
):
    grid = ["seed=choice(0, 1, 2)", "optimizer.lr=choice(1e-2)", "training.epochs=4",
            f"training.members={members}",
            "regularization=dropout", f"hydra.launcher.width={width}"]  # fmt: skip
    assert sweep("sweep=whole", *grid)[0] == 0
    at_epoch(2, ctrl_c)
    code, told = sweep(*grid)
    assert code == 130, told
    (command,) = re.findall(r"go on with: python train.py -m (.*)", told)
    (folder,) = tmp_path.glob("outputs/sweeps/*/*-digits-mlp")
    begun = sorted(path.parent.name for path in folder.glob("*/summary.json"))
    assert begun == (["0", "1", "2"] if width == "null" else ["0"])
    assert {read_summary(folder / n)["status"] for n in begun} == {"interrupted"}
    code, told = sweep(*shlex.split(command))
    assert code == 0, told
    assert f"{len(begun)} run" in told
    assert "begun before, continued" in told
    for n in "012":
        assert lines(folder / n) == lines(tmp_path / SWEEPS / "whole" / n)
        assert read_summary(folder / n)["status"] == "finished"
    assert not (folder / "3").exists()


def test_a_killed_sweep_goes_on_and_a_held_one_names_its_holder(sweep, tmp_path):
    grid = ["seed=0,1", "scheduler=cosine", "training.epochs=12", "tracking=local"]
    assert sweep("sweep=whole", *grid)[0] == 0
    command = [sys.executable, "-c", EAGER, "-m", "sweep=s", *grid]
    process = processes.start(command, tmp_path, os.environ | {"OMP_NUM_THREADS": "1"})
    folder = tmp_path / SWEEPS / "s"
    while process.poll() is None and not (folder / "1/checkpoints/last.safetensors").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    code, told = sweep("sweep=s", *grid)
    assert code == 9
    assert f"held by process {process.pid} on " in told
    process.kill()
    output = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    code, told = sweep("sweep=s", *grid)
    assert (code, "2 runs begun before, continued" in told) == (0, True), told
    for n in "01":
        assert lines(folder / n) == lines(tmp_path / SWEEPS / "whole" / n)


def test_a_job_that_fails_costs_the_others_nothing(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(together, "SAVE_SECONDS", 0.0)  # a checkpoint after every epoch
    monkeypatch.setattr(together, "SAVE_SHARE", 0)
    grid = ["seed=0,1,2,3", "training.epochs=3"]
    assert sweep("sweep=whole", *grid)[0] == 0
    folder = tmp_path / SWEEPS / "s"
    (folder / "1" / "preparation.json").mkdir(parents=True)  # written at a run's beginning
    (folder / "2" / "predictions.safetensors").mkdir(parents=True)  # at its end
    (folder / "3").write_text("in the way")
    code, told = sweep("sweep=s", *grid)
    assert code == 10, told
    assert "sequentially" not in told  # the stack went on
    kinds = {"1": "IsADirectoryError", "2": "IsADirectoryError", "3": "FileExistsError"}
    at_once, _, table = told.partition("\n3 failed")
    for number, kind in kinds.items():
        assert f"job {number} failed: {kind}: " in at_once
        assert re.search(rf"^{number}  {kind}: ", table, re.MULTILINE)
    for number in "12":
        log = (folder / number / "train.log").read_text()
        assert "Is a directory; a folder is where a file must be; move it away" in log
    assert "Traceback" not in (folder / "0" / "train.log").read_text()
    assert [len(lines(folder / n)) for n in "02"] == [3, 3]
    assert read_summary(folder / "2")["status"] == "failed"
    (folder / "1" / "preparation.json").rmdir()
    (folder / "2" / "predictions.safetensors").rmdir()
    (folder / "3").unlink()
    code, told = sweep("sweep=s", *grid)
    assert code == 10  # job 2 is left as it failed
    states = [read_summary(folder / n)["status"] for n in "0123"]
    assert states == ["finished", "finished", "failed", "finished"]
    assert sweep("sweep=s", *grid, "retry_failed=true")[0] == 0
    for n in "0123":
        whole = read_metrics(tmp_path / SWEEPS / "whole" / n)
        rows = zip(read_metrics(folder / n), whole, strict=True)
        for row, expected in rows:  # in stacks of other widths: not the same bits
            assert row == pytest.approx(expected, rel=1e-4)


def test_a_stack_that_fails_as_a_whole_is_trained_one_by_one(sweep, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such kernel")

    assert sweep("sweep=whole", "seed=0,1", "training.epochs=2", "hydra.launcher.width=1")[0] == 0
    monkeypatch.setattr(together.stack, "fit", broken)
    code, told = sweep("sweep=s", "seed=0,1", "training.epochs=2")
    assert code == 0, told
    assert "2 runs begin again, sequentially: no such kernel" in told
    for n in "01":
        assert lines(tmp_path / SWEEPS / "s" / n) == lines(tmp_path / SWEEPS / "whole" / n)


def test_divergence_is_a_result(sweep, tmp_path):
    code, told = sweep("sweep=s", "optimizer=sgd", "optimizer.lr=0.1,1e30", "training.epochs=2")
    assert code == 0, told
    entries = leaderboard(tmp_path / SWEEPS / "s")
    assert [(e["rank"], e["optimizer.lr"], e["status"]) for e in entries] == [
        ("1", "0.1", "finished"),
        ("2", "1e+30", "diverged"),
    ]


def test_a_grid_of_which_all_values_but_the_lowest_diverge_ends_well(sweep, tmp_path):
    code, _ = sweep("sweep=s", "optimizer=sgd", "optimizer.lr=1e-2,1e5,1e6", "training.epochs=2")
    assert code == 0
    assert [row["status"] for row in leaderboard(tmp_path / SWEEPS / "s")] == [
        "finished", "diverged", "diverged",
    ]  # fmt: skip
    report = knobs.report(SWEEPS / "s")
    shrink = ("failures", "Search optimizer.lr below 100000.")
    assert shrink in [(finding.check, finding.do) for finding in report.findings]


def test_a_fault_of_the_report_costs_no_run_and_no_leaderboard(sweep, tmp_path, monkeypatch):
    """It is told as the report's own, exit code 1; as is one that calls itself a fault of config."""

    def broken(folders):
        raise ConfigError("lr: low=0.1, high=0.1")

    monkeypatch.setattr("knobs.report.analysis.make", broken)
    code, out = sweep("sweep=s", "+study=lr", "search.runs=2", "study.seeds=1", "training.epochs=1")
    assert code == 1
    assert "the report failed (ConfigError: lr: low=0.1, high=0.1), a fault of its own" in out
    assert "rank  val/accuracy" in out
    assert {row["rank"] for row in leaderboard(tmp_path / SWEEPS / "s")} >= {"1", "2"}


def test_an_error_without_a_word_fails_its_job_alone(sweep, monkeypatch):
    """`str(error)` is empty: the name of its class is told."""
    whole = loop.fit

    def fit(run, *args):
        if run.seed == 1:
            raise AssertionError
        return whole(run, *args)

    monkeypatch.setattr(loop, "fit", fit)
    code, out = sweep("seed=0,1", "optimizer=lbfgs", "training.epochs=1", "training.batch_size=512")
    assert code == 10
    assert "job 1 failed: AssertionError: AssertionError" in out


def test_files_that_differ_are_jobs_that_differ(sweep, tmp_path):
    rows = "".join(f"{i},{i % 7},{3 * i}\n" for i in range(60))
    (tmp_path / "good.csv").write_text("a,b,y\n" + rows)
    (tmp_path / "bad.csv").write_text("a,b,z\n" + rows)
    code, told = sweep(
        "sweep=s", "data=csv", "data.path=bad.csv,good.csv", "data.target=y",
        "data.task=regression", "training.epochs=1",
    )  # fmt: skip
    assert code == 10
    assert "job 0 failed: DataError: bad.csv: no column y" in told
    assert read_summary(tmp_path / SWEEPS / "s" / "1")["status"] == "finished"


def test_a_stack_needs_no_more_files_than_the_process_may_open(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = [(256, 4096), (256, 300), (256, resource.RLIM_INFINITY), (9000, 9000)]
    asked = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: asked.append(both))
    found = []
    for both in limits:
        monkeypatch.setattr(resource, "getrlimit", lambda _, both=both: both)
        found.append(launch.open_files())
    assert found == [4096, 300, 4096, 9000]
    assert asked == [(4096, 4096), (300, 300), (4096, resource.RLIM_INFINITY)]


@pytest.mark.parametrize(("args", "code", "message"), [
    (["sweep=../x"], 2, "must be null, or a name of at most 100 letters"),
    (["hydra.sweep.subdir='x${hydra.job.num}'"], 2, "a sweep finds its runs by ${hydra.job.num}"),
    (["hydra.launcher.width=0"], 2, "hydra.launcher.width=0: must be null or a whole number >= 1"),
    (["sweep=s", "model=glob(x*)"], 2, "the grid is empty"),
    (["hydra.sweep.dir=file/x"], 6, "file/x: cannot be made (Not a directory)"),
])  # fmt: skip
def test_a_users_fault_is_one_message(args, code, message, sweep, tmp_path):
    (tmp_path / "file").touch()
    found, told = sweep("seed=0", "training.epochs=1", *args)
    assert (found, message in told) == (code, True), told
    assert "Traceback" not in told
    assert not list(tmp_path.glob("outputs/**/metrics.jsonl"))


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_any_launcher_runs_a_grid(launcher, sweep, tmp_path):
    (tmp_path / SWEEPS / "s" / "1" / "metrics.jsonl").mkdir(parents=True)
    code, told = sweep(
        "sweep=s", f"hydra/launcher={launcher}", "seed=0,1", "training.epochs=1",
        *(["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []),
    )  # fmt: skip
    assert code == 10, told
    assert re.search(r"^1 +IsADirectoryError", told, re.MULTILINE)
    folder = tmp_path / SWEEPS / "s"
    assert [(e["rank"], e["n"]) for e in leaderboard(folder)] == [("1", "1")]
    (folder / "1" / "metrics.jsonl").rmdir()
    code, told = sweep("sweep=s", f"hydra/launcher={launcher}", "seed=0,1", "training.epochs=1")
    assert (code, "1 run ended before and left alone" in told) == (0, True), told
    assert [(e["rank"], e["n"]) for e in leaderboard(folder)] == [("1", "2")]
    assert len(json.loads((folder / "sweep.json").read_text())["jobs"]) == 2


def test_a_run_too_large_for_memory_fails_alone(sweep, monkeypatch):
    """1e13 units: more than any address space, were it not known before that they do not fit."""
    monkeypatch.setattr(conflicts, "SURELY_FITS", math.inf)
    code, out = sweep("model.width=8,10000000000000", "training.epochs=1", "tracking=local")
    assert code == 10
    assert "1 failed" in out
    assert "out of memory" in out
    [done] = Path("outputs/sweeps").glob("*/*/*/summary.json")
    assert read_summary(done.parent)["status"] == "finished"


# ------------------------------------------------------------------ a damaged index, foreign folders
DAMAGE = {
    "lost": None, "empty": "", "cut": "half", "null": "null", "a list": "[]", "no jobs": "{}",
    "jobs lost": '{"conf": "x", "jobs": {}}', "noise": "\x00\x01 sweep",
    "another's": '{"conf": "x", "jobs": {"0": {"overrides": ["seed=7"], "identity": "feed"}}}',
}  # fmt: skip


def test_a_damaged_index_is_rebuilt_from_the_runs(sweep, tmp_path):
    grid = ["sweep=s", "optimizer=sgd,adam", "seed=0,1", "training.epochs=1"]
    assert sweep(*grid)[0] == 0
    folder = tmp_path / SWEEPS / "s"
    index = (folder / "sweep.json").read_text()
    jobs = json.loads(index)["jobs"]
    before = {
        p: p.read_bytes() for p in folder.rglob("*") if p.name in ("metrics.jsonl", "summary.json")
    }
    for name, text in DAMAGE.items():
        path = folder / "sweep.json"
        path.unlink() if text is None else path.write_text(index[:200] if text == "half" else text)
        code, told = sweep(*grid)
        assert code == 0, (name, told)
        assert "4 runs ended before and left alone" in told, name
        after = {p: p.read_bytes() for p in before}
        assert after == before, name
        rebuilt = json.loads(path.read_text())["jobs"]
        assert {n: job["identity"] for n, job in rebuilt.items()} == {
            n: job["identity"] for n, job in jobs.items()
        }, name


def test_a_folder_that_holds_another_run_is_left_alone(sweep, tmp_path):
    grid = ["sweep=s", "seed=0,1", "training.epochs=1"]
    assert sweep(*grid)[0] == 0
    folder = tmp_path / SWEEPS / "s"
    shutil.rmtree(folder / "1")
    shutil.copytree(folder / "0", folder / "1")
    before = (folder / "1" / "metrics.jsonl").read_bytes()
    code, told = sweep(*grid)
    assert code == 0, told
    assert "1 run known by what they recorded" in told
    assert "1 run ended before and left alone" in told
    assert (folder / "1" / "metrics.jsonl").read_bytes() == before
    assert read_config(folder / "2")["config"]["seed"] == 1
