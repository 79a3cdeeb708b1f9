"""The linear baseline: scikit-learn's numbers, its bounds, and a run that it never costs."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from knobs import build
from knobs.config import command
from knobs.losses import usual
from knobs.training import baselines, session
from knobs.training.screen import _baseline


def draw(n=300, f=6, outputs=3, seed=0):
    noise = torch.Generator().manual_seed(seed)
    x = torch.randn(n, f, generator=noise) * torch.logspace(-2, 2, f) + 3
    z = (x - 3) / torch.logspace(-2, 2, f) @ torch.randn(f, outputs, generator=noise)
    return x, z + torch.randn(n, outputs, generator=noise), torch.rand(n, generator=noise) + 0.1


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_that_of_scikit_learn(outputs, weighted):
    x, z, weight = draw(outputs=outputs)
    y = z[:, 0] if outputs == 1 else z
    weight = weight if weighted else torch.ones(len(x))
    coefficients, bias = baselines.ridge(x, y, weight, outputs)
    peer = Ridge().fit(x.double().numpy(), y.numpy(), sample_weight=weight.double().numpy())
    guess = peer.predict(x.double().numpy()).reshape(len(x), outputs)
    assert np.allclose((x @ coefficients + bias).numpy(), guess, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_regression_is_that_of_scikit_learn(classes, weighted, monkeypatch):
    """Probabilities to 1e-3, where both go on to the end."""
    monkeypatch.setattr(baselines, "STEPS", 1000)
    monkeypatch.setattr(baselines, "TOLERANCE", 1e-7)
    x, z, weight = draw(outputs=classes)
    y, weight = z.argmax(1), weight if weighted else torch.ones(len(x))
    coefficients, bias = baselines.logistic(x, y, weight, classes)
    peer = LogisticRegression(max_iter=50_000, tol=1e-9, solver="newton-cg")
    peer.fit(x.double().numpy(), y.numpy(), sample_weight=weight.double().numpy())
    found = (x @ coefficients + bias).softmax(1).numpy()
    assert np.abs(found - peer.predict_proba(x.double().numpy())).max() < 1e-3


def test_labels_are_logistic_regressions_of_their_own(monkeypatch):
    monkeypatch.setattr(baselines, "STEPS", 1000)
    monkeypatch.setattr(baselines, "TOLERANCE", 1e-7)
    x, z, _ = draw(outputs=3)
    y = (z > 0).float()
    coefficients, bias = baselines.logistic(x, y, torch.ones(len(x)), 3)
    found = (x @ coefficients + bias).sigmoid().numpy()
    for label in range(3):
        peer = LogisticRegression(max_iter=50_000, tol=1e-9, solver="newton-cg")
        peer.fit(x.double().numpy(), y[:, label].numpy())
        assert np.abs(found[:, label] - peer.predict_proba(x.double().numpy())[:, 1]).max() < 1e-3


def of(*overrides, metric="val/accuracy"):
    data = build.data(command.checked(list(overrides)))
    return data, baselines.baselines(data, metric, {}, usual(data.task))


@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer"])
def test_with_its_usual_steps_it_is_within_an_example_of_scikit_learn(name):
    data, found = of(f"data={name}")
    x, val = (split.x.flatten(1).double().numpy() for split in (data.train, data.val))
    peer = LogisticRegression(max_iter=20_000).fit(x, data.train.y.numpy())
    assert abs(found["linear"] - peer.score(val, data.val.y.numpy())) <= 1.01 / len(val)
    assert set(found) == {"constant", "linear"}
    assert found["constant"] < found["linear"]


def test_a_regression_is_ridge():
    data, found = of("data=diabetes", metric="val/r2")
    peer = Ridge().fit(data.train.x.double().numpy(), data.train.y.numpy())
    score = peer.score(data.val.x.double().numpy(), data.val.y.numpy())
    assert found["linear"] == pytest.approx(score, abs=1e-5)


def test_texts_are_counts_of_their_tokens():
    ids = torch.tensor([[2, 3, 2, 0, 0], [1, 1025, 1, 1, 0]])
    counts = baselines._features(ids, 3000)
    assert counts.shape == (2, 1024)
    assert counts[0, [0, 2, 3]].tolist() == [0, 2, 1]  # padding is no token
    assert counts[1, 1] == 4  # 1025 falls on 1


def test_wide_inputs_are_folded_and_many_rows_sampled_and_both_said(monkeypatch):
    x = torch.arange(2 * 2500.0).view(2, 1, 50, 50)
    folded = baselines._features(x, 0)
    assert torch.equal(folded[:, 7], x.flatten(1)[:, [7, 7 + 1024, 7 + 2048]].sum(1))
    assert torch.equal(folded[:, 1000], x.flatten(1)[:, [1000, 2024]].sum(1))
    monkeypatch.setattr(baselines, "MOST_WORK", 64 * 10 * 200)
    monkeypatch.setattr(baselines, "LEAST_ROWS", 100)
    monkeypatch.setattr(baselines, "MOST_FEATURES", 32)
    _, found = of("data=digits")
    assert found["linear_on"] == "400 of 1,078 training rows, 64 features hashed to 32"
    assert 0.5 < found["linear"] < 0.96


def test_what_cannot_be_computed_is_none_and_costs_nothing(monkeypatch, train, caplog):
    data, _ = of("data=wine")
    assert baselines.baselines(data, "val/other", {}, usual(data.task))["linear"] is None
    monkeypatch.setattr(baselines, "logistic", lambda *_: 1 / 0)
    outcome = train("data=wine", "training.epochs=1")
    assert outcome.status == "finished"
    assert outcome.summary["baselines"]["linear"] is None
    assert 0.3 < outcome.summary["baselines"]["constant"] < 0.5
    assert "no linear baseline: ZeroDivisionError" in caplog.text


def test_a_run_writes_them_down_and_a_row_of_a_sweep_does_not(train, sweep, tmp_path):
    train("data=wine", "training.epochs=1")
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["baselines"]
    assert found == of("data=wine")[1]
    code, _ = sweep("data=wine", "training.epochs=1", "seed=0,1", "tracking=local", "sweep=s")
    assert code == 0
    summaries = list((tmp_path / "outputs/sweeps/s").glob("*/summary.json"))
    assert [json.loads(path.read_text())["baselines"] for path in summaries] == [None, None]


def test_they_draw_no_random_numbers_and_leave_the_run_alone(train, monkeypatch):
    overrides = ["data=wine", "training.epochs=2", "regularization.dropout=0.2"]
    data, _ = of("data=wine")
    state = torch.get_rng_state()
    baselines.baselines(data, "val/accuracy", {}, usual(data.task))
    assert torch.equal(torch.get_rng_state(), state)
    one = train(*overrides, folder="one")
    monkeypatch.setattr(session, "baselines", lambda *_: None)
    two = train(*overrides, folder="two")
    assert one.summary["metrics"] == two.summary["metrics"]


@pytest.mark.parametrize(("value", "mode", "constant", "linear", "said"), [
    (0.98, "max", 0.1, 0.96, "0.1000 the most frequent class, 0.9600 a linear model"),
    (0.96, "max", 0.1, 0.96, "; the run is no better than a linear model"),
    (0.05, "max", 0.1, 0.96, "; the run is no better than the most frequent class"),
    (0.5, "min", None, 0.6, "0.6000 a linear model"),
    (0.7, "min", None, 0.6, "; the run is no better than a linear model"),
    (None, "max", 0.1, None, "0.1000 the most frequent class"),
    (0.5, "max", None, None, ""),
])  # fmt: skip
def test_a_run_that_ends_below_one_says_so(value, mode, constant, linear, said):
    summary = {
        "objective": {"metric": "val/x", "mode": mode, "value": value},
        "baselines": {"constant": constant, "linear": linear},
    }
    line = _baseline(summary, True)
    assert line.endswith(said)
    assert ("no better" in line) == ("no better" in said)
