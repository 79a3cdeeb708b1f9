"""Every init's empirical mean and variance against the closed form for its fans."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from knobs import build, init
from knobs.config import command
from knobs.errors import ConfigError

FAN_IN, FAN_OUT = 300, 500
CONV_IN, CONV_OUT, KERNEL = 24, 40, 9


def initialized(*overrides, activation="relu"):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(FAN_IN, FAN_OUT),
        nn.Conv2d(CONV_IN, CONV_OUT, 3),
        nn.BatchNorm2d(8),
        nn.Embedding(50, 16),
    )
    net[2].weight.data.fill_(3), net[0].bias.data.fill_(3)
    build.initialize(command.checked([f"activation={activation}", *overrides]), net, torch.zeros(1))
    return net


def fans(weight):
    receptive = weight[0][0].numel() if weight.ndim > 2 else 1
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def xavier(weight, gain):
    return gain**2 * 2 / sum(fans(weight))


def kaiming(weight, gain):
    return gain**2 / fans(weight)[0]


RELU = math.sqrt(2)
CASES = [
    ("constant", lambda w: 0.0, 0.01),
    ("uniform", lambda w: 0.1**2 / 12, 0.0),
    ("normal", lambda w: 0.02**2, 0.0),
    ("trunc_normal", lambda w: 0.02**2, 0.0),
    ("xavier_uniform", lambda w: xavier(w, RELU), 0.0),
    ("xavier_normal", lambda w: xavier(w, RELU), 0.0),
    ("kaiming_uniform", lambda w: kaiming(w, RELU), 0.0),
    ("kaiming_normal", lambda w: kaiming(w, RELU), 0.0),
    ("orthogonal", lambda w: 2 / max(fans(w)[0], w.shape[0]), 0.0),
    ("common", lambda w: xavier(w, 1.0) if w.ndim == 2 else 2 / fans(w)[1], 0.0),
]


@pytest.mark.parametrize(("name", "variance", "mean"), CASES, ids=[c[0] for c in CASES])
def test_mean_and_variance(name, variance, mean):
    net = initialized(f"init={name}")
    for layer in (net[0], net[1]):
        weight, expected = layer.weight.detach(), variance(layer.weight)
        # Sampling error of a mean and of a variance over n weights, five sigma.
        n = weight.numel()
        assert weight.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(expected / n) + 1e-8)
        assert weight.var(correction=0).item() == pytest.approx(
            expected, rel=5 * math.sqrt(2 / n), abs=1e-9
        )
        assert not layer.bias.any()
    assert torch.equal(net[2].weight, torch.ones(8))
    assert not net[2].bias.any()


@pytest.mark.parametrize(("low", "high"), [(-0.3, 0.1)])
def test_uniform_stays_in_its_bounds(low, high):
    weight = initialized("init=uniform", f"init.a={low}", f"init.b={high}")[0].weight
    assert low <= weight.min() < low + 1e-3
    assert high - 1e-3 < weight.max() <= high
    assert weight.mean().item() == pytest.approx((low + high) / 2, abs=2e-3)


def test_trunc_normal_is_cut():
    weight = initialized("init=trunc_normal", "init.std=1", "init.a=-1", "init.b=1")[0].weight
    assert weight.abs().max() <= 1
    # Variance of a standard normal cut at one sigma: 1 - 2 phi(1) / (2 Phi(1) - 1).
    phi, mass = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erf(1 / math.sqrt(2))
    assert weight.var().item() == pytest.approx(1 - 2 * phi / mass, rel=0.02)


def test_orthogonal_rows():
    weight = initialized("init=orthogonal", "init.gain=1")[0].weight
    product = weight.T @ weight
    assert torch.allclose(product, torch.eye(FAN_IN), atol=1e-5)


def test_default_is_torchs_own_draw():
    torch.manual_seed(0)
    expected = nn.Linear(FAN_IN, FAN_OUT).weight
    assert torch.equal(initialized("init=default")[0].weight, expected)
    bound = 1 / math.sqrt(FAN_IN)
    assert expected.var().item() == pytest.approx(bound**2 / 3, rel=0.02)


def test_fan_out_and_nonlinearity_are_torchs_arguments():
    weight = initialized(
        "init=kaiming_normal", "init.mode=fan_out", "init.nonlinearity=leaky_relu", "init.a=1"
    )[0].weight
    assert weight.var().item() == pytest.approx(1 / FAN_OUT, rel=0.02)


# TUNING values, and torch's own where torch is right.
GAINS = {
    "relu": 1.4142, "gelu": 1.535, "silu": 1.678, "mish": 1.488, "elu": 1.246, "selu": 1.0,
    "tanh": 5 / 3, "sigmoid": 1.0, "identity": 1.0, "leaky_relu": math.sqrt(2 / (1 + 0.01**2)),
    "prelu": math.sqrt(2 / (1 + 0.25**2)),
}  # fmt: skip


@pytest.mark.parametrize("activation", sorted(GAINS))
def test_gain_follows_the_activation(activation):
    plain = command.checked([f"activation={activation}"])
    assert init.gain(build.make("activation", plain["activation"])()) == pytest.approx(
        GAINS[activation], abs=2e-3
    )
    weight = initialized("init=kaiming_normal", activation=activation)[0].weight
    assert weight.std().item() * math.sqrt(FAN_IN) == pytest.approx(GAINS[activation], rel=0.02)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "selu", "mish", "elu"])
def test_gain_keeps_the_variance_from_layer_to_layer(activation):
    """z ~ N(0, 1) -> activation -> layer: what comes out has variance 1 again."""
    plain = command.checked([f"activation={activation}", "init=kaiming_normal"])
    act, layer = build.make("activation", plain["activation"])(), nn.Sequential(nn.Linear(900, 900))
    torch.manual_seed(0)
    build.initialize(plain, layer, torch.zeros(1))
    with torch.no_grad():
        outputs = layer(act(torch.randn(500, 900)))
    assert outputs.var().item() == pytest.approx(1, abs=0.03)


def test_head_has_gain_one():
    plain = command.checked(["init=kaiming_normal", "activation=relu"])
    net = nn.Sequential()
    net.add_module("head", nn.Linear(FAN_IN, FAN_OUT))
    build.initialize(plain, net, torch.zeros(1))
    assert net.head.weight.var().item() == pytest.approx(1 / FAN_IN, rel=0.03)


def test_lstm_gates_have_fans_of_their_own():
    plain = command.checked(
        ["init=xavier_normal", "init.gain=1", "data=python_docs", "model=text_lstm"]
    )
    net = nn.LSTM(100, 60)
    build.initialize(plain, net, torch.zeros(1))
    assert net.weight_ih_l0.var().item() == pytest.approx(2 / (100 + 60), rel=0.05)


def test_every_layer_of_torch_that_has_weights_is_filled():
    """Where one is not, what `init` says would not be so. Xavier with gain 1: 2 / (in + out)."""
    plain = command.checked(["init=xavier_normal", "init.gain=1"])
    weights = {  # what has them, and how they are joined: gates or projections, fans of each
        nn.RNN(100, 60): [(1, 160, 2), (1, 120, 2)],
        nn.GRU(100, 60): [(3, 160, 2), (3, 120, 2)],
        nn.LSTM(100, 60, proj_size=30): [(4, 160, 2), (4, 90, 2), (1, 90, 2)],
        nn.GRUCell(100, 60): [(3, 160, 2), (3, 120, 2)],
        nn.Conv3d(20, 12, 3): [(1, 32 * 27, 5)],
        nn.ConvTranspose2d(20, 12, 3): [(1, 32 * 9, 4)],
    }
    for layer, known in weights.items():
        build.initialize(plain, layer, torch.zeros(1))
        found = [w for name, w in layer.named_parameters() if "weight" in name]
        for weight, (parts, fans_of_both, dims) in zip(found, known, strict=True):
            assert weight.ndim == dims
            for part in weight.chunk(parts):
                wanted = pytest.approx(2 / fans_of_both, rel=8 / math.sqrt(part.numel()))
                assert part.var().item() == wanted
        assert not any(b.any() for name, b in layer.named_parameters() if "bias" in name)


def test_norms_begin_at_one_with_and_without_weights():
    plain = command.checked(["init=xavier_normal"])
    norms = [nn.BatchNorm3d(8), nn.InstanceNorm1d(8, affine=True), nn.RMSNorm(8)]
    for norm in norms:
        norm.weight.data.fill_(3)
        build.initialize(plain, norm, torch.zeros(1))
        assert torch.equal(norm.weight, torch.ones(8))
    without = [nn.BatchNorm2d(8, affine=False), nn.LayerNorm(8, elementwise_affine=False)]
    for norm in [*without, nn.InstanceNorm2d(8), nn.RMSNorm(8, elementwise_affine=False)]:
        build.initialize(plain, norm, torch.zeros(1))
        assert norm.weight is None


def test_lsuv_gives_every_layer_unit_variance(make_run):
    run = make_run("init=lsuv", "model.depth=4", "activation=gelu", "init.tolerance=0.01")
    sample = run.data.train.x[:256]
    linear = [m for m in run.model.modules() if isinstance(m, nn.Linear)]
    seen = []
    for layer in linear:
        layer.register_forward_hook(lambda m, i, o: seen.append(o.var().item()))
    with torch.no_grad():
        run.model(sample)
    assert seen == pytest.approx([1.0] * 5, abs=0.011)


def test_tensor_loads_a_model_and_names_misfits(tmp_path, make_run):
    source = make_run("seed=7").model.state_dict()
    path = tmp_path / "w.safetensors"
    save_file(source, path)
    whole = make_run("init=tensor", f"init.path={path}").model.state_dict()
    assert all(torch.equal(whole[k], source[k]) for k in source)
    part = make_run("init=tensor", f"init.path={path}", "init.layers=[head]").model.state_dict()
    assert torch.equal(part["head.weight"], source["head.weight"])
    assert not torch.equal(part["hidden.0.weight"], source["hidden.0.weight"])
    with pytest.raises(
        ConfigError,
        match=r"hidden.0.weight: the model's shape is \(32, 64\), the file's \(64, 64\)",
    ):
        make_run("init=tensor", f"init.path={path}", "model.width=32")
    with pytest.raises(ConfigError, match="hidden.4.weight: the model has it"):
        make_run("init=tensor", f"init.path={path}", "model.depth=3")


def test_tensor_reads_torchs_format_as_data_only(tmp_path, make_run):
    source = make_run("seed=7").model.state_dict()
    torch.save(source, tmp_path / "w.pt")
    loaded = make_run("init=tensor", f"init.path={tmp_path / 'w.pt'}").model.state_dict()
    assert torch.equal(loaded["head.weight"], source["head.weight"])
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")  # a pickled object, not weights
    with pytest.raises(ConfigError, match="not a file of weights"):
        make_run("init=tensor", f"init.path={tmp_path / 'model.pt'}")


@pytest.mark.parametrize(("overrides", "zero"), [
    ((), False),
    (("model=linear",), True),
    (("data=diabetes",), True),
    (("data=diabetes", "training.members=2"), True),
    (("data=diabetes", "init=default"), False),
    (("data=diabetes", "init=constant"), False),
    (("data=diabetes", "training.zero_head=false"), False),
    (("training.zero_head=true", "init=orthogonal"), True),
])  # fmt: skip
def test_the_last_layer_starts_at_zero_where_the_config_says_so(overrides, zero, make_run):
    run = make_run("tracking=local", *overrides)
    for network in run.networks:
        assert (not network.head.weight.any() and not network.head.bias.any()) == zero
        assert (
            all(layer.weight.any() for layer in network.hidden if hasattr(layer, "weight"))
            if (hasattr(network, "hidden"))
            else True
        )
    outputs = run.networks[0](run.data.val.x)
    assert (outputs == 0).all() == zero


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("overrides", "least"), [
    (("data=diabetes", "model=linear"), 0.40), (("data=diabetes",), 0.40),
    (("data=wine", "model=linear"), 0.93), (("data=breast_cancer", "model=linear"), 0.93),
    (("data=digits", "model=linear"), 0.93),
])  # fmt: skip
def test_the_defaults_train_every_bundled_set(overrides, least, seed, train):
    assert train(*overrides, f"seed={seed}").value >= least
