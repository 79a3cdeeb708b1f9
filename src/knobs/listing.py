"""`knobs ls`: one table of all runs below a folder, from their config.json and summary.json."""

import argparse
import csv
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from knobs import metrics, record
from knobs.errors import ConfigError, did_you_mean
from knobs.identity import leaves
from knobs.report.next_steps import overrides
from knobs.report.read import read_run
from knobs.report.records import RunRecord, finite
from knobs.words import as_text, cell, count, duration, number, printable, short_names

NEWEST = 40  # that a terminal shows
MOST_FAULTS = 5  # damaged runs that are named
LEAST_ROOM = 24  # characters for what differs; columns give way to it, the first of these first
GIVE_WAY = ("date", "epochs", "seconds", "parameters")
FILTER = re.compile(r"\s*([\w./-]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
STYLES = {"failed": "red", "diverged": "red", "unreadable": "red", "running": "green"}


@dataclass(frozen=True)
class Line:
    """One run.

    Args:
        run: its folder, below the one that is listed.
        sweep: the folder of its sweep; empty for a run by itself.
        status: one of record.STATUSES, running or unreadable.
        value: of the objective `metric`; None where there is none.
        parameters: where its summary has them.
        overrides: what made it, without where it is kept.
        date: when it began, or went on: the time of its config.json.
    """

    run: str
    sweep: str
    status: str
    metric: str
    mode: str
    value: float | None
    epochs: int | None
    seconds: float | None
    parameters: int | None
    overrides: tuple[str, ...]
    date: str


COLUMNS = tuple(Line.__annotations__)


# ------------------------------------------------------------------ read
def read(root: Path) -> list[tuple[Line, RunRecord]]:
    """Return the runs at and below a folder; links are not followed.

    Raises:
        ConfigError: there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; knobs ls FOLDER lists the runs below one")
    runs = ((folder, read_run(folder)) for folder in folders(root))
    return [(_line(root, folder, run), run) for folder, run in runs]


def folders(root: Path) -> Iterator[Path]:
    """Yield the folders of runs at and below a folder, those that are links left out."""
    for here, names, files in os.walk(root):
        names.sort(key=lambda name: (int(name) if name.isdecimal() else -1, name))
        if record.CONFIG in files:
            names.clear()  # a run holds no runs
            yield Path(here)
        elif record.ENSEMBLE in files:
            names.clear()  # copies of runs


def _line(root: Path, folder: Path, run: RunRecord) -> Line:
    sweep = folder.parent if folder.name.isdecimal() else None
    status = run.status
    if status == "interrupted" and not (folder / record.SUMMARY).exists() and under_way(folder):
        status = "running"
    epochs, parameters = (finite(run.summary.get(key)) for key in ("epochs", "parameters"))
    try:
        began = (folder / record.CONFIG).lstat().st_mtime
    except OSError:  # removed meanwhile
        began = 0
    return Line(
        run=os.path.relpath(folder, root),
        sweep=os.path.relpath(sweep, root) if sweep else "",
        status=status,
        metric=run.metric,
        mode=run.mode,
        value=run.value,
        epochs=None if epochs is None else int(epochs),
        seconds=run.seconds,
        parameters=None if parameters is None else int(parameters),
        overrides=tuple(overrides(run, drop=())),
        date=datetime.fromtimestamp(began).strftime("%Y-%m-%d %H:%M:%S"),
    )


def under_way(folder: Path) -> bool:
    """Return whether a process holds a run's lock; nothing is written to find out."""
    return held(folder / record.LOCK)


def held(path: Path) -> bool:
    """Return whether a process holds a lock file, and leave the file as it is."""
    from filelock import lock_descriptor, unlock_descriptor

    try:
        if path.is_symlink():
            return False
        with path.open("rb") as file:
            if not lock_descriptor(file.fileno(), blocking=False):
                return True
            unlock_descriptor(file.fileno())
    except OSError:
        pass  # no such file
    return False


# ------------------------------------------------------------------ choose
def value_of(line: Line, run: RunRecord, key: str) -> Any:
    """Return what a run has under a key: a column, a metric, a group's option, a key of its config.

    None where it has none.
    """
    if key in COLUMNS:
        return getattr(line, key)
    if key == "objective" or (key == line.metric and line.value is not None):
        return line.value
    if run.choices.get(key) is not None:
        return run.choices[key]
    measured: dict[str, Any] = {}
    for name in ("metrics", "test"):
        node = run.summary.get(name)
        measured |= node if isinstance(node, dict) else {}
    if key in measured:
        return measured[key]
    return {path: "null" if v is None else v for path, v in leaves(run.config)}.get(key)


def chosen(runs: list[tuple[Line, RunRecord]], filters: Iterable[str]) -> list:
    """Return the runs that all filters accept; one that has not the key is left out.

    Args:
        filters: `key=value`, with one of = != < <= > >=; numbers are compared as numbers.

    Raises:
        ConfigError: a filter that is none, or a key that no run has.
    """
    for text in filters:
        match = FILTER.fullmatch(text)
        if not match:
            raise ConfigError(
                f"--filter {text}: no filter; write KEY=VALUE, or != < <= > >= in place of ="
            )
        key, sign, wanted = match.groups()
        _known(runs, key, f"--filter {text}")
        runs = [(line, run) for line, run in runs if _fits(value_of(line, run, key), sign, wanted)]
    return runs


def _known(runs: list[tuple[Line, RunRecord]], key: str, asked: str) -> None:
    """Refuse a key that no run has: it would leave none, or sort nothing, without a word."""
    if key in COLUMNS or not runs or any(value_of(*pair, key) is not None for pair in runs):
        return
    names = {*COLUMNS, *(line.metric for line, _ in runs)}
    for _, run in runs[:100]:
        names |= {*run.choices, *(path for path, _ in leaves(run.config))}
    raise ConfigError(f"{asked}: no run has {key}{did_you_mean(key, sorted(names))}")


def _fits(value: Any, sign: str, wanted: str) -> bool:
    if value is None:
        return False
    try:
        left, right = (float(v) for v in (value, wanted) if not isinstance(v, bool))
    except (TypeError, ValueError):
        left, right = as_text(value), wanted.strip("'\"")
    return COMPARE[sign](left, right)


def ordered(runs: list[tuple[Line, RunRecord]], key: str, backwards: bool = False) -> list:
    """Return runs in the order of a key: metrics best first, dates newest first, else ascending.

    Runs without it come last.

    Raises:
        ConfigError: no run has the key.
    """
    _known(runs, key, f"--sort {key}")
    has = [(value, pair) for pair in runs if (value := value_of(*pair, key)) not in (None, "")]
    lacks = [pair for pair in runs if value_of(*pair, key) in (None, "")]
    modes = {line.mode for line, _ in runs if key in (line.metric, "objective", "value")}
    known = metrics.METRICS.get(key.rpartition("/")[2]) if "/" in key else None
    down = key == "date" or (known.mode if known else min(modes, default="min")) == "max"
    numeric = all(finite(value) is not None for value, _ in has)

    def rank(item: tuple) -> Any:
        if numeric:
            return float(item[0])
        parts = re.split(r"(\d+)", as_text(item[0]))  # run 10 comes after run 9
        return [int(part) if i % 2 else part for i, part in enumerate(parts)]

    return [pair for _, pair in sorted(has, key=rank, reverse=down != backwards)] + lacks


def best(runs: list[tuple[Line, RunRecord]]) -> list[tuple[Line, RunRecord]]:
    """Return the best run of each sweep and objective; runs by themselves are left out."""
    found: dict[tuple[str, str], tuple[Line, RunRecord]] = {}
    for line, run in runs:
        if not line.sweep or line.value is None or not math.isfinite(line.value) or not run.ok:
            continue
        place, sign = (line.sweep, line.metric), 1 if line.mode == "max" else -1
        if place not in found or sign * line.value > sign * found[place][0].value:
            found[place] = line, run
    return list(found.values())


# ------------------------------------------------------------------ show
def as_csv(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the lines of a CSV file, for spreadsheets too: no cell begins a formula."""

    class Echo:
        write = staticmethod(str)

    rows = csv.writer(Echo, lineterminator="\n")
    yield rows.writerow(COLUMNS)
    for line in lines:
        cells = asdict(line) | {"overrides": " ".join(line.overrides)}
        yield rows.writerow([cell(value) for value in cells.values()])


def table(lines: Sequence[Line], width: int | None) -> tuple[list[list[str]], list[str]]:
    """Return rows of cells, heads first, and the columns for which there was no room.

    Args:
        width: of the screen; None where everything is shown whole.
    """
    several = {line.metric for line in lines if line.metric}
    objective = several.pop() if len(several) == 1 else "objective"
    shared = set.intersection(*(set(line.overrides) for line in lines)) if len(lines) > 1 else set()
    keys = dict.fromkeys(o.partition("=")[0] for line in lines for o in line.overrides)
    short = short_names(list(keys))

    def cells(line: Line) -> dict[str, str]:
        value = "" if line.value is None else number(line.value, 4)
        own = [o.partition("=") for o in line.overrides if o not in shared]
        return {
            "run": line.run,
            "status": line.status.replace("_", " "),
            objective: value if objective != "objective" else f"{line.metric} {value}".strip(),
            "epochs": "" if line.epochs is None else str(line.epochs),
            "seconds": "" if line.seconds is None else duration(line.seconds),
            "parameters": "" if line.parameters is None else f"{line.parameters:,}",
            "date": line.date[:16],
            "what differs": " ".join(f"{short[key]}{eq}{value}" for key, eq, value in own),
        }

    rows = [{head: printable(cell) for head, cell in cells(line).items()} for line in lines]
    names = [name for name in rows[0] if name in ("run", "status") or any(r[name] for r in rows)]
    wide = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    gone = []
    last = names[-1] if names[-1] == "what differs" else ""

    def room() -> int:
        return (width or 0) - sum(wide[n] + 2 for n in names if n != last)

    needed = min(LEAST_ROOM, wide.get(last, 0))
    for name in GIVE_WAY:
        if width and name in names and room() < needed:
            names.remove(name)
            gone.append(name)
    if width and room() < needed:  # the end of a run's name tells most
        wide["run"] = max(12, wide["run"] + room() - needed)
    if width and last:
        wide[last] = max(needed, min(wide[last], room()))
    right = {objective, "epochs", "seconds", "parameters"} - {"objective"}
    shown = [{name: printable(name) for name in names}, *rows]
    return [
        [_fitted(row[n], wide[n], left=n == "run", right=n in right) for n in names]
        for row in shown
    ], gone


def _fitted(text: str, width: int, left: bool, right: bool) -> str:
    """Pad a cell, or cut it: at its beginning where its end tells more."""
    if len(text) > width:
        text = f"…{text[len(text) - width + 1 :]}" if left else f"{text[: width - 1]}…"
    return text.rjust(width) if right else text.ljust(width)


def show(lines: Sequence[Line], total: int, limited: bool) -> None:
    """Print the table, and how many runs it leaves out."""
    from rich.console import Console
    from rich.text import Text

    out = Console(highlight=False, markup=False)
    whole = not out.is_terminal and "COLUMNS" not in os.environ
    rows, gone = table(lines, None if whole else out.width)
    for i, row in enumerate(rows):
        style = STYLES.get(lines[i - 1].status, "") if i else "bold"
        out.print(Text("  ".join(row).rstrip(), style=style), soft_wrap=True)
    if limited:
        out.print(f"{len(lines)} of {count(total, 'run')}; --all shows the others")
    if gone:
        out.print(f"no room for {', '.join(gone)}: a wider terminal, --csv or --json has them")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `knobs ls`; return the exit code.

    Raises:
        ConfigError: no such folder, filter or key.
    """
    parser = argparse.ArgumentParser(prog="knobs ls", description=__doc__.partition("`: ")[2])
    folder = "holds runs (default: outputs)"
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help=folder)
    order = "metrics best first, date newest first (the default), else ascending"
    parser.add_argument("--sort", metavar="KEY", default="date", help=order)
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    asked = "optimizer=adam 'val/accuracy>0.95' status=failed; or != < <= >="
    parser.add_argument("--filter", nargs="+", action="extend", default=[], help=asked)
    parser.add_argument("--best", action="store_true", help="the best run of each sweep")
    how_many = parser.add_mutually_exclusive_group()
    newest = f"at most so many; a terminal shows {NEWEST}"
    how_many.add_argument("--limit", type=_positive, metavar="N", help=newest)
    how_many.add_argument("--all", action="store_true", help="all of them, as in a pipe")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--csv", action="store_true", help="for spreadsheets")
    given = parser.parse_args(arguments)
    runs = chosen(read(given.folder), given.filter)
    runs = best(runs) if given.best else runs
    runs = ordered(runs, given.sort, given.reverse)
    lines = [line for line, _ in runs]
    plain = given.json or given.csv
    few = NEWEST if sys.stdout.isatty() and not (given.all or plain) else None
    kept = lines[: given.limit or few]
    if given.json:
        print(json.dumps([asdict(line) for line in kept], indent=1))
    elif given.csv:
        sys.stdout.writelines(as_csv(kept))
    elif kept:
        show(kept, len(lines), len(kept) < len(lines))
    else:
        print(f"no runs below {given.folder}" + " that the filters accept" * bool(given.filter))
    faults = [f"{line.run}/{run.fault}" for line, run in runs[: given.limit or few] if run.fault]
    for fault in faults[:MOST_FAULTS]:
        print(f"knobs: {printable(fault)}", file=sys.stderr)
    if len(faults) > MOST_FAULTS:
        print(f"knobs: {count(len(faults), 'run')} damaged in all", file=sys.stderr)
    return 0


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= 1")
    return int(text)
