"""What a sweep's runs say about the sweep itself: its space, its length, its noise.

Thresholds: Godbole et al. 2023, "Deep Learning Tuning Playbook": bad search space boundaries, and
how long to train.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from knobs import limits
from knobs.report import leaderboard
from knobs.report.compare import Candidate
from knobs.report.gather import Run, Sweep, curve, knob_of, position
from knobs.report.importance import Importance, Knob
from knobs.report.leaderboard import GOOD
from knobs.report.leaderboard import short as typed
from knobs.report.verdict import Verdict
from knobs.report.words import count, listed

EDGE = 0.05  # of a range, on its own scale: a best value this near to a bound calls for a wider one
FAILURES = 0.3  # above this share of broken runs the space is too wide
LATE, EARLY = 0.75, 0.1  # of the epochs: a best epoch beyond or before calls for more or fewer
LEAST_EPOCHS = 4  # fewer have no last quarter
INSENSITIVE = 0.05  # a knob whose whole interval is below this share moves nothing
CONFINED = 0.8  # of the failures on one side of a value, which then is the bound to set


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        check: its name.
        level: act (something is to be done), note (to be known), or ok.
        text: with numbers.
        do: what to do; "" where nothing is.
        knob: that it is about, with the bounds or the value to take instead.
    """

    check: str
    level: str
    text: str
    do: str = ""
    knob: Knob | None = None


def checks(sweep: Sweep, verdict: Verdict, importance: Importance | None = None) -> list[Finding]:
    """All checks, those that call for something first.

    Args:
        importance: as importance.importance gives it; None where there were too few runs.
    """
    found = [
        *boundary(sweep, verdict),
        *failures(sweep),
        *length(sweep, verdict),
        *insensitive(sweep, importance),
        *noise_floor(sweep, verdict),
        *unfinished(sweep),
    ]
    return sorted(found, key=lambda finding: ("act", "note", "ok").index(finding.level))


# ------------------------------------------------------------------ boundary
def boundary(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Best values at the edge of what was searched."""
    if verdict.winner is None:
        return
    level = [c.other for c in verdict.comparisons if c.relation == "level"]
    alternatives = [c for c in level if c.arm == verdict.winner.arm and c is not verdict.default]
    short, looked = sweep.short(), 0
    for knob in sweep.space_of(verdict.winner.arm):
        value = _value(verdict.winner, knob)
        if knob.choices is not None or value is None or len(_values(sweep, knob)) < 3:
            continue
        looked += 1
        where = position(knob, value)
        if EDGE < where < 1 - EDGE:
            continue
        upper = where >= 1 - EDGE
        wider = widened(knob, upper)
        if wider is None:
            continue
        inside = [c for c in alternatives if _inside(knob, _value(c, knob))]
        bound = knob.high if upper else knob.low
        text = (
            f"The best {short.get(knob.name, knob.name)}, {typed(value)}, lies within 5 % of the "
            f"{'upper' if upper else 'lower'} bound {typed(bound)}."
        )
        if knob.log and not upper and _may_be_off(knob):
            do = f"Try {knob.name}=0 as well."
            yield Finding("boundary", "note", f"{text} So little is next to none.", do)
        elif inside:
            yield Finding(
                "boundary",
                "note",
                f"{text} {inside[0].name}, inside the bounds, is indistinguishable from it.",
                knob=wider,
            )
        else:
            do = f"Search {knob.name} from {typed(wider.low)} to {typed(wider.high)}."
            yield Finding("boundary", "act", text, do, wider)
        looked = -math.inf
    if looked > 0:
        yield Finding("boundary", "ok", "No best value lies at a bound.")


def widened(knob: Knob, upper: bool) -> Knob | None:
    """The knob with room beyond one bound; None where its values end there by nature."""
    if knob.log:
        factor = min(max(math.sqrt(knob.high / knob.low), 2.0), 10.0)
        new = knob.high * factor if upper else knob.low / factor
    else:
        reach = (knob.high - knob.low) / 2
        new = knob.high + reach if upper else knob.low - reach
        if not upper and knob.low >= 0 > new:
            new = knob.low / 2
    new = round(new) if knob.integer else float(f"{new:.2g}")
    rule = limits.rule(knob.name)
    if new in (knob.low, knob.high) or (rule and not rule.accepts(new)):
        return None
    return replace(knob, high=new) if upper else replace(knob, low=new)


def _may_be_off(knob: Knob) -> bool:
    rule = limits.rule(knob.name)
    return rule is not None and rule.accepts(0.0)


def _inside(knob: Knob, value: float | None) -> bool:
    return value is not None and EDGE < position(knob, value) < 1 - EDGE


def _value(candidate: Candidate, knob: Knob) -> Any:
    return knob_of(candidate.runs[0], knob)


def _values(sweep: Sweep, knob: Knob) -> set[Any]:
    return {knob_of(run, knob) for run in sweep.runs} - {None}


# ------------------------------------------------------------------ failures
def failures(sweep: Sweep) -> Iterator[Finding]:
    """How many runs broke, and where."""
    ended = [r for r in sweep.explored() if r.broke or r.row.status in (*GOOD, "pruned")]
    broke = [run for run in ended if run.broke]
    if not ended:
        return
    share = len(broke) / len(ended)
    text = f"{len(broke)} of {count(len(ended), 'run')} diverged or failed ({100 * share:.0f} %)."
    if not broke:
        yield Finding("failures", "ok", "No run diverged or failed.")
        return
    found = confined(sweep, ended)
    if found:
        knob, words = found
        text += f" {words}"
    if share <= FAILURES:
        yield Finding("failures", "note", text)
        return
    do = "Shrink the space: more than 30 % of its runs are lost."
    if found:
        do = f"Search {knob.name} from {typed(knob.low)} to {typed(knob.high)}."
    yield Finding("failures", "act", text, do, found[0] if found else None)


def confined(sweep: Sweep, ended: list[Run]) -> tuple[Knob, str] | None:
    """The one knob, and its bound, beyond which runs break; None where no knob tells."""
    best: tuple[float, Knob, str] | None = None
    broke = sum(run.broke for run in ended)
    for knob in sweep.space:
        points = [(v, run.broke) for run in ended if (v := knob_of(run, knob)) is not None]
        if knob.choices is not None or not points:
            continue
        values = sorted({value for value, _ in points})
        for upper in (True, False):
            for inner, outer in pairwise(values):
                beyond = [b for v, b in points if (v >= outer if upper else v <= inner)]
                caught, share = sum(beyond), sum(beyond) / len(beyond)
                score = share * caught / broke
                if caught < CONFINED * broke or share < 0.5 or (best and score <= best[0]):
                    continue
                kept = replace(knob, high=inner) if upper else replace(knob, low=outer)
                if kept.low < kept.high:
                    side = f">= {typed(outer)}" if upper else f"<= {typed(inner)}"
                    of = "All" if caught == broke else caught
                    words = f"{of} of them lie at {knob.name} {side}."
                    best = score, kept, words
    return best and best[1:]


# ------------------------------------------------------------------ too short, too long
def length(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Whether the best runs were still getting better, or had done so long before."""
    sign = sweep.objective.sign
    good = [run for run in sweep.runs if run.ok and run.role != "test"]
    good.sort(key=lambda run: -sign * run.row.value)
    best = good[: max(3, len(good) // 4)]
    shares = [
        run.row.best_epoch / run.planned for run in best if run.planned and run.row.best_epoch
    ]
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
    of = f"of the {len(shares)} best runs"
    if late > len(shares) / 2:
        yield _too_short(sweep, verdict, best, f"{late} {of}", epochs)
    else:
        yield Finding("too short", "ok", f"{late} {of} had their best epoch in the last quarter.")
    if early > len(shares) / 2:
        text = f"{early} {of} had their best epoch in the first tenth of {epochs} epochs."
        do = f"Train shorter: training.epochs={max(1, round(epochs / 2))}, or stop early."
        yield Finding("too long", "act", text, do)
    else:
        yield Finding("too long", "ok", f"{early} {of} had their best epoch in the first tenth.")


def _too_short(sweep: Sweep, verdict: Verdict, best: list[Run], who: str, epochs: int) -> Finding:
    """The best epochs are late: whether more would come, and at what rate."""
    objective = sweep.objective
    curves = [curve(run) for run in best[:8]]
    gains = [g for rows in curves if (g := _last_quarter(rows, objective.metric, objective.sign))]
    gain = statistics.mean(gains) if gains else None
    text = f"{who} had their best epoch in the last quarter of {epochs}"
    text += f", and gained {objective.amount(gain)} there." if gain is not None else "."
    rates = [rows[-1]["lr"] / top for rows in curves if (top := _most(rows, "lr"))]
    if rates and statistics.median(rates) < 0.2:
        text += " Their learning rate falls to the end, so a late best epoch is as it should be."
        return Finding("too short", "note", text)
    if gain is not None and verdict.noise.sd and gain < verdict.noise.sd:
        text += f" That is within the noise of a run ({objective.amount(verdict.noise.sd)})."
        return Finding("too short", "note", text)
    return Finding("too short", "act", text, f"Train longer: training.epochs={2 * epochs}.")


def _last_quarter(rows: list[dict[str, float]], metric: str, sign: int) -> float | None:
    """What the best of a curve gained over its last quarter."""
    values = [sign * row[metric] for row in rows if metric in row]
    before = values[: max(1, math.floor(LATE * len(values)))]
    return max(values) - max(before) if len(values) >= LEAST_EPOCHS else None


def _most(rows: list[dict[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return max(values) if values and name in rows[-1] else None


# ------------------------------------------------------------------ insensitive, noise, unfinished
def insensitive(sweep: Sweep, importance: Importance | None) -> Iterator[Finding]:
    """Knobs that a next search can leave out."""
    if importance is None:
        return
    short = sweep.short()
    idle = [
        knob.name
        for knob in importance.knobs
        if max(knob.moves.high, knob.breaks.high) < INSENSITIVE
        and not (knob.gain and knob.gain.low > 0)
    ]
    if idle:
        names = listed([short.get(name, name) for name in idle], 6)
        one = len(idle) == 1
        text = (
            f"{names} {'moves' if one else 'move'} less than 5 % of what differs and "
            f"{'breaks' if one else 'break'} no runs."
        )
        yield Finding("insensitive", "note", text, f"Leave {'it' if one else 'them'} fixed.")
    else:
        yield Finding("insensitive", "ok", "No knob is known to be without effect.")


def noise_floor(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """What differences mean anything."""
    noise, objective = verdict.noise, sweep.objective
    best = next((entry for entry in sweep.entries if entry.mean is not None), None)
    if best is None or verdict.winner is None:
        return
    if noise.of_a_pair is None:
        text = "The noise of a run is unknown: no setting ran with two seeds."
        yield Finding("noise floor", "act", text, "Repeat the best setting with seed=0,1,2,3,4.")
        return
    told = []
    if noise.seeds:
        told.append(f"measured over seeds {objective.amount(noise.seeds)}")
    if noise.floor:
        told.append(
            f"predicted from {noise.size:,} validation examples {objective.amount(noise.floor)}"
        )
    ranked = [e for e in sweep.entries if e.mean is not None and e.rank is not None]
    near = sum(
        abs(e.mean - best.mean) < 2 * noise.sd * math.sqrt(1 / max(1, e.n) + 1 / max(1, best.n))
        for e in ranked
    )
    text = (
        f"One run's noise: {', '.join(told)}. Two single runs must differ by "
        f"{objective.amount(noise.of_a_pair)} to be told apart; {near} of {len(ranked)} settings "
        "lie within the noise of the best."
    )
    yield Finding("noise floor", "note" if near > 1 else "ok", text)


def unfinished(sweep: Sweep) -> Iterator[Finding]:
    """Runs that say nothing yet."""
    states = [run.row.status for run in sweep.runs]
    stopped, broken = states.count("interrupted"), states.count(leaderboard.UNREADABLE)
    if stopped:
        text = f"{count(stopped, 'run')} did not end."
        yield Finding("unfinished", "act", text, "Give the sweep's command again: it goes on.")
    if broken:
        text = f"{count(broken, 'run')} cannot be read: {_where(sweep)}."
        yield Finding("unfinished", "note", text)
    if sweep.others:
        text = f"{count(sweep.others, 'run')} with another objective left out."
        yield Finding("unfinished", "note", text)


def _where(sweep: Sweep) -> str:
    return listed([r.id for r in sweep.runs if r.row.status == leaderboard.UNREADABLE], 6)
