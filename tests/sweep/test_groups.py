"""Which jobs share a stack, how wide it is, and when a plan is made again."""

import math
import random

import pytest

from knobs import build
from knobs.config import command
from knobs.models.layers import ELEMENTWISE
from knobs.sweep import groups, stackable, timing
from knobs.sweep.jobs import Job

MIB = 2**20


def configs(overrides, jobs):
    return [command.checked([*overrides, f"seed={i}"]) for i in range(jobs)]


def plan(monkeypatch, overrides, jobs, width, seconds=lambda width: 1.0 / width):
    """The groups of so many jobs, and the widths that were timed, as often as they were.

    Args:
        seconds: of a step and run, by the width of its stack; a stack that is not timed in truth.
    """
    tried = []

    def visit(probe, least):
        tried.append(len(probe.runs))
        return seconds(len(probe.runs))

    monkeypatch.setattr(timing.Probe, "visit", visit)
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 0)
    planned = groups.plan_groups(
        {i: Job(i, [], config) for i, config in enumerate(configs(overrides, jobs))},
        lambda config: build.data(config), width, {},
    )  # fmt: skip
    return planned, tried


def test_widths_count_rows(monkeypatch):
    """Stacks of 4, 16, 64, 256 rows are timed: of runs with four members a quarter as many runs."""
    one, tried = plan(monkeypatch, ["data=wine"], 20, 64)
    assert set(tried) == {1, 4, 16, 20}
    four, tried = plan(monkeypatch, ["data=wine", "training.members=4"], 20, 64)
    assert set(tried) == {1, 4, 16}  # 16 and 64 rows, the most there may be
    assert (one[0].width, four[0].width) == (20, 16)


def test_members_are_what_the_runs_of_a_stack_share():
    one, two = (command.checked([f"training.members={m}"]) for m in (1, 2))
    assert stackable.alone(two) == ""
    assert stackable.shared(one) != stackable.shared(two)


def test_memory_counts_members():
    def memory(members):
        plain = command.checked(["data=wine", f"training.members={members}"])
        return timing.row_bytes(groups.assemble(plain, build.data(plain), build.device("cpu")))

    assert memory(4) == pytest.approx(4 * memory(1), rel=0.05)


def test_turns_say_by_how_much_a_wider_stack_is_slower():
    assert timing.ratio_of([(1.0, 1.2), (2.0, 2.2), (1.0, 30.0)]) == pytest.approx(1.2)
    assert timing.margin_of(64, MIB, cache=63 * MIB) == pytest.approx(1.1)
    # Where all rows fit into the cache it takes more to say that wider is slower.
    assert timing.margin_of(64, MIB, cache=64 * MIB) == pytest.approx(1.21)


def test_what_is_left_to_share_is_the_overhead():
    """Of t = overhead / width + arithmetic, in closed form."""
    times = {width: 8.0 / width + 1.0 for width in (1, 4, 16)}
    assert timing.left_to_share(times, 1, 4) == pytest.approx(3.0)
    assert timing.left_to_share(times, 4, 16) == pytest.approx(1.5)
    assert timing.left_to_share({1: 5.0, 4: 5.0 / 4}, 1, 4) == math.inf  # no arithmetic at all
    assert timing.left_to_share({1: 2.0, 4: 2.0}, 1, 4) == pytest.approx(1.0)


def test_widths_to_be_timed():
    assert timing.ladder(64, 1, MIB, cache=0) == [4, 16, 64]
    assert timing.ladder(100, 1, MIB, cache=0) == [4, 16, 64, 100]
    assert timing.ladder(64, 1, MIB, cache=16 * MIB) == [16, 64]  # 16 fit: 4 cannot be better
    assert timing.ladder(64, 1, MIB, cache=64 * MIB) == [64]
    assert timing.ladder(20, 4, MIB, cache=0) == [4, 16, 20]
    assert timing.ladder(3, 1, MIB, cache=0) == [3]
    assert timing.ladder(1, 1, MIB, cache=0) == []


class Fake:
    """A probe of nothing: every visit takes what a function of its width and number says."""

    def __init__(self, width, seconds):
        self.width, self.seconds, self.visits = width, seconds, 0

    def visit(self, least):
        self.visits += 1
        return self.seconds(self.width, self.visits - 1)


def choose(seconds, widths=(4, 16, 20), steps=10**6):
    """The width chosen by timings that are made up, and how often each was visited."""
    probes = {width: Fake(width, seconds) for width in (1, *widths)}
    group = groups.Group([], None, epochs=1, epoch_steps=steps, alone_seconds=seconds(1, 0))
    _, width = timing.find_width(probes.get, widths, group, MIB, 0)
    return width, {w: p.visits for w, p in probes.items()}


def test_slow_moments_change_no_choice():
    """One visit to one width takes 30 times as long, or the first ones to all: the choice stays."""
    truth = {1: 5.0, 4: 2.0, 16: 1.2, 20: 1.0}
    for slow in truth:
        for moment in range(4):

            def seconds(width, visit, slow=slow, moment=moment):
                return truth[width] * (30 if (width, visit) == (slow, moment) else 1)

            assert choose(seconds)[0] == 20, (slow, moment)
    assert choose(lambda width, visit: truth[width] * (30 if visit < 2 else 1))[0] == 20


def test_noise_chooses_nearly_the_best():
    """Every visit is slower by a random factor, 1 to 4 and often near 1, in 1,000 plans."""
    for truth, best in (
        ({1: 5.0, 4: 2.0, 16: 1.0, 20: 1.5}, 16),  # the widest is not the best
        ({1: 5.0, 4: 2.0, 16: 1.2, 20: 1.0}, 20),
    ):
        draws = random.Random(0)

        def seconds(width, visit, truth=truth, draws=draws):
            return truth[width] * (1 + 3 * draws.random() ** 4)

        chosen = [choose(seconds)[0] for _ in range(1000)]
        assert chosen.count(best) >= 900, truth


def test_a_plan_takes_few_visits():
    """Three turns of each width and the one before it; of a stack the first visit warms up."""
    chosen, visits = choose(lambda width, visit: 1 / width, (4, 16, 64))
    assert chosen == 64
    assert visits == {1: 3, 4: 7, 16: 7, 64: 4}
    # There is nothing left to share behind 4: wider ones are not even built.
    chosen, visits = choose(lambda width, visit: 0.1 / width + 1, (4, 16, 64))
    assert chosen == 4
    assert visits == {1: 3, 4: 4, 16: 0, 64: 0}


def test_a_wider_stack_is_given_up_after_many_turns():
    assert choose(lambda width, visit: float(width), (4,)) == (1, {1: 9, 4: 10})


def test_wider_ones_are_not_built_where_a_stack_is_clearly_slower():
    truth = {1: 8.0, 4: 1.0, 16: 2.0}
    chosen, visits = choose(lambda width, visit: truth[width], (4, 16, 64, 256))
    assert chosen == 4
    assert visits[64] == visits[256] == 0


def test_a_stack_that_is_slower_than_a_run_alone_is_none(monkeypatch):
    [group], tried = plan(monkeypatch, ["data=wine"], 20, 64, lambda width: 1 + width / 10)
    assert max(tried) == 4
    assert group.width == 1
    assert group.reason == "a stack would take 1.3 times as long"  # 1.4 / 1.1


@pytest.mark.filterwarnings("ignore:Seems like")  # of a copy, as plan_groups ignores it
def test_a_schedule_of_one_epoch_is_timed_for_many():
    """one_cycle refuses to step beyond its end; probes go on for as long as they like."""
    [config] = configs(["data=wine", "scheduler=one_cycle", "training.epochs=1"], 1)
    run = groups.assemble(config, build.data(config), build.device("cpu"))
    [fresh] = timing.clones(run, 1)
    for probe in (timing.probe_alone(run), timing.probe_stack(timing.clones(fresh, 2))):
        for _ in range(3 * groups.steps_per_epoch(len(run.data.train), run.training)):
            assert probe.visit(0) > 0


def test_a_run_by_itself_says_nothing_of_several(monkeypatch):
    """A search that asks for one run first, and then for more, trains these as a stack."""
    monkeypatch.setattr(timing.Probe, "visit", lambda probe, least: 1 / len(probe.runs))
    jobs = {i: Job(i, [], config) for i, config in enumerate(configs(["data=wine"], 6))}
    timed = {}

    def widths(*numbers):
        asked = {n: jobs[n] for n in numbers}
        return [g.width for g in groups.plan_groups(asked, build.data, 64, timed)]

    assert [widths(0), widths(1, 2, 3, 4), widths(5), widths(0, 5)] == [[1], [4], [1], [2]]


def of_activations(rows, monkeypatch, seconds, *more, names=("relu", "tanh", "gelu")):
    """The groups of so many runs of each activation; `seconds` of a step and run, by the width."""
    found = [
        command.checked(["data=wine", f"activation={name}", f"seed={seed}", *more])
        for seed in range(rows)
        for name in names
    ]
    monkeypatch.setattr(timing.Probe, "visit", lambda probe, least: seconds(len(probe.runs)))
    jobs = {i: Job(i, [], config) for i, config in enumerate(found)}
    return groups.plan_groups(jobs, lambda config: build.data(config), 64, {})


@pytest.mark.parametrize("model", [[], ["model=tabular"]], ids=str)
def test_few_runs_of_several_activations_are_one_stack_where_that_is_faster(monkeypatch, model):
    found = of_activations(2, monkeypatch, lambda width: 1 / width, *model)
    assert [(g.jobs, g.width, g.chunks) for g in found] == [([*range(6)], 6, [[*range(6)]])]
    assert (found[0].step_seconds, found[0].alone_seconds) == (1 / 6, 1.0)
    assert found[0].epochs == 6 * found[0].config["training"]["epochs"]
    slower = of_activations(2, monkeypatch, lambda width: 0.5 if width == 2 else 1.0, *model)
    assert [(g.jobs, g.width) for g in slower] == [([0, 3], 2), ([1, 4], 2), ([2, 5], 2)]
    one = of_activations(1, monkeypatch, lambda width: 0.96 if width > 1 else 1.0, *model)
    assert [g.width for g in one] == [1, 1, 1]  # which gains too little


def test_activations_do_not_mix_where_nothing_is_gained(monkeypatch):
    """Many rows of each, an activation with weights, a convolution's layout, too little room."""

    def fast(width):
        return 1 / width

    many = of_activations(17, monkeypatch, fast)
    assert [g.width for g in many] == [17, 17, 17]
    weights = of_activations(2, monkeypatch, fast, names=("relu", "prelu"))
    assert [g.jobs for g in weights] == [[0, 2], [1, 3]]
    images = ["data=digits", "model=cnn", "model.width=4", "model.depth=1"]
    assert [g.width for g in of_activations(2, monkeypatch, fast, *images)] == [2, 2, 2]
    slow = of_activations(2, monkeypatch, lambda width: 1e3 / width, "training.epochs=1")
    assert [g.width for g in slow] == [2, 2, 2]  # to time it would take as long as all of them
    monkeypatch.setattr(build, "free_memory", lambda device: 2.2 * 2 * size)
    size = memory_of(["data=wine"])
    assert [g.width for g in of_activations(2, monkeypatch, fast)] == [2, 2, 2]


def memory_of(lines):
    config = command.checked(lines)
    return timing.row_bytes(groups.assemble(config, build.data(config), build.device("cpu")))


def test_the_activations_that_mix_are_those_without_weights():
    assert {*stackable.ACTIVATIONS} == {kind.__name__ for kind in ELEMENTWISE}


def test_chunks_are_even():
    group = groups.Group(list(range(65)), None, width=64)
    assert [len(chunk) for chunk in group.chunks] == [33, 32]
    assert sorted(job for chunk in group.chunks for job in chunk) == group.jobs


def test_a_stack_is_misjudged_where_load_does_not_explain_it():
    def factor(seen, alone=1.0):
        return groups.misjudged(seen, planned=0.1, alone=alone, alone_planned=1.0)

    assert factor([0.11, 0.1, 0.12]) == 1.0
    assert factor([0.3, 0.3, 0.3]) == pytest.approx(3.0)
    assert factor([0.9, 0.14, 0.9]) == 1.0  # one epoch without a slow moment was as planned
    assert factor([0.3, 0.3]) == 1.0  # too few epochs
    assert factor([0.3, 0.3, 0.3], alone=2.5) == 1.0  # the machine is as much slower
    assert factor([0.8, 0.8, 0.8], alone=2.0) == pytest.approx(4.0)
    assert factor([0.3, 0.3, 0.3], alone=0.2) == pytest.approx(3.0)  # a faster one excuses nothing


def test_jobs_that_have_not_begun_are_planned_again_once(monkeypatch):
    """Stacks of 16 of 48 took twice as long as planned: the 32 left train 4 at a time."""
    timed, data = {}, {}
    times = {1: 5.0, 4: 1.5, 16: 1.0}
    monkeypatch.setattr(timing.Probe, "visit", lambda probe, least: times[len(probe.runs)])
    monkeypatch.setattr(timing, "cache_bytes", lambda device: 0)

    def read(config):
        return data.setdefault("wine", build.data(config))

    jobs = {i: Job(i, [], config) for i, config in enumerate(configs(["data=wine"], 48))}
    [group] = groups.plan_groups(jobs, read, 16, timed)
    assert (group.width, group.step_seconds, group.alone_seconds) == (16, 1.0, 5.0)
    first, *left = group.chunks
    assert groups.plan_again(group, left, [1.0, 1.0, 1.0], read, 16, timed) is None
    again = groups.plan_again(group, left, [2.0, 2.1, 2.2], read, 16, timed)
    assert again.width == 4
    assert again.slower == {16: 2.0}
    assert sorted(again.jobs + first) == list(range(48))
    assert all(len(chunk) == 4 for chunk in again.chunks)
    assert again.steps * 48 == group.steps * 32
    assert groups.plan_again(again, again.chunks, [9.0, 9.0, 9.0], read, 16, timed) is None
    [later] = groups.plan_groups({0: jobs[0], 1: jobs[1]}, read, 16, timed)
    assert later.slower == {16: 2.0}
