"""The arithmetic of a verdict against closed forms and against scipy."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from knobs.report.stats import (
    ALPHA,
    expected_best,
    interval,
    noise_floor,
    paired,
    range_test,
    sign_flip,
    split_size,
)


def test_paired_differences_are_taken_seed_by_seed_and_by_the_mode():
    a, b = {0: 0.9, 1: 0.8, 2: 0.7, 9: 0.1}, {2: 0.65, 1: 0.9, 0: 0.8, 7: 0.5}
    pairs = paired(a, b)
    assert pairs.seeds == (0, 1, 2)
    assert pairs.differences == pytest.approx((0.1, -0.1, 0.05))
    assert pairs.mean == pytest.approx(0.05 / 3)
    assert paired(a, b, sign=-1).mean == pytest.approx(-0.05 / 3)
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 14])
def test_sign_flip_has_the_smallest_p_there_is_when_all_agree(n):
    assert sign_flip([0.1 * (i + 1) for i in range(n)]) == 2 / 2**n


def test_sign_flip_counts_the_patterns_by_hand():
    # |±3 ±1 ±1| >= |3 + 1 - 1| = 3: of 8 patterns all but the two with |3 - 1 - 1| = 1
    assert sign_flip([3.0, 1.0, -1.0]) == 6 / 8
    assert sign_flip([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip([2.0, -2.0]) == 1.0


def test_sign_flip_of_many_pairs_is_the_normal_test_nearly():
    values = np.random.default_rng(1).normal(0.3, 1, 200)
    z = values.sum() / math.sqrt((values**2).sum())
    expected = 2 * scipy_stats.norm.sf(abs(z))
    assert sign_flip(list(values)) == pytest.approx(expected, abs=4e-3)


def test_interval_is_students():
    values = (0.010, 0.021, 0.004, 0.013, 0.030)
    found = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((found.low, found.high), rel=1e-12)


def test_interval_holds_the_truth_as_often_as_it_says():
    drawn = np.random.default_rng(0).normal(0.3, 1.0, (4000, 5))
    held = np.mean([low <= 0.3 <= high for low, high in map(interval, drawn)])
    assert held == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 4000))


def test_range_test_of_two_is_the_sign_flip_test():
    a, b = (0.95, 0.97, 0.96, 0.99), (0.94, 0.98, 0.93, 0.95)
    assert range_test([a, b]) == sign_flip([x - y for x, y in zip(a, b, strict=True)])


def test_range_test_of_three_by_hand():
    # Each of two seeds orders 0, 1, 2 in six ways; the sums lie 4 apart in the one in six that agree.
    table = [(2.0, 2.0), (1.0, 1.0), (0.0, 0.0)]
    assert range_test(table) == pytest.approx(1 / 6, abs=0.02)
    assert range_test(table[::-1]) == range_test(table)


def test_the_best_of_seven_equal_settings_seldom_beats_another():
    drawn = np.random.default_rng(0).normal(0.0, 1.0, (200, 7, 5))
    false = {"pair": 0, "range": 0}
    for table in drawn:
        ordered = table[np.argsort(-table.mean(1))]
        beaten = [i for i in range(1, 7) if paired_rows(ordered[0], ordered[i]).beats]
        false["pair"] += bool(beaten)
        false["range"] += any(range_test(ordered[: i + 1]) <= ALPHA for i in beaten)
    assert false["pair"] > 40
    assert false["range"] < 30  # 10 % of 200, and three standard errors


def paired_rows(a, b):
    return paired(dict(enumerate(a)), dict(enumerate(b)))


def test_interval_where_there_is_nothing_to_resample():
    assert interval((0.1, 0.2)) == (None, None)
    assert interval((0.25, 0.25, 0.25)) == (0.25, 0.25)
    assert interval((0.0, 0.0, 0.0)) == (0.0, 0.0)


def test_four_seeds_cannot_beat_and_five_can():
    lead = {seed: 1.0 + 0.01 * seed for seed in range(5)}
    behind = dict.fromkeys(range(5), 0.5)
    four, five = paired(lead, dict(list(behind.items())[:4])), paired(lead, behind)
    assert (four.p, four.apart, four.beats) == (0.125, True, False)
    assert (five.p, five.apart, five.beats) == (0.0625, True, True)


def test_noise_floor_is_the_closed_form():
    assert noise_floor(0.02, 360) == math.sqrt(0.02 / 720)
    assert noise_floor(-1e-9, 10) == 0.0


@pytest.mark.parametrize("size", [97, 360, 1000, 10_000])
def test_split_size_is_found_from_float32_shares(size):
    counts = np.random.default_rng(0).integers(1, size, 60)
    shares = [float(np.float32(count / size)) for count in counts]
    assert split_size(shares) == size


def test_split_size_is_not_guessed():
    assert split_size([0.5, 0.25, 0.75]) is None
    assert split_size(list(np.random.default_rng(0).random(50))) is None


def test_expected_best_is_the_mean_over_all_subsets():
    values = [0.3, 0.9, 0.1, 0.5, 0.5, 0.7]
    table = expected_best(values)
    for k in range(1, len(values) + 1):
        bests = sorted(max(subset) for subset in combinations(values, k))
        assert table[k - 1, 0] == pytest.approx(np.mean(bests), rel=1e-12)
        assert table[k - 1, 1] == bests[math.ceil(0.1 * len(bests)) - 1]
        assert table[k - 1, 2] == bests[math.ceil(0.9 * len(bests)) - 1]
    assert table[-1, 0] == 0.9
