"""Folders of runs as arms, and the command: its words, its output, its exit codes."""

import json
import math
import os
import statistics
import subprocess
import sys

import pytest
from conftest import REPO
from fake_sweeps import add_run, fake_search, fake_study, hostile_sweep
from scipy.stats import t

from knobs.compare.__main__ import main
from knobs.compare.recorded import arm_of
from knobs.errors import ConfigError, DataError

VALUES = {"adam": (0.95, 0.96, 0.94, 0.955, 0.945), "sgd": (0.90, 0.92, 0.89, 0.91, 0.90)}


def with_data(run, split=0, content="0123", rows=(8000, 2000, 2000)):
    """Add what a run of today records of its data."""
    about = json.loads((run / "config.json").read_text())
    about["config"]["data"] = {"name": "digits", "split_seed": split}
    about["data"] = {"hash": f"{content}{split}", "rows": list(rows)}
    (run / "config.json").write_text(json.dumps(about))
    if not (run / "summary.json").exists():
        return run
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"training_examples": rows[0], "validation_examples": rows[1]}
    (run / "summary.json").write_text(json.dumps(summary))
    return run


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, values in VALUES.items():
        for seed, value in enumerate(values):
            with_data(add_run(tmp_path / "grid", {"optimizer": name}, seed, value=value))
    return tmp_path / "grid"


def said(capsys, *words):
    code = main(list(words))
    out = capsys.readouterr()
    return code, out.out + out.err


# ------------------------------------------------------------------ arms
def test_a_setting_of_a_sweep(grid):
    arm = arm_of(grid, "optimizer=sgd")
    assert arm.values == {(seed, 0, 0): v for seed, v in enumerate(VALUES["sgd"])}
    assert (arm.metric, arm.mode, arm.splits, arm.notes) == ("val/accuracy", "max", True, ())
    assert (arm.validation, arm.training) == (2000, 8000)
    assert set(arm.hashes.values()) == {"data 01230"}


def test_a_sweep_is_its_best_setting_and_says_that_it_was_chosen(grid):
    arm = arm_of(grid)
    assert arm.values == arm_of(grid, "optimizer=adam").values
    assert arm.notes == ("the best of 2 settings, chosen on these very values",)


def test_one_lucky_run_is_not_the_best_setting(grid):
    with_data(add_run(grid, {"optimizer": "nadam"}, 0, value=0.999))
    assert arm_of(grid).values == arm_of(grid, "optimizer=adam").values
    assert arm_of(grid, "optimizer=nadam").values == {(0, 0, 0): 0.999}


def test_numbers_of_a_setting_are_read_as_numbers(grid):
    assert arm_of(grid, "optimizer=adam optimizer.lr=1e-3").name.endswith("lr=1e-3")
    with pytest.raises(ConfigError, match="no run with optimizer.lr=2e-3"):
        arm_of(grid, "optimizer.lr=2e-3")


def test_what_a_study_confirmed_was_not_chosen_on_these_values(tmp_path):
    study = fake_study(tmp_path / "study")
    arm = arm_of(study, "optimizer=adam")
    assert sorted(arm.values) == [(seed, 0, 0) for seed in range(1, 6)]
    assert arm.notes == ()
    [note] = arm_of(study).notes  # which arm is the best, these values tell
    assert note == "the best of 3 confirmed settings, chosen on these very values"
    [note] = arm_of(fake_search(tmp_path / "search", 20)).notes
    assert note.startswith("the best of ")


def test_an_arm_that_a_study_searched_too_narrowly_says_so(tmp_path):
    study = fake_study(tmp_path / "study")
    [note] = arm_of(study, "optimizer=sgd").notes
    assert note == "its best width, 254, lies at the upper bound 256 of its range"
    about = json.loads((study / "study.json").read_text())
    about["arms"]["optimizer=sgd"]["space"]["model.width"]["high"] = 1024
    (study / "study.json").write_text(json.dumps(about))
    assert not arm_of(study, "optimizer=sgd").notes


def test_a_folder_of_runs_by_name(grid, tmp_path):
    (tmp_path / "day").mkdir()
    for seed in range(5):
        (grid / str(seed)).rename(tmp_path / "day" / f"12-00-0{seed}-adam")
    assert arm_of(tmp_path / "day").values == dict(
        zip([(s, 0, 0) for s in range(5)], VALUES["adam"], strict=True)
    )
    assert arm_of(tmp_path / "day" / "12-00-03-adam").values == {(3, 0, 0): 0.955}
    with pytest.raises(ConfigError, match="no run, no sweep and no folder with runs"):
        arm_of(tmp_path)


def test_runs_that_broke(grid):
    for seed, status in enumerate(("diverged", "failed", None), 5):
        with_data(add_run(grid, {"optimizer": "sgd"}, seed, status=status))
    arm = arm_of(grid, "optimizer=sgd")
    assert arm.diverged == {(5, 0, 0)}
    assert len(arm.values) == 6
    assert arm.notes == (
        f"1 run left out as failed ({grid / '11'})",
        f"1 run left out as interrupted ({grid / '12'})",
    )


def test_a_seed_that_has_two_values(grid):
    with_data(add_run(grid, {"optimizer": "sgd"}, 0, value=VALUES["sgd"][0]))  # the same again
    assert len(arm_of(grid, "optimizer=sgd").values) == 5
    with_data(add_run(grid, {"optimizer": "sgd"}, 0, value=0.99))
    with pytest.raises(DataError, match="11: seed 0 of optimizer=sgd again, with another value"):
        arm_of(grid, "optimizer=sgd")


def test_another_metric_of_the_same_runs(grid):
    for path in grid.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        path.write_text(json.dumps(summary | {"metrics": {"val/loss": 0.25, "val/accuracy": 0.5}}))
    arm = arm_of(grid, "optimizer=sgd", "val/loss")
    assert set(arm.values.values()) == {0.25}
    assert arm.notes == ("epochs were chosen by val/accuracy, not by val/loss",)
    with pytest.raises(DataError, match="no val/auroc; it has val/accuracy and val/loss"):
        arm_of(grid, "optimizer=sgd", "val/auroc")


def test_runs_of_several_objectives(grid, tmp_path):
    add_run(grid, {"optimizer": "sgd"}, 8, value=0.3, metric="val/loss", mode="min")
    assert arm_of(grid).notes[-1] == "1 run with another objective, or none, left out"
    (tmp_path / "day").mkdir()
    for name in ("0", "10"):
        (grid / name).rename(tmp_path / "day" / f"run-{name}")
    with pytest.raises(DataError, match="different objectives, val/accuracy and val/loss"):
        arm_of(tmp_path / "day")


@pytest.mark.parametrize("seed", [-1, 2**70, 1.5, True, "x", None, [1]])
def test_a_hostile_record_is_an_arm_or_a_fault(tmp_path, seed):
    sweep = hostile_sweep(tmp_path / "<b>")
    for path in sweep.glob("*/config.json"):
        about = json.loads(path.read_text())
        about["config"]["seed"], about["data"] = seed, {"hash": 3, "rows": ["x", None, -1]}
        path.write_text(json.dumps(about))
    (sweep / "study.json").write_text('{"looks": {}, "runs": [1], "arms": {"a": 3}}')
    for setting in ("", "optimizer.lr=0.001", "optimizer.lr=nan", "model={}", "=", "a.b.c="):
        found = arm_or_fault(sweep, setting)
        assert isinstance(found, dict) or "\n" not in found


def arm_or_fault(folder, setting):
    try:
        return arm_of(folder, setting).values
    except (ConfigError, DataError) as error:
        return str(error)


def test_nothing_ended(tmp_path):
    add_run(tmp_path / "s", {"optimizer": "sgd"}, 0, status="failed")
    with pytest.raises(DataError, match="no run has ended with a value"):
        arm_of(tmp_path / "s")


# ------------------------------------------------------------------ the command
def test_two_settings_of_a_sweep(grid, capsys):
    code, text = said(capsys, "grid:optimizer=sgd", "grid:optimizer=adam")
    assert code == 0
    assert text.splitlines()[0].startswith(
        "optimizer=adam is better than optimizer=sgd by 4.6 points of val/accuracy (95 % interval "
    )
    assert text.splitlines()[0].endswith(", 5 pairs of seeds on this validation split).")
    assert said(capsys, "grid:optimizer=adam", "grid:optimizer=sgd")[0] == 21


def test_a_file_and_a_folder(grid, tmp_path, capsys):
    rows = "".join(f"{seed},0,{v + 0.05 * v}\n" for seed, v in enumerate(VALUES["sgd"]))
    (tmp_path / "new.csv").write_text("seed,split,val/accuracy\n" + rows)
    assert said(capsys, "grid:optimizer=sgd", "new.csv")[0] == 0
    (tmp_path / "bare.csv").write_text("seed,val/accuracy\n0,0.9\n")
    code, text = said(capsys, "grid:optimizer=sgd", "bare.csv")
    assert code == 3
    assert "says on which split each run was judged, bare does not" in text


def test_runs_of_other_data_are_not_compared(grid, tmp_path, capsys):
    for seed in range(5):
        with_data(add_run(tmp_path / "other", {"optimizer": "sgd"}, seed, value=0.5), content="9")
    code, text = said(capsys, "grid", "other")
    assert code == 3
    assert "split 0 of both was judged on other rows" in text


def test_splits_are_units_and_their_sizes_those_of_the_records(tmp_path, capsys):
    for name, gain in (("a", 0.0), ("b", 0.05)):
        for seed in range(5):
            value = 0.5 + seed / 100 + gain * (1 + seed / 50)
            run = add_run(tmp_path / name, {"optimizer": "sgd"}, seed, value=value)
            with_data(run, split=seed, rows=(9000, 1000, 2000))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ratio"] == pytest.approx(1 / 9)
    assert found["candidates"][0]["units"] == "splits"
    assert found["arms"]["a"][3] == {"seed": 3, "split": 3, "fold": 0, "value": 0.53}


def test_looks_of_a_study_are_allowed_for(tmp_path):
    study = fake_study(tmp_path / "study")
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"looks": [5, 10]}))
    assert arm_of(study, "optimizer=adam").looks == (5, 10)
    (study / "study.json").write_text(json.dumps(about | {"looks": ["x"]}))
    assert arm_of(study, "optimizer=adam").looks == ()


def test_json_has_everything(grid, capsys):
    with_data(add_run(grid, {"optimizer": "sgd"}, 5, status="diverged"))
    code, text = said(capsys, "grid:optimizer=adam", "grid:optimizer=sgd", "--json")
    found = json.loads(text)
    assert (code, found["exit_code"], found["verdict"]) == (21, 21, "worse")
    assert found["candidates"][0]["difference"] == pytest.approx(-0.046)
    runs = found["arms"]["optimizer=sgd"]
    assert runs[-1] == {"seed": 5, "split": 0, "fold": 0, "value": None}
    assert found["headline"].startswith("optimizer=sgd is worse")


ROWS = {"a": (1.0, 2, 3, 4, 5), "b": (2.0, 3.5, 3.9, 5, 6), "c": (1.0, 2, 3, 4.1, 4.9)}


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{name},{i},{v}" for name, values in ROWS.items() for i, v in enumerate(values)]
    (tmp_path / "r.csv").write_text("\n".join(["arm,seed,score", *lines]))
    return tmp_path / "r.csv"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["r.csv:a", "r.csv:b", "--mode", "max"], 0, "b is better than a by 1.1 of score"),
        (["r.csv:a", "r.csv:b", "--mode", "min"], 21, "b is worse than a by 1.1 of score"),
        (["r.csv:a", "r.csv:c", "--mode", "max"], 20, "no significant difference between c and a"),
        (["r.csv:a", "r.csv:c", "r.csv:b", "--mode", "max"], 0, "simultaneous over all arms"),
        (["r.csv:a", "r.csv:c", "--mode", "max", "--not-worse", "0.2"], 0, "not worse than a by 0.2"),
        (["r.csv:a", "r.csv:c", "--mode", "max", "--not-worse", "0.01"], 22, "is not worse than a:"),
        (["r.csv:a", "r.csv:c", "--mode", "max", "--detect", "0.2"], 20, "differ by less than 0.2"),
        (["r.csv:a", "r.csv:c", "--mode", "max", "--detect", "0.01"], 22, "about "),
        (["r.csv:a", "r.csv:b"], 2, "--mode: is more score better (max), or less (min)?"),
        (["r.csv:a", "r.csv:a"], 2, "r.csv:a: compared with itself"),
        (["r.csv:a", "./r.csv:a"], 2, "compared with itself"),
        (["r.csv:a", "r.csv:d"], 2, "r.csv: no arm d"),
        (["r.csv:a", "r.csv"], 2, "r.csv: several arms; FILE:ARM with one of a, b and c"),
        (["r.csv:a", "q.csv"], 2, "q.csv: no such file or folder"),
        (["r.csv:a", "x" * 5000], 2, "no such file or folder"),
        (["r.csv:a", "/dev/zero"], 3, "/dev/zero: no regular file"),
        (["r.csv:a", "r.csv:b", "--metric", "scor"], 2, "did you mean score?"),
        (["r.csv:a", "r.csv:b", "--pairs", "9"], 2, "--pairs: only with --gate"),
        (["r {seed}", "s {seed}", "--gate", "--arm", "a"], 2, "--arm: only without --gate"),
        (["r {seed}", "s {seed}", "t {seed}", "--gate"], 2, "--gate: two commands, not 3"),
        (["r.csv:a", "r.csv:b", "--mode", "max", "--json"], 0, '"verdict": "better"'),
    ],
)  # fmt: skip
def test_words_and_exit_codes(file, capsys, words, code, text):
    found = said(capsys, *words)
    assert found[0] == code, found
    assert text in found[1]
    assert code not in (2, 3) or found[1].count("\n") == 1


@pytest.mark.parametrize("option", ["--detect", "--not-worse"])
def test_a_margin_in_points_is_refused(grid, option, capsys):
    """Half a point is 0.005: with 0.5 every candidate would pass."""
    code, text = said(capsys, "grid:optimizer=sgd", "grid:optimizer=adam", option, "0.5")
    assert code == 2
    assert f"{option} 0.5: must be below 0.2; val/accuracy is a share of 1, in which" in text


@pytest.mark.parametrize("margin", ["0", "-1", "nan", "inf", "x"])
def test_a_margin_is_a_number_above_0(file, margin, capsys):
    with pytest.raises(SystemExit) as end:
        main(["r.csv:a", "r.csv:b", f"--not-worse={margin}"])
    assert end.value.code == 2
    assert "must be a number above 0" in capsys.readouterr().err


def test_two_arms_of_one_name_keep_their_words(file, tmp_path, capsys):
    (tmp_path / "s.csv").write_text(file.read_text())
    code, text = said(capsys, "r.csv:a", "s.csv:a", "--mode", "max")
    assert code == 20
    assert "between s.csv:a and r.csv:a" in text


def test_an_arm_of_which_no_run_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.csv").write_text("arm,State,seed,loss\na,finished,0,2\nb,crashed,,\n")
    code, text = said(capsys, "o.csv:a", "o.csv:b")
    assert code == 3
    assert text == "knobs: b: no run with a result; 1 run left out as crashed (line 3)\n"


def test_one_pair_says_too_few(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o.csv").write_text("arm,seed,loss\na,0,2\nb,0,1\n")
    code, text = said(capsys, "o.csv:a", "o.csv:b")
    assert code == 22
    assert text.startswith(
        "too few to say whether b is better than a: difference 1.0, 1 pair of seeds on this "
        "validation split; 5 are the least that decide."
    )


def test_the_exit_code_holds_in_a_shell_script_and_a_closed_pipe(file):
    env = os.environ | {"PYTHONPATH": str(REPO / "src"), "P": sys.executable}
    script = """set -e -o pipefail
if $P -m knobs.compare r.csv:a r.csv:b --mode max > out.txt; then echo kept; fi
code=0; $P -m knobs.compare r.csv:a r.csv:c --mode max | true || code=$?; echo $code
$P -m knobs.compare r.csv:b r.csv:a --mode max > out.txt
echo never"""
    done = subprocess.run(["bash", "-c", script], cwd=file.parent, env=env,
                          capture_output=True, text=True)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (21, "kept\n20\n", "")


def test_the_interval_of_what_is_worse_is_of_how_much_worse(tmp_path, monkeypatch, capsys):
    """The difference lies within its interval, whichever way it is told."""
    monkeypatch.chdir(tmp_path)
    a, b = (0.5, 0.51, 0.52, 0.5, 0.49), (0.4, 0.41, 0.42, 0.41, 0.4)
    rows = [f"{n},{i},{v}" for n, values in (("a", a), ("b", b)) for i, v in enumerate(values)]
    (tmp_path / "r.csv").write_text("\n".join(["arm,seed,val/loss", *rows]))
    gains = [x - y for x, y in zip(a, b, strict=True)]
    reach = t.ppf(0.975, 4) * statistics.stdev(gains) / math.sqrt(5)
    ends = f"{statistics.fmean(gains) - reach:.3f} to {statistics.fmean(gains) + reach:.2f}"
    for words, code, says in ((("a", "b"), 0, "better"), (("b", "a"), 21, "worse")):
        found, text = said(capsys, *(f"r.csv:{word}" for word in words))
        assert found == code
        assert f"{says} than {words[0]} by 0.096 of val/loss (95 % interval {ends}," in text


def test_equal_values_raise_the_question_whether_anything_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{n},{i},{v}" for n in "ab" for i, v in enumerate((0.5, 0.51, 0.52, 0.5, 0.49))]
    (tmp_path / "r.csv").write_text("\n".join(["arm,seed,val/loss", *rows]))
    code, text = said(capsys, "r.csv:a", "r.csv:b")
    assert code == 20
    assert "a and b have the same value in every pair: does what differs take effect?" in text


def test_a_constant_difference_is_told_as_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{n},{i},{i + (n == 'b') / 2}" for n in "ab" for i in range(5)]
    (tmp_path / "r.csv").write_text("\n".join(["arm,seed,val/loss", *rows]))
    code, text = said(capsys, "r.csv:a", "r.csv:b")
    assert (code, "same value" in text) == (21, False)
    assert "a and b differ by the same amount in every pair, so that nothing tells how far" in text


def test_percentages_have_the_verdict_of_the_same_shares(tmp_path, monkeypatch, capsys):
    """The split's own error is in both: of 360 examples it is larger than this lead."""
    monkeypatch.chdir(tmp_path)
    a = [0.950, 0.955, 0.960, 0.945, 0.950, 0.955]
    for name, unit in (("share", 1), ("percent", 100)):
        rows = [
            f"{arm},{i},{unit * (value + lead + i / 1e4)},{size},1078"
            for arm, lead, size in (("a", 0, 360), ("b", 0.012, ""))
            for i, value in enumerate(a)
        ]
        rows.append("b,9,nan,,")  # a run without a partner
        head = "arm,seed,val/accuracy,validation_examples,training_examples"
        (tmp_path / f"{name}.csv").write_text("\n".join([head, *rows]))
    found = []
    for name in ("share", "percent"):
        assert main([f"{name}.csv:a", f"{name}.csv:b", "--json"]) == 20
        found.append(json.loads(capsys.readouterr().out)["candidates"][0])
    share, percent = found
    for key in ("difference", "low", "high"):
        assert percent[key] == pytest.approx(100 * share[key])
    error = 1 - statistics.fmean(value + i / 1e4 for i, value in enumerate(a))
    assert share["high"] - share["difference"] > 1.96 * math.sqrt(error / 360)
    assert share["more"] == percent["more"]


def test_a_direction_that_is_not_the_usual_one_is_named(file, tmp_path, capsys):
    rows = [f"{n},{i},{v / 10}" for n in "ab" for i, v in enumerate(ROWS[n])]
    (tmp_path / "s.csv").write_text("\n".join(["arm,seed,val/accuracy", *rows]))
    code, text = said(capsys, "s.csv:a", "s.csv:b", "--mode", "min")
    assert (code, "--mode min is taken, though of val/accuracy more is better" in text) == (
        21,
        True,
    )
    assert "is taken" not in said(capsys, "s.csv:a", "s.csv:b", "--mode", "max")[1]


def test_one_validation_split_under_several_seeds_is_one(tmp_path, capsys):
    """An official split: the pairs are seeds, as the report of a study has it."""
    for name, gain in (("a", 0.0), ("b", 0.05)):
        for seed in range(5):
            value = 0.5 + seed / 100 + gain * (1 + seed / 50)
            run = add_run(tmp_path / name, {"data.val_seed": seed}, seed, value=value)
            about = json.loads((run / "config.json").read_text())
            about["data"] = {"rows_hash": {"val": "v", "test": "t"}}
            (run / "config.json").write_text(json.dumps(about))
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["units"] == "seeds"


def test_other_data_show_in_the_test_rows_though_no_seed_is_shared(tmp_path, capsys):
    for name, seeds in (("a", range(5)), ("b", range(5, 10))):
        for seed in seeds:
            run = add_run(tmp_path / name, {"data.val_seed": seed}, seed, value=0.5 + seed / 100)
            about = json.loads((run / "config.json").read_text())
            about["data"] = {"rows_hash": {"val": f"{name}{seed}", "test": name}}
            (run / "config.json").write_text(json.dumps(about))
    code, text = said(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 3
    assert "a and b: of other data, as their test rows tell" in text
