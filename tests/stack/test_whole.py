"""Networks of any class stack by vmap once that is proved; what does not is named, and why."""

import copy

import ownnets
import pytest
import torch
from torch import nn
from trained import compare, distance, make, solo, together

from knobs.stack import proof
from knobs.stack.alike import differs
from knobs.stack.layers import CannotStack, fast
from knobs.stack.loop import Stack
from knobs.stack.noise import Noise
from knobs.stack.proof import form_of
from knobs.stack.whole import Whole
from knobs.training import checkpoint

CPU = torch.device("cpu")
WINE = ["data=wine", "training.batch_size=32"]  # 4 steps an epoch
SHORT = [*WINE, "training.epochs=3"]
IMAGE = ["data=digits", "training.batch_size=512", "training.epochs=1"]
DROPOUT = "regularization.dropout=0.3"
FREE = [
    ["seed=0", "optimizer.lr=1e-3"],
    ["seed=1", DROPOUT, "optimizer=momentum", "regularization.l1=1e-4", "training.clip_norm=1"],
    ["seed=2", "regularization.dropout=0.5", "regularization.l2=1e-2", "scheduler=one_cycle"],
]


@pytest.fixture(autouse=True)
def admitted(monkeypatch):
    monkeypatch.setattr("knobs.targets._ADMITTED", ("ownnets.",))  # as KNOBS_ALLOW does


def own(name, **options):
    """The config's section of a network of ownnets."""
    return {"_target_": f"ownnets.{name}", "_partial_": True, "name": name, **options}


def rows(base, free=FREE):
    return [[*base, *more] for more in free]


@pytest.mark.parametrize(
    ("name", "base"),
    [("Residual", SHORT), ("Tied", SHORT), ("Frozen", SHORT), ("ResNet", IMAGE),
     ("Attention", IMAGE), ("Recurrent", IMAGE)],
)  # fmt: skip
def test_networks_of_ones_own_float64(name, base):
    """Weights, buffers, states, metrics: with dropout by the run's own stream."""
    worst, runs = compare(rows(base), model=own(name))
    assert worst < 1e-8
    assert isinstance(Stack(runs).model, Whole)


def without_key_bias(run):
    """A bias of a softmax's keys has no gradient but rounding, of which Adam makes steps."""
    name, width = "layer.self_attn.in_proj_bias", 8
    parameter = run.model.get_parameter(name)
    states = (value for value in run.optimizer.state[parameter].values() if value.ndim)
    for tensor in (parameter.data, run.best_weights[name], *states):
        tensor[width : 2 * width] = 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "base"),
    [
        *((name, [*WINE, "training.epochs=50"]) for name in ("Residual", "Tied", "Frozen")),
        *((n, ["data=digits", "training.batch_size=128", "training.epochs=23"])
          for n in ("ResNet", "Attention", "Recurrent")),
    ],
)  # fmt: skip
def test_200_steps_float64(name, base):
    hide = without_key_bias if name == "Attention" else None
    worst, runs = compare(rows(base), hide=hide, model=own(name))
    assert worst < 1e-8
    assert min(run.progress.step for run in runs) >= 200


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Decides", "decides by what it computes"),
        ("Reads", "decides by what it computes"),
        ("Draws", "draws random numbers, which only Dropout layers may"),
        ("FunctionalDropout", "draws random numbers, which only Dropout layers may"),
        ("DrawsFromPython", "draws random numbers from Python or NumPy"),
        ("Counts", "steps changes from step to step, and is no buffer"),
        ("Reassigns", r"the buffer mean: differ by 0\.\d+, stacked from alone"),
        ("OfItsOwn", "mask differs from run to run"),
        ("WithLSTM", r"rnn \(LSTM\) has no batching rule in torch \(aten::lstm\)"),
        ("WithRNN", r"rnn \(RNN\) has no batching rule in torch \(aten::rnn_tanh\)"),
        ("WithDroppingGRU", r"rnn \(.*GRU\) has no batching rule in torch \(aten::gru\)"),
        ("WithCell", r"cell \(GRUCell\) has no batching rule in torch \(aten::gru_cell\)"),
        ("WithSpectralNorm", r"layer \(Linear\) has no batching rule in torch"),
        ("NewSpectralNorm", r".*\(_SpectralNorm\) has no batching rule in torch"),
        ("WithWeightNorm", r".*\(_WeightNorm\) has no batching rule in torch \(aten::_weight_norm"),
        ("CumulativeNorm", r"norm \(BatchNorm1d\) decides by what it computes"),
        ("RandomReLU", r"act \(RReLU\) has no batching rule in torch \(aten::rrelu"),
        ("HoldsItsWeight", "the gradient of first.weight differs"),
        ("Hidden", "fails in float64"),
    ],
)
def test_what_cannot_be_stacked_is_named(name, reason):
    runs = [make([*SHORT, f"seed={i}"], torch.float32, model=own(name)) for i in range(2)]
    weights = copy.deepcopy(runs[0].model.state_dict())
    with pytest.raises(CannotStack, match=f"^{name}: {reason}"):
        Stack(runs)
    assert all(map(torch.equal, runs[0].model.state_dict().values(), weights.values()))
    assert torch.get_default_dtype() is torch.float32


def test_the_proof_moves_nothing():
    run = make(SHORT, torch.float32, model=own("Residual"))
    weights, draws = copy.deepcopy(run.model.state_dict()), torch.default_generator.get_state()
    proof._known.clear()
    proof.check(run.model, run.data.train.x, 32)
    assert all(map(torch.equal, run.model.state_dict().values(), weights.values()))
    assert torch.equal(torch.default_generator.get_state(), draws)
    assert [known.fault for known in proof._known] == [""]


def test_a_row_is_a_whole_network_made_of_views():
    runs = [make([*SHORT, f"seed={i}"], torch.float64, model=own("Tied")) for i in range(3)]
    stack = Stack(runs)
    storages = {p.untyped_storage().data_ptr() for p in stack.parameters}
    for run in runs:
        assert {p.untyped_storage().data_ptr() for p in run.model.parameters()} <= storages
        assert run.model.a.weight is run.model.b.weight
    x = torch.randn(3, 5, 13).double()
    found = stack.model.eval()(x)
    for k, run in enumerate(stack.runs):
        torch.testing.assert_close(found[k], run.model.eval()(x[k]), rtol=1e-12, atol=1e-14)


def test_what_is_frozen_and_alike_is_shared_and_never_moves():
    runs = [make([*SHORT, f"seed={i}"], torch.float64, model=own("Frozen")) for i in range(2)]
    twin = copy.deepcopy(runs[0].model.first)
    runs[1].model.first.load_state_dict(twin.state_dict())
    first = [run.model.blocks[0][3].weight.clone() for run in runs]
    stack = Stack(runs)
    held = {id(view) for leaf in stack.model.leaves for p in leaf.stacked for view in p.views}
    assert id(runs[1].model.first.weight) not in held
    together(runs)
    for run, weight in zip(runs, first, strict=True):
        assert torch.equal(run.model.blocks[0][3].weight, weight)
        assert torch.equal(run.model.first.weight, twin.weight)
        assert not run.model.first.weight.requires_grad


def test_a_frozen_layer_of_a_plain_sequence_stays_still():
    settings = [[*SHORT, f"seed={i}", "regularization.l2=0.1", "regularization.l1=0.1",
                 "optimizer=adamw"] for i in range(2)]  # fmt: skip
    pairs = [[make(setting, torch.float64) for setting in settings] for _ in range(2)]
    for run in (run for pair in pairs for run in pair):
        run.model.hidden[0].requires_grad_(False)
        run.__post_init__()
    before = [run.model.hidden[0].weight.clone() for run in pairs[0]]
    for run in pairs[0]:
        solo(run)
    together(pairs[1])
    for alone, row, weight in zip(*pairs, before, strict=True):
        assert torch.equal(row.model.hidden[0].weight, weight)
        assert distance(row.model.parameters(), alone.model.parameters()) < 1e-10


def test_a_row_leaves_its_stack_and_goes_on_alone(tmp_path):
    setting = [*WINE, "training.epochs=4", DROPOUT]
    whole = make([*setting, "seed=1"], torch.float64, model=own("Residual"))
    solo(whole)
    runs = [
        make([*setting, f"seed={i}", f"training.epochs={2 * i + 2}"], torch.float64,
             model=own("Residual"))
        for i in range(2)
    ]  # fmt: skip
    together(runs)
    assert distance(runs[1].model.parameters(), whole.model.parameters()) < 1e-10
    checkpoint.save_last(tmp_path / "0", checkpoint.snapshot(runs[0]))
    again = make([*setting, "seed=0"], torch.float64, model=own("Residual"))
    checkpoint.restore(again, checkpoint.load_last(tmp_path / "0"))
    solo(again)
    alone = make([*setting, "seed=0"], torch.float64, model=own("Residual"))
    solo(alone)
    assert distance(again.model.parameters(), alone.model.parameters()) < 1e-10


def test_members_of_ones_own_network_are_rows():
    settings = [[*SHORT, f"seed={i}", "training.members=2", DROPOUT] for i in range(2)]
    assert compare(settings, model=own("Residual"))[0] < 1e-8


def test_padding_of_an_embedding_learns_nothing():
    """vmap's own rule forgets padding_idx."""
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(ownnets.Words().double())
    alone, ids = copy.deepcopy(networks), torch.randint(0, 9, (2, 6, 5))
    ids[:, :, -1] = 0
    form = form_of(networks, Noise(2, CPU), [ids[0]], 6).train()
    form(ids).square().sum().backward()
    grads = {id(v): p.row(p.parameter.grad, k, v)
             for leaf in form.leaves for p in leaf.stacked for k, v in enumerate(p.views)}  # fmt: skip
    for k, network in enumerate(alone):
        network(ids[k]).square().sum().backward()
        assert not network.embedding.weight.grad[0].any()
        for view, weight in zip(networks[k].parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(grads[id(view)], weight.grad)


SEQUENCES = {
    "shared activation": lambda act=nn.Tanh(): [nn.Linear(13, 8), act, nn.Linear(8, 8), act],  # noqa: B008
    "torch's dropout": lambda: [nn.Linear(13, 8), nn.Dropout(0.3), nn.ReLU()],
    "begins in place": lambda: [nn.ReLU(inplace=True), nn.Linear(13, 8)],
    "saved for autograd": lambda: [nn.Linear(13, 8), nn.Sigmoid(), nn.ReLU(), nn.Linear(8, 8)],
    "batch norm over places": lambda: [
        nn.Unflatten(1, (1, 13)), nn.Conv1d(1, 8, 6), nn.BatchNorm1d(8), nn.Flatten()
    ],
    "places, fast": lambda: [nn.Linear(13, 8), nn.ELU(inplace=True), nn.Linear(8, 8)],
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_plain_sequences_of_ones_own(name):
    """Fast where every layer is known, whole where one is not: each row is its network."""
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(nn.Sequential(*SEQUENCES[name]()).double())
    alone, noise = copy.deepcopy(networks), Noise(2, CPU)
    x = torch.randn(2, 6, 13).double()
    form = form_of(networks, noise, [x[0].clone()], 6).train()
    assert isinstance(form, Whole) != fast(alone[0])
    noise.seed([5, 6])
    kept = x.clone()
    found = form(x.expand_as(x))
    found.square().sum().backward()
    assert torch.equal(x, kept)
    for k, network in enumerate(alone):
        torch.manual_seed(5 + k)
        expected = network.train()(x[k].clone())
        expected.square().sum().backward()
        torch.testing.assert_close(found[k], expected, rtol=1e-10, atol=1e-12)
    leaves = [p for m in form.modules() for p in getattr(m, "stacked", [])]
    for p in leaves:
        for k, view in enumerate(p.views):
            names = {id(w): n for n, w in networks[k].named_parameters()}
            grad = dict(alone[k].named_parameters())[names[id(view)]].grad
            torch.testing.assert_close(p.row(p.parameter.grad, k, view), grad)


def test_layers_with_hooks_or_shared_weights_are_not_fast():
    tied = nn.Linear(4, 4)
    hooked = nn.Sequential(nn.Linear(4, 4))
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    patched = nn.Sequential(nn.Linear(4, 4))
    patched[0].forward = lambda x: x
    twice = nn.Sequential(tied, nn.ReLU(), tied)
    layers = nn.Sequential(nn.TransformerEncoderLayer(4, 2))
    for model in (
        hooked,
        patched,
        twice,
        layers,
        nn.Sequential(nn.MaxPool2d(2, return_indices=True)),
    ):
        assert not fast(model)
    assert fast(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)))


def test_differs_names_the_first_difference():
    a, b = (
        nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1)),
        nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.2)),
    )
    assert differs(a, a) == differs(a, copy.deepcopy(a)) == ""
    assert differs(a, b) == "1.negative_slope"
    assert differs(nn.Dropout(0.1), nn.Dropout(0.2)) == ""
    assert differs(nn.Linear(2, 2), nn.Linear(2, 3)) == "out_features"
    assert differs(a, nn.Sequential(nn.Linear(2, 2))) == "1"
    frozen = copy.deepcopy(a).requires_grad_(False)
    assert differs(a, frozen) == "0.weight"
    b[1].negative_slope = 0.1
    a.own, b.own = _times(2), _times(2)
    assert differs(a, b) == ""
    b.own = _times(3)
    assert differs(a, b) == "own"


def _times(factor):
    return lambda x: factor * x
