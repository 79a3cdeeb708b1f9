"""A task's runs: a stack for each shape, trained by knobs' own loop; their curves."""

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from knobs.config import command
from knobs.data import Data
from knobs.errors import ConfigError
from knobs.search.learn import settings
from knobs.search.learn.tasks import Task
from knobs.stack import loop as stack
from knobs.training.setup import assemble
from knobs.training.state import Run

OPTIONS = ("optimizer", "scheduler", "init")  # groups of conf/ that a setting chooses from


def jobs(
    task: Task, shapes: Sequence[Mapping[str, Any]], units: np.ndarray, epochs: int
) -> list[list[list[str]]]:
    """Return the overrides of the runs of each shape: of each setting, SEEDS of them.

    Args:
        units: uint16 (settings of all shapes, knobs).
    """
    common = [*task.lines(), f"training.epochs={epochs}"]
    seeds = [f"seed={n}" for n in range(settings.SEEDS)]
    stacks = settings.overrides(task.model, task.type == "classification", shapes, units)
    return [[[*common, *own, seed] for own in stack for seed in seeds] for stack in stacks]


def configs(stacks: Sequence[list[list[str]]]) -> list[list[dict]]:
    """Return the configs of the jobs of shapes, as composing all overrides of each would.

    Only what the jobs of a shape share is composed, and each option of OPTIONS: that takes a
    twentieth of the time. A test holds the result against Hydra's.

    Raises:
        ConfigError: naming every fault.
    """
    commons = [
        # Not of a section that an option replaces, though all jobs have it.
        [line for line in jobs[0] if _section(line) not in OPTIONS and all(line in j for j in jobs)]
        for jobs in stacks
    ]
    chosen = {line for jobs in stacks for job in jobs for line in job if _group(line)}
    data = [line for line in commons[0] if line.startswith(("data", "model="))]
    wanted = [*commons, *([*data, line] for line in sorted(chosen))]
    if faults := command.check_jobs(wanted):
        raise ConfigError("\n".join(faults))
    composed = [command.LAST.resolved(lines) for lines in wanted]
    options = dict(zip(sorted(chosen), composed[len(commons) :], strict=True))
    return [
        [_filled(base, [line for line in job if line not in common], options) for job in jobs]
        for base, common, jobs in zip(composed, commons, stacks, strict=False)
    ]


def _section(line: str) -> str:
    return line.partition("=")[0].partition(".")[0]


def _group(line: str) -> str:
    """Return which of OPTIONS an override chooses from; empty if it sets a value."""
    key = line.partition("=")[0]
    return key if key in OPTIONS else ""


def _filled(base: dict, lines: Sequence[str], options: Mapping[str, dict]) -> dict:
    """Return a config with the overrides of a setting.

    Args:
        options: override that chooses an option -> a config with it.
    """
    config = copy.deepcopy(base)
    for line in lines:
        if key := _group(line):
            config[key] = copy.deepcopy(options[line][key])
            if key == "init":  # which decides how the last layer begins
                config["training"]["zero_head"] = options[line]["training"]["zero_head"]
    for line in (line for line in lines if not _group(line)):
        key, _, value = line.partition("=")
        *path, name = key.split(".")
        functools.reduce(dict.__getitem__, path, config)[name] = json.loads(value)
    return config


def assembled(given: Sequence[dict], data: Data) -> list[Run]:
    """Build the runs of configs on the same data."""
    return [assemble(config, data, torch.device("cpu")) for config in given]


def curves(runs: Sequence[Run]) -> np.ndarray:
    """Train runs as one stack; return (2, runs, epochs) float64, NaN once a run has diverged.

    Raises:
        Exception: whatever has failed a run.
    """
    epochs = runs[0].training["epochs"]
    rows = {run: np.full((2, epochs), np.nan) for run in runs}
    failed: list[Exception] = []

    def on_epoch(run: Run, metrics: dict[str, float]) -> None:
        objective = metrics[run.objective["metric"]]
        rows[run][:, metrics["epoch"] - 1] = objective, metrics["val/loss"]

    def on_end(run: Run, status: str, error: Exception | None) -> None:
        if status == "failed" and error:
            failed.append(error)

    stack.fit(runs, on_epoch, on_end, lambda _: None, lambda _: None)
    if failed:
        raise failed[0]
    return np.stack([rows[run] for run in runs], 1)
