"""Arms that a comparison is unfair to: searched too narrowly, or trained too short.

An arm is held back by a best value at a bound of its range, by few finished runs, by many failures,
and by training that ends while it still improves. Thresholds: Godbole et al. 2023, "Deep Learning
Tuning Playbook": bad search space boundaries, and how long to train.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from knobs.config import rules
from knobs.report.arms import fresh, named
from knobs.report.conclusions import DEFAULT, Candidate, Noise
from knobs.report.records import Knob, RunRecord, Sweep, position
from knobs.report.stats import LEAST_PAIRS
from knobs.words import count, listed, percent, short

EDGE = 0.05  # of a range, on its own scale: a best value this near to a bound calls for a wider one
FAILURES = 0.3  # above this share of broken runs the space is too wide
LATE = 0.75  # of the epochs: a best epoch beyond calls for more
LEAST_EPOCHS = 4  # fewer have no last quarter
FALLEN = 0.2  # of the highest learning rate: below it a late best epoch is as it should be
NOT_YET, SO_FAR = "Not comparable yet", ". So far: "  # around why, before a headline
LEAST_EXPLORED = 5  # finished runs of an arm; fewer have searched nothing


@dataclass(frozen=True)
class Trouble:
    """A reason why an arm had no fair chance.

    Args:
        arm, name: that is held back, as study.json and as the report call it.
        kind: bound, few, short, failures, or open where it has not been confirmed.
        text: a sentence. fix: `widen adam's range (best at its upper bound 0.0001)`.
        knob: with the bounds to take instead.
    """

    arm: str
    name: str
    kind: str
    text: str
    fix: str
    knob: Knob | None = None


def troubles(sweep: Sweep, every: Sequence[Candidate], noise: Noise) -> list[Trouble]:
    """Check every arm of a study by itself; none where nothing was searched."""
    if not sweep.study:
        return []
    several = len([arm for arm in sweep.study.arms if arm]) > 1
    found: list[Trouble] = [*absent(sweep, every, several)]
    for candidate in (c for c in every if c.name != DEFAULT):
        arm, name = candidate.arm, candidate.name if several else "the search"
        found += bounds(sweep, candidate, name, noise)
        if several:
            found += few(sweep, arm, name)
        found += failed(sweep, arm, name)
        found += still_improving(sweep, candidate, name, noise)
    return found


def absent(sweep: Sweep, every: Sequence[Candidate], several: bool) -> Iterator[Trouble]:
    """Look for arms that stand in no comparison, or in one of few pairs where others have more."""
    there = {c.arm: c for c in every if c.name != DEFAULT}
    most = max((len(c.values) for c in there.values()), default=0)
    for arm, name in named(sweep.study).items():
        name = name if several else "the search"
        explored, runs = sweep.explored(arm), fresh(sweep, arm)
        if arm not in there and not any(run.ok for run in explored) and not runs:
            broke = sum(run.broke for run in explored)
            text = f"{broke} of {count(len(explored), 'run')} diverged or failed"
            if broke:
                yield Trouble(
                    arm, name, "failures", f"{name}: none of its runs finished, {text}.",
                    f"narrow {name}'s range ({text})",
                )  # fmt: skip
            else:
                text = f"{name}: no run of it has ended."
                yield Trouble(arm, name, "open", text, f"let {name}'s search end")
            continue
        n = len(there[arm].values) if arm in there else 0
        if arm in there and (n >= min(most, LEAST_PAIRS) or not there[arm].confirmed):
            continue
        diverged = sum(run.status == "diverged" for run in runs)
        if diverged:
            text = f"{diverged} of {count(len(runs), 'run')} with fresh seeds diverged"
            whole = f"{name}: {text}, so its best setting is none to choose."
            yield Trouble(arm, name, "failures", whole, f"narrow {name}'s range ({text})")
            continue
        failed = sum(run.status == "failed" for run in runs)
        of = f" ({count(failed, 'run')} failed)" if failed else ""
        text = f"{name}: {count(n, 'run')} with fresh seeds ended{of}; {LEAST_PAIRS} are the least."
        yield Trouble(arm, name, "open", text, f"confirm {name} by the study's command again{of}")


def not_comparable(found: Sequence[Trouble]) -> str:
    """Return the words before a headline about arms that had unequal chances; else nothing."""
    of_arms = [trouble for trouble in found if trouble.arm]
    fixes = [trouble.fix for trouble in of_arms if trouble.kind != "short"]
    if short := [trouble.name for trouble in of_arms if trouble.kind == "short"]:
        fixes.append(f"train {listed(short)} longer (still improving at the last epochs)")
    return f"{NOT_YET}: {listed(fixes)}{SO_FAR}" if fixes else ""


def bounds(sweep: Sweep, candidate: Candidate, name: str, noise: Noise) -> Iterator[Trouble]:
    """Look for an arm's best values at a bound of its own range."""
    for knob in sweep.space_of(candidate.arm):
        column = sweep.column(knob)
        value = column.get(candidate.runs[0].id)
        tried = {column[r.id] for r in sweep.explored(candidate.arm) if r.id in column}
        if knob.choices is not None or value is None or len(tried) < 3 or inside(knob, value):
            continue
        upper = position(knob, value) >= 1 - EDGE
        wider = widened(knob, upper)
        if wider is None or (not upper and next_to_none(knob)):
            continue
        if as_good_inside(sweep, candidate.arm, knob, noise):
            continue
        side, bound = ("upper", knob.high) if upper else ("lower", knob.low)
        which = "" if len(sweep.space_of(candidate.arm)) == 1 else f" of {sweep.short(knob.name)}"
        text = (
            f"{name}: its best {sweep.short(knob.name)}, {short(value)}, lies at the {side} bound "
            f"{short(bound)} of its range."
        )
        fix = f"widen {name}'s range{which} (best at its {side} bound {short(bound)})"
        yield Trouble(candidate.arm, name, "bound", text, fix, wider)


def as_good_inside(sweep: Sweep, arm: str, knob: Knob, noise: Noise) -> bool:
    """Tell whether the search saw a value within the bounds that is as good as its best."""
    column, sign = sweep.column(knob), sweep.objective.sign
    seen = [(sign * r.value, column[r.id]) for r in sweep.explored(arm) if r.ok and r.id in column]
    best = max((value for value, _ in seen), default=0.0)
    within = [value for value, at in seen if inside(knob, at)]
    return bool(within) and max(within) >= best - (noise.sd or 0.0)


def inside(knob: Knob, value: float | None) -> bool:
    """Tell whether a value lies within a range and not near to its bounds."""
    return value is not None and EDGE < position(knob, value) < 1 - EDGE


def next_to_none(knob: Knob) -> bool:
    """Tell whether the lower bound of a knob stands for its being off."""
    rule = rules.rule(knob.name)
    return bool(knob.log and rule and rule.accepts(0.0))


def widened(knob: Knob, upper: bool) -> Knob | None:
    """Give a knob room beyond one bound; None where its values end there by nature."""
    if knob.log:
        factor = min(max(math.sqrt(knob.high / knob.low), 2.0), 10.0)
        new = knob.high * factor if upper else knob.low / factor
    else:
        reach = (knob.high - knob.low) / 2
        new = knob.high + reach if upper else knob.low - reach
        if not upper and knob.low >= 0 > new:
            new = knob.low / 2
    new = round(new) if knob.integer else float(f"{new:.2g}")
    rule = rules.rule(knob.name)
    if new in (knob.low, knob.high) or (rule and not rule.accepts(new)):
        return None
    return replace(knob, high=new) if upper else replace(knob, low=new)


def few(sweep: Sweep, arm: str, name: str) -> Iterator[Trouble]:
    """Count the finished runs of an arm's search."""
    explored = sweep.explored(arm)
    done = sum(run.ok or run.status == "pruned" for run in explored)
    ended = arm in sweep.study.stops  # before its budget: it brought what it could
    budget = max(len(explored), 0 if ended else sweep.study.budget or 0)
    least = max(LEAST_EXPLORED, budget / 2)
    if explored and done < least:
        finished = count(done, "finished run")
        text = f"{name}: {finished} in its search; {math.ceil(least)} are the least."
        yield Trouble(arm, name, "few", text, f"search {name} longer ({finished})")


def failed(sweep: Sweep, arm: str, name: str) -> Iterator[Trouble]:
    """Count the runs of an arm that diverged or failed."""
    ended = [r for r in sweep.runs if r.arm == arm and (r.ok or r.broke or r.status == "pruned")]
    broke = sum(run.broke for run in ended)
    if ended and broke > FAILURES * len(ended):
        text = f"{broke} of {count(len(ended), 'run')} diverged or failed"
        fix = f"narrow {name}'s range ({text})"
        yield Trouble(arm, name, "failures", f"{name}: {text}, {percent(broke / len(ended))}.", fix)


def still_improving(
    sweep: Sweep, candidate: Candidate, name: str, noise: Noise
) -> Iterator[Trouble]:
    """Check whether an arm's best runs ended while they got better, at an undiminished rate."""
    shares = [r.best_epoch / r.planned for r in candidate.runs if r.planned and r.best_epoch]
    epochs = max((run.planned or 0 for run in candidate.runs), default=0)
    if epochs < LEAST_EPOCHS or sum(share > LATE for share in shares) <= len(shares) / 2:
        return
    gain, rate = last_quarter(sweep, candidate.runs[:8])
    if (rate is not None and rate < FALLEN) or (gain and noise.sd and gain < noise.sd):
        return
    gained = f", and gained {sweep.objective.amount(gain)} there" if gain else ""
    text = f"{name}: its best epochs lie in the last {percent(1 - LATE)} of {epochs}{gained}."
    yield Trouble(candidate.arm, name, "short", text, f"train {name} longer")


def last_quarter(sweep: Sweep, runs: Sequence[RunRecord]) -> tuple[float | None, float | None]:
    """Return the mean gain in the last quarter, and the last rate as a share of the highest."""
    objective = sweep.objective
    gains, rates = [], []
    for rows in (run.curve for run in runs):
        values = [objective.sign * row[objective.metric] for row in rows if objective.metric in row]
        if len(values) >= LEAST_EPOCHS:  # else there is no last quarter
            gains.append(max(values) - max(values[: math.floor(LATE * len(values))]))
        if rows and "lr" in rows[-1] and (top := max(row.get("lr", -math.inf) for row in rows)):
            rates.append(rows[-1]["lr"] / top)
    gain = statistics.mean(filter(None, gains)) if any(gains) else None
    return gain, statistics.median(rates) if rates else None
