"""Sentences and cells that the page, the terminal, Markdown and W&B share."""

import statistics
from collections import Counter
from collections.abc import Sequence

from knobs.report.conclusions import Candidate, Importance, KnobImportance, Report
from knobs.report.records import FRESH, RunRecord, Sweep
from knobs.words import count, duration, listed, number, percent, sd

MARKS = {"act": "!", "note": "·", "ok": "✓"}
EFFECTS = ("failure effect", "total-order effect", "expected gain")


def what_ran(sweep: Sweep) -> str:
    """Return `45 runs: 43 finished, 2 diverged`."""
    ends = Counter(run.status for run in sweep.runs)
    parts = ", ".join(f"{n:,} {status.replace('_', ' ')}" for status, n in ends.most_common())
    return f"{count(len(sweep.runs), 'run')}: {parts}"


def spent(sweep: Sweep) -> str:
    """Return `40 runs to search, 100 to confirm, 12 s of training`: what a study has cost."""
    fresh = sum(run.role in FRESH for run in sweep.runs)
    test = sum(run.role == "test" for run in sweep.runs)
    parts = [f"{count(len(sweep.runs) - fresh - test, 'run')} to search"] * bool(sweep.study)
    if saved := sum(stop.saved for stop in sweep.study.stops.values()) if sweep.study else 0:
        parts[0] += f" ({saved:,} saved)"
    parts += [f"{fresh:,} to confirm"] * bool(fresh) + [f"{test:,} on the test split"] * bool(test)
    seconds = duration(sum(run.seconds or 0.0 for run in sweep.runs))
    return ", ".join([*parts, f"{seconds} of training"])


def tested(sweep: Sweep, winner: Candidate | None) -> str:
    """Say which runs read the test split, and what stood there."""
    read = [run for run in sweep.runs if run.tests]
    looks = max(sweep.test_looks, len(read))
    times = f"evaluated on test {count(looks, 'time')}"
    if not read:
        alone = f"None of these runs read the test split; by others here its rows were {times}."
        return alone if looks else "The test split has not been read."
    more = f" Among all runs here, this data was {times}." if looks > len(read) else ""
    return _tested(read, winner) + more


def _tested(read: Sequence[RunRecord], winner: Candidate | None) -> str:
    if len(read) > 1:
        return (
            f"The test split was read by {len(read)} runs: a figure chosen among them is "
            f"{biased(len(read))}. Read it once, for the winner alone."
        )
    figures = [f"{name} {number(value, 4)}" for name, value in list(read[0].tests.items())[:3]]
    whom = "by one run"
    if winner and winner.confirmed:
        mine = read[0].setting == winner.runs[0].setting
        whom = "for the confirmed winner" if mine else f"not for {winner.name} but another setting"
    return f"The test split was read once, {whom}: {listed(figures)} (run {read[0].id})."


def biased(n: int) -> str:
    """Return what a value that was chosen among n is."""
    return f"optimistically biased (selected as the best of {n})"


def ranked(report: Report) -> str:
    """Say what the ranks of a study rest on; empty where nothing was confirmed."""
    entries = [entry for entry in report.sweep.entries if entry.rank is not None]
    first = sum(entry.confirmed for entry in entries)
    if not first or first == len(entries):
        return ""
    return (
        f"{count(first, 'setting')} ran again with fresh seeds and rank{'s' * (first == 1)} by "
        f"these alone; {count(len(entries) - first, 'other')} behind, by the search's own runs."
    )


def expected(report: Report) -> str:
    """Return `Run 3: expect val/accuracy 0.9060 ± 0.0114`, the mean of its setting's seeds.

    The run itself is the best of them, which another one is not likely to reach.
    """
    recipe, objective, winner = report.recipe, report.sweep.objective, report.verdict.winner
    text = f"Run {recipe.run}: expect {objective.metric}"
    n, best = len(winner.values), objective.value(recipe.value)
    if n < 2:
        return f"{text} {best}"
    spread = sd(statistics.stdev(winner.values.values()))
    return f"{text} {objective.value(winner.mean)} ± {spread} (mean of {n} seeds; it had {best})"


def answered(importance: Importance) -> tuple[str, ...]:
    """Return EFFECTS, without the gain where no default was run that lies within the ranges."""
    return EFFECTS if any(knob.gain for knob in importance.knobs) else EFFECTS[:2]


def cells(report: Report, knob: KnobImportance) -> list[str]:
    """Return a knob's answers as text: `34 % (10 to 51)`."""
    amount = report.sweep.objective.amount
    texts, answers = [], (knob.breaks, knob.moves, knob.gain)
    for effect, column in zip(answers, answered(report.importance), strict=False):
        if effect is None:
            texts.append("-")
        elif column != EFFECTS[2]:
            span = f"{100 * effect.low:.0f} to {100 * effect.high:.0f}"
            texts.append(f"{percent(effect.value)} ({span})")
        else:
            span = f"{amount(effect.low, unit=False)} to {amount(effect.high, unit=False)}"
            texts.append(f"{amount(effect.value)} ({span})")
    return texts


def decided(report: Report) -> str:
    """Say which knob matters most, or how many more runs would tell."""
    importance, first = report.importance, report.importance.knobs[0]
    name = report.sweep.short(first.name)
    if len(importance.knobs) == 1:
        return f"{name} is the only knob that was searched."
    if alone := [knob.name for knob in importance.knobs if knob.moves is None]:
        return f"{report.sweep.short(alone[0])} is the only knob that varied."
    if importance.decided == "no":
        more = importance.more
        if more == 0:  # though the process is sure enough
            two = "the Gaussian process and the random forest disagree"
            return f"Which knob has the largest total-order effect is not decided: {two}."
        rest = f"about {count(more, 'more run')} would tell" if more else "about equal"
        return f"Which knob has the largest total-order effect is not decided; {rest}."
    has = "has" if importance.decided == "sure" else "probably has"
    share = f"probability {min(99, round(100 * first.p_top))} %"
    return f"{name} {has} the largest total-order effect ({share})."


def trusted(report: Report) -> tuple[str, ...]:
    """Say how well the model behind the importance predicts; nothing where that is not known."""
    r2 = report.importance.predicts
    left_out = "The model behind this predicts settings left out of it with R2"
    return (
        ()
        if r2 is None
        else (f"{left_out} {number(r2, 2)} (1 is perfect, 0 no better than the mean).",)
    )


def code_of_its_own(report: Report) -> tuple[str, ...]:
    """Say that a command needs code which only its reader can admit; a record cannot."""
    code = report.recipe.code if report.recipe else ()
    if not code:
        return ()
    return (
        f"This run used code of its own ({', '.join(code)}); "
        "read it, then export KNOBS_ALLOW yourself.",
    )
