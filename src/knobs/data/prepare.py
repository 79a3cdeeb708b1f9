"""From examples to Data: seeded, stratified splits, statistics of the training split alone."""

import collections
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Augment, Data, Tensors
from knobs.errors import DataError
from knobs.shape import Shape


@dataclass(frozen=True)
class Targets:
    """y (N,), class numbers or standardised values, and what they stand for."""

    y: Tensor
    classes: list[str]
    std: float = 1.0


def split(y: np.ndarray, share: float, seed: int, stratify: bool) -> tuple[np.ndarray, np.ndarray]:
    """Indices kept and indices held out.

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
    y: np.ndarray, val: float, test: float | None, seed: int, task: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test examples; test=None: there is an official one."""
    stratify = task == "classification"
    rest, held = split(y, test or 0.0, seed, stratify)
    train, chosen = split(y[rest], val / (1 - (test or 0.0)), seed + 1, stratify)
    for name, part in (("training", train), ("validation", chosen)):
        if not len(part):
            raise DataError(
                f"no example is left for the {name} split; change data.val or data.test"
            )
    return rest[train], rest[chosen], held


def encode_targets(values: np.ndarray, train: np.ndarray, task: str) -> Targets:
    """Classes as numbers in sorted order; regression targets standardised by the training split."""
    if task == "classification":
        classes, numbers = np.unique(values, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"the target has one value only, {classes[0]!r}; nothing to learn")
        return Targets(torch.from_numpy(numbers.astype(np.int64)), [str(c) for c in classes])
    mean, std = values[train].mean(), values[train].std() or 1.0
    return Targets(torch.from_numpy(((values - mean) / std).astype(np.float32)), [], float(std))


def tensors(x: Tensor, y: Tensor, *indices: np.ndarray) -> list[Tensors]:
    """One split for each array of indices."""
    return [Tensors(x[torch.from_numpy(i)], y[torch.from_numpy(i)]) for i in indices]


def make_data(
    name: str,
    kind: str,
    task: str,
    splits: list,
    shape: Shape,
    targets: Targets,
    augment: dict | None = None,
) -> Data:
    """Data from [train, val, test], whatever they were made of."""
    return Data(
        name, kind, task, shape, *splits,
        classes=targets.classes, target_std=targets.std,
        augment=Augment(**augment) if augment and any(augment.values()) else None,
    )  # fmt: skip


def outputs(targets: Targets) -> int:
    """Numbers a model gives: one a class, or 1 for regression."""
    return len(targets.classes) or 1


def standardize(x: Tensor, train: Tensor, dims: list[int]) -> Tensor:
    """(x - mean) / std, statistics over `dims` of the training examples; a constant stays 0."""
    mean, std = train.mean(dims, keepdim=True), train.std(dims, correction=0, keepdim=True)
    return (x - mean) / torch.where(std > 1e-8, std, 1.0)


# ------------------------------------------------------------------ text
_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokenize(text: str, ngrams: int) -> list[str]:
    """Lower-cased words and signs, and runs of up to `ngrams` of them."""
    words = _TOKEN.findall(text.lower())
    runs = [words] + [
        [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        for n in range(2, ngrams + 1)
    ]
    return [token for run in runs for token in run]


def vocabulary(texts: list[list[str]], size: int, min_count: int) -> dict[str, int]:
    """Token -> id for the most frequent tokens; 0 is padding and 1 every other token.

    Ties go by the alphabet, so the ids do not depend on the order of the texts.
    """
    counts = collections.Counter(token for text in texts for token in text)
    kept = sorted((-n, token) for token, n in counts.items() if n >= min_count)[: max(0, size - 2)]
    return {token: i for i, (_, token) in enumerate(kept, start=2)}


def encode_texts(texts: list[list[str]], ids: dict[str, int], length: int) -> Tensor:
    """(N, length) int32 token ids, cut or padded with 0 at the end."""
    encoded = np.zeros((len(texts), length), np.int32)
    for row, text in zip(encoded, texts, strict=True):
        found = [ids.get(token, 1) for token in text[:length]]
        row[: len(found)] = found
    return torch.from_numpy(encoded)


def text_data(
    name: str, task: str, texts: list[str], labels: np.ndarray,
    indices: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    *, ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
) -> Data:  # fmt: skip
    """Texts and labels -> Data, the vocabulary and the length taken from the training split.

    Args:
        indices: labels -> training, validation and test indices.
    """
    parts = indices(labels)
    targets = encode_targets(labels, parts[0], task)
    tokens = [tokenize(text, ngrams) for text in texts]
    ids = vocabulary([tokens[i] for i in parts[0]], max_vocabulary, min_count)
    length = min(max_length, max(1, *(len(tokens[i]) for i in parts[0])))
    splits = tensors(encode_texts(tokens, ids, length), targets.y, *parts)
    shape = Shape((length,), outputs(targets), len(ids) + 2)
    return make_data(name, "text", task, splits, shape, targets)
