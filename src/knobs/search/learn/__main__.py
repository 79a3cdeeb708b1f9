"""Make the table that a prior is learned from: the curves of many settings on many small tasks.

A task that has its file is left; the cheapest of the others comes first. Its cost is estimated by
a short run of one task of each model. A file is whole or not there: any signal may stop this.
With --prior nothing is trained: the files that are there become the prior.
"""

import argparse
import sys
from pathlib import Path

from knobs.errors import ConfigError, ended

FOLDER = Path("benchmarks", "table")


def main(words: list[str] | None = None) -> int:
    """Plan, and make what is missing; return the exit code."""
    words = sys.argv[1:] if words is None else words
    given = _parser().parse_args(words)

    def learn() -> int:
        from knobs.search.learn import command, priors  # torch

        if given.out and not given.prior:
            raise ConfigError("--out is of --prior: add it, or leave --out out")
        if given.prior:
            return priors.learn(given, words)
        return command.learn(given, words)

    return ended(learn)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m knobs.search.learn", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--tasks", metavar="NAME,...", help="these alone (default: all)")
    parser.add_argument("--budget", type=_positive, metavar="MINUTES", help="begin no task later")
    folder = f"of the files (default {FOLDER})"
    parser.add_argument("--folder", type=Path, default=FOLDER, help=folder)
    root = "folder of data sets, for tasks that need a file (default: KNOBS_DATA)"
    parser.add_argument("--root", type=Path, help=root)
    workers = "tasks side by side, a thread each (default: 2, or 1 on one core)"
    parser.add_argument("--workers", type=_whole, metavar="N", help=workers)
    parser.add_argument("--shapes", type=_whole, metavar="N", help="of each task (default 16)")
    parser.add_argument("--epochs", type=_whole, metavar="N", help="of each run (default 20)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan alone")
    prior = "train nothing: make the prior of the files, which `search.method=auto` begins with"
    parser.add_argument("--prior", action="store_true", help=prior)
    out = "the prior's file (default: that of the package)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=out)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # whose one task this is
    return parser


def _positive(text: str) -> float:
    if not (value := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def _whole(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number >= 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
