"""Lines of a sweep that stay on the screen. Imports no torch."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from knobs.words import folded

MOST = 20  # rows on a terminal; elsewhere there are all


def note(out: Console, line: str) -> None:
    """Print one line, which goes on indented where it is too long for a terminal."""
    text = line.lstrip()
    indent = " " * (len(line) - len(text))
    lines = folded(text, out.width - len(indent) - 2) if out.is_terminal else [text]
    for i, part in enumerate(lines):
        out.print(indent + "  " * bool(i) + escape(part), soft_wrap=True)


def failures(out: Console, rows: Sequence[tuple[str, str, str]]) -> None:
    """Print a line for each job that failed: its number, its error and its log.

    On a terminal a table of the first MOST; elsewhere all, none wrapped.
    """
    out.print(f"[red]{len(rows)} failed[/]")
    if not out.is_terminal:
        for row in rows:
            out.print(escape("  ".join(filter(None, row))), soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("job", "error", "log"):
        table.add_column(column, overflow="fold")
    for row in rows[:MOST]:
        table.add_row(*map(escape, row))
    out.print(table, soft_wrap=False)
    if len(rows) > MOST:
        out.print(f"and {len(rows) - MOST:,} more, each in the lines above and in its train.log")
