"""Code that a config may name. Config is data: a `_target_` runs only if its group's list has it.

`torch.*` would be too wide (torch.load and torch.hub.load run code), and Hydra's own block-list
lets both pass. So a target must lie under its group's prefixes, be defined in a module under
them (`knobs.data.os.system` is not), be a public class or function, and be of the group's kind.
"""

import functools
import importlib
import inspect
import os
from collections.abc import Iterator
from typing import Any

from knobs.errors import did_you_mean

# Read once, before any config is: hydra.job.env_set cannot widen it later.
_ADMITTED = tuple(p for p in os.environ.get("KNOBS_ALLOW", "").split(",") if p)

# group: (prefixes, the class its classes must derive from)
ALLOWED = {
    "data": (("knobs.data.",), None),
    "model": (("knobs.models.",), None),
    "activation": (("torch.nn.",), "torch.nn.Module"),
    "init": (("torch.nn.init.", "knobs.init."), None),
    "optimizer": (
        ("torch.optim.", "schedulefree.", "knobs.optimizers."),
        "torch.optim.Optimizer",
    ),
    "scheduler": (
        ("torch.optim.lr_scheduler.", "knobs.schedulers."),
        "torch.optim.lr_scheduler.LRScheduler",
    ),
    "hydra": (("hydra._internal.core_plugins.", "hydra_plugins.", "hydra.experimental."), None),
}
# Keys that knobs reads itself, which go to no target.
OWN_KEYS = {"scheduler": {"interval", "monitor"}, "model": {"name", "inputs"}}
# What Hydra hands to logging.config.dictConfig, which calls whatever `class` and `()` name.
LOGGING = {
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.NullHandler",
    "logging.handlers.RotatingFileHandler",
    "logging.Formatter",
    "colorlog.ColoredFormatter",
    "ext://sys.stdout",
    "ext://sys.stderr",
}


def targets(node: Any, path: str = "") -> Iterator[tuple[str, str, dict]]:
    """Yield every (path, `_target_`, its node) of a resolved config, depth first."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node["_target_"], node
        for name, child in node.items():
            yield from targets(child, f"{path}.{name}" if path else str(name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from targets(child, f"{path}.{i}")


@functools.lru_cache(maxsize=512)
def resolve(path: str, target: Any) -> Any:
    """Return the class or function that `path`'s `_target_` names, if the list of its group has it.

    Args:
        path: where the node stands in the config, `optimizer` or `scheduler.lr_lambda`.
        target: a dotted name.

    Raises:
        ValueError: naming the field, the target and what is allowed.
    """
    group = path.split(".")[0]
    prefixes, base = ALLOWED.get(group, ((), None))
    prefixes += _ADMITTED
    field = f"{path}._target_={target}"
    refusal = f"{field}: not allowed here; " + (
        f"targets of {group} lie under {', '.join(prefixes)}" if prefixes else "no target is"
    )
    if not isinstance(target, str) or not target.startswith(prefixes):
        raise ValueError(refusal)
    if group != "hydra" and any(part.startswith("_") for part in target.split(".")):
        raise ValueError(refusal)
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{field}: no module {module_name} ({error})") from None
    found = getattr(module, name, None)
    if found is None:
        raise ValueError(f"{field}: {module_name} has no {name}{did_you_mean(name, vars(module))}")
    defined_in = f"{getattr(found, '__module__', '')}."
    if not defined_in.startswith(prefixes) or not (
        inspect.isclass(found) or inspect.isfunction(found)
    ):
        raise ValueError(refusal)
    if base and inspect.isclass(found):
        base_module, _, base_name = base.rpartition(".")
        if not issubclass(found, getattr(importlib.import_module(base_module), base_name)):
            raise ValueError(f"{field}: must be a {base}")
    return found


def faults(config: dict) -> list[str]:
    """Return what in a resolved config names code that is not allowed, `hydra` included."""
    found = []
    for path, target, _ in targets(config):
        try:
            resolve(path, target)
        except ValueError as error:
            found.append(str(error))
    hydra = config.get("hydra", {})
    for kind in ("job_logging", "hydra_logging"):
        found += [
            f"hydra.{kind}.{path}={value}: not allowed; one of {', '.join(sorted(LOGGING))}"
            for path, value in _named_code(hydra.get(kind) or {})
            if value not in LOGGING
        ]
    if "KNOBS_ALLOW" in (hydra.get("job", {}).get("env_set") or {}):
        found.append("hydra.job.env_set.KNOBS_ALLOW: a config cannot admit code; export it instead")
    return found


def _named_code(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in a logging config that dictConfig would import or call."""
    if isinstance(node, dict):
        for name, child in node.items():
            here = f"{path}.{name}" if path else str(name)
            if name in ("class", "()") or (isinstance(child, str) and "://" in child):
                yield here, child
            else:
                yield from _named_code(child, here)
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from _named_code({str(i): child}, path)
