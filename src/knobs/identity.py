"""A run's identity, what makes two runs differ, and a config as others may see it."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

# Where a run is kept and shown, not what it computes: no part of its identity.
NOT_IDENTITY = (
    *("hydra", "resume", "sweep", "retry_failed", "name", "silence", "tracking", "search", "study"),
    *("training.threads", "training.checkpoint"),
    *("data.root", "data.path", "data.test_path", "data.download", "data.workers", "init.path"),
)
# Of these, what tells one run from another within a sweep: data sets under other names.
FILES = ("data.root", "data.path", "data.test_path", "init.path")
# Overrides that say how a sweep goes about its jobs, not what a job is.
NOT_THE_JOB = ("hydra", "sweep", "retry_failed")
_SECRET_NAME = re.compile(r"(?i)(api_?key|token|secret|passw(or)?d|credential)")


def identity(config: dict) -> str:
    """Hash what a run computes: its resolved config less NOT_IDENTITY."""
    kept = {path: v for path, v in leaves(config) if not under(path, NOT_IDENTITY)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def differences(a: dict, b: dict) -> list[str]:
    """Return the paths at which two configs' identities differ."""
    left, right = dict(leaves(a)), dict(leaves(b))
    absent = object()
    return sorted(
        path
        for path in {*left, *right}
        if left.get(path, absent) != right.get(path, absent) and not under(path, NOT_IDENTITY)
    )


def public(config: Any, name: str = "") -> Any:
    """Return a copy without secrets: values under telling names, or of such variables."""
    secrets = [v for k, v in os.environ.items() if len(v) >= 6 and _SECRET_NAME.search(k)]

    def hide(node: Any, name: str) -> Any:
        if isinstance(node, dict):
            return {key: hide(child, str(key)) for key, child in node.items()}
        if isinstance(node, list):
            return [hide(child, name) for child in node]
        secret = isinstance(node, str) and (
            _SECRET_NAME.search(name) or any(value in node for value in secrets)
        )
        return "<hidden>" if secret else node

    return hide(config, name)


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
