"""Splits by groups and by time, remarks on targets: exact shares, borders, lines at fault."""

import numpy as np
import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.data import splits
from knobs.errors import ConfigError, DataError

SHARES = [0.6, 0.2, 0.2]


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_whole_and_shares_and_classes_are_kept(seed):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 30, 200)
    groups = np.repeat(np.arange(200), sizes)
    classes = draw.choice(3, len(groups), p=[0.7, 0.2, 0.1])
    place = splits.by_group(groups, classes, SHARES, seed)
    assert all(len({*place[groups == g]}) == 1 for g in range(200))
    got = np.bincount(place) / len(place)
    assert np.abs(got - SHARES).max() <= 15 / len(place)  # half of the largest group
    for c in range(3):
        share = np.bincount(place[classes == c]) / (classes == c).sum()
        assert np.abs(share - SHARES).max() < 0.02
    assert np.array_equal(place, splits.by_group(groups, classes, SHARES, seed))
    assert not np.array_equal(place, splits.by_group(groups, classes, SHARES, seed + 1))


@pytest.mark.parametrize(("sizes", "expected"), [
    ([5, 5, 5], [5, 5, 5]),  # a group for each, whatever the shares
    ([90, 1, 1], [90, 1, 1]),
    ([60, 20, 20], [60, 20, 20]),
    ([10] * 10, [60, 20, 20]),
])  # fmt: skip
def test_few_groups_fill_every_split(sizes, expected):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    place = splits.by_group(groups, np.zeros(len(groups), int), SHARES, 0)
    assert np.bincount(place).tolist() == expected


@pytest.mark.parametrize(("times", "expected"), [
    (range(10), [0] * 6 + [1] * 2 + [2] * 2),
    (range(9, -1, -1), [2] * 2 + [1] * 2 + [0] * 6),
    ([1, 1, 1, 1, 1, 1, 1, 2, 2, 3], [0] * 7 + [1] * 2 + [2]),  # ties at a border stay together
    ([1, 2, 2, 2, 2, 2, 2, 2, 2, 3], [0] + [1] * 8 + [2]),
    ([1, 1, 1, 1, 1, 1, 1, 1, 2, 3], [0] * 8 + [1, 2]),
    ([1, 2, 3, 3, 3, 3, 3, 3, 3, 3], [0, 1] + [2] * 8),
])  # fmt: skip
def test_the_oldest_rows_train_and_the_newest_test(times, expected):
    assert splits.by_time(np.array([*times], float), SHARES).tolist() == expected


def test_too_few_groups_or_times():
    with pytest.raises(DataError, match="user has 2 groups; 3 splits need one each"):
        splits.by_group(np.array([0, 1, 1]), np.zeros(3, int), SHARES, 0, "user")
    with pytest.raises(DataError, match="day has 2 different times; 3 splits need one each"):
        splits.by_time(np.array([0, 1.0, 1]), SHARES, "day")


def table(path, rows=120, **changes):
    """Users of 1 .. 9 rows, a day each, a class; `changes` are (row, cell) of a column."""
    draw, lines = np.random.default_rng(0), []
    for i in range(rows):
        row = {"user id": f"u{i // 5}", "Ort (cm)": str(i // 4), "day": f"{i % 28 + 1}.{i // 28 + 1}.2024",
               "x": f"{draw.normal():.4f}", "y": "ab"[i % 2]}  # fmt: skip
        lines.append(row | {name: c for name, (at, c) in changes.items() if at == i})
    path.write_text("\n".join(map(",".join, [lines[0], *(r.values() for r in lines)])) + "\n")
    return path


def load(path, *more):
    base = ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]
    return build.data(command.checked([*base, *more]))


@pytest.mark.parametrize("override", [
    "data.split=group:user id", 'data.split="group:user id"', "data.split='group:Ort (cm)'",
])  # fmt: skip
def test_a_table_is_split_by_groups(override, tmp_path):
    path = table(tmp_path / "t.csv")
    column = 5 if "user" in override else 4
    data = load(path, override)
    groups = [{int(r) // column for r in s.rows} for s in (data.train, data.val, data.test)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 120 / column
    assert [len(s) for s in (data.train, data.val, data.test)] == pytest.approx([72, 24, 24], abs=2)
    assert data.notes[1].endswith("splits the rows, and is no input")
    assert data.hash != load(path).hash


def test_a_table_is_split_by_time(tmp_path):
    path = table(tmp_path / "t.csv")
    data = load(path, "data.split=time:day", "data.val=0.25", "data.test=0.25")
    assert [s.rows.tolist() for s in (data.train, data.val, data.test)] == [
        [*range(60)], [*range(60, 90)], [*range(90, 120)]]  # fmt: skip
    kept = load(path, "data.split=time:day", 'data.columns=["day:dmy"]')
    assert kept.shape.input[0] > data.shape.input[0]
    random = load(path)
    assert torch.equal(random.train.rows, load(path, "data.split=random").train.rows)
    assert random.hash == load(path, "data.split=random").hash


def test_an_official_test_table_is_not_split(tmp_path):
    path, other = table(tmp_path / "t.csv"), table(tmp_path / "u.csv", rows=12)
    data = load(path, "data.split=time:day", "data.val=0.25", f"data.test_path={other}")
    assert data.train.rows.tolist() == [*range(90)]
    assert data.val.rows.tolist() == [*range(90, 120)]
    assert data.test.rows.tolist() == [*range(120, 132)]


def test_texts_are_split_by_a_column(tmp_path):
    path = table(tmp_path / "t.csv")
    base = ["data=text_csv", f"data.path={path}", "data.text=x", "data.label=y", "model=text_bag"]
    data = build.data(command.checked([*base, "data.split=time:day"]))
    assert data.train.rows.tolist() == [*range(72)]
    assert data.hash != build.data(command.checked(base)).hash


@pytest.mark.parametrize(("change", "override", "message"), [
    ({"user id": (3, " ")}, "data.split=group:user id",
     "t.csv, line 5: user id=empty: must be a name, for data.split=group:user id"),
    ({"day": (7, "soon")}, "data.split=time:day",
     "t.csv, line 9: day=soon: must be a date or a number, for data.split=time:day"),
    ({"day": (7, "")}, "data.split=time:day", "t.csv, line 9: day=empty: must be a date"),
    ({}, "data.split=group:userid", "t.csv: no column userid; .*; did you mean user id"),
    ({}, "data.split=time:user id", "t.csv: user id: neither dates nor numbers, 'u0' for one"),
])  # fmt: skip
def test_cells_that_give_no_group_or_time(change, override, message, tmp_path):
    path = table(tmp_path / "t.csv", **change)
    with pytest.raises(DataError, match=message):
        load(path, override)


def test_ways_that_are_none():
    with pytest.raises(ConfigError, match="data.split=groups:x: must be random, or a group:COLUMN"):
        command.checked(["data=csv", "data.path=x", "data.target=y", "data.task=regression",
                         "data.split=groups:x"])  # fmt: skip
    with pytest.raises(ConfigError, match="data.split=group:: must be random, group:COLUMN or"):
        splits.column_of("group:")


def test_another_validation_seed_keeps_the_groups_of_the_test_split():
    cells = np.array([f"g{i % 30}" for i in range(300)], object)
    seeds = [
        splits.with_seeds({"split_seed": 0, "val_seed": n})["split_seed"] for n in (None, 0, 5)
    ]
    keys = splits.keys_of("group:g", cells)
    usual, same, other = (splits.split_by("group:g", keys, (0.6, 0.2, 0.2), seed) for seed in seeds)
    assert (usual == same).all()
    assert ((usual == 2) == (other == 2)).all()
    assert (usual != other).any()
    assert not {*cells[other == 0]} & {*cells[other == 1]}
