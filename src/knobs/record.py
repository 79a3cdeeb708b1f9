"""Read and write run folders; nothing else does."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs import storage
from knobs.storage import write_whole

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"  # of a run
LOCK = "run.lock"  # while a run is under way
STUDY = "study.json"  # of a sweep that was a search or a study
CHECKPOINTS = "checkpoints"
STATUSES = ("finished", "stopped_early", "diverged", "failed", "interrupted", "pruned")
FINISHED = STATUSES[:2]  # of runs that came to their end
BROKEN = (OSError, ValueError, RecursionError)  # what reading a file of unknown content raises


class Record:
    """A run's folder, held by one process at a time.

    Of its files only the lock stays open: a stack has a thousand folders at once.

    Args:
        folder: of the run; made if it is not there.
        epoch: metrics of later epochs are dropped: a resumed run writes them again.

    Raises:
        LockedError: another process is writing here.
    """

    def __init__(self, folder: Path, epoch: int = 0):
        self.folder, self._metrics = folder, folder / METRICS
        self.checkpoints = folder / CHECKPOINTS  # where best and last weights lie
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = storage.Lock(folder / LOCK, "another process is writing this run")
        try:
            self.rewind(epoch)
        except BaseException:
            self._lock.release()
            raise

    def rewind(self, epoch: int) -> None:
        """Drop the metrics of later epochs, and the summary: the run is under way again."""
        rows = read_metrics(self.folder) if self._metrics.exists() else []
        lines = (json.dumps(row).encode() + b"\n" for row in rows if row["epoch"] <= epoch)
        self._metrics.write_bytes(b"".join(lines))
        (self.folder / SUMMARY).unlink(missing_ok=True)

    def begin(self, config: dict[str, Any]) -> None:
        """Write config.json: what the run is, for whoever reads it without Hydra."""
        write_whole(self.folder / CONFIG, json.dumps(config, indent=2) + "\n")

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one epoch."""
        with self._metrics.open("ab") as file:
            file.write(json.dumps(metrics).encode() + b"\n")

    def finish(self, summary: dict[str, Any]) -> None:
        """Write summary.json whole, and let the folder go."""
        write_whole(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self._lock.release()


def held(folder: Path) -> bool:
    """Return whether a process is writing this run."""
    return storage.held(folder / LOCK)


@dataclass(frozen=True)
class Ended:
    """A run's end: one of STATUSES, the objective's best value, epochs; None where none is told."""

    status: str
    value: float | None
    epochs: int | None


def ended(folder: Path) -> Ended | None:
    """Return how a run ended; None where it has not, or left no summary that can be read."""
    try:
        summary = read_summary(folder)
        status, epochs, objective = (summary.get(key) for key in ("status", "epochs", "objective"))
    except (*BROKEN, AttributeError):
        return None
    value = objective.get("value") if isinstance(objective, dict) else None
    value = value if isinstance(value, int | float) else None
    epochs = epochs if isinstance(epochs, int) else None
    return Ended(status, value, epochs) if isinstance(status, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json: overrides, choices (group -> option), identity and resolved config."""
    return json.loads((folder / CONFIG).read_text())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read one dict an epoch. A last line cut short by a crash is left out."""
    rows = []
    for line in (folder / METRICS).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json."""
    return json.loads((folder / SUMMARY).read_text())


def read_study(folder: Path) -> dict[str, Any]:
    """Read study.json of a sweep's folder: the question, the space, each run's place."""
    return json.loads((folder / STUDY).read_text())
