"""Metrics against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from sklearn.dummy import DummyClassifier, DummyRegressor

from knobs import build
from knobs.config import command
from knobs.training import metrics
from knobs.training.metrics import constant_baseline


def test_classification_against_scikit_learn():
    torch.manual_seed(0)
    outputs, y = torch.randn(200, 5), torch.randint(4, (200,))
    [values] = metrics.evaluation("classification", outputs[None], y, 1.0)
    guess = outputs.argmax(1)
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    assert values["f1"] == pytest.approx(reference.f1_score(y, guess, average="macro"), rel=1e-5)
    loss = reference.log_loss(y, outputs.double().softmax(1), labels=range(5))
    assert values["loss"] == pytest.approx(loss, rel=1e-5)


def test_regression_against_scikit_learn():
    torch.manual_seed(0)
    outputs, y = torch.randn(100, 1), torch.randn(100)
    [values] = metrics.evaluation("regression", outputs[None], y, target_std=10.0)
    guess = outputs.squeeze(1)
    assert values["r2"] == pytest.approx(reference.r2_score(y, guess), rel=1e-5)
    assert values["loss"] == pytest.approx(reference.mean_squared_error(y, guess), rel=1e-5)
    rmse = reference.root_mean_squared_error(y, guess)
    assert values["rmse"] == pytest.approx(10 * rmse, rel=1e-5)
    assert values["mae"] == pytest.approx(10 * reference.mean_absolute_error(y, guess), rel=1e-5)


@pytest.mark.parametrize("name", ["digits", "wine", "diabetes"])
def test_the_baseline_is_a_constant_prediction(name):
    data = build.data(command.checked([f"data={name}"]))
    y, trained = data.val.y.numpy(), data.train.y.numpy()
    if data.task == "classification":
        constant = DummyClassifier(strategy="most_frequent").fit(
            np.zeros((len(trained), 1)), trained
        )
        wanted = constant.score(np.zeros((len(y), 1)), y)
        assert constant_baseline(data, "val/accuracy") == pytest.approx(wanted, abs=1e-12)
        assert constant_baseline(data, "val/f1") is None
    else:
        constant = DummyRegressor().fit(np.zeros((len(trained), 1)), trained)
        wanted = reference.r2_score(y, constant.predict(np.zeros((len(y), 1))))
        assert constant_baseline(data, "val/r2") == pytest.approx(wanted, abs=1e-6)
        assert wanted <= 0
