"""NaN and inf in a gradient, a weight, a statistic or a metric: diverged, at the step that made it."""

import math

import pytest
import torch
from injected import faults

from knobs import record
from knobs.stack import loop as stack
from knobs.training import finite, loop, metrics
from knobs.training.state import Diverged

SMALL = ["model.width=4", "training.batch_size=512", "training.epochs=3"]  # 3 steps an epoch
PLACES = ("gradient", "weight", "running_mean", "average")


def broken(run, place, value, member=0):
    """Put a value that is not finite into a network."""
    network = run.networks[member]
    if place == "gradient":
        next(network.parameters()).grad.view(-1)[0] = value
    elif place == "weight":
        list(network.parameters())[-1].data.view(-1)[0] = value
    elif place == "average":
        next(run.average.module.parameters()).data.view(-1)[0] = value
    else:
        next(b for name, b in network.named_buffers() if name.endswith(place))[0] = value


@faults(
    "a gradient, weight or statistic not finite", "diverged, with the step; best from before", 8
)
def test_what_is_not_finite_at_an_epochs_end_ends_the_run(cases, make_run, tried, monkeypatch):
    kinds = [(place, value) for place in PLACES for value in (math.nan, math.inf)]
    real = loop.train_step
    for place, value in kinds[:cases]:
        extra = ["regularization.norm=batch"] if place == "running_mean" else []
        extra += ["training.ema=0.9"] if place == "average" else []
        run = make_run(*SMALL, *extra)

        def step(run, *batch, place=place, value=value):
            loss = real(run, *batch)
            if run.progress.step == 6:
                broken(run, place, value)
            return loss

        monkeypatch.setattr(loop, "train_step", step)
        rows = []
        what = "the gradient" if place == "gradient" else "a weight"
        with pytest.raises(Diverged, match=f"^{what} is not a finite number at step 6$"):
            rows.extend(loop.fit(run))
        assert run.progress.best_epoch <= 1
        tried()


def test_nan_within_a_window_is_named_by_the_next_loss(make_run, monkeypatch):
    """A gradient that is NaN in step 5 makes the loss of step 6 NaN, whenever that is read."""
    real, run = loop.backward, make_run(*SMALL, "training.batch_size=32")

    def backward(run, *batch):
        loss = real(run, *batch)
        if run.progress.step == 4:
            broken(run, "gradient", math.nan)
        return loss

    monkeypatch.setattr(loop, "backward", backward)
    with pytest.raises(Diverged, match="^the loss is not a finite number at step 6$"):
        list(loop.fit(run))


def test_no_checkpoint_holds_what_is_not_finite(make_run, monkeypatch):
    saved, run = [], make_run(*SMALL, "training.batch_size=32")
    run.networks[0].register_parameter("idle", torch.nn.Parameter(torch.zeros(2)))

    def watch(run):
        run.save_requested = True
        if run.progress.step == 3:
            run.networks[0].idle.data[1] = math.inf

    with pytest.raises(Diverged, match="^a weight is not a finite number at step"):
        list(loop.fit(run, watch, lambda run: saved.append(run.progress.step)))
    assert saved == [1, 2]
    assert run.progress.step == math.ceil(len(run.data.train) / 32)  # the regular look's step


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("place", ["gradient", "weight"])
def test_a_row_is_named_as_its_run_alone_and_others_go_on(members, place, make_run, monkeypatch):
    def runs():
        return [make_run(*SMALL, f"seed={k}", f"training.members={members}") for k in range(3)]

    alone, rows = runs(), runs()
    steps = loop.train_step, stack.train_step

    def hurt(run):
        if run.seed == 1 and run.progress.step == 6:
            broken(run, place, math.nan, members - 1)

    def solo_step(run, *batch):
        loss = steps[0](run, *batch)
        hurt(run)
        return loss

    def stack_step(stacked, *batch):
        loss = steps[1](stacked, *batch)
        rows = [k for k, run in enumerate(stacked.owners) if run.seed == 1]
        if rows and stacked.owners[rows[-1]].progress.step == 6:
            tensor = stacked.parameters[-1]
            (tensor.grad if place == "gradient" else tensor.data)[rows[-1]] = math.nan
        return loss

    monkeypatch.setattr(loop, "train_step", solo_step)
    with pytest.raises(Diverged) as error:
        list(loop.fit(alone[1]))
    monkeypatch.setattr(stack, "train_step", stack_step)
    ends, errors = {}, {}
    stack.fit(
        rows, lambda run, row: None, lambda run, status, error: (ends.update({run: status}),
        errors.update({run: error})), lambda _: None, lambda _: None,
    )  # fmt: skip
    assert [ends[run] for run in rows] == ["finished", "diverged", "finished"]
    assert str(errors[rows[1]]) == str(error.value)
    assert place in str(error.value)
    assert ("of member 1" in str(error.value)) == (members == 2)


@faults("a validation metric not finite", "diverged; best and JSON from before", 6)
def test_a_usual_metric_that_is_not_finite_ends_the_run(cases, train, tried, monkeypatch, tmp_path):
    real, names = metrics.evaluation, ("loss", "accuracy", "f1")
    asked = [(name, value) for name in names for value in (math.nan, math.inf)]
    for i, (name, value) in enumerate(asked[:cases]):
        calls = []

        def evaluation(*arguments, name=name, value=value, calls=calls):
            rows = real(*arguments)
            calls.append(1)
            return [row | {name: value} for row in rows] if len(calls) > 1 else rows

        monkeypatch.setattr(metrics, "evaluation", evaluation)
        metric = "val/loss" if name == "accuracy" else "val/accuracy"
        mode = "objective.mode=min" if name == "accuracy" else "objective.mode=max"
        ended = train(*SMALL, f"objective.metric={metric}", mode, folder=f"run{i}")
        assert (ended.status, ended.exit_code) == ("diverged", 5)
        folder = tmp_path / f"run{i}"
        for text in (folder / "summary.json", folder / "metrics.jsonl", folder / "train.log"):
            if text.is_file():
                assert "NaN" not in text.read_text()
                assert "Infinity" not in text.read_text()
        assert record.read_summary(folder)["best_epoch"] == 1
        tried()


def test_r2_of_targets_that_do_not_vary_is_null_and_the_run_is_sound(make_run):
    run = make_run(*SMALL)
    run.data.val.y.fill_(1)
    run.objective = {"metric": "val/loss", "mode": "min"}
    finite.check_metrics(run, {"val/loss": 1.0, "val/r2": -math.inf, "lr": 0.1}, split="val/")
    with pytest.raises(Diverged, match="val/rmse is not a finite number"):
        finite.check_metrics(run, {"val/loss": 1.0, "val/rmse": math.inf}, split="val/")
    assert record.as_json({"a": [math.nan, {"b": -math.inf}], "c": 1.5}, None) == (
        b'{"a": [null, {"b": null}], "c": 1.5}\n'
    )


@pytest.mark.parametrize("split", range(0, 9, 2))
def test_a_stop_at_any_batch_leaves_the_sums_bit_for_bit(split, make_run, monkeypatch):
    """Losses that a double cannot add exactly: stopped anywhere, saved at every step, alike."""
    monkeypatch.setattr(loop, "CHECK_EVERY", 4)
    words = ["model.width=4", "training.batch_size=100", "training.epochs=1"]
    whole = list(loop.fit(make_run(*words)))
    run = make_run(*words)

    def watch(run):
        run.save_requested, run.stop_requested = True, run.progress.batch == split + 1

    with pytest.raises(loop.Interrupted):
        list(loop.fit(run, watch))
    run.stop_requested = False
    assert list(loop.fit(run)) == whole


def test_large_weights_are_finite_though_their_sum_is_not(make_run):
    run = make_run(*SMALL)
    run.networks[0].register_parameter("large", torch.nn.Parameter(torch.full((4,), 3e38)))
    assert not run.networks[0].large.sum().isfinite()
    assert finite.fault(run) is None
    run.networks[0].large.data[0] = -math.inf
    assert finite.fault(run) == ("a weight", None)
