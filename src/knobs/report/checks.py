"""Check the sweep itself by its runs: its space, its length, its noise.

Thresholds: Godbole et al. 2023, "Deep Learning Tuning Playbook": bad search space boundaries, and
how long to train.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product

from knobs.report.compare import LEAST_REPEATED, constant_of
from knobs.report.conclusions import DEFAULT, Candidate, Finding, Importance, Verdict
from knobs.report.fairness import (
    EDGE,
    FAILURES,
    FALLEN,
    LATE,
    LEAST_EPOCHS,
    as_good_inside,
    inside,
    last_quarter,
    next_to_none,
    widened,
)
from knobs.report.health import health
from knobs.report.records import FRESH, GOOD, UNREADABLE, Knob, RunRecord, Sweep, position
from knobs.report.stats import LEAST_PAIRS
from knobs.words import count, listed, percent, short

EARLY = 0.1  # of the epochs: a best epoch before calls for fewer
INSENSITIVE = 0.05  # a knob whose whole interval is below this share has no effect
CONFINED = 0.8  # of the failures on one side of a value, which then is the bound to set


def checks(
    sweep: Sweep,
    verdict: Verdict,
    importance: Importance | None = None,
    further: tuple[float, float] | None = None,
) -> list[Finding]:
    """Make all checks, those that call for something first.

    Args:
        further: expected gain of a further run, and noise of the validation split, if known.
    """
    findings = [
        *boundary(sweep, verdict),
        *failures(sweep),
        *length(sweep, verdict),
        *insensitive(sweep, importance),
        *noise_floor(sweep, verdict),
        *unfinished(sweep),
        *health(sweep, verdict, importance, further),
    ]
    return sorted(findings, key=lambda finding: ("act", "note", "ok").index(finding.level))


def boundary(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Look for best values at the edge of what was searched, of every arm by itself."""
    if verdict.winner is None:
        return
    rivals = [verdict.winner, *(c.other for c in verdict.comparisons if c.other.arm)]
    arms = {c.arm: c for c in reversed(rivals) if c.name != DEFAULT or c is verdict.winner}
    looked = outside = 0
    for candidate in reversed(arms.values()):
        of = f" of {candidate.name}" if len(arms) > 1 else ""
        for knob in sweep.space_of(candidate.arm):
            value = sweep.column(knob).get(candidate.runs[0].id)
            if knob.choices is not None or value is None or len({*sweep.column(knob).values()}) < 3:
                continue
            looked += 1
            upper = position(knob, value) >= 1 - EDGE
            wider = None if inside(knob, value) else widened(knob, upper)
            if wider is not None:
                outside += 1
                yield _at_bound(sweep, verdict, candidate, knob, wider, value, of)
    if looked and not outside:
        every = f" in any of {len(arms)} arms" if len(arms) > 1 else ""
        yield Finding("boundary", "ok", f"No best value lies at a bound{every}.")


def _at_bound(
    sweep: Sweep, verdict: Verdict, candidate: Candidate, knob: Knob, wider: Knob, value: float,
    of: str,
) -> Finding:  # fmt: skip
    """Return what a best value at a bound calls for."""
    upper = wider.high != knob.high
    side, bound = ("upper", knob.high) if upper else ("lower", knob.low)
    text = (
        f"The best {sweep.short(knob.name)}{of}, {short(value)}, lies within "
        f"{percent(EDGE)} of the {side} bound {short(bound)}."
    )
    if not upper and next_to_none(knob):
        do = f"Try {knob.name}=0 as well."
        return Finding("boundary", "note", f"{text} So little is next to none.", do)
    if sweep.study:
        if as_good_inside(sweep, candidate.arm, knob, verdict.noise):
            text += " A value inside the bounds is as good."
            return Finding("boundary", "note", text, knob=wider)
        return Finding("boundary", "act", text, _search(wider), wider)
    column = sweep.column(knob)
    level = [c.other for c in verdict.comparisons if c.relation == "level"]
    if alike := [c for c in level if inside(knob, column.get(c.runs[0].id))]:
        text += f" {alike[0].name}, inside the bounds, does not differ from it."
        return Finding("boundary", "note", text, knob=wider)
    return Finding("boundary", "act", text, _search(wider), wider)


def _search(knob: Knob) -> str:
    return f"Search {knob.name} from {short(knob.low)} to {short(knob.high)}."


def failures(sweep: Sweep) -> Iterator[Finding]:
    """Count the runs that broke, and look where they lie."""
    ended = [r for r in sweep.explored() if r.broke or r.status in (*GOOD, "pruned")]
    broke = sum(run.broke for run in ended)
    if not ended:
        return
    fresh = [r for r in sweep.runs if r.role in FRESH and (r.broke or r.ok)]
    if not broke and (lost := sum(run.broke for run in fresh)):
        of = f"{lost} of {count(len(fresh), 'run')} with fresh seeds diverged or failed"
        yield Finding("failures", "note", f"{of}, none of the search.")
        return
    if not broke:
        yield Finding("failures", "ok", "No run diverged or failed.")
        return
    share = broke / len(ended)
    text = f"{broke} of {count(len(ended), 'run')} diverged or failed ({percent(share)})."
    shrink = f"Shrink the space: more than {percent(FAILURES)} of its runs are lost."
    where, do, knob = confined(sweep, ended) or ("", shrink, None)
    advice = (do, knob) if share > FAILURES else ()
    yield Finding("failures", "act" if advice else "note", f"{text} {where}".rstrip(), *advice)


def confined(sweep: Sweep, ended: Sequence[RunRecord]) -> tuple[str, str, Knob | None] | None:
    """Find the one bound beyond which runs break: where, what to do, and the knob within it.

    None where no knob tells; without a knob where a single value is left within the bound.
    """
    best, score = None, 0.0
    broke = sum(run.broke for run in ended)
    for knob in sweep.space:
        if knob.choices is not None:
            continue
        column = sweep.column(knob)
        points = [(column[run.id], run.broke) for run in ended if run.id in column]
        bounds = pairwise(sorted({value for value, _ in points}))
        for upper, (inner, outer) in product((True, False), bounds):
            beyond = [b for v, b in points if (v >= outer if upper else v <= inner)]
            caught, share = sum(beyond), sum(beyond) / len(beyond)
            if caught < CONFINED * broke or share < 0.5 or share * caught / broke <= score:
                continue
            score = share * caught / broke
            side = f">= {short(outer)}" if upper else f"<= {short(inner)}"
            where = f"{'All' if caught == broke else caught} of them lie at {knob.name} {side}."
            low, high = (knob.low, inner) if upper else (outer, knob.high)
            if low < high:
                within = replace(knob, low=low, high=high)
                best = where, _search(within), within
            else:
                away = f"below {short(outer)}" if upper else f"above {short(inner)}"
                best = where, f"Search {knob.name} {away}.", None
    return best


def length(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Check whether the best runs were still getting better, or had done so long before."""
    sign = sweep.objective.sign
    good = [run for run in sweep.runs if run.ok and run.role != "test"]
    good.sort(key=lambda run: -sign * run.value)
    best = good[: max(3, len(good) // 4)]
    shares = [run.best_epoch / run.planned for run in best if run.planned and run.best_epoch]
    epochs = max((run.planned or 0 for run in best), default=0)
    if not shares:
        return
    if epochs < LEAST_EPOCHS:
        verb = "is" if epochs == 1 else "are"
        text = f"{count(epochs, 'epoch')} {verb} too few to tell whether training was long enough."
        yield Finding("too short", "note", text)
        return
    late = sum(share > LATE for share in shares)
    early = sum(share <= EARLY for share in shares)
    had = f"of the {len(shares)} best runs had their best epoch in the"
    last, first = f"{late} {had} last {percent(1 - LATE)}", f"{early} {had} first {percent(EARLY)}"
    if late > len(shares) / 2:
        yield _late(sweep, verdict, best[:8], f"{last} of {epochs} epochs", 2 * epochs)
    else:
        yield Finding("too short", "ok", f"{last}.")
    if early > len(shares) / 2:
        do = f"Train shorter: training.epochs={max(1, round(epochs / 2))}, or stop early."
        yield Finding("too long", "act", f"{first} of {epochs} epochs.", do)
    else:
        yield Finding("too long", "ok", f"{first}.")


def _late(sweep: Sweep, verdict: Verdict, best: list[RunRecord], text: str, longer: int) -> Finding:
    """Return what late best epochs mean: whether more would come, and at what rate."""
    objective, noise = sweep.objective, verdict.noise.sd
    gain, rate = last_quarter(sweep, best)
    text += f", and gained {objective.amount(gain)} there." if gain is not None else "."
    if rate is not None and rate < FALLEN:
        text += " Their learning rate falls to the end, so a late best epoch is as it should be."
    elif gain is not None and noise and gain < noise:
        text += f" That is below the seed standard deviation ({objective.amount(noise)})."
    else:
        return Finding("too short", "act", text, f"Train longer: training.epochs={longer}.")
    return Finding("too short", "note", text)


def insensitive(sweep: Sweep, importance: Importance | None) -> Iterator[Finding]:
    """Look for knobs that a next search can leave out."""
    if importance is None:
        return
    idle = [
        sweep.short(knob.name)
        for knob in importance.knobs
        if knob.moves
        and max(knob.moves.high, knob.breaks.high) < INSENSITIVE
        and not (knob.gain and knob.gain.low > 0)
    ]
    if not idle:
        yield Finding("insensitive", "ok", "No knob is known to be without effect.")
        return
    has, them = ("has", "it") if len(idle) == 1 else ("have", "them")
    below = f"{has} a failure effect and a total-order effect below {percent(INSENSITIVE)}"
    yield Finding("insensitive", "note", f"{listed(idle, 6)} {below}.", f"Leave {them} fixed.")


def noise_floor(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """State which differences mean anything."""
    noise, amount = verdict.noise, sweep.objective.amount
    ranked = [e for e in sweep.entries if e.mean is not None and e.rank is not None]
    if not ranked or verdict.winner is None:
        return
    if noise.of_a_pair is None:
        few = f"fewer than {LEAST_REPEATED} settings comparable to the best ran more than once"
        text = f"The seed standard deviation is unknown: {few}."
        constant, value = constant_of(sweep), verdict.winner.mean
        worthless = constant is not None and sweep.objective.sign * (value - constant) <= 0
        seeds = ",".join(map(str, range(LEAST_PAIRS)))
        repeated = worthless or len(verdict.winner.values) >= LEAST_PAIRS
        do = "" if repeated else f"Repeat the best setting with seed={seeds}."
        yield Finding("noise floor", "note" if repeated else "act", text, do)
        return
    parts = [f"{amount(noise.seeds)} as measured"] if noise.seeds else []
    if noise.floor:
        parts.append(f"{amount(noise.floor)} as predicted from {noise.size:,} validation examples")
    best, sd = ranked[0], noise.sd
    near = sum(abs(e.mean - best.mean) < 2 * sd * math.sqrt(1 / e.n + 1 / best.n) for e in ranked)
    text = (
        f"Seed standard deviation: {', '.join(parts)}. Two single runs must differ by "
        f"{amount(noise.of_a_pair)} to be significantly different; {near} of {len(ranked)} "
        "settings lie within such a distance of the best."
    )
    yield Finding("noise floor", "note" if near > 1 else "ok", text)


def unfinished(sweep: Sweep) -> Iterator[Finding]:
    """Count the runs that say nothing yet."""
    if stopped := sum(run.status == "interrupted" for run in sweep.runs):
        text = f"{count(stopped, 'run')} did not end."
        yield Finding("unfinished", "act", text, "Give the sweep's command again: it goes on.")
    if broken := [run.id for run in sweep.runs if run.status == UNREADABLE]:
        text = f"{count(len(broken), 'run')} cannot be read: {listed(broken, 6)}."
        faults = [f"{r.id}/{r.fault}" for r in sweep.runs if r.status == UNREADABLE and r.fault]
        yield Finding("unfinished", "note", text, f"See to {listed(faults, 3)}." if faults else "")
    if logs := [f"{r.id}/{r.fault}" for r in sweep.runs if r.fault and r.status != UNREADABLE]:
        text = f"{count(len(logs), 'log')} damaged, and left out what is: {listed(logs, 3)}."
        do = "resume=FOLDER writes a log again from its checkpoint."
        yield Finding("damaged", "note", text, do)
    for fault in sweep.faults:
        text = f"{fault}. What was asked is not known, and each run's place is as it recorded it."
        yield Finding("damaged", "act", text, "Give the sweep's command again: it makes it anew.")
    if sweep.others:
        text = f"{count(sweep.others, 'run')} with another objective or none left out."
        yield Finding("unfinished", "note", text)
