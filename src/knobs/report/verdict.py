"""Who won and by how much, as sentences with numbers."""

import statistics
from collections.abc import Sequence

from knobs.report.compare import BEST, candidates, compare, default_of, measure_noise, walk
from knobs.report.conclusions import Candidate, Comparison, Noise, Step, Verdict
from knobs.report.records import ABSENT, NAMED, Objective, Sweep, knob_value
from knobs.report.sentences import biased, tested, what_ran
from knobs.report.stats import LEAST_PAIRS, LEVEL, paired
from knobs.words import count, listed, number, percent, sd, sentence, short

MOST = 40  # settings compared with the winner
MOST_PAIRS = 5  # settings of each side of which all pairs are compared
LONG = 48  # letters of two names that a sentence can still carry
Group = Sequence[Comparison]


def verdict(sweep: Sweep) -> Verdict:
    """Compare what a sweep was made to compare."""
    objective = sweep.objective
    every = candidates(sweep)
    if not every:
        ended = any(run.ok for run in sweep.runs)  # of a walk, but none at its end
        why = "The runs that decide did not end yet" if ended else "No run finished with a value"
        return Verdict(f"{why}. {what_ran(sweep)}.")
    noise = measure_noise(sweep)
    winner, *others = every
    default = default_of(sweep, winner)
    ran_again = default and not others and default.confirmed and winner.confirmed
    if ran_again and objective.sign * (default.mean - winner.mean) > 0:
        winner, others, default = default, [winner], None
    if default and not any(other.runs == default.runs for other in others):
        others.append(default)
    default = next((other for other in others if default and other.runs == default.runs), None)
    rivals = [other for other in others if other is not default][:MOST]
    compared = tuple(
        compare(winner, c, objective.sign, noise, rivals[:i]) for i, c in enumerate(rivals)
    )
    beside = (compare(winner, default, objective.sign, noise),) if default else ()
    steps = walk(sweep, winner)
    more = [
        _reached(sweep, winner),
        _over_default(beside[0], objective, noise) if beside and compared else "",
        _walked(sweep, steps),
        _caveats(sweep, winner, others),
        tested(sweep, winner),
    ]
    first, rest = headline(winner, compared or beside, objective, noise), tuple(filter(None, more))
    return Verdict(first, rest, winner, default, (*compared, *beside), steps, noise)


def headline(winner: Candidate, compared: Group, objective: Objective, noise: Noise) -> str:
    """Say in one sentence who won, against whom, and on how many seeds."""
    relations = ("level", "beaten", "ahead", "unknown")
    level, beaten, ahead, unknown = ([c for c in compared if c.relation == r] for r in relations)
    value, seeds = f"{objective.metric} {objective.value(winner.mean)}", _seeds(winner.values)
    names = [winner.name, *(c.other.name for c in level)]
    extent = f"at this budget ({_extent(level, objective, noise)})" if level else ""
    if not compared:
        first = f"{winner.name}: {value} ({seeds}); there is nothing to compare it with"
    elif not level and winner.name == BEST:
        first = f"{winner.name} reached {value} ({seeds})"
    elif not level:
        first = f"{winner.name} is the best with {value} ({seeds})"
    elif len(names) > 4 or sum(map(len, names)) > LONG:
        others = f"{count(len(level), 'other')} {'is' if len(level) == 1 else 'are'}"
        first = f"{winner.name} leads, and {others} not significantly different from it {extent}"
    else:
        first = f"{listed(names)} are not significantly different {extent}"
    clauses = [first]
    if beaten:
        clauses.append(_beats(winner, level, beaten, objective))
    if ahead:
        who = winner.name if level and len(winner.name) < LONG / 2 else "it"
        clauses.append(
            f"{who} is ahead of {_by(ahead, objective)}, on {_fewest(ahead)}: more seeds are "
            "needed to be sure"
        )
    if unknown and not (level or beaten or ahead):
        clauses.append(
            f"{_by(unknown, objective)} less far, with too few runs to estimate the seed standard "
            "deviation"
            if all(c.paired for c in unknown)
            else "nothing else ran with the same seeds"
        )
    text = "; ".join(clauses)
    return sentence(text) if text.startswith("the ") else f"{text}."  # a name is typed as it is


def _extent(level: Group, objective: Objective, noise: Noise) -> str:
    """Return `difference 0.1 ± 0.4 points, 5 paired seeds`."""
    pairs = [c.paired for c in level if c.paired]
    largest = max(pairs, key=lambda p: abs(p.mean))
    far = abs(largest.mean)
    text = f"difference{'s up to' if len(pairs) > 1 else ''} "
    if largest.low is None:
        text += objective.amount(far) + _spread(objective, noise)
    elif (margin := (largest.high - largest.low) / 2) >= far:
        text += f"{objective.amount(far, unit=False)} ± {objective.amount(margin)}"
    else:  # the interval lies above 0, but p is large
        text += f"{objective.amount(far)}, p = {number(largest.p, 2)}"
    return f"{text}, {_fewest(level)}"


def _spread(objective: Objective, noise: Noise) -> str:
    return "" if noise.sd is None else f", seed standard deviation {objective.amount(noise.sd)}"


def _beats(winner: Candidate, level: Group, beaten: Group, objective: Objective) -> str:
    """Return `both beat sgd by 2.3 points`, where each of them does."""
    every = 0 < len(level) < MOST_PAIRS and all(
        (pairs := paired(a.other.values, b.other.values, objective.sign)) and pairs.beats
        for a in level
        for b in beaten[:MOST_PAIRS]
    )
    if every:
        who = "both beat" if len(level) == 1 else f"all {len(level) + 1} beat"
    else:
        who = f"{winner.name} beats" if level else "it beats"
    return f"{who} {_by(beaten, objective)}" + ("" if level else f" on {_fewest(beaten)}")


def _by(group: Group, objective: Objective) -> str:
    """Return `a by 1.0 and b by 2.3 points`, or `12 others by 0.8 to 72 points`."""
    gains = [c.paired.mean if c.paired else 0.0 for c in group]
    if len(group) <= 3:
        units = [c is group[-1] for c in group]
        amounts = map(objective.amount, gains, units)
        return listed([f"{c.other.name} by {a}" for c, a in zip(group, amounts, strict=True)])
    span = f"{objective.amount(min(gains), unit=False)} to {objective.amount(max(gains))}"
    return f"{len(group)} others by {span}"


def _fewest(group: Group) -> str:
    """Return the number of seeds behind a statement: the least of the pairs in it."""
    n = min((c.paired.n for c in group if c.paired), default=0)
    return "one run each" if n == 1 else f"{n} paired seeds"


def _seeds(values: dict[int, float]) -> str:
    return "one run" if len(values) == 1 else f"mean of {len(values)} seeds"


def _reached(sweep: Sweep, winner: Candidate) -> str:
    objective, values = sweep.objective, list(winner.values.values())
    spread = f" ± {sd(statistics.stdev(values))}" if len(values) > 1 else ""
    knobs = [
        f"{sweep.short(knob.name)}={short(value)}"
        for knob in sweep.space_of(winner.arm)
        if (value := knob_value(winner.runs[0], knob.name)) != ABSENT
    ]
    if winner.name == BEST:  # the rest stands in the headline
        return f"{BEST.capitalize()}: {', '.join(knobs)}."
    at = f" with {', '.join(knobs)}" if knobs and (sweep.study or len(knobs) > NAMED) else ""
    reached = f"{objective.metric} {objective.value(winner.mean)}{spread} ({_seeds(winner.values)})"
    return f"{winner.name} reached {reached}{at}."


def _over_default(beside: Comparison, objective: Objective, noise: Noise) -> str:
    pairs = beside.paired
    if pairs is None:
        return ""
    text, seeds = f"Over the default: {objective.amount(pairs.mean)}", _fewest([beside])
    if pairs.low is None:
        return f"{text} ({seeds}{_spread(objective, noise)})."
    span = f"{objective.amount(pairs.low, unit=False)} to {objective.amount(pairs.high)}"
    sure = "" if pairs.beats else ", no significant difference"
    return f"{text} ({percent(LEVEL)} interval {span}, {seeds}, p = {number(pairs.p)}){sure}."


def _walked(sweep: Sweep, steps: Sequence[Step]) -> str:
    gains = [(step.gain.mean, sweep.short(step.knob)) for step in steps if step.gain]
    if len(gains) < 2:  # one knob's gain is the whole difference
        return ""
    gains.sort(key=lambda pair: -abs(pair[0]))  # what was lost on the way is not to hide at the end
    each = [f"{knob} {sweep.objective.amount(gain)}" for gain, knob in gains]
    return f"One knob at a time from the default: {listed(each)}."


def _caveats(sweep: Sweep, winner: Candidate, others: Sequence[Candidate]) -> str:
    caveats = []
    if sweep.study and not winner.confirmed:
        tried = sum(run.ok for run in sweep.explored(winner.arm))
        caveats.append(f"not yet confirmed: the value is {biased(tried)}")
    elif not sweep.study and len(winner.values) < LEAST_PAIRS and others:
        least = f"{LEAST_PAIRS} paired seeds are the least that can confirm it"
        caveats.append(f"{_seeds(winner.values)}; {least}")
    if sweep.study and sweep.study.fixed:
        caveats.append(f"fixed, not searched: {listed(sweep.study.fixed, 8)}")
    return sentence("; ".join(caveats))
