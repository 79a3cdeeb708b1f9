"""Tensors larger than memory: prepared once, a block at a time, and gathered from a file's map."""

import hashlib
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from knobs import cache, storage
from knobs.data.dataset import Tensors
from knobs.data.inputs import Table
from knobs.data.opening import free_memory
from knobs.data.preparation import Preparation
from knobs.data.prepare import Parts, Targets
from knobs.data.texts import Texts
from knobs.errors import size

FORMAT = 1  # of the file; another one is another entry
AT_A_TIME = 2**22  # numbers that are prepared at once
SPLITS = 2  # times their bytes that tensors take in memory as they are made and split


def too_large(where: str, rows: int, shape: tuple[int, ...]) -> str:
    """Return a sentence where the tensors of rows are to be mapped; "" where memory takes them.

    Args:
        where: data.storage, auto, memory or map.
        shape: of an example, of numbers of 4 bytes.
    """
    need, free = SPLITS * 4 * rows * int(np.prod(shape)), free_memory()
    if where != "auto" or need <= free:
        return ""
    return (f"inputs are read from the disk: in memory they may take {size(need)}, and "
            f"{size(free)} are free (data.storage=auto)")  # fmt: skip


def splits(
    inputs: Table | Texts, targets: Targets, blocks: Callable[[], Iterable], parts: Parts,
    weight: Tensor | None, hash: str, shape: tuple[int, ...],
) -> list[Tensors]:  # fmt: skip
    """Return the splits with their inputs on the disk, those of training, validation, test in turn.

    They are gathered by index as those in memory are; whoever writes to one ends the process.

    Args:
        blocks: raw rows, in order, as `inputs` takes them; called where they are to be prepared.
        hash: of content, target and split, see `content_hash`; with the preparation it says all.
        shape: of an example.
    """
    kind = np.dtype(np.int32 if isinstance(inputs, Texts) else np.float32)
    sizes = [len(part) for part in parts]
    whole = (sum(sizes), *shape)

    def make(folder: Path) -> None:
        _write(folder / "x", inputs, blocks(), parts, kind, shape)

    def use(folder: Path, _facts: Any) -> Tensor:
        mapped = np.memmap(folder / "x", kind, mode="r", shape=whole)
        with warnings.catch_warnings():  # nothing writes to it
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(mapped)

    need = kind.itemsize * int(np.prod(whole))
    about = f"prepared, {' x '.join(f'{n:,}' for n in whole)}"
    x = cache.entry(f"x-{_key(inputs, targets, hash, whole)}", about, need, make, use)
    made = []
    for own, part in zip(x.split(sizes), parts, strict=True):
        rows = torch.from_numpy(part)
        mine = None if weight is None else weight[rows]
        made.append(Tensors(own, targets.y[rows], mine, rows, mapped=True))
    return made


def _key(inputs: Table | Texts, targets: Targets, hash: str, whole: tuple[int, ...]) -> str:
    """Hash what prepared tensors depend on: content, split and preparation."""
    digest = hashlib.sha256(json.dumps([FORMAT, hash, whole]).encode())
    for name, content in sorted(Preparation(inputs, targets.target).save().items()):
        digest.update(name.encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _write(
    path: Path, inputs: Table | Texts, blocks: Iterable, parts: Parts, kind: np.dtype,
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    """Write the tensors of the splits behind each other."""
    each = kind.itemsize * int(np.prod(shape))
    ends = np.cumsum([0, *(len(part) for part in parts)])
    done, start = [0] * len(parts), 0
    with storage.writing(path) as file:
        for block in itertools.chain.from_iterable(_pieces(b, shape) for b in blocks):
            x = inputs.apply(block).numpy()
            assert x.dtype == kind, f"inputs are {kind}"
            assert x.shape[1:] == tuple(shape), f"an example is {shape}"
            for i, part in enumerate(parts):
                first, last = np.searchsorted(part, [start, start + len(x)])
                assert first == done[i], "parts increase"
                file.seek(each * int(ends[i] + first))
                file.write(x[part[first:last] - start].reshape(-1).view(np.uint8))
                done[i] = int(last)
            start += len(x)
    assert done == [len(part) for part in parts], "every row of a split was written"


def _pieces(block: Any, shape: tuple[int, ...]) -> Iterator[Any]:
    """Yield a block of rows, columns or a list, in parts whose tensors are no larger than memory.

    A category of many levels is as many inputs.
    """
    table = isinstance(block, Mapping)
    rows = len(next(iter(block.values()))) if table else len(block)
    step = max(1, AT_A_TIME // int(np.prod(shape)))
    for start in range(0, rows, step):
        some = slice(start, start + step)
        yield {name: cells[some] for name, cells in block.items()} if table else block[some]
