"""Choose the settings to compare, and compare them as far as their seeds allow.

Settings are compared seed by seed (see stats.py). One beats another where the 95 % interval of the
mean difference lies above 0 and a test agrees that allows for how many settings it was the best of,
which takes 5 paired seeds; with fewer it is ahead at most. Everything else is no significant
difference, and called so.
"""

import math
import statistics
from collections.abc import Iterable, Sequence

from knobs.report.conclusions import Candidate, Comparison, Noise, Step
from knobs.report.records import Entry, RunRecord, Sweep
from knobs.report.stats import LEAST_PAIRS, noise_floor, paired, split_size

TOP = 5  # settings from which the seed standard deviation is measured
BEST = "the best config"


def candidates(sweep: Sweep) -> list[Candidate]:
    """Return, best first, the arms of a study, each by its best setting, or a grid's settings."""
    arms = [arm for arm in (sweep.study.arms if sweep.study else ()) if arm]
    if sweep.study:
        names = _named(arms) if len(arms) > 1 else {next(iter(arms), ""): BEST}
        ready = [c for arm, name in names.items() if (c := _of_arm(sweep, arm, name))]
        confirmed = any(c.confirmed for c in ready)
        ready = [c for c in ready if c.confirmed or not confirmed]
    else:  # one lucky run does not outrank the mean of several
        ready = [c for i, e in enumerate(sweep.entries, 1) if (c := _of_entry(sweep, e, i))]
        seeds = max((len(c.values) for c in ready), default=0)
        ready = [c for c in ready if len(c.values) >= min(3, seeds)]
    return sorted(ready, key=lambda c: -sweep.objective.sign * c.mean)


def _named(arms: Sequence[str]) -> dict[str, str]:
    """Map an arm to its name: optimizer=adam to adam, but model.width=64 to width=64."""
    pairs = [arm.partition("=") for arm in arms]
    if len({knob for knob, _, _ in pairs}) > 1 or not all(value for _, _, value in pairs):
        return {arm: arm for arm in arms}
    words = all(value.isidentifier() and value != "null" for _, _, value in pairs)
    names = [value if words else f"{knob.rpartition('.')[2]}={value}" for knob, _, value in pairs]
    return dict(zip(arms, names, strict=True))


def _of_arm(sweep: Sweep, arm: str, name: str) -> Candidate | None:
    """Return an arm by its confirming runs, the end of a walk, or else its best setting."""
    runs = [run for run in sweep.runs if run.arm == arm]
    last = max((run.step or 0 for run in runs if run.role == "step"), default=0)
    confirm = [run for run in runs if run.role == "confirm" and run.ok]
    confirm = confirm or [r for r in runs if r.role == "step" and r.step == last and r.ok]
    if confirm:
        return Candidate(name, _by_seed(confirm), tuple(confirm), arm, confirmed=True)
    settings: dict[str, list[RunRecord]] = {}
    for run in sweep.explored(arm):
        if run.ok:
            settings.setdefault(run.setting, []).append(run)
    tried = [Candidate(name, _by_seed(same), tuple(same), arm) for same in settings.values()]
    return max(tried, key=lambda c: sweep.objective.sign * c.mean, default=None)


def _of_entry(sweep: Sweep, entry: Entry, rank: int) -> Candidate | None:
    """Return a line of the leaderboard, unless a run of it diverged: that is none to choose."""
    good = tuple(run for run in entry.runs if run.ok)
    if not good or any(run.status == "diverged" for run in entry.runs):
        return None
    return Candidate(sweep.name_of(entry, rank), _by_seed(good), good)


def default_of(sweep: Sweep, winner: Candidate) -> Candidate | None:
    """Return the config that the winner's arm started from: as run beside it, or as tried first."""
    runs = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    for role in ("baseline", "default"):
        same = tuple(run for run in runs if run.role == role)
        if same and same != winner.runs:
            return Candidate("the default", _by_seed(same), same, winner.arm, role == "baseline")
    return None


def _by_seed(runs: Iterable[RunRecord]) -> dict[int, float]:
    return {run.seed: run.value for run in runs}


def compare(
    winner: Candidate, other: Candidate, sign: int, noise: Noise, between: Sequence[Candidate] = ()
) -> Comparison:
    """Compare two settings as far as their paired seeds allow.

    Args:
        between: those that lie between the two, of which the winner was the best as well.
    """
    pairs = paired(winner.values, other.values, sign)
    if pairs is None:
        return Comparison(other, None, "unknown")
    if pairs.beats:
        pairs = pairs.among([c.values for c in (winner, *between, other)])
    if pairs.n >= 3:
        mixed = pairs.n >= LEAST_PAIRS and not pairs.beats  # enough seeds to tell, and they do not
        relation = "level" if mixed or not pairs.apart else "beaten" if pairs.beats else "ahead"
        return Comparison(other, pairs, relation)
    if noise.of_a_pair is None:
        return Comparison(other, pairs, "unknown")
    ahead = pairs.mean * math.sqrt(pairs.n) > noise.of_a_pair
    return Comparison(other, pairs, "ahead" if ahead else "level")


def measure_noise(sweep: Sweep) -> Noise:
    """Measure on the best settings: one with poor values spreads for other reasons."""
    best = [entry for entry in sweep.entries if entry.mean is not None][:TOP]
    variances = [entry.sd**2 for entry in best if entry.sd]
    seeds = math.sqrt(statistics.mean(variances)) if variances else None
    if not sweep.objective.metric.endswith("accuracy") or not best:
        return Noise(seeds=seeds)
    size = _validation_examples(sweep)
    floor = noise_floor(1 - best[0].mean, size) if size and best[0].mean <= 1 else None
    return Noise(floor, size, seeds)


def _validation_examples(sweep: Sweep) -> int | None:
    """Return the size that the runs record, if they agree; else what fits their accuracies."""
    if sizes := {run.validation_examples for run in sweep.runs if run.ok} - {None}:
        return sizes.pop() if len(sizes) == 1 else None
    metric = sweep.objective.metric
    shares = [row.get(metric) for run in sweep.runs[:64] if run.ok for row in run.curve[:64]]
    return split_size([share for share in shares if share is not None])


def walk(sweep: Sweep, winner: Candidate) -> tuple[Step, ...]:
    """Return the steps from the default to the best config, one knob at a time."""
    runs = [run for run in sweep.runs if run.ok and run.arm in (winner.arm, "")]
    steps: dict[int, list[RunRecord]] = {}
    for run in runs:
        if run.role == "step" and run.step is not None:
            steps.setdefault(run.step, []).append(run)
    before = _by_seed(run for run in runs if run.role == "baseline")
    if not steps or not before:
        return ()
    walked = [Step("", before, None)]
    for _, same in sorted(steps.items()):
        values = _by_seed(same)
        walked.append(Step(same[0].knob, values, paired(values, before, sweep.objective.sign)))
        before = values
    return tuple(walked)
