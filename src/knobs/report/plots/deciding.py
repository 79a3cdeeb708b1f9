"""The plot that decides: how far the winner leads each arm, with the interval of the difference.

Plain numbers, which the page draws as a table with a strip a row, and slide.py for slides.
"""

import statistics
from dataclasses import dataclass

from knobs.report.conclusions import Comparison, Report
from knobs.report.plots.figures import round_ticks
from knobs.words import count

MOST_ROWS = 12
REACH = 6.0  # times the median row's: what lies beyond is an arrow, else one poor arm hides all
CONCLUSIONS = {
    "beaten": "worse",
    "behind": "better",
    "ahead": "behind, more pairs are needed to be sure",
    "level": "no significant difference",
}


@dataclass(frozen=True)
class Row:
    """One arm, in the unit of the axis; the winner's own row has its runs around 0.

    Args:
        mean: of the differences winner - arm, above 0 where the winner is better.
        low, high: of the interval that decides; None where there are too few pairs.
        dots: the differences of the pairs, or of the winner's runs to their mean.
        value: the metric's mean of this arm. lead: the difference and its interval as text.
        apart: whether the interval decides for the winner.
    """

    name: str
    mean: float
    low: float | None
    high: float | None
    dots: tuple[float, ...]
    value: str
    lead: str
    conclusion: str
    apart: bool = False


@dataclass(frozen=True)
class Deciding:
    """The rows, the winner first, and their common axis.

    Args:
        unit: of the axis; empty where it is that of the metric.
        low, high: ends of the axis.
        noise: seed standard deviation, in the unit; None where it is unknown.
        hidden: how many arms are left out.
    """

    rows: tuple[Row, ...]
    title: str
    unit: str
    low: float
    high: float
    ticks: tuple[float, ...]
    noise: float | None
    hidden: int

    def at(self, value: float) -> float:
        """Return where a value lies on the axis, 0 to 100, at most at its ends."""
        share = 100 * (value - self.low) / (self.high - self.low)
        return round(min(100.0, max(0.0, share)), 2)

    def beyond(self, value: float) -> bool:
        """Return whether a value lies outside the axis."""
        return not self.low <= value <= self.high


def deciding(report: Report) -> Deciding | None:
    """Return the plot of a report; None where the winner can be compared with nothing."""
    verdict, objective = report.verdict, report.sweep.objective
    compared = [c for c in verdict.comparisons if c.paired]
    if verdict.winner is None or not compared:
        return None
    default = [c for c in compared if c.other is verdict.default]
    rest = [c for c in compared if c.other is not verdict.default]
    shown = [*rest[: MOST_ROWS - len(default)], *default]
    unit = 100 if objective.in_points else 1
    winner = verdict.winner
    own = [unit * objective.sign * (winner.mean - value) for value in winner.values.values()]
    value = objective.value(winner.mean)
    ahead = any(c.paired.mean < 0 for c in compared)  # the one recommended need not be the first
    standing = "recommended" if ahead else "the best mean"
    first = Row(winner.name, 0.0, None, None, tuple(own), value, "", standing)
    rows = (first, *(_row(report, c, unit) for c in shown))
    low, high = _ends(rows)
    return Deciding(
        rows,
        f"lead of {winner.name} in {objective.metric}",
        "points" if objective.in_points else "",
        low,
        high,
        tuple(round_ticks(low, high, 3)),
        unit * verdict.noise.sd if verdict.noise.sd else None,
        len(compared) - len(shown),
    )


def _row(report: Report, compared: Comparison, unit: int) -> Row:
    objective, pairs = report.sweep.objective, compared.paired
    ends = (None, None) if pairs.low is None else (unit * pairs.low, unit * pairs.high)
    lead = objective.amount(pairs.mean)
    if pairs.low is not None:
        span = (objective.amount(end, unit=False) for end in (pairs.low, pairs.high))
        lead += f" ({' to '.join(span)})"
    concluded = CONCLUSIONS.get(compared.relation, "too few pairs to say")
    return Row(
        compared.other.name,
        unit * pairs.mean,
        *ends,
        tuple(unit * difference for difference in pairs.differences),
        objective.value(compared.other.mean),
        lead,
        f"{concluded} ({count(len(pairs.differences), 'pair')})",
        compared.relation == "beaten",
    )


def _ends(rows: tuple[Row, ...]) -> tuple[float, float]:
    """Return the ends of the axis, with room; rows that lie far beyond the others do not count."""
    spans = [[v for v in (row.mean, row.low, row.high, *row.dots) if v is not None] for row in rows]
    reaches = [max(map(abs, span)) for span in spans]
    most = REACH * statistics.median_low(reaches[1:]) or max(reaches) or 1.0
    low = max(-most, min(0.0, *map(min, spans)))
    high = min(most, max(0.0, *map(max, spans)))
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room
