"""A user's own tables, sentences, and images: by folder, or by a table of a row an image."""

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data import leaks, tables
from knobs.data.columns import (
    MARKERS,
    CellError,
    Columns,
    as_numbers,
    decide,
    overrides,
    table_decimal,
)
from knobs.data.dataset import Data
from knobs.data.dates import read_day
from knobs.data.folds import folded
from knobs.data.images import Labelled, by_folder, picture_data
from knobs.data.inputs import Table
from knobs.data.labelled import file_column, matched
from knobs.data.labels import remarks
from knobs.data.prepare import (
    Parts,
    content_hash,
    encode_targets,
    make_data,
    tensors,
    text_data,
    three_way,
)
from knobs.data.splits import column_of, keys_of, missed, split_by
from knobs.data.texts import oddities
from knobs.errors import DataError, did_you_mean

MOST_WEIGHT = 1e30  # of an example: sums of weights stay finite in float32


def csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None,
    target: str | list[str], drop: list[str], val: float, test: float, split_seed: int,
    weight: str | None = None, columns: Sequence[str] = (), na: Sequence[str] = (),
    split: str = "random", sep: str = "auto", decimal: str = "auto", encoding: str = "auto",
    numbers: str = "standard", folds: int | None = None, fold: int = 0,
) -> Data:  # fmt: skip
    """Read a table: numbers standardised (missing: the median), categories one-hot.

    Args:
        path: a table with a header.
        test_path: an official test table; then `test` plays no part, and it shapes nothing.
        target: the column to predict, or several; rows without one are an error.
        drop: columns to leave out.
        weight: a column of example weights, which is no feature.
        columns: `NAME:KIND`, for columns that the rules of columns.py take for another kind.
        na: words that count as missing besides the usual ones.
        split: random, group:COLUMN or time:COLUMN; see splits.py. The column is no input, unless
            `columns` gives it a kind.
        sep, decimal, encoding: of the file; auto finds them out.
        numbers: how they are encoded, one of encodings.ENCODINGS.
        folds, fold: their number, and the one that validates; see folds.py.

    Raises:
        DataError: naming the file and the column at fault.
    """
    kinds = overrides(columns)
    names = [target] if isinstance(target, str) else target
    by = column_of(split)[1]
    others = {*names, *drop, *({weight, by} - {None, ""})}
    table = _read(path, test_path, others, sep, encoding, {*kinds, *names}, decimal, na, drop)
    given = [*columns, *(f"na:{word}" for word in na), *([decimal] if decimal != "auto" else [])]
    given += [f"split:{split}"] if by else []
    said = [sorted(given)] if given else []  # without them, the hash of earlier records
    if decimal == "auto":
        form = table.forms[0]
        decimal = form.decimal if form.sep else table_decimal(table.own(), na)
    values = _target_values(table, names, task, decimal)
    parts, notes = _parts(
        table, split, values, val, test, split_seed, task, kinds, decimal, folds, fold
    )
    weights = _weights(table, weight, parts)
    if by in kinds and by not in drop:  # then the user wants it among the inputs
        others -= {by}
    rows = {str(c): table.rows[c].to_numpy() for c in table.rows if c not in others}
    kinds = {c: kind for c, kind in kinds.items() if c not in others}
    with _at(table):
        targets = encode_targets(values, parts[0], task, names)
        read, plain, understood = _understand(table, rows, parts[0], kinds, na, decimal)
        inputs = Table.fit([plain], parts[0], encoding=numbers)
        x = inputs.encoded(plain)
    data = make_data(
        name, kind, task, tensors(x, targets.y, parts, weights), targets, x.shape[1:],
        inputs=replace(inputs, columns=read),
        hash=content_hash(parts, *table.files, names, weight or "", sorted(drop), *said),
        folds=folds,
    )  # fmt: skip
    with _at(table):
        notes += remarks(data, names, bool(table.sizes[1]))
    rows = {c: cells for c, cells in rows.items() if kinds.get(c) != "drop"}
    notes += leaks.alone(rows, read, targets.y.numpy(), parts[0], task, names)
    notes += leaks.repeated(leaks.row_keys(plain), parts, table.lines)
    return replace(data, notes=[*table.notes, *understood, *notes])


@contextlib.contextmanager
def _at(table: "_Tables") -> Iterator[None]:
    """Put the file, and the line where it is known, before an error's words."""
    try:
        yield
    except CellError as error:
        raise DataError(f"{table.place(error.row)}: {error.fault}") from None
    except DataError as error:
        raise DataError(f"{table.files[0]}: {error}") from None


def _understand(
    table: "_Tables", rows: dict[str, np.ndarray], train: np.ndarray, kinds: dict[str, str],
    na: Sequence[str], decimal: str,
) -> tuple[Columns, dict[str, np.ndarray], list[str]]:  # fmt: skip
    """Return how the columns are read, their numbers and categories, and notes.

    Raises:
        DataError: a column that two rules fit, an infinite number. CellError: naming its row.
    """
    own = {column: cells[: table.sizes[0]] for column, cells in rows.items()}
    read, notes = decide(own, train, kinds, na, decimal)
    if not read.columns:
        raise DataError(f"no column is left to learn from ({notes[0]})")
    plain = read.typed(rows)
    for column, values in plain.items():
        if values.dtype.kind == "f" and np.isinf(values).any():
            at = table.lines([int(np.isinf(values).argmax())])[0]
            mend = "leave it out, or the cell empty"
            raise DataError(f"{column}: an infinite number ({at}); {mend}")
    return read, plain, notes


def _parts(
    table: "_Tables", how: str, values: np.ndarray, val: float, test: float, seed: int, task: str,
    kinds: dict[str, str], decimal: str, folds: int | None, fold: int,
) -> tuple[Parts, list[str]]:  # fmt: skip
    """Return the splits, and notes on them.

    Args:
        how: data.split.
        values: the targets.
        kinds: of `data.columns`; they may say how dates are written.

    Raises:
        DataError: naming the file, and the line of a cell that gives no group or no time.
    """
    own, official = table.sizes
    way, column = column_of(how)
    if not column:
        parts = three_way(values, val, test, seed, task, official)
        with _at(table):
            return folded(parts, values, task, folds, fold, seed)
    shares = [1 - val, val] if official else [1 - val - test, val, test]
    cells = table.rows[column].to_numpy()[:own]
    classes = values[:own] if task == "classification" else None
    with _at(table):
        keys = keys_of(how, cells, kinds.get(column, ""), decimal)
        place = split_by(how, keys, shares, seed, classes)
    rows = [np.flatnonzero(place == i) for i in range(len(shares))]
    held = np.arange(own, own + official) if official else rows[2]
    kept = [] if column in kinds else [f"{column} splits the rows, and is no input"]
    if folds is None:
        kept += missed(place, shares)
    with _at(table):
        parts = (rows[0], rows[1], held)
        parts, notes = folded(parts, values, task, folds, fold, seed, way, keys, column)
    return parts, [*kept, *notes]


def text_csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, text: str,
    label: str | list[str], val: float, test: float, split_seed: int,
    ngrams: int, max_length: int | str, max_vocabulary: int, min_count: int,
    weight: str | None = None, split: str = "random", sep: str = "auto", encoding: str = "auto",
    folds: int | None = None, fold: int = 0,
) -> Data:  # fmt: skip
    """Read a column of text, and a column to predict or several: classes, numbers, or 0 and 1.

    Args:
        max_length: tokens, or `auto`: see texts.usual_length.
        weight: a column of example weights.
        split: random, group:COLUMN or time:COLUMN; see splits.py.
        sep, encoding: of the file; auto finds them out.
        folds, fold: their number, and the one that validates; see folds.py.

    Raises:
        DataError: naming the file and the column at fault.
    """
    names = [label] if isinstance(label, str) else label
    used = {text, *names, weight, column_of(split)[1]} - {None, ""}
    table = _read(path, test_path, used, sep, encoding)
    texts = table.rows[text].tolist()
    decimal = table_decimal({name: table.own()[name] for name in names})
    values = _target_values(table, names, task, decimal)
    parts, notes = _parts(
        table, split, values, val, test, split_seed, task, {}, decimal, folds, fold
    )
    weights = _weights(table, weight, parts)
    said = [split] if split != "random" else []  # without it, the hash of earlier records
    with _at(table):
        data = text_data(
            name, kind, task, texts, values, parts,
            ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary,
            min_count=min_count, names=names, weight=weights, column=text, folds=folds,
            hash=content_hash(parts, *table.files, [text, *names], weight or "", *said),
        )  # fmt: skip
        notes += remarks(data, names, bool(table.sizes[1]))
    notes += [*data.notes, *oddities(text, texts, MARKERS)]
    notes += leaks.repeated(leaks.row_keys({text: table.rows[text].to_numpy()}), parts, table.lines)
    return replace(data, notes=[*table.notes, *notes])


def image_folder(
    *, name: str, kind: str, task: str, root: str, size: int, val: float, test: float,
    split_seed: int, augment: dict, memory_gib: float, workers: int,
    labels: str | None = None, file: str = "auto", targets: str | list[str] | None = None,
    folds: int | None = None, fold: int = 0,
) -> Data:  # fmt: skip
    """Read one sub-folder a class, under root, or under root/train, root/test and root/val.

    Args:
        size: pixels; the middle square of each image is scaled to it.
        memory_gib: sets larger than this once decoded are streamed from disk.
        workers: processes that decode a streamed set.
        labels: a table of a row an image, in root or elsewhere; then no folder is a class.
        file: its column of paths below root; auto finds it out.
        targets: its column to predict, or several; None where it has one other column.
        folds, fold: their number, and the one that validates; see folds.py.

    Raises:
        DataError: no such folder, folders that are neither classes nor splits, a class or a split
            without images, an image that cannot be read, or has no row; a row without an image.
    """
    base = Path(root).expanduser()
    notes: list[str] = []
    try:
        if labels:
            found = _by_table(base, labels, file, targets, task, notes)
        else:
            found = by_folder(base, notes)
    except OSError as error:
        place = error.filename or base
        raise DataError(f"{place}: cannot be read ({error.strerror}); mend or remove it") from None
    return picture_data(
        name, kind, task, base, found, notes, size=size, val=val, test=test,
        split_seed=split_seed, augment=augment, memory_gib=memory_gib, workers=workers,
        folds=folds, fold=fold,
    )  # fmt: skip


def _by_table(
    base: Path, labels: str, file: str, targets: str | list[str] | None, task: str,
    notes: list[str],
) -> Labelled:  # fmt: skip
    """Return the pictures under a folder in the order of the rows of a table of their targets.

    Source of the form: Hugging Face's imagefolder, whose metadata.csv has a column file_name.
    """
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; data.root is the folder of the images")
    inside = base / Path(labels).expanduser()
    path = inside if inside.exists() or not Path(labels).exists() else Path(labels)
    table = _read(str(path), None, set())
    columns = [str(column) for column in table.rows]
    file = file_column(path, columns) if file == "auto" else file
    names = [targets] if isinstance(targets, str) else targets
    names = names or [column for column in columns if column != file]
    if lacking := [column for column in (file, *names) if column not in columns]:
        raise DataError(f"{path}: no column {', '.join(lacking)}; it has {', '.join(columns)}")
    if not targets and len(names) != 1:
        fix = f"choose with data.targets=COLUMN: it has {', '.join(names) or 'no other column'}"
        raise DataError(f"{path}: which column is to be predicted? {fix}")
    if file in names:
        raise DataError(f"{path}: data.targets={file} names the files; choose another column")
    cells = [cell.strip() for cell in table.rows[file]]
    _all_there(table, file, np.array([not cell for cell in cells]))
    files, origin = matched(base, path, cells, table.place, notes)
    decimal = table_decimal({name: table.own()[name] for name in names})
    values = _target_values(table, names, task, decimal)
    notes[:0] = table.notes
    return Labelled(files, values, origin, names)


@dataclass(frozen=True)
class _Tables:
    """The rows of one file or two, and where each comes from.

    Args:
        files: that of `path`, then that of `test_path` if there is one.
        forms: how each of them was read.
        sizes: rows of the first, and of the official test table.
        rows: a data frame of texts.
    """

    files: list[Path]
    forms: list[tables.Form]
    sizes: tuple[int, int]
    rows: Any

    @property
    def notes(self) -> list[str]:
        """Return what is to be said of how the files were read."""
        pairs = zip(self.files, self.forms, strict=True)
        return [note for file, form in pairs for note in form.notes(file)]

    def own(self) -> dict[str, np.ndarray]:
        """Return name -> texts of the rows that are not of the official test table."""
        return {str(name): self.rows[name].to_numpy()[: self.sizes[0]] for name in self.rows}

    def place(self, row: int) -> str:
        """Return the file and the line where a row begins, `FILE, line N`; the header is line 1."""
        return f"{self.files[row >= self.sizes[0]]}, {self.lines([row])[0].rpartition(', ')[2]}"

    def lines(self, rows: Sequence[int]) -> list[str]:
        """Return the lines where rows begin, `line 17`, of the official table with its name."""
        found = {}
        for i, (file, form) in enumerate(zip(self.files, self.forms, strict=True)):
            start = i * self.sizes[0]
            mine = {row - start for row in rows if (row >= self.sizes[0]) == bool(i)}
            lines = {row: f"row {row + 1 + form.first}" for row in mine}
            if form.sep and mine:
                with contextlib.suppress(*tables.BROKEN):  # what only pandas reads
                    some = islice(tables.records(file, form), max(mine) + 2)
                    lines |= {
                        n - 1: f"line {at}" for n, (at, _) in enumerate(some) if n - 1 in mine
                    }
            found |= {row + start: f"{file.name}, " * i + line for row, line in lines.items()}
        return [found[row] for row in rows]

    def places(self, rows: np.ndarray) -> str:
        """Return where the first three rows are."""
        return "; ".join(self.place(int(row)) for row in rows[:3])


def _read(
    path: str, test_path: str | None, columns: set[str], sep: str = "auto", encoding: str = "auto",
    texts: set[str] | None = None, decimal: str = "auto", na: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> _Tables:  # fmt: skip
    """Return the rows of both tables, in which each of `columns` is there.

    Args:
        texts: columns that must be texts, beside `columns`; others may be numbers. None: all are
            texts.
        decimal, na, drop: as `tables.read` takes them.

    Raises:
        DataError: naming what is not there, or cannot be read.
    """
    import pandas as pd

    files = [Path(name).expanduser() for name in ([path, test_path] if test_path else [path])]
    texts = None if texts is None else texts | columns
    found = [tables.read(files[0], sep, encoding, texts, na, decimal, drop)]
    if test_path:
        decimal = found[0][1].decimal or decimal
        found.append(tables.read(files[1], sep, encoding, texts, na, decimal, drop))
        if texts is not None and _unlike(*(frame for frame, _ in found)):
            found = [(tables.read(f, sep, encoding, None, (), decimal, drop)[0], form)
                     for f, (_, form) in zip(files, found, strict=True)]  # fmt: skip
    frames, forms = [frame for frame, _ in found], [form for _, form in found]
    have = list(frames[0].columns)
    if missing := sorted(columns - set(have)):
        near = did_you_mean(missing[0], have)
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(have[:50])}{near}"
        )
    if test_path:
        lacks = [name for name in have if name not in set(frames[1].columns)]
        more = [name for name in frames[1].columns if name not in set(have)]
        if lacks or more:
            said = [*(f"no {name}" for name in lacks[:5]), *(f"also {name}" for name in more[:5])]
            raise DataError(
                f"{test_path}: its columns are not those of {path}: it has {', '.join(said)}"
            )
        frames[1] = frames[1][have]
    sizes = len(frames[0]), len(frames[1]) if test_path else 0
    rows = pd.concat(frames, ignore_index=True) if test_path else frames[0]
    return _Tables(files, forms, sizes, rows)


def _unlike(first: Any, second: Any) -> bool:
    """Return whether a column has two types in two tables: it takes texts to tell."""
    return any(first[name].dtype != second[name].dtype for name in second if name in first)


def _labels(table: _Tables, name: str) -> np.ndarray:
    """Return classes (N,), each as its cell has it, less blanks around it.

    Whole numbers written with and without `.0` are one class.

    Raises:
        DataError: empty cells, other numbers written in two ways, a class that only the official
            test table has.
    """
    import pandas as pd

    codes, words = pd.factorize(table.rows[name].to_numpy())
    words = [str(word).strip() for word in words]
    own = dict.fromkeys(words[code] for code in np.unique(codes[: table.sizes[0]]))
    labels = np.array([_one_name(word, own) for word in words])[codes]
    _all_there(table, name, labels == "")
    known = np.unique(labels[: table.sizes[0]])
    new = np.flatnonzero(~np.isin(labels, known))
    if len(new):
        place, some = table.place(int(new[0])), ", ".join(known[:20])
        raise DataError(f"{place}: {name}={labels[new[0]]}: not one of the classes {some}")
    numbers = pd.to_numeric(pd.Series(known, dtype=object), errors="coerce")
    plain = ~pd.Series(known, dtype=object).str.match(r"[+-]?0\d") & numbers.notna()
    if (twice := numbers[plain].duplicated(keep=False)).any():
        pair = " and ".join(known[numbers[plain][twice].index[:2]])
        raise DataError(f"{table.files[0]}: {name}: {pair} are one number; write it one way")
    return labels


def _one_name(word: str, names: Collection[str]) -> str:
    """Return the name of a class: where `1` is one of the names, `1.0` is it, and else `1` is."""
    match = re.fullmatch(r"([-+]?\d+)(?:\.0*)?", word)
    if not match:
        return word
    if match[1] in names:
        return match[1]
    return next((same for same in (f"{match[1]}.0", f"{match[1]}.00") if same in names), word)


def _all_there(table: _Tables, name: str, missing: np.ndarray) -> None:
    """Refuse rows without a target: a count, and the first of them."""
    rows = np.flatnonzero(missing)
    if len(rows):
        first = table.places(rows)
        file = table.files[int(rows[0] >= table.sizes[0])]
        raise DataError(f"{file}: {len(rows)} rows have no {name} ({first})")


def _target_values(table: _Tables, names: list[str], task: str, decimal: str) -> np.ndarray:
    """Return the targets, (N,) or (N, T): classes as texts, labels and values as float64."""
    if task == "classification":
        return _labels(table, names[0])
    columns = []
    for name in names:
        cells = table.rows[name].to_numpy()
        try:
            numbers, wrong = as_numbers(name, cells, table.sizes[0], decimal)
        except DataError as error:
            raise DataError(f"{table.files[0]}: {error}") from None
        missing = np.isnan(numbers)
        missing[wrong] = False
        _all_there(table, name, missing)
        if len(wrong):
            row = int(wrong[0])
            file = table.files[row >= table.sizes[0]]
            hint = "; data.task=classification?" if len(names) == 1 else ""
            if np.isfinite(read_day(str(cells[row]).strip(), "dmy")):
                hint = "; it holds dates, so give the days since one of them"
            at = f"{table.place(row)}: {str(cells[row])[:40]!r}"
            raise DataError(f"{file}: {name} is not a column of numbers ({at}){hint}")
        labels = np.isin(numbers, (0, 1)) if task == "multilabel" else np.isfinite(numbers)
        if not labels.all():
            row = int(np.flatnonzero(~labels)[0])
            must = "0 or 1, as task=multilabel has it" if task == "multilabel" else "finite"
            raise DataError(f"{table.place(row)}: {name}={numbers[row]:g}: must be {must}")
        columns.append(numbers)
    return np.stack(columns, 1) if len(names) > 1 else columns[0]


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
        cell = cells[row].strip() or "empty"
        raise DataError(f"{table.place(row)}: {column}={cell}: a weight {must}")
    weights = weights.astype(np.float32)
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) and not weights[part].any():
            place = table.place(int(part[0]))
            none = f"0, as in every row of the {name} split"
            raise DataError(f"{place}: {column}={none}; some of each must be above 0")
    return torch.from_numpy(weights)
