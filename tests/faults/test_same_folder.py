"""Two commands of one second, and sweepers of Hydra's own: nobody writes into another's folder."""

import sys

import processes
import pytest
from injected import assert_clean, faults
from trained import ENV, TRAIN

from knobs import cli, ledger, record
from knobs.config import resolvers
from knobs.errors import ConfigError, LockedError

# A train.py whose clock stands still: whatever is named by the second has one name.
STILL = f"""
import datetime, runpy, sys
import hydra.core.utils
class Still(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1, 12, 0, 0)
hydra.core.utils.datetime = Still
sys.argv[0] = {TRAIN[-1]!r}
runpy.run_path({TRAIN[-1]!r}, run_name="__main__")
"""
SMALL = ["data=wine", "model=linear", "training.epochs=1", "tracking=local"]
KINDS = [
    ["-m", *SMALL, "seed=0,1"],
    ["-m", *SMALL, "hydra/sweeper=search", "search.runs=2", "search.method=random",
     "optimizer.lr=tag(log,interval(1e-4,1e-1))"],
    ["-m", *SMALL, "seed=0,1", "hydra/sweeper=basic"],
    SMALL,
]  # fmt: skip


@faults("two unnamed sweeps or runs begun in one second", "each has a folder of its own, and all its runs",
        quick=1, whole=4)  # fmt: skip
def test_two_of_one_second(cases, tmp_path, tried):
    for case, words in enumerate(KINDS[:cases]):
        cwd = tmp_path / str(case)
        cwd.mkdir()
        both = [
            processes.start(
                [sys.executable, "-c", STILL, *words, f"training.batch_size={size}"], cwd, ENV
            )
            for size in (50, 51)
        ]
        for process in both:
            told = "".join(process.communicate(timeout=200))
            assert process.returncode == 0, told
            assert_clean(told, cwd)
        folders = sorted(cwd.glob("outputs/*/2026-01-01/12-00-00-*"))
        assert len(folders) == 2
        sizes = [
            {record.read_config(path.parent)["config"]["training"]["batch_size"]
             for path in folder.rglob("config.json")}
            for folder in folders
        ]  # fmt: skip
        assert sorted(map(sorted, sizes)) == [[50], [51]]
        runs = [[record.ended(p.parent).status for p in f.rglob("summary.json")] for f in folders]
        assert all(set(ends) == {"finished"} for ends in runs)
        assert [len(ends) >= 2 for ends in runs] == [words[0] == "-m"] * 2
        tried()


def swept(path, sweeper="hydra._internal.core_plugins.basic_sweeper.BasicSweeper", lines=()):
    config = {"hydra": {"sweep": {"dir": str(path)}, "sweeper": {"_target_": sweeper}}}
    return cli._swept(config, list(lines))


OURS = "hydra_plugins.knobs_sweeper.GridSweeper"


def test_a_folder_that_nobody_named_is_claimed_and_an_empty_one_given_back(tmp_path, monkeypatch):
    path = tmp_path / "a"
    assert swept(path, OURS) == []  # named, or fixed by a config of one's own
    assert not path.exists()
    monkeypatch.setattr(resolvers, "FREE", resolvers.FREE | {str(path)})
    monkeypatch.setattr(cli, "FREE", resolvers.FREE)
    assert swept(path, OURS, ["hydra.sweep.dir=b"]) == ["hydra.sweep.dir=b"]
    assert swept(path, OURS, ["seed=0"]) == ["seed=0", f"hydra.sweep.dir={path}"]
    assert swept(path, OURS) == [f"hydra.sweep.dir={path}-2"]
    (path / "sweep.json").touch()
    record.give_up()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name", ["sweep.json", "study.json", "config.json", "3/metrics.jsonl", "0/config.json"]
)
def test_a_sweeper_of_hydras_writes_over_nothing(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    try:
        with pytest.raises(ConfigError, match=r"holds .* already; leave hydra/sweeper= out"):
            swept(tmp_path)
    finally:
        record.give_up()
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        name
    ]


def test_a_sweeper_of_hydras_holds_its_folder(tmp_path):
    swept(tmp_path / "s")
    with pytest.raises(LockedError, match="held by process"):
        ledger.held(tmp_path / "s")
    record.give_up()
    assert not (tmp_path / "s").exists()  # nothing came of it
    with ledger.held(tmp_path), pytest.raises(LockedError, match="held by process"):
        swept(tmp_path)
    record.give_up()


def test_hydras_own_sweeper_and_launcher_run_their_jobs(sweep, tmp_path):
    words = ["sweep=s", *SMALL, "seed=0,1", "hydra/sweeper=basic", "hydra/launcher=basic"]
    code, told = sweep(*words)
    assert code == 0, told
    folder = tmp_path / "outputs/sweeps/s"
    assert [record.ended(folder / str(n)).status for n in (0, 1)] == ["finished"] * 2
    assert not [*folder.rglob("*.lock")]
    before = (folder / "0" / "summary.json").read_bytes()
    code, told = sweep(*words)
    assert code == 2, told
    assert "hydra.sweep.dir=outputs/sweeps/s: holds 0 already" in told
    assert (folder / "0" / "summary.json").read_bytes() == before
