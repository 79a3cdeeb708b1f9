"""The report and the leaderboard for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs.report.conclusions import Report
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
        return _show(console, report, page, None)
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
    plain = _plain(console)
    console.print(_line(f"{sweep.name}  {what_ran(sweep)}"), style="dim", soft_wrap=plain)
    console.print(_line(answer.headline), style="bold", soft_wrap=plain)
    for sentence in answer.more if depth is None or depth > 2 else answer.more[-1:]:
        console.print(_line(sentence), soft_wrap=plain)
    for section in sections(report):
        if section.on_screen:
            _section(console, section, report, depth)
    if page:
        console.print(_line(f"page: {page}"), soft_wrap=True)


def _plain(console: Console) -> bool | None:
    """Return True where lines must not be wrapped; None leaves it to the console."""
    return None if console.is_terminal else True


def _section(console: Console, section: Section, report: Report, depth: int | None) -> None:
    """Show a section that has more than words, with at most `depth` lines of each kind."""
    few = {"rows": depth, "texts": None, "findings": None, "advice": None}
    if depth is not None:
        few |= {"texts": depth // 2 or 1, "findings": depth - 1 or 1, "advice": 1}
    plain = _plain(console)
    findings = [finding for finding in section.findings if finding.level != "ok"]
    if not (section.rows or findings or section.advice):
        return
    if depth != 1:
        console.print()
    if section.name == "leaderboard":
        leaderboard(console, report.sweep.entries[: few["rows"]])
    elif section.rows:
        shown = _table(section.heads, section.rows[: few["rows"]], right=section.heads[1:])
        _print_table(console, shown)
    for text in section.texts[: few["texts"]]:
        console.print(_line(text), soft_wrap=plain)
    for finding in findings[: few["findings"]]:
        line = _line(f"{MARKS[finding.level]} {finding.text} {finding.do}".rstrip())
        style = "yellow" if finding.level == "act" else ""
        console.print(line, style=style, soft_wrap=plain)
    for advice in section.advice[: few["advice"]]:
        console.print(_line(f"next: {advice.why}"), soft_wrap=plain)
        console.print(_line(f"  {advice.command}"), soft_wrap=True, style="cyan")


def _line(text: str) -> Text:
    """Text with control characters removed, and no markup."""
    return Text(printable(text, 2000))


def leaderboard(
    console: Console, entries: Sequence[Entry], limit: int = 20, path: Path | None = None
) -> None:
    """Show the best entries, and where the rest is; all of them where there is no terminal."""
    if not entries:
        return console.print("no runs")
    limit = limit if console.is_terminal else len(entries)
    names = short_names(list(entries[0].knobs), HEADS)
    shown = _leaderboard(entries[:limit], names)
    endless = console.options.update(max_width=ENDLESS)
    if console.is_terminal and console.measure(shown, options=endless).minimum > console.width:
        shown = _leaderboard(entries[:limit], names, together=True)
    _print_table(console, shown)
    if len(entries) > limit:
        where = f": {path}" if path else ""
        console.print(_line(f"and {len(entries) - limit:,} more{where}"), soft_wrap=True)


def _print_table(console: Console, shown: Table) -> None:
    """Print a table; where there is no terminal as wide as it is."""
    width = None if console.is_terminal else ENDLESS
    console.print(shown, soft_wrap=False, width=width, crop=console.is_terminal)


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
        shown.add_column(_line(head), justify=justify, no_wrap=no_wrap, overflow="fold")
    for row in rows:
        shown.add_row(*map(_line, row))
    return shown
