"""Effects weighed by other tasks: by hand, and where these are wrong."""

import numpy as np
import pytest

from knobs.report.importance.effects import importance
from knobs.report.importance.others import SPREAD, weighed
from knobs.report.records import Knob
from knobs.search.effects import Others

LOW, HIGH = -2.0, 1.0  # log odds


def known(**odds):
    share = {name: 1 / (1 + np.exp(-middle)) for name, (middle, _) in odds.items()}
    return Others(odds, share, 9)


def drawn(middles, spread=1.0, resamples=400):
    odds = np.array(middles) + spread * np.random.default_rng(0).standard_normal(
        (resamples, len(middles))
    )
    return 1 / (1 + np.exp(-odds))


def logits(shares):
    return np.log(shares / (1 - shares))


def test_what_is_known_and_what_is_seen_are_weighed_by_their_precision():
    sd = 0.5
    both = (SPREAD**2 + sd**2) ** 0.5  # as has what was drawn: half the way
    others = known(a=(HIGH, sd), b=(LOW, sd), c=(LOW, sd))
    found, weight = weighed(drawn([0.0, LOW, LOW], both), ["a", "b", "c"], others)
    assert 0.1 < weight < 0.9
    moved = logits(found)[(np.arange(1, 401) * 0.6180339887498949) % 1 < weight]
    assert moved.mean(0) == pytest.approx([HIGH / 2, LOW, LOW], abs=0.2)
    assert moved.std(0) == pytest.approx([both * 0.5**0.5] * 3, abs=0.15)


def test_many_runs_leave_little_to_other_tasks():
    others = known(a=(HIGH, 0.5), b=(LOW, 0.5))
    seen = drawn([HIGH - 0.5, LOW + 0.5], spread=0.05)
    found, _ = weighed(seen, ["a", "b"], others)
    assert logits(found).mean(0) == pytest.approx(logits(seen).mean(0), abs=0.02)


def test_other_tasks_that_are_wrong_do_not_count():
    others = known(a=(HIGH, 0.3), b=(-4.0, 0.3), c=(-4.0, 0.3))
    seen = drawn([-4.0, HIGH, -4.0], spread=0.3)
    found, weight = weighed(seen, ["a", "b", "c"], others)
    assert weight < 0.01
    assert np.array_equal(found, seen)


def test_knobs_that_are_not_known_stay_as_they_are():
    others = known(a=(HIGH, 0.3), b=(LOW, 0.3))
    seen = drawn([0.0, 0.0, 0.0])
    found, _ = weighed(seen, ["a", "own", "b"], others)
    assert np.array_equal(found[:, 1], seen[:, 1])
    assert not np.array_equal(found, seen)
    same, weight = weighed(seen, ["x", "y", "b"], others)
    assert weight == 0
    assert same is seen


def test_the_answer_of_few_runs_leans_on_other_tasks_and_says_so():
    rng = np.random.default_rng(1)
    x = rng.random((12, 3))
    y = x @ [1.0, 0.8, 0.0] + 0.3 * rng.standard_normal(12)
    rows = [dict(zip("abc", map(float, row), strict=True)) for row in x]
    knobs = [Knob(name, 0.0, 1.0) for name in "abc"]
    alone = importance(knobs, rows, y.tolist(), "max")
    assert (alone.others, alone.tasks, alone.weight) == ({}, 0, 0.0)
    others = known(a=(1.0, 0.4), b=(-0.5, 0.4), c=(-5.0, 0.4))
    found = importance(knobs, rows, y.tolist(), "max", others=others)
    assert found.tasks == 9
    assert found.weight > 0.1
    assert found.others == others.share

    def value(answer, name):
        return next(knob.moves.value for knob in answer.knobs if knob.name == name)

    assert value(found, "a") > value(alone, "a")
    assert value(found, "c") < value(alone, "c")
    assert importance(knobs, rows, y.tolist(), "max", others=known(q=(0.0, 1.0))) == alone
