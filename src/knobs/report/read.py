"""Folders of runs -> one plain Sweep. All that a report knows of the disk is here.

Folders may be half-written, foreign or hostile: what cannot be read is left out and counted, links
are not followed, files larger than a run writes are not opened, and nothing in them is executed.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import re
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from knobs import record
from knobs.errors import ConfigError, first_line
from knobs.identity import leaves
from knobs.report.files import BROKEN, load, of
from knobs.report.leaderboard import is_knob, leaderboard
from knobs.report.records import (
    ABSENT,
    EXPLORED,
    FRESH,
    GOOD,
    MOST_CHOICES,
    ROLES,
    Entry,
    Knob,
    Objective,
    RunRecord,
    Stop,
    Study,
    Sweep,
    finite,
    knob_value,
)
from knobs.report.stats import LEAST_PAIRS
from knobs.words import short

MOST_ROWS = 100_000  # of a curve
MOST_LOOKED_AT = 5_000  # summaries that are read to count looks at test
DEEP = 5  # folders below the output root: sweeps/NAME/0, runs/DATE/TIME
MOST_PAIRS = 1000  # at a look that a record may ask for
NUMBER = re.compile("[0-9]{1,9}")  # of a run


def read_sweep(folders: Sequence[Path]) -> Sweep:
    """Read sweeps' folders as one sweep.

    Raises:
        ConfigError: a folder is not there, or none of them holds a run.
    """
    folders = list({os.path.realpath(folder): folder for folder in folders}.values())
    labels = _labels(folders)
    runs: list[RunRecord] = []
    studies: list[Study] = []
    faults: list[str] = []
    for folder, label in zip(folders, labels, strict=True):
        study, places, fault = _read_study(folder)
        faults += [fault] if fault else []
        studies += [study] if study else []
        try:
            for run in read_runs(folder):
                place = places.get(run.id if run.number is None else str(run.number), {})
                name = f"{label}/{run.id}" if len(folders) > 1 else run.id
                own = {"id": name, "setting": _but_for(run.setting, _repeated(study))}
                runs.append(replace(run, **place | own))
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be read ({error.strerror})") from None
    if not runs:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: no runs in it; a sweep's folder holds its runs as "
            f"0/, 1/, ..., each with a {record.CONFIG}"
        )
    ends = Counter((run.metric, run.mode) for run in runs if run.metric)
    objective = Objective(*ends.most_common(1)[0][0]) if ends else Objective()
    comparable = tuple(
        run for run in runs if run.metric in ("", objective.metric) and not is_refit(run.summary)
    )
    arms = {name: space for study in reversed(studies) for name, space in study.arms.items()}
    study = replace(studies[0], arms=arms) if studies else None
    entries, others = tuple(_entries(comparable, study)), len(runs) - len(comparable)
    space = _union(arms.values()) or tuple(_spaces(comparable, entries[0].knobs if entries else ()))
    name = ", ".join(labels)
    hashes = {text for run in runs for text in (run.data_hash, run.test_rows)} - {""}
    looks, told = test_looks(folders[0], hashes), tuple(faults)
    return Sweep(
        tuple(folders), name, objective, comparable, entries, study, space, others, looks, told
    )


def test_looks(folder: Path, hashes: Collection[str]) -> int:
    """Count the runs below the output root of a sweep that evaluated the same test rows.

    A run with another validation split, other columns or another preparation has read them too.
    Older records tell the same data alone. The root is the nearest folder above named outputs, else
    the folder that holds the sweep. At most MOST_LOOKED_AT summaries are read; links are not
    followed.

    Args:
        hashes: of test rows, and of data with their splits.
    """
    whole = Path(os.path.abspath(folder))
    root = next((path for path in whole.parents if path.name == "outputs"), whole.parent)
    looks = 0
    for summary in itertools.islice(_summaries(root, DEEP), MOST_LOOKED_AT if hashes else 0):
        with contextlib.suppress(*BROKEN):
            if of(load(summary, record.read_summary), "test", dict):
                about = of(load(summary.with_name(record.CONFIG), record.read_config), "data", dict)
                rows = of(of(about, "rows_hash", dict), "test", str)
                looks += bool({rows, of(about, "hash", str)} & hashes)
    return looks


def _summaries(folder: Path, deep: int) -> Iterator[Path]:
    """Yield the summaries of runs below a folder; a run's folder is not searched further."""
    with contextlib.suppress(OSError), os.scandir(folder) as items:
        entries = sorted(items, key=lambda item: item.name, reverse=True)  # the newest first
        if any(item.name == record.CONFIG for item in entries):
            if any(item.name == record.SUMMARY for item in entries):
                yield folder / record.SUMMARY
            return
        for item in entries:
            if deep and item.is_dir(follow_symlinks=False):
                yield from _summaries(folder / item.name, deep - 1)


def _repeated(study: Study | None) -> tuple[str, ...]:
    """Return what runs of one setting of a study may differ in: its last ones may be on folds."""
    return ("data.folds",) if study and "data.folds" not in study.scientific else ()


def _but_for(setting: str, names: Collection[str]) -> str:
    """Return a setting without these knobs."""
    if not setting or not names:
        return setting
    rest = {name: v for name, v in json.loads(setting).items() if name not in names}
    return json.dumps(rest, sort_keys=True)


def _entries(runs: Sequence[RunRecord], study: Study | None) -> list[Entry]:
    """Return the leaderboard, where a confirmed setting stands on its fresh runs alone."""
    fresh = {run.setting for run in runs if run.role in FRESH and (run.ok or run.broke)}
    runs = [r for r in runs if r.role != "test" and not (r.role in EXPLORED and r.setting in fresh)]
    return leaderboard(runs, fresh, _repeated(study))


def _labels(folders: Sequence[Path]) -> list[str]:
    """Return each folder's last parts, as many as tell it from the others."""
    whole = [Path(os.path.abspath(folder)) for folder in folders]
    parts = 1
    while len({path.parts[-parts:] for path in whole}) < len({*whole}):
        parts += 1
    return ["/".join(path.parts[-parts:]) for path in whole]


# ------------------------------------------------------------------ runs
def read_runs(folder: Path) -> list[RunRecord]:
    """Return the runs directly below a sweep's folder, in the order of their numbers.

    A run without summary.json is interrupted; one whose files are not what a run writes is
    unreadable. Passed over: names that are no numbers, links, folders without config.json.

    Raises:
        OSError: there is no such folder.
    """
    with os.scandir(folder) as items:
        names = [item.name for item in items if item.is_dir(follow_symlinks=False)]
    numbers = (name for name in names if name.isascii() and name.isdecimal())
    runs = (folder / name for name in sorted(numbers, key=lambda name: (int(name), name)))
    return [read_run(run) for run in runs if os.path.lexists(run / record.CONFIG)]


def read_run(folder: Path) -> RunRecord:
    """Return the run of a folder, unreadable where its files are not what a run writes."""
    run = RunRecord(folder, folder.name, load_curve=functools.partial(curve, folder))
    for name, part in ((record.CONFIG, what_ran), (record.SUMMARY, how_it_went)):
        try:
            run = replace(run, **part(folder))
        except BROKEN as error:
            why = _why(error, folder)
            return replace(run, fault=why if why.startswith(name) else f"{name}: {why}")
    log = ""
    with contextlib.suppress(*BROKEN):
        log = damage(run)
    return replace(run, fault=f"{record.METRICS}: {log}" if log else "")


def damage(run: RunRecord) -> str:
    """Say what the log of a run lacks; empty where it lacks nothing.

    Raises:
        One of BROKEN: there is no log, or none that a run writes.
    """
    epochs = run.summary.get("epochs")
    return load(run.folder / record.METRICS, lambda folder: record.damage(folder, epochs))


def _why(error: Exception, folder: Path) -> str:
    """Say why a file in a folder cannot be read, by its name within the folder."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or '').name}: {error.strerror}"
    return first_line(error).replace(f"{folder}/", "")


def what_ran(folder: Path) -> dict[str, Any]:
    """Return the part of a RunRecord that config.json holds."""
    about = load(folder / record.CONFIG, record.read_config)
    config = of(about, "config", dict, strict=True)
    data = of(about, "data", dict)
    rows = of(data, "rows_hash", dict)
    setting = {path: value for path, value in leaves(config) if is_knob(path)}
    return {
        "setting": json.dumps(setting, sort_keys=True),
        "overrides": tuple(map(str, of(about, "overrides", list, strict=True))),
        "choices": of(about, "choices", dict, strict=True),
        "config": config,
        **_place(about.get("run")),
        "data_hash": of(data, "hash", str),
        **{f"{split}_rows": of(rows, split, str) for split in ("val", "test")},
    }


def how_it_went(folder: Path) -> dict[str, Any]:
    """Return the part of a RunRecord that summary.json holds; a refit has no objective."""
    if not os.path.lexists(folder / record.SUMMARY):
        return {"status": "interrupted"}
    summary = load(folder / record.SUMMARY, record.read_summary)
    status = of(summary, "status", str, strict=True)
    if status not in record.STATUSES:
        raise ValueError(f"status {status}: not that of a run")
    if is_refit(summary):
        return {"status": status, "seconds": finite(summary.get("seconds")), "summary": summary}
    objective = of(summary, "objective", dict, strict=True)
    metric, mode = (of(objective, name, str, strict=True) for name in ("metric", "mode"))
    if mode not in ("min", "max"):
        raise ValueError(f"mode {mode}: not that of a run")
    value = finite(objective.get("value"))
    return {
        "status": "diverged" if status in GOOD and value is None else status,
        "metric": metric,
        "mode": mode,
        "value": value if status in (*GOOD, "pruned") else None,
        "best_epoch": finite(summary.get("best_epoch")),
        "seconds": finite(summary.get("seconds")),
        "summary": summary,
    }


def is_refit(summary: dict[str, Any]) -> bool:
    """Return whether a run trained on its validation rows as well: nothing has judged it."""
    return bool(of(summary, "refit_of", str)) and summary.get("objective") is None


def curve(folder: Path) -> list[dict[str, float]]:
    """Return a run's metrics by epoch: what is a finite number, of rows that have an epoch."""
    rows: Any = []
    with contextlib.suppress(*BROKEN):
        rows = load(folder / record.METRICS, record.read_metrics)
    numbers = (
        {name: v for name, value in row.items() if (v := finite(value)) is not None}
        for row in rows[:MOST_ROWS]
        if isinstance(row, dict)
    )
    return [row for row in numbers if "epoch" in row]


# ------------------------------------------------------------------ study.json
def _read_study(folder: Path) -> tuple[Study | None, dict[str, dict[str, Any]], str]:
    """Return the question, and each run's place by its number; as much as is well-formed.

    Last comes why there is none, where study.json cannot be read.
    """
    try:
        raw = load(folder / record.STUDY, record.read_study)
    except FileNotFoundError:
        return None, {}, ""
    except BROKEN as error:
        return None, {}, _why(error, folder)
    scientific, fixed, asked = (
        tuple(word for word in of(raw, name, list) if isinstance(word, str))
        for name in ("scientific", "fixed", "asked")
    )
    arms = {
        name: tuple(knobs_of(of(arm, "space", dict)))
        for name, arm in of(raw, "arms", dict).items()
        if isinstance(arm, dict)
    }
    looks = of(raw, "looks", list)
    fits = all(type(n) is int and LEAST_PAIRS <= n <= MOST_PAIRS for n in looks)
    study = Study(
        *(of(raw, "question", str), scientific, fixed, arms, of(raw, "study", str)),
        looks=tuple(looks) if fits and looks == sorted({*looks}) else (),
        usual=of(raw, "usual", str),
        budget=finite(raw.get("budget")),
        asked=asked,
        stops=dict(_stops(of(raw, "stops", dict))),
        **_prior(of(raw, "prior", dict)),
    )
    return study, {number: _place(run) for number, run in of(raw, "runs", dict).items()}, ""


def _stops(node: dict[str, Any]) -> Iterator[tuple[str, Stop]]:
    """Yield the arms that were ended early, of those that are well-formed."""
    for arm, about in node.items():
        numbers = [of({"": about}, "", dict).get(key) for key in ("runs", "gain", "noise", "saved")]
        values = [*map(finite, numbers)]
        if None not in values and min(values) >= 0:
            yield arm, Stop(int(values[0]), values[1], values[2], int(values[3]))


def _prior(node: dict[str, Any]) -> dict[str, Any]:
    """Return what a search started from, as far as it is well-formed."""
    scores = {n: finite(v) for n, v in of(node, "scores", dict).items() if NUMBER.fullmatch(n)}
    return {
        "tasks": max(0, of(node, "tasks", int)),
        "sweeps": len(of(node, "sweeps", list)),
        "liked": {int(n): score for n, score in scores.items() if score is not None},
    }


def _place(node: Any) -> dict[str, Any]:
    """Return a run's number, arm and role, as study.json or its config.json states them."""
    about = node if isinstance(node, dict) else {}
    number, step = (v if type(v) is int else None for v in map(about.get, ("number", "step")))
    place: dict[str, Any] = {} if number is None else {"number": number}
    if about.get("role") in ROLES:
        place |= {"role": about["role"], "step": step}
        place |= {name: of(about, name, str) for name in ("arm", "knob", "phase")}
    return place


def knobs_of(space: dict[str, Any]) -> Iterator[Knob]:
    """Yield the knobs of an arm's space, as study.json has it, that are well-formed."""
    for name, about in space.items():
        if not isinstance(about, dict):
            continue
        choices = about.get("choices")
        if isinstance(choices, list) and 0 < len(choices) <= MOST_CHOICES:
            yield Knob(name, choices=tuple(dict.fromkeys(map(short, choices))))
            continue
        low, high = finite(about.get("low")), finite(about.get("high"))
        log, integer = about.get("log") is True, about.get("int") is True
        with contextlib.suppress(ConfigError):
            yield Knob(name, low=low, high=high, log=log, integer=integer)


def _union(arms: Iterable[tuple[Knob, ...]]) -> tuple[Knob, ...]:
    """Return the knobs of all arms; where they differ in bounds, the widest."""
    union: dict[str, Knob] = {}
    for knob in chain.from_iterable(arms):
        old = union.setdefault(knob.name, knob)
        if old.choices and knob.choices:
            choices = tuple(dict.fromkeys([*old.choices, *knob.choices]))
            union[knob.name] = replace(knob, choices=choices)
        elif not old.choices and not knob.choices:
            low, high = min(old.low, knob.low), max(old.high, knob.high)
            union[knob.name] = replace(knob, low=low, high=high, log=old.log and knob.log)
    return tuple(union.values())


# ------------------------------------------------------------------ a grid's space
def _spaces(runs: Sequence[RunRecord], names: Iterable[str]) -> Iterator[Knob]:
    """Yield the knobs of a grid: what differs between its runs, from least to largest value."""
    for name in names:
        every = (knob_value(run, name) for run in runs if run.setting)
        values = [value for value in every if value != ABSENT]
        numbers = sorted({v for value in values if (v := finite(value)) is not None})
        if len(numbers) > 1 and all(finite(value) is not None for value in values):
            integer = all(isinstance(value, int) for value in values)
            yield Knob(name, low=numbers[0], high=numbers[-1], log=_log(numbers), integer=integer)
            continue
        choices = tuple(dict.fromkeys(map(short, values)))
        if 1 < len(choices) <= MOST_CHOICES:
            yield Knob(name, choices=choices)


def _log(numbers: list[float]) -> bool:
    """Tell whether values lie more evenly by their ratios than by their differences."""
    if numbers[0] <= 0:
        return False
    if len(numbers) < 3:
        return numbers[-1] / numbers[0] > 2
    gaps = [[b - a for a, b in pairwise(values)] for values in (map(math.log, numbers), numbers)]
    ratios, steps = (statistics.pstdev(gap) / statistics.fmean(gap) for gap in gaps)
    return ratios < steps
