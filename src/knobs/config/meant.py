"""A key that does not exist -> the one that was meant."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.core.override_parser.types import Override

from knobs.config import rules
from knobs.errors import closest
from knobs.words import listed, printable

# What people of other tools type; the first that is a key is meant.
ALSO_CALLED = {
    "learning_rate": "lr", "alpha": "lr", "lrate": "lr", "wd": "weight_decay", "bs": "batch_size",
    "batch": "batch_size", "batchsize": "batch_size", "max_epochs": "epochs", "n_epochs": "epochs",
    "num_epochs": "epochs", "hidden_size": "width", "hidden": "width", "hidden_dim": "width",
    "units": "width", "layers": "depth", "num_layers": "depth", "n_layers": "depth",
    "emb_dim": "embedding_dim", "gpu": "device", "cuda": "device", "amp": "precision",
    "patience": "early_stopping.patience", "grad_clip": "clip_norm", "clip": "clip_norm",
    "random_seed": "seed", "random_state": "seed", "dataset": "data", "opt": "optimizer",
    "optim": "optimizer", "lr_scheduler": "scheduler", "schedule": "scheduler", "network": "model",
    "arch": "model", "nonlinearity": "activation", "criterion": "loss", "num_workers": "workers",
    "project": "tracking.project", "batch_norm": "norm", "weight_init": "init",
}  # fmt: skip
# Sections whose keys are meant last where several have a key of the same name.
SELDOM = ("search", "tracking", "hydra", "data", "init", "loss")


def unknown(override: Override, known: Iterable[str], folders: Sequence[Path]) -> str:
    """Return the fault of a key that no config has, and what was meant."""
    value = override.get_value_string() if "=" in override.input_line else ""
    near = meant(override.key_or_group, value, folders, known)
    return f"{printable(override.input_line, 200)}: no such key{near}"


def meant(key: str, value: str, folders: Sequence[Path], known: Iterable[str] = ()) -> str:
    """Return `; did you mean KEY=VALUE?` for a key that does not exist; empty where none is near.

    The last part of a key counts most: `lr` is optimizer.lr, `dropout` regularization.dropout.
    """
    key = key.replace("/", ".")
    paths = list(dict.fromkeys([*known, *rules.paths((*folders, rules.CONF))]))
    groups = rules.groups(folders)
    last = key.rpartition(".")[2].lower().replace("-", "_")
    last = ALSO_CALLED.get(last, last)
    first = key.partition(".")[0]
    if "." in key and last in rules.options(first, folders):  # optimizer/adam, optimizer.adam
        return f"; did you mean {first}={last}?"
    if "." in key and (near := closest(key, paths, cutoff=0.85)) and near != key:
        return f"; did you mean {near}?"
    if last in groups or (value and (near := closest(last, groups)) and "." not in key):
        group = last if last in groups else near
        options = rules.options(group, folders)
        if group != key:
            option = value if value in options else closest(value, options) or "OPTION"
            return f"; did you mean {group}={option}?"
    same = sorted(
        (path for path in paths if path == last or path.endswith(f".{last}")),
        key=lambda path: (path.split(".")[0] in SELDOM, -_alike(key, path), path.count("."), path),
    )
    if same and (same[0] != key):
        more = [path for path in same[1:] if path.split(".")[0] not in SELDOM]
        return f"; did you mean {listed([same[0], *more], 3).replace(' and ', ' or ')}?"
    for group in groups:
        if key in rules.options(group, folders):
            return f"; did you mean {group}={key}?"
    tops = [path for path in paths if "." not in path]
    if "." in key:
        if near := closest(key, paths):
            return f"; did you mean {near}?"
        section = [path for path in paths if path.startswith(key.split(".")[0] + ".")]
        lasts = {path.rpartition(".")[2]: path for path in [*reversed(paths), *section]}
    else:
        lasts = {path.rpartition(".")[2]: path for path in reversed(paths)} | {t: t for t in tops}
    lasts = {name: path for name, path in lasts.items() if not path.startswith("search.")}
    near = closest(last, lasts, cutoff=0.78)
    return f"; did you mean {lasts[near]}?" if near else ""


def _alike(key: str, path: str) -> int:
    """Count the sections that two keys have in common."""
    return len({*key.split(".")[:-1]} & {*path.split(".")[:-1]})
