"""Jobs of a sweep -> groups that train together, how many at a time, and at what cost."""

import copy
import dataclasses
import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from knobs.training import loop
from knobs.training.loop import Run
from knobs.training.setup import assemble, steps_per_epoch

STACKABLE = {f"{kind.__module__}.{kind.__name__}" for kind in LINEAR_IN_LR}
STACKABLE |= {f"torch.optim.{kind.__name__}" for kind in LINEAR_IN_LR}
# What rows of one stack may differ in, beside everything outside these sections, and what they
# share. A key that is in neither, and is not off, makes its run train alone.
FREE = {
    "training": ("epochs", "early_stopping", "clip_norm", "clip_value", "checkpoint"),
    "regularization": (*PENALTIES, "dropout", "l2", "l2_biases", "label_smoothing", "mixup"),
}
ALIKE = {
    "training": (
        *("batch_size", "drop_last", "accumulate", "precision", "channels_last"),
        *("device", "threads", "deterministic"),
    ),
    "regularization": ("norm",),
}
OFF = {"training": "training/default", "regularization": "regularization/none"}  # every knob is off
SHARED = ("data", "model", "activation", "regularization", "training")
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
        width: rows of a stack; 1 where they train sequentially.
        reason: why sequentially, in one line.
        steps: optimizer steps of all of them, each trained to its last epoch.
        epoch_steps: those of one epoch of one of them.
        seconds: what these are expected to take.
    """

    jobs: list[int]
    width: int = 1
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0
    epoch_steps: int = 0
    config: dict = field(default_factory=dict, repr=False)

    @property
    def chunks(self) -> list[list[int]]:
        """Return the jobs of each stack, as even as can be."""
        assert 1 <= self.width <= max(1, len(self.jobs)), "a stack is no wider than its group"
        count = -(-len(self.jobs) // self.width)
        return [self.jobs[i::count] for i in range(count)]


def plan_groups(
    configs: dict[int, dict],
    data: Reader,
    width: int | None,
    timed: dict[str, Group] | None = None,
) -> list[Group]:
    """Group the jobs of a sweep by what their computations share, and time a few steps of each.

    Args:
        configs: by number.
        data: a config -> its data.
        width: most rows of a stack; None leaves it to the measurement.
        timed: what was measured before, kept up to date; a search plans again and again.
    """
    timed = {} if timed is None else timed
    groups: dict[str, Group] = {}
    for number, config in configs.items():
        reason = alone(config)
        key = f"{reason} {shared(config)}"
        groups.setdefault(key, Group([], reason=reason, config=config)).jobs.append(number)
    for key, group in groups.items():
        known = timed.get(key)
        if known and (known.width == 1 or len(group.jobs) <= len(known.jobs)):
            group.steps = known.epoch_steps * _epochs(group, configs)
            group.width, group.reason = min(known.width, len(group.jobs)), known.reason
            group.seconds = known.seconds * group.steps / max(1, known.steps)
            group.epoch_steps = known.epoch_steps
            continue
        with warnings.catch_warnings():
            # A copied optimizer lacks the mark by which its schedule knows that it has stepped.
            warnings.simplefilter("ignore", UserWarning)
            _measure(group, configs, data, width)
        timed[key] = group
    return list(groups.values())


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
    kept = {
        section: {k: v for k, v in config[section].items() if k not in FREE.get(section, ())}
        for section in SHARED
    }
    kept["drops"] = config["regularization"]["dropout"] > 0
    return json.dumps(kept, sort_keys=True)


def _measure(group: Group, configs: dict[int, dict], data: Reader, most: int | None) -> None:
    """Choose the group's width by timing a few steps, and say what it will cost."""
    try:
        read = data(group.config)
        device = build.device(group.config["training"]["device"])
        run = assemble(group.config | {"resume": None}, read, device)
        solo = time_solo(run)
    except Exception as error:  # each job will say it of itself
        group.reason = first_line(for_a_person(error))
        return
    group.epoch_steps = steps_per_epoch(len(read.train), group.config["training"])
    group.steps = group.epoch_steps * _epochs(group, configs)
    group.seconds = group.steps * solo
    rows = min(len(group.jobs), most or len(group.jobs))
    if group.reason or rows == 1:
        return
    if isinstance(read.train, Stream):
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
    # The widest that is nearly as fast: what an epoch costs beside its steps is shared by more.
    width = max(w for w, seconds in timed.items() if seconds < NEARLY * fastest)
    if fastest > LEAST_GAIN * solo:
        group.reason = f"a stack would take {fastest / solo:.1f} times as long"
        return
    group.width, group.seconds = width, group.steps * fastest


def _epochs(group: Group, configs: dict[int, dict]) -> int:
    return sum(configs[number]["training"]["epochs"] for number in group.jobs)


def time_widths(run: Run, rows: int, solo: float) -> dict[int, float]:
    """Return width -> seconds of a step and row, as long as wider is not clearly slower."""
    timed: dict[int, float] = {}
    for width in [*(w for w in WIDTHS if w < rows), rows]:
        timed[width] = time_stack(run, width)
        if timed[width] > NEARLY * min(*timed.values(), 2 * solo):
            break
    return timed


def time_solo(run: Run) -> float:
    """Time one optimizer step of a run alone, which takes a few; return seconds."""
    batches = list(_batches(loop.epoch_batches(run)))
    run.model.train()
    training_mode(run.optimizer, True)
    return _median([(lambda b=b: loop.train_step(run, *b)) for b in batches])


def time_stack(run: Run, width: int) -> float:
    """Time one step of a stack of `width` copies of a run; return seconds a row."""
    rows = stack.Stack(clones(run, width))
    batches = list(_batches(stack.epoch_batches(rows)))
    rows.model.train()
    return _median([(lambda b=b: stack.train_step(rows, *b)) for b in batches]) / width


def _batches(source: Iterator) -> Iterator:
    return (batch for batch, _ in zip(source, range(PROBE_STEPS + 1), strict=False))


def _median(steps: Sequence[Callable[[], object]]) -> float:
    """Return the seconds of a step; the first warms up where there are several."""
    seconds = []
    for step in steps:
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:] or seconds)


def clones(run: Run, count: int) -> list[Run]:
    """Return copies of a run that share nothing but its data."""
    copies = []
    for _ in range(count):
        # Together, so that the copied optimizer holds the copied model's weights.
        parts = (run.model, run.optimizer, run.scheduler, run.progress)
        model, optimizer, scheduler, progress = copy.deepcopy(parts)
        copies.append(
            dataclasses.replace(
                run,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                progress=progress,
                forward=model,
                average=None,
            )
        )
    return copies


def row_bytes(run: Run) -> int:
    """Return the bytes of one row: weights, gradients, optimizer state, and what a step keeps."""
    [own] = clones(run, 1)
    x, y = next(loop.epoch_batches(own))
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loop.train_step(own, x, y)
    weights = sum(p.nbytes for p in own.model.parameters())
    state = sum(
        value.nbytes
        for values in own.optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor)
    )
    # Weights, gradient, shadow and the best so far; activations and their gradients.
    return 4 * weights + state + x.nbytes + 2 * sum(kept)


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
