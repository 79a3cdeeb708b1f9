"""Another library's search, asked through pipes: it has a virtual environment of its own.

    python -m venv peers/smac && peers/smac/bin/pip install smac==2.4.1
    python -m venv peers/neps && peers/neps/bin/pip install neural-pipeline-search==0.17.0
    python benchmarks/search.py --peers peers --arms auto "optuna pair" smac pibo priorband

Read, a line of JSON each: first the question {peer, knobs, default, epochs, budget, seed}, then
what each setting has cost (low is good; null: it diverged). Written, as it is asked for: a setting,
and after how many epochs its cost is wanted. A knob is {low, high, log, integer} or {options}.
"""

import functools
import json
import random
import sys
import tempfile
from collections.abc import Callable
from typing import Any

WORST = 1e9  # of a setting that has diverged
Values = dict[str, Any]
Ask = Callable[[], tuple[Values, int, Callable[[float], Any]]]  # setting, epochs, what to tell


def smac(question: Values, folder: str) -> Ask:
    """SMAC3's facade for hyperparameters: a random forest and expected improvement."""
    from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    space = ConfigurationSpace(seed=question["seed"])
    for name, knob in question["knobs"].items():
        if "options" in knob:
            space.add(Categorical(name, knob["options"]))
        else:
            kind = Integer if knob["integer"] else Float
            space.add(kind(name, (knob["low"], knob["high"]), log=knob["log"]))
    scenario = Scenario(
        space, n_trials=question["budget"], deterministic=True, seed=question["seed"],
        output_directory=folder,
    )  # fmt: skip
    search = HyperparameterOptimizationFacade(
        scenario, lambda config, seed=0: 0.0, overwrite=True, logging_level=40
    )

    def ask() -> tuple[Values, int, Callable[[float], Any]]:
        info = search.ask()
        told = functools.partial(search.tell, info)
        return dict(info.config), question["epochs"], lambda cost: told(TrialValue(cost=cost))

    return ask


def pibo(question: Values, _folder: str) -> Ask:
    """NePS's Gaussian process, its acquisition weighed by a prior around the default."""
    from neps import algorithms

    return _neps(question, algorithms.pibo, {})


def priorband(question: Values, _folder: str) -> Ask:
    """NePS's PriorBand: Hyperband that draws around the default and the best, too."""
    from neps import HPOInteger, algorithms

    fidelity = HPOInteger(1, question["epochs"], is_fidelity=True)
    return _neps(question, algorithms.priorband, {EPOCHS: fidelity})


def _neps(question: Values, algorithm: Callable[..., Any], more: Values) -> Ask:
    import numpy as np
    import torch
    from neps import AskAndTell, HPOCategorical, HPOFloat, HPOInteger, SearchSpace

    space = {}
    for name, knob in question["knobs"].items():
        default = question["default"][name]
        if "options" in knob:
            space[name] = HPOCategorical(knob["options"], prior=default)
        else:
            kind = HPOInteger if knob["integer"] else HPOFloat
            space[name] = kind(knob["low"], knob["high"], log=knob["log"], prior=default)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(question["seed"])
    search = AskAndTell(algorithm(SearchSpace(space | more), sample_prior_first=True))

    def ask() -> tuple[Values, int, Callable[[float], Any]]:
        trial = search.ask()
        values = dict(trial.config)
        epochs = values.pop(EPOCHS, question["epochs"])
        return values, int(epochs), functools.partial(search.tell, trial)

    return ask


EPOCHS = "epochs"  # of NePS's fidelity
PEERS = {"smac": smac, "pibo": pibo, "priorband": priorband}


def main() -> None:
    """Answer until nothing more is said."""
    question = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory() as folder:
        ask = PEERS[question["peer"]](question, folder)
        while True:
            values, epochs, tell = ask()
            plain = {n: v.item() if hasattr(v, "item") else v for n, v in values.items()}
            print(json.dumps([plain, epochs]), flush=True)
            if not (line := sys.stdin.readline()):
                return
            cost = json.loads(line)
            tell(WORST if cost is None else cost)


if __name__ == "__main__":
    main()
