"""Folders of images: which files are pictures of which class and split."""

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Data, Stream
from knobs.data.folds import folded
from knobs.data.inputs import Pictures
from knobs.data.opening import room
from knobs.data.pixels import IMAGES, ending_of, hidden, inside, picture_files, read_pixels
from knobs.data.prepare import (
    Parts,
    content_hash,
    encode_targets,
    make_data,
    picture_splits,
    split,
)
from knobs.data.splits import of_validation
from knobs.errors import DataError
from knobs.weights import Statistics
from knobs.words import listed

# A folder of these alone is a class that would be lost, not a folder of something else.
UNREAD = {
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".jpe", ".pbm", ".pnm", ".pfm", ".svg",
    ".tga", ".ico", ".psd", ".dcm", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".exr", ".hdr",
    ".npy",
}  # fmt: skip
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
OTHER_SPLITS = {"dev", "eval", "evaluation", "holdout"}  # beside a training folder: no classes
LOW = 32  # pixel values apart, of 255: less is told as little contrast
GLANCES = 64  # files of a streamed set whose content is hashed

Classes = dict[str, list[Path]]  # the pictures of each class, both in order


@dataclass(frozen=True)
class Labelled:
    """Pictures and what is to be predicted of them.

    Args:
        files: (N,) paths.
        values: (N,) or (N, T) targets, as the task has them.
        origin: (N,) the split folder of each; `train` where there are none.
        names: of the targets.
    """

    files: np.ndarray
    values: np.ndarray
    origin: np.ndarray
    names: Sequence[str] = ("target",)


def prepared_by(by: Statistics, size: tuple[int, int], channels: int, scaled: bool) -> Pictures:
    """Return the preparation of pictures by the statistics of weights.

    Args:
        scaled: whether the pictures are files, which are scaled as `by` says.
    """
    mean, std = by.by_channel(channels)
    how = {"resize": by.resize, "resample": by.resample} if scaled else {}
    return Pictures(size, 255, mean, std, **how)


def by_folder(base: Path, notes: list[str]) -> Labelled:
    """Return the pictures of one sub-folder a class, under base, or under base/train and others.

    Raises:
        DataError: folders that are neither classes nor splits, a class or split without images.
    """
    rows = [
        (file, label, part)
        for part, classes in _gather(base, notes).items()
        for label, pictures in classes.items()
        for file in pictures
    ]
    return Labelled(*map(np.array, zip(*rows, strict=True)))


def picture_data(
    name: str, kind: str, task: str, base: Path, found: Labelled, notes: Sequence[str],
    *, size: int, val: float, test: float, split_seed: int, augment: dict, memory_gib: float,
    workers: int, folds: int | None = None, fold: int = 0, by: Statistics | None = None,
) -> Data:  # fmt: skip
    """Return Data of pictures, read into memory or streamed.

    Args:
        notes: what is to be said of how they were found.
        folds, fold: their number, and the one that validates; see folds.py.
        by: how they are scaled and standardised; None: by the training split.

    Raises:
        DataError: a split without pictures, a target that never changes, or an image that cannot
            be read, named.
    """
    files, values = found.files, found.values
    classes = task == "classification"
    try:
        folders = set(found.origin)
        if folds and "val" in folders:
            has = "the images have a validation split of their own; leave data.folds out, or move"
            raise DataError(f"data.folds={folds}: {has} its images to the training folder")
        parts = folder_parts(values, found.origin, folders, val, test, split_seed, classes)
        parts, more = folded(parts, values, task, folds, fold, split_seed)
        targets = encode_targets(values, parts[0], task, found.names)
    except DataError as error:
        raise DataError(f"{base}: {error}") from None
    notes = [*notes, *more]
    if classes and (unlearnt := sorted(set(values) - set(values[parts[0]]))):
        notes.append(f"no training image of {listed(unlearnt)}, which cannot be learned")
    given = prepared_by(by, (size, size), 3, scaled=True) if by else None
    how = (size, by.resize, by.resample) if by else (size,)
    if len(files) * 3 * size**2 * 4 <= memory_gib * 2**30:
        fix = "a smaller data.size, or data.memory_gib=0 to read them batch by batch, may fit"
        with room(f"{len(files):,} pictures of {size} x {size}", 3 * len(files) * size**2, fix):
            pixels = torch.stack([read_image(file, *how) for file in files])
        inputs, splits = picture_splits(pixels, targets.y, parts, inputs=given)
        content: list = [pixels]
        alike = targets.y.numpy() if classes else np.zeros(len(files), int)
        notes += [*_dim(pixels[torch.from_numpy(parts[0])]), *_repeats(pixels, alike, parts)]
    else:
        inputs, splits = _streams(files, targets.y, parts, how, workers, given)
        content = _glance(files, base)
    return make_data(
        name, kind, task, splits, targets, (3, size, size), augment=augment, inputs=inputs,
        hash=content_hash(parts, *content, values), notes=notes, folds=folds,
    )  # fmt: skip


def _gather(base: Path, notes: list[str]) -> dict[str, Classes]:
    """Return the classes of each split that has a folder of its own; `train` is one.

    Notes say what is passed over: files, folders, classes that a split has no image of.

    Raises:
        DataError: naming the folder at fault.
    """
    passed: Counter[str] = Counter()
    folders = _split_folders(base, passed, notes)
    found: dict[str, Classes] = {}
    empty, idle = "", []
    for part, folder in folders.items():
        found[part] = {}
        for place in _class_folders(folder, passed):
            others: Counter[str] = Counter()
            pictures = picture_files(place, others)
            passed += others
            if pictures:
                found[part][place.name] = pictures
            elif part == "train" and (others.keys() <= {"hidden"} or others.keys() & UNREAD):
                held = f"it holds {counted(others)}" if others else "it is empty"
                fix = "add some, convert them, or remove the folder"
                empty = empty or f"{place}: a class without an image that is read, {held}; {fix}"
            elif part == "train":  # annotations, the records of runs
                idle.append(place.name)
        if not found[part]:
            held = f"; it holds {counted(passed)}" if passed else ""
            expected = f"expected files in {', '.join(sorted(IMAGES))}"
            raise DataError(f"{folder}: no images; {expected}{held}")
    if empty:
        raise DataError(empty)
    known = list(found["train"])
    if len(known) < 2:
        only = f"one class only, {known[0]}; expected a sub-folder for each of two classes or more"
        raise DataError(f"{folders['train']}: {only}")
    for part, classes in found.items():
        if unknown := sorted(classes.keys() - set(known)):
            raise DataError(f"{base}: class {unknown[0]} is not in {folders['train']}")
        if missing := [name for name in known if name not in classes]:
            notes.append(f"no image of {listed(missing)} in {folders[part].name}")
    if idle:
        notes.append(f"no class, as no image is there: {listed(idle)}")
    if passed:
        notes.insert(0, f"{passed.total():,} passed over: {counted(passed)}")
    return found


def _split_folders(base: Path, passed: Counter, notes: list[str]) -> dict[str, Path]:
    """Return the folder of each split: train, val and test in this order, or base for training.

    Raises:
        DataError: two folders for one split, none for training, or splits beside classes.
    """
    others: Counter[str] = Counter()
    inside = _folders(base, others)
    named: dict[str, Path] = {}
    for folder in inside:
        if part := SPLITS.get(folder.name.casefold()):
            if part in named:
                both = f"{named[part].name} and {folder.name}"
                raise DataError(f"{base}: two folders for the {part} split, {both}; keep one")
            named[part] = folder
    rename = "rename the split folders train, val and test, or a class that is called so"
    if not named:
        like = {folder.name: _like_splits(folder.name) for folder in inside}
        if len({*like.values()} - {""}) > 1:
            names = listed([name for name, part in like.items() if part])
            raise DataError(f"{base}: {names} look like splits, not like classes; {rename}")
        return {"train": base}  # whose other files are counted with its classes
    passed += others
    if "train" not in named:
        names = listed([folder.name for folder in named.values()])
        raise DataError(f"{base}: {names}, but no folder train beside; {rename}")
    empty = []
    for folder in inside:
        if folder in named.values():
            continue
        if picture_files(folder, Counter()):
            mixed = f"{folder.name} beside the split folder {named['train'].name}"
            either = "expected split folders only, or class folders only"
            raise DataError(f"{base}: {mixed}, with images; {either}: {rename}")
        empty.append(folder.name)
    if empty:
        notes.append(f"passed over, as no image is there: {listed(empty)}")
    return {part: named[part] for part in ("train", "val", "test") if part in named}


def _like_splits(name: str) -> str:
    """Return the split that a name such as train2017, test_set or valset speaks of; or nothing."""
    for word in re.findall(r"[a-z]+", name.casefold()):
        word = word if word in SPLITS else re.sub(r"(set|data|images)$", "", word)
        if part := SPLITS.get(word) or ("val" if word in OTHER_SPLITS else ""):
            return part
    return ""


def _class_folders(folder: Path, passed: Counter) -> list[Path]:
    """Return the sub-folders, each a class.

    Raises:
        DataError: there is none, or all of them hold splits: the classes lie deeper.
    """
    classes = _folders(folder, passed)
    if not classes:
        raise DataError(f"{folder}: no sub-folders; expected one a class")
    inner = [[f for f in _folders(place, Counter()) if _is_train(f)] for place in classes]
    if all(inner):
        fix = f"data.root={classes[0]}?" if len(classes) == 1 else "expected train/CLASS"
        raise DataError(f"{inner[0][0]}: a split inside what would be a class; {fix}")
    return classes


def _is_train(folder: Path) -> bool:
    return SPLITS.get(folder.name.casefold()) == "train"


def _folders(folder: Path, passed: Counter) -> list[Path]:
    """Return the folders in a folder, sorted; count what else is there."""
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; expected one sub-folder a class")
    folders = []
    for entry in inside(folder):
        if hidden(entry.name):
            passed["hidden"] += 1
        elif entry.is_dir():
            folders.append(Path(entry.path))
        elif ending_of(entry.name) in IMAGES:
            passed["in no class folder"] += 1
        else:
            passed[ending_of(entry.name)] += 1
    return folders


def counted(passed: Counter) -> str:
    """Return `10 .txt, 2 hidden`, the most frequent first."""
    ordered = sorted(passed.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{n:,} {what}" for what, n in ordered)


def folder_parts(
    values: np.ndarray, origin: np.ndarray, folders: Collection[str], val: float, test: float,
    seed: int, stratify: bool = True, what: str = "image",
) -> Parts:  # fmt: skip
    """Return splits: those with a folder of their own from it, others cut from the training's."""

    def cut(rest: np.ndarray, name: str, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if name in folders:
            return rest, np.flatnonzero(origin == name)
        kept, held = split(values[rest], share, seed, stratify)
        return rest[kept], rest[held]

    rest, held = cut(np.flatnonzero(origin == "train"), "test", test, seed)
    left = 1.0 if "test" in folders else 1.0 - test
    train, chosen = cut(rest, "val", val / left, of_validation(seed) + 1)
    for name, part in (("training", train), ("validation", chosen)):
        if not len(part):
            fix = f"add {what}s, or change data.val or data.test"
            raise DataError(f"no {what} is left for the {name} split; {fix}")
    return train, chosen, held


def _dim(pixels: Tensor) -> list[str]:
    """Return a note where pixels use little of 0 .. 255: 12 bits in a PNG of 16 end at 15."""
    least, most = pixels.min().item(), pixels.max().item()
    fix = "scale them, if they use fewer bits than their format has"
    return [f"training pixels lie in {least} .. {most} of 255; {fix}"] * (most - least < LOW)


def _repeats(pixels: Tensor, labels: np.ndarray, parts: Parts) -> list[str]:
    """Return notes on images that are identical, byte for byte as they were scaled.

    Args:
        pixels: (N, 3, size, size) uint8.
        labels: (N,) classes; those of the test split are not looked at.
    """
    digests = [hashlib.blake2b(one.numpy(), digest_size=8).digest() for one in pixels]
    _, kinds = np.unique(np.frombuffer(b"".join(digests), "<u8"), return_inverse=True)
    train, chosen, held = parts
    notes, size = [], f"{pixels.shape[-1]} x {pixels.shape[-1]} pixels"
    again = [f"{n:,} {name}" for name, part in (("validation", chosen), ("test", held))
             if (n := int(np.isin(kinds[part], kinds[train]).sum()))]  # fmt: skip
    if again:
        notes.append(f"{' and '.join(again)} images are identical to training images at {size}")
    mine = np.concatenate([train, chosen])
    pairs = {*zip(kinds[mine].tolist(), labels[mine].tolist(), strict=True)}
    if double := [kind for kind, n in Counter(kind for kind, _ in pairs).items() if n > 1]:
        n = int(np.isin(kinds[mine], double).sum())
        notes.append(f"{n:,} images are identical to one of another class at {size}")
    return notes


def read_image(path: Path, *how: int | str) -> Tensor:
    """Return (3, size, size) uint8 of a picture, as `read_pixels` reads it."""
    return torch.from_numpy(read_pixels(path, *how))


def _streams(
    files: np.ndarray, y: Tensor, parts: Parts, how: tuple, workers: int, given: Pictures | None
) -> tuple[Pictures, list[Stream]]:
    """Return three streams; channel statistics from up to 1,000 training images, evenly spread.

    Args:
        how: pictures are read, as read_pixels takes it.
        given: their preparation, where it is given.
    """
    some = files[parts[0][:: max(1, len(parts[0]) // 1000)]]
    sample = torch.stack([read_image(file, *how) for file in some[: 1 if given else None]])
    inputs = given or Pictures.fit([sample], np.arange(len(sample)))
    streams = []
    for part in parts:
        examples = functools.partial(_read_nth, files[part], how)
        rows = torch.from_numpy(part)
        streams.append(Stream(examples, y[rows], inputs.apply, workers, rows=rows))
    return inputs, streams


def _glance(files: np.ndarray, base: Path) -> list:
    """Return what tells a large folder from another: names, sizes, the bytes of some files."""
    names = [path.relative_to(base).as_posix() for path in files]
    sizes = np.array([path.stat().st_size for path in files])
    return [names, sizes, *files[:: -(-len(files) // GLANCES)]]


# A function of the module, so that worker processes can receive it.
def _read_nth(files: np.ndarray, how: tuple, index: int) -> Tensor:
    return read_image(files[index], *how)
