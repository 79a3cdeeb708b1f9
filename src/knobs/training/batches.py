"""The batches of an epoch: which examples, in which order, augmented; by (seed, epoch, step)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from knobs import rng
from knobs.data import Batch, Tensors
from knobs.data.dataset import each
from knobs.models.members import at_blocks, side_by_side
from knobs.training.state import Run


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
    rows: list[tuple[Run, int]],
    join: Callable[[list[Tensor]], Tensor] = torch.stack,
    train: Tensors | None = None,
    starts: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield what is left of an epoch: each row's batch in its order, augmented, [K, N, ...].

    Args:
        rows: runs and seeds of theirs; the runs stand at one batch of splits of one length.
        join: of the rows' augmented images.
        train: the training splits behind each other, where the runs do not share theirs.
        starts: [K], where in it each row's begins.
    """
    data = rows[0][0].data
    train = train or data.train
    orders: dict[tuple, list[Tensor]] = {}  # rows of one seed see one order
    moments = [(seed, run.progress.epoch, sampler(run)) for run, seed in rows]
    if starts is not None:  # a balanced order depends on the targets
        own = zip(moments, starts.tolist(), strict=True)
        moments = [(*moment, start * (moment[2] == "balanced")) for moment, start in own]
    for (run, seed), moment in zip(rows, moments, strict=True):
        if moment not in orders:
            orders[moment] = epoch_order(run, seed)
    indices = [torch.cat(batch) for batch in zip(*(orders[m] for m in moments), strict=True)]
    if starts is not None:
        indices = [(i.view(len(rows), -1) + starts.unsqueeze(1)).flatten() for i in indices]

    def by_row(values: Tensor) -> Tensor:
        return values.unflatten(0, (len(rows), -1))

    for x, y, weight in train.batches(indices):
        x = each(x, by_row)
        if data.augment:
            x = join([augmented(run, x[k], seed) for k, (run, seed) in enumerate(rows)])
        yield Batch(x, by_row(y), None if weight is None else by_row(weight))


def augmented(run: Run, x: Tensor, seed: int) -> Tensor:
    """Return a batch with the shifts and mirrors that a seed draws for the run's next step."""
    progress = run.progress
    return run.data.augment(x, rng.generator(seed, "augment", progress.epoch, progress.step))
