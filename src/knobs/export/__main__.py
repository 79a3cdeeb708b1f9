"""Export a run's model: an ONNX folder that predicts without knobs, or a file of torch.export."""

import argparse
import sys
from pathlib import Path

from knobs.errors import ended


def main(words: list[str] | None = None) -> int:
    """Export as a command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m knobs.export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    formats = "onnx (model.onnx and predict.py, the default), or torch (model.pt2)"
    parser.add_argument("--to", choices=("onnx", "torch"), default="onnx", help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    given = parser.parse_args(words)
    return ended(lambda: _export(given))


def _export(given: argparse.Namespace) -> int:
    from knobs.export import folder, graphs  # torch
    from knobs.predict.predictor import load

    if given.to == "onnx":
        graphs.needs(graphs.PACKAGES)
    folder.export(given.run.name, load(given.run), given.to, given.out, given.force)
    print(f"folder: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
