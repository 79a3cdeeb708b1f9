"""One resolved config -> its faults: names, types, ranges, arguments, and sense."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from knobs import schedulers, targets
from knobs.config import hydra_settings, rules
from knobs.config.conflicts import conflicts
from knobs.config.manual import default_options
from knobs.config.rules import show
from knobs.errors import did_you_mean, first_line
from knobs.identity import RENAMED, leaves
from knobs.secrets import hidden_in
from knobs.targets import OWN_KEYS

# Arguments that knobs gives to a target, besides those of the YAML.
GIVEN = {
    "optimizer": {"params"},
    "scheduler": {"optimizer"},
    "scheduler.lr_lambda": {"t"},
    "init": {"tensor", "model", "batch"},
    "init.linear": {"tensor"},
    "init.conv": {"tensor"},
    "model": {"shape", "inputs", "outputs", "activation", "norm", "dropout"},
    "data": set(targets.SETTINGS),
    "loss": {"outputs", "targets", "smoothing", "target_mean", "target_std"},
    "metrics.own": {"outputs", "targets"},
    "tracking": {"config", "folder", "earlier"},
}

# What sets an argument of a model that knobs gives.
SET_BY = {
    **dict.fromkeys(("shape", "inputs", "outputs"), "the data say it, so leave it out"),
    "activation": "choose activation=OPTION",
    "norm": "set regularization.norm",
    "dropout": "set regularization.dropout",
}
# Code that knobs calls with the rest of its arguments, and code that it calls as it stands.
CALLED = ("model", "activation", "optimizer", "scheduler", "scheduler.lr_lambda", "init",
          "init.linear", "init.conv")  # fmt: skip
WHOLE = ("data", "tracking")
NAMED = ("name", "data", "model")  # what the name of a run's folder is made of
# What of a config is built without data.
DRY_BUILT = ("activation", "init", "model", "optimizer", "scheduler", "regularization", "training")

MAX_ALIKE = 16384  # sections that `check_job` remembers, about a kilobyte each
_ALIKE: dict[str, Any] = {}  # a section as text: the first one that read so
_MEMOS: dict[str, dict] = {}  # the options of a config: what `check` found before


def check(config: dict, memo: dict | None = None) -> list[str]:
    """Return every fault of a resolved config: types and ranges, arguments, and sense.

    Args:
        memo: what was found before; jobs of a grid whose configs share sections share it.
    """
    found = _faults(config, memo)
    return hidden_in(found, config) if found else found


def check_job(config: dict) -> list[str]:
    """Return the faults of a job's config, as `check` does; equal sections are looked at once.

    The jobs of a sweep each resolve a config of their own, and share nearly all of its content.
    """
    if len(_ALIKE) > MAX_ALIKE:
        _ALIKE.clear()
        _MEMOS.clear()
    options = str(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else ""
    alike = {name: _ALIKE.setdefault(repr(node), node) for name, node in config.items()}
    return check(alike, _MEMOS.setdefault(options, {}))


def _faults(config: dict, memo: dict | None) -> list[str]:
    seen = _Seen({} if memo is None else memo)
    if faults := [
        *seen.each(targets.faults, config),
        *seen.all(hydra_settings.faults, {key: config.get(key) for key in ("hydra", "name")}),
        *seen.each(hydra_settings.name_faults, {key: config.get(key) for key in NAMED}),
    ]:
        return faults  # what a config names is not even looked at before it is trusted
    job = HydraConfig.get() if HydraConfig.initialized() else {}
    runtime = config.get("hydra", job).get("runtime", {})
    if isinstance(runtime, DictConfig):  # in which each look-up costs a hundred times as much
        runtime = OmegaConf.to_container(runtime, resolve=False)
    where = rules.where(runtime)
    config = {name: node for name, node in config.items() if name not in ("hydra", "study")}
    if faults := seen.all(missing, config):
        return faults
    faults = seen.each(rule_faults, config, where) or seen.all(conflicts, config)
    faults = faults + seen.each(_signature_faults, config, where)
    knobs = ("model", "regularization", "activation")
    faults += seen.all(model_faults, {name: config[name] for name in knobs})
    return faults or seen.all(dry_build, {name: config[name] for name in DRY_BUILT})


class _Seen:
    """Remembers faults by the sections that were looked at: of one object, once."""

    def __init__(self, memo: dict):
        self._memo = memo  # key: (sections, which must live as long as their ids stand for them)

    def each(self, look: Callable[..., Iterable[str]], config: dict, *more: Any) -> list[str]:
        """Return the faults of sections that are looked at one by one."""
        return [f for name, node in config.items() for f in self.all(look, {name: node}, *more)]

    def all(self, look: Callable[..., Iterable[str]], config: dict, *more: Any) -> list[str]:
        """Return the faults of sections that are looked at together, whatever the seed."""
        alone = len(config) == 1
        kept = [(name, node) for name, node in config.items() if alone or name != "seed"]
        key = (look, *((name, _stands_for(node)) for name, node in kept))
        if key not in self._memo:
            self._memo[key] = (config, list(look(config, *more)))
        return self._memo[key][1]


def _stands_for(node: Any) -> Any:
    return id(node) if isinstance(node, dict | list) else (type(node), str(node))


def missing(config: dict) -> Iterator[str]:
    """Yield sections and keys without which nothing can be built, which are not there.

    They are missing where a YAML of one's own leaves out what the default options have.
    """
    for section, keys in required().items():
        node = config.get(section)
        if not isinstance(node, dict):
            yield f"{section}={show(node)}: must be a section; choose {section}=OPTION"
        elif lacking := sorted(keys - node.keys()):
            option = default_options().get(section)
            first = f"begin its YAML with `defaults: [{option}, _self_]`" if option else "set it"
            yield f"{section}.{lacking[0]}: is missing; {first}"


@functools.cache
def required() -> dict[str, frozenset[str]]:
    """Return section -> keys that every config has."""
    default = default_options()
    whole = ("training", "regularization", "metrics", "search")
    keys = {
        section: frozenset(
            path.split(".")[1]
            for path, options in rules.read(rules.CONF).items()
            if path.startswith(f"{section}.") and default[section] in options
        )
        for section in whole
    }
    target = frozenset({"_target_"})
    return keys | {
        "data": target | {"name", "kind", "task"},
        "model": target | {"name", "inputs"},
        "activation": target,
        "optimizer": target,
        "scheduler": target | {"interval"},
        "objective": frozenset({"metric", "mode"}),
        "init": frozenset(),
        "loss": frozenset(),
        "tracking": target,
    }


def rule_faults(config: dict, where: dict[str, Any]) -> Iterator[str]:
    """Yield values that the rules do not accept, and keys that no YAML has."""
    for path, value in leaves(config):
        rule = rules.rule(path, **where)
        if path in RENAMED:
            yield f"{path}={show(value)}: is {RENAMED[path]} now"
        elif rule and not rule.accepts(value):
            yield f"{path}={show(value)}: must be {rule.says}{_remedy(path, value, rule)}"
        elif rule and not _inside_target(config, path) and (others := _elsewhere(path, where)):
            group = path.split(".")[0]
            lacks = f"{group}={where['choices'][group]} has no such key"
            yield f"{path}={show(value)}: {lacks}; it is one of {', '.join(others)}"
        elif not rule and not _inside_target(config, path):
            near = did_you_mean(path, rules.paths(where["folders"]))
            yield f"{path}={show(value)}: no such key{near}"


def _remedy(path: str, value: Any, rule: rules.Rule) -> str:
    """Return what to type where a value is right but for its type; empty where it is not."""
    if isinstance(value, str):
        number = rules.plain(value.strip())
        if number != value and rule.accepts(number):
            bare, env = f"{path}={value.strip()}", f"'{path}=${{oc.decode:${{oc.env:NAME}}}}'"
            return f", and this is text; write {bare} without quotes, or from a variable {env}"
    elif isinstance(value, float) and value.is_integer() and rule.accepts(int(value)):
        return f"; write {int(value)}"
    elif isinstance(value, int | float) and rule.accepts(str(value)):
        return f"; as text it is '{path}=\"{show(value)}\"'"
    return ""


def _elsewhere(path: str, where: dict[str, Any]) -> list[str]:
    option = where["choices"].get(path.split(".")[0]) or ""
    return rules.options_with(path, option, where["folders"])


def _inside_target(config: dict, path: str) -> bool:
    """Return whether a key stands in a node with a `_target_`, whose signature then judges it."""
    node: Any = config
    for part in path.split(".")[:-1]:
        node = node[part]
        if "_target_" in node:
            return True
    return False


def _signature_faults(config: dict, where: dict[str, Any]) -> Iterator[str]:
    for part in targets.targets(config):
        yield from argument_faults(*part, where)


def argument_faults(path: str, target: str, node: dict, where: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each argument that a target does not take, lacks, or takes otherwise."""
    takes = targets.signature(targets.resolve(path, target)).parameters
    kind = targets.kind_of(path)
    many = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    partial = node.get("_partial_", False)
    if (kind in CALLED and partial is not True) or (kind in WHOLE and partial is not False):
        must = "true, since knobs calls it" if kind in CALLED else "left out"
        yield f"{path}._partial_={show(partial)}: must be {must}"
    given = sorted(node.keys() - targets.own_keys(path) - {"_target_", "_partial_"})
    if kind == "data" and not target.startswith("knobs."):  # knobs reads those itself
        given = [name for name in given if name in takes or name not in targets.SETTINGS]
    for name in given if kind == "model" else ():
        if name in GIVEN[kind]:
            yield f"model.{name}={show(node[name])}: knobs gives it; {SET_BY[name]}"
    if not many:  # else dry_build asks the target
        for name in given:
            if name not in takes:
                near = did_you_mean(name, takes)
                yield f"{path}.{name}={show(node[name])}: {target} takes no argument {name}{near}"
        for name, p in takes.items():
            named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            named |= p.kind is p.POSITIONAL_ONLY and kind in ("model", "data")
            if named and p.default is p.empty and name not in {*given, *GIVEN.get(kind, ())}:
                yield f"{path}.{name}: {target} needs it; give {path}.{name}=VALUE"
    values = schedulers.lengths(node, 1) if path.startswith("scheduler") else node
    for name in given:
        rule = name in takes and rules.of_type(takes[name].annotation)
        if rule and not rule.accepts(values[name]) and not rules.rule(f"{path}.{name}", **where):
            yield f"{path}.{name}={show(node[name])}: must be {rule.says}"


def model_faults(config: dict) -> Iterator[str]:
    """Yield a line for each knob that is set and that the model's signature does not take."""
    target, section = config["model"]["_target_"], config["regularization"]
    norm, dropout = section["norm"], section["dropout"]
    function = targets.resolve("model", target)
    asked = {"norm": norm is not None, "dropout": dropout != 0}
    asked["activation"] = config["activation"] != default_activation()
    taken = targets.taken(function, asked, contract="shape")
    said = {
        "norm": f"regularization.norm={show(norm)}",
        "dropout": f"regularization.dropout={dropout}",
        "activation": f"activation={config['activation']['_target_'].rpartition('.')[2]}",
    }
    for name in asked.keys() - taken.keys():
        if asked[name]:
            fix = f"leave it out, or let it take {name}"
            yield f"{said[name]}: {target} takes no argument {name}; {fix}"
    takes = targets.signature(function).parameters
    rule = "norm" in takes and rules.of_type(takes["norm"].annotation)
    if rule and not rule.accepts(norm):
        yield f"regularization.norm={norm}: {target} takes {rule.says}"


@functools.cache
def default_activation() -> dict:
    """Return the section of the activation that a config has where nobody chooses one."""
    file = rules.CONF / "activation" / f"{default_options()['activation']}.yaml"
    return OmegaConf.to_container(OmegaConf.load(file))


def dry_build(config: dict) -> list[str]:
    """Return what torch itself refuses: build what needs no data, on a stand-in network."""
    import torch  # late, and with it all that builds: help does without
    from torch import nn

    from knobs import build
    from knobs.optimizers import training_mode

    training, scheme = config["training"], config["init"]
    layers = [nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)]
    if "conv" in scheme or config["model"]["inputs"] == ["image"]:
        layers.append(nn.Conv2d(2, 2, 3))
    stand_in = nn.Sequential(*layers)
    faults = []

    def attempt(path: str, make: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except Exception as error:  # torch raises ValueError, TypeError, RuntimeError, ...
            faults.append(f"{path}: {first_line(error)}")
        return None

    def activated() -> None:
        x, activation = torch.zeros(2, 2, 2), build.make("activation", config["activation"])()
        try:
            y = activation(x)
        except RuntimeError:
            return  # of another shape it may do
        if not isinstance(y, torch.Tensor) or y.shape != x.shape:
            raise TypeError(f"{config['activation']['_target_']} keeps no tensor's shape")

    attempt("activation", activated)
    if not faults and not scheme.get("_target_", "torch.").startswith("knobs."):
        attempt("init", build.initialize, config, stand_in, torch.zeros(1, 2))
    # Those that name parameters, of a network that is not there yet, are read with it.
    plain = {k: v for k, v in config["optimizer"].items() if k not in OWN_KEYS["optimizer"]}
    optimizer = attempt("optimizer", build.optimizer, config | {"optimizer": plain}, stand_in)
    if optimizer is not None:
        training_mode(optimizer, True)
        optimizer.step(lambda: torch.zeros(()))  # schedules warn when they come before any step
        if isinstance(optimizer, torch.optim.SparseAdam):
            faults.append("optimizer: SparseAdam takes sparse gradients only; choose another")
        attempt("scheduler", build.scheduler, config, optimizer, training["epochs"])
    if attempt("device", build.device, name := training["device"]) is None:
        why = faults.pop().removeprefix("device: ")
        some = "must be auto, cpu, cuda, cuda:1, mps or another that torch has here"
        faults.append(f"training.device={name}: {some} ({why[:100]})")
    return faults
