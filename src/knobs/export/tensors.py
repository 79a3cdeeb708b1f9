"""Stands in for torch beside an exported model: to prepare raw rows, arrays do for tensors."""

from typing import Any

import numpy as np

Tensor = np.ndarray


def from_numpy(values: np.ndarray) -> np.ndarray:
    """Return the array."""
    return values


def __getattr__(name: str) -> Any:
    """Return a type for what else annotations name; called, it is an error."""
    if name.startswith("__"):
        raise AttributeError(name)
    return Any
