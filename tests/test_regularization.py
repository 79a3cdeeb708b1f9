"""L1 and L2 against their formulas, mixup against its own, dropout and norms in place."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from knobs import rng
from knobs.models.layers import Dropout
from knobs.regularization import decayed, l1_norm, mixup
from knobs.training.batches import epoch_batches
from knobs.training.loop import batch_loss, train_step


def gradients(run, x, y):
    run.model.zero_grad()
    batch_loss(run, x, y).backward()
    return [p.grad.clone() for p in run.model.parameters()]


def test_l1_gradient_is_coefficient_times_sign_on_weights_only(make_run):
    plain, penalised = make_run(), make_run("regularization.l1=0.01")
    x, y, _ = next(epoch_batches(plain))
    for parameter, a, b in zip(
        plain.model.parameters(), gradients(plain, x, y), gradients(penalised, x, y), strict=True
    ):
        expected = 0.01 * parameter.sign() if parameter.ndim >= 2 else torch.zeros_like(parameter)
        assert torch.allclose(b - a, expected, atol=1e-7)


def test_l1_norm_value():
    weights = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0], [-0.5]])]
    assert l1_norm(torch.zeros(4, 2), weights).item() == 6.5
    rows = [torch.stack([w, -2 * w]) for w in weights]
    assert l1_norm(torch.zeros(2, 4, 2), rows).tolist() == [6.5, 13.0]


def test_l2_is_the_optimizers_weight_decay(make_run):
    """One SGD step: w - lr (g + l2 w), biases included, as torch does it."""
    run = make_run("optimizer=sgd", "regularization=l2", "regularization.l2=0.1")
    x, y, _ = next(epoch_batches(run))
    before = [p.detach().clone() for p in run.model.parameters()]
    slopes = gradients(run, x, y)
    train_step(run, x, y)
    for parameter, old, slope in zip(run.model.parameters(), before, slopes, strict=True):
        assert torch.allclose(parameter, old - 0.1 * (slope + 0.1 * old), atol=1e-7)


def test_elastic_net_is_both(make_run):
    run = make_run("optimizer=sgd", "regularization=elastic_net")
    assert run.penalties == {"l1": 1e-5}
    assert run.optimizer.defaults["weight_decay"] == 1e-4


def test_penalised_weights_are_neither_biases_nor_norms(make_run):
    run = make_run("regularization=batchnorm")
    shapes = [tuple(w.shape) for w in decayed(run.model)]
    assert shapes == [(64, 64), (64, 64), (10, 64)]


def test_mixup_is_the_formula_and_follows_its_stream():
    x, y = torch.randn(16, 3), torch.arange(16)
    mixed, partner, w = mixup(x, y, 0.4, rng.generator(0, "t"))
    again = mixup(x, y, 0.4, rng.generator(0, "t"))
    assert torch.equal(mixed, again[0])
    assert torch.allclose(mixed, w * x + (1 - w) * x[partner])
    assert sorted(partner.tolist()) == list(range(16))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_mixup_weight_is_beta(alpha):
    """Mean 1/2 and variance 1 / (4 (2 alpha + 1))."""
    x, y = torch.zeros(2, 1), torch.zeros(2)
    drawn = torch.tensor([mixup(x, y, alpha, rng.generator(0, "b", 0, i))[2] for i in range(4000)])
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_mixed_loss_weighs_both_targets(make_run):
    run = make_run("regularization=mixup")
    x, y, _ = next(epoch_batches(run))
    rng.seed_global(7, run.device)
    found = batch_loss(run, x, y)
    mixed, partner, w = mixup(x, y, 0.2, rng_at(7))
    out = run.model(mixed)
    expected = w * F.cross_entropy(out, y) + (1 - w) * F.cross_entropy(out, partner)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def rng_at(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "model", ["mlp", "linear", "cnn", "text_bag", "text_cnn", "text_lstm", "text_transformer"]
)
def test_dropout_reaches_every_model(model, make_run):
    data = ["data=python_docs"] if model.startswith("text") else []
    data += ["training.zero_head=false"]  # of a last layer at 0 every output is
    run = make_run(f"model={model}", *data, "regularization=dropout", "regularization.dropout=0.3")
    rates = {m.p for m in run.model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.3}
    x = next(epoch_batches(run))[0]
    run.model.train()
    assert not torch.equal(run.model(x), run.model(x))
    run.model.eval()
    assert torch.equal(run.model(x), run.model(x))


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [("batch", (nn.BatchNorm1d, nn.BatchNorm2d)), ("layer", (nn.LayerNorm, nn.GroupNorm))],
)
@pytest.mark.parametrize("model", ["mlp", "cnn", "text_bag", "text_cnn", "text_lstm"])
def test_norm_layers_reach_the_models(model, norm, kinds, make_run):
    data = ["data=python_docs"] if model.startswith("text") else []
    data += ["model.own_norm=null"] if model == "cnn" else []
    with_norm = make_run(f"model={model}", *data, f"regularization={norm}norm")
    without = make_run(f"model={model}", *data)
    assert any(isinstance(m, kinds) for m in with_norm.model.modules())
    assert not any(isinstance(m, kinds) for m in without.model.modules())


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    """Each of the four numbers that share 64 random bits; five sigma."""
    layer, x = Dropout(p), torch.ones(100_000, 4, requires_grad=True)
    torch.default_generator.manual_seed(0)
    y = layer(x)
    dropped = (y == 0).double()
    sigma = (p * (1 - p) / len(x)) ** 0.5
    assert ((dropped.mean(0) - p).abs() <= 5 * sigma + 2**-17).all()
    together = (dropped[:, :, None] * dropped[:, None]).mean(0)  # independent: p * p
    pairs = together[~torch.eye(4, dtype=torch.bool)]
    assert ((pairs - p * p).abs() <= 5 * (p * p * (1 - p * p) / len(x)) ** 0.5 + 2**-16).all()
    torch.testing.assert_close(
        y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)), rtol=2e-4, atol=0
    )
    y.sum().backward()
    assert torch.equal(x.grad, y)  # the gradient takes the same mask
    assert torch.equal(layer.eval()(x), x)
