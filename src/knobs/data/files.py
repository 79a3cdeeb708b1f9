"""A user's own data: tables, sentences and folders of images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Data, Stream
from knobs.data.prepare import (
    Targets,
    encode_targets,
    make_data,
    outputs,
    split,
    standardize,
    tensors,
    text_data,
    three_way,
)
from knobs.errors import DataError
from knobs.shape import Shape

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


def csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, target: str,
    drop: list[str], val: float, test: float, split_seed: int,
) -> Data:  # fmt: skip
    """A table: numbers standardised (missing: the median), categories one-hot.

    Args:
        path: a CSV with a header.
        test_path: an official test table; then `test` plays no part.
        target: the column to predict; rows without it are an error.
        drop: columns to leave out.

    Raises:
        DataError: naming the file and the column at fault.
    """
    table, official = _read(path, test_path)
    missing = sorted({target, *drop} - set(table.columns))
    if missing:
        have = ", ".join(map(str, table.columns))
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {have}")
    values = table[target]
    if values.isna().any():
        raise DataError(f"{path}: {values.isna().sum()} rows have no {target}")
    if task == "regression" and values.dtype.kind not in "biuf":
        raise DataError(f"{path}: {target} is not a column of numbers; data.task=classification?")
    labels = values.to_numpy(float) if task == "regression" else values.astype(str).to_numpy(str)
    parts = _parts(labels, official, val, test, split_seed, task)
    targets = encode_targets(labels, parts[0], task)
    x = _features(table.drop(columns=[target, *drop]), parts[0], path)
    shape = Shape((x.shape[1],), outputs(targets))
    return make_data(name, kind, task, tensors(x, targets.y, *parts), shape, targets)


def text_csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, text: str, label: str,
    val: float, test: float, split_seed: int,
    ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
) -> Data:  # fmt: skip
    """A column of text and a column of labels.

    Raises:
        DataError: naming the file and the column at fault.
    """
    table, official = _read(path, test_path)
    missing = sorted({text, label} - set(table.columns))
    if missing:
        have = ", ".join(map(str, table.columns))
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {have}")
    return text_data(
        name, task, table[text].fillna("").astype(str).tolist(),
        table[label].astype(str).to_numpy(str),
        lambda y: _parts(y, official, val, test, split_seed, task),
        ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary, min_count=min_count,
    )  # fmt: skip


def _read(path: str, test_path: str | None) -> tuple[Any, int]:
    """The rows of both tables, and how many at the end are the official test's."""
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
    return pd.concat(tables, ignore_index=True), len(tables[1]) if test_path else 0


def _parts(
    labels: np.ndarray, official: int, val: float, test: float, seed: int, task: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own = len(labels) - official
    train, chosen, held = three_way(labels[:own], val, None if official else test, seed, task)
    return train, chosen, np.arange(own, len(labels)) if official else held


def _features(table: Any, train: np.ndarray, path: str) -> Tensor:
    """(N, columns) float32, by scikit-learn's imputer, scaler and encoder fitted on `train`."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numeric = [c for c in table.columns if table[c].dtype.kind in "iuf"]
    categorical = [c for c in table.columns if c not in numeric]
    if not len(table.columns):
        raise DataError(f"{path}: no column is left to learn from")
    numbers = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    transformer = ColumnTransformer(
        [("numbers", numbers, numeric), ("categories", one_hot, categorical)]
    )
    table = table.assign(
        **{
            c: table[c].astype(object).where(table[c].notna(), "missing").astype(str)
            for c in categorical
        }
    )
    transformer.fit(table.iloc[train])
    return torch.from_numpy(np.asarray(transformer.transform(table), np.float32))


# ------------------------------------------------------------------ images
def image_folder(
    *, name: str, kind: str, task: str, root: str, size: int, val: float, test: float,
    split_seed: int, augment: dict, memory_gib: float, workers: int,
) -> Data:  # fmt: skip
    """One sub-folder a class, under root, or under root/train, root/test and root/val.

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
    classes = _class_names(folders["train"])
    files: list[Path] = []
    labels: list[str] = []
    origin: list[str] = []
    for which, folder in folders.items():
        found = [(f, c) for c in _class_names(folder) for f in _images(folder / c)]
        files += [f for f, _ in found]
        labels += [c for _, c in found]
        origin += [which] * len(found)
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise DataError(f"{base}: class {unknown[0]} is not in {folders['train']}")
    parts = _folder_parts(np.array(labels), np.array(origin), folders, val, test, split_seed)
    targets = encode_targets(np.array(labels), parts[0], task)
    shape = Shape((3, size, size), outputs(targets))
    if len(files) * 3 * size**2 * 4 <= memory_gib * 2**30:
        x = torch.stack([read_image(file, size) for file in files]).float().div_(255)
        x = standardize(x, x[torch.from_numpy(parts[0])], [0, 2, 3])
        splits: list = tensors(x, targets.y, *parts)
    else:
        splits = _streams(files, targets, parts, size, workers)
    return make_data(name, kind, task, splits, shape, targets, augment)


def _folder_parts(
    labels: np.ndarray, origin: np.ndarray, folders: dict, val: float, test: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits with a folder of their own come from it, others are cut from the training's."""

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


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)


def read_image(path: Path, size: int) -> Tensor:
    """(3, size, size) uint8: the image's middle square, scaled."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.fit(image.convert("RGB"), (size, size)))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


class _Reader:
    """Index -> decoded image, of one split; a class so that worker processes can receive it."""

    def __init__(self, files: list[Path], size: int):
        self.files, self.size = files, size

    def __call__(self, index: int) -> Tensor:
        return read_image(self.files[index], self.size)


class _Normalize:
    """uint8 (N, C, H, W) -> (x / 255 - mean) / std by channel."""

    def __init__(self, sample: Tensor):
        self.mean = sample.mean([0, 2, 3])[:, None, None]
        self.std = sample.std([0, 2, 3], correction=0)[:, None, None].clamp(min=1e-8)

    def __call__(self, x: Tensor) -> Tensor:
        return (x.float() / 255 - self.mean.to(x.device)) / self.std.to(x.device)


def _streams(
    files: list[Path], targets: Targets, parts: tuple[np.ndarray, ...], size: int, workers: int
) -> list[Stream]:
    """Three streams; channel statistics from up to 1,000 training images, evenly spread."""
    some = parts[0][:: max(1, len(parts[0]) // 1000)]
    sample = torch.stack([read_image(files[i], size) for i in some]).float() / 255
    normalize = _Normalize(sample)
    return [
        Stream(
            _Reader([files[i] for i in part], size),
            targets.y[torch.from_numpy(part)],
            normalize,
            workers,
        )
        for part in parts
    ]
