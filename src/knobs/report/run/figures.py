"""Figures of one run: plain plotly JSON, as report/plots/figures.py describes it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.plots import figures
from knobs.report.plots.figures import Figure, safe, scatter, titled
from knobs.report.run.scores import Calibration
from knobs.words import number, percent, printable

MOST_POINTS = 200  # of a curve
MOST_DOTS = 2_000  # of a cloud, chosen with SEED
SEED = 0
HISTOGRAM = 40  # bars
FEW = 8  # epochs, each of which has a tick
LOG = 3.0  # times the least loss that the largest must be, before the axis is logarithmic
MOST_TEXTS = 12  # classes of a confusion matrix whose cells have room for their counts
TICK = 14  # letters of a class on an axis, which a phone has room for


def thinned(rows: Sequence[dict], keep: int) -> list[dict]:
    """Return at most about MOST_POINTS epochs, the last and the epoch `keep` among them."""
    step = math.ceil(len(rows) / MOST_POINTS) or 1
    last = len(rows) - 1
    return [r for i, r in enumerate(rows) if i % step == 0 or i == last or r["epoch"] == keep]


def curve(
    name: str, metrics: Sequence[str], rows: Sequence[dict], best: int, members: Sequence[float]
) -> Figure | None:
    """Return one or two metrics by epoch; None where no row has any.

    Args:
        best: the epoch to mark; 0 for none.
        members: values of the first metric at that epoch, of each member of the run.
    """
    looks = ({"color": "$1", "width": 2}, {"color": "$2", "width": 2, "dash": "dot"})
    data, values = [], []
    several = len(metrics) > 1
    for metric, line in zip(metrics, looks, strict=False):
        points = [(row["epoch"], row[metric]) for row in rows if metric in row]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        values += y
        text = [safe(f"{metric} {number(v, 4)} at epoch {e:,.0f}") for e, v in points]
        mode = "lines" if len(points) > 1 else "markers"
        data.append(scatter(x, y, text, mode=mode, line=line, name=safe(metric)))
        if metric == metrics[0] and best in x:
            mark = {
                "symbol": "star",
                "size": 13,
                "color": "$2",
                "line": {"width": 1, "color": "$ink"},
            }
            at = [best], [y[x.index(best)]], [f"best epoch {best}"]
            data.append(scatter(*at, marker=mark, showlegend=False))
    if not data:
        return None
    if members and best:
        text = [f"member {m}: {number(v, 4)}" for m, v in enumerate(members)]
        mark = {"symbol": "circle-open", "size": 7, "color": "$1"}
        data.append(scatter([best] * len(members), members, text, marker=mark, name="members"))
    yaxis = titled(name if several else metrics[0])
    if min(values) == max(values):  # plotly would draw an axis from -1 to 1
        reach = abs(values[0]) or 1.0
        yaxis |= {"range": [values[0] - reach, values[0] + reach]}
    elif several and min(values) > 0 and max(values) > LOG * min(values):
        yaxis |= {"type": "log", **_ticks(min(values), max(values))}
    line = {"color": "$muted", "width": 1, "dash": "dot"}
    ends = {"x0": best, "x1": best, "y0": 0, "y1": 1, "xref": "x", "yref": "paper"}
    few = rows[-1]["epoch"] - rows[0]["epoch"] <= FEW
    layout = {
        "xaxis": titled("epoch", **{"dtick": 1} if few else {}),
        "yaxis": yaxis,
        "showlegend": several or bool(members),
        "shapes": [{"type": "line", **ends, "line": line}] if best else [],
    }
    says = f"{' and '.join(metrics)} by epoch"
    return Figure(f"curve-{name.replace(' ', '-')}", "", says, data, layout, 280)


def _ticks(low: float, high: float) -> dict[str, Any]:
    """Return round values of a log axis: 1, 2 and 5 of each decade, of many decades 1 alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) <= 3 else (1,)
    values = [m * 10.0**d for d in decades[:: math.ceil(len(decades) / 8)] for m in steps]
    return {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def confusion(counts: np.ndarray, names: Sequence[str], others: bool) -> Figure:
    """Return the confusion matrix, each row as shares of its class.

    Args:
        counts: (k, k + 1); the last column is all other classes.
        others: whether there are any.
    """
    counts = counts if others else counts[:, :-1]
    size = len(names)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    columns = [*names, *["others"] * others]
    ticks = [safe(printable(name, TICK)) for name in columns]
    text = [[f"{n:,}" if n and size <= MOST_TEXTS else "" for n in row] for row in counts.tolist()]
    ours, said = ([safe(name) for name in side] for side in (names, columns))
    hover = [
        [
            f"actual {ours[i]}<br>predicted {said[j]}<br>{n:,} rows, {percent(shares[i, j])}"
            for j, n in enumerate(row)
        ]
        for i, row in enumerate(counts.tolist())
    ]
    z = [[round(v, 4) for v in row] for row in shares.tolist()]
    colours = [[0, "$low"], [0.5, "$middle"], [1, "$high"]]
    cells = {
        "type": "heatmap", "z": z, "text": text, "texttemplate": "%{text}", "hovertext": hover,
        "hoverinfo": "text", "colorscale": colours, "zmin": 0, "zmax": 1, "showscale": False,
        "xgap": 1, "ygap": 1, "textfont": {"color": "$ink"},
    }  # fmt: skip
    axis = {"tickfont": {"size": 11 if size <= MOST_TEXTS else 10}, "showgrid": False}
    places = {"tickvals": list(range(size)), "ticktext": ticks[:size]}
    across = {"tickvals": list(range(len(columns))), "ticktext": ticks, "side": "bottom"}
    long = max(map(len, ticks)) > 3
    layout = {
        "xaxis": titled("predicted", **axis, **across, tickangle=-90 if long else 0),
        "yaxis": titled("actual", **axis, **places, autorange="reversed"),
    }
    says = f"confusion matrix of {size} classes"
    return Figure("confusion", "", says, [cells], layout, min(640, 150 + 30 * size) + 60 * long)


def reliability(found: Calibration) -> Figure:
    """Return accuracy over confidence, bin by bin, and the diagonal of a calibrated model."""
    text = [
        f"{n:,} rows: confidence {percent(c)}, accuracy {percent(a)}"
        for c, a, n in zip(found.confidence, found.accuracy, found.rows.tolist(), strict=True)
    ]
    sizes = [round(6 + 16 * math.sqrt(n / found.rows.max()), 1) for n in found.rows.tolist()]
    dots = scatter(
        found.confidence, found.accuracy, text, mode="lines+markers",
        marker={"size": sizes, "color": "$1"}, line={"color": "$1", "width": 1.5},
    )  # fmt: skip
    layout = {
        "xaxis": titled("confidence", range=[-0.03, 1.05], tickformat=".0%"),
        "yaxis": titled("accuracy", range=[-0.05, 1.07], tickformat=".0%"),
    }
    return Figure("reliability", "", "accuracy by confidence", [_diagonal(0, 1), dots], layout, 320)


def _diagonal(low: float, high: float) -> dict[str, Any]:
    line = {"color": "$muted", "width": 1, "dash": "dot"}
    return scatter([low, high], [low, high], mode="lines", line=line, showlegend=False)


def cloud(i: int, name: str, actual: np.ndarray, predicted: np.ndarray) -> Figure:
    """Return predicted over actual values of a target, at most MOST_DOTS of them."""
    if len(actual) > MOST_DOTS:
        chosen = np.sort(np.random.default_rng(SEED).choice(len(actual), MOST_DOTS, replace=False))
        actual, predicted = actual[chosen], predicted[chosen]
    mark = {"size": 5, "color": "$1", "opacity": 0.55}
    both = np.concatenate([actual, predicted])
    dots = scatter(actual, predicted, marker=mark)
    layout = {"xaxis": titled("actual"), "yaxis": titled("predicted")}
    says = f"predicted over actual {name}"
    return Figure(f"cloud-{i}", name, says, [_diagonal(both.min(), both.max()), dots], layout, 320)


def residuals(i: int, name: str, error: np.ndarray) -> Figure:
    """Return the histogram of actual - predicted."""
    wide = np.ptp(error) > 1e-9 * np.abs(error).max()  # else numpy finds no room for the bars
    counts, edges = np.histogram(error, HISTOGRAM if wide else 1)
    middles, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    text = [
        f"{n:,} rows from {number(a)} to {number(b)}"
        for n, a, b in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
    ]
    bars = {
        "type": "bar", "x": [figures.short_number(x) for x in middles], "y": counts.tolist(),
        "width": width * 0.92, "marker": {"color": "$1"}, "text": text, "textposition": "none",
        **figures.EXPLAINED,
    }  # fmt: skip
    layout = {"xaxis": titled("actual - predicted"), "yaxis": titled("rows"), "bargap": 0}
    return Figure(f"residuals-{i}", name, f"residuals of {name}", [bars], layout, 320)


def groups(i: int, name: str, rows: Sequence[tuple[str, float, float]]) -> Figure:
    """Return the mean absolute error of a target, group by group of its actual values.

    Args:
        rows: of each group its range, the mean absolute error and the mean of predicted - actual.
    """
    ranges, errors, biases = zip(*rows, strict=True)
    text = [
        safe(f"{r}: mean error {number(e)}, bias {number(b)}")
        for r, e, b in zip(ranges, errors, biases, strict=True)
    ]
    bars = {
        "type": "bar", "x": list(range(1, len(rows) + 1)),
        "y": [figures.short_number(e) for e in errors], "marker": {"color": "$1"}, "text": text,
        "textposition": "none", **figures.EXPLAINED, "name": "mean absolute error",
    }  # fmt: skip
    line = {"color": "$2", "width": 2}
    mark = {"symbol": "diamond", "size": 7, "color": "$2"}
    bias = scatter(
        range(1, len(rows) + 1), biases, text, mode="lines+markers", line=line, marker=mark,
        name="bias (predicted - actual)",
    )  # fmt: skip
    layout = {
        "xaxis": titled("groups of actual values, lowest first", dtick=1),
        "yaxis": titled("error"),
        "showlegend": True,
    }
    return Figure(f"groups-{i}", name, f"error by size of {name}", [bars, bias], layout, 320)
