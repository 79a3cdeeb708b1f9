"""Weights that a network came with are left alone, frozen ones too; rates by name; new heads."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from knobs import build, optimizers
from knobs.config import command
from knobs.errors import ConfigError
from knobs.models import frozen, pretrained
from knobs.shape import Shape
from knobs.sweep import stackable
from knobs.torchvision_shim import torchvision as tv
from knobs.training import checkpoint, loop, screen
from knobs.training.run import execute

SMALL = ["model=torchvision", "model.architecture=squeezenet1_1", "tracking=local"]
SHAPE = Shape((3, 32, 32), 5)


def checked(*overrides):
    return command.checked(["data=digits", *SMALL, *overrides])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Return a file of weights of 1,000 classes."""
    torch.manual_seed(3)
    net = tv.models.get_model("squeezenet1_1", weights=None)
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(net.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc"), ("vit_b_16", "heads.head"), ("densenet121", "classifier"),
     ("squeezenet1_1", "classifier.1"), ("convnext_tiny", "classifier.2"), ("googlenet", "fc")],
)  # fmt: skip
def test_the_last_layer_is_found_by_the_number_of_classes(name, head):
    _, found = pretrained._architecture(name, Shape((3, 32, 32), 5))
    assert found == head


@pytest.mark.slow
def test_every_architecture_of_torchvision_takes_images_and_gives_as_many_outputs():
    sizes = {}
    for name in tv.models.list_models(module=tv.models):
        config = command.checked(["data=digits", *SMALL[:1], f"model.architecture={name}"])
        side = 256 if name == "maxvit_t" else 96
        side = {"maxvit_t": 224, "vit_h_14": 98}.get(name, side)
        net = build.model(config, Shape((3, side, side), 7))
        with torch.no_grad():
            sizes[name] = net.eval()(torch.zeros(1, 3, side, side)).shape
    assert len(sizes) >= 80
    assert set(sizes.values()) == {(1, 7)}


def test_weights_of_a_file_are_kept_and_the_head_is_new(file):
    config = checked(f"model.weights={file}", "init=kaiming_normal")
    given = pretrained.read(str(file))
    net = build.untrained(config, SHAPE)
    build.initialize(config, net, torch.zeros(1))
    state = net.state_dict()
    for name, value in given.items():
        if not name.startswith("classifier.1"):
            assert torch.equal(state[name], value), name
    head = net.get_submodule("classifier.1.head")
    assert head.weight.shape == (5, 512, 1, 1)
    assert not torch.equal(head.weight, given["classifier.1.weight"][:5])
    assert head.bias.abs().max() == 0  # the scheme's
    std = math.sqrt(1 / 512)  # no activation follows the head: gain 1
    assert head.weight.std().item() == pytest.approx(std, rel=0.1)
    assert net.keeps == len(given) - 2
    kept = f"{net.keeps} of {len(given)} tensors keep the weights they came with"
    assert screen._init(net, config["init"]).endswith(kept)


def test_what_is_frozen_without_weights_is_not_said_to_have_come_with_some():
    config = checked("model.freeze=backbone")
    net = build.untrained(config, SHAPE)
    build.initialize(config, net, torch.zeros(1))
    says = f"{net.keeps} of {net.keeps + 2} tensors are frozen as they were built, with no weights"
    assert says in screen._init(net, config["init"])


def test_one_channel_is_what_three_equal_ones_would_give(file):
    three = build.model(checked(f"model.weights={file}"), SHAPE).eval()
    one = build.model(checked(f"model.weights={file}"), Shape((1, 32, 32), 5)).eval()
    one.get_submodule("classifier.1").load_state_dict(
        three.get_submodule("classifier.1").state_dict()
    )
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(one(x), three(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("features.0.weight"), "it lacks features.0.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "it has besides extra"),
        (
            lambda s: s.update({"features.0.bias": torch.zeros(3)}),
            r"other shapes features.0.bias \(3,\), not \(64,\)",
        ),
        (lambda s: s["features.0.bias"].fill_(math.nan), "features.0.bias holds values"),
    ],
)
def test_weights_that_do_not_fit_are_named(file, tmp_path, change, says):
    state = pretrained.read(str(file))
    change(state)
    save_file(state, tmp_path / "other.safetensors")
    config = checked(f"model.weights={tmp_path / 'other.safetensors'}")
    with pytest.raises(ConfigError, match=says):
        build.model(config, SHAPE)


def test_a_few_names_of_each_kind_are_told_at_once(file, tmp_path):
    state = {f"module.{k}": v for k, v in pretrained.read(str(file)).items()}
    state["features.0.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "other.safetensors")
    config = checked(f"model.weights={tmp_path / 'other.safetensors'}")
    with pytest.raises(ConfigError) as error:
        build.model(config, SHAPE)
    told = str(error.value)
    assert "it lacks features.0.weight, features.10." in told
    assert "it has besides module.classifier.1.bias, " in told
    assert "and 47 more; it has in other shapes features.0.bias (3,), not (64,); give" in told
    assert len(told) < 700


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"no zip")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 20)
    says = {"a.pt": "cannot be read", "module.pt": "cannot be read", "list.pt": "tensors by name"}
    says |= {"a.safetensors": "cannot be read", "none.pt": "no such file"}
    for name, text in says.items():
        with pytest.raises(ConfigError, match=text):
            pretrained.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("overrides", "shape", "says"),
    [
        (["model.architecture=resnet19"], SHAPE, "did you mean"),
        (["model.architecture=alexnet"], Shape((3, 8, 8), 5), "cannot take images of 3x8x8"),
        (["activation=gelu"], SHAPE, "give activation=relu"),
        (["model.freeze=backbon"], SHAPE, "no parameter's name begins with backbon"),
        (["model.freeze=[features, classifier]"], SHAPE, "nothing is left to train"),
        (["model.architecture=vit_b_16"], Shape((3, 32, 48), 5), "square images"),
    ],
)
def test_what_does_not_fit_is_named(overrides, shape, says):
    with pytest.raises(ConfigError, match=says):
        build.model(checked(*overrides), shape)


@pytest.mark.parametrize("line", ["optimizer=lbfgs", "scheduler=one_cycle", "scheduler=cyclic"])
def test_one_rate_for_all_and_a_rate_by_name_do_not_go_together(line):
    with pytest.raises(ConfigError, match="optimizer.head_lr=0.1"):
        command.checked(["optimizer.head_lr=0.1", line])


class Own(nn.Module):
    """A network whose constructor reads weights for its trunk."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 2)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            nn.init.normal_(self.trunk.weight)
            nn.init.normal_(self.trunk.bias)

    def forward(self, x):
        return self.head(self.norm(self.trunk(x)))


def test_weights_that_a_network_of_ones_own_came_with_are_found_and_kept(monkeypatch):
    monkeypatch.setattr(build, "own", lambda target: True)
    monkeypatch.setattr(build, "model", lambda config, shape: Own())
    torch.manual_seed(0)
    config = command.checked(["init=constant"])
    net = build.untrained(config, SHAPE)
    assert {"trunk.weight", "trunk.bias"} <= net.loaded
    assert not {"head.weight", "head.bias"} & net.loaded
    before = net.trunk.weight.detach().clone()
    build.initialize(config, net, torch.zeros(1))
    assert torch.equal(net.trunk.weight, before)
    assert net.head.weight.unique().numel() == 1  # the scheme's
    monkeypatch.setattr(build, "model", lambda config, shape: nn.Linear(4, 2))
    assert build.untrained(config, SHAPE).loaded == frozenset()


def test_building_twice_draws_nothing_from_the_run(monkeypatch):
    config = command.checked([])
    torch.manual_seed(1)
    build.untrained(config, Shape((4,), 2))
    once = torch.rand(3)
    monkeypatch.setattr(build, "own", lambda target: True)
    torch.manual_seed(1)
    build.untrained(config, Shape((4,), 2))
    assert torch.equal(torch.rand(3), once)


def test_frozen_parameters_and_the_statistics_of_their_norms_stand_still_until_they_thaw():
    net = Own()
    frozen.freeze(net, "backbone", thaw=2)
    assert frozen.train(net, 0) is False
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def step():
        optimizer.zero_grad()
        net(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        return {n for n, v in net.state_dict().items() if not torch.equal(v, before[n])}

    assert step() == {"head.weight", "head.bias"}
    assert frozen.train(net, 1) is False
    assert step() == {"head.weight", "head.bias"}
    assert frozen.train(net, 2) is True
    assert step() >= {"trunk.weight", "norm.running_mean", "head.weight"}
    assert frozen.train(net, 3) is False  # it has thawed before


def test_rates_by_name():
    net = nn.Sequential()
    net.conv1, net.layer1, net.head = (
        nn.Linear(2, 2),
        nn.Sequential(nn.Linear(2, 2)),
        nn.Linear(2, 2),
    )
    node = {"lr": 0.1, "layer_decay": 0.5}
    own = optimizers.options_by_name(net, node)
    assert {n: o["lr"] for n, o in own.items() if n.endswith("weight")} == pytest.approx(
        {"conv1.weight": 0.025, "layer1.0.weight": 0.05, "head.weight": 0.1}
    )
    node |= {"head_lr": 1.0, "groups": [{"match": "layer1.0", "weight_decay": 0.3}]}
    groups = optimizers.param_groups(net, True, False, node)
    shown = {(g["lr"], g.get("weight_decay")) for g in groups}
    assert shown == {(0.025, None), (0.025, 0.0), (0.05, 0.3), (1.0, None), (1.0, 0.0)}
    assert sum(p.numel() for g in groups for p in g["params"]) == 18
    for group, says in (
        ({"match": "x", "lr": 1}, "no parameter's name begins with x"),
        ({"match": "head"}, "must be"),
        ({"match": "head", "lr": 0}, "must be"),
        ({"match": "head", "momentum": 0.5}, "must be"),
    ):
        with pytest.raises(ConfigError, match=says):
            optimizers.options_by_name(net, {"lr": 0.1, "groups": [group]})


def test_every_member_has_the_rates_that_it_has_alone(make_run):
    words = ["model.depth=3", "optimizer.layer_decay=0.5", "optimizer.head_lr=1"]
    words.append("optimizer.groups=[{match: hidden.0, weight_decay: 0.25}]")

    def rates(run):
        of = {p: group for group in run.optimizer.param_groups for p in group["params"]}
        named = run.model.named_parameters()
        return {name: (of[p]["lr"], of[p]["weight_decay"]) for name, p in named}

    alone, three = rates(make_run(*words)), rates(make_run(*words, "training.members=3"))
    assert three == {f"members.{i}.{name}": own for i in range(3) for name, own in alone.items()}
    assert alone["hidden.0.weight"] == pytest.approx((0.001 / 8, 0.25))
    assert alone["hidden.4.weight"] == pytest.approx((0.001 / 2, 0))
    assert alone["head.weight"] == (1, 0)


def test_a_head_with_its_own_rate_takes_its_own_step(trained):
    run = trained("optimizer=sgd", "optimizer.lr=0.1", "optimizer.head_lr=0.01", "model=mlp")
    groups = {g["lr"] for g in run.optimizer.param_groups}
    assert groups == {0.1, 0.01}
    head = next(p for n, p in run.model.named_parameters() if n == "head.weight")
    other = next(p for n, p in run.model.named_parameters() if n.startswith("hidden"))
    batch = next(iter(loop.epoch_batches(run)))
    before = [head.detach().clone(), other.detach().clone()]
    loop.train_step(run, batch.x, batch.y)
    torch.testing.assert_close(head, before[0] - 0.01 * head.grad)
    torch.testing.assert_close(other, before[1] - 0.1 * other.grad)


@pytest.fixture
def trained():
    from knobs.training.setup import assemble

    def make(*overrides):
        config = command.checked(["data=digits", "tracking=local", *overrides])
        return assemble(config, build.data(config), torch.device("cpu"))

    return make


def test_a_run_with_weights_of_a_file_predicts_without_it(file, tmp_path):
    copy = tmp_path / "net.safetensors"
    copy.write_bytes(file.read_bytes())
    lines = [*SMALL, f"model.weights={copy}", "model.freeze=backbone", "training.epochs=1"]
    lines[1] = "model.architecture=mobilenet_v3_small"
    net = tv.models.get_model("mobilenet_v3_small", weights=None)
    save_file(net.state_dict(), copy)
    config = command.checked(["data=digits", *lines])
    execute(config, tmp_path / "run")
    copy.unlink()
    trained = checkpoint.load(tmp_path / "run")
    given, state = net.state_dict(), trained.state_dict()
    kept = [name for name in given if not name.startswith(("classifier.3", "features.0.0"))]
    assert all(torch.equal(state[name], given[name]) for name in kept)  # the norms' statistics too
    summed = given["features.0.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(state["features.0.0.weight"], summed)
    first = state["classifier.3.head.weight"]
    assert first.std() > 0
    assert not stackable.alone(config)  # its head trains on features: see test_features.py


def test_an_old_identity_does_not_know_of_fine_tuning():
    from knobs.identity import computed

    assert not [k for k in computed(command.checked([])) if k.startswith("optimizer.head")]
    assert "optimizer.head_lr" in computed(command.checked(["optimizer.head_lr=0.1"]))
    assert json.dumps(command.checked([])["optimizer"]["groups"]) == "[]"
