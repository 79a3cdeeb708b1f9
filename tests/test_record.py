"""What a run leaves: metrics, summary, one writer at a time."""

import json

import pytest

from knobs.errors import LockedError
from knobs.record import Record, read_metrics, read_summary


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
    assert summary["test"] is None
    assert summary["versions"]["torch"].startswith("2.")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "best.safetensors",
        "last.pt",
    ]
    assert not list(folder.rglob("*.partial"))


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
