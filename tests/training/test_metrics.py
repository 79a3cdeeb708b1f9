"""Metrics against scikit-learn's."""

import pytest
import torch
from sklearn import metrics as reference

from knobs.training import metrics


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
