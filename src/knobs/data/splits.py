"""Splits by a column of a table: no group in two of them, or the oldest rows first."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.data.columns import MARKERS, CellError, as_times
from knobs.data.notation import is_missing
from knobs.errors import ConfigError, DataError

SPLITS = ("training", "validation", "test")
FAR = 0.05  # of the rows; a split that misses its share by more is named
_WHOLE = re.compile(r"([-+]?\d+)\.0*")


class SplitSeed(int):
    """A seed of the splits, whose validation split has a seed of its own."""

    val: int


def with_seeds(section: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a data function: `val_seed` travels with `split_seed`."""
    if section.get("val_seed") is None or "split_seed" not in section:
        return section
    seed = SplitSeed(section["split_seed"])
    seed.val = section["val_seed"]
    return section | {"split_seed": seed}


def of_validation(seed: int) -> int:
    """Return the seed that cuts the validation rows from those outside the test split."""
    return getattr(seed, "val", seed)


def column_of(how: str) -> tuple[str, str]:
    """Return the way and the column of `data.split`: `group` and `user` of `group:user`.

    Raises:
        ConfigError: it is neither random, nor group:COLUMN, nor time:COLUMN.
    """
    way, _, column = how.partition(":")
    if how != "random" and (way not in ("group", "time") or not column):
        raise ConfigError(f"data.split={how}: must be random, group:COLUMN or time:COLUMN")
    return way, column.strip()


def keys_of(how: str, cells: np.ndarray, kind: str = "", decimal: str = "") -> np.ndarray:
    """Return what a column's cells split rows by (N,): numbers of groups, or times.

    Args:
        how: group:COLUMN or time:COLUMN.
        kind: of `data.columns`, which may say how dates are written; else "".
        decimal: as `as_times` takes it.

    Raises:
        CellError: a cell without a group or a time.
    """
    way, name = column_of(how)
    if way == "group":
        keys = np.array([group_key(cell) for cell in cells], object)
        wrong = np.flatnonzero([is_missing(key, MARKERS) for key in keys])
    else:
        keys, bad = as_times(name, cells, kind, decimal)
        wrong = np.union1d(np.flatnonzero(~np.isfinite(keys)), bad)
    if len(wrong):
        cell = str(cells[wrong[0]]).strip()[:40] or "empty"
        must = "a name" if way == "group" else "a date or a number"
        more = f"; so must those of {len(wrong) - 1:,} more rows" if len(wrong) > 1 else ""
        raise CellError(int(wrong[0]), f"{name}={cell}: must be {must}, for data.split={how}{more}")
    if way == "time":
        return keys
    numbers = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([numbers[key] for key in keys])


def split_by(
    how: str, keys: np.ndarray, shares: Sequence[float], seed: int,
    classes: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the split of each row (N,), 0, 1, ..., by its key.

    Args:
        how: group:COLUMN or time:COLUMN.
        keys: of `keys_of`.
        shares: of the rows, one a split.
        seed: of the order in which groups are dealt.
        classes: (N,) whose shares are kept where they can be; None where there are none.

    Raises:
        DataError: fewer groups or times than splits, naming the column.
    """
    way, name = column_of(how)
    if way == "time":
        return by_time(keys, shares, name)
    codes = np.zeros(len(keys), int)
    if classes is not None:
        codes = np.unique(classes, return_inverse=True)[1]
    place = by_group(keys, codes, shares, seed if len(shares) > 2 else of_validation(seed), name)
    if len(shares) > 2 and of_validation(seed) != seed:  # the same test rows, the others cut anew
        rest = np.flatnonzero(place < 2)
        mine = np.unique(keys[rest], return_inverse=True)[1]
        both = [share / sum(shares[:2]) for share in shares[:2]]
        place[rest] = by_group(mine, codes[rest], both, of_validation(seed), name)
    return place


def group_key(cell: object) -> str:
    """Return a cell as the name of a group: without blanks around it; `7.0` is `7`."""
    text = str(cell).strip()
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def by_group(
    groups: np.ndarray, classes: np.ndarray, shares: Sequence[float], seed: int, name: str = "it"
) -> np.ndarray:
    """Return the split of each row (N,), 0, 1, ...; every group lies in one split as a whole.

    The groups go, large ones first and in random order among those of about one size, each where
    it brings the rows of its classes, and all rows, nearest to the shares (least chi-square).

    Args:
        groups: (N,) numbers 0 .. G - 1.
        classes: (N,) whole numbers >= 0; 0 where rows have no classes.
        shares: of the rows, one a split, of which each gets a group at least.
        seed: of the order.

    Raises:
        DataError: fewer groups than splits.
    """
    sizes, totals = np.bincount(groups), np.bincount(classes)
    if len(sizes) < len(shares):
        raise DataError(f"{name} has {len(sizes)} groups; {len(shares)} splits need one each")
    keys, counts = np.unique(groups.astype(np.int64) * len(totals) + classes, return_counts=True)
    parts: list[list[tuple[int, int]]] = [[(len(totals), int(n))] for n in sizes]  # all rows
    for key, n in zip(keys.tolist(), counts.tolist(), strict=True):
        parts[key // len(totals)].append((key % len(totals), n))
    weights = [1 / max(1, n) for n in (*totals.tolist(), len(groups))]
    lack = [[share / w for w in weights] for share in shares]
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-np.floor(np.log2(sizes[order])), kind="stable")]
    place = np.zeros(len(sizes), int)
    for group in order.tolist():
        costs = [
            sum(n * (n - 2 * lacks[c]) * weights[c] for c, n in parts[group]) / share
            for lacks, share in zip(lack, shares, strict=True)
        ]
        place[group] = costs.index(min(costs))
        for c, n in parts[group]:
            lack[place[group]][c] -= n
    _fill(place, sizes, len(shares))
    return place[groups]


def _fill(place: np.ndarray, sizes: np.ndarray, splits: int) -> None:
    """Give every split without a group the smallest one of the split with the most."""
    while len(empty := np.flatnonzero(np.bincount(place, minlength=splits) == 0)):
        most = np.flatnonzero(place == np.bincount(place).argmax())
        place[most[sizes[most].argmin()]] = empty[0]


def by_time(times: np.ndarray, shares: Sequence[float], name: str = "it") -> np.ndarray:
    """Return the split of each row (N,), the oldest rows in split 0; equal times share a split.

    Args:
        times: (N,) finite numbers that grow with time.
        shares: of the rows, one a split; a border lies where they are met best.

    Raises:
        DataError: fewer different times than splits.
    """
    moments, counts = np.unique(times, return_counts=True)
    if len(moments) < len(shares):
        need = f"{len(shares)} splits need one each"
        raise DataError(f"{name} has {len(moments)} different times; {need}")
    past, borders, first = np.cumsum(counts), [], 0
    for i, share in enumerate(np.cumsum(shares)[:-1]):
        last = len(moments) - (len(shares) - 1 - i)  # later splits need times too
        at = first + int(np.abs(past[first:last] - share * len(times)).argmin())
        borders.append(moments[at])
        first = at + 1
    return np.searchsorted(borders, times, side="left")


def missed(split: np.ndarray, shares: Sequence[float]) -> list[str]:
    """Return a note where a split's share of the rows is far from the one asked for."""
    got = np.bincount(split, minlength=len(shares)) / len(split)
    if np.abs(got - shares).max() <= FAR:
        return []
    names, asked = ", ".join(SPLITS[: len(shares)]), " / ".join(f"{s:.0%}" for s in shares)
    return [f"{names} have {' / '.join(f'{s:.0%}' for s in got)} of the rows, not {asked}"]
