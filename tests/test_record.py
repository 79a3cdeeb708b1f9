"""What a run leaves: metrics, summary, one writer at a time."""

import json

import pytest

from knobs.config import command
from knobs.errors import LockedError
from knobs.identity import identity
from knobs.record import Record, read_config, read_metrics, read_summary
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
    assert summary == json.loads(json.dumps(outcome.summary))
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
        "last.pt",
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
    assert list(written) == ["overrides", "choices", "identity", "config"]
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
    assert read_config(tmp_path) == {"overrides": ["seed=1"]}
    assert not (tmp_path / "summary.json").exists()
    record.finish({})


def test_a_second_writer_is_told(tmp_path):
    first = Record(tmp_path)
    with pytest.raises(LockedError, match="another process is writing this run") as error:
        Record(tmp_path)
    assert error.value.exit_code == 9
    first.finish({})
    Record(tmp_path).finish({})


def test_a_resumed_record_drops_what_will_come_again(tmp_path):
    record = Record(tmp_path)
    for epoch in (1, 2, 3):
        record.log({"epoch": epoch})
    record.finish({})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "trai')  # a crash
    Record(tmp_path, epoch=2).finish({})
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
