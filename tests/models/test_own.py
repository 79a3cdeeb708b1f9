"""Networks of one's own: they are given what their signatures take, and tried before they train."""

import sys

import pytest
import torch

import knobs
from knobs import build, targets
from knobs.config import command
from knobs.config.check import check
from knobs.errors import CheckpointError, ConfigError
from knobs.shape import Shape
from knobs.training import loop
from knobs.training.run import execute
from knobs.training.setup import assemble

CPU = torch.device("cpu")
SHAPE = Shape((4,), 3)
CODE = """
import functools
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, inputs, outputs, width=8):
        super().__init__()
        self.said = {"inputs": inputs, "outputs": outputs}
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))
    def forward(self, x):
        return self.net(x)

class Broken(nn.Module):
    def __init__(self, **rest):
        super().__init__()
        self.net = nn.Linear(rest["sizes"], 3)

def said(module, **arguments):
    module.said = arguments
    return module
def whole(shape, activation, norm, dropout):
    return said(nn.Linear(shape.features, shape.outputs), shape=shape, activation=activation, norm=norm, dropout=dropout)
def rest(shape, **more):
    return said(nn.Linear(shape.features, shape.outputs), **more)
def theirs(width=4, **more):
    return said(nn.Linear(width, 3), **more)
def places(inputs, outputs, width=5, /, *, dropout):
    return said(Plain(inputs, outputs, width), dropout=dropout, width=width)
def lazy(outputs):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.BatchNorm1d(6), nn.ReLU(), nn.LazyLinear(outputs))
small = functools.partial(Plain, width=2)
made = functools.lru_cache(whole)
instance = Plain(2, 2)
imported = functools.partial(torch.save)

def needs(inputs, outputs, depth): ...
def nothing(inputs): return None
def raises(inputs): raise RuntimeError("no such size")
def frozen(inputs, outputs): return nn.Linear(inputs, outputs).requires_grad_(False)
class Pair(Plain):
    def forward(self, x): return self.net(x), x
class Training(Plain):
    def forward(self, x): return (self.net(x), x) if self.training else self.net(x)
class Wide(Plain):
    def __init__(self, inputs, outputs): super().__init__(inputs, outputs + 1)
class Flat(Plain):
    def forward(self, x): return self.net(x)[:, 0]
class Whole(Plain):
    def forward(self, x): return self.net(x).argmax(1, keepdim=True).expand(-1, self.said["outputs"])
class Shapes(Plain):
    def forward(self, x): return self.net(x.view(-1, 7))
class Parts(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.net = nn.LazyLinear(shape.outputs)
    def forward(self, x): return self.net(torch.cat([part.flatten(1) for part in x.values()], 1))
def halved(tensor, *, value): nn.init.constant_(tensor, value / 2)
def scheme(model, batch):
    raise KeyError("layer")
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config with a network of the module above."""
    (tmp_path / "ownmodels.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("knobs.targets._ADMITTED", ("ownmodels.",))  # as KNOBS_ALLOW does

    def compose(name, *words, **keys):
        checked = command.checked(["data=wine", "training.epochs=1", "tracking=local", *words])
        node = {
            "name": "own",
            "inputs": ["table"],
            "_target_": f"ownmodels.{name}",
            "_partial_": True,
        }
        return checked | {"model": node | keys, "resume": None}

    yield compose
    targets.resolve.cache_clear()
    sys.modules.pop("ownmodels", None)


def test_a_signature_is_given_what_it_names_and_only_that(config):
    assert build.model(config("Plain"), SHAPE).said == {"inputs": 4, "outputs": 3}
    assert build.model(config("Plain", width=3), SHAPE).net[1].out_features == 3
    whole = build.model(config("whole", "regularization.dropout=.5", "activation=tanh"), SHAPE).said
    assert (whole["shape"], whole["norm"], whole["dropout"]) == (SHAPE, None, 0.5)
    assert isinstance(whole["activation"](), torch.nn.Tanh)
    assert build.model(config("rest"), SHAPE).said.keys() == {"activation", "norm", "dropout"}
    assert build.model(config("theirs"), SHAPE).said == {}, "** may hand on to what takes none"
    assert build.model(config("places"), SHAPE).said == {"dropout": 0, "width": 5}
    assert build.model(config("places", width=7), SHAPE).said == {"dropout": 0, "width": 7}
    assert build.model(config("small"), SHAPE).net[1].out_features == 2
    assert build.model(config("made"), SHAPE).said["shape"] == SHAPE
    for name in ("Plain", "whole", "rest", "theirs", "places", "small", "made", "lazy"):
        assert check(config(name)) == [], name


def test_lazy_layers_and_several_inputs_take_their_sizes_before_they_are_initialized(config):
    wine = config("lazy", "init=constant", "training.members=2")
    run = assemble(wine, build.data(wine), CPU)
    assert next(p.shape for p in run.networks[1].parameters()) == (6, 13)
    *_, metrics = loop.fit(run)
    assert 0 <= metrics["val/accuracy"] <= 1
    parts = Shape((6,), 3, parts={"a": (2, 2), "b": (2,)})
    net = build.model(config("Parts"), parts)
    assert net({"a": torch.zeros(5, 2, 2), "b": torch.zeros(5, 2)}).shape == (5, 3)
    assert Shape.read(parts.saved()) == parts
    assert "parts" not in SHAPE.saved()
    with pytest.raises(ValueError, match="must be whole numbers from 1 on"):
        Shape.read(parts.saved() | {"parts": {"a": [0]}})


@pytest.mark.parametrize(
    ("name", "words", "keys", "told"),
    [
        ("Plain", ["regularization.dropout=.5"], {},
         "regularization.dropout=0.5: ownmodels.Plain takes no argument dropout"),
        ("Plain", ["regularization.norm=batch"], {},
         "regularization.norm=batch: ownmodels.Plain takes no argument norm"),
        ("Plain", ["activation=tanh"], {}, "activation=Tanh: ownmodels.Plain takes no argument act"),
        ("theirs", ["regularization.dropout=.5"], {}, "takes no argument dropout"),
        ("whole", [], {"dropout": 0.2}, "model.dropout=0.2: knobs gives it; set regularization.d"),
        ("Plain", [], {"outputs": 9}, "model.outputs=9: knobs gives it; the data say it"),
        ("needs", [], {}, "model.depth: ownmodels.needs needs it; give model.depth=VALUE"),
        ("places", [], {"wdth": 3}, "takes no argument wdth; did you mean width?"),
        ("instance", [], {}, "ownmodels.instance is a Plain, no class or function"),
        ("imported", [], {}, "ownmodels.imported: not allowed here"),
    ],
)  # fmt: skip
def test_the_check_says_before_the_run_what_does_not_fit(config, name, words, keys, told):
    faults = check(config(name, *words, **keys))
    assert len(faults) == 1
    assert told in faults[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Broken", r"ownmodels\.Broken: raised KeyError: 'sizes' \(ownmodels\.py, line 17\)"),
        ("raises", r"raised RuntimeError: no such size \(ownmodels\.py, line \d+\)"),
        ("nothing", r"returned a NoneType; must return a torch\.nn\.Module"),
        ("Pair", r"returned a tuple; must return a tensor \(N, 3\)"),
        ("Training", r"returned a tuple; must return a tensor \(N, 3\)"),
        (
            "Wide",
            r"returned \(2, 4\), torch\.float32 for 2 examples; must return a tensor \(N, 3\)",
        ),
        ("Flat", r"returned \(2,\), torch\.float32 for 2 examples; must return a tensor \(N, 3\)"),
        ("Whole", r"returned \(2, 3\), torch\.int64"),
        ("Shapes", r"raised RuntimeError: .*\(ownmodels\.py, line \d+\)"),
        ("frozen", "has no weights to train"),
    ],
)
def test_a_network_that_cannot_train_is_one_message(config, name, told):
    own = config(name)
    data = build.data(own)
    with pytest.raises(ConfigError, match=told) as error:
        assemble(own, data, CPU)
    assert "\n" not in str(error.value)
    assert "model._target_=ownmodels." in str(error.value)


def test_trying_a_network_changes_nothing_of_its_run(config, monkeypatch):
    own = config("lazy", "init=xavier_normal")
    assert check(own) == []  # and it is imported: what a module draws is no part of a run
    data = build.data(own)
    tried = assemble(own, data, CPU)
    monkeypatch.setattr("knobs.training.setup._check_model", lambda *_: None)
    untried = assemble(own, data, CPU)
    for one, other in zip(tried.model.parameters(), untried.model.parameters(), strict=True):
        assert one.equal(other)
    losses = [[metrics["val/loss"] for metrics in loop.fit(run)] for run in (tried, untried)]
    assert losses[0] == losses[1]


def test_an_init_of_ones_own_is_of_a_tensor_or_of_a_whole_network(config):
    own = config("Plain") | {
        "init": {"_target_": "ownmodels.halved", "_partial_": True, "value": 0.5}
    }
    assert check(own) == []
    net = build.model(own, SHAPE)
    build.initialize(own, net, torch.zeros(2, 4))
    assert set(net.net[1].weight.flatten().tolist()) == {0.25}
    wrong = own | {"init": {"_target_": "ownmodels.scheme", "_partial_": True}}
    with pytest.raises(ConfigError, match=r"init\._target_=ownmodels\.scheme: raised KeyError"):
        build.initialize(wrong, net, torch.zeros(2, 4))


def test_a_run_whose_code_is_not_admitted_here_says_so(config, tmp_path, monkeypatch):
    own = config("Plain", "training.epochs=1")
    execute(own, tmp_path / "run")
    assert knobs.load(tmp_path / "run")(torch.zeros(2, 13)).shape == (2, 3)
    monkeypatch.setattr("knobs.targets._ADMITTED", ())
    targets.resolve.cache_clear()
    told = (
        r"used code of its own \(ownmodels\.\); read it, then export KNOBS_ALLOW for it yourself$"
    )
    with pytest.raises(CheckpointError, match=told):
        knobs.load(tmp_path / "run")
