"""A run's own page: its parts from its record, as report.html and in short on the terminal."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from knobs.errors import first_line
from knobs.record import CHECKPOINTS, resumable
from knobs.record import write as write_file
from knobs.report.conclusions import Advice, Finding
from knobs.report.files import of, writing_to
from knobs.report.frame import render
from knobs.report.next_steps import overrides
from knobs.report.plots.still import still
from knobs.report.records import UNREADABLE, finite
from knobs.report.run import figures
from knobs.report.run.data import data
from knobs.report.run.examples import examples
from knobs.report.run.findings import baselines, below, findings
from knobs.report.run.parts import Part
from knobs.report.run.quality import Quality, mistakes, quality
from knobs.report.run.read import read_files
from knobs.report.run.records import RunFiles
from knobs.report.sentences import MARKS
from knobs.report.terminal import endless, line
from knobs.shell import command, literal, quoted
from knobs.words import count, duration, listed, number, printable

HTML = "report.html"
MOST_CHANGES = 12  # overrides in the header
ON_SCREEN = 8  # findings on the terminal
SAFE_LR = 0.01  # at most, after a run that diverged
INPUTS = {"table": "NEW.csv", "text": "NEW.csv", "image": "FOLDER"}


@dataclass(frozen=True)
class RunPage:
    """All that the page of a run shows.

    Args:
        facts: name -> value, of the header.
        parts: the sections in their order.
    """

    name: str
    folder: Path
    headline: str
    more: tuple[str, ...]
    facts: dict[str, str]
    findings: tuple[Finding, ...]
    parts: tuple[Part, ...]


def make(folder: Path, raw: bool = False) -> RunPage:
    """Read a run's folder and say what is in it; nothing is written.

    Args:
        raw: whether the rows of its worst mistakes are shown, for which its data are read anew.
    """
    files = read_files(folder)
    judged = Quality(files) if files.predictions is not None else None
    found = _findings(files, judged)
    makers: list[tuple[str, Callable[[], Part | list[Part] | None]]] = [
        ("curves", lambda: _curves(files)),
        ("quality", lambda: quality(judged) if judged else None),
        ("examples", lambda: examples(files, mistakes(judged) if judged else []) if raw else None),
        ("data", lambda: data(files)),
        ("next", lambda: _next(files)),
        ("record", lambda: _versions(files)),
    ]
    sections = [Part("findings", "What stands out", findings=tuple(found))]
    sections += [part for name, maker in makers for part in _made(name, maker)]
    return RunPage(
        f"{files.run.id} {files.run.config.get('name') or ''}".strip(), folder, _headline(files),
        tuple(_more(files)), _facts(files), tuple(found), tuple(filter(_filled, sections)),
    )  # fmt: skip


def _findings(files: RunFiles, judged: Quality | None) -> list[Finding]:
    """Return what stands out, or that it cannot be told."""
    try:
        return findings(files, judged)
    except Exception as error:  # see _made
        texts = (f"Not all findings can be told: {_said(error)}.", *files.faults)
        return [Finding("record", "note", text) for text in texts]


def _made(name: str, maker: Callable[[], Part | list[Part] | None]) -> list[Part]:
    """Return the sections that a function makes, or one that says why there is none.

    The fields of a record are anyone's: one that has the right name and kind, and no sense, must
    not take the other sections with it.
    """
    try:
        made = maker()
        parts = made if isinstance(made, list) else [made] if made else []
        for figure in (figure for part in parts for figure in part.figures):
            json.dumps([figure.data, figure.layout], allow_nan=False)  # as the page will hold them
            still(figure, 0)
    except Exception as error:
        text = f"This section cannot be made of this record: {_said(error)}."
        return [Part(name, name.capitalize(), (text,))]
    return parts


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _filled(part: Part | None) -> bool:
    """Return whether a section has anything to show."""
    if part is None:
        return False
    kinds = ("texts", "facts", "figures", "tables", "findings", "advice", "examples")
    return any(getattr(part, kind) for kind in kinds)


# ------------------------------------------------------------------ header
def _headline(files: RunFiles) -> str:
    """Return the result in a sentence; a run that is no better than a baseline says so first."""
    run, (epoch, value) = files.run, files.best
    last = files.epochs
    planned = f" of {run.planned:,}" if run.planned else ""
    best = "no epoch was completed"
    if epoch:
        reached = f"{files.objective[0]} {number(value, 4)} " if value is not None else ""
        best = f"{reached}at epoch {epoch:,}"
    if run.ok and (worse := below(files)):
        return f"No better than the {listed(list(worse))} baseline: {best}."
    if run.ok and files.refit_of:
        return f"Refit of {files.refit_of}, validation rows included: {last:,} epochs, not judged."
    if run.ok:
        return f"{best} of {last:,}."
    if run.status == UNREADABLE:
        return f"The record of this run cannot be read in full; {best}."
    so_far = {
        "diverged": f"Diverged in epoch {last + 1:,}{planned}",
        "failed": f"Failed in epoch {last + 1:,}{planned}",
        "pruned": f"Pruned after epoch {last:,}{planned}: other runs of its sweep were ahead",
    }.get(run.status, f"Interrupted after epoch {last:,}{planned}")
    so_far = f"Under way, after epoch {last:,}{planned}" if files.under_way else so_far
    return f"{so_far}; {'best ' * bool(epoch)}{best}."


def _more(files: RunFiles) -> Iterator[str]:
    """Yield the sentences below the headline."""
    run = files.run
    if files.why:
        yield f"{files.why[:1].upper()}{files.why[1:]}."
    if values := baselines(files):
        told = [f"{name} {number(value, 4)}" for name, value in values.items()]
        on = of(of(run.summary, "baselines", dict), "linear_on", str)
        yield f"Baselines on the same split: {listed(told)}{f' (fitted on {on})' * bool(on)}."
    if members := _members(files):
        yield f"Its {len(members)} members alone: {listed([number(m, 4) for m in members], 8)}."
    if run.tests:
        told = [f"{name} {number(value, 4)}" for name, value in run.tests.items()]
        yield f"Test split: {listed(told)}."


def _members(files: RunFiles) -> list[float]:
    values = map(finite, of(files.run.summary, "member_values", list))
    return [value for value in values if value is not None]


def _facts(files: RunFiles) -> dict[str, str]:
    run, config = files.run, files.run.config
    about = of(config, "data", dict)
    kinds = [str(about[key]) for key in ("kind", "task") if about.get(key)]
    status = "under way" if files.under_way else run.status.replace("_", " ")
    metric, sign = files.objective
    changed = [printable(text, 120) for text in overrides(run, drop=())]
    trained = of(config, "training", dict)
    facts = {
        "status": status,
        "objective": f"{metric}, {'max' if sign > 0 else 'min'}" if metric else "",
        "best epoch": f"{files.best[0]:,} of {files.epochs:,}" if files.best[0] else "",
        "data": f"{about.get('name', '')} ({', '.join(kinds)})" if kinds else "",
        "model": str(of(config, "model", dict).get("name", "")),
        "members": str(trained.get("members", "")) if trained.get("members") != 1 else "",
        "seed": str(config.get("seed", "")),
        "parameters": f"{run.parameters:,} trained" if run.parameters else "",
        "time": duration(run.seconds) if run.seconds is not None else "",
        "changed": listed(changed, MOST_CHANGES) or "nothing: all defaults",
    }
    return {name: value for name, value in facts.items() if value}


# ------------------------------------------------------------------ sections
def _curves(files: RunFiles) -> Part | None:
    """Return the curves by epoch, the best epoch marked."""
    run = files.run
    if not run.curve:
        return None
    best, metric = files.best[0], files.objective[0]
    rows = figures.thinned(run.curve, best)
    wanted = [("loss", ("val/loss", "train/loss"), []), ("learning rate", ("lr",), [])]
    if metric not in ("", "val/loss", "train/loss"):
        wanted.insert(0, ("objective", (metric,), _members(files)))
    made = [figures.curve(name, names, rows, best, values) for name, names, values in wanted]
    see = "The star is the best epoch. Train/loss is the mean over the epoch, with smoothing and "
    see += "penalties."
    if len(rows) < len(run.curve):
        see += f" {len(rows):,} of {len(run.curve):,} epochs are drawn."
    return Part("curves", "Curves", (see,), figures=tuple(filter(None, made)))


def _next(files: RunFiles) -> Part | None:
    """Return the commands that go on with the run."""
    run = files.run
    if not run.config:
        return None
    place = quoted(literal(str(run.folder)))
    commands = []
    if files.prepared and any((run.folder / CHECKPOINTS).glob("best.*")):
        given = INPUTS.get(files.prepared.kind, "INPUT")
        predict = _module("knobs.predict", str(run.folder), given)
        commands.append(Advice("Predict new rows", predict))
    if resumable(run.folder):
        longer = run.status == "finished" and files.best[0] == files.epochs
        if run.status in ("interrupted", "failed") and not files.under_way:
            commands.append(Advice("Go on where it stopped", command([f"resume={place}"])))
        elif longer and run.planned:
            words = [f"resume={place}", f"training.epochs={2 * run.planned}"]
            commands.append(Advice("Train it for more epochs", command(words)))
    again = [f"rerun={place}", f"seed={run.seed + 1}"]
    why = "Train it anew with a change, here another seed"
    lr = finite(of(run.config, "optimizer", dict).get("lr"))
    if run.broke and lr:
        again, why = (
            [f"rerun={place}", f"optimizer.lr={min(lr / 10, SAFE_LR):g}"],
            "With a lower lr",
        )
    commands.append(Advice(why, command(again)))
    return Part("next", "Go on", advice=tuple(a for a in commands if a.command))


def _module(name: str, *words: str) -> str:
    """Return `python -m NAME ...` to copy; empty where it cannot be shown as it is."""
    line = shlex.join(["python", "-m", name, *words])
    return line if line.isprintable() else ""


def _versions(files: RunFiles) -> Part | None:
    digests = {
        "data hash": files.data.get("hash"),
        "config hash": files.run.summary.get("config_hash"),
    }
    told = {name: value for name, value in digests.items() if isinstance(value, str)}
    versions = {name: printable(version, 20) for name, version in files.run.versions.items()}
    return Part("record", "Versions", facts=versions | told)


# ------------------------------------------------------------------ renderers
def write(page: RunPage, folder: Path) -> Path:
    """Write report.html; its path comes back.

    Raises:
        StorageError: the folder cannot be written to.
    """
    plotted = [figure for part in page.parts for figure in part.figures]
    text = render("run.html", plotted, page=page, marks=MARKS)
    with writing_to(folder):
        write_file(folder / HTML, text.encode(errors="replace"))
    return folder / HTML


def show(console: Console, page: RunPage, path: Path) -> None:
    """Show the page in short: the result, what stands out, the next commands."""
    out = endless(console)
    out.print(line(page.name), style="dim")
    out.print(line(page.headline), style="bold")
    for text in page.more:
        out.print(line(text))
    acts = [finding for finding in page.findings if finding.level == "act"]
    shown = [*acts, *(finding for finding in page.findings if finding.level != "act")]
    for finding in shown[:ON_SCREEN]:
        style = "yellow" if finding.level == "act" else ""
        out.print(line(f"{MARKS[finding.level]} {finding.text} {finding.do}".rstrip()), style=style)
    if len(shown) > ON_SCREEN:
        out.print(line(f"and {count(len(shown) - ON_SCREEN, 'note')} more on the page"))
    asked = (part for part in page.parts if part.name == "examples" and not part.examples)
    for text in (text for part in asked for text in part.texts):
        out.print(line(text), style="yellow")
    for advice in (a for part in page.parts for a in part.advice):
        out.print(line(f"next: {advice.why}"))
        out.print(line(f"  {advice.command}"), style="cyan", soft_wrap=True)
    out.print(line(f"page: {path}"), soft_wrap=True)
