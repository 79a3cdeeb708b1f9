"""Rows of files that a user may have: California housing and Banking77."""

from pathlib import Path

import numpy as np

from knobs.errors import DataError, first_line
from knobs.rng import sampled

MOST = 4000  # rows, those with the smallest hash


def california(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the eight numbers of each block of houses, NaN where missing, and its median value."""
    frame = _table(path, ["median_house_value"])
    y = frame.pop("median_house_value").to_numpy(float)
    return frame.select_dtypes("number").to_numpy(np.float32), y


def banking77(path: Path) -> tuple[list[str], np.ndarray]:
    """Return customers' questions, and what each is about: 77 classes."""
    frame = _table(path, ["text", "category"])
    return list(frame["text"]), frame["category"].to_numpy(str)


def _table(path: Path, columns: list[str]):
    """Return MOST rows of a table, without those that come twice.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path).drop_duplicates()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if missing := [name for name in columns if name not in frame]:
        raise DataError(f"{path}: has no column {missing[0]}; it has {', '.join(frame)}")
    return frame.iloc[sampled(np.arange(len(frame)), MOST)]
