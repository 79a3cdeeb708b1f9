"""hydra/launcher=ray: an engine of actors against a false Ray, then sweeps on a real one."""

import contextlib
import functools
import importlib.util
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import float64
import numpy as np
import pytest
from conftest import REPO, TRAIN
from injected import assert_no_orphans, command
from trained import ENV

import knobs
from knobs.errors import ConfigError, StorageError
from knobs.record import JOURNAL, read_config, read_metrics, read_summary, resumable
from knobs.storage import of_line
from knobs.workers import apart, groups, ray

SWEEPS = Path("outputs/sweeps")
EPOCHS = 40
GRID = ["tracking=local", "sweep=s", "data=digits", "optimizer.lr=1e-3,1e-2", "seed=0,1",
        f"training.epochs={EPOCHS}", "training.threads=1"]  # fmt: skip
RAY = ["hydra/launcher=ray", "hydra.launcher.workers=2"]
# Found, not imported: Ray reads what knobs sets before that.
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="hydra/launcher=ray needs the extra: ray"
)


# ------------------------------------------------------------------ the engine, with a false Ray
class Died(Exception):
    pass


class Call:
    """A reference: its answer is known once it is given one."""

    answer = None


class FalseActor:
    def __init__(self, cluster):
        self.calls = []
        cluster.actors.append(self)
        for name in ("where", "work", "work_apart"):
            remote = functools.partial(self.called, name)
            setattr(self, name, type("Method", (), {"remote": staticmethod(remote)}))

    def called(self, name, *args):
        self.calls.append((name, args, Call()))
        return self.calls[-1][2]

    def answers(self, answer):
        self.calls[-1][2].answer = answer


class FalseRay:
    """What the engine asks of Ray."""

    def __init__(self, *machines):
        self.machines, self.actors, self.killed = machines, [], []

    def nodes(self):
        return [{"Alive": True, "Resources": machine} for machine in self.machines]

    def get_runtime_context(self):
        return type("Context", (), {"get_node_id": staticmethod(lambda: "here")})

    def remote(self, kind):
        made = type("Kind", (), {"remote": staticmethod(lambda: FalseActor(self))})
        return type("Options", (), {"options": staticmethod(lambda **options: made)})

    def wait(self, calls, num_returns, timeout):
        done = [call for call in calls if call.answer is not None]
        return done[:num_returns], []

    def get(self, call):
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def kill(self, actor):
        self.killed.append(actor)


@pytest.fixture
def engine(monkeypatch):
    """Machines -> an engine on them, and its Ray."""

    def make(*machines, **options):
        cluster = FalseRay(*machines)
        monkeypatch.setattr(ray, "connect", lambda address, cpus: cluster)
        return ray.Ray(**options), cluster

    return make


def sent(actor):
    """The groups that an actor was handed."""
    return [args[1] for name, args, _ in actor.calls if name == "work"]


def test_an_actor_takes_one_group_after_the_other(engine, tmp_path):
    """And one that Ray has no room for holds none."""
    made, cluster = engine({"CPU": 2.0}, workers=2)
    assert made.room == 2
    jobs = made.start(tmp_path, [("00000", "a"), ("00001", "b"), ("00002", "c")])
    first, second = cluster.actors
    assert made.ended(jobs, 0) == {}
    first.answers((11, "here"))
    assert made.ended(jobs, 0) == {}
    assert sent(first) == ["00000"]
    first.answers("")
    assert made.ended(jobs, 0) == {jobs[0]: ""}
    first.answers("StorageError: full")
    assert made.ended(jobs[1:], 0) == {jobs[1]: "StorageError: full"}
    first.answers("")
    assert made.ended(jobs[2:], 0) == {jobs[2]: ""}
    assert sent(first) == ["00000", "00001", "00002"]
    assert sent(second) == []
    assert first.calls[1][1] == (str(tmp_path), "00000", "a")


def test_a_group_of_an_actor_that_dies_is_given_back(engine, tmp_path):
    made, cluster = engine({"CPU": 1.0}, {"CPU": 1.0}, workers=1)
    jobs = made.start(tmp_path, [("00000", "a")])
    cluster.actors[0].answers((11, "here"))
    made.ended(jobs, 0)
    cluster.actors[0].answers(Died("a page of text"))
    assert made.ended(jobs, 0) == {jobs[0]: "its worker died (Died)"}
    again = made.start(tmp_path, [("00000", "b")])
    assert len(cluster.actors) == 2
    cluster.actors[1].answers(Died("ModuleNotFoundError: No module named 'knobs'"))
    why = "ModuleNotFoundError: No module named 'knobs'; the same code must be installed on every machine"
    assert made.ended(again, 0) == {again[0]: why}


def test_workers_are_asked_to_end_where_they_are(engine, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(ray, "_signal", lambda process, number: told.append((process, number)))
    made, cluster = engine({"CPU": 3.0}, workers=3)
    jobs = made.start(tmp_path, [("00000", "a"), ("00001", "b"), ("00002", "c")])
    cluster.actors[0].answers((11, "here"))
    made.ended(jobs, 0)
    made.stop(jobs)
    assert told == [(11, signal.SIGTERM)]
    assert cluster.killed == cluster.actors[1:]
    assert made.ended(jobs, 0) == {jobs[1]: "", jobs[2]: ""}
    cluster.actors[0].answers("")
    assert made.ended(jobs[:1], 0) == {jobs[0]: ""}
    assert sent(cluster.actors[0]) == ["00000"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": 1}, "hydra.launcher.gpus=1: no machine of the cluster has more than 0"),
        ({"cpus": 5}, "hydra.launcher.cpus=5: no machine of the cluster has more than 4"),
        ({"memory": 9}, "hydra.launcher.memory=9: no machine of the cluster has more than 8"),
        ({"memory": 0}, r"hydra.launcher.memory=0: must be null or > 0 \(GiB\)"),
        ({"memory": 8, "cpus": 4}, "hydra.launcher: no machine of the cluster has all of cpus=4, memory=8"),
    ],
)  # fmt: skip
def test_more_than_any_machine_has_is_refused(engine, options, said):
    machines = {"CPU": 4.0, "memory": 2.0 * 2**30}, {"CPU": 1.0, "memory": 8.0 * 2**30}
    with pytest.raises(ConfigError, match=f"^{said}$"):
        engine(*machines, **options)


def test_fewer_workers_than_asked_for_are_said(engine):
    made, _ = engine({"CPU": 3.0, "GPU": 2.0}, {"CPU": 8.0}, workers=4, gpus=1, address="auto")
    assert made.room == 2
    assert made.said == ["the cluster has room for 2 workers of 4 at once"]


@pytest.mark.parametrize("address", ["here", "ray://a:1", "a:b", ":1", "a:0", "a:70000"])
def test_an_address_is_auto_or_a_host_and_a_port(address):
    if address == "ray://a:1":  # a host of no name
        said = "nothing answers there"
    else:
        said = "must be null, auto or HOST:PORT"
    with pytest.raises(ConfigError, match=f"hydra.launcher.address={address}: {said}"):
        ray.probed(address)


def test_an_address_where_nothing_answers_is_refused_at_once():
    with pytest.raises(ConfigError, match="nothing answers there .*ray start --head"):
        ray.probed("127.0.0.1:9")


def test_groups_of_a_search_are_a_quarter_of_its_width():
    assert [len(g) for g in groups.cut(dict.fromkeys(range(16), "a"), 2, 4)] == [4, 4, 4, 4]
    assert [len(g) for g in groups.cut(dict.fromkeys(range(3), "a"), 2, 4)] == [2, 1]
    kinds = {0: "a", 1: "b", 2: "b", 3: "b", 4: "b", 5: "b"}
    assert groups.cut(kinds, 1, 2) == [[1, 4], [2, 5], [0], [3]]


# ------------------------------------------------------------------ without a shared folder
def group_of(folder, *numbers):
    tasks = [groups.Task(number, [f"seed={number}"]) for number in numbers]
    about = groups.Group(tasks, [], [str(folder)], "config", str(folder), "", None, 0, 1)
    groups.write_group(folder, "00000", about)


def test_the_files_of_runs_come_back_as_they_were(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    group_of(there, 3, 4)
    group_of(here, 3, 4)
    for number in (3, 4):
        for name in apart.NAMES:
            (there / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
            (there / str(number) / name).write_bytes(f"{number} {name}".encode())
    (there / "3" / "secret").write_bytes(b"x")
    (there / "5").mkdir()
    (there / "5" / "summary.json").write_bytes(b"x")
    apart.receive(here, "00000", *apart.packed(there, "00000", [3, 4]))
    found = {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*") if p.is_file()}
    del found["groups/00000.json"]
    assert found == {f"{n}/{name}": f"{n} {name}".encode() for n in (3, 4) for name in apart.NAMES}


@pytest.mark.parametrize(
    "names",
    [
        [["5/summary.json", 1]],  # a run of another group
        [["3/../../x", 1]], [["../x", 1]], [["/tmp/x", 1]], [["3/checkpoints/../../x", 1]],
        [["3/weights.pt", 1]], [["03/summary.json", 1]], [["sweep.json", 1]],
        [["workers/00001.jsonl", 1]], [["3/summary.json", 2]], [["3/summary.json", -1]],
        [["3/summary.json", True]], [["3/summary.json", 1], ["3/summary.json", 0]],
        [["3/summary.json"]], [[3, 1]], {"3": 1}, 3, "x", [],
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_runs_is_refused_and_nothing_written(tmp_path, names):
    folder = tmp_path / "sweep"
    group_of(folder, 3)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match="group 0: what its worker sent is refused"):
        apart.receive(folder, "00000", json.dumps(names).encode(), b"x")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("link", ["3", "3/checkpoints", "3/summary.json"])
def test_links_in_a_runs_folder_are_not_followed(tmp_path, link):
    folder, other = tmp_path / "sweep", tmp_path / "other"
    group_of(folder, 3)
    other.mkdir()
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(other if link != "3/summary.json" else other / "x")
    names = [["3/checkpoints/best.safetensors", 1], ["3/summary.json", 1]]
    with pytest.raises(StorageError, match="link"):
        apart.receive(folder, "00000", json.dumps(names).encode(), b"xy")
    assert list(other.iterdir()) == []


def test_runs_that_are_too_large_do_not_come_back(tmp_path, monkeypatch):
    group_of(tmp_path, 3)
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "train.log").write_bytes(bytes(11))
    monkeypatch.setattr(apart, "MOST", 10)
    with pytest.raises(ConfigError, match="group 0: its runs take .* which all machines share"):
        apart.packed(tmp_path, "00000", [3])


def test_a_group_runs_where_its_folder_is_not(tmp_path, hydra_restore_singletons):
    """Nor the driver's directory, nor its conf/, for which this machine's own stand in."""
    driver = tmp_path / "sweep"
    lines = ["data=wine", "training.epochs=2", "tracking=local"]
    tasks = [groups.Task(n, [*lines, f"seed={n}"]) for n in (3, 4)]
    gone = [str(tmp_path / "gone" / "conf")]
    about = groups.Group(tasks, [], gone, "config", str(tmp_path / "gone"), "", None, 0, 1)
    groups.write_group(driver, "00000", about)
    there = tmp_path / "elsewhere" / "sweep"
    assert not apart.sees(there, "00000")
    files = apart.work_apart(str(there), "00000", apart.document(driver, "00000"))
    assert not there.parent.exists()
    (driver / groups.WORKERS).mkdir()
    apart.receive(driver, "00000", *files)
    assert_each_row_once(driver, (3, 4), 2)
    for n in (3, 4):
        assert len(knobs.load(driver / str(n)).predict(np.ones((1, 13)))) == 1
    told = lines_of(groups.told_path(driver, "00000"))
    assert {row["ended"]: row["status"] for row in told if "ended" in row} == {
        3: "finished",
        4: "finished",
    }


def test_runs_too_large_to_come_back_are_told_refused(
    tmp_path, hydra_restore_singletons, monkeypatch
):
    """And not ended: their records are not here, and to send them again would come to the same."""
    driver = tmp_path / "sweep"
    tasks = [groups.Task(3, ["data=wine", "training.epochs=1", "tracking=local"])]
    conf = [str(REPO / "conf")]
    about = groups.Group(tasks, [], conf, "config", str(tmp_path), "", None, 0, 1)
    groups.write_group(driver, "00000", about)
    monkeypatch.setattr(apart, "MOST", 10_000)
    there = str(tmp_path / "elsewhere" / "sweep")
    files = apart.work_apart(there, "00000", apart.document(driver, "00000"))
    (driver / groups.WORKERS).mkdir()
    apart.receive(driver, "00000", *files)
    [line] = lines_of(groups.told_path(driver, "00000"))
    assert line["refused"].startswith("ConfigError: group 0: its runs take ")
    assert not (driver / "3").exists()


# ------------------------------------------------------------------ with Ray
@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, for sweeps in this process: they find it started."""
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(REPO / "src"), str(REPO / "tests")]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        hook = {"worker_process_setup_hook": "float64.patch"}
        patch.setitem(ray.INIT, "runtime_env", hook)
        found = ray.connect(None, 2)
        yield found
        found.shutdown()


def lines_of(file):
    return [of_line(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def begins(folder, group="00000"):
    """The process of each beginning of a group."""
    told = lines_of(groups.told_path(folder, group))
    return [line["begins"]["pid"] for line in told if "begins" in line]


def killing(folder, rows):
    """Kill the worker of the first group once its first run has so many rows; return the thread."""

    def kill():
        end = time.monotonic() + 100
        metrics = folder / str(groups.read_group(folder, "00000").numbers[0]) / "metrics.jsonl"
        while time.monotonic() < end:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= rows:
                return os.kill(begins(folder)[0], signal.SIGKILL)
            time.sleep(0.01)
        return None

    def wait():
        end = time.monotonic() + 100
        while time.monotonic() < end and not groups.path(folder, "00000").exists():
            time.sleep(0.05)
        kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def assert_each_row_once(folder, runs, epochs=EPOCHS):
    for number in runs:
        assert read_summary(folder / str(number))["status"] == "finished"
        epoch = [row["epoch"] for row in read_metrics(folder / str(number))]
        assert epoch == [*range(1, epochs + 1)]


@needs_ray
def test_a_sweep_whose_worker_is_killed_ends_as_on_one_machine(
    sweep, cluster, tmp_path, monkeypatch
):
    float64.patch(monkeypatch.setattr)
    assert sweep(*GRID, cwd="stack")[0] == 0
    killer = killing(tmp_path / "ray" / SWEEPS / "s", rows=5)
    code, told = sweep(*GRID, *RAY, cwd="ray")
    killer.join()
    assert code == 0, told
    assert "4 runs in 2 groups for 2 workers" in told
    assert "its worker died (ActorDiedError); sent again" in told
    folder = tmp_path / "ray" / SWEEPS / "s"
    assert_each_row_once(folder, range(4))
    assert len(begins(folder)) == 2
    float64.assert_alike(folder, tmp_path / "stack" / SWEEPS / "s", 4)
    shared = {path.name for path in folder.iterdir() if path.is_file()}
    assert shared == {"leaderboard.csv", "multirun.yaml", "sweep.json"}  # all by the driver


SEARCH = ["hydra/sweeper=search", "data=wine", "tracking=local", "sweep=s", "search.method=random",
          "optimizer.lr=interval(1e-4,1e-1)", "training.threads=1"]  # fmt: skip


def writers(folder):
    """The processes that have written a search's journal."""
    told = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    return {row["worker_id"] for row in told}


@needs_ray
def test_a_search_asks_by_groups_and_writes_its_journal_alone(sweep, cluster, tmp_path):
    asked = ["search.runs=5", "search.width=4", "training.epochs=3"]
    code, told = sweep(*SEARCH, *asked, *RAY)
    assert code == 0, told
    folder = tmp_path / SWEEPS / "s"
    assert [groups.read_group(folder, name).numbers for name in groups.names(folder)] == [
        [0],
        [1],
        [2],
        [3],
        [4],
    ]
    assert_each_row_once(folder, range(5), 3)
    assert len(writers(folder)) == 1
    assert len({pid for name in groups.names(folder) for pid in begins(folder, name)}) <= 2  # stay


# ------------------------------------------------------------------ with Ray, at length
OWN = """
import os, signal

from torch.nn import functional as F


def loss(outputs, targets):
    '''Cross entropy that fails in a worker where the outputs are large: with a large rate.'''
    if "RAY_JOB_ID" in os.environ and outputs.detach().abs().max() > 50:
        if os.environ["HOW"] == "raise":
            raise ValueError("wrong")
        os.kill(os.getpid(), getattr(signal, os.environ["HOW"]))
    return F.cross_entropy(outputs, targets, reduction="none")
"""
LOSS = "# Of one's own.\n_target_: ownlab.loss\n_partial_: true\ntasks: [classification]\n"


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "SIGSEGV", "SIGKILL"])
def test_a_job_that_fails_or_kills_its_worker_costs_itself_alone(how, tmp_path):
    """The rest finish, the driver ends with 10, and had told of it before the others ended."""
    (tmp_path / "ownlab.py").write_text(OWN)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "own.yaml").write_text(LOSS)
    env = {"KNOBS_ALLOW": "ownlab.", "HOW": how, "PYTHONPATH": f"{REPO / 'src'}:{tmp_path}"}
    words = ["sweep=s", "tracking=local", "data=wine", "loss=own", "optimizer=sgd",
             "training.epochs=5", "optimizer.lr=1e-3,10,2e-3,3e-3"]  # fmt: skip
    told = command(
        tmp_path, "--config-dir", "conf", "-m", *words, *RAY, code=10, env=env, timeout=400
    )
    assert "(raylet)" not in told
    ends = {n: read_summary(tmp_path / SWEEPS / "s" / str(n))["status"] for n in range(4)}
    assert ends == {0: "finished", 1: "failed", 2: "finished", 3: "finished"}
    cause = "ValueError: wrong" if how == "raise" else "the process ended without a word"
    assert f"job 1 failed: {cause}" in told or (cause in told and how != "raise"), told
    log = (tmp_path / SWEEPS / "s" / "1" / "train.log").read_text()
    assert ("ValueError: wrong" in log) == (how == "raise")


KILLS = 20


def kill_one(folder, seconds, over):
    """Kill a worker so many seconds after the first one has begun; return the thread."""

    def kill():
        while not over.is_set() and not (pids := begins(folder)):
            time.sleep(0.05)
        if not over.wait(seconds):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@needs_ray
@pytest.mark.slow
def test_a_worker_that_is_killed_at_any_time_runs_each_run_once(sweep, cluster, tmp_path):
    """At twenty random times, from its first moment on; one kill each, as a death alone is blamed."""
    drawn, deaths = random.Random(0), 0
    for i in range(KILLS):
        folder, over = tmp_path / str(i) / SWEEPS / "s", threading.Event()
        killer = kill_one(folder, drawn.uniform(0, 8), over)
        code, told = sweep(*GRID, "training.epochs=100", *RAY, cwd=str(i))
        over.set()
        killer.join()
        assert code == 0, told
        assert "(raylet)" not in told
        assert_each_row_once(folder, range(4), 100)
        deaths += "its worker died (ActorDiedError); sent again" in told
    assert deaths > KILLS / 4  # the others had ended by then


@needs_ray
@pytest.mark.slow
def test_a_search_of_forty_runs_prunes_on_two_workers(sweep, cluster, tmp_path):
    asked = ["search.runs=40", "search.method=tpe", "search.pruner=asha", "training.epochs=12"]
    code, told = sweep(*SEARCH, *asked, *RAY)
    assert code == 0, told
    folder = tmp_path / SWEEPS / "s"
    numbers = [n for name in groups.names(folder) for n in groups.read_group(folder, name).numbers]
    assert sorted(numbers) == [*range(len(numbers))]  # more than 40: one that is pruned costs less
    ends = Counter(read_summary(folder / str(n))["status"] for n in numbers)
    assert ends["pruned"] > 5
    assert ends["finished"] > 5
    assert ends.total() == ends["pruned"] + ends["finished"] == len(numbers) >= 40
    rates = {read_config(folder / str(n))["config"]["optimizer"]["lr"] for n in numbers}
    assert len(rates) == len(numbers)
    assert len(writers(folder)) == 1
    assert len({pid for name in groups.names(folder) for pid in begins(folder, name)}) == 2
    rungs = [row["run"] for file in folder.glob("rungs/*.jsonl") for row in lines_of(file)]
    assert {*rungs} == {*numbers}
    assert not (folder / "rungs.jsonl").exists()


@pytest.fixture
def hidden(tmp_path, monkeypatch):
    """A cluster of this machine that does not see a folder; the folder, and the address."""
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("hiding a folder from processes needs the right to mount")
    (tmp_path / "driver").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in ray.PRIVATE.items():
        monkeypatch.setenv(name, value)
    if ray._has_token():
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
    start = ["ray", "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false",
             f"--port={port}"]  # fmt: skip
    inside = f"mount -t tmpfs none {tmp_path / 'driver'} && exec {shlex.join(start)}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = ENV | {"PATH": path, "PYTHONPATH": str(REPO / "src"), **ray.PRIVATE}
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with contextlib.suppress(ConfigError):
            ray.probed(f"127.0.0.1:{port}")
            break
    yield tmp_path / "driver", f"127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)


@needs_ray
@pytest.mark.slow
def test_workers_that_do_not_see_the_folder_send_their_runs_back(hidden):
    folder, address = hidden
    words = [*GRID, *RAY, f"hydra.launcher.address={address}", "training.epochs=3"]
    told = command(folder, "-m", *words, timeout=300, env=ray.PRIVATE)
    assert told.count("workers do not see the sweep's folder: their runs come back") == 1
    assert_each_row_once(folder / SWEEPS / "s", range(4), 3)
    assert len(float64.leaderboard(folder / SWEEPS / "s")) == 2
    assert "4 runs ended before and left alone" in command(
        folder, "-m", *words, timeout=300, env=ray.PRIVATE
    )


# ------------------------------------------------------------------ the driver's own end
LONG = ["-m", *GRID, *RAY, "training.epochs=1500"]
# Seconds that two idle processes of Ray's own stay after a driver that was killed: they look for its
# server for a minute, and then end.
AGENTS = 120


def begun(cwd, log, saved, rows=20):
    """A driver in a process of its own, once each of its runs has some epochs behind it.

    Args:
        saved: whether each has a checkpoint too.
    """
    folder = cwd / SWEEPS / "s"
    with log.open("w") as told:
        process = subprocess.Popen(
            [sys.executable, TRAIN, *LONG], cwd=cwd, env=ENV | {"PYTHONPATH": str(REPO / "src")},
            stdout=told, stderr=told, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + 200
    metrics = [folder / str(n) / "metrics.jsonl" for n in range(4)]
    while time.monotonic() < end and process.poll() is None:
        far = all(m.exists() and m.read_bytes().count(b"\n") > rows for m in metrics)
        if far and (not saved or all(resumable(m.parent) for m in metrics)):
            return process
        time.sleep(0.1)
    process.kill()
    raise AssertionError(log.read_text())


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_the_same_command_goes_on_after_a_driver_has_ended(name, tmp_path):
    """Signals let the workers save and end; with a driver that is killed they die."""
    number = getattr(signal, name)
    process = begun(tmp_path, tmp_path / "told.txt", saved=name == "SIGKILL")
    folder = tmp_path / SWEEPS / "s"
    workers = {pid for group in groups.names(folder) for pid in begins(folder, group)}
    assert len(workers) == 2
    assert {os.getpgid(worker) for worker in workers} == workers
    os.kill(process.pid, number)
    code = process.wait(120)
    told = (tmp_path / "told.txt").read_text()
    assert code == (-9 if name == "SIGKILL" else 128 + number), told
    assert "Traceback" not in told, told
    for worker in workers:
        assert_no_orphans(worker)
    if name != "SIGKILL":
        assert told.count("the workers are asked to save and to end") == 1
        assert "interrupted; go on with: python train.py -m" in told
        assert {read_summary(folder / str(n))["status"] for n in range(4)} == {"interrupted"}
        assert_no_orphans(process.pid)
    told = command(tmp_path, *LONG, timeout=400)
    assert "4 runs begun before, continued" in told
    assert_each_row_once(folder, range(4), 1500)
    assert_no_orphans(process.pid, AGENTS)


@needs_ray
@pytest.mark.slow
def test_the_commands_of_the_page_run_with_ray(tmp_path):
    page = (REPO / "docs" / "workers.md").read_text()
    lines = [
        line
        for line in page.splitlines()
        if line.startswith("python train.py -m hydra/launcher=ray")
    ]
    assert len(lines) == 3
    for line in lines:
        if "address=" not in line:
            words = [*shlex.split(line)[2:], "training.epochs=2", "tracking=local"]
            command(tmp_path, *words, timeout=300)
