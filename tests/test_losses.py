"""Losses against their formulas and torch's, their weighted mean, and a stack of each against solo."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from trained import assert_same_bits, distance, solo, together

from knobs import build, losses
from knobs.config import command
from knobs.data import Data, Tensors
from knobs.errors import ConfigError, DataError
from knobs.losses import Loss
from knobs.regularization import mixup
from knobs.shape import Shape
from knobs.stack import loop as stack
from knobs.training import loop
from knobs.training.setup import assemble

CPU = torch.device("cpu")
N, C, T = 12, 5, 3


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(N, C, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def classes():
    return torch.randint(C, (N,), generator=torch.Generator().manual_seed(1))


def slope(values, outputs):
    return torch.autograd.grad(values.sum(), outputs)[0]


def assert_close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_has_the_gradient_of_its_formula(logits, classes, smoothing, weighted):
    """d/do of -sum_c t_c log p_c, t_c = w_c ((1 - e) [c = y] + e / C), is p sum(t) - t."""
    weight = (
        torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0]).double() if weighted else torch.ones(C).double()
    )
    values = losses.cross_entropy(logits, classes, smoothing, weight if weighted else None)
    share = (1 - smoothing) * F.one_hot(classes, C).double() + smoothing / C
    t, p = weight * share, logits.detach().softmax(1)
    assert_close(values, -(t * p.log()).sum(1))
    assert_close(slope(values, logits), p * t.sum(1, keepdim=True) - t)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_has_the_gradient_of_its_formula(logits, classes, gamma):
    """d/do_c of -(1-p)^g log p is (g (1-p)^(g-1) p log p - (1-p)^g) ([c = y] - p_c)."""
    values = losses.focal(logits, classes, gamma=gamma)
    every = logits.detach().softmax(1)
    p = every[range(N), classes]
    assert_close(values, -((1 - p) ** gamma) * p.log())
    outer = gamma * (1 - p) ** (gamma - 1) * p * p.log() - (1 - p) ** gamma
    assert_close(slope(values, logits), outer[:, None] * (F.one_hot(classes, C) - every))


def test_focal_of_a_sure_model_stays_finite(classes):
    sure = (1000.0 * F.one_hot(classes, C)).requires_grad_()
    for gamma in (0.3, 1.0, 2.0):
        values = losses.focal(sure, classes, gamma=gamma)
        assert values.tolist() == [0.0] * N
        assert slope(values, sure).isfinite().all()


def test_focal_without_gamma_is_cross_entropy(logits, classes):
    weight = torch.rand(C).double()
    found = losses.focal(logits, classes, gamma=0.0, weight=weight)
    assert_close(found, losses.cross_entropy(logits, classes, 0.0, weight))


def test_bce_has_the_gradient_of_its_formula(logits):
    """The mean over labels of -w y log s - (1 - y) log(1 - s); its slope is w y (s-1) + (1-y) s."""
    y, w = torch.randint(2, (N, C)).double(), torch.rand(C).double() + 0.5
    values = losses.bce(logits, y, pos_weight=w)
    s = logits.detach().sigmoid()
    assert_close(values, (-w * y * s.log() - (1 - y) * (1 - s).log()).mean(1))
    assert_close(slope(values, logits), (w * y * (s - 1) + (1 - y) * s) / C)


# Of errors e = output - target: the value and its slope.
ERRORS = {
    "mse": (losses.mse, {}, lambda e: e**2, lambda e: 2 * e),
    "mae": (losses.mae, {}, torch.abs, torch.sign),
    "huber": (
        losses.huber,
        {"delta": 0.7},
        lambda e: torch.where(e.abs() <= 0.7, e**2 / 2, 0.7 * (e.abs() - 0.35)),
        lambda e: e.clamp(-0.7, 0.7),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("targets", [0, 1, T])
def test_losses_of_errors_have_the_gradients_of_their_formulas(name, targets):
    """Of one target (N,) or (N, 1), and of several, whose mean it is."""
    function, arguments, value, derivative = ERRORS[name]
    torch.manual_seed(0)
    outputs = torch.randn(N, max(1, targets), dtype=torch.float64, requires_grad=True)
    y = torch.randn(N, targets).double() if targets else torch.randn(N).double()
    error = outputs.detach() - y.view(N, -1)
    values = function(outputs, y, **arguments)
    assert_close(values, value(error).mean(1))
    assert_close(slope(values, outputs), derivative(error) / max(1, targets))


@pytest.mark.parametrize("targets", [0, T])
def test_poisson_is_of_counts_in_their_own_unit(targets):
    """exp(o) - y o, whose slope is exp(o) - y, with y = std z + mean, floats or one each."""
    torch.manual_seed(0)
    outputs = torch.randn(N, max(1, targets), dtype=torch.float64, requires_grad=True)
    counts = torch.poisson(torch.full((N, targets) if targets else (N,), 3.0)).double()
    mean, std = (counts.mean(0), counts.std(0)) if targets else (2.5, 1.7)
    values = losses.poisson(outputs, (counts - mean) / std, mean, std)
    o, y = outputs.detach(), counts.view(N, -1)
    assert_close(values, (o.exp() - y * o).mean(1))
    assert_close(values, F.poisson_nll_loss(o, y, reduction="none").mean(1))
    assert_close(slope(values, outputs), (o.exp() - y) / max(1, targets))
    guess = losses.rates(outputs, mean, std) * std + mean
    assert_close(guess, outputs.exp())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_of_cross_entropy_is_torchs(logits, classes, smoothing, weighted):
    weight = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0]).double() if weighted else None
    loss = Loss(losses.cross_entropy, weights={"weight": weight} if weighted else {})
    found = loss.mean(logits, classes, smoothing)
    assert_close(found, F.cross_entropy(logits, classes, weight, label_smoothing=smoothing))
    plain = loss.validation(logits[None], classes)
    assert_close(plain, F.cross_entropy(logits, classes)[None])


def test_weights_of_examples_are_shares_of_the_mean(logits, classes):
    """2 is an example twice, 0 one that is not there; torch.nn.functional says the rest."""
    counts = torch.tensor([2, 0, 1, 3] * (N // 4))
    twice = torch.arange(N).repeat_interleave(counts)
    class_weight = torch.rand(C).double() + 0.5
    for weights in ({}, {"weight": class_weight}):
        loss = Loss(losses.cross_entropy, weights=weights)
        found = loss.mean(logits, classes, 0.1, counts.double())
        assert_close(found, loss.mean(logits[twice], classes[twice], 0.1))


def test_a_batch_without_any_weight_moves_nothing(logits, classes):
    loss = Loss(losses.cross_entropy)
    value = loss.mean(logits, classes, 0.0, torch.zeros(N).double())
    assert value.item() == 0
    assert not slope(value, logits).any()
    rare = Loss(losses.cross_entropy, weights={"weight": torch.eye(C)[0].double()})
    assert rare.mean(logits, torch.full((N,), 2)).item() == 0


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    y = torch.tensor([0] * 7 + [1] * 2 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y.numpy())
    assert losses.class_weights("balanced", y, ["a", "b", "c"]).tolist() == pytest.approx(expected)
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert losses.positive_weights("balanced", labels, ["a", "b"]).tolist() == [1 / 3, 3.0]


# Data of several targets or labels, which no bundled set has.


def made(task, targets=T, examples=70):
    """A small table, float64: targets that its 6 columns tell, with noise."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 6, generator=draw).double()
    y = x @ torch.randn(6, targets, generator=draw).double()
    y += 0.5 * torch.randn(examples, targets, generator=draw).double()
    if task == "multilabel":
        y = (y > 0.5).double()
    elif task == "classification":
        y = y.argmax(1)
    plain = torch.zeros(1).double(), torch.ones(1).double()
    mean, std = (y.mean(0), y.std(0)) if task == "regression" else plain
    y = (y - mean) / std if task == "regression" else y
    if task == "regression":
        mean = mean - (y * std + mean).min() + 0.5  # above 0, as a poisson loss has them
    parts = [Tensors(x[a:b], y[a:b]) for a, b in ((0, 50), (50, 60), (60, 70))]
    names = [] if task == "regression" else [f"l{i}" for i in range(targets)]
    return Data("made", "table", task, Shape((6,), targets), *parts, classes=names,
                target_std=std, target_mean=mean)  # fmt: skip


OBJECTIVE = {"multilabel": ("val/f1", "max"), "regression": ("val/r2", "max"),
             "classification": ("val/accuracy", "max")}  # fmt: skip


def assembled(data, *overrides, seed=0):
    base = "wine" if data.task == "classification" else "diabetes"
    settings = ["tracking=local", "model.width=8", "training.batch_size=16", "training.epochs=4"]
    task = data.task if data.task != "multilabel" else "regression"
    given = [o for o in overrides if task == data.task or not o.startswith("loss")]
    plain = command.checked([f"data={base}", *settings, f"seed={seed}", *given])
    if data.task == "multilabel":
        chosen = dict(o.removeprefix("loss.").split("=") for o in overrides if o.startswith("loss"))
        plain["loss"] = {"tasks": ["multilabel"], "_target_": "knobs.losses.bce", "_partial_": True}
        plain["loss"]["pos_weight"] = chosen.get("pos_weight")
    metric, mode = OBJECTIVE[data.task]
    plain["objective"] = {"metric": metric, "mode": mode}
    plain["data"] = plain["data"] | {"task": data.task}
    run = assemble(plain, data, CPU)
    run.model.double()
    run.loss = run.loss.to(torch.empty(0).double())
    return run


SETTINGS = [
    ("classification", "loss=cross_entropy", "loss.weight=balanced"),
    ("classification", "loss=cross_entropy", "loss.weight=[1,0,2.5]"),
    ("classification", "loss=focal", "loss.weight=balanced"),
    ("classification", "loss=focal", "loss.gamma=0.5"),
    ("multilabel",),
    ("multilabel", "loss=bce", "loss.pos_weight=balanced"),
    ("regression", "loss=auto"),
    ("regression", "loss=mse"),
    ("regression", "loss=mae"),
    ("regression", "loss=huber", "loss.delta=0.5"),
    ("regression", "loss=poisson"),
]


def rows(setting, *more):
    """The same loss beside itself with other seeds, smoothing where it is taken, and mixup."""
    task, *given = setting
    data = made(task)
    smooth = ["regularization.label_smoothing=0.2"] * (given[:1] == ["loss=cross_entropy"])
    return [
        assembled(data, *given, *more),
        assembled(data, *given, *more, *smooth, seed=1),
        assembled(data, *given, *more, "regularization.mixup=0.3", seed=2),
    ]


@pytest.mark.parametrize("setting", SETTINGS, ids=" ".join)
@pytest.mark.parametrize("microbatches", [1, 3])
def test_a_stack_of_each_loss_is_its_solo_runs(setting, microbatches):
    more = [f"training.gradient_accumulation_steps={microbatches}", "optimizer=momentum"]
    alone, stacked = rows(setting, *more), rows(setting, *more)
    expected = [solo(run) for run in alone]
    found = together(stacked)
    for run, other, (status, record) in zip(stacked, alone, expected, strict=True):
        assert found[run][0] == status == "finished"
        for a, b in zip(found[run][1], record, strict=True):
            assert a == pytest.approx(b, rel=1e-7, abs=1e-7)
        assert distance(run.model.parameters(), other.model.parameters()) < 1e-8


@pytest.mark.parametrize("setting", SETTINGS, ids=" ".join)
def test_microbatches_add_up_to_the_batch(setting):
    """Their weights' sum is that of the whole batch, of classes and of examples."""
    task, *given = setting
    data = made(task)
    x, y = data.train.x[:16], data.train.y[:16]
    weight = torch.tensor([0.0] * 5 + [1.0, 3.0, 0.2] * 3 + [1.0, 1.0]).double()
    for w in (None, weight):
        runs = [
            assembled(data, *given, f"training.gradient_accumulation_steps={m}") for m in (1, 3, 4)
        ]
        values = [loop.backward(run, x, y, w).item() for run in runs]
        assert values == pytest.approx(values[:1] * 3, rel=1e-12)
        whole, *parts = ([p.grad for p in run.model.parameters()] for run in runs)
        assert max(distance(part, whole) for part in parts) < 1e-12
        # And the loss is the mean that it says: sum(w l) / sum(w).
        run = runs[0]
        each = run.loss.values(run.model(x), y)
        w = torch.ones(16).double() if w is None else w
        share = w * run.loss.weights["weight"][y] if "weight" in run.loss.weights else w
        assert values[0] == pytest.approx(((w * each).sum() / share.sum()).item(), rel=1e-12)


@pytest.mark.parametrize("setting", SETTINGS, ids=" ".join)
def test_weights_of_examples_in_a_stack_are_each_rows_own(setting):
    for microbatches in (1, 3):
        more = [f"training.gradient_accumulation_steps={microbatches}", "optimizer=momentum"]
        alone, group = rows(setting, *more), rows(setting, *more)
        x, y = group[0].data.train.x, group[0].data.train.y
        weight = torch.rand(3, 16, generator=torch.Generator().manual_seed(3)).double()
        weight[:, :4] = 0
        together_ = stack.Stack(group)
        index = torch.stack([torch.arange(k, k + 16) for k in range(3)])
        for _ in range(3):
            at = [alone.index(next(a for a in alone if a.seed == r.seed)) for r in together_.runs]
            found = stack.train_step(together_, x[index[at]], y[index[at]], weight[at])
            expected = [
                loop.train_step(run, x[index[k]], y[index[k]], weight[k])
                for k, run in enumerate(alone)
            ]
            assert_close(found, torch.stack(expected)[at], 1e-9)
        for run in together_.release():
            other = next(a for a in alone if a.seed == run.seed)
            assert distance(run.model.parameters(), other.model.parameters()) < 1e-8


def test_mixup_takes_each_targets_weight_and_its_partners():
    data = made("classification")
    run = assembled(data, "regularization.mixup=0.3")
    x, y, weight = data.train.x[:16], data.train.y[:16], torch.rand(16).double()
    torch.default_generator.manual_seed(5)
    found = loop.batch_loss(run, x, y, weight)
    mixed, partner, share = mixup(x, torch.arange(16), 0.3, torch.Generator().manual_seed(5))
    each = F.cross_entropy(run.model(mixed), y, reduction="none")
    other = F.cross_entropy(run.model(mixed), y[partner], reduction="none")
    expected = share * (weight * each).sum() + (1 - share) * (weight[partner] * other).sum()
    assert found.item() == pytest.approx((expected / weight.sum()).item(), rel=1e-12)


def test_poisson_trains_counts_and_is_judged_by_its_rates(make_run):
    """R2 of exp(output) in the counts' unit; alone as in a stack."""
    settings = [
        "data=diabetes",
        "loss=poisson",
        "model=linear",
        "training.epochs=100",
        "optimizer.lr=0.03",
    ]
    run, row = make_run(*settings), make_run(*settings)
    status, record = solo(run)
    assert status == "finished"
    data = run.data
    with torch.no_grad():
        rate = run.model.eval()(data.val.x).squeeze(1).exp()
    y = data.val.y * data.target_std.float() + data.target_mean.float()
    r2 = 1 - ((rate - y) ** 2).mean() / y.var(correction=0)
    assert record[-1]["val/r2"] == pytest.approx(r2.item(), rel=1e-4)
    assert record[-1]["val/mae"] == pytest.approx((rate - y).abs().mean().item(), rel=1e-4)
    assert record[-1]["val/r2"] > 0.2
    found = together([row, make_run(*settings, "seed=1")])[row][1]
    assert found[-1]["val/r2"] == pytest.approx(record[-1]["val/r2"], rel=1e-3)


def test_poisson_refuses_targets_below_zero(make_run, monkeypatch):
    whole = build.data

    def shifted(config):
        return dataclasses.replace(whole(config), target_mean=torch.zeros(1))

    monkeypatch.setattr(build, "data", shifted)
    with pytest.raises(
        DataError, match=r"loss=poisson: needs targets >= 0, and the training split"
    ):
        make_run("data=diabetes", "loss=poisson")


def test_the_loss_of_validation_has_no_weights(make_run):
    """The same weights are as good whatever the classes weigh in training."""
    runs = [make_run("data=wine", *o) for o in ([], ["loss=cross_entropy", "loss.weight=[1,5,0]"])]
    values = [loop.evaluate(run, run.data.val, "val")["val/loss"] for run in runs]
    assert values[0] == values[1]
    focal = make_run("data=wine", "loss=focal", "loss.weight=[1,5,0]")
    outputs = focal.model.eval()(focal.data.val.x)
    plain = losses.focal(outputs, focal.data.val.y, gamma=2.0).mean().item()
    assert loop.evaluate(focal, focal.data.val, "val")["val/loss"] == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=mse"], "loss=mse: is for regression, and wine is a classification"),
        (["data=diabetes", "loss=focal"], "loss=focal: is for classification, and diabetes is a reg"),
        (["loss=bce"], "loss=bce: is for multilabel, and wine is a classification"),
        (["loss=cross_entropy", "loss.weight=[0,0,0]"], "some class needs a weight above 0"),
        (["loss=cross_entropy", "loss.weight=[1,-1,1]"], "each a number >= 0"),
        (["loss=cross_entropy", "loss.weight=even"], "must be one of null, balanced, or a list"),
        (["loss=cross_entropy", "loss.wieght=balanced"], "loss.wieght"),
        (["loss=focal", "loss.gamma=-1"], "loss.gamma=-1: must be a number >= 0"),
        (["data=diabetes", "loss=huber", "loss.delta=0"], "must be a number > 0"),
        (["loss=focl"], "did you mean focal?"),
        (
            ["loss=focal", "regularization.label_smoothing=0.1"],
            "regularization.label_smoothing=0.1: loss=focal takes no smoothing",
        ),
        (["+loss._target_=os.system"], "not allowed here; targets of loss lie under knobs.losses."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_anything_runs(overrides, message):
    _, faults = command.check_overrides(["data=wine", "tracking=local", *overrides])
    assert any(message in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_weights_that_the_data_do_not_fit_are_one_line(make_run):
    message = r"loss.weight=\[1, 2\]: 2 numbers for 3 classes; give one each, in the order 0, 1, 2"
    with pytest.raises(ConfigError, match=message):
        make_run("data=wine", "loss=cross_entropy", "loss.weight=[1,2]")
    data = made("classification")
    only = dataclasses.replace(data, train=Tensors(data.train.x, data.train.y.clamp(max=1)))
    message = "loss.weight=balanced: class l2 has no training example"
    with pytest.raises(DataError, match=message):
        assembled(only, "loss=cross_entropy", "loss.weight=balanced")
    labels = made("multilabel")
    labels.train.y[:, 1] = 0
    with pytest.raises(DataError, match="label l1 is never there in the training split"):
        assembled(labels, "loss=bce", "loss.pos_weight=balanced")


OWN = """
import torch


def flat(outputs, targets, *, power):
    '''Dimension 0 holds the examples: not written for a stack.'''
    return (outputs.softmax(1)[torch.arange(len(outputs)), targets] - 1).abs() ** power


def mean(outputs, targets):
    return outputs.mean()


def broken(outputs, targets):
    return outputs[7]
"""


def test_a_loss_of_ones_own_is_called_row_by_row_and_tried_first(tmp_path, monkeypatch):
    (tmp_path / "ownlosses.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("knobs.targets._ADMITTED", ("ownlosses.",))  # as KNOBS_ALLOW does
    data, plain = made("classification"), command.checked(["data=wine", "tracking=local"])

    def own(name, seed=0, **arguments):
        node = {"_target_": f"ownlosses.{name}", "_partial_": True, **arguments}
        run = assemble(plain | {"loss": node, "seed": seed}, data, CPU)
        run.model.double()
        return run

    alone, rows = ([own("flat", seed, power=1.5) for seed in range(2)] for _ in range(2))
    for run in alone:
        solo(run)
    together(rows)
    for a, b in zip(rows, alone, strict=True):
        assert distance(a.model.parameters(), b.model.parameters()) < 1e-8
    with pytest.raises(ConfigError, match=r"a value per example, of shape \(2,\) .*; got \(\)"):
        own("mean")
    with pytest.raises(ConfigError, match="a value per example; it raised IndexError"):
        own("broken")


def test_a_config_older_than_these_keys_trains_to_the_same_bits():
    plain = command.checked(["data=wine", "tracking=local", "training.epochs=2"])
    older = {name: node for name, node in plain.items() if name not in ("loss", "metrics")}
    older["training"] = {k: v for k, v in plain["training"].items() if k != "sampler"}
    runs = [assemble(config, build.data(plain), CPU) for config in (plain, older)]
    assert solo(runs[0]) == solo(runs[1])
    assert_same_bits(runs[0].model.state_dict(), runs[1].model.state_dict())


def test_multilabel_metrics_and_objective():
    """The default objective exists, and a network that learns finds most labels."""
    run = assembled(made("multilabel"), "training.epochs=60", "optimizer.lr=0.02")
    _, record = solo(run)
    assert record[-1]["val/f1"] > 0.6
    assert math.isfinite(record[-1]["val/loss"])
    assert command.checked(["data=diabetes"])["objective"]["metric"] == "val/r2"


@pytest.mark.parametrize("function", losses.FUSED)
def test_a_loss_of_members_has_the_gradient_bits_of_each_alone(function):
    """[M, N, C] at once, by `values`, and each (N, C) by torch's kernel of a single run."""
    draw, loss = torch.Generator().manual_seed(0), Loss(function)
    for n, outputs in ((1, 2), (7, 3), (22, 10), (32, 10), (100, 77)):
        several = function is losses.cross_entropy
        guess = torch.randn(3, n, outputs if several else 1, generator=draw).requires_grad_()
        targets = torch.randn(3, n, generator=draw)
        if several:
            targets = torch.randint(outputs, (3, n), generator=draw)
        loss.mean(guess, targets).sum().backward()
        for m in range(3):
            alone = guess[m].detach().requires_grad_()
            loss.mean(alone, targets[m]).backward()
            assert torch.equal(guess.grad[m], alone.grad), (n, outputs)
