"""Refusal of what a network takes in silence and answers wrong: anything but prepared tensors.

Type, shape and number type must be those of training, numbers finite, token ids in the vocabulary.
Rows that nobody has prepared are found by two rules, whose false alarms tests/predict/test_guard.py
counts:

- Far outside: the median of some feature lies more than MARGIN deviations outside what training
  had, while as a raw number it does not; and all medians together are likelier raw than prepared.
  Likelier by Cauchy densities, which forgive outliers: of the training mean and deviation of raw
  numbers, or of 0 and 1.
- Alike: of a batch of MANY rows or more, mean and deviation of nearly all features are those of raw
  training rows, and of most they are not those of prepared ones.

Pixels are raw as well if they are whole numbers, or hundreds-and-fifty-fifths from 0 to 1.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.inputs import Pictures, Table
from knobs.errors import DataError
from knobs.shape import Shape

MARGIN = 1.0  # standard deviations outside the training range
MOST = 3.0  # of a feature's log ratio: a column of wild numbers has no casting vote
UNKNOWN = 10.0  # deviations from the mean, where the range is not known
MANY, FEATURES = 30, 3  # rows of a batch, and numbers of a row, that show how they are distributed
PICTURES = 8  # of a batch that do
PIXELS_OUT, SHARE_OUT = 3.0, 0.01  # deviations outside all that pixels can be; the share that is
IDS = (torch.int32, torch.int64)


def check(x: Any, shape: Shape, inputs: Any, weight: Tensor | None) -> None:
    """Refuse what is no prepared tensor of a network.

    Args:
        shape: of the network. inputs: what prepares its tensors, or None. weight: one of its own.

    Raises:
        DataError: saying what there must be, and that `predict` takes raw rows.
    """
    if isinstance(x, dict) and inputs is None:  # inputs by name, of a data function of one's own
        return
    sizes = ", ".join(map(str, shape.input))
    number = weight.dtype if weight is not None else torch.float32
    kind = "int32 or int64 token ids" if shape.vocabulary else f"{str(number)[6:]}"
    must = (
        f"model(x) takes prepared tensors (N, {sizes}) of {kind}; raw rows go to model.predict(x)"
    )
    if not isinstance(x, Tensor):
        raise DataError(f"{type(x).__name__}: {must}")
    if x.ndim != len(shape.input) + 1 or tuple(x.shape[1:]) != shape.input:
        single = "; one example is x.unsqueeze(0)" if tuple(x.shape) == shape.input else ""
        raise DataError(f"a tensor {tuple(x.shape)}: {must}{single}")
    if not (x.dtype in IDS if shape.vocabulary else x.dtype == number):
        raise DataError(f"a tensor of {str(x.dtype)[6:]}: {must}")
    if not len(x):
        return
    if shape.vocabulary:
        least, most = int(x.min()), int(x.max())
        if least < 0 or most >= shape.vocabulary:
            ids = f"0 to {shape.vocabulary - 1}"
            raise DataError(f"token ids from {least} to {most}: must be {ids}; {must}")
        return
    if not bool(x.isfinite().all()):
        raise DataError(f"a number that is not finite: prepared tensors have none; {must}")
    why = ""
    if isinstance(inputs, Table):
        why = _raw_rows(x, inputs)
    elif isinstance(inputs, Pictures):
        why = _raw_pixels(x, inputs)
    if why:
        sure = "model.network(x) takes it unchecked"
        raise DataError(f"evidently raw rows, not prepared: {why}; {must}; if you are sure, {sure}")


def _raw_rows(x: Tensor, inputs: Table) -> str:
    """Return why rows (N, F) are taken for raw ones; "" where they are not."""
    # Numbers in bins alone have no standardised feature.
    count = 0 if getattr(inputs, "encoding", "standard") == "ple" else len(inputs.numbers)
    if not count:
        return ""
    values = x[:, :count].detach().cpu().double().numpy()
    mean, scale = inputs.mean.astype(float), inputs.scale.astype(float)
    middle = np.median(values, 0)
    again = (middle - mean) / scale  # what the medians are if they are raw
    if inputs.low is None or inputs.high is None:
        low, high = -UNKNOWN, UNKNOWN
    else:
        low, high = (inputs.low - mean) / scale - MARGIN, (inputs.high - mean) / scale + MARGIN
    out = np.maximum(low - middle, middle - high)
    out = np.where((low <= again) & (again <= high), out, -1)
    likelier = np.log1p(middle**2) - np.log1p(again**2) - np.log(scale)
    worst = int(out.argmax())
    if out[worst] > 0 and likelier.clip(-MOST, MOST).sum() > 0:
        name, usual = inputs.numbers[worst], f"{mean[worst]:.4g} in raw training rows, 0 prepared"
        return f"the median of {name} is {middle[worst]:.4g} ({usual})"
    return _alike(values, mean, scale) if len(x) >= MANY and count >= FEATURES else ""


def _alike(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> str:
    """Return why columns (N, F) are distributed as raw ones; "" where they are not."""
    center, spread = values.mean(0), values.std(0)

    def close(mean: Any, scale: Any) -> np.ndarray:
        ratio = spread / scale
        return (np.abs(center - mean) < 0.5 * scale) & (ratio > 0.5) & (ratio < 2)

    if close(mean, scale).mean() >= 0.9 and close(0.0, 1.0).mean() < 0.5:
        return "means and deviations are those of raw training rows"
    return ""


def _raw_pixels(x: Tensor, inputs: Pictures) -> str:
    """Return why pictures (N, C, H, W) are taken for raw ones; "" where they are not."""
    values, unit = x.detach().cpu().double(), inputs.unit
    mean, scale = inputs.mean.astype(float), inputs.scale.astype(float)
    if np.allclose(mean, 0, atol=1e-3) and np.allclose(scale, 1, atol=1e-3):
        return ""  # prepared they are what they were
    least, most = values.min().item(), values.max().item()
    for whole, all_of_it in ((1, unit if unit > 1 else np.inf), (unit, 1)):
        steps = values * whole
        if 0 <= least < most <= all_of_it and (steps - steps.round()).abs().max() < 1e-3:
            return f"pixels from {least:g} to {most:g} in steps of 1{'/255' * (whole == 255)}"
    columns = values.movedim(1, -1).reshape(-1, len(mean)).numpy()
    if unit == 255:
        low, high = -mean / scale - PIXELS_OUT, (1 - mean) / scale + PIXELS_OUT
        if ((columns < low) | (columns > high)).mean() > SHARE_OUT:
            return f"pixels from {least:.4g} to {most:.4g}, which no picture comes to"
    return _alike(columns, mean, scale) if len(x) >= PICTURES and least >= 0 else ""
