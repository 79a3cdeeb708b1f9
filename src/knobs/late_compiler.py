"""torch's compiler, imported when something is compiled instead of at the first optimizer.

torch.optim imports torch._dynamo, which takes a second, only to tell a compiler that may be tracing
it to stay out (`graph_break`, `disable`). As long as nothing else of it was asked for, nothing is
traced, and both have nothing to do.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"


class _Later(ModuleType):
    """Stands in for torch._dynamo until anything but these two is wanted."""

    @staticmethod
    def graph_break(msg: str = "") -> None:
        """Outside of a trace there is no graph to break."""

    @staticmethod
    def disable(fn: Callable, recursive: bool = True, **_: Any) -> Callable:
        """Untraced, a function is what it is."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of every module by inspect
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME], torch._dynamo
        return getattr(importlib.import_module(NAME), name)


def install() -> None:
    """Put the stand-in in place, unless the compiler is there already."""
    if NAME not in sys.modules:
        sys.modules[NAME] = torch._dynamo = _Later(NAME)
