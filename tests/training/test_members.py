"""Members: each is the run that it would be alone, bit for bit; together they are their mean."""

import dataclasses
import io
import math

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from trained import assert_same_bits, distance, interrupt_at, solo, together

from knobs import build, rng
from knobs.config import command
from knobs.data import Augment, Stream, Tensors
from knobs.errors import ConfigError, DataError
from knobs.models.members import Members, mean_prediction
from knobs.training import loop
from knobs.training.checkpoint import load, load_last, restore, save_last, snapshot
from knobs.training.metrics import evaluation
from knobs.training.run import execute
from knobs.training.scores import score
from knobs.training.setup import assemble, steps_per_epoch

SCHEDULERS, OPTIMIZERS = (
    sorted(p.stem for p in (command.CONF / group).glob("*.yaml"))
    for group in ("scheduler", "optimizer")
)
NOISY = [
    "regularization=dropout",
    "regularization.norm=batch",
    "regularization.mixup=0.2",
    "regularization.l1=1e-5",
]
WINE = ["data=wine", "training.epochs=4"]
TEXT = ["data=python_docs", "data.max_length=12", "training.batch_size=256", "training.epochs=1"]
IMAGE = ["model=cnn", "model.width=4", "training.batch_size=256", "training.epochs=2"]
MIXES_WEIGHTS = {"lbfgs"}


def make(overrides, seed=None):
    plain = command.checked([*overrides, "tracking=local"])
    if seed is not None:
        plain = plain | {"seed": seed}
    return assemble(plain, build.data(plain), torch.device("cpu"))


def trained(overrides, seed=None):
    run = make(overrides, seed)
    return run, list(loop.fit(run))


def assert_members_are_runs(overrides, count=3):
    """Weights, buffers, optimizer states, averages and metrics of members are those of runs."""
    whole, _ = trained([*overrides, f"training.members={count}"])
    states = iter([whole.optimizer.state[p] for p in whole.model.parameters()])
    for m, network in enumerate(whole.networks):
        alone, rows = trained(overrides, rng.member(0, m))
        assert_same_bits(network.state_dict(), alone.model.state_dict())
        for parameter, state in zip(alone.model.parameters(), states, strict=False):
            expected = alone.optimizer.state[parameter]
            assert state.keys() == expected.keys()
            for name, value in expected.items():
                same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
                assert same(state[name], value), name
        if whole.average:
            member = whole.evaluated.members[m]
            assert_same_bits(member.state_dict(), alone.evaluated.state_dict())
        own = {f"val/{name}": value for name, value in whole.member_metrics[m].items()}
        assert own == {name: rows[-1][name] for name in own}
    return whole


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o not in MIXES_WEIGHTS])
def test_every_optimizer(optimizer):
    assert_members_are_runs([*WINE, f"optimizer={optimizer}", "training.batch_size=50"])


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s != "plateau"])
def test_every_schedule(scheduler):
    """But plateau, which watches the mean prediction."""
    assert_members_are_runs([*WINE, f"scheduler={scheduler}", "optimizer=momentum"], 2)


@pytest.mark.parametrize(
    "activation", sorted(p.stem for p in (command.CONF / "activation").glob("*.yaml"))
)
def test_every_activation_at_a_width_that_fits_no_vector(activation):
    assert_members_are_runs([*WINE, f"activation={activation}", "model.width=[50,21]"], 2)


@pytest.mark.parametrize(
    "overrides",
    [
        [*WINE, *NOISY, "training.ema=0.9", "training.clip_norm=0.5", "training.clip_value=0.01"],
        [*WINE, "regularization.norm=layer", "regularization.l2_biases=false", "regularization.l2=0.1"],
        [*WINE, "training.gradient_accumulation_steps=3", "regularization.dropout=0.3"],
        [*WINE, "training.gradient_accumulation_steps=2", "regularization.l1=1e-3", "training.batch_size=33"],
        [*WINE, "regularization.label_smoothing=0.1", "training.drop_last=true", "model.bias=false"],
        [*WINE, "training.precision=bf16"],
        [*WINE, "activation=relu", "activation.inplace=true", "model.width=[64,21]"],
        [*WINE, "model=linear", "regularization.dropout=0.2", "optimizer.amsgrad=true"],
        [*WINE, "optimizer.foreach=true"],
        ["training.epochs=1", "model.width=[100,30]", "init=lsuv", "training.batch_size=77"],
        ["data=diabetes", "training.epochs=4", "regularization.mixup=0.4"],
        [*IMAGE, "regularization.norm=batch", "regularization.dropout=0.3"],
        [*IMAGE, "regularization.mixup=0.2", "training.drop_last=true"],
        [*IMAGE, "training.channels_last=false", "regularization.norm=layer"],
        [*TEXT, "model=text_bag", "model.embedding_dim=8", "regularization.dropout=0.2"],
        [*TEXT, "model=text_lstm", "model.embedding_dim=8", "model.width=8"],
        [*TEXT, "model=text_transformer", "model.embedding_dim=8", "model.width=8", "regularization.dropout=0.2"],
    ],
    ids=lambda o: " ".join(o)[:60],
)  # fmt: skip
def test_every_kind_of_run(overrides):
    assert_members_are_runs(overrides)


def table(folder):
    """A table of 90 rows: a rare class, targets, counts, labels; weights, some of them 0."""
    draw = torch.Generator().manual_seed(0)
    lines = ["a,b,c,p,q,k,l,m,w"]
    for a, b in torch.randn(90, 2, generator=draw).tolist():
        labels = [int(a > 0), int(a + b > 0)]
        weight = int(torch.randint(4, (), generator=draw))
        values = [a, b, "uvw"[sum(labels)], 3 * a + 9, 100 * b, int(4 * math.exp(a)), *labels]
        lines.append(",".join(str(value) for value in [*values, weight]))
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return ["data=csv", f"data.path={path}", "training.epochs=3", "training.batch_size=16"]


CLASS = ["data.target=c", "data.task=classification", "data.drop=[p,q,k,l,m,w]"]
LABELS = ["data.target=[l,m]", "data.task=multilabel", "data.drop=[c,p,q,k,w]"]
COUNTS = ["data.target=k", "data.task=regression", "data.drop=[c,p,q,l,m,w]"]
SEVERAL = ["data.target=[p,k]", "data.task=regression", "data.drop=[c,q,l,m,w]"]
WEIGHED, PARTS = "data.weight=w", "training.gradient_accumulation_steps=3"
SAMPLED, MIXED = "training.sampler=balanced", "regularization.mixup=0.3"
OBJECTIVES = [
    [*CLASS, SAMPLED],
    [*CLASS, WEIGHED, SAMPLED, "objective.metric=val/balanced_accuracy"],
    [*CLASS, "loss=cross_entropy", "loss.weight=balanced", WEIGHED, PARTS],
    [*CLASS, "loss=cross_entropy", "loss.weight=[1,0,3]", "regularization.label_smoothing=0.1"],
    [*CLASS, "loss=cross_entropy", "loss.weight=balanced", MIXED, PARTS],
    [*CLASS, "loss=focal", "loss.weight=balanced", WEIGHED, MIXED, SAMPLED],
    [*CLASS, PARTS, MIXED, WEIGHED, "regularization.l1=1e-3"],
    [*LABELS, "metrics.extra=[auroc]"],
    [*LABELS, "loss=bce", "loss.pos_weight=balanced", WEIGHED, PARTS],
    [*LABELS, WEIGHED, MIXED],
    [*COUNTS, "loss=poisson", WEIGHED, PARTS],
    [*COUNTS, "loss=mae", "objective.metric=val/spearman"],
    [*COUNTS, "loss=huber", WEIGHED, MIXED],
    [*COUNTS, "loss=mse", PARTS],
    [*SEVERAL],
    [*SEVERAL, "loss=poisson", MIXED],
    [*SEVERAL, "loss=huber", WEIGHED, PARTS],
]


@pytest.mark.parametrize("overrides", OBJECTIVES, ids=lambda o: " ".join(o))
def test_every_loss_with_weights_samplers_and_microbatches(overrides, tmp_path):
    """Members are runs to the bit; rows of a stack are them in float64."""
    setting = [*(o.replace(",w]", "]") if WEIGHED in overrides else o for o in overrides)]
    setting = [*table(tmp_path), *setting]
    whole = assert_members_are_runs(setting)
    assert whole.best_members

    def doubles(seed):
        run = make([*setting, "training.members=3", "optimizer=momentum"], seed)
        run.model.double()
        run.loss = run.loss.to(torch.empty(0).double())
        parts = {}
        for name in ("train", "val", "test"):
            part = getattr(run.data, name)
            tensors = {
                key: value for key, value in vars(part).items() if isinstance(value, torch.Tensor)
            }
            tensors = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
            parts[name] = dataclasses.replace(part, **tensors)
        run.data = dataclasses.replace(run.data, **parts)
        return run

    alone, rows = ([doubles(seed) for seed in range(2)] for _ in range(2))
    expected, found = [solo(run) for run in alone], together(rows)
    for run, other, (status, record) in zip(rows, alone, expected, strict=True):
        assert found[run][0] == status == "finished"
        for row, values in zip(found[run][1], record, strict=True):
            assert row == pytest.approx(values, rel=1e-7, abs=1e-7)
        assert run.best_members == pytest.approx(other.best_members, rel=1e-7)
        assert distance(run.model.parameters(), other.model.parameters()) < 1e-8


def test_a_loss_of_ones_own_sees_one_member_at_a_time(tmp_path, monkeypatch):
    """It may take dimension 0 for the examples."""
    own = "def own(outputs, targets):\n    n = len(outputs)\n"
    own += "    return (outputs.view(n, -1) - targets.view(n, -1)).abs().pow(1.5).mean(1)\n"
    (tmp_path / "memberlosses.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("knobs.targets._ADMITTED", ("memberlosses.",))  # as KNOBS_ALLOW does
    node = "+loss._target_=memberlosses.own"
    for setting in ([*COUNTS, PARTS], [*SEVERAL, MIXED]):
        assert_members_are_runs([*table(tmp_path), *setting, node, "+loss._partial_=true"])


def test_augmented_images_of_an_odd_size():
    """Each member shifts and mirrors by its own draws; 7 x 7 images fit no block."""
    setting = [*IMAGE, "regularization.mixup=0.2", "training.epochs=1"]

    def run(overrides, seed=None):
        run = make(overrides, seed)
        parts = {
            name: dataclasses.replace(
                part, x=part.x[..., :7, :7].contiguous(memory_format=torch.channels_last)
            )
            for name in ("train", "val", "test")
            for part in [getattr(run.data, name)]
        }
        run.data = dataclasses.replace(run.data, **parts, augment=Augment(crop=1, flip=True))
        list(loop.fit(run))
        return run

    whole = run([*setting, "training.members=2"])
    for m, network in enumerate(whole.networks):
        alone = run(setting, rng.member(0, m))
        assert_same_bits(network.state_dict(), alone.model.state_dict())


def test_training_loss_is_the_mean_over_members():
    whole, rows = trained([*WINE, "training.members=3"])
    alone = [trained(WINE, seed)[1] for seed in whole.seeds]
    for epoch, row in enumerate(rows):
        mean = sum(other[epoch]["train/loss"] for other in alone) / 3
        assert row["train/loss"] == pytest.approx(mean, rel=1e-6)


def test_the_mean_prediction_is_judged():
    """Classification: the mean of probabilities, its NLL and accuracy. Regression: the mean output."""
    whole, rows = trained([*WINE, "training.members=3"])
    data = whole.data
    alone = [trained(WINE, seed)[0].model.eval() for seed in whole.seeds]
    with torch.no_grad():
        mean = torch.stack([net(data.val.x).softmax(-1) for net in alone]).mean(0)
    nll = F.nll_loss(mean.log(), data.val.y).item()
    hits = (mean.argmax(-1) == data.val.y).float().mean().item()
    assert rows[-1]["val/loss"] == pytest.approx(nll, rel=1e-5)
    assert rows[-1]["val/accuracy"] == pytest.approx(hits)
    assert whole.progress.best == max(row["val/accuracy"] for row in rows)

    setting = ["data=diabetes", "training.epochs=3"]
    whole, rows = trained([*setting, "training.members=3"])
    alone = [trained(setting, seed)[0].model.eval() for seed in whole.seeds]
    with torch.no_grad():
        mean = torch.stack([net(whole.data.val.x) for net in alone]).mean(0)
    assert rows[-1]["val/loss"] == pytest.approx(F.mse_loss(mean[:, 0], whole.data.val.y).item())


def test_mean_prediction_in_closed_form():
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3.0), 0.0]]])  # (1/2, 1/2) and (3/4, 1/4)
    found = mean_prediction("classification", logits)
    assert found.exp().tolist() == [[pytest.approx(0.625), pytest.approx(0.375)]]
    assert found.softmax(-1).tolist() == [[pytest.approx(0.625), pytest.approx(0.375)]]
    assert mean_prediction("regression", torch.tensor([[[1.0]], [[4.0]]])).tolist() == [[2.5]]


def test_the_mean_prediction_of_labels_and_rates():
    """The logit of the mean probability of each label; the log of the mean rate."""
    a, b = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double().unbind()
    found = mean_prediction("multilabel", torch.stack([a, b]))
    torch.testing.assert_close(found.sigmoid(), (a.sigmoid() + b.sigmoid()) / 2)
    sure = torch.tensor([[[80.0, -80.0, 0.0]], [[80.0, -80.0, 0.0]]])  # p = 1 in float32
    assert mean_prediction("multilabel", sure).tolist() == [[80.0, -80.0, 0.0]]
    found = mean_prediction("regression", torch.stack([a, b]), log_rates=True)
    torch.testing.assert_close(found.exp(), (a.exp() + b.exp()) / 2)


@pytest.mark.parametrize(
    "overrides",
    [
        [*CLASS, "loss=focal", "metrics.extra=[log_loss,mcc]"],
        [*LABELS, "loss=bce", "metrics.extra=[auroc]"],
        [*COUNTS, "loss=poisson", "metrics.extra=[spearman]"],
        [*SEVERAL, "loss=mae"],
    ],
    ids=lambda o: " ".join(o),
)
def test_what_is_judged_and_what_is_loaded_is_the_mean_prediction(overrides, train, tmp_path):
    """Every metric, in the record, in a stack, and of `load`, from either file of a checkpoint."""
    setting = [*table(tmp_path), *overrides]
    outcome = train(*setting, "training.members=3", "training.epochs=2", "test=true")
    run = make([*setting, "training.members=3", "training.epochs=2"])
    list(loop.fit(run))
    data, folder = run.data, tmp_path / "run"
    run.model.load_state_dict(run.best_weights)
    nets = [net.eval() for net in run.networks]
    with torch.no_grad():
        each = torch.stack([net(data.val.x) for net in nets]).double()
    if data.task == "classification":
        mean = each.softmax(-1).mean(0).log()
    elif data.task == "multilabel":
        mean = each.sigmoid().mean(0).logit()
    else:
        mean = each.exp().mean(0).log() if run.loss.log_rates else each.mean(0)
    loss = run.loss.to(mean)
    truth = data.val.y if data.task == "classification" else data.val.y.double()
    [values] = evaluation(data.task, mean[None], truth, data.target_std, loss)
    values |= score(run.scores, mean, truth)
    recorded = outcome.summary["metrics"]
    assert values == pytest.approx({n: recorded[f"val/{n}"] for n in values}, rel=1e-4, abs=1e-6)
    models = [load(folder)]
    best = folder / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-1])
    models.append(load(folder))
    for model in models:
        assert not model.training
        torch.testing.assert_close(model(data.val.x).double(), mean, rtol=1e-4, atol=1e-5)


def test_a_score_that_is_no_number_for_a_member_is_said_with_its_number():
    run = make([*WINE, "training.members=2"])
    told = iter([0.5, math.nan, 0.5])
    run.scores = {"mine": lambda outputs, targets: next(told)}
    run.objective = {"metric": "val/mine", "mode": "max"}
    with pytest.raises(DataError, match="val/mine: not a number after epoch 1 of member 1, though"):
        list(loop.fit(run))


def test_plateau_and_early_stopping_watch_the_mean_prediction():
    setting = [*WINE, "training.members=2", "training.epochs=30", "scheduler=plateau"]
    setting += ["scheduler.patience=0", "optimizer.lr=0.05", "training.early_stopping.patience=3"]
    run, rows = trained(setting)
    best, stale, rate = math.inf, 0, 0.05
    for row in rows:
        assert row["lr"] == pytest.approx(rate)
        value = row[run.monitor]
        improved = value < best * (1 - run.scheduler.threshold)
        best, rate = (value, rate) if improved else (best, rate * run.scheduler.factor)
    values = [row["val/accuracy"] for row in rows]
    stale = len(values) - 1 - values.index(max(values))
    assert run.progress.stale == stale
    assert loop.ended(run) == ("stopped_early" if stale >= 3 else "finished")
    assert len({row["lr"] for row in rows}) > 1


CASES = [
    ["training.members=3"],
    ["training.members=2", *NOISY, "training.ema=0.9", "scheduler=one_cycle"],
    ["training.members=2", "optimizer=muon"],
    ["training.members=2", "optimizer=schedule_free"],
    ["training.members=2", "model=cnn", "model.width=4", "regularization=batchnorm"],
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o)[:50])
def test_resume_is_bitwise_an_uninterrupted_run(overrides, tmp_path):
    """Stopped in the middle of an epoch, saved, loaded into fresh objects, gone on with."""
    overrides = ["training.epochs=3", "training.batch_size=128", *overrides]
    whole, rows = trained(overrides)
    broken, seen = make(overrides), []
    steps = steps_per_epoch(len(broken.data.train), broken.training)
    with pytest.raises(loop.Interrupted):
        seen.extend(loop.fit(broken, interrupt_at(steps + steps // 2)))
    save_last(tmp_path, snapshot(broken))
    resumed = make(overrides)
    restore(resumed, load_last(tmp_path))
    seen += loop.fit(resumed)
    assert_same_bits(resumed.model.state_dict(), whole.model.state_dict())
    assert_same_bits(resumed.best_weights, whole.best_weights)
    assert (seen, resumed.best_members) == (rows, whole.best_members)


def test_the_record_of_a_run_with_members(train, tmp_path):
    one = train("training.epochs=5", folder="one")
    four = train("training.epochs=5", "training.members=4", "test=true")
    assert "members" not in one.summary
    assert "member_values" not in one.summary
    assert four.summary["members"] == len(four.summary["member_values"]) == 4
    assert four.value == four.summary["metrics"]["val/accuracy"]
    model, data = load(tmp_path / "run"), build.data(command.checked([]))
    names = [name for name, _ in model.named_parameters()]
    assert {name.split(".")[1] for name in names if name.startswith("members.")} == set("0123")
    with torch.no_grad():
        for split, metrics in (("val", four.summary["metrics"]), ("test", four.summary["test"])):
            part = getattr(data, split)
            logits = model(part.x)
            assert logits.exp().sum(-1).tolist() == pytest.approx([1.0] * len(logits), rel=1e-5)
            hits = (logits.softmax(-1).argmax(-1) == part.y).float().mean().item()
            assert hits == pytest.approx(metrics[f"{split}/accuracy"])
            loss = F.cross_entropy(logits, part.y).item()
            assert loss == pytest.approx(metrics[f"{split}/loss"], rel=1e-4)
        own = [(m(data.val.x).argmax(-1) == data.val.y).float().mean() for m in model.members]
    assert four.summary["member_values"] == pytest.approx([v.item() for v in own])
    assert not model.training


def test_weights_are_those_of_one_network_where_there_is_one(train, tmp_path):
    train("training.epochs=1")
    names = load(tmp_path / "run").state_dict()
    assert not any(name.startswith("members") for name in names)
    assert names.keys() == make([]).model.state_dict().keys()


def test_a_member_that_diverges_is_named():
    run = make([*WINE, "training.members=3"])
    with torch.no_grad():
        run.networks[1].head.weight.fill_(math.nan)
    with pytest.raises(
        loop.Diverged, match="the loss of member 1 is not a finite number at step 1"
    ):
        list(loop.fit(run))


def test_outside_an_epoch_a_run_is_an_ordinary_model_and_optimizer():
    run, _ = trained([*WINE, "training.members=2"])
    parameters = list(run.model.parameters())
    held = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(held, parameters, strict=True))
    assert set(run.optimizer.state) == set(parameters)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in parameters)
    assert run.forward is run.model


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["training.members=0"], "training.members=0: must be a whole number >= 1 and <= 64"),
        (["training.members=65"], "training.members=65: must be a whole number >= 1 and <= 64"),
        (["training.members=1.5"], "training.members=1.5: must be a whole number"),
        (
            ["training.members=2", "training.compile=true"],
            "training.members=2: cannot be compiled; use training.compile=false",
        ),
        (["training.members=2", "optimizer=lbfgs"], "torch.optim.LBFGS mixes the members' weights"),
    ],
)
def test_what_cannot_have_members_is_refused_in_one_line(overrides, fault):
    with pytest.raises(ConfigError) as error:
        command.checked(overrides)
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_the_opening_says_how_many_members(tmp_path):
    out = Console(file=io.StringIO(), width=200)
    plain = command.checked(["tracking=local", "training.epochs=1", "training.members=4"])
    execute(plain, tmp_path / "run", out)
    assert "4 members" in out.file.getvalue()


def test_members_read_a_set_from_disk():
    """A split that is no tensor gives every member its own order too."""
    run, alone = make([*WINE, "training.members=2"]), make(WINE)
    part = run.data.train
    stream = Stream(lambda i: part.x[i], part.y, lambda x: x)
    run.data = dataclasses.replace(run.data, train=stream)
    list(loop.fit(run))
    list(loop.fit(alone))
    assert_same_bits(run.networks[0].state_dict(), alone.model.state_dict())


class Named(torch.nn.Module):
    """A model that takes its inputs by name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x["numbers"])


def test_members_take_inputs_by_name():
    setting = [*WINE, "regularization.dropout=0.3", PARTS, "training.members=2"]
    plain, named = make(setting), make(setting)
    named.model = named.forward = Members([Named(network) for network in named.networks])
    named.networks = list(named.model.members)
    for part in ("train", "val"):
        split = getattr(named.data, part)
        object.__setattr__(named.data, part, Tensors({"numbers": split.x}, split.y))
    assert list(loop.fit(plain)) == list(loop.fit(named))
    for a, b in zip(plain.networks, named.networks, strict=True):
        assert_same_bits(a.state_dict(), b.inner.state_dict())
