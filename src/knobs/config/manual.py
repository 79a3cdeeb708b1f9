"""The YAML files of conf/ as a manual: groups, options, keys, and what is said of each."""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from knobs.config import rules
from knobs.config.files import refuse_bombs
from knobs.config.rules import CONF
from knobs.errors import ConfigError, first_line
from knobs.words import as_text

WHOLE = ("study", "experiment")  # options that set keys of other groups
ITSELF = ("_target_", "_partial_")  # what an option is made of, nothing to choose


class Key(NamedTuple):
    """A key of a config: its default, and the rule of its values with what else is said of it."""

    path: str
    default: str
    about: str


@dataclass(frozen=True)
class Conf:
    """The YAML files of a command line: those of conf/, and of `--config-dir`.

    Args:
        folders: the first counts where both have an option.
        main: the YAML that has the defaults list.
    """

    folders: tuple[Path, ...] = (CONF,)
    main: Path = CONF / "config.yaml"

    def groups(self) -> dict[str, str]:
        """Return group -> what it is about, in the order of the defaults list, then by name."""
        text = self.main.read_text("utf-8", "replace") if self.main.is_file() else ""
        found = dict(re.findall(r"^  - (\w+): \w+ *(?:# *(.*))?$", text, re.MULTILINE))
        for folder in self.folders:
            for path in sorted(folder.glob("*/*.yaml")):
                if path.parent.name != "hydra":
                    found.setdefault(path.parent.name, "")
        return found

    def options(self, group: str) -> dict[str, Path]:
        """Return option -> its YAML."""
        files = [path for folder in self.folders for path in (folder / group).glob("*.yaml")]
        return {path.stem: path for path in sorted(reversed(files), key=lambda path: path.stem)}

    def keys(self, group: str, option: str) -> dict[str, Key]:
        """Return an option's keys by path, those that its `defaults` bring first.

        Raises:
            ConfigError: its file cannot be read.
        """
        path = self.options(group)[option]
        node = load(path)
        bases = [e for e in node.pop("defaults", []) if isinstance(e, str) and e != "_self_"]
        found: dict[str, Key] = {}
        for base in bases:
            found |= self.keys(group, base) if base in self.options(group) else {}
        return found | {k: self._key(k, v, option) for k, v in _leaves(node, group)}

    def main_keys(self) -> dict[str, Key]:
        """Return the keys of the main YAML by path, those for Hydra left out."""
        node = load(self.main) if self.main.is_file() else {}
        own = {name: child for name, child in node.items() if name not in ("defaults", "hydra")}
        return {path: self._key(path, value, self.main.stem) for path, value in _leaves(own, "")}

    def _key(self, path: str, default: Any, option: str) -> Key:
        """Return a key with its rule and comment, as the YAML of this name has them."""
        places = [rules.read(folder).get(path, {}) for folder in self.folders]
        text, comment = next((p[option] for p in places if option in p), ("", ""))
        if not rules.of_comment(text, comment):
            choices = {path.partition(".")[0]: option}
            rule = rules.rule(path, choices, (*self.folders, CONF))
            says = rule.says.strip() if rule and rule is not rules.anything else ""
            if says == rules.flag.says or (not says and isinstance(default, bool)):
                says = "true or false"
            comment = "; ".join(filter(None, (says, comment)))
        return Key(path, text or as_text(default), comment)


def default_options(main: Path = CONF / "config.yaml") -> dict[str, str]:
    """Return group -> default option, in the order of the defaults list."""
    text = main.read_text("utf-8", "replace") if main.is_file() else ""
    return dict(re.findall(r"^  - (\w+): (\w+)", text, re.MULTILINE))


def first_comment(path: Path) -> str:
    """Return the one-line help that a YAML opens with; empty where it opens otherwise."""
    for line in path.read_text("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            return ""
        if (text := line.lstrip("# ").rstrip()) and not text.startswith("@package"):
            return text
    return ""


def load(path: Path) -> dict[str, Any]:
    """Return a YAML's mapping.

    Raises:
        ConfigError: it cannot be read as one.
    """
    try:
        node = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({first_line(error)})") from None
    return node if isinstance(node, dict) else {}


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of what is no section; an empty section is a value."""
    for name, child in node.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(child, dict) and child:
            yield from _leaves(child, here)
        elif name not in ITSELF:
            yield here, child


def conf_of(args: Namespace) -> Conf:
    """Return the YAML files that a command line's flags name."""
    refuse_bombs(args)
    root = Path(args.config_path).resolve() if args.config_path else CONF
    more = (Path(args.config_dir).resolve(),) if args.config_dir else ()
    name = (args.config_name or "config").removesuffix(".yaml")
    return Conf((root, *more), root / f"{name}.yaml")
