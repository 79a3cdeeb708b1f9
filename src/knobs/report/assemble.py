"""A sweep's folders -> what its report says, be it the page, the terminal or report.json."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knobs.report.advise import Advice, Recipe, advise, recipe
from knobs.report.checks import Finding, checks
from knobs.report.compare import Comparison
from knobs.report.gather import Sweep, gather, knob_of
from knobs.report.importance import Importance, importance
from knobs.report.verdict import Verdict, tested, verdict

LEAST_RUNS = 8  # fewer say nothing of which knob matters
VERSION = 1  # of report.json


@dataclass(frozen=True)
class Report:
    """Everything that is said of a sweep.

    Args:
        importance: None where there were too few runs or knobs to tell.
        about: the arm that importance is of; "" where the runs have no arms.
    """

    sweep: Sweep
    verdict: Verdict
    importance: Importance | None
    about: str
    findings: tuple[Finding, ...]
    advice: tuple[Advice, ...]
    recipe: Recipe | None


def make(folders: Sequence[Path]) -> Report:
    """Read sweeps and draw the conclusions.

    Raises:
        ConfigError: there is no run in these folders.
    """
    sweep = gather(folders)
    answer = verdict(sweep)
    arm = answer.winner.arm if answer.winner else ""
    ranked, about = rank(sweep, arm), arm
    if ranked is None and arm:  # few runs an arm: all arms together, the question a knob too
        ranked, about = rank(sweep, None), ""
    findings = checks(sweep, answer, ranked)
    return Report(
        sweep=sweep,
        verdict=answer,
        importance=ranked,
        about=about,
        findings=tuple(findings),
        advice=tuple(advise(sweep, answer, findings)),
        recipe=recipe(sweep, answer),
    )


def rank(sweep: Sweep, arm: str | None) -> Importance | None:
    """Which knob matters, from the runs of an arm, or of all, that spread over its space."""
    knobs = list(sweep.questions() + sweep.space if arm is None else sweep.space_of(arm))
    ended = [r for r in sweep.explored(arm) if r.value is not None or r.broke]
    rows = [{k.name: v for k in knobs if (v := knob_of(run, k)) is not None} for run in ended]
    if not knobs or sum(run.value is not None for run in ended) < LEAST_RUNS:
        return None
    starts = (row for run, row in zip(ended, rows, strict=True) if run.role == "default")
    start = None if arm is None else next(starts, None)  # each arm has a default of its own
    values = [run.value for run in ended]
    pruned = [run.row.status == "pruned" for run in ended]
    return importance(knobs, rows, values, sweep.objective.mode, start, pruned)


def plain(report: Report) -> dict[str, Any]:
    """report.json: the same for programs. Numbers are in the objective's own unit."""
    sweep, answer = report.sweep, report.verdict
    return {
        "version": VERSION,
        "sweeps": [str(folder) for folder in sweep.folders],
        "objective": dataclasses.asdict(sweep.objective),
        "question": sweep.study.question if sweep.study else "",
        "verdict": {
            "headline": answer.headline,
            "more": list(answer.more),
            "winner": answer.winner and answer.winner.name,
            "confirmed": bool(answer.winner and answer.winner.confirmed),
            "comparisons": [_comparison(c) for c in answer.comparisons],
            "steps": [
                {"knob": s.knob, "values": s.values, "gain": s.gain and dataclasses.asdict(s.gain)}
                for s in answer.steps
            ],
            "noise": dataclasses.asdict(answer.noise),
            "test": tested(sweep, answer.winner),
        },
        "leaderboard": [
            {
                "rank": entry.rank,
                "mean": entry.mean,
                "sd": entry.sd,
                "n": entry.n,
                "confirmed": entry.confirmed,
                "knobs": entry.knobs,
                "best_epoch": entry.best_epoch,
                "seconds": entry.seconds,
                "status": entry.status,
                "runs": [run.folder.name for run in entry.runs],
            }
            for entry in sweep.entries
        ],
        "importance": _importance(report),
        "checks": [dataclasses.asdict(finding) for finding in report.findings],
        "next": [dataclasses.asdict(advice) for advice in report.advice],
        "reproduce": report.recipe and dataclasses.asdict(report.recipe),
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    pairs = dataclasses.asdict(c.paired) if c.paired else {}
    return {"other": c.other.name, "relation": c.relation, **pairs}


def _importance(report: Report) -> dict[str, Any] | None:
    found = report.importance
    if found is None:
        return None
    pairs = [
        {"knobs": list(pair), **dataclasses.asdict(estimate)}
        for pair, estimate in found.interactions.items()
    ]
    flat = dataclasses.replace(found, interactions={})
    return {"arm": report.about, **dataclasses.asdict(flat), "interactions": pairs}
