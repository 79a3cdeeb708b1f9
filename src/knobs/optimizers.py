"""Optimizers that torch has only half of. The others are torch's own, named in conf/optimizer."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from knobs.errors import ConfigError
from knobs.models.frozen import named, of_head
from knobs.models.members import Members

# Whose update treats every number of a weight alone: one step of many weights laid side by side is
# a step of each, to the same bits.
ELEMENT_BY_ELEMENT = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam),
    *(torch.optim.Adamax, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.RMSprop),
    *(torch.optim.ASGD, torch.optim.Rprop),
)


_LAYER = re.compile(r"(?:[^.]+\.)*?[^.]*\d(?=\.)|[^.]+(?=\.)")


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon on 2-D hidden weights, torch.optim.AdamW on every other parameter.

    The two share this object's parameter groups, so a schedule moves both rates.

    Args:
        params: groups with a flag `hidden`: true for those that Muon updates.
        lr: > 0, for both; `adjust_lr_fn="match_rms_adamw"` scales Muon's updates to AdamW's size.
        weight_decay: >= 0, decoupled, for both.
        momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn: torch.optim.Muon's.
        betas, adamw_eps: AdamW's.

    Source: Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982, section 2.2.
    """

    matrices: type[torch.optim.Optimizer] = torch.optim.Muon

    def __init__(
        self,
        params: list[dict],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
    ):
        shared = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, shared)
        muon = {"momentum": momentum, "nesterov": nesterov, "eps": eps, "ns_steps": ns_steps}
        muon |= {"ns_coefficients": tuple(ns_coefficients), "adjust_lr_fn": adjust_lr_fn}
        adamw = {"betas": tuple(betas), "eps": adamw_eps}
        self.parts: list[torch.optim.Optimizer] = []
        self.options = muon | {"betas": tuple(betas), "adamw_eps": adamw_eps}
        kinds = ((True, self.matrices, muon), (False, torch.optim.AdamW, adamw))
        for hidden, make, options in kinds:
            if groups := [g for g in self.param_groups if g["hidden"] is hidden]:
                self.parts.append(make(groups, **shared, **options))
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update both parts once."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for part in self.parts:
            part.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:  # for copies: torch's has not the parts
        return super().__getstate__() | {"parts": self.parts, "options": self.options}

    def holder(self, parameter: Tensor) -> torch.optim.Optimizer:
        """Return the part whose state a parameter's is."""
        for part in self.parts:
            if any(p is parameter for group in part.param_groups for p in group["params"]):
                return part
        raise KeyError("a parameter of another optimizer")

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def training_mode(optimizer: torch.optim.Optimizer, on: bool) -> None:
    """Tell schedule-free optimizers, whose weights for training are not those to evaluate."""
    switch = getattr(optimizer, "train" if on else "eval", None)
    if switch:
        switch()


def param_groups(
    model: nn.Module,
    exclude_bias_and_norm: bool,
    split_hidden: bool,
    node: dict[str, Any] | None = None,
) -> list[Any]:
    """Return the model's parameters as an optimizer takes them.

    Args:
        exclude_bias_and_norm: put both in a group with weight_decay 0.
        split_hidden: flag 2-D weights that belong to neither an embedding nor the head `hidden`.
        node: the config's `optimizer`, whose head_lr, layer_decay and groups give some their own.

    Raises:
        ConfigError: of these, what fits no parameter.
    """
    own = options_by_name(model, node or {})
    if not exclude_bias_and_norm and not split_hidden and not own:
        return list(model.parameters())
    outer = {
        parameter
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) or name.split(".")[-1] == "head"
        for parameter in module.parameters()
    }
    groups: dict[tuple, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        options = {"hidden": parameter.ndim == 2 and parameter not in outer} if split_hidden else {}
        if exclude_bias_and_norm and parameter.ndim < 2:
            options["weight_decay"] = 0.0
        groups.setdefault((*(options | own.get(name, {})).items(),), []).append(parameter)
    return [{"params": parameters} | dict(options) for options, parameters in groups.items()]


def options_by_name(model: nn.Module, node: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return name -> options of each parameter that has other ones than the optimizer's.

    Raises:
        ConfigError: a head or a name that the model has not; a group that is none.

    Source of layer_decay: Clark et al. 2020, arXiv:2003.10555, table 7.
    """
    if isinstance(model, Members):
        each = [options_by_name(member, node) for member in model.members]
        return {f"members.{i}.{n}": own for i, of in enumerate(each) for n, own in of.items()}
    lr, names = node.get("lr"), [name for name, _ in model.named_parameters()]
    own: dict[str, dict[str, float]] = {}
    if decay := node.get("layer_decay"):
        own = {n: {"lr": lr * decay**depth} for n, depth in _depths(model, names).items()}
    if head_lr := node.get("head_lr"):
        heads = of_head(model)
        if not heads:
            raise ConfigError(f"optimizer.head_lr={head_lr}: the network has no module called head")
        own |= {name: {"lr": head_lr} for name in heads}
    for number, group in enumerate(node.get("groups") or []):
        match, options = _group(f"optimizer.groups[{number}]", group)
        found = named(names, match, f"optimizer.groups[{number}]")
        own |= {name: own.get(name, {}) | options for name in found}
    return own


def _depths(model: nn.Module, names: Sequence[str]) -> dict[str, int]:
    """Return name -> the number of layers behind its own, 0 for the last one.

    A layer is what the network says in `layer_numbers`, a number a name. Else it is the shortest
    first part of a name that ends in a number, or the first word.
    """
    numbers = {
        f"{path}.{name}".lstrip("."): number
        for path, module in model.named_modules()
        for name, number in getattr(module, "layer_numbers", {}).items()
    }
    if numbers.keys() >= {*names}:
        last = max(numbers.values())
        return {name: last - numbers[name] for name in names}
    layers = [match[0] if (match := _LAYER.match(name)) else name for name in names]
    place = {layer: n for n, layer in enumerate(reversed(dict.fromkeys(layers)))}
    return {name: place[of] for name, of in zip(names, layers, strict=True)}


def _group(path: str, group: Any) -> tuple[str, dict[str, float]]:
    """Return the name and the options of an item of optimizer.groups."""
    form = "{match: NAME, lr: > 0, weight_decay: >= 0}, with one of the two or both"
    if not isinstance(group, dict) or not isinstance(group.get("match"), str) or len(group) < 2:
        raise ConfigError(f"{path}={group}: must be {form}")
    least = {"lr": 1e-300, "weight_decay": 0.0}
    options = {key: value for key, value in group.items() if key != "match"}
    for key, value in options.items():
        fits = key in least and type(value) in (int, float)
        if not fits or not least[key] <= value < math.inf:
            raise ConfigError(f"{path}.{key}={value}: must be {form}")
    return group["match"], options
