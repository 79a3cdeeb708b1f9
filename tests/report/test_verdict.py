"""The verdict's safeguards: ties, arms that had unequal chances, noise, splits, looks at the test."""

import json

import pytest
from fake_sweeps import add_run, fake_grid

from knobs.report.analysis import make
from knobs.report.compare import measure_noise, undecided
from knobs.report.read import read_sweep

SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
RATES = (2e-4, 1e-3, 3e-3, 1e-2, 5e-2)
SIX = [0.90, 0.91, 0.92, 0.90, 0.91]


def study(sweep, confirmed, explored=None, splits=True, size=None, usual="", **more):
    """Arm -> values of its confirming runs: a study's folder, whose arms were searched well.

    Args:
        explored: arm -> (rates, index of the best), else RATES with the best in the middle.
        more: of the confirming runs, as add_run takes it.
    """
    runs, number = {}, 0
    for name, values in confirmed.items():
        rates, best = (explored or {}).get(name, (RATES, 2))
        for i, rate in enumerate(rates):
            value = None if rate is None else 0.9 - abs(i - best) / 10
            status = "finished" if value is not None else "diverged"
            knobs = {"optimizer": name, "optimizer.lr": rate or 0.09 + i / 1e4}
            add_run(sweep, knobs, 0, value=value, status=status)
            runs[str(number)] = {"arm": f"optimizer={name}", "role": "search"}
            number += 1
        for seed, value in enumerate(values, 1):
            knobs = {"optimizer": name, "optimizer.lr": rates[best]}
            knobs |= {"data.val_seed": seed} if splits else {}
            run = add_run(sweep, knobs, seed, value=value, **more)
            if size:
                summary = json.loads((run / "summary.json").read_text())
                summary |= {"validation_examples": size, "training_examples": 4 * size}
                (run / "summary.json").write_text(json.dumps(summary))
            runs[str(number)] = {"arm": f"optimizer={name}", "role": "confirm", "seed": seed}
            number += 1
    arms = {f"optimizer={n}": {"overrides": [f"optimizer={n}"], "space": SPACE} for n in confirmed}
    about = {"study": "optimizer", "scientific": ["optimizer"], "arms": arms, "runs": runs}
    (sweep / "study.json").write_text(json.dumps(about | {"usual": usual and f"optimizer={usual}"}))
    return sweep


def test_a_rival_at_a_bound_of_its_own_range_makes_a_study_not_comparable(tmp_path):
    low = ((1e-4, 3e-4, 1e-3, 1e-2, 5e-2), 0)
    values = {"sgd": [0.95, 0.96, 0.95, 0.96, 0.95], "adam": SIX}
    report = make([study(tmp_path / "s", values, {"adam": low})])
    answer = report.verdict
    assert answer.headline.startswith(
        "Not comparable yet: widen adam's range (best at its lower bound 0.0001). So far: sgd is"
    )
    assert any(text.startswith("adam: its best lr, 0.0001, lies") for text in answer.undermines)
    assert not any("No best value lies" in finding.text for finding in report.findings)
    again = next(a for a in report.advice if a.why.startswith("The same study again"))
    assert "+study=optimizer" in again.command
    assert "optimizer=sgd,adam" in again.command
    assert "'optimizer.lr=tag(log,interval(1e-05,0.1))'" in again.command


def test_an_arm_whose_runs_fail_or_are_few_is_named(tmp_path):
    broken = ((3e-4, 1e-3, 3e-3, None, None, None, None), 1)
    report = make([study(tmp_path / "s", {"adam": SIX, "sgd": SIX}, {"sgd": broken})])
    assert "narrow sgd's range (4 of 12 runs diverged or failed)" in report.verdict.headline
    assert "search sgd longer (3 finished runs)" in report.verdict.headline
    few = ((1e-3, 3e-3, 1e-2), 1)
    report = make([study(tmp_path / "t", {"adam": SIX, "sgd": SIX}, {"sgd": few})])
    assert report.verdict.headline.startswith(
        "Not comparable yet: search sgd longer (3 finished runs). So far: "
    )


def test_an_arm_that_still_improves_is_trained_longer_with_the_others(tmp_path):
    report = make([study(tmp_path / "s", {"adam": SIX, "sgd": SIX}, best=20)])
    assert report.verdict.headline.startswith("Not comparable yet: train adam and sgd longer (")
    again = next(a for a in report.advice if a.why.startswith("The same study again"))
    assert again.command.split()[-2:] == ["training.epochs=40", "search.runs=10"]
    falling = make([study(tmp_path / "t", {"adam": SIX, "sgd": SIX}, best=20, lr_ends=0.01)])
    assert "Not comparable" not in falling.verdict.headline


def test_where_every_arm_is_within_its_range_the_check_speaks_of_all(tmp_path):
    report = make([study(tmp_path / "s", {"adam": SIX, "sgd": SIX, "nadam": SIX})])
    texts = [finding.text for finding in report.findings if finding.check == "boundary"]
    assert texts == ["No best value lies at a bound in any of 3 arms."]


def test_a_tie_is_told_as_one_and_the_default_recommended(tmp_path):
    tied = [0.9744] * 5
    report = make(
        [study(tmp_path / "s", {n: tied for n in ("momentum", "nadam", "adam")}, usual="adam")]
    )
    answer = report.verdict
    assert answer.headline.startswith(
        "No difference between momentum, nadam and adam at this budget"
    )
    assert "over 5 validation splits" in answer.headline
    assert answer.winner.name == "adam"
    assert "adam is recommended: it is the default." in answer.more
    assert {c.other.name for c in answer.comparisons} == {"momentum", "nadam"}
    assert "optimizer=adam" in report.recipe.command
    assert "optimizer=adam" in report.advice[-1].command
    assert report.advice[-1].command.endswith("test=true")


def test_of_a_tie_without_the_default_the_fastest_is_recommended(tmp_path):
    names = ("a", "b", "c", "d", "e")
    sweep = study(tmp_path / "s", {n: [0.9744] * 5 for n in names})
    for folder in sweep.glob("[0-9]*"):
        if json.loads((folder / "config.json").read_text())["choices"]["optimizer"] == "c":
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps(summary | {"seconds": 0.5}))
    answer = make([sweep]).verdict
    assert answer.headline.startswith("No difference between 5 optimizers at this budget")
    assert answer.winner.name == "c"
    assert "c is recommended: it is the fastest of them." in answer.more


def test_splits_that_hold_out_the_same_rows_are_one(tmp_path):
    """An official validation split does not change with data.val_seed: the record's hash tells."""
    values = {"adam": [0.95, 0.96, 0.95, 0.96, 0.95], "sgd": [0.90, 0.91, 0.90, 0.91, 0.91]}
    sweep = study(tmp_path / "s", values)
    assert make([sweep]).verdict.comparisons[0].paired.splits
    assert "over 5 validation splits" in make([sweep]).verdict.headline
    for path in sweep.glob("*/config.json"):
        about = json.loads(path.read_text()) | {"data": {"hash": "f" * 32}}
        path.write_text(json.dumps(about))
    answer = make([sweep]).verdict
    assert not answer.comparisons[0].paired.splits
    assert "on this validation split" in answer.headline
    assert any(text.startswith("One validation split only") for text in answer.undermines)


def test_the_ratio_of_the_records_widens_the_interval(tmp_path):
    values = {"adam": [0.95, 0.96, 0.95, 0.97, 0.95], "sgd": [0.90, 0.91, 0.92, 0.91, 0.91]}
    small = make([study(tmp_path / "s", values, size=1000)]).verdict.comparisons[0].paired
    sweep = study(tmp_path / "t", values, size=1000)
    for path in sweep.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        if summary.get("training_examples"):
            path.write_text(json.dumps(summary | {"training_examples": 1000}))
    large = make([sweep]).verdict.comparisons[0].paired
    assert (large.high - large.low) / (small.high - small.low) == pytest.approx(
        ((1 / 5 + 1) / (1 / 5 + 1 / 4)) ** 0.5, rel=1e-9
    )


def test_what_is_not_decided_goes_on_and_what_is_beaten_does_not(tmp_path):
    values = {"adam": SIX, "nadam": SIX, "sgd": [0.5, 0.51, 0.5, 0.5, 0.51]}
    sweep = read_sweep([study(tmp_path / "s", values)])
    assert {candidate.name for candidate in undecided(sweep)} == {"adam", "nadam"}
    apart = {"adam": SIX, "sgd": values["sgd"]}
    assert undecided(read_sweep([study(tmp_path / "t", apart)])) == []


def test_noise_is_measured_among_comparable_settings_alone(tmp_path):
    for i, lr in enumerate((1e-3, 2e-3, 4e-3)):
        for seed in range(3):
            value = 0.95 + 0.002 * seed - 0.001 * i
            add_run(tmp_path / "s", {"optimizer.lr": lr}, seed, value=value)
    for seed, value in enumerate((0.1, 0.5, 0.3)):
        add_run(tmp_path / "s", {"optimizer.lr": 9.0}, seed, value=value)
    assert measure_noise(read_sweep([tmp_path / "s"])).seeds == pytest.approx(0.002, rel=1e-6)
    for seed in range(3):
        add_run(tmp_path / "t", {"optimizer.lr": 1e-3}, seed, value=0.9 + seed / 100)
        add_run(tmp_path / "t", {"optimizer.lr": 1e-2}, seed, value=0.9 - seed / 100)
    assert measure_noise(read_sweep([tmp_path / "t"])).seeds is None  # two settings are few


def test_nobody_is_told_to_confirm_what_a_constant_reaches(tmp_path):
    for lr, value in ((1e-3, 0.13), (1e-2, 0.12)):
        run = add_run(tmp_path / "s", {"optimizer.lr": lr}, value=value)
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"baselines": {"constant": 0.13}}))
    report = make([tmp_path / "s"])
    assert not any(advice.why.startswith("Confirm") for advice in report.advice)
    assert not any(finding.do.startswith("Repeat") for finding in report.findings)


def test_looks_at_the_test_split_are_counted_below_the_output_root(tmp_path):
    sweep = fake_grid(tmp_path / "outputs" / "sweeps" / "s", seeds=1)
    runs = tmp_path / "outputs" / "runs" / "2026-01-01"
    for i, digest in enumerate(("a" * 32, "a" * 32, "b" * 32)):
        add_run(runs, {"optimizer.lr": 1e-3 + i}, value=0.9, test={"test/accuracy": 0.9})
        path = runs / str(i) / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"hash": digest}}))
    assert read_sweep([sweep]).test_looks == 0  # older records name no data
    for path in sweep.glob("*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"hash": "a" * 32}}))
    assert read_sweep([sweep]).test_looks == 2
    assert "evaluated on test 2 times" in " ".join(make([sweep]).verdict.more)
