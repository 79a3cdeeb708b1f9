"""A user's own data: tables, sentences and folders of images."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Data, Stream
from knobs.data.prepare import (
    Parts,
    encode_targets,
    make_data,
    split,
    standardize,
    tensors,
    text_data,
    three_way,
)
from knobs.errors import DataError

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, target: str,
    drop: list[str], val: float, test: float, split_seed: int,
) -> Data:  # fmt: skip
    """Read a table: numbers standardised (missing: the median), categories one-hot.

    Args:
        path: a CSV with a header.
        test_path: an official test table; then `test` plays no part.
        target: the column to predict; rows without it are an error.
        drop: columns to leave out.

    Raises:
        DataError: naming the file and the column at fault.
    """
    table, official = _read(path, test_path, {target, *drop})
    values = table[target]
    if values.isna().any():
        raise DataError(f"{path}: {values.isna().sum()} rows have no {target}")
    if task == "regression" and values.dtype.kind not in "biuf":
        raise DataError(f"{path}: {target} is not a column of numbers; data.task=classification?")
    labels = values.to_numpy(float) if task == "regression" else values.astype(str).to_numpy(str)
    parts = three_way(labels, val, test, split_seed, task, official)
    targets = encode_targets(labels, parts[0], task)
    x = _features(table.drop(columns=[target, *drop]), parts[0], path)
    return make_data(name, kind, task, tensors(x, targets.y, parts), targets, x.shape[1:])


def text_csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, text: str, label: str,
    val: float, test: float, split_seed: int,
    ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
) -> Data:  # fmt: skip
    """Read a column of text and a column of labels.

    Raises:
        DataError: naming the file and the column at fault.
    """
    table, official = _read(path, test_path, {text, label})
    texts = table[text].fillna("").astype(str).tolist()
    labels = table[label].astype(str).to_numpy(str)
    return text_data(
        name, kind, task, texts, labels, three_way(labels, val, test, split_seed, task, official),
        ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary, min_count=min_count,
    )  # fmt: skip


def _read(path: str, test_path: str | None, columns: set[str]) -> tuple[Any, int]:
    """Return the rows of both tables, and how many at the end are the official test's."""
    import pandas as pd

    tables = []
    for name in [path, test_path] if test_path else [path]:
        file = Path(name).expanduser()
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a CSV with a header")
        try:
            tables.append(pd.read_csv(file))
        except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
            raise DataError(f"{file}: not a CSV with a header ({error})") from None
        if tables[-1].empty:
            raise DataError(f"{file}: has no rows")
    if test_path and list(tables[0].columns) != list(tables[1].columns):
        raise DataError(f"{test_path}: its columns are not those of {path}")
    if missing := sorted(columns - set(tables[0].columns)):
        have = ", ".join(map(str, tables[0].columns))
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {have}")
    return pd.concat(tables, ignore_index=True), len(tables[1]) if test_path else 0


def _features(table: Any, train: np.ndarray, path: str) -> Tensor:
    """Return (N, columns) float32, from a scikit-learn transformer fitted on `train`."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [c for c in table.columns if table[c].dtype.kind in "iuf"]
    categorical = [c for c in table.columns if c not in numeric]
    if not len(table.columns):
        raise DataError(f"{path}: no column is left to learn from")
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    transformer = make_column_transformer(
        (make_pipeline(imputer, StandardScaler()), numeric), (one_hot, categorical)
    )
    words = table[categorical].astype(object)
    table = table.assign(**words.where(words.notna(), "missing").astype(str))
    transformer.fit(table.iloc[train])
    return torch.from_numpy(np.asarray(transformer.transform(table), np.float32))


def image_folder(
    *, name: str, kind: str, task: str, root: str, size: int, val: float, test: float,
    split_seed: int, augment: dict, memory_gib: float, workers: int,
) -> Data:  # fmt: skip
    """Read one sub-folder a class, under root, or under root/train, root/test and root/val.

    Args:
        size: pixels; the middle square of each image is scaled to it.
        memory_gib: sets larger than this once decoded are streamed from disk.
        workers: processes that decode a streamed set.

    Raises:
        DataError: no such folder, no classes, or an image that cannot be read, named.
    """
    base = Path(root).expanduser()
    named = {s: base / s for s in ("train", "val", "test") if (base / s).is_dir()}
    folders = named if "train" in named else {"train": base}
    rows = [
        (file, label, part)
        for part, folder in folders.items()
        for label in _class_names(folder)
        for file in sorted((folder / label).rglob("*"))
        if file.suffix.lower() in IMAGES
    ]
    if not rows:
        raise DataError(f"{base}: no images; expected files in {', '.join(sorted(IMAGES))}")
    files, labels, origin = map(np.array, zip(*rows, strict=True))
    if unknown := sorted(set(labels) - set(_class_names(folders["train"]))):
        raise DataError(f"{base}: class {unknown[0]} is not in {folders['train']}")
    parts = _folder_parts(labels, origin, folders, val, test, split_seed)
    targets = encode_targets(labels, parts[0], task)
    if len(files) * 3 * size**2 * 4 <= memory_gib * 2**30:
        x = torch.stack([read_image(file, size) for file in files]).float().div_(255)
        splits: list = tensors(standardize(x, parts[0]), targets.y, parts)
    else:
        splits = _streams(files, targets.y, parts, size, workers)
    return make_data(name, kind, task, splits, targets, (3, size, size), augment=augment)


def _folder_parts(
    labels: np.ndarray, origin: np.ndarray, folders: dict, val: float, test: float, seed: int
) -> Parts:
    """Return splits: those with a folder of their own from it, others cut from the training's."""

    def cut(rest: np.ndarray, name: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if name in folders:
            return rest, np.flatnonzero(origin == name)
        kept, held = split(labels[rest], share, seed, stratify=True)
        return rest[kept], rest[held]

    rest, held = cut(np.flatnonzero(origin == "train"), "test", test, seed)
    left = 1.0 if "test" in folders else 1.0 - test
    train, chosen = cut(rest, "val", val / left, seed + 1)
    return train, chosen, held


def _class_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one sub-folder a class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: no sub-folders; expected one a class")
    return names


def read_image(path: Path, size: int) -> Tensor:
    """Return (3, size, size) uint8: the image's middle square, scaled."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.fit(image.convert("RGB"), (size, size)))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _streams(files: np.ndarray, y: Tensor, parts: Parts, size: int, workers: int) -> list[Stream]:
    """Return three streams; channel statistics from up to 1,000 training images, evenly spread."""
    some = files[parts[0][:: max(1, len(parts[0]) // 1000)]]
    sample = torch.stack([read_image(file, size) for file in some]).float() / 255
    mean = sample.mean([0, 2, 3])[:, None, None]
    std = sample.std([0, 2, 3], correction=0)[:, None, None].clamp(min=1e-8)
    normalize = functools.partial(_normalize, mean=mean, std=std)
    streams = []
    for part in parts:
        examples = functools.partial(_read_nth, files[part], size)
        streams.append(Stream(examples, y[torch.from_numpy(part)], normalize, workers))
    return streams


# Functions of the module, so that worker processes can receive them.
def _read_nth(files: np.ndarray, size: int, index: int) -> Tensor:
    return read_image(files[index], size)


def _normalize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (x.float() / 255 - mean.to(x.device)) / std.to(x.device)
