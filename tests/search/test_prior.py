"""What other tasks liked: coordinates, the process, its file, beliefs, and searches that use it."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from threadpoolctl import threadpool_info, threadpool_limits

from knobs.errors import ConfigError, DataError
from knobs.record import Ended
from knobs.search import methods, prior, recovery, sweeps, table
from knobs.search.belief import Belief, Cube, _likelihood, _scale
from knobs.search.coordinates import (
    NAMES,
    NUMBERS,
    OPTIONS,
    context,
    coordinates,
    described,
    known,
)
from knobs.search.learn import priors, settings
from knobs.search.learn.__main__ import main
from knobs.search.methods import PHASES, van_der_corput
from knobs.search.prior import FILE, FOREIGN, MOST_BYTES, Group, Prior, Process, learned
from knobs.search.recovery import Recorded, Runs
from knobs.search.space import Choice, Range, Space
from knobs.search.sweeps import Before, OwnSweeps
from knobs.search.trials import JOURNAL, Search

LR = Range(1e-5, 1e-1, True)
ADAM = {"optimizer": "adam", "model": "mlp"}
PROCESS = Process([0.4] * len(NUMBERS), [0.1] * len(NAMES), 0.5, 0.2, 1.5, 0.3, 0.05)


def at(**setting):
    """The coordinates of a setting by their names."""
    row = coordinates({}, [{key.replace("__", "."): value for key, value in setting.items()}])[0]
    return dict(zip(NAMES, row, strict=True))


# ------------------------------------------------------------------ coordinates
def test_coordinates_are_in_units_of_the_family():
    adam = at(optimizer="adam", optimizer__lr=1e-3, optimizer__betas=[0.9, 0.99])
    assert adam["lr"] == pytest.approx(0.5)
    assert adam["momentum"] == pytest.approx(math.log(0.1 / 0.02) / math.log(0.5 / 0.02))
    assert adam["beta2"] == pytest.approx(0.5)
    assert at(optimizer="momentum", optimizer__lr=1e-3)["lr"] == 0
    assert at(optimizer="sgd", optimizer__lr=1)["lr"] == 1
    assert at(optimizer="sgd")["momentum"] == 1  # which is none
    assert at(optimizer="adamw", optimizer__weight_decay=1)["weight_decay"] == 1
    assert at(optimizer="adam", optimizer__weight_decay=1e-2)["weight_decay"] == 1


def test_what_is_off_or_beyond_the_range_has_a_place():
    off = at(regularization__l1=0.0, regularization__dropout=0, training__clip_norm=None)
    assert (off["l1"], off["dropout"], off["clip_norm"]) == (-0.25, -0.25, 1.25)
    edge = at(optimizer="adam", optimizer__lr=10, regularization__l1=1e-12, model__width=4096)
    assert (edge["lr"], edge["l1"], edge["width"]) == (1, 0, 1)


def test_what_is_not_said_is_not_known():
    row = at(optimizer="lbfgs", optimizer__lr=1, scheduler="step", model__width="wide")
    assert all(math.isnan(row[name]) for name in ("family", "lr", "scheduler", "width", "norm"))
    assert at(regularization__norm=None)["norm"] == 0
    assert at(optimizer="adam", **{"regularization__l2": 1e-7})["weight_decay"] == 0


def test_names_without_a_dot_are_known_by_their_last_part():
    assert [*map(known, ("lr", "learning_rate", "model.width", "depth"))] == [
        *("lr", "lr", "width", "depth"),
    ]
    assert known("mine.lr") == known("data.val") == known("alpha_dropout") == ""
    assert at(lr=1e-3)["lr"] == pytest.approx(0.5)  # as Adam's, the config's default
    assert at(lr=1e-3, momentum=0.9)["lr"] == 0


def test_an_option_that_is_searched_brings_what_is_its_own():
    fixed = context({**ADAM, "optimizer.lr": 1e-3, "regularization.norm": None})
    rows = coordinates(fixed, [{"optimizer": "adam"}, {"optimizer": "momentum"}])
    lr, norm = NAMES.index("lr"), NAMES.index("norm")
    assert rows[0, lr] == pytest.approx(0.5)
    assert math.isnan(rows[1, lr])  # Adam's rate is not momentum's
    rows = coordinates(fixed, [{"regularization": "batchnorm"}, {"regularization": "dropout"}])
    assert rows[:, norm].tolist() == [1, 0]
    assert rows[1, NAMES.index("dropout")] == pytest.approx(1 / 3)


# ------------------------------------------------------------------ the process
def drawn(count, seed=0):
    draw = np.random.default_rng(seed)
    options = [draw.integers(len(of), size=count) for of in OPTIONS.values()]
    return np.c_[np.stack(options, 1), draw.random((count, len(NUMBERS)))]


def test_the_covariance_is_that_of_effects_pairs_and_the_whole():
    a, b = drawn(2), drawn(3, 1)
    n = len(OPTIONS)
    near = [(a[0, j] == b[1, j]) * 1.0 for j in range(n)]
    near += [math.exp(-((a[0, j] - b[1, j]) ** 2) / 0.32) for j in range(n, len(NAMES))]
    far = [1.0 if same else 0.3 for same in near[:n]]
    far += [math.exp(-((a[0, j] - b[1, j]) ** 2) / 0.72) for j in range(n, len(NAMES))]
    pairs = sum(0.01 * x * y for i, x in enumerate(near) for y in near[:i])
    expected = 0.1 * sum(near) + 0.5 * pairs + 0.2 * math.prod(far)
    assert PROCESS.between(a, b)[0, 1] == pytest.approx(expected)
    assert PROCESS.between(a, a)[0, 0] == pytest.approx(PROCESS.variance)
    assert np.linalg.eigvalsh(PROCESS.between(drawn(40), drawn(40))).min() > -1e-9


def test_what_is_not_known_is_averaged_over():
    b, lone = drawn(30), PROCESS
    only = Process([0.4] * len(NUMBERS), [0.1] * len(NAMES), 0.0, 0.0, 1.5, 0.3, 0.05)
    for process, j in ((lone, 6), (only, 0)):
        a = drawn(1, 2)
        explicit = np.repeat(a, len(b), 0)
        explicit[:, j] = b[:, j]
        mean, averages = process.between(explicit, b).mean(0), process.averages(b)
        both = np.r_[a, a]
        a[0, j] = both[1, j] = np.nan
        assert process.between(a, b, averages)[0] == pytest.approx(mean, rel=0.02)
        assert np.allclose(process.between(both, b, averages)[1], process.between(a, b, averages))
    assert lone.among(a, a)[0, 0] == pytest.approx(lone.variance)


def made(count=60, tasks=5, seed=0):
    """A prior of tasks that like a learning rate near .6 of the range, each a little elsewhere."""
    points, draw = drawn(count), np.random.default_rng(seed)
    points[:, [NAMES.index("embedding_dim")]] = 0.5
    lr = points[:, NAMES.index("lr")]
    losses = np.stack([(lr - 0.6 - 0.05 * draw.standard_normal()) ** 2 for _ in range(tasks)])
    group = Group(
        "mlp", [{"task": f"t{i}"} for i in range(tasks)], points, prior.normal_scores(losses)
    )
    lengths = [0.3] + [2.0] * (len(NUMBERS) - 1)
    amplitudes = [0.01] * len(OPTIONS) + [1.0] + [0.01] * (len(NUMBERS) - 1)
    return Prior([group], Process(lengths, amplitudes, 0.1, 0.01, 1.5, 0.3, 0.02), {"date": "d"})


def test_a_prior_is_the_mean_of_its_tasks_and_unsure_where_they_differ():
    found = made()
    outlook = found.at(found.groups[0].points, "mlp")
    mean = found.groups[0].scores.mean(0)
    assert np.corrcoef(outlook.mean, mean)[0, 1] > 0.98
    rows = slice(0, 20)
    cov = outlook.covariance(rows, rows)
    assert np.allclose(np.diag(cov), outlook.variance()[rows])
    assert np.linalg.eigvalsh(cov).min() > -1e-9
    grid = found.view({"optimizer.lr": LR}, ADAM).outlook(
        [{"optimizer.lr": 10**-e} for e in (5, 2.6)]
    )
    assert grid.mean[0] > 0.5 > -0.5 > grid.mean[1]  # .0 and .6 of the range


@pytest.mark.parametrize(
    ("family", "more", "factor"),
    [
        ("adam", {"model.width": 512.0}, 4),  # of 128: as much wider
        ("adam", {"model.width": 64.0}, 1),
        ("adam", {"training.batch_size": 4.0}, 2),  # of 16: the root
        ("momentum", {"training.batch_size": 4.0}, 4),
        ("momentum", {"training.batch_size": 256.0}, 0.5),  # of 128
        ("adam", {"training.batch_size": 64.0, "model.width": 256.0}, 2),
    ],
)
def test_a_rate_beyond_a_range_is_that_of_its_edge_which_is_alike(family, more, factor):
    about, place = {"model": "mlp", "optimizer": family}, NAMES.index("lr")
    here = coordinates(context(about), [{"optimizer.lr": 2e-3 * factor}])[0, place]
    assert coordinates(context(about), [{"optimizer.lr": 2e-3} | more])[0, place] == (
        pytest.approx(here, abs=1e-12)
    )


def test_longer_runs_take_lower_rates_where_epochs_are_not_searched():
    place, rate = NAMES.index("lr"), {"optimizer.lr": 1e-3}
    about = {"model": "mlp", "optimizer": "adam"}

    def at(given, point):
        return coordinates(context(about | given), [point])[0, place]

    plain = at({}, rate)
    assert at({"training.epochs": 20}, rate) == plain
    assert at({"training.epochs": 640}, rate) == pytest.approx(plain + 0.4 * math.log10(32) / 4)
    assert at({}, rate | {"training.epochs": 640}) == plain
    assert made().view({"training.epochs": LR}, about) is None


def test_tasks_of_another_kind_of_model_are_left_out_where_there_are_enough():
    [mlp] = made().groups
    few = Group("cnn", [{"task": f"c{i}"} for i in range(4)], mlp.points, mlp.scores[:4] + 1)
    both = replace(made(), groups=[mlp, few])
    assert (both.count("mlp"), both.count("cnn"), both.count(None), both.tasks) == (5, 9, 9, 9)
    alone, all_ = made().at(mlp.points, "mlp"), both.at(mlp.points, "cnn")
    assert np.array_equal(both.at(mlp.points, "mlp").mean, alone.mean)
    assert all_.parts.shape[1] == 9
    assert all_.mean.mean() == pytest.approx(alone.mean.mean() + 4 / 9, abs=0.1)
    view = both.view({"optimizer.lr": LR}, ADAM)
    assert view.told == {"tasks": 5, "date": "d"}


def test_tasks_of_another_type_count_less_where_there_are_enough():
    [group] = made(tasks=7).groups
    types = ["regression"] * 2 + ["classification"] * 5
    tasks = [{"task": f"t{i}", "type": of} for i, of in enumerate(types)]
    found = replace(made(), groups=[replace(group, tasks=tasks)])
    own, other = 1 / (5 + 2 * FOREIGN), FOREIGN / (5 + 2 * FOREIGN)
    assert found.weights("mlp", "classification") == pytest.approx([other] * 2 + [own] * 5)
    for task in ("regression", "multilabel", None):  # of which there are too few, or none
        assert found.weights("mlp", task) == pytest.approx([1 / 7] * 7)
    points, values = group.points[:9], found.functions(group.points[:9], "mlp")
    outlook = found.view({"optimizer.lr": LR}, ADAM).prior.at(points, "mlp", "classification")
    mean = values @ found.weights("mlp", "classification")
    assert outlook.mean == pytest.approx(mean)
    spread = (values - mean[:, None]) ** 2 @ found.weights("mlp", "classification")
    assert (outlook.parts**2).sum(1) == pytest.approx(spread)
    [low], [high] = (
        found.view({"optimizer.lr": LR}, ADAM | {"data.task": of})
        .outlook([{"optimizer.lr": 0.01}])
        .mean
        for of in ("classification", "regression")
    )
    assert low != high  # a search says of which type its data are
    assert described({"data": {"task": "regression"}}, {}) == {"data.task": "regression"}


def test_scores_are_normal_and_broken_runs_are_the_worst():
    scores = prior.normal_scores(np.array([3.0, np.nan, 1.0, np.inf, 2.0]))
    ppf = stats.norm.ppf
    assert scores.tolist() == pytest.approx(
        [0, ppf(0.7 + 0.1), ppf(0.1), ppf(0.8), ppf(0.3)], abs=1e-9
    )


def test_shuffled_scores_belong_to_other_settings():
    found = made()
    one, two = found.shuffled(0), found.shuffled(0)
    assert np.array_equal(one.groups[0].scores, two.groups[0].scores)
    assert np.allclose(np.sort(one.groups[0].scores), np.sort(found.groups[0].scores))
    best = one.at(found.groups[0].points, "mlp").mean
    assert abs(np.corrcoef(best, found.groups[0].scores.mean(0))[0, 1]) < 0.5


# ------------------------------------------------------------------ the file
def test_a_prior_comes_back_as_it_was(tmp_path):
    path, before = tmp_path / "p.safetensors", made()
    path.write_bytes(prior.encode(before))
    after = learned(path)
    assert after.process == Process(**json.loads(json.dumps(vars(before.process))))
    assert after.tasks == 5
    assert after.about["tasks"]["mlp"][0] == {"task": "t0"}
    assert np.allclose(after.groups[0].scores, before.groups[0].scores, atol=2e-3)
    assert after.name.startswith("learned d ")


def test_a_changed_prior_is_refused(tmp_path):
    data = prior.encode(made())
    for i in (20, len(data) // 2, len(data) - 1):
        path = tmp_path / f"{i}"
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(DataError, match="no prior .*search.prior=none"):
            learned(path)
    with pytest.raises(DataError, match="cannot be read"):
        learned(tmp_path / "none")


def test_the_packages_prior_knows_none_of_what_it_is_judged_by():
    found = learned()
    assert FILE.stat().st_size < MOST_BYTES
    assert found.about["command"] == "python -m knobs.search.learn --prior"  # of no folder of ours
    tasks = [task for group in found.groups for task in group.tasks]
    assert len(tasks) == found.tasks > 0
    assert all(len(task["digest"]) == 16 for task in tasks)
    judges = ("digits", "fashion", "mnist", "openml", "higgs", "adult")
    assert not [t for t in tasks if any(name in t["source"].lower() for name in judges)]


# ------------------------------------------------------------------ the maker
def tabled(task, wanted, shapes=2, mode="max", **more):
    """A table of a task whose objective is best at a rate of `wanted`, in units of its family."""
    every, units = settings.shapes("mlp")[:shapes], settings.units()[: 16 * shapes]
    lines = settings.overrides("mlp", True, every, units)
    sign = 1 if mode == "max" else -1
    good = -sign * abs((units[:, 1] + 0.5) / 65536 - wanted)
    curves = np.repeat(np.stack([good, good - sign]), 2, 1)[None].repeat(2, 0).transpose(0, 2, 1)
    facts = {
        "task": task, "source": task, "fold": 0, "type": "classification", "model": "mlp",
        "rows": 9, "inputs": [2], "classes": 2, "shapes": every, "seeds": 2, "mode": mode,
        "data": "", "overrides": settings.digest(lines), **more,
    }  # fmt: skip
    return table.Table(facts, units, curves.astype(np.float16))


def test_the_maker_learns_what_the_tables_like():
    tables = [tabled("a", 0.7), tabled("b", 0.7, mode="min"), tabled("c", 0.65)]
    found = priors.of_tables(tables)
    [group] = found.groups
    assert [task["task"] for task in group.tasks] == ["a", "b", "c"]
    assert np.array_equal(group.scores[0], group.scores[1])  # whichever way is better
    best = group.points[group.scores[0].argmin()]
    assert best[NAMES.index("lr")] == pytest.approx(0.7, abs=0.05)
    points = [{"optimizer.lr": LR.from_unit(u)} for u in (0.1, 0.4, 0.7, 1.0)]
    mean = found.view({"optimizer.lr": LR}, ADAM).outlook(points).mean
    assert mean.argmin() == 2
    amplitudes = dict(zip(NAMES, found.process.amplitudes, strict=True))
    assert max(amplitudes, key=amplitudes.get) == "lr"


def test_diverged_runs_count_for_what_they_reached_before():
    curves = tabled("a", 0.7).curves.copy()
    curves[:, :2, 1] = np.nan  # setting 0: after its best epoch
    curves[:, 2:4] = np.nan  # setting 1: at once
    losses = priors.losses_of(replace(tabled("a", 0.7), curves=curves))
    whole = priors.losses_of(tabled("a", 0.7))
    assert losses[0] == whole[0]
    assert losses[1] == np.inf
    assert np.array_equal(losses[2:], whole[2:])


def test_tables_that_do_not_go_together_are_refused():
    with pytest.raises(DataError, match="the table of b: other settings than that of a"):
        priors.of_tables([tabled("a", 0.7), tabled("b", 0.7, shapes=1)])
    with pytest.raises(DataError, match="the table of a: its settings meant others"):
        priors.of_tables([tabled("a", 0.7, overrides="x")])


def test_the_maker_writes_a_prior_of_the_tables_in_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(priors, "STEPS", 2)
    monkeypatch.setattr(table, "_check", lambda *args: (32, 11, (2, 64, 2)))
    for name in ("a", "b"):
        table.write(tmp_path / f"{name}.table", tabled(name, 0.7, settings=16, epochs=2))
    out = tmp_path / "p.safetensors"
    assert main(["--prior", "--folder", str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 tasks, {out.stat().st_size:,} bytes\n"
    assert learned(out).about["command"].startswith("python -m knobs.search.learn --prior --folder")
    assert main(["--out", str(out)]) == 2
    assert "--out is of --prior" in capsys.readouterr().err
    assert main(["--prior", "--folder", str(tmp_path / "none")]) == 3


# ------------------------------------------------------------------ beliefs
def test_the_scale_of_losses_is_the_likeliest():
    draw = np.random.default_rng(0)
    x = draw.random((6, 1))
    cov = np.exp(-((x - x.T) ** 2) / 0.1) + 0.1 * np.eye(6)
    y, mean = draw.standard_normal(6), draw.standard_normal(6)
    white = np.linalg.solve(np.linalg.cholesky(cov), np.stack([y, mean, np.ones(6)], 1))
    best = _scale((white.T @ white)[None], 6)[0]

    def likelihood(s):
        """Of s y under a mean of any level: density of the contrasts, by any basis of them."""
        basis = np.linalg.svd(np.ones((1, 6)))[2][1:]
        normal = stats.multivariate_normal(basis @ mean, basis @ cov @ basis.T)
        return normal.logpdf(s * (basis @ y)) + 5 * math.log(s)

    grid = [best * math.exp(e) for e in np.linspace(-1, 1, 401)]
    assert grid[int(np.argmax([*map(likelihood, grid)]))] == pytest.approx(best)
    at_best = _likelihood(cov[None], y, mean)[0]
    other = _likelihood(cov[None] * 1.7, y, mean)[0]
    white = np.linalg.solve(np.linalg.cholesky(1.7 * cov), np.stack([y, mean, np.ones(6)], 1))
    s = _scale((white.T @ white)[None], 6)[0]
    basis = np.linalg.svd(np.ones((1, 6)))[2][1:]
    normal = stats.multivariate_normal(basis @ mean, 1.7 * basis @ cov @ basis.T)
    wider = normal.logpdf(s * (basis @ y)) + 5 * math.log(s)
    assert at_best - other == pytest.approx(likelihood(best) - wider)


def believed(losses, points, found):
    view = found.view({"optimizer.lr": LR}, ADAM)
    cube = Cube(np.array([[LR.to_unit(p["optimizer.lr"])] for p in points]), np.array([False]))
    return Belief(cube, view.outlook(points), np.array(losses), np.random.default_rng(0))


def test_runs_that_speak_against_a_prior_take_its_weight():
    points = [{"optimizer.lr": 10 ** -float(e)} for e in np.linspace(5, 1, 8)]
    unit = np.linspace(0, 1, 8)
    agree = believed((unit - 0.6) ** 2, points, made())
    against = believed(-((unit - 0.6) ** 2), points, made())
    assert agree.learned > 0.8
    assert against.learned < 0.3 < 0.5 < agree.learned


def test_improvement_is_that_of_draws():
    points = [{"optimizer.lr": 10 ** -float(e)} for e in (4.5, 3, 1.5)]
    belief = believed([1.0, 0.2, 0.9], points, made())
    more = [*points, {"optimizer.lr": 10**-2.4}]
    cube = Cube(np.array([[LR.to_unit(p["optimizer.lr"])] for p in more]), np.array([False]))
    outlook = made().view({"optimizer.lr": LR}, ADAM).outlook(more)
    gain, total = belief.improvement(cube, outlook)[0], 0.0
    draw = np.random.default_rng(0)
    for weight, fit, rest in belief._asked(cube, outlook):
        mean, sd = fit.at(*rest)
        draws = mean[0] + sd[0] * draw.standard_normal(200_000)
        total += weight * np.maximum(fit.best - draws, 0).mean() / fit.scale
    assert gain == pytest.approx(total, rel=0.02)


# ------------------------------------------------------------------ searches
def search(folder=None, knobs=None, **options):
    about = {"budget": 9, "mode": "min", "context": {"": ADAM}, "prior": made()} | options
    return Search(folder, Space({"": knobs or {"optimizer.lr": LR}}), **about)


def lose(values):
    return (LR.to_unit(values["optimizer.lr"]) - 0.55) ** 2


def play(searching, n=1, most=100):
    seen = []
    while len(seen) < most and (batch := searching.ask(n)):
        for trial in batch:
            searching.tell(trial, lose(trial.values))
            seen.append(trial)
    return seen


def test_a_search_begins_with_the_default_and_what_others_liked():
    trials = play(search(defaults={"": {"optimizer.lr": 1e-4}}))
    assert [t.phase for t in trials] == ["default"] + ["prior"] * 8
    assert LR.to_unit(trials[1].values["optimizer.lr"]) == pytest.approx(0.6, abs=0.07)
    assert min(lose(t.values) for t in trials) < 1e-3


def test_a_batch_differs():
    batch = search(defaults={"": {"optimizer.lr": 1e-4}}).ask(9)
    assert [t.phase for t in batch] == ["default", "prior", "prior", "prior"]
    units = sorted(LR.to_unit(t.values["optimizer.lr"]) for t in batch)
    assert min(np.diff(units)) > 0.02


def test_a_proposal_takes_one_thread(monkeypatch):
    seen = []

    def look(task):
        seen.extend(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")
        return {"optimizer.lr": 1e-3}

    monkeypatch.setitem(PHASES, "default", look)
    with threadpool_limits(2, "blas"):
        search(defaults={"": {"optimizer.lr": 1e-3}}).ask(1)
    assert set(seen) == {1}


def test_what_speaks_against_a_prior_is_the_share_of_sobol_points(monkeypatch):
    assert [*map(van_der_corput, range(6))] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]

    class Doubted:
        learned = 0.4

        def __init__(self, *args):
            pass

        def improvement(self, cube, outlook):
            return -cube.points[-methods.MANY :, 0]

    knobs = {"optimizer.lr": LR, "regularization.dropout": Range(0, 0.5, False)}
    plain = [t.values for t in play(search(knobs=knobs, prior=None, budget=20), most=2)]
    monkeypatch.setattr(methods, "Belief", Doubted)
    default = {"optimizer.lr": 1e-3, "regularization.dropout": 0.0}
    found = play(search(knobs=knobs, defaults={"": default}), most=4)
    assert [t.phase for t in found] == ["default", "prior", "prior", "prior"]
    sobol = [t.values in plain for t in found]
    assert sobol == [False, False, True, False]  # 0 and 1/4 lie below .4, 1/2 does not
    assert found[1].values["optimizer.lr"] < 2e-5  # of MANY points


def test_a_search_of_unknown_knobs_is_as_without_a_prior():
    knobs = {"data.val": Range(0.1, 0.5, False)}
    asked = [
        [t.values for t in search(knobs=knobs, prior=p, budget=4).ask(2)] for p in (made(), None)
    ]
    assert asked[0] == asked[1]
    assert search(knobs=knobs).views == {}


def test_a_search_goes_on_with_the_same_trials(tmp_path):
    whole = [t.values for t in play(search())]
    with search(tmp_path) as first:
        before = [t.values for t in play(first, most=5)]
    with search(tmp_path) as second:
        after = [t.values for t in play(second)]
    assert before + after == whole


@pytest.mark.parametrize("told", range(6))
def test_pairs_go_on_as_if_the_process_had_not_ended(tmp_path, monkeypatch, told):
    whole = [trial.values for trial in play(search(budget=6), n=2)]
    with search(tmp_path, budget=6) as first:
        play(first, n=2, most=told // 2 * 2)
        if told % 2:  # it ended when one of two had
            trial, _ = first.ask(2)
            first.tell(trial, lose(trial.values))
        else:  # or when one of two was written down
            steps = [lambda batch: sys.exit(9), first._next]
            monkeypatch.setattr(first, "_next", lambda batch: steps.pop()(batch))
            with pytest.raises(SystemExit):
                first.ask(2)
    with search(tmp_path, budget=6) as second:
        rest = [trial.values for trial in play(second, n=2)]
    assert rest == whole[told:]
    assert len(whole) == 6


def test_another_prior_in_the_folder_is_another_search(tmp_path):
    with search(tmp_path) as first:
        play(first, most=2)
    with pytest.raises(ConfigError, match="began from the prior learned d; give search.prior as"):
        search(tmp_path, prior=None)
    (tmp_path / "b").mkdir()
    with search(tmp_path / "b", prior=None) as other:
        play(other, most=2)
    with pytest.raises(ConfigError, match="began without a prior; give search.prior as it was"):
        search(tmp_path / "b")


@pytest.mark.parametrize("began", ["learned d", ""])
def test_a_journal_made_anew_goes_on_with_its_prior_alone(tmp_path, monkeypatch, began):
    """study.json says which it was, where the journal is lost."""
    there = [Recorded(0, "", {"optimizer.lr": 1e-3}, "default", Ended("finished", 1.0, 4), 1.0)]
    monkeypatch.setattr(recovery, "recorded", lambda *_: list(there))
    same, other = ({}, {"prior": None}) if began else ({"prior": None}, {})
    runs = Runs(prior=began)
    told = "from the prior learned d" if began else "without a prior"
    with pytest.raises(ConfigError, match=f"holds a search that began {told}; give search.prior"):
        search(tmp_path, runs=runs, **other)
    with search(tmp_path, runs=runs, **same) as found:
        assert found.repaired == f"{JOURNAL} is lost: made anew from 1 run"
        assert (found.prior.name if found.prior else "") == began
    (tmp_path / JOURNAL).unlink()
    with search(tmp_path, runs=Runs(), **other) as found:  # nothing says which it was
        assert found.repaired == f"{JOURNAL} is lost: made anew from 1 run"


def test_a_search_older_than_priors_goes_on_without(tmp_path):
    with search(tmp_path, prior=None, budget=6) as first:
        begun = [t.values for t in play(first, most=2)]
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    kept = [{k: v for k, v in line.items() if k != "crc"} for line in kept
            if "prior" not in line.get("user_attr", {})]  # fmt: skip
    (tmp_path / JOURNAL).write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    with search(tmp_path, budget=6) as again:
        assert again.late
        rest = play(again)
    assert [t.phase for t in rest] == ["sobol", "gp", "gp", "gp"]
    assert begun + [t.values for t in rest] == [
        t.values for t in play(search(prior=None, budget=6))
    ]


def test_what_a_prior_expects_of_trials_is_told():
    searching = search(defaults={"": {"optimizer.lr": 1e-5}})
    play(searching, most=3)
    liked = searching.liked("")
    assert liked[0] > 0.5 > -0.5 > liked[1]
    assert search(prior=None).liked("") == []


# ------------------------------------------------------------------ one's own sweeps
def rows(count=12, name="optimizer.lr"):
    return [{name: 10 ** -float(e)} for e in np.linspace(1, 5, count)]


def test_ones_own_sweep_is_a_prior():
    before = Before("s", rows(), [*map(lose, rows())])
    view = OwnSweeps([before]).view({"optimizer.lr": LR, "x": Range(0, 1, False)}, {})
    points = [{"optimizer.lr": lr, "x": x} for lr in (1e-5, 10**-2.8) for x in (0.1, 0.9)]
    mean = view.outlook(points).mean
    assert mean[0] == pytest.approx(mean[1])  # of x it knows nothing
    assert mean[2] < -0.5 < 0.5 < mean[0]
    cov = view.outlook(points).covariance(slice(0, 4), slice(0, 4))
    assert np.linalg.eigvalsh(cov).min() > -1e-6
    trials = play(search(prior=OwnSweeps([before])), most=1)
    assert LR.to_unit(trials[0].values["optimizer.lr"]) == pytest.approx(0.55, abs=0.06)


def test_a_sweep_knows_knobs_that_vary_there():
    before = Before("s", [*rows(4), {"optimizer.lr": None}, {"act": "relu"}], [0.0] * 6)
    knobs = {"optimizer.lr": LR, "act": Choice(("relu", "tanh"))}
    assert before.knows(knobs) == ["optimizer.lr"]
    assert OwnSweeps([before]).view({"act": knobs["act"]}, {}) is None
    same = OwnSweeps([Before("elsewhere", before.rows, before.losses)])
    assert (
        same.name == OwnSweeps([before]).name != OwnSweeps([Before("s", rows(4), [0.0] * 4)]).name
    )
    assert sweeps.LEAST == 5


def test_some_later_runs_are_even_over_the_space():
    phases = [t.phase for t in play(search(budget=30))]
    assert [i for i, phase in enumerate(phases) if phase == "sobol"] == [20, 24, 28]
    assert set(phases) == {"prior", "sobol"}
