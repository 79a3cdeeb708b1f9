"""`knobs sync` under faults: disks, kills, damage, a second one; what arrived is not sent twice."""

import errno
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import REPO
from disks import Disk, refusing
from injected import assert_clean, assert_no_orphans, faults
from rich.console import Console
from wandb_server import WandbServer

from knobs.record import read_metrics
from knobs.tracking import sync

URL = "http://127.0.0.1:9"
RUNS = 3
UNKNOWN = r"(?i)^(wandb|netrc|.*_proxy$)"  # what this machine knows of W&B and of ways to it
ENV = {name: value for name, value in os.environ.items() if not re.match(UNKNOWN, name)} | {
    "OMP_NUM_THREADS": "1", "COLUMNS": "200", "WANDB_X_FILE_STREAM_RETRY_MAX": "1",
    "PYTHONPATH": str(REPO / "src"),
}  # fmt: skip
SYNC = [sys.executable, "-m", "knobs.tracking.sync"]


class Killed(BaseException):
    """The end of a process, of which nothing is written down."""


class Fake:
    """A server that keeps what it is sent, and how often."""

    def __init__(self):
        self.there, self.sent, self.entity = {}, {}, "me"

    def missing(self, run):
        return sync.missing(run, self.there.get(run.run_id))

    def missing_after(self, runs, complaints):
        return {run: self.missing(run) for run in runs}

    def upload(self, runs, entity, scratch):
        for run in runs:
            self.sent[run.run_id] = self.sent.get(run.run_id, 0) + 1
            about = {"summary": {"objective": run.objective}, "state": "finished"}
            self.there[run.run_id] = SimpleNamespace(historyLineCount=run.rows, **about)
        return {}


@pytest.fixture
def server(monkeypatch):
    fake = Fake()
    monkeypatch.setattr(sync, "Server", lambda: fake)
    monkeypatch.setattr(sync, "upload", fake.upload)
    monkeypatch.setenv("WANDB_BASE_URL", URL)
    return fake


def written(root):
    """Records of runs with W&B's offline files beside them."""
    for k in range(RUNS):
        folder = root / str(k)
        (folder / "wandb" / f"offline-run-20260101_12000{k}-id{k}").mkdir(parents=True)
        (folder / "wandb" / f"offline-run-20260101_12000{k}-id{k}" / f"run-id{k}.wandb").touch()
        config = {"config": {"tracking": {"project": "knobs", "entity": None}}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
        summary = {"status": "finished", "objective": {"value": 0.5}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return root


def called(root):
    """The exit code of a sync of a folder, and what it printed."""
    out = Console(record=True, width=200, file=io.StringIO())
    return sync.sync(root, out), out.export_text()


@faults("a disk refuses a call of knobs sync", "what arrived is told, noted later, and not sent twice",
        quick=20, whole=100)  # fmt: skip
def test_sync_on_a_disk_that_refuses(cases, tmp_path, tried, server, monkeypatch):
    with refusing(monkeypatch, Disk(tmp_path)) as counted:
        assert called(written(tmp_path / "whole"))[0] == 0
    todo = [(number, first, again) for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)
            for first in range(len(counted.calls)) for again in (True, False)]  # fmt: skip
    for number, first, again in random.Random(0).sample(todo, min(cases, len(todo))):
        root = written(tmp_path / f"{number}-{first}-{again}")
        server.there.clear(), server.sent.clear()
        with refusing(monkeypatch, Disk(root, number, first, None if again else 10**9)):
            code, told = called(root)
        assert code == 0, told
        assert told.count("uploaded") == RUNS + 1
        noted = len([*root.glob(f"*/wandb/{sync.ARRIVED}")])
        assert (
            told.count(f"not noted: the folder cannot be written to, {os.strerror(number)}")
            == RUNS - noted
        )
        assert [*root.rglob("*.partial"), *root.rglob("*.lock")] == []
        code, told = called(root)
        assert (code, told.count("already there")) == (0, RUNS - noted + (noted < RUNS))
        assert called(root)[1].endswith(f"{RUNS} verified before\n")
        assert server.sent == {f"id{k}": 1 for k in range(RUNS)}
        tried()


@faults("knobs sync killed between two of its steps", "the same command goes on; what arrived is not sent twice",
        quick=8, whole=8)  # fmt: skip
def test_a_sync_that_is_killed_goes_on(cases, tmp_path, tried, server, monkeypatch):
    for case in range(cases):
        root, batch = written(tmp_path / str(case)), 1 + case % 2
        server.there.clear(), server.sent.clear()
        names = ("missing", "upload", "missing_after", "write")
        name, calls = names[case // 2], []
        owner = sync.record if name == "write" else sync if name == "upload" else server

        real = getattr(owner, name)

        def dies(*words, real=real, calls=calls, **named):
            calls.append(1)
            done = real(*words, **named)
            if len(calls) == 2:
                raise Killed
            return done

        with monkeypatch.context() as patched:
            patched.setattr(sync, "BATCH", batch)
            patched.setattr(owner, name, dies)
            if (name, batch) in (("upload", 2), ("missing_after", 2)):
                patched.setattr(sync, "BATCH", 1)
            with pytest.raises(Killed):
                called(root)
        code, told = called(root)
        assert (code, "failed" in told) == (0, False)
        assert server.sent == {f"id{k}": 1 for k in range(RUNS)}
        assert called(root)[1].endswith(f"{RUNS} verified before\n")
        tried()


@faults(
    "damaged arrived.json", "the server is asked again, nothing is sent twice", quick=60, whole=600
)
def test_a_damaged_note_is_not_believed(cases, tmp_path, tried, server):
    root, draw = written(tmp_path / "x"), random.Random(1)
    assert called(root)[0] == 0
    path = root / "0" / "wandb" / sync.ARRIVED
    whole = path.read_bytes()
    for _ in range(cases):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(draw.choice([data, whole[: draw.randrange(len(whole))]]))
        code, told = called(root)
        assert code == 0
        assert "already there" in told or "3 verified before" in told
        assert path.read_bytes() == whole or json.loads(path.read_bytes()) == json.loads(whole)
        assert set(server.sent.values()) == {1}
        tried()


def test_a_run_that_another_sync_uploads_is_left_to_it(tmp_path, server, monkeypatch):
    root = written(tmp_path / "x")
    lock = root / "1" / "wandb" / sync.LOCK
    real = server.upload

    def meanwhile(runs, entity, scratch):  # another sync begins while this one uploads
        monkeypatch.setattr(sync, "upload", real)
        code, told = called(root)
        assert code == 1
        assert told.count("uploads it; call again once that has ended") == RUNS
        assert server.sent == {}
        return real(runs, entity, scratch)

    monkeypatch.setattr(sync, "upload", meanwhile)
    assert called(root)[0] == 0
    assert server.sent == {f"id{k}": 1 for k in range(RUNS)}
    lock.touch()  # of one that was killed
    (root / "1" / "wandb" / sync.ARRIVED).unlink()
    assert called(root)[1].endswith("1 already there, 2 verified before\n")


def test_what_arrived_while_others_were_asked_for_is_not_sent_again(tmp_path, server, monkeypatch):
    """Another sync has asked, uploaded and ended between this one's question and its upload."""
    root, asked = written(tmp_path / "x"), []
    ask = server.missing

    def missing(run):
        found = ask(run)
        asked.append(run)
        if len(asked) == RUNS:
            monkeypatch.setattr(server, "missing", ask)
            assert called(root)[0] == 0
        return found

    monkeypatch.setattr(server, "missing", missing)
    code, told = called(root)
    assert (code, told) == (0, f"{RUNS} runs mirrored below {root}: {RUNS} verified before\n")
    assert server.sent == {f"id{k}": 1 for k in range(RUNS)}


def test_lost_files_and_folders_that_cannot_be_read_are_told(tmp_path, server, monkeypatch):
    root = written(tmp_path / "x")
    [lost] = root.glob("0/wandb/*/*.wandb")
    lost.unlink()
    closed, scan = (root / "1" / "wandb", root / "2"), os.scandir

    def scandir(path="."):
        if os.fspath(path) in map(str, closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    listed = type(root).iterdir

    def iterdir(path):
        if path in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(type(root), "iterdir", iterdir)
    code, told = called(root)
    assert code == 1
    assert "failed: offline-run-20260101_120000-id0 has lost its run-id0.wandb" in told
    assert told.count("cannot be read (Permission denied)") == 2
    assert f"{RUNS} runs mirrored below {root}: {RUNS} failed\n" in told
    assert server.sent == {}


# ------------------------------------------------------------------ the real client
def run(cwd, *command, env):
    return subprocess.run(
        command, cwd=cwd, env=ENV | {"HOME": str(cwd)} | env, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sweep of runs trained offline."""
    cwd = tmp_path_factory.mktemp("trained")
    words = ["-m", "sweep=s", "data=wine", "model=linear", "training.epochs=2",
             "tracking.mode=offline", "seed=range(6)"]  # fmt: skip
    done = run(cwd, sys.executable, str(REPO / "train.py"), *words, env={})
    assert done.returncode == 0, done.stderr
    return cwd


@pytest.fixture
def offline(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "x", symlinks=True)
    return tmp_path / "x"


def as_recorded(server, cwd):
    """Runs of a server: whether it has exactly the rows of the record."""
    return {
        found.folder.name: server.runs[found.run_id].history == read_metrics(found.folder)
        for found in sync.find(cwd)
        if found.run_id in server.runs
    }


@faults("damaged offline files of W&B, with its own client", "failed and said, or all rows arrive; mended, all do",
        quick=6, whole=24)  # fmt: skip
def test_damaged_offline_files(cases, offline, tmp_path, tried):
    draw = random.Random(2)
    for turn in range(cases // 6):
        cwd = tmp_path / str(turn)
        shutil.copytree(offline, cwd, symlinks=True)
        whole = {
            path: path.read_bytes()
            for path in sorted(cwd.glob("outputs/sweeps/s/*/wandb/offline-run-*/*.wandb"))
        }
        for kind, (path, data) in enumerate(whole.items()):
            place = draw.randrange(len(data))
            flipped = (
                data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
            )
            cut, zeros = data[:place], data[:place] + bytes(len(data) - place)
            path.write_bytes(
                [flipped, cut, zeros, b"", data[: len(data) // 2] + data, flipped][kind]
            )
        with WandbServer() as server:
            done = run(cwd, *SYNC, env=server.env)
            assert_clean(done.stdout + done.stderr, cwd)
            there = as_recorded(server, cwd)
            lines = re.findall(r"^sweeps/s/(\d) .*", done.stdout, re.M)
            assert sorted(lines) == [*"012345"]
            for line in done.stdout.splitlines():
                if named := re.match(r"sweeps/s/(\d) ", line):
                    assert "failed: " in line or there[named[1]], line
            for path, data in whole.items():
                path.write_bytes(data)
            again = run(cwd, *SYNC, env=server.env)
            assert again.returncode == 0, again.stdout
            assert as_recorded(server, cwd) == dict.fromkeys(map(str, range(6)), True)
        tried(len(whole))


@faults("knobs sync killed or stopped while W&B's client uploads", "its client ends; the same command goes on",
        quick=1, whole=6)  # fmt: skip
def test_a_sync_process_that_ends_early(cases, offline, tmp_path, tried):
    numbers = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
    for case in range(cases):
        number, cwd = numbers[case % 3], tmp_path / str(case)
        shutil.copytree(offline, cwd, symlinks=True)
        with WandbServer() as server:
            with subprocess.Popen(
                SYNC, cwd=cwd, env=ENV | {"HOME": str(cwd)} | server.env, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) as process:  # fmt: skip
                late = time.monotonic() + 120
                while time.monotonic() < late and not any(
                    "file_stream" in r for r in server.requests
                ):
                    time.sleep(0.01)
                time.sleep(0.3 * (case // 3))
                os.kill(process.pid, number)
                told, _ = process.communicate(timeout=60)
            assert process.returncode in (
                (-number,) if number == signal.SIGKILL else (128 + number, 0)
            )
            assert_clean(told, cwd)
            assert_no_orphans(process.pid)
            again = run(cwd, *SYNC, env=server.env)
            assert again.returncode == 0, again.stdout
            assert as_recorded(server, cwd) == dict.fromkeys(map(str, range(6)), True)
        tried()


@faults(
    "two knobs syncs at once, with W&B's own client",
    "each run is sent by one of them",
    quick=1,
    whole=3,
)
def test_two_syncs_at_once(cases, offline, tmp_path, tried):
    for case in range(cases):
        cwd = tmp_path / str(case)
        shutil.copytree(offline, cwd, symlinks=True)
        with WandbServer() as server:
            both = [
                subprocess.Popen(SYNC, cwd=cwd, env=ENV | {"HOME": str(cwd)} | server.env,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                for _ in range(2)
            ]  # fmt: skip
            told = [process.communicate(timeout=200)[0] for process in both]
            assert_clean("".join(told), cwd)
            lines = [line.rstrip() for text in told for line in text.splitlines()]
            sent = [line for line in lines if line.endswith("  uploaded")]
            assert len(sent) == 6, told
            assert sum("file_stream" in r and '"complete":true' in r for r in server.requests) == 6
            assert as_recorded(server, cwd) == dict.fromkeys(map(str, range(6)), True)
            assert run(cwd, *SYNC, env=server.env).returncode == 0
        tried()
