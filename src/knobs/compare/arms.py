"""Arms: what is compared, the values of one setting on its seeds and splits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from knobs import metrics
from knobs.errors import ConfigError, DataError
from knobs.report.records import Objective
from knobs.report.stats import Repeat
from knobs.words import count, listed, printable

HUGE = 1e100  # beyond it a square overflows: such a loss has diverged
TINY = 1e-100  # below it a square is 0, and a spread would be none
DIVERGED = math.nan  # its value: the worst there is
PERCENT = " in percent"  # behind the name of a share of 1 whose values are percentages
LONGEST = 60  # characters of a name that a sentence can carry


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Args:
        values: repeat -> value, NaN where the run diverged.
        metric: as its record or its column calls it.
        mode: max or min, as its record states it; empty where none does.
        splits: whether the repeats state their validation split.
        notes: what a reader must know of these values, behind its name and a colon.
        validation, training: examples; 0 where not stated.
        hashes: of the rows that a repeat was judged on, where they are recorded.
        tests: seed of the split -> hash of its test rows, where it is recorded.
        looks: numbers of units at which a gate looked at these runs as they came.
    """

    name: str
    values: dict[Repeat, float]
    metric: str
    mode: str = ""
    splits: bool = False
    notes: tuple[str, ...] = ()
    validation: int = 0
    training: int = 0
    hashes: dict[Repeat, str] = field(default_factory=dict)
    tests: dict[float | None, str] = field(default_factory=dict)
    looks: tuple[int, ...] = ()

    @property
    def diverged(self) -> set[Repeat]:
        """The repeats that have no finite value."""
        return {repeat for repeat, value in self.values.items() if math.isnan(value)}


def judged(value: float) -> float:
    """Return a value that can be averaged, else DIVERGED; 0 for one that is next to nothing."""
    if not abs(value) <= HUGE:
        return DIVERGED
    return float(value) if abs(value) >= TINY else 0.0


def objective_of(arms: Sequence[Arm], mode: str | None) -> Objective:
    """Return the metric that all arms have, and which way is better.

    Shares of 1 are told in hundredths; values in percent are told as they are.

    Raises:
        DataError: the arms have different metrics, modes or units. ConfigError: nobody says which
            way is better.
    """
    names = list(dict.fromkeys(arm.metric for arm in arms))
    if len(names) > 1:
        each = listed([f"{arm.name} has {arm.metric}" for arm in arms])
        raise DataError(f"different metrics: {each}; --metric names one that all have")
    [metric] = names
    modes = {arm.mode for arm in arms if arm.mode}
    known = metrics.known(metric)
    if not mode and len(modes) > 1:
        raise DataError(f"{metric}: some runs maximize it and some minimize it; --mode max or min")
    if not mode and not modes and not known:
        raise ConfigError(f"--mode: is more {printable(metric, 60)} better (max), or less (min)?")
    mode = mode or (modes.pop() if modes else metrics.mode_of(metric))
    if metrics.in_points(metric) and not _shares(arms, metric):
        return Objective(f"{metric}{PERCENT}", mode)
    return Objective(metric, mode)


def _shares(arms: Sequence[Arm], metric: str) -> bool:
    """Return whether values are shares of 1 rather than percent.

    Raises:
        DataError: some arms have shares, others percent; or neither.
    """
    tops, lows = [], []
    for arm in arms:
        finite = [value for value in arm.values.values() if not math.isnan(value)]
        tops.append(max(finite, default=0.0))
        lows.append(min(finite, default=0.0))
    if min(lows) < 0 or max(tops) > 100:
        wrong = min(lows) if min(lows) < 0 else max(tops)
        raise DataError(f"{metric}: {wrong:g} is no share of 1 and no percentage")
    if max(tops) <= 1:
        return True
    if any(0 < top <= 1 for top in tops):
        small, large = (arms[tops.index(pick(tops))].name for pick in (min, max))
        raise DataError(f"{metric}: {small} has shares of 1 and {large} percentages; use one unit")
    for arm in arms:
        if share := next((value for value in arm.values.values() if 0 < value <= 1), None):
            mend = "if all are percentages, divide them by 100"
            raise DataError(
                f"{metric}: {arm.name} has {share:g} among percentages; use one unit ({mend})"
            )
    return False


def top_of(objective: Objective) -> float:
    """Return the largest value of a share: 1, or 100 where it is in percent; 0 of other metrics."""
    if objective.in_points:
        return 1.0
    in_percent = objective.metric.endswith(PERCENT)
    return 100.0 if in_percent and metrics.in_points(objective.metric.removesuffix(PERCENT)) else 0


def with_finite(arms: Sequence[Arm], objective: Objective) -> list[Arm]:
    """Return the arms with the worst value there is for each run that diverged.

    The worst of a share is 0, or 1 where less is better; of other metrics it lies as far beyond the
    worst value of all arms as the best lies on its other side.
    """
    finite = [v for arm in arms for v in arm.values.values() if not math.isnan(v)]
    if top := top_of(objective):
        worst = 0.0 if objective.sign > 0 else top
    elif finite:
        low, high = min(finite), max(finite)
        range_ = (high - low) or abs(high) or 1.0
        worst = low - range_ if objective.sign > 0 else high + range_
    else:
        worst = 0.0
    return [
        replace(arm, values={r: worst if math.isnan(v) else v for r, v in arm.values.items()})
        for arm in arms
    ]


def with_names(arms: Sequence[Arm], words: Sequence[str]) -> list[Arm]:
    """Return the arms with names that tell them apart: their words where two share a name."""
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        names = list(words)
    return [replace(a, name=printable(n, LONGEST)) for a, n in zip(arms, names, strict=True)]


def check_alike(base: Arm, other: Arm) -> None:
    """Refuse arms of other data: a difference between them would say nothing.

    Raises:
        DataError: the same split of both has another content, or only one of them states splits.
    """
    if base.splits != other.splits:
        has, lacks = (base, other) if base.splits else (other, base)
        raise DataError(
            f"{has.name} says on which split each run was judged, {lacks.name} does not; "
            "give it a column split, or leave that column out of both"
        )
    mine, theirs = ({r[1:]: rows for r, rows in arm.hashes.items()} for arm in (base, other))
    for split in sorted(mine.keys() & theirs.keys()):
        kinds = {rows.partition(" ")[0] for rows in (mine[split], theirs[split])}
        if len(kinds) == 1 and mine[split] != theirs[split]:
            where = f"split {split[0]}" + f", fold {split[1]}," * bool(split[1])
            raise DataError(
                f"{base.name} and {other.name}: {where} of both was judged on other rows (the "
                "data, the target or the split differ); compare runs of the same data"
            )
    if any(base.tests[seed] != other.tests[seed] for seed in base.tests.keys() & other.tests):
        raise DataError(
            f"{base.name} and {other.name}: of other data, as their test rows tell; compare runs "
            "of the same data"
        )


def with_same_rows(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with one split for all repeats that were judged on the same rows.

    An official validation split stays the same, whatever the seed of the split.
    """
    first: dict[str, tuple[int, ...]] = {}
    for arm in arms:
        for repeat, rows in arm.hashes.items():
            first.setdefault(rows, repeat[1:])
    return [
        replace(
            arm,
            values={
                (r[0], *first.get(arm.hashes.get(r, ""), r[1:])): v for r, v in arm.values.items()
            },
        )
        for arm in arms
    ]


def left_out(ends: dict[str, list[str]]) -> tuple[str, ...]:
    """Return a note on the runs that did not end, by what became of them.

    Args:
        ends: status -> where such runs lie.
    """
    return tuple(
        f"{count(len(places), 'run')} left out as {status} ({listed(places, 3)})"
        for status, places in ends.items()
    )
