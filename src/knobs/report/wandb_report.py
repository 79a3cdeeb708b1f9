"""A sweep as a W&B Report: the verdict, the leaderboard, and panels over the runs of its group.

The panels are W&B's own and draw what its server has; text and table come from the records. The
report's spec lies beside the sweep's page whether or not W&B took it.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from knobs.errors import UserError
from knobs.identity import leaves, public
from knobs.record import write_whole
from knobs.report.leaderboard import Entry, RunRow, differing, leaderboard, read_runs
from knobs.tracking import sync
from knobs.tracking.tracker import BOUNDED, QUIET, first_line, kept_offline, no_account, no_server

SPEC = "wandb_report.json"
TOP = 20  # lines of the leaderboard
MAX_TEXT = 20_000  # characters of a text that the summary brings
WIDE = 10.0  # a knob whose largest value is this many times its smallest has a log axis
KNOCK = 5.0  # seconds to wait for the server at first
DEADLINE = 60.0  # seconds for all of it
VIEW_ID = re.compile(r"[\w=+/-]{1,200}")


def publish(folder: Path, summary: dict[str, Any]) -> str:
    """Make the sweep's W&B Report, or renew the one made before; its URL.

    A process of its own does it: there is a bound on W&B's client as a whole only from outside.

    Args:
        folder: the sweep's.
        summary: of the sweep's report; its `question`, `verdict` and `markdown` are shown.

    Raises:
        UserError: W&B did not take it; why, and how to go on.
    """
    command = [sys.executable, "-m", "knobs.report.wandb_report", str(folder)]
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=told, text=True, start_new_session=True
        )
        try:
            with child.stdin as asked, contextlib.suppress(BrokenPipeError):
                asked.write(json.dumps(public(summary)))
            child.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise _refused(f"it was not done after {DEADLINE:g} s", folder) from None
        finally:
            child.kill()  # what the client started ends with it
            child.wait()
        told.seek(0)
        answer = json.loads(told.read() or "{}")
    if "url" not in answer:
        raise UserError(answer.get("error") or "the W&B report ended with the error above")
    return answer["url"]


def _publish(folder: Path, summary: dict[str, Any]) -> str:
    """The same, in this process, for as long as it takes."""
    os.environ.update(BOUNDED | QUIET | dict(os.environ))  # before the import, which reads them
    import wandb

    runs = read_runs(folder)
    about = place(runs) | {"server": str(wandb.setup().settings.base_url)}
    report = compose(about, runs, summary)
    kept = about | {"title": report.title, "id": _earlier(folder, about), "spec": _spec(report)}
    _write(folder / SPEC, kept)
    try:
        report.id = kept["id"]
        url = _save(report)
    except Exception as error:  # as many kinds as there are layers below
        raise _refused(public(_printable(first_line(error))), folder) from None
    _write(folder / SPEC, kept | {"id": report.id, "url": url})
    return url


def _refused(why: str, folder: Path) -> UserError:
    """What is said where there is no report."""
    path, again = folder / SPEC, "the same command tries again"
    with contextlib.suppress(OSError, ValueError):
        made = json.loads(path.read_text())["id"]
        again += f", its spec is in {path}"
        again += " (delete that if the report was deleted)" if made else ""
    return UserError(f"W&B did not take the report: {why}; {again}")


def unsent(folder: Path) -> str:
    """A line on the runs that a report cannot show yet; empty if there are none."""
    offline = [run for run in sync.find(folder) if run.parts[-1].name.startswith("offline-")]
    count = sum(not (run.folder / "wandb" / sync.ARRIVED).is_file() for run in offline)
    return f"{count} of its runs may not be uploaded yet: make sync" if count else ""


def _save(report: Any) -> str:
    """Send a report; its URL."""
    import wandb

    asked = os.environ.get("WANDB_MODE", "online")
    if kept_offline(asked):
        raise UserError(f"W&B is {wandb.setup().settings.mode} here, as asked")
    if why := no_account() or no_server(KNOCK):
        raise UserError(why)
    api = wandb.Api()
    report.entity = report.entity or api.settings["entity"] or api.default_entity
    report.save()
    return _printable(report.url)


def _write(path: Path, kept: dict[str, Any]) -> None:
    write_whole(path, json.dumps(kept, indent=1) + "\n")


def _earlier(folder: Path, about: dict[str, str]) -> str:
    """The id of the report made before for the same place; empty if there is none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        kept = json.loads((folder / SPEC).read_text())
        known, found = all(kept.get(key) == about[key] for key in about), kept.get("id")
        if known and isinstance(found, str) and VIEW_ID.fullmatch(found):
            return found
    return ""


# ------------------------------------------------------------------ records -> place, knobs
def place(runs: list[RunRow]) -> dict[str, str]:
    """Where most of the runs are in W&B: group, project, and entity, empty for the account's own.

    Raises:
        UserError: none of them is in a group.
    """
    told: Counter = Counter()
    for run in runs:
        node = run.config.get("tracking")
        if isinstance(node, dict) and node.get("mode") != "disabled":
            found = tuple(node.get(key) or "" for key in ("group", "project", "entity"))
            if all(isinstance(name, str) for name in found) and found[0] and found[1]:
                told[found] += 1
    if not told:
        raise UserError("no W&B report: none of the runs is in a W&B group (tracking=local?)")
    return dict(zip(("group", "project", "entity"), told.most_common(1)[0][0], strict=True))


def columns(runs: list[RunRow]) -> dict[str, bool]:
    """Paths in the runs' configs that tell their knobs apart -> whether on a log axis.

    A knob that is an option of a group is shown by what tells its options apart best.
    """
    readable = [run for run in runs if run.setting]
    knobs, configs = differing(runs), [dict(leaves(run.config)) for run in readable]
    found = {}
    for knob in knobs:
        if all(knob in config for config in configs):
            found[knob] = _wide(config[knob] for config in configs)
        elif any(knob in run.choices for run in readable):
            below = [p for p in configs[0] if p.startswith(f"{knob}.") and p not in knobs]
            counts = {p: len({json.dumps(config.get(p)) for config in configs}) for p in below}
            if max(counts.values(), default=1) > 1:
                named = (f"{knob}.name", f"{knob}._target_")
                best = max(counts, key=lambda p: (counts[p], p in named))
                found[best] = _wide(config.get(best) for config in configs)
    return found


def _wide(values: Iterable[Any]) -> bool:
    """Whether numbers span so much that only a log axis shows them all."""
    known = list(values)
    if not all(type(v) in (int, float) and 0 < v < float("inf") for v in known):
        return False
    return max(known) >= WIDE * min(known)


# ------------------------------------------------------------------ place, knobs -> report
def compose(about: dict[str, str], runs: list[RunRow], summary: dict[str, Any]) -> Any:
    """The whole report, as wandb_workspaces has it. Needs no network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, on pydantic's old ways
        import wandb_workspaces.reports.v2 as wr

    entries = leaderboard(runs)
    metric = next((run.metric for run in runs if run.metric), "objective")
    mode = next((run.mode for run in runs if run.metric), "max")
    knobs = columns(runs)
    lines = dict.fromkeys(["train/loss", "val/loss", metric])
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(k), log=log) for k, log in knobs.items()]
    best = wr.ParallelCoordinatesPlotColumn(
        wr.SummaryMetric("objective"), display_name=f"best {metric}", inverted=mode == "min"
    )
    panels = [  # on a grid of 24 columns
        wr.ParallelCoordinatesPlot(columns=[*axes, best], layout=wr.Layout(0, 0, 24, 10)),
        wr.ParameterImportancePlot(with_respect_to="objective", layout=wr.Layout(0, 10, 24, 8)),
        *(
            wr.LinePlot(title=name, y=[name], title_x="epoch", layout=wr.Layout(8 * i, 18, 8, 8))
            for i, name in enumerate(lines)
        ),
        wr.RunComparer(diff_only="split", layout=wr.Layout(0, 26, 24, 10)),
    ]
    runset = wr.Runset(
        name=about["group"],
        filters=f"Metric('Group') == {_literal(about['group'])}",
        order=[wr.OrderBy(wr.SummaryMetric("objective"), ascending=mode == "min")],
        pinned_columns=["summary:objective", *map(_accessor, knobs)],
    )
    return wr.Report(
        project=about["project"],
        entity=about["entity"],
        title=re.sub(r"[^\w.-]+", " ", about["group"]).strip()[:100] + " sweep",
        description=_text(summary.get("question"))[:500],
        blocks=[
            wr.MarkdownBlock(text=_verdict(summary)),
            wr.H2(text="Leaderboard"),
            wr.MarkdownBlock(text=_table(entries, metric)),
            wr.H2(text="Runs"),
            wr.PanelGrid(runsets=[runset], panels=panels),
        ],
        width="fluid",
    )


def _spec(report: Any) -> dict[str, Any]:
    """What W&B stores of a report; there is no public way to it."""
    return json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def _accessor(path: str) -> str:
    """A config's path as W&B's tables name it: each value of the first level lies under `value`."""
    first, *rest = path.split(".")
    return ".".join([f"config:{first}.value", *rest])


def _literal(text: str) -> str:
    """A string in W&B's filter language, which rewrites every = and < that it sees."""
    plain = (c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text)
    return f"'{''.join(plain)}'"


# ------------------------------------------------------------------ text
def _verdict(summary: dict[str, Any]) -> str:
    """The report's words: a markdown text as it is, else the verdict as plain text."""
    markdown = summary.get("markdown")
    if isinstance(markdown, str) and markdown.strip():
        return markdown[:MAX_TEXT]
    lines = _text(summary.get("verdict")).splitlines()
    return "\n".join(map(_escape, lines)) or "No verdict: see the leaderboard."


def _text(node: Any) -> str:
    """The words of a string, a list of strings or an object with a text."""
    if isinstance(node, dict):
        node = node.get("text")
    lines = node if isinstance(node, list) else [node]
    return "\n\n".join(line for line in lines if isinstance(line, str))[:MAX_TEXT]


def _table(entries: list[Entry], metric: str) -> str:
    """The best entries as a markdown table."""
    if not entries:
        return "No runs."
    knobs = list(entries[0].knobs)
    heads = ["rank", metric, *knobs, "epoch", "status"]
    lines = [heads, ["---"] * len(heads)]
    for e in entries[:TOP]:
        value = "" if e.mean is None else f"{e.mean:.4g}"
        if e.sd is not None:
            value += f" ± {e.sd:.2g} ({e.n})"
        shown = [f"{v:g}" if isinstance(v, float) else v for v in e.knobs.values()]
        lines.append(["-" if e.rank is None else e.rank, value, *shown, e.best_epoch, e.status])
    more = len(entries) - TOP
    return "\n".join(map(_row, lines)) + (f"\n\nand {more} more" if more > 0 else "")


def _row(cells: list[Any]) -> str:
    """One line of a markdown table."""
    texts = ["" if c is None else c if isinstance(c, str) else json.dumps(c) for c in cells]
    return "| " + " | ".join(t if t == "---" else _escape(t) for t in texts) + " |"


def _escape(text: str) -> str:
    """Markdown, within one line, that shows a text as it is."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~$&:-])", r"\\\1", printable)


def _printable(text: str) -> str:
    """Text that says nothing to a terminal but itself."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _main() -> None:
    """In a process of its own: the summary comes on stdin, the URL or what is wrong leaves."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the client prints is no answer
    try:
        said = {"url": _publish(Path(sys.argv[1]), json.load(sys.stdin))}
    except UserError as error:
        said = {"error": str(error)}
    with answer:
        json.dump(said, answer)


if __name__ == "__main__":
    _main()
