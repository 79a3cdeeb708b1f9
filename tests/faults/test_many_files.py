"""A folder of very many files: whatever walks through it ends, and says what it says of few."""

import os
import signal

import pytest
from injected import assert_clean, faults

from knobs import build
from knobs.__main__ import main
from knobs.config import command as line
from knobs.errors import DataError

SECONDS = 120  # of the processor, a command: a bound against what grows faster than the files
SMALL = ["tracking=local", "data=wine", "model=linear", "training.epochs=1"]


class Late(BaseException):
    """A command that took too long; no error that it might take for one of its own."""


def filled(folder, count):
    """Make empty files; skips where the disk has no room for their names."""
    free = os.statvfs(folder)
    if free.f_files and free.f_favail < 2 * count:
        pytest.skip(f"the disk has room for {free.f_favail:,} more files, and {count:,} are needed")
    place = os.open(folder, os.O_RDONLY)
    for number in range(count):
        os.close(os.open(f"{number}.png", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)


@pytest.fixture
def bounded():
    """A limit for what a test calls, in seconds of the processor: Late is raised there."""

    def late(*_):
        raise Late(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, late)
    yield lambda: signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@faults("folder of very many files, for every command that walks through it", "it ends, and says what it says of few; 5,000 files, in `make test-all` a million",
        quick=5_000, whole=1_000_000)  # fmt: skip
def test_a_folder_of_many_files(cases, tmp_path, tried, capsys, bounded, sweep, monkeypatch):
    folder = tmp_path / "outputs" / "x" / "a"
    folder.mkdir(parents=True)
    (tmp_path / "outputs" / "x" / "b").mkdir()
    filled(folder, cases)
    (tmp_path / "outputs" / "x" / "b" / "0.png").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["knobs"])
    for words, code, said in [
        (["ls", "outputs"], 0, "no runs below outputs"),
        (["clean", "outputs"], 0, "nothing to remove below outputs"),
        (["report", "outputs/x/a"], None, "no runs in it"),
        (["report", "outputs/x"], None, "no runs in it"),
        (["predict", "outputs/x/a", "outputs/x/b"], None, "outputs/x/a"),
        (["compare", "outputs/x/a", "outputs/x/b"], None, "outputs/x/"),
        (["ensemble", "outputs/x/a"], None, "outputs/x/a"),
    ]:
        bounded()
        found = main(words)
        told = capsys.readouterr()
        assert found == code if code is not None else found in (2, 3, 4), words
        assert said in told.out + told.err, words
        assert len(told.out + told.err) < 1000, words
        assert_clean(told.err, tmp_path / "outputs" / "x" / "b")
    bounded()
    config = line.checked(["tracking=local", "data=image_folder", "data.root=outputs/x"])
    with pytest.raises(DataError, match=r"\.png") as error:
        build.data(config)
    assert len(str(error.value)) < 1000
    bounded()
    code, told = sweep(*SMALL, "seed=0,1", "hydra.sweep.dir=outputs/x/a")
    assert code == 0, told
    code, told = sweep(*SMALL, "seed=0,1", "hydra.sweep.dir=outputs/x/a")
    assert "2 runs ended before" in told or "2 runs" in told
    tried()
