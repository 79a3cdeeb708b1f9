"""From a checked config to objects."""

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from knobs import init, optimizers, schedulers
from knobs.data import Data
from knobs.shape import Shape
from knobs.targets import make


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
