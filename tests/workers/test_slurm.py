"""hydra/launcher=slurm: groups of jobs on workers, through submitit; here `debug` and `local`."""

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import float64
import pytest
from conftest import REPO, TRAIN
from injected import command
from trained import ENV

from knobs.record import read_metrics, read_summary
from knobs.storage import of_line

pytest.importorskip("submitit", reason="hydra/launcher=slurm needs the extra: submitit")
SWEEPS = Path("outputs/sweeps")
DEBUG = ["hydra/launcher=slurm", "hydra.launcher.cluster=debug"]
LOCAL = ["hydra/launcher=slurm", "hydra.launcher.cluster=local"]
GRID = ["tracking=local", "training.epochs=3", "optimizer=adam,sgd", "optimizer.lr=3e-3,1e-2",
        "seed=0,1"]  # fmt: skip


def test_records_and_leaderboard_are_those_of_a_local_sweep(sweep, tmp_path, monkeypatch):
    float64.patch(monkeypatch.setattr)
    args = [*GRID, "sweep=s"]
    assert sweep(*args, cwd="stack")[0] == 0
    code, told = sweep(*args, *DEBUG, cwd="workers")
    assert code == 0, told
    assert "8 runs in 2 groups for 2 workers" in told
    stack, workers = (tmp_path / cwd / SWEEPS / "s" for cwd in ("stack", "workers"))
    float64.assert_alike(workers, stack, 8)
    mode = stat.S_IMODE((workers / "workers" / "submitit").stat().st_mode)
    assert oct(mode) == "0o700"
    assert sorted(p.name for p in (workers / "groups").iterdir()) == ["00000.json", "00001.json"]
    shared = {p.name for p in workers.iterdir() if p.is_file()}
    assert shared == {"leaderboard.csv", "multirun.yaml", "sweep.json"}  # one writer: the driver
    assert sweep(*args, *DEBUG, cwd="workers")[0] == 0  # again: nothing to do
    assert sorted(p.name for p in (workers / "groups").iterdir()) == ["00000.json", "00001.json"]


# ---------------------------------------------------------------------- processes
EPOCHS = 80
LONG = ["-m", *LOCAL, "tracking=local", "sweep=s", f"training.epochs={EPOCHS}", "optimizer.lr=1e-3,3e-3",
        "seed=0,1", "model._target_=heldlab.nets.net"]  # fmt: skip
HELD = """
import os, time
from torch import nn
from knobs.models.mlp import mlp

class Held(nn.Module):
    def forward(self, x):
        if self.training and os.path.exists(os.environ["HELD"]):
            time.sleep(0.05)
        return x

def net(shape, **options):
    return nn.Sequential(mlp(shape, **options), Held())
"""


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def begins(folder):
    """Group -> process ids of the workers that began it, in order."""
    told = {}
    for file in sorted((folder / "workers").glob("*.jsonl")):
        lines = file.read_bytes().splitlines()
        told[file.stem] = [
            of_line(line)["begins"]["pid"] for line in lines if line.startswith(b'{"begins"')
        ]
    return told


def under_way(folder):
    """Whether each run has an epoch behind it."""
    return all((folder / f"{n}/metrics.jsonl").exists() for n in range(4))


@pytest.fixture
def held(tmp_path):
    """A file: while it is there, steps take so long that runs last for minutes, and stacks pay."""
    file = tmp_path / "held"
    for path in (file, tmp_path / "heldlab" / "__init__.py"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "heldlab" / "nets.py").write_text(HELD)
    yield file
    file.unlink(missing_ok=True)  # workers of a test that failed end soon


def driver(cwd):
    own = {"HELD": str(cwd / "held"), "KNOBS_ALLOW": "heldlab.", "PYTHONPATH": with_own(cwd)}
    with (cwd / "told.txt").open("a") as told:
        return subprocess.Popen([sys.executable, TRAIN, *LONG], cwd=cwd, env=ENV | own,
                                stdout=told, stderr=told, start_new_session=True)  # fmt: skip


def with_own(folder):
    """PYTHONPATH by which a package in a folder is found."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def said(cwd, words):
    """Whether drivers have printed something."""
    return words in (cwd / "told.txt").read_text()


def assert_each_row_once(folder):
    for number in range(4):
        assert read_summary(folder / str(number))["status"] == "finished"
        rows = read_metrics(folder / str(number))
        assert [row["epoch"] for row in rows] == [*range(1, EPOCHS + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM", "SIGKILL"])
def test_a_worker_that_is_ended_goes_on(name, held, tmp_path):
    """SIGUSR2: time limit or preemption, submitit sends it again; else the driver does."""
    process, folder = driver(tmp_path), tmp_path / SWEEPS / "s"
    until(lambda: under_way(folder))
    os.kill(begins(folder)["00000"][0], getattr(signal, name))
    until(lambda: len(begins(folder)["00000"]) == 2)
    held.unlink()
    assert process.wait(240) == 0, (tmp_path / "told.txt").read_text()
    assert_each_row_once(folder)
    assert {group: len(pids) for group, pids in begins(folder).items()} == {"00000": 2, "00001": 1}
    told = (tmp_path / "told.txt").read_text()
    assert ("sent again" in told) == (name != "SIGUSR2")
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_driver_that_dies_is_followed_by_the_same_command(held, tmp_path):
    process, folder = driver(tmp_path), tmp_path / SWEEPS / "s"
    until(lambda: under_way(folder))
    process.kill()
    process.wait()
    second = driver(tmp_path)
    until(lambda: said(tmp_path, "2 groups of before under way: followed"))
    held.unlink()
    assert second.wait(240) == 0, (tmp_path / "told.txt").read_text()
    assert_each_row_once(folder)
    assert {group: len(pids) for group, pids in begins(folder).items()} == {"00000": 1, "00001": 1}
    assert len(float64.leaderboard(folder)) == 2


# ---------------------------------------------------------------------- a Slurm of this machine
@pytest.fixture
def false_slurm(tmp_path):
    """Environment in which Slurm's commands run jobs here."""
    state = tmp_path / "slurm"
    state.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        text = f"#!{sys.executable}\n" + (Path(__file__).parent / "false_slurm.py").read_text()
        (state / name).write_text(text)
        (state / name).chmod(0o700)
    return ENV | {"FALSE_SLURM": str(state), "PATH": f"{state}{os.pathsep}{os.environ['PATH']}"}


SLURM = [
    "-m",
    "hydra/launcher=slurm",
    "tracking=local",
    "sweep=s",
    "training.epochs=2",
    "seed=0,1,2",
]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "grid", "array"), [
    (3, "seed=0,1,2", "--array=0-1%2"),  # both at once
    (1, "model.width=8,16,32", "--array=0-1%1"),  # which can share no stack: one after the other
])  # fmt: skip
def test_a_grid_is_arrays_as_large_as_slurm_takes(workers, grid, array, false_slurm, tmp_path):
    options = [f"hydra.launcher.workers={workers}", "hydra.launcher.cpus=2",
               "hydra.launcher.memory=1.5", "hydra.launcher.time=30",
               "hydra.launcher.partition='short,long'", "hydra.launcher.setup=['export A=1']"]  # fmt: skip
    told = command(tmp_path, *SLURM[:-1], grid, *options, env=false_slurm)
    assert f"3 runs in 3 groups for {workers} worker" in told
    assert [read_summary(tmp_path / SWEEPS / f"s/{n}")["status"] for n in range(3)] == [
        "finished"
    ] * 3
    scripts = (tmp_path / "slurm" / "scripts").read_text()
    for line in (array, "--cpus-per-task=2", "--mem=1536MB", "--time=30",
                 "--partition=short,long", "--job-name=knobs"):  # fmt: skip
        assert f"#SBATCH {line}\n" in scripts
    assert "\nexport A=1\n" in scripts
    assert "gpus" not in scripts
    assert len([*(tmp_path / "slurm").glob("*.script")]) == 2  # an array of 2, and the third


@pytest.mark.slow
def test_submitted_followed_and_cancelled(false_slurm, tmp_path):
    words = [*SLURM, "training.epochs=400"]
    told = command(tmp_path, *words, "hydra.launcher.wait=false", env=false_slurm)
    assert "submitted: the same command follows them" in told
    folder = tmp_path / SWEEPS / "s"
    until(lambda: len(begins(folder)) == 2)

    def knobs(*words):
        done = subprocess.run([sys.executable, "-m", "knobs", *words], cwd=tmp_path, env=false_slurm,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "no driver follows them" in knobs("status", "s")
    assert "2 groups ended" in knobs("cancel", str(folder))
    assert "cancelled" in knobs("status", "s")
    assert not any((read_summary(folder / str(n)) or {}).get("status") == "finished" for n in range(3)
                   if (folder / f"{n}/summary.json").exists())  # fmt: skip
    words[-1] = "training.epochs=400"
    told = command(tmp_path, *words, env=false_slurm, timeout=300)
    assert [read_summary(folder / str(n))["epochs"] for n in range(3)] == [400] * 3


@pytest.mark.slow
def test_the_commands_of_the_page_run(false_slurm, tmp_path):
    (tmp_path / "train.py").symlink_to(REPO / "train.py")
    page = (REPO / "docs" / "workers.md").read_text()
    slurm = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[:2]
    for line in "".join(slurm).splitlines():
        words = [word.replace("train.py", TRAIN) for word in shlex.split(line)[1:]]
        words += ["training.epochs=1", "tracking=local"] * (TRAIN in words)
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=false_slurm, text=True,
                              capture_output=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / SWEEPS / "lr").glob("*/summary.json")]) == 16


@pytest.mark.parametrize(("words", "fault"), [
    (["hydra.launcher.cluster=slurm"], "no sbatch on this machine"),
    (["hydra.launcher.cluster=pbs"], "hydra.launcher.cluster=pbs: must be one of slurm, local, debug"),
    ([*LOCAL, "hydra.launcher.gpus=2"], "hydra.launcher.gpus=2: must be 0 or 1"),
    ([*LOCAL, "hydra.launcher.gpus=1"], "2 workers would share one GPU"),
    ([*LOCAL, "hydra.launcher.workers=0"], "hydra.launcher.workers=0: must be a whole number >= 1"),
    ([*LOCAL, "hydra.launcher.width=0"], "hydra.launcher.width=0: must be null or a whole number"),
    ([*LOCAL, "hydra.launcher.time=0"], "hydra.launcher.time=0: must be a whole number >= 1"),
    ([*LOCAL, "hydra.launcher.memory=-1"], "hydra.launcher.memory=-1.0: must be null or > 0"),
    ([*LOCAL, "hydra.launcher.partition='a b'"], "hydra.launcher.partition='a b': must be"),
    ([*LOCAL, "hydra.launcher.workers=two"], "Value 'two' of type 'str' could not be converted"),
    ([*LOCAL, "hydra.launcher.wait=false", "hydra.launcher.workers=1", "model.width=8,16"],
     "keeps no queue for 2 groups"),
    ([*DEBUG, "hydra.launcher.wait=false"], "keeps no queue"),
])  # fmt: skip
def test_options_that_cannot_be(sweep, tmp_path, words, fault):
    code, told = sweep("hydra/launcher=slurm", "tracking=local", "sweep=s", "seed=0,1", *words)
    assert code == 2
    assert fault in told
    assert "Traceback" not in told
    assert not [*(tmp_path / SWEEPS).glob("s/[0-9]*")]


def test_shell_lines_of_a_yaml_are_refused(sweep, tmp_path):
    own = tmp_path / "own" / "experiment"
    own.mkdir(parents=True)
    lines = "# @package _global_\nhydra:\n  launcher:\n    setup: [touch /tmp/harm]\n"
    (own / "theirs.yaml").write_text(lines)
    code, told = sweep(*LOCAL, "tracking=local", "sweep=s", "seed=0,1", "experiment=theirs",
                       "--config-dir", str(tmp_path / "own"))  # fmt: skip
    assert code == 2
    assert "hydra.launcher.setup: comes from a YAML" in told


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_a_closed_terminal_does_not(held, tmp_path):
    """A terminal sends both to all processes of the group."""
    process, folder = driver(tmp_path), tmp_path / SWEEPS / "s"
    until(lambda: under_way(folder))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130, (tmp_path / "told.txt").read_text()
    assert [read_summary(folder / str(n))["status"] for n in range(4)] == ["interrupted"] * 4
    process = driver(tmp_path)
    until(lambda: [len(pids) for pids in begins(folder).values()] == [2, 2])
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(60) == 129, (tmp_path / "told.txt").read_text()
    process = driver(tmp_path)
    until(lambda: said(tmp_path, "2 groups of before under way: followed"))
    held.unlink()
    assert process.wait(240) == 0, (tmp_path / "told.txt").read_text()
    assert_each_row_once(folder)
    assert [len(pids) for pids in begins(folder).values()] == [2, 2]  # the last one followed


BAD = """
import ctypes, os, signal
from torch import nn
from knobs.models.mlp import mlp

class Bad(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        tried = len(x) == 2  # on two examples, before training
        if self.training and not tried and os.environ.get("SUBMITIT_EXECUTOR"):
            if self.width == 13:
                raise RuntimeError("thirteen")
            if self.width == 14:
                ctypes.string_at(0)
            if self.width == 15:  # as the system does where memory is short
                os.kill(os.getpid(), signal.SIGKILL)
        return x

def net(shape, *, width, **named):
    return nn.Sequential(mlp(shape, width=width, **named), Bad(width))
"""


@pytest.mark.slow
def test_runs_that_raise_or_kill_their_worker_end_alone(tmp_path):
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "nets.py").write_text(BAD)
    (tmp_path / "mylab" / "__init__.py").touch()
    told = command(tmp_path, "-m", *LOCAL, "sweep=s", "tracking=local", "training.epochs=1",
                   "model._target_=mylab.nets.net", "model.width=13,14,15,16,17", code=10,
                   env={"KNOBS_ALLOW": "mylab.", "PYTHONPATH": with_own(tmp_path)}, timeout=500)  # fmt: skip
    assert "job 0 failed: RuntimeError: thirteen" in told
    assert "its worker ended without a word" in told
    for number in (1, 2):
        assert f"job {number} failed: Failed: the process ended without a word" in told
    statuses = [read_summary(tmp_path / SWEEPS / f"s/{n}")["status"] for n in range(5)]
    assert statuses == ["failed", "failed", "failed", "finished", "finished"]
