"""Estimates of what more runs, or fewer epochs, would have brought: against simulated truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_sweeps import add_run, fake_grid, fake_search

from knobs.report.health import pruning
from knobs.report.importance import gp
from knobs.report.importance.further import next_run
from knobs.report.outlook import enough, more, replay
from knobs.report.plots.runs import tuning_section
from knobs.report.read import read_sweep
from knobs.report.records import Knob, Study
from knobs.report.verdict import verdict

DRAWN = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "exponential": lambda rng, n: rng.standard_exponential(n),
    "with a ceiling": lambda rng, n: rng.beta(5, 1.5, n),
}


def test_the_gain_of_a_few_values_by_hand():
    gain = more([1.0, 4.0, 2.0])  # the 4 and half of the rest in the second half: 1/4 2 + 1/4 3
    assert gain.chance == 0.5
    assert gain.mean == 2 / 4 + 3 / 4
    assert more([1.0, 4.0, 4.0, 2.0]).chance == 0.25  # the second half must have both


@pytest.mark.parametrize("kind", DRAWN)
def test_as_many_runs_again_do_what_was_said_of_them(kind):
    rng, rows = np.random.default_rng(0), []
    for _ in range(2000):
        values = DRAWN[kind](rng, 40)
        said, came = more(values[:20]), max(0.0, values.max() - values[:20].max())
        rows.append((said.chance, came > 0, said.mean, came, said.se, came <= said.high))
    chance, better, mean, gain, se, below = np.mean(rows, 0)
    assert chance == pytest.approx(0.5)
    assert 0.45 <= better <= 0.55
    assert 0.95 * gain <= mean <= 2.2 * gain  # rather too much: 2 times where there is a ceiling
    assert below == pytest.approx(0.9, abs=0.02) if kind == "exponential" else below > 0.88
    assert se == pytest.approx(np.std([row[2] for row in rows]), rel=0.5)


def test_equal_values_promise_nothing():
    gain = more([0.5] * 10)
    assert (gain.chance, gain.mean, gain.se, gain.high) == (0, 0, 0, 0)


def drawn(sweep, phase):
    about = json.loads((sweep / "study.json").read_text())
    for number, place in about["runs"].items():
        place["phase"] = phase(int(number))
    (sweep / "study.json").write_text(json.dumps(about))
    return read_sweep([sweep])


def test_only_runs_drawn_alike_tell_what_more_would_bring(tmp_path):
    folder = fake_search(tmp_path / "s", n=24)
    sweep = drawn(folder, lambda i: "default" if i == 0 else "sobol")
    said = enough(sweep, sweep.explored())
    assert said.startswith("As many again as the 23 runs drawn at random would better their best")
    assert "with a probability of " in said
    assert "adapted" not in said
    assert said in tuning_section(sweep, sweep.explored()).see
    half = drawn(folder, lambda i: "sobol" if i < 12 else "gp")
    assert "12 runs drawn at random" in enough(half, half.explored())
    assert enough(half, half.explored()).endswith("of its later runs nothing follows.")
    tpe = drawn(folder, lambda i: "tpe")
    assert enough(tpe, tpe.explored()).startswith("These runs were not drawn at random")
    grid = read_sweep([fake_grid(tmp_path / "g")])
    assert "not drawn at random" in tuning_section(grid, grid.explored()).see
    assert "will not find better" not in tuning_section(grid, grid.explored()).see


def curves(sweep, rows):
    """A sweep of runs with these values by epoch."""
    for row in rows:
        folder = add_run(sweep, {"optimizer.lr": 1e-3}, 0, value=max(row), epochs=len(row))
        lines = [{"epoch": e, "val/accuracy": v} for e, v in enumerate(row, 1)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return replace(read_sweep([sweep]), study=Study())


def test_pruning_saves_the_epochs_of_runs_that_are_behind_from_the_start(tmp_path):
    """9 curves that never cross: only the best third seen so far goes on, the best always."""
    sweep = curves(tmp_path / "s", [[0.1 * i + 0.01 * e for e in range(18)] for i in range(9)])
    found = replay(sweep, sweep.explored())
    assert found.runs == 9
    assert (found.missed, found.loss) == (0.0, 0.0)
    assert 0.3 < found.saved < 0.9
    assert [f.do for f in pruning(sweep, verdict(sweep))] == ["Search with search.pruner=asha."]


def test_pruning_loses_the_run_that_is_late(tmp_path):
    """The best run is the worst one until its last epoch."""
    rows = [[0.1 * i] * 18 for i in range(1, 9)] + [[0.0] * 17 + [0.95]]
    sweep = curves(tmp_path / "s", rows)
    found = replay(sweep, sweep.explored())
    assert found.missed > 0.7  # only among the first two is it not compared
    assert found.loss == pytest.approx(0.15)
    [finding] = pruning(sweep, verdict(sweep))
    assert (finding.level, finding.do) == ("ok", "")


def test_pruned_or_few_or_short_runs_are_not_replayed(tmp_path):
    sweep = curves(tmp_path / "few", [[0.1] * 18] * 4)
    assert replay(sweep, sweep.explored()) is None
    short = curves(tmp_path / "short", [[0.1] * 2] * 9)
    assert replay(short, short.explored()) is None


# ------------------------------------------------------------------ a further run
LINE = [Knob("a", 0.0, 1.0), Knob("b", choices=("p", "q"))]


def on_a_line(function, n=16, b="p"):
    rows = [{"a": i / (n - 1), "b": b} for i in range(n)]
    return rows, [function(row["a"]) for row in rows]


def test_the_expected_improvement_is_that_of_draws_from_the_process():
    rng, owner = np.random.default_rng(0), np.arange(2)
    x, at = rng.random((9, 2)), rng.random((5, 2))
    y = np.sin(5 * x[:, 0]) + x[:, 1]
    y = (y - y.mean()) / y.std()
    theta = np.array([-0.5, 0.0, -0.5, 0.5, -1.0, -0.5, -3.0])
    both = np.concatenate([x, at])
    prior, seen = gp.kernel(both, both, owner, theta), gp.covariance(x, owner, theta)
    gain = np.linalg.solve(seen, prior[:9]).T
    mean, spread = gain @ y, prior - gain @ prior[:9]
    drawn = rng.multivariate_normal(mean, spread, 200_000)
    best = mean[:9].argmax()
    expected = np.maximum(drawn[:, 9:] - drawn[:, [best]], 0).mean(0)
    assert gp.improvement(x, owner, y, at, theta[None]) == pytest.approx(expected, abs=0.005)


def test_a_further_run_gains_little_at_a_top_that_was_found_and_much_on_a_slope():
    rows, values = on_a_line(lambda a: -((a - 0.47) ** 2))
    found = next_run(LINE[:1], rows, values, "max")
    assert 0 <= found < 0.002  # of 0.28 from the best to the worst
    less = [-value for value in values]
    assert next_run(LINE[:1], rows, less, "min") == found
    rows, values = on_a_line(lambda a: a * 0.6)
    known = next_run(LINE[:1], rows, values, "max")
    cut = [(row, value) for row, value in zip(rows, values, strict=True) if row["a"] < 0.7]
    assert next_run(LINE[:1], *map(list, zip(*cut, strict=True)), "max") > 10 * known


def test_broken_runs_count_as_the_worst_and_pruned_ones_not_at_all():
    rows, values = on_a_line(lambda a: -((a - 0.47) ** 2))
    worst = min(values)
    broken = next_run(LINE[:1], [*rows, {"a": 0.97}], [*values, None], "max")
    assert broken == next_run(LINE[:1], [*rows, {"a": 0.97}], [*values, worst], "max")
    cut = [False] * len(rows) + [True]
    pruned = next_run(LINE[:1], [*rows, {"a": 0.47}], [*values, -5.0], "max", cut)
    assert pruned == next_run(LINE[:1], rows, values, "max")
    two = next_run(LINE, rows + [row | {"b": "q"} for row in rows], values * 2, "max")
    assert 0 <= two < 0.002


def test_few_runs_or_equal_ones_tell_nothing_of_a_further_run():
    rows, values = on_a_line(lambda a: a)
    assert next_run(LINE[:1], rows[:2], values[:2], "max") is None
    assert next_run(LINE[:1], rows, [0.5] * 16, "max") is None
    assert next_run(LINE[:1], rows, [None] * 16, "max") is None
    assert next_run(LINE[1:], rows, values, "max") is None  # its one knob never varied
