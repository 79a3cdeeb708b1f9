"""One run from its config to its record: build, fit, write down, show."""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from knobs import late_compiler, record, storage
from knobs.config import command, copies
from knobs.config.check import check_job
from knobs.config.conflicts import ONE_PROCESS
from knobs.config.hints import hints
from knobs.config.resolvers import short_name
from knobs.errors import FULL_ERROR, Bug, ConfigError, UserError, for_a_person, note, tell
from knobs.record import LOCK
from knobs.secrets import public
from knobs.signals import Stopped, exits, stop_signals
from knobs.tracking import mirror, named
from knobs.tracking.tracker import MAX_NAME
from knobs.training import loop, ranks, screen
from knobs.training.session import Outcome, Session, keep_best, prune
from knobs.training.setup import machine, steps_per_epoch

PLACE = ("role", "arm", "phase", "step", "knob")  # of a run in its study: keys of `search`
log = logging.getLogger("knobs")


def start(cfg: DictConfig) -> float | None:
    """Do what train.py is asked for by a composed config; return the objective, for a sweep.

    Alone, a run that did not end well ends the process with its exit code; as a job of a sweep it
    returns or raises, so that the other jobs go on.
    """
    late_compiler.install()  # for a sweep's process of its own, in which nothing was checked
    job = HydraConfig.get()
    alone = job.mode == RunMode.RUN
    folder = Path(job.runtime.output_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    out = Console(highlight=False, soft_wrap=True)
    try:
        config = copies.resolved(cfg)
        checked = command.LAST.resolved(job.overrides.task)
        # A sweep may compose what nobody looked at.
        if config != checked and (faults := check_job(config)):
            raise ConfigError("\n  ".join(["faults in the config", *faults]))
        if config["task"] == "preview":
            from knobs.training.preview import preview

            return preview(config, folder, out)
        if config["task"] == "suggest":
            from knobs.training.suggest import suggest

            return suggest(config, folder, out, job.overrides.task, job.runtime.choices)
        thread = threading.current_thread()
        if not alone and config["training"]["processes"] > 1:
            raise ConfigError(ONE_PROCESS.format(config["training"]["processes"]))
        if alone:  # nothing to be held against
            config = config | {"search": config["search"] | {"pruner": "none"}}
        else:
            config = _as_one_of_many(config, job, getattr(thread, "differs", None))
        # A job of a sweep may run in a thread that hands its run over, to train with others.
        train = getattr(thread, "train", execute)
        with exits():
            outcome = train(config, folder, out, _about(job, config["search"]))
    except Stopped as error:
        if not alone:
            raise
        sys.exit(_stopped(folder, error.number))
    except Exception as error:
        fault = for_a_person(error)
        log.error("%s", fault, exc_info=None if isinstance(fault, UserError) else error)
        if not alone or FULL_ERROR:
            raise
        if kept := storage.take_over(folder / LOCK):  # the run did not come to take it
            kept.release()
        if not isinstance(fault, UserError):
            fault = Bug(error, f"in {folder / job.job.name}.log")
        else:
            record.unbegun(folder)
        sys.exit(tell(fault))
    if alone and os.environ.get(record.RESULT):
        print(json.dumps(record.result(folder)))  # the last line: compare/gate.py reads it
    if outcome.exit_code and (alone or outcome.status == "interrupted"):
        sys.exit(outcome.exit_code)
    return outcome.value


def _stopped(folder: Path, number: int) -> int:
    """Say how to go on with a run that a signal has ended at once; return the exit code."""
    if kept := storage.take_over(folder / LOCK):
        kept.release()
    record.unbegun(folder)
    begun = (folder / record.CONFIG).exists()
    mend = f"resume={folder} goes on" if begun else "nothing has begun: give the same command again"
    note(f"stopped by {signal.Signals(number).name}; {mend}")
    return 128 + number


def _about(job: DictConfig, search: dict[str, Any]) -> dict[str, Any]:
    """Return how the command line made a run: its overrides, the options, its place in a sweep."""
    choices = OmegaConf.to_container(job.runtime.choices)
    ours = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    # As they were typed: what a ${oc.env:NAME} comes to may be a secret.
    about = {"overrides": OmegaConf.to_container(job.overrides.task), "choices": ours}
    if job.mode == RunMode.RUN:
        return about
    place = {key: search[key] for key in PLACE if search["role"] is not None}
    return about | {"run": {"number": job.job.num} | place}


def _as_one_of_many(config: dict, job: DictConfig, differs: list[str] | None) -> dict:
    """Return the config of a sweep's job: with its place in W&B, and its share of the cores.

    Args:
        differs: the overrides that set it apart; all of its own if None.

    Processes that run side by side and share cores are many times slower than each on its own.
    """
    lines = job.overrides.task if differs is None else differs
    name = short_name(lines, config["name"], cut=f"-{job.job.num}")
    tracking, training = named(config["tracking"], name), dict(config["training"])
    folder = Path(job.runtime.output_dir).parent  # the sweep's
    if "group" in tracking:
        group = "-".join(folder.parts[-2:]).removeprefix("sweeps-")
        tracking["group"] = tracking["group"] or group[-MAX_NAME:]
    if side_by_side := job.launcher.get("n_jobs"):  # joblib's; -1 is one a core
        cores = os.cpu_count() or 1
        count = side_by_side if side_by_side > 0 else max(1, cores + 1 + side_by_side)
        training["threads"] = training["threads"] or max(1, cores // count)
    return config | {"tracking": tracking, "training": training}


def execute(
    config: dict, folder: Path, out: Console | None = None, about: dict[str, Any] | None = None
) -> Outcome:
    """Train one checked config in `folder` and leave its record there.

    Args:
        config: resolved, as config.command.checked gives it.
        out: where a person watches; nowhere if None.
        about: the overrides and choices that made the config; none if None.

    Raises:
        UserError: data or a checkpoint that cannot be used. Whatever else the run raises, once the
            record says failed.
    """
    out = out or Console(quiet=True)
    with (
        machine(config["training"]) as device,
        stop_signals(at_once=True) as stop,
        ranks.others(config) as others,
    ):
        session = Session(config, folder, device, about, None, mirror, False, stop)
        began = time.perf_counter()
        try:
            screen.opening(out, session.run, public(config), folder, session.about["overrides"])
            steps = steps_per_epoch(len(session.run.data.train), config["training"])
            steps *= config["training"]["epochs"]
            screen.hints(out, hints(config, session.run.data.shape, steps))
            with (
                session.fitting(out, stop) as (face, watch),
                ranks.together(session.run, others, stop),
            ):
                for metrics in loop.fit(session.run, watch, session.keep):
                    session.epoch(metrics)
                    face.epoch(session.run, metrics)
                    prune([session])
                    session.save_when_due()
            keep_best([session])
        except Stopped as error:
            session.abandon(error.number)
            raise
        finally:
            stop.at_once = True  # the record is complete: a signal ends the wait for the mirror
            if len(stop) < 2:
                mirrored = session.tracker.label, session.tracker.wait()
                seconds = time.perf_counter() - began
                if session.outcome:
                    summary, words = session.outcome.summary, session.about["overrides"]
                    screen.closing(out, session.run, folder, summary, mirrored, seconds, words)
    return session.outcome
