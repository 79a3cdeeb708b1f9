"""Secrets: one rule says what looks like one, one function hides them.

A secret is known by its name (api_key, token, password), by how such keys begin (sk-, ghp_, AKIA),
or as the value of an environment variable with such a name. That a text looks random says so only
under a name that hints at it: commit ids, UUIDs and hashes are no secrets.
"""

import functools
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

HIDDEN = "<hidden>"  # in the place of a secret
# Names whose value is a secret, whatever it is; in lower case, `apiKey` as api_key.
TELLING = re.compile(
    r"(api|access|private|secret|signing|encryption|account)_?key|secret|passw(or)?d|passphrase"
    r"|credential|bearer|token(?![a-z])|(?<![a-z])pwd(?![a-z])"
)
# Names under which a text that looks random is one.
HINTING = re.compile(r"(?<![a-z])(key|auth|authorization|pat|cookie|session|login)(?![a-z])")
KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{20,}|sk-(?:proj|ant|svcacct|or)-[\w-]{16,}"  # OpenAI, ...
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
    r"|hf_[A-Za-z0-9]{20,}|wandb_v\d+_\w{20,}|local-[0-9a-f]{40}(?![A-Za-z0-9])"
    r"|xox[a-z]-[\w-]{10,}|[sr]k_(?:live|test)_\w{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}"
    r")|[Bb]earer [\w.=+/-]{16,}|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]{3,}@"
)
PAIR = re.compile(
    r"""([\w-]{3,40})["']?\s*[:=]\s*["']?(?=([^\s"',}&]{6,}))"""
)  # token=..., in a text
# token=..., in a message: what it is given, but for the colon that ends it
ASSIGNED = re.compile(r"""(([\w-]{3,40})=["']?)((?:\$\{[^}\s]*\}|[^\s"',}&;])+(?<!:))""")
INTERPOLATION = re.compile(r"\$\{[\w.:]*(?:,null)?\}")  # the innermost, without a default
RANDOM = re.compile(r"[A-Za-z0-9+/=]{20,}")
SHORTEST = 6  # characters of a variable's value that is looked for in texts


@functools.lru_cache(4096)  # the same few names in every config
def telling(name: str) -> bool:
    """Return whether a name says that its value is a secret."""
    return bool(TELLING.search(_lower(name)))


def is_secret(name: str, value: Any) -> bool:
    """Return whether a value looks like a secret; what `${oc.env:NAME}` stands for is none yet.

    Args:
        name: its key, or the last part of it.
    """
    return isinstance(value, str) and value != HIDDEN and _looks_secret(name, value)


@functools.lru_cache(4096)  # the same few values in every config of a sweep
def _looks_secret(name: str, value: str) -> bool:
    text = literal_part(value)
    short = text != value and len(text) < 8  # `Bearer ${oc.env:NAME}`
    if text.strip() and not short and telling(name) and text not in ("null", "true", "false"):
        return not re.fullmatch(r"[-+.\de]+", text)
    if KNOWN.search(text) or any(is_secret(m[1], m[2]) for m in PAIR.finditer(text)):
        return True
    return _hinting(name) and _looks_random(text)


@functools.lru_cache(4096)
def _hinting(name: str) -> bool:
    return bool(HINTING.search(_lower(name)))


def literal_part(value: str) -> str:
    """Return a text without its `${...}`, from the innermost on; those with a default stay."""
    while (text := INTERPOLATION.sub("", value)) != value:
        value = text
    return value


def in_lines(lines: Iterable[str]) -> Iterator[str]:
    """Yield a fault for each override that carries a secret; the secret is not in it."""
    values = _of_variables()
    for line in lines:
        key, _, value = line.partition("=")
        name = key.lstrip("+~")
        value = value.strip("'\"")
        if is_secret(_last(name), value) or any(v in line for v in values):
            shown = name if not KNOWN.search(name) else HIDDEN
            yield f"{shown}: holds a secret, which records would keep; {_remedy(shown)}"


def _remedy(key: str) -> str:
    return f"export it, and pass it as '{key}=${{oc.env:NAME}}'"


def public(config: Any, name: str = "") -> Any:
    """Return a copy of plain data without secrets; `${oc.env:NAME}` stays as it is."""
    values = _of_variables(SHORTEST)

    def hide(node: Any, name: str) -> Any:
        if isinstance(node, dict):
            return {key: hide(child, str(key)) for key, child in node.items()}
        if isinstance(node, list):
            return [hide(child, name) for child in node]
        secret = is_secret(name, node) or (
            isinstance(node, str) and any(value in node for value in values)
        )
        return HIDDEN if secret else node

    return hide(config, _last(name))


def public_lines(lines: Iterable[str]) -> list[str]:
    """Return overrides; nothing of those that carry a secret."""
    values = _of_variables(SHORTEST)  # once: a run has ten lines
    parts = [(line, *line.partition("=")[::2]) for line in lines]
    return [
        HIDDEN if is_secret(_last(key), value) or any(v in value for v in values) else line
        for line, key, value in parts
    ]


def hidden_in(texts: list[str], config: Any) -> list[str]:
    """Return texts about a config, faults, without the secrets that it holds."""
    secrets = {v for k, v in _leaves("", config) if len(v) > 2 and public(v, k) == HIDDEN}
    for secret in sorted(secrets, key=len, reverse=True):
        texts = [text.replace(secret, HIDDEN) for text in texts]
    return texts


def cleared(text: str) -> str:
    """Return a text, a message of whatever origin, with `<hidden>` in the place of each secret."""
    for value in sorted(_of_variables(SHORTEST), key=len, reverse=True):
        for shown in (value, json.dumps(value)[1:-1], repr(value)[1:-1]):  # as messages quote it
            text = text.replace(shown, HIDDEN)
    text = KNOWN.sub(lambda m: HIDDEN if "://" not in m[0] else f"://{HIDDEN}@", text)
    return ASSIGNED.sub(lambda m: m[1] + HIDDEN if is_secret(m[2], m[3]) else m[0], text)


def _leaves(name: str, node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(str(key), child)
    elif isinstance(node, list):
        for child in node:
            yield from _leaves(name, child)
    elif isinstance(node, str):
        yield name, node


def _of_variables(shortest: int = 12) -> list[str]:
    """Return the values of environment variables with telling names, paths and numbers aside.

    A shell's PWD is the folder one stands in, GOOGLE_APPLICATION_CREDENTIALS a file.
    """
    return [
        value
        for name in os.environ  # whose values are decoded where they are asked for
        if telling(name)
        and len(value := os.environ.get(name, "")) >= shortest
        and not re.fullmatch(r"[-+.\de]+", value)
        and not os.path.exists(value)
    ]


def _last(name: str) -> str:
    return re.split(r"[./@]", name)[-1]


def _lower(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _looks_random(text: str) -> bool:
    """Return whether part of a text has the letters and digits of a random key."""
    for part in RANDOM.findall(text):
        kinds = [character.isdigit() for character in part]
        changes = sum(a != b for a, b in itertools.pairwise(kinds))
        shares = [count / len(part) for count in Counter(part).values()]
        if changes >= 4 and -sum(p * math.log2(p) for p in shares) >= 3:
            return True
    return False
