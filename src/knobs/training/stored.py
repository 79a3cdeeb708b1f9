"""Checks of a stored state before a run takes it over: its bytes are whole, but is it a state?

Each check raises CheckpointError, which names the field, its value and what it must be.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from knobs.errors import CheckpointError, first_line
from knobs.optimizers import Muon
from knobs.training.finite import RUNNING, watched
from knobs.training.setup import steps_per_epoch
from knobs.training.state import Progress, Run
from knobs.words import printable

PARTS = ("model", "optimizer", "scheduler", "average", "best_weights", "progress")
COUNTS = ("epoch", "batch", "step", "examples", "best_epoch", "stale")
AMOUNTS = ("loss_sum", "seconds", "train_seconds")
# Of a parameter group, what a schedule moves, and how a step is computed, which may change.
MOVED = ("lr", "momentum", "betas", "params")
SPEED = ("foreach", "fused", "capturable", "differentiable")
NEWER = (*MOVED, *SPEED, "maximize", "decoupled_weight_decay")  # what an older torch may lack
BYGONE = ("verbose",)  # of the state of a schedule, in older versions of torch


def _refuse(field: str, value: Any, rule: str) -> None:
    shown = "" if isinstance(value, Tensor | dict | list) else f"={printable(str(value), 40)}"
    raise CheckpointError(f"{field}{shown}: {rule}")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


# ------------------------------------------------------------------ whatever the run
def check(state: Any) -> None:
    """Refuse what no run can have written.

    Raises:
        CheckpointError: naming the field.
    """
    if not isinstance(state, dict):
        _refuse("the state", state, "must be a mapping")
    for part in PARTS:
        if part not in state:
            _refuse(part, "", "is missing")
        if not isinstance(state[part], Mapping) and not (part == "average" and not state[part]):
            _refuse(part, state[part], "must be a mapping")
    for part in ("model", "average", "best_weights"):
        for name, value in (state[part] or {}).items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                _refuse(f"{part}.{name}", value, "must be a tensor")
    for part in ("optimizer", "scheduler"):
        _no_nan(state[part], part)
    for part in ("best_outputs", "log"):  # which older states have not
        if state.get(part) is not None and not isinstance(state[part], Tensor):
            _refuse(part, state[part], "must be a tensor")
    if not isinstance(members := state.get("best_members", []), list):
        _refuse("best_members", members, "must be a list")
    _progress(state["progress"])


def _no_nan(node: Any, path: str) -> None:
    """Refuse NaN anywhere, and a number of steps that is none; +-inf has its uses."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            _no_nan(child, f"{path}.{key}")
            if key == "step" and not _steps(child):
                value = child.tolist() if isinstance(child, Tensor) else child
                _refuse(f"{path}.step", str(value), "must be a number of steps, from 0 on")
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            _no_nan(child, f"{path}.{i}")
    elif isinstance(node, Tensor) and node.is_floating_point():
        if node.isnan().any():
            _refuse(path, node, "holds NaN")
    elif isinstance(node, float) and math.isnan(node):
        _refuse(path, node, "must be a number")


def _steps(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and _number(value.item()) and value.item() >= 0
    return _number(value) and value >= 0


def _progress(progress: Mapping) -> None:
    """Refuse a place where no run can stand."""
    known = {field.name for field in fields(Progress)}
    for name in progress:
        if name not in known:
            _refuse(f"progress.{name}", progress[name], "no such field")
    at = vars(Progress()) | dict(progress)
    for name in COUNTS:
        if type(at[name]) is not int or at[name] < 0:
            _refuse(f"progress.{name}", at[name], "must be a whole number from 0 on")
    for name in AMOUNTS:
        if not _number(at[name]):
            _refuse(f"progress.{name}", at[name], "must be a finite number")
    for name in ("best", "lr"):
        if at[name] is not None and not _number(at[name]):
            _refuse(f"progress.{name}", at[name], "must be a finite number, or null")
    if at["best_epoch"] > at["epoch"]:
        _refuse(
            "progress.best_epoch", at["best_epoch"], f"must be {at['epoch']} at most, its epoch"
        )
    if at["best"] is not None and not at["best_epoch"]:
        _refuse("progress.best_epoch", 0, "must be from 1 on, as there is a best value")
    if at["stale"] > at["epoch"]:
        _refuse("progress.stale", at["stale"], f"must be {at['epoch']} at most, its epoch")
    pending = at["pending"]
    if not isinstance(pending, list) or not all(map(_pending, pending)):
        _refuse("progress.pending", pending, "must be finite losses, each with its examples")
    metrics = at["best_metrics"]
    if not isinstance(metrics, Mapping) or not all(
        type(v) in (int, float) for v in metrics.values()
    ):
        _refuse("progress.best_metrics", metrics, "must be numbers by name")


def _pending(pair: Any) -> bool:
    if not isinstance(pair, list) or len(pair) != 2 or type(pair[1]) is not int or pair[1] < 1:
        return False
    return all(map(_number, pair[0] if isinstance(pair[0], list) else [pair[0]]))


# ------------------------------------------------------------------ of this run
def fits(run: Run, state: dict[str, Any]) -> None:
    """Refuse a state that is not of this run's model, optimizer, schedule and number of steps.

    Raises:
        CheckpointError: naming the field.
    """
    if bool(run.average) != (state["average"] is not None):
        has = "has" if state["average"] is not None else "has no"
        raise CheckpointError(f"average: the state {has} running average (training.ema)")
    same_tensors(run.model.state_dict(), state["model"], "model")
    if run.average:
        same_tensors(run.average.state_dict(), state["average"], "average")
    at = Progress(**state["progress"])
    if bool(at.best_epoch) != bool(state["best_weights"]):
        kept = "there are none" if at.best_epoch else "there are some"
        raise CheckpointError(f"best_weights: {kept}, and progress.best_epoch={at.best_epoch}")
    if at.best_epoch:
        same_tensors(run.evaluated.state_dict(), state["best_weights"], "best_weights")
        sound(run.evaluated, state["best_weights"], "best_weights")
    steps = steps_per_epoch(len(run.data.train), run.training)
    if at.batch > steps:
        _refuse("progress.batch", at.batch, f"must be {steps} at most, the steps of an epoch")
    if at.step != at.epoch * steps + at.batch:
        rule = f"must be {at.epoch * steps + at.batch}: epoch {at.epoch} of {steps} steps each"
        _refuse("progress.step", at.step, f"{rule}, and {at.batch}")
    if len(at.pending) > at.batch:
        _refuse("progress.pending", at.pending, f"has more losses than the {at.batch} batches")
    _optimizer(run.optimizer, state["optimizer"])
    _scheduler(run, state["scheduler"], at)


def same_tensors(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: str) -> None:
    """Refuse tensors of other names, shapes or types."""
    for name in own.keys() | stored.keys():
        if name not in stored:
            raise CheckpointError(f"{path}.{name}: is missing")
        if name not in own:
            raise CheckpointError(f"{path}.{printable(name, 80)}: not of this model")
        ours, its = own[name], stored[name]
        if ours.shape != its.shape or ours.dtype != its.dtype:
            have = f"has shape {tuple(its.shape)}, {its.dtype}"
            raise CheckpointError(f"{path}.{name}: {have}; needs {tuple(ours.shape)}, {ours.dtype}")


def sound(network: nn.Module, stored: Mapping[str, Tensor], path: str) -> None:
    """Refuse weights, or running statistics, that are not finite; variances below 0 too."""
    for name, _ in watched(network):
        if not stored[name].isfinite().all():
            raise CheckpointError(f"{path}.{name}: is not finite")
        if name.endswith(RUNNING[1]) and (stored[name] < 0).any():
            raise CheckpointError(f"{path}.{name}: a variance below 0")


def _optimizer(own: torch.optim.Optimizer, stored: Any, path: str = "optimizer") -> None:
    """Refuse the state of another optimizer, or of other parameters."""
    kind, needed = type(own).__name__, own.state_dict().keys()
    if not isinstance(stored, Mapping) or stored.keys() != needed:
        raise CheckpointError(f"{path}: must have {' and '.join(map(str, needed))}, as {kind} has")
    if "parts" in needed and isinstance(own, Muon):
        if not isinstance(stored["parts"], list) or len(stored["parts"]) != len(own.parts):
            raise CheckpointError(f"{path}.parts: must be {len(own.parts)}, as {kind} has")
        for i, (part, its) in enumerate(zip(own.parts, stored["parts"], strict=True)):
            _optimizer(part, its, f"{path}.parts.{i}")
    if not {"param_groups", "state"} <= needed:
        return
    groups, states = stored["param_groups"], stored["state"]
    if not isinstance(groups, list) or not isinstance(states, Mapping):
        raise CheckpointError(f"{path}: param_groups must be a list, state a mapping")
    sizes = [len(group["params"]) for group in own.param_groups]
    try:
        numbers = [list(group["params"]) for group in groups]
    except (TypeError, KeyError, IndexError):
        raise CheckpointError(f"{path}.param_groups: must have params each") from None
    if [*map(len, numbers)] != sizes:
        found = [*map(len, numbers)]
        raise CheckpointError(f"{path}.param_groups: groups of {found} parameters; needs {sizes}")
    for i, (ours, its) in enumerate(zip(own.param_groups, groups, strict=True)):
        _group(kind, ours, its, f"{path}.param_groups.{i}", type(own).__module__)
    params = [p for group in own.param_groups for p in group["params"]]
    by_number = dict(zip([n for group in numbers for n in group], params, strict=True))
    rehearsed = _rehearsed(own)
    for number, values in states.items():
        place = f"{path}.state.{number}"
        if number not in by_number or not isinstance(values, Mapping):
            raise CheckpointError(f"{place}: not of a parameter")
        if rehearsed:
            _state(kind, rehearsed[by_number[number]], values, by_number[number], place)


def _group(kind: str, ours: Mapping, its: Mapping, path: str, module: str) -> None:
    for key in its:
        if key not in ours:
            raise CheckpointError(f"{path}.{key}: not of {kind}")
    if not _number(its.get("lr")) or its["lr"] < 0:
        _refuse(f"{path}.lr", its.get("lr"), "must be a finite number from 0 on")
    if not module.startswith("torch."):  # which may keep there what it moves
        return
    if missing := sorted(ours.keys() - its.keys() - {*NEWER}):
        raise CheckpointError(f"{path}.{missing[0]}: is missing, which {kind} has")
    for key in its.keys() - {*MOVED, *SPEED}:
        same = type(its[key]) in (list, tuple) and [*its[key]] == [*ours[key]]
        if not same and its[key] != ours[key]:
            _refuse(f"{path}.{key}", its[key], f"must be {ours[key]}, as this run's config has it")


def _rehearsed(own: torch.optim.Optimizer) -> dict[Tensor, tuple[Tensor, dict[str, Any]]]:
    """Return what an optimizer keeps of each parameter, as a step on small ones shows it.

    Returns:
        Each parameter's small double, of 2 values at most a dimension, and its state; nothing of
        an optimizer that cannot be tried so.
    """
    if own.state:  # made with it, as Adagrad's is
        return {p: (p, own.state[p]) for group in own.param_groups for p in group["params"]}
    if isinstance(own, torch.optim.LBFGS):  # which keeps as many steps as it has made
        return {}
    doubles: dict[Tensor, nn.Parameter] = {}
    for p in (p for group in own.param_groups for p in group["params"]):
        doubles[p] = nn.Parameter(p.new_zeros([min(n, 2) for n in p.shape]))
        doubles[p].grad = torch.zeros_like(doubles[p])
    try:
        twin = copy.deepcopy(own, {id(p): double for p, double in doubles.items()})
        type(twin).step(twin)
        return {p: (double, twin.state[double]) for p, double in doubles.items()}
    except Exception:  # code of one's own raises anything
        return {}


def _state(kind: str, rehearsed: tuple, values: Mapping, parameter: Tensor, path: str) -> None:
    double, expected = rehearsed
    for key in values.keys() | expected.keys():
        if not values:
            return  # of a parameter that had no gradient
        if key not in values:
            raise CheckpointError(f"{path}.{key}: is missing, which {kind} keeps")
        if key not in expected:
            raise CheckpointError(f"{path}.{key}: not of {kind}")
        ours, its = expected[key], values[key]
        if not isinstance(ours, Tensor) or not isinstance(its, Tensor):
            continue
        fits = its.ndim == ours.ndim
        if ours.shape == double.shape and ours.ndim:
            fits = its.shape == parameter.shape
        if not fits or its.is_floating_point() != ours.is_floating_point():
            raise CheckpointError(f"{path}.{key}: has shape {tuple(its.shape)}, not as {kind}'s")


def _scheduler(run: Run, stored: Mapping, at: Progress) -> None:
    """Refuse the state of another schedule, or of another moment."""
    own = run.scheduler.state_dict()
    for key in stored:
        if key not in own and key not in BYGONE and not str(key).startswith("_"):
            name = type(run.scheduler).__name__
            raise CheckpointError(f"scheduler.{printable(str(key), 80)}: not of {name}")
    moment = at.step if run.interval == "step" else at.epoch
    if type(last := stored.get("last_epoch")) is not int or last != moment:
        _refuse("scheduler.last_epoch", last, f"must be {moment}, as often as it has moved")


def why(error: Exception) -> str:
    """Return what is wrong with a state, whatever was raised where it was looked at."""
    if isinstance(error, CheckpointError):
        return str(error)
    return f"not the state of a run ({type(error).__name__}: {first_line(error)})"
