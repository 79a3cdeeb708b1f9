"""What a sweep found, as sentences with numbers.

Settings are compared seed by seed (see stats.py). One beats another where the 95 % interval of the
mean difference lies above 0 and the sign-flip test agrees, which takes 5 paired seeds; below that it
is ahead at most. Everything else is indistinguishable, and said so.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from knobs.report import leaderboard
from knobs.report.gather import Run, Sweep, curve, what_ran
from knobs.report.leaderboard import Entry
from knobs.report.stats import LEAST_PAIRS, Paired, noise_floor, paired, split_size
from knobs.report.words import Objective, count, listed, number

MOST = 40  # settings compared with the winner
NAMED = 4  # knobs of a setting that is called by their values
TOP = 5


@dataclass(frozen=True)
class Candidate:
    """A setting, or the best one of an arm.

    Args:
        name: what the verdict calls it.
        values: seed -> objective.
        runs: those behind the values.
        arm: that it stands for; "" if for itself.
        confirmed: whether its values are of runs made to confirm it, not of those it was chosen by.
    """

    name: str
    values: dict[int, float]
    runs: tuple[Run, ...]
    arm: str = ""
    confirmed: bool = False

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.mean(self.values.values())


@dataclass(frozen=True)
class Comparison:
    """The winner beside another candidate.

    Args:
        relation: beaten, ahead (more seeds are needed to be sure), level, or unknown.
    """

    other: Candidate
    paired: Paired | None
    relation: str


@dataclass(frozen=True)
class Step:
    """One knob changed on the way from the default to the best config; None is the default itself."""

    knob: str
    values: dict[int, float]
    gain: Paired | None


@dataclass(frozen=True)
class Noise:
    """How far two runs of one setting lie apart.

    Args:
        floor: what the size of the validation split alone makes (accuracy only).
        size: of that split.
        seeds: standard deviation over seeds, as measured on the best settings.
    """

    floor: float | None = None
    size: int | None = None
    seeds: float | None = None

    @property
    def sd(self) -> float | None:
        """As measured, or else as predicted."""
        return self.seeds or self.floor

    @property
    def of_a_pair(self) -> float | None:
        """What two single runs must differ by to be told apart: twice the deviation of a difference."""
        return None if self.sd is None else 2 * math.sqrt(2) * self.sd


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
    noise: Noise = Noise()

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
        return Verdict(f"No run finished with a value. {what_ran(sweep)}.")
    noise = measure_noise(sweep)
    winner, *others = found
    default = _default(sweep, winner)
    if default and not any(other.runs == default.runs for other in others):
        others.append(default)
    default = next((other for other in others if default and other.runs == default.runs), None)
    compared = tuple(
        compare(winner, other, objective, noise) for other in others[:MOST] if other is not default
    )
    beside = compare(winner, default, objective, noise) if default else None
    steps = walk(sweep, winner)
    more = [
        _reached(sweep, winner),
        _over_default(beside, objective, noise) if beside and compared else "",
        _walked(steps, objective),
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


# ------------------------------------------------------------------ what is compared
def candidates(sweep: Sweep) -> list[Candidate]:
    """Best first: the arms of a study, each by its best setting, or the settings of a grid."""
    arms = [arm for arm in (sweep.study.arms if sweep.study else ()) if arm]
    if len(arms) > 1:
        shared = {arm.partition("=")[0] for arm in arms}
        found = [
            _of_arm(sweep, arm, arm.partition("=")[2] if len(shared) == 1 and "=" in arm else arm)
            for arm in arms
        ]
    elif sweep.study:
        found = [_of_arm(sweep, arms[0] if arms else "", "the best config")]
    else:
        found = [_of_entry(sweep, entry, i) for i, entry in enumerate(sweep.entries, 1)]
    ready = [candidate for candidate in found if candidate]
    if sweep.study:
        confirmed = any(candidate.confirmed for candidate in ready)
        ready = [candidate for candidate in ready if candidate.confirmed or not confirmed]
    else:  # one lucky run does not outrank the mean of several
        seeds = max((len(candidate.values) for candidate in ready), default=0)
        ready = [candidate for candidate in ready if len(candidate.values) >= min(3, seeds)]
    return sorted(ready, key=lambda c: -sweep.objective.sign * c.mean)


def _of_arm(sweep: Sweep, arm: str, name: str) -> Candidate | None:
    """An arm by its confirming runs, or by the best it found if there are none."""
    runs = [run for run in sweep.runs if run.arm == arm]
    confirm = [run for run in runs if run.role == "confirm" and run.ok]
    if confirm:
        return Candidate(name, _by_seed(confirm), tuple(confirm), arm, confirmed=True)
    tried = [run for run in runs if run.role in ("search", "default") and run.ok]
    if not tried:
        return None
    settings: dict[str, list[Run]] = {}
    for run in tried:
        settings.setdefault(run.row.setting, []).append(run)
    best = max(
        settings.values(),
        key=lambda same: sweep.objective.sign * statistics.mean(_by_seed(same).values()),
    )
    return Candidate(name, _by_seed(best), tuple(best), arm)


def _of_entry(sweep: Sweep, entry: Entry, rank: int) -> Candidate | None:
    """A line of the leaderboard, unless a run of it diverged: that is none to choose."""
    rows = {run.row.folder: run for run in sweep.runs}
    runs = [rows[row.folder] for row in entry.runs if row.folder in rows]
    if any(run.row.status == "diverged" for run in runs) or not any(run.ok for run in runs):
        return None
    good = tuple(run for run in runs if run.ok)
    return Candidate(name_of(sweep, entry, rank), _by_seed(good), good)


def name_of(sweep: Sweep, entry: Entry, rank: int) -> str:
    """A setting by the knobs that differ, or by its place if these are many."""
    knobs = {name: value for name, value in entry.knobs.items() if value != leaderboard.ABSENT}
    if not knobs:
        return "the setting"
    if len(knobs) > NAMED:
        return f"setting {rank}"
    short = sweep.short()
    return " ".join(f"{short[name]}={leaderboard.short(v)}" for name, v in knobs.items())


def _default(sweep: Sweep, winner: Candidate) -> Candidate | None:
    """The config that the winner's arm started from: as run beside it, or as tried first."""
    runs = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    for role in ("baseline", "default"):
        found = tuple(run for run in runs if run.role == role)
        if found and found != winner.runs:
            return Candidate("the default", _by_seed(found), found, winner.arm, role == "baseline")
    return None


def _by_seed(runs: Iterable[Run]) -> dict[int, float]:
    return {run.seed: run.row.value for run in runs if run.row.value is not None}


# ------------------------------------------------------------------ compared
def compare(winner: Candidate, other: Candidate, objective: Objective, noise: Noise) -> Comparison:
    """What the paired seeds allow to say of two settings."""
    pairs = paired(winner.values, other.values, objective.sign)
    if pairs is None:
        return Comparison(other, None, "unknown")
    if pairs.n >= 3:
        relation = "level" if not pairs.apart else "beaten" if pairs.beats else "ahead"
        return Comparison(other, pairs, "level" if _mixed(pairs) else relation)
    if noise.of_a_pair is None:
        return Comparison(other, pairs, "unknown")
    ahead = pairs.mean * math.sqrt(pairs.n) > noise.of_a_pair
    return Comparison(other, pairs, "ahead" if ahead else "level")


def _mixed(pairs: Paired) -> bool:
    """Whether there are seeds enough to tell, and they do not."""
    return pairs.n >= LEAST_PAIRS and not pairs.beats


def measure_noise(sweep: Sweep) -> Noise:
    """From the best settings: one with poor values spreads for reasons of its own."""
    best = [entry for entry in sweep.entries if entry.mean is not None][:TOP]
    variances = [entry.sd**2 for entry in best if entry.sd]
    seeds = math.sqrt(statistics.mean(variances)) if variances else None
    if not sweep.objective.metric.endswith("accuracy") or not best:
        return Noise(seeds=seeds)
    metric = sweep.objective.metric
    shares = [row.get(metric) for run in sweep.runs[:64] if run.ok for row in curve(run)[:64]]
    size = split_size([share for share in shares if share is not None])
    floor = noise_floor(1 - best[0].mean, size) if size and best[0].mean <= 1 else None
    return Noise(floor, size, seeds)


def walk(sweep: Sweep, winner: Candidate) -> tuple[Step, ...]:
    """From the default to the best config, one knob at a time."""
    mine = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    steps: dict[int, list[Run]] = {}
    for run in mine:
        if run.role == "step" and run.step is not None:
            steps.setdefault(run.step, []).append(run)
    start = [run for run in mine if run.role == "baseline"]
    if not steps or not start:
        return ()
    before = _by_seed(start)
    walked = [Step("", before, None)]
    for _, runs in sorted(steps.items()):
        values = _by_seed(runs)
        gain = paired(values, before, sweep.objective.sign)
        walked.append(Step(runs[0].knob, values, gain))
        before = values
    return tuple(walked)


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
        return (
            f"{winner.name}: {objective.metric} {objective.value(winner.mean)} ({seeds}); "
            "there is nothing to compare it with."
        )
    clauses = []
    if level:
        names = listed([winner.name, *(c.other.name for c in level)])
        extent = _extent(level, objective, noise)
        clauses.append(f"{names} are indistinguishable at this budget ({extent})")
    else:
        value = f"{objective.metric} {objective.value(winner.mean)}"
        clauses.append(f"{winner.name} is the best with {value} ({seeds})")
    if groups["beaten"]:
        clauses.append(_beats(winner, level, groups["beaten"], objective))
    if groups["ahead"]:
        who = winner.name if level else "it"
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
    text = "; ".join(clauses)
    return f"{text}."


def _extent(level: list[Comparison], objective: Objective, noise: Noise) -> str:
    """`difference 0.1 ± 0.4 points, 5 paired seeds`."""
    pairs = [c.paired for c in level if c.paired]
    largest = max(abs(p.mean) for p in pairs)
    margins = [p.margin for p in pairs if p.margin is not None]
    many = len(pairs) > 1
    text = f"difference{'s up to' if many else ''} {objective.amount(largest, unit=not margins)}"
    if margins:
        text += f" ± {objective.amount(max(margins))}"
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
    at = f" with {', '.join(knobs)}" if knobs and (sweep.study or len(knobs) > NAMED) else ""
    who = winner.name[:1].upper() + winner.name[1:] if winner.name.startswith("the ") else winner.name
    reached = f"{objective.metric} {objective.value(winner.mean)}{spread} ({_seeds(winner.values)})"
    return f"{who} reached {reached}{at}."


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
        f"{_fewest([beside])}, p = {number(pairs.p, 2)}){sure}."
    )


def _walked(steps: tuple[Step, ...], objective: Objective) -> str:
    """Which knob gave what."""
    gains = [(step.gain.mean, step.knob) for step in steps if step.gain]
    if not gains:
        return ""
    told = [f"{knob} {objective.amount(gain)}" for gain, knob in sorted(gains, reverse=True)]
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
