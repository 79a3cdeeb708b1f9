"""From a checked config to objects: the only place where a `_target_` is called."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from knobs import init, optimizers, schedulers, targets
from knobs.data import Data
from knobs.errors import did_you_mean, first_line
from knobs.shape import Shape

# Keys that knobs reads itself, and arguments it gives besides those of the YAML.
OWN_KEYS = {"scheduler": {"interval", "monitor"}, "model": {"name", "inputs"}}
GIVEN = {
    "optimizer": {"params"},
    "scheduler": {"optimizer"},
    "scheduler.lr_lambda": {"t"},
    "init": {"tensor", "model", "batch"},
    "init.linear": {"tensor"},
    "init.conv": {"tensor"},
    "model": {"shape", "activation", "norm", "dropout"},
}


def make(path: str, node: dict) -> Any:
    """What a node describes: `_target_` called with the other keys, or its partial.

    As hydra.utils.instantiate, for plain data and targets of the node's group alone.
    """
    own = OWN_KEYS.get(path, set())
    arguments = {
        name: make(f"{path}.{name}", child) if isinstance(child, dict) else child
        for name, child in node.items()
        if name not in own and name not in ("_target_", "_partial_")
    }
    if "_target_" not in node:
        return arguments
    target = targets.resolve(path, node["_target_"])
    return functools.partial(target, **arguments) if node.get("_partial_") else target(**arguments)


def data(config: dict) -> Data:
    """Read the data set that `config["data"]` names."""
    return make("data", config["data"])


def model(config: dict, shape: Shape) -> nn.Module:
    """The network, with torch's own initial weights."""
    reg = config["regularization"]
    activation = make("activation", config["activation"])
    return make("model", config["model"])(
        shape, activation=activation, norm=reg["norm"], dropout=reg["dropout"]
    )


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
    """The optimizer over the network's parameters."""
    node = config["optimizer"]
    groups = optimizers.param_groups(
        net,
        spare_biases=not config["regularization"]["l2_biases"],
        split_hidden=node["_target_"] == "knobs.optimizers.Muon",
    )
    return make("optimizer", node)(groups)


def scheduler(config: dict, optimizer: torch.optim.Optimizer, total: int) -> LRScheduler:
    """The schedule, its shares of the run turned into intervals.

    Args:
        total: intervals in the run: epochs or optimizer steps, as config says.
    """
    return make("scheduler", schedulers.lengths(config["scheduler"], total))(optimizer)


# ------------------------------------------------------------------ checks that need the classes
def argument_faults(config: dict) -> list[str]:
    """Arguments that targets do not take, and those they need and are not given."""
    faults = []
    for path, target, node in targets.targets(config):
        takes = _signature(targets.resolve(path, target)).parameters
        own = OWN_KEYS.get(path, set())
        if any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            continue  # such a target says itself what it does not take; see rehearse
        given = {k for k in node if k not in own and k not in ("_target_", "_partial_")}
        faults += [
            f"{path}.{name}={node[name]}: {target} takes no argument {name}"
            + did_you_mean(name, takes)
            for name in sorted(given - set(takes))
        ]
        faults += [
            f"{path}.{name}: {target} needs it; give {path}.{name}=VALUE"
            for name, p in takes.items()
            if p.default is p.empty
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            and name not in given | GIVEN.get(path, set())
        ]
    return faults


@functools.lru_cache(maxsize=256)
def _signature(target: Callable) -> inspect.Signature:
    return inspect.signature(target)


def rehearse(config: dict) -> list[str]:
    """What torch itself refuses: build what needs no data, on a stand-in network."""
    training = config["training"]
    stand_in = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    faults = []

    def attempt(path: str, build: Callable[[], Any]) -> Any:
        try:
            return build()
        except Exception as error:  # torch raises ValueError, TypeError, RuntimeError, ...
            faults.append(f"{path}: {first_line(error)}")
        return None

    attempt("activation", lambda: make("activation", config["activation"])())
    if not faults and not config["init"].get("_target_", "torch.").startswith("knobs."):
        attempt("init", functools.partial(initialize, config, stand_in, torch.zeros(1, 2)))
    made = attempt("optimizer", functools.partial(optimizer, config, stand_in))
    if made is not None:
        optimizers.training_mode(made, True)
        made.step(lambda: torch.zeros(()))  # schedules warn when they come before any step
        attempt("scheduler", functools.partial(scheduler, config, made, training["epochs"]))
    attempt("training.device", functools.partial(device, training["device"]))
    return faults


def device(name: str) -> torch.device:
    """`auto` is the accelerator if there is one; a device that is not there is an error."""
    if name == "auto":
        found = torch.accelerator.is_available()
        return torch.device(torch.accelerator.current_accelerator() if found else "cpu")
    chosen = torch.device(name)
    torch.zeros(1, device=chosen)
    return chosen
