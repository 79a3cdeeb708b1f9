"""The predictions of a run's best weights as one table: confusion, labels, or residuals.

It reads predictions.safetensors and the preparation beside it, without torch.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

MOST_ROWS = 2000  # of a table
PREDICTIONS = "predictions.safetensors"
PREPARATION, ARRAYS = "preparation.json", "preparation.safetensors"


def classes(folder: Path) -> list[str]:
    """Return the names of a run's classes or labels; none where its record has no names."""
    path = folder / PREPARATION
    target = json.loads(path.read_text())["target"] if path.is_file() else {}
    return list(map(str, target.get("classes", ())))


def table(folder: Path, config: dict[str, Any]) -> tuple[str, list[str], list[list]] | None:
    """Return name, columns and rows of a run's table; None where it kept no predictions.

    Args:
        config: resolved.
    """
    if not (folder / PREDICTIONS).is_file():
        return None
    from safetensors.numpy import load_file

    found = load_file(folder / PREDICTIONS)
    rows, targets, outputs = found["rows"], found["targets"], found["outputs"].astype(float)
    names = classes(folder) or list(map(str, range(outputs.shape[1])))
    task = config["data"]["task"]
    if task == "classification":
        columns = ["actual", "predicted", "rows"]
        return "confusion", columns, _confusion(targets, outputs.argmax(1), names)
    if task == "multilabel":
        columns = ["label", "actual", "predicted", "rows"]
        return "labels", columns, _labels(targets > 0, outputs > 0, names)
    return "residuals", *_residuals(folder, config, rows, targets, outputs)


def _confusion(targets: np.ndarray, guess: np.ndarray, names: list[str]) -> list[list]:
    """Return the cells that are not 0, in the order of the classes; those with most rows."""
    cells, counts = np.unique(np.stack([targets, guess], 1), axis=0, return_counts=True)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MOST_ROWS])
    return [
        [names[truth], names[said], n]
        for (truth, said), n in zip(cells[chosen].tolist(), counts[chosen].tolist(), strict=True)
    ]


def _labels(actual: np.ndarray, said: np.ndarray, names: list[str]) -> list[list]:
    """Return the four counts of each label (n, L)."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    counts = [((actual == a) & (said == s)).sum(0).tolist() for a, s in kinds]
    return [
        [name, "yes" if a else "no", "yes" if s else "no", counts[k][i]]
        for i, name in enumerate(names[: MOST_ROWS // len(kinds)])
        for k, (a, s) in enumerate(kinds)
    ]


def _residuals(
    folder: Path, config: dict[str, Any], rows: np.ndarray, targets: np.ndarray, outputs: np.ndarray
) -> tuple[list[str], list[list]]:
    """Return columns and rows in the targets' own unit; of many rows some, evenly spread.

    Row numbers count from 1 in the order of the source, as on the run's page.
    """
    count, width = outputs.shape
    targets, names, mean, std = targets.reshape(count, -1).astype(float), [], 0.0, 1.0
    if (folder / PREPARATION).is_file():
        from safetensors.numpy import load_file

        arrays = load_file(folder / ARRAYS)
        mean, std = (arrays[f"target.{name}"].astype(float) for name in ("mean", "std"))
        names = json.loads((folder / PREPARATION).read_text())["target"]["names"]
    log_rates = (config.get("loss") or {}).get("_target_") == "knobs.losses.poisson"
    actual = targets * std + mean
    predicted = np.exp(outputs) if log_rates else outputs * std + mean
    shown = min(width, MOST_ROWS)
    most = MOST_ROWS // shown
    places = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    table = []
    for t in range(shown):
        name = str(names[t]) if t < len(names) else f"target {t + 1}"
        for i in places.tolist():
            a, p = float(actual[i, t]), float(predicted[i, t])
            table.append([name, int(rows[i]) + 1, a, p, a - p])
    return ["target", "row", "actual", "predicted", "residual"], table
