"""Words of a command line that YAML files add: a whole sweep written down in a file.

Hydra reads the launcher, the sweeper and the parameters of a grid from the command line and from
the primary config alone; in an experiment's file they would be ignored.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from knobs.config.rules import options, show
from knobs.identity import key_of

OVERRIDE = re.compile(r"override /?(hydra/\w+)")
MULTIRUN = "hydra.mode=MULTIRUN"


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
    for file in (file for file in own if file.is_file()):
        text = file.read_text("utf-8", "replace")
        if "_global_" not in text and file.stem != name:
            continue
        try:
            node = yaml.safe_load(text)
        except yaml.YAMLError:
            continue  # composing says so
        if isinstance(node, dict):
            yield node
