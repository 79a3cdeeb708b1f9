"""A budget in minutes where the machine's clock moves, processes are killed, and runs share time."""

import datetime
import itertools
import random

import pytest
from injected import faults
from optuna.trial import TrialState

from knobs.search import minutes, trials
from knobs.search.space import Range, Space
from knobs.search.trials import Search

SPACE = Space({"": {"lr": Range(1e-4, 1e-1, True)}})


class Clocks:
    """A monotonic clock that a test moves, of some machine; and dates that jump as they like."""

    def __init__(self, monkeypatch):
        self.machine, self.seconds = "a", 1000.0
        monkeypatch.setattr(minutes, "now", lambda: (self.machine, self.seconds))
        draw = random.Random(0)
        jumps = (datetime.datetime(draw.randrange(1971, 2190), 1, 1) for _ in itertools.count())

        class Date(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return next(jumps)

        monkeypatch.setattr("optuna.trial._frozen.datetime", _Module(Date))
        monkeypatch.setattr("optuna.storages.journal._storage.datetime", Date)


class _Module:
    def __init__(self, date):
        self.datetime, self.timedelta = date, datetime.timedelta


@pytest.fixture
def clocks(monkeypatch):
    return Clocks(monkeypatch)


def search(folder=None, budget=10.0):
    return Search(folder, SPACE, method="random", budget=budget, unit="minutes")


def used(one):
    return pytest.approx(one.spent(), abs=1e-9)


@faults(
    "the machine's date moved by up to two centuries while a search has a budget in minutes",
    "the minutes are those that runs were under way, by a clock that nobody sets",
    quick=10,
    whole=200,
)
def test_dates_change_no_budget(clocks, tmp_path, tried, cases):
    goal = 0.0
    for _ in range(cases):
        with search(tmp_path, budget=cases) as one:
            [trial] = one.ask()
            clocks.seconds += 30  # half a minute of work
            goal += 0.5
            assert goal == used(one)
            one.tell(trial, trial.values["lr"])
        clocks.seconds += 1000  # and nothing for a while
        with search(tmp_path, budget=cases) as one:
            assert goal == used(one)
        tried()


def test_runs_side_by_side_count_once(clocks):
    one = search()
    pair = one.ask(2)
    clocks.seconds += 60
    one.tell(pair[0], 0.1)
    clocks.seconds += 60
    one.tell(pair[1], 0.1)
    assert used(one) == 2
    clocks.seconds += 60  # nobody is at work
    one.tell(one.ask()[0], 0.1)
    assert used(one) == 2


def test_processes_of_one_machine_side_by_side_count_once_and_others_add(clocks, tmp_path):
    with search(tmp_path) as first, search(tmp_path) as second:
        [mine], [other] = first.ask(), second.ask()
        clocks.seconds += 60
        first.tell(mine, 0.1)
        second.tell(other, 0.1)
        assert used(first) == 1
    clocks.machine, clocks.seconds = "b", 17.0  # after a boot, its clock begins again
    with search(tmp_path) as third:
        [trial] = third.ask()
        clocks.seconds += 120
        third.tell(trial, 0.1)
        assert used(third) == 3


@faults(
    "a process killed that has runs under way, of a search with a budget in minutes",
    "they count what they are known to have used, and the budget goes on from there",
    quick=4,
)
def test_a_killed_process_counts_what_it_is_known_to_have_used(clocks, tmp_path, tried, cases):
    goal = 0.0
    for minutes_known in range(cases):
        killed = search(tmp_path)
        [trial] = killed.ask()
        clocks.seconds += 60 * minutes_known
        for study in killed._arms.values():  # as it notes every few seconds
            killed._storage.set_study_user_attr(study, killed._process, minutes.now())
        clocks.seconds += 7
        killed.close()  # without a word of its trial: as its locks are freed by the system
        clocks.seconds += 6000
        goal += minutes_known
        with search(tmp_path) as one:
            assert goal == used(one)
            [again] = one.ask()
            assert again == trial
            clocks.seconds += 60
            one.tell(again, 0.1)
            goal += 1
            assert goal == used(one)
            assert {t.state for t in one.trials("")} == {TrialState.COMPLETE}
        tried()


def test_a_process_at_work_notes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "BEAT", 0.01)
    with search(tmp_path) as one:
        study = one._arms[""]
        while one._process not in one._storage.get_study_user_attrs(study):
            pass
        clock, seconds = one._storage.get_study_user_attrs(study)[one._process]
        assert clock == minutes.now()[0]
        assert 0 <= minutes.now()[1] - seconds < 60


def test_a_journal_of_before_goes_on_by_its_dates(tmp_path):
    """Trials without spans count the dates of their journal."""
    start = datetime.datetime(2026, 1, 1)
    end = start + datetime.timedelta(minutes=3)
    overlapping = minutes.of_dates(start, end) + minutes.of_dates(start, end)
    assert minutes.used(map(tuple, overlapping)) == pytest.approx(3)
    assert minutes.of_dates(start, None) == []
