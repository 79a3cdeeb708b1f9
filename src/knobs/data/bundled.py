"""Data that is on the machine once the requirements are installed."""

import functools
import gzip
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from knobs.data.dataset import Data
from knobs.data.folds import folded
from knobs.data.inputs import Table
from knobs.data.prepare import (
    content_hash,
    encode_targets,
    make_data,
    picture_splits,
    tensors,
    text_data,
    three_way,
)
from knobs.errors import DataError

# scikit-learn's own files are read as they lie: importing it would take a second of every start.
# name: (file, delimiter, header lines, shape of one example)
_FILES = {
    "digits": ("digits.csv.gz", ",", 0, (1, 8, 8)),
    "breast_cancer": ("breast_cancer.csv", ",", 1, (30,)),
    "wine": ("wine_data.csv", ",", 1, (13,)),
    "diabetes": ("diabetes_data_raw.csv.gz", None, 0, (10,)),
}


def scikit_learn(
    *, name: str, kind: str, task: str, val: float, test: float, split_seed: int,
    numbers: str = "standard", folds: int | None = None, fold: int = 0,
) -> Data:  # fmt: skip
    """Read one of scikit-learn's toy sets, features (or an image's pixels together) standardised.

    Args:
        name: digits, breast_cancer, wine or diabetes.
        val: share of all examples for validation.
        test: share of all examples for test.
        split_seed: of the split.
        numbers: how those of a table are encoded, one of encodings.ENCODINGS.
        folds, fold: their number, and the one that validates; see folds.py.

    Raises:
        DataError: scikit-learn is not installed, or its file is not readable; images have numbers
            to encode.
    """
    if name not in _FILES:
        raise DataError(f"data.name={name}: scikit-learn sets are {', '.join(_FILES)}")
    rows, y = _read(name)
    shape = _FILES[name][3]
    parts = three_way(y, val, test, split_seed, task)
    parts, notes = folded(parts, y, task, folds, fold, split_seed)
    targets = encode_targets(y, parts[0], task)
    if len(shape) == 3:
        if numbers != "standard":
            raise DataError(f"data.numbers={numbers}: {name} are images; leave it out")
        pixels = torch.from_numpy(rows).float().reshape(-1, *shape)
        inputs, splits = picture_splits(pixels, targets.y, parts, unit=1)
    else:
        table = {f"x{i}": column for i, column in enumerate(rows.T)}
        inputs = Table.fit([table], parts[0], single=True, encoding=numbers)
        x = inputs.apply(table)
        shape, splits = x.shape[1:], tensors(x, targets.y, parts)
    return make_data(
        name, kind, task, splits, targets, shape, inputs=inputs, hash=content_hash(parts, rows, y),
        notes=notes, folds=folds,
    )  # fmt: skip


@functools.lru_cache(1)  # the folds of a sweep are one source
def _read(name: str) -> tuple[np.ndarray, np.ndarray]:
    file, delimiter, header, _ = _FILES[name]
    spec = importlib.util.find_spec("sklearn")
    if spec is None:
        raise DataError(f"data={name}: ships with scikit-learn; pip install scikit-learn")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    try:
        rows = np.loadtxt(folder / file, delimiter=delimiter, skiprows=header)
        if name != "diabetes":
            return rows[:, :-1], rows[:, -1].astype(int)
        return rows, np.loadtxt(gzip.open(folder / "diabetes_target.csv.gz"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / file}: cannot be read ({error})") from None


def python_docs(
    *, name: str, kind: str, task: str, topics: int, words: int,
    val: float, test: float, split_seed: int,
    ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
    folds: int | None = None, fold: int = 0, tokenizer: str | None = None,
) -> Data:  # fmt: skip
    """Cut the Python reference into passages; the class is the topic they come from.

    Args:
        topics: how many, the longest first.
        words: the least words of a passage: paragraphs are joined until they have as many.
        folds, fold: their number, and the one that validates; see folds.py.
        tokenizer: a folder with a network's own; None for words.
    """
    from pydoc_data.topics import topics as documents

    longest = sorted(documents, key=lambda topic: (-len(documents[topic]), topic))[:topics]
    labelled = [(p, topic) for topic in longest for p in _passages(documents[topic], words)]
    texts, labels = [passage for passage, _ in labelled], np.array([topic for _, topic in labelled])
    parts = three_way(labels, val, test, split_seed, task)
    parts, notes = folded(parts, labels, task, folds, fold, split_seed)
    data = text_data(
        name, kind, task, texts, labels, parts, folds=folds, tokenizer=tokenizer,
        ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary, min_count=min_count,
    )  # fmt: skip
    return replace(data, notes=[*data.notes, *notes])


def _passages(document: str, words: int) -> list[str]:
    passages: list[str] = []
    waiting: list[str] = []
    for paragraph in re.split(r"\n\s*\n", document):
        waiting += paragraph.split()
        if len(waiting) >= words:
            passages.append(" ".join(waiting))
            waiting = []
    return passages
