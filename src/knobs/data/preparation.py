"""All that stands between raw rows and a model: its inputs made of them, its outputs made answers.

Fitted on training rows and saved with every run as data: numbers and names in JSON, arrays in
safetensors, nothing that is executed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs.data.inputs import Pictures, Table
from knobs.data.pieces import Pieces
from knobs.data.stored import ARRAYS, JSON, Fields, arrays, document, plain
from knobs.data.texts import Texts
from knobs.errors import CheckpointError, DataError

VERSION = 1


@dataclass(frozen=True)
class Target:
    """The meaning of a model's outputs.

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
    def read(cls, fields: Fields) -> "Target":
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


INPUTS = {kind.kind: kind for kind in (Table, Pictures, Pieces)}


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
        fields = Fields(document(files[JSON]), arrays(files[ARRAYS]))
        if fields.whole("version", 1, 2**31) > VERSION:
            raise CheckpointError(f"{JSON}: of a newer version of knobs; update knobs")
        kind = INPUTS[fields.choice("kind", tuple(INPUTS))]
        inputs = kind.read(fields.section("inputs"))
        target = Target.read(fields.section("target"))
        checksum = fields.text("sha256")
        fields.end()
        expected = {f"inputs.{name}" for name in inputs.saved()[1]} | {"target.mean", "target.std"}
        if unknown := sorted(fields.arrays.keys() - expected):
            raise CheckpointError(f"{ARRAYS}: {plain(unknown[0])} is no array of it")
        rest = {name: value for name, value in fields.node.items() if name != "sha256"}
        if checksum != _checksum(rest, files[ARRAYS]):
            raise CheckpointError(f"{JSON}: not as it was written, or not with its {ARRAYS}")
        return cls(inputs, target)


def _checksum(document: dict, arrays: bytes) -> str:
    """Return the SHA-256 of both files, less itself."""
    text = json.dumps(document, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + arrays).hexdigest()
