"""Logs of a sweep and a gate's results: a bit, a cut, a full disk, a kill; nothing damaged counts."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO
from disks import Disk, refusing
from injected import assert_clean, assert_no_orphans, faults

from knobs import storage
from knobs.compare import gate
from knobs.compare.__main__ import main
from knobs.search.pruning import _LOGS, FILE, Pruner, behind
from knobs.sweep import stacks
from knobs.sweep.stacks import Stacks


def spoilt(whole, draw):
    """Bytes with one bit flipped, or one byte lost, or that end early."""
    place = draw.randrange(len(whole))
    flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
    return draw.choice([
        whole[:place] + flipped + whole[place + 1 :], whole[:place] + whole[place + 1 :],
        whole[:place],
    ])  # fmt: skip


def intact(data, whole):
    """The lines of damaged bytes that are as they were written."""
    lines = set(whole.splitlines())
    return [line for line in data.splitlines() if line in lines]


# ------------------------------------------------------------------ rungs.jsonl
@faults("damaged line of rungs.jsonl", "left out and said once; the others are ranked without it",
        quick=100, whole=2000)  # fmt: skip
def test_runs_are_ranked_by_undamaged_lines(cases, tmp_path, tried, capsys):
    draw = random.Random(3)
    for case in range(cases):
        folder = tmp_path / str(case)
        folder.mkdir()
        pruner = Pruner("asha", folder)
        [rung, *_] = pruner.rungs(50, 0)
        for run in range(9):
            pruner.stops({run: draw.random()}, rung, 50)
        whole = (folder / FILE).read_bytes()
        data = spoilt(whole, draw)
        (folder / FILE).write_bytes(data)
        _LOGS.clear()  # as a process that has not read them yet
        rows = [json.loads(line) for line in intact(data, whole)]
        losses = {row["run"]: -row["value"] for row in rows}
        capsys.readouterr()
        for run, value in ((9, draw.random()), (10, draw.random())):
            losses[run] = -value
            assert pruner.stops({run: value}, rung, 50) == {run} & {
                run for _ in [0] if behind(losses[run], sorted(losses.values()))
            }
        told = capsys.readouterr().err
        damaged = len([line for line in data.splitlines() if line]) - len(rows)
        # A line without an end is read, and told, once the next one has ended it.
        said = re.findall(r": (\d+) lines? damaged, and left out; the others are ranked", told)
        assert sum(map(int, said)) == damaged
        assert len(told.splitlines()) == len(said) <= 2
        tried()


def test_rungs_without_checksums_are_read(tmp_path, capsys):
    row = {"run": 0, "value": 0.9, "bracket": 0, "rung": 2, "epochs": 50, "group": ""}
    lines = [row | {"run": run, "value": 0.9 - run / 10} for run in range(3)]
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    pruner = Pruner("asha", tmp_path)
    assert pruner.stops({3: 0.1, 4: 0.95}, 2, 50) == {3}  # one of five goes on
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ stacks.jsonl
@faults("damaged line of stacks.jsonl", "left out and said once; what it planned is planned anew",
        quick=100, whole=2000)  # fmt: skip
def test_stacks_are_those_of_undamaged_lines(cases, tmp_path, tried, capsys):
    draw, lines = random.Random(4), []
    facts = {"epoch_steps": 3, "step_seconds": 1e-3, "alone_seconds": 2e-3, "reason": ""}
    for k in range(6):
        group = facts | {"stacks": [[4 * k, 4 * k + 1], [4 * k + 2, 4 * k + 3]]}
        lines.append({"plan": [group], "now": {"threads": 1}})
        lines.append({"rows": [[4 * k + 1, 0], [4 * k, 0]]})
        lines.append({"alone": [4 * k + 2]})
    whole = b"".join(map(storage.as_line, lines))

    def rows(folder, data):
        folder.mkdir()
        (folder / stacks.FILE).write_bytes(data)
        found = Stacks(folder, {"threads": 1})
        return {number: (found.rows(number), number in found) for number in range(24)}

    for case in range(cases):
        data = spoilt(whole, draw)
        capsys.readouterr()
        found = rows(tmp_path / str(case), data)
        told = capsys.readouterr().err
        kept = intact(data, whole)
        damaged = len([line for line in data.splitlines() if line]) - len(kept)
        assert (f"{damaged} line" in told and "damaged, and left out; stacks may" in told) == bool(
            damaged
        )
        assert found == rows(tmp_path / f"{case}-kept", b"".join(line + b"\n" for line in kept))
        tried()


# ------------------------------------------------------------------ a gate's --keep
GATE = ["--gate", "a {seed}", "b {seed}", "--mode", "max", "--keep"]


@pytest.fixture
def runs(monkeypatch):
    """The commands of a gate, made up: B is better by a half; which seeds have run."""
    ran = []

    def execute(words, deadline=None):
        ran.append(" ".join(words))
        value = random.Random(words[1]).random() + 0.5 * (words[0] == "b")
        return 0, [json.dumps({"score": value, "more": float("nan")})], []

    monkeypatch.setattr(gate, "execute", execute)
    return ran


@faults("damaged line of a gate's --keep", "exit 3 with its line, or it runs again; never counted",
        quick=100, whole=3000)  # fmt: skip
def test_no_damaged_result_of_a_gate_counts(cases, tmp_path, tried, capsys, runs):
    """Of a file that ends early, and of its last line, what is not whole runs again."""
    draw, path = random.Random(5), tmp_path / "k.jsonl"
    words = [*GATE, str(path), "--metric", "score"]
    assert main(words) == 0
    whole = path.read_bytes()
    before = capsys.readouterr().out
    for _ in range(cases):
        data = spoilt(whole, draw)
        path.write_bytes(data)
        runs.clear()
        code, told = main(words), capsys.readouterr()
        if code == 3:
            assert (path.read_bytes(), runs) == (data, [])
            assert f"{path}" in told.err
            wrong = next(i for i, (a, b) in enumerate(zip(data, whole, strict=False)) if a != b)
            line = whole.count(b"\n", 0, wrong) + 1
            assert f"line {line}" in told.err or "not the results of a gate" in told.err
        else:
            assert (code, path.read_bytes()) == (0, whole)
            assert len(runs) == 10 - len(intact(data[: data.rfind(b"\n") + 1], whole))
            assert told.out.splitlines()[0] == before.splitlines()[0]
        tried()


def test_every_bit_of_a_kept_line_counts(tmp_path, capsys, runs):
    path = tmp_path / "k.jsonl"
    assert main([*GATE, str(path), "--metric", "score"]) == 0
    whole = path.read_bytes()
    first = whole.index(b"\n")
    for place in range(8 * first):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        path.write_bytes(data)
        assert main([*GATE, str(path), "--metric", "score"]) == 3
        assert path.read_bytes() == data
    assert "line 1" in capsys.readouterr().err


def test_kept_lines_without_checksums_are_read_and_others_follow(tmp_path, capsys, runs):
    path = tmp_path / "k.jsonl"
    assert main([*GATE, str(path), "--metric", "score"]) == 0
    whole = path.read_bytes().splitlines(keepends=True)
    older = [storage.as_json(storage.of_line(line), None) for line in whole]
    path.write_bytes(b"".join(older[:6]))
    runs.clear()
    assert main([*GATE, str(path), "--metric", "score"]) == 0
    assert path.read_bytes() == b"".join(older[:6] + whole[6:])
    assert len(runs) == 4


def test_a_kept_run_that_diverged_is_read_as_one(tmp_path, capsys, monkeypatch):
    """JSON has no NaN: it is kept as a text, and the same command goes on."""
    nan = {"a": 0.5, "b": float("nan")}
    monkeypatch.setattr(
        gate,
        "execute",
        lambda words, _: (0, [json.dumps({"score": nan[words[0]] + 0.001 * int(words[1])})], []),
    )
    path = tmp_path / "k.jsonl"
    assert main([*GATE, str(path)]) == 21
    first = capsys.readouterr().out
    json.loads(path.read_text().splitlines()[1], parse_constant=pytest.fail)
    assert main([*GATE, str(path)]) == 21
    assert capsys.readouterr().out.splitlines()[0] == first.splitlines()[0]


@faults("a disk refuses a call of a gate's --keep", "exit 6, one message; the same command goes on",
        quick=6, whole=60)  # fmt: skip
def test_gate_on_a_disk_that_refuses(cases, tmp_path, tried, capsys, runs, monkeypatch):
    with refusing(monkeypatch, Disk(tmp_path / "whole")) as counted:
        assert main([*GATE, str(tmp_path / "whole" / "k.jsonl"), "--metric", "score"]) == 0
    whole = (tmp_path / "whole" / "k.jsonl").read_bytes()
    capsys.readouterr()
    numbers = (errno.ENOSPC, errno.EIO, errno.EACCES)
    todo = [(number, first) for number in numbers for first in range(len(counted.calls))]
    for number, first in random.Random(6).sample(todo, min(cases, len(todo))):
        path = tmp_path / f"{number}-{first}" / "k.jsonl"
        with refusing(monkeypatch, Disk(path.parent, number, first, 10**9)) as disk:
            code = main([*GATE, str(path), "--metric", "score"])
        told = capsys.readouterr()
        if code:
            assert code == 6, disk.calls[first]
            assert told.err.count(os.strerror(number)) == 1
            assert_clean(told.err, tmp_path)
            if path.exists() and path.read_bytes().count(b"\n"):
                assert "kept; the same command with --keep" in told.err
        else:  # who holds the lock is not written, and a folder is there already
            assert path.parent.exists()
        assert main([*GATE, str(path), "--metric", "score"]) == 0
        assert path.read_bytes() == whole
        capsys.readouterr()
        tried()


@faults("a gate killed as it writes a result", "the same command goes on with what is whole",
        quick=2, whole=12)  # fmt: skip
def test_a_gate_that_is_killed_goes_on(cases, tmp_path, tried):
    script = 'sleep .05; echo "{\\"score\\": $1.$(( ($1 * 7919 + $2) % 97 ))}"'
    (tmp_path / "run.sh").write_text(script)
    a, b = "sh run.sh {seed} 0", "sh run.sh {seed} 3"
    words = ["-m", "knobs.compare", "--gate", a, b, "--mode", "max", "--pairs", "5", "--keep"]
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    ends = set()
    for case in range(cases + 1):
        path = tmp_path / f"{case}.jsonl"
        command = [sys.executable, *words, str(path)]
        if case:  # the first one runs undisturbed
            with subprocess.Popen(command, env=env, cwd=tmp_path, start_new_session=True,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:  # fmt: skip
                late = time.monotonic() + 60
                while not path.exists() and time.monotonic() < late:
                    time.sleep(0.005)
                time.sleep(0.03 * case)
                killed.kill()
            assert killed.returncode in (-signal.SIGKILL, 0, 20, 21)
            assert_no_orphans(killed.pid)
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert_clean(done.stderr, tmp_path)
        ends.add((done.returncode, done.stdout.splitlines()[0], path.read_bytes()))
        assert len(ends) == 1, ends
        if case:
            tried()
