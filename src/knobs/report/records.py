"""Plain data of what was run: knobs, runs, settings, the study that asked for them."""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs import metrics
from knobs.errors import ConfigError
from knobs.words import number, score, short, short_names

UNREADABLE = "unreadable"
GOOD = ("finished", "stopped_early")
ROLES = ("default", "search", "confirm", "baseline", "step", "test")
FRESH = ("confirm", "baseline", "step")  # runs with seeds that chose nothing
EXPLORED = ("default", "search")  # runs that spread over the space, for importance
ABSENT = ""  # the value of a knob that a run's config does not have
HUGE = 1e300  # beyond it a variance overflows
MOST_CHOICES = 64
NAMED = 4  # knobs of a setting that is called by their values


def finite(value: Any) -> float | None:
    """Return a number that can be averaged; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < HUGE else None


@dataclass(frozen=True)
class Objective:
    """The metric that a sweep optimizes: more of it is better ("max") or less ("min")."""

    metric: str = "objective"
    mode: str = "max"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is: a gain is `sign * (a - b)`."""
        return -1 if self.mode == "min" else 1

    @property
    def in_points(self) -> bool:
        """True where differences are given in hundredths."""
        return metrics.in_points(self.metric)

    def value(self, value: float | None) -> str:
        """Format a value of the metric."""
        return "none" if value is None else number(value, 4)

    def amount(self, difference: float, unit: bool = True) -> str:
        """Format a difference between two values of the metric."""
        if not self.in_points:
            return number(difference, 2)
        points = 100 * difference
        text = f"{points:.1f}" if abs(points) >= 0.095 else f"{points:.2f}"
        return ("0" if float(text) == 0 else text) + " points" * unit


@dataclass(frozen=True)
class Knob:
    """One axis of the search space.

    Args:
        log: whether equal ratios, not equal differences, are equally far.
        choices: of a categorical knob. Three or more numbers are taken as steps of a scale.
        integer: whether only whole numbers exist.

    Raises:
        ConfigError: neither choices nor a range, or one that a log scale cannot show.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Sequence[Any] | None = None
    integer: bool = False

    def __post_init__(self) -> None:
        if self.choices is not None:
            return
        bounds = f"{self.name}: low={self.low}, high={self.high}"
        if self.low is None or self.high is None or not self.low < self.high:
            raise ConfigError(f"{bounds}: a knob has choices, or low < high")
        if self.log and self.low <= 0:
            raise ConfigError(f"{self.name}: low={self.low}: must be above 0 on a log scale")


def position(knob: Knob, value: Any) -> float:
    """Return where a value lies on a knob's axis: 0 to 1 between its bounds or over its choices."""
    if knob.choices is not None:
        return (knob.choices.index(value) + 0.5) / len(knob.choices)
    if knob.log:
        return math.log(value / knob.low) / math.log(knob.high / knob.low) if value > 0 else -1.0
    return (value - knob.low) / (knob.high - knob.low)


@dataclass(frozen=True)
class RunRecord:
    """One run as its folder and its study record it.

    Args:
        id: the folder's name, behind its sweep's name where there are several sweeps; a label.
        status: one of record.STATUSES, or unreadable.
        setting: what the run computes, its seed, split seed and fold aside; empty where config.json
            is broken.
        choices: group -> option.
        metric: of the objective; empty without a summary.
        value: the objective's best; of a pruned run what it had reached when it was stopped; None
            where the run broke or did not end.
        number: in its sweep, as config.json records it; None in older records.
        arm: the scientific value it belongs to; "" where nothing was asked.
        role: one of ROLES.
        phase: of a search: what proposed it (search/methods.py); "" where that is not recorded.
        step, knob: of a walk from the default to the best config: the index of the change, of what.
        data_hash: of content, target and split, as config.json records it; empty in older ones.
        val_rows, test_rows: hashes of these rows and their targets alone; empty in older ones.
        load_curve: reads metrics.jsonl.
        fault: which of its files is damaged, and how; "" where none is known to be.
    """

    folder: Path
    id: str = ""
    status: str = UNREADABLE
    setting: str = ""
    overrides: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    mode: str = "max"
    value: float | None = None
    best_epoch: float | None = None
    seconds: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    number: int | None = None
    arm: str = ""
    role: str = "search"
    phase: str = ""
    step: int | None = None
    knob: str = ""
    data_hash: str = ""
    val_rows: str = ""
    test_rows: str = ""
    load_curve: Callable[[], list[dict[str, float]]] = field(default=list, compare=False)
    fault: str = ""

    @property
    def ok(self) -> bool:
        """True where it ended with a value."""
        return self.status in GOOD

    @property
    def broke(self) -> bool:
        """True where it diverged or failed."""
        return self.status in ("diverged", "failed")

    @functools.cached_property
    def curve(self) -> list[dict[str, float]]:
        """The metrics by epoch, read when they are first asked for."""
        return self.load_curve()

    @property
    def seed(self) -> int:
        """The seed, 0 if the config has none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else 0

    @property
    def repeat(self) -> tuple[int, int, int]:
        """The seed, the seed of the validation split, and the fold; 0 where the config has none."""
        data = _section(self.config, "data")
        split = data.get("val_seed")
        split = data.get("split_seed") if split is None else split
        numbers = (self.seed, split, data.get("fold"))
        return tuple(n if type(n) is int else 0 for n in numbers)

    @property
    def training_examples(self) -> int | None:
        """The size of its training split; None in records that do not state it."""
        return _size(self.summary.get("training_examples"))

    @property
    def planned(self) -> int | None:
        """Epochs that the config asks for."""
        return _size(_section(self.config, "training").get("epochs"))

    @property
    def validation_examples(self) -> int | None:
        """The size of its validation split; None in records that do not state it."""
        return _size(self.summary.get("validation_examples"))

    @property
    def parameters(self) -> int | None:
        """The parameters of its networks that are trained; None in records that do not state it."""
        return _size(self.summary.get("parameters"))

    @property
    def tests(self) -> dict[str, float]:
        """Metrics on the test split; empty where it was not read."""
        numbers = {name: finite(v) for name, v in _section(self.summary, "test").items()}
        return {name: value for name, value in numbers.items() if value is not None}

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version that it ran with."""
        versions = _section(self.summary, "versions")
        return {name: v for name, v in versions.items() if isinstance(v, str)}


def splits_vary(config: dict[str, Any]) -> bool:
    """Tell whether another `data.val_seed` can hold out other validation rows."""
    data = _section(config, "data")
    fixed = str(data.get("split", "")).startswith("time") or data.get("folds") is not None
    return "val_seed" in data and not fixed


def _section(node: dict[str, Any], name: str) -> dict[str, Any]:
    return section if isinstance(section := node.get(name), dict) else {}


def _size(value: Any) -> int | None:
    size = finite(value)
    return int(size) if size and size >= 1 else None


def knob_value(run: RunRecord, name: str) -> Any:
    """Return a knob's value: the option of a group, or what the resolved config has there."""
    if name in run.choices:
        return run.choices[name]
    node: Any = run.config
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            return ABSENT
        node = node[part]
    return node


@dataclass(frozen=True)
class Entry:
    """One line of the leaderboard: a setting of the knobs, whose runs are repeats of it.

    Args:
        rank: 1 is the best; None where no run finished or diverged.
        mean: of the objective over the runs that finished, None if none did; so best_epoch.
        sd: sample standard deviation; None below two runs.
        knobs: what differs within the sweep -> this entry's value, the same keys in every entry.
        seconds: mean over the runs that finished, or over all if none did.
        confirmed: whether they are fresh runs, of seeds that had no part in choosing the setting.
        parameters: that are trained; None in older records, or where the runs differ in it.
    """

    rank: int | None
    metric: str
    mean: float | None
    sd: float | None
    n: int
    knobs: dict[str, Any]
    best_epoch: int | None
    seconds: float | None
    status: str
    runs: tuple[RunRecord, ...]
    confirmed: bool = False
    parameters: int | None = None


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard.

    Args:
        name: in leaderboard.csv and report.json, and the field of an Entry; in leaderboard.csv the
            mean goes by the name of the metric.
        head: in tables, where the mean goes by that name too; empty where it is not shown there.
        text: an entry's cell in a table.
        in_csv: whether leaderboard.csv has it.
    """

    name: str
    head: str = ""
    text: Callable[[Entry], str] = lambda entry: ""
    in_csv: bool = True


COLUMNS = (
    Column("rank", "rank", lambda e: "-" if e.rank is None else str(e.rank)),
    Column("mean", "mean", lambda e: score(e.mean, e.sd, e.n)),
    Column("sd"),
    Column("n"),
    Column("confirmed", in_csv=False),
    Column("knobs", "knobs"),  # a column each, but in report.json
    Column("best_epoch", "epoch", lambda e: "" if e.best_epoch is None else str(e.best_epoch)),
    Column("seconds", "sec", lambda e: "" if e.seconds is None else number(e.seconds, 2)),
    Column("parameters"),
    Column("status", "status", lambda e: e.status),  # a table in which all finished has none
)
HEADS = tuple(column.head for column in COLUMNS if column.head)


@dataclass(frozen=True)
class Stop:
    """Why the search of an arm was ended before its budget, by `search.stop=auto`.

    Args:
        runs: that had ended.
        gain: expected of a further run where it promised most, in the objective's unit.
        noise: of the validation split, which was more.
        saved: runs of the budget that were left; 0 where it was no number of runs.
    """

    runs: int
    gain: float
    noise: float
    saved: int = 0


@dataclass(frozen=True)
class Study:
    """The question of a study, and its arms: scientific value -> the space searched under it.

    A plain search asks nothing and has one arm, named "".

    Args:
        name: of its YAML in conf/study; search without one.
        looks: numbers of repeats at which it looks whether it is decided; empty for one look.
        usual: the arm that the default config belongs to; "" where it is none of them.
        budget: runs that an arm was to be searched with; None where it was no number of runs.
        asked: overrides of its command line; empty in older records.
        stops: arm -> why its search was ended before its budget.
        tasks, sweeps: how many other tasks, or earlier sweeps, its search started from.
        liked: number of a run -> what these expected of it, a score, low is good; empty without.
    """

    question: str = ""
    scientific: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    arms: dict[str, tuple[Knob, ...]] = field(default_factory=dict)
    name: str = ""
    looks: tuple[int, ...] = ()
    usual: str = ""
    budget: float | None = None
    asked: tuple[str, ...] = ()
    stops: dict[str, Stop] = field(default_factory=dict)
    tasks: int = 0
    sweeps: int = 0
    liked: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Everything a report is made from.

    Args:
        runs: those of the objective, in the order of their numbers.
        entries: the leaderboard of all but the test runs; a setting that was confirmed stands there
            with its fresh runs alone, as the one that chose it is biased.
        study: None for a grid.
        space: the knobs that were searched, over all arms.
        others: how many runs have another objective, or none as a refit, and are left out.
        test_looks: runs beside and among these that evaluated the same data's test split.
        faults: study.json's, where it is damaged.
    """

    folders: tuple[Path, ...]
    name: str
    objective: Objective
    runs: tuple[RunRecord, ...]
    entries: tuple[Entry, ...]
    study: Study | None
    space: tuple[Knob, ...]
    others: int = 0
    test_looks: int = 0
    faults: tuple[str, ...] = ()
    _columns: dict[Knob, dict[str, Any]] = field(default_factory=dict, init=False, compare=False)

    @property
    def knobs(self) -> list[str]:
        """The names of the space."""
        return [knob.name for knob in self.space]

    @property
    def question(self) -> str:
        """The question of the study; empty without one."""
        return self.study.question if self.study else ""

    @functools.cached_property
    def _short(self) -> dict[str, str]:
        differing = self.entries[0].knobs if self.entries else ()
        return short_names(list(dict.fromkeys([*self.knobs, *differing])), HEADS)

    def short(self, knob: str) -> str:
        """Return a knob's name in few letters: lr for optimizer.lr."""
        return self._short.get(knob, knob)

    def column(self, knob: Knob) -> dict[str, Any]:
        """Return a column of the table of runs: run id -> number, or text of a choice.

        Runs without one are left out.
        """
        if knob not in self._columns:
            every = {run.id: knob_value(run, knob.name) for run in self.runs}
            if knob.choices is None:
                numbers = {run: finite(value) for run, value in every.items()}
                column = {run: value for run, value in numbers.items() if value is not None}
            else:
                texts = {run: short(value) for run, value in every.items()}
                column = {run: text for run, text in texts.items() if text in knob.choices}
            self._columns[knob] = column
        return self._columns[knob]

    @functools.cached_property
    def _splits(self) -> dict[str, tuple[int, int]]:
        """Map the rows that runs were judged on to a seed of the split and a fold, one to one.

        These are the first that hold out these rows, or where they held out others, as seeds of
        the validation split do beside two of the test split, a seed that no run has.
        """
        first: dict[str, tuple[int, int]] = {}
        free = max((run.repeat[1] for run in self.runs), default=0) + 1
        for run in self.runs:
            if (rows := run.val_rows or run.data_hash) and rows not in first:
                taken = run.repeat[1:] in first.values()
                first[rows] = (free + len(first), run.repeat[2]) if taken else run.repeat[1:]
        return first

    def by_repeat(self, runs: Iterable[RunRecord]) -> dict[tuple[int, int, int], float]:
        """Return repeat -> objective; only runs that were judged on the same rows share a split.

        Of a repeat that came to several values, as on several machines, it is their mean.
        """
        values: dict[tuple[int, int, int], set[float]] = {}
        for run in runs:
            split = self._splits.get(run.val_rows or run.data_hash, run.repeat[1:])
            values.setdefault((run.seed, *split), set()).add(run.value)
        return {repeat: statistics.fmean(sorted(same)) for repeat, same in values.items()}

    @functools.cached_property
    def mixed(self) -> bool:
        """True where runs of one and the same split were judged on other rows: of other data.

        Old records, which do not tell rows from data, are believed to be of one.
        """
        val: dict[tuple, set[str]] = {}
        test: dict[Any, set[str]] = {}
        for run in self.runs:
            data = _section(run.config, "data")
            at = [data.get(key) for key in ("split_seed", "val_seed", "folds", "fold")]
            val.setdefault(tuple(map(str, at)), set()).add(run.val_rows)
            test.setdefault(str(at[0]), set()).add(run.test_rows)
        return any(len(rows - {""}) > 1 for rows in (*val.values(), *test.values()))

    def explored(self, arm: str | None = None) -> list[RunRecord]:
        """Return the runs that were spread over the space, of one arm or of all."""
        return [r for r in self.runs if r.role in EXPLORED and arm in (None, r.arm)]

    def questions(self) -> tuple[Knob, ...]:
        """Return what a study asks about, as knobs with choices."""
        asked = []
        for name in self.study.scientific if self.study else ():
            values = (knob_value(run, name) for run in self.runs if run.setting)
            choices = tuple(dict.fromkeys(map(short, values)))
            if 1 < len(choices) <= MOST_CHOICES and name not in self.knobs:
                asked.append(Knob(name, choices=choices))
        return tuple(asked)

    def space_of(self, arm: str) -> tuple[Knob, ...]:
        """Return the knobs searched under an arm."""
        return (self.study.arms.get(arm) if self.study else None) or self.space

    def name_of(self, entry: Entry, rank: int) -> str:
        """Call a setting by the knobs that differ, or by its place if these are many."""
        knobs = {name: value for name, value in entry.knobs.items() if value != ABSENT}
        if not knobs:
            return "the setting"
        if len(knobs) > NAMED:
            return f"setting {rank}"
        return " ".join(f"{self.short(name)}={short(value)}" for name, value in knobs.items())
