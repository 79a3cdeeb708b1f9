"""The training loop: train_step, train_epoch, evaluate, fit. Plain PyTorch, options as calls."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from knobs import rng
from knobs.data import Batch, Data, Stream, Tensors
from knobs.data.dataset import Inputs, chunks, each
from knobs.errors import DataError
from knobs.losses import Loss, usual
from knobs.models.layers import ELEMENTWISE
from knobs.models.members import Members, at_blocks, mix_members, side_by_side, with_mean
from knobs.optimizers import training_mode
from knobs.regularization import PENALTIES, decayed, mixed, penalized
from knobs.training import metrics
from knobs.training.scores import Score, score
from knobs.training.sharing import sharing

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

    def __init__(self, step: int, member: int | None = None):
        whose = "" if member is None else f" of member {member}"
        super().__init__(f"the loss{whose} is not a finite number at step {step}")
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
    best: float | None = None
    best_epoch: int = 0
    stale: int = 0  # epochs since the objective last improved
    seconds: float = 0.0
    train_seconds: float = 0.0
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
    pruned: bool = False  # others of its sweep were better at this epoch

    def __post_init__(self) -> None:
        self.forward = self.forward or self.model
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
            for m in network.modules()
        )
        # bf16 arithmetic where asked; weights and the loss stay fp32.
        self.autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
        if self.training["precision"] == "bf16":
            self.autocast = partial(torch.autocast, self.device.type, torch.bfloat16)

    @property
    def seeds(self) -> list[int]:
        """Return what each member draws from; the first one from the run's own seed."""
        return [rng.member(self.seed, m) for m in range(len(self.networks))]

    @property
    def evaluated(self) -> nn.Module:
        """Return the model whose metrics count: the averaged one where there is an average."""
        return self.average.module if self.average else self.model

    @property
    def lr(self) -> float:
        """Return the learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]


def train_step(run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Update once from one batch; return the loss, a scalar still on the device, or [M].

    Args:
        weight: (N,) of the examples: the loss is sum(w l) / sum(w).

    A closure, because some optimizers (LBFGS) look at the loss more than once a step; every look
    draws the same dropout masks and mixtures.
    """
    progress, training = run.progress, run.training

    def closure() -> Tensor:
        if run.uses_rng:
            seed_noise(run)
        run.zero_grad()
        loss = backward(run, x, y, weight)
        for network in run.networks:
            if training["clip_norm"]:
                nn.utils.clip_grad_norm_(network.parameters(), training["clip_norm"])
            if training["clip_value"]:
                nn.utils.clip_grad_value_(network.parameters(), training["clip_value"])
        return loss

    loss = run.optimizer.step(closure)
    progress.step += 1
    if run.average:
        run.average.update_parameters(run.model)
    if run.interval == "step":
        run.scheduler.step()
    return loss


def seed_noise(run: Run) -> None:
    """Put what dropout and mixup draw from at the next step's moment."""
    moment = run.progress.epoch, run.progress.step
    if len(run.networks) == 1:
        rng.seed_global(rng.key(run.seed, "noise", *moment), run.device)
    else:
        run.model.seed([rng.key(seed, "noise", *moment) for seed in run.seeds])


def backward(run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Fill every .grad from one batch, in microbatches where asked; the loss, without its graph."""
    microbatches, dim = run.training["gradient_accumulation_steps"], run.batch_dim
    if microbatches == 1:
        loss = batch_loss(run, x, y, weight)
        loss.backward(each_alone(loss))
        return loss.detach()
    total, whole = 0.0, total_weight(run, y, weight)
    for part in chunks(Batch(x, y, weight), microbatches, dim):
        share = part.y.shape[dim] / y.shape[dim]
        part_whole = None if whole is None else whole * share
        loss = batch_loss(run, *part, part_whole) * share
        loss.backward(each_alone(loss))
        total = total + loss.detach()
    return total


def each_alone(loss: Tensor) -> Tensor | None:
    """Return what backward multiplies by: losses [M] add up, as their members share no weight."""
    return torch.ones_like(loss) if loss.ndim else None


def total_weight(run: Run, y: Tensor, weight: Tensor | None) -> Tensor | None:
    """Return the sum of the weights of a batch, see `Loss.total`; of several members [M]."""
    if len(run.networks) == 1:
        return run.loss.total(y, weight)
    rows = zip(y.unbind(0), [None] * len(y) if weight is None else weight.unbind(0), strict=True)
    totals = [run.loss.total(*row) for row in rows]
    return None if totals[0] is None else torch.stack(totals)


def batch_loss(
    run: Run, x: Inputs, y: Tensor, weight: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Return the loss of one batch, penalties included; of several members [M].

    Args:
        weight: (N,) of the examples.
        total: what divides the weighted sum, where this is a part of a larger batch.
    """
    alpha, smoothing = run.regularization["mixup"], run.regularization["label_smoothing"]
    several, mixing = len(run.networks) > 1, ()
    if alpha and several:
        x, mixing = mix_members(x, y, weight, alpha, run.model.streams)
    elif alpha:
        x, *mixing = mixed(x, y, weight, alpha, torch.default_generator)
    with run.autocast():
        outputs = run.forward(x)
    outputs = at_least_fp32(outputs)
    if not several:
        return loss_of_outputs(run, run.weights[0], outputs, y, weight, total, *mixing)
    # All at once where that has the bits of each alone; see losses.FUSED.
    plain = run.loss.fused and weight is None and y.ndim == 2
    scaled = run.training["gradient_accumulation_steps"] > 1
    if plain and not (alpha or smoothing or run.penalties or scaled):
        return run.loss.mean(outputs, y)
    none = [None] * len(y)
    members = zip(
        run.weights,
        outputs.unbind(0),
        y.unbind(0),
        none if weight is None else weight.unbind(0),
        none if total is None else total.unbind(0),
        mixing or [()] * len(y),
        strict=True,
    )
    return torch.stack([loss_of_outputs(run, *member, *mix) for *member, mix in members])


def loss_of_outputs(
    run: Run,
    parameters: list[Tensor],
    outputs: Tensor,
    y: Tensor,
    weight: Tensor | None,
    total: Tensor | None,
    partners: Tensor | None = None,
    others: Tensor | None = None,
    share: float = 1.0,
) -> Tensor:
    """Return the loss of one network's outputs, penalties included.

    Args:
        parameters: of the network, those that are penalized.
        weight, total: as of `batch_loss`.
        partners, others, share: of examples that are mixed, as `mixed` returns them.
    """
    smoothing = run.regularization["label_smoothing"]
    loss = run.loss.mean(outputs, y, smoothing, weight, total)
    if partners is not None:
        of_partners = run.loss.mean(outputs, partners, smoothing, others, total)
        loss = share * loss + (1 - share) * of_partners
    return penalized(loss, run.penalties, outputs, parameters)


def at_least_fp32(outputs: Tensor) -> Tensor:
    """bf16 outputs as fp32, in which a loss is exact enough; others as they are."""
    return outputs.float() if outputs.dtype is torch.bfloat16 else outputs


def epoch_order(run: Run, seed: int) -> list[Tensor]:
    """Return what is left of the epoch under way, a tensor of example indices a batch.

    Args:
        seed: the run's, or that of one of its members.
    """
    train, progress, size = run.data.train, run.progress, run.training["batch_size"]
    draws = rng.generator(seed, "order", progress.epoch)
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
    """Yield what is left of the epoch under way, in its own order, augmented.

    Of several members [M, N, ...], each in an order of its own.
    """
    if len(run.networks) > 1:
        for batch in member_batches([(run, seed) for seed in run.seeds], side_by_side):
            yield batch._replace(x=each(batch.x, at_blocks))
        return
    for batch in run.data.train.batches(epoch_order(run, run.seed)):
        yield batch._replace(x=augmented(run, batch.x, run.seed)) if run.data.augment else batch


def member_batches(
    rows: list[tuple[Run, int]], join: Callable[[list[Tensor]], Tensor] = torch.stack
) -> Iterator[Batch]:
    """Yield what is left of an epoch: each row's batch in its order, augmented, [K, N, ...].

    Args:
        rows: runs and seeds of theirs; the runs share their data and stand at one batch.
        join: of the rows' augmented images.
    """
    data = rows[0][0].data
    orders: dict[tuple, list[Tensor]] = {}  # rows of one seed see one order
    moments = [(seed, run.progress.epoch, sampler(run)) for run, seed in rows]
    for (run, seed), moment in zip(rows, moments, strict=True):
        if moment not in orders:
            orders[moment] = epoch_order(run, seed)
    indices = [torch.cat(batch) for batch in zip(*(orders[m] for m in moments), strict=True)]

    def by_row(values: Tensor) -> Tensor:
        return values.unflatten(0, (len(rows), -1))

    for x, y, weight in data.train.batches(indices):
        x = each(x, by_row)
        if data.augment:
            x = join([augmented(run, x[k], seed) for k, (run, seed) in enumerate(rows)])
        yield Batch(x, by_row(y), None if weight is None else by_row(weight))


def augmented(run: Run, x: Tensor, seed: int) -> Tensor:
    """Return a batch with the shifts and mirrors that a seed draws for the run's next step."""
    progress = run.progress
    return run.data.augment(x, rng.generator(seed, "augment", progress.epoch, progress.step))


@contextlib.contextmanager
def together(run: Run) -> Iterator[None]:
    """Let the members of a run share a step's computations; see `sharing`."""
    if len(run.networks) == 1:
        yield
        return
    # A weight's gradient is a sum of so many terms; of three and more the order matters.
    terms = (1 + len(run.penalties)) * run.training["gradient_accumulation_steps"]
    in_turn = run.training["precision"] == "bf16" or (run.penalties and terms > 2)
    with sharing(run.model, run.optimizer, in_turn, terms > 1) as shared:
        run.forward, run.zero_grad = shared
        try:
            yield
        finally:
            run.forward, run.zero_grad = run.model, run.optimizer.zero_grad


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
        with together(run):
            for batch in epoch_batches(run):
                losses.append(train_step(run, *batch))
                sizes.append(batch.y.shape[run.batch_dim])
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
    return {"lr": run.lr, "train/loss": train_loss(run)}


def train_loss(run: Run) -> float:
    """Return the mean loss of the epoch so far; of several members the mean over them."""
    progress = run.progress
    return progress.loss_sum / max(1, progress.examples) / len(run.networks)


def add_losses(progress: Progress, losses: list, sizes: list[int]) -> None:
    """Add the mean losses of the last steps, and how many examples each had, to an epoch's sums.

    Args:
        losses: a number a step; of several members a list a step, whose sum is added: a mean
            would round, and the order of sums then matter to a resume.

    Raises:
        Diverged: naming the first step whose loss is not finite.
    """
    for i, loss in enumerate(losses):
        several = isinstance(loss, list)
        for m, value in enumerate(loss if several else [loss]):
            if not math.isfinite(value):
                raise Diverged(progress.step - len(losses) + i + 1, m if several else None)
    if losses and isinstance(losses[0], list):
        losses = [sum(loss) for loss in losses]
    progress.loss_sum += sum(loss * n for loss, n in zip(losses, sizes, strict=True))
    progress.examples += sum(sizes)


@torch.no_grad()
def evaluate(run: Run, split: Tensors | Stream, name: str) -> dict[str, float]:
    """Return the metrics of one split, as `name/metric`; of members, their mean prediction's."""
    model, count = run.evaluated.eval(), len(run.networks)
    outputs, targets, weights = [], [], []
    for x, y, weight in split.in_order(EVAL_BATCH):
        if count > 1:
            x = each(x, lambda values: values.expand(count, *values.shape))
        with run.autocast():
            outputs.append(at_least_fp32(model(x)))
        targets.append(y)
        weights.append(weight)
    data, whole, truth = run.data, torch.cat(outputs, run.batch_dim), torch.cat(targets)
    weight = None if weights[0] is None else torch.cat(weights)
    std = data.target_std.to(whole)
    if count == 1:
        stacked = whole.unsqueeze(0)
    else:
        stacked = with_mean(data.task, whole, run.loss.log_rates)
    rows = metrics.evaluation(data.task, stacked, truth, std, run.loss, weight)
    values = judged(run, rows, stacked.unbind(0), truth)
    return {f"{name}/{metric}": value for metric, value in values.items()}


def judged(
    run: Run, rows: list[dict], outputs: Sequence[Tensor], truth: Tensor
) -> dict[str, float]:
    """Return the metrics of a run, with those that its config asks for; keep its members' own.

    Args:
        rows: the usual metrics; where there are several members, of each and then of their mean.
        outputs: (N, C) of each of the same.
        truth: (N,) or (N, T) targets.
    """
    *run.member_metrics, values = rows
    run.outputs = outputs[-1]
    metric = objective_name(run)  # the one score that is computed of each member as well
    watched = {metric: run.scores[metric]} if metric in run.scores else {}
    for row, member in zip(run.member_metrics, outputs[:-1], strict=True):
        row |= score(watched, member, truth)
    return values | score(run.scores, outputs[-1], truth)


def half(outputs: Tensor) -> Tensor:
    """Return outputs as float16, the largest of which stands for what is larger."""
    largest = torch.finfo(torch.float16).max
    return outputs.clamp(-largest, largest).half()


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
    for m, (value, row) in enumerate(zip(member_values(run), run.member_metrics, strict=True)):
        check_objective(run, value, row["loss"], m)
    check_objective(run, values[metric], values.get("val/loss", math.nan))
    keep_best(run, values)
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(values[run.monitor])
    elif run.interval == "epoch":
        run.scheduler.step()
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.examples = 0, 0.0, 0
    return {"epoch": progress.epoch, "step": progress.step} | values


def check_objective(run: Run, value: float, loss: float, member: int | None = None) -> None:
    """Raise Diverged or DataError, as `end_epoch` has them, unless the value is finite."""
    progress = run.progress
    if math.isnan(value) and math.isfinite(loss):
        whose = "" if member is None else f" of member {member}"
        raise DataError(
            f"objective.metric={run.objective['metric']}: not a number after epoch "
            f"{progress.epoch + 1}{whose}, though val/loss is: the metric has no value on this "
            "validation split; choose another"
        )
    if not math.isfinite(value):
        raise Diverged(progress.step, member)


def objective_name(run: Run) -> str:
    """Return the objective's metric without the split."""
    return run.objective["metric"].partition("/")[2]


def member_values(run: Run) -> list[float]:
    """Return each member's own value of the objective; none where there is one network."""
    return [row[objective_name(run)] for row in run.member_metrics]


def keep_best(run: Run, values: dict[str, float]) -> None:
    """Copy the weights when the objective improved by at least min_delta."""
    progress, value = run.progress, values[run.objective["metric"]]
    sign = 1 if run.objective["mode"] == "max" else -1
    least = run.training["early_stopping"]["min_delta"]
    if progress.best is not None and not sign * (value - progress.best) > least:
        progress.stale += 1
        return
    progress.best, progress.best_epoch, progress.stale = value, progress.epoch + 1, 0
    progress.best_metrics, run.best_members = values, member_values(run)
    run.best_weights = {k: v.detach().clone() for k, v in run.evaluated.state_dict().items()}
    run.best_outputs = None if run.outputs is None else half(run.outputs)
