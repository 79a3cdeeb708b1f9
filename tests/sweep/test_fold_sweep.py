"""A grid over folds, end to end: its stacks, its record, what goes on from it."""

import csv
import html
import io
import json
import os
import re
import signal

import numpy as np
import pytest
from rich.console import Console
from trained import train_py

import knobs
from knobs import again
from knobs.config import command
from knobs.errors import ConfigError
from knobs.identity import identity
from knobs.record import read_summary
from knobs.report import terminal
from knobs.report.analysis import make, plain
from knobs.report.markdown import markdown
from knobs.report.page import page
from knobs.report.read import read_runs
from knobs.training.run import execute

WINE = ["data=wine", "training.epochs=3", "tracking=local", "training.device=cpu"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a sweep of 3 folds and 2 seeds, and what it printed."""
    place = tmp_path_factory.mktemp("folds")
    words = ["data.folds=3", "data.fold=all", "seed=0,1"]
    done = train_py(place, "-m", *WINE, *words, "sweep=s")
    assert done.returncode == 0, done.stderr
    return place / "outputs" / "sweeps" / "s", done.stdout


def test_folds_and_seeds_are_one_setting(swept):
    folder, out = swept
    runs = read_runs(folder)
    assert sorted(run.repeat for run in runs) == [(s, 0, k) for s in (0, 1) for k in range(3)]
    [row] = csv.DictReader((folder / "leaderboard.csv").read_text().splitlines())
    assert row["n"] == "6"
    assert "over 3 folds, each the mean of 2 seeds" in out
    sizes = {(run.training_examples, run.validation_examples) for run in runs}
    assert sizes == {(94, 48), (95, 47)}  # 142 rows outside the test split


def test_every_kind_of_report_has_the_mean_over_folds(swept):
    folder, out = swept
    [line] = [text for text in out.splitlines() if "over 3 folds" in text]
    report = make([folder])
    assert line in html.unescape(page(report))
    assert line in re.sub(r"\\(.)", r"\1", html.unescape(markdown(report)))
    assert report_as_text(report).count(line) == 1
    [row] = plain(report)["leaderboard"]
    by_fold = [[r.value for r in read_runs(folder) if r.repeat[2] == k] for k in range(3)]
    assert row["folds"]["mean"] == pytest.approx(np.mean(by_fold))
    assert row["folds"]["sd"] == pytest.approx(np.std(np.mean(by_fold, 1), ddof=1))


def report_as_text(report):
    told = io.StringIO()
    terminal.show(Console(file=told, width=400), report)
    return told.getvalue()


def test_a_fold_of_a_stack_is_its_run_alone(swept, tmp_path):
    config = command.checked([*WINE, "data.folds=3", "data.fold=2", "seed=1"])
    alone = execute(config, tmp_path).summary
    [row] = [run for run in read_runs(swept[0]) if run.repeat == (1, 0, 2)]
    assert row.value == pytest.approx(alone["objective"]["value"], abs=1e-6)
    assert row.summary["metrics"]["val/loss"] == pytest.approx(
        alone["metrics"]["val/loss"], rel=1e-4
    )
    assert row.summary["config_hash"] == alone["config_hash"]


def test_a_run_of_a_fold_predicts_and_is_refitted_on_all_folds(swept, tmp_path):
    run = next(run for run in read_runs(swept[0]) if run.repeat == (0, 0, 1))
    loaded = knobs.load(run.folder)
    assert len(loaded.predict(np.zeros((1, 13)))) == 1
    done = train_py(tmp_path, f"refit={run.folder}", "tracking=local")
    assert done.returncode == 0, done.stderr
    assert "142 train, 0 val" in done.stdout


def test_folds_left_out_change_no_identity():
    plain = command.checked(WINE)
    older = json.loads(json.dumps(plain))
    del older["data"]["folds"], older["data"]["fold"]
    assert identity(older) == identity(plain)
    assert identity(command.checked([*WINE, "data.folds=3"])) != identity(plain)


def test_a_refit_by_time_is_of_the_last_fold(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("x,day,y\n" + "".join(f"{d % 7},{d},{d % 2}\n" for d in range(60)))
    lines = ["data=csv", f"data.path={table}", "data.target=y", "data.task=classification",
             "data.split=time:day", "data.folds=2", "training.epochs=1", "tracking=local"]  # fmt: skip
    for fold in range(2):
        execute(command.checked([*lines, f"data.fold={fold}"]), tmp_path / str(fold))
    with pytest.raises(ConfigError, match="ends before the newest rows; refit the run of data.fo"):
        again.refit(str(tmp_path / "0"), [], (command.CONF,))
    assert "data.fold=1" in again.refit(str(tmp_path / "1"), [], (command.CONF,))


def test_an_interrupted_fold_resumes_to_the_same_bits(tmp_path, at_epoch):
    """One fold by itself, and no other: the split that it goes on with is its own."""
    lines = [*WINE, "training.epochs=4", "regularization=dropout", "data.folds=3", "data.fold=1"]
    config = command.checked(lines)
    execute(config, tmp_path / "whole")
    at_epoch(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert execute(config, tmp_path / "s").summary["status"] == "interrupted"
    again = execute(config | {"resume": "yes"}, tmp_path / "s")
    assert again.summary["status"] == "finished"
    for name in ("metrics.jsonl", "checkpoints/best.safetensors", "predictions.safetensors"):
        assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def texts(path):
    """Write texts whose folds have other vocabularies, so that a stack pads their first layers."""
    rng = np.random.default_rng(0)
    rows = [f"{' '.join(f'w{w}' for w in rng.integers(60, size=5))},{i % 2}" for i in range(60)]
    path.write_text("text,y\n" + "\n".join(rows) + "\n")
    return ["data=text_csv", f"data.path={path}", "data.label=y", "model=text_bag"]


@pytest.mark.parametrize(
    ("kind", "number"),
    [pytest.param("table", signal.SIGINT, marks=pytest.mark.slow), ("text", signal.SIGTERM)],
)
def test_interrupted_folds_resume_to_the_same_bits(kind, number, sweep, tmp_path, at_epoch):
    """Stacked, of several splits side by side."""
    data = WINE[:1] if kind == "table" else texts(tmp_path / "t.csv")
    lines = [*data, "tracking=local", "training.epochs=4", "regularization=dropout"]
    grid = [*lines, "data.folds=3", "data.fold=all", "seed=0,1"]
    assert sweep("sweep=whole", *grid)[0] == 0
    at_epoch(2, lambda: os.kill(os.getpid(), number))
    assert sweep("sweep=s", *grid)[0] == 128 + number
    whole, folder = (tmp_path / "outputs" / "sweeps" / name for name in ("whole", "s"))
    stopped = [p.parent.name for p in folder.glob("*/summary.json")]
    assert {read_summary(folder / n)["status"] for n in stopped} == {"interrupted"}
    assert len(stopped) >= 2  # a stack of them
    code, told = sweep("sweep=s", *grid)
    assert (code, "begun before, continued" in told) == (0, True), told
    sizes = {read_summary(whole / n)["parameters"] for n in map(str, range(6))}
    assert (len(sizes) > 1) is (kind == "text")  # of each vocabulary, without padding
    for n in map(str, range(6)):
        assert read_summary(folder / n)["status"] == "finished"
        for name in ("metrics.jsonl", "checkpoints/best.safetensors", "predictions.safetensors"):
            assert (folder / n / name).read_bytes() == (whole / n / name).read_bytes(), (n, name)
