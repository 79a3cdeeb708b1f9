"""The noise of a validation split, by the predictions of a run on it."""

import json
import math

import numpy as np
import pytest
from fake_sweeps import add_run
from safetensors.numpy import save_file

from knobs.report.noise import ESTIMATED, of_split
from knobs.report.run.read import read_files

N = 400


def run(folder, metric, value, task, targets, outputs):
    """A run's folder with a validation split and what it predicted there."""
    made = add_run(folder, {}, value=value, metric=f"val/{metric}")
    about = json.loads((made / "config.json").read_text())
    about["config"]["data"] = {"task": task}
    (made / "config.json").write_text(json.dumps(about))
    summary = json.loads((made / "summary.json").read_text())
    (made / "summary.json").write_text(json.dumps(summary | {"validation_examples": N}))
    tensors = {"rows": np.arange(N), "targets": targets, "outputs": outputs.astype(np.float16)}
    epoch = {"epoch": str(summary["best_epoch"])}  # as older runs say it, unsigned
    save_file(tensors, made / "predictions.safetensors", epoch)
    return made


def noise(folder):
    return of_split(read_files(folder))


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=N)
    return targets, 2 * np.eye(3)[targets] + rng.standard_normal((N, 3))


def test_the_noise_of_an_accuracy_is_that_of_its_size(tmp_path, classes):
    made = run(tmp_path, "accuracy", 0.9, "classification", *classes)
    assert noise(made) == pytest.approx(math.sqrt(0.1 / (2 * N)))


def test_the_noise_of_a_mean_over_rows_is_its_standard_error_over_root_two(tmp_path, classes):
    targets, outputs = classes
    made = run(tmp_path, "loss", 0.4, "classification", targets, outputs)
    losses = np.log(np.exp(outputs).sum(1)) - outputs[np.arange(N), targets]
    exact = losses.std() / math.sqrt(2 * N)
    assert noise(made) == pytest.approx(exact, rel=0.15)  # 200 samples: 5 % of it


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy"])
def test_balanced_classes_have_about_the_noise_of_their_accuracy(tmp_path, classes, metric):
    targets, outputs = classes
    made = run(tmp_path, metric, 0.9, "classification", targets, outputs)
    right = (outputs.argmax(1) == targets).mean()
    exact = math.sqrt(right * (1 - right) / (2 * N))
    assert noise(made) == pytest.approx(exact, rel=0.2)


def test_the_noise_of_a_regression(tmp_path):
    rng = np.random.default_rng(0)
    truth, error = rng.standard_normal((N, 1)), 0.5 * rng.standard_normal((N, 1))
    mae = noise(run(tmp_path / "a", "mae", 0.4, "regression", truth, truth + error))
    assert mae == pytest.approx(np.abs(error).std() / math.sqrt(2 * N), rel=0.15)
    rmse = noise(run(tmp_path / "b", "rmse", 0.5, "regression", truth, truth + error))
    # of a normal error the standard error of its sd is sd / sqrt(2 n)
    assert rmse == pytest.approx(0.5 / math.sqrt(2 * N) / math.sqrt(2), rel=0.2)
    r2 = noise(run(tmp_path / "c", "r2", 0.7, "regression", truth, truth + error))
    assert 0.005 < r2 < 0.03


def test_what_does_not_tell_the_noise_has_none(tmp_path, classes):
    made = run(tmp_path, "loss", 0.4, "classification", *classes)
    (made / "predictions.safetensors").unlink()
    assert noise(made) is None
    assert noise(run(tmp_path, "auroc", 0.9, "classification", *classes)) is None
    assert noise(tmp_path / "nowhere") is None
    assert "accuracy" in ESTIMATED
