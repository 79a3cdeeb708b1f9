"""The tables of a run, against closed forms; what is said of it, and which run is the best."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from knobs.tracking import about, tables
from knobs.tracking.remote import Best


def write(folder, targets, outputs, names=(), classes=(), mean=0.0, std=1.0):
    names = list(names)
    rows = np.arange(len(targets)) * 2
    save_file(
        {"rows": rows, "targets": targets, "outputs": outputs.astype(np.float16)},
        folder / tables.PREDICTIONS,
    )
    target = {"names": list(names), "classes": list(classes)}
    (folder / tables.PREPARATION).write_text(json.dumps({"target": target}))
    arrays = {"target.mean": np.full(len(names), mean), "target.std": np.full(len(names), std)}
    save_file(arrays, folder / tables.ARRAYS)


def test_a_confusion_matrix_has_the_cells_with_rows_under_any_names(tmp_path):
    outputs = np.eye(3)[[0, 0, 1, 2, 1]]
    write(tmp_path, np.array([0, 0, 0, 2, 1]), outputs, classes=["a/b", "ü", ""])
    name, columns, rows = tables.table(tmp_path, {"data": {"task": "classification"}})
    assert (name, columns) == ("confusion", ["actual", "predicted", "rows"])
    assert rows == [["a/b", "a/b", 2], ["a/b", "ü", 1], ["ü", "ü", 1], ["", "", 1]]
    (tmp_path / tables.PREPARATION).unlink()  # data without: classes are numbers
    assert tables.table(tmp_path, {"data": {"task": "classification"}})[2][1] == ["0", "1", 1]


def test_many_classes_leave_the_cells_with_most_rows(tmp_path):
    rng = np.random.default_rng(0)
    targets, said = rng.integers(0, 1000, 5000), rng.integers(0, 1000, 5000)
    targets[:10], said[:10] = 999, 998
    write(tmp_path, targets, np.eye(1000)[said], classes=map(str, range(1000)))
    rows = tables.table(tmp_path, {"data": {"task": "classification"}})[2]
    assert len(rows) == tables.MOST_ROWS
    cells, counts = np.unique(np.stack([targets, said], 1), axis=0, return_counts=True)
    assert sum(r[2] for r in rows) == np.sort(counts)[::-1][: tables.MOST_ROWS].sum()
    assert ["999", "998", int(counts[(cells == (999, 998)).all(1)][0])] in rows


def test_labels_have_their_four_counts(tmp_path):
    targets = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    write(tmp_path, targets, np.array([[2.0, 1], [-1, 3], [-2, -1]]), classes=["x", "y"])
    name, _, rows = tables.table(tmp_path, {"data": {"task": "multilabel"}})
    assert name == "labels"
    assert [r[3] for r in rows] == [1, 1, 0, 1, 1, 1, 1, 0]
    assert rows[1] == ["x", "yes", "no", 1]


@pytest.mark.parametrize("log_rates", [False, True])
def test_residuals_are_in_the_targets_own_unit(tmp_path, log_rates):
    targets, outputs = np.array([[1.0], [-1.0]]), np.array([[0.5], [0.0]])
    write(tmp_path, targets, outputs, names=["price"], mean=10.0, std=4.0)
    loss = {"_target_": "knobs.losses.poisson" if log_rates else "knobs.losses.mse"}
    name, columns, rows = tables.table(tmp_path, {"data": {"task": "regression"}, "loss": loss})
    said = [float(np.exp(0.5)), 1.0] if log_rates else [12.0, 10.0]
    assert name == "residuals"
    assert columns == ["target", "row", "actual", "predicted", "residual"]
    assert rows == [
        ["price", 1, 14.0, said[0], 14 - said[0]],
        ["price", 3, 6.0, said[1], 6 - said[1]],
    ]


@pytest.mark.parametrize(
    ("count", "width", "rows"), [(5000, 1, 2000), (900, 3, 1998), (2, 3000, 2000)]
)
def test_residuals_are_bounded(tmp_path, count, width, rows):
    values = np.zeros((count, width))
    write(tmp_path, values, values, names=map(str, range(width)))
    found = tables.table(tmp_path, {"data": {"task": "regression"}})[2]
    assert len(found) == rows
    assert found[-1][1] == (2 * count - 1 if count > 2 else 1)


def test_a_run_without_predictions_has_no_table(tmp_path):
    assert tables.table(tmp_path, {"data": {"task": "regression"}}) is None


# ------------------------------------------------------------------ what is said of a run
def write_record(folder, role=None, **document):
    folder.mkdir(parents=True)
    place = {"run": {"number": 3} | ({"role": role} if role else {})} if role != "alone" else {}
    base = {"overrides": ["optimizer.lr=0.1"], "choices": {"model": "mlp", "optimizer": "sgd"}}
    (folder / "config.json").write_text(json.dumps(base | place | document))


def test_a_run_is_told_with_its_study_and_its_job_type(tmp_path):
    config = {"data": {"name": "d" * 99}}
    study = {"study": "optimizers", "question": "Which one?", "runs": {}}
    types = {"default": "search", "search": "search", "confirm": "confirm", "baseline": "confirm",
             "step": "confirm", "test": "test", None: "train"}  # fmt: skip
    for role, job_type in types.items():
        write_record(tmp_path / "s" / str(role), role)
        (tmp_path / "s" / "study.json").write_text(json.dumps({"schema": 2} | study))
        found = about.read(tmp_path / "s" / str(role), config)
        assert found.job_type == job_type
        assert found.tags == ["d" * about.MAX_TAG, "mlp", "optimizers"]
        assert found.notes.startswith("Question: Which one?\n\npython train.py ")
    write_record(tmp_path / "alone", "alone")
    single = about.read(tmp_path / "alone", config | {"refit": "there"})
    assert (single.job_type, single.sweep, single.study) == ("refit", "", "")
    shown = single.config_with(None, "here")
    assert shown["choices"] == {"model": "mlp", "optimizer": "sgd"}
    assert shown["started"]["host"] == "here"
    assert about.read(tmp_path / "nowhere", {}) == about.About({})


def test_no_secret_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    lines = ["model.note=s3cret-value", "my.api_key=abcdefg"]
    write_record(tmp_path / "s3cret-value" / "3", "search", overrides=lines)
    study = {"schema": 2, "study": "x", "question": "of s3cret-value"}
    (tmp_path / "s3cret-value" / "study.json").write_text(json.dumps(study))
    found = about.read(tmp_path / "s3cret-value" / "3", {})
    told = json.dumps([found.config_with(None, ""), found.tags, found.notes])
    assert "s3cret-value" not in told
    assert "abcdefg" not in told


def test_a_command_of_200_knobs_that_is_too_long_is_left_out(tmp_path):
    write_record(tmp_path / "a", "alone", overrides=[f"model.knob_{i}={i}" for i in range(200)])
    found = about.read(tmp_path / "a", {})
    assert (found.command, found.notes) == ("", "")
    assert "command" not in found.config_with(None, "")["started"]


# ------------------------------------------------------------------ the best of a sweep
@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 4)])
def test_one_run_of_the_same_data_and_metric_is_the_best(mode, best):
    verdicts = {}
    mirrors = {
        i: SimpleNamespace(judge=lambda b, i=i: verdicts.setdefault(i, []).append(b))
        for i in range(1, 8)
    }
    judge = Best(mirrors)
    for run, value in enumerate([0.5, 0.9, None, 0.1, float("nan"), 0.9, 0.3], 1):
        config = {"objective": {"metric": "m", "mode": mode}, "data": {"name": "ab"[run == 7]}}
        judge.begun(run, {"group": "g"}, config)
        judge.ended(run, value)
    assert best not in verdicts  # it waits
    judge.judge()
    assert verdicts == {run: [run in (best, 7)] for run in range(1, 8)}
