"""Weights after 20 steps, bit for bit those of a hand-written torch loop, for every optimizer."""

import copy
import importlib
import re

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from knobs import optimizers
from knobs.config import command
from knobs.training.batches import epoch_batches
from knobs.training.loop import train_step

O = torch.optim  # noqa: E741
YAMLS = {file.stem: file.read_text() for file in (command.CONF / "optimizer").glob("*.yaml")}
TORCHS = sorted(name for name, text in YAMLS.items() if "_target_: knobs." not in text)


def from_yaml(name, parameters):
    """The class that a YAML names, called with the YAML's values, by nothing of knobs."""
    node = OmegaConf.create(re.sub(r"\$\{l2:(.*?)\}", r"\1", YAMLS[name]))
    arguments = OmegaConf.to_container(node)
    module, _, kind = arguments.pop("_target_").rpartition(".")
    assert arguments.pop("_partial_")
    return getattr(importlib.import_module(module), kind)(parameters, **arguments)


def twenty_batches(run):
    return [batch for _, batch in zip(range(20), epoch_batches(run), strict=False)]


def by_hand(model, parts, batches):
    """The loop that anyone would write; a closure for LBFGS, which asks for one."""
    for x, y, _ in batches:

        def closure(x=x, y=y):
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        if isinstance(parts[0], O.LBFGS):
            parts[0].step(closure)
            continue
        closure()
        for optimizer in parts:
            optimizer.step()


def assert_same_bits(a, b):
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("name", TORCHS)
def test_twenty_steps_bit_for_bit(name, make_run):
    run = make_run(f"optimizer={name}")
    before, model = copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.model)
    batches = twenty_batches(run)
    optimizer = from_yaml(name, model.parameters())
    for each in (optimizer, run.optimizer):
        optimizers.training_mode(each, True)
    for x, y, _ in batches:
        train_step(run, x, y)
    by_hand(model, [optimizer], batches)
    assert_same_bits(run.model, model)
    assert any(not torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_muon_is_torchs_muon_on_hidden_matrices_and_adamw_on_the_rest(make_run):
    run = make_run("optimizer=muon")
    model = copy.deepcopy(run.model)
    hidden = [m.weight for m in model.hidden if isinstance(m, nn.Linear)]
    rest = [p for p in model.parameters() if all(p is not h for h in hidden)]
    parts = [
        O.Muon(hidden, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        O.AdamW(rest, lr=1e-3, weight_decay=0.1),
    ]
    batches = twenty_batches(run)
    for x, y, _ in batches:
        train_step(run, x, y)
    by_hand(model, parts, batches)
    assert_same_bits(run.model, model)


def test_muon_follows_a_schedule_and_comes_back_from_its_state(make_run):
    run = make_run("optimizer=muon", "scheduler=exponential")
    train_step(run, *twenty_batches(run)[0])
    run.scheduler.step()
    rates = [part.param_groups[0]["lr"] for part in run.optimizer.parts]
    assert rates == pytest.approx([9e-4, 9e-4])
    other = make_run("optimizer=muon")
    other.model.load_state_dict(run.model.state_dict())
    other.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    assert other.lr == pytest.approx(9e-4)
    batch = twenty_batches(run)[1]
    train_step(run, *batch), train_step(other, *batch)
    assert_same_bits(run.model, other.model)


def test_excluded_biases_feel_no_decay(make_run):
    run = make_run("optimizer=sgd", "regularization.l2=0.5", "regularization.l2_biases=false")
    decays = {id(p): g["weight_decay"] for g in run.optimizer.param_groups for p in g["params"]}
    for parameter in run.model.parameters():
        assert decays[id(parameter)] == (0.5 if parameter.ndim >= 2 else 0.0)


def test_without_switches_parameters_stay_one_plain_list():
    model = nn.Linear(2, 2)
    assert optimizers.param_groups(model, False, False) == list(model.parameters())


def test_a_copy_of_muon_steps_its_own_weights():
    layers = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = optimizers.param_groups(layers, exclude_bias_and_norm=False, split_hidden=True)
    pair = copy.deepcopy((layers, optimizers.Muon(groups, lr=0.1)))
    before = copy.deepcopy(layers.state_dict())
    pair[0](torch.ones(2, 3)).square().sum().backward()
    pair[1].param_groups[0]["lr"] = 0.2
    pair[1].step()
    assert all(torch.equal(layers.state_dict()[name], before[name]) for name in before)
    assert not any(torch.equal(pair[0].state_dict()[name], before[name]) for name in before)
    shared = [group for part in pair[1].parts for group in part.param_groups]
    assert all(map(lambda a, b: a is b, shared, pair[1].param_groups))
