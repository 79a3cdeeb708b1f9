"""Which settings of a sweep are compared, and what their seeds allow to say.

Settings are compared seed by seed (see stats.py). One beats another where the 95 % interval of the
mean difference lies above 0 and a test agrees that allows for how many settings it was the best of,
which takes 5 paired seeds; with fewer it is ahead at most. Everything else is indistinguishable,
and said so.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from knobs.report import leaderboard
from knobs.report.gather import Run, Sweep, curve
from knobs.report.leaderboard import Entry
from knobs.report.stats import LEAST_PAIRS, Paired, noise_floor, paired, split_size
from knobs.report.words import Objective

MOST = 40  # settings compared with the winner
NAMED = 4  # knobs of a setting that is called by their values
TOP = 5
LONG = 48  # letters of two names that a sentence can still carry
BEST = "the best config"


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
    """One knob changed on the way from the default to the best config; "" is the default itself."""

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
        """What tells two single runs apart: twice the deviation of their difference."""
        return None if self.sd is None else 2 * math.sqrt(2) * self.sd


# ------------------------------------------------------------------ what is compared
def candidates(sweep: Sweep) -> list[Candidate]:
    """Best first: the arms of a study, each by its best setting, or the settings of a grid."""
    arms = [arm for arm in (sweep.study.arms if sweep.study else ()) if arm]
    if len(arms) > 1:
        found = [_of_arm(sweep, arm, name) for arm, name in _named(arms).items()]
    elif sweep.study:
        found = [_of_arm(sweep, arms[0] if arms else "", BEST)]
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


def _named(arms: Sequence[str]) -> dict[str, str]:
    """Arm -> what to call it: adam for optimizer=adam, but width=64 for model.width=64."""
    pairs = [arm.partition("=") for arm in arms]
    if len({knob for knob, _, _ in pairs}) > 1 or not all(value for _, _, value in pairs):
        return {arm: arm for arm in arms}
    words = all(value.isidentifier() and value != "null" for _, _, value in pairs)
    names = [value if words else f"{knob.rpartition('.')[2]}={value}" for knob, _, value in pairs]
    return dict(zip(arms, names, strict=True))


def _of_arm(sweep: Sweep, arm: str, name: str) -> Candidate | None:
    """An arm by its confirming runs, the end of a walk, or the best it found if there are none."""
    runs = [run for run in sweep.runs if run.arm == arm]
    last = max((run.step or 0 for run in runs if run.role == "step"), default=0)
    confirm = [run for run in runs if run.role == "confirm" and run.ok]
    confirm = confirm or [r for r in runs if r.role == "step" and r.step == last and r.ok]
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


def default_of(sweep: Sweep, winner: Candidate) -> Candidate | None:
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
def compare(
    winner: Candidate,
    other: Candidate,
    objective: Objective,
    noise: Noise,
    between: Sequence[Candidate] = (),
) -> Comparison:
    """What the paired seeds allow to say of two settings.

    Args:
        between: those that lie between the two, of which the winner was the best as well.
    """
    pairs = paired(winner.values, other.values, objective.sign)
    if pairs is None:
        return Comparison(other, None, "unknown")
    if pairs.beats:
        pairs = pairs.among([c.values for c in (winner, *between, other)])
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
    size = _validation_examples(sweep)
    floor = noise_floor(1 - best[0].mean, size) if size and best[0].mean <= 1 else None
    return Noise(floor, size, seeds)


def _validation_examples(sweep: Sweep) -> int | None:
    """As the runs say, if they agree; of older records the size that their accuracies fit."""
    if said := {run.validation_examples for run in sweep.runs if run.ok} - {None}:
        return said.pop() if len(said) == 1 else None
    metric = sweep.objective.metric
    shares = [row.get(metric) for run in sweep.runs[:64] if run.ok for row in curve(run)[:64]]
    return split_size([share for share in shares if share is not None])


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
