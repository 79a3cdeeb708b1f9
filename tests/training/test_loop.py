"""The loop: the same bits for the same seed, resume equal to an uninterrupted run, options by number."""

import copy
import dataclasses
import errno
import json
import subprocess
import sys

import pytest
import torch
from trained import assert_same_bits, interrupt_at

from knobs import build, rng
from knobs.config import command
from knobs.data import Tensors
from knobs.errors import DataError, StorageError, for_a_person
from knobs.models.layers import ELEMENTWISE
from knobs.record import Record, read_metrics
from knobs.training import batches, loop, state
from knobs.training.checkpoint import load, load_last, restore, save_last, snapshot
from knobs.training.run import execute
from knobs.training.setup import assemble, steps_per_epoch

NOISY = [
    "regularization=dropout",
    "regularization.norm=batch",
    "regularization.mixup=0.2",
    "regularization.l1=1e-5",
]
EVERYTHING = [*NOISY, "training.ema=0.9", "scheduler=one_cycle", "training.epochs=4"]


@pytest.mark.parametrize(
    "overrides", [[], EVERYTHING, ["model=cnn", "regularization=batchnorm", "training.epochs=2"]]
)
def test_same_seed_identical_bits(overrides, tmp_path):
    def final(seed):
        plain = command.checked(["tracking=local", "training.epochs=2", *overrides, f"seed={seed}"])
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        execute(plain, folder)
        return load_last(folder / "checkpoints")["model"]

    first, again, other = final(0), final(0), final(1)
    assert_same_bits(first, again)
    assert any(not torch.equal(first[k], other[k]) for k in first)


SCHEDULERS = sorted(p.stem for p in (command.CONF / "scheduler").glob("*.yaml"))
OPTIMIZERS = sorted(p.stem for p in (command.CONF / "optimizer").glob("*.yaml"))
CASES = [
    *[[f"scheduler={s}", "optimizer=momentum"] for s in SCHEDULERS],
    *[[f"optimizer={o}", "training.batch_size=256"] for o in OPTIMIZERS],
    EVERYTHING,
    ["data.split_seed=3", "training.early_stopping.patience=2", *NOISY],
    ["model=cnn", "regularization=batchnorm", "training.gradient_accumulation_steps=2"],
]


@pytest.mark.parametrize("overrides", CASES, ids=lambda o: " ".join(o)[:40])
def test_resume_is_bitwise_an_uninterrupted_run(overrides, make_run, tmp_path):
    """Stopped in the middle of an epoch, saved, loaded into fresh objects, gone on with."""
    overrides = ["training.epochs=3", *overrides]
    whole, rows = make_run(*overrides), []
    rows += loop.fit(whole)
    broken, seen = make_run(*overrides), []
    steps = steps_per_epoch(len(broken.data.train), broken.training)
    with pytest.raises(loop.Interrupted):
        seen.extend(loop.fit(broken, interrupt_at(steps + steps // 2)))
    save_last(tmp_path / "checkpoints", snapshot(broken))
    resumed = make_run(*overrides)
    restore(resumed, load_last(tmp_path / "checkpoints"))
    seen += loop.fit(resumed)
    assert_same_bits(resumed.model.state_dict(), whole.model.state_dict())
    assert_same_bits(resumed.best_weights, whole.best_weights)
    assert seen == rows
    assert resumed.progress.best == whole.progress.best


def test_resume_of_a_recorded_run(tmp_path):
    """The folder of a run that stopped early by Ctrl-C ends as that of one that did not."""
    plain = command.checked(["tracking=local", "training.epochs=4", *NOISY])
    execute(plain, tmp_path / "whole")
    run = assemble(plain, build.data(plain), torch.device("cpu"))
    (tmp_path / "broken").mkdir()
    rows = []
    with pytest.raises(loop.Interrupted):
        rows.extend(loop.fit(run, interrupt_at(50)))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "broken" / "metrics.jsonl").write_text(text + '{"epo')
    save_last(tmp_path / "broken" / "checkpoints", snapshot(run))
    execute(plain | {"resume": "yes"}, tmp_path / "broken")
    assert read_metrics(tmp_path / "broken") == read_metrics(tmp_path / "whole")
    best = "checkpoints/best.safetensors"
    assert (tmp_path / "broken" / best).read_bytes() == (tmp_path / "whole" / best).read_bytes()


def test_best_checkpoint_loads_in_two_lines(train, tmp_path):
    outcome = train(
        "training.epochs=5", "regularization=batchnorm", "model.width=[32,16]", "activation=gelu"
    )
    model = load(tmp_path / "run")
    data = build.data(command.checked([]))
    with torch.no_grad():
        right = (model(data.val.x).argmax(1) == data.val.y).float().mean().item()
    assert right == pytest.approx(outcome.value)
    assert not model.training


def test_accumulation_is_the_same_batch(make_run):
    one, four = make_run(), make_run("training.gradient_accumulation_steps=4")
    for run in (one, four):
        for x, y, _ in loop.epoch_batches(run):
            loop.train_step(run, x, y)
    for a, b in zip(one.model.parameters(), four.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_overfits_one_batch(make_run):
    run = make_run("optimizer.lr=1e-2")
    x, y, _ = next(loop.epoch_batches(run))
    losses = [loop.train_step(run, x, y).item() for _ in range(60)]
    assert losses[-1] < 0.01 < losses[0]


@pytest.mark.parametrize(("option", "limit"), [("clip_norm", 0.05), ("clip_value", 0.001)])
def test_clipping(option, limit, make_run):
    run = make_run(f"training.{option}={limit}", "optimizer=sgd")
    loop.train_step(run, *next(loop.epoch_batches(run)))
    flat = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    found = flat.norm().item() if option == "clip_norm" else flat.abs().max().item()
    assert found == pytest.approx(limit, rel=1e-3)


def test_ema_is_the_formula_and_is_what_is_evaluated(make_run):
    run = make_run("training.ema=0.5", "optimizer=sgd")
    expected = None
    for _, (x, y, _) in zip(range(5), loop.epoch_batches(run), strict=False):
        loop.train_step(run, x, y)
        now = run.model.head.weight.detach().clone()
        expected = now if expected is None else 0.5 * expected + 0.5 * now
    assert torch.allclose(run.evaluated.head.weight, expected, atol=1e-7)
    assert run.evaluated is not run.model


def test_early_stopping_waits_patience_epochs(train):
    outcome = train("training.early_stopping.patience=3", "training.early_stopping.min_delta=0.9")
    assert outcome.status == "stopped_early"
    assert outcome.summary["epochs"] == 4  # the first is the best; three more do not improve by 0.9
    assert outcome.summary["best_epoch"] == 1


def test_divergence_names_the_step_and_stops(make_run, train):
    run = make_run("optimizer=sgd", "optimizer.lr=1e12")
    with pytest.raises(loop.Diverged, match="step [1-9]") as error:
        list(loop.fit(run))
    assert 1 < error.value.step < 10
    outcome = train("optimizer=sgd", "optimizer.lr=1e12")
    assert (outcome.status, outcome.exit_code) == ("diverged", 5)
    assert outcome.summary["objective"]["value"] is None


def test_drop_last_and_steps(make_run):
    kept, dropped = make_run(), make_run("training.drop_last=true")
    n = len(kept.data.train)
    assert [len(x) for x, _, _ in loop.epoch_batches(kept)][-1] == n % 32
    assert {len(x) for x, _, _ in loop.epoch_batches(dropped)} == {32}
    assert steps_per_epoch(n, kept.training) == n // 32 + 1
    assert steps_per_epoch(n, dropped.training) == n // 32


def test_an_epoch_visits_every_example_once_in_a_new_order(make_run):
    run = make_run()
    first = torch.cat([x for x, _, _ in loop.epoch_batches(run)])
    run.progress.epoch = 1
    second = torch.cat([x for x, _, _ in loop.epoch_batches(run)])
    assert not torch.equal(first, second)
    key = lambda x: sorted(map(tuple, x.flatten(1).tolist()))  # noqa: E731
    assert key(first) == key(second) == key(run.data.train.x)


def test_bf16_trains_and_keeps_fp32_weights(train, make_run):
    run = make_run("training.precision=bf16")
    loop.train_step(run, *next(loop.epoch_batches(run)))
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert train("training.precision=bf16", "training.epochs=10").value > 0.9


def test_evaluation_leaves_no_trace(make_run):
    run = make_run("regularization=batchnorm", "regularization.dropout=0.5")
    before = copy.deepcopy(run.model.state_dict())
    first = loop.evaluate(run, run.data.val, "val")
    assert loop.evaluate(run, run.data.val, "val") == first
    assert_same_bits(run.model.state_dict(), before)


def test_the_test_split_is_read_only_when_asked(train):
    assert train("training.epochs=1").summary["test"] is None
    asked = train("training.epochs=1", "test=true", folder="asked").summary["test"]
    assert set(asked) == {"test/loss", "test/accuracy", "test/f1"}


def test_streams_are_functions_of_their_moment():
    a = torch.randn(3, generator=rng.generator(0, "order", 1))
    assert torch.equal(a, torch.randn(3, generator=rng.generator(0, "order", 1)))
    moments = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    keys = {rng.key(*moment) for moment in moments}
    assert len(keys) == 5
    assert all(0 <= k < 2**63 for k in keys)


def test_a_full_disk_is_exit_6_and_no_traceback_of_the_record(train, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def closed_and_full(record, *_):
        record._lock.release()
        full()

    monkeypatch.setattr(Record, "log", full)
    monkeypatch.setattr(Record, "finish", closed_and_full)
    with pytest.raises(OSError, match="No space left") as error:
        train("training.epochs=1")
    fault = for_a_person(error.value)
    assert isinstance(fault, StorageError)
    assert fault.exit_code == 6


def test_no_memory_is_exit_7_and_says_what_to_do():
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    fault = for_a_person(error.value)
    assert fault.exit_code == 7
    assert "a smaller training.batch_size may fit" in str(fault)
    assert for_a_person(KeyError("x")).__class__ is KeyError


@pytest.mark.parametrize(("overrides", "draws"), [
    ([], False), (["model=cnn", "regularization=batchnorm"], False), (["regularization=dropout"], True),
    (["regularization=mixup"], True), (["data=python_docs", "model=text_bag"], True),
])  # fmt: skip
def test_a_seed_at_each_step_where_anything_can_draw(overrides, draws, make_run):
    """Where none is given, a training step leaves the generator as it was."""
    run = make_run(*overrides)
    batch = next(loop.epoch_batches(run))
    before = torch.default_generator.get_state()
    loop.train_step(run, *batch)
    assert run.uses_rng == draws
    assert draws or torch.equal(torch.default_generator.get_state(), before)


def test_modules_that_need_no_seed_draw_nothing():
    """Those of conf/activation, and every elementwise one."""
    modules = [
        build.make("activation", command.checked([f"activation={path.stem}"])["activation"])()
        for path in (command.CONF / "activation").glob("*.yaml")
    ]
    modules += [kind() for kind in ELEMENTWISE if kind is not torch.nn.Threshold]
    modules.append(torch.nn.Threshold(0.1, 0.2))
    quiet = [module for module in modules if type(module) in state.DRAWLESS]
    assert len(quiet) > len(ELEMENTWISE)
    for module in quiet:
        before = torch.default_generator.get_state()
        module(torch.randn(4, 8, generator=rng.generator(0, "x")))
        assert torch.equal(torch.default_generator.get_state(), before), module


def test_the_compiler_waits_until_something_is_compiled():
    code = """
import sys, torch
from knobs import late_compiler
late_compiler.install()
layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
print("sympy" in sys.modules)
compiled = torch.compile(layer, backend="eager")
print(torch.equal(compiled(torch.ones(1, 2)), layer(torch.ones(1, 2))), "sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True"]


def drawn(run):
    """The classes and the examples of the epoch under way."""
    order = torch.cat(batches.epoch_order(run, run.seed))
    return run.data.train.y[order], order


def test_a_balanced_sampler_draws_each_class_as_often(make_run):
    """Within five standard deviations over 200 epochs; within a class each example alike."""
    run = make_run("data=wine", "training.sampler=balanced")
    n, counts = len(run.data.train), run.data.train.y.bincount()
    assert counts.max() > 1.3 * counts.min()
    classes, examples = torch.zeros(3), torch.zeros(n)
    for epoch in range(200):
        run.progress.epoch = epoch
        y, order = drawn(run)
        assert len(order) == n
        classes += y.bincount(minlength=3)
        examples += order.bincount(minlength=n)
    share = 1 / 3
    sigma = (200 * n * share * (1 - share)) ** 0.5
    assert (classes - 200 * n * share).abs().max() < 5 * sigma
    expected = 200 * n / (3 * counts[run.data.train.y])
    assert ((examples - expected).abs() < 5 * expected.sqrt()).all()


def test_a_balanced_order_is_a_function_of_seed_and_epoch(make_run):
    settings = ["data=wine", "training.sampler=balanced"]
    run, other = make_run(*settings), make_run(*settings, "optimizer=momentum")
    assert torch.equal(drawn(run)[1], drawn(other)[1])
    assert not torch.equal(drawn(run)[1], drawn(make_run(*settings, "seed=1"))[1])
    first = drawn(run)[1]
    run.progress.epoch = 1
    assert not torch.equal(drawn(run)[1], first)


def test_a_balanced_run_resumes_to_the_same_bits(make_run):
    settings = ["data=wine", "training.sampler=balanced", "training.epochs=3"]
    whole = make_run(*settings)
    rows = list(loop.fit(whole))
    for at in (2, 5, 7):  # of 4 steps an epoch
        broken, seen = make_run(*settings), []
        with pytest.raises(loop.Interrupted):
            seen += loop.fit(broken, interrupt_at(at))
        resumed = make_run(*settings)
        restore(resumed, snapshot(broken))
        tail = list(loop.fit(resumed))
        assert tail == rows[-len(tail) :]
        assert_same_bits(resumed.model.state_dict(), whole.model.state_dict())


def test_an_unbalanced_class_is_drawn_and_an_empty_one_refused(make_run, monkeypatch):
    y = torch.tensor([0] * 999 + [1])
    order = batches.balanced(y, torch.Generator().manual_seed(0))
    assert 400 < (order == 999).sum() < 600
    whole = build.data

    def emptied(config):
        data = whole(config)
        train = Tensors(data.train.x, data.train.y.clamp(max=1))
        return dataclasses.replace(data, train=train)

    monkeypatch.setattr(build, "data", emptied)
    message = "training.sampler=balanced: class 2 has no training example"
    with pytest.raises(DataError, match=message):
        make_run("data=wine", "training.sampler=balanced")
    _, faults = command.check_overrides(["data=diabetes", "training.sampler=balanced"])
    assert faults == [
        "training.sampler=balanced: needs classes, and diabetes is a regression; use shuffle"
    ]
