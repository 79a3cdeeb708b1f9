"""Configs of one command line's jobs: Hydra composes each choice of groups once, not each job."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from knobs.config.copies import copied
from knobs.identity import under, walk

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
        self.folders = [folder.resolve() for folder in folders]
        self._compose = compose
        self._read = functools.lru_cache(maxsize=65536)(self._read_override)
        # As Hydra composed them; None where it raised, or added sources that are not known here.
        self._composed: dict[Structure, DictConfig | None] = {}
        self._first: dict[Structure, Structure] = {}  # shape: the first structure of it
        # (shape, choice): its node; None where the choice changes more of the first than that.
        self._nodes: dict[tuple[Structure, Choice], DictConfig | None] = {}

    def __call__(self, overrides: list[str]) -> DictConfig:
        """Return a config of the caller's own.

        Raises:
            HydraException: as Hydra's compose would.
        """
        try:
            return self._make(overrides, new=True)
        except Unsure:
            return self._compose(overrides)

    def kept(self, overrides: list[str]) -> DictConfig | None:
        """Return the same from what was composed before; None where that is not enough."""
        try:
            return self._make(overrides, new=False)
        except Unsure:
            return None

    def plain(self, line: str) -> tuple[str, Any] | None:
        """Return the key and the value of an override that sets a plain value, else None."""
        try:
            override, part = self._read(line)
        except Unsure:
            return None
        value = override.value()
        kept = part or override.type is not OverrideType.CHANGE or override.package
        if (
            kept
            or not isinstance(value, bool | int | float | str)
            or under(
                override.key_or_group,
                ("metrics.own",),  # whose mode an objective looks up
            )
        ):
            return None
        odd = isinstance(value, str) and ("${" in value or value == "???")
        return None if odd else (override.key_or_group, value)

    def expect(self, jobs: Iterable[list[str]]) -> None:
        """Compose what these jobs need of each other: the second options of all groups at once,
        then the third ones, and so on, instead of each option by itself."""
        shapes: dict[Structure, list[Structure]] = {}
        for overrides in jobs:
            with contextlib.suppress(Unsure):
                structure, _ = self._split(overrides)
                shapes.setdefault(_shape(structure), []).append(structure)
        for structures in shapes.values():
            columns = [list(dict.fromkeys(column)) for column in zip(*structures, strict=True)]
            if sum(len(column) > 1 for column in columns) > 1:
                with contextlib.suppress(Unsure):
                    for i in range(max(map(len, columns))):
                        row = tuple(c[i] if i < len(c) else c[0] for c in columns)
                        self._whole(row, new=True)

    def _make(self, overrides: list[str], new: bool) -> DictConfig:
        if len(self._composed) > MAX_KEPT:
            for table in (self._composed, self._first, self._nodes):
                table.clear()
        structure, values = self._split(overrides)
        if structure in self._composed or (config := self._together(structure, new)) is None:
            config = copied(self._whole(structure, new))
        groups = set(config.hydra.runtime.choices.keys()) if values else set()
        for override in values:
            _set(config, override, groups)
        task = [o for o, _ in map(self._read, overrides) if not o.is_hydra_override()]
        config.hydra.overrides.task = [o.input_line for o in task]
        named = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            task, named.exclude_keys, named.item_sep, named.kv_sep
        )
        return config

    def _split(self, overrides: list[str]) -> tuple[Structure, list[Override]]:
        """Return the structure, `hydra` first, and the overrides that set values."""
        hydra, groups, values = [], [], []
        for override, part in map(self._read, overrides):
            if not part:
                values.append(override)
            elif not override.is_hydra_override():
                groups.append(part)
            elif values and not _sets_a_leaf(override):
                raise Unsure  # it might read a value that is set before it
            else:
                hydra.append(part)
        chosen = [choice.group for choice in groups if isinstance(choice, Choice)]
        if len(chosen) > len(set(chosen)):
            raise Unsure
        return (*hydra, *groups), values

    def _read_override(self, line: str) -> tuple[Override, str | Choice | None]:
        """Return an override and its part in a structure; None where it sets a value."""
        try:
            override = OverridesParser.create().parse_override(line)
        except HydraException:
            raise Unsure from None
        key = override.key_or_group
        if override.is_sweep_override() or key == "hydra":
            raise Unsure
        if override.is_hydra_override():
            return override, line
        option = override.value()
        is_group = any(os.path.isdir(folder / key) for folder in self.folders)
        if override.package is None and (not is_group or isinstance(option, dict)):
            return override, None
        plain = key.isidentifier() and line == f"{key}={option}" and isinstance(option, str)
        return override, Choice(key, option) if plain and self._confined(key, option) else line

    def _confined(self, group: str, option: str) -> bool:
        """Return whether an option's file, and its bases, write below cfg.group alone."""
        names = [option]
        for name in names:  # which grows
            files = [folder / group / f"{name}.yaml" for folder in self.folders]
            texts = [file.read_text() for file in files if os.path.isfile(file)]
            try:
                nodes = [yaml.safe_load(text) for text in texts if "defaults" in text]
            except yaml.YAMLError:
                return False
            lists = [node.get("defaults") or [] for node in nodes if isinstance(node, dict)]
            bases = [base for defaults in lists for base in defaults]
            plain = all(isinstance(base, str) and not set(base) & set("/@$?.") for base in bases)
            if not texts or not plain or any("@package" in text for text in texts):
                return False
            names += [base for base in bases if base not in ("_self_", *names)]
        return True

    @functools.cached_property
    def _references(self) -> set[str] | None:
        """Return all `a.b` of the files' `${a.b}`; None where one may be something else."""
        files = (file for folder in self.folders for file in folder.rglob("*.yaml"))
        text = "\n".join(file.read_text() for file in files)
        paths = REFERENCE.findall(text)
        return set(paths) - {""} if len(paths) == text.count("${") else None

    def _together(self, structure: Structure, new: bool) -> DictConfig | None:
        """Return the first config of a shape with other nodes; None where one reaches further."""
        shape = _shape(structure)
        first = self._first.get(shape, structure)
        changed = [choice for choice in structure if choice not in first]
        for choice in changed if len(changed) > 1 else ():
            if (shape, choice) not in self._nodes:  # it was not composed by itself yet
                places = zip(shape, first, strict=True)
                alone = tuple(choice if s == (choice.group, "") else part for s, part in places)
                self._whole(alone, new)
        nodes = {choice: self._nodes.get((shape, choice)) for choice in changed}
        if not nodes or None in nodes.values():
            return None
        config = copied(self._composed[first])
        with open_dict(config):
            for (group, option), node in nodes.items():
                config[group] = node
                config.hydra.runtime.choices[group] = option
        return config

    def _whole(self, structure: Structure, new: bool) -> DictConfig:
        """Return a structure's config as Hydra composes it, and learn its choices' nodes.

        Raises:
            Unsure: Hydra refuses it, more went into it than these lines and these folders, or it
                was not composed before and is not to be.
        """
        if structure not in self._composed:
            if not new:
                raise Unsure
            lines = [part if isinstance(part, str) else "=".join(part) for part in structure]
            try:
                config = self._compose(lines)
                certain = self._knows(config, lines)
            except Exception:  # whatever it is, composing all overrides says it better
                certain = False
            self._composed[structure] = config if certain else None
            if certain:
                self._learn(structure, config)
        if (config := self._composed[structure]) is None:
            raise Unsure
        return config

    def _knows(self, config: DictConfig, lines: list[str]) -> bool:
        """Return whether only this command line and these folders went into a config."""
        overrides = [override for override, _ in map(self._read, lines)]
        for override in overrides:
            if override.is_hydra_override():
                _parent(config, override.key_or_group)
        hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
        task = [o.input_line for o in overrides if not o.is_hydra_override()]
        return (
            all(
                Path(source["path"]).resolve() in self.folders
                if source["schema"] == "file"
                else source["schema"] == "structured" or source["path"] == "hydra.conf"
                for source in hydra["runtime"]["config_sources"]
            )
            and hydra["overrides"]["task"] == task
            and "${" not in str(hydra["job"]["env_copy"])
        )

    def _learn(self, structure: Structure, config: DictConfig) -> None:
        """Keep the nodes of a structure's choices, if it is the first of its shape elsewhere."""
        shape = _shape(structure)
        first = self._first.setdefault(shape, structure)
        changed = [choice for choice in structure if choice not in first]
        if not changed:
            return
        both = [OmegaConf.to_container(c, resolve=False) for c in (self._composed[first], config)]
        copied = any(self._copies_section(raw) for raw in both)
        before, after = (_without([choice.group for choice in changed], raw) for raw in both)
        for choice in changed:
            node = config.get(choice.group) if before == after and not copied else None
            if isinstance(node, DictConfig) or len(changed) == 1:
                self._nodes[shape, choice] = node if isinstance(node, DictConfig) else None

    def _copies_section(self, raw: Plain) -> bool:
        """Return whether a `${a.b}` of a file may stand for a section.

        Where other files add to such a key, Hydra copies the section there, and a group's node
        holds what another group's option says; in a defaults list `${group}` is an option that
        decides which files are read.
        """
        return self._references is None or any(
            isinstance(node, dict | list) and ".".join(map(str, path)) in self._references
            for path, node in walk(raw)
        )


class Alike:
    """Composes the jobs of a grid; those that differ in plain values alone, once.

    Where no `${...}` of a config speaks of a key, what the key holds goes nowhere else: the config
    of another value is that of the first one with this value in its place. Configs of one grid
    share what they have in common, and are not to be changed.
    """

    def __init__(
        self,
        compose: Callable[[list[str]], tuple[Plain | None, list[str], set[str]]],
        plain: Callable[[str], tuple[str, Any] | None],
        name: Callable[[list[str], Plain], str],
    ):
        """Compose nothing yet.

        Args:
            compose: overrides -> a resolved config, its faults, the words inside its `${...}`.
            plain: an override -> its key and value, where it sets a plain value.
            name: a job and its config -> what `${short_name:...}` comes to.
        """
        self._compose, self._plain, self._name = compose, plain, name
        self._spoken: dict[tuple, set[str]] = {}  # overrides in common: words
        self._first: dict[tuple, Plain] = {}
        self._wrong: dict[tuple, list[str]] = {}
        self._sections: dict[tuple, tuple[Plain, Plain]] = {}  # section and change: both sections

    def __call__(self, job: list[str], mode: list[str]) -> tuple[Plain | None, list[str]]:
        """Return a job's config, resolved, and why it cannot be composed."""
        plain = [(line, pair) for line in job if (pair := self._plain(line))]
        lines = {line for line, _ in plain}
        common = (*(line for line in job if line not in lines), *(pair[0] for _, pair in plain))
        if common in self._wrong:
            return None, self._wrong[common]
        if common in self._spoken:
            free, shared = self._sorted(common, plain)
            if (first := self._first.get(shared)) is not None:
                config = functools.reduce(self._with, free, first)
                if "short_name" in self._spoken[common]:
                    config = config | {"name": self._name(job, config)}
                return config, []
        config, faults, words = self._compose(job + mode)
        if config is None:
            self._wrong[common] = faults
            return None, faults
        self._spoken.setdefault(common, set()).update(words)
        self._first.setdefault(self._sorted(common, plain)[1], config)
        return config, faults

    def _sorted(
        self, common: tuple, plain: list[tuple[str, tuple[str, Any]]]
    ) -> tuple[list[tuple[str, Any]], tuple]:
        """Return what is free to differ, as key and value, and all that is not, as lines."""
        words = self._spoken[common]
        free, bound = [], []
        for line, (key, value) in plain:
            loose = "*" not in words and key.rpartition(".")[2] not in words
            free.append((key, value)) if loose else bound.append(line)
        return free, (common, *bound)

    def _with(self, config: Plain, pair: tuple[str, Any]) -> Plain:
        """Return a config with another value; equal changes of a section give one object."""
        name, _, rest = pair[0].partition(".")
        if not rest:
            return config if config[name] is pair[1] else {**config, name: pair[1]}
        section, change = config[name], (id(config[name]), rest, type(pair[1]), pair[1])
        if change not in self._sections:
            self._sections[change] = section, self._with(section, (rest, pair[1]))
        return {**config, name: self._sections[change][1]}


def _shape(structure: Iterable[str | Choice]) -> Structure:
    """Return a structure less its options: structures of one shape differ in choices alone."""
    return tuple(part if isinstance(part, str) else Choice(part.group, "") for part in structure)


def _without(groups: list[str], raw: Plain) -> Plain:
    """Return `raw` less the nodes of groups and the places that name the choices of them."""
    for group in groups:
        raw.pop(group, None)
        raw["hydra"]["runtime"]["choices"].pop(group, None)
    raw["hydra"]["overrides"].pop("task", None)
    raw["hydra"]["job"].pop("override_dirname", None)
    return raw


def _sets_a_leaf(override: Override) -> bool:
    return override.type is OverrideType.CHANGE and not isinstance(override.value(), dict | list)


def _set(config: DictConfig, override: Override, groups: set[str]) -> None:
    """Apply one override as Hydra does.

    Args:
        groups: those of which the config has an option.

    Raises:
        Unsure: what it does might depend on what Hydra fills in after it has set all values.
        HydraException: as Hydra's compose would.
    """
    key, value = override.key_or_group, override.value()
    node, last = _parent(config, key), key.rpartition(".")[2]
    there = last in node.keys() and OmegaConf.is_interpolation(node, last)  # noqa: SIM118
    inner = value.values() if isinstance(value, dict) else ()
    if (
        (there and not _sets_a_leaf(override))
        or any(isinstance(child, dict | list) for child in inner)
        or (override.is_delete() and value is not None)
        or (not isinstance(value, dict) and key in groups)
    ):
        raise Unsure
    ConfigLoaderImpl._apply_overrides_to_config([override], config)


def _parent(config: DictConfig, key: str) -> DictConfig:
    """Return the section that a key lies in, empty where there is none.

    Raises:
        Unsure: the way leads elsewhere, or to no section.
    """
    node: Any = config
    for name in key.split(".")[:-1]:
        if name not in node.keys():  # noqa: SIM118 (`in node` would resolve the value)
            return OmegaConf.create()
        if OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name):
            raise Unsure
        node = node[name]
        if not isinstance(node, DictConfig):
            raise Unsure
    return node
