"""model=tabular: its embedding number by number, its stacked form, what enters as it is."""

import copy
import json
import math

import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.models.tabular import Periodic
from knobs.shape import Shape
from knobs.stack.layers import Noise, stack
from knobs.training.checkpoint import load


def test_an_embedding_is_the_formula_of_each_number():
    torch.manual_seed(0)
    layer = Periodic(features=3, frequencies=2, dim=4, sigma=0.7).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, 5, dtype=torch.float64)  # two more features, which stay
    with torch.no_grad():
        found = layer(x)
    assert found.shape == (5, 3 * 4 + 2)
    for n in range(5):
        for f in range(3):
            angles = [2 * math.pi * float(x[n, f]) * c for c in layer.frequency[f].tolist()]
            waves = [float(x[n, f]), *map(math.cos, angles), *map(math.sin, angles)]
            for d in range(4):
                total = sum(w * layer.weight[f, i, d].item() for i, w in enumerate(waves))
                wanted = max(0.0, total + layer.bias[f, d].item())
                assert found[n, 4 * f + d].item() == pytest.approx(wanted, abs=1e-12)
    assert torch.equal(found[:, 12:], x[:, 3:])


def tabular(shape, *overrides):
    return build.model(command.checked(["data=wine", "model=tabular", *overrides]), shape)


def test_categories_and_bins_enter_as_they_are():
    some = tabular(Shape((30,), 2, numbers=4), "model.dim=6")
    assert some.embedding.frequency.shape == (4, 8)
    assert some.hidden[0].in_features == 4 * 6 + 26
    unknown = tabular(Shape((30,), 2))
    assert unknown.embedding.frequency.shape == (30, 8)
    assert tabular(Shape((1, 8, 8), 10))(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("count", [2, 3])
def test_a_row_of_a_stack_computes_what_it_does_alone(count):
    torch.manual_seed(count)
    alone = [tabular(Shape((7,), 3, numbers=5)).double() for _ in range(count)]
    rows = copy.deepcopy(alone)
    stacked = stack(rows, Noise(count, torch.device("cpu")))
    x = torch.randn(count, 11, 7, dtype=torch.float64)
    outputs = stacked(x)
    outputs.square().sum().backward()
    for k, network in enumerate(alone):
        own = network(x[k])
        assert torch.allclose(outputs[k], own, rtol=0, atol=1e-12)
        own.square().sum().backward()
        for name in ("frequency", "weight", "bias"):
            wanted = getattr(network.embedding, name).grad
            found = getattr(stacked.embedding, name).grad[k]
            assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


def test_runs_of_it_make_a_stack_and_end_as_they_do_alone(sweep, train, tmp_path):
    common = ["data=wine", "model=tabular", "training.epochs=3", "model.width=16"]
    code, said = sweep(*common, "optimizer.lr=1e-3,1e-2", "tracking=local", "sweep=s")
    assert code == 0
    assert "2 runs in 1 stack" in said
    alone = train(*common, "optimizer.lr=1e-2")
    path = tmp_path / "outputs/sweeps/s/1/metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    for name, value in alone.summary["metrics"].items():
        if last["epoch"] == alone.summary["best_epoch"]:
            assert last[name] == pytest.approx(value, rel=1e-4)


def write(path):
    rows = "".join(f"{i % 7},{'ab'[i % 2]},{i % 5},{i % 3}\n" for i in range(90))
    path.write_text("x,c,z,y\n" + rows)
    return ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]


@pytest.mark.parametrize("recipe", ["tabular", "tabular_large"])
def test_the_recipes_take_a_table_of_ones_own(recipe, train, tmp_path):
    overrides = [f"experiment={recipe}", *write(tmp_path / "t.csv"), "training.epochs=2"]
    config = command.checked(overrides)
    assert config["model"]["name"] == "tabular"
    assert config["training"]["members"] == 4
    assert config["training"]["early_stopping"]["patience"]
    outcome = train(*overrides)
    assert outcome.status == "finished"
    assert outcome.summary["members"] == 4
    data = build.data(config)
    assert data.shape.numbers == 2
    network = load(tmp_path / "run")
    assert network(data.val.x).shape == (len(data.val), 3)


def test_the_recipe_shows_itself_on_a_bundled_set(train):
    assert train("experiment=tabular", "training.epochs=6").value > 0.40  # diabetes
