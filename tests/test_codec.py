"""The state of a run through JSON and tensors: what comes back equals what went in, types too."""

import json
import math
from collections import Counter, OrderedDict

import pytest
import torch
from torch import Tensor, nn

from knobs import build
from knobs.codec import decode, encode, name_once
from knobs.config import command


def through(value):
    """Encode a value, write and read the JSON, decode it."""
    tensors = {}
    text = json.dumps(encode(value, tensors), allow_nan=False)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}  # as a file's are
    return decode(json.loads(text), copies)


def assert_same(a, b):
    """Equal, and of equal types all the way down; NaN equals NaN."""
    assert type(a) is type(b), (a, b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.stride() == b.stride()
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(map(repr, a)) == list(map(repr, b))  # the order too
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize("value", [
    None, True, 1, 1.0, -0.0, 1e-310, 0.1 + 0.2, math.inf, -math.inf, math.nan, "", "\ud83d", "!",
    [], (), {}, [1, [2.0, (3, "x")]], {"a": {"b": (1,)}}, {3: 1, "3": 2, (1, 2): 3, None: 4},
    {"!": "tensor"}, Counter({3: 1, 5: 2}), OrderedDict(b=1, a=2), {1, 2, 3}, 2**80,
    torch.arange(6.0).view(2, 3), torch.tensor(3), torch.tensor(True), torch.zeros(0, 3),
    torch.arange(6.0).bfloat16().div(7), torch.arange(96.0).view(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    {"state": {0: {"step": torch.tensor(1.0), "old": [torch.ones(2), torch.zeros(2)]}}},
], ids=lambda v: repr(v)[:30])  # fmt: skip
def test_a_value_comes_back_as_it_was(value):
    assert_same(through(value), value)


@pytest.mark.parametrize("value", [object(), 1j, b"x", [len], {"a": {"b": nn.Linear(1, 1)}}])
def test_what_has_no_form_is_refused_with_its_place(value):
    with pytest.raises(TypeError, match="has no form in a checkpoint"):
        encode({"here": value}, {}, "run")


@pytest.mark.parametrize("node", [
    {"!": "tensor"}, {"!": "tensor", "name": "x"}, {"!": "float", "value": "1"}, {"!": "eval"},
    {"!": "tuple"}, {"!": "dict", "pairs": [1]}, {"!": "Counter", "pairs": 3}, {"!": ["x"]},
    {"!": "dict", "pairs": [[{}, 1]]}, {"!": "float", "value": []}, {"!": {}},
])  # fmt: skip
def test_what_encode_never_writes_is_refused(node):
    with pytest.raises(ValueError, match="not the state of a run"):
        decode(node, {})


def every_pair():
    """Each optimizer with each schedule that goes with it, as checked configs."""
    groups = ("optimizer", "scheduler")
    words = [
        f"{group}={','.join(sorted(p.stem for p in (command.CONF / group).glob('*.yaml')))}"
        for group in groups
    ]
    configs, _ = command.check_overrides(
        ["training.epochs=40", "tracking=local", *words], grid=True
    )
    return configs


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(5, id="each"),  # prime to 16 schedules: each, and each optimizer, with three
        pytest.param(1, id="every pair", marks=pytest.mark.slow),  # 15 s
    ],
)
def test_every_optimizer_and_schedule_comes_back_and_goes_on_to_the_same_rates(step):
    def made(config):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        optimizer = build.optimizer(config, model)
        return model, optimizer, build.scheduler(config, optimizer, 40)

    def one_step(model, optimizer, scheduler, x):
        def closure():
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.step(closure)
        scheduler.step(*[0.5] * (type(scheduler).__name__ == "ReduceLROnPlateau"))
        return [group["lr"] for group in optimizer.param_groups]

    configs = every_pair()
    assert len(configs) > 200
    for group in ("optimizer", "scheduler"):
        names = [config[group]["_target_"] for config in configs]
        assert set(names[::step]) == set(names)
    for config in configs[::step]:
        one, x = made(config), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            one_step(*one, x)
        states = one[1].state_dict(), one[2].state_dict()
        back = through(states)
        assert_same(back, states)
        other = made(config)
        other[0].load_state_dict(one[0].state_dict())
        other[1].load_state_dict(back[0])
        other[2].load_state_dict(back[1])
        for _ in range(20):
            assert one_step(*one, x) == one_step(*other, x)
        for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
            assert torch.equal(a, b)


def test_best_weights_that_are_the_last_ones_are_named_once():
    last = {"w": torch.randn(3, 4), "zero": torch.tensor([0.0]), "nan": torch.tensor(math.nan)}
    best = {name: value.clone() for name, value in last.items()} | {"zero": torch.tensor([-0.0])}
    last |= {"frozen": torch.ones(3), "mean": torch.ones(1)}
    average = {"mean": torch.ones(1)}  # whose tensor is that of the best weights
    best |= {"frozen": last["frozen"], "mean": average["mean"]}
    state = {"model": last, "average": average, "best_weights": best, "other": torch.ones(2)}
    node = encode(state, tensors := {})
    name_once(node["best_weights"], tensors)
    assert sorted(tensors) == [
        *(".average.mean", ".best_weights.zero", ".model.frozen", ".model.mean", ".model.nan"),
        *(".model.w", ".model.zero", ".other"),
    ]
    read = decode(json.loads(json.dumps(node)), tensors)
    for part, values in (("model", last), ("average", average), ("best_weights", best)):
        for name, value in values.items():
            assert read[part][name].numpy().tobytes() == value.numpy().tobytes()
