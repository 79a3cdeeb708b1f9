"""`python -m knobs.report DIR [DIR ...]`: report on sweeps, on the screen and as a page."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from knobs.errors import UserError
from knobs.report import analysis, markdown, terminal, write


def main(arguments: list[str] | None = None) -> int:
    """Report on sweeps' folders; the exit code comes back."""
    parser = argparse.ArgumentParser(prog="python -m knobs.report", description=__doc__)
    parser.add_argument("dir", nargs="+", type=Path, help="a sweep's folder; several are one sweep")
    place = "where report.html, .md and .json go; the sweep's folder by default"
    parser.add_argument("--out", type=Path, help=place)
    parser.add_argument("--wandb", action="store_true", help="make a W&B report as well")
    given = parser.parse_args(arguments)
    out = Console(highlight=False)
    try:
        report = analysis.make(given.dir)
        page = write.write(report, given.out or write.where(report.sweep))
        terminal.show(out, report, page)
        if given.wandb:
            from knobs.report.wandb_report import publish, unsent

            url = publish(report, "\n".join(markdown.answer(report)))
            for line in filter(None, (f"W&B   {url}", unsent(report.sweep.folders[0]))):
                out.print(line, markup=False, soft_wrap=True)
    except UserError as error:
        Console(stderr=True, highlight=False, markup=False).print(str(error), soft_wrap=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
