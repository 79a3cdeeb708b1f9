"""From a checked config to objects."""

import inspect

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim.lr_scheduler import LRScheduler

from knobs import init, losses, optimizers, schedulers, targets
from knobs.data import Data, opening
from knobs.data.splits import with_seeds
from knobs.errors import ConfigError, DataError
from knobs.losses import Loss
from knobs.models import frozen
from knobs.shape import Shape
from knobs.targets import make, own


def data(config: dict) -> Data:
    """Read the data set that `config["data"]` names.

    A function of one's own is given what it takes of its section, and may return anything that
    knobs.data.own knows.

    Raises:
        DataError: naming what cannot be read, or what the function raised.
    """
    node = with_seeds(config["data"])
    if node["_target_"].startswith("knobs."):
        return make("data", node)
    from knobs.data import own  # late: a data set of knobs starts without it

    settings = {key: value for key, value in node.items() if key in targets.SETTINGS}
    given = {key: value for key, value in node.items() if key not in settings}
    given = targets.filled("data", given, settings, contract=None)
    with targets.blame("data", node["_target_"], DataError):
        found = make("data", given)
        return own.as_data(found, node["_target_"], given, settings)


def model(config: dict, shape: Shape) -> nn.Module:
    """Return the network, with torch's initial weights or its own; what is frozen is frozen.

    Raises:
        ConfigError: code of one's own raised, or returned no module.
    """
    node, options = config["model"], config["regularization"]
    partial = make("model", node)
    knobs = {name: options[name] for name in ("norm", "dropout")}
    knobs |= {"shape": shape, "activation": make("activation", config["activation"])}
    given = targets.taken(partial.func, knobs, contract="shape")
    sizes = {"inputs": shape.features, "outputs": shape.outputs}
    given |= targets.taken(partial.func, sizes)
    with targets.blame("model", node["_target_"], ConfigError):
        made = targets.call(partial.func, partial.keywords | given)
    if not isinstance(made, nn.Module):
        what = f"returned a {type(made).__name__}; must return a torch.nn.Module"
        raise ConfigError(f"model._target_={node['_target_']}: {what}")
    if any(isinstance(p, UninitializedParameter) for p in made.parameters()):
        with targets.blame("model", node["_target_"], ConfigError), torch.no_grad():
            made(_zeros(shape))  # lazy layers take their sizes
    if node.get("freeze"):
        frozen.freeze(made, node["freeze"], node.get("thaw"))
    return made


def untrained(config: dict, shape: Shape) -> nn.Module:
    """Return the network of a run that begins.

    One's own may come with weights that its constructor reads. Which they are shows when it is
    built twice: they are equal, where what is drawn is not.
    """
    net = model(config, shape)
    if not own(config["model"]["_target_"]) or hasattr(net, "loaded"):
        return net
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = dict(model(config, shape).named_parameters())
    same = {n: p for n, p in net.named_parameters() if n in again and torch.equal(p, again[n])}
    told = any(p.ndim > 1 and (p != p.flatten()[0]).any() for p in same.values())  # no constants
    net.loaded = frozenset(same if told else ())
    return net


def _zeros(shape: Shape) -> Tensor | dict[str, Tensor]:
    """Return a batch of two examples that are all 0."""
    if shape.parts:
        return {name: torch.zeros(2, *sizes) for name, sizes in shape.parts.items()}
    return torch.zeros(2, *shape.input, dtype=torch.long if shape.vocabulary else None)


def loss(config: dict, data: Data) -> Loss:
    """Return what the run minimizes, its class or label weights from the training split.

    Raises:
        ConfigError: weights that are not one a class or label. DataError: data that the loss, or
            balanced weights, cannot take.
    """
    node = config.get("loss") or {}  # an older config has none
    if "_target_" not in node:
        return losses.usual(data.task)
    given = {name: node[name] for name in losses.WEIGHTS if node.get(name) is not None}
    made = make("loss", {key: value for key, value in node.items() if key not in given})
    function, arguments = made.func, {**made.keywords}
    facts = {"target_mean": data.target_mean, "target_std": data.target_std}
    takes = inspect.signature(function).parameters
    arguments |= {name: fact for name, fact in facts.items() if name in takes}
    if not node["_target_"].startswith("knobs."):
        return Loss(function, arguments | given, by_row=True)
    if function is losses.poisson:
        _check_counts(data, **arguments)
    arguments = {key: value for key, value in arguments.items() if key not in losses.WEIGHTS}
    weigh = {"weight": losses.class_weights, "pos_weight": losses.positive_weights}
    names = data.classes or [str(i) for i in range(data.shape.outputs)]
    weights = {key: weigh[key](value, data.train.y, names) for key, value in given.items()}
    return Loss(function, arguments, weights)


def _check_counts(data: Data, target_mean: losses.Facts, target_std: losses.Facts) -> None:
    for split, y in (("training", data.train.y), ("validation", data.val.y)):
        counts = y.double().cpu() * target_std + target_mean
        if (counts / target_std).min() < -1e-4:  # a 0, standardised and back, is near 0
            raise DataError(
                f"loss=poisson: needs targets >= 0, and the {split} split has "
                f"{counts.min():.6g}; choose loss=mse or another data.target"
            )


def initialize(config: dict, net: nn.Module, batch: Tensor) -> None:
    """Give `net` its first weights, all but those that it came with or that are frozen.

    Args:
        batch: training inputs, for schemes that look at data.
    """
    kept = {
        name: parameter.detach().clone()
        for name, parameter in net.named_parameters()
        if name in getattr(net, "loaded", ()) or not parameter.requires_grad
    }
    _initialize(config, net, batch)
    with torch.no_grad():
        for name, value in kept.items():
            net.get_parameter(name).copy_(value)
    net.keeps = len(kept)


def _initialize(config: dict, net: nn.Module, batch: Tensor) -> None:
    node = config["init"]
    gain = init.gain(make("activation", config["activation"])())
    if "_target_" not in node:
        init.apply(net, make("init.linear", node["linear"]), make("init.conv", node["conv"]), gain)
        return _zero_head(config, net)
    scheme = make("init", node)
    with targets.blame("init", node["_target_"], ConfigError):
        if "tensor" in targets.signature(scheme.func).parameters:  # of one weight, as torch's
            init.apply(net, scheme, scheme, gain)
        else:
            scheme(net, batch)
    return _zero_head(config, net)


def _zero_head(config: dict, net: nn.Module) -> None:
    if config["training"].get("zero_head") and isinstance(getattr(net, "head", None), nn.Linear):
        for parameter in net.head.parameters():
            nn.init.zeros_(parameter)


def optimizer(config: dict, net: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer over the network's parameters."""
    node = config["optimizer"]
    groups = optimizers.param_groups(
        net,
        exclude_bias_and_norm=not config["regularization"]["l2_biases"],
        split_hidden=node["_target_"] == "knobs.optimizers.Muon",
        node=node,
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


def free_memory(device: torch.device) -> int:
    """Return the bytes still free on a device, within this process's own limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return opening.free_memory()
