"""Canaries: a secret comes in by every way there is, and no file, stream or upload has it."""

import os
import re
import subprocess
import sys

import pytest
from conftest import REPO
from injected import command, faults
from wandb_server import WandbServer

from knobs import cli
from knobs.secrets import HIDDEN

CANARY = "canary"  # is in every secret below, and in nothing else
VARIABLES = {
    "MYLAB_TOKEN": "canary-of-token", "MYLAB_PASSWORD": "canary pass/word+1",
    "DB_SECRET": 'canary"quote\\back', "MY_API_KEY": "Canary-Ünïcode-canary",
    "DATABASE_URL": "postgres://me:canary-in-url@db.example/x", "SOME_KEY": "sk-proj-canary0canary0",
}  # fmt: skip
OWN = """
from knobs.data import bundled

def digits(note, url, api_key, headers, many, **rest):
    assert "canary" in api_key and "canary" in url, (api_key, url)
    return bundled.scikit_learn(**rest)
"""
MINE = """# Mine.
defaults: [digits, _self_]

_target_: mylab.digits
note: ''
url: 'postgres://me:canary-in-yaml@db.example/x'
api_key: canary-in-yaml
headers: {Authorization: 'Bearer canary-in-yaml-0123456789', x: ['token=canary-in-yaml']}
many: [a, '${oc.env:MYLAB_TOKEN}']
"""
STUDY = """# Mine.
question: Is postgres://me:canary-in-study@db.example/x better?
scientific: {activation: [relu, gelu]}
space: {optimizer.lr: {low: 1e-3, high: 1e-2, scale: log}}
runs: 2
seeds: 1
set: [training.epochs=1, data=mine]
"""
# Each names a secret by a variable; hydra's parser takes them as they are.
READ = [
    "data.note='${oc.env:DATABASE_URL}'", "tracking.tags=[a,'${oc.env:MYLAB_PASSWORD}']",
    "+tracking.run_name='x-${oc.env:MYLAB_TOKEN}'", "tracking.group='${oc.env:MYLAB_TOKEN}'",
]  # fmt: skip
NOTES = {
    "WANDB_NOTES": "see canary-of-token", "WANDB_JOB_TYPE": "canary-of-token",
    "WANDB_TAGS": "fine,canary-of-token", "WANDB_NAME": "run canary-of-token",
}  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A data set and a study of one's own, full of secrets; the environment to run them in."""
    home = tmp_path_factory.mktemp("own")
    (home / "mylab.py").write_text(OWN)
    for name, text in (("data/mine.yaml", MINE), ("study/mine.yaml", STUDY)):
        (home / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "conf" / name).write_text(text)
    paths = [str(home), str(REPO / "src"), os.environ.get("PYTHONPATH", "")]
    env = VARIABLES | {"KNOBS_ALLOW": "mylab", "PYTHONPATH": os.pathsep.join(paths)}
    return ["--config-dir", home / "conf"], env | {"HOME": str(home), "WANDB_MODE": "online"}


def telling(*texts, folder=None):
    """Where a canary shows: of texts as they are, and of files whatever their name and content."""
    found = [text[:300] for text in texts if re.search(CANARY, text, re.I)]
    for path in (p for p in folder.rglob("*") if p.is_file()) if folder else ():
        if re.search(CANARY.encode(), path.name.encode() + path.read_bytes(), re.I):
            found.append(str(path.relative_to(folder)))
    return found


def module(cwd, env, *words):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, env=os.environ | env, text=True,
        capture_output=True, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def a_sweep(cwd, words, env):
    """Two runs of a stack, their uploads, every page and table about them."""
    several = "data.note='${oc.env:DATABASE_URL}','${oc.env:DB_SECRET}'"
    sweep = "outputs/sweeps/s"
    with WandbServer() as server:
        online = env | server.env
        told = command(
            cwd, *words, "-m", "data=mine", "training.epochs=1", "sweep=s", several,
            "tracking.artifact=true", "tracking.timeout=60", env=online | NOTES,
        )  # fmt: skip
        told += module(cwd, online, "knobs.report", sweep, "--wandb")
    told += module(cwd, env, "knobs", "ls")
    assert len(server.runs) == 2
    for run in server.runs.values():  # hidden, not left out
        told_as = [run.about[name] for name in ("notes", "jobType", "displayName")]
        assert (run.about["tags"], told_as) == (["fine", HIDDEN], [HIDDEN] * 3)
    config = next(iter(server.runs.values())).config["data"]
    assert (config["api_key"], config["url"], config["note"]) == (HIDDEN,) * 3
    return told, *server.requests


def a_run_and_its_resume(cwd, words, env):
    with WandbServer() as server:
        told = command(
            cwd, *words, "data=mine", "training.epochs=1", "hydra.run.dir=r", *READ,
            "tracking.timeout=60", env=env | server.env | {"WANDB_NOTES": NOTES["WANDB_NOTES"]},
        )  # fmt: skip
    more = ("resume=r", "training.epochs=2", "tracking=local")
    told += command(cwd, *words, *more, env=env)
    told += module(cwd, env, "knobs.report", "r")
    (run,) = server.runs.values()
    assert run.about["tags"] == ["a", HIDDEN]
    assert run.about["displayName"] == run.about["groupName"] == HIDDEN
    return told, *server.requests


def a_study(cwd, words, env):
    offline = env | {"WANDB_MODE": "offline"}
    told = command(cwd, *words, "-m", "+study=mine", "sweep=t", env=offline)
    told += module(cwd, env, "knobs.report", "outputs/sweeps/t")
    told += module(cwd, env, "knobs.ensemble", "outputs/sweeps/t")
    assert HIDDEN in (cwd / "outputs/sweeps/t/study.json").read_text()
    return (told,)


WAYS = [(a_sweep, 13), (a_run_and_its_resume, 12), (a_study, 9)]  # secrets that each takes in


@faults("secrets that a run takes in", "in no file, stream or upload", quick=1, whole=3)
def test_no_file_and_no_stream_tells_a_secret(own, tmp_path, cases, tried):
    for way, secrets in WAYS[:cases]:
        texts = way(tmp_path, *own)
        assert telling(*texts, folder=tmp_path) == [], way
        tried(secrets)


FAULTS = [
    "data.note='${oc.env:MYLAB_TOKEN}' optimizer.lr='${oc.env:MYLAB_TOKEN}'",
    "data.path='${oc.env:MYLAB_TOKEN}' data=csv", "data=csv data.path='/x/${oc.env:DB_SECRET}.csv'",
    "model.width='${oc.env:DATABASE_URL}'", "optimizer='${oc.env:MYLAB_TOKEN}'",
    "name='${oc.env:MYLAB_PASSWORD}' seed=-1", "resume='${oc.env:MYLAB_TOKEN}'",
    "tracking.project='${oc.env:DATABASE_URL}'", "hydra.run.dir='${oc.env:MYLAB_TOKEN}'",
    "hydra.job.name='${oc.env:MYLAB_PASSWORD}'", "data.target='${oc.env:MY_API_KEY}' data=csv",
    "+x.y='${oc.env:MYLAB_TOKEN}'", "scheduler='${oc.env:MYLAB_TOKEN}'",
    "optimizer._target_='${oc.env:MYLAB_TOKEN}'", "optimizer._target_='x.${oc.env:MYLAB_TOKEN}'",
    "+hydra.job.env_set.PATH='${oc.env:MYLAB_TOKEN}'", "objective.metric='${oc.env:MYLAB_TOKEN}'",
    "hydra.output_subdir='${oc.env:MYLAB_TOKEN}'", "data.split='group:${oc.env:MYLAB_TOKEN}'",
]  # fmt: skip


@faults("secrets in a config that is refused", "not in the message", quick=19)
def test_a_fault_does_not_tell_what_it_is_about(monkeypatch, capsys, tmp_path, cases, tried):
    monkeypatch.chdir(tmp_path)
    for name, value in (VARIABLES | {"WANDB_MODE": "offline"}).items():
        monkeypatch.setenv(name, value)
    for text in FAULTS:
        monkeypatch.setattr(sys, "argv", ["train.py", *text.split(" ")])
        with pytest.raises(SystemExit) as end:
            cli.main(lambda: None)
        told = capsys.readouterr()
        assert end.value.code in (2, 3, 4), (text, told)
        assert telling(told.out, told.err, folder=tmp_path) == [], text
        tried()
