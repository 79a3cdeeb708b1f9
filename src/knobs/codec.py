"""The state of a run as JSON and tensors: what is read back equals what was written, types too.

JSON alone would turn a tuple into a list, the key 3 into "3" (a Counter of milestones then never
meets its epoch, silently) and has no infinity. So whatever JSON would change stands as an object
with one key, "!" its type. Tensors go into a dictionary of their own, under the path they stand at.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

TAG = "!"
FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
SEQUENCES: dict[str, Callable] = {"tuple": tuple, "set": set}
MAPPINGS: dict[str, Callable] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}


def encode(
    value: Any, tensors: dict[str, Tensor], path: str = "", seen: dict[int, str] | None = None
) -> Any:
    """Return a value as JSON takes it; its tensors are added to `tensors`, on the CPU.

    One that stands in several places, as the same object, is added once.

    Args:
        seen: tensors by their ids, and where they stand.

    Raises:
        TypeError: of a kind that has no form here.
    """
    kind, seen = type(value), {} if seen is None else seen
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        order = "" if plain.is_contiguous() or plain.ndim != 4 else "channels_last"
        if (name := seen.setdefault(id(value), path)) == path:
            tensors[path] = plain.contiguous()
        return {TAG: "tensor", "name": name} | ({"order": order} if order else {})
    if kind is list:
        return [encode(item, tensors, f"{path}.{i}", seen) for i, item in enumerate(value)]
    if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
        items = sorted(value) if kind is set else value
        return {TAG: kind.__name__, "items": encode(list(items), tensors, path, seen)}
    if kind is dict and all(type(key) is str for key in value) and TAG not in value:
        return {key: encode(item, tensors, f"{path}.{key}", seen) for key, item in value.items()}
    if kind.__name__ in MAPPINGS and kind is MAPPINGS[kind.__name__]:
        pairs = [
            [encode(key, tensors, path, seen), encode(item, tensors, f"{path}.{key}", seen)]
            for key, item in value.items()
        ]
        return {TAG: kind.__name__, "pairs": pairs}
    raise TypeError(f"{path}: a {kind.__module__}.{kind.__name__} has no form in a checkpoint")


def name_once(best: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Let the best weights that are the last ones as well name those: a quarter of Adam's file.

    Args:
        best: of the encoded state, changed here; so is `tensors`. What it shares with the model or
            an average is named by their names already.
    """
    for name, node in best.items():
        own, twin = f".best_weights.{name}", tensors.get(f".model.{name}")
        if node["name"] == own and twin is not None and _same_bytes(twin, tensors[own]):
            del tensors[own]
            node["name"] = f".model.{name}"


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    """Return whether two contiguous tensors are the same bit for bit: -0.0 is not 0.0."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `encode` was given.

    Raises:
        ValueError: not what `encode` writes.
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if TAG not in node:
        return {key: decode(item, tensors) for key, item in node.items()}
    kind = node[TAG]
    try:
        if kind == "tensor":
            tensor = tensors[node["name"]]
            last = node.get("order") == "channels_last"
            return tensor.contiguous(memory_format=torch.channels_last) if last else tensor
        if kind == "float":
            return FLOATS[node["value"]]
        if kind in SEQUENCES:
            return SEQUENCES[kind](decode(node["items"], tensors))
        pairs = [(decode(key, tensors), decode(item, tensors)) for key, item in node["pairs"]]
        return MAPPINGS[kind](dict(pairs) if kind == "Counter" else pairs)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the state of a run: {type(error).__name__} {error}") from None
