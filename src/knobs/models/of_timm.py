"""Networks of timm that classify images, with a new last layer."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from knobs import hub
from knobs.errors import ConfigError, did_you_mean, first_line
from knobs.models.layers import Activation
from knobs.models.pretrained import (
    fill,
    keeps_its_own,
    last_layer,
    put_dropout,
    read,
    try_images,
)
from knobs.shape import Shape
from knobs.weights import imported


def timm(
    shape: Shape,
    *,
    activation: Activation,
    norm: str | None,
    dropout: float,
    architecture: str,
    weights: str | None,
    drop_path: float = 0.0,
) -> nn.Module:
    """Return (N, C, H, W) -> (N, outputs): a classification network of timm.

    Its last layer is new, called `head`, behind knobs' dropout; all else is as timm has it. It
    takes the size and the channels of the images where its architecture can. `loaded` names the
    parameters that came with weights, `head_names` what the names of the head's begin with, and
    `layer_numbers` timm's number of each parameter's layer, the first being 0.

    Args:
        activation, norm: the network's own; others are refused.
        architecture: one of timm.list_models(), with or without the tag of its weights.
        weights: None; DEFAULT, those of the tag, or timm's best, downloaded and held against their
            hash where timm knows one; or a file of tensors, .safetensors or .pt.
        drop_path: 0 .. 1, the share of residual branches that are dropped in training.

    Raises:
        ConfigError: an architecture or weights that are not there, or do not fit.
    """
    asked = f"model.architecture={architecture}"
    keeps_its_own(activation, norm, asked, "timm's")
    _check_name(architecture)
    build = _builder(architecture, shape, drop_path)
    head = last_layer(build, asked)
    try:
        net = build(shape.outputs)
    except Exception as error:  # what timm's constructors raise
        raise _unfit(asked, shape, error) from None
    net.loaded, net.head_names = frozenset[str](), (f"{head}.",)
    if weights is not None:
        source = f"model.weights={weights}"
        given = _default(architecture) if weights == "DEFAULT" else read(weights)
        fill(net, _fitted(net, given, head, source), source, architecture, net.head_names)
    _number_layers(net, head)
    put_dropout(net, head, dropout)
    net.head_names = (f"{head}.head.",)
    try_images(net, shape, architecture)
    return net


def _check_name(name: str) -> None:
    """Refuse a name that is none of timm's own: others are folders, or repositories of anyone."""
    library = imported("timm")
    plain, _, tag = name.partition(".")
    known = library.list_models()
    if plain not in known:
        hint = did_you_mean(plain, known) or "; timm.list_models() has them"
        raise ConfigError(f"model.architecture={name}: timm has none of this name{hint}")
    tags = [full.partition(".")[2] for full in library.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tags:
        tags = ", ".join(sorted(filter(None, tags))) or "none"
        raise ConfigError(f"model.architecture={name}: {plain} has no weights {tag}; it has {tags}")


def _builder(name: str, shape: Shape, drop_path: float) -> Callable[[int], nn.Module]:
    """Return what builds a network for a number of outputs, of this size where it takes one.

    Raises:
        ConfigError: no stochastic depth in this network, or images that it cannot take.
    """
    options: dict[str, Any] = {"pretrained": False, "in_chans": shape.input[0]}
    if drop_path:
        options["drop_path_rate"] = drop_path
    asked = f"model.architecture={name}"
    for sized in ({"img_size": tuple(shape.input[1:])}, {}):
        build = functools.partial(imported("timm").create_model, name, **options, **sized)
        try:
            with torch.device("meta"):
                build(num_classes=2)
        except TypeError as error:  # an argument that the class does not take
            if "drop_path_rate" in str(error):
                none = "this network has no stochastic depth; use 0"
                raise ConfigError(f"model.drop_path={drop_path}: {name}: {none}") from None
            if "img_size" not in str(error):
                raise _unfit(asked, shape, error) from None
        except Exception as error:  # what timm's constructors raise
            raise _unfit(asked, shape, error) from None
        else:
            return lambda outputs: build(num_classes=outputs)
    raise AssertionError("img_size was left out")


def _unfit(asked: str, shape: Shape, error: Exception) -> ConfigError:
    size = "x".join(map(str, shape.input))
    return ConfigError(
        f"{asked}: cannot take images of {size} ({first_line(error)}); another data.size, or "
        "another architecture"
    )


def _default(name: str) -> dict[str, Tensor]:
    """Return timm's weights, from its cache or its server, as timm itself reads them."""
    library = imported("timm")
    library.models.set_pretrained_check_hash(True)
    try:
        with hub.downloads():
            return library.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # no network, no weights of this name, a file of another hash
        raise ConfigError(
            f"model.weights=DEFAULT: timm's weights of {name} could not be had "
            f"({first_line(error)}); download them elsewhere and give model.weights=FILE"
        ) from None


def _fitted(net: nn.Module, given: dict[str, Tensor], head: str, source: str) -> dict[str, Tensor]:
    """Return weights in the network's form: of its size and its channels, by timm's own filter.

    Of weights for 3 channels, 1 gets their sum over them: what 3 equal channels would give.

    Raises:
        ConfigError: channels that these weights cannot take.
    """
    own = {k: v for k, v in net.state_dict().items() if not k.startswith(f"{head}.")}
    given = {k: v for k, v in given.items() if not k.startswith(f"{head}.")}
    if any(k not in given or given[k].shape != v.shape for k, v in own.items()):
        change = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
        if change:  # other names of an older file, positions for images of another size
            try:
                given = change(given, net)
            except Exception as error:  # a file of something else
                raise ConfigError(f"{source}: cannot be fitted ({first_line(error)})") from None
    for key, value in own.items():
        old = given.get(key)
        if old is None or old.ndim != 4 or old.shape == value.shape:
            continue
        if (old.shape[0], *old.shape[2:]) == (value.shape[0], *value.shape[2:]):
            _check_channels(net, key, old.shape[1], value.shape[1], source)
            given[key] = old.sum(1, keepdim=True)
    return given


def _check_channels(net: nn.Module, key: str, before: int, now: int, source: str) -> None:
    """Refuse images of other channels than the weights', but for 1 of 3 in a plain convolution."""
    first = net.get_submodule(key.rpartition(".")[0])
    plain = type(first) is nn.Conv2d or type(first).__name__ == "Conv2dSame"
    if now == 1 and before == 3 and plain:  # one that standardises its weights is not linear
        return
    fits = "1 and 3 fit" if plain and before == 3 else f"{before} fit"
    raise ConfigError(f"{source}: of {before} channels, and the images have {now}; {fits}")


def _number_layers(net: nn.Module, head: str) -> None:
    """Note timm's layer of each parameter, by which optimizer.layer_decay counts, if it has any."""
    if not hasattr(net, "group_matcher"):
        return
    groups = imported("timm").models.group_parameters(
        net, net.group_matcher(coarse=False), reverse=True
    )
    start = f"{head}."
    net.layer_numbers = {
        (f"{start}head.{name.removeprefix(start)}" if name.startswith(start) else name): number
        for name, number in groups.items()
    }
