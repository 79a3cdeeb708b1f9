"""The question of a search: what a command line and a study's YAML ask for."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from knobs.errors import ConfigError
from knobs.identity import under
from knobs.search import space
from knobs.search.space import Choice, Knobs, Range, Space
from knobs.secrets import cleared

KEYS = {
    "question",
    "scientific",
    "space",
    "fixed",
    "set",
    "runs",
    "seeds",
    "max_pairs",
    "splits",
    "folds",
    "walk",
}
LEAST_PAIRS = 5  # fewer decide nothing: report/stats.py
MORE = 5  # pairs that a study adds at a time
# Of a command line: what a search is, not what each of its runs is.
NOT_OF_RUNS = ("search", "study", "sweep", "retry_failed", "keep_going", "zip", "skip")
# What has one value for a whole search: no best seed is known to be best again.
NOT_SEARCHED = (
    *("hydra", *NOT_OF_RUNS, "seed", "test", "task", "objective"),
    *("tracking", "name", "silence", "resume"),
    *("data.split_seed", "data.val_seed", "data.fold"),
)


@dataclass(frozen=True)
class Plan:
    """Arms, and what each run of them has in common.

    Args:
        common: overrides of every run.
        arms: name -> the overrides that make it; a plain search has one, "".
        knobs: arm -> what is searched in it.
        name: of the study; search where there is none.
        seeds: of the runs that confirm what was found; 0 for none.
        max_pairs: so many seeds at most, where the first do not decide.
        splits: whether each of these has a validation split of its own.
        folds: of which each of these has one; None for none.
        test: whether the winner then reads the test split.
        walk: a sweep's folder whose best run is walked to, one knob at a time.
    """

    common: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    knobs: dict[str, Knobs]
    name: str = "search"
    question: str = ""
    scientific: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    runs: int | None = None
    seeds: int = 0
    max_pairs: int = 0
    splits: bool = True
    folds: int | None = None
    walk: str = ""
    test: bool = False

    def __post_init__(self) -> None:
        if not self.walk:
            Space(self.knobs)  # complains of an arm with nothing to search

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of seeds after which the study looks whether it is decided; () for none."""
        if not self.seeds:
            return ()
        if self.seeds < LEAST_PAIRS or self.max_pairs <= self.seeds:
            return (self.seeds,)
        return (*range(self.seeds, self.max_pairs, MORE), self.max_pairs)

    @property
    def space(self) -> Space:
        """Return the same for a Search."""
        return Space(self.knobs)

    def job(self, arm: str, values: Mapping[str, Any], *more: str) -> list[str]:
        """Return the overrides of one run; of a key given twice the last one counts."""
        chosen = [space.override(name, value) for name, value in values.items()]
        return last_of_each([*self.common, *self.arms[arm], *chosen, *more])

    def probes(self) -> Iterator[list[str]]:
        """Yield jobs in which every fault of the plan shows: each knob at its ends, by itself."""
        for arm, knobs in self.knobs.items():
            yield self.job(arm, {})
            for name, knob in knobs.items():
                ends = knob.options if isinstance(knob, Choice) else (knob.low, knob.high)
                yield from (self.job(arm, {name: value}) for value in ends)


def plan(overrides: Sequence[Any], study: Mapping[str, Any] | None, name: str = "search") -> Plan:
    """Read what a command line and a study ask for; where both name a knob, the former counts.

    Args:
        overrides: of the command line, as hydra.core.override_parser.types.Override.
        study: its YAML, resolved; None for a plain search.
        name: of the study.

    Raises:
        ConfigError: a part of the study or a range that cannot be.
    """
    of_runs = [o for o in overrides if root(o) not in ("hydra", *NOT_OF_RUNS)]
    given = {o.get_key_element().lstrip("+"): o for o in of_runs}  # the last one counts
    test = any(root(o) == "test" and o.value() is True for o in given.values())
    if test and study is None:
        raise ConfigError("test=true: a search does not look at the test split; a study's end does")
    if study is not None:
        given.pop("test", None)
    ranges, fixed = space.from_overrides(list(given.values()))
    if study is None:
        return Plan(tuple(fixed), {"": ()}, {"": ranges})
    if wrong := sorted(set(study) - KEYS):
        raise ConfigError(f"study.{wrong[0]}: no such key; a study has {', '.join(sorted(KEYS))}")
    values = {key: o.value() for key, o in given.items() if not o.is_sweep_override()}
    scientific = _scientific(study.get("scientific") or {})
    asked = set(_arms(scientific))
    for key in [key for key in ranges if key in scientific]:  # other values to ask about
        if isinstance(ranges[key], Range):
            raise ConfigError(f"{key}: this study compares values; list them: {key}=A,B")
        scientific[key] = list(ranges.pop(key).options)
    # A value that the command line fixes is the only one asked about, and keeps its own ranges.
    arms = _arms({k: [values[k]] if k in values else v for k, v in scientific.items()})
    walk = _walk(study)
    knobs: dict[str, Knobs] = {arm: {} for arm in arms}
    if not walk:
        searched = _searched(study.get("space") or {}, list(arms), asked, ranges)
        for arm in arms:
            knobs[arm] = {k: v for k, v in searched[arm].items() if k not in values}
            for key in (key for key in scientific if key in knobs[arm]):
                raise ConfigError(f"{key}: asked about and searched as well (in {arm}); keep one")
    return Plan(
        common=(*_strings(study, "set"), *fixed),
        arms=arms,
        knobs=knobs,
        name=name,
        question=cleared(str(study.get("question") or "")),
        scientific=tuple(key for key in scientific if key not in values),
        fixed=_strings(study, "fixed"),
        runs=_count(study, "runs", least=1),
        seeds=_count(study, "seeds", least=0, default=0),
        max_pairs=_count(study, "max_pairs", least=0, default=20),
        splits=_yes(study, "splits", default=True),
        folds=_count(study, "folds", least=2),
        test=test,
        walk=walk,
    )


def one_cut(plan: Plan, data: dict[str, Any]) -> Plan:
    """Return the plan with a pair a fold where no seed cuts other folds: by time.

    Raises:
        ConfigError: these are too few to decide anything.
    """
    if not plan.folds or not plan.seeds or not str(data.get("split", "")).startswith("time"):
        return plan
    if plan.folds < LEAST_PAIRS:
        raise ConfigError(
            f"study.folds={plan.folds}: a split by time has the same folds for every seed, and "
            f"{plan.folds} pairs decide nothing; give study.folds={LEAST_PAIRS} or more"
        )
    return replace(plan, seeds=plan.folds, max_pairs=plan.folds)


def _walk(study: Mapping[str, Any]) -> str:
    """Return the folder of the sweep that a study walks from; empty where it searches."""
    walk = study.get("walk")
    if "walk" in study and not walk:
        raise ConfigError("study.walk=null: must be a sweep's folder, as in outputs/sweeps/NAME")
    if walk and not os.path.isdir(str(walk)):
        raise ConfigError(f"study.walk={walk}: no such folder; must be a sweep's")
    return str(walk or "")


def _count(study: Mapping[str, Any], key: str, least: int, default: int | None = None) -> Any:
    value = study.get(key, default)
    if value is not None and (type(value) is not int or value < least):
        raise ConfigError(f"study.{key}={value}: must be a whole number >= {least}")
    return value


def _yes(study: Mapping[str, Any], key: str, default: bool) -> bool:
    value = study.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"study.{key}={value}: must be true or false")
    return value


def _scientific(node: Any) -> dict[str, list]:
    if not isinstance(node, Mapping) or not all(isinstance(v, list) and v for v in node.values()):
        raise ConfigError(f"study.scientific={node!r}: must give each knob a list of values")
    for values in node.values():
        Choice(tuple(values))  # each once
    return dict(node)


def _arms(scientific: Mapping[str, list]) -> dict[str, tuple[str, ...]]:
    """Return every combination of the values asked about, under its name."""
    axes = ([space.override(key, value) for value in node] for key, node in scientific.items())
    return {" ".join(lines): lines for lines in itertools.product(*axes)}


def _searched(node: Any, arms: list[str], asked: set[str], also: Knobs) -> dict[str, Knobs]:
    """Return what a study searches in each arm, without conditions of arms left out."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"study.space={node!r}: must give each knob a range or choices")
    ranges = {key: value for key, value in node.items() if key in arms or key not in asked}
    searched = Space.from_yaml(ranges, arms, also).arms
    for key in (key for knobs in searched.values() for key in knobs if under(key, NOT_SEARCHED)):
        raise ConfigError(f"study.space: {key} is no knob to search, it has one value")
    return searched


def _strings(study: Mapping[str, Any], key: str) -> tuple[str, ...]:
    node = study.get(key) or []
    if not isinstance(node, list) or not all(isinstance(text, str) for text in node):
        raise ConfigError(f"study.{key}={study[key]!r}: must be a list of words")
    return tuple(node)


def last_of_each(lines: Sequence[str]) -> list[str]:
    """Return overrides, each key once: of a key given twice the last one counts."""
    return list({line.partition("=")[0].lstrip("+"): line for line in lines}.values())


def root(override: Any) -> str:
    """Return an override's section or group: hydra of hydra/launcher=basic, optimizer of its lr."""
    return override.key_or_group.replace("/", ".").partition(".")[0]
