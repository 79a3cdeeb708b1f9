"""Keep a search's trials: asked for in batches, told how they went, kept in a journal that resumes.

The journal is an Optuna study an arm, in one file that optuna-dashboard opens. It alone says what
was tried, so a search goes on where it was, in as many processes as there are: a trial belongs to
the process that was handed it, while that holds a lock file, which the system frees when it ends,
and then goes to whoever asks next. A run of knobs keeps its folder and its checkpoint meanwhile.

What is reported to the sampler, since a dropped trial would be tried again and bias every estimate:

| run | in the journal | for the methods |
|---|---|---|
| finished, stopped_early | COMPLETE, its value | its value |
| diverged, failed | COMPLETE, the worst value so far; attribute `status` | the worst value by now |
| pruned | PRUNED, its best value | its best value, an upper bound |
| interrupted | RUNNING, free to be handed out again | under way |
"""

import contextlib
import math
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from threadpoolctl import threadpool_limits

from knobs import record
from knobs.errors import CheckpointError, ConfigError, LockedError, StorageError
from knobs.identity import RENAMED
from knobs.record import JOURNAL
from knobs.search import journal, methods, minutes, recovery
from knobs.search import prior as priors
from knobs.search.methods import LEARNED, METHODS, PHASES, Task, Tried, Values
from knobs.search.prior import Prior, View
from knobs.search.recovery import LOST, Recorded, Runs
from knobs.search.space import MODES, Space, knobs_to_json, one_of
from knobs.search.tally import Tally
from knobs.storage import Lock, held
from knobs.words import count

LOCK = "trials.lock"
PROCESS = "process-{}.lock"  # held by a process; its trials have this name as attribute `process`
UNITS = ("runs", "epochs", "minutes")
BEAT = 10.0  # seconds between two notes that a process with a budget in minutes is at work
LOOK = "look"  # attribute of an arm: see Search.look
WORST = 1e9  # where nothing finished yet that could be the worst
EPSILON = 1e-9


@dataclass(frozen=True)
class Trial:
    """One run to train.

    Args:
        run: its number over all arms, from 0: the name of its folder.
        number: within its arm.
        phase: what proposed it: default, sobol, gp, ...
        prunable: a pruner may end it.
        again: a process that has ended had it before.
    """

    run: int
    arm: str
    number: int
    values: Values
    phase: str
    prunable: bool
    again: bool = field(default=False, compare=False)


class OtherPriorError(ConfigError):
    """A folder's search began from another prior, or without one."""


class Search(contextlib.AbstractContextManager):
    """A search in a folder; with `with`, or `close` it.

    Args:
        folder: the sweep's; None keeps the trials in memory.
        space: arms and their knobs. Arms are searched apart, each with an equal part of the budget.
        method: one of METHODS.
        budget: amount of `unit`, of all arms and of all processes that ever work on the folder.
        unit: runs, of which a pruned one counts for the share of its epochs; epochs; or minutes in
            which at least one run is under way.
        epochs: of a whole run; what pruned runs and a budget in epochs are measured by.
        seed: the same seed, space and told values give the same trials.
        mode: max or min.
        defaults: arm -> the values its config has without a search. One outside its ranges is no
            default: see `left_out`.
        fixed: arm -> a word for all that is not searched; a search goes on with the same only.
        prior: what other tasks liked, for `auto`: "learned" is the package's own; None for none. A
            folder goes on with the one that it began with only; see `late`.
        context: arm -> config key or group -> its value, for the prior: what is not searched.
        runs: what is known of the runs that lie in the folder.
        retry: whether to hand out those that failed once more.
        stops: whether an arm that was over before its budget stays so: see `look`.

    `repaired` tells what was done to the journal, where it was not that of the runs in the folder.
    `late` tells whether the folder's search is older than priors, or began by a method that takes
    none: it goes on without.

    Raises:
        ConfigError: a name or number that cannot be, or a folder that holds another search.
        LockedError: the journal is to be written anew, and another process uses it.
    """

    def __init__(
        self,
        folder: Path | None,
        space: Space,
        *,
        method: str = "auto",
        budget: float = math.inf,
        unit: str = "runs",
        epochs: int = 1,
        seed: int = 0,
        mode: str = "max",
        defaults: dict[str, Values] | None = None,
        fixed: dict[str, str] | None = None,
        prior: Prior | str | None = "learned",
        context: Mapping[str, Mapping[str, Any]] | None = None,
        runs: Runs | None = None,
        retry: bool = False,
        stops: bool = False,
    ):
        one_of("search.method", method, METHODS)
        one_of("search budget's unit", unit, UNITS)
        one_of("objective.mode", mode, MODES)
        if not budget > 0:
            raise ConfigError(f"search.{unit}={budget}: must be above 0")
        if math.isinf(budget) and method != "grid":
            raise ConfigError(f"search.method={method} needs a budget: search.runs=40, say")
        self.space, self.method, self.seed, self.mode = space, method, seed, mode
        self.unit, self.epochs, self._sign = unit, epochs, 1 if mode == "min" else -1
        self.budget = budget / epochs if unit == "epochs" else budget
        self.stops = stops
        defaults, self.fixed = defaults or {}, fixed or {}
        self.left_out = {arm: self._outside(arm, values) for arm, values in defaults.items()}
        self.defaults = {arm: v for arm, v in defaults.items() if not self.left_out[arm]}
        self.prior, self.late = self._prior(prior), False
        self.views = self._seen_by(context or {})
        self.prior = self.prior if self.views else None
        self.exhausted: set[str] = set()  # arms of which every combination was tried
        self._folder, self._process = folder, PROCESS.format(secrets.token_hex(4))
        self._alive = contextlib.ExitStack()
        self.repaired = ""
        try:
            with self._writing():
                if folder:
                    self._alive.enter_context(Lock(folder / self._process))
                self._open(runs or Runs(), retry)
            if folder and unit == "minutes":
                self._alive.callback(self._beating().set)
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the trials that were not told: the next to ask gets them."""
        self._alive.close()

    def ask(self, n: int = 1) -> list[Trial]:
        """Return up to n trials to run at once; none when the budget is spent or given out.

        Those of processes that have ended come first, as they were, and alone, but for the rest of
        what such a process was asked for: a method then knows what it would have without that end.
        While a model is asked, there are fewer, or none until those that this process has under way
        were told.
        """
        self._wait_for_writers()
        with self._writing():
            handed = self._adopted(n)
            first, size = batch = self._batch_of(handed) if handed else (self._next_run, n)
            for _ in range(min(n - len(handed), first + size - self._next_run)):
                if not (trial := self._next(batch)):
                    break
                handed.append(trial)
        return handed

    def tell(
        self, trial: Trial, value: float | None, status: str = "finished", epochs: int | None = None
    ) -> None:
        """Tell how a trial's run ended; a trial told before stays as it was told first.

        Args:
            value: the objective, the best so far of a run that was ended early; None or NaN where
                there is none, which is a diverged run.
            status: as in summary.json. An interrupted run's trial goes to whoever asks next.
            epochs: trained; None: all.
        """
        finite = value is not None and math.isfinite(value)
        with self._writing():
            stored = self.trials(trial.arm)[trial.number]
            id_ = stored._trial_id
            if stored.state.is_finished():
                return
            spans = minutes.ended(stored.user_attrs.get("spans", []), minutes.now())
            self._storage.set_trial_user_attr(id_, "spans", spans)
            if status == "interrupted":
                self._storage.set_trial_user_attr(id_, "process", "")
            else:
                status = status if finite or status in LOST else "diverged"
                if status in LOST:
                    worst = self._tally(trial.arm).worst
                    value = self._sign * (WORST if worst is None else worst)
                state = TrialState.PRUNED if status == "pruned" else TrialState.COMPLETE
                self._storage.set_trial_user_attr(id_, "status", status)
                self._storage.set_trial_user_attr(id_, "epochs", epochs or self.epochs)
                self._storage.set_trial_state_values(id_, state, [float(value)])

    def trials(self, arm: str) -> list[FrozenTrial]:
        """Return an arm's, in the order of their numbers."""
        return self._storage.get_all_trials(self._arms[arm], deepcopy=False)

    def ended(self, arm: str) -> list[Tried]:
        """Return an arm's trials that have ended, those that are lost without a loss."""
        tally = self._tally(arm)
        under_way = {*tally.under_way}
        return [tried for n, tried in enumerate(tally.tried) if n not in under_way]

    def look(self, arm: str, over: bool, **about: float) -> None:
        """Note what a rule that ends searches early found, and whether it ends this arm.

        No trial of an arm that is over is made until there is a larger budget.

        Args:
            about: plain numbers.
        """
        about |= {"over": over, "runs": len(self.ended(arm)), "since": self.since(arm)}
        about |= {"budget": self._finite_budget, "unit": self.unit}
        with self._writing():
            self._storage.set_study_user_attr(self._arms[arm], LOOK, about)

    def last_look(self, arm: str) -> dict:
        """Return what `look` noted last, with the `runs` there were; empty where there was none."""
        return self._storage.get_study_user_attrs(self._arms[arm]).get(LOOK) or {}

    def since(self, arm: str) -> int:
        """Return how many runs an arm had when it was last over, 0 where it never was."""
        before = self.last_look(arm)
        return before.get("runs" if before.get("over") else "since", 0)

    def stopped(self, arm: str) -> dict:
        """Return what was noted of an arm that is over; empty of one that goes on."""
        about = self.last_look(arm) if self.stops else {}
        if not about.get("over") or about["unit"] != self.unit:
            return {}
        before, now = about["budget"], self._finite_budget
        larger = before is not None and (now is None or now > before + EPSILON)
        return {} if larger else about

    @property
    def _finite_budget(self) -> float | None:
        return self.budget if math.isfinite(self.budget) else None

    def best(self, arm: str) -> tuple[Values, float] | None:
        """Return the best finished trial's values and objective; None where none finished."""
        top = self._top(arm)
        return top and (methods.from_optuna(self.space.arms[arm], top.params), top.value)

    def best_run(self, arm: str) -> int | None:
        """Return the number of its run; None where none finished."""
        top = self._top(arm)
        return None if top is None else top.user_attrs["run"]

    def _top(self, arm: str) -> FrozenTrial | None:
        ended = [t for t in self.trials(arm) if t.state is TrialState.COMPLETE]
        done = [t for t in ended if t.user_attrs["status"] not in LOST]
        return min(done, key=lambda t: (self._sign * t.value, t.number), default=None)

    def saved(self, arm: str) -> float:
        """Return how many runs of its part of the budget an arm that was ended leaves unspent."""
        counts = self.unit == "runs" and self.stopped(arm) and math.isfinite(self.budget)
        return max(0.0, self.budget / len(self._arms) - self._runs(arm)) if counts else 0.0

    def liked(self, arm: str) -> list[float]:
        """Return what the prior expects of an arm's trials: scores, low is good; [] without one.

        0 is the middle of random settings, -1 the best sixth.
        """
        view, points = self.views.get(arm), [tried.values for tried in self._tally(arm).tried]
        return view.outlook(points).mean.tolist() if view and points else []

    def spent(self) -> float:
        """Return what of the budget is spent, in its unit, runs under way in full."""
        total = self._minutes() if self.unit == "minutes" else sum(map(self._runs, self._arms))
        return total * self.epochs if self.unit == "epochs" else total

    def _open(self, runs: Runs, retry: bool) -> None:
        """Open the journal; where it is not that of the runs that lie here, make it anew.

        Args:
            retry: whether to free the trials that failed.
        """
        folder, wrong, asked = self._folder, "", (self.prior, self.views)
        there = recovery.recorded(folder, self.space, runs.phases) if folder else []
        lost = bool(there) and not (folder / JOURNAL).exists()
        known = bool(there) and runs.prior is not None and self.method in LEARNED
        if lost and known:  # before a new journal says otherwise
            self._same_prior("search", runs.prior)
        try:
            self._begin(JOURNAL)
            if self._unlike(there):  # one that was changed by hand since says nothing of it
                there = [*filter(runs.belongs, there)]
                wrong = self._unlike(there)
            kept = [(arm, trial) for arm in self._arms for trial in self.trials(arm)]
        except OtherPriorError:
            raise
        except CheckpointError:
            there = [*filter(runs.belongs, there)]
            wrong = "is damaged"
        except ConfigError:
            mine = [*filter(runs.belongs, there)]
            if not (runs.asked and mine and mine == there):
                raise
            wrong = "is another search's"
        except StorageError:
            raise
        except Exception as error:  # Optuna's, of any class, at what is no journal of its own
            there = [*filter(runs.belongs, there)]
            wrong = f"cannot be read ({type(error).__name__})"
        if wrong:
            wrong = "is lost" if lost else wrong
            if runs.prior:  # what is damaged may look older than priors
                self.prior, self.views, self.late = *asked, False
            if known:
                self._same_prior("search", runs.prior)
            self.repaired = f"{JOURNAL} {wrong}: made anew from {count(len(there), 'run')}"
            kept = recovery.trials(there, self.space, self.epochs, self._sign, WORST)
        failed = retry and [t for _, t in kept if t.user_attrs.get("status") == "failed"]
        if failed:
            kept = [(arm, recovery.reopened(t) if t in failed else t) for arm, t in kept]
        if wrong or failed:
            self._write_anew(kept)

    def _begin(self, name: str) -> None:
        """Open a journal by its name, with a study for each arm."""
        self._storage = journal.opened(self._folder and self._folder / name)
        self._tallies: dict[str, Tally] = {}
        older = [s for s in self._storage.get_all_studies() if "prior" not in s.user_attrs]
        if any(self._storage.get_n_trials(study._study_id) for study in older):
            self.late, self.prior, self.views = self.prior is not None, None, {}
        self._arms = {arm: self._study(arm) for arm in self.space.arms}

    def _unlike(self, there: Sequence[Recorded]) -> str:
        """Return what the journal has otherwise than the runs that lie here; empty: nothing."""
        for one in there:
            trials, knobs = self.trials(one.arm), self.space.arms[one.arm]
            if unlike := recovery.unlike(one, trials, knobs, self.epochs):
                return f"is not that of the runs here ({unlike})"
        return ""

    def _write_anew(self, trials: list[tuple[str, FrozenTrial]]) -> None:
        """Put a journal of these trials into the place of the one that is there.

        Raises:
            LockedError: another process uses it.
        """
        if self._alive_now() != {self._process}:
            raise LockedError(
                f"{self._folder}: another process searches here, and {JOURNAL} is to be written "
                "anew; wait for its end"
            )
        partial = self._folder / f"{JOURNAL}.partial"
        partial.unlink(missing_ok=True)
        self._begin(partial.name)
        for arm, trial in sorted(trials, key=lambda pair: pair[1].user_attrs["run"]):
            self._storage.create_new_trial(self._arms[arm], template_trial=trial)
        if self.repaired and (self._folder / JOURNAL).exists():
            (self._folder / JOURNAL).replace(self._folder / f"{JOURNAL}.damaged")
        partial.replace(self._folder / JOURNAL)
        self._begin(JOURNAL)

    def _prior(self, prior: Prior | str | None) -> Prior | None:
        """Return the prior where the method asks for one."""
        if self.method not in LEARNED or prior is None:
            return None
        if isinstance(prior, str):
            one_of("search.prior", prior, ("learned",))
            return priors.learned()
        return prior

    def _same_prior(self, name: str, before: str) -> None:
        """Refuse to go on with another prior than a search began from.

        Args:
            name: of the search. before: of its prior, empty where it had none.

        Raises:
            OtherPriorError: it is another one.
        """
        if before != (self.prior.name if self.prior else ""):
            began = f"from the prior {before}" if before else "without a prior"
            raise OtherPriorError(
                f"{name}: this folder holds a search that began {began}; give search.prior as it "
                "was, or name another sweep"
            )

    def _seen_by(self, context: Mapping[str, Mapping[str, Any]]) -> dict[str, View]:
        """Return arm -> what the prior says of it, where it knows one of its knobs."""
        if not self.prior:
            return {}
        return {
            arm: view
            for arm, knobs in self.space.arms.items()
            if (view := self.prior.view(knobs, context.get(arm, {})))
        }

    def _outside(self, arm: str, values: Values) -> list[str]:
        """Return knobs whose default lies outside its range, or is missing."""
        knobs = self.space.arms[arm].items()
        return [name for name, k in knobs if name not in values or not k.contains(values[name])]

    def _study(self, arm: str) -> int:
        """Return the arm's study, made if it is not there."""
        name, space = arm or "search", knobs_to_json(self.space.arms[arm])
        about = {"space": space, "fixed": self.fixed.get(arm, "")}
        if self.method in LEARNED:  # other methods ask for none, and go on with any
            about["prior"] = self.prior.name if self.prior else ""
        direction = StudyDirection.MINIMIZE if self.mode == "min" else StudyDirection.MAXIMIZE
        if name not in {s.study_name for s in self._storage.get_all_studies()}:
            self._storage.create_new_study([direction], name)
        studies = {s.study_name: s for s in self._storage.get_all_studies()}
        id_, before = studies[name]._study_id, dict(studies[name].user_attrs)
        if not self._storage.get_n_trials(id_):  # new, or cut off before it said all of itself
            for key in [key for key in about if key not in before]:
                self._storage.set_study_user_attr(id_, key, about[key])
            before = about | before
        before = {key: before.get(key, "" if key == "prior" else None) for key in about}
        if old := [key for key in before["space"] or {} if key in RENAMED]:
            why = f"holds a search of {old[0]}, which is {RENAMED[old[0]]} now; name another sweep"
            raise ConfigError(f"{name}: this folder's {JOURNAL} {why}")
        if before != about and before | {"prior": about.get("prior")} == about:
            self._same_prior(name, before["prior"])
        if before != about or studies[name].directions != [direction]:
            raise ConfigError(
                f"{name}: this folder's {JOURNAL} holds a search of other ranges, another mode or "
                "other fixed knobs; name another sweep, or give the command as it was"
            )
        return id_

    def _writing(self) -> contextlib.AbstractContextManager:
        """Hold the journal for this process alone."""
        folder = self._folder
        return Lock(folder / LOCK, wait=True) if folder else contextlib.nullcontext()

    def _orphans(self) -> list[tuple[str, FrozenTrial]]:
        """Return (arm, trial) of those under way whose process has ended."""
        alive = self._alive_now()
        return [
            (arm, trial)
            for arm in self._arms
            for trial in self._under_way(self._tally(arm))
            if trial.user_attrs.get("process") not in alive
        ]

    def _tally(self, arm: str) -> Tally:
        """Return what an arm's trials come to by now."""
        if arm not in self._tallies:
            self._tallies[arm] = Tally(self.space.arms[arm], self._loss, self._cost)
        return self._tallies[arm].update(self.trials(arm))

    def _under_way(self, tally: Tally) -> list[FrozenTrial]:
        return [tally.trials[number] for number in tally.under_way]

    def _alive_now(self) -> set[str]:
        """Return the names of the processes that search here, this one among them."""
        locks = self._folder.glob(PROCESS.format("*")) if self._folder else []
        return {self._process, *(path.name for path in locks if held(path))}

    def _is_written(self, trial: FrozenTrial) -> bool:
        """Return whether somebody writes a trial's run."""
        run = trial.user_attrs["run"]
        return self._folder is not None and record.held(self._folder / str(run))

    def _wait_for_writers(self) -> None:
        """Wait for runs that a killed process has begun, and that end soon after it."""
        if self._folder:
            runs = [str(t.user_attrs["run"]) for _, t in self._orphans() if self._is_written(t)]
            record.wait_for_writers([self._folder / run for run in runs])

    def _adopted(self, n: int) -> list[Trial]:
        """Take over at most n trials under way whose process has ended."""
        free = [(arm, t) for arm, t in self._orphans() if not self._is_written(t)][:n]
        for arm, trial in free:
            about, id_ = trial.user_attrs, trial._trial_id
            seen = self._storage.get_study_user_attrs(self._arms[arm]).get(about.get("process"))
            spans = minutes.begun(about.get("spans", []), seen)
            self._storage.set_trial_user_attr(id_, "process", self._process)
            self._storage.set_trial_user_attr(id_, "spans", spans)
        return [replace(self._trial(arm, trial), again=True) for arm, trial in free]

    def _batch_of(self, handed: list[Trial]) -> tuple[int, int]:
        """Return the first run of the batch that the newest of these was asked in, and its size."""
        newest = max(handed, key=lambda trial: trial.run)
        about = self.trials(newest.arm)[newest.number].user_attrs
        return tuple(about.get("batch", (newest.run, 1)))

    @property
    def _next_run(self) -> int:
        return max(self._tally(arm).last_run for arm in self._arms) + 1

    def _next(self, batch: tuple[int, int]) -> Trial | None:
        """Make a trial of the arm that is furthest behind."""
        spent = {arm: self._runs(arm) for arm in self._arms if arm not in self.exhausted}
        for arm in sorted(spent, key=spent.get):
            share = self._share(spent[arm])
            if share < 1 and not self.stopped(arm) and (trial := self._new(arm, share, batch)):
                return trial
        return None

    def _share(self, spent: float) -> float:
        """Return the share of its budget an arm has spent; 1 where one more run would be too much.

        Pruned runs leave parts of a run over: the total is as near to the budget as can be.
        """
        if self.unit == "minutes":
            return self._minutes() / self.budget
        part = self.budget / len(self._arms)
        return 1.0 if spent and part - spent < 0.5 - EPSILON else spent / part

    def _new(self, arm: str, spent: float, batch: tuple[int, int]) -> Trial | None:
        knobs, before = self.space.arms[arm], self._tally(arm)
        combinations = math.prod(knob.levels or math.inf for knob in knobs.values())
        if len(before.combinations) >= combinations:
            self.exhausted.add(arm)  # once more would tell the same
            return None
        default = self.defaults.get(arm)
        tried = len(before.tried)
        phase = methods.phase(
            self.method, spent, tried, len(knobs), default is not None, arm in self.views
        )
        under_way = self._under_way(before)
        ours = sum(t.user_attrs.get("process") == self._process for t in under_way)
        if ours >= methods.at_once(phase, tried - len(under_way)):
            return None
        runs = math.inf if self.unit == "minutes" else self.budget / len(self._arms)
        task = Task(knobs, before.history(), default, self.seed, runs, self.views.get(arm))
        with threadpool_limits(1, "blas"):  # for small matrices: threads would wait for each other
            values = PHASES[phase](task)
        if values is None:
            self.exhausted.add(arm)
            return None
        trial = create_trial(
            state=TrialState.RUNNING,
            params=methods.to_optuna(knobs, values),
            distributions={name: methods.distribution(knob) for name, knob in knobs.items()},
            user_attrs={
                "phase": phase,
                "run": self._next_run,
                "batch": batch,
                "process": self._process,
                "spans": minutes.begun([]),
            },
        )
        self._storage.create_new_trial(self._arms[arm], template_trial=trial)
        return self._trial(arm, self.trials(arm)[-1])

    def _trial(self, arm: str, trial: FrozenTrial) -> Trial:
        values = methods.from_optuna(self.space.arms[arm], trial.params)
        phase, run = trial.user_attrs["phase"], trial.user_attrs["run"]
        return Trial(run, arm, trial.number, values, phase, methods.prunes(self.method, phase))

    def _loss(self, trial: FrozenTrial) -> float | None:
        """Return what a method minimises; None of a lost run, and of one under way."""
        lost = trial.value is None or trial.user_attrs.get("status") in LOST
        return None if lost else self._sign * trial.value

    def _runs(self, arm: str) -> float:
        """Return what an arm has spent, in whole runs; those under way in full."""
        return sum(self._tally(arm).costs)

    def _cost(self, trial: FrozenTrial) -> float:
        status = trial.user_attrs.get("status")
        part = status is not None and (self.unit == "epochs" or status == "pruned")
        return trial.user_attrs["epochs"] / self.epochs if part else 1.0

    def _minutes(self) -> float:
        """Return the minutes in which a run was under way."""
        spans: list[minutes.Span] = []
        alive, now = self._alive_now(), minutes.now()
        for arm in self._arms:
            seen = self._storage.get_study_user_attrs(self._arms[arm])
            for trial in self.trials(arm):
                about = trial.user_attrs
                of_it = about.get("spans") or minutes.of_dates(
                    trial.datetime_start, trial.datetime_complete
                )
                process = about.get("process")
                at = seen.get(process) or ("", 0.0)
                if process in alive and at[0] in ("", now[0]):  # by this clock, it is at work
                    at = now
                spans += map(tuple, minutes.ended(of_it, at))
        return minutes.used(spans)

    def _beating(self) -> threading.Event:
        """Note every BEAT seconds that this process is at work, until the event is set."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(OSError), self._writing():  # the next one may be written
                    for study in self._arms.values():
                        self._storage.set_study_user_attr(study, self._process, minutes.now())

        threading.Thread(target=beat, daemon=True, name="beat").start()
        return over
