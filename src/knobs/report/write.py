"""A report's four files: leaderboard.csv, report.json, report.md and report.html."""

import json
import os
from pathlib import Path
from typing import Any

from knobs.errors import making
from knobs.record import write as write_file
from knobs.report.analysis import plain
from knobs.report.conclusions import Report
from knobs.report.files import writing_to
from knobs.report.leaderboard import CSV, as_csv
from knobs.report.markdown import markdown
from knobs.report.page import page
from knobs.report.records import Sweep

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


def where(sweep: Sweep) -> Path:
    """Return the folder of a report: the sweep's, or that around all of its sweeps."""
    if len(sweep.folders) == 1:
        return sweep.folders[0]
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in sweep.folders]))


def write(report: Report, folder: Path) -> Path:
    """Write the report's files; the page's path comes back.

    Raises:
        StorageError: the folder cannot be written to.
    """
    what = f"the report on {len(report.sweep.runs):,} runs, its tables and plots"
    with making(what, "report on fewer sweeps at once"):
        texts = {
            CSV: as_csv(report.sweep.entries),  # the others name it
            JSON: json.dumps(_finite(plain(report)), indent=1, allow_nan=False, default=str) + "\n",
            MARKDOWN: markdown(report),
            HTML: page(report),
        }
    with writing_to(folder):
        for name, text in texts.items():
            write_file(folder / name, text.encode(errors="replace"))
    return folder / HTML


def _finite(node: Any) -> Any:
    """A config may hold what JSON has no number for."""
    if isinstance(node, dict):
        return {str(key): _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and node - node != 0 else node
