"""Runs -> the leaderboard, best first, and leaderboard.csv.

An entry is one setting of the knobs; its runs are repeats of it, which differ in nothing but
`seed`, `data.split_seed` and `data.fold`. Entries come in order:

1. those of which a run finished and none diverged, ranked by the mean over the finished ones. A
   failed or interrupted run says nothing of the setting: it lowers n and shows in the status.
2. those of which a run diverged, ranked behind, whatever the other runs reached: a setting that may
   diverge is none to choose. The smaller share of diverged runs first, then the better mean.
3. those of which no run finished or diverged, without a rank.

Equal entries share a rank. Where a sweep has several objectives, each is ranked for itself.
"""

import csv
import functools
import io
import itertools
import json
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from knobs.identity import FILES, NOT_IDENTITY, under
from knobs.record import write
from knobs.report.records import COLUMNS, UNREADABLE, Column, Entry, RunRecord, knob_value
from knobs.words import as_text, cell, short

CSV = "leaderboard.csv"
BAD = ("diverged", "failed", "interrupted", UNREADABLE)  # in the order they are named
# What repeats of one setting differ in is none of it.
REPEATS = ("seed", "data.split_seed", "data.val_seed", "data.fold")
NO_KNOBS = (*(path for path in NOT_IDENTITY if path not in FILES), *REPEATS, "test")


def leaderboard(
    runs: Sequence[RunRecord], confirmed: Collection[str] = (), repeats: Sequence[str] = ()
) -> list[Entry]:
    """Return runs of the same setting as one entry each, best first (see the top of this file).

    Args:
        confirmed: settings that rank ahead of the others: those stand on the runs that chose them.
        repeats: what repeats of one setting differ in here beside REPEATS.
    """
    names = [name for name in _differing(runs) if not under(name, repeats)]
    settings: dict[str, list[RunRecord]] = {}
    for run in runs:
        settings.setdefault(run.setting or str(run.folder), []).append(run)
    entries = [_entry(same, names, setting in confirmed) for setting, same in settings.items()]
    entries.sort(key=_order)
    keys = [_order(entry) for entry in entries]
    return [replace(entry, rank=_rank(key, keys)) for entry, key in zip(entries, keys, strict=True)]


@functools.lru_cache(4096)  # the same few paths in every run
def is_knob(path: str) -> bool:
    """Tell whether a run that differs here is of another setting."""
    return not under(path, NO_KNOBS)


def _differing(runs: Sequence[RunRecord]) -> list[str]:
    """Return the knobs that were overridden in some run and differ, in the order given."""
    readable = [run for run in runs if run.setting]
    keys = [line.lstrip("+~").partition("=")[0] for run in readable for line in run.overrides]
    every = dict.fromkeys([*keys, "objective.metric"])  # whose values cannot be compared
    names = filter(is_knob, every)
    return [name for name in names if len({json.dumps(knob_value(r, name)) for r in readable}) > 1]


def _entry(runs: list[RunRecord], names: list[str], confirmed: bool) -> Entry:
    # A repeat that comes to the same bits again is no further observation.
    finished = list({(r.repeat, r.value): r for r in runs if r.ok}.values())
    values = [run.value for run in finished]
    epoch = _mean(run.best_epoch for run in finished)
    return Entry(
        rank=None,
        metric=next((run.metric for run in runs if run.metric), ""),
        mean=_mean(values),
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        knobs={name: knob_value(runs[0], name) for name in names},
        best_epoch=None if epoch is None else round(epoch),
        seconds=_mean(run.seconds for run in finished or runs),
        status=_status(runs),
        runs=tuple(runs),
        confirmed=confirmed,
        parameters=_same(run.parameters for run in finished or runs),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """Average those that are there."""
    present = [value for value in values if value is not None]
    return statistics.mean(present) if present else None


def _same(sizes: Iterable[int | None]) -> int | None:
    """Return the one size that all have; folds of texts differ in their vocabulary."""
    found = {*sizes}
    return found.pop() if len(found) == 1 else None


def _status(runs: list[RunRecord]) -> str:
    """Return the runs' common end, or what went wrong and how often."""
    ends = Counter(run.status for run in runs)
    wrong = [status for status in BAD if ends[status]]
    if not wrong:
        return runs[0].status if len(ends) == 1 else "finished"
    if len(runs) == 1:
        return wrong[0]
    return ", ".join(f"{status} {ends[status]} of {len(runs)}" for status in wrong)


def _order(entry: Entry) -> tuple:
    """Return the sort key; entries that agree in its first three are ranked together."""
    diverged = sum(run.status == "diverged" for run in entry.runs) / len(entry.runs)
    mode = next((run.mode for run in entry.runs if run.metric), "max")
    unknown = entry.mean is None
    score = 0.0 if unknown else entry.mean if mode == "min" else -entry.mean
    unconfirmed = not entry.confirmed
    return unknown and not diverged, entry.metric, mode, diverged, unconfirmed, unknown, score


def _rank(key: tuple, keys: list[tuple]) -> int | None:
    """Return 1 more than there are better entries with the same objective."""
    unranked, *_ = key
    return None if unranked else 1 + bisect_left(keys, key) - bisect_left(keys, key[:3])


def metric_of(entries: Sequence[Entry]) -> str:
    """Return the objective's column: its metric, if there is one only."""
    metrics = {entry.metric for entry in entries if entry.metric}
    return metrics.pop() if len(metrics) == 1 else "objective"


def _row(columns: Sequence[Column], knobs: Sequence[Any], cell: Callable[[Column], Any]) -> tuple:
    """Return a cell a column, and one for each knob in the place of the knobs."""
    groups = (knobs if column.name == "knobs" else [cell(column)] for column in columns)
    return tuple(itertools.chain.from_iterable(groups))


def table(
    entries: Sequence[Entry], name: Callable[[str], str], together: bool = False
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return the heads of a table of the leaderboard, and a row of texts for each entry.

    Args:
        name: a knob -> its column's head.
        together: whether all knobs share one column, as `lr=0.1 width=64`.
    """
    if not entries:
        return (), ()
    finished = all(entry.status == "finished" for entry in entries)
    shown = [c for c in COLUMNS if c.head and not (finished and c.name == "status")]
    metric = metric_of(entries)
    names = list(map(name, entries[0].knobs))
    knobs = [list(map(short, entry.knobs.values())) for entry in entries]
    if together:
        knobs = [[" ".join(map("=".join, zip(names, one, strict=True)))] for one in knobs]
        names = ["knobs"]
    heads = _row(shown, names, lambda c: metric if c.name == "mean" else c.head)
    return heads, tuple(
        _row(shown, cells, lambda c, e=entry: c.text(e))
        for entry, cells in zip(entries, knobs, strict=True)
    )


def as_csv(entries: Sequence[Entry]) -> str:
    """Return all entries, numbers in full. A knob that an entry lacks is empty, None is null."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    columns, metric = [column for column in COLUMNS if column.in_csv], metric_of(entries)
    names = list(entries[0].knobs) if entries else []
    rows.writerow(map(cell, _row(columns, names, lambda c: metric if c.name == "mean" else c.name)))
    for e in entries:
        knobs = list(map(as_text, e.knobs.values()))
        rows.writerow(map(cell, _row(columns, knobs, lambda c, e=e: getattr(e, c.name))))
    return text.getvalue().encode(errors="replace").decode()  # JSON may hold half a character


def write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """Write leaderboard.csv."""
    write(path, as_csv(entries).encode())
