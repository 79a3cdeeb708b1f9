"""Text models: what a bag is of its tokens, and how its embeddings begin."""

import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.shape import Shape

SHAPE = Shape((6,), 3, vocabulary=2000)
IDS = torch.tensor([[5, 7, 7, 9, 0, 0], [4, 0, 0, 0, 0, 0], [0] * 6, [3, 4, 5, 6, 7, 8]])


def made(*overrides):
    base = ["data=python_docs", "model=text_bag", "tracking=local"]
    config = command.checked([*base, *overrides])
    torch.manual_seed(0)
    net = build.model(config, SHAPE)
    build.initialize(config, net, IDS)
    return net


@pytest.mark.parametrize(("pool", "divisor"), [("mean", 1.0), ("root", 0.5)])
def test_a_bag_is_the_sum_by_a_power_of_the_number_of_tokens(pool, divisor):
    net = made(f"model.pool={pool}")
    weight, head = net.embedding.weight, net.head
    for ids, found in zip(IDS, net(IDS), strict=True):
        real = ids[ids > 0]
        total = weight[real].sum(0) / max(1, len(real)) ** divisor
        assert torch.allclose(found, head(total), atol=1e-6)


def test_a_text_keeps_its_variance_whatever_its_length():
    """Of independent embeddings: that of the mean falls with the length, that of the root stays."""
    long = Shape((400,), 3, vocabulary=2000)
    config = command.checked(["data=python_docs", "model=text_bag", "tracking=local"])
    net = build.model(config, long)
    with torch.no_grad():
        torch.nn.init.normal_(net.embedding.weight)
        ids = torch.randperm(1998)[:400] + 2
        for count in (1, 20, 400):
            text = torch.where(torch.arange(400) < count, ids, 0).unsqueeze(0)
            assert net.body(net.embedding(text), text != 0).std().item() == pytest.approx(
                1, abs=0.2
            )


@pytest.mark.parametrize(("overrides", "std"), [
    ([], 0.05), (["model.embedding_std=0.5"], 0.5), (["init=orthogonal"], 0.05),
    (["init=normal", "init.std=0.02"], 0.02),
])  # fmt: skip
def test_embeddings_begin_with_their_std_unless_init_has_one(overrides, std):
    weight = made(*overrides).embedding.weight
    assert weight[1:].std().item() == pytest.approx(std, rel=0.01)
    assert not weight[0].any()


def test_a_config_of_before_makes_the_network_of_then():
    """Without the keys, the mean, and embeddings of N(0, 1)."""
    config = command.checked(["data=python_docs", "model=text_bag", "tracking=local"])
    older = {k: v for k, v in config["model"].items() if k not in ("pool", "embedding_std")}
    net = build.model(config | {"model": older}, SHAPE)
    assert (net.body.root, net.embedding.first_std) == (False, 1.0)
