"""Data on the disk: the bits of data in memory, whatever the file, the split and the targets."""

import numpy as np
import pandas as pd
import pytest
import torch

from knobs import build, cache
from knobs.config import command
from knobs.data import ondisk, prepare

ROWS, BLOCK = 700, 97


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Blocks of a few rows, and a cache of the test's own."""
    monkeypatch.setattr(ondisk, "BLOCK", BLOCK)
    monkeypatch.setattr(prepare, "BLOCK", BLOCK)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def table(rows=ROWS, seed=0):
    """Columns of every kind that the rules know."""
    draw = np.random.default_rng(seed)
    pick = lambda *words, p=None: draw.choice(words, rows, p=p)  # noqa: E731
    x, whole = draw.normal(size=(4, rows)), draw.integers(-5, 90, rows)
    late = np.arange(rows) > rows // 2
    return pd.DataFrame({
        "id": np.arange(rows) + 7,
        "a": x[0],
        "b": np.where(draw.random(rows) < 0.2, np.nan, x[1] * 1e6 + 1e9),
        "whole": whole,
        "holes": [None if late[i] and i % 9 == 0 else int(n) for i, n in enumerate(whole)],
        "late": ["many" if i > 0.98 * rows else f"{n}" for i, n in enumerate(whole)],
        "mixed": [n + 0.5 if late[i] else int(n) for i, n in enumerate(whole)],
        "empty": "",
        "same": 3,
        "code": [f"{n:03d}" for n in draw.integers(0, 40, rows)],
        "yes": pick("True", "False"),
        "shop": pick("Lima", "Ürümqi", "a \"b\", c", "?", "Bergen", p=[0.4, 0.3, 0.2, 0.09, 0.01]),
        "day": pd.to_datetime("2021-03-01") + pd.to_timedelta(draw.integers(0, 900, rows), "D"),
        "note": [f"row {i} says something of its own" for i in range(rows)],
        "one": 1, "less": draw.integers(0, 3, rows),
        "g": draw.integers(0, 60, rows),
        "w": draw.random(rows),
        "y": np.where(x[0] + x[2] > 0, "up", np.where(x[1] > 1.5, "side", "down")),
        "z": x[0] * 3 + x[1], "v": x[2] - whole, "l": (x[0] > 0).astype(int),
        "m": (x[1] > 0.3).astype(int), "t": pick("good film", "bad film indeed", "so so", "", "n/a"),
    })  # fmt: skip


WRITERS = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "t.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "t.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t", encoding="utf-16"),
    "t.parquet": lambda frame, path: frame.astype({"holes": float, "mixed": float}).to_parquet(
        path, row_group_size=150
    ),
}
DROP = "data.drop=[z,v,l,m,w,t,g]"
CLASSES = ["data.task=classification", "data.target=y", DROP]
CASES = {
    "classes": CLASSES,
    "bins": [*CLASSES, "data.numbers=both"],
    "weights": ["data.task=classification", "data.target=y", "data.weight=w",
                "data.drop=[z,v,l,m,t,g]"],
    "value": ["data.task=regression", "data.target=z", "data.drop=[y,v,l,m,w,t,g]"],
    "values": ["data.task=regression", "data.target=[z,v]", "data.drop=[y,l,m,w,t,g]"],
    "labels": ["data.task=multilabel", "data.target=[l,m]", "data.drop=[y,z,v,w,t,g]"],
    "groups": [*CLASSES[:2], "data.split=group:g", "data.drop=[z,v,l,m,w,t]"],
    "time": [*CLASSES, "data.split=time:day"],
    "fold": [*CLASSES, "data.folds=4", "data.fold=2"],
    "said": [*CLASSES, 'data.columns=["whole:category","shop:drop","code:number"]',
             'data.na=["7","Bergen"]'],
    "kept group": [*CLASSES[:2], "data.split=group:g", 'data.columns=["g:number"]',
                   "data.drop=[z,v,l,m,w,t]"],
}  # fmt: skip


def load(*overrides):
    return build.data(command.checked(list(overrides)))


def same(one, other):
    """Assert that two sets of data are one, to the last bit, wherever their inputs lie."""
    for name in ("train", "val", "test"):
        a, b = getattr(one, name), getattr(other, name)
        for what in ("x", "y", "weight", "rows"):
            left, right = getattr(a, what), getattr(b, what)
            assert (left is None) == (right is None), what
            assert left is None or (left.dtype == right.dtype and torch.equal(left, right)), what
    assert one.preparation.save() == other.preparation.save()
    assert (one.hash, one.rows_hash, one.shape) == (other.hash, other.rows_hash, other.shape)
    assert (one.all_y is None) == (other.all_y is None)
    assert other.notes == ["data are read from the disk (data.storage=map)", *one.notes]
    assert other.train.mapped
    assert not one.train.mapped


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
def test_a_table_on_the_disk_is_the_table_in_memory(case, file, tmp_path):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=csv", f"data.path={tmp_path / file}", *CASES[case]]
    memory = load(*base)
    assert len(memory.notes) > 1
    same(memory, load(*base, "data.storage=map"))
    again = load(*base, "data.storage=map")  # from the cache
    assert torch.equal(again.test.x, memory.test.x)


@pytest.mark.parametrize("file", ["t.csv.gz", "t.tsv"])
def test_packed_tables_and_other_encodings(file, tmp_path):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=csv", f"data.path={tmp_path / file}", *CLASSES]
    same(load(*base), load(*base, "data.storage=map"))


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("odd", [False, True])
def test_an_official_test_table(file, odd, tmp_path):
    test = table(130, seed=1)
    if odd:  # a column of numbers in one table, of words in the other: both are read as texts
        test["less"] = test["less"].astype(str).replace("2", "two")
    WRITERS[file](table(), tmp_path / file)
    WRITERS[file](test, tmp_path / f"u{file}")
    base = ["data=csv", f"data.path={tmp_path / file}", f"data.test_path={tmp_path / f'u{file}'}",
            *CLASSES]  # fmt: skip
    if odd:
        base[-1] = "data.drop=[z,v,l,m,w,t,g]"
        base.append('data.columns=["less:category"]')
    same(load(*base), load(*base, "data.storage=map"))


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("more", [
    ["data.label=y"], ["data.label=z", "data.task=regression"], ["data.label=y", "data.folds=3"],
    ["data.label=[l,m]", "data.task=multilabel", "data.weight=w", "data.ngrams=2"],
    ["data.label=y", "data.split=group:g", "data.max_length=2"],
])  # fmt: skip
def test_texts_on_the_disk_are_the_texts_in_memory(more, file, tmp_path):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=text_csv", f"data.path={tmp_path / file}", "model=text_bag", "data.text=t", *more]
    same(load(*base), load(*base, "data.storage=map"))
