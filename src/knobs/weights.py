"""Networks of other libraries: weights by name, and how the pictures they know were prepared."""

import importlib
import importlib.util
import math
from typing import Any, NamedTuple

import numpy as np

from knobs.errors import ConfigError, first_line

DEFAULT = "DEFAULT"


class Statistics(NamedTuple):
    """The preparation of pictures, less their pixels.

    Args:
        mean, std: (3,) by channel, of pixels in 0 .. 1.
        size: a side of what is cut from the middle.
        resize: pixels that the shorter side is scaled to before.
        resample: bilinear or bicubic.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    resize: int
    resample: str

    def of_size(self, size: int | str) -> "Statistics":
        """Return the same for another size, of which as much is cut off; `weights` is its own."""
        if size == "weights":
            return self
        return self._replace(size=size, resize=round(size * self.resize / self.size))

    def by_channel(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation, (channels,) float32; of one channel the means of the three.

        Raises:
            ConfigError: neither 1 nor 3 channels.
        """
        if channels not in (1, len(self.mean)):
            fix = "1 and 3 fit; use data.normalize=true"
            raise ConfigError(
                f"data.normalize=weights: the pictures have {channels} channels; {fix}"
            )
        both = np.array([self.mean, self.std])
        mean, std = both if channels > 1 else both.mean(1, keepdims=True)
        return mean.astype(np.float32), std.astype(np.float32)


def imported(name: str) -> Any:
    """Return a library that is an extra, and import before it the torchvision that it imports.

    Raises:
        ConfigError: it is not installed; with the commands that install it.
    """
    if importlib.util.find_spec(name) is None:
        how = f"pip install {name} (the extra `{name}`), or make train EXTRA={name}"
        raise ConfigError(f"model={name}: needs {name}, which is not installed; {how}")
    importlib.import_module("knobs.torchvision_shim")
    return importlib.import_module(name)


def of_weights(named: str) -> Statistics:
    """Return those of weights of torchvision or timm.

    Args:
        named: `torchvision/resnet50/DEFAULT`, as data.statistics has it.

    Raises:
        ConfigError: there are no such weights, or they are not for classification.
    """
    library, architecture, weights = [*named.split("/"), "", ""][:3]
    asked = f"data.normalize=weights: model.architecture={architecture} model.weights={weights}"
    fix = "choose others, or data.normalize=true"
    if library not in ("torchvision", "timm"):
        raise ConfigError(f"{asked}: {library} is not known to have statistics; {fix}")
    try:
        if library == "timm":
            of = imported("timm").get_pretrained_cfg(architecture)
            size = of.input_size[-1]
            resize = math.floor(size / of.crop_pct)
            return Statistics(tuple(of.mean), tuple(of.std), size, resize, of.interpolation)
        preset = weights_of(architecture, weights).transforms()
        size, resize = preset.crop_size[0], preset.resize_size[0]
        how = preset.interpolation.value
        return Statistics(tuple(preset.mean), tuple(preset.std), size, resize, how)
    except ConfigError:
        raise
    except Exception as error:  # whatever a preset of another kind lacks
        raise ConfigError(
            f"{asked}: no statistics of pictures ({first_line(error)}); {fix}"
        ) from None


def weights_of(architecture: str, weights: str):  # noqa: ANN201  # an enum of torchvision's
    """Return weights of torchvision by their name, DEFAULT for its best.

    Raises:
        ConfigError: the architecture has none of this name.
    """
    from knobs.torchvision_shim import torchvision as tv

    try:
        known = tv.models.get_model_weights(architecture)
    except ValueError:
        fault = "torchvision has no weights of it; choose another architecture"
        raise ConfigError(f"model.architecture={architecture}: {fault}") from None
    if weights == DEFAULT:
        return known.DEFAULT
    if weights not in known.__members__:
        names = ", ".join(dict.fromkeys([DEFAULT, *known.__members__]))
        fault = f"{architecture} has {names}; or give a file, .safetensors or .pt"
        raise ConfigError(f"model.weights={weights}: {fault}")
    return known[weights]
