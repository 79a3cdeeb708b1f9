"""One resolved config -> its faults: names, types, ranges, arguments, and sense."""

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from knobs import metrics, schedulers, targets
from knobs.config import rules
from knobs.errors import did_you_mean, first_line
from knobs.identity import RENAMED, leaves, public

# Arguments that knobs gives to a target, besides those of the YAML.
GIVEN = {
    "optimizer": {"params"},
    "scheduler": {"optimizer"},
    "scheduler.lr_lambda": {"t"},
    "init": {"tensor", "model", "batch"},
    "init.linear": {"tensor"},
    "init.conv": {"tensor"},
    "model": {"shape", "activation", "norm", "dropout"},
    "loss": {"outputs", "targets", "smoothing", "target_mean", "target_std"},
    "metrics.own": {"outputs", "targets"},
    "tracking": {"config", "folder", "earlier"},
}

# Optimizers of these but LBFGS treat each weight alone, so one steps all members of a run.
TREATS_WEIGHTS_ALONE = ("torch.optim.", "knobs.optimizers.", "schedulefree.")


def check(config: dict) -> list[str]:
    """Return every fault of a resolved config: types and ranges, arguments, and sense."""
    faults = targets.faults(config)
    if faults:
        return faults  # what a config names is not even looked at before it is trusted
    job = HydraConfig.get() if HydraConfig.initialized() else {}
    where = rules.where(config.get("hydra", job).get("runtime", {}))
    config = {name: node for name, node in config.items() if name not in ("hydra", "study")}
    faults = list(rule_faults(config, where)) or [*conflicts(config)]
    for part in targets.targets(config):
        faults += argument_faults(*part, where)
    return [*faults, *norm_faults(config)] or dry_build(config)


def resolve(config: DictConfig) -> dict:
    """Return a composed config as plain data, resolved."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def rule_faults(config: dict, where: dict[str, Any]) -> Iterator[str]:
    """Yield values that the rules do not accept, and keys that no YAML has."""
    for path, value in leaves(config):
        rule = rules.rule(path, **where)
        if path in RENAMED:
            yield f"{path}={_show(value)}: is {RENAMED[path]} now"
        elif rule and not rule.accepts(value):
            yield f"{path}={_show(value)}: must be {rule.says}"
        elif rule and not _inside_target(config, path) and (others := _elsewhere(path, where)):
            group = path.split(".")[0]
            lacks = f"{group}={where['choices'][group]} has no such key"
            yield f"{path}={_show(value)}: {lacks}; it is one of {', '.join(others)}"
        elif not rule and not _inside_target(config, path):
            near = did_you_mean(path, rules.paths(where["folders"]))
            yield f"{path}={_show(value)}: no such key{near}"


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


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def conflicts(config: dict) -> Iterator[str]:
    """Yield a line for each pair of incompatible values, naming the one to change."""
    data, model, reg = config["data"], config["model"], config["regularization"]
    optimizer, scheduler, training = config["optimizer"], config["scheduler"], config["training"]
    name, kind, task = data["name"], data["kind"], data["task"]

    if kind not in model["inputs"]:
        reads = f"reads {' or '.join(model['inputs'])}, and data={name} is {kind}"
        yield f"model={model['name']}: {reads}; choose another model"
    yield from metric_faults(config)
    yield from loss_faults(config)
    if scheduler.get("monitor") and scheduler["interval"] != "epoch":
        yield "scheduler.interval=step: the metric is measured once an epoch; use epoch"

    yield from target_faults(data)

    smoothing, mixing, l2 = reg["label_smoothing"], reg["mixup"], reg["l2"]
    if task != "classification" and smoothing:
        needs = f"needs classes, and {name} is a {task}; set it to 0"
        yield f"regularization.label_smoothing={smoothing}: {needs}"
    if task != "classification" and (sampler := training["sampler"]) == "balanced":
        needs = f"needs classes, and {name} is a {task}; use shuffle"
        yield f"training.sampler={sampler}: {needs}"
    if kind == "text" and mixing:
        yield f"regularization.mixup={mixing}: cannot mix words; set it to 0 for text"
    if l2 is not None and "weight_decay" not in optimizer:
        lacks = f"{optimizer['_target_']} takes no weight decay"
        yield f"regularization.l2={l2}: {lacks}; choose another optimizer, or l2=null"
    elif l2 is not None and l2 != optimizer["weight_decay"]:
        other = f"optimizer.weight_decay={optimizer['weight_decay']}"
        yield f"regularization.l2={l2}: and {other} are the same knob; set one of them"
    if "heads" in model and (dim := model["embedding_dim"]) % model["heads"]:
        yield f"model.heads={model['heads']}: must divide model.embedding_dim={dim}"

    if public(config["name"]) != config["name"]:
        yield "name=<hidden>: holds a secret, and names folders and logs; choose another"
    if (val := data.get("val", 0)) + (test := data.get("test", 0)) >= 1:
        yield f"data.val={val}: with data.test={test} nothing is left to train on"
    path = config["init"].get("path")
    if path and not Path(path).is_file():
        yield f"init.path={path}: no such file"
    if (count := training["gradient_accumulation_steps"]) > (size := training["batch_size"]):
        more = f"more microbatches than training.batch_size={size} examples"
        yield f"training.gradient_accumulation_steps={count}: {more}"
    yield from member_conflicts(training, optimizer["_target_"])
    tracking = config["tracking"]
    yield from targets.resolve("tracking", tracking["_target_"]).faults(tracking)


def target_faults(data: dict) -> Iterator[str]:
    """Yield a line for targets that contradict each other, the task, or what is left out."""
    target, task, weight = data.get("target"), data["task"], data.get("weight")
    names = target if isinstance(target, list) else [target]
    given = f"data.target={_show(target)}".replace("'", "")
    if isinstance(target, list):
        if len(names) < 2:
            yield f"{given}: a list is of two columns or more; one is data.target=COLUMN"
        elif task == "classification":
            many = "data.task=multilabel takes several columns of 0 and 1, regression of numbers"
            yield f"{given}: a classification has one target; {many}"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{given}: {name} twice; name each column once"
    elif task == "multilabel" and data["_target_"].startswith("knobs."):
        yield "data.task=multilabel: needs a list of columns of 0 and 1: data=csv data.target=[A,B]"
    for name in names:
        if name is not None and name in data.get("drop", ()):
            yield f"data.drop={name}: is a target; take it out of data.drop or of data.target"
    if weight is not None and weight in [*names, data.get("text"), data.get("label")]:
        yield f"data.weight={weight}: has another part already; choose a column of weights"


def metric_faults(config: dict) -> Iterator[str]:
    """Yield metrics that the task does not have, and metrics of one's own that cannot be."""
    task, section = config["data"]["task"], config["metrics"]
    own = section.get("own") or {}
    has = [*metrics.of(task), *(f"val/{name}" for name in own)]
    for path, metric in metrics.watched(config).items():
        if metric not in has:
            near = did_you_mean(metric, has)
            yield f"{path}={metric}: a {task} run has {', '.join(has)}{near}"
    names = [metric.removeprefix("val/") for metric in has]
    for name in section["extra"]:
        if name not in names:
            near = did_you_mean(name, names)
            yield f"metrics.extra=[{name}]: a {task} run has {', '.join(names)}{near}"
    for name, node in own.items():
        if name in metrics.METRICS:
            yield f"metrics.own.{name}: is a metric of knobs; choose another name"
        elif not isinstance(node, dict) or "_target_" not in node:
            yield f"metrics.own.{name}: needs _target_, a function of (outputs, targets), and mode"
        elif node.get("mode") not in ("min", "max"):
            yield f"metrics.own.{name}.mode={_show(node.get('mode'))}: must be one of min, max"
        elif not node.get("_partial_"):
            yield f"metrics.own.{name}._partial_: must be true, since knobs calls the function"


def loss_faults(config: dict) -> Iterator[str]:
    """Yield what of the loss the task, the smoothing or the weights do not fit."""
    loss, task, name = config["loss"], config["data"]["task"], config["data"]["name"]
    target = loss.get("_target_")
    called = target.rpartition(".")[2] if target else "auto"
    if task not in (fits := loss.get("tasks", metrics.TASKS)):
        fits = " or ".join(fits)
        yield f"loss={called}: is for {fits}, and {name} is a {task}; choose another, or loss=auto"
    if not target:
        return
    if not loss.get("_partial_"):
        yield "loss._partial_: must be true, since knobs calls the function"
    smoothing = config["regularization"]["label_smoothing"]
    takes = _signature(targets.resolve("loss", target)).parameters
    if smoothing and task == "classification" and "smoothing" not in takes:
        lacks = f"loss={called} takes no smoothing; set it to 0, or loss=cross_entropy"
        yield f"regularization.label_smoothing={smoothing}: {lacks}"
    weight = loss.get("weight")
    if isinstance(weight, list) and not any(weight):
        yield f"loss.weight={weight}: some class needs a weight above 0"


def member_conflicts(training: dict, optimizer: str) -> Iterator[str]:
    """Yield a line for each value that a run of several members cannot have."""
    if (count := training["members"]) == 1:
        return
    if training["compile"]:
        yield f"training.members={count}: cannot be compiled; use training.compile=false"
    mixes = optimizer == "torch.optim.LBFGS"
    if mixes or not optimizer.startswith(TREATS_WEIGHTS_ALONE):
        does = "mixes" if mixes else "may mix"
        remedy = "the members' weights; choose another optimizer"
        yield f"training.members={count}: {optimizer} {does} {remedy}"


def argument_faults(path: str, target: str, node: dict, where: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each argument that a target does not take, lacks, or takes otherwise."""
    takes = _signature(targets.resolve(path, target)).parameters
    kind = targets.kind_of(path)
    given = sorted(node.keys() - targets.own_keys(path) - {"_target_", "_partial_"})
    if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):  # else dry_build asks the target
        for name in given:
            if name not in takes:
                near = did_you_mean(name, takes)
                yield f"{path}.{name}={node[name]}: {target} takes no argument {name}{near}"
        for name, p in takes.items():
            named = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            if named and p.default is p.empty and name not in {*given, *GIVEN.get(kind, ())}:
                yield f"{path}.{name}: {target} needs it; give {path}.{name}=VALUE"
    values = schedulers.lengths(node, 1) if path.startswith("scheduler") else node
    for name in given:
        rule = name in takes and rules.of_type(takes[name].annotation)
        if rule and not rule.accepts(values[name]) and not rules.rule(f"{path}.{name}", **where):
            yield f"{path}.{name}={node[name]}: must be {rule.says}"


@functools.lru_cache(maxsize=256)
def _signature(target: Callable) -> inspect.Signature:
    return inspect.signature(target)


def norm_faults(config: dict) -> Iterator[str]:
    """Yield a line where the model's signature leaves out the normalization that is asked for."""
    target, norm = config["model"]["_target_"], config["regularization"]["norm"]
    takes = _signature(targets.resolve("model", target)).parameters
    rule = "norm" in takes and rules.of_type(takes["norm"].annotation)
    if rule and not rule.accepts(norm):
        yield f"regularization.norm={norm}: {target} takes {rule.says}"


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

    attempt("activation", lambda: build.make("activation", config["activation"])())
    if not faults and not scheme.get("_target_", "torch.").startswith("knobs."):
        attempt("init", build.initialize, config, stand_in, torch.zeros(1, 2))
    optimizer = attempt("optimizer", build.optimizer, config, stand_in)
    if optimizer is not None:
        training_mode(optimizer, True)
        optimizer.step(lambda: torch.zeros(()))  # schedules warn when they come before any step
        attempt("scheduler", build.scheduler, config, optimizer, training["epochs"])
    attempt("training.device", build.device, training["device"])
    return faults
