"""Folders of images: pixels by their depth, on white, upright; folders that are splits or classes."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from knobs import build
from knobs.config import command
from knobs.data import images, pixels
from knobs.data.images import read_image
from knobs.errors import DataError

SIDE = 16
RAMP = np.arange(256, dtype=np.uint8).reshape(SIDE, SIDE)  # every value of 8 bits once
COLORS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def load(root, *more):
    return build.data(
        command.checked(["data=image_folder", f"data.root={root}", "data.size=8", *more])
    )


def fill(folder, count=10, seed=0, ending="png"):
    """Write pictures no two of which are alike."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng([seed, *folder.name.encode()])
    for i in range(count):
        pixels = draw.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.{ending}")


def pets(root, count=10, seed=0):
    for name in ("cat", "dog"):
        fill(root / name, count, seed)


def read(path):
    """Return (SIDE, SIDE, 3) uint8 of a picture of that size."""
    return read_image(path, SIDE).permute(1, 2, 0).numpy()


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, 2)


# What is saved, and the (SIDE, SIDE, 3) that is read.


def of_16_bits(path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(path)
    return grey(RAMP)


def of_16_bits_in_between(path):
    Image.fromarray(RAMP * np.uint16(257) + np.uint16(128) * (RAMP < 255)).save(path)
    return grey(RAMP)


def of_16_bits_white_is_zero(path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(65535 - RAMP.astype(np.uint16) * 257).save(path, tiffinfo=tags)
    with Image.open(path) as image:
        assert image.tag_v2[262] == 0
    return grey(RAMP)


def of_32_bits(path):
    Image.fromarray(RAMP.astype(np.int32) * 257).save(path)
    return grey(RAMP)


def of_floats(path):
    Image.fromarray(RAMP.astype(np.float32) / 255).save(path)
    return grey(RAMP)


def of_a_pgm_of_10_bits(path):
    values = (RAMP.astype(np.uint16) * 4).astype(">u2")  # of 1020
    path.write_bytes(b"P5 16 16 1020\n" + values.tobytes())
    return grey(RAMP)


def of_a_bright_16_bit_colour(path):
    """PNG, 16 bits a channel, by hand: PIL writes none."""
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in COLORS * np.uint16(257))
    write_png(path, SIDE, SIDE, 16, 2, lines)
    return COLORS


def of_1_bit(path):
    Image.fromarray(RAMP > 100).save(path)
    return grey(np.where(RAMP > 100, 255, 0))


def of_grey(path):
    Image.fromarray(RAMP).save(path)
    return grey(RAMP)


def of_colors(path):
    Image.fromarray(COLORS).save(path)
    return COLORS


def of_a_palette(path):
    image = Image.fromarray(RAMP, "P")
    image.putpalette(COLORS.tobytes())
    image.save(path)
    return COLORS.reshape(-1, 3)[RAMP]


def of_a_palette_with_clear_ones(path):
    """Entries 0 .. 99 are clear, whatever their colour."""
    image = Image.fromarray(RAMP, "P")
    image.putpalette(COLORS.tobytes())
    image.save(path, transparency=bytes([0] * 100 + [255] * 156))
    return np.where(grey(RAMP < 100), 255, COLORS.reshape(-1, 3)[RAMP])


def of_alpha(path):
    """Clear pixels are white whatever their hidden colour; opaque ones are exact."""
    alpha = np.where(RAMP < 100, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([COLORS, alpha])).save(path)
    return np.where(grey(RAMP < 100), 255, COLORS)


def of_grey_alpha(path):
    alpha = np.where(RAMP < 100, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([255 - RAMP, alpha])).save(path)
    return grey(np.where(RAMP < 100, 255, 255 - RAMP))


def of_half_alpha(path):
    """Black at alpha a is the grey 255 - a."""
    Image.fromarray(np.dstack([np.zeros_like(COLORS), RAMP])).save(path)
    return grey(255 - RAMP)


def of_a_clear_grey(path):
    Image.fromarray(RAMP).save(path, transparency=7)
    return grey(np.where(RAMP == 7, 255, RAMP))


def of_a_clear_colour(path):
    Image.fromarray(COLORS).save(path, transparency=tuple(map(int, COLORS[0, 0])))
    clear = (COLORS[0, 0] == COLORS).all(-1, keepdims=True)
    return np.where(clear, 255, COLORS)


def of_cmyk(path):
    inks = np.dstack([COLORS, np.zeros((SIDE, SIDE, 1), np.uint8)])
    Image.fromarray(inks, "CMYK").save(path)
    return 255 - COLORS


@pytest.mark.parametrize(("ending", "save"), [
    ("png", of_16_bits), ("tif", of_16_bits), ("pgm", of_16_bits),
    ("png", of_16_bits_in_between), ("tif", of_16_bits_white_is_zero),
    ("tif", of_32_bits), ("tif", of_floats), ("pgm", of_a_pgm_of_10_bits),
    ("png", of_a_bright_16_bit_colour), ("png", of_1_bit), ("tif", of_1_bit),
    ("png", of_grey), ("tif", of_grey), ("png", of_colors), ("bmp", of_colors),
    ("png", of_a_palette), ("gif", of_a_palette), ("png", of_a_palette_with_clear_ones),
    ("png", of_alpha), ("tif", of_alpha), ("png", of_grey_alpha), ("png", of_half_alpha),
    ("png", of_a_clear_grey), ("png", of_a_clear_colour), ("tif", of_cmyk),
])  # fmt: skip
def test_pixels_of_every_kind_are_what_was_drawn(ending, save, tmp_path):
    """To 1/255, exact for 8 bits."""
    path = tmp_path / f"a.{ending}"
    expected = save(path).astype(int)
    found = read(path)
    assert found.dtype == np.uint8
    near = 1 if "bits" in save.__name__ or "16" in save.__name__ or "half" in save.__name__ else 0
    assert np.abs(found - expected).max() <= near


def test_a_jpeg_of_inks_or_luma_has_its_colours(tmp_path):
    red = Image.new("RGB", (SIDE, SIDE), (200, 30, 40))
    for name, mode in (("a.jpg", "CMYK"), ("b.jpg", "YCbCr"), ("c.jpg", "L")):
        red.convert(mode).save(tmp_path / name, quality=100)
        expected = grey(red.convert("L")) if mode == "L" else np.asarray(red)
        assert np.abs(read(tmp_path / name).astype(int) - expected).max() <= 3


def test_what_a_clear_pixel_hides_reaches_no_neighbour(tmp_path):
    """Scaled down, a clear half that hides red stays white."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright(orientation, tmp_path):
    """The EXIF orientation, as the standard has it: 6 is turned a quarter to the right."""
    turns = {
        1: COLORS, 2: COLORS[:, ::-1], 3: COLORS[::-1, ::-1], 4: COLORS[::-1],
        5: COLORS.transpose(1, 0, 2), 6: np.rot90(COLORS, -1),
        7: np.rot90(COLORS, 2).transpose(1, 0, 2), 8: np.rot90(COLORS),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("png", "tif"):
        Image.fromarray(COLORS).save(tmp_path / f"a.{ending}", exif=exif)
        assert np.array_equal(read(tmp_path / f"a.{ending}"), turns[orientation])
    pixels = np.zeros((30, 20, 3), np.uint8)  # a wide one that lies on its side
    pixels[:15] = 255
    Image.fromarray(pixels).save(tmp_path / "b.jpg", exif=exif)
    upright = np.asarray(Image.fromarray(pixels if orientation < 5 else pixels.transpose(1, 0, 2)))
    assert read(tmp_path / "b.jpg").mean() == pytest.approx(upright.mean(), abs=20)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_damaged_exif_data_do_not_hide_a_picture(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(COLORS).save(path, exif=b"Exif\0\0MM\0junk")
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read(path), expected)


def write_png(path, width, height, bits, colour, lines):
    def chunk(name, content):
        sum_ = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + sum_

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def floats(top):
    return lambda path: Image.fromarray((RAMP / 255 * top).astype(np.float32)).save(path)


def broken_float(path):
    values = (RAMP / 255).astype(np.float32)
    values[3, 3] = np.nan
    Image.fromarray(values).save(path)


def whole(scale, shift=0):
    return lambda path: Image.fromarray(RAMP.astype(np.int32) * scale + shift).save(path)


def cut_short(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])


def a_program(path):
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


@pytest.mark.parametrize(("ending", "save", "message"), [
    ("tif", floats(255), r"float pixels from 0 to 255: must be from 0 to 1; scale them"),
    ("tif", broken_float, r"float pixels from nan to nan: must be from 0 to 1"),
    ("tif", whole(1), r"32-bit pixels of at most 255: of 255 or of 65535\? scale them"),
    ("tif", whole(1000), r"whole pixels from 0 to 255000: must be from 0 to 65535"),
    ("tif", whole(1, -9), r"32-bit pixels of at most 246"),
    ("tif", whole(100, -9), r"whole pixels from -9 to 25491: must be from 0 to 65535"),
    ("png", cut_short, r"not a readable image \(.*truncated"),
    ("jpg", cut_short, r"not a readable image \(.*truncated"),
    ("png", lambda path: path.write_bytes(b""), r"not a readable image \(in none of the known"),
    ("jpg", a_program, r"not a readable image \(in none of the known"),
    ("png", lambda path: write_png(path, 10_000, 10_000, 8, 0, b""),
     r"10000 x 10000 pixels: must be at most 89,478,485; scale it down"),
    ("png", lambda path: write_png(path, 60_000, 60_000, 8, 0, b""),
     r"too large an image \(Image size \(3600000000 pixels\) exceeds"),
])  # fmt: skip
def test_a_picture_that_cannot_be_read_is_named(ending, save, message, tmp_path):
    pets(tmp_path)
    path = tmp_path / "cat" / f"x.{ending}"
    save(path)
    with pytest.raises(DataError, match=rf"^{path}: {message}") as caught:
        load(tmp_path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    pets(tmp_path)
    scan = os.scandir

    def refuse(folder):
        if folder == tmp_path / "dog":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=rf"^{tmp_path}/dog: cannot be read \(Permission denied\)"):
        load(tmp_path)


def test_a_worker_names_a_broken_picture_in_one_line(tmp_path):
    pets(tmp_path / "train")
    pets(tmp_path / "val", 3)
    path = tmp_path / "val" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    data = load(tmp_path, "data.memory_gib=0", "data.workers=1")
    with pytest.raises(
        DataError, match=rf"^{path}: not a readable image \([^\n]*; mend or remove it$"
    ):
        list(data.val.in_order(4))


def test_pipes_sockets_and_dead_links_are_refused_not_waited_for(tmp_path, monkeypatch):
    pets(tmp_path)
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "dog" / "x.png"
    server = socket.socket(socket.AF_UNIX)
    for make in (
        os.mkfifo,
        lambda p: server.bind("dog/x.png"),
        lambda p: p.symlink_to("/dev/zero"),
    ):
        make(path)
        with pytest.raises(DataError, match=rf"^{path}: .*; expected an image file; remove it"):
            load(tmp_path)
        path.unlink()
    server.close()
    path.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=rf"^{path}: a link to nothing"):
        load(tmp_path)


@pytest.mark.parametrize(("train", "val", "test"), [
    ("train", "val", "test"), ("Training", None, "Testing"), ("TRAIN", "Valid", None),
    ("train", "validation", "test"), ("Train", None, None),
])  # fmt: skip
def test_split_folders_are_known_by_any_usual_name(train, val, test, tmp_path):
    for seed, (name, count) in enumerate(((train, 10), (val, 3), (test, 4))):
        if name:
            pets(tmp_path / name, count, seed)
    data = load(tmp_path)
    sizes = [len(data.train), len(data.val), len(data.test)]
    assert data.classes == ["cat", "dog"]
    assert sum(sizes) == 20 + 6 * bool(val) + 8 * bool(test)
    assert sizes[1] == 6 if val else sizes[1] == 4
    assert sizes[2] == 8 if test else sizes[2] == 4
    assert data.notes == []


@pytest.mark.parametrize(("folders", "message"), [
    (["train/cat", "train/dog", "Training/cat"], r"two folders for the train split, Training and train"),
    (["train/cat", "train/dog", "val/cat", "valid/cat"], r"two folders for the val split, val and valid"),
    (["test/cat", "test/dog"], r"test, but no folder train beside; rename the split folders"),
    (["train/cat", "train/dog", "bird"], r"bird beside the split folder train, with images; expected split"),
    (["Train", "car", "plane"], r"car beside the split folder Train, with images"),
    (["train_set/cat", "test_set/cat"], r"test_set and train_set look like splits, not like classes"),
    (["train2017/cat", "val2017/cat"], r"train2017 and val2017 look like splits"),
    (["val_set/cat", "test_set/cat"], r"test_set and val_set look like splits"),
    (["trainset/cat", "valset/cat"], r"trainset and valset look like splits"),
    (["cat/train", "cat/test", "dog/train", "dog/test"], r".*/cat/train: a split inside what would be a class; expected train/CLASS"),
    (["pets/train/cat", "pets/test/cat"], r".*/pets/train: a split inside .* class; data.root=.*/pets\?"),
    (["cat"], r"one class only, cat; expected a sub-folder for each of two classes"),
    (["train/cat", "train/dog", "test/bird"], r"class bird is not in .*/train"),
])  # fmt: skip
def test_folders_that_are_neither_splits_nor_classes_are_refused(folders, message, tmp_path):
    for folder in folders:
        fill(tmp_path / folder)
    with pytest.raises(DataError, match=rf"^{tmp_path}.*{message}"):
        load(tmp_path)


def test_one_class_may_be_called_like_a_split(tmp_path):
    fill(tmp_path / "train_station")
    fill(tmp_path / "airport")
    assert load(tmp_path).classes == ["airport", "train_station"]


def test_a_root_that_holds_no_classes_is_refused(tmp_path):
    fill(tmp_path / "cat")
    for root, message in (
        ("cat", "no sub-folders; expected one a class"),
        ("cat/0.png", "not a folder; expected one sub-folder a class"),
        ("dog", "no such folder; expected one sub-folder a class"),
    ):
        with pytest.raises(DataError, match=rf"^{tmp_path}/{root}: {message}$"):
            load(tmp_path / root)
    (tmp_path / "cat" / "self.png").symlink_to("self.png")
    fill(tmp_path / "dog")
    with pytest.raises(DataError, match=r"/self.png: cannot be read \(Too many levels of symbolic"):
        load(tmp_path)


def test_an_empty_class_or_split_is_told(tmp_path):
    pets(tmp_path / "train")
    (tmp_path / "train" / "emu").mkdir()
    (tmp_path / "train" / "emu" / "a.heic").touch()
    emu = tmp_path / "train" / "emu"
    with pytest.raises(
        DataError, match=rf"^{emu}: a class without an image that is read, it holds 1 .heic; add"
    ):
        load(tmp_path)
    fill(tmp_path / "train" / "fox")
    (emu / "a.heic").unlink()
    with pytest.raises(
        DataError, match=rf"^{emu}: a class without an image that is read, it is empty; add"
    ):
        load(tmp_path)
    (emu / ".DS_Store").touch()
    with pytest.raises(DataError, match=rf"^{emu}: .*, it holds 1 hidden; add"):
        load(tmp_path)
    (emu / ".DS_Store").rename(emu / "a.txt")  # a folder of something else, among classes
    assert load(tmp_path).notes == ["1 passed over: 1 .txt", "no class, as no image is there: emu"]
    (emu / "a.txt").unlink()
    emu.rmdir()
    pets(tmp_path / "test", seed=1)
    (tmp_path / "test" / "fox").mkdir()
    (tmp_path / "test" / "gnu").mkdir()
    data = load(tmp_path)
    assert data.classes == ["cat", "dog", "fox"]
    assert data.notes == ["no image of fox in test"]
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"/val: no images; expected files in .bmp"):
        load(tmp_path)


def test_what_is_passed_over_is_counted(tmp_path):
    pets(tmp_path)
    plain = load(tmp_path)
    assert plain.notes == []
    for place in (
        "cat",
        "dog/deep",
        ".",
        "__MACOSX",
        ".ipynb_checkpoints",
        "cat/@eaDir",
        "lost+found",
    ):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        for name in ("._0.png", ".DS_Store", "Thumbs.db", "notes.txt"):
            (tmp_path / place / name).write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(tmp_path / "lost+found" / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / ".ipynb_checkpoints" / "a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "cover.png")
    (tmp_path / "cat" / "a.heic").touch()
    (tmp_path / "cat" / "README").touch()
    data = load(tmp_path)
    assert torch.equal(data.train.x, plain.train.x)
    assert data.hash == plain.hash
    assert data.classes == ["cat", "dog"]
    assert data.notes == [
        "19 passed over: 13 hidden, 3 .txt, 1 .heic, 1 in no class folder, 1 without an ending"
    ]


def test_a_folder_without_images_beside_splits_is_told(tmp_path):
    pets(tmp_path / "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").touch()
    assert load(tmp_path).notes == ["passed over, as no image is there: annotations"]


def test_links_to_folders_are_followed_and_end(tmp_path):
    pets(tmp_path / "a")
    (tmp_path / "b" / "cat").mkdir(parents=True)
    (tmp_path / "b" / "dog").symlink_to(tmp_path / "a" / "dog")
    (tmp_path / "b" / "cat" / "more").symlink_to(tmp_path / "a" / "cat")
    (tmp_path / "a" / "cat" / "0").symlink_to(tmp_path / "b" / "cat")  # a loop
    (tmp_path / "a" / "dog" / "again").symlink_to(tmp_path / "a" / "dog")
    one, two = load(tmp_path / "a"), load(tmp_path / "b")
    assert len(one.train) + len(one.val) + len(one.test) == 20
    assert torch.equal(one.train.x, two.train.x)
    assert one.notes == two.notes == []


def test_identical_images_are_counted(tmp_path):
    """In two splits, and in two classes; the labels of the test split are not looked at."""
    for seed, part in enumerate(("train", "val", "test")):
        pets(tmp_path / part, 5, seed)
    for source, to in (
        ("train/cat/0", "val/cat/0"), ("train/cat/1", "test/cat/0"), ("train/cat/2", "test/dog/0"),
        ("train/dog/3", "train/cat/3"),
    ):  # fmt: skip
        (tmp_path / f"{to}.png").write_bytes((tmp_path / f"{source}.png").read_bytes())
    assert load(tmp_path).notes == [
        "1 validation and 2 test images are identical to training images at 8 x 8 pixels",
        "2 images are identical to one of another class at 8 x 8 pixels",
    ]
    assert load(tmp_path, "data.memory_gib=0").notes == []  # a stream is not read for this


def test_a_class_of_one_picture_is_told(tmp_path):
    fill(tmp_path / "cat", 12)
    fill(tmp_path / "cow", 1)  # at the place of those that are held out
    fill(tmp_path / "dog", 12)
    assert load(tmp_path).notes == ["no training image of cow, which cannot be learned"]
    fill(tmp_path / "cat" / "more", 1)
    assert load(tmp_path).notes == []


def test_too_few_pictures_for_a_split(tmp_path):
    pets(tmp_path, 1)
    message = rf"^{tmp_path}: no image is left for the \w+ split; add images, or change data.val"
    with pytest.raises(DataError, match=message):
        load(tmp_path, "data.val=0.1", "data.test=0.1")


def test_a_deep_and_a_plain_folder_are_the_same(tmp_path):
    """16-bit pictures train to the bits of the 8-bit ones, streamed too."""
    for name in ("cat", "dog"):
        for depth, scale in (("eight", 1), ("sixteen", 257)):
            (tmp_path / depth / name).mkdir(parents=True)
            draw = np.random.default_rng(list(name.encode()))
            for i in range(10):
                pixels = draw.integers(0, 256, (9, 9), dtype=np.uint8)
                pixels = pixels if scale == 1 else pixels.astype(np.uint16) * scale
                Image.fromarray(pixels).save(tmp_path / depth / name / f"{i}.png")
    one, two = load(tmp_path / "eight"), load(tmp_path / "sixteen")
    assert torch.equal(one.train.x, two.train.x)
    assert one.hash == two.hash
    streamed = next(load(tmp_path / "sixteen", "data.memory_gib=0").train.in_order(99)).x
    assert torch.equal(streamed, two.train.x)


def test_twelve_bits_in_sixteen_are_told(tmp_path):
    draw = np.random.default_rng(0)
    for i in range(20):
        folder = tmp_path / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        pixels = draw.integers(0, 4096, (8, 8), dtype=np.uint16)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    assert load(tmp_path).notes[0].startswith("training pixels lie in 0 .. 16 of 255; scale them")


def test_the_opening_shows_what_was_read_and_the_classes(tmp_path, monkeypatch, capsys):
    from rich.console import Console

    from knobs.training.run import execute

    pets(tmp_path / "pictures")
    (tmp_path / "pictures" / "cat" / "a.txt").touch()
    more = ["data=image_folder", f"data.root={tmp_path / 'pictures'}", "data.size=8"]
    config = command.checked([*more, "model=linear", "training.epochs=1", "tracking=local"])
    execute(config, tmp_path / "run", Console(width=200), {"overrides": [], "choices": {}})
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "read 1 passed over: 1 .txt" in shown
    assert "target 2 classes: cat, dog" in shown


def test_the_formats_that_are_read_are_those_pil_has():
    Image.init()
    assert set(pixels.FORMATS) <= set(Image.OPEN)
    assert {Image.registered_extensions()[ending] for ending in images.IMAGES} <= set(
        pixels.FORMATS
    )
