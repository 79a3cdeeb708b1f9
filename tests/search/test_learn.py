"""The table that a prior is learned from: its tasks, its settings, its runs, the command."""

import copy
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO
from injected import assert_no_orphans

from knobs.config import command as composing
from knobs.errors import DataError
from knobs.search import table
from knobs.search.learn import files, formulas, making, passages, settings, tasks, training
from knobs.search.learn.__main__ import main
from knobs.search.learn.making import Recipe
from knobs.sweep.stackable import alone, shared
from knobs.training import loop
from knobs.training.setup import assemble

TASKS = tasks.all_tasks()
DATA = os.environ.get("KNOBS_DATA")
ROWS = {  # of formulas and pictures, exactly
    "blobs": 1500, "moons": 1000, "circles": 1000, "two_classes": 2000, "ten_classes": 3000,
    "wide_classes": 600, "rare_class": 3000, "hastie": 3000, "quantiles": 2000,
    "friedman1": 2000, "friedman2": 1500, "friedman3": 1500, "sparse": 1000, "linear": 1500,
    "swiss_roll": 2000, "s_curve": 1000, "parity": 3000, "spirals": 1500,
    "teacher_classes": 5000, "teacher_values": 5000, "tree": 4000, "waves": 3000, "steps": 3000,
    "heavy": 2000, "lorenz": 3000, "glyph_letters": 21 * 26 * 4, "glyph_capitals": 21 * 26 * 4,
    "glyph_family": 21 * 26 * 4, "glyph_bold": 21 * 26 * 3, "glyph_angle": 21 * 5 * 15,
    "patch_photograph": 3710, "patch_turned": 3710, "patch_height": 3710, "patch_blue": 3710,
}  # fmt: skip


# ------------------------------------------------------------------ tasks
def test_there_are_enough_tasks_of_every_kind_and_none_that_is_kept_out():
    kinds = Counter((task.kind, task.type) for task in TASKS.values())
    assert len(TASKS) >= 48
    assert min(kinds.values()) >= 2
    assert len(kinds) == 6
    assert not [name for name in TASKS if "digits" in name or "fashion" in name]
    assert {task.model for task in TASKS.values()} == set(settings.MODELS)


def test_the_folds_part_the_sources_and_each_has_several():
    folds = {}
    for task in TASKS.values():
        folds.setdefault(task.source, set()).add(task.fold)
    assert all(len(found) == 1 for found in folds.values())
    assert {*range(tasks.FOLDS)} == {fold for found in folds.values() for fold in found}
    assert max(Counter(task.fold for task in TASKS.values()).values()) <= 14
    of_images = {task.fold for task in TASKS.values() if task.kind == "image"}
    assert len(of_images) == 2, "one of them can be held out while the other trains"


@pytest.mark.parametrize("name", [*ROWS])
def test_rows_are_as_many_as_stated_the_same_again_and_each_once(name):
    task = TASKS[name]
    if lack := task.lacks(None):
        pytest.skip(lack)
    (x, y), (again, targets) = task.rows(), task.rows()
    assert len(x) == len(y) == ROWS[name]
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(y, targets)
    assert len({row.tobytes() for row in x}) == len(x)
    if task.type == "classification":
        assert min(Counter(y.tolist()).values()) >= 20
    else:
        assert np.isfinite(y).all()
        assert y.std() > 0


def test_parity_spirals_and_the_tree_are_what_they_say():
    x, y = formulas.parity(200, 3, 2)
    assert x.shape == (200, 5)
    np.testing.assert_array_equal(y, np.prod(np.sign(x[:, :3]), 1) > 0)  # odd: an even number of -1
    x, y = formulas.spirals(300, 3, 0.0)
    radius = np.hypot(*x.T)
    turn = np.arctan2(x[:, 1], x[:, 0]) - 3 * np.pi * radius - 2 * np.pi * y / 3
    np.testing.assert_allclose(np.cos(turn), 1, atol=1e-5)
    x, y = formulas.tree(500, 2, 1, 2, 0.0)
    assert {*y} == {0, 1}
    feature = next(f for f in range(2) if len({*np.sign(np.diff(y[x[:, f].argsort()]))} - {0}) == 1)
    assert np.abs(np.diff(y[x[:, feature].argsort()])).sum() == 1, "one cut parts the classes"


def test_lorenz_is_the_state_so_many_steps_later():
    x, y = formulas.lorenz(50, 10)
    np.testing.assert_allclose(y[:-2], x[2:, 0], rtol=1e-6)  # ten steps are two rows


@pytest.mark.parametrize("name", ["moons", "diabetes", "glyph_bold", "python_docs"])
def test_splits_share_no_row_and_the_training_split_alone_gives_the_statistics(name):
    task = TASKS[name]
    if lack := task.lacks(None):
        pytest.skip(lack)
    data, again = task.data(), task.data()
    parts = [split.rows.tolist() for split in (data.train, data.val, data.test)]
    total = sum(map(len, parts))
    assert len({row for part in parts for row in part}) == total
    np.testing.assert_allclose([len(part) / total for part in parts], [0.6, 0.3, 0.1], atol=0.02)
    assert data.hash == again.hash
    assert torch.equal(data.train.x, again.train.x)
    if task.kind == "text":
        assert int(data.train.x.max()) + 1 <= data.shape.vocabulary <= 1500
    elif task.kind == "table":
        np.testing.assert_allclose(data.train.x.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(data.train.x.std(0, correction=0), 1, atol=1e-5)
    else:
        assert abs(float(data.train.x.mean())) < 1e-5


def test_docstrings_are_read_and_not_imported(tmp_path, monkeypatch):
    words = [f"w{i}" for i in range(70)]
    code = (
        'raise SystemExit("imported")\ndef f(a, b, *, c):\n    """{}"""\nclass A:\n    """{}"""\n'
    )
    for module, first in (("one", "x"), ("two", "y")):
        (tmp_path / "pack" / module / "tests").mkdir(parents=True)
        text = code.format(" ".join([first, *words]), "too short")
        (tmp_path / "pack" / module / "a.py").write_text(text)
        (tmp_path / "pack" / module / "tests" / "b.py").write_text(text.replace("w1", "tested"))
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(passages.PACKAGES, "pack", ("one", "two"))
    texts, modules = passages.docstrings("pack")
    assert texts == [" ".join([first, *words[:59]]) for first in "xy"]
    assert modules.tolist() == ["one", "two"]
    texts, counts = passages.arguments("pack")
    assert len(texts) == 2
    np.testing.assert_allclose(counts, np.log(4))


def test_a_task_of_a_file_says_what_it_needs_and_reads_it(tmp_path):
    task = TASKS["banking77"]
    assert "KNOBS_DATA" in task.lacks(None)
    assert "banking77/train.csv" in task.lacks(tmp_path)
    path = tmp_path / task.file
    path.parent.mkdir()
    path.write_text("text,category\n" + "".join(f"t{i % 5000},c{i % 7}\n" for i in range(70_000)))
    assert task.lacks(tmp_path) == ""
    texts, classes = task.rows(path)
    assert len(texts) == len(classes) == files.MOST
    assert len({*texts}) == files.MOST, "of rows that differ in the class alone, one"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has no column text; it has a, b"):
        task.rows(path)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [("anes96", 943, 9, {0, 1}), ("fair", 4000, 8, {0, 1}), ("randhie", 2760, 9, None)],
)
def test_statsmodels_has_its_rows(name, rows, columns, classes):
    if lack := TASKS[name].lacks(None):
        pytest.skip(lack)
    x, y = TASKS[name].rows()
    assert x.shape == (rows, columns)
    assert np.isfinite(x).all()
    assert {*y.tolist()} == classes if classes else y.min() == 0
    assert len({row.tobytes() for row in x}) == rows


@pytest.mark.skipif(not DATA, reason="KNOBS_DATA names no folder of data sets")
def test_california_housing_has_its_numbers():
    path = Path(DATA) / TASKS["california_housing"].file
    if not path.is_file():
        pytest.skip(f"no {TASKS['california_housing'].file} in KNOBS_DATA")
    x, y = files.california(path)
    assert x.shape == (4000, 8)
    assert 0 < np.isnan(x).mean() < 0.01
    assert y.min() > 10_000
    assert y.max() <= 500_001


# ------------------------------------------------------------------ settings
def test_the_middle_of_the_cube_is_this_setting():
    found = settings.setting_lines([0.499999] * len(settings.KNOBS), drops=True, classes=True)
    assert found == [
        "optimizer=adam", "optimizer.lr=0.001", "optimizer.weight_decay=0", "scheduler=linear",
        "init=kaiming_normal", "training.clip_norm=null", "regularization.l1=0",
        "optimizer.betas=[0.9,0.99]", "regularization.dropout=0.275",
        "regularization.label_smoothing=0",
    ]  # fmt: skip
    most = settings.setting_lines([0.0, *[1 - 1e-9] * 10], drops=False, classes=False)
    assert most == [
        "optimizer=momentum", "optimizer.lr=1.0", "optimizer.weight_decay=0.01",
        "scheduler=warmup_cosine", "init=orthogonal", "training.clip_norm=5.0",
        "regularization.l1=0.001", "optimizer.momentum=0",
    ]  # fmt: skip


def test_settings_are_even_over_each_knob_and_shapes_too():
    units = settings.units()
    assert units.shape == (256, len(settings.KNOBS))
    for column in units.T:  # of a Sobol sequence, one point in each of 256 cells
        assert sorted(column // 256) == [*range(256)]
    for model, space in settings.MODELS.items():
        shapes = settings.shapes(model)
        assert len({str(shape) for shape in shapes}) == 16
        assert Counter(shape["drops"] for shape in shapes) == {True: 8, False: 8}
        assert {shape["training.batch_size"] for shape in shapes} == {16, 32, 64, 128}
        assert all(space[name].contains(v) for shape in shapes for name, v in shape.items())


@pytest.mark.parametrize("name", ["diabetes", "python_docs", "glyph_letters"])
def test_the_runs_of_a_shape_stack_and_are_what_hydra_composes(name):
    task = TASKS[name]
    shapes, units = settings.shapes(task.model)[:2], settings.units()[:32]
    stacks = training.jobs(task, shapes, units, 3)
    assert [len(jobs) for jobs in stacks] == [32] * 2
    configs = training.configs(stacks)
    for jobs, found in zip(stacks, configs, strict=True):
        assert {alone(config) for config in found} == {""}
        assert len({shared(config) for config in found}) == 1
        whole = composing.checked(jobs[-3])
        assert whole | {"name": ""} == found[-3] | {"name": ""}
    assert configs[0][0]["optimizer"] is not configs[0][1]["optimizer"]


def test_a_value_that_all_jobs_share_outlives_the_choice_of_another_option():
    base = TASKS["diabetes"].lines()
    jobs = [[*base, f"optimizer={name}", "optimizer.weight_decay=0"] for name in ("adam", "adamw")]
    ((adam, adamw),) = training.configs([jobs])
    assert [c["optimizer"]["weight_decay"] for c in (adam, adamw)] == [0, 0]
    assert adamw["optimizer"]["_target_"] == "torch.optim.AdamW"


def test_a_table_whose_settings_meant_others_is_refused():
    facts = {
        "task": "t", "type": "regression", "model": "mlp", "shapes": settings.shapes("mlp")[:1],
    }  # fmt: skip
    units = settings.units()[:16]
    lines = settings.overrides("mlp", False, facts["shapes"], units)
    facts["overrides"] = settings.digest(lines)
    made = table.Table(facts, units, np.zeros((2, 32, 1), np.float16))
    assert settings.overrides_of(made) == lines[0]
    assert "training.batch_size" in str(lines[0])
    with pytest.raises(DataError, match="the table of t: its settings meant others"):
        settings.overrides_of(table.Table(facts, units[::-1], made.curves))


# ------------------------------------------------------------------ runs
def test_an_entry_is_what_its_run_alone_gives():
    task, recipe = TASKS["diabetes"], Recipe(shapes=1, epochs=2)
    data = task.data()
    made = making.make(task, data, recipe)
    assert made.curves.shape == (2, 32, 2)
    shapes = settings.shapes(task.model)[:1]
    ((*configs,),) = training.configs(training.jobs(task, shapes, made.units, 2))
    curves = training.curves(training.assembled(configs, data))
    np.testing.assert_array_equal(table.packed(curves), made.curves)
    families = {config["optimizer"]["_target_"]: r for r, config in enumerate(configs)}
    assert len(families) == 4
    for r in families.values():
        run = assemble(configs[r], data, torch.device("cpu"))
        rows = [(row["val/r2"], row["val/loss"]) for row in loop.fit(run)]
        np.testing.assert_allclose(curves[:, r], np.transpose(rows), rtol=1e-5, atol=1e-5)
    facts = made.facts
    assert (facts["rows"], facts["train"], facts["inputs"], facts["classes"]) == (442, 265, [10], 0)
    assert (facts["objective"], facts["mode"], facts["fold"]) == ("val/r2", "max", task.fold)


def test_a_run_that_diverges_is_nan_from_then_on_and_leaves_the_others_alone():
    task = TASKS["diabetes"]
    data, shapes = task.data(), settings.shapes("mlp")[1:2]
    ((*configs,),) = training.configs(training.jobs(task, shapes, settings.units()[16:32], 3))
    few = configs[:3]
    before = training.curves(training.assembled(few, data))
    wild = copy.deepcopy(configs[0])
    wild["optimizer"]["lr"], wild["training"]["clip_norm"] = 1e30, None
    found = training.curves(training.assembled([*few, wild], data))
    assert np.isnan(found[:, 3]).all()
    np.testing.assert_allclose(found[:, :3], before, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ the command
TINY = ("--tasks", "moons,diabetes", "--shapes", "1", "--epochs", "1")


def table_of(data, folder):
    (folder / "copy").write_bytes(data)
    return table.read(folder / "copy")


def test_the_plan_names_each_task_its_cost_and_what_is_there(tmp_path, capsys):
    words = [*TINY, "--folder", str(tmp_path), "--workers", "1"]
    assert main([*words, "--dry-run"]) == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.split()[:5] == ["diabetes", "table,", "regression", "mlp", "265"]
    assert second.split()[:5] == ["moons", "table,", "classification", "mlp", "600"]
    assert total.startswith("2 tasks, 0 made or left out, 2 to make: about ")
    assert [*tmp_path.iterdir()] == []
    assert main([*words, "--budget", "0.000001"]) == 0
    assert [*tmp_path.iterdir()] == [], "no task begins after the budget"
    assert main(words) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {*made} == {"moons.table", "diabetes.table"}
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == (
        "2 tasks, 2 made or left out, 0 to make: about 0.0 min, 1 at a time on free cores\n"
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made
    assert main([*words, "--epochs", "2"]) == 2
    err = capsys.readouterr().err
    assert "moons.table: made with another number of shapes or epochs; remove it" in err
    (tmp_path / "moons.table").write_bytes(made["moons.table"][:-1])
    assert main(words) == 3
    assert "moons.table: no table" in capsys.readouterr().err
    (tmp_path / "moons.table").unlink()
    assert main(words) == 0
    assert "moons.table: 32 runs" in (told := capsys.readouterr().out)
    assert "diabetes" not in told
    assert (tmp_path / "diabetes.table").read_bytes() == made["diabetes.table"]
    again = table.read(tmp_path / "moons.table")
    np.testing.assert_array_equal(again.curves, table_of(made["moons.table"], tmp_path).curves)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--tasks", "moon"], 2, "--tasks moon: no such task; did you mean moons?"),
        (["--shapes", "17"], 2, "--shapes 17: there are 16"),
        (["--folder", "none"], 3, "--folder none: no such folder"),
    ],
)
def test_a_wrong_word_is_told(tmp_path, monkeypatch, capsys, words, code, says):
    monkeypatch.chdir(tmp_path)
    given = [] if "--folder" in words else ["--folder", str(tmp_path)]
    assert main([*given, *words]) == code
    assert says in capsys.readouterr().err


def test_help_is_quick(capsys):
    code = "import sys; from knobs.search.learn.__main__ import main\ntry: main(['--help'])\n"
    code += "except SystemExit: assert not {'torch', 'pandas', 'sklearn'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_a_killed_command_takes_its_processes_along_and_goes_on_with_what_is_missing(tmp_path):
    words = [*TINY, "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "knobs.search.learn", *words, "--workers", "2"]
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    with subprocess.Popen(command, env=env, cwd=REPO, start_new_session=True) as process:
        while not [*tmp_path.glob("*.table")] and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert_no_orphans(process.pid, 60)
    there = {path.name: path.read_bytes() for path in tmp_path.glob("*.table")}
    assert there
    assert main([*words, "--workers", "1"]) == 0
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {*after} == {"moons.table", "diabetes.table"}
    assert after.items() >= there.items()
    for path in tmp_path.iterdir():
        assert table.read(path).curves.shape == (2, 32, 1)
