"""What `search.stop=auto` saves, and what it loses against the whole budget.

    python benchmarks/stopping.py hpobench --prior       # KNOBS_DATA at the data
    python benchmarks/stopping.py functions              # --noise 0.03; on which the rule was set
    python benchmarks/stopping.py held-out               # functions that no choice was made on

A search by `auto` with --runs runs, each seen with noise, with --prior from what other tasks liked;
the rule looks at it as at a search under way. Of the search as ended by the rule and of the whole
one: the regret of the setting seen best, (best - found) / (best - median of random settings), in
truth. Lost: the difference, also in units of the noise of a run. Mean over seeds and problems, and
a 90 % t-interval over the seeds.

hpobench   8 data sets; a search sees the score of one training seed. The noise is the standard
           deviation over the 5 seeds, its median over the best tenth of the settings, over
           sqrt(2), as that of a validation split is told: two settings share the split.
functions  of benchmarks/importance.py; the noise of a run is --noise of the function's standard
held-out   deviation, and the rule is told that over sqrt(2).
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import importance
import numpy as np
import search as tables

from knobs.search.methods import Values
from knobs.search.prior import Prior, learned
from knobs.search.space import Knobs, Range, Space
from knobs.search.trials import Search
from knobs.sweep.stopping import LOOKS, gain_of, next_look


@dataclass
class Problem:
    """Something to search, higher is better.

    Args:
        noise: that the rule is told of.
        see: values and a generator -> a score; truth: values -> the true one.
        context: what is not searched, as a prior takes it.
    """

    name: str
    knobs: Knobs
    default: Values
    noise: float
    see: Callable[[Values, np.random.Generator], float]
    truth: Callable[[Values], float]
    best: float
    middle: float
    context: Values = field(default_factory=dict)


def hpobench(_: float) -> Iterator[Problem]:
    """The tables of benchmarks/search.py, a seed drawn for each run."""
    with np.load(tables.DATA / "tuner_tables" / "hpobench.npz") as found:
        for problem in tables.hpobench(noisy=True):
            table = found[problem.name].astype(float)
            mean, sd = table.mean(-1), table.std(-1, ddof=1)
            top = sd[mean >= np.quantile(mean, 0.9)]
            yield Problem(
                problem.name,
                problem.knobs,
                problem.default,
                float(np.median(top)) / math.sqrt(2),
                lambda v, rng, p=problem: p.train([(v, int(rng.integers(5)))])[0][0],
                lambda v, p=problem: p.judge([v])[0],
                problem.best,
                problem.middle,
                problem.context,
            )


def functions(noise: float, every: dict = importance.FUNCTIONS) -> Iterator[Problem]:
    """Functions of the unit cube; the default is its middle."""
    for name, (function, d, _) in every.items():
        values = function(importance.sobol(d, 2**15, np.random.default_rng(0)))
        spread, names = values.std(), [f"x{k}" for k in range(d)]

        def truth(v: Values, f: Callable = function, names: list = names) -> float:
            return float(f(np.array([[v[n] for n in names]]))[0])

        yield Problem(
            name,
            dict.fromkeys(names, Range(0.0, 1.0, False)),
            dict.fromkeys(names, 0.5),
            noise * spread / math.sqrt(2),
            lambda v, rng, t=truth, sd=noise * spread: t(v) + sd * rng.standard_normal(),
            truth,
            values.max(),
            float(np.median(values)),
        )


def held_out(noise: float) -> Iterator[Problem]:
    """The same of those that no choice was made on."""
    return functions(noise, importance.HELD_OUT)


def searched(problem: Problem, runs: int, seed: int, prior: Prior | None) -> dict:
    """One search to its end, and where the rule would have ended it."""
    rng = np.random.default_rng([seed, 1])
    about = {"method": "auto", "budget": runs, "seed": seed, "defaults": {"": problem.default}}
    about |= {"prior": prior, "context": {"": problem.context}}
    search = Search(None, Space({"": problem.knobs}), **about)
    seen: list[tuple[float, Values]] = []
    looked = below = over = 0
    while batch := search.ask(1):
        seen.append((problem.see(batch[0].values, rng), batch[0].values))
        search.tell(batch[0], seen[-1][0])
        n = len(seen)
        if not over and n < runs and n >= next_look(looked):
            looked, gain = n, gain_of(problem.knobs, search.ended(""))
            below = below + 1 if gain is not None and gain < problem.noise else 0
            over = n if below >= LOOKS else 0

    def found(n: int) -> float:
        return problem.truth(max(seen[:n], key=lambda pair: pair[0])[1])

    scale, ends = problem.best - problem.middle, (found(over or runs), found(runs))
    regrets = [max(0.0, min(1.0, (problem.best - end) / scale)) for end in ends]
    lost = (ends[1] - ends[0]) / (problem.noise * math.sqrt(2))
    return {
        "problem": problem.name, "seed": seed, "saved": runs - (over or runs), "lost": lost,
        "ended": regrets[0], "whole": regrets[1],
    }  # fmt: skip


def show(rows: list[dict], title: str) -> None:
    """Means, and the interval of the paired difference over seeds."""
    saved = statistics.mean(row["saved"] for row in rows)
    ended, whole, lost = (
        statistics.mean(r[key] for r in rows) for key in ("ended", "whole", "lost")
    )
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row["ended"] - row["whole"])
    mean, half = tables.interval([statistics.mean(values) for values in by_seed.values()])
    many = sum(row["lost"] > 1 for row in rows) / len(rows)
    print(
        f"| {title} | {len(rows)} | {saved:.1f} | {ended:.3f} | {whole:.3f} | "
        f"{mean:+.3f} ± {half:.3f} | {lost:.2f} | {many:.0%} |"
    )


PARTS = {"hpobench": hpobench, "functions": functions, "held-out": held_out}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--prior", action="store_true", help="begin from what other tasks liked")
    parser.add_argument("--out", type=Path, help="rows go here; what is here is not redone")
    args = parser.parse_args()
    rows = []
    if args.out and args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    done = {(row["problem"], row["seed"]) for row in rows}
    problems, prior = list(PARTS[args.part](args.noise)), learned() if args.prior else None
    for seed in range(args.seeds):
        for problem in problems:
            if (problem.name, seed) not in done:
                rows.append(searched(problem, args.runs, seed, prior))
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    heads = "ended | whole | difference | lost, in noises of a run | lost more than one"
    print(f"| {args.part} | searches | saved of {args.runs} | {heads} |")
    for problem in problems:
        show([row for row in rows if row["problem"] == problem.name], problem.name)
    show(rows, "all")


if __name__ == "__main__":
    main()
