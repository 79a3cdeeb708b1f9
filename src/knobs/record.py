"""What a run leaves on disk. The only reader and writer of run folders."""

import json
import os
from pathlib import Path
from typing import Any, TextIO

from knobs.errors import LockedError

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"  # of a run
STUDY = "study.json"  # of a sweep that was a search or a study
CHECKPOINTS = "checkpoints"
STATUSES = ("finished", "stopped_early", "diverged", "failed", "interrupted", "pruned")


class Record:
    """A run's folder, held by one process at a time.

    Args:
        folder: of the run; made if it is not there.
        epoch: metrics of later epochs are dropped: a resumed run writes them again.

    Raises:
        LockedError: another process is writing here.
    """

    def __init__(self, folder: Path, epoch: int = 0):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = _locked(folder / METRICS)
        self.rewind(epoch)

    def rewind(self, epoch: int) -> None:
        """Drop the metrics of later epochs, and the summary: the run is under way again."""
        kept = [row for row in read_metrics(self.folder) if row["epoch"] <= epoch]
        self._metrics.truncate(0)
        for row in kept:
            self.log(row)
        (self.folder / SUMMARY).unlink(missing_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Where best and last weights lie."""
        return self.folder / CHECKPOINTS

    def begin(self, config: dict[str, Any]) -> None:
        """Write config.json: what the run is, for whoever reads it without Hydra."""
        write_whole(self.folder / CONFIG, json.dumps(config, indent=2) + "\n")

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one epoch."""
        self._metrics.write(json.dumps(metrics) + "\n")
        self._metrics.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json whole, and let the folder go."""
        write_whole(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self._metrics.close()


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody ever sees half-written."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def _locked(path: Path) -> TextIO:
    file = path.open("a")
    try:
        import fcntl
    except ImportError:  # not on Windows, where two writers are the user's to avoid
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise LockedError(f"{path.parent}: another process is writing this run") from None
    return file


def held(folder: Path) -> bool:
    """Whether another process is writing this run."""
    try:
        _locked(folder / METRICS).close()
    except LockedError:
        return True
    except OSError:
        return False  # no run writes where nobody may
    return False


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as it is: overrides, choices (group -> option), identity and resolved config."""
    return json.loads((folder / CONFIG).read_text())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """One dict an epoch. A last line cut short by a crash is left out."""
    rows = []
    for line in (folder / METRICS).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json as it is."""
    return json.loads((folder / SUMMARY).read_text())


def read_study(folder: Path) -> dict[str, Any]:
    """study.json of a sweep's folder as it is: the question, the space, each run's place."""
    return json.loads((folder / STUDY).read_text())
