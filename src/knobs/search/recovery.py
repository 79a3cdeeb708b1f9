"""A search's trials as their runs have recorded them, for a journal that is lost or damaged."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from knobs import record
from knobs.identity import leaves
from knobs.search import methods, minutes
from knobs.search.methods import Values
from knobs.search.space import Knobs, Space

LOST = ("diverged", "failed")  # reported to the sampler as the worst value so far


@dataclass(frozen=True)
class Recorded:
    """A trial by its run's folder.

    Args:
        run: its number over all arms: the folder's name.
        values: of the arm's knobs, as a Trial has them.
        phase: what proposed it; empty where an older record does not say.
        end: how it ended; None where it has not.
        seconds: that it took.
    """

    run: int
    arm: str
    values: Values
    phase: str
    end: record.Ended | None
    seconds: float


@dataclass(frozen=True)
class Runs:
    """Facts about the runs in a search's folder, by which its journal is held against them.

    Args:
        phases: run -> what proposed its trial, where its own record does not say.
        belongs: whether a run is one of this very search.
        asked: whether study.json says that this search is what was asked for there.
        prior: the name of the prior that study.json says it began from, "" for none; None where it
            does not say.
    """

    phases: dict[int, str] = field(default_factory=dict)
    belongs: Callable[[Recorded], bool] = lambda one: True
    asked: bool = False
    prior: str | None = None


def recorded(folder: Path, space: Space, phases: dict[int, str]) -> list[Recorded]:
    """Return the trials whose runs lie in a search's folder, in the order of their numbers.

    A run that is no trial of this space is none of them: of another role, arm, or outside a range.

    Args:
        phases: run -> what proposed it, where its own record does not say.
    """
    found = []
    for path in folder.glob(f"*/{record.CONFIG}"):
        name = path.parent.name
        if not (name.isascii() and name.isdecimal()):
            continue
        try:
            document = record.read_config(path.parent)
            place, arm = document["run"], document["run"].get("arm") or ""
            values = _values(document, space.arms[arm])
        except (*record.BROKEN, KeyError, TypeError, AttributeError):
            continue
        if place.get("role") in record.SEARCHED:
            phase = place.get("phase") or phases.get(int(name), "")
            phase = "default" if place["role"] == "default" else phase
            end, seconds = record.ended(path.parent), _seconds(path.parent)
            found.append(Recorded(int(name), arm, values, str(phase), end, seconds))
    return sorted(found, key=lambda one: one.run)


def _values(document: dict[str, Any], knobs: Knobs) -> Values:
    """Return the values of knobs in a run's config: options, or what stands there.

    Raises:
        KeyError: one is missing. ValueError: one is none of the knob's.
    """
    choices, stated = document["choices"], dict(leaves(document["config"]))
    values = {}
    for name, knob in knobs.items():
        value = choices[name] if name in choices else _at(document["config"], stated, name)
        if not knob.contains(value):
            raise ValueError(f"{name}={value}: lies outside its range")
        values[name] = value
    return values


def _at(config: dict[str, Any], stated: dict[str, Any], name: str) -> Any:
    if name in stated:
        return stated[name]
    node: Any = config
    for part in name.split("."):
        node = node[part]
    return node


def _seconds(folder: Path) -> float:
    try:
        seconds = record.read_summary(folder).get("seconds")
    except (*record.BROKEN, AttributeError):
        return 0.0
    known = isinstance(seconds, int | float) and math.isfinite(seconds) and seconds > 0
    return float(seconds) if known else 0.0


def told(end: record.Ended, epochs: int) -> tuple[str, float | None, int]:
    """Return status, value and epochs of a run as a journal has them; None: the worst so far.

    Args:
        epochs: of a whole run.
    """
    finite = end.value is not None and math.isfinite(end.value)
    if end.epochs is None:  # it never began
        return "failed", None, epochs
    status = end.status if finite or end.status in LOST else "diverged"
    return status, None if status in LOST else end.value, end.epochs or epochs


def unlike(one: Recorded, trials: Sequence[FrozenTrial], knobs: Knobs, epochs: int) -> str:
    """Return what a journal's trials have otherwise than a run's record; empty: nothing.

    Args:
        trials: of the run's arm.
        epochs: of a whole run.
    """
    mine = [trial for trial in trials if trial.user_attrs.get("run") == one.run]
    if len(mine) != 1:
        return f"run {one.run} is not in it" if not mine else f"run {one.run} is in it twice"
    [trial] = mine
    if trial.params != methods.to_optuna(knobs, one.values):
        return f"run {one.run} has other values in it"
    if trial.state is TrialState.RUNNING or one.end is None or one.end.status == "interrupted":
        return ""
    status, value, trained = told(one.end, epochs)
    attributes = trial.user_attrs
    before = attributes.get("status"), attributes.get("epochs")
    same_value = value is None or trial.value == value
    return "" if same_value and before == (status, trained) else f"run {one.run} ended otherwise"


def trials(
    runs: Iterable[Recorded], space: Space, epochs: int, sign: int, worst: float
) -> list[tuple[str, FrozenTrial]]:
    """Return (arm, trial) of recorded runs; one that has not ended is free to be handed out.

    Args:
        epochs: of a whole run.
        sign: 1 where less is better, else -1.
        worst: loss of a lost run before which none finished.
    """
    made: list[tuple[str, FrozenTrial]] = []
    losses: dict[str, list[float]] = {arm: [] for arm in space.arms}
    used = 0.0
    for one in runs:
        knobs = space.arms[one.arm]
        about: dict[str, Any] = {"run": one.run, "process": ""}
        about["phase"] = one.phase if one.phase in methods.PHASES else "random"
        state, value = TrialState.RUNNING, None
        if one.end and one.end.status != "interrupted":
            about["status"], value, about["epochs"] = told(one.end, epochs)
            state = TrialState.PRUNED if about["status"] == "pruned" else TrialState.COMPLETE
            if value is None:
                value = sign * max(losses[one.arm], default=worst)
            else:
                losses[one.arm].append(sign * value)
        about["spans"] = minutes.of_seconds(used, one.seconds)
        used += one.seconds
        made.append((one.arm, _trial(knobs, one.values, state, value, about)))
    return made


def _trial(
    knobs: Knobs, values: Values, state: TrialState, value: float | None, about: dict[str, Any]
) -> FrozenTrial:
    return create_trial(
        state=state,
        value=value,
        params=methods.to_optuna(knobs, values),
        distributions={name: methods.distribution(knob) for name, knob in knobs.items()},
        user_attrs=about,
    )


def reopened(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial that has ended as one that is free to be handed out again."""
    about = {k: v for k, v in trial.user_attrs.items() if k not in ("status", "epochs")}
    return create_trial(
        state=TrialState.RUNNING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=about | {"process": ""},
    )
