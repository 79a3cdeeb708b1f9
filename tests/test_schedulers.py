"""Every scheduler's whole curve against its closed form, or torch's own driven by hand."""

import functools
import importlib
import math

import pytest
import torch
from torch.optim import lr_scheduler
from trained import solo, together

from knobs import build, schedulers
from knobs.config import command
from knobs.training.checkpoint import restore, snapshot
from knobs.training.loop import train_epoch
from knobs.training.preview import rates
from knobs.training.state import Interrupted

EPOCHS, STEPS = 20, 7
TOTAL = EPOCHS * STEPS
LR = 0.1


def curve(*overrides):
    """The rate of every optimizer step of 20 epochs of 7 steps, base rate 0.1."""
    plain = command.checked([
        "optimizer=sgd", f"optimizer.lr={LR}", f"training.epochs={EPOCHS}", *overrides
    ])  # fmt: skip
    found = rates(plain, STEPS)
    assert len(found) == TOTAL
    return found


def per_epoch(function):
    return [LR * function(step // STEPS) for step in range(TOTAL)]


def per_step(function):
    return [LR * function(step) for step in range(TOTAL)]


def one_cycle(t):
    up, down = 0.3 * TOTAL - 1, TOTAL - 1 - (0.3 * TOTAL - 1)
    if t <= up:
        return 1 + (1 / 25 - 1) * (1 + math.cos(math.pi * t / up)) / 2
    low = 1 / 25 / 1e4
    return low + (1 - low) * (1 + math.cos(math.pi * (t - up) / down)) / 2


def triangle(t):
    half = 14  # 10 % of 140
    return 0.1 + 0.9 * (1 - abs(t % (2 * half) / half - 1))


WARM = 7  # 5 % of 140
CASES = {
    "constant": per_epoch(lambda e: 1.0),
    "step": per_epoch(lambda e: 0.1 ** (e // 6)),  # 30 % of 20 epochs
    "multistep": per_epoch(lambda e: 0.1 ** ((e >= 10) + (e >= 15))),
    "exponential": per_epoch(lambda e: 0.9**e),
    "cosine": per_epoch(lambda e: (1 + math.cos(math.pi * e / EPOCHS)) / 2),
    "lambda": per_epoch(lambda e: 1 / (1 + 0.1 * e)),
    "multiplicative": per_epoch(lambda e: 0.95**e),
    "linear": per_step(lambda t: 1 - t / TOTAL),
    "polynomial": per_step(lambda t: (1 - t / TOTAL) ** 2),
    "one_cycle": per_step(one_cycle),
    "cyclic": per_step(triangle),
    "cosine_restarts": per_step(lambda t: (1 + math.cos(math.pi * (t % 35) / 35)) / 2),
    "warmup_cosine": per_step(
        lambda t: (
            (t + 1) / WARM
            if t < WARM
            else (1 + math.cos(math.pi * (t - WARM) / (TOTAL - WARM))) / 2
        )
    ),
    "inverse_sqrt": per_step(lambda t: (t + 1) / WARM if t < WARM else math.sqrt(WARM / (t + 1))),
    "wsd": per_step(lambda t: (t + 1) / WARM if t < WARM else min(1, (TOTAL - t) / 28)),
    "plateau": per_epoch(lambda e: 1.0),  # its metric is not known before training; see below
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_whole_curve(name):
    assert curve(f"scheduler={name}") == pytest.approx(CASES[name], rel=1e-9, abs=1e-12)


def from_yaml(node, total):
    """The schedule that a YAML describes, its percentages as intervals, by nothing of knobs."""
    arguments = {
        key: from_yaml(value, total) if isinstance(value, dict) else lengths_by_hand(value, total)
        for key, value in node.items()
        if key not in ("_target_", "_partial_", "interval", "monitor")
    }
    module, _, name = node["_target_"].rpartition(".")
    return functools.partial(getattr(importlib.import_module(module), name), **arguments)


def lengths_by_hand(value, total):
    if isinstance(value, list):
        return [lengths_by_hand(item, total) for item in value]
    return round(total * float(value[:-1]) / 100) if str(value).endswith("%") else value


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (command.CONF / "scheduler").glob("*.yaml"))
)
def test_every_schedule_is_its_class_driven_by_hand(name):
    node = command.checked([f"scheduler={name}", f"optimizer.lr={LR}"])["scheduler"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    each = node["interval"] == "step"
    scheduler, expected = from_yaml(node, TOTAL if each else EPOCHS)(optimizer), []
    for step in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if each or (step + 1) % STEPS == 0:
            by_metric = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([step] if by_metric else []))  # an accuracy that improves
    assert curve(f"scheduler={name}") == expected


def test_interval_changes_the_unit_and_lengths_follow():
    by_step = curve("scheduler=cosine", "scheduler.interval=step")
    expected = per_step(lambda t: (1 + math.cos(math.pi * t / TOTAL)) / 2)
    assert by_step == pytest.approx(expected, abs=1e-12)


def test_a_schedule_leaves_momentum_alone():
    for name in ("one_cycle", "cyclic"):
        plain = command.checked(["optimizer=momentum", f"scheduler={name}"])
        net = torch.nn.Linear(2, 2)
        optimizer = build.optimizer(plain, net)
        scheduler = build.scheduler(plain, optimizer, 10)
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["momentum"] == 0.9


def test_plateau_watches_a_validation_metric(train, tmp_path):
    """An impossible threshold: the rate falls by 10 every patience + 1 epochs."""
    train("scheduler=plateau", "scheduler.patience=1", "scheduler.threshold=9", "scheduler.threshold_mode=abs",
          "training.epochs=7", "optimizer.lr=1e-2")  # fmt: skip
    import json

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line)["lr"] for line in lines]
    assert found == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


def test_the_rate_of_an_epoch_is_that_of_its_last_step(make_run):
    """Of every schedule, alone and in a stack of all of them."""
    setting = ["data=wine", "training.batch_size=32", "training.epochs=6", "tracking=local"]
    options = sorted(p.stem for p in (command.CONF / "scheduler").glob("*.yaml"))
    lines = {o: [*setting, "optimizer=sgd", f"scheduler={o}"] for o in options}
    lines["plateau"].append("scheduler.patience=99")  # it falls by a metric, and so it cannot
    rows = [make_run(*lines[option]) for option in options]
    stacked = together(rows)
    for option, row in zip(options, rows, strict=True):
        steps = row.progress.step // 6
        used = rates(command.checked(lines[option]), steps)[steps - 1 :: steps]
        assert [one["lr"] for one in solo(make_run(*lines[option]))[1]] == used, option
        assert [one["lr"] for one in stacked[row][1]] == used, option


def test_a_run_interrupted_behind_an_epochs_last_step_knows_its_rate(make_run):
    setting = ["data=wine", "training.batch_size=32", "scheduler=one_cycle", "training.epochs=4"]
    run, whole = make_run(*setting), make_run(*setting)

    def stop(run):
        run.stop_requested = run.progress.batch == 4

    with pytest.raises(Interrupted):
        train_epoch(run, stop)
    resumed = make_run(*setting)
    restore(resumed, snapshot(run))
    rates_used = [train_epoch(one, lambda run: None)["lr"] for one in (resumed, whole)]
    assert rates_used[0] == rates_used[1] != run.lr


@pytest.mark.parametrize(("word", "total", "expected"), [
    ("30%", 20, 6), ("100%", 140, 140), ("1%", 20, 1), ("0%", 20, 0), (5, 20, 5), ("2.5%", 1000, 25),
    (["50%", "75%"], 20, [10, 15]), ({"a": {"b": "5%"}}, 100, {"a": {"b": 5}}), ("cos", 20, "cos"),
])  # fmt: skip
def test_lengths(word, total, expected):
    assert schedulers.lengths(word, total) == expected


def test_floors_and_no_warmup():
    assert schedulers.warmup_cosine(99, warmup=0, total=10, floor=0.25) == 0.25
    assert schedulers.wsd(10, warmup=0, decay=4, total=10, floor=0.5) == 0.5
    assert schedulers.wsd(9, warmup=0, decay=0, total=10, floor=0.5) == 1.0
    assert [schedulers.inverse_sqrt(t, warmup=0) for t in (0, 3)] == [1.0, 0.5]
