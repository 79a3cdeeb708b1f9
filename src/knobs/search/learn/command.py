"""The plan of a table, its cost, and the making of what is missing."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knobs.data import Data
from knobs.errors import ConfigError, DataError, did_you_mean
from knobs.processes import end_with
from knobs.search import table
from knobs.search.learn import making, settings
from knobs.search.learn.making import Recipe, path_of
from knobs.search.learn.tasks import Task, all_tasks

POLL = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Planned:
    """A task whose file is missing.

    Args:
        seconds: of a core that it is estimated to take.
    """

    task: Task
    data: Data
    seconds: float


def learn(given: argparse.Namespace, words: Sequence[str]) -> int:
    """Plan, and make what is missing; return the exit code.

    Args:
        given: the command line. words: the same as typed, for processes of its own.

    Raises:
        ConfigError: an unknown task, or files made with other numbers. DataError: no such folder,
            or a damaged file.
    """
    began = time.monotonic()
    if (given.shapes or 1) > settings.SHAPES:
        raise ConfigError(f"--shapes {given.shapes}: there are {settings.SHAPES}")
    if not given.folder.is_dir():
        raise DataError(f"--folder {given.folder}: no such folder; make it, or begin where it is")
    root = given.root or (Path(os.environ["KNOBS_DATA"]) if "KNOBS_DATA" in os.environ else None)
    recipe = Recipe(given.shapes or settings.SHAPES, given.epochs or settings.EPOCHS)
    chosen = _chosen(given.tasks)
    if given.parent:
        end_with(given.parent, signal.SIGTERM)
        _make(chosen[0], chosen[0].data(root), recipe, given.folder)
        return 0
    missing = _missing(chosen, recipe, given.folder, root)
    data = {task.name: task.data(root) for task in missing}
    plan = _plan(missing, data, recipe)
    workers = given.workers or min(2, os.cpu_count() or 1)
    _tell(plan, len(chosen), workers)
    if given.dry_run:
        return 0
    ends = began + 60 * given.budget if given.budget else float("inf")
    if workers > 1 and len(plan) > 1:
        return _side_by_side([planned.task.name for planned in plan], workers, words, ends)
    for planned in plan:
        if time.monotonic() > ends:
            break
        _make(planned.task, planned.data, recipe, given.folder)
    return 0


def _chosen(names: str | None) -> list[Task]:
    """Return the tasks that are asked for."""
    every = all_tasks()
    asked = [*every] if names is None else [*dict.fromkeys(names.split(","))]
    for name in asked:
        if name not in every:
            raise ConfigError(f"--tasks {name}: no such task{did_you_mean(name, every)}")
    return [every[name] for name in asked]


def _missing(chosen: Sequence[Task], recipe: Recipe, folder: Path, root: Path | None) -> list[Task]:
    """Return the tasks without a file that can be made; tell which cannot."""
    missing = []
    for task in chosen:
        path = path_of(folder, task)
        if path.exists():
            found = table.read(path)
            if not recipe.matches(found):
                fix = "remove it, take its --shapes and --epochs, or another --folder"
                raise ConfigError(f"{path}: made with another number of shapes or epochs; {fix}")
            settings.overrides_of(found)
        elif lack := task.lacks(root):
            print(f"left out: {task.name} {lack}")
        else:
            missing.append(task)
    return missing


def _plan(missing: Sequence[Task], data: Mapping[str, Data], recipe: Recipe) -> list[Planned]:
    """Return what is to be made, the cheapest first: estimated by a short run for each model."""
    found = []
    for model in sorted({task.model for task in missing}):
        mine = [task for task in missing if task.model == model]
        smallest = min(mine, key=lambda task: len(data[task.name].train))
        rest, of_row = making.short_run(smallest, data[smallest.name], recipe)
        for task in mine:
            rows = len(data[task.name].train) * recipe.epochs
            found.append(Planned(task, data[task.name], rest + of_row * rows))
    return sorted(found, key=lambda planned: planned.seconds)


def _tell(plan: Sequence[Planned], chosen: int, workers: int) -> None:
    """Print the plan."""
    for planned in plan:
        task, rows = planned.task, len(planned.data.train)
        kind = f"{task.kind}, {task.type}"
        about = f"{rows:>6,} rows {planned.seconds:>7,.0f} s"
        print(f"{task.name:<20} {kind:<22} {task.model:<9} {about}")
    side = max(1, min(workers, len(plan)))
    minutes = sum(planned.seconds for planned in plan) / 60 / side
    print(f"{chosen} tasks, {chosen - len(plan)} made or left out, {len(plan)} to make: "
          f"about {minutes:,.1f} min, {side} at a time on free cores", flush=True)  # fmt: skip


def _make(task: Task, data: Data, recipe: Recipe, folder: Path) -> None:
    """Make a task's file, and tell."""
    made, path = making.make(task, data, recipe), path_of(folder, task)
    table.write(path, made)
    what = f"{made.curves.shape[1]} runs, {made.facts['seconds']:,.0f} s"
    print(f"{path}: {what}, {path.stat().st_size:,} bytes", flush=True)


def _side_by_side(names: list[str], workers: int, words: Sequence[str], ends: float) -> int:
    """Make tasks in processes of their own, which end with this one; return the worst exit code.

    Args:
        ends: no task begins later, by time.monotonic; nor after one has failed.
    """
    running: list[subprocess.Popen] = []
    worst, alone = 0, os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        while running or (names and not worst and time.monotonic() <= ends):
            while names and len(running) < workers and not worst and time.monotonic() <= ends:
                one = ["--tasks", names.pop(0), "--parent", str(os.getpid())]
                command = [sys.executable, "-m", "knobs.search.learn", *words, *one]
                running.append(subprocess.Popen(command, env=alone))
            time.sleep(POLL)
            codes = [process.poll() for process in running]
            worst = max([worst, *(128 - c if c < 0 else c for c in codes if c is not None)])
            running = [p for p, code in zip(running, codes, strict=True) if code is None]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return worst
