"""Rows of files: statsmodels' own, and California housing and Banking77, which a user may have."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from knobs.errors import DataError, first_line
from knobs.rng import sampled

MOST = 4000  # rows, those with the smallest hash
STATSMODELS = {"anes96": "vote", "fair": "affairs", "randhie": "mdvis"}  # file -> target


def california(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the eight numbers of each block of houses, NaN where missing, and its median value."""
    frame = _table(path, "median_house_value")
    y = frame.pop("median_house_value").to_numpy(float)
    return frame.select_dtypes("number").to_numpy(np.float32), y


def banking77(path: Path) -> tuple[list[str], np.ndarray]:
    """Return customers' questions, and what each is about: 77 classes."""
    frame = _table(path, "category", "text")
    return list(frame["text"]), frame["category"].to_numpy(str)


def statsmodels(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one of STATSMODELS: the other columns, and its target.

    anes96: the vote of 1996. fair: whether there was an affair. randhie: the logarithm of 1 plus
    the visits to a doctor.
    """
    spec = importlib.util.find_spec("statsmodels")
    assert spec, "statsmodels"
    folder = Path(spec.submodule_search_locations[0], "datasets", name)
    frame = _table(folder / f"{name}.csv", STATSMODELS[name], sep="\t" if name == "anes96" else ",")
    y = frame.pop(STATSMODELS[name]).to_numpy(float)
    y = {"anes96": y.astype(int), "fair": (y > 0).astype(int), "randhie": np.log1p(y)}[name]
    return frame.to_numpy(np.float32), y


def _table(path: Path, target: str, *others: str, sep: str = ",") -> Any:
    """Return a frame of MOST rows; of rows that differ in the target alone, the first.

    Args:
        target, others: columns that it must have.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    import pandas as pd  # late: a third of a second

    try:
        frame = pd.read_csv(path, sep=sep, quotechar="'" if sep == "\t" else '"')
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    if missing := [name for name in (*others, target) if name not in frame]:
        raise DataError(f"{path}: has no column {missing[0]}; it has {', '.join(frame)}")
    frame = frame.drop_duplicates([name for name in frame if name != target])
    return frame.iloc[sampled(np.arange(len(frame)), MOST)]
