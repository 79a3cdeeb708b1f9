"""Means of several runs: their numbers, what selection gains, and what cannot be averaged."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from trained import train_py

import knobs
from knobs import cleaning, listing
from knobs.__main__ import main
from knobs.ensemble.folder import candidate, library, members, of_sweep
from knobs.ensemble.selection import Library, gain, select
from knobs.errors import CheckpointError, ConfigError
from knobs.models.members import mean_prediction
from knobs.record import read_summary
from knobs.training import predictions

CLASSES = 3


def made(outputs, targets, metric="accuracy", mode="max", task="classification"):
    return Library(outputs, targets, task, torch.ones(1, dtype=torch.float64), metric, mode)


def noisy(runs, rows, seed, strength):
    """Logits of runs that know each class by `strength`, and err each in its own way."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (rows,), generator=generator)
    right = torch.nn.functional.one_hot(targets, CLASSES).float() * strength
    return right + torch.randn(runs, rows, CLASSES, generator=generator), targets


# ------------------------------------------------------------------ selection
@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", "min")])
def test_greedy_selection_is_what_caruana_describes(metric, mode):
    """Against the definition, probabilities averaged by hand."""
    outputs, targets = noisy(5, 60, 0, 1.0)
    found = select(made(outputs, targets, metric, mode), torch.arange(60))
    p = outputs.double().softmax(-1)
    bag, best, best_bag = [], -np.inf, []
    for _ in range(20):
        scores = []
        for run in range(5):
            mean = p[[*bag, run]].mean(0)
            if metric == "accuracy":
                scores.append((mean.argmax(1) == targets).double().mean().item())
            else:
                scores.append(mean[torch.arange(60), targets].log().mean().item())
        bag.append(int(np.argmax(np.round(scores, 6))))
        if scores[bag[-1]] > best + 1e-7:
            best, best_bag = scores[bag[-1]], list(bag)
    assert found.tolist() == np.bincount(best_bag, minlength=5).tolist()


def test_runs_that_agree_gain_nothing():
    outputs, targets = noisy(1, 100, 1, 2.0)
    same = made(outputs.expand(4, -1, -1), targets)
    assert select(same, torch.arange(100)).sum() == 1
    found = gain(same)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_gain_is_measured_on_rows_that_did_not_choose():
    """Of runs that know nothing, the chosen look good on their own half, and on the other do not."""
    differences, seen = [], []
    for seed in range(5):
        outputs, targets = noisy(20, 200, seed, 0.0)
        runs = made(outputs, targets)
        seen.append(runs.value(runs.mean(select(runs, torch.arange(200))), torch.arange(200)))
        differences.append(gain(runs).difference)
    assert np.mean(seen) > 1 / CLASSES + 0.08
    assert abs(np.mean(differences)) < 0.04


def test_runs_that_err_differently_gain():
    found = gain(made(*noisy(12, 600, 3, 1.5)))
    assert found.low > 0
    assert found.ensemble - found.best == pytest.approx(found.difference)
    assert found.low < found.difference < found.high
    loss = gain(made(*noisy(12, 600, 3, 1.5), "loss", "min"))
    assert loss.best - loss.ensemble == pytest.approx(loss.difference)
    assert loss.low > 0


def test_too_few_rows_tell_nothing_and_own_metrics_select_nothing():
    assert gain(made(*noisy(3, 30, 0, 1.0))) is None
    with pytest.raises(ConfigError, match="mine: a metric of one's own cannot select"):
        select(made(*noisy(3, 30, 0, 1.0), "mine"), torch.arange(30))


# ------------------------------------------------------------------ runs
@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a table, a sweep of six runs on it, one on another split."""
    folder = tmp_path_factory.mktemp("ensemble")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300)})
    frame["y"] = np.where(frame.a * frame.b + 0.3 * rng.normal(size=300) > 0, "up", "down")
    frame.to_csv(folder / "t.csv", index=False)
    table = ["data=csv", "data.path=t.csv", "data.target=y", "data.task=classification"]
    words = [*table, "tracking=local", "training.epochs=4"]
    done = train_py(folder, "-m", *words, "optimizer.lr=1e-2,3e-2", "seed=0,1,2", "sweep=a")
    assert done.returncode == 0, done.stderr
    done = train_py(folder, *words, "data.split_seed=1", "hydra.run.dir=other")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def sweep(home, tmp_path):
    shutil.copytree(home / "outputs" / "sweeps" / "a", tmp_path / "a")
    return tmp_path / "a"


def shares(model, frame):
    return model.predict(frame)[["p(down)", "p(up)"]].to_numpy()


def test_the_mean_of_runs_is_the_mean_of_their_probabilities(sweep, home):
    frame = pd.read_csv(home / "t.csv")
    folders = [sweep / "0", sweep / "4"]
    each = [shares(knobs.load(one), frame) for one in folders]
    assert shares(knobs.load(folders), frame) == pytest.approx(np.mean(each, 0), abs=1e-6)
    ranked, left = of_sweep(sweep)
    assert left == []
    values = [one.value for one in ranked]
    assert values == sorted(values, reverse=True)
    top = knobs.load(sweep, top=2)
    best = [shares(knobs.load(one.folder), frame) for one in ranked[:2]]
    assert shares(top, frame) == pytest.approx(np.mean(best, 0), abs=1e-6)


def test_of_several_preparations_the_best_run_s_is_taken(sweep, caplog):
    """As in a grid over data.numbers, where four of six runs have another preparation."""
    for number in (1, 3):
        with (sweep / str(number) / "preparation.json").open("a") as file:
            file.write("\n")
    summary = read_summary(sweep / "3")
    summary["objective"]["value"] = 0.99
    (sweep / "3" / "summary.json").write_text(json.dumps(summary))
    ranked, left = of_sweep(sweep)
    assert [one.folder.name for one in ranked] == ["3", "1"]
    assert len(left) == 4
    assert "0: its rows are prepared otherwise (val/accuracy 0." in left[0]
    knobs.load(sweep, top=3)
    assert caplog.messages[-1] == "top=3: only 2 runs can be averaged"
    assert caplog.messages[0] == f"left out: {left[0]}"


def test_the_members_of_an_ensemble_are_no_runs_of_the_list(sweep):
    assert main(["ensemble", str(sweep)]) == 0
    assert (sweep / "ensemble" / "members" / "0" / "config.json").is_file()
    assert [line.run for line, _ in listing.read(sweep)] == list("012345")
    assert [one.path for one in cleaning.find(sweep / "ensemble")] == []


def test_a_run_s_predictions_are_read_as_they_were_written(sweep):
    one = candidate(sweep / "0")
    runs = library([one])
    best = json.loads((sweep / "0" / "summary.json").read_text())["objective"]["value"]
    assert runs.value(runs.outputs[0], torch.arange(len(runs.targets))) == pytest.approx(best)
    assert torch.equal(
        mean_prediction("classification", runs.outputs).argmax(1), runs.outputs[0].argmax(1)
    )


def test_an_ensemble_is_one_folder_that_needs_its_sweep_no_more(sweep, home, tmp_path, capsys):
    frame = pd.read_csv(home / "t.csv")
    assert main(["ensemble", str(sweep), "--out", str(tmp_path / "e")]) == 0
    told = capsys.readouterr().out
    assert "gain: " in told
    assert "90 % interval" in told
    found = members(tmp_path / "e")
    runs = [
        json.loads((tmp_path / "e" / "ensemble.json").read_text())["members"][str(i)]["run"]
        for i in range(len(found))
    ]
    each = [shares(knobs.load(run), frame) for run in runs]
    counts = [n for _, n in found]
    expected = np.average(each, 0, counts)
    shutil.rmtree(sweep)
    assert shares(knobs.load(tmp_path / "e"), frame) == pytest.approx(expected, abs=1e-6)
    out = tmp_path / "answers.csv"
    assert main(["predict", str(tmp_path / "e"), str(home / "t.csv"), "--out", str(out)]) == 0
    assert pd.read_csv(out)[["p(down)", "p(up)"]].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_averaged_is_refused(sweep, home, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="other: another data or split than"):
        knobs.load([sweep / "0", home / "other"])
    with pytest.raises(CheckpointError, match="no runs to load"):
        knobs.load([])
    with pytest.raises(ConfigError, match="top=0: must be a whole number from 1 on"):
        knobs.load(sweep, top=0)
    summary = read_summary(sweep / "1")
    (sweep / "1" / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    with pytest.raises(CheckpointError, match="ended interrupted; an ensemble takes finished runs"):
        knobs.load([sweep / "0", sweep / "1"])
    (sweep / "2" / predictions.FILE).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="2: no run that has ended .predictions.safetensors"):
        knobs.load([sweep / "0", sweep / "2"])
    ranked, left = of_sweep(sweep)
    assert (len(ranked), len(left)) == (4, 2)
    (sweep / "2" / predictions.FILE).unlink()
    with pytest.raises(CheckpointError, match="2: no run .* judge; it has no predictions.safete"):
        knobs.load([sweep / "0", sweep / "2"])
    refit = summary | {"objective": None, "refit_of": "x"}
    (sweep / "2" / "summary.json").write_text(json.dumps(refit))
    with pytest.raises(
        CheckpointError, match="2: trained on the validation rows, so nothing judges it"
    ):
        knobs.load([sweep / "0", sweep / "2"])
    (tmp_path / "empty").mkdir()
    assert main(["ensemble", str(tmp_path / "empty")]) == 4
    assert "takes two finished runs or more" in capsys.readouterr().err
    (tmp_path / "bad").mkdir()
    for text in (
        "no",
        '{"version": 1, "members": {"0": {"count": -1}}}',
        '{"version": 2, "members": {}}',
    ):
        (tmp_path / "bad" / "ensemble.json").write_text(text)
        with pytest.raises(CheckpointError, match="ensemble.json: "):
            knobs.load(tmp_path / "bad")
