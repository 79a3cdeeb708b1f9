"""The verdict's safeguards: ties, arms that had unequal chances, noise, splits, looks at the test."""

import json
import math
import shlex

import numpy as np
import pytest
from fake_sweeps import add_run, fake_grid
from scipy.stats import t

from knobs.report.analysis import make
from knobs.report.compare import best_first, candidates, measure_noise, undecided
from knobs.report.conclusions import Candidate
from knobs.report.read import read_sweep
from knobs.report.write import write

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


def test_the_study_again_gives_each_arm_runs_enough(tmp_path):
    """Twice 4 runs of two arms would be 4 an arm, and not comparable again."""
    two = ((1e-3, 3e-3), 1)
    report = make([study(tmp_path / "s", {"adam": SIX, "sgd": SIX}, {"adam": two, "sgd": two})])
    assert "search adam longer (2 finished runs)" in report.verdict.headline
    again = next(a for a in report.advice if a.why.startswith("The same study again"))
    assert (again.why, again.command.split()[-1]) == (
        "The same study again, with 10 runs", "search.runs=10",
    )  # fmt: skip


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


def test_settings_that_differ_from_each_other_are_not_called_alike(tmp_path):
    """The first varies too much to differ from any; of the others one beats two."""
    steady = [0.0, 0.001, 0.002, 0.0, 0.001]
    arms = {
        n: [mean + d for d in steady] for n, mean in (("nadam", 0.9), ("sgd", 0.88), ("rms", 0.87))
    }
    arms["adam"] = [0.99, 0.8, 0.99, 0.8, 0.99]
    answer = make([study(tmp_path / "s", arms)]).verdict
    assert answer.headline.startswith(
        "No difference between adam and each of nadam, sgd and rms at this budget ("
    )
    assert (
        "; nadam beats sgd by 2.0 and rms by 3.0 points; sgd beats rms by 1.0 points"
        in answer.headline
    )
    assert answer.winner.name in ("adam", "nadam")  # nothing that another one beats


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


def test_the_last_rule_of_a_tie_is_the_fewest_parameters(tmp_path):
    """Among those as fast as the fastest; older records tell no parameters, and the first stays."""
    values = {"a": SIX[:5], "b": SIX[:5], "c": SIX[:5]}
    sweep = study(tmp_path / "s", values)

    def answer(**parameters):
        for folder in sweep.glob("*/summary.json"):
            name = json.loads((folder.parent / "config.json").read_text())["choices"]["optimizer"]
            summary = json.loads(folder.read_text()) | {"parameters": parameters.get(name)}
            seconds = 2.0 if name == "b" and parameters.get("slow") else 1.25
            folder.write_text(json.dumps(summary | {"seconds": seconds}))
        return make([sweep]).verdict

    assert answer().winner.name == "a"
    assert answer(a=900, b=100).winner.name == "a"  # of c it is not known
    found = answer(a=900, b=100, c=500)
    assert found.winner.name == "b"
    assert "b is recommended: it is the one of fewest parameters." in found.more
    found = answer(a=900, b=100, c=500, slow=True)
    assert found.winner.name == "c"
    text = "c is recommended: it is the one of fewest parameters among those as fast."
    assert text in found.more


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


def test_a_run_with_another_validation_split_has_looked_at_the_same_test_rows(tmp_path):
    """Its data have another hash, as the training rows are others; the test rows are the same."""
    sweep = fake_grid(tmp_path / "outputs" / "sweeps" / "s", seeds=1)
    runs = tmp_path / "outputs" / "runs" / "2026-01-01"
    for test_rows, digest in (("t", "b"), ("t", "c"), ("u", "d")):
        folder = add_run(runs, {"optimizer.lr": 1e-3}, value=0.9, test={"test/accuracy": 0.9})
        on_rows(folder, digest, val_rows="v" + digest, test_rows=test_rows)
    for folder in sweep.iterdir():
        on_rows(folder, "a", val_rows="va", test_rows="t")
    assert read_sweep([sweep]).test_looks == 2
    said = make([sweep]).verdict.more[-1]
    alone = "None of these runs read the test split; by others here its rows were evaluated on"
    assert said == f"{alone} test 2 times."


def on_rows(folder, data_hash, **hashes):
    """Let a run's record tell the rows that it was judged on."""
    rows = {name.removesuffix("_rows"): text for name, text in hashes.items()}
    path = folder / "config.json"
    data = {"hash": data_hash, "rows_hash": rows}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": data}))


def diverged(sweep):
    """Let the runs without a value have diverged."""
    for path in sweep.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        if summary["objective"]["value"] is None:
            path.write_text(json.dumps(summary | {"status": "diverged"}))


@pytest.mark.parametrize(
    ("values", "explored", "fix", "text"),
    [
        ([], ([None] * 5, 0), "narrow c's range (5 of 5 runs diverged or failed)",
         "c: none of its runs finished, 5 of 5 runs diverged or failed."),
        ([None] * 5, None, "narrow c's range (5 of 5 runs with fresh seeds diverged)",
         "c: 5 of 5 runs with fresh seeds diverged, so its best setting is none to choose."),
        ([0.99] * 5 + [None], None, "narrow c's range (1 of 6 runs with fresh seeds diverged)",
         "c: 1 of 6 runs with fresh seeds diverged, so its best setting is none to choose."),
        ([], None, "confirm c by the study's command again",
         "c: 0 runs with fresh seeds ended; 5 are the least."),
        ([0.99], None, "confirm c by the study's command again",
         "c: 1 run with fresh seeds ended; 5 are the least."),
    ],
)  # fmt: skip
def test_no_arm_is_missing_from_the_headline(tmp_path, values, explored, fix, text):
    """Two arms that finished are not all that was asked about."""
    arms = {"a": SIX[:5], "b": [v - 0.05 for v in SIX[:5]], "c": values}
    sweep = study(tmp_path / "s", arms, explored={"c": explored} if explored else None)
    diverged(sweep)
    report = make([sweep])
    assert report.verdict.headline.startswith(f"Not comparable yet: {fix}. So far: ")
    assert text in report.verdict.undermines
    if "confirm" in fix:  # what is asked next is not a look at the test split
        assert not any("test=true" in advice.command for advice in report.advice)


def test_the_same_study_again_is_the_command_that_was_given(tmp_path):
    """With what held an arm back mended, and what was typed beside it: study.folds, data, ..."""
    rates = {"b": ((1e-3, 3e-3, 1e-2), 1)}
    sweep = study(tmp_path / "s", {"a": SIX[:5], "b": SIX[:5]}, explored=rates)
    asked = ["+study=optimizer", "study.folds=5", "optimizer=a,b", "data=wine", "search.runs=8"]
    about = json.loads((sweep / "study.json").read_text())
    (sweep / "study.json").write_text(json.dumps(about | {"asked": [*asked, "sweep=s"]}))
    again = make([sweep]).advice[0]
    assert again.why == "The same study again, with 16 runs"
    assert again.command == f"python train.py -m {shlex.join(asked[:4])} search.runs=16"
    for path in sweep.glob("*/config.json"):  # b was not confirmed: it goes on
        if about["runs"][path.parent.name] == {"arm": "optimizer=b", "role": "confirm", "seed": 5}:
            (path.parent / "summary.json").unlink()
    on = make([sweep]).advice[0]
    assert on.command == f"python train.py -m {shlex.join(asked)} hydra.sweep.dir={sweep}"


def test_fresh_runs_that_diverged_are_not_denied(tmp_path):
    sweep = study(tmp_path / "s", {"a": SIX[:5], "b": [0.9, None, None, None, None]})
    diverged(sweep)
    texts = [finding.text for finding in make([sweep]).findings if finding.check == "failures"]
    assert texts == ["4 of 10 runs with fresh seeds diverged or failed, none of the search."]


def test_an_arm_that_was_beaten_early_is_not_first_by_its_easy_splits(tmp_path):
    """After 5 pairs c is 1 point behind a; the splits that follow are 5 points harder."""
    easy, hard = [0.95, 0.96, 0.95, 0.96, 0.95], [0.90, 0.91, 0.90, 0.91, 0.90]
    a = [*easy, *hard]
    b = [v - 0.001 * (-1) ** i for i, v in enumerate(a)]
    sweep = study(tmp_path / "s", {"a": a, "b": b, "c": [v - 0.01 for v in easy]}, size=4000)
    answer = make([sweep]).verdict
    assert answer.headline.startswith("No difference between a and b at this budget")
    assert "a beats c by 1.0 points" in answer.headline
    beside = {c.other.name: c for c in answer.comparisons}
    assert (beside["c"].relation, beside["c"].paired.n) == ("beaten", 5)
    assert beside["c"].paired.mean == pytest.approx(0.01, abs=1e-12)
    assert {c.name for c in undecided(read_sweep([sweep]))} == {"a", "b"}


def test_unequal_repeats_are_ordered_by_least_squares(tmp_path):
    """The order of the effects that statsmodels and R's lm give: value ~ arm + repeat."""
    rng = np.random.default_rng(0)
    effects, splits = {"a": 0.0, "b": 0.004, "c": -0.003}, np.sort(rng.normal(0, 0.03, 12))
    many = {"a": range(12), "b": range(5), "c": range(3, 9)}
    values = {n: {(0, s, 0): 0.9 + effects[n] + splits[s] for s in many[n]} for n in many}
    every = [Candidate(name, of, ()) for name, of in values.items()]
    grid = read_sweep([fake_grid(tmp_path / "s", seeds=1)])
    assert [c.name for c in best_first(grid, every)] == ["b", "a", "c"]
    assert min(every, key=lambda c: c.mean).name == "b"  # of the hardest splits


def test_an_extended_study_stands_on_the_setting_that_it_found_later(tmp_path):
    """More runs found a better rate; both were confirmed with the same seeds."""
    sweep = study(tmp_path / "s", {"a": SIX[:5], "b": [v - 0.05 for v in SIX[:5]]})
    about = json.loads((sweep / "study.json").read_text())
    knobs = {"optimizer": "a", "optimizer.lr": 4e-3}
    later = [add_run(sweep, knobs, 0, value=0.93)]
    later += [
        add_run(sweep, knobs | {"data.val_seed": s}, s, value=v - 0.02)
        for s, v in enumerate(SIX[:5], 1)
    ]
    for run in later:
        role = "search" if run is later[0] else "confirm"
        about["runs"][run.name] = {"arm": "optimizer=a", "role": role}
    (sweep / "study.json").write_text(json.dumps(about))
    report = make([sweep])
    assert report.verdict.winner.mean == pytest.approx(np.mean(SIX[:5]) - 0.02)
    assert "with lr=0.004." in report.verdict.more[0]
    assert "optimizer.lr=0.004" in report.advice[-1].command
    assert "test=true" in report.advice[-1].command
    assert "optimizer.lr=0.004" in report.recipe.command


def test_equal_values_are_told_as_such_and_no_detectable_difference_is_made_up(tmp_path):
    values = SIX[:5]
    answer = make([study(tmp_path / "s", {"a": values, "b": values}, size=400)]).verdict
    assert answer.headline == (
        "No difference between a and b at this budget (the same values over 5 validation splits)."
    )
    assert not any(text.startswith("This comparison could") for text in answer.more)
    pair = answer.comparisons[0].paired  # one example of 5 x 400 is what they could differ by
    reach = t.ppf(0.975, 4) * math.sqrt(1 / 5 / 400**2 * (1 / 5 + 1 / 4))
    assert (pair.low, pair.high) == pytest.approx((-reach, reach), rel=1e-9)


def test_values_that_no_seed_changes_are_one_observation(tmp_path):
    """Of a loss; of an accuracy the size of the split says how far it could have been another."""
    sweep = tmp_path / "s"
    for lr, value in ((1e-3, 0.5), (1e-2, 0.4)):
        for seed in range(6):
            add_run(sweep, {"optimizer.lr": lr}, seed, value=value, metric="val/loss", mode="min")
    answer = make([sweep]).verdict
    assert answer.comparisons[0].relation == "unknown"
    assert answer.comparisons[0].paired.low is None
    assert answer.headline.endswith(
        "behind is lr=0.001 by 0.10, but every run of each has one value, which is one observation."
    )


def test_runs_of_other_data_get_no_verdict(tmp_path):
    """The same settings and seeds in two sweeps, but other rows: no mean of both, no winner."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, rows in zip(folders, "xy", strict=True):
        for run in fake_grid(folder, seeds=5).iterdir():
            on_rows(run, rows, val_rows=rows, test_rows=rows)
    assert make(folders[:1]).verdict.winner is not None
    report = make(folders)
    assert report.verdict.headline.startswith("No verdict: these runs were judged on different ro")
    assert report.verdict.winner is None
    assert not report.advice
    write(report, tmp_path / "out")  # every rendering copes
    assert "No verdict" in (tmp_path / "out" / "report.html").read_text()


def test_two_seeds_of_the_test_split_make_two_validation_splits(tmp_path):
    """With one data.val_seed their repeats have one name, but other rows: both count."""
    sweep = tmp_path / "s"
    for lr, gain in ((1e-3, 0.0), (1e-2, 0.01)):
        for split in (0, 1, 2):
            knobs = {"optimizer.lr": lr, "data.split_seed": split, "data.val_seed": 3}
            run = add_run(sweep, knobs, 0, value=0.9 + gain + split / 100)
            on_rows(run, f"d{split}", val_rows=f"v{split}", test_rows=f"t{split}")
    pair = make([sweep]).verdict.comparisons[0].paired
    assert (pair.n, pair.splits) == (3, True)
    assert pair.differences == pytest.approx([0.01] * 3)


@pytest.mark.parametrize(
    ("sizes", "known"), [((47, 48), 47), ((1000, 1015), 1000), ((47, 50), None)]
)
def test_small_folds_that_differ_by_a_row_have_one_size(tmp_path, sizes, known):
    """Without it the noise was unknown, and a setting far below the best was one to confirm."""
    for rate, value in ((1e-3, 0.9), (1e-5, 0.3)):
        for fold, size in enumerate(sizes):
            knobs = {"optimizer.lr": rate, "data.folds": 2, "data.fold": fold}
            run = add_run(tmp_path / "s", knobs, value=value)
            summary = json.loads((run / "summary.json").read_text())
            (run / "summary.json").write_text(json.dumps(summary | {"validation_examples": size}))
    report = make([tmp_path / "s"])
    assert report.verdict.noise.size == known
    if known:
        assert report.verdict.noise.floor == pytest.approx((0.1 / (2 * known)) ** 0.5)
        assert "lr=1e-05" not in report.advice[0].why


@pytest.mark.parametrize("order", [1, -1])
def test_a_repeat_with_two_values_counts_by_their_mean(tmp_path, order):
    """Of two machines' folders neither has the last word, and the leaderboard agrees."""
    for name, lead in (("one", 0.0), ("two", 0.02)):
        for seed in range(5):
            add_run(tmp_path / name, {"optimizer": "adam"}, seed, value=0.9 + lead + seed / 1000)
    sweep = read_sweep([tmp_path / "one", tmp_path / "two"][::order])
    [winner] = candidates(sweep)
    assert winner.values == {(s, 0, 0): pytest.approx(0.91 + s / 1000) for s in range(5)}
    assert winner.mean == pytest.approx(sweep.entries[0].mean)
