"""Targets that cannot be learned or judged, and classes that are odd, before anything is trained."""

import numpy as np
import pytest

from knobs import build
from knobs.config import command
from knobs.errors import ConfigError, DataError


def load(path, made, task="classification", *more, target="y"):
    """Data whose targets are made of the row's number."""
    draw = np.random.default_rng(0)
    rows = [f"{draw.normal():.3f},{draw.normal():.3f},{made(i)}" for i in range(100)]
    path.write_text("\n".join(["x,z,y", *rows] if target == "y" else ["x,z,a,b", *rows]) + "\n")
    base = ["data=csv", f"data.path={path}", f"data.target={target}", f"data.task={task}"]
    return build.data(command.checked([*base, *more]))


@pytest.mark.parametrize(("made", "task", "message"), [
    (lambda i: i * 0.37, "classification", "y has 100 values in 100 rows as classes; is it a number, data.task=reg"),
    (lambda i: f"name {i // 3 * 2}" if i % 2 else f"n{i}", "classification", "as classes; is it the right column"),
    (lambda i: "a" if i else "b", "classification", "y is a in every validation row .20.: no model can be judged"),
    (lambda i: 5, "regression", "t.csv: y is 5 in every training row; nothing to learn"),
    (lambda i: 3 if i else 4, "regression", "y: the same in every validation row .20., no model can be judged"),
    (lambda i: "inf" if i == 5 else i, "regression", "t.csv, line 7: y=inf: must be finite"),
    (lambda i: "nan" if i == 5 else i, "regression", "t.csv: 1 rows have no y .*t.csv, line 7"),
    (lambda i: "1e308" if i % 2 else "-1e308", "regression", "t.csv: y: its numbers cannot be standardised"),
    (lambda i: f"2024-01-{i % 28 + 1:02d}", "regression", "line 2: '2024-01-01'.; it holds dates"),
])  # fmt: skip
def test_targets_of_which_nothing_can_be_learned(made, task, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.csv", made, task)


@pytest.mark.parametrize(("made", "note"), [
    (lambda i: "rare" if i < 2 else "ab"[i % 2], "y: 1 or 2 rows of rare, all used for training"),
    (lambda i: i % 30, "y: 30 numbers are classes; data.task=regression?"),
    (lambda i: ["Yes", "yes", "No"][i % 3], "y: Yes and yes differ in case alone, and are classes of their own"),
    (lambda i: ["yes", "?", "no"][i % 3], "y: ? is a class; take out rows without a target"),
    (lambda i: ["true", "false"][i % 2], None), (lambda i: ["1", "1.0", "0"][i % 3], None),
])  # fmt: skip
def test_odd_classes_are_told(made, note, tmp_path):
    data = load(tmp_path / "t.csv", made)
    assert data.notes[1:] == [note] * bool(note)


@pytest.mark.parametrize("seed", range(4))
def test_classes_of_two_rows_stay_in_training(seed, tmp_path):
    def made(i):
        return "one" if i == 50 else "two" if i in (3, 97) else "ab"[i % 2]

    data = load(tmp_path / "t.csv", made, "classification", f"data.split_seed={seed}")
    assert {3, 50, 97} <= set(data.train.rows.tolist())
    assert "y: 1 or 2 rows of one and two, all used for training" in data.notes
    assert sorted([*data.train.rows, *data.val.rows, *data.test.rows]) == list(range(100))


def test_a_class_without_a_training_row_is_told(tmp_path):
    data = load(
        tmp_path / "t.csv",
        lambda i: "new" if i > 90 else "ab"[i % 2],
        "classification",
        "data.split=time:x",
    )
    ordered = np.argsort(
        [float(line.split(",")[0]) for line in (tmp_path / "t.csv").read_text().split("\n")[1:101]]
    )
    assert set(data.train.rows.tolist()) == set(ordered[:60].tolist())
    late = load(tmp_path / "t.csv", lambda i: f"{'new' if i > 90 else 'ab'[i % 2]},{i}",
                "classification", "data.split=time:b", target="a")  # fmt: skip
    assert "no training row of new, which cannot be learned" in late.notes


def test_a_label_that_validation_never_has(tmp_path):
    data = load(
        tmp_path / "t.csv", lambda i: f"{i % 2},{int(i == 0)}", "multilabel", target="[a,b]"
    )
    assert data.notes[1] == "b: the same in every validation row (20)"


def test_an_empty_test_split_is_no_place_to_test(tmp_path):
    from knobs.training.setup import assemble

    data = load(tmp_path / "t.csv", lambda i: "ab"[i % 2], "classification", "data.test=0.001")
    config = command.checked(["test=true", "data=csv", f"data.path={tmp_path / 't.csv'}", "data.target=y",
                              "data.task=classification", "data.test=0.001"])  # fmt: skip
    with pytest.raises(
        DataError, match="no example is left for the test split, which test=true reads"
    ):
        assemble(config, data, build.device("cpu"))


@pytest.mark.parametrize(("override", "message"), [
    ("data.columns=['y:number']", "data.columns=y: is a target; data.task says how it is read"),
    ("data.split=group:y", "data.split=group:y: is a target; choose another column"),
])  # fmt: skip
def test_a_target_that_is_also_something_else(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "t.csv", lambda i: i, "regression", override)
