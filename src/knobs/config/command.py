"""A command line -> checked jobs: everything it asks for is composed before anything runs."""

import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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

from knobs.config import resolvers, rules
from knobs.config.check import check, resolve, rule_faults
from knobs.config.compose import Composer
from knobs.config.question import NOT_SEARCHED, Plan, last_of_each, root
from knobs.config.question import plan as make_plan
from knobs.config.rules import CONF
from knobs.errors import ConfigError, UserError, did_you_mean, first_line
from knobs.identity import job_of, leaves, walk

MAX_GRID = 4096  # jobs of a grid each of which is checked before the first runs
MAX_TOLD = 8  # jobs named by number for each fault
MAX_FAULTY = 512  # and no more once so many of them have faults
MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra itself adds to the jobs of a grid
NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError)

resolvers.register()
resolvers.remember_interpolations()


@dataclass
class Checked:
    """The configs of one command line, composed and checked; its sweep need not do it again.

    Args:
        composer: of its configs; None before there was a command line.
        source: the folder of its configs.
        jobs: its jobs, resolved.
    """

    composer: Composer | None = None
    source: Path | None = None
    jobs: dict[tuple[str, ...], dict] = field(default_factory=dict)

    def covers(self, composed: DictConfig) -> bool:
        """Return whether a composed config is of the app whose command line was checked."""
        sources = composed.hydra.runtime.config_sources
        return any(s.schema == "file" and Path(s.path).resolve() == self.source for s in sources)

    def compose(self, overrides: Sequence[str]) -> DictConfig | None:
        """Return a job's config from what was composed before; None where only Hydra can say.

        Args:
            overrides: all of the job's, those of `hydra` too; a job of a grid has MULTIRUN.

        Raises:
            HydraException: as Hydra's compose would.
        """
        return self.composer.kept(list(overrides)) if self.composer else None

    def resolved(self, overrides: Sequence[str]) -> dict | None:
        """Return a job, resolved, its hydra node left out; None if it was not checked."""
        config = self.jobs.get(job_of(overrides))
        return config and {name: node for name, node in config.items() if name != "hydra"}


# Of the last command line: Hydra makes the sweeper and the launcher, which look here.
LAST = Checked()


def check_overrides(
    overrides: list[str],
    folders: Sequence[Path] = (CONF,),
    config_name: str = "config",
    grid: bool = False,
    skip: Callable[[list[str]], bool] = lambda job: False,
) -> tuple[list[dict], list[str]]:
    """Compose what the overrides ask for and look for every fault before anything runs.

    Args:
        overrides: as on the command line.
        folders: that of config_name, then one of further options (`--config-dir`).
        config_name: the root YAML, without its ending.
        grid: whether `a=1,2` means several jobs (`--multirun`).
        skip: whether a job of the grid needs no look.

    Returns:
        The resolved configs, one a job, and the faults, one line each. Faults that every
        job of a grid shares are listed once; others name the overrides of their first job.
    """
    source, *others = folders = [folder.resolve() for folder in folders]
    searched = [f"hydra.searchpath=[file://{folder}]" for folder in others]
    with initialize_config_dir(str(source), version_base="1.3"):
        whole = functools.partial(compose, config_name, return_hydra_config=True)
        composer = Composer(lambda lines: whole(overrides=lines), folders)
        LAST.composer, LAST.source, LAST.jobs = composer, source, {}
        parsed, faults = _parse(searched + overrides)
        search = is_search(overrides)
        wrong = {o.input_line: [*_override_faults(o, folders, grid, search)] for o in parsed}
        faults += itertools.chain(*wrong.values())
        parsed = [o for o in parsed if not wrong[o.input_line]]
        every: Iterable[list[str]] = [[o.input_line for o in parsed]]
        if grid and search:
            asked, more = _plan(composer, parsed)
            faults += more
            every = asked.probes() if asked else []
        elif grid:
            every = itertools.filterfalse(skip, expand(parsed))
        mode = [MULTIRUN] if grid and MULTIRUN not in overrides else []
        configs, more = _check_jobs(composer, every, mode)
    return configs, faults + more


def _check_jobs(
    composer: Composer, every: Iterable[list[str]], mode: list[str]
) -> tuple[list[dict], list[str]]:
    """Compose and check jobs; return their configs, and each fault once with the jobs it hits."""
    jobs = list(itertools.islice(every, MAX_GRID))
    composer.expect(job + mode for job in jobs)
    configs: list[dict] = []
    hits: dict[str, list[int]] = {}  # fault: the jobs it hits
    faulty = 0
    for number, job in enumerate(jobs):
        config, faults = _compose(composer, job + mode)
        if config:
            configs.append(config)
            LAST.jobs[job_of(job)] = config
        for fault in faults:
            hits.setdefault(fault, []).append(number)
        faulty += bool(faults)
        if faulty == MAX_FAULTY:
            break
    return configs, [
        fault if len(hit) == len(jobs) else f"{fault}  [{_which(hit, jobs)}]"
        for fault, hit in hits.items()
    ]


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a grid, as Hydra's own sweeper makes them.

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
    """Return whether a command line asks for a search or a study."""
    return any(line.startswith(("+study=", "hydra/sweeper=search")) for line in overrides)


def plan(overrides: Sequence[str]) -> Plan:
    """Return what a command line that passed check_overrides asks a search to find out.

    Raises:
        ConfigError: naming all that is wrong with it.
    """
    parsed, faults = _parse(list(overrides))
    asked, more = _plan(LAST.composer, parsed) if not faults else (None, [])
    if asked is None:
        raise ConfigError("\n".join(faults + more))
    return asked


def _plan(composer: Composer, parsed: list[Override]) -> tuple[Plan | None, list[str]]:
    """Return a search's plan and its faults."""
    single = [o for o in parsed if not o.is_sweep_override()]
    lines = [*(o.input_line for o in single), MULTIRUN]
    try:
        config = composer(lines)
        where = rules.where(config.hydra.runtime)
        if faults := list(rule_faults({"search": _raw(config.search)}, where)):
            return None, faults
        study = None
        if "study" in config:
            node = _raw(config.study)
            common = node.get("set") if isinstance(node, dict) else None
            if isinstance(common, list) and all(isinstance(line, str) for line in common):
                lines = last_of_each([*common, *lines])  # of which its ranges may speak
                config = composer(lines)
            study = resolve(config.study)
        name = next((str(o.value()) for o in single if root(o) == "study"), "search")
        return make_plan(parsed, study, name), []
    except UserError as error:
        return None, [str(error)]
    except NOT_COMPOSED as error:
        return None, _compose_without_faults(composer, lines, error)[1]


def checked(overrides: list[str]) -> dict:
    """Return one checked config, for use from Python.

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
            reason = first_line(error)
            faults.append(f"{line}: cannot be read ({reason}); write KEY=VALUE, -m goes first")
    return parsed, faults


def _override_faults(
    override: Override, folders: list[Path], grid: bool, search: bool
) -> Iterator[str]:
    """Yield faults: several values for one run, options that do not exist."""
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
    values = [override.value()]
    if override.is_sweep_override():
        values = [str(v).strip("'\"") for v in override.sweep_string_iterator()]
    if values == [None]:
        yield f"{override.key_or_group}=null: leave it out, or choose: {', '.join(known)}"
    for value in values:
        missing = value not in known and value is not None and isinstance(value, str | int | float)
        if missing and not override.key_or_group.startswith("hydra"):
            near = did_you_mean(str(value), known)
            options = f"{near or ';'} options: {', '.join(known)}"
            yield f"{override.key_or_group}={value}: no such option{options}"


def _options(override: Override, folders: list[Path]) -> list[str]:
    """Return the options that an override chooses from; none where it sets a value."""
    group = override.key_or_group.replace(".", "/")
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def expand(parsed: list[Override]) -> Iterator[list[str]]:
    """Yield the jobs of a grid, a list of overrides each; of a key given twice the last counts."""
    axes: dict[str, list[str]] = {}
    for override in parsed:
        key, several = override.get_key_element(), override.is_sweep_override()
        values = override.sweep_string_iterator() if several else ()
        axes[key] = [f"{key}={value}" for value in values] if several else [override.input_line]
    return (list(job) for job in itertools.product(*axes.values()))


def _which(hit: list[int], every: list[list[str]]) -> str:
    """Name jobs of a grid by their numbers, and what sets the first of them apart."""
    numbers = ", ".join(map(str, hit[:MAX_TOLD])) + (", ..." if len(hit) > MAX_TOLD else "")
    first = " ".join(o for o in every[hit[0]] if any(o not in job for job in every))
    jobs = "job" if len(hit) == 1 else "jobs"
    return f"{jobs} {numbers} of {len(every)}, the first: {first}"


def _compose(composer: Composer, overrides: list[str]) -> tuple[dict | None, list[str]]:
    """Return one job's resolved config and its faults."""
    try:
        composed = composer(overrides)
    except NOT_COMPOSED as error:
        return _compose_without_faults(composer, overrides, error)
    raw = _raw(composed)
    unset = [path for path, value in leaves(raw) if value == "???"]
    unset = [path for path in unset if not path.startswith("hydra.")]
    if unset:
        return None, [f"{path}: has no default; give {path}=VALUE" for path in unset]
    try:
        config = _resolve(composed, raw)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        return None, [f"{getattr(error, 'full_key', None) or 'config'}: {_reason(error)}"]
    return config, check(config)


def _compose_without_faults(
    composer: Composer, overrides: list[str], error: Exception
) -> tuple[dict | None, list[str]]:
    """Find all bad overrides, where Hydra stops at the first one; check what is left."""
    parsed, faults = _parse(overrides)
    folders = composer.folders
    faults += [f for o in parsed for f in _override_faults(o, folders, grid=True, search=True)]
    if faults:  # of a study's YAML: those of the command line were found before
        return None, faults
    try:
        base = composer([o.input_line for o in parsed if _options(o, folders)])
    except NOT_COMPOSED:
        return None, [_reason(error)]
    chosen = base.hydra.runtime.choices
    with open_dict(base):
        del base["hydra"]
    paths = [path for path, _ in leaves(_raw(base)) if "._" not in path]
    good = []
    for override in parsed:
        path = override.key_or_group.replace("/", ".")
        free = override.is_add() or root(override) == "hydra"
        if free or path in {*rules.paths((*folders, CONF)), *paths, *base}:
            good.append(override.input_line)
        else:
            near = did_you_mean(path, [*paths, *base])
            faults.append(f"{override.input_line}: no such key{near}")
    if not faults:  # a key of another option of its group
        faults = [
            f"{o.input_line}: {root(o)}={chosen[root(o)]} has no such key"
            for o in parsed
            if not o.is_add() and root(o) in chosen and o.key_or_group != root(o)
            if OmegaConf.select(base, o.key_or_group, default=base) is base
        ]
        return None, faults or [_reason(error)]
    config, more = _compose(composer, good)
    return config, faults + more


def _resolve(composed: DictConfig, raw: dict) -> dict:
    """Resolve everything in `raw`, with stand-ins for what Hydra fills in when a job starts.

    What no run reads stays as it is: Hydra's texts for `--help`, in a grid `hydra.run` too.
    """
    with open_dict(composed):
        for section, key in (("runtime", "output_dir"), ("job", "id"), ("job", "num")):
            if OmegaConf.is_missing(composed.hydra[section], key):
                composed.hydra[section][key] = 0
                raw["hydra"][section][key] = composed.hydra[section][key]
    unread = {"help", "hydra_help", *(["run"] if raw["hydra"]["mode"] == RunMode.MULTIRUN else [])}
    unread = {("hydra", name) for name in unread}
    places = [
        (path, node)
        for path, node in walk(raw)
        if isinstance(node, str) and "${" in node and path[:2] not in unread
    ]
    hydra = HydraConfig.instance()
    if any(re.search(r"hydra\s*:(?!runtime\.choices\.)", text) for _, text in places):
        hydra.set_config(composed)  # copies, so that the node is seen without what is around it
    else:
        hydra.cfg = composed
    try:
        for (*sections, key), _ in places:
            value = functools.reduce(operator.getitem, sections, composed)[key]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
            functools.reduce(operator.getitem, sections, raw)[key] = value
    finally:
        hydra.cfg = None
    return raw


def _raw(config: DictConfig) -> dict:
    return OmegaConf.to_container(config, resolve=False)


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: cannot be read as YAML ({error.problem})"
    return first_line(error)
