"""What turns raw rows, pictures or texts into tensors, and outputs into classes or values.

Fitted on training rows, block by block, and saved with every run as data: numbers and names in
JSON, arrays in safetensors, nothing that is executed.
"""

import collections
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from knobs.errors import CheckpointError, DataError, first_line

VERSION = 1
JSON, ARRAYS = "preparation.json", "preparation.safetensors"  # of a run's folder
BLOCK = 65_536  # raw rows that are prepared at once
MISSING = "missing"  # the category of an empty cell
_TOO_LARGE = "numbers too large to standardise; leave the column out, or scale it"
MOST_PIXELS, MOST_TOKENS, MOST_NGRAMS = 2**14, 2**20, 3  # a side, an example, a token


def rows_in(blocks: Iterable, rows: np.ndarray, size: Callable) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield each block with the places in it of those of its rows that are asked for.

    Args:
        blocks: of raw rows, in order.
        rows: increasing numbers of rows, counted over all blocks.
        size: a block -> its number of rows.
    """
    assert (np.diff(rows) > 0).all(), "rows increase"
    start = 0
    for block in blocks:
        first, last = np.searchsorted(rows, [start, start + size(block)])
        yield block, rows[first:last] - start
        start += size(block)
    assert not len(rows) or rows[-1] < start, "rows lie in the blocks"


def moments(sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation by feature (N, F) or channel (N, C, H, W), kept broadcast.

    In float32 and torch's order of summation, whose bits are those of every run so far. The
    deviation of a constant is 1.
    """
    dims = [0, *range(2, sample.ndim)]
    mean, std = sample.mean(dims, keepdim=True), sample.std(dims, correction=0, keepdim=True)
    return mean, torch.where(std > 1e-8, std, 1.0)


def column_moments(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of float64 columns (N,); that of a constant is 1.

    numpy's pairwise sums over each whole column, and the bits of scikit-learn's StandardScaler.
    Source: Chan, Golub and LeVeque 1983, the corrected two-pass algorithm and its error bound.
    """
    n, eps = float(len(columns[0])) if columns else 0.0, np.finfo(float).eps
    mean = np.array([values.sum() / n for values in columns])
    off = [values - m for values, m in zip(columns, mean, strict=True)]
    correction = np.array([values.sum() for values in off])
    variance = (np.array([(values**2).sum() for values in off]) - correction**2 / n) / n
    constant = variance <= n * eps * variance + (n * mean * eps) ** 2
    scale = np.sqrt(np.maximum(variance, 0))
    return mean, np.where(constant & np.isfinite(variance), 1.0, scale)


@dataclass(frozen=True)
class Table:
    """Numbers standardised, a missing one as the median; categories one-hot, an unknown one as 0s.

    A block maps a column's name to its cells: a data frame, or a dict of arrays.

    Args:
        numbers: columns of numbers, in the order of the features.
        levels: column -> its categories, whose features come after the numbers.
        median, mean, scale: (numbers,), of the type in which a number is standardised.
    """

    numbers: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    median: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    kind: ClassVar = "table"

    @classmethod
    def fit(
        cls, blocks: Iterable[Mapping], train_rows: np.ndarray, single: bool = False
    ) -> "Table":
        """Take medians, means and deviations, and the categories, from the training rows.

        Args:
            single: in float32, as the bundled sets have it, not float64.
        """
        numbers: dict[str, list[np.ndarray]] = {}
        levels: dict[str, set[str]] = {}
        for block, rows in rows_in(blocks, train_rows, _count):
            if not (numbers or levels):  # a column is of the kind that it has in the first block
                for name in map(str, block):
                    is_number = np.asarray(block[name]).dtype.kind in "iuf"
                    (numbers if is_number else levels)[name] = [] if is_number else set()
            for name, pieces in numbers.items():
                pieces.append(_numbers(block, name)[rows])
            for name, known in levels.items():
                known.update(_words(block, name, rows))
        columns = [np.concatenate(pieces) for pieces in numbers.values()]
        median = np.array([_median(values) for values in columns])
        columns = [np.where(np.isnan(v), m, v) for v, m in zip(columns, median, strict=True)]
        if single and columns:
            sample = torch.from_numpy(np.stack(columns, 1).astype(np.float32))
            median = median.astype(np.float32)
            mean, scale = (values.flatten().numpy() for values in moments(sample))
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                mean, scale = column_moments(columns)
        for name, *both in zip(numbers, mean, scale, strict=True):
            if not np.isfinite(both).all():
                raise DataError(f"{name}: {_TOO_LARGE}")
        ordered = {name: tuple(sorted(known)) for name, known in levels.items()}
        return cls(tuple(numbers), ordered, median, mean, scale)

    @property
    def width(self) -> int:
        """Return the number of features."""
        return len(self.numbers) + sum(map(len, self.levels.values()))

    def apply(self, block: Mapping) -> Tensor:
        """Return (n, features) float32.

        Raises:
            DataError: a column is not there, or a cell of numbers holds none or too large a one.
        """
        x = np.zeros((_count(block), self.width), np.float32)
        for i, name in enumerate(self.numbers):
            values = _numbers(block, name)
            values = np.where(np.isnan(values), self.median[i], values).astype(self.mean.dtype)
            with np.errstate(over="ignore"):
                x[:, i] = (values - self.mean[i]) / self.scale[i]
            if not np.isfinite(x[:, i]).all():
                raise DataError(f"{name}: {_TOO_LARGE}")
        start = len(self.numbers)
        for name, known in self.levels.items():
            places = {level: start + i for i, level in enumerate(known)}
            found = np.array([places.get(word, -1) for word in _words(block, name)], int)
            rows = np.flatnonzero(found >= 0)
            x[rows, found[rows]] = 1
            start += len(known)
        return torch.from_numpy(x)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return names and arrays."""
        levels = {name: list(known) for name, known in self.levels.items()}
        arrays = {"median": self.median, "mean": self.mean, "scale": self.scale}
        return {"numbers": list(self.numbers), "levels": levels}, arrays

    @classmethod
    def read(cls, fields: "Fields") -> "Table":
        """Return the table that fields describe."""
        numbers = tuple(fields.names("numbers"))
        levels = fields.section("levels")
        known = {name: tuple(levels.names(name, least=1)) for name in levels.node}
        if not (numbers or known) or set(numbers) & set(known):
            raise fields.wrong("numbers", list(numbers), "columns, none of which are in levels")
        types = ("float64", "float32")
        mean = fields.array("mean", len(numbers), types)
        types = (mean.dtype.name,)
        median = fields.array("median", len(numbers), types)
        scale = fields.array("scale", len(numbers), types, positive=True)
        return cls(numbers, known, median, mean, scale)


def _count(block: Mapping) -> int:
    """Return the number of rows of a table's block."""
    return len(block[next(iter(block))])


def _cells(block: Mapping, name: str) -> Any:
    if name not in block:
        raise DataError(f"{name}: no such column; it has {', '.join(map(str, block))}")
    return block[name]


def _numbers(block: Mapping, name: str) -> np.ndarray:
    """Return a column as (n,) float64, NaN where a cell is empty."""
    values = np.asarray(_cells(block, name))
    if values.dtype.kind not in "iufb":
        numbers = np.full(len(values), np.nan)
        for i, cell in enumerate(values):
            try:
                numbers[i] = np.nan if cell is None or cell == "" else float(cell)
            except (TypeError, ValueError):
                raise DataError(f"{name}: {str(cell)[:40]!r} is not a number") from None
        values = numbers
    values = values.astype(float)
    if np.isinf(values).any():
        raise DataError(f"{name}: an infinite number; leave it out, or the cell empty")
    return values


def _words(block: Mapping, name: str, rows: np.ndarray | None = None) -> list[str]:
    """Return a column's cells as categories."""
    cells = np.asarray(_cells(block, name), dtype=object)
    cells = cells if rows is None else cells[rows]
    return [MISSING if cell is None or cell != cell else str(cell) for cell in cells]


def _median(values: np.ndarray) -> float:
    """Return the median of what is no NaN; 0 where nothing is."""
    present = values[~np.isnan(values)]
    return float(np.median(present)) if len(present) else 0.0


@dataclass(frozen=True)
class Pictures:
    """Pixels standardised by channel. A block is a tensor (n, C, H, W) of pixels.

    Args:
        size: (H, W).
        unit: the pixel value that counts as 1.
        mean, scale: (C,) float32.
    """

    size: tuple[int, int]
    unit: int
    mean: np.ndarray
    scale: np.ndarray
    kind: ClassVar = "image"

    @classmethod
    def fit(cls, blocks: Iterable[Tensor], train_rows: np.ndarray, unit: int = 255) -> "Pictures":
        """Take each channel's mean and deviation from the training rows."""
        sample = [block[torch.from_numpy(rows)] for block, rows in rows_in(blocks, train_rows, len)]
        pixels = sample[0] if len(sample) == 1 else torch.cat(sample)
        mean, scale = moments(pixels.to(torch.float32, copy=True).div_(unit))
        size = tuple(pixels.shape[2:])
        return cls(size, unit, mean.flatten().numpy(), scale.flatten().numpy())

    @cached_property
    def _channels(self) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.scale))

    def apply(self, block: Tensor) -> Tensor:
        """Return (n, C, H, W) float32 on the block's device, in its memory order.

        Raises:
            DataError: pictures of another shape.
        """
        expected = (len(self.mean), *self.size)
        if block.ndim != 4 or tuple(block.shape[1:]) != expected:
            raise DataError(f"pictures of shape {tuple(block.shape[1:])}: must be {expected}")
        mean, scale = (values.to(block.device) for values in self._channels)
        return block.to(torch.float32, copy=True).div_(self.unit).sub_(mean).div_(scale)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return numbers and arrays."""
        height, width = self.size
        arrays = {"mean": self.mean, "scale": self.scale}
        channels = len(self.mean)
        return {"channels": channels, "height": height, "width": width, "unit": self.unit}, arrays

    @classmethod
    def read(cls, fields: "Fields") -> "Pictures":
        """Return the pictures that fields describe."""
        channels = fields.whole("channels", 1, 2**10)
        size = fields.whole("height", 1, MOST_PIXELS), fields.whole("width", 1, MOST_PIXELS)
        mean = fields.array("mean", channels, ("float32",))
        scale = fields.array("scale", channels, ("float32",), positive=True)
        return cls(size, fields.whole("unit", 1, 2**16), mean, scale)


@dataclass(frozen=True)
class Texts:
    """Texts as token ids: 0 is padding, 1 every unknown token. A block is a list of texts.

    Args:
        tokens: those that have an id, from 2 on.
        ngrams: a token is a word, or up to so many of them.
        length: of an example, in tokens; longer ones are cut.
    """

    tokens: tuple[str, ...]
    ngrams: int
    length: int
    kind: ClassVar = "text"

    @classmethod
    def fit(
        cls, blocks: Iterable[Sequence[str]], train_rows: np.ndarray,
        *, ngrams: int, max_length: int, max_vocabulary: int, min_count: int,
    ) -> "Texts":  # fmt: skip
        """Take the vocabulary and the longest text's length from the training rows."""
        counts, longest = collections.Counter(), 1
        for block, rows in rows_in(blocks, train_rows, len):
            for row in rows:
                tokens = tokenize(block[row], ngrams)
                counts.update(tokens)
                longest = max(longest, len(tokens))
        ids = vocabulary(counts, max_vocabulary, min_count)
        return cls(tuple(ids), ngrams, min(max_length, longest))

    @cached_property
    def ids(self) -> dict[str, int]:
        """Return token -> id."""
        return {token: i for i, token in enumerate(self.tokens, start=2)}

    def apply(self, block: Sequence[str]) -> Tensor:
        """Return (n, length) int32 token ids."""
        return encode_texts([tokenize(text, self.ngrams) for text in block], self.ids, self.length)

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the vocabulary, and no arrays."""
        return {"tokens": list(self.tokens), "ngrams": self.ngrams, "length": self.length}, {}

    @classmethod
    def read(cls, fields: "Fields") -> "Texts":
        """Return the texts that fields describe."""
        ngrams, length = (
            fields.whole("ngrams", 1, MOST_NGRAMS),
            fields.whole("length", 1, MOST_TOKENS),
        )
        return cls(tuple(fields.names("tokens")), ngrams, length)


_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokenize(text: str, ngrams: int) -> list[str]:
    """Return lower-cased words and signs, and runs of up to `ngrams` of them."""
    words = _TOKEN.findall(text.lower())
    longer = (
        " ".join(words[i : i + n]) for n in range(2, ngrams + 1) for i in range(len(words) - n + 1)
    )
    return [*words, *longer]


def vocabulary(counts: Mapping[str, int], size: int, min_count: int) -> dict[str, int]:
    """Return token -> id for the most frequent tokens; 0 is padding and 1 every other token.

    Ties go by the alphabet, so the ids do not depend on the order of the texts.
    """
    kept = sorted((-n, token) for token, n in counts.items() if n >= min_count)[: max(0, size - 2)]
    return {token: i for i, (_, token) in enumerate(kept, start=2)}


def encode_texts(texts: list[list[str]], ids: Mapping[str, int], length: int) -> Tensor:
    """Return (N, length) int32 token ids, cut or padded with 0 at the end."""
    encoded = np.zeros((len(texts), length), np.int32)
    for row, text in zip(encoded, texts, strict=True):
        row[: len(text)] = [ids.get(token, 1) for token in text[:length]]
    return torch.from_numpy(encoded)


@dataclass(frozen=True)
class Target:
    """What a model's outputs stand for.

    Args:
        task: classification, multilabel or regression.
        names: of the targets; one, or those of a list.
        classes: in the order of the outputs; empty for regression.
        mean, std: (T,) float64, what a regression's values are standardised by; 0 and 1 else.
    """

    task: str
    names: tuple[str, ...]
    classes: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    def encode(self, values: np.ndarray) -> Tensor:
        """Turn raw values, (N,) or (N, T), into class numbers, 0 and 1, or standardised numbers.

        Raises:
            DataError: a class that training did not have.
        """
        if self.task == "multilabel":
            return torch.from_numpy(values.astype(np.float32))
        if self.task == "regression":
            mean, std = (self.mean, self.std) if values.ndim == 2 else (self.mean[0], self.std[0])
            return torch.from_numpy(((values - mean) / std).astype(np.float32))
        numbers = {name: i for i, name in enumerate(self.classes)}
        found, inverse = np.unique(values, return_inverse=True)
        if unknown := [str(value) for value in found if str(value) not in numbers]:
            raise DataError(f"{self.names[0]}={unknown[0]}: not one of {', '.join(self.classes)}")
        return torch.from_numpy(np.array([numbers[str(v)] for v in found], np.int64)[inverse])

    def decode(self, outputs: Tensor) -> np.ndarray:
        """Turn outputs (N, C) into class names (N,), labels 0 and 1 (N, T), or values (N, T)."""
        if self.task == "classification":
            return np.array(self.classes)[outputs.argmax(1).cpu().numpy()]
        if self.task == "multilabel":
            return (outputs > 0).long().cpu().numpy()
        return outputs.double().cpu().numpy() * self.std + self.mean

    def saved(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return names and arrays."""
        about = {"task": self.task, "names": list(self.names), "classes": list(self.classes)}
        return about, {"mean": self.mean, "std": self.std}

    @classmethod
    def read(cls, fields: "Fields") -> "Target":
        """Return the target that fields describe."""
        task = fields.choice("task", ("classification", "multilabel", "regression"))
        names, classes = fields.names("names", least=1), fields.names("classes")
        fits = {
            "classification": len(classes) > 1 and len(names) == 1,
            "multilabel": classes == names and len(names) > 1,
            "regression": not classes,
        }
        if not fits[task]:
            raise fields.wrong("classes", classes, f"those of a {task} of {len(names)} targets")
        mean = fields.array("mean", len(names), ("float64",))
        std = fields.array("std", len(names), ("float64",), positive=True)
        return cls(task, tuple(names), tuple(classes), mean, std)


INPUTS = {kind.kind: kind for kind in (Table, Pictures, Texts)}


@dataclass(frozen=True)
class Preparation:
    """All that stands between raw rows and a model, and between its outputs and answers."""

    inputs: Table | Pictures | Texts
    target: Target

    def apply(self, block: Any) -> Tensor:
        """Return the inputs of a block of raw rows, as its kind of data says."""
        return self.inputs.apply(block)

    @cached_property
    def _files(self) -> dict[str, bytes]:
        from safetensors.numpy import save

        document: dict[str, Any] = {"version": VERSION, "kind": self.inputs.kind}
        arrays = {}
        for section, part in (("inputs", self.inputs), ("target", self.target)):
            document[section], found = part.saved()
            arrays |= {f"{section}.{name}": values for name, values in found.items()}
        content = save(arrays)
        document["sha256"] = _checksum(document, content)
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        return {JSON: text.encode("utf-8", "surrogatepass"), ARRAYS: content}

    def save(self) -> dict[str, bytes]:
        """Return file name -> content; encoded once, however many runs share the data."""
        return dict(self._files)

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> "Preparation":
        """Read what `save` returned.

        Raises:
            CheckpointError: naming the file, or the field, that is not as it must be.
        """
        for name in (JSON, ARRAYS):
            if name not in files:
                raise CheckpointError(f"{name}: no such file; the run kept no preparation")
        fields = Fields(_document(files[JSON]), _arrays(files[ARRAYS]))
        if fields.whole("version", 1, 2**31) > VERSION:
            raise CheckpointError(f"{JSON}: of a newer version of knobs; update knobs")
        kind = INPUTS[fields.choice("kind", tuple(INPUTS))]
        inputs = kind.read(fields.section("inputs"))
        target = Target.read(fields.section("target"))
        checksum = fields.text("sha256")
        fields.end()
        expected = {f"inputs.{name}" for name in inputs.saved()[1]} | {"target.mean", "target.std"}
        if unknown := sorted(fields.arrays.keys() - expected):
            raise CheckpointError(f"{ARRAYS}: {_plain(unknown[0])} is no array of it")
        rest = {name: value for name, value in fields.node.items() if name != "sha256"}
        if checksum != _checksum(rest, files[ARRAYS]):
            raise CheckpointError(f"{JSON}: not as it was written, or not with its {ARRAYS}")
        return cls(inputs, target)


def _checksum(document: dict, arrays: bytes) -> str:
    """Return the SHA-256 of both files, less itself."""
    text = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + arrays).hexdigest()


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{JSON}: cannot be read ({first_line(error)})") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{JSON}: must be an object of fields")
    return document


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    from safetensors.numpy import load

    try:
        return load(content)
    except Exception as error:  # one of Rust's, or a type that numpy does not have
        raise CheckpointError(f"{ARRAYS}: cannot be read ({first_line(error)})") from None


def _plain(name: str) -> str:
    """Return a name as one short line without control characters."""
    return repr(name[:60])[1:-1]


class Fields:
    """Fields of a document that nobody has vouched for; each is checked as it is read.

    Args:
        node: a JSON object.
        arrays: of the document, by the paths of their fields.
        path: of the object within the document, with a point at its end.
    """

    def __init__(self, node: dict[str, Any], arrays: dict[str, np.ndarray], path: str = ""):
        self.node, self.arrays, self.path = node, arrays, path
        self.unread = set(node)
        self.sections: list[Fields] = []

    def wrong(self, name: str, value: Any, expected: str) -> CheckpointError:
        """Return the error of a field."""
        shown = repr(value)
        shown = shown if len(shown) < 60 else f"{shown[:57]}..."
        return CheckpointError(f"{JSON}: {_plain(self.path + name)}={shown}: must be {expected}")

    def value(self, name: str, accepts: Callable[[Any], bool], expected: str) -> Any:
        """Return a field that is there and as it must be."""
        if name not in self.node:
            raise CheckpointError(f"{JSON}: {self.path}{name} is missing; it must be {expected}")
        if not accepts(self.node[name]):
            raise self.wrong(name, self.node[name], expected)
        self.unread.discard(name)
        return self.node[name]

    def section(self, name: str) -> "Fields":
        """Return a field that has fields of its own."""
        node = self.value(name, lambda v: isinstance(v, dict), "an object of fields")
        self.sections.append(Fields(node, self.arrays, f"{self.path}{name}."))
        return self.sections[-1]

    def text(self, name: str) -> str:
        """Return a text."""
        return self.value(name, lambda v: isinstance(v, str), "a text")

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return one of some texts."""
        accepts = lambda v: isinstance(v, str) and v in options  # noqa: E731
        return self.value(name, accepts, f"one of {', '.join(options)}")

    def whole(self, name: str, low: int, high: int) -> int:
        """Return a whole number within bounds."""
        accepts = lambda v: type(v) is int and low <= v <= high  # noqa: E731
        return self.value(name, accepts, f"a whole number from {low} to {high}")

    def names(self, name: str, least: int = 0) -> list[str]:
        """Return a list of texts, all different."""

        def accepts(value: Any) -> bool:
            texts = isinstance(value, list) and all(isinstance(v, str) for v in value)
            return texts and len(set(value)) == len(value) >= least

        return self.value(name, accepts, f"a list of {least} texts or more, all different")

    def array(
        self, name: str, length: int, types: Sequence[str], positive: bool = False
    ) -> np.ndarray:
        """Return an array (length,) of finite numbers, above 0 where they must be `positive`."""
        path = f"{self.path}{name}"
        values = self.arrays.get(path)
        expected = f"({length},) of {' or '.join(types)}, finite{' and above 0' * positive}"
        if values is None:
            raise CheckpointError(f"{ARRAYS}: {path} is missing; it must be {expected}")
        if values.dtype.name not in types or values.shape != (length,):
            found = f"{values.shape} of {values.dtype.name}"
            raise CheckpointError(f"{ARRAYS}: {path} is {found}: must be {expected}")
        if not np.isfinite(values).all() or (positive and not (values > 0).all()):
            raise CheckpointError(f"{ARRAYS}: {path}: must be {expected}")
        return values

    def end(self) -> None:
        """Refuse what nobody has read: a document of another make is not half believed.

        Raises:
            CheckpointError: naming a field that is none.
        """
        if self.unread:
            unknown = _plain(self.path + min(self.unread))
            raise CheckpointError(f"{JSON}: {unknown} is no field of it")
        for section in self.sections:
            section.end()
