"""Members: each is the run that it would be alone, bit for bit; together they are their mean."""

import math

import pytest
import torch
from torch.nn import functional as F
from trained import assert_same_bits, interrupt_at

from knobs import build, rng
from knobs.config import command
from knobs.errors import ConfigError
from knobs.models.members import mean_prediction
from knobs.training import loop
from knobs.training.checkpoint import load, restore, snapshot
from knobs.training.setup import assemble, steps_per_epoch

SCHEDULERS, OPTIMIZERS = (
    sorted(p.stem for p in (command.CONF / group).glob("*.yaml"))
    for group in ("scheduler", "optimizer")
)
NOISY = [
    "regularization=dropout",
    "regularization.norm=batch",
    "regularization.mixup=0.2",
    "regularization.l1=1e-5",
]
WINE = ["data=wine", "training.epochs=4"]
TEXT = ["data=python_docs", "data.max_length=12", "training.batch_size=256", "training.epochs=1"]
IMAGE = ["model=cnn", "model.width=4", "training.batch_size=256", "training.epochs=2"]
MIXES_WEIGHTS = {"lbfgs"}


def make(overrides, seed=None):
    plain = command.checked([*overrides, "tracking=local"])
    if seed is not None:
        plain = plain | {"seed": seed}
    return assemble(plain, build.data(plain), torch.device("cpu"))


def trained(overrides, seed=None):
    run = make(overrides, seed)
    return run, list(loop.fit(run))


def assert_members_are_runs(overrides, count=3):
    """Weights, buffers, optimizer states, averages and metrics of members are those of runs."""
    whole, _ = trained([*overrides, f"training.members={count}"])
    states = iter([whole.optimizer.state[p] for p in whole.model.parameters()])
    for m, network in enumerate(whole.networks):
        alone, rows = trained(overrides, rng.member(0, m))
        assert_same_bits(network.state_dict(), alone.model.state_dict())
        for parameter, state in zip(alone.model.parameters(), states, strict=False):
            expected = alone.optimizer.state[parameter]
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
                assert same(state[name], value), name
        if whole.average:
            member = whole.evaluated.members[m]
            assert_same_bits(member.state_dict(), alone.evaluated.state_dict())
        own = {f"val/{name}": value for name, value in whole.member_metrics[m].items()}
        assert own == {name: rows[-1][name] for name in own}
    return whole


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o not in MIXES_WEIGHTS])
def test_every_optimizer(optimizer):
    assert_members_are_runs([*WINE, f"optimizer={optimizer}", "training.batch_size=50"])


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s != "plateau"])
def test_every_schedule(scheduler):
    """But plateau, which watches the mean prediction."""
    assert_members_are_runs([*WINE, f"scheduler={scheduler}", "optimizer=momentum"], 2)


@pytest.mark.parametrize(
    "activation", sorted(p.stem for p in (command.CONF / "activation").glob("*.yaml"))
)
def test_every_activation_at_a_width_that_fits_no_vector(activation):
    assert_members_are_runs([*WINE, f"activation={activation}", "model.width=[50,21]"], 2)


@pytest.mark.parametrize(
    "overrides",
    [
        [*WINE, *NOISY, "training.ema=0.9", "training.clip_norm=0.5", "training.clip_value=0.01"],
        [*WINE, "regularization.norm=layer", "regularization.l2_biases=false", "regularization.l2=0.1"],
        [*WINE, "training.accumulate=3", "regularization.dropout=0.3"],
        [*WINE, "training.accumulate=2", "regularization.l1=1e-3", "training.batch_size=33"],
        [*WINE, "regularization.label_smoothing=0.1", "training.drop_last=true", "model.bias=false"],
        [*WINE, "training.precision=bf16"],
        [*WINE, "model=linear", "regularization.dropout=0.2", "optimizer.amsgrad=true"],
        [*WINE, "optimizer.foreach=true"],
        ["training.epochs=1", "model.width=[100,30]", "init=lsuv", "training.batch_size=77"],
        ["data=diabetes", "training.epochs=4", "regularization.mixup=0.4"],
        [*IMAGE, "regularization.norm=batch", "regularization.dropout=0.3"],
        [*IMAGE, "data.augment.crop=1", "data.augment.flip=true", "regularization.mixup=0.2"],
        [*IMAGE, "training.channels_last=false", "regularization.norm=layer"],
        [*TEXT, "model=text_bag", "model.embedding_dim=8", "regularization.dropout=0.2"],
        [*TEXT, "model=text_lstm", "model.embedding_dim=8", "model.width=8"],
        [*TEXT, "model=text_transformer", "model.embedding_dim=8", "model.width=8", "regularization.dropout=0.2"],
    ],
    ids=lambda o: " ".join(o)[:60],
)  # fmt: skip
def test_every_kind_of_run(overrides):
    assert_members_are_runs(overrides)
