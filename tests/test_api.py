"""`import knobs` gives load, sweep and report, and imports nothing before it is asked for."""

import subprocess
import sys

import pytest

import knobs
from knobs.errors import ConfigError, UserError


def test_a_sweep_from_python_gives_its_report_and_its_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["optimizer=adam,sgd", "training.epochs=1", "tracking=local"]
    report = knobs.sweep(*overrides, folder="outputs/a sweep")
    assert [entry.n for entry in report.sweep.entries] == [1, 1]
    best = report.sweep.entries[0]
    assert best.mean == max(run.value for run in report.sweep.runs)
    again = knobs.report("outputs/a sweep")
    assert again.verdict.headline == report.verdict.headline
    model = knobs.load(best.runs[0].folder)
    assert sum(p.numel() for p in model.parameters()) == 8970
    assert not model.training


def test_a_sweep_that_cannot_run_is_an_error_with_its_exit_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="ended with exit code 2") as error:
        knobs.sweep("optimizer=adm,sgd", folder="s")
    assert error.value.exit_code == 2
    with pytest.raises(ConfigError, match="folder="):
        knobs.sweep("seed=0,1", "sweep=a", folder="s")


def test_import_knobs_imports_nothing_slow():
    code = "import sys, knobs; print([m for m in ('torch', 'hydra', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_there_is_not_is_told():
    with pytest.raises(AttributeError, match="'knobs' has no attribute 'lod'"):
        knobs.lod  # noqa: B018
