"""One run under way: its Run, its record, its mirror; from opening to the summary."""

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from knobs import build
from knobs.data import Data
from knobs.errors import DIVERGED, CheckpointError, for_a_person
from knobs.identity import identity, public
from knobs.record import Record
from knobs.search.pruning import Pruner
from knobs.tracking.tracker import Tracker, versions
from knobs.training import checkpoint, loop
from knobs.training.loop import Run
from knobs.training.setup import assemble

log = logging.getLogger("knobs")
SAVE_SECONDS = 5.0  # between checkpoints of a run under way: what a crash can cost


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        status: one of record.STATUSES.
        value: the objective's best value; NaN where there is none.
    """

    status: str
    value: float
    exit_code: int
    summary: dict[str, Any]


class Session:
    """A run that trains: the same whether alone or as a row of a stack.

    Args:
        plain: a checked config, resolved.
        folder: where its record goes.
        about: the overrides and choices that made the config.
        data: what `plain` names, where it has been read already.
        track: makes the mirror.

    Raises:
        UserError: data or a checkpoint that cannot be used; another process holds the folder.
    """

    def __init__(
        self,
        plain: dict,
        folder: Path,
        device: torch.device,
        about: dict[str, Any] | None = None,
        data: Data | None = None,
        track: Callable[[dict, dict, Path], Any] = Tracker,
    ):
        saved = plain["resume"] and checkpoint.load_last(folder / "checkpoints")
        self.plain, self.folder = plain, folder
        self.about = about or {"overrides": [], "choices": {}}
        self.run = assemble(plain, data or build.data(plain), device)
        if saved:
            _go_on(self.run, saved)
        self.record = Record(folder, self.run.progress.epoch)
        self.record.begin(
            _public(self.about) | {"identity": identity(plain), "config": public(plain)}
        )
        self.tracker = track(plain["tracking"], public(plain), folder)
        self.pruner = _pruner(plain, folder)
        self.outcome: Outcome | None = None  # once it is closed
        self._saved = time.perf_counter()

    def epoch(self, metrics: dict) -> None:
        """Write down one epoch."""
        self.record.log(metrics)
        self.tracker.log(metrics)
        log.info("%s", json.dumps(metrics))

    def save_when_due(self, every: float = SAVE_SECONDS) -> None:
        """Keep a checkpoint, unless the last one is younger than `every` seconds."""
        if time.perf_counter() - self._saved > every:
            self.save()

    def save(self, whole: bool = True) -> None:
        """Keep the best weights so far, and if `whole` what a resume needs."""
        run, plain = self.run, self.plain
        self._saved = time.perf_counter()
        if not plain["training"]["checkpoint"]:
            return
        if whole:
            checkpoint.save_last(self.record.checkpoints, checkpoint.snapshot(run))
        if run.best_weights:
            about = {
                "shape": asdict(run.data.shape),
                "config": {name: plain[name] for name in ("model", "activation", "regularization")},
                "epoch": run.progress.best_epoch,
            }
            checkpoint.save_best(self.record.checkpoints, run.best_weights, about)

    def close(
        self, status: str, failure: Exception | None = None, number: int = signal.SIGINT
    ) -> Outcome:
        """Save what the status calls for, write the summary, and let W&B end its run.

        Args:
            status: one of record.STATUSES.
            failure: what ended the run, if something did.
            number: the signal that interrupted it, if one did.
        """
        if status == "diverged":
            log.warning("%s", failure)
            exit_code = DIVERGED
            self.save(whole=False)
        elif status == "failed":
            exit_code = getattr(for_a_person(failure), "exit_code", 1)
        else:
            exit_code = 128 + number if status == "interrupted" else 0
            self.save()
        summary = _summary(self.run, self.plain, status)
        with suppress(OSError) if status == "failed" else nullcontext():
            self.record.finish(summary)  # on a full disk this fails as the run did
        best = self.record.checkpoints / checkpoint.BEST
        self.tracker.end(_mirrored(summary), exit_code, best if best.is_file() else None)
        value = summary["objective"]["value"]
        self.outcome = Outcome(status, float("nan") if value is None else value, exit_code, summary)
        return self.outcome

    def restart(self) -> None:
        """Begin again at the first step, in the same folder."""
        self.run = assemble(self.plain, self.run.data, self.run.device)
        self.record.rewind(0)


def prune(sessions: Sequence[Session]) -> None:
    """Mark those that are to end here, of runs that have come to an epoch's end together."""
    places: dict[tuple, list[Session]] = {}
    for one in sessions:
        if one.pruner and one.run.progress.best is not None:
            moment = one.pruner, one.run.progress.epoch, one.plain["training"]["epochs"]
            places.setdefault(moment, []).append(one)
    for (pruner, epoch, epochs), some in places.items():
        numbered = {int(one.folder.name): one for one in some}
        values = {number: one.run.progress.best for number, one in numbered.items()}
        for number in pruner.stops(values, epoch, epochs):
            numbered[number].run.pruned = True


def _pruner(plain: dict, folder: Path) -> Pruner | None:
    """What ranks a run of a sweep among the others, if something does."""
    search, mode = plain["search"], plain["objective"]["mode"]
    if search["pruner"] not in ("asha", "hyperband") or not folder.name.isdecimal():
        return None
    return Pruner(search["pruner"], folder.parent, mode, group=search["arm"])


def _public(about: dict[str, Any]) -> dict[str, Any]:
    """The same, without the overrides that tell a secret."""
    return about | {"overrides": [public(o, o.partition("=")[0]) for o in about["overrides"]]}


def _go_on(run: Run, saved: dict) -> None:
    try:
        checkpoint.restore(run, saved)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"last.pt does not fit this config: {reason}") from None


def _summary(run: Run, plain: dict, status: str) -> dict[str, Any]:
    """summary.json; reads the test split if that was asked for and the run came to its end."""
    progress, test = run.progress, None
    if plain["test"] and status in ("finished", "stopped_early") and run.best_weights:
        run.evaluated.load_state_dict(run.best_weights)
        test = loop.evaluate(run, run.data.test, "test")
    examples = progress.epoch * len(run.data.train) + progress.examples
    return {
        "status": status,
        "objective": plain["objective"] | {"value": progress.best},
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "samples_per_second": round(examples / max(progress.train_seconds, 1e-9)),
        "peak_memory_mib": round(peak_memory(run.device) / 2**20),
        "metrics": progress.best_metrics,
        "validation_examples": len(run.data.val),
        "test": test,
        "config_hash": identity(plain),
        "versions": versions(),
    }


def _mirrored(summary: dict[str, Any]) -> dict[str, Any]:
    """What W&B's summary shows beside the last metrics."""
    best = {f"best/{name}": value for name, value in summary["metrics"].items()}
    about = {name: summary[name] for name in ("status", "best_epoch", "samples_per_second")}
    return best | about | {"objective": summary["objective"]["value"]} | (summary["test"] or {})


def peak_memory(device: torch.device) -> int:
    """Bytes: the most the device's allocator held, or on a CPU the most the process ever used."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
