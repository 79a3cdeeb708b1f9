"""The cache of converted data: a whole entry or none, whoever dies, fills the disk or damages it."""

import errno
import os
import shutil
import signal
import stat

import numpy as np
import pandas as pd
import pytest
import torch
from disks import Disk, left_over, refusing

from knobs import build, cache, storage
from knobs.config import command
from knobs.data import ondisk
from knobs.errors import ConfigError, StorageError, for_a_person

ROWS = 400


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_verified", {})
    monkeypatch.setattr(ondisk, "BLOCK", 90)
    return tmp_path / "cache"


def write(path, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(3, ROWS))
    word = draw.choice(["red", "green"], ROWS)
    pd.DataFrame({"a": x[0], "b": x[1], "c": word, "y": x[0] + x[2]}).to_csv(path, index=False)


def load(path, storage="map"):
    line = ["data=csv", f"data.path={path}", "data.task=regression", "data.target=y"]
    return build.data(command.checked([*line, f"data.storage={storage}"]))


def same(one, other):
    return torch.equal(one.train.x, other.train.x) and torch.equal(one.test.x, other.test.x)


def small(name, size=1000, use=lambda folder, facts: (folder / "f").read_bytes()):
    """An entry of one file."""

    def make(folder):
        storage.write(folder / "f", name[:1].encode() * size)
        return {"size": size}

    return cache.entry(name, f"about {name}", size, make, use)


# ------------------------------------------------------------------ made, used, removed
def test_an_entry_is_made_once_and_its_folder_is_closed(place):
    assert small("a") == b"a" * 1000
    assert cache.entry("a", "", 0, None, lambda _, facts: facts) == {"size": 1000}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert [one.about for one in cache.entries()] == ["about a"]
    assert left_over(place) == []


def test_those_used_the_longest_ago_go_first(place, monkeypatch):
    monkeypatch.setattr(cache, "MOST", 4000)
    for i, name in enumerate("abc"):
        small(name)
        os.utime(place / name / cache.MANIFEST, (i, i + 1))
    small("a")  # used again: now the newest
    small("d")
    assert {one.folder.name for one in cache.entries()} == {"c", "a", "d"}


def test_one_that_is_being_opened_stays(place):
    def use(folder, facts):
        return [one.folder.name for one in cache.trim(-1)]

    small("b")
    assert small("a", use=use) == ["b"]
    assert [one.folder.name for one in cache.entries()] == ["a"]


def test_the_command_lists_and_clears(place, capsys):
    small("a", 5000)
    (place / "z.partial").mkdir()
    assert cache.main([]) == 0
    told = capsys.readouterr().out
    assert "about a" in told
    assert "unfinished" in told
    assert "5 KiB" in told
    assert f"{place}: " in told
    assert cache.main(["--clear"]) == 0
    assert "2 removed" in capsys.readouterr().out
    assert [*place.iterdir()] == []


def test_a_disk_that_is_too_small_is_told_before(place, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=cache.SPARE + 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="about a needs 1 KiB, and .* KNOBS_CACHE"):
        small("a")
    assert cache.entries() == []


@pytest.mark.parametrize("name", ["file", "file/below", "\0", "x" * 300])
def test_a_place_that_is_none(name, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    if "\0" in name:
        monkeypatch.setattr(os, "environ", {cache.VARIABLE: name})
    else:
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / name))
    with pytest.raises(StorageError, match="KNOBS_CACHE"):
        cache.root()


def test_a_place_that_others_may_write_into(place):
    place.mkdir(0o777)
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod -R go-w"):
        cache.root()


# ------------------------------------------------------------------ damage
@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "f").write_bytes(b"a" * 999 + b"b"),
    lambda folder: (folder / "f").write_bytes(b"a" * 999),
    lambda folder: (folder / "f").unlink(),
    lambda folder: (folder / cache.MANIFEST).unlink(),
    lambda folder: (folder / cache.MANIFEST).write_bytes(b"{}"),
    lambda folder: (folder / cache.MANIFEST).write_bytes(
        (folder / cache.MANIFEST).read_bytes().replace(b'"size": 1000', b'"size": 1001')
    ),
])  # fmt: skip
def test_a_damaged_entry_is_noticed_and_made_again(damage, place):
    small("a")
    damage(place / "a")
    assert small("a") == b"a" * 1000
    assert cache.entry("a", "", 0, None, lambda _, facts: facts) == {"size": 1000}


def test_a_link_in_the_place_of_an_entry_is_not_followed(place, tmp_path):
    small("b")
    (place / "a").symlink_to(place / "b")
    assert small("a") == b"a" * 1000
    assert not (place / "a").is_symlink()
    assert small("b") == b"b" * 1000


def test_damaged_maps_of_a_table_are_made_again(place, tmp_path, monkeypatch):
    write(tmp_path / "t.csv")
    before = load(tmp_path / "t.csv", "memory")
    load(tmp_path / "t.csv")
    for path in place.glob("*/*"):
        if path.name != cache.MANIFEST:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    monkeypatch.setattr(cache, "_verified", {})
    assert same(before, load(tmp_path / "t.csv"))


# ------------------------------------------------------------------ the source changes
@pytest.mark.parametrize("keeps", ["nothing", "its size", "its size and its time"])
def test_a_changed_file_is_converted_anew(keeps, tmp_path):
    path = tmp_path / "t.csv"
    write(path)
    first, about = load(path), path.stat()
    if keeps == "nothing":
        write(path, seed=1)
    else:
        text = path.read_bytes()
        path.write_bytes(text.replace(b"red", b"RED", 1))
        assert path.stat().st_size == about.st_size
    if keeps == "its size and its time":
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    changed = load(path)
    assert changed.hash != first.hash
    assert changed.hash == load(path, "memory").hash
    assert same(changed, load(path, "memory"))


# ------------------------------------------------------------------ killed, refused, at once
def points(path, place, monkeypatch, count=20):
    """Numbers of calls of the disk, spread over a conversion."""
    with refusing(monkeypatch, Disk(place)) as disk:
        load(path)
    assert len(disk.calls) > count
    shutil.rmtree(place)
    return [len(disk.calls) * i // count for i in range(count)]


def test_a_full_disk_at_twenty_points_leaves_no_half_cache(tmp_path, place, monkeypatch):
    path = tmp_path / "t.csv"
    write(path)
    whole = load(path, "memory")
    for point in points(path, place, monkeypatch):
        disk = Disk(place, errno.ENOSPC, point, 10**9)
        with refusing(monkeypatch, disk), pytest.raises((OSError, StorageError)) as told:
            load(path)
        fault = for_a_person(told.value)
        assert isinstance(fault, StorageError)
        assert fault.exit_code == 6
        assert left_over(place) == [] or point == 0
        assert all(one.about for one in cache.entries())  # whole ones, or none
        shutil.rmtree(place)
    assert same(whole, load(path))


class Killing(Disk):
    """A disk at one of whose calls the process is killed."""

    def ask(self, what, path):
        super().ask("count", path)
        if self.calls and len(self.calls) - 1 == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


def forked(work):
    """Run a function in a fork; return its exit status, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return child


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_process_leaves_no_half_cache(count, tmp_path, place, monkeypatch):
    path = tmp_path / "t.csv"
    write(path)
    whole = load(path, "memory")
    for point in points(path, place, monkeypatch, count):
        disk = Killing(place)
        disk.point = point

        def killed(disk=disk):
            with refusing(monkeypatch, disk):
                load(path)

        assert ended(forked(killed)) == -signal.SIGKILL
        cache._verified.clear()
        assert same(whole, load(path))
        assert [*place.glob(f"*{cache.PARTIAL}")] == []
        shutil.rmtree(place)


def test_of_two_processes_one_converts_and_the_other_waits(tmp_path, place, monkeypatch):
    path = tmp_path / "t.csv"
    write(path)
    true, log = ondisk._convert, tmp_path / "log"

    def convert(file, folder, how):
        storage.append(log, b"converted\n")
        found = true(file, folder, how)
        os.sched_yield()
        return found

    monkeypatch.setattr(ondisk, "_convert", convert)
    children = [forked(lambda: load(path)) for _ in range(3)]
    assert [ended(child) for child in children] == [0, 0, 0]
    assert log.read_text() == "converted\n"
    assert same(load(path), load(path, "memory"))
    assert left_over(place) == []
