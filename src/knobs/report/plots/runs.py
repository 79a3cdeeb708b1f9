"""Plots of runs: their curves, and how many were enough."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.outlook import enough
from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, Section
from knobs.report.records import RunRecord, Sweep
from knobs.report.stats import expected_best
from knobs.words import number

TOP = 5
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def curves_section(sweep: Sweep) -> Section | None:
    """Show the best five settings over their epochs."""
    sign, metric = sweep.objective.sign, sweep.objective.metric
    lines = []
    for i, entry in enumerate(e for e in sweep.entries[:TOP] if e.mean is not None):
        run = max((run for run in entry.runs if run.ok), key=lambda run: sign * run.value)
        points = run.curve
        step = math.ceil(len(points) / figures.MOST_POINTS) or 1
        lines.append((i, sweep.name_of(entry, i + 1), [*points[:-1:step], *points[-1:]]))
    losses = ("val/loss", "train/loss")
    made = [_curves(sweep, metric, lines, (metric,)), _curves(sweep, "loss", lines, losses)]
    shown = tuple(figure for figure in made if figure)
    return Section(
        "curves",
        "Learning curves of the best five",
        "Still getting better at the right edge: train longer. Validation loss (lines with marks) "
        "turning up while training loss (thin dotted lines; it counts smoothing and penalties) "
        "falls: regularise, or stop earlier.",
        shown[:1] if metric in losses else shown,
    )


def _curves(
    sweep: Sweep, title: str, lines: Sequence[tuple[int, str, list]], metrics: Sequence[str]
) -> Figure | None:
    """Return one plot of some metrics, the first in full lines and the others in thin ones.

    Losses are on a log scale; of the objective, the better part of what was reached is shown.
    """
    data = [
        _line(i, setting, metric, points, thin=metric != metrics[0])
        for i, setting, rows in lines
        for metric in metrics
        if (points := [(row["epoch"], row[metric]) for row in rows if metric in row])
    ]
    if not data:
        return None
    values = [y for line in data for y in line["y"]]
    xaxis, yaxis = figures.titled("epoch"), figures.titled(title)
    is_objective = title == sweep.objective.metric
    if not is_objective and min(values) > 0:
        decades = math.log10(max(values) / min(values))
        yaxis |= {"type": "log", "dtick": "D2" if decades < 2 else 1}
    elif is_objective and max(len(line["x"]) for line in data) > 1:
        yaxis = figures.objective_axis(sweep, *figures.scale(sweep, values))
    layout = {"xaxis": xaxis, "yaxis": yaxis, "showlegend": is_objective}
    says = f"{title} by epoch of the best {len(lines)} settings"
    name = "curves" if is_objective else "curves-loss"
    return Figure(name, "", says, data, layout, 340)


def _line(i: int, setting: str, metric: str, points: list, thin: bool) -> dict[str, Any]:
    color, shown = f"${i + 1}", len(points) // max(1, len(points) // 6)
    marks = {"symbol": SYMBOLS[i], "size": 7, "color": color, "maxdisplayed": shown}
    return figures.scatter(
        *zip(*points, strict=True),
        (figures.safe(f"{setting}: {metric} {number(y, 4)} at epoch {x:g}") for x, y in points),
        mode="lines" if thin else "lines+markers",
        name=figures.safe(setting),
        legendgroup=str(i),
        showlegend=not thin,
        line={"color": color, "dash": "dot" if thin else DASHES[i], "width": 1 if thin else 2},
        marker=marks,
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
