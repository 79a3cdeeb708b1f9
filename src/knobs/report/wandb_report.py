"""A sweep as a W&B Report: the verdict, the leaderboard, and panels over the runs of its group.

The panels are W&B's own and draw what its server has; text and table come from the records. The
report's spec lies beside the sweep's page whether or not W&B took it.
"""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs.errors import UserError, first_line
from knobs.identity import leaves
from knobs.record import BROKEN, as_json, read_json, write
from knobs.report.conclusions import Report
from knobs.report.records import RunRecord, Sweep
from knobs.secrets import public
from knobs.tracking import sync
from knobs.tracking.account import kept_offline, no_account, no_server
from knobs.tracking.tracker import BOUNDED, QUIET
from knobs.words import printable

SPEC = "wandb_report.json"
KNOCK = 5.0  # seconds to wait for the server at first
DEADLINE = 60.0  # seconds for all of it
VIEW_ID = re.compile(r"[\w=+/-]{1,200}")


@dataclass(frozen=True)
class Contents:
    """The contents of a W&B report, as they cross to the process that sends it.

    Args:
        place: group, project, and entity, empty for the account's own.
        metric, mode: of the objective.
        axes: paths in the runs' configs that tell their knobs apart -> whether on a log axis.
        lines: the verdict and the leaderboard as Markdown.
    """

    place: dict[str, str]
    metric: str
    mode: str
    axes: dict[str, bool]
    question: str
    lines: list[str]


def contents(report: Report, text: str) -> Contents:
    """Choose what of a report W&B shows, without secrets.

    Raises:
        UserError: none of the runs is in a W&B group.
    """
    sweep, goal = report.sweep, report.sweep.objective
    question = public(printable(sweep.question, 500))
    lines = public(text.splitlines())
    return Contents(place(sweep.runs), goal.metric, goal.mode, axes(sweep), question, lines)


def publish(report: Report, text: str) -> str:
    """Make the sweep's W&B Report, or renew the one made before; its URL comes back.

    A process of its own does it: there is a bound on W&B's client as a whole only from outside.

    Args:
        text: the verdict and the leaderboard as Markdown.

    Raises:
        UserError: W&B did not take it; why, and how to go on.
    """
    folder = report.sweep.folders[0]
    sent = json.dumps(dataclasses.asdict(contents(report, text))).encode()
    args = [sys.executable, "-m", "knobs.report.wandb_report", str(folder)]
    with tempfile.TemporaryFile() as reply:  # no pipe, which a service of W&B's may keep open
        try:
            subprocess.run(args, input=sent, stdout=reply, start_new_session=True, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise _refused(f"it was not done after {DEADLINE:g} s", folder) from None
        reply.seek(0)
        url, error = json.loads(reply.read() or "[null, null]")
    if not url:
        raise UserError(error or "the W&B report ended with the error above")
    return url


def _publish(folder: Path, shown: Contents) -> str:
    """Do what `publish` does in this process, for as long as it takes."""
    os.environ.update(BOUNDED | QUIET | dict(os.environ))  # before the import, which reads them
    import wandb

    about = shown.place | {"server": str(wandb.setup().settings.base_url)}
    report = compose(shown)
    model = report._to_model().spec  # as W&B stores it; there is no public way to it
    plain = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    report.id = _earlier(folder, about)
    spec = about | {"title": report.title, "id": report.id, "spec": plain}
    write(folder / SPEC, as_json(spec))
    try:
        url = _save(report)
    except Exception as error:  # as many kinds as there are layers below
        raise _refused(public(printable(first_line(error))), folder) from None
    spec |= {"id": report.id, "url": url}
    write(folder / SPEC, as_json(spec))
    return url


def _refused(why: str, folder: Path) -> UserError:
    again = "the same command tries again"
    if (folder / SPEC).exists():
        again += f", its spec is in {folder / SPEC}"
        again += " (delete that if the report was deleted)" if _kept(folder).get("id") else ""
    return UserError(f"W&B did not take the report: {why}; {again}")


def unsent(folder: Path) -> str:
    """Return a line on the runs that a report cannot show yet; empty if there are none."""
    offline = [
        run
        for run in sync.find(folder)
        if not run.parts or run.parts[-1].name.startswith("offline-")
    ]
    count = sum(not (run.folder / "wandb" / sync.ARRIVED).is_file() for run in offline)
    return f"{count} of its runs may not be uploaded yet: make sync" if count else ""


def _save(report: Any) -> str:
    """Send a report; return its URL."""
    import wandb

    if kept_offline(os.environ.get("WANDB_MODE", "online")):
        raise UserError(f"W&B is {wandb.setup().settings.mode} here, as asked")
    if why := no_account() or no_server(KNOCK):
        raise UserError(why)
    api = wandb.Api()
    report.entity = report.entity or api.settings["entity"] or api.default_entity
    report.save()
    return printable(report.url)


def _earlier(folder: Path, about: dict[str, str]) -> str:
    """Return the id of the report made before for the same place; empty if there is none."""
    spec = _kept(folder)
    same, view = all(spec.get(key) == about[key] for key in about), spec.get("id")
    return view if same and isinstance(view, str) and VIEW_ID.fullmatch(view) else ""


def _kept(folder: Path) -> dict[str, Any]:
    """Return the spec of the report made before; empty where none can be read."""
    with contextlib.suppress(BROKEN):
        spec = read_json(folder / SPEC)
        return spec if isinstance(spec, dict) else {}
    return {}


def place(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return where most of the runs are in W&B: group, project, and entity, empty for the default.

    Raises:
        UserError: none of them is in a group.
    """
    keys, places = ("group", "project", "entity"), Counter()
    for run in runs:
        node = run.config.get("tracking")
        if isinstance(node, dict) and node.get("mode") != "disabled":
            names = tuple(node.get(key) or "" for key in keys)
            if all(isinstance(name, str) for name in names) and names[0] and names[1]:
                places[names] += 1
    if not places:
        raise UserError("no W&B report: none of the runs is in a W&B group (tracking=local?)")
    return dict(zip(keys, places.most_common(1)[0][0], strict=True))


def axes(sweep: Sweep) -> dict[str, bool]:
    """Return paths in the runs' configs that tell their knobs apart -> whether on a log axis.

    An option of a group lies in `choices`, as the mirror sends it.
    """
    knobs = list(sweep.entries[0].knobs) if sweep.entries else []
    log = {knob.name for knob in sweep.space if knob.log}
    runs = [run for run in sweep.runs if run.setting]
    configs = [dict(leaves(run.config)) for run in runs]
    paths = {}
    for knob in knobs:
        if all(knob in run.choices for run in runs):
            paths[f"choices.{knob}"] = False
        elif all(knob in config for config in configs):
            paths[knob] = knob in log
    return paths


def compose(shown: Contents) -> Any:
    """Return the whole report, as wandb_workspaces has it. Needs no network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, on pydantic's old ways
        import wandb_workspaces.reports.v2 as wr

    group, minimum = shown.place["group"], shown.mode == "min"
    lines = dict.fromkeys(["train/loss", "val/loss", shown.metric])
    knobs = [wr.ParallelCoordinatesPlotColumn(wr.Config(k), log=v) for k, v in shown.axes.items()]
    best = wr.ParallelCoordinatesPlotColumn(
        wr.SummaryMetric("objective"), display_name=f"best {shown.metric}", inverted=minimum
    )
    panels = [  # on a grid of 24 columns
        wr.ParallelCoordinatesPlot(columns=[*knobs, best], layout=wr.Layout(0, 0, 24, 10)),
        wr.ParameterImportancePlot(with_respect_to="objective", layout=wr.Layout(0, 10, 24, 8)),
        *(
            wr.LinePlot(title=name, y=[name], title_x="epoch", layout=wr.Layout(8 * i, 18, 8, 8))
            for i, name in enumerate(lines)
        ),
        wr.RunComparer(diff_only="split", layout=wr.Layout(0, 26, 24, 10)),
    ]
    # W&B's filter language rewrites every = and < that it sees.
    letters = (c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in group)
    runset = wr.Runset(
        name=group,
        filters=f"Metric('Group') == '{''.join(letters)}'",
        order=[wr.OrderBy(wr.SummaryMetric("objective"), ascending=minimum)],
        pinned_columns=[  # of a config, each value of the first level lies under `value`
            "summary:objective",
            *(re.sub(r"^[^.]*", r"config:\g<0>.value", path) for path in shown.axes),
        ],
    )
    return wr.Report(
        project=shown.place["project"],
        entity=shown.place["entity"],
        title=re.sub(r"[^\w.-]+", " ", group).strip()[:100] + " sweep",
        description=shown.question,
        blocks=[
            wr.MarkdownBlock(text="\n".join(shown.lines)),
            wr.H2(text="Runs"),
            wr.PanelGrid(runsets=[runset], panels=panels),
        ],
        width="fluid",
    )


def _main() -> None:
    """Publish the contents that come on stdin; answer with the URL, or with what is wrong."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the client prints is no answer
    try:
        answer = _publish(Path(sys.argv[1]), Contents(**json.load(sys.stdin))), None
    except UserError as error:
        answer = None, str(error)
    with reply:
        json.dump(answer, reply)


if __name__ == "__main__":
    _main()
