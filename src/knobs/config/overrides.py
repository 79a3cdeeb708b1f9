"""Lines of a command line -> overrides, and every slip that shows before a config is composed."""

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from knobs.config import hydra_settings, rules
from knobs.config.combinations import MAX_JOBS, SKIP, ZIP, expand, size
from knobs.config.meant import meant
from knobs.config.question import NOT_SEARCHED, root
from knobs.errors import ConfigError, did_you_mean, first_line
from knobs.identity import FILES, NOT_IDENTITY, under
from knobs.search.space import NO_RANGE
from knobs.words import printable

OF_GRIDS = "search.pruner"  # heeded outside a search too
NONE_OF_IT = ("none", "off", "no", "false", "nothing", "disabled")  # for a group without such
SEVERAL = ("experiment", "hydra")  # groups of which several options may be chosen at once


def parse(lines: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Return overrides as Hydra reads them, and a fault for each line that it cannot read."""
    hydra = GlobalHydra.instance()
    # The loader knows the options that glob(*) means.
    loader = hydra.config_loader() if hydra.is_initialized() else None
    parser, parsed, faults = OverridesParser.create(), [], []
    for line in lines:
        if wrong := _no_text(line):
            faults.append(f"{printable(line, 80)}: {wrong}; type it as plain text")
            continue
        try:
            parsed.append(parser.parse_override(line))
            parsed[-1].config_loader = loader
        except HydraException as error:
            short = re.sub(r" expecting \{.*\}", "", first_line(error))
            faults.append(_unread(line, short))
        except Exception as error:  # numbers of 5,000 digits, lists in lists in lists
            faults.append(_unread(line, type(error).__name__))
    return parsed, faults


def _no_text(line: str) -> str:
    """Say what in a line is no text that a file or a screen could hold; empty where all is."""
    for place, c in enumerate(line, 1):
        if (not c.isprintable() and not c.isspace()) or c in "\n\r\0\x0b\x0c":
            return f"character {place} is U+{ord(c):04X}, a control character or no text"
    return ""


def _unread(line: str, reason: str) -> str:
    line, word = printable(line, 80), line.strip()
    if "=" in line:
        key, _, value = line.partition("=")
        hint = ""
        if re.search(r"\w", value) and not re.search(r"""["\[{(]|^'""", value):
            double = shlex.quote(f'{key}="{value}"')
            hint = f"; a value with such characters is quoted twice: {double}"
        return f"{line}: cannot be read ({reason}){hint}"
    if not re.fullmatch(r"[+~]*[\w./-]+", word):
        return f"{line}: cannot be read ({reason}); write KEY=VALUE"
    if options := rules.options(word, (rules.CONF,)):
        return f"{line}: write {word}=OPTION, one of {', '.join(options)}"
    if word in rules.paths():
        rule = rules.rule(word)
        says = f", {rule.says}" if rule and rule is not rules.anything else ""
        return f"{line}: has no value; write {word}=VALUE{says}"
    return f"{line}: write KEY=VALUE{meant(word, '', (rules.CONF,))}"


def faults_of(
    override: Override,
    folders: Sequence[Path],
    grid: bool,
    search: bool,
    given: Collection[str] = (),
) -> Iterator[str]:
    """Yield what is wrong with an override by itself: what it sweeps, chooses or takes away.

    Args:
        folders: of configs.
        grid: whether it is one of several jobs.
        search: whether these are those of a search.
        given: the keys of all overrides; one that brings another target may take arguments away.
    """
    line, key, first = printable(override.input_line, 200), override.key_or_group, root(override)
    if override.is_sweep_override() and not grid:
        yield f"{line}: several values are a grid; put -m first"
        return
    if first == "hydra" and key != first:
        value = None if override.is_sweep_override() else override.value()
        refused = [*hydra_settings.typed_faults(line, key, value)]
        if refused:
            yield from refused
            return
    options = options_of(override, folders)
    ranged = override.is_range_sweep() or override.is_interval_sweep()
    counted = override.is_sweep_override() and not (options and ranged)
    if counted and (wrong := _sweep_fault(override, search)):
        yield f"{line}: {wrong}"
        return
    if first == "search" and not search and key != "search" and not (grid and key == OF_GRIDS):
        yield f"{line}: belongs to a search; add -m hydra/sweeper=search, or -m +study=NAME"
    if key in (ZIP, SKIP) and (not grid or search):
        yield f"{key}: belongs to a grid; put -m first, without a search"
    if override.is_delete():
        if f"{key.rpartition('.')[0]}._target_" not in given:
            yield from _deleted(override, options, folders)
    elif options:
        yield from _option_faults(override, options, folders)
    elif key == "hydra":
        yield f"{line}: is a section; set one of its keys, as in hydra.run.dir=FOLDER"
    elif _is_dict(override) and _is_value(key, folders):
        rule = rules.rule(key, folders=_and_conf(folders))
        if rule and not rule.accepts(override.value()):
            yield f"{line}: must be {rule.says}"
    elif first != "hydra" and _is_section(key, folders) and not _is_dict(override):
        inside = [path for path in rules.paths(_and_conf(folders)) if path.startswith(f"{key}.")]
        yield f"{line}: is a section; set one of its keys: {', '.join(inside[:6])}"


def _sweep_fault(override: Override, search: bool) -> str:
    """Say what is wrong with an override of several values; empty where nothing is."""
    key, first = override.key_or_group, root(override)
    if first in (ZIP, SKIP):
        return "has one value; write it in one pair of quotes"
    if search and (one := next((k for k in (first, key) if k in NOT_SEARCHED), "")):
        return f"no knob to search, {one} has one value"
    if override.is_interval_sweep():
        return "" if search else "a range is searched, not listed; add hydra/sweeper=search"
    if not search and under(key, NOT_IDENTITY) and not under(key, (*FILES, "search", "hydra")):
        return "changes nothing that a run computes, so its runs would be one; give one value"
    count = size(override)
    if count is None:
        return NO_RANGE
    if count > MAX_JOBS and not (search and override.is_range_sweep()):
        return f"has {count:,} values, and a grid at most {MAX_JOBS:,} jobs"
    return ""


def _deleted(override: Override, options: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    """Yield why what a line takes away cannot be taken away; a key that conf/ has not, can."""
    key = override.key_or_group
    if options:
        yield f"~{key}: leave it out, or choose: {', '.join(options)}"
    elif root(override) == "hydra":
        if key == "hydra":
            yield "~hydra: a run needs it; leave it out"
    elif _is_section(key, folders):
        yield f"~{key}: a run needs this section; leave it out"
    elif key in rules.paths(_and_conf(folders)):
        rule = rules.rule(key, folders=_and_conf(folders))
        says = f", {rule.says}" if rule else ""
        yield f"~{key}: a run needs a value; leave it out, or set {key}=VALUE{says}"


def _option_faults(
    override: Override, options: Sequence[str], folders: Sequence[Path]
) -> Iterator[str]:
    """Yield what a line chooses that its group does not have."""
    key, listing = override.key_or_group, f"options: {', '.join(options)}"
    if override.is_range_sweep() or override.is_interval_sweep():
        yield f"{override.input_line}: {key} has names, not numbers; {listing}"
        return
    values: list[Any] = [override.value()]
    if override.is_sweep_override():
        values = [str(v).strip("'\"") for v in override.sweep_string_iterator()]
    for value in values:
        if value is None or (value not in options and str(value).lower() in NONE_OF_IT):
            yield f"{key}={rules.show(value)}: leave it out, or choose: {', '.join(options)}"
        elif isinstance(value, list) and root(override) not in SEVERAL:
            several = value[1:] and set(map(str, value)) <= set(options)
            grid = f"; a grid of them: -m {key}={','.join(value)}" if several else ""
            yield f"{override.input_line}: takes one option{grid}; {listing}"
        elif isinstance(value, bool | int | float):
            yield f"{key}={override.get_value_string()}: no such option; {listing}"
        elif isinstance(value, str) and "${" not in value and value not in options:
            near = did_you_mean(value, options) or _elsewhere(value, key, folders)
            yield f"{key}={printable(value, 60)}: no such option{near or ';'} {listing}"


def _elsewhere(value: str, group: str, folders: Sequence[Path]) -> str:
    """Return `; did you mean G=value?` where another group has an option of that name."""
    groups = [g for g in rules.groups(folders) if g != group and value in rules.options(g, folders)]
    return f"; did you mean {groups[0]}={value}?" if groups else ""


def options_of(override: Override, folders: Sequence[Path]) -> list[str]:
    """Return the options that an override chooses from; none where it sets a value."""
    key = override.key_or_group
    if key.startswith("hydra/") and override.config_loader:
        return sorted(override.config_loader.get_group_options(key))
    return [] if _is_dict(override) else rules.options(key.replace(".", "/"), folders)


def _is_dict(override: Override) -> bool:
    return isinstance(override.value(), dict)


def _is_section(key: str, folders: Sequence[Path]) -> bool:
    return any(path.startswith(f"{key}.") for path in rules.paths(_and_conf(folders)))


def _is_value(key: str, folders: Sequence[Path]) -> bool:
    """Return whether a key holds a plain value in every YAML that has it."""
    places = [
        place for folder in _and_conf(folders) for place in rules.read(folder).get(key, {}).values()
    ]
    return bool(places) and all(default and default[:1] not in "{$" for default, _ in places)


def _and_conf(folders: Sequence[Path]) -> tuple[Path, ...]:
    return (*folders, rules.CONF)


def jobs(lines: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a grid, as Hydra's own sweeper makes them.

    Args:
        lines: as on the command line; `glob(*)` only while Hydra is initialized.

    Raises:
        ConfigError: one cannot be read.
    """
    parsed, faults = parse(list(lines))
    if faults:
        raise ConfigError("\n".join(faults))
    return list(expand(parsed))
