"""Normalization of convolutions: the model's own, the one that is asked for, none."""

import pytest
import torch
from torch import nn

from knobs import build
from knobs.config import command
from knobs.errors import ConfigError
from knobs.identity import differences
from knobs.shape import Shape
from knobs.training.setup import assemble

CNN = ["model=cnn", "model.width=4", "tracking=local"]
CPU = torch.device("cpu")


def network(*more: str) -> nn.Module:
    return build.model(command.checked([*CNN, *more]), Shape((1, 8, 8), 10))


@pytest.mark.parametrize(
    ("more", "kind", "biases"),
    [
        ([], nn.BatchNorm2d, 0),
        (["model.own_norm=null"], None, 3),
        (["model.own_norm=null", "regularization=batchnorm"], nn.BatchNorm2d, 3),
        (["regularization=layernorm"], nn.GroupNorm, 3),
        (["model.own_norm=layer"], nn.GroupNorm, 3),
    ],
)
def test_the_norm_that_is_asked_for_replaces_the_models_own(more, kind, biases):
    modules = [*network(*more).modules()]
    norms = [type(m) for m in modules if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert norms == [kind] * 3 * (kind is not None)
    assert sum(m.bias is not None for m in modules if isinstance(m, nn.Conv2d)) == biases


def test_a_bias_in_front_of_batch_norm_would_do_nothing():
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    biased = network("model.own_norm=null", "regularization=batchnorm").train()
    before = biased(x)
    for conv in (m for m in biased.modules() if isinstance(m, nn.Conv2d)):
        nn.init.constant_(conv.bias, 3.0)
    assert torch.allclose(before, biased(x), atol=1e-4)


def test_an_older_record_is_of_a_network_without_it():
    new, old = (command.checked([*CNN, *more]) for more in ([], ["model.own_norm=null"]))
    assert differences(new, old) == ["model.own_norm"]
    del old["model"]["own_norm"]
    model = build.model(old, Shape((1, 8, 8), 10))
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert differences(old, command.checked([*CNN, "model.own_norm=null"])) == []


def test_a_last_batch_of_one_picture_is_refused_only_where_the_model_cannot_take_it():
    def setup(*more: str) -> nn.Module:
        config = command.checked([*CNN, "training.batch_size=48", "data.test=0.5", *more])
        data = build.data(config)
        x, y = data.train.x[:97], data.train.y[:97]  # 2 x 48 + 1
        object.__setattr__(data, "train", type(data.train)(x, y))
        return assemble(config, data, CPU).model

    model = setup()
    trained = model.train()(torch.zeros(1, 1, 8, 8))
    assert trained.shape == (1, 10)
    with pytest.raises(ConfigError, match="a last batch of 1, which batch norm cannot take"):
        setup("model.depth=4")  # 8 -> 1: one place, of which there is no variance
    assert setup("model.depth=4", "training.drop_last=true") is not None
