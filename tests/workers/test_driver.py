"""A sweep's driver: what it cuts, sends again, gives up, follows and refuses; workers run here."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from knobs import ledger
from knobs.record import read_summary
from knobs.search import pruning
from knobs.storage import Lock, untied
from knobs.training import session
from knobs.workers import groups, slurm, wire, worker

pytest.importorskip("submitit", reason="hydra/launcher=slurm needs the extra: submitit")
SWEEP = Path("outputs/sweeps/s")
DEBUG = ["hydra/launcher=slurm", "hydra.launcher.cluster=debug"]
GRID = [*DEBUG, "sweep=s", "tracking=local", "training.epochs=2", "seed=0,1,2,3"]


@pytest.fixture
def engine(monkeypatch):
    """Lets a test stand before each job of the engine: `engine(before)`, by the count of jobs.

    A text that it returns is the fault of a job whose worker never began.
    """
    whole, count = slurm.Submitit._run_here, []

    def arrange(before):
        def run(self, id_):
            count.append(id_)
            return before(len(count), self) or whole(self, id_)

        monkeypatch.setattr(slurm.Submitit, "_run_here", run)
        return count

    return arrange


# ------------------------------------------------------------------ cutting
@pytest.mark.parametrize(("jobs", "workers", "sizes"), [
    (64, 4, [16] * 4), (8, 2, [4, 4]), (128, 4, [16] * 8), (1000, 4, [125] * 8), (20, 2, [10, 10]),
    (5, 4, [2, 1, 1, 1]), (2, 4, [1, 1]), (40, 2, [20, 20]), (1, 1, [1]),
])  # fmt: skip
def test_groups_are_as_many_as_workers_and_no_narrower_than_pays(jobs, workers, sizes):
    cut = groups.cut(dict.fromkeys(range(jobs), "alike"), workers)
    assert [len(numbers) for numbers in cut] == sizes
    assert sorted(n for numbers in cut for n in numbers) == [*range(jobs)]


def test_a_group_has_jobs_of_one_kind():
    kinds = {n: "even" if n % 2 == 0 else "odd" for n in range(32)}
    for numbers in groups.cut(kinds, 3):
        assert len({kinds[n] for n in numbers}) == 1


# ------------------------------------------------------------------ a group's file
GROUP = groups.Group([groups.Task(3, ["seed=3"])], ["hydra/launcher=slurm"], ["/conf"], "config",
                     "/here", "mylab.", None, 0, 1)  # fmt: skip


def test_a_token_is_of_one_sending(tmp_path):
    first = groups.write_group(tmp_path, "00000", GROUP)
    found = groups.read_group(tmp_path, "00000", first)
    assert found.jobs == GROUP.jobs
    assert found.allow == "mylab."
    assert groups.write_group(tmp_path, "00000", GROUP) != first
    with pytest.raises(groups.Refused, match="not the file that this worker was sent for"):
        groups.read_group(tmp_path, "00000", first)  # a second submission takes its place


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"jobs": 3}', b"\xff", b"[" * 9999])
def test_a_file_that_is_no_group_is_refused(tmp_path, data):
    groups.write_group(tmp_path, "00000", GROUP)
    groups.path(tmp_path, "00000").write_bytes(data)
    with pytest.raises(groups.Refused, match="is no group of jobs"):
        groups.read_group(tmp_path, "00000")


def test_a_group_of_other_types_is_refused(tmp_path):
    groups.write_group(tmp_path, "00000", GROUP)
    file = groups.path(tmp_path, "00000")
    for change in ({"allow": 3}, {"hydra": [1]}, {"jobs": [{"number": 1, "overrides": [2]}]},
                   {"jobs": [{"number": "a", "overrides": []}]}, {"other": 1}):  # fmt: skip
        file.write_text(json.dumps(json.loads(file.read_bytes()) | change))
        with pytest.raises(groups.Refused, match="is no group of jobs"):
            groups.read_group(tmp_path, "00000")
        groups.write_group(tmp_path, "00000", GROUP)


def test_a_worker_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(worker.UserError, match="every node sees under this name"):
        worker.work(str(tmp_path / "elsewhere"), "00000", "0" * 64)


def test_a_worker_under_another_knobs_allow_is_refused(tmp_path, monkeypatch):
    """The allow-list is read once, as knobs is imported: it was read here long ago."""
    monkeypatch.setenv("KNOBS_ALLOW", "other.")
    token = groups.write_group(tmp_path, "00000", GROUP)
    with pytest.raises(groups.Refused, match="another KNOBS_ALLOW"):
        worker.work(str(tmp_path), "00000", token)


@pytest.mark.parametrize("module", ["driver", "worker", "wire", "slurm", "command"])
def test_no_torch_in_a_driver_and_no_allow_list_before_the_group_is_read(module):
    code = f"import sys, knobs.workers.{module}, hydra_plugins.knobs_workers as p; print('torch' in sys.modules)"
    code += "; print('knobs.targets' in sys.modules)" * (module == "worker")
    code = code.replace(", hydra_plugins.knobs_workers as p", "") if module == "worker" else code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"False"}


# ------------------------------------------------------------------ lost workers
def test_a_lost_worker_has_its_group_sent_again(sweep, engine, tmp_path):
    jobs = engine(lambda count, _: "node failure" if count == 1 else "")
    code, told = sweep(*GRID)
    assert code == 0, told
    assert len(jobs) == 3
    assert "node failure; it had not begun: do all nodes see" in told
    assert "sent again" in told
    statuses = [read_summary(tmp_path / SWEEP / str(n))["status"] for n in range(4)]
    assert statuses == ["finished"] * 4


@pytest.mark.slow
def test_a_worker_that_is_lost_for_good_names_its_runs(sweep, engine, tmp_path):
    lost = []

    def before(_, submitit):
        first = next(iter(submitit._jobs))
        return "no such node" if lost else lost.append(first)

    engine(before)
    code, told = sweep(*GRID)
    assert code == 10, told
    assert "3 times in a row" in told
    assert "2 failed" in told
    engine(lambda *_: "")
    code, told = sweep(*GRID)  # the same command mends it
    assert code == 0, told
    assert len([*(tmp_path / SWEEP).glob("*/summary.json")]) == 4


def test_a_group_that_was_tampered_with_is_not_run(sweep, engine, tmp_path):
    def before(_, submitit):
        for file in (tmp_path / SWEEP / "groups").glob("*.json"):
            file.write_bytes(file.read_bytes().replace(b"seed=0", b"seed=9"))

    engine(before)
    code, told = sweep(*GRID)
    assert code == 10, told
    assert "is not the file that this worker was sent for" in told
    assert not (tmp_path / SWEEP / "0" / "config.json").exists()


def test_locks_that_do_not_hold_between_nodes_are_found(sweep, engine, monkeypatch):
    monkeypatch.setattr(
        worker, "untied", lambda path: f"process {os.getpid()} on {platform.node()}"
    )
    code, told = sweep(*GRID)
    assert code == 0, told
    assert told.count("locks of this file system do not hold between nodes;") == 1


def test_a_lock_that_holds_cannot_be_taken(tmp_path):
    path = tmp_path / "driver.lock"
    assert untied(path) == ""
    with Lock(path):
        assert untied(path) == ""
    path.write_text(" process 1 on elsewhere\n")  # as a killed driver leaves it
    assert untied(path) == "process 1 on elsewhere"
    assert path.exists()


def test_a_second_driver_is_refused(sweep, tmp_path):
    (tmp_path / SWEEP / "workers").mkdir(parents=True)
    with Lock(tmp_path / SWEEP / "workers" / "driver.lock"):
        code, told = sweep(*GRID)
    assert code == 9
    assert "workers of this sweep are followed by process" in told


@pytest.mark.slow
def test_cancelled_groups_are_left_until_the_same_command(sweep, engine, tmp_path):
    def before(count, submitit):
        for name in groups.names(tmp_path / SWEEP):
            groups.cancelled(tmp_path / SWEEP, name).touch()

    engine(before)
    code, told = sweep(*GRID)
    assert code == 143, told
    assert "interrupted; go on with:" in told
    engine(lambda *_: "")
    code, told = sweep(*GRID)
    assert code == 0, told
    assert len(groups.names(tmp_path / SWEEP)) == 2  # the same groups


def test_first_runs_that_fail_alike_stop_the_sweep(sweep, tmp_path, monkeypatch):
    def assemble(*_):
        raise ValueError("broken")

    monkeypatch.setattr(session, "assemble", assemble)
    code, told = sweep(*GRID, "optimizer.lr=1e-3,1e-2", "hydra.launcher.workers=4")
    assert code == 10, told
    assert re.search(r"stopped: the first \d runs failed alike \(broken\); .*; 4 not started", told)
    assert len([*(tmp_path / SWEEP / "workers").glob("*.jsonl")]) == 2  # of 4 groups


@pytest.mark.slow
def test_a_failed_run_runs_again_where_that_is_asked(sweep, tmp_path, at_epoch):
    def fail():
        raise ValueError("once")

    at_epoch(1, fail)
    code, told = sweep(*GRID, "keep_going=true")
    assert code == 10, told
    assert "failed: ValueError: once" in told
    failed = [n for n in range(4) if ledger.status(tmp_path / SWEEP / str(n)) == "failed"]
    assert len(failed) == 1
    code, told = sweep(*GRID, "retry_failed=true")
    assert code == 0, told
    assert ledger.status(tmp_path / SWEEP / str(failed[0])) == "finished"


# ------------------------------------------------------------------ a search, jobs of other tasks
@pytest.mark.slow
def test_a_search_asks_as_workers_end(sweep, tmp_path):
    code, told = sweep(*DEBUG, "sweep=s", "tracking=local", "hydra/sweeper=search",
                       "optimizer.lr=interval(1e-4,1e-1)", "search.runs=6", "search.width=4",
                       "search.pruner=asha", "training.epochs=6")  # fmt: skip
    assert code == 0, told
    runs = [p for p in (tmp_path / SWEEP).iterdir() if (p / "summary.json").exists()]
    assert len(runs) >= 6
    assert not (tmp_path / SWEEP / pruning.FILE).exists()
    assert [p.suffix for p in (tmp_path / SWEEP / "rungs").iterdir()] == [".jsonl"] * len(
        [*(tmp_path / SWEEP / "rungs").iterdir()]
    )
    code, told = sweep(*DEBUG, "sweep=t", "hydra/sweeper=search", "search.runs=6",
                       "optimizer.lr=interval(1e-4,1e-1)", "hydra.launcher.wait=false")  # fmt: skip
    assert code == 2
    assert "hydra.launcher.wait=false: a search asks by what came out" in told


def test_rungs_are_the_union_of_all_workers(tmp_path):
    pruner = pruning.Pruner("asha", tmp_path, "max")
    with pruning.written_by("00001"):
        assert pruner.stops({0: 0.9, 1: 0.8}, 2, 60) == set()
    with pruning.written_by("00002"):
        assert pruner.stops({2: 0.1}, 2, 60) == {2}
    assert pruner.stops({3: 0.95, 4: 0.2}, 2, 60) == {4}
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["rungs.jsonl", "rungs/00001.jsonl", "rungs/00002.jsonl"]


# ------------------------------------------------------------------ lines
def test_told_lines_count_the_last_beginning_alone(tmp_path):
    file, told = tmp_path / "0.jsonl", wire.Told()
    begins = {"begins": {"pid": 1, "host": "a", "lock": ""}}
    for row in (begins, {"planned": [[2, 1, "", 100, 1.0]]}, {"steps": 60, "best": {}}, begins,
                {"planned": [[1, 0, "", 50, 1.0]]}, {"ended": 3, "status": "finished", "fault": ""},
                {"steps": 10, "best": {}}):  # fmt: skip
        wire.tell(file, row)
    with file.open("ab") as half:
        half.write(b'{"steps": 7')
    assert len([*told.read(file)]) == 7
    assert (told.begun, told.runs, told.total, told.steps) == (2, 1, 50, 10)
    assert told.ended == {3: ("finished", "")}
    assert [*told.read(file)] == []
