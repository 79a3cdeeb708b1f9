"""What a sweep found, as sentences with numbers."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from knobs.report import leaderboard
from knobs.report.compare import (
    BEST,
    LONG,
    MOST,
    NAMED,
    TOP,
    Candidate,
    Comparison,
    Noise,
    Step,
    candidates,
    compare,
    default_of,
    measure_noise,
    walk,
)
from knobs.report.gather import Sweep, what_ran
from knobs.report.stats import LEAST_PAIRS, Paired, paired
from knobs.report.words import Objective, count, listed, number


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        headline: one sentence.
        more: what else is to be known of it, a sentence each.
        winner: None where no run finished.
        default: the config that the study started from, where it was run.
        comparisons: the winner with each other candidate, best first.
        steps: the walk from the default to the best config; empty where it was not made.
    """

    headline: str
    more: tuple[str, ...] = ()
    winner: Candidate | None = None
    default: Candidate | None = None
    comparisons: tuple[Comparison, ...] = ()
    steps: tuple[Step, ...] = ()
    noise: Noise = field(default_factory=Noise)

    @property
    def gain(self) -> Paired | None:
        """Of the winner over the default."""
        if self.winner is None or self.default is None:
            return None
        by_default = [c.paired for c in self.comparisons if c.other is self.default]
        return by_default[0] if by_default else None


def verdict(sweep: Sweep) -> Verdict:
    """Compare what a sweep was made to compare."""
    objective = sweep.objective
    found = candidates(sweep)
    if not found:
        ended = any(run.ok for run in sweep.runs)  # of a walk, but none at its end
        why = "The runs that decide did not end yet" if ended else "No run finished with a value"
        return Verdict(f"{why}. {what_ran(sweep)}.")
    noise = measure_noise(sweep)
    winner, *others = found
    default = default_of(sweep, winner)
    if default and not others and _is_better(default, winner, objective):
        winner, others, default = default, [winner], None
    if default and not any(other.runs == default.runs for other in others):
        others.append(default)
    default = next((other for other in others if default and other.runs == default.runs), None)
    rivals = [other for other in others if other is not default][:MOST]
    compared = tuple(
        compare(winner, other, objective, noise, rivals[:i]) for i, other in enumerate(rivals)
    )
    beside = compare(winner, default, objective, noise) if default else None
    steps = walk(sweep, winner)
    more = [
        _reached(sweep, winner),
        _over_default(beside, objective, noise) if beside and compared else "",
        _walked(sweep, steps),
        _caveats(sweep, winner, others),
        tested(sweep, winner),
    ]
    told = compared or ((beside,) if beside else ())
    return Verdict(
        headline=headline(winner, told, objective, noise),
        more=tuple(filter(None, more)),
        winner=winner,
        default=default,
        comparisons=(*compared, beside) if beside else compared,
        steps=steps,
        noise=noise,
    )


def _is_better(default: Candidate, best: Candidate, objective: Objective) -> bool:
    """Whether what a search found is worse than what it started from, now that both ran again."""
    return default.confirmed and best.confirmed and objective.sign * (default.mean - best.mean) > 0


# ------------------------------------------------------------------ said
def headline(
    winner: Candidate, compared: Sequence[Comparison], objective: Objective, noise: Noise
) -> str:
    """The one sentence."""
    groups: dict[str, list[Comparison]] = {"level": [], "beaten": [], "ahead": [], "unknown": []}
    for comparison in compared:
        groups[comparison.relation].append(comparison)
    level = groups["level"]
    seeds = _seeds(winner.values)
    if not compared:
        return _sentence(
            f"{winner.name}: {objective.metric} {objective.value(winner.mean)} ({seeds}); "
            "there is nothing to compare it with"
        )
    clauses = []
    value = f"{objective.metric} {objective.value(winner.mean)}"
    names = [winner.name, *(c.other.name for c in level)]
    if not level and winner.name == BEST:
        clauses.append(f"The best config reached {value} ({seeds})")
    elif not level:
        clauses.append(f"{winner.name} is the best with {value} ({seeds})")
    elif len(names) > 4 or sum(map(len, names)) > LONG:
        clauses.append(
            f"{winner.name} leads, and {count(len(level), 'other')} "
            f"{'is' if len(level) == 1 else 'are'} indistinguishable from it at this budget "
            f"({_extent(level, objective, noise)})"
        )
    else:
        extent = _extent(level, objective, noise)
        clauses.append(f"{listed(names)} are indistinguishable at this budget ({extent})")
    if groups["beaten"]:
        clauses.append(_beats(winner, level, groups["beaten"], objective))
    if groups["ahead"]:
        who = winner.name if level and len(winner.name) < LONG / 2 else "it"
        clauses.append(
            f"{who} is ahead of {_by(groups['ahead'], objective)}, on "
            f"{_fewest(groups['ahead'])}: more seeds are needed to be sure"
        )
    if groups["unknown"] and not (level or groups["beaten"] or groups["ahead"]):
        clauses.append(
            f"{_by(groups['unknown'], objective)} less far, with too few runs to know the noise"
            if all(c.paired for c in groups["unknown"])
            else "nothing else ran with the same seeds"
        )
    return _sentence("; ".join(clauses))


def _sentence(text: str) -> str:
    """With a full stop, and a capital unless it begins with what is typed as it is."""
    return f"{text[:1].upper() if text.startswith('the ') else text[:1]}{text[1:]}."


def _extent(level: list[Comparison], objective: Objective, noise: Noise) -> str:
    """`difference 0.1 ± 0.4 points, 5 paired seeds`."""
    pairs = [c.paired for c in level if c.paired]
    largest = max(pairs, key=lambda p: abs(p.mean))
    margin, far = largest.margin, abs(largest.mean)
    told = margin is not None and margin >= far  # else the interval lies above 0, but p is large
    many = len(pairs) > 1
    text = f"difference{'s up to' if many else ''} {objective.amount(far, unit=not told)}"
    if told:
        text += f" ± {objective.amount(margin)}"
    elif margin is not None:
        text += f", p = {number(largest.p, 2)}"
    elif noise.sd is not None:
        text += f", noise of a run {objective.amount(noise.sd)}"
    return f"{text}, {_fewest(level)}"


def _beats(
    winner: Candidate, level: list[Comparison], beaten: list[Comparison], objective: Objective
) -> str:
    """`both beat sgd by 2.3 points`, where each of them does."""
    every = bool(level) and all(
        (pairs := paired(a.other.values, b.other.values, objective.sign)) and pairs.beats
        for a in level[:TOP]
        for b in beaten[:TOP]
    )
    if every and len(level) < TOP:
        who = "both beat" if len(level) == 1 else f"all {len(level) + 1} beat"
    else:
        who = f"{winner.name} beats" if level else "it beats"
    return f"{who} {_by(beaten, objective)}" + ("" if level else f" on {_fewest(beaten)}")


def _by(group: list[Comparison], objective: Objective) -> str:
    """`sgd by 2.3 points`, `a by 1.0 and b by 2.3 points`, `the other 12 by 0.8 to 72 points`."""
    gains = [c.paired.mean if c.paired else 0.0 for c in group]
    if len(group) <= 3:
        told = [
            f"{c.other.name} by {objective.amount(gain, unit=c is group[-1])}"
            for c, gain in zip(group, gains, strict=True)
        ]
        return listed(told)
    span = f"{objective.amount(min(gains), unit=False)} to {objective.amount(max(gains))}"
    return f"{len(group)} others by {span}"


def _fewest(group: list[Comparison]) -> str:
    """How many seeds are behind a statement: the least of the pairs in it."""
    n = min((c.paired.n for c in group if c.paired), default=0)
    return "one run each" if n == 1 else f"{n} paired seeds"


def _seeds(values: dict[int, float]) -> str:
    return "one run" if len(values) == 1 else f"mean of {len(values)} seeds"


def _reached(sweep: Sweep, winner: Candidate) -> str:
    """What the winner is made of and came to."""
    objective, values = sweep.objective, list(winner.values.values())
    spread = f" ± {number(statistics.stdev(values), 2)}" if len(values) > 1 else ""
    best = winner.runs[0]
    short = sweep.short()
    knobs = [
        f"{short[knob.name]}={leaderboard.short(value)}"
        for knob in sweep.space_of(winner.arm)
        if (value := leaderboard.knob_value(best.row, knob.name)) != leaderboard.ABSENT
    ]
    if winner.name == BEST:  # the rest stands in the headline
        return f"{BEST.capitalize()}: {', '.join(knobs)}."
    at = f" with {', '.join(knobs)}" if knobs and (sweep.study or len(knobs) > NAMED) else ""
    reached = f"{objective.metric} {objective.value(winner.mean)}{spread} ({_seeds(winner.values)})"
    return f"{winner.name} reached {reached}{at}."


def _over_default(beside: Comparison, objective: Objective, noise: Noise) -> str:
    """The winner and the config it started from."""
    pairs = beside.paired
    if pairs is None:
        return ""
    if pairs.low is None:
        known = f", noise of a run {objective.amount(noise.sd)}" if noise.sd else ""
        return f"Over the default: {objective.amount(pairs.mean)} ({_fewest([beside])}{known})."
    span = f"{objective.amount(pairs.low, unit=False)} to {objective.amount(pairs.high)}"
    sure = "" if pairs.beats else ": not enough to tell them apart"
    return (
        f"Over the default: {objective.amount(pairs.mean)} (95 % interval {span}, "
        f"{_fewest([beside])}, p = {number(pairs.p)}){sure}."
    )


def _walked(sweep: Sweep, steps: tuple[Step, ...]) -> str:
    """Which knob gave what."""
    objective, short = sweep.objective, sweep.short()
    gains = [(step.gain.mean, short.get(step.knob, step.knob)) for step in steps if step.gain]
    if len(gains) < 2:  # one knob's gain is the whole difference
        return ""
    gains.sort(key=lambda pair: -abs(pair[0]))  # what was lost on the way is not to hide at the end
    told = [f"{knob} {objective.amount(gain)}" for gain, knob in gains]
    return f"One knob at a time from the default: {listed(told)}."


def _caveats(sweep: Sweep, winner: Candidate, others: list[Candidate]) -> str:
    """What keeps the verdict from being more."""
    told = []
    if sweep.study and not winner.confirmed:
        tried = sum(run.ok for run in sweep.explored(winner.arm))
        told.append(f"not yet confirmed: the best of {count(tried, 'run')} flatters itself")
    elif not sweep.study and len(winner.values) < LEAST_PAIRS and others:
        told.append(f"{_seeds(winner.values)}; 5 paired seeds are the least that can confirm it")
    if sweep.study and sweep.study.fixed:
        told.append(f"fixed, not searched: {listed(sweep.study.fixed, 8)}")
    text = "; ".join(told)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def tested(sweep: Sweep, winner: Candidate | None) -> str:
    """Who read the test split, and what stood there."""
    read = [run for run in sweep.runs if run.tests]
    if not read:
        return "The test split has not been read."
    if len(read) > 1:
        return (
            f"The test split was read by {len(read)} runs: a figure chosen among them flatters "
            "itself. Read it once, for the winner alone."
        )
    figures = [f"{name} {number(value, 4)}" for name, value in list(read[0].tests.items())[:3]]
    whom = "for the confirmed winner" if winner and winner.confirmed else "by one run"
    return f"The test split was read once, {whom}: {listed(figures)} (run {read[0].id})."
