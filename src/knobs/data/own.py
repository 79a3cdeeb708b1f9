"""The answer of a data function of one's own -> Data: split, prepared, hashed as knobs' own sets.

It may return a data frame, arrays or tensors (x, y), a map-style dataset, or a dict of such by
split: train, and val or test or both. Sets without a split of their own are split here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from knobs.data import cells
from knobs.data.dataset import Data
from knobs.data.examples import TARGETS, WAY, Examples, length, of_arrays, of_dataset
from knobs.data.files import of_table
from knobs.data.own_rows import data_of
from knobs.data.own_targets import hashable
from knobs.data.rows import Tables
from knobs.data.splits import column_of
from knobs.data.tables import Form, names_of
from knobs.errors import DataError, did_you_mean
from knobs.words import listed

_NAMES = {"train": "train training", "val": "val valid validation dev", "test": "test testing"}
SPLITS = {word: split for split, words in _NAMES.items() for word in words.split()}
PARTS = re.compile(r"(x|y|weight)_?([a-z]+)", re.IGNORECASE)  # x_train of a file of arrays
X, Y = ("x", "data", "inputs", "features"), ("y", *TARGETS)  # names of arrays in a dict
# What a setting is where a YAML does not have it.
DEFAULTS: dict[str, Any] = {
    **{"val": 0.2, "test": 0.2, "split_seed": 0, "folds": None, "fold": 0, "classes": None},
    **{"normalize": True, "numbers": "standard", "target": None, "drop": [], "augment": {}},
    **{"memory_gib": 2.0, "workers": 0},
}
TABLES = {"weight": None, "columns": [], "na": [], "decimal": "auto", "split": "random"}
TEXTS = {"text": None, "ngrams": 1, "max_length": "auto", "max_vocabulary": 20_000, "min_count": 1,
         "tokenizer": None}  # fmt: skip


def as_data(found: Any, place: str, given: Mapping[str, Any], settings: Mapping[str, Any]) -> Data:
    """Return Data of what a function has returned.

    Args:
        place: the function's name, for messages.
        given: its arguments.
        settings: those of targets.SETTINGS that its section of the config has.

    Raises:
        DataError: naming what cannot be used, and what to return instead.
    """
    if isinstance(found, Data):
        unread = sorted(settings.keys() - given.keys() - {"name", "kind", "task"})
        if unread:
            key = f"data.{unread[0]}={settings[unread[0]]}"
            fix = f"let it take {unread[0]}, take the key out of the YAML, or return (x, y)"
            raise DataError(f"{key}: {place} returns Data, and takes no {unread[0]}; {fix}")
        if (said := settings.get("task", found.task)) != found.task:
            raise DataError(f"data.task={said}: {place} returns Data of a {found.task}")
        return found
    splits = {n: _plain(p, settings, place) for n, p in _splits(found, place).items()}
    frames = [hasattr(part, "columns") for part in splits.values()]
    if all(frames):
        _refuse(settings, TEXTS, place, "a data frame")
        return _table(splits, place, {**DEFAULTS, **TABLES, **settings})
    if any(frames):
        raise DataError(f"{place}: some splits are data frames, others are not; {WAY}")
    _refuse(settings, TABLES, place, "no data frame")
    options = {**DEFAULTS, **TEXTS, **settings}
    several = len(splits) > 1
    read = {
        name: _examples(part, f"{place} ({name})" if several else place, options)
        for name, part in splits.items()
    }
    if not isinstance(read["train"].x, list):
        _refuse(settings, TEXTS, place, "no texts")
    return data_of(read, place, options, settings)


def _refuse(settings: Mapping, defaults: Mapping, place: str, what: str) -> None:
    """Refuse a key that is set and means nothing for what a function returned."""
    for key, default in defaults.items():
        if key in settings and settings[key] not in (default, None):
            odd = f"data.{key}={settings[key]}"
            raise DataError(
                f"{odd}: {place} returns {what}, for which it means nothing; leave it out"
            )


# ------------------------------------------------------------------ what is returned
def _splits(found: Any, place: str) -> dict[str, Any]:
    """Return split -> what its rows are read from; `train` alone where nothing is split.

    Raises:
        DataError: splits without training rows, or several things that no name tells apart.
    """
    if isinstance(found, Mapping):
        named = {str(key): SPLITS.get(str(key).lower()) for key in found}
        if named and all(named.values()):
            if twice := [n for n in named.values() if [*named.values()].count(n) > 1]:
                both = listed([key for key, n in named.items() if n == twice[0]])
                raise DataError(f"{place}: {both} are one split, {twice[0]}; join them")
            return _ordered({named[str(key)]: part for key, part in found.items()}, place)
        pieces = {str(key): PARTS.fullmatch(str(key)) for key in found}
        if pieces and all(m and m[2].lower() in SPLITS for m in pieces.values()):
            parted: dict[str, dict] = {}
            for key, match in pieces.items():
                parted.setdefault(SPLITS[match[2].lower()], {})[match[1].lower()] = found[key]
            return _ordered(parted, place)
    if (
        isinstance(found, tuple)
        and len(found) == 3
        and all(_is_dataset(part) or (isinstance(part, tuple) and len(part) == 2) for part in found)
    ):
        return dict(zip(("train", "val", "test"), found, strict=True))
    datasets = isinstance(found, tuple) and len(found) and all(map(_is_dataset, found))
    if datasets or (isinstance(found, tuple) and len(found) != 2):
        fix = 'return {"train": ..., "val": ..., "test": ...} of those there are'
        raise DataError(f"{place}: returns a tuple of {len(found)}: which is which? {fix}")
    return {"train": found}


def _ordered(splits: dict[str, Any], place: str) -> dict[str, Any]:
    if "train" not in splits:
        raise DataError(f"{place}: splits {listed(list(splits))}, and none of them is train")
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _is_dataset(part: Any) -> bool:
    plain = (Mapping, tuple, list, str, np.ndarray, Tensor)
    return (
        hasattr(part, "__getitem__") and not isinstance(part, plain) and not hasattr(part, "iloc")
    )


def _plain(part: Any, settings: Mapping[str, Any], place: str) -> Any:
    """Return a frame of pandas for a table of another library; (frame, y) as one frame."""
    if hasattr(part, "features") and hasattr(part, "column_names"):  # of Hugging Face
        length(part, place)
        return _of_columns(part, settings) if settings.get("kind") == "table" else part
    if hasattr(part, "to_pandas"):
        part = part.to_pandas()  # of Polars or Arrow
    if isinstance(part, tuple) and len(part) == 2 and hasattr(part[0], "columns"):
        part = _beside(*part)
    return part


def _beside(frame: Any, y: Any) -> Any:
    """Return a data frame with its target as one more column, whose name its columns then have.

    Raises:
        DataError: rows of another number or order, a name that is there, several targets.
    """
    name, values = str(getattr(y, "name", None) or "target"), np.asarray(y)
    if values.ndim != 1 or len(values) != len(frame):
        must = f"must be one for each of its {len(frame)} rows"
        raise DataError(f"y of shape {values.shape} beside a data frame: {must}; for several "
                        "targets return one frame, and set data.target")  # fmt: skip
    if hasattr(y, "index") and hasattr(frame, "index") and not y.index.equals(frame.index):
        raise DataError("the index of y is not that of the data frame beside it; align them")
    if name in map(str, frame.columns):
        raise DataError(f"{name}: is a column of the data frame, and the name of y; rename one")
    return frame.assign(**{name: values}).rename_axis(name, axis=1)


def _of_columns(dataset: Any, settings: Mapping[str, Any]) -> Any:
    """Return a table of Hugging Face as a frame, its class numbers as their names."""
    import pandas as pd

    frame = pd.DataFrame([dataset[i] for i in range(len(dataset))], columns=dataset.column_names)
    for name, feature in dict(dataset.features).items():
        if names := getattr(feature, "names", None):
            if (odd := ~frame[name].isin(range(len(names)))).any():
                row = int(np.argmax(odd))
                told = f"{name} of row {row} is {frame[name][row]}, none of 0 .. {len(names) - 1}"
                raise DataError(f"{told}; leave out rows without a label")
            frame[name] = [names[number] for number in frame[name]]
    if settings.get("target") is None and len(found := [n for n in TARGETS if n in frame]) == 1:
        frame = frame.rename_axis(found[0], axis=1)
    return frame


def _examples(part: Any, place: str, options: Mapping[str, Any]) -> Examples:
    """Return the rows of one split.

    Raises:
        DataError: naming what is no array, dataset or item.
    """
    if options["drop"] and isinstance(part, Mapping | tuple):
        told = "is for columns of a data frame, or keys of a dataset's items; leave it out"
        raise DataError(f"data.drop={options['drop']}: {told}")
    if isinstance(part, Mapping):
        keys = {str(key).lower(): key for key in part}
        x, y = (next((keys[n] for n in names if n in keys), None) for names in (X, Y))
        if x is None or y is None:
            raise DataError(f"{place}: a dict of {listed([*map(str, part)])}: must have x and y, "
                            "or splits: train, val, test")  # fmt: skip
        weight = part[keys["weight"]] if "weight" in keys else None
        return of_arrays(part[x], part[y], weight, place)
    if isinstance(part, tuple):
        return of_arrays(*part, None, place)
    if part is None or isinstance(part, np.ndarray | Tensor | str | float | int):
        raise DataError(f"{place}: returns a {type(part).__name__}; {WAY}")
    drop = options["drop"]
    if options["kind"] == "text" and options["text"] and hasattr(part, "column_names"):
        target = options["target"]
        drop = [n for n in part.column_names if n not in (options["text"], target or "label")]
    target = options["target"]
    if isinstance(target, list):
        raise DataError(f"data.target={target}: a dataset has one target an item; name one key")
    return of_dataset(part, place, target, drop, options["memory_gib"])


# ------------------------------------------------------------------ tables
def _table(splits: Mapping[str, Any], place: str, options: dict[str, Any]) -> Data:
    """Return Data of data frames, as `data=csv` reads a table.

    Raises:
        DataError: no target, splits or settings that a table does not have, columns that differ.
    """
    import pandas as pd

    first, names = splits["train"], _target_names(splits["train"], place, options)
    for key, must in {"kind": "table", "normalize": True, "classes": None}.items():
        if options[key] not in (must, None):
            shown = str(options[key]).lower()
            fix = "a data frame is a table, standardised, its classes as its cells name them"
            raise DataError(f"data.{key}={shown}: {place} returns a data frame; {fix}")
    if "val" in splits:
        fix = "give train and test, and data.val cuts the validation rows from train"
        raise DataError(f"{place}: a data frame for val; {fix}")
    by = column_of(options["split"])[1]
    kinds = [text.rpartition(":")[0] for text in options["columns"]]
    texts = {*names, options["weight"], by, *kinds} - {None, ""}
    frames = []
    for name, frame in splits.items():
        if [*map(str, frame.columns)] != [*map(str, first.columns)]:
            raise DataError(f"{place}: the columns of {name} are not those of train")
        if not len(frame):
            raise DataError(f"{place}: the data frame of {name} has no rows")
        if lacks := sorted({*options["drop"], *texts} - {*map(str, frame.columns)}):
            raise DataError(f"{place}: no column {listed(lacks)}; data.drop, data.columns, "
                            "data.weight and data.split name columns")  # fmt: skip
        frames.append(cells.of_frame(frame, place, texts, options["drop"]))
    sizes = (len(frames[0]), sum(map(len, frames[1:])))
    rows = pd.concat(frames, ignore_index=True)
    table = Tables([Path(place)] * len(frames), [Form()] * len(frames), sizes, rows)
    content = [[str(name) for name in rows], *(hashable(rows[name].to_numpy()) for name in rows)]
    keys = ("name", "kind", "task", "drop", "val", "test", "split_seed", "columns", "na", "split",
            "weight", "numbers", "folds", "fold")  # fmt: skip
    decimal = "point" if options["decimal"] == "auto" else options["decimal"]
    kept = {key: options[key] for key in keys}
    return of_table(table, **kept, names=names, decimal=decimal, content=content)


def _target_names(frame: Any, place: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names of a data frame's targets: data.target, or that of y beside it.

    Raises:
        DataError: none is said, or there is no such column.
    """
    have = names_of(Path(place), [str(column) for column in frame.columns])
    said = options["target"] if options["target"] is not None else frame.columns.name
    names = [said] if isinstance(said, str) else list(said or [])
    if not names:
        raise DataError(
            f"{place}: which column is the target? set data.target to one of {listed(have)}"
        )
    if lacks := [name for name in names if name not in have]:
        near = did_you_mean(lacks[0], have)
        raise DataError(f"{place}: no column {lacks[0]}; it has {listed(have)}{near}")
    return names
