"""From overrides to one checked config: names, types, ranges and sense, all faults at once."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from knobs import trust
from knobs.conflicts import conflicts
from knobs.errors import ConfigError
from knobs.identity import leaves
from knobs.limits import RULES
from knobs.trust import did_you_mean

CONF = Path(__file__).parents[2] / "conf"
RISING = ("accuracy", "f1", "r2")  # of these more is better, of every other metric less
MAX_GRID = 512  # jobs of a grid that are checked one by one before the first runs


# ------------------------------------------------------------------ words for the YAML files
def _free_dir(path: str) -> str:
    """`path`, or `path-2`, `path-3`, ... where that folder exists already."""
    names = itertools.chain([path], (f"{path}-{i}" for i in itertools.count(2)))
    return next(name for name in names if not Path(name).exists())


def _l2(default: float, *, _root_: DictConfig) -> float:
    """regularization.l2 where it is set, else the optimizer's own default."""
    l2 = OmegaConf.select(_root_, "regularization.l2")
    return default if l2 is None else l2


def _objective_metric(task: str) -> str:
    return "val/r2" if task == "regression" else "val/accuracy"


def _objective_mode(metric: str) -> str:
    return "max" if metric.split("/")[-1] in RISING else "min"


def register_resolvers() -> None:
    """Teach OmegaConf the words that conf/ uses; harmless when repeated."""
    for name, function, cached in (
        ("free_dir", _free_dir, True),
        ("l2", _l2, False),
        ("scale", lambda value, factor: value * factor, False),
        ("data_root", lambda: os.environ.get("KNOBS_DATA", "data"), False),
        ("objective_metric", _objective_metric, False),
        ("objective_mode", _objective_mode, False),
    ):
        OmegaConf.register_new_resolver(name, function, use_cache=cached, replace=True)


register_resolvers()


# ------------------------------------------------------------------ compose and check
def check_overrides(
    overrides: list[str],
    config_dir: Path = CONF,
    config_name: str = "config",
    also: Path | None = None,
    grid: bool = False,
) -> tuple[list[dict], list[str]]:
    """Compose what the overrides ask for and look for every fault before anything runs.

    Args:
        overrides: as on the command line.
        config_dir: the folder of config_name.
        config_name: the root YAML, without its ending.
        also: a folder of further options (`--config-dir`).
        grid: whether `a=1,2` means several jobs (`--multirun`).

    Returns:
        The resolved plain configs, one a job, and the faults, one line each. Faults that every
        job of a grid shares are listed once; others name the overrides of their first job.
    """
    folders = [config_dir, *([also] if also else [])]
    searched = [f"hydra.searchpath=[file://{also.resolve()}]"] if also else []
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        parsed, faults = _parse(searched + overrides)
        wrong = {o.input_line: list(_override_faults(o, folders, grid)) for o in parsed}
        faults += [fault for found in wrong.values() for fault in found]
        parsed = [o for o in parsed if not wrong[o.input_line]]
        configs: list[dict] = []
        found: dict[str, list[str]] = {}  # fault: the jobs it hits
        jobs = _expand(parsed) if grid else [[o.input_line for o in parsed]]
        for job in itertools.islice(jobs, MAX_GRID):
            plain, job_faults = _compose(config_name, job, folders)
            configs += [plain] if plain else []
            for fault in job_faults:
                found.setdefault(fault, []).append(" ".join(job))
        for fault, hit in found.items():
            some = grid and len(hit) < len(configs)
            faults.append(f"{fault}  [{len(hit)} jobs, the first: {hit[0]}]" if some else fault)
    return configs, faults


def check(plain: dict) -> list[str]:
    """Every fault of a resolved plain config: types and ranges, arguments, and sense."""
    faults = trust.faults(plain)
    if faults:
        return faults  # what a config names is not even looked at before it is trusted
    config = {name: node for name, node in plain.items() if name != "hydra"}
    for path, value in leaves(config):
        rule = RULES.get(path)
        if rule and not rule.accepts(value):
            faults.append(f"{path}={_show(value)}: must be {rule.says}")
        elif not rule and not _inside_target(config, path):
            faults.append(f"{path}={_show(value)}: no such key{did_you_mean(path, RULES)}")
    if not faults:
        faults = conflicts(config)
    from knobs import build  # late: it imports torch

    faults += build.argument_faults(config)
    return faults or build.rehearse(config)


def resolve(config: DictConfig) -> dict:
    """The plain, resolved form of a composed config."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def checked(overrides: list[str]) -> dict:
    """One config from overrides, for use from Python.

    Raises:
        ConfigError: naming every fault.
    """
    configs, faults = check_overrides(overrides)
    if faults:
        raise ConfigError("\n".join(faults))
    configs[0].pop("hydra", None)
    return configs[0]


def _parse(overrides: list[str]) -> tuple[list[Override], list[str]]:
    loader = GlobalHydra.instance().config_loader()  # which knows the options that glob(*) means
    parser, parsed, faults = OverridesParser.create(), [], []
    for line in overrides:
        try:
            parsed.append(parser.parse_override(line))
            parsed[-1].config_loader = loader
        except HydraException as error:
            reason = str(error).splitlines()[0]
            faults.append(f"{line}: cannot be read ({reason}); write KEY=VALUE, -m goes first")
    return parsed, faults


def _override_faults(override: Override, folders: list[Path], grid: bool) -> Iterator[str]:
    """Several values for one run, and options that do not exist, with the nearest that does."""
    if override.is_sweep_override() and not grid:
        yield f"{override.input_line}: several values are a grid; put -m first"
    known = _options(override, folders)
    if override.is_delete() or not known:
        return
    values = (
        [str(v).strip("'\"") for v in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.value()]
    )
    for value in values:
        missing = value not in known and value is not None and isinstance(value, str | int | float)
        if missing and not override.key_or_group.startswith("hydra"):
            near = did_you_mean(str(value), known)
            options = f"{near or ';'} options: {', '.join(known)}"
            yield f"{override.key_or_group}={value}: no such option{options}"


def _options(override: Override, folders: list[Path]) -> list[str]:
    """The options of the group that an override chooses from; none where it sets a value."""
    group = override.key_or_group.replace(".", "/")
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _expand(parsed: list[Override]) -> Iterator[list[str]]:
    """The jobs of a grid, as Hydra's own sweeper makes them."""
    axes = []
    for override in parsed:
        if override.is_sweep_override():
            key = override.get_key_element()
            axes.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            axes.append([override.input_line])
    return (list(job) for job in itertools.product(*axes))


def _compose(
    config_name: str, overrides: list[str], folders: list[Path]
) -> tuple[dict | None, list[str]]:
    """One job: its resolved plain config and its faults."""
    try:
        config = compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        return _compose_without_faults(config_name, overrides, folders, error)
    unset = [path for path, value in leaves(_raw(config)) if value == "???"]
    unset = [path for path in unset if not path.startswith("hydra.")]
    if unset:
        return None, [f"{path}: has no default; give {path}=VALUE" for path in unset]
    try:
        plain = _plain(config)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        return None, [f"{getattr(error, 'full_key', None) or 'config'}: {_first_line(error)}"]
    return plain, check(plain)


def _compose_without_faults(
    config_name: str, overrides: list[str], folders: list[Path], error: Exception
) -> tuple[dict | None, list[str]]:
    """Hydra stops at the first bad override: find all of them, then check what is left."""
    parsed, _ = _parse(overrides)
    choices = [o.input_line for o in parsed if _options(o, folders)]
    try:
        base = compose(config_name, choices)
    except (HydraException, OmegaConfBaseException):
        return None, [_first_line(error)]
    known = sorted({*RULES, *_paths(base)})
    good, faults = [], []
    for override in parsed:
        path = override.key_or_group.replace("/", ".")
        if override.is_add() or path.startswith("hydra") or path in known or path in base:
            good.append(override.input_line)
        else:
            near = did_you_mean(path, _paths(base)) or did_you_mean(path, base)
            faults.append(f"{override.input_line}: no such key{near}")
    if not faults:
        return None, [_first_line(error)]
    plain, more = _compose(config_name, good, folders)
    return plain, faults + more


def _plain(config: DictConfig) -> dict:
    """Resolve everything, with stand-ins for what Hydra fills in when a job starts."""
    with open_dict(config):
        for section, key in (("runtime", "output_dir"), ("job", "id"), ("job", "num")):
            if OmegaConf.is_missing(config.hydra[section], key):
                config.hydra[section][key] = 0
    HydraConfig.instance().set_config(config)
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    finally:
        HydraConfig.instance().cfg = None


def _paths(config: DictConfig) -> list[str]:
    return [path for path, _ in leaves(_raw(config)) if "._" not in path]


def _raw(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=False)


def _inside_target(config: dict, path: str) -> bool:
    """Whether a key stands in a node with a `_target_`, whose signature then judges it."""
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
