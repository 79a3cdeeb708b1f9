"""Which knob matters? From a table of runs, three answers a knob, each with a 90 % interval.

breaks   its total effect on whether a run fails or diverges
moves    its total effect on the objective among the runs that worked
gain     what freeing this knob alone promises over the default, in the objective's unit

The total effect is the share of the variance that is left when all other knobs are known: the
knob's own effect and every interaction it takes part in, so shares may add up to more than 1. It is
a property of the whole search space, whatever settings a search happened to try.

A Gaussian process is fitted to the runs and whole functions are drawn from it; an interval is the
spread of an answer over these functions. A resample differs in all that is not known: the settings
it saw (a bootstrap of settings, since seeds of one setting are replicates; one drawn twice counts
once, or it would look like a run without noise), the process's hyperparameters, the function drawn,
and the weights of the points at which effects are computed.

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.errors import ConfigError

Array = np.ndarray
SURE, SAID = 0.9, 0.6  # probability of being first: no doubt; enough to say so
LEVELS = (0.05, 0.95)
NOTHING = 0.01  # an effect that cannot be told from none: an interval that begins below begins at 0
GROUPS = 16  # sets of hyperparameters and of settings, shared by resamples / GROUPS functions
KEPT = 0.8  # of the settings, in each group
FEWEST = 3  # settings, below which nothing is said
MOST = 600  # runs behind a function: the cost grows with their cube
POINTS, PAIR_POINTS = 9, 7  # log2 of the points at which effects are computed
PAIRED = 8  # leading knobs of which pairs are looked at
GRID = 33  # values that a freed knob may take
TINY = 1e-300
FENCE = 3.0  # interquartile ranges
FURTHEST = 20  # times the runs at hand: more than that is no advice


@dataclass(frozen=True)
class Knob:
    """One axis of the search space.

    Args:
        low, high: of a numeric knob.
        log: whether equal ratios, not equal differences, are equally far.
        choices: of a categorical knob. Three or more numbers are taken as steps of a scale.
        integer: whether only whole numbers exist.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Sequence[Any] | None = None
    integer: bool = False


@dataclass(frozen=True)
class Estimate:
    """A value and its 90 % interval."""

    value: float
    low: float
    high: float


UNKNOWN, NONE = Estimate(0.0, 0.0, 1.0), Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class KnobImportance:
    """One knob's three answers (see the top of this file).

    Args:
        gain: larger is better in either mode; may be negative; None without a default or runs.
        p_top: probability that no other knob moves the objective more.
    """

    name: str
    breaks: Estimate
    moves: Estimate
    gain: Estimate | None
    p_top: float


@dataclass(frozen=True)
class Importance:
    """What a table of runs says about its knobs.

    Args:
        knobs: the one that moves the objective most comes first.
        interactions: (knob, knob) -> share of the variance that is due to both together, largest
            first, among the leading knobs.
        decided: whether the first knob is first: "sure" (p_top >= .9), "said" (>= .6) or "no".
        more: where not decided, about how many more settings would decide it; None where that is
            beyond reason, which means that the leading knobs are about equal.
        settings: different ones among the runs that worked.
        worked, broke, pruned: numbers of runs; the pruned ones are among those that worked.
    """

    knobs: tuple[KnobImportance, ...]
    interactions: dict[tuple[str, str], Estimate]
    decided: str
    more: int | None
    settings: int
    worked: int
    broke: int
    pruned: int


def importance(
    knobs: Sequence[Knob],
    rows: Sequence[dict[str, Any]],
    values: Sequence[float | None],
    mode: str,
    default: dict[str, Any] | None = None,
    pruned: Sequence[bool] | None = None,
    resamples: int = 100,
    seed: int = 0,
) -> Importance:
    """Which knobs matter, and how sure that is (see the top of this file).

    Args:
        knobs: the search space.
        rows: a dict a run, knob -> value. An arm of a study is a knob with choices.
        values: the objective; None, or not finite, where the run failed or diverged. Leave out
            interrupted runs: they say nothing of their setting.
        mode: "min" or "max".
        default: what `gain` is measured from.
        pruned: True where the run was stopped for being behind.
        resamples: functions drawn, >= 16.

    Raises:
        ConfigError: arguments that do not fit together.
    """
    pruned = [False] * len(rows) if pruned is None else pruned
    _check(knobs, rows, values, mode, pruned, resamples)
    y = np.array([np.nan if value is None else value for value in values], float)
    works = np.isfinite(y)
    bound = np.array(pruned, bool) & works
    space, rng = Space(knobs, rows, default), np.random.default_rng(seed)
    x = space.encode(space.rows)
    settings = len(np.unique(x[works], axis=0))
    count = {
        "settings": settings,
        "worked": int(works.sum()),
        "broke": int((~works).sum()),
        "pruned": int(bound.sum()),
    }
    names, d = [knob.name for knob in knobs], len(space.varied)
    points = space.points(rng, POINTS) if d else None

    single = [(), *((k,) for k in range(d))]
    at = _blocks(space, points, single) if d else None
    working = None  # P(a setting works), where that is a question
    different = len(np.unique(x, axis=0))
    breaks = dict.fromkeys(names, UNKNOWN)
    if works.all() or not works.any():
        breaks |= dict.fromkeys(names if different >= FEWEST else [], NONE)
    elif d and different >= FEWEST:
        chances = _functions(
            x, space.owner, np.repeat(works[:, None].astype(float), resamples, 1), rng
        )
        working = lambda at: np.clip(chances(at), 0, 1)  # noqa: E731

    def chance(at: Array) -> Array:
        return np.ones((resamples, len(at))) if working is None else working(at)

    def effects(f: Array, w: Array, changes: list[tuple]) -> Array:
        shape = (resamples, len(changes), -1)
        return _effects(f.reshape(shape), w.reshape(shape), changes, rng)

    def named(found: Iterable[Any]) -> dict[str, Any]:
        return {names[k]: one for k, one in zip(space.varied, found, strict=True)}

    w = chance(at) if d else None
    if working:
        breaks |= named(map(_share, effects(w, np.ones_like(w), single).T))
    moves, gain = dict.fromkeys(names, UNKNOWN), dict.fromkeys(names)
    interactions, p_top, decided, more = {}, dict.fromkeys(names, 0.0), "no", None
    if settings >= FEWEST and d:
        better = y[works] if mode == "max" else -y[works]
        targets = _targets(better, bound[works], rng, resamples)
        if np.ptp(targets) <= 1e-12 * np.abs(targets).max():
            moves |= named([NONE] * d)
            gain |= named([NONE] * d) if default is not None else {}
        else:
            objective = _objective(x[works], space.owner, targets, rng)
            total = effects(objective(at), w, single)
            moves |= named(map(_share, total.T))
            first = np.bincount(total.argmax(1), minlength=d) / resamples
            p_top |= named(map(float, first))
            decided = "sure" if first.max() >= SURE else "said" if first.max() >= SAID else "no"
            more = 0 if decided != "no" else _more(total, settings)
            leading = sorted(np.argsort(-total.mean(0))[:PAIRED].tolist())
            pairs = list(itertools.combinations(leading, 2))
            if pairs:
                fewer = tuple(sample[: 2**PAIR_POINTS] for sample in points)
                changes = single + pairs
                corners = _blocks(space, fewer, changes)
                both = effects(objective(corners), chance(corners), changes)
                found = {
                    (names[space.varied[i]], names[space.varied[j]]): _share(share)
                    for (i, j), share in zip(pairs, both.T, strict=True)
                }
                interactions = dict(sorted(found.items(), key=lambda pair: -pair[1].value))
            if default is not None:
                gain |= named(_gains(objective, working, space))
    found = [KnobImportance(n, breaks[n], moves[n], gain[n], p_top[n]) for n in names]
    found.sort(key=lambda knob: (-knob.moves.value, knob.moves.high, -knob.breaks.value))
    return Importance(tuple(found), interactions, decided, more, **count)


def _check(knobs, rows, values, mode, pruned, resamples) -> None:  # noqa: ANN001
    """Arguments that do not fit together are said before anything is computed."""
    names = [knob.name for knob in knobs]
    if len(set(names)) < len(names):
        raise ConfigError(f"knobs: {', '.join(names)}: each name may be there once")
    if not len(rows) == len(values) == len(pruned):
        raise ConfigError(
            f"rows, values, pruned: {len(rows)}, {len(values)}, {len(pruned)}: one of each a run"
        )
    if mode not in ("min", "max"):
        raise ConfigError(f"mode={mode}: must be min or max")
    if resamples < GROUPS:
        raise ConfigError(f"resamples={resamples}: must be at least {GROUPS}")
    for knob in knobs:
        if knob.choices is not None:
            continue
        if knob.low is None or knob.high is None or not knob.low < knob.high:
            raise ConfigError(
                f"{knob.name}: low={knob.low}, high={knob.high}: a knob has choices, or low < high"
            )
        if knob.log and knob.low <= 0:
            raise ConfigError(f"{knob.name}: low={knob.low}: must be above 0 on a log scale")


# ------------------------------------------------------------------ settings <-> the unit cube
class Space:
    """The knobs that varied, as columns of numbers.

    A position is a knob's value on a scale: 0 to 1 from low to high (a scale of choices: from the
    first to the last), the number of the choice for a categorical one, NaN where it is inactive.

    Args:
        rows: [n, d], positions of the runs; default: [d], of the default.
        varied: [d], which of the knobs given they are.
        owner: [C], the knob of each column of `encode`.
    """

    def __init__(
        self,
        knobs: Sequence[Knob],
        rows: Sequence[dict[str, Any]],
        default: dict[str, Any] | None,
    ):
        seen = [*rows, *([] if default is None else [default])]
        scales = [_scale(knob, [row.get(knob.name) for row in seen]) for knob in knobs]
        at = np.array(
            [
                [scale.position(row.get(k.name)) for k, scale in zip(knobs, scales, strict=True)]
                for row in seen
            ]
        )
        at = at.reshape(len(seen), len(knobs))
        runs = at[: len(rows)]
        varied = [
            k for k in range(len(knobs)) if len(np.unique(runs[:, k][~np.isnan(runs[:, k])])) > 1
        ]
        self.varied = varied
        self.scales = [scales[k] for k in varied]
        self.rows = runs[:, varied]
        self.default = None if default is None else at[-1, varied]
        widths = [scale.levels or 1 for scale in self.scales]
        self.owner = np.repeat(np.arange(len(varied)), widths)
        self.rules = [self._rule(k) for k in range(len(varied))]

    def _rule(self, k: int) -> tuple[int, list[float]] | None:
        """The first knob with choices that tells where knob k is inactive, and by which values."""
        absent = np.isnan(self.rows[:, k])
        for other, scale in enumerate(self.scales):
            if other == k or not scale.choices or not absent.any():
                continue
            at = np.nan_to_num(self.rows[:, other], nan=-1)
            share = {value: absent[at == value].mean() for value in np.unique(at)}
            if set(share.values()) <= {0.0, 1.0}:
                return other, [value for value, gone in share.items() if gone]
        return None

    def active(self, at: Array) -> Array:
        """Positions [m, d], with NaN where a rule says that a knob is inactive."""
        at = at.copy()
        for k, rule in enumerate(self.rules):
            if rule:
                at[np.isin(np.nan_to_num(at[:, rule[0]], nan=-1), rule[1]), k] = np.nan
        return at

    def encode(self, at: Array) -> Array:
        """Columns [m, C] in the unit cube; two choices are as far apart as low and high."""
        columns = [np.zeros((len(at), 0))]
        for k, scale in enumerate(self.scales):
            own = at[:, k, None]
            if scale.levels:
                columns.append((own == np.arange(scale.levels)) / math.sqrt(2))
            else:
                columns.append(np.where(np.isnan(own), 0.5, own))
        return np.concatenate(columns, 1)

    def points(self, rng: np.random.Generator, log2: int) -> tuple[Array, Array]:
        """Two quasi-random samples of the space, [m, d] each, as positions."""
        from scipy.stats import qmc

        d = len(self.varied)
        u = qmc.Sobol(2 * d, rng=rng).random_base2(log2)
        at = np.stack([scale.spread(u[:, k]) for k, scale in enumerate([*self.scales] * 2)], 1)
        return at[:, :d], at[:, d:]


@dataclass(frozen=True)
class _Scale:
    """How a knob's values become positions; `levels` is 0 unless they are categories."""

    position: Callable[[Any], float]
    spread: Callable[[Array], Array]  # uniform in [0, 1) -> positions of the search space
    choices: int = 0
    levels: int = 0


def _scale(knob: Knob, seen: list[Any]) -> _Scale:
    if knob.choices is None:
        return _numeric(knob)
    choices = list(knob.choices)
    count = len(choices)
    if count > 2 and all(_is_number(choice) for choice in choices):
        ordered = sorted(float(choice) for choice in choices)
        ranks = np.linspace(0, 1, count)
        return _Scale(
            lambda value: float(np.interp(value, ordered, ranks)) if _is_number(value) else np.nan,
            lambda u: ranks[np.minimum((u * count).astype(int), count - 1)],
            count,
        )
    known = [_key(choice) for choice in choices]
    known += dict.fromkeys(k for k in map(_key, seen) if k != _key(None) and k not in known)
    place = {key: float(i) for i, key in reversed(list(enumerate(known)))}
    return _Scale(
        lambda value: place.get(_key(value), np.nan),
        lambda u: np.minimum(np.floor(u * count), count - 1),
        count,
        len(known),
    )


def _numeric(knob: Knob) -> _Scale:
    warp, back = (math.log, np.exp) if knob.log else (float, np.asarray)
    low, width = warp(knob.low), warp(knob.high) - warp(knob.low)

    def position(value: Any) -> float:
        if not _is_number(value):
            return np.nan
        if knob.log and value <= 0:  # "off"
            return 0.0
        return min(max((warp(value) - low) / width, -0.25), 1.25)

    def spread(u: Array) -> Array:
        if not knob.integer:
            return u
        least, most = warp(knob.low - 0.5), warp(knob.high + 0.5)
        whole = np.clip(np.round(back(least + u * (most - least))), knob.low, knob.high)
        return ((np.log(whole) if knob.log else whole) - low) / width

    return _Scale(position, spread)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _key(value: Any) -> str:
    """What tells choices apart: 1 is 1.0, True is not."""
    return repr(float(value)) if _is_number(value) else repr(value)


# ------------------------------------------------------------------ runs -> functions
def _targets(y: Array, bound: Array, rng: np.random.Generator, resamples: int) -> Array:
    """What each resample takes the runs to have reached, [n, resamples]; larger is better."""
    first, third = np.quantile(y, [0.25, 0.75])
    reach = FENCE * (third - first)
    y = np.clip(y, first - reach, third + reach) if reach else y
    finished = y[~bound] if not bound.all() else y
    rest = np.maximum(np.median(finished) - y, 0) * bound
    return y[:, None] + rest[:, None] * rng.random(resamples)


def _objective(
    x: Array, owner: Array, targets: Array, rng: np.random.Generator
) -> Callable[[Array], Array]:
    """Functions drawn on a scale on which the targets are not skewed, and brought back."""
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


def _functions(
    x: Array, owner: Array, targets: Array, rng: np.random.Generator
) -> Callable[[Array], Array]:
    """A function of points [m, C] a resample, as one that answers with [resamples, m].

    Args:
        x: [n, C]; targets: [n, resamples].
    """
    from knobs.report import gp

    middle = targets.mean(1)
    shift, scale = middle.mean(), middle.std()
    thetas = gp.hyperparameters(x, owner, (middle - shift) / scale, GROUPS, rng)
    _, setting = np.unique(x, axis=0, return_inverse=True)
    setting = setting.ravel()
    count, groups = setting.max() + 1, []
    for theta, part in zip(
        thetas, np.array_split((targets - shift) / scale, GROUPS, 1), strict=True
    ):
        kept = rng.permutation(count)[: max(math.ceil(KEPT * count), 2)]
        rows = np.flatnonzero(np.isin(setting, kept))
        if len(rows) > MOST:
            rows = rng.choice(rows, MOST, replace=False)
        groups.append(gp.draw(x[rows], owner, part[rows], theta, rng))
    return lambda at: shift + scale * gp.evaluate(groups, at)


# ------------------------------------------------------------------ functions -> answers
def _blocks(space: Space, points: tuple[Array, Array], changes: list[tuple]) -> Array:
    """The first sample, with the second one's columns of the knobs in each change: [c m, C]."""
    blocks = []
    for change in changes:
        block = points[0].copy()
        block[:, change] = points[1][:, change]
        blocks.append(space.active(block))
    return space.encode(np.concatenate(blocks))


def _effects(f: Array, w: Array, changes: list[tuple], rng: np.random.Generator) -> Array:
    """Total effects of knobs and pairs, [resamples, effects]: shares of the variance.

    With f(A) at the first sample and f(A_k) with knob k's column of the second,
    T_k = E (f(A) - f(A_k))^2 / 2 / Var f, and for a pair
    T_ij = E (f(A) - f(A_i) - f(A_j) + f(A_ij))^2 / 4 / Var f.

    Args:
        f: [resamples, changes, m], values.
        w: the same, probabilities that the setting works.
        changes: () for f(A), then (k,) of all knobs, and pairs (i, j) or none; these are answered
            if there are any, else the knobs.
    """
    # The Bayesian bootstrap of the points: what a sample of this size leaves open.
    weight = rng.dirichlet(np.ones(f.shape[2]), len(f))[:, None]
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
    """Of a share of the variance, from its draws [resamples]."""
    low, high = np.quantile(draws, LEVELS)
    return Estimate(float(draws.mean()), float(low) if low >= NOTHING else 0.0, float(high))


def _more(total: Array, settings: int) -> int | None:
    """How many more settings would decide which knob is first.

    The spread of the draws shrinks with the square root of the settings; their means stay.
    """
    mean = total.mean(0)
    for factor in np.geomspace(1.05, FURTHEST, 60):
        shrunk = mean + (total - mean) / math.sqrt(factor)
        if np.bincount(shrunk.argmax(1)).max() >= SAID * len(total):
            return math.ceil(settings * (factor - 1))
    return None


def _gains(
    objective: Callable[[Array], Array],
    working: Callable[[Array], Array] | None,
    space: Space,
) -> list[Estimate]:
    """From the default to the best value of each knob alone.

    The best value is chosen by one group of functions and priced by another, or the gain would
    be that of the luckiest guess. Values that would rather break are no candidates.
    """
    u = (np.arange(GRID) + 0.5) / GRID
    gains = []
    for k, scale in enumerate(space.scales):
        if np.isnan(space.default[k]):  # inactive at the default
            gains.append(NONE)
            continue
        freed = np.unique(scale.spread(u))
        at = np.repeat(space.default[None], 1 + len(freed), 0)
        at[1:, k] = freed
        at = space.encode(space.active(at))
        f = objective(at)
        f -= f[:, :1].copy()
        f[:, 1:][:, _breaks(working, at[1:])] = -np.inf
        f[:, 0] = 0
        groups = np.array_split(f, GROUPS)
        best = [group.mean(0).argmax() for group in groups]
        best = best[1:] + best[:1]
        draws = [group[:, choice] for group, choice in zip(groups, best, strict=True)]
        draws = np.concatenate(draws)
        gains.append(Estimate(float(draws.mean()), *map(float, np.quantile(draws, LEVELS))))
    return gains


def _breaks(working: Callable[[Array], Array] | None, at: Array) -> Array:
    """Where more than half of the runs are expected to break."""
    return np.zeros(len(at), bool) if working is None else working(at).mean(0) < 0.5
