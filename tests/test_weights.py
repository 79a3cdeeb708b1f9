"""data.normalize=weights: pictures as the weights of others have seen them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from knobs import build
from knobs.config import command
from knobs.data.images import prepared_by
from knobs.data.pixels import read_pixels
from knobs.data.preparation import Preparation
from knobs.errors import ConfigError
from knobs.predict.reading import _pixels
from knobs.torchvision_shim import torchvision as tv
from knobs.weights import Statistics, of_weights

LINES = ["data=image_folder", "model=torchvision", "tracking=local"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two classes of noise, wide and high."""
    root = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
        for i in range(8):
            shape = (61 + 7 * i, 90, 3) if i % 2 else (90, 64 + 5 * i, 3)
            pixels = draws.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).resize((shape[1] * 4, shape[0] * 4)).save(
                root / label / f"{i}.png"
            )
    return root


@pytest.mark.parametrize(
    ("architecture", "weights"),
    [("resnet18", "DEFAULT"), ("convnext_tiny", "DEFAULT"), ("efficientnet_b0", "DEFAULT"),
     ("resnet50", "IMAGENET1K_V1"), ("swin_t", "DEFAULT")],
)  # fmt: skip
def test_inputs_are_those_of_torchvisions_own_preset(folder, architecture, weights):
    config = command.checked(
        [*LINES, f"data.root={folder}", "data.normalize=weights",
         f"model.architecture={architecture}", f"model.weights={weights}"]
    )  # fmt: skip
    data = build.data(config)
    known = tv.models.get_model_weights(architecture)
    preset = (known.DEFAULT if weights == "DEFAULT" else known[weights]).transforms()
    files = sorted(folder.rglob("*.png"))
    for split in (data.train, data.val):
        for row, x in zip(split.rows.tolist(), split.x, strict=True):
            expected = preset(Image.open(files[row]).convert("RGB"))
            torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
    again = Preparation.load(data.preparation.save()).inputs  # and so does a prediction
    faults = {}
    found = again.apply(torch.from_numpy(_pixels(again, files[:3], faults)))
    expected = torch.stack([preset(Image.open(f).convert("RGB")) for f in files[:3]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not faults


def test_streamed_pictures_are_those_in_memory(folder):
    lines = [*LINES, f"data.root={folder}", "data.normalize=weights", "model.weights=DEFAULT"]
    whole = build.data(command.checked([*lines, "data.size=64"]))
    streamed = build.data(command.checked([*lines, "data.size=64", "data.memory_gib=0"]))
    assert whole.shape.input == (3, 64, 64)
    assert whole.preparation.inputs.resize == 73  # 64 of 224, as 256
    batch = next(iter(streamed.val.in_order(8)))
    assert torch.equal(batch.x, whole.val.x)


def test_a_file_of_weights_has_the_statistics_of_its_architectures_best(tmp_path):
    line = f"model.weights={tmp_path / 'net.safetensors'}"
    config = command.checked([*LINES, "data.root=x", "data.normalize=weights", line])
    assert config["data"]["statistics"] == "torchvision/resnet18/DEFAULT"
    assert config["data"]["size"] == "weights"
    usual = command.checked([*LINES, "data.root=x", line])
    assert (usual["data"]["statistics"], usual["data"]["size"]) == (None, 32)


def test_one_channel_has_the_means_of_three():
    by = Statistics((0.1, 0.2, 0.6), (0.2, 0.2, 0.5), 224, 256, "bilinear")
    inputs = prepared_by(by, (28, 28), 1, scaled=False)
    x = inputs.apply(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8))
    torch.testing.assert_close(x, torch.full((1, 1, 28, 28), (1 - 0.3) / 0.3))
    three = prepared_by(by, (28, 28), 3, scaled=False)
    assert (inputs.resize, inputs.saved()[0].keys()) == (0, three.saved()[0].keys())
    with pytest.raises(ConfigError, match="2 channels; 1 and 3 fit"):
        prepared_by(by, (28, 28), 2, scaled=False)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["data=image_folder", "model=torchvision"], "give model.weights=DEFAULT or a file"),
        (["data=image_folder", "model=cnn"], "with model=torchvision"),
        (["data=csv", "data.path=x", "data.target=y"], "has no such key; it is one of .*image_"),
    ],
)
def test_what_has_no_statistics_is_named(lines, says):
    root = ["data.root=x"] if "data=image_folder" in lines else []
    with pytest.raises(ConfigError, match=says):
        command.checked(["tracking=local", *lines, *root, "data.normalize=weights"])


def test_weights_that_torchvision_has_not_are_named():
    with pytest.raises(ConfigError, match="resnet18 has DEFAULT, IMAGENET1K_V1; or give a file"):
        of_weights("torchvision/resnet18/IMAGENET1K_V9")
    with pytest.raises(ConfigError, match="own is not known"):
        of_weights("own/resnet18/DEFAULT")


def test_pictures_of_a_preparation_before_are_read_as_they_were(folder):
    data = build.data(command.checked([*LINES, f"data.root={folder}"]))
    inputs = data.preparation.inputs
    assert inputs.saved()[0].keys() == {"channels", "height", "width", "unit"}
    assert (inputs.resize, inputs.resample) == (0, "bicubic")
    file = sorted(folder.rglob("*.png"))[0]
    from PIL import ImageOps

    expected = np.array(ImageOps.fit(Image.open(file).convert("RGB"), (32, 32)))
    assert np.array_equal(read_pixels(file, 32), expected.transpose(2, 0, 1))
    assert dataclasses.asdict(Preparation.load(data.preparation.save()).inputs)["resize"] == 0
