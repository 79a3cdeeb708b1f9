"""Words that a shell completes: groups, options, keys, values, folders of runs. No torch.

The scripts are Hydra's (`-sc install=bash`, whose script zsh takes too, or fish). They ask
`-sc query=bash` with the line in COMP_LINE; Hydra's own answer knows no values of keys.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args, get_args_parser
from hydra.plugins.completion_plugin import CompletionPlugin

from knobs import record, shell
from knobs.config import rules
from knobs.config.manual import WHOLE, Conf, Key, conf_of, default_options

RUNS, SWEEPS = Path("outputs/runs"), Path("outputs/sweeps")
# Of the command line alone, no keys of a config.
FLAGS, WORDS = ("--dry-run", "--version"), ("keep_going", "rerun", "trust")
MOST_RUNS = 100  # the newest; more are no help


def complete(query: Sequence[str]) -> bool:
    """Print what may follow in COMP_LINE; False where Hydra is to answer."""
    shell_name = dict(word.partition("=")[::2] for word in query).get("query")
    if shell_name not in ("bash", "zsh", "fish"):
        return False  # install and uninstall
    line = os.environ.get("COMP_LINE", "")
    point = os.environ.get("COMP_POINT", "")
    before, word = _words(line[: int(point)] if point.isdecimal() else line)
    if word.lstrip("+~").startswith("hydra"):
        return False
    args = get_args(before)
    found = sorted(set(candidates(conf_of(args), args.overrides, word, help=args.help)))
    print(("\n" if shell_name == "fish" else " ").join(w for w in found if not set(w) & {*" \t\n"}))
    return True


def _words(line: str) -> tuple[list[str], str]:
    """Return a command line's finished words, the program left out, and the one to complete."""
    words = line.split()
    word = words.pop() if words and not line[-1].isspace() else ""
    script = next((i for i, w in enumerate(words) if w.endswith(".py")), 0)
    return words[script + 1 :], word


def candidates(conf: Conf, given: Sequence[str], word: str, help: bool = False) -> Iterator[str]:
    """Yield the words that one may become.

    Args:
        given: overrides in front of it; they choose the options whose keys are meant.
        help: whether `--help` stands in front: what it explains.
    """
    if word.startswith("-"):
        flags = get_args_parser()._option_string_actions
        yield from (f for f in (*flags, *FLAGS) if f.startswith(word) and f[:2] == "--")
        return
    prefix = word[: len(word) - len(word.lstrip("+~"))]
    key, equals, value = word[len(prefix) :].partition("=")
    if not equals:
        names = _names(conf, given, "." in key)
        added = [f"{group}=" for group in conf.groups() if group not in default_options(conf.main)]
        if help:
            names += [name.rstrip("=.") for name in [*names, *added]]
        else:  # what has no default is added: +study=lr
            names = [f"+{name}" for name in added] + names * (not prefix)
        yield from (name for name in names if name.lstrip("+").startswith(key))
        return
    *before, last = value.split(",")  # of a sweep
    start = prefix + key + "=" + "".join(f"{v}," for v in before)
    if last.startswith(("/", "./", "../")):
        yield from (start + name for name in CompletionPlugin.complete_files(last))
    else:
        yield from (start + v for v in _values(conf, given, key) if v.startswith(last))


def _names(conf: Conf, given: Sequence[str], keys: bool) -> list[str]:
    """Return what can be set: `optimizer=`, `seed=`, and `optimizer.` or all keys such as that."""
    groups, main = default_options(conf.main), conf.main_keys()
    if keys:
        return [f"{name}=" for name in (*main, *_keys(conf, given))]
    sections = [
        *(g for g in groups if g not in WHOLE),
        *(p.split(".")[0] for p in main if "." in p),
    ]
    names = (*groups, *(path for path in main if "." not in path), *WORDS)
    return [f"{name}=" for name in names] + [f"{name}." for name in sections]


def _chosen(conf: Conf, given: Sequence[str]) -> dict[str, str]:
    """Return group -> option, or options of a sweep: `adam,sgd`."""
    return default_options(conf.main) | dict(o.lstrip("+").partition("=")[::2] for o in given)


def _keys(conf: Conf, given: Sequence[str]) -> dict[str, Key]:
    """Return the keys of the options that are chosen."""
    chosen = _chosen(conf, given)
    return {
        path: key
        for group in conf.groups()
        for option in chosen.get(group, "").split(",")  # all of a sweep's
        if option in conf.options(group) and group not in WHOLE
        for path, key in conf.keys(group, option).items()
    }


def _values(conf: Conf, given: Sequence[str], key: str) -> Iterator[str]:
    """Yield values of a group, of a key that takes fixed ones, or what lies below outputs/."""
    if key in conf.groups():
        yield from conf.options(key)
    elif key in ("resume", "rerun", "refit"):
        yield from filter(_plain, map(str, _runs()))
    elif key in WORDS:
        yield from ("false", "true")
    elif key == "sweep":
        for name in (record.LEDGER, record.STUDY):
            yield from filter(_plain, (path.parent.name for path in SWEEPS.glob(f"*/{name}")))
    else:
        rule = rules.rule(key, _chosen(conf, given), conf.folders)
        default = {**conf.main_keys(), **_keys(conf, given)}.get(key)
        yield from _fixed(rule)
        if default and not set(default.default) & {*'${"'}:
            yield default.default
        if default and default.about.startswith("true or false"):
            yield from ("true", "false")


def _fixed(rule: rules.Rule | None) -> Iterator[str]:
    """Yield the words of a rule that names them: `one of null, mean`."""
    for part in (rule.parts or (rule,)) if rule else ():
        if part.says.startswith("one of "):
            words = part.says.removeprefix("one of ").split(", ")
            yield from (w.lower() if w in ("True", "False") else w for w in words)


def _runs() -> list[Path]:
    """Return the newest runs below outputs/runs, by their dates."""
    found: list[Path] = []
    for day in sorted(RUNS.glob("*"), reverse=True):
        found += sorted((path.parent for path in day.glob(f"*/{record.CONFIG}")), reverse=True)
        if len(found) >= MOST_RUNS:
            break
    return found[:MOST_RUNS]


def _plain(name: str) -> bool:
    """Return whether a name can be completed: one that needs quotes is typed by hand."""
    return shell.quoted(name) == name
