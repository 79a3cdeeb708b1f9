"""report.html of a sweep: page.html is its template, frame.py puts it into one page."""

from collections.abc import Iterator
from typing import Any

from knobs.report.conclusions import Estimate, Report
from knobs.report.frame import render
from knobs.report.plots.sections import sections as plots
from knobs.report.sections import sections
from knobs.report.sentences import MARKS, answered, what_ran
from knobs.words import count, duration, listed, number, percent

SHOWN = 12  # lines of the leaderboard before "show all"
MOST = 1000  # lines in all


def page(report: Report) -> str:
    """Return the whole page as text."""
    plotted = plots(report)
    shown = (about, answered, bars, count, leaderboard, listed, number, pairs)
    return render(
        "page.html",
        [figure for section in plotted for figure in section.figures],
        report=report,
        plots=plotted,
        sections=sections(report),
        marks=MARKS,
        **{f.__name__: f for f in shown},
    )


def about(report: Report) -> dict[str, str]:
    """Return the facts below the verdict."""
    sweep = report.sweep
    return {
        "objective": f"{sweep.objective.metric}, {sweep.objective.mode}",
        "runs": what_ran(sweep).partition(": ")[2] or "none",
        "knobs": listed(list(map(sweep.short, sweep.knobs)), 8) or "none differ",
        "seeds": str(len({run.seed for run in sweep.runs})),
        "training time": duration(sum(run.seconds or 0.0 for run in sweep.runs)),
    }


def leaderboard(report: Report) -> dict[str, Any]:
    """Return what the page adds to the leaderboard: the places of each setting's dots."""
    sweep, winner = report.sweep, report.verdict.winner
    entries = sweep.entries[:MOST]
    won = winner and winner.runs[0].setting
    values = [[e.mean, *(run.value for run in e.runs if run.ok)] for e in entries]
    first = [group for group in values if group[0] is not None][: 3 * SHOWN]
    low, high = min(map(min, first), default=0.0), max(map(max, first), default=1.0)
    room = 0.08 * (high - low) or 1e-9
    dots = [_dots(group, low - room, high + room) for group in values]
    winners = [entry.runs[0].setting == won for entry in entries]
    return {
        "rows": list(zip(entries, dots, winners, strict=True)),
        "knobs": len(entries[0].knobs) if entries else 0,
        "shown": SHOWN,
        "more": len(sweep.entries) - MOST,
        "confirmed": any(entry.confirmed for entry in entries),
    }


def _dots(values: list[float | None], low: float, high: float) -> list[float]:
    """Return the places of a setting's mean and of its runs from 0 to 100, without those beyond."""
    if values[0] is None or not low <= values[0] <= high:
        return []
    return [round(100 * (v - low) / (high - low), 1) for v in values if low <= v <= high]


def bars(report: Report) -> Iterator[tuple[str, str, list[dict[str, Any] | None]]]:
    """Yield each knob's name, its short name, and a bar for each of its effects."""
    amount = report.sweep.objective.amount
    knobs = report.importance.knobs
    most = max((knob.gain.high for knob in knobs if knob.gain), default=0.0) or 1.0
    scales = [(1.0, percent), (1.0, percent), (most, amount)][: len(answered(report.importance))]
    for knob in knobs:
        scaled = zip((knob.breaks, knob.moves, knob.gain), scales, strict=False)
        yield knob.name, report.sweep.short(knob.name), [_bar(e, *scale) for e, scale in scaled]


def _bar(effect: Estimate | None, top: float, say: Any) -> dict[str, Any] | None:
    """Return an effect and its interval, as texts and as shares of a bar's length."""
    if effect is None:
        return None
    ends = (effect.value, effect.low, effect.high)
    value, low, high = (min(100.0, max(0.0, 100 * end / top)) for end in ends)
    places = {"width": round(value, 1), "start": round(low, 1), "reach": round(high - low, 1)}
    return places | dict(zip(("value", "low", "high"), map(say, ends), strict=True))


def pairs(report: Report) -> list[str]:
    """Return the three pairs of knobs that matter most as pairs."""
    sweep = report.sweep
    return [
        f"{sweep.short(a)} with {sweep.short(b)} {percent(e.value)} "
        f"({percent(e.low)} to {percent(e.high)})"
        for (a, b), e in report.importance.interactions.items()
        if e.low > 0
    ][:3]
