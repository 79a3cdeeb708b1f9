"""The command line's help, read from the YAML files of conf/: groups, options, keys. No torch."""

import contextlib
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hydra._internal.utils import get_args_parser

import knobs
from knobs.completion import complete
from knobs.config import rules
from knobs.config.manual import ITSELF, WHOLE, Conf, Key, conf_of, default_options, first_comment
from knobs.config.rules import CONF
from knobs.errors import ConfigError, did_you_mean
from knobs.words import as_text, printable

MOST_GROUPS = 13  # with a line of their own: the whole is one screen of 24 lines
FEW = 3  # options of a group whose default is shown with its keys at once
KEY_HEADS = ("key", "default", "values")
WIDEST = 24  # characters of a column but the first and the last


# ------------------------------------------------------------------ what is asked
def answer(argv: Sequence[str]) -> bool:
    """Answer `--help`, `--version` and a shell that completes words; False where nobody asks.

    Raises:
        ConfigError: help is asked for something that is not there.
    """
    if not {"-h", "--help", "--version", "-sc", "--shell-completion"} & set(argv):
        return False
    if "--version" in argv:
        print(f"knobs {knobs.__version__}")
        print(", ".join(f"{name} {found}" for name in RELIES_ON if (found := _installed(name))))
        return True
    words = [word for word in argv if word != "--dry-run"]  # knobs' own, which Hydra does not know
    args = get_args_parser().parse_intermixed_args(words)
    if args.hydra_help or args.cfg or args.info:
        return False
    if args.shell_completion:
        return complete(args.overrides)
    show(conf_of(args), args.overrides)
    return True


RELIES_ON = ("torch", "hydra-core", "wandb")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def topics(words: Iterable[str]) -> list[str]:
    """Return what overrides name: groups, options and keys, each once.

    `optimizer=adam,sgd` names two options; of `optimizer.lr=3` only the key is meant.
    """
    found = []
    for word in words:
        key, equals, value = word.lstrip("+~").partition("=")
        key = key.partition("@")[0]
        plain = "." not in key and equals and re.fullmatch(r"[\w,-]+", value)
        found += [f"{key}={option}" for option in value.split(",") if option] if plain else [key]
    return list(dict.fromkeys(filter(None, found)))


def show(conf: Conf, words: Sequence[str]) -> None:
    """Print the help of what is named, or of all.

    Raises:
        ConfigError: there is nothing of this name.
    """
    from rich.console import Console

    out = Console(highlight=False, markup=False)
    for number, topic in enumerate(asked := topics(words)):
        if number:
            out.print()
        _show_topic(out, conf, topic)
    if not asked:
        _show_all(out, conf)


def _show_topic(out: Any, conf: Conf, topic: str) -> None:
    key, _, option = topic.partition("=")
    if key.startswith("hydra/"):
        _show_hydra(out, conf, key, option)
    elif key in conf.groups():
        show = _show_option if option and option != "null" else _show_group
        show(out, conf, key, option)
    else:
        _show_key(out, conf, key)


def _show_key(out: Any, conf: Conf, key: str) -> None:
    """Print a key, or the keys of a section; one of a group by the options that have it."""

    def named(keys: Mapping[str, Key]) -> list[Key]:
        return [keys[path] for path in keys if path == key or path.startswith(f"{key}.")]

    if own := named(conf.main_keys()):
        return _table(out, [(k.path, k.default, k.about) for k in own], KEY_HEADS)
    group = key.partition(".")[0]
    options = conf.options(group) if group not in WHOLE else {}
    found = {option: keys for option in options if (keys := named(conf.keys(group, option)))}
    if not found:
        names = [*conf.groups(), *conf.main_keys(), *rules.paths((*conf.folders, CONF))]
        more = f"; see --help {group}" if options else "; --help lists what there is"
        near = did_you_mean(key, names) or more
        raise ConfigError(f"--help {key}: no such group or key{near}")
    if any(len(keys) > 1 or keys[0].path != key for keys in found.values()):  # a section
        rows = [(f"{o}: {k.path}", k.default, k.about) for o, keys in found.items() for k in keys]
        return _table(out, rows, (f"option of {group}: key", *KEY_HEADS[1:]))
    rows = [(option, keys[0].default, keys[0].about) for option, keys in found.items()]
    out.print(f"{key}, by option of {group}:")
    _table(out, rows, ("option", *KEY_HEADS[1:]))


# ------------------------------------------------------------------ what is shown
def _show_all(out: Any, conf: Conf) -> None:
    """Print one screen: what to type first, the groups, how to see more."""
    out.print(re.sub("\n+", "\n", (sys.modules["__main__"].__doc__ or "").strip()), soft_wrap=True)
    groups, defaults = conf.groups(), default_options(conf.main)
    rows = [
        (f"{group}=", defaults.get(group, ""), groups[group])
        for group in groups
        if group != "study"
    ]
    rest = rows[MOST_GROUPS:]
    rows = rows[:MOST_GROUPS]
    rows.append(("-m +study=", "", "a question over many runs: which optimizer, which width, ..."))
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    room = out.width - sum(wide) - 6
    out.print("\nGroups and their defaults:")
    _table(out, [(f"  {name}", default, _fitted(about, room)) for name, default, about in rows])
    if rest:
        out.print("  also " + " ".join(name for name, *_ in rest))
    out.print("More: --help optimizer (its options), --help optimizer=adam (its values),")
    out.print("--help optimizer.lr, --help seed; --hydra-help (Hydra's flags); --cfg job (all).")


def _fitted(text: str, room: int) -> str:
    """Return text that fits: as many of its items as there is room for, else its first clause."""
    if len(text) <= room:
        return text
    items = text.split(", ")
    fitting = (", ".join([*items[:n], "..."]) for n in range(len(items) - 1, 0, -1))
    clause = re.split("[:;]", text, maxsplit=1)[0]
    if not room / 4 < len(clause) <= room:
        clause = textwrap.shorten(text, max(room, 5), placeholder=" ...")
    return next((short for short in fitting if len(short) <= room), clause)


def _show_group(out: Any, conf: Conf, group: str, _: str = "") -> None:
    """Print a group's options; of a group with few, its default's keys as well."""
    about, default = conf.groups()[group], default_options(conf.main).get(group, "")
    options = conf.options(group)
    name = f"-m +{group}=" if group == "study" else f"{group}="
    out.print(f"{name}  {about}".rstrip(), soft_wrap=True)
    rows = [("* " * (o == default) or "  ", o, first_comment(p)) for o, p in options.items()]
    _table(out, [(mark + option, about) for mark, option, about in rows])
    if default in options and len(options) <= FEW and group not in WHOLE:
        out.print()
        _show_option(out, conf, group, default)
    elif options:
        shown = default if default in options else next(iter(options))
        star = "* is the default. " if default in options else ""
        out.print(f"{star}The values of one: --help {group}={shown}")


def _show_option(out: Any, conf: Conf, group: str, option: str) -> None:
    """Print an option's opening comment and a table of its keys."""
    options = conf.options(group)
    if option not in options:
        near = did_you_mean(f"{group}={option}", (f"{group}={o}" for o in options))
        more = near or f"; see --help {group}"
        raise ConfigError(f"--help {group}={option}: no such option{more}")
    text = options[option].read_text("utf-8", "replace")
    out.print(f"{group}={option}")
    if group in WHOLE:
        return out.print(text.rstrip(), soft_wrap=True)
    for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()):
        _table(out, [("", line.lstrip("# "))])
    if keys := conf.keys(group, option).values():
        out.print()
        rows = [(k.path.removeprefix(f"{group}."), k.default, k.about) for k in keys]
        _table(out, rows, (f"{group}.KEY", *KEY_HEADS[1:]))


def _show_hydra(out: Any, conf: Conf, group: str, option: str) -> None:
    """Print the options of one of Hydra's groups, or the keys of one, which Hydra itself knows."""
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigLoadError, ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(conf.folders[0]), version_base="1.3"):
        options = GlobalHydra.instance().config_loader().get_group_options(group)
    if option not in ("", *options) or not options:
        what, near = ("option", did_you_mean(option, options)) if options else ("group", "")
        name = f"{group}={option}" if option else group
        raise ConfigError(f"--help {name}: no such {what}{near or '; see --hydra-help'}")
    if not option:
        text = conf.main.read_text("utf-8", "replace") if conf.main.is_file() else ""
        stated = re.search(rf"override {group}: (\w+) *(?:# *(.*))?$", text, re.MULTILINE)
        chosen, about = stated.groups("") if stated else ("", "")
        out.print(f"{group}=")
        rows = [(("* " if o == chosen else "  ") + o, about * (o == chosen)) for o in options]
        _table(out, rows)
        return out.print("* is the default." * bool(stated))
    rows = []
    with contextlib.suppress(ConfigLoadError):  # a YAML, which the store does not hold
        node = ConfigStore.instance().load(f"{group}/{option}.yaml").node
        rows = [(name, as_text(value)) for name, value in node.items() if name not in ITSELF]
    out.print(f"{group}={option}" + ("" if rows else "  has no keys that are listed here"))
    if rows:
        _table(out, rows, (f"{group.replace('/', '.')}.KEY", "default"))


def _table(out: Any, rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> None:
    """Print columns; the last one is wrapped, and a cell too wide for its column spills over."""
    from rich.text import Text

    rows = [tuple(map(printable, row)) for row in rows]
    wide = [max(map(len, cells)) for cells in zip(*rows, *[heads] * bool(heads), strict=True)]
    wide = [wide[0], *(min(w, WIDEST) for w in wide[1:])]
    indent = sum(wide[:-1]) + 2 * (len(wide) - 1)
    for row in [*[heads] * bool(heads), *rows]:
        *cells, last = row
        start = "  ".join(f"{cell:{w}}" for cell, w in zip(cells, wide, strict=False))
        lines = textwrap.wrap(last, max(out.width - indent, 20)) or [""]
        if len(start) <= indent - 2 or not last:
            start = f"{start}  {lines.pop(0)}"
        head = Text(start.rstrip(), style="bold" if row is heads else "")
        if row is not heads:
            head.stylize("cyan", 0, wide[0])
        for line in (head, *(Text(" " * indent + line) for line in lines)):
            out.print(line, soft_wrap=True)
