"""From a checked config to objects: the only place where a `_target_` is called."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from knobs import init, late_compiler, limits, optimizers, schedulers, trust
from knobs.data import Data
from knobs.shape import Shape

late_compiler.install()
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
    target = trust.resolve(path, node["_target_"])
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
        exclude_bias_and_norm=not config["regularization"]["l2_biases"],
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
def argument_faults(config: dict, where: dict[str, Any]) -> list[str]:
    """Return a line for each argument that a target does not take, lacks, or takes otherwise."""
    return [fault for part in trust.targets(config) for fault in _argument_faults(*part, where)]


def _argument_faults(path: str, target: str, node: dict, where: dict[str, Any]) -> Iterator[str]:
    takes = _signature(trust.resolve(path, target)).parameters
    given = sorted(node.keys() - OWN_KEYS.get(path, set()) - {"_target_", "_partial_"})
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):  # else dry_build asks the target
        for name in given:
            if name not in takes:
                near = trust.did_you_mean(name, takes)
                yield f"{path}.{name}={node[name]}: {target} takes no argument {name}{near}"
        for name, p in takes.items():
            named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            if named and p.default is p.empty and name not in {*given, *GIVEN.get(path, ())}:
                yield f"{path}.{name}: {target} needs it; give {path}.{name}=VALUE"
    values = schedulers.lengths(node, 1) if path.startswith("scheduler") else node
    for name in given:
        rule = name in takes and limits.of_type(takes[name].annotation)
        if rule and not rule.accepts(values[name]) and not limits.rule(f"{path}.{name}", **where):
            yield f"{path}.{name}={node[name]}: must be {rule.says}"


@functools.lru_cache(maxsize=256)
def _signature(target: Callable) -> inspect.Signature:
    return inspect.signature(target)


def norm_faults(config: dict) -> Iterator[str]:
    """Yield a line where the model's signature leaves out the normalization that is asked for."""
    target, norm = config["model"]["_target_"], config["regularization"]["norm"]
    takes = _signature(trust.resolve("model", target)).parameters
    rule = "norm" in takes and limits.of_type(takes["norm"].annotation)
    if rule and not rule.accepts(norm):
        yield f"regularization.norm={norm}: {target} takes {rule.says}"


def dry_build(config: dict) -> list[str]:
    """Return what torch itself refuses: build what needs no data, on a stand-in network."""
    training, scheme = config["training"], config["init"]
    layers = [nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)]
    if "conv" in scheme or config["model"]["inputs"] == ["image"]:
        layers.append(nn.Conv2d(2, 2, 3))
    stand_in = nn.Sequential(*layers)
    faults = []

    def attempt(path: str, build: Callable[[], Any]) -> Any:
        try:
            return build()
        except Exception as error:  # torch raises ValueError, TypeError, RuntimeError, ...
            faults.append(f"{path}: {str(error).splitlines()[0]}")
        return None

    attempt("activation", lambda: make("activation", config["activation"])())
    if not faults and not scheme.get("_target_", "torch.").startswith("knobs."):
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
