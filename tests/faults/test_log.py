"""metrics.jsonl: a bit, a line, a kill, a full disk; what was good stays, what is lost is said."""

import errno
import json
import random
import shutil

import pytest
from injected import bits, faults

from knobs import listing, record, storage
from knobs.errors import CheckpointError
from knobs.record import METRICS, Record, damage, read_log, read_metrics
from knobs.report.read import read_run, read_sweep
from knobs.report.run.read import read_files

EPOCHS = 8
ROWS = [{"epoch": n, "step": 10 * n, "lr": 0.1, "train/loss": 1 / n, "val/accuracy": 0.9 - 1 / (n + 9)}
        for n in range(1, EPOCHS + 1)]  # fmt: skip


def written(folder):
    folder.mkdir()
    (folder / METRICS).write_bytes(b"".join(map(storage.as_line, ROWS)))
    return folder / METRICS


def spoilt_at(whole, kind, place, draw):
    """A log with one fault at a byte, or in the line of that number."""
    head, byte, rest = whole[:place], whole[place], whole[place + 1 :]
    if kind == "line":
        lines = whole.splitlines(keepends=True)
        return b"".join(line for i, line in enumerate(lines) if i != place % EPOCHS)
    if kind == "zeros":
        return head + bytes(9) + rest[8:]
    instead = {"bit": bytes([byte ^ 1 << draw.randrange(8)]), "digit": b"7"}
    return head + instead[kind] + rest if kind in instead else head


@faults("damaged line of metrics.jsonl", "the line is left out and said; a resume brings it back",
        quick=400, whole=5000)  # fmt: skip
def test_no_damaged_row_is_believed(cases, tmp_path, tried):
    """Flipped bits, other digits, lines lost or cut: the rows that are read were written."""
    path, draw = written(tmp_path / "run"), random.Random(0)
    whole = path.read_bytes()
    for _ in range(cases):
        place, kind = (
            draw.randrange(len(whole)),
            draw.choice(["bit", "digit", "cut", "line", "zeros"]),
        )
        data = spoilt_at(whole, kind, place, draw)
        path.write_bytes(data)
        rows, damaged = read_log(path.parent)
        assert all(row in ROWS for row in rows), kind
        lost = EPOCHS - len(rows)
        said = damage(path.parent, EPOCHS)
        assert (lost > 0) == bool(said)
        assert f"{lost} epoch" in said or not lost
        assert damaged >= (kind == "bit" and lost > 0)
        again = Record(path.parent)
        back, fault = again.earlier(EPOCHS, whole)
        again.release()
        assert back == ROWS == read_metrics(path.parent)  # appended to, not rewritten
        assert path.read_bytes().startswith(data)
        assert bool(fault) == (lost > 0)
        tried()


def test_every_bit_of_a_line_counts(tmp_path):
    """No flipped bit anywhere leaves another row than was written."""
    line = storage.as_line(ROWS[3])
    assert storage.of_line(line) == ROWS[3]
    (tmp_path / METRICS).touch()
    for place in range(8 * (len(line) - 1)):
        data = bytearray(line)
        data[place // 8] ^= 1 << place % 8
        (tmp_path / METRICS).write_bytes(data)
        assert read_metrics(tmp_path) in ([], [ROWS[3]])


def test_older_lines_have_no_checksum_and_are_read_as_before(tmp_path):
    path = written(tmp_path / "run")
    older = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS[:5])
    path.write_bytes(older + b"".join(map(storage.as_line, ROWS[5:])))
    assert read_log(path.parent) == (ROWS, 0)
    assert damage(path.parent, EPOCHS) == ""
    assert storage.as_line({"epoch": 1}) == b'{"epoch": 1,"crc":"fac9bcd2"}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1e-320, None, 2**70])
def test_every_value_comes_back(value, tmp_path):
    row = {"epoch": 1, "val/loss": value}
    (tmp_path / METRICS).write_bytes(storage.as_line(row))
    assert repr(read_metrics(tmp_path)) == repr([row])


def test_what_a_log_lacks_is_said_in_spans():
    rows = [{"epoch": n} for n in (2, 3, 7)]
    assert record.log_fault(rows, 0, 7) == "4 epochs of 7 missing (1 and 4 to 6)"
    assert record.log_fault(rows, 2, 10**18).startswith("2 lines damaged, 999,999,999,999,999,997")
    assert record.log_fault([{"epoch": n} for n in (1, 2)], 1, 2) == ""  # trained again since


# ------------------------------------------------------------------ where it is said, and mended
@pytest.fixture
def spoilt(train, tmp_path):
    """A run of which one digit of the log is another: (folder, the log as it was)."""
    train("training.epochs=3", "model.width=8")
    path = tmp_path / "run" / METRICS
    whole = path.read_bytes()
    second = whole.splitlines()[1]
    path.write_bytes(whole.replace(second, second.replace(b'"epoch": 2', b'"epoch": 9')))
    return tmp_path / "run", whole


def test_damage_is_said_wherever_the_log_is_read(spoilt, capsys):
    folder, _ = spoilt
    told = "1 line damaged, 1 epoch of 3 missing (2)"
    assert [row["epoch"] for row in read_run(folder).curve] == [1, 3]
    assert read_run(folder).fault == f"{METRICS}: {told}"
    assert any(told in fault for fault in read_files(folder).faults)
    assert listing.main([str(folder.parent)]) == 0
    assert f"run/{METRICS}: {told}" in capsys.readouterr().err
    sweep = folder.parent / "sweep"
    shutil.copytree(folder, sweep / "0")
    from knobs.report.checks import unfinished

    (finding,) = unfinished(read_sweep([sweep]))
    assert finding.text == f"1 log damaged, and left out what is: 0/{METRICS}: {told}."


def test_a_resume_says_it_and_brings_the_rows_back(spoilt, train, tmp_path, capsys):
    folder, whole = spoilt
    train("training.epochs=5", "model.width=8", "resume=run")
    said = capsys.readouterr().err
    assert "1 line damaged, 1 epoch of 3 missing (2); written again from the checkpoint" in said
    train("training.epochs=5", "model.width=8", folder="other")
    assert [row["epoch"] for row in read_metrics(folder)] == [1, 2, 3, 4, 5]
    assert read_metrics(folder)[:3] == record.rows_of(whole.splitlines())[0]
    assert damage(folder, 5) == ""
    train("training.epochs=5", "model.width=8", "resume=run")
    assert capsys.readouterr().err == ""


@faults("full disk as a log is mended", "nothing good is lost; the next resume mends it",
        quick=6)  # fmt: skip
def test_a_full_disk_in_a_mending_resume_loses_nothing(cases, spoilt, train, monkeypatch, tried):
    """The write fails after so many bytes; the same command, once there is space, ends the same."""
    folder, _ = spoilt
    spoiled, real = (folder / METRICS).read_bytes(), storage.append
    shutil.copytree(folder, folder.parent / "kept")
    for case in range(cases):
        shutil.rmtree(folder)
        shutil.copytree(folder.parent / "kept", folder)
        left = [62 * case]

        def full(path, data, left=left):
            if path.name == METRICS and data:
                if len(data) > left[0]:
                    real(path, data[: left[0]])
                    raise OSError(errno.ENOSPC, "No space left on device")
                left[0] -= len(data)
            real(path, data)

        with monkeypatch.context() as patched:
            patched.setattr(record, "append", full)
            with pytest.raises(OSError, match="No space"):
                train("training.epochs=5", "model.width=8", "resume=run")
        assert (folder / METRICS).read_bytes().startswith(spoiled)
        if case % 4 == 1:
            train("training.epochs=5", "model.width=8", "resume=run")
            assert [row["epoch"] for row in read_metrics(folder)] == [1, 2, 3, 4, 5]
            assert bits(folder)["status"] == "finished"
        assert not sorted(folder.rglob("*.partial"))
        tried()


def test_a_log_without_a_checkpoint_is_not_made_up(tmp_path):
    path = written(tmp_path / "run")
    path.write_bytes(b"".join(map(storage.as_line, ROWS[3:])))
    held = Record(path.parent)
    rows, fault = held.earlier(EPOCHS)
    held.release()
    assert (rows, fault) == (ROWS[3:], f"{path}: 3 epochs of 8 missing (1 to 3)")
    assert read_metrics(path.parent) == ROWS[3:]


def test_a_truncated_checkpoint_of_the_log_is_refused_as_damaged(spoilt):
    from knobs.training import checkpoint

    folder, whole = spoilt
    last = folder / "checkpoints" / checkpoint.LAST
    data = last.read_bytes()
    place = data.index(whole.splitlines()[0]) + 12
    last.write_bytes(data[:place] + b"9" + data[place + 1 :])
    with pytest.raises(CheckpointError, match="damaged, its SHA-256 is another"):
        checkpoint.load_last(folder / "checkpoints")
