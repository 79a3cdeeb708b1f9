"""Parameters that do not train: which they are, until when, and what their modules do meanwhile."""

from collections.abc import Sequence

from torch import nn

from knobs.errors import ConfigError, did_you_mean

BACKBONE = "backbone"  # every parameter but those of a module called `head`


def freeze(net: nn.Module, what: str | Sequence[str], thaw: int | None = None) -> None:
    """Take parameters out of training.

    Args:
        what: `backbone`, or the first parts of their names.
        thaw: epochs after which they train as well; None for never.

    Raises:
        ConfigError: a name that no parameter has; no `head`; nothing is left to train.
    """
    names = [name for name, _ in net.named_parameters()]
    if what == BACKBONE:
        heads = {*of_head(net)}
        chosen = [name for name in names if name not in heads]
        if len(chosen) == len(names):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise ConfigError(
                "model.freeze=backbone: the network has no module called head, which would train; "
                f"give what is to be frozen as a list, of {parts}"
            )
    else:
        parts = [what] if isinstance(what, str) else what
        chosen = [name for part in parts for name in named(names, part, "model.freeze")]
    if len({*chosen}) == len(names) and thaw is None:
        raise ConfigError(f"model.freeze={what}: nothing is left to train; leave the head out")
    loaded = getattr(net, "loaded", ())
    if loaded and (new := [name for name in chosen if name not in loaded]):
        raise ConfigError(
            f"model.freeze={what}: {new[0]} came without weights, and would stay as it was drawn; "
            "give a list of parts that leaves it out"
        )
    for name in chosen:
        net.get_parameter(name).requires_grad_(False)
    net.thaw_after, net.frozen_names = thaw, chosen


def of_head(net: nn.Module) -> list[str]:
    """Return the names of the head's parameters: of a module called `head`, if nothing says more.

    A network whose names hold `head` elsewhere too has `head_names`: what those begin with.
    """
    told = {
        f"{path}.{start}".lstrip(".")
        for path, module in net.named_modules()
        for start in getattr(module, "head_names", ())
    }
    names = [name for name, _ in net.named_parameters()]
    if told:
        return [name for name in names if name.startswith(tuple(told))]
    return [name for name in names if "head" in name.split(".")]


def named(names: Sequence[str], part: str, field: str) -> list[str]:
    """Return those of a network's names whose first words are `part`.

    Raises:
        ConfigError: none are; `field` is the key that names it.
    """
    found = [name for name in names if f"{name}.".startswith(f"{part.rstrip('.')}.")]
    if not found:
        parts = sorted({name.rpartition(".")[0] for name in names})
        hint = did_you_mean(part, parts) or f"; its parts are {', '.join(parts)}"
        raise ConfigError(f"{field}: no parameter's name begins with {part}{hint}")
    return found


def train(net: nn.Module, epoch: int) -> bool:
    """Put a network into training mode, less what is frozen; return whether something thaws.

    A module whose parameters are all frozen computes as in evaluation: its batch norm keeps its
    statistics, its dropout drops nothing.

    Args:
        epoch: those that have been trained.
    """
    net.train()
    thaws = False
    for module in net.modules():
        due = getattr(module, "thaw_after", None)
        if due is not None and epoch >= due:
            parameters = [module.get_parameter(name) for name in module.frozen_names]
            thaws |= not all(parameter.requires_grad for parameter in parameters)
            for parameter in parameters:
                parameter.requires_grad_(True)
    still(net)
    return thaws


def still(net: nn.Module) -> nn.Module:
    """Return a network in training mode, its modules that are frozen as a whole not."""
    if all(parameter.requires_grad for parameter in net.parameters()):
        return net
    for module in net.modules():
        flags = [parameter.requires_grad for parameter in module.parameters()]
        if flags and not any(flags):
            module.eval()
    return net
