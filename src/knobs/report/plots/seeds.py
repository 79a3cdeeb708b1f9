"""Plots of what was confirmed: seed by seed, and from the default to the best."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from knobs.report.conclusions import Comparison, Verdict
from knobs.report.plots.figures import Figure, Section, band, safe, scatter, short_number, titled
from knobs.report.records import Sweep
from knobs.report.stats import Paired
from knobs.words import count, listed

MOST_LANES = 12


def paired_section(sweep: Sweep, verdict: Verdict) -> Section | None:
    """Show the winner's lead, seed by seed."""
    shown = _shown(verdict)
    if not shown:
        return None
    unit = 100 if sweep.objective.in_points else 1
    data = _leads(sweep, shown, unit)
    reached = [end for c in shown for end in (c.paired.low, c.paired.mean, c.paired.high)]
    ends = [0.0, *data[0]["x"], *(unit * end for end in reached if end is not None)]
    room = 0.05 * (max(ends) - min(ends) or 1)
    names = [c.other.name for c in shown]
    title = f"lead of {safe(verdict.winner.name)}" + (", points" if unit == 100 else "")
    zero = band(0, 0) | {"type": "line", "line": {"color": "$ink", "width": 1}, "layer": "above"}
    noise = verdict.noise.sd
    layout = {
        "xaxis": {"range": [min(ends) - room, max(ends) + room], "title": {"text": title}},
        "yaxis": _lanes(list(map(safe, names))),
        "shapes": [zero, *([band(-unit * noise, unit * noise)] if noise else [])],
        "showlegend": True,
    }
    says = f"difference of {verdict.winner.name} to each of {listed(names)}, seed by seed"
    return Section(
        "paired-seeds",
        "Seed by seed",
        "Right of the line it is ahead. An open diamond: no difference at this budget, as the bar "
        "(the simultaneous interval) crosses the line. The shaded stripe is one seed standard "
        "deviation to either side.",
        (Figure("paired-seeds", "", says, data, layout, 110 + 34 * len(shown)),),
    )


def _shown(verdict: Verdict) -> list[Comparison]:
    """Return the nearest settings, and always the default, which comes last."""
    paired = [c for c in verdict.comparisons if c.paired and c.paired.n > 1]
    default = [c for c in paired if c.other is verdict.default]
    rest = [c for c in paired if c.other is not verdict.default]
    return [*rest[: MOST_LANES - len(default)], *default]


def _leads(sweep: Sweep, shown: Sequence[Comparison], unit: int) -> list[dict[str, Any]]:
    """Return the differences of each seed, and their means."""
    points = [
        (unit * d, lane, safe(f"{c.other.name}, {name}: {sweep.objective.amount(d)}"))
        for lane, c in enumerate(shown)
        for name, d in zip(c.paired.names, c.paired.differences, strict=True)
    ]
    reaches = [[unit * end for end in _reach(c.paired)] for c in shown]
    apart = [c.relation in ("beaten", "ahead") for c in shown]
    symbols = ["diamond" if yes else "diamond-open" for yes in apart]
    says = (f"{c.other.name}: {sweep.objective.amount(c.paired.mean)}, {c.relation}" for c in shown)
    means = [unit * c.paired.mean for c in shown]
    return [
        scatter(
            *zip(*points, strict=True),
            name="one validation split" if any(c.paired.splits for c in shown) else "one seed",
            marker={"symbol": "circle-open", "size": 7, "color": "$muted"},
        ),
        scatter(
            *(means, range(len(shown)), map(safe, says)),
            name="mean and its interval",
            error_x=_whiskers(reaches, color="$1", thickness=3, width=0),
            marker={"symbol": symbols, "size": 11, "color": "$1"},
        ),
    ]


def ablation_section(sweep: Sweep, verdict: Verdict) -> Section | None:
    """Show the way from the default to the best, one knob at a time."""
    steps = verdict.steps
    if not steps:
        return None
    objective = sweep.objective
    means = [statistics.mean(step.values.values()) for step in steps]
    gains = [  # over the seeds that both have, if there are any
        objective.sign * step.gain.mean if step.gain else after - before
        for step, (before, after) in zip(steps[1:], pairwise(means), strict=True)
    ]
    reaches = [_reach(step.gain, objective.sign) for step in steps[1:]]
    names, texts = ["default"], []
    for step, gain in zip(steps[1:], gains, strict=True):
        signed = f"{'+' if gain > 0 else ''}{objective.amount(gain, unit=False)}"
        names.append(f"{safe(sweep.short(step.knob))}  {signed}")
        texts.append(safe(f"{step.knob}: {objective.amount(gain)}"))
    spans = [end for m, (a, b) in zip(means[1:], reaches, strict=True) for end in (m - a, m + b)]
    low, high = min(*means, *spans), max(*means, *spans)
    room = 0.08 * (high - low or 0.01)
    ends = means[0], means[-1]
    beside = ["middle right" if 2 * m < low + high else "middle left" for m in ends]
    diamond = {"symbol": "diamond", "size": 12, "color": "$1"}
    data = [
        _bars(means, gains, objective.sign),
        scatter(
            *(means[1:], range(1, len(steps)), texts),
            marker={"symbol": "line-ns", "size": 1, "color": "$ink"},
            error_x=_whiskers(reaches, color="$ink", thickness=1.5, width=5),
        ),
        scatter(ends, (0, len(steps)), mode="markers+text", marker=diamond)
        | {"text": [objective.value(m) for m in ends], "textposition": beside},
    ]
    names.append("best")
    xaxis = titled(objective.metric, range=[low - room, high + room])
    layout = {"xaxis": xaxis, "yaxis": _lanes(names)}
    seeds = min(len(step.values) for step in steps)
    says = f"{objective.metric} from the default to the best config, one knob at a time"
    return Section(
        "ablation",
        "From the default to the best, one knob at a time",
        f"Each bar is what one more change gave, over {count(seeds, 'paired repeat')}; the whisker "
        "is its interval. A change whose whisker reaches back to its start can be left out.",
        (Figure("ablation", "", says, data, layout, 70 + 30 * len(names)),),
    )


def _bars(means: Sequence[float], gains: Sequence[float], sign: int) -> dict[str, Any]:
    better = [sign * gain >= 0 for gain in gains]
    colors = ["$3" if yes else "$bad" for yes in better]
    return {
        "type": "bar",
        "orientation": "h",
        "y": list(range(1, len(means))),
        "x": [short_number(gain) for gain in gains],
        "base": [short_number(mean) for mean in means[:-1]],
        "marker": {"color": colors, "pattern": {"shape": ["" if yes else "/" for yes in better]}},
        "hoverinfo": "skip",
    }


def _lanes(names: Sequence[str]) -> dict[str, Any]:
    """Return a vertical axis with a lane a name, the first on top."""
    values, ends = list(range(len(names))), [len(names) - 0.4, -0.6]
    return {"tickvals": values, "ticktext": list(names), "range": ends, "showgrid": False}


def _whiskers(reaches: Sequence[tuple[float, float]], **look: Any) -> dict[str, Any]:
    below, above = ([short_number(reach[i]) for reach in reaches] for i in (0, 1))
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, **look}


def _reach(pairs: Paired | None, sign: int = 1) -> tuple[float, float]:
    """Return how far an interval reaches below and above its mean, as the metric counts."""
    if pairs is None or pairs.low is None:
        return 0.0, 0.0
    reach = pairs.mean - pairs.low, pairs.high - pairs.mean
    return reach if sign > 0 else reach[::-1]
