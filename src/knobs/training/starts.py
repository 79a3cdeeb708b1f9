"""Networks with a frozen backbone at their first step: built once a process, then copied.

To read weights and to draw those that they replace costs more than to train a head on features. A
copy has the bits of a network that is built anew, and leaves torch's generator where that would.
"""

import copy
import os
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from knobs.config.conflicts import through_whole
from knobs.shape import Shape
from knobs.targets import targets
from knobs.training.cuts import Backbone

MOST = 64  # starts that are kept, of one backbone: those of so many seeds
OURS = ("knobs.", "torch.")


@dataclass(frozen=True)
class _Start:
    """A network that nobody trains, and the generator's state after it was drawn.

    Args:
        network: what is frozen of it is the backbone's one copy.
    """

    network: nn.Module
    backbone: Backbone
    generator: torch.Tensor


_starts: OrderedDict[str, _Start] = OrderedDict()


def key(config: dict, shape: Shape, device: torch.device) -> str | None:
    """Return what a network at its first step depends on; None where it is to be built anew.

    That is where nothing is frozen for good, where it has no file of weights, where code of one's
    own takes part, and where its init looks at data.
    """
    model, training = config["model"], config["training"]
    parts = {name: config[name] for name in ("model", "activation", "init")}
    if not model.get("freeze") or "weights" not in model or through_whole(config):
        return None
    if config["init"].get("_target_", "torch.").startswith("knobs."):  # it may look at data
        return None
    if not all(target.startswith(OURS) for _, target, _ in targets(parts)):
        return None
    options = {name: config["regularization"][name] for name in ("norm", "dropout")}
    how = [training["channels_last"], training.get("zero_head"), str(torch.get_default_dtype())]
    return repr([parts, options, how, shape, config["seed"], str(device), _files(model)])


def _files(model: dict) -> list[tuple]:
    """Return what tells the files that a model's section names from others of their names."""
    paths = [os.path.expanduser(value) for value in model.values() if isinstance(value, str)]
    found = [path for path in paths if os.path.isfile(path)]
    for folder in filter(os.path.isdir, paths):
        found += sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    facts = [(path, os.stat(path)) for path in found]
    return [(path, at.st_ino, at.st_size, at.st_mtime_ns) for path, at in facts]


def known(key: str | None) -> nn.Module | None:
    """Return a network of this key on its device, as it was; its frozen values are shared.

    torch's generator is left as it was when the network had been drawn.
    """
    start = _starts.get(key or "")
    if not start:
        return None
    _starts.move_to_end(key)
    torch.set_rng_state(start.generator)
    return _copied(start.network, start.backbone)


def keep(key: str | None, network: nn.Module, backbone: Backbone, generator: torch.Tensor) -> None:
    """Keep a network at its first step, whose frozen values are a backbone's, for `known`.

    Those of another backbone are given up: what is kept is at most one, and heads.

    Args:
        generator: the state of torch's after the network was drawn.
    """
    if key is None or key in _starts:
        return
    if any(start.backbone is not backbone for start in _starts.values()):
        _starts.clear()
    _starts[key] = _Start(_copied(network, backbone), backbone, generator)
    if len(_starts) > MOST:
        _starts.popitem(last=False)


def unshared(network: nn.Module) -> None:
    """Give a network of `known` what is frozen of it for itself, as it has no cut."""
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()


def _copied(network: nn.Module, backbone: Backbone) -> nn.Module:
    """Return a copy of a network whose frozen tensors are new names for the same values."""
    shared: dict[int, torch.Tensor] = {}
    frozen = {value.data_ptr() for value in backbone.tensors.values()}
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.data_ptr() in frozen and not tensor.requires_grad:
            values = tensor.detach()
            is_parameter = isinstance(tensor, nn.Parameter)
            shared[id(tensor)] = nn.Parameter(values, False) if is_parameter else values
    return copy.deepcopy(network, shared)
