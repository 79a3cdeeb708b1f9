"""Convolutional networks for small images."""

from collections import OrderedDict

from torch import nn

from knobs.errors import ConfigError
from knobs.models.layers import Activation, Dropout, norm_layer
from knobs.shape import Shape


def cnn(
    shape: Shape,
    *,
    width: int | list[int],
    depth: int,
    convs: int | list[int],
    bias: bool,
    activation: Activation,
    norm: str | None,
    dropout: float,
    own_norm: str | None = None,  # a recorded config may be older than the key
) -> nn.Sequential:
    """Return (N, C, H, W) -> (N, outputs): stages of 3x3 convolutions, then the mean over places.

    Args:
        width: channels of the first stage, doubled in each further one; or one number a stage.
        depth: stages, where width is not a list; all but the last end in a 2x2 max pool.
        convs: convolutions a stage, or one number a stage.
        own_norm: the normalization where `norm` asks for none; in front of a batch norm of its own
            a convolution has no bias, which would do nothing there.
    """
    channels = width if isinstance(width, list) else [width * 2**i for i in range(depth)]
    stages = len(channels)
    counts = convs if isinstance(convs, list) else [convs] * stages
    if not channels or len(counts) != stages:
        raise ConfigError(f"model.convs={convs}: needs one number a stage, and there are {stages}")
    if min(shape.input[1:]) < 2 ** (stages - 1):
        raise ConfigError(f"model.depth={stages}: halves an image of {shape.input[1:]} to nothing")
    bias = bias and not (norm is None and own_norm == "batch")
    layers: list[nn.Module] = []
    before = shape.input[0]
    for stage, (after, count) in enumerate(zip(channels, counts, strict=True)):
        for _ in range(count):
            conv = nn.Conv2d(before, after, 3, padding=1, bias=bias)
            layers += [conv, *norm_layer(norm or own_norm, after, dims=2), activation()]
            before = after
        if stage < stages - 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        OrderedDict(
            hidden=nn.Sequential(*layers),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=Dropout(dropout),
            head=nn.Linear(before, shape.outputs),
        )
    )


def resnet18(
    shape: Shape, *, activation: Activation, norm: str | None, dropout: float
) -> nn.Module:
    """Return (N, C, H, W) -> (N, outputs): torchvision's resnet18, 3x3 stem, no first pool.

    Args:
        norm: null or batch keeps its batch norm; layer puts GroupNorm(1) in its place.
    """
    from knobs.torchvision_shim import torchvision

    net = torchvision.models.resnet18(
        num_classes=shape.outputs,
        norm_layer=(lambda n: nn.GroupNorm(1, n)) if norm == "layer" else nn.BatchNorm2d,
    )
    net.conv1 = nn.Conv2d(shape.input[0], 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    head = nn.Linear(net.fc.in_features, shape.outputs)
    net.fc = nn.Sequential(OrderedDict(dropout=Dropout(dropout), head=head))
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, activation())
    return net
