"""A run that W&B's client never saw, written as the client's offline file from the run's record.

The record has no times of single epochs: they are spread evenly over the run's. What only the
process that trained knew is left out: the host, W&B's own Runtime.
"""

import functools
import math
from pathlib import Path
from typing import Any

from knobs import record
from knobs.errors import DIVERGED, UserError, first_line
from knobs.tracking import about, tables
from knobs.tracking.tracker import Tracker

EXIT_CODES = {"diverged": DIVERGED, "interrupted": 130, "failed": 1}  # else 0


class Replay(Tracker):
    """Writes one run's offline file below a folder.

    Args:
        config: the run's, as recorded.
        folder: the run's.
        ran: versions of what trained it.
        below: where the file goes.
    """

    def __init__(self, config: dict[str, Any], folder: Path, ran: dict[str, str], below: Path):
        self._ran, self._below = ran, below
        settings = {key: value for key, value in config["tracking"].items() if key != "_target_"}
        super().__init__(config, folder, [], **settings)

    def _why_offline(self) -> str:
        return "from its record"

    def _origin(self) -> tuple[dict[str, str], str]:
        return self._ran, ""

    def _files(self) -> Path:
        return self._below


def write(folder: Path, below: Path) -> Path:
    """Write a run's offline file; return the client's folder that holds it.

    Args:
        folder: the run's.
        below: an empty folder.

    Raises:
        UserError: a record that cannot be read or holds links, or what the client said.
    """
    best = folder / "checkpoints" / "best.safetensors"
    for path in (best.parent, best, folder / tables.PREDICTIONS):
        if path.is_symlink():  # of a folder from elsewhere: it may lead to anything
            raise UserError(f"{path.relative_to(folder)} is a link, which is not followed")
    try:
        document, rows = record.read_config(folder), record.read_metrics(folder)
        ended = (folder / record.SUMMARY).is_file()
        summary = record.read_summary(folder) if ended else {}
        shown = about.summarized(summary) if ended else {}
        replay = Replay(document["config"], folder, summary.get("versions") or {}, below)
    except (*record.BROKEN, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"its record cannot be read: {type(error).__name__}: {first_line(error)}"
        ) from None
    last = (folder / (record.SUMMARY if ended else record.METRICS)).stat().st_mtime
    seconds = summary.get("seconds") or 0.0
    for i, row in enumerate(rows, 1):
        replay.log({"_timestamp": last - seconds * (1 - i / len(rows))} | row)
    if ended:
        code = EXIT_CODES.get(summary["status"], 0)
        replay.end(shown, code, best if best.is_file() else None)
        replay.judge("run" not in document or folder in _best(folder.parent))
    said = replay.wait()
    found = [*below.glob("wandb/offline-run-*")]
    if not found:
        raise UserError(said or "W&B's client wrote no file")
    return found[0]


@functools.cache
def _best(sweep: Path) -> frozenset[Path]:
    """Return the best run of each objective and data set in a sweep's folder."""
    best: dict[tuple, tuple[float, Path]] = {}
    for path in sorted(sweep.glob(f"*/{record.SUMMARY}")):
        try:
            config = record.read_config(path.parent)["config"]
            goal = record.read_summary(path.parent)["objective"]
            value = float(goal["value"]) * (1 if goal["mode"] == "max" else -1)
            kind = (goal["metric"], goal["mode"], config["data"]["name"])
        except (*record.BROKEN, LookupError, TypeError):  # one that diverged has no value
            continue
        if math.isfinite(value) and value > best.get(kind, (-math.inf,))[0]:
            best[kind] = value, path.parent
    return frozenset(folder for _, folder in best.values())
