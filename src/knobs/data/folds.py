"""Folds: the rows outside the test split in parts, of which one validates and the others train."""

from collections.abc import Sequence

import numpy as np

from knobs.data.prepare import RARE, Parts
from knobs.data.splits import by_group, by_time, of_validation
from knobs.errors import DataError
from knobs.words import listed


def folded(
    parts: Parts, y: np.ndarray, task: str, folds: int | None, fold: int, seed: int,
    way: str = "random", keys: np.ndarray | None = None, name: str = "row",
) -> tuple[Parts, list[str]]:  # fmt: skip
    """Return the splits of one fold, and notes on it; the test split stays as it is.

    random: rows are shuffled and dealt in turn, those of a classification class by class, so that
    each fold has its share of every class to within one row. A class of one or two rows trains in
    every fold. group: each group lies in one fold as a whole, as `by_group` deals them. time:
    forward chaining. The rows, the oldest first, are cut into folds + 1 blocks of about one size;
    fold k validates on block k + 1 and trains on the blocks 0 to k, which are all older.

    Args:
        parts: as they are without folds.
        y: (N,) or (N, T) raw targets of all rows.
        folds: their number; None where there are none, and nothing changes.
        fold: the one that validates, 0 .. folds - 1.
        seed: of the shuffle, or of the order in which groups are dealt: its `of_validation`.
        way: random, group or time.
        keys: (N,) group numbers or times of the rows that are not official test rows.
        name: of the column of the keys, for messages.

    Raises:
        DataError: fewer rows, groups or times outside the test split than folds need.
    """
    if folds is None:
        return parts, []
    pool, held, seed = np.union1d(parts[0], parts[1]), parts[2], of_validation(seed)
    have = len(pool) if keys is None else len(np.unique(keys[pool]))
    if have < (need := folds + (way == "time")):
        what = {"random": "rows", "group": f"groups of {name}", "time": f"times of {name}"}[way]
        told = f"needs {need:,} {what} outside the test split, which have {have:,}"
        raise DataError(f"data.folds={folds}: {told}; use fewer folds")
    classes = np.unique(y[pool], return_inverse=True) if task == "classification" else None
    notes: list[str] = []
    if way == "time":
        place = by_time(keys[pool], [1 / need] * need, name)
        return (pool[place <= fold], pool[place == fold + 1], held), notes
    if way == "group":
        groups = np.unique(keys[pool], return_inverse=True)[1]
        codes = np.zeros(len(pool), int) if classes is None else classes[1]
        place = by_group(groups, codes, [1 / folds] * folds, seed, name)
    else:
        place = dealt(len(pool), folds, seed, None if classes is None else classes[1])
        notes = [] if classes is None else _scarce(classes[0], classes[1], folds)
    return (pool[place != fold], pool[place == fold], held), notes


def dealt(n: int, folds: int, seed: int, classes: np.ndarray | None = None) -> np.ndarray:
    """Return the fold of each of n rows, 0 .. folds - 1; -1 where a row trains in every fold.

    Args:
        classes: (n,) class numbers, dealt one class after the other; None where there are none.
    """
    order = np.random.default_rng([seed, folds]).permutation(n)
    if classes is not None:
        often = np.bincount(classes)[classes] > RARE
        if often.sum() >= folds:  # else no row would be left to choose by
            order = order[often[order]]
        order = order[np.argsort(classes[order], kind="stable")]
    place = np.full(n, -1)
    place[order] = np.arange(len(order)) % folds
    return place


def _scarce(names: Sequence, classes: np.ndarray, folds: int) -> list[str]:
    """Return a note where classes have fewer rows than there are folds."""
    sizes = np.bincount(classes)
    few = [str(name) for name, n in zip(names, sizes, strict=True) if n < folds]
    if not few:
        return []
    rare = f"; those of 1 or {RARE} rows train in every fold" * bool((sizes <= RARE).any())
    return [f"fewer rows than {folds} folds of {listed(few)}: some folds validate without{rare}"]
