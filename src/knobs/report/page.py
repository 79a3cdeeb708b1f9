"""report.html: one page that needs nothing but itself, not even a network.

Elements escape every text and attribute (markup.py). What a script reads is JSON in a block of its
own, with `<` and the line separators of JavaScript escaped. The page's policy names its scripts by
their hashes and forbids everything else: no other script runs, nothing is fetched. plotly.js lies
in it compressed; it is unpacked once the verdict and the tables stand.
"""

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any
from xml.etree import ElementTree

from knobs.report import tables
from knobs.report.conclusions import Finding, Report
from knobs.report.markup import tag
from knobs.report.plots.figures import Section
from knobs.report.plots.sections import sections
from knobs.report.records import Sweep
from knobs.report.sentences import MARKS, expected, what_ran
from knobs.words import duration, listed


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
        ("leaderboard", "Leaderboard", tables.leaderboard(report)),
        ("importance", "Which knob matters", tables.importance(report)),
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
    runs = [run for run in sweep.runs if run.seconds]
    trained = sum(run.seconds or 0.0 for run in runs)
    seeds = {run.seed for run in sweep.runs}
    facts = [
        ("objective", f"{sweep.objective.metric}, {sweep.objective.mode}"),
        ("runs", what_ran(sweep).partition(": ")[2] if len(sweep.runs) else "none"),
        ("knobs", listed(list(sweep.short[name] for name in sweep.knobs), 8) or "none differ"),
        ("seeds", str(len(seeds))),
        ("training time", duration(trained)),
    ]
    for name, value in facts:
        yield tag("div", tag("dt", name), tag("dd", value))


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
        made.append(tables.comparisons(report))
    return made


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
