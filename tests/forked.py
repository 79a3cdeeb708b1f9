"""Sweeps in forked children of one process that has torch imported: a sweep costs what it computes.

A child can die without a word, as by SIGKILL, at its n-th step or replaced file: `os._exit`. Stacks
are as wide as they can be, whatever else the machine does.
"""

import json
import subprocess
import sys
from pathlib import Path

from conftest import REPO
from trained import ENV

KILLED = 137
SERVER = """
import json, os, runpy, sys
import hydra, sklearn.datasets, torch
sys.path.insert(0, TESTS)
import parsed
parsed.once(), parsed.ahead()
del sys.path[0]
import knobs.cli, knobs.report.write, knobs.sweep.launch, knobs.sweep.study
from knobs.stack import loop as stack
from knobs.sweep import groups, timing, together
from knobs.training import loop, session

def widest(probe, widths, group, size, cache):
    # Not by time: beside other work that comes out otherwise, and a run's last bits with it.
    times = {width: group.alone_seconds / min(width, 2) for width in [1, *widths]}
    return times, max(times)

timing.find_width = widest
groups.LEAST_GAIN = float("inf")  # of several activations in one stack, for the same reason

def child(job):
    os.chdir(job["cwd"])
    out = os.open("told.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(out, 2)
    os.environ.update(job["env"])
    sys.argv = [TRAIN, *job["words"]]
    session.SAVE_SECONDS = together.SAVE_SECONDS = job["save"]
    together.SAVE_SHARE = 0  # else the first checkpoint, which is slow, puts off the next
    seen = [0]
    def counted(function):
        def call(*arguments, **named):
            seen[0] += 1
            if seen[0] == job["die"]:
                os._exit(137)
            return function(*arguments, **named)
        return call
    os.replace, stack.train_step = counted(os.replace), counted(stack.train_step)
    loop.train_step = counted(loop.train_step)
    code = 0
    try:
        runpy.run_path(TRAIN, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    with open("seen.txt", "w") as file:
        file.write(str(seen[0]))
    return code

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = child(json.loads(line))
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forked:
    """The process that forks; `with Forked(...) as run`, then `run(folder, *words)`.

    Args:
        env: beside the usual one.
    """

    def __init__(self, **env):
        paths = f"TRAIN, TESTS = {str(REPO / 'train.py')!r}, {str(REPO / 'tests')!r}"
        code = f"{paths}\n{SERVER}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            env=ENV | {"PYTHONPATH": str(REPO / "src")} | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __call__(self, folder, *words, die=0, save=0.02, env=None):
        """The exit code of train.py with these words in a folder, and what it printed.

        Args:
            die: without a word, at the how many-th step or replaced file; 0: not.
            save: seconds between checkpoints.
        """
        folder.mkdir(exist_ok=True)
        job = {"cwd": str(folder), "words": [*map(str, words)], "die": die, "save": save}
        self.process.stdin.write(json.dumps(job | {"env": env or {}}) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, Path(folder, "told.txt").read_text()


def places(folder):
    """How many steps and replaced files the last child in a folder had."""
    return int((folder / "seen.txt").read_text())
