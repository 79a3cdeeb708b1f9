"""A command line -> checked jobs: everything it asks for is composed before anything runs."""

import contextlib
import functools
import itertools
import operator
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from knobs import secrets
from knobs.config import combinations, copies, hydra_settings, meant, overrides, resolvers, rules
from knobs.config.check import check, rule_faults
from knobs.config.compose import Alike, Composer
from knobs.config.question import Plan, last_of_each, root
from knobs.config.question import plan as make_plan
from knobs.config.rules import CONF
from knobs.errors import ConfigError, UserError, reason
from knobs.identity import job_of, key_of, leaves, under, walk

MAX_TOLD = 8  # jobs named by number for each fault
MAX_FAULTY = 512  # jobs with faults; no further ones are looked for
TELL_SECONDS = 2.0  # between lines about the check of a large grid
MULTIRUN = "hydra.mode=MULTIRUN"  # what Hydra itself adds to the jobs of a grid
NOT_COMPOSED = (HydraException, OmegaConfBaseException, yaml.YAMLError)

resolvers.register()
resolvers.keep_folders_literal()
resolvers.remember_interpolations()
hydra_settings.search_folders_only()
hydra_settings.write_without_secrets()


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
    lines: list[str],
    folders: Sequence[Path] = (CONF,),
    config_name: str = "config",
    grid: bool = False,
    skip: Callable[[list[str]], bool] = lambda job: False,
) -> tuple[list[dict], list[str]]:
    """Compose what the overrides ask for and look for every fault before anything runs.

    Args:
        lines: overrides as on the command line.
        folders: that of config_name, then one of further options (`--config-dir`).
        config_name: the root YAML, without its ending.
        grid: whether `a=1,2` means several jobs (`--multirun`).
        skip: whether a job of the grid needs no look.

    Returns:
        The resolved configs, one a job, and the faults, one line each. Faults that every
        job of a grid shares are listed once; others name the overrides of their first job.
    """
    if leaks := list(secrets.in_lines(lines)):
        return [], leaks  # alone: others might show them
    folders = [folder.resolve() for folder in folders]
    with _composer(folders, config_name) as composer:
        parsed, faults = overrides.parse(lines)
        search, given = is_search(lines), {o.key_or_group for o in parsed}
        wrong = {
            o.input_line: [*overrides.faults_of(o, folders, grid, search, given)] for o in parsed
        }
        faults += itertools.chain(*wrong.values())
        parsed = [o for o in parsed if not wrong[o.input_line]]
        if search and faults:  # what is left may be no question
            return [], faults
        every, more = _jobs(parsed, grid, search, composer, skip)
        mode = [MULTIRUN] if grid and MULTIRUN not in lines else []
        configs, rest = _check_jobs(composer, every, mode)
    return configs, [*faults, *more, *rest]


def check_jobs(
    jobs: list[list[str]], folders: Sequence[Path] = (CONF,), config_name: str = "config"
) -> list[str]:
    """Compose and check jobs that another process has composed already; return their faults.

    Args:
        jobs: overrides of each, those of `hydra` too.
        folders, config_name: as check_overrides takes them.
    """
    with _composer(folders, config_name) as composer:
        return _check_jobs(composer, jobs, [MULTIRUN])[1]


@contextlib.contextmanager
def _composer(folders: Sequence[Path], config_name: str) -> Iterator[Composer]:
    """Make what composes the configs of a command line, for it and for its sweep."""
    source, *others = folders = [folder.resolve() for folder in folders]
    searched = [f"hydra.searchpath=[file://{folder}]" for folder in others]
    with initialize_config_dir(str(source), version_base="1.3"):
        composer = Composer(functools.partial(_whole, config_name, searched), folders)
        LAST.composer, LAST.source, LAST.jobs = composer, source, {}
        yield composer


def _whole(config_name: str, searched: list[str], lines: list[str]) -> DictConfig:
    """Compose as Hydra does; whatever it cannot make of odd values is a HydraException."""
    own = [line for line in lines if not line.startswith("hydra.searchpath=")]
    if len(own) < len(lines) and searched:
        raise ConfigError("hydra.searchpath: beside --config-dir; give one of them")
    try:
        return compose(config_name, [*searched, *lines], return_hydra_config=True)
    except NOT_COMPOSED:
        raise
    except Exception as error:  # its asserts, and errors of every class
        raise HydraException(reason(error)) from error


def _jobs(
    parsed: list[Override],
    grid: bool,
    search: bool,
    composer: Composer,
    skip: Callable[[list[str]], bool],
) -> tuple[Iterable[list[str]], list[str]]:
    """Return the jobs to look at, and what is wrong with the command line as a whole."""
    if not grid:
        return [[o.input_line for o in parsed]], []
    try:
        if faults := [*combinations.together(parsed, search)]:
            return [combinations.first_job(parsed)], faults
        if not search:
            every = list(combinations.expand(parsed))
            empty = (
                []
                if every
                else ["the grid is empty: skip leaves out all of it, or a key has no values"]
            )
            todo = itertools.filterfalse(skip, every)
            return todo, [*empty, *combinations.useless_skips(parsed)]
        asked, faults = _plan(composer, parsed)
    except ConfigError as error:
        return [], [str(error)]
    return asked.probes() if asked else [], faults


def _check_jobs(
    composer: Composer, every: Iterable[list[str]], mode: list[str]
) -> tuple[list[dict], list[str]]:
    """Compose and check jobs; return their configs, and each fault once with the jobs it hits."""
    jobs, told = list(every), time.monotonic()
    composer.expect(job + mode for job in jobs)
    alike = Alike(functools.partial(_compose, composer), composer.plain, _name)
    memo: dict = {}
    configs: list[dict] = []
    hits: dict[str, list[int]] = {}  # fault: the jobs it hits
    faulty = 0
    for number, job in enumerate(jobs):
        config, faults = alike(job, mode)
        faults = faults or check(config, memo)
        if config:
            configs.append(config)
        if not faults:
            LAST.jobs[job_of(job)] = config
        for fault in faults:
            hits.setdefault(fault, []).append(number)
        faulty += bool(faults)
        if faulty == MAX_FAULTY:
            break
        if number and time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            print(f"checked {number + 1:,} of {len(jobs):,} jobs", file=sys.stderr, flush=True)
    return configs, [
        fault if len(hit) == len(jobs) else f"{fault}  [{_which(hit, jobs)}]"
        for fault, hit in hits.items()
    ]


def is_search(lines: Iterable[str]) -> bool:
    """Return whether a command line asks for a search or a study."""
    return any(line.startswith(("+study=", "hydra/sweeper=search")) for line in lines)


def plan(lines: Sequence[str]) -> Plan:
    """Return what a command line that passed check_overrides asks a search to find out.

    Raises:
        ConfigError: naming all that is wrong with it.
    """
    parsed, faults = overrides.parse(lines)
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
            study = copies.resolved(config.study)
        name = next((str(o.value()) for o in single if root(o) == "study"), "search")
        return make_plan(parsed, study, name), []
    except UserError as error:
        return None, [str(error)]
    except NOT_COMPOSED as error:
        return None, _culprits(composer, lines, error)


def composed(lines: list[str], folders: Sequence[Path], resolved: bool) -> dict:
    """Return a config that nobody has checked, without `hydra`; nothing of it is to be built.

    Args:
        resolved: whether each `${...}` is what it comes to.

    Raises:
        ConfigError: these overrides make no config.
    """
    source, *others = [folder.resolve() for folder in folders]
    searched = [f"hydra.searchpath=[file://{folder}]" for folder in others]
    try:
        with initialize_config_dir(str(source), version_base="1.3"):
            config = _whole("config", searched, lines)
            raw = _resolve(config, _raw(config)) if resolved else _raw(config)
    except (*NOT_COMPOSED, TypeError, ValueError) as error:
        raise ConfigError(_reason(error)) from None
    return {name: node for name, node in raw.items() if name != "hydra"}


def checked(lines: list[str]) -> dict:
    """Return one checked config, for use from Python.

    Raises:
        ConfigError: naming every fault.
    """
    configs, faults = check_overrides(lines)
    if faults:
        raise ConfigError("\n".join(faults))
    configs[0].pop("hydra", None)
    return configs[0]


def _which(hit: list[int], every: list[list[str]]) -> str:
    """Name jobs of a grid by their numbers, and what sets the first of them apart."""
    numbers = ", ".join(map(str, hit[:MAX_TOLD])) + (", ..." if len(hit) > MAX_TOLD else "")
    first = " ".join(o for o in every[hit[0]] if any(o not in job for job in every))
    jobs = "job" if len(hit) == 1 else "jobs"
    return f"{jobs} {numbers} of {len(every)}, the first: {first}"


def _compose(composer: Composer, lines: list[str]) -> tuple[dict | None, list[str], set[str]]:
    """Return one job's resolved config, its faults, and every word inside its `${...}`."""
    try:
        composed = composer(lines)
    except NOT_COMPOSED as error:
        return None, _culprits(composer, lines, error), set()
    raw = _raw(composed)
    if unset := [path for path, value in leaves(raw) if value == "???"]:
        unset = [path for path in unset if not path.startswith("hydra.")]
    if unset:
        where = rules.where(raw["hydra"]["runtime"])
        return None, [_has_no_default(path, where) for path in unset], set()
    spoken = _spoken(raw)
    try:
        return _resolve(composed, raw), [], spoken
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        return None, [_not_resolved(raw, error)], set()


def _name(job: list[str], config: dict) -> str:
    """Return the `name` that conf/config.yaml gives a job of a grid."""
    task = [line for line in job if not under(key_of(line), ("hydra",))]
    choices = config["hydra"]["runtime"]["choices"]
    otherwise = f"{config['data']['name']}-{config['model']['name']}-{choices['optimizer']}"
    return resolvers.short_name(task, otherwise)


def _has_no_default(path: str, where: dict[str, Any]) -> str:
    rule = rules.rule(path, **where)
    says = f", {rule.says}" if rule and rule is not rules.anything else ""
    return f"{path}: has no default; give {path}=VALUE{says}"


def _not_resolved(raw: dict, error: Exception) -> str:
    """Return the fault of a `${...}` that comes to nothing, under what was typed or its key."""
    path = str(getattr(error, "full_key", None) or "config")
    typed = [line for line in raw["hydra"]["overrides"]["task"] if "${" in line]
    if typed and path.startswith("hydra."):  # where the command line is copied to, or names a run
        path = typed[0]
    return f"{path}: {_reason(error)}"


def _spoken(raw: dict) -> set[str]:
    """Return every word that a `${...}` of a config looks up; a `*` where one may look anywhere."""
    texts = [node for _, node in walk(raw) if isinstance(node, str) and "${" in node]
    named = "short_name" in str(raw.get("name"))  # see Alike
    aside = ("hydra", "name") if named else ("hydra",)
    ours = " ".join(str(section) for name, section in raw.items() if name not in aside)
    anywhere = (
        re.search(r"hydra\s*:(?!runtime\.choices\.)", n) for n in ours if isinstance(n, str)
    )
    words = {*re.findall(r"\w+", " ".join(texts))}
    looked_up = set().union(*(resolvers.READS.get(word, ()) for word in words))
    return words | looked_up | ({"*"} if any(anywhere) else set())


def _culprits(composer: Composer, lines: list[str], error: Exception) -> list[str]:
    """Return the faults of all bad overrides, where Hydra stops at the first one."""
    parsed, faults = overrides.parse(lines)
    folders = composer.folders
    given = {o.key_or_group for o in parsed}
    faults += [f for o in parsed for f in overrides.faults_of(o, folders, True, True, given)]
    if faults:  # of a study's YAML: those of the command line were found before
        return faults
    chooses = [o for o in parsed if overrides.options_of(o, folders) or root(o) == "hydra"]
    try:
        base = composer([o.input_line for o in chooses])
    except NOT_COMPOSED as fault:
        return [_reason(fault)]
    chosen = base.hydra.runtime.choices
    with open_dict(base):
        del base["hydra"]
    paths = [path for path, _ in leaves(_raw(base)) if "._" not in path]
    known = {*rules.paths((*folders, CONF)), *paths, *base}
    values = [o for o in parsed if not o.is_add() and o not in chooses]
    wrong = {
        o.input_line: meant.unknown(o, [*paths, *base], folders)
        for o in values
        if (path := o.key_or_group.replace("/", ".")) not in known
        and not path.endswith("._target_")
        and not any(name.startswith(f"{path}.") for name in known)
    }
    if not wrong:  # a key of another option of its group
        faults = [
            _not_of_option(o, chosen[root(o)], folders)
            for o in values
            if root(o) in chosen and o.key_or_group != root(o)
            if o.key_or_group not in paths  # also of a value that is missing
            and OmegaConf.select(base, o.key_or_group, default=base) is base
        ]
        return faults or [_reason(error)]
    config, more, _ = _compose(composer, [line for line in lines if line not in wrong])
    return [*wrong.values(), *(more or check(config))]


def _not_of_option(override: Override, option: str, folders: Sequence[Path]) -> str:
    """Return the fault of a key that the chosen option of its group has not."""
    others = rules.options_with(override.key_or_group, option, (*folders, CONF))
    more = f"; it is one of {', '.join(others)}" if others else ""
    return f"{override.input_line}: {root(override)}={option} has no such key{more}"


def _resolve(composed: DictConfig, raw: dict) -> dict:
    """Resolve everything in `raw`, with stand-ins for what Hydra fills in when a job starts.

    What no run reads stays as it is: Hydra's texts for `--help`, in a grid `hydra.run` too.
    """
    with open_dict(composed):
        for section, key in (("runtime", "output_dir"), ("job", "id"), ("job", "num")):
            if OmegaConf.is_missing(composed.hydra[section], key):
                composed.hydra[section][key] = 0
                raw["hydra"][section][key] = composed.hydra[section][key]
    unread = {
        "help",
        "hydra_help",
        "runtime",
        *(["run"] if raw["hydra"]["mode"] == RunMode.MULTIRUN else []),
    }
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
    return reason(error)
