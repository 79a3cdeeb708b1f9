"""Folds: every row validates once, the test split stays, statistics of a fold's own training rows."""

import functools
import operator

import numpy as np
import pytest
import torch
from conftest import REPO

from knobs import build
from knobs.config import command
from knobs.data.folds import dealt, folded
from knobs.errors import ConfigError, DataError

TABLE = "data=csv data.path={} data.target=y data.task=classification model=mlp"


def data_of(*lines):
    return build.data(command.checked([*lines, "tracking=local"]))


def rows(data):
    return [split.rows.tolist() for split in (data.train, data.val, data.test)]


@pytest.mark.parametrize("name", ["digits", "diabetes", "python_docs"])
def test_every_row_outside_the_test_split_validates_once(name):
    model = ["model=text_bag"] if name == "python_docs" else []
    whole = data_of(f"data={name}", *model)
    folds = [data_of(f"data={name}", *model, "data.folds=5", f"data.fold={k}") for k in range(5)]
    pool = sorted(rows(whole)[0] + rows(whole)[1])
    assert sorted(functools.reduce(operator.iadd, (rows(one)[1] for one in folds), [])) == pool
    for one in folds:
        assert rows(one)[2] == rows(whole)[2]
        assert sorted(rows(one)[0] + rows(one)[1]) == pool
    assert len({one.hash for one in [whole, *folds]}) == 6
    assert len({len(one.train) for one in folds}) <= 2
    assert len({one.shape.input for one in folds}) == 1


def test_the_shuffle_is_that_of_split_seed():
    first, same, other = (
        data_of("data.folds=5", f"data.split_seed={s}", f"seed={n}") for s, n in [(0, 0), (0, 1), (1, 0)]
    )  # fmt: skip
    assert rows(first) == rows(same)
    assert rows(first)[1] != rows(other)[1]


@pytest.mark.parametrize("seed", range(3))
def test_each_fold_has_its_share_of_every_class_to_within_one_row(seed):
    classes = np.random.default_rng(seed).choice(4, 207, p=[0.6, 0.2, 0.15, 0.05])
    place = dealt(207, 5, seed, classes)
    table = np.stack([np.bincount(classes[place == k], minlength=4) for k in range(5)])
    assert (np.ptp(table, axis=0) <= 1).all()
    assert np.ptp(table.sum(1)) <= 1


def test_a_class_of_two_rows_trains_in_every_fold_and_is_told():
    y = np.array(["a"] * 20 + ["b"] * 2 + ["c"] * 3)
    parts = np.arange(20), np.arange(20, 25), np.arange(0)
    for k in range(5):
        (train, chosen, _), notes = folded(parts, y, "classification", 5, k, 0)
        assert {20, 21} <= set(train.tolist())
        assert set(y[train]) == {"a", "b", "c"}
        assert not set(train) & set(chosen)
        assert notes == [
            "fewer rows than 5 folds of b and c: some folds validate without; "
            "those of 1 or 2 rows train in every fold"
        ]


def test_groups_lie_in_one_fold_and_time_is_chained_forward():
    draw = np.random.default_rng(0)
    groups, y = draw.integers(0, 30, 300), draw.choice(2, 300)
    parts = np.arange(200), np.arange(200, 260), np.arange(260, 300)
    seen = []
    for k in range(4):
        (train, chosen, held), _ = folded(
            parts, y, "classification", 4, k, 0, "group", groups, "user"
        )
        assert not set(groups[train]) & set(groups[chosen])
        assert held is parts[2]
        seen += chosen.tolist()
    assert sorted(seen) == list(range(260))
    times = draw.permutation(260).astype(float)
    for k in range(4):
        (train, chosen, _), _ = folded(
            parts, y, "classification", 4, k, 0, "time", np.append(times, [1e3] * 40), "day"
        )
        blocks = 52 * np.arange(6)  # of 260 rows, 5 blocks
        assert sorted(times[train]) == list(range(blocks[k + 1]))
        assert sorted(times[chosen]) == list(range(blocks[k + 1], blocks[k + 2]))


@pytest.mark.parametrize(("way", "needs"), [
    ("random", "needs 7 rows outside the test split, which have 6"),
    ("group", "needs 7 groups of user outside the test split, which have 3"),
    ("time", "needs 8 times of user outside the test split, which have 3"),
])  # fmt: skip
def test_more_folds_than_there_can_be(way, needs):
    parts = np.arange(4), np.arange(4, 6), np.arange(6, 8)
    keys = None if way == "random" else np.array([0, 0, 1, 1, 2, 2, 3, 3])
    with pytest.raises(DataError, match=f"data.folds=7: {needs}; use fewer folds"):
        folded(parts, np.arange(8.0), "regression", 7, 0, 0, way, keys, "user")


@pytest.fixture
def table(tmp_path):
    draw = np.random.default_rng(1)
    cells = [f"{draw.normal():.6f},{word},{day},{y}" for day, (word, y) in enumerate(zip(
        draw.choice(list("abcdefgh"), 120, p=[0.3, 0.3, 0.2, 0.1, 0.04, 0.03, 0.02, 0.01]),
        draw.choice(["no", "yes"], 120), strict=True))]  # fmt: skip
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["x,word,day,y", *cells]))
    return path


@pytest.mark.parametrize("fold", range(3))
def test_the_preparation_is_that_of_the_fold_s_training_rows(table, fold):
    pd = pytest.importorskip("pandas")
    lines = TABLE.format(table).split()
    data = data_of(*lines, "data.folds=3", f"data.fold={fold}", "data.drop=[day]")
    frame = pd.read_csv(table).iloc[data.train.rows.numpy()]
    inputs = data.preparation.inputs
    assert np.allclose(inputs.mean, frame["x"].mean(), rtol=1e-12)
    assert np.allclose(inputs.scale, frame["x"].std(ddof=0), rtol=1e-12)
    known = set(inputs.levels["word"]) - {"other"}
    assert known
    assert known <= set(frame["word"])
    mine = torch.tensor(
        ((frame["x"] - frame["x"].mean()) / frame["x"].std(ddof=0)).tolist()
    ).double()
    assert torch.allclose(data.train.x[:, 0].double(), mine, atol=1e-6)


def test_tables_by_time_and_group(table):
    lines = [*TABLE.format(table).split(), "data.folds=3", "data.split=time:day"]
    plain = data_of(*lines[:-2], "data.split=time:day")
    for k in range(3):
        data = data_of(*lines, f"data.fold={k}")
        assert data.train.rows.max() < data.val.rows.min() <= data.val.rows.max() < 96
        assert torch.equal(data.test.rows, plain.test.rows)
    with pytest.raises(DataError, match=r"t\.csv: data.folds=9: needs 9 groups of word"):
        data_of(*lines[:-2], "data.folds=9", "data.split=group:word", "data.val=.1")


@pytest.mark.parametrize(("lines", "says"), [
    (["data.fold=2"], "data.fold=2: needs data.folds"),
    (["data.fold=3", "data.folds=3"], "data.fold=3: must be below data.folds=3"),
    (["data.fold=all", "data.folds=3"], "train.py -m data.folds=3 data.fold=all"),
    (["data.folds=1"], "data.folds=1: must be null, or a whole number >= 2"),
    (["data.fold=-1", "data.folds=3"], "data.fold=-1: must be a whole number >= 0, or all"),
])  # fmt: skip
def test_a_fold_that_cannot_be(lines, says):
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        command.checked(lines)


def test_images_with_a_validation_folder_have_no_folds(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(4):
                image.new("RGB", (8, 8), (40 * i, 9, 9)).save(tmp_path / part / label / f"{i}.png")
    lines = ["data=image_folder", f"data.root={tmp_path}", "data.size=8", "data.test=.25"]
    with pytest.raises(DataError, match="have a validation split of their own; leave data.folds"):
        data_of(*lines, "data.folds=2")
    for path in (tmp_path / "val").rglob("*.png"):
        path.rename(tmp_path / "train" / path.parent.name / f"v{path.name}")
    for folder in ("val/a", "val/b", "val"):
        (tmp_path / folder).rmdir()
    folds = [data_of(*lines, "data.folds=2", f"data.fold={k}") for k in range(2)]
    assert not set(rows(folds[0])[1]) & set(rows(folds[1])[1])


def test_every_data_set_of_conf_has_folds():
    texts = {path.stem: path.read_text() for path in (REPO / "conf" / "data").glob("*.yaml")}
    assert [name for name, text in texts.items() if "\nfolds: null" not in text] == []


@pytest.mark.parametrize("task", ["balanced", "usual"])
def test_all_folds_have_one_objective(task, tmp_path):
    # 10 % of the rows of all folds, but not of each fold's training rows.
    rare = 11 if task == "balanced" else 13
    path = tmp_path / "t.csv"
    cells = [f"{i * 7919 % 101},{'b' if i % 130 < rare else 'a'}" for i in range(130)]
    path.write_text("\n".join(["x,y", *cells]))
    from knobs.training.setup import class_counts

    lines = TABLE.format(path).split()
    counts = [class_counts(data_of(*lines, "data.folds=4", f"data.fold={k}")) for k in range(4)]
    assert all(count == counts[0] for count in counts)
