"""Verdicts: intervals against scipy, verdicts against their intervals, numbers of pairs to come."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from knobs.compare.answer import headline
from knobs.compare.arms import Arm, with_finite
from knobs.compare.decide import BETTER, SAME, TOO_FEW, WORSE, Question, best, compare
from knobs.report.records import Objective
from knobs.report.stats import Z, critical

SCORE = Question(Objective("score", "max"))
SHARE = Question(Objective("val/accuracy", "max"))


def arm(name, values, split=None):
    """An arm whose seeds are 0, 1, ..., each on a split of its own where `split` is true."""
    repeats = {(i, i if split else 0, 0): v for i, v in enumerate(values)}
    return Arm(name, repeats, "score")


def moved(values, seed):
    """The same runs under other seeds: without partners."""
    return {(i + seed, 0, 0): v for i, v in enumerate(values)}


BASE = [0.10, 0.30, 0.20, 0.50, 0.40, 0.35]
GAINS = [0.10, 0.12, 0.09, 0.13, 0.11, 0.08]


def up(by=1.0, n=6):
    return [b + by * g for b, g in zip(BASE[:n], GAINS[:n], strict=True)]


def test_paired_by_seed_is_students_interval():
    [found] = compare(arm("a", BASE), [arm("b", up())], SCORE)
    expected = stats.ttest_1samp(GAINS, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert (found.code, found.n, found.pairs, found.splits) == (BETTER, 6, True, False)


def test_over_splits_the_variance_is_nadeau_and_bengios():
    question = replace(SCORE, ratio=0.5)
    [found] = compare(arm("a", BASE, True), [arm("b", up(), True)], question)
    t = stats.t.ppf(0.975, 5)
    reach = t * statistics.stdev(GAINS) * math.sqrt(1 / 6 + 0.5)
    assert found.high - found.mean == pytest.approx(reach, rel=1e-9)
    assert found.splits


def test_without_pairs_it_is_welchs_interval():
    other = Arm("b", moved(up(2.0, 5), 100), "score")
    [found] = compare(arm("a", BASE), [other], SCORE)
    expected = stats.ttest_ind(up(2.0, 5), BASE, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert not found.pairs


def test_several_without_pairs_share_the_level():
    others = [Arm(name, moved(up(), 100), "score") for name in "bcd"]
    found = compare(arm("a", BASE), others, SCORE)
    level = 1 - 0.05 / 3
    expected = stats.ttest_ind(up(), BASE, equal_var=False).confidence_interval(level)
    assert [c.low for c in found] == pytest.approx([expected.low] * 3, rel=1e-9)


def test_one_without_pairs_takes_the_others_along():
    others = [arm("b", up()), Arm("c", moved(up(), 100), "score")]
    assert [c.pairs for c in compare(arm("a", BASE), others, SCORE)] == [False, False]


def test_several_candidates_have_simultaneous_intervals():
    found = compare(arm("a", BASE), [arm("b", up()), arm("c", up(0.5))], SCORE)
    [alone] = compare(arm("a", BASE), [arm("b", up())], SCORE)
    assert found[0].high - found[0].low == pytest.approx(
        (alone.high - alone.low) * critical(3, (6,))[0] / critical(2, (6,))[0], rel=1e-6
    )


def test_less_is_better_where_the_objective_says_so():
    question = replace(SCORE, objective=Objective("loss", "min"))
    [found] = compare(arm("a", up()), [arm("b", BASE)], question)
    assert found.code == BETTER
    assert found.mean == pytest.approx(statistics.fmean(GAINS))


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_four_pairs_say_nothing(n):
    a, b = arm("a", BASE[:n]), arm("b", up(n=n))
    assert compare(a, [b], SCORE)[0].code == (BETTER if n == 5 else TOO_FEW)
    assert compare(b, [a], SCORE)[0].code == (WORSE if n == 5 else TOO_FEW)


def test_the_detectable_difference_splits_no_difference_from_too_few():
    noisy = [b + d for b, d in zip(BASE, [0.1, -0.1, 0.05, -0.05, 0.02, -0.03], strict=True)]
    [found] = compare(arm("a", BASE), [arm("b", noisy)], SCORE)
    end = max(-found.low, found.high)
    assert found.code == SAME
    for detect, code in ((end * 1.01, SAME), (end * 0.99, TOO_FEW)):
        [found] = compare(arm("a", BASE), [arm("b", noisy)], replace(SCORE, detect=detect))
        assert found.code == code


@pytest.mark.parametrize(
    ("margin", "code"), [(0.2, BETTER), (0.06, TOO_FEW), (0.001, WORSE)], ids=str
)
def test_not_worse_by_a_margin(margin, code):
    down = [b - g for b, g in zip(BASE, [0.04, 0.08, 0.05, 0.07, 0.06, 0.06], strict=True)]
    [found] = compare(arm("a", BASE), [arm("b", down)], replace(SCORE, margin=margin))
    assert found.code == code


@pytest.mark.parametrize("splits", [False, True])
def test_the_number_of_pairs_that_would_decide(splits):
    """With as many more of the same spread the interval just excludes 0, and with one fewer not."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(8)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1) + 0.7
    question = replace(SCORE, ratio=0.05)
    base = np.arange(8) / 7
    [found] = compare(arm("a", base, splits), [arm("b", base + drawn, splits)], question)
    assert found.code == SAME
    rho = 0.05 * splits

    def reach(n):
        return stats.t.ppf(0.975, n - 1) * math.sqrt(1 / n + rho)

    n = found.n + found.more
    assert reach(n) < 0.7 <= reach(n - 1)


def test_no_number_of_splits_decides_a_difference_that_they_share():
    drawn = np.random.default_rng(0).standard_normal(8)
    drawn = (drawn - drawn.mean()) / drawn.std(ddof=1) + 0.9  # below 1.96 sqrt(.25) deviations
    [found] = compare(arm("a", np.arange(8), True), [arm("b", np.arange(8) + drawn, True)], SCORE)
    assert (found.code, found.more) == (SAME, None)


def test_two_pairs_say_how_many_more():
    [found] = compare(arm("a", [0.0, 1.0]), [arm("b", [1.0, 1.8])], SCORE)
    n = found.n + found.more
    s = statistics.stdev([1.0, 0.8])
    assert found.code == TOO_FEW
    assert n == max(5, next(m for m in range(2, 99)
                            if stats.t.ppf(0.975, m - 1) * s / math.sqrt(m) < 0.9))  # fmt: skip


def test_a_split_is_a_sample_itself():
    question = replace(SHARE, examples=360)
    [found] = compare(arm("a", [v / 2 + 0.4 for v in BASE]),
                      [arm("b", [v / 2 + 0.4 for v in up()])], question)  # fmt: skip
    error = 1 - statistics.fmean(v / 2 + 0.4 for v in BASE)
    assert found.high - found.mean >= Z * math.sqrt(error / 360)


# ------------------------------------------------------------------ diverged
def test_a_share_that_diverged_counts_as_0_and_a_loss_as_far_beyond():
    a, b = arm("a", [0.5, 0.9]), arm("b", [math.nan, 0.7])
    assert with_finite([a, b], SHARE.objective)[1].values[0, 0, 0] == 0.0
    assert with_finite([a, b], Objective("loss", "min"))[1].values[0, 0, 0] == pytest.approx(1.3)
    assert with_finite([a, b], Objective("score", "max"))[1].values[0, 0, 0] == pytest.approx(0.1)


def test_an_arm_that_diverged_alone_is_never_better():
    """Even where one lost share, which counts as 0, leaves the interval above 0."""
    base = [v / 1000 for v in range(40)]
    far = [*(0.9 + v for v in base[:-1]), math.nan]
    [found] = compare(arm("a", base), [arm("b", far)], SHARE)
    assert found.low > 0
    assert (found.code, found.broke, found.more) == (SAME, (1, 0), None)
    [found] = compare(arm("b", far), [arm("a", base)], SHARE)
    assert (found.code, found.broke) == (SAME, (0, 1))
    assert headline(found, SHARE).startswith("neither of a and b is better in val/accuracy")


def test_an_arm_that_always_diverges_is_worse():
    [found] = compare(arm("a", BASE), [arm("b", [math.nan] * 6)], SCORE)
    assert found.code == WORSE
    [found] = compare(arm("a", [math.nan] * 6), [arm("b", [math.nan] * 6)], SCORE)
    assert found.code == TOO_FEW


def test_divergence_alone_is_seldom_called_a_difference():
    """Equal arms of which one run in ten diverges."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        drawn = np.where(rng.random((2, 5)) < 0.1, np.nan, rng.standard_normal((2, 5)))
        [found] = compare(arm("a", list(drawn[0])), [arm("b", list(drawn[1]))], SCORE)
        wrong += found.code in (BETTER, WORSE)
    assert wrong <= 30


# ------------------------------------------------------------------ what no seed can tell
def test_runs_that_ignore_their_seed_are_one_observation():
    [found] = compare(arm("a", [0.5] * 8), [arm("b", [0.6] * 8)], SCORE)
    assert (found.code, found.constant) == (TOO_FEW, True)
    [found] = compare(arm("a", [0.5] * 8), [arm("b", [0.6, 0.61] * 4)], SCORE)
    assert (found.code, found.constant) == (BETTER, False)


def test_arms_of_one_split_each_are_not_told_apart():
    other = Arm("b", {(i, 7, 0): v + 9 for i, v in enumerate(BASE)}, "score")
    [found] = compare(arm("a", BASE), [other], SCORE)
    assert (found.code, found.single) == (TOO_FEW, True)


def test_runs_without_a_partner_are_counted():
    [found] = compare(arm("a", BASE), [arm("b", up(n=5))], SCORE)
    assert (found.n, found.alone) == (5, (1, 0))


def test_the_best_candidate_decides():
    found = compare(arm("a", BASE), [arm("b", BASE[::-1]), arm("c", up())], SCORE)
    assert best(found).candidate.name == "c"


def test_many_arms_of_many_pairs_take_no_time():
    """The critical value is that of the largest family that is simulated, a little too large."""
    drawn = np.random.default_rng(0).standard_normal((3, 20_000))
    found = compare(arm("a", drawn[0]), [arm("b", drawn[1]), arm("c", drawn[2] + 0.1)], SCORE)
    spread = np.std(drawn[2] - drawn[0], ddof=1)  # none of the three is far from it
    reach = (found[1].high - found[1].low) / 2 * math.sqrt(20_000)
    assert reach == pytest.approx(critical(3, (300,))[0] * spread, rel=0.02)
    assert critical(3, (300,))[0] == pytest.approx(stats.studentized_range.ppf(0.95, 3, 1e5)
                                                   / math.sqrt(2), rel=0.02)  # fmt: skip
    assert [c.code for c in found] == [SAME, BETTER]
