"""A run's identity, what makes two runs differ, and a config as others may see it."""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Where a run is kept and shown, not what it computes: no part of its identity.
NOT_IDENTITY = (
    *("hydra", "resume", "sweep", "retry_failed", "keep_going", "name", "silence", "tracking"),
    *("search", "study", "zip", "skip", "objective.rare"),
    *("training.threads", "training.processes", "training.checkpoint", "training.keep"),
    *("data.root", "data.path", "data.test_path", "data.download", "data.workers", "data.storage"),
    "init.path",
    "model.cache",
    "data.statistics",  # which follow from data.normalize and the model's weights
)
# Of these, what tells one run from another within a sweep: data sets under other names.
FILES = ("data.root", "data.path", "data.test_path", "init.path")
# Overrides that say how a sweep goes about its jobs, not what a job is.
NOT_THE_JOB = ("hydra", "sweep", "retry_failed", "keep_going", "zip", "skip")
CONF = Path(__file__).parents[2] / "conf"
KEYS = Path(__file__).with_name("schema.json")
# Keys of a config that have another name now: old name -> new. Overrides, configs and records of
# old names are read by it: see record.migrate.
RENAMED = {"training.accumulate": "training.gradient_accumulation_steps"}
FIRST_NAMES = {new: old for old, new in RENAMED.items()}
# Schema -> defaults that it changed: key -> the default before. What began under an older schema
# goes on with the defaults of that one.
DEFAULTS_BEFORE: dict[int, dict[str, Any]] = {
    3: {
        "objective.rare": 0.0, "training.zero_head": False,
        "data.max_length": 64, "data.min_count": 2,
        "model.pool": "mean", "model.embedding_std": 1.0,
    },
    4: {"model.own_norm": None},
}  # fmt: skip
# Of these, the keys of one option: others have none of this name, or another default.
OPTION_OF = {
    "data.max_length": "text_csv", "data.min_count": "text_csv",
    "model.pool": "text_bag", "model.embedding_std": "text_bag",
    "model.own_norm": "cnn",
}  # fmt: skip
ABSENT = object()
OR_NULL = "${tokenizer:}"  # null, but for networks that bring a tokenizer


def identity(config: dict) -> str:
    """Hash what a run computes: its resolved config less NOT_IDENTITY, by its first names.

    A key that is newer than KEYS counts only where it differs from its default, so that a new knob
    makes no old run foreign. So runs of every schema have the identity they were born with.
    """
    return hashlib.sha256(json.dumps(computed(config), sort_keys=True).encode()).hexdigest()[:16]


def computed(config: dict) -> dict[str, Any]:
    """Return path -> value of what makes a config's identity."""
    kept = {}
    for path, value in leaves(config):
        name = FIRST_NAMES.get(path, path)
        if _computes(path) and (name in _keys() or not _neutral(path, value)):
            kept[name] = value
    return kept


@functools.lru_cache(4096)  # the same few paths in every config
def _computes(path: str) -> bool:
    return not under(path, NOT_IDENTITY)


def differences(a: dict, b: dict) -> list[str]:
    """Return the paths at which two configs' identities differ."""
    left, right = computed(a), computed(b)
    absent = object()
    paths = {*left, *right}
    return sorted(path for path in paths if left.get(path, absent) != right.get(path, absent))


@functools.cache
def _keys() -> frozenset[str]:
    """Return the keys of conf/ when schema 2 began; schema.json has them, and never changes."""
    return frozenset(json.loads(KEYS.read_text())["keys"])


def _neutral(path: str, value: Any) -> bool:
    """Return whether a key that came later has the default it came with."""
    for defaults in DEFAULTS_BEFORE.values():  # the oldest first
        if path in defaults:
            return _same(value, defaults[path])
    stated = _stated(path)
    return bool(stated) and all(_same(value, default) for default in stated)


def _same(value: Any, default: Any) -> bool:
    if type(value) is type(default) and type(value) in (bool, int, str, type(None)):
        return value == default
    if isinstance(value, float) and isinstance(default, str):  # YAML reads 1e-3 as a word
        try:
            return float(default) == value
        except ValueError:
            return False
    return json.dumps(value) == json.dumps(default)


@functools.lru_cache(1024)
def _stated(path: str) -> tuple[Any, ...]:
    """Return the defaults that conf/ states for a key: of its group's default option, else of all.

    An interpolation is no default: what it comes to depends on other keys. OR_NULL has null.
    """
    group, _, rest = path.partition(".")
    main = _parsed((CONF / "config.yaml").read_text())
    options = {
        k: v for entry in main["defaults"] if isinstance(entry, dict) for k, v in entry.items()
    }
    files = sorted((CONF / group).glob("*.yaml"))
    first = CONF / group / f"{options.get(group)}.yaml"
    found: dict[Path, Any] = {}
    for file in files:
        node: Any = _parsed(file.read_text())
        for part in rest.split("."):
            node = node.get(part, ABSENT) if isinstance(node, dict) else ABSENT
        if node is not ABSENT:
            found[file] = node
    if not found:  # a key of config.yaml itself
        node = main
        for part in path.split("."):
            node = node.get(part, ABSENT) if isinstance(node, dict) else ABSENT
        found = {} if node is ABSENT else {first: node}
    values = (found[first],) if first in found else tuple(found.values())
    values = tuple(None if value == OR_NULL else value for value in values)
    return () if any("${" in str(value) for value in values) else values


@functools.lru_cache(256)  # many keys of one file, as each run begins
def _parsed(text: str) -> Any:
    import yaml  # late: a key that came later is rare

    return yaml.safe_load(text) or {}


def walk(node: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Yield (keys on the way, node) of a config and of everything in it, depth first."""
    yield path, node
    children = enumerate(node) if isinstance(node, list) else ()
    for key, child in node.items() if isinstance(node, dict) else children:
        yield from walk(child, (*path, key))


def leaves(node: dict, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of everything in a config that is not a section."""
    for name, child in node.items():
        here = f"{path}.{name}" if path else str(name)
        if isinstance(child, dict):
            yield from leaves(child, here)
        else:
            yield here, child


def under(path: str, roots: tuple[str, ...]) -> bool:
    """Return whether a path is one of the roots or lies below one."""
    return any(path == root or path.startswith(root + ".") for root in roots)


def key_of(line: str) -> str:
    """Return what an override sets: `optimizer.lr` of `+optimizer.lr=1`."""
    return line.partition("=")[0].partition("@")[0].lstrip("+~").replace("/", ".")


def job_of(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return the overrides that make a job what it is."""
    return tuple(line for line in overrides if not under(key_of(line), NOT_THE_JOB))
