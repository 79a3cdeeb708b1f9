"""Raw texts -> token ids by a network's own tokenizer, which is kept with the run as JSON.

Of knobs and what an export copies it takes the package `tokenizers` alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.opening import room
from knobs.data.stored import Fields
from knobs.data.texts import MOST_TOKENS, Texts
from knobs.errors import CheckpointError, ConfigError, first_line
from knobs.shape import OFFSET


@dataclass(frozen=True)
class Pieces(Texts):
    """Texts as the ids of a tokenizer of others, its special tokens with them; 0 is padding.

    Args:
        tokens: its vocabulary, by id.
        length: of an example, in tokens; longer ones are cut as the tokenizer cuts.
        tokenizer: all of it, as tokenizer.json has it.
    """

    tokenizer: str = ""

    @classmethod
    def of(cls, tokenizer: str, length: int) -> "Pieces":
        """Return a tokenizer with a length.

        Raises:
            ValueError: no tokenizer. ConfigError: no package to read it.
        """
        coder = coder_of(tokenizer)
        size = coder.get_vocab_size(with_added_tokens=True)
        names = [coder.id_to_token(i) for i in range(size)]
        tokens = (f"[{i}]" if name is None else name for i, name in enumerate(names))
        return cls(tuple(tokens), 1, length, "pieces", tokenizer)

    @cached_property
    def _coder(self) -> Any:
        coder = coder_of(self.tokenizer)
        coder.enable_truncation(self.length)
        return coder

    def unlike(self, other: Texts) -> str:
        """Return what other texts have otherwise, so that ids differ; "" if there is nothing."""
        if not isinstance(other, Pieces) or json.loads(self.tokenizer) != json.loads(
            other.tokenizer
        ):
            return "the tokenizer is another one"
        return super().unlike(other)

    def apply(self, block: Sequence[str]) -> Tensor:
        """Return (n, length) int32 token ids, cut or padded with 0 at the end."""
        what, fix = f"{len(block):,} texts of {self.length:,} tokens", "a smaller data.max_length"
        with room(what, 4 * len(block) * self.length, f"{fix} may fit"):
            encoded = np.zeros((len(block), self.length), np.int32)
        for row, ids in zip(encoded, ids_of(self._coder, block), strict=True):
            row[: len(ids)] = np.array(ids, np.int32) + OFFSET
        return torch.from_numpy(encoded)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the tokenizer, and no arrays."""
        about = {"tokenizer": self.tokenizer, "length": self.length}
        return about | {"vocabulary": len(self.tokens)}, {}

    @classmethod
    def read(cls, fields: Fields) -> Texts:
        """Return the tokenizer that fields describe; without one, they describe words."""
        if "tokenizer" not in fields.node:
            return Texts.read(fields)
        length = fields.whole("length", 1, MOST_TOKENS)
        size = fields.whole("vocabulary", 1, 2**31)
        try:
            made = cls.of(fields.text("tokenizer"), length)
        except ValueError as error:
            raise CheckpointError(f"inputs.tokenizer: {first_line(error)}") from None
        if len(made.tokens) != size:
            raise fields.wrong("vocabulary", size, f"{len(made.tokens)}, as the tokenizer has")
        return made


def coder_of(tokenizer: str) -> Any:
    """Return the tokenizer of a tokenizer.json, which neither cuts nor pads.

    Raises:
        ValueError: no such JSON. ConfigError: no package to read it.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        how = "pip install tokenizers (the extra `transformers`)"
        raise ConfigError(f"these texts are read by a tokenizer: {how}") from None
    try:
        coder = Tokenizer.from_str(tokenizer)
    except Exception as error:  # one of Rust's
        raise ValueError(f"cannot be read as a tokenizer.json ({first_line(error)})") from None
    coder.no_padding()
    coder.no_truncation()
    return coder


def ids_of(coder: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, with special tokens; half a pair of UTF-16 becomes a `?`."""
    plain = [text.encode("utf-8", "replace").decode() for text in texts]
    return [found.ids for found in coder.encode_batch(plain)]
