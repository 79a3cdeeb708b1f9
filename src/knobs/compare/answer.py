"""A verdict as text, one headline first, and as JSON."""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from knobs.compare.arms import Arm
from knobs.compare.decide import (
    BETTER,
    MOST_UNITS,
    SAME,
    TOO_FEW,
    WORDS,
    WORSE,
    Comparison,
    Question,
    best,
)
from knobs.report.stats import LEAST_PAIRS, LEVEL
from knobs.words import count, percent, score

Found = Sequence[Comparison]


def as_text(found: Found, question: Question, notes: Sequence[str] = ()) -> str:
    """Return the headline, the arms, and what undermines the verdict, a line each."""
    first = best(found)
    lines = [headline(first, question)]
    lines += [headline(c, question) for c in found if c is not first]
    lines += [_arm(arm, question) for arm in _arms(found)]
    return "\n".join([*lines, *(f"· {note}" for note in [*caveats(found, question), *notes])])


def as_json(found: Found, question: Question, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return everything as plain data; a run that diverged has the value null."""
    first, objective = best(found), question.objective
    return {
        "verdict": WORDS[first.code],
        "exit_code": first.code,
        "headline": headline(first, question),
        "metric": objective.metric,
        "mode": objective.mode,
        "level": LEVEL,
        "not_worse": question.margin,
        "detect": question.detect,
        "ratio": question.ratio,
        "looks": list(question.looks),
        "base": found[0].base.name,
        "candidates": [_of(comparison) for comparison in found],
        "arms": {arm.name: _runs(arm) for arm in _arms(found)},
        "caveats": [*caveats(found, question), *notes],
    }


def _of(c: Comparison) -> dict[str, Any]:
    return {
        "name": c.candidate.name,
        "verdict": WORDS[c.code],
        "exit_code": c.code,
        "interval": "paired" if c.pairs else "welch",
        "units": "splits" if c.splits else "seeds",
        "n": c.n,
        "difference": c.mean,
        "low": c.low,
        "high": c.high,
        "more": c.more,
    }


def _runs(arm: Arm) -> list[dict[str, Any]]:
    return [
        {"seed": seed, "split": split, "fold": fold, "value": None if math.isnan(v) else v}
        for (seed, split, fold), v in sorted(arm.values.items())
    ]


def _arms(found: Found) -> list[Arm]:
    return [found[0].base, *(c.candidate for c in found)]


# ------------------------------------------------------------------ sentences
def headline(c: Comparison, question: Question) -> str:
    """Return the verdict on one candidate in a sentence."""
    base, name, metric = c.base.name, c.candidate.name, question.objective.metric
    amount = question.objective.amount
    behind = f"{_interval(c, question)}{_units(c)}"
    if c.code == TOO_FEW:
        what = "better than" if question.margin is None else "not worse than"
        return f"too few to say whether {name} is {what} {base}: {behind}{_more(c, question)}."
    if question.margin is not None and c.code == BETTER:
        margin = amount(question.margin)
        return f"{name} is not worse than {base} by {margin} of {metric} or more ({behind})."
    if c.code in (BETTER, WORSE):
        word = "better" if c.code == BETTER else "worse"
        by, ends = amount(abs(c.mean)), _span(c, question, turned=c.code == WORSE)
        return f"{name} is {word} than {base} by {by} of {metric} ({ends}{_units(c)})."
    if question.detect is not None and max(-c.low, c.high) < question.detect:
        least = amount(question.detect)
        return f"{name} and {base} differ by less than {least} of {metric} ({behind})."
    if c.low > 0 or c.high < 0:  # the better one diverged
        return f"neither of {name} and {base} is better in {metric} ({behind})."
    return (
        f"no significant difference between {name} and {base} in {metric} ({behind})"
        f"{_more(c, question)}."
    )


def _interval(c: Comparison, question: Question) -> str:
    span = "" if c.low is None else _span(c, question)
    return f"difference {question.objective.amount(c.mean)}, {span}"


def _span(c: Comparison, question: Question, turned: bool = False) -> str:
    """Return the interval as text.

    Args:
        turned: whether it is of the base's gain, as the difference beside it is.
    """
    low, high = (-c.high, -c.low) if turned else (c.low, c.high)
    ends = question.objective.amount(low, unit=False), question.objective.amount(high)
    return f"{percent(LEVEL)} interval {ends[0]} to {ends[1]}, "


def _units(c: Comparison) -> str:
    unit = "split" if c.splits else "seed"
    of = f"{count(c.n, 'pair')} of {unit}s"
    if not c.pairs:
        keys = [{r[1:] if c.splits else r for r in arm.values} for arm in (c.candidate, c.base)]
        of = f"{len(keys[0])} and {len(keys[1])} {unit}s, not paired"
    return of if c.splits or c.single else f"{of} on this validation split"


def _more(c: Comparison, question: Question) -> str:
    """Return how many more would decide."""
    if c.constant or c.single or any(c.broke):
        return ""
    if c.more:
        noun = "pair" if c.pairs else "split" if c.splits else "run"
        of = "" if c.pairs else " of each arm"
        more = f"about {count(c.more, f'more {noun}')}{of} would decide it"
        return f"; {more} at this difference and spread"
    least = f"; {LEAST_PAIRS} are the least that decide" if c.n < LEAST_PAIRS else ""
    if c.n < 2 or (c.mean == 0 and question.detect is None):
        return least
    what = f"more than {MOST_UNITS:,} pairs"  # nothing but their number stands in the way
    if c.splits or question.examples:
        what = f"no number of {'splits of this size' if c.splits else 'seeds on this split'}"
    return f"{least}; {what} would decide it at this difference and spread"


def _arm(arm: Arm, question: Question) -> str:
    values = [value for value in arm.values.values() if not math.isnan(value)]
    mean = statistics.fmean(values) if values else None
    spread = statistics.stdev(values) if len(values) > 1 else None
    told = (
        score(mean, spread, len(values)) if spread is not None else question.objective.value(mean)
    )
    diverged = f", {len(arm.diverged)} diverged" if arm.diverged else ""
    return f"  {arm.name}  {question.objective.metric} {told}{diverged}"


def caveats(found: Found, question: Question) -> list[str]:
    """Return what undermines the verdict, the gravest first."""
    lines = list(dict.fromkeys(line for c in found for line in _of_one(c, question)))
    lines += [f"{arm.name}: {note}" for arm in _arms(found) for note in arm.notes]
    if len(found) > 1:
        kind = "simultaneous over all arms" if found[0].pairs else "Bonferroni's, for all arms"
        lines.append(f"the intervals are {kind}")
    if len(question.looks) > 1:
        looks = ", ".join(map(str, question.looks))
        lines.append(f"the interval allows for looks at {looks} pairs (alpha spending)")
    return lines


def _of_one(c: Comparison, question: Question) -> Iterator[str]:
    base, name = c.base.name, c.candidate.name
    if c.constant:
        yield (
            f"all runs of {base} have one value, and so have those of {name}: that is one "
            "observation each; do they use their seed?"
        )
    elif c.n > 1 and c.mean == c.low == c.high == 0:
        yield f"{base} and {name} have the same value in every pair: does what differs take effect?"
    elif c.n > 1 and c.mean == c.low == c.high:
        yield (
            f"{base} and {name} differ by the same amount in every pair, so that nothing tells "
            "how far others would: the interval has no width"
        )
    if c.single:
        yield (
            f"{base} and {name} were judged on different splits, one each, from which no seed can "
            "tell them apart; give runs on the same splits"
        )
    for broke, arm in zip(c.broke, (c.candidate, c.base), strict=True):
        if broke:
            yield (
                f"{count(broke, 'run')} of {arm.name} diverged where the other arm did not: the "
                f"worst value counts, and {arm.name} is not called better"
            )
    if both := len(c.base.diverged & c.candidate.diverged):
        yield f"{count(both, 'pair')} diverged on both sides: no difference"
    if not c.pairs and not c.single:
        yield f"{base} and {name} share no seed and split: not paired, Welch's interval"
    for alone, arm in zip(c.alone, (c.base, c.candidate), strict=True):
        if alone:
            without = "without a partner of the same seed and split"
            yield f"{count(alone, 'run')} of {arm.name} left out, {without}"
    if c.splits and c.code in (SAME, TOO_FEW):
        share = f"{question.ratio:.2f} validation to training examples"
        yield f"the interval allows for training rows that splits share ({share})"
