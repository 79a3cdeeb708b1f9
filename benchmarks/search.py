"""Which search finds good settings with few runs: ours beside Optuna's, on tables and on trainings.

    .venv-bench/bin/python benchmarks/search.py --part hpobench deepobs digits fashion
    .venv-bench/bin/python benchmarks/search.py --seeds 5 --out found.jsonl  # goes on
    .venv-bench/bin/python benchmarks/search.py --show found.jsonl

hpobench  an MLP's 5 knobs on 8 data sets, a table: the mean score of trainings with 5 seeds.
hpobench_noisy  the same, but a search sees the score of one seed; it is judged by the mean.
deepobs   3 optimizers x 36 learning rates on 4 problems, with curves of 100 epochs and fewer.
digits    real trainings of an MLP for 10 epochs: lr, L2, L1, dropout, label smoothing. All searches
          of a piece take turns, so that what they ask for trains as one stack. A search sees the
          validation loss of one training seed; it is judged by the mean of 3 others. The best
          known is the best that any search found.
fashion   the same by accuracy on Fashion-MNIST, 4,000 images and 6,000 to validate, 6 epochs.

A table's axes are a grid: every arm searches the continuous cube and gets the nearest point's
score. Regret: (best known - found) / (best known - median of random settings), so 0 is the best
known, 1 the middle of random ones and the most that is counted; found is the setting seen best by
then. A run that was pruned is charged for the epochs it had. `auto` and `best` plan for their
budget, so each budget needs a separate search; the other arms' budgets are the beginnings of one
search. Printed: mean over seeds (a seed is the mean over the part's problems) and a 90 %
t-interval; then the paired differences, and the same of all parts together. `auto` starts from
what other tasks liked, `auto, no prior` does not. Of `auto, shuffled prior` the scores belong to
other settings: what a prior costs that is wrong. None of these data sets is among its tasks.
Data: tuner_tables/ and FashionMNIST/ in the folder KNOBS_DATA, else in a sibling
shared/data folder, if there is one.
"""

import argparse
import copy
import gzip
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from scipy import stats

from knobs.search.methods import distribution
from knobs.search.prior import Prior, learned
from knobs.search.pruning import Pruner
from knobs.search.space import Choice, Knobs, Range, Space
from knobs.search.trials import Search

DATA = Path(os.environ.get("KNOBS_DATA") or Path(__file__).parents[2] / "shared" / "data")
BUDGETS = (5, 10, 20, 40)
# Ours: arm -> method, and the prior for a search's seed.
OURS: dict[str, tuple[str, Callable[[int], Prior | None]]] = {
    "auto": ("auto", lambda seed: learned()),
    "auto, no prior": ("auto", lambda seed: None),
    "auto, shuffled prior": ("auto", lambda seed: learned().shuffled(seed)),
    "best": ("best", lambda seed: None),
}
PAIR, TOLD = "optuna pair", "pair, default first"  # TPE and MedianPruner, as Optuna comes
ARMS = (*OURS, PAIR, TOLD, "random", "tpe", "gp")
PEERS = {"smac": "smac", "pibo": "neps", "priorband": "neps"}  # arm -> its environment, by request
RANDOM = 200  # settings whose middle a regret of 1 is, where there is no table
JUDGES = 3  # further training seeds of a setting that a search found
Values = dict[str, Any]
Cells = dict[tuple[str, int], dict[int, float]]
Curve = list[float]  # the objective after each epoch, higher is better; -inf once it diverged


@dataclass
class Problem:
    """Something to search.

    Args:
        default: a sensible setting of someone who has not searched.
        epochs: of a whole run.
        train: settings with a seed each -> their curves.
        judge: settings -> how good each is in truth.
        best, middle: of the truth: best known, median of random settings; None: of what was found.
        context: config key or group -> what is not searched, as `python train.py` would have it.
    """

    name: str
    knobs: Knobs
    default: Values
    epochs: int
    train: Callable[[list[tuple[Values, int]]], list[Curve]]
    judge: Callable[[list[Values]], list[float]]
    best: float | None = None
    middle: float | None = None
    context: Values = field(default_factory=dict)


# ------------------------------------------------------------------ tables
def nearest(axis: np.ndarray, value: float) -> int:
    """Index of the closest point of a table's axis."""
    return int(np.argmin(np.abs(axis - value)))


# Of hpobench: scikit-learn's name -> the config's. Its alpha is L2, as that of optimizer=adam.
KEYS = {
    "alpha": "optimizer.weight_decay", "batch_size": "training.batch_size",
    "depth": "model.depth", "learning_rate_init": "optimizer.lr", "width": "model.width",
}  # fmt: skip
OFF = {
    "regularization": "none", "regularization.norm": None, "regularization.l1": 0.0,
    "regularization.dropout": 0.0, "regularization.label_smoothing": 0.0,
    "training.clip_norm": None,
}  # fmt: skip
SKLEARN = OFF | {
    "model": "mlp", "optimizer": "adam", "optimizer.betas": [0.9, 0.999], "activation": "relu",
    "scheduler": "constant", "init": "xavier_uniform", "training.epochs": 243,
    "data.task": "classification",
}  # fmt: skip


def hpobench_noisy() -> list[Problem]:
    """The same table, but a search sees the score of one training seed."""
    return hpobench(noisy=True)


def hpobench(noisy: bool = False) -> list[Problem]:
    """8 data sets; the default is scikit-learn's MLPClassifier: lr 1e-3, alpha 1e-4, batch 200,
    one layer of 100."""
    folder = DATA / "tuner_tables"
    axes = json.loads((folder / "search_space.json").read_text())["hpobench"]
    axes = {KEYS[name]: axis for name, axis in axes.items()}
    depth = KEYS["depth"]
    logs = {name: np.array(axis) if name == depth else np.log(axis) for name, axis in axes.items()}
    knobs = {
        name: Range(0.5, 3.5, False) if name == depth else Range(axis[0], axis[-1], True)
        for name, axis in axes.items()
    }
    default = {
        "alpha": 1e-4, "batch_size": 200.0, "depth": 1.0, "learning_rate_init": 1e-3, "width": 100.0
    }  # fmt: skip
    default = {KEYS[name]: value for name, value in default.items()}
    problems = []
    with np.load(folder / "hpobench.npz") as tables:
        for name in tables.files:
            table = tables[name].astype(float)
            truth = table.mean(-1)
            seen = table if noisy else np.repeat(truth[..., None], 5, -1)

            def spot(values: Values, logs: dict = logs) -> tuple[int, ...]:
                return tuple(
                    nearest(axis, values[n] if n == depth else math.log(values[n]))
                    for n, axis in logs.items()
                )

            problems.append(
                Problem(
                    name,
                    knobs,
                    default,
                    1,
                    lambda asked, t=seen, s=spot: [[t[s(v)][seed % 5]] for v, seed in asked],
                    lambda asked, t=truth, s=spot: [t[s(v)] for v in asked],
                    truth.max(),
                    float(np.median(truth)),
                    SKLEARN,
                )
            )
    return problems


def deepobs() -> list[Problem]:
    """4 problems; the default is Adam with torch's learning rate. Accuracy where there is one."""
    with gzip.open(DATA / "tuner_tables" / "deepobs_fmnist.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    names = {"sgd": "GradientDescentOptimizer", "momentum": "MomentumOptimizer",
             "adam": "AdamOptimizer"}  # fmt: skip
    knobs = {"optimizer": Choice((*names,)), "optimizer.lr": Range(1e-5, 1e2, True)}
    problems = []
    for name in sorted({row["testproblem"] for row in rows}):
        curves: dict[str, dict[float, Curve]] = {}
        for row in rows:
            # The 10 runs with other seeds repeat the best rate; the grid's have this one.
            if row["testproblem"] == name and row["random_seed"] == 42:
                found = row.get("test_accuracies") or [-loss for loss in row["test_losses"]]
                curve = [-math.inf if v is None or not math.isfinite(v) else v for v in found]
                curves.setdefault(row["optimizer"], {})[row["learning_rate"]] = curve[1:]
        length = max(len(c) for by_rate in curves.values() for c in by_rate.values())

        def look(values: Values, curves: dict = curves, length: int = length) -> Curve:
            by_rate = curves[names[values["optimizer"]]]
            rates = np.array(sorted(by_rate))
            curve = by_rate[rates[nearest(np.log(rates), math.log(values["optimizer.lr"]))]]
            return curve + [-math.inf] * (length - len(curve))

        ends = [max(c) for by_rate in curves.values() for c in by_rate.values()]
        problems.append(
            Problem(
                name,
                knobs,
                {"optimizer": "adam", "optimizer.lr": 1e-3},
                length,
                lambda asked, look=look: [look(values) for values, _ in asked],
                lambda asked, look=look: [max(look(values)) for values in asked],
                max(ends),
                statistics.median(ends),
                {"scheduler": "constant", "optimizer.weight_decay": 0.0, "training.epochs": length},
            )
        )
    return problems


# ------------------------------------------------------------------ real trainings
REAL = {
    "optimizer.lr": Range(1e-5, 1, True),
    "optimizer.weight_decay": Range(1e-7, 1e-1, True),
    "regularization.l1": Range(1e-7, 1e-2, True),
    "regularization.dropout": Range(0.0, 0.7, False),
    "regularization.label_smoothing": Range(0.0, 0.3, False),
}
REAL_DEFAULT = dict(zip(REAL, (1e-3, 1e-6, 1e-6, 0.0, 0.0), strict=True))


def digits() -> list[Problem]:
    """An MLP 64-64-64-10 with Adam, batch 64; 360 examples tell by their loss, not by hits."""
    words = ["training.epochs=10", "training.batch_size=64", "objective.metric=val/loss"]
    return [real("digits", words, None)]


def fashion() -> list[Problem]:
    """An MLP 784-64-64-10 with Adam, batch 64, on 4,000 images; accuracy on 6,000."""
    words = ["data=fashion_mnist", f"data.root={DATA}", "training.epochs=6"]
    return [real("fashion", [*words, "training.batch_size=64"], 4000)]


def context(config: dict[str, Any]) -> Values:
    """What a search knows of a config that is not searched."""
    chosen = {"optimizer": "adam", "scheduler": "constant", "init": "common"}
    return OFF | chosen | {
        "model": config["model"]["name"], "activation": "relu",
        "optimizer.betas": config["optimizer"]["betas"], "model.width": config["model"]["width"],
        "model.depth": config["model"]["depth"],
        "training.batch_size": config["training"]["batch_size"],
        "training.epochs": config["training"]["epochs"], "data.task": config["data"]["task"],
    }  # fmt: skip


def real(name: str, overrides: list[str], examples: int | None) -> Problem:
    """A problem whose every score is a training in a stack, as `python train.py -m` makes it."""
    import dataclasses

    import torch

    from knobs import build
    from knobs.config import command
    from knobs.data import Tensors
    from knobs.stack import loop as stack
    from knobs.training.setup import assemble

    plain = command.checked(["tracking=local", *overrides])
    data = build.data(plain)
    if examples:
        part = Tensors(data.train.x[:examples], data.train.y[:examples])
        held = Tensors(data.train.x[-6000:], data.train.y[-6000:])
        data = dataclasses.replace(data, train=part, val=held)

    metric, epochs = plain["objective"]["metric"], plain["training"]["epochs"]
    sign = 1 if plain["objective"]["mode"] == "max" else -1

    def train(asked: list[tuple[Values, int]]) -> list[Curve]:
        runs, curves = [], {}
        for values, seed in asked:
            own = copy.deepcopy(plain) | {"seed": seed}
            for key, value in values.items():
                section, _, name = key.partition(".")
                own[section][name] = value
            runs.append(assemble(own, data, torch.device("cpu")))
            curves[runs[-1]] = []
        stack.fit(
            runs,
            lambda run, row: curves[run].append(sign * row[metric]),
            lambda *_: None,
            lambda _: None,
            lambda _: None,
        )
        return [curve + [-math.inf] * (epochs - len(curve)) for curve in map(curves.get, runs)]

    def judge(asked: list[Values]) -> list[float]:
        pairs = [(values, 1000 + seed) for values in asked for seed in range(JUDGES)]
        ends = [max(curve) for curve in train(pairs)]
        return [statistics.mean(ends[i : i + JUDGES]) for i in range(0, len(ends), JUDGES)]

    draw = np.random.default_rng(0)
    cube = [[knob.from_unit(draw.random()) for knob in REAL.values()] for _ in range(RANDOM)]
    ends = [max(c) for c in train([(dict(zip(REAL, u, strict=True)), 0) for u in cube])]
    middle = statistics.median(ends)
    return Problem(name, REAL, REAL_DEFAULT, epochs, train, judge, None, middle, context(plain))


# ------------------------------------------------------------------ arms
@dataclass
class Seen:
    """The runs that a search has seen: each with what was spent before it, score, values."""

    runs: list[tuple[float, float, Values]] = field(default_factory=list)
    spent: float = 0.0

    def add(self, score: float, values: Values, cost: float) -> None:
        """A run that has ended."""
        self.runs.append((self.spent, score, values))
        self.spent += cost

    def found(self, budget: float) -> Values:
        """The setting seen best by the runs of a budget."""
        return max((run for run in self.runs if run[0] <= budget - 0.5), key=lambda run: run[1])[2]


Arm = Generator[Values, Curve, Seen]  # yields settings to train, and is sent their curves


def knobs_arm(problem: Problem, name: str, budget: int, seed: int, width: int) -> Arm:
    """Our search, asked for `width` runs at a time. `best` prunes where there are curves."""
    method, prior = OURS[name]
    seen, asha = Seen(), "asha" if method == "best" and problem.epochs > 1 else "none"
    options = {"epochs": problem.epochs, "seed": seed, "defaults": {"": problem.default}}
    options |= {"prior": prior(seed), "context": {"": problem.context}}
    search = Search(None, Space({"": problem.knobs}), method=method, budget=budget, **options)
    with tempfile.TemporaryDirectory() as folder:
        pruner = Pruner(asha, Path(folder))
        while batch := search.ask(width):
            ends = []
            for trial in batch:
                curve, best, status = (yield trial.values), -math.inf, "finished"
                for epoch, value in enumerate(curve, 1):
                    best = max(best, value)
                    if trial.prunable and pruner.stops({trial.run: best}, epoch, problem.epochs):
                        status = "pruned"
                        break
                diverged = curve[epoch - 1] == -math.inf and status == "finished"
                ends.append((trial, None if diverged else best, status, epoch))
                seen.add(best, trial.values, epoch / problem.epochs if status == "pruned" else 1)
            for end in ends:  # not before: trained at the same time, they do not know each other
                search.tell(*end)
    return seen


def optuna_arm(problem: Problem, name: str, budget: int, seed: int) -> Arm:
    """Optuna's own, as its documentation uses it: ask, report, should_prune, tell."""
    sampler = {
        PAIR: optuna.samplers.TPESampler,
        TOLD: optuna.samplers.TPESampler,
        "tpe": optuna.samplers.TPESampler,
        "random": optuna.samplers.RandomSampler,
        "gp": optuna.samplers.GPSampler,
    }[name](seed=seed)
    pruner = optuna.pruners.MedianPruner() if name in (PAIR, TOLD) else optuna.pruners.NopPruner()
    study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    if name == TOLD:
        study.enqueue_trial(problem.default)
    space = {name: distribution(knob) for name, knob in problem.knobs.items()}
    seen = Seen()
    while seen.spent <= budget - 0.5:
        trial = study.ask(space)
        curve, best, pruned = (yield trial.params), -math.inf, False
        for epoch, value in enumerate(curve, 1):
            best = max(best, value)
            if value == -math.inf:  # NaN: Optuna's own loop fails the trial here
                break
            trial.report(value, epoch)
            if trial.should_prune():
                pruned = True
                break
        state = optuna.trial.TrialState
        if pruned:
            study.tell(trial, state=state.PRUNED)
        elif value == -math.inf:
            study.tell(trial, state=state.FAIL)
        else:
            study.tell(trial, best)
        seen.add(best, trial.params, epoch / problem.epochs if pruned else 1)
    return seen


def peer_arm(problem: Problem, name: str, budget: int, seed: int, peers: Path) -> Arm:
    """Another library's, in an environment of its own: see peers/asks.py."""
    python = peers.absolute() / PEERS[name] / "bin" / "python"
    command = [python, Path(__file__).parent / "peers" / "asks.py"]
    knobs = {
        n: {"options": k.options} if isinstance(k, Choice) else {
            "low": k.low, "high": k.high, "log": k.log, "integer": k.integer
        }
        for n, k in problem.knobs.items()
    }  # fmt: skip
    question = {"peer": name, "knobs": knobs, "default": problem.default}
    question |= {"epochs": problem.epochs, "budget": budget, "seed": seed}
    seen, trained = Seen(), {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as peer:
        print(json.dumps(question), file=peer.stdin, flush=True)
        while seen.spent <= budget - 0.5:
            values, epochs = json.loads(peer.stdout.readline())
            curve = (yield values)[:epochs]
            best, diverged = max(curve), curve[-1] == -math.inf
            before, trained[str(values)] = trained.get(str(values), 0), epochs  # it goes on there
            seen.add(best, values, max(0, epochs - before) / problem.epochs)
            print(json.dumps(None if diverged else -best), file=peer.stdin, flush=True)
        peer.kill()
    return seen


# ------------------------------------------------------------------ searches -> rows
def rows_of(
    problem: Problem,
    arms: list[str],
    budgets: list[int],
    seeds: list[int],
    width: int = 1,
    peers: Path | None = None,
) -> list[dict]:
    """Every arm and seed on a problem; what they ask for at the same time trains together."""
    keys: dict[tuple[str, int, int], Arm] = {}
    for seed in seeds:
        for name in arms:
            if name in OURS:
                for b in budgets:
                    keys[name, b, seed] = knobs_arm(problem, name, b, seed, width)
            elif name in PEERS:
                keys[name, max(budgets), seed] = peer_arm(problem, name, max(budgets), seed, peers)
            else:
                keys[name, max(budgets), seed] = optuna_arm(problem, name, max(budgets), seed)
    asked, seen = {key: next(arm) for key, arm in keys.items()}, {}
    while asked:
        curves = problem.train([(values, key[2]) for key, values in asked.items()])
        answers = dict(zip(asked, curves, strict=True))
        asked = {}
        for key, curve in answers.items():
            try:
                asked[key] = keys[key].send(curve)
            except StopIteration as end:
                seen[key] = end.value
    rows = []
    for (name, budget, seed), found in seen.items():
        for b in [budget] if name in OURS else budgets:
            about = {"problem": problem.name, "arm": name, "budget": b, "seed": seed}
            rows.append(about | {"values": found.found(b), "runs": len(found.runs)})
    for row, truth in zip(rows, problem.judge([row["values"] for row in rows]), strict=True):
        row |= {"truth": truth, "middle": problem.middle}
    if problem.best is not None:
        for row in rows:
            row["regret"] = min((problem.best - row["truth"]) / (problem.best - problem.middle), 1)
    return rows


PARTS = {
    "hpobench": hpobench,
    "hpobench_noisy": hpobench_noisy,
    "deepobs": deepobs,
    "digits": digits,
    "fashion": fashion,
}


# ------------------------------------------------------------------ rows -> tables
def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 90 % t-interval."""
    half = stats.t.ppf(0.95, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def by_seed(rows: Iterable[dict]) -> dict[int, float]:
    """Seed -> mean regret over problems."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row["regret"])
    return {seed: statistics.mean(values) for seed, values in found.items()}


def normalise(rows: list[dict], problem: str) -> None:
    """Regret of a problem whose best is not known: beside the best that any search found."""
    own = [row for row in rows if row["problem"] == problem]
    if any("regret" not in row for row in own):
        best = max(row["truth"] for row in own)
        for row in own:
            row["regret"] = min((best - row["truth"]) / (best - row["middle"]), 1)


def table(rows: list[dict]) -> Cells:
    """Arm and budget -> seed -> regret."""
    for name in {row["problem"] for row in rows}:
        normalise(rows, name)
    return {
        (arm, b): by_seed(row for row in rows if (row["arm"], row["budget"]) == (arm, b))
        for arm in (*ARMS, *PEERS)
        for b in sorted({row["budget"] for row in rows})
    }


def together(tables: list[Cells]) -> Cells:
    """Several parts as one, each as much as another, on the budgets and seeds that all have."""
    whole: Cells = {}
    for key in set.intersection(*map(set, tables)):
        found = [cells[key] for cells in tables]
        seeds = set.intersection(*map(set, found))
        whole[key] = {seed: statistics.mean(cells[seed] for cells in found) for seed in seeds}
    return whole


def show(cells: Cells, title: str) -> None:
    """Regrets, and the paired differences of ours to every other arm."""
    budgets = sorted({b for _, b in cells})
    counts = {len(seeds) for seeds in cells.values() if seeds}
    print(f"\n{title}; seeds {min(counts)}")
    print(f"  {'regret after':<20}" + "".join(f"{b:>16} runs" for b in budgets))
    for arm in (*ARMS, *PEERS):
        if any(cells[arm, b] for b in budgets):
            told = [interval(list(cells[arm, b].values())) for b in budgets]
            print(f"  {arm:<20}" + "".join(f"{m:>12.3f} ± {h:.3f}  " for m, h in told))
    for own in OURS:
        print(f"  {own} less ...")
        for arm in (*ARMS, *PEERS):
            if arm != own and all(cells[arm, b] and cells[own, b] for b in budgets):
                told = [
                    interval([cells[own, b][s] - cells[arm, b][s] for s in cells[arm, b]])
                    for b in budgets
                ]
                print(f"    {arm:<18}" + "".join(f"{m:>+12.3f} ± {h:.3f}  " for m, h in told))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *PEERS], default=[*ARMS])
    homes = "folder of the environments that " + ", ".join(PEERS) + " need: see peers/asks.py"
    parser.add_argument("--peers", type=Path, help=homes)
    parser.add_argument("--budgets", nargs="+", type=int, default=[*BUDGETS])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--problems", nargs="+", help="of the part; else all")
    parser.add_argument("--piece", type=int, default=5, help="seeds that train together")
    parser.add_argument("--width", type=int, default=1, help="runs that ours asks for at a time")
    parser.add_argument("--out", type=Path, help="rows go here; those that are here are not redone")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after about so many")
    parser.add_argument("--show", type=Path, help="only print what is here")
    args = parser.parse_args()
    if not args.peers and (lacking := [name for name in args.arms if name in PEERS]):
        parser.error(f"--arms {' '.join(lacking)}: --peers FOLDER, {homes}")
    if "priorband" in args.arms and any(part.startswith("hpobench") for part in args.part):
        parser.error("--arms priorband: hpobench has no epochs, which it chooses; leave one out")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    began = time.perf_counter()
    source = args.show or args.out
    rows = []
    if source and source.exists():
        rows = [json.loads(line) for line in source.read_text().splitlines()]
    parts: dict[str, list[dict]] = {}
    for part in args.part:
        if args.show:
            parts[part] = [row for row in rows if row["part"] == part]
            continue
        for problem in PARTS[part]():
            if args.problems and problem.name not in args.problems:
                continue
            seeds = list(range(args.first, args.first + args.seeds))
            own = [row for row in rows if row["part"] == part]  # names repeat in other parts
            for i in range(0, len(seeds), args.piece):
                left = [s for s in seeds[i : i + args.piece] if not done(own, problem, args, s)]
                if not left or time.perf_counter() - began > 60 * args.minutes:
                    continue
                new = rows_of(problem, args.arms, args.budgets, left, args.width, args.peers)
                rows += [row | {"part": part} for row in new]
                print(
                    f"  {problem.name} {left} {time.perf_counter() - began:.0f} s", file=sys.stderr
                )
                if args.out:
                    with args.out.open("a") as file:
                        file.writelines(json.dumps(r | {"part": part}) + "\n" for r in new)
        parts[part] = [row for row in rows if row["part"] == part]
    tables = {part: table(own) for part, own in parts.items() if own}
    for part, cells in tables.items():
        show(cells, f"{part}: {', '.join(sorted({row['problem'] for row in parts[part]}))}")
    if len(tables) > 1:
        show(together(list(tables.values())), "all of them")


def done(rows: list[dict], problem: Problem, args: argparse.Namespace, seed: int) -> bool:
    """True where all that is asked of a seed is there."""
    known = {
        (r["arm"], r["budget"]) for r in rows if (r["problem"], r["seed"]) == (problem.name, seed)
    }
    return known >= {(arm, b) for arm in args.arms for b in args.budgets}


if __name__ == "__main__":
    main()
