"""A refit: the config of a run, trained on its validation rows as well, for its best epochs."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from trained import assert_same_bits, train_py

import knobs
from knobs import build, listing, record
from knobs.config import command
from knobs.errors import CheckpointError
from knobs.report.read import read_sweep
from knobs.training import loop
from knobs.training.setup import assemble
from knobs.words import count

WORDS = ["data=wine", "scheduler=cosine", "training.epochs=6", "tracking=local", "seed=3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished run `a` whose best epoch is not its last, and its refit `b`."""
    place = tmp_path_factory.mktemp("refit")
    words = [*WORDS, "optimizer.lr=0.03", "hydra.run.dir=a", "name='of a,b (${seed})'"]
    assert train_py(place, *words).returncode == 0
    done = train_py(place, "refit=a", "hydra.run.dir=b", "test=true")
    assert done.returncode == 0, done.stderr
    (place / "screen").write_text(done.stdout)
    return place


def test_a_refit_trains_on_both_splits_for_the_best_number_of_epochs(folder):
    best = record.read_summary(folder / "a")["best_epoch"]
    assert best < 6
    config = command.checked([*WORDS, "optimizer.lr=0.03"])
    run = assemble(config, build.data(config).joined(), torch.device("cpu"))
    assert [len(s) for s in (run.data.train, run.data.val, run.data.test)] == [142, 0, 36]
    for _ in range(best):
        loop.train_epoch(run, lambda run: None)
        run.scheduler.step()
        run.progress.epoch += 1
        run.progress.batch = 0
    assert_same_bits(knobs.load(folder / "b").state_dict(), run.model.state_dict())


def test_the_schedule_keeps_its_length(folder):
    rates = [[row["lr"] for row in record.read_metrics(folder / name)] for name in "ab"]
    best = record.read_summary(folder / "a")["best_epoch"]
    assert rates[1] == rates[0][:best]


def test_its_summary_has_no_objective_and_its_test_is_read(folder):
    summary = record.read_summary(folder / "b")
    assert (summary["status"], summary["objective"], summary["refit_of"]) == ("finished", None, "a")
    assert set(summary["test"]) == {"test/loss", "test/accuracy", "test/f1"}
    screen = (folder / "screen").read_text()
    assert "the validation rows train as well" in screen
    best = record.read_summary(folder / "a")["best_epoch"]
    assert (
        f"finished: {count(best, 'epoch')}\n" in screen
    )  # test=true has measured it: nothing is left to
    assert record.ended(folder / "b").value is None
    assert record.read_config(folder / "b")["config"]["name"] == "refit-of a,b (3)"


def test_lists_and_reports_know_a_refit(folder):
    line = {line.run: line for line, _ in listing.read(folder)}["b"]
    assert (line.status, line.metric, line.value) == ("finished", "", None)
    for number, name in enumerate("ab"):  # a refit among the runs of a sweep is not ranked
        shutil.copytree(folder / name, folder / "sweep" / str(number))
    sweep = read_sweep([folder / "sweep"])
    assert ([run.id for run in sweep.runs], sweep.others) == (["0"], 1)
    shutil.rmtree(folder / "sweep")
    with pytest.raises(CheckpointError, match="b: trained on the validation rows, so nothing"):
        knobs.load([folder / "a", folder / "b"])


def test_a_name_with_commas_is_fitted_again(folder):
    """A run of two labels is named by both; its refit is one run, not a grid."""
    words = [*WORDS, "training.epochs=1", "hydra.run.dir='two, it\\'s'", "name='a,b: it\\'s'"]
    done = train_py(folder, *words)
    assert done.returncode == 0, done.stderr
    assert """python -m knobs.predict 'two, it'"'"'s' INPUT""" in done.stdout
    done = train_py(folder, "refit=two, it's", "hydra.run.dir=two-refit")
    assert done.returncode == 0, done.stderr
    assert record.read_config(folder / "two-refit")["config"]["name"] == "refit-a,b: it's"
    assert "1 epoch; only the test split is left to measure it (test=true)" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["refit=b"], "trained on the validation rows itself"),
        (["refit=none"], "no run that has ended"),
        (["refit=a", "training.epochs=9"], "training.epochs=9: a refit keeps its knobs"),
        (["refit=a", "rerun=a"], "one run; leave rerun= out"),
        (["-m", "refit=a"], "one run; leave -m out"),
        (["resume=b", "training.epochs=9"], "its schedule keeps its length; leave training.epochs"),
    ],
)
def test_what_cannot_be_fitted_again_is_one_line(folder, words, message):
    done = train_py(folder, *words)
    assert done.returncode in (2, 4)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_plateau_has_nothing_to_follow(folder):
    words = ["data=wine", "scheduler=plateau", "training.epochs=1", "tracking=local"]
    assert train_py(folder, *words, "hydra.run.dir=plateau").returncode == 0
    done = train_py(folder, "refit=plateau")
    assert done.returncode == 2
    assert "follows the validation split" in done.stderr


def test_other_data_are_refused(folder):
    path = folder / "a" / "config.json"
    before = path.read_text()
    document = record.read_json(path)
    document["data"]["hash"] = "0" * 32
    path.write_text(json.dumps(document))
    done = train_py(folder, "refit=a", "hydra.run.dir=c")
    path.write_text(before)
    assert done.returncode == 3
    assert "has changed since the run began" in done.stderr


def test_streams_are_joined_in_order(tmp_path):
    for i in range(20):
        place = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8)).save(place)
    words = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.size=8", "model=cnn"]
    data = [
        build.data(command.checked([*words, f"data.memory_gib={gib}"])).joined() for gib in (2, 0)
    ]
    whole, streamed = (next(iter(one.train.in_order(100))) for one in data)
    assert len(whole.y) == 16
    assert torch.equal(whole.y, streamed.y)
    assert torch.equal(whole.x, streamed.x)
    assert torch.equal(data[0].train.rows, data[1].train.rows)
