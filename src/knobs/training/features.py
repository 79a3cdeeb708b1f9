"""Features of a frozen backbone: computed once over each split, and kept; only the rest trains.

Where all that trains of a network is its end, and all before it always gives an example the same
numbers, these are computed once. What trains on them is the end of the whole network itself, so
its checkpoints, its optimizer and its draws are those of a run through the whole network.
"""

import hashlib
import inspect
import json
import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knobs import build, cache, storage
from knobs.config.conflicts import through_whole
from knobs.data import Data, Stream, Tensors, take
from knobs.data.dataset import Inputs, each
from knobs.errors import ConfigError, StorageError, first_line, making, note, size
from knobs.training.cuts import Backbone, Cut, Whole, close, ids, place, prove
from knobs.training.state import Autocast

FORMAT = 1  # of an entry of the cache; another one is another entry
FILE = "features.safetensors"
BATCH = 256  # examples of a forward pass
TRIED = 4  # examples that a network is tried on
MEMORY_SHARE = 0.5  # of what is free, that features may take
ROOM = 2  # times their bytes that they take as they are written
# Of the model's section: what is in the network's values, or names it.
NO_FACTS = ("name", "freeze", "thaw", "cache", "weights")
log = logging.getLogger("knobs")


def of(
    config: dict,
    network: nn.Module,
    data: Data,
    device: torch.device,
    order: torch.memory_format,
    autocast: Autocast,
) -> tuple[Cut | None, Data, str]:
    """Return where a network can be cut, and its data with features in place of the inputs.

    Args:
        network: on its device; what is frozen of it becomes the one copy of this process.
        order: of images in memory.

    Returns:
        None and the data as they are where they cannot; and a line that says what was done, empty
        where nothing is frozen.
    """
    if not config["model"].get("freeze"):
        return None, data, ""
    if why := through_whole(config):
        return None, data, f"through the whole network at each step: {why}"
    try:
        cut = place(network)
        splits = {"train": data.train, "val": data.val}
        if config["test"]:
            splits["test"] = data.test
        facts = _facts(config, network, cut, device, order)
        keys = {name: _key(facts, split, data) for name, split in splits.items()}
        backbone, own = _backbone(network, cut)
        prove(network, cut, backbone, _few(data.train, device, order), autocast)
        for name, tensor in own.items():  # which nothing changes from here on
            tensor.data = backbone.tensors[name]
        _backbones.add(backbone)
        cut = replace(cut, backbone=backbone)
        found, fresh = _found(splits, keys, data, network, cut, device, order, autocast)
    except Whole as error:
        return None, data, f"through the whole network at each step: {error}"
    rows = sum(map(len, splits.values()))
    again = "" if fresh else " before"
    return cut, found, f"features of {rows:,} rows computed once{again} (cache)"


_placed: weakref.WeakValueDictionary[tuple, Data] = weakref.WeakValueDictionary()
_backbones: weakref.WeakSet[Backbone] = weakref.WeakSet()
_hashed: dict[int, tuple[weakref.ref, str]] = {}  # tensors by id, and their digests


# ------------------------------------------------------------------ of what
def _facts(
    config: dict, network: nn.Module, cut: Cut, device: torch.device, order: torch.memory_format
) -> dict[str, Any]:
    """Return what features depend on beside the frozen values and the inputs, as plain data."""
    versions = [torch.__version__, getattr(sys.modules.get("torchvision"), "__version__", "")]
    model = {k: v for k, v in config["model"].items() if k not in NO_FACTS}
    how = {"device": device.type, "order": str(order), "dtype": str(torch.get_default_dtype())}
    return {
        "format": FORMAT, "versions": versions, "network": repr(network), "code": _code(network),
        "model": model, "activation": config["activation"], "cut": [cut.path, cut.start],
        "norm": config["regularization"]["norm"], "precision": config["training"]["precision"],
    } | how  # fmt: skip


def _code(network: nn.Module) -> dict[str, str]:
    """Return the digests of the modules of Python that a network's classes stand in.

    Those of torch and torchvision are known by their versions.
    """
    found = {}
    for name in sorted({type(module).__module__ for module in network.modules()}):
        if name.partition(".")[0] in ("torch", "torchvision"):
            continue
        try:
            source = inspect.getsource(sys.modules[name])
        except (OSError, TypeError, KeyError):
            raise Whole(f"the code of {name} cannot be read") from None
        found[name] = hashlib.sha256(source.encode()).hexdigest()
    return found


def _digest_of(node: Any) -> str:
    return hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:32]


def _key(facts: Any, split: Tensors | Stream, data: Data) -> str:
    """Hash all that the features of a split depend on, less the frozen values.

    Raises:
        Whole: examples are drawn, or nothing tells what they are.
    """
    if isinstance(split, Tensors) and not split.mapped:
        x = {"": split.x} if isinstance(split.x, Tensor) else split.x
        return _digest_of([facts, {name: _hash(values) for name, values in sorted(x.items())}])
    if isinstance(split, Stream) and split.random:
        raise Whole("its examples are drawn at random")
    if not data.hash or not data.preparation or split.rows is None:
        raise Whole("nothing tells these data from others (the data set gives no hash)")
    files = {n: hashlib.sha256(c).hexdigest() for n, c in data.preparation.save().items()}
    return _digest_of([facts, data.hash, files, _hash(split.rows)])


def _hash(tensor: Tensor) -> str:
    """Hash a tensor's type, shape and bytes; one that is still there is read once."""
    kept = _hashed.get(id(tensor))
    if kept and kept[0]() is tensor:
        return kept[1]
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    where = id(tensor)
    _hashed[where] = weakref.ref(tensor, lambda _: _hashed.pop(where, None)), digest.hexdigest()
    return digest.hexdigest()


def _backbone(network: nn.Module, cut: Cut) -> tuple[Backbone, dict[str, Tensor]]:
    """Return the values of what is frozen, of a run before where they are the same; and its own."""
    behind = ids(cut.live(network))
    named = [*network.named_parameters(), *network.named_buffers()]
    own = {name: tensor for name, tensor in named if id(tensor) not in behind}
    for known in [*_backbones]:
        if own.keys() == known.tensors.keys() and all(
            _form(t) == _form(known.tensors[name]) and torch.equal(t, known.tensors[name])
            for name, t in own.items()
        ):
            return known, own
    tensors = {name: tensor.detach() for name, tensor in own.items()}
    by_id = {id(tensor): tensors[name] for name, tensor in own.items()}
    state = network.state_dict(keep_vars=True).items()
    values = {name: by_id[id(t)] for name, t in state if id(t) in by_id}
    digest = _digest_of({name: _hash(value) for name, value in tensors.items()})
    return Backbone(tensors, values, digest, set()), own


def _form(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device, tensor.stride()


# ------------------------------------------------------------------ the features
def _few(split: Tensors | Stream, device: torch.device, order: torch.memory_format) -> Inputs:
    """Return the inputs of some examples that lie apart, on the device."""
    count = min(TRIED, len(split))
    index = torch.arange(count, device=split.y.device) * (len(split) // max(1, count))
    return _moved(take(split, index).x, device, order)


def _moved(x: Inputs, device: torch.device, order: torch.memory_format) -> Inputs:
    def move(values: Tensor) -> Tensor:
        plain = torch.preserve_format
        return values.to(device, memory_format=order if values.ndim == 4 else plain)

    return each(x, move)


def _found(
    splits: dict[str, Tensors | Stream], keys: dict[str, str], data: Data, network: nn.Module,
    cut: Cut, device: torch.device, order: torch.memory_format, autocast: Autocast,
) -> tuple[Data, bool]:  # fmt: skip
    """Return data with features for inputs, of a run before where they are there; and if not."""
    moment = (*keys.values(), cut.backbone.digest, str(device), str(order))
    with _computing(network, cut, device, order, autocast) as compute:
        found = _placed.get(moment)
        if found and _as_now(data.val if len(data.val) else data.train,
                             found.val.x if len(data.val) else found.train.x, compute):  # fmt: skip
            return found, False
        made, fresh = _made(splits, keys, cut, compute, _few(data.train, device, order))
    found = replace(data, **made, hash=_digest_of(moment), augment=None, source=data)
    found = _placed[moment] = found.to(device, order)
    return found, fresh


Compute = Callable[[Inputs], Tensor]


@contextmanager
def _computing(
    network: nn.Module, cut: Cut, device: torch.device, order: torch.memory_format,
    autocast: Autocast,
) -> Iterator[Compute]:  # fmt: skip
    """Enter with what computes the features of a batch of inputs, on the CPU."""

    class _Enough(Exception):
        pass

    found: list[Tensor] = []

    def see(_module: nn.Module, given: tuple) -> None:
        found.append(given[0])
        raise _Enough  # the rest is not needed

    def compute(x: Inputs) -> Tensor:
        found.clear()
        with suppress(_Enough):
            network(_moved(x, device, order))
        return found[0].cpu()

    network.eval()
    hook = cut.first(network).register_forward_pre_hook(see)
    try:
        with torch.no_grad(), autocast():
            yield compute
    finally:
        hook.remove()


def _made(
    splits: dict[str, Tensors | Stream], keys: dict[str, str], cut: Cut, compute: Compute,
    few: Inputs,
) -> tuple[dict[str, Tensors], bool]:  # fmt: skip
    """Return the splits with features in place of inputs, and whether any were computed now."""
    one, rows = compute(few)[:1], sum(map(len, splits.values()))
    need, free = rows * one.nbytes, build.free_memory(torch.device("cpu"))
    if ROOM * need > MEMORY_SHARE * free:
        raise Whole(f"their features need {size(need)}, and {size(free)} of memory are free")
    say = _once(f"features of {rows:,} rows are computed once: {size(need)} of memory, and of "
                "the disk (python -m knobs.cache)")  # fmt: skip
    made, fresh = {}, False
    for name, split in splits.items():
        key = _digest_of([keys[name], cut.backbone.digest])
        x, new = _of_split(split, key, compute, one, say)
        fresh |= new
        made[name] = Tensors(x, split.y, split.weight, split.rows)
    return made, fresh


def _once(text: str) -> Callable[[], None]:
    """Return what says a line, the first time that it is called."""
    said: list[str] = []

    def say() -> None:
        if not said:
            said.append(text)
            note(text)

    return say


def _of_split(
    split: Tensors | Stream, key: str, compute: Compute, one: Tensor, say: Callable[[], None]
) -> tuple[Tensor, bool]:
    """Return the features of a split, (N, ...), from the cache; and whether they are new there.

    Args:
        one: features of an example, as the others are.
        say: called before any are computed.
    """
    from safetensors.torch import load, save

    if not len(split):
        return one[:0].clone(), False
    made: list[Tensor] = []

    def whole() -> Tensor:
        say()
        done, what = 0, f"the features of {len(split):,} rows, {BATCH} at a time"
        with making(what, "fewer rows, or a smaller data.size, may fit"):
            features = one.new_empty(len(split), *one.shape[1:])
            for batch in split.in_order(BATCH):
                part = compute(batch.x)
                features[done : done + len(part)] = part
                done += len(part)
        return features

    def make(folder: Path) -> None:
        made.append(whole())
        storage.write(folder / FILE, save({"x": made[0]}))

    def use(folder: Path, _facts: Any) -> Tensor:
        return made[0] if made else load(storage.read(folder / FILE, storage.memory()))["x"]

    about = f"features, {' x '.join(map(str, (len(split), *one.shape[1:])))}"
    try:
        found = cache.entry(f"features-{key}", about, len(split) * one.nbytes, make, use)
    except (StorageError, ConfigError, OSError) as error:  # the run needs no cache
        note(f"features are kept in memory alone: {first_line(error)}")
        found = made[0] if made else whole()
        return found, True
    if made:
        return found, True
    if not _as_now(split, found, compute):
        log.warning("features-%s: not what the network gives now; computed anew", key)
        return whole(), True
    return found, False


def _as_now(split: Tensors | Stream, found: Tensor, compute: Compute) -> bool:
    """Return whether the features of three rows are what the network gives for them."""
    last = len(split) - 1
    index = torch.tensor(sorted({0, last // 2, last}), device=split.y.device)
    now = compute(take(split, index).x)
    return len(found) == len(split) and close(found[index.to(found.device)].cpu(), now)
