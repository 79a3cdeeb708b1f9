"""The health of a search: over the default, of any knob, of the model behind the importance."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from fake_sweeps import _asked, add_run, fake_search, fake_study

from knobs.report.analysis import make, plain
from knobs.report.importance.effects import UNKNOWN
from knobs.report.markdown import markdown
from knobs.report.page import page
from knobs.report.plots.sections import sections as plots
from knobs.report.sections import sections
from knobs.report.sentences import cells, decided, spent


def found(folder, check):
    return [f for f in make([folder]).findings if f.check == check]


def test_what_beats_the_default_is_said_with_its_interval(tmp_path):
    [finding] = found(fake_study(tmp_path / "s"), "over the default")
    assert finding.level == "ok"
    assert finding.text.startswith("The best setting is ")
    assert "5 pairs)" in finding.text


def noise_search(folder, effect, default=None, n=32):
    """A search over two knobs of which the first has an effect, with noise of sd .01."""
    rng, runs = np.random.default_rng(0), {}
    for number in range(n):
        lr, drop = (1e-3, 0.0) if number == 0 else (float(10 ** rng.uniform(-4, -1)), rng.random())
        value = 0.8 + effect * (np.log10(lr) + 2.5) / 3 + 0.01 * rng.standard_normal()
        value = default if number == 0 and default else float(value)
        add_run(folder, {"optimizer.lr": lr, "regularization.dropout": float(drop)}, 0, value=value)
        runs[str(number)] = {"arm": "", "role": "search" if number else "default"}
    space = {
        "optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "regularization.dropout": {"low": 0.0, "high": 1.0, "log": False},
    }
    return _asked(folder, "search", "", [], {"": {"overrides": [], "space": space}}, runs)


def test_models_that_disagree_are_named_and_one_knob_has_no_share(tmp_path):
    report = make([noise_search(tmp_path / "s", 0.1)])
    apart = replace(report.importance, decided="no", more=0)
    assert decided(replace(report, importance=apart)).endswith(
        "is not decided: the Gaussian process and the random forest disagree."
    )
    first, other = report.importance.knobs
    alone = (replace(first, moves=None, p_top=0.0), replace(other, moves=UNKNOWN))
    one = replace(report, importance=replace(report.importance, knobs=alone, decided="no"))
    assert decided(one) == "lr is the only knob that varied."
    assert cells(one, alone[0])[1] == "-"
    shown = plain(report)["importance"]
    assert set(shown["forest"]) == {"optimizer.lr", "regularization.dropout"}
    assert shown["predicts"] == report.importance.predicts
    assert shown["any_effect"] == 1 / 1000


def test_nothing_beat_the_default_is_said(tmp_path):
    [finding] = found(noise_search(tmp_path / "s", 0.1, default=0.99), "over the default")
    assert (finding.level, finding.text) == (
        "note",
        "Nothing beat the default: 31 other runs, one run of it.",
    )
    [finding] = found(fake_search(tmp_path / "t", n=24), "over the default")
    assert finding.text.endswith("chosen as the best, so less is to be expected.")


@pytest.mark.parametrize(("effect", "level"), [(0.1, "ok"), (0.0, "note")])
def test_an_effect_is_told_from_noise(tmp_path, effect, level):
    folder = noise_search(tmp_path / "s", effect)
    [finding] = found(folder, "any effect")
    assert finding.level == level
    assert "a permutation test on 32 settings" in finding.text


def test_the_prediction_of_left_out_settings_stands_beside_the_importance(tmp_path):
    folder = noise_search(tmp_path / "s", 0.1)
    report = make([folder])
    [finding] = [f for f in report.findings if f.check == "prediction"]
    assert finding.level == "ok"
    assert 0.7 < report.importance.predicts < 1  # noise of sd .01 beside an effect of sd .03
    [section] = [s for s in sections(report) if s.name == "importance"]
    assert any(text.startswith("The model behind this predicts settings") for text in section.texts)
    [noise] = found(noise_search(tmp_path / "t", 0.0), "prediction")
    assert noise.level == "note"


def test_a_search_that_was_ended_early_says_why_everywhere(tmp_path):
    folder = noise_search(tmp_path / "s", 0.1, n=12)
    study = json.loads((folder / "study.json").read_text())
    stop = {"gain": 0.001, "noise": 0.004, "runs": 12, "saved": 28, "budget": 40, "unit": "runs"}
    (folder / "study.json").write_text(json.dumps(study | {"budget": 40, "stops": {"": stop}}))
    report = make([folder])
    [finding] = [f for f in report.findings if f.check == "further runs"]
    assert finding.level == "note"
    assert finding.text == (
        "The search was stopped after 12 runs, 28 saved: a further run is expected to gain 0.1 "
        "points where it promises most, less than the noise of the validation split, 0.4 points."
    )
    assert "12 runs to search (28 saved)" in spent(report.sweep)
    assert plain(report)["stops"] == {"": {"runs": 12, "gain": 0.001, "noise": 0.004, "saved": 28}}
    assert "12 runs to search (28 saved)" in plain(report)["spent"]
    assert finding.text in markdown(report)
    assert finding.text in page(report)
    for damaged in ({"": 3}, {"": stop | {"gain": "x"}}, {"": stop | {"noise": -1}}, []):
        (folder / "study.json").write_text(json.dumps(study | {"stops": damaged}))
        assert plain(make([folder]))["stops"] == {}


def test_an_arm_that_was_ended_early_had_its_chance(tmp_path):
    folder = fake_study(tmp_path / "s", ("adam", "nadam"), n=6)
    study = json.loads((folder / "study.json").read_text()) | {"budget": 40}
    (folder / "study.json").write_text(json.dumps(study))
    assert "search adam longer" in make([folder]).verdict.headline
    stops = {arm: {"gain": 0.001, "noise": 0.004, "runs": 6, "saved": 34} for arm in study["arms"]}
    (folder / "study.json").write_text(json.dumps(study | {"stops": stops}))
    report = make([folder])
    assert "longer" not in report.verdict.headline
    texts = [f.text for f in report.findings if f.check == "further runs"]
    assert [text.partition(" was")[0] for text in texts] == [
        "adam: its search",
        "nadam: its search",
    ]


def test_what_a_further_run_would_bring_is_said_of_a_search_that_was_not_ended(tmp_path):
    folder = noise_search(tmp_path / "s", 0.1)
    assert found(folder, "further runs") == []  # no record tells the noise of the split
    for summary in folder.glob("*/summary.json"):
        about = json.loads(summary.read_text()) | {"validation_examples": 10_000}
        summary.write_text(json.dumps(about))
    [finding] = found(folder, "further runs")
    assert finding.level == "ok"
    assert finding.text.endswith("no less than the noise of the validation split, 0.3 points.")


def started(folder, scores, **more):
    """A search of 32 runs, with what a prior expects of them."""
    sweep = noise_search(folder, 0.1)
    about = json.loads((sweep / "study.json").read_text())
    about["prior"] = {"tasks": 53, "scores": scores(about["runs"])} | more
    (sweep / "study.json").write_text(json.dumps(about))
    return sweep


def lr_of(sweep, number):
    return json.loads((sweep / number / "config.json").read_text())["config"]["optimizer"]["lr"]


def test_what_a_search_started_from_is_said_and_shown(tmp_path):
    noise_search(tmp_path / "a", 0.1)
    good = {str(n): -np.log10(lr_of(tmp_path / "a", str(n))) - 2.5 for n in range(32)}
    report = make([started(tmp_path / "s", lambda runs: good)])
    [finding] = [f for f in report.findings if f.check == "prior"]
    words = r"Started from what 53 other tasks liked; Kendall's tau of what these expect with 32 "
    assert re.fullmatch(words + r"runs here is 0\.[6-9]\d?\.", finding.text)
    assert finding.level == "ok"
    [section] = [s for s in plots(report) if s.name == "prior"]
    points = section.figures[0].data[0]
    assert points["x"] == pytest.approx([good[str(n)] for n in range(32)], rel=1e-3, abs=1e-3)
    assert points["y"] == pytest.approx([run.value for run in report.sweep.runs], rel=1e-3)


def test_runs_that_speak_against_the_prior_are_said_to(tmp_path):
    noise_search(tmp_path / "a", 0.1)
    bad = {str(n): np.log10(lr_of(tmp_path / "a", str(n))) for n in range(32)}
    [finding] = found(started(tmp_path / "s", lambda runs: bad, sweeps=["x", "y"]), "prior")
    assert finding.level == "note"
    assert finding.text.startswith("Started from what 2 earlier sweeps liked; Kendall's")
    assert finding.text.endswith(": these runs speak against it, and its weight falls.")


@pytest.mark.parametrize("scores", [None, [1], {"x": 1.0}, {"0": "a"}, {"9" * 30: 1.0}])
def test_a_prior_that_is_malformed_is_left_out(tmp_path, scores):
    assert found(started(tmp_path / "s", lambda runs: scores, tasks="many"), "prior") == []
