"""Files of pictures: which of a folder are, and their pixels by the depth of each."""

import contextlib
import os
import struct
import warnings
import zlib
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knobs.data import opening
from knobs.errors import DataError, MemoryShortage, making

if TYPE_CHECKING:  # PIL is imported where a picture is read
    from PIL import Image

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
# What a file is read as, whatever its name ends in: no format whose reader starts a program.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
MOST_PIXELS = 89_478_485  # of a picture: PIL's own bound, 256 MiB of RGB
# What decoders raise on bytes that are no picture, or half of one.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError,
    EOFError, struct.error, zlib.error,
)  # fmt: skip

# What systems leave behind; names that begin with a dot are hidden too.
SYSTEM = {
    "__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found", "thumbs.db",
    "desktop.ini", "ehthumbs.db", "system volume information",
}  # fmt: skip


def picture_files(folder: Path, passed: Counter) -> list[Path]:
    """Return the images at any depth, sorted; count what else is there.

    Links to folders are followed, each real folder once: a link may lead back above itself.

    Raises:
        DataError: what is called an image and is no file.
    """
    found, seen, waiting, links = [], set(), deque([folder]), deque()
    while waiting or links:  # links last, so that a file keeps the name that is its own
        place = (waiting or links).popleft()
        facts = place.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for entry in inside(place):
            path, ending = Path(entry.path), ending_of(entry.name)
            if hidden(entry.name):
                passed["hidden"] += 1
            elif entry.is_dir():
                (links if entry.is_symlink() else waiting).append(path)
            elif ending not in IMAGES:
                passed[ending] += 1
            elif entry.is_file():
                found.append(path)
            else:  # opened, a pipe would be waited for
                what = "a link to nothing" if entry.is_symlink() else "a pipe, socket or device"
                raise DataError(f"{path}: {what}; expected an image file; remove it")
    return sorted(found)


def inside(folder: Path) -> list[os.DirEntry]:
    """Return what lies in a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def hidden(name: str) -> bool:
    """Return whether a file or folder is a system's own, or hidden."""
    return name.startswith(".") or name.casefold() in SYSTEM


def ending_of(name: str) -> str:
    """Return the ending of a file's name in lower case, or that it has none."""
    return os.path.splitext(name)[1].lower() or "without an ending"


def read_pixels(path: Path, size: int, resize: int = 0, resample: str = "bicubic") -> np.ndarray:
    """Return (3, size, size) uint8: the image's middle square, upright, scaled, on white.

    Deeper pixels count by their own depth, of which 255 is the whole. Of several frames the first.

    Args:
        resize: the shorter side is scaled to it, and the square cut out then; 0: the largest
            square is cut out and scaled.
        resample: bilinear or bicubic.

    Raises:
        DataError: naming the file: no image, half of one, one too large, or pixels of no depth.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        opening.refuse_no_file(path, "expected an image file; remove it")
        with warnings.catch_warnings(), making(f"the pixels of {path}", "scale it down"):
            warnings.simplefilter("ignore")  # a size beyond PIL's bound is refused below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    has = f"{width} x {height} pixels: must be at most {MOST_PIXELS:,}"
                    raise DataError(f"{has}; scale it down, or remove it")
                image.load()
                with contextlib.suppress(*FAULTS):  # damaged EXIF data: as the pixels lie
                    ImageOps.exif_transpose(image, in_place=True)
                pixels = np.array(_square(_rgb(image), size, resize, resample))
    except MemoryShortage:
        raise
    except DataError as error:
        place = "" if str(error).startswith(f"{path}: ") else f"{path}: "
        raise DataError(f"{place}{error}") from None  # it is a ValueError
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large an image ({error}); scale it down") from None
    except FAULTS as error:
        what = " ".join(str(error).split()) or type(error).__name__
        what = "in none of the known formats" if isinstance(error, UnidentifiedImageError) else what
        raise DataError(f"{path}: not a readable image ({what}); mend or remove it") from None
    return pixels.transpose(2, 0, 1)


def _square(image: "Image.Image", size: int, resize: int, resample: str) -> "Image.Image":
    """Return the middle of a picture, (size, size); see read_pixels.

    With `resize` as torchvision's Resize and CenterCrop have it.
    """
    from PIL import Image, ImageOps

    method = Image.Resampling[resample.upper()]
    if not resize:
        return ImageOps.fit(image, (size, size), method)
    short, long = sorted(image.size)
    sides = {short: resize, long: int(resize * long / short)}
    image = image.resize((sides[image.width], sides[image.height]), method)
    left, top = (round((side - size) / 2.0) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _rgb(image: "Image.Image") -> "Image.Image":
    """Return a picture of any mode as RGB, what is transparent of it white."""
    from PIL import Image

    if image.mode[0] in "IF":  # convert() would cut their values off at 255
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: "Image.Image") -> np.ndarray:
    """Return (H, W) uint8 of a picture of 16 or 32 bits or of floats: 255 is its depth's whole.

    16 bits count to 65,535, and 12 in a TIFF to 4,095. 32 bits do not tell how deep a picture is:
    they count to 65,535, and one that ends at 255 or below is refused; so are floats outside 0..1.

    Raises:
        DataError: saying which numbers there are, and which there must be.
    """
    values, tags = np.asarray(image).astype(np.float64), getattr(image, "tag_v2", {})
    least, most = values.min(), values.max()
    fix = "scale them, or save the image with 8 or 16 bits"
    if image.mode == "F":
        whole = 1
    elif image.mode == "I" and image.format == "TIFF":
        whole = 65_535
        if 0 < most <= 255:
            raise DataError(f"32-bit pixels of at most {most:g}: of 255 or of 65535? {fix}")
    else:
        bits = tags.get(258, 16)  # BitsPerSample
        whole = 2 ** int(bits[0] if isinstance(bits, tuple) else bits) - 1
    if not (least >= 0 and most <= whole):  # NaN is neither
        kind = "float" if image.mode == "F" else "whole"
        has = f"{kind} pixels from {least:g} to {most:g}"
        raise DataError(f"{has}: must be from 0 to {whole}; {fix}")
    scaled = np.rint(values * (255 / whole)).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white
        scaled = 255 - scaled
    clear = image.info.get("transparency")  # the one value that is transparent
    return np.where(values == clear, np.uint8(255), scaled) if clear is not None else scaled
