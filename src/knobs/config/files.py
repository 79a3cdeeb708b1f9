"""Words of a command line that YAML files add: a whole sweep written down in a file.

Hydra reads the launcher, the sweeper and the parameters of a grid from the command line and from
the primary config alone; in an experiment's file they would be ignored.
"""

import itertools
import math
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from knobs import storage
from knobs.config.rules import CONF, options, show
from knobs.errors import ConfigError, first_line
from knobs.identity import key_of

OVERRIDE = re.compile(r"override /?(hydra/\w+)")
MULTIRUN = "hydra.mode=MULTIRUN"
MOST_FILES, MOST_BYTES = 10_000, 2**17  # of a folder of configs, of a YAML
MOST_VALUES = 10_000  # of a YAML, its aliases written out


def refuse_bombs(args: Namespace) -> None:
    """Refuse a config of one's own that would be read for ever, or into all memory.

    Args:
        args: Hydra's flags, of which two name folders.

    Raises:
        ConfigError: naming the file: no regular one, too long, of too many values, or too deep.
    """
    if args.config_path:  # Hydra looks for it beside train.py
        _refuse_bombs(CONF.parent / args.config_path, f"--config-path {args.config_path}")
    if args.config_dir:
        _refuse_bombs(Path(args.config_dir), f"--config-dir {args.config_dir}")


def _refuse_bombs(folder: Path, flag: str) -> None:
    count, found = 0, {*folder.glob("*/*.yaml")}  # of folders that are links, too
    for here, _, names in os.walk(folder):
        if (count := count + len(names)) > MOST_FILES:
            fix = "name the folder of your YAML files alone"
            raise ConfigError(f"{flag}: has more than {MOST_FILES:,} files; {fix}")
        found |= {Path(here, name) for name in names if name.endswith(".yaml")}
    for file in sorted(found):
        try:
            text = storage.read(file, MOST_BYTES).decode("utf-8", "replace")
            values = _count(yaml.compose(text, yaml.SafeLoader), {})
        except (FileNotFoundError, yaml.YAMLError):
            continue  # composing says so
        except RecursionError:
            raise ConfigError(f"{file}: is nested too deeply; a config has few levels") from None
        except (OSError, ValueError) as error:
            why = first_line(error).removeprefix(f"{file}: ")
            raise ConfigError(f"{file}: cannot be read ({why}); remove it") from None
        if values > MOST_VALUES:
            why = f"its aliases (*NAME) make more than {MOST_VALUES:,} values of it"
            raise ConfigError(f"{file}: {why}; write out what they stand for")


def _count(node: yaml.Node | None, known: dict[yaml.Node, float]) -> float:
    """Return how many values a YAML has with its aliases written out; inf where one holds itself.

    Args:
        known: of nodes seen; one under way counts as infinite.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if node not in known:
        known[node] = math.inf
        parts = node.value if isinstance(node, yaml.SequenceNode) else itertools.chain(*node.value)
        known[node] = 1 + sum(_count(part, known) for part in parts)
    return known[node]


def words(lines: Sequence[str], folders: Sequence[Path], name: str) -> list[str]:
    """Return overrides that the chosen files add to a command line, which has the last word.

    Args:
        lines: the command line's overrides.
        folders: of configs, the first has the primary one.
        name: of the primary config.
    """
    found: dict[str, str] = {}
    for node in _nodes(lines, folders, name):
        entries = (e for e in node.get("defaults") or () if isinstance(e, dict))
        pairs = [(str(key), option) for entry in entries for key, option in entry.items()]
        for key, option in pairs:
            if match := OVERRIDE.fullmatch(key.strip()):
                found[match[1]] = f"{match[1]}={option}"
        hydra = node.get("hydra") if isinstance(node.get("hydra"), dict) else {}
        sweeper = hydra.get("sweeper") if isinstance(hydra.get("sweeper"), dict) else {}
        found |= {key: f"{key}={show(v)}" for key, v in (sweeper.get("params") or {}).items()}
        if hydra.get("mode") == "MULTIRUN":
            found["hydra.mode"] = MULTIRUN
    stated = {key_of(line) for line in lines} | {line.partition("=")[0] for line in lines}
    return [line for key, line in found.items() if key.lstrip("+") not in stated]


def _nodes(lines: Sequence[str], folders: Sequence[Path], name: str) -> Iterator[dict[str, Any]]:
    """Yield the contents of the files whose keys are those of the whole config."""
    own = [folder / f"{name}.yaml" for folder in folders if name != "config"]
    for line in lines:
        group, _, option = line.lstrip("+").partition("=")
        having = (folder for folder in folders if option in options(group, [folder]))
        own += [folder / group / f"{option}.yaml" for folder in having]
    for file in (file for file in own if os.path.isfile(file)):
        text = file.read_text("utf-8", "replace")
        if "_global_" not in text and file.stem != name:
            continue
        try:
            node = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # composing says so
        if isinstance(node, dict):
            yield node
