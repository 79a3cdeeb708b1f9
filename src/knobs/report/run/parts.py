"""Sections of a run's page as texts, tables, figures, findings and commands."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from knobs.report.conclusions import Advice, Finding
from knobs.report.plots.figures import Figure
from knobs.words import printable

LONGEST_NAME = 60  # letters of a name from data, in a cell


@dataclass(frozen=True)
class Table:
    """A table of cells as texts.

    Args:
        title: above it; empty for none.
        see: below it, what was left out; empty for nothing.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    see: str = ""


@dataclass(frozen=True)
class Example:
    """One row of the data as the model saw it.

    Args:
        title: its row, truth and prediction.
        picture: a PNG as a data URI. text: its tokens. cells: column -> value. One of them.
    """

    title: str
    picture: str = ""
    text: str = ""
    cells: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One section of the page; what is empty is not shown."""

    name: str
    title: str
    texts: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    findings: tuple[Finding, ...] = ()
    advice: tuple[Advice, ...] = ()
    examples: tuple[Example, ...] = ()


def named(names: Sequence[str], number: int) -> str:
    """Return the name of a class, a label or a target for a cell; its number where it has none."""
    text = str(names[number]) if number < len(names) else str(number)
    return printable(text, LONGEST_NAME) or "(empty)"
