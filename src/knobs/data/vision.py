"""Image sets with an official test split, through torchvision."""

import os
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import torch

from knobs.data.dataset import Data
from knobs.data.folds import folded
from knobs.data.images import prepared_by
from knobs.data.prepare import (
    Targets,
    classes_of,
    content_hash,
    make_data,
    picture_splits,
    three_way,
)
from knobs.errors import DataError, refused, starved
from knobs.weights import of_weights

_CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def official(
    *, name: str, kind: str, task: str, root: str, download: bool,
    val: float, split_seed: int, augment: dict, folds: int | None = None, fold: int = 0,
    normalize: bool | str = True, statistics: str | None = None,
) -> Data:  # fmt: skip
    """Read an image set into memory, channels standardised by the training split.

    Args:
        name: mnist, fashion_mnist, cifar10 or cifar100.
        root: folder that holds the set, or will.
        download: fetch it if it is absent; checksums are torchvision's.
        val: share of the official training split for validation.
        split_seed: of that split.
        augment: crop and flip, see Augment.
        folds, fold: their number, and the one that validates; see folds.py.
        normalize: true, or weights: by `statistics`, those of weights; see weights.py.

    Raises:
        DataError: absent and not to be downloaded, unreadable, or a wrong checksum.
    """
    from knobs.torchvision_shim import torchvision

    if name not in _CLASSES:
        raise DataError(f"data.name={name}: torchvision sets are {', '.join(_CLASSES)}")
    kind_of = getattr(torchvision.datasets, _CLASSES[name])
    sets = [_open(kind_of, Path(root).expanduser(), train, download) for train in (True, False)]
    pixels = [torch.as_tensor(np.asarray(one.data)) for one in sets]
    x = torch.cat([p.unsqueeze(1) if p.ndim == 3 else p.permute(0, 3, 1, 2) for p in pixels])
    y = torch.cat([torch.as_tensor(one.targets) for one in sets])
    parts = three_way(y.numpy(), val, 0.0, split_seed, task, official=len(sets[1]))
    parts, notes = folded(parts, y.numpy(), task, folds, fold, split_seed)
    targets = Targets(y, classes_of([str(name) for name in sets[0].classes]))
    by = statistics and of_weights(statistics)
    given = prepared_by(by, tuple(x.shape[2:]), x.shape[1], scaled=False) if by else None
    inputs, splits = picture_splits(x, y, parts, inputs=given)
    return make_data(
        name, kind, task, splits, targets, x.shape[1:], augment=augment, inputs=inputs,
        hash=content_hash(parts, x, y), notes=notes, folds=folds,
    )  # fmt: skip


def _open(kind_of: Any, root: Path, train: bool, download: bool) -> Any:
    """Return torchvision's data set, unpacked or downloaded where it is not there yet."""
    from torchvision.datasets.utils import calculate_md5

    try:
        return kind_of(root, train=train)
    except RuntimeError:
        pass  # not there, or packed
    except (OSError, ValueError, EOFError, AssertionError) as error:
        raise DataError(f"{root}: {kind_of.__name__} cannot be read ({error})") from None
    packed = _packed(kind_of, root)
    missing = ", ".join(str(path) for path, _ in packed if not path.is_file())
    for path, expected in packed:
        if path.is_file() and (md5 := calculate_md5(path)) != expected:
            raise DataError(f"{path}: md5 is {md5}, expected {expected}; delete it and try again")
    if missing and not download:
        raise DataError(f"{missing}: not there; give data.root, or data.download=true to fetch it")
    if not missing and not os.access(root, os.W_OK):
        root = _linked_copy(root, packed)  # unpacking writes, and that folder is read-only
    try:
        return kind_of(root, train=train, download=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        if refused(error) or starved(error):  # by the disk that it is unpacked to
            raise
        expected = ", ".join(path.name for path, _ in packed)
        reason = " ".join(str(error).split())
        raise DataError(
            f"{root}: {kind_of.__name__} could not be fetched ({reason}); "
            f"put {expected} into {packed[0][0].parent}, or set data.root or KNOBS_DATA"
        ) from None


def _packed(kind_of: Any, root: Path) -> list[tuple[Path, str]]:
    """Return the files that torchvision downloads and their md5 sums."""
    if hasattr(kind_of, "resources"):
        return [(root / kind_of.__name__ / "raw" / file, md5) for file, md5 in kind_of.resources]
    return [(root / kind_of.filename, kind_of.tgz_md5)]


def _linked_copy(root: Path, packed: list[tuple[Path, str]]) -> Path:
    copy = Path("data")
    for path, _ in packed:
        link = copy / path.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    return copy
