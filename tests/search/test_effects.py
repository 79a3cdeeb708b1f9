"""Effects of knobs on other tasks: against closed forms."""

import numpy as np
import pytest

from knobs.search.coordinates import NAMES
from knobs.search.effects import total_effects
from knobs.search.prior import learned
from knobs.search.space import Choice, Range

LR, DROP = Range(1e-5, 1e-1, True), Range(0.05, 0.5, False)


class Known:
    """Tasks whose scores are known functions of the coordinates."""

    def __init__(self, *functions):
        self.functions_ = functions

    def functions(self, points, kind):
        at = dict(zip(NAMES, points.T, strict=True))
        return np.stack([f(at["lr"], at["dropout"]) for f in self.functions_], 1)

    def weights(self, kind, task):
        own = np.arange(len(self.functions_)) == 0
        return np.where(own, 0.75, 0.25) if task == "regression" else np.full(len(own), 0.5)


def test_total_effects_are_those_of_the_functions():
    # lr + dropout / 2: shares 4/5 and 1/5; lr times dropout, centred: all of it is an interaction
    prior = Known(lambda a, b: a + b / 2, lambda a, b: (a - 0.5) * (b - 0.5))
    found = total_effects(
        {"optimizer.lr": LR, "regularization.dropout": DROP}, {"model": "mlp"}, prior
    )
    assert found["optimizer.lr"] == pytest.approx((0.8 + 1) / 2, abs=0.05)
    assert found["regularization.dropout"] == pytest.approx((0.2 + 1) / 2, abs=0.05)
    about = {"model": "mlp", "data.task": "regression"}  # by which the first counts three times
    found = total_effects({"optimizer.lr": LR, "regularization.dropout": DROP}, about, prior)
    assert found["regularization.dropout"] == pytest.approx(0.75 * 0.2 + 0.25, abs=0.05)


def test_a_prior_that_knows_one_knob_tells_nothing():
    knobs = {"optimizer.lr": LR, "mylab.temperature": DROP}
    assert total_effects(knobs, {"model": "mlp"}, learned()) == {}


def test_a_knob_that_is_searched_elsewhere_is_not_known():
    knobs = {
        "optimizer.lr": LR,
        "regularization.dropout": DROP,
        "model.width": Range(16, 2048, True),
    }
    prior = Known(lambda a, b: a + b, lambda a, b: a)
    for context in ({"model": "mlp"}, {"model": "mlp", "optimizer.lr": 1e-3}):
        assert total_effects(knobs, context, prior).keys() == {
            "optimizer.lr", "regularization.dropout"
        }  # fmt: skip
    knobs["model.width"] = Range(16, 128, True)  # the tasks' own
    assert "model.width" in total_effects(knobs, {"model": "mlp"}, prior)
    knobs["activation"] = Choice(("relu", "softsign", "hardtanh"))
    assert "activation" not in total_effects(knobs, {"model": "mlp"}, prior)


def test_the_learned_prior_has_the_learning_rate_first():
    knobs = {
        "optimizer.lr": LR,
        "regularization.dropout": DROP,
        "activation": Choice(("relu", "tanh")),
    }
    found = total_effects(knobs, {"model": "mlp", "optimizer": "adam"}, learned())
    assert max(found, key=found.get) == "optimizer.lr"
    assert total_effects(knobs, {"model": "mlp", "optimizer": "adam"}, learned()) == found
