"""hydra/sweeper=search, studies and pruning, from the command line to the folder."""

import json
import os
import signal
import statistics
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import processes
import pytest
from conftest import TRAIN
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from knobs.config.question import Plan, one_cut, plan
from knobs.errors import ConfigError, LockedError
from knobs.record import read_config, read_study, read_summary
from knobs.report.read import read_sweep
from knobs.search.trials import JOURNAL
from knobs.sweep import stopping, study, together
from knobs.sweep.grid import Supply
from knobs.sweep.screen import Screen

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
QUICK = ["tracking=local", "training.epochs=2", "sweep=s"]
SEARCH = ["hydra/sweeper=search", LR, "search.runs=8", "search.width=3", *QUICK]
FOLDER = Path("outputs/sweeps/s")


def runs(folder=FOLDER):
    """Number -> (config, summary) of the sweep's runs."""
    numbers = sorted(int(p.parent.name) for p in folder.glob("*/summary.json"))
    return {n: (read_config(folder / str(n)), read_summary(folder / str(n))) for n in numbers}


def rates(folder=FOLDER):
    return [about["config"]["optimizer"]["lr"] for about, _ in runs(folder).values()]


def trials(name="search"):
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(FOLDER / JOURNAL))
    )
    return optuna.load_study(study_name=name, storage=storage).trials


def planned(lines, study=None):
    return plan(OverridesParser.create().parse_overrides(lines), study)


TWO_ARMS = {
    "scientific": {"optimizer": ["adam", "sgd"]},
    "space": {
        "optimizer=adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}},
        "optimizer=sgd": {"optimizer.lr": {"low": 1e-2, "high": 1.0, "scale": "log"}},
    },
}


def test_a_search_runs_its_budget_and_no_more(sweep):
    code, _ = sweep(*SEARCH)
    assert code == 0
    found = rates()
    assert found[0] == 1e-3  # the default config first
    assert len(found) == 8
    assert len(set(found)) == 8
    assert all(1e-4 <= lr <= 1e-1 for lr in found)
    values = [summary["objective"]["value"] for _, summary in runs().values()]
    assert [t.value for t in trials()] == values  # each told what its record says
    places = read_study(FOLDER)["runs"]
    assert [places[str(n)]["role"] for n in range(8)] == ["default"] + 7 * ["search"]
    before = {n: summary for n, (_, summary) in runs().items()}
    code, _ = sweep(*SEARCH)
    assert code == 0
    assert {n: summary for n, (_, summary) in runs().items()} == before


def test_a_seed_repeats_a_search_and_a_larger_budget_extends_it(sweep):
    sweep(*SEARCH, cwd="a")
    first = rates()
    sweep(*SEARCH, cwd="b")
    assert rates() == first
    sweep(*SEARCH, "search.runs=10")
    assert len(rates(FOLDER)) == 10


def noted(out):
    """The line that says of a search that it was ended early."""
    return next((line for line in out.splitlines() if line.startswith("search: stopped")), "")


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_search_stops_where_a_further_run_gains_less_than_the_noise(sweep, launcher):
    lines = [*SEARCH, "search.runs=40", "search.stop=auto", f"hydra/launcher={launcher}"]
    code, out = sweep(*lines)
    assert code == 0
    stop = read_study(FOLDER)["stops"][""]
    n = len(runs())
    assert stop["runs"] <= n < stop["runs"] + 3  # those that were under way went to their end
    assert 13 <= stop["runs"] < 30  # two looks in a row, of 12 runs and more
    assert stop["saved"] == 40 - n
    assert stop["gain"] < stop["noise"]
    best = max(summary["objective"]["value"] for _, summary in runs().values())
    assert stop["noise"] == pytest.approx((((1 - best) / 720) ** 0.5), rel=0.2)  # 360 examples
    assert noted(out).startswith(f"search: stopped after {stop['runs']} runs, {40 - n} saved: ")
    assert f"The search was stopped after {stop['runs']} runs" in out  # the report's own
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["stops"][""]["saved"] == 40 - n
    for name in ("report.html", "report.md"):
        assert f"{n} runs to search ({40 - n} saved)" in (FOLDER / name).read_text()
    code, again = sweep(*lines)  # the same command adds nothing
    assert (code, noted(again), len(runs())) == (0, noted(out), n)
    sweep(*lines, f"search.runs={n + 2}")
    assert len(runs()) == n  # a smaller budget neither
    if launcher == "stack":
        sweep(*lines, "search.runs=43")  # a larger one does, and is looked at anew
        assert n + 12 <= len(runs()) <= 43
        more = len(runs())
        sweep(*lines, "search.runs=43", "search.stop=none")
        assert len(runs()) == 43
        assert "stops" not in read_study(FOLDER) or more == 43


def test_an_arm_that_stops_gives_its_runs_up(sweep, monkeypatch):
    def gain(knobs, ended):  # of adam nothing more
        return 1.0 if knobs["optimizer.lr"].high == 1.0 else 0.0

    monkeypatch.setattr(stopping, "gain_of", gain)
    monkeypatch.setattr(stopping, "LEAST", 3)
    lines = [
        "+study=optimizer",
        "optimizer=adam,momentum",
        "search.runs=16",
        "search.width=1",
        *QUICK,
    ]
    lines += ["study.seeds=0", "search.stop=auto"]
    code, out = sweep(*lines)
    assert code == 0
    arms = Counter(place["arm"] for place in read_study(FOLDER)["runs"].values())
    assert arms == {"optimizer=adam": 4, "optimizer=momentum": 8}  # not 12
    assert read_study(FOLDER)["stops"].keys() == {"optimizer=adam"}
    assert read_study(FOLDER)["stops"]["optimizer=adam"]["saved"] == 4
    assert "optimizer=adam: stopped after 4 runs, 4 saved" in out


def test_a_split_whose_noise_is_not_known_stops_nothing_and_says_so(sweep, monkeypatch):
    monkeypatch.setattr(stopping, "LEAST", 3)
    monkeypatch.setattr(stopping.noise, "of_split", lambda files: None)
    code, out = sweep(*SEARCH, "search.stop=auto")
    assert (code, len(runs())) == (0, 8)
    assert "search: search.stop=auto could not end it" in out


def test_a_search_without_the_rule_knows_nothing_of_it(sweep, monkeypatch):
    monkeypatch.setattr(stopping, "gain_of", Mock(side_effect=AssertionError))
    monkeypatch.setattr(stopping, "LEAST", 3)
    assert sweep(*SEARCH)[0] == 0
    assert "stops" not in read_study(FOLDER)
    assert "look" not in (FOLDER / JOURNAL).read_text()


def test_other_launchers_search_too(sweep):
    code, _ = sweep(*SEARCH, "hydra/launcher=basic", "search.runs=4")
    assert code == 0
    assert len(rates()) == len([t for t in trials() if t.state is TrialState.COMPLETE]) == 4


def test_an_interrupted_search_goes_on_without_lost_trials(sweep, at_epoch):
    at_epoch(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    code, out = sweep(*SEARCH)
    assert code == 130
    assert "go on with: python train.py -m" in out
    code, _ = sweep(*SEARCH)
    assert code == 0
    assert [t.state for t in trials()] == 8 * [TrialState.COMPLETE]
    assert {summary["status"] for _, summary in runs().values()} == {"finished"}
    assert len(rates()) == 8


def test_a_search_goes_on_with_what_it_began_with(sweep):
    sweep(*SEARCH, "search.runs=2")
    before = runs()
    for changed in ("model.width=16", "optimizer.lr=tag(log,interval(1e-4,1))", "seed=1"):
        key = changed.partition("=")[0]
        rest = [line for line in SEARCH if line.partition("=")[0] != key]
        code, out = sweep(*rest, "search.runs=3", changed)
        assert code == 2
        assert "other ranges, another mode or other fixed knobs" in out
    assert runs() == before
    code, _ = sweep(*SEARCH, "search.runs=3", "search.method=random", "training.threads=1")
    assert code == 0
    assert len(runs()) == 3


def test_a_grid_and_a_search_do_not_share_a_folder(sweep):
    grid = ["optimizer.lr=1e-3,1e-2", *QUICK]
    sweep(*grid, cwd="a")
    code, out = sweep(*SEARCH, cwd="a")
    assert code == 2
    assert "holds a grid; name another sweep" in out
    assert not (FOLDER / JOURNAL).exists()
    sweep(*SEARCH, "search.runs=2", cwd="b")
    code, out = sweep(*grid, cwd="b")
    assert code == 2
    assert "holds a search or a study; name another sweep" in out
    assert len(runs()) == 2


def test_one_process_at_a_time_writes_what_a_study_says(sweep, monkeypatch):
    """Two at once would share the new file that takes the place of the old one."""
    seen, whole = [], study.write

    def write(path, data, **how):
        seen.append((path.name, (path.parent / "trials.lock").exists()))
        return whole(path, data, **how)

    monkeypatch.setattr(study, "write", write)
    assert sweep(*SEARCH, "search.runs=1")[0] == 0
    assert set(seen) == {("study.json", True)}
    assert not (FOLDER / "trials.lock").exists()


TWO = """
import os, runpy, sys
def one(name):
    if pid := os.fork():
        return pid
    out, code = os.open(name, os.O_WRONLY | os.O_CREAT), 1
    os.dup2(out, 1), os.dup2(out, 2)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)
sys.argv = sys.argv[1:]
both = [one("first"), one("second")]
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in both))
"""


def test_two_processes_share_a_study(tmp_path):
    """Each trial runs once, the seeds of the best too, and whoever ends last reports."""
    words = ["+study=lr", "search.runs=6", "search.width=2", "study.seeds=2", *QUICK]
    command = [sys.executable, "-c", TWO, TRAIN, "-m", *words]
    done = processes.run(command, tmp_path, os.environ | {"OMP_NUM_THREADS": "1"}, timeout=300)
    output = [(tmp_path / name).read_text() for name in ("first", "second")]
    assert done.stdout.split() == ["0", "0"], [done.stderr, *output]
    ends = [text.strip().splitlines()[-1] for text in output]
    assert any(end == "page: outputs/sweeps/s/report.html" for end in ends)
    found, places = runs(tmp_path / FOLDER), read_study(tmp_path / FOLDER)["runs"]
    assert {int(n) for n in places} == set(found)
    roles = [place["role"] for place in places.values()]
    assert roles.count("default") + roles.count("search") == 6
    assert roles.count("confirm") == 2
    assert roles.count("test") == 0


def test_who_ends_a_search_while_others_run_leaves_the_report_to_them(sweep, monkeypatch):
    monkeypatch.setattr(study.StudyRunner, "_confirm", Mock(side_effect=LockedError("held")))
    code, out = sweep("+study=lr", "search.runs=2", "study.seeds=1", *QUICK)
    assert code == 0
    last = "done here; another process goes on with the last runs, and reports"
    assert out.splitlines()[-1] == last
    assert not (FOLDER / "report.html").exists()


def test_a_diverged_trial_is_told_as_the_worst(sweep):
    rest = [line for line in SEARCH if not line.startswith("optimizer.lr=")]
    wide = "optimizer.lr=tag(log,interval(1e-3,1e30))"
    code, _ = sweep(*rest, wide, "optimizer=sgd", "search.method=sobol")
    assert code == 0  # a run that diverges is a result
    states = {t.user_attrs["status"]: t.state for t in trials()}
    assert states["diverged"] is TrialState.COMPLETE
    good = [t.value for t in trials() if t.user_attrs["status"] == "finished"]
    lost = [t.value for t in trials() if t.user_attrs["status"] == "diverged"]
    assert lost
    assert all(value <= min(good) or value == -1e9 for value in lost)


def test_a_study_of_which_every_run_diverged_confirms_nothing(sweep):
    lines = ["optimizer=sgd", "optimizer.lr=tag(log,interval(1e28,1e30))", "search.runs=2"]
    code, out = sweep("+study=lr", *lines, *QUICK)
    assert code == 0
    assert "No run finished with a value. 2 runs: 2 diverged." in out
    assert {summary["status"] for _, summary in runs().values()} == {"diverged"}


@pytest.mark.parametrize("launcher", ["stack", "basic"])
def test_a_grid_prunes_through_every_launcher(sweep, launcher):
    """Nine runs, a rung after 2 of 5 epochs, one in three goes on."""
    grid = [f"optimizer.lr={','.join(str(10.0**-i) for i in range(9))}", "training.epochs=5"]
    code, _ = sweep(
        "tracking=local", "sweep=s", *grid, "search.pruner=asha", f"hydra/launcher={launcher}"
    )
    assert code == 0
    ended = {n: (s["status"], s["epochs"]) for n, (_, s) in runs().items()}
    assert len(ended) == 9
    assert set(ended.values()) <= {("pruned", 2), ("finished", 5), ("diverged", 0)}
    finished = [n for n, (status, _) in ended.items() if status == "finished"]
    values = {n: s["objective"]["value"] for n, (_, s) in runs().items() if s["objective"]["value"]}
    assert max(values, key=values.get) in finished
    if launcher == "stack":  # ranked together: exactly the best three
        assert len(finished) == 3


def test_pruned_places_are_refilled(sweep):
    """A pruned run counts for its share: as many epochs as 12 whole runs, to half a run."""
    lines = ["search.method=random", "search.pruner=asha", "training.epochs=12"]
    code, _ = sweep(*SEARCH, *lines, "search.runs=12", "search.width=6")
    assert code == 0
    epochs = [s["epochs"] for _, s in runs().values()]
    pruned = [s for _, s in runs().values() if s["status"] == "pruned"]
    assert pruned
    assert len(epochs) > 12
    assert abs(sum(epochs) / 12 - 12) <= 0.5
    states = [s["status"] == "pruned" for _, s in runs().values()]
    assert [t.state is TrialState.PRUNED for t in trials()] == states


def test_runs_that_joined_a_stack_begin_again_with_it(sweep, monkeypatch):
    """The stack fails as a whole, in the first epoch of those that took free slots."""
    whole, calls = together.prune, []

    def prune(sessions):
        calls.append(len(sessions))
        if len(calls) == 3:
            raise RuntimeError("no such kernel")
        whole(sessions)

    monkeypatch.setattr(together, "prune", prune)
    code, out = sweep(*SEARCH)
    assert code == 0
    assert "runs begin again, sequentially: no such kernel" in out
    assert [summary["status"] for _, summary in runs().values()] == 8 * ["finished"]


def test_progress_counts_the_runs_to_come():
    supply = Supply()
    supply.coming = 30
    screen = Screen({n: f"seed={n}" for n in range(10)}, [], supply)
    screen.done["finished"] = 8
    assert screen._line().startswith("runs 8/40  ")  # a fifth of all, 80 % of those handed out


STUDY = """# Which of two optimizers?
question: Which of two?
scientific: {optimizer: [adam, sgd]}
space:
  optimizer=adam:
    optimizer.lr: {low: 1e-4, high: 1e-2, scale: log}
  optimizer=sgd:
    optimizer.lr: {low: 1e-2, high: 1.0, scale: log}
fixed: [training.epochs]
set: [training.batch_size=128]
runs: 4
seeds: 2
"""


def test_a_study_of_ones_own_is_one_yaml(sweep, tmp_path):
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "two.yaml").write_text(STUDY)
    code, _ = sweep("--config-dir", str(tmp_path / "mine"), "+study=two", "test=true", *QUICK)
    assert code == 0
    found, places = runs(), read_study(FOLDER)["runs"]
    assert {int(n) for n in places} == set(found)
    roles = Counter(place["role"] for place in places.values())
    assert roles == {"default": 2, "search": 2, "confirm": 4, "test": 1}
    assert {about["config"]["training"]["batch_size"] for about, _ in found.values()} == {128}
    arms = {"optimizer=adam": "Adam", "optimizer=sgd": "SGD"}
    values, seeds = {arm: [] for arm in arms}, {arm: [] for arm in arms}
    for number, place in places.items():
        about, summary = found[int(number)]
        assert about["config"]["optimizer"]["_target_"].endswith(arms[place["arm"]])
        assert (summary["test"] is not None) == (place["role"] == "test")
        if place["role"] == "confirm":
            values[place["arm"]].append(summary["objective"]["value"])
            seeds[place["arm"]].append(about["config"]["seed"])
            assert about["config"]["data"]["val_seed"] == about["config"]["seed"]
    assert seeds["optimizer=adam"] == seeds["optimizer=sgd"] == [1, 2]
    [tested] = [place for place in places.values() if place["role"] == "test"]
    top = max(map(statistics.mean, values.values()))
    assert tested["arm"] in [arm for arm, of in values.items() if statistics.mean(of) == top]


def test_a_walk_changes_one_knob_at_a_time(sweep):
    grid = ["optimizer.lr=1e-3,1e-2", "model.width=16,48", "tracking=local", "training.epochs=2"]
    sweep("sweep=before", "training.batch_size=64", *grid)
    lines = ["study.walk=outputs/sweeps/before", "study.seeds=2", "test=true", *QUICK]
    code, out = sweep("+study=confirm", *lines)
    assert code == 0
    assert "! every run there had training.batch_size=64, which this walk leaves out" in out
    best = read_config(Path("outputs/sweeps/before") / best_of("before"))["config"]
    steps = {}
    for number, place in read_study(FOLDER)["runs"].items():
        config = read_config(FOLDER / number)["config"]
        knobs = config["optimizer"]["lr"], config["model"]["width"]
        steps.setdefault((place["role"], place.get("step")), set()).add(knobs)
    width = read_config(FOLDER / "10000")["config"]["model"]["width"]
    lr, wide = best["optimizer"]["lr"], best["model"]["width"]
    assert steps["baseline", None] == {(1e-3, width)}
    assert steps["step", 1] == {(lr, width)}
    assert steps["step", 2] == {(lr, wide)}
    assert steps["test", None] <= steps["step", 2] | steps["baseline", None]


def test_a_walk_ends_at_what_was_confirmed(sweep, tmp_path):
    """Not at the run of the search, optimistically biased as the best of many."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "two.yaml").write_text(STUDY)
    sweep("--config-dir", str(tmp_path), "+study=two", *QUICK, "sweep=before")
    before = Path("outputs/sweeps/before")

    def rate(run):
        return read_config(run)["config"]["optimizer"]["lr"]

    places = read_study(before)["runs"].items()
    confirmed = {rate(before / n) for n, place in places if place["role"] == "confirm"}
    lucky = next(before / n for n in "0123" if rate(before / n) not in {1e-3, *confirmed})
    summary = read_summary(lucky)
    summary["objective"]["value"] = 1.0
    (lucky / "summary.json").write_text(json.dumps(summary))
    code, _ = sweep("+study=confirm", f"study.walk={before}", "study.seeds=1", *QUICK)
    assert code == 0
    walked = {rate(FOLDER / n) for n in read_study(FOLDER)["runs"]}
    best = next(e for e in read_sweep([before]).entries if e.rank == 1)
    assert best.knobs["optimizer.lr"] in walked
    assert rate(lucky) not in walked


def best_of(name):
    ends = runs(Path("outputs/sweeps") / name).items()
    values = {n: summary["objective"]["value"] for n, (_, summary) in ends}
    return str(max(values, key=values.get))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["training.ema=interval(1e-4,1e-1)", "hydra/sweeper=search"], "must say log or linear"),
        ([LR], "add hydra/sweeper=search"),
        ([LR.replace("1e-1", "-1"), "hydra/sweeper=search"], "the lower first"),
        (["optimizer.lr=tag(log,interval(-1,1))", "hydra/sweeper=search"], "must be above 0"),
        (["training.epochs=tag(linear,int(interval(0,9)))", "hydra/sweeper=search"], "training.epochs=0: must be"),
        (["hydra/sweeper=search", "search.method=grd", LR], "search.method=grd: must be one of auto"),
        (["+study=optimzer"], "did you mean optimizer"),
        (["+study=confirm"], "study.walk"),
        (["hydra/sweeper=search"], "no knob to search"),
        (["hydra/sweeper=search", LR, "search.epochs=100", "search.runs=5"], "keep one"),
        (["hydra/sweeper=search", LR, "search.runs=null"], "no budget; give search.runs=40"),
        (["hydra/sweeper=search", LR, "search.runs=1.5"], "search.runs=1.5: must be null, or a whole"),
        (["hydra/sweeper=search", LR, "search.pruner=asah"], "search.pruner=asah: must be one of auto"),
        (["hydra/sweeper=search", LR, "search.prior=lerned"], "search.prior=lerned: no such sweep; must be none, learned, or"),
        (["hydra/sweeper=search", LR, "search.prior=[none,learned]"], "none stands alone"),
        (["hydra/sweeper=search", LR, "search.prior=[]"], "search.prior=[]: must be none, learned, or"),
        (["hydra/sweeper=search", LR, "search.prior=x", "search.method=tpe"], "search.method=tpe takes no prior"),
        (["hydra/sweeper=search", LR, "search.width=0"], "search.width=0: must be a whole number >= 1"),
        (["hydra/sweeper=search", LR, "search.stop=yes"], "search.stop=yes: must be one of none, auto"),
        (["hydra/sweeper=search", LR, "search.stop=auto", "objective.metric=val/auroc", "metrics.extra=[auroc]"],
         "search.stop=auto: the noise of val/auroc on a validation split is not known"),
        (["hydra/sweeper=search", LR, "search.seed=-1"], "search.seed=-1: must be a whole number >= 0"),
        (["hydra/sweeper=search", LR, "search.rns=2"], "search.rns=2: no such key; did you mean search.runs?"),
        (["hydra/sweeper=search", LR, "search.method=tpe,gp"], "search.method=tpe,gp: no knob to search"),
        (["hydra/sweeper=search", LR, "seed=0,1"], "seed=0,1: no knob to search"),
        (["hydra/sweeper=search", LR, "test=true"], "test=true: a search does not look at the test"),
        (["hydra/sweeper=search", LR, "optimizer.lr=0.01"], "optimizer.lr: is given 2 times"),
        (["hydra/sweeper=search", "optimizer.rho=tag(linear,interval(0,1))"], "optimizer=adam has no such key"),
        (["+study=lr,width"], "+study=lr,width: no knob to search, study has one value"),
        (["+study=lr", "study.max_pairs=x"], "study.max_pairs=x: must be a whole number >= 0"),
        (["+study=lr", "study.splits=2"], "study.splits=2: must be true or false"),
        (["+study=lr", "study.sede=2"], "study.sede=2: no such key; did you mean study.seeds?"),
        (["+study=confirm", "study.walk=nowhere"], "study.walk=nowhere: no such folder"),
        (["+study=lr", "++optimizer.lr=0.01"], "no knob to search"),
    ],
)  # fmt: skip
def test_faults_before_anything_runs(sweep, lines, words):
    code, out = sweep(*QUICK, *lines)
    assert code == 2
    assert words in out
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("space: [optimizer.lr]", "study.space=['optimizer.lr']: must give each knob"),
        ("scientific: {optimizer: [adam, adam]}", "each once"),
        ("scientific: {optimizer: [adam, momntum]}", "did you mean momentum"),
        ("scientific: {optimizer.lr: [0.1, 0.2]}", "optimizer.lr: asked about and searched"),
        ("space: {seed: {choices: [1, 2]}}", "seed is no knob to search"),
        ("space: {}", "no knob to search"),
        ("runs: 0", "study.runs=0: must be a whole number >= 1"),
        ("set: [data]", "data: write data=OPTION"),
        ("set: ['seed=1,2']", "seed=1,2: no knob to search"),
        ("space: {optimizer.lr: {low: 1e-3", "mine.yaml, line 3: cannot be read as YAML"),
    ],
)
def test_faults_of_a_study_of_ones_own(sweep, tmp_path, node, words):
    (tmp_path / "conf" / "study").mkdir(parents=True)
    known = "# Mine?\nspace: {optimizer.lr: {low: 1e-3, high: 1e-1, scale: log}}\n"
    text = "# Mine?\n\n" + node if node.startswith("space") else known + node
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(text)
    # Flags may stand behind overrides.
    code, out = sweep(*QUICK, "--config-dir", str(tmp_path / "conf"), "+study=mine")
    assert code == 2
    assert words in out
    assert not Path("outputs").exists()


def test_a_studys_ranges_see_what_it_sets(sweep, tmp_path):
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(
        "# Mine?\nset: [optimizer=momentum]\nspace:\n"
        "  optimizer.lr: {low: '${optimizer.lr}', high: 1.0, scale: log}\n"
    )
    code, _ = sweep(*QUICK, "--config-dir", str(tmp_path / "conf"), "+study=mine", "search.runs=1")
    assert code == 0
    assert read_study(FOLDER)["arms"][""]["space"]["optimizer.lr"]["low"] == 0.01


def test_a_search_of_all_there_is_ends_early(sweep):
    code, out = sweep("hydra/sweeper=search", "activation=relu,tanh", "search.runs=5", *QUICK)
    assert code == 0
    assert "all 2 combinations were tried" in out
    assert {about["choices"]["activation"] for about, _ in runs().values()} == {"relu", "tanh"}
    assert len(runs()) == 2


def test_the_command_line_has_the_last_word_over_a_study():
    width = {"model.width": {"low": 8, "high": 64, "scale": "log", "int": True}}
    study = TWO_ARMS | {"space": TWO_ARMS["space"] | width, "set": ["training.epochs=9"]}
    lines = ["training.epochs=3", "model.width=32", "optimizer.lr=tag(log,interval(1e-3,1e-2))"]
    question = planned(lines, study)
    for knobs in question.knobs.values():
        assert list(knobs) == ["optimizer.lr"]
        assert (knobs["optimizer.lr"].low, knobs["optimizer.lr"].high) == (1e-3, 1e-2)
    assert list(question.knobs) == ["optimizer=adam", "optimizer=sgd"]
    assert question.job("optimizer=sgd", {"optimizer.lr": 0.005}, "seed=4") == [
        *("training.epochs=3", "model.width=32", "optimizer=sgd"),
        *("optimizer.lr=0.005", "seed=4"),
    ]
    with pytest.raises(ConfigError, match="study.sceintific: no such key"):
        planned([], {"sceintific": {}})


def test_study_json_is_what_was_asked(sweep):
    sweep(*SEARCH, "search.runs=2")
    stored = json.loads((FOLDER / "study.json").read_text())
    assert stored["arms"] == {
        "": {"overrides": [], "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-1, "log": True}}}
    }
    assert stored["objective"] == {"metric": "val/accuracy", "mode": "max"}
    assert stored["method"] == "auto"


def test_other_values_to_ask_about_come_from_the_command_line():
    study = {
        "scientific": {"model.width": [32, 64]},
        "space": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}},
    }
    arms = list(planned(["model.width=8,16,24"], study).arms)
    assert arms == ["model.width=8", "model.width=16", "model.width=24"]
    with pytest.raises(ConfigError, match="list them"):
        planned(["model.width=tag(log,int(interval(8,64)))"], study)


def test_arms_that_are_not_asked_about_take_their_ranges_along():
    both = planned(["optimizer=sgd,adam"], TWO_ARMS)
    assert list(both.knobs) == ["optimizer=sgd", "optimizer=adam"]
    for line in ("optimizer=choice(sgd)", "optimizer=sgd"):
        [(arm, knobs)] = planned([line], TWO_ARMS).knobs.items()
        assert (arm, knobs["optimizer.lr"].low) == ("optimizer=sgd", 1e-2)


def test_a_search_finds_options_of_ones_own(sweep, tmp_path):
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "calm.yaml").write_text(
        "# Adam with other betas.\ndefaults: [adam]\nbetas: [0.8, 0.99]\n"
    )
    words = ["--config-dir", str(tmp_path / "mine"), "hydra/sweeper=search", "search.runs=2"]
    code, out = sweep(*words, "optimizer=calm", "optimizer.lr=interval(1e-4,1e-1)", *QUICK)
    assert code == 0, out
    assert [about["config"]["optimizer"]["betas"] for about, _ in runs().values()] == [
        [0.8, 0.99]
    ] * 2


def test_a_study_adds_pairs_until_it_is_decided_and_resumes(sweep):
    """Widths of 8 and 9 are not told apart; 1 and 64 are at once."""
    lines = ["+study=width", "search.runs=4", "study.max_pairs=7", "training.epochs=1"]
    lines += ["optimizer.lr=interval(1e-3,3e-3)", "tracking=local"]
    code, out = sweep(*lines, "model.width=8,9", "sweep=s")
    assert code == 0, out
    assert "width: 18 runs at most: 4 to search, 10 to 14 to confirm" in out
    assert "not decided by 5 pairs: 7 in all, 14 runs" in out
    assert read_study(FOLDER)["looks"] == [5, 7]
    confirmed = [
        (place["arm"], place["seed"])
        for place in read_study(FOLDER)["runs"].values()
        if place["role"] == "confirm"
    ]
    assert sorted(confirmed) == [(f"model.width={w}", s) for w in (8, 9) for s in range(1, 8)]
    assert out.splitlines()[-1].startswith("test, one look at the end: python train.py ")
    assert "test=true" in out.splitlines()[-1]
    before = runs()
    assert all(summary["test"] is None for _, summary in before.values())
    assert sweep(*lines, "model.width=8,9", "sweep=s")[0] == 0
    assert runs() == before
    code, out = sweep(*lines, "model.width=1,64", "sweep=apart")
    assert code == 0
    assert "not decided" not in out


def test_by_time_a_study_has_a_pair_a_fold():
    """No seed cuts other folds there: a second cut would be the first again."""
    plan = Plan((), {"": ()}, {"": {}}, walk="w", seeds=5, max_pairs=20, folds=6)
    assert one_cut(plan, {"split": "random"}).looks == (5, 10, 15, 20)
    assert one_cut(plan, {"split": "time:day"}).looks == (6,)
    with pytest.raises(ConfigError, match="3 pairs decide nothing; give study.folds=5 or more"):
        one_cut(replace(plan, folds=3), {"split": "time:day"})


def test_the_pairs_of_a_study_are_folds_where_it_says_so(sweep):
    """Two folds of one cut, then two of another; the search has none. A setting is one in both."""
    lines = ["+study=width", "search.runs=3", "study.seeds=4", "study.folds=2", "tracking=local"]
    lines += ["training.epochs=1", "optimizer.lr=interval(1e-3,3e-3)", "model.width=8,9"]
    code, out = sweep(*lines, "sweep=s")
    assert code == 0, out
    assert "width: 12 runs at most: 4 to search, 8 to confirm" in out  # two of each arm
    assert "12 runs: 12 finished" in out
    assert read_study(FOLDER)["asked"] == [*lines, "sweep=s"]
    entries = read_sweep([FOLDER]).entries
    assert [(entry.confirmed, entry.n) for entry in entries] == [(True, 4)] * 2 + [(False, 1)] * 2
    assert [*entries[0].knobs] == ["model.width", "optimizer.lr"]
    cuts = {"search": set(), "confirm": set()}
    for number, place in read_study(FOLDER)["runs"].items():
        config = read_config(FOLDER / number)["config"]
        data = [config["data"][key] for key in ("folds", "fold", "val_seed")]
        cuts["confirm" if place["role"] == "confirm" else "search"].add((config["seed"], *data))
    assert cuts["search"] == {(0, None, 0, None)}
    assert cuts["confirm"] == {(1, 2, 0, 1), (2, 2, 1, 1), (3, 2, 0, 2), (4, 2, 1, 2)}


@pytest.mark.parametrize(
    ("lines", "looks"),
    [
        ({"seeds": 5}, (5, 10, 15, 20)),
        ({"seeds": 5, "max_pairs": 12}, (5, 10, 12)),
        ({"seeds": 8, "max_pairs": 8}, (8,)),
        ({"seeds": 3}, (3,)),
        ({}, ()),
    ],
)
def test_a_study_looks_after_so_many_pairs(lines, looks):
    assert planned([], TWO_ARMS | lines).looks == looks
