"""The deciding plot as a file for slides and papers: .pdf, .png or .svg, by matplotlib."""

import io
import textwrap
import warnings
from pathlib import Path

from knobs.errors import ConfigError, StorageError
from knobs.record import write as write_file
from knobs.report.conclusions import Report
from knobs.report.fairness import NOT_YET, SO_FAR
from knobs.report.plots.deciding import Deciding, deciding
from knobs.report.stats import LEVEL
from knobs.words import percent, printable

SUFFIXES = (".pdf", ".png", ".svg")
BLUE, INK, GREY, STRIPE = "#0072b2", "#1d2126", "#6c7580", "#ededea"
NAME = 40  # letters of an arm's name
LINE, MOST = 90, 270  # letters of a line, and of what stands below the plot
DATES = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}  # the same bytes again


def check(path: Path) -> None:
    """Refuse a file whose suffix names no format.

    Raises:
        ConfigError: an unknown suffix.
    """
    if path.suffix.lower() not in SUFFIXES:
        ending = f"ends in {path.suffix}" if path.suffix else "has no suffix"
        raise ConfigError(f"--figure {path}: {ending}; name a file that ends in .pdf, .png or .svg")


def write(report: Report, path: Path) -> Path:
    """Write the deciding plot in the format that the suffix names; an older file is replaced.

    Raises:
        ConfigError: an unknown suffix, or a winner that can be compared with nothing.
        StorageError: the file cannot be written.
    """
    check(path)
    plot = deciding(report)
    if plot is None:
        raise ConfigError(
            f"--figure {path}: no second arm or setting finished, so there is no difference to "
            "draw; compare two, or leave --figure out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, drawn(plot, path.suffix.lower(), caution(report)))
    except OSError as error:
        raise StorageError(
            f"--figure {path}: cannot be written ({error.strerror or error}); name another file"
        ) from None
    return path


def caution(report: Report) -> str:
    """Return what the headline says before any number, where the arms are not comparable yet."""
    why, unfair, _ = report.verdict.headline.partition(SO_FAR)
    text = textwrap.shorten(printable(why, MOST), MOST, placeholder=" ...")
    return "\n".join(textwrap.wrap(text, LINE)) if unfair and why.startswith(NOT_YET) else ""


def drawn(plot: Deciding, suffix: str, caution: str = "") -> bytes:
    """Return the plot as bytes of a format, one row an arm, the winner on top.

    Args:
        caution: stands below: a slide is shown without the page.
    """
    import matplotlib
    from matplotlib.figure import Figure

    rows = plot.rows
    look = {"svg.hashsalt": "knobs", "font.size": 11, "pdf.fonttype": 42}
    with matplotlib.rc_context(look), warnings.catch_warnings():
        height = 1.5 + 0.42 * len(rows) + 0.2 * len(caution.splitlines())
        figure = Figure(figsize=(8, height), layout="constrained")
        axes = figure.subplots()
        if plot.noise:
            axes.axvspan(-plot.noise, plot.noise, color=STRIPE, lw=0)
        axes.axvline(0, color=INK, lw=1)
        for y, row in enumerate(rows):
            axes.plot(row.dots, [y] * len(row.dots), "o", mfc="none", mec=GREY, ms=5)
            if row.low is not None:
                axes.plot([row.low, row.high], [y, y], color=BLUE, lw=3, solid_capstyle="butt")
            face = BLUE if row.apart or y == 0 else "white"
            axes.plot([row.mean], [y], "D", mfc=face, mec=BLUE, ms=8)
            for x in filter(plot.beyond, (row.mean,)):
                end = max(plot.low, min(plot.high, x))
                axes.plot([end], [y], ">" if x > 0 else "<", color=BLUE, ms=8, clip_on=False)
        axes.set(xlim=(plot.low, plot.high), ylim=(len(rows) - 0.5, -0.5))
        names = [printable(row.name, NAME) for row in rows]
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        told = [row.lead or row.value for row in rows]
        right = axes.secondary_yaxis("right")
        right.set_yticks(range(len(rows)), told, parse_math=False)
        for side in (axes, right):
            side.tick_params(length=0)
        unit = f", {plot.unit}" * bool(plot.unit)
        key = ["circles: paired differences"]
        if any(row.low is not None for row in rows):
            key.insert(0, f"bars: {percent(LEVEL)} intervals")
        if plot.noise:
            key.append("shaded: one seed standard deviation")
        title = f"{printable(plot.title, 90)}{unit}\n{'; '.join(key)}"
        axes.set_xlabel(title, parse_math=False)
        if caution:
            figure.supxlabel(caution, fontsize=10, parse_math=False)
        for line in (*axes.spines.values(), *right.spines.values()):
            line.set_visible(False)
        axes.spines["bottom"].set_visible(True)
        out = io.BytesIO()
        warnings.filterwarnings("ignore", "Glyph")  # a letter that no font here has is a box
        figure.savefig(out, format=suffix[1:], dpi=200, metadata=DATES[suffix])
    return out.getvalue()
