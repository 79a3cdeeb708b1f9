"""The report and the leaderboard for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from knobs.report.conclusions import Report
from knobs.report.leaderboard import metric_of
from knobs.report.records import Entry
from knobs.report.sentences import MARKS, answered, cells, decided, ranked, row, what_ran
from knobs.words import COLUMNS, printable, short_names

TOP = 5


def show(console: Console, report: Report, page: Path | None = None) -> None:
    """Show the report in one screen, with less of everything where there is little room."""
    for depth in range(TOP, 0, -1):
        with console.capture() as captured:
            _show(console, report, page, depth)
        text = captured.get()
        lengths = [Text.from_ansi(line).cell_len for line in text.splitlines()]
        if sum(-(-max(1, length) // console.width) for length in lengths) < console.height:
            break
    console.file.write(text)


def _show(console: Console, report: Report, page: Path | None, depth: int) -> None:
    sweep, answer = report.sweep, report.verdict
    gap = console.print if depth > 1 else lambda: None
    console.print(_line(f"{sweep.name}  {what_ran(sweep)}"), style="dim")
    console.print(_line(answer.headline), style="bold")
    for sentence in answer.more if depth > 2 else answer.more[-1:]:
        console.print(_line(sentence))
    gap()
    leaderboard(console, sweep.entries[:depth])
    if depth == TOP and (basis := ranked(report)):
        console.print(_line(basis), style="dim")
    if report.importance:
        gap()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, head in enumerate(("knob", *answered(report.importance))):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for knob in report.importance.knobs[:depth]:
            table.add_row(*map(_line, (sweep.short(knob.name), *cells(report, knob))))
        console.print(table)
        console.print(_line(decided(report)))
    if findings := [finding for finding in report.findings if finding.level != "ok"]:
        gap()
    for finding in findings[: depth - 1 or 1]:
        line = _line(f"{MARKS[finding.level]} {finding.text} {finding.do}".rstrip())
        console.print(line, style="yellow" if finding.level == "act" else "")
    gap()
    if report.advice:
        first = report.advice[0]
        console.print(_line(f"next: {first.why}"))
        console.print(_line(f"  {first.command}"), soft_wrap=True, style="cyan")
    if page:
        console.print(_line(f"page: {page}"), soft_wrap=True)


def _line(text: str) -> Text:
    """Text with control characters removed, and no markup."""
    return Text(printable(text, 2000))


def leaderboard(
    console: Console, entries: Sequence[Entry], limit: int = 20, path: Path | None = None
) -> None:
    """Show the best entries, and where the rest is."""
    if not entries:
        return console.print("no runs")
    table = _table(entries[:limit])
    endless = console.options.update(max_width=10_000)
    if console.measure(table, options=endless).minimum > console.width:
        table = _table(entries[:limit], shared=True)
    console.print(table, soft_wrap=False)
    if len(entries) > limit:
        where = f": {path}" if path else ""
        console.print(_line(f"and {len(entries) - limit:,} more{where}"), soft_wrap=True)


def _table(entries: Sequence[Entry], shared: bool = False) -> Table:
    """A column a knob, or if `shared` one for all of them, which can be as narrow as it must."""
    names = list(short_names(list(entries[0].knobs)).values())
    status = [] if all(entry.status == "finished" for entry in entries) else ["status"]
    heads = ["rank", metric_of(entries), *(["knobs"] if shared else names), "epoch", "sec", *status]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(
            _line(head),
            justify="right" if head in COLUMNS[:3] else "left",
            no_wrap=head not in ("knobs", "status"),
            overflow="fold",
        )
    for entry in entries:
        rank, value, *knobs, epoch, seconds, end = row(entry)
        if shared:
            knobs = [" ".join(f"{name}={knob}" for name, knob in zip(names, knobs, strict=True))]
        cells = [rank, value, *knobs, epoch, seconds, end][: len(heads)]
        style = "red" if "diverged" in end else "dim" if entry.rank is None else ""
        table.add_row(*map(_line, cells), style=style)
    return table
