"""The training loop: train_step, train_epoch, evaluate, fit. Plain PyTorch, options as calls."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from knobs import rng
from knobs.data import Batch, Stream, Tensors
from knobs.data.dataset import Inputs, chunks, each
from knobs.errors import making
from knobs.models import frozen
from knobs.models.members import mix_members, with_mean
from knobs.optimizers import training_mode
from knobs.regularization import decayed, mixed, penalized
from knobs.training import finite, metrics, parallel
from knobs.training.batches import epoch_batches
from knobs.training.scores import score
from knobs.training.sharing import sharing
from knobs.training.state import Diverged, Interrupted, Progress, Run

SMALLER = "a smaller training.batch_size, or training.gradient_accumulation_steps=2, may fit"
EVAL_BATCH = 1024  # examples a forward pass when evaluating; no result depends on it
# Steps between looks at the losses, the gradient and the weights; each look waits for the device.
CHECK_EVERY = 200


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
        progress.lr = run.lr
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
        loss = loss.detach()
        return loss if parallel.size() == 1 else parallel.reduced(run, loss)
    total, whole = 0.0, total_weight(run, y, weight)
    for part in chunks(Batch(x, y, weight), microbatches, dim):
        share = part.y.shape[dim] / y.shape[dim]
        part_whole = None if whole is None else whole * share
        loss = batch_loss(run, *part, part_whole) * share
        loss.backward(each_alone(loss))
        total = total + loss.detach()
    return total if parallel.size() == 1 else parallel.reduced(run, total)


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
    alpha, mixing = run.regularization["mixup"], ()
    if alpha and len(run.networks) > 1:
        x, mixing = mix_members(x, y, weight, alpha, run.model.streams)
    elif alpha:
        x, *mixing = mixed(x, y, weight, alpha, torch.default_generator)
    if parallel.size() == 1:
        return forward_loss(run, x, y, weight, total, mixing)
    total = total_weight(run, y, weight) if total is None else total
    return parallel.part_of_loss(run, forward_loss, Batch(x, y, weight), total, mixing)


def forward_loss(
    run: Run, x: Inputs, y: Tensor, weight: Tensor | None, total: Tensor | None, mixing: Sequence
) -> Tensor:
    """Return the loss of inputs that are mixed already, as `mixing` says; else as `batch_loss`."""
    with run.autocast():
        outputs = run.forward(x)
    outputs = at_least_fp32(outputs)
    if len(run.networks) == 1:
        return loss_of_outputs(run, run.weights[0], outputs, y, weight, total, *mixing)
    # All at once where that has the bits of each alone; see losses.FUSED.
    plain = run.loss.fused and weight is None and y.ndim == 2 and not mixing
    scaled = run.training["gradient_accumulation_steps"] > 1
    if plain and not (run.regularization["label_smoothing"] or run.penalties or scaled):
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


@contextlib.contextmanager
def together(run: Run) -> Iterator[None]:
    """Let the members of a run share a step's computations; see `sharing`."""
    if len(run.networks) == 1 or parallel.size() > 1:
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


def train_epoch(
    run: Run, watch: Callable[[Run], None], save: Callable[[Run], None] = lambda run: None
) -> dict[str, float]:
    """Train for what is left of an epoch; return its mean loss, and the rate of its last step.

    Args:
        watch: called after every step.
        save: called between two steps where `watch` has requested it.

    Raises:
        Diverged: naming the step. Interrupted: between two steps, with `progress` up to date.
    """
    progress = run.progress
    if frozen.train(run.model, progress.epoch):
        run.weights = [decayed(network) for network in run.networks]
    training_mode(run.optimizer, True)
    began, batches = time.perf_counter(), epoch_batches(run)

    def clock() -> None:
        nonlocal began
        now = time.perf_counter()
        progress.train_seconds += now - began
        progress.seconds += now - began
        began = now

    try:
        while _train_on(run, batches, watch):
            clock()
            save(run)
            began = time.perf_counter()
    finally:
        clock()
    return {"lr": run.last_lr, "train/loss": train_loss(run)}


def _train_on(run: Run, batches: Iterator[Batch], watch: Callable[[Run], None]) -> bool:
    """Train until the epoch ends or a checkpoint is to be saved; return whether one is."""
    progress = run.progress
    losses: list[Tensor] = []
    sizes: list[int] = []

    def look() -> None:
        """Read the losses so far: one wait for the device, not one a step."""
        note_losses(progress, torch.stack(losses).tolist() if losses else [], sizes)
        losses.clear()
        sizes.clear()

    with together(run):
        for batch in batches:
            losses.append(train_step(run, *batch))
            sizes.append(batch.y.shape[run.batch_dim])
            progress.batch += 1
            if progress.batch % CHECK_EVERY == 0:
                look()
                add_losses(progress)
                finite.check(run)
            watch(run)
            if parallel.stops(run):
                look()
                finite.check(run)
                raise Interrupted
            if run.save_requested:
                run.save_requested = False
                look()
                # Never a checkpoint of what is broken; the next regular look ends the run, at a
                # step that does not depend on the clock.
                if not finite.fault(run):
                    return True
        look()
        add_losses(progress)
        finite.check(run)
    return False


def train_loss(run: Run) -> float:
    """Return the mean loss of the epoch so far; of several members the mean over them."""
    progress = run.progress
    return progress.loss_sum / max(1, progress.examples) / len(run.networks)


def note_losses(progress: Progress, losses: list, sizes: list[int]) -> None:
    """Note the mean losses of the last steps, and how many examples each had, as pending.

    Args:
        losses: a number a step; of several members a list a step.

    Raises:
        Diverged: naming the first step whose loss is not finite.
    """
    for i, loss in enumerate(losses):
        several = isinstance(loss, list)
        for m, value in enumerate(loss if several else [loss]):
            if not math.isfinite(value):
                raise Diverged(progress.step - len(losses) + i + 1, m if several else None)
    progress.pending += map(list, zip(losses, sizes, strict=True))


def add_losses(progress: Progress) -> None:
    """Add the pending losses to an epoch's sums.

    Of several members their sum is added: a mean would round, and the order of sums then matter to
    a resume.
    """
    pending, progress.pending = progress.pending, []
    if pending and isinstance(pending[0][0], list):
        pending = [(sum(loss), n) for loss, n in pending]
    progress.loss_sum += sum(loss * n for loss, n in pending)
    progress.examples += sum(n for _, n in pending)


@torch.no_grad()
def evaluate(run: Run, split: Tensors | Stream, name: str) -> dict[str, float]:
    """Return the metrics of one split, as `name/metric`; of members, their mean prediction's."""
    what = f"the outputs on {len(split):,} rows, {EVAL_BATCH:,} at a time"
    with making(what, "a smaller model, or fewer validation rows (data.val), may fit"):
        return _evaluated(run, split, name)


def _evaluated(run: Run, split: Tensors | Stream, name: str) -> dict[str, float]:
    model, count = run.live(run.evaluated.eval()), len(run.networks)
    outputs = []
    for x, _, _ in parallel.in_order(split, EVAL_BATCH):
        if count > 1:
            x = each(x, lambda values: values.expand(count, *values.shape))
        with run.autocast():
            outputs.append(at_least_fp32(model(x)))
    whole, data = parallel.whole_outputs(run, split, EVAL_BATCH, outputs), run.data
    truth = split.y.to(whole.device)
    weight = None if split.weight is None else split.weight.to(whole.device)
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


def fit(
    run: Run,
    watch: Callable[[Run], None] = lambda run: None,
    save: Callable[[Run], None] = lambda run: None,
) -> Iterator[dict[str, float]]:
    """Train until the run has ended (see `ended`); yield each epoch's row of the record.

    Args:
        watch: called after every step; it may request a stop, or that the run is saved.
        save: called between two steps, when that is requested.

    Raises:
        Diverged: naming the step. Interrupted: between two steps.
    """
    while not ended(run):
        if parallel.stops(run):  # before the first step
            raise Interrupted
        with making(f"a step of {run.training['batch_size']:,} examples", SMALLER):
            values = train_epoch(run, watch, save)
        if parallel.size() > 1:
            parallel.compare(run)
        began = time.perf_counter()
        training_mode(run.optimizer, False)
        if not run.refit:
            values |= evaluate(run, run.data.val, "val")
        row = end_epoch(run, values)
        training_mode(run.optimizer, True)
        run.progress.seconds += time.perf_counter() - began
        yield row


def ended(run: Run) -> str | None:
    """Return finished, pruned or stopped_early; None if another epoch is due."""
    progress, training = run.progress, run.training
    if progress.epoch >= (run.refit or training["epochs"]):
        return "finished"
    if run.pruned:
        return "pruned"
    patience = training["early_stopping"]["patience"]
    return "stopped_early" if patience and progress.stale >= patience else None


def end_epoch(run: Run, values: dict[str, float]) -> dict[str, float]:
    """Judge an epoch by its metrics, move on to the next; the epoch's row of the record.

    Raises:
        Diverged, DataError: as `finite.check_metrics` has them.
    """
    progress = run.progress
    if run.refit:  # nothing is left to judge it by
        if progress.epoch + 1 == run.refit:
            keep_weights(run)
    else:
        for m, row in enumerate(run.member_metrics):
            finite.check_metrics(run, row, m)
        finite.check_metrics(run, values, split="val/")
        keep_best(run, values)
    if isinstance(run.scheduler, ReduceLROnPlateau):
        run.scheduler.step(values[run.monitor])
    elif run.interval == "epoch":
        run.scheduler.step()
    progress.epoch += 1
    progress.batch, progress.loss_sum, progress.examples, progress.pending = 0, 0.0, 0, []
    return {"epoch": progress.epoch, "step": progress.step} | values


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
    progress.best, progress.stale = value, 0
    progress.best_metrics, run.best_members = values, member_values(run)
    run.best_outputs = None if run.outputs is None else half(run.outputs)
    keep_weights(run)


def keep_weights(run: Run) -> None:
    """Copy the weights of the epoch that ends; they are the best so far."""
    run.progress.best_epoch = run.progress.epoch + 1
    fixed = run.cut.backbone.values if run.cut else {}  # which no step changes
    state = run.evaluated.state_dict()
    run.best_weights = {k: fixed[k] if k in fixed else v.detach().clone() for k, v in state.items()}
