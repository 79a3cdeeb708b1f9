"""From overrides to one checked config: names, types, ranges and sense, all faults at once."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from knobs import ledger, limits, resolvers, trust
from knobs.compose import Composer
from knobs.conflicts import conflicts
from knobs.errors import ConfigError, UserError
from knobs.identity import leaves
from knobs.search.plan import NOT_SEARCHED, Plan, last_of_each, root
from knobs.search.plan import plan as make_plan
from knobs.trust import did_you_mean

CONF = Path(__file__).parents[2] / "conf"
MAX_GRID = 4096  # jobs of a grid that are checked one by one before the first runs
MAX_TOLD = 8  # jobs named by number for each fault
MAX_FAULTY = 512  # and no more once so many of them have faults
MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra itself adds to the jobs of a grid
NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError)

resolvers.register()
resolvers.remember_interpolations()
_composer: Composer | None = None  # of the last command line that was checked
_checked: dict[tuple[str, ...], dict] = {}  # its jobs, resolved
_source: Path | None = None  # where its configs lie


# ------------------------------------------------------------------ compose and check
def check_overrides(
    overrides: list[str],
    config_dir: Path = CONF,
    config_name: str = "config",
    also: Path | None = None,
    grid: bool = False,
    skip: Callable[[list[str]], bool] = lambda job: False,
) -> tuple[list[dict], list[str]]:
    """Compose what the overrides ask for and look for every fault before anything runs.

    Args:
        overrides: as on the command line.
        config_dir: the folder of config_name.
        config_name: the root YAML, without its ending.
        also: a folder of further options (`--config-dir`).
        grid: whether `a=1,2` means several jobs (`--multirun`).
        skip: whether a job of the grid needs no look.

    Returns:
        The resolved plain configs, one a job, and the faults, one line each. Faults that every
        job of a grid shares are listed once; others name the overrides of their first job.
    """
    folders = [config_dir, *([also] if also else [])]
    searched = [f"hydra.searchpath=[file://{also.resolve()}]"] if also else []
    global _composer, _source
    _checked.clear()
    _source = config_dir.resolve()
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        whole = functools.partial(compose, config_name, return_hydra_config=True)
        _composer = composer = Composer(lambda lines: whole(overrides=lines), folders)
        parsed, faults = _parse(searched + overrides)
        search = is_search(overrides)
        wrong = {o.input_line: list(_override_faults(o, folders, grid, search)) for o in parsed}
        faults += [fault for found in wrong.values() for fault in found]
        parsed = [o for o in parsed if not wrong[o.input_line]]
        every: Iterable[list[str]] = [[o.input_line for o in parsed]]
        if grid and search:
            asked, more = _plan(composer, parsed, folders)
            faults += more
            every = asked.probes() if asked else []
        elif grid:
            every = itertools.filterfalse(skip, expand(parsed))
        mode = [MULTIRUN] if grid and MULTIRUN not in overrides else []
        configs, more = _check_jobs(composer, every, mode, folders)
    return configs, faults + more


def _check_jobs(
    composer: Composer, every: Iterable[list[str]], mode: list[str], folders: list[Path]
) -> tuple[list[dict], list[str]]:
    """Compose and check jobs; their configs, and each fault once with the jobs it hits."""
    jobs = list(itertools.islice(every, MAX_GRID))
    composer.expect(job + mode for job in jobs)
    configs: list[dict] = []
    found: dict[str, list[int]] = {}  # fault: the jobs it hits
    faulty = 0
    for number, job in enumerate(jobs):
        plain, faults = _compose(composer, job + mode, folders)
        if plain:
            configs.append(plain)
            _checked[ledger.job_of(job)] = plain
        for fault in faults:
            found.setdefault(fault, []).append(number)
        faulty += bool(faults)
        if faulty == MAX_FAULTY:
            break
    told = (f"  [{_which(hit, jobs)}]" if len(hit) < len(jobs) else "" for hit in found.values())
    return configs, [fault + where for fault, where in zip(found, told, strict=True)]


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a grid, as Hydra's own sweeper makes them.

    Args:
        overrides: as on the command line; `glob(*)` only while Hydra is initialized.

    Raises:
        ConfigError: one cannot be read.
    """
    parsed, faults = _parse(list(overrides))
    if faults:
        raise ConfigError("\n".join(faults))
    return list(expand(parsed))


def is_search(overrides: Iterable[str]) -> bool:
    """Whether a command line asks for a search or a study."""
    return any(line.startswith(("+study=", "hydra/sweeper=search")) for line in overrides)


def plan(overrides: Sequence[str]) -> Plan:
    """What a command line that passed check_overrides asks a search to find out.

    Raises:
        ConfigError: naming all that is wrong with it.
    """
    parsed, faults = _parse(list(overrides))
    asked, more = _plan(_composer, parsed) if not faults else (None, [])
    if asked is None:
        raise ConfigError("\n".join(faults + more))
    return asked


def _plan(
    composer: Composer, parsed: list[Override], folders: Sequence[Path] = ()
) -> tuple[Plan | None, list[str]]:
    """A search's plan and its faults."""
    single = [o for o in parsed if not o.is_sweep_override()]
    lines = [*(o.input_line for o in single), MULTIRUN]
    try:
        made = composer(lines)
        if faults := list(
            _rule_faults({"search": _raw(made.search)}, limits.where(made.hydra.runtime))
        ):
            return None, faults
        study = None
        if "study" in made:
            told = OmegaConf.to_container(made.study, resolve=False)
            own = told.get("set") if isinstance(told, dict) else None
            if isinstance(own, list) and all(isinstance(line, str) for line in own):
                lines = last_of_each([*own, *lines])  # of which its ranges may speak
                made = composer(lines)
            study = OmegaConf.to_container(made.study, resolve=True, throw_on_missing=True)
        name = next((str(o.value()) for o in single if root(o) == "study"), "search")
        return make_plan(parsed, study, name), []
    except UserError as error:
        return None, [str(error)]
    except NOT_COMPOSED as error:
        return None, _compose_without_faults(composer, lines, folders, error)[1]


def composed(overrides: Sequence[str]) -> DictConfig | None:
    """A job's config as Hydra composes it, from what the last check_overrides composed.

    Args:
        overrides: all of the job's, those of `hydra` too; a job of a grid has MULTIRUN.

    Returns:
        A config of the caller's own with its `hydra` node; None where only Hydra can say.

    Raises:
        HydraException: as Hydra's compose would.
    """
    return _composer.kept(list(overrides)) if _composer else None


def resolved(overrides: Sequence[str]) -> dict | None:
    """A job of the last check_overrides, resolved, its hydra node left out; None if it had none."""
    plain = _checked.get(ledger.job_of(overrides))
    return plain and {name: node for name, node in plain.items() if name != "hydra"}


def was_checked(config: DictConfig) -> bool:
    """Whether a composed config is of the app that the last check_overrides looked at."""
    sources = config.hydra.runtime.config_sources
    return any(s.schema == "file" and Path(s.path).resolve() == _source for s in sources)


def check(plain: dict) -> list[str]:
    """Every fault of a resolved plain config: types and ranges, arguments, and sense."""
    faults = trust.faults(plain)
    if faults:
        return faults  # what a config names is not even looked at before it is trusted
    config = {name: node for name, node in plain.items() if name not in ("hydra", "study")}
    job = HydraConfig.get() if HydraConfig.initialized() else {}
    where = limits.where(plain.get("hydra", job).get("runtime", {}))
    faults = list(_rule_faults(config, where))
    if not faults:
        faults = conflicts(config)
    from knobs import build  # late: it imports torch

    faults += [*build.argument_faults(config, where), *build.norm_faults(config)]
    return faults or build.dry_build(config)


def _rule_faults(config: dict, where: dict[str, Any]) -> Iterator[str]:
    """Values that the rules do not accept, and keys that no YAML has."""
    for path, value in leaves(config):
        rule = limits.rule(path, **where)
        if rule and not rule.accepts(value):
            yield f"{path}={_show(value)}: must be {rule.says}"
        elif not rule and not _inside_target(config, path):
            near = did_you_mean(path, limits.paths(where["folders"]))
            yield f"{path}={_show(value)}: no such key{near}"


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
    hydra = GlobalHydra.instance()
    # The loader knows the options that glob(*) means.
    loader = hydra.config_loader() if hydra.is_initialized() else None
    parser, parsed, faults = OverridesParser.create(), [], []
    for line in overrides:
        try:
            parsed.append(parser.parse_override(line))
            parsed[-1].config_loader = loader
        except HydraException as error:
            reason = str(error).splitlines()[0]
            faults.append(f"{line}: cannot be read ({reason}); write KEY=VALUE, -m goes first")
    return parsed, faults


def _override_faults(
    override: Override, folders: list[Path], grid: bool, search: bool
) -> Iterator[str]:
    """Several values for one run, and options that do not exist, with the nearest that does."""
    if override.is_sweep_override() and not grid:
        yield f"{override.input_line}: several values are a grid; put -m first"
    elif search and override.is_sweep_override() and root(override) in NOT_SEARCHED:
        yield f"{override.input_line}: no knob to search, {root(override)} has one value"
    elif override.is_interval_sweep() and not search:
        yield f"{override.input_line}: a range is searched, not listed; add hydra/sweeper=search"
    if override.key_or_group == "study" and not override.is_add():
        yield f"{override.input_line}: write +{override.input_line}"
    known = _options(override, folders)
    if override.is_delete() or not known:
        return
    values = (
        [str(v).strip("'\"") for v in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.value()]
    )
    if values == [None]:
        yield f"{override.key_or_group}=null: leave it out, or choose: {', '.join(known)}"
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


def expand(parsed: list[Override]) -> Iterator[list[str]]:
    """The jobs of a grid, one list of overrides each; of a key given twice the last one counts."""
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        if override.is_sweep_override():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            axes[key] = [override.input_line]
    return (list(job) for job in itertools.product(*axes.values()))


def _which(hit: list[int], every: list[list[str]]) -> str:
    """Jobs of a grid by their numbers, and what sets the first of them apart."""
    numbers = ", ".join(map(str, hit[:MAX_TOLD])) + (", ..." if len(hit) > MAX_TOLD else "")
    first = " ".join(o for o in every[hit[0]] if any(o not in job for job in every))
    jobs = "job" if len(hit) == 1 else "jobs"
    return f"{jobs} {numbers} of {len(every)}, the first: {first}"


def _compose(
    composer: Composer, overrides: list[str], folders: list[Path]
) -> tuple[dict | None, list[str]]:
    """One job: its resolved plain config and its faults."""
    try:
        config = composer(overrides)
    except NOT_COMPOSED as error:
        return _compose_without_faults(composer, overrides, folders, error)
    raw = _raw(config)
    unset = [path for path, value in leaves(raw) if value == "???"]
    unset = [path for path in unset if not path.startswith("hydra.")]
    if unset:
        return None, [f"{path}: has no default; give {path}=VALUE" for path in unset]
    try:
        plain = _plain(config, raw)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        return None, [f"{getattr(error, 'full_key', None) or 'config'}: {_first_line(error)}"]
    return plain, check(plain)


def _compose_without_faults(
    composer: Composer, overrides: list[str], folders: list[Path], error: Exception
) -> tuple[dict | None, list[str]]:
    """Hydra stops at the first bad override: find all of them, then check what is left."""
    parsed, faults = _parse(overrides)
    faults += [f for o in parsed for f in _override_faults(o, folders, grid=True, search=True)]
    if faults:  # of a study's YAML: those of the command line were found before
        return None, faults
    choices = [o.input_line for o in parsed if _options(o, folders)]
    try:
        base = composer(choices)
    except NOT_COMPOSED:
        return None, [_first_line(error)]
    chosen = base.hydra.runtime.choices
    with open_dict(base):
        del base["hydra"]
    known = {*limits.paths((*folders, CONF)), *_paths(base)}
    good = []
    for override in parsed:
        path = override.key_or_group.replace("/", ".")
        if override.is_add() or path.startswith("hydra") or path in known or path in base:
            good.append(override.input_line)
        else:
            near = did_you_mean(path, _paths(base)) or did_you_mean(path, base)
            faults.append(f"{override.input_line}: no such key{near}")
    if not faults:  # a key of another option of its group
        faults = [
            f"{o.input_line}: {group}={chosen[group]} has no such key"
            for o in parsed
            if not o.is_add()
            and (group := root(o)) in chosen
            and o.key_or_group != group
            and OmegaConf.select(base, o.key_or_group, default=base) is base
        ]
        return None, faults or [_first_line(error)]
    plain, more = _compose(composer, good, folders)
    return plain, faults + more


def _plain(config: DictConfig, raw: dict) -> dict:
    """Resolve everything in `raw`, with stand-ins for what Hydra fills in when a job starts.

    What no run reads stays as it is: Hydra's texts for `--help`, in a grid `hydra.run` too.
    """
    with open_dict(config):
        for section, key in (("runtime", "output_dir"), ("job", "id"), ("job", "num")):
            if OmegaConf.is_missing(config.hydra[section], key):
                config.hydra[section][key] = 0
                raw["hydra"][section][key] = config.hydra[section][key]
    unread = {"help", "hydra_help", *(["run"] if raw["hydra"]["mode"] == RunMode.MULTIRUN else [])}
    unread = {("hydra", name) for name in unread}
    places = [(path, text) for path, text in _interpolations(raw) if path[:2] not in unread]
    hydra = HydraConfig.instance()
    if any(re.search(r"hydra\s*:(?!runtime\.choices\.)", text) for _, text in places):
        hydra.set_config(config)  # copies, so that the node is seen without the config around it
    else:
        hydra.cfg = config
    try:
        for path, _ in places:
            _fill(raw, config, path)
    finally:
        hydra.cfg = None
    return raw


def _interpolations(node: Any, path: tuple = ()) -> Iterator[tuple[tuple, str]]:
    """(path, text) of every `${...}` in a plain config that is not resolved yet."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _interpolations(child, (*path, key))
    elif isinstance(node, str) and "${" in node:
        yield path, node


def _fill(plain: Any, config: Any, path: tuple) -> None:
    """Put into `plain` what the interpolation at a path of `config` stands for."""
    for key in path[:-1]:
        plain, config = plain[key], config[key]
    value = config[path[-1]]
    known = OmegaConf.is_config(value)
    plain[path[-1]] = OmegaConf.to_container(value, resolve=True) if known else value


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
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: cannot be read as YAML ({error.problem})"
    return str(error).strip().splitlines()[0]
