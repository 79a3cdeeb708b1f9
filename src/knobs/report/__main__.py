"""`python -m knobs.report DIR [DIR ...]`: report on sweeps or a run, on screen and as a page."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from knobs.errors import ConfigError, ended
from knobs.report import analysis, markdown, slide, terminal, write
from knobs.report.run.read import is_run


def main(arguments: list[str] | None = None) -> int:
    """Report on sweeps' folders, or on a run's; the exit code comes back."""
    parser = argparse.ArgumentParser(prog="python -m knobs.report", description=__doc__)
    parser.add_argument(
        "dir", nargs="+", type=Path, help="a sweep's folder; several are one sweep; or a run's"
    )
    place = "where report.html, .md and .json go; the sweep's or run's folder by default"
    parser.add_argument("--out", type=Path, help=place)
    parser.add_argument("--wandb", action="store_true", help="make a W&B report as well")
    drawn = "also draw the plot that decides: a file .pdf, .png or .svg, for slides"
    parser.add_argument("--figure", type=Path, metavar="FILE", help=drawn)
    shown = "on a run's page: the rows, texts or pictures of its worst mistakes, read from its data"
    parser.add_argument("--examples", action="store_true", help=shown)
    given = parser.parse_args(arguments)
    return ended(lambda: _report(Console(highlight=False), given), before="")


def _report(out: Console, given: argparse.Namespace) -> int:
    if given.figure:
        slide.check(given.figure)
    if any(map(is_run, given.dir)):
        return _run(out, given)
    if given.examples:
        raise ConfigError("--examples: is of a run's page; name one run's folder")
    report = analysis.make(given.dir)
    page = write.write(report, given.out or write.where(report.sweep))
    terminal.show(out, report, page)
    if given.figure:
        figure = slide.write(report, given.figure)
        out.print(terminal.line(f"figure: {figure}"), soft_wrap=True)
    if given.wandb:
        from knobs.report.wandb_report import publish, unsent

        url = publish(report, "\n".join(markdown.answer(report)))
        for line in filter(None, (f"W&B   {url}", unsent(report.sweep.folders[0]))):
            out.print(line, markup=False, soft_wrap=True)
    return 0


def _run(out: Console, given: argparse.Namespace) -> int:
    """Report on one run."""
    from knobs.report.run import page as run_page  # late: sweeps do without it

    folder = given.dir[0]
    if len(given.dir) > 1:
        raise ConfigError(
            f"{next(filter(is_run, given.dir))}: is a run's folder, which has a page of its own; "
            "name it alone, or name sweeps' folders"
        )
    if given.wandb:
        raise ConfigError(f"{folder}: --wandb reports on sweeps; leave it out for a run")
    if given.figure:
        raise ConfigError(f"{folder}: --figure is of sweeps; leave it out for a run")
    made = run_page.make(folder, given.examples)
    run_page.show(out, made, run_page.write(made, given.out or folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
