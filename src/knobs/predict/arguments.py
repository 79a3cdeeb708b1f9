"""The words of the command that predicts. They import next to nothing: a slip is told at once."""

import argparse
from pathlib import Path


def arguments(prog: str, about: str, run: bool = False) -> argparse.ArgumentParser:
    """Return the parser; with `run` a run's folder comes before the input."""
    parser = argparse.ArgumentParser(prog=prog, description=about, epilog=(
        "Exit codes: 0 all rows predicted, 23 some not (empty cells, and a column `error`), "
        "2 a wrong command, 3 input that cannot be read, 4 no model."
    ))  # fmt: skip
    if run:
        parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    kinds = "a table (.csv, .tsv, .parquet, .xlsx; .gz, .zip), texts one a line, or pictures"
    parser.add_argument("input", metavar="INPUT", help=f"{kinds}; - reads standard input")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .csv or .parquet; else stdout")
    parser.add_argument("--keep", action="store_true", help="add the columns of the input")
    parser.add_argument("--force", action="store_true", help="replace a FILE that is there")
    return parser
