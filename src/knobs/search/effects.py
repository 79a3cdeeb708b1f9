"""Effects of knobs on other tasks: how much of what tells settings apart is due to each."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from knobs.search import coordinates
from knobs.search.prior import Prior
from knobs.search.space import Choice, Knob, Knobs

POINTS = 7  # log2 of the settings at which they are computed
LEAST = 2  # knobs of which something is known: of one alone nothing follows
INSIDE, STEPS = 0.75, 32  # of a knob's range that the tasks had as well; steps it is looked at in


def total_effects(knobs: Knobs, context: Mapping[str, Any], prior: Prior) -> dict[str, float]:
    """Return knob -> its mean total effect on the tasks of a prior, a share in [0, 1].

    Of each task's smooth scores, over the space that is searched: with f(A) at settings A and
    f(A_k) with knob k drawn anew, T_k = E (f(A) - f(A_k))^2 / 2 / Var f (Jansen 1999).

    Args:
        context: config key or group -> its value, of what is not searched.

    Returns: Nothing where the prior knows fewer than LEAST of the knobs. It knows nothing of one
        that is searched where the tasks never were.
    """
    from scipy.stats import qmc

    fixed = coordinates.context(context)
    named = {name: knob for name, knob in knobs.items() if _inside(name, knob, fixed) >= INSIDE}
    if len(named) < LEAST:
        return {}
    d = len(named)
    u = qmc.Sobol(2 * d, rng=np.random.default_rng(0)).random_base2(POINTS)
    changed = [np.where(np.arange(d) == k, u[:, d:], u[:, :d]) for k in range(d)]
    rows = [
        {name: knob.from_unit(place) for (name, knob), place in zip(named.items(), at, strict=True)}
        for at in np.concatenate([u[:, :d], *changed])
    ]
    kind, task = fixed.get("model"), fixed.get("type")
    f = prior.functions(coordinates.coordinates(fixed, rows), kind).reshape(1 + d, len(u), -1)
    effects = ((f[:1] - f[1:]) ** 2).mean(1) / 2 / np.maximum(f.var((0, 1)), 1e-12)
    shares = np.clip(effects, 0, 1) @ prior.weights(kind, task)  # (knobs, tasks) -> (knobs,)
    return dict(zip(named, shares.tolist(), strict=True))


def _inside(name: str, knob: Knob, fixed: Mapping[str, Any]) -> float:
    """Return the share of a knob's range, or of its options, that the tasks of a prior had."""
    if not coordinates.known(name):
        return 0.0
    if isinstance(knob, Choice):
        rows = coordinates.coordinates(fixed, [{name: option} for option in knob.options])
        part = coordinates.known(name)
        rest = {key: value for key, value in fixed.items() if key != part}
        bare = np.isnan(coordinates.coordinates(rest, [{}])).sum()
        missing = np.isnan(rows).sum(1)
        # Of these two groups something is known where nothing says which option it is.
        there = missing <= bare if part in ("optimizer", "regularization") else missing < bare
        return float(there.mean())
    values = dict.fromkeys(knob.from_unit(u) for u in np.linspace(0, 1, STEPS + 1))
    bare = {part: value for part, value in fixed.items() if part != "lr"}  # it moves with others
    rows = coordinates.coordinates(bare, [{name: value} for value in values])
    steps = np.abs(np.diff(np.nan_to_num(rows), axis=0)).sum(1)  # beyond an edge all are the same
    return float((steps > 0).mean())
