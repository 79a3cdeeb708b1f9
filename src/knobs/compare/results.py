"""Files of results -> arms: CSV, W&B's export of its runs table, JSON lines. Nothing is executed.

A row is a run. Cells that a spreadsheet was kept from reading as formulas lose their leading '.
"""

import csv
import io
import itertools
import json
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs import metrics, storage
from knobs.compare.arms import DIVERGED, Arm, judged, left_out
from knobs.errors import ConfigError, DataError, did_you_mean, first_line
from knobs.words import count, listed, printable

MOST_CELL = 2**17  # characters
MOST_BYTES = 2**26  # 64 MB
MOST_ROWS = 1_000_000
MOST_SEED = 2**63
SEPARATORS = ",;\t"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.I)
FORMULA = re.compile(r"'[=+\-@\t\r]")
# Columns by their usual names; the first that is there counts.
SPLIT, FOLD = ("split", "data.val_seed", "data.split_seed"), ("fold", "data.fold")
STATUS = ("status", "State")  # both count: of a run that diverged W&B says no more than failed
# Of a run that did not end, W&B's words and ours: its value is none to judge.
NOT_ENDED = (
    *("failed", "crashed", "killed", "running", "pending", "preempted", "preempting"),
    *("interrupted", "pruned", "unreadable"),
)
ENDED = ("finished", "stopped_early")
LOOKS = "gate_looks"  # of a gate's runs: the numbers of pairs at which it looks
SIZES = ("validation_examples", "training_examples")
ROWS = "validation_rows"  # hash of the rows that a run was judged on
NO_METRIC = {"arm", "seed", *SPLIT, *FOLD, *STATUS, *SIZES, ROWS, LOOKS}
NO_METRIC |= {"command", "value", "folder"}
NO_METRIC |= {"crc"}  # of a gate's lines, in a table that was made of them
MEND = "take the line out: the gate runs its run again"  # of a damaged line
Row = dict[str, Any]  # column -> text of a cell, or a JSON value


@dataclass(frozen=True)
class Columns:
    """The columns that a command line names; None for the usual ones."""

    metric: str | None = None
    arm: str | None = None
    seed: str | None = None
    split: str | None = None


# ------------------------------------------------------------------ files
def rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Return, for each row, the number of its line and the row.

    Raises:
        DataError: no file, too large, another encoding, or a line that is not as the others.
    """
    return rows_in(read_text(path), path)


def rows_in(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file's text, as `rows_of` does."""
    if not text.strip():
        raise DataError(f"{path}: empty; a CSV file with a line of names, or JSON lines")
    first = text.lstrip()[0]
    if first == "[":
        raise DataError(f"{path}: a JSON list; write JSON lines, an object a line")
    yield from _json_lines(path, text) if first == "{" else _csv(path, text)


def read_text(path: Path) -> str:
    """Read a file as UTF-8.

    Raises:
        DataError: no file, too large, or another encoding.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path}: no regular file")
        if about.st_size > MOST_BYTES:
            raise DataError(f"{path}: {about.st_size / 2**20:.0f} MB; at most 64 MB are read")
        data = storage.read(path, MOST_BYTES)
    except (OSError, ValueError) as error:  # a byte 0 in its name, a file that has grown
        if isinstance(error, DataError):
            raise
        why = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{printable(str(path), 200)}: cannot be read ({why})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a byte 0; save the file as UTF-8 text")
    return text


def _json_lines(path: Path, whole: str) -> Iterator[tuple[int, Row]]:
    """Yield the rows of JSON lines, those of a gate without the checksums that they carry."""

    def once(pairs: list[tuple[str, Any]]) -> Row:
        row = dict(pairs)
        if len(row) < len(pairs):
            raise ValueError("a name comes twice")
        return row

    for number, line in enumerate(whole.split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = storage.checked(line.rstrip("\r").encode()).decode()
        except ValueError as error:  # of a gate
            raise DataError(f"{path}, line {number}: {error}; {MEND}") from None
        try:
            row = json.loads(text, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            why = printable(str(error).partition(":")[0], 80)
            raise DataError(f"{path}, line {number}: not JSON ({why})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: no JSON object")
        yield number, row


def _csv(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    head = text.lstrip().partition("\n")[0]
    separator = max(SEPARATORS, key=head.count)
    csv.field_size_limit(MOST_CELL)  # of the process: who reads tables sets another
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names: list[str] = []
    begins = 1
    try:
        for cells in lines:
            number, begins = begins, lines.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell[1:] if FORMULA.match(cell) else cell for cell in cells]
            if not names:
                names = [cell.strip() for cell in cells]
                twice, times = Counter(names).most_common(1)[0]
                if times > 1:
                    raise DataError(f"{path}, line {number}: two columns {printable(twice, 60)!r}")
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {number}: {count(len(cells), 'cell')}, the first line has "
                    f"{len(names)}"
                )
            yield number, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}") from None


# ------------------------------------------------------------------ arms
def arms_of(rows: Iterable[tuple[int, Row]], where: str, columns: Columns) -> dict[str, Arm]:
    """Return name -> arm of the rows of a file; one named "" where it has no column of arms.

    Args:
        rows: numbers of lines, and rows.
        where: the file, for messages.

    Raises:
        DataError: a column is missing, a cell is no number, a run comes twice, metrics are mixed.
    """
    table = list(itertools.islice(rows, MOST_ROWS + 1))
    if not 0 < len(table) <= MOST_ROWS:
        raise DataError(f"{where}: {f'more than {MOST_ROWS:,} rows' if table else 'no row'}")
    names = list(dict.fromkeys(name for _, row in table for name in row))
    arm_column = _column(names, columns.arm, ("arm",), "--arm", where)
    seed = _column(names, columns.seed, ("seed",), "--seed", where, needed=True)
    # W&B exports a key of the config that is null in all runs as a column without a value.
    told = [name for name in names if any(not _empty(row.get(name)) for _, row in table)]
    split = _column(names if columns.split else told, columns.split, SPLIT, "--split", where)
    fold = _column(told, None, FOLD, "", where)
    metric, value, table = _metric(names, columns.metric, table, where)
    found: dict[str, Reading] = {}
    for number, row in table:
        place = f"{where}, line {number}"
        name = str(_cell(row, arm_column, place)).strip() if arm_column else ""
        reading = found.setdefault(name, Reading())
        if not reading.takes(row, place):
            continue
        repeat = tuple(_whole(row, c, place) if c else 0 for c in (seed, split, fold))
        reading.add(repeat, _value(row, value, place), place, name)
        reading.keep_facts(row, place, repeat)
    splits = bool(split or fold)
    return {name: reading.arm(name, metric, splits) for name, reading in found.items()}


class Reading:
    """One arm of a file, while its rows are read."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, ...], float] = {}
        self.places: dict[tuple[int, ...], str] = {}
        self.ends: dict[str, list[str]] = {}
        self.odd: set[str] = set()
        self.facts: dict[str, set] = {}
        self.hashes: dict[tuple[int, ...], str] = {}

    def takes(self, row: Row, place: str) -> bool:
        """Return whether a row's run came to its end or diverged; keep where it did neither."""
        ends = _ends(row)
        if "diverged" in map(str.lower, ends):
            return True
        for end in ends:
            if end.lower() in NOT_ENDED:
                self.ends.setdefault(end, []).append(place.rpartition(", ")[2])
                return False
        self.odd |= {end for end in ends if end.lower() not in ENDED}
        return True

    def add(self, repeat: tuple[int, ...], value: float, place: str, name: str) -> None:
        """Keep a value; a run that comes twice is an error."""
        if repeat in self.values:
            seed, split, fold = repeat
            run = f"seed {seed}, split {split}" + (f", fold {fold}" if fold else "")
            of = f" of arm {printable(name, 60)}" if name else ""
            first = self.places[repeat].rpartition(", ")[2]
            raise DataError(
                f"{place}: {run}{of} again, first in {first}; a row a run (a column of arms: --arm)"
            )
        self.values[repeat], self.places[repeat] = value, place

    def keep_facts(self, row: Row, place: str, repeat: tuple[int, ...]) -> None:
        """Keep what a row says of its arm: sizes of splits, the rows of one, a gate's looks."""
        if isinstance(rows := row.get(ROWS), str) and rows.strip():
            self.hashes[repeat] = f"rows {rows.strip()}"
        for name in SIZES:
            if str(row.get(name) or "").strip():
                self.facts.setdefault(name, set()).add(_whole(row, name, place))
        looks = row.get(LOOKS)
        if isinstance(looks, list) and all(type(n) is int and n >= 3 for n in looks):
            self.facts.setdefault(LOOKS, set()).add(tuple(sorted(looks)))

    def arm(self, name: str, metric: str, splits: bool) -> Arm:
        """Return what was read."""
        notes = left_out(self.ends)
        if self.odd:
            words = listed([printable(word, 20) for word in sorted(self.odd)])
            notes += (f"the status {words} is taken for an ended run",)
        sizes = [min(self.facts.get(size, {0})) for size in SIZES]
        looks = self.facts.get(LOOKS, {()})
        return Arm(
            name, self.values, metric, splits=splits, notes=notes, validation=sizes[0],
            training=sizes[1], hashes=self.hashes, looks=max(looks, key=len),
        )  # fmt: skip


def _column(
    names: Sequence[str], asked: str | None, usual: Sequence[str], option: str, where: str,
    needed: bool = False,
) -> str | None:  # fmt: skip
    """Return a column that is there: the one asked for, else the first of the usual names."""
    if asked is not None and asked not in names:
        raise ConfigError(f"{option} {asked}: {where} has no such column{_has(asked, names)}")
    found = asked or next((name for name in usual if name in names), None)
    if needed and found is None:
        more = f"; {option} COLUMN names another{_has(usual[0], names)}"
        raise DataError(f"{where}: no column {usual[0]}{more}")
    return found


def _has(word: str, names: Sequence[str]) -> str:
    shown = listed([printable(name, 40) for name in names], 8)
    return did_you_mean(word, names) or f"; it has {shown}"


def _metric(
    names: Sequence[str], asked: str | None, table: list[tuple[int, Row]], where: str
) -> tuple[str, str, list[tuple[int, Row]]]:
    """Return the metric, the column of its values, and the rows that have it."""
    if "metric" in names and "value" in names:  # a row is a run's value of one of several metrics
        of = {str(row.get("metric")).strip() for _, row in table}
        metric = asked or (min(of) if len(of) == 1 else None)
        if metric not in of:
            what = f"no metric {metric}" if metric else "several metrics"
            raise DataError(f"{where}: {what}; --metric with one of {listed(sorted(of), 8)}")
        return metric, "value", [(n, r) for n, r in table if str(r.get("metric")).strip() == metric]
    if asked in names:
        return asked, asked, table
    others = [name for name in names if name not in {*NO_METRIC, "metric"}]
    if "metric" in names and not (asked and _like(asked, others)):
        return asked or "metric", "metric", table
    if asked:
        raise ConfigError(f"--metric {asked}: {where} has no such column{_has(asked, names)}")
    known = [name for name in names if metrics.known(name)]
    [metric] = known if len(known) == 1 else others if len(others) == 1 else [None]
    if metric is None:
        shown = listed([printable(name, 40) for name in known or others], 8) or "none"
        raise DataError(f"{where}: which column is the metric? --metric with one of {shown}")
    return metric, metric, table


def _like(asked: str, names: Sequence[str]) -> bool:
    """Return whether a metric's name may stand for one of these columns, and not for `metric`."""
    last = metrics.plain(asked)
    return any(metrics.plain(name) == last for name in names) or bool(did_you_mean(asked, names))


# ------------------------------------------------------------------ cells
def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _cell(row: Row, column: str, place: str) -> Any:
    value = row.get(column)
    if _empty(value):
        raise DataError(f"{place}: {printable(column, 60)} is empty")
    return value


def _whole(row: Row, column: str, place: str) -> int:
    """Return a whole number: 3, "3" or, as pandas writes it, 3.0."""
    value = _cell(row, column, place)
    text = value.strip() if isinstance(value, str) else repr(value)
    exact = re.fullmatch(r"\d{1,19}", text) or re.fullmatch(r"\d{1,15}\.0+", text)
    if isinstance(value, bool) or not exact or int(text.partition(".")[0]) >= MOST_SEED:
        shown = printable(text, 40)
        raise DataError(f"{place}: {column} {shown}: must be a whole number >= 0 and < 2^63")
    return int(text.partition(".")[0])


def _ends(row: Row) -> list[str]:
    """Return what a row says of its run's end."""
    return [end for name in STATUS if (end := str(row.get(name) or "").strip())]


def _value(row: Row, column: str, place: str) -> float:
    """Return a metric's value, DIVERGED where it is not finite or the run says so."""
    if "diverged" in map(str.lower, _ends(row)):
        return DIVERGED
    value = row.get(column)
    if _empty(value):
        mend = "write nan for a run that diverged, or leave the row out"
        raise DataError(f"{place}: {printable(column, 60)} is empty; {mend}")
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        return judged(float(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return judged(value)
    shown = printable(value if isinstance(value, str) else json.dumps(value), 40)
    hint = "; a decimal point, no comma" if re.fullmatch(r"\s*-?\d+,\d+\s*", shown) else ""
    raise DataError(f"{place}: {printable(column, 60)} {shown}: no number{hint}")
