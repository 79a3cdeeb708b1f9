"""One run from its config to its record: build, fit, write down, show."""

import contextlib
import dataclasses
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from knobs import build, cli, config
from knobs.advice.rules import hints
from knobs.errors import DIVERGED, CheckpointError, ConfigError, UserError, for_a_person
from knobs.identity import identity, public
from knobs.record import Record
from knobs.tracking import Tracker, versions
from knobs.training import checkpoint, loop, screen
from knobs.training.assemble import assemble, machine
from knobs.training.loop import Run

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


def start(cfg: DictConfig) -> float | None:
    """What train.py does with a composed config; the objective, for a sweep.

    Alone, a run that did not end well ends the process with its exit code; as a job of a sweep it
    returns or raises, so that the other jobs go on.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    alone = job.mode == RunMode.RUN
    folder = Path(job.runtime.output_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    out = Console(highlight=False, soft_wrap=True)
    try:
        plain = config.resolve(cfg)
        if faults := config.check(plain):  # again: a sweep may compose what nobody looked at
            raise ConfigError("\n  ".join(["faults in the config", *faults]))
        if plain["task"] == "preview":
            from knobs.training.preview import preview

            return preview(plain, folder, out)
        outcome = execute(plain, folder, out, list(job.overrides.task))
    except Exception as error:
        fault = for_a_person(error)
        log.error("%s", fault)
        if not alone or not isinstance(fault, UserError):
            raise
        _discard_unused(folder)
        sys.exit(cli.report(fault))
    if outcome.exit_code and (alone or outcome.status == "interrupted"):
        sys.exit(outcome.exit_code)
    return outcome.value


def _discard_unused(folder: Path) -> None:
    """Remove a run folder in which nothing ran: Hydra's own files and a log of one error."""
    if {path.name for path in folder.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(folder)


def execute(
    plain: dict, folder: Path, out: Console | None = None, changed: list[str] | None = None
) -> Outcome:
    """Train one checked config in `folder` and leave its record there.

    Args:
        plain: resolved, as config.checked gives it.
        out: where a person watches; nowhere if None.
        changed: what to show first, the overrides.

    Raises:
        UserError: data or a checkpoint that cannot be used. Whatever else the run raises, once the
            record says failed.
    """
    out = out or Console(quiet=True)
    with machine(plain["training"]) as device:
        saved = plain["resume"] and checkpoint.load_last(folder / "checkpoints")
        run = assemble(plain, build.data(plain), device)
        if saved:
            _go_on(run, saved)
        record = Record(folder, run.progress.epoch)
        screen.opening(out, run, plain, folder, changed or [])
        screen.hints(out, hints(plain, run.data.shape))
        tracker = Tracker(plain["tracking"], public(plain), folder)
        began, failure = time.perf_counter(), None
        try:
            status, exit_code = _fit(run, plain, record, tracker, out)
        except Exception as error:
            log.exception("the run failed")
            failure = error
            status, exit_code = "failed", getattr(for_a_person(error), "exit_code", 1)
        summary = _summary(run, plain, status)
        with contextlib.suppress(OSError) if failure else contextlib.nullcontext():
            record.finish(summary)  # on a full disk this fails as the run did, which is told below
        best = record.checkpoints / checkpoint.BEST
        line = tracker.finish(_mirrored(summary), exit_code, best if best.is_file() else None)
        screen.closing(out, folder, summary, line, time.perf_counter() - began)
        if failure:
            raise failure
    value = summary["objective"]["value"]
    return Outcome(status, float("nan") if value is None else value, exit_code, summary)


def _go_on(run: Run, saved: dict) -> None:
    try:
        checkpoint.restore(run, saved)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"last.pt does not fit this config: {reason}") from None


def _fit(run: Run, plain: dict, record: Record, tracker: Tracker, out: Console) -> tuple[str, int]:
    """Fit, keeping the record as it goes; the status and the exit code."""
    saved = time.perf_counter()

    def save(whole: bool = True) -> None:
        if plain["training"]["checkpoint"]:
            _save(run, plain, record, whole)

    def on_epoch(run: Run, metrics: dict) -> None:
        nonlocal saved
        record.log(metrics)
        tracker.log(metrics)
        face.epoch(run, metrics)
        log.info("%s", json.dumps(metrics))
        if time.perf_counter() - saved > SAVE_SECONDS:
            save()
            saved = time.perf_counter()

    with screen.Screen(run, out) as face, _stop_on_signal(run) as received:
        try:
            status = loop.fit(run, on_epoch, face.step)
        except loop.Diverged as error:
            log.warning("%s", error)
            out.print(f"[red]diverged[/]: {error}; a lower lr, warm-up or clipping may help")
            save(whole=False)
            return "diverged", DIVERGED
        except loop.Interrupted:
            save()
            return "interrupted", 128 + received[0]
        save()
        return status, 0


def _save(run: Run, plain: dict, record: Record, whole: bool) -> None:
    """The best weights so far, and if `whole` what a resume needs."""
    if whole:
        checkpoint.save_last(record.checkpoints, checkpoint.snapshot(run))
    if run.best_weights:
        about = {
            "shape": dataclasses.asdict(run.data.shape),
            "config": {name: plain[name] for name in ("model", "activation", "regularization")},
            "epoch": run.progress.best_epoch,
        }
        checkpoint.save_best(record.checkpoints, run.best_weights, about)


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


@contextlib.contextmanager
def _stop_on_signal(run: Run) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM stops the run after its step, a second one stops it there."""
    received: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        run.stop_requested = True

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are someone else's
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
