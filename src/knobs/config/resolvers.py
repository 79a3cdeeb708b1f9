"""The words that conf/ uses inside `${...}`, beside OmegaConf's own."""

import functools
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

from hydra._internal import config_loader_impl
from hydra.core import utils
from omegaconf import DictConfig, OmegaConf, base

from knobs import metrics
from knobs.shell import literal


def _free_dir(path: str) -> str:
    """Return `path`, or `path-2`, `path-3`, ... where that folder exists already."""
    names = itertools.chain([path], (f"{path}-{i}" for i in itertools.count(2)))
    return next(name for name in names if not Path(name).exists())


def _sweep_dir(name: str | None, otherwise: str) -> str:
    """Return the folder of a named sweep, which may be there already, or a new one."""
    return f"outputs/sweeps/{name}" if name else _free_dir(f"outputs/sweeps/{otherwise}")


def _l2(default: float, *, _root_: DictConfig) -> float:
    """Return regularization.l2 where it is set, else the optimizer's own default."""
    l2 = OmegaConf.select(_root_, "regularization.l2")
    return default if l2 is None else l2


def _objective_mode(metric: str, *, _root_: DictConfig) -> str:
    """Return max or min for a metric: that of metrics.own where it stands there."""
    own = OmegaConf.select(_root_, f"metrics.own.{metric.rpartition('/')[2]}.mode")
    return own or metrics.mode_of(metric)


def register() -> None:
    """Teach OmegaConf the words that conf/ uses; harmless when repeated."""
    for name, function, cached in (
        ("free_dir", _free_dir, True),
        ("sweep_dir", _sweep_dir, True),
        ("l2", _l2, False),
        ("scale", lambda value, factor: float(f"{value * factor:.12g}"), False),
        ("data_root", lambda: os.environ.get("KNOBS_DATA", "data"), False),
        ("objective_metric", lambda task: metrics.DEFAULT.get(task, "val/accuracy"), False),
        ("objective_mode", _objective_mode, False),
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
