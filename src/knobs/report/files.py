"""Files of records and fields of theirs, which nobody has vouched for."""

import contextlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from knobs.errors import StorageError

MAX_BYTES = 2**22  # a thousand times what a run writes; larger files are no run's
BROKEN = (OSError, ValueError, RecursionError)  # what reading a file of unknown content raises


def load(path: Path, reader: Callable[[Path], Any], most: int = MAX_BYTES) -> Any:
    """Read a file, unless it is a link, a pipe or larger than `most` bytes.

    Args:
        reader: of the file's folder.
    """
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > most:
        raise ValueError(f"{path}: not a file that a run writes")
    return reader(path.parent)


KINDS = {dict: "no mapping", list: "no list", str: "no text"}


def of(node: Any, name: str, kind: type, strict: bool = False) -> Any:
    """Return an entry of a JSON object; an empty one, or an error, where it is of another kind."""
    value = node.get(name) if isinstance(node, dict) else None
    if strict and not isinstance(value, kind):
        raise ValueError(f"its {name} is {KINDS[kind]}")
    return value if isinstance(value, kind) else kind()


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Make a report's folder, and say which one it is where it cannot be written to.

    Raises:
        StorageError: naming the folder, and that there may be another.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = f"{folder}: cannot be written to ({error.strerror or error})"
        raise StorageError(f"{why}; name another: --out DIR") from None
