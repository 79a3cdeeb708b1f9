"""`python -m knobs.report DIR [DIR ...]`: what sweeps found, on the screen and as a page."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from knobs.errors import UserError
from knobs.report import assemble, text, write


def main(arguments: list[str] | None = None) -> int:
    """Report on sweeps' folders; the exit code comes back."""
    parser = argparse.ArgumentParser(prog="python -m knobs.report", description=__doc__)
    parser.add_argument("dir", nargs="+", type=Path, help="a sweep's folder; several are one sweep")
    parser.add_argument(
        "--out",
        type=Path,
        help="where report.html, .md and .json go; the sweep's folder by default",
    )
    given = parser.parse_args(arguments)
    out = Console(highlight=False)
    try:
        report = assemble.make(given.dir)
        page = write.write(report, given.out or write.where(report.sweep))
    except UserError as error:
        Console(stderr=True, highlight=False, markup=False).print(str(error), soft_wrap=True)
        return error.exit_code
    text.show(out, report, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
