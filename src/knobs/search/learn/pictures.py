"""Small images: glyphs of matplotlib's fonts, patches of scikit-learn's photographs.

Every function returns x, uint8 (N, C, SIZE, SIZE), and y, (N,).
"""

import string
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

SIZE = 12
SEED = 0
FAMILIES = {"DejaVuSans": "sans", "DejaVuSansMono": "mono", "DejaVuSerif": "serif",
            "STIXGeneral": "stix", "cm": "computer modern"}  # fmt: skip
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    *("DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    *("STIXGeneralBolIta", "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
BOLD = ("Bold", "BoldOblique", "BoldItalic", "Bol", "BolIta", "cmb10")


def glyphs(
    letters: str, copies: int, answer: Callable[[str, str, float], object], turn: float = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Return letters in all FONTS, each moved, turned and covered with noise anew in every copy.

    Args:
        answer: (font, letter, degrees) -> the target.
        turn: degrees to either side, uniform.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    draw, x, y = np.random.default_rng(SEED), [], []
    for font in FONTS:
        shapes = ImageFont.truetype(str(folder / f"{font}.ttf"), 2 * SIZE)
        for letter in letters:
            for _ in range(copies):
                degrees, (dx, dy) = draw.uniform(-turn, turn), draw.integers(-2, 3, 2)
                large = Image.new("L", (3 * SIZE, 3 * SIZE))
                middle = (1.5 * SIZE + dx, 1.5 * SIZE + dy)
                ImageDraw.Draw(large).text(middle, letter, 255, shapes, anchor="mm")
                small = large.rotate(degrees, Image.Resampling.BILINEAR).resize((SIZE, SIZE))
                pixels = np.asarray(small) + draw.normal(0, 25, (SIZE, SIZE))
                x.append(pixels.clip(0, 255).astype(np.uint8)[None])
                y.append(answer(font, letter, degrees))
    return np.stack(x), np.array(y)


def letter(font: str, letter: str, degrees: float) -> str:
    """Return the letter."""
    return letter


def family(font: str, letter: str, degrees: float) -> str:
    """Return the family that a font is of."""
    name = font.partition("-")[0]
    return FAMILIES.get(name) or FAMILIES["STIXGeneral" if name.startswith("STIX") else "cm"]


def bold(font: str, letter: str, degrees: float) -> str:
    """Return whether a font is bold."""
    return "bold" if font.endswith(BOLD) else "regular"


def angle(font: str, letter: str, degrees: float) -> float:
    """Return by how many degrees a letter is turned."""
    return degrees


@cache
def _patches() -> list[tuple[int, int, int, np.ndarray]]:
    """Return (photograph, row, column, pixels (3, SIZE, SIZE)) of patches side by side."""
    from sklearn.datasets import load_sample_images  # late: a second

    found = []
    for number, photograph in enumerate(load_sample_images().images):
        height, width = (side // SIZE for side in photograph.shape[:2])
        whole = photograph[: height * SIZE, : width * SIZE]
        grid = whole.reshape(height, SIZE, width, SIZE, 3).transpose(0, 2, 4, 1, 3)
        found += [(number, i, j, grid[i, j]) for i in range(height) for j in range(width)]
    seen = {patch.tobytes(): (number, i, j, patch) for number, i, j, patch in found}
    return list(seen.values())  # some of the sky are equal


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """Return grey patches, and whether each is of the temple or of the flower."""
    grey = np.stack([patch.mean(0, keepdims=True) for _, _, _, patch in _patches()])
    return grey.astype(np.uint8), np.array(["temple", "flower"])[[n for n, *_ in _patches()]]


def turned() -> tuple[np.ndarray, np.ndarray]:
    """Return each patch turned by a random number of quarters, and that number."""
    quarters = np.random.default_rng(SEED).integers(4, size=len(_patches()))
    pairs = zip(_patches(), quarters, strict=True)
    return np.stack([np.rot90(patch, k, (1, 2)) for (*_, patch), k in pairs]), quarters


def height() -> tuple[np.ndarray, np.ndarray]:
    """Return patches in colour, and how far down in its photograph each is."""
    return np.stack([patch for *_, patch in _patches()]), np.array(
        [float(i) for _, i, *_ in _patches()]
    )


def blue() -> tuple[np.ndarray, np.ndarray]:
    """Return the red and the green of patches as one grey, and the mean of their blue."""
    x = np.stack([patch[:2].mean(0, keepdims=True) for *_, patch in _patches()])
    return x.astype(np.uint8), np.array([patch[2].mean() for *_, patch in _patches()])


GLYPHS, PHOTOGRAPHS = "glyphs of matplotlib's fonts", "scikit-learn's photographs"
OF_GLYPHS, OF_PHOTOGRAPHS = ("matplotlib", "PIL"), ("sklearn", "PIL")
CLASSES, VALUES = "classification", "regression"
LOWER, UPPER = string.ascii_lowercase, string.ascii_uppercase
# Name, source, type, model, rows, packages.
ALL = (
    ("glyph_letters", GLYPHS, CLASSES, "cnn", partial(glyphs, LOWER, 4, letter), OF_GLYPHS),
    ("glyph_capitals", GLYPHS, CLASSES, "mlp", partial(glyphs, UPPER, 4, letter), OF_GLYPHS),
    ("glyph_family", GLYPHS, CLASSES, "cnn", partial(glyphs, LOWER, 4, family), OF_GLYPHS),
    ("glyph_bold", GLYPHS, CLASSES, "mlp", partial(glyphs, UPPER, 3, bold), OF_GLYPHS),
    ("glyph_angle", GLYPHS, VALUES, "cnn", partial(glyphs, "EFHLT", 15, angle, 40), OF_GLYPHS),
    ("patch_photograph", PHOTOGRAPHS, CLASSES, "cnn", photograph, OF_PHOTOGRAPHS),
    ("patch_turned", PHOTOGRAPHS, CLASSES, "cnn", turned, OF_PHOTOGRAPHS),
    ("patch_height", PHOTOGRAPHS, VALUES, "mlp", height, OF_PHOTOGRAPHS),
    ("patch_blue", PHOTOGRAPHS, VALUES, "mlp", blue, OF_PHOTOGRAPHS),
)
