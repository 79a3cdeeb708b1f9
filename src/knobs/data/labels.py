"""Remarks on targets before anything is trained: what cannot be learned, or not be judged."""

import collections
import re
from collections.abc import Sequence

import numpy as np

from knobs.data.columns import FEW, MARKERS, PROOF
from knobs.data.dataset import Data
from knobs.data.prepare import RARE
from knobs.errors import DataError
from knobs.words import listed

MANY = 1_000  # classes that are worth a note
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")


def remarks(data: Data, names: Sequence[str], official: bool) -> list[str]:
    """Return notes on the targets of a table.

    Args:
        names: of the targets.
        official: whether the test split is a table of its own, whose targets are not looked at;
            else they are counted.

    Raises:
        DataError: targets of which nothing can be learned, or by which no model can be judged.
    """
    train, chosen = data.train.y.numpy(), data.val.y.numpy()
    mend = "change data.val, data.split_seed or data.split"
    if data.task == "classification":
        own = np.concatenate([train, chosen, *([] if official else [data.test.y.numpy()])])
        found = _classes(data.classes, np.bincount(own, minlength=len(data.classes)), names[0])
        for y, what in ((train, "training"), (chosen, "validation")):
            if (y == y[0]).all():
                why = "nothing can be learned" if y is train else "no model can be judged"
                every = f"is {data.classes[y[0]]} in every {what} row ({len(y)})"
                raise DataError(f"{names[0]} {every}: {why}; {mend}")
        idle = np.flatnonzero(np.bincount(train, minlength=len(data.classes)) == 0)
        absent = listed([data.classes[i] for i in idle])
        return [*found, *[f"no training row of {absent}, which cannot be learned"] * bool(absent)]
    columns = chosen.reshape(len(chosen), -1)
    still = [n for n, y in zip(names, columns.T, strict=True) if (y == y[0]).all()]
    every = f"{listed(still)}: the same in every validation row ({len(chosen)})"
    if still and data.task == "regression":
        raise DataError(f"{every}, no model can be judged; {mend}")
    return [every] if still else []


def _classes(classes: Sequence[str], sizes: np.ndarray, name: str) -> list[str]:
    """Return notes on the names and the sizes of classes.

    Raises:
        DataError: nearly every row has a class of its own.
    """
    rows, notes = int(sizes.sum()), []
    numbers = all(_NUMBER.fullmatch(c) for c in classes)
    if rows >= PROOF and len(classes) > rows / 2:
        ask = "is it a number, data.task=regression?" if numbers else "is it the right column?"
        raise DataError(f"{name} has {len(classes):,} values in {rows:,} rows as classes; {ask}")
    if numbers and len(classes) > FEW:
        notes.append(f"{name}: {len(classes):,} numbers are classes; data.task=regression?")
    elif len(classes) > MANY:
        notes.append(f"{name}: {len(classes):,} classes, {np.median(sizes):g} rows at the median")
    rare = [c for c, n in zip(classes, sizes, strict=True) if 0 < n <= RARE]
    if rare:
        notes.append(f"{name}: 1 or {RARE} rows of {listed(rare)}, all used for training")
    folded = collections.defaultdict(list)
    for c in classes:
        folded[c.lower()].append(c)
    notes += [
        f"{name}: {' and '.join(alike)} differ in case alone, and are classes of their own"
        for alike in folded.values() if len(alike) > 1
    ][:3]  # fmt: skip
    if blank := [c for c in classes if c.lower() in MARKERS]:
        notes.append(f"{name}: {listed(blank)} is a class; take out rows without a target")
    return notes
