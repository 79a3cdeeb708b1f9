"""A network refuses what nobody has prepared, and nothing that is prepared."""

import numpy as np
import pandas as pd
import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.data import bundled
from knobs.data.inputs import Pictures
from knobs.errors import DataError
from knobs.predict import guard
from knobs.shape import Shape

SETS = ("wine", "diabetes", "breast_cancer", "digits")
WEIGHT = torch.zeros(1)


@pytest.fixture(scope="module")
def sets():
    """Name -> its data, raw rows as a tensor, and all prepared ones."""
    found = {}
    for name in SETS:
        data = build.data(command.checked([f"data={name}"]))
        raw = torch.from_numpy(bundled._read(name)[0]).float().view(-1, *data.shape.input)
        found[name] = data, raw, torch.cat([data.train.x, data.val.x, data.test.x])
    return found


def refused(x, data):
    try:
        guard.check(x, data.shape, data.preparation.inputs, WEIGHT)
    except DataError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("size", [1, 2, 30, 150])
def test_raw_rows_are_found_and_prepared_ones_never(name, size, sets):
    data, raw, prepared = sets[name]
    draw = torch.Generator().manual_seed(size)
    numbers = prepared.flatten(1)
    for _ in range(60):
        some = torch.randperm(len(raw), generator=draw)[:size]
        assert "evidently raw rows, not prepared: " in refused(raw[some], data)
        assert refused(prepared[some], data) == ""
        column = int(torch.randint(numbers.shape[1], (), generator=draw))  # rows alike in a feature
        start = int(torch.randint(len(raw) - size + 1, (), generator=draw))
        assert refused(prepared[numbers[:, column].argsort()[start : start + size]], data) == ""


@pytest.mark.parametrize("name", SETS)
def test_dummies_and_drift_are_no_raw_rows(name, sets):
    data, _, prepared = sets[name]
    draw = torch.Generator().manual_seed(0)
    some = prepared[:50]
    for x in (torch.zeros_like(some), torch.ones_like(some), -some, 3 * some, some[:0],
              torch.randn(some.shape, generator=draw)):  # fmt: skip
        assert refused(x, data) == ""
    if name != "digits":
        for feature in range(some.shape[1]):  # one number far from all that training had
            for shift in (-30.0, 30.0, 1000.0):
                drifted = some.clone()
                drifted[:, feature] += shift
                assert refused(drifted, data) == "", (feature, shift)


def test_tables_of_small_numbers_are_found_by_their_distribution():
    draw = np.random.default_rng(0)
    raw = draw.random((400, 5))
    data = bundled.Table.fit([{f"x{i}": c for i, c in enumerate(raw.T)}], np.arange(300))
    shape, x = Shape((5,), 2), torch.from_numpy(raw).float()
    prepared = data.apply({f"x{i}": c for i, c in enumerate(raw.T)})
    with pytest.raises(DataError, match="means and deviations are those of raw training rows"):
        guard.check(x[300:], shape, data, WEIGHT)
    guard.check(prepared[300:], shape, data, WEIGHT)
    guard.check(prepared[raw[:, 0] > 0.6], shape, data, WEIGHT)


def test_an_older_preparation_without_ranges_finds_them_too(sets):
    from dataclasses import replace

    data, raw, prepared = sets["wine"]
    older = replace(data.preparation.inputs, low=None, high=None)
    with pytest.raises(DataError, match="evidently raw"):
        guard.check(raw[:1], data.shape, older, WEIGHT)
    guard.check(prepared, data.shape, older, WEIGHT)


def test_pixels_are_found_however_they_are_scaled():
    draw = np.random.default_rng(0)
    pixels = torch.from_numpy(draw.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8))
    pixels = pixels // torch.tensor([1, 2, 3]).view(3, 1, 1)
    inputs, shape = Pictures.fit([pixels], np.arange(30)), Shape((3, 8, 8), 2)
    prepared = inputs.apply(pixels)
    noise = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) / 512
    raw = pixels.float()
    for x, message in ((raw, "in steps of 1;"), (raw / 255, "in steps of 1/255"),
                       (raw + noise, "which no picture comes to"),
                       (raw / 255 + noise / 255, "means and deviations")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            guard.check(x, shape, inputs, WEIGHT)
    for x in (prepared, prepared[:1], prepared + 0.1, torch.zeros(1, 3, 8, 8), 0 * prepared + 0.5):
        guard.check(x, shape, inputs, WEIGHT)


TABLE, TEXT = Shape((4,), 2), Shape((6,), 2, 50)


@pytest.mark.parametrize(("x", "shape", "message"), [
    (np.zeros((2, 4), np.float32), TABLE, "ndarray: model.x. takes prepared tensors .N, 4. of float32; raw rows go to"),
    ([[0.0] * 4], TABLE, "list: model"),
    (pd.DataFrame([[0.0] * 4]), TABLE, "DataFrame: model"),
    ("a text", TEXT, "str: model.x. takes prepared tensors .N, 6. of int32 or int64 token ids"),
    (torch.zeros(2, 5), TABLE, r"a tensor \(2, 5\): "),
    (torch.zeros(4), TABLE, r"a tensor \(4,\): .*; one example is x.unsqueeze\(0\)"),
    (torch.zeros(2, 4).double(), TABLE, "a tensor of float64: "),
    (torch.zeros(2, 4).long(), TABLE, "a tensor of int64: "),
    (torch.tensor([[0, 1, torch.nan, 0]]), TABLE, "a number that is not finite"),
    (torch.tensor([[0, 1, torch.inf, 0]]), TABLE, "a number that is not finite"),
    (torch.zeros(2, 6), TEXT, "a tensor of float32: "),
    (torch.full((2, 6), 50), TEXT, "token ids from 50 to 50: must be 0 to 49"),
    (torch.full((2, 6), -1), TEXT, "token ids from -1 to -1: must be 0 to 49"),
    ({"a": torch.zeros(2, 4)}, TABLE, None),
])  # fmt: skip
def test_other_things_are_refused(x, shape, message):
    if message is None:  # inputs by name, of a data function of one's own
        assert guard.check(x, shape, None, WEIGHT) is None
        return
    with pytest.raises(DataError, match=message):
        guard.check(x, shape, None, WEIGHT)
