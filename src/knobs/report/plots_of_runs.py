"""Plots of runs: their curves, how many were enough, seed by seed, from the default to the best."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from knobs.report.compare import name_of
from knobs.report.figures import (
    EXPLAINED,
    MOST_POINTS,
    Figure,
    Section,
    band,
    objective_axis,
    safe,
    scale,
    short_number,
)
from knobs.report.gather import Run, Sweep, curve
from knobs.report.stats import Paired, expected_best
from knobs.report.verdict import Verdict
from knobs.report.words import count, listed, number

TOP = 5
MOST_ROWS = 12  # of a plot that has a row a setting
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


# ------------------------------------------------------------------ curves
def curves_section(sweep: Sweep) -> Section | None:
    """The best five settings over their epochs."""
    rows = {run.row.folder: run for run in sweep.runs}
    sign, metric = sweep.objective.sign, sweep.objective.metric
    lines = []
    for i, entry in enumerate(e for e in sweep.entries[:TOP] if e.mean is not None):
        good = [rows[row.folder] for row in entry.runs if rows[row.folder].ok]
        run = max(good, key=lambda run: sign * run.row.value)
        points = curve(run)
        step = -(-len(points) // MOST_POINTS) if points else 1
        lines.append((i, name_of(sweep, entry, i + 1), [*points[:-1:step], *points[-1:]]))
    made = [
        _curves(sweep, metric, lines, [(metric, 0)]),
        _curves(sweep, "loss", lines, [("val/loss", 0), ("train/loss", 1)]),
    ]
    figures = tuple(figure for figure in made if figure)
    return Section(
        "curves",
        "Learning curves of the best five",
        "Still getting better at the right edge: train longer. Validation loss (lines with marks) "
        "turning up while training loss (thin dotted lines; it counts smoothing and penalties) "
        "falls: regularise, or stop earlier.",
        figures[:1] if metric in ("val/loss", "train/loss") else figures,
    )


def _curves(
    sweep: Sweep,
    title: str,
    lines: Sequence[tuple[int, str, list]],
    metrics: Sequence[tuple[str, int]],
) -> Figure | None:
    """One plot of some metrics; losses on a log scale, else the better part of what was reached."""
    data = []
    for i, setting, rows in lines:
        for metric, thin in metrics:
            points = [(row["epoch"], row[metric]) for row in rows if metric in row]
            if points:
                data.append(_line(i, setting, metric, points, bool(thin)))
    if not data:
        return None
    values = [y for line in data for y in line["y"]]
    vertical: dict[str, Any] = {"title": {"text": safe(title)}}
    if title != sweep.objective.metric:
        if min(values) > 0:
            decades = math.log10(max(values) / min(values))
            vertical |= {"type": "log", "dtick": "D2" if decades < 2 else 1}
    elif max(map(len, (line["x"] for line in data))) > 1:
        vertical = objective_axis(sweep, *scale(sweep, values))
    layout = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": vertical,
        "showlegend": title == sweep.objective.metric,
    }
    says = f"{title} by epoch of the best {len(lines)} settings"
    name = "curves" if title == sweep.objective.metric else "curves-loss"
    return Figure(name, "", says, data, layout, 340)


def _line(i: int, setting: str, metric: str, points: list, thin: bool) -> dict[str, Any]:
    color = f"${i + 1}"
    every = max(1, len(points) // 6)
    return {
        "type": "scatter",
        "mode": "lines" if thin else "lines+markers",
        "name": safe(setting),
        "legendgroup": str(i),
        "showlegend": not thin,
        "x": [short_number(x) for x, _ in points],
        "y": [short_number(y) for _, y in points],
        "line": {"color": color, "dash": "dot" if thin else DASHES[i], "width": 1 if thin else 2},
        "marker": {
            "symbol": SYMBOLS[i],
            "size": 7,
            "color": color,
            "maxdisplayed": len(points) // every,
        },
        "text": [safe(f"{setting}: {metric} {number(y, 4)} at epoch {x:g}") for x, y in points],
        **EXPLAINED,
    }


# ------------------------------------------------------------------ tuning curve
def tuning_section(sweep: Sweep, runs: Sequence[Run]) -> Section | None:
    """Whether more runs would have found better."""
    sign = sweep.objective.sign
    good = [run.value for run in runs if run.value is not None]
    if len(good) < 4:
        return None
    worst = min(good, key=lambda value: sign * value)
    values = [sign * (worst if run.value is None else run.value) for run in runs]
    table = sign * expected_best(values)
    so_far = sign * np.maximum.accumulate(values)
    ks = list(range(1, len(values) + 1))
    keep = sorted({round(k) for k in np.linspace(0, len(ks) - 1, min(len(ks), MOST_POINTS))})
    xs = [ks[k] for k in keep]

    def line(ys: np.ndarray, **look: Any) -> dict[str, Any]:
        return {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": [short_number(ys[k]) for k in keep],
            **look,
        }

    data = [
        line(table[:, 1], line={"width": 0, "color": "$band"}, hoverinfo="skip", showlegend=False),
        line(
            table[:, 2],
            line={"width": 0, "color": "$band"},
            fill="tonexty",
            fillcolor="$band",
            hoverinfo="skip",
            name="80 % of orders",
        ),
        line(
            table[:, 0],
            line={"color": "$1", "width": 2, "dash": "dash"},
            name="expected best of so many runs",
            text=[f"best of {k}: {sweep.objective.value(table[k - 1, 0])}" for k in xs],
            **EXPLAINED,
        ),
        line(
            so_far,
            line={"color": "$2", "width": 2, "shape": "hv"},
            name="best so far, in the order run",
            text=[f"after {k}: {sweep.objective.value(so_far[k - 1])}" for k in xs],
            **EXPLAINED,
        ),
    ]
    ends = so_far[-1], statistics.median(good)
    layout = {
        "xaxis": {"title": {"text": "runs"}},
        "yaxis": objective_axis(sweep, *(ends if ends[0] != ends[1] else scale(sweep, good))),
        "showlegend": True,
    }
    says = f"expected best {sweep.objective.metric} by number of runs"
    return Section(
        "tuning-curve",
        "Were there runs enough?",
        "Flat at the right: more runs of this kind will not find better. Still climbing: they "
        "will. The band holds 80 % of the orders in which these runs could have come; broken runs "
        "count as the worst.",
        (Figure("tuning-curve", "", says, data, layout, 320),),
    )


# ------------------------------------------------------------------ paired seeds, ablation
def paired_section(sweep: Sweep, verdict: Verdict) -> Section | None:
    """The winner's lead, seed by seed."""
    shown = [c for c in verdict.comparisons if c.paired and c.paired.n > 1]
    beside_default = [c for c in shown if c.other is verdict.default]
    rest = [c for c in shown if c.other is not verdict.default]
    shown = [*rest[: MOST_ROWS - len(beside_default)], *beside_default]
    if not shown:
        return None
    unit = 100 if sweep.objective.in_points else 1
    rows = list(range(len(shown)))[::-1]
    gap, noise = sweep.objective.amount, verdict.noise.sd
    seeds = {"x": [], "y": [], "text": []}
    for y, c in zip(rows, shown, strict=True):
        for seed, d in zip(c.paired.seeds, c.paired.differences, strict=True):
            seeds["x"].append(short_number(unit * d))
            seeds["y"].append(y)
            seeds["text"].append(safe(f"{c.other.name}, seed {seed}: {gap(d)}"))
    means = [c.paired.mean for c in shown]
    spans = [(c.paired.low, c.paired.high) for c in shown]
    spans = [
        (m, m) if low is None else (low, high) for m, (low, high) in zip(means, spans, strict=True)
    ]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "one seed",
            "marker": {"symbol": "circle-open", "size": 7, "color": "$muted"},
            **seeds,
            **EXPLAINED,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": "mean and 95 % interval",
            "x": [short_number(unit * m) for m in means],
            "y": rows,
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [
                    short_number(unit * (high - m))
                    for m, (_, high) in zip(means, spans, strict=True)
                ],
                "arrayminus": [
                    short_number(unit * (m - low)) for m, (low, _) in zip(means, spans, strict=True)
                ],
                "color": "$1",
                "thickness": 3,
                "width": 0,
            },
            "marker": {
                "symbol": [
                    "diamond" if c.relation in ("beaten", "ahead") else "diamond-open"
                    for c in shown
                ],
                "size": 11,
                "color": "$1",
            },
            "text": [
                safe(f"{c.other.name}: {gap(m)}, {c.relation}")
                for c, m in zip(shown, means, strict=True)
            ],
            **EXPLAINED,
        },
    ]
    shapes = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": 0,
            "x1": 0,
            "y0": 0,
            "y1": 1,
            "line": {"color": "$ink", "width": 1},
        }
    ]
    if noise:
        shapes.append(band(-unit * noise, unit * noise))
    ends = [x for low, high in spans for x in (unit * low, unit * high)] + seeds["x"] + [0.0]
    room = 0.05 * (max(ends) - min(ends) or 1)
    layout = {
        "xaxis": {
            "range": [min(ends) - room, max(ends) + room],
            "title": {
                "text": f"lead of {safe(verdict.winner.name)}" + (", points" if unit == 100 else "")
            },
        },
        "yaxis": {
            "tickvals": rows,
            "ticktext": [safe(c.other.name) for c in shown],
            "range": [-0.6, len(shown) - 0.4],
            "showgrid": False,
        },
        "shapes": shapes,
        "showlegend": True,
    }
    others = listed([c.other.name for c in shown])
    says = f"difference of {verdict.winner.name} to each of {others}, seed by seed"
    return Section(
        "paired-seeds",
        "Seed by seed",
        "Right of the line the winner is ahead. An open diamond: the two cannot be told apart, be "
        "it that the bar (95 % interval) crosses the line or that the best of so many is often as "
        "far ahead. The shaded stripe is the noise of a single run.",
        (Figure("paired-seeds", "", says, data, layout, 110 + 34 * len(shown)),),
    )


def ablation_section(sweep: Sweep, verdict: Verdict) -> Section | None:
    """From the default to the best, one knob at a time."""
    steps = verdict.steps
    if not steps:
        return None
    objective, short = sweep.objective, sweep.short()
    means = [statistics.mean(step.values.values()) for step in steps]
    gains = [
        objective.sign * step.gain.mean if step.gain else b - a
        for step, (a, b) in zip(steps[1:], pairwise(means), strict=True)
    ]
    signed = [f"{'+' if g > 0 else ''}{objective.amount(g, unit=False)}" for g in gains]
    knobs = [safe(short.get(step.knob, step.knob)) for step in steps[1:]]
    changes = [f"{knob}  {gain}" for knob, gain in zip(knobs, signed, strict=True)]
    names = ["default", *changes, "best"]
    up = [objective.sign * g >= 0 for g in gains]
    whiskers = [_whisker(step.gain, objective.sign) for step in steps[1:]]
    lows = [m - below for m, (below, _) in zip(means[1:], whiskers, strict=True)]
    highs = [m + above for m, (_, above) in zip(means[1:], whiskers, strict=True)]
    low, high = min(*means, *lows), max(*means, *highs)
    ends = means[0], means[-1]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": list(range(1, len(steps))),
            "x": [short_number(g) for g in gains],
            "base": [short_number(m) for m in means[:-1]],
            "marker": {
                "color": ["$3" if u else "$bad" for u in up],
                "pattern": {"shape": ["" if u else "/" for u in up]},
            },
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "y": list(range(1, len(steps))),
            "x": [short_number(m) for m in means[1:]],
            "marker": {"symbol": "line-ns", "size": 1, "color": "$ink"},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [short_number(above) for _, above in whiskers],
                "arrayminus": [short_number(below) for below, _ in whiskers],
                "color": "$ink",
                "thickness": 1.5,
                "width": 5,
            },
            "text": [
                safe(f"{step.knob}: {objective.amount(gain)}")
                for step, gain in zip(steps[1:], gains, strict=True)
            ],
            **EXPLAINED,
        },
        {
            "type": "scatter",
            "mode": "markers+text",
            "y": [0, len(steps)],
            "x": [short_number(means[0]), short_number(means[-1])],
            "marker": {"symbol": "diamond", "size": 12, "color": "$1"},
            "text": [objective.value(means[0]), objective.value(means[-1])],
            "textposition": ["middle right" if 2 * m < low + high else "middle left" for m in ends],
            "hoverinfo": "skip",
        },
    ]
    room = 0.08 * (high - low or 0.01)
    layout = {
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "range": [len(names) - 0.5, -0.5],
            "showgrid": False,
        },
        "xaxis": {
            "range": [low - room, high + room],
            "title": {"text": safe(objective.metric)},
        },
    }
    seeds = min(len(step.values) for step in steps)
    says = f"{objective.metric} from the default to the best config, one knob at a time"
    return Section(
        "ablation",
        "From the default to the best, one knob at a time",
        f"Each bar is what one more change gave, over {count(seeds, 'paired seed')}; the whisker "
        "is its 95 % interval. A change whose whisker reaches back to its start can be left out.",
        (Figure("ablation", "", says, data, layout, 70 + 30 * len(names)),),
    )


def _whisker(gain: Paired | None, sign: int) -> tuple[float, float]:
    """How far a gain's interval reaches below and above its mean, as the metric counts."""
    if gain is None or gain.low is None or gain.high is None:
        return 0.0, 0.0
    reach = gain.mean - gain.low, gain.high - gain.mean
    return reach if sign > 0 else reach[::-1]
