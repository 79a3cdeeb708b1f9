"""A user's own tables and sentences; folders of images are in images.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.dataset import Data
from knobs.data.images import image_folder
from knobs.data.inputs import Table
from knobs.data.prepare import (
    Parts,
    blocks,
    content_hash,
    encode_targets,
    make_data,
    prepared,
    tensors,
    text_data,
    three_way,
)
from knobs.errors import DataError

__all__ = ["csv", "image_folder", "text_csv"]  # conf/data/image_folder.yaml names it here

MOST_WEIGHT = 1e30  # of an example: sums of weights stay finite in float32


def csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None,
    target: str | list[str], drop: list[str], val: float, test: float, split_seed: int,
    weight: str | None = None,
) -> Data:  # fmt: skip
    """Read a table: numbers standardised (missing: the median), categories one-hot.

    Args:
        path: a CSV with a header.
        test_path: an official test table; then `test` plays no part.
        target: the column to predict, or several; rows without one are an error.
        drop: columns to leave out.
        weight: a column of example weights, which is no feature.

    Raises:
        DataError: naming the file and the column at fault.
    """
    names = [target] if isinstance(target, str) else target
    others = {*names, *drop, *([weight] if weight else [])}
    table = _read(path, test_path, others)
    values = _target_values(table, names, task)
    official = table.sizes[1]
    parts = three_way(values, val, test, split_seed, task, official)
    targets = encode_targets(values, parts[0], task, names)
    rows = table.rows.drop(columns=list(others))
    if not len(rows.columns):
        raise DataError(f"{path}: no column is left to learn from")
    try:
        inputs = Table.fit(blocks(rows), parts[0])
        x = prepared(inputs, rows)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    splits = tensors(x, targets.y, parts, _weights(table, weight, parts))
    return make_data(
        name, kind, task, splits, targets, x.shape[1:], inputs=inputs,
        hash=content_hash(parts, *table.files, names, weight or "", sorted(drop)),
    )  # fmt: skip


def text_csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, text: str, label: str,
    val: float, test: float, split_seed: int,
    ngrams: int, max_length: int, max_vocabulary: int, min_count: int, weight: str | None = None,
) -> Data:  # fmt: skip
    """Read a column of text and a column of labels.

    Args:
        weight: a column of example weights.

    Raises:
        DataError: naming the file and the column at fault.
    """
    table = _read(path, test_path, {text, label, *([weight] if weight else [])})
    texts = table.rows[text].fillna("").astype(str).tolist()
    labels = table.rows[label].astype(str).to_numpy(str)
    parts = three_way(labels, val, test, split_seed, task, table.sizes[1])
    return text_data(
        name, kind, task, texts, labels, parts,
        ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary, min_count=min_count,
        label=label, weight=_weights(table, weight, parts),
        hash=content_hash(parts, *table.files, [text, label], weight or ""),
    )  # fmt: skip


@dataclass(frozen=True)
class _Tables:
    """The rows of one file or two, and where each comes from.

    Args:
        files: that of `path`, then that of `test_path` if there is one.
        sizes: rows of the first, and of the official test table.
        rows: a data frame.
    """

    files: list[Path]
    sizes: tuple[int, int]
    rows: Any

    def place(self, row: int) -> str:
        """Return the file and the line where a row begins, `FILE, line N`; the header is line 1."""
        from csv import Error, reader

        official = row >= self.sizes[0]
        file, row = self.files[official], row - official * self.sizes[0]
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                cells, line, left = reader(lines), 1, row + 1
                for record in cells:
                    if "".join(record).strip() or len(record) > 1:  # pandas skips empty lines
                        if not left:
                            return f"{file}, line {line}"
                        left -= 1
                    line = cells.line_num + 1
        except (OSError, ValueError, Error):
            pass  # a packed file, or one that only pandas reads
        return f"{file}, row {row + 1}"


def _read(path: str, test_path: str | None, columns: set[str]) -> _Tables:
    """Return the rows of both tables, in which each of `columns` is there.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    import pandas as pd

    tables, files = [], []
    for name in [path, test_path] if test_path else [path]:
        file = Path(name).expanduser()
        files.append(file)
        if not file.is_file():
            raise DataError(f"{file}: no such file; expected a CSV with a header")
        try:
            tables.append(pd.read_csv(file))
        except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
            raise DataError(f"{file}: not a CSV with a header ({error})") from None
        if tables[-1].empty:
            raise DataError(f"{file}: has no rows")
    if test_path and list(tables[0].columns) != list(tables[1].columns):
        raise DataError(f"{test_path}: its columns are not those of {path}")
    if missing := sorted(columns - set(tables[0].columns)):
        have = ", ".join(map(str, tables[0].columns))
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {have}")
    sizes = len(tables[0]), len(tables[1]) if test_path else 0
    return _Tables(files, sizes, pd.concat(tables, ignore_index=True))


def _target_values(table: _Tables, names: list[str], task: str) -> np.ndarray:
    """Return the targets, (N,) or (N, T): classes as texts, labels and values as float64."""
    path, columns = table.files[0], table.rows[names]
    for name in names:
        values = columns[name]
        if values.isna().any():
            raise DataError(f"{path}: {values.isna().sum()} rows have no {name}")
        if task == "classification":
            continue
        if values.dtype.kind not in "biuf":
            hint = "; data.task=classification?" if len(names) == 1 else ""
            raise DataError(f"{path}: {name} is not a column of numbers{hint}")
        numbers = values.to_numpy(float)
        labels = np.isin(numbers, (0, 1)) if task == "multilabel" else np.isfinite(numbers)
        if not labels.all():
            row = int(np.flatnonzero(~labels)[0])
            must = "0 or 1, as task=multilabel has it" if task == "multilabel" else "finite"
            raise DataError(f"{table.place(row)}: {name}={numbers[row]:g}: must be {must}")
    if task == "classification":
        return columns[names[0]].astype(str).to_numpy(str)
    values = columns.to_numpy(float)
    return values if len(names) > 1 else values[:, 0].copy()


def _weights(table: _Tables, column: str | None, parts: Parts) -> Tensor | None:
    """Return (N,) float32 weights of the examples; None where no column has them.

    Raises:
        DataError: naming the first row whose weight is none, or where every one of a split is 0.
    """
    import pandas as pd

    if not column:
        return None
    cells = table.rows[column]
    weights = pd.to_numeric(cells, errors="coerce").to_numpy(float)
    wrong = ~((weights >= 0) & (weights <= MOST_WEIGHT))  # NaN is neither
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        must = f"must be a number from 0 to {MOST_WEIGHT:g}"
        cell = "empty" if pd.isna(cells[row]) else cells[row]
        raise DataError(f"{table.place(row)}: {column}={cell}: a weight {must}")
    weights = weights.astype(np.float32)
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) and not weights[part].any():
            place = table.place(int(part[0]))
            none = f"0, as in every row of the {name} split"
            raise DataError(f"{place}: {column}={none}; some of each must be above 0")
    return torch.from_numpy(weights)
