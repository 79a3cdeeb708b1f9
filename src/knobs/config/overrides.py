"""Lines of a command line -> overrides, and every slip that shows before a config is composed."""

import math
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from knobs.config import hydra_settings, rules
from knobs.config.question import NOT_SEARCHED, root
from knobs.errors import ConfigError, closest, did_you_mean, first_line
from knobs.identity import FILES, NOT_IDENTITY, key_of, under
from knobs.search.space import NO_RANGE, range_size
from knobs.words import listed, printable

MAX_JOBS = 100_000  # of a grid; more are never built
OF_GRIDS = "search.pruner"  # heeded outside a search too
ZIP, SKIP = "zip", "skip"  # keys of config.yaml that shape a grid
FOLDS, FOLD, ALL = "data.folds", "data.fold", "all"  # of which each_fold makes runs
NONE_OF_IT = ("none", "off", "no", "false", "nothing", "disabled")  # for a group without such
SEVERAL = ("experiment", "hydra")  # groups of which several options may be chosen at once
# What people of other tools type; the first that is a key is meant.
ALSO_CALLED = {
    "learning_rate": "lr", "alpha": "lr", "lrate": "lr", "wd": "weight_decay", "bs": "batch_size",
    "batch": "batch_size", "batchsize": "batch_size", "max_epochs": "epochs", "n_epochs": "epochs",
    "num_epochs": "epochs", "hidden_size": "width", "hidden": "width", "hidden_dim": "width",
    "units": "width", "layers": "depth", "num_layers": "depth", "n_layers": "depth",
    "emb_dim": "embedding_dim", "gpu": "device", "cuda": "device", "amp": "precision",
    "patience": "early_stopping.patience", "grad_clip": "clip_norm", "clip": "clip_norm",
    "random_seed": "seed", "random_state": "seed", "dataset": "data", "opt": "optimizer",
    "optim": "optimizer", "lr_scheduler": "scheduler", "schedule": "scheduler", "network": "model",
    "arch": "model", "nonlinearity": "activation", "criterion": "loss", "num_workers": "workers",
    "project": "tracking.project", "batch_norm": "norm", "weight_init": "init",
}  # fmt: skip
# Sections whose keys are meant last where several have a key of the same name.
SELDOM = ("search", "tracking", "hydra", "data", "init", "loss")


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


def size(override: Override) -> int | None:
    """Count an override's values without building them; None where they have no end."""
    if not override.is_sweep_override() or override.is_interval_sweep():
        return 1
    if override.is_range_sweep():
        return range_size(override.value())
    return sum(1 for _ in override.sweep_iterator())


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
    groups = [g for g in _groups(folders) if g != group and value in rules.options(g, folders)]
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


def _groups(folders: Sequence[Path]) -> list[str]:
    found = {file.parent.name for folder in folders for file in folder.glob("*/*.yaml")}
    return sorted(found - {"hydra"})


def together(parsed: Sequence[Override], search: bool = False) -> Iterator[str]:
    """Yield what is wrong with overrides of several values beside each other: twice, too many."""
    by_key: dict[str, list[Override]] = {}
    for override in parsed:
        by_key.setdefault(override.key_or_group, []).append(override)
    for key, several in by_key.items():
        if any(o.is_sweep_override() for o in several[:-1]):  # whose values would be lost
            every = ",".join(o.get_value_string() for o in several)
            yield f"{key}: is given {len(several)} times; list all values once: {key}={every}"
    if search:
        return
    axes = zipped(parsed)
    for key in (key for axis in axes for key in axis if key in by_key):
        yield f"zip: {key} is given outside of it as well; keep one"
    for axis in axes:
        if len({len(values) for values in axis.values()}) > 1:
            counts = ", ".join(f"{key} has {len(values)}" for key, values in axis.items())
            yield f"zip: its lists must be of one length, and {counts}"
    total = math.prod(size(o) or 0 for o in parsed)
    total *= math.prod(max(map(len, axis.values()), default=1) for axis in axes)
    total *= most_folds(parsed, axes)
    if total > MAX_JOBS:
        fewer = "list fewer values, or search instead: hydra/sweeper=search search.runs=40"
        yield f"the grid has {total:,} jobs, and may have {MAX_JOBS:,}; {fewer}"


def zipped(parsed: Sequence[Override]) -> list[dict[str, list[str]]]:
    """Return the axes that `zip={a:[1,2],b:[3,4]}` pairs: key -> its values as Hydra takes them.

    Raises:
        ConfigError: it is no such thing.
    """
    axes = []
    for override in (o for o in parsed if o.key_or_group == ZIP and o.value() is not None):
        node, form = override._value, "zip={model.width:[64,128],optimizer.lr:[1e-2,3e-3]}"
        lists = isinstance(node, dict) and all(isinstance(v, list) and v for v in node.values())
        if not lists or len(node) < 2:
            raise ConfigError(f"{override.input_line}: must pair two or more lists, as '{form}'")
        text = Override._get_value_element_as_str
        axes.append({text(key): [text(v) for v in values] for key, values in node.items()})
    return axes


def skipped(parsed: Sequence[Override]) -> list[tuple[str, ...]]:
    """Return the combinations that `skip=["a=1 b=2"]` leaves out, each as overrides.

    Raises:
        ConfigError: it is no such thing.
    """
    left_out = []
    for override in (o for o in parsed if o.key_or_group == SKIP and o.value() is not None):
        texts = override.value()
        if not isinstance(texts, list) or not all(isinstance(t, str) and "=" in t for t in texts):
            form = """'skip=["optimizer=sgd optimizer.lr=0.1"]'"""
            raise ConfigError(f"{override.input_line}: must list combinations, as {form}")
        left_out += [tuple(text.split()) for text in texts]
    return left_out


def first_job(parsed: Sequence[Override]) -> list[str]:
    """Return a job of a grid that is not expanded: of each override the first value, if any."""
    of_runs = [o for o in parsed if o.key_or_group not in (ZIP, SKIP) and size(o)]
    job = [
        f"{o.get_key_element()}={next(o.sweep_string_iterator())}"
        if o.is_sweep_override()
        else o.input_line
        for o in of_runs
        if not o.is_interval_sweep()
    ]
    return next(each_fold(job))


def expand(parsed: Sequence[Override]) -> Iterator[list[str]]:
    """Yield the jobs of a grid, a list of overrides each; of a key given twice the last counts.

    `zip` pairs values, `data.fold=all` stands for every fold, `skip` leaves combinations out.
    """
    axes: dict[str, list[tuple[str, ...]]] = {}
    for override in (o for o in parsed if o.key_or_group not in (ZIP, SKIP)):
        key, several = override.get_key_element(), override.is_sweep_override()
        values = override.sweep_string_iterator() if several else ()
        axes[key] = [(f"{key}={v}",) for v in values] if several else [(override.input_line,)]
    for n, axis in enumerate(zipped(parsed)):
        columns = ([f"{key}={value}" for value in values] for key, values in axis.items())
        axes[f"{ZIP} {n}"] = list(zip(*columns, strict=True))
    left_out = [set(map(_plain, lines)) for lines in skipped(parsed)]
    products = ([line for part in parts for line in part] for parts in product(*axes.values()))
    for job in (job for lines in products for job in each_fold(lines)):
        if not left_out or not any(lines <= set(map(_plain, job)) for lines in left_out):
            yield job


def each_fold(job: list[str]) -> Iterator[list[str]]:
    """Yield a job for each fold where it asks for `data.fold=all`, else the job itself.

    Where its own lines do not say how many folds there are, it stays, and its check says so.
    """
    values = {key_of(line): line.partition("=")[2].strip("'\"") for line in job}
    count = values.get(FOLDS, "")
    if values.get(FOLD) != ALL or not count.isdecimal() or int(count) < 2:
        yield job
        return
    for fold in range(int(count)):
        yield [f"{FOLD}={fold}" if key_of(line) == FOLD else line for line in job]


def most_folds(parsed: Sequence[Override], axes: Sequence[dict[str, list[str]]]) -> int:
    """Return the most runs that `data.fold=all` makes of one; 1 where it is not asked for."""
    values: dict[str, list[str]] = {FOLDS: [], FOLD: []}
    for key, found in values.items():
        for one in (o for o in parsed if o.key_or_group == key):
            several = one.is_sweep_override() and not one.is_interval_sweep()
            found += one.sweep_string_iterator() if several else [one.get_value_string()]
        found += [value for axis in axes for value in axis.get(key, ())]
    if ALL not in values[FOLD]:
        return 1
    return max([1, *(int(value) for value in values[FOLDS] if value.isdecimal())])


def _plain(line: str) -> tuple[str, Any]:
    """Return what a line sets, to compare: 1e-1 is 0.1."""
    key, _, value = line.partition("=")
    try:
        return key, float(value)
    except ValueError:
        return key, value.strip("'\"")


def useless_skips(parsed: Sequence[Override]) -> Iterator[str]:
    """Yield the combinations to leave out that no job has: a slip in one would go unseen."""
    left_out = skipped(parsed)
    if not left_out:
        return
    every = [o for o in parsed if o.key_or_group != SKIP]
    unseen = {lines: set(map(_plain, lines)) for lines in left_out}
    for job in expand(every):
        having = set(map(_plain, job))
        unseen = {lines: wanted for lines, wanted in unseen.items() if not wanted <= having}
        if not unseen:
            return
    for lines in unseen:
        yield f"skip: no job of the grid has {' '.join(lines)}; write it as the grid does"


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


def unknown(override: Override, known: Iterable[str], folders: Sequence[Path]) -> str:
    """Return the fault of a key that no config has, and what was meant."""
    value = override.get_value_string() if "=" in override.input_line else ""
    near = meant(override.key_or_group, value, folders, known)
    return f"{printable(override.input_line, 200)}: no such key{near}"


def meant(key: str, value: str, folders: Sequence[Path], known: Iterable[str] = ()) -> str:
    """Return `; did you mean KEY=VALUE?` for a key that does not exist; empty where none is near.

    The last part of a key counts most: `lr` is optimizer.lr, `dropout` regularization.dropout.
    """
    key = key.replace("/", ".")
    paths, groups = (
        list(dict.fromkeys([*known, *rules.paths(_and_conf(folders))])),
        _groups(folders),
    )
    last = key.rpartition(".")[2].lower().replace("-", "_")
    last = ALSO_CALLED.get(last, last)
    first = key.partition(".")[0]
    if "." in key and last in rules.options(first, folders):  # optimizer/adam, optimizer.adam
        return f"; did you mean {first}={last}?"
    if "." in key and (near := closest(key, paths, cutoff=0.85)) and near != key:
        return f"; did you mean {near}?"
    if last in groups or (value and (near := closest(last, groups)) and "." not in key):
        group = last if last in groups else near
        options = rules.options(group, folders)
        if group != key:
            option = value if value in options else closest(value, options) or "OPTION"
            return f"; did you mean {group}={option}?"
    same = sorted(
        (path for path in paths if path == last or path.endswith(f".{last}")),
        key=lambda path: (path.split(".")[0] in SELDOM, -_alike(key, path), path.count("."), path),
    )
    if same and (same[0] != key):
        more = [path for path in same[1:] if path.split(".")[0] not in SELDOM]
        return f"; did you mean {listed([same[0], *more], 3).replace(' and ', ' or ')}?"
    for group in groups:
        if key in rules.options(group, folders):
            return f"; did you mean {group}={key}?"
    tops = [path for path in paths if "." not in path]
    if "." in key:
        if near := closest(key, paths):
            return f"; did you mean {near}?"
        section = [path for path in paths if path.startswith(key.split(".")[0] + ".")]
        lasts = {path.rpartition(".")[2]: path for path in [*reversed(paths), *section]}
    else:
        lasts = {path.rpartition(".")[2]: path for path in reversed(paths)} | {t: t for t in tops}
    lasts = {name: path for name, path in lasts.items() if not path.startswith("search.")}
    near = closest(last, lasts, cutoff=0.78)
    return f"; did you mean {lasts[near]}?" if near else ""


def _alike(key: str, path: str) -> int:
    """Count the sections that two keys have in common."""
    return len({*key.split(".")[:-1]} & {*path.split(".")[:-1]})
