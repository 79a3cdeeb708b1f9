"""The runs of a sweep as one table, best first, in the terminal and as CSV.

An entry is one setting of the knobs; its runs differ in nothing but `seed`. Entries come in order:

1. those of which a run finished and none diverged, ranked by the mean over the finished ones. A
   failed or interrupted run says nothing of the setting: it lowers n and shows in the status.
2. those of which a run diverged, ranked behind, whatever the other runs reached: a setting that may
   diverge is none to choose. The smaller share of diverged runs first, then the better mean.
3. those of which no run finished or diverged, without a rank.

Equal entries share a rank. Where a sweep has several objectives, each is ranked for itself.
"""

import contextlib
import csv
import functools
import io
import json
import os
import stat
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs.identity import FILES, NOT_IDENTITY, leaves, under
from knobs.record import CONFIG, STATUSES, SUMMARY, read_config, read_summary, write_whole

CSV = "leaderboard.csv"
UNREADABLE = "unreadable"
GOOD = ("finished", "stopped_early")
BAD = ("diverged", "failed", "interrupted", UNREADABLE)  # in the order they are told
NO_KNOBS = (*(path for path in NOT_IDENTITY if path not in FILES), "seed", "test")
ABSENT = ""  # the value of a knob that a run's config does not have
MAX_BYTES = 2**22  # a thousand times what a run writes; larger files are no run's
HUGE = 1e300  # beyond it a variance overflows
BROKEN = (OSError, ValueError, RecursionError)  # what reading a file of unknown content raises
TABLE = ("rank", "epoch", "sec", "status")  # beside the objective and the knobs


@dataclass(frozen=True)
class RunRow:
    """One run, as its folder tells it.

    Args:
        folder: the run's own.
        status: one of record.STATUSES, or unreadable.
        setting: what the run computes, its seed aside; empty where config.json is broken.
        choices: group -> option.
        metric: of the objective; empty without a summary.
        value: the objective's best; None where there is no finite one.
        summary: summary.json as it is.
    """

    folder: Path
    status: str = UNREADABLE
    setting: str = ""
    overrides: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    mode: str = "max"
    value: float | None = None
    best_epoch: float | None = None
    seconds: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard.

    Args:
        rank: 1 is the best; None where no run finished or diverged.
        mean: of the objective over the runs that finished, None if none did; so best_epoch.
        sd: sample standard deviation; None below two runs.
        n: how many runs are behind the mean.
        knobs: what differs within the sweep -> this entry's value, the same keys in every entry.
        seconds: mean over the runs that finished, or over all if none did.
        runs: all of the entry's.
        confirmed: whether they are fresh runs, of seeds that had no part in choosing the setting.
    """

    rank: int | None
    metric: str
    mean: float | None
    sd: float | None
    n: int
    knobs: dict[str, Any]
    best_epoch: int | None
    seconds: float | None
    status: str
    runs: tuple[RunRow, ...]
    confirmed: bool = False


# ------------------------------------------------------------------ folders -> runs
def read_runs(folder: Path) -> list[RunRow]:
    """The runs directly below a sweep's folder, in the order of their numbers.

    A run without summary.json is interrupted; one whose files are not what a run writes is
    unreadable. Passed over: names that are no numbers, links, folders without config.json.

    Raises:
        OSError: there is no such folder.
    """
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
    numbers = [name for name in names if name.isascii() and name.isdecimal()]
    numbers.sort(key=lambda name: (int(name), name))
    runs = (folder / name for name in numbers)
    return [_read_run(run) for run in runs if os.path.lexists(run / CONFIG)]


def _read_run(folder: Path) -> RunRow:
    """As much of a run as can be read."""
    row = RunRow(folder)
    with contextlib.suppress(*BROKEN):
        row = replace(row, **_what_ran(folder))
        row = replace(row, **_how_it_went(folder))
    return row


def _what_ran(folder: Path) -> dict[str, Any]:
    """The part of a RunRow that config.json tells."""
    about = load(folder / CONFIG, read_config)
    config = _get(about, "config", dict)
    kept = {path: value for path, value in leaves(config) if _counts(path)}
    return {
        "setting": json.dumps(kept, sort_keys=True),
        "overrides": tuple(map(str, _get(about, "overrides", list))),
        "choices": _get(about, "choices", dict),
        "config": config,
    }


@functools.lru_cache(4096)  # the same few paths in every run
def _counts(path: str) -> bool:
    """Whether a run that differs here is of another setting."""
    return not under(path, NO_KNOBS)


def _how_it_went(folder: Path) -> dict[str, Any]:
    """The part of a RunRow that summary.json tells."""
    if not os.path.lexists(folder / SUMMARY):
        return {"status": "interrupted"}
    summary = load(folder / SUMMARY, read_summary)
    objective, status = _get(summary, "objective", dict), _get(summary, "status", str)
    metric, mode = _get(objective, "metric", str), _get(objective, "mode", str)
    if status not in STATUSES or mode not in ("min", "max"):
        raise ValueError(f"{status} {mode}")
    value = finite(objective.get("value"))
    return {
        "status": "diverged" if status in GOOD and value is None else status,
        "metric": metric,
        "mode": mode,
        "value": value,
        "best_epoch": finite(summary.get("best_epoch")),
        "seconds": finite(summary.get("seconds")),
        "summary": summary,
    }


def load(path: Path, reader: Callable[[Path], Any]) -> Any:
    """What the reader finds, unless the file is a link, a pipe or huge."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MAX_BYTES:
        raise ValueError(f"{path}: not a file that a run writes")
    return reader(path.parent)


def _get(node: Any, name: str, kind: type) -> Any:
    """An entry of a JSON object, if it is of the kind expected."""
    value = node.get(name) if isinstance(node, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: no {kind.__name__}")
    return value


def finite(value: Any) -> float | None:
    """A number that can be averaged; None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < HUGE else None


# ------------------------------------------------------------------ runs -> entries
def leaderboard(runs: list[RunRow], confirmed: Collection[str] = ()) -> list[Entry]:
    """Runs of the same setting as one entry each, best first (see the top of this file).

    Args:
        confirmed: settings that rank ahead of the others: those stand on the runs that chose them.
    """
    knobs = differing(runs)
    settings: dict[str, list[RunRow]] = {}
    for run in runs:
        settings.setdefault(run.setting or str(run.folder), []).append(run)
    made = [
        replace(_entry(same, knobs), confirmed=name in confirmed) for name, same in settings.items()
    ]
    entries = sorted(made, key=_order)
    keys = [_order(entry) for entry in entries]
    return [replace(entry, rank=_rank(key, keys)) for entry, key in zip(entries, keys, strict=True)]


def differing(runs: list[RunRow]) -> list[str]:
    """Knobs that were overridden in some run and differ between runs, in the order given."""
    readable = [run for run in runs if run.setting]
    keys = [
        override.lstrip("+~").partition("=")[0] for run in readable for override in run.overrides
    ]
    names = dict.fromkeys([*keys, "objective.metric"])  # whose values cannot be compared
    return [
        name
        for name in names
        if _counts(name) and len({json.dumps(knob_value(run, name)) for run in readable}) > 1
    ]


def knob_value(run: RunRow, name: str) -> Any:
    """A knob's value: the option of a group, or what the resolved config has there."""
    if name in run.choices:
        return run.choices[name]
    node: Any = run.config
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _entry(runs: list[RunRow], knobs: list[str]) -> Entry:
    """One setting's runs, not yet ranked."""
    finished = _distinct(run for run in runs if run.status in GOOD)
    values = [run.value for run in finished]
    epoch = _mean(run.best_epoch for run in finished)
    return Entry(
        rank=None,
        metric=next((run.metric for run in runs if run.metric), ""),
        mean=_mean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        knobs={name: knob_value(runs[0], name) for name in knobs},
        best_epoch=None if epoch is None else round(epoch),
        seconds=_mean(run.seconds for run in finished or runs),
        status=_status(runs),
        runs=tuple(runs),
    )


def _distinct(runs: Iterable[RunRow]) -> list[RunRow]:
    """Without repeats: a seed that comes to the same bits again is no further observation."""
    return list({(json.dumps(run.config.get("seed")), run.value): run for run in runs}.values())


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _status(runs: list[RunRow]) -> str:
    """The runs' common end, or what went wrong and how often."""
    ends = Counter(run.status for run in runs)
    wrong = [status for status in BAD if ends[status]]
    if not wrong:
        return runs[0].status if len(ends) == 1 else "finished"
    if len(runs) == 1:
        return wrong[0]
    return ", ".join(f"{status} {ends[status]} of {len(runs)}" for status in wrong)


def _order(entry: Entry) -> tuple:
    """What entries are sorted by; the first three tell which of them are ranked together."""
    diverged = sum(run.status == "diverged" for run in entry.runs) / len(entry.runs)
    mode = next((run.mode for run in entry.runs if run.metric), "max")
    unknown = entry.mean is None
    score = 0.0 if unknown else entry.mean if mode == "min" else -entry.mean
    unconfirmed = not entry.confirmed
    return unknown and not diverged, entry.metric, mode, diverged, unconfirmed, unknown, score


def _rank(key: tuple, keys: list[tuple]) -> int | None:
    """1 more than there are better entries with the same objective."""
    unranked, *_ = key
    return None if unranked else 1 + bisect_left(keys, key) - bisect_left(keys, key[:3])


# ------------------------------------------------------------------ entries -> CSV, terminal
def write_csv(path: Path, entries: list[Entry]) -> None:
    """All entries, numbers in full. A knob that an entry does not have is empty, None is null."""
    names = _knob_names(entries)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", _metric(entries), "sd", "n", *names, "best_epoch", "seconds", "status"])
    for e in entries:
        knobs = [as_text(value) for value in e.knobs.values()]
        rows.writerow([e.rank, e.mean, e.sd, e.n, *knobs, e.best_epoch, e.seconds, e.status])
    whole = text.getvalue().encode(errors="replace").decode()  # JSON may hold half a character
    write_whole(path, whole)


def show(console: Console, entries: list[Entry], limit: int = 20, path: Path | None = None) -> None:
    """The best entries for a person.

    Args:
        limit: how many at most.
        path: where the rest is, as `write_csv` wrote it.
    """
    if not entries:
        return console.print("no runs")
    shown, names = entries[:limit], short_names(_knob_names(entries))
    table = _table(shown, _metric(entries), names)
    endless = console.options.update(max_width=10_000)
    if console.measure(table, options=endless).minimum > console.width:
        table = _table(shown, _metric(entries), names, shared=True)
    console.print(table, soft_wrap=False)
    if len(entries) > limit:
        where = f": {path}" if path else ""
        console.print(_printable(f"and {len(entries) - limit} more{where}"), soft_wrap=True)


def _table(entries: list[Entry], metric: str, names: list[str], shared: bool = False) -> Table:
    """A column a knob, or if `shared` one for all of them, which can be as narrow as it must."""
    told = [] if all(entry.status == "finished" for entry in entries) else ["status"]
    heads = ["rank", metric, *(["knobs"] if shared else names), "epoch", "sec", *told]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(
            _printable(head),
            justify="right" if head in TABLE[:3] else "left",
            no_wrap=head not in ("knobs", "status"),
            overflow="fold",
        )
    for entry in entries:
        knobs = [short(value) for value in entry.knobs.values()]
        if shared:
            knobs = [" ".join(f"{name}={knob}" for name, knob in zip(names, knobs, strict=True))]
        rank = "-" if entry.rank is None else str(entry.rank)
        epoch = "" if entry.best_epoch is None else str(entry.best_epoch)
        seconds = "" if entry.seconds is None else _seconds(entry.seconds)
        cells = [rank, _objective(entry), *knobs, epoch, seconds, entry.status][: len(heads)]
        style = "red" if "diverged" in entry.status else "dim" if entry.rank is None else ""
        table.add_row(*map(_printable, cells), style=style)
    return table


def _objective(entry: Entry) -> str:
    """`0.9722 ± 0.0012 (3)`: mean, sample standard deviation and number of runs."""
    if entry.mean is None:
        return ""
    mean = _decimal(entry.mean, 1e-2)
    return mean if entry.sd is None else f"{mean} ± {_decimal(entry.sd, 1e-4)} ({entry.n})"


def _decimal(value: float, least: float) -> str:
    """Four decimals, so that a column is even, unless they say too little or too much."""
    return f"{value:.4f}" if value == 0 or least <= abs(value) < 1e4 else f"{value:.4g}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def short(value: Any) -> str:
    """A knob's value in few characters."""
    return f"{value:g}" if isinstance(value, float) else as_text(value)


def as_text(value: Any) -> str:
    """A knob's value as the command line takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace('"', "")


def _printable(text: str) -> Text:
    """Text that says nothing to a terminal but itself."""
    return Text("".join(c if c.isprintable() else "?" for c in text))


def _metric(entries: list[Entry]) -> str:
    """The objective's column: its metric, if there is one only."""
    metrics = {entry.metric for entry in entries if entry.metric}
    return metrics.pop() if len(metrics) == 1 else "objective"


def _knob_names(entries: list[Entry]) -> list[str]:
    return list(entries[0].knobs) if entries else []


def short_names(names: list[str]) -> list[str]:
    """Each name's last parts, as many as tell it from the others: optimizer.lr is lr."""
    tails = {
        name: [name.split(".", i)[-1] for i in range(name.count("."), -1, -1)] for name in names
    }
    seen = Counter(tail for found in tails.values() for tail in found) + Counter(TABLE)
    return [next((t for t in found if seen[t] == 1), name) for name, found in tails.items()]
