"""Jobs of a sweep -> groups that train together, how many at a time, and at what cost."""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from knobs import build
from knobs.data import Stream
from knobs.errors import MemoryShortage, first_line, for_a_person
from knobs.ledger import status
from knobs.signals import Exited, exits
from knobs.stack.layers import CannotStack, fast
from knobs.sweep import timing
from knobs.sweep.jobs import Job
from knobs.sweep.kin import Reader, kin
from knobs.sweep.screen import Planned
from knobs.sweep.stackable import activation, alone, shared
from knobs.sweep.stacks import Stacks
from knobs.training.session import SAVE_SECONDS
from knobs.training.setup import assemble, machine, steps_per_epoch

MEMORY_SHARE = 0.5  # of what is free
MISJUDGED = 1.5  # a stack that is slower than planned by more than this has its group planned again
LEAST_EPOCHS = 3  # of a stack, before they say anything about the plan
TRIAL_STEPS = 40  # of a run, whose time it takes to prove a network of another kind and to time it
TRIAL_SHARE, TRIAL_SECONDS = 0.1, 1.0  # of a group's time, or so little, which that may take
MIXED_ROWS = 16  # of an activation on average, beyond which a stack of several is not tried
LEAST_GAIN = 0.95  # of a solo step's time: a stack that takes more is not chosen


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
        alone_seconds: what a step of one of them takes that trains alone.
        slower: width -> how many times as long a stack took as planned; of stacks that have run.
        stacks: the jobs of each, where it is not the width that says so.
        disk: bytes that one of them leaves, about; 0 where it is not known.
        again: those of one more checkpoint, which it leaves if it takes long.
    """

    jobs: list[int]
    config: dict | None = field(repr=False)
    width: int = 1
    reason: str = ""
    epochs: int = 0
    epoch_steps: int = 0
    step_seconds: float = 0.0
    alone_seconds: float = 0.0
    slower: dict[int, float] = field(default_factory=dict)
    stacks: list[list[int]] = field(default_factory=list)
    disk: int = 0
    again: int = 0

    @property
    def steps(self) -> int:
        """Return the optimizer steps of all of them."""
        return self.epochs * self.epoch_steps

    @property
    def chunks(self) -> list[list[int]]:
        """Return the jobs of each stack, as even as can be."""
        if self.stacks:
            return [*self.stacks]
        assert 1 <= self.width <= max(1, len(self.jobs)), "a stack is no wider than its group"
        count = -(-len(self.jobs) // self.width)
        return [self.jobs[i::count] for i in range(count)]

    @property
    def on_disk(self) -> int:
        """Return about the bytes on disk that all of them leave."""
        epochs = self.epochs / len(self.jobs)
        seconds = self.steps * self.step_seconds / len(self.chunks)  # of a stack
        long = seconds * (1 - 1 / max(1, epochs)) > SAVE_SECONDS  # before the last epoch
        return len(self.jobs) * (self.disk + self.again * long)


def planned(groups: Sequence[Group]) -> list[Planned]:
    """Return the facts about groups that a screen shows."""
    return [
        Planned(
            len(group.jobs),
            len(group.chunks) if group.width > 1 else 0,
            group.reason,
            group.steps,
            group.steps * group.step_seconds,
            group.on_disk,
        )
        for group in groups
    ]


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
    reasons = {number: alone(job.config) for number, job in jobs.items() if job.config}
    keys = together({n: jobs[n].config for n in reasons}, data)
    families: dict[str, dict[str, Group]] = {}  # that differ in their activation alone
    for number, job in jobs.items():
        reason = reasons.get(number, "")
        family = f"{reason} {keys[number]}" if job.config else str(number)
        key = f"{family} {activation(job.config)}" if job.config else family
        group = groups.setdefault(key, Group([], job.config, reason=reason))
        families.setdefault(family, {})[key] = group
        group.jobs.append(number)
        group.epochs += job.config["training"]["epochs"] if job.config else 0
    for key, group in groups.items():
        before = timed.get(key)
        if before and (before.reason or len(group.jobs) <= len(before.jobs)):
            group.width, group.reason = min(before.width, len(group.jobs)), before.reason
            group.epoch_steps, group.step_seconds = before.epoch_steps, before.step_seconds
            group.alone_seconds, group.slower = before.alone_seconds, before.slower
            group.disk, group.again = before.disk, before.again
        elif group.config:
            group.slower = before.slower if before else {}
            _measure(group, data, width)
            timed[key] = group
    planned = [g for family in families.values() for g in _mixed(family, data, width, timed)]
    return sorted(planned, key=lambda group: group.jobs[0])


def _mixed(
    family: dict[str, Group], data: Reader, most: int, timed: dict[str, Group]
) -> list[Group]:
    """Return groups that differ in their activation alone, in one where that takes less time.

    Few rows of each leave much to share; where each has a stack of its own, nothing is gained. None
    is timed where that takes long beside the runs themselves.

    Args:
        family: key -> group, all timed.
        data, most, timed: as plan_groups takes them.
    """
    parts, rows = [*family.values()], sum(len(group.jobs) for group in family.values())
    few = rows <= MIXED_ROWS * len(parts)
    if len(parts) == 1 or not few or any(g.reason or not g.config for g in parts):
        return parts
    step = sum(len(group.jobs) * group.step_seconds for group in parts)  # of all rows
    whole = sum(group.steps * group.step_seconds for group in parts)
    if (timing.MOST_TURNS + 1) * step > max(TRIAL_SECONDS, TRIAL_SHARE * whole):
        return parts
    key = str([(key, len(group.jobs)) for key, group in family.items()])
    pays = LEAST_GAIN * step / rows
    if key not in timed:
        timed[key] = _together(parts, data, most, pays)
    before = timed[key]
    if before.reason or before.step_seconds > pays:
        return parts
    jobs = sorted(number for group in parts for number in group.jobs)
    epochs = sum(group.epochs for group in parts)
    return [dataclasses.replace(before, jobs=jobs, config=parts[0].config, epochs=epochs)]


def _together(parts: Sequence[Group], data: Reader, most: int, pays: float) -> Group:
    """Return one group of several, with what a step of one of its runs takes, or why it cannot.

    Args:
        pays: seconds of such a step that would do; a slower one is timed more often, as it may be
            the machine that pauses.
    """
    rows = sum(len(group.jobs) for group in parts)
    group = dataclasses.replace(parts[0], jobs=[n for g in parts for n in g.jobs], width=rows)
    group.alone_seconds = sum(len(g.jobs) * g.alone_seconds for g in parts) / rows
    members = group.config["training"].get("members", 1)
    try:
        with _quiet(group) as device, exits():
            firsts = [assemble(p.config | {"resume": None}, data(p.config), device) for p in parts]
            room = build.free_memory(device) * MEMORY_SHARE / timing.row_bytes(firsts[0])
            if rows > room or rows * members > most:
                raise CannotStack("no room for all of them at once")
            counts = [len(part.jobs) for part in parts]
            pairs = zip(firsts, counts, strict=True)
            probe = timing.probe_stack([r for run, n in pairs for r in timing.clones(run, n)])
            probe.visit(0)  # warms up
            group.step_seconds = math.inf
            for turn in range(timing.MOST_TURNS):
                if turn >= timing.TURNS and group.step_seconds <= pays:
                    break
                group.step_seconds = min(group.step_seconds, probe.visit(timing.VISIT_SECONDS))
    except Exception as error:
        if not isinstance(fault := for_a_person(error), CannotStack | MemoryShortage | Exited):
            raise
        group.reason = str(fault)
    return group


def restored(jobs: dict[int, Job], stacks: Stacks, data: Reader) -> list[Group]:
    """Return groups of those jobs whose stacks are known from before: they train as they did.

    Args:
        jobs: by number. One that has failed begins anew, and in another stack.
        data: as plan_groups takes it.
    """
    known = {
        n: job
        for n, job in jobs.items()
        if n in stacks and job.config and status(stacks.folder / str(n)) != "failed"
    }
    reasons = {n: alone(job.config) for n, job in known.items()}
    keys = together({n: job.config for n, job in known.items()}, data)

    def alike(numbers: list[int]) -> bool:
        return len({(keys[n], reasons[n]) for n in numbers}) == 1

    found = []
    for numbers, facts in stacks.kept(known, alike):
        epochs = sum(known[n].config["training"]["epochs"] for n in numbers)
        group = Group(numbers, known[numbers[0]].config, len(numbers), epochs=epochs, **facts)
        group.stacks, group.slower = [numbers], {group.width: 1.0}  # which is not planned again
        found.append(group)
    return found


def together(configs: Mapping[int, dict], data: Reader) -> dict[int, str]:
    """Return what the jobs of each stack have in common, as a text to compare.

    Args:
        configs: of jobs, by number.
        data: a config -> its data.
    """
    alike: dict[str, list[int]] = {}
    for number, config in configs.items():
        alike.setdefault(shared(config), []).append(number)
    keys: dict[int, str] = {}
    for text, numbers in alike.items():
        traits = kin([configs[number] for number in numbers], data)
        keys |= {n: f"{text} {trait}" for n, trait in zip(numbers, traits, strict=True)}
    return keys


def plan_again(
    group: Group,
    chunks: list[list[int]],
    seen: Sequence[float],
    data: Reader,
    width: int,
    timed: dict[str, Group],
) -> Group | None:
    """Plan the stacks of a group that have not begun, where one that ran was slower than planned.

    A group is planned again at most once: a plan costs time, and the second has learned.

    Args:
        chunks: the jobs of each stack that has not begun.
        seen: seconds of a step of one run in the stack that ran, an epoch each.
        data, width, timed: as plan_groups takes them.

    Returns:
        The new group of those jobs; None where the plan stands.
    """
    if group.width == 1 or group.slower or len(seen) < LEAST_EPOCHS:
        return None
    if min(seen) <= MISJUDGED * group.step_seconds:
        return None
    with _quiet(group) as device:  # is it the machine that is slower now?
        run = assemble(group.config | {"resume": None}, data(group.config), device)
        alone = min(
            timing.probe_alone(run).visit(timing.VISIT_SECONDS) for _ in range(LEAST_EPOCHS + 1)
        )
    factor = misjudged(seen, group.step_seconds, alone, group.alone_seconds)
    if factor == 1.0:
        return None
    group.slower[group.width] = factor
    jobs = sorted(number for chunk in chunks for number in chunk)
    share = len(jobs) / len(group.jobs)
    again = dataclasses.replace(group, jobs=jobs, epochs=round(group.epochs * share), width=1)
    _measure(again, data, width)
    for key in [key for key, one in timed.items() if one is group]:
        timed[key] = again
    return again


def misjudged(seen: Sequence[float], planned: float, alone: float, alone_planned: float) -> float:
    """Return how many times as long as planned a stack's steps take, load left out; 1: as planned.

    factor = min(seen) / planned / max(1, alone / alone_planned), where that is over MISJUDGED.

    Args:
        seen: seconds of a step of one run in the stack, an epoch each.
        planned: what was expected.
        alone: seconds of a step of a run alone, now. alone_planned: when it was planned.
    """
    if len(seen) < LEAST_EPOCHS or not planned or not alone_planned:
        return 1.0
    factor = min(seen) / planned / max(1.0, alone / alone_planned)
    return factor if factor > MISJUDGED else 1.0


@contextlib.contextmanager
def _quiet(group: Group) -> Iterator[torch.device]:
    """Enter the device and the threads of a group's runs, without warnings about copies of them."""
    with machine(group.config["training"]) as device, warnings.catch_warnings():
        # A copied optimizer lacks the mark by which its schedule knows that it has stepped.
        warnings.simplefilter("ignore", UserWarning)
        yield device


def _measure(group: Group, data: Reader, most: int) -> None:
    """Choose the group's width by timing a few steps, and note what a step will cost."""
    with contextlib.ExitStack() as quiet:
        try:
            examples = data(group.config)
            device = quiet.enter_context(_quiet(group))
            with exits():
                run = assemble(group.config | {"resume": None}, examples, device)
                [fresh], alone = timing.clones(run, 1), timing.probe_alone(run)
                alone.visit(0)  # warms up
                group.step_seconds = group.alone_seconds = min(alone.visit(0) for _ in range(3))
        except Exception as error:  # each job will say it of itself
            group.reason = first_line(for_a_person(error))
            return
        group.epoch_steps = steps_per_epoch(len(examples.train), run.training)
        group.disk, group.again = timing.disk_bytes(run, group.config)
        members = group.config["training"].get("members", 1)
        rows = min(len(group.jobs), max(1, most // members))
        if group.reason or rows == 1:
            return
        if group.config["model"].get("freeze") and not run.cut:
            group.reason = f"model.freeze: {run.features}"
            return
        if isinstance(run.data.train, Stream):
            group.reason = "its data are read from disk batch by batch"
            return
        trial, whole = TRIAL_STEPS * group.alone_seconds, group.steps * group.alone_seconds
        if not fast(run.live(run.networks[0])) and trial > max(TRIAL_SECONDS, TRIAL_SHARE * whole):
            group.reason = f"to try a stack would take {trial:.0f} s, all of them {whole:.0f} s"
            return
        try:
            size = timing.row_bytes(fresh)
            rows = min(rows, max(1, int(build.free_memory(device) * MEMORY_SHARE / size)))
            cache = timing.cache_bytes(device)
            widths = timing.ladder(rows, members, size, cache)
            with exits():
                times, width = timing.find_width(
                    lambda width: (
                        timing.probe_stack(timing.clones(fresh, width)) if width > 1 else alone
                    ),
                    widths,
                    group,
                    size,
                    cache,
                )
        except Exception as error:
            if not isinstance(fault := for_a_person(error), CannotStack | MemoryShortage | Exited):
                raise
            group.reason = str(fault)
            return
    solo = group.step_seconds = group.alone_seconds = times[1]
    if not widths:  # there is no memory for two
        return
    width = max(times) if width == 1 else width  # the one that was tried, to say by how much
    if times[width] > LEAST_GAIN * solo:
        group.reason = f"a stack would take {times[width] / solo:.1f} times as long"
        return
    group.width, group.step_seconds = width, times[width]
