"""The mean over folds: seeds first, the interval of Nadeau and Bengio in closed form."""

import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from knobs.report.folds import over_folds
from knobs.report.leaderboard import is_knob, leaderboard
from knobs.report.records import RunRecord


def run(value, fold, seed=0, split_seed=0, folds=5, sizes=None, status="finished"):
    config = {"seed": seed, "data": {"folds": folds, "fold": fold, "split_seed": split_seed}}
    names = ("validation_examples", "training_examples")
    summary = dict(zip(names, sizes, strict=True)) if sizes else {}
    return RunRecord(
        Path("x"), status=status, setting="one", config=config, metric="val/accuracy",
        value=value, summary=summary,
    )  # fmt: skip


VALUES = [0.91, 0.93, 0.90, 0.95, 0.92]


def test_the_interval_is_the_corrected_one():
    found = over_folds([run(v, k) for k, v in enumerate(VALUES)])
    sd = np.std(VALUES, ddof=1)
    reach = t.ppf(0.975, 4) * math.sqrt(sd**2 * (1 / 5 + 1 / 4))
    assert (found.n, found.seeds) == (5, 1)
    assert found.mean == pytest.approx(np.mean(VALUES), abs=1e-15)
    assert found.sd == pytest.approx(sd, abs=1e-15)
    assert (found.low, found.high) == pytest.approx(
        (found.mean - reach, found.mean + reach), abs=1e-12
    )


def test_the_overlap_is_that_of_the_recorded_sizes():
    runs = [run(v, k, sizes=(30, 100)) for k, v in enumerate(VALUES)]
    found = over_folds(runs)
    reach = t.ppf(0.975, 4) * np.std(VALUES, ddof=1) * math.sqrt(1 / 5 + 0.3)
    assert found.high - found.mean == pytest.approx(reach, abs=1e-12)


def test_seeds_are_averaged_inside_a_fold_first():
    offsets = [-0.02, 0.0, 0.05]
    runs = [run(v + o, k, seed) for k, v in enumerate(VALUES) for seed, o in enumerate(offsets)]
    runs += [run(None, 0, 9, status="failed")]
    found, alone = over_folds(runs), over_folds([run(v, k) for k, v in enumerate(VALUES)])
    assert found.seeds == 3
    assert found.n == 5
    assert found.mean == pytest.approx(alone.mean + 0.01, abs=1e-12)
    assert found.sd == pytest.approx(alone.sd, abs=1e-12)
    assert found.high - found.low == pytest.approx(alone.high - alone.low, abs=1e-12)


def test_the_interval_of_a_share_ends_at_1():
    runs = [run(v, k) for k, v in enumerate((1.0, 0.9, 1.0, 1.0, 1.0))]
    found = over_folds(runs)
    losses = over_folds([replace(one, metric="val/loss") for one in runs])
    assert (found.low, found.high) == (losses.low, 1.0)
    assert losses.high > 1


def test_a_run_that_ran_again_counts_once():
    """Two sweeps share seed 0: it does not weigh twice against seed 1."""
    runs = [run(v + seed / 100, k, seed) for k, v in enumerate(VALUES) for seed in range(2)]
    again = [run(v, k) for k, v in enumerate(VALUES)]
    assert over_folds([*runs, *again]) == over_folds(runs)
    assert over_folds(runs).seeds == 2


def test_few_folds_and_none():
    assert over_folds([run(0.9, 0, folds=None)]) is None
    one, two = over_folds([run(0.9, 0)]), over_folds([run(0.9, 0), run(0.8, 1)])
    assert (one.n, one.sd, one.low) == (1, None, None)
    assert two.sd == pytest.approx(0.1 / math.sqrt(2))
    assert two.low is None


def test_folds_and_split_seeds_are_repeats_of_one_setting():
    runs = [run(v, k, split_seed=s) for k, v in enumerate(VALUES) for s in range(2)]
    [entry] = leaderboard(runs)
    assert entry.n == 10  # equal values of other repeats are observations of their own
    assert runs[3].repeat == (0, 1, 1)
    assert RunRecord(Path("x"), config={"seed": True}).repeat == (0, 0, 0)
    knobs = ["data.folds", "data.fold", "data.split_seed", "data.val"]
    assert [is_knob(name) for name in knobs] == [True, False, False, True]


def test_folds_that_hold_out_the_same_rows_are_one():
    """By time no seed cuts other folds: 3 folds and 2 of them again are 3, and not 5."""
    runs = [
        replace(run(v, k % 3, seed=k, split_seed=k // 3), val_rows=f"rows {k % 3}")
        for k, v in enumerate(VALUES)
    ]
    found = over_folds(runs)
    means = [statistics.mean(VALUES[k::3]) for k in range(3)]
    assert (found.n, found.seeds) == (3, 1)
    assert found.mean == pytest.approx(statistics.mean(means), abs=1e-15)
    assert found.sd == pytest.approx(statistics.stdev(means), abs=1e-15)
