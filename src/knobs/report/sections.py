"""A report's sections as texts, tables, findings and commands.

The page, the terminal and Markdown render any of them; a new section is one function here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from knobs.report.conclusions import Advice, Finding, Report
from knobs.report.folds import fold_lines
from knobs.report.leaderboard import table
from knobs.report.sentences import (
    answered,
    cells,
    code_of_its_own,
    decided,
    expected,
    ranked,
    trusted,
)

FOLDED = 5  # settings of which the mean over folds is told


@dataclass(frozen=True)
class Section:
    """One section.

    Args:
        name: its anchor in the page.
        texts: sentences, the most important one first.
        heads, rows: of a table, a cell a head; empty without one.
        advice: commands, each with why.
        facts: name -> value.
        on_screen: whether the terminal shows it too.
    """

    name: str
    title: str
    texts: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    findings: tuple[Finding, ...] = ()
    advice: tuple[Advice, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    on_screen: bool = True


def leaderboard(report: Report) -> Section:
    """Return the settings, best first."""
    entries = report.sweep.entries
    heads, rows = table(entries, report.sweep.short)
    texts = (*fold_lines(entries[:FOLDED]), ranked(report))
    return Section("leaderboard", "Leaderboard", tuple(filter(None, texts)), heads, rows)


def importance(report: Report) -> Section:
    """Return the knobs' effects, the largest first."""
    name, title = "importance", "Which knob matters"
    if report.importance is None:
        few = "Too few runs, or no knob that differs: nothing can be said of importance."
        return Section(name, title, (few,))
    within = [f"Among the runs of {report.about}."] * bool(report.about)
    knobs = report.importance.knobs
    rows = tuple((report.sweep.short(knob.name), *cells(report, knob)) for knob in knobs)
    heads = ("knob", *answered(report.importance))
    return Section(name, title, (decided(report), *within, *trusted(report)), heads, rows)


def checks(report: Report) -> Section:
    """Return what the sweep itself gives cause for."""
    return Section("checks", "Checks of the sweep itself", findings=report.findings)


def following(report: Report) -> Section:
    """Return what to run next."""
    nothing = "Nothing: the checks ask for no further runs."
    texts = code_of_its_own(report) if report.advice else (nothing,)
    return Section("next", "What to run next", texts, advice=report.advice)


def reproduce(report: Report) -> Section | None:
    """Return how to run the best run again; None where there is none."""
    recipe = report.recipe
    if recipe is None:
        return None
    texts = [f"{expected(report)}; on the versions below; on others nearly so."]
    texts += code_of_its_own(report)
    if not recipe.command:
        texts.append("Its overrides hold characters that no command should: see its config.json.")
    return Section(
        "reproduce",
        "The best run again",
        tuple(texts),
        advice=(Advice("", recipe.command),) if recipe.command else (),
        facts=recipe.versions | ({"config hash": recipe.config_hash} if recipe.config_hash else {}),
        on_screen=False,
    )


SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    leaderboard, importance, checks, following, reproduce,
)  # fmt: skip


def sections(report: Report) -> list[Section]:
    """Return those that the report has, in their order."""
    return [section for make in SECTIONS if (section := make(report))]
