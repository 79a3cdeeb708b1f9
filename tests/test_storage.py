"""Lock files: one holder at a time, through kills, releases and removals."""

import os
import platform
import subprocess
import sys

import pytest

from knobs import ledger, load, record, storage
from knobs.errors import CheckpointError, ConfigError, LockedError, StorageError
from knobs.storage import Lock, append, cut_half_line, held, write

HOLD = """
import sys, time
from pathlib import Path
from knobs.storage import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""
COUNT = """
import sys
from pathlib import Path
from knobs.storage import Lock
lock, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(100):
    with Lock(lock, wait=True):
        number.write_text(str(int(number.read_text()) + 1))
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock file until it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_killed_holder_is_named_until_it_is_killed(tmp_path, holder):
    path = tmp_path / "x.lock"
    who = f"process {holder.pid} on {platform.node()}"
    with pytest.raises(LockedError) as error:
        Lock(path, "{who} is here")
    assert (str(error.value), error.value.exit_code) == (f"{tmp_path}: {who} is here", 9)
    assert path.read_text() == f" {who}\n"
    assert held(path)
    holder.kill()
    holder.wait()
    assert path.exists()
    with Lock(path):
        assert path.read_text() == f" process {os.getpid()} on {platform.node()}\n"
    assert not path.exists()


def test_what_a_killed_process_left_is_removed_by_a_look(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not held(tmp_path / "x.lock")
    assert list(tmp_path.iterdir()) == []


def test_nobody_holds_what_is_not_there_or_cannot_be_written(tmp_path):
    assert not held(tmp_path / "x.lock")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.lock").mkdir()
    assert not held(tmp_path / "x.lock")


def test_a_release_counts_once(tmp_path):
    first = Lock(tmp_path / "x.lock")
    first.release()
    with Lock(tmp_path / "x.lock"):
        first.release()  # which removes nothing of the second's
        assert held(tmp_path / "x.lock")


def test_a_lock_file_removed_between_opening_and_locking_is_no_lock(tmp_path, monkeypatch):
    """B opens A's file, A releases, C makes another: B must not hold the first beside C."""
    import filelock

    first, taken = Lock(tmp_path / "x.lock"), []

    def late(fd, **options):
        if not taken:
            taken.append(None)
            first.release()
            taken[0] = Lock(tmp_path / "x.lock")
        return real(fd, **options)

    real = filelock.lock_descriptor
    monkeypatch.setattr(filelock, "lock_descriptor", late)
    with pytest.raises(LockedError):
        Lock(tmp_path / "x.lock")
    taken[0].release()
    Lock(tmp_path / "x.lock").release()
    assert list(tmp_path.iterdir()) == []


def test_processes_that_wait_for_each_other_count_exactly(tmp_path):
    lock, number = tmp_path / "x.lock", tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", COUNT, str(lock), str(number)]
    for process in [subprocess.Popen(command) for _ in range(3)]:
        assert process.wait() == 0
    assert number.read_text() == "300"
    assert not lock.exists()


def test_processes_that_claim_one_folder_at_once_each_get_their_own(tmp_path):
    """Every claim of four processes' is a new folder, though all ask for one name."""
    code = (
        "import sys, pathlib, knobs.storage as s\n"
        "[print(s.claim(pathlib.Path(sys.argv[1]) / 'a' / 'run').name) for _ in range(25)]"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    names = [name for one in started for name in one.communicate()[0].decode().split()]
    assert sorted(names) == sorted(["run", *(f"run-{i}" for i in range(2, 101))])
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(names)


# ------------------------------------------------------------------ links, and folders of others
@pytest.mark.parametrize("do", [append, lambda path, _: cut_half_line(path), lambda p, _: Lock(p)])
def test_nothing_is_written_through_a_link(do, tmp_path):
    (tmp_path / "kept").write_bytes(b"half")
    (tmp_path / "x").symlink_to("kept")
    with pytest.raises(StorageError, match=r"x: is a link, and nothing is written through one"):
        do(tmp_path / "x", b"line\n")
    assert (tmp_path / "kept").read_bytes() == b"half"


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_what_stands_in_the_place_of_a_partial_file_is_removed(kind, tmp_path):
    (tmp_path / "kept").write_bytes(b"kept")
    partial = tmp_path / "x.partial"
    if kind == "link":
        partial.symlink_to("kept")
    elif kind == "hard link":
        partial.hardlink_to(tmp_path / "kept")
    else:
        os.mkfifo(partial)
    (tmp_path / "x").symlink_to("kept")
    write(tmp_path / "x", b"new")
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("name", record.WRITTEN_INTO)
def test_a_run_is_not_held_where_a_link_leads_out_of_it(name, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=f"run/{name}: is a link"):
        record.hold(tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    (tmp_path / "way").symlink_to("run")
    record.hold(tmp_path / "way").release()  # the folder itself may be reached through one


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o1777, "everybody"),
                                           (0o757, "everybody"), (0o755, ""), (0o700, "")])  # fmt: skip
def test_a_folder_open_to_others_is_refused(mode, who, tmp_path):
    tmp_path.chmod(mode)
    if not who:
        storage.closed(tmp_path)
        return
    with pytest.raises(ConfigError) as refused:
        storage.closed(tmp_path)
    assert f"{who} may write there (mode {mode:o})" in str(refused.value)
    assert str(refused.value).endswith(f"chmod -R go-w {tmp_path}")
    assert tmp_path.stat().st_mode & 0o7777 == mode


def test_a_group_of_ones_own_is_nobody_else(tmp_path, monkeypatch):
    tmp_path.chmod(0o775)
    monkeypatch.setattr(storage, "_shared", lambda group: False)
    storage.closed(tmp_path)
    monkeypatch.setattr(storage, "_shared", lambda group: True)
    with pytest.raises(ConfigError, match="its group may write there"):
        storage.closed(tmp_path)


def test_where_modes_mean_nothing_nothing_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="may write there"):
        storage.closed(tmp_path)
    monkeypatch.setattr("pathlib.Path.chmod", lambda path, mode: None)  # as on FAT
    assert storage.closed(tmp_path) is None


def test_a_new_folder_is_closed_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        storage.make_folder(tmp_path / "a")
        storage.claim(tmp_path / "b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o755, 0o755]


# ------------------------------------------------------------------ what is no file of ours
def test_only_files_of_a_bounded_size_are_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"text")
    assert storage.read(path) == b"text"
    with path.open("r+b") as file:
        file.truncate(2**40)  # with holes: no byte of it on the disk
    with pytest.raises(ValueError, match=r"has 1,099,511,627,776 bytes, and 268,435,456 at most"):
        storage.read(path)
    os.mkfifo(tmp_path / "pipe")  # an open of which waits for its writer
    for name in ("pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=f"{name}: no file"):
            storage.read(tmp_path / name)
        with pytest.raises(StorageError, match=f"{name}: is no file, but a pipe or a device"):
            append(tmp_path / name, b"line\n")


@pytest.mark.parametrize("name", [record.CONFIG, record.SUMMARY, record.LEDGER, record.STUDY])
@pytest.mark.parametrize("kind", ["pipe", "huge", "deep", "digits", "nul"])
def test_a_record_that_is_none_ends_at_once(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        texts = {"deep": "[" * 10**6, "digits": "9" * 10**6, "nul": "\0", "huge": ""}
        path.write_text(texts[kind])
    if kind == "huge":
        os.truncate(path, 2**40)
    assert ledger.read(tmp_path) is None or name != record.LEDGER
    assert ledger.known(tmp_path)[0].jobs == {}
    assert record.ended(tmp_path) is None
    record.defaults_since(tmp_path)
    with pytest.raises((*record.BROKEN, KeyError)):
        record.read_config(tmp_path)["config"]
    with pytest.raises(CheckpointError):
        load(tmp_path)


def test_a_checkpoint_larger_than_memory_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in ("best.safetensors", "manifest.json"):
        (tmp_path / "checkpoints" / name).touch()
        os.truncate(tmp_path / "checkpoints" / name, 2**43)
    with pytest.raises(CheckpointError, match="best.safetensors"):
        load(tmp_path)
