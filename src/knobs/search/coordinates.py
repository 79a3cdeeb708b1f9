"""Coordinates of a setting that are the same for every search: what a prior is keyed by.

A setting is a mapping of config keys (`optimizer.lr`) and options of groups (`optimizer`: adam) to
values; a key without a dot may have another usual name (`learning_rate`). Each coordinate is a
number of about [0, 1] in units of the optimizer's family, or the index of an option; NaN where a
setting does not say it. A value beyond a range is at its edge; a knob that is off lies OFF beyond
its weakest value. The ranges are those of the table (knobs.search.learn).

What is good beyond a range is good at its edge with another learning rate, and so is what is good
in a longer training. So a rate is that of the table which is alike: lr max(1, width / W), as a
layer's update grows with its width (Yang et al. 2022, arXiv:2203.03466); of Adam and its kind
sqrt(B / batch), else B / batch, for a batch of B at the edge (Malladi et al. 2022,
arXiv:2205.10287; Goyal et al. 2017); and (epochs / EPOCHS)^LONGER (Bjorck et al. 2024,
arXiv:2409.19913, measured .32 of tokens).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from knobs.identity import leaves
from knobs.search.space import Choice, Range

FAMILIES = ("momentum", "adam", "adamw", "rmsprop")
RATES = {"momentum": Range(1e-3, 1, True)} | dict.fromkeys(FAMILIES[1:], Range(1e-5, 1e-1, True))
DECAYS = {"adamw": Range(5e-3, 1, True)}
L2 = Range(1e-7, 1e-2, True)  # of the others
# 1 - momentum or beta1, 1 - beta2 or alpha.
FIRST = {"momentum": Range(0.01, 1, True), "rmsprop": Range(0.02, 1, True)}
FIRST_OF_ADAM, SECOND = Range(0.02, 0.5, True), Range(1e-3, 0.1, True)
SCHEDULES = ("constant", "cosine", "linear", "wsd", "warmup_cosine")
INITS = ("common", "kaiming_normal", "xavier_uniform", "orthogonal")
DROPOUT, SMOOTHING = Range(0.05, 0.5, False), Range(0.02, 0.2, False)
CLIP, L1 = Range(0.5, 5, True), Range(1e-7, 1e-3, True)
ACTIVATIONS = Choice(("relu", "gelu", "silu", "tanh"))
NORMS = Choice(("none", "batch", "layer"))
BATCHES = Choice((16, 32, 64, 128))
BATCH = Range(16, 128, True)
SHAPES_OF: dict[str, Mapping[str, Range]] = {
    "mlp": {
        "model.width": Range(16, 128, True, True), "model.depth": Range(1, 4, False, True)
    },
    "cnn": {
        "model.width": Range(4, 16, True, True), "model.depth": Range(1, 3, False, True)
    },
    "text_bag": {
        "model.embedding_dim": Range(16, 96, True, True), "model.width": Range(16, 128, True, True),
        "model.depth": Range(0, 2, False, True),
    },
}  # fmt: skip

OFF = 0.25  # of a range
EPOCHS = 20  # of a run of the table
# Best rates of Adam on the table's tasks fall as their rows to the power of .44 (correlation -.51).
LONGER = 0.4
# Coordinates, in their order: options first.
OPTIONS: dict[str, Sequence[str]] = {
    "family": FAMILIES, "scheduler": SCHEDULES, "init": INITS,
    "activation": ACTIVATIONS.options, "norm": NORMS.options,
}  # fmt: skip
NUMBERS = (
    *("lr", "weight_decay", "momentum", "beta2", "dropout", "label_smoothing", "clip_norm", "l1"),
    *("batch_size", "width", "depth", "embedding_dim"),
)
NAMES = (*OPTIONS, *NUMBERS)
PLAIN = "adam"  # the family where nothing says it: the config's default
# Option of a group -> the one of the table that is nearest; others are not known.
ALIKE = {
    "family": {"sgd": "momentum", "nesterov": "momentum", "nadam": "adam", "radam": "adam",
               "adamax": "adam"},
    "scheduler": {"polynomial": "linear", "one_cycle": "warmup_cosine"},
    "init": {"kaiming_uniform": "kaiming_normal", "xavier_normal": "xavier_uniform"},
    "activation": {"leaky_relu": "relu", "mish": "silu"},
    "norm": {},
}  # fmt: skip
# Option of conf/regularization -> what it sets.
REGULARIZED = {
    "none": {}, "batchnorm": {"norm": "batch"}, "layernorm": {"norm": "layer"},
    "dropout": {"dropout": 0.2}, "l1": {"l1": 1e-5}, "l2": {"l2": 1e-4},
    "elastic_net": {"l1": 1e-5, "l2": 1e-4}, "label_smoothing": {"label_smoothing": 0.1},
}  # fmt: skip
KEYS = {
    **{f"optimizer.{name}": name for name in ("lr", "weight_decay", "momentum", "alpha", "betas")},
    **{f"regularization.{n}": n for n in ("dropout", "label_smoothing", "l1", "l2", "norm")},
    **{f"training.{name}": name for name in ("batch_size", "clip_norm")},
    **{f"model.{name}": name for name in ("width", "depth", "embedding_dim", "own_norm")},
    **{n: n for n in ("optimizer", "scheduler", "init", "activation", "regularization", "model")},
}  # fmt: skip
# Of a config, beside coordinates: how long its runs are, and of which type the data.
SAID = {"training.epochs": "epochs", "data.task": "type"}
# Other usual names, of a key without a dot.
ALIASES = {
    "learning_rate": "lr", "learning_rate_init": "lr", "units": "width", "hidden_size": "width",
    "num_layers": "depth", "n_layers": "depth", "layers": "depth", "beta1": "momentum",
    "beta2": "beta2", "batch": "batch_size", "smoothing": "label_smoothing",
}  # fmt: skip


def known(key: str) -> str:
    """Return which part of a setting a key is; empty where it is none that has a coordinate."""
    if key in KEYS:
        return KEYS[key]
    if "." in key:
        return ""
    return ALIASES.get(key, key if key in KEYS.values() else "")


def context(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part -> value of what is known of a config, given as key -> value.

    Of SAID too, where it is not searched: that more epochs are better is not of the table.
    """
    return {part: v for key, v in values.items() if (part := known(key) or SAID.get(key))}


def described(config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return key -> value of what a resolved config says of a setting.

    Args:
        choices: group -> its option.
    """
    values = {key: value for key, value in leaves(config) if key in KEYS or key in SAID}
    return values | {key: choices[key] for key in KEYS if key in choices}


def coordinates(fixed: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the coordinates of settings, (settings, len(NAMES)).

    Args:
        fixed: what they have in common, from `context`.
        points: key -> value of each, over `fixed`.
    """
    parts = {key: known(key) for key in {key for point in points for key in point}}
    found = np.full((len(points), len(NAMES)), np.nan)
    for row, point in zip(found, points, strict=True):
        own = {parts[key]: value for key, value in point.items() if parts[key]}
        row[:] = _row(_merged(fixed, own))
    return found


def _merged(fixed: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a setting; an option that is another than that of `fixed` brings what is its own."""
    merged = dict(fixed)
    if "optimizer" in fixed and own.get("optimizer", fixed["optimizer"]) != fixed["optimizer"]:
        for part in ("lr", "weight_decay", "momentum", "alpha", "betas"):
            merged.pop(part, None)
    if own.get("regularization", before := fixed.get("regularization")) != before:
        for part in ("dropout", "label_smoothing", "l1"):
            merged[part] = 0.0
        merged |= {"l2": None, "norm": None} | REGULARIZED.get(own["regularization"], {})
    return merged | own


def _row(setting: dict[str, Any]) -> list[float]:
    """Return the coordinates of one setting."""
    optimizer = setting.get("optimizer")
    if optimizer is None:
        optimizer = "momentum" if "momentum" in setting else PLAIN
    family, norm = _alike("family", optimizer), setting.get("norm")
    own_norm = setting.get("own_norm") if norm in (None, "none") else None
    words = {
        "family": family,
        "norm": own_norm or ("none" if norm is None and "norm" in setting else norm),
        **{name: _alike(name, setting.get(name)) for name in ("scheduler", "init", "activation")},
    }
    row = [_index(options, words[name]) for name, options in OPTIONS.items()]
    decay = setting.get("l2")
    first, second = _moments(optimizer, setting)
    shape = SHAPES_OF.get(setting.get("model"), SHAPES_OF["mlp"])
    numbers = {
        "lr": _unit(RATES.get(family), _rate(family, setting, shape["model.width"])),
        "weight_decay": _unit(
            DECAYS.get(family, L2) if family else None,
            setting.get("weight_decay") if decay is None else decay, off=-OFF
        ),
        "momentum": _unit(FIRST.get(family, FIRST_OF_ADAM), first),
        "beta2": 0.5 if family == "momentum" else _unit(SECOND, second),
        "dropout": _unit(DROPOUT, setting.get("dropout"), off=-OFF),
        "label_smoothing": _unit(SMOOTHING, setting.get("label_smoothing"), off=-OFF),
        "clip_norm": 1 + OFF if setting.get("clip_norm", 0) is None
        else _unit(CLIP, setting.get("clip_norm")),
        "l1": _unit(L1, setting.get("l1"), off=-OFF),
        "batch_size": _unit(BATCH, setting.get("batch_size")),
        "width": _unit(shape["model.width"], setting.get("width")),
        "depth": _unit(shape["model.depth"], setting.get("depth")),
        "embedding_dim": _unit(shape.get("model.embedding_dim"), setting.get("embedding_dim")),
    }  # fmt: skip
    return row + [numbers[name] for name in NUMBERS]


def _rate(family: str | None, setting: Mapping[str, Any], widths: Range) -> float | None:
    """Return the learning rate that is alike in the table."""
    rate, width, batch, epochs = map(setting.get, ("lr", "width", "batch_size", "epochs"))
    if not _number(rate):
        return None
    if _number(width):
        rate *= max(1.0, width / widths.high)
    if _number(batch) and batch > 0:
        ratio = min(max(batch, BATCH.low), BATCH.high) / batch
        rate *= ratio if family == "momentum" else math.sqrt(ratio)
    if _number(epochs) and epochs > 0:
        rate *= (epochs / EPOCHS) ** LONGER
    return rate


def _moments(optimizer: str, setting: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return 1 - momentum or beta1, and 1 - beta2 or alpha."""
    first, second = setting.get("momentum"), setting.get("beta2", setting.get("alpha"))
    betas = setting.get("betas")
    if isinstance(betas, list | tuple) and len(betas) == 2:
        first, second = betas
    if optimizer == "sgd" and first is None:
        first = 0.0
    return tuple(1 - v if _number(v) else None for v in (first, second))


def _unit(scale: Range | None, value: Any, off: float = 0.0) -> float:
    """Return where a value lies; `off` for one that is 0, where that is beyond the range."""
    if scale is None or not _number(value):
        return math.nan
    return off if off and value <= 0 else scale.to_unit(value)


def _alike(group: str, option: Any) -> str | None:
    option = ALIKE[group].get(option, option) if isinstance(option, str) else None
    return option if option in OPTIONS[group] else None


def _index(options: Sequence[str], word: Any) -> float:
    return float(options.index(word)) if word in options else math.nan


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
