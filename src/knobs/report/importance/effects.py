"""Rank knobs by a table of runs: three effects of each, with 90 % intervals.

breaks   failure effect: its total effect on whether a run fails or diverges
moves    total-order effect: its total effect on the objective among the runs that worked
gain     expected gain of freeing this knob alone over the default, in the objective's unit

The total effect is the share of the variance that is left when all other knobs are known: the
knob's own effect and every interaction it takes part in, so shares may add up to more than 1. It is
a property of the whole search space, whatever settings a search happened to try.

A Gaussian process is fitted to the runs and whole functions are drawn from it; a value and its
interval are the median and the 5 % and 95 % quantiles of the same answers over these functions. A
resample differs in all that is not known: the settings it saw (a share of them, all seeds of a
setting or none, since these are replicates), the process's hyperparameters, the function drawn, and
the weights of the points at which effects are computed.

No objective is a draw of a Gaussian process, so its likelihood counts for less than it claims
(gp.TEMPER), and a second model has a say: a random forest, which sees steps where the process sees
waves. Knobs are ordered by the mean of both; where the two disagree about the first one, it is not
decided. Of a single knob the total effect is 1 by definition, and nothing is said.

What becomes of runs that are not plain:

- Failed or diverged (value None): they count for `breaks` alone. `moves` compares settings of
  which both work: each pair is weighted by the predicted probability that it does.
- Pruned: the value is a bound. What the run would have reached lies between it and the median of
  the runs that finished, for it was stopped because it was behind. A resample puts all pruned
  runs at one random fraction of that way.
- A knob is missing: it is inactive there. Where a knob with choices explains by its value which
  runs miss it, the same holds in the whole space: an inactive knob sits at its middle and moves
  nothing. Where none does, these runs are taken to sit at the middle, and the knob as active.
- A knob never varied: nothing is known of it, 0 in [0, 1].
- Values more than three interquartile ranges outside the quartiles are pulled to that fence: a
  single exploded loss would be all the variance there is.

Sources: Homma and Saltelli 1996 (total effects), Jansen 1999 (their estimator), Liu and Owen 2006
(the total effect of a pair), Tukey 1977 (fences), Yeo and Johnson 2000
(values are transformed to be less skewed, and effects computed on their own scale again).
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from knobs.report.conclusions import Estimate, Importance, KnobImportance
from knobs.report.importance.space import Space
from knobs.report.records import Knob

Array, Rng = np.ndarray, np.random.Generator
Points = tuple[Array, Array]
Functions = Callable[[Array], Array]  # points [m, C] -> one function's values a resample, [r, m]
SURE, SAID = 0.9, 0.6  # probability of being first: no doubt; enough to say so
LEVELS = (0.05, 0.95)
NOTHING = 0.01  # an effect that cannot be told from none: an interval that begins below begins at 0
RESAMPLES = 100  # functions drawn
GROUPS = 16  # sets of hyperparameters and of settings, shared by RESAMPLES / GROUPS functions
SEEN = 0.8  # of the settings, which a group of functions saw
FEWEST = 3  # settings, below which nothing is said
MOST = 600  # runs behind a function: the cost grows with their cube
POINTS, PAIR_POINTS = 9, 7  # log2 of the points at which effects are computed
PAIRED = 8  # leading knobs of which pairs are looked at
GRID = 33  # values that a freed knob may take
TINY = 1e-300
FENCE = 3.0  # interquartile ranges
HUGE = 1e100  # a value beyond it is a run that diverged
FURTHEST = 20  # times the runs at hand: more than that is no advice
UNKNOWN, NONE = Estimate(0.0, 0.0, 1.0), Estimate(0.0, 0.0, 0.0)


def importance(
    knobs: Sequence[Knob],
    rows: Sequence[dict[str, Any]],
    values: Sequence[float | None],
    mode: str,
    default: dict[str, Any] | None = None,
    pruned: Sequence[bool] | None = None,
    seed: int = 0,
) -> Importance:
    """Rank knobs by what they do, and say how sure that is (see the top of this file).

    Args:
        knobs: the search space.
        rows: a dict a run, knob -> value. An arm of a study is a knob with choices.
        values: the objective; None, or not finite, where the run failed or diverged. Leave out
            interrupted runs: they say nothing of their setting.
        mode: "min" or "max".
        default: what `gain` is measured from.
        pruned: True where the run was stopped for being behind.
    """
    pruned = [False] * len(rows) if pruned is None else pruned
    assert len({knob.name for knob in knobs}) == len(knobs), "a knob is there twice"
    assert len(rows) == len(values) == len(pruned), "one of each a run"
    assert mode in ("min", "max"), mode
    y = np.array([np.nan if value is None else value for value in values], float)
    works = np.abs(y) < HUGE
    bound = np.array(pruned, bool) & works
    rng = np.random.default_rng(seed)
    space = Space(knobs, rows, default)
    x = space.encode(space.rows)
    points = space.points(rng, POINTS) if space.varied else None
    breaks, working = _what_breaks(space, x, works, points, rng)
    better = y[works] if mode == "max" else -y[works]
    targets = _targets(better, bound[works], rng, RESAMPLES)
    moves, gain, first, pairs, more = _what_moves(space, x[works], targets, working, points, rng)
    names = [knobs[k].name for k in space.varied]
    answers = dict(zip(names, zip(breaks, moves, gain, first, strict=True), strict=True))
    still = (UNKNOWN, UNKNOWN, None, 0.0)
    forest = _forest(x[works], space.owner, targets.mean(1), names)
    ranked = _ordered([KnobImportance(k.name, *answers.get(k.name, still)) for k in knobs], forest)
    decided = _decided(ranked, forest)
    predicts, any_effect = _known(space, x[works], targets, rng)
    return Importance(
        knobs=tuple(ranked),
        interactions={(names[i], names[j]): share for (i, j), share in pairs.items()},
        decided=decided,
        more=more if decided == "no" else 0,
        forest=forest,
        predicts=predicts,
        any_effect=any_effect,
        settings=len(np.unique(x[works], axis=0)),
        worked=int(works.sum()),
        broke=int((~works).sum()),
        pruned=int(bound.sum()),
    )


def _forest(x: Array, owner: Array, y: Array, names: list[str]) -> dict[str, float] | None:
    """Return a random forest's mean decrease of impurity by knob; None where it cannot tell.

    The baseline of other tools: shares that add up to 1, without an interval.
    """
    if len(names) < 2 or len(np.unique(x, axis=0)) < FEWEST or not np.ptp(y):
        return None
    try:
        from sklearn.ensemble import RandomForestRegressor  # 0.7 s
    except ImportError:
        return None
    shares = RandomForestRegressor(random_state=0).fit(x, y).feature_importances_
    return dict(zip(names, np.bincount(owner, shares).tolist(), strict=True))


def _ordered(knobs: list[KnobImportance], forest: dict[str, float] | None) -> list[KnobImportance]:
    """Order knobs by the mean of the process's shares, scaled to add up to 1, and the forest's."""
    moves = {knob.name: knob.moves.value if knob.moves else 1.0 for knob in knobs}
    total = sum(moves.values()) or 1.0
    shares = {name: moves[name] / total + (forest or {}).get(name, 0.0) for name in moves}
    return sorted(knobs, key=lambda knob: (-shares[knob.name], -knob.breaks.value))


def _decided(ranked: list[KnobImportance], forest: dict[str, float] | None) -> str:
    """Say how sure it is that the first knob is first: no more than both models allow."""
    if not ranked or (forest and max(forest, key=forest.__getitem__) != ranked[0].name):
        return "no"
    top = ranked[0].p_top
    return "sure" if top >= SURE else "said" if top >= SAID else "no"


def _known(space: Space, x: Array, targets: Array, rng: Rng) -> tuple[float | None, float | None]:
    """Return how well left-out settings are predicted (R2), and p that no knob has an effect.

    (None, None) with too few settings.
    """
    from knobs.report.importance import gp

    if not space.varied or len(np.unique(x, axis=0)) < FEWEST + 1:
        return None, None
    if len(x) > MOST:
        some = np.sort(rng.choice(len(x), MOST, replace=False))
        x, targets = x[some], targets[some]
    y = targets.mean(1)
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        return None, None
    y = (y - y.mean()) / y.std()
    thetas = gp.hyperparameters(x, space.owner, y, gp.TRUSTED, rng)
    return gp.left_out(x, space.owner, y, thetas), gp.any_effect(x, space.owner, y, rng)


def _what_breaks(
    space: Space, x: Array, works: Array, points: Points | None, rng: Rng
) -> tuple[list[Estimate], Functions]:
    """`breaks` of each knob that varied, and the probability that a setting works."""
    d = len(space.varied)
    few = len(np.unique(x, axis=0)) < FEWEST
    if few or works.all() or not works.any():
        return [UNKNOWN if few else NONE] * d, lambda at: np.ones((RESAMPLES, len(at)))
    drawn = _functions(x, space.owner, np.repeat(works[:, None] * 1.0, RESAMPLES, 1), rng)
    changes = [(), *((k,) for k in range(d))]
    chances = np.clip(drawn(_blocks(space, points, changes)), 0, 1)
    total = _effects(chances, np.ones_like(chances), changes, rng)
    return [_share(draws) for draws in total.T], lambda at: np.clip(drawn(at), 0, 1)


def _what_moves(
    space: Space, x: Array, targets: Array, working: Functions, points: Points | None, rng: Rng
) -> tuple[list[Estimate | None], list[Estimate | None], list[float], dict, int | None]:
    """Effects on the objective, from runs x [n, C] that worked.

    Returns: `moves`, `gain` and the probability to be first, [d] each; the pairs' interactions,
        (k, k) -> share; and how many more settings would decide which knob is first.
    """
    d, settings = len(space.varied), len(np.unique(x, axis=0))
    if settings < FEWEST or not d:
        effect = UNKNOWN if d > 1 else None  # of a single one it is 1, which none gives
        return [effect] * d, [None] * d, [0.0] * d, {}, None
    if np.ptp(targets) <= 1e-12 * np.abs(targets).max():
        return [NONE] * d, [None if space.default is None else NONE] * d, [0.0] * d, {}, None
    objective = _objective(x, space.owner, targets, rng)
    changes = [(), *((k,) for k in range(d))]
    at = _blocks(space, points, changes)
    total = _effects(objective(at), working(at), changes, rng)
    first = np.bincount(total.argmax(1), minlength=d) / len(total)
    more = 0 if first.max() >= SAID else _more(total, settings)
    leading = sorted(np.argsort(-total.mean(0))[:PAIRED].tolist())
    pairs, shares = list(itertools.combinations(leading, 2)), {}
    if pairs:
        changes += pairs
        at = _blocks(space, tuple(sample[: 2**PAIR_POINTS] for sample in points), changes)
        both = _effects(objective(at), working(at), changes, rng)
        shares = {pair: _share(draws) for pair, draws in zip(pairs, both.T, strict=True)}
        shares = dict(sorted(shares.items(), key=lambda pair: -pair[1].value))
    gain = [None] * d if space.default is None else _gains(objective, working, space)
    if d == 1:  # all there is, by definition
        return [None], gain, [0.0], {}, None
    return [_share(draws) for draws in total.T], gain, first.tolist(), shares, more


# ------------------------------------------------------------------ runs -> functions
def _targets(y: Array, bound: Array, rng: Rng, resamples: int) -> Array:
    """Draw the values that each resample takes the runs to have reached, [n, resamples]."""
    if not len(y):
        return np.zeros((0, resamples))
    first, third = np.quantile(y, [0.25, 0.75])
    reach = FENCE * (third - first)
    y = np.clip(y, first - reach, third + reach) if reach else y
    finished = y[~bound] if not bound.all() else y
    rest = np.maximum(np.median(finished) - y, 0) * bound
    return y[:, None] + rest[:, None] * rng.random(resamples)


def _objective(x: Array, owner: Array, targets: Array, rng: Rng) -> Functions:
    """Draw functions on a scale on which the targets are not skewed, and bring them back."""
    from scipy import special, stats

    shift, scale = targets.mean(), targets.std()
    y = (targets - shift) / scale
    _, power = stats.yeojohnson(y.mean(1))
    z = stats.yeojohnson(y, power)
    least, most = z.min() - z.std(), z.max() + z.std()
    drawn = _functions(x, owner, z, rng)

    def inverse(z: Array) -> Array:
        z = np.clip(z, least, most)
        up = special.inv_boxcox1p(np.maximum(z, 0), power)
        down = -special.inv_boxcox1p(np.maximum(-z, 0), 2 - power)
        whole = np.where(z > 0, up, down)
        near = np.ptp(y) / 2  # the inverse may reach infinity
        return np.clip(np.nan_to_num(whole, nan=np.inf), y.min() - near, y.max() + near)

    return lambda at: shift + scale * inverse(drawn(at))


def _functions(x: Array, owner: Array, targets: Array, rng: Rng) -> Functions:
    """Draw a Gaussian process's functions, each group under its own hyperparameters and settings.

    Args:
        x: [n, C]; targets: [n, resamples].
    """
    from knobs.report.importance import gp

    middle = targets.mean(1)
    shift, scale = middle.mean(), middle.std() or 1.0
    thetas = gp.hyperparameters(x, owner, (middle - shift) / scale, GROUPS, rng)
    _, setting = np.unique(x, axis=0, return_inverse=True)
    setting = setting.ravel()
    count, groups = setting.max() + 1, []
    parts = np.array_split((targets - shift) / scale, GROUPS, 1)
    for theta, part in zip(thetas, parts, strict=True):
        seen = rng.permutation(count)[: math.ceil(SEEN * count)]
        rows = np.flatnonzero(np.isin(setting, seen))
        if len(rows) > MOST:
            rows = rng.choice(rows, MOST, replace=False)
        groups.append(gp.draw(x[rows], owner, part[rows], theta, rng))
    return lambda at: shift + scale * gp.evaluate(groups, at)


# ------------------------------------------------------------------ functions -> answers
def _blocks(space: Space, points: Points, changes: list[tuple]) -> Array:
    """Return the first sample, with the second's columns of the knobs in each change: [c m, C]."""
    first, second = points
    moved = (np.isin(np.arange(first.shape[1]), change) for change in changes)
    return space.encode(np.concatenate([space.active(np.where(m, second, first)) for m in moved]))


def _effects(f: Array, w: Array, changes: list[tuple], rng: Rng) -> Array:
    """Total effects of knobs and pairs, [resamples, effects]: shares of the variance.

    With f(A) at the first sample and f(A_k) with knob k's column of the second,
    T_k = E (f(A) - f(A_k))^2 / 2 / Var f, and for a pair
    T_ij = E (f(A) - f(A_i) - f(A_j) + f(A_ij))^2 / 4 / Var f.

    Args:
        f: [resamples, changes * m], values at the blocks of these changes.
        w: the same, probabilities that the setting works.
        changes: () for f(A), then (k,) of all knobs, and pairs (i, j) or none; these are answered
            if there are any, else the knobs.
    """
    f, w = (values.reshape(len(values), len(changes), -1) for values in (f, w))
    # The Bayesian bootstrap of the points: what a sample of this size leaves open.
    weight = rng.dirichlet(np.ones(f.shape[2]), len(f))[:, None]
    f = f - f.mean((1, 2), keepdims=True)
    seen = weight * w
    seen /= np.maximum(seen.sum((1, 2), keepdims=True), TINY)
    spread = (seen * f * f).sum((1, 2)) - (seen * f).sum((1, 2)) ** 2
    spread = np.maximum(spread, TINY)
    place = {change: c for c, change in enumerate(changes)}
    asked = [change for change in changes if len(change) == max(map(len, changes))]
    effects = []
    for change in asked:
        corners = [place[()], *(place[k,] for k in change)] + [place[change]] * (len(change) > 1)
        signs = [1, -1, -1, 1][: len(corners)]
        difference = sum(sign * f[:, c] for sign, c in zip(signs, corners, strict=True))
        both = weight[:, 0] * w[:, corners].prod(1)
        square = (both * difference**2).sum(1) / np.maximum(both.sum(1), TINY)
        effects.append(np.clip(square / len(corners) / spread, 0, 1))
    return np.array(effects).T


def _share(draws: Array) -> Estimate:
    """Estimate a share of the variance from its draws [resamples]."""
    found = _estimate(draws)
    return found if found.low >= NOTHING else replace(found, low=0.0)


def _estimate(draws: Array) -> Estimate:
    """Return the median of draws [resamples] and their 5 % and 95 % quantiles.

    A mean may lie outside the quantiles of skewed draws; a median cannot.
    """
    low, high = LEVELS
    return Estimate(*map(float, np.quantile(draws, [0.5, low, high])))


def _more(total: Array, settings: int) -> int | None:
    """The number of further settings that would decide which knob is first.

    The spread of the draws shrinks with the square root of the settings; their means stay.
    """
    mean = total.mean(0)
    for factor in np.geomspace(1.05, FURTHEST, 60):
        shrunk = mean + (total - mean) / math.sqrt(factor)
        if np.bincount(shrunk.argmax(1)).max() >= SAID * len(total):
            return math.ceil(settings * (factor - 1))
    return None


def _gains(objective: Functions, working: Functions, space: Space) -> list[Estimate]:
    """From the default to the best value of each knob alone.

    The best value is chosen by one group of functions and priced by another, or the gain would
    be that of the luckiest guess. Values that would rather break are no candidates.
    """
    default, gains = space.active(space.default[None]), []
    for k, scale in enumerate(space.scales):
        if np.isnan(default[0, k]):  # inactive there
            gains.append(NONE)
            continue
        freed = np.unique(scale.spread(np.linspace(0, 1, GRID)))
        at = np.repeat(default, 1 + len(freed), 0)
        at[1:, k] = freed
        at = space.encode(space.active(at))
        f = objective(at)
        f -= f[:, :1].copy()
        f[:, working(at).mean(0) < 0.5] = -np.inf
        f[:, 0] = 0
        groups = np.array_split(f, GROUPS)
        best = [group.mean(0).argmax() for group in groups]
        priced = zip(groups, best[1:] + best[:1], strict=True)
        draws = np.concatenate([group[:, choice] for group, choice in priced])
        gains.append(_estimate(draws))
    return gains
