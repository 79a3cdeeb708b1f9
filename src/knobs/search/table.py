"""The table that a prior is learned from: one file a task, of curves of many settings.

A file is a line of JSON, which carries the file's SHA-256, then two arrays, little-endian:

units   uint16 (settings, knobs), a point of the unit cube each: u = (units + .5) / 65536
curves  float16 (2, runs, epochs), after each epoch: the objective, then the validation loss. NaN
        from the epoch on in which a run diverged. A number beyond float16 is its largest.

Run r has setting r // seeds and seed r % seeds; settings come shape by shape. What the units mean
is in knobs.search.learn.settings.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knobs import storage
from knobs.errors import DataError, first_line

VERSION = 1
ENDING = ".table"
MOST_BYTES = 60_000
SCALE = 2**16  # of units
# Of the header: name -> type. A file has all of them, and what else its maker says.
FACTS: dict[str, type | tuple[type, ...]] = {
    **{"task": str, "source": str, "fold": int, "kind": str, "type": str, "model": str},
    **{"rows": int, "train": int, "inputs": list, "vocabulary": int, "classes": int, "data": str},
    "overrides": str,  # their digest, see knobs.search.learn.settings
    **{"objective": str, "mode": str, "knobs": list, "shapes": list, "seeds": int, "epochs": int},
    "settings": int,  # of a shape
    **{"seconds": (int, float), "versions": dict, "date": str, "command": str},
}


@dataclass(frozen=True)
class Table:
    """The curves of one task.

    Args:
        facts: the header: FACTS, at least.
        units: uint16 (settings, knobs).
        curves: float16 (2, runs, epochs): objective and loss of the validation split.
    """

    facts: dict[str, Any]
    units: np.ndarray
    curves: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Return the settings in the unit cube, (settings, knobs)."""
        return (self.units + 0.5) / SCALE


def packed(curves: np.ndarray) -> np.ndarray:
    """Return curves as float16: a number beyond its range is its largest, NaN stays."""
    largest = float(np.finfo(np.float16).max)
    return np.clip(curves, -largest, largest).astype("<f2")


def write(path: Path, table: Table) -> None:
    """Write a table whole: a reader finds all of it or nothing."""
    head = {"version": VERSION, "sha256": storage.UNSIGNED, **table.facts}
    line = json.dumps(head, allow_nan=False).encode() + b"\n"
    arrays = table.units.astype("<u2").tobytes() + table.curves.astype("<f2").tobytes()
    _check(head, len(arrays))
    data = storage.signed(line + arrays)
    assert len(data) <= MOST_BYTES, f"{path.name} has {len(data):,} bytes"
    storage.write(path, data, sync=True)


def read(path: Path) -> Table:
    """Read a table that is whole.

    Raises:
        DataError: it cannot be read, is damaged, or of another version, or its arrays are not of
            the sizes that its header says.
    """
    fix = "remove it: python -m knobs.search.learn makes it again"
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        line, _, arrays = data.partition(b"\n")
        head = json.loads(line)
        if not isinstance(head, dict):
            raise ValueError("its header is no mapping")
        if (version := head.get("version")) != VERSION:
            raise ValueError(f"version {version!r}, and this is version {VERSION}")
        if not storage.intact(data, head.get("sha256")):
            raise ValueError("its SHA-256 is another: it was damaged or changed")
        settings, knobs, curves = _check(head, len(arrays))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no table ({first_line(error)}); {fix}") from None
    units = np.frombuffer(arrays, "<u2", settings * knobs).reshape(settings, knobs)
    values = np.frombuffer(arrays, "<f2", math.prod(curves), units.nbytes).reshape(curves)
    facts = {name: value for name, value in head.items() if name not in ("version", "sha256")}
    return Table(facts, units, values)


def _check(head: dict[str, Any], size: int) -> tuple[int, int, tuple[int, int, int]]:
    """Return the settings, the knobs and the shape of the curves.

    Args:
        size: bytes of both arrays.

    Raises:
        ValueError: a fact is missing or of another type, or the sizes do not agree.
    """
    for name, types in FACTS.items():
        if not isinstance(value := head.get(name), types) or isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}")
    for name in ("settings", "seeds", "epochs"):
        if head[name] < 1:
            raise ValueError(f"{name} is {head[name]}")
    if not head["shapes"] or not head["knobs"]:
        raise ValueError("no shapes, or no knobs")
    settings, knobs = head["settings"] * len(head["shapes"]), len(head["knobs"])
    curves = (2, settings * head["seeds"], head["epochs"])
    if size != 2 * (settings * knobs + math.prod(curves)):
        raise ValueError(f"{size:,} bytes of arrays, and its header says others")
    return settings, knobs, curves
