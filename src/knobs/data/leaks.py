"""Hints of leaks: a column that alone gives the target, rows that are in two splits."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from knobs.data.columns import Columns
from knobs.data.notation import plain_numbers, text_of

AUC, R2 = 0.995, 0.99  # above which a column alone gives the target
DEPTH = 3  # of the tree on a column
FOLDS = 3
LEAST = 50  # training rows that show anything
ROWS, CELLS = 20_000, 1_000_000  # that are looked at, at most
CLASSES = 50  # the most frequent ones, that are looked at
VALUES = 100  # different numbers of a column that may be names of groups
SHOWN = 3  # pairs of rows that are named


def alone(
    table: Mapping[str, np.ndarray], read: Columns, target: np.ndarray, train: np.ndarray,
    task: str, names: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return a note for each column that alone gives a target, out of fold.

    At most ROWS training rows are looked at, fewer of a wide table. The score of a class or label
    is the area under its ROC curve (the mean over the classes), that of a value is R2.

    Args:
        table: name -> (N,) raw cells, of the columns that are left out too.
        read: how those that are inputs are read.
        target: (N,) class numbers, or (N, T) labels or values.
        train: numbers of the training rows.
        names: of the targets.
    """
    if len(train) < LEAST or len(table) < 2:
        return []
    rows = min(ROWS, max(1000, CELLS // (len(table) * len(names))))
    draw = np.random.default_rng(0)
    some = np.sort(draw.choice(train, rows, replace=False)) if len(train) > rows else train
    fold = draw.permutation(len(some)) % FOLDS
    kind, best = ("R2", R2) if task == "regression" else ("AUC", AUC)
    wanted = [*zip(names, _wanted(target[some], task), strict=True)]
    notes = []
    for column, cells in table.items():
        ways = [*_ways(cells[some], column, read)]
        for name, y in wanted:
            found = max((_score(x, groups, y, fold, kind) for x, groups in ways), default=0.0)
            if found > best:
                left = "" if column in read.columns else ", which is left out,"
                notes.append(
                    f"column {column}{left} alone gives {name} ({kind} {found:.3f}), a leak?"
                )
    return notes


def _wanted(target: np.ndarray, task: str) -> Iterator[np.ndarray]:
    """Yield what is to be predicted of each target: (n, K) float64."""
    if task != "classification":
        yield from target.reshape(len(target), -1, 1).transpose(1, 0, 2).astype(float)
        return
    counts = np.bincount(target)
    kept = np.argsort(-counts, kind="stable")[: CLASSES if len(counts) > 2 else 1]
    yield (target[:, None] == kept[counts[kept] > 0]).astype(float)


def _ways(
    cells: np.ndarray, name: str, read: Columns
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield a column as (n,) numbers with NaN, and as (n,) numbers of groups or None."""
    import pandas as pd

    column = read.columns.get(name)
    if column is None or column.kind == "category":
        words = np.array([text_of(cell) for cell in cells.tolist()], object)
        numbers = plain_numbers(words).astype(float)
        groups = pd.factorize(words, sort=True)[0]
        whole = column is None and not np.isnan(numbers).any()
        yield numbers if whole else groups.astype(float), groups
        return
    numbers = read.numbers(cells, column)[0]
    values, groups = np.unique(numbers, return_inverse=True)
    yield numbers, groups if len(values) <= VALUES else None


def _score(
    x: np.ndarray, groups: np.ndarray | None, y: np.ndarray, fold: np.ndarray, kind: str
) -> float:
    """Return the score of a tree on x, of the means of groups, or of a line, whichever is best."""
    made = [out_of_fold(x, y, fold)]
    made += [group_means(groups, y, fold)] if groups is not None else []
    if kind == "AUC":
        return max(float(np.mean([auc(p[:, k], y[:, k]) for k in range(y.shape[1])])) for p in made)
    variance = y.var()
    if not variance:
        return 0.0
    found = [1 - float(((p - y) ** 2).mean() / variance) for p in made]
    # Eight leaves are too few for a copy of the target: a line, and any rising or falling curve.
    x = np.where(np.isnan(x), np.nanmean(x) if not np.isnan(x).all() else 0, x)
    for a, b in ((x, y[:, 0]), (ranks(x), ranks(y[:, 0]))):
        if a.std() > 0:
            found.append(float(np.corrcoef(a, b)[0, 1] ** 2))
    return max(found)


def out_of_fold(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return (n, K) predictions of each fold by a tree of the others; a missing x is a leaf."""
    made = np.empty_like(y)
    there = ~np.isnan(x)
    for i in range(FOLDS):
        fit, held = fold != i, fold == i
        edges, means = tree(x[fit & there], y[fit & there])
        made[held & there] = means[np.searchsorted(edges, x[held & there], side="left")]
        lacks = fit & ~there
        made[held & ~there] = (y[lacks] if lacks.any() else y[fit]).mean(0)
    return made


def tree(x: np.ndarray, y: np.ndarray, depth: int = DEPTH) -> tuple[np.ndarray, np.ndarray]:
    """Fit a regression tree on one feature, which of 0s and 1s is one by Gini's impurity.

    scikit-learn's has the same leaves; to import it would take longer than all of this.

    Args:
        x: (n,) finite. y: (n, K).

    Returns:
        The borders of its leaves, increasing, and the means of y in each (leaves, K).

    Source: Breiman, Friedman, Olshen and Stone 1984, Classification and Regression Trees.
    """
    if not len(x):
        return np.empty(0), np.zeros((1, y.shape[1]))
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    y = y - (mean := y.mean(0))  # sums of squares lose no digits to a large mean
    total = np.concatenate([np.zeros((1, y.shape[1])), np.cumsum(y, 0)])
    places = np.flatnonzero(np.diff(x) > 0) + 1  # a leaf may begin here
    cuts = [0, len(x)]
    for _ in range(depth):
        new = []
        for a, b in itertools.pairwise(cuts):
            some = places[np.searchsorted(places, a, "right") : np.searchsorted(places, b)]
            if len(some):
                left, right = total[some] - total[a], total[b] - total[some]
                gain = (left**2).sum(1) / (some - a) + (right**2).sum(1) / (b - some)
                new.append(int(some[gain.argmax()]))
        cuts = sorted({*cuts, *new})
    ends = np.array(cuts)
    means = np.diff(total[ends], axis=0) / np.diff(ends)[:, None] + mean
    return (x[ends[1:-1] - 1] + x[ends[1:-1]]) / 2, means


def group_means(groups: np.ndarray, y: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return (n, K) means of y in a row's group, of the other folds; the mean of all where none."""
    made, size = np.empty_like(y), int(groups.max()) + 1
    for i in range(FOLDS):
        fit, held = fold != i, fold == i
        counts = np.bincount(groups[fit], minlength=size)[:, None]
        sums = np.stack([np.bincount(groups[fit], y[fit, k], size) for k in range(y.shape[1])], 1)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), y[fit].mean(0))
        made[held] = means[groups[held]]
    return made


def ranks(values: np.ndarray) -> np.ndarray:
    """Return (n,) ranks from 1, the mean rank where values are equal."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve, ties as halves; 0.5 where all are of one kind."""
    positive = int(truth.sum())
    if positive in (0, len(truth)):
        return 0.5
    above = ranks(scores)[truth > 0].sum() - positive * (positive + 1) / 2
    return float(above / (positive * (len(truth) - positive)))


def row_keys(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (N,) uint64, equal where all of a row's numbers and categories are.

    Of 10 million different rows two have one key with a probability of 3e-6.
    """
    import pandas as pd

    keys = np.zeros(len(next(iter(columns.values()))), np.uint64)
    for cells in columns.values():
        if cells.dtype.kind == "f":
            bits = np.where(np.isnan(cells), np.nan, cells + 0.0).view(np.uint64)  # -0 is 0
        else:
            bits = pd.factorize(cells)[0].astype(np.int64).view(np.uint64)
        keys = _mixed(keys * np.uint64(31) + _mixed(bits))
    return keys


def text_keys(blocks: Iterable[Sequence[str]]) -> np.ndarray:
    """Return (N,) uint64 of blocks of texts, equal where texts are; else as of `row_keys`."""
    from pandas.util import hash_array

    keys = [hash_array(np.array(block, object), categorize=False) for block in blocks]
    return np.concatenate(keys)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Return uint64 whose every bit depends on all bits. Source: Steele et al. 2014, SplitMix."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def repeated(
    keys: np.ndarray, parts: Sequence[np.ndarray], places: Callable[[list[int]], list[str]]
) -> list[str]:
    """Return a note where validation or test rows are identical to training rows.

    Args:
        keys: (N,), equal where rows are.
        parts: numbers of the training, validation and test rows.
        places: row numbers -> where they stand, `line 17`.
    """
    known, first = np.unique(keys[parts[0]], return_index=True)
    counts, pairs = [], []
    for what, part in zip(("validation", "test"), parts[1:], strict=True):
        at = np.minimum(np.searchsorted(known, keys[part]), len(known) - 1)
        again = np.flatnonzero(known[at] == keys[part])
        if len(again):
            counts.append(f"{len(again):,} {what}")
            pairs += zip(part[again].tolist(), parts[0][first[at[again]]].tolist(), strict=True)
    if not pairs:
        return []
    pairs = sorted(pairs, key=max)[:SHOWN]  # those that stand early are looked up soon
    found = places([row for pair in pairs for row in pair])
    shown = [f"{a} = {b}" for a, b in zip(found[::2], found[1::2], strict=True)]
    one = counts == ["1 validation"] or counts == ["1 test"]
    verb = "row is identical to a training row" if one else "rows are identical to training rows"
    return [f"{' and '.join(counts)} {verb} ({'; '.join(shown)})"]
