"""The arithmetic of a verdict against closed forms and against scipy."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from knobs.report.stats import (
    LEAST_PAIRS,
    Z,
    critical,
    expected_best,
    noise_floor,
    paired,
    split_size,
)


def seeds(values):
    """Values of one validation split, by seed."""
    return {(seed, 0, 0): value for seed, value in enumerate(values)}


def splits(values):
    """Values of a validation split each."""
    return {(split, split, 0): value for split, value in enumerate(values)}


def half(pair):
    return (pair.high - pair.low) / 2


def test_paired_differences_are_taken_repeat_by_repeat_and_by_the_mode():
    a = {(0, 0, 0): 0.9, (1, 0, 0): 0.8, (2, 0, 0): 0.7, (9, 0, 0): 0.1}
    b = {(2, 0, 0): 0.65, (1, 0, 0): 0.9, (0, 0, 0): 0.8, (7, 0, 0): 0.5}
    (pair,) = paired(a, [b])
    assert pair.repeats == ((0, 0, 0), (1, 0, 0), (2, 0, 0))
    assert pair.differences == pytest.approx((0.1, -0.1, 0.05))
    assert pair.mean == pytest.approx(0.05 / 3)
    assert pair.names == ("seed 0", "seed 1", "seed 2")
    assert paired(a, [b], sign=-1)[0].mean == pytest.approx(-0.05 / 3)
    assert paired({(0, 0, 0): 1.0}, [{(1, 0, 0): 1.0}]) == [None]


def test_seeds_of_one_split_are_averaged_where_there_are_several_splits():
    a = {(0, 0, 0): 0.9, (1, 0, 0): 0.7, (0, 1, 0): 0.8, (0, 1, 2): 0.6}
    (pair,) = paired(a, [dict.fromkeys(a, 0.5)])
    assert pair.splits
    assert pair.differences == pytest.approx((0.3, 0.3, 0.1))
    assert pair.names == ("split 0", "split 1", "split 1, fold 2")


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_of_two_arms_on_one_split_is_students(n):
    values = np.random.default_rng(n).normal(0.01, 0.02, n)
    (pair,) = paired(seeds(values), [seeds(np.zeros(n))])
    expected = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (pair.low, pair.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_the_interval_over_splits_is_that_of_nadeau_and_bengio():
    values = np.array([0.010, 0.021, 0.004, 0.013, 0.030])
    (pair,) = paired(splits(values), [splits(np.zeros(5))], ratio=0.25)
    reach = scipy_stats.t.ppf(0.975, 4) * math.sqrt(values.var(ddof=1) * (1 / 5 + 0.25))
    assert half(pair) == pytest.approx(reach, rel=1e-9)
    (of_seeds,) = paired(seeds(values), [seeds(np.zeros(5))], ratio=0.25)
    assert half(of_seeds) == pytest.approx(reach / math.sqrt(1 + 0.25 * 5), rel=1e-9)


def test_one_split_of_few_examples_widens_an_interval_by_what_it_blurs():
    first, other = seeds([0.90, 0.91, 0.92, 0.90, 0.91]), seeds([0.88, 0.88, 0.89, 0.87, 0.88])
    (without,), (with_it,) = paired(first, [other]), paired(first, [other], examples=360)
    error = 1 - np.mean(list(first.values()))
    granular = math.sqrt(max(np.var([0.02, 0.03, 0.03, 0.03, 0.03], ddof=1), 0.028 / 360))
    c = scipy_stats.t.ppf(0.975, 4)
    expected = math.hypot(c * granular / math.sqrt(5), Z * math.sqrt(error / 360))
    assert half(with_it) == pytest.approx(expected, rel=1e-9)
    assert half(with_it) > half(without)


def test_four_pairs_cannot_beat_and_five_can():
    lead = [1.0 + 0.01 * seed for seed in range(5)]
    four, five = (paired(seeds(lead[:n]), [seeds([0.5] * n)])[0] for n in (4, 5))
    assert four.low > 0
    assert (four.n, four.beats) == (4, False)
    assert (five.n, five.beats) == (LEAST_PAIRS, True)


def test_the_critical_values_of_equal_variances_are_at_most_those_of_the_t_tests_of_all_pairs():
    """Bonferroni's inequality bounds them above, a single pair below."""
    for arms in (3, 5, 9):
        t = scipy_stats.t.ppf(1 - 0.025 / (arms * (arms - 1) / 2), 4)
        (c,) = critical(arms, (5,))
        assert scipy_stats.t.ppf(0.9, 4) < c < t


def test_more_looks_and_more_arms_need_more():
    once, looks = critical(5, (5,)), critical(5, (5, 10, 15, 20))
    assert list(looks) == sorted(looks, reverse=True)
    assert looks[0] > once[0]
    many = [critical(arms, (10,))[0] for arms in (2, 5, 16, 17, 50, 200)]
    assert many == sorted(many)


@pytest.mark.parametrize(("arms", "n", "shared"), [(2, 5, 0.0), (5, 5, 0.2), (5, 10, 0.4)])
def test_equal_arms_beat_each_other_in_at_most_5_of_100_studies(arms, n, shared):
    ratio = shared / (1 - shared)
    random = np.random.default_rng(arms * n)
    wrong = 0
    for _ in range(400):
        own = random.standard_normal((arms, n)) * math.sqrt(1 - shared)
        table = own + random.standard_normal((arms, 1)) * math.sqrt(shared)
        table = table[np.argsort(-table.mean(1))]
        first, *others = map(splits, table)
        wrong += any(pair.beats for pair in paired(first, others, ratio=ratio))
    assert wrong <= 33  # 5 % of 400, and three standard errors


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
