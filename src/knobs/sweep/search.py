"""A search or a study in a sweep's folder: trials as jobs, then the best of them confirmed.

The journal in the folder says what was tried, a run's record how it went; study.json says what was
asked and which run belongs where, for the report.
"""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState
from rich.console import Console

from knobs import cli, config, ledger
from knobs.errors import ConfigError, LockedError, UserError
from knobs.identity import NOT_IDENTITY, identity, key_of, under
from knobs.record import STUDY, read_study, read_summary, write_whole
from knobs.report.read import read_sweep
from knobs.report.records import ABSENT, RunRecord
from knobs.search import space
from knobs.search.plan import Plan
from knobs.search.search import UNITS, Search, Trial
from knobs.sweep import grid
from knobs.sweep.grid import Source, Task

FIRST_CONFIRMED = 10_000  # a folder's number: a search that goes on takes the numbers below
Job = tuple[list[str], dict[str, Any]]  # overrides, and the run's place in study.json


def search(
    arguments: list[str], launcher: Launcher, context: HydraContext, master: DictConfig
) -> list[list[JobReturn]]:
    """Search, confirm what was found, and report; the exit code follows from how runs ended.

    Args:
        arguments: the command line's overrides, hydra's own left out.
        launcher, context, master: as Hydra hands them to a sweeper.
    """
    out = Console(highlight=False, soft_wrap=True)
    try:
        plan = config.plan([*master.hydra.overrides.hydra, *arguments])
        folder = Path(str(master.hydra.sweep.dir))
        desk = Desk(folder, plan, launcher, context, master, out)
        _not_a_grids(folder)
        grid.prepared(master)  # now that nothing is wrong with what was asked
        returns, stopped = ([], 0) if plan.walk else desk.search()
        if not stopped:
            more, stopped = desk.confirm()
            returns += more
        grid.conclude(folder, returns, stopped, out, answer=True, others=desk.others)
        return [returns]
    except UserError as error:
        sys.exit(cli.report(error))


def _not_a_grids(folder: Path) -> None:
    """Refuse a folder whose runs a search would take for its own, which it knows by number."""
    known = ledger.read(folder)
    if known and min(known.jobs, default=FIRST_CONFIRMED) < FIRST_CONFIRMED:
        raise ConfigError(f"{folder}: holds a grid; name another sweep")


class Desk:
    """Where a search is run from: its plan, its folder, and study.json."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        launcher: Launcher,
        context: HydraContext,
        master: DictConfig,
        out: Console,
    ):
        self.folder, self.plan, self.launcher = folder, plan, launcher
        self.context, self.master, self.out = context, master, out
        self.options: dict[str, Any] = OmegaConf.to_container(master.search, resolve=True)
        if self.options["pruner"] == "auto":
            self.options["pruner"] = "asha" if self.options["method"] == "best" else "none"
        self.base = base = {arm: self._config(plan.job(arm, {})) for arm in plan.arms}
        self.defaults = {
            arm: {name: _value(base[arm], name) for name in knobs}
            for arm, knobs in plan.knobs.items()
        }
        plain = grid.plain_config(next(iter(base.values())))
        self.objective, self.epochs = plain["objective"], plain["training"]["epochs"]
        self.unit, self.budget = self._budget()
        self.seed = plain["seed"]
        self.others = False  # whether another process has runs under way
        self.best: dict[str, tuple[dict[str, Any], float] | None] = {}

    # -------------------------------------------------------------- searching
    def search(self) -> tuple[list[JobReturn], int]:
        """Trials until the budget is spent; their jobs' returns, and a signal's exit code or 0."""
        with Search(
            self.folder,
            self.plan.space,
            method=self.options["method"],
            budget=self.budget,
            unit=self.unit,
            epochs=self.epochs,
            seed=self.options["seed"],
            mode=self.objective["mode"],
            defaults=self.defaults,
            fixed={arm: identity(grid.plain_config(made)) for arm, made in self.base.items()},
        ) as found:
            for arm, names in found.left_out.items():
                if names:
                    lies = (
                        "lies outside its range" if len(names) == 1 else "lie outside their ranges"
                    )
                    told = f"{', '.join(names)} of the default config {lies}"
                    self.out.print(f"{arm or 'search'}: {told}; the search begins without it")
            trials = Trials(found, self)
            returns: list[JobReturn] = []
            stopped = 0
            # Ours asks for more as places become free; others are handed a batch after the other.
            while not stopped and (tasks := trials.more()):
                more, stopped = grid.run_all(tasks, self.launcher, trials)
                returns += more
            for arm in found.exhausted:
                told = f"{arm}: " * bool(arm)
                self.out.print(f"{told}all {len(found.trials(arm))} combinations were tried")
            self.best = {arm: found.best(arm) for arm in self.plan.arms}
            self.others = any(
                t.state is TrialState.RUNNING for arm in self.plan.arms for t in found.trials(arm)
            )
            return returns, stopped

    def _budget(self) -> tuple[str, float]:
        """Unit and amount: the command line's, else the study's, else the config's."""
        told = {line.partition("=")[0] for line in self.master.hydra.overrides.task}
        given = {unit: self.options[unit] for unit in UNITS if self.options[unit] is not None}
        named = {unit: given[unit] for unit in given if f"search.{unit}" in told}
        if not named and self.plan.runs:
            return "runs", self.plan.runs
        given = named or given
        if len(given) > 1:
            raise ConfigError(f"search: a budget in {' and in '.join(given)}; keep one")
        if not given and self.options["method"] != "grid" and not self.plan.walk:
            raise ConfigError("search: no budget; give search.runs=40, or epochs, or minutes")
        if not given:
            return "runs", math.inf
        return next(iter(given.items()))

    # -------------------------------------------------------------- confirming
    def confirm(self) -> tuple[list[JobReturn], int]:
        """The best of each arm with paired seeds of their own, then the winner's test split."""
        jobs = self._walk() if self.plan.walk else self._finals()
        if not jobs or self.others:
            return [], 0
        try:
            with ledger.held(self.folder):
                return self._confirm(jobs)
        except LockedError:
            if self.plan.walk:
                raise
            self.others = True  # both came to the end of the search at once
            return [], 0

    def _confirm(self, jobs: list[Job]) -> tuple[list[JobReturn], int]:
        returns, stopped = self._run(jobs)
        winner = self._winner(jobs)
        if not stopped and winner:
            lines, place = winner
            more, stopped = self._run([([*lines, "test=true"], place)])
            returns += more
        return returns, stopped

    def _finals(self) -> list[Job]:
        """The best values of each arm, once a seed; where there is one arm, the default as well."""
        jobs: list[Job] = []
        if not any(self.best.values()):
            return jobs  # every run diverged or failed: there is nothing to hold to the default
        single = len(self.plan.arms) == 1
        for i in range(1, self.plan.seeds + 1):
            seed = f"seed={self.seed + i}"
            for arm, top in self.best.items():
                place = {"arm": arm, "seed": self.seed + i}
                if top:
                    jobs.append((self.plan.job(arm, top[0], seed), place | {"role": "confirm"}))
                if single:
                    jobs.append((self.plan.job(arm, {}, seed), place | {"role": "baseline"}))
        return jobs

    def _walk(self) -> list[Job]:
        """From the default to the best run of another sweep, a knob at a time, once a seed."""
        found = read_sweep([Path(self.plan.walk)])
        best = next((e for e in found.entries if e.rank == 1), None)
        if not best or not best.knobs:
            raise ConfigError(f"study.walk={self.plan.walk}: no finished runs that differ there")
        self._tell_apart(found.runs, best.knobs)
        jobs: list[Job] = []
        for i in range(1, self.plan.seeds + 1):
            place, seed = {"arm": "", "seed": self.seed + i}, f"seed={self.seed + i}"
            jobs.append((self.plan.job("", {}, seed), place | {"role": "baseline"}))
            walked: dict[str, Any] = {}
            for step, (name, value) in enumerate(best.knobs.items(), 1):
                if value in (ABSENT, _value(self.base[""], name)):
                    continue
                walked[name] = value
                own = place | {"role": "step", "step": step, "knob": name}
                jobs.append((self.plan.job("", walked, seed), own))
        return jobs

    def _tell_apart(self, runs: Sequence[RunRecord], walked: Iterable[str]) -> None:
        """Say what all runs there have in common that this command line does not say."""
        told = {key_of(line) for line in self.plan.common}
        silent = (*NOT_IDENTITY, *walked, *told, "seed", "test")
        lines = [line for line in runs[0].overrides if not under(key_of(line), silent)]
        if shared := [line for line in lines if all(line in run.overrides for run in runs)]:
            self.out.print(f"! every run there had {' '.join(shared)}, which this walk leaves out")

    def _winner(self, jobs: list[Job]) -> Job | None:
        """The candidate with the best mean over its seeds, at the first of them."""
        sign = 1 if self.objective["mode"] == "max" else -1
        numbers = self._numbers()
        groups: dict[str, list[tuple[float, Job]]] = {}
        for lines, place in jobs:
            value = _objective(self.folder / str(numbers.get(ledger.job_of(lines))))
            score = -math.inf if value is None else sign * value
            key = json.dumps([line for line in lines if not line.startswith("seed=")])
            groups.setdefault(key, []).append((score, (lines, place)))
        means = {key: statistics.mean(v for v, _ in found) for key, found in groups.items()}
        top = max(means, key=means.get)
        if math.isinf(means[top]):
            return None
        lines, place = groups[top][0][1]
        return lines, {"arm": place["arm"], "role": "test"}

    def _run(self, jobs: list[Job]) -> tuple[list[JobReturn], int]:
        """Jobs of given overrides, those that ran before left alone; their places are written."""
        lines = [lines for lines, _ in jobs]
        todo = grid.outstanding(
            lines, self.folder, self.context, self.master, self.out, FIRST_CONFIRMED
        )
        numbers = self._numbers()
        keyed = [(ledger.job_of(overrides), place) for overrides, place in jobs]
        # The default may be the best as well: then one run is both.
        self.write({numbers[job]: place for job, place in keyed if job in numbers})
        return grid.run_all(todo, self.launcher) if todo else ([], 0)

    def _numbers(self) -> dict[tuple[str, ...], int]:
        known = ledger.read(self.folder)
        return {entry.overrides: n for n, entry in known.jobs.items()} if known else {}

    # -------------------------------------------------------------- study.json
    def write(self, places: dict[int, dict[str, Any]]) -> None:
        """Say what was asked, and where these runs belong beside those known before."""
        plan = self.plan
        told = {
            "study": plan.name,
            "question": plan.question,
            "objective": self.objective,
            "scientific": plan.scientific,
            "fixed": plan.fixed,
            "method": self.options["method"],
            "pruner": self.options["pruner"],
            "arms": {
                arm: {"overrides": lines, "space": space.knobs_to_json(plan.knobs[arm])}
                for arm, lines in plan.arms.items()
            },
            "runs": self._known() | {str(number): place for number, place in places.items()},
        }
        write_whole(self.folder / STUDY, json.dumps(told, indent=1) + "\n")

    def _known(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(read_study(self.folder)["runs"])
        except (*ledger.BROKEN, KeyError, TypeError):
            return {}

    # -------------------------------------------------------------- configs
    def task(self, lines: list[str], label: str) -> Task:
        """A job of overrides."""
        found = Task.of(lines, self.context, self.master)
        return Task(found.overrides, found.plain, label)

    def _config(self, lines: list[str]) -> DictConfig:
        return grid.compose(lines, self.context, self.master)


class Trials(Source):
    """A search as launchers see it.

    Args:
        search: asks and tells.
        desk: makes jobs of trials, and writes down where they belong.
    """

    def __init__(self, search: Search, desk: Desk):
        self.search, self.desk = search, desk
        self._under_way: dict[int, Trial] = {}

    def more(self, count: int | None = None) -> dict[int, Task]:
        """The next trials; one whose run has ended meanwhile is told, not run again."""
        wanted, tasks = count or self.desk.options["width"], {}
        while len(tasks) < wanted and (trials := self.search.ask(wanted - len(tasks))):
            self.desk.write(self._places())
            for trial in trials:
                self._under_way[trial.run] = trial
                run = self.desk.folder / str(trial.run)
                if ledger.settled(ledger.status(run), retry_failed=False):
                    self._tell(trial.run)  # killed between the run's end and its being told
                else:
                    tasks[trial.run] = self._task(trial, run)
        if self.search.unit == "runs" and math.isfinite(self.search.budget):
            self.coming = max(0, round(self.search.budget - self.search.spent()))
        return tasks

    def ended(self, number: int, returned: JobReturn) -> None:
        """Tell the search how a trial went."""
        if number in self._under_way:
            self._tell(number)

    def _places(self) -> dict[int, dict[str, Any]]:
        """Where every trial belongs, those of other processes too: the journal knows."""
        places = {}
        for arm in self.desk.plan.arms:
            for told in (trial.user_attrs for trial in self.search.trials(arm)):
                role = "default" if told["phase"] == "default" else "search"
                places[told["run"]] = {"arm": arm, "role": role, "phase": told["phase"]}
        return places

    def _task(self, trial: Trial, run: Path) -> Task:
        """A trial's job; it goes on from its checkpoint if it has one."""
        plan, pruner = self.desk.plan, self.desk.options["pruner"]
        pruned = trial.prunable and pruner != "none"
        own = [f"search.pruner={pruner}", space.override("search.arm", trial.arm)]
        lines = plan.job(trial.arm, trial.values, *(own if pruned else []))
        if (run / "checkpoints" / "last.pt").is_file():
            lines.append(f"resume='{run}'")
        values = (space.override(name, value) for name, value in trial.values.items())
        return self.desk.task(lines, " ".join([*plan.arms[trial.arm], *values]))

    def _tell(self, number: int) -> None:
        trial, run = self._under_way.pop(number), self.desk.folder / str(number)
        try:
            summary = read_summary(run)
            status, epochs = summary["status"], summary["epochs"]
        except (*ledger.BROKEN, KeyError, TypeError):  # it never began
            status, epochs = "failed", None
        self.search.tell(trial, _objective(run), status, epochs)


def _objective(run: Path) -> float | None:
    """The objective's best value of a run; None where there is none."""
    try:
        return read_summary(run)["objective"]["value"]
    except (*ledger.BROKEN, KeyError, TypeError):
        return None


def _value(made: DictConfig, name: str) -> Any:
    """A knob's value in a composed config: the option of a group, or what the config holds."""
    choices = made.hydra.runtime.choices
    return choices[name] if name in choices else OmegaConf.select(made, name)
