"""Raw texts -> token ids, by the vocabulary and the lengths of training texts, block by block."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from knobs.data.inputs import BLOCK, rows_in
from knobs.data.opening import room
from knobs.data.stored import Fields
from knobs.data.tokens import TOKENIZERS, tokenize
from knobs.errors import DataError
from knobs.words import printable

MOST_TOKENS, MOST_NGRAMS = 2**20, 3  # an example, a token
SHORT, LONG = 64, 512  # words that `auto` does not cut; those it reads at most, since each costs
CUT = 0.05  # of the texts `auto` may cut; a larger share is told
UNKNOWN = 0.1  # of the validation tokens; a larger share is told
KNOWN = 0.1  # of the tokens, at least: below it hardly a text says anything
_DOUBT = "is it the column of texts?"
ALIKE = 0.95  # of the texts that are one word, or a number: a column of something else


@dataclass(frozen=True)
class Counted:
    """Training texts, counted: token -> occurrences, and the number of tokens of each text (N,)."""

    tokens: collections.Counter[str]
    lengths: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable[Sequence[str]], rows: np.ndarray, ngrams: int) -> "Counted":
        """Count the tokens of some rows."""
        counts, lengths = collections.Counter(), []
        for block, places in rows_in(blocks, rows, len):
            for row in places:
                tokens = tokenize(block[row], ngrams)
                counts.update(tokens)
                lengths.append(len(tokens))
        return cls(counts, np.array(lengths, int))


@dataclass(frozen=True)
class Texts:
    """Texts as token ids: 0 is padding, 1 every unknown token. A block is a list of texts.

    Args:
        tokens: those that have an id, from 2 on.
        ngrams: a token is a word, or up to so many of them.
        length: of an example, in tokens; longer ones are cut.
        tokens_by: the tokenizer, one of TOKENIZERS.
    """

    tokens: tuple[str, ...]
    ngrams: int
    length: int
    tokens_by: str = TOKENIZERS[0]
    kind: ClassVar = "text"

    @classmethod
    def fit(
        cls, blocks: Iterable[Sequence[str]], train_rows: np.ndarray,
        *, ngrams: int, max_length: int | str, max_vocabulary: int, min_count: int,
    ) -> "Texts":  # fmt: skip
        """Take the vocabulary and the length from the training rows."""
        counted = Counted.of(blocks, train_rows, ngrams)
        return cls.by_counts(counted, ngrams, max_length, max_vocabulary, min_count)

    @classmethod
    def by_counts(
        cls, counted: Counted, ngrams: int, max_length: int | str, max_vocabulary: int,
        min_count: int, lengths: np.ndarray | None = None,
    ) -> "Texts":  # fmt: skip
        """Take the most frequent tokens, and a length.

        Args:
            max_length: tokens, or `auto`.
            lengths: (N,) tokens of the texts that give the length; None: of those counted.
        """
        ids = vocabulary(counted.tokens, max_vocabulary, min_count)
        lengths = counted.lengths if lengths is None else lengths
        if max_length == "auto":
            max_length = usual_length(lengths, ngrams)
        longest = int(lengths.max(initial=1))
        return cls(tuple(ids), ngrams, min(max_length, longest))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Return token -> id."""
        return {token: i for i, token in enumerate(self.tokens, start=2)}

    def unlike(self, other: "Texts") -> str:
        """Return what other texts have otherwise, so that ids differ; "" if there is nothing."""
        if self.length != other.length:
            return f"a text had {self.length:,} tokens, and has {other.length:,} now"
        if self.tokens != other.tokens or self.ngrams != other.ngrams:
            return "the vocabulary is another one"
        return ""

    def apply(self, block: Sequence[str]) -> Tensor:
        """Return (n, length) int32 token ids."""
        texts = [tokenize(text, self.ngrams, self.tokens_by) for text in block]
        return encode_texts(texts, self.ids, self.length)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the vocabulary, and no arrays."""
        about = {"tokens": list(self.tokens), "ngrams": self.ngrams, "length": self.length}
        return about | ({"tokens_by": self.tokens_by} if self.tokens_by != "words" else {}), {}

    @classmethod
    def read(cls, fields: Fields) -> "Texts":
        """Return the texts that fields describe; the first ones did not tell their tokenizer."""
        ngrams = fields.whole("ngrams", 1, MOST_NGRAMS)
        length = fields.whole("length", 1, MOST_TOKENS)
        told = "tokens_by" in fields.node
        by = fields.choice("tokens_by", TOKENIZERS) if told else "words"
        return cls(tuple(fields.names("tokens")), ngrams, length, by)


def usual_length(lengths: np.ndarray, ngrams: int) -> int:
    """Return a length in tokens that cuts at most CUT of the texts, from SHORT to LONG words."""
    enough = int(np.quantile(lengths, 1 - CUT, method="inverted_cdf"))
    return max(SHORT, min(enough, LONG * ngrams))


def vocabulary(counts: Mapping[str, int], size: int, min_count: int) -> dict[str, int]:
    """Return token -> id for the most frequent tokens; 0 is padding and 1 every other token.

    Ties go by the alphabet, so the ids do not depend on the order of the texts.
    """
    kept = sorted((-n, token) for token, n in counts.items() if n >= min_count)[: max(0, size - 2)]
    return {token: i for i, (_, token) in enumerate(kept, start=2)}


def encode_texts(texts: list[list[str]], ids: Mapping[str, int], length: int) -> Tensor:
    """Return (N, length) int32 token ids, cut or padded with 0 at the end."""
    what, fix = f"{len(texts):,} texts of {length:,} tokens", "a smaller data.max_length may fit"
    with room(what, 4 * len(texts) * length, fix):
        encoded = np.zeros((len(texts), length), np.int32)
    for row, text in zip(encoded, texts, strict=True):
        row[: len(text)] = [ids.get(token, 1) for token in text[:length]]
    return torch.from_numpy(encoded)


def check(
    inputs: Texts, counted: Counted, column: str, min_count: int, max_vocabulary: int
) -> None:
    """Refuse a vocabulary that knows next to nothing of the training texts.

    Raises:
        DataError: with the counts and a way out.
    """
    texts, total = len(counted.lengths), counted.tokens.total()
    if not total:
        empty = f"all {texts:,} training texts are empty"
        raise DataError(f"{column}: {empty}; fill them, or choose another column of texts")
    known = sum(counted.tokens[token] for token in inputs.tokens) / total
    if len(inputs.tokens) < 2 or known < KNOWN:
        has = f"{texts:,} training texts have {len(counted.tokens):,} different tokens"
        keeps = f"the vocabulary keeps {len(inputs.tokens):,} of them, {known:.0%} of the text"
        given = f"data.min_count={min_count} data.max_vocabulary={max_vocabulary}"
        mend = "change these, or choose another column of texts"
        raise DataError(f"{column}: {has}; with {given} {keeps}; {mend}")


def remarks(inputs: Texts, lengths: np.ndarray, splits: Sequence[Tensor], column: str) -> list[str]:
    """Return notes where many texts are cut, unknown, empty, or no texts at all.

    Args:
        lengths: tokens of the training texts, before they are cut.
        splits: (n, length) token ids of the training, validation and test texts.

    Raises:
        DataError: hardly a token of the validation texts is in the vocabulary.
    """
    notes = []
    if empty := sum(int((x[:, 0] == 0).sum()) for x in splits):
        notes.append(f"{empty:,} of {sum(map(len, splits)):,} texts are empty")
    if (cut := float((lengths > inputs.length).mean())) > CUT:
        longest = f"the longest has {lengths.max():,}"
        notes.append(f"{cut:.0%} of training texts are cut at {inputs.length} tokens; {longest}")
    pieces = splits[1].split(BLOCK)
    tokens = sum(int((piece > 0).sum()) for piece in pieces)
    unknown = sum(int((piece == 1).sum()) for piece in pieces) / max(1, tokens)
    if unknown > 1 - KNOWN:
        alien = f"{unknown:.0%} of validation tokens are not in the vocabulary"
        raise DataError(f"{column}: {alien}, as of names or ids; choose another column of texts")
    if unknown > UNKNOWN:
        notes.append(f"{unknown:.0%} of validation tokens are not in the vocabulary")
    words = lengths[lengths > 0]
    if (single := float((words == 1).mean())) >= ALIKE:
        notes.append(f"{column}: {single:.0%} of the texts are one word; {_DOUBT}")
    return notes


def oddities(name: str, blocks: Iterable[Sequence[str]], markers: frozenset[str]) -> list[str]:
    """Return notes on a column of texts that holds numbers, or words that stand for no text.

    Args:
        blocks: of its cells.
        markers: words that mean missing, in lower case.
    """
    from knobs.data.notation import plain_numbers  # with pandas

    notes: list[str] = []
    first, absent, filled, numbers = "", 0, 0, 0
    for block in blocks:
        cells = np.array([cell for cell in block if cell.strip()], object)
        words = [cell.strip() for cell in cells if cell.strip().lower() in markers]
        first = first or next(iter(words), "")
        absent += len(words)
        filled += len(cells)
        numbers += int((~np.isnan(plain_numbers(cells))).sum())
    if absent:
        shown = printable(repr(first))
        notes.append(f"{name}: {absent:,} texts are no more than {shown} or the like")
    if filled and (share := numbers / filled) >= ALIKE:
        notes.append(f"{name}: {share:.0%} of the texts are numbers; {_DOUBT}")
    return notes
