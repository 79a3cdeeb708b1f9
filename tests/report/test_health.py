"""The health of a search: over the default, of any knob, of the model behind the importance."""

from dataclasses import replace

import numpy as np
import pytest
from fake_sweeps import _asked, add_run, fake_search, fake_study

from knobs.report.analysis import make, plain
from knobs.report.importance.effects import UNKNOWN
from knobs.report.sections import sections
from knobs.report.sentences import cells, decided


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
