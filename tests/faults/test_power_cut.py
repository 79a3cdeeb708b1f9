"""Power cuts: each prefix of what a run writes, up to 8 writes that were not synced lost or torn.

As ALICE (Pillai et al. 2014) and CrashMonkey (Mohan et al. 2018) do. What a sync of a file has not
reached is there, missing or cut; a rename or an unlink that no sync of its folder has followed may
not have happened, in any order. A new file's name comes with the first sync of the file itself.
"""

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from injected import bits, faults

from knobs import ledger, record, storage
from knobs.errors import CheckpointError
from knobs.report.read import read_run, read_runs
from knobs.search.trials import JOURNAL, Search
from knobs.training import checkpoint, session

SECONDS = 7.0  # of an epoch, by the clock that the tests wind
MOST_LOST = session.SYNC_SECONDS + SECONDS  # a save is due at the end of an epoch
NOT_RECORDED = (".lock", ".log", ".yaml", ".html", ".csv", ".md")
QUICK = ["model.width=8"]


class Disk:
    """What a disk below a folder is told, in order, by storage and by whoever calls os."""

    def __init__(self, root, monkeypatch, clock):
        self.root, self.clock = root, clock
        self.operations = []  # (kind, inode or folder, more)
        self.times = []
        self.names, self.contents = {}, []  # path -> inode; inode -> content so far
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            if self._counts(path):
                self._seen(path)
        self.base = len(self.operations)  # all that is durable from the start
        real = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "fsync")}

        def moved(name):
            def move(old, new, **options):
                self._moved(Path(old).absolute(), Path(new).absolute())
                return real[name](old, new, **options)

            return move

        def unlink(path, **options):
            real["unlink"](path, **options)
            if self.names.pop(Path(path).absolute(), None) is not None:
                self._add("unlink", Path(path).absolute())

        def fsync(number):
            path = Path(os.readlink(f"/proc/self/fd/{number}"))
            if path.is_dir():
                self._add("folder", path)
            elif self._counts(path):
                self._add("sync", self._seen(path))
            return real["fsync"](number)

        def append(path, data):
            whole_append(path, data)
            if self._counts(path.absolute()):
                self._seen(path.absolute())

        whole_append = storage.append
        monkeypatch.setattr(record, "append", append)
        for name, patch in {"replace": moved("replace"), "rename": moved("rename"),
                            "unlink": unlink, "fsync": fsync}.items():  # fmt: skip
            monkeypatch.setattr(os, name, patch)

    def _counts(self, path):
        return path.is_relative_to(self.root) and path.suffix not in NOT_RECORDED

    def _add(self, *operation):
        self.operations.append(operation)
        self.times.append(self.clock.now)

    def _seen(self, path):
        """Note what a file holds by now; return its inode."""
        if path not in self.names:
            self.names[path] = len(self.contents)
            self.contents.append(b"")
            self._add("create", self.names[path], path)
        inode, data = self.names[path], path.read_bytes()
        if data != self.contents[inode]:
            assert data.startswith(self.contents[inode]), f"{path} was rewritten in place"
            self._add("data", inode, data[len(self.contents[inode]) :])
            self.contents[inode] = data
        return inode

    def _moved(self, old, new):
        if self._counts(old) and self._counts(new):
            self._seen(old)
            self.names[new] = self.names.pop(old)
            self._add("rename", old, new, self.names[new])

    def open_at(self, count):
        """The operations that a power cut after `count` can undo, the newest 8."""
        synced, folders, left = set(), set(), []
        for number in range(count - 1, self.base - 1, -1):
            kind, what, *more = self.operations[number]
            if kind == "sync":
                synced.add(what)
            elif kind == "folder":
                folders.add(what)
            elif kind == "data":
                left += [number] * (what not in synced)
            elif kind == "create":
                left += [number] * (what not in synced and more[0].parent not in folders)
            else:
                left += [number] * (what.parent not in folders)
        return left[:8]

    def after(self, count, lost):
        """The files after `count` operations; number of a lost operation -> how it was lost."""
        names, contents, torn = {}, {}, set()
        for number, (kind, what, *more) in enumerate(self.operations[:count]):
            how = lost.get(number)
            if kind == "create" and how is None:
                names[more[0]] = what
            elif kind == "data" and what not in torn:
                data = more[0]
                if how == "zeros":
                    data = bytes(len(data))
                elif how:
                    torn.add(what)
                    data = data[: len(data) // 2] if how == "cut" else b""
                contents[what] = contents.get(what, b"") + data
            elif kind == "rename" and how is None:
                names.pop(what, None)
                names[more[0]] = more[1]
            elif kind == "unlink" and how is None:
                names.pop(what, None)
        return {path: contents.get(inode, b"") for path, inode in names.items()}

    def states(self, cases):
        """(time, what was lost, files): all of them, or so many, spread over all prefixes."""
        draw, every = random.Random(0), []
        for count in range(self.base, len(self.operations) + 1):
            unsynced = self.open_at(count)
            sets = [[], unsynced, *([n] for n in unsynced)]
            sets += [draw.sample(unsynced, draw.randint(0, len(unsynced))) for _ in range(6)]
            every += [(count, chosen) for chosen in {tuple(sorted(one)) for one in sets}]
        every.sort()
        for count, chosen in draw.sample(every, min(cases, len(every))):
            lost = {number: draw.choice(["gone", "cut", "zeros"]) for number in chosen}
            now = self.times[count - 1] if count else 0.0
            yield now, lost, self.after(count, lost)


def put(files, root, place):
    """Lay files out as they were below `root`, in `place`."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, data in files.items():
        new = place / path.relative_to(root)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(data)


@pytest.fixture
def clock(monkeypatch):
    """The clock of sessions: SECONDS pass at each epoch, none else; saves are due at each."""
    clock = SimpleNamespace(now=0.0, epochs={})
    whole = session.Session.epoch

    def epoch(one, metrics):
        clock.now += SECONDS
        clock.epochs[metrics["epoch"]] = clock.now
        whole(one, metrics)

    monkeypatch.setattr(session.Session, "epoch", epoch)
    monkeypatch.setattr(session, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def states_of(disk):
    """Epoch -> progress and weights, of every checkpoint that was written whole."""
    found = {}
    place = disk.root.parent / "one"
    for data in disk.contents:
        if b"progress" in data and data[8:9] == b"{":
            put({disk.root / "checkpoints" / checkpoint.LAST: data}, disk.root, place)
            state = checkpoint.load_last(place / "checkpoints")
            found[state["progress"]["epoch"]] = state
    return found


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def check_run(cut, now, began, states, rows, clock, ends):
    """One run after a power cut: what is read was true, and is at most MOST_LOST old.

    Args:
        ends: epochs of a config -> its summary.
    """
    young = now - began <= MOST_LOST
    log = record.read_metrics(cut) if (cut / record.METRICS).exists() else []
    assert all(row == rows[row["epoch"]] for row in log)
    gaps = [row["epoch"] for row in log] != [*range(1, len(log) + 1)]
    assert not gaps or record.damage(cut, None)  # and it is said
    try:
        state = checkpoint.load_last(cut / "checkpoints")
        epoch = state["progress"]["epoch"]
        assert equal(state["model"], states[epoch]["model"])
        assert state["progress"] == states[epoch]["progress"]
        assert clock.epochs.get(epoch, 0) >= now - MOST_LOST
        kept, _ = record.rows_of(state["log"].numpy().tobytes().splitlines())
        assert kept == [rows[n] for n in range(1, epoch + 1)]
    except CheckpointError:
        assert young
    try:
        weights = checkpoint.load(cut).state_dict()
        assert any(equal(weights, one["best_weights"]) for one in states.values())
    except CheckpointError:
        assert young
    try:
        planned = record.read_config(cut)["config"]["training"]["epochs"]
    except (OSError, ValueError):
        assert young
        planned = None
    end, shown = record.ended(cut), read_run(cut)
    assert shown.status in ("interrupted", "unreadable", "finished")
    if end and planned:
        assert record.read_summary(cut) == ends[planned]
        assert end.epochs == planned == state["progress"]["epoch"]
    return end


OUTCOME = "a state that was, at most 30 s old and an epoch; it goes on to the same bits"


@faults("power cut in a run", OUTCOME, quick=150, whole=4000)
def test_a_power_cut_in_a_run(cases, train, tmp_path, monkeypatch, clock, tried):
    with monkeypatch.context() as patched:
        disk = Disk(tmp_path / "run", patched, clock)
        train("training.epochs=12", *QUICK)
    run, cut = tmp_path / "run", tmp_path / "cut"
    rows = {row["epoch"]: row for row in record.read_metrics(run)}
    states, ends = states_of(disk), {12: record.read_summary(run)}
    assert sorted(states) == [*range(1, 13)]
    assert sum(kind in ("sync", "folder") for kind, *_ in disk.operations) <= 6 + 2 * 5
    finished, resumed = 0, random.Random(1).sample(range(cases), 3 if cases < 1000 else 40)
    for case, (now, _, files) in enumerate(disk.states(cases)):
        put(files, run, cut)
        finished += check_run(cut, now, 0.0, states, rows, clock, ends) is not None
        if case in resumed:
            go_on(train, cut)
            assert bits(cut) == bits(run)
            assert not sorted(cut.rglob("*.partial"))
        tried()
    assert 0 < finished < cases


def go_on(train, cut):
    """Resume a run from what is there, or begin it again where no checkpoint is."""
    try:
        checkpoint.load_last(cut / "checkpoints")
        words = ["resume=cut"]
    except CheckpointError:
        shutil.rmtree(cut)
        words = []
    train("training.epochs=12", *QUICK, *words, folder="cut")


@faults("power cut in a resume", OUTCOME, quick=100, whole=4000)
def test_a_power_cut_in_a_resume(cases, train, tmp_path, monkeypatch, clock, tried):
    """Of a run that had ended and gets more epochs: never one config and the other's summary."""
    train("training.epochs=5", *QUICK)
    run, cut = tmp_path / "run", tmp_path / "cut"
    ends, began = {5: record.read_summary(run)}, clock.now
    with monkeypatch.context() as patched:
        disk = Disk(run, patched, clock)
        train("training.epochs=12", *QUICK, "resume=run")
    rows = {row["epoch"]: row for row in record.read_metrics(run)}
    states = states_of(disk)
    ends[12] = record.read_summary(run)
    seen = []
    for now, _, files in disk.states(cases):
        put(files, run, cut)
        end = check_run(cut, max(now, began), 0.0, states, rows, clock, ends)
        assert record.ended(cut) is None or end.epochs in ends
        seen.append(end and end.epochs)
        tried()
    assert {None, 12} <= set(seen)


GRID = ["sweep=s", "seed=0,1,2", "training.epochs=3", "tracking=local", *QUICK]


@faults("power cut in a stack", "each row a state that was; the same command trains what is missing",
        quick=60, whole=400)  # fmt: skip
def test_a_power_cut_in_a_stack(cases, sweep, tmp_path, monkeypatch, tried):
    folder = tmp_path / "outputs" / "sweeps" / "s"
    with monkeypatch.context() as patched:
        disk = Disk(folder, patched, SimpleNamespace(now=0.0))
        assert sweep(*GRID)[0] == 0
    per_row = sum(kind in ("sync", "folder") for kind, *_ in disk.operations)
    assert per_row <= 3 * 2 + 2  # and sweep.json, and its folder
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    shutil.copytree(folder, whole)
    truth = {str(n): bits(whole / str(n)) for n in range(3)}
    book = ledger.read(whole)
    again = random.Random(2).sample(range(cases), 1 if cases < 100 else 6)
    for case, (_, _, files) in enumerate(disk.states(cases)):
        put(files, folder, cut)
        jobs = ledger.known(cut)[0].jobs
        assert all(book.jobs[number] == job for number, job in jobs.items())
        assert all(
            run.value in (None, truth[run.id]["objective"]["value"]) for run in read_runs(cut)
        )
        for number in range(3):
            check_row(cut / str(number), truth[str(number)])
        if case in again:
            shutil.rmtree(folder)
            cut.rename(folder)
            code, told = sweep(*GRID)
            assert (code, "Traceback" in told) == (0, False), told
            for number, was in truth.items():  # alone or beside others: not to the last bit
                now = bits(folder / number)
                assert all(now[key] == was[key] for key in ("status", "epochs", "steps"))
                assert len(now["metrics"]) == 3
                same = pytest.approx(was["metrics"][-1]["train/loss"], rel=1e-3)
                assert now["metrics"][-1]["train/loss"] == same
        tried()


def check_row(cut, truth):
    end = record.ended(cut)
    assert end is None or end.value == truth["objective"]["value"]
    if (cut / record.METRICS).exists():
        assert all(row in truth["metrics"] for row in record.read_metrics(cut))
    try:
        epoch = checkpoint.load_last(cut / "checkpoints")["progress"]["epoch"]
        assert epoch == 3 or (0 <= epoch < 3 and end is None)  # in a slow run within an epoch too
    except CheckpointError:
        assert not ledger.settled(ledger.status(cut), False) or not cut.exists() or end is None


SEARCH = ["hydra/sweeper=search", "optimizer.lr=tag(log,interval(1e-4,1e-1))", "search.runs=4",
          "search.width=2", "training.epochs=2", "tracking=local", "sweep=s", *QUICK]  # fmt: skip


@faults("power cut in a search", "study.json, sweep.json and the journal each a state that was",
        quick=60, whole=400)  # fmt: skip
def test_a_power_cut_in_a_search(cases, sweep, tmp_path, monkeypatch, tried):
    folder, opened = tmp_path / "outputs" / "sweeps" / "s", []
    whole_init = Search.__init__

    def init(search, *args, **options):
        opened.append((args, options))
        whole_init(search, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Search, "__init__", init)
        disk = Disk(folder, patched, SimpleNamespace(now=0.0))
        code, said = sweep(*SEARCH)
        assert code == 0, said
    written = [json.loads(data) for data in disk.contents if b'"scientific"' in data]
    [(args, options), *_] = opened
    with Search(folder, *args[1:], **options) as search:
        told = {t.number: (t.params, t.value) for t in search.trials("")}
    cut, draw = tmp_path / "cut", random.Random(3)
    again = draw.sample(range(cases), 1 if cases < 100 else 6)
    for case, (_, _, files) in enumerate(disk.states(cases)):
        put(files, folder, cut)
        if (cut / record.STUDY).exists():
            study = record.read_study(cut)
            places = study.pop("runs")  # some of them in places.jsonl
            assert study in [
                {k: v for k, v in d.items() if k not in ("sha256", "runs")} for d in written
            ]
            assert all(written[-1]["runs"][run] == place for run, place in places.items())
        ledger.known(cut)
        if (cut / JOURNAL).exists():
            with Search(cut, *args[1:], **options) as search:
                for trial in search.trials(""):
                    params, value = told[trial.number]
                    assert trial.params == params
                    assert trial.value in (None, value)
        values = {run.value for run in read_runs(cut)}
        assert values <= {None, *(value for _, value in told.values())}
        if case in again:
            shutil.rmtree(folder)
            put(files, folder, folder)
            code, said = sweep(*SEARCH)
            assert (code, "Traceback" in said) == (0, False), said
            with Search(folder, *args[1:], **options) as search:
                assert {t.number: (t.params, t.value) for t in search.trials("")} == told
        tried()
