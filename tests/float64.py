"""Runs in float64, in this process or in another that is told to call `patch` as it begins."""

import csv
import dataclasses

import pytest
from safetensors.numpy import load_file

from knobs.record import read_metrics, read_summary


def patch(put=setattr):
    """Give every run weights and data in float64, and let runs that can be stacked be stacked.

    Args:
        put: sets an attribute of a module.
    """
    import torch

    from knobs.sweep import groups
    from knobs.training import session

    whole, casts = session.assemble, {}

    def split(part, dtype):
        x, y = (v.to(dtype) if v.is_floating_point() else v for v in (part.x, part.y))
        return dataclasses.replace(part, x=x, y=y)

    def cast(data, dtype):
        if (id(data), dtype) not in casts:
            parts = {name: split(getattr(data, name), dtype) for name in ("train", "val", "test")}
            casts[id(data), dtype] = dataclasses.replace(data, **parts), data  # which stays
        return casts[id(data), dtype][0]

    def assemble(config, data, device):
        run = whole(config, cast(data, torch.float32), device)
        run.model.to(torch.float64)
        run.data, run.loss = cast(run.data, torch.float64), run.loss.to(torch.float64)
        return run

    put(session, "assemble", assemble)
    put(groups, "LEAST_GAIN", float("inf"))


def leaderboard(folder):
    rows = list(csv.DictReader((folder / "leaderboard.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_alike(a, b, runs):
    """Records of two sweeps: in float64 equal to 1e-8, the leaderboard but for seconds."""
    assert leaderboard(a) == leaderboard(b)
    for number in map(str, range(runs)):
        mine, other = read_summary(a / number), read_summary(b / number)
        for key in ("status", "best_epoch", "epochs", "steps", "config_hash"):
            assert mine[key] == other[key]
        rows = read_metrics(a / number), read_metrics(b / number)
        for row, same in zip(*rows, strict=True):
            numbers = {k: v for k, v in row.items() if isinstance(v, float) and "second" not in k}
            assert numbers == pytest.approx({k: same[k] for k in numbers}, rel=1e-8, abs=1e-12)
        weights = [load_file(f / number / "checkpoints" / "best.safetensors") for f in (a, b)]
        assert weights[0].keys() == weights[1].keys()
        for name, mine in weights[0].items():
            assert mine.dtype == "float64"
            assert abs(mine - weights[1][name]).max() <= 1e-8 * max(1, abs(mine).max())
