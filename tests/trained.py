"""Helpers for tests: train.py in a process; runs trained alone or together, how far apart they are."""

import os
import subprocess
import sys

import torch
from conftest import REPO

from knobs.stack import loop as stack
from knobs.training import loop

ENV = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | {
    "OMP_NUM_THREADS": "1",
    "WANDB_MODE": "disabled",
    "PYTHONWARNINGS": "error::UserWarning",
}
TRAIN = [sys.executable, str(REPO / "train.py")]


def train_py(cwd, *args, env=ENV, timeout=120):
    return subprocess.run(
        [*TRAIN, *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


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
