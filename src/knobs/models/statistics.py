"""Statistics of the images that weights of others were trained on. Imports no torch by itself."""

from typing import Any

from knobs.errors import ConfigError

TORCHVISION, TIMM = "knobs.models.pretrained.torchvision", "knobs.models.of_timm.timm"


def statistics_of(model: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return mean and deviation of each channel, and pixels a side, that weights know.

    Of the weights that `model` names; of a file, those that its architecture usually has. Pixels
    count from 0 to 1.

    Args:
        model: the section of a config.

    Raises:
        ConfigError: no weights, or none that have statistics of images.
    """
    target, name = model.get("_target_"), model.get("architecture", model.get("name"))
    if target not in (TORCHVISION, TIMM) or not model.get("weights"):
        need = "has no weights of images; model=torchvision or model=timm with model.weights has"
        raise ConfigError(f"model={model.get('name')}: {need}")
    if target == TIMM:
        from knobs.models.of_timm import statistics

        return statistics(name)
    from knobs.models.pretrained import check_name

    tv = check_name(name)
    change = tv.models.get_model_weights(name).DEFAULT.transforms()
    return tuple(change.mean), tuple(change.std), change.crop_size[0]
