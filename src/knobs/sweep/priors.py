"""The prior of a search: the package's own, or one of the user's own sweeps; what is told of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knobs.errors import ConfigError
from knobs.report.outlook import started_from
from knobs.report.read import read_sweep
from knobs.report.records import ABSENT, knob_value
from knobs.search import sweeps
from knobs.search.methods import LEARNED
from knobs.search.prior import Prior
from knobs.search.space import Knobs
from knobs.search.sweeps import Before, OwnSweeps
from knobs.search.trials import Search
from knobs.words import count

WORDS = ("none", "learned")


def chosen(
    options: Mapping[str, Any], arms: Mapping[str, Knobs], metric: str
) -> Prior | OwnSweeps | str | None:
    """Return the prior that `search.prior` asks for, as Search takes it.

    Args:
        options: the config's section `search`. metric: of the objective.

    Raises:
        ConfigError: no such sweep, too few runs in it, or no knob that is searched here.
    """
    asked = options["prior"]
    names = [str(name) for name in (asked if isinstance(asked, list) else [asked])]
    if names in (["none"], ["learned"]):
        return None if names == ["none"] else "learned"
    if mixed := [name for name in names if name in WORDS]:
        raise ConfigError(f"search.prior={names}: {mixed[0]} stands alone; or list sweeps alone")
    if options["method"] not in LEARNED:
        raise ConfigError(
            f"search.prior={','.join(names)}: search.method={options['method']} takes no prior; "
            f"one of {', '.join(LEARNED)} does, or leave search.prior out"
        )
    if not names:
        raise ConfigError("search.prior=[]: must be none, learned, or folders of sweeps")
    return OwnSweeps([_before(name, arms, metric) for name in names])


def _before(name: str, arms: Mapping[str, Knobs], metric: str) -> Before:
    """Return what a sweep's runs were, and how good."""
    if not os.path.isdir(name):
        raise ConfigError(
            f"search.prior={name}: no such sweep; must be none, learned, or a sweep's folder, as "
            "in outputs/sweeps/NAME"
        )
    sweep = read_sweep([Path(name)])
    if sweep.objective.metric != metric:
        raise ConfigError(
            f"search.prior={name}: its runs are judged by {sweep.objective.metric}, this search's "
            f"by {metric}; name another sweep, or set objective.metric"
        )
    searched = {knob for knobs in arms.values() for knob in knobs}
    rows, losses = [], []
    for run in sweep.runs:
        if (run.ok and run.value is not None) or run.broke:
            values = {knob: knob_value(run, knob) for knob in searched}
            rows.append({knob: value for knob, value in values.items() if value is not ABSENT})
            losses.append(-sweep.objective.sign * run.value if run.ok else float("inf"))
    if len(rows) < sweeps.LEAST:
        raise ConfigError(
            f"search.prior={name}: {count(len(rows), 'run')} ended there, and a prior needs "
            f"{sweeps.LEAST}; let it go on, or name another sweep"
        )
    before = Before(name, rows, losses)
    if not any(before.knows(knobs) for knobs in arms.values()):
        raise ConfigError(
            f"search.prior={name}: none of {', '.join(sorted(searched))} has two values there; "
            "name a sweep of a knob that is searched here, or search.prior=none"
        )
    return before


def facts(search: Search) -> dict[str, Any]:
    """Return what study.json says of a search's prior; empty where there is none."""
    if not search.views:
        return {}
    scores = {}
    for arm in search.views:
        runs = [trial.user_attrs["run"] for trial in search.trials(arm)]
        scores |= {str(run): round(s, 4) for run, s in zip(runs, search.liked(arm), strict=True)}
    told = max((view.told for view in search.views.values()), key=lambda told: told.get("tasks", 0))
    return {"name": search.prior.name, **told, "scores": scores}


def words(prior: Mapping[str, Any]) -> str:
    """Return what a search starts from, in words."""
    return started_from(prior.get("tasks", 0), len(prior.get("sweeps", ())))
