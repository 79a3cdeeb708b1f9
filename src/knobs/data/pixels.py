"""A file of any common format -> 8-bit RGB pixels, upright, on white."""

import contextlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from knobs.errors import DataError

if TYPE_CHECKING:  # PIL is imported where a picture is read
    from PIL import Image

# What a file is read as, whatever its name ends in: no format whose reader starts a program.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
MOST_PIXELS = 89_478_485  # of a picture: PIL's own bound, 256 MiB of RGB
# What decoders raise on bytes that are no picture, or half of one.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError,
    EOFError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


def read_image(path: Path, size: int) -> Tensor:
    """Return (3, size, size) uint8: the image's middle square, upright, scaled, on white.

    Deeper pixels count by their own depth, of which 255 is the whole. Of several frames the first.

    Raises:
        DataError: naming the file: no image, half of one, one too large, or pixels of no depth.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a size beyond PIL's bound is refused below
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    has = f"{width} x {height} pixels: must be at most {MOST_PIXELS:,}"
                    raise DataError(f"{has}; scale it down, or remove it")
                image.load()
                with contextlib.suppress(*FAULTS):  # damaged EXIF data: as the pixels lie
                    ImageOps.exif_transpose(image, in_place=True)
                pixels = np.array(ImageOps.fit(_rgb(image), (size, size)))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None  # it is a ValueError
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large an image ({error}); scale it down") from None
    except FAULTS as error:
        what = " ".join(str(error).split()) or type(error).__name__
        what = "in none of the known formats" if isinstance(error, UnidentifiedImageError) else what
        raise DataError(f"{path}: not a readable image ({what}); mend or remove it") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


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
