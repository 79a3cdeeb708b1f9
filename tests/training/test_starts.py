"""A network with a frozen backbone is built once for a sweep; the others are copies with its bits."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import assert_same_bits

from knobs import build
from knobs.config import command
from knobs.training import loop, starts
from knobs.training.setup import assemble

CPU = torch.device("cpu")
LINES = ["data=digits", "model=torchvision", "model.architecture=shufflenet_v2_x0_5",
         "tracking=local", "model.freeze=backbone", "training.epochs=1",
         "regularization.dropout=0.2"]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("KNOBS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(starts, "_starts", starts.OrderedDict())


@pytest.fixture(scope="module")
def data():
    return build.data(command.checked(LINES))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights for this network."""
    from knobs.torchvision_shim import torchvision as tv

    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(tv.models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), path)
    return path


@pytest.fixture
def built(monkeypatch):
    """The seeds of the networks that were built, one after the other."""
    seeds, untrained = [], build.untrained

    def seen(config, shape):
        seeds.append(config["seed"])
        return untrained(config, shape)

    monkeypatch.setattr(build, "untrained", seen)
    return seeds


def run_of(data, *overrides):
    """A run, and the state of torch's generator behind it."""
    run = assemble(command.checked([*LINES, *overrides]), data, CPU)
    return run, torch.get_rng_state()


def test_each_seed_is_built_once_and_a_copy_has_its_bits(data, weights, built):
    file = f"model.weights={weights}"
    grid = [(file, f"seed={seed}", f"optimizer={o}") for o in ("adam", "sgd") for seed in (0, 1)]
    runs = [run_of(data, *lines) for lines in grid]
    assert built == [0, 1]
    for lines, (run, after) in zip(grid, runs, strict=True):
        starts._starts.clear()
        anew, state = run_of(data, *lines)
        assert torch.equal(after, state)
        assert_same_bits(run.model.state_dict(), anew.model.state_dict())
        names = [n for n, p in run.model.named_parameters() if p.requires_grad]
        assert names == ["fc.head.weight", "fc.head.bias"]
        assert run.model.loaded == anew.model.loaded
        assert run.model.keeps == anew.model.keeps
        assert [*loop.fit(run)] == [*loop.fit(anew)]
        assert_same_bits(run.model.state_dict(), anew.model.state_dict())
    heads = {run.model.fc.head.weight.data_ptr() for run, _ in runs}
    assert (len(heads), len({r.model.conv1[0].weight.data_ptr() for r, _ in runs})) == (4, 1)


def test_training_one_leaves_the_next_at_its_first_step(data, weights, built):
    first, _ = run_of(data, f"model.weights={weights}")
    begun = first.model.fc.head.weight.detach().clone()
    [*loop.fit(first)]
    assert not torch.equal(first.model.fc.head.weight, begun)
    second, _ = run_of(data, f"model.weights={weights}")
    assert built == [0]
    assert torch.equal(second.model.fc.head.weight, begun)


@pytest.mark.parametrize(
    "line",
    ["seed=3", "init=xavier_uniform", "regularization.dropout=0", "training.channels_last=false",
     "model.freeze=[conv1,stage2]", "model.weights=null"],
)  # fmt: skip
def test_what_a_network_depends_on_makes_another(data, weights, built, line):
    run_of(data, f"model.weights={weights}")
    run_of(data, f"model.weights={weights}", line)
    assert len(built) == 2


def test_a_file_that_is_written_anew_is_read_anew(data, weights, built, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(values := load_file(weights), path)
    first, _ = run_of(data, f"model.weights={path}")
    save_file({**values, "conv1.0.weight": values["conv1.0.weight"] + 1}, tmp_path / "other")
    os.replace(tmp_path / "other", path)
    second, _ = run_of(data, f"model.weights={path}")
    assert len(built) == 2
    old, new = (run.model.conv1[0].weight for run in (first, second))
    torch.testing.assert_close(new, old + 3 / old.shape[1])  # three channels are summed to one


def test_a_run_through_the_whole_network_has_its_frozen_values_for_itself(
    data, weights, built, monkeypatch
):
    first, _ = run_of(data, f"model.weights={weights}")
    monkeypatch.setattr(build, "free_memory", lambda device: 1000)  # too little for features
    other = build.data(command.checked([*LINES, "data.split_seed=1"]))
    second, _ = run_of(other, f"model.weights={weights}")
    assert built == [0]
    assert (first.cut is None, second.cut is None) == (False, True)
    assert_same_bits(first.model.state_dict(), second.model.state_dict())
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert not any(a.data_ptr() == b.data_ptr() for a, b in pairs)


def test_code_of_ones_own_and_inits_that_look_at_data_are_built_each_time(data, weights):
    config = command.checked([*LINES, f"model.weights={weights}"])

    def key(**sections):
        return starts.key(config | sections, data.shape, CPU)

    assert key()
    model = config["model"]
    assert key(model=model | {"_target_": "mylab.net"}) is None
    assert key(model=model | {"thaw": 1}) is None
    assert key(model=model | {"freeze": None}) is None
    assert key(init={"_target_": "torch.nn.init.orthogonal_", "_partial_": True})
    assert key(init={"_target_": "knobs.init.lsuv", "_partial_": True}) is None
    assert key(activation={"_target_": "mylab.act", "_partial_": True}) is None
    assert key(training=config["training"] | {"members": 2}) is None
