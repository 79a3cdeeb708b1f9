"""Programs of tests are forked from a process that has imported torch: no other than started ones."""

import os
import subprocess
import sys
import time

import processes
import pytest

CODE = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ["A"], sys.path[0], sys.stdin.read()]))
print(__name__, sys.modules["__main__"].__dict__ is globals(), "knobs" in sys.modules)
print("a word", file=sys.stderr)
def ended(): print("at its end")
import atexit
atexit.register(ended)
{end}
"""
ENDS = {
    "": 0, "sys.exit(7)": 7, "sys.exit('why not')": 1, "1 / 0": 1, "os.kill(os.getpid(), 15)": -15,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["script", "-m", "-c"])
@pytest.mark.parametrize("end", ENDS)
def test_a_fork_is_as_a_process_that_was_started(kind, end, tmp_path):
    code = CODE.replace("{end}", end)
    (tmp_path / "program.py").write_text(code)
    words = {"script": [tmp_path / "program.py"], "-m": ["-m", "program"], "-c": ["-c", code]}
    command = [sys.executable, *map(str, words[kind]), "x", "y=z"]
    env = os.environ | {"A": "b", "PYTHONPATH": str(tmp_path)}
    ours = processes.run(command, tmp_path, env)
    theirs = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert ours.returncode == theirs.returncode == ENDS[end]
    assert ours.stdout == theirs.stdout
    assert [ours.stderr.splitlines()[i] for i in (0, -1)] == [
        theirs.stderr.splitlines()[i] for i in (0, -1)
    ]


def test_forks_draw_each_their_own():
    code = "import numpy, random; print(numpy.random.rand(), random.random())"
    first, second = (processes.run([sys.executable, "-c", code], ".").stdout for _ in "ab")
    assert set(first.split()).isdisjoint(second.split())


def test_what_takes_too_long_is_ended_with_all_that_it_began(tmp_path):
    code = "import os, subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        processes.run([sys.executable, "-c", code], tmp_path, timeout=3)
    begun = int(caught.value.output)
    for _ in range(100):  # until the system has taken it away
        if not os.path.exists(f"/proc/{begun}"):
            break
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{begun}")
