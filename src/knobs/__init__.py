"""knobs: which training hyperparameters should I tune, and what should I set them to?"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load":  # late: it imports torch, which the command line's help does without
        from knobs.training.checkpoint import load

        return load
    raise AttributeError(f"module 'knobs' has no attribute {name!r}")
