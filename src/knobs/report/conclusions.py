"""Conclusions as plain data: verdict, importance, findings, advice."""

import math
import statistics
from dataclasses import dataclass, field

from knobs.report.records import Knob, RunRecord, Sweep
from knobs.report.stats import Paired


@dataclass(frozen=True)
class Candidate:
    """A setting, or the best one of an arm.

    Args:
        values: seed -> objective, of `runs`.
        arm: that it stands for; "" if for itself.
        confirmed: whether its values are of runs made to confirm it, not of those it was chosen by.
    """

    name: str
    values: dict[int, float]
    runs: tuple[RunRecord, ...]
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
    """The distance between two runs of one setting.

    Args:
        floor: what the size of the validation split alone makes (accuracy only).
        seeds: standard deviation over seeds, as measured on the best settings.
    """

    floor: float | None = None
    size: int | None = None
    seeds: float | None = None

    @property
    def sd(self) -> float | None:
        """The seed standard deviation as measured, or else as predicted."""
        return self.seeds or self.floor

    @property
    def of_a_pair(self) -> float | None:
        """Twice the standard deviation of the difference between two single runs."""
        return None if self.sd is None else 2 * math.sqrt(2) * self.sd


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Args:
        more: the sentences below the headline.
        winner: None where no run finished.
        default: the config that the study started from, where it was run.
        comparisons: the winner with each other candidate, best first.
        steps: the walk from the default to the best config; empty where there was none.
        undermines: sentences on what makes the verdict doubtful; they stand with it.
    """

    headline: str
    more: tuple[str, ...] = ()
    winner: Candidate | None = None
    default: Candidate | None = None
    comparisons: tuple[Comparison, ...] = ()
    steps: tuple[Step, ...] = ()
    noise: Noise = field(default_factory=Noise)
    undermines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A value and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class KnobImportance:
    """One knob's three answers (see importance/effects.py).

    Args:
        breaks: its failure effect. moves: its total-order effect.
        gain: larger is better in either mode; may be negative; None without a default or runs.
        p_top: probability that no other knob has a larger total-order effect.
    """

    name: str
    breaks: Estimate
    moves: Estimate
    gain: Estimate | None
    p_top: float


@dataclass(frozen=True)
class Importance:
    """The knobs of a table of runs, ranked.

    Args:
        knobs: the one with the largest total-order effect comes first.
        interactions: (knob, knob) -> share of the variance that is due to both together, largest
            first, among the leading knobs.
        decided: whether the first knob is first: "sure" (p_top >= .9), "said" (>= .6) or "no".
        more: where not decided, about how many more settings would decide it; None where the
            leading knobs are about equal.
        settings: different ones among the runs that worked.
        worked, broke, pruned: numbers of runs; the pruned ones are among those that worked.
    """

    knobs: tuple[KnobImportance, ...]
    interactions: dict[tuple[str, str], Estimate]
    decided: str
    more: int | None
    settings: int
    worked: int
    broke: int
    pruned: int


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Args:
        level: act (something is to be done), note, or ok.
        do: what to do; "" where nothing is.
        knob: that it is about, with the bounds or the value to take instead.
    """

    check: str
    level: str
    text: str
    do: str = ""
    knob: Knob | None = None


@dataclass(frozen=True)
class Advice:
    """Why, and the command."""

    why: str
    command: str


@dataclass(frozen=True)
class Recipe:
    """The best run, to be run again, and the value to expect.

    Args:
        command: empty where its overrides cannot be shown as a command.
        versions: package -> version.
        code: packages of its own that this process does not admit, `mylab.`.
    """

    run: str
    command: str
    value: float | None
    config_hash: str
    versions: dict[str, str]
    code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    Args:
        importance: None where there were too few runs or knobs to tell.
        about: the arm that importance is of; "" where the runs have no arms.
    """

    sweep: Sweep
    verdict: Verdict
    importance: Importance | None
    about: str
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    recipe: Recipe | None
