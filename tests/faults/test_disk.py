"""Disks that are full, read-only, not one's own or broken: exit 6, one message, nothing lost."""

import contextlib
import errno
import itertools
import logging
import os
import random
import re
import resource
import runpy
import subprocess
import sys

import pytest
import torch
from conftest import REPO
from disks import REFUSALS, Disk, left_over, refusing
from fake_sweeps import fake_grid
from injected import assert_clean, bits, command, faults, tried  # noqa: F401
from predict_cases import table_words, write_table
from safetensors import SafetensorError

from knobs import record
from knobs.__main__ import main
from knobs.config import command as line
from knobs.errors import StorageError, ended, for_a_person
from knobs.export import graphs
from knobs.training import session
from knobs.training.run import execute

FOREVER = 10**9  # the disk does not answer again
EXIT = StorageError.exit_code
SMALL = ["tracking=local", "data=wine", "model=linear", "training.epochs=2"]
PARTS = ("training.epochs=4", "training.batch_size=64")


@pytest.fixture(scope="module")
def plain():
    """The config of a small run."""
    return line.checked(SMALL)


def attempt(config, folder, monkeypatch, disk):
    """Train in a folder of a disk that refuses; return the fault as a person reads it."""
    fault = None
    with refusing(monkeypatch, disk):
        try:
            execute(config, folder)
        except Exception as error:
            fault = for_a_person(error)
        record.give_up()
    return fault


def cases_of(kind, calls, count):
    """Draw (number of the system's error, call, whether it answers again) of a run's calls."""
    every = list(itertools.product(REFUSALS, range(calls), (True, False)))
    return random.Random(kind).sample(every, min(count, len(every)))


def assert_told(fault, number, folder):
    """The fault is one of a disk: its exit code, the reason, a fix, and the place."""
    assert isinstance(fault, StorageError), fault
    assert fault.exit_code == EXIT
    place, _, why = str(fault).partition(": ")
    assert os.strerror(number) in why
    assert ";" in why
    assert place == "the disk" or place.startswith(str(folder))


@faults(
    "a disk refuses a call of a run",
    "exit 6; no half a file, no lock; what is resumed or trained anew has the bits of an undisturbed run",
    quick=10,
    whole=220,
)
def test_run_on_a_disk_that_refuses(cases, tried, plain, tmp_path, monkeypatch):  # noqa: F811
    with refusing(monkeypatch, Disk(tmp_path)) as counted:
        execute(plain, tmp_path / "whole")
    expected, calls = bits(tmp_path / "whole"), len(counted.calls)
    for number, first, again in cases_of("run", calls, cases):
        folder = tmp_path / f"{number}-{first}-{again}"
        disk = Disk(folder, number, first, None if again else FOREVER)
        fault = attempt(plain, folder, monkeypatch, disk)
        assert left_over(folder) == [], disk.calls[first]
        end = record.ended(folder)
        if fault is None:  # who holds the lock is not written, a folder is there already
            assert end.status == "finished", disk.calls[first]
        else:
            assert_told(fault, number, folder)
            if end and end.status == "finished":  # whole, but it may not outlive a power cut
                assert disk.calls[first][0] == "fsync"
                assert bits(folder) == expected
            assert end is None or end.status in ("failed", "finished")
            resumed = record.resumable(folder)
            execute(plain | {"resume": str(folder) if resumed else None}, folder)
        assert bits(folder) == expected, disk.calls[first]
        tried()


@faults(
    "a disk refuses a call of a resume",
    "exit 6; the checkpoint and the epochs of before are as they were, and go on to the same bits",
    quick=4,
    whole=120,
)
def test_resume_on_a_disk_that_refuses(cases, tried, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    longer = line.checked([*SMALL[:3], "training.epochs=4"])
    execute(line.checked(SMALL), tmp_path / "whole")
    begun = {p.relative_to(tmp_path / "whole"): p.read_bytes()
             for p in (tmp_path / "whole").rglob("*") if p.is_file()}  # fmt: skip

    def again(name):
        for path, data in begun.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_bytes(data)
        return tmp_path / name, longer | {"resume": str(tmp_path / name)}

    folder, config = again("undisturbed")
    with refusing(monkeypatch, Disk(tmp_path)) as counted:
        execute(config, folder)
    expected = bits(folder)
    for number, first, once in cases_of("resume", len(counted.calls), cases):
        folder, config = again(f"{number}-{first}-{once}")
        disk = Disk(folder, number, first, None if once else FOREVER)
        fault = attempt(config, folder, monkeypatch, disk)
        assert left_over(folder) == [], disk.calls[first]
        if fault is not None:
            assert_told(fault, number, folder)
            assert record.resumable(folder)
            assert [row["epoch"] for row in record.read_metrics(folder)][:2] == [1, 2]
            execute(config, folder)
        assert bits(folder) == expected, disk.calls[first]
        tried()


@faults(
    "a disk refuses a file of one row of a stack",
    "that run alone fails, exit 10; the others have their bits; retry_failed=true trains it to its end",
    quick=1,
    whole=10,
)
def test_row_of_a_stack_on_a_disk_that_refuses(cases, tried, sweep, tmp_path, monkeypatch):  # noqa: F811
    words = (*SMALL[:3], "training.epochs=2", "seed=0,1,2")
    assert sweep(*words, "sweep=whole")[0] == 0
    whole = [bits(tmp_path / f"outputs/sweeps/whole/{n}") for n in range(3)]
    names = ("metrics.jsonl", "last.safetensors", "predictions", "summary.json", "checkpoints")
    every = list(itertools.product(names, (errno.ENOSPC, errno.EROFS)))
    for name, number in random.Random("row").sample(every, cases):
        place = tmp_path / f"outputs/sweeps/{name}{number}"
        at = 6 if name == "metrics.jsonl" else 0  # behind the calls that make it
        disk = Disk(place / "1", number, at, FOREVER, (name,))
        with refusing(monkeypatch, disk):
            code, told = sweep(*words, f"sweep={place.name}")
        assert code == 10, told
        assert os.strerror(number) in told
        assert_clean(told, tmp_path)
        assert [record.ended(place / str(n)).status for n in (0, 2)] == ["finished"] * 2
        assert [bits(place / str(n)) for n in (0, 2)] == [whole[0], whole[2]]
        code, told = sweep(f"sweep={place.name}", *words, "retry_failed=true")
        assert code == 0, told
        assert record.ended(place / "1").status == "finished"
        tried()


@faults(
    "a disk refuses a call of what reads runs: report, predict, compare, export, ensemble",
    "exit 6 and one message; the older file is whole, or there is none; the same command then ends well",
    quick=4,
    whole=80,
)
def test_commands_on_a_disk_that_refuses(cases, tried, tmp_path, monkeypatch, capsys):  # noqa: F811
    made = tmp_path / "made"
    monkeypatch.setattr(graphs, "exported", lambda *_: b"a graph")  # seconds, and no file
    fake_grid(made / "sweep", rates=(1e-3,), seeds=1)
    write_table(made / "t.csv")
    execute(
        line.checked(
            ["tracking=local", "training.epochs=1", *table_words(made / "t.csv", "cheap")]
        ),
        made / "run",
    )
    out = tmp_path / "out"
    commands = [
        ["report", made / "sweep", "--out", out / "report"],
        ["report", made / "run", "--out", out / "page"],
        ["predict", made / "run", made / "t.csv", "--out", out / "a.csv", "--force"],
        ["predict", made / "run", made / "t.csv", "--out", out / "a.parquet", "--force"],
        ["export", made / "run", "--to", "torch", "--out", out / "pt", "--force"],
    ]  # fmt: skip
    todo = []
    for words in commands:
        out.mkdir(exist_ok=True)
        words = [*map(str, words)]
        with refusing(monkeypatch, Disk(out)) as counted:
            assert main(words) == 0
        todo += [
            (words, number, first)
            for number, first, _ in cases_of("x", len(counted.calls), FOREVER)
        ]
    for words, number, first in random.Random("commands").sample(todo, cases):
        before = contents(out)
        with refusing(monkeypatch, Disk(out, number, first, FOREVER)) as disk:
            capsys.readouterr()
            code = main(words)
        told = capsys.readouterr()
        what = disk.calls[first], told.err
        if code == 0:  # a folder that is there already
            assert disk.calls[first][0] == "mkdir", what
        else:
            assert code == EXIT, what
            assert os.strerror(number) in told.err, what
            assert told.err.count(os.strerror(number)) == 1, what
            assert_clean(told.out + told.err, out)
            after = contents(out)
            if re.search(r"what was there is pt\.\d+\.old now", told.err):  # renamed, and no more
                assert disk.calls[first][0] == "rename", what
                after = {re.sub(r"\.\d+\.old/", "/", str(path)): d for path, d in after.items()}
                before = {str(path): data for path, data in before.items()}
            assert before.items() <= after.items(), what
            assert before.keys() == after.keys(), what
        assert main(words) == 0, what
        tried()


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@faults(
    "a disk refuses a call of a search: its journal, its folder, its index",
    "exit 6, or 10 where a run alone is lost; the same command goes on, every trial is there once",
    quick=1,
    whole=12,
)
def test_search_on_a_disk_that_refuses(cases, tried, sweep, tmp_path, monkeypatch):  # noqa: F811
    lr = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
    words = (*SMALL, "hydra/sweeper=search", lr, "search.method=random", "search.runs=2")
    names = ("trials", "sweep.json", "study.json", "multirun.yaml", "leaderboard.csv")
    every = list(itertools.product(names, (errno.ENOSPC, errno.EROFS, errno.EACCES)))
    for name, number in random.Random("search").sample(every, cases):
        place = tmp_path / f"outputs/sweeps/{name}{number}"
        at = 4 if name == "trials" else 0
        with refusing(monkeypatch, Disk(place, number, at, FOREVER, (name,))) as disk:
            code, told = sweep(*words, f"sweep={place.name}")
        assert code in (EXIT, 10), (name, told)
        assert os.strerror(number) in told, (name, disk.calls)
        assert_clean(told, tmp_path)
        code, told = sweep(*words, f"sweep={place.name}", "retry_failed=true")
        assert code == 0, told
        runs = [record.ended(path.parent).status for path in place.glob("*/summary.json")]
        assert runs.count("finished") >= 2
        tried()


@faults(
    "the limit of a file's size (RLIMIT_FSIZE) in whole processes",
    "exit 6, one message, no traceback, no half a file; with the limit off the run goes on",
    quick=1,
    whole=6,
)
def test_process_whose_files_may_not_grow(cases, tried, tmp_path):  # noqa: F811
    words = ("data=digits", *SMALL[2:], "tracking=local", "hydra.run.dir=run")
    for most in (8_000, 200, 1_000, 2_400, 3_000, 3_500)[:cases]:
        folder = tmp_path / str(most)
        folder.mkdir()
        with limited(resource.RLIMIT_FSIZE, most):
            told = command(folder, *words, code=EXIT, start=True)
        assert "File too large; raise the limit of a file's size (ulimit -f)" in told
        begun = (folder / "run" / record.CONFIG).is_file()
        assert begun == (folder / "run").exists()  # nothing is left of a run that did not begin
        command(folder, *(["rerun=run"] if begun else words[:-1]))
        tried()


@contextlib.contextmanager
def limited(what, most):
    """Set a limit that the processes begun inside inherit."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def test_no_run_begins_in_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    told = command(tmp_path, *SMALL, code=EXIT)
    assert told == (
        f"knobs: {told.split(': ')[1]}: Not a directory; "
        "a file is where a folder must be; name another\n"
    )


@pytest.mark.parametrize("name", [".hydra", "hydra.yaml", "train.log"])
def test_hydras_own_files(name, tmp_path, monkeypatch, capsys, hydra_restore_singletons):
    """They are the first of a run: of one that could not begin nothing is left."""
    from knobs import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *SMALL])
    root = logging.getLogger()
    handlers = root.handlers[:]
    disk = Disk(tmp_path, errno.ENOSPC, 0, FOREVER, (name,))
    with refusing(monkeypatch, disk), pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPO / "train.py"), run_name="__main__")
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    told = capsys.readouterr()
    assert end.value.code == EXIT
    assert "No space left on device; free space" in told.err
    assert_clean(told.out + told.err, tmp_path)
    assert not [*(tmp_path / "outputs").rglob("*.*")]
    assert cli.storage._MINE == {}


def test_a_log_on_a_full_disk_is_not_on_the_screen(tmp_path, capsys):
    """logging would print "--- Logging error ---" with a traceback; the fault has its message."""

    def write():
        log = logging.getLogger("full")
        handler = logging.FileHandler("/dev/full")
        log.addHandler(handler)
        log.error("a line")
        log.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()
        return 0

    assert ended(write) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", REFUSALS)
def test_errors_of_other_libraries(number, tmp_path):
    """torch and safetensors say in words of their own what the system said."""
    os_error = OSError(number, os.strerror(number), str(tmp_path / "x"))
    rust = SafetensorError(
        f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
    )
    log = ValueError("Unable to configure handler 'file'")
    log.__cause__ = os_error
    for error in (os_error, rust, log):
        fault = for_a_person(error)
        assert isinstance(fault, StorageError)
        assert os.strerror(number) in str(fault)
    assert str(tmp_path / "x") in str(for_a_person(log))


def test_torch_on_a_full_disk():
    """Its writer of zip files fails on /dev/full; safetensors' too."""
    with pytest.raises(RuntimeError) as torchs:
        torch.save({"x": torch.zeros(10_000)}, "/dev/full")
    assert isinstance(for_a_person(torchs.value), StorageError)
    with pytest.raises(OSError, match="No space") as own, open("/dev/full", "wb") as file:
        torch.save({"x": torch.zeros(10_000)}, file)
    assert isinstance(for_a_person(own.value), StorageError)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file", "x"), RuntimeError("a bug"),
                                   PermissionError(errno.EPERM, "Operation not permitted"), ConnectionRefusedError(111, "refused")])  # fmt: skip
def test_what_no_disk_said_is_no_fault_of_a_disk(error):
    assert for_a_person(error) is error


def test_full_standard_output():
    """`... > /dev/full`: the message of a full disk, not Python's at its end."""
    program = "import sys; from knobs.__main__ import main; sys.exit(main(['--help']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == EXIT
    assert done.stderr.startswith("knobs: the disk: No space left on device; free space")
    assert done.stderr.count("\n") == 1


def test_summary_is_written_when_there_is_room_again(plain, tmp_path, monkeypatch):
    """The last words of a run that failed, at the end of the process."""
    with refusing(monkeypatch, Disk(tmp_path, errno.ENOSPC, 0, FOREVER, ("last.safetensors",))):
        monkeypatch.setattr(record, "write", failing(record.write, record.SUMMARY))
        with pytest.raises(OSError, match="No space"):
            execute(plain, tmp_path / "run")
        assert record.ended(tmp_path / "run") is None
    monkeypatch.undo()
    record.give_up()
    assert record.ended(tmp_path / "run").status == "failed"
    assert record.ended(tmp_path / "run").epochs == 2
    assert left_over(tmp_path) == []


def failing(write, name):
    def full(path, *args, **named):
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *args, **named)

    return full
