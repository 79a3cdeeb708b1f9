"""Who won and by how much, as sentences with numbers."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from knobs.report.arms import BEST
from knobs.report.compare import (
    compare,
    contenders,
    led,
    measure_noise,
    recommended,
    walk,
)
from knobs.report.conclusions import Candidate, Comparison, Noise, Step, Verdict
from knobs.report.fairness import Trouble, not_comparable, troubles
from knobs.report.records import ABSENT, NAMED, Objective, Sweep, knob_value
from knobs.report.sentences import biased, tested, what_ran
from knobs.report.stats import LEAST_PAIRS, LEVEL, Values, Z
from knobs.words import count, listed, percent, sd, sentence, short

INTERVAL = f"Intervals: {percent(LEVEL)}, Student's t"  # of all that is shown; see _footnote
LONG = 48  # letters of two names that a sentence can still carry
WIDE = 0.02  # of an accuracy: what the size of a split alone may blur
MIXED = (
    "No verdict: these runs were judged on different rows (of other data, another target or other "
    "sizes of the splits), so that their values do not compare; report on each by itself"
)
Group = Sequence[Comparison]


def verdict(sweep: Sweep) -> Verdict:
    """Compare what a sweep was made to compare."""
    objective = sweep.objective
    if sweep.mixed:
        return Verdict(f"{MIXED}. {what_ran(sweep)}.")
    every, default = contenders(sweep)
    noise = measure_noise(sweep)
    doubts = troubles(sweep, every, noise)
    if not every:
        return _without_winner(sweep, doubts)
    first, compared = led(sweep, every, default, noise)
    winner, why, beside = _chosen(sweep, first, compared, noise, len(every))
    steps = walk(sweep, winner, noise)
    shown = [c for c in compared if c.other is not default] or compared
    over = next((c for c in beside if c.other is default), None)
    more = [
        _reached(sweep, winner),
        _recommended(winner, why),
        _over_default(over, objective, noise) if over and len(beside) > 1 else "",
        _could_show(beside, objective),
        _walked(sweep, steps),
        _caveats(sweep),
        _footnote(beside, len(every), sweep),
        tested(sweep, winner),
    ]
    level = [c.other for c in shown if c.relation == "level"]
    among = _among(sweep, level, noise, len(every))
    text = not_comparable(doubts) + headline(first, shown, objective, noise, among)
    undermines = (
        *dict.fromkeys(doubt.text for doubt in doubts),
        *_undermines(sweep, winner, beside, noise),
    )
    return Verdict(
        text, tuple(filter(None, more)), winner, default, tuple(beside), steps, noise, undermines
    )


def _without_winner(sweep: Sweep, doubts: Sequence[Trouble]) -> Verdict:
    """Return the verdict where nothing can be chosen, and why."""
    ended = any(run.ok for run in sweep.runs)  # of a walk, but none at its end
    why = "The runs that decide did not end yet" if ended else "No run finished with a value"
    if any(doubt.kind == "failures" for doubt in doubts) and ended:
        why = "Nothing can be recommended: a setting that may diverge is none to choose"
    texts = tuple(doubt.text for doubt in doubts)
    return Verdict(f"{why}. {what_ran(sweep)}.", undermines=texts)


def _chosen(
    sweep: Sweep, first: Candidate, compared: Group, noise: Noise, arms: int
) -> tuple[Candidate, str, Group]:
    """Return what is recommended, why, and it beside the others: nothing of them beats it."""
    level = [first, *(c.other for c in compared if _tied(first, c))]
    while len(level) > 1:
        winner, why = recommended(sweep, level)
        if winner is first:
            return first, why, compared
        rest = [c for c in (first, *(c.other for c in compared)) if c is not winner]
        beside = compare(sweep, winner, rest, noise, arms)
        if not any(c.relation == "behind" for c in beside):
            return winner, why, beside
        level = [c for c in level if c is not winner]
    return first, "", compared


def _tied(first: Candidate, c: Comparison) -> bool:
    """Tell whether a setting is as good as the first: level, or with few repeats the same mean."""
    return c.relation == "level" or (c.relation == "unknown" and c.other.mean == first.mean)


def _among(
    sweep: Sweep, level: Sequence[Candidate], noise: Noise, arms: int
) -> dict[str, list[Comparison]]:
    """Return name -> whom it beats, of settings none of which differs from the first.

    The first may vary so much from repeat to repeat that it differs from none of two that differ.
    """
    found = {}
    for one in level:
        others = [c for c in level if c is not one]
        beside = compare(sweep, one, others, noise, arms) if others else []
        if beaten := [c for c in beside if c.relation == "beaten"]:
            found[one.name] = beaten
    return found


def headline(
    winner: Candidate,
    compared: Group,
    objective: Objective,
    noise: Noise,
    among: Mapping[str, Group],
) -> str:
    """Say in one sentence who won, against whom, and on how many repeats.

    Args:
        among: of those from which the winner does not differ, which beat others of them.
    """
    relations = ("level", "beaten", "ahead", "unknown")
    level, beaten, ahead, unknown = ([c for c in compared if c.relation == r] for r in relations)
    value, repeats = f"{objective.metric} {objective.value(winner.mean)}", _repeats(winner.values)
    names = [winner.name, *(c.other.name for c in level)]
    tied = [c for c in unknown if c.other.mean == winner.mean]
    if not compared:
        first = f"{winner.name}: {value} ({repeats}); there is nothing to compare it with"
    elif level:
        short_enough = len(names) <= 4 and sum(map(len, names)) <= LONG
        between = listed(names) if short_enough else _all_of(winner, len(names))
        if among:
            rest = listed(names[1:]) if short_enough else f"{len(names) - 1} others"
            between = f"{winner.name} and each of {rest}"
        first = f"No difference between {between} at this budget ({_extent(level, objective)})"
    elif tied:
        names = [winner.name, *(c.other.name for c in tied)]
        between = listed(names) if len(names) <= 4 else _all_of(winner, len(names))
        first = f"{between} have the same {value} ({repeats}); {LEAST_PAIRS} repeats at least tell"
        first += " them apart"
    elif winner.name == BEST:
        first = f"{winner.name} reached {value} ({repeats})"
    else:
        first = f"{winner.name} is the best with {value} ({repeats})"
    clauses = [first, *(f"{name} beats {_by(group, objective)}" for name, group in among.items())]
    if beaten:
        clauses.append(_beats(winner, level, beaten, objective))
    if ahead:
        who = winner.name if level and len(winner.name) < LONG / 2 else "it"
        clauses.append(
            f"{who} is ahead of {_by(ahead, objective)}, {_fewest(ahead)}: more repeats are "
            "needed to be sure"
        )
    if rest := [c for c in unknown if c not in tied]:
        clauses.append(_not_told(rest, objective, bool(level or beaten or ahead or tied)))
    text = "; ".join(clauses)
    return sentence(text) if text.startswith("the ") else f"{text}."  # a name is typed as it is


def _not_told(rest: Group, objective: Objective, others: bool) -> str:
    """Say why some are not told apart from the winner.

    Args:
        others: whether others are.
    """
    pairs = [c.paired for c in rest if c.paired]
    if len(pairs) < len(rest):
        seeds = "nothing else ran with the same seeds and splits"
        few = f"{count(len(rest), 'other')} ran with too few of its seeds and splits"
        return few if others else seeds
    behind = f"behind {'is' if len(rest) == 1 else 'are'} {_by(rest, objective)}"
    if all(pair.constant for pair in pairs):
        one = "every run of each has one value, which is one observation"
        return f"{behind}, but {one}"
    few = f"{_fewest(rest)} cannot tell: {LEAST_PAIRS} repeats are the least"
    if min(pair.mean for pair in pairs) < 0:  # on the repeats that both have
        return f"how far {listed([c.other.name for c in rest])} differ from it {few}"
    return f"{behind}, which {few}"


def _all_of(winner: Candidate, n: int) -> str:
    """Return `5 optimizers`: how many arms of one knob, or settings."""
    knob = winner.arm.partition("=")[0] if winner.arm.count("=") == 1 else ""
    return f"{n} {knob.rpartition('.')[2].replace('_', ' ')}s" if knob else f"{n} settings"


def _extent(level: Group, objective: Objective) -> str:
    """Return `difference 0.1 ± 0.4 points over 5 validation splits`."""
    pairs = [c.paired for c in level]
    if not any(any(pair.differences) for pair in pairs):
        return f"the same values {_fewest(level)}"
    largest = max(pairs, key=lambda pair: abs(pair.mean))
    far, reach = abs(largest.mean), (largest.high - largest.low) / 2
    text = f"difference{'s up to' if len(pairs) > 1 else ''} "
    text += f"{objective.amount(far, unit=False)} ± {objective.amount(reach)}"
    return f"{text} {_fewest(level)}"


def _beats(winner: Candidate, level: Group, beaten: Group, objective: Objective) -> str:
    """Return `adam beats sgd by 2.3 points`."""
    who = winner.name if level else "it"
    return f"{who} beats {_by(beaten, objective)}" + ("" if level else f" {_fewest(beaten)}")


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
    """Return what is behind a statement: the fewest units of the pairs in it, and of which kind."""
    pairs = [c.paired for c in group if c.paired]
    if not pairs:
        return "with one run each"
    least = min(pairs, key=lambda pair: pair.n)
    if least.splits:
        return f"over {least.n} validation splits"
    runs = "with one run each" if least.n == 1 else f"over {least.n} paired seeds"
    return f"{runs} on this validation split"


def _repeats(values: Values) -> str:
    splits = len({repeat[1:] for repeat in values})
    if len(values) == 1:
        return "one run"
    if splits == 1:
        return f"mean of {len(values)} seeds"
    runs = f"of {len(values)} runs " if len(values) > splits else ""
    return f"mean {runs}over {splits} validation splits"


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
    mean = objective.value(winner.mean)
    reached = f"{objective.metric} {mean}{spread} ({_repeats(winner.values)})"
    return _cased(f"{winner.name} reached {reached}{at}.")


def _cased(text: str) -> str:
    return text[0].upper() + text[1:] if text.startswith("the ") else text


def _recommended(winner: Candidate, why: str) -> str:
    if not why or winner.name == why:
        return "The default is recommended: nothing is better." if why else ""
    return f"{winner.name} is recommended: it is {why}."


def _over_default(beside: Comparison, objective: Objective, noise: Noise) -> str:
    pair = beside.paired
    if pair is None:
        return ""
    text, how = f"Over the default: {objective.amount(pair.mean)}", _fewest([beside])
    if pair.low is None:
        spread = noise.sd and f"; seed standard deviation {objective.amount(noise.sd)}"
        return f"{text} ({how}{spread or ''})."
    span = f"{objective.amount(pair.low, unit=False)} to {objective.amount(pair.high)}"
    sure = ", no difference at this budget" if beside.relation == "level" else ""
    return f"{text} (interval {span}, {how}){sure}."


def _could_show(beside: Group, objective: Objective) -> str:
    """State the smallest difference that what is level could have shown: its half width."""
    level = [c.paired for c in beside if c.relation == "level"]
    if not any(any(pair.differences) for pair in level):  # of equal values it is not known
        return ""
    reach = max((pair.high - pair.low) / 2 for pair in level)
    return f"This comparison could have shown a difference of {objective.amount(reach)}."


def _footnote(beside: Group, arms: int, sweep: Sweep) -> str:
    """Return what every interval of the report is."""
    pairs = [c.paired for c in beside if c.paired and c.paired.low is not None]
    if not pairs:
        return ""
    looks = len(sweep.study.looks) if sweep.study else 0
    many = [f"{arms} arms"] * (arms > 2) + [f"{looks} looks"] * (looks > 1)
    split = any(pair.splits for pair in pairs)
    kind = "corrected for training sets that overlap" if split else "of this validation split"
    return f"{INTERVAL}, {kind}{', simultaneous over ' if many else ''}{' and '.join(many)}."


def _undermines(sweep: Sweep, winner: Candidate, beside: Group, noise: Noise) -> Iterator[str]:
    """Yield what makes a verdict doubtful, the arms' own searches aside."""
    objective, pairs = sweep.objective, [c.paired for c in beside if c.paired]
    if sweep.study and not winner.confirmed:
        tried = sum(run.ok for run in sweep.explored(winner.arm))
        yield f"Not yet confirmed: the value is {biased(tried)}."
    elif len(winner.values) < LEAST_PAIRS and beside:
        least = f"{LEAST_PAIRS} paired repeats are the least that can confirm it"
        yield f"Not yet confirmed: {_repeats(winner.values)}; {least}."
    if any(pair.n > 1 for pair in pairs) and not any(pair.splits for pair in pairs):
        yield "One validation split only: on another split the order may be another."
    if objective.metric.rpartition("/")[2] == "accuracy" and noise.size:
        alone = Z * math.sqrt(max(0.0, 1 - winner.mean) / noise.size)
        if alone > WIDE:
            size = f"{noise.size:,} validation examples are few"
            reach = objective.amount(alone)
            yield f"{size}: by them alone two equal models differ by up to {reach}."


def _walked(sweep: Sweep, steps: Sequence[Step]) -> str:
    gains = [(step.gain.mean, sweep.short(step.knob)) for step in steps if step.gain]
    if len(gains) < 2:  # one knob's gain is the whole difference
        return ""
    gains.sort(key=lambda pair: -abs(pair[0]))  # what was lost on the way is not to hide at the end
    each = [f"{knob} {sweep.objective.amount(gain)}" for gain, knob in gains]
    return f"One knob at a time from the default: {listed(each)}."


def _caveats(sweep: Sweep) -> str:
    fixed = sweep.study.fixed if sweep.study else ()
    return f"Fixed, not searched: {listed(fixed, 8)}." if fixed else ""
