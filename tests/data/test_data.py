"""Splits seeded and stratified, statistics of the training split alone, and errors that name the file."""

import fake_sets
import numpy as np
import pytest
import torch
from conftest import needs_real_data, real_data
from PIL import Image
from sklearn import datasets

from knobs import build, rng
from knobs.config import command
from knobs.data import Augment, prepare, texts
from knobs.errors import DataError


def load(*overrides):
    return build.data(command.checked(list(overrides)))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.5])
def test_split_is_stratified_to_within_one_example(share):
    y = np.random.default_rng(0).choice(5, 503, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    kept, held = prepare.split(y, share, 0, stratify=True)
    assert sorted([*kept, *held]) == list(range(503))
    for c in range(5):
        assert abs((y[held] == c).sum() - share * (y == c).sum()) <= 1
    again = prepare.split(y, share, 0, stratify=True)[1]
    assert np.array_equal(held, again)
    assert not np.array_equal(held, prepare.split(y, share, 1, stratify=True)[1])


@pytest.mark.parametrize(("name", "loader"), [
    ("digits", datasets.load_digits), ("breast_cancer", datasets.load_breast_cancer),
    ("wine", datasets.load_wine), ("diabetes", datasets.load_diabetes),
])  # fmt: skip
def test_bundled_sets_are_scikit_learns(name, loader):
    """Read without importing it: the same examples, up to scale, once put back together."""
    data = load(f"data={name}")
    x, y = loader(return_X_y=True)
    found = torch.cat([s.x.flatten(1) for s in (data.train, data.val, data.test)]).numpy()
    assert found.shape == x.shape
    assert len(data.classes) == (0 if name == "diabetes" else len(np.unique(y)))
    if name != "digits":  # standardised column by column
        scaled = np.sort((x - x.mean(0)) / x.std(0), 0)
        again = np.sort((found - found.mean(0)) / found.std(0), 0)
        assert np.allclose(scaled, again, atol=1e-4)


def test_statistics_come_from_the_training_split_alone():
    data = load("data=breast_cancer")
    assert torch.allclose(data.train.x.mean(0), torch.zeros(30), atol=1e-5)
    assert torch.allclose(data.train.x.std(0, correction=0), torch.ones(30), atol=1e-4)
    assert data.val.x.mean(0).abs().max() > 0.01
    y = load("data=diabetes").train.y
    assert y.mean().item() == pytest.approx(0, abs=1e-5)
    assert y.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_the_split_does_not_follow_the_runs_seed():
    a, b, c = load("seed=0"), load("seed=1"), load("data.split_seed=1")
    assert torch.equal(a.val.x, b.val.x)
    assert not torch.equal(a.val.x, c.val.x)


def test_an_official_test_split_is_never_mixed_in(tmp_path, monkeypatch):
    from knobs.torchvision_shim import torchvision

    raw = fake_sets.write_mnist(torchvision.datasets.MNIST, tmp_path, monkeypatch)
    data = load("data=mnist", f"data.root={tmp_path}", "data.val=0.2")
    assert (len(data.train), len(data.val), len(data.test)) == (48, 12, 60)
    assert torch.bincount(data.val.y).tolist() == [1.2 // 1 + (i % 5 == 2) for i in range(10)] or (
        torch.bincount(data.val.y, minlength=10).min() >= 1
    )
    assert data.train.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert (raw / "train-images-idx3-ubyte").exists()


def test_a_wrong_checksum_names_the_file(tmp_path, monkeypatch):
    from knobs.torchvision_shim import torchvision

    raw = fake_sets.write_mnist(torchvision.datasets.MNIST, tmp_path, monkeypatch)
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(b"broken")
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte.gz: md5 is [0-9a-f]+, expected [0-9a-f]+"
    ):
        load("data=mnist", f"data.root={tmp_path}")


def test_absent_and_not_to_be_downloaded(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz.*not there; give data.root"):
        load("data=fashion_mnist", f"data.root={tmp_path}", "data.download=false")
    with pytest.raises(DataError, match="cifar-10-python.tar.gz: not there"):
        load("data=cifar10", f"data.root={tmp_path}", "data.download=false")


def write_table(path, rows=40, missing=()):
    lines = [f"{'' if i in missing else i},{'abc'[i % 3]},{i % 2},{i * 1.5}" for i in range(rows)]
    path.write_text("x,colour,y,z\n" + "\n".join(lines) + "\n")
    return path


def test_csv_imputes_scales_and_encodes(tmp_path):
    path = write_table(tmp_path / "t.csv", missing=(3, 7))
    data = load(
        "data=csv",
        f"data.path={path}",
        "data.target=y",
        "data.task=classification",
        "data.drop=[z]",
    )
    assert data.shape.input == (4,)  # x and three colours
    assert data.classes == ["0", "1"]
    assert set(data.train.x[:, 1:].unique().tolist()) == {0.0, 1.0}
    assert data.train.x[:, 1:].sum(1).tolist() == [1.0] * len(data.train)
    assert data.train.x[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(data.test.x).all()


def test_csv_regression_keeps_the_targets_unit(tmp_path):
    path = write_table(tmp_path / "t.csv")
    data = load("data=csv", f"data.path={path}", "data.target=z", "data.task=regression")
    y = torch.cat([data.train.y, data.val.y, data.test.y]) * data.target_std
    steps = y.sort().values.diff()
    assert torch.allclose(steps, torch.full_like(steps, 1.5), atol=1e-4)


def test_csv_official_test_table(tmp_path):
    train, test = write_table(tmp_path / "a.csv"), write_table(tmp_path / "b.csv", rows=10)
    data = load(
        "data=csv",
        f"data.path={train}",
        f"data.test_path={test}",
        "data.target=y",
        "data.task=classification",
    )
    assert (len(data.train) + len(data.val), len(data.test)) == (40, 10)


@pytest.mark.parametrize(("content", "overrides", "message"), [
    (None, [], "no such file"),
    ("", [], "not a CSV with a header"),
    ("x,y\n", [], "has no rows"),
    ("x,w\n1,2\n", [], "no column y; it has x, w"),
    ("x,y\n1,\n2,1\n", [], "1 rows have no y"),
    ("x,y\n1,a\n2,b\n", ["data.task=regression"], "y is not a column of numbers"),
    ("x,y\n1,a\n2,a\n3,a\n4,a\n5,a\n", [], "one value only, 'a'; nothing to learn"),
])  # fmt: skip
def test_csv_faults(content, overrides, message, tmp_path):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load(
            "data=csv", f"data.path={path}", "data.target=y", "data.task=classification", *overrides
        )
    assert error.value.exit_code == 3


HEAD = "a,b,y,z,w\n"


@pytest.mark.parametrize(("rows", "overrides", "message"), [
    ("1,2,0,1,1\n2,3,1,0,\n", "data.weight=w", "t.csv, line 3: w=empty: a weight must be a number from 0"),
    ("1,2,0,1,1\n\n2,3,1,0,-1\n", "data.weight=w", "t.csv, line 4: w=-1: a weight must be"),
    ('1,"2\n3",0,1,1\n2,3,1,0,inf\n', "data.weight=w", "t.csv, line 4: w=inf: a weight must be"),
    ("1,2,0,1,x\n2,3,1,0,1\n", "data.weight=w", "t.csv, line 2: w=x: a weight must be"),
    ("1,2,0,1,1e39\n2,3,1,0,1\n", "data.weight=w", "line 2: w=1e[+]?39: a weight must be a number from 0 to 1e[+]30"),
    ("1,2,0,1,0\n" * 5 + "2,3,1,0,0\n" * 5, "data.weight=w", r"line \d+: w=0, as in every row of the training split"),
    ("1,2,0,1,1\n2,3,2,0,1\n", "data.target=[y,z] data.task=multilabel", "t.csv, line 3: y=2: must be 0 or 1"),
    ("1,2,u,1,1\n2,3,2,0,1\n", "data.target=[y,z] data.task=multilabel", "t.csv: y is not a column of numbers"),
    ("1,2,0,1,1\n2,3,1,,1\n", "data.target=[y,z] data.task=regression", "t.csv: 1 rows have no z"),
    ("1,2,0,1,1\n2,3,inf,1,1\n", "data.target=y data.task=regression", "t.csv, line 3: y=inf: must be finite"),
    ("1,2,0,7,1\n2,3,1,7,1\n" * 5, "data.target=[y,z] data.task=regression", "z is 7 in every training row"),
    ("1,2,0,0,1\n2,3,1,0,1\n" * 5, "data.target=[y,z] data.task=multilabel", "z is 0 in every training row"),
    ("1,2,0,7,1\n2,3,1,7,1\n" * 5, "data.target=z data.task=regression", "z is 7 in every training row"),
    ("1,inf,0,7,1\n2,3,1,7,1\n" * 5, "", "t.csv: b: an infinite number"),
    ("1,1e300,0,7,1\n2,-1e300,1,7,1\n3,0,1,7,1\n" * 5, "", "b: numbers too large to standardise"),
    ("1,2,0,1,1\n" * 9, "data.weight=v", "no column v; it has a, b, y, z, w"),
])  # fmt: skip
def test_targets_and_weights_at_fault(rows, overrides, message, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + rows)
    base = ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]
    with pytest.raises(DataError, match=message) as error:
        load(*base, *overrides.split())
    assert "\n" not in str(error.value)


def test_a_fault_of_the_official_table_names_its_line(tmp_path):
    for name, last in (("t", "1"), ("u", "-3")):
        lines = [f"{i},{i % 2},1\n" for i in range(10)] + [f"1,1,{last}\n"]
        (tmp_path / f"{name}.csv").write_text("x,label,w\n" + "".join(lines))
    base = [f"data.path={tmp_path / 't.csv'}", f"data.test_path={tmp_path / 'u.csv'}"]
    with pytest.raises(DataError, match="u.csv, line 12: w=-3: a weight must be"):
        load("data=csv", *base, "data.target=label", "data.task=classification", "data.weight=w")
    with pytest.raises(DataError, match="u.csv, line 12: w=-3: a weight must be"):
        load("data=text_csv", *base, "data.text=x", "model=text_bag", "data.weight=w")


def test_several_targets_and_weights_are_no_features(tmp_path):
    path = tmp_path / "t.csv"
    rows = [f"{i},{i * 2.5},{i % 2},{i % 5 == 0:d},{i % 4 + 0.5}" for i in range(50)]
    path.write_text(HEAD + "\n".join(rows) + "\n")
    base = ["data=csv", f"data.path={path}", "data.weight=w"]
    data = load(*base, "data.target=[b,a]", "data.task=regression")
    assert (data.shape.input, data.shape.outputs, data.classes) == ((2,), 2, [])
    assert data.train.y.shape == (30, 2)
    values = data.preparation.target.decode(data.train.y)
    assert np.allclose(values[:, 0], 2.5 * values[:, 1], atol=1e-4)
    order = values[:, 1].round().astype(int)
    assert data.train.weight.tolist() == [i % 4 + 0.5 for i in order]
    assert torch.allclose(data.train.y.mean(0), torch.zeros(2), atol=1e-6)
    assert data.target_std.dtype == torch.float64
    as_number = "data.columns=['a:number']"  # a rises from row to row, as ids do
    labels = load(*base, "data.target=[y,z]", "data.task=multilabel", as_number)
    assert (labels.shape.input, labels.shape.outputs, labels.classes) == ((2,), 2, ["y", "z"])
    assert labels.train.y.dtype == torch.float32
    assert set(labels.train.y.unique().tolist()) == {0.0, 1.0}
    one = load("data=csv", f"data.path={path}", "data.target=b", "data.task=regression")
    assert one.train.y.shape == (30,)
    assert one.target_std.shape == one.target_mean.shape == (1,)


def test_text_vocabulary_is_the_training_splits(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "text,label\n" + "".join(f"word{i} common Common!,{'ab'[i % 2]}\n" for i in range(50))
    )
    data = load(
        "data=text_csv",
        f"data.path={path}",
        "model=text_bag",
        "data.min_count=1",
        "data.val=0.2",
        "data.test=0.2",
    )
    assert (
        data.shape.vocabulary == 2 + len(data.train) + 2
    )  # padding, unknown, own words, common and !
    assert (data.val.x[:, 0] == 1).all()  # words that training never saw
    assert (data.train.x[:, 0] > 1).all()


def test_tokens_and_ngrams():
    assert texts.tokenize("It's a Test.", 1) == ["it", "'", "s", "a", "test", "."]
    assert texts.tokenize("a b c", 2) == ["a", "b", "c", "a b", "b c"]
    ids = texts.vocabulary({"b": 2, "a": 1, "c": 1}, size=4, min_count=1)
    assert ids == {"b": 2, "a": 3}
    assert texts.encode_texts([["a", "z", "b"], []], ids, 2).tolist() == [[3, 1], [0, 0]]


def test_python_docs():
    data = load("data=python_docs", "model=text_bag")
    assert len(data.classes) == 20
    assert data.shape.outputs == 20
    assert len(data.train) > 100
    assert data.train.x.max() < data.shape.vocabulary


def images(root, per_class=12, size=(30, 20)):
    for c, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            Image.new("RGB", size, (c * 200 + i, 10, 10)).save(root / name / f"{i}.png")


def test_image_folder_in_memory_and_streamed_are_the_same(tmp_path):
    images(tmp_path)
    held = load("data=image_folder", f"data.root={tmp_path}", "data.size=8")
    streamed = load(
        "data=image_folder", f"data.root={tmp_path}", "data.size=8", "data.memory_gib=0"
    )
    order = [torch.arange(5), torch.arange(5, 9)]
    for (x, y, _), (sx, sy, _) in zip(
        held.train.batches(order), streamed.train.batches(order), strict=True
    ):
        assert torch.allclose(x, sx, atol=1e-5)
        assert torch.equal(y, sy)
    assert held.classes == ["cat", "dog"]


def test_a_streamed_run_is_a_run_in_memory(tmp_path, train):
    images(tmp_path)
    base = [
        "data=image_folder",
        f"data.root={tmp_path}",
        "data.size=8",
        "model=mlp",
        "training.epochs=3",
        "data.augment.flip=true",
    ]
    held = train(*base, folder="held").summary["metrics"]
    streamed = train(*base, "data.memory_gib=0", folder="streamed").summary["metrics"]
    assert streamed == pytest.approx(held, rel=1e-3)


def test_image_folders_of_their_own_for_each_split(tmp_path):
    for part, count in (("train", 10), ("val", 3), ("test", 4)):
        images(tmp_path / part, per_class=count)
    data = load("data=image_folder", f"data.root={tmp_path}", "data.size=8")
    assert (len(data.train), len(data.val), len(data.test)) == (20, 6, 8)


def test_a_broken_image_is_named(tmp_path):
    images(tmp_path)
    (tmp_path / "cat" / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"cat/3.png: not a readable image"):
        load("data=image_folder", f"data.root={tmp_path}")


def test_folders_without_an_image_are_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"no images; expected files in .bmp, .gif"):
        load("data=image_folder", f"data.root={tmp_path}")


def test_augment_shifts_and_mirrors():
    x = torch.arange(2 * 3 * 4 * 4).float().reshape(2, 3, 4, 4)
    flipped = Augment(flip=True)(x, rng.generator(0, "f"))
    for image, original in zip(flipped, x, strict=True):
        assert torch.equal(image, original) or torch.equal(image, original.flip(2))
    shifted = Augment(crop=1)(x, rng.generator(0, "c"))
    padded = torch.nn.functional.pad(x, [1] * 4)
    windows = [padded[:, :, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    for n in range(2):
        assert any(torch.equal(shifted[n], w[n]) for w in windows)
    assert torch.equal(shifted, Augment(crop=1)(x, rng.generator(0, "c")))


@needs_real_data
@pytest.mark.parametrize(("experiment", "train", "test", "shape", "outputs"), [
    ("fashion_mlp", 57000, 10000, (1, 28, 28), 10), ("banking77", 9503, 3080, None, 77), ("california", 14448, 4128, (13,), 1),
])  # fmt: skip
def test_real_sets(experiment, train, test, shape, outputs, monkeypatch, tmp_path):
    monkeypatch.setenv("KNOBS_DATA", str(real_data()))
    monkeypatch.chdir(tmp_path)  # where a read-only data folder is unpacked
    data = load(f"experiment={experiment}")
    assert len(data.train) == pytest.approx(train, abs=2)
    assert len(data.test) == pytest.approx(test, abs=2)
    assert shape is None or data.shape.input == shape
    assert data.shape.outputs == outputs


def test_another_validation_seed_keeps_the_test_rows():
    """null is split_seed, row for row; another number deals the rows outside the test split anew."""
    usual, same, other = (load(*w) for w in ([], ["data.val_seed=0"], ["data.val_seed=3"]))
    assert usual.hash == same.hash != other.hash
    assert torch.equal(usual.test.y, other.test.y)  # x is scaled by other training rows
    assert not torch.equal(usual.val.y, other.val.y)
    assert [len(usual.train), len(usual.val)] == [len(other.train), len(other.val)]
