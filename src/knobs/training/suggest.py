"""`task=suggest`: a config for these data and this model by what other tasks liked, untrained."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from knobs import storage
from knobs.errors import ConfigError
from knobs.identity import key_of, leaves, under
from knobs.search import coordinates as known
from knobs.search.effects import total_effects
from knobs.search.prior import ENOUGH, Prior, learned
from knobs.search.space import Choice, Knob, Knobs, override
from knobs.shell import command
from knobs.words import count, percent, short

FILE = "suggestion.json"
POINTS, TURNS, STEPS = 10, 3, (0.2, 0.1, 0.05)  # log2 of settings looked at; then those near
TOP, NEAR = 8, 24  # settings kept, and others about each
FIRST = 3  # knobs to tune first
RUNS = 20  # of the search for their values
OFF = 0.5  # share of the settings in which a knob that can be off is off
SAYS_WHERE = ("hydra", "task", "name", "silence")  # of a command line, not what a run is
# Knobs that can be off, and the value that says so.
OFFS: dict[str, Any] = {
    "optimizer.weight_decay": 0.0,
    "regularization.dropout": 0.0,
    "regularization.label_smoothing": 0.0,
    "regularization.l1": 0.0,
    "training.clip_norm": None,
}
NORM = "regularization.norm"


def suggest(config: dict, folder: Path, out: Console, typed: Sequence[str], chosen: dict) -> None:
    """Print a config, its expected rank and the knobs to tune first; write suggestion.json.

    Args:
        typed: overrides of the command line: what they say stays as it is.
        chosen: group -> option.

    Raises:
        ConfigError: a model or an optimizer that no other task had, or nothing left to choose.
    """
    prior, kind = learned(), config["model"]["name"]
    _check(prior, kind, chosen["optimizer"])
    typed = [line for line in typed if not under(key_of(line), SAYS_WHERE)]
    fixed = known.described(config, chosen)
    pinned = [key_of(line) for line in typed]
    own = [chosen["optimizer"]] if "optimizer" in pinned else [*known.FAMILIES]
    score, values, family, context, knobs = liked(prior, config, fixed, own, pinned)
    named = {} if "optimizer" in pinned else {"optimizer": family}
    lines = [override(key, value) for key, value in (named | _written(values, kind)).items()]
    effects = total_effects(knobs, context, prior)
    first = sorted(effects, key=effects.get, reverse=True)[:FIRST]
    kept = [line for line in lines if key_of(line) not in first]
    ranges = [_range(name, knobs[name]) for name in first]
    search = ["hydra/sweeper=search", *typed, *kept, *ranges, f"search.runs={RUNS}"]
    here = _rank(prior, kind, known.context(fixed), [{}])[0]
    answer = {
        "tasks": prior.count(kind),
        "model": kind,
        "optimizer": family,
        "config": named | _written(values, kind),
        "better_than": 1 - score,
        "this_config_better_than": 1 - here,
        "tune_first": [{"knob": name, "total_effect": effects[name]} for name in first],
        "command": command([*typed, *lines]),
        "search": command(search, many=True) if first else "",
    }
    storage.write(folder / FILE, json.dumps(answer, indent=1).encode() + b"\n")
    _show(answer, out, folder)


def liked(
    prior: Prior,
    config: dict,
    fixed: Mapping[str, Any],
    families: Sequence[str],
    pinned: Sequence[str],
) -> tuple[float, dict[str, Any], str, dict[str, Any], Knobs]:
    """Return what a prior likes best of all optimizers asked about.

    Args:
        fixed: what is not chosen, as coordinates.described has it.
        families: optimizers. pinned: keys that are typed, and stay as they are.

    Returns:
        Its expected rank, 0 the best and 1 the worst, its values, its optimizer, its context with
        that, and the knobs chosen among.

    Raises:
        ConfigError: nothing is left to choose.
    """
    kind, found = config["model"]["name"], []
    for family in families:
        context = {**fixed, "optimizer": family}
        knobs = _space(config, kind, family, pinned)
        if not knobs and len(families) == 1:
            raise ConfigError("task=suggest: every knob that it knows is typed; leave some out")
        found.append((*_best(prior, kind, context, knobs), family, context, knobs))
    return min(found, key=lambda best: best[0])


def _show(answer: Mapping[str, Any], out: Console, folder: Path) -> None:
    def line(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    tasks, kind = count(answer["tasks"], "other task"), answer["model"]
    line(f"by {tasks}; nothing was trained, and these data have not been looked at")
    better, here = percent(answer["better_than"]), percent(answer["this_config_better_than"])
    line(f"expected to be better than {better} of the settings of {kind}; this config, {here}")
    line(f"  {answer['command']}")
    if answer["tune_first"]:
        shares = (f"{e['knob']} ({percent(e['total_effect'])})" for e in answer["tune_first"])
        line(f"tune first, by their total effects there: {', '.join(shares)}")
        line(f"  {answer['search']}")
    line(f"written to {folder / FILE}")


def _check(prior: Prior, kind: str, optimizer: str) -> None:
    """Raise ConfigError where too few tasks had such a model, or none such an optimizer."""
    kinds = [group.kind for group in prior.groups if len(group.tasks) >= ENOUGH]
    if kind not in kinds:
        models = ", ".join(f"model={name}" for name in kinds)
        raise ConfigError(
            f"task=suggest: model={kind} is not known from other tasks; they had {models}: take "
            "one of these, or search: -m hydra/sweeper=search"
        )
    alike = {*known.FAMILIES, *known.ALIKE["family"]}
    if optimizer not in alike:
        raise ConfigError(
            f"task=suggest: optimizer={optimizer} is not known from other tasks; must be one of "
            f"{', '.join(sorted(alike))}, or leave it out"
        )


def _space(config: dict, kind: str, family: str, pinned: Sequence[str]) -> Knobs:
    """Return the knobs of the tasks' own space that the command line does not say.

    A typed option of a group says all that is in it, but of an optimizer and a model only which.
    """
    own = known.ALIKE["family"].get(family, family)
    knobs: dict[str, Knob] = {
        "optimizer.lr": known.RATES[own],
        "optimizer.weight_decay": known.DECAYS.get(own, known.L2),
        "training.batch_size": known.BATCHES,
        **known.SHAPES_OF[kind],
        "activation": known.ACTIVATIONS,
        "init": Choice(known.INITS),
        "scheduler": Choice(known.SCHEDULES),
        NORM: known.NORMS,
        "regularization.dropout": known.DROPOUT,
        "regularization.label_smoothing": known.SMOOTHING,
        "regularization.l1": known.L1,
        "training.clip_norm": known.CLIP,
    }
    if config["data"]["task"] != "classification":
        del knobs["regularization.label_smoothing"]
    said = [key for key in pinned if key not in ("optimizer", "model")]
    there = {name for name in knobs if "." not in name or "optimizer." in name}
    there |= {name for name, _ in leaves(config)}
    return {n: knob for n, knob in knobs.items() if n in there and not under(n, said)}


def _best(
    prior: Prior, kind: str, context: Mapping[str, Any], knobs: Knobs
) -> tuple[float, dict[str, Any]]:
    """Return the expected rank of the best setting, 0 the best and 1 the worst, and the setting."""
    from scipy.stats import qmc

    fixed, d, rng = known.context(context), len(knobs), np.random.default_rng(0)
    pool = qmc.Sobol(2 * d or 1, rng=rng).random_base2(POINTS if d else 0)
    ranks = _rank(prior, kind, fixed, [_values(knobs, point) for point in pool])
    for step in STEPS if d else ():
        top = pool[np.argsort(ranks)[:TOP]].repeat(NEAR, 0)
        moved = np.abs(top + step * rng.standard_normal(top.shape))
        near = 1 - np.abs(1 - moved)  # reflected at the faces
        near[:, d:] = np.where(rng.random(near[:, d:].shape) < 0.1, 1 - top[:, d:], top[:, d:])
        near = np.clip(near, 0, 1)
        pool = np.concatenate([pool, near])
        new = _rank(prior, kind, fixed, [_values(knobs, point) for point in near])
        ranks = np.concatenate([ranks, new])
    best = int(ranks.argmin())
    return float(ranks[best]), _values(knobs, pool[best])


def _values(knobs: Knobs, point: np.ndarray) -> dict[str, Any]:
    """Return the values at a point [2 d]: where each knob lies, and whether one is off."""
    d = len(knobs)
    found = {}
    for k, (name, knob) in enumerate(knobs.items()):
        off = name in OFFS and point[d + k] < OFF
        found[name] = OFFS[name] if off else knob.from_unit(float(point[k]))
    return found


def _rank(
    prior: Prior, kind: str, fixed: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Return the share of settings that each is expected to be worse than, on a new task.

    A score is the normal quantile of a rank, so the mean rank is Phi(m / sqrt(1 + v)).
    """
    from scipy.stats import norm

    found = prior.at(known.coordinates(fixed, settings), kind, fixed.get("type"))
    return norm.cdf(found.mean / np.sqrt(1 + found.variance()))


def _written(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return a setting's values as a command line says them."""
    written = dict(values)
    if written.get(NORM) == "none":
        written[NORM] = None
        if kind == "cnn":  # whose own design has one
            written["model.own_norm"] = None
    return written


def _range(name: str, knob: Knob) -> str:
    """Return the override that searches a knob's whole range."""
    if isinstance(knob, Choice):
        return f"{name}={','.join('null' if o == 'none' else short(o) for o in knob.options)}"
    span = f"interval({knob.low!r},{knob.high!r})"
    return f"{name}=tag({'log' if knob.log else 'linear'},{f'int({span})' * knob.integer or span})"
