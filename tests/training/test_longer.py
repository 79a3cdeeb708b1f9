"""A resume with more epochs: the schedule is that of the new length, or goes on as it was."""

import pytest
import torch
from conftest import REPO

from knobs import build
from knobs.config import command
from knobs.errors import ConfigError
from knobs.training import checkpoint, loop
from knobs.training.preview import rates
from knobs.training.setup import assemble, steps_per_epoch

SCHEDULES = sorted(path.stem for path in (REPO / "conf" / "scheduler").glob("*.yaml"))
FOLLOW = {"cosine", "linear", "polynomial", "one_cycle", "wsd", "warmup_cosine", "inverse_sqrt", "lambda"}  # fmt: skip
BEFORE, AFTER = 4, 9


def run_of(schedule, epochs, *more):
    lines = [
        "data=wine",
        "optimizer=momentum",
        f"scheduler={schedule}",
        f"training.epochs={epochs}",
        *more,
    ]
    config = command.checked(lines)
    return config, assemble(config, build.data(config), torch.device("cpu"))


def used(run):
    """The rate of every optimizer step of what is left of a run."""
    seen = []
    hook = run.optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    for _ in loop.fit(run):
        pass
    hook.remove()
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rates_after_are_those_of_the_rule(schedule):
    _, first = run_of(schedule, BEFORE)
    before = used(first)
    config, longer = run_of(schedule, AFTER)
    checkpoint.restore(longer, checkpoint.snapshot(first), BEFORE)
    steps = steps_per_epoch(len(longer.data.train), longer.training)
    after = used(longer)
    assert (len(before), len(after)) == (BEFORE * steps, (AFTER - BEFORE) * steps)
    assert longer.rebuilt == (schedule in FOLLOW)
    if schedule in FOLLOW:  # a fresh schedule of the new length, from this step on
        assert after == rates(config, steps)[BEFORE * steps :]
    elif schedule != "plateau":  # its own way, as if the run had been as long but the shares not
        old, _ = run_of(schedule, BEFORE)
        per_step = config["scheduler"]["interval"] == "step"
        total = BEFORE * (steps if per_step else 1)
        assert after == pytest.approx(continued(old, total, steps), rel=1e-12)


def continued(config, total, steps):
    """The rates of a schedule of `total` intervals, driven on to AFTER epochs."""
    net = torch.nn.Linear(2, 2)
    optimizer = build.optimizer(config, net)
    scheduler = build.scheduler(config, optimizer, total)
    optimizer.step()
    seen = []
    for _ in range(AFTER):
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            if config["scheduler"]["interval"] == "step":
                scheduler.step()
        if config["scheduler"]["interval"] == "epoch":
            scheduler.step()
    return seen[BEFORE * steps :]


def test_momentum_that_is_cycled_follows_too():
    cycled = ["scheduler.cycle_momentum=true"]
    _, first = run_of("one_cycle", BEFORE, *cycled)
    used(first)
    _, longer = run_of("one_cycle", AFTER, *cycled)
    checkpoint.restore(longer, checkpoint.snapshot(first), BEFORE)
    _, fresh = run_of("one_cycle", AFTER, *cycled)
    steps = steps_per_epoch(len(fresh.data.train), fresh.training)
    checkpoint._place(fresh.scheduler, BEFORE * steps)
    assert (
        longer.optimizer.param_groups[0]["momentum"] == fresh.optimizer.param_groups[0]["momentum"]
    )


def test_as_many_epochs_as_before_change_nothing():
    _, first = run_of("one_cycle", BEFORE)
    used(first)
    _, same = run_of("one_cycle", BEFORE)
    checkpoint.restore(same, checkpoint.snapshot(first), BEFORE)
    assert not same.rebuilt
    assert same.scheduler.state_dict() == first.scheduler.state_dict()


def test_a_cycle_that_ends_before_the_run_is_told_before_it():
    with pytest.raises(
        ConfigError,
        match=r"scheduler.total_steps=10: ends before the run, which has 16 steps; use 100%",
    ):
        run_of("one_cycle", BEFORE, "scheduler.total_steps=10")


@pytest.mark.parametrize(
    ("size", "count", "refused"),
    [
        (32, 32, True),
        (33, 32, True),
        (32, 16, False),
        (33, 16, False),
        (31, 2, False),
        (4, 3, False),
        (5, 3, True),
        (7, 3, True),
    ],
)
def test_batch_norm_takes_no_microbatch_of_one(size, count, refused):
    pieces = [len(p) for p in torch.zeros(size).chunk(count)]
    assert (1 in pieces) == refused
    lines = [
        "data=wine",
        "regularization=batchnorm",
        f"training.batch_size={size}",
        f"training.gradient_accumulation_steps={count}",
    ]
    faults = command.check_overrides(lines)[1]
    assert any("has a microbatch of one example" in fault for fault in faults) == refused


def test_nor_does_its_last_batch(make_run):
    """106 training rows: 3 batches of 33, and 7, which three microbatches are 3, 3 and 1 of."""
    lines = ["data=wine", "regularization=batchnorm", "training.batch_size=33"]
    message = (
        r"training\.batch_size=33: 106 training examples leave a last batch of 7, in 3 microbatches "
        r"one of 1, which batch norm cannot take; change it, or training\.drop_last=true"
    )
    three = [*lines, "training.gradient_accumulation_steps=3"]
    with pytest.raises(ConfigError, match=message):
        make_run(*three)
    for more in (["training.drop_last=true"], ["regularization.norm=layer"]):
        assert len([*loop.fit(make_run(*three, "training.epochs=2", *more))]) == 2


def test_nor_does_a_network_that_brings_its_own(make_run):
    """Of which the check of the config does not know; a picture of several places it can take."""
    lines = ["data=digits", "model=cnn", "model.own_norm=batch", "training.batch_size=33"]
    lines += ["training.gradient_accumulation_steps=32", "model.depth=4"]
    with pytest.raises(ConfigError, match="=32: of training.batch_size=33 has a microbatch of one"):
        make_run(*lines)
    assert make_run(*lines[:-1]) is not None
