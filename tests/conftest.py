"""What the tests share: configs from overrides, runs in a folder of their own, tiny official sets."""

import os
from pathlib import Path

os.environ["WANDB_MODE"] = (
    "disabled"  # tests of tracking turn it on again, in a process of their own
)

import pytest
import torch

from knobs import build, config
from knobs.training.assemble import assemble
from knobs.training.run import Outcome, execute

REPO = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tests run side by side; two threads each on two cores would be many times slower."""
    torch.set_num_threads(1)


@pytest.fixture
def make_run():
    """Overrides -> an assembled Run at its first step."""

    def make(*overrides):
        plain = config.checked(list(overrides))
        return assemble(plain, build.data(plain), torch.device("cpu"))

    return make


@pytest.fixture
def train(tmp_path):
    """Overrides -> the Outcome of a whole run, recorded in `folder`."""

    def run(*overrides, folder="run") -> Outcome:
        return execute(config.checked(["tracking=local", *overrides]), tmp_path / folder)

    return run


def real_data() -> Path | None:
    """Real data sets: KNOBS_DATA, or a sibling shared/data folder, if there is one."""
    candidates = [os.environ.get("KNOBS_DATA"), REPO.parent / "shared" / "data"]
    return next((Path(c) for c in candidates if c and Path(c).is_dir()), None)


needs_real_data = pytest.mark.skipif(
    real_data() is None, reason="no real data: set KNOBS_DATA to a folder that holds it"
)
