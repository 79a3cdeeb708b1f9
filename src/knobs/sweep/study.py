"""A search or a study in a sweep's folder: trials as jobs, then the best of them confirmed.

The journal in the folder says what was tried, a run's record how it went; study.json says what was
asked and which run belongs where, for the report.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import TrialState
from rich.markup import escape

from knobs import ledger
from knobs.config import command
from knobs.config.question import Plan, last_of_each, one_cut
from knobs.errors import ConfigError, LockedError, first_line
from knobs.identity import NOT_IDENTITY, identity, job_of, key_of, under
from knobs.record import (
    BROKEN,
    SCHEMA,
    STUDY,
    append_places,
    read_study,
    sealed,
    write,
)
from knobs.report.compare import undecided
from knobs.report.next_steps import test_look
from knobs.report.outlook import stopped
from knobs.report.read import read_sweep
from knobs.report.records import ABSENT, Objective, RunRecord, Stop, splits_vary
from knobs.report.verdict import verdict
from knobs.search import space
from knobs.search.coordinates import described
from knobs.search.recovery import Recorded, Runs
from knobs.search.trials import LOCK, UNITS, Search
from knobs.secrets import public_lines
from knobs.storage import Lock
from knobs.sweep import places, priors
from knobs.sweep.grid import Supply, SweepContext, compose, job, resolved
from knobs.sweep.lines import note
from knobs.sweep.stopping import StopRule
from knobs.sweep.trials import Trials
from knobs.words import count

FIRST_CONFIRMED = 10_000  # a folder's number: a search that goes on takes the numbers below
PlacedJob = tuple[list[str], dict[str, Any]]  # overrides, and the run's place in study.json


def search(
    arguments: list[str], launcher: Launcher, context: HydraContext, master: DictConfig
) -> list[list[JobReturn]]:
    """Search, confirm the best, and report; the exit code follows from how runs ended.

    Args:
        arguments: the command line's overrides, hydra's own left out.
        launcher, context, master: as Hydra hands them to a sweeper.
    """
    sweep = SweepContext(launcher, context, master)
    with sweep.ending():
        study = StudyRunner(sweep, command.plan([*master.hydra.overrides.hydra, *arguments]))
        if places.kind(sweep.folder) == "grid":
            raise ConfigError(f"{sweep.folder}: holds a grid; name another sweep")
        sweep.make_folder()  # now that nothing is wrong with what was asked
        if not study.plan.walk:
            study.search()
        if not sweep.stopped:
            study.confirm()
        returns = sweep.conclude(report=True, others=study.others, lost=study.failed)
        study.offer_test()
        return returns


class StudyRunner:
    """Runs a search or a study: its plan in a sweep's folder, and study.json.

    Args:
        others: whether another process has runs of it under way.
        failed: how many of its trials have failed.
    """

    def __init__(self, sweep: SweepContext, plan: Plan):
        self.sweep, self.plan, self.folder = sweep, plan, sweep.folder
        self.options: dict[str, Any] = OmegaConf.to_container(sweep.master.search, resolve=True)
        if self.options["pruner"] == "auto":
            self.options["pruner"] = "asha" if self.options["method"] == "best" else "none"
        self.base = {
            arm: compose(plan.job(arm, {}), sweep.context, sweep.master) for arm in plan.arms
        }
        config = resolved(next(iter(self.base.values())))
        self.plan = plan = one_cut(plan, config["data"])
        self.objective = {key: config["objective"][key] for key in ("metric", "mode")}
        self.epochs = config["training"]["epochs"]
        self.unit, self.budget = self._budget()
        # Of a walk nothing is searched, so that there is nothing to stop.
        stops = self.options["stop"] == "auto" and not plan.walk
        self.rule = StopRule(self.folder, self.objective["metric"]) if stops else None
        self.stops: dict[str, dict[str, Any]] = {}  # arm -> why it was ended before its budget
        self.usual = self._usual(config)
        self.asked = public_lines(sweep.master.hydra.overrides.task)
        self.seed = config["seed"]
        self.others, self.failed = False, 0
        self._places = self._places_before()  # in study.json
        self.before = 0  # runs of earlier phases
        self.best: dict[str, tuple[dict[str, Any], float] | None] = {}
        self.prior: dict[str, Any] = self._prior_before()
        if not plan.walk:
            self._chosen = priors.chosen(self.options, plan.knobs, self.objective["metric"])

    def search(self) -> None:
        """Run trials until the budget is spent."""
        configs = {arm: resolved(composed) for arm, composed in self.base.items()}
        with Search(
            self.folder,
            self.plan.space,
            method=self.options["method"],
            budget=self.budget,
            unit=self.unit,
            epochs=self.epochs,
            seed=self.options["seed"],
            mode=self.objective["mode"],
            defaults={
                arm: {name: _value(self.base[arm], name) for name in knobs}
                for arm, knobs in self.plan.knobs.items()
            },
            fixed={arm: identity(config) for arm, config in configs.items()},
            prior=self._chosen,
            context={
                arm: described(config, self.base[arm].hydra.runtime.choices)
                for arm, config in configs.items()
            },
            runs=self._runs_before(),
            retry=self.sweep.retry,
            stops=bool(self.rule),
        ) as search:
            if search.repaired:
                self.sweep.out.print(escape(search.repaired))
            for arm, names in search.left_out.items():
                if names:
                    lies = "lie outside their ranges" if names[1:] else "lies outside its range"
                    line = f"{', '.join(names)} of the default config {lies}"
                    self.sweep.out.print(f"{arm or 'search'}: {line}; the search begins without it")
            if search.late:
                self.sweep.out.print("search: began without a prior, and goes on without")
            self.prior = priors.facts(search)
            trials = Trials(search, self, before=self._tried(search), rule=self.rule)
            self.write(trials.places())
            self._announce(trials.before)
            # Ours asks for more as places become free; others are handed a batch after the other.
            while not self.sweep.stopped and (jobs := trials.more()):
                self.sweep.run(jobs, trials)
            self._note_stops(search)
            self.prior = priors.facts(search)
            self.write(trials.places())
            for arm in search.exhausted:
                prefix = f"{arm}: " * bool(arm)
                self.sweep.out.print(
                    f"{prefix}all {len(search.trials(arm))} combinations were tried"
                )
            self.before = self._tried(search)
            ended = [t for arm in self.plan.arms for t in search.trials(arm)]
            self.failed = sum(t.user_attrs.get("status") == "failed" for t in ended)
            self.best = {arm: search.best(arm) for arm in self.plan.arms}
            self.others = any(
                t.state is TrialState.RUNNING for arm in self.plan.arms for t in search.trials(arm)
            )

    def _note_stops(self, search: Search) -> None:
        """Note which arms were ended before their budget, and say so."""
        for arm in self.plan.arms:
            if about := search.stopped(arm):
                self.stops[arm] = about | {"saved": math.floor(search.saved(arm) + 0.5)}
                why = Stop(*(self.stops[arm][key] for key in ("runs", "gain", "noise", "saved")))
                self._say(f"{arm or 'search'}: {stopped(why, Objective(**self.objective))}")
            elif self.rule and arm in self.rule.unknown:
                why = "its best run does not tell the noise of its validation split"
                self._say(f"! {arm or 'search'}: search.stop=auto could not end it: {why}")

    def _tried(self, search: Search) -> int:
        """Return how many trials have ended."""
        trials = (trial for arm in self.plan.arms for trial in search.trials(arm))
        return sum(trial.state.is_finished() for trial in trials)

    def _places_before(self) -> dict[int, dict[str, Any]]:
        """Return the places of the runs here: as they recorded them, and as study.json has them."""
        before = places.recorded(self.folder)
        try:
            before |= {int(n): dict(p) for n, p in read_study(self.folder)["runs"].items()}
        except FileNotFoundError:
            pass
        except (*BROKEN, KeyError, TypeError, AttributeError) as error:
            why = first_line(error).removeprefix(f"{self.folder / STUDY}: ")
            anew = "it is made anew from what its runs recorded"
            self.sweep.out.print(escape(f"! {STUDY}: {why}; {anew}"))
        return before

    def _prior_before(self) -> dict[str, Any]:
        """Return what study.json says of the prior: a walk, or the next command, keeps it."""
        try:
            return dict(read_study(self.folder).get("prior") or {})
        except (*BROKEN, TypeError, ValueError, AttributeError):
            return {}

    def _runs_before(self) -> Runs:
        """Return what study.json says of the runs here, and whether it asked what is asked now."""
        try:
            before = read_study(self.folder)
            phases = {int(n): place.get("phase", "") for n, place in before["runs"].items()}
            spaces = {arm: about["space"] for arm, about in before["arms"].items()}
            asked = spaces == json.loads(json.dumps(self._spaces()))
            prior = str((before.get("prior") or {}).get("name", "")) if asked else None
        except (*BROKEN, KeyError, TypeError, AttributeError):
            return Runs(belongs=self._belongs)
        return Runs(phases, self._belongs, asked, prior)

    def _spaces(self) -> dict[str, Any]:
        return {arm: space.knobs_to_json(knobs) for arm, knobs in self.plan.knobs.items()}

    def _belongs(self, run: Recorded) -> bool:
        """Return whether a recorded run is what its values make of this search's arm."""
        lines = self.plan.job(run.arm, run.values)
        config = job(lines, self.sweep.context, self.sweep.master).config
        return bool(config) and ledger.holds(self.folder / str(run.run), config)

    def _usual(self, config: dict) -> str:
        """Return the arm that the config without an arm belongs to; "" where it is none of them."""
        with contextlib.suppress(ConfigError, OmegaConfBaseException):
            plain = compose(list(self.plan.common), self.sweep.context, self.sweep.master)
            mine = identity(resolved(plain))
            arms = (arm for arm, own in self.base.items() if identity(resolved(own)) == mine)
            return next(arms, "")
        return ""

    def later(self, looks: int) -> int:
        """Return how many runs come after the search: for so many pairs, and the test."""
        return looks * max(2, len(self.plan.arms)) + (self.plan.test and looks > 0)

    def _announce(self, tried: int) -> None:
        """Print what all phases come to, then the first of them."""
        known = math.isfinite(self.budget)
        amount = f"{self.budget:g} {self.unit}" if known else "every combination"
        if counted := self._counts_runs():
            arms = len(self.plan.arms)  # each has a whole number of runs, as Search shares them out
            searched = arms * max(1, math.floor(self.budget / arms + 0.5))
            amount = count(searched, "run")
        if looks := self.plan.looks:
            first, total = f"{amount} to search", ""
            least, most = (self.later(n) - self.plan.test for n in (looks[0], looks[-1]))
            if counted:
                first = f"{searched:,} to search"
                total = f"{count(searched + most + self.plan.test, 'run')} at most: "
            rest = f"{most} to confirm" if most == least else f"{least} to {most} to confirm"
            rest += ", 1 on the test split" * self.plan.test
            self._say(f"{self.plan.name}: {total}{first}, {rest}")
        arms = len(self.plan.arms)
        of = f" of {count(arms, 'arm')}" if arms > 1 else ""
        before = f", {tried:,} of them ended before" if tried else ""
        self._say(f"search: {amount}{of}{before}")
        if self.prior:
            self._say(f"search: started from {priors.words(self.prior)}")

    def _say(self, line: str) -> None:
        note(self.sweep.out, line)

    def _budget(self) -> tuple[str, float]:
        """Return unit and amount: the command line's, else the study's, else the config's."""
        keys = {line.partition("=")[0] for line in self.sweep.master.hydra.overrides.task}
        given = {unit: amount for unit in UNITS if (amount := self.options[unit]) is not None}
        named = {unit: amount for unit, amount in given.items() if f"search.{unit}" in keys}
        if not named and self.plan.runs:
            return "runs", self.plan.runs
        given = named or given
        if len(given) > 1:
            raise ConfigError(f"search: a budget in {' and in '.join(given)}; keep one")
        if given:
            return given.popitem()
        if self.options["method"] != "grid" and not self.plan.walk:
            raise ConfigError("search: no budget; give search.runs=40, or epochs, or minutes")
        return "runs", math.inf

    def confirm(self) -> None:
        """Run the best of each arm with paired fresh seeds, then the winner's test split."""
        if not self.plan.looks or self.others or not list(self._jobs(1, None)):
            return
        try:
            with ledger.held(self.folder):
                self._confirm()
        except LockedError:
            if self.plan.walk:
                raise
            self.others = True  # both came to the end of the search at once

    def _confirm(self) -> None:
        """Run pairs, five more at a time, until the best and its rivals are told apart."""
        arms: set[str] | None = None  # that are not decided; None for all
        before: list[PlacedJob] = []
        for i, look in enumerate(self.plan.looks):
            jobs = list(self._jobs(look, arms))
            self._announce_look(jobs, look, i)
            self._run([job for job in jobs if job not in before], coming=int(self.plan.test))
            before += jobs
            if self.sweep.stopped:
                return
            arms = {candidate.arm for candidate in undecided(read_sweep([self.folder]))}
            if not arms:
                break
        if self.plan.test and (tested := self._recommended(jobs)):
            lines, place = tested
            lines = last_of_each([*lines, "test=true", "search.role=test"])
            self._say("test: what is recommended again, and the test split read: 1 run")
            self._run([(lines, {"arm": place["arm"], "role": "test"})])

    def _announce_look(self, jobs: list[PlacedJob], look: int, index: int) -> None:
        runs = count(len(jobs), "run")
        if index:
            before = self.plan.looks[index - 1]
            self._say(f"not decided by {before} pairs: {look} in all, {runs}")
        elif self.plan.walk:
            steps = count(len(jobs) // look - 1, "step")
            most = self.plan.looks[-1] * len(jobs) // look
            self._say(f"walk: {steps} from the default, {runs}; {most:,} at most")
        else:
            what = "the best of each arm" if len(self.best) > 1 else "the best and the default"
            self._say(f"confirm: {what} with {count(look, 'new seed')}: {runs}")

    def _jobs(self, pairs: int, arms: set[str] | None) -> Iterator[PlacedJob]:
        """Yield the runs of so many pairs, of these arms; of all where None."""
        jobs = self._walk(pairs) if self.plan.walk else self._finals(pairs)
        yield from (job for job in jobs if arms is None or job[1]["arm"] in arms)

    def _recommended(self, jobs: list[PlacedJob]) -> PlacedJob | None:
        """Return the first run of what the report recommends."""
        winner = verdict(read_sweep([self.folder])).winner
        numbers, mine = self._numbers(), {run.number for run in winner.runs} if winner else set()
        return next((job for job in jobs if numbers.get(job_of(job[0])) in mine), None)

    def offer_test(self) -> None:
        """Print the command for the one look at the test split, where a study has confirmed."""
        if self.plan.looks and not self.plan.test and not self.others and not self.sweep.stopped:
            sweep = read_sweep([self.folder])
            for advice in test_look(sweep, verdict(sweep)):
                self.sweep.out.print(escape(f"test, one look at the end: {advice.command}"))

    def _finals(self, pairs: int) -> Iterator[PlacedJob]:
        """Yield the best of each arm, once a seed; where there is one arm, the default as well."""
        if not any(self.best.values()):
            return  # every run diverged or failed: there is nothing to hold to the default
        for seed in self._seeds(pairs):
            for arm, top in self.best.items():
                if top:
                    yield self._placed(arm, top[0], seed, role="confirm")
                if len(self.best) == 1:
                    yield self._placed(arm, {}, seed, role="baseline")

    def _walk(self, pairs: int) -> Iterator[PlacedJob]:
        """Yield the way from the default to the best of another sweep, a knob at a time."""
        walked_from = read_sweep([Path(self.plan.walk)])
        best = next((e for e in walked_from.entries if e.rank == 1), None)
        if not best or not best.knobs:
            raise ConfigError(f"study.walk={self.plan.walk}: no finished runs that differ there")
        self._note_what_differs(walked_from.runs, best.knobs)
        for seed in self._seeds(pairs):
            yield self._placed("", {}, seed, role="baseline")
            walked: dict[str, Any] = {}
            for step, (name, value) in enumerate(best.knobs.items(), 1):
                if value not in (ABSENT, _value(self.base[""], name)):
                    walked[name] = value
                    yield self._placed("", walked, seed, role="step", step=step, knob=name)

    def _seeds(self, pairs: int) -> range:
        """Return the fresh seeds: those behind the search's."""
        return range(self.seed + 1, self.seed + 1 + pairs)

    def _placed(self, arm: str, values: dict[str, Any], seed: int, **place: Any) -> PlacedJob:
        more = [space.override(f"search.{key}", value) for key, value in place.items()]
        config, folds = resolved(self.base[arm]), self.plan.folds
        if folds:
            cut, fold = divmod(seed - self._seeds(1)[0], folds)
            cut += self._seeds(1)[0]
            more += [f"data.folds={folds}", f"data.fold={fold}", f"data.val_seed={cut}"]
        elif self.plan.splits and splits_vary(config) and config["data"]["val_seed"] is None:
            more.append(f"data.val_seed={seed}")
        lines = self.plan.job(arm, values, f"seed={seed}", space.override("search.arm", arm), *more)
        return lines, {"arm": arm, "seed": seed, **place}

    def _note_what_differs(self, runs: Sequence[RunRecord], walked: Iterable[str]) -> None:
        """Say what all runs there have in common that this command line does not say."""
        common = {key_of(line) for line in self.plan.common}
        silent = (*NOT_IDENTITY, *walked, *common, "seed", "test")
        lines = [line for line in runs[0].overrides if not under(key_of(line), silent)]
        if shared := [line for line in lines if all(line in run.overrides for run in runs)]:
            self.sweep.out.print(
                f"! every run there had {' '.join(shared)}, which this walk leaves out"
            )

    def _run(self, jobs: list[PlacedJob], coming: int = 0) -> None:
        """Run jobs of given overrides, those that ran before left alone; write their places.

        Args:
            coming: runs of the phases after this one.
        """
        self.write({})  # before sweep.json: a folder that has that alone is a grid's
        lines = [lines for lines, _ in jobs]
        todo = self.sweep.outstanding(lines, FIRST_CONFIRMED)
        numbers = self._numbers()
        keyed = [(job_of(overrides), place) for overrides, place in jobs]
        # The default may be the best as well: then one run is both.
        self.write({numbers[job]: place for job, place in keyed if job in numbers})
        phase = Supply()
        phase.before, phase.coming = self.before + len(jobs) - len(todo), coming
        self.sweep.run(todo, phase)
        self.before += len(jobs)

    def _counts_runs(self) -> bool:
        return self.unit == "runs" and math.isfinite(self.budget)

    def _numbers(self) -> dict[tuple[str, ...], int]:
        book = ledger.read(self.folder)
        return {entry.overrides: n for n, entry in book.jobs.items()} if book else {}

    def note(self, new: dict[int, dict[str, Any]]) -> None:
        """Note where these runs belong, without writing study.json anew."""
        append_places(self.folder, {n: p for n, p in new.items() if self._places.get(n) != p})
        self._places |= new

    def write(self, new: dict[int, dict[str, Any]]) -> None:
        """Write study.json: what was asked, and where these runs belong beside those before."""
        plan, spaces = self.plan, self._spaces()
        self._places |= new
        study = {
            "study": plan.name,
            "question": plan.question,
            "objective": self.objective,
            "scientific": plan.scientific,
            "fixed": plan.fixed,
            "method": self.options["method"],
            "pruner": self.options["pruner"],
            "looks": list(plan.looks) if len(plan.looks) > 1 else [],
            "usual": self.usual,
            "budget": self.budget / len(plan.arms) if self._counts_runs() else None,
            "asked": self.asked,
            "arms": {
                arm: {"overrides": lines, "space": spaces[arm]} for arm, lines in plan.arms.items()
            },
            **({"prior": self.prior} if self.prior else {}),
            "runs": {str(number): place for number, place in self._places.items()},
        }
        study |= {"stops": self.stops} if self.stops else {}
        # Another process of this study would write into the same new file, or take its name away.
        with Lock(self.folder / LOCK, wait=True):
            write(self.folder / STUDY, sealed({"schema": SCHEMA} | study), sync=True)


def _value(composed: DictConfig, name: str) -> Any:
    """Return a knob's value in a composed config: a group's option, or what stands there."""
    choices = composed.hydra.runtime.choices
    return choices[name] if name in choices else OmegaConf.select(composed, name)
