"""knobs ls and knobs clean: what lies below outputs/, and what of it could go."""

import csv
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import REPO
from fake_sweeps import add_run, fake_grid, fake_search

from knobs import __main__ as knobs_command
from knobs import cleaning, listing, record, storage
from knobs.errors import ConfigError
from knobs.tracking import sync

OLD = REPO / "tests" / "old" / "681e2c3"


def ls(capsys, *words):
    assert knobs_command.main(["ls", *map(str, words)]) == 0
    return capsys.readouterr().out


def rows(capsys, *words):
    return json.loads(ls(capsys, *words, "--json"))


def age(folder, seconds):
    """Let a run have begun so many seconds after the first of 2026."""
    os.utime(folder / "config.json", (1767268800 + seconds,) * 2)


@contextmanager
def other_process(path):
    """A process of its own that holds a lock file."""
    code = f"from pathlib import Path; from knobs.storage import Lock; lock = Lock(Path({str(path)!r})); print(flush=True); input()"
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    ) as process:
        process.stdout.readline()
        yield
        process.communicate(b"\n")


@pytest.fixture
def outputs(tmp_path):
    """Three runs of a grid, one that failed, one that was killed, one that is damaged."""
    sweep = tmp_path / "sweeps" / "mine"
    for i, (name, lr, value) in enumerate(
        [("adam", 1e-3, 0.95), ("sgd", 1e-2, 0.9), ("adam", 1e-1, 0.99)]
    ):
        age(add_run(sweep, {"optimizer": name, "optimizer.lr": lr}, value=value, epochs=10 + i), i)
    age(add_run(sweep, {"optimizer": "sgd", "optimizer.lr": 1e3}, status="failed"), 3)
    age(add_run(tmp_path / "runs" / "2026-01-01", {"model.width": 32}, status=None), 4)
    damaged = add_run(tmp_path / "runs" / "2026-01-01", {"model.width": 16}, value=0.5)
    (damaged / "config.json").write_text("{")
    age(damaged, 5)
    return tmp_path


# ------------------------------------------------------------------ ls
def test_every_run_is_a_line_the_newest_first(outputs, capsys, monkeypatch):
    lines = rows(capsys, outputs)
    assert [(line["run"], line["status"], line["value"], line["epochs"]) for line in lines] == [
        ("runs/2026-01-01/1", "unreadable", None, None),
        ("runs/2026-01-01/0", "interrupted", None, None),
        ("sweeps/mine/3", "failed", None, 20),
        ("sweeps/mine/2", "finished", 0.99, 12),
        ("sweeps/mine/1", "finished", 0.9, 11),
        ("sweeps/mine/0", "finished", 0.95, 10),
    ]
    assert lines[3]["overrides"][:2] == ["optimizer=adam", "optimizer.lr=0.1"]
    assert [line["date"] for line in lines[::5]] == sorted(
        [line["date"] for line in lines[::5]], reverse=True
    )
    monkeypatch.delenv("COLUMNS", raising=False)
    text = ls(capsys, outputs).splitlines()
    assert len(text) == 7
    assert text[0].split() == [
        "run",
        "status",
        "val/accuracy",
        "epochs",
        "seconds",
        "date",
        "what",
        "differs",
    ]
    assert "optimizer=adam lr=0.1 " in text[4]


@pytest.mark.parametrize(
    ("filters", "runs"),
    [
        (["optimizer=adam"], "20"),
        (["optimizer=adam", "val/accuracy>0.95"], "2"),
        (["val/accuracy>=0.95"], "20"),
        (["val/accuracy<=.9"], "1"),
        (["optimizer!=adam"], "31"),
        (["status=failed"], "3"),
        (["optimizer.lr = 1e-2"], "1"),
        (["optimizer.lr<0.05", "objective>0.92"], "0"),
        (["epochs=11"], "1"),
        (["seconds>2"], ""),
        (["date<2026-01-01 12:00:02", "optimizer=adam"], "0"),
        (["optimizer=a.*"], ""),
    ],
)
def test_filters(outputs, capsys, monkeypatch, filters, runs):
    monkeypatch.setenv("TZ", "UTC")
    found = rows(capsys, outputs / "sweeps", "--filter", *filters) if runs else []
    if not runs:
        assert ls(capsys, outputs / "sweeps", "--filter", *filters).endswith(
            "that the filters accept\n"
        )
    assert [line["run"][-1] for line in found] == list(runs)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["--filter", "optimzer=adam"],
            "--filter optimzer=adam: no run has optimzer; did you mean optimizer?",
        ),
        (["--filter", "__import__('os')"], "no filter; write KEY=VALUE"),
        (
            ["--sort", "val/acuracy"],
            "--sort val/acuracy: no run has val/acuracy; did you mean val/accuracy?",
        ),
        (["nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_word_that_means_nothing_is_a_fault(outputs, capsys, monkeypatch, words, fault):
    monkeypatch.chdir(outputs)
    words = words if words == ["nowhere"] else [".", *words]
    assert knobs_command.main(["ls", *words]) == 2
    assert fault in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sort", "runs"),
    [
        (["val/accuracy"], "2013"),
        (["objective"], "2013"),
        (["epochs"], "0123"),
        (["optimizer.lr"], "0123"),
        (["date"], "3210"),
        (["date", "--reverse"], "0123"),
        (["optimizer"], "0213"),
    ],
)
def test_an_order_puts_what_lacks_the_key_last(outputs, capsys, sort, runs):
    found = rows(capsys, outputs / "sweeps", "--sort", *sort)
    assert [line["run"][-1] for line in found] == list(runs)


def test_the_least_is_best_where_the_objective_says_so(tmp_path, capsys):
    for value in (0.3, 0.1, 0.2):
        add_run(tmp_path / "a", {"optimizer.lr": value}, value=value, metric="val/loss", mode="min")
    add_run(tmp_path / "b", {}, value=0.7)
    add_run(tmp_path / "b", {}, value=0.8)
    assert [line["value"] for line in rows(capsys, tmp_path / "a", "--sort", "val/loss")] == [
        0.1,
        0.2,
        0.3,
    ]
    found = rows(capsys, tmp_path, "--best", "--sort", "run")
    assert [(line["run"], line["value"]) for line in found] == [("a/1", 0.1), ("b/1", 0.8)]
    assert "val/loss 0.1000" in ls(capsys, tmp_path)  # two metrics: each beside its value


@pytest.mark.parametrize("columns", [80, 120])
def test_a_screen_is_not_overrun_and_its_limits_are_told(tmp_path, capsys, monkeypatch, columns):
    fake_grid(tmp_path / "sweeps" / "2026-11-26" / "12-00-00-digits-mlp-a-long-name", seeds=8)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = ls(capsys, tmp_path, "--limit", "5", "--sort", "run").splitlines()
    assert max(map(len, lines)) <= columns
    assert "5 of 48 runs; --all shows the others" in lines
    assert ("no room for date, epochs" in lines[-1]) == (columns == 80)
    assert all(line.endswith(f"seed={i}") for i, line in enumerate(lines[1:6]))
    monkeypatch.delenv("COLUMNS")
    assert len(ls(capsys, tmp_path).splitlines()) == 49  # a pipe shows all, whole
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert len(ls(capsys, tmp_path, "--all").splitlines()) >= 49
    assert "40 of 48 runs; --all shows the others" in ls(capsys, tmp_path)


def test_no_color(outputs, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m" in ls(capsys, outputs)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in ls(capsys, outputs)


def test_csv_begins_no_formula(outputs, capsys):
    add_run(outputs / "=1+1", {"optimizer": "adam"}, value=0.5)
    table = list(csv.DictReader(ls(capsys, outputs, "--csv").splitlines()))
    assert len(table) == 7
    assert {row["run"] for row in table} >= {"'=1+1/0", "sweeps/mine/0"}
    assert tuple(table[0]) == listing.COLUMNS


def test_a_run_under_way_is_running_and_nothing_is_written(outputs, capsys):
    run = outputs / "runs" / "2026-01-01" / "0"
    (run / record.LOCK).write_text("left by a killed process")
    assert rows(capsys, outputs / "runs")[1]["status"] == "interrupted"
    assert (run / record.LOCK).read_text() == "left by a killed process"
    with other_process(run / record.LOCK):
        assert rows(capsys, outputs / "runs")[1]["status"] == "running"


def test_damaged_and_hostile_folders_are_lines(outputs, capsys):
    runs = outputs / "sweeps" / "mine"
    for i, text in enumerate(["", "[]", "{}", '{"config": 3}', "[" * 100_000, '{"schema": 99}']):
        (runs / str(10 + i)).mkdir()
        (runs / str(10 + i) / "config.json").write_text(text)
    (runs / "0" / "summary.json").write_bytes(b"\xff\xfe")
    (runs / "1" / "summary.json").write_text('{"status": "\\u001b[2J", "objective": {}}')
    (runs / "30").mkdir()
    (runs / "30" / "config.json").symlink_to(runs / "2" / "config.json")
    (runs / "40").symlink_to(runs / "2")
    lines = rows(capsys, runs)
    assert {
        line["status"]
        for line in lines
        if line["run"] in {"0", "1", "30", *map(str, range(10, 16))}
    } == {"unreadable"}
    assert "40" not in {line["run"] for line in lines}
    assert "\x1b[2J" not in ls(capsys, runs)


def test_runs_of_the_first_knobs_are_listed(capsys):
    found = {line["run"]: line["value"] for line in rows(capsys, OLD)}
    assert len(found) == 13
    assert found["run"] == pytest.approx(0.3472, abs=1e-4)


# ------------------------------------------------------------------ clean
def clean(capsys, *words):
    assert knobs_command.main(["clean", *map(str, words)]) == 0
    return capsys.readouterr().out


def fill(folder, name, size=5000):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


@pytest.fixture
def waste(outputs):
    """Beside the runs: what killed processes leave, checkpoints, what only looks like it."""
    mine = outputs / "sweeps" / "mine"
    (mine / "sweep.json").write_text("{}")
    goes = [
        fill(mine, "leaderboard.csv.partial"),
        fill(mine / "0", "summary.json.partial"),
        fill(mine / "0", "run.lock", 0),
        fill(mine / "0", "wandb/sync.lock", 0),
        fill(mine / "0", "checkpoints/best.previous.safetensors"),
        fill(mine / "0", "checkpoints/last.previous.safetensors"),
        fill(mine / "0", "checkpoints/best.safetensors.partial"),
        mine / "3",
        outputs / "runs" / "2026-01-01" / "0",
    ]
    stays = [
        fill(mine / "0", "checkpoints/last.safetensors"),
        fill(mine / "0", "notes.tmp"),
        fill(mine, "mine.partial"),
        fill(outputs / "elsewhere", "summary.json.partial"),
        fill(outputs / "model", "config.json"),
        outputs / "runs" / "2026-01-01" / "1",  # damaged: perhaps not knobs' at all
        fill(
            add_run(outputs / "runs" / "x", {}, status=None), "checkpoints/last.safetensors"
        ).parents[1],
        fill(outputs / "runs" / "x" / "0", "checkpoints/last.previous.safetensors"),
    ]
    return outputs, goes, stays


def test_clean_removes_nothing_unless_asked_and_then_what_it_listed(waste, capsys):
    outputs, goes, stays = waste
    said = clean(capsys, outputs)
    listed = [line.split(": ")[0].split("  ")[-1] for line in said.splitlines()[:-1]]
    assert sorted(listed) == sorted(os.path.relpath(path, outputs) for path in goes)
    assert said.splitlines()[-1].endswith("; knobs clean --yes removes them")
    assert all(path.exists() for path in goes + stays)
    freed = sum(found.size for found in cleaning.find(outputs))
    assert f"freed {cleaning.in_bytes(freed)}" in clean(capsys, outputs, "--yes")
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in stays)
    assert clean(capsys, outputs) == f"nothing to remove below {outputs}\n"
    assert not list((outputs / "sweeps").rglob("*.lock"))


@pytest.mark.parametrize("lock", ["sweeps/mine/sweep.lock", "sweeps/mine/3/run.lock"])
def test_what_a_process_holds_is_left(waste, capsys, lock):
    outputs, goes, _ = waste
    held = (outputs / lock).parent
    listed = list(cleaning.find(outputs))
    with other_process(outputs / lock):
        assert not [
            found for found in cleaning.find(outputs) if held in (found.path, *found.path.parents)
        ]
        late = [found for found in listed if held in (found.path, *found.path.parents)]
        for found in late:  # listed before it was held
            if found.path.name not in cleaning.LOCKS:
                assert "held by process" in cleaning.remove(found)
        assert all(found.path.exists() for found in late if found.path.name != "run.lock")
    assert clean(capsys, outputs, "--yes")
    assert not any(path.exists() for path in goes)


def test_what_has_changed_since_it_was_listed_is_left(waste):
    outputs, *_ = waste
    failed = outputs / "sweeps" / "mine" / "3"
    (found,) = (found for found in cleaning.find(outputs) if found.path == failed)
    fill(failed, "checkpoints/last.safetensors")
    assert cleaning.remove(found) == "changed meanwhile"
    assert failed.exists()


def test_links_are_not_followed(waste, tmp_path_factory, capsys):
    outputs, *_ = waste
    away = tmp_path_factory.mktemp("away")
    failed = add_run(away, {}, status="failed")
    (outputs / "linked").symlink_to(away)
    inside = fill(outputs / "sweeps" / "mine" / "3", "x").parent
    (inside / "link").symlink_to(failed)
    (outputs / "sweeps" / "mine" / "1" / "checkpoints").symlink_to(
        fill(away / "c", "best.previous.pt").parent
    )
    clean(capsys, outputs, "--yes")
    assert not inside.exists()
    assert failed.exists()
    assert (away / "c" / "best.previous.pt").exists()


def test_places_go_once_study_json_has_them(tmp_path, capsys):
    (folder := tmp_path / "search").mkdir()
    record.append_places(folder, {0: {"arm": ""}, 7: {"arm": ""}})
    assert "nothing to remove" in clean(capsys, tmp_path)  # study.json is lost
    study = {"schema": record.SCHEMA, "runs": {"0": {"arm": ""}}}
    storage.write(folder / record.STUDY, record.sealed(study))
    assert "nothing to remove" in clean(capsys, tmp_path)  # it does not have run 7
    study["runs"]["7"] = {"arm": ""}
    storage.write(folder / record.STUDY, record.sealed(study))
    whole = record.read_study(folder)
    assert "search/places.jsonl: study.json has all that it says" in clean(capsys, tmp_path)
    with other_process(folder / "trials.lock"):
        assert "nothing to remove" in clean(capsys, tmp_path, "--yes")
    assert (folder / record.PLACES).exists()
    clean(capsys, tmp_path, "--yes")
    assert not (folder / record.PLACES).exists()
    assert record.read_study(folder) == whole


def test_places_with_a_damaged_line_stay(tmp_path, capsys):
    study = {"schema": record.SCHEMA, "runs": {"0": {}}}
    storage.write(tmp_path / record.STUDY, record.sealed(study))
    storage.append(tmp_path / record.PLACES, b'{"run": 0}\n{"run": 0, "crc":"00000000"}\n')
    assert "nothing to remove" in clean(capsys, tmp_path)


@pytest.mark.parametrize("name", ["study.json", "places.jsonl", "trials.journal"])
def test_a_failed_run_of_a_search_stays(tmp_path, capsys, name):
    failed = add_run(tmp_path, {}, status="failed")
    assert f"{failed.name}: failed, with no checkpoint" in clean(capsys, tmp_path)
    (tmp_path / name).touch()
    assert "nothing to remove" in clean(capsys, tmp_path)


def test_runs_of_a_search_stay_its_trials_name_them(tmp_path, capsys):
    fake_search(tmp_path / "s", n=3)
    add_run(tmp_path / "s", {}, status="failed")
    assert "nothing to remove" in clean(capsys, tmp_path)


def test_offline_files_go_once_the_server_was_seen_to_have_them(tmp_path, capsys):
    run = add_run(tmp_path / "runs", {}, value=0.9)
    about = json.loads((run / "config.json").read_text())
    about["config"]["tracking"] = {"project": "knobs", "entity": None}
    (run / "config.json").write_text(json.dumps(about))
    part = fill(run, "wandb/offline-run-20260101_120000-abcd1234/run-abcd1234.wandb").parent
    assert "nothing to remove" in clean(capsys, tmp_path)
    (mirrored,) = sync.find(tmp_path)
    noted = run / "wandb" / sync.ARRIVED
    noted.write_text(json.dumps(mirrored.facts("https://x") | {"rows": 3}))
    assert "nothing to remove" in clean(capsys, tmp_path)  # other rows: not what was verified
    noted.write_text(json.dumps(mirrored.facts("https://x")))
    assert "W&B has it" in clean(capsys, tmp_path)
    clean(capsys, tmp_path, "--yes")
    assert not part.exists()
    assert noted.exists()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "2 kB"), (1_500_000, "1.5 MB"), (25e9, "25 GB")],
)
def test_bytes(size, text):
    assert cleaning.in_bytes(size) == text


# ------------------------------------------------------------------ the command
def test_the_commands_are_told_apart(capsys, tmp_path, monkeypatch):
    assert knobs_command.main(["lss"]) == 2
    assert capsys.readouterr().err == "knobs: knobs lss: no such command; did you mean ls?\n"
    assert knobs_command.main([]) == 0
    said = capsys.readouterr().out
    assert [name for name in knobs_command.COMMANDS if f"  {name} " not in said] == []
    assert knobs_command.main(["--version"]) == 0
    assert capsys.readouterr().out == "knobs 0.2.0\n"
    fake_grid(tmp_path / "s")
    assert knobs_command.main(["report", str(tmp_path / "s")]) == 0
    assert (tmp_path / "s" / "report.html").exists()
    with pytest.raises(ConfigError, match="no such folder"):
        cleaning.main([str(tmp_path / "nowhere")])


def test_the_commands_import_no_torch_and_a_pipe_may_close(outputs):
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    code = "import sys; from knobs.__main__ import main; main(['ls', sys.argv[1]]); main(['clean', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, outputs], capture_output=True, text=True, env=env
    )
    assert done.stdout.splitlines()[-1] == "False"
    line = f"{sys.executable} -m knobs ls {outputs} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=env)
    assert done.stderr == ""
