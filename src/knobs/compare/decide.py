"""The verdict of a comparison: better, worse, no difference, or too few runs."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from knobs.compare.arms import Arm, top_of, with_finite
from knobs.report.records import Objective
from knobs.report.stats import LEAST_PAIRS, LEVEL, RATIO, Values, Z, paired

BETTER, SAME, WORSE, TOO_FEW = 0, 20, 21, 22  # exit codes
WORDS = {BETTER: "better", SAME: "no difference", WORSE: "worse", TOO_FEW: "too few"}
MOST_UNITS = 100_000  # that a number of pairs still to come is looked for in


@dataclass(frozen=True)
class Question:
    """A question to a comparison.

    Args:
        objective: the metric, and which way is better.
        detect: the smallest difference that matters, in the metric's unit; None where not stated.
        margin: by how much the candidate may be worse; None where it is to be better.
        ratio: validation to training examples.
        examples: in the validation split, where the values are accuracies; else 0.
        looks: numbers of units at which these runs are looked at as they come.
    """

    objective: Objective
    detect: float | None = None
    margin: float | None = None
    ratio: float = RATIO
    examples: int = 0
    looks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the base; a difference above 0 is the candidate's gain.

    Args:
        n: units: pairs, or without pairs the runs (or splits) of the smaller arm.
        pairs: whether both arms share repeats; else the interval is Welch's.
        splits: whether the units are validation splits rather than seeds.
        mean, low, high: of the difference, its interval None where too few units give none.
        code: the verdict, one of WORDS.
        more: units that would decide, beyond those there are; 0 where it is decided, None where no
            number would or none can be told.
        constant: whether no seed changed any value: they are one observation.
        single: arms of one split each, not the same: nothing tells the arms from the splits.
        broke: seeds of the candidate, and of the base, that diverged where the other did not.
        alone: runs of the base, and of the candidate, without a partner.
    """

    base: Arm
    candidate: Arm
    n: int
    pairs: bool
    splits: bool
    mean: float
    low: float | None
    high: float | None
    code: int = TOO_FEW
    more: int | None = None
    constant: bool = False
    single: bool = False
    broke: tuple[int, int] = (0, 0)
    alone: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Difference:
    """A mean difference, its interval, and how far an interval of m units would reach."""

    n: int
    splits: bool
    mean: float
    reach: float | None
    reach_of: Callable[[int], float] | None


def compare(base: Arm, candidates: Sequence[Arm], question: Question) -> list[Comparison]:
    """Compare candidates with a base, simultaneously.

    Arms that share repeats with the base are paired. Where one shares none, all are compared by
    Welch's interval, whose level is Bonferroni's: two kinds of intervals have no common level.
    """
    first, *others = with_finite([base, *candidates], question.objective)
    sign = question.objective.sign
    if all(first.values.keys() & other.values.keys() for other in others):
        differences = _paired(first.values, [other.values for other in others], sign, question)
        return [
            _judged(base, c, d, True, question)
            for c, d in zip(candidates, differences, strict=True)
        ]
    level = 1 - (1 - LEVEL) / len(others)
    found = []
    for candidate, other in zip(candidates, others, strict=True):
        difference = _welch(first.values, other.values, sign, question.ratio, level)
        found.append(_judged(base, candidate, difference, False, question))
    return found


def best(found: Sequence[Comparison]) -> Comparison:
    """Return the candidate that decides: one that is better, else the one with the best mean."""
    return max(found, key=lambda c: (c.code == BETTER, c.mean))


# ------------------------------------------------------------------ intervals
def _paired(
    first: Values, others: Sequence[Values], sign: int, question: Question
) -> list[Difference]:
    """Return the paired differences, above 0 where the other is the better."""
    found = []
    unit = top_of(question.objective) or 1.0  # what a split's own error knows of are shares of 1
    first, *others = ({r: v / unit for r, v in values.items()} for values in (first, *others))
    for pair in paired(
        first, others, -sign, ratio=question.ratio, looks=question.looks,
        examples=question.examples,
    ):  # fmt: skip
        error = max(0.0, 1 - statistics.fmean(first.values()))
        alone = question.examples and not pair.splits
        floor = Z * math.sqrt(error / question.examples) if alone else 0.0
        ratio, n = question.ratio if pair.splits else 0.0, pair.n
        reach = None if pair.low is None else (pair.high - pair.low) / 2
        spread = reach
        if n == 2:
            spread = _t(1) * statistics.stdev(pair.differences) * math.sqrt(1 / 2 + ratio)
        reach_of = None
        if n >= 2:
            reach_of = _reaches(unit * spread, n, ratio, unit * floor * (n > 2), unit * floor)
        reach = None if reach is None else unit * reach
        found.append(Difference(n, pair.splits, unit * pair.mean, reach, reach_of))
    return found


def _reaches(
    reach: float, n: int, ratio: float, inside: float, floor: float
) -> Callable[[int], float]:
    """Return m units -> how far their interval reaches, if they spread as these n do.

    Args:
        reach: of the interval of n units, in which the part `inside` is the split's own error.
        floor: the split's own error, which no number of seeds removes.
    """
    s = math.sqrt(max(0.0, reach**2 - inside**2) / (1 / n + ratio)) / _t(n - 1)
    return lambda m: math.hypot(s * _t(m - 1) * math.sqrt(1 / m + ratio), floor)


def _t(freedom: float, level: float = LEVEL) -> float:
    """Return Student's t that a share `level` lies within."""
    from scipy.special import stdtrit  # 0.1 s

    return float(stdtrit(freedom, (1 + level) / 2))


def _welch(a: Values, b: Values, sign: int, ratio: float, level: float) -> Difference:
    """Return the difference of two arms that share no repeat, with Welch's degrees of freedom.

    Over splits each arm's variance is corrected as a paired one is (stats.py).

    Source: Welch 1947, "The generalization of Student's problem".
    """
    splits = len({repeat[1:] for values in (a, b) for repeat in values}) > 1
    units = [_by_split(values) if splits else list(values.values()) for values in (a, b)]
    ratio, n = ratio if splits else 0.0, min(map(len, units))
    mean = sign * (statistics.fmean(units[1]) - statistics.fmean(units[0]))
    if n < 2:
        return Difference(n, splits, mean, None, None)
    spread = [statistics.variance(values) for values in units]

    def reach(*sizes: int) -> float:
        parts = [v * (1 / m + ratio) for v, m in zip(spread, sizes, strict=True)]
        if not (total := sum(parts)):
            return 0.0
        freedom = total**2 / sum(p**2 / (m - 1) for p, m in zip(parts, sizes, strict=True))
        return _t(freedom, level) * math.sqrt(total)

    whole = None if n < 3 else reach(*map(len, units))
    return Difference(n, splits, mean, whole, lambda m: reach(m, m))


def _by_split(values: Values) -> list[float]:
    """Return the mean of each split."""
    by_split: dict[tuple[int, ...], list[float]] = {}
    for repeat, value in values.items():
        by_split.setdefault(repeat[1:], []).append(value)
    return [statistics.fmean(same) for same in by_split.values()]


# ------------------------------------------------------------------ verdicts
def _judged(
    base: Arm, candidate: Arm, found: Difference, pairs: bool, question: Question
) -> Comparison:
    """Return the verdict that a difference allows.

    An arm that diverged where the other did not is never the better one.
    """
    common = base.values.keys() & candidate.values.keys()
    arms, others = (candidate, base), (base, candidate)
    broke = tuple(
        len(
            arm.diverged - other.diverged if not pairs else (arm.diverged - other.diverged) & common
        )
        for arm, other in zip(arms, others, strict=True)
    )
    alone = tuple(len(arm.values.keys() - common) if pairs else 0 for arm in others)
    kept = [common or arm.values.keys() for arm in others]
    constant = found.n > 1 and all(
        len({repr(arm.values[r]) for r in repeats}) == 1
        for arm, repeats in zip(others, kept, strict=True)
    )
    places = [{repeat[1:] for repeat in arm.values} for arm in others]
    single = not pairs and all(len(p) == 1 for p in places) and places[0] != places[1]
    low, high = (
        (None, None)
        if found.reach is None or constant or single
        else (found.mean - found.reach, found.mean + found.reach)
    )
    code = TOO_FEW
    if found.n >= LEAST_PAIRS and low is not None:
        code = _code(low, high, question)
        if (code == BETTER and broke[0]) or (code == WORSE and broke[1]):
            code = SAME
    more = None if constant or single or any(broke) else _more(found, code, question)
    return Comparison(
        base, candidate, found.n, pairs, found.splits, found.mean, low, high, code, more,
        constant, single, broke, alone,
    )  # fmt: skip


def _code(low: float, high: float, question: Question) -> int:
    """Return the verdict of an interval."""
    if question.margin is not None:
        within, beyond = low > -question.margin, high < -question.margin
        return BETTER if within else WORSE if beyond else TOO_FEW
    if low > 0 or high < 0:
        return BETTER if low > 0 else WORSE
    if question.detect is None or max(-low, high) < question.detect:
        return SAME
    return TOO_FEW


def _more(found: Difference, code: int, question: Question) -> int | None:
    """Return how many more units would decide, if they have this mean and this spread."""
    if code in (BETTER, WORSE):
        return 0
    if question.margin is not None:
        target = abs(found.mean + question.margin)
    else:
        target = max(abs(found.mean), (question.detect or 0.0) - abs(found.mean))
    least = max(LEAST_PAIRS, found.n + 1)
    if found.reach_of is None or target <= 0 or found.reach_of(MOST_UNITS) >= target:
        return None
    enough, few = MOST_UNITS, least - 1
    while enough - few > 1:  # the reach falls with the number of units
        middle = (enough + few) // 2
        enough, few = (middle, few) if found.reach_of(middle) < target else (enough, middle)
    return enough - found.n
