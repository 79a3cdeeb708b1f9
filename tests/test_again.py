"""Folders that others made: what `resume=` and `rerun=` take from them, and what they do not."""

import json
import os
import shutil
from argparse import Namespace

import pytest
from trained import train_py as run

from knobs import again
from knobs.config.rules import CONF
from knobs.errors import CheckpointError, ConfigError
from knobs.record import read_config, read_json, read_metrics


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of one epoch that went to nobody."""
    home = tmp_path_factory.mktemp("made")
    words = ["tracking=local", "training.epochs=1", "seed=4", "hydra.run.dir=run"]
    done = run(home, *words)
    assert done.returncode == 0, done.stderr
    return home / "run"


@pytest.fixture
def foreign(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def changed(folder, **parts):
    path = folder / "config.json"
    path.write_text(json.dumps(read_json(path) | parts))


WICKED = [
    "+hydra.job.env_set.WANDB_BASE_URL=http://127.0.0.1:9", "hydra/launcher=joblib",
    "hydra.run.dir=/tmp/elsewhere", "++hydra.callbacks.x._target_=os.system",
    "tracking.entity=somebody", "tracking=wandb", "tracking.mode=online", "search.role=search",
    "optimizer@tracking=adam", "sweep=x", "resume=/elsewhere", "+study=activation", "trust=true",
]  # fmt: skip


@pytest.mark.parametrize("word", ["resume", "rerun"])
def test_hydra_and_tracking_come_from_this_command_line(foreign, word, tmp_path):
    """Of `.hydra/` nothing is read; of config.json no line of those."""
    changed(foreign, overrides=[*WICKED, *read_config(foreign)["overrides"]])
    (foreign / ".hydra" / "overrides.yaml").write_text("- seed=9\n- hydra.job.env_set.PATH=/x\n")
    (foreign / ".hydra" / "config.yaml").write_text("seed: 9\n")
    words = ["training.epochs=2"] if word == "resume" else ["hydra.run.dir=new"]
    done = run(tmp_path, f"{word}=run", *words)
    assert done.returncode == 0, done.stderr
    folder = foreign if word == "resume" else tmp_path / "new"
    document = read_config(folder)
    assert document["config"]["seed"] == 4
    assert document["config"]["tracking"]["entity"] is None
    assert len(read_metrics(folder)) == (2 if word == "resume" else 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"run", folder.name})


def test_what_was_kept_from_wandb_is_kept_from_it_at_a_resume(foreign, tmp_path):
    done = run(tmp_path, "resume=run", "training.epochs=2")
    assert done.returncode == 0, done.stderr
    config = read_config(foreign)["config"]
    assert config["tracking"]["mode"] == "disabled"
    changed(foreign, config=config | {"tracking": config["tracking"] | {"mode": "offline"}})
    assert "tracking.mode=offline" in ask("resume", foreign)
    assert [
        line for line in ask("resume", foreign, "tracking.mode=auto") if "tracking" in line
    ] == ["tracking.mode=auto"]


def ask(word, folder, *given):
    """The overrides that a word and a folder stand for, beside those given."""
    if word == "resume":
        args = Namespace(overrides=[*given, f"resume={folder}"], multirun=False)
        return again.resume(str(folder), args)
    return getattr(again, word)(str(folder), list(given), [CONF])


@pytest.mark.parametrize("word", ["resume", "rerun", "refit"])
def test_code_that_is_not_admitted_here_is_not_run(foreign, word):
    config = read_config(foreign)["config"]
    config["model"]["_target_"] = "mylab.net"
    changed(foreign, config=config)
    with pytest.raises(
        ConfigError, match=r"used code of its own \(mylab\.\); read it, then export"
    ):
        ask(word, foreign)


def test_a_config_that_is_not_the_recorded_one_is_told_apart(foreign, tmp_path):
    changed(foreign, overrides=["seed=5", "training.epochs=1", "optimizer.lr=0.5"])
    done = run(tmp_path, "resume=run")
    assert done.returncode == 2
    assert "conf/ has changed since that run: optimizer.lr, seed;" in done.stderr


@pytest.mark.parametrize("word", ["resume", "rerun"])
def test_paths_outside_the_folder_are_listed(foreign, word, tmp_path, capsys):
    outside = str(tmp_path / "elsewhere")
    config = read_config(foreign)["config"]
    changed(foreign, config=config | {"data": config["data"] | {"root": outside}})
    ask(word, foreign)
    told = f"as its record says, this run reads data.root={outside}"
    assert told in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="chown is root's")
@pytest.mark.parametrize("word", ["resume", "rerun", "refit"])
def test_a_folder_of_somebody_elses_asks_for_trust(foreign, word):
    os.chown(foreign, 12345, -1)
    belongs = rf"^{word}={foreign}: belongs to another user \(12345\); read its config.json"
    with pytest.raises(ConfigError, match=belongs):
        ask(word, foreign)
    lines = ask(word, foreign, "trust=true")
    assert "seed=4" in lines
    assert "trust=true" not in lines


@pytest.mark.parametrize("word", ["resume", "rerun", "refit"])
@pytest.mark.parametrize("place", [".", "checkpoints"])
def test_a_folder_that_others_may_write_is_refused(foreign, word, place):
    (foreign / place).chmod(0o777)
    told = rf"everybody may write there \(mode 777\).*chmod -R go-w {foreign}$"
    with pytest.raises(ConfigError, match=told):
        ask(word, foreign)
    assert (foreign / place).stat().st_mode & 0o777 == 0o777  # as it was
    (foreign / place).chmod(0o755)
    assert "seed=4" in ask(word, foreign)


@pytest.mark.parametrize("text", ["", "[]", '{"config": 3}', '{"config": {}, "overrides": 3}',
                                  "[" * 100_000,
                                  '{"overrides": [], "config": {"a":' + "[" * 980 + "]" * 980 + "}}",
                                  '{"config": ' + "9" * 10**6 + "}", "\0"])  # fmt: skip
@pytest.mark.parametrize("word", ["resume", "rerun"])
def test_a_config_json_that_is_none_is_one_line(foreign, word, text):
    (foreign / "config.json").write_text(text)
    told = rf"^({word}={foreign}: its |{foreign}/)config.json.*put it back from a copy$"
    with pytest.raises(CheckpointError, match=told):
        ask(word, foreign)
