"""The tokenizer in a folder of a network of transformers, and what it makes of training texts."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from knobs import hub
from knobs.data.inputs import rows_in
from knobs.data.pieces import Pieces, coder_of, ids_of
from knobs.data.texts import usual_length
from knobs.errors import ConfigError, DataError, first_line
from knobs.weights import imported

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # a network's, in config.json


def fit(
    name: str, blocks: Iterable[Sequence[str]], rows: np.ndarray, max_length: int | str
) -> tuple[Pieces, np.ndarray]:
    """Return a tokenizer with a length, and the tokens of each text of some rows, uncut (N,).

    Args:
        name: of its folder, or of the hub. rows: of the texts that give the length.
        max_length: tokens with the special ones, or `auto`: as of words, and at most what the
            folder says that its network takes.

    Raises:
        ConfigError: no tokenizer there. DataError: a length without room for a word.
    """
    asked = f"data.tokenizer={name}"
    library = imported("transformers")
    folder = hub.folder_of(name, asked)
    tokenizer = _read(folder, asked, library)
    coder = coder_of(tokenizer)
    found: list[int] = []
    for block, places in rows_in(blocks, rows, len):
        found += [len(ids) for ids in ids_of(coder, [block[row] for row in places])]
    lengths = np.array(found, int)
    special = coder.num_special_tokens_to_add(is_pair=False)
    if not (lengths > special).any():
        raise DataError(f"{asked}: all {len(lengths):,} training texts are empty to it")
    most = _most(folder)
    length = min(usual_length(lengths, 1), most) if max_length == "auto" else max_length
    if length > most or length <= special:
        must = f"from {special + 1} to {most:,}, special tokens with them"
        raise DataError(f"data.max_length={length}: the tokenizer of {name} takes {must}")
    return Pieces.of(tokenizer, min(length, int(lengths.max()))), lengths


def note(inputs: Pieces, lengths: np.ndarray, name: str) -> str:
    """Return what a tokenizer made of the training texts, for a person.

    Args:
        lengths: (N,) tokens of the texts, before they are cut.
    """
    length = inputs.length
    cut = f"{(lengths > length).mean():.1%} of the training texts cut"
    padding = 1 - np.minimum(lengths, length).mean() / length
    return f"by the tokenizer of {name}: {length:,} tokens a text, {cut}, {padding:.0%} padding"


def _read(folder: Path, asked: str, library: Any) -> str:
    """Return tokenizer.json as transformers itself uses it.

    Raises:
        ConfigError: it is not there, names code of its own, or is of no form that is known.
    """
    if not (folder / "tokenizer.json").is_file():
        how = "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER) writes it"
        raise ConfigError(f"{asked}: the folder has no tokenizer.json; {how}")
    if "auto_map" in _json(folder / "tokenizer_config.json"):
        code = "tokenizer_config.json names code of its own (auto_map), which knobs never runs"
        raise ConfigError(f"{asked}: {code}; give a network of transformers itself")
    safely = {"local_files_only": True, "trust_remote_code": False}
    try:
        made = library.AutoTokenizer.from_pretrained(folder, **safely)
        return made.backend_tokenizer.to_str()
    except Exception as error:  # files of others
        raise ConfigError(f"{asked}: its tokenizer cannot be read ({first_line(error)})") from None


def _most(folder: Path) -> int:
    """Return the most tokens of a text that a folder's network takes, as far as it says so."""
    said = [_json(folder / "tokenizer_config.json").get("model_max_length")]
    config = _json(folder / "config.json")
    said += [config.get(key) for key in POSITIONS]
    return min([n for n in said if type(n) is int and n > 0], default=2**20)


def _json(path: Path) -> dict[str, Any]:
    """Return the fields of a file; none where it is not there, or no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
