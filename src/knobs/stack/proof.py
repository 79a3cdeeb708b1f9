"""The form of a stack: fast layers where they are known, else vmap of the whole, once it is proved.

A network of any class may do what vmap does otherwise, or does not do: draw numbers, decide by what
it computes, keep what it has seen in an attribute, put another tensor in a buffer's place. So a
pair of such networks makes a few steps alone and stacked, in float64, and everything is compared.
"""

import contextlib
import copy
import random
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from knobs import rng
from knobs.data.dataset import Inputs, each
from knobs.errors import MemoryShortage, first_line, for_a_person
from knobs.models.frozen import still
from knobs.signals import exits
from knobs.stack.alike import differs
from knobs.stack.layers import DROPOUTS, CannotStack, fast, stack
from knobs.stack.noise import Noise
from knobs.stack.whole import Orders, Whole, orders_of

STEPS, EXAMPLES = 3, 16  # of the proof, and of its batches
TOLERANCE = 1e-8
KEPT = 8  # what was proved of the last kinds of networks
CPU = torch.device("cpu")
# Pairs of what vmap's errors and warnings hold, and what they mean.
MEANT = (
    ("randomness", "draws random numbers, which only Dropout layers may"),
    ("data-dependent control flow", "decides by what it computes"),
    (".item()", "decides by what it computes"),
    ("inplace", "changes in place what all runs share"),
    ("in-place", "changes in place what all runs share"),
    ("aten::", "has no batching rule in torch"),
)


class Known(NamedTuple):
    """Findings about a kind of network.

    Args:
        network: without weights. form: of its inputs.
        fault: what keeps it from being stacked, empty where nothing does.
        orders: as of Whole.
    """

    network: nn.Module
    form: tuple
    fault: str
    orders: Orders


_known: list[Known] = []


def form_of(
    models: Sequence[nn.Module], noise: Noise, inputs: Sequence[Inputs], batch: int
) -> nn.Module:
    """Return the stacked form of networks of one config; afterwards each is made of views of it.

    Args:
        noise: where dropout draws.
        inputs: the training inputs, of each set of data.
        batch: examples of a step.

    Raises:
        CannotStack: they have none, or another result; naming what is in the way.
    """
    if all(map(fast, models)):
        return stack(models, noise)
    kind = type(models[0]).__name__
    if len({_form(each(x, lambda values: values[0])) for x in inputs}) > 1:
        raise CannotStack(f"{kind}: the runs' inputs differ in width")
    orders = check(models[0], inputs[0], batch)
    for model in models[1:]:
        if name := differs(models[0], model):
            raise CannotStack(f"{kind}: {name} differs from run to run")
    return Whole(models, noise, orders)


def _form(x: Inputs) -> tuple:
    """Return the shapes and types of inputs, with their names."""
    named = {"": x} if isinstance(x, Tensor) else x
    return tuple((name, values.shape, values.dtype) for name, values in named.items())


def check(model: nn.Module, inputs: Inputs, batch: int) -> Orders:
    """Prove a kind of network, unless that has been done: see `prove`.

    Raises:
        CannotStack: now or before.
    """
    some = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    count = min(batch, EXAMPLES)
    index = torch.arange(2 * count, device=some.device) % len(some)
    x = each(inputs, lambda v: v[index].cpu().unflatten(0, (2, count)))
    form = _form(x)
    found = next((k for k in _known if k.form == form and not differs(k.network, model)), None)
    if not found:
        found = Known(model, form, *_fault(model, x))
        with contextlib.suppress(Exception):  # one that cannot be copied is tried again
            _known.append(found._replace(network=copy.deepcopy(model).to("meta")))
        del _known[:-KEPT]
    if found.fault:
        raise CannotStack(f"{type(model).__name__}: {found.fault}")
    return found.orders


def _fault(model: nn.Module, x: Inputs) -> tuple[str, Orders]:
    """Return what keeps a network from being stacked, empty where nothing does; and `prove`'s."""
    try:
        with _undisturbed(), exits():
            return "", prove(model, x)
    except CannotStack as error:
        return str(error), {}
    except Exception as error:  # code of one's own raises anything
        if isinstance(for_a_person(error), MemoryShortage):
            raise
        what = f"{type(error).__name__}: {first_line(error)}"
        return f"fails in float64, in which it is tried: {what}", {}


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Compute in float64, and leave every global random state as it was.

    Raises:
        CannotStack: Python's or NumPy's has been drawn from.
    """
    kept, usual = torch.default_generator.get_state(), torch.get_default_dtype()
    python, numpy = random.getstate(), np.random.get_state()
    torch.set_default_dtype(torch.float64)
    try:
        yield
        moved = not np.array_equal(np.random.get_state()[1], numpy[1])
        if moved or np.random.get_state()[2] != numpy[2] or random.getstate() != python:
            raise CannotStack("draws random numbers from Python or NumPy")
    finally:
        torch.set_default_dtype(usual)
        torch.default_generator.set_state(kept)
        random.setstate(python)
        np.random.set_state(numpy)


def prove(model: nn.Module, x: Inputs) -> Orders:
    """Compare steps of two networks like this one, alone and stacked; return Whole's `orders`.

    Args:
        x: [2, N, ...], or several such inputs by name.

    Raises:
        CannotStack: outputs, gradients, weights or buffers differ, or something else has changed.
    """
    x = each(x, lambda v: v.double() if v.is_floating_point() else v)
    alone = _pair(model)
    parts = [each(x, lambda v, k=k: v[k]) for k in range(2)]
    for network, part in zip(alone, parts, strict=True):  # what is made at first use is made now
        with orders_of(still(network.train())) as orders:
            network(part)
        with torch.no_grad():
            network.eval()(part)
        still(network.train())
    before, rows = copy.deepcopy(alone[0]), copy.deepcopy(alone)
    noise = Noise(2, CPU)
    whole = Whole(rows, noise, orders).train()
    unused = copy.deepcopy(whole.template)
    with _naming(whole.template) as entered:
        for step in range(STEPS):
            keys = [rng.key(k, "noise", 0, step) for k in range(2)]
            noise.seed(keys)
            _step(whole, x, alone, rows, parts, keys, entered)
        with torch.no_grad():
            found = _entering(whole.eval(), x, entered)
            for k, network in enumerate(alone):
                _close("outputs when evaluating", found[k], network.eval()(parts[k]))
        _close_buffers(rows, alone)
    for now, then in (
        (still(alone[0].train()), before),
        (still(whole.template.train()), unused),
    ):
        if name := differs(now, then):
            raise CannotStack(f"{name} changes from step to step, and is no buffer")
    return orders


def _step(
    whole: Whole,
    x: Inputs,
    alone: Sequence[nn.Module],
    rows: Sequence[nn.Module],
    parts: Sequence[Inputs],
    keys: Sequence[int],
    entered: list[str],
) -> None:
    """Make a step of gradient descent, stacked and alone, and compare."""
    found = _entering(whole, x, entered)
    if not isinstance(found, Tensor):
        raise CannotStack("returns no tensor")
    factors = torch.linspace(-1, 1, found[0].numel()).cos().view(found[0].shape)
    for parameter in (p.parameter for leaf in whole.leaves for p in leaf.stacked):
        parameter.grad = None
    (found * factors).sum().backward()
    stacked = [p for leaf in whole.leaves for p in leaf.stacked]
    for k, (network, row) in enumerate(zip(alone, rows, strict=True)):
        network.zero_grad()
        rng.seed_global(keys[k], CPU)
        outputs = network(parts[k])
        (outputs * factors).sum().backward()
        _close("outputs", found[k], outputs)
        grads = {
            id(p.views[k]): p.row(p.parameter.grad, k, p.views[k])
            for p in stacked
            if p.parameter.grad is not None
        }
        pairs = zip(row.named_parameters(), network.parameters(), strict=True)
        for (name, view), weight in pairs:
            grad = grads.get(id(view))
            if (grad is None) != (weight.grad is None):
                raise CannotStack(f"the gradient of {name} differs")
            if grad is not None:
                _close(f"the gradient of {name}", grad, weight.grad)
                with torch.no_grad():
                    view -= 0.01 * grad.sign() * grad.abs().clamp(max=1)
                    weight -= 0.01 * weight.grad.sign() * weight.grad.abs().clamp(max=1)
            _close(name, view, weight)
    _close_buffers(rows, alone)


def _close_buffers(rows: Sequence[nn.Module], alone: Sequence[nn.Module]) -> None:
    for row, network in zip(rows, alone, strict=True):
        for (name, buffer), other in zip(row.named_buffers(), network.buffers(), strict=True):
            _close(f"the buffer {name}", buffer, other)


def _close(what: str, found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise CannotStack(f"{what}: {tuple(found.shape)} stacked, {tuple(expected.shape)} alone")
    if not expected.numel():
        return
    apart = (found.detach().double() - expected.detach().double()).abs().max().item()
    scale = expected.detach().double().abs().max().item()
    if not apart <= TOLERANCE * max(1.0, scale):
        raise CannotStack(f"{what}: differ by {apart:.1g}, stacked from alone")


def _pair(model: nn.Module) -> list[nn.Module]:
    """Return two copies in float64 on the CPU, the second with other weights, and with dropout."""
    draws = torch.Generator().manual_seed(0)
    pair = [copy.deepcopy(model).to(CPU).double() for _ in range(2)]
    with torch.no_grad():
        for tensor in (*pair[1].parameters(), *pair[1].buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=draws)
                tensor.mul_(0.9 + 0.2 * noise)
                if not tensor.any():
                    tensor.add_(0.01 * noise)
    for network, p in zip(pair, (0.3, 0.5), strict=True):
        for module in network.modules():
            if type(module) in DROPOUTS:
                module.p = p
    return pair


@contextlib.contextmanager
def _naming(template: nn.Module) -> Iterator[list[str]]:
    """Enter with a list that has the names of the modules being called, the innermost last."""
    entered: list[str] = []

    def leave(*_: object) -> None:
        entered.pop()

    hooks = []
    for name, module in template.named_modules():

        def enter(*_: object, name: str = name) -> None:
            entered.append(name)

        hooks.append(module.register_forward_pre_hook(enter, prepend=True))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield entered
    finally:
        for hook in hooks:
            hook.remove()


def _entering(whole: Whole, x: Inputs, entered: list[str]) -> Tensor:
    """Return the stacked outputs.

    Raises:
        CannotStack: vmap cannot, or not fast; naming the module and why.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "There is a performance drop")
            return whole(x)
    except Exception as error:  # vmap's own errors and those of code of one's own
        if isinstance(for_a_person(error), MemoryShortage):
            raise
        text = str(error)
        why = next((meant for sign, meant in MEANT if sign in text), "")
        if operator := re.search(r"aten::\w+", text):
            why += f" ({operator[0]})"
        name = entered[-1] if entered else ""
        module = whole.template.get_submodule(name)
        who = f"{name} ({type(module).__name__}) " if name else ""
        told = why or f"cannot be stacked: {type(error).__name__}: {first_line(error)}"
        raise CannotStack(f"{who}{told}") from None
