"""A sweep's W&B Report, saved by the real client on a server of the tests' own."""

import json
import os
import re
import subprocess
import sys

import pytest
from wandb_server import KEY, SILENT, WandbServer

from knobs.errors import UserError
from knobs.report import wandb_report
from knobs.report.leaderboard import leaderboard, read_runs

SECRET = "supersecretvalue"
GROUP = "a'b\" =<5> within_last 5 days é\\"  # the filter's language would rewrite most of it
UNKNOWN = r"(?i)^(wandb|netrc|.*_proxy$)"  # what this machine knows of W&B and of ways to it
ENV = {name: value for name, value in os.environ.items() if not re.match(UNKNOWN, name)} | {
    "PYTHONWARNINGS": "error::DeprecationWarning:wandb_workspaces",
    "MY_API_TOKEN": SECRET,
}
PUBLISH = [sys.executable, "-c", """
import json, pathlib, sys
from knobs.errors import UserError, tell
from knobs.report.wandb_report import publish
try:
    print(publish(pathlib.Path("sweep"), json.loads(sys.argv[1])))
except UserError as error:
    sys.exit(tell(error))
"""]  # fmt: skip
SUMMARY = {"question": "Which optimizer?", "verdict": f"Use **adam**, not {SECRET}"}


def write_sweep(folder, group=GROUP, mode="auto"):
    """Four runs: two optimizers by two rates."""
    runs = [("adam", "torch.optim.Adam", 1e-3, 0.75), ("adam", "torch.optim.Adam", 1e-1, 0.5),
            ("momentum", "torch.optim.SGD", 1e-3, 0.25), ("momentum", "torch.optim.SGD", 1e-1, 0.9)]  # fmt: skip
    for number, (option, target, lr, value) in enumerate(runs):
        run = folder / str(number)
        run.mkdir(parents=True)
        tracking = {"mode": mode, "project": "knobs", "entity": None, "group": group}
        config = {
            "overrides": [f"optimizer={option}", f"optimizer.lr={lr}"],
            "choices": {"optimizer": option},
            "config": {"optimizer": {"_target_": target, "lr": lr}, "tracking": tracking},
        }
        objective = {"metric": "val/accuracy", "mode": "max", "value": value}
        summary = {"status": "finished", "objective": objective, "best_epoch": 2, "seconds": 1.0}
        (run / "config.json").write_text(json.dumps(config))
        (run / "summary.json").write_text(json.dumps(summary))
    return folder


def publish(cwd, env, summary=SUMMARY):
    return subprocess.run(
        [*PUBLISH, json.dumps(summary)], cwd=cwd, env=ENV | {"HOME": str(cwd)} | env, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip


def kept(cwd):
    return json.loads((cwd / "sweep" / wandb_report.SPEC).read_text())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A report made, and made again with another verdict."""
    cwd = tmp_path_factory.mktemp("published")
    write_sweep(cwd / "sweep")
    with WandbServer() as server:
        first = publish(cwd, server.env)
        first.spec = kept(cwd)
        second = publish(cwd, server.env, SUMMARY | {"verdict": "Use momentum"})
    return first, second, server, cwd


def blocks(spec, kind):
    return [block for block in spec["blocks"] if block["type"] == kind]


def test_the_report_is_there_under_the_url_told(published):
    first, _, server, _ = published
    assert (first.returncode, first.stderr) == (0, "")
    assert (
        first.stdout == f"{server.url}/me/knobs/reports/a-b-5-within_last-5-days-é-sweep--view0\n"
    )
    assert first.spec["url"] == first.stdout.strip()


def test_the_same_command_renews_the_report(published):
    first, second, server, cwd = published
    assert second.stdout == first.stdout
    ((name, view),) = server.views.items()
    assert (name, view["entityName"], view["projectName"]) == ("view0", "me", "knobs")
    assert json.loads(view["spec"]) == kept(cwd)["spec"]
    assert blocks(kept(cwd)["spec"], "markdown-block")[0]["content"] == "Use momentum"


def test_it_shows_the_runs_of_the_group_best_first(published):
    (grid,) = blocks(published[0].spec["spec"], "panel-grid")
    (runset,) = grid["metadata"]["runSets"]
    (group,) = runset["filters"]["filters"]
    assert group["key"] == {"section": "run", "name": "group"}
    assert (group["op"], group["value"], group["disabled"]) == ("=", GROUP, False)
    (order,) = runset["sort"]["keys"]
    assert order == {"key": {"section": "summary", "name": "objective"}, "ascending": False}
    pinned = ["summary:objective", "config:optimizer.value._target_", "config:optimizer.value.lr"]
    assert list(runset["runFeed"]["columnPinned"]) == pinned


def test_it_has_every_panel(published):
    (grid,) = blocks(published[0].spec["spec"], "panel-grid")
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    line = "Run History Line Plot"
    assert [panel["viewType"] for panel in panels] == [
        *("Parallel Coordinates Plot", "Parameter Importance", line, line, line, "Run Comparer")
    ]
    axes = [(axis["accessor"], axis["log"]) for axis in panels[0]["config"]["columns"][:-1]]
    assert axes == [("config:optimizer.value._target_", False), ("config:optimizer.value.lr", True)]
    assert panels[0]["config"]["columns"][-1]["accessor"] == "summary:objective"
    assert panels[1]["config"]["targetKey"] == "objective"
    drawn = [panel["config"]["metrics"] for panel in panels[2:5]]
    assert drawn == [["train/loss"], ["val/loss"], ["val/accuracy"]]


def test_the_verdict_and_the_leaderboard_are_text(published):
    verdict, table = blocks(published[0].spec["spec"], "markdown-block")
    assert verdict["content"] == "\\<hidden\\>"
    assert table["content"].splitlines() == [
        "| rank | val/accuracy | optimizer | optimizer.lr | epoch | status |",
        "| --- | --- | --- | --- | --- | --- |",
        "| 1 | 0.9 | momentum | 0.1 | 2 | finished |",
        "| 2 | 0.75 | adam | 0.001 | 2 | finished |",
        "| 3 | 0.5 | adam | 0.1 | 2 | finished |",
        "| 4 | 0.25 | momentum | 0.001 | 2 | finished |",
    ]


def test_no_secret_is_sent_or_kept(published):
    _, _, server, cwd = published
    everything = "\n".join(server.requests) + (cwd / "sweep" / wandb_report.SPEC).read_text()
    assert "hidden" in "\n".join(server.requests)
    assert SECRET not in everything
    assert KEY not in everything


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refusing", "Failed to verify credentials"),
        ("saving", "giving up after 2 attempt(s)"),
        ("silent", "Failed to verify credentials"),
        ("down", "127.0.0.1 does not answer"),
        ("no account", "no W&B account here (wandb login makes one)"),
        ("offline", "W&B is offline here, as asked"),
    ],
)
def test_what_went_wrong_is_said_and_the_spec_stays(tmp_path, fault, reason):
    write_sweep(tmp_path / "sweep")
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
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("knobs: W&B did not take the report: ")
    assert reason in done.stderr
    assert f"its spec is in sweep/{wandb_report.SPEC}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert KEY not in done.stderr
    assert [block["type"] for block in kept(tmp_path)["spec"]["blocks"]].count("panel-grid") == 1
    assert kept(tmp_path)["id"] == ""
    assert server.views == {}


def test_a_client_that_hangs_is_ended(tmp_path, monkeypatch):
    write_sweep(tmp_path / "sweep")
    monkeypatch.setattr(wandb_report, "DEADLINE", 0.1)
    with pytest.raises(UserError, match=r"not done after 0\.1 s; the same command tries again$"):
        wandb_report.publish(tmp_path / "sweep", SUMMARY)


# ------------------------------------------------------------------ without W&B
def test_the_place_is_where_most_runs_are(tmp_path):
    runs = read_runs(write_sweep(tmp_path / "sweep", "one"))
    runs += read_runs(write_sweep(tmp_path / "other", "two"))[:1]
    assert wandb_report.place(runs) == {"group": "one", "project": "knobs", "entity": ""}


@pytest.mark.parametrize(("group", "mode"), [(None, "auto"), ("one", "disabled"), (["x"], "auto")])
def test_runs_without_a_group_make_no_report(tmp_path, group, mode):
    runs = read_runs(write_sweep(tmp_path / "sweep", group, mode))
    with pytest.raises(UserError, match="none of the runs is in a W&B group"):
        wandb_report.place(runs)


def test_what_records_say_is_no_markup(tmp_path):
    folder = write_sweep(tmp_path / "sweep")
    config = (folder / "0" / "config.json").read_text()
    foreign = config.replace(
        '"optimizer": "adam"', '"optimizer": "<b>|![x](http://y)\\n\\u001b[1m"'
    )
    (folder / "0" / "config.json").write_text(foreign)
    table = wandb_report._table(leaderboard(read_runs(folder)), "val/accuracy")
    assert r"| \<b\>\|\!\[x\]\(http\://y\)  \[1m |" in table
    assert len(table.splitlines()) == 6
    assert "\x1b" not in table
