"""Differences of two networks, beside the values of their weights and buffers."""

import functools
import types
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import nn

from knobs.stack.layers import DROPOUTS
from knobs.stack.whole import RowDropout

OWN = {"training", "_parameters", "_buffers", "_modules"}  # of every module; looked at by name
FREE = (
    ((*DROPOUTS, RowDropout), {"p", "orders"}),  # a probability, and where a layer stands
    (nn.RNNBase, {"_flat_weights", "_flat_weight_refs"}),  # its own parameters
)


def differs(one: nn.Module, other: nn.Module) -> str:
    """Return the name of the first thing in which two networks differ; empty where they are alike.

    Not the values of weights and buffers, nor the probability of a dropout layer.
    """
    pairs = zip_longest(one.named_modules(), other.named_modules(), fillvalue=("", None))
    met: set[tuple[int, int]] = set()
    for (path, a), (path_b, b) in pairs:
        if path != path_b or _kind(a) is not _kind(b):
            return path or path_b or type(one).__name__
        own, own_b = vars(a), vars(b)
        free = OWN.union(*(names for kinds, names in FREE if isinstance(a, kinds)))
        for name in sorted((own.keys() | own_b.keys()) - free):
            missing = name not in own or name not in own_b
            if missing or not same(own[name], own_b[name], met):
                return f"{path}.{name}".lstrip(".")
    for kind in ("named_parameters", "named_buffers"):
        tensors, others = (dict(getattr(m, kind)(remove_duplicate=False)) for m in (one, other))
        for name in tensors | others:
            if _form(tensors.get(name)) != _form(others.get(name)):
                return name
    return ""


def _kind(module: nn.Module | None) -> type:
    """Return a module's class; torch makes a new one of each that it parametrizes."""
    return type(module).__base__ if hasattr(module, "parametrizations") else type(module)


def _form(tensor: torch.Tensor | None) -> tuple | None:
    return None if tensor is None else (tensor.shape, tensor.dtype, tensor.requires_grad)


def same(a: Any, b: Any, met: set[tuple[int, int]]) -> bool:
    """Return whether two values are alike, whatever they are made of; False where it is not clear.

    Args:
        met: pairs that are being compared; what refers to itself is not followed again.
    """
    if a is b or (id(a), id(b)) in met:
        return True
    if type(a) is not type(b):
        return False
    met.add((id(a), id(b)))
    also = functools.partial(same, met=met)
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.detach(), b.detach())
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, torch.Generator):
        return torch.equal(a.get_state(), b.get_state())
    if isinstance(a, nn.Module):
        values = ([*m.parameters(), *m.buffers()] for m in (a, b))
        return not differs(a, b) and also(*values)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(also, a, b))
    if isinstance(a, dict):
        keys = list(a) == list(b) or all(isinstance(k, int) for k in [*a, *b])  # handles of hooks
        return keys and also([*a.values()], [*b.values()])
    if isinstance(a, functools.partial):
        return also((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, types.MethodType):
        return also((a.__func__, a.__self__), (b.__func__, b.__self__))
    if isinstance(a, types.FunctionType):
        return a.__code__ == b.__code__ and also(_bound(a), _bound(b))
    if hasattr(a, "__dict__") and not isinstance(a, type):
        return also(vars(a), vars(b))
    try:
        return bool(a == b) or (a != a and b != b)  # NaN
    except Exception:  # code of one's own
        return False


def _bound(function: types.FunctionType) -> list:
    """Return what a function takes from where it was made."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return [function.__defaults__, function.__kwdefaults__, cells]
