"""Features of a frozen backbone are computed once, and what trains on them is the whole run."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from knobs import build, cache
from knobs.config import command
from knobs.config.conflicts import through_whole
from knobs.errors import CheckpointError
from knobs.identity import identity
from knobs.shape import Shape
from knobs.stack import loop as stack
from knobs.sweep import stackable
from knobs.training import checkpoint, cuts, features, loop
from knobs.training.run import execute
from knobs.training.setup import assemble

CPU = torch.device("cpu")


class Small(nn.Module):
    """A backbone with a norm and dropout in a block, and a head behind dropout of its own.

    Args:
        odd: what else it does: after, past, draws, moves, twice.
    """

    def __init__(self, outputs, odd="", drop=0.3):
        super().__init__()
        self.odd = odd
        block = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.4))
        self.backbone = nn.Sequential(block, nn.Flatten())
        if odd == "moves":
            self.register_buffer("seen", torch.zeros(()))
        self.end = nn.Sequential(nn.Dropout(drop), nn.Sequential())
        self.end[1].append(nn.Identity())
        self.end[1].add_module("head", nn.Linear(216, outputs))

    def forward(self, x):
        if self.odd == "moves" and self.training:
            self.seen += 1
        x = F.dropout(x, 0.01, self.training) if self.odd == "draws" else x
        features = self.backbone(x)
        outputs = self.end(features)
        if self.odd == "twice":
            outputs = outputs + self.end(features)
        if self.odd == "past":
            outputs = outputs + features.mean(1, keepdim=True)
        return outputs.abs() if self.odd == "after" else outputs


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Return the folder of a cache of this test's own."""
    monkeypatch.setenv("KNOBS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch):
    """Return what makes `build.model` return a Small, with weights that came with it."""

    def make(**options):
        def model(config, shape):
            net = Small(shape.outputs, **options)
            generator = torch.Generator().manual_seed(7)
            net.loaded = frozenset(n for n, _ in net.named_parameters() if "backbone" in n)
            for name, parameter in net.named_parameters():
                if "backbone" in name:
                    parameter.data = torch.randn(parameter.shape, generator=generator)
            build.frozen.freeze(net, config["model"]["freeze"], config["model"].get("thaw"))
            return net

        monkeypatch.setattr(build, "model", model)

    make()
    return make


LINES = ["data=digits", "tracking=local", "+model.freeze=backbone", "training.epochs=2",
         "training.batch_size=256"]  # fmt: skip


def checked(*overrides):
    return command.checked([*LINES, *overrides])


def digits(kind=torch.float64):
    data = build.data(checked())
    splits = {s: getattr(data, s) for s in ("train", "val", "test")}
    doubled = {s: dataclasses.replace(v, x=v.x.to(kind)) for s, v in splits.items()}
    return dataclasses.replace(data, **doubled)


def trained(data, *overrides):
    run = assemble(checked(*overrides), data, CPU)
    rows = list(loop.fit(run))
    return run, rows


def same(a, b, tolerance):
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "overrides", [(), ("optimizer=momentum", "scheduler=cosine", "regularization.l1=1e-3"),
                  ("training.clip_norm=0.5", "regularization.label_smoothing=0.1"),
                  ("optimizer=lbfgs", "optimizer.max_iter=3"),
                  ("training.sampler=balanced", "training.gradient_accumulation_steps=2")],
)  # fmt: skip
def test_a_head_on_features_is_the_head_of_the_whole_network(small, double, overrides):
    data = digits()
    whole, rows = trained(data, "+model.cache=never", *overrides)
    fast, others = trained(data, *overrides)
    assert whole.cut is None
    assert fast.cut.path == "end"
    assert fast.data.train.x.shape == (1078, 216)
    same(whole.model, fast.model, 1e-10)
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=0, abs=1e-10)
    assert whole.best_weights.keys() == fast.best_weights.keys()


def test_heads_of_one_stack_are_those_that_train_alone(small, double):
    data = digits()
    grid = [(f"optimizer={o}", f"optimizer.lr={lr}", f"regularization.l2={l2}", f"seed={seed}")
            for o, lr, l2, seed in (("adam", 1e-2, 0.1, 0), ("adam", 1e-3, 0, 1),
                                    ("momentum", 1e-2, 1e-3, 0))]  # fmt: skip
    alone = [trained(data, *lines)[0] for lines in grid]
    runs = [assemble(checked(*lines), data, CPU) for lines in grid]
    backbones = {run.model.backbone[0][0].weight.data_ptr() for run in [*alone, *runs]}
    assert len(backbones) == 1  # one copy for all
    assert len({id(run.data) for run in runs}) == 1
    assert not any(stackable.alone(checked(*lines)) for lines in grid)
    ends = []
    stack.fit(runs, lambda run, row: None, lambda *end: ends.append(end[1]),
              lambda s: None, lambda s: None)  # fmt: skip
    assert ends == ["finished"] * 3
    for run, other in zip(runs, alone, strict=True):
        same(run.model, other.model, 1e-10)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ("after", "something follows what trains"),
        ("past", "something follows what trains"),
        ("twice", "not called once"),
        ("draws", "draws random numbers"),
        ("moves", "seen changes"),
    ],
)
def test_a_network_that_is_more_than_a_backbone_and_a_head_computes_at_each_step(small, odd, why):
    small(odd=odd)
    config = checked()
    run = assemble(config, build.data(config), CPU)
    assert run.cut is None
    assert why in run.features
    assert run.data.train.x.shape == (1078, 1, 8, 8)
    again = assemble(config, build.data(config), CPU)  # each has what is frozen for itself
    pairs = zip(run.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert not any(a.data_ptr() == b.data_ptr() for a, b in pairs)


def test_trying_a_network_leaves_it_and_the_generators_as_they_were(small):
    config = checked()
    data = build.data(config)
    torch.manual_seed(3)
    net = build.model(config, data.shape)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    features.of(config, net, data, CPU, torch.preserve_format, loop.contextlib.nullcontext)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("+model.thaw=1", "model.thaw=1"),
        ("+model.cache=never", "model.cache=never"),
        ("regularization.mixup=0.2", "regularization.mixup=0.2"),
        ("training.members=2", "training.members=2"),
        ("training.ema=0.9", "training.ema=0.9"),
        ("training.processes=2", "training.processes=2"),
    ],
)
def test_what_changes_the_inputs_or_the_backbone_is_named(line, why):
    config = checked(line)
    assert why in through_whole(config)
    assert why in stackable.alone(config)


def test_random_shifts_of_pictures_are_no_features():
    config = checked()
    config["data"] = config["data"] | {"augment": {"crop": 2, "flip": False}}
    assert "data.augment.crop=2" in through_whole(config)


@pytest.mark.parametrize(
    ("name", "where"),
    [("resnet18", ("fc", None)), ("vit_b_16", ("heads.head", None)),
     ("mobilenet_v3_small", ("classifier", 2)), ("convnext_tiny", ("classifier.2", None))],
)  # fmt: skip
def test_dropout_in_front_of_the_head_trains_with_it(name, where):
    lines = ["data=digits", "model=torchvision", f"model.architecture={name}"]
    config = command.checked([*lines, "model.freeze=backbone", "regularization.dropout=0.1"])
    with torch.device("meta"):
        net = build.model(config, Shape((3, 32, 32), 5))
    assert (cuts.place(net).path, cuts.place(net).start) in (where, (where[0], 0))


def test_the_cache_is_read_again_and_a_damaged_one_is_noticed(small, place, capsys):
    config = checked()
    data = build.data(config)
    run = assemble(config, data, CPU)
    x = run.data.train.x.clone()
    assert run.features == "features of 1,438 rows computed once (cache)"
    assert "features of 1,438 rows are computed once: 1.2 MiB" in capsys.readouterr().err
    del run
    run = assemble(config, data, CPU)
    assert "once before" in run.features
    assert torch.equal(run.data.train.x, x)
    entries = cache.entries()
    assert sorted(e.about for e in entries) == ["features, 1078 x 216", "features, 360 x 216"]
    path = next(e.folder for e in entries if "1078" in e.about) / features.FILE
    for damage in (b"", path.read_bytes()[:-9], path.read_bytes()[:-4] + b"\0\0\0\1"):
        del run
        path.write_bytes(damage)
        run = assemble(config, data, CPU)
        assert torch.equal(run.data.train.x, x)
        assert "once (cache)" in run.features


def test_features_that_are_not_the_networks_are_not_believed(small, place, monkeypatch):
    """As where code that no class of the network stands in has changed."""
    config = checked()
    data = build.data(config)
    before = assemble(config, data, CPU)
    monkeypatch.setattr(nn.Flatten, "forward", lambda self, x: 2 * x.flatten(1))
    after = assemble(config, data, CPU)
    torch.testing.assert_close(after.data.train.x, 2 * before.data.train.x)
    assert "once (cache)" in after.features


def test_other_weights_data_and_precision_are_other_entries(small, place, monkeypatch):
    config = checked()
    data = build.data(config)
    assemble(config, data, CPU)
    assert len(cache.entries()) == 2
    assemble(checked("optimizer.lr=0.1", "seed=5", "training.batch_size=64"), data, CPU)
    assert len(cache.entries()) == 2
    other = checked("data.split_seed=1")
    assemble(other, build.data(other), CPU)
    assert len(cache.entries()) == 4
    assemble(checked("training.precision=bf16"), data, CPU)
    assert len(cache.entries()) == 6
    assemble(checked("test=true"), data, CPU)
    assert len(cache.entries()) == 7
    model = build.model

    def changed(config, shape):
        net = model(config, shape)
        net.backbone[0][0].bias.data[3] += 1e-6
        return net

    monkeypatch.setattr(build, "model", changed)
    assemble(config, data, CPU)
    assert len(cache.entries()) == 9


def test_without_memory_or_a_cache_the_run_goes_on_and_says_so(
    small, monkeypatch, capsys, tmp_path
):
    config = checked()
    data = build.data(config)
    monkeypatch.setenv("KNOBS_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    run = assemble(config, data, CPU)
    assert run.cut
    assert "features are kept in memory alone" in capsys.readouterr().err
    del run
    monkeypatch.setattr(build, "free_memory", lambda device: 1000)
    run = assemble(config, data, CPU)
    assert run.cut is None
    assert "need 1.2 MiB, and 1000 bytes" in run.features or "are free" in run.features


def test_a_checkpoint_of_other_frozen_weights_is_refused(small):
    config = checked()
    data = build.data(config)
    run, _ = trained(data)
    state = checkpoint.unpacked(checkpoint.packed(checkpoint.snapshot(run)))
    again = assemble(config, data, CPU)
    checkpoint.restore(again, state)
    same(again.model, run.model, 0)
    name = "backbone.0.0.bias"
    assert again.best_weights[name] is again.cut.backbone.values[name]
    state["model"][name] = state["model"][name] + 1
    with pytest.raises(CheckpointError, match=f"model.{name}: is frozen"):
        checkpoint.restore(assemble(config, data, CPU), state)


def test_a_whole_run_on_features_leaves_the_whole_network(tmp_path):
    lines = ["data=digits", "model=torchvision", "model.architecture=shufflenet_v2_x0_5",
             "tracking=local", "model.freeze=backbone", "test=true"]  # fmt: skip
    two = command.checked([*lines, "training.epochs=2"])
    never = command.checked([*lines, "training.epochs=2", "model.cache=never"])
    assert identity(two) == identity(never)
    fast, whole = (execute(config, tmp_path / n) for config, n in ((two, "fast"), (never, "whole")))
    assert fast.summary["metrics"] == pytest.approx(whole.summary["metrics"], rel=1e-6)
    assert fast.summary["test"] == pytest.approx(whole.summary["test"], rel=1e-6)
    assert fast.summary["baselines"] == whole.summary["baselines"]
    nets = [checkpoint.load(tmp_path / name) for name in ("fast", "whole")]
    assert nets[0].state_dict().keys() == nets[1].state_dict().keys()
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(nets[0](x), nets[1](x), rtol=1e-5, atol=1e-6)
    folder = tmp_path / "fast" / "checkpoints"
    assert (folder / "last.safetensors").stat().st_size < 1.2 * sum(
        v.nbytes for v in nets[0].state_dict().values()
    )
    (folder / "best.safetensors").write_bytes(b"damaged")
    again = checkpoint.load(tmp_path / "fast")  # from last.safetensors
    same(again, nets[0], 0)


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    lines = ["data=digits", "model=torchvision", "model.architecture=shufflenet_v2_x0_5",
             "tracking=local", "model.freeze=backbone"]  # fmt: skip
    execute(command.checked([*lines, "training.epochs=3"]), tmp_path / "whole")
    execute(command.checked([*lines, "training.epochs=1"]), tmp_path / "part")
    longer = command.checked([*lines, "training.epochs=3"]) | {"resume": str(tmp_path / "part")}
    execute(longer, tmp_path / "part")
    nets = [checkpoint.load(tmp_path / name) for name in ("whole", "part")]
    same(*nets, 0)
