"""The report and the leaderboard for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs.report.conclusions import Report
from knobs.report.folds import fold_lines
from knobs.report.leaderboard import table
from knobs.report.records import HEADS, Entry
from knobs.report.sections import Section, sections
from knobs.report.sentences import MARKS, what_ran
from knobs.words import printable, short_names

TOP = 5
ENDLESS = 10_000  # columns, where nothing is wrapped
NUMBERS = ("rank", "epoch", "sec")  # heads of the leaderboard's columns that are flush right
WRAPPED = ("knobs", "status")  # and of those whose cells may take several lines


def show(console: Console, report: Report, page: Path | None = None) -> None:
    """Show the report in one screen, with less of everything where there is little room.

    Where there is no terminal it is whole, and no line is wrapped.
    """
    if not console.is_terminal:
        return _show(endless(console), report, page, None)
    for depth in range(TOP, 0, -1):
        with console.capture() as captured:
            _show(console, report, page, depth)
        text = captured.get()
        lengths = [Text.from_ansi(line).cell_len for line in text.splitlines()]
        if sum(-(-max(1, length) // console.width) for length in lengths) < console.height:
            break
    console.file.write(text)


def _show(console: Console, report: Report, page: Path | None, depth: int | None) -> None:
    """Show it with at most `depth` lines of each kind; all of them if None."""
    sweep, answer = report.sweep, report.verdict
    console.print(line(f"{sweep.name}  {what_ran(sweep)}"), style="dim", soft_wrap=False)
    console.print(line(answer.headline), style="bold", soft_wrap=False)
    for sentence in answer.undermines[:depth]:
        console.print(line(sentence), style="yellow", soft_wrap=False)
    kept = None if depth is None or depth > 2 else depth - 1
    for sentence in answer.more[:kept]:
        console.print(line(sentence), soft_wrap=False)
    for section in sections(report):
        if section.on_screen:
            _section(console, section, report, depth, " on the page" * bool(page))
    if page:
        console.print(line(f"page: {page}"), soft_wrap=True)


def _section(
    console: Console, section: Section, report: Report, depth: int | None, whole: str
) -> None:
    """Show a section that has more than words, with at most `depth` lines of each kind.

    Args:
        whole: where the whole tables are.
    """
    few = {"rows": depth, "texts": None, "findings": None, "advice": None}
    if depth is not None:
        few |= {"texts": depth // 2 or 1, "findings": depth - 1 or 1, "advice": 1}
    levels = ("act",) if depth == 1 else ("act", "note")  # what can wait gives way first
    findings = [finding for finding in section.findings if finding.level in levels]
    if not (section.rows or findings or section.advice):
        return
    if depth != 1:
        console.print()
    if section.name == "leaderboard":
        leaderboard(console, report.sweep.entries, few["rows"], where=whole, folds=False)
    elif section.rows:
        shown = _table(section.heads, section.rows[: few["rows"]], right=section.heads[1:])
        console.print(shown, soft_wrap=False)
        _more(console, len(section.rows), few["rows"], whole)
    for text in section.texts[: few["texts"]]:
        console.print(line(text), soft_wrap=False)
    for finding in findings[: few["findings"]]:
        text = line(f"{MARKS[finding.level]} {finding.text} {finding.do}".rstrip())
        style = "yellow" if finding.level == "act" else ""
        console.print(text, style=style, soft_wrap=False)
    for advice in section.advice[: few["advice"]]:
        console.print(line(f"next: {advice.why}"), soft_wrap=False)
        console.print(line(f"  {advice.command}"), soft_wrap=True, style="cyan")


def line(text: str) -> Text:
    """Text with control characters removed, and no markup."""
    return Text(printable(text, 2000))


def leaderboard(
    console: Console,
    entries: Sequence[Entry],
    limit: int | None = 20,
    path: Path | None = None,
    where: str = "",
    folds: bool = True,
) -> None:
    """Show the best entries, and where the rest is; all of them where there is no terminal.

    Args:
        folds: whether to tell their means over folds, which a report has among its texts.
    """
    if not entries:
        return console.print("no runs")
    limit, console = limit if console.is_terminal else None, endless(console)
    names = short_names(list(entries[0].knobs), HEADS)
    shown = _leaderboard(entries[:limit], names)
    unbounded = console.options.update(max_width=ENDLESS)
    if console.measure(shown, options=unbounded).minimum > console.width:
        shown = _leaderboard(entries[:limit], names, together=True)
    console.print(shown, soft_wrap=False)
    _more(console, len(entries), limit, f": {path}" if path else where)
    for text in fold_lines(entries[: limit and min(limit, TOP)] if folds else ()):
        console.print(line(text), soft_wrap=False)


def _more(console: Console, rows: int, limit: int | None, where: str) -> None:
    """Say how many rows a table has besides those shown, and where it is whole."""
    if limit is not None and rows > limit:
        console.print(line(f"and {rows - limit:,} more{where}"), soft_wrap=True)


def endless(console: Console) -> Console:
    """Return a terminal as it is; else a console on the same file whose lines are never wrapped."""
    if console.is_terminal:
        return console
    return Console(file=console.file, width=ENDLESS, highlight=False, soft_wrap=True)


def _leaderboard(entries: Sequence[Entry], names: dict[str, str], together: bool = False) -> Table:
    """A column a knob, or one for all `together`, which can be as narrow as it must."""
    heads, rows = table(entries, names.__getitem__, together)
    shown = _table(heads, rows, right=NUMBERS)
    for entry, row in zip(entries, shown.rows, strict=True):
        row.style = "red" if "diverged" in entry.status else "dim" if entry.rank is None else ""
    return shown


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        justify, no_wrap = "right" if head in right else "left", head not in WRAPPED
        shown.add_column(line(head), justify=justify, no_wrap=no_wrap, overflow="fold")
    for row in rows:
        shown.add_row(*map(line, row))
    return shown
