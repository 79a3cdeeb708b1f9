"""Searches: their phases, batches, budgets, journals and resumes; and the pruners' exact rules."""

import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from knobs.errors import ConfigError
from knobs.search import methods
from knobs.search.methods import METHODS, Task, Tried
from knobs.search.pruning import FILE, Pruner
from knobs.search.space import Choice, Range, Space
from knobs.search.trials import JOURNAL, WORST, Search

LR = Range(1e-4, 1e-1, True)
MIXED = {"lr": LR, "width": Range(16, 256, True, True), "act": Choice(("relu", None, [1, 2]))}
DEFAULT = {"lr": 1e-3, "width": 64, "act": None}


def objective(values):
    """Best at lr 10^-2.5 and width 64."""
    return -((math.log10(values["lr"]) + 2.5) ** 2) - math.log2(values.get("width", 64) / 64) ** 2


def run(search, n=1, most=1000):
    """Every trial asked for in batches of n, told its objective."""
    seen = []
    while len(seen) < most and (batch := search.ask(n)):
        for trial in batch:
            search.tell(trial, objective(trial.values))
            seen.append(trial)
    return seen


def one(folder=None, space=None, **options):
    options = {"method": "sobol", "budget": 8, "prior": None} | options
    return Search(folder, Space({"": space or {"lr": LR}}), **options)


# ------------------------------------------------------------------ phases
@pytest.mark.parametrize(
    ("method", "phases"),
    [
        ("auto", ["default"] + ["sobol"] * 3 + ["gp"] * 4),
        ("best", ["default"] + ["mix"] * 3 + ["gp"] * 4),
        *((name, [name] * 8) for name in METHODS if name not in ("auto", "best")),
    ],
)
def test_phases(method, phases):
    search = one(space=MIXED, method=method, defaults={"": DEFAULT})
    trials = run(search)
    assert [t.phase for t in trials] == phases
    assert [t.run for t in trials] == list(range(8))
    assert all(knob.contains(t.values[name]) for t in trials for name, knob in MIXED.items())
    if phases[0] == "default":
        assert trials[0].values == DEFAULT
        assert not trials[0].prunable


def test_best_leaves_early_once_it_has_two_points_a_knob():
    trials = run(one(method="best", budget=12, defaults={"": {"lr": 1e-3}}))
    assert [t.phase for t in trials] == ["default"] + ["mix"] * 2 + ["gp"] * 9


def test_a_default_outside_the_space_is_left_out():
    search = one(method="auto", defaults={"": {"lr": 0.3}})
    assert search.left_out == {"": ["lr"]}
    assert search.ask()[0].phase == "sobol"


def test_sobol_is_scipys():
    drawn = [t.values["lr"] for t in run(one(seed=5))]
    points = qmc.Sobol(1, scramble=True, rng=np.random.default_rng(5)).random(8)[:, 0]
    assert drawn == [LR.from_unit(u) for u in points]
    bins = np.digitize([LR.to_unit(v) for v in drawn], np.arange(9) / 8)
    assert sorted(bins) == list(range(1, 9))  # one in each eighth


def test_grid_covers_the_space_once():
    space = {"a": Choice(("x", "y")), "n": Range(1, 3, False, True)}
    search = one(space=space, method="grid", budget=math.inf)
    seen = []
    while batch := search.ask(4):
        for trial in batch:
            search.tell(trial, 0.0)
            seen.append((trial.values["a"], trial.values["n"]))
    assert sorted(seen) == [(a, n) for a in "xy" for n in (1, 2, 3)]
    levels = sorted(t.values["lr"] for t in run(one(method="grid", budget=4)))
    assert levels == [1e-4, 1e-3, 1e-2, 1e-1]
    with pytest.raises(ConfigError, match="lr is continuous"):
        one(method="grid", budget=math.inf).ask()


def test_mix_takes_turns():
    knobs = {"x": Range(0, 1, False), "y": Range(0, 1, False)}
    default, best = {"x": 0.3, "y": 0.3}, {"x": 0.8, "y": 0.6}
    points = qmc.Sobol(2, scramble=True, rng=np.random.default_rng(0)).random(4)
    tried = [Tried(default, "default", 1.0), Tried(best, "mix", 0.0), Tried(default, "mix", 1.0)]
    first = methods.mix(Task(knobs, tried[:1], default, 0))
    fourth = methods.mix(Task(knobs, [*tried, Tried(best, "mix", 0.5)], default, 0))
    drawn = [Task(knobs).values(point) for point in points]
    assert [first, fourth] == drawn[:2]
    for history, center in ((tried[:2], default), (tried, best)):
        draws = [methods.mix(Task(knobs, history, default, seed)) for seed in range(800)]
        xs = np.array([draw["x"] for draw in draws])
        inside = math.erf(0.1 / 0.15 / math.sqrt(2))  # of a Gaussian, hardly cut by the faces
        assert np.mean(abs(xs - center["x"]) < 0.1) == pytest.approx(inside, abs=0.05)


def test_scores_are_tamed_above_the_middle():
    assert methods.scores([3.0, None, 1e9, 1.0, 4.0]) == [3.0, None, 6.0, 1.0, 4.0]
    assert methods.scores([5.0]) == [5.0]


def test_the_model_leaves_out_what_was_pruned():
    knobs = {"lr": LR}
    whole = [Tried({"lr": lr}, "mix", abs(math.log10(lr) + 2)) for lr in (1e-4, 1e-3, 1e-1)]
    one, other = (Tried({"lr": lr}, "mix", 9.0, pruned=True) for lr in (1e-2, 2e-2))
    assert methods.gp(Task(knobs, [*whole, one])) == methods.gp(Task(knobs, [*whole, other]))
    few = [methods.gp(Task(knobs, [*whole[:2], pruned])) for pruned in (one, other)]
    assert few[0] != few[1]


def test_cmaes_replays_its_generations():
    knobs = {"x": Range(0, 1, False), "y": Range(0, 1, False)}
    tried = []
    for _ in range(90):
        values = methods.cmaes(Task(knobs, tried, seed=1))
        tried.append(Tried(values, "cmaes", (values["x"] - 0.3) ** 2 + (values["y"] - 0.7) ** 2))
    assert np.mean([t.loss for t in tried[-12:]]) < 0.02 * np.mean([t.loss for t in tried[:12]])


@pytest.mark.parametrize("method", ["gp", "auto", "best"])
def test_a_model_finds_the_best_of_a_smooth_knob(method):
    search = one(method=method, budget=14, defaults={"": {"lr": 1e-4}}, seed=2)
    run(search)
    values, value = search.best("")
    assert value > -0.01  # a tenth of a decade
    assert values["lr"] == pytest.approx(10**-2.5, rel=0.26)


def test_a_model_is_asked_for_few_at_a_time():
    """A quarter as many as were told; what needs no model comes at once."""
    search, sizes = one(method="auto", budget=32, defaults={"": {"lr": 1e-3}}), []
    while batch := search.ask(16):
        sizes.append(len(batch))
        for trial in batch:
            search.tell(trial, -abs(math.log10(trial.values["lr"]) + 2))
    assert sizes == [16, 4, 5, 6, 1]
    assert sum(sizes) == 32


def test_a_batch_of_the_model_is_spread():
    search = one(method="auto", budget=40, space=MIXED)
    run(search, most=20)
    batch = search.ask(5)
    assert [trial.phase for trial in batch] == ["gp"] * 5
    points = [np.array([k.to_unit(t.values[n]) for n, k in MIXED.items()]) for t in batch]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(points) for b in points[:i]) > 0.02


def test_the_model_tries_nothing_twice():
    space = {"n": Range(1, 12, False, True)}
    search = one(space=space, method="gp", budget=12)
    seen = []
    while batch := search.ask():
        search.tell(batch[0], -float(abs(batch[0].values["n"] - 4)))
        seen.append(batch[0].values["n"])
    assert sorted(seen) == list(range(1, 13))


# ------------------------------------------------------------------ arms
def test_arms_are_searched_apart_with_equal_parts():
    space = Space({"a": {"lr": LR}, "b": {"lr": Range(1e-2, 1, True), "m": Range(0, 1, False)}})
    defaults = {"a": {"lr": 0.01}}
    search = Search(None, space, method="auto", budget=8, defaults=defaults, prior=None)
    trials = run(search, n=3)
    assert [t.arm for t in trials] == ["a", "b"] * 4
    assert [t.run for t in trials] == list(range(8))
    assert [t.phase for t in trials if t.arm == "a"] == ["default", "sobol", "gp", "gp"]
    assert [t.phase for t in trials if t.arm == "b"] == ["sobol", "sobol", "gp", "gp"]
    assert all(set(t.values) == set(space.arms[t.arm]) for t in trials)


# ------------------------------------------------------------------ how trials are told
def test_lost_runs_are_told_as_the_worst():
    search = one(budget=6)
    a, b, c, d, e, f = search.ask(6)
    search.tell(a, None, "diverged")  # nothing to be the worst of yet
    search.tell(b, 0.5)
    search.tell(c, math.nan)
    search.tell(d, 0.2)
    search.tell(e, 0.9, "failed")
    search.tell(f, 0.1, "pruned", epochs=1)
    stored = search.trials("")
    assert [t.value for t in stored] == [-WORST, 0.5, 0.5, 0.2, 0.2, 0.1]
    assert [t.state for t in stored] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert [t.user_attrs["status"] for t in stored] == [
        *("diverged", "finished", "diverged", "finished", "failed", "pruned")
    ]
    told = [t.loss for t in search._tally("").history()]
    assert told == [-0.1, -0.5, -0.1, -0.2, -0.1, -0.1]
    assert search.best("")[1] == 0.5


def test_the_first_word_counts():
    search = one(budget=1)
    (trial,) = search.ask()
    search.tell(trial, 0.5)
    search.tell(trial, 0.9)
    assert search.trials("")[0].value == 0.5


def test_an_interrupted_run_is_handed_out_again():
    search = one(budget=2)
    a, _ = search.ask(2)
    search.tell(a, None, "interrupted")
    assert search.ask(2) == [a]


# ------------------------------------------------------------------ budgets
def test_a_pruned_run_counts_for_its_epochs():
    search = one(budget=4, epochs=10)
    count = 0
    while batch := search.ask():
        count += 1
        search.tell(batch[0], 0.0, "finished" if count == 1 else "pruned", epochs=5)
    assert count == 1 + 6
    assert search.spent() == pytest.approx(4)


def test_a_budget_of_epochs():
    search = one(budget=40, unit="epochs", epochs=10)
    assert len(search.ask(10)) == 4
    search = one(budget=40, unit="epochs", epochs=10)
    while batch := search.ask():
        search.tell(batch[0], 0.0, "stopped_early", epochs=8)
    assert len(search.trials("")) == 5
    assert search.spent() == pytest.approx(40)


def test_a_budget_of_minutes():
    search = one(budget=0.3 / 60, unit="minutes", method="auto")
    phases = []
    while batch := search.ask():
        phases.append(batch[0].phase)
        time.sleep(0.06)
        search.tell(batch[0], objective(batch[0].values))
    assert {"sobol", "gp"} <= set(phases)
    assert search.spent() > 0.3 / 60


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gpp"}, "search.method=gpp: must be one of auto, best"),
        ({"unit": "hours"}, "must be one of runs"),
        ({"mode": "up"}, "must be one of max, min"),
        ({"budget": 0}, "search.runs=0: must be above 0"),
        ({"budget": math.nan}, "must be above 0"),
        ({"budget": math.inf}, "needs a budget"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ConfigError, match=words):
        one(**options)


# ------------------------------------------------------------------ repeatable, resumable
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_search_is_the_same_search(tmp_path, method):
    def make(folder):
        return one(folder, MIXED, method=method, budget=9, seed=3, defaults={"": DEFAULT})

    whole = run(make(None), n=2)
    (tmp_path / "a").mkdir()
    parts = []
    for most in (2, 4, 9):
        with make(tmp_path / "a") as search:
            parts += run(search, n=2, most=most - len(parts))
    assert parts == whole
    assert len(whole) == 9


def test_seeds_differ():
    assert run(one(seed=1)) != run(one(seed=2))


def test_a_larger_budget_goes_on(tmp_path):
    with one(tmp_path, budget=3) as search:
        first = run(search)
    with one(tmp_path, budget=5) as search:
        more = run(search)
    assert first + more == run(one(budget=5))


def test_another_search_in_the_folder_is_refused(tmp_path):
    one(tmp_path).close()
    with pytest.raises(ConfigError, match="other ranges, another mode or"):
        one(tmp_path, space={"lr": Range(1e-3, 1, True)})
    with pytest.raises(ConfigError, match="other ranges, another mode or"):
        one(tmp_path, mode="min")


@pytest.mark.parametrize("lines", range(5))
def test_a_journal_that_was_cut_off_anywhere_goes_on(tmp_path, lines):
    """Also between a study and what it says of itself."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    with one(whole, budget=3) as search:
        trials = run(search)
    cut.mkdir()
    text = (whole / JOURNAL).read_bytes().splitlines(keepends=True)
    assert [b'"space"' in line for line in text[:3]].count(True) == 1
    (cut / JOURNAL).write_bytes(b"".join(text[:lines]))
    with one(cut, budget=3) as search:
        assert [trial.values for trial in run(search)] == [trial.values for trial in trials]
    with pytest.raises(ConfigError, match="other ranges, another mode or"):
        one(cut, space={"lr": Range(1e-3, 1, True)})


def test_optuna_opens_the_journal(tmp_path):
    with one(tmp_path, MIXED) as search:
        trials = run(search)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL))
    )
    study = optuna.load_study(study_name="search", storage=storage)
    assert [t.params["lr"] for t in study.trials] == [t.values["lr"] for t in trials]
    assert study.best_value == max(objective(t.values) for t in trials)
    assert study.best_params["act"] in ('"relu"', "null", "[1, 2]")


def test_half_a_line_of_a_killed_process(tmp_path):
    with one(tmp_path) as search:
        first = run(search, most=3)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "worker')
    (tmp_path / f"{JOURNAL}.lock").symlink_to("gone")
    with one(tmp_path) as search:
        assert first + run(search) == run(one())


WORKER = """
import sys, time
from pathlib import Path
from knobs.search.trials import Search
from knobs.search.space import Range, Space
space = Space({"": {"lr": Range(1e-4, 1e-1, True)}})
with Search(Path(sys.argv[1]), space, method="random", budget=24) as search:
    print("ready", flush=True)
    sys.stdin.readline()
    while batch := search.ask(2):
        for trial in batch:
            print(trial.run, flush=True)
        if sys.argv[2] == "hang":
            time.sleep(600)
        for trial in batch:
            search.tell(trial, trial.values["lr"])
"""


def worker(folder, how):
    command = [sys.executable, "-c", WORKER, str(folder), how]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_share_a_search_and_a_killed_ones_trials(tmp_path):
    hung = worker(tmp_path, "hang")
    hung.stdin.write("\n")
    lost = [int(hung.stdout.readline()) for _ in range(2)]
    pair = [worker(tmp_path, "work") for _ in range(2)]
    for process in pair:
        process.stdin.write("\n")
    runs = [[int(line) for line in process.communicate()[0].splitlines()] for process in pair]
    assert lost == [0, 1]
    assert sorted(runs[0] + runs[1]) == list(range(2, 24))  # none twice, none of the hung one's
    with one(tmp_path, method="random", budget=24) as search:
        assert search.ask(9) == []  # the hung one lives
        hung.send_signal(signal.SIGKILL)
        hung.communicate()
        again = search.ask(9)
        assert [t.run for t in again] == lost
        for trial in again:
            search.tell(trial, 0.5)
        assert {t.state for t in search.trials("")} == {TrialState.COMPLETE}
        assert len(search.trials("")) == 24


def test_a_trial_let_go_is_handed_out_again_and_one_under_way_is_not(tmp_path):
    options = {"method": "random", "budget": 24}
    with one(tmp_path, **options) as first:
        under_way, interrupted = first.ask(2)
        first.tell(interrupted, None, "interrupted")
        with one(tmp_path, **options) as second:
            assert [trial.run for n in (2, 1) for trial in second.ask(n)] == [1, 2]
        assert [trial.run for trial in first.ask(3)] == [1, 2]  # the second was closed
        assert [trial.run for trial in first.ask(1)] == [3]
    with one(tmp_path, **options) as third:
        assert third.ask(1) == [under_way]
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]


# ------------------------------------------------------------------ pruning
def stops(pruner, run, epoch, epochs, value):
    """True where one run that comes alone should end."""
    return pruner.stops({run: value}, epoch, epochs) == {run}


def test_rungs():
    assert Pruner("asha", None).rungs(100) == [4, 12, 36]
    assert Pruner("asha", None).rungs(10) == [2, 6]
    assert Pruner("asha", None).rungs(2) == []
    assert Pruner("asha", None).rungs(110) == [4, 12, 36, 108]


def test_asha_keeps_a_third(tmp_path):
    pruner = Pruner("asha", tmp_path)
    arrivals = [0.5, 0.4, 0.6, 0.55, 0.65, 0.7, 0.6, 0.7, 0.1]
    stopped = [stops(pruner, n, 4, 100, value) for n, value in enumerate(arrivals)]
    # 1 and 2 are too few; of 3, 4, 5 the best goes on, of 6 to 8 the two best, of 9 three.
    assert stopped == [False, False, False, True, False, False, True, False, True]
    assert not stops(pruner, 20, 5, 100, 0.0)  # no rung
    assert not stops(pruner, 20, 12, 100, 0.0)  # the first to come so far


def test_a_stack_is_ranked_together(tmp_path):
    values = {n: float(n) for n in range(9)}
    assert Pruner("asha", tmp_path).stops(values, 4, 100) == set(range(6))
    low = Pruner("asha", tmp_path, "min", group="other")
    assert low.stops(values, 4, 100) == set(range(3, 9))


def test_only_runs_of_one_length_and_group_compete(tmp_path):
    pruner = Pruner("asha", tmp_path)
    pruner.stops({n: 1.0 for n in range(6)}, 4, 100)
    assert not stops(pruner, 6, 4, 110, 0.0)
    assert not stops(Pruner("asha", tmp_path, group="b"), 6, 4, 100, 0.0)
    assert stops(pruner, 6, 4, 100, 0.0)


def test_equal_values_go_on_and_lost_ones_do_not(tmp_path):
    pruner = Pruner("asha", tmp_path)
    assert pruner.stops({n: 0.5 for n in range(6)}, 4, 100) == set()
    assert stops(pruner, 6, 4, 100, math.nan)
    assert stops(pruner, 7, 4, 100, -math.inf)


def test_a_resumed_run_replaces_what_it_said(tmp_path):
    pruner = Pruner("asha", tmp_path)
    for _ in range(3):
        assert not stops(pruner, 0, 4, 100, 0.5)  # one run, however often it comes
    stops(pruner, 1, 4, 100, 0.6)
    stops(pruner, 0, 4, 100, 0.9)
    assert stops(pruner, 2, 4, 100, 0.8)


def test_the_ledger_survives_what_it_may_hold(tmp_path):
    pruner = Pruner("asha", tmp_path)
    pruner.stops({0: 0.5, 1: 0.6}, 4, 100)
    with (tmp_path / FILE).open("ab") as file:
        file.write(
            b'7\n{"run": "x"}\n[]\n\xff\xfe\n' + b"[" * 10**5 + b'\n{"run": 9, "rung": 4, "val'
        )
    assert stops(pruner, 2, 4, 100, 0.4)
    rows = (tmp_path / FILE).read_bytes().splitlines()
    assert json.loads(rows[-1])["run"] == 2
    assert not stops(pruner, 3, 4, 100, 0.7)


def test_hyperband_gives_each_bracket_its_share(tmp_path):
    pruner = Pruner("hyperband", tmp_path)
    brackets = [pruner.bracket(100, run) for run in range(49)]
    assert [brackets.count(b) for b in range(4)] == [27, 12, 6, 4]
    assert {b: pruner.rungs(100, brackets.index(b)) for b in range(4)} == {
        0: [4, 12, 36],
        1: [12, 36],
        2: [36],
        3: [],
    }
    first = [run for run in range(49) if brackets[run] == 0][:3]
    second = [run for run in range(49) if brackets[run] == 1][:2]
    pruner.stops({run: 0.9 for run in second}, 12, 100)
    values = {run: value for run, value in zip(first, (0.1, 0.2, 0.3), strict=True)}
    assert pruner.stops(values, 12, 100) == set(first[:2])  # the others' 0.9 do not count


def test_none_prunes_nothing(tmp_path):
    pruner = Pruner("none", tmp_path)
    assert pruner.stops({n: float(n) for n in range(9)}, 4, 100) == set()
    assert not (tmp_path / FILE).exists()


PRUNE = """
import sys
from pathlib import Path
from knobs.search.pruning import Pruner
for n in range(int(sys.argv[2]), 60, 3):
    Pruner("asha", Path(sys.argv[1])).stops({n: n / 60}, 4, 100)
"""


def test_processes_share_a_ledger(tmp_path):
    commands = [[sys.executable, "-c", PRUNE, str(tmp_path), str(i)] for i in range(3)]
    for process in [subprocess.Popen(command) for command in commands]:
        assert process.wait() == 0
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert sorted(row["run"] for row in rows) == list(range(60))


@pytest.mark.parametrize("options", [{"method": "median"}, {"method": "asha", "mode": "x"}])
def test_a_pruner_that_cannot_be(tmp_path, options):
    with pytest.raises(ConfigError):
        Pruner(folder=tmp_path, **options)
