"""Choose the settings to compare, and compare them as far as their repeats allow.

Settings are compared repeat by repeat (see stats.py), all as one family. One beats another where
the interval of their mean difference lies above 0, which takes LEAST_PAIRS; with fewer it is ahead
at most. From LEAST_PAIRS on, everything else is no difference at this budget, and called so.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from knobs.report.arms import fresh, named
from knobs.report.conclusions import DEFAULT, Candidate, Comparison, Noise, Step
from knobs.report.records import Entry, RunRecord, Sweep, finite, knob_value
from knobs.report.stats import (
    LEAST_PAIRS,
    RATIO,
    Paired,
    noise_floor,
    paired,
    split_size,
)

COMPARABLE = 5  # noise floors: a setting further below the best spreads for other reasons
LEAST_REPEATED = 3  # comparable settings with repeats; fewer give no figure of the noise
ALIKE = 0.02  # sizes of validation splits this near are one, and those that differ by a row
CHEAPER = 0.9  # of the seconds: a smaller difference is the machine's
MOST_REPEATS = 300  # whose effects are taken out; of more the means stand as they are
MOST = 40  # settings compared with the winner


def candidates(sweep: Sweep) -> list[Candidate]:
    """Return, best first, the arms of a study, each by its best setting, or a grid's settings."""
    if sweep.study:
        ready = [c for arm, name in named(sweep.study).items() if (c := _of_arm(sweep, arm, name))]
        confirmed = any(c.confirmed for c in ready)
        ready = [c for c in ready if c.confirmed or not confirmed]
    else:  # one lucky run does not outrank the mean of several
        ready = [c for i, e in enumerate(sweep.entries, 1) if (c := _of_entry(sweep, e, i))]
        most = max((len(c.values) for c in ready), default=0)
        ready = [c for c in ready if len(c.values) >= min(3, most)]
    return best_first(sweep, ready)


def best_first(sweep: Sweep, ready: Sequence[Candidate]) -> list[Candidate]:
    """Sort by the mean; where the repeats differ, by the mean with the repeats' effects taken out.

    A setting that was left after 5 splits stands on other splits than one that went on to 20. The
    values are then fitted by value = setting + repeat, least squares: what a split is worth to all
    is no lead.
    """
    places = {r: i for i, r in enumerate(dict.fromkeys(r for c in ready for r in c.values))}
    means = [c.mean for c in ready]
    if any(len(c.values) < len(places) for c in ready) and len(places) <= MOST_REPEATS:
        there, values = np.zeros((2, len(ready), len(places)))
        for i, c in enumerate(ready):
            for repeat, value in c.values.items():
                there[i, places[repeat]], values[i, places[repeat]] = 1.0, value - means[0]
        each = there.sum(1, keepdims=True)
        own = values.sum(1, keepdims=True) / each
        # The normal equations, the settings eliminated: as many as there are repeats.
        left = np.diag(there.sum(0)) - there.T @ (there / each)
        repeats = np.linalg.lstsq(left, (values - there * own).sum(0), rcond=None)[0]
        means = (own[:, 0] - there @ repeats / each[:, 0]).tolist()
    order = sorted(range(len(ready)), key=lambda i: -sweep.objective.sign * means[i])
    return [ready[i] for i in order]


def _of_arm(sweep: Sweep, arm: str, name: str) -> Candidate | None:
    """Return an arm by its fresh runs, or else by its best setting.

    None where a fresh run diverged: as on the leaderboard, a setting that may is none to choose.
    """
    runs = fresh(sweep, arm)
    if any(run.status == "diverged" for run in runs):
        return None
    if good := tuple(run for run in runs if run.ok):
        return Candidate(name, sweep.by_repeat(good), good, arm, confirmed=True)
    settings: dict[str, list[RunRecord]] = {}
    for run in sweep.explored(arm):
        if run.ok:
            settings.setdefault(run.setting, []).append(run)
    tried = [Candidate(name, sweep.by_repeat(same), tuple(same), arm) for same in settings.values()]
    return max(tried, key=lambda c: sweep.objective.sign * c.mean, default=None)


def _of_entry(sweep: Sweep, entry: Entry, rank: int) -> Candidate | None:
    """Return a line of the leaderboard, unless a run of it diverged: that is none to choose."""
    good = tuple(run for run in entry.runs if run.ok)
    if not good or any(run.status == "diverged" for run in entry.runs):
        return None
    return Candidate(sweep.name_of(entry, rank), sweep.by_repeat(good), good)


def default_of(sweep: Sweep, winner: Candidate) -> Candidate | None:
    """Return the config that the winner's arm started from: as run beside it, or as tried first."""
    runs = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    for role in ("baseline", "default"):
        same = tuple(run for run in runs if run.role == role)
        if same and same != winner.runs:
            return Candidate(DEFAULT, sweep.by_repeat(same), same, winner.arm, role == "baseline")
    return None


def compare(
    sweep: Sweep, first: Candidate, others: Sequence[Candidate], noise: Noise, arms: int = 0
) -> list[Comparison]:
    """Compare a setting with others of its family.

    Args:
        arms: of the whole family, where these are a part of it.
    """
    others = list(others)
    pairs = in_family(sweep, first, others, noise, arms)
    return [
        Comparison(other, pair, relation(pair, noise))
        for other, pair in zip(others, pairs, strict=True)
    ]


def contenders(sweep: Sweep) -> tuple[list[Candidate], Candidate | None]:
    """Return all that is compared, best first, and which of them is the default, if any is."""
    every = candidates(sweep)
    default = default_of(sweep, every[0]) if every else None
    if default and every[0].confirmed and not default.confirmed:
        default = None  # tried once, by the search: nothing pairs with it
    if default and not any(other.runs == default.runs for other in every):
        every.append(default)
        if len(every) == 2 and default.confirmed and every[0].confirmed:  # a walk may end below
            every = best_first(sweep, every)
    return every, next((c for c in every if default and c.runs == default.runs), None)


def led(
    sweep: Sweep, every: Sequence[Candidate], default: Candidate | None, noise: Noise
) -> tuple[Candidate, list[Comparison]]:
    """Return the first of all, and its comparisons with the others, the default last.

    Where repeats differ, the first of an order may be beaten on those that it shares with another:
    then that one is the first.
    """
    first, compared = every[0], []
    for _ in every:
        others = [c for c in every if c is not first and c is not default][:MOST]
        others += [default] * (default is not None and default is not first)
        compared = compare(sweep, first, others, noise, len(every))
        better = [c.other for c in compared if c.relation == "behind"]
        if not better:
            break
        first = better[0]
    return first, compared


def undecided(sweep: Sweep) -> list[Candidate]:
    """Return the best and those that it does not beat; none where it beats all."""
    every, default = contenders(sweep)
    if not every:
        return []
    first, compared = led(sweep, every, default, measure_noise(sweep))
    open_ = [c.other for c in compared if c.relation != "beaten"]
    return [first, *open_] if open_ else []


def in_family(
    sweep: Sweep, first: Candidate | Step, others: Sequence, noise: Noise, arms: int = 0
) -> list[Paired | None]:
    """Pair values with others, as `paired` does, with what the sweep's records state."""
    accuracy = sweep.objective.metric.rpartition("/")[2] == "accuracy"
    found = paired(
        first.values,
        [other.values for other in others],
        sweep.objective.sign,
        ratio=ratio_of(sweep),
        looks=sweep.study.looks if sweep.study else (),
        examples=noise.size or 0 if accuracy else 0,
        arms=arms,
    )
    alone = [pair is not None and pair.constant for pair in found]  # an interval of no width
    return [
        replace(p, low=None, high=None) if one else p for p, one in zip(found, alone, strict=True)
    ]


def relation(pair: Paired | None, noise: Noise) -> str:
    """Name what a pair allows to say; see Comparison."""
    if pair is None or pair.constant:
        return "unknown"
    if pair.n >= LEAST_PAIRS:
        return "beaten" if pair.beats else "behind" if pair.high < 0 else "level"
    if pair.low is not None:
        return "ahead" if pair.low > 0 else "unknown"
    ahead = noise.of_a_pair is not None and pair.mean * math.sqrt(pair.n) > noise.of_a_pair
    return "ahead" if ahead else "unknown"


def ratio_of(sweep: Sweep) -> float:
    """Return validation to training examples, as recorded, else as configured, else RATIO."""
    runs = [run for run in sweep.runs if run.ok]
    sizes = [(run.validation_examples, run.training_examples) for run in runs]
    if ratios := [val / train for val, train in sizes if val and train]:
        return statistics.median(ratios)
    shares = [(knob_value(run, "data.val"), knob_value(run, "data.test")) for run in runs]
    for val, test in shares:
        if isinstance(val, float) and 0 < val < 1:
            rest = 1 - val - (test if isinstance(test, float) else 0)
            return val / rest if rest > 0 else RATIO
    return RATIO


def recommended(sweep: Sweep, level: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Choose among settings that do not differ, best first: one of them, and why; "" for the first.

    The default where it is one of them, else the one of least cost: seconds, then parameters.
    """
    usual = sweep.study.usual if sweep.study else ""
    for candidate in level:
        if candidate.name == DEFAULT or (usual and candidate.arm == usual):
            return candidate, "the default"
    seconds = {id(c): _mean([run.seconds for run in c.runs]) for c in level}
    cheap = list(level)
    if all(seconds.values()):
        least = min(seconds.values())
        cheap = [c for c in level if seconds[id(c)] * CHEAPER <= least]
        if len(cheap) < len(level) and cheap[0] is not level[0]:
            fastest = seconds[id(cheap[0])] == least
            return cheap[0], f"{'the fastest' if fastest else 'as fast as any'} of them"
    sizes = [_mean([run.parameters for run in c.runs]) for c in cheap]
    if all(sizes) and min(sizes) < sizes[0]:
        among = " among those as fast" * (len(cheap) < len(level))
        return cheap[sizes.index(min(sizes))], f"the one of fewest parameters{among}"
    return level[0], ""


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def comparable(sweep: Sweep, noise: Noise, best: float, value: float) -> bool:
    """Tell whether a value is near enough to the best one to be a rival, and no mere constant's."""
    gap = sweep.objective.sign * (best - value)
    if (unit := noise.floor or noise.seeds) is not None and gap > COMPARABLE * unit:
        return False
    constant = constant_of(sweep)
    return constant is None or sweep.objective.sign * (value - constant) > 0


def constant_of(sweep: Sweep) -> float | None:
    """Return what a constant prediction reaches; None where no record states it."""
    for run in sweep.runs:
        simple = run.summary.get("baselines")
        value = finite(simple.get("constant")) if isinstance(simple, dict) else None
        if value is not None:
            return value
    return None


def measure_noise(sweep: Sweep) -> Noise:
    """Measure among settings comparable to the best: one with poor values spreads otherwise."""
    tried = [e for e in sweep.entries if e.mean is not None and e.rank is not None]
    if not tried:
        return Noise()
    best, size, floor = tried[0], _validation_examples(sweep), None
    if sweep.objective.metric.endswith("accuracy") and size and best.mean <= 1:
        floor = noise_floor(1 - best.mean, size)
    repeated = [entry for entry in tried if entry.sd is not None]
    unit = floor or (repeated[0].sd if repeated else None)
    near = [
        entry
        for entry in repeated
        if unit and sweep.objective.sign * (best.mean - entry.mean) <= COMPARABLE * unit
    ]
    seeds = None
    if len(near) >= LEAST_REPEATED:
        seeds = math.sqrt(statistics.fmean(entry.sd**2 for entry in near)) or None
    return Noise(floor, size, seeds)


def _validation_examples(sweep: Sweep) -> int | None:
    """Return the size that the runs record, if they agree; else what fits their accuracies."""
    if sizes := {run.validation_examples for run in sweep.runs if run.ok} - {None}:
        return min(sizes) if max(sizes) - min(sizes) <= max(1, ALIKE * max(sizes)) else None
    metric = sweep.objective.metric
    if not metric.endswith("accuracy"):
        return None
    shares = [row.get(metric) for run in sweep.runs[:64] if run.ok for row in run.curve[:64]]
    return split_size([share for share in shares if share is not None])


def walk(sweep: Sweep, winner: Candidate, noise: Noise) -> tuple[Step, ...]:
    """Return the steps from the default to the best config, one knob at a time: one family."""
    runs = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    steps: dict[int, list[RunRecord]] = {}
    for run in runs:
        if run.role == "step" and run.step is not None:
            steps.setdefault(run.step, []).append(run)
    before = Step("", sweep.by_repeat(run for run in runs if run.role == "baseline"), None)
    if not steps or not before.values:
        return ()
    walked = [before]
    for _, same in sorted(steps.items()):
        step = Step(same[0].knob, sweep.by_repeat(same), None)
        gain = in_family(sweep, step, walked[-1:], noise, len(steps) + 1)[0]
        walked.append(Step(step.knob, step.values, gain))
    return tuple(walked)
