"""The interface between data and models."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Weights of torchvision by name; else they are a file, which is in no such letters.
NAMED_WEIGHTS = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
OFFSET = 2  # a tokenizer's id is this much less than knobs': 0 is padding, 1 is none of its ids


@dataclass(frozen=True)
class Shape:
    """Sizes of a model's input and output.

    Args:
        input: shape of one example: (features,), (C, H, W), or (tokens,) of token ids.
        outputs: numbers a model gives for one example: classes, or 1 for regression.
        vocabulary: token ids run from 0 (padding) to vocabulary - 1; 0 where there is no text.
        numbers: so many features of a table, the first ones, are standardised numbers; 0 where
            there are none, or it is not known.
        parts: of several inputs, the shape of each by its name; `input` is then (all numbers,).
    """

    input: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    numbers: int = field(default=0, repr=False)
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False, hash=False)

    @property
    def features(self) -> int:
        """Return how many numbers one example has."""
        return math.prod(self.input)

    def saved(self) -> dict[str, Any]:
        """Return plain data; without `parts` where there are none, as older checkpoints have it."""
        return {k: v for k, v in asdict(self).items() if k != "parts" or v}

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Shape":
        """Return the shape that `saved` returned, of JSON.

        Raises:
            ValueError: sizes that are no whole numbers from 1 on.
        """
        parts = {name: tuple(sizes) for name, sizes in said.get("parts", {}).items()}
        shape = cls(**{**said, "input": tuple(said["input"]), "parts": parts})
        sizes = (*shape.input, shape.outputs, *(n for part in parts.values() for n in part))
        if not all(type(n) is int and n > 0 for n in sizes) or type(shape.vocabulary) is not int:
            raise ValueError(f"shape={said}: must be whole numbers from 1 on")
        return shape
