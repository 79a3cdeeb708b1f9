"""Transforms of torchvision by name: each picture of a batch is changed by draws of its own.

They work on pixels of 8 bits, as their authors have it, from which a batch of floats is made again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from knobs.data.inputs import Pictures
from knobs.errors import ConfigError, DataError, did_you_mean
from knobs.words import printable

FIELD = "data.augment.transforms"
Rule = tuple[str, Callable[[Any], bool]]


def _number(low: float, high: float, whole: bool = False) -> Rule:
    kinds, word = ((int,), "whole ") if whole else ((int, float), "")
    says = f"a {word}number from {low:g} to {high:g}"
    return says, lambda v: type(v) in kinds and low <= v <= high


def _pair(most: float) -> Rule:
    def accepts(value: Any) -> bool:
        numbers = isinstance(value, list) and all(type(v) in (int, float) for v in value)
        return numbers and len(value) == 2 and 0 < value[0] <= value[1] <= most

    return f"[LEAST, MOST], above 0 and {most:g} at most", accepts


_AREA = {"scale": _pair(1), "ratio": _pair(100)}
_POLICIES = ("imagenet", "cifar10", "svhn")
_STRENGTH = _number(0, 1)
# name -> class of torchvision.transforms.v2, and what it takes. Source: torchvision's defaults, and
# Cubuk et al. 2019 and 2020, Müller and Hutter 2021, Zhong et al. 2020.
TRANSFORMS: dict[str, tuple[str, dict[str, Rule]]] = {
    "random_resized_crop": ("RandomResizedCrop", _AREA),
    "trivial_augment": ("TrivialAugmentWide", {}),
    "auto_augment": (
        "AutoAugment",
        {"policy": (f"one of {', '.join(_POLICIES)}", lambda v: v in _POLICIES)},
    ),
    "rand_augment": (
        "RandAugment",
        {"num_ops": _number(1, 10, whole=True), "magnitude": _number(0, 30, whole=True)},
    ),
    "random_erasing": ("RandomErasing", {"p": _number(0, 1), **_AREA}),
    "color_jitter": (
        "ColorJitter",
        dict.fromkeys(("brightness", "contrast", "saturation"), _STRENGTH)
        | {"hue": _number(0, 0.5)},
    ),
}


def faults(asked: Any) -> Iterator[str]:
    """Yield a line for each name and argument that is none, or cannot be.

    Args:
        asked: data.augment.transforms.
    """
    for one in asked if isinstance(asked, list | tuple) else [asked]:
        given = {"name": one} if isinstance(one, str) else one
        name = given.get("name") if isinstance(given, dict) else given
        if not isinstance(name, str) or name not in TRANSFORMS:
            shown = printable(str(name or one), 60)
            near = did_you_mean(shown, TRANSFORMS)
            yield f"{FIELD}={shown}: must be one of {', '.join(TRANSFORMS)}{near}; or {{name: ...}}"
            continue
        takes = TRANSFORMS[name][1]
        for key, value in given.items():
            if key == "name":
                continue
            place = f"{FIELD}: {name}.{printable(str(key), 40)}={printable(str(value), 40)}"
            if key not in takes:
                yield f"{place}: takes {', '.join(takes) or 'nothing'}{did_you_mean(key, takes)}"
            elif not takes[key][1](value):
                yield f"{place}: must be {takes[key][0]}"


@dataclass(frozen=True)
class Named:
    """Transforms by name, in their order.

    Args:
        chain: of torchvision.transforms.v2.
        inputs: what made the floats of the pixels.
    """

    chain: Sequence[Callable[[Tensor], Tensor]]
    inputs: Pictures

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Change each picture of (N, C, H, W) by a seed that a CPU generator draws for it."""
        seeds = torch.randint(2**62, (len(x),), generator=generator).tolist()
        pixels = self.inputs.pixels(x)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global one
            for i, seed in enumerate(seeds):
                torch.default_generator.manual_seed(seed)
                one = pixels[i].contiguous()
                for change in self.chain:
                    one = change(one)
                pixels[i] = one
        return self.inputs.apply(pixels)


def named(asked: Sequence, inputs: Any) -> Named | None:
    """Return what applies transforms; None where none are asked for.

    Args:
        asked: words, or mappings with a name and arguments.
        inputs: the preparation of the pictures.

    Raises:
        ConfigError: as `faults` has it. DataError: no pictures of 8 bits.
    """
    if not asked:
        return None
    if lines := [*faults(asked)]:
        raise ConfigError("\n  ".join(lines))
    if not isinstance(inputs, Pictures) or inputs.unit != 255 or len(inputs.mean) not in (1, 3):
        needs = "needs pictures of 8-bit pixels and 1 or 3 channels"
        raise DataError(f"{FIELD}: {needs}, prepared by knobs; leave it out")
    return Named([_made(one, inputs.size) for one in asked], inputs)


def _made(one: str | dict, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    from knobs.torchvision_shim import torchvision  # noqa: F401, I001  # first: it may mend the next
    from torchvision.transforms import v2

    given = {"name": one} if isinstance(one, str) else dict(one)
    name = given.pop("name")
    if name == "random_resized_crop":
        given["size"] = list(size)
    if name == "auto_augment" and "policy" in given:
        given["policy"] = v2.AutoAugmentPolicy(given["policy"])
    return getattr(v2, TRANSFORMS[name][0])(**given)
