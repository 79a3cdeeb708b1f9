"""Facts of a run beside its numbers, for a tracker: from its record and its sweep's, no secrets."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from knobs import shell
from knobs.record import BROKEN, read_config, read_study
from knobs.secrets import public, public_lines

MAX_TAG = 64  # characters
SHOWN = ("status", "best_epoch", "epochs", "seconds", "samples_per_second")  # of a summary
# Role of a run in its study -> its job type.
JOB_TYPES = {
    **{"default": "search", "search": "search"},
    **{"confirm": "confirm", "baseline": "confirm", "step": "confirm"},
    "test": "test",
}


@dataclass(frozen=True)
class About:
    """One run, as its record has it; empty where the record cannot be read.

    Args:
        choices: group -> option.
        data: its hash, the rows of its splits.
        sweep: the name of its sweep's folder; empty for a single run.
        place: in its sweep or study: number, role, arm, step, knob.
        study, question: of its study; empty where there is none.
        command: makes a single run of the same config; empty where it cannot be shown.
    """

    config: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str | None] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    sweep: str = ""
    place: dict[str, Any] = field(default_factory=dict)
    study: str = ""
    question: str = ""
    command: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """Return the names of data and model, as far as they are known."""
        data = str((self.config.get("data") or {}).get("name") or "")
        return data, str(self.choices.get("model") or "")

    @property
    def job_type(self) -> str:
        """Return train, search, confirm, test or refit."""
        if self.config.get("refit"):
            return "refit"
        return JOB_TYPES.get(self.place.get("role"), "train")

    @property
    def tags(self) -> list[str]:
        """Return data, model and the study or the sweep: few, the same for all runs of a sweep."""
        tags = (tag[:MAX_TAG] for tag in (*self.names, self.study or self.sweep))
        return list(dict.fromkeys(filter(None, tags)))

    @property
    def notes(self) -> str:
        """Return the command and the question."""
        question = f"Question: {self.question}" if self.question else ""
        return "\n\n".join(filter(None, [question, self.command]))

    def config_with(self, revision: str | None, host: str) -> dict[str, Any]:
        """Return the config with the options, and how and where the run was started."""
        started = {"command": self.command, "commit": revision, "host": host}
        if self.sweep:
            started |= {"sweep": self.sweep, "study": self.study, **self.place}
        started = {key: value for key, value in started.items() if value not in (None, "")}
        return self.config | {"choices": self.choices, "started": started}


def read(folder: Path, config: dict[str, Any]) -> About:
    """Return what the record in a run's folder says.

    Args:
        config: resolved, and free of secrets.
    """
    try:
        document = read_config(folder)
        choices, data, place = (dict(document.get(k) or {}) for k in ("choices", "data", "run"))
        lines = public_lines(document.get("overrides") or ())
    except (*BROKEN, TypeError, AttributeError):
        return About(config)
    command = shell.command(lines)
    sweep, study = folder.resolve().parent, {}
    if not place:
        return About(config, choices, data, command=command)
    with contextlib.suppress(BROKEN):  # a grid has none
        study = public(read_study(sweep))
    names = {key: str(study.get(key) or "") for key in ("study", "question")}
    return About(config, choices, data, public(sweep.name), place, command=command, **names)


def summarized(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what W&B's summary shows beside the last metrics, of a run's own summary."""
    best = {f"best/{name}": value for name, value in summary["metrics"].items()}
    about = {name: summary[name] for name in SHOWN}
    judged = summary["objective"] or {}  # a refit has none
    about |= {"objective": judged.get("value"), "metric": judged.get("metric")}
    return best | about | (summary["test"] or {})
