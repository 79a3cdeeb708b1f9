"""Stand-ins: rows that keep a stack's shape while the runs that had them are not in it.

What a row computes depends to the last bit on how many rows there are and on its place among them,
not on what the others hold. So a stack that was killed goes on from the earliest of its runs'
checkpoints with as many rows as it had then. A stand-in has the row of a run that is further, or
that has ended since, and computes what nobody asks for. Once it has come as far, the run takes its
row, or the row goes, as it did before.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from knobs.stack.optimizers import by_weight, kind, shares, states
from knobs.training import loop as solo
from knobs.training.state import Progress, Run


class Place(NamedTuple):
    """The moment at which a stand-in leaves, and the run that takes its row then, if one does.

    Args:
        epoch: completed by then. batch: done of the next one.
    """

    epoch: int
    batch: int = 0
    run: Run | None = None


StandIns = dict[Run, Place]


def stand_in(run: Run, epoch: int, batch: int, steps: int) -> Run:
    """Return a run, at its first step, as the stand-in of its row from a moment on.

    Args:
        epoch, batch: where the row stands.
        steps: of an epoch.
    """
    run.progress = Progress(epoch=epoch, batch=batch, step=epoch * steps + batch)
    run.scores = {}  # code of the run's own
    if getattr(run.scheduler, "cycle_momentum", False):  # all rows of a slice have its momentum
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer has made no step
            for _ in range(run.progress.step if run.interval == "step" else epoch):
                run.scheduler.step()
    return run


def pass_epoch(run: Run) -> None:
    """Take a stand-in to the next epoch."""
    if run.interval == "epoch" and not isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step()
    run.progress.epoch, run.progress.batch = run.progress.epoch + 1, 0


def until(stand_ins: StandIns) -> int | None:
    """Return the batch of the epoch under way at which a stand-in leaves; None: not in this one."""
    batches = [p.batch for run, p in stand_ins.items() if p.epoch == run.progress.epoch]
    return min(filter(None, batches), default=None)


def due(stand_ins: StandIns) -> bool:
    """Return whether a stand-in is to leave."""
    return any(map(_over, stand_ins, stand_ins.values()))


def _over(run: Run, place: Place) -> bool:
    return (run.progress.epoch, run.progress.batch) >= place[:2]


def relieved(rows: Sequence[Run], stand_ins: StandIns) -> list[Run]:
    """Return rows with the runs whose moment has come in their places; none where no run is left.

    Args:
        rows: of a stack that has been released.
        stand_ins: those that leave are taken out.
    """
    left: list[Run] = []
    for run in rows:
        if run in stand_ins and _over(run, stand_ins[run]):
            run = stand_ins.pop(run).run
        if run and (run in stand_ins or not solo.ended(run)):
            left.append(run)
    if all(run in stand_ins for run in left) and not any(p.run for p in stand_ins.values()):
        return []
    _agree(left, stand_ins)
    return left


def _agree(rows: Sequence[Run], stand_ins: StandIns) -> None:
    """Give stand-ins what an optimizer remembers that all its rows share, as the count of steps."""
    real = {kind(run): run for run in rows if run not in stand_ins}
    for run in stand_ins:
        like = real.get(kind(run))
        if like is None or not shares([like]):
            continue
        pairs = zip(run.model.parameters(), like.model.parameters(), strict=True)
        for parameter, other in pairs:
            state = states(run.optimizer, parameter)[parameter]
            for name, value in states(like.optimizer, other).get(other, {}).items():
                if not by_weight(name, value, other):
                    state[name] = value.clone() if isinstance(value, torch.Tensor) else value
                elif name not in state:
                    state[name] = torch.zeros_like(parameter)
