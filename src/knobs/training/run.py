"""One run from its config to its record: seed, build, fit, write down."""

import contextlib
import dataclasses
import errno
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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from knobs import build, cli, config, errors, rng, screen
from knobs.advice.rules import hints
from knobs.data import Data
from knobs.errors import CheckpointError, ConfigError, UserError
from knobs.identity import identity, public
from knobs.record import Record
from knobs.regularization import make_loss
from knobs.tracking import Tracker, versions
from knobs.training import checkpoint, loop
from knobs.training.loop import Run

log = logging.getLogger("knobs")
SAVE_SECONDS = 5.0  # between checkpoints of a run under way: what a crash can cost
MAX_HINTS = 3


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
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
    plain, folder = config.resolve(cfg), Path(job.runtime.output_dir)
    out = Console(highlight=False, soft_wrap=True)
    try:
        faults = config.check(plain)  # again, here: a sweep may compose what nobody looked at
        if faults:
            raise ConfigError("\n  ".join(["faults in the config", *faults]))
        if plain["task"] == "preview":
            from knobs.training.preview import preview

            return preview(plain, _relative(folder), out)
        outcome = execute(plain, _relative(folder), out, list(job.overrides.task))
    except UserError as error:
        log.error("%s", error)
        if not alone:
            raise
        _discard_unused(folder)
        sys.exit(cli.report(error))
    if outcome.exit_code and (alone or outcome.status == "interrupted"):
        sys.exit(outcome.exit_code)
    return outcome.value


def _relative(folder: Path) -> Path:
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder


def _discard_unused(folder: Path) -> None:
    """Remove a run folder in which nothing ran: Hydra's own files and a log of one error."""
    if {path.name for path in folder.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(folder)


def execute(
    plain: dict, folder: Path, out: Console | None = None, changed: list[str] | None = None
) -> Outcome:
    """Train one checked config in `folder` and leave its record there.

    Raises:
        UserError: data or a checkpoint that cannot be used; the record says failed.
    """
    out = out or Console(quiet=True)
    with machine(plain["training"]) as device:
        state = None
        if plain["resume"]:
            state = checkpoint.load_last(folder / "checkpoints", device)
        run = assemble(plain, build.data(plain), device)
        if state:
            _go_on(run, state)
        record = Record(folder, run.progress.epoch)
        screen.opening(out, run, plain, folder, changed or [])
        _show_hints(out, plain, run)
        tracker = Tracker(plain["tracking"], public(plain), folder)
        status, exit_code, failure = "failed", 1, None
        began = time.perf_counter()
        try:
            status, exit_code = _fit(run, plain, record, tracker, out)
        except Exception as error:
            failure, exit_code = error, _exit_code(error)
            log.exception("the run failed")
        finally:
            outcome = _finish(run, plain, record, tracker, out, status, exit_code, began)
        if failure and exit_code == 1:
            raise failure
        if failure:
            raise _explained(failure, exit_code)
        return outcome


def assemble(plain: dict, data: Data, device: torch.device) -> Run:
    """Everything of a run, on its device, at its first step.

    Raises:
        ConfigError: the data leave a batch that the model cannot take.
    """
    training, reg, seed = plain["training"], plain["regularization"], plain["seed"]
    steps = steps_per_epoch(len(data.train), training)
    tiny = len(data.train) % training["batch_size"] == 1 and not training["drop_last"]
    if not steps or (tiny and (reg["norm"] == "batch" or plain["model"]["name"] == "resnet18")):
        what = "a last batch of 1, which batch norm cannot take" if steps else "no full batch"
        raise ConfigError(
            f"training.batch_size={training['batch_size']}: {len(data.train)} training examples "
            f"leave {what}; change it, or training.drop_last={str(bool(steps)).lower()}"
        )
    images = (
        data.kind == "image"
        and len(data.shape.input) == 3
        and plain["model"]["name"] in ("cnn", "resnet18")
    )
    order = torch.channels_last if training["channels_last"] and images else torch.contiguous_format
    sample = next(data.train.batches([torch.arange(min(256, len(data.train)))]))[0]
    rng.seed_global(rng.key(seed, "init"), torch.device("cpu"))
    model = build.model(plain, data.shape)
    build.initialize(plain, model, sample)
    model = model.to(device, memory_format=order) if images else model.to(device)
    optimizer = build.optimizer(plain, model)
    interval = plain["scheduler"]["interval"]
    total = training["epochs"] * (steps if interval == "step" else 1)
    average = None
    if training["ema"]:
        update = get_ema_multi_avg_fn(training["ema"])
        average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return Run(
        model=model,
        data=data.to(device, order),
        loss=make_loss(data.task, reg["label_smoothing"]),
        optimizer=optimizer,
        scheduler=build.scheduler(plain, optimizer, total),
        training=training,
        objective=plain["objective"],
        device=device,
        seed=seed,
        interval=interval,
        monitor=plain["scheduler"].get("monitor"),
        l1=reg["l1"],
        mixup=reg["mixup"],
        average=average,
        forward=torch.compile(model) if training["compile"] else None,
    )


def steps_per_epoch(examples: int, training: dict) -> int:
    """Optimizer steps in one pass over the training split."""
    full, left = divmod(examples, training["batch_size"])
    return full + (1 if left and not training["drop_last"] else 0)


@contextlib.contextmanager
def machine(training: dict) -> Iterator[torch.device]:
    """The device, with threads and determinism as asked, put back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(training["threads"] or threads)
    torch.use_deterministic_algorithms(training["deterministic"])
    try:
        yield build.device(training["device"])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def _go_on(run: Run, state: dict) -> None:
    try:
        loop.restore(run, state)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"last.pt does not fit this config: {reason}") from None


def _show_hints(out: Console, plain: dict, run: Run) -> None:
    found = hints(plain, run.data.shape)
    for hint in found[:MAX_HINTS]:
        out.print(f"  [yellow]hint[/]       {screen.escape(str(hint))}")
    if len(found) > MAX_HINTS:
        out.print(
            f"  [yellow]hint[/]       and {len(found) - MAX_HINTS} more; \\[all] silences every one"
        )


def _fit(run: Run, plain: dict, record: Record, tracker: Tracker, out: Console) -> tuple[str, int]:
    """Fit, keeping the record as it goes; the status and the exit code."""
    keep = plain["training"]["checkpoint"]
    saved = time.perf_counter()

    def save() -> None:
        if keep:
            checkpoint.save_last(record.checkpoints, loop.snapshot(run))
            _save_best(run, plain, record)

    with screen.Screen(run, out) as face, _stop_on_signal(run) as received:

        def on_epoch(run: Run, metrics: dict) -> None:
            nonlocal saved
            record.log(metrics)
            tracker.log(metrics)
            face.epoch(run, metrics)
            log.info("%s", json.dumps(metrics))
            if time.perf_counter() - saved > SAVE_SECONDS:
                save()
                saved = time.perf_counter()

        try:
            status = loop.fit(run, on_epoch, face.step)
        except loop.Diverged as error:
            log.warning("%s", error)
            out.print(f"[red]diverged[/]: {error}; a lower lr, warm-up or clipping may help")
            if run.best_weights and keep:
                _save_best(run, plain, record)
            return "diverged", errors.DIVERGED
        except loop.Interrupted:
            save()
            return "interrupted", 128 + received[0]
        save()
        return status, 0


def _save_best(run: Run, plain: dict, record: Record) -> None:
    if run.best_weights:
        kept = ("model", "activation", "regularization")
        about = {
            "shape": dataclasses.asdict(run.data.shape),
            "config": {name: plain[name] for name in kept},
            "epoch": run.progress.best_epoch,
        }
        checkpoint.save_best(record.checkpoints, run.best_weights, about)


def _finish(
    run: Run, plain: dict, record: Record, tracker: Tracker, out: Console,
    status: str, exit_code: int, began: float,
) -> Outcome:  # fmt: skip
    """Read the test split if asked, write the summary, end the mirror, show the closing block."""
    progress = run.progress
    test = None
    if plain["test"] and status in ("finished", "stopped_early") and run.best_weights:
        run.evaluated.load_state_dict(run.best_weights)
        test = loop.evaluate(run, run.data.test, "test")
    value = float("nan") if progress.best is None else progress.best
    summary = {
        "status": status,
        "objective": plain["objective"] | {"value": progress.best},
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "samples_per_second": round(_samples_per_second(run)),
        "peak_memory_mib": round(peak_memory(run.device) / 2**20),
        "metrics": progress.best_metrics,
        "test": test,
        "config_hash": identity(plain),
        "versions": versions(),
    }
    record.finish(summary)
    best = record.checkpoints / checkpoint.BEST
    mirrored = {f"best/{k}": v for k, v in progress.best_metrics.items()} | {
        "status": status, "best_epoch": progress.best_epoch, "objective": progress.best, **(test or {}),
    }  # fmt: skip
    line = tracker.finish(mirrored, exit_code, best if best.is_file() else None)
    _closing(out, run, record.folder, summary, line, time.perf_counter() - began)
    return Outcome(status, value, exit_code, summary)


def _closing(
    out: Console, run: Run, folder: Path, summary: dict, line: str, seconds: float
) -> None:
    objective = summary["objective"]
    value = "none" if objective["value"] is None else f"{objective['value']:.4f}"
    title = f"{summary['status']}: best {objective['metric']} {value}"
    test = summary["test"] and ", ".join(f"{k} {v:.4f}" for k, v in summary["test"].items())
    ready = summary["status"] == "interrupted" and f"python train.py resume={folder}"
    rows = [
        ("best", f"epoch {summary['best_epoch']} of {summary['epochs']}"),
        ("test", test or ""),
        ("cost", f"{seconds:.1f} s, {summary['samples_per_second']:,} samples/s, "
                 f"peak memory {summary['peak_memory_mib']:,} MiB"),
        ("files", f"{folder}: metrics.jsonl, summary.json"
                  + (", checkpoints/" if (folder / "checkpoints").is_dir() else "")),
        ("W&B", line),
        ("look", f"wandb leet {folder}" if "offline" in line else "" if line else f"cat {folder}/metrics.jsonl"),
        ("go on", ready or ""),
    ]  # fmt: skip
    screen.block(out, title, rows)


def _samples_per_second(run: Run) -> float:
    done = run.progress.epoch * len(run.data.train) + run.progress.examples
    return done / run.progress.train_seconds if run.progress.train_seconds else 0.0


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
    """The first Ctrl-C or SIGTERM asks the run to stop after its step, the second stops it there."""
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


def _exit_code(error: Exception) -> int:
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return errors.STORAGE
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
        error
    ):
        return errors.MEMORY
    return 1


def _explained(failure: Exception, exit_code: int) -> UserError:
    if isinstance(failure, UserError):
        return failure
    what = {
        errors.STORAGE: "the disk cannot be written to; free some space, then resume the run",
        errors.MEMORY: "out of memory; a smaller training.batch_size or training.accumulate=2 may fit",
    }[exit_code]
    explained = UserError(f"{what} ({str(failure).splitlines()[0]})")
    explained.exit_code = exit_code
    return explained
