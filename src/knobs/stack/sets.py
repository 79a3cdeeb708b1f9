"""The data of a stack's rows: one set, or several that differ in their split, laid side by side.

A fold, or another split, has a preparation of its own, so that row k gathers x[s_k, index]. Inputs
of fewer features are padded with zeros, as is the first layer that reads them: see layers.py.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.data import Data, Tensors
from knobs.data.dataset import Inputs, each
from knobs.training.state import Run


class Sets:
    """S sets of data whose splits are of one length each.

    Args:
        sets: by what tells them apart, see `key`.
    """

    def __init__(self, sets: dict[str, Data]):
        self.sets = sets
        self.number = {name: s for s, name in enumerate(sets)}
        for split in ("train", "val"):
            lengths = {len(getattr(data, split)) for data in sets.values()}
            assert len(lengths) == 1, f"rows share the length of the {split} split"

    @cached_property
    def train(self) -> Tensors:
        """Return the S training splits of N examples as one of S N."""
        return behind([data.train for data in self.sets.values()])

    @cached_property
    def val(self) -> Tensors:
        """Return the validation splits as one."""
        return behind([data.val for data in self.sets.values()])

    def of(self, runs: Sequence[Run]) -> Tensor:
        """Return [K], the number of each row's set, on its device."""
        device = runs[0].data.train.y.device
        return torch.tensor([self.number[key(run.data)] for run in runs], device=device)

    def inputs(self, of: Tensor, size: int) -> Iterator[Inputs]:
        """Yield the rows' validation inputs in order, [K, n, ...], `size` examples at a time."""
        count, length = len(self.sets), len(next(iter(self.sets.values())).val)
        for start in range(0, max(1, length), size):

            def cut(x: Tensor, start: int = start) -> Tensor:
                whole = x.unflatten(0, (count, length))[:, start : start + size].to(of.device)
                return whole.expand(len(of), *whole.shape[1:]) if count == 1 else whole[of]

            yield each(self.val.x, cut)

    def groups(self, runs: Sequence[Run]) -> Iterator[tuple[Data, list[int]]]:
        """Yield each set with the numbers of its runs."""
        for name, data in self.sets.items():
            if numbers := [i for i, run in enumerate(runs) if key(run.data) == name]:
                yield data, numbers


def sets_of(runs: Sequence[Run], before: Sets | None = None) -> Sets:
    """Return the sets of some runs: those of an earlier stack where these are among them.

    Not where the widest of those is gone: the rows' weights are as wide as the widest row's inputs.
    """
    sets = {key(run.data): run.data for run in runs}
    if before and sets.keys() <= before.sets.keys() and _widths(sets) == _widths(before.sets):
        return before
    return Sets(sets)


def _widths(sets: dict[str, Data]) -> dict[str, int]:
    """Return the number of features of each input, of the set that has most."""
    found: dict[str, int] = {}
    for data in sets.values() if len(sets) > 1 else ():
        x = data.train.x
        for name, values in ({"x": x} if isinstance(x, Tensor) else x).items():
            found[name] = max(found.get(name, 0), values.shape[-1])
    return found


def key(data: Data) -> str:
    """Return what tells data of one configuration apart: the hash of content and split."""
    return data.hash or str(id(data.train.y))


def behind(splits: Sequence[Tensors]) -> Tensors:
    """Return splits as one, their examples behind each other; one alone as it is."""
    if len(splits) == 1:
        return splits[0]
    first = splits[0]
    if isinstance(first.x, Tensor):
        x = _rows([split.x for split in splits])
    else:
        x = {name: _rows([split.x[name] for split in splits]) for name in first.x}
    weight = None if first.weight is None else torch.cat([split.weight for split in splits])
    return Tensors(x, torch.cat([split.y for split in splits]), weight)


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors (N, F) of several widths as one, zeros at the end of the narrower rows."""
    width = max(part.shape[-1] for part in parts)
    if all(part.shape[-1] == width for part in parts):
        return torch.cat(list(parts))
    return torch.cat([F.pad(part, (0, width - part.shape[-1])) for part in parts])
