"""Plots that have a knob for an axis: every run, the best each value can do, two knobs at once."""

import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.conclusions import Verdict
from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, Section
from knobs.report.records import Knob, RunRecord, Sweep, position
from knobs.words import count, number, short

BUCKETS = 6
CELLS = 25  # of a smoothed surface, a side
LABELS = {"showlabels": True, "labelfont": {"size": 10, "color": "$ink"}}
CONTOURS = {"contours": LABELS, "line": {"width": 0.7, "color": "$line"}}
BANDWIDTH = 0.14  # of the smoothing, in shares of a range
Knobs, Runs = Sequence[Knob], Sequence[RunRecord]
Points = list[tuple[RunRecord, list[Any]]]


def _points(sweep: Sweep, knobs: Knobs, runs: Runs) -> Points:
    """Return the runs that have a value of each knob, with these values."""
    columns = [sweep.column(knob) for knob in knobs]
    held = [run for run in runs if all(run.id in column for column in columns)]
    return [(run, [column[run.id] for column in columns]) for run in held]


def axis_section(sweep: Sweep, verdict: Verdict, knobs: Knobs, runs: Runs) -> Section | None:
    """Show every run over each knob."""
    if not knobs or all(run.value is None for run in runs):
        return None
    high, beyond = ("high", "below") if sweep.objective.sign > 0 else ("low", "above")
    winner = verdict.winner.runs[0].setting if verdict.winner else ""
    shown, said = figures.sampled(runs, sweep.objective.sign, winner)
    return Section(
        "axis",
        "Runs over each knob" if said else "Every run over each knob",
        f"{said}Where the {high} points gather at a shaded edge (the outer 5 %), the range may be "
        f"too narrow. Crosses diverged or failed, triangles lie {beyond} what is shown, the star "
        "is the best.",
        tuple(_axis(sweep, verdict, knob, knobs, shown) for knob in knobs),
    )


def _axis(sweep: Sweep, verdict: Verdict, knob: Knob, knobs: Knobs, runs: Runs) -> Figure:
    winner = verdict.winner and verdict.winner.runs[0].setting
    best, edge = figures.scale(sweep, [run.value for run in runs if run.value is not None])
    sign, bottom = sweep.objective.sign, edge - 0.08 * (best - edge)
    drawn = random.Random(knob.name)
    groups: dict[str, list[tuple[float, float, str]]] = {}
    spread = 0.5 / len(knob.choices) if knob.choices is not None else 0.012
    points = _points(sweep, [knob], runs)
    for run, (value,) in points:
        x = position(knob, value) + spread * (drawn.random() - 0.5)
        y, kind = run.value, "run"
        if run.broke:
            y, kind = bottom, "broke"
        elif sign * (y - edge) < 0:
            y, kind = bottom, "beyond"
        elif run.setting == winner:
            x, kind = position(knob, value), "best"
        elif run.status == "pruned":
            kind = "pruned"
        groups.setdefault(kind, []).append((x, y, figures.told(sweep, run, knobs)))
    triangle = f"triangle-{'down' if sign > 0 else 'up'}-open"
    marks = {
        "run": {"symbol": "circle", "size": 6, "color": "$1", "opacity": 0.55},
        "pruned": {"symbol": "circle-open", "size": 6, "color": "$1"},
        "beyond": {"symbol": triangle, "size": 6, "color": "$muted"},
        "broke": {"symbol": "x", "size": 7, "color": "$bad"},
        "best": {
            "symbol": "star",
            "size": 14,
            "color": "$2",
            "line": {"width": 1, "color": "$ink"},
        },
    }
    data = [
        figures.scatter(*zip(*groups[kind], strict=True), name=kind, marker=marker)
        for kind, marker in marks.items()
        if kind in groups
    ]
    edges = [] if knob.choices is not None else [(-0.06, 0.05), (0.95, 1.06)]
    layout = {
        "xaxis": figures.axis(knob, [value for _, (value,) in points]),
        "yaxis": figures.objective_axis(sweep, best, edge),
        "shapes": [figures.band(x0, x1) for x0, x1 in edges],
    }
    says = f"{len(points)} runs' {sweep.objective.metric} over {knob.name}"
    return Figure(f"axis-{knob.name}", knob.name, says, data, layout)


def isolation_section(sweep: Sweep, knobs: Knobs, runs: Runs) -> Section:
    """Show the best that each value of a knob allows."""
    good = [run for run in runs if run.value is not None]
    return Section(
        "isolation",
        "Best and median of each value",
        "Each filled point is the best run with the knob near there, whatever the other knobs "
        "were; the open one is the median. The best of many runs is better than the best of few "
        "by chance alone: point at one for its number of runs.",
        tuple(figure for knob in knobs if (figure := _isolation(sweep, knob, good))),
    )


def _isolation(sweep: Sweep, knob: Knob, runs: Runs) -> Figure | None:
    objective = sweep.objective
    buckets: dict[float, list[float]] = {}
    points = _points(sweep, [knob], runs)
    values = {value for _, (value,) in points}
    few = knob.choices is not None or len(values) <= BUCKETS + 2
    for run, (value,) in points:
        x = position(knob, value)
        middle = x if few else (min(int(x * BUCKETS), BUCKETS - 1) + 0.5) / BUCKETS
        buckets.setdefault(middle, []).append(run.value)
    if len(buckets) < 2 or max(map(len, buckets.values())) < 2:
        return None  # with a run a value it would be the axis plot again
    xs = sorted(buckets)
    tops = [max(buckets[x], key=lambda v: objective.sign * v) for x in xs]
    middles = [statistics.median(buckets[x]) for x in xs]
    counts = [count(len(buckets[x]), "run") for x in xs]
    data = [
        figures.scatter(
            *(xs, ys),
            (f"{name} of {n}: {objective.value(y)}" for n, y in zip(counts, ys, strict=True)),
            mode="lines+markers",
            name=name,
            line={"color": color, "dash": dash, "width": 2},
            marker={"symbol": symbol, "size": 8, "color": color},
        )
        for name, ys, color, dash, symbol in (
            ("best", tops, "$1", "solid", "circle"),
            ("median", middles, "$muted", "dot", "circle-open"),
        )
    ]
    yaxis = figures.objective_axis(sweep, *figures.scale(sweep, [*tops, *middles]))
    layout = {"xaxis": figures.axis(knob, list(values)), "yaxis": yaxis}
    says = f"best and median {objective.metric} by {knob.name}"
    return Figure(f"isolation-{knob.name}", knob.name, says, data, layout)


def interaction_section(sweep: Sweep, two: Knobs, runs: Runs) -> Section | None:
    """Show two knobs at once."""
    good = _points(sweep, two, [run for run in runs if run.value is not None])
    if len(two) < 2 or len(good) < 4:
        return None
    across, up = (len({*column}) for column in zip(*(values for _, values in good), strict=True))
    if max(across, up) <= 8 and across * up <= 2 * len(good):  # a grid, not a few points anywhere
        figure, said = _cells(sweep, two, good), ""
    else:
        said = figures.sampled(runs, sweep.objective.sign)[1]
        broke = _points(sweep, two, [run for run in runs if run.broke])
        figure = _surface(sweep, two, good, broke)
    return Section(
        "interaction",
        f"{sweep.short(two[0].name)} and {sweep.short(two[1].name)} together",
        f"{said}The stronger the colour, the better. A slanted ridge, or a best place that shifts "
        "from row to row, suggests that the best value of one depends on the other: tune them "
        "together.",
        (figure,),
    )


def _colours(sweep: Sweep, values: Sequence[float]) -> dict[str, Any]:
    """Return what a map of the objective shows of values, the better the stronger."""
    low, high = sorted(figures.scale(sweep, values))
    shades = ("$low", "$middle", "$high")[:: sweep.objective.sign]
    colours = [[i / 2, shade] for i, shade in enumerate(shades)]
    look = {"colorscale": colours, "showscale": False, "hoverinfo": "skip"}
    return {"zmin": low, "zmax": high, **look}


def _cells(sweep: Sweep, two: Knobs, points: Points) -> Figure:
    cells: dict[tuple[float, ...], list[float]] = {}
    names: tuple[dict[float, str], ...] = ({}, {})
    for run, values in points:
        places = tuple(map(position, two, values))
        cells.setdefault(places, []).append(run.value)
        for of_knob, where, value in zip(names, places, values, strict=True):
            of_knob[where] = figures.safe(short(value))
    xs, ys = map(sorted, names)
    means = [[statistics.mean(cells[x, y]) if (x, y) in cells else None for x in xs] for y in ys]
    data = {
        "type": "heatmap",
        "x": [names[0][x] for x in xs],
        "y": [names[1][y] for y in ys],
        "z": [[None if m is None else figures.short_number(m) for m in row] for row in means],
        "text": [["" if m is None else number(m, 3) for m in row] for row in means],
        "texttemplate": "%{text}",
        **{"xgap": 3, "ygap": 3},
        **_colours(sweep, [m for row in means for m in row if m is not None]),
    }
    x, y = (figures.titled(knob.name, type="category", showgrid=False) for knob in two)
    says = f"mean {sweep.objective.metric} of each pair of {two[0].name} and {two[1].name}"
    return Figure("interaction", "", says, [data], {"xaxis": x, "yaxis": y}, 340)


def _surface(sweep: Sweep, two: Knobs, good: Points, broke: Points) -> Figure:
    """Show scattered runs, smoothed by a Gaussian kernel; left white where there are none."""
    at = np.array([list(map(position, two, values)) for _, values in good])
    values = np.array([run.value for run, _ in good])
    colours = _colours(sweep, list(values))
    every = [run for run, _ in (*good, *broke)]
    shown = {run.id for run in figures.sampled(every, sweep.objective.sign)[0]}
    ordered = [knob.choices is None for knob in two]
    xs, ys = (
        [position(knob, choice) for choice in knob.choices or ()] or np.linspace(0, 1, CELLS)
        for knob in two
    )
    nodes = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 1, 2)
    width = np.where(ordered, BANDWIDTH, 1e-3)  # options have no neighbours to borrow from
    weights = np.exp(-(((nodes - at) / width) ** 2).sum(-1) / 2)
    total = weights.sum(1)
    smooth = (weights @ values.clip(colours["zmin"], colours["zmax"])) / np.maximum(total, 1e-12)
    z = [None if t < 0.3 else figures.short_number(s) for s, t in zip(smooth, total, strict=True)]
    data = [
        {
            "type": "contour" if all(ordered) else "heatmap",
            "x": list(map(figures.short_number, xs)),
            "y": list(map(figures.short_number, ys)),
            "z": [z[i : i + len(xs)] for i in range(0, len(z), len(xs))],
            **(CONTOURS if all(ordered) else {"ygap": 3} if ordered[0] else {"xgap": 3}),
            **colours,
        },
        *(
            figures.scatter(
                *zip(*(map(position, two, values) for _, values in group), strict=True),
                [figures.told(sweep, run, two) for run, _ in group],
                marker=marker,
            )
            for group, marker in (
                (
                    [p for p in good if p[0].id in shown],
                    {"symbol": "circle", "size": 4, "color": "$ink", "opacity": 0.45},
                ),
                (
                    [p for p in broke if p[0].id in shown],
                    {"symbol": "x", "size": 7, "color": "$bad"},
                ),
            )
            if group
        ),
    ]
    tried = zip(*(values for _, values in good), strict=True)
    names = [knob.name for knob in two]
    layout = dict(zip(("xaxis", "yaxis"), map(figures.axis, two, tried, names), strict=True))
    says = f"{sweep.objective.metric} over {' and '.join(names)}, smoothed"
    return Figure("interaction", "", says, data, layout, 380)
