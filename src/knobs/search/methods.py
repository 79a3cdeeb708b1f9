"""How a search comes to its next values, as functions of what has been tried so far.

A method is a row of phases, each with the share of the budget at which it ends; a phase is a
function from a Task to values. Nothing is remembered between calls: the same seed, number and
history give the same values, in another process and after a resume too. Optuna's samplers are asked
through a study in memory that holds the history.
"""

import json
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from knobs.errors import ConfigError
from knobs.search.space import Choice, Knob, Knobs, Range

optuna.logging.set_verbosity(optuna.logging.ERROR)
SIGMA = 0.15  # of a Gaussian step in the unit cube
TRIES = 100  # to draw a point that was not tried yet
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


@dataclass(frozen=True)
class Task:
    """What a phase is asked: the values of one more trial.

    Args:
        tried: every trial of the arm so far, in the order of their numbers.
        default: values to start from, inside the knobs' ranges; None where there are none.
        seed: of the search.
        budget: how many trials there will be, as far as is known.
    """

    knobs: Knobs
    tried: Sequence[Tried] = ()
    default: Values | None = None
    seed: int = 0
    budget: float = math.inf
    rng: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A stream a trial: what an earlier one drew makes no difference.
        object.__setattr__(self, "rng", np.random.default_rng([self.seed, len(self.tried)]))

    def point(self, values: Values) -> np.ndarray:
        """Values -> [number of knobs] in the unit cube."""
        return np.array([knob.to_unit(values[name]) for name, knob in self.knobs.items()])

    def values(self, point: Sequence[float]) -> Values:
        """The inverse, values rounded to few digits."""
        pairs = zip(self.knobs.items(), point, strict=True)
        return {name: knob.from_unit(float(u)) for (name, knob), u in pairs}

    def new(self, draw: Callable[[], Values]) -> Values:
        """What `draw` draws; not what was tried already, unless that is all there is."""
        known = {_key(t.values) for t in self.tried}
        for _ in range(TRIES):
            values = draw()
            if _key(values) not in known:
                break
        return values


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


# ------------------------------------------------------------------ phases
def default(task: Task) -> Values:
    """What the config says without a search."""
    return dict(task.default)


def random(task: Task) -> Values:
    """Uniform in the unit cube."""
    return task.new(lambda: _uniform(task))


def _uniform(task: Task) -> Values:
    return task.values(task.rng.random(len(task.knobs)))


def sobol(task: Task) -> Values:
    """The next of a scrambled Sobol sequence: spread evenly over the cube, and over every face."""
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
    """In turns: the next of a Sobol sequence, a step from the default, a step from the best so far.

    Hvarfner et al. 2022 (piBO) and Hutter et al. 2011 (SMAC) weigh a prior and an incumbent in
    other ways; draws in turns need no model.
    """
    turn = sum(t.phase == "mix" for t in task.tried)
    finished = [t for t in task.tried if t.loss is not None]
    best = min(finished, key=lambda t: t.loss).values if finished else None
    center = (None, task.default, best)[turn % 3]
    if center is None:
        return _sobol(task, turn // 3 if task.default is not None else turn - turn // 3)
    return task.new(lambda: _near(task, center))


def _near(task: Task, center: Values) -> Values:
    """A Gaussian step from a point; an option stays as it is, or not, with even odds."""
    point = task.point(center) + SIGMA * task.rng.standard_normal(len(task.knobs))
    point = 1 - abs(1 - abs(point))  # reflected at the faces
    values = task.values(point)
    for name, knob in task.knobs.items():
        if isinstance(knob, Choice):
            drawn = knob.from_unit(task.rng.random())
            values[name] = center[name] if task.rng.random() < 0.5 else drawn
    return values


def grid(task: Task) -> Values | None:
    """The next point of a full grid in random order; None when all were tried.

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
    number = _shuffled(len(task.tried), size, task.seed)
    point = []
    for (_, knob), levels in zip(task.knobs.items(), sizes, strict=True):
        number, level = divmod(number, levels)
        point.append((level + 0.5) / levels if knob.levels else level / (levels - 1))
    return task.values(point)


def _shuffled(index: int, size: int, seed: int) -> int:
    """Where index goes in a random order of range(size)."""
    if size > 10**6:
        raise ConfigError(f"search.method=grid: {size:,} points; take fewer knobs, or sobol")
    return int(np.random.default_rng(seed).permutation(size)[index])


def cmaes(task: Task) -> Values:
    """CMA-ES in the unit cube, replayed from the history: a generation a population."""
    from cmaes import CMA

    count = len(task.knobs)
    # It wants two dimensions at least; one more that changes nothing is one more.
    pad = np.full(max(2 - count, 0), 0.5)
    start = np.full(count, 0.5) if task.default is None else task.point(task.default)
    start = np.clip(start, 0.1, 0.9)
    optimizer = CMA(
        mean=np.concatenate([start, pad]),
        sigma=1 / 4,
        bounds=np.array([[0.0, 1.0]] * (count + len(pad))),
        seed=task.seed % 2**32,
    )
    size = optimizer.population_size
    tried = [t for t in task.tried if t.phase == "cmaes"]
    for first in range(0, len(tried) - size + 1, size):
        family = tried[first : first + size]
        if any(t.loss is None for t in family):
            break  # told out of order: this generation is still out
        drawn = [optimizer.ask() for _ in family]
        pads = [x[count:] for x in drawn]
        points = [
            np.concatenate([task.point(t.values), p]) for t, p in zip(family, pads, strict=True)
        ]
        optimizer.tell([(x, t.loss) for x, t in zip(points, family, strict=True)])
    done = optimizer.generation * size
    points = [optimizer.ask() for _ in range(len(tried) - done + 1)]
    return task.values(points[-1][:count])


def gp(task: Task) -> Values:
    """The point with the highest expected improvement under a Gaussian process.

    Matern 5/2, a lengthscale a knob; trials under way are drawn from the process and integrated
    out (Ament et al. 2023, Unexpected Improvements to Expected Improvement, q-log-EI). Once three
    runs were whole, those that were ended early are left out: what they would have reached is not
    known, and where good and slow are neighbours their values mislead.
    """
    told = [t for t in task.tried if t.loss is not None]
    if not told:
        return random(task)
    whole = [t for t in task.tried if not t.pruned]
    if sum(t.loss is not None for t in whole) < 3:
        whole = task.tried
    sampler = optuna.samplers.GPSampler(
        seed=int(task.rng.integers(2**31)), n_startup_trials=1, warn_independent_sampling=False
    )
    values = _ask(task, sampler, whole, in_cube=True)
    known = {_key(t.values) for t in task.tried}
    return near_best(task) if _key(values) in known else values  # the same would tell nothing


def near_best(task: Task) -> Values:
    """A step from the best so far, or anywhere where all nearby was tried."""
    told = [t for t in task.tried if t.loss is not None]
    best = min(told, key=lambda t: t.loss)
    nearby = iter(range(TRIES // 2))
    return task.new(
        lambda: _uniform(task) if next(nearby, None) is None else _near(task, best.values)
    )


def tpe(task: Task) -> Values:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023)."""
    sampler = optuna.samplers.TPESampler(seed=int(task.rng.integers(2**31)))
    return _ask(task, sampler, task.tried)


# ------------------------------------------------------------------ names
# Phase -> what proposes, and the share of the budget up to which it does.
METHODS: dict[str, tuple[tuple[str, float], ...]] = {
    "auto": (("sobol", 0.5), ("gp", 1.0)),
    "best": (("mix", 0.25), ("gp", 1.0)),
    "random": (("random", 1.0),),
    "sobol": (("sobol", 1.0),),
    "tpe": (("tpe", 1.0),),
    "gp": (("gp", 1.0),),
    "cmaes": (("cmaes", 1.0),),
    "grid": (("grid", 1.0),),
}
FROM_DEFAULT = ("auto", "best")  # whose first trial is the default config
PHASES = {f.__name__: f for f in (default, random, sobol, mix, grid, cmaes, gp, tpe)}


def phase(method: str, spent: float, tried: int, knobs: int, has_default: bool) -> str:
    """Which phase a trial belongs to.

    Args:
        spent: share of the budget that is spent, in [0, 1].
        tried: how many trials there were.
        knobs: how many are searched: a model gets two points for each, unless they cost half the
            budget.
        has_default: there is a default inside the space.
    """
    if not tried and has_default and method in FROM_DEFAULT:
        return "default"
    few = 0.5 if tried < 2 * knobs and len(METHODS[method]) > 1 else 0.0
    phases = ((name, max(until, few)) for name, until in METHODS[method])
    return next((name for name, until in phases if spent < until - 1e-9), METHODS[method][-1][0])


def at_once(phase: str, known: int) -> float:
    """How many trials a phase has under way at a time: a model learns in between.

    Args:
        known: how many trials were told; a quarter as many at a time.
    """
    return max(1, known // 4) if phase in ("gp", "tpe") else math.inf


def prunes(method: str, phase: str) -> bool:
    """Whether runs of a phase may be ended early; the default config is what others are held to."""
    return phase != "default" and (method, phase) != ("best", "gp")


# ------------------------------------------------------------------ Optuna
def distribution(knob: Knob) -> BaseDistribution:
    """The knob as Optuna has it."""
    if isinstance(knob, Choice):
        return CategoricalDistribution(labels(knob))
    if knob.integer:
        return IntDistribution(knob.low, knob.high, log=knob.log, step=int(knob.step or 1))
    return FloatDistribution(knob.low, knob.high, log=knob.log, step=knob.step)


def labels(knob: Choice) -> list[Any]:
    """What stands for the options where only words and numbers can: themselves, or their JSON."""
    words = all(isinstance(option, str) for option in knob.options)
    numbers = all(type(option) in (int, float) for option in knob.options)
    if words or (numbers and len(set(knob.options)) == len(knob.options)):
        return list(knob.options)
    return [json.dumps(option) for option in knob.options]


def to_optuna(knobs: Knobs, values: Values) -> Values:
    """Values, each option by its label."""
    return {
        name: labels(knob)[knob.index(values[name])] if isinstance(knob, Choice) else values[name]
        for name, knob in knobs.items()
    }


def from_optuna(knobs: Knobs, params: Values) -> Values:
    """The inverse of `to_optuna`, in the order of the knobs."""
    return {
        name: knob.options[labels(knob).index(params[name])]
        if isinstance(knob, Choice)
        else params[name]
        for name, knob in knobs.items()
    }


def scores(losses: Sequence[float | None]) -> list[float | None]:
    """Losses as a model takes them: none further above the middle one than that is above the best.

    How bad a bad setting is would drown what tells the good ones apart: a loss may be 1e9.
    """
    known = [loss for loss in losses if loss is not None]
    middle = statistics.median(known)
    most = 2 * middle - min(known)
    return [None if loss is None else min(loss, most) for loss in losses]


def _ask(
    task: Task,
    sampler: optuna.samplers.BaseSampler,
    history: Sequence[Tried],
    in_cube: bool = False,
) -> Values:
    """What an Optuna sampler suggests after this history, in few digits.

    Args:
        in_cube: it sees ranges as [0, 1], where whole numbers cost GPSampler many times as much,
            and `scores` for losses.
    """
    knobs = task.knobs
    ranges = {n: k for n, k in knobs.items() if isinstance(k, Range)} if in_cube else {}
    distributions = {
        name: FloatDistribution(0, 1) if name in ranges else distribution(knob)
        for name, knob in knobs.items()
    }
    losses = [t.loss for t in history]
    study = optuna.create_study(sampler=sampler)
    for tried, loss in zip(history, scores(losses) if in_cube else losses, strict=True):
        cube = {name: knob.to_unit(tried.values[name]) for name, knob in ranges.items()}
        trial = create_trial(
            state=TrialState.RUNNING if loss is None else TrialState.COMPLETE,
            value=loss,
            params=to_optuna(knobs, tried.values) | cube,
            distributions=distributions,
        )
        study.add_trial(trial)
    found = study.ask(distributions).params
    found |= {name: knob.from_unit(found[name]) for name, knob in ranges.items()}
    return {
        name: value if isinstance(knobs[name], Choice) else knobs[name].clean(value)
        for name, value in from_optuna(knobs, found).items()
    }
