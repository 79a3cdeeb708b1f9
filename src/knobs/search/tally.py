"""Sums over an arm's trials, kept up to date: an ask looks at new trials, not at all of them.

Optuna's storage hands out every trial at each look. One that has ended never changes, so each is
read twice: as it begins, and as it ends.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from optuna.trial import FrozenTrial, TrialState

from knobs.search import methods
from knobs.search.methods import Tried
from knobs.search.space import Knobs


@dataclass
class Tally:
    """The trials of one arm, by their numbers.

    Args:
        knobs: of the arm.
        loss: a trial -> what a method minimises; None of a lost run, and of one under way.
        cost: a trial -> what it has spent, in whole runs; one under way in full.
        trials: as they were at the last look.
        tried: as a method sees them, but for the loss of those that are lost.
        costs: of each, added up in this order: floats, whose sum depends on it.
        combinations: the values tried, as texts.
        under_way: numbers of those that have not ended.
        lost: numbers of those that ended without a loss.
        last_run: the greatest number of a run; -1 where there is none.
        worst: the greatest loss; None where there is none.
    """

    knobs: Knobs
    loss: Callable[[FrozenTrial], float | None]
    cost: Callable[[FrozenTrial], float]
    trials: Sequence[FrozenTrial] = ()
    tried: list[Tried] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    combinations: set[str] = field(default_factory=set)
    under_way: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    last_run: int = -1
    worst: float | None = None

    def update(self, trials: Sequence[FrozenTrial]) -> "Tally":
        """Read those that are new, and those that were under way; return this."""
        self.trials = trials
        for trial in trials[len(self.tried) :]:
            values = methods.from_optuna(self.knobs, trial.params)
            self.tried.append(Tried(values, trial.user_attrs["phase"]))
            self.costs.append(0.0)
            self.combinations.add(json.dumps(trial.params, sort_keys=True))
            self.under_way.append(trial.number)
            self.last_run = max(self.last_run, trial.user_attrs["run"])
        for trial in [trials[number] for number in self.under_way]:
            self.costs[trial.number] = self.cost(trial)
            if trial.state.is_finished():
                self._ended(trial)
        self.under_way = [n for n in self.under_way if not trials[n].state.is_finished()]
        return self

    def _ended(self, trial: FrozenTrial) -> None:
        loss, number = self.loss(trial), trial.number
        pruned = trial.state is TrialState.PRUNED
        self.tried[number] = replace(self.tried[number], loss=loss, pruned=pruned)
        if loss is None:
            self.lost.append(number)
        else:
            self.worst = loss if self.worst is None else max(self.worst, loss)

    def history(self) -> list[Tried]:
        """Return what a method sees: lost trials as the worst by now."""
        tried = [*self.tried]
        for number in self.lost:
            worst = 0.0 if self.worst is None else self.worst
            tried[number] = replace(tried[number], loss=worst)
        return tried
