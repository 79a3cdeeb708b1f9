"""Select an ensemble of a sweep's finished runs, say what it gains, and keep it as one folder."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from knobs.errors import ended

if TYPE_CHECKING:  # it imports torch
    from knobs.ensemble.selection import Gain


def main(words: list[str] | None = None) -> int:
    """Select, tell and write; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m knobs.ensemble", description=__doc__,
        epilog="knobs.load(FOLDER).predict(rows) and python -m knobs.predict FOLDER INPUT use it.",
    )  # fmt: skip
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="a sweep's folder")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="SWEEP/ensemble without it")
    given = parser.parse_args(words)
    return ended(lambda: _ensemble(given.sweep, given.out or given.sweep / "ensemble"))


def _ensemble(sweep: Path, out: Path) -> int:
    import torch

    from knobs.ensemble import folder, selection
    from knobs.words import count

    candidates, left = folder.of_sweep(sweep)
    for line in left[:3]:
        print(f"left out: {line}")
    if len(left) > 3:
        print(f"left out: {len(left) - 3} more")
    library = folder.library(candidates)
    rows = torch.arange(len(library.targets))
    counts = selection.select(library, rows)
    gain = selection.gain(library)
    folder.write(out, candidates, counts, gain)
    taken, votes = int((counts > 0).sum()), count(int(counts.sum()), "vote")
    print(f"{votes} for {taken} of {count(len(candidates), 'run')}")
    for one, n in zip(candidates, counts.tolist(), strict=True):
        if n:
            print(f"  {n} x {one.folder}: {candidates[0].kind[3]} {one.value:.4f}")
    print(_told(gain, candidates[0].kind[3]))
    print(f"folder: {out}")
    return 0


def _told(gain: "Gain | None", metric: str) -> str:
    """Return the gain in words."""
    if gain is None:
        return "gain: not known, the validation split has too few rows"
    shown = "" if gain.low > 0 else "; no gain is shown"
    return (
        f"gain: {gain.difference:+.4f} (90 % interval {gain.low:+.4f} to {gain.high:+.4f}){shown}\n"
        f"      {metric} {gain.best:.4f} by the best run, {gain.ensemble:.4f} by the ensemble, on "
        "validation rows that did not choose them"
    )


if __name__ == "__main__":
    sys.exit(main())
