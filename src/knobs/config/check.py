"""One resolved config -> its faults: names, types, ranges, arguments, and sense."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from knobs import targets
from knobs.config.rules import RULES
from knobs.conflicts import conflicts
from knobs.errors import did_you_mean
from knobs.identity import leaves


def check(config: dict) -> list[str]:
    """Return every fault of a resolved config: types and ranges, arguments, and sense."""
    faults = targets.faults(config)
    if faults:
        return faults  # what a config names is not even looked at before it is trusted
    config = {name: node for name, node in config.items() if name not in ("hydra", "study")}
    faults = list(rule_faults(config))
    if not faults:
        faults = conflicts(config)
    from knobs import build  # late: it imports torch

    faults += build.argument_faults(config)
    return faults or build.rehearse(config)


def rule_faults(config: dict) -> Iterator[str]:
    """Yield values that the rules do not accept, and keys that they do not know."""
    for path, value in leaves(config):
        rule = RULES.get(path)
        if rule and not rule.accepts(value):
            yield f"{path}={_show(value)}: must be {rule.says}"
        elif not rule and not _inside_target(config, path):
            yield f"{path}={_show(value)}: no such key{did_you_mean(path, RULES)}"


def resolve(config: DictConfig) -> dict:
    """Return a composed config as plain data, resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _inside_target(config: dict, path: str) -> bool:
    """Return whether a key stands in a node with a `_target_`, whose signature then judges it."""
    node: Any = config
    for part in path.split(".")[:-1]:
        node = node[part]
        if "_target_" in node:
            return True
    return False


def _show(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
