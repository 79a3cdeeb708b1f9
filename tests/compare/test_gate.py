"""The gate: what it runs, when it stops, what it keeps, and how often it is wrong."""

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import REPO, TRAIN

from knobs import __main__ as knobs_command
from knobs import storage
from knobs.compare import gate
from knobs.compare.__main__ import main
from knobs.compare.gate import Plan
from knobs.errors import ConfigError

# Prints a score that follows from the seed, its first argument, and an offset; logs each call.
SCRIPT = """echo "$1 $2" >> calls.txt
echo "a line that nobody reads"
awk "BEGIN { srand($1); r = rand(); srand($1 * 7 + $2 * 1000); print \\"{\\\\\\"score\\\\\\": \\" r + $2 + rand() / 9 \\"}\\" }"
"""
A, B, SAME_AS_A = "sh a.sh {seed} 0", "sh a.sh {seed} 0.5", "sh a.sh {seed} 0.001"
MODE = ("--mode", "max")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.sh").write_text(SCRIPT)
    return tmp_path


def calls(folder):
    path = folder / "calls.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def kept(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ------------------------------------------------------------------ runs
def test_it_stops_at_the_first_look_that_decides(folder, capsys):
    assert main(["--gate", A, B, *MODE, "--keep", "k.jsonl"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("B is better than A by 0.5")
    assert [line[:10] for line in said.err.splitlines()] == [
        f"seed {i}:" for i in range(1000, 1005)
    ]
    assert calls(folder) == 10
    rows = kept(folder / "k.jsonl")
    assert [row["seed"] for row in rows] == [s for s in range(1000, 1005) for _ in "AB"]
    assert [row["command"] for row in rows[:2]] == [A, B]


def test_it_says_worse_and_no_difference(folder, capsys):
    assert main(["--gate", B, A, *MODE]) == 21
    assert main(["--gate", A, SAME_AS_A, *MODE]) == 20
    assert calls(folder) == 10 + 40
    assert "all 20 pairs have run" in capsys.readouterr().out
    assert main(["--gate", A, SAME_AS_A, *MODE, "--detect", "0.4"]) == 20
    assert calls(folder) == 10 + 40 + 10


def test_it_is_a_command_of_knobs(folder):
    assert knobs_command.main(["compare", "--gate", A, B, *MODE]) == 0


def test_json_is_all_that_is_printed(capsys):
    assert main(["--gate", A, B, *MODE, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["exit_code"], found["looks"]) == ("better", 0, [5, 10, 15, 20])
    assert len(found["arms"]["A"]) == 5


def test_a_split_is_a_unit_where_the_commands_take_one(folder, capsys):
    a, b = (f"sh a.sh {{seed}} {effect} {{split}}" for effect in (0, 0.5))
    assert main(["--gate", a, b, *MODE, "--json", "--ratio", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["units"] == "splits"
    assert {run["split"] for run in found["arms"]["A"]} == set(range(1000, 1005))


ROWS = """printf '{"score": 0.%d, "validation_rows": "%s"}\\n' $((51 + ($1 * $2) % 7 + $4)) "$3" """


def test_commands_that_were_judged_on_other_rows_are_refused(folder, capsys):
    (folder / "rows.sh").write_text(ROWS)
    a, b = (f"sh rows.sh {{seed}} 3 {rows} 0" for rows in ("old", "new"))
    assert main(["--gate", a, b, *MODE]) == 3
    assert "A and B: split 0 of both was judged on other rows" in capsys.readouterr().err
    assert len(kept(next((folder / "outputs").rglob("*.jsonl")))) == 2  # at the first pair


def test_a_split_whose_seed_changes_no_row_is_one_split(folder, capsys):
    (folder / "rows.sh").write_text(ROWS)
    a, b = (f"sh rows.sh {{seed}} {{split}} same {gain}" for gain in (0, 20))
    assert main(["--gate", a, b, *MODE, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["candidates"]
    assert (found["units"], found["n"]) == ("seeds", 5)


def test_the_same_command_goes_on(folder, capsys):
    assert main(["--gate", A, B, *MODE, "--keep", "k.jsonl"]) == 0
    lines = (folder / "k.jsonl").read_text().splitlines(keepends=True)
    (folder / "k.jsonl").write_text("".join(lines[:7]) + lines[7][:20])  # killed while it wrote
    assert main(["--gate", A, B, *MODE, "--keep", "k.jsonl"]) == 0
    assert calls(folder) == 10 + 3
    assert (folder / "k.jsonl").read_text() == "".join(lines)
    assert "7 runs of k.jsonl counted again: were they of this code?" in capsys.readouterr().out
    assert main(["--gate", A, B, *MODE, "--keep", "k.jsonl"]) == 0
    assert calls(folder) == 13


def test_kept_runs_are_a_file_to_compare(folder, capsys):
    main(["--gate", A, B, *MODE, "--keep", "k.jsonl"])
    capsys.readouterr()
    assert main(["k.jsonl:A", "k.jsonl:B", *MODE]) == 0
    assert "looks at 5, 10, 15, 20 pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--gate", A, SAME_AS_A],
        ["--gate", A, B, "--pairs", "40"],
        ["--gate", A, B, "--first", "7"],
    ],
)
def test_what_was_kept_is_of_one_gate(folder, words, capsys):
    """A gate that is extended once its end is seen is wrong more often than it says."""
    main(["--gate", A, B, *MODE, "--keep", "k.jsonl"])
    before = (folder / "k.jsonl").read_bytes()
    assert main([*words, *MODE, "--keep", "k.jsonl"]) == 3
    assert ": of a gate with other commands, --pairs or --first" in capsys.readouterr().err
    assert (folder / "k.jsonl").read_bytes() == before


@pytest.mark.parametrize("text", ["my notes", "a line\nmy notes", '{"x": 1}\n', "\n\nnotes", "{"])
def test_a_file_of_something_else_is_left_alone(folder, text):
    (folder / "k.jsonl").write_text(text)
    code = main(["--gate", A, B, *MODE, "--keep", "k.jsonl"])
    assert (code, calls(folder)) == ((0, 10) if text == "{" else (3, 0))
    assert text == "{" or (folder / "k.jsonl").read_text() == text


def test_one_gate_a_file(folder, capsys):
    with storage.Lock(folder / "k.jsonl.lock"):
        code = "from knobs.compare.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "--gate", A, B, *MODE, "--keep", "k.jsonl"],
            env=os.environ | {"PYTHONPATH": str(REPO / "src")}, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 9
    assert "writes k.jsonl" in done.stderr


def test_commands_that_ignore_their_seed_end_at_the_first_look(folder, capsys):
    (folder / "one.sh").write_text("echo x >> calls.txt; echo '{\"score\": '$2'}'")
    assert main(["--gate", "sh one.sh {seed} 1", "sh one.sh {seed} 2", *MODE]) == 22
    assert calls(folder) == 10
    assert "do they use their seed?" in capsys.readouterr().out


def test_a_candidate_that_always_diverges_is_worse_at_the_first_look(folder):
    (folder / "nan.sh").write_text("echo '{\"score\": NaN}'")
    assert main(["--gate", A, "sh nan.sh {seed}", *MODE]) == 21
    assert calls(folder) == 5


def test_an_output_without_end_and_a_process_that_stays(folder):
    (folder / "long.sh").write_text(
        "head -c 3000000 /dev/zero; sleep 50 & yes | head -c 300000; echo; echo '{\"score\": '$1'}'"
    )
    code, out, _ = gate.execute(["sh", "long.sh", "7"])
    assert (code, out[-1]) == (0, '{"score": 7}')


# ------------------------------------------------------------------ faults
def test_a_command_that_fails_is_tried_three_times(folder, capsys):
    (folder / "bad.sh").write_text("echo x >> calls.txt; echo why not >&2; echo '{}'; exit 7")
    assert main(["--gate", A, "sh bad.sh {seed}", *MODE, "--keep", "k.jsonl"]) == 10
    assert capsys.readouterr().err == (
        "1 result kept; the same command with --keep k.jsonl goes on\n"
        "knobs: sh bad.sh 1000: failed 3 times, exit code 7\n  why not\n"
    )
    assert calls(folder) == 1 + 3
    assert len(kept(folder / "k.jsonl")) == 1


@pytest.mark.parametrize(
    ("script", "code", "fault"),
    [
        ("echo 0.93", 10, "its last line is to be JSON"),
        ("true", 10, 'such as {"metric": 0.93}, and is: nothing'),
        ("echo '[1]'", 10, "and is: [1]"),
        ("""echo '{"x": 1, "y": 2}'""", 3, "which column is the metric? --metric with one of x and y"),
        ("""echo '{"score": "high"}'""", 3, "score high: no number"),
        ("""echo '{"score": null}'""", 3, "score is empty; write nan for a run that diverged"),
        ("""echo '{"score": 1, "seed": 0}'""", 10, "prints seed 0, not the one it was given"),
        ("""echo '{"loss": 1}'""", 3, "the commands print no metric in common: loss and score"),
        ("""echo '{"score": 1, "status": "failed"}'""", 10, "the status failed"),
        ("kill -9 $$", 10, "failed 3 times, ended by signal 9"),
    ],
)  # fmt: skip
def test_a_result_that_is_none(folder, script, code, fault, capsys):
    (folder / "bad.sh").write_text(script)
    assert main(["--gate", "sh bad.sh {seed}", A, *MODE]) == code
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((A, "sh a.sh 3 1"), "command B: no {seed} in it"),
        ((A, ""), "command B: no {seed} in it; .*empty"),
        ((A, "sh 'a.sh {seed}"), "command B: No closing quotation"),
        ((A, "sh a.sh {seed} {split}"), "{split}: in one command only"),
        ((A, B, 3), "--pairs 3: must be 5 to 1000"),
        ((A, B, 20, -1), "--first -1: must be"),
    ],
)
def test_a_plan_that_cannot_be(words, fault):
    with pytest.raises(ConfigError, match=fault):
        Plan(words[:2], *words[2:])


def test_a_seed_may_be_printed_as_a_text(folder):
    (folder / "text.sh").write_text("""echo "{\\"score\\": 0.$1, \\"seed\\": \\"$1\\"}" """)
    assert main(["--gate", "sh text.sh {seed}", A, *MODE, "--pairs", "5", "--keep", "k"]) == 0
    assert kept(folder / "k")[0]["seed"] == 1000


def test_no_such_program(folder, capsys):
    assert main(["--gate", "./none {seed}", A, *MODE]) == 2
    assert "./none: cannot be run (No such file or directory)" in capsys.readouterr().err


def test_an_unknown_direction_is_refused_before_anything_runs(folder, capsys):
    assert main(["--gate", A, B, "--metric", "score"]) == 2
    assert calls(folder) == 0


def test_no_shell(folder):
    plan = Plan(("sh a.sh {seed} 0; touch made $(touch made) `touch made`", B))
    assert plan.words("A", 2)[:5] == ["sh", "a.sh", "1002", "0;", "touch"]
    main(["--gate", "sh a.sh {seed} 0;touch${IFS}made", B, *MODE])
    assert not (folder / "made").exists()


def test_other_braces_stay():
    plan = Plan(('p {"a": {seed}} x={y}', "p '{\"a\": {seed}}'"))
    assert plan.words("B", 0) == ["p", '{"a": 1000}']
    assert plan.words("A", 0)[-1] == "x={y}"


def test_looks_are_at_every_fifth_pair_and_at_most_twenty():
    def looks(pairs):
        return Plan((A, B), pairs).looks

    assert looks(20) == (5, 10, 15, 20)
    assert looks(7) == (5, 7)
    assert looks(5) == (5,)
    assert len(looks(1000)) == 20


# ------------------------------------------------------------------ ends
def test_minutes_end_it_with_what_the_last_look_saw(folder, capsys):
    (folder / "slow.sh").write_text('[ $1 -gt 1006 ] && sleep 60; sh a.sh $1 "$2"')
    slow = "sh slow.sh {seed} 0.001"
    began = time.monotonic()
    assert main(["--gate", A, slow, *MODE, "--minutes", "0.05", "--json"]) == 20
    assert time.monotonic() - began < 40
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["n"] == 5
    assert "--minutes 0.05 ended after 7 pairs" in found["caveats"]


def test_minutes_that_end_before_a_pair(folder, capsys):
    assert main(["--gate", "sleep 1{seed}", A, *MODE, "--minutes", "0.003"]) == 22
    assert "too few to say: --minutes 0.003 ended after 0 pairs" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_what_it_runs(folder, number, code):
    (folder / "slow.sh").write_text("echo $$ >> pids.txt; echo '{\"score\": 1}'; exec sleep 60")
    command = [sys.executable, "-m", "knobs.compare", "--gate", A, "sh slow.sh {seed}"]
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    with subprocess.Popen([*command, *MODE, "--keep", "k.jsonl"], env=env,
                          stderr=subprocess.PIPE, text=True) as process:  # fmt: skip
        while not (folder / "pids.txt").exists():
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert len(kept(folder / "k.jsonl")) == 1
    assert not (folder / "k.jsonl.lock").exists()
    assert number == signal.SIGTERM or "--keep k.jsonl goes on" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pids.txt").read_text()), 0)


def test_no_call_blocks_where_a_signal_that_came_just_before_would_wait(monkeypatch):
    asked, waitpid = [], os.waitpid
    monkeypatch.setattr(os, "waitpid", lambda pid, how: (asked.append(how), waitpid(pid, how))[1])
    assert gate.execute(["sh", "-c", "sleep 0.2; echo 1"])[:2] == (0, ["1"])
    assert set(asked) == {os.WNOHANG}


# ------------------------------------------------------------------ a run of knobs
def test_a_run_of_knobs_ends_with_its_result(folder):
    command = (
        f"{shlex.quote(sys.executable)} {TRAIN} tracking=local training.epochs=1 seed={{seed}}"
    )
    code, out, err = gate.execute(Plan((command, command)).words("A", 4))
    assert code == 0, err
    [path] = (folder / "outputs" / "runs").glob("*/*/summary.json")
    value = json.loads(path.read_text())["objective"]["value"]
    assert json.loads(out[-1]) == {
        "val/accuracy": value, "status": "finished", "seed": 1004, "split": 0, "fold": 0,
        "training_examples": 1078, "validation_examples": 360,
        "validation_rows": json.loads((path.parent / "config.json").read_text())["data"]["rows_hash"]["val"],
        "folder": str(path.parent.relative_to(folder)),
    }  # fmt: skip


# ------------------------------------------------------------------ how often it is wrong
def simulated(monkeypatch, folder, number, effect, spread=1.0, split=False):
    """The exit code and the pairs of a gate whose commands are draws; seeds are shared."""
    drawn = random.Random(f"{number} {effect}")

    def execute(words, deadline):
        together = random.Random(f"{number} {words[1]}").gauss(0, 1)
        value = together + drawn.gauss(effect * (words[0] == "b"), spread / math.sqrt(2))
        return 0, [json.dumps({"score": value})], []

    monkeypatch.setattr(gate, "execute", execute)
    commands = [f"{name} {{seed}}{' {split}' * split}" for name in "ab"]
    path = folder / f"{number}-{effect}.jsonl"
    code = main(["--gate", *commands, *MODE, "--keep", str(path), "--json"])
    return code, len(kept(path)) // 2


def test_equal_commands_are_seldom_called_different(folder, monkeypatch, capsys):
    """Of 200 gates 10 are expected, and more than 19 in 1 of 400 tries; benchmarks/gate.py: 1,000."""
    codes = [simulated(monkeypatch, folder, i, 0.0)[0] for i in range(200)]
    assert sum(code != 20 for code in codes) <= 19
    assert set(codes) <= {0, 20, 21}


def test_a_large_difference_is_seen_early(folder, monkeypatch, capsys):
    found = [simulated(monkeypatch, folder, i, 2.0) for i in range(20)]
    assert [code for code, _ in found] == [0] * 20
    assert sum(pairs for _, pairs in found) / 20 < 10
