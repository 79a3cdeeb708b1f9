"""The rows of a run's worst mistakes as the model saw them, read anew from the data it names.

Only on request: they are raw rows, texts and pictures. Here alone a report reads data, and imports
torch for it.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

from knobs.errors import UserError, first_line
from knobs.report.files import of
from knobs.report.run.parts import Example, Part
from knobs.report.run.quality import Mistake
from knobs.report.run.records import RunFiles
from knobs.words import printable

SIDE = 96  # pixels of a picture's longer side, at most
LETTERS = 600  # of a text
MOST_CELLS = 60  # of a table's row


def examples(files: RunFiles, found: Sequence[Mistake]) -> Part:
    """Return the rows of mistakes, or why they cannot be shown."""
    shown, why = (), "there are no mistakes to show"
    if found:
        try:
            shown, why = _shown(files, found)
        except UserError as error:
            why = str(error)
        except Exception as error:  # of a data function of one's own, or of a foreign config
            why = f"{type(error).__name__}: {first_line(error)}"
    text = "As the model saw them: tensors turned back by the run's own preparation."
    if why:
        text = f"The rows are not shown: {why}."
    return Part("examples", "The mistakes themselves", (text,), examples=shown)


def _shown(files: RunFiles, found: Sequence[Mistake]) -> tuple[tuple[Example, ...], str]:
    """Return the examples, or why there are none."""
    expected = files.data.get("hash")
    if not isinstance(expected, str) or not expected:
        return (), "the record has no hash of its data, so that others could pass for them"
    import torch

    from knobs import build
    from knobs.data import take

    section = dict(of(files.run.config, "data", dict, strict=True))
    if "download" in section:
        section["download"] = False  # nothing is fetched for a page
    data = build.data({"data": section})
    if data.hash != expected:
        return (), f"the data have changed since the run (hash {expected}, now {data.hash})"
    if data.preparation is None:
        return (), "the data have no preparation"
    split = data.val
    numbers = torch.arange(len(split)) if split.rows is None else split.rows
    places = {int(row): i for i, row in enumerate(numbers.tolist())}
    index = torch.tensor([places[mistake.row] for mistake in found])
    x = take(split, index).x
    seen = [data.preparation.inputs.shown(x[i]) for i in range(len(found))]
    return tuple(map(_example, found, seen)), ""


def _example(mistake: Mistake, seen: Any) -> Example:
    """Return an example of what `shown` of its kind of inputs gives."""
    title = f"Row {mistake.row + 1:,}: actual {mistake.truth}, predicted {mistake.said}"
    if isinstance(seen, str):
        return Example(title, text=printable(seen, LETTERS))
    if isinstance(seen, dict):
        cells = {
            printable(k, 60): printable(str(v), 60) for k, v in list(seen.items())[:MOST_CELLS]
        }
        return Example(title, cells=cells)
    return Example(title, picture=_png(seen))


def _png(pixels: Any) -> str:
    """Return a picture (H, W, C) of uint8 as a data URI, at most SIDE pixels a side."""
    from PIL import Image

    channels = pixels.shape[2]
    image = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
