"""The plot of a walk from the default to the best config."""

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from knobs.report.conclusions import Verdict
from knobs.report.plots.figures import Figure, Section, safe, scatter, short_number, titled
from knobs.report.records import Sweep
from knobs.report.stats import LEVEL, Paired
from knobs.words import count, percent


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
        "From the default to the best",
        f"Each bar is what one more knob changed, over {count(seeds, 'paired repeat')}; the "
        f"whisker is its {percent(LEVEL)} interval. One that reaches back to the start of its bar: "
        "these repeats do not show that the change helps.",
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
