"""Folders of runs -> one plain Sweep. All that a report knows of the disk is here.

Folders may be half-written, foreign or hostile: what cannot be read is left out and counted, links
are not followed, files larger than a run writes are not opened, and nothing in them is executed.
"""

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from knobs.errors import ConfigError
from knobs.record import CONFIG, METRICS, STUDY, read_metrics, read_study
from knobs.report import leaderboard
from knobs.report.importance import Knob
from knobs.report.leaderboard import BROKEN, GOOD, Entry, RunRow, finite, knob_value
from knobs.report.words import Objective, count

ROLES = ("default", "search", "confirm", "baseline", "step", "test")
FRESH = ("confirm", "baseline", "step")  # runs with seeds that chose nothing
EXPLORED = ("default", "search")  # runs that spread over the space, from which importance is told
MOST_CHOICES = 64
MOST_ROWS = 100_000  # of a curve


@dataclass(frozen=True)
class Run:
    """A run and its place in a study.

    Args:
        id: the folder's number, behind its sweep's name where there are several sweeps.
        row: what the folder tells.
        arm: the scientific value it belongs to; "" where nothing was asked.
        role: one of ROLES.
        step, knob: of a walk from the default to the best config: the how-manieth change, of what.
    """

    id: str
    row: RunRow
    arm: str = ""
    role: str = "search"
    step: int | None = None
    knob: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended with a value."""
        return self.row.status in GOOD and self.row.value is not None

    @property
    def broke(self) -> bool:
        """Whether it diverged or failed."""
        return self.row.status in ("diverged", "failed")

    @property
    def value(self) -> float | None:
        """The objective's best; of a pruned run what it had reached when it was stopped."""
        return self.row.value if self.ok or self.row.status == "pruned" else None

    @property
    def seed(self) -> int:
        """The seed, 0 if the config has none."""
        seed = self.row.config.get("seed")
        return seed if isinstance(seed, int) else 0

    @property
    def planned(self) -> int | None:
        """Epochs that the config asks for."""
        training = self.row.config.get("training")
        epochs = finite(training.get("epochs")) if isinstance(training, dict) else None
        return int(epochs) if epochs and epochs >= 1 else None

    @property
    def tests(self) -> dict[str, float]:
        """What it read on the test split; empty where it did not."""
        test = self.row.summary.get("test")
        items = test.items() if isinstance(test, dict) else ()
        return {str(name): v for name, value in items if (v := finite(value)) is not None}

    @property
    def validation_examples(self) -> int | None:
        """The size of its validation split; None in records that do not tell."""
        size = finite(self.row.summary.get("validation_examples"))
        return int(size) if size and size >= 1 else None

    @property
    def versions(self) -> dict[str, str]:
        """Package -> version that it ran with."""
        found = self.row.summary.get("versions")
        items = found.items() if isinstance(found, dict) else ()
        return {str(name): value for name, value in items if isinstance(value, str)}


@dataclass(frozen=True)
class Arm:
    """One scientific value: what sets it, and the space searched under it."""

    overrides: tuple[str, ...] = ()
    space: tuple[Knob, ...] = ()


@dataclass(frozen=True)
class Study:
    """What was asked; a plain search asks nothing and has one arm, named ""."""

    name: str = ""
    question: str = ""
    scientific: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    pruner: str = "none"
    arms: dict[str, Arm] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Everything a report is made from.

    Args:
        folders: as given.
        name: to show.
        runs: those of the objective, in the order of their numbers.
        entries: the leaderboard of all but the test runs; a setting that was confirmed stands there
            with its fresh runs alone, as the one that chose it flatters it.
        study: None for a grid.
        space: the knobs that were searched, over all arms.
        others: how many runs have another objective and are left out.
    """

    folders: tuple[Path, ...]
    name: str
    objective: Objective
    runs: tuple[Run, ...]
    entries: tuple[Entry, ...]
    study: Study | None
    space: tuple[Knob, ...]
    others: int = 0

    @property
    def knobs(self) -> list[str]:
        """The names of the space."""
        return [knob.name for knob in self.space]

    def short(self) -> dict[str, str]:
        """Knob -> its name in few letters: optimizer.lr is lr."""
        names = list(dict.fromkeys([*self.knobs, *(self.entries[0].knobs if self.entries else ())]))
        return dict(zip(names, leaderboard.short_names(names), strict=True))

    def explored(self, arm: str | None = None) -> list[Run]:
        """Runs that were spread over the space, of one arm or of all."""
        return [r for r in self.runs if r.role in EXPLORED and arm in (None, r.arm)]

    def questions(self) -> tuple[Knob, ...]:
        """What a study asks about, as knobs with choices."""
        asked = []
        for name in self.study.scientific if self.study else ():
            values = [knob_value(run.row, name) for run in self.runs if run.row.setting]
            texts = tuple(dict.fromkeys(leaderboard.short(value) for value in values))
            if 1 < len(texts) <= MOST_CHOICES:
                asked.append(Knob(name, choices=texts))
        return tuple(knob for knob in asked if knob.name not in self.knobs)

    def space_of(self, arm: str) -> tuple[Knob, ...]:
        """The knobs searched under an arm."""
        found = self.study.arms.get(arm) if self.study else None
        return found.space if found and found.space else self.space


def gather(folders: Sequence[Path]) -> Sweep:
    """Read sweeps' folders as one sweep.

    Args:
        folders: of sweeps, each with its runs in 0/, 1/, ...; at least one.

    Raises:
        ConfigError: a folder is not there, or none of them holds a run.
    """
    folders = list({os.path.realpath(folder): folder for folder in folders}.values())
    labels = _labels(folders)
    runs: list[Run] = []
    studies: list[Study] = []
    for folder, label in zip(folders, labels, strict=True):
        rows, (study, roles) = _rows(folder), _read_study(folder)
        studies += [study] if study else []
        for row in rows:
            name = f"{label}/{row.folder.name}" if len(folders) > 1 else row.folder.name
            runs.append(replace(Run(name, row), **roles.get(row.folder.name, {})))
    if not runs:
        raise ConfigError(
            f"{', '.join(map(str, folders))}: no runs in it; a sweep's folder holds its runs as "
            f"0/, 1/, ..., each with a {CONFIG}"
        )
    objective = _objective(runs)
    kept = [run for run in runs if run.row.metric in ("", objective.metric)]
    entries = _entries(kept)
    study = _merged(studies)
    return Sweep(
        folders=tuple(folders),
        name=", ".join(labels),
        objective=objective,
        runs=tuple(kept),
        entries=tuple(entries),
        study=study,
        space=_union(study) or tuple(_spaces(kept, entries)),
        others=len(runs) - len(kept),
    )


def curve(run: Run) -> list[dict[str, float]]:
    """A run's metrics by epoch: what is a finite number, of rows that have an epoch."""
    found: Any = []
    with contextlib.suppress(*BROKEN):
        found = leaderboard.load(run.row.folder / METRICS, read_metrics)
    rows = (
        {str(name): v for name, value in row.items() if (v := finite(value)) is not None}
        for row in found[:MOST_ROWS]
        if isinstance(row, dict)
    )
    return [row for row in rows if "epoch" in row]


def knob_of(run: Run, knob: Knob) -> Any:
    """A run's value of a knob: a number, or the text of a choice; None where it has none."""
    value = knob_value(run.row, knob.name)
    if knob.choices is not None:
        text = leaderboard.short(value)
        return text if text in knob.choices else None
    return finite(value)


def _entries(runs: Sequence[Run]) -> list[Entry]:
    fresh = {run.row.setting for run in runs if run.role in FRESH and (run.ok or run.broke)}
    counted = [
        run.row
        for run in runs
        if run.role != "test" and not (run.role in EXPLORED and run.row.setting in fresh)
    ]
    return leaderboard.leaderboard(counted, fresh)


def _rows(folder: Path) -> list[RunRow]:
    try:
        return leaderboard.read_runs(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be read ({error.strerror})") from None


def _labels(folders: Sequence[Path]) -> list[str]:
    """Each folder's last parts, as many as tell it from the others."""
    whole = [Path(os.path.abspath(folder)) for folder in folders]
    parts = 1
    while len({path.parts[-parts:] for path in whole}) < len({*whole}):
        parts += 1
    return ["/".join(path.parts[-parts:]) for path in whole]


def _objective(runs: list[Run]) -> Objective:
    """The objective that most runs have."""
    seen = Counter((run.row.metric, run.row.mode) for run in runs if run.row.metric)
    return Objective(*seen.most_common(1)[0][0]) if seen else Objective()


# ------------------------------------------------------------------ study.json
def _read_study(folder: Path) -> tuple[Study | None, dict[str, dict[str, Any]]]:
    """What was asked, and each run's place; as much of it as is well-formed."""
    raw: Any = None
    with contextlib.suppress(*BROKEN):
        raw = leaderboard.load(folder / STUDY, read_study)
    if not isinstance(raw, dict):
        return None, {}
    arms = {
        name: Arm(_words(arm.get("overrides")), tuple(_knobs(_section(arm, "space"))))
        for name, arm in _section(raw, "arms").items()
        if isinstance(arm, dict)
    }
    study = Study(
        name=_word(raw.get("study")),
        question=_word(raw.get("question")),
        scientific=_words(raw.get("scientific")),
        fixed=_words(raw.get("fixed")),
        pruner=_word(raw.get("pruner")) or "none",
        arms=arms,
    )
    places = {}
    for number, run in _section(raw, "runs").items():
        if isinstance(run, dict) and run.get("role") in ROLES:
            step = run.get("step")
            places[number] = {
                "arm": _word(run.get("arm")),
                "role": run["role"],
                "step": step if isinstance(step, int) else None,
                "knob": _word(run.get("knob")),
            }
    return study, places


def _knobs(space: dict[str, Any]) -> Iterator[Knob]:
    """The knobs of an arm's space that are well-formed."""
    for name, about in space.items():
        if not isinstance(about, dict):
            continue
        choices = about.get("choices")
        if isinstance(choices, list) and 0 < len(choices) <= MOST_CHOICES:
            yield Knob(name, choices=tuple(dict.fromkeys(map(leaderboard.short, choices))))
            continue
        low, high = finite(about.get("low")), finite(about.get("high"))
        log = about.get("log") is True
        if low is not None and high is not None and low < high and (low > 0 or not log):
            yield Knob(name, low=low, high=high, log=log, integer=about.get("int") is True)


def _merged(studies: list[Study]) -> Study | None:
    """Several machines' parts of a study as one."""
    if not studies:
        return None
    arms: dict[str, Arm] = {}
    for study in studies:
        arms = study.arms | arms
    return replace(studies[0], arms=arms)


def _union(study: Study | None) -> tuple[Knob, ...]:
    """The knobs of all arms; where they differ in bounds, the widest."""
    union: dict[str, Knob] = {}
    for knob in (knob for arm in (study.arms.values() if study else ()) for knob in arm.space):
        old = union.get(knob.name, knob)
        if (old.choices is None) != (knob.choices is None):
            continue
        if knob.choices is not None:
            choices = tuple(dict.fromkeys([*old.choices, *knob.choices]))
            union[knob.name] = replace(knob, choices=choices)
        else:
            low, high = min(old.low, knob.low), max(old.high, knob.high)
            union[knob.name] = replace(knob, low=low, high=high, log=old.log and knob.log)
    return tuple(union.values())


def _section(node: dict, name: str) -> dict[str, Any]:
    found = node.get(name)
    return found if isinstance(found, dict) else {}


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _words(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


# ------------------------------------------------------------------ a grid's space
def _spaces(runs: list[Run], entries: Sequence[Entry]) -> Iterator[Knob]:
    """The knobs of a grid: what differs between its runs, from the least to the largest value."""
    for name in entries[0].knobs if entries else ():
        values = [knob_value(run.row, name) for run in runs if run.row.setting]
        numbers = sorted({v for value in values if (v := finite(value)) is not None})
        if len(numbers) > 1 and all(
            finite(v) is not None or v == leaderboard.ABSENT for v in values
        ):
            integer = all(isinstance(v, int) for v in values if v != leaderboard.ABSENT)
            yield Knob(name, low=numbers[0], high=numbers[-1], log=_log(numbers), integer=integer)
            continue
        texts = tuple(
            dict.fromkeys(leaderboard.short(v) for v in values if v != leaderboard.ABSENT)
        )
        if 1 < len(texts) <= MOST_CHOICES:
            yield Knob(name, choices=texts)


def _log(numbers: list[float]) -> bool:
    """Whether values lie more evenly by their ratios than by their differences."""
    if numbers[0] <= 0:
        return False
    if len(numbers) < 3:
        return numbers[-1] / numbers[0] > 2
    ratios, steps = np.diff(np.log(numbers)), np.diff(numbers)
    return float(np.std(ratios) / np.mean(ratios)) < float(np.std(steps) / np.mean(steps))


def position(knob: Knob, value: float) -> float:
    """Where a value lies between a knob's bounds, 0 to 1 on its own scale."""
    if knob.log:
        return math.log(value / knob.low) / math.log(knob.high / knob.low) if value > 0 else -1.0
    return (value - knob.low) / (knob.high - knob.low)


def what_ran(sweep: Sweep) -> str:
    """`45 runs: 43 finished, 2 diverged`."""
    ends = Counter(run.row.status for run in sweep.runs)
    told = ", ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in ends.most_common())
    return f"{count(len(sweep.runs), 'run')}: {told}"
