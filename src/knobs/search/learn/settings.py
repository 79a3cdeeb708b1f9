"""Shapes, and settings of what may differ within a stack: points of two unit cubes -> overrides.

A stack shares its model, its activation, its normalization, its batch size, and whether it drops
anything. So a table has SHAPES shapes, and each of them SETTINGS settings of its own: together one
Sobol sequence of the settings' cube. They are the same for all tasks of a model.
Sources: docs of the options in conf/ for the ranges, each a little wider than usual.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from knobs.errors import DataError
from knobs.search.coordinates import (
    ACTIVATIONS,
    BATCHES,
    CLIP,
    DECAYS,
    DROPOUT,
    FAMILIES,
    FIRST,
    FIRST_OF_ADAM,
    INITS,
    L1,
    L2,
    NORMS,
    RATES,
    SCHEDULES,
    SECOND,
    SHAPES_OF,
    SMOOTHING,
)
from knobs.search.space import Choice, Range
from knobs.search.table import SCALE, Table

SHAPES, SETTINGS, SEEDS, EPOCHS = 16, 16, 2, 20
SOBOL_SEED = 0  # of the scrambling; what comes of it is in each file
OFF = 0.5  # share of the points at which a knob with an off position is off

KNOBS = (
    *("optimizer", "lr", "scheduler", "weight_decay", "momentum", "beta2", "dropout"),
    *("label_smoothing", "init", "clip_norm", "l1"),
)

COMMON = {
    "training.batch_size": BATCHES,
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "drops": Choice((False, True)),
}
MODELS: dict[str, Mapping[str, Range | Choice]] = {
    model: {**shape, **COMMON} for model, shape in SHAPES_OF.items()
}


def sobol(dimensions: int, count: int) -> np.ndarray:
    """Return a scrambled Sobol sequence as uint16 (count, dimensions), see table.SCALE.

    Args:
        count: a power of two.
    """
    from scipy.stats import qmc  # late: a second

    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(SOBOL_SEED))
    return np.floor(engine.random(count) * SCALE).astype(np.uint16)


def units() -> np.ndarray:
    """Return the settings of all shapes in their order, uint16 (SHAPES * SETTINGS, knobs)."""
    return sobol(len(KNOBS), SHAPES * SETTINGS)


def shapes(model: str) -> list[dict[str, Any]]:
    """Return the shapes of a model, each name -> value."""
    space = MODELS[model]
    points = (sobol(len(space), SHAPES) + 0.5) / SCALE
    return [
        {n: knob.from_unit(u) for (n, knob), u in zip(space.items(), point, strict=True)}
        for point in points
    ]


def shape_lines(model: str, shape: Mapping[str, Any]) -> list[str]:
    """Return the overrides of a shape of a model."""
    values = {name: value for name, value in shape.items() if name not in ("norm", "drops")}
    lines = [f"{name}={value}" for name, value in values.items()]
    if shape["norm"] != "none":
        return [*lines, f"regularization.norm={shape['norm']}"]
    return [*lines, "model.own_norm=null"] if model == "cnn" else lines


def setting_lines(point: Sequence[float], drops: bool, classes: bool) -> list[str]:
    """Return the overrides of a setting.

    Args:
        point: of the unit cube, a coordinate a knob.
        drops: whether its shape has dropout.
        classes: whether there are any, whose targets can be smoothed.
    """
    u = dict(zip(KNOBS, map(float, point), strict=True))
    family = _of(FAMILIES, u["optimizer"])
    first = 1 - FIRST.get(family, FIRST_OF_ADAM).from_unit(u["momentum"])
    second = 1 - SECOND.from_unit(u["beta2"])
    decay = _or_off(u["weight_decay"], DECAYS.get(family, L2).from_unit, 0)
    lines = [
        f"optimizer={family}",
        f"optimizer.lr={RATES[family].from_unit(u['lr'])}",
        f"optimizer.weight_decay={decay}",
        f"scheduler={_of(SCHEDULES, u['scheduler'])}",
        f"init={_of(INITS, u['init'])}",
        f"training.clip_norm={_or_off(u['clip_norm'], CLIP.from_unit, 'null')}",
        f"regularization.l1={_or_off(u['l1'], L1.from_unit, 0)}",
    ]
    if family.startswith("adam"):
        lines.append(f"optimizer.betas=[{first:.4g},{second:.4g}]")
    else:
        lines.append(f"optimizer.momentum={first:.4g}")
    if family == "rmsprop":
        lines.append(f"optimizer.alpha={second:.4g}")
    if drops:
        lines.append(f"regularization.dropout={DROPOUT.from_unit(u['dropout'])}")
    if classes:
        smoothing = _or_off(u["label_smoothing"], SMOOTHING.from_unit, 0)
        lines.append(f"regularization.label_smoothing={smoothing}")
    return lines


def overrides(
    model: str, classes: bool, shapes: Sequence[Mapping[str, Any]], units: np.ndarray
) -> list[list[list[str]]]:
    """Return shape -> setting -> its overrides.

    Args:
        classes: whether the task has any.
        shapes: with as many of the units each.
        units: uint16 (settings of all shapes, knobs).
    """
    points = ((units + 0.5) / SCALE).reshape(len(shapes), -1, len(KNOBS))
    return [
        [shape_lines(model, shape) + setting_lines(p, shape["drops"], classes) for p in own]
        for shape, own in zip(shapes, points, strict=True)
    ]


def digest(lines: Sequence[Sequence[Sequence[str]]]) -> str:
    """Hash the overrides of all settings: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:32]


def overrides_of(found: Table) -> list[list[str]]:
    """Return the overrides of each setting of a table, in the order of its units.

    Raises:
        DataError: they were others when it was made.
    """
    facts = found.facts
    classes = facts["type"] == "classification"
    lines = overrides(facts["model"], classes, facts["shapes"], found.units)
    if digest(lines) != facts["overrides"]:
        raise DataError(f"the table of {facts['task']}: its settings meant others when it was "
                        "made; remove it: python -m knobs.search.learn makes it again")  # fmt: skip
    return [line for own in lines for line in own]


def _of(options: Sequence[str], u: float) -> str:
    return options[int(u * len(options))]


def _or_off(u: float, value: Callable[[float], float], off: Any) -> Any:
    """Return a value from the upper part of [0, 1), stretched; below OFF that the knob is off."""
    return off if u < OFF else value((u - OFF) / (1 - OFF))
