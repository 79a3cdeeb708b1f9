"""The overrides of a grid -> its jobs: every combination, `zip`, `skip`, `data.fold=all`."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from hydra.core.override_parser.types import Override

from knobs.errors import ConfigError
from knobs.identity import key_of
from knobs.search.space import range_size

MAX_JOBS = 100_000  # of a grid; more are never built
ZIP, SKIP = "zip", "skip"  # keys of config.yaml that shape a grid
FOLDS, FOLD, ALL = "data.folds", "data.fold", "all"  # of which each_fold makes runs


def size(override: Override) -> int | None:
    """Count an override's values without building them; None where they have no end."""
    if not override.is_sweep_override() or override.is_interval_sweep():
        return 1
    if override.is_range_sweep():
        return range_size(override.value())
    return sum(1 for _ in override.sweep_iterator())


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
