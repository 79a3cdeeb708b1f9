"""From a checked config to objects: the only place where a `_target_` is called."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from knobs import init, optimizers, schedulers, targets
from knobs.data import Data
from knobs.shape import Shape


def make(path: str, node: dict) -> Any:
    """Return what a node describes: `_target_` called with the other keys, or its partial.

    As hydra.utils.instantiate, for plain data and targets of the node's group alone.
    """
    ours = {"_target_", "_partial_", *targets.OWN_KEYS.get(path, ())}
    arguments = {
        name: make(f"{path}.{name}", child) if isinstance(child, dict) else child
        for name, child in node.items()
        if name not in ours
    }
    if "_target_" not in node:
        return arguments
    target = targets.resolve(path, node["_target_"])
    return functools.partial(target, **arguments) if node.get("_partial_") else target(**arguments)


def data(config: dict) -> Data:
    """Read the data set that `config["data"]` names."""
    return make("data", config["data"])


def model(config: dict, shape: Shape) -> nn.Module:
    """Return the network, with torch's initial weights."""
    activation = make("activation", config["activation"])
    options = {name: config["regularization"][name] for name in ("norm", "dropout")}
    return make("model", config["model"])(shape, activation=activation, **options)


def initialize(config: dict, net: nn.Module, batch: Tensor) -> None:
    """Give `net` its first weights; `batch` is for schemes that look at data."""
    node = config["init"]
    gain = init.gain(make("activation", config["activation"])())
    if "_target_" not in node:
        init.apply(net, make("init.linear", node["linear"]), make("init.conv", node["conv"]), gain)
    elif node["_target_"].startswith("torch."):
        fill = make("init", node)
        init.apply(net, fill, fill, gain)
    else:
        make("init", node)(net, batch)


def optimizer(config: dict, net: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over the network's parameters."""
    node = config["optimizer"]
    groups = optimizers.param_groups(
        net,
        exclude_bias_and_norm=not config["regularization"]["l2_biases"],
        split_hidden=node["_target_"] == "knobs.optimizers.Muon",
    )
    return make("optimizer", node)(groups)


def scheduler(config: dict, optimizer: torch.optim.Optimizer, total: int) -> LRScheduler:
    """Return the schedule, its percentages of the run turned into intervals.

    Args:
        total: intervals in the run: epochs or optimizer steps, as config says.
    """
    return make("scheduler", schedulers.lengths(config["scheduler"], total))(optimizer)


def device(name: str) -> torch.device:
    """Return a device, `auto` being the accelerator if there is one; torch raises if it is not."""
    if name == "auto":
        available = torch.accelerator.is_available()
        return torch.device(torch.accelerator.current_accelerator() if available else "cpu")
    chosen = torch.device(name)
    torch.zeros(1, device=chosen)
    return chosen
