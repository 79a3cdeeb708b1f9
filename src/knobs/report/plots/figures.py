"""Parts of a report's plots: plain plotly JSON, without plotly.

A colour is a token ("$1", "$bad", ...) that the page replaces by its own, light or dark; a token
that ends in / is thin, as bands are. Whatever a colour says, a symbol or a dash says too. A knob's
axis runs from 0 to 1, which is the range searched on the scale it was searched on. Strings are
escaped: plotly reads a few tags in them.
"""

import html
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from knobs.report.records import Knob, RunRecord, Sweep, knob_value, position
from knobs.words import printable, short

MOST_POINTS = 200  # of a curve
MOST_DOTS = 1_000  # runs of a plot that has a mark for each
COLOURS = 8  # $1 to $8
SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "star", "triangle-down", "cross", "pentagon",
)  # fmt: skip
EXPLAINED = {"hoverinfo": "text", "hovertemplate": "%{text}<extra></extra>"}


@dataclass(frozen=True)
class Figure:
    """One plot: traces and layout as plotly takes them."""

    name: str  # unique on the page
    title: str  # above it
    says: str  # the same for who cannot see it
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 260  # pixels


@dataclass(frozen=True)
class Section:
    """Plots of one kind, and what to see in them."""

    name: str
    title: str
    see: str
    figures: tuple[Figure, ...]


def look_of(i: int) -> dict[str, str]:
    """Return the colour and the mark of the i-th of several: no two of 64 share both."""
    symbol = SYMBOLS[(i + i // COLOURS) % len(SYMBOLS)]
    return {"color": f"${i % COLOURS + 1}", "symbol": symbol}


def sampled(runs: Sequence[RunRecord], sign: int, keep: str = "") -> tuple[list[RunRecord], str]:
    """Return at most MOST_DOTS runs, in their order, and how many as a sentence.

    Args:
        sign: -1 where less is better; the best run is always among them.
        keep: a setting whose runs are too.
    """
    if len(runs) <= MOST_DOTS:
        return list(runs), ""
    best = max((r for r in runs if r.value is not None), key=lambda r: sign * r.value, default=None)
    kept = [i for i, r in enumerate(runs) if r is best or r.setting == keep][:MOST_DOTS]
    others = sorted({*range(len(runs))} - {*kept})
    chosen = {*kept, *random.Random(0).sample(others, MOST_DOTS - len(kept))}
    shown = [run for i, run in enumerate(runs) if i in chosen]
    return shown, f"{len(shown):,} of {len(runs):,} runs shown, chosen at random. "


def titled(text: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": safe(text)}, **more}


def safe(text: Any) -> str:
    """Return text that plotly shows as it is."""
    return html.escape(printable(str(text), 60), quote=False)


def axis(knob: Knob, tried: Sequence[Any], title: str = "") -> dict[str, Any]:
    """Return the knob's axis: its choices, the few values tried, or round numbers."""
    if knob.choices is not None:
        ends, values, texts = [0, 1], knob.choices, list(map(safe, knob.choices))
    else:
        ends, distinct = [-0.06, 1.06], sorted({*tried})
        values = distinct if len(distinct) <= 5 else round_numbers(knob)
        texts = [f"{value:g}" for value in values]
    return {
        "range": ends,
        "tickvals": [position(knob, value) for value in values],
        "ticktext": texts,
        "title": {"text": safe(title)} if title else None,
    }


def round_numbers(knob: Knob, least: int = 3) -> list[float]:
    """Return values to label within the bounds: powers of 10 or 2 on a log scale, or even steps."""
    low, high = knob.low, knob.high
    if not knob.log:
        step = 10 ** math.floor(math.log10((high - low) / 2))
        step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
        first = math.ceil(low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
    for base in (10, 2):
        first = math.ceil(math.log(low, base) - 1e-9)
        last = math.floor(math.log(high, base) + 1e-9)
        if last - first + 1 >= least:
            every = max(1, math.ceil((last - first + 1) / 6))
            return [float(base) ** i for i in range(first, last + 1, every)]
    return [low, high]


def round_ticks(low: float, high: float, fewest: int = 4) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of 10 from low to high, `fewest` or more."""
    power = 10.0 ** math.floor(math.log10((high - low) / fewest))
    steps = (m * power for m in (1, 2, 5))
    step = max((step for step in steps if (high - low) / step >= fewest), default=power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def scale(sweep: Sweep, values: Sequence[float]) -> tuple[float, float]:
    """Return the range to show: the better three quarters in full, the rest at the edge."""
    ordered = sorted(values, key=lambda value: -sweep.objective.sign * value)
    best, worst = ordered[0], ordered[-1]
    quarter = ordered[min(len(ordered) - 1, (3 * len(ordered)) // 4)]
    reach = 1.6 * abs(best - quarter) or abs(best - worst) or abs(best) * 0.1 or 1.0
    edge = max(best - reach, worst) if sweep.objective.sign > 0 else min(best + reach, worst)
    return best, edge


def objective_axis(sweep: Sweep, best: float, edge: float) -> dict[str, Any]:
    """Return the objective's axis, with room at the edge for what lies beyond."""
    room = 0.1 * (best - edge) or (0.01 * abs(best) or 1.0) * sweep.objective.sign
    ends = sorted([best + room, edge - 1.6 * room])
    return titled(sweep.objective.metric, range=ends)


def told(sweep: Sweep, run: RunRecord, knobs: Sequence[Knob]) -> str:
    """Return what a run shows when pointed at."""
    value = sweep.objective.value(run.value) if run.value is not None else run.status
    names = [knob.name for knob in knobs[:6]]
    settings = [f"{sweep.short(name)} {short(knob_value(run, name))}" for name in names]
    return "<br>".join(map(safe, [f"run {run.id}: {value}", *settings]))


def scatter(
    x: Iterable[float], y: Iterable[float], text: Iterable[str] | None = None, **look: Any
) -> dict[str, Any]:
    """Return a trace of points, or lines by `mode`; each shows its escaped text if pointed at."""
    hover = {"hoverinfo": "skip"} if text is None else {"text": list(text), **EXPLAINED}
    xs, ys = (list(map(short_number, values)) for values in (x, y))
    return {"type": "scatter", "mode": "markers", "x": xs, "y": ys, **hover, **look}


def band(x0: float, x1: float) -> dict[str, Any]:
    """Return a shaded stripe behind the points."""
    place = {"xref": "x", "yref": "paper", "x0": x0, "x1": x1, "y0": 0, "y1": 1}
    return {"type": "rect", **place, "fillcolor": "$edge", "line": {"width": 0}, "layer": "below"}


def short_number(value: float) -> float:
    """Return six digits, for a page is as large as its numbers are long; counts as they are."""
    return value if isinstance(value, int) else float(f"{float(value):.6g}")
