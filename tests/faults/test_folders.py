"""Folders that hold a run: nobody else writes into them, and what was changed by hand is refused."""

import json
import os
import random
from argparse import Namespace

import pytest
from hydra.core.utils import JobStatus
from injected import faults
from omegaconf import OmegaConf

from knobs import again, cli, ledger, record
from knobs.errors import CheckpointError, ConfigError, LockedError, StorageError
from knobs.identity import identity, leaves
from knobs.shell import literal, quoted
from knobs.sweep import workers


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_a_folder_is_held_until_its_record_takes_the_lock_over(tmp_path):
    run = tmp_path / "0"
    with ledger.held_run(run):
        assert record.held(run)
        with pytest.raises(LockedError), ledger.held_run(run):
            pass
        taken = record.Record(run)
    assert record.held(run)  # by its record
    taken.release()
    assert not record.held(run)
    with ledger.held_run(run):  # of which no record comes
        pass
    assert not record.held(run)
    (tmp_path / "1").symlink_to(run)
    with pytest.raises(StorageError, match="is a link"), ledger.held_run(tmp_path / "1"):
        pass


def test_a_job_of_hydras_launchers_in_a_held_folder_fails_alone_and_writes_nothing(tmp_path):
    run = tmp_path / "3"
    held = record.Record(run)
    before = files(tmp_path)
    config = {
        "hydra": {
            "sweep": {"dir": str(tmp_path)},
            "job": {"num": 3},
            "overrides": {"task": ["a=1"]},
        }
    }
    returned = workers.run_job(config=OmegaConf.create(config), task_function=None)
    assert returned.status is JobStatus.FAILED
    assert isinstance(returned._return_value, LockedError)
    assert files(tmp_path) == before
    held.release()


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "checkpoints"])
def test_a_run_without_its_config_is_not_written_over(name, tmp_path):
    (tmp_path / name).mkdir() if name == "checkpoints" else (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"holds a run whose config.json is lost; move it away"):
        cli._refuse_another_run(tmp_path)


CONFIG = {"seed": 3, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.999]}, "training": {"epochs": 4}}


@faults(
    "a value of a run's config.json changed, before resume=",
    "refused, exit 4: its identity is not that of its config; nothing trains another config",
    quick=30,
    whole=300,
)
def test_a_changed_config_is_not_gone_on_with(tmp_path, tried, cases):
    whole = {"overrides": [], "identity": identity(CONFIG), "config": CONFIG}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    args = Namespace(overrides=[f"resume={tmp_path}"], multirun=False)
    assert again.resume(str(tmp_path), args)[0] == f"resume={quoted(literal(str(tmp_path)))}"
    draw = random.Random(0)
    for _ in range(cases):
        document = json.loads(json.dumps(whole))
        path, value = draw.choice([*leaves(CONFIG)])
        section, _, key = path.partition(".")
        other = draw.choice(
            [[*value, 1] if isinstance(value, list) else value * 2, str(value), None]
        )
        if key:
            document["config"][section][key] = other
        else:
            document["config"][section] = other
        (tmp_path / "config.json").write_text(json.dumps(document))
        with pytest.raises(CheckpointError, match="its identity is not that of its config"):
            again.resume(str(tmp_path), args)
        tried()
    assert os.listdir(tmp_path) == ["config.json"]
