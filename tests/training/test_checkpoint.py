"""Checkpoints on disk: verified, the one before in a damaged one's place, and that is said."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from knobs import storage
from knobs.errors import CheckpointError
from knobs.record import METRICS, read_metrics, read_summary
from knobs.training import checkpoint, session

FILES = {
    "best.safetensors", "last.previous.safetensors", "last.safetensors", "manifest.json",
}  # fmt: skip


@pytest.fixture
def saved(train, tmp_path, monkeypatch):
    """A run of three epochs that kept a checkpoint at each, so two are left to go on from."""
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    train("training.epochs=3")
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == FILES
    return tmp_path / "run" / "checkpoints"


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "a bit":
        data[-5] ^= 1
    elif how == "a bit of the header":
        data[data.index(b"knobs") + 20] ^= 1
    elif how == "noise":
        data = os.urandom(len(data))
    path.write_bytes(data)


HOWS = ["cut", "empty", "a bit", "a bit of the header", "noise"]


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_last_is_told_and_the_one_before_takes_its_place(how, saved, capsys):
    whole = checkpoint.load_last(saved)
    assert whole["progress"]["epoch"] == 3
    assert capsys.readouterr().err == ""
    damage(saved / checkpoint.LAST, how)
    before = checkpoint.load_last(saved)
    assert before["progress"] == whole["progress"]  # kept at the end of the epoch, and of the run
    told = capsys.readouterr().err
    assert "checkpoints/last.safetensors: " in told
    assert told.endswith("; last.previous.safetensors, of epoch 3, takes its place\n")
    damage(saved / "last.previous.safetensors", how)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: .*; .*last\.previous") as error:
        checkpoint.load_last(saved)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("how", HOWS)
def test_damaged_best_weights_are_found_in_the_last_checkpoint(how, saved, capsys):
    net = checkpoint.load(saved.parent)
    damage(saved / checkpoint.BEST, how)
    again = checkpoint.load(saved.parent)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert "last.safetensors, of epoch 3, takes its place" in capsys.readouterr().err
    for path in {*saved.glob("*.safetensors")} - {saved / checkpoint.BEST}:
        damage(path, how)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        checkpoint.load(saved.parent)


def test_every_flipped_byte_is_noticed(saved):
    """No damage of a file goes unnoticed, wherever in it."""
    path, data = saved / checkpoint.BEST, (saved / checkpoint.BEST).read_bytes()
    for other in ("last.safetensors", "last.previous.safetensors"):
        (saved / other).unlink()
    for place in [*range(0, 400, 3), *range(400, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(saved.parent)


def test_weights_that_somebody_changed_are_refused(saved):
    weights = load_file(saved / checkpoint.BEST)
    for path in saved.glob("*.safetensors"):
        path.unlink()
    save_file({name: w + 1 for name, w in weights.items()}, saved / checkpoint.BEST)
    with pytest.raises(CheckpointError, match="best.safetensors"):
        checkpoint.load(saved.parent)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "null", '{"files": 3}', '{"files": {"a": 1}}']
)
def test_without_a_manifest_a_files_own_digest_counts(text, saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (saved / name).stat().st_size
        assert checkpoint.hashlib.sha256((saved / name).read_bytes()).hexdigest() == entry["sha256"]
    (saved / "manifest.json").unlink()
    if text is not None:
        (saved / "manifest.json").write_text(text)
    assert checkpoint.load_last(saved)["progress"]["epoch"] == 3
    damage(saved / checkpoint.LAST, "a bit")
    assert checkpoint.load_last(saved)["progress"]["epoch"] == 3


@pytest.mark.parametrize("at", range(11))
def test_a_full_disk_in_a_resume_loses_nothing(at, train, tmp_path, monkeypatch):
    """Each write of a resume fails in its turn; what was there before reads and goes on."""
    train("training.epochs=3")
    run, rows = tmp_path / "run", read_metrics(tmp_path / "run")
    count, real = 0, os.replace

    def full(*paths):
        nonlocal count
        count += 1
        if count > at:
            raise OSError(28, "No space left on device")
        return real(*paths)

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    with pytest.raises(OSError, match="No space"):
        train("training.epochs=5", "resume=run")
    monkeypatch.setattr(os, "replace", real)
    assert read_metrics(run)[:3] == rows
    assert (
        (run / METRICS).read_text().startswith("".join(storage.as_line(r).decode() for r in rows))
    )
    train("training.epochs=5", "resume=run")
    assert [row["epoch"] for row in read_metrics(run)] == [1, 2, 3, 4, 5]
    assert read_summary(run)["status"] == "finished"


def test_a_run_syncs_at_most_six_times_and_a_row_twice(train, sweep, monkeypatch):
    synced, real = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), real(number))[1])
    train("training.epochs=3")
    assert 0 < len(synced) <= 6
    synced.clear()
    assert sweep("sweep=s", "seed=0,1,2,3", "training.epochs=2")[0] == 0
    assert len(synced) <= 4 * 2 + 2  # and sweep.json, and its folder
