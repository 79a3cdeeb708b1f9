"""Networks that others have designed and trained, with a new last layer: torchvision's.

And what those of other libraries share with them: of_timm.py, of_transformers.py.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knobs.errors import ConfigError, did_you_mean, first_line
from knobs.models.layers import Activation, Dropout
from knobs.shape import NAMED_WEIGHTS, Shape
from knobs.weights import weights_of

# Parts that only help in training, which a network of knobs' has not: one output.
SIDE_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
FEW = 5  # names that a message has of each kind


def torchvision(
    shape: Shape,
    *,
    activation: Activation,
    norm: str | None,
    dropout: float,
    architecture: str,
    weights: str | None,
) -> nn.Module:
    """Return (N, C, H, W) -> (N, outputs): a classification network of torchvision.

    Its last layer is new, called `head`, behind knobs' dropout; all else is as torchvision has it,
    with its own dropout. `loaded` names the parameters that came with weights.

    Args:
        activation, norm: the network's own; others are refused.
        architecture: one of torchvision.models.list_models(module=torchvision.models).
        weights: None; DEFAULT, torchvision's best, or another of its names, downloaded and held
            against its hash; or a file of tensors, .safetensors or .pt.

    Raises:
        ConfigError: an architecture or weights that are not there, or do not fit.
    """
    keeps_its_own(activation, norm, f"model.architecture={architecture}", "torchvision's")
    build, head = _architecture(architecture, shape)
    try:
        net = build(num_classes=shape.outputs)
    except Exception as error:  # what torchvision's constructors raise
        fault = f"cannot take images of {'x'.join(map(str, shape.input))} ({first_line(error)})"
        raise ConfigError(f"model.architecture={architecture}: {fault}") from None
    net.loaded = frozenset[str]()
    if weights is not None:
        named = NAMED_WEIGHTS.fullmatch(weights)
        given = _named(architecture, weights) if named else read(weights)
        sides = SIDE_HEADS.get(architecture, ())
        fill(net, given, f"model.weights={weights}", architecture, (f"{head}.", *sides))
        if sides:  # their weights know inputs of another scale
            net.transform_input = True
    _take_channels(net, shape.input[0], architecture, weights)
    put_dropout(net, head, dropout)
    try_images(net, shape, architecture)
    return net


def keeps_its_own(activation: Activation, norm: str | None, asked: str, whose: str) -> None:
    """Refuse an activation or a normalization for a network that has its own.

    Args:
        asked: what names the network. whose: networks, `torchvision's`.

    Raises:
        ConfigError: saying what to give.
    """
    if type(activation()) is not nn.ReLU or norm not in (None, "batch"):
        what = "activation=relu" if norm in (None, "batch") else "regularization.norm=null"
        own = f"{whose} networks keep their own activation and normalization"
        raise ConfigError(f"{asked}: {own}; give {what}")


def put_dropout(net: nn.Module, head: str, dropout: float) -> None:
    """Put knobs' dropout before the last layer, which is called `head` from now on."""
    parent, _, name = head.rpartition(".")
    last = nn.Sequential(OrderedDict(dropout=Dropout(dropout), head=net.get_submodule(head)))
    setattr(net.get_submodule(parent), name, last)


def last_layer(build: Callable[[int], nn.Module], asked: str) -> str:
    """Return the name of a network's last layer: the one whose shape depends on the outputs.

    Args:
        build: a number of outputs -> the network; it is built without memory if it can be.

    Raises:
        ConfigError: it has several, or none.
    """
    try:
        with torch.device("meta"):
            one, other = (build(outputs).state_dict() for outputs in (2, 3))
    except NotImplementedError:  # one whose sizes are computed by tensors
        one, other = (build(outputs).state_dict() for outputs in (2, 3))
    heads = {key.rpartition(".")[0] for key in one if one[key].shape != other[key].shape}
    if len(heads) != 1:
        raise ConfigError(f"{asked}: has {len(heads)} last layers, not one; choose another")
    return heads.pop()


def check_name(name: str) -> Any:
    """Return torchvision, which must have an architecture of this name.

    Raises:
        ConfigError: it has none; with the nearest name.
    """
    from knobs.torchvision_shim import torchvision as tv

    known = tv.models.list_models(module=tv.models)
    if name not in known:
        hint = did_you_mean(name, known) or f"; one of {', '.join(known)}"
        raise ConfigError(f"model.architecture={name}: torchvision has none of this name{hint}")
    return tv


def _architecture(name: str, shape: Shape) -> tuple[Any, str]:
    """Return what builds a network for a number of classes, and the name of its last layer.

    The last layer is the one whose shape depends on that number.
    """
    tv = check_name(name)
    options: dict[str, Any] = {"weights": None}
    if name in SIDE_HEADS:
        options |= {"aux_logits": False, "init_weights": False}
    if name.startswith(("vit_", "maxvit_")):
        if shape.input[1] != shape.input[2]:
            raise ConfigError(f"model.architecture={name}: takes square images; change data.size")
        size = shape.input[1]
        options |= {"image_size": size} if name[0] == "v" else {"input_size": (size, size)}
    build = functools.partial(tv.models.get_model, name, **options)
    usual = functools.partial(tv.models.get_model, name, weights=None)  # of the usual size
    if name in SIDE_HEADS:
        usual = build
    return build, last_layer(lambda n: usual(num_classes=n), f"model.architecture={name}")


def fill(
    net: nn.Module, given: dict[str, Tensor], asked: str, name: str, new: Sequence[str]
) -> None:
    """Give a network weights, all but those of its head; `loaded` names them.

    Args:
        asked: what names the weights. name: of the network. new: what the names begin with that
            get none, those of the head.

    Raises:
        ConfigError: names or shapes that are not the network's, numbers that are not finite.
    """
    given = {key: value for key, value in given.items() if not key.startswith(tuple(new))}
    own = {key: value for key, value in net.state_dict().items() if not key.startswith(tuple(new))}
    if faults := [*_unlike(own, given)]:
        fix = f"give weights of this {name}, by the names of its state_dict()"
        raise ConfigError(f"{asked}: not weights of {name}; it {'; it '.join(faults)}; {fix}")
    for key, value in own.items():
        if value.is_floating_point() and not given[key].isfinite().all():
            raise ConfigError(f"{asked}: {key} holds values that are not finite")
    net.load_state_dict(given, strict=False)
    net.loaded = frozenset(key for key, _ in net.named_parameters() if key in given)


def _unlike(own: dict[str, Tensor], given: dict[str, Tensor]) -> Iterator[str]:
    """Yield what of a file's names and shapes is not a network's, a few of each kind."""
    shapes = [
        f"{key} {tuple(given[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in given and given[key].shape != value.shape
    ]
    lacks, besides = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    for what, found in (
        ("lacks", lacks),
        ("has besides", besides),
        ("has in other shapes", shapes),
    ):
        if found:
            more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
            yield f"{what} {', '.join(found[:FEW])}{more}"


def _named(name: str, weights: str) -> dict[str, Tensor]:
    """Return torchvision's weights, from its cache or its server, held against their hash."""
    best = weights_of(name, weights)
    try:
        return best.get_state_dict(check_hash=True, weights_only=True, progress=False)
    except Exception as error:  # no network, a proxy's page, a file of another hash
        raise ConfigError(
            f"model.weights={weights}: {best.url} could not be had ({first_line(error)}); download "
            "it elsewhere and give model.weights=FILE"
        ) from None


def read(path: str) -> dict[str, Tensor]:
    """Read a file of tensors by name: .safetensors, or .pt and .pth as torch.save wrote them.

    Raises:
        ConfigError: not such a file.
    """
    asked, place = f"model.weights={path}", Path(path).expanduser()
    try:
        if place.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(place)
        else:
            found = torch.load(place, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{asked}: no such file; null, DEFAULT or a file of weights") from None
    except Exception as error:  # whatever their readers raise on files of others
        why = first_line(error)
        raise ConfigError(f"{asked}: cannot be read as .safetensors or .pt ({why})") from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ConfigError(f"{asked}: must hold tensors by name, as net.state_dict() has them")
    return found


def _take_channels(net: nn.Module, channels: int, name: str, weights: str | None) -> None:
    """Fit the first convolution to the images' channels.

    Of weights for 3, 1 gets their sum over them: what 3 equal channels would give.
    """
    path, first = next((n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
    if channels == first.in_channels:
        return
    if weights is not None and channels != 1:
        raise ConfigError(
            f"model.weights={weights}: {name} was trained on {first.in_channels} channels, and the "
            f"images have {channels}; 1 and {first.in_channels} fit"
        )
    kind = {"stride": first.stride, "padding": first.padding, "bias": first.bias is not None}
    new = nn.Conv2d(channels, first.out_channels, first.kernel_size, **kind)
    if weights is not None:
        with torch.no_grad():
            new.weight.copy_(first.weight.sum(1, keepdim=True))
            if first.bias is not None:
                new.bias.copy_(first.bias)
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, new)


def try_images(net: nn.Module, shape: Shape, name: str) -> None:
    """Refuse images that are too small for a network: it is tried on one."""
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, *shape.input))
    except (RuntimeError, ValueError, AssertionError) as error:
        size = "x".join(map(str, shape.input))
        raise ConfigError(
            f"model.architecture={name}: cannot take images of {size} ({first_line(error)}); "
            "larger ones by data.size, or another architecture"
        ) from None
    net.train()
