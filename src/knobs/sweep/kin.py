"""The data of a sweep: each set read once, and which may be side by side in a stack.

Those are folds and splits of one source that are alike in shape.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console
from torch import nn

from knobs import build
from knobs.data import Data, Stream, Tensors
from knobs.models.layers import Dropout
from knobs.signals import exits
from knobs.stack.sets import key
from knobs.sweep.lines import note
from knobs.sweep.stackable import SPLIT
from knobs.training.screen import MAX_NOTES, chosen
from knobs.words import printable

MEMORY_SHARE = 0.25  # of what is free, that sets side by side may take

Reader = Callable[[dict], Data]  # a config -> its data


def reader(out: Console) -> Reader:
    """Return what reads the data of a config, each set once, and prints how they were read.

    Beside it the objective, where a rare class has changed it.

    Data that differ in the seed of their split or in the fold alone are told of once.
    """
    sets: dict[str, Data] = {}
    told: set[str] = set()

    def read(config: dict) -> Data:
        key = str(config["data"])
        if key not in sets:
            sets[key] = build.data(config)
            source = str({**config["data"], **dict.fromkeys(SPLIT)})
            notes = [*filter(None, [chosen(sets[key], config)]), *sets[key].notes]
            if notes and source not in told:
                told.add(source)
                said = printable("; ".join(notes), MAX_NOTES)
                note(out, f"{sets[key].name}: {said}")
        return sets[key]

    return read


def kin(configs: Sequence[dict], read: Reader) -> list[str]:
    """Return of each config a text that is the same for those whose data can be side by side.

    Runs of one set of data always share it; all else is looked at only where there are several.

    Args:
        configs: alike but for SPLIT and for what rows of a stack may differ in.
        read: raises where a config's data cannot be had; its own run will say so.
    """
    own = [json.dumps(config["data"], sort_keys=True) for config in configs]
    firsts = {name: config for name, config in zip(reversed(own), reversed(configs), strict=True)}
    if len(firsts) == 1:
        return [""] * len(configs)
    safe = all(config["optimizer"].get("eps") != 0 for config in configs)  # else 0 / 0 in padding
    traits: dict[str, str] = {}
    sets: dict[str, Data] = {}
    for name, config in firsts.items():
        try:
            sets[name] = read(config)
            with exits():
                traits[name] = alike(config, sets[name], safe)
        except Exception:  # each job will say it of itself
            traits[name] = name
    if not _fit(sets):
        return own
    return [traits[name] for name in own]


def alike(config: dict, data: Data, safe: bool = True) -> str:
    """Return what the data of a stack's rows must have in common, beside their config.

    The lengths of the splits, what the loss takes from the training split, and every weight's
    shape, less the number of inputs of the first layer, which may be padded with zeros.

    Args:
        safe: whether zeros that have no gradient stay zeros under every optimizer.
    """
    if isinstance(data.train, Stream):
        return f"{key(data)} {json.dumps(config['data'], sort_keys=True)}"
    x = data.train.x
    inputs = {"x": x} if isinstance(x, torch.Tensor) else x
    dims = {name: (values.ndim, values.dtype) for name, values in inputs.items()}
    shapes = shapes_of(build.model(config, data.shape), safe and data.kind in ("table", "text"))
    tail = () if data.kind == "table" else data.shape.input
    loss = build.loss(config, data)
    facts = [_plain(values) for values in (loss.arguments, loss.weights)]
    lengths = len(data.train), len(data.val)
    return str((lengths, dims, tail, data.classes, shapes, facts, data.train.weight is None))


def shapes_of(network: nn.Module, padded: bool) -> list[tuple]:
    """Return the shape of every weight, and * for the inputs of a first layer that can be padded.

    One behind dropout cannot: a mask's draws depend on the number of inputs.
    """
    shapes: list[tuple] = []
    for module in network.modules():
        dropped = isinstance(module, nn.Dropout | Dropout) and module.p > 0
        padded = padded and not dropped
        for name, parameter in module.named_parameters(recurse=False):
            shape: list = list(parameter.shape)
            if padded and name == "weight" and type(module) in (nn.Linear, nn.Embedding):
                shape[type(module) is nn.Linear] = "*"
                padded = False
            shapes.append((name, *shape))
    return shapes


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    return {k: v.tolist() if isinstance(v, torch.Tensor) else str(v) for k, v in values.items()}


def _fit(sets: Mapping[str, Data]) -> bool:
    """Return whether there is memory for sets side by side, once more than they take by now."""
    size = 0
    for data in sets.values():
        for split in (data.train, data.val):
            if isinstance(split, Tensors):
                tensors = [split.x] if isinstance(split.x, torch.Tensor) else split.x.values()
                size += sum(x.nbytes for x in tensors)
    return size <= MEMORY_SHARE * build.free_memory(torch.device("cpu"))
