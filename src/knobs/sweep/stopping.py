"""`search.stop=auto`: end a search whose next run would gain less than its split can show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from knobs.errors import ConfigError
from knobs.report import noise
from knobs.report.importance.further import next_run
from knobs.report.read import knobs_of
from knobs.report.run.read import read_files
from knobs.search.methods import Tried
from knobs.search.space import Knobs, knobs_to_json
from knobs.search.trials import Search
from knobs.words import short

# By simulation of `auto` with 40 runs on the functions of benchmarks/importance.py, whose noise was
# a tenth of their spread: ended at the first look with too little gain a search loses 1.2 noises of
# a run and saves 16 runs, at the second .3 and 13; with 8 runs instead of 12, .3 and 15, but every
# tenth search loses 1.4 noises instead of .9.
LEAST, LOOKS = 12, 2  # runs of an arm that have ended, before it may be; looks in a row
GROWTH = 1.05  # of these, from one look to the next: a look costs .3 s, of hundreds of runs more


@dataclass
class StopRule:
    """Ends arms by the expected gain of a further run and the noise of the validation split.

    Both are the report's: report/importance/further.py and report/noise.py. What an arm saves is
    not given to others, as equal budgets are what makes them comparable.

    Args:
        folder: of the runs.
        metric: their objective.
        unknown: arms that are not ended, as their best run does not tell the noise.

    Raises:
        ConfigError: the noise of this metric on a split is not known.
    """

    folder: Path
    metric: str
    unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.metric.rpartition("/")[2] not in noise.ESTIMATED:
            known = ", ".join(noise.ESTIMATED)
            raise ConfigError(
                f"search.stop=auto: the noise of {self.metric} on a validation split is not known, "
                f"that of {known} is; give search.stop=none, or another objective.metric"
            )

    def apply(self, search: Search) -> None:
        """End each arm of a search of which it is time."""
        for arm in search.space.arms:
            ended, before = search.ended(arm), search.last_look(arm)
            over = arm in search.exhausted or search.stopped(arm)
            if over or len(ended) < next_look(before.get("runs", 0), search.since(arm)):
                continue
            best = search.best_run(arm)
            floor = None if best is None else noise.of_split(read_files(self.folder / str(best)))
            if not floor:
                self.unknown |= {arm} if best is not None else set()
                continue
            gain = gain_of(search.space.arms[arm], ended)
            if gain is not None:
                looks = 0 if before.get("over") else before.get("below", 0)
                below = looks + 1 if gain < floor else 0
                search.look(arm, below >= LOOKS, gain=gain, noise=floor, below=below)


def next_look(looked: int, since: int = 0) -> float:
    """Return how many runs there must be for a look.

    Args:
        looked: runs at the last one.
        since: runs when the arm was over for a smaller budget.
    """
    return max(since + LEAST, looked + 1, GROWTH * looked)


def gain_of(knobs: Knobs, ended: Sequence[Tried]) -> float | None:
    """Return the expected gain of a further run, by the trials that have ended."""
    shown = list(knobs_of(knobs_to_json(knobs)))
    choices = {knob.name for knob in shown if knob.choices is not None}
    rows = [{n: short(v) if n in choices else v for n, v in t.values.items()} for t in ended]
    return next_run(shown, rows, [t.loss for t in ended], "min", [t.pruned for t in ended])
