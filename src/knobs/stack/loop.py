"""K runs of one shape trained as one batched computation, each as if it were alone.

The counterpart of training/loop.py, function by function: what differs is that a batch is
[K, N, ...], a loss [K], and that a run may leave while others go on.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from knobs import rng
from knobs.data import Batch
from knobs.data.dataset import Inputs, chunks
from knobs.errors import MemoryShortage, for_a_person
from knobs.models.frozen import still
from knobs.models.members import with_mean
from knobs.optimizers import training_mode
from knobs.regularization import PENALTIES, mixed, penalized
from knobs.signals import exits
from knobs.stack.averages import Averages
from knobs.stack.layers import Stacked
from knobs.stack.noise import Noise, per_row
from knobs.stack.optimizers import Each, Slice, in_slices, kind, shares
from knobs.stack.proof import form_of
from knobs.stack.sets import Sets, sets_of
from knobs.stack.stand_ins import StandIns, due, pass_epoch, relieved, until
from knobs.training import finite, metrics
from knobs.training import loop as solo
from knobs.training.batches import member_batches
from knobs.training.loop import CHECK_EVERY
from knobs.training.state import Diverged, Interrupted, Run

Ending = tuple[str, Exception | None]  # a run's status, and what failed it, if something did
EVAL_NUMBERS = 2**14  # examples times rows of a forward pass when evaluating


class Stack:
    """Runs that share architecture, batch size, data, loss and precision, at one batch.

    Their data may differ in the split: see sets.py.

    Building it makes each run's weights views of the stack's; `release` makes each a whole Run
    again, ready to be saved, to go on alone, or to enter another stack. Every member of a run is a
    row; `owners` are the rows' runs.

    Args:
        runs: assembled; anything that no shared computation depends on may differ between them.
        before: sets of data that are side by side already, of a stack that some of them were in.
    """

    def __init__(self, runs: Sequence[Run], before: Sets | None = None):
        self.runs = in_slices(runs)
        first = self.runs[0]
        assert len({run.progress.batch for run in runs}) == 1, "rows stand at one batch"
        self.device, self.training, self.autocast = first.device, first.training, first.autocast
        # What code of a run's own raised within the epoch: it fails that run, at the epoch's end.
        self.faults: dict[Run, Exception] = {}
        self.loss = dataclasses.replace(first.loss, faults={}) if first.loss.by_row else first.loss
        self.members = len(first.networks)
        assert {len(run.networks) for run in runs} == {self.members}, "runs have as many members"
        self.owners = [run for run in self.runs for _ in run.networks]
        self.seeds = [seed for run in self.runs for seed in run.seeds]
        self.sets = sets_of(self.runs, before)
        self.set_of = self.sets.of(self.owners)
        self.noise = Noise(len(self.owners), self.device)
        networks = [run.live(net) for run in self.runs for net in run.networks]
        inputs = [data.train.x for data in self.sets.sets.values()]
        self.model = form_of(networks, self.noise, inputs, self.training["batch_size"])
        leaves = [module for module in self.model.modules() if isinstance(module, Stacked)]
        stacked = [p for leaf in leaves for p in leaf.stacked]
        self.parameters = [p.parameter for p in stacked]
        learning = [p for p in stacked if p.parameter.requires_grad]
        # Of two dimensions and more, those of a row.
        self.weights = [p.parameter for p in learning if p.parameter.ndim > 2]
        values = self.parameters[0]
        self.lr = torch.empty(len(self.owners), dtype=values.dtype, device=self.device)
        self.slices, start = [], 0
        for _, group in groupby(self.owners, key=kind):
            rows = list(group)
            step_of = Slice if shares(rows) else Each
            self.slices.append(step_of(rows, start, learning, self.lr))
            start += len(rows)
        self.follow_schedules()
        sections = [run.regularization for run in self.owners]
        vectors = {name: self._vector([reg[name] for reg in sections]) for name in PENALTIES}
        self.penalties = {name: v for name, v in vectors.items() if v is not None}
        smoothing = self._vector([reg["label_smoothing"] for reg in sections])
        self.smoothing = 0.0 if smoothing is None else smoothing
        self.uses_rng = any(run.uses_rng for run in self.runs)
        self.mixed = [k for k, reg in enumerate(sections) if reg["mixup"]]
        self.clip_norm = self._vector([r.training["clip_norm"] for r in self.owners], math.inf)
        self.clip_value = self._vector([r.training["clip_value"] for r in self.owners], math.inf)
        self.moves = [run for run in self.runs if run.interval == "step"]
        self.averages = Averages(self, inputs) if first.average else None
        self.stop_requested = self.save_requested = False
        self.broken: set[Run] = set()  # those that are not to be saved as they stand
        for run in self.runs:
            run.optimizer._opt_called = True  # the slice's is; else every schedule would warn

    def _vector(self, values: list[float | None], absent: float = 0.0) -> Tensor | None:
        """Return [K], or None where no row has the knob."""
        if not any(values):
            return None
        return torch.tensor([v or absent for v in values], dtype=torch.float64).to(self.lr)

    def follow_schedules(self) -> None:
        """Take over the rates, and what else the rows' schedules moved."""
        self.lr.copy_(torch.tensor([run.lr for run in self.owners], dtype=self.lr.dtype))
        for part in self.slices:
            part.follow_schedule()

    def release(self) -> list[Run]:
        """Return every run whole again, its optimizer's state its share of the stack's."""
        for part in self.slices:
            part.give_state()
        return self.runs


@contextlib.contextmanager
def alone(stack: Stack, run: Run) -> Iterator[None]:
    """Let what is raised inside fail this run, and not its stack."""
    try:
        with exits():
            yield
    except Exception as error:
        if isinstance(for_a_person(error), MemoryShortage):
            raise
        stack.faults.setdefault(run, error)


def note_faults(stack: Stack, over: dict[Run, Ending], stand_ins: StandIns) -> None:
    """End the runs whose own code has failed."""
    rows = {stack.owners[k]: error for k, error in (stack.loss.faults or {}).items()}
    for run, error in (stack.faults | rows).items():
        if run not in stand_ins:
            over.setdefault(run, ("failed", error))


def train_step(stack: Stack, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Update every row once from its batch; return the losses [K], still on the device.

    Args:
        x: [K, N, ...]. y: [K, N], or [K, N, T]. weight: [K, N], of the examples.
    """
    if stack.uses_rng:
        rows = zip(stack.seeds, [run.progress for run in stack.owners], strict=True)
        stack.noise.seed([rng.key(seed, "noise", p.epoch, p.step) for seed, p in rows])
    for parameter in stack.parameters:
        parameter.grad = None
    loss = backward(stack, x, y, weight)
    clip(stack)
    for part in stack.slices:
        part.step()
    for run in stack.runs:
        run.progress.step += 1
    if stack.averages:
        stack.averages.update()
    if stack.moves:
        for run in stack.moves:
            run.progress.lr = run.lr
            try:
                run.scheduler.step()
            except BaseException as error:  # entering `alone` would cost at every step of every run
                with alone(stack, run):
                    raise error
        stack.follow_schedules()
    return loss


def backward(stack: Stack, x: Inputs, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Fill every .grad from one batch, in microbatches where asked; the losses [K], no graph."""
    count, total = stack.training["gradient_accumulation_steps"], 0.0
    whole = stack.loss.total(y, weight)
    for part in chunks(Batch(x, y, weight), count, dim=1):
        share = part.y.shape[1] / y.shape[1]
        part_whole = None if whole is None else whole * share
        loss = batch_loss(stack, *part, part_whole) * share
        loss.sum().backward()  # a sum: no row's gradient depends on how many others there are
        total = total + loss.detach()
    return total


def batch_loss(
    stack: Stack, x: Inputs, y: Tensor, weight: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Return each row's loss of its batch, penalties included, [K].

    Args:
        weight: [K, N] of the examples.
        total: [K], what divides the weighted sums, where this is a part of a larger batch.
    """
    if stack.mixed:
        x, partners, others, share = mix(stack, x, y, weight)
    with stack.autocast():
        outputs = stack.model(x)
    outputs = solo.at_least_fp32(outputs)
    loss = stack.loss.mean(outputs, y, stack.smoothing, weight, total)
    if stack.mixed:
        of_partners = stack.loss.mean(outputs, partners, stack.smoothing, others, total)
        loss = share * loss + (1 - share) * of_partners
    return penalized(loss, stack.penalties, outputs, stack.weights)


def mix(
    stack: Stack, x: Tensor, y: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Mix row by row, from the streams that solo runs draw from.

    Returns:
        Mixed inputs, the partners' targets and weights, and each row's share of its own targets.
    """
    x, partners, share = x.clone(), y.clone(), torch.ones_like(stack.lr)
    others = None if weight is None else weight.clone()
    for k in stack.mixed:
        alpha, draws = stack.owners[k].regularization["mixup"], stack.noise.generators[k]
        own = None if weight is None else weight[k]
        x[k], partners[k], other, share[k] = mixed(x[k], y[k], own, alpha, draws)
        if others is not None:
            others[k] = other
    return x, partners, others, share


@torch.no_grad()
def clip(stack: Stack) -> None:
    """Clip each row's gradient by its own norm and value, as torch.nn.utils does one model's."""
    grads = [p.grad for p in stack.parameters if p.grad is not None]
    if stack.clip_norm is not None:
        norms = [
            torch.linalg.vector_norm(g, dim=tuple(range(1, g.ndim))) if g.ndim > 1 else g.abs()
            for g in grads
        ]
        total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        scale = (stack.clip_norm / (total + 1e-6)).clamp(max=1.0)
        scale = torch.where(stack.clip_norm.isinf(), 1.0, scale)
        for grad in grads:
            grad.mul_(per_row(scale, grad))
    if stack.clip_value is not None:
        for grad in grads:
            bound = per_row(stack.clip_value, grad)
            grad.clamp_(-bound, bound)


def epoch_batches(stack: Stack) -> Iterator[Batch]:
    """Yield what is left of the epoch under way: each row's batch in its order, augmented."""
    rows, train = list(zip(stack.owners, stack.seeds, strict=True)), stack.sets.train
    several = len(stack.sets.sets) > 1
    starts = stack.set_of * len(stack.runs[0].data.train) if several else None
    yield from member_batches(rows, train=train, starts=starts)


@torch.no_grad()
def faults(stack: Stack) -> dict[Run, Ending]:
    """Return the runs of which a gradient or a weight is not finite; see training/finite.py."""
    gradients = [p.grad for p in stack.parameters if p.grad is not None]
    running = [b for name, b in finite.watched(stack.model) if name.endswith(finite.RUNNING)]
    looks = [(finite.GRADIENT, gradients)] if gradients else []
    looks.append((finite.WEIGHTS, [*stack.parameters, *running]))
    rows = torch.stack([_finite(tensors, len(stack.owners)) for _, tensors in looks])
    found: dict[Run, Ending] = {}
    if rows.all():
        return found
    for (what, _), row in zip(looks, rows.tolist(), strict=True):
        for k in (k for k, sound in enumerate(row) if not sound):
            run, member = stack.owners[k], k % stack.members if stack.members > 1 else None
            found.setdefault(run, ("diverged", Diverged(run.progress.step, member, what)))
    return found


def _finite(tensors: list[Tensor], rows: int) -> Tensor:
    """Return of which rows all numbers are finite, [K]."""
    parts = [t[:rows].reshape(rows, -1) for t in tensors]
    sums = torch.stack([part.sum(1) for part in parts]).sum(0)  # as training/finite.py does
    if sums.isfinite().all():
        return sums.isfinite()
    return torch.stack([part.isfinite().all(1) for part in parts]).all(0)


def note_losses(
    stack: Stack,
    losses: list[Tensor],
    sizes: list[int],
    over: dict[Run, Ending],
    stand_ins: StandIns,
) -> None:
    """Note the losses of the last steps with each run, in one wait for the device; empty the lists.

    Args:
        losses: [rows] a step. sizes: examples a step. over, stand_ins: as of train_epoch.
    """
    rows = [[]] * len(stack.runs)  # a loss a step; of several members a list of losses a step
    if losses:
        whole = torch.stack(losses, 1)  # [rows, steps]
        members = whole.unflatten(0, (-1, stack.members)).mT
        rows = (whole if stack.members == 1 else members).tolist()
    for run, values in zip(stack.runs, rows, strict=True):
        try:
            if run not in over and run not in stand_ins:
                solo.note_losses(run.progress, values, sizes)
        except Diverged as error:
            over[run] = ("diverged", error)
    losses.clear()
    sizes.clear()


def share_time(stack: Stack, began: float) -> None:
    """Add to each run its share of the time since then: they add up to what the stack took."""
    share = (time.perf_counter() - began) / len(stack.runs)
    for run in stack.runs:
        run.progress.train_seconds += share
        run.progress.seconds += share


def train_epoch(
    stack: Stack,
    watch: Callable[[Stack], None],
    over: dict[Run, Ending],
    stand_ins: StandIns,
    save: Callable[[Stack], None] = lambda stack: None,
) -> list[dict[str, float]] | None:
    """Train for what is left of an epoch; return each row's mean loss, and its last step's rate.

    Args:
        over: gets the runs of which something is not finite, whose rows then mean nothing.
        stand_ins: where one leaves in the middle of this epoch, it ends there, and gives None.
        save: called between two steps where `watch` has requested it.

    Raises:
        Interrupted: between two steps, with every run's `progress` up to date.
    """
    still(stack.model.train())
    for run in stack.runs:
        training_mode(run.optimizer, True)
    began = time.perf_counter()
    losses: list[Tensor] = []
    sizes: list[int] = []
    stop = until(stand_ins)

    def look() -> None:
        note_losses(stack, losses, sizes, over, stand_ins)

    def check() -> None:
        for run, ending in faults(stack).items():
            if run not in stand_ins:
                over.setdefault(run, ending)

    def add() -> None:
        for run in stack.runs:
            solo.add_losses(run.progress)

    try:
        for batch in epoch_batches(stack):
            losses.append(train_step(stack, *batch))
            sizes.append(batch.y.shape[1])
            for run in stack.runs:
                run.progress.batch += 1
            if stack.runs[0].progress.batch % CHECK_EVERY == 0:
                look()
                add()
                check()
            watch(stack)
            if stack.stop_requested:
                look()
                check()
                raise Interrupted
            if stop and stack.runs[0].progress.batch == stop:
                look()
                check()
                return None
            if stack.save_requested:
                stack.save_requested = False
                look()
                # What is broken is not saved; as in a solo run a regular look ends it.
                stack.broken = {*over, *faults(stack)}
                share_time(stack, began)
                save(stack)
                began, stack.broken = time.perf_counter(), set()
        look()
        add()
        check()
    finally:
        note_faults(stack, over, stand_ins)
        share_time(stack, began)
    return [{"lr": run.last_lr, "train/loss": solo.train_loss(run)} for run in stack.runs]


@torch.no_grad()
def evaluate(stack: Stack) -> list[dict[str, float]]:
    """Return each run's metrics of its validation split, as `val/metric`."""
    model = stack.averages.model if stack.averages else stack.model
    outputs, task = [], stack.runs[0].data.task
    model.eval()
    for x in stack.sets.inputs(stack.set_of, max(1, EVAL_NUMBERS // len(stack.owners))):
        with stack.autocast():
            outputs.append(solo.at_least_fp32(model(x)))
    whole, size = torch.cat(outputs, 1), 1
    if stack.members > 1:  # behind the members of a run their mean prediction
        by_run = whole.unflatten(0, (-1, stack.members))
        whole = with_mean(task, by_run, stack.loss.log_rates).flatten(0, 1)
        size = stack.members + 1
    by_run, values = whole.unflatten(0, (-1, size)), {}
    for data, numbers in stack.sets.groups(stack.runs):
        truth, weight, std = data.val.y, data.val.weight, data.target_std.to(whole)
        mine = whole if len(numbers) == len(stack.runs) else by_run[numbers].flatten(0, 1)
        loss = dataclasses.replace(stack.loss, faults={}) if stack.loss.by_row else stack.loss
        rows = metrics.evaluation(task, mine, truth, std, loss, weight)
        outputs = mine.unbind(0)
        for place, error in (loss.faults or {}).items():
            stack.faults.setdefault(stack.runs[numbers[place // size]], error)
        for place, i in enumerate(numbers):
            part = slice(place * size, (place + 1) * size)
            row: dict[str, float] = {}
            with alone(stack, stack.runs[i]):
                row = solo.judged(stack.runs[i], rows[part], outputs[part], truth)
            values[i] = {f"val/{metric}": value for metric, value in row.items()}
    return [values[i] for i in range(len(stack.runs))]


def end_epoch(
    stack: Stack,
    rows: list[dict[str, float]],
    on_epoch: Callable[[Run, dict], None],
    over: dict[Run, Ending],
    stand_ins: StandIns,
) -> None:
    """Judge every run by its metrics, and move on to the next epoch.

    Args:
        rows: of train_epoch.
        on_epoch: as of `fit`.
        over: gets the runs that this ends.
    """
    began = time.perf_counter()
    for run in stack.runs:
        training_mode(run.optimizer, False)
    scores = evaluate(stack)
    note_faults(stack, over, stand_ins)
    share = (time.perf_counter() - began) / len(stack.runs)
    for run, row, values in zip(stack.runs, rows, scores, strict=True):
        run.progress.seconds += share
        if run in stand_ins:
            pass_epoch(run)
        elif run not in over:
            try:
                with exits():
                    values = solo.end_epoch(run, row | values)
                    training_mode(run.optimizer, True)
                    on_epoch(run, values)
            except Exception as error:  # this run's alone: the shared computation went well
                over[run] = ("diverged" if isinstance(error, Diverged) else "failed", error)


def fit(
    runs: Sequence[Run],
    on_epoch: Callable[[Run, dict], None],
    on_end: Callable[[Run, str, Exception | None], None],
    watch: Callable[[Stack], None],
    on_round: Callable[[Stack], None],
    judge: Callable[[list[Run]], None] = lambda runs: None,
    refill: Callable[[int], list[Run]] = lambda places: [],
    stand_ins: StandIns | None = None,
    sets: Sets | None = None,
) -> None:
    """Train until every run has ended, each when it would alone.

    A run that diverges, stops early or fails is removed from the stack; the others are unaffected.

    Args:
        runs: the rows in their order, stand-ins among them.
        on_epoch: called with a run and its metrics after every epoch; what it raises fails the run.
        on_end: called with a run, whole again, its status and what failed it, if something did.
        watch: called after every step; it may set `stop_requested` and `save_requested`.
        on_round: called after every epoch with what is left of the stack, and between two steps
            where that is requested.
        judge: called after every epoch with the runs that are to go on; it may mark some as pruned.
        refill: how many rows have left -> runs at an epoch's beginning that take their places.
        stand_ins: see stand_ins.py. Of the functions above only `watch` and `on_round` meet them.
        sets: as of Stack, `before`.
    """
    stand_ins = stand_ins or {}
    waiting = [place.run for place in stand_ins.values() if place.run]
    for run in [*runs, *waiting]:  # one that was interrupted at its very end has nothing left to do
        if run not in stand_ins and (status := solo.ended(run)):
            on_end(run, status, None)
    stand_ins = {
        run: place._replace(run=None) if place.run and solo.ended(place.run) else place
        for run, place in stand_ins.items()
    }
    left = relieved(runs, stand_ins)
    stack = Stack(left, sets) if left else None
    while stack:
        over: dict[Run, Ending] = {}
        try:
            rows = train_epoch(stack, watch, over, stand_ins, on_round)
        except Interrupted:
            waiting = [place.run for place in stand_ins.values() if place.run]
            for run in [*stack.release(), *waiting]:
                if run not in stand_ins:
                    on_end(run, *over.get(run, ("interrupted", None)))
            return
        if rows is not None:
            end_epoch(stack, rows, on_epoch, over, stand_ins)
            going = [run for run in stack.runs if run not in over and run not in stand_ins]
            judge([run for run in going if not solo.ended(run)])
            over |= {run: (status, None) for run in going if (status := solo.ended(run))}
            stack.follow_schedules()
        if over or due(stand_ins):
            stack.release()
            for run, (status, error) in over.items():
                on_end(run, status, error)
            left = [run for run in stack.runs if run not in over] + refill(len(over))
            left = relieved(left, stand_ins)
            stack = Stack(left, stack.sets) if left else None
        if stack and rows is not None:
            on_round(stack)
