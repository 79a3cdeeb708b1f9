"""A run as the loops see it: one config built, and where it stands."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from knobs import rng
from knobs.data import Data
from knobs.losses import Loss, usual
from knobs.models.layers import ELEMENTWISE
from knobs.models.members import Members
from knobs.regularization import PENALTIES, decayed
from knobs.training.scores import Score

# Modules that never draw a random number. A model made of these alone needs no seed at each step,
# which a small step would feel (15 us of 750); a model with any other module gets one.
DRAWLESS = (
    *(nn.Sequential, nn.Flatten, nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.PReLU),
    *ELEMENTWISE,
)


Autocast = Callable[[], contextlib.AbstractContextManager]


def autocast(training: dict, device: torch.device) -> Autocast:
    """Return what enters bf16 arithmetic where it is asked for; weights and the loss stay fp32."""
    if training["precision"] == "bf16":
        return partial(torch.autocast, device.type, torch.bfloat16)
    return contextlib.nullcontext


class Diverged(Exception):
    """Something of a run is no longer a finite number.

    Args:
        step: the first one where it is seen.
        what: the loss, the gradient, the weights or a metric.
    """

    def __init__(self, step: int, member: int | None = None, what: str = "the loss"):
        whose = "" if member is None else f" of member {member}"
        super().__init__(f"{what}{whose} is not a finite number at step {step}")
        self.step = step


class Interrupted(Exception):
    """Someone asked the run to stop; it stands between two steps and can go on from there."""


@dataclass
class Progress:
    """Where a run stands. With the weights and the optimizer's state, all a resume needs."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done in the epoch under way
    step: int = 0  # optimizer updates
    loss_sum: float = 0.0  # over the examples of the epoch under way, and the members
    examples: int = 0
    # Losses that are not in these sums yet, each with its examples: sums of so many at a time
    # round alike wherever an epoch is interrupted.
    pending: list[list] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0  # epochs since the objective last improved
    seconds: float = 0.0
    train_seconds: float = 0.0
    lr: float | None = None  # of the last step, where the schedule has moved on since
    best_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """One config built: everything `fit` needs, and nothing that fits only one kind of run.

    A run of M > 1 members trains M networks of its config, each on batches and draws of its own; a
    batch then is [M, N, ...] and its loss [M]. What is judged is their mean prediction.

    Args:
        model: the network; of several members `Members`.
        training, regularization: the config's sections.
        objective: metric and mode of the one number that picks the best epoch.
        interval: whether the schedule moves per epoch or per optimizer step.
        monitor: the metric that a plateau schedule watches.
        average: the running average of the weights, which then is what is evaluated.
        loss: what is minimized; the usual one of the task if None.
        scores: metrics beside the usual ones, by name.
    """

    model: nn.Module
    data: Data
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    training: dict
    regularization: dict
    objective: dict
    device: torch.device
    seed: int = 0
    interval: str = "epoch"
    monitor: str | None = None
    average: AveragedModel | None = None
    forward: Callable[[Tensor], Tensor] | None = None  # the model, compiled where asked
    loss: Loss | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    best_members: list[float] = field(default_factory=list)  # their objectives at the best epoch
    best_outputs: Tensor | None = None  # (N, C) float16 on the validation split, by best_weights
    stop_requested: bool = False
    stopping: bool = False  # so do all processes that train it, at this step: see parallel.py
    save_requested: bool = False  # between two steps
    pruned: bool = False  # others of its sweep were better at this epoch
    refit: int | None = None  # the epochs of a run that trains on the validation rows as well
    rebuilt: bool = False  # it goes on for more or fewer epochs, and its schedule with it
    cut: Any = None  # a cuts.Cut, behind which it computes: `data` then has features
    features: str = ""  # how they were had, or why there are none; of a frozen network

    def __post_init__(self) -> None:
        self.forward = self.forward or self.live(self.model)
        self.loss = self.loss or usual(self.data.task)
        several = isinstance(self.model, Members)
        self.networks = list(self.model.members) if several else [self.model]
        self.batch_dim = 1 if several else 0  # of a batch's tensors: the one that counts examples
        self.weights = [decayed(network) for network in self.networks]
        self.zero_grad = self.optimizer.zero_grad
        self.member_metrics: list[dict[str, float]] = []  # of the last evaluation
        self.outputs: Tensor | None = None  # (N, C), of the last evaluation
        self.penalties = {name: c for name in PENALTIES if (c := self.regularization[name])}
        # The exact types: a subclass may do anything. Dropout at 0 draws nothing either.
        self.uses_rng = bool(self.regularization["mixup"]) or any(
            type(m) not in DRAWLESS and not (isinstance(m, nn.Dropout) and m.p == 0)
            for network in self.networks
            for m in self.live(network).modules()
        )
        self.autocast = autocast(self.training, self.device)

    @property
    def seeds(self) -> list[int]:
        """Return what each member draws from; the first one from the run's own seed."""
        return [rng.member(self.seed, m) for m in range(len(self.networks))]

    def live(self, network: nn.Module) -> nn.Module:
        """Return the part of a network that computes on the run's data; see features.py."""
        return self.cut.live(network) if self.cut else network

    @property
    def evaluated(self) -> nn.Module:
        """Return the model whose metrics count: the averaged one where there is an average."""
        return self.average.module if self.average else self.model

    @property
    def lr(self) -> float:
        """Return the learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def last_lr(self) -> float:
        """Return the learning rate of the last step; asked before an epoch's schedule moves on."""
        moved = self.interval == "step" and self.progress.lr is not None
        return self.progress.lr if moved else self.lr
