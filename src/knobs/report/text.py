"""The report for a terminal, in one screen, and as report.md."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs.report import leaderboard
from knobs.report.assemble import Report
from knobs.report.gather import what_ran
from knobs.report.importance import Estimate, Importance, KnobImportance
from knobs.report.words import count, number, printable

MARKS = {"act": "!", "note": "·", "ok": "✓"}
TOP = 5
FULL = 30  # lines of report.md's leaderboard
COLUMNS = ("breaks it", "moves it", "worth tuning")


# ------------------------------------------------------------------ importance, as all show it
def effects(knob: KnobImportance) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """A knob's three answers, in the order of COLUMNS."""
    return knob.breaks, knob.moves, knob.gain


def answered(found: Importance) -> tuple[str, ...]:
    """COLUMNS, without the gain where no default was run that lies within the ranges."""
    return COLUMNS if any(knob.gain for knob in found.knobs) else COLUMNS[:2]


def decided(report: Report) -> str:
    """`lr moves the result most`, or `not decided; about 40 more runs`."""
    found, short = report.importance, report.sweep.short()
    first = found.knobs[0]
    if len(found.knobs) == 1:
        return f"{short.get(first.name, first.name)} is the only knob that was searched."
    name, share = (
        short.get(first.name, first.name),
        f"probability {min(99, round(100 * first.p_top))} %",
    )
    if found.decided == "sure":
        return f"{name} moves the result most ({share})."
    if found.decided == "said":
        return f"{name} probably moves the result most ({share})."
    more = f"about {count(found.more, 'more run')} would tell" if found.more else "about equal"
    return f"Which knob moves the result most is not decided; {more}."


def ranked(report: Report) -> str:
    """What the ranks of a study rest on; "" where nothing was confirmed."""
    entries = [entry for entry in report.sweep.entries if entry.rank is not None]
    first = sum(entry.confirmed for entry in entries)
    if not first or first == len(entries):
        return ""
    return (
        f"{count(first, 'setting')} ran again with fresh seeds and rank{'s' * (first == 1)} by "
        f"these alone; {count(len(entries) - first, 'other')} behind, by the search's own runs."
    )


def expected(report: Report) -> str:
    """`Run 3: expect val/accuracy 0.9722`, and how lucky that run was."""
    found, objective = report.recipe, report.sweep.objective
    text = f"Run {found.run}: expect {objective.metric} {objective.value(found.value)}"
    winner = report.verdict.winner
    if len(winner.values) < 2:
        return text
    return f"{text}, the best of {len(winner.values)} seeds (mean {objective.value(winner.mean)})"


# ------------------------------------------------------------------ the terminal
def show(console: Console, report: Report, page: Path | None = None) -> None:
    """Verdict, best settings, importance, findings and the next command, in one screen.

    Args:
        console: of any size; less is told where there is little room.
        page: where report.html was written.
    """
    for depth in range(TOP, 0, -1):
        with console.capture() as captured:
            _show(console, report, page, depth)
        text = captured.get()
        lengths = [Text.from_ansi(line).cell_len for line in text.splitlines()]
        if sum(-(-max(1, length) // console.width) for length in lengths) < console.height:
            break
    console.file.write(text)


def _show(console: Console, report: Report, page: Path | None, depth: int) -> None:
    """The screen with so much of everything."""
    sweep, answer = report.sweep, report.verdict
    gap = console.print if depth > 1 else lambda: None
    console.print(_line(f"{sweep.name}  {what_ran(sweep)}"), style="dim")
    console.print(_line(answer.headline), style="bold")
    for sentence in answer.more if depth > 2 else answer.more[-1:]:
        console.print(_line(sentence))
    gap()
    leaderboard.show(console, list(sweep.entries[:depth]))
    if depth == TOP and (told := ranked(report)):
        console.print(_line(told), style="dim")
    if report.importance:
        gap()
        console.print(_importance_table(report, depth))
        console.print(_line(decided(report)))
    found = [finding for finding in report.findings if finding.level != "ok"]
    if found:
        gap()
    for finding in found[: depth - 1 or 1]:
        style = "yellow" if finding.level == "act" else ""
        console.print(
            _line(f"{MARKS[finding.level]} {finding.text} {finding.do}".rstrip()), style=style
        )
    gap()
    if report.advice:
        first = report.advice[0]
        console.print(_line(f"next: {first.why}"))
        console.print(_line(f"  {first.command}"), soft_wrap=True, style="cyan")
    if page:
        console.print(_line(f"page: {page}"), soft_wrap=True)


def _line(text: str) -> Text:
    """Text that says nothing to a terminal but itself, and no markup."""
    return Text(printable(text, 2000))


def _importance_table(report: Report, most: int) -> Table:
    found, short = report.importance, report.sweep.short()
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = answered(found)
    for i, head in enumerate(("knob", *columns)):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for knob in found.knobs[:most]:
        cells = [short.get(knob.name, knob.name), *_effects(report, knob)]
        table.add_row(*map(_line, cells[: 1 + len(columns)]))
    return table


def _effects(report: Report, knob: KnobImportance) -> Iterator[str]:
    """A knob's three cells: `34 % (10 to 51)`."""
    amount = report.sweep.objective.amount
    for i, effect in enumerate(effects(knob)):
        if effect is None:
            yield "-"
        elif i < 2:
            yield f"{100 * effect.value:.0f} % ({100 * effect.low:.0f} to {100 * effect.high:.0f})"
        else:
            span = f"{amount(effect.low, unit=False)} to {amount(effect.high, unit=False)}"
            yield f"{amount(effect.value)} ({span})"


# ------------------------------------------------------------------ report.md
def markdown(report: Report) -> str:
    """The report as Markdown; nothing from a record is markup in it."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: Report) -> Iterator[str]:
    sweep, answer = report.sweep, report.verdict
    question = sweep.study.question if sweep.study else ""
    yield from (f"# {escaped(question or sweep.name)}", "", f"**{escaped(answer.headline)}**", "")
    for sentence in answer.more:
        yield f"- {escaped(sentence)}"
    yield from ("", escaped(what_ran(sweep)) + ".", "", "## Leaderboard", "")
    yield from _leaderboard(report)
    if report.importance:
        yield from ("", "## Which knob matters", "")
        within = f"Among the runs of {report.about}. " if report.about else ""
        yield escaped(f"{within}{decided(report)}")
        heads = ["knob", *answered(report.importance)]
        cells = ([knob.name, *_effects(report, knob)] for knob in report.importance.knobs)
        yield from ("", *_table(heads, [row[: len(heads)] for row in cells]))
    yield from ("", "## Checks", "")
    for finding in report.findings:
        do = f" **{escaped(finding.do)}**" if finding.do else ""
        yield f"- {MARKS[finding.level]} {finding.check}: {escaped(finding.text)}{do}"
    yield from ("", "## Next", "")
    for advice in report.advice:
        yield from (f"{escaped(advice.why)}:", "", *_code(advice.command), "")
    if not report.advice:
        yield from ("Nothing: the checks ask for no further runs.", "")
    if report.recipe:
        yield from ("## The best run again", "")
        yield from _again(report)


def _leaderboard(report: Report) -> Iterator[str]:
    sweep = report.sweep
    names = list(sweep.entries[0].knobs) if sweep.entries else []
    rows = []
    for entry in sweep.entries[:FULL]:
        mean = "" if entry.mean is None else sweep.objective.value(entry.mean)
        spread = "" if entry.sd is None else f" ± {number(entry.sd, 2)} ({entry.n})"
        knobs = [leaderboard.short(entry.knobs[name]) for name in names]
        rows.append([str(entry.rank or "-"), f"{mean}{spread}", *knobs, entry.status])
    if told := ranked(report):
        yield from (escaped(told), "")
    yield from _table(["rank", sweep.objective.metric, *names, "status"], rows)
    if len(sweep.entries) > FULL:
        yield from ("", f"and {len(sweep.entries) - FULL:,} more: leaderboard.csv")


def _again(report: Report) -> Iterator[str]:
    found = report.recipe
    yield from (escaped(f"{expected(report)}."), "")
    if found.command:
        yield from (*_code(found.command), "")
    versions = [f"{name} {version}" for name, version in found.versions.items()]
    yield escaped(", ".join([*versions, f"config {found.config_hash}"]))


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, heads))} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(escaped, row))} |"


def _code(line: str) -> tuple[str, str, str]:
    """A fence longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}bash", line, fence


def escaped(text: str) -> str:
    """Text as Markdown that shows as it is."""
    return html.escape(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", printable(text, 2000)), quote=False)
