"""A sweep's W&B Report, saved by the real client on a server of the tests' own."""

import json
import os
import re
import sys

import processes
import pytest
from fake_sweeps import add_run, fake_study
from wandb_server import KEY, SILENT, WandbServer

from knobs.errors import UserError
from knobs.report import wandb_report
from knobs.report.analysis import make
from knobs.report.markdown import answer
from knobs.report.read import read_runs

SECRET = "supersecretvalue"
GROUP = "a'b\" =<5> within_last 5 days é\\"  # the filter's language would rewrite most of it
UNKNOWN = r"(?i)^(wandb|netrc|.*_proxy$)"  # what this machine knows of W&B and of ways to it
ENV = {name: value for name, value in os.environ.items() if not re.match(UNKNOWN, name)} | {
    "PYTHONWARNINGS": "error::DeprecationWarning:wandb_workspaces",
    "MY_API_TOKEN": SECRET,
    "COLUMNS": "1000",
}


def tracked(sweep, group=GROUP, mode="auto"):
    """A sweep whose runs are in a W&B group."""
    for path in sweep.glob("*/config.json"):
        about = json.loads(path.read_text())
        tracking = {"mode": mode, "project": "knobs", "entity": None, "group": group}
        about["config"]["tracking"] = tracking
        path.write_text(json.dumps(about))
    return sweep


def small(sweep, group=GROUP, mode="auto"):
    """Four runs: two optimizers by two rates."""
    for name, values in {"adam": (0.75, 0.5), "momentum": (0.25, 0.9)}.items():
        for lr, value in zip((1e-3, 1e-1), values, strict=True):
            add_run(sweep, {"optimizer": name, "optimizer.lr": lr}, value=value)
    return tracked(sweep, group, mode)


def study(sweep):
    """A confirmed study in which one run of the search was luckier than all that confirm."""
    fake_study(sweep, n=4)
    about = json.loads((sweep / "study.json").read_text())
    run = add_run(sweep, {"optimizer": "sgd", "optimizer.lr": 0.5}, value=0.999)
    about["runs"][run.name] = {"arm": "optimizer=sgd", "role": "search"}
    about["question"] += f" {SECRET}"
    (sweep / "study.json").write_text(json.dumps(about))
    return tracked(sweep)


def publish(cwd, env):
    command = [sys.executable, "-m", "knobs.report", "sweep", "--wandb"]
    return processes.run(command, cwd, ENV | {"HOME": str(cwd)} | env)


def kept(cwd):
    return json.loads((cwd / "sweep" / wandb_report.SPEC).read_text())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A study's report made, and made again when it had one run more."""
    cwd = tmp_path_factory.mktemp("published")
    study(cwd / "sweep")
    with WandbServer() as server:
        first = publish(cwd, server.env)
        first.spec = kept(cwd)
        add_run(cwd / "sweep", {"optimizer": "sgd"}, status="failed")
        second = publish(cwd, server.env)
    return first, second, server, cwd


def blocks(spec, kind):
    return [block for block in spec["blocks"] if block["type"] == kind]


def url(done):
    return done.stdout.splitlines()[-1].removeprefix("W&B   ")


def test_the_report_is_there_under_the_url_that_is_printed(published):
    first, _, server, _ = published
    assert (first.returncode, first.stderr) == (0, "")
    assert url(first) == f"{server.url}/me/knobs/reports/a-b-5-within_last-5-days-é-sweep--view0"
    assert first.spec["url"] == url(first)


def test_the_same_command_renews_the_report(published):
    first, second, server, cwd = published
    assert url(second) == url(first)
    ((name, view),) = server.views.items()
    assert (name, view["entityName"], view["projectName"]) == ("view0", "me", "knobs")
    assert json.loads(view["spec"]) == kept(cwd)["spec"]
    (before,), (after,) = (blocks(s["spec"], "markdown-block") for s in (first.spec, kept(cwd)))
    assert "1 failed" not in before["content"]
    assert "1 failed" in after["content"]


def test_it_shows_the_runs_of_the_group_best_first(published):
    (grid,) = blocks(published[0].spec["spec"], "panel-grid")
    (runset,) = grid["metadata"]["runSets"]
    (group,) = runset["filters"]["filters"]
    assert group["key"] == {"section": "run", "name": "group"}
    assert (group["op"], group["value"], group["disabled"]) == ("=", GROUP, False)
    (order,) = runset["sort"]["keys"]
    assert order == {"key": {"section": "summary", "name": "objective"}, "ascending": False}
    assert list(runset["runFeed"]["columnPinned"]) == [
        "summary:objective",
        "config:choices.value.optimizer",
        "config:optimizer.value.lr",
        "config:model.value.width",
    ]


def test_it_has_every_panel(published):
    (grid,) = blocks(published[0].spec["spec"], "panel-grid")
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    line = "Run History Line Plot"
    assert [panel["viewType"] for panel in panels] == [
        *("Parallel Coordinates Plot", "Parameter Importance", line, line, line, "Run Comparer")
    ]
    axes = [(axis["accessor"], axis["log"]) for axis in panels[0]["config"]["columns"][:-1]]
    assert axes == [
        ("config:choices.value.optimizer", False),
        ("config:optimizer.value.lr", True),
        ("config:model.value.width", True),
    ]
    assert panels[0]["config"]["columns"][-1]["accessor"] == "summary:objective"
    assert panels[1]["config"]["targetKey"] == "objective"
    drawn = [panel["config"]["metrics"] for panel in panels[2:5]]
    assert drawn == [["train/loss"], ["val/loss"], ["val/accuracy"]]


def test_the_verdict_is_the_reports_and_a_lucky_run_does_not_lead(published):
    (block,) = blocks(published[0].spec["spec"], "markdown-block")
    report = json.loads((published[3] / "sweep" / "report.json").read_text())
    assert block["content"].splitlines()[0] == f"**{report['verdict']['headline']}**"
    assert re.search(r"both beat|beats|not significantly different", block["content"])
    rows = [line for line in block["content"].splitlines() if line.startswith("| ")]
    mean = report["leaderboard"][0]["mean"]
    assert rows[1].startswith(f"| 1 | {mean:.4f} ± ")
    assert rows[1].split(" | ")[1].endswith(" (5)")
    lucky = next(row for row in rows if "0.9990" in row)
    assert rows.index(lucky) > 3


def test_no_secret_is_sent_or_kept(published):
    _, _, server, cwd = published
    everything = "\n".join(server.requests) + (cwd / "sweep" / wandb_report.SPEC).read_text()
    assert "hidden" in "\n".join(server.requests)
    assert SECRET not in everything
    assert KEY not in everything


def test_only_the_line_with_a_secret_is_hidden(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", SECRET)
    shown = wandb_report.contents(make([small(tmp_path / "s")]), f"one\ntwo {SECRET}\nthree")
    assert shown.lines == ["one", "<hidden>", "three"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refusing", "Failed to verify credentials"),
        ("saving", "giving up after 2 attempt(s)"),
        ("silent", "Failed to verify credentials"),
        ("down", "127.0.0.1 does not answer"),
        ("no account", "no W&B account here; log in with `wandb login`"),
        ("offline", "W&B is offline here, as asked"),
    ],
)
def test_what_went_wrong_is_stated_and_the_spec_stays(tmp_path, fault, reason):
    small(tmp_path / "sweep")
    status = {"refusing": 500, "silent": SILENT}.get(fault, 200)
    with WandbServer(status, broken=("upsertView",) if fault == "saving" else ()) as server:
        env = server.env | {"WANDB_HTTP_TIMEOUT": "3"}
        if fault == "no account":
            env.pop("WANDB_API_KEY")
        if fault == "offline":
            env["WANDB_MODE"] = "offline"
        if fault != "down":
            done = publish(tmp_path, env)
    if fault == "down":
        done = publish(tmp_path, env)
    assert (done.returncode, "W&B" in done.stdout) == (1, False)
    assert done.stderr.startswith("W&B did not take the report: ")
    assert reason in done.stderr
    assert f"its spec is in sweep/{wandb_report.SPEC}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr
    assert [block["type"] for block in kept(tmp_path)["spec"]["blocks"]].count("panel-grid") == 1
    assert kept(tmp_path)["id"] == ""
    assert server.views == {}


def test_a_client_that_hangs_is_ended(tmp_path, monkeypatch):
    report = make([small(tmp_path / "sweep")])
    monkeypatch.setattr(wandb_report, "DEADLINE", 0.1)
    with pytest.raises(UserError, match=r"not done after 0\.1 s; the same command tries again$"):
        wandb_report.publish(report, "")


@pytest.mark.parametrize("kind", ["large", "deep", "pipe", "list"])
def test_a_spec_that_is_none_is_as_good_as_no_spec(tmp_path, kind):
    path = tmp_path / wandb_report.SPEC
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text({"large": "", "deep": "[" * 100_000, "list": "[1]"}[kind])
    if kind == "large":
        os.truncate(path, 2**40)
    assert wandb_report._earlier(tmp_path, {"group": "g"}) == ""
    assert "the same command tries again" in str(wandb_report._refused("no", tmp_path))


# ------------------------------------------------------------------ without W&B
def test_the_place_is_where_most_runs_are(tmp_path):
    runs = read_runs(small(tmp_path / "sweep", "one"))
    runs += read_runs(small(tmp_path / "other", "two"))[:1]
    assert wandb_report.place(runs) == {"group": "one", "project": "knobs", "entity": ""}


@pytest.mark.parametrize(("group", "mode"), [(None, "auto"), ("one", "disabled"), (["x"], "auto")])
def test_runs_without_a_group_make_no_report(tmp_path, group, mode):
    report = make([small(tmp_path / "sweep", group, mode)])
    with pytest.raises(UserError, match="none of the runs is in a W&B group"):
        wandb_report.publish(report, "")


def test_what_records_hold_is_no_markup(tmp_path):
    folder = small(tmp_path / "sweep")
    config = (folder / "0" / "config.json").read_text()
    foreign = config.replace(
        '"optimizer": "adam"', '"optimizer": "<b>|![x](http://y)$a$\\n\\u001b[1m"'
    )
    (folder / "0" / "config.json").write_text(foreign)
    text = "\n".join(answer(make([folder])))
    assert r"| &lt;b&gt;\|!\[x\](http\://y)\$a\$��\[1m |" in text
    assert sum(line.startswith("|") for line in text.splitlines()) == 6
    assert "\x1b" not in text
