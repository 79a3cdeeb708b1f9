"""Runs mirrored by the real W&B client, to a server of the tests' own or to a file."""

import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from types import SimpleNamespace

import numpy as np
import processes
import pytest
from conftest import REPO
from wandb_server import KEY, SILENT, WandbServer, plain

from knobs.config import command
from knobs.errors import ConfigError
from knobs.record import read_config, read_metrics, read_summary
from knobs.tracking.account import DAY, STAMP, answers, traced
from knobs.tracking.tracker import Tracker, git_revision, run_id, upload

SECRET = "supersecretvalue"
UNKNOWN = r"(?i)^(wandb|netrc|.*_proxy$)"  # what this machine knows of W&B and of ways to it
ENV = {name: value for name, value in os.environ.items() if not re.match(UNKNOWN, name)} | {
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "error::UserWarning",
    "MY_API_TOKEN": SECRET,
}
TRAIN = [sys.executable, str(REPO / "train.py"), "training.epochs=2"]
WANDB = [sys.executable, "-m", "wandb"]
# Runs what follows, and says at its end whether it has imported W&B's client.
PROBE = [sys.executable, "-c", """
import atexit, runpy, sys
sys.argv.pop(0)
atexit.register(lambda: print("imported:", "wandb" in sys.modules))
runpy.run_path(sys.argv[0], run_name="__main__")
"""]  # fmt: skip
# One epoch mirrored from FOLDER without training it: TRACKER FOLDER EPOCH TIMEOUT.
TRACKER = [sys.executable, "-c", """
import pathlib, sys
from knobs.record import read_metrics
from knobs.tracking.tracker import Tracker
settings = {"mode": "auto", "project": "knobs", "entity": None, "group": None, "tags": [],
            "run_name": "bare", "artifact": False, "timeout": float(sys.argv[3])}
folder = pathlib.Path(sys.argv[1])
tracker = Tracker({}, folder, read_metrics(folder), **settings)
tracker.log({"epoch": int(sys.argv[2]), "val/loss": 0.5})
tracker.end({"status": "finished"}, 0, None)
print("  W&B ", tracker.wait())
"""]  # fmt: skip
NO_HANG = 60  # seconds; a run that waits for a dead server takes longer
PATIENT = "tracking.timeout=60"  # for a server that answers, on a machine that has other work


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Run train.py as someone without a W&B account, unless env brings one."""
    home = str(tmp_path_factory.mktemp("home"))

    def run(cwd, *args, env=None, command=TRAIN):
        began = time.monotonic()
        env = ENV | {"HOME": home} | (env or {})
        done = processes.run([*command, *args], cwd, env, timeout=180)
        done.seconds = time.monotonic() - began
        found = re.search(r"^  W&B +(.*)", done.stdout, re.MULTILINE)
        done.line = found and found[1]
        return done

    return run


@pytest.fixture(scope="module")
def online(train, tmp_path_factory):
    """One run that arrived: server, its only run there, and its own folder."""
    cwd = tmp_path_factory.mktemp("online")
    tracking = ["group=evening", "tags=[first,'${oc.env:MY_API_TOKEN}']", "artifact=true"]
    with WandbServer() as server:
        done = train(
            cwd, "hydra.run.dir=run", "name=mine", "scheduler=cosine", PATIENT,
            *(f"tracking.{setting}" for setting in tracking), env=server.env | {"HOME": str(cwd)},
        )  # fmt: skip
    (run,) = server.runs.values()
    return SimpleNamespace(done=done, server=server, run=run, folder=cwd / "run")


@pytest.fixture(scope="module")
def offline(train, tmp_path_factory):
    """One run offline as asked, that read a secret from the environment."""
    cwd = tmp_path_factory.mktemp("offline")
    secret = [
        "tracking.mode=offline",
        "tracking.run_name=${oc.env:MY_API_TOKEN}",
        "tracking.group='of ${oc.env:MY_API_TOKEN}'",
    ]
    done = train(cwd, "hydra.run.dir=run", *secret)
    return SimpleNamespace(done=done, cwd=cwd, folder=cwd / "run")


@pytest.fixture(scope="module")
def kept(train, tmp_path_factory):
    """One run without an account."""
    cwd = tmp_path_factory.mktemp("kept")
    done = train(cwd, "hydra.run.dir=run", command=[*PROBE, *TRAIN[1:]])
    return SimpleNamespace(done=done, cwd=cwd, folder=cwd / "run")


def records(folder):
    """Everything in the W&B file below a folder, read by W&B's own reader."""
    done = subprocess.run(
        [*WANDB, "leet", "inspect", "--json", str(folder)],
        capture_output=True, text=True, check=True, env=ENV, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def models(server):
    """The checkpoints among what arrived; a table is an artifact, too."""
    return [one for one in server.artifacts if one["artifactTypeName"] == "model"]


def logged(found):
    return [plain(record["history"]["item"]) for record in found if record["type"] == "history"]


# ------------------------------------------------------------------ online
def test_a_run_online_says_where_it_is(online):
    assert online.done.returncode == 0, online.done.stderr
    assert online.done.stderr == ""
    (run_id,) = online.server.runs
    assert online.done.line == f"{online.server.url}/me/knobs/runs/{run_id}"
    assert online.run.exit_code == 0


def test_every_metric_of_every_epoch_arrives(online):
    recorded = read_metrics(online.folder)
    assert [row["epoch"] for row in recorded] == [1, 2]
    assert {"train/loss", "val/loss", "val/accuracy", "lr"} <= set(recorded[0])
    assert online.run.history == recorded
    assert [row["_step"] for row in online.run.rows.values()] == [1, 2]


def test_the_config_arrives_resolved_with_what_ran(online):
    config = online.run.config
    assert config["optimizer"]["lr"] == 0.001
    typed = config["started"]["command"]  # as the record has it: a variable by its name
    assert typed.startswith("python train.py ")
    assert "${" not in json.dumps(config).replace(json.dumps(typed), "")
    assert config["versions"]["torch"] == read_summary(online.folder)["versions"]["torch"]
    assert config["versions"].get("git", "")[:40] == (git_revision() or "")[:40]


def test_name_group_and_tags_arrive(online):
    about = online.run.about
    assert (about["displayName"], about["groupName"]) == ("mine", "evening")
    assert about["tags"] == ["first", "<hidden>"]
    assert about["project"] == "knobs"


def test_the_best_values_are_in_the_summary(online):
    summary = read_summary(online.folder)
    assert online.run.summary["best/val/accuracy"] == summary["metrics"]["val/accuracy"]
    assert online.run.summary["objective"] == summary["objective"]["value"]
    assert online.run.summary["best_epoch"] == summary["best_epoch"]
    assert online.run.summary["status"] == "finished"


def test_the_best_checkpoint_is_an_artifact(online):
    best = online.folder / "checkpoints" / "best.safetensors"
    assert online.server.files["best.safetensors"] == best.read_bytes()
    (artifact,) = models(online.server)
    assert artifact["artifactCollectionName"] == "digits-mlp-best"
    (name,) = online.server.runs
    aliases = [alias["alias"] for alias in artifact["aliases"]]
    assert sorted(aliases) == sorted(["latest", "best", name])
    summary, document = read_summary(online.folder), read_config(online.folder)
    assert json.loads(artifact["metadata"]) == {
        "metric": "val/accuracy", "value": summary["objective"]["value"],
        "epoch": summary["best_epoch"], "data_hash": document["data"]["hash"],
        "commit": git_revision(), "classes": list("0123456789"),
    }  # fmt: skip
    home = online.folder.parent
    copies = [p for p in home.rglob("*") if p.is_file() and p.read_bytes() == best.read_bytes()]
    assert copies == [best]


def test_the_options_and_how_it_was_started_arrive(online):
    choices = read_config(online.folder)["choices"]
    assert online.run.config["choices"] == choices
    assert (choices["optimizer"], choices["scheduler"]) == ("adam", "cosine")
    started, about = online.run.config["started"], online.run.about
    assert started["host"] == platform.node()
    assert started.get("commit") == git_revision()
    assert about.get("commit") == (git_revision() or "").partition("+")[0]
    assert started["command"].startswith("python train.py training.epochs=2 ")
    assert "scheduler=cosine" in started["command"]
    assert about["notes"] == started["command"]
    assert about["jobType"] == "train"


def test_w_and_bs_own_summary_is_the_best_by_the_direction_of_each_metric(online):
    rows = read_metrics(online.folder)
    accuracy = [row["val/accuracy"] for row in rows]
    arrived = online.run.summary
    assert arrived["val/accuracy"] == {"max": max(accuracy), "last": accuracy[-1]}
    for name in ("val/loss", "train/loss"):
        assert arrived[name] == {"min": min(row[name] for row in rows)}
    assert arrived["val/f1"] == {"max": max(row["val/f1"] for row in rows)}
    assert arrived["lr"] == rows[-1]["lr"]
    assert arrived["seconds"] == read_summary(online.folder)["seconds"]


def test_the_last_value_is_told_of_the_objective_of_rare_classes_too(train, tmp_path):
    """It is the balanced accuracy there, whatever the config names."""
    lines = [f"{i % 7},{i % 5},{'x' if i % 40 == 0 else 'yz'[i % 2]}" for i in range(200)]
    (tmp_path / "rare.csv").write_text("\n".join(["a,b,y", *lines]))
    words = ["data=csv", "data.path=rare.csv", "data.target=y", "data.task=classification"]
    words += ["tracking.mode=offline", "hydra.run.dir=run"]
    assert train(tmp_path, *words).returncode == 0
    assert read_summary(tmp_path / "run")["objective"]["metric"] == "val/balanced_accuracy"
    found = [r["metric"] for r in records(tmp_path / "run" / "wandb") if r["type"] == "metric"]
    kept = {metric["name"]: metric["summary"] for metric in found}
    assert kept["val/balanced_accuracy"] == {"max": True, "last": True}


def test_the_confusion_matrix_arrives_as_a_table(online):
    from safetensors.torch import load_file
    from sklearn.metrics import confusion_matrix

    assert online.run.summary["confusion"]["_type"] == "table-file"
    found = json.loads(online.server.files["confusion.table.json"])
    assert found["columns"] == ["actual", "predicted", "rows"]
    kept = load_file(online.folder / "predictions.safetensors")
    expected = confusion_matrix(kept["targets"], kept["outputs"].argmax(1))
    matrix = np.zeros_like(expected)
    for actual, predicted, rows in found["data"]:
        matrix[int(actual), int(predicted)] = rows
    assert (matrix == expected).all()


def test_no_secret_is_sent(online):
    sent = "\n".join(online.server.requests)
    assert "<hidden>" in sent.replace("\\u003c", "<").replace("\\u003e", ">")
    assert SECRET not in sent
    assert KEY not in sent
    assert SECRET not in (online.folder / "summary.json").read_text()


def test_the_account_and_the_server_of_wandb_login_are_found(train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with WandbServer() as server:
        machine = f"machine {server.url.removeprefix('http://')} login user password {KEY}"
        (tmp_path / ".netrc").write_text(machine)
        settings = tmp_path / ".config" / "wandb" / "settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(f"[default]\nbase_url = {server.url}\n")
        done = train(tmp_path, ".", "1", "60", env={"HOME": str(tmp_path)}, command=TRACKER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.line.startswith(f"{server.url}/me/knobs/runs/")
    assert [run.history for run in server.runs.values()] == [[{"epoch": 1, "val/loss": 0.5}]]


def test_jobs_of_a_sweep_are_runs_of_their_own_and_a_diverged_one_says_so(train, tmp_path):
    with WandbServer() as server:
        done = train(tmp_path, "optimizer=sgd", "optimizer.lr=0.1,1e12", PATIENT, env=server.env,
                     command=[*TRAIN[:2], "-m", *TRAIN[2:]])  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = {run.config["optimizer"]["lr"]: run for run in server.runs.values()}
    folders = sorted(path.parent for path in tmp_path.glob("outputs/sweeps/*/*/*/summary.json"))
    assert set(jobs) == {0.1, 1e12}
    for run, folder in zip((jobs[0.1], jobs[1e12]), folders, strict=True):
        assert run.history == read_metrics(folder)
        assert run.summary["status"] == read_summary(folder)["status"]
    assert (jobs[0.1].exit_code, jobs[1e12].exit_code) == (0, 5)
    assert [row["epoch"] for row in jobs[0.1].history] == [1, 2]


def test_a_failed_run_arrives_as_failed(train, tmp_path):
    (tmp_path / "run" / "predictions.safetensors").mkdir(parents=True)  # in the way of the file
    with WandbServer() as server:
        done = train(tmp_path, "hydra.run.dir=run", PATIENT, env=server.env)
    (run,) = server.runs.values()
    assert done.returncode != 0
    assert run.exit_code == done.returncode
    assert run.summary["status"] == "failed"


# ------------------------------------------------------------------ offline
def test_without_an_account_no_client_runs_and_one_line_says_how_to_send_the_record(kept):
    assert kept.done.returncode == 0, kept.done.stderr
    assert kept.done.line == (
        "no account; log in with `wandb login`, then: python -m knobs.tracking.sync run"
    )
    assert kept.done.stdout.splitlines()[-1] == "imported: False"
    assert not (kept.folder / "wandb").exists()
    assert read_config(kept.folder)["config"]["tracking"]["mode"] == "auto"


@pytest.mark.parametrize(
    ("variables", "files", "found"),
    [
        ({}, {}, False),
        ({"WANDB_API_KEY": KEY}, {}, True),
        ({"WANDB_API_KEY": ""}, {}, False),
        ({"WANDB_IDENTITY_TOKEN_FILE": "token"}, {}, True),
        ({}, {"home/.netrc": "machine api.wandb.ai login user password " + KEY}, True),
        ({}, {"home/_netrc": "machine somewhere login user password word"}, True),
        ({"NETRC": "other"}, {"other": "machine a login b password c"}, True),
        ({"NETRC": "other"}, {"home/.netrc": "machine a login b password c"}, False),
        ({}, {"home/.netrc": ""}, False),
        ({}, {"home/.config/wandb/settings": "[default]\nbase_url = https://w\n"}, False),
        ({}, {"home/.config/wandb/settings": f"[default]\napi_key = {KEY}\n"}, True),
        ({"WANDB_CONFIG_DIR": "conf"}, {"conf/settings": "[default]\nmode = offline\n"}, True),
        ({}, {"wandb/settings": "[default]\nmode: offline\n"}, True),
        ({"WANDB_DIR": "there"}, {"there/.wandb/settings": "disabled = true"}, True),
        ({}, {"secrets.env": f"WANDB_API_KEY={KEY}"}, True),
    ],
)
def test_an_account_is_looked_for_where_the_client_does(
    variables, files, found, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    for name in [name for name in os.environ if re.match(UNKNOWN, name)]:
        monkeypatch.delenv(name)
    for name, value in ({"HOME": str(tmp_path / "home")} | variables).items():
        monkeypatch.setenv(name, value)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert traced() == found
    assert Tracker.idle({"mode": "auto"}) == Tracker.idle({"mode": "online"}) == (not found)
    assert not Tracker.idle({"mode": "offline"})  # which asks for the client's files


def test_a_missing_account_is_named_once_a_day(train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    stamp = tmp_path / "cache" / STAMP
    env = {"KNOBS_CACHE": str(stamp.parent)}

    def line():
        return train(tmp_path, ".", "1", "5", env=env, command=TRACKER).line

    assert line().startswith("no account; ")
    assert line() == ""
    os.utime(stamp, (time.time() - DAY - 1,) * 2)
    assert line().startswith("no account; ")
    assert line() == ""
    env["KNOBS_CACHE"] = str(tmp_path / "metrics.jsonl")  # no folder: it cannot be written
    assert line() == line() != ""


def test_w_and_bs_own_reader_finds_everything_in_the_offline_file(offline):
    found = records(offline.folder / "wandb")
    assert logged(found) == read_metrics(offline.folder)
    (run,) = [record["run"] for record in found if record["type"] == "run"]
    assert run["config"]["update"]["optimizer"]["lr"] == 0.001
    summary = {}
    for record in found:
        summary |= record["summary"]["update"] if record["type"] == "summary" else {}
    best = read_summary(offline.folder)["metrics"]["val/accuracy"]
    assert summary["best/val/accuracy"] == best


def test_no_secret_is_in_the_offline_files(offline):
    (file,) = offline.folder.glob("wandb/offline-run-*/*.wandb")
    assert b"<hidden>" in file.read_bytes()
    for path in (file, *offline.folder.glob("wandb/*/logs/*"), offline.folder / "summary.json"):
        assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in json.dumps(records(file))


@pytest.mark.parametrize("how", ["offline", "kept"])
def test_the_command_shown_uploads_a_run(how, train, request):
    one = request.getfixturevalue(how)
    words = shlex.split(re.search("(?:then|with): (python .*)", one.done.line)[1])
    assert words.pop(0) == "python"
    env = {"PYTHONWARNINGS": "", "PYTHONPATH": str(REPO / "src")}
    with WandbServer() as server:
        done = train(one.cwd, *words, env=server.env | env, command=[sys.executable])
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run.history == read_metrics(one.folder)
    assert run.exit_code == 0


@pytest.mark.parametrize("how", ["offline", "kept"])
def test_a_resumed_run_is_one_run_that_has_every_epoch_once(how, train, request, tmp_path):
    shutil.copytree(request.getfixturevalue(how).folder, tmp_path / "run")
    with WandbServer() as server:  # which has nothing of the two epochs so far
        command = [*TRAIN[:2], "resume=run", "tracking=wandb"]
        done = train(tmp_path, "training.epochs=3", PATIENT, env=server.env, command=command)
        assert done.returncode == 0, done.stderr
        recorded = read_metrics(tmp_path / "run")
        assert [run.history for run in server.runs.values()] == [recorded]
        before = len(server.requests)
        train(tmp_path, "run", "4", "60", env=server.env, command=TRACKER)  # now it has three
    (run,) = server.runs.values()
    assert run.history == [*recorded, {"epoch": 4, "val/loss": 0.5}]
    steps = re.findall(r'\\"_step\\":(\d+)', "".join(server.requests[before:]))
    assert "4" in steps
    assert "1" not in steps


def test_the_w_and_b_run_follows_from_the_folder(tmp_path):
    ids = [run_id(tmp_path / name) for name in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]
    assert re.fullmatch("[0-9a-f]{12}", ids[0])


# ------------------------------------------------------------------ names
def test_w_and_bs_variables_name_what_the_config_leaves_open(train, tmp_path):
    given = {"WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n",
             "WANDB_TAGS": "t, u", "WANDB_NOTES": "why", "WANDB_JOB_TYPE": "j"}  # fmt: skip
    stated = ["tracking.project=mine", "tracking.tags=[v]", "tracking.mode=offline"]
    done = train(tmp_path, "hydra.run.dir=run", *stated, env=given)
    assert done.returncode == 0, done.stderr
    assert done.line == "offline: as asked; upload with: python -m knobs.tracking.sync run"
    (run,) = [r["run"] for r in records(tmp_path / "run" / "wandb") if r["type"] == "run"]
    kept = {
        k: run[k]
        for k in ("project", "entity", "run_group", "display_name", "tags", "notes", "job_type")
    }
    assert list(kept.values()) == ["mine", "e", "g", "n", ["v"], "why", "j"]
    tracking = read_config(tmp_path / "run")["config"]["tracking"]  # where `make sync` looks
    assert (tracking["project"], tracking["entity"]) == ("mine", "e")


def test_names_without_variables_and_a_sweeps_say_what_differs(train, tmp_path):
    words = [*TRAIN[:2], "-m", "training.epochs=1", "tracking.mode=offline", "sweep=s"]
    done = train(tmp_path, "optimizer=adam,sgd", "optimizer.lr=0.1", command=words)
    assert done.returncode == 0, done.stderr
    found = [read_config(tmp_path / "outputs/sweeps/s" / n)["config"]["tracking"] for n in "01"]
    assert [one["run_name"] for one in found] == ["adam", "sgd"]
    assert {(one["project"], one["group"]) for one in found} == {("knobs", "s")}
    (run,) = [
        r["run"] for r in records(tmp_path / "outputs/sweeps/s/1/wandb") if r["type"] == "run"
    ]
    assert run["tags"] == ["digits", "mlp", "s"]
    assert run["config"]["update"]["choices"]["optimizer"] == "sgd"
    assert run["config"]["update"]["started"]["number"] == 1


@pytest.fixture
def mirrored(monkeypatch):
    """This process as one whose runs are mirrored, and that knows no names of W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("override", "fault"), [
    ("project=a/b", "tracking.project=a/b: must be 1 to 128 characters, none of / \\ # ? % :"),
    (f"project={'x' * 129}", f"tracking.project={'x' * 39}…: must be 1 to 128 characters, none"),
    ("entity='a:b'", "tracking.entity=a:b: must be 1 to 128 characters, none of"),
    (f"group={'x' * 129}", "x…: must be 1 to 128 characters; choose another"),
    (f"run_name={'x' * 129}", "x…: must be 1 to 128 characters; choose another"),
    (f"tags=[{'x' * 65}]", "each a word of 1 to 64 characters"),
])  # fmt: skip
def test_a_name_that_w_and_b_refuses_is_a_fault(override, fault, mirrored):
    with pytest.raises(ConfigError) as error:
        command.checked([f"tracking.{override}"])
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_that_w_and_b_refuses_is_a_fault_where_it_counts(mirrored):
    mirrored.setenv("WANDB_PROJECT", "what?")
    mirrored.setenv("WANDB_TAGS", f"fine,{'x' * 65}")
    faults = list(Tracker.faults(command.checked(["tracking=local"])["tracking"]))
    assert faults == []  # not mirrored
    with pytest.raises(ConfigError) as error:
        command.checked([])
    assert "WANDB_PROJECT=what?: must be 1 to 128 characters" in str(error.value)
    assert f"WANDB_TAGS: {'x' * 39}…: a tag must be 1 to 64 characters" in str(error.value)
    command.checked(["tracking.project=mine", "tracking.tags=[]"])


def test_w_and_b_takes_the_longest_names_and_no_longer(mirrored):
    import wandb

    for value in ("x" * 128, "a b+c,d.e=f"):
        assert wandb.Settings(project=value).project == value
        command.checked([f"tracking.project='{value}'"])
    for value in ("x" * 129, *(f"a{sign}b" for sign in "/\\#?%:")):
        with pytest.raises(Exception, match="project"):
            wandb.Settings(project=value)


def test_an_upload_is_make_sync_where_that_finds_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    below = tmp_path / "outputs" / "runs" / "a"
    assert upload(below) == "python -m knobs.tracking.sync outputs/runs/a"
    (tmp_path / "Makefile").touch()
    assert upload(below) == "make sync"
    assert upload(tmp_path / "b c") == "python -m knobs.tracking.sync 'b c'"


# ------------------------------------------------------------------ servers that are no use
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_server_that_is_not_there_makes_a_run_offline(train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    env = {"WANDB_BASE_URL": f"http://127.0.0.1:{closed_port()}", "WANDB_API_KEY": KEY}
    done = train(tmp_path, ".", "1", "30", env=env, command=TRACKER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.line.startswith("offline: 127.0.0.1 does not answer; upload with: python -m knobs")
    assert done.seconds < 30  # it refuses at once: there is nothing to wait for


def test_a_server_that_never_answers_is_waited_for_once_a_sweep(train, tmp_path):
    command = [*TRAIN[:2], "-m", "training.epochs=1", "seed=0,1", "hydra.sweep.dir=."]
    with WandbServer(SILENT) as server:
        done = train(tmp_path, "tracking.timeout=2", env=server.env, command=command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("offline: 127.0.0.1 let no run start (Timed out") == 1
    assert "(and 1 more run)" in done.stdout
    assert len(server.requests) == 1
    assert done.seconds < NO_HANG
    for job in "01":
        (kept,) = tmp_path.glob(f"{job}/wandb/*run-*")  # nothing left of the try
        assert logged(records(kept)) == read_metrics(tmp_path / job)


@pytest.mark.parametrize(("status", "reason"), [(401, "refused with 401"), (500, "HTTP 500")])
def test_a_server_that_takes_no_run_makes_it_offline(status, reason, train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with WandbServer(status) as server:
        done = train(tmp_path, ".", "1", "2", env=server.env, command=TRACKER)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(server.requests) > 0
    assert re.match(rf"offline: 127.0.0.1 let no run start \(.*{reason}", done.line)
    assert done.seconds < NO_HANG
    assert logged(records(tmp_path / "wandb")) == [{"epoch": 1, "val/loss": 0.5}]


ERROR = json.dumps(
    {"errors": [{"message": f"\x1b]0;owned\x07\x1b[31m{'x' * 5000}\nmore"}]}
).encode()


@pytest.mark.parametrize(("status", "said", "reason"), [
    (200, b"<html>\x00\xff no JSON", "invalid character '<'"),
    (403, ERROR, "�]0;owned��[31mxxx"),
    pytest.param(200, b"", "EOF", marks=pytest.mark.slow),
    pytest.param(404, b"nothing here", "nothing here", marks=pytest.mark.slow),
    pytest.param(429, b"", "HTTP 429", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_server_that_talks_nonsense_makes_a_run_offline(status, said, reason, train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with WandbServer(status, said=said) as server:
        done = train(tmp_path, ".", "1", "3", env=server.env, command=TRACKER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.line.startswith("offline: 127.0.0.1 let no run start (")
    assert reason in done.line
    assert done.line.isprintable()
    assert len(done.line) < 500
    assert logged(records(tmp_path / "wandb")) == [{"epoch": 1, "val/loss": 0.5}]


WAITS = """
import pathlib, time
from knobs.tracking.tracker import Tracker
settings = {"mode": "online", "project": "knobs", "entity": None, "group": None, "tags": [],
            "run_name": "bare", "artifact": False, "timeout": 60}
began = time.monotonic()
tracker = Tracker({}, pathlib.Path("."), [], **settings)
tracker.log({"epoch": 1, "val/loss": 0.5})
tracker.end({"status": "finished"}, 0, None)
while tracker._queue.qsize() or not tracker.line:
    time.sleep(0.01)
time.sleep(0.5)  # the last item is at W&B
active = time.monotonic() - began
time.sleep(3)
tracker.judge(True)
print("  W&B ", tracker.wait())
print(active)
"""


def test_the_wait_for_a_verdict_is_not_run_time(train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with WandbServer() as server:
        env = server.env | {"HOME": str(tmp_path)}
        done = train(tmp_path, env=env, command=[sys.executable, "-c", WAITS])
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = server.runs.values()
    active = float(done.stdout.splitlines()[-1])
    assert run.summary["_wandb"]["runtime"] <= active
    assert run.summary["status"] == "finished"


def test_a_key_that_cannot_be_one_makes_a_run_offline(train, tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    done = train(tmp_path, ".", "1", "2", env={"WANDB_API_KEY": "abc"}, command=TRACKER)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.line.startswith("offline: WANDB_API_KEY invalid: ")


def test_a_proxy_is_asked_where_there_is_one(monkeypatch):
    away = urllib.parse.urlsplit(f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with WandbServer() as proxy:
        assert answers(urllib.parse.urlsplit(proxy.url), 5)
        assert not answers(away, 5)
        monkeypatch.setenv("http_proxy", proxy.url)
        assert answers(away, 5)


# ------------------------------------------------------------------ not at all
def test_without_tracking_w_and_b_is_never_imported(train, tmp_path):
    command = [*PROBE, TRAIN[1], "-m", "training.epochs=1"]
    done = train(tmp_path, "seed=0,1", "tracking.mode=disabled", command=command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: False"
    assert done.line is None
    assert len(list(tmp_path.rglob("summary.json"))) == 2
    assert list(tmp_path.rglob("wandb")) == []


def test_git_runs_nothing_that_variables_name(tmp_path, monkeypatch):
    """No program called git from here, no monitor, no other repository."""
    clean = git_revision()
    mark, wicked = tmp_path / "ran", tmp_path / "git"
    wicked.write_text(f"#!/bin/sh\ntouch {mark}\n")
    wicked.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", os.environ["PATH"]]))
    for name, value in {
        "GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": str(wicked), "GIT_CONFIG_KEY_1": "core.pager",
        "GIT_CONFIG_VALUE_1": str(wicked), "GIT_EXTERNAL_DIFF": str(wicked),
        "GIT_DIR": str(tmp_path), "GIT_PAGER": str(wicked),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert git_revision() == clean
    assert not mark.exists()
