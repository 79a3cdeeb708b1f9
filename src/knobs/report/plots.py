"""The plots of a report, as plain plotly JSON: no import of plotly, no colour but by its role.

A colour is a token ("$1", "$bad", ...) that the page replaces by its own, light or dark; whatever a
colour says, a symbol or a dash says too. Knobs are drawn on an axis from 0 to 1, the range searched,
on the scale they were searched on. Strings are escaped: plotly reads a few tags in them.
"""

import html
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.report import leaderboard
from knobs.report.gather import Run, Sweep, curve, knob_of, position
from knobs.report.importance import Knob
from knobs.report.stats import expected_best
from knobs.report.verdict import Verdict, name_of
from knobs.report.words import count, listed, number, printable

TOP = 5
MOST_KNOBS = 8  # with plots of their own
MOST_ROWS = 12  # of a plot that has a row a setting
MOST_POINTS = 200  # of a curve
BUCKETS = 6
CELLS = 25  # of a smoothed surface, a side
BANDWIDTH = 0.14  # of the smoothing, in shares of a range
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
EXPLAINED = {"hoverinfo": "text", "hovertemplate": "%{text}<extra></extra>"}


@dataclass(frozen=True)
class Figure:
    """One plot: traces and layout as plotly takes them.

    Args:
        name: unique on the page.
        title: above it.
        says: the same for who cannot see it.
        height: pixels.
    """

    name: str
    title: str
    says: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 260


@dataclass(frozen=True)
class Section:
    """Plots of one kind, and in a line what to see in them."""

    name: str
    title: str
    see: str
    figures: tuple[Figure, ...]


def sections(sweep: Sweep, verdict: Verdict, knobs: Sequence[str], pair: Any = None) -> list[Section]:
    """All plots for which there are records.

    Args:
        knobs: the most important first.
        pair: of knobs that interact most; the first two of `knobs` if None.
    """
    arm = verdict.winner.arm if verdict.winner else ""
    space = {knob.name: knob for knob in sweep.space_of(arm)}
    order = [space[name] for name in dict.fromkeys([*knobs, *space]) if name in space][:MOST_KNOBS]
    runs = [run for run in sweep.explored(arm) if run.value is not None or run.broke]
    two = [space[name] for name in pair or [knob.name for knob in order[:2]] if name in space]
    made = [
        paired_section(sweep, verdict),
        ablation_section(sweep, verdict),
        axis_section(sweep, verdict, order, runs),
        isolation_section(sweep, order, runs),
        interaction_section(sweep, two, runs),
        curves_section(sweep),
        tuning_section(sweep, runs),
    ]
    return [section for section in made if section and section.figures]


# ------------------------------------------------------------------ one axis a knob
def safe(text: Any) -> str:
    """Text that plotly shows as it is."""
    return html.escape(printable(str(text), 60), quote=False)


def place(knob: Knob, value: Any) -> float:
    """Where a value lies on the knob's axis, 0 to 1."""
    if knob.choices is not None:
        return (knob.choices.index(value) + 0.5) / len(knob.choices)
    return position(knob, value)


def axis(knob: Knob, tried: Sequence[Any], title: str = "") -> dict[str, Any]:
    """The knob's axis: its choices, the few values tried, or round numbers."""
    if knob.choices is not None:
        values, texts = list(knob.choices), [safe(choice) for choice in knob.choices]
    else:
        distinct = sorted({*tried} - {None})
        values = distinct if len(distinct) <= 5 else round_numbers(knob)
        texts = [f"{value:g}" for value in values]
    ends = [0, 1] if knob.choices is not None else [-0.06, 1.06]
    return {
        "range": ends,
        "tickvals": [place(knob, value) for value in values],
        "ticktext": texts,
        "title": {"text": safe(title)} if title else None,
    }


def round_numbers(knob: Knob, least: int = 3) -> list[float]:
    """Values to label between the bounds: powers of 10 or 2 on a log scale, else even steps."""
    low, high = knob.low, knob.high
    if not knob.log:
        step = 10 ** math.floor(math.log10((high - low) / 2))
        step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
        first = math.ceil(low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    for base in (10, 2):
        first, last = (f(math.log(v, base) + e) for f, v, e in ((math.ceil, low, -1e-9), (math.floor, high, 1e-9)))
        if last - first + 1 >= least:
            every = max(1, math.ceil((last - first + 1) / 6))
            return [float(base) ** i for i in range(first, last + 1, every)]
    return [low, high]


def scale(sweep: Sweep, values: Sequence[float]) -> tuple[float, float]:
    """What of the objective to show: the better three quarters in full, the rest at the edge."""
    ordered = sorted(values, key=lambda value: -sweep.objective.sign * value)
    best, worst = ordered[0], ordered[-1]
    quarter = ordered[min(len(ordered) - 1, (3 * len(ordered)) // 4)]
    reach = 1.6 * abs(best - quarter) or abs(best - worst) or abs(best) * 0.1 or 1.0
    edge = max(best - reach, worst) if sweep.objective.sign > 0 else min(best + reach, worst)
    return best, edge


def objective_axis(sweep: Sweep, best: float, edge: float) -> dict[str, Any]:
    """The objective's axis, with room at the edge for what lies beyond."""
    room = 0.1 * (best - edge)
    ends = sorted([best + room, edge - 1.6 * room])
    return {"range": ends, "title": {"text": safe(sweep.objective.metric)}}


def told(sweep: Sweep, run: Run, knobs: Sequence[Knob]) -> str:
    """What a run shows when pointed at."""
    short = sweep.short()
    value = sweep.objective.value(run.value) if run.value is not None else run.row.status
    lines = [f"run {run.id}: {value}"]
    lines += [
        f"{short.get(knob.name, knob.name)} {leaderboard.short(leaderboard.knob_value(run.row, knob.name))}"
        for knob in knobs[:6]
    ]
    return "<br>".join(map(safe, lines))


# ------------------------------------------------------------------ axis and isolation
def axis_section(
    sweep: Sweep, verdict: Verdict, knobs: Sequence[Knob], runs: Sequence[Run]
) -> Section | None:
    """Every run over each knob."""
    good = [run.value for run in runs if run.value is not None]
    if not good or not knobs:
        return None
    best, edge = scale(sweep, good)
    winner = verdict.winner.runs[0] if verdict.winner else None
    figures = [_axis(sweep, knob, knobs, runs, winner, best, edge) for knob in knobs]
    return Section(
        "axis",
        "Every run over each knob",
        "Look where the high points gather: in the middle the range is right, at a shaded edge (the "
        "outer 5 %) it is too narrow. Crosses broke, triangles lie below what is shown, the star is the best."
        if sweep.objective.sign > 0
        else "Look where the low points gather: in the middle the range is right, at a shaded edge (the "
        "outer 5 %) it is too narrow. Crosses broke, triangles lie above what is shown, the star is the best.",
        tuple(figures),
    )


def _axis(
    sweep: Sweep,
    knob: Knob,
    knobs: Sequence[Knob],
    runs: Sequence[Run],
    winner: Run | None,
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
        elif winner and run.row.folder == winner.row.folder:
            x, kind = place(knob, value), "best"
        elif run.row.status == "pruned":
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
        "best": {"symbol": "star", "size": 14, "color": "$2", "line": {"width": 1, "color": "$ink"}},
    }
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "x": [_r(x) for x, _, _ in groups[kind]],
            "y": [_r(y) for _, y, _ in groups[kind]],
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
        "shapes": [_band(x0, x1) for x0, x1 in edges],
    }
    n = sum(map(len, groups.values()))
    return Figure(
        f"axis-{knob.name}", knob.name, f"{n} runs' {sweep.objective.metric} over {knob.name}", data, layout
    )


def isolation_section(sweep: Sweep, knobs: Sequence[Knob], runs: Sequence[Run]) -> Section | None:
    """The best that each value of a knob allows."""
    good = [run for run in runs if run.value is not None]
    figures = [figure for knob in knobs if (figure := _isolation(sweep, knob, good))]
    return Section(
        "isolation",
        "The best each value can do",
        "Each filled point is the best run with the knob thereabouts, whatever the other knobs were; the "
        "open one is the median. A flat filled line: the value does not matter if the others are tuned.",
        tuple(figures),
    )


def _isolation(sweep: Sweep, knob: Knob, runs: Sequence[Run]) -> Figure | None:
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
    if len(buckets) < 2:
        return None
    xs = sorted(buckets)
    tops = [max(buckets[x], key=lambda v: sign * v) for x in xs]
    middles = [statistics.median(buckets[x]) for x in xs]
    best, edge = scale(sweep, [*tops, *middles])
    counts = [count(len(buckets[x]), "run") for x in xs]
    shared = {"type": "scatter", "mode": "lines+markers", "x": [_r(x) for x in xs]}
    data = [
        shared
        | {
            "name": name,
            "y": [_r(y) for y in ys],
            "line": {"color": color, "dash": dash, "width": 2},
            "marker": {"symbol": symbol, "size": 8, "color": color},
            "text": [f"{name} of {n}: {sweep.objective.value(y)}" for n, y in zip(counts, ys, strict=True)],
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
def interaction_section(sweep: Sweep, two: Sequence[Knob], runs: Sequence[Run]) -> Section | None:
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
        "A ridge along an axis: each can be set by itself. A slanted ridge or a lone peak: the best value "
        "of one depends on the other, so tune them together.",
        (figure,),
    )


def _colours(sweep: Sweep) -> list[list[Any]]:
    shades = ["$low", "$middle", "$high"]
    return [[i / 2, shade] for i, shade in enumerate(shades if sweep.objective.sign > 0 else shades[::-1])]


def _cells(sweep: Sweep, a: Knob, b: Knob, runs: Sequence[Run]) -> Figure:
    """A grid's means."""
    xs, ys = (sorted({place(k, knob_of(run, k)) for run in runs}) for k in (a, b))
    cells: dict[tuple[float, float], list[float]] = {}
    for run in runs:
        cells.setdefault((place(a, knob_of(run, a)), place(b, knob_of(run, b))), []).append(run.value)
    names = [{place(k, v): leaderboard.short(v) for r in runs for v in (knob_of(r, k),)} for k in (a, b)]
    means = [[statistics.mean(cells[x, y]) if (x, y) in cells else None for x in xs] for y in ys]
    flat = [m for row in means for m in row if m is not None]
    best, edge = scale(sweep, flat)
    low, high = sorted([best, edge])
    data = [
        {
            "type": "heatmap",
            "x": [safe(names[0][x]) for x in xs],
            "y": [safe(names[1][y]) for y in ys],
            "z": [[None if m is None else _r(m) for m in row] for row in means],
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


def _surface(
    sweep: Sweep, a: Knob, b: Knob, good: Sequence[Run], runs: Sequence[Run]
) -> Figure:
    """Scattered runs, smoothed by a Gaussian kernel; left white where there are none."""
    points = np.array([[place(a, knob_of(r, a)), place(b, knob_of(r, b))] for r in good])
    values = np.array([r.value for r in good])
    best, edge = scale(sweep, list(values))
    low, high = sorted([best, edge])
    ticks = np.linspace(0, 1, CELLS)
    nodes = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 1, 2)
    weights = np.exp(-((nodes - points) ** 2).sum(-1) / (2 * BANDWIDTH**2))
    total = weights.sum(1)
    smooth = (weights @ values.clip(low, high)) / np.maximum(total, 1e-12)
    z = [None if t < 0.3 else _r(s) for s, t in zip(smooth, total, strict=True)]
    broke = [r for r in runs if r.broke and all(knob_of(r, k) is not None for k in (a, b))]
    data = [
        {
            "type": "contour",
            "x": [_r(t) for t in ticks],
            "y": [_r(t) for t in ticks],
            "z": [z[i : i + CELLS] for i in range(0, len(z), CELLS)],
            "zmin": low,
            "zmax": high,
            "colorscale": _colours(sweep),
            "showscale": False,
            "contours": {"showlabels": True, "labelfont": {"size": 10, "color": "$ink"}},
            "line": {"width": 0.7, "color": "$line"},
            "hoverinfo": "skip",
        },
        *(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [_r(place(a, knob_of(r, a))) for r in group],
                "y": [_r(place(b, knob_of(r, b))) for r in group],
                "marker": marker,
                "text": [told(sweep, r, (a, b)) for r in group],
                **EXPLAINED,
            }
            for group, marker in (
                (good, {"symbol": "circle", "size": 5, "color": "$ink", "opacity": 0.6}),
                (broke, {"symbol": "x", "size": 7, "color": "$bad"}),
            )
            if group
        ),
    ]
    tried = [[knob_of(run, knob) for run in good] for knob in (a, b)]
    layout = {"xaxis": axis(a, tried[0], a.name), "yaxis": axis(b, tried[1], b.name)}
    says = f"{sweep.objective.metric} over {a.name} and {b.name}, smoothed"
    return Figure("interaction", "", says, data, layout, 380)


# ------------------------------------------------------------------ curves
def curves_section(sweep: Sweep) -> Section | None:
    """The best five settings over their epochs."""
    rows = {run.row.folder: run for run in sweep.runs}
    sign, metric = sweep.objective.sign, sweep.objective.metric
    lines = []
    for i, entry in enumerate((e for e in sweep.entries[:TOP] if e.mean is not None)):
        good = [rows[row.folder] for row in entry.runs if rows[row.folder].ok]
        run = max(good, key=lambda run: sign * run.row.value)
        points = curve(run)
        step = -(-len(points) // MOST_POINTS) if points else 1
        lines.append((i, name_of(sweep, entry, i + 1), [*points[:-1:step], *points[-1:]]))
    made = [
        _curves("curves-objective", metric, lines, [(metric, 0)]),
        _curves("curves-loss", "loss", lines, [("val/loss", 0), ("train/loss", 1)]),
    ]
    figures = tuple(figure for figure in made if figure)
    return Section(
        "curves",
        "Learning curves of the best five",
        "Still getting better at the right edge: train longer. Validation loss (lines with marks) turning "
        "up while training loss (thin dotted lines) falls: regularise, or stop earlier.",
        figures[:1] if metric in ("val/loss", "train/loss") else figures,
    )


def _curves(
    name: str, title: str, lines: Sequence[tuple[int, str, list]], metrics: Sequence[tuple[str, int]]
) -> Figure | None:
    data = []
    for i, setting, rows in lines:
        for metric, thin in metrics:
            points = [(row["epoch"], row[metric]) for row in rows if metric in row]
            if points:
                data.append(_line(i, setting, metric, points, bool(thin)))
    if not data:
        return None
    layout = {
        "xaxis": {"title": {"text": "epoch"}},
        "yaxis": {"title": {"text": safe(title)}},
        "showlegend": True,
    }
    return Figure(name, "", f"{title} by epoch of the best {len(lines)} settings", data, layout, 340)


def _line(i: int, setting: str, metric: str, points: list, thin: bool) -> dict[str, Any]:
    color = f"${i + 1}"
    every = max(1, len(points) // 6)
    return {
        "type": "scatter",
        "mode": "lines" if thin else "lines+markers",
        "name": safe(setting),
        "legendgroup": str(i),
        "showlegend": not thin,
        "x": [_r(x) for x, _ in points],
        "y": [_r(y) for _, y in points],
        "line": {"color": color, "dash": "dot" if thin else DASHES[i], "width": 1 if thin else 2},
        "marker": {"symbol": SYMBOLS[i], "size": 7, "color": color, "maxdisplayed": len(points) // every},
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
        return {"type": "scatter", "mode": "lines", "x": xs, "y": [_r(ys[k]) for k in keep], **look}

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
    ends = scale(sweep, [*table[:, 0]])
    layout = {
        "xaxis": {"title": {"text": "runs"}},
        "yaxis": objective_axis(sweep, max(ends[0], *so_far) if sign > 0 else min(ends[0], *so_far), ends[1]),
        "showlegend": True,
    }
    says = f"expected best {sweep.objective.metric} by number of runs"
    return Section(
        "tuning-curve",
        "Were there runs enough?",
        "Flat at the right: more runs of this kind will not find better. Still climbing: they will. The band "
        "holds 80 % of the orders in which these runs could have come; broken runs count as the worst.",
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
            seeds["x"].append(_r(unit * d))
            seeds["y"].append(y)
            seeds["text"].append(safe(f"{c.other.name}, seed {seed}: {gap(d)}"))
    means = [c.paired.mean for c in shown]
    spans = [(c.paired.low, c.paired.high) for c in shown]
    spans = [(m, m) if low is None else (low, high) for m, (low, high) in zip(means, spans, strict=True)]
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
            "x": [_r(unit * m) for m in means],
            "y": rows,
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [_r(unit * (high - m)) for m, (_, high) in zip(means, spans, strict=True)],
                "arrayminus": [_r(unit * (m - low)) for m, (low, _) in zip(means, spans, strict=True)],
                "color": "$1",
                "thickness": 3,
                "width": 0,
            },
            "marker": {
                "symbol": ["diamond" if c.relation in ("beaten", "ahead") else "diamond-open" for c in shown],
                "size": 11,
                "color": "$1",
            },
            "text": [safe(f"{c.other.name}: {gap(m)}, {c.relation}") for c, m in zip(shown, means, strict=True)],
            **EXPLAINED,
        },
    ]
    shapes = [{"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "line": {"color": "$ink", "width": 1}}]
    if noise:
        shapes.append(_band(-unit * noise, unit * noise))
    ends = [x for low, high in spans for x in (unit * low, unit * high)] + seeds["x"] + [0.0]
    room = 0.05 * (max(ends) - min(ends) or 1)
    layout = {
        "xaxis": {
            "range": [min(ends) - room, max(ends) + room],
            "title": {"text": f"lead of {safe(verdict.winner.name)}" + (", points" if unit == 100 else "")},
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
    says = f"difference of {verdict.winner.name} to each of {listed([c.other.name for c in shown])}, seed by seed"
    return Section(
        "paired-seeds",
        "Seed by seed",
        "Right of the line the winner is ahead. A bar (95 % interval) that crosses the line: the two cannot "
        "be told apart. The shaded stripe is the noise of a single run.",
        (Figure("paired-seeds", "", says, data, layout, 110 + 34 * len(shown)),),
    )


def ablation_section(sweep: Sweep, verdict: Verdict) -> Section | None:
    """From the default to the best, one knob at a time."""
    steps = verdict.steps
    if not steps:
        return None
    objective, short = sweep.objective, sweep.short()
    means = [statistics.mean(step.values.values()) for step in steps]
    names = ["default", *(short.get(s.knob, s.knob) for s in steps[1:]), "all changed"]
    gains = [b - a for a, b in zip(means, means[1:], strict=False)]
    errors = [step.gain for step in steps[1:]]
    up = [objective.sign * g >= 0 for g in gains]
    data = [
        {
            "type": "bar",
            "x": list(range(1, len(steps))),
            "y": [_r(g) for g in gains],
            "base": [_r(m) for m in means[:-1]],
            "marker": {
                "color": ["$3" if u else "$bad" for u in up],
                "pattern": {"shape": ["" if u else "/" for u in up]},
            },
            "text": [f"{'+' if g > 0 else ''}{objective.amount(g, unit=False)}" for g in gains],
            "textposition": "outside",
            "cliponaxis": False,
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": list(range(1, len(steps))),
            "y": [_r(m) for m in means[1:]],
            "marker": {"symbol": "line-ew", "size": 1, "color": "$ink"},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [_r((g.high or g.mean) - g.mean) if g else 0 for g in errors],
                "arrayminus": [_r(g.mean - (g.mean if g.low is None else g.low)) if g else 0 for g in errors],
                "color": "$ink",
                "thickness": 1.5,
                "width": 5,
            },
            "text": [
                safe(f"{step.knob}: {objective.amount(gain)}") for step, gain in zip(steps[1:], gains, strict=True)
            ],
            **EXPLAINED,
        },
        {
            "type": "scatter",
            "mode": "markers+text",
            "x": [0, len(steps)],
            "y": [_r(means[0]), _r(means[-1])],
            "marker": {"symbol": "diamond", "size": 12, "color": "$1"},
            "text": [objective.value(means[0]), objective.value(means[-1])],
            "textposition": "top center",
            "hoverinfo": "skip",
        },
    ]
    room = 0.18 * (max(means) - min(means) or 0.01)
    layout = {
        "xaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": [safe(name) for name in names],
            "range": [-0.5, len(names) - 0.5],
            "showgrid": False,
        },
        "yaxis": {
            "range": [min(means) - room, max(means) + 1.5 * room],
            "title": {"text": safe(objective.metric)},
        },
    }
    says = f"{objective.metric} from the default to the best config, one knob at a time"
    return Section(
        "ablation",
        "From the default to the best, one knob at a time",
        f"Each bar is what one more change gave, over {count(min(len(s.values) for s in steps), 'paired seed')}; "
        "the whisker is its 95 % interval. A change whose whisker reaches back to its start can be left out.",
        (Figure("ablation", "", says, data, layout, 340),),
    )


def _band(x0: float, x1: float) -> dict[str, Any]:
    """A shaded stripe behind the points."""
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": x0,
        "x1": x1,
        "y0": 0,
        "y1": 1,
        "fillcolor": "$edge",
        "line": {"width": 0},
        "layer": "below",
    }


def _r(value: float) -> float:
    """Six digits: a page is as large as its numbers are long."""
    return float(f"{float(value):.6g}")
