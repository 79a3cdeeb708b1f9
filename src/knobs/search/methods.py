"""Propose a search's next values, as functions of what has been tried so far.

A method is a row of phases, each with the share of the budget at which it ends; a phase is a
function from a Task to values. Nothing is remembered between calls: the same seed, number and
history give the same values, in another process and after a resume too. Optuna's samplers are asked
through a study in memory that holds the history.
"""

import functools
import json
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState, create_trial

from knobs.errors import ConfigError
from knobs.search.belief import Belief, Cube
from knobs.search.prior import Outlook, View
from knobs.search.space import Choice, Knob, Knobs, Range

optuna.logging.set_verbosity(optuna.logging.ERROR)
SIGMA = 0.15  # of a Gaussian step in the unit cube
TRIES = 100  # to draw a point that was not tried yet
# Points that a belief is asked about: anywhere, at first or later; near the best.
MANY, SPREAD, TOPS, ABOUT, STEPS = 1500, 400, 5, 12, (0.1, 0.03)
Values = dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """A trial as a method sees it.

    Args:
        loss: what is minimised; None while it runs.
        pruned: it was ended early, so its loss is an upper bound.
    """

    values: Values
    phase: str
    loss: float | None = None
    pruned: bool = False

    @functools.cached_property
    def key(self) -> str:
        """Return its values as a text."""
        return _key(self.values)


@dataclass(frozen=True)
class Task:
    """The question to a phase: the values of one more trial.

    Args:
        tried: every trial of the arm so far, in the order of their numbers.
        default: values to start from, inside the knobs' ranges; None where there are none.
        seed: of the search.
        budget: number of trials there will be, as far as is known.
        view: what other tasks liked; None: nothing is known of that.
    """

    knobs: Knobs
    tried: Sequence[Tried] = ()
    default: Values | None = None
    seed: int = 0
    budget: float = math.inf
    view: View | None = None

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        """Return a stream of this trial alone: what an earlier one drew makes no difference."""
        return np.random.default_rng([self.seed, len(self.tried)])

    @property
    def best(self) -> Values | None:
        """Return the values with the least loss so far."""
        told = [t for t in self.tried if t.loss is not None]
        return min(told, key=lambda t: t.loss).values if told else None

    def point(self, values: Values) -> np.ndarray:
        """Map values to [number of knobs] in the unit cube."""
        return np.array([knob.to_unit(values[name]) for name, knob in self.knobs.items()])

    def values(self, point: Sequence[float]) -> Values:
        """Map a point to values of few digits, the inverse of `point`."""
        pairs = zip(self.knobs.items(), point, strict=True)
        return {name: knob.from_unit(float(u)) for (name, knob), u in pairs}

    def new(self, draw: Callable[[], Values]) -> Values:
        """Return what `draw` draws; not what was tried already, unless that is all there is."""
        before = {t.key for t in self.tried}
        for _ in range(TRIES):
            values = draw()
            if _key(values) not in before:
                break
        return values


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


# ------------------------------------------------------------------ phases
def default(task: Task) -> Values:
    """Return what the config says without a search."""
    return dict(task.default)


def random(task: Task) -> Values:
    """Draw uniformly from the unit cube."""
    return task.new(lambda: _uniform(task))


def _uniform(task: Task) -> Values:
    return task.values(task.rng.random(len(task.knobs)))


def sobol(task: Task) -> Values:
    """Take the next of a scrambled Sobol sequence: even over the cube, and over every face."""
    return _sobol(task, sum(t.phase == "sobol" for t in task.tried))


def _sobol(task: Task, index: int) -> Values:
    from scipy.stats import qmc

    engine = qmc.Sobol(len(task.knobs), scramble=True, rng=np.random.default_rng(task.seed))
    if index:
        engine.fast_forward(index)
    with warnings.catch_warnings():  # one point at a time is no balanced net, as it says
        warnings.simplefilter("ignore", UserWarning)
        return task.new(lambda: task.values(engine.random(1)[0]))


def mix(task: Task) -> Values:
    """Take in turns a Sobol point, a step from the default, and a step from the best so far.

    Hvarfner et al. 2022 (piBO) and Hutter et al. 2011 (SMAC) weigh a prior and an incumbent in
    other ways; draws in turns need no model.
    """
    turn = sum(t.phase == "mix" for t in task.tried)
    center = (None, task.default, task.best)[turn % 3]
    if center is None:
        return _sobol(task, turn // 3 if task.default is not None else turn - turn // 3)
    return task.new(lambda: _near(task, center))


def _near(task: Task, center: Values) -> Values:
    """Take a Gaussian step from a point; an option stays as it is, or not, with even odds."""
    point = task.point(center) + SIGMA * task.rng.standard_normal(len(task.knobs))
    point = 1 - abs(1 - abs(point))  # reflected at the faces
    values = task.values(point)
    for name, knob in task.knobs.items():
        if isinstance(knob, Choice):
            drawn = knob.from_unit(task.rng.random())
            values[name] = center[name] if task.rng.random() < 0.5 else drawn
    return values


def grid(task: Task) -> Values | None:
    """Return the next point of a full grid in random order; None when all were tried.

    Options and whole numbers are all there; continuous ranges get as many levels each, both bounds
    among them, as the budget allows.
    """
    free = [name for name, knob in task.knobs.items() if knob.levels is None]
    fixed = math.prod(knob.levels for knob in task.knobs.values() if knob.levels)
    if free and math.isinf(task.budget):
        raise ConfigError(f"search.method=grid: {free[0]} is continuous; say search.runs")
    each = max(2, int((task.budget / fixed) ** (1 / len(free)) + 1e-9)) if free else 0
    sizes = [knob.levels or each for knob in task.knobs.values()]
    size = math.prod(sizes)
    if len(task.tried) >= size:
        return None
    if size > 10**6:
        raise ConfigError(f"search.method=grid: {size:,} points; take fewer knobs, or sobol")
    order = np.random.default_rng(task.seed).permutation(size)
    place = np.unravel_index(order[len(task.tried)], sizes, order="F")
    cells = zip(place, sizes, task.knobs.values(), strict=True)
    return task.values([(i + 0.5) / n if knob.levels else i / (n - 1) for i, n, knob in cells])


def cmaes(task: Task) -> Values:
    """Take CMA-ES's next in the unit cube, replayed from the history: a generation a population."""
    from cmaes import CMA

    count = len(task.knobs)
    pad = max(2 - count, 0)  # it wants two dimensions: one more that changes nothing
    start = np.full(count, 0.5) if task.default is None else task.point(task.default)
    optimizer = CMA(
        mean=np.append(np.clip(start, 0.1, 0.9), [0.5] * pad),
        sigma=1 / 4,
        bounds=np.array([[0.0, 1.0]] * (count + pad)),
        seed=task.seed % 2**32,
    )
    size = optimizer.population_size
    tried = [t for t in task.tried if t.phase == "cmaes"]
    for first in range(0, len(tried) - size + 1, size):
        family = tried[first : first + size]
        if any(t.loss is None for t in family):
            break  # told out of order: this generation is still out
        points = [np.append(task.point(t.values), optimizer.ask()[count:]) for t in family]
        optimizer.tell([(x, t.loss) for x, t in zip(points, family, strict=True)])
    for _ in range(len(tried) - optimizer.generation * size + 1):
        point = optimizer.ask()
    return task.values(point[:count])


def gp(task: Task) -> Values:
    """Take the point with the highest expected improvement under a Gaussian process.

    Matern 5/2, a lengthscale a knob; trials under way are drawn from the process and integrated
    out (Ament et al. 2023, Unexpected Improvements to Expected Improvement, q-log-EI). Once three
    runs were whole, those that were ended early are left out: what they would have reached is not
    known, and where good and slow are neighbours their values mislead. It sees ranges as [0, 1],
    where whole numbers would cost GPSampler many times as much, and `scores` for losses.
    """
    if task.best is None:
        return random(task)
    whole = [t for t in task.tried if not t.pruned]
    if sum(t.loss is not None for t in whole) < 3:
        whole = task.tried
    sampler = GPSampler(
        seed=int(task.rng.integers(2**31)), n_startup_trials=1, warn_independent_sampling=False
    )
    ranges = {name: knob for name, knob in task.knobs.items() if isinstance(knob, Range)}
    history = []
    for tried, loss in zip(whole, scores([t.loss for t in whole]), strict=True):
        point = {name: knob.to_unit(tried.values[name]) for name, knob in ranges.items()}
        history.append(replace(tried, values=tried.values | point, loss=loss))
    values = _ask(task.knobs | dict.fromkeys(ranges, Range(0, 1, False)), sampler, history)
    values |= {name: knob.from_unit(values[name]) for name, knob in ranges.items()}
    before = {t.key for t in task.tried}
    return _near_best(task) if _key(values) in before else values  # the same would tell nothing


def _near_best(task: Task) -> Values:
    """Take a step from the best so far, or from anywhere where all nearby was tried."""
    nearby = iter(range(TRIES // 2))
    return task.new(
        lambda: _uniform(task) if next(nearby, None) is None else _near(task, task.best)
    )


def prior(task: Task) -> Values:
    """Take the point with the highest expected improvement under what other tasks liked.

    Before any run that is the point that they liked best. As often as the runs speak against the
    prior, the first two for each knob are those of a search that has none: of a Sobol sequence.
    """
    told = [t for t in task.tried if t.loss is not None]
    whole = [t for t in told if not t.pruned]
    told = whole if len(whole) >= 3 else told
    losses = np.array(scores([t.loss for t in told])) if told else np.empty(0)
    waiting = [t.values for t in task.tried if t.loss is None]
    seen = [*(t.values for t in told), *waiting]
    if waiting and not told:  # of one point there is nothing to learn: its loss may be any
        losses = np.zeros(1)
    belief = Belief(*_seen(task, seen), losses, task.rng) if seen else None
    few = len(task.tried) < 2 * len(task.knobs)
    if belief and few and van_der_corput(len(task.tried) - 1) >= belief.learned:
        return _sobol(task, 0)  # the first that is new

    def gain(points: Sequence[Values]) -> np.ndarray:
        found = _seen(task, [*seen, *points])
        return belief.improvement(*found) if belief else -found[1].mean

    # While little is known the best of many points is better than the top of a rough model.
    pool = [_uniform(task) for _ in range(MANY if few else SPREAD)]
    if not few:
        best = [seen[i] for i in np.argsort(losses, kind="stable")[:TOPS]]
        pool += [_step(task, top, sigma) for top in best for sigma in STEPS for _ in range(ABOUT)]
    gains = gain(pool)
    for sigma in () if few else STEPS:
        tops = [pool[i] for i in np.argsort(-gains, kind="stable")[:TOPS]]
        new = [_step(task, top, sigma) for top in tops for _ in range(ABOUT)]
        pool, gains = pool + new, np.r_[gains, gain(new)]
    before = {t.key for t in task.tried}
    new = (pool[i] for i in np.argsort(-gains, kind="stable") if _key(pool[i]) not in before)
    return next(new, None) or _near_best(task)


def van_der_corput(n: int) -> float:
    """Return the n-th of 0, 1/2, 1/4, 3/4, 1/8, ..., of which any beginning is even over [0, 1)."""
    return sum(int(bit) / 2 ** (i + 1) for i, bit in enumerate(reversed(f"{n:b}")))


def _seen(task: Task, points: Sequence[Values]) -> tuple[Cube, Outlook | None]:
    """Return points as a belief takes them."""
    options = np.array([isinstance(knob, Choice) for knob in task.knobs.values()])
    cube = Cube(np.array([task.point(values) for values in points]), options)
    return cube, task.view.outlook(points) if task.view else None


def _step(task: Task, center: Values, sigma: float) -> Values:
    """Take a Gaussian step of some of the knobs, of one at least; a choice is drawn anew."""
    chosen = task.rng.random(len(task.knobs)) < 0.5
    chosen[task.rng.integers(len(chosen))] = True
    drawn = task.point(center) + sigma * task.rng.standard_normal(len(chosen))
    drawn = 1 - abs(1 - abs(drawn))  # reflected at the faces
    values = dict(center)
    for (name, knob), u, change in zip(task.knobs.items(), drawn, chosen, strict=True):
        if change:
            values[name] = knob.from_unit(task.rng.random() if isinstance(knob, Choice) else u)
    return values


def tpe(task: Task) -> Values:
    """Ask Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023)."""
    values = _ask(task.knobs, TPESampler(seed=int(task.rng.integers(2**31))), task.tried)
    ranges = {name: knob for name, knob in task.knobs.items() if isinstance(knob, Range)}
    return values | {name: knob.clean(values[name]) for name, knob in ranges.items()}


# ------------------------------------------------------------------ names
FROM_DEFAULT = ("auto", "best")  # whose first trial is the default config
ALONE = ("random", "sobol", "tpe", "gp", "cmaes", "grid")  # phases that are methods as well
# Method -> its phases, each with the share of the budget up to which it proposes.
METHODS: dict[str, tuple[tuple[str, float], ...]] = {
    "auto": (("sobol", 0.5), ("gp", 1.0)),
    "best": (("mix", 0.25), ("gp", 1.0)),
} | {name: ((name, 1.0),) for name in ALONE}
LEARNED = {"auto": (("prior", 1.0),)}  # the same where something is known of other tasks
EVEN_FROM, EVEN = 20, 4  # from so many runs on, every so many-th is a Sobol point
PHASES = {f.__name__: f for f in (default, random, sobol, mix, grid, cmaes, gp, prior, tpe)}


def phase(
    method: str, spent: float, tried: int, knobs: int, has_default: bool, learned: bool = False
) -> str:
    """Return the phase that a trial belongs to.

    Args:
        spent: share of the budget that is spent, in [0, 1].
        tried: number of trials before.
        knobs: number of knobs: a model gets two points for each, unless they cost half the budget.
        has_default: there is a default inside the space.
        learned: something is known of other tasks.
    """
    if not tried and has_default and method in FROM_DEFAULT:
        return "default"
    if learned and tried >= EVEN_FROM and tried % EVEN == 0:
        return "sobol"  # what a model asks for says little of which knob matters
    own = LEARNED.get(method, METHODS[method]) if learned else METHODS[method]
    few = 0.5 if tried < 2 * knobs and len(own) > 1 else 0.0
    phases = ((name, max(until, few)) for name, until in own)
    return next((name for name, until in phases if spent < until - 1e-9), own[-1][0])


def at_once(phase: str, told: int) -> float:
    """Return the most trials a phase has under way at a time: a model learns in between.

    Args:
        told: number of trials told; a quarter as many at a time.
    """
    if phase == "prior":
        return max(4, told // 4)  # what others liked gives a few to begin with
    return max(1, told // 4) if phase in ("gp", "tpe") else math.inf


def prunes(method: str, phase: str) -> bool:
    """Return whether runs may be ended early; the default config is what others are held to."""
    return phase != "default" and (method, phase) != ("best", "gp")


# ------------------------------------------------------------------ Optuna
def distribution(knob: Knob) -> BaseDistribution:
    """Return the knob as Optuna has it."""
    if isinstance(knob, Choice):
        return CategoricalDistribution(labels(knob))
    if knob.integer:
        return IntDistribution(knob.low, knob.high, log=knob.log, step=int(knob.step or 1))
    return FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step)


def labels(knob: Choice) -> list[Any]:
    """Return the options as Optuna takes them: words or numbers themselves, others as JSON."""
    words = all(isinstance(option, str) for option in knob.options)
    numbers = all(type(option) in (int, float) for option in knob.options)
    if words or (numbers and len(set(knob.options)) == len(knob.options)):
        return list(knob.options)
    return [json.dumps(option) for option in knob.options]


def to_optuna(knobs: Knobs, values: Values) -> Values:
    """Return values in the order of the knobs, each option by its label."""
    choices = {n: k for n, k in knobs.items() if isinstance(k, Choice)}
    options = {n: labels(k)[k.index(values[n])] for n, k in choices.items()}
    return {name: values[name] for name in knobs} | options


def from_optuna(knobs: Knobs, params: Values) -> Values:
    """Return the inverse of `to_optuna`, in the order of the knobs."""
    choices = {n: k for n, k in knobs.items() if isinstance(k, Choice)}
    options = {n: k.options[labels(k).index(params[n])] for n, k in choices.items()}
    return {name: params[name] for name in knobs} | options


def scores(losses: Sequence[float | None]) -> list[float | None]:
    """Clip losses for a model: none further above the median than that is above the best.

    How bad a bad setting is would drown what tells the good ones apart: a loss may be 1e9.
    """
    told = [loss for loss in losses if loss is not None]
    most = 2 * statistics.median(told) - min(told)
    return [None if loss is None else min(loss, most) for loss in losses]


def _ask(knobs: Knobs, sampler: BaseSampler, history: Sequence[Tried]) -> Values:
    """Return what an Optuna sampler suggests after this history."""
    distributions = {name: distribution(knob) for name, knob in knobs.items()}
    study = optuna.create_study(sampler=sampler)
    for tried in history:
        trial = create_trial(
            state=TrialState.RUNNING if tried.loss is None else TrialState.COMPLETE,
            value=tried.loss,
            params=to_optuna(knobs, tried.values),
            distributions=distributions,
        )
        study.add_trial(trial)
    return from_optuna(knobs, study.ask(distributions).params)
