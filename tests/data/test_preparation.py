"""What turns raw rows into tensors: the bits of every data option, saved, read, and hostile files."""

import csv
import dataclasses
import hashlib
import json
import platform

import fake_sets
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from knobs import build
from knobs.config import command
from knobs.data import bundled, preparation, prepare
from knobs.data.images import folder_parts, read_image
from knobs.data.inputs import Pictures, Table
from knobs.data.preparation import ARRAYS, JSON, Preparation
from knobs.data.texts import Texts
from knobs.errors import CheckpointError, DataError

# SHA-256 of x and y of every split, taken before there were preparations. Sums in float32 depend
# on the instructions of a processor and on the libraries, so they are compared on their like only.
LIKE = "AVX512 torch 2.13.0 numpy 2.4 python 3.11"
PINNED = {
    "digits": "22e174ce8eb56df2beda22ec63b6ddff36ba602b156a47e21a7b3e3adbe36321",
    "breast_cancer": "1eeb485d9628d2a35eb2ffd8105562cbc94e219fa07e6e13aa8117f776cb689a",
    "wine": "7c5c1c5a940b7f42c7f2e1ae9077eeaf2edc1ece91796d81cb5ceebff2cdf0ec",
    "diabetes": "2d9377dce54fd460a286854b0f450f49f63628aaa9139e040751581e7e0ec80b",
    "python_docs": "3a704a2fca07464848235d85249cbe6659c1b4bdf2dea091cb01dc7a69079cd5",
    "csv/classification": "2d38db261b4441be7d804caf7f10d5049cb87bbf0259ea6779ae2e45563be92c",
    "csv/regression": "63a6266aa52f5e18ab30c21ab202aa4b3302d9eed00644039c5716dd2b0563d4",
    "csv/official": "87733f55ff745f330faf29c83a6041bc9957ef25998e6fb98a07cd2b93447218",
    "csv/words": "e0f522afea657a20023edafc4278c5ce59696e15eefddabc1d90e7e17d23bd10",
    "csv/one": "f1628217dfdad7398949876a35926ce0ecf8052b60efa03408f8b70b78881d37",
    "text_csv": "d4c2306c1611b752e236df8f4835fc95814da8e009173e846e0eb2fcfb1b7ef0",
    "image_folder": "d92c4f319eda350a09b7fc88e44c6b2d906cf00b5bea2f002592350b637e4864",
    "image_folder/streamed": "d92c4f319eda350a09b7fc88e44c6b2d906cf00b5bea2f002592350b637e4864",
    "mnist": "dde21985aae93214e2820d421982f47944d416144ac659d08dd4282e09e388fe",
    "fashion_mnist": "117fdf5643832a21bccb9bd502f9c4ac99503dba64612aaae5f6fcc50811475f",
    "cifar10": "7aa86b63d86520741204cc96a5b84e0111604ccbffd6e21102b5e50bf768313b",
    "cifar100": "44c653690d03780f7d19b55f5392e0dd80910ecdcfc6e5e466bb97c0489007d4",
}


def like():
    major = lambda version, n: ".".join(version.split("+")[0].split(".")[:n])  # noqa: E731
    torch_, numpy_ = major(torch.__version__, 3), major(np.__version__, 2)
    python = major(platform.python_version(), 2)
    cpu = torch.backends.cpu.get_cpu_capability()
    return f"{cpu} torch {torch_} numpy {numpy_} python {python}"


def write_table(path, rows=700, seed=0, columns=("a", "b", "c", "n", "word", "yes", "y", "z")):
    """Numbers of several sizes, whole numbers, words, flags, and cells that are missing."""
    draw = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i in range(rows):
            a = "" if i % 11 == 3 else repr(draw.normal(1e4, 3.0))
            word = (
                ""
                if i % 13 == 5
                else ["red", "green, pale", "blue", "\u00e9t\u00e9"][draw.integers(4)]
            )
            row = {
                "a": a, "b": repr(draw.exponential(1e-3)), "c": int(draw.integers(-9, 9)), "n": "",
                "word": word, "yes": bool(draw.integers(2)), "y": int(draw.integers(3)),
                "z": repr(draw.normal(-3, 20)),
            }  # fmt: skip
            writer.writerow([row[name] for name in columns])
    return path


def write_sentences(path, rows=120, seed=0):
    draw = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(40)] + ["It's", "\u00dcber", "!", "?"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for _ in range(rows):
            some = draw.choice(words, draw.integers(1, 12)) if draw.random() > 0.05 else []
            writer.writerow([" ".join(some), ["good", "bad", "7"][draw.integers(3)]])
    return path


def write_images(root, per_class=14, seed=0):
    draw = np.random.default_rng(seed)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = draw.integers(0, 256, (20 + i, 31, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def overrides(case, folder, monkeypatch):
    """The command line of a case, with its files written into a folder."""
    from knobs.torchvision_shim import torchvision

    sets = torchvision.datasets
    option = case.split("/")[0]
    if option == "csv":
        write_table(folder / "t.csv")
        write_table(folder / "u.csv", rows=50, seed=1)
        target = {"regression": "z", "classification": "y"}
        task = "regression" if case.endswith("regression") else "classification"
        more = [f"data.test_path={folder / 'u.csv'}"] if "official" in case else []
        only = {"csv/words": "drop=[a,b,c,n,z]", "csv/one": "drop=[b,c,n,z,word,yes]"}
        # An empty column is left out, unless it is said to be of numbers: the pins have it.
        more += [f"data.{only[case]}"] if case in only else ["data.columns=['n:number']"]
        return ["data=csv", f"data.path={folder / 't.csv'}", f"data.task={task}",
                f"data.target={target[task]}", *more]  # fmt: skip
    if option == "text_csv":
        write_sentences(folder / "t.csv")
        more = ["data.ngrams=2", "data.min_count=2"]
        return ["data=text_csv", f"data.path={folder / 't.csv'}", "model=text_bag", *more]
    if option == "image_folder":
        write_images(folder / "images")
        more = ["data.memory_gib=0"] if case.endswith("streamed") else []
        return ["data=image_folder", f"data.root={folder / 'images'}", "data.size=16", *more]
    if option in ("mnist", "fashion_mnist"):
        kind = {"mnist": sets.MNIST, "fashion_mnist": sets.FashionMNIST}[option]
        fake_sets.write_mnist(kind, folder, monkeypatch)
        return [f"data={option}", f"data.root={folder}", "data.val=0.2"]
    if option in ("cifar10", "cifar100"):
        classes = int(option.removeprefix("cifar"))
        kind = {10: sets.CIFAR10, 100: sets.CIFAR100}[classes]
        fake_sets.write_cifar(kind, folder, monkeypatch, classes)
        return [f"data={option}", f"data.root={folder}", "data.val=0.2", "model=cnn"]
    return [f"data={option}"] + (["model=text_bag"] if option == "python_docs" else [])


CASES = [
    *("digits", "breast_cancer", "wine", "diabetes", "python_docs"),
    *("csv/classification", "csv/regression", "csv/official", "csv/words", "csv/one", "text_csv"),
    *("image_folder", "image_folder/streamed", "mnist", "fashion_mnist", "cifar10", "cifar100"),
]


def digest(data):
    """Hash x and y of every split: types, shapes, memory order and bits."""
    found = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        batches = list(split.in_order(10_000))
        x = torch.cat([batch[0] for batch in batches]) if len(batches) > 1 else batches[0][0]
        y = torch.cat([batch[1] for batch in batches])
        for tensor in (x, y):
            about = f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}"
            found.update(about.encode() + tensor.contiguous().numpy().tobytes())
    about = f"{data.shape} {data.classes} {float(data.target_std)!r}"
    return hashlib.sha256(found.digest() + about.encode()).hexdigest()


@pytest.mark.skipif(like() != LIKE, reason=f"the hashes are those of {LIKE}")
@pytest.mark.parametrize("case", CASES)
def test_the_tensors_are_those_there_were(case, tmp_path, monkeypatch):
    data = build.data(command.checked(overrides(case, tmp_path, monkeypatch)))
    assert digest(data) == PINNED[case]


def raw(case, folder):
    """Raw rows and labels of a case, read here, and the rows of every split."""
    from knobs.torchvision_shim import torchvision

    option, files = case.split("/")[0], None
    task = "regression" if case in ("diabetes", "csv/regression") else "classification"
    val, test, official = 0.2, 0.2, 0
    if option in ("digits", "breast_cancer", "wine", "diabetes"):
        rows, labels = bundled._read(option)
        named = {f"x{i}": column for i, column in enumerate(rows.T)}
        rows = torch.from_numpy(rows).float().view(-1, 1, 8, 8) if option == "digits" else named
    elif option == "python_docs":
        from pydoc_data.topics import topics

        names = sorted(topics, key=lambda topic: (-len(topics[topic]), topic))[:20]
        pairs = [(p, name) for name in names for p in bundled._passages(topics[name], 40)]
        rows, labels = [p for p, _ in pairs], np.array([name for _, name in pairs])
    elif option == "csv":
        rows = pd.read_csv(folder / "t.csv")
        if case == "csv/official":
            rows = pd.concat([rows, pd.read_csv(folder / "u.csv")], ignore_index=True)
            official = 50
        labels = rows["z" if task == "regression" else "y"].to_numpy()
        labels = labels if task == "regression" else labels.astype(str)
    elif option == "text_csv":
        table = pd.read_csv(folder / "t.csv")
        rows, labels = table["text"].fillna("").tolist(), table["label"].astype(str).to_numpy(str)
    elif option == "image_folder":
        files = sorted((folder / "images").rglob("*.png"), key=lambda p: (p.parent.name, p))
        rows = torch.stack([read_image(file, 16) for file in files])
        labels = np.array([file.parent.name for file in files])
        origin = np.full(len(files), "train")
        return rows, labels, folder_parts(labels, origin, {"train": folder}, val, test, 0)
    else:
        kinds = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
        kind = getattr(torchvision.datasets, kinds.get(option, option.upper()))
        sets = [kind(folder, train=train) for train in (True, False)]
        pixels = torch.cat([torch.as_tensor(np.asarray(one.data)) for one in sets])
        rows = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        labels = np.concatenate([np.asarray(one.targets) for one in sets])
        official, test = len(sets[1]), 0.0
    return rows, labels, prepare.three_way(labels, val, test, 0, task, official)


def some(rows, index):
    if isinstance(rows, dict):
        return {name: column[index] for name, column in rows.items()}
    if isinstance(rows, pd.DataFrame):
        return rows.iloc[index]
    return [rows[i] for i in index] if isinstance(rows, list) else rows[torch.from_numpy(index)]


@pytest.mark.parametrize("case", CASES)
def test_what_was_saved_makes_the_same_tensors_of_raw_rows(case, tmp_path, monkeypatch):
    data = build.data(command.checked(overrides(case, tmp_path, monkeypatch)))
    again = Preparation.load(data.preparation.save())
    rows, labels, parts = raw(case, tmp_path)
    for split, part in zip((data.train, data.val, data.test), parts, strict=True):
        batches = list(split.in_order(7))
        assert torch.equal(again.apply(some(rows, part)), torch.cat([b.x for b in batches]))
        if data.name in ("mnist", "fashion_mnist"):  # a class there has a name beside its number
            continue
        assert torch.equal(again.target.encode(labels[part]), torch.cat([b.y for b in batches]))
    assert again.save() == data.preparation.save()


@pytest.mark.parametrize("case", ["csv/regression", "text_csv", "image_folder", "wine"])
def test_blocks_of_any_size_fit_and_make_the_same(case, tmp_path, monkeypatch):
    whole = build.data(command.checked(overrides(case, tmp_path, monkeypatch))).preparation
    rows, _, parts = raw(case, tmp_path)
    count = len(rows["x0"]) if isinstance(rows, dict) else len(rows)
    blocks = [some(rows, np.arange(i, min(i + 13, count))) for i in range(0, count, 13)]
    more = {"single": True} if case == "wine" else {}
    if case == "text_csv":
        more = {"ngrams": 2, "max_length": 64, "max_vocabulary": 20000, "min_count": 2}
    if case == "csv/regression":
        blocks = [block.drop(columns="z") for block in blocks]
    inputs = whole.inputs.fit(blocks, parts[0], **more)
    if case == "csv/regression":  # fitted on numbers and categories; the raw columns come with them
        inputs = dataclasses.replace(inputs, columns=whole.inputs.columns)
    again = Preparation(inputs, whole.target)
    assert again.save() == whole.save()
    x = torch.cat([again.apply(block) for block in blocks])
    assert torch.equal(x, again.apply(rows))


@pytest.mark.parametrize("seed", range(12))
def test_a_table_has_the_bits_of_scikit_learn(seed):
    """Of its imputer, scaler and encoder: sizes, offsets, holes, constants, rare words."""
    draw = np.random.default_rng(seed)
    n = int(draw.choice([2, 9, 130, 1031, 20_000]))
    columns = {}
    for i in range(int(draw.integers(1, 9))):
        values = draw.normal(10.0 ** draw.integers(-4, 9), 10.0 ** draw.integers(-6, 6), n)
        values = np.round(values) if draw.random() < 0.3 else values
        values = np.full(n, values[0]) if draw.random() < 0.15 else values
        holes = draw.random(n) < draw.choice([0, 0.1, 1], p=[0.6, 0.35, 0.05])
        columns[f"n{i}"] = np.where(holes, np.nan, values) if holes.any() else values
    columns["whole"] = draw.integers(-5, 5, n)
    words = np.array(["a", "B", "missing", "\u00e9", "7"], object)[draw.integers(0, 5, n)]
    columns["word"] = np.where(draw.random(n) < 0.2, np.nan, words)
    columns["flag"] = draw.random(n) < 0.5
    table = pd.DataFrame(columns)
    train = np.sort(draw.permutation(n)[: max(1, 2 * n // 3)])
    found = Table.fit([table], train).apply(table).numpy()

    numeric = [name for name in table if table[name].dtype.kind in "iuf"]
    rest = [name for name in table if name not in numeric]
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    peer = make_column_transformer(
        (make_pipeline(imputer, StandardScaler()), numeric), (one_hot, rest)
    )
    texts = table[rest].astype(object)
    table = table.assign(**texts.where(texts.notna(), "missing").astype(str))
    peer.fit(table.iloc[train])
    assert np.array_equal(found, np.asarray(peer.transform(table), np.float32))


def examples():
    """A small preparation of every kind."""
    table = {"a": np.array([1.0, np.nan, 3.0]), "b": np.array(["x", "y", None], object)}
    rows = np.arange(3)
    numbers = prepare.encode_targets(np.array([[1.0, 5], [2, 7], [3, 5]]), rows, "regression", "pq")
    labels = prepare.encode_targets(np.array([[1, 0], [0, 0], [0, 1]]), rows, "multilabel", "pq")
    classes = prepare.encode_targets(np.array(["u", "v", "u"]), rows, "classification", "p")
    pixels = torch.arange(3 * 2 * 4 * 5, dtype=torch.uint8).view(3, 2, 4, 5)
    texts = ["One two, two", "three ! three", ""]
    options = {"ngrams": 2, "max_length": 9, "max_vocabulary": 99, "min_count": 1}
    return {
        "table": Preparation(Table.fit([table], rows), numbers.target),
        "image": Preparation(Pictures.fit([pixels], rows), labels.target),
        "text": Preparation(Texts.fit([texts], rows, **options), classes.target),
    }


def test_outputs_become_classes_labels_and_values():
    made = examples()
    assert made["text"].target.decode(torch.tensor([[0.0, 1], [2, 1]])).tolist() == ["v", "u"]
    assert made["image"].target.decode(torch.tensor([[-1.0, 1]])).tolist() == [[0, 1]]
    y = made["table"].target.encode(np.array([[1.0, 5], [2, 7]]))
    values = made["table"].target.decode(y)
    assert np.allclose(values, [[1, 5], [2, 7]], rtol=1e-6)
    with pytest.raises(DataError, match="p=w: not one of u, v"):
        made["text"].target.encode(np.array(["w"]))


def test_raw_rows_that_do_not_fit_are_named():
    made = examples()
    with pytest.raises(DataError, match="b: no such column; it has a"):
        made["table"].apply({"a": np.zeros(2)})
    with pytest.raises(DataError, match="a: 'three' is not a number"):
        made["table"].apply({"a": np.array(["1", "three"]), "b": np.array(["x", "x"])})
    with pytest.raises(DataError, match="a: an infinite number"):
        made["table"].apply({"a": np.array([np.inf]), "b": np.array(["x"])})
    with pytest.raises(DataError, match=r"pictures of shape \(1, 4, 5\): must be \(2, 4, 5\)"):
        made["image"].apply(torch.zeros(1, 1, 4, 5))
    x = made["table"].apply({"a": np.array(["2", ""]), "b": np.array(["new", "y"], object)})
    assert x.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]  # missing, x, y


def resigned(files, change, arrays=None):
    """Files as a hostile writer makes them: changed, with a checksum that is right again."""
    document = json.loads(files[JSON])
    document.pop("sha256")
    change(document)
    content = files[ARRAYS] if arrays is None else arrays
    document["sha256"] = preparation._checksum(document, content)
    return {JSON: json.dumps(document).encode(), ARRAYS: content}


def put(path, value):
    def change(document):
        *sections, last = path.split(".")
        for section in sections:
            document = document[section]
        document.pop(last) if value is ... else document.update({last: value})

    return change


@pytest.mark.parametrize(("kind", "path", "value", "message"), [
    ("text", "version", 2, "of a newer version of knobs"),
    ("text", "version", True, "version=True: must be a whole number from 1"),
    ("text", "kind", "sound", "kind='sound': must be one of table, image, text"),
    ("text", "kind", ["text"], "kind=.*must be one of"),
    ("text", "kind", "image", "inputs.channels is missing"),
    ("text", "inputs", [1], r"inputs=\[1\]: must be an object of fields"),
    ("text", "inputs.length", ..., "inputs.length is missing; it must be a whole number"),
    ("text", "inputs.length", -1, "inputs.length=-1: must be a whole number from 1 to 1048576"),
    ("text", "inputs.length", 1e3, "inputs.length=1000.0: must be a whole number"),
    ("text", "inputs.length", 10**30, "inputs.length=10+: must be"),
    ("text", "inputs.ngrams", 4, "inputs.ngrams=4: must be a whole number from 1 to 3"),
    ("text", "inputs.tokens", ["a", "a"], "inputs.tokens=.*all different"),
    ("text", "inputs.tokens", ["a", 3], "inputs.tokens=.*a list of 0 texts or more"),
    ("text", "inputs.tokens", "abc", "inputs.tokens='abc': must be a list"),
    ("text", "inputs.more", 1, "inputs.more is no field of it"),
    ("text", "more", {}, "preparation.json: more is no field of it"),
    ("text", "a\n\x1b[31m", 1, r"json: a\\n\\x1b\[31m is no field of it"),
    ("table", "inputs.levels", {"\nb": 1}, r"inputs.levels.\\nb=1: must be a list"),
    ("text", "target.task", "sorting", "target.task='sorting': must be one of classification"),
    ("text", "target.classes", ["u"], r"target.classes=\['u'\]: must be those of a classification"),
    ("text", "target.names", [], r"target.names=\[\]: must be a list of 1 texts or more"),
    ("image", "target.classes", ["p", "r"], "target.classes=.*those of a multilabel of 2 targets"),
    ("image", "inputs.channels", 3, r"inputs.mean is \(2,\) of float32: must be \(3,\) of float32"),
    ("image", "inputs.height", 10**9, "inputs.height=1000000000: must be"),
    ("image", "inputs.unit", 0, "inputs.unit=0: must be a whole number from 1"),
    ("table", "inputs.numbers", ["a", "c"], r"inputs.mean is \(1,\) of float64: must be \(2,\)"),
    ("table", "inputs.numbers", ["b"], "inputs.numbers=.*none of which are in levels"),
    ("table", "inputs.levels", {"b": []}, r"inputs.levels.b=\[\]: must be a list of 1 texts"),
    ("table", "inputs.levels", {"b": None}, "inputs.levels.b=None: must be a list"),
    ("table", "target.names", ["p"], r"target.mean is \(2,\) of float64: must be \(1,\)"),
])  # fmt: skip
def test_a_hostile_document_is_refused_by_field(kind, path, value, message):
    files = resigned(examples()[kind].save(), put(path, value))
    with pytest.raises(CheckpointError, match=message) as error:
        Preparation.load(files)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(("name", "value", "message"), [
    ("inputs.mean", None, "inputs.mean is missing"),
    ("inputs.mean", np.zeros((1, 1)), r"inputs.mean is \(1, 1\) of float64: must be \(1,\)"),
    ("inputs.mean", np.zeros(1, np.int64), r"inputs.mean is \(1,\) of int64: must be \(1,\)"),
    ("inputs.mean", np.full(1, np.nan), "inputs.mean: must be .* finite"),
    ("inputs.median", np.zeros(1, np.float32), "inputs.median is .* of float32: must be"),
    ("inputs.scale", np.zeros(1), "inputs.scale: must be .* finite and above 0"),
    ("target.std", np.array([1, -1.0]), "target.std: must be .* above 0"),
    ("target.std", np.array([1, np.inf]), "target.std: must be .* finite"),
    ("inputs.extra", np.zeros(1), "inputs.extra is no array of it"),
])  # fmt: skip
def test_hostile_arrays_are_refused_by_name(name, value, message):
    files = examples()["table"].save()
    arrays = {k: v for k, v in safetensors.numpy.load(files[ARRAYS]).items() if k != name}
    arrays |= {} if value is None else {name: value}
    with pytest.raises(CheckpointError, match=f"preparation.safetensors: {message}"):
        Preparation.load(resigned(files, lambda _: None, safetensors.numpy.save(arrays)))


@pytest.mark.parametrize("kind", ["table", "image", "text"])
def test_a_damaged_file_is_refused_or_harmless(kind):
    """Bytes changed, cut off, doubled: an error in one line, or the very same preparation."""
    made, draw = examples()[kind], np.random.default_rng(0)
    files, refused = made.save(), 0
    for trial in range(600):
        name = (JSON, ARRAYS)[trial % 2]
        content = bytearray(files[name])
        at = int(draw.integers(len(content)))
        if trial % 6 < 3:
            content[at] = int(draw.integers(256))
        elif trial % 6 < 5:
            del content[at : at + int(draw.integers(1, 40))]
        else:
            content[at:at] = content[: int(draw.integers(1, 40))]
        try:
            again = Preparation.load(files | {name: bytes(content)})
        except CheckpointError:
            refused += 1
        else:
            assert again.save() == files
    assert refused > 500


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cannot be read"), (b"[]", "an object of fields"), (b"\xff\xfe", "cannot be read"),
    (b"[" * 100_000, "cannot be read"), (b'{"version": ' + b"9" * 9999 + b"}", "cannot be read"),
    (b'{"version": NaN}', "version=nan: must be"), (b"null", "an object of fields"),
    (b'{"a":' * 900 + b"1" + b"}" * 900, "version is missing"),
])  # fmt: skip
def test_what_is_no_document_is_refused(content, message):
    files = examples()["text"].save()
    with pytest.raises(CheckpointError, match=message):
        Preparation.load(files | {JSON: content})
    with pytest.raises(CheckpointError, match="safetensors: cannot be read"):
        Preparation.load(files | {ARRAYS: content})
    with pytest.raises(CheckpointError, match="preparation.json: no such file"):
        Preparation.load({ARRAYS: files[ARRAYS]})


def test_files_of_two_preparations_are_not_mixed():
    """Each is sound, and their sizes fit: the checksum tells."""
    one, other = (
        Preparation(Pictures.fit([torch.rand(4, 1, 2, 2)], np.arange(4)), target)
        for target in [examples()["text"].target] * 2
    )
    with pytest.raises(CheckpointError, match="not as it was written, or not with its"):
        Preparation.load({JSON: one.save()[JSON], ARRAYS: other.save()[ARRAYS]})
