"""The ends of jobs on workers, as a sweep is told of its jobs: from the records of their runs."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from knobs.errors import UserError
from knobs.record import BROKEN, ended, read_summary
from knobs.sweep.jobs import Job


class Failed(UserError):
    """A run that a worker said has failed.

    Args:
        kind: the name of the error's class.
    """

    def __init__(self, fault: str):
        kind, _, message = fault.partition(": ")
        named = message and kind.isidentifier()
        self.kind = kind if named else type(self).__name__
        super().__init__(message if named else fault)


class Lost(UserError):
    """A run whose worker was lost, again and again."""


def kind_of(error: object) -> str:
    """Return the name of an error's class; of one that a worker has told, its there."""
    return getattr(error, "kind", "") or type(error).__name__


def returned(job: Job, value: Any, status: JobStatus, run: Path | None = None) -> JobReturn:
    """Return what Hydra would of a job, with what a sweep's end shows of it.

    Args:
        value: the objective, or what the job raised. run: its folder.
    """
    about = {"runtime": {"output_dir": str(run)}, "job": {"name": "train", "num": job.number}}
    made = JobReturn(job.overrides, hydra_cfg=OmegaConf.create({"hydra": about}))
    made.return_value, made.status = value, status
    return made


def settled(job: Job, run: Path) -> JobReturn:
    """Return what comes of a job, as its run has recorded it."""
    end = ended(run)
    if end and end.status == "failed":
        return failed(job, _reason(run), run)
    return returned(job, end and end.value, JobStatus.COMPLETED, run)


def failed(job: Job, fault: str, run: Path) -> JobReturn:
    """Return what comes of a job that has failed: the class of its error, and what it says."""
    return returned(job, Failed(fault), JobStatus.FAILED, run)


def lost(job: Job, why: str) -> JobReturn:
    """Return what comes of a job whose worker does not come to run it."""
    return returned(job, Lost(why), JobStatus.FAILED)


def interrupted(job: Job, stopped: Sequence[int]) -> JobReturn:
    """Return what comes of a job that was asked to end, by these signals, or was cancelled."""
    code = 128 + (stopped[0] if stopped else signal.SIGTERM)
    return returned(job, SystemExit(code), JobStatus.FAILED)


def _reason(run: Path) -> str:
    """Return why a run says that it failed."""
    try:
        return str(read_summary(run).get("reason") or "failed")
    except BROKEN:
        return "failed"
