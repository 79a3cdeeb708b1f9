"""A row of a stack equals its solo run: weights, buffers, optimizer state, metrics, checkpoints."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn
from trained import compare, distance, make, solo, together

from knobs import rng
from knobs.config import command, rules
from knobs.losses import usual
from knobs.models.layers import ELEMENTWISE, Dropout
from knobs.regularization import PENALTIES
from knobs.stack import loop as stack
from knobs.stack.layers import ByRow, CannotStack, Noise
from knobs.stack.layers import stack as stacked
from knobs.sweep import stackable
from knobs.training import checkpoint, loop

CPU = torch.device("cpu")
READ = rules.read(command.CONF)
OPTIMIZERS = [o for o, (t, _) in READ["optimizer._target_"].items() if t in stackable.STACKABLE]
SCHEDULERS = list(READ["scheduler._target_"])
INITS = ["common", "default", "xavier_normal", "kaiming_uniform", "orthogonal", "lsuv", "normal"]
WINE = ["data=wine", "training.batch_size=32"]  # 4 steps an epoch
TABLE = [*WINE, "training.epochs=50"]
SHORT = [*WINE, "training.epochs=15"]  # where more steps say nothing new
TEXT = ["data=python_docs", "data.max_length=12", "training.batch_size=256", "training.epochs=2"]
MEMBERS = ["training.members=3"]
IMAGE = ["training.batch_size=256", "training.epochs=3"]


def test_every_optimizer_with_every_penalty_float64():
    """What would amplify rounding is left out: a bias in front of batch norm, whose gradient is 0
    but for it (see below); and L1 with RMSprop, which makes whole steps of the sign of weights that
    nothing else moves, so that one within rounding of 0 may go either way."""
    settings = [
        [
            *SHORT,
            f"optimizer={name}",
            f"seed={i}",
            "model.bias=false",
            "regularization.norm=batch",
            "regularization.l2=1e-3",
            "optimizer.weight_decay=1e-3",
            f"regularization.l2_biases={('true', 'false')[i % 2]}",
            f"regularization.l1={0 if name == 'rmsprop' else 1e-4 * (i % 3)}",
            f"regularization.mixup={0.2 * (i % 2)}",
            f"regularization.label_smoothing={0.1 * (i % 3)}",
            f"training.clip_norm={('null', '0.5')[i % 2]}",
            f"training.clip_value={('null', '0.01', '1')[i % 3]}",
        ]
        for i, name in enumerate(OPTIMIZERS)
    ]
    assert compare(settings)[0] < 1e-8


def test_every_schedule_float64():
    worst, _ = compare(
        [
            [*SHORT, f"scheduler={name}", f"optimizer.lr={0.001 + i / 1e4}"]
            for i, name in enumerate(SCHEDULERS)
        ]
    )
    assert worst < 1e-8


KINDS = ["constant", "step", "plateau", "one_cycle", "warmup_cosine"]  # by epoch, metric, step
LONG = [pytest.param(k, TABLE, 200, marks=pytest.mark.slow, id=f"{k}-long") for k in KINDS]


@pytest.mark.parametrize(
    ("kind", "base", "steps"),
    [*((kind, SHORT, 60) for kind in KINDS), *LONG],
)
def test_every_optimizer_float64(kind, base, steps):
    """With every init in turn, under a schedule of each kind."""
    settings = [
        [*base, f"scheduler={kind}", f"optimizer={name}", f"init={init}", f"seed={i}"]
        for i, (name, init) in enumerate(zip(OPTIMIZERS, itertools.cycle(INITS), strict=False))
    ]
    worst, rows = compare(settings)
    assert worst < 1e-8
    assert {run.progress.step for run in rows} == {steps}


@pytest.mark.parametrize("name", ["asgd", "rprop", "adafactor", "schedule_free"])
@pytest.mark.parametrize(
    ("base", "steps"),
    [([*WINE, "training.epochs=3"], 12), pytest.param(TABLE, 200, marks=pytest.mark.slow)],
)
def test_optimizers_that_step_row_by_row_float64(name, base, steps):
    """As a row's own optimizer does; rows leave at two moments."""
    settings = [
        [*base, f"optimizer={name}", "seed=0", "training.epochs=2"],
        [*base, f"optimizer={name}", "seed=1", "scheduler=one_cycle", "regularization.l1=1e-4"],
        [*base, f"optimizer={name}", "seed=2", "optimizer.lr=3e-3", "training.clip_norm=0.5"],
    ]
    worst, rows = compare(settings)
    assert worst < 1e-8
    assert max(run.progress.step for run in rows) == steps
    configs = [command.checked(setting) for setting in settings]
    assert [stackable.alone(config) for config in configs] == [""] * 3
    adam = command.checked(base)
    assert len({stackable.shared(config) for config in configs} | {stackable.shared(adam)}) == 2


@pytest.mark.parametrize("more", [[], ["training.members=2"]], ids=["one member", "two"])
def test_running_averages_of_rows(more):
    """Weights and buffers of the averages; the best weights are theirs."""
    batch_norm = ["regularization.norm=batch", "model.bias=false", "training.ema=0.9", *more]
    settings = [[*WINE, *batch_norm, f"seed={i}", f"training.epochs={2 * i + 2}"] for i in range(2)]
    worst, rows = compare(settings)
    assert worst < 1e-8
    alone = [make(setting, torch.float64) for setting in settings]
    for run, row in zip(alone, rows, strict=True):
        solo(run)
        mine, its = row.average.state_dict(), run.average.state_dict()
        assert mine.keys() == its.keys()
        assert int(mine["n_averaged"]) == run.progress.step
        for name, value in its.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=1e-12)


def test_options_of_optimizers_may_differ_by_row():
    each = {
        "adam": ["optimizer.betas=[0.8,0.99]", "optimizer.eps=1e-4", "optimizer.amsgrad=true"],
        "momentum": [
            "optimizer.momentum=0.5",
            "optimizer.dampening=0.1",
            "optimizer.nesterov=true",
        ],
        "rmsprop": ["optimizer.momentum=0.9", "optimizer.centered=true", "optimizer.alpha=0.9"],
        "adagrad": ["optimizer.lr_decay=0.01", "optimizer.initial_accumulator_value=0.1"],
        "nadam": ["optimizer.decoupled_weight_decay=true", "optimizer.weight_decay=0.1"],
        "radam": ["optimizer.decoupled_weight_decay=true", "optimizer.weight_decay=0.1"],
        "adamw": ["optimizer.weight_decay=0.3"],
    }
    assert (
        compare(
            [[*SHORT, f"optimizer={name}", o] for name, options in each.items() for o in options]
        )[0]
        < 1e-8
    )


def test_a_schedule_may_cycle_the_momentum():
    worst, _ = compare(
        [
            [*SHORT, "optimizer=momentum", f"scheduler={name}", "scheduler.cycle_momentum=true", lr]
            for name in ("one_cycle", "cyclic")
            for lr in ("optimizer.lr=0.01", "optimizer.lr=0.1")
        ]
    )
    assert worst < 1e-8


@pytest.mark.parametrize(
    ("shape", "free"),
    [
        ([*IMAGE, "model=linear"], ["regularization.dropout=0.1"]),
        ([*IMAGE, "regularization.norm=batch", "model.bias=false"], ["regularization.dropout=0.3"]),
        ([*IMAGE, "regularization.norm=layer"], ["regularization.dropout=0.3"]),
        ([*IMAGE, "activation=prelu", "model.depth=3"], ["regularization.dropout=0.3"]),
        ([*IMAGE, "model=cnn", "model.width=4"], ["regularization.dropout=0.3"]),
        (
            [*IMAGE, "model=cnn", "model.width=4", "regularization.norm=batch", "model.bias=false"],
            ["regularization.dropout=0.3"],
        ),
        ([*IMAGE, "model=cnn", "model.width=4", "regularization.norm=layer"], []),
        ([*IMAGE, "training.gradient_accumulation_steps=3"], ["regularization.dropout=0.3"]),
        ([*IMAGE, "training.drop_last=true"], []),
        (["data=diabetes", *IMAGE], ["regularization.mixup=0.4"]),
        ([*TEXT, "model=text_bag", "model.embedding_dim=8"], ["regularization.dropout=0.3"]),
        (
            [
                *TEXT,
                "model=text_bag",
                "model.depth=1",
                "model.width=8",
                "regularization.norm=layer",
            ],
            ["regularization.dropout=0.3"],
        ),
        ([*TEXT, "model=text_cnn", "model.width=4"], ["regularization.dropout=0.3"]),
        (
            [*TEXT, "model=text_transformer", "model.embedding_dim=8", "model.width=8"],
            ["regularization.dropout=0.3"],
        ),
    ],
    ids=lambda x: " ".join(x[-2:]) if isinstance(x, list) else str(x),
)
def test_every_model_float64(shape, free):
    """Dropout's masks are those of the solo run, so even these agree."""
    assert (
        compare([[*shape, "seed=0"], [*shape, *free, "seed=1"], [*shape, "optimizer=momentum"]])[0]
        < 1e-8
    )


MIXTURE = [
    *(["activation=tanh", "optimizer=sgd", "seed=0"], ["seed=1"]),
    *(["activation=leaky_relu", "activation.negative_slope=0.2"], ["activation=leaky_relu"]),
    *(["activation=gelu", "optimizer=sgd"], ["activation=tanh", "training.epochs=9"]),
    *(["activation=selu", "regularization.dropout=0.2"], ["activation=softplus", "seed=2"]),
]


@pytest.mark.parametrize("norm", ["null", "layer"])
@pytest.mark.parametrize("shape", [[], ["model=tabular"]], ids=str)
def test_rows_of_several_activations_float64(shape, norm):
    """In any order, of two optimizers; one leaves early."""
    base = [*TABLE, *shape, f"regularization.norm={norm}"]
    drops = "regularization.dropout=0.1"
    worst, rows = compare([[*base, drops, *own] for own in MIXTURE])
    assert worst < 1e-8
    assert len({stackable.shared(command.checked([*base, drops, *own])) for own in MIXTURE}) == 1
    assert max(run.progress.step for run in rows) >= 100


def test_rows_of_one_activation_stand_beside_one_another():
    names = ["relu", "tanh", "relu", "gelu", "tanh", "relu"]
    runs = [make([*TABLE, f"activation={name}"], torch.float64) for name in names]
    kinds = [m for m in stack.Stack(runs).model.modules() if isinstance(m, ByRow)]
    named = [[type(k).__name__ for k in kind.kinds] for kind in kinds]
    assert named == [["GELU", "ReLU", "Tanh"]] * 2  # of two hidden layers
    assert kinds[0].counts == [1, 3, 2]
    x = torch.linspace(-2, 2, 6 * 3).view(6, 3, 1)
    expected = [nn.functional.gelu(x[:1]), x[1:4].relu(), x[4:].tanh()]
    assert torch.equal(kinds[0](x), torch.cat(expected))


def test_layers_of_several_kinds_share_no_computation():
    with pytest.raises(CannotStack, match="PReLU and ReLU share no computation"):
        stacked([nn.ReLU(), nn.PReLU()], Noise(2, torch.device("cpu")))


def test_image_augmentation_is_each_rows_own():
    crops = ["data.augment.crop=2", "data.augment.flip=true"]
    settings = [["model=cnn", "model.width=4", *IMAGE, f"seed={i}"] for i in range(2)]
    plains = [command.checked(setting) for setting in settings]
    if "augment" not in plains[0]["data"]:
        from knobs.data import Augment

        runs = [[make(s, torch.float64) for s in settings] for _ in range(2)]
        for run in (r for pair in runs for r in pair):
            run.data = dataclasses.replace(run.data, augment=Augment(crop=2, flip=True))
        expected = [solo(run)[1] for run in runs[0]]
        found = together(runs[1])
        for run, rows in zip(runs[1], expected, strict=True):
            assert found[run][1][-1] == pytest.approx(rows[-1], rel=1e-9)
        assert expected[0][-1] != expected[1][-1]
    else:
        assert compare([[*s, *crops] for s in settings])[0] < 1e-8


@pytest.mark.parametrize("target", [
    "data.target=[p,q] data.task=regression", "data.target=[l,m] data.task=multilabel",
    "data.target=p data.task=regression", "data.target=l data.task=classification",
])  # fmt: skip
def test_weights_and_several_targets_are_each_rows_own(target, tmp_path):
    """In microbatches, with mixtures; some weights are 0."""
    draw, lines = torch.Generator().manual_seed(0), ["a,b,p,q,l,m,w"]
    for i in range(100):
        a, b = torch.randn(2, generator=draw).tolist()
        lines.append(f"{a},{b},{a - b},{a * b},{int(a > 0)},{int(a > b)},{i % 4}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    base = ["data=csv", f"data.path={tmp_path / 't.csv'}", *target.split(), "data.weight=w",
            "training.gradient_accumulation_steps=3", "training.epochs=3"]  # fmt: skip
    free = [["optimizer=momentum"], ["seed=1", "regularization.mixup=0.4"]]
    if "classification" in target:
        free.append(["seed=2", "regularization.label_smoothing=0.1"])
    assert compare([[*base, *more] for more in free])[0] < 1e-8


def test_twenty_steps_float32():
    settings = [
        ["training.batch_size=64", "training.epochs=1", f"optimizer={name}", f"seed={i}"]
        for i, name in enumerate(o for o in OPTIMIZERS if o != "muon")  # which is of bfloat16
    ]
    worst, rows = compare(settings, torch.float32, 5e-4)
    assert worst < 5e-4  # rounding, which adagrad's first steps amplify; in float64 1e-12
    assert {run.progress.step for run in rows} == {17}


def test_adam_amplifies_what_has_no_gradient_and_it_stays_bounded():
    """A bias in front of batch norm moves nothing; Adam makes steps of its rounding errors.

    Each of its steps is at most lr, so the bias wanders by at most lr a step; every other weight,
    and what the network answers, stays equal.
    """
    setting = [*TABLE, "regularization.norm=batch", "optimizer.lr=1e-3"]
    alone, row = make(setting, torch.float64), make(setting, torch.float64)
    (_, expected), found = solo(alone), together([row, make(setting, torch.float64)])[row]
    pairs = zip(row.model.named_parameters(), alone.model.parameters(), strict=True)
    for (name, a), b in pairs:
        if name in ("hidden.0.bias", "hidden.3.bias"):
            assert (a - b).abs().max() <= 2 * 1e-3 * 200
        else:
            assert ((a - b).norm() / b.norm()).item() < 1e-8, name
    assert found[1][-1]["train/loss"] == pytest.approx(expected[-1]["train/loss"], rel=1e-8)


def test_rows_end_when_they_would_alone():
    """Epochs and early stopping differ by row; a row that ends leaves the others as they were."""
    worst, _ = compare(
        [
            [*TABLE, "training.epochs=3"],
            [*TABLE, "training.epochs=7", "seed=1", "optimizer=momentum"],
            [*TABLE, "training.early_stopping.patience=2", "seed=2", "optimizer.lr=0.1"],
            [*TABLE, "training.early_stopping.patience=1", "seed=3", "training.epochs=20"],
            [*TABLE, "seed=4", "scheduler=cosine"],
        ]
    )
    assert worst < 1e-8


def test_a_row_that_has_ended_is_not_trained_again():
    runs = [make([*TABLE, "training.epochs=2", f"seed={i}"], torch.float64) for i in range(2)]
    solo(runs[0])
    before = [p.clone() for p in runs[0].model.parameters()]
    found = together(runs)
    assert [found[run][0] for run in runs] == ["finished", "finished"]
    assert [len(found[run][1]) for run in runs] == [0, 2]
    assert all(map(torch.equal, runs[0].model.parameters(), before))


def test_a_diverging_row_touches_no_other():
    runs = [make([*TABLE, f"seed={i}"], torch.float64) for i in range(3)]
    wild = make([*TABLE, "optimizer=sgd", "optimizer.lr=1e200"], torch.float64)
    reference = make([*TABLE, "optimizer=sgd", "optimizer.lr=1e200"], torch.float64)
    with pytest.raises(loop.Diverged) as diverged:
        solo(reference)
    told = []
    stack.fit(
        [runs[0], wild, *runs[1:]],
        on_epoch=lambda *_: None,
        on_end=lambda run, status, error: told.append((run, status, error)),
        watch=lambda _: None,
        on_round=lambda _: None,
    )
    first, status, error = told[0]
    assert (first, status) == (wild, "diverged")
    assert error.step == diverged.value.step
    for i, run in enumerate(runs):
        alone = make([*TABLE, f"seed={i}"], torch.float64)
        solo(alone)
        assert distance(run.model.parameters(), alone.model.parameters()) < 1e-12
    assert [status for _, status, _ in told[1:]] == ["finished"] * 3


def test_runs_of_several_members_float64():
    """Each member a row: weights, buffers, states, best weights and metrics are those alone."""
    knobs = [
        ["seed=1", "regularization.dropout=0.3", "training.clip_norm=0.5"],
        ["seed=2", "optimizer=momentum", "scheduler=one_cycle", "regularization.mixup=0.2"],
        ["seed=3", "optimizer=rmsprop", "scheduler=plateau", "training.clip_value=0.01"],
        ["seed=4", "regularization.l1=1e-3", "regularization.l2=1e-2", "training.epochs=7"],
        ["seed=5", "training.early_stopping.patience=2", "regularization.label_smoothing=0.1"],
    ]
    batch_norm = ["regularization.norm=batch", "model.bias=false", "training.epochs=20"]
    settings = [[*TABLE, "training.members=3", *batch_norm, *each] for each in knobs]
    worst, rows = compare(settings)
    assert worst < 1e-8
    for run, setting in zip(rows, settings, strict=True):
        alone = make(setting, torch.float64)
        solo(alone)
        assert run.best_members == pytest.approx(alone.best_members, rel=1e-7)


def test_a_member_of_a_row_is_the_row_of_one():
    """Member 0 of a stacked run is the stacked run with one member."""
    one, three = ([[*TABLE, f"seed={i}", *more] for i in range(2)] for more in ([], MEMBERS))
    runs = [make(setting, torch.float64) for setting in one]
    several = [make(setting, torch.float64) for setting in three]
    together(runs)
    together(several)
    for run, other in zip(runs, several, strict=True):
        assert distance(run.model.parameters(), other.networks[0].parameters()) < 1e-10


def test_a_member_that_diverges_ends_its_run_and_no_other():
    runs = [make([*TABLE, *MEMBERS, f"seed={i}"], torch.float64) for i in range(3)]
    with torch.no_grad():
        runs[1].networks[2].head.bias.fill_(math.nan)
    ends = {}
    stack.fit(
        runs,
        on_epoch=lambda *_: None,
        on_end=lambda run, status, error: ends.update({run: (status, str(error))}),
        watch=lambda _: None,
        on_round=lambda _: None,
    )
    said = "the loss of member 2 is not a finite number at step 1"
    assert ends[runs[1]] == ("diverged", said)
    assert [ends[run][0] for run in (runs[0], runs[2])] == ["finished", "finished"]
    alone = make([*TABLE, *MEMBERS, "seed=2"], torch.float64)
    solo(alone)
    assert distance(runs[2].model.parameters(), alone.model.parameters()) < 1e-10


def test_what_one_row_raises_ends_that_row_alone():
    runs = [make([*TABLE, "training.epochs=4", f"seed={i}"], torch.float64) for i in range(3)]
    ends = {}

    def on_epoch(run, row):
        if run is runs[1] and row["epoch"] == 2:
            raise OSError("the disk of this run is full")

    stack.fit(
        runs,
        on_epoch=on_epoch,
        on_end=lambda run, status, error: ends.update({run: (status, str(error))}),
        watch=lambda _: None,
        on_round=lambda _: None,
    )
    assert ends[runs[1]] == ("failed", "the disk of this run is full")
    assert [ends[run][0] for run in (runs[0], runs[2])] == ["finished", "finished"]
    assert runs[1].progress.epoch == 2
    assert runs[0].progress.epoch == 4


def interrupted(settings, at):
    """Runs stopped together after `at` steps, whole again."""
    runs = [make(setting, torch.float64) for setting in settings]

    def watch(rows):
        rows.stop_requested = rows.runs[0].progress.step == at

    ends = []
    stack.fit(
        runs,
        on_epoch=lambda *_: None,
        on_end=lambda run, status, _: ends.append(status),
        watch=watch,
        on_round=lambda _: None,
    )
    assert ends == ["interrupted"] * len(runs)
    return runs


@pytest.mark.parametrize("more", [[], MEMBERS], ids=["one member", "three"])
@pytest.mark.parametrize("at", [6, 8])  # in the middle of an epoch, and at its end
def test_a_row_goes_on_alone_or_in_another_stack(at, more, tmp_path):
    settings = [
        [
            *TABLE,
            *more,
            "training.epochs=4",
            f"optimizer={name}",
            "scheduler=one_cycle",
            f"seed={i}",
        ]
        for i, name in enumerate(OPTIMIZERS)
    ]
    expected = []
    for setting in settings:
        run = make(setting, torch.float64)
        solo(run)
        expected.append(list(run.model.parameters()))
    for i, run in enumerate(interrupted(settings, at)):
        checkpoint.save_last(tmp_path / str(i), checkpoint.snapshot(run))
        size = (tmp_path / str(i) / checkpoint.LAST).stat().st_size
        weights = sum(p.nbytes for p in run.model.parameters())
        assert size < 8 * weights + 50_000  # a row's file holds that row alone
    for way in ("alone", "together"):
        runs = [make(setting, torch.float64) for setting in settings]
        for i, run in enumerate(runs):
            checkpoint.restore(run, checkpoint.load_last(tmp_path / str(i)))
        if way == "alone":
            for run in runs:
                solo(run)
        else:
            together(runs[:4])
            together(runs[4:])
        for run, weights in zip(runs, expected, strict=True):
            assert distance(run.model.parameters(), weights) < 1e-10, way


def test_masks_are_those_of_the_solo_run():
    noise = Noise(3, CPU)  # and as many numbers as are no multiple of four
    noise.seed([1, 2, 3])
    mask = noise.mask(torch.ones(3, 51, 41), [0.0, 0.3, 0.6])
    assert (mask[0] == 1).all()
    for k, p in ((1, 0.3), (2, 0.6)):
        torch.default_generator.manual_seed(k + 1)
        assert torch.equal(mask[k], Dropout(p)(torch.ones(51, 41)))


def test_a_batch_is_each_rows_own():
    runs = [make([*TABLE, f"seed={seed}"], torch.float64) for seed in (0, 1, 0)]
    rows = stack.Stack(runs)
    x, y, _ = next(stack.epoch_batches(rows))
    for k, run in enumerate(rows.runs):
        order = torch.randperm(len(run.data.train), generator=rng.generator(run.seed, "order", 0))
        assert torch.equal(x[k], run.data.train.x[order[:32]])
        assert torch.equal(y[k], run.data.train.y[order[:32]])


def test_a_run_in_a_stack_is_made_of_views():
    runs = [make(TABLE, torch.float64) for _ in range(3)]
    rows = stack.Stack(runs)
    storages = {p.untyped_storage().data_ptr() for p in rows.parameters}
    for run in runs:
        assert {p.untyped_storage().data_ptr() for p in run.model.parameters()} <= storages


@pytest.mark.parametrize(
    "module", [nn.LSTM(2, 2), nn.Conv2d(2, 2, 1, groups=2), nn.PReLU(3), nn.Softmax(1)]
)
def test_what_has_no_stacked_form_is_named(module):
    with pytest.raises(CannotStack, match=type(module).__name__):
        stacked([module, module], Noise(2, CPU))


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_elementwise_modules_stack_as_they_are(kind):
    """And treat each number alone: a batch of rows at once is each row by itself."""
    module = kind(0.1, 0.2) if kind is nn.Threshold else kind()
    x = torch.linspace(-4, 4, 24).view(2, 3, 4).double()
    found = stacked([module, module], Noise(2, CPU))(x.clone())
    expected = torch.stack([module(row.clone()) for row in x])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("model", "kind"), [("resnet18", "ResNet"), ("text_lstm", "LSTM")])
def test_a_model_without_a_stacked_form_is_found_by_its_modules(model, kind):
    data = TEXT if model.startswith("text") else ["data=digits"]
    run = make([*data, f"model={model}"], torch.float32)
    with pytest.raises(CannotStack, match=f"{kind} has no stacked form"):
        stacked([run.model, run.model], Noise(2, CPU))


def test_losses_of_rows_are_theirs_alone():
    """The mean of each row, whatever the others: ln C for equal logits."""
    outputs = torch.zeros(2, 5, 3).double()
    outputs[1, :, 0] = 50.0
    targets = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 0, 0, 0]])
    loss = usual("classification").mean(outputs, targets)
    assert loss.tolist() == pytest.approx([math.log(3), 0.0])


# A row of a stack with each knob of the step, beside one without; what is read outside the step.
KNOBS = {
    "training.epochs": "3",
    "training.batch_size": "16",
    "training.sampler": "balanced",
    "training.drop_last": "true",
    "training.zero_head": "true",
    "training.members": "2",
    "training.early_stopping.patience": "1",
    "training.early_stopping.min_delta": "0.5",
    "training.clip_norm": "0.1",
    "training.clip_value": "0.01",
    "training.gradient_accumulation_steps": "2",
    "training.precision": "bf16",
    "training.channels_last": "false",
    "training.ema": "0.9",
    "regularization.dropout": "0.3",
    "regularization.norm": "layer",
    "regularization.l2": "1e-2",
    "regularization.l2_biases": "false",
    "regularization.label_smoothing": "0.1",
    "regularization.mixup": "0.2",
} | {f"regularization.{name}": "1e-3" for name in PENALTIES}
OUTSIDE_THE_STEP = {"device", "threads", "deterministic", "checkpoint", "keep", "processes"}
SECTIONS = [key for key in rules.paths() if key.startswith(("training.", "regularization."))]


@pytest.mark.parametrize("key", SECTIONS)
def test_a_knob_stacks_as_it_trains_alone_or_makes_its_run_train_alone(key):
    section, name, *_ = key.split(".")
    if name not in stackable.FREE[section] + stackable.ALIKE[section]:
        neutral = command.checked([])
        node = {section: neutral[section] | {name: True}}
        assert stackable.alone(neutral) == ""
        assert stackable.alone(neutral | node) == f"{key} is not known to stacks"
    elif name not in OUTSIDE_THE_STEP:
        assert name in stackable.FREE[section] or name in stackable.ALIKE[section]
        short = ["data=wine", "training.epochs=4", "regularization.l2=1e-3"]
        changed = [*short, f"{key}={KNOBS[key]}"]
        rows = [[*changed, "seed=1"], [*(short if name in stackable.FREE[section] else changed)]]
        loose = name == "precision"  # whose rounding is coarse
        assert compare(rows, torch.float32 if loose else torch.float64, 0.05 if loose else 1e-8)[
            0
        ] < (0.05 if loose else 1e-8)


def test_rows_share_the_loss_and_may_differ_in_sampler_and_metrics():
    plain = command.checked(["data=wine"])
    for free in ("training.sampler=balanced", "metrics.extra=[mcc]", "objective.metric=val/auroc"):
        other = command.checked(["data=wine", free])
        assert stackable.alone(other) == ""
        assert stackable.shared(other) == stackable.shared(plain)
    for own in ("loss=focal", "loss=cross_entropy"):
        other = command.checked(["data=wine", own])
        assert stackable.alone(other) == ""
        assert stackable.shared(other) != stackable.shared(plain)
        weighted = command.checked(["data=wine", own, "loss.weight=balanced"])
        assert stackable.shared(weighted) != stackable.shared(other)
    older = {name: node for name, node in plain.items() if name not in ("loss", "metrics")}
    assert stackable.alone(older) == ""


def test_a_knob_that_a_stack_does_not_know_makes_its_run_train_alone():
    plain = command.checked([])
    for value, reason in ((0.1, "training.no_such_knob is not known to stacks"), (0.0, "")):
        training = plain["training"] | {"no_such_knob": value}
        assert stackable.alone(plain | {"training": training}) == reason


def test_a_place_that_is_filled_again_trains_as_alone():
    """The newcomer enters at its first step, while others stand in the middle of their runs."""
    settings = [
        [*TABLE, f"training.epochs={n}", f"seed={n}", "regularization.dropout=0.2"]
        for n in (2, 6, 3)
    ]
    short, long, newcomer = (make(setting, torch.float64) for setting in settings)
    waiting, ends, asked = [newcomer], {}, []

    def refill(places):
        asked.append(places)
        return [waiting.pop()] if waiting else []

    stack.fit(
        [short, long],
        on_epoch=lambda *_: None,
        on_end=lambda run, status, error: ends.update({run: status}),
        watch=lambda _: None,
        on_round=lambda _: None,
        refill=refill,
    )
    assert asked == [1, 1, 1]
    for run, setting in zip((short, long, newcomer), settings, strict=True):
        alone = make(setting, torch.float64)
        assert solo(alone)[0] == ends[run] == "finished"
        assert run.progress.epoch == alone.progress.epoch
        assert distance(run.model.parameters(), alone.model.parameters()) < 1e-10


def test_a_pruned_row_is_what_its_solo_run_was_at_that_epoch():
    runs = [make([*TABLE, f"seed={seed}", "training.epochs=5"], torch.float64) for seed in range(3)]
    ends = {}

    def judge(going):
        for run in going:
            run.pruned = run is runs[1] and run.progress.epoch == 2

    stack.fit(
        runs,
        on_epoch=lambda *_: None,
        on_end=lambda run, status, error: ends.update({run: status}),
        watch=lambda _: None,
        on_round=lambda _: None,
        judge=judge,
    )
    assert [ends[run] for run in runs] == ["finished", "pruned", "finished"]
    assert [run.progress.epoch for run in runs] == [5, 2, 5]
    whole = make([*TABLE, "seed=1", "training.epochs=5"], torch.float64)
    epochs = loop.fit(whole)
    next(epochs), next(epochs)
    assert distance(runs[1].model.parameters(), whole.model.parameters()) < 1e-12
