"""A run's own page: its numbers are scikit-learn's and the record's, its words are only text."""

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from browser import browser, find
from conftest import REPO
from sklearn import metrics as sk

import knobs
from knobs import build, record
from knobs.config import command
from knobs.data.inputs import Pictures, Table
from knobs.data.preparation import Preparation
from knobs.data.prepare import classes_of
from knobs.data.texts import Texts
from knobs.report.__main__ import main
from knobs.report.run import examples, page, scores
from knobs.report.run.quality import Quality, mistakes
from knobs.report.run.read import is_run, read_files
from knobs.report.write import HTML
from knobs.training import predictions
from knobs.training.run import execute
from knobs.training.scores import calibration_error

DRAWN = (
    "plots.every((plot) => plot.querySelector("
    "'.cartesianlayer .trace, .cartesianlayer .hm image, .cartesianlayer .contour'))"
)
needs_browser = pytest.mark.skipif(find() is None, reason="no Chromium or Chrome found")
ODD = '</script><script>alert(1)</script><b>"&\u202e\x1b'


def trained(folder, *words):
    """A run of a real command line in a folder."""
    config = command.checked([*words, "tracking=local", "training.device=cpu"])
    execute(config, folder)
    return folder


def table(path, rows, **columns):
    """A CSV of so many rows, each column a function of the row's number and a generator."""
    drawn = np.random.default_rng(0)
    lines = [",".join(columns)]
    for i in range(rows):
        lines.append(",".join(str(make(i, drawn)) for make in columns.values()))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name -> the folder of a run, made by training."""
    root = tmp_path_factory.mktemp("runs")
    house = table(
        root / "house.csv", 300,
        id=lambda i, d: i, rooms=lambda i, d: d.integers(1, 9) if i % 20 else "",
        city=lambda i, d: d.choice(["Oslo", "Rome <b>"]), built=lambda i, d: f"20{i % 20:02}-0{i % 9 + 1}-11",
        price=lambda i, d: 40 + 3 * (i % 20) + d.integers(0, 9), size=lambda i, d: i % 20 * 2 + d.random(),
    )  # fmt: skip
    labels = table(
        root / "labels.csv", 200,
        a=lambda i, d: i % 7, b=lambda i, d: round(d.random(), 3),
        x=lambda i, d: int(i % 7 > 3), y=lambda i, d: int(d.random() > 0.6), z=lambda i, d: int(i % 11 == 0),
    )  # fmt: skip
    counts = table(
        root / "counts.csv", 200,
        a=lambda i, d: i % 9, n=lambda i, d: d.poisson(1 + i % 9),
    )  # fmt: skip
    made = {
        "digits": ["data=digits", "training.epochs=3"],
        "members": ["data=wine", "training.epochs=4", "training.members=3"],
        "diverged": ["data=digits", "training.epochs=2", "optimizer=sgd", "optimizer.lr=1e6"],
        "house": ["data=csv", f"data.path={house}", "data.target=price", "data.task=regression", "training.epochs=4"],
        "two": ["data=csv", f"data.path={house}", "data.target=[price,size]", "data.task=regression", "training.epochs=2"],
        "labels": ["data=csv", f"data.path={labels}", "data.target=[x,y,z]", "data.task=multilabel", "training.epochs=6"],
        "counts": ["data=csv", f"data.path={counts}", "data.target=n", "data.task=regression", "loss=poisson", "training.epochs=4"],
        "docs": ["data=python_docs", "model=text_bag", "training.epochs=1"],
    }  # fmt: skip
    return {name: trained(root / name, *words) for name, words in made.items()}


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of a run that a test may spoil."""
    return lambda name: shutil.copytree(runs[name], tmp_path / name)


def fake(folder, names, outputs, targets, rows=None, size=None, best=1):
    """A run's record without training: classes, logits (n, C) and class numbers (n,)."""
    folder.mkdir()
    inputs = Table(("a",), {}, np.zeros(1), np.zeros(1), np.ones(1))
    prepared = Preparation(inputs, classes_of(names))
    for name, content in prepared.save().items():
        (folder / name).write_bytes(content)
    outputs, targets = torch.as_tensor(outputs).half(), torch.as_tensor(targets)
    split = knobs.data.Tensors(torch.zeros(len(targets), 1), targets, rows=rows)
    (folder / predictions.FILE).write_bytes(predictions.encode(split, outputs, best))
    hits = (outputs.argmax(1) == targets).double().mean().item()
    objective = {"metric": "val/accuracy", "mode": "max"}
    config = {"data": {"task": "classification", "name": "fake", "kind": "table"}, "seed": 0}
    config |= {"objective": objective, "training": {"epochs": 1}}
    about = {"overrides": [], "choices": {}, "config": config, "data": {}}
    (folder / "config.json").write_text(json.dumps(about))
    row = {"epoch": 1, "train/loss": 1.0, "val/loss": 1.0, "val/accuracy": hits, "lr": 0.1}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    summary = {"status": "finished", "objective": objective | {"value": hits}, "epochs": 1}
    summary |= {"best_epoch": best, "metrics": row, "validation_examples": size or len(targets)}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def edited(folder, name, change):
    """Change a JSON file of a record."""
    node = record.read_json(folder / name)
    change(node)
    (folder / name).write_text(json.dumps(node))


def parts(folder):
    return {part.name: part for part in page.make(folder).parts}


def said(folder):
    """What stands out: check -> texts."""
    found = {}
    for finding in page.make(folder).findings:
        found.setdefault(finding.check, []).append(f"{finding.text} {finding.do}".strip())
    return found


# ------------------------------------------------------------------ numbers
def test_classes_have_scikit_learns_numbers(runs):
    judged = Quality(read_files(runs["digits"]))
    truth, guess = judged.targets, judged.guess
    expected = sk.precision_recall_fscore_support(truth, guess, labels=range(10), zero_division=0)
    counts = judged.counts
    for mine, theirs in zip(
        (counts.precision, counts.recall, counts.f1, counts.support), expected, strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    table = scores.confusion(truth, guess, np.arange(10))
    assert (table[:, -1] == 0).all()
    np.testing.assert_array_equal(table[:, :-1], sk.confusion_matrix(truth, guess))
    losses = scores.class_losses(judged.files.predictions.outputs, truth)
    assert losses.mean() == pytest.approx(sk.log_loss(truth, judged.probabilities), rel=1e-9)


def test_a_confusion_matrix_of_some_classes_counts_the_others_together():
    drawn = np.random.default_rng(1)
    truth, guess = drawn.integers(0, 30, 500), drawn.integers(0, 30, 500)
    whole = sk.confusion_matrix(truth, guess, labels=range(30))
    chosen = np.array([3, 8, 21])
    found = scores.confusion(truth, guess, chosen)
    np.testing.assert_array_equal(found[:, :3], whole[np.ix_(chosen, chosen)])
    np.testing.assert_array_equal(found.sum(1), whole[chosen].sum(1))


@pytest.mark.parametrize("scale", [0.3, 3.0, 60.0])
def test_calibration_is_that_of_the_metric(scale):
    outputs = (
        scale * torch.randn(400, 7, generator=torch.Generator().manual_seed(0)).half().double()
    )
    targets = (outputs + 2).argmax(1)
    targets[::3] = 2
    found = scores.calibration(scores.probabilities(outputs.numpy()), targets.numpy())
    assert found.error == pytest.approx(calibration_error(outputs, targets).item(), rel=1e-5)
    assert found.rows.sum() == 400


def test_the_error_that_chance_makes_is_that_of_calibrated_models():
    drawn = np.random.default_rng(0)
    found = []
    for _ in range(200):
        p = drawn.uniform(0.5, 1, 300)
        truth = (drawn.random(300) > p).astype(int)  # class 0 has probability p
        found.append(scores.calibration(np.stack([p, 1 - p], 1), truth))
    errors, chances = ([getattr(c, n) for c in found] for n in ("error", "chance"))
    assert np.mean(chances) == pytest.approx(np.mean(errors), rel=0.05)


def test_labels_have_scikit_learns_numbers(runs):
    files = read_files(runs["labels"])
    judged = Quality(files)
    truth, outputs = judged.targets, files.predictions.outputs
    expected = sk.precision_recall_fscore_support(truth, outputs > 0, zero_division=0)
    for mine, theirs in zip(
        (judged.counts.precision, judged.counts.recall, judged.counts.f1, judged.counts.support),
        expected,
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    for column, there in zip(outputs.T, truth.T, strict=True):
        area = scores.auroc(column.round(1), there)  # with ties
        assert area == pytest.approx(sk.roc_auc_score(there, column.round(1)), rel=1e-12)
    assert scores.auroc(outputs[:, 0], np.ones(len(outputs))) is None
    losses = scores.label_losses(outputs, truth)
    p = judged.probabilities
    expected = [sk.log_loss(truth[:, i], p[:, i], labels=[0, 1]) for i in range(3)]
    np.testing.assert_allclose(losses.mean(0), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["digits", "members", "house", "two", "labels", "counts"])
def test_the_numbers_agree_with_the_summary(runs, name):
    recorded = json.loads((runs[name] / "summary.json").read_text())["metrics"]
    judged = Quality(read_files(runs[name]))
    for metric, value in judged.metrics.items():
        assert value == pytest.approx(recorded[metric], rel=2e-3, abs=2e-3), metric
    assert not any("not of one run" in text for text in said(runs[name]).get("record", []))


def test_a_regression_is_in_the_targets_own_unit(runs):
    judged = Quality(read_files(runs["two"]))
    for actual, predicted, fit in zip(judged.targets.T, judged.values.T, judged.fits, strict=True):
        assert fit.r2 == pytest.approx(sk.r2_score(actual, predicted), rel=1e-12)
        assert fit.mae == pytest.approx(sk.mean_absolute_error(actual, predicted), rel=1e-12)
        assert fit.rmse == pytest.approx(sk.root_mean_squared_error(actual, predicted), rel=1e-12)
    data = build.data(json.loads((runs["two"] / "config.json").read_text())["config"])
    lines = (runs["two"].parent / "house.csv").read_text().splitlines()[1:]
    prices = [float(lines[row].split(",")[4]) for row in data.val.rows.tolist()]
    np.testing.assert_allclose(judged.targets[:, 0], prices, rtol=1e-5)
    assert [row[0] for row in parts(runs["two"])["errors"].tables[0].rows] == ["price", "size"]


def test_a_trend_of_residuals_is_found_and_none_where_there_is_none():
    drawn = np.random.default_rng(0)
    predicted = drawn.normal(size=2000)
    noise = drawn.normal(size=2000)
    share, slope = scores.trend(predicted * 1.5 + noise, predicted)
    assert slope == pytest.approx(0.5, abs=0.06)
    assert share == pytest.approx(0.25 / 1.25, abs=0.04)
    assert scores.trend(predicted + noise, predicted)[0] < 0.01
    assert scores.trend(predicted, np.zeros(2000)) == (0.0, 0.0)


def test_groups_of_equal_size_keep_equal_values_together():
    values = np.repeat([1.0, 2.0, 3.0], [50, 1, 49])
    groups = scores.by_quantile(values, 10, 5)
    assert sorted(np.concatenate(groups).tolist()) == list(range(100))
    owners = [set(values[places].tolist()) for places in groups]
    assert sum(1.0 in group for group in owners) == 1
    even = scores.by_quantile(np.arange(100.0), 10, 5)
    assert [len(places) for places in even] == [10] * 10


def test_mistakes_are_the_wrong_rows_with_the_largest_loss(runs):
    judged = Quality(read_files(runs["digits"]))
    found = mistakes(judged)
    losses = scores.class_losses(judged.files.predictions.outputs, judged.targets)
    wrong = judged.guess != judged.targets
    assert [m.loss for m in found] == sorted(losses[wrong], reverse=True)[:20]
    first = found[0]
    assert judged.files.predictions.rows[first.place] == first.row
    assert first.truth == str(judged.targets[first.place])
    table = parts(runs["digits"])["mistakes"].tables[0]
    assert table.rows[0][0] == f"{first.row + 1:,}"


# ------------------------------------------------------------------ what stands out
def test_a_run_below_a_baseline_says_so_first(copied):
    folder = copied("house")
    edited(folder, "summary.json", lambda s: s.update(baselines={"constant": -0.1, "linear": 2.0}))
    made = page.make(folder)
    assert made.headline.startswith("No better than the linear baseline: val/r2 ")
    assert made.findings[0].check == "baseline"
    assert "Baselines on the same split: constant -0.1000 and linear 2.000." in made.more
    some = {"constant": -2, "linear": -1.0, "linear_on": "1,000 rows"}
    edited(folder, "summary.json", lambda s: s.update(baselines=some))
    made = page.make(folder)
    assert made.headline.startswith("val/r2 ")
    assert made.more[0].endswith("linear -1.000 (fitted on 1,000 rows).")
    edited(folder, "summary.json", lambda s: s.update(baselines=None))
    assert page.make(folder).more == ()


def test_overfitting_and_a_run_too_short_are_said(copied):
    folder = copied("house")
    rows = [
        {"epoch": e + 1, "train/loss": 1 / (e + 1), "val/loss": v, "val/r2": 0.1, "lr": 0.1}
        for e, v in enumerate([1.0, 0.5, 0.6, 0.7])
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edited(folder, "summary.json", lambda s: s.update(best_epoch=4, epochs=4))
    found = said(folder)
    assert "val/loss rose from 0.500 at epoch 2 to 0.700 at the end" in found["overfitting"][0]
    assert "length" in found
    for row in rows:
        row["val/loss"] = 1 / row["epoch"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "overfitting" not in said(folder)


def test_classes_never_predicted_and_never_right_are_named(tmp_path):
    targets = np.repeat([0, 1, 2], 20)
    guess = np.concatenate([np.zeros(20), np.ones(20) * 3, np.zeros(20)]).astype(int)
    guess[40] = 1
    found = said(fake(tmp_path / "run", list("abcd"), 4.0 * np.eye(4)[guess], targets))
    assert "class c" in found["class never predicted"][0]
    assert "class b" in found["class never right"][0]


def test_miscalibration_is_said_where_chance_does_not_explain_it(tmp_path):
    drawn = np.random.default_rng(0)
    targets = drawn.integers(0, 2, 400)
    guess = np.where(drawn.random(400) < 0.7, targets, 1 - targets)
    bold = fake(tmp_path / "bold", ["a", "b"], 8.0 * np.eye(2)[guess], targets)
    assert "mean confidence 100 %, accuracy" in said(bold)["calibration"][0]
    honest = fake(tmp_path / "honest", ["a", "b"], 0.85 * np.eye(2)[guess], targets)
    assert "calibration" not in said(honest)


def test_predictions_of_another_run_are_not_believed(copied, runs):
    folder = copied("digits")
    recorded = json.loads((folder / "summary.json").read_text())["metrics"]["val/accuracy"]
    edited(folder, "summary.json", lambda s: s["metrics"].update({"val/accuracy": recorded - 0.2}))
    assert "not of one run" in said(folder)["record"][0]
    edited(folder, "summary.json", lambda s: s.update(best_epoch=1))
    assert "does not fit this run: it is of epoch" in said(folder)["record"][0]
    assert "confusion" not in parts(folder)
    shutil.copy(runs["house"] / predictions.FILE, folder / predictions.FILE)
    assert "it has 1 outputs, its preparation 10" in said(folder)["record"][0]


def test_log_rates_are_not_taken_for_values(copied):
    folder = copied("counts")
    judged = Quality(read_files(folder))
    np.testing.assert_allclose(judged.values, np.exp(judged.files.predictions.outputs))
    (folder / "config.json").unlink()
    made = page.make(folder)
    assert "errors" not in {part.name for part in made.parts}
    assert any("the loss is not known" in finding.text for finding in made.findings)


# ------------------------------------------------------------------ statuses and damage
def test_runs_that_did_not_end_well_say_so(runs, copied):
    assert page.make(runs["diverged"]).headline == (
        "Diverged in epoch 1 of 2; no epoch was completed."
    )
    for status, begins in (("pruned", "Pruned after epoch 3 of 3: other runs"),
                           ("failed", "Failed in epoch 4"),
                           ("interrupted", "Interrupted after epoch 3")):  # fmt: skip
        folder = copied("digits")
        edited(folder, "summary.json", lambda s, status=status: s.update(status=status))
        assert page.make(folder).headline.startswith(begins)
        shutil.rmtree(folder)
    folder = copied("digits")
    (folder / "summary.json").unlink()
    made = page.make(folder)
    assert made.headline.startswith("Interrupted after epoch 3 of 3; best val/accuracy 0.")
    assert "summary.json is missing" in made.findings[0].text


@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "metrics.jsonl", "preparation.json",
             "preparation.safetensors", "predictions.safetensors"],
)  # fmt: skip
@pytest.mark.parametrize("damage", ["gone", "junk", "half", "list", "folder", "link", "changed"])
def test_a_damaged_file_is_told_and_stops_nothing(copied, name, damage):
    folder = copied("house")
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link":
        path.symlink_to("/dev/zero")
    elif damage == "changed" and not name.startswith("preparation"):
        path.write_bytes(content)
    elif damage != "gone":
        spoiled = {"junk": b"\xff\0{", "half": content[: len(content) // 2], "list": b"[1, 2]"}
        path.write_bytes(spoiled.get(damage, content.replace(b"r", b"s", 1)[:-1] + b" "))
    made = page.make(folder)
    page.write(made, folder)
    texts = [finding.text for finding in made.findings if finding.check == "record"]
    harmless = damage == "changed" and not name.startswith("preparation")
    gone = name == "preparation.json" and damage == "gone"  # as of older runs
    assert harmless or gone or any(name.split(".")[0] in text for text in texts), texts
    assert made.parts


def test_a_run_under_way_is_called_so(copied):
    folder = copied("digits")
    (folder / "summary.json").unlink()
    held = record.hold(folder)
    made = page.make(folder)
    held.release()
    assert made.headline.startswith("Under way, after epoch 3 of 3; best val/accuracy 0.")
    assert (made.facts["status"], "record" in said(folder)) == ("under way", True)
    (folder / record.LOCK).mkdir()  # somebody's, and no lock
    assert page.make(folder).headline.startswith("Interrupted after epoch 3")


def test_a_refit_is_not_judged(copied):
    folder = copied("house")
    (folder / predictions.FILE).unlink()
    edited(folder, "summary.json", lambda s: s.update(objective=None, refit_of="runs/a"))
    made = page.make(folder)
    assert made.headline == "Refit of runs/a, validation rows included: 4 epochs, not judged."
    assert [f for f in made.findings if f.check == "record"] == []


def test_predictions_from_before_a_run_went_on_are_called_so(copied):
    folder = copied("house")
    (folder / "summary.json").unlink()
    rows = (folder / "metrics.jsonl").read_text()
    better = record.read_metrics(folder)[-1] | {"epoch": 9, "val/r2": 0.99}
    (folder / "metrics.jsonl").write_text(rows + json.dumps(better) + "\n")
    assert "from before the run went on; best is 9." in said(folder)["sample"][0]


def test_old_records_get_what_they_can():
    made = page.make(REPO / "tests" / "old" / "681e2c3" / "run")
    assert made.headline == "val/accuracy 0.3472 at epoch 4 of 4."
    assert [p.name for p in made.parts] == ["findings", "curves", "data", "next", "record"]


def test_a_sample_of_the_predictions_is_said(tmp_path):
    outputs = np.eye(3)[np.arange(30) % 3]
    folder = fake(tmp_path / "run", list("abc"), outputs, np.arange(30) % 3, size=1000)
    assert "kept of 30 of the 1,000 validation rows" in said(folder)["sample"][0]
    assert "rows of the sample" in parts(folder)["classes"].texts[0]


def test_notes_of_the_data_are_in_the_record(runs):
    about = json.loads((runs["house"] / "config.json").read_text())["data"]
    assert "left out: id" in about["notes"][0]
    shown = parts(runs["house"])["data"]
    assert shown.texts == tuple(f"{note}." for note in about["notes"])
    assert shown.facts["val rows"] == f"{about['rows'][1]:,}"
    cells = {row[0]: row for row in shown.tables[0].rows}
    assert cells["rooms"][1] == "number"
    assert cells["city"][-1] == "2: Oslo and Rome <b>"
    assert cells["built"][1] == "date"


# ------------------------------------------------------------------ names from data
def test_names_from_data_are_text(tmp_path):
    names = [ODD, "x" * 1000, "", *map(str, range(25))]
    drawn = np.random.default_rng(0)
    targets = drawn.integers(0, len(names), 300)
    folder = fake(tmp_path / "run", names, drawn.normal(size=(300, len(names))), targets)
    path = page.write(page.make(folder), tmp_path / "out")
    text = path.read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == 3
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "x" * 61 not in text
    assert html.escape("</script><script>alert(1)")[:20] in text


def test_ten_thousand_classes_make_a_small_page(tmp_path):
    drawn = np.random.default_rng(0)
    targets = drawn.integers(0, 10_000, 200)
    outputs = drawn.normal(size=(200, 10_000))
    names = [f"class {i} of many, with a long name {'y' * 40}" for i in range(10_000)]
    folder = fake(tmp_path / "run", names, outputs, targets)
    made = page.make(folder)
    assert len(page.write(made, tmp_path / "out").read_bytes()) < 3_000_000
    shown = {part.name: part for part in made.parts}
    assert len(shown["confusion"].figures[0].data[0]["z"]) == 20
    assert "9,800 more are left out" in shown["classes"].tables[0].see


# ------------------------------------------------------------------ examples
def test_raw_rows_are_on_the_page_only_on_request(runs, tmp_path):
    assert "examples" not in parts(runs["house"])
    shown = {p.name: p for p in page.make(runs["house"], raw=True).parts}["examples"].examples
    lines = (runs["house"].parent / "house.csv").read_text().splitlines()[1:]
    found = mistakes(Quality(read_files(runs["house"])))
    for mistake, example in zip(found, shown, strict=True):
        cells = dict(
            zip(("id", "rooms", "city", "built"), lines[mistake.row].split(","), strict=False)
        )
        assert (example.cells["city"], example.cells["built"]) == (cells["city"], cells["built"])
        assert cells["rooms"] in ("", example.cells["rooms"])


def test_pictures_and_texts_are_those_the_model_saw(runs):
    shown = {p.name: p for p in page.make(runs["digits"], raw=True).parts}["examples"].examples
    assert len(shown) == 20
    assert all(example.picture.startswith("data:image/png;base64,") for example in shown)
    shown = {p.name: p for p in page.make(runs["docs"], raw=True).parts}["examples"].examples
    assert all(len(example.text) > 20 for example in shown)


def test_examples_of_other_data_are_not_shown(copied, capsys):
    folder = copied("house")
    edited(folder, "config.json", lambda c: c["data"].update(hash="0" * 32))
    (part,) = (p for p in page.make(folder, raw=True).parts if p.name == "examples")
    assert (part.examples, "the data have changed since the run" in part.texts[0]) == ((), True)
    edited(folder, "config.json", lambda c: c["config"]["data"].update(path="nowhere.csv"))
    (part,) = (p for p in page.make(folder, raw=True).parts if p.name == "examples")
    assert "nowhere.csv: no such file" in part.texts[0]
    assert main([str(folder), "--examples"]) == 0
    assert "The rows are not shown: nowhere.csv: no such file" in capsys.readouterr().out


def test_each_kind_of_inputs_turns_its_tensors_back():
    pixels = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(torch.uint8)
    pictures = Pictures.fit([pixels], np.arange(2))
    seen = examples.pixels(pictures, pictures.apply(pixels)[1].numpy())
    np.testing.assert_array_equal(seen, pixels[1].permute(1, 2, 0))
    texts = Texts(("the", "cat"), 1, 5)
    assert examples.tokens(texts, texts.apply(["The cat sat"])[0].numpy()) == "the cat [?]"
    raw = {"a": np.array([1.5, 2.0, 70.25]), "b": np.array(["x", "y", "x"], object)}
    inputs = Table.fit([raw], np.arange(3))
    seen = examples.cells(inputs, inputs.apply(raw)[2].numpy())
    assert seen == {"a": "70.25", "b": "x"}
    unknown = {"a": np.array([2.0]), "b": np.array(["z"], object)}
    seen = examples.cells(inputs, inputs.apply(unknown)[0].numpy())
    assert seen["b"] == "none of its categories"


# ------------------------------------------------------------------ the command
def test_the_command_takes_a_run(runs, tmp_path, capsys):
    assert main([str(runs["members"]), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Its 3 members alone: " in out
    assert f"python train.py rerun={runs['members']} seed=1" in out
    assert (tmp_path / "out" / HTML).is_file()
    assert main([str(runs["members"]), str(runs["house"])]) == 2
    assert "is a run's folder, which has a page of its own" in capsys.readouterr().err
    assert main([str(tmp_path), "--examples"]) == 2
    assert main([str(tmp_path)]) == 2
    assert "no runs in it" in capsys.readouterr().err
    assert is_run(runs["members"])
    assert not is_run(tmp_path)
    assert "val/accuracy 0." in knobs.report(runs["members"]).headline


def test_a_page_needs_no_torch(runs, tmp_path):
    code = (
        "import sys; from knobs.report.__main__ import main; "
        f"main([{str(runs['house'])!r}, '--out', {str(tmp_path)!r}]); "
        "print([m for m in ('torch', 'pandas', 'sklearn', 'scipy', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def tab():
    with browser(find()) as page_:
        yield page_


@needs_browser
@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("docs", 390, True), ("two", 1280, False), ("diverged", 390, False)],
)
def test_the_page_draws_fits_a_phone_and_is_silent(runs, tab, tmp_path, name, width, dark):
    path = page.write(page.make(runs[name]), tmp_path)
    tab.said.clear()
    tab.asked.clear()
    tab.open(path, width=width, dark=dark)
    tab.run("plots.length ? show(plots) : null")
    tab.until(DRAWN)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("plots.every((p) => p.scrollWidth <= p.clientWidth + 1)")
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    assert tab.said == []


@needs_browser
def test_a_long_table_unfolds_and_sorts_by_itself(tab, tmp_path):
    drawn = np.random.default_rng(0)
    targets = drawn.integers(0, 60, 400)
    outputs = 2 * np.eye(60)[targets] + drawn.normal(size=(400, 60))
    folder = fake(tmp_path / "run", [f"c{i}" for i in range(60)], outputs, targets)
    path = page.write(page.make(folder), tmp_path / "out")
    rows = "[...document.querySelectorAll('#classes tbody tr')].filter((r) => r.offsetHeight)"
    tab.said.clear()
    tab.open(path)
    assert tab.run(f"{rows}.length") == 20
    tab.run("document.querySelectorAll('#classes th')[5].click()")
    assert tab.run(f"{rows}.length") == 60
    found = tab.run(f"{rows}.map((row) => +row.cells[5].textContent)")
    assert found == sorted(found)
    assert tab.run("document.querySelectorAll('#data .short').length") == 1
    assert tab.said == []


def test_every_figure_has_a_name_of_its_own_and_a_place(runs):
    for name in ("digits", "two", "labels", "members"):
        made = page.make(runs[name])
        figures = [figure.name for part in made.parts for figure in part.figures]
        assert len(set(figures)) == len(figures)
        text = page.write(made, runs[name]).read_text()
        assert set(re.findall(r'data-figure="([^"]+)"', text)) == set(figures)
