"""Check what a search has brought: over the default, of any knob at all, of the model behind it."""

import math
from collections.abc import Iterator

from knobs.report.conclusions import Finding, Importance, Verdict
from knobs.report.outlook import expectations, rank_correlation, replay, started_from
from knobs.report.records import Sweep
from knobs.words import count, number, percent

NO_EFFECT = 0.05  # p of "no knob has an effect" from which on it stands: the usual level of a test
PREDICTS = 0.5  # R2 of left-out settings: below it noise and misfit are more than what is explained
SAVES = 0.25  # of the epochs: less is not worth the best run
MISSES = 0.1  # of the orders in which a pruner may end the best run


def health(sweep: Sweep, verdict: Verdict, importance: Importance | None) -> Iterator[Finding]:
    """Make these checks."""
    yield from prior(sweep)
    yield from over_default(sweep, verdict)
    yield from any_effect(importance)
    yield from predicts(importance)
    yield from pruning(sweep, verdict)


def prior(sweep: Sweep) -> Iterator[Finding]:
    """Check how well what a search started from agrees with its runs."""
    study = sweep.study
    if not (study and study.liked):
        return
    text = f"Started from {started_from(study.tasks, study.sweeps)}"
    pairs = expectations(sweep, sweep.runs)
    tau = rank_correlation(pairs)
    if tau is None:
        yield Finding("prior", "ok", f"{text}.")
    else:
        agree = f"{text}; Kendall's tau of what these expect with {count(len(pairs), 'run')} here"
        level = "ok" if tau > 0 else "note"
        against = "" if tau > 0 else ": these runs speak against it, and its weight falls"
        yield Finding("prior", level, f"{agree} is {number(tau, 2)}{against}.")


def over_default(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Check whether anything improved on the default, and by how much."""
    winner, name, amount = verdict.winner, "over the default", sweep.objective.amount
    if winner is None:
        return
    pairs = [c.paired for c in verdict.comparisons if c.other is verdict.default and c.paired]
    if verdict.default and pairs and pairs[0].low is not None:
        gain = pairs[0]
        span = f"{amount(gain.low, unit=False)} to {amount(gain.high)}, {gain.n} pairs"
        text = f"{amount(gain.mean)} over the default ({span})"
        if gain.low > 0:
            yield Finding(name, "ok", f"The best setting is {text}.")
        else:
            yield Finding(name, "note", f"Nothing is shown to beat the default: {text}.")
        return
    defaults = [r for r in sweep.explored(winner.arm) if r.role == "default" and r.ok]
    others = [r for r in sweep.explored(winner.arm) if r.role != "default" and r.ok]
    if not defaults or not others or winner.confirmed:
        return
    sign, start = sweep.objective.sign, defaults[0].value
    gain = max(sign * (run.value - start) for run in others)
    tried = count(len(others), "other run")
    if gain <= 0:
        yield Finding(name, "note", f"Nothing beat the default: {tried}, one run of it.")
        return
    text = f"The best of {tried} is {amount(gain)} over the default's one run"
    yield Finding(name, "note", f"{text}: chosen as the best, so less is to be expected.")


def any_effect(importance: Importance | None) -> Iterator[Finding]:
    """Check whether any knob has an effect on the objective among the runs that worked."""
    p, name = importance.any_effect if importance else None, "any effect"
    if p is None:
        return
    rest = f"p = {number(p, 2)}, a permutation test on {count(importance.settings, 'setting')}"
    if p < NO_EFFECT:
        yield Finding(name, "ok", f"The knobs have an effect on the objective ({rest}).")
        return
    text = f"No effect of any knob on the objective can be told from noise ({rest})."
    yield Finding(name, "note", text, "Widen the ranges, search other knobs, or repeat settings.")


def predicts(importance: Importance | None) -> Iterator[Finding]:
    """Check whether the model behind the importance predicts the settings left out of it."""
    r2, name = importance.predicts if importance else None, "prediction"
    if r2 is None:
        return
    text = f"The model of the response predicts left-out settings with R2 {number(r2, 2)}"
    if r2 >= PREDICTS:
        yield Finding(name, "ok", f"{text}.")
    elif r2 > 0:
        yield Finding(name, "note", f"{text}: less than half, so the importance is uncertain.")
    else:
        text += ", no better than their mean: the importance says little."
        yield Finding(name, "note", text)


def pruning(sweep: Sweep, verdict: Verdict) -> Iterator[Finding]:
    """Check what pruning would have saved here, and what it would have lost."""
    arm = verdict.winner.arm if verdict.winner else None
    found = replay(sweep, sweep.explored(arm)) if sweep.study and arm is not None else None
    if found is None:
        return
    text = (
        f"ASHA would have saved {percent(found.saved)} of the epochs of {found.runs} runs, ending "
        f"the best run in {percent(found.missed)} of the orders in which they could have come"
    )
    if found.missed:
        far = sweep.objective.amount(found.loss) if math.isfinite(found.loss) else "all"
        text += f" (it would then have lost {far})"
    worth = found.saved >= SAVES and found.missed <= MISSES
    do = "Search with search.pruner=asha." if worth else ""
    yield Finding("pruning", "note" if worth else "ok", f"{text}.", do)
