"""report.html of a sweep: page.html is its template, frame.py puts it into one page."""

from collections.abc import Iterator
from typing import Any

from knobs.report.conclusions import Estimate, Report
from knobs.report.frame import render
from knobs.report.leaderboard import CSV
from knobs.report.plots.deciding import Deciding, deciding
from knobs.report.plots.sections import sections as plots
from knobs.report.records import Entry
from knobs.report.sections import Section, sections
from knobs.report.sentences import MARKS, answered, spent, what_ran
from knobs.report.stats import LEVEL
from knobs.words import count, listed, percent

SHOWN = 12  # lines of the leaderboard before "show all"
MOST = 1000  # lines of a table in all


def page(report: Report) -> str:
    """Return the whole page as text."""
    plotted = plots(report)
    shown = (about, answered, arms, bars, boards, count, deciding, listed, pairs, reading, rest)
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
        "spent": spent(sweep),
    }


def arms(report: Report) -> bool:
    """Return whether the report compares the arms of a study, not settings."""
    return bool(report.sweep.study) and len(report.sweep.study.arms) > 1


def reading(report: Report, plot: Deciding) -> Iterator[str]:
    """Yield how to read the plot that decides, and the terms in it."""
    what = "setting"
    if arms(report):
        what, nuisance = "arm", list(map(report.sweep.short, report.sweep.knobs))
        yield "An arm is one of the values compared" + (
            f"; its nuisance knobs ({listed(nuisance)}) are tuned within it and not asked about."
            if nuisance
            else "."
        )
    yield f"Right of the line the {what} on top is better."
    yield "A circle is one paired difference, on top one run beside the mean of its runs."
    if any(row.low is not None for row in plot.rows):
        yield (
            f"A bar is the {percent(LEVEL)} interval of the mean difference: the true differences "
            "that these pairs are compatible with. The diamond is filled where that decides."
        )
    else:
        yield "Too few pairs for an interval: nothing is decided by these differences."
    if plot.noise:
        yield "The shaded stripe is one seed standard deviation of a single run."
    if plot.hidden:
        shown = len(plot.rows) - 1
        yield f"{shown:,} of {shown + plot.hidden:,} are shown, the nearest and the default."


def rest(sections: list[Section]) -> list[Section]:
    """Return them without what follows next where the answer shows all of it."""
    return [s for s in sections if s.name != "next" or len(s.advice) != 1]


def boards(report: Report) -> list[dict[str, Any]]:
    """Return the tables of settings: those with fresh seeds, and those that were explored."""
    sweep, winner = report.sweep, report.verdict.winner
    won = winner and winner.runs[0].setting
    every = list(enumerate(sweep.entries))
    groups = [[(i, e) for i, e in every if e.confirmed is fresh] for fresh in (True, False)]
    several = all(groups)
    titles = ("Confirmed, with fresh seeds", "Explored by the search") if several else ("", "")
    values = [_values(e) for _, e in groups[0] or every[: 3 * SHOWN] if e.mean is not None]
    low, high = min(map(min, values), default=0.0), max(map(max, values), default=1.0)
    room = 0.08 * (high - low) or 1e-9
    return [
        {
            "title": title,
            "rows": [
                (i, e, _dots(e, low - room, high + room), e.runs[0].setting == won)
                for i, e in group[:MOST]
            ],
            "knobs": len(sweep.entries[0].knobs),
            "shown": SHOWN,
            "strong": title == titles[0],
            "see": _left_out(len(group)),
        }
        for title, group in zip(titles, groups, strict=True)
        if group
    ]


def _left_out(settings: int) -> str:
    more = settings > MOST
    return f"The best {MOST:,} of {settings:,} settings are shown; all are in {CSV}." * more


def _values(entry: Entry) -> list[float]:
    """Return a setting's mean and the values of its runs."""
    return [entry.mean, *(run.value for run in entry.runs if run.ok)]


def _dots(entry: Entry, low: float, high: float) -> dict[str, Any]:
    """Return the places of a setting's mean and runs, 0 to 100; on which side a mean is beyond."""
    if entry.mean is None:
        return {}
    places = [round(100 * (v - low) / (high - low), 1) for v in _values(entry)]
    runs = [place for place in places[1:] if 0 <= place <= 100]
    beyond = "left" if places[0] < 0 else "right" if places[0] > 100 else ""
    return {"mean": places[0], "runs": runs, "beyond": beyond}


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
