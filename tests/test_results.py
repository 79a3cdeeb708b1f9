"""The README's results: digits always, the real data sets with make test-all."""

import statistics

import pytest
from conftest import needs_real_data, real_data


def test_digits_reach_97_percent_of_validation(train):
    found = [train(f"seed={seed}", folder=str(seed)).value for seed in (0, 1, 2)]
    assert statistics.mean(found) >= 0.97


@pytest.mark.slow
@needs_real_data
@pytest.mark.parametrize(("experiment", "metric", "least"), [
    ("banking77", "test/accuracy", 0.90), ("california", "test/r2", 0.80),
    ("fashion_mlp", "test/accuracy", 0.900), ("fashion_cnn", "test/accuracy", 0.932),
])  # fmt: skip
def test_real_data(experiment, metric, least, train, monkeypatch, tmp_path):
    monkeypatch.setenv("KNOBS_DATA", str(real_data()))
    monkeypatch.chdir(tmp_path)  # where a read-only data folder is unpacked
    outcome = train(f"experiment={experiment}", "test=true")
    assert outcome.summary["test"][metric] >= least
