"""The report as Markdown; nothing from a record is markup in it."""

import html
import re
from collections.abc import Iterable, Iterator

from knobs.report.conclusions import Report
from knobs.report.leaderboard import CSV
from knobs.report.sections import Section, leaderboard, sections
from knobs.report.sentences import MARKS, spent, what_ran
from knobs.words import printable

FULL = 30  # lines of the leaderboard


def markdown(report: Report) -> str:
    """Return report.md."""
    title = f"# {escaped(report.sweep.question or report.sweep.name)}"
    rest = (line for section in sections(report)[1:] for line in _section(section))
    return "\n".join([title, "", *answer(report), *rest])


def answer(report: Report) -> Iterator[str]:
    """Return the lines that come first: the verdict and the leaderboard."""
    yield from (f"**{escaped(report.verdict.headline)}**", "")
    yield from (f"- **{escaped(sentence)}**" for sentence in report.verdict.undermines)
    yield from (f"- {escaped(sentence)}" for sentence in report.verdict.more)
    told = (what_ran(report.sweep), f"Spent: {spent(report.sweep)}")
    yield from ("", " ".join(escaped(text) + "." for text in told), "")
    yield from _section(leaderboard(report))


def _section(section: Section) -> Iterator[str]:
    yield from (f"## {escaped(section.title)}", "")
    for text in section.texts:
        yield from (escaped(text), "")
    if section.heads:
        yield _row(section.heads)
        yield f"|{'---|' * len(section.heads)}"
        yield from map(_row, section.rows[:FULL])
        more = len(section.rows) - FULL
        yield from ("", f"and {more:,} more: {CSV}", "") if more > 0 else ("",)
    for finding in section.findings:
        do = f" **{escaped(finding.do)}**" if finding.do else ""
        yield f"- {MARKS[finding.level]} {finding.check}: {escaped(finding.text)}{do}"
    yield from [""] * bool(section.findings)
    for advice in section.advice:
        yield from (f"{escaped(advice.why)}:", "") if advice.why else ()
        yield from (*_code(advice.command), "")
    if section.facts:
        yield from (escaped(", ".join(map(" ".join, section.facts.items()))), "")


def _row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(map(escaped, texts))} |"


def _code(line: str) -> tuple[str, str, str]:
    """Fence a command, by more backticks than it has in a row."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}bash", line, fence


def escaped(text: str) -> str:
    """Escape text so that Markdown shows it as it is, without links, formulas or entities."""
    marks = r"([\\`*_\[\]|~#$]|:(?=//))"
    return html.escape(re.sub(marks, r"\\\1", printable(text, 2000)), quote=False)
