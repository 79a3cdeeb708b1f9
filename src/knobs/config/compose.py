"""Configs of one command line's jobs: Hydra composes each choice of groups once, not each job."""

import contextlib
import copy
import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

MAX_KEPT = 256  # composed configs, about 150 kB each
Plain = dict[str, Any]
# `${a.b}`, or a resolver that gives no section.
REFERENCE = re.compile(r"\$\{(?:(\w+(?:\.\w+)*)\}|(?!oc\.(?!env:))[\w.]+:)")


class Unsure(Exception):
    """Only a whole compose is certain to say what these overrides mean."""


class Choice(NamedTuple):
    """`group=option` where the option's file writes nothing outside the group's own node."""

    group: str
    option: str


Structure = tuple[str | Choice, ...]


class Composer:
    """The jobs of one command line, each as Hydra would compose it, most of them without Hydra.

    What chooses files (groups, and all of `hydra`) is the structure of a job. Hydra composes a
    structure once; values are set on a copy of it, in the order of the command line and by
    Hydra's own function. Where structures differ in groups whose options keep to their own
    nodes, it is enough that each option was composed once: the nodes are put together.
    Whatever could make a difference between the two ways is composed as a whole.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig], folders: list[Path]):
        """Compose nothing yet.

        Args:
            compose: Hydra's compose of a list of overrides, `hydra` node included.
            folders: where groups and their options lie.
        """
        self._compose = compose
        self._folders = [folder.resolve() for folder in folders]
        self._kept: dict[Structure, DictConfig] = {}  # handed out as copies
        self._refused: set[Structure] = set()  # Hydra raised, or added sources of its own
        self._first: dict[Structure, Structure] = {}  # shape: the first structure of it
        self._nodes: dict[tuple[Structure, Choice], DictConfig | None] = {}
        self._groups: dict[str, bool] = {}
        self._choices: dict[str, bool] = {}

    def __call__(self, overrides: list[str]) -> DictConfig:
        """Return a config of the caller's own.

        Raises:
            HydraException: as Hydra's compose would.
        """
        try:
            return self._make(overrides, new=True)
        except Unsure:
            return self._compose(overrides)

    def expect(self, jobs: Iterable[list[str]]) -> None:
        """Compose what these jobs need of each other: the second options of all groups at once,
        then the third ones, and so on, instead of each option by itself."""
        shapes: dict[Structure, list[Structure]] = {}
        for overrides in jobs:
            with contextlib.suppress(Unsure):
                structure, _ = self._split([_parse(line) for line in overrides])
                shapes.setdefault(_shape(structure), []).append(structure)
        for structures in shapes.values():
            columns = [list(dict.fromkeys(column)) for column in zip(*structures, strict=True)]
            if sum(len(column) > 1 for column in columns) > 1:
                with contextlib.suppress(Unsure):
                    self._compose_rows(structures[0], columns)

    def _compose_rows(self, first: Structure, columns: list[list]) -> None:
        self._structured(first, new=True)
        for i in range(1, max(map(len, columns))):
            row = tuple(column[i] if i < len(column) else column[0] for column in columns)
            changed = [choice for choice in row if choice not in first]
            if not all((first, choice) in self._nodes for choice in changed):
                config = self._whole(row)
                self._keep(row, config)
                self._learn(first, changed, config)

    def kept(self, overrides: list[str]) -> DictConfig | None:
        """Return the same from what was composed before; None where that is not enough."""
        try:
            return self._make(overrides, new=False)
        except Unsure:
            return None

    def _make(self, overrides: list[str], new: bool) -> DictConfig:
        parsed = [_parse(line) for line in overrides]
        structure, values = self._split(parsed)
        config = self._structured(structure, new)
        for override in values:
            _set(config, override)
        task = [o for o in parsed if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in task]
        named = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            task, named.exclude_keys, named.item_sep, named.kv_sep
        )
        return config

    # -------------------------------------------------------------- what is a choice of files
    def _split(self, parsed: list[Override]) -> tuple[Structure, list[Override]]:
        """Return the structure, `hydra` first, and the overrides that set values."""
        hydra, groups, values = [], [], []
        for override in parsed:
            if override.is_sweep_override() or override.key_or_group == "hydra":
                raise Unsure
            if override.is_hydra_override():
                if values and not _sets_a_leaf(override):
                    raise Unsure  # it might read a value that is set before it
                hydra.append(override.input_line)
            elif self._chooses(override):
                groups.append(self._choice(override) or override.input_line)
            else:
                values.append(override)
        chosen = [choice.group for choice in groups if isinstance(choice, Choice)]
        if len(chosen) > len(set(chosen)):
            raise Unsure
        return (*hydra, *groups), values

    def _chooses(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = any((folder / key).is_dir() for folder in self._folders)
        chosen = self._groups[key] and not isinstance(override.value(), dict)
        return chosen or override.package is not None

    def _choice(self, override: Override) -> Choice | None:
        """Return the override as a choice that keeps to its own node; None where it may not."""
        group, option, line = override.key_or_group, override.value(), override.input_line
        if not group.isidentifier() or line != f"{group}={option}" or not isinstance(option, str):
            return None
        if line not in self._choices:
            self._choices[line] = self._keeps_to_itself(group, option)
        return Choice(group, option) if self._choices[line] else None

    def _keeps_to_itself(self, group: str, option: str) -> bool:
        """Return whether an option's file, and its bases, write below cfg.group alone."""
        todo, seen = [option], {"_self_"}
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            files = [folder / group / f"{name}.yaml" for folder in self._folders]
            files = [file for file in files if file.is_file()]
            bases = [base for file in files for base in _defaults(file) or []]
            if not files or any("@package" in file.read_text() for file in files):
                return False
            if not all(isinstance(base, str) and not set(base) & set("/@$?.") for base in bases):
                return False
            todo += bases
        return True

    @functools.cached_property
    def _references(self) -> set[str] | None:
        """Return all `a.b` of the files' `${a.b}`; None where one may be something else."""
        files = (file for folder in self._folders for file in folder.rglob("*.yaml"))
        text = "\n".join(file.read_text() for file in files)
        found = REFERENCE.findall(text)
        return set(found) - {""} if len(found) == text.count("${") else None

    def _copies_section(self, raw: Plain) -> bool:
        """Return whether a `${a.b}` of a file may stand for a section.

        Where other files add to such a key, Hydra copies the section there, and a group's node
        holds what another group's option says; in a defaults list `${group}` is an option that
        decides which files are read.
        """
        if self._references is None:
            return True
        for path in self._references:
            node: Any = raw
            for name in path.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            if isinstance(node, dict | list):
                return True
        return False

    # -------------------------------------------------------------- configs of structures
    def _structured(self, structure: Structure, new: bool) -> DictConfig:
        """Return a copy of a structure's config: kept, put together, or composed by Hydra."""
        if structure in self._kept:
            return copy.deepcopy(self._kept[structure])
        if structure in self._refused:
            raise Unsure
        first = self._first.get(_shape(structure), structure)
        changed = [choice for choice in structure if choice not in first]
        known = bool(changed) and all((first, choice) in self._nodes for choice in changed)
        together = known or len(changed) > 1
        config = self._together(first, changed, new) if together else None
        if config is None:
            if not new:
                raise Unsure
            config = self._whole(structure)
            self._first.setdefault(_shape(structure), structure)
        self._keep(structure, config)
        return config

    def _whole(self, structure: Structure) -> DictConfig:
        lines = [line if isinstance(line, str) else "=".join(line) for line in structure]
        try:
            config = self._compose(lines)
        except Exception:  # whatever it is, composing all overrides says it better
            config = None
        if config is None or not self._knows(config, lines):
            self._refused.add(structure)
            raise Unsure
        return config

    def _knows(self, config: DictConfig, lines: list[str]) -> bool:
        """Return whether only this command line and these folders went into a config."""
        hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
        parsed = [_parse(line) for line in lines]
        return (
            all(self._is_known(source) for source in hydra["runtime"]["config_sources"])
            and hydra["overrides"]["task"]
            == [o.input_line for o in parsed if not o.is_hydra_override()]
            and "${" not in str(hydra["job"]["env_copy"])
            and not any(_through_interpolation(hydra, o) for o in parsed)
        )

    def _is_known(self, source: Plain) -> bool:
        if source["schema"] == "file":
            return Path(source["path"]).resolve() in self._folders
        return source["schema"] == "structured" or source["path"] == "hydra.conf"

    def _keep(self, structure: Structure, config: DictConfig) -> None:
        if len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[structure] = copy.deepcopy(config)

    def _together(self, first: Structure, changed: list[Choice], new: bool) -> DictConfig | None:
        """Return `first` with the nodes of the changed choices; None where one reaches further."""
        nodes = {choice: self._node(first, choice, new) for choice in changed}
        if None in nodes.values():
            return None
        config = self._structured(first, new)
        with open_dict(config):
            for (group, option), node in nodes.items():
                config[group] = node
                config.hydra.runtime.choices[group] = option
        return config

    def _node(self, first: Structure, choice: Choice, new: bool) -> DictConfig | None:
        """Return cfg.group under a choice; None where it changes anything else in `first`."""
        if (first, choice) not in self._nodes:
            own = (choice if _shape((choice,)) == _shape((part,)) else part for part in first)
            self._learn(first, [choice], self._structured(tuple(own), new))
        return self._nodes[first, choice]

    def _learn(self, first: Structure, changed: list[Choice], config: DictConfig) -> None:
        """Take the changed choices' nodes from a config, if it is `first` in all other places."""
        groups = [choice.group for choice in changed]
        before, after = (_raw(c) for c in (self._structured(first, new=False), config))
        copied = self._copies_section(before) or self._copies_section(after)
        confined = not copied and _without(groups, before) == _without(groups, after)
        for choice in changed:
            node = config.get(choice.group) if confined else None
            if isinstance(node, DictConfig) or len(changed) == 1:
                self._nodes[first, choice] = node if isinstance(node, DictConfig) else None


# ------------------------------------------------------------------ single overrides
@functools.lru_cache(maxsize=4096)
def _parse(line: str) -> Override:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException:
        raise Unsure from None


def _sets_a_leaf(override: Override) -> bool:
    return override.type is OverrideType.CHANGE and not isinstance(override.value(), dict | list)


def _set(config: DictConfig, override: Override) -> None:
    """Apply one override as Hydra does.

    Raises:
        Unsure: what it does might depend on what Hydra fills in after it has set all values.
        HydraException: as Hydra's compose would.
    """
    key, value = override.key_or_group, override.value()
    *parents, last = key.split(".")
    node: Any = config
    for part in parents:
        node = _child(node, part)
    if not isinstance(node, DictConfig):
        raise Unsure
    there = last in node.keys() and OmegaConf.is_interpolation(node, last)  # noqa: SIM118
    reads = there and not _sets_a_leaf(override)
    inner = value.values() if isinstance(value, dict) else ()
    if (
        reads
        or any(isinstance(child, dict | list) for child in inner)
        or (override.is_delete() and value is not None)
        or (key in config.hydra.runtime.choices and not isinstance(value, dict))
    ):
        raise Unsure
    ConfigLoaderImpl._apply_overrides_to_config([override], config)


def _child(node: Any, name: str) -> Any:
    """Return what lies under a name, empty where nothing does.

    Raises:
        Unsure: it lies somewhere else, or the node is no section.
    """
    if not isinstance(node, DictConfig):
        raise Unsure
    if name not in node.keys():  # noqa: SIM118 (`in node` would resolve the value)
        return OmegaConf.create()
    if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
        raise Unsure
    return node[name]


def _through_interpolation(hydra: Plain, override: Override) -> bool:
    """Return whether the way to a key of the `hydra` node leads elsewhere."""
    node: Any = hydra
    for part in override.key_or_group.split(".")[1:-1]:
        node = node.get(part) if isinstance(node, dict) else node
    return override.is_hydra_override() and isinstance(node, str | list)


# ------------------------------------------------------------------ structures and files
def _shape(structure: Structure) -> Structure:
    """Return a structure less its options: structures of one shape differ in choices alone."""
    return tuple(part if isinstance(part, str) else Choice(part.group, "") for part in structure)


def _raw(config: DictConfig) -> Plain:
    return OmegaConf.to_container(config, resolve=False)


def _without(groups: list[str], raw: Plain) -> Plain:
    """Return `raw` less the nodes of groups and the places that name the choices of them."""
    for group in groups:
        raw.pop(group, None)
        raw["hydra"]["runtime"]["choices"].pop(group, None)
    raw["hydra"]["overrides"].pop("task", None)
    raw["hydra"]["job"].pop("override_dirname", None)
    return raw


def _defaults(file: Path) -> list | None:
    """Return a YAML's defaults list as it stands there; None where it cannot be read."""
    if "defaults" not in file.read_text():
        return []
    try:
        found = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception:  # not YAML, or not a config: of no concern unless a job names it
        return None
    return (found.get("defaults") or []) if isinstance(found, dict) else []
