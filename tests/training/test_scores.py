"""Metrics on request against scikit-learn's, on random and on degenerate outputs, solo and stacked."""

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn import metrics as reference
from trained import solo, together

from knobs import build, metrics
from knobs.config import command
from knobs.data import Tensors
from knobs.errors import DataError
from knobs.training import loop, scores
from knobs.training import metrics as usual
from knobs.training.setup import assemble

CLASSES, LABELS = 7, 4
NAMES = {task: list(table) for task, table in scores.SCORES.items()}


def cases():
    """name -> outputs (N, CLASSES) and targets (N,)."""
    torch.manual_seed(0)
    outputs, y = torch.randn(150, CLASSES), torch.randint(CLASSES, (150,))
    outputs[range(150), y] += 1
    never = outputs.clone()
    never[:, 3] -= 100
    constant = torch.zeros(150, CLASSES)
    favourite = constant.clone()
    favourite[:, 2] = 4.0
    sure = 60.0 * torch.nn.functional.one_hot(y, CLASSES).float()
    return {
        "random": (outputs, y),
        "ties": (outputs.round(), y),
        "an empty class": (outputs, y.clamp(max=CLASSES - 2)),
        "two classes occur": (outputs, y % 2),
        "one class": (outputs, torch.full_like(y, 4)),
        "a class never guessed": (never, y),
        "constant": (constant, y),
        "constant and sure": (favourite, y),
        "all right": (sure, y),
        "all wrong": (sure, (y + 1) % CLASSES),
        "two examples": (outputs[:2], torch.tensor([0, 5])),
        "one example": (outputs[:1], torch.tensor([3])),
    }


def occurring(function, truth, p):
    """The mean over columns with examples of both kinds; NaN where there is none."""
    each = [function(t, q) for t, q in zip(truth.T, p.T, strict=True) if 0 < t.sum() < len(t)]
    return np.mean(each) if each else math.nan


def calibration(p, y, bins=15):
    """Guo et al. 2017, equation 3, by hand."""
    confidence, right = p.max(1), p.argmax(1) == y
    place = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1)
    inside = [place == b for b in range(bins)]
    return sum(m.mean() * abs(right[m].mean() - confidence[m].mean()) for m in inside if m.any())


def expected(outputs, targets):
    """What scikit-learn says of classes."""
    o, y = outputs.double().numpy(), targets.numpy()
    p, guess, truth = outputs.double().softmax(1).numpy(), o.argmax(1), np.eye(CLASSES)[y]
    clipped = -outputs.double().log_softmax(1).numpy()[range(len(y)), y]  # sklearn clips p

    def of(function, average):
        return function(y, guess, average=average, zero_division=0)

    return {
        "auroc": occurring(reference.roc_auc_score, truth, p),
        "average_precision": occurring(reference.average_precision_score, truth, p),
        "balanced_accuracy": reference.balanced_accuracy_score(y, guess),
        "precision": of(reference.precision_score, "macro"),
        "recall": of(reference.recall_score, "macro"),
        "f1_macro": of(reference.f1_score, "macro"),
        "f1_micro": of(reference.f1_score, "micro"),
        "f1_weighted": of(reference.f1_score, "weighted"),
        "top_5": reference.top_k_accuracy_score(y, o, k=5, labels=range(CLASSES)),
        "mcc": reference.matthews_corrcoef(y, guess),
        "calibration_error": calibration(p, y),
        "log_loss": clipped.mean(),
    }


@pytest.mark.parametrize("case", cases())
@pytest.mark.parametrize("name", NAMES["classification"])
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")
def test_classes_as_scikit_learn_has_them(case, name):
    outputs, targets = cases()[case]
    found = scores.score({name: scores.SCORES["classification"][name]}, outputs, targets)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = expected(outputs, targets)[name]
    assert found == pytest.approx(answer, abs=1e-6, nan_ok=True)
    # Where there is no value, that is said before any training; of two classes see below.
    assert math.isnan(found) == bool(scores.undefined(name, targets, CLASSES, []))


def test_log_loss_is_scikit_learns():
    outputs, y = cases()["random"]
    answer = reference.log_loss(y, outputs.double().softmax(1).numpy(), labels=range(CLASSES))
    assert float(scores.log_loss(outputs, y)) == pytest.approx(answer, abs=1e-6)


def test_two_classes_have_the_binary_auroc():
    torch.manual_seed(1)
    outputs, y = torch.randn(60, 2), torch.randint(2, (60,))
    answer = reference.roc_auc_score(y, outputs.double().softmax(1)[:, 1].numpy())
    assert float(scores.auroc(outputs, y)) == pytest.approx(answer, abs=1e-6)


def label_cases():
    torch.manual_seed(0)
    outputs, y = torch.randn(90, LABELS), torch.randint(2, (90, LABELS)).float()
    outputs += y
    absent, everywhere = y.clone(), y.clone()
    absent[:, 1], everywhere[:, 2] = 0, 1
    return {
        "random": (outputs, y),
        "ties": (outputs.round() + 0.25, y),
        "a label never there": (outputs, absent),
        "a label always there": (outputs, everywhere),
        "nothing guessed": (outputs - 100, y),
        "all guessed": (outputs + 100, y),
        "constant": (torch.full_like(outputs, -1.0), y),
        "no label": (outputs, torch.zeros_like(y)),
        "one example": (outputs[:1], y[:1]),
    }


@pytest.mark.parametrize("case", label_cases())
def test_labels_as_scikit_learn_has_them(case):
    outputs, targets = label_cases()[case]
    found = scores.score(scores.SCORES["multilabel"], outputs, targets)
    y, p = targets.numpy(), outputs.double().sigmoid().numpy()
    guess = (outputs > 0).numpy()

    def of(function, average):
        return function(y, guess, average=average, zero_division=0)

    each = torch.nn.functional.softplus(outputs.double()) - targets * outputs.double()
    answers = {
        "auroc": occurring(reference.roc_auc_score, y, p),
        "average_precision": occurring(reference.average_precision_score, y, p),
        "precision": of(reference.precision_score, "macro"),
        "recall": of(reference.recall_score, "macro"),
        "f1_macro": of(reference.f1_score, "macro"),
        "f1_micro": of(reference.f1_score, "micro"),
        "f1_weighted": of(reference.f1_score, "weighted"),
        "log_loss": each.mean().item(),
    }
    assert found == pytest.approx(answers, abs=1e-6, nan_ok=True)
    for name, value in found.items():
        assert math.isnan(value) == bool(scores.undefined(name, targets, LABELS, [])), name
    # The usual ones, of two runs at once.
    both = torch.stack([outputs, -outputs])
    first, second = usual.evaluation("multilabel", both, targets, 1.0)
    assert first["f1"] == pytest.approx(answers["f1_macro"], abs=1e-6)
    assert first["accuracy"] == pytest.approx(reference.accuracy_score(y, guess))
    assert first["loss"] == pytest.approx(answers["log_loss"], rel=1e-5)
    assert second == usual.evaluation("multilabel", both[1:], targets, 1.0)[0]


def test_spearman_is_scipys():
    torch.manual_seed(0)
    for outputs, y in (
        (torch.randn(80, 1), torch.randn(80)),
        (torch.randn(80, 1).round(), torch.randn(80).round()),
    ):
        answer = spearmanr(outputs[:, 0], y)[0]
        assert float(scores.spearman(outputs, y)) == pytest.approx(answer, abs=1e-12)
    outputs, y = torch.randn(80, 3), torch.randn(80, 3).round()
    each = [spearmanr(outputs[:, t], y[:, t])[0] for t in range(3)]
    assert float(scores.spearman(outputs, y)) == pytest.approx(np.mean(each), abs=1e-12)
    # scipy has no value for either; of a model that answers one number, it is no correlation.
    assert float(scores.spearman(torch.ones(80, 1), y[:, 0])) == 0
    assert math.isnan(float(scores.spearman(outputs[:, :1], torch.ones(80))))


def test_several_targets_have_the_means_of_scikit_learn():
    torch.manual_seed(0)
    outputs, y, std = torch.randn(2, 50, 3), torch.randn(50, 3), torch.tensor([1.0, 10.0, 0.1])
    for k, values in enumerate(usual.evaluation("regression", outputs, y, std)):
        guess = outputs[k]
        assert values["r2"] == pytest.approx(reference.r2_score(y, guess), rel=1e-5)
        assert values["loss"] == pytest.approx(reference.mean_squared_error(y, guess), rel=1e-5)
        own = y * std, guess * std
        rmse = reference.root_mean_squared_error(*own)
        assert values["rmse"] == pytest.approx(rmse, rel=1e-5)
        assert values["mae"] == pytest.approx(reference.mean_absolute_error(*own), rel=1e-5)
    one = usual.evaluation("regression", outputs[..., :1], y[:, 0], 10.0)
    same = usual.evaluation("regression", outputs[..., :1], y[:, :1], torch.tensor([10.0]))
    assert one == same


def test_weights_of_examples_are_in_the_loss_alone():
    outputs, y = cases()["random"]
    counts = torch.tensor([0, 1, 2] * 50)
    twice = torch.arange(150).repeat_interleave(counts)
    [values] = usual.evaluation("classification", outputs[None], y, 1.0, weight=counts.float())
    [plain] = usual.evaluation("classification", outputs[None], y, 1.0)
    [expected] = usual.evaluation("classification", outputs[None, twice], y[twice], 1.0)
    assert values["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert values["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize("task", metrics.TASKS)
def test_the_table_of_facts_is_what_is_computed(task):
    names = {name.removeprefix("val/") for name in metrics.of(task)}
    y = {"classification": torch.tensor([0, 1, 1]), "multilabel": torch.tensor([[0.0, 1.0]] * 3),
         "regression": torch.tensor([0.0, 1.0, 2.0])}[task]  # fmt: skip
    outputs = torch.zeros(1, 3, 1 if task == "regression" else 2)
    computed = set(usual.evaluation(task, outputs, y, 1.0)[0])
    assert computed == {name for name in names if metrics.METRICS[name].usual}
    assert computed | set(NAMES[task]) == names
    assert metrics.DEFAULT[task] in metrics.of(task)


def test_outputs_that_are_not_finite_have_no_score():
    outputs, y = cases()["random"]
    outputs[3, 1] = math.nan
    found = scores.score(scores.SCORES["classification"], outputs, y)
    assert all(map(math.isnan, found.values()))


ASKED = ["metrics.extra=[auroc,mcc,f1_weighted]", "objective.metric=val/balanced_accuracy"]


def test_a_run_records_what_is_asked_for_alone_and_in_a_stack(make_run):
    """Rows may ask for different ones; the mode of an objective comes with its name."""
    settings = [
        [*ASKED, "seed=1"],
        ["metrics.extra=[calibration_error]", "objective.metric=val/log_loss"],
        [],
    ]
    common = ["data=wine", "training.epochs=4", "regularization.dropout=0.2"]
    alone = [make_run(*common, *setting) for setting in settings]
    rows = [make_run(*common, *setting) for setting in settings]
    found = together(rows)
    always = {"epoch", "step", "lr", "train/loss", "val/loss", "val/accuracy", "val/f1"}
    extra = [
        {"val/auroc", "val/mcc", "val/f1_weighted", "val/balanced_accuracy"},
        {"val/calibration_error", "val/log_loss"},
        set(),
    ]
    for run, row, more in zip(alone, rows, extra, strict=True):
        _, record = solo(run)
        assert set(record[-1]) == always | more
        for a, b in zip(found[row][1], record, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    assert [run.objective["mode"] for run in alone] == ["max", "min", "max"]
    best = [r["val/log_loss"] for r in found[rows[1]][1]]
    assert rows[1].progress.best == min(best)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["metrics.extra=[aurocc]"], "metrics.extra=[aurocc]: a classification run has loss,"),
        (["metrics.extra=[aurocc]"], "did you mean auroc?"),
        (["metrics.extra=[r2]"], "metrics.extra=[r2]: a classification run has"),
        (["metrics.extra=auroc"], "metrics.extra=auroc: must be a list of items, each a word"),
        (["objective.metric=val/spearman"], "objective.metric=val/spearman: a classification run"),
        (["objective.metric=val/acuracy"], "did you mean val/accuracy?"),
        (["data=diabetes", "objective.metric=val/auroc"], "a regression run has val/loss"),
        (["scheduler=plateau", "scheduler.monitor=val/mce"], "scheduler.monitor=val/mce: a class"),
        (["+metrics.own.auroc={_target_:os.system}"], "not allowed here"),
        (
            ["+metrics.own.auroc={_target_:knobs.training.scores.top,_partial_:true,k:3,mode:max}"],
            "metrics.own.auroc: is a metric of knobs; choose another name",
        ),
        (
            ["+metrics.own.top3={_target_:knobs.training.scores.top,_partial_:true,k:3,mode:up}"],
            "metrics.own.top3.mode=up: must be one of min, max",
        ),
        (
            ["+metrics.own.top3={_target_:knobs.training.scores.top,_partial_:true,mode:max}"],
            "metrics.own.top3.k: knobs.training.scores.top needs it",
        ),
    ],
)
def test_metrics_that_cannot_be_are_one_line(overrides, message):
    _, faults = command.check_overrides(["data=wine", "tracking=local", *overrides])
    assert any(message in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_a_metric_of_ones_own_may_be_the_objective(make_run):
    own = "+metrics.own.top_2={_target_:knobs.training.scores.top,_partial_:true,k:2,mode:max}"
    run = make_run("data=wine", "training.epochs=3", own, "objective.metric=val/top_2")
    assert run.objective["mode"] == "max"
    _, record = solo(run)
    outputs = run.model.eval()(run.data.val.x).detach()
    answer = reference.top_k_accuracy_score(run.data.val.y, outputs.double().numpy(), k=2)
    assert record[-1]["val/top_2"] == pytest.approx(answer)


def one_class(data):
    return dataclasses.replace(data, val=Tensors(data.val.x, torch.full_like(data.val.y, 1)))


def test_a_metric_without_a_value_on_the_split_is_refused_before_training():
    plain = command.checked(["data=wine", "tracking=local", "objective.metric=val/auroc"])
    data, cpu = build.data(plain), torch.device("cpu")
    with pytest.raises(DataError, match="objective.metric=val/auroc: the validation split has one"):
        assemble(plain, one_class(data), cpu)
    extra = command.checked(["data=wine", "tracking=local", "metrics.extra=[average_precision]"])
    message = r"metrics.extra=\[average_precision\]: the validation split has one class only, 1;"
    with pytest.raises(DataError, match=message):
        assemble(extra, one_class(data), cpu)
    with pytest.raises(DataError, match="with 3 classes it is always 1"):
        assemble(command.checked(["data=wine", "metrics.extra=[top_5]"]), data, cpu)
    plain = command.checked(["data=diabetes", "tracking=local"])
    data = build.data(plain)
    flat = dataclasses.replace(data, val=Tensors(data.val.x, torch.zeros_like(data.val.y)))
    message = "objective.metric=val/r2: target is the same in every example of the validation split"
    with pytest.raises(DataError, match=message):
        assemble(plain, flat, cpu)


def test_a_metric_that_is_no_number_is_no_divergence_and_never_the_best(make_run):
    """Of a function of one's own; a loss that is not finite stays a divergence."""
    for values in ([math.nan], [0.5, math.nan]):
        run, told = make_run("data=wine"), iter(values)
        run.scores = {"mine": lambda outputs, targets, told=told: next(told)}
        run.objective = {"metric": "val/mine", "mode": "max"}
        with pytest.raises(DataError, match="objective.metric=val/mine: not a number after epoch"):
            list(loop.fit(run))
        assert run.progress.best == (values[0] if len(values) > 1 else None)
    wild = make_run("data=wine", "optimizer=sgd", "optimizer.lr=1e30", *ASKED)
    with pytest.raises(loop.Diverged):
        list(loop.fit(wild))


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        ([91, 9], True),
        ([90, 10], False),  # 10 % is not under 10 %
        ([500, 450, 79], True),
        ([100] * 20, False),  # 5 % each, and an equal share
        ([100] * 19 + [50], False),  # .0257, where half of an equal share is .025
        ([100] * 19 + [48], True),
        ([10, 0], True),  # a class that training lacks
    ],
)
def test_a_rare_class_is_judged_by_the_mean_recall(counts, rare):
    given = {"metric": "val/accuracy", "mode": "max", "rare": 0.1}
    balanced = {"metric": "val/balanced_accuracy", "mode": "max"}
    accuracy = {"metric": "val/accuracy", "mode": "max"}
    assert metrics.objective(given, counts) == (balanced if rare else accuracy)
    assert metrics.objective(given | {"rare": 0.0}, counts) == accuracy
    assert metrics.objective(accuracy, counts) == accuracy  # of a config of schema 2


def test_a_rare_class_chooses_the_objective_unless_it_is_given(make_run, tmp_path):
    rng = np.random.default_rng(0)
    y = np.repeat(["no", "yes"], [285, 15])
    x = rng.normal(size=300) + (y == "yes")
    path = tmp_path / "rare.csv"
    path.write_text("x,y\n" + "".join(f"{a:.4f},{b}\n" for a, b in zip(x, y, strict=True)))
    table = ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]
    run = make_run(*table, "training.epochs=2")
    assert run.objective == {"metric": "val/balanced_accuracy", "mode": "max"}
    _, rows = solo(run)
    assert run.progress.best == max(row["val/balanced_accuracy"] for row in rows)
    given = make_run(*table, "training.epochs=1", "objective.metric=val/accuracy")
    assert given.objective == {"metric": "val/accuracy", "mode": "max"}
