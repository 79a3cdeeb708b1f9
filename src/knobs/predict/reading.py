"""Raw rows in blocks -> what a network takes, each row at fault by itself.

It needs no torch: an exported model is used by the same code.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from knobs.data.columns import Column, Columns
from knobs.data.inputs import Pictures, Table
from knobs.data.notation import decimal_evidence, is_missing, text_of
from knobs.data.pixels import read_pixels
from knobs.data.preparation import Target
from knobs.data.stored import Fields
from knobs.errors import DataError, did_you_mean
from knobs.predict.answers import answers
from knobs.predict.drift import Tally

BLOCK = 16_384  # rows of a table or texts that are read at once
PICTURES = 128  # pictures that are
BATCH = 1024  # examples that a network takes at once
MOST = np.finfo(np.float32).max
GLANCE, ODD = 1000, 0.05  # cells that show the decimal sign; the share of them that may be slips
LUMA = np.array([19595, 38470, 7471])  # of 65,536: ITU-R 601, as PIL makes colours gray


@dataclass(frozen=True)
class Source:
    """The form of a run's own files, as far as its config says it: auto finds it out.

    Args:
        text: the column of texts.
        sep, encoding: as of tables.read.
    """

    text: str = ""
    sep: str = "auto"
    encoding: str = "auto"

    def saved(self) -> dict[str, str]:
        """Return plain data."""
        return {"text": self.text, "sep": self.sep, "encoding": self.encoding}

    @classmethod
    def read(cls, fields: Fields) -> "Source":
        """Return the source that fields describe."""
        from knobs.data.tables import SEPARATORS

        sep = fields.choice("sep", ("auto", *SEPARATORS))
        return cls(fields.text("text"), sep, fields.text("encoding"))


@dataclass(frozen=True)
class Model:
    """All that turns raw rows into answers, whoever computes the outputs.

    Args:
        inputs: Table, Pictures or Texts of the run's preparation.
        outputs: prepared (n, ...) -> (n, C) of the network.
        log_rates: whether outputs are logs of the values.
    """

    inputs: Any
    target: Target
    source: Source
    outputs: Callable[[np.ndarray], np.ndarray]
    log_rates: bool = False

    def answers(self, x: np.ndarray, faults: dict[int, str]) -> dict[str, np.ndarray]:
        """Return name of a column -> (n,) answers, and note rows whose outputs are no numbers."""
        outputs = self.outputs(x)
        for row in np.flatnonzero(~np.isfinite(outputs).all(1)).tolist():
            faults.setdefault(row, "the outputs of the model are not finite")
        found = answers(self.target, np.where(np.isfinite(outputs), outputs, 0), self.log_rates)
        if self.target.task == "regression":
            for row in np.flatnonzero(~np.isfinite(np.stack([*found.values()])).all(0)).tolist():
                faults.setdefault(row, "the value is not finite")
        return found


@dataclass(frozen=True)
class Rows:
    """Some raw rows.

    Args:
        names: of the rows: numbers from 0, or paths.
        raw: a data frame, a list of texts, a list of paths, or pixels (n, C, H, W).
        place: the file they are of, for messages.
    """

    names: Sequence
    raw: Any
    place: str = ""


def prepare(model: Model, rows: Rows, tally: Tally) -> tuple[np.ndarray, dict[int, str]]:
    """Return the inputs of rows, and place -> what is wrong with it; their inputs mean nothing.

    Raises:
        DataError: rows of another kind: a column is not there.
    """
    faults: dict[int, str] = {}
    try:
        x = {"table": _table, "image": _pictures, "text": _texts}[model.inputs.kind](
            model, rows.raw, faults, tally
        )
    except DataError as error:
        raise DataError(f"{rows.place}: {error}" if rows.place else str(error)) from None
    return x, faults


# ------------------------------------------------------------------ tables
def columns_of(inputs: Table) -> Columns:
    """Return how the columns of raw rows are read; bundled sets are numbers as they are."""
    if inputs.columns:
        return inputs.columns
    numbers = {name: Column("number", "point") for name in inputs.numbers}
    levels = {name: Column("category", levels=known) for name, known in inputs.levels.items()}
    return Columns(numbers | levels)


def _table(model: Model, frame: Any, faults: dict[int, str], tally: Tally) -> np.ndarray:
    inputs: Table = model.inputs
    columns = columns_of(inputs)
    cells = cells_of(frame, list(columns.columns))
    if not tally.rows:
        _same_decimal(columns, cells)
    with np.errstate(over="ignore", invalid="ignore"):  # dates beyond all calendars
        typed = columns.typed(cells, faults)
    most = np.finfo(inputs.mean.dtype).max
    for i, name in enumerate(inputs.numbers):
        values = typed[name]
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = ~(np.abs((values - inputs.mean[i]) / inputs.scale[i]) <= MOST)
        wrong |= np.abs(values) > most
        for row in np.flatnonzero(wrong & ~np.isnan(values)).tolist():
            faults.setdefault(row, f"{name}={values[row]:g}: is too large a number")
        typed[name] = np.where(wrong, np.nan, values)
    tally.add_numbers(inputs, typed, faults)
    for name, column in columns.columns.items():
        if column.kind == "category":
            tally.add_words(name, typed[name], _missing(cells[name], columns.markers))
    return np.asarray(inputs.encoded(typed))


def _same_decimal(columns: Columns, cells: Mapping[str, np.ndarray]) -> None:
    """Refuse numbers of which many are written with the other decimal sign than in training.

    Those of them that could be either, such as 1,234, would be read wrong by a factor of 1,000.

    Raises:
        DataError: naming the column and a cell.
    """
    for name, column in columns.columns.items():
        if column.kind != "number" or cells[name].dtype != object:
            continue
        words = [text_of(cell) for cell in cells[name][:GLANCE] if isinstance(cell, str)]
        point, comma, _ = decimal_evidence(words)
        sign, other = column.form.partition(" ")[0], "comma" if comma > point else "point"
        if max(point, comma) > ODD * len(words) and point != comma and other != sign:
            example = next(w for w in words if decimal_evidence([w])[other == "comma"])
            raise DataError(
                f"{name}={example[:40]!r}: numbers have a decimal {other} here, a {sign} in "
                "training; write them as there"
            )


def cells_of(frame: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return name -> (n,) cells of a frame: numbers as they are, all else objects, "" if missing.

    Raises:
        DataError: naming columns that are not there, or are there twice.
    """
    have = list(map(str, frame.columns))
    places = {name: place for place, name in enumerate(have)}
    lacks = [name for name in names if name not in places]
    if lacks:
        near = did_you_mean(lacks[0], have)
        shown = ", ".join(have[:30]) + ", ..." * (len(have) > 30)
        raise DataError(f"no column {', '.join(lacks[:30])}; it has {shown}{near}")
    counts = Counter(have)
    if twice := [name for name in names if counts[name] > 1]:
        raise DataError(f"more than one column {twice[0]}; rename all but one")
    return {name: _cells(frame.iloc[:, places[name]]) for name in names}


def _cells(column: Any) -> np.ndarray:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
        return column.to_numpy()
    return column.astype(object).where(column.notna(), "").to_numpy(object)


def _missing(cells: np.ndarray, markers: frozenset) -> np.ndarray:
    """Return (n,) whether a cell is missing."""
    import pandas as pd

    codes, words = pd.factorize(cells)
    return np.array([*(is_missing(word, markers) for word in words), True])[codes]


# ------------------------------------------------------------------ texts and pictures
def _texts(model: Model, raw: Any, faults: dict[int, str], tally: Tally) -> np.ndarray:
    name = _column(model, raw)
    texts = cells_of(raw, [name])[name] if name else raw
    x = np.asarray(model.inputs.apply([text if isinstance(text, str) else "" for text in texts]))
    tally.add_tokens(x)
    for row in np.flatnonzero(x[:, 0] == 0).tolist():
        other = isinstance(texts[row], Number | bytes) and texts[row] == texts[row]  # not a NaN
        faults[row] = f"{texts[row]} is no text" if other else "an empty text"
    return x


def _column(model: Model, raw: Any) -> str:
    """Return the column of texts of a frame; "" of a list.

    Raises:
        DataError: nothing tells which one it is.
    """
    if not hasattr(raw, "columns"):
        return ""
    if not model.source.text:
        raise DataError("nothing tells which column has the texts; give a list, or one text a line")
    return model.source.text


def _pictures(model: Model, raw: Any, faults: dict[int, str], tally: Tally) -> np.ndarray:
    inputs: Pictures = model.inputs
    pixels = raw if isinstance(raw, np.ndarray) else _pixels(inputs, raw, faults)
    mean, scale = (values.reshape(-1, 1, 1) for values in (inputs.mean, inputs.scale))
    return ((pixels.astype(np.float32) / np.float32(inputs.unit)) - mean) / scale


def _pixels(inputs: Pictures, paths: Sequence[Path], faults: dict[int, str]) -> np.ndarray:
    """Return (n, C, H, W) pixels of picture files, 0 where one cannot be read."""
    channels, (height, width) = len(inputs.mean), inputs.size
    if inputs.unit != 255 or height != width or channels not in (1, 3):
        raise DataError("this model takes pixels as an array, not files of pictures")
    found = np.zeros((len(paths), channels, height, width), np.uint8)
    for i, path in enumerate(paths):
        try:
            rgb = read_pixels(path, height, inputs.resize, inputs.resample)
        except (DataError, OSError) as error:
            faults[i] = str(error).removeprefix(f"{path}: ")
            continue
        gray = (np.tensordot(LUMA, rgb.astype(np.int64), 1) + 2**15) // 2**16
        found[i] = rgb if channels == 3 else gray
    return found


def predicted(
    model: Model, blocks: Iterable[Rows], tally: Tally
) -> Iterator[tuple[Rows, dict[str, np.ndarray], dict[int, str]]]:
    """Yield each block of rows, name of a column -> (n,) answers, and the faults of its rows."""
    for rows in blocks:
        if not len(rows.names):  # a header alone
            continue
        x, faults = prepare(model, rows, tally)
        found = model.answers(x, faults)
        tally.add_faults(rows.names, len(x), faults)
        yield rows, found, faults


def framed(found: Mapping[str, np.ndarray], faults: Mapping[int, str]) -> dict[str, np.ndarray]:
    """Return the same columns, empty in rows at fault."""
    import pandas as pd

    if not faults:
        return dict(found)
    emptied = {}
    for name, values in found.items():
        column = pd.Series(values, dtype="Int64" if values.dtype.kind in "iu" else values.dtype)
        column.iloc[list(faults)] = None if values.dtype == object else pd.NA
        emptied[name] = column.array if values.dtype.kind in "iu" else column.to_numpy()
    return emptied
