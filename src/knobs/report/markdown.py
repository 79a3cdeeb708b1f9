"""The report as Markdown; nothing from a record is markup in it."""

import html
import re
from collections.abc import Iterator

from knobs.report.conclusions import Report
from knobs.report.leaderboard import CSV
from knobs.report.sentences import MARKS, answered, cells, decided, expected, ranked, row, what_ran
from knobs.words import printable

FULL = 30  # lines of the leaderboard


def markdown(report: Report) -> str:
    """Return report.md."""
    title = f"# {escaped(report.sweep.question or report.sweep.name)}"
    return "\n".join([title, "", *answer(report), *_rest(report)]) + "\n"


def answer(report: Report) -> Iterator[str]:
    """Return the lines that come first: the verdict and the leaderboard."""
    sweep, verdict = report.sweep, report.verdict
    yield from (f"**{escaped(verdict.headline)}**", "")
    yield from (f"- {escaped(sentence)}" for sentence in verdict.more)
    yield from ("", escaped(what_ran(sweep)) + ".", "", "## Leaderboard", "")
    if basis := ranked(report):
        yield from (escaped(basis), "")
    names = list(sweep.entries[0].knobs) if sweep.entries else []
    lines = map(row, sweep.entries[:FULL])
    rows = [[*left, status] for *left, _epoch, _seconds, status in lines]
    yield from _table(["rank", sweep.objective.metric, *names, "status"], rows)
    if len(sweep.entries) > FULL:
        yield from ("", f"and {len(sweep.entries) - FULL:,} more: {CSV}")


def _rest(report: Report) -> Iterator[str]:
    if report.importance:
        yield from ("", "## Which knob matters", "")
        within = f"Among the runs of {report.about}. " if report.about else ""
        yield from (escaped(f"{within}{decided(report)}"), "")
        rows = [[knob.name, *cells(report, knob)] for knob in report.importance.knobs]
        yield from _table(["knob", *answered(report.importance)], rows)
    yield from ("", "## Checks", "")
    for finding in report.findings:
        do = f" **{escaped(finding.do)}**" if finding.do else ""
        yield f"- {MARKS[finding.level]} {finding.check}: {escaped(finding.text)}{do}"
    yield from ("", "## Next", "")
    for advice in report.advice:
        yield from (f"{escaped(advice.why)}:", "", *_code(advice.command), "")
    if not report.advice:
        yield from ("Nothing: the checks ask for no further runs.", "")
    if recipe := report.recipe:
        yield from ("## The best run again", "", escaped(f"{expected(report)}."), "")
        if recipe.command:
            yield from (*_code(recipe.command), "")
        versions = [f"{name} {version}" for name, version in recipe.versions.items()]
        yield escaped(", ".join([*versions, f"config {recipe.config_hash}"]))


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, heads))} |"
    yield f"|{'---|' * len(heads)}"
    for texts in rows:
        yield f"| {' | '.join(map(escaped, texts))} |"


def _code(line: str) -> tuple[str, str, str]:
    """Fence a command, by more backticks than it has in a row."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}bash", line, fence


def escaped(text: str) -> str:
    """Escape text so that Markdown shows it as it is, without links, formulas or entities."""
    marks = r"([\\`*_\[\]|~#$]|:(?=//))"
    return html.escape(re.sub(marks, r"\\\1", printable(text, 2000)), quote=False)
