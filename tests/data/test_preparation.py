"""What turns raw rows into tensors: the bits of every data option, saved, read, and hostile files."""

import csv
import hashlib
import platform

import fake_sets
import numpy as np
import pytest
import torch
from PIL import Image

from knobs import build
from knobs.config import command

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
        more += [f"data.{only[case]}"] if case in only else []
        return ["data=csv", f"data.path={folder / 't.csv'}", f"data.task={task}",
                f"data.target={target[task]}", *more]  # fmt: skip
    if option == "text_csv":
        write_sentences(folder / "t.csv")
        return ["data=text_csv", f"data.path={folder / 't.csv'}", "model=text_bag", "data.ngrams=2"]
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
