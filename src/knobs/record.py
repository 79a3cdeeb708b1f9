"""Read and write run folders; nothing else does.

Every file of knobs is written by `write`, whole, or by `append`, line by line.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from knobs import storage
from knobs.errors import CheckpointError, UserError, first_line
from knobs.identity import DEFAULTS_BEFORE, OPTION_OF, RENAMED, leaves
from knobs.storage import append, as_json, write
from knobs.words import count, listed

SCHEMA = 4  # of configs and records; `migrate` knows the names of those before
CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"  # of a run
LOCK = "run.lock"  # while a run is under way
LEDGER = "sweep.json"  # of a sweep: see ledger.py
STUDY = "study.json"  # of a sweep that was a search or a study
PLACES = "places.jsonl"  # of a study: where its runs belong, those since study.json was written
JOURNAL = "trials.journal"  # of a search: see search/trials.py
ENSEMBLE = "ensemble.json"  # of an ensemble: see ensemble/folder.py
CHECKPOINTS = "checkpoints"
SEARCHED = ("default", "search")  # roles of the trials of a search
PATIENCE = 12.0  # seconds: processes.GRACE, in which what a killed sweep has begun ends, and more
POLL = 0.1  # seconds between two looks
RESULT = "KNOBS_RESULT"  # in the environment: a run ends its output with `result` as a JSON line
# Of a run's folder, what is opened and not replaced: no link may stand there.
WRITTEN_INTO = (CHECKPOINTS, METRICS, LOCK, ".hydra", "wandb", "train.log")
# Of a run's folder, what is there before config.json is: Hydra's files, a log, the preparation.
BEFORE = {".hydra", "train.log", "preparation.json", "preparation.safetensors"}
STATUSES = ("finished", "stopped_early", "diverged", "failed", "interrupted", "pruned")
FINISHED = STATUSES[:2]  # of runs that came to their end
BROKEN = (OSError, ValueError, RecursionError)  # what reading a file of unknown content raises


def sealed(document: dict[str, Any]) -> bytes:
    """Return a document as JSON that carries its own SHA-256, as `read_json` verifies it."""
    return storage.signed(as_json({"sha256": storage.UNSIGNED} | document))


class Damaged(CheckpointError):
    """A file whose bytes are not those that were written."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file that nobody has vouched for; older ones are not `sealed`.

    Raises:
        OSError: it cannot be opened. CheckpointError: it is damaged, changed since it was written,
            or no JSON object.
    """
    try:
        data = storage.read(path)
        document = json.loads(data.decode())
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        sealed, digest = "sha256" in document, document.pop("sha256", None)
    except (ValueError, RecursionError) as error:
        why = first_line(error).removeprefix(f"{path}: ")
        raise CheckpointError(f"{path}: cannot be read ({why}); put it back from a copy") from None
    if sealed and not storage.intact(data, digest):
        mend = 'put it back from a copy; if you changed it yourself, delete its line "sha256"'
        raise Damaged(f"{path}: damaged, its SHA-256 is another; {mend}")
    return document


# ------------------------------------------------------------------ older formats
class NewerSchema(UserError):
    """A file that a newer knobs wrote."""


def check_schema(document: dict[str, Any], path: Path) -> None:
    """Refuse what a newer knobs wrote: it would be misread.

    Raises:
        NewerSchema: saying so. CheckpointError: its schema is no number.
    """
    schema = document.get("schema", 1)
    if type(schema) is not int:
        raise CheckpointError(f"{path}: has schema {schema!r:.40}, which must be a whole number")
    if schema > SCHEMA:
        raise NewerSchema(f"{path}: has schema {schema}, this knobs reads {SCHEMA}; update knobs")


def migrate(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config of any schema under the names of today.

    The only place that knows old names. What a config of an older schema lacks stays out: such a
    key was added with a default that changes nothing.
    """
    moved = {
        section: dict(node) if isinstance(node, dict) else node for section, node in config.items()
    }
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        node = moved.get(section)
        if isinstance(node, dict) and key in node:
            node[new.partition(".")[2]] = node.pop(key)
    return moved


def renamed(override: str) -> str:
    """Return an override under the names of today: `training.accumulate=2` as it is written now."""
    prefix = override[: len(override) - len(override.lstrip("+~"))]
    key, equals, value = override[len(prefix) :].partition("=")
    return f"{prefix}{RENAMED.get(key, key)}{equals}{value}"


def defaults_since(folder: Path, lines: Sequence[str] = ()) -> list[str]:
    """Return overrides that keep the defaults under which a run or a sweep in a folder began.

    Those of one option are kept for a run, whose record tells its options and values; the jobs of
    a sweep may have others.

    Args:
        lines: overrides, which may choose other options than the record has.
    """
    schemas, choices, values = [SCHEMA], {}, {}
    for name in (CONFIG, LEDGER, STUDY):
        try:
            document = read_json(folder / name)
            schemas.append(int(document.get("schema", 1)))
            choices |= document.get("choices") or {}
            values |= dict(leaves(document.get("config") or {}))
        except (*BROKEN, TypeError, AttributeError, OverflowError):
            continue
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    choices |= {group: given[group] for group in choices if group in given}
    kept: dict[str, Any] = {}
    for schema, defaults in DEFAULTS_BEFORE.items():
        if schema > min(schemas):
            kept = defaults | kept  # the oldest counts
    return [
        f"{key}={json.dumps(values.get(key, value))}"
        for key, value in kept.items()
        if OPTION_OF.get(key) in (None, choices.get(key.partition(".")[0]))
    ]


# ------------------------------------------------------------------ a run's folder
class Record:
    """A run's folder, held by one process at a time.

    Of its files only the lock stays open: a stack has a thousand folders at once.

    Args:
        folder: of the run; made if it is not there.

    Raises:
        LockedError: another process is writing here.
    """

    def __init__(self, folder: Path):
        self.folder, self._metrics = folder, folder / METRICS
        self._synced = self._named = False  # whether config.json outlives a power cut, and names
        self.checkpoints = folder / CHECKPOINTS  # where best and last weights lie
        storage.make_folder(folder)
        self._lock = storage.take_over(folder / LOCK) or hold(folder)

    def release(self) -> None:
        """Let the folder go: the run did not begin."""
        self._lock.release()

    def begin(
        self, document: dict[str, Any], files: dict[str, bytes] | None = None, sync: bool = True
    ) -> None:
        """Write config.json: what the run is, for whoever reads it without Hydra.

        A summary of before goes: the run is under way again.

        Args:
            files: what else there is to say of it, by name.
            sync: whether a config.json that takes another's place is synced first: without either
                nothing says how to go on.
        """
        summary = self.folder / SUMMARY
        if summary.exists():  # for good, before the config becomes another
            summary.unlink()
            storage.sync_folder(self.folder)
        for path in (*self.folder.glob("*.partial"), *self.checkpoints.glob("*.partial")):
            if not path.stem.rpartition(".")[2].isdecimal():  # of a process that was killed
                path.unlink()
        for name, data in (files or {}).items():
            if not _has(self.folder / name, data):  # what is good is not written again
                write(self.folder / name, data)
        self._synced = sync and (self.folder / CONFIG).exists()
        content = sealed({"schema": SCHEMA} | document)
        write(self.folder / CONFIG, content, self._synced, name=False)
        append(self._metrics, b"")
        self._named = False

    def earlier(self, epoch: int, kept: bytes = b"") -> tuple[list[dict[str, Any]], str]:
        """Return the epochs up to the one that the run goes on from, and what is wrong with them.

        What the log has lost is appended to it anew.

        Args:
            kept: the lines that the checkpoint holds of the log; older ones hold none.
        """
        rows, damaged = read_log(self.folder)
        rows = [row for row in rows if row["epoch"] <= epoch]
        fault = log_fault(rows, damaged, epoch)
        whole = [row for row in rows_of(kept.splitlines())[0] if row["epoch"] <= epoch]
        lines, has = ([*map(storage.as_line, those)] for those in (whole, rows))
        pairs = zip(lines, has, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(lines), len(has)))
        if lines[same:]:
            append(self._metrics, b"".join(lines[same:]))
            rows = whole
            fault = f"{fault or 'other values'}; written again from the checkpoint"
        return rows, f"{self._metrics}: {fault}" if fault else ""

    def log(self, metrics: dict[str, Any]) -> bytes:
        """Append one epoch; return its line."""
        line = storage.as_line(metrics)
        append(self._metrics, line)
        return line

    def restart(self) -> None:
        """Void the epochs so far: the run begins again at its first step."""
        if self._metrics.stat().st_size:
            self.log({"epoch": 0})

    def settle(self) -> None:
        """Make the log and config.json outlive a power cut, before a checkpoint that rests on them.

        Three syncs the first time, then one.
        """
        self._sync()
        if not self._named:
            storage.sync_folder(self.folder)
            self._named = True

    def _sync(self) -> None:
        storage.sync_file(self._metrics)
        if not self._synced:
            storage.sync_file(self.folder / CONFIG)
            self._synced = True

    def finish(self, summary: dict[str, Any], sync: bool = True) -> None:
        """Write summary.json whole, and let the folder go.

        Args:
            sync: whether it, the log, config.json and the names of the folder's files are to
                outlive a power cut; four syncs at most.
        """
        try:
            if sync:
                self._sync()
            write(self.folder / SUMMARY, sealed({"schema": SCHEMA} | summary), sync)
        finally:
            self._lock.release()


def _has(path: Path, data: bytes) -> bool:
    """Return whether a file holds these bytes."""
    try:
        return storage.read(path) == data
    except (OSError, ValueError):
        return False


def hold(folder: Path) -> storage.Lock:
    """Hold a run's folder for this process alone.

    Raises:
        LockedError: another process is writing here. StorageError: a link leads out of it.
    """
    storage.refuse_links(folder, WRITTEN_INTO)
    return storage.Lock(folder / LOCK, "another process is writing this run")


_OWED: dict[Path, dict[str, Any]] = {}  # summaries for which a full disk had no room, by folder


def owe(folder: Path, summary: dict[str, Any]) -> None:
    """Keep a summary that could not be written, for `give_up`: there may be room by then."""
    _OWED[folder] = summary


def give_up() -> None:
    """End this process's hold on folders: of runs that did not begin, and of summaries it owes.

    A folder in which there is nothing of a run is removed.
    """
    for lock in storage.release_kept():
        unbegun(lock.parent)
    storage.give_back_claimed()
    while _OWED:
        folder, summary = _OWED.popitem()
        with contextlib.suppress(OSError, UserError):  # another process may hold it by now
            if folder.is_dir() and not (folder / SUMMARY).exists():
                Record(folder).finish(summary)


def unbegun(folder: Path) -> bool:
    """Remove a folder if no run began there, nor is anything else in it; return whether it went."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= BEFORE:
            shutil.rmtree(folder)
            return True
    return False


def resumable(folder: Path) -> bool:
    """Return whether a run has a checkpoint to go on from: training/checkpoint.py writes them."""
    names = {path.suffix for path in (folder / CHECKPOINTS).glob("last.*")}
    return bool(names & {".safetensors", ".pt"})


def held(folder: Path) -> bool:
    """Return whether a process is writing this run."""
    return storage.held(folder / LOCK)


def wait_for_writers(folders: Iterable[Path]) -> None:
    """Wait for runs that are being written, PATIENCE at most.

    What a killed sweep has begun ends soon after it; a process that resumes one run does not.
    """
    latest = time.monotonic() + PATIENCE
    for folder in folders:
        while held(folder) and time.monotonic() < latest:
            time.sleep(POLL)


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


def best_epoch(folder: Path) -> int:
    """Return the epoch of the best weights of a run that came to its end.

    Raises:
        CheckpointError: no such run, or none whose validation split chose an epoch.
    """
    try:
        summary = read_summary(folder)
        status, best, objective = (summary.get(k) for k in ("status", "best_epoch", "objective"))
    except (*BROKEN, AttributeError):
        raise CheckpointError(f"{folder}: no run that has ended (no {SUMMARY})") from None
    if status not in FINISHED or not isinstance(best, int) or best < 1 or not objective:
        ended = "trained on the validation rows itself" if objective is None else f"ended {status}"
        raise CheckpointError(f"{folder}: {ended}; give a run that is finished or stopped_early")
    return best


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json: overrides, choices (group -> option), identity and resolved config.

    One of an older schema comes under the names of today.
    """
    document = read_json(folder / CONFIG)
    check_schema(document, folder / CONFIG)
    if isinstance(document.get("config"), dict):
        document["config"] = migrate(document["config"])
    if isinstance(document.get("overrides"), list):
        document["overrides"] = [renamed(str(line)) for line in document["overrides"]]
    return document


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read one dict an epoch, as `read_log` does."""
    return read_log(folder)[0]


def read_log(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Read one dict an epoch, and count the lines that are damaged, which are left out.

    The log is never rewritten: a run that went on from an earlier epoch wrote later ones again, and
    the last row of an epoch counts. A line cut short by a crash is damaged too.
    """
    return rows_of(storage.read(folder / METRICS, 2**32).splitlines())


def rows_of(lines: Iterable[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows that count of metrics.jsonl, and how many lines are none."""
    rows: list[dict[str, Any]] = []
    damaged = 0
    for line in lines:
        if not line:
            continue
        try:
            row = storage.of_line(line)
            epoch = row["epoch"]
            sound = type(epoch) is int and epoch >= 0
        except (ValueError, RecursionError, KeyError):
            sound = False
        if not sound or any(isinstance(value, str) for value in row.values()):
            damaged += 1  # a text: the name of its checksum is damaged
            continue
        while rows and rows[-1]["epoch"] >= epoch:
            rows.pop()
        if epoch > 0:  # 0 voids those before: see Record.restart
            rows.append(row)
    return rows, damaged


def damage(folder: Path, epochs: Any = None) -> str:
    """Say what the log of a run lacks; empty where it lacks nothing.

    Args:
        epochs: that the run has trained, as its summary has it, which nobody has vouched for.

    Raises:
        OSError, ValueError: there is no log, or none that can be read.
    """
    epochs = epochs if type(epochs) is int else None
    lines = storage.read(folder / METRICS, 2**32).splitlines()
    if len(lines) == epochs and all(map(storage.carries_its_checksum, lines)):
        return ""  # as nearly all are: no need to parse them
    rows, damaged = rows_of(lines)
    return log_fault(rows, damaged, epochs or (rows[-1]["epoch"] if rows else 0))


def log_fault(rows: Sequence[dict[str, Any]], damaged: int, epochs: int) -> str:
    """Say what a log of so many epochs lacks; empty where it lacks none.

    Args:
        damaged: lines; those of epochs that were written again cost nothing.
    """
    has = [row["epoch"] for row in rows if row["epoch"] <= epochs]
    spans = [(a + 1, b - 1) for a, b in pairwise([0, *has, epochs + 1]) if b - a > 1]
    if not spans:
        return ""
    lines = f"{count(damaged, 'line')} damaged, " if damaged else ""
    missing = count(sum(b - a + 1 for a, b in spans), "epoch")
    which = listed([f"{a} to {b}" if a < b else str(a) for a, b in spans], 5)
    return f"{lines}{missing} of {epochs} missing ({which})"


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json."""
    return read_json(folder / SUMMARY)


def result(folder: Path) -> dict[str, Any]:
    """Return a run that has ended as one flat object, for programs: its metric, what it ran on.

    `{"val/accuracy": 0.97, "status": "finished", "seed": 0, "split": 0, ...}`; null where it
    diverged, and no metric of a refit.
    """
    about, summary = read_config(folder), read_summary(folder)
    config, objective = about["config"], summary["objective"]
    training, validation, _ = about["data"]["rows"]
    data = config["data"]
    split = data.get("split_seed") if data.get("val_seed") is None else data["val_seed"]
    return {
        **({objective["metric"]: objective["value"]} if objective else {}),
        "status": summary["status"],
        "seed": config["seed"],
        "split": split or 0,
        "fold": data.get("fold") or 0,
        "training_examples": training,
        "validation_examples": validation,
        "validation_rows": (about["data"].get("rows_hash") or {}).get("val"),
        "folder": str(folder),
    }


def read_study(folder: Path) -> dict[str, Any]:
    """Read study.json of a sweep's folder: the question, the space, each run's place.

    The places of a search's trials stand in places.jsonl, a line each; damaged lines are told, and
    each run has its place in its own config.json as well.
    """
    study = read_json(folder / STUDY)
    check_schema(study, folder / STUDY)
    runs = study.get("runs")
    if isinstance(runs, dict):
        lost = "their runs have their places in their own config.json"
        with contextlib.suppress(OSError, ValueError):
            for place in storage.rows(
                folder / PLACES, lambda row: {"run": row["run"], **row}, lost
            ):
                runs.setdefault(str(place.pop("run")), place)
    return _with_names_of_today(study)


def append_places(folder: Path, places: dict[int, dict[str, Any]]) -> None:
    """Note where runs of a study belong, so that it outlives a power cut.

    A search notes each trial before it begins: study.json anew each time would be a gigabyte by
    the 5,000th.
    """
    path, lines = folder / PLACES, [{"run": run} | place for run, place in places.items()]
    if lines:
        new = not path.exists()
        append(path, b"".join(map(storage.as_line, lines)))
        storage.sync_file(path)
        if new:
            storage.sync_folder(folder)


def _with_names_of_today(node: Any) -> Any:
    """Return plain data in which every key and override has its name of today."""
    if isinstance(node, dict):
        return {RENAMED.get(key, key): _with_names_of_today(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_with_names_of_today(child) for child in node]
    return renamed(node) if isinstance(node, str) else node
