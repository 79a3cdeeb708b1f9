"""Code that a config may name; it is called here and nowhere else.

Config is data: a `_target_` runs only if its group's list has it.

`torch.*` would be too wide (torch.load and torch.hub.load run code), and Hydra's own block-list
lets both pass. So a target must lie under its group's prefixes, be defined in a module under
them (`knobs.data.os.system` is not), be a public class or function, and be of the group's kind.
"""

import contextlib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from knobs.errors import UserError, did_you_mean, first_line, for_a_person
from knobs.identity import walk

# Read once, before any config is: nothing that a config sets can widen it later.
# A name admits its own package: mylab is not mylab_other.
_ADMITTED = tuple(
    f"{name.strip().rstrip('.')}."
    for name in os.environ.get("KNOBS_ALLOW", "").split(",")
    if name.strip(" .")
)

# group: (prefixes, the class its classes must derive from)
ALLOWED = {
    "data": (("knobs.data.",), None),
    "model": (("knobs.models.",), None),
    "activation": (("torch.nn.",), "torch.nn.Module"),
    "init": (("torch.nn.init.", "knobs.init."), None),
    "optimizer": (("torch.optim.", "schedulefree.", "knobs.optimizers."), "torch.optim.Optimizer"),
    "scheduler": (
        ("torch.optim.lr_scheduler.", "knobs.schedulers."),
        "torch.optim.lr_scheduler.LRScheduler",
    ),
    "loss": (("knobs.losses.",), None),
    "metrics": (("knobs.training.scores.",), None),
    "tracking": (("knobs.tracking.",), "knobs.tracking.Mirror"),
    "hydra": (
        (
            "hydra._internal.core_plugins.basic_",
            "hydra_plugins.knobs_",
            "hydra_plugins.hydra_joblib_",
        ),
        None,
    ),
}
# Keys that knobs reads itself, which go to no target.
OWN_KEYS = {
    "data": {"val_seed"},
    "optimizer": {"head_lr", "layer_decay", "groups"},
    "scheduler": {"interval", "monitor"},
    "model": {"name", "inputs", "freeze", "thaw", "cache"},
    "loss": {"tasks"},
    "metrics.own": {"mode"},  # of each metric there
}
# Keys of `data` that knobs reads itself where a function of one's own returns no Data: how to split
# and prepare what it returns. The function is given those that its signature takes.
SETTINGS = (
    *("name", "kind", "task", "val", "test", "split_seed", "folds", "fold", "classes", "normalize"),
    *("target", "weight", "drop", "columns", "na", "decimal", "numbers", "split", "augment"),
    *("text", "ngrams", "max_length", "max_vocabulary", "min_count", "memory_gib", "workers"),
    "tokenizer",
)


def targets(config: dict) -> Iterator[tuple[str, Any, dict]]:
    """Yield every (path, `_target_`, its node) of a resolved config, depth first."""
    for path, node in walk(config):
        if isinstance(node, dict) and "_target_" in node:
            yield ".".join(map(str, path)), node["_target_"], node


def not_admitted(config: dict) -> tuple[str, ...]:
    """Return the packages, `mylab.`, of a user's own targets that KNOBS_ALLOW does not admit.

    For a message: nothing is imported, and what could be nobody's own is left out.
    """
    names = {str(name) for _, name, _ in targets(config) if "." in str(name)}
    packages = {name.partition(".")[0] for name in names if not name.startswith(_ADMITTED)}
    others = {p.partition(".")[0] for prefixes, _ in ALLOWED.values() for p in prefixes}
    own = packages - others - sys.stdlib_module_names
    return tuple(f"{package}." for package in sorted(own) if package.isidentifier())


@functools.lru_cache(maxsize=512)
def resolve(path: str, target: str) -> Any:
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
    private = group != "hydra" and "._" in f".{target}"
    if not isinstance(target, str) or not target.startswith(prefixes) or private:
        raise ValueError(refusal + _remedy(group, str(target)))
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever a module of one's own raises
        raise ValueError(f"{field}: no module {module_name} ({error})") from None
    code = getattr(module, name, None)
    if code is None:
        raise ValueError(f"{field}: {module_name} has no {name}{did_you_mean(name, vars(module))}")
    is_class, bare = inspect.isclass(code), _bare(code)
    if not (inspect.isclass(bare) or inspect.isfunction(bare)):
        raise ValueError(f"{refusal}; {target} is a {type(code).__name__}, no class or function")
    if not f"{getattr(bare, '__module__', '')}.".startswith(prefixes):
        raise ValueError(refusal)
    if base and is_class and not issubclass(code, pkgutil.resolve_name(base)):
        raise ValueError(f"{field}: must be a {base}")
    return code


def _bare(code: Any) -> Any:
    """Return the class or function behind functools.partial, and behind a cache of its results."""
    while isinstance(code, functools.partial):
        code = code.func
    return inspect.unwrap(code) if callable(code) and not inspect.isclass(code) else code


def own(target: str) -> bool:
    """Return whether code of this name is a user's own, which KNOBS_ALLOW admits."""
    return target.startswith(_ADMITTED)


def admits(target: str) -> bool:
    """Return whether code of this name may be named somewhere in a config of this process."""
    return target.startswith((*_ADMITTED, *(p for ps, _ in ALLOWED.values() for p in ps)))


def _remedy(group: str, target: str) -> str:
    """Say how code of one's own is admitted; nothing where no package could be meant."""
    package = target.partition(".")[0]
    ours = package in {"knobs", "torch", "hydra", "hydra_plugins", *sys.stdlib_module_names}
    if group == "hydra" or ours or "._" in target or not re.fullmatch(r"\w+(\.\w+)+", target):
        return ""
    return f"; if that code is yours, or read by you: export KNOBS_ALLOW={package}."


@functools.lru_cache(maxsize=256)
def signature(target: Callable) -> inspect.Signature:
    """Return what a target takes; of code that hides it, anything."""
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return inspect.signature(lambda *args, **kwargs: None)


def kind_of(path: str) -> str:
    """Return what a node is of: its path, or `metrics.own` for a metric of one's own."""
    return "metrics.own" if path.startswith("metrics.own.") else path


def own_keys(path: str) -> set[str]:
    """Return the keys of a node that go to no target."""
    return OWN_KEYS.get(kind_of(path), set())


def make(path: str, node: dict) -> Any:
    """Return what a node describes: `_target_` called with the other keys, or its partial.

    For plain data, and targets of the node's group alone.
    """
    ours = {"_target_", "_partial_", *own_keys(path)}
    arguments = {
        name: make(f"{path}.{name}", child) if isinstance(child, dict) else child
        for name, child in node.items()
        if name not in ours
    }
    if "_target_" not in node:
        return arguments
    target = resolve(path, node["_target_"])
    partial = node.get("_partial_")
    return functools.partial(target, **arguments) if partial else call(target, arguments)


def call(function: Callable, arguments: Mapping[str, Any]) -> Any:
    """Call with arguments by name, positional-only ones by their place."""
    takes = signature(function).parameters.values()
    first = [p for p in takes if p.kind is p.POSITIONAL_ONLY]
    while first and first[-1].name not in arguments:  # their defaults hold
        first.pop()
    places = [arguments.get(p.name, p.default) for p in first]
    names = {p.name for p in first}
    return function(*places, **{n: value for n, value in arguments.items() if n not in names})


def taken(
    function: Callable, offered: Mapping[str, Any], contract: str | None = ""
) -> dict[str, Any]:
    """Return what of the arguments that knobs can give a function's signature takes by name.

    `**rest` takes them all where the signature names `contract` too, as code written for knobs
    does, or where that is None; elsewhere it says nothing of names, and may hand them on to what
    takes none.
    """
    takes = signature(function).parameters
    rest = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    many = rest and (contract is None or contract in takes)
    return {name: value for name, value in offered.items() if many or name in takes}


def filled(path: str, node: dict, offered: Mapping[str, Any], contract: str | None = "") -> dict:
    """Return a node with those of the offered arguments that its target takes; see `taken`."""
    return node | taken(resolve(path, node["_target_"]), offered, contract)


@contextlib.contextmanager
def blame(path: str, target: str, kind: type[UserError]) -> Iterator[None]:
    """Say of code of a user's own that it raised, what, and on which line of which file.

    Raises:
        UserError: of `kind`. What the code itself raises as one, and a fault of the machine, pass.
    """
    try:
        yield
    except Exception as error:
        if not own(target) or isinstance(fault := for_a_person(error), UserError):
            raise
        others = (str(Path(__file__).parent), str(Path(os.__file__).parent))  # ours, and Python's
        frames = traceback.extract_tb(fault.__traceback__)
        frames = [f for f in frames if not f.filename.startswith(others)]
        at = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
        said = f"raised {type(error).__name__}: {first_line(error)}"
        raise kind(f"{path}._target_={target}: {said}{at}") from None


def faults(config: dict) -> list[str]:
    """Return what in a resolved config names code that is not allowed, `hydra` included."""
    lines = []
    for path, target, _ in targets(config):
        if not isinstance(target, str):
            shown = "null" if target is None else target
            lines.append(f"{path}._target_={shown}: must be a word, the dotted name of code")
            continue
        try:
            resolve(path, target)
        except ValueError as error:
            lines.append(str(error))
    return lines
