"""What a data function of one's own may return, and how each of it becomes Data."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from knobs import build, targets
from knobs.config import command
from knobs.config.check import check
from knobs.data import Stream
from knobs.data.examples import tensor
from knobs.data.own import as_data
from knobs.errors import DataError
from knobs.training import loop
from knobs.training.setup import assemble

CPU = torch.device("cpu")
R = np.random.default_rng(0)
X = R.normal(3, 2, size=(100, 5))
Y = (X[:, 0] > 3).astype(int)
PIXELS = R.integers(0, 256, (100, 3, 8, 8), dtype=np.uint8)
BASE = {"name": "n", "kind": "table", "task": "classification"}


def made(found, given=(), **settings):
    return as_data(found, "own.f", dict(given), BASE | settings)


class Items(Dataset):
    """Items that a function makes."""

    def __init__(self, item, count=100, **more):
        self.item, self.count = item, count
        self.__dict__.update(more)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.item(index)


class Ordered(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


class OrderedColumns:
    """A Hugging Face set that is streamed: it has columns, and no items by number."""

    column_names, features = ("a", "label"), {"a": object(), "label": object()}

    def __iter__(self):
        yield {"a": 1.0, "label": 0}


class Column:
    def __init__(self, names):
        self.names = names


class HuggingFace:
    """The part of a `datasets.Dataset` that is used."""

    def __init__(self, rows, label=("no", "yes")):
        self.rows, self.column_names = rows, list(rows[0])
        self.features = {n: Column(list(label)) if n == "label" else object() for n in rows[0]}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


PLAIN = made((X, Y))


# ------------------------------------------------------------------ the same rows in every form
@pytest.mark.parametrize(
    "found",
    [
        (torch.tensor(X), torch.tensor(Y)),
        (X.tolist(), Y.tolist()),
        {"x": X, "y": Y},
        TensorDataset(torch.tensor(X), torch.tensor(Y)),
        Subset(TensorDataset(torch.tensor(X), torch.tensor(Y)), range(100)),
        list(zip(X, Y, strict=True)),
        Items(lambda i: {"x": X[i], "label": Y[i]}),
        {"train": (X, Y)},
        (X, Y[:, None]),
        (X, Y.astype(float)),
        (X.astype(">f8"), Y.astype(np.int8)),
    ],
    ids=lambda found: type(found).__name__,
)
def test_one_source_in_every_form_is_the_same_data(found):
    data = made(found)
    assert data.hash == PLAIN.hash
    for split in ("train", "val", "test"):
        mine, plain = getattr(data, split), getattr(PLAIN, split)
        assert mine.x.equal(plain.x)
        assert mine.y.equal(plain.y)
        assert mine.rows.equal(plain.rows)
    assert data.classes == ["0", "1"]


def test_rows_of_numbers_are_standardised_by_the_training_rows_and_can_be_prepared():
    rows = PLAIN.train.rows.numpy()
    expected = (X - X[rows].mean(0)) / X[rows].std(0)
    assert np.allclose(PLAIN.val.x, expected[PLAIN.val.rows], atol=1e-5)
    block = {f"x{i}": X[:, i] for i in range(5)}
    assert PLAIN.preparation.apply(block)[PLAIN.val.rows].equal(PLAIN.val.x)
    raw = made((X, Y), normalize=False)
    assert np.allclose(raw.val.x, X[raw.val.rows], atol=1e-6)
    assert raw.preparation.apply(block)[raw.val.rows].equal(raw.val.x)
    assert "standardised by the training split" in PLAIN.notes[-1]
    assert "as they are" in raw.notes[-1]


def test_splits_stratify_as_bundled_sets_and_folds_share_out_the_rest():
    sizes = [len(s) for s in (PLAIN.train, PLAIN.val, PLAIN.test)]
    assert sizes == [60, 20, 20]
    folds = [made((X, Y), folds=4, fold=k) for k in range(4)]
    seen = torch.cat([data.val.rows for data in folds]).sort().values
    outside = torch.cat([PLAIN.train.rows, PLAIN.val.rows]).sort().values
    assert seen.equal(outside)
    assert len({data.hash for data in folds}) == 4
    assert all(data.test.rows.equal(PLAIN.test.rows) for data in folds)


@pytest.mark.parametrize(
    "names", [("train", "test"), ("training", "validation"), ("train", "val", "test")]
)
def test_splits_of_their_own_are_kept(names):
    data = made({name: (X + i, Y) for i, name in enumerate(names)})
    own = dict(zip(names, range(3), strict=False))
    if "test" in own:
        assert data.test.rows.tolist() == list(range(100 * own["test"], 100 * own["test"] + 100))
    else:
        assert 0 < len(data.test) < 100
    if len(names) == 3 or "validation" in names:
        assert data.val.rows.tolist() == list(range(100, 200))
        with pytest.raises(DataError, match=r"data\.folds=3: the data have a validation split"):
            made({name: (X, Y) for name in names}, folds=3)
    else:
        assert len(data.train) == 80
    three = made(((X, Y), (X + 1, Y), (X + 2, Y)))
    assert [len(s) for s in (three.train, three.val, three.test)] == [100, 100, 100]


def test_a_data_frame_is_read_as_the_same_csv(tmp_path):
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(R.integers(0, 900, 100), "D")
    frame = pd.DataFrame({"a": X[:, 0].round(3), "kind": np.where(X[:, 1] > 3, "u", "v"),
                          "day": day, "flag": X[:, 2] > 3, "y": X[:, 3].round(3)})  # fmt: skip
    frame.loc[3, "a"] = np.nan
    frame.loc[4, "kind"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    config = command.checked(["data=csv", f"data.path={tmp_path / 't.csv'}", "data.target=y",
                              "data.task=regression"])  # fmt: skip
    read, data = build.data(config), made(frame, target="y", task="regression")
    assert data.train.x.equal(read.train.x)
    assert data.val.y.equal(read.val.y)
    assert data.preparation.inputs.columns == read.preparation.inputs.columns
    beside = made((frame.drop(columns="y"), frame["y"]), task="regression")
    assert beside.test.x.equal(read.test.x)
    category = made(frame.astype({"kind": "category"}), target="y", task="regression")
    assert category.train.x.equal(read.train.x)
    parted = made({"train": frame, "test": frame[:20]}, target="y", task="regression")
    assert [len(s) for s in (parted.train, parted.val, parted.test)] == [80, 20, 20]


def test_a_missing_number_of_an_array_is_the_training_median_and_told():
    data = made((np.column_stack([HOLES, X[:, 1]]), Y))
    rows = data.train.rows.numpy()
    median = np.nanmedian(HOLES[rows])
    [split] = [split for split in (data.train, data.val, data.test) if 4 in split.rows]
    place = split.rows.tolist().index(4)
    filled = np.where(np.isnan(HOLES[rows]), median, HOLES[rows])
    assert split.x[place, 0].item() == pytest.approx(
        (median - filled.mean()) / filled.std(), abs=1e-5
    )
    assert "1 missing numbers, taken as the training median" in data.notes[0]


def test_pictures_of_more_than_8_bits_keep_their_values():
    deep = Image.fromarray(np.array([[0, 65535], [300, 7]], np.uint16))
    assert tensor(deep, "x").tolist() == [[[0, 65535], [300, 7]]]
    assert tensor(Image.new("RGBA", (3, 2), (1, 2, 3, 255)), "x").shape == (3, 2, 3)
    assert tensor(Image.new("L", (3, 2)), "x").dtype == torch.uint8


# ------------------------------------------------------------------ several inputs
def test_several_inputs_are_a_batch_by_name():
    ids = np.arange(100) % 7
    data = made(({"a": X, "ids": ids}, Y))
    assert data.shape.parts == {"a": (5,), "ids": (1,)}
    assert data.shape.features == 6
    assert data.train.x["a"].allclose(PLAIN.train.x, atol=1e-5)
    assert data.train.x["ids"].equal(torch.tensor(ids)[data.train.rows])
    of_tuple = made(((X, X[:, :2]), Y))
    assert list(of_tuple.shape.parts) == ["x0", "x1"]
    items = made(Items(lambda i: (X[i], X[i, :2], Y[i])))
    assert items.train.x["x1"].equal(of_tuple.train.x["x1"])
    streamed = made(Items(lambda i: (X[i], X[i, :2], Y[i])), memory_gib=0)
    some = torch.arange(9)
    batch, same = next(streamed.val.batches([some])), next(items.val.batches([some]))
    assert batch.y.equal(same.y)
    assert all(batch.x[n].allclose(same.x[n], atol=1e-5) for n in ("x0", "x1"))


# ------------------------------------------------------------------ pictures, texts, ids, streams
def test_pictures_in_memory_and_streamed_are_the_same():
    held, last = (
        made((PIXELS, Y), kind="image"),
        made((PIXELS.transpose(0, 2, 3, 1), Y), kind="image"),
    )
    streamed = made(Items(lambda i: (PIXELS[i], Y[i])), kind="image", memory_gib=0)
    assert isinstance(streamed.train, Stream)
    some = torch.tensor([3, 0, 7])
    assert next(streamed.train.batches([some])).x.equal(held.train.x[some])
    assert last.train.x.equal(held.train.x)
    assert "(N, H, W, C) taken as (N, C, H, W)" in last.notes[0]
    assert made((PIXELS[:, 0], Y), kind="image").shape.input == (1, 8, 8)


def test_random_items_are_drawn_from_seed_epoch_and_step():
    noisy = Items(lambda i: (torch.randn(3) + np.random.rand() + X[i, 0], int(Y[i])))
    data = made(noisy)
    assert isinstance(data.train, Stream)
    assert "drawn anew in each epoch" in data.notes[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    first = next(data.train.batches([order[:8]])).x
    torch.randn(5)
    assert next(data.train.batches([order[:8]])).x.equal(first), "whatever was drawn before"
    _, second = data.train.batches([order[8:16], order[:8]])
    assert second.x.equal(first), "as where a run is resumed within an epoch"
    other = next(data.train.batches([order[:8].flip(0)])).x.flip(0)
    assert not other.equal(first)
    assert len(data.joined().train) == 80
    joined = next(data.joined().train.batches([torch.tensor([0, 70])]))
    assert joined.x.shape == (2, 3)
    generator = np.random.default_rng()
    with pytest.raises(DataError, match=r"own\.f: its items are random, and no seed sets"):
        made(Items(lambda i: (generator.random(3), Y[i])))


def test_texts_and_token_ids():
    texts = [f"word{i % 5} {'good' if y else 'bad'}" for i, y in enumerate(Y)]
    data = made((texts, Y), kind="text")
    assert data.kind == "text"
    assert data.preparation.apply(texts)[data.val.rows].equal(data.val.x)
    faces = HuggingFace([{"text": t, "label": int(y)} for t, y in zip(texts, Y, strict=True)])
    read = made(faces, kind="text")
    assert read.classes == ["no", "yes"]
    assert read.train.x.equal(data.train.x)
    ids = made((R.integers(0, 9, (100, 7)), Y), kind="text")
    assert ids.shape.vocabulary == 9
    assert ids.train.x.dtype == torch.int64


def test_hugging_faces_columns_are_a_table_and_its_splits_are_kept():
    rows = [
        {"a": float(x), "b": "uv"[int(x) % 2], "label": int(y)}
        for x, y in zip(X[:, 0], Y, strict=True)
    ]
    data = made({"train": HuggingFace(rows), "test": HuggingFace(rows[:30])})
    assert data.classes == ["no", "yes"]
    assert (len(data.test), data.shape.input) == (30, (3,))


def test_class_names_are_those_of_the_data_set_or_of_the_config():
    data = made(Items(lambda i: (X[i], int(Y[i])), classes=["zebra", "ant"]))
    assert data.classes == ["zebra", "ant"], "in the order of their numbers"
    assert data.train.y.equal(PLAIN.train.y)
    assert made((X, Y), classes=["no", "yes"]).classes == ["no", "yes"]
    named = made((X, np.where(Y, "yes", "no")))
    assert named.classes == ["no", "yes"]
    assert made((X, Y * 2 - 1)).classes == ["-1", "1"]
    assert made((X, Y), classes=["a", "b", "c"]).shape.outputs == 3


def test_weights_multilabel_and_regression():
    weighted = made({"x": X, "y": Y, "weight": np.arange(100)})
    assert weighted.train.weight.tolist() == weighted.train.rows.tolist()
    labels = made((X, X[:, :3] > 3), task="multilabel")
    assert labels.shape.outputs == 3
    two = made((X, X[:, :2]), task="regression")
    rows = two.train.rows.numpy()
    assert np.allclose(two.target_mean, X[rows, :2].mean(0))
    assert two.train.y.shape == (60, 2)


# ------------------------------------------------------------------ files
def test_files_of_arrays_hold_the_same_data(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    torch.save({"x": torch.tensor(X), "y": torch.tensor(Y)}, tmp_path / "a.pt")
    save_file({"x": torch.tensor(X), "y": torch.tensor(Y)}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "parted.npz", x_train=X, y_train=Y, x_test=X[:10], y_test=Y[:10])

    def load(name, *more):
        path = [f"data.path={tmp_path / name}", "data.task=classification"]
        return build.data(command.checked(["data=arrays", *path, *more]))

    for name in ("a.npz", "a.pt", "a.safetensors"):
        assert load(name).train.x.equal(PLAIN.train.x)
        assert load(name).hash == PLAIN.hash
    assert len(load("parted.npz").test) == 10
    assert load("a.npz", "data.folds=4", "data.fold=1").val.rows.tolist() == (
        made((X, Y), folds=4, fold=1).val.rows.tolist()
    )
    assert load("a.npz", "data.classes=[no,yes]").classes == ["no", "yes"]


class Trap:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_would_be_executed_or_hold_no_arrays_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "pickle.npz", x=np.array([Trap()] * 3, object), y=np.arange(3))
    torch.save({"x": Trap()}, tmp_path / "pickle.pt")
    np.savez(tmp_path / "other.npz", a=X)
    (tmp_path / "text.npz").write_text("no array")
    (tmp_path / "t.csv").write_text("a,b\n")
    (tmp_path / "folder.npz").mkdir()
    for name, told in {
        "pickle.npz": "no file of arrays", "pickle.pt": "no file of arrays",
        "text.npz": "no file of arrays", "other.npz": "must have x and y",
        "t.csv": "data=csv reads tables", "none.npz": "no such file", "folder.npz": "is a folder",
    }.items():  # fmt: skip
        words = ["data=arrays", f"data.path={tmp_path / name}", "data.task=classification"]
        with pytest.raises(DataError, match=told) as error:
            build.data(command.checked(words))
        assert name in str(error.value)
    assert "executed" not in capsys.readouterr().out


# ------------------------------------------------------------------ what cannot be used
NAN = X.copy()
NAN[7, 2] = np.inf
HOLES = np.where(np.arange(100) == 4, np.nan, X[:, 0])
FAULTS = {
    "shapes": (Items(lambda i: (np.zeros(3 + (i == 17)), 0)), {}, "item 17 is"),
    "types": (Items(lambda i: (np.zeros(3, float if i != 17 else int), 0)), {}, "item 17 is"),
    "raises": (Items(lambda i: (X[i], [Y[0]][i > 50])), {}, r"item 5\d raised IndexError"),
    "no item": (Items(lambda i: X[i]), {}, r"item 0: a ndarray; must be \(x, y\)"),
    "no target": (Items(lambda i: {"a": 1, "b": 2}), {}, "which key is the target.*a and b"),
    "out of range": ((X, Y + (np.arange(100) == 3) * 5), {"classes": ["a", "b"]}, "y of row 3 is"),
    "negative": ((X, np.where(np.arange(100) == 3, -100, Y)), {}, "y of row 3 is -100; leave out"),
    "fractions": ((X, Y + 0.5), {}, "y of row 0 is 1.5; a class is a whole number"),
    "no value": ((X, HOLES), {"task": "regression"}, "y of row 4 is nan"),
    "one class": ((X, Y * 0), {}, "one value only"),
    "one-hot": ((X, np.eye(2)[Y]), {}, r"one class a row.*argmax"),
    "infinite": ((NAN, Y), {}, "x of row 7 is inf"),
    "missing": (({"a": HOLES[:, None], "b": X}, Y), {}, "a of row 4 is nan"),
    "lengths": ((X, Y[:9]), {}, "rows of x 100 and y 9"),
    "no rows": ((X[:0], Y[:0]), {}, "x has no rows"),
    "ragged": (([[1, 2], [3]], [0, 1]), {}, "own.f: "),
    "objects": ((np.array([{}] * 5), Y[:5]), {}, "must be numbers"),
    "texts": (([["a", "b"]] * 100, Y), {}, "must be numbers"),
    "None": (None, {}, "returns a NoneType; return a map-style Dataset"),
    "one array": (X, {}, "returns a ndarray; return"),
    "iterable": (Ordered(), {}, "Ordered can only be read in order.*map-style"),
    "streamed table": (OrderedColumns(), {}, "OrderedColumns can only be read in order"),
    "generator": ((i for i in range(3)), {}, "generator can only be read in order"),
    "loader": (DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y))), {}, "return its dataset"),
    "empty": (Items(None, 0), {}, "has no items"),
    "two sets": ((Items(None), Items(None)), {}, "tuple of 2: which is which"),
    "no train": ({"val": (X, Y), "test": (X, Y)}, {}, "none of them is train"),
    "other names": ({"a": X, "b": Y}, {}, "a dict of a and b: must have x and y"),
    "widths": ({"train": (X, Y), "test": (X[:, :3], Y)}, {}, "inputs of test are not"),
    "frame": (pd.DataFrame({"a": X[:, 0]}), {}, "which column is the target.*a"),
    "no column": (pd.DataFrame({"a": X[:, 0]}), {"target": "b"}, "no column b; it has a"),
    "lists": (pd.DataFrame({"a": [[1]] * 100, "y": Y}), {"target": "y"}, "column a holds object"),
    "kind": ((X, Y), {"kind": "image"}, r"kind: image takes \(N, C, H, W\)"),
    "ids": ((X, Y), {"kind": "text"}, "kind: text takes texts, or token ids"),
    "words": ((["a"] * 100, Y), {}, "returns texts; use kind: text"),
    "weights": ({"x": X, "y": Y, "weight": -X[:, 0]}, {}, r"weights must be \(N,\) numbers from 0"),
    "no weight": ({"x": X, "y": Y, "weight": X[:, 0] * 0}, {}, "every weight of the training split"),
    "setting of tables": ((X, Y), {"columns": ["a:number"]}, "data.columns=.*means nothing"),
    "setting of texts": ((X, Y), {"ngrams": 2}, "data.ngrams=2.*means nothing"),
    "drop of arrays": ((X, Y), {"drop": ["a"]}, "data.drop=.*is for columns of a data frame"),
    "drop of pairs": (Items(lambda i: (X[i], Y[i])), {"drop": ["a"]}, "data.drop=.*items that are a dict"),
    "drop of nothing": (Items(lambda i: {"a": 1.0, "y": Y[i]}), {"drop": ["b"]}, "data.drop: no key b"),
    "drop of no column": (pd.DataFrame({"a": X[:, 0], "y": Y}), {"target": "y", "drop": ["b"]}, "no column b"),
    "two names": ({"train": (X, Y), "val": (X, Y), "valid": (X, Y)}, {}, "val and valid are one split"),
    "no label": (HuggingFace([{"a": 1.0, "label": -1}] * 9), {}, "label of row 0 is -1, none of 0 .. 1"),
    "order": ((pd.DataFrame({"a": X[:, 0]}), pd.Series(Y, index=range(100, 0, -1))), {}, "index of y is not that"),
    "beside": ((pd.DataFrame({"a": X[:, 0]}), np.eye(2)[Y]), {}, "beside a data frame: must be one for each"),
    "bins": ((PIXELS, Y), {"kind": "image", "numbers": "ple"}, "data.numbers=ple: is for rows"),
    "flips": ((X, Y), {"augment": {"flip": True}}, "data.augment=.*is for pictures"),
    "names of frames": (pd.DataFrame({"a": X[:, 0], "y": Y}), {"target": "y", "classes": ["a", "b"]}, "its cells name them|as its cells"),
    "names of numbers": ((X, X[:, 0]), {"task": "regression", "classes": ["a", "b"]}, "a regression has none"),
}  # fmt: skip


@pytest.mark.parametrize(("found", "settings", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_used_is_one_message(found, settings, told):
    with pytest.raises(DataError, match=told) as error:
        made(found, **settings)
    assert "\n" not in str(error.value)
    assert any(word in str(error.value) for word in ("own.f", "data.", " of "))


# ------------------------------------------------------------------ by a config
CODE = """
import numpy as np, torch
from torch.utils.data import TensorDataset
def rows(examples, /, noise=0.0):
    r = np.random.default_rng(0)
    x = r.normal(size=(examples, 3))
    return x, (x[:, 0] > 0).astype(int)
def needs(examples, more): ...
def raises(): return {}["x"]
def sees(name, task, folds, **rest): raise ValueError(f"{name} {task} {folds} {sorted(rest)}")
def set_(): return TensorDataset(*map(torch.tensor, rows(50)))
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "owndata.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("knobs.targets._ADMITTED", ("owndata.",))  # as KNOBS_ALLOW does
    yield (
        lambda name, **keys: (
            command.checked(["training.epochs=1", "tracking=local"])
            | {"data": BASE | {"_target_": f"owndata.{name}", "val": 0.2, "test": 0.2, **keys}}
        )
    )
    targets.resolve.cache_clear()
    sys.modules.pop("owndata", None)


def test_a_function_is_given_what_it_takes_and_its_faults_are_told(config):
    good = config("rows", examples=80, val=0.25, split_seed=3, val_seed=4)
    assert check(good) == []
    data = build.data(good)
    assert [len(s) for s in (data.train, data.val, data.test)] == [44, 20, 16]
    [fault] = check(config("needs", examples=3))
    assert fault == "data.more: owndata.needs needs it; give data.more=VALUE"
    [fault] = check(config("rows", examples=3, noize=1))
    assert "takes no argument noize; did you mean noise?" in fault
    with pytest.raises(DataError, match=r"raised KeyError: 'x' \(owndata\.py, line 9\)"):
        build.data(config("raises"))
    with pytest.raises(DataError, match=r"raised ValueError: n classification 3 \['fold', 'kind'"):
        build.data(config("sees", folds=3, fold=0))


def test_it_trains_and_its_record_has_its_hash(config):
    data = build.data(config("set_"))
    run = assemble(config("set_") | {"resume": None}, data, CPU)
    *_, metrics = loop.fit(run)
    assert 0 <= metrics["val/accuracy"] <= 1
    assert json.loads(json.dumps(data.about()))["hash"] == data.hash


def test_data_that_knobs_does_not_split_refuses_what_it_does_not_take():
    with pytest.raises(DataError, match=r"data\.val=0\.2: own\.f returns Data, and takes no val"):
        made(PLAIN, val=0.2)
    assert made(PLAIN, {"val": 0.2}, val=0.2) is PLAIN
    with pytest.raises(DataError, match=r"data\.task=regression: own\.f returns Data of a classif"):
        made(PLAIN, task="regression")
