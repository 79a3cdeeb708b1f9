"""A task -> its table, and what that takes."""

import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from knobs import __version__
from knobs.data import Data
from knobs.search import table
from knobs.search.learn import settings, training
from knobs.search.learn.tasks import Task
from knobs.training.setup import machine

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "matplotlib")
SHORT = 4  # shapes that the short run tries: the first ones of a Sobol sequence lie evenly


@dataclass(frozen=True)
class Recipe:
    """Size of a table.

    Args:
        shapes: of settings.SHAPES, the first ones.
        epochs: of each run.
    """

    shapes: int = settings.SHAPES
    epochs: int = settings.EPOCHS

    def __str__(self) -> str:
        return f"--shapes {self.shapes} --epochs {self.epochs}"

    def matches(self, found: table.Table) -> bool:
        """Return whether a table was made by this recipe."""
        each = ("settings", settings.SETTINGS), ("seeds", settings.SEEDS), ("epochs", self.epochs)
        alike = all(found.facts[name] == value for name, value in each)
        return alike and len(found.facts["shapes"]) == self.shapes


def make(task: Task, data: Data, recipe: Recipe) -> table.Table:
    """Train all runs of a task."""
    began = time.process_time()  # with one thread what a free core takes, whatever else runs
    shapes = settings.shapes(task.model)[: recipe.shapes]
    units = settings.units()[: len(shapes) * settings.SETTINGS]
    stacks = training.configs(training.jobs(task, shapes, units, recipe.epochs))
    parts, objective = [], {}
    with machine(stacks[0][0]["training"]):
        for configs in stacks:
            runs = training.assembled(configs, data)
            objective = runs[0].objective
            parts.append(table.packed(training.curves(runs)))
    seconds = round(time.process_time() - began, 1)
    lines = settings.overrides(task.model, task.type == "classification", shapes, units)
    facts = about(task, data) | {
        "overrides": settings.digest(lines),
        "objective": objective["metric"], "mode": objective["mode"],
        "knobs": list(settings.KNOBS), "shapes": shapes, "settings": settings.SETTINGS,
        "seeds": settings.SEEDS, "epochs": recipe.epochs, "seconds": seconds,
        "versions": versions(task), "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m knobs.search.learn --tasks {task.name} {recipe}",
    }  # fmt: skip
    return table.Table(facts, units, np.concatenate(parts, 1))


def about(task: Task, data: Data) -> dict[str, Any]:
    """Return the features of a task."""
    return {
        "task": task.name, "source": task.source, "fold": task.fold, "kind": task.kind,
        "type": task.type, "model": task.model,
        "rows": len(data.train) + len(data.val) + len(data.test), "train": len(data.train),
        "inputs": list(data.shape.input), "vocabulary": data.shape.vocabulary,
        "classes": len(data.classes), "data": data.hash,
    }  # fmt: skip


def versions(task: Task) -> dict[str, str]:
    """Return the versions of what a table depends on."""
    found = {"knobs": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *task.needs):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a module whose package has another name is listed by that
            continue
    return found


def short_run(task: Task, data: Data, recipe: Recipe) -> tuple[float, float]:
    """Train the first shapes of a recipe, at most SHORT, for an epoch.

    Returns:
        Of a whole table: the seconds of a core that do not depend on its rows, and those of a
        training row and an epoch.
    """
    began = time.process_time()
    shapes = settings.shapes(task.model)[: min(SHORT, recipe.shapes)]
    units = settings.units()[: len(shapes) * settings.SETTINGS]
    stacks = training.configs(training.jobs(task, shapes, units, 1))
    composed, trained = time.process_time() - began, 0.0
    with machine(stacks[0][0]["training"]):
        for configs in stacks:
            runs = training.assembled(configs, data)
            before = time.process_time()
            training.curves(runs)
            trained += time.process_time() - before
    built = time.process_time() - began - composed - trained
    share = recipe.shapes / len(shapes)
    return composed + share * built, share * trained / len(data.train)


def path_of(folder: Path, task: Task) -> Path:
    """Return the file of a task's table."""
    return folder / f"{task.name}{table.ENDING}"
