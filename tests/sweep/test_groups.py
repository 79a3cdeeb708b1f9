"""Groups of runs with several members: their rows, their memory, what they share."""

import pytest

from knobs import build
from knobs.config import command
from knobs.sweep import groups
from knobs.sweep.jobs import Job


def plan(monkeypatch, overrides, jobs, width):
    """The groups of so many jobs, and the numbers of runs whose stacks were timed."""
    tried = []

    def time_stack(run, count):
        tried.append(count)
        return 1e-9 / count  # wider is faster

    monkeypatch.setattr(groups, "time_stack", time_stack)
    configs = [command.checked([*overrides, f"seed={i}"]) for i in range(jobs)]
    planned = groups.plan_groups(
        {i: Job(i, [], config) for i, config in enumerate(configs)},
        lambda config: build.data(config), width, {},
    )  # fmt: skip
    return planned, tried


def test_widths_count_rows(monkeypatch):
    """Stacks of 4, 16, 64, 256 rows are timed: of runs with four members a quarter as many runs."""
    one, tried = plan(monkeypatch, ["data=wine"], 20, 64)
    assert tried == [4, 16, 20]
    four, tried = plan(monkeypatch, ["data=wine", "training.members=4"], 20, 64)
    assert tried == [4, 16]  # 16 and 64 rows, the most there may be
    assert (one[0].width, four[0].width) == (20, 16)


def test_members_are_what_the_runs_of_a_stack_share():
    one, two = (command.checked([f"training.members={m}"]) for m in (1, 2))
    assert groups.alone(two) == ""
    assert groups.shared(one) != groups.shared(two)


def test_memory_counts_members():
    def memory(members):
        plain = command.checked(["data=wine", f"training.members={members}"])
        return groups.row_bytes(groups.assemble(plain, build.data(plain), build.device("cpu")))

    assert memory(4) == pytest.approx(4 * memory(1), rel=0.05)
