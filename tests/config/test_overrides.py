"""Lines of a command line: what a grid of them is, how large, and what was meant."""

import pytest

from knobs.config import combinations, files, overrides
from knobs.config.meant import meant
from knobs.config.rules import CONF
from knobs.errors import ConfigError


def parsed(*lines):
    found, faults = overrides.parse(lines)
    assert faults == []
    return found


ZIP = "zip={model.width:[64,128],optimizer.lr:[1e-2,3e-3]}"


def test_zip_pairs_values():
    assert list(combinations.expand(parsed(ZIP, "seed=0,1"))) == [
        ["seed=0", "model.width=64", "optimizer.lr=0.01"],
        ["seed=0", "model.width=128", "optimizer.lr=0.003"],
        ["seed=1", "model.width=64", "optimizer.lr=0.01"],
        ["seed=1", "model.width=128", "optimizer.lr=0.003"],
    ]


def test_zip_of_unequal_lengths_names_both():
    unequal = "zip={model.width:[64,128],optimizer.lr:[1e-2]}"
    (fault,) = combinations.together(parsed(unequal))
    assert (
        fault == "zip: its lists must be of one length, and model.width has 2, optimizer.lr has 1"
    )


@pytest.mark.parametrize(
    "line", ["zip=3", "zip={a:[1]}", "zip={a:1,b:2}", "zip=[1,2]", "zip={a:[],b:[]}"]
)
def test_what_pairs_nothing_is_refused(line):
    with pytest.raises(ConfigError, match="must pair two or more lists"):
        combinations.zipped(parsed(line))


def test_skip_leaves_combinations_out():
    skip = 'skip=["optimizer=sgd optimizer.lr=0.1"]'
    lines = parsed(skip, "optimizer=sgd,adam", "optimizer.lr=1e-1,1e-2")
    assert list(combinations.expand(lines)) == [
        ["optimizer=sgd", "optimizer.lr=0.01"],
        ["optimizer=adam", "optimizer.lr=0.1"],
        ["optimizer=adam", "optimizer.lr=0.01"],
    ]
    assert list(combinations.useless_skips(lines)) == []
    useless = parsed(
        'skip=["optimizer=sgd optimizer.lr=0.3"]', "optimizer=sgd,adam", "optimizer.lr=0.1"
    )
    (fault,) = combinations.useless_skips(useless)
    assert fault.startswith("skip: no job of the grid has optimizer=sgd optimizer.lr=0.3")


@pytest.mark.parametrize(("line", "count"), [
    ("seed=0", 1), ("seed=0,1,2", 3), ("seed=range(0,10)", 10), ("seed=range(0,10,3)", 4), ("seed=range(5,0,-2)", 3),
    ("a=range(0,1,0.25)", 4), ("a=range(0,1,0.3)", 4), ("seed=range(0,10**9)".replace("10**9", "1000000000"), 10**9),
    ("seed=range(0,1,0)", None), ("a=range(0,inf)", None), ("a=shuffle(range(0,1000000000000))", 10**12),
    ("seed=range(3,3)", 0), ("a=interval(0,1)", 1), ("a=sort(3,1,2)", 3),
])  # fmt: skip
def test_values_are_counted_and_not_built(line, count):
    (override,) = parsed(line)
    assert combinations.size(override) == count
    if count is not None and count <= 100 and override.is_discrete_sweep():
        assert len(list(override.sweep_string_iterator())) == count


@pytest.mark.parametrize(("key", "value", "near"), [
    ("lr", "0.1", "optimizer.lr"), ("epochs", "5", "training.epochs"), ("optimzer", "adam", "optimizer=adam"),
    ("optimzer", "adm", "optimizer=adam"), ("dataset", "wine", "data=wine"), ("hidden_size", "3", "model.width"),
    ("regularisation.dropout", "0", "regularization.dropout"), ("training.lr", "1", "optimizer.lr"),
    ("adam", "true", "optimizer=adam"), ("patience", "3", "training.early_stopping.patience"),
])  # fmt: skip
def test_what_was_meant(key, value, near):
    assert meant(key, value, [CONF]) == f"; did you mean {near}?"


@pytest.mark.parametrize("key", ["foo", "x.y", "zzz", "q", "foo.bar.baz"])
def test_nothing_was_meant(key):
    assert meant(key, "3", [CONF]) == ""


def test_a_file_holds_a_whole_sweep(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "rates.yaml").write_text(
        "# @package _global_\n# Rates.\ndefaults:\n  - override /optimizer: momentum\n"
        "  - override /hydra/launcher: basic\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      optimizer.lr: 1e-3,1e-2\n      seed: range(0,3)\n      model.width: [8, 8]\n"
    )
    words = files.words(["experiment=rates"], [CONF, tmp_path], "config")
    assert words == [
        "hydra/launcher=basic", "optimizer.lr=1e-3,1e-2", "seed=range(0,3)", "model.width=[8, 8]", "hydra.mode=MULTIRUN",
    ]  # fmt: skip
    # The command line has the last word.
    given = ["experiment=rates", "hydra/launcher=stack", "optimizer.lr=0.1"]
    assert files.words(given, [CONF, tmp_path], "config") == words[2:]
    assert files.words(["optimizer=adam"], [CONF, tmp_path], "config") == []


def jobs(*lines):
    return [" ".join(job) for job in combinations.expand(parsed(*lines))]


def test_all_folds_are_a_run_each_beside_other_axes():
    assert jobs("data.folds=3", "data.fold=all") == [
        f"data.folds=3 data.fold={k}" for k in range(3)
    ]
    grid = jobs("optimizer=adam,sgd", "data.fold=all", "data.folds=2,3", "seed=range(0,2)")
    assert len(grid) == len(set(grid)) == 2 * 2 * (2 + 3)
    assert all("data.fold=2" not in job for job in grid if "data.folds=2" in job)
    zipped = jobs("zip={data.folds:[2,3],optimizer.lr:[0.1,0.2]}", "data.fold=all")
    assert len(zipped) == 5
    left = jobs("data.folds=3", "data.fold='all'", 'skip=["data.fold=1"]')
    assert left == ["data.folds=3 data.fold=0", "data.folds=3 data.fold=2"]
    assert jobs("data.fold=all") == ["data.fold=all"]  # which no run can have


def test_too_many_folds_are_no_grid():
    lines = parsed("data.folds=200000", "data.fold=all")
    assert "the grid has 200,000 jobs" in next(combinations.together(lines))
    assert combinations.first_job(lines) == ["data.folds=200000", "data.fold=0"]


@pytest.mark.parametrize("key", ["data.fold", "data.split_seed"])
def test_a_search_has_one_fold(key):
    (override,) = parsed(f"{key}=0,1")
    (fault,) = overrides.faults_of(override, (CONF,), grid=True, search=True)
    assert fault == f"{key}=0,1: no knob to search, {key} has one value"
