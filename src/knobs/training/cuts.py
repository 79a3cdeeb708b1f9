"""The place in a network behind which all of it trains: found, and proved to be one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from knobs.data.dataset import Inputs
from knobs.errors import CheckpointError, first_line
from knobs.models import frozen
from knobs.models.layers import Dropout
from knobs.signals import exits
from knobs.training.state import Autocast

# The most that features of the same rows may differ by, of their largest: sums round otherwise in
# another batch.
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05}
DROPS = (Dropout, nn.modules.dropout._DropoutNd)


class Whole(Exception):
    """Features cannot be computed once; the message says why."""


@dataclass(eq=False)
class Backbone:
    """Values of what is frozen in front of the features: one copy for all runs that have them.

    Args:
        tensors: by name, all of them. values: those of the network's state.
        digest: of them.
        proved: the networks with these values of which a cut was proved.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Tensor]
    digest: str
    proved: set[tuple]


@dataclass(frozen=True)
class Cut:
    """The place in a network behind which it trains.

    Args:
        path: of a module.
        start: of an nn.Sequential, the first of its children behind the cut; None: the module.
        backbone: what is frozen before.
    """

    path: str
    start: int | None
    backbone: Backbone | None = None

    def live(self, network: nn.Module) -> nn.Module:
        """Return the part of a network that is behind the cut; its modules are the network's."""
        module = network.get_submodule(self.path)
        return module if self.start is None else nn.Sequential(*list(module)[self.start :])

    def first(self, network: nn.Module) -> nn.Module:
        """Return the module that the features are the input of."""
        module = network.get_submodule(self.path)
        return module if self.start is None else list(module)[self.start]

    def shared(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's state, what is frozen of it replaced by the one copy there is.

        Raises:
            CheckpointError: it is of other frozen weights than these features.
        """
        state = dict(state)
        for part in ("model", "best_weights"):
            for name, value in self.backbone.values.items():
                if state[part] and not torch.equal(state[part][name], value.cpu()):
                    raise CheckpointError(
                        f"{part}.{name}: is frozen, and other than when the run began; put the "
                        "old weights back (model.weights), or begin a new run"
                    )
            state[part] = state[part] and {**state[part], **self.backbone.values}
        return state


# ------------------------------------------------------------------ where
def place(network: nn.Module) -> Cut:
    """Return the cut behind which all stands that trains, or that drops.

    Raises:
        Whole: what trains is not in one part, or nothing is in front of it.
    """
    trains = [name for name, p in network.named_parameters() if p.requires_grad]
    owners = [name.split(".")[:-1] for name in trains]
    common: list[str] = []
    for names in zip(*owners, strict=False):
        if len({*names}) > 1:
            break
        common.append(names[0])
    path, cut = ".".join(common), None
    module = network.get_submodule(path)
    if type(module) is nn.Sequential and (start := _loud(module, len(module))) is not None:
        cut = Cut(path, start)
    cut = cut or Cut(path, None)
    while path:  # a dropout in front of the head belongs to what trains
        path, _, child = path.rpartition(".")
        parent = network.get_submodule(path)
        if type(parent) is not nn.Sequential:
            continue
        children = [*parent._modules]
        if (start := _loud(parent, children.index(child))) is not None:
            cut = Cut(path, start)
    if not any(id(p) not in ids(cut.live(network)) for p in network.parameters()):
        raise Whole("what trains is not a part of its own at the network's end")
    return cut


def _loud(parent: nn.Sequential, end: int) -> int | None:
    """Return the first of the children before `end` that trains or drops; None where none does."""
    for i, module in enumerate([*parent][:end]):
        drops = any(isinstance(m, DROPS) and m.p > 0 for m in module.modules())
        parameters = [*module.parameters()]
        if any(p.requires_grad for p in parameters) or (drops and not parameters):
            return i
    return None


def ids(module: nn.Module) -> set[int]:
    """Return the ids of a module's parameters and buffers."""
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


# ------------------------------------------------------------------ whether
def prove(network: nn.Module, cut: Cut, backbone: Backbone, x: Inputs, autocast: Autocast) -> None:
    """Prove a cut on some inputs, unless one of such a network has been.

    Raises:
        Whole: it is none.
    """
    kind = (cut.path, cut.start, repr(network))
    if kind in backbone.proved:
        return
    try:
        with exits():
            fault = _fault(network, cut, x, autocast)
    except Whole:
        raise
    except Exception as error:  # a network of one's own raises anything
        fault = f"it cannot be tried ({first_line(error)})"
    if fault:
        raise Whole(fault)
    backbone.proved.add(kind)


def _fault(network: nn.Module, cut: Cut, x: Inputs, autocast: Autocast) -> str:
    """Say why what is behind a cut, on the features, is not the whole network on its inputs.

    Both ways are gone in training and in evaluation, from one state of the generators.
    """
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    behind = ids(cut.live(network))
    seen: dict[bool, Tensor] = {}
    try:
        with torch.random.fork_rng(_cuda(x)), torch.no_grad(), autocast():
            for training in (False, True):
                frozen.still(network.train()) if training else network.eval()
                begun = _states(x)
                features, then, outputs = _seen(network, cut, x)
                if not _same(begun, then):
                    return "what is frozen draws random numbers"
                ended = _states(x)
                for name, buffer in network.named_buffers():
                    if id(buffer) not in behind and not torch.equal(buffer, buffers[name]):
                        return f"{name} changes as it trains, though it is frozen"
                _restore(network, buffers)
                _set(then, x)
                alone = cut.live(network)(features)
                if not isinstance(outputs, Tensor) or not close(alone, outputs):
                    return "something follows what trains, or goes past it"
                if not _same(ended, _states(x)):
                    return "random numbers are drawn behind what trains"
                _restore(network, buffers)
                seen[training] = features
    finally:
        _restore(network, buffers)
    if not close(seen[True], seen[False]):
        return "what is frozen gives other numbers in training than in evaluation"
    return ""


def _restore(network: nn.Module, buffers: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in buffers.items():
            network.get_buffer(name).copy_(value)


def _seen(network: nn.Module, cut: Cut, x: Inputs) -> tuple[Tensor, list[Tensor], Any]:
    """Return the features of a batch, the generators' states at that moment, and the outputs.

    Raises:
        Whole: the part that trains is not called once, with one tensor.
    """
    calls: list[tuple[Any, list[Tensor]]] = []

    def see(_module: nn.Module, given: tuple, named: dict) -> None:
        value = given[0] if len(given) == 1 and not named else None
        calls.append((value.clone() if isinstance(value, Tensor) else None, _states(x)))

    hook = cut.first(network).register_forward_pre_hook(see, with_kwargs=True)
    try:
        outputs = network(x)
    finally:
        hook.remove()
    if len(calls) != 1 or calls[0][0] is None:
        raise Whole("what trains is not called once, with one tensor")
    return (*calls[0], outputs)


def _device(x: Inputs) -> torch.device:
    return (x if isinstance(x, Tensor) else next(iter(x.values()))).device


def _cuda(x: Inputs) -> list[torch.device]:
    return [_device(x)] if _device(x).type == "cuda" else []


def _states(x: Inputs) -> list[Tensor]:
    """Return the states of the generators that a network may draw from."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _cuda(x))]


def _set(states: list[Tensor], x: Inputs) -> None:
    torch.set_rng_state(states[0])
    for state, device in zip(states[1:], _cuda(x), strict=True):
        torch.cuda.set_rng_state(state, device)


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether tensors of one shape and type differ by rounding alone."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    most = CLOSE.get(a.dtype, 0.0) * max(1e-30, b.abs().max().item() if b.numel() else 0.0)
    return a.numel() == 0 or (a - b).abs().max().item() <= most
