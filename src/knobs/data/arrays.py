"""Files of arrays -> Data: .npz, .pt and .safetensors, of which nothing is executed."""

from pathlib import Path
from typing import Any

import numpy as np

from knobs.data import opening
from knobs.data.dataset import Data
from knobs.data.own import as_data
from knobs.errors import DataError, first_line, making, size

ENDINGS = (".npz", ".pt", ".pth", ".safetensors")


def arrays(
    *, path: str, name: str, kind: str, task: str, val: float, test: float, split_seed: int,
    classes: list[str] | None = None, normalize: bool = True, numbers: str = "standard",
    augment: dict | None = None, folds: int | None = None, fold: int = 0,
) -> Data:  # fmt: skip
    """Read x and y, with `weight` if it is there, or x_train, y_train, x_test and so on.

    Args:
        path: the file; .npz is read without pickles, .pt with weights only.
        classes: names of the classes 0, 1, ...
        normalize: whether numbers are standardised by the training split.
        numbers: how those of rows (N, F) are encoded, one of encodings.ENCODINGS.
        augment: crop and flip of pictures, see Augment.
        folds, fold: their number, and the one that validates; see folds.py.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    file = opening.path_of(path)
    if file.suffix.lower() not in ENDINGS:
        must = f"must end in {', '.join(ENDINGS)}"
        raise DataError(f"{opening.shown(file)}: {must}; data=csv reads tables")
    opening.refuse_missing(file)
    with making(f"the arrays of {file} ({size(file.stat().st_size)})", "take fewer rows"):
        found = _read(file)
    settings = {
        "name": name, "kind": kind, "task": task, "val": val, "test": test,
        "split_seed": split_seed, "classes": classes, "normalize": normalize, "numbers": numbers,
        "augment": augment or {}, "folds": folds, "fold": fold,
    }  # fmt: skip
    return as_data(found, str(file), {}, settings)


def _read(file: Path) -> dict[str, Any]:
    """Return name -> array or tensor.

    Raises:
        DataError: the file is of another kind, is damaged, or holds objects.
    """
    ending = file.suffix.lower()
    try:
        if ending == ".npz":
            with np.load(file, allow_pickle=False) as opened:
                if not hasattr(opened, "files"):
                    raise DataError(f"{file}: is one array (.npy); write np.savez(path, x=x, y=y)")
                return {name: opened[name] for name in opened.files}
        if ending == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        import torch

        found = torch.load(file, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except Exception as error:  # each reader raises many kinds
        fix = "write plain arrays: np.savez(path, x=x, y=y)"
        raise DataError(f"{file}: no file of arrays ({first_line(error)}); {fix}") from None
    if isinstance(found, tuple | list) and len(found) == 2:
        return {"x": found[0], "y": found[1]}
    if not isinstance(found, dict):
        raise DataError(f"{file}: holds a {type(found).__name__}; must be a dict of x and y")
    return found
