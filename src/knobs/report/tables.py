"""The tables of a page: the leaderboard, which knob matters, the comparisons in numbers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from knobs.report.conclusions import Comparison, Estimate, Report
from knobs.report.markup import tag
from knobs.report.records import Entry
from knobs.report.sentences import COLUMNS, answered, decided, effects, ranked
from knobs.words import count, listed, number, printable, score
from knobs.words import short as typed

SHOWN = 12  # lines of the leaderboard before "show all"
MOST = 1000  # lines in all
STRIP = 100  # width of a leaderboard's strip of dots, in its own units


# ------------------------------------------------------------------ leaderboard
def leaderboard(report: Report) -> list[ElementTree.Element]:
    """A line a setting, each seed a dot; a star at the verdict's winner."""
    told = ranked(report)
    return [*([tag("p", told, class_="see")] if told else []), _lines(report)]


def _lines(report: Report) -> ElementTree.Element:
    sweep, winner = report.sweep, report.verdict.winner
    entries = sweep.entries[:MOST]
    short = sweep.short
    names = list(entries[0].knobs) if entries else []
    told = any(entry.status != "finished" for entry in entries)
    any_confirmed = any(entry.confirmed for entry in entries)
    heads = ["rank", sweep.objective.metric, "", *(short[n] for n in names), "epoch", "seconds"]
    heads += ["status"] if told else []
    first = [entry for entry in entries if entry.mean is not None][: 3 * SHOWN]
    low, high = _span([value for entry in first for value in (entry.mean, *_values(entry))])
    body = tag("tbody")
    for i, entry in enumerate(entries):
        cells = [
            ("num", "-" if entry.rank is None else str(entry.rank)),
            (
                "num strong" if entry.confirmed or not any_confirmed else "num",
                score(entry.mean, entry.sd, entry.n),
            ),
            ("strip", _strip(entry, low, high)),
            *(("knob", typed(entry.knobs[name])) for name in names),
            ("num", "" if entry.best_epoch is None else str(entry.best_epoch)),
            ("num", "" if entry.seconds is None else number(entry.seconds, 2)),
            *([("", entry.status)] if told else []),
        ]
        row = tag("tr", *(tag("td", cell, class_=kind) for kind, cell in cells))
        won = winner and entry.runs[0].setting == winner.runs[0].setting
        kinds = {"late": i >= SHOWN, "gone": entry.rank is None, "won": won}
        row.set("class", " ".join(kind for kind, so in kinds.items() if so))
        body.append(row)
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    table = tag("table", tag("thead", head), body, class_="sortable")
    content = tag("div", tag("div", table, class_="scroll", tabindex="0"), class_="short")
    if len(entries) > SHOWN:
        content.append(tag("button", f"Show all {count(len(entries), 'setting')}", class_="all"))
    if len(sweep.entries) > MOST:
        content.append(
            tag("p", f"{len(sweep.entries) - MOST:,} more: leaderboard.csv", class_="see")
        )
    return content


def _values(entry: Entry) -> list[float]:
    """Of the runs that finished."""
    return [run.value for run in entry.runs if run.ok]


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest, with some room."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.08 * (high - low) or 1e-9
    return low - room, high + room


def _strip(entry: Entry, low: float, high: float) -> ElementTree.Element | None:
    """The runs of a setting as dots on the scale of the best settings, their mean as a line."""
    if entry.mean is None or not low <= entry.mean <= high:
        return None
    places = [
        STRIP * (value - low) / (high - low) for value in _values(entry) if low <= value <= high
    ]
    middle = f"{STRIP * (entry.mean - low) / (high - low):.1f}"
    svg = tag("svg", viewBox=f"0 0 {STRIP} 12", aria_hidden="true")
    svg.append(tag("path", d=f"M0 6H{STRIP}", class_="rail"))
    svg.extend(tag("circle", cx=f"{x:.1f}", cy="6", r="2.2") for x in places)
    svg.append(tag("path", d=f"M{middle} 1V11", class_="mean"))
    return svg


# ------------------------------------------------------------------ importance
def importance(report: Report) -> list[ElementTree.Element]:
    """Three columns of bars with their intervals."""
    found = report.importance
    if found is None:
        text = "Too few runs, or no knob that differs: nothing can be said of importance."
        return [tag("p", text, class_="see")]
    short = report.sweep.short
    columns = answered(found)
    see = (
        "Breaks it: the share of a knob in which runs diverge or fail. Moves it: its share in how "
        "good the runs are that work, together with other knobs. "
    )
    if len(columns) == len(COLUMNS):
        see += "Worth tuning: what freeing this knob alone is predicted to gain over the default. "
    see += "Thin lines are 90 % intervals."
    gains = [knob.gain.high for knob in found.knobs if knob.gain]
    tops = (1.0, 1.0, max(gains, default=0.0) or 1.0)
    says = (_share, _share, report.sweep.objective.amount)
    body = tag("tbody")
    for knob in found.knobs:
        name = short.get(knob.name, knob.name)
        bars = map(_bar, effects(knob)[: len(columns)], tops, says)
        row = tag("tr", tag("th", name, scope="row", title=printable(knob.name)))
        row.extend(tag("td", bar) for bar in bars)
        body.append(row)
    heads = ("knob", *columns)
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    table = tag("table", tag("thead", head), body, class_="bars")
    within = f"Among the runs of {report.about}. " if report.about else ""
    return [
        tag("p", decided(report), class_="undecided"),
        tag("p", f"{within}{see}", class_="see"),
        tag("div", table, class_="scroll", tabindex="0"),
        *_together(report),
    ]


def _together(report: Report) -> Iterator[ElementTree.Element]:
    """The pairs of knobs that matter as pairs."""
    short = report.sweep.short
    pairs = [(pair, e) for pair, e in report.importance.interactions.items() if e.low > 0][:3]
    if pairs:
        told = [
            f"{short.get(a, a)} with {short.get(b, b)} {_share(e.value)} "
            f"({_share(e.low)} to {_share(e.high)})"
            for (a, b), e in pairs
        ]
        yield tag("p", f"Moved together: {listed(told)}.", class_="see")


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _bar(
    effect: Estimate | None, top: float, say: Callable[[float], str]
) -> ElementTree.Element | None:
    """A bar, and a thin line over its interval."""
    if effect is None:
        return tag("span", "-", class_="none")
    ends = [min(100.0, max(0.0, 100 * v / top)) for v in (effect.value, effect.low, effect.high)]
    value, low, high = ends
    bar = tag("span", class_="fill", style=f"width:{value:.1f}%")
    line = tag("span", class_="whisker", style=f"left:{low:.1f}%;width:{max(0.0, high - low):.1f}%")
    label = tag("span", say(effect.value), class_="label")
    title = f"{say(effect.low)} to {say(effect.high)}"
    return tag("span", tag("span", bar, line, class_="bar"), label, class_="effect", title=title)


# ------------------------------------------------------------------ comparisons
def comparisons(report: Report) -> ElementTree.Element:
    """The same in numbers."""
    say = report.sweep.objective.amount
    body = tag("tbody")
    for c in report.verdict.comparisons:
        if c.paired:
            body.append(tag("tr", *(tag("td", cell) for cell in _row(c, say))))
    heads = ("", "lead", "95 % interval", "p", "seeds", "so it is")
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    note = (
        "Intervals are Student's, of the mean paired difference, each for itself. p is two-sided, "
        "by shuffling within seeds; where an interval lies above 0 it allows for all settings down "
        "to that one, of which the winner was picked as the best."
    )
    table = tag("div", tag("table", tag("thead", head), body), class_="scroll", tabindex="0")
    return tag("details", tag("summary", "In numbers"), tag("p", note, class_="see"), table)


def _row(c: Comparison, say: Any) -> Iterable[str]:
    pairs = c.paired
    told = {"level": "indistinguishable", "ahead": "worse, more seeds needed", "beaten": "worse"}
    span = "" if pairs.low is None else f"{say(pairs.low, unit=False)} to {say(pairs.high)}"
    return (
        c.other.name,
        say(pairs.mean),
        span,
        number(pairs.p) if pairs.n > 1 else "",
        str(pairs.n),
        told.get(c.relation, "not known"),
    )
