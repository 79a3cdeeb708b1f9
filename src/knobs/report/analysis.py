"""A sweep's folders -> what its report says, be it the page, the terminal or report.json."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from knobs.report.checks import checks
from knobs.report.conclusions import Importance, Report
from knobs.report.folds import over_folds
from knobs.report.importance.effects import importance
from knobs.report.importance.further import next_run
from knobs.report.leaderboard import COLUMNS
from knobs.report.next_steps import next_steps, recipe
from knobs.report.noise import of_split
from knobs.report.read import read_sweep
from knobs.report.records import Knob, RunRecord, Sweep
from knobs.report.run.read import read_files
from knobs.report.sentences import spent, tested
from knobs.report.verdict import verdict

LEAST_RUNS = 8  # fewer say nothing of which knob matters
VERSION = 1  # of report.json


def make(folders: Sequence[Path]) -> Report:
    """Read sweeps and draw the conclusions.

    Raises:
        ConfigError: there is no run in these folders.
    """
    sweep = read_sweep(folders)
    answer = verdict(sweep)
    about = answer.winner.arm if answer.winner else ""
    ranked = rank(sweep, about)
    if ranked is None and about:  # few runs an arm: all arms together, the question a knob too
        ranked, about = rank(sweep, None), ""
    searched = further(sweep, answer.winner.arm) if sweep.study and answer.winner else None
    findings = tuple(checks(sweep, answer, ranked, searched))
    advice = tuple(next_steps(sweep, answer, findings))
    return Report(sweep, answer, ranked, about, findings, advice, recipe(sweep, answer))


def rank(sweep: Sweep, arm: str | None) -> Importance | None:
    """Rank the knobs by the runs of an arm, or of all, that spread over its space."""
    knobs = list(sweep.questions() + sweep.space if arm is None else sweep.space_of(arm))
    ended = [run for run in sweep.explored(arm) if run.value is not None or run.broke]
    if not knobs or sum(run.value is not None for run in ended) < LEAST_RUNS:
        return None
    rows = _rows(sweep, knobs, ended)
    starts = (row for run, row in zip(ended, rows, strict=True) if run.role == "default")
    start = None if arm is None else next(starts, None)  # each arm has a default of its own
    values = [run.value for run in ended]
    pruned = [run.status == "pruned" for run in ended]
    import scipy.linalg  # noqa: F401  # with threads of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits  # of scikit-learn

    with threadpool_limits(1, "blas"):  # matrices of some hundred rows: threads wait for each other
        return importance(knobs, rows, values, sweep.objective.mode, start, pruned)


def further(sweep: Sweep, arm: str) -> tuple[float, float] | None:
    """Return the expected gain of a further run of an arm's search, and the noise of its split.

    None where one of them cannot be told: with few runs, or of a metric whose noise is not known.
    """
    runs = [run for run in sweep.explored(arm) if run.value is not None or run.broke]
    good = [run for run in runs if run.ok]
    if len(good) < LEAST_RUNS or not sweep.space_of(arm) or arm in sweep.study.stops:
        return None
    best = max(good, key=lambda run: sweep.objective.sign * run.value)
    noise = of_split(read_files(best.folder))
    if not noise:
        return None
    knobs, mode = sweep.space_of(arm), sweep.objective.mode
    pruned = [run.status == "pruned" for run in runs]
    gain = next_run(knobs, _rows(sweep, knobs, runs), [r.value for r in runs], mode, pruned)
    return None if gain is None else (gain, noise)


def _rows(sweep: Sweep, knobs: Sequence[Knob], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the values of knobs that each run has."""
    columns = {knob.name: sweep.column(knob) for knob in knobs}
    return [{name: of[run.id] for name, of in columns.items() if run.id in of} for run in runs]


def plain(report: Report) -> dict[str, Any]:
    """Return report.json: the same for programs. Numbers are in the objective's own unit."""
    sweep, answer = report.sweep, report.verdict
    return {
        "version": VERSION,
        "sweeps": [str(folder) for folder in sweep.folders],
        "objective": asdict(sweep.objective),
        "question": sweep.question,
        "spent": spent(sweep),
        "stops": {a: asdict(s) for a, s in sweep.study.stops.items()} if sweep.study else {},
        "verdict": {
            "headline": answer.headline,
            "more": list(answer.more),
            "undermines": list(answer.undermines),
            "winner": answer.winner and answer.winner.name,
            "confirmed": bool(answer.winner and answer.winner.confirmed),
            "comparisons": [
                {"other": c.other.name, "relation": c.relation}
                | (asdict(c.paired) if c.paired else {})
                for c in answer.comparisons
            ],
            "steps": [asdict(step) for step in answer.steps],
            "noise": asdict(answer.noise),
            "test": tested(sweep, answer.winner),
        },
        "leaderboard": [
            {column.name: getattr(entry, column.name) for column in COLUMNS}
            | {"runs": [run.folder.name for run in entry.runs]}
            | ({"folds": asdict(found)} if (found := over_folds(entry.runs)) else {})
            for entry in sweep.entries
        ],
        "importance": report.importance and _plain(report.importance, report.about),
        "checks": [asdict(finding) for finding in report.findings],
        "next": [asdict(advice) for advice in report.advice],
        "reproduce": report.recipe and asdict(report.recipe),
    }


def _plain(ranked: Importance, about: str) -> dict[str, Any]:
    pairs = [{"knobs": list(pair), **asdict(e)} for pair, e in ranked.interactions.items()]
    return {"arm": about, **asdict(replace(ranked, interactions={})), "interactions": pairs}
