"""Offline runs uploaded by the real W&B client to a server of the tests' own, which may cheat."""

import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import processes
import pytest
from conftest import REPO
from wandb_server import KEY, WandbServer

from knobs.errors import UserError
from knobs.record import read_config, read_metrics, read_summary
from knobs.storage import Lock
from knobs.tracking import named, replay, sync
from knobs.tracking.tracker import git_revision

UNKNOWN = r"(?i)^(wandb|netrc|.*_proxy$)"  # what this machine knows of W&B and of ways to it
ENV = {name: value for name, value in os.environ.items() if not re.match(UNKNOWN, name)} | {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "1",
    "PYTHONWARNINGS": "error::UserWarning",
}
SYNC = [sys.executable, "-m", "knobs.tracking.sync"]
SWEEP = [sys.executable, str(REPO / "train.py"), "-m", "sweep=s", "optimizer=sgd",
         "optimizer.lr=0.1,1e12", "training.epochs=2", "tracking.mode=offline"]  # fmt: skip


def run(cwd, *command, env=None):
    return processes.run(command, cwd, ENV | {"HOME": str(cwd)} | (env or {}), timeout=180)


# A run mirrored online in two parts, as a resumed one is.
RESUMED = [sys.executable, "-c", """
import pathlib, time
from knobs.record import read_metrics
from knobs.tracking.tracker import Tracker
settings = {"mode": "online", "project": "knobs", "entity": None, "group": None, "tags": [],
            "run_name": "bare", "artifact": False, "timeout": 60}
folder = pathlib.Path("outputs/a")
rows = read_metrics(folder)
for part, (earlier, later, code) in enumerate([([], rows[:1], 130), (rows[:1], rows[1:], 0)]):
    time.sleep(1.1 * part)  # W&B names its folders by the second
    tracker = Tracker({}, folder, earlier, **settings)
    for row in later:
        tracker.log(row)
    tracker.end({"objective": 0.5}, code, None)
    print(tracker.wait())
"""]  # fmt: skip


def write_record(folder):
    folder.mkdir(parents=True)
    config = {"config": {"tracking": {"project": "knobs", "entity": None}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    summary = {"status": "finished", "objective": {"value": 0.5}}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A sweep trained offline: run 0 finished after two epochs, run 1 diverged in the first."""
    cwd = tmp_path_factory.mktemp("written")
    done = run(cwd, *SWEEP)
    assert done.returncode == 0, done.stderr
    return cwd


@pytest.fixture
def offline(written, tmp_path):
    """A copy of it, for a test to change."""
    shutil.copytree(written, tmp_path / "x", symlinks=True)
    return tmp_path / "x"


def folders(cwd):
    return sorted(path.parent for path in cwd.glob("outputs/**/config.json"))


def marks(cwd):
    return sorted(path.parents[1].name for path in cwd.glob(f"outputs/**/{sync.ARRIVED}"))


# ------------------------------------------------------------------ what has arrived
RUN = sync.Mirrored(None, (), "id", rows=2, status="finished", objective=0.5)


@pytest.mark.parametrize(
    ("record", "rows", "objective", "state", "answer"),
    [
        ({}, 2, 0.5, "finished", ""),
        ({}, 1, 0.5, "finished", "1 of 2 epochs arrived"),
        ({}, 3, 0.5, "finished", "3 of 2 epochs arrived"),
        ({}, None, 0.5, "finished", "0 of 2 epochs arrived"),
        ({}, 2, 0.25, "finished", "objective 0.25 instead of 0.5"),
        ({}, 2, None, "finished", "objective None instead of 0.5"),
        ({}, 2, 0.5, "running", "running instead of finished"),
        ({}, 2, 0.5, "failed", "failed instead of finished"),
        ({"status": "stopped_early"}, 2, 0.5, "finished", ""),
        ({"status": "diverged", "objective": None}, 2, None, "failed", ""),
        ({"status": "interrupted"}, 2, 0.5, "finished", "finished instead of failed"),
        ({"status": "", "objective": None}, 2, None, "running", ""),
    ],
)
def test_a_run_has_arrived_when_it_is_as_recorded(record, rows, objective, state, answer):
    there = SimpleNamespace(historyLineCount=rows, summary={"objective": objective}, state=state)
    expected = sync.Mirrored(**(vars(RUN) | record))
    assert sync.missing(expected, there) == answer
    assert sync.missing(expected, None) == "the server has no such run"


def test_a_run_is_its_last_offline_folder_and_those_after_it_and_links_are_passed_over(tmp_path):
    write_record(tmp_path / "a")
    for name in ("offline-run-20260101_120000-aa", "run-20260101_120001-bb", "offline-run-1-cc"):
        (tmp_path / "a" / "wandb" / name).mkdir(parents=True)
        (tmp_path / "a" / "wandb" / name / f"run-{name[-2:]}.wandb").touch()
    offline = tmp_path / "a" / "wandb" / "offline-run-20260101_115959-bb"
    offline.mkdir()
    (offline / "run-bb.wandb").touch()
    (tmp_path / "a" / "wandb" / "run-20260101_115958-bb").mkdir()
    (tmp_path / "a" / "wandb" / "run-20260101_115958-bb" / "run-bb.wandb").touch()
    write_record(tmp_path / "b")
    (tmp_path / "b" / "wandb").symlink_to(tmp_path / "a" / "wandb")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (found,) = sync.find(tmp_path)
    assert (found.folder, found.run_id) == (tmp_path / "a", "bb")
    after = tmp_path / "a" / "wandb" / "run-20260101_120001-bb"
    assert found.parts == (offline, after)
    assert (found.rows, found.status, found.objective) == (2, "finished", 0.5)


def test_a_batch_is_of_one_project():
    runs = [sync.Mirrored(None, (), str(i), project="ab"[i % 2]) for i in range(40)]
    sizes = [(batch[0].project, len(batch)) for batch in sync.batches(runs)]
    assert sizes == [("a", 16), ("a", 4), ("b", 16), ("b", 4)]


# ------------------------------------------------------------------ the real client
def test_what_is_uploaded_is_verified_and_neither_sent_nor_asked_for_again(offline):
    with WandbServer() as server:
        done = run(offline, *SYNC, env=server.env)
        (offline / "outputs/sweeps/s/0/wandb" / sync.ARRIVED).unlink()
        sent = len(server.requests)
        unmarked = run(offline, *SYNC, env=server.env)
        asked = len(server.requests)
        again = run(offline, *SYNC, env=server.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "2 runs mirrored below outputs: 2 uploaded"
    finished, diverged = (server.runs[run.run_id] for run in sync.find(offline))
    for there, folder in zip((finished, diverged), folders(offline), strict=True):
        assert there.history == read_metrics(folder)
        assert there.summary["status"] == read_summary(folder)["status"]
        assert there.summary.get("objective") == read_summary(folder)["objective"]["value"]
        assert there.about["groupName"] == "s"
        assert (there.about["jobType"], there.about["tags"]) == ("train", ["digits", "mlp", "s"])
        name = there.about["displayName"]
        assert (name[:2], float(name[2:])) == ("lr", there.config["optimizer"]["lr"])
        assert there.about["notes"] == there.config["started"]["command"] != ""
        assert there.config["choices"] == read_config(folder)["choices"]
        assert there.about.get("commit") == (git_revision() or "").partition("+")[0]
    assert (len(finished.rows), len(diverged.rows)) == (2, 0)
    assert ("confusion" in finished.summary, "confusion" in diverged.summary) == (True, False)
    assert finished.summary["val/accuracy"].keys() == {"max", "last"}
    assert "confusion.table.json" in server.files
    assert (finished.exit_code, diverged.exit_code) == (0, 5)
    assert marks(offline) == ["0", "1"]
    assert unmarked.stdout.splitlines()[-1].endswith(": 1 already there, 1 verified before")
    assert [r for r in server.requests[sent:] if "file_stream" in r or "UpsertBucket" in r] == []
    assert again.returncode == 0
    assert again.stdout == "2 runs mirrored below outputs: 2 verified before\n"
    assert [r for r in server.requests[asked:] if r.startswith("/graphql")] == []


def test_lost_rows_are_found_and_sent_again(offline):
    with WandbServer(keep=1) as server:
        lossy = run(offline, *SYNC, env=server.env)
        assert marks(offline) == ["1"]
        server.keep = None
        mended = run(offline, *SYNC, env=server.env)
    assert lossy.returncode == 1
    assert lossy.stdout.count("failed: 1 of 2 epochs arrived") == 1
    assert lossy.stdout.splitlines()[-1] == "2 runs mirrored below outputs: 1 uploaded, 1 failed"
    assert mended.returncode == 0, mended.stdout
    last = "2 runs mirrored below outputs: 1 uploaded, 1 verified before"
    assert mended.stdout.splitlines()[-1] == last
    histories = [server.runs[run.run_id].history for run in sync.find(offline)]
    assert histories == list(map(read_metrics, folders(offline)))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [("UpsertBucket", "the server has no such run"), ("file_stream", "")],
)
def test_a_refusal_that_the_client_ends_well_with_is_a_failure(offline, broken, reason):
    with WandbServer(broken=(broken,)) as server:
        done = run(offline, *SYNC, env=server.env)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert ["failed: " + reason in line for line in lines[1:3]] == [True, True]
    assert lines[-1] == "2 runs mirrored below outputs: 2 failed"
    assert marks(offline) == []
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("fault", ["refusing", "down", "no account"])
def test_without_a_server_or_an_account_one_line_says_so(offline, fault):
    with WandbServer(status=500) as server:
        env = server.env
        if fault == "refusing":
            done = run(offline, *SYNC, env=env)
    if fault == "down":
        done = run(offline, *SYNC, env=env)
    if fault == "no account":
        done = run(offline, *SYNC, env={"WANDB_BASE_URL": server.url})
    expected = {
        "refusing": "Failed to verify credentials with",
        "down": "127.0.0.1 does not answer; 2 runs still to upload",
        "no account": "no W&B account here; log in with `wandb login`; 2 runs still to upload",
    }
    assert done.returncode == 1
    assert done.stderr.startswith(f"knobs: {expected[fault]}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert KEY not in done.stderr


def test_a_run_that_cannot_be_read_is_told_and_the_others_arrive(offline):
    base = offline / "outputs" / "sweeps" / "s"
    for name in ("2", "3", "4"):
        shutil.copytree(base / "0", base / name, symlinks=True)
    (base / "2" / "config.json").write_text("{")
    hostile = {"config": {"tracking": {"project": "../../x", "entity": None}}}
    (base / "3" / "config.json").write_text(json.dumps(hostile))
    (base / "4" / "summary.json").unlink()
    with Lock(base / "4" / "run.lock"), WandbServer() as server:
        done = run(offline, *SYNC, env=server.env)
    told = {line.split()[0][-1]: line for line in done.stdout.splitlines()[1:-1]}
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "5 runs mirrored below outputs: 2 uploaded, 3 failed"
    assert "its record cannot be read: CheckpointError: " in told["2"]
    assert "tracking.project: no name that W&B takes" in told["3"]
    assert "under way" in told["4"]
    assert marks(offline) == ["0", "1"]


def test_nothing_to_upload_needs_no_account_and_no_folder_is_an_error(tmp_path):
    (tmp_path / "outputs").mkdir()
    empty = run(tmp_path, *SYNC)
    assert (empty.returncode, empty.stdout) == (0, "0 runs mirrored below outputs\n")
    wrong = run(tmp_path, *SYNC, "nowhere")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("knobs: nowhere: no folder")


def test_a_run_resumed_online_arrives_whole_or_is_not_sent_twice(tmp_path):
    write_record(tmp_path / "outputs" / "a")
    with WandbServer() as server:
        assert run(tmp_path, *RESUMED, env=server.env).stdout.count(server.url) == 2
        ((name, known),) = server.runs.items()
        assert known.history == read_metrics(tmp_path / "outputs" / "a")
        del known.rows[1]
        partly = run(tmp_path, *SYNC, env=server.env)
        assert len(known.rows) == 1
        del server.runs[name]
        whole = run(tmp_path, *SYNC, env=server.env)
    assert partly.returncode == 1
    assert f"failed: 1 of 2 epochs arrived; {sync.TWICE}" in partly.stdout
    assert whole.stdout.splitlines()[-1] == "1 run mirrored below outputs: 1 uploaded"
    assert server.runs[name].history == read_metrics(tmp_path / "outputs" / "a")


# ------------------------------------------------------------------ from the record alone
def test_runs_without_an_account_arrive_from_their_records(tmp_path):
    """As those offline do; what the record has no time of is spread evenly over the run."""
    words = [word for word in SWEEP if not word.startswith("tracking")]
    done = run(tmp_path, *words, env={"WANDB_NOTES": "of the shell that trained"})
    assert done.returncode == 0, done.stderr
    assert "then: python -m knobs.tracking.sync outputs/sweeps/s\n" in done.stdout
    assert not [*tmp_path.glob("outputs/**/wandb")]
    with WandbServer() as server:
        done = run(tmp_path, *SYNC, env=server.env)
        again = run(tmp_path, *SYNC, env=server.env)
        first = tmp_path / "outputs/sweeps/s/0"
        assert done.stdout.splitlines()[-1] == "2 runs mirrored below outputs: 2 uploaded"
        assert again.stdout == "2 runs mirrored below outputs: 2 verified before\n"
        finished, diverged = (server.runs[one.run_id] for one in sync.find(tmp_path))
        summary = read_summary(first)
        assert finished.history == read_metrics(first)
        last, seconds = (first / "summary.json").stat().st_mtime, summary["seconds"]
        times = [finished.rows[n]["_timestamp"] for n in sorted(finished.rows)]
        assert times == pytest.approx([last - seconds / 2, last], abs=1e-3)
        assert (finished.exit_code, diverged.exit_code) == (0, 5)
        assert ("confusion" in finished.summary, "confusion" in diverged.summary) == (True, False)
        assert finished.summary["objective"] == summary["objective"]["value"]
        assert finished.summary["val/accuracy"].keys() == {"max", "last"}
        assert finished.about["displayName"] == "lr0.1"
        assert (finished.about["groupName"], finished.about["tags"]) == (
            "s",
            ["digits", "mlp", "s"],
        )
        assert finished.config["versions"] == summary["versions"]
        assert "host" not in finished.config["started"]  # which this one need not be
        assert [path.name for path in tmp_path.glob("outputs/**/wandb/*")] == [sync.ARRIVED] * 2
        resumed = [sys.executable, str(REPO / "train.py"), "rerun=outputs/sweeps/s/0"]
        done = run(tmp_path, *resumed, "training.epochs=3", "hydra.run.dir=outputs/more")
        assert done.returncode == 0, done.stderr
        (tmp_path / "outputs/more/metrics.jsonl").replace(first / "metrics.jsonl")
        (tmp_path / "outputs/more/summary.json").replace(first / "summary.json")
        done = run(tmp_path, *SYNC, "outputs/sweeps", env=server.env)
        assert "1 uploaded, 1 verified before" in done.stdout  # it has changed since
    assert len(finished.history) == 3
    assert finished.history == read_metrics(first)


@pytest.mark.parametrize(
    ("tracking", "found"),
    [
        ({}, True),
        ({"mode": "online"}, True),
        ({"mode": "offline"}, True),  # whose files are gone
        ({"mode": "disabled"}, False),
        ({"project": None}, False),  # of older runs, by WANDB_MODE=disabled
        ({"_target_": "own.Table"}, False),
        ({"_target_": None}, False),
    ],
)
def test_only_records_that_were_to_be_mirrored_wait_for_an_upload(tracking, found, tmp_path):
    write_record(tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    document = json.loads(path.read_text())
    document["config"]["tracking"] |= {"_target_": sync.TRACKER, "mode": "auto"} | tracking
    path.write_text(json.dumps(document))
    assert [one.rows for one in sync.find(tmp_path)] == [2] * found
    name = "offline-run-20260101_120000-abc"  # whose file is lost: the record can be sent instead
    (tmp_path / "a" / "wandb" / name).mkdir(parents=True)
    (one,) = sync.find(tmp_path)
    assert one.parts == ()
    lost = f"{name} has lost its run-abc.wandb, which holds what was to be uploaded"
    assert one.fault == ("" if found else lost)


def test_a_mode_that_a_variable_disables_is_in_the_record(monkeypatch):
    settings = {"_target_": sync.TRACKER, "mode": "auto", "project": "mine"}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert named(settings, "a")["mode"] == "disabled"
    monkeypatch.delenv("WANDB_MODE")
    assert named(settings, "a")["mode"] == "auto"


def test_a_record_that_the_client_does_not_take_is_told_and_the_others_arrive(tmp_path):
    for name in "ab":
        write_record(tmp_path / "outputs" / name)
        path = tmp_path / "outputs" / name / "config.json"
        tracking = {"_target_": sync.TRACKER, "mode": "auto", "project": "p", "entity": None}
        tracking |= {"group": None, "tags": None, "run_name": name, "artifact": False}
        tracking |= {"timeout": 5} if name == "b" else {"colour": "blue"}
        path.write_text(json.dumps({"config": {"tracking": tracking}}))
        summary = {"status": "finished", "objective": {"value": 0.5, "metric": "m", "mode": "max"}}
        summary |= {"metrics": {}, "test": None, "best_epoch": 2, "epochs": 2}
        summary |= {"seconds": 1.0, "samples_per_second": 1}
        (path.parent / "summary.json").write_text(json.dumps(summary))
    with WandbServer() as server:
        done = run(tmp_path, *SYNC, env=server.env)
    assert done.returncode == 1
    assert re.search(r"a +2 +failed: .*its record cannot be read: TypeError: .*colour", done.stdout)
    assert re.search(r"b +2 +uploaded", done.stdout)
    assert [one.about["displayName"] for one in server.runs.values()] == ["b"]


@pytest.mark.parametrize(
    "name", ["checkpoints", "checkpoints/best.safetensors", "predictions.safetensors"]
)
def test_what_a_link_leads_to_is_not_uploaded(name, tmp_path):
    write_record(tmp_path / "a")
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "a" / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=f"^{re.escape(name)} is a link, which is not followed$"):
        replay.write(tmp_path / "a", tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()
