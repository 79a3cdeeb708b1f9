"""Runs of several splits in one stack: each equals its solo run, whatever its preparation."""

import numpy as np
import pytest
import torch
from torch import nn
from trained import compare, make, together

from knobs import build
from knobs.config import command
from knobs.models.layers import Dropout
from knobs.stack.layers import CannotStack, Noise
from knobs.stack.layers import stack as stacked
from knobs.stack.sets import key, sets_of
from knobs.sweep import groups, kin

CPU = torch.device("cpu")
QUICK = ["training.batch_size=32", "training.epochs=4"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with rare categories, of which a fold's training rows may have too few."""
    draw = np.random.default_rng(3)
    words = "".join(c * n for c, n in zip("abcdefgh", (50, 50, 30, 5, 5, 6, 6, 8), strict=True))
    cells = [
        f"{a:.5f},{b:.5f},{word},{int(a + 0.3 * b + draw.normal() > 0)},{3 + a - b:.4f}"
        for (a, b), word in zip(draw.normal(size=(160, 2)), words, strict=True)
    ]
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_text("\n".join(["p,q,word,y,z", *cells]))
    return ["data=csv", f"data.path={path}", "data.drop=[z]", "data.target=y",
            "data.task=classification", *QUICK]  # fmt: skip


def on_folds(base, count, free=lambda k: ()):
    return [[*base, f"data.folds={count}", f"data.fold={k}", *free(k)] for k in range(count)]


@pytest.mark.parametrize("model", ["mlp", "linear", "tabular"])
def test_folds_of_a_table_whose_widths_differ(table, model):
    def free(k):
        return [
            f"model={model}",
            f"optimizer={('adam', 'sgd', 'rmsprop', 'adagrad')[k]}",
            f"optimizer.weight_decay={1e-2 * (k % 2)}",
            f"regularization.mixup={0.2 * (k // 2)}",
            "training.clip_norm=1",
        ]

    worst, rows = compare(on_folds(table, 4, free))
    assert worst < 1e-8
    widths = [run.data.shape.features for run in rows]
    assert len({*widths}) > 1
    first = [next(p for p in run.model.parameters() if p.ndim == 2) for run in rows]
    if model != "tabular":
        assert [p.shape[1] for p in first] == widths


def test_an_activation_before_the_first_layer_moves_no_padding():
    wide, narrow = (nn.Sequential(nn.Flatten(), nn.Sigmoid(), nn.Linear(n, 3)) for n in (5, 3))
    both = stacked([wide, narrow], Noise(2, CPU))
    x = torch.randn(2, 4, 5)
    x[1, :, 3:] = 0
    both(x).square().sum().backward()
    grad = both[2].weight.grad
    assert grad[1, :3].abs().min() > 0
    assert grad[1, 3:].abs().max() == 0


def test_layers_that_differ_elsewhere_do_not_stack():
    for a, b in [(nn.Linear(4, 2), nn.Linear(4, 3)), (nn.LayerNorm(4), nn.LayerNorm(5))]:
        with pytest.raises(CannotStack, match="a shape of its own in each run"):
            stacked([a, b], Noise(2, CPU))


def test_folds_of_digits_with_seeds_and_members():
    settings = on_folds(
        ["training.epochs=1", "training.batch_size=256"], 5, lambda k: [f"seed={k // 2}"]
    )[:3]
    settings += [[*settings[0][:-1], "seed=5"]]
    assert compare(settings)[0] < 1e-8
    assert compare([[*one, "training.members=2"] for one in settings[:2]])[0] < 1e-8


def test_folds_of_texts_whose_vocabularies_differ():
    base = ["data=python_docs", "data.topics=4", "model=text_bag", "data.max_length=12", "data.min_count=2",
            "training.batch_size=256", "training.epochs=1"]  # fmt: skip
    runs = [make(one, torch.float64) for one in on_folds(base, 5)]
    alike = [one for one in runs if len(one.data.train) == len(runs[-1].data.train)]
    settings = [one for run, one in zip(runs, on_folds(base, 5), strict=True) if run in alike]
    assert len({run.data.shape.vocabulary for run in alike}) > 1
    worst, rows = compare(settings)
    assert worst < 1e-8
    for run in rows:
        table = next(m for m in run.model.modules() if isinstance(m, nn.Embedding))
        assert table.weight.shape[0] == run.data.shape.vocabulary


def test_split_seeds_and_a_regression_in_its_own_unit(table):
    lines = [line for line in table if not line.startswith(("data.task", "data.target"))]
    lines = [*lines, "data.target=z", "data.task=regression", "data.drop=[y]"]
    settings = [[*lines, f"data.split_seed={k}", f"training.epochs={3 + k}"] for k in range(3)]
    worst, rows = compare(settings)
    assert worst < 1e-8
    assert len({float(run.data.target_std) for run in rows}) == 3


def test_a_balanced_sampler_follows_the_targets_of_its_own_fold(table):
    settings = on_folds(table, 4, lambda k: [f"training.sampler={('balanced', 'shuffle')[k % 2]}"])
    assert compare(settings)[0] < 1e-8


def test_a_smaller_stack_takes_over_the_sets(table):
    runs = [make(one, torch.float64) for one in on_folds(table, 4)]
    whole = sets_of(runs)
    assert sets_of(runs[1:], whole) is whole
    assert sets_of(runs, sets_of(runs[1:])) is not whole
    shared = sets_of([make(table, torch.float64), make(table, torch.float64)])
    assert shared.train is next(iter(shared.sets.values())).train  # one set is not copied
    together(runs)  # whose rows are whole again: each of its own width
    assert all(
        run.model.state_dict()["hidden.0.weight"].shape[1] == run.data.shape.features
        for run in runs
        if "hidden.0.weight" in run.model.state_dict()
    )


def keys(settings):
    configs = {n: command.checked([*one, "tracking=local"]) for n, one in enumerate(settings)}
    found = groups.together(configs, lambda config: build.data(config))
    return [sorted({*found.values()}).index(found[n]) for n in configs]


def test_rows_of_equal_length_make_one_stack(table):
    assert len({*keys(on_folds(table, 4))}) == 1
    five = keys(on_folds(["data=digits"], 5))
    assert len({*five}) == 2
    assert len({*keys([table, [*table, "seed=3"]])}) == 1


@pytest.mark.parametrize("line", [
    ["model=linear", "regularization=dropout"],  # in front of it a mask depends on the width
    ["loss=cross_entropy", "loss.weight=balanced", "data.target=word", "data.drop=[z,y]"],
    ["optimizer.eps=0"],
])  # fmt: skip
def test_what_a_stack_cannot_share_has_a_stack_a_split(table, line):
    found = keys(on_folds(table, 4, lambda k: line))
    widths = [build.data(command.checked([*one, *line])).shape.features
              for one in on_folds(table, 4)]  # fmt: skip
    by_width = {group: {w for g, w in zip(found, widths, strict=True) if g == group}
                for group in found}  # fmt: skip
    assert len({*found}) > 1
    assert all(len(same) == 1 for same in by_width.values())


def test_without_memory_each_split_has_a_stack(table, monkeypatch):
    monkeypatch.setattr(build, "free_memory", lambda device: 0)
    assert len({*keys(on_folds(table, 4))}) == 4


def test_by_time_each_fold_has_a_length_of_its_own(table):
    lines = [*table[:2], "data.drop=[p]", *table[3:], "data.split=time:z"]
    assert len({*keys(on_folds(lines, 3))}) == 3


def test_data_that_cannot_be_read_are_a_group_of_their_own(table):
    settings = on_folds(table, 4)
    settings[1][1] = "data.path=/nowhere.csv"
    settings[2] = [*settings[2][:-2], "data.folds=500", "data.fold=0"]
    assert len({*keys(settings)}) == 3


def test_shapes_of_a_first_layer():
    net = nn.Sequential(nn.Flatten(), Dropout(0.0), nn.Linear(7, 4), nn.ReLU(), nn.Linear(4, 2))
    assert kin.shapes_of(net, True) == [("weight", 4, "*"), ("bias", 4), ("weight", 2, 4), ("bias", 2)]  # fmt: skip
    net[1].p = 0.5
    assert kin.shapes_of(net, True)[0] == ("weight", 4, 7)
    assert kin.shapes_of(nn.Embedding(9, 3), True) == [("weight", "*", 3)]
    assert key(make(QUICK, torch.float64).data)
