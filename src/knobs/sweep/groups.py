"""Jobs of a sweep -> groups that train together, how many at a time, and at what cost."""

import copy
import functools
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import OmegaConf

from knobs import build
from knobs.config import rules
from knobs.data import Data, Stream
from knobs.errors import MemoryShortage, first_line, for_a_person
from knobs.optimizers import training_mode
from knobs.regularization import PENALTIES
from knobs.stack import loop as stack
from knobs.stack.layers import CannotStack
from knobs.stack.optimizers import LINEAR_IN_LR
from knobs.sweep.jobs import Job
from knobs.training import loop
from knobs.training.batches import epoch_batches
from knobs.training.setup import assemble, steps_per_epoch
from knobs.training.state import Run

STACKABLE = {f"{kind.__module__}.{kind.__name__}" for kind in LINEAR_IN_LR}
STACKABLE |= {f"torch.optim.{kind.__name__}" for kind in LINEAR_IN_LR}
# What rows of one stack may differ in, beside everything outside these sections, and what they
# share. A key that is in neither, and is not off, makes its run train alone.
FREE = {
    "training": ("epochs", "sampler", "early_stopping", "clip_norm", "clip_value", "checkpoint"),
    "regularization": (*PENALTIES, "dropout", "l2", "l2_biases", "label_smoothing", "mixup"),
}
ALIKE = {
    "training": (
        *("batch_size", "drop_last", "gradient_accumulation_steps", "precision", "channels_last"),
        *("device", "threads", "deterministic", "members"),
    ),
    "regularization": ("norm",),
}
OFF = {"training": "training/default", "regularization": "regularization/none"}  # every knob is off
SHARED = ("data", "model", "activation", "loss", "regularization", "training")
WIDTHS = (4, 16, 64, 256, 1024)  # tried from the first on: small nets like wide stacks
PROBE_STEPS = 3
MEMORY_SHARE = 0.5  # of what is free
NEARLY = 1.1
LEAST_GAIN = 0.95  # of a solo step's time: a stack that takes more is not chosen

Reader = Callable[[dict], Data]  # a config -> its data


@dataclass
class Group:
    """Jobs that train together, or sequentially.

    Args:
        jobs: their numbers.
        config: of the first of them; None where it is no run of knobs.
        width: jobs of a stack; 1 where they train sequentially.
        reason: why sequentially, in one line.
        epochs: of all of them, each trained to its last.
        epoch_steps: optimizer steps of one epoch of one of them.
        step_seconds: what a step of one of them is expected to take.
    """

    jobs: list[int]
    config: dict | None = field(repr=False)
    width: int = 1
    reason: str = ""
    epochs: int = 0
    epoch_steps: int = 0
    step_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Return the optimizer steps of all of them."""
        return self.epochs * self.epoch_steps

    @property
    def chunks(self) -> list[list[int]]:
        """Return the jobs of each stack, as even as can be."""
        assert 1 <= self.width <= max(1, len(self.jobs)), "a stack is no wider than its group"
        count = -(-len(self.jobs) // self.width)
        return [self.jobs[i::count] for i in range(count)]


def plan_groups(
    jobs: dict[int, Job], data: Reader, width: int, timed: dict[str, Group]
) -> list[Group]:
    """Group jobs by what their computations share, in order, and time a few steps of each.

    Args:
        jobs: by number; one that is no run of knobs is a group by itself.
        data: a config -> its data.
        width: most rows of a stack.
        timed: what was measured before, kept up to date; a search plans again and again.
    """
    groups: dict[str, Group] = {}
    for number, job in jobs.items():
        reason = alone(job.config) if job.config else ""
        key = f"{reason} {shared(job.config)}" if job.config else str(number)
        group = groups.setdefault(key, Group([], job.config, reason=reason))
        group.jobs.append(number)
        group.epochs += job.config["training"]["epochs"] if job.config else 0
    for key, group in groups.items():
        before = timed.get(key)
        if before and (before.width == 1 or len(group.jobs) <= len(before.jobs)):
            group.width, group.reason = min(before.width, len(group.jobs)), before.reason
            group.epoch_steps, group.step_seconds = before.epoch_steps, before.step_seconds
        elif group.config:
            with warnings.catch_warnings():
                # A copied optimizer lacks the mark by which its schedule knows that it has stepped.
                warnings.simplefilter("ignore", UserWarning)
                _measure(group, data, width)
            timed[key] = group
    return sorted(groups.values(), key=lambda group: group.jobs[0])


def alone(config: dict) -> str:
    """Say why a run cannot be a row of a stack; empty if nothing in its config is against it."""
    optimizer = config["optimizer"]
    name = optimizer["_target_"].rpartition(".")[2]
    if optimizer["_target_"] not in STACKABLE:
        return f"{name}'s update is not proportional to the learning rate, or mixes weights"
    for switch in ("maximize", "differentiable", "capturable"):
        if optimizer.get(switch):
            return f"optimizer.{switch}=true has no stacked form"
    for section in FREE:
        for key in sorted(config[section].keys() - {*FREE[section], *ALIKE[section]}):
            value, off = config[section][key], _off(section)
            if value != off[key] if key in off else value:
                return f"{section}.{key} is not known to stacks"
    return ""


@functools.cache
def _off(section: str) -> dict:
    """Return a section with every knob at its neutral value."""
    return OmegaConf.to_container(OmegaConf.load(rules.CONF / f"{OFF[section]}.yaml"))


def shared(config: dict) -> str:
    """Return what the runs of one stack have in common, as a text to compare.

    Whether they drop anything as well: masks take time, which runs without need not share.
    """
    parts: dict[str, object] = {
        section: {
            k: v for k, v in config.get(section, {}).items() if k not in FREE.get(section, ())
        }
        for section in SHARED
    }
    parts["drops"] = config["regularization"]["dropout"] > 0
    return json.dumps(parts, sort_keys=True)


def _measure(group: Group, data: Reader, most: int) -> None:
    """Choose the group's width by timing a few steps, and note what a step will cost."""
    try:
        examples = data(group.config)
        device = build.device(group.config["training"]["device"])
        run = assemble(group.config | {"resume": None}, examples, device)
        solo = group.step_seconds = time_solo(run)
    except Exception as error:  # each job will say it of itself
        group.reason = first_line(for_a_person(error))
        return
    group.epoch_steps = steps_per_epoch(len(examples.train), run.training)
    members = group.config["training"].get("members", 1)
    rows = min(len(group.jobs), max(1, most // members))
    if group.reason or rows == 1:
        return
    if isinstance(examples.train, Stream):
        group.reason = "its data are read from disk batch by batch"
        return
    try:
        rows = min(rows, max(1, int(free_memory(device) * MEMORY_SHARE / row_bytes(run))))
        timed = time_widths(run, rows, solo)
    except Exception as error:
        if not isinstance(fault := for_a_person(error), CannotStack | MemoryShortage):
            raise
        group.reason = str(fault)
        return
    fastest = min(timed.values())
    if fastest > LEAST_GAIN * solo:
        group.reason = f"a stack would take {fastest / solo:.1f} times as long"
        return
    # The widest that is nearly as fast: what an epoch costs beside its steps is shared by more.
    group.width = max(w for w, seconds in timed.items() if seconds < NEARLY * fastest)
    group.step_seconds = fastest


def time_widths(run: Run, rows: int, solo: float) -> dict[int, float]:
    """Return width -> seconds of a step and run, as long as wider is not clearly slower.

    Args:
        rows: most runs of a stack; each is as many rows as it has members.
        solo: seconds of a step of the run alone.
    """
    timed: dict[int, float] = {}
    widths = sorted({w // len(run.networks) for w in WIDTHS})
    for width in [*(w for w in widths if 1 < w < rows), rows]:
        timed[width] = time_stack(run, width)
        if timed[width] > NEARLY * min(*timed.values(), 2 * solo):
            break
    return timed


def time_solo(run: Run) -> float:
    """Time one optimizer step of a run alone, which takes a few; return seconds."""
    run.model.train()
    training_mode(run.optimizer, True)
    with loop.together(run):
        return _step_seconds(functools.partial(loop.train_step, run), epoch_batches(run))


def time_stack(run: Run, width: int) -> float:
    """Time one step of a stack of `width` copies of a run; return seconds a run."""
    rows = stack.Stack(clones(run, width))
    rows.model.train()
    step = functools.partial(stack.train_step, rows)
    return _step_seconds(step, stack.epoch_batches(rows)) / width


def _step_seconds(step: Callable[..., object], batches: Iterator[tuple]) -> float:
    """Return the median; the first step warms up where there are several."""
    seconds = []
    for batch in itertools.islice(batches, PROBE_STEPS + 1):
        began = time.perf_counter()
        step(*batch)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:] or seconds)


def clones(run: Run, count: int) -> list[Run]:
    """Return copies of a run that share nothing but its data."""
    return [copy.deepcopy(run, {id(run.data): run.data}) for _ in range(count)]


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
    weights = sum(p.nbytes for p in row.model.parameters())
    values = (v for state in row.optimizer.state.values() for v in state.values())
    state = sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
    # Weights, gradient, shadow and the best so far; activations and their gradients.
    inputs = batch.x.values() if isinstance(batch.x, dict) else [batch.x]
    return 4 * weights + state + sum(x.nbytes for x in inputs) + 2 * sum(saved)


def free_memory(device: torch.device) -> int:
    """Return the bytes still free on a device, within this process's own limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return 8 * 2**30  # not Linux: a guess that every machine of today meets
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0, free)
