"""Processes that have a parent of ours: none outlives it, each run keeps a checkpoint."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from injected import ORPHANS, assert_clean, faults
from trained import ENV, TRAIN

from knobs import record
from knobs.processes import end_with, ends_with_us, orphaned
from knobs.record import read_summary

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
PARENT = """
import os, subprocess, sys, time
child = "import os, sys, time; from knobs.processes import end_with;" \\
        "end_with({}, {}); print(os.getpid(), flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child.format(os.getpid(), sys.argv[1])])
time.sleep(600)
"""


def gone(pid, seconds=ORPHANS):
    """Whether a process ends within some seconds; one that its parent has not looked at is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@linux
@faults(
    "the parent of a process of ours killed: a reader of data, a mirror, a worker",
    "the process ends within 10 s, asked first where it can save something",
    quick=1,
    whole=3,
)
def test_a_process_ends_with_its_parent(tried, cases):
    for number in (signal.SIGKILL, 0, signal.SIGTERM)[:cases]:
        command = [sys.executable, "-c", PARENT, str(int(number))]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENV)
        child = int(parent.stdout.readline())
        parent.kill()
        parent.communicate()
        assert gone(child), number
        tried()


@linux
def test_a_process_with_its_parent_goes_on():
    assert not orphaned(os.getppid())
    assert orphaned(-1)
    end_with(os.getppid())  # this test run would end here


@linux
def test_a_program_of_a_gate_ends_with_it():
    code = (
        "import subprocess, time; from knobs.processes import ends_with_us;"
        "p = subprocess.Popen(['sleep', '600'], preexec_fn=ends_with_us());"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert gone(child)
    assert callable(ends_with_us())


def descendants(pid):
    """The processes that a process has begun, and those that they have."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    children = [child for child, parent in pairs if parent == pid]
    return [*children, *(one for child in children for one in descendants(child))]


@linux
@faults(
    "a sweep of joblib's killed or stopped by a signal",
    "its workers keep a checkpoint and end within 10 s, and the same command goes on",
    quick=1,
    whole=3,
)
def test_joblibs_workers_end_with_their_sweep(tmp_path, tried, cases):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[:cases]:
        where = tmp_path / number.name
        where.mkdir()
        words = ["-m", "sweep=s", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1",
                 "tracking=local", "model.width=8", "training.epochs=100000"]  # fmt: skip
        out = (where / "out.txt").open("w+")
        sweep = subprocess.Popen(
            [*TRAIN, *words], cwd=where, env=ENV | {"PYTHONWARNINGS": "ignore"},
            stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        runs = [where / "outputs/sweeps/s" / name for name in "01"]
        while not all((run / "checkpoints/last.safetensors").exists() for run in runs):
            assert sweep.poll() is None, (where / "out.txt").read_text()
            time.sleep(0.1)
        workers = descendants(sweep.pid)
        os.killpg(sweep.pid, number) if number == signal.SIGINT else sweep.send_signal(number)
        code = sweep.wait(60)
        out.close()
        told = (where / "out.txt").read_text()
        assert all(map(gone, workers))
        assert code == (-9 if number == signal.SIGKILL else 128 + number), told
        assert_clean(told, where)
        if number != signal.SIGKILL:
            assert "interrupted; go on with: python train.py -m sweep=s" in told
        for run in runs:
            assert read_summary(run)["status"] == "interrupted"
            assert record.resumable(run)
            assert not record.held(run)
        tried()
