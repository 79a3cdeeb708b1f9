"""A sweep's report: what is read, concluded, advised and written."""

import json
import os
import shlex
import shutil
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_sweeps import HOSTILE, add_run, fake_grid, fake_search, fake_study, hostile_sweep, tried
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console

from knobs.errors import ConfigError, StorageError
from knobs.report import sections, sentences, terminal
from knobs.report.__main__ import main
from knobs.report.analysis import make, plain
from knobs.report.checks import widened
from knobs.report.next_steps import _same_repeats, range_of
from knobs.report.read import read_sweep
from knobs.report.records import Knob, Objective, position
from knobs.report.write import where, write
from knobs.words import listed, number


def arms(sweep, values, roles=("confirm",), **more):
    """Arm -> values by seed (from 1) -> a study's folder that holds them."""
    runs, number = {}, 0
    for role in roles:
        for name, row in values.items():
            for seed, value in enumerate(row, 1):
                add_run(sweep, {"optimizer": name, "optimizer.lr": 1e-3}, seed, value=value)
                runs[str(number)] = {"arm": f"optimizer={name}", "role": role, "seed": seed}
                number += 1
    space = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    about = {
        "study": "optimizer",
        "objective": {"metric": "val/accuracy", "mode": "max"},
        "scientific": ["optimizer"],
        "arms": {
            f"optimizer={n}": {"overrides": [f"optimizer={n}"], "space": space} for n in values
        },
        "runs": runs,
    }
    (sweep / "study.json").write_text(json.dumps(about | more))
    return sweep


def found(report, check):
    return [finding for finding in report.findings if finding.check == check]


def screen(report, width=80, height=24, page=None):
    out = Console(
        file=StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    terminal.show(out, report, page)
    return out.file.getvalue()


# ------------------------------------------------------------------ folders -> data
def test_a_grids_space_is_what_differs_on_the_scale_it_was_spread_on(tmp_path):
    for lr in (1e-4, 1e-3, 1e-2):
        for drop in (0.0, 0.1, 0.2):
            for name in ("adam", "sgd"):
                knobs = {"optimizer": name, "optimizer.lr": lr, "regularization.dropout": drop}
                tried(tmp_path / "s", knobs)
    sweep = read_sweep([tmp_path / "s"])
    assert sweep.space == (
        Knob("optimizer", choices=("adam", "sgd")),
        Knob("optimizer.lr", low=1e-4, high=1e-2, log=True),
        Knob("regularization.dropout", low=0.0, high=0.2),
    )
    assert position(sweep.space[1], 1e-3) == pytest.approx(0.5)


def test_a_studys_space_and_places_are_its_own(tmp_path):
    sweep = read_sweep([fake_study(tmp_path / "s", n=4)])
    assert {k.name: (k.low, k.high, k.log) for k in sweep.space_of("optimizer=sgd")} == {
        "optimizer.lr": (0.01, 5.0, True),
        "model.width": (32, 256, True),
        "regularization.dropout": (0.0, 0.4, False),
    }
    roles = [run.role for run in sweep.runs]
    assert roles.count("confirm") == 15
    assert roles.count("test") == 1
    assert all(run.role != "test" or run not in e.runs for run in sweep.runs for e in sweep.entries)


def test_a_runs_place_is_what_its_records_state_whatever_its_folder_is_called(tmp_path):
    sweep = arms(tmp_path / "s", {"adam": [0.9, 0.8], "sgd": [0.7, 0.6]})
    about = json.loads((sweep / "study.json").read_text())
    del about["runs"]["3"]
    (sweep / "study.json").write_text(json.dumps(about))
    for i, stated in {
        0: {"number": 2},  # study.json knows it by its number
        3: {"number": 3, "role": "baseline", "arm": "optimizer=sgd"},  # which it does not list
        1: {"number": True, "role": ["x"], "arm": 3},  # nothing that a run writes
    }.items():
        path = sweep / str(i) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"run": stated}))
    places = [(r.id, r.number, r.role, r.arm) for r in read_sweep([sweep]).runs]
    assert places == [
        ("0", 2, "confirm", "optimizer=sgd"),
        ("1", None, "confirm", "optimizer=adam"),
        ("2", None, "confirm", "optimizer=sgd"),
        ("3", 3, "baseline", "optimizer=sgd"),
    ]


def test_a_column_holds_the_runs_that_have_the_knob(tmp_path):
    for name, lr in (("adam", 1e-3), ("sgd", 0.1), ("lion", 0.1)):
        add_run(tmp_path / "s", {"optimizer": name, "optimizer.lr": lr}, value=0.5)
    sweep = read_sweep([tmp_path / "s"])
    lr = Knob("optimizer.lr", low=1e-3, high=0.1)
    assert sweep.column(lr) == {"0": 1e-3, "1": 0.1, "2": 0.1}
    assert sweep.column(Knob("optimizer", choices=("adam", "sgd"))) == {"0": "adam", "1": "sgd"}
    assert sweep.column(lr) is sweep.column(Knob("optimizer.lr", low=1e-3, high=0.1))


BROKEN_STUDIES = [
    "",
    "{",
    "[]",
    "null",
    "[" * 100_000,
    '{"arms": 3, "runs": []}',
    '{"arms": {"": []}, "runs": {"0": 1, "1": {"role": ["x"]}}}',
    '{"arms": {"": {"space": {"optimizer.lr": {"low": 0, "high": 1, "log": true}}}}}',
    '{"arms": {"": {"space": {"optimizer.lr": {"low": NaN, "high": "1"}}}}, "runs": {"0": {"role": "step", "step": "x"}}}',
    '{"arms": {"": {"space": {"optimizer.lr": {"choices": [[], {}, null]}}}}, "scientific": 3, "fixed": [1]}',
    '{"study": 3, "question": {}, "runs": {"0": {"role": "confirm", "arm": 7}}}',
]


@pytest.mark.parametrize("study", BROKEN_STUDIES)
def test_a_broken_study_is_read_as_far_as_it_goes(tmp_path, study):
    sweep = fake_grid(tmp_path / "s")
    (sweep / "study.json").write_text(study)
    report = make([sweep])
    assert len(report.sweep.runs) == 18
    assert write(report, tmp_path / "out").stat().st_size > 10_000
    assert "\n" in screen(report)


def test_hostile_folders_are_survived(tmp_path):
    sweep = fake_grid(tmp_path / "s")
    secret = tmp_path / "secret"
    secret.write_text('{"epoch": 1, "val/accuracy": 1}')
    (sweep / "0" / "metrics.jsonl").write_text(
        '{"epoch": 1}\n[1]\n"x"\n{"epoch": "x"}\n{"epoch": 2, "a": NaN'
    )
    (sweep / "1" / "metrics.jsonl").unlink()
    (sweep / "1" / "metrics.jsonl").symlink_to(secret)
    (sweep / "2" / "metrics.jsonl").unlink()
    os.mkfifo(sweep / "2" / "metrics.jsonl")
    (sweep / "3" / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")
    (sweep / "4" / "summary.json").write_text('{"status": "finished"')
    (sweep / "5" / "config.json").write_text("[[[]]]")
    summary = json.loads((sweep / "6" / "summary.json").read_text())
    odd = {"versions": ["x"], "test": 3, "config_hash": {}, "seconds": "x", "best_epoch": []}
    (sweep / "6" / "summary.json").write_text(json.dumps(summary | odd))
    (sweep / "7" / "summary.json").unlink()
    report = make([sweep])
    runs = report.sweep.runs
    assert [runs[i].curve for i in range(4)] == [[{"epoch": 1.0}], [], [], []]
    assert [runs[i].status for i in (4, 5, 7)] == ["unreadable", "unreadable", "interrupted"]
    assert {f.text for f in found(report, "unfinished")} == {
        "1 run did not end.",
        "2 runs cannot be read: 4 and 5.",
    }
    assert write(report, tmp_path / "out").is_file()


def test_what_is_no_sweep_is_said(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no runs in it; a sweep's folder holds its runs as 0/"):
        make([tmp_path])
    assert main([str(tmp_path / "none")]) == 2
    assert "none: cannot be read (No such file or directory)" in capsys.readouterr().err


def test_several_sweeps_are_one_and_a_copy_counts_once(tmp_path):
    fake_grid(tmp_path / "a" / "s", rates=(1e-3, 1e-2))
    fake_grid(tmp_path / "b" / "s", rates=(1e-4, 1e-3))
    folders = [tmp_path / "a" / "s", tmp_path / "b" / "s", tmp_path / "a" / ".." / "a" / "s"]
    sweep = read_sweep(folders)
    assert sweep.name == "a/s, b/s"
    assert len(sweep.runs) == 24
    assert {run.id for run in sweep.runs} >= {"a/s/0", "b/s/11"}
    assert len(sweep.entries) == 6
    assert [entry.n for entry in sweep.entries] == [
        3
    ] * 6  # the rate that both ran is the same bits
    assert where(sweep) == tmp_path


def test_reading_changes_nothing(tmp_path):
    sweep = fake_study(tmp_path / "s", n=4)
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    write(make([sweep]), sweep)
    after = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} == {
        "leaderboard.csv",
        "report.html",
        "report.md",
        "report.json",
    }
    assert before.items() <= after.items()


# ------------------------------------------------------------------ the verdict
def test_the_verdict_is_a_sentence_with_numbers(tmp_path):
    adamw = [0.950, 0.955, 0.945, 0.950, 0.960]
    nadam = [0.945, 0.950, 0.950, 0.955, 0.955]
    sgd = [0.925, 0.930, 0.925, 0.925, 0.935]
    report = make([arms(tmp_path / "s", {"nadam": nadam, "sgd": sgd, "adamw": adamw})])
    level, beaten = report.verdict.comparisons
    assert report.verdict.headline == (
        "No difference between adamw and nadam at this budget "
        f"(difference 0.1 ± {50 * (level.paired.high - level.paired.low):.1f} points "
        "over 5 paired seeds on this validation split); adamw beats sgd by 2.4 points."
    )
    assert (level.relation, level.paired.differences[2]) == ("level", pytest.approx(-0.005))
    assert (beaten.relation, beaten.paired.splits) == ("beaten", False)
    half = (level.paired.high - level.paired.low) / 2
    assert f"This comparison could have shown a difference of {100 * half:.1f} points." in (
        report.verdict.more
    )
    assert "Intervals: 95 %, Student's t, of this validation split, simultaneous over 3 arms." in (
        report.verdict.more
    )
    assert report.verdict.undermines[0].startswith("One validation split only")


def test_three_seeds_cannot_confirm(tmp_path):
    report = make([arms(tmp_path / "s", {"adam": [0.95, 0.951, 0.953], "sgd": [0.90, 0.90, 0.90]})])
    assert report.verdict.headline == (
        "adam is the best with val/accuracy 0.9513 (mean of 3 seeds); it is ahead of sgd by "
        "5.1 points, over 3 paired seeds on this validation split: more repeats are needed to be "
        "sure."
    )


def test_a_lucky_run_does_not_outrank_what_was_repeated(tmp_path):
    for seed, value in enumerate([0.90, 0.91, 0.92]):
        add_run(tmp_path / "s", {"optimizer.lr": 1e-3}, seed, value=value)
    add_run(tmp_path / "s", {"optimizer.lr": 1e-2}, 0, value=0.95)
    report = make([tmp_path / "s"])
    assert report.verdict.winner.name == "lr=0.001"
    assert [entry.knobs["optimizer.lr"] for entry in report.sweep.entries] == [1e-2, 1e-3]


def test_less_is_better_where_the_objective_says_so(tmp_path):
    for lr, values in {1e-3: [0.5, 0.51, 0.52, 0.5, 0.5], 1e-2: [0.8, 0.8, 0.8, 0.81, 0.8]}.items():
        for seed, value in enumerate(values):
            add_run(
                tmp_path / "s",
                {"optimizer.lr": lr},
                seed,
                value=value,
                metric="val/loss",
                mode="min",
            )
    report = make([tmp_path / "s"])
    assert report.verdict.headline == (
        "lr=0.001 is the best with val/loss 0.5060 (mean of 5 seeds); it beats lr=0.01 by 0.30 over 5 paired seeds on this validation split."
    )
    assert report.verdict.noise.floor is None


def test_what_chose_a_setting_does_not_count_for_it(tmp_path):
    values = {"adam": [0.90, 0.91, 0.90, 0.92, 0.90], "sgd": [0.88, 0.89, 0.88, 0.90, 0.88]}
    sweep = arms(tmp_path / "s", values)
    study = json.loads((sweep / "study.json").read_text())
    for name, lr, value in (("adam", 1e-3, 0.99), ("sgd", 1e-3, 0.98), ("adam", 2e-3, 0.97)):
        run = add_run(sweep, {"optimizer": name, "optimizer.lr": lr}, 0, value=value)
        study["runs"][run.name] = {"arm": f"optimizer={name}", "role": "search"}
    (sweep / "study.json").write_text(json.dumps(study))
    report = make([sweep])
    board = [(e.rank, e.mean, e.n, e.confirmed) for e in report.sweep.entries]
    assert board == [
        (1, pytest.approx(0.906), 5, True),
        (2, pytest.approx(0.886), 5, True),
        (3, 0.97, 1, False),
    ]
    lines = screen(report, height=50).splitlines()
    assert any(line.split()[:5] == ["1", "0.9060", "±", "0.0089", "(5)"] for line in lines)
    told = "2 settings ran again with fresh seeds and rank by these alone; 1 other behind"
    assert told in " ".join(lines)
    page = write(report, tmp_path / "out")
    for name in ("report.html", "report.md"):
        shown = page.with_name(name).read_text()
        assert told in shown
        assert "0.9060 ± 0.0089 (5)" in shown
        assert "(6)" not in shown
    rows = json.loads(page.with_name("report.json").read_text())["leaderboard"]
    assert [(row["n"], row["confirmed"]) for row in rows] == [(5, True), (5, True), (1, False)]
    assert "Run 3: expect val/accuracy 0.9060 ± 0.0089 (mean of 5 seeds; it had 0.9200); on " in (
        page.with_name("report.md").read_text()
    )


@pytest.mark.parametrize(
    ("knob", "values", "names"),
    [
        ("optimizer", ("adam", "sgd"), ["adam", "sgd"]),
        ("training.batch_size", (16, 32), ["batch_size=16", "batch_size=32"]),
        ("regularization.l2", ("null", 1e-4), ["l2=null", "l2=0.0001"]),
    ],
)
def test_a_number_is_called_by_its_knob(tmp_path, knob, values, names):
    runs = {}
    for i, value in enumerate(values):
        add_run(tmp_path / "s", {knob: value}, value=0.9 - i / 10)
        runs[str(i)] = {"arm": f"{knob}={value}", "role": "search"}
    arms = {f"{knob}={value}": {"overrides": [], "space": {}} for value in values}
    about = {"study": "s", "scientific": [knob], "arms": arms, "runs": runs}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    answer = make([tmp_path / "s"]).verdict
    assert [answer.winner.name, *(c.other.name for c in answer.comparisons)] == names


def test_the_best_of_many_equal_arms_beats_none_of_them(tmp_path):
    drawn = (
        0.9 + 0.01 * np.random.default_rng(i).standard_normal((7, 5)).round(1) for i in range(20)
    )
    ordered = (table[np.argsort(-table.mean(1))] for table in drawn)
    apart = next(t for t in ordered if (t[0] > t[-1]).all())  # which happens to equal arms
    names = [f"a{i}" for i in range(7)]
    seven = dict(zip(names, map(list, apart), strict=True))
    many = make([arms(tmp_path / "many", seven)]).verdict
    assert [c.relation for c in many.comparisons] == ["level"] * 6
    assert min(many.comparisons[-1].paired.differences) > 0
    assert many.headline.startswith("No difference between 7 optimizers at this budget")


def test_where_nothing_finished_that_is_the_verdict(tmp_path):
    for lr in (0.1, 1.0):
        add_run(tmp_path / "s", {"optimizer.lr": lr}, status="diverged")
    report = make([tmp_path / "s"])
    assert report.verdict.headline == "No run finished with a value. 2 runs: 2 diverged."
    assert (report.recipe, report.advice, report.importance) == (None, (), None)
    assert write(report, tmp_path / "out").is_file()
    assert "2 of 2 runs diverged or failed (100 %)." in screen(report)


def test_one_run_is_not_compared(tmp_path):
    add_run(tmp_path / "s", {}, value=0.9)
    report = make([tmp_path / "s"])
    assert (
        report.verdict.headline
        == "The setting: val/accuracy 0.9000 (one run); there is nothing to compare it with."
    )
    assert write(report, tmp_path / "out").is_file()


def test_the_walk_from_the_default_says_which_knob_gave_what(tmp_path):
    report = make([fake_study(tmp_path / "s", n=16)])
    steps = report.verdict.steps
    assert [step.knob for step in steps] == [
        "",
        "optimizer.lr",
        "model.width",
        "regularization.dropout",
    ]
    total = report.verdict.comparisons[-1].paired  # with the default
    assert sum(step.gain.mean for step in steps[1:]) == pytest.approx(total.mean)
    assert total.beats
    assert any(s.startswith("One knob at a time from the default: ") for s in report.verdict.more)


def walked(sweep, **values):
    """Knob -> values by seed, the default's under `start`: a folder that only walks."""
    runs, changed = {}, {}
    for step, (knob, row) in enumerate(values.items()):
        if step:
            changed[f"optimizer.{knob}"] = 0.5
        for seed, value in enumerate(row):
            add_run(sweep, changed, seed, value=value)
            place = {"role": "step", "step": step, "knob": f"optimizer.{knob}"}
            runs[str(len(runs))] = {"arm": "", **(place if step else {"role": "baseline"})}
    about = {"study": "confirm", "arms": {"": {"overrides": [], "space": {}}}, "runs": runs}
    (sweep / "study.json").write_text(json.dumps(about))
    return sweep


def test_a_walk_alone_is_a_verdict_too(tmp_path):
    start, lr, eps = [0.80, 0.81, 0.82, 0.81, 0.80], [0.85, 0.86, 0.86, 0.85, 0.85], [0.86] * 5
    report = make([walked(tmp_path / "s", start=start, lr=lr, eps=eps)])
    assert report.verdict.headline == (
        "The best config reached val/accuracy 0.8600 (mean of 5 seeds); it beats the default by "
        "5.2 points over 5 paired seeds on this validation split."
    )
    assert (
        "One knob at a time from the default: lr 4.6 points and eps 0.6 points."
        in report.verdict.more
    )
    assert report.advice[-1].command.endswith("test=true")


def test_a_walk_of_one_knob_says_its_gain_once(tmp_path):
    start, lr = [0.80, 0.81, 0.82, 0.81, 0.80], [0.85, 0.86, 0.86, 0.85, 0.85]
    answer = make([walked(tmp_path / "s", start=start, lr=lr)]).verdict
    assert "beats the default by 4.6 points" in answer.headline
    assert not any("4.6 points" in sentence for sentence in answer.more)


def test_a_walk_that_is_under_way_says_so(tmp_path):
    sweep = walked(tmp_path / "s", start=[0.80, 0.81], lr=[0.85, 0.86])
    for run in (2, 3):
        (sweep / str(run) / "summary.json").unlink()
    report = make([sweep])
    assert report.verdict.headline == (
        "The runs that decide did not end yet. 4 runs: 2 finished, 2 interrupted."
    )
    assert found(report, "noise floor") == []


def test_a_walk_names_what_was_lost_on_the_way(tmp_path):
    start = [0.80, 0.81, 0.82, 0.81, 0.80]
    gains = {"a": 0.05, "b": 0.001, "c": 0.001, "d": 0.001, "e": 0.001, "f": -0.04}
    values, so_far = {}, 0.0
    for name, gain in gains.items():
        so_far += gain
        values[name] = [value + so_far for value in start]
    answer = make([walked(tmp_path / "s", start=start, **values)]).verdict
    told = next(s for s in answer.more if s.startswith("One knob at a time"))
    assert told.startswith("One knob at a time from the default: a 5.0 points, f -4.0 points, ")


def test_a_walk_may_end_below_where_it_began(tmp_path):
    worse = [0.75, 0.76, 0.77, 0.75, 0.74]
    report = make([walked(tmp_path / "s", start=[0.80, 0.81, 0.82, 0.81, 0.80], lr=worse)])
    assert report.verdict.headline == (
        "The default is the best with val/accuracy 0.8080 (mean of 5 seeds); it beats the best "
        "config by 5.4 points over 5 paired seeds on this validation split."
    )


def test_the_test_split_is_read_once_or_the_report_says_so(tmp_path):
    study = fake_study(tmp_path / "s", n=4)
    once = make([study]).verdict.more[-1]
    assert once.startswith(
        "The test split was read once, for the confirmed winner: test/accuracy 0.9375"
    )
    report = make([study])
    other = next(c.other for c in report.verdict.comparisons if c.other.confirmed)
    assert sentences.tested(
        report.sweep, other
    ).startswith(  # as where more runs have found another winner
        f"The test split was read once, not for {other.name} but another setting: test/accuracy"
    )
    grid = fake_grid(tmp_path / "g", seeds=1)
    assert make([grid]).verdict.more[-1] == "The test split has not been read."
    for lr in (1e-3, 1e-2):
        add_run(
            grid, {"optimizer.lr": lr, "model.width": 32}, 7, value=0.9, test={"test/accuracy": 0.9}
        )
    assert (
        make([grid])
        .verdict.more[-1]
        .startswith("The test split was read by 2 runs: a figure chosen")
    )


# ------------------------------------------------------------------ checks
@pytest.mark.parametrize(
    ("knob", "upper", "ends"),
    [
        (Knob("optimizer.lr", low=1e-4, high=1e-2, log=True), True, (1e-4, 0.1)),
        (Knob("optimizer.lr", low=1e-4, high=1e-2, log=True), False, (1e-5, 1e-2)),
        (Knob("model.width", low=32, high=128, log=True, integer=True), True, (32, 256)),
        (Knob("model.depth", low=1, high=5, integer=True), True, (1, 7)),
        (Knob("regularization.dropout", low=0.1, high=0.5), False, (0.05, 0.5)),
        (Knob("regularization.dropout", low=0.0, high=0.5), False, None),
        (Knob("regularization.dropout", low=0.0, high=0.9), True, None),
    ],
)
def test_a_bound_is_widened_as_far_as_its_knob_goes(knob, upper, ends):
    wider = widened(knob, upper)
    assert (wider and (wider.low, wider.high)) == ends


def test_a_best_value_at_a_bound_is_found_with_the_next_grid(tmp_path):
    for lr, value in ((1e-4, 0.5), (1e-3, 0.7), (1e-2, 0.9)):
        for seed in range(3):
            add_run(tmp_path / "s", {"optimizer.lr": lr}, seed, value=value + seed / 1000)
    report = make([tmp_path / "s"])
    (finding,) = found(report, "boundary")
    assert finding.text == "The best lr, 0.01, lies within 5 % of the upper bound 0.01."
    assert (finding.level, finding.do) == ("act", "Search optimizer.lr from 0.0001 to 0.1.")
    commands = [advice.command for advice in report.advice]
    assert any("optimizer.lr=0.01,0.032,0.1 seed=0,1,2 " in command for command in commands)


def test_a_penalty_at_its_lower_bound_is_tried_without_and_not_widened(tmp_path):
    runs = {}
    for i, l2 in enumerate([1e-7, 1e-6, 1e-5, 1e-4, 1e-3]):
        add_run(tmp_path / "s", {"regularization.l2": l2}, value=0.9 - i / 10)
        runs[str(i)] = {"arm": "", "role": "search"}
    space = {"regularization.l2": {"low": 1e-7, "high": 1e-2, "log": True}}
    about = {"study": "search", "arms": {"": {"overrides": [], "space": space}}, "runs": runs}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    report = make([tmp_path / "s"])
    (finding,) = found(report, "boundary")
    assert (finding.level, finding.do) == ("note", "Try regularization.l2=0 as well.")
    assert not any("1e-08" in advice.command for advice in report.advice)


def test_several_bounds_are_widened_in_one_search(tmp_path):
    runs = {}
    for i, (lr, width) in enumerate([(1e-4, 32), (3e-4, 64), (1e-3, 128), (1e-2, 256)]):
        add_run(tmp_path / "s", {"optimizer.lr": lr, "model.width": width}, value=0.5 + i / 10)
        runs[str(i)] = {"arm": "", "role": "search"}
    space = {
        "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "model.width": {"low": 32, "high": 256, "log": True, "int": True},
        "activation": {"choices": ["relu", "gelu"]},
    }
    about = {"study": "search", "arms": {"": {"overrides": [], "space": space}}, "runs": runs}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    (wider,) = (a for a in make([tmp_path / "s"]).advice if a.why.startswith("Search"))
    assert wider.why == "Search optimizer.lr from 0.0001 to 0.1 and model.width from 32 to 724"
    assert shlex.split(wider.command)[3:] == [
        "hydra/sweeper=search",
        "training.epochs=20",
        "optimizer.lr=tag(log,interval(0.0001,0.1))",
        "model.width=tag(log,int(interval(32,724)))",
        "activation=relu,gelu",
        "search.runs=4",
    ]


def test_failures_are_counted_and_confined(tmp_path):
    for i, lr in enumerate([1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0]):
        broke = lr >= 0.1
        add_run(
            tmp_path / "s",
            {"optimizer.lr": lr},
            value=None if broke else 0.5 + i / 100,
            status="diverged" if broke else "finished",
        )
    (finding,) = found(make([tmp_path / "s"]), "failures")
    assert finding.level == "act"
    assert (
        finding.text
        == "4 of 10 runs diverged or failed (40 %). All of them lie at optimizer.lr >= 0.1."
    )
    assert (finding.knob.low, finding.knob.high) == (1e-4, 3e-2)


def test_a_grid_of_which_the_lowest_value_alone_works_is_reported(tmp_path, capsys):
    for lr, value in ((1e-2, 0.9), (1e5, None), (1e6, None)):
        knobs = {"optimizer": "sgd", "optimizer.lr": lr}
        add_run(tmp_path / "s", knobs, value=value, status="finished" if value else "diverged")
    assert main([str(tmp_path / "s")]) == 0
    assert "67 %" in capsys.readouterr().out
    (finding,) = found(make([tmp_path / "s"]), "failures")
    assert (finding.level, finding.do, finding.knob) == (
        "act",
        "Search optimizer.lr below 100000.",
        None,
    )
    assert finding.text.endswith("(67 %). All of them lie at optimizer.lr >= 100000.")


@pytest.mark.parametrize(
    ("best", "ends", "short", "long"),
    [
        (20, 1.0, "act", "ok"),
        (20, 0.01, "note", "ok"),
        (2, 1.0, "ok", "act"),
        (10, 1.0, "ok", "ok"),
    ],
)
def test_training_too_short_or_too_long(tmp_path, best, ends, short, long):
    for i in range(8):
        add_run(
            tmp_path / "s",
            {"optimizer.lr": 1e-3 * (i + 1)},
            value=0.8 + i / 100,
            best=best,
            lr_ends=ends,
        )
    report = make([tmp_path / "s"])
    levels = [found(report, check)[0].level for check in ("too short", "too long")]
    assert levels == [short, long]
    if long == "act":
        assert any(advice.command.endswith("training.epochs=10") for advice in report.advice)


def test_the_noise_floor_is_told_with_what_it_swallows(tmp_path):
    report = make([fake_grid(tmp_path / "s", rates=(1e-3, 3e-3, 1e-2))])
    noise = report.verdict.noise
    best = report.sweep.entries[0].mean
    assert noise.size == 400
    assert noise.floor == pytest.approx(((1 - best) / 800) ** 0.5, rel=1e-12)
    (finding,) = found(report, "noise floor")
    assert f"{100 * 8**0.5 * noise.seeds:.1f} points to be significantly different" in finding.text


def test_the_validation_split_is_as_large_as_the_records_say(tmp_path):
    sweep = fake_grid(tmp_path / "s", rates=(1e-3, 3e-3, 1e-2))

    def size(told):
        for folder, examples in zip(sorted(sweep.glob("[0-9]*")), told, strict=False):
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(
                json.dumps(summary | {"validation_examples": examples})
            )
        return make([sweep]).verdict.noise.size

    assert size([]) == 400  # an older record: what its accuracies fit
    assert size([800]) == 800
    assert size([800, 400]) is None  # not one split
    assert size(["x", None]) == 400


# ------------------------------------------------------------------ what to run
def test_commands_repeat_what_ran_and_nothing_of_where(tmp_path):
    extra = (
        "sweep=x",
        "hydra.sweep.dir=/x",
        "resume='/y'",
        "+study=optimizer",
        "hydra/launcher=basic",
    )
    for seed, lr in ((0, 1e-3), (1, 1e-3), (0, 1e-2)):
        add_run(
            tmp_path / "s", {"optimizer.lr": lr}, seed, value=0.9 + lr + seed / 100, extra=extra
        )
    report = make([tmp_path / "s"])
    assert report.recipe.command == "python train.py optimizer.lr=0.001 seed=1 training.epochs=20"
    assert report.recipe.versions["torch"] == "2.13.0"
    first = shlex.split(report.advice[0].command)
    assert first[:3] == ["python", "train.py", "-m"]
    assert set(first[3:]) == {
        "optimizer.lr=0.001",
        "training.epochs=20",
        "seed=0,1,2,3,4",
        f"hydra.sweep.dir={tmp_path / 's'}",
    }


def test_settings_that_differ_in_one_value_are_confirmed_by_one_grid(tmp_path):
    for lr, value in ((1e-4, 0.900), (1e-3, 0.901), (1e-2, 0.902)):
        add_run(tmp_path / "s", {"optimizer": "adam", "optimizer.lr": lr}, value=value)
    (confirm,) = (a for a in make([tmp_path / "s"]).advice if a.why.startswith("Confirm"))
    assert confirm.why == "Confirm lr=0.01, lr=0.001 and lr=0.0001 with 5 seeds"
    assert shlex.split(confirm.command)[3:7] == [
        "optimizer=adam",
        "optimizer.lr=0.01,0.001,0.0001",
        "training.epochs=20",
        "seed=0,1,2,3,4",
    ]
    for name, lr, value in (("adam", 1e-3, 0.901), ("sgd", 1e-1, 0.9)):
        add_run(tmp_path / "two", {"optimizer": name, "optimizer.lr": lr}, value=value)
    apart = [a.why for a in make([tmp_path / "two"]).advice if a.why.startswith("Confirm")]
    assert apart == [
        "Confirm optimizer=adam lr=0.001 with 5 seeds",
        "Confirm optimizer=sgd lr=0.1 with 5 seeds",
    ]


def test_a_range_is_one_that_a_search_reads():
    words = {
        "optimizer.lr=tag(log,interval(0.0001,0.1))": Knob("optimizer.lr", 1e-4, 0.1, log=True),
        "model.depth=tag(linear,int(interval(1,5)))": Knob("model.depth", 1.0, 5.0, integer=True),
        "activation=relu,gelu": Knob("activation", choices=("relu", "gelu")),
        "model.depth=1,2": Knob("model.depth", choices=("1", "2")),
        "regularization.l1=0.0,1e-06": Knob("regularization.l1", choices=("0", "1e-06")),
        "regularization.l2=null,0.0001": Knob("regularization.l2", choices=("null", "0.0001")),
    }
    assert [range_of(knob) for knob in words.values()] == list(words)


def test_few_runs_an_arm_are_ranked_together_with_the_question(tmp_path):
    report = make([fake_study(tmp_path / "s", n=5)])
    assert report.about == ""
    assert {knob.name for knob in report.importance.knobs} >= {"optimizer", "optimizer.lr"}


def test_a_search_is_confirmed_by_a_walk_and_widened_as_a_search(tmp_path):
    runs = {}
    for i, lr in enumerate([1e-4, 3e-4, 1e-3, 3e-3, 1e-2]):
        add_run(tmp_path / "s", {"optimizer.lr": lr}, value=0.5 + i / 10)
        runs[str(i)] = {"arm": "", "role": "search" if i else "default"}
    arm = {"overrides": [], "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}}
    about = {"study": "search", "arms": {"": arm}, "runs": runs}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    confirm, wider = (shlex.split(advice.command) for advice in make([tmp_path / "s"]).advice)
    walk = f"study.walk={tmp_path / 's'}"
    assert confirm[3:] == ["+study=confirm", walk, "training.epochs=20"]  # what all runs share
    assert wider[3:] == [
        "hydra/sweeper=search",
        "training.epochs=20",
        "optimizer.lr=tag(log,interval(0.0001,0.1))",
        "search.runs=5",
    ]


def test_what_a_search_found_is_confirmed_by_seeds_that_did_not_choose_it(tmp_path):
    add_run(tmp_path / "s", {"optimizer.lr": 1e-3}, 2, value=0.9, epochs=1)
    arm = {"overrides": [], "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True}}}
    about = {"study": "search", "arms": {"": arm}, "runs": {"0": {"arm": "", "role": "search"}}}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    report = make([tmp_path / "s"])
    assert [a.command.split()[-1] for a in report.advice] == ["seed=0,1,3,4,5"]
    assert found(report, "too short")[0].text == (
        "1 epoch is too few to tell whether training was long enough."
    )


def test_the_test_split_is_offered_to_the_confirmed_alone(tmp_path):
    few = make([arms(tmp_path / "a", {"adam": [0.95] * 3, "sgd": [0.9] * 3})])
    many = make([arms(tmp_path / "b", {"adam": [0.95] * 5, "sgd": [0.9] * 5})])
    assert not any(advice.command.endswith("test=true") for advice in few.advice)
    assert many.advice[-1].command.endswith("seed=1 training.epochs=20 test=true")


@pytest.mark.parametrize(
    "word", ["name=$(touch x)", "name=`id`; rm -rf /", "name='a' && b", f"name={HOSTILE}"]
)
def test_a_hostile_override_reaches_a_command_in_quotes_only(tmp_path, word):
    add_run(tmp_path / "s", {"optimizer.lr": 1e-3}, value=0.9, extra=(word,))
    add_run(tmp_path / "s", {"optimizer.lr": 1e-2}, value=0.8)
    command = make([tmp_path / "s"]).recipe.command
    assert shlex.split(command)[-1] == word


@pytest.mark.parametrize("word", ["a=\x1b[2J", "a=b\nrm -rf /", "a=\u202egnp", "a=" + "x" * 5000])
def test_a_command_that_cannot_be_shown_as_it_is_is_not_made(tmp_path, word):
    add_run(tmp_path / "s", {"optimizer.lr": 1e-3}, value=0.9, extra=(word,))
    report = make([tmp_path / "s"])
    assert report.recipe.command == ""
    assert report.advice == ()


NASTY = [
    "it's",
    "a b",
    "x=1",
    "${x}",
    "ä",
    "a,b",
    "{a}",
    "a#b",
    "--x",
    "back\\slash",
    "\\${x}",
    "1",
]


def from_hydra(command):
    """The words of a printed command, as a shell splits it and Hydra reads it: key -> value."""
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    lines = [word for word in words[2:] if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(lines)
    values = {o.key_or_group: o.value() for o in parsed if not o.is_sweep_override()}
    return OmegaConf.create({"values": {k: v for k, v in values.items()}})["values"]


@pytest.mark.parametrize("name", NASTY)
def test_commands_about_a_folder_of_any_name_can_be_copied(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for lr in (1e-4, 1e-3, 1e-2):
        tried(Path("sweeps", name), {"optimizer.lr": lr})
    for advice in make([Path("sweeps", name)]).advice:
        assert from_hydra(advice.command)["training.epochs"]
    joined = [
        a.command for a in make([Path("sweeps", name)]).advice if "hydra.sweep.dir" in a.command
    ]
    assert joined
    for command in joined:
        assert from_hydra(command)["hydra.sweep.dir"] == f"sweeps/{name}"
    fake_search(Path("searches", name), n=12)
    confirm = make([Path("searches", name)]).advice[0].command
    assert from_hydra(confirm)["study.walk"] == f"searches/{name}"
    assert main(["--", f"sweeps/{name}"]) == 0
    assert Path("sweeps", name, "report.html").exists()


def test_a_command_needs_what_its_reader_has_exported_and_says_what_more(tmp_path, monkeypatch):
    own = {
        "optimizer.lr": 1e-3,
        "loss._target_": "mylab.losses.ours",
        "model._target_": "torch.x",
        "init._target_": "os.system",
    }
    add_run(tmp_path / "s", own, value=0.9)
    report = make([tmp_path / "s"])
    assert report.recipe.code == ("mylab.",)  # torch and os are nobody's own
    said = {section.name: " ".join(section.texts) for section in sections.sections(report)}
    line = "This run used code of its own (mylab.); read it, then export KNOBS_ALLOW yourself."
    assert line in said["reproduce"]
    assert line in said["next"]
    assert "KNOBS_ALLOW" not in report.recipe.command
    monkeypatch.setenv("KNOBS_ALLOW", "mylab.")
    assert make([tmp_path / "s"]).recipe.command.startswith("KNOBS_ALLOW=mylab. python train.py ")


def test_choices_that_hydra_would_misread_are_quoted():
    line = range_of(Knob("data.path", choices=("a b.csv", "it's", "x,y", "[1,2]", "null")))
    choices = OverridesParser.create().parse_override(line).sweep_iterator()
    assert [getattr(c, "text", c) for c in choices] == ["a b.csv", "it's", "x,y", [1, 2], None]


# ------------------------------------------------------------------ shown and written
@pytest.mark.parametrize("kind", [fake_grid, fake_search, fake_study])
def test_where_there_is_no_terminal_the_report_is_whole(tmp_path, kind):
    report = make([kind(tmp_path / "s")])
    out = Console(file=StringIO(), width=80, height=25)
    terminal.show(out, report, tmp_path / "report.html")
    lines = out.file.getvalue().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("rank"))
    entries = report.sweep.entries
    assert len(entries) > terminal.TOP
    ranks = ["-" if e.rank is None else str(e.rank) for e in entries]
    assert [line.split()[0] for line in lines[head + 1 : head + 1 + len(entries)]] == ranks
    for text in (
        report.verdict.headline,
        *report.verdict.more,
        *(a.command for a in report.advice),
    ):
        assert any(text in line for line in lines), text
    assert "more on the page" in screen(report, 80, 24, tmp_path / "report.html")


@pytest.mark.parametrize("size", [(80, 24), (100, 40)])
@pytest.mark.parametrize("kind", [fake_grid, fake_search, fake_study])
def test_the_terminals_report_is_one_screen(tmp_path, kind, size):
    report = make([kind(tmp_path / "s")])
    width, height = size
    lines = screen(report, width, height, tmp_path / "report.html").splitlines()
    assert sum(-(-max(1, len(line)) // width) for line in lines) <= height
    shown = " ".join(" ".join(lines).split())
    for expected in (report.verdict.headline, "rank", "total-order effect", "next: ", "page: "):
        assert expected in shown
    assert ("expected gain" in shown) == (
        kind is not fake_grid
    )  # which has no default to gain over


def test_markup_in_records_stays_text_everywhere(tmp_path):
    report = make([hostile_sweep(tmp_path / "s")])
    page = write(report, tmp_path / "out").read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)" in page
    markdown = (tmp_path / "out" / "report.md").read_text()
    inside, outside = markdown.split("```")[1::2], markdown.split("```")[::2]
    assert "<script>" not in "".join(outside)
    assert all(part.startswith("bash\n") for part in inside)
    assert "\x1b" not in screen(report) + page + markdown
    json.loads((tmp_path / "out" / "report.json").read_text())


def test_report_json_is_the_whole_report_in_strict_json(tmp_path):
    report = make([fake_study(tmp_path / "s")])
    write(report, tmp_path)

    def refuse(word):
        raise AssertionError(word)

    told = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert list(told) == [
        "version",
        "sweeps",
        "objective",
        "question",
        "spent",
        "stops",
        "verdict",
        "leaderboard",
        "importance",
        "checks",
        "next",
        "reproduce",
    ]
    assert told["spent"].startswith("48 runs to search, 35 to confirm, 1 on the test split, ")
    assert told["verdict"]["headline"] == report.verdict.headline
    assert len(told["leaderboard"]) == len(report.sweep.entries)
    assert told["verdict"]["comparisons"][0]["low"] == report.verdict.comparisons[0].paired.low
    assert told["verdict"]["undermines"] == list(report.verdict.undermines)
    assert plain(report)["reproduce"]["command"] == report.recipe.command


def test_a_foreign_folders_links_are_not_written_through(tmp_path):
    sweep, target = fake_grid(tmp_path / "s"), tmp_path / "target"
    target.write_text("mine")
    for name in ("report.html", "report.html.partial", "report.json.partial"):
        (sweep / name).symlink_to(target)
    page = write(make([sweep]), sweep)
    assert target.read_text() == "mine"
    assert not page.is_symlink()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    sweep = fake_grid(tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written to .*; name another: --out DIR"):
        write(make([sweep]), tmp_path / "file" / "x")


def test_the_command_writes_shows_and_ends_well(tmp_path, capsys):
    sweep = fake_grid(tmp_path / "s")
    shutil.copytree(sweep, tmp_path / "t")
    assert main([str(sweep), str(tmp_path / "t"), "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "36 runs: 36 finished" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "leaderboard.csv",
        "report.html",
        "report.md",
        "report.json",
    }


def test_the_leaderboard_that_the_report_names_is_there(tmp_path):
    for i in range(40):
        add_run(tmp_path / "s", {"optimizer.lr": (i + 1) / 1000}, value=i / 100)
    assert main([str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    assert "and 10 more: leaderboard.csv" in (tmp_path / "out" / "report.md").read_text()
    rows = (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()
    assert (len(rows), rows[1].split(",")[:2]) == (41, ["1", "0.39"])


# ------------------------------------------------------------------ words
def test_a_mean_and_its_deviation_are_written_alike_everywhere(tmp_path):
    for seed, value in enumerate((0.5, 0.25, 0.75)):
        add_run(tmp_path / "s", {"optimizer.lr": 1e-3}, seed, value=value)
        add_run(tmp_path / "s", {"optimizer.lr": 1e-2}, seed, value=value / 2)
    report = make([tmp_path / "s"])
    write(report, tmp_path / "out")
    texts = [
        screen(report),
        *((tmp_path / "out" / f"report.{e}").read_text() for e in ("md", "html")),
    ]
    assert all("0.5000 ± 0.25 (3)" in text and "0.2500 ± 0.12 (3)" in text for text in texts)


def test_numbers_are_said_with_the_digits_they_have():
    assert [number(v) for v in (0.0, 1.0, 1234.5, 0.000123, 1e-7, 2.5e9)] == [
        "0",
        "1.00",
        "1,234",
        "0.000123",
        "1.00e-07",
        "2.50e+09",
    ]
    points, loss = Objective("val/accuracy"), Objective("val/loss", "min")
    assert [points.amount(v) for v in (0.023, 0.01, 0.0003, -0.004, 3e-6)] == [
        "2.3 points",
        "1.0 points",
        "0.03 points",
        "-0.4 points",
        "0 points",
    ]
    assert (loss.amount(0.0234), loss.sign) == ("0.023", -1)
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c, d and 1 more"


def test_a_section_is_written_once_and_shown_everywhere(tmp_path, monkeypatch):
    """The page, the terminal and Markdown show a section that none of them knows."""

    def slowest(report):
        runs = sorted(report.sweep.runs, key=lambda run: -run.seconds)[:2]
        rows = tuple((run.id, f"{run.seconds:g} s") for run in runs)
        return sections.Section("slow", "Slowest <runs>", ("By their time.",), ("run", "t"), rows)

    monkeypatch.setattr(sections, "SECTIONS", (*sections.SECTIONS, slowest))
    report = make([fake_grid(tmp_path / "s")])
    run, cost = slowest(report).rows[0]
    page = write(report, tmp_path / "out")
    assert (
        f"## Slowest &lt;runs&gt;\n\nBy their time.\n\n| run | t |\n|---|---|\n| {run} | {cost} |"
        in (page.with_name("report.md").read_text())
    )
    html = page.read_text()
    assert '<a href="#slow">Slowest &lt;runs&gt;</a>' in html
    assert '<h2>Slowest &lt;runs&gt;</h2>\n<p class="see">By their time.</p>' in html
    assert f"<tr><td>{run}</td><td>{cost}</td></tr>" in html
    assert f"{run} {cost}" in [
        " ".join(line.split()) for line in screen(report, height=60).splitlines()
    ]


def test_a_grid_that_was_too_short_trains_longer_with_its_rivals_and_their_repeats(tmp_path):
    """Not one run of the winner: folds would be a fold, and nothing would compare."""
    for name, lead in (("adam", 0.001), ("nadam", 0.0)):
        for fold in range(3):
            knobs = {"optimizer": name, "data.folds": 3, "data.fold": fold}
            add_run(tmp_path / "s", knobs, value=0.9 + lead + fold / 1000, best=20)
    advice = make([tmp_path / "s"]).advice
    [longer] = [a for a in advice if a.why == "optimizer=adam and optimizer=nadam for 40 epochs"]
    words = longer.command.split()
    assert {"optimizer=adam,nadam", "training.epochs=40", "-m"} < {*words}
    assert "zip={data.fold:[0,1,2],seed:[0,0,0]}" in longer.command.replace("'", "")
    two = tmp_path / "two"
    for fold in range(2):
        for seed in range(2):
            knobs = {"optimizer": "adam", "data.folds": 2, "data.fold": fold}
            add_run(two, knobs, seed, value=0.9 + seed / 100 + fold / 1000, best=20)
    [longer] = [a for a in make([two]).advice if a.why == "The best setting for 40 epochs"]
    assert "data.fold:[0,0,1,1],seed:[0,1,0,1]" in longer.command
    alone = [SimpleNamespace(overrides=[f"data.fold={k}"], seed=0) for k in range(2)]
    assert _same_repeats(SimpleNamespace(runs=alone)) == ["data.fold=0,1"]  # no zip of one list
