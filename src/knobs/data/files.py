"""A user's own tables, sentences, and images: by folder, or by a table of a row an image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from knobs.data import leaks, mapped
from knobs.data.columnar import Lazy, changed
from knobs.data.columns import MARKERS, Columns, decide, overrides, table_decimal
from knobs.data.dataset import Data, Tensors
from knobs.data.folds import folded
from knobs.data.images import Labelled, by_folder, picture_data
from knobs.data.inputs import Table
from knobs.data.labelled import file_column, matched
from knobs.data.labels import remarks
from knobs.data.opening import path_of
from knobs.data.prepare import (
    Parts,
    Targets,
    blocks,
    content_hash,
    encode_targets,
    make_data,
    tensors,
    text_data,
    three_way,
)
from knobs.data.rows import Tables, all_there, naming, tables_of, target_values, weights_of
from knobs.data.splits import column_of, keys_of, missed, split_by
from knobs.data.texts import oddities
from knobs.errors import DataError
from knobs.weights import of_weights


def csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None,
    target: str | list[str], drop: list[str], val: float, test: float, split_seed: int,
    weight: str | None = None, columns: Sequence[str] = (), na: Sequence[str] = (),
    split: str = "random", sep: str = "auto", decimal: str = "auto", encoding: str = "auto",
    numbers: str = "standard", folds: int | None = None, fold: int = 0, storage: str = "auto",
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
        storage: auto, memory or map, where rows and inputs are; see ondisk.py.

    Raises:
        DataError: naming the file and the column at fault.
    """
    names = [target] if isinstance(target, str) else target
    by = column_of(split)[1]
    others = {*names, *drop, *({weight, by} - {None, ""})}
    texts, unread = {*overrides(columns), *names}, {*drop} - {*names, weight, by}
    table = tables_of(
        path, test_path, others, sep, encoding, texts, decimal, na, drop, storage, unread
    )
    return of_table(
        table, name=name, kind=kind, task=task, names=names, drop=drop, val=val, test=test,
        split_seed=split_seed, weight=weight, columns=columns, na=na, split=split, decimal=decimal,
        numbers=numbers, folds=folds, fold=fold, storage=storage, content=table.content,
    )  # fmt: skip


def of_table(
    table: Tables, *, name: str, kind: str, task: str, names: list[str], drop: list[str],
    val: float, test: float, split_seed: int, weight: str | None, columns: Sequence[str],
    na: Sequence[str], split: str, decimal: str, numbers: str, folds: int | None, fold: int,
    content: Sequence[Any], storage: str = "memory",
) -> Data:  # fmt: skip
    """Return Data of the rows of a table, as `csv` has it.

    Args:
        names: of the targets.
        content: what the hash is of, see `content_hash`.
        The rest is as of `csv`.

    Raises:
        DataError: naming the file and the column at fault.
    """
    kinds = overrides(columns)
    by = column_of(split)[1]
    others = {*names, *drop, *({weight, by} - {None, ""})}
    said = _said(columns, na, decimal, split if by else "")
    decimal = _decimal(table, decimal, na)
    values = target_values(table, names, task, decimal)
    parts, notes = _parts(
        table, split, values, val, test, split_seed, task, kinds, decimal, folds, fold
    )
    weights = weights_of(table, weight, parts)
    if by in kinds and by not in drop:  # then the user wants it among the inputs
        others -= {by}
    rows = table.columns(others)
    kinds = {c: kind for c, kind in kinds.items() if c not in others}
    with naming(table):
        targets = encode_targets(values, parts[0], task, names)
        read, plain, understood = _understand(table, rows, parts[0], kinds, na, decimal)
        inputs = replace(Table.fit([plain], parts[0], encoding=numbers), columns=read)
        hash = content_hash(parts, *content, names, weight or "", sorted(drop), *said)
        splits, where = _splits(table, inputs, plain, targets, parts, weights, hash, storage)
    data = make_data(
        name, kind, task, splits, targets, [inputs.width], inputs=inputs, hash=hash, folds=folds
    )
    with naming(table):
        notes += remarks(data, names, bool(table.sizes[1]))
    rows = table.columns({*others, *(c for c in kinds if kinds[c] == "drop")})
    notes += leaks.alone(rows, read, targets.y.numpy(), parts[0], task, names)
    notes += leaks.repeated(leaks.row_keys(plain), parts, table.lines)
    return replace(data, notes=[*where, *table.notes, *understood, *notes])


def _splits(
    table: Tables, inputs: Table, plain: Mapping, targets: Targets, parts: Parts,
    weights: Tensor | None, hash: str, storage: str,
) -> tuple[list[Tensors], list[str]]:  # fmt: skip
    """Return the splits of a table in memory, or where that does not hold them on the disk.

    Args:
        plain: its numbers and categories.

    Returns:
        The splits, and a note where only the inputs are on the disk.
    """
    shape, names = (inputs.width,), [*inputs.columns.columns]
    where = "" if table.said else mapped.too_large(storage, len(table.rows), shape)
    if not (table.said or where):
        return tensors(inputs.encoded(plain), targets.y, parts, weights), []

    def raw() -> Iterator[Mapping]:
        if table.said:
            yield from table.rows.blocks(names)
            return
        for block in blocks(table.rows[names]):
            yield {name: block[name].to_numpy() for name in names}

    return mapped.splits(inputs, targets, raw, parts, weights, hash, shape), [where] * bool(where)


def _said(columns: Sequence[str], na: Sequence[str], decimal: str, split: str) -> list[list[str]]:
    """Return what a hash of a table's content counts of how it is read; nothing of the defaults."""
    given = [*columns, *(f"na:{word}" for word in na), *([decimal] if decimal != "auto" else [])]
    given += [f"split:{split}"] if split else []
    return [sorted(given)] if given else []  # without them, the hash of earlier records


def _decimal(table: Tables, decimal: str, na: Sequence[str]) -> str:
    """Return the decimal sign of a table's numbers: as given, or found in its cells."""
    if decimal != "auto":
        return decimal
    form = table.forms[0]
    return form.decimal if form.sep else table_decimal(table.own(), na)


def _understand(
    table: Tables, rows: dict[str, np.ndarray], train: np.ndarray, kinds: dict[str, str],
    na: Sequence[str], decimal: str,
) -> tuple[Columns, dict[str, np.ndarray], list[str]]:  # fmt: skip
    """Return how the columns are read, their numbers and categories, and notes.

    Raises:
        DataError: a column that two rules fit, an infinite number. CellError: naming its row.
    """
    own = changed(rows, lambda cells: cells[: table.sizes[0]])
    read, notes = decide(own, train, kinds, na, decimal)
    if not read.columns:
        raise DataError(f"no column is left to learn from ({notes[0]})")
    plain = _typed(read, rows)
    for column, values in plain.items():
        if values.dtype.kind == "f" and np.isinf(values).any():
            at = table.lines([int(np.isinf(values).argmax())])[0]
            mend = "leave it out, or the cell empty"
            raise DataError(f"{column}: an infinite number ({at}); {mend}")
    return read, plain, notes


def _typed(read: Columns, rows: Mapping) -> Mapping:
    """Return the numbers and categories of a table's columns; from the disk one at a time."""
    if not isinstance(rows, Lazy):
        return read.typed(rows)
    owner = {made: c for c, column in read.columns.items() for made in column.outputs(c)}

    @lru_cache(1)  # all that is made of a date is asked for in turn
    def of(name: str) -> dict[str, np.ndarray]:
        one = Columns({name: read.columns[name]}, read.markers)
        return one.typed({name: rows[name]})

    return Lazy(owner, lambda made: of(owner[made])[made])


def _parts(
    table: Tables, how: str, values: np.ndarray, val: float, test: float, seed: int, task: str,
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
        with naming(table):
            return folded(parts, values, task, folds, fold, seed)
    shares = [1 - val, val] if official else [1 - val - test, val, test]
    cells = table.rows[column].to_numpy()[:own]
    classes = values[:own] if task == "classification" else None
    with naming(table):
        keys = keys_of(how, cells, kinds.get(column, ""), decimal)
        place = split_by(how, keys, shares, seed, classes)
    rows = [np.flatnonzero(place == i) for i in range(len(shares))]
    held = np.arange(own, own + official) if official else rows[2]
    kept = [] if column in kinds else [f"{column} splits the rows, and is no input"]
    if folds is None:
        kept += missed(place, shares)
    with naming(table):
        parts = (rows[0], rows[1], held)
        parts, notes = folded(parts, values, task, folds, fold, seed, way, keys, column)
    return parts, [*kept, *notes]


def text_csv(
    *, name: str, kind: str, task: str, path: str, test_path: str | None, text: str,
    label: str | list[str], val: float, test: float, split_seed: int,
    ngrams: int, max_length: int | str, max_vocabulary: int, min_count: int,
    weight: str | None = None, split: str = "random", sep: str = "auto", encoding: str = "auto",
    folds: int | None = None, fold: int = 0, storage: str = "auto", tokenizer: str | None = None,
) -> Data:  # fmt: skip
    """Read a column of text, and a column to predict or several: classes, numbers, or 0 and 1.

    Args:
        max_length: tokens, or `auto`: see texts.usual_length.
        weight: a column of example weights.
        split: random, group:COLUMN or time:COLUMN; see splits.py.
        sep, encoding: of the file; auto finds them out.
        folds, fold: their number, and the one that validates; see folds.py.
        storage: auto, memory or map, where texts and tokens are; see ondisk.py.
        tokenizer: a folder with a network's own; None for words.

    Raises:
        DataError: naming the file and the column at fault.
    """
    names = [label] if isinstance(label, str) else label
    used = {text, *names, weight, column_of(split)[1]} - {None, ""}
    table = tables_of(path, test_path, used, sep, encoding, storage=storage, only=used)
    texts = table.rows.texts(text) if table.said else table.rows[text].tolist()
    decimal = table_decimal({name: table.own()[name] for name in names})
    values = target_values(table, names, task, decimal)
    parts, notes = _parts(
        table, split, values, val, test, split_seed, task, {}, decimal, folds, fold
    )
    weights = weights_of(table, weight, parts)
    said = [split] if split != "random" else []  # without it, the hash of earlier records
    with naming(table):
        data = text_data(
            name, kind, task, texts, values, parts,
            ngrams=ngrams, max_length=max_length, max_vocabulary=max_vocabulary,
            min_count=min_count, names=names, weight=weights, column=text, folds=folds,
            place=mapped.splits if table.said else None, tokenizer=tokenizer,
            hash=content_hash(parts, *table.content, [text, *names], weight or "", *said),
        )  # fmt: skip
        notes += remarks(data, names, bool(table.sizes[1]))
    notes += [*data.notes, *oddities(text, blocks(texts), MARKERS)]
    notes += leaks.repeated(leaks.text_keys(blocks(texts)), parts, table.lines)
    return replace(data, notes=[*table.notes, *notes])


def image_folder(
    *, name: str, kind: str, task: str, root: str, size: int | str, val: float, test: float,
    split_seed: int, augment: dict, memory_gib: float, workers: int,
    labels: str | None = None, file: str = "auto", targets: str | list[str] | None = None,
    folds: int | None = None, fold: int = 0,
    normalize: bool | str = True, statistics: str | None = None,
) -> Data:  # fmt: skip
    """Read one sub-folder a class, under root, or under root/train, root/test and root/val.

    Args:
        size: pixels; the middle square of each image is scaled to it. `weights`: as they have it.
        memory_gib: sets larger than this once decoded are streamed from disk.
        workers: processes that decode a streamed set.
        labels: a table of a row an image, in root or elsewhere; then no folder is a class.
        file: its column of paths below root; auto finds it out.
        targets: its column to predict, or several; None where it has one other column.
        folds, fold: their number, and the one that validates; see folds.py.
        normalize: true, or weights: by `statistics`, those of weights; see weights.py.

    Raises:
        DataError: no such folder, folders that are neither classes nor splits, a class or a split
            without images, an image that cannot be read, or has no row; a row without an image.
    """
    base = path_of(root)
    notes: list[str] = []
    by = of_weights(statistics).of_size(size) if statistics else None
    try:
        if labels:
            found = _by_table(base, labels, file, targets, task, notes)
        else:
            found = by_folder(base, notes)
    except OSError as error:
        place = error.filename or base
        raise DataError(f"{place}: cannot be read ({error.strerror}); mend or remove it") from None
    return picture_data(
        name, kind, task, base, found, notes, size=by.size if by else size, val=val, test=test,
        split_seed=split_seed, augment=augment, memory_gib=memory_gib, workers=workers,
        folds=folds, fold=fold, by=by,
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
    inside = base / path_of(labels)
    path = inside if inside.exists() or not Path(labels).exists() else Path(labels)
    table = tables_of(str(path), None, set())
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
    all_there(table, file, np.array([not cell for cell in cells]))
    files, origin = matched(base, path, cells, table.place, notes)
    decimal = table_decimal({name: table.own()[name] for name in names})
    values = target_values(table, names, task, decimal)
    notes[:0] = table.notes
    return Labelled(files, values, origin, names)
