"""Images whose targets are in a table: values, classes and labels; rows and images that do not match."""

import os
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from knobs import build
from knobs.config import command
from knobs.errors import ConfigError, DataError


def load(root, *overrides):
    base = ["data=image_folder", f"data.root={root}", "data.size=8", "data.labels=metadata.csv"]
    return build.data(command.checked([*base, *overrides]))


def faces(root, count=60, folder="", header="file_name,age,glasses,hat,name"):
    """Write pictures as bright as their age is high, and a table of them, not in their order."""
    (root / folder).mkdir(parents=True)
    lines = []
    for i in np.random.default_rng(0).permutation(count):
        name = f"{folder}{i}.png"
        pixels = np.full((9, 9, 3), 4 * i, np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(root / name)
        lines.append(f"{name},{20 + i},{i % 2},{int(i % 3 == 0)},{('ann', 'bob', 'cid')[i % 3]}")
    write(root, lines, header)
    return lines


def write(root, lines, header="file_name,age,glasses,hat,name"):
    (root / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")


REGRESSION = ("data.targets=age", "data.task=regression")


def test_each_image_has_the_value_of_its_row(tmp_path):
    lines = faces(tmp_path / "f")
    data = load(tmp_path / "f", *REGRESSION)
    assert (data.task, data.classes, data.shape.outputs, data.notes) == ("regression", [], 1, [])
    ages = [int(line.split(",")[1]) for line in lines]
    for split in (data.train, data.val, data.test):
        values = split.y.double() * data.target_std + data.target_mean
        assert values.round().tolist() == [ages[row] for row in split.rows]
        bright = split.x[:, 0, 4, 4]
        assert torch.equal(bright.argsort(), split.y.argsort())
    assert data.train.y.mean().item() == pytest.approx(0, abs=1e-6)
    streamed = load(tmp_path / "f", *REGRESSION, "data.memory_gib=0")
    assert torch.equal(streamed.val.y, data.val.y)
    [batch] = streamed.val.in_order(99)
    assert torch.allclose(batch.x, data.val.x, atol=1e-5)


def test_ages_are_learned_and_scored_in_years(tmp_path, train):
    faces(tmp_path / "f")
    base = ["data=image_folder", f"data.root={tmp_path / 'f'}", "data.labels=metadata.csv"]
    options = [*base, *REGRESSION, "data.size=8", "model=linear", "training.epochs=40"]
    objective = train(*options, "optimizer.lr=0.01", "metrics.extra=[mae]").summary["objective"]
    assert objective["metric"] == "val/r2"
    assert objective["value"] > 0.9


def test_classes_labels_and_several_values_by_column(tmp_path):
    faces(tmp_path / "f", folder="inner/")
    classes = load(tmp_path / "f", "data.targets=name")
    assert classes.classes == ["ann", "bob", "cid"]
    assert torch.bincount(classes.val.y).tolist() == [4, 4, 4]
    labels = load(tmp_path / "f", "data.targets=[glasses,hat]", "data.task=multilabel")
    assert (labels.classes, labels.train.y.shape) == (["glasses", "hat"], (36, 2))
    values = load(tmp_path / "f", "data.targets=[age,hat]", "data.task=regression")
    assert values.target_std.shape == (2,)
    assert values.preparation.target.names == ("age", "hat")


def test_the_only_other_column_is_the_target(tmp_path):
    lines = faces(tmp_path / "f")
    write(tmp_path / "f", [",".join(line.split(",")[:2]) for line in lines], "image,age")
    data = load(tmp_path / "f", "data.task=regression")
    assert data.preparation.target.names == ("age",)
    other = load(tmp_path / "f", "data.task=regression", "data.file=image", "data.targets=age")
    assert other.hash == data.hash


def test_the_table_may_lie_elsewhere_and_files_beside_are_told(tmp_path, monkeypatch):
    faces(tmp_path / "f")
    (tmp_path / "f" / "notes.txt").write_text("x")
    (tmp_path / "f" / "metadata.csv").rename(tmp_path / "ages.csv")
    monkeypatch.chdir(tmp_path)
    data = load(tmp_path / "f", *REGRESSION, "data.labels=ages.csv")
    assert data.notes == ["1 passed over: 1 .txt"]


@pytest.mark.parametrize("spelled", [
    lambda name: f"./{name}", lambda name: f" {name} ", lambda name: name.replace("/", "\\"),
    lambda name: unicodedata.normalize("NFD", name), lambda name: f"x/../{name}",
])  # fmt: skip
def test_a_path_may_be_spelled_in_any_way(spelled, tmp_path):
    lines = faces(tmp_path / "f", folder="caf\u00e9/")
    cells = [line.split(",") for line in lines]
    write(tmp_path / "f", [",".join([spelled(name), *rest]) for name, *rest in cells])
    assert len(load(tmp_path / "f", *REGRESSION).train) == 36


def test_split_folders_keep_their_images(tmp_path):
    lines = faces(tmp_path / "f", 40, folder="Training/") + faces(tmp_path / "g", 9, folder="test/")
    (tmp_path / "g" / "test").rename(tmp_path / "f" / "test")
    write(tmp_path / "f", lines)
    data = load(tmp_path / "f", *REGRESSION)
    assert (len(data.train), len(data.val), len(data.test)) == (32, 8, 9)
    assert data.test.rows.tolist() == list(range(40, 49))


@pytest.mark.parametrize(("change", "message"), [
    (lambda rows: [*rows, "99.png,3,1,1,ann"], "metadata.csv: 1 rows name no image in .*line 22: '99.png'.; names are paths below data.root"),
    (lambda rows: [*rows[1:], "../f/../x.png,3,1,1,ann"], "1 rows name no image"),
    (lambda rows: [*rows[1:], "/etc/passwd,3,1,1,ann"], "1 rows name no image"),
    (lambda rows: [row.replace(".png", "") for row in rows], r"20 rows name no image .*with their endings, as \d+.png"),
    (lambda rows: [*rows, rows[4]], r"metadata.csv: two rows of \d+.png \(.*line 6 and .*line 22\); keep one"),
    (lambda rows: rows[2:], r"2 images have no row in .*metadata.csv: \d+.png and \d+.png; add rows"),
    (lambda rows: [rows[0].replace(rows[0].split(",")[1], ""), *rows[1:]], "1 rows have no age .*line 2"),
    (lambda rows: [rows[0].replace(rows[0].split(",")[1], "old"), *rows[1:]], "age is not a column of numbers .*line 2: 'old'"),
    (lambda rows: [",".join(["", *rows[0].split(",")[1:]]), *rows[1:]], "1 rows have no file_name .*line 2"),
    (lambda rows: [",".join([row.split(",")[0], "7,1,1,a"]) for row in rows], "age is 7 in every training row"),
])  # fmt: skip
def test_rows_and_images_that_do_not_match_are_named(change, message, tmp_path):
    write(tmp_path / "f", change(faces(tmp_path / "f", 20)))
    with pytest.raises(DataError, match=message) as error:
        load(tmp_path / "f", *REGRESSION)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("header", "overrides", "message"), [
    ("name,age,a,b,c", [], "no column of files; name it file_name, or choose with data.file=COLUMN: it has name, age"),
    ("file,age,path,b,c", [], "file and path are columns of files; .*data.file=COLUMN"),
    ("file,age,a,b,c", ["data.targets=null"], "which column is to be predicted. choose with data.targets=COLUMN: it has age, a, b, c"),
    ("file,age,a,b,c", ["data.targets=size"], "no column size; it has file, age"),
    ("file,age,a,b,c", ["data.file=image"], "no column image; it has file, age"),
    ("file,age,a,b,c", ["data.targets=file", "data.task=classification"], "data.targets=file names the files"),
    ("file,age,a,b,c", ["data.labels=other.csv"], "other.csv: no such file"),
    ("file,age,a,b,c", ["data.root=nowhere"], "nowhere: no such folder; data.root is the folder of the images"),
])  # fmt: skip
def test_columns_that_are_not_there_are_named(header, overrides, message, tmp_path):
    faces(tmp_path / "f", 20, header=header)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "f", *REGRESSION, *overrides)


@pytest.mark.parametrize(("folders", "message"), [
    (("val/", "test/"), "test and val look like splits, and there is no train"),
    (("train/", ""), r"0.png is beside the folder of a split"),
])  # fmt: skip
def test_folders_that_are_half_splits_are_refused(folders, message, tmp_path):
    lines = []
    for folder in folders:
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / folder / "0.png")
        lines.append(f"{folder}0.png,{len(lines)},1,1,a")
    write(tmp_path, lines)
    with pytest.raises(DataError, match=message):
        load(tmp_path, *REGRESSION)


def test_a_link_to_nothing_is_no_picture(tmp_path):
    lines = faces(tmp_path / "f", 20)
    os.symlink(tmp_path / "gone.png", tmp_path / "f" / "late.png")
    write(tmp_path / "f", [*lines, "late.png,3,1,1,ann"])
    with pytest.raises(DataError, match="late.png: a link to nothing"):
        load(tmp_path / "f", *REGRESSION)


@pytest.mark.parametrize(("overrides", "message"), [
    ("data.labels=null data.task=regression", "data.task=regression: needs data.labels, a table"),
    ("data.labels=null data.task=multilabel", "data.task=multilabel: needs data.labels"),
    ("data.labels=null data.targets=age", "data.targets=age: needs data.labels"),
    ("data.targets=[a,b]", "a classification has one target"),
    ("data.targets=a data.task=multilabel", r"needs a list of columns of 0 and 1: data.targets=\[A,B\]"),
])  # fmt: skip
def test_options_that_contradict_each_other(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, *overrides.split())
