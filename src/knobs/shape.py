"""The interface between data and models."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """Sizes of a model's input and output.

    Args:
        input: shape of one example: (features,), (C, H, W), or (tokens,) of token ids.
        outputs: numbers a model gives for one example: classes, or 1 for regression.
        vocabulary: token ids run from 0 (padding) to vocabulary - 1; 0 where there is no text.
        numbers: so many features of a table, the first ones, are standardised numbers; 0 where
            there are none, or it is not known.
    """

    input: tuple[int, ...]
    outputs: int
    vocabulary: int = 0
    numbers: int = field(default=0, repr=False)

    @property
    def features(self) -> int:
        """Return how many numbers one example has."""
        return math.prod(self.input)
