"""report.html: one page that needs nothing but itself, not even a network.

Elements are made by ElementTree, which escapes every text and attribute. What a script reads is
JSON in a block of its own, with `<` and the line separators of JavaScript escaped. The page's
policy names its scripts by their hashes and forbids everything else: no other script runs, nothing
is fetched. plotly.js lies in it compressed; it is unpacked once the verdict and the tables stand.
"""

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from knobs.report import leaderboard
from knobs.report.assemble import Report
from knobs.report.checks import Finding
from knobs.report.compare import Comparison
from knobs.report.figures import Section
from knobs.report.gather import Sweep, what_ran
from knobs.report.importance import Estimate
from knobs.report.leaderboard import Entry
from knobs.report.plots import sections
from knobs.report.text import COLUMNS, MARKS, answered, decided, effects, expected, ranked
from knobs.report.words import count, duration, listed, number, printable

SHOWN = 12  # lines of the leaderboard before "show all"
MOST = 1000  # lines in all
LONGEST = 4000  # letters of a text
STRIP = 100  # width of a leaderboard's strip of dots, in its own units
Child = ElementTree.Element | str | None


def page(report: Report) -> str:
    """The whole page as text."""
    plots = _plots(report)
    figures = [figure for section in plots for figure in section.figures]
    payload = {
        f.name: {"data": f.data, "layout": {k: v for k, v in f.layout.items() if v}}
        for f in figures
    }
    script, style = _own("page.js"), _own("page.css")
    plotly, packed = _plotly() if figures else ("", "")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; script-src {_hash(script)} {_hash(plotly)}"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{report.sweep.name} · knobs"),
        tag("style", style),
    )
    body = tag("body", *_body(report, plots))
    body.append(tag("script", _json(payload), type="application/json", id="figures"))
    body.append(tag("script", packed, type="text/plain", id="plotly"))
    body.append(tag("script", script))
    root = tag("html", head, body, lang="en")
    return f"<!doctype html>\n{ElementTree.tostring(root, 'unicode', method='html')}\n"


def tag(name: str, /, *children: Child, **attributes: str) -> ElementTree.Element:
    """An element; `class_` and `http_equiv` are written without what Python needs them to have."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    shown = {names[key]: printable(value, LONGEST) for key, value in attributes.items()}
    element = ElementTree.Element(name, shown)
    raw = name in ("script", "style")  # not escaped, and not from records
    last = None
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            text = child if raw else printable(child, LONGEST)
            if last is None:
                element.text = (element.text or "") + text
            else:
                last.tail = (last.tail or "") + text
        else:
            element.append(child)
            last = child
    return element


# ------------------------------------------------------------------ scripts
def _own(name: str) -> str:
    return resources.files("knobs.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> tuple[str, str]:
    """plotly.js as it is, and compressed to a third, in base64."""
    from plotly.offline import get_plotlyjs

    source = get_plotlyjs()
    packed = gzip.compress(source.encode(), 9, mtime=0)
    return source, base64.b64encode(packed).decode()


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(payload: Any) -> str:
    """JSON that cannot end the block it stands in."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# ------------------------------------------------------------------ from top to bottom
def _body(report: Report, plots: Sequence[Section]) -> Iterator[ElementTree.Element]:
    sweep = report.sweep
    made = [
        ("leaderboard", "Leaderboard", [*_ranked(report), _leaderboard(report)]),
        ("importance", "Which knob matters", _importance(report)),
        *((s.name, s.title, _section(s, report)) for s in plots),
        ("checks", "Checks of the sweep itself", [_findings(report.findings)]),
        ("next", "What to run next", _next(report)),
        ("reproduce", "The best run again", _reproduce(report)),
    ]
    yield _header(report, [(name, title) for name, title, content in made if content])
    main = tag("main")
    for name, title, content in made:
        if content:
            main.append(tag("section", tag("h2", title), *content, id=name))
    yield main
    read = listed([str(folder) for folder in sweep.folders], 20)
    yield tag(
        "footer", f"Made by knobs from the records in {read}. Nothing on this page is fetched."
    )


def _header(report: Report, links: Sequence[tuple[str, str]]) -> ElementTree.Element:
    sweep, answer = report.sweep, report.verdict
    question = sweep.study.question if sweep.study else ""
    short = {"paired-seeds": "Seeds", "tuning-curve": "Tuning curve", "importance": "Importance"}
    nav = [
        tag("a", short.get(name, name.replace("-", " ").capitalize()), href=f"#{name}")
        for name, _ in links
    ]
    return tag(
        "header",
        tag("p", "knobs", tag("span", f" {sweep.name}"), class_="brand"),
        tag("p", question, class_="question") if question else None,
        tag("h1", answer.headline),
        *(tag("p", sentence, class_="more") for sentence in answer.more),
        tag("dl", *_facts(sweep)),
        tag("nav", *nav, aria_label="Sections"),
    )


def _facts(sweep: Sweep) -> Iterator[ElementTree.Element]:
    runs = [run for run in sweep.runs if run.row.seconds]
    trained = sum(run.row.seconds or 0.0 for run in runs)
    seeds = {run.seed for run in sweep.runs}
    facts = [
        ("objective", f"{sweep.objective.metric}, {sweep.objective.mode}"),
        ("runs", what_ran(sweep).partition(": ")[2] if len(sweep.runs) else "none"),
        ("knobs", listed(list(sweep.short()[name] for name in sweep.knobs), 8) or "none differ"),
        ("seeds", str(len(seeds))),
        ("training time", duration(trained)),
    ]
    for name, value in facts:
        yield tag("div", tag("dt", name), tag("dd", value))


# ------------------------------------------------------------------ leaderboard
def _ranked(report: Report) -> Iterator[ElementTree.Element]:
    if told := ranked(report):
        yield tag("p", told, class_="see")


def _leaderboard(report: Report) -> ElementTree.Element:
    """A line a setting, each seed a dot; a star at the verdict's winner."""
    sweep, winner = report.sweep, report.verdict.winner
    entries = sweep.entries[:MOST]
    short = sweep.short()
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
            ("num strong" if entry.confirmed or not any_confirmed else "num", _mean(sweep, entry)),
            ("strip", _strip(entry, low, high)),
            *(("knob", leaderboard.short(entry.knobs[name])) for name in names),
            ("num", "" if entry.best_epoch is None else str(entry.best_epoch)),
            ("num", "" if entry.seconds is None else number(entry.seconds, 2)),
            *([("", entry.status)] if told else []),
        ]
        row = tag("tr", *(tag("td", cell, class_=kind) for kind, cell in cells))
        won = winner and entry.runs[0].setting == winner.runs[0].row.setting
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


def _mean(sweep: Sweep, entry: Entry) -> str:
    if entry.mean is None:
        return ""
    mean = sweep.objective.value(entry.mean)
    return mean if entry.sd is None else f"{mean} ± {number(entry.sd, 2)} ({entry.n})"


def _values(entry: Entry) -> list[float]:
    """Of the runs that finished."""
    return [r.value for r in entry.runs if r.status in leaderboard.GOOD and r.value is not None]


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
def _importance(report: Report) -> list[ElementTree.Element]:
    """Three columns of bars with their intervals."""
    found = report.importance
    if found is None:
        text = "Too few runs, or no knob that differs: nothing can be said of importance."
        return [tag("p", text, class_="see")]
    short = report.sweep.short()
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
    short = report.sweep.short()
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


# ------------------------------------------------------------------ plots
def _plots(report: Report) -> list[Section]:
    found = report.importance
    ranked = [knob.name for knob in found.knobs] if found else []
    pair = next(iter(found.interactions), None) if found else None
    return sections(report.sweep, report.verdict, ranked, pair)


def _section(section: Section, report: Report) -> list[ElementTree.Element]:
    made = [tag("p", section.see, class_="see")]
    many = len(section.figures) > 2
    grid = tag("div", class_="grid" if many else "wide")
    for figure in section.figures:
        plot = tag(
            "div", class_="plot", data_figure=figure.name, role="img", aria_label=figure.says
        )
        plot.set("style", f"height:{figure.height}px")
        caption = tag("figcaption", figure.title) if figure.title else None
        grid.append(tag("figure", caption, plot))
    made.append(grid)
    if section.name == "paired-seeds":
        made.append(_comparisons(report))
    return made


def _comparisons(report: Report) -> ElementTree.Element:
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


# ------------------------------------------------------------------ checks, next, again
def _findings(findings: Sequence[Finding]) -> ElementTree.Element:
    made = tag("ul", class_="findings")
    for finding in findings:
        mark = tag("span", MARKS[finding.level], class_="mark", aria_hidden="true")
        do = tag("strong", f" {finding.do}") if finding.do else None
        told = tag("div", tag("b", finding.check), tag("p", finding.text, do))
        made.append(tag("li", mark, told, class_=finding.level))
    return made


def _next(report: Report) -> list[ElementTree.Element]:
    if not report.advice:
        return [tag("p", "Nothing: the checks ask for no further runs.", class_="see")]
    return [
        tag("div", tag("p", advice.why), _command(advice.command), class_="advice")
        for advice in report.advice
    ]


def _command(line: str) -> ElementTree.Element:
    return tag(
        "div", tag("pre", tag("code", line)), tag("button", "Copy", class_="copy"), class_="command"
    )


def _reproduce(report: Report) -> list[ElementTree.Element]:
    found = report.recipe
    if found is None:
        return []
    on = "on the versions below; on others nearly so."
    made = [tag("p", f"{expected(report)}; {on}", class_="see")]
    if found.command:
        made.append(_command(found.command))
    else:
        text = "Its overrides hold characters that no command should: see its config.json."
        made.append(tag("p", text, class_="undecided"))
    facts = {**found.versions} | ({"config hash": found.config_hash} if found.config_hash else {})
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    made.append(tag("dl", *pairs))
    return made
