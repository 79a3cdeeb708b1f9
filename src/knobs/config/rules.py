"""Read the values that a key of a config may take from the comment beside it in its YAML.

A comment that begins with a rule, up to its first `;`, `(`, or `:` before a blank, is checked:

    lr: 1e-3               # > 0; usually 1e-4 .. 1e-2
    max_iters: 10          # whole number >= 1 and <= 99: tries a layer
    clip_norm: null        # null or > 0
    betas: [0.9, 0.999]    # 2 items, each >= 0 and < 1
    etas: [0.5, 1.2]       # [> 0 and < 1, > 1]
    mode: fan_in           # fan_in or fan_out
    silence: []            # each word
    width: 64              # whole number >= 1, or a list of them
    T_max: 100%            # whole number >= 1, or a percentage of the run
    split: random          # random, or group:COLUMN, or time:COLUMN

Without one, the group's other options say what a key of this name may hold, and then the
signature of the `_target_` or the type of the default (`true`: true or false).
"""

import contextlib
import functools
import math
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs.identity import CONF
from knobs.words import printable

TEXTS = {
    "word": "(?s).+",
    "word of 1 to 64 characters": "(?s).{1,64}",
    "name of at most 100 letters, digits, ., - and _": r"\w[\w.-]{0,99}",
    "group:COLUMN": "(?s)group:.+",
    "time:COLUMN": "(?s)time:.+",
    "percentage of the run": r"0*(\d\d?(\.\d+)?|100(\.0+)?)%",
}
VALUES = {"null": None, "true": True, "false": False}
COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
BOUND = re.compile(r"(>=|<=|>|<) (-?[\d.]+(?:e-?\d+)?(?:\^\d+)?)")
NUMBER = re.compile(rf"(whole )?(?:number)?((?: ?(?:and )?{BOUND.pattern})*)")
EACH = re.compile(r"(?:list of )?(?:(\d+ )?items, )?each (.+)")
LINE = re.compile(r"( *)([\w-]+):(?: +(.*?))??(?:\s+# ?(.*))?")
MAX_SHOWN = 80  # characters of a value in a message
OPEN = "[{$?"  # how a default begins that is no plain value
NO_DEFAULTS = ("hydra", "study", "experiment")  # folders whose files set other groups' keys


@dataclass(frozen=True)
class Rule:
    """A test of one value and the words that say what passes it."""

    says: str
    accepts: Callable[[Any], bool]
    parts: tuple["Rule", ...] = ()  # the alternatives


def show(value: Any) -> str:
    """Return a value as a YAML has it, cut to a length."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else printable(str(value), MAX_SHOWN)


def number(bounds: str = "", whole: bool = False) -> Rule:
    """Accept finite numbers within bounds such as `>= 0 and < 1`."""
    ends = [(COMPARE[sign], plain(text)) for sign, text in BOUND.findall(bounds)]

    def accepts(value: Any) -> bool:
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        return fits and math.isfinite(value) and all(test(value, end) for test, end in ends)

    return Rule(f"a {'whole ' * whole}number {bounds}".strip(), accepts)


def one_of(*options: Any) -> Rule:
    """Accept the words (or values) given."""
    says = "one of " * (len(options) > 1) + ", ".join(map(show, options))
    return Rule(says, lambda v: any(v is o or (v == o and type(v) is type(o)) for o in options))


def list_of(rule: Rule, size: int | None = None) -> Rule:
    """Accept a list whose items all pass `rule`."""
    return Rule(
        f"a list of {f'{size} ' if size else ''}items, each {rule.says}",
        lambda v: isinstance(v, list) and size in (None, len(v)) and all(map(rule.accepts, v)),
    )


def pair(first: Rule, second: Rule) -> Rule:
    """Accept a list of two, each with a rule of its own."""
    return Rule(
        f"[{first.says}, {second.says}]",
        lambda v: list_of(anything, 2).accepts(v) and first.accepts(v[0]) and second.accepts(v[1]),
    )


def either(*rules: Rule) -> Rule:
    """Accept what any of the rules accepts."""
    parts = tuple({p.says: p for r in rules for p in r.parts or (r,)}.values())
    says = ", or ".join(p.says for p in parts)
    return Rule(says, lambda v: any(p.accepts(v) for p in parts), parts) if parts[1:] else parts[0]


def text(phrase: str) -> Rule:
    """Accept the texts that one of TEXTS means; numbers name folders too."""
    kinds = (str, int, float) if phrase.startswith("name") else (str,)
    says = f"a {phrase}" + " such as 30%" * phrase.startswith("percentage")
    return Rule(says, lambda v: type(v) in kinds and bool(re.fullmatch(TEXTS[phrase], str(v))))


null, flag, anything = one_of(None), one_of(True, False), Rule("any value", lambda value: True)
PLAIN = {bool: flag, int: number(whole=True), float: number(), str: text("word"), type(None): null}
NAMES = {kind.__name__: kind for kind in PLAIN} | {"None": type(None), "Tensor": "Tensor"}


def plain(text: str) -> Any:
    """Return what a plain value stands for as a YAML has it; `2^63` too."""
    base, _, power = text.partition("^")
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(base) ** int(power or 1)
    return VALUES.get(text, text)


def parse(text: str) -> Rule | None:
    """Return the rule that words such as `null or > 0` state; None where they state none."""
    text = text.replace("list of them", f"list of items, each {text.split(', or ')[0]}")
    if EACH.fullmatch(text):
        return _part(text)  # `each` covers all that follows it
    parts = text.split(", or ")
    rules = [_part(p) or (_words(p) if parts[1:] and p.isidentifier() else None) for p in parts]
    return None if None in rules else either(*rules)


def _words(*names: str) -> Rule:
    return one_of(*(VALUES.get(name, name) for name in names))


def _part(words: str) -> Rule | None:
    """Return the rule of one alternative."""
    words = re.sub("^an? ", "", words.strip())
    if words.startswith("null or ") and (rest := parse(words.removeprefix("null or "))):
        return either(null, rest)
    if words in TEXTS:
        return text(words)
    if words == "mapping":
        return Rule("a mapping, {key: value}", lambda v: isinstance(v, dict))
    if words and (match := NUMBER.fullmatch(words)):
        return number(match[2].strip(), whole=bool(match[1]))
    if match := EACH.fullmatch(words):
        return (item := parse(match[2])) and list_of(item, match[1] and int(match[1]))
    if words.startswith("[") and len(halves := [parse(t) for t in words[1:-1].split(", ")]) == 2:
        return pair(*halves) if None not in halves else None
    if re.fullmatch(r"\w+(?:, \w+)* or \w+", words):
        return _words(*re.split(", | or ", words))
    return None


def of_comment(default: str, comment: str) -> Rule | None:
    """Return the rule that a comment begins with; words that leave out the default are prose."""
    rule = parse(re.split(r"[;(]|:(?!\S)", comment, maxsplit=1)[0].strip())
    if rule is None:
        return None
    value, choice = plain(default), not rule.parts and rule.says.startswith("one of ")
    prose = choice or isinstance(value, str)
    return rule if not prose or default[:1] in OPEN or rule.accepts(value) else None


def of_type(kind: Any) -> Rule | None:
    """Return the rule of an annotation; None where it says nothing of plain values."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, str):  # a module whose annotations are text
        origin, inner = types.UnionType, [NAMES.get(name, object) for name in kind.split(" | ")]
    if origin is typing.Literal:
        return one_of(*inner)
    rules = [of_type(k) for k in inner if k is not ... and getattr(k, "__name__", k) != "Tensor"]
    if rules and None not in rules and origin in (typing.Union, types.UnionType):
        return either(*rules)
    if rules and None not in rules and origin in (list, tuple):
        return list_of(either(*rules), len(inner) if origin is tuple and ... not in inner else None)
    return PLAIN.get(kind)


def of_default(text: str) -> Rule:
    """Return the rule of a default as a YAML has it."""
    value = plain(text)
    if text[:1] in OPEN or value is None:
        return anything
    return Rule("a word", lambda v: isinstance(v, str)) if text == '""' else PLAIN[type(value)]


@functools.cache
def read(folder: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Return path -> option -> (default, comment) of every key in a folder of configs.

    The default of a section, and of what stands in further lines, is empty.
    """
    keys: dict[str, dict[str, tuple[str, str]]] = {}
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]):
        group = "" if file.parent == folder else f"{file.parent.name}."
        sections = [(-1, group)]  # (indentation, prefix of the keys)
        lines = map(LINE.fullmatch, file.read_text("utf-8", "replace").splitlines())
        for indent, name, default, comment in (match.groups() for match in lines if match):
            while sections[-1][0] >= len(indent):
                sections.pop()
            path = f"{sections[-1][1]}{name}"
            sections.append((len(indent), f"{path}."))
            if path.split(".")[0] not in NO_DEFAULTS:
                keys.setdefault(path, {})[file.stem] = (default or "", comment or "")
    return keys


def paths(folders: tuple[Path, ...] = (CONF,)) -> list[str]:
    """Return every key that the configs of folders hold."""
    keys = [item for folder in folders for item in read(folder).items()]
    return sorted({path for path, places in keys if "._" not in path and max(places.values())[0]})


def groups(folders: Sequence[Path]) -> list[str]:
    """Return the names of the groups that folders of configs have; hydra's own left out."""
    found = {file.parent.name for folder in folders for file in folder.glob("*/*.yaml")}
    return sorted(found - {"hydra"})


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Return the names of a group's options; none where it is no group."""
    if not re.fullmatch(r"\w+(/\w+)*", group):
        return []
    places = [folder / group for folder in folders if os.path.isdir(folder / group)]
    return sorted({path.stem for place in places for path in place.glob("*.yaml")})


def options_with(path: str, option: str, folders: tuple[Path, ...]) -> list[str]:
    """Return the options of a key's group that have the key, where the chosen one has it not.

    An option has the keys of those that its `defaults` name too.

    Args:
        option: the chosen one; empty where that is not known.
    """
    group = path.split(".")[0]
    have = {name for folder in folders for name in read(folder).get(path, ())}
    if not option or not have or have & _inherited(group, option, folders):
        return []
    return sorted(have)


@functools.lru_cache(maxsize=1024)
def _inherited(group: str, option: str, folders: tuple[Path, ...]) -> frozenset[str]:
    """Return an option and those that it is made of."""
    names = {option}
    for file in (folder / group / f"{option}.yaml" for folder in folders):
        if os.path.isfile(file):
            found = re.findall(r"^ +- (\w+)\s*(?:#.*)?$", file.read_text("utf-8", "replace"), re.M)
            names |= {*found} - {"_self_", option}
    others = (_inherited(group, name, folders) for name in names - {option})
    return frozenset(names).union(*others)


def where(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return `choices` and `folders` of a composed config, from Hydra's record of it."""
    files = [Path(s["path"]) for s in runtime.get("config_sources", ()) if s["schema"] == "file"]
    return {"choices": runtime.get("choices", {}), "folders": (*files, CONF)}


def rule(path: str, choices: Mapping[str, str] = {}, folders: tuple = (CONF,)) -> Rule | None:
    """Return the rule of a key; None where there is none, or only that of a signature.

    Args:
        choices: group -> option.
        folders: of configs; the first has the last word.
    """
    return _rule(path, choices.get(path.split(".")[0], ""), folders)


@functools.lru_cache(maxsize=4096)
def _rule(path: str, option: str, folders: tuple[Path, ...]) -> Rule | None:
    places = {name: p for f in reversed(folders) for name, p in read(f).get(path, {}).items()}
    rules = {name: r for name, place in places.items() if (r := of_comment(*place))}
    if rules:
        return rules.get(option) or either(*rules.values())
    target = f"{path.rpartition('.')[0]}._target_"
    keys = {key: place for folder in folders for key, place in read(folder).items()}
    if target in keys or any(key.startswith(f"{path}.") for key in keys):
        return None  # a signature judges it, or it is a section
    if places:
        return of_default(places.get(option, next(iter(places.values())))[0])
    section = keys.get(path.rpartition(".")[0], {})
    return anything if any(default[:1] == "{" for default, _ in section.values()) else None
