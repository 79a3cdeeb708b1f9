"""The importance of knobs, against exact answers."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, qmc

from knobs.errors import ConfigError
from knobs.report.conclusions import Estimate, KnobImportance
from knobs.report.importance import gp
from knobs.report.importance.effects import (
    NONE,
    UNKNOWN,
    _decided,
    _estimate,
    _more,
    _ordered,
    _share,
    _targets,
    importance,
)
from knobs.report.importance.space import Space
from knobs.report.records import Knob

ISHIGAMI = {"a": 0.5576, "b": 0.4424, "c": 0.2437, "inert": 0.0}  # total effects, closed form


def sobol(d, n, seed=0):
    return qmc.Sobol(d, rng=seed).random(n)


def table(x, names):
    return [dict(zip(names, map(float, row), strict=True)) for row in x]


def unit(names):
    return [Knob(name, 0.0, 1.0) for name in names]


def by_name(found):
    return {knob.name: knob for knob in found.knobs}


def holds(estimate, truth):
    return estimate.low <= truth <= estimate.high


# ------------------------------------------------------------------ effects against closed forms
@pytest.fixture(scope="module")
def ishigami():
    x = sobol(4, 256)
    a, b, c = np.pi * (2 * x[:, :3].T - 1)
    y = np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)
    return importance(unit(ISHIGAMI), table(x, ISHIGAMI), y.tolist(), "min")


def test_ishigami(ishigami):
    knobs = by_name(ishigami)
    assert [knob.name for knob in ishigami.knobs] == ["a", "b", "c", "inert"]
    for name, total in ISHIGAMI.items():
        assert knobs[name].moves.value == pytest.approx(total, abs=0.05), name
        assert holds(knobs[name].moves, total), name


def test_the_interaction_of_ishigami_is_that_of_the_first_and_third(ishigami):
    pairs = ishigami.interactions
    assert next(iter(pairs)) == ("a", "c")
    assert pairs["a", "c"].value == pytest.approx(0.2437, abs=0.06)
    assert len(pairs) == 6
    assert max(share.value for pair, share in pairs.items() if pair != ("a", "c")) < 0.03


def test_an_irrelevant_knob_is_last_and_its_interval_reaches_0(ishigami):
    last = ishigami.knobs[-1]
    assert last.name == "inert"
    assert last.moves.low == 0
    assert last.moves.high < 0.03
    assert last.p_top == 0


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_additive_function_with_noise_and_its_gain(mode):
    weights = np.array([4.0, 2.0, 1.0])
    names, x = ["four", "two", "one"], sobol(3, 64)
    y = x @ weights + np.random.default_rng(0).normal(0, 0.2, 64)
    default = dict.fromkeys(names, 0.5)
    found = importance(unit(names), table(x, names), y.tolist(), mode, default)
    knobs = by_name(found)
    for name, weight, share in zip(names, weights, weights**2 / 21, strict=True):
        assert knobs[name].moves.value == pytest.approx(share, abs=0.05), name
        assert knobs[name].gain.value == pytest.approx(weight / 2, abs=0.2), name
        assert knobs[name].gain.low > 0, name
    assert (found.decided, found.more) == ("sure", 0)
    assert all(share.value < 0.01 for share in found.interactions.values())


def test_nothing_is_gained_where_the_default_is_best():
    names, x = ["curved", "inert"], sobol(2, 64)
    y = -((x[:, 0] - 0.5) ** 2)
    default = dict.fromkeys(names, 0.5)
    knobs = by_name(importance(unit(names), table(x, names), y.tolist(), "max", default))
    assert abs(knobs["curved"].gain.value) < 0.005
    assert abs(knobs["inert"].gain.value) < 0.005
    assert knobs["curved"].moves.value > 0.95


# ------------------------------------------------------------------ runs that broke or were pruned
def test_breaks_finds_the_knob_that_breaks_and_moves_is_of_those_that_work():
    names, x = ["lr", "width", "inert"], sobol(3, 128)
    values = [None if lr > 0.7 else float(width + lr) for lr, width, _ in x]
    values = [float("nan") if v is None and i % 2 else v for i, v in enumerate(values)]
    default = dict.fromkeys(names, 0.5)
    found = importance(unit(names), table(x, names), values, "max", default)
    knobs = by_name(found)
    assert knobs["lr"].breaks.value > 0.9
    assert max(knobs["width"].breaks.value, knobs["inert"].breaks.value) < 0.05
    # Among working runs lr is uniform in [0, 0.7]: shares 0.49 and 1 of 1.49.
    assert knobs["lr"].moves.value == pytest.approx(0.49 / 1.49, abs=0.06)
    assert knobs["width"].moves.value == pytest.approx(1 / 1.49, abs=0.06)
    assert knobs["lr"].gain.value == pytest.approx(0.2, abs=0.06)  # to 0.7, not to 1
    assert (found.worked, found.broke) == (sum(x[:, 0] <= 0.7), sum(x[:, 0] > 0.7))


def test_pruned_runs_still_show_the_knob_that_had_them_pruned():
    names, x = ["lr", "inert"], sobol(2, 64)
    y, pruned = 0.9 * (x[:, 0] > 0.4) + 0.05 * x[:, 1], x[:, 0] <= 0.4
    found = importance(unit(names), table(x, names), y.tolist(), "max", pruned=pruned.tolist())
    knobs = by_name(found)
    assert found.pruned == pruned.sum()
    assert knobs["lr"].moves.low > 0.5
    assert knobs["lr"].p_top > 0.9
    assert knobs["inert"].moves.low < 0.03


def test_a_pruned_run_lies_between_its_bound_and_the_median_of_the_others():
    y, bound = np.array([0.0, 5.0, 1.0, 2.0, 3.0]), np.array([True, True, False, False, False])
    targets = _targets(y, bound, np.random.default_rng(0), 1000)
    assert 0 <= targets[0].min() < 0.1
    assert 1.9 < targets[0].max() <= 2
    assert (targets[1:] == y[1:, None]).all()


def test_one_exploded_value_is_not_all_the_variance():
    names, x = ["knob", "inert"], sobol(2, 64)
    y = x[:, 0].copy()
    y[7] = 1e9
    knobs = by_name(importance(unit(names), table(x, names), y.tolist(), "min"))
    assert knobs["knob"].moves.low > 0.5
    assert knobs["knob"].p_top == 1


# ------------------------------------------------------------------ kinds of knobs
def test_conditional_knobs_act_in_their_own_arm():
    x = sobol(3, 128)
    rows, y = [], []
    for arm, first, second in x:
        if arm < 0.5:
            rows.append({"optimizer": "adam", "adam.lr": float(first), "inert": float(second)})
            y.append(float(first))
        else:
            rows.append({"optimizer": "sgd", "sgd.lr": float(first), "inert": float(second)})
            y.append(2.0)
    knobs = [Knob("optimizer", choices=["adam", "sgd"]), *unit(["adam.lr", "sgd.lr", "inert"])]
    default = {"optimizer": "sgd", "sgd.lr": 0.5, "inert": 0.5}
    told = by_name(importance(knobs, rows, y, "max", default))
    # Var y = 1/24 + 9/16, adam.lr's share: 1/24 of it; the optimizer takes part in all of it but
    # what adam.lr does half of the time.
    whole = 1 / 24 + 1.5**2 / 4
    assert told["adam.lr"].moves.value == pytest.approx((1 / 24) / whole, abs=0.03)
    assert told["optimizer"].moves.value > 0.9
    assert told["sgd.lr"].moves.value < 0.01
    assert told["adam.lr"].gain == NONE  # inactive at the default
    assert told["optimizer"].gain.high < 0.05


def test_where_a_knob_is_inactive_is_read_off_the_rows():
    knobs = [Knob("arm", choices=["a", "b"]), Knob("a.lr", 0, 1), Knob("free", 0, 1)]
    rows = [
        {"arm": "a", "a.lr": 0.1, "free": 0.2},
        {"arm": "b", "free": 0.3},
        {"arm": "a", "a.lr": 0.9},
    ]
    space = Space(knobs, rows, None)
    assert space.rules == [None, (0, [1.0]), None]
    at = space.active(np.array([[0, 0.7, 0.1], [1, 0.7, 0.1]]))
    np.testing.assert_array_equal(at, [[0, 0.7, 0.1], [1, np.nan, 0.1]])
    half = 0.5**0.5
    np.testing.assert_allclose(space.encode(at), [[half, 0, 0.7, 0.1], [0, half, 0.5, 0.1]])


def test_a_categorical_knob_and_a_default_outside_its_choices():
    worth = {"relu": 0.0, "gelu": 1.0, "tanh": 4.0}
    x = sobol(2, 64)
    names = [list(worth)[int(3 * u)] for u in x[:, 0]]
    rows = [{"activation": n, "width": float(w)} for n, w in zip(names, x[:, 1], strict=True)]
    y = [worth[row["activation"]] + row["width"] for row in rows]
    knobs = [Knob("activation", choices=list(worth)), Knob("width", 0, 1)]
    found = by_name(importance(knobs, rows, y, "max", {"activation": "relu", "width": 0.5}))
    main, other = np.var([0, 1, 4]), 1 / 12
    assert found["activation"].moves.value == pytest.approx(main / (main + other), abs=0.03)
    assert found["width"].moves.value == pytest.approx(other / (main + other), abs=0.02)
    assert found["activation"].gain.value == pytest.approx(4, abs=0.3)
    odd = by_name(importance(knobs, rows, y, "max", {"activation": "selu", "width": 0.5}))
    assert np.isfinite(odd["activation"].gain.value)


def test_scales():
    knobs = [
        Knob("lr", 1e-4, 1e-2, log=True),
        Knob("depth", 1, 5, integer=True),
        Knob("batch", choices=[16, 64, 32]),
        Knob("norm", choices=[True, 1, None]),
    ]
    rows = [
        {"lr": 1e-3, "depth": 1, "batch": 32, "norm": True},
        {"lr": 0, "depth": 5, "batch": 48, "norm": 1.0},
        {"lr": 1e9, "depth": "x", "batch": 16, "norm": None},
    ]
    space = Space(knobs, rows, None)
    expected = [[0.5, 0, 0.5, 0], [0, 1, 0.75, 1], [1.25, np.nan, 0, 2]]
    np.testing.assert_allclose(space.rows, expected)
    sample, _ = space.points(np.random.default_rng(0), 9)
    assert set(sample[:, 1]) == {0, 0.25, 0.5, 0.75, 1}
    assert set(sample[:, 2]) == {0, 0.5, 1}
    assert set(sample[:, 3]) == {0, 1, 2}


# ------------------------------------------------------------------ noise, doubt, too little
def test_replicates_tell_noise_from_effect():
    names, x = ["knob", "inert"], np.repeat(sobol(2, 32), 4, 0)
    y = x[:, 0] + np.random.default_rng(0).normal(0, 1.0, len(x))  # noise 3.5 times the effect
    found = importance(unit(names), table(x, names), y.tolist(), "max")
    knobs = by_name(found)
    assert found.settings == 32
    assert found.worked == 128
    assert found.knobs[0].name == "knob"
    assert holds(knobs["knob"].moves, 1.0) or knobs["knob"].moves.high > 0.9
    assert knobs["inert"].moves.low == 0


def test_equal_knobs_are_not_decided():
    names, x = ["left", "right"], sobol(2, 64)
    y = x[:, 0] + x[:, 1] + np.random.default_rng(1).normal(0, 0.5, 64)
    found = importance(unit(names), table(x, names), y.tolist(), "max")
    knobs = by_name(found)
    assert knobs["left"].p_top + knobs["right"].p_top == pytest.approx(1)
    assert found.decided != "sure"
    assert found.more == 0 or found.decided == "no"
    assert abs(knobs["left"].moves.value - 0.5) < 0.2


def test_more_runs_shrink_the_spread_with_their_square_root():
    """P(first) = Phi(gap / spread): .55 now, .6 with (z(.6) / z(.55))^2 = 4.07 times the runs."""
    even = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    gap = norm.ppf(0.55)
    draws = np.stack([gap + even, np.zeros(20_000)], 1)
    assert _more(draws, 100) == pytest.approx(307, abs=20)
    assert _more(np.stack([even, -even], 1), 100) is None


def test_the_same_seed_gives_the_same_answer_and_another_one_another():
    names, x = ["a", "b"], sobol(2, 32)
    ask = lambda seed: importance(unit(names), table(x, names), x.sum(1).tolist(), "max", seed=seed)  # noqa: E731
    assert ask(0) == ask(0)
    assert ask(0) != ask(1)


def numbers(found):
    for knob in found.knobs:
        for e in (knob.breaks, knob.moves, knob.gain):
            yield from () if e is None else (e.value, e.low, e.high)


X = sobol(2, 8)


@pytest.mark.parametrize(
    ("x", "values", "moves", "breaks"),
    [
        (X[:0], [], UNKNOWN, UNKNOWN),
        (X[:1], [1.0], UNKNOWN, UNKNOWN),
        (X[:2], [1.0, None], UNKNOWN, UNKNOWN),
        (X, [None] * 8, UNKNOWN, NONE),
        (X, [0.5] * 8, NONE, NONE),
        (X * 0 + 0.5, list(range(8)), UNKNOWN, UNKNOWN),
    ],
    ids=["none", "one", "two", "all failed", "constant", "one setting"],
)
def test_too_little_is_said_to_be_unknown(x, values, moves, breaks):
    found = importance(unit("ab"), table(x, "ab"), values, "max", {"a": 0.5, "b": 0.5})
    assert {knob.moves for knob in found.knobs} == {moves}
    assert {knob.breaks for knob in found.knobs} == {breaks}
    assert (found.decided, found.more) == ("no", None)
    assert np.isfinite(list(numbers(found))).all()


@pytest.mark.parametrize("n", [3, 5])
def test_few_runs_give_wide_intervals(n):
    found = importance(
        unit("ab"), table(X[:n], "ab"), X[:n, 0].tolist(), "max", {"a": 0.5, "b": 0.5}
    )
    assert np.isfinite(list(numbers(found))).all()
    assert max(knob.moves.high - knob.moves.low for knob in found.knobs) > 0.2


def test_of_one_knob_there_is_a_gain_and_no_share():
    x = sobol(1, 16)
    found = importance(unit("a"), table(x, "a"), (x[:, 0] ** 2).tolist(), "min", {"a": 1.0})
    assert found.knobs[0].moves is None
    assert found.knobs[0].gain.value == pytest.approx(1, abs=0.1)
    assert (found.interactions, found.forest) == ({}, None)
    assert (found.decided, found.knobs[0].p_top) == ("no", 0.0)


def test_two_settings_of_one_knob_have_no_share_either():
    """Unknown would be 0 % (0 to 100), though all there is to know is due to it."""
    rows = [{"a": 0.0}, {"a": 1.0}] * 5
    [knob] = importance(unit("a"), rows, [0.0, 1.0] * 5, "max").knobs
    assert (knob.moves, knob.breaks) == (None, UNKNOWN)


def test_a_knob_that_never_varied_is_unknown():
    x = sobol(1, 16)
    rows = [{"a": float(row[0]), "fixed": 0.5} for row in x]
    knobs = by_name(importance(unit(["a", "fixed"]), rows, x[:, 0].tolist(), "max"))
    assert knobs["fixed"].moves == UNKNOWN
    assert knobs["a"].moves is None  # all there is, by definition


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "best"}, "best"),
        ({"values": [1.0]}, "one of each a run"),
        ({"knobs": unit("aa")}, "twice"),
    ],
)
def test_arguments_that_do_not_fit_are_said(change, message):
    given = {
        "knobs": unit("a"),
        "rows": table(X, ["a", "b"]),
        "values": [1.0] * 8,
        "mode": "max",
    }
    with pytest.raises(AssertionError, match=message):
        importance(**(given | change))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a: low=None"),
        ({"low": 1, "high": 1}, "low < high"),
        ({"low": 0, "high": 1, "log": True}, "a: low=0: must be above 0"),
    ],
)
def test_a_knob_needs_a_range(given, message):
    with pytest.raises(ConfigError, match=message):
        Knob("a", **given)


@pytest.mark.parametrize("huge", [1e99, 1e300, float("inf")])
def test_values_of_any_size(huge):
    values = (1e6 + 1e-3 * X[:, 0]).tolist()
    values[3] = huge
    found = importance(unit("ab"), table(X, "ab"), values, "min", {"a": 0.5, "b": 0.5})
    assert np.isfinite(list(numbers(found))).all()
    assert found.broke == (huge > 1e100)


# ------------------------------------------------------------------ what is known, and by whom
@pytest.mark.parametrize("n", [32, 64])
def test_few_runs_of_a_wavy_function_do_not_make_sure_of_the_wrong_knob(n):
    """Ishigami's first knob acts through the third in corners that few runs see."""
    wrong = 0
    for seed in range(3):
        x = sobol(4, n, seed)
        a, b, c = np.pi * (2 * x[:, :3].T - 1)
        y = np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)
        found = importance(unit(ISHIGAMI), table(x, ISHIGAMI), y.tolist(), "max", seed=seed)
        wrong += found.decided == "sure" and found.knobs[0].name != "a"
    assert wrong == 0


def test_two_models_that_disagree_decide_nothing():
    knobs = [KnobImportance(n, NONE, Estimate(v, 0, 1), None, p) for n, v, p in
             (("a", 0.6, 0.95), ("b", 0.4, 0.05))]  # fmt: skip
    alike, other = {"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}
    assert [knob.name for knob in _ordered(knobs, alike)] == ["a", "b"]
    assert [knob.name for knob in _ordered(knobs, other)] == ["b", "a"]  # .4 + .9 > .6 + .1
    assert _decided(_ordered(knobs, alike), alike) == "sure"
    assert _decided(_ordered(knobs, other), other) == "no"
    assert _decided(knobs, {"a": 0.45, "b": 0.55}) == "no"  # though the mean has a first
    assert _decided(knobs, None) == "sure"


def test_the_forest_is_scikit_learns_and_stands_beside():
    ensemble = pytest.importorskip("sklearn.ensemble")
    names, x = ["a", "b"], sobol(2, 32)
    y = x[:, 0] + 0.1 * x[:, 1]
    found = importance(unit(names), table(x, names), y.tolist(), "max")
    theirs = ensemble.RandomForestRegressor(random_state=0).fit(x, y).feature_importances_
    assert list(found.forest) == names
    assert list(found.forest.values()) == pytest.approx(list(theirs), abs=0.02)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_a_value_lies_within_its_interval(draws):
    for found in (_estimate(np.array(draws)), _share(np.clip(np.abs(draws), 0, 1))):
        assert found.low <= found.value <= found.high


def test_an_estimate_outside_its_interval_cannot_be_made():
    with pytest.raises(ValueError, match="-0.07 is not in its interval, -0.04 to 0"):
        Estimate(-0.07, -0.04, 0)


def test_left_out_settings_are_predicted_as_by_a_fit_without_them():
    x, owner, y = columns()
    x[1], theta = x[0], np.array([-0.3, 0.4, 0.1, -0.4, -0.5, -0.7, -1.0])  # two seeds of one
    y = y - y.mean()
    whole, rests, means = gp.covariance(x, owner, theta), [], []
    for rows in [[0, 1], *([i] for i in range(2, 30))]:
        rest = np.setdiff1d(np.arange(30), rows)
        weights = np.linalg.solve(whole[np.ix_(rest, rest)], y[rest])
        rests += list(y[rows] - whole[np.ix_(rows, rest)] @ weights)
        means += list(y[rows] - y[rest].mean())
    expected = 1 - np.square(rests).sum() / np.square(means).sum()
    assert gp.left_out(x, owner, y, [theta]) == pytest.approx(expected, rel=1e-9)


def test_the_test_of_any_effect_is_wrong_as_often_as_it_says_and_finds_one():
    rng, x, owner = np.random.default_rng(0), sobol(3, 32), np.arange(3)
    none = np.array([gp.any_effect(x, owner, rng.standard_normal(32), rng) for _ in range(200)])
    assert np.mean(none <= 0.1) == pytest.approx(0.1, abs=0.06)  # 3 standard errors
    assert none.mean() == pytest.approx(0.5, abs=0.065)
    assert gp.any_effect(x, owner, x[:, 0] + 0.1 * rng.standard_normal(32), rng) == 1 / 1000


# ------------------------------------------------------------------ the Gaussian process
def columns():
    rng = np.random.default_rng(0)
    return rng.random((30, 3)), np.array([0, 1, 1]), rng.standard_normal(30)


def test_the_likelihood_is_that_of_scikit_learn():
    kernels = pytest.importorskip("sklearn.gaussian_process.kernels")
    from sklearn.gaussian_process import GaussianProcessRegressor

    x, owner, y = columns()
    x, owner = x[:, :2], owner[:2]
    theta = np.log([0.7, 1.5, 1, 1, 0.8, 1e-12, 0.1])  # hardly a part of a knob's own
    kernel = 0.8 * kernels.Matern([0.7, 1.5], nu=2.5) + kernels.WhiteKernel(0.1)
    theirs = GaussianProcessRegressor(kernel, optimizer=None).fit(x, y)
    value, _ = gp.likelihood(theta, gp.squares(x, owner), y)
    assert value == pytest.approx(theirs.log_marginal_likelihood_value_, rel=1e-6)


def test_the_gradient_is_that_of_the_likelihood():
    x, owner, y = columns()
    squares, theta = gp.squares(x, owner), np.array([-0.3, 0.4, 0.2, -0.6, -0.2, 0.1, -1.0])
    _, gradient = gp.likelihood(theta, squares, y)
    steps = 1e-5 * np.eye(7)
    slopes = [
        (gp.likelihood(theta + s, squares, y)[0] - gp.likelihood(theta - s, squares, y)[0]) / 2e-5
        for s in steps
    ]
    np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)


def test_drawn_functions_have_the_posteriors_mean_and_variance():
    x, owner, y = columns()
    theta, at = (
        np.array([-0.3, 0.4, 0.1, -0.4, -0.5, -0.7, -1.0]),
        np.random.default_rng(1).random((5, 3)),
    )
    joint, own, noise = np.exp(theta[4:])

    def kernel(a, b):
        total = joint * gp.matern(gp.distance(a, b, np.exp(-theta[owner])))
        for k in range(2):
            one = owner == k
            total += own * gp.matern(gp.distance(a[:, one], b[:, one], np.exp(-theta[2 + k])))
        return total

    whole = kernel(x, x) + noise * np.eye(30)
    mean = kernel(at, x) @ np.linalg.solve(whole, y)
    variance = np.diag(kernel(at, at) - kernel(at, x) @ np.linalg.solve(whole, kernel(x, at)))
    rng = np.random.default_rng(2)
    groups = [gp.draw(x, owner, np.repeat(y[:, None], 20, 1), theta, rng) for _ in range(100)]
    drawn = gp.evaluate(groups, at)
    assert drawn.shape == (2000, 5)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.15)


def test_the_import_is_cheap():
    code = (
        "import sys, knobs.report.importance.effects;"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
