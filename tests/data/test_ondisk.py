"""Data on the disk: the bits of data in memory, whatever the file, the split and the targets."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from trained import assert_same_bits, interrupt_at, together

from knobs import build, cache
from knobs.config import command
from knobs.data import mapped, ondisk, opening, prepare, rows
from knobs.data.dataset import take
from knobs.errors import ConfigError, DataError
from knobs.identity import identity
from knobs.training import loop
from knobs.training.checkpoint import load_last, restore, save_last, snapshot
from knobs.training.run import execute
from knobs.training.setup import steps_per_epoch

ROWS, BLOCK = 500, 97


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Blocks of a few rows, and a cache of the test's own."""
    monkeypatch.setattr(ondisk, "BLOCK", BLOCK)
    monkeypatch.setattr(prepare, "BLOCK", BLOCK)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def table(rows=ROWS, seed=0):
    """Columns of every kind that the rules know."""
    draw = np.random.default_rng(seed)
    pick = lambda *words, p=None: draw.choice(words, rows, p=p)  # noqa: E731
    x, whole = draw.normal(size=(4, rows)), draw.integers(-5, 90, rows)
    late = np.arange(rows) > rows // 2
    return pd.DataFrame({
        "id": np.arange(rows) + 7,
        "a": x[0],
        "b": np.where(draw.random(rows) < 0.2, np.nan, x[1] * 1e6 + 1e9),
        "whole": whole,
        "holes": [None if late[i] and i % 9 == 0 else int(n) for i, n in enumerate(whole)],
        "late": ["many" if i > 0.98 * rows else f"{n}" for i, n in enumerate(whole)],
        "mixed": [n + 0.5 if late[i] else int(n) for i, n in enumerate(whole)],
        "empty": "",
        "same": 3,
        "code": [f"{n:03d}" for n in draw.integers(0, 40, rows)],
        "yes": pick("True", "False"),
        "shop": pick("Lima", "Ürümqi", "a \"b\", c", "?", "Bergen", p=[0.4, 0.3, 0.2, 0.09, 0.01]),
        "day": pd.to_datetime("2021-03-01") + pd.to_timedelta(draw.integers(0, 900, rows), "D"),
        "note": [f"row {i} says something of its own" for i in range(rows)],
        "one": 1, "less": draw.integers(0, 3, rows),
        "g": draw.integers(0, 60, rows),
        "w": draw.random(rows),
        "y": np.where(x[0] + x[2] > 0, "up", np.where(x[1] > 1.5, "side", "down")),
        "z": x[0] * 3 + x[1], "v": x[2] - whole, "l": (x[0] > 0).astype(int),
        "m": (x[1] > 0.3).astype(int), "t": pick("good film", "bad film indeed", "so so", "", "n/a"),
    })  # fmt: skip


WRITERS = {
    "t.csv": lambda frame, path: frame.to_csv(path, index=False),
    "t.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "t.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t", encoding="utf-16"),
    "t.parquet": lambda frame, path: frame.astype({"holes": float, "mixed": float}).to_parquet(
        path, row_group_size=150
    ),
}
DROP = "data.drop=[z,v,l,m,w,t,g]"
CLASSES = ["data.task=classification", "data.target=y", DROP]
CASES = {
    "classes": CLASSES,
    "bins": [*CLASSES, "data.numbers=both"],
    "weights": ["data.task=classification", "data.target=y", "data.weight=w",
                "data.drop=[z,v,l,m,t,g]"],
    "value": ["data.task=regression", "data.target=z", "data.drop=[y,v,l,m,w,t,g]"],
    "values": ["data.task=regression", "data.target=[z,v]", "data.drop=[y,l,m,w,t,g]"],
    "labels": ["data.task=multilabel", "data.target=[l,m]", "data.drop=[y,z,v,w,t,g]"],
    "groups": [*CLASSES[:2], "data.split=group:g", "data.drop=[z,v,l,m,w,t]"],
    "time": [*CLASSES, "data.split=time:day"],
    "fold": [*CLASSES, "data.folds=4", "data.fold=2"],
    "said": [*CLASSES, 'data.columns=["whole:category","shop:drop","code:number"]',
             'data.na=["7","Bergen"]'],
    "kept group": [*CLASSES[:2], "data.split=group:g", 'data.columns=["g:number"]',
                   "data.drop=[z,v,l,m,w,t]"],
}  # fmt: skip


PARQUET = ("classes", "values", "time", "said")


def load(*overrides):
    return build.data(command.checked(list(overrides)))


def differences(one, other):
    """Return what differs between data in memory and on the disk; nothing to the last bit."""
    found = []
    for name in ("train", "val", "test"):
        a, b = getattr(one, name), getattr(other, name)
        for what in ("x", "y", "weight", "rows"):
            left, right = getattr(a, what), getattr(b, what)
            alike = (left is None and right is None) or (
                left is not None
                and right is not None
                and left.dtype == right.dtype
                and torch.equal(left, right)
            )
            found += [] if alike else [f"{name}.{what}"]
    pairs = {
        "preparation": (one.preparation.save(), other.preparation.save()),
        "facts": tuple((d.hash, d.rows_hash, d.shape, d.all_y is None) for d in (one, other)),
        "notes": (["data are read from the disk (data.storage=map)", *one.notes], other.notes),
        "mapped": ((False, True), (one.train.mapped, other.train.mapped)),
    }
    return found + [what for what, (left, right) in pairs.items() if left != right]


@pytest.mark.parametrize(
    ("case", "file"),
    [*((case, "t.csv") for case in CASES), *((case, "t.parquet") for case in PARQUET)],
)
def test_a_table_on_the_disk_is_the_table_in_memory(case, file, tmp_path, monkeypatch):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=csv", f"data.path={tmp_path / file}", *CASES[case]]
    memory = load(*base)
    assert len(memory.notes) > 1
    assert differences(memory, load(*base, "data.storage=map")) == []
    if case == "classes":
        monkeypatch.setattr(ondisk, "_convert", None)  # nothing is converted again
        monkeypatch.setattr(mapped, "_write", None)
        assert differences(memory, load(*base, "data.storage=map")) == []


@pytest.mark.parametrize("file", ["t.csv.gz", "t.tsv"])
def test_packed_tables_and_other_encodings(file, tmp_path):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=csv", f"data.path={tmp_path / file}", *CLASSES]
    assert differences(load(*base), load(*base, "data.storage=map")) == []


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
@pytest.mark.parametrize("odd", [False, True])
def test_an_official_test_table(file, odd, tmp_path):
    test = table(130, seed=1)
    if odd:  # a column of numbers in one table, of words in the other: both are read as texts
        test["less"] = test["less"].astype(str).replace("2", "two")
    WRITERS[file](table(), tmp_path / file)
    WRITERS[file](test, tmp_path / f"u{file}")
    base = ["data=csv", f"data.path={tmp_path / file}", f"data.test_path={tmp_path / f'u{file}'}",
            *CLASSES]  # fmt: skip
    if odd:
        base[-1] = "data.drop=[z,v,l,m,w,t,g]"
        base.append('data.columns=["less:category"]')
    assert differences(load(*base), load(*base, "data.storage=map")) == []


@pytest.mark.parametrize(("file", "more"), [("t.parquet", ["data.label=y"])] + [
    ("t.csv", more) for more in [ ["data.label=z", "data.task=regression"], ["data.label=y", "data.folds=3"],
    ["data.label=[l,m]", "data.task=multilabel", "data.weight=w", "data.ngrams=2"],
    ["data.label=y", "data.split=group:g", "data.max_length=2"],
]])  # fmt: skip
def test_texts_on_the_disk_are_the_texts_in_memory(more, file, tmp_path):
    WRITERS[file](table(), tmp_path / file)
    base = ["data=text_csv", f"data.path={tmp_path / file}", "model=text_bag", "data.text=t", *more]
    assert differences(load(*base), load(*base, "data.storage=map")) == []


# ------------------------------------------------------------------ training
@pytest.fixture
def settings(tmp_path):
    """What two runs have in common, in memory and on the disk."""
    WRITERS["t.csv"](table(), tmp_path / "t.csv")
    base = ["data=csv", f"data.path={tmp_path / 't.csv'}", *CASES["weights"], "training.epochs=2",
            "model.width=16", "training.batch_size=64"]  # fmt: skip
    return lambda *more: [[*base, f"data.storage={where}", *more] for where in ("memory", "map")]


def weights(run):
    return {**run.model.state_dict(), **{f"best.{k}": v for k, v in run.best_weights.items()}}


@pytest.mark.parametrize("more", [[], ["training.members=2", "regularization.dropout=0.2"],
                                  ["training.sampler=balanced", "data.folds=3"]])  # fmt: skip
def test_runs_have_the_same_bits_from_the_disk(more, settings, make_run):
    memory, disk = (make_run(*line) for line in settings(*more))
    assert disk.data.train.mapped
    assert [*loop.fit(memory)] == [*loop.fit(disk)]
    assert_same_bits(weights(disk), weights(memory))


def test_a_run_from_the_disk_resumes_in_the_middle_of_an_epoch(settings, make_run, tmp_path):
    memory, disk = settings()
    whole, broken, seen = make_run(*memory), make_run(*disk), []
    rows = [*loop.fit(whole)]
    steps = steps_per_epoch(len(broken.data.train), broken.training)
    assert steps > 2
    with pytest.raises(loop.Interrupted):
        seen.extend(loop.fit(broken, interrupt_at(steps + steps // 2)))
    save_last(tmp_path / "checkpoints", snapshot(broken))
    resumed = make_run(*disk)
    restore(resumed, load_last(tmp_path / "checkpoints"))
    assert [*seen, *loop.fit(resumed)] == rows
    assert_same_bits(weights(resumed), weights(whole))


def test_a_stack_from_the_disk_is_the_stack_from_memory(settings, make_run):
    lines = settings()
    runs = [[make_run(*line, f"seed={seed}") for seed in range(3)] for line in lines]
    found = [together(rows) for rows in runs]
    for memory, disk in zip(*runs, strict=True):
        assert found[0][memory] == found[1][disk]
        assert_same_bits(weights(disk), weights(memory))


def test_joined_splits_are_one_map(settings, make_run):
    memory, disk = (make_run(*line).data.joined() for line in settings())
    assert torch.equal(memory.train.x, disk.train.x)
    assert torch.equal(memory.train.weight, disk.train.weight)
    assert len(disk.val) == 0
    assert disk.train.mapped
    index = torch.tensor([len(disk.train) - 1, 0, 0])
    assert torch.equal(take(disk.train, index).x, memory.train.x[index])


def test_a_resume_is_told_that_the_data_have_changed(settings, tmp_path):
    disk = ["tracking=local", *settings()[1]]
    execute(command.checked(disk), tmp_path / "run")
    table(seed=1).to_csv(tmp_path / "t.csv", index=False)
    again = [*disk, f"resume={tmp_path / 'run'}", "training.epochs=3"]
    with pytest.raises(DataError, match="data"):
        execute(command.checked(again), tmp_path / "run")


def test_a_run_in_memory_goes_on_from_the_disk(settings, tmp_path):
    memory, disk = (["tracking=local", *line] for line in settings())
    execute(command.checked(memory), tmp_path / "run")
    again = [*disk, f"resume={tmp_path / 'run'}", "training.epochs=3"]
    assert execute(command.checked(again), tmp_path / "run").status == "finished"
    assert identity(command.checked(memory)) == identity(command.checked(disk))


# ------------------------------------------------------------------ what decides
def test_auto_takes_the_disk_where_memory_is_short(tmp_path, monkeypatch):
    for name in ("t.csv", "t.parquet"):
        WRITERS[name](table(), tmp_path / name)
        base = ["data=csv", f"data.path={tmp_path / name}", *CLASSES]
        roomy = load(*base)
        need = ondisk.needed(tmp_path / name)
        assert not roomy.train.mapped
        with monkeypatch.context() as patch:
            patch.setattr(opening, "free_memory", lambda need=need: need - 1)
            tight = load(*base)
            assert tight.train.mapped
            says = "data are read from the disk: in memory they may take .* are free"
            assert re.match(says, tight.notes[0])
            assert torch.equal(tight.train.x, roomy.train.x)
            assert load(*base, "data.storage=memory").train.mapped is False
            patch.setattr(opening, "free_memory", lambda need=need: need)
            assert not load(*base).train.mapped


def test_inputs_wider_than_memory_are_mapped_though_the_table_is_not(tmp_path, monkeypatch):
    WRITERS["t.csv"](table(), tmp_path / "t.csv")
    base = ["data=csv", f"data.path={tmp_path / 't.csv'}", *CLASSES]
    memory = load(*base)
    monkeypatch.setattr(mapped, "free_memory", lambda: 4 * memory.shape.features * ROWS)
    monkeypatch.setattr(mapped, "AT_A_TIME", 5 * memory.shape.features)  # five rows at a time
    wide = load(*base)
    assert wide.train.mapped
    assert wide.notes[0].startswith("inputs are read from the disk")
    assert torch.equal(wide.val.x, memory.val.x)
    assert wide.hash == memory.hash


def test_excel_is_not_mapped(tmp_path):
    (tmp_path / "t.xlsx").touch()
    base = ["data=csv", f"data.path={tmp_path / 't.xlsx'}", *CLASSES]
    with pytest.raises(ConfigError, match="data.storage=map: .* is an Excel file; save it as"):
        load(*base, "data.storage=map")


FAULTS = {
    "a,y\n1,2\n3\n": "line 3: has 1 cells, the header 2 names",
    "a,y\n1,2,3\n3,4\n": "its rows have more cells than its header has names",
    "a,y\n": "has no rows",
    "a,a,y\n1,2,3\n": "more than one column a",
    "a,b\n1,2\n": "no column y; it has a, b",
    "a,y\n" + "1,x\n" * 60 + "2,\n": "1 rows have no y .*line 62",
    "a,y\n" + "1,x\ninf,z\n" * 60: "a: an infinite number .*line 3",
}


@pytest.mark.parametrize("text", FAULTS)
@pytest.mark.parametrize("where", ["memory", "map"])
def test_faults_of_a_file_are_the_same_and_leave_nothing(text, where, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    line = ["data=csv", f"data.path={tmp_path / 't.csv'}", *CLASSES[:2], f"data.storage={where}"]
    with pytest.raises(DataError, match=FAULTS[text]):
        load(*line)
    assert [*tmp_path.glob("cache/*.partial")] == []


def test_a_parquet_column_of_no_type_is_named(tmp_path):
    pd.DataFrame({"a": [[1], [2]], "b": [1, 2], "y": ["u", "v"]}).to_parquet(tmp_path / "t.parquet")
    line = ["data=csv", f"data.path={tmp_path / 't.parquet'}", *CLASSES[:2], "data.storage=map"]
    with pytest.raises(DataError, match=r"column a holds list.*data.drop=\[\"a\"\]"):
        load(*line)


def test_a_batch_of_a_map_is_moved_to_the_device_of_the_rest(settings, make_run):
    """The map stays where it is; `meta` stands for another device."""
    disk = make_run(*settings()[1]).data.train
    moved = disk.to(torch.device("meta"), torch.preserve_format)
    assert moved.x is disk.x
    batch = take(moved, torch.tensor([1, 2]))
    assert (batch.x.device.type, batch.y.device.type) == ("meta", "meta")
    assert batch.x.shape == (2, disk.x.shape[1])


def test_codes_of_cells_are_those_of_pandas_however_many_blocks(monkeypatch):
    cells = np.array([*"abcabdaefag"], dtype=object)
    whole = pd.factorize(cells)
    for size in (1, 3, 4, 100):
        monkeypatch.setattr(rows, "FACTORIZED", size)
        codes, words = rows.factorized(cells)
        assert codes.tolist() == whole[0].tolist()
        assert words == whole[1].tolist()


# ------------------------------------------------------------------ in little memory
PROGRAM = """
import resource, sys
from pathlib import Path
from knobs.training.run import execute
from knobs.config import command
from knobs.data import mapped, ondisk
from knobs.errors import DataError, MemoryShortage, ended
import numpy as np, pandas, pyarrow as pa, pyarrow.parquet as pq

path, mib, columns, most = sys.argv[1], *map(int, sys.argv[2:])
rows, draw, names = mib * 2**20 // 8 // columns, np.random.default_rng(0), None
for start in range(0, rows, 4096):
    x = draw.normal(size=(min(4096, rows - start), columns))
    t = pa.table({{**{{f"c{{i}}": v for i, v in enumerate(x.T)}}, "y": np.where(x[:, 0] > 0, 1, 0)}})
    writer = writer if start else pq.ParquetWriter(path, t.schema, use_dictionary=False)
    writer.write_table(t)
writer.close()

def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024

{small}
limit = most * 2**20 if most > 200 else status("VmData") + most * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
line = ["data=csv", f"data.path={{path}}", "data.task=classification", "data.target=y",
        "training.epochs=1", "training.batch_size=2048", "model.width=8", "tracking=local"]
try:
    execute(command.checked([*line, "data.storage=memory"]), Path(path + ".memory"))
    sys.exit("it fits in memory")
except (DataError, MemoryShortage) as error:
    print(type(error).__name__)
sys.exit(ended(lambda: print(execute(command.checked(line), Path(path + ".run")).status) or 0))
"""


@pytest.mark.parametrize(("mib", "columns", "most"), [
    (160, 64, 112),  # beyond what is there once all is imported
    pytest.param(1536, 200, 512, marks=pytest.mark.slow),  # of the whole process
    pytest.param(6144, 400, 2048, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_table_larger_than_memory_trains(mib, columns, most, tmp_path):
    """Under a limit of the process's data, which counts no map, and in memory it does not fit."""
    if shutil.disk_usage(tmp_path).free < 4 * mib * 2**20:
        pytest.skip(f"the disk has less than {4 * mib} MiB free")
    small = "ondisk.AT_A_TIME, mapped.AT_A_TIME = 2**18, 2**18" if most < 200 else ""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(small=small), str(tmp_path / "t.parquet"),
         *map(str, (mib, columns, most))],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.splitlines()[0] in ("DataError", "MemoryShortage")
    assert done.stdout.splitlines()[-1] == "finished"
