"""Plots that have a knob for an axis: every run, the best each value can do, two knobs at once."""

import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.conclusions import Verdict
from knobs.report.plots.figures import (
    EXPLAINED,
    Figure,
    Section,
    axis,
    band,
    objective_axis,
    place,
    safe,
    scale,
    short_number,
    told,
)
from knobs.report.records import Knob, RunRecord, Sweep, knob_of
from knobs.words import count, number, short

BUCKETS = 6
CELLS = 25  # of a smoothed surface, a side
CONTOURS = {
    "contours": {"showlabels": True, "labelfont": {"size": 10, "color": "$ink"}},
    "line": {"width": 0.7, "color": "$line"},
}
BANDWIDTH = 0.14  # of the smoothing, in shares of a range


# ------------------------------------------------------------------ axis and isolation
def axis_section(
    sweep: Sweep, verdict: Verdict, knobs: Sequence[Knob], runs: Sequence[RunRecord]
) -> Section | None:
    """Every run over each knob."""
    good = [run.value for run in runs if run.value is not None]
    if not good or not knobs:
        return None
    best, edge = scale(sweep, good)
    winner = verdict.winner.runs[0] if verdict.winner else None
    figures = [_axis(sweep, knob, knobs, runs, winner, best, edge) for knob in knobs]
    high, beyond = ("high", "below") if sweep.objective.sign > 0 else ("low", "above")
    return Section(
        "axis",
        "Every run over each knob",
        f"Look where the {high} points gather: in the middle the range is right, at a shaded edge "
        f"(the outer 5 %) it is too narrow. Crosses broke, triangles lie {beyond} what is shown, "
        "the star is the best.",
        tuple(figures),
    )


def _axis(
    sweep: Sweep,
    knob: Knob,
    knobs: Sequence[Knob],
    runs: Sequence[RunRecord],
    winner: RunRecord | None,
    best: float,
    edge: float,
) -> Figure:
    sign = sweep.objective.sign
    drawn = random.Random(knob.name)
    bottom = edge - 0.08 * (best - edge)
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for run in runs:
        value = knob_of(run, knob)
        if value is None:
            continue
        spread = 0.5 / len(knob.choices) if knob.choices is not None else 0.012
        x = place(knob, value) + spread * (drawn.random() - 0.5)
        y, kind = run.value, "run"
        if run.broke:
            y, kind = bottom, "broke"
        elif sign * (y - edge) < 0:
            y, kind = bottom, "beyond"
        elif winner and run.setting == winner.setting:
            x, kind = place(knob, value), "best"
        elif run.status == "pruned":
            kind = "pruned"
        groups.setdefault(kind, []).append((x, y, told(sweep, run, knobs)))
    marks = {
        "run": {"symbol": "circle", "size": 6, "color": "$1", "opacity": 0.55},
        "pruned": {"symbol": "circle-open", "size": 6, "color": "$1"},
        "beyond": {
            "symbol": "triangle-down-open" if sign > 0 else "triangle-up-open",
            "size": 6,
            "color": "$muted",
        },
        "broke": {"symbol": "x", "size": 7, "color": "$bad"},
        "best": {
            "symbol": "star",
            "size": 14,
            "color": "$2",
            "line": {"width": 1, "color": "$ink"},
        },
    }
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "x": [short_number(x) for x, _, _ in groups[kind]],
            "y": [short_number(y) for _, y, _ in groups[kind]],
            "text": [text for _, _, text in groups[kind]],
            "marker": marker,
            **EXPLAINED,
        }
        for kind, marker in marks.items()
        if kind in groups
    ]
    edges = [] if knob.choices is not None else [(-0.06, 0.05), (0.95, 1.06)]
    layout = {
        "xaxis": axis(knob, [knob_of(run, knob) for run in runs]),
        "yaxis": objective_axis(sweep, best, edge),
        "shapes": [band(x0, x1) for x0, x1 in edges],
    }
    n = sum(map(len, groups.values()))
    return Figure(
        f"axis-{knob.name}",
        knob.name,
        f"{n} runs' {sweep.objective.metric} over {knob.name}",
        data,
        layout,
    )


def isolation_section(
    sweep: Sweep, knobs: Sequence[Knob], runs: Sequence[RunRecord]
) -> Section | None:
    """The best that each value of a knob allows."""
    good = [run for run in runs if run.value is not None]
    figures = [figure for knob in knobs if (figure := _isolation(sweep, knob, good))]
    return Section(
        "isolation",
        "The best each value can do",
        "Each filled point is the best run with the knob thereabouts, whatever the other knobs "
        "were; the open one is the median. A flat filled line: the value does not matter if the "
        "others are tuned.",
        tuple(figures),
    )


def _isolation(sweep: Sweep, knob: Knob, runs: Sequence[RunRecord]) -> Figure | None:
    sign = sweep.objective.sign
    buckets: dict[float, list[float]] = {}
    values = {knob_of(run, knob) for run in runs} - {None}
    few = knob.choices is not None or len(values) <= BUCKETS + 2
    for run in runs:
        value = knob_of(run, knob)
        if value is not None:
            x = place(knob, value)
            middle = x if few else (min(int(x * BUCKETS), BUCKETS - 1) + 0.5) / BUCKETS
            buckets.setdefault(middle, []).append(run.value)
    if len(buckets) < 2 or max(map(len, buckets.values())) < 2:
        return None  # with a run a value it would be the axis plot again
    xs = sorted(buckets)
    tops = [max(buckets[x], key=lambda v: sign * v) for x in xs]
    middles = [statistics.median(buckets[x]) for x in xs]
    best, edge = scale(sweep, [*tops, *middles])
    counts = [count(len(buckets[x]), "run") for x in xs]
    shared = {"type": "scatter", "mode": "lines+markers", "x": [short_number(x) for x in xs]}
    data = [
        shared
        | {
            "name": name,
            "y": [short_number(y) for y in ys],
            "line": {"color": color, "dash": dash, "width": 2},
            "marker": {"symbol": symbol, "size": 8, "color": color},
            "text": [
                f"{name} of {n}: {sweep.objective.value(y)}"
                for n, y in zip(counts, ys, strict=True)
            ],
            **EXPLAINED,
        }
        for name, ys, color, dash, symbol in (
            ("best", tops, "$1", "solid", "circle"),
            ("median", middles, "$muted", "dot", "circle-open"),
        )
    ]
    layout = {"xaxis": axis(knob, list(values)), "yaxis": objective_axis(sweep, best, edge)}
    says = f"best and median {sweep.objective.metric} by {knob.name}"
    return Figure(f"isolation-{knob.name}", knob.name, says, data, layout)


# ------------------------------------------------------------------ interaction
def interaction_section(
    sweep: Sweep, two: Sequence[Knob], runs: Sequence[RunRecord]
) -> Section | None:
    """Two knobs at once."""
    good = [r for r in runs if r.value is not None and all(knob_of(r, k) is not None for k in two)]
    if len(two) < 2 or len(good) < 4:
        return None
    a, b = two[:2]
    grid = all(len({knob_of(run, knob) for run in good}) <= 8 for knob in (a, b))
    figure = _cells(sweep, a, b, good) if grid else _surface(sweep, a, b, good, runs)
    return Section(
        "interaction",
        f"{a.name} and {b.name} together",
        "The stronger the colour, the better. A ridge along an axis: each can be set by itself. A "
        "slanted ridge, or a best place that shifts from row to row: the best value of one depends "
        "on the other, so tune them together.",
        (figure,),
    )


def _colours(sweep: Sweep) -> list[list[Any]]:
    shades = ["$low", "$middle", "$high"]
    return [
        [i / 2, shade]
        for i, shade in enumerate(shades if sweep.objective.sign > 0 else shades[::-1])
    ]


def _cells(sweep: Sweep, a: Knob, b: Knob, runs: Sequence[RunRecord]) -> Figure:
    """A grid's means."""
    xs, ys = (sorted({place(k, knob_of(run, k)) for run in runs}) for k in (a, b))
    cells: dict[tuple[float, float], list[float]] = {}
    for run in runs:
        cells.setdefault((place(a, knob_of(run, a)), place(b, knob_of(run, b))), []).append(
            run.value
        )
    names = [{place(k, v): short(v) for r in runs for v in (knob_of(r, k),)} for k in (a, b)]
    means = [[statistics.mean(cells[x, y]) if (x, y) in cells else None for x in xs] for y in ys]
    flat = [m for row in means for m in row if m is not None]
    best, edge = scale(sweep, flat)
    low, high = sorted([best, edge])
    data = [
        {
            "type": "heatmap",
            "x": [safe(names[0][x]) for x in xs],
            "y": [safe(names[1][y]) for y in ys],
            "z": [[None if m is None else short_number(m) for m in row] for row in means],
            "zmin": low,
            "zmax": high,
            "text": [["" if m is None else number(m, 3) for m in row] for row in means],
            "texttemplate": "%{text}",
            "hoverinfo": "skip",
            "colorscale": _colours(sweep),
            "showscale": False,
            "xgap": 3,
            "ygap": 3,
        }
    ]
    layout = {
        "xaxis": {"type": "category", "title": {"text": safe(a.name)}, "showgrid": False},
        "yaxis": {"type": "category", "title": {"text": safe(b.name)}, "showgrid": False},
    }
    says = f"mean {sweep.objective.metric} of each pair of {a.name} and {b.name}"
    return Figure("interaction", "", says, data, layout, 340)


def _nodes(knob: Knob) -> np.ndarray:
    """Where a smoothed surface is computed along a knob: its options, or evenly."""
    if knob.choices is not None:
        return np.array([place(knob, choice) for choice in knob.choices])
    return np.linspace(0, 1, CELLS)


def _surface(
    sweep: Sweep, a: Knob, b: Knob, good: Sequence[RunRecord], runs: Sequence[RunRecord]
) -> Figure:
    """Scattered runs, smoothed by a Gaussian kernel; left white where there are none."""
    points = np.array([[place(a, knob_of(r, a)), place(b, knob_of(r, b))] for r in good])
    values = np.array([r.value for r in good])
    best, edge = scale(sweep, list(values))
    low, high = sorted([best, edge])
    xs, ys = ticks = [_nodes(knob) for knob in (a, b)]
    nodes = np.stack(np.meshgrid(*ticks), -1).reshape(-1, 1, 2)
    ordered = [knob.choices is None for knob in (a, b)]
    width = np.where(ordered, BANDWIDTH, 1e-3)  # options have no neighbours to borrow from
    weights = np.exp(-(((nodes - points) / width) ** 2).sum(-1) / 2)
    total = weights.sum(1)
    smooth = (weights @ values.clip(low, high)) / np.maximum(total, 1e-12)
    z = [None if t < 0.3 else short_number(s) for s, t in zip(smooth, total, strict=True)]
    broke = [r for r in runs if r.broke and all(knob_of(r, k) is not None for k in (a, b))]
    data = [
        {
            "type": "contour" if all(ordered) else "heatmap",
            "x": [short_number(t) for t in xs],
            "y": [short_number(t) for t in ys],
            "z": [z[i : i + len(xs)] for i in range(0, len(z), len(xs))],
            "zmin": low,
            "zmax": high,
            "colorscale": _colours(sweep),
            "showscale": False,
            **(CONTOURS if all(ordered) else {"ygap": 3} if ordered[0] else {"xgap": 3}),
            "hoverinfo": "skip",
        },
        *(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [short_number(place(a, knob_of(r, a))) for r in group],
                "y": [short_number(place(b, knob_of(r, b))) for r in group],
                "marker": marker,
                "text": [told(sweep, r, (a, b)) for r in group],
                **EXPLAINED,
            }
            for group, marker in (
                (good, {"symbol": "circle", "size": 4, "color": "$ink", "opacity": 0.45}),
                (broke, {"symbol": "x", "size": 7, "color": "$bad"}),
            )
            if group
        ),
    ]
    tried = [[knob_of(run, knob) for run in good] for knob in (a, b)]
    layout = {"xaxis": axis(a, tried[0], a.name), "yaxis": axis(b, tried[1], b.name)}
    says = f"{sweep.objective.metric} over {a.name} and {b.name}, smoothed"
    return Figure("interaction", "", says, data, layout, 380)
