"""The functions inside ${...}: a run's name."""

import re

import pytest

from knobs.config import command
from knobs.config.resolvers import NAME, short_name


@pytest.mark.parametrize(("overrides", "expected"), [
    ([], "digits-mlp-adam"),
    (["optimizer=adam", "optimizer.lr=0.003", "seed=1"], "adam-lr0.003-seed1"),
    (["tracking=local", "training.threads=1", "test=true", "silence=[all]"], "digits-mlp-adam"),
    (["seed=1", "optimizer=sgd", "seed=2"], "seed2-sgd"),  # the last one counts
    (["+study.x=1", "training.epochs=3"], "epochs3"),
    (["model=linear", "scheduler=linear"], "model_linear-scheduler_linear"),
    (["regularization=none", "init=default"], "regularization_none-init_default"),
    (["model.width=[64, 32]", "training.sampler=balanced"], "width64,32-sampler_balanced"),
    (["optimizer.lr=-1e-3", "optimizer.eps=.5", "training.drop_last=true"],
     "lr-1e-3-eps.5-drop_last_true"),
    (["data.path=/home/me/a.csv", "init.path=w.pt", "model.note=../b", "seed=3"], "seed3"),
    (["my.api_key=abcdefgh", "model.note='at s3cret-value!'", "seed=3"], "seed3"),
    (["model.note='ü?*: |<>x;y'", "seed=1"], "note_x_y-seed1"),
    (["optimizer.lr="], "digits-mlp-adam"),
])  # fmt: skip
def test_a_name_says_what_a_run_changes(overrides, expected, monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "s3cret-value")
    assert short_name(overrides, "digits-mlp-adam") == expected


def test_a_name_is_bounded_and_cut_between_two_parts():
    overrides = [f"model.{'x' * n}={n}" for n in range(1, 30)]
    name = short_name(overrides, "none")
    assert len(name) <= NAME
    assert name == "-".join(f"{'x' * n}{n}" for n in range(1, name.count("-") + 2))
    assert short_name([f"model.note={'y' * 99}"], "otherwise") == "otherwise"


def test_the_config_has_it_and_so_has_the_folder():
    lines = ["optimizer=momentum", "optimizer.lr=3e-3", "tracking=local"]
    configs, faults = command.check_overrides(lines)
    assert faults == []
    assert configs[0]["name"] == "momentum-lr3e-3"
    folder = str(configs[0]["hydra"]["run"]["dir"])
    assert re.fullmatch(r"outputs/runs/[\d-]{10}/[\d-]{8}-momentum-lr3e-3", folder)
    assert command.checked(["tracking=local"])["name"] == "digits-mlp-adam"
    assert command.checked([*lines, "name=mine"])["name"] == "mine"
