"""Settings of Hydra's own section that a config may choose; every other one is refused by name.

Hydra sets environment variables, makes classes and opens files as its section says, so what a
command line, a YAML of one's own or a study asks for there is held against a short list.
"""

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra import conf
from hydra._internal.config_repository import ConfigRepository
from hydra.core import utils
from omegaconf import OmegaConf

from knobs import secrets, targets
from knobs.errors import ConfigError
from knobs.identity import CONF, under, walk
from knobs.storage import make_folder, write

# Keys below `hydra` that may be set. What is behind them is judged by its value.
MAY_BE_SET = (
    *("run.dir", "sweep.dir", "sweep.subdir", "mode", "verbose", "launcher", "sweeper"),
    *("job.name", "job.chdir", "job.env_set", "job.env_copy", "searchpath", "output_subdir"),
    "callbacks",
)
# Of these, options alone are chosen: hydra/job_logging=disabled.
LOGGING = ("job_logging", "hydra_logging")
LOGGING_OPTIONS = ("knobs", "default", "disabled", "none", "stdout")
# Variables that run no code, name no file to write and send nothing elsewhere.
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"),
    *("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NCCL_DEBUG", "TOKENIZERS_PARALLELISM"),
    *("WANDB_MODE", "WANDB_SILENT", "NO_COLOR", "COLUMNS", "TZ"),
)
# Arguments of joblib's launcher that name a folder to write into, or an expression.
NOT_OF_JOBLIB = {"temp_folder": None, "pre_dispatch": "2*n_jobs"}
NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # of a log, without .log
SUBDIR = ".hydra"
DIRNAME = {"kv_sep": "=", "item_sep": ",", "exclude_keys": []}


def typed_faults(line: str, key: str, value: Any) -> Iterator[str]:
    """Yield why an override of `hydra` is refused by what it names, before Hydra reads it.

    Args:
        line: as it is to be shown.
        key: `hydra/launcher` or `hydra.launcher.width`.
        value: as Hydra parses it; None of several, each of which is judged in its job.
    """
    path = key.removeprefix("hydra").lstrip("./").replace("/", ".")
    section = path.partition(".")[0]
    if section in LOGGING:
        if key != f"hydra/{section}":
            yield f"{line}: not allowed; choose hydra/{section}={'|'.join(LOGGING_OPTIONS)}"
    elif not under(path, MAY_BE_SET):
        allowed = ", ".join(f"hydra.{name}" for name in MAY_BE_SET)
        yield f"{line}: not allowed; of hydra a config may set {allowed}"
    for kind in ("env_set", "env_copy"):
        if under(path, (f"job.{kind}",)):
            named = path.removeprefix(f"job.{kind}").lstrip(".")
            names = [named] if named and not named.isdecimal() else value
            names = names if isinstance(names, list | dict | None) else [names]
            yield from _variables({kind: names})


def faults(config: dict) -> Iterator[str]:
    """Yield what a resolved config's `hydra` node asks for and may not, wherever it was said."""
    hydra = config.get("hydra")
    if not hydra:
        return
    job = hydra.get("job") or {}
    yield from _variables(job)
    places = {key: (hydra.get(key) or {}).get("dir") for key in ("run", "sweep")}
    told = secrets.public(places | {"name": config.get("name")})
    if told["name"] == config.get("name"):  # whose secret is told elsewhere
        for key in (key for key, place in places.items() if told[key] != place):
            yield f"hydra.{key}.dir={secrets.HIDDEN}: holds a secret, and names a folder"
    name, subdir = job.get("name"), hydra.get("output_subdir", SUBDIR)
    if name is not None and not NAME.fullmatch(str(name)):
        yield f"hydra.job.name={name}: must be a name of letters, digits, ., - and _"
    if subdir not in (None, SUBDIR):
        yield f"hydra.output_subdir={subdir}: must be {SUBDIR} or null"
    if (node := (job.get("config") or {}).get("override_dirname", DIRNAME)) != DIRNAME:
        yield f"hydra.job.config.override_dirname={node}: not allowed; leave it out"
    for kind in LOGGING:
        yield from _logging(kind, hydra)
    for path, target, _ in targets.targets({"callbacks": hydra.get("callbacks") or {}}):
        if isinstance(target, str) and targets.admits(target) and not targets.own(target):
            ours = "of one's own alone, which KNOBS_ALLOW admits"
            yield f"hydra.{path}._target_={target}: not allowed; callbacks are {ours}"
    launcher, sweeper = hydra.get("launcher") or {}, hydra.get("sweeper") or {}
    if "joblib" in str(launcher.get("_target_")):
        for key, default in NOT_OF_JOBLIB.items():
            if launcher.get(key, default) != default:
                yield f"hydra.launcher.{key}={launcher[key]}: not allowed; leave it out"
    for key in sweeper.get("params") or {}:
        if under(str(key).lstrip("+~").replace("/", "."), ("hydra",)):
            yield f"hydra.sweeper.params.{key}: not allowed; a grid varies no key of hydra"


def name_faults(section: dict) -> Iterator[str]:
    """Yield a line where a name that a folder's is made of leads out of its place.

    Args:
        section: the config's `name`, or a section that has one.
    """
    for key, node in section.items():
        path, name = (f"{key}.name", node.get("name")) if isinstance(node, dict) else (key, node)
        if ".." in re.split(r"[/\\]", str(name)):
            yield f"{path}={name}: the run's folder is named by it; leave out `..`"


def _variables(job: dict) -> Iterator[str]:
    """Yield the environment variables that a config may not set, or copy into its record."""
    for key in ("env_set", "env_copy"):
        for name in map(str, job.get(key) or ()):
            if name == "KNOBS_ALLOW":
                yield f"hydra.job.{key}.{name}: a config cannot admit code; export it instead"
            elif name not in VARIABLES:
                may = f"a config may set {', '.join(VARIABLES)}; export others yourself"
                yield f"hydra.job.{key}.{name}: not allowed; {may}"


def _logging(kind: str, hydra: dict) -> Iterator[str]:
    """Yield a line where a logging section is not that of one of the known options.

    Python's logging makes whatever class it names, and opens whatever file.
    """
    node = hydra.get(kind)
    folder, name = (hydra.get("runtime") or {}).get("output_dir"), hydra["job"].get("name")
    filled = {"${hydra.runtime.output_dir}": str(folder), "${hydra.job.name}": str(name)}
    if node is None or any(node == _filled(known, filled) for known in _known(kind)):
        return
    odd = next((p for p, v in walk(node) if p[-1:] in (("class",), ("()",), ("filename",))), ())
    field = ".".join(map(str, ("hydra", kind, *odd)))
    yield f"{field}: not allowed; choose hydra/{kind}={'|'.join(LOGGING_OPTIONS)}"


def _filled(node: Any, words: dict[str, str]) -> Any:
    """Return plain data with words replaced in every text."""
    if isinstance(node, dict):
        return {key: _filled(child, words) for key, child in node.items()}
    if isinstance(node, list):
        return [_filled(child, words) for child in node]
    for word, value in words.items() if isinstance(node, str) else ():
        node = node.replace(word, value)
    return node


@functools.cache
def _known(kind: str) -> list[dict]:
    """Return the contents of the logging options of conf/ and of Hydra."""
    places = (CONF / "hydra" / kind, Path(conf.__file__).parent / "hydra" / kind)
    files = (place / f"{name}.yaml" for place in places for name in LOGGING_OPTIONS)
    return [yaml.safe_load(file.read_text()) for file in files if os.path.isfile(file)]


def without_secrets(config: Any) -> Any:
    """Return a composed config as files may hold it; itself where it tells no secret."""
    plain = OmegaConf.to_container(config, resolve=False)
    told = secrets.public(plain)
    return config if told == plain else OmegaConf.create(told)


def write_without_secrets() -> None:
    """Let Hydra write `.hydra/` as knobs writes its files: whole, through no link, no secret."""

    def save(config: Any, filename: str, output_dir: Path) -> None:
        make_folder(output_dir)
        write(output_dir / filename, OmegaConf.to_yaml(without_secrets(config)).encode())

    utils._save_config = save


def search_folders_only() -> None:
    """Let Hydra search local folders alone: of `pkg://mylab` it would import the package."""
    if getattr(ConfigRepository.initialize_sources, "folders_only", False):
        return
    whole = ConfigRepository.initialize_sources

    def initialize_sources(self: ConfigRepository, config_search_path: Any) -> None:
        for entry in config_search_path.get_path():
            asked = str(entry.provider).startswith("hydra.searchpath")
            if asked and not re.match(r"file://|(?!\w*://)", str(entry.path)):
                raise ConfigError(
                    f"hydra.searchpath={entry.path}: not allowed; must be local folders, "
                    "[file:///FOLDER]"
                )
        whole(self, config_search_path)

    initialize_sources.folders_only = True  # type: ignore[attr-defined]
    ConfigRepository.initialize_sources = initialize_sources
