"""The command that predicts: rows in, a table of answers out, in blocks. It needs no torch."""

import argparse
import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from knobs import storage
from knobs.data.opening import path_of
from knobs.errors import ConfigError, DataError, UserError, ended, note, size
from knobs.predict.answers import digits
from knobs.predict.drift import Tally
from knobs.predict.reading import Model, Rows, columns_of, framed, predicted
from knobs.predict.sources import file_blocks
from knobs.words import cell

SOME_ROWS = 23  # exit code: some rows are not predicted
ENDINGS = (".csv", ".parquet")


def main(given: argparse.Namespace, model: Callable[[], Model]) -> int:
    """Predict as a command line says; return its exit code.

    Args:
        model: loads it, once the command line is known to be sound.
    """
    return ended(lambda: _main(given, model))


def _main(given: argparse.Namespace, model: Callable[[], Model]) -> int:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(_spooled()) if given.input == "-" else path_of(given.input)
        _check(path, given)
        loaded = model()
        try:
            return _predict(path, given, loaded, False)
        except _LateFault:  # the header is written: once more, with a column for faults
            return _predict(path, given, loaded, True)


class _LateFault(Exception):
    """A row that cannot be read, behind a header without a column for it."""


@contextlib.contextmanager
def _spooled() -> Iterator[Path]:
    """Copy standard input to a file of its own: to tell its form takes a look at all of it.

    Raises:
        UserError: as the reader did, about `stdin` instead of that file.
    """
    with tempfile.TemporaryDirectory(prefix="knobs-") as folder:
        path = Path(folder, "stdin")
        most = shutil.disk_usage(folder).free // 2
        with storage.writing(path) as file:
            while block := sys.stdin.buffer.read(2**20):
                if file.tell() > most:
                    fix = "write it to a file, and name that"
                    raise DataError(f"stdin: more than {size(most)}; {fix}")
                file.write(block)
        try:
            yield path
        except UserError as error:
            raise type(error)(str(error).replace(str(path), path.name)) from None


def _check(path: Path, given: argparse.Namespace) -> None:
    """Refuse an output that cannot be, or would be read while it is written.

    Raises:
        ConfigError: saying why. DataError: no input.
    """
    out: Path | None = given.out
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    read = [path.stat(), *_stat(0)]
    written = _stat(sys.stdout) if out is None else [out.stat()] if out.exists() else []
    if any(os.path.samestat(a, b) and stat.S_ISREG(a.st_mode) for a in written for b in read):
        name = path if out is None else f"--out {out}"
        raise ConfigError(f"{name}: is the input as well; give another --out")
    if out is None:
        return
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out {out}: must end in .csv or .parquet")
    if out.suffix.lower() == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ConfigError(f"--out {out}: pip install pyarrow, or write a .csv") from None
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.parent}")
    if os.path.lexists(out) and not out.is_symlink() and not out.is_file():
        raise ConfigError(f"--out {out}: is no file; give another name")
    if os.path.lexists(out) and not given.force:
        raise ConfigError(f"--out {out}: exists; --force replaces it")


def _stat(stream: Any) -> list[os.stat_result]:
    """Return the facts of a stream's file; none where it is closed, or a test's."""
    try:
        return [os.fstat(stream if isinstance(stream, int) else stream.fileno())]
    except (OSError, ValueError, AttributeError):
        return []


def _predict(path: Path, given: argparse.Namespace, model: Model, again: bool) -> int:
    """Predict all rows; return the exit code.

    Args:
        again: whether there are faults, as a first pass has found.

    Raises:
        _LateFault: they begin behind the first block. DataError: no rows.
    """
    tally, first, with_errors = Tally(), True, again
    with _opened(given.out) as write:
        for rows, found, faults in predicted(model, file_blocks(path, model), tally):
            if faults and not with_errors:
                if not first:
                    raise _LateFault
                with_errors = True
            columns = {"row": np.asarray(rows.names), **_formatted(model, framed(found, faults))}
            if with_errors:
                said = [faults.get(i) for i in range(len(rows.names))]
                columns["error"] = np.array(said, object)
            if given.keep:
                columns |= _kept(rows, model, columns)
            write(columns, first)
            if first and not again:
                _tell_columns(rows, model)
            first = False
        if first:
            raise DataError(f"{path}: has no rows")
    for line in tally.lines(model.inputs):
        note(line)
    return SOME_ROWS if tally.faults else 0


def _formatted(model: Model, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return numbers rounded to the digits that are written, of each column."""
    lengths = digits(model.target)
    rounded = {}
    for name, values in found.items():
        if values.dtype.kind == "f":
            digit = lengths.get(name, 6)
            values = np.array([float(f"{value:.{digit}g}") for value in values.tolist()])
        rounded[name] = values
    return rounded


def _kept(rows: Rows, model: Model, taken: Mapping) -> dict[str, np.ndarray]:
    """Return the columns of the input, `NAME (input)` where an answer has the name already."""
    raw = rows.raw
    if not hasattr(raw, "columns"):
        text = model.inputs.kind == "text"
        return {model.source.text or "text": np.array(raw, object)} if text else {}
    kept: dict[str, np.ndarray] = {}
    for place, name in enumerate(map(str, raw.columns)):
        while name in taken or name in kept or name == "error":  # which would say a fault
            name += " (input)"
        kept[name] = raw.iloc[:, place].to_numpy()
    return kept


def _tell_columns(rows: Rows, model: Model) -> None:
    """Say which columns of a table play no part; those of the targets go without saying."""
    if model.inputs.kind != "table":
        return
    used = {*columns_of(model.inputs).columns, *model.target.names}
    if idle := [str(name) for name in rows.raw.columns if str(name) not in used]:
        more = f", and {len(idle) - 10} more" if len(idle) > 10 else ""
        note(f"not used: {', '.join(idle[:10])}{more}")


# ------------------------------------------------------------------ the output
Write = Callable[[Mapping[str, np.ndarray], bool], None]


@contextlib.contextmanager
def _opened(out: Path | None) -> Iterator[Write]:
    """Yield what writes a block of columns; the file is there once all of it is."""
    import pandas as pd

    if out is None:  # all of it or nothing, as in a file
        with tempfile.TemporaryFile() as file:
            yield lambda columns, first: _csv(pd.DataFrame(columns), file, first)
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()
        return
    with storage.writing(out) as file:
        if out.suffix.lower() == ".parquet":
            with contextlib.closing(_Parquet(file)) as parquet:
                yield lambda columns, first: parquet.write(pd.DataFrame(columns))
        else:
            yield lambda columns, first: _csv(pd.DataFrame(columns), file, first)


def _csv(frame: Any, file: IO[bytes], first: bool) -> None:
    texts = [name for name in frame if frame[name].dtype.kind == "O"]
    frame = frame.assign(**{name: frame[name].map(cell) for name in texts}).rename(columns=cell)
    text = frame.to_csv(index=False, header=first, lineterminator="\n")
    file.write(text.encode("utf-8", "surrogatepass"))


class _Parquet:
    """A Parquet file that grows by blocks, all of the types of the first."""

    def __init__(self, file: IO[bytes]):
        self.file, self.writer = file, None

    def write(self, frame: Any) -> None:
        """Append rows."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        if self.writer is None:
            texts = {n: pa.string() for n in frame if frame[n].dtype == object}
            fields = pa.Schema.from_pandas(frame.drop(columns=[*texts]), preserve_index=False)
            types = {field.name: field.type for field in fields} | texts
            self.schema = pa.schema([(name, types[name]) for name in frame])
            self.writer = ParquetWriter(self.file, self.schema)
        frame = frame.astype({f.name: "str" for f in self.schema if f.type == pa.string()})
        self.writer.write_table(pa.Table.from_pandas(frame, self.schema, preserve_index=False))

    def close(self) -> None:
        """End the file."""
        if self.writer is not None:
            self.writer.close()
