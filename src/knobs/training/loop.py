"""The training loop: train_step, train_epoch, evaluate, fit. Plain PyTorch, options as calls."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from knobs import rng
from knobs.data import Batch, Data, Stream, Tensors
from knobs.data.dataset import Inputs, chunks
from knobs.errors import DataError
from knobs.losses import Loss, usual
from knobs.models.layers import ELEMENTWISE
from knobs.optimizers import training_mode
from knobs.regularization import PENALTIES, decayed, mixup, penalized
from knobs.training import metrics
from knobs.training.scores import Score, score

EVAL_BATCH = 1024  # examples a forward pass when evaluating; no result depends on it
CHECK_EVERY = 200  # steps between looks at the loss; each look waits for the device
# Modules that never draw a random number. A model made of these alone needs no seed at each step,
# which a small step would feel (15 us of 750); a model with any other module gets one.
DRAWLESS = (
    *(nn.Sequential, nn.Flatten, nn.Linear, nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.PReLU),
    *ELEMENTWISE,
)


class Diverged(Exception):
    """The loss, or the objective, is no longer a finite number."""

    def __init__(self, step: int):
        super().__init__(f"the loss is not a finite number at step {step}")
        self.step = step


class Interrupted(Exception):
    """Someone asked the run to stop; it stands between two steps and can go on from there."""


@dataclass
class Progress:
    """Where a run stands. With the weights and the optimizer's state, all a resume needs."""

    epoch: int = 0  # epochs completed
    batch: int = 0  # batches done in the epoch under way
    step: int = 0  # optimizer updates
    loss_sum: float = 0.0  # over the examples of the epoch under way
    examples: int = 0
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0  # epochs since the objective last improved
    seconds: float = 0.0
    train_seconds: float = 0.0
    best_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """One config built: everything `fit` needs, and nothing that fits only one kind of run.

    Args:
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
    stop_requested: bool = False
    pruned: bool = False  # others of its sweep were better at this epoch

    def __post_init__(self) -> None:
        self.forward = self.forward or self.model
        self.loss = self.loss or usual(self.data.task)
        self.weights = decayed(self.model)
        self.penalties = {name: c for name in PENALTIES if (c := self.regularization[name])}
        # The exact types: a subclass may do anything. Dropout at 0 draws nothing either.
        self.uses_rng = bool(self.regularization["mixup"]) or any(
            type(m) not in DRAWLESS and not (isinstance(m, nn.Dropout) and m.p == 0)
            for m in self.model.modules()
        )
        # bf16 arithmetic where asked; weights and the loss stay fp32.
        self.autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        if self.training["precision"] == "bf16":
            self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16)

    @property
    def evaluated(self) -> nn.Module:
        """Return the model whose metrics count: the averaged one where there is an average."""
        return self.average.module if self.average else self.model

    @property
    def lr(self) -> float:
        """Return the learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]


def train_step(run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Update once from one batch; return the loss, a scalar still on the device.

    Args:
        weight: (N,) of the examples: the loss is sum(w l) / sum(w).

    A closure, because some optimizers (LBFGS) look at the loss more than once a step; every look
    draws the same dropout masks and mixtures.
    """
    progress, training = run.progress, run.training

    def closure() -> Tensor:
        if run.uses_rng:
            rng.seed_global(rng.key(run.seed, "noise", progress.epoch, progress.step), run.device)
        run.optimizer.zero_grad()
        loss = backward(run, x, y, weight)
        if training["clip_norm"]:
            nn.utils.clip_grad_norm_(run.model.parameters(), training["clip_norm"])
        if training["clip_value"]:
            nn.utils.clip_grad_value_(run.model.parameters(), training["clip_value"])
        return loss

    loss = run.optimizer.step(closure)
    progress.step += 1
    if run.average:
        run.average.update_parameters(run.model)
    if run.interval == "step":
        run.scheduler.step()
    return loss


def backward(run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Fill every .grad from one batch, in microbatches where asked; the loss, without its graph."""
    microbatches = run.training["gradient_accumulation_steps"]
    if microbatches == 1:
        loss = batch_loss(run, x, y, weight)
        loss.backward()
        return loss.detach()
    total, whole = 0.0, run.loss.total(y, weight)
    for part in chunks(Batch(x, y, weight), microbatches):
        share = len(part.y) / len(y)
        part_whole = None if whole is None else whole * share
        loss = batch_loss(run, *part, part_whole) * share
        loss.backward()
        total = total + loss.detach()
    return total


def batch_loss(
    run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Return the loss of one batch, penalties included.

    Args:
        weight: (N,) of the examples.
        total: what divides the weighted sum, where this is a part of a larger batch.
    """
    alpha, smoothing = run.regularization["mixup"], run.regularization["label_smoothing"]
    if alpha:
        x, partners, others, share = mixed(x, y, weight, alpha, torch.default_generator)
    with run.autocast():
        outputs = run.forward(x)
    outputs = at_least_fp32(outputs)
    loss = run.loss.mean(outputs, y, smoothing, weight, total)
    if alpha:
        of_partners = run.loss.mean(outputs, partners, smoothing, others, total)
        loss = share * loss + (1 - share) * of_partners
    return penalized(loss, run.penalties, outputs, run.weights)


def mixed(
    x: Tensor, y: Tensor, weight: Tensor | None, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None, float]:
    """Return mixed inputs, the partners' targets and weights, and the share of their own."""
    if weight is None:
        x, partners, share = mixup(x, y, alpha, generator)
        return x, partners, None, share
    rows = torch.arange(len(y), device=y.device)
    x, partner, share = mixup(x, rows, alpha, generator)
    return x, y[partner], weight[partner], share


def at_least_fp32(outputs: Tensor) -> Tensor:
    """bf16 outputs as fp32, in which a loss is exact enough; others as they are."""
    return outputs.float() if outputs.dtype is torch.bfloat16 else outputs


def epoch_order(run: Run) -> list[Tensor]:
    """Return what is left of the epoch under way, a tensor of example indices a batch."""
    train, progress, size = run.data.train, run.progress, run.training["batch_size"]
    draws = rng.generator(run.seed, "order", progress.epoch)
    if sampler(run) == "balanced":
        order = balanced(train.y.cpu(), draws)
    else:
        order = torch.randperm(len(train), generator=draws)
    batches = order.to(train.y.device).split(size)
    if run.training["drop_last"]:
        batches = batches[: len(order) // size]
    return list(batches[progress.batch :])


def sampler(run: Run) -> str:
    """Return how the run draws an epoch's examples."""
    return run.training.get("sampler", "shuffle")  # a recorded config may be older than the key


def balanced(y: Tensor, generator: torch.Generator) -> Tensor:
    """Draw len(y) indices with replacement: a class that occurs, each as likely, then one of it.

    Args:
        y: (N,) class numbers.
    """
    counts = y.bincount()
    present, by_class, starts = (
        counts.nonzero().squeeze(1),
        y.argsort(stable=True),
        counts.cumsum(0),
    )
    drawn = present[torch.randint(len(present), y.shape, generator=generator)]
    place = torch.rand(y.shape, generator=generator, dtype=torch.float64) * counts[drawn]
    return by_class[(starts - counts)[drawn] + place.long()]


def epoch_batches(run: Run) -> Iterator[Batch]:
    """Yield what is left of the epoch under way, in its own order, augmented."""
    for batch in run.data.train.batches(epoch_order(run)):
        yield batch._replace(x=augmented(run, batch.x)) if run.data.augment else batch


def augmented(run: Run, x: Tensor) -> Tensor:
    """Return a batch with the shifts and mirrors that the run draws for its next step."""
    progress = run.progress
    return run.data.augment(x, rng.generator(run.seed, "augment", progress.epoch, progress.step))


def train_epoch(run: Run, watch: Callable[[Run], None]) -> dict[str, float]:
    """Train for what is left of an epoch; return its mean loss, and the rate at its end.

    Raises:
        Diverged: naming the step. Interrupted: between two steps, with `progress` up to date.
    """
    progress = run.progress
    run.model.train()
    training_mode(run.optimizer, True)
    began = time.perf_counter()
    losses: list[Tensor] = []
    sizes: list[int] = []

    def look() -> None:
        """Add up the losses so far: one wait for the device, not one a step."""
        add_losses(progress, torch.stack(losses).tolist() if losses else [], sizes)
        losses.clear()
        sizes.clear()

    try:
        for batch in epoch_batches(run):
            losses.append(train_step(run, *batch))
            sizes.append(len(batch.y))
            progress.batch += 1
            if len(losses) == CHECK_EVERY:
                look()
            watch(run)
            if run.stop_requested:
                look()
                raise Interrupted
        look()
    finally:
        progress.train_seconds += time.perf_counter() - began
    return {"lr": run.lr, "train/loss": progress.loss_sum / max(1, progress.examples)}


def add_losses(progress: Progress, losses: list[float], sizes: list[int]) -> None:
    """Add the mean losses of the last steps, and how many examples each had, to an epoch's sums.

    Raises:
        Diverged: naming the first step whose loss is not finite.
    """
    for i, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise Diverged(progress.step - len(losses) + i + 1)
    progress.loss_sum += sum(loss * n for loss, n in zip(losses, sizes, strict=True))
    progress.examples += sum(sizes)


@torch.no_grad()
def evaluate(run: Run, split: Tensors | Stream, name: str) -> dict[str, float]:
    """Return the metrics of one split, as `name/metric`."""
    model = run.evaluated.eval()
    outputs, targets, weights = [], [], []
    for batch in split.in_order(EVAL_BATCH):
        with run.autocast():
            outputs.append(at_least_fp32(model(batch.x)))
        targets.append(batch.y)
        weights.append(batch.weight)
    data, stacked, truth = run.data, torch.cat(outputs).unsqueeze(0), torch.cat(targets)
    weight = None if weights[0] is None else torch.cat(weights)
    std = data.target_std.to(stacked)
    values = metrics.evaluation(data.task, stacked, truth, std, run.loss, weight)[0]
    values |= score(run.scores, stacked[0], truth)
    return {f"{name}/{metric}": value for metric, value in values.items()}


def fit(run: Run, watch: Callable[[Run], None] = lambda run: None) -> Iterator[dict[str, float]]:
    """Train until the run has ended (see `ended`); yield each epoch's row of the record.

    Args:
        watch: called after every step.

    Raises:
        Diverged: naming the step. Interrupted: between two steps.
    """
    while not ended(run):
        began = time.perf_counter()
        values = train_epoch(run, watch)
        training_mode(run.optimizer, False)
        values |= evaluate(run, run.data.val, "val")
        row = end_epoch(run, values)
        training_mode(run.optimizer, True)
        run.progress.seconds += time.perf_counter() - began
        yield row


def ended(run: Run) -> str | None:
    """Return finished, pruned or stopped_early; None if another epoch is due."""
    progress, training = run.progress, run.training
    if progress.epoch >= training["epochs"]:
        return "finished"
    if run.pruned:
        return "pruned"
    patience = training["early_stopping"]["patience"]
    return "stopped_early" if patience and progress.stale >= patience else None


def end_epoch(run: Run, values: dict[str, float]) -> dict[str, float]:
    """Judge an epoch by its metrics, move on to the next; the epoch's row of the record.

    Raises:
        Diverged: the objective is not a finite number. DataError: it is NaN though the loss is
            finite: then the metric, not the model, has no value.
    """
    progress, metric = run.progress, run.objective["metric"]
    if math.isnan(values[metric]) and math.isfinite(values.get("val/loss", math.nan)):
        raise DataError(
            f"objective.metric={metric}: not a number after epoch {progress.epoch + 1}, though "
            "val/loss is: the metric has no value on this validation split; choose another"
        )
    if not math.isfinite(values[metric]):
        raise Diverged(progress.step)
    keep_best(run, values)
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(values[run.monitor])
    elif run.interval == "epoch":
        run.scheduler.step()
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.examples = 0, 0.0, 0
    return {"epoch": progress.epoch, "step": progress.step} | values


def keep_best(run: Run, values: dict[str, float]) -> None:
    """Copy the weights when the objective improved by at least min_delta."""
    progress, value = run.progress, values[run.objective["metric"]]
    sign = 1 if run.objective["mode"] == "max" else -1
    least = run.training["early_stopping"]["min_delta"]
    if progress.best is not None and not sign * (value - progress.best) > least:
        progress.stale += 1
        return
    progress.best, progress.best_epoch, progress.stale = value, progress.epoch + 1, 0
    progress.best_metrics = values
    run.best_weights = {k: v.detach().clone() for k, v in run.evaluated.state_dict().items()}
