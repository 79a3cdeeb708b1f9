"""The words that conf/ uses inside `${...}`, beside OmegaConf's own."""

import functools
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from hydra._internal import config_loader_impl
from hydra.core import utils
from omegaconf import DictConfig, OmegaConf, base

from knobs import metrics
from knobs.identity import CONF, FILES, NOT_IDENTITY, key_of, under
from knobs.secrets import public
from knobs.shape import NAMED_WEIGHTS
from knobs.shell import literal

NAME = 60  # characters of what a run changes, in its name
UNSAFE = re.compile(r"[^\w.,+-]+", re.ASCII)  # in a file's name, on some system
PATH = re.compile(r"[/\\$~]")
NO_PART = (*NOT_IDENTITY, "task", "test")  # of a name
TITLE = ("data", "model")  # options that begin a single run's name
UNCLEAR = ("none", "default", "auto", "common")  # options that say little without their group
NUMBER = re.compile(r"[+-]?\.?\d.*")


FREE: set[str] = set()  # folders that were free when a config asked: nobody has typed their names


def _free_dir(path: str) -> str:
    """Return `path`, or `path-2`, `path-3`, ... where that folder exists already."""
    names = itertools.chain([path], (f"{path}-{i}" for i in itertools.count(2)))
    found = next(name for name in names if not os.path.exists(name))
    FREE.add(found)
    return found


def _sweep_dir(name: str | None, otherwise: str) -> str:
    """Return the folder of a named sweep, which may be there already, or a new one."""
    return f"outputs/sweeps/{name}" if name else _free_dir(f"outputs/sweeps/{otherwise}")


def title(overrides: Sequence[str], name: str, data: str, model: str) -> str:
    """Return a single run's name among many: `digits-mlp-adam-lr0.003` of optimizer=adam and more.

    Args:
        name: the config's, which counts where an override gave it.
    """
    keys = [key_of(line) for line in overrides]
    if "name" in keys:
        return name
    lines = (line for key, line in zip(keys, overrides, strict=True) if key not in TITLE)
    return "-".join(filter(None, [data, model, short_name(lines, "")]))


def short_name(overrides: Iterable[str], otherwise: str, cut: str = "") -> str:
    """Return what overrides change, in short: `adam-lr0.003-seed1` of optimizer=adam and two more.

    Options go by their names, values by the last part of their key. What is no part of a run's
    identity, what may be secret and what holds a path stay out; so does what has no room.

    Args:
        otherwise: the name where nothing is left.
        cut: added where something that tells runs apart stays out, or nothing is left.
    """
    last = {key_of(line): line.partition("=")[2] for line in overrides}
    shown = public(last)
    named = {k: _name_part(k, value) if shown[k] == value else "" for k, value in last.items()}
    name, parts = "", list(filter(None, named.values()))
    for part in parts:
        longer = f"{name}-{part}" if name else part
        if len(longer) > NAME:
            break
        name = longer
    apart = [k for k in last if not under(k, NO_PART) or under(k, FILES)]
    whole = name == "-".join(parts) and all(named[key] for key in apart)
    return (name or otherwise) + ("" if name and whole else cut)


def _name_part(key: str, value: str) -> str:
    if under(key, NO_PART) or not value or PATH.search(value):
        return ""
    value = UNSAFE.sub("_", re.sub(r"[\s\[\]{}'\"]", "", value)).lstrip("_").rstrip("._-")
    group, _, rest = key.partition(".")
    if not rest and os.path.isdir(CONF / group):  # an option
        plain = _options()[value] == 1 and value not in UNCLEAR
        return value if plain else f"{group}_{value}"
    separator = "" if NUMBER.fullmatch(value) else "_"
    return UNSAFE.sub("_", f"{key.rpartition('.')[2]}{separator}{value}")


@functools.cache
def _options() -> Counter:
    """Count the groups that have an option of a name: none, default and linear are in several."""
    return Counter(path.stem for path in CONF.glob("*/*.yaml"))


def _l2(default: float, *, _root_: DictConfig) -> float:
    """Return regularization.l2 where it is set, else the optimizer's own default."""
    l2 = OmegaConf.select(_root_, "regularization.l2")
    return default if l2 is None else l2


def _objective_mode(metric: str, *, _root_: DictConfig) -> str:
    """Return max or min for a metric: that of metrics.own where it stands there."""
    own = OmegaConf.select(_root_, f"metrics.own.{metric.rpartition('/')[2]}.mode")
    return own or metrics.mode_of(metric)


def _objective_rare(share: float, *, _root_: DictConfig) -> float:
    """Return the share; 0 where a metric is given, or the task has no classes."""
    stated = OmegaConf.to_container(_root_.objective, resolve=False)["metric"]
    classes = OmegaConf.select(_root_, "data.task") == metrics.CLASSES
    return share if classes and str(stated).startswith("${objective_metric:") else 0.0


def _zero_head(*, _root_: DictConfig) -> bool:
    """Return whether a run starts at the constant prediction: see training.zero_head.

    Not with an init that was chosen: it fills the last layer as it says.
    """
    if OmegaConf.select(_root_, "init._target_") is not None:
        return False
    linear = OmegaConf.select(_root_, "model._target_") == "knobs.models.mlp.linear"
    return linear or OmegaConf.select(_root_, "data.task") == "regression"


def _statistics(*, _root_: DictConfig) -> str | None:
    """Return the weights whose statistics prepare pictures; None where the training split's do.

    `torchvision/resnet50/DEFAULT`; a file of weights has those of its architecture's best.
    """
    if OmegaConf.select(_root_, "data.normalize") != "weights":
        return None
    architecture = OmegaConf.select(_root_, "model.architecture")
    weights = OmegaConf.select(_root_, "model.weights")
    if not architecture or not weights:
        return None  # which conflicts.py says
    weights = weights if NAMED_WEIGHTS.fullmatch(str(weights)) else "DEFAULT"
    library = str(OmegaConf.select(_root_, "model._target_")).rpartition(".")[2]
    return f"{library}/{architecture}/{weights}"


def _tokenizer(*, _root_: DictConfig) -> str | None:
    """Return the folder of a network whose own tokenizer reads texts; None: words are read."""
    return OmegaConf.select(_root_, "model.folder")


def _image_size(usual: int, *, _root_: DictConfig) -> int | str:
    """Return the size of pictures: `weights` where theirs is asked for."""
    return "weights" if OmegaConf.select(_root_, "data.normalize") == "weights" else usual


# Resolver -> last parts of the keys that it looks up itself. Jobs of a grid that differ there are
# not alike, as with those that a `${...}` names.
READS = {
    "l2": {"l2"},
    "objective_mode": {"mode"},
    "objective_rare": {"metric", "task"},
    "zero_head": {"_target_", "task"},
    "statistics": {"normalize", "architecture", "weights", "_target_"},
    "image_size": {"normalize"},
    "tokenizer": {"folder"},
}


def register() -> None:
    """Teach OmegaConf the words that conf/ uses; harmless when repeated."""
    for name, function, cached in (
        ("free_dir", _free_dir, True),
        ("sweep_dir", _sweep_dir, True),
        ("short_name", short_name, False),
        ("l2", _l2, False),
        ("scale", lambda value, factor: float(f"{value * factor:.12g}"), False),
        ("data_root", lambda: os.environ.get("KNOBS_DATA", "data"), False),
        ("objective_metric", lambda task: metrics.DEFAULT.get(task, "val/accuracy"), False),
        ("objective_mode", _objective_mode, False),
        ("objective_rare", _objective_rare, False),
        ("zero_head", _zero_head, False),
        ("statistics", _statistics, False),
        ("image_size", _image_size, False),
        ("tokenizer", _tokenizer, False),
    ):
        OmegaConf.register_new_resolver(name, function, use_cache=cached, replace=True)


def keep_folders_literal() -> None:
    r"""Let Hydra write down folders as they are named: a `${x}` in a name is no interpolation.

    It puts the working directory and the run's folder into the config as they are, where OmegaConf
    would look up what they name; `\${` is what it reads as `${`.
    """
    path = SimpleNamespace(**vars(os.path) | {"abspath": lambda p: literal(os.path.abspath(p))})
    utils.os = SimpleNamespace(**vars(os) | {"path": path})
    config_loader_impl.os = SimpleNamespace(**vars(os) | {"getcwd": lambda: literal(os.getcwd())})


def remember_interpolations() -> None:
    """Let OmegaConf parse each `${...}` once; a grid resolves the same few thousands of times."""
    if not hasattr(base.parse, "cache_info"):
        base.parse = functools.lru_cache(maxsize=4096)(base.parse)
