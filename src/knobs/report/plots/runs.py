"""Plots of runs: their curves, and how many were enough."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.outlook import enough, expectations, started_from
from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, Section
from knobs.report.records import RunRecord, Sweep
from knobs.report.stats import expected_best
from knobs.words import count, number

TOP = 5
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def curves_section(sweep: Sweep) -> Section | None:
    """Show the best settings over their epochs: the median of their seeds, and the range."""
    metric = sweep.objective.metric
    best = [entry for entry in sweep.entries[:TOP] if entry.mean is not None]
    names = [sweep.name_of(entry, i) for i, entry in enumerate(best, 1)]
    runs = [[run for run in entry.runs if run.ok] for entry in best]
    losses = ("val/loss", "train/loss")
    made = [
        _curves(sweep, metric, names, runs, (metric,)),
        _curves(sweep, "loss", names, runs, losses),
    ]
    shown = tuple(figure for figure in made if figure)
    seeds = max(map(len, runs), default=0)
    band = "A line is the median over the seeds that reached the epoch, a band their range. "
    return Section(
        "curves",
        "Learning curves",
        f"The best {count(len(best), 'setting')}. {band if seeds > 1 else 'Each is one run. '}"
        "Still getting better at the right edge: longer training may help, unless the learning "
        "rate ends there. Validation loss (lines with marks) that rises while training loss (thin "
        "dotted lines; it counts smoothing and penalties) falls is a sign of overfitting.",
        shown[:1] if metric in losses else shown,
    )


def _curves(
    sweep: Sweep, title: str, names: list[str], runs: list[list[RunRecord]], metrics: Sequence[str]
) -> Figure | None:
    """Return one plot of some metrics, the first in full lines and the others in thin ones.

    Losses are on a log scale; of the objective, the better part of what was reached is shown.
    """
    bands, lines = [], []
    for i, (setting, same) in enumerate(zip(names, runs, strict=True)):
        for metric in metrics:
            points, thin = over_seeds(same, metric), metric != metrics[0]
            if points:
                lines.append(_line(i, setting, metric, points, thin))
                bands += [] if thin or len(same) < 2 else _band(i, points)
    if not lines:
        return None
    values = [y for line in (*bands, *lines) for y in line["y"]]
    xaxis, yaxis = figures.titled("epoch"), figures.titled(title)
    is_objective = title == sweep.objective.metric
    if not is_objective and min(values) > 0:
        decades = math.log10(max(values) / min(values))
        yaxis |= {"type": "log", "dtick": "D2" if decades < 2 else 1}
    elif is_objective and max(len(line["x"]) for line in lines) > 1:
        yaxis = figures.objective_axis(sweep, *figures.scale(sweep, values))
    layout = {"xaxis": xaxis, "yaxis": yaxis, "showlegend": is_objective}
    says = f"{title} by epoch of the best {count(len(names), 'setting')}"
    name = "curves" if is_objective else "curves-loss"
    return Figure(name, "", says, [*bands, *lines], layout, 340)


Point = tuple[float, float, float, float, int]  # epoch, median, least, largest, seeds


def over_seeds(runs: Sequence[RunRecord], metric: str) -> list[Point]:
    """Return a metric by epoch over the runs that reached it, at most about MOST_POINTS epochs."""
    reached: dict[float, list[float]] = {}
    for row in (row for run in runs for row in run.curve if metric in row):
        reached.setdefault(row["epoch"], []).append(row[metric])
    points = [
        (epoch, statistics.median(values), min(values), max(values), len(values))
        for epoch, values in sorted(reached.items())
    ]
    step = math.ceil(len(points) / figures.MOST_POINTS) or 1
    return [*points[:-1:step], *points[-1:]]


def _band(i: int, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return the range over seeds as two lines without width, the second filled to the first."""
    epochs, _, least, largest, _ = zip(*points, strict=True)
    look = {"mode": "lines", "line": {"width": 0, "color": f"${i + 1}"}, "showlegend": False}
    shade = {"fill": "tonexty", "fillcolor": f"${i + 1}/"}
    lines = (
        figures.scatter(epochs, least, **look),
        figures.scatter(epochs, largest, **look, **shade),
    )
    return list(lines)


def _line(i: int, setting: str, metric: str, points: list[Point], thin: bool) -> dict[str, Any]:
    epochs, medians, *_ = zip(*points, strict=True)
    color, shown = f"${i + 1}", len(points) // max(1, len(points) // 6)
    marks = {"symbol": figures.SYMBOLS[i], "size": 7, "color": color, "maxdisplayed": shown}
    return figures.scatter(
        *(epochs, medians),
        (figures.safe(_said(setting, metric, point)) for point in points),
        mode="lines" if thin else "lines+markers",
        name=figures.safe(setting),
        legendgroup=str(i),
        showlegend=not thin,
        line={"color": color, "dash": "dot" if thin else DASHES[i], "width": 1 if thin else 2},
        marker=marks,
    )


def _said(setting: str, metric: str, point: Point) -> str:
    epoch, median, least, largest, seeds = point
    range_ = f" ({number(least, 4)} to {number(largest, 4)}, {seeds} seeds)" if seeds > 1 else ""
    return f"{setting}: {metric} {number(median, 4)}{range_} at epoch {epoch:g}"


def prior_section(sweep: Sweep, runs: Sequence[RunRecord]) -> Section | None:
    """Show what a search started from beside what its runs reached."""
    pairs = expectations(sweep, runs)
    if len(pairs) < 2:
        return None
    study, said = sweep.study, [figures.told(sweep, run, sweep.space) for _, run in pairs]
    scores, values = [score for score, _ in pairs], [run.value for _, run in pairs]
    marks = {"color": "$1", "size": 8}
    data = [figures.scatter(scores, values, said, marker=marks)]
    yaxis = figures.objective_axis(sweep, *figures.scale(sweep, values))
    xaxis = figures.titled("expected score (0: the middle of random settings; left is better)")
    layout = {"xaxis": xaxis, "yaxis": yaxis, "showlegend": False}
    says = f"{sweep.objective.metric} by what was expected of {count(len(pairs), 'run')}"
    return Section(
        "prior",
        "Prior against runs",
        f"The search started from {started_from(study.tasks, study.sweeps)}: a score by which they "
        "rank a setting, 0 for the middle of random settings and -1 for the best sixth. Where this "
        "task is like them, the runs at the left are the best. The runs themselves count for more "
        "with each of them.",
        (Figure("prior", "", says, data, layout, 320),),
    )


def tuning_section(sweep: Sweep, runs: Sequence[RunRecord]) -> Section | None:
    """Show whether more runs would have reached a better value."""
    sign = sweep.objective.sign
    good = [run.value for run in runs if run.value is not None]
    if len(good) < 4:
        return None
    worst = min(good, key=lambda value: sign * value)
    values = [sign * (worst if run.value is None else run.value) for run in runs]
    table = sign * expected_best(values)
    so_far = sign * np.maximum.accumulate(values)
    last = len(values) - 1
    keep = sorted({round(k) for k in np.linspace(0, last, min(last + 1, figures.MOST_POINTS))})

    def line(ys: np.ndarray, about: str = "", **look: Any) -> dict[str, Any]:
        texts = [f"{about} {k + 1}: {sweep.objective.value(ys[k])}" for k in keep]
        xs = [k + 1 for k in keep]
        return figures.scatter(xs, ys[keep], texts if about else None, mode="lines", **look)

    edge = {"width": 0, "color": "$band"}
    shade = {"fill": "tonexty", "fillcolor": "$band", "name": "80 % of orders"}
    blue = {"color": "$1", "width": 2, "dash": "dash"}
    orange = {"color": "$2", "width": 2, "shape": "hv"}
    data = [
        line(table[:, 1], line=edge, showlegend=False),
        line(table[:, 2], line=edge, **shade),
        line(table[:, 0], "best of", line=blue, name="expected best of so many runs"),
        line(so_far, "after", line=orange, name="best so far, in the order run"),
    ]
    best, edge = so_far[-1], statistics.median(good)
    best, edge = (best, edge) if best != edge else figures.scale(sweep, good)
    yaxis = figures.objective_axis(sweep, best, edge)
    layout = {"xaxis": figures.titled("runs"), "yaxis": yaxis, "showlegend": True}
    says = f"expected best {sweep.objective.metric} by number of runs"
    return Section(
        "tuning-curve",
        "Were there runs enough?",
        f"{enough(sweep, runs)} The dashed line is the mean over the orders in which these runs "
        "could have come, the band holds 80 % of them; at the right both end in the best run by "
        "construction. Broken runs count as the worst.",
        (Figure("tuning-curve", "", says, data, layout, 320),),
    )
