"""Stored plain data that nobody has vouched for: each field is checked as it is read."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from knobs.errors import CheckpointError, first_line

JSON, ARRAYS = "preparation.json", "preparation.safetensors"  # of a run's folder


def document(content: bytes) -> dict[str, Any]:
    """Return the fields of preparation.json."""
    try:
        fields = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{JSON}: cannot be read ({first_line(error)})") from None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{JSON}: must be an object of fields")
    return fields


def arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of preparation.safetensors."""
    from safetensors.numpy import load

    try:
        return load(content)
    except Exception as error:  # one of Rust's, or a type that numpy does not have
        raise CheckpointError(f"{ARRAYS}: cannot be read ({first_line(error)})") from None


def plain(name: str) -> str:
    """Return a name as one short line without control characters."""
    return repr(name[:60])[1:-1]


class Fields:
    """Fields of a document that nobody has vouched for; each is checked as it is read.

    Args:
        node: a JSON object.
        arrays: of the document, by the paths of their fields.
        path: of the object within the document, with a point at its end.
    """

    def __init__(self, node: dict[str, Any], arrays: dict[str, np.ndarray], path: str = ""):
        self.node, self.arrays, self.path = node, arrays, path
        self.unread = set(node)
        self.sections: list[Fields] = []

    def wrong(self, name: str, value: Any, expected: str) -> CheckpointError:
        """Return the error of a field."""
        shown = repr(value)
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        return CheckpointError(f"{JSON}: {plain(self.path + name)}={shown}: must be {expected}")

    def value(self, name: str, accepts: Callable[[Any], bool], expected: str) -> Any:
        """Return a field that is there and as it must be."""
        if name not in self.node:
            raise CheckpointError(f"{JSON}: {self.path}{name} is missing; it must be {expected}")
        if not accepts(self.node[name]):
            raise self.wrong(name, self.node[name], expected)
        self.unread.discard(name)
        return self.node[name]

    def section(self, name: str) -> "Fields":
        """Return a field that has fields of its own."""
        node = self.value(name, lambda v: isinstance(v, dict), "an object of fields")
        self.sections.append(Fields(node, self.arrays, f"{self.path}{name}."))
        return self.sections[-1]

    def text(self, name: str) -> str:
        """Return a text."""
        return self.value(name, lambda v: isinstance(v, str), "a text")

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of some texts."""
        accepts = lambda v: isinstance(v, str) and v in options  # noqa: E731
        return self.value(name, accepts, f"one of {', '.join(options)}")

    def whole(self, name: str, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        accepts = lambda v: type(v) is int and low <= v <= high  # noqa: E731
        return self.value(name, accepts, f"a whole number from {low} to {high}")

    def names(self, name: str, least: int = 0) -> list[str]:
        """Return a list of texts, all different."""

        def accepts(value: Any) -> bool:
            texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
            return texts and len(set(value)) == len(value) >= least

        return self.value(name, accepts, f"a list of {least} texts or more, all different")

    def array(
        self, name: str, length: int, types: Sequence[str], positive: bool = False
    ) -> np.ndarray:
        """Return an array (length,) of finite numbers, above 0 where they must be `positive`."""
        path = f"{self.path}{name}"
        values = self.arrays.get(path)
        expected = f"({length},) of {' or '.join(types)}, finite{' and above 0' * positive}"
        if values is None:
            raise CheckpointError(f"{ARRAYS}: {path} is missing; it must be {expected}")
        if values.dtype.name not in types or values.shape != (length,):
            found = f"{values.shape} of {values.dtype.name}"
            raise CheckpointError(f"{ARRAYS}: {path} is {found}: must be {expected}")
        if not np.isfinite(values).all() or (positive and not (values > 0).all()):
            raise CheckpointError(f"{ARRAYS}: {path}: must be {expected}")
        return values

    def end(self) -> None:
        """Refuse what nobody has read: a document of another make is not half believed.

        Raises:
            CheckpointError: naming a field that is none.
        """
        if self.unread:
            unknown = plain(self.path + min(self.unread))
            raise CheckpointError(f"{JSON}: {unknown} is no field of it")
        for section in self.sections:
            section.end()
