"""A search's trials as jobs: handed to a launcher, told to the search as their records say."""

import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.utils import JobReturn

from knobs import ledger
from knobs.errors import ConfigError, LockedError
from knobs.record import CONFIG, Ended, ended, resumable
from knobs.search import space
from knobs.search.trials import Search, Trial
from knobs.signals import STOPPED
from knobs.sweep.grid import Supply, job, renewed
from knobs.sweep.jobs import Job
from knobs.sweep.stopping import StopRule


def _role(phase: str) -> str:
    """Return a trial's role in the study, by what proposed it."""
    return "default" if phase == "default" else "search"


@dataclass
class Trials(Supply):
    """Supplies a search's trials as jobs.

    Args:
        search: asks and tells.
        study: makes jobs of trials, and writes down where they belong.
        rule: ends arms of which a further run would bring too little; None ends none.
    """

    search: Search
    study: Any  # a StudyRunner, which imports this module
    before: int = 0
    rule: StopRule | None = None
    _under_way: dict[int, Trial] = field(default_factory=dict)

    def more(self, count: int | None = None) -> dict[int, Job]:
        """Return the next trials; one whose run has ended meanwhile is told, not run again."""
        wanted, jobs = count or self.study.options["width"], {}
        if self.rule:
            self.rule.apply(self.search)
        while not jobs and (trials := self.search.ask(wanted)):
            self.study.note({trial.run: self._place(trial.arm, trial.phase) for trial in trials})
            for trial in trials:
                self._under_way[trial.run] = trial
                run = self.study.folder / str(trial.run)
                job = self._job(trial)
                known = job.config and ledger.holds_a_run(run)
                unknown = trial.again or not resumable(run)  # what a power cut leaves of a trial
                if known and not ledger.holds(run, job.config, unreadable=unknown):
                    why = f"its {CONFIG} is not that of its trial; move it away"
                    raise ConfigError(f"{run}: {why}, and the trial runs anew")
                if again := renewed(job, run, self.study.sweep.retry):
                    jobs[trial.run] = again
                else:
                    self._tell(trial.run)  # killed between the run's end and its being told
                    self.before += 1
        self.coming = self.study.later(self.study.plan.looks[0]) if self.study.plan.looks else 0
        if self.search.unit == "runs" and math.isfinite(self.search.budget):
            saved = sum(map(self.search.saved, self.study.plan.arms))
            self.coming += max(0, round(self.search.budget - self.search.spent() - saved))
        return jobs

    def ended(self, number: int, returned: JobReturn) -> None:
        """Tell the search how a trial went."""
        if number not in self._under_way:
            return
        error = returned._return_value
        if isinstance(error, LockedError):  # another process writes it, and will have it told
            del self._under_way[number]
        elif isinstance(error, SystemExit) and error.code in STOPPED and not self._end(number):
            self.search.tell(self._under_way.pop(number), None, "interrupted")
        else:
            self._tell(number)

    def places(self) -> dict[int, dict[str, Any]]:
        """Return where every trial belongs, those of other processes too: the journal knows."""
        places = {}
        for arm in self.study.plan.arms:
            for trial in self.search.trials(arm):
                places[trial.user_attrs["run"]] = self._place(arm, trial.user_attrs["phase"])
        return places

    def _place(self, arm: str, phase: str) -> dict[str, Any]:
        return {"arm": arm, "role": _role(phase), "phase": phase}

    def _job(self, trial: Trial) -> Job:
        """Return a trial's job as it begins."""
        plan, pruner = self.study.plan, self.study.options["pruner"]
        more = [f"search.role={_role(trial.phase)}", space.override("search.arm", trial.arm)]
        more.append(f"search.phase={trial.phase}")
        if trial.prunable and pruner != "none":
            more.append(f"search.pruner={pruner}")
        lines = plan.job(trial.arm, trial.values, *more)
        values = [space.override(name, value) for name, value in trial.values.items()]
        sweep = self.study.sweep
        new = job(lines, sweep.context, sweep.master, trial.run)
        new.differs = [*plan.arms[trial.arm], *values]
        new.label = " ".join(new.differs)
        return new

    def _end(self, number: int) -> Ended | None:
        return ended(self.study.folder / str(number))

    def _tell(self, number: int) -> None:
        trial, end = self._under_way.pop(number), self._end(number)
        if end is None or end.epochs is None:  # it never began
            self.search.tell(trial, end and end.value, "failed", None)
        else:
            self.search.tell(trial, end.value, end.status, end.epochs)
