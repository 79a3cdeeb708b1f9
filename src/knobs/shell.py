"""Commands to copy: `python train.py ...`, quoted for a shell, and values quoted for Hydra."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

LONGEST = 2000
# What Hydra reads as the string it is: no number, and none of the words below.
PLAIN = re.compile(r"(?=[A-Za-z_]|.*/)[A-Za-z0-9_./-]+")
NOT_WORDS = ("true", "false", "null", "nan", "inf")


def command(words: Sequence[str], many: bool = False) -> str:
    """Return `python train.py ...` to copy; empty where it cannot be shown as it is.

    What else the command needs comes from this process, never from a record: KNOBS_ALLOW from its
    environment, and where it is train.py itself the flags that say where its config is.

    Args:
        words: overrides, their values quoted for Hydra where they must be: see `quoted`.
        many: a sweep, with -m.
    """
    allowed = os.environ.get("KNOBS_ALLOW", "")
    before = f"KNOBS_ALLOW={shlex.quote(allowed)} " if allowed else ""
    line = shlex.join(["python", "train.py", *_flags(sys.argv), *(["-m"] if many else []), *words])
    line = before + line
    return line if line.isprintable() and len(line) <= LONGEST else ""


def quoted(value: str) -> str:
    """Return a string as the value of an override: Hydra's parser gives the same string back.

    Left as it is where it needs no quotes. Within them only a quote, and backslashes in front of
    one, are escaped. Source: hydra/grammar/OverrideLexer.g4, QUOTED_VALUE.
    """
    if PLAIN.fullmatch(value) and value.lower() not in NOT_WORDS:
        return value
    escaped = re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + "\\'" * bool(m[2]), value)
    return f"'{escaped}'"


def literal(text: str) -> str:
    r"""Return text in which `${` begins no interpolation: OmegaConf reads `\${x}` as `${x}`.

    For a value that a config is to hold, a folder's name: `quoted(literal(name))`.
    """
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _flags(argv: Sequence[str]) -> list[str]:
    """Return the flags of a train.py that say where its config is, read as Hydra reads them."""
    if not argv or Path(argv[0]).name != "train.py":
        return []
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cfg", "-c")  # else an abbreviation of those below
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-dir", "-cd")
    known = vars(parser.parse_known_args(argv[1:])[0])
    return [
        word
        for name in ("config_path", "config_name", "config_dir")
        if (value := known[name])
        for word in (f"--{name.replace('_', '-')}", value)
    ]
