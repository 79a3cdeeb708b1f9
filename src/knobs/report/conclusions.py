"""Conclusions as plain data: verdict, importance, findings, advice."""

import math
import statistics
from dataclasses import dataclass, field

from knobs.report.records import Knob, RunRecord, Sweep
from knobs.report.stats import Paired, Repeat

DEFAULT = "the default"  # the name of what a study started from


@dataclass(frozen=True)
class Candidate:
    """A setting, or the best one of an arm.

    Args:
        values: repeat -> objective, of `runs`.
        arm: that it stands for; "" if for itself.
        confirmed: whether its values are of runs made to confirm it, not of those it was chosen by.
    """

    name: str
    values: dict[Repeat, float]
    runs: tuple[RunRecord, ...]
    arm: str = ""
    confirmed: bool = False

    @property
    def mean(self) -> float:
        """Over repeats."""
        return statistics.mean(self.values.values())


@dataclass(frozen=True)
class Comparison:
    """The winner beside another candidate.

    Args:
        relation: beaten, level (no difference at this budget) or behind (the other one beats it)
            from LEAST_PAIRS on; with fewer ahead (more repeats are needed to be sure) or unknown.
    """

    other: Candidate
    paired: Paired | None
    relation: str


@dataclass(frozen=True)
class Step:
    """One knob changed on the way from the default to the best config; "" is the default itself."""

    knob: str
    values: dict[Repeat, float]
    gain: Paired | None


@dataclass(frozen=True)
class Noise:
    """The distance between two runs of one setting.

    Args:
        floor: what the size of the validation split alone makes (accuracy only).
        seeds: standard deviation over repeats, as measured on settings comparable to the best.
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
        winner: the setting that is recommended: the best, or of those that it does not differ from
            the default or the cheapest; None where no run finished.
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
    """A value and its 90 % interval: quantiles of the same draws, so the value lies within.

    Raises:
        ValueError: the value lies outside.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} is not in its interval, {self.low} to {self.high}")


@dataclass(frozen=True)
class KnobImportance:
    """One knob's three answers (see importance/effects.py).

    Args:
        breaks: its failure effect. moves: its total-order effect; None of the only knob that
            varied, which has all the effect there is.
        gain: larger is better in either mode; may be negative; None without a default or runs.
        p_top: probability that no other knob has a larger total-order effect.
    """

    name: str
    breaks: Estimate
    moves: Estimate | None
    gain: Estimate | None
    p_top: float


@dataclass(frozen=True)
class Importance:
    """The knobs of a table of runs, ranked.

    Args:
        knobs: by the mean of the total-order effect (scaled to add up to 1) and the forest's share.
        interactions: (knob, knob) -> share of the variance that is due to both together, largest
            first, among the leading knobs.
        decided: whether the first knob is first: "sure" (p_top >= .9), "said" (>= .6) or "no",
            which it is too where the forest has another knob first.
        more: where not decided, about how many more settings would decide it; None where the
            leading knobs are about equal, 0 where the two models disagree about the first.
        settings: different ones among the runs that worked.
        worked, broke, pruned: numbers of runs; the pruned ones are among those that worked.
        forest: knob -> mean decrease of impurity in a random forest, for comparison; shares that
            add up to 1; None without scikit-learn or with one knob.
        predicts: R2 of settings left out of the surrogate, at most 1; None with too few.
        any_effect: p of a permutation test that no knob has an effect; None with too few.
    """

    knobs: tuple[KnobImportance, ...]
    interactions: dict[tuple[str, str], Estimate]
    decided: str
    more: int | None
    settings: int
    worked: int
    broke: int
    pruned: int
    forest: dict[str, float] | None = None
    predicts: float | None = None
    any_effect: float | None = None


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
