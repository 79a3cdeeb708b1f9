"""One run from its config to its record: build, fit, write down, show."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from knobs import cli
from knobs.config import command
from knobs.errors import ConfigError, UserError, for_a_person
from knobs.hints import hints
from knobs.identity import public
from knobs.training import loop, screen
from knobs.training.loop import Run
from knobs.training.session import Outcome, Session, prune
from knobs.training.setup import machine

MAX_TAG = 64  # characters, W&B's limit
log = logging.getLogger("knobs")


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
        plain = command.resolve(cfg)
        if faults := command.check(plain):  # again: a sweep may compose what nobody looked at
            raise ConfigError("\n  ".join(["faults in the config", *faults]))
        if plain["task"] == "preview":
            from knobs.training.preview import preview

            return preview(plain, folder, out)
        if alone:  # nothing to be held against
            plain = plain | {"search": plain["search"] | {"pruner": "none"}}
        else:
            plain = _as_one_of_many(plain, job)
        outcome = executor.get()(plain, folder, out, _about(job))
    except Exception as error:
        fault = for_a_person(error)
        log.error("%s", fault, exc_info=None if isinstance(fault, UserError) else error)
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


def _about(job: DictConfig) -> dict[str, Any]:
    """How the command line made a run: its overrides, and the option of each group."""
    choices = OmegaConf.to_container(job.runtime.choices)
    kept = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    return {"overrides": list(job.overrides.task), "choices": kept}


def _as_one_of_many(plain: dict, job: DictConfig) -> dict:
    """The config of a sweep's job: its place in W&B, and its share of the cores.

    Processes that run side by side and share cores are many times slower than each on its own.
    """
    tracking, training = dict(plain["tracking"]), dict(plain["training"])
    folder = Path(job.runtime.output_dir).parent  # the sweep's
    tracking["group"] = tracking["group"] or "-".join(folder.parts[-2:]).removeprefix("sweeps-")
    told = (public(line, line.partition("=")[0]) for line in job.overrides.task)
    tracking["tags"] = [*tracking["tags"], *(tag for tag in told if len(tag) <= MAX_TAG)]
    if side_by_side := job.launcher.get("n_jobs"):  # joblib's; -1 is one a core
        cores = os.cpu_count() or 1
        count = side_by_side if side_by_side > 0 else max(1, cores + 1 + side_by_side)
        training["threads"] = training["threads"] or max(1, cores // count)
    return plain | {"tracking": tracking, "training": training}


def execute(
    plain: dict, folder: Path, out: Console | None = None, about: dict[str, Any] | None = None
) -> Outcome:
    """Train one checked config in `folder` and leave its record there.

    Args:
        plain: resolved, as command.checked gives it.
        out: where a person watches; nowhere if None.
        about: the overrides and choices that made the config; none if None.

    Raises:
        UserError: data or a checkpoint that cannot be used. Whatever else the run raises, once the
            record says failed.
    """
    out = out or Console(quiet=True)
    with machine(plain["training"]) as device:
        session = Session(plain, folder, device, about)
        screen.opening(out, session.run, plain, folder, session.about["overrides"])
        screen.hints(out, hints(plain, session.run.data.shape))
        began = time.perf_counter()
        try:
            return complete(session, out)
        finally:
            line, seconds = session.tracker.wait(), time.perf_counter() - began
            if session.outcome:
                screen.closing(out, folder, session.outcome.summary, line, seconds)


def complete(session: Session, out: Console) -> Outcome:
    """Train a run alone, from where it stands to its end.

    Raises:
        Exception: whatever failed the run, once the record says so.
    """
    try:
        return _fit(session, out)
    except Exception as error:
        session.close("failed", error)
        raise


# How `start` trains; a sweep puts its own way here, in the thread of each of its jobs.
executor: ContextVar[Callable[..., Outcome]] = ContextVar("executor", default=execute)


def _fit(session: Session, out: Console) -> Outcome:
    """Fit, keeping the record as it goes."""

    def on_epoch(run: Run, metrics: dict) -> None:
        session.epoch(metrics)
        face.epoch(run, metrics)
        prune([session])
        session.save_when_due()

    def stop() -> None:
        session.run.stop_requested = True

    with screen.Screen(session.run, out) as face, stop_signals(stop) as received:
        try:
            status = loop.fit(session.run, on_epoch, face.step)
        except loop.Diverged as error:
            out.print(f"[red]diverged[/]: {error}; a lower lr, warm-up or clipping may help")
            return session.close("diverged", error)
        except loop.Interrupted:
            return session.close("interrupted", number=received[0])
        return session.close(status)


@contextlib.contextmanager
def stop_signals(on_first: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """The Ctrl-C and SIGTERM received so far; the first one asks to stop, a second one stops here.

    Args:
        on_first: called at the first.
    """
    received: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        on_first()

    try:
        before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are someone else's
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
