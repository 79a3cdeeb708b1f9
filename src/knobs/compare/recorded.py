"""Folders of runs -> arms: a run, a sweep, or a folder with runs of any names.

A folder stands for one setting, whose runs differ in their seeds and splits alone: the first of the
leaderboard that has enough of them. Where there are several settings, it was chosen on these very
values, unless a study has confirmed it with fresh runs; the arm says so.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from knobs import record
from knobs.compare.arms import DIVERGED, Arm, judged, left_out
from knobs.errors import ConfigError, DataError
from knobs.report.arms import fresh
from knobs.report.compare import contenders, measure_noise
from knobs.report.fairness import troubles
from knobs.report.files import BROKEN, load, of
from knobs.report.leaderboard import leaderboard
from knobs.report.read import read_run, read_runs, read_sweep
from knobs.report.records import Entry, RunRecord, Sweep, finite, knob_value
from knobs.report.stats import Repeat
from knobs.words import as_text, count, listed

ENOUGH = 3  # runs of a setting: one lucky run does not outrank the mean of several
MOST_PAIRS = 1000  # at a look that a record may ask for


def arm_of(folder: Path, setting: str = "", metric: str | None = None) -> Arm:
    """Return the arm that a folder stands for.

    Args:
        setting: `optimizer=adam model.width=64` takes settings alone that have these values.
        metric: of the validation split; the objective if None.

    Raises:
        ConfigError: no runs, or none of that setting. DataError: no value to compare.
    """
    entries, others, confirmed, sweep = _entries(folder)
    entries = [entry for entry in entries if _has(entry.runs[0], setting, folder)]
    # What a study has confirmed of an arm was chosen by other values; which arm, by these.
    entries = [entry for entry in entries if entry.runs[0].setting in confirmed] or entries
    if not entries:
        raise ConfigError(f"{folder}: no run with {setting}")
    runs = max(entry.n for entry in entries)
    best = next(e for e in entries if e.n >= min(ENOUGH, runs))
    if best.rank is None:
        ends = listed(sorted({run.status for run in best.runs}))
        raise DataError(f"{folder}: no run has ended with a value ({ends})")
    whole = folder.absolute()
    name = "/".join(whole.parts[-2:]) if whole.name.isdecimal() else whole.name
    arm = _arm(best.runs, setting or name, metric)
    tried = sum(entry.rank is not None for entry in entries)
    notes = list(arm.notes)
    if tried > 1:
        fresh_seeds = best.runs[0].setting in confirmed
        what = count(tried, "confirmed setting" if fresh_seeds else "setting")
        notes.insert(0, f"the best of {what}, chosen on these very values")
    if sweep:
        notes += _held_back(sweep, best.runs[0].arm)
    if others:
        notes.append(f"{count(others, 'run')} with another objective, or none, left out")
    looks = _looks(folder) if best.confirmed else ()
    return replace(arm, notes=tuple(notes), looks=looks)


def _held_back(sweep: Sweep, arm: str) -> Iterator[str]:
    """Yield why the search of an arm brought less than it could, as the report of a study does."""
    every, _ = contenders(sweep)
    for trouble in troubles(sweep, every, measure_noise(sweep)):
        if trouble.arm == arm:
            yield trouble.text.removeprefix(f"{trouble.name}: ").rstrip(".")


def _entries(folder: Path) -> tuple[Sequence[Entry], int, set[str], Sweep | None]:
    """Return the leaderboard of a folder, best first, and how many runs have no place in it.

    The third are the settings that a study has confirmed, one an arm, as its report has them; the
    last is the sweep, where the folder is one.
    """
    try:
        if os.path.lexists(folder / record.CONFIG):
            return leaderboard([read_run(folder)]), 0, set(), None
        if read_runs(folder):
            sweep = read_sweep([folder])
            arms = sweep.study.arms if sweep.study else ()
            confirmed = {run.setting for arm in arms for run in fresh(sweep, arm)}
            return sweep.entries, sweep.others, confirmed, sweep
        paths = sorted(path for path in folder.iterdir() if not path.is_symlink())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror})") from None
    runs = [read_run(path) for path in paths if os.path.lexists(path / record.CONFIG)]
    if not runs:
        raise ConfigError(f"{folder}: no run, no sweep and no folder with runs")
    if len(metrics := sorted({run.metric for run in runs if run.metric})) > 1:
        raise DataError(f"{folder}: runs with different objectives, {listed(metrics)}; part them")
    return leaderboard(runs), 0, set(), None


def _has(run: RunRecord, setting: str, folder: Path) -> bool:
    """Return whether a run has all the values of a setting."""
    for line in setting.split():
        name, equals, text = line.partition("=")
        if not equals:
            raise ConfigError(f"{folder}:{setting}: a setting is KEY=VALUE, as in optimizer=adam")
        value = knob_value(run, name)
        number = None
        with contextlib.suppress(ValueError):
            number = float(text)
        if as_text(value) != text and (number is None or finite(value) != number):
            return False
    return True


def _arm(runs: Sequence[RunRecord], name: str, metric: str | None) -> Arm:
    """Return the arm of the runs of one setting."""
    values: dict[Repeat, float] = {}
    hashes: dict[Repeat, str] = {}
    tests: dict[float | None, str] = {}
    ends: dict[str, list[str]] = {}
    sizes: list[tuple[int, int]] = []
    for run in runs:
        if not run.ok and run.status != "diverged":
            ends.setdefault(run.status, []).append(str(run.folder))
            continue
        repeat, value = run.repeat, _value(run, metric)
        if repr(values.get(repeat, value)) != repr(value):
            raise DataError(f"{run.folder}: seed {repeat[0]} of {name} again, with another value")
        values[repeat] = value
        if run.val_rows or run.data_hash:  # older records know both together alone
            hashes[repeat] = f"rows {run.val_rows}" if run.val_rows else f"data {run.data_hash}"
        if run.test_rows:
            tests[finite(knob_value(run, "data.split_seed"))] = run.test_rows
        if run.validation_examples and run.training_examples:
            sizes.append((run.validation_examples, run.training_examples))
    first = next(run for run in runs if run.metric)
    notes = left_out(ends)
    if metric not in (None, first.metric):
        notes += (f"epochs were chosen by {first.metric}, not by {metric}",)
    validation, training = min(sizes, default=(first.validation_examples or 0, 0))
    return Arm(
        name, values, metric or first.metric, "" if metric else first.mode, True, notes,
        validation, training, hashes, tests,
    )  # fmt: skip


def _value(run: RunRecord, metric: str | None) -> float:
    """Return a run's value of a metric, DIVERGED where the run did."""
    if run.status == "diverged":
        return DIVERGED
    if metric in (None, run.metric):
        return judged(run.value)
    measured = of(run.summary, "metrics", dict)
    value: Any = finite(measured.get(metric))
    if value is None:
        names = listed(sorted(name for name in measured if name.startswith("val/")), 8)
        raise DataError(f"{run.folder}: no {metric}; it has {names or 'its objective alone'}")
    return judged(value)


def _looks(study: Path) -> tuple[int, ...]:
    """Return the numbers of pairs at which a study looked at the runs that confirm it."""
    with contextlib.suppress(*BROKEN):
        looks = of(load(study / record.STUDY, record.read_study), "looks", list)
        if looks and all(type(n) is int and 3 <= n <= MOST_PAIRS for n in looks):
            return tuple(sorted({*looks}))
    return ()
