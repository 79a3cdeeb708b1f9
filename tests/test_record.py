"""The record of a run: metrics, summary, one writer at a time."""

import json
import re
import signal
import subprocess
import sys

import pytest
from conftest import REPO

from knobs import record
from knobs.config import command
from knobs.errors import LockedError
from knobs.identity import identity
from knobs.record import SCHEMA, Ended, Record, ended, held, read_config, read_metrics, read_summary
from knobs.storage import as_line
from knobs.training.run import execute


def test_a_run_leaves_what_the_readme_says(train, tmp_path):
    outcome = train("training.epochs=3")
    folder = tmp_path / "run"
    rows = read_metrics(folder)
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert set(rows[0]) == {
        "epoch",
        "step",
        "lr",
        "train/loss",
        "val/loss",
        "val/accuracy",
        "val/f1",
    }
    assert rows[-1]["step"] == 3 * 34
    summary = read_summary(folder)
    assert summary == {"schema": SCHEMA} | json.loads(json.dumps(outcome.summary))
    assert summary["status"] == "finished"
    assert summary["objective"] == {
        "metric": "val/accuracy",
        "mode": "max",
        "value": max(r["val/accuracy"] for r in rows),
    }
    assert summary["steps"] == 102
    assert summary["validation_examples"] == 360
    assert summary["test"] is None
    assert summary["versions"]["torch"].startswith("2.")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "manifest.json",
    ]
    assert not list(folder.rglob("*.partial"))


def test_the_config_is_there_before_the_run_ends_and_hides_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "sk-123456")
    plain = command.checked(["tracking=local", "training.epochs=1", "optimizer.lr=1e-2"])
    plain["name"] = "sk-123456"
    overrides = ["optimizer=adam", "optimizer.lr=1e-2", "+my.token=abc", "name=sk-123456"]
    choices = {"optimizer": "adam", "experiment": None}
    execute(plain, tmp_path, None, {"overrides": overrides, "choices": choices})
    written = read_config(tmp_path)
    assert list(written) == ["schema", "overrides", "choices", "identity", "config", "data"]
    assert written["overrides"] == [*overrides[:2], "<hidden>", "<hidden>"]
    assert written["choices"] == choices
    assert written["identity"] == identity(plain) == read_summary(tmp_path)["config_hash"]
    assert written["config"] == plain | {"name": "<hidden>"}
    assert "sk-123456" not in (tmp_path / "config.json").read_text()


def test_a_run_from_python_has_no_choices_and_a_resumed_one_says_what_changed(train, tmp_path):
    train("training.epochs=1")
    first = read_config(tmp_path / "run")
    assert (first["overrides"], first["choices"]) == ([], {})
    train("training.epochs=2", "resume=run")
    second = read_config(tmp_path / "run")
    assert [c["config"]["training"]["epochs"] for c in (first, second)] == [1, 2]
    assert [r["epoch"] for r in read_metrics(tmp_path / "run")] == [1, 2]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_that_breaks_off_has_its_config(tmp_path):
    record = Record(tmp_path)
    record.begin({"overrides": ["seed=1"]})
    assert read_config(tmp_path) == {"schema": SCHEMA, "overrides": ["seed=1"]}
    assert not (tmp_path / "summary.json").exists()
    record.finish({})


WRITER = """
import sys, time
from pathlib import Path
from knobs.record import Record
record = Record(Path(sys.argv[1]))
record.log({"epoch": 1})
print("logged", flush=True)
time.sleep(600)
"""


def test_a_second_writer_is_told_and_changes_nothing_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "logged\n"
        refusal = f"^{tmp_path}: another process is writing this run$"
        with pytest.raises(LockedError, match=refusal) as error:
            Record(tmp_path)
        assert error.value.exit_code == 9
        assert held(tmp_path)
        assert (tmp_path / "metrics.jsonl").read_bytes() == as_line({"epoch": 1})
        first.send_signal(signal.SIGKILL)
    assert not held(tmp_path)
    record = Record(tmp_path)
    record.log({"epoch": 2})
    record.finish({})
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "summary.json"]


def test_a_record_that_cannot_begin_lets_the_folder_go(tmp_path):
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    plain = command.checked(["tracking=local", "training.epochs=1"])
    with pytest.raises(IsADirectoryError):
        execute(plain, tmp_path / "run")
    assert not held(tmp_path / "run")
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_look_at_a_folder_leaves_nothing_there(tmp_path):
    assert not held(tmp_path)
    assert not held(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "end"), [
    (None, None), ("", None), ("{", None), ("[]", None), ("null", None), ("{}", None),
    ("\xff\xfe", None), ("[" * 100_000, None), ('{"status": null}', None),
    ('{"status": "failed"}', Ended("failed", None, None)),
    ('{"status": "failed", "objective": 3, "epochs": "x"}', Ended("failed", None, None)),
    ('{"status": "diverged", "objective": {"value": null}, "epochs": 2}',
     Ended("diverged", None, 2)),
    ('{"status": "finished", "objective": {"value": "x"}}', Ended("finished", None, None)),
    ('{"status": "finished", "objective": {"value": 0.5}, "epochs": 3}', Ended("finished", 0.5, 3)),
])  # fmt: skip
def test_how_a_run_ended(text, end, tmp_path):
    if text is not None:
        (tmp_path / "summary.json").write_text(text, encoding="latin-1")
    assert ended(tmp_path) == end


def test_the_log_is_never_rewritten_and_the_last_row_of_an_epoch_counts(tmp_path):
    record = Record(tmp_path)
    for epoch in (1, 2, 3):
        record.log({"epoch": epoch, "try": 1})
    record.finish({})
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"epoch": 4, "trai')  # a crash
    before = path.read_bytes()
    record = Record(tmp_path)
    assert record.earlier(2) == ([{"epoch": 1, "try": 1}, {"epoch": 2, "try": 1}], "")
    assert len(read_metrics(tmp_path)) == 3  # nothing is lost until it was computed again
    record.log({"epoch": 3, "try": 2})
    assert path.read_bytes() == before + b"\n" + as_line({"epoch": 3, "try": 2})
    rows = [{"epoch": 1, "try": 1}, {"epoch": 2, "try": 1}, {"epoch": 3, "try": 2}]
    assert read_metrics(tmp_path) == rows
    record.restart()
    assert read_metrics(tmp_path) == []
    record.log({"epoch": 1, "try": 3})
    record.finish({})
    assert read_metrics(tmp_path) == [{"epoch": 1, "try": 3}]
    assert path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    "line", ["", "x", "3", "[]", "null", '{"step": 1}', '{"epoch": "2"}', "[" * 9999]
)
def test_what_is_no_row_is_passed_over(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 2}}\n')
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_nobody_but_the_storage_writes_files():
    """One writer for every file: no other module opens one for writing, or lets a library do so."""
    writes = re.compile(
        r"""open\((?!os\.devnull)[^)]*["'][rb+]*[wax]|\.write_(text|bytes)\(|torch\.save\(|save_file\(|OmegaConf\.save\("""
    )
    sources = sorted((REPO / "src").rglob("*.py"))
    found = [path.name for path in sources if writes.search(path.read_text())]
    assert found == ["storage.py"]


@pytest.mark.parametrize(("names", "yes"), [
    ([], False), (["last.safetensors"], True), (["last.previous.safetensors"], True),
    (["last.pt"], True), (["last.safetensors.partial"], False), (["best.safetensors"], False),
])  # fmt: skip
def test_what_a_run_can_go_on_from(names, yes, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in names:
        (tmp_path / "checkpoints" / name).touch()
    assert record.resumable(tmp_path) == yes
