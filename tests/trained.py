"""Helpers for tests: train.py in a process; runs trained alone or together, how far apart they are."""

import copy
import dataclasses
import functools
import os
import sys

import processes
import pytest
import torch
from conftest import REPO

from knobs import build
from knobs.config import command
from knobs.stack import loop as stack
from knobs.training import loop
from knobs.training.setup import assemble

ENV = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
    "PYTHONWARNINGS": "error::UserWarning",
}
CPU = torch.device("cpu")
TRAIN = [sys.executable, str(REPO / "train.py")]


def train_py(cwd, *args, env=ENV, timeout=120):
    return processes.run([*TRAIN, *args], cwd, env, timeout)


def solo(run):
    """The run trained alone; its rows of the record."""
    rows = list(loop.fit(run))
    return loop.ended(run), rows


def together(runs):
    """The runs trained as one stack; run -> (status, rows of the record)."""
    rows = {run: [] for run in runs}
    ends = {}
    stack.fit(
        runs,
        on_epoch=lambda run, row: rows[run].append(row),
        on_end=lambda run, status, error: ends.update({run: status}),
        watch=lambda _: None,
        on_round=lambda _: None,
    )
    return {run: (ends[run], rows[run]) for run in runs}


def distance(a, b):
    """Largest relative difference of two lists of tensors, each by its own norm."""
    pairs = [(x.double(), y.double()) for x, y in zip(a, b, strict=True)]
    return max(((x - y).norm() / y.norm().clamp(min=1e-300)).item() for x, y in pairs)


def assert_same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def interrupt_at(step):
    def watch(run):
        if run.progress.step == step:
            run.stop_requested = True

    return watch


@functools.cache  # most settings are trained twice, alone and in a stack
def _checked(folder, *overrides):
    return command.checked([*overrides, "tracking=local"])


def make(overrides, dtype, **sections):
    """An assembled run in `dtype`, its data too.

    Args:
        sections: of the config, in place of those that the overrides compose.
    """
    plain = copy.deepcopy(_checked(os.getcwd(), *overrides)) | sections
    run = assemble(plain, build.data(plain), CPU)
    run.model.to(dtype)
    if run.average:
        run.average.module.to(dtype)

    def cast(tensor):
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def split(part):
        return dataclasses.replace(part, x=cast(part.x), y=cast(part.y))

    for state in run.optimizer.state.values():  # Adagrad's is made with the optimizer
        state.update({name: cast(v) if v.ndim else v for name, v in state.items()})
    data = run.data
    parts = {name: split(getattr(data, name)) for name in ("train", "val", "test")}
    run.data = dataclasses.replace(data, **parts)
    run.loss = run.loss.to(torch.empty(0, dtype=dtype))
    return run


def state_of(run):
    states = [run.optimizer.state.get(p, {}) for p in run.model.parameters()]
    return [v for s in states for _, v in sorted(s.items()) if isinstance(v, torch.Tensor)]


def compare(settings, dtype=torch.float64, tolerance=1e-8, hide=None, **sections):
    """Train each setting alone and all as a stack, to the same status and metrics.

    Args:
        hide: what sets to 0, in a run that has ended, what no loss depends on.
        sections: as of `make`.

    Returns:
        The largest relative difference of any weights, buffers, optimizer states and best weights,
        and the stack's runs.
    """
    alone = [make(setting, dtype, **sections) for setting in settings]
    expected = [solo(run) for run in alone]
    rows = [make(setting, dtype, **sections) for setting in settings]
    found = together(rows)
    apart = {}
    for i, (run, reference, (status, record)) in enumerate(zip(rows, alone, expected, strict=True)):
        assert found[run][0] == status, settings[i]
        for row, other in zip(found[run][1], record, strict=True):
            assert row == pytest.approx(other, rel=10 * tolerance, abs=10 * tolerance), settings[i]
        assert run.progress.best_epoch == reference.progress.best_epoch, settings[i]
        for one in (run, reference) if hide else ():
            hide(one)
        parts = [(list(r.model.parameters()), list(r.model.buffers()), state_of(r),
                  list(r.best_weights.values())) for r in (run, reference)]  # fmt: skip
        apart[i] = max(distance(a, b) for a, b in zip(*parts, strict=True) if b)
    worst = max(apart, key=apart.get)
    print("furthest apart:", settings[worst])  # shown where the assertion fails
    return apart[worst], rows
