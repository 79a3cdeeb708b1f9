"""Time steps of stacks beside those of a run alone, and choose how many runs train at a time."""

import contextlib
import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch

from knobs import storage
from knobs.models import frozen
from knobs.optimizers import training_mode
from knobs.stack import loop as stack
from knobs.training import loop, predictions
from knobs.training.batches import epoch_batches
from knobs.training.state import Run

WIDTHS = (4, 16, 64, 256, 1024)  # tried from the first on: small nets like wide stacks
VISIT_SECONDS = 0.005  # of each visit: so long that a pause of the machine hits all widths alike
TURNS, MOST_TURNS = 3, 9  # of two widths; as many as the latter before a wider one is given up
BLOCK, LINE_BYTES = 4096, 300  # of a disk; of an epoch in a log
# Of a checkpoint, the best weights beside the last ones, or none where they are the same: so much
# of them is at most a fifth too much or too little of a run, whatever its optimizer.
BEST_APART = 0.4
HEADER_BYTES = 4000  # of a checkpoint, beside its tensors
# config.json, summary.json, the preparation (2), the manifest, three files and three folders.
SMALL_FILES = (4000, 1000, 400, 300, 300, 2300, 3600, 200, 1, 1, 1)
PLAN_SHARE = 0.02  # of a group's expected time, which a visit to each of two widths may take
NEARLY = 1.1  # a narrower stack is chosen where it is faster by more than this
CACHE = Path("/sys/devices/system/cpu/cpu0/cache")


class Timed(Protocol):
    """Runs whose width is to be found: all their steps, what one takes alone, and misjudgements.

    A groups.Group, whose module imports this one.
    """

    steps: int
    alone_seconds: float
    slower: Mapping[int, float]


def ladder(rows: int, members: int, size: int, cache: int) -> list[int]:
    """Return the widths to be timed, in runs: WIDTHS in rows, and the most that there may be.

    One whose next wider one fits into the cache is left out: no bandwidth ends the gain there.

    Args:
        rows: the most runs. members: rows of a run.
        size: bytes of a run. cache: of the machine.
    """
    widths = sorted({width // members for width in WIDTHS})
    widths = [*(width for width in widths if 1 < width < rows), *[rows] * (rows > 1)]
    kept = [width for width, wider in pairwise(widths) if wider * size > cache]
    return [*kept, *widths[-1:]]


def find_width(
    probe: Callable[[int], "Probe"], widths: Sequence[int], group: "Timed", size: int, cache: int
) -> tuple[dict[int, float], int]:
    """Return width -> seconds of a step and run, and the width that is chosen.

    A step costs overhead / width + arithmetic a run, so wider is faster until memory bandwidth ends
    it. So each width is held against the best narrower one, in turns of equal length: a pause of
    the machine is as likely in both, and the least of several has none. The wider of equals
    is better, since what an epoch costs beside its steps is shared by more runs; none wider is
    tried where one is clearly slower, or where there is no overhead left to share.

    Args:
        probe: of a width; of 1 the run alone, warm.
        widths: to be timed beside it, ascending.
        group: its steps, and by which factors stacks of it were slower than their timing, which
            holds for wider ones as well.
        size: bytes of a run. cache: of the machine.
    """
    best = 1
    seconds = min(VISIT_SECONDS, PLAN_SHARE * group.steps * group.alone_seconds / 4)
    probes, times = {1: probe(1)}, {1: group.alone_seconds}
    for width in widths:
        probes[width] = probe(width)
        probes[width].visit(0)  # warms up
        slower = max([1.0, *(by for wide, by in group.slower.items() if width >= wide)])
        turns: list[tuple[float, float]] = []
        margin = margin_of(width, size, cache)
        while len(turns) < TURNS or (len(turns) < MOST_TURNS and ratio_of(turns) > margin):
            wide = probes[width].visit(seconds)
            narrow = probes[best].visit(max(seconds, wide * width))
            turns.append((narrow, wide * slower))
        times |= dict(zip((best, width), map(min, zip(*turns, strict=True)), strict=True))
        if ratio_of(turns) > margin:
            break
        spared, best = left_to_share(times, best, width), width
        if spared < NEARLY:
            break
    return times, best


def ratio_of(turns: Sequence[tuple[float, float]]) -> float:
    """Return how many times as long as the narrower a wider stack takes: by the least of each.

    Beside other work a step of half a millisecond may take a hundred, and the mean of few visits
    says nothing; the least of several is what the machine can do.
    """
    narrow, wide = map(min, zip(*turns, strict=True))
    return wide / narrow


def margin_of(width: int, size: int, cache: int) -> float:
    """Return by which factor a stack must be slower than a narrower one to be given up for it.

    Twice as much, in the exponent, where all its rows fit into the cache: then no bandwidth can be
    the cause, and it must be noise.
    """
    return NEARLY**2 if width * size <= cache else NEARLY


def left_to_share(times: Mapping[int, float], narrow: int, wide: int) -> float:
    """Return how many times faster than in the wide stack a step could be in one without end.

    From two timings t = overhead / width + arithmetic of a step and run.
    """
    overhead = (times[narrow] - times[wide]) / (1 / narrow - 1 / wide)
    arithmetic = times[wide] - overhead / wide
    return times[wide] / arithmetic if arithmetic > 0 else math.inf


@dataclass
class Probe:
    """Optimizer steps of a run or of a stack of copies of it, to be timed.

    Args:
        step: makes one of a batch.
        batches: yields those of an epoch.
        runs: which the steps are of.
    """

    step: Callable[..., object]
    batches: Callable[[], Iterator[tuple]]
    runs: list[Run]

    def __post_init__(self) -> None:
        self._endless = self._epochs()

    def visit(self, seconds: float) -> float:
        """Make steps for so long, one at least; return seconds of a step and run."""
        steps, took, began = 0, 0.0, time.perf_counter()
        with loop.together(self.runs[0]) if len(self.runs) == 1 else contextlib.nullcontext():
            while steps == 0 or took < seconds:
                self.step(*next(self._endless))
                steps += 1
                if self.runs[0].device.type != "cpu":
                    torch.accelerator.synchronize()  # else only the launches would be timed
                took = time.perf_counter() - began
        return took / steps / len(self.runs)

    def _epochs(self) -> Iterator[tuple]:
        """Yield batches for ever; a schedule, which may refuse to outlast its run, begins again."""
        moved = [run.scheduler for run in self.runs if run.interval == "step"]
        begun = [copy.deepcopy(scheduler.state_dict()) for scheduler in moved]
        while True:
            yield from self.batches()
            for scheduler, state in zip(moved, begun, strict=True):
                scheduler.load_state_dict(copy.deepcopy(state))


def probe_alone(run: Run) -> Probe:
    """Return a probe of a run alone."""
    frozen.train(run.model, run.progress.epoch)
    training_mode(run.optimizer, True)
    step = functools.partial(loop.train_step, run)
    return Probe(step, functools.partial(epoch_batches, run), [run])


def probe_stack(runs: Sequence[Run]) -> Probe:
    """Return a probe of a stack of runs."""
    rows = stack.Stack(runs)
    frozen.still(rows.model.train())
    for row in rows.runs:
        training_mode(row.optimizer, True)
    step = functools.partial(stack.train_step, rows)
    return Probe(step, functools.partial(stack.epoch_batches, rows), rows.runs)


@functools.cache
def cache_bytes(device: torch.device) -> int:
    """Return the bytes of a device's last cache; 0 where they are not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = [0]
    for path in CACHE.glob("index*/size"):
        text = storage.read(path, 2**16).decode().strip()
        unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 0)
        sizes.append(int(text[:-1]) * unit if unit else 0)
    return max(sizes)


def clones(run: Run, count: int) -> list[Run]:
    """Return copies of a run that share nothing but its data."""
    shared = [run.data, run.cut] if run.cut else [run.data]
    if run.cut:  # what is frozen is one copy
        behind = {id(p) for p in run.live(run.model).parameters()}
        shared += [p for p in run.model.parameters() if id(p) not in behind]
    return [copy.deepcopy(run, {id(one): one for one in shared}) for _ in range(count)]


def disk_bytes(run: Run, config: dict) -> tuple[int, int]:
    """Return about the bytes on disk that a run leaves, and those of one more checkpoint.

    Files take whole blocks.

    Args:
        run: which has made steps, so that its optimizer has its state.
        config: of the run.
    """
    training, examples = config["training"], len(run.data.val)
    weights = sum(value.nbytes for value in run.model.state_dict().values())
    fixed = sum(v.nbytes for v in run.cut.backbone.values.values()) if run.cut else 0
    outputs = examples * run.data.shape.outputs * 2  # float16
    log, last = LINE_BYTES * training["epochs"], 0
    sizes = [*SMALL_FILES, log, log, min(predictions.MOST_BYTES, outputs + 16 * examples)]
    if training["checkpoint"]:
        sizes.append(weights)
        if training.get("keep", "all") == "all":
            last = weights + round(BEST_APART * (weights - fixed))  # what is frozen stands once
            last += state_bytes(run) + outputs + log + HEADER_BYTES
    return sum(map(_in_blocks, [*sizes, last])), _in_blocks(last)


def _in_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def state_bytes(run: Run) -> int:
    """Return the bytes of an optimizer's state, and of a running average of the weights."""
    values = [v for state in run.optimizer.state.values() for v in state.values()]
    values += run.average.state_dict().values() if run.average else ()
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def row_bytes(run: Run) -> int:
    """Return the bytes of one run: weights, gradients, optimizer state, and what a step saves."""
    [row] = clones(run, 1)
    batch = next(epoch_batches(row))
    saved: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loop.train_step(row, *batch)
    weights = sum(p.nbytes for p in row.live(row.model).parameters())
    # Weights, gradient, shadow and the best so far; activations and their gradients.
    inputs = batch.x.values() if isinstance(batch.x, dict) else [batch.x]
    return 4 * weights + state_bytes(row) + sum(x.nbytes for x in inputs) + 2 * sum(saved)
