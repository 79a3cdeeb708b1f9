"""Transforms of torchvision by name, drawn by (seed, epoch, step) for each picture."""

import dataclasses

import numpy as np
import pytest
import torch

from knobs import build, rng
from knobs.config import command
from knobs.data.augmenting import TRANSFORMS, faults, named
from knobs.data.inputs import Pictures
from knobs.data.prepare import augmentation
from knobs.errors import ConfigError, DataError
from knobs.stack import loop as stack
from knobs.training import loop
from knobs.training.batches import epoch_batches, member_batches
from knobs.training.setup import assemble

CPU = torch.device("cpu")
ALL = ["random_resized_crop", {"name": "rand_augment", "num_ops": 2, "magnitude": 12},
       {"name": "color_jitter", "brightness": 0.4, "hue": 0.1}, "trivial_augment",
       {"name": "auto_augment", "policy": "cifar10"}, {"name": "random_erasing", "p": 1}]  # fmt: skip


def pictures(n=6, channels=3):
    pixels = torch.randint(256, (n, channels, 16, 16), dtype=torch.uint8)
    return pixels, Pictures.fit([pixels], np.arange(n))


def draws(step=0):
    return rng.generator(0, "augment", 0, step)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("one", ALL, ids=lambda o: o if isinstance(o, str) else o["name"])
def test_each_picture_is_what_torchvision_makes_of_its_pixels(one, channels):
    from torchvision.transforms import v2

    pixels, inputs = pictures(channels=channels)
    found = named([one], inputs)(inputs.apply(pixels), draws())
    given = {"name": one} if isinstance(one, str) else dict(one)
    made, _ = TRANSFORMS[given.pop("name")]
    given |= {"size": [16, 16]} if made == "RandomResizedCrop" else {}
    given |= {"policy": v2.AutoAugmentPolicy.CIFAR10} if "policy" in given else {}
    change = getattr(v2, made)(**given)
    seeds = torch.randint(2**62, (6,), generator=draws()).tolist()
    expected = []
    for picture, seed in zip(pixels, seeds, strict=True):
        torch.manual_seed(seed)
        expected.append(change(picture))
    assert torch.equal(found, inputs.apply(torch.stack(expected)))
    assert found.shape == (6, channels, 16, 16)
    assert not torch.equal(found, inputs.apply(pixels))


def test_draws_are_of_the_step_and_leave_the_generators_alone():
    pixels, inputs = pictures()
    x, change = inputs.apply(pixels), named(ALL, inputs)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    once = change(x, draws(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(change(x, draws(3)), once)
    assert not torch.equal(change(x, draws(4)), once)
    assert torch.equal(x, inputs.apply(pixels))  # not in place


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_every_pixel_comes_back_from_its_float(order):
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(4, 3, 1, 1)
    inputs = Pictures((16, 16), 255, np.float32([0.485, 0.456, 0.406]),
                      np.float32([0.229, 0.224, 0.225]))  # fmt: skip
    x = inputs.apply(pixels).to(memory_format=order)
    assert torch.equal(inputs.pixels(x), pixels)
    assert torch.equal(inputs.apply(inputs.pixels(x)), inputs.apply(pixels))


def test_shifts_and_mirrors_come_first_and_draw_as_before():
    pixels, inputs = pictures()
    x = inputs.apply(pixels)
    plain = augmentation({"crop": 2, "flip": True}, inputs)
    both = augmentation({"crop": 2, "flip": True, "transforms": ["trivial_augment"]}, inputs)
    assert plain == augmentation({"crop": 2, "flip": True, "transforms": []}, inputs)
    assert augmentation({"crop": 0, "flip": False, "transforms": []}, inputs) is None
    generator = draws()
    shifted = plain(x, generator)
    assert torch.equal(both(x, draws()), named(["trivial_augment"], inputs)(shifted, generator))


def runs(*seeds):
    data = build.data(command.checked(["data=digits", "tracking=local"]))
    shape, generator = (len(data.train), 1, 8, 8), torch.Generator().manual_seed(0)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    inputs = Pictures.fit([pixels], np.arange(len(pixels)))
    change = augmentation({"transforms": ["trivial_augment", "random_resized_crop"]}, inputs)
    few = torch.arange(96)
    train = dataclasses.replace(data.train, x=inputs.apply(pixels[few]), y=data.train.y[few],
                                rows=few)  # fmt: skip
    data = dataclasses.replace(data, train=train, augment=change)
    lines = ["data=digits", "tracking=local", "training.epochs=2"]
    return [assemble(command.checked([*lines, f"seed={s}"]), data, CPU) for s in seeds]


def test_a_stack_and_a_run_that_goes_on_see_the_pictures_of_a_run_alone():
    one, two = runs(0, 1)
    first = [next(iter(epoch_batches(run))).x for run in (one, two)]
    together = next(iter(member_batches([(one, 0), (two, 1)]))).x
    assert torch.equal(together, torch.stack(first))
    whole, stacked = runs(3)[0], runs(3, 4)
    list(loop.fit(whole))
    stack.fit(stacked, lambda run, row: None, lambda *end: None, lambda s: None, lambda s: None)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(stacked[0].model.state_dict()[name], value, rtol=0, atol=1e-5)
    cut = runs(3)[0]

    def stop(run):
        run.stop_requested = run.progress.step == 4

    with pytest.raises(loop.Interrupted):
        list(loop.fit(cut, stop))
    cut.stop_requested = False
    list(loop.fit(cut))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(cut.model.state_dict()[name], value)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["trivial_augmnt"], "did you mean trivial_augment"),
        ([{"nam": "x"}], "must be one of random_resized_crop"),
        ([{"name": "rand_augment", "magnitude": 31}], "rand_augment.magnitude=31: must be a whole"),
        ([{"name": "rand_augment", "num_ops": 1.5}], "rand_augment.num_ops=1.5: must be a whole"),
        ([{"name": "rand_augment", "fill": 3}], "rand_augment.fill=3: takes num_ops, magnitude"),
        ([{"name": "random_erasing", "p": True}], "random_erasing.p=True: must be a number"),
        ([{"name": "random_erasing", "scale": [0.5, 0.2]}], r"must be \[LEAST, MOST\]"),
        ([{"name": "auto_augment", "policy": "x"}], "must be one of imagenet, cifar10, svhn"),
        ([{"name": "torch.load"}], "must be one of random_resized_crop"),
    ],
)
def test_names_and_arguments_are_checked(asked, says):
    _, inputs = pictures()
    with pytest.raises(ConfigError, match=says):
        named(asked, inputs)
    assert len([*faults(asked)]) == 1


def test_the_config_is_refused_before_a_run():
    lines = ["data=image_folder", "data.root=x", "model=cnn", "tracking=local"]
    with pytest.raises(ConfigError, match="data.augment.transforms: rand_augment.magnitude=99"):
        command.checked([*lines, "data.augment.transforms=[{name:rand_augment,magnitude:99}]"])
    config = command.checked([*lines, "data.augment.transforms=[trivial_augment]"])
    assert config["data"]["augment"]["transforms"] == ["trivial_augment"]


def test_what_is_no_picture_of_8_bits_is_refused():
    _, inputs = pictures()
    for other in (None, dataclasses.replace(inputs, unit=1)):
        with pytest.raises(DataError, match="needs pictures of 8-bit pixels"):
            named(["trivial_augment"], other)
