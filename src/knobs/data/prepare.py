"""From examples to Data: seeded, stratified splits, statistics of the training split alone."""

import collections
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Augment, Data, Stream, Tensors
from knobs.errors import DataError
from knobs.shape import Shape

# Indices of the training, validation and test examples.
Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Targets:
    """y (N,), class numbers or standardised values, and what they stand for."""

    y: Tensor
    classes: list[str]
    std: float = 1.0
    mean: float = 0.0


def split(y: np.ndarray, share: float, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices kept and those held out.

    Stratified: examples are shuffled, laid out class by class, and every 1/share-th is held out,
    so each class gives its share to within one example.

    Args:
        y: (N,) targets.
        share: 0 .. 1, of the examples to hold out.
        seed: of the shuffle.
        stratify: whether y holds classes.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    if stratify:
        order = order[np.argsort(y[order], kind="stable")]
    position = np.floor(np.arange(len(y) + 1) * share + 0.5)
    held = np.diff(position) > 0
    return np.sort(order[~held]), np.sort(order[held])


def three_way(
    y: np.ndarray, val: float, test: float, seed: int, task: str, official: int = 0
) -> Parts:
    """Return the indices of training, validation and test examples.

    Args:
        val: share of all examples but the official ones for validation.
        test: share for test, where no example is official.
        official: number of examples at the end that are the official test split.
    """
    stratify = task == "classification"
    mine = len(y) - official
    test = 0.0 if official else test
    rest, held = split(y[:mine], test, seed, stratify)
    train, chosen = split(y[rest], val / (1 - test), seed + 1, stratify)
    for name, part in (("training", train), ("validation", chosen)):
        if not len(part):
            raise DataError(
                f"no example is left for the {name} split; change data.val or data.test"
            )
    return rest[train], rest[chosen], np.arange(mine, len(y)) if official else held


def encode_targets(values: np.ndarray, train: np.ndarray, task: str) -> Targets:
    """Number classes in sorted order; standardise regression targets by the training split."""
    if task == "classification":
        classes, numbers = np.unique(values, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"the target has one value only, {classes[0]!r}; nothing to learn")
        return Targets(torch.from_numpy(numbers.astype(np.int64)), [str(c) for c in classes])
    if task != "regression":
        raise DataError(f"data.task={task}: this data set has one target; choose another task")
    mean, std = values[train].mean(), values[train].std() or 1.0
    y = torch.from_numpy(((values - mean) / std).astype(np.float32))
    return Targets(y, [], float(std), float(mean))


def tensors(x: Tensor, y: Tensor, parts: Parts) -> list[Tensors]:
    """Return the splits of examples x (N, ...) and targets y (N,) in memory."""
    return [Tensors(x[i], y[i]) for i in map(torch.from_numpy, parts)]


def standardize(x: Tensor, train: np.ndarray) -> Tensor:
    """Return (x - mean) / std by feature (N, F) or channel (N, C, H, W); a constant stays 0.

    Args:
        train: indices of the examples that give mean and std.
    """
    sample, dims = x[torch.from_numpy(train)], [0, *range(2, x.ndim)]
    mean, std = sample.mean(dims, keepdim=True), sample.std(dims, correction=0, keepdim=True)
    return (x - mean) / torch.where(std > 1e-8, std, 1.0)


def make_data(
    name: str, kind: str, task: str, splits: Sequence[Tensors | Stream], targets: Targets,
    shape: Sequence[int], vocabulary: int = 0, augment: dict | None = None,
) -> Data:  # fmt: skip
    """Return Data of the training, validation and test split, whatever they are made of.

    Args:
        shape: of one example.
        vocabulary: number of token ids; 0 where there is no text.
        augment: crop and flip, see Augment.
    """
    return Data(
        name, kind, task, Shape(tuple(shape), len(targets.classes) or 1, vocabulary), *splits,
        classes=targets.classes, target_std=targets.std, target_mean=targets.mean,
        augment=Augment(**augment) if augment and any(augment.values()) else None,
    )  # fmt: skip


_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokenize(text: str, ngrams: int) -> list[str]:
    """Return lower-cased words and signs, and runs of up to `ngrams` of them."""
    words = _TOKEN.findall(text.lower())
    longer = (
        " ".join(words[i : i + n]) for n in range(2, ngrams + 1) for i in range(len(words) - n + 1)
    )
    return [*words, *longer]


def vocabulary(texts: list[list[str]], size: int, min_count: int) -> dict[str, int]:
    """Return token -> id for the most frequent tokens; 0 is padding and 1 every other token.

    Ties go by the alphabet, so the ids do not depend on the order of the texts.
    """
    counts = collections.Counter(token for text in texts for token in text)
    kept = sorted((-n, token) for token, n in counts.items() if n >= min_count)[: max(0, size - 2)]
    return {token: i for i, (_, token) in enumerate(kept, start=2)}


def encode_texts(texts: list[list[str]], ids: dict[str, int], length: int) -> Tensor:
    """Return (N, length) int32 token ids, cut or padded with 0 at the end."""
    encoded = np.zeros((len(texts), length), np.int32)
    for row, text in zip(encoded, texts, strict=True):
        row[: len(text)] = [ids.get(token, 1) for token in text[:length]]
    return torch.from_numpy(encoded)


def text_data(
    name: str, kind: str, task: str, texts: list[str], labels: np.ndarray, parts: Parts,
    *, ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
) -> Data:  # fmt: skip
    """Return Data of texts, the vocabulary and the length taken from the training split."""
    targets = encode_targets(labels, parts[0], task)
    tokens = [tokenize(text, ngrams) for text in texts]
    ids = vocabulary([tokens[i] for i in parts[0]], max_vocabulary, min_count)
    length = min(max_length, max(1, *(len(tokens[i]) for i in parts[0])))
    splits = tensors(encode_texts(tokens, ids, length), targets.y, parts)
    return make_data(name, kind, task, splits, targets, [length], len(ids) + 2)
