"""The rows of a run's worst mistakes as the model saw them, read anew from the data it names.

Only on request: they are raw rows, texts and pictures. Here alone a report reads data, and imports
torch for it.
"""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

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
    x = x.cpu().numpy()
    inputs = data.preparation.inputs
    return tuple(_example(m, inputs, values) for m, values in zip(found, x, strict=True)), ""


def _example(mistake: Mistake, inputs: Any, x: np.ndarray) -> Example:
    """Return an example, its tensor turned back by the preparation of its kind."""
    title = f"Row {mistake.row + 1:,}: actual {mistake.truth}, predicted {mistake.said}"
    if inputs.kind == "text":
        return Example(title, text=printable(tokens(inputs, x), LETTERS))
    if inputs.kind == "image":
        return Example(title, picture=_png(pixels(inputs, x)))
    shown = list(cells(inputs, x).items())[:MOST_CELLS]
    return Example(title, cells={printable(k, 60): printable(v, 60) for k, v in shown})


def cells(inputs: Any, x: np.ndarray) -> dict[str, str]:
    """Return column -> value of a row (features,) of a Table."""
    values = x[: len(inputs.numbers)].astype(float) * inputs.scale + inputs.mean
    found = dict(zip(inputs.numbers, values.tolist(), strict=True))
    shown = {name: f"{value:.6g}" for name, value in found.items()}
    start = len(found)
    for name, known in inputs.levels.items():
        ones = x[start : start + len(known)]
        shown[name] = known[int(ones.argmax())] if ones.any() else "none of its categories"
        start += len(known)
    for name, column in inputs.columns.columns.items() if inputs.columns else ():
        if column.kind == "date" and (day := found.get(f"{name}: day")) is not None:
            for part in column.outputs(name):  # its cycles follow from the day
                shown.pop(part, None)
            shown[name] = str(np.datetime64(math.floor(day + 0.01), "D"))  # float32 is near
    return shown


def pixels(inputs: Any, x: np.ndarray) -> np.ndarray:
    """Return a picture (C, H, W) of Pictures as (H, W, C) uint8; white is 1, or a larger value."""
    mean, scale = (values.reshape(-1, 1, 1) for values in (inputs.mean, inputs.scale))
    values = (x * scale + mean).clip(0)
    white = max(1.0, values.max())  # sets of other depths have pixels above their unit
    return (values / white * 255).round().astype(np.uint8).transpose(1, 2, 0)


def tokens(inputs: Any, x: np.ndarray) -> str:
    """Return the tokens of a text (length,) of Texts, [?] for an unknown one."""
    words = ["", "[?]", *inputs.tokens]
    return " ".join(words[i] for i in x.tolist() if i)


def _png(picture: np.ndarray) -> str:
    """Return a picture (H, W, C) of uint8 as a data URI, at most SIDE pixels a side."""
    from PIL import Image

    image = Image.fromarray(picture if picture.shape[2] == 3 else picture[:, :, 0])
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
