"""Muon of all rows at once: torch's bits, and each run's own state."""

import pytest
import torch
from torch.optim._muon import _zeropower_via_newtonschulz
from trained import compare, make, solo, together

from knobs.config import command
from knobs.stack import muon
from knobs.stack.loop import Stack
from knobs.stack.optimizers import Each, Slice
from knobs.sweep import stackable

ITERATION = (3.4445, -4.775, 2.0315), 5, 1e-7
WINE = ["data=wine", "training.batch_size=32", "optimizer=muon", "model.depth=3"]
ROWS = [
    [*WINE, "seed=0", "training.epochs=2", "optimizer.weight_decay=0"],
    [*WINE, "seed=1", "scheduler=one_cycle", "regularization.l1=1e-4", "training.epochs=3"],
    [*WINE, "seed=2", "optimizer.lr=3e-3", "training.clip_norm=0.5", "training.epochs=3"],
    [*WINE, "seed=3", "training.epochs=3", "optimizer.nesterov=false"],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 8), (64, 32), (7, 30), (1, 5), (5, 1)])
def test_newton_schulz_has_the_bits_of_torchs(shape, dtype):
    torch.manual_seed(1)
    values = torch.randn(6, *shape, dtype=dtype)
    values[2] = 0  # a row without gradients
    for laid_out in (values, values.mT.contiguous().mT):
        found = muon.orthogonalized(laid_out, *ITERATION)
        for one, its in zip(values, found, strict=True):
            assert torch.equal(its, _zeropower_via_newtonschulz(one, *ITERATION))


@pytest.mark.parametrize("bits", ["equal", "not equal"])
def test_rows_of_muon_float64(bits, monkeypatch):
    """Each with its own rate, decay and schedule, beside adam; together if the bits are equal."""
    if bits == "not equal":
        monkeypatch.setattr(muon, "_alike", lambda *_: False)
    adam = [*WINE, "optimizer=adam", "seed=4", "training.epochs=3"]
    stack = Stack([make(setting, torch.float64) for setting in ROWS])
    assert {type(part) for part in stack.slices} == {Slice if bits == "equal" else Each}
    worst, rows = compare([*ROWS, adam])
    assert worst < 1e-8
    assert max(run.progress.step for run in rows) == 12
    configs = [command.checked(setting) for setting in [*ROWS, adam]]
    assert [stackable.alone(config) for config in configs] == [""] * 5
    assert len({stackable.shared(config) for config in configs}) == 1


def test_every_run_has_the_state_that_it_has_alone():
    alone, row = make(ROWS[2], torch.float64), make(ROWS[2], torch.float64)
    solo(alone)
    expected = alone.optimizer.state_dict()["parts"]
    together([row, make(ROWS[1], torch.float64)])
    parts = row.optimizer.state_dict()["parts"]
    assert len(parts) == len(expected) == 2
    for mine, its in zip(parts, expected, strict=True):
        assert mine["state"].keys() == its["state"].keys()
        for key, kept in its["state"].items():
            assert mine["state"][key].keys() == kept.keys()
            for name, value in kept.items():
                torch.testing.assert_close(mine["state"][key][name], value, rtol=1e-8, atol=1e-10)
