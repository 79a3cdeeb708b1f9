"""Helpers of all tests: configs from overrides, runs in a folder of their own, tiny official sets."""

import compileall
import gc
import logging
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

os.environ["WANDB_MODE"] = (
    "disabled"  # tests of tracking turn it on again, in a process of their own
)

import parsed
import pytest
import torch
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobRuntime

from knobs import build
from knobs.config import command
from knobs.config.copies import copied
from knobs.sweep import groups, launch
from knobs.training.run import Outcome, execute
from knobs.training.session import Session
from knobs.training.setup import assemble

parsed.once()
REPO = Path(__file__).parents[1]
pytest_plugins = ["injected"]  # counts the faults of tests/faults/
TRAIN = str(REPO / "train.py")
FOLDERS = ["pkg://hydra.conf", str(REPO / "conf"), "structured://"]  # where Hydra looks


def pytest_configure(config):
    """Compile knobs: where Python is told to write no bytecode, each process would, in 0.3 s."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(REPO / "src", quiet=2)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run side by side; two threads each on two cores would be many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_cache_at_home(tmp_path_factory):
    """Data that tests convert lie in a folder of theirs, for their processes too."""
    os.environ["KNOBS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def composed_once():
    """Hydra composes a list of overrides of conf/ once a process (0.3 s); others get copies.

    Only where nothing else has a say: no folder beside conf/, nothing of `hydra` set.
    """
    whole, kept = ConfigLoaderImpl._load_configuration_impl, {}

    def load(loader, config_name, overrides, run_mode, *more, **named):
        folders = [part.path for part in loader.config_search_path.get_path()]
        own = {line for line in overrides if line.lstrip("+~").startswith("hydra.")}
        if folders != FOLDERS or own - {command.MULTIRUN}:
            return whole(loader, config_name, overrides, run_mode, *more, **named)
        about = (*more, *named.items(), JobRuntime.instance().get("name"), version.getbase())
        key = (config_name, *overrides, run_mode, about)
        if key not in kept:
            config = whole(loader, config_name, overrides, run_mode, *more, **named)
            kept[key] = copied(config)
            return config
        config = copied(kept[key])
        config.hydra.runtime.cwd = os.getcwd()
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "_load_configuration_impl", load)
        yield whole


@pytest.fixture(autouse=True, scope="session")
def collected_tests_stand_still():
    """A sweep begins with a look for cycles: 0.3 s a launch among all that pytest has collected.

    That is left alone here, once for all launches, and each looks through what came after.
    """
    gc.collect()
    gc.freeze()
    kept = dict.fromkeys(("freeze", "unfreeze"), lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "gc", SimpleNamespace(**vars(gc) | kept))
        yield


@pytest.fixture
def make_run():
    """Overrides -> an assembled Run at its first step."""

    def make(*overrides):
        plain = command.checked(list(overrides))
        return assemble(plain, build.data(plain), torch.device("cpu"))

    return make


@pytest.fixture
def train(tmp_path):
    """Overrides -> the Outcome of a whole run, recorded in `folder`."""

    def run(*overrides, folder="run") -> Outcome:
        return execute(command.checked(["tracking=local", *overrides]), tmp_path / folder)

    return run


def real_data() -> Path | None:
    """Real data sets: KNOBS_DATA, or a sibling shared/data folder, if there is one."""
    candidates = [os.environ.get("KNOBS_DATA"), REPO.parent / "shared" / "data"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


needs_real_data = pytest.mark.skipif(
    real_data() is None, reason="no real data: set KNOBS_DATA to a folder that holds it"
)


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys, hydra_restore_singletons):
    """Run `train.py -m` in this process, in a folder of the test's: exit code and output."""

    def run(*args, cwd="."):
        (tmp_path / cwd).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / cwd)
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", *args])
        code = 0
        try:
            runpy.run_path(TRAIN, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out + told.err

    monkeypatch.setattr(groups, "LEAST_GAIN", float("inf"))  # a stack, however fast it seems to be
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield run
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def at_epoch(monkeypatch):
    """Do something once, when some run of a sweep has written down so many epochs."""
    whole = Session.epoch

    def arrange(count, action):
        def epoch(session, metrics):
            whole(session, metrics)
            if metrics["epoch"] == count and todo:
                todo.pop()()

        todo = [action]
        monkeypatch.setattr(Session, "epoch", epoch)

    return arrange
