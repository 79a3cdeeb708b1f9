"""The leaderboard: what is read, averaged, ranked, written and shown."""

import csv
import json
import os
from dataclasses import replace
from io import StringIO
from math import sqrt

import pytest
from rich.console import Console

from knobs.report import terminal
from knobs.report.leaderboard import CSV, leaderboard, write_csv
from knobs.report.read import read_runs


@pytest.fixture
def add(tmp_path):
    """Overrides and an objective -> a run in the next folder, as a sweep leaves it."""

    def run(line, value=0.5, *, status="finished", mode="max", metric="val/accuracy", **more):
        overrides = line.split()
        config = {
            "optimizer": {"_target_": "Adam", "lr": 1e-3, "betas": [0.9, 0.999]},
            "model": {"width": 64, "norm": None},
            "tracking": {"mode": "disabled"},
            "training": {"threads": None, "ema": False},
            "seed": 0,
            "name": line,
            "objective": {"metric": metric, "mode": mode},
        }
        choices = {"optimizer": "adam", "experiment": None}
        for key, _, text in (override.lstrip("+").partition("=") for override in overrides):
            if key.startswith("~"):
                del config["model"][key.removeprefix("~model.")]
            elif key in choices:
                choices[key] = text
                config["optimizer"]["_target_"] = text
            else:
                section, _, name = key.rpartition(".")
                (config[section] if section else config)[name] = json.loads(text)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        about = {"overrides": overrides, "choices": choices, "identity": "", "config": config}
        (folder / "config.json").write_text(json.dumps(about))
        objective = {"metric": metric, "mode": mode, "value": value}
        summary = {"status": status, "objective": objective, "best_epoch": 3, "seconds": 1.5}
        if status:
            (folder / "summary.json").write_text(json.dumps(summary | more))
        return folder

    return run


def board(folder):
    return leaderboard(read_runs(folder))


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(entries, width=80, **more):
    out = Console(file=StringIO(), width=width, force_terminal=True, color_system=None)
    terminal.leaderboard(out, entries, **more)
    return out.file.getvalue().splitlines()


# ------------------------------------------------------------------ averaged and ranked
def test_seeds_are_one_entry_with_the_mean_and_sample_sd_in_closed_form(add, tmp_path):
    for seed, (value, epoch, seconds) in enumerate([(0.25, 2, 1.0), (0.5, 3, 2.0), (1.0, 9, 6.0)]):
        add(f"optimizer=adam seed={seed}", value, best_epoch=epoch, seconds=seconds)
    add("optimizer=sgd seed=0", 0.75)
    best, second = board(tmp_path)
    assert (best.rank, best.mean, best.sd, best.n) == (1, 0.75, None, 1)
    assert (second.rank, second.n, second.best_epoch, second.seconds) == (2, 3, 5, 3.0)
    assert second.mean == pytest.approx(7 / 12, rel=1e-15)
    assert second.sd == pytest.approx(sqrt(7 / 48), rel=1e-14)
    assert [run.folder.name for run in second.runs] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("mode", "metric", "order"),
    [("max", "val/accuracy", [0.9, 0.9, 0.6, -1.0]), ("min", "val/loss", [-1.0, 0.6, 0.9, 0.9])],
)
def test_ranks_follow_the_mode_and_equals_share_one(add, tmp_path, mode, metric, order):
    for i, value in enumerate([0.6, 0.9, -1.0, 0.9]):
        add(f"model.width={i}", value, mode=mode, metric=metric)
    entries = board(tmp_path)
    assert [entry.mean for entry in entries] == order
    assert [entry.rank for entry in entries] == ([1, 1, 3, 4] if mode == "max" else [1, 2, 3, 3])
    assert {entry.metric for entry in entries} == {metric}


def test_a_seed_run_twice_counts_once(add, tmp_path):
    for value, seed in [(0.5, 0), (0.5, 0), (0.7, 1)]:
        add(f"seed={seed}", value)
    (entry,) = board(tmp_path)
    assert (entry.n, entry.mean, len(entry.runs)) == (2, 0.6, 3)


def test_a_diverged_run_ranks_its_entry_behind_all_others(add, tmp_path):
    add("model.width=1 seed=0", 0.99)
    add("model.width=1 seed=1", 0.3, status="diverged")
    add("model.width=1 seed=2", 0.4, status="diverged")
    add("model.width=2 seed=0", 0.1)
    add("model.width=3 seed=0", 0.7, status="diverged")
    add("model.width=4 seed=0", None, status="failed")
    add("model.width=5 seed=0", 0.5)
    add("model.width=5 seed=1", 0.9, status="interrupted")
    add("model.width=6 seed=0", status=None)
    add("model.width=7 seed=0", 0.98)
    add("model.width=7 seed=1", 0.5, status="diverged")
    told = [(e.rank, e.knobs["model.width"], e.mean, e.n, e.status) for e in board(tmp_path)]
    assert told == [
        (1, 5, 0.5, 1, "interrupted 1 of 2"),
        (2, 2, 0.1, 1, "finished"),
        (3, 7, 0.98, 1, "diverged 1 of 2"),
        (4, 1, 0.99, 1, "diverged 2 of 3"),
        (5, 3, None, 0, "diverged"),
        (None, 6, None, 0, "interrupted"),
        (None, 4, None, 0, "failed"),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None, 10**400, "0.9"])
def test_an_objective_that_is_no_finite_number_has_diverged(add, tmp_path, value):
    add("model.width=1", value)
    add("model.width=2", 0.1)
    assert [(e.rank, e.mean, e.status) for e in board(tmp_path)] == [
        (1, 0.1, "finished"),
        (2, None, "diverged"),
    ]


def test_early_stops_are_told_where_all_runs_of_an_entry_did(add, tmp_path):
    add("model.width=1 seed=0", 0.9, status="stopped_early")
    add("model.width=1 seed=1", 0.8, status="stopped_early")
    add("model.width=2 seed=0", 0.6, status="stopped_early")
    add("model.width=2 seed=1", 0.5)
    assert [(e.rank, e.status) for e in board(tmp_path)] == [(1, "stopped_early"), (2, "finished")]


def test_objectives_that_cannot_be_compared_are_ranked_each_for_itself(add, tmp_path):
    add('objective.metric="val/loss"', 0.3, metric="val/loss", mode="min")
    add('objective.metric="val/f1"', 0.2, metric="val/f1")
    add('objective.metric="val/loss" model.width=2', 0.1, metric="val/loss", mode="min")
    assert [(e.metric, e.rank, e.mean) for e in board(tmp_path)] == [
        ("val/f1", 1, 0.2),
        ("val/loss", 1, 0.1),
        ("val/loss", 2, 0.3),
    ]
    write_csv(tmp_path / CSV, board(tmp_path))
    assert (tmp_path / CSV).read_text().splitlines()[0] == (
        "rank,objective,sd,n,objective.metric,model.width,best_epoch,seconds,parameters,status"
    )


# ------------------------------------------------------------------ knobs
def test_only_knobs_that_differ_are_columns(add, tmp_path):
    add("optimizer=adam optimizer.lr=1e-3 model.width=32 tracking.mode=1 seed=0 training.threads=1")
    add("optimizer=sgd optimizer.lr=1e-2 model.width=32 tracking.mode=2 seed=1 training.threads=2")
    assert [e.knobs for e in board(tmp_path)] == [
        {"optimizer": "adam", "optimizer.lr": 1e-3},
        {"optimizer": "sgd", "optimizer.lr": 1e-2},
    ]


def test_a_knob_set_in_some_runs_shows_what_the_others_had(add, tmp_path):
    add("model.width=[64,64]", 0.9)
    add('+model.norm="layer"', 0.8)
    add("+training.slope=0.1", 0.7)
    add("experiment=big", 0.6)
    add("training.ema=true ~model.norm", 0.5)
    entries = board(tmp_path)
    names = ["model.width", "model.norm", "training.slope", "experiment", "training.ema"]
    assert [list(e.knobs) for e in entries] == [names] * 5
    write_csv(tmp_path / CSV, entries)
    rows = read_csv(tmp_path / CSV)
    assert [[row[name] for name in names] for row in rows] == [
        ["[64,64]", "null", "", "null", "false"],
        ["64", "layer", "", "null", "false"],
        ["64", "null", "0.1", "null", "false"],
        ["64", "null", "", "big", "false"],
        ["64", "", "", "null", "true"],
    ]


# ------------------------------------------------------------------ what is read
def test_runs_come_in_the_order_of_their_numbers(add, tmp_path):
    for i in range(11):
        add(f"model.width={i}", 0.5)
    assert [run.folder.name for run in read_runs(tmp_path)] == [str(i) for i in range(11)]


def test_what_is_no_run_is_passed_over(add, tmp_path):
    real = add("seed=0", 0.5)
    for name in ("checkpoints", "..x", "-1", "1.5", "٣", "²", ".hydra"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((real / "config.json").read_text())
    (tmp_path / "10").mkdir()
    (tmp_path / "11").symlink_to(real)
    (tmp_path / "12").write_text("{}")
    assert [run.folder.name for run in read_runs(tmp_path)] == ["0"]
    with pytest.raises(FileNotFoundError):
        read_runs(tmp_path / "none")


OBJECTIVE = '{"status": "finished", "objective": {"metric": "m", "mode": "max", "value": 1}}'


@pytest.mark.parametrize("summary", [
    *("[1, 2]", "", '{"status": "fini', "null", '{"status": 3}', "\ud800", "[" * 100_000, "1" * 5000),
    '{"status": "finished"}',
    '{"status": "finished", "objective": 0.9}',
    OBJECTIVE.replace("finished", "great"),
    OBJECTIVE.replace('"max"', '"up"'),
    OBJECTIVE.replace('"m"', '["m"]'),
], ids=range(13))  # fmt: skip
def test_a_broken_summary_is_an_unreadable_run(add, tmp_path, summary):
    broken = add("model.width=1 seed=0", 0.9)
    (broken / "summary.json").write_bytes(summary.encode(errors="surrogatepass"))
    add("model.width=1 seed=1", 0.5)
    add("model.width=2 seed=0", 0.4)
    told = [(e.rank, e.knobs, e.mean, e.status) for e in board(tmp_path)]
    assert told == [
        (1, {"model.width": 1}, 0.5, "unreadable 1 of 2"),
        (2, {"model.width": 2}, 0.4, "finished"),
    ]


DEEP = '{"overrides": [], "choices": {}, "config": ' + '{"a": ' * 3000 + "1" + "}" * 3001


@pytest.mark.parametrize("config", [
    *("[]", "", '{"config": {', '{"config": {}}', '{"config": {}, "overrides": "seed=1"}', DEEP),
    '{"config": 1, "overrides": [], "choices": {}}',
    '{"config": {}, "overrides": [], "choices": ["adam"]}',
], ids=range(8))  # fmt: skip
def test_a_broken_config_is_an_unreadable_run_without_rank(add, tmp_path, config):
    add("model.width=1", 0.4)
    (add("model.width=2", 0.9) / "config.json").write_text(config)
    told = [(e.rank, e.mean, e.status) for e in board(tmp_path)]
    assert told == [(1, 0.4, "finished"), (None, None, "unreadable")]


def test_links_pipes_and_huge_files_are_not_opened(add, tmp_path):
    real = add("model.width=0", 0.5)
    link, pipe, huge, folder = (add(f"model.width={i}", 0.9) for i in (1, 2, 3, 4))
    for run in (link, pipe, folder):
        (run / "summary.json").unlink()
    (link / "summary.json").symlink_to(real / "summary.json")
    os.mkfifo(pipe / "summary.json")
    (folder / "summary.json").mkdir()
    os.truncate(huge / "config.json", 2**30)
    assert [run.status for run in read_runs(tmp_path)] == ["finished"] + ["unreadable"] * 4


def test_odd_values_are_odd_cells(add, tmp_path):
    add("optimizer=\x1b[2J[bold] seed=0", 0.5, metric="val/\ud800")
    add('optimizer=../../x,"y" seed=1', 0.4, metric="val/\ud800", best_epoch=[1], seconds="1")
    entries = board(tmp_path)
    write_csv(tmp_path / CSV, entries)
    rows = read_csv(tmp_path / CSV)
    assert [row["optimizer"] for row in rows] == ["\x1b[2J[bold]", '../../x,"y"']
    assert [(row["val/?"], row["best_epoch"], row["seconds"]) for row in rows] == [
        ("0.5", "3", "1.5"),
        ("0.4", "", ""),
    ]
    assert [line.split() for line in shown(entries)] == [
        ["rank", "val/�", "optimizer", "epoch", "sec"],
        ["1", "0.5000", "�[2J[bold]", "3", "1.5"],
        ["2", "0.4000", '../../x,"y"'],
    ]


def test_no_cell_of_the_csv_begins_a_formula(add, tmp_path):
    values = ["=1+1", "+1-1", "-x", "@SUM(A1)", "\tx", "-5", "+1e-3", "-inf", "x=1"]
    add("optimizer=adam seed=0", 0.5)
    (entry,) = board(tmp_path)
    write_csv(tmp_path / CSV, [replace(entry, knobs={"optimizer": value}) for value in values])
    told = [row["optimizer"] for row in read_csv(tmp_path / CSV)]
    assert told == ["'=1+1", "'+1-1", "'-x", "'@SUM(A1)", "'\tx", "-5", "+1e-3", "'-inf", "x=1"]


def test_two_thousand_runs(add, tmp_path):
    template = add("model.width=0 seed=0", 0.5)
    config, summary = ((template / f"{name}.json").read_text() for name in ("config", "summary"))
    for i in range(2000):
        folder = tmp_path / str(i)
        folder.mkdir(exist_ok=True)
        text = config.replace('"width": 0', f'"width": {i // 4}')
        (folder / "config.json").write_text(text.replace('"seed": 0', f'"seed": {i % 4}'))
        (folder / "summary.json").write_text(summary.replace("0.5", str((i // 4) + (i % 4) / 8)))
    entries = board(tmp_path)
    assert len(entries) == 500
    assert [entry.rank for entry in entries] == list(range(1, 501))
    assert [entry.mean for entry in entries] == [499 - i + 0.1875 for i in range(500)]
    assert {(entry.sd, entry.n) for entry in entries} == {(sqrt(5 / 192), 4)}


# ------------------------------------------------------------------ written and shown
def test_the_csv_reads_back_to_the_same_numbers(add, tmp_path):
    for i, lr in enumerate([1 / 3, 1e-05, 0.1]):
        for seed in (0, 1):
            add(f"optimizer.lr={lr!r} seed={seed}", (i + 1) / 7 + seed / 9, seconds=1 / 3)
    add("optimizer.lr=10.0 seed=0", None, status="failed")
    entries = board(tmp_path)
    write_csv(tmp_path / CSV, entries)
    rows = read_csv(tmp_path / CSV)
    assert list(rows[0])[:3] == ["rank", "val/accuracy", "sd"]
    for row, entry in zip(rows[:3], entries[:3], strict=True):
        said = {name: float(row[name]) for name in ("rank", "val/accuracy", "sd", "optimizer.lr")}
        lr = entry.knobs["optimizer.lr"]
        assert list(said.values()) == [entry.rank, entry.mean, entry.sd, lr]
        assert [float(row[name]) for name in ("n", "best_epoch", "seconds")] == [2, 3, 1 / 3]
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "1e-05", "0.3333333333333333", "10.0"]
    last = {"rank": "", "val/accuracy": "", "sd": "", "n": "0", "best_epoch": "", "seconds": "1.5"}
    assert rows[3] == rows[3] | last | {"status": "failed"}
    assert not list(tmp_path.glob("*.partial"))


def test_no_runs_are_an_empty_table(tmp_path):
    write_csv(tmp_path / CSV, board(tmp_path))
    assert (
        tmp_path / CSV
    ).read_text() == "rank,objective,sd,n,best_epoch,seconds,parameters,status\n"
    assert shown([]) == ["no runs"]


def test_the_terminal_shows_the_best_and_where_the_rest_is(add, tmp_path):
    for i, value in enumerate([0.9717, 0.9729, 0.97201]):
        add(f"optimizer=momentum optimizer.lr=0.0033333333 seed={i}", value)
    for i in range(30):
        add(f"optimizer=adam optimizer.lr={i / 100} seed=0", i / 100)
    lines = shown(board(tmp_path), limit=3, path="outputs/sweep/leaderboard.csv")
    assert [line.rstrip() for line in lines] == [
        "rank  val/accuracy          optimizer  lr          epoch  sec",
        "   1  0.9722 ± 0.00062 (3)  momentum   0.00333333      3  1.5",
        "   2  0.2900                adam       0.29            3  1.5",
        "   3  0.2800                adam       0.28            3  1.5",
        "and 28 more: outputs/sweep/leaderboard.csv",
    ]
    assert len(shown(board(tmp_path), limit=31)) == 32


def test_diverged_entries_are_seen_as_such(add, tmp_path):
    add("model.width=8 seed=0", 0.5)
    add("model.width=9 seed=0", 0.9)
    add("model.width=9 seed=1", None, status="diverged")
    add("model.width=10 seed=0", None, status="failed")
    assert [line.split() for line in shown(board(tmp_path))] == [
        ["rank", "val/accuracy", "width", "epoch", "sec", "status"],
        ["1", "0.5000", "8", "3", "1.5", "finished"],
        ["2", "0.9000", "9", "3", "1.5", "diverged", "1", "of", "2"],
        ["-", "10", "1.5", "failed"],
    ]
    out = Console(file=StringIO(), force_terminal=True, width=80, color_system="standard")
    terminal.leaderboard(out, board(tmp_path))
    assert [line.startswith("\x1b[31m") for line in out.file.getvalue().splitlines()] == [
        False, False, True, False,
    ]  # fmt: skip


def test_names_are_short_where_they_stay_apart(add, tmp_path):
    knobs = ["optimizer", "model.lr", "optimizer.lr", "training.status", "training.batch_size"]
    for i in range(2):
        add(" ".join(f"{name}={i}" for name in knobs), 1 - i)
    head, first, _ = shown(board(tmp_path), width=120)
    assert head.split()[2:-2] == [
        "optimizer",
        "model.lr",
        "optimizer.lr",
        "training.status",
        "batch_size",
    ]
    assert first.split()[1:-2] == ["1.000", *"00000"]


@pytest.mark.parametrize("width", [80, 100])
def test_many_knobs_share_a_column_that_fits(add, tmp_path, width):
    names = [f"training.quite_a_long_name_{i}" for i in range(5)]
    for i in range(2):
        add(" ".join(f"{name}={i}" for name in names) + " model.width=[64,64]" * i, 1 - i)
    lines = shown(board(tmp_path), width=width)
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["rank", "val/accuracy", "knobs", "epoch", "sec"]
    told = " ".join(lines)
    assert told.count("quite_a_long_name_4=1") == 1
    assert told.count("width=[64,64]") == 1


@pytest.mark.parametrize(("value", "text"), [
    *((0.0, "0"), (0.97216, "0.9722"), (-3.25, "-3.250"), (0.00123456, "0.001235")),
    *((123456.7, "123,457"), (1e-9, "1.000e-09")),
])  # fmt: skip
def test_objectives_are_short(add, tmp_path, value, text):
    add("seed=0", value)
    assert shown(board(tmp_path))[1].split()[1] == text


@pytest.mark.parametrize(("value", "text"), [(0.0241, "0.024"), (1.52, "1.5"), (4321.06, "4,321")])
def test_seconds_are_short(add, tmp_path, value, text):
    add("seed=0", seconds=value)
    assert shown(board(tmp_path))[1].split()[-1] == text


def test_where_there_is_no_terminal_the_leaderboard_is_whole_and_not_wrapped(add, tmp_path):
    long = "long_" * 30
    for n in range(30):
        add(f'model.width={n} model.note="{long}{n}"', 0.5 + n / 100)
    out = Console(file=StringIO(), width=80)
    terminal.leaderboard(out, board(tmp_path), path=tmp_path / "leaderboard.csv")
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 31
    assert all(long in line for line in lines[1:])
