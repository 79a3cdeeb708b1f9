"""Texts -> tokens by `re` and `unicodedata` alone, so that an export can copy this file."""

import functools
import re
import unicodedata

TOKENIZERS = ("unicode", "words")  # `words` is what the first preparations were made by

_WORDS = re.compile(r"\w+|[^\w\s]")
# Scripts without blanks between words: Thai, Lao, Myanmar, Khmer and their like, then kana, Han,
# bopomofo and Yi. Digits are outside; Hangul too, whose words have blanks.
# Source: Unicode Standard Annex 14, classes SA (complex context) and ID (ideographs).
_ALONE = (
    "\u0e01-\u0e4e\u0e80-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17df\u1950-\u19cf"
    "\u1a20-\u1a7f\u1aa0-\u1aaf\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaadf\U00011700-\U0001172f"
    "\u3005-\u3007\u3021-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u9fff\ua000-\ua4cf"
    "\uf900-\ufaff\uff66-\uff9d\U00016fe0-\U00018dff\U0001aff0-\U0001b2ff\U00020000-\U0003ffff"
)
_JOINERS = "\u200c\u200d"  # within a word of Persian or Hindi, and between the parts of an emoji
# Nothing that a reader sees: soft hyphens, marks of direction, variation selectors, half a pair.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u180b-\u180f\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ud800-\udfff\U000e0100-\U000e01ef]"
)
# Beyond Latin, Greek and Cyrillic letters that are composed, and their signs: for speed, as the
# rest reads these texts like `_WORDS`, at a third of its pace.
_OTHER = re.compile(
    "[^\0-\xac\xae-\u012f\u0131-\u02ff\u0384-\u0386\u0388-\u0482\u048a-\u052f\u1e00-\u1eff"
    "\u2010-\u2027\u2030-\u205e\u20a0-\u20bf]"
)


def tokenize(text: str, ngrams: int, by: str = TOKENIZERS[0]) -> list[str]:
    """Return lower-cased words and signs, and runs of up to `ngrams` of them.

    By `unicode`, marks belong to their letter, an emoji is one sign whatever it is composed of, and
    scripts that have no blanks between words give a token a letter. A text is brought to Unicode's
    form C first: composed letters and their parts are one token.

    Args:
        by: one of TOKENIZERS; they agree on ASCII.
    """
    if by == "words" or text.isascii() or not _OTHER.search(text):
        words = _WORDS.findall(text.lower())
    else:
        text = unicodedata.normalize("NFC", _UNSEEN.sub("", text).replace("\u200b", " "))
        # Not casefold(), which makes two letters of a sharp s: German words would be others' then.
        # A dotted capital I becomes i and a dot, which no Turkish word that is lower-case has.
        words = _pattern().findall(text.lower().replace("i\u0307", "i"))
    longer = (
        " ".join(words[i : i + n]) for n in range(2, ngrams + 1) for i in range(len(words) - n + 1)
    )
    return [*words, *longer]


@functools.cache
def _pattern() -> re.Pattern[str]:
    """Return the pattern of a token in a text that is not all ASCII."""
    mark = _marks() + "\uff9e\uff9f"  # and those of half-width kana
    word, sign = rf"[^\W{_ALONE}]+", rf"[^\w\s{_JOINERS}]"
    skin = rf"[{mark}\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"  # or the letters of a flag
    return re.compile(
        rf"{word}(?:[{mark}]+|[{_JOINERS}]+(?=\w)|{word})*"
        rf"|(?=\w)[{_ALONE}][{mark}]*"
        rf"|[\U0001f1e6-\U0001f1ff]{{2}}"  # the two letters of a flag
        rf"|{sign}{skin}(?:\u200d{sign}{skin})*"
    )


def _marks() -> str:
    """Return the ranges of combining marks, which `re` has no class of and takes for signs."""
    marks = [c for c in range(0x300, 0x1F000) if unicodedata.category(chr(c))[0] == "M"]
    inside = set(marks)
    first = [chr(c) for c in marks if c - 1 not in inside]
    last = [chr(c) for c in marks if c + 1 not in inside]
    return "".join(f"{a}-{b}" for a, b in zip(first, last, strict=True))
