"""Commands to copy, made from records: the next runs, and the best run again.

A record may be anyone's, so a word of it reaches a command only in a shell's quotes, and a command
with a word that cannot be shown as it is (line breaks, control characters) is left out. What a
command needs beside its overrides comes from the process that prints: see shell.command.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from knobs.identity import key_of, under
from knobs.report.conclusions import Advice, Candidate, Finding, Recipe, Verdict
from knobs.report.records import Knob, RunRecord, Sweep
from knobs.report.stats import LEAST_PAIRS as SEEDS
from knobs.shell import command, literal, quoted
from knobs.targets import not_admitted
from knobs.words import count, listed, short

# Of an override: where a run is kept, or which sweep it was part of; not what it computes.
NOT_REPEATED = (
    *("hydra", "sweep", "resume", "rerun", "trust", "retry_failed", "keep_going"),
    *("zip", "skip", "study", "search", "task", "test"),
)
MOST = 5
INTEGER = re.compile(r"-?\d+")
PLAIN_VALUE = re.compile(r"[\w.+-]+")
PLAIN_CHOICE = re.compile(r"[\w.+/%-]+|[\[{].*")  # no string that Hydra would want in quotes


def next_steps(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> list[Advice]:
    """Return the next commands, the most useful first."""
    if verdict.winner is None:
        return []
    steps = [*_confirm(sweep, verdict), *_rebound(sweep, verdict, findings)]
    run = verdict.winner.runs[0]
    factors = {"too short": 2, "too long": 0.5}
    for check in [f.check for f in findings if f.level == "act" and f.check in factors]:
        epochs = max(1, round(factors[check] * (run.planned or 1)))
        words = [*overrides(run, drop=("training.epochs",)), f"training.epochs={epochs}"]
        steps.append(Advice(f"The best setting for {count(epochs, 'epoch')}", command(words)))
    if len(verdict.winner.values) >= SEEDS and not any(run.tests for run in sweep.runs):
        words = [*overrides(run, drop=()), "test=true"]
        steps.append(Advice("Read the test split, once, when all choices are made", command(words)))
    return [advice for advice in steps if advice.command][:MOST]


def recipe(sweep: Sweep, verdict: Verdict) -> Recipe | None:
    """Return how to run the winner's best run again."""
    if verdict.winner is None:
        return None
    run = max(verdict.winner.runs, key=lambda run: sweep.objective.sign * run.value)
    digest = run.summary.get("config_hash")
    again = command(overrides(run, drop=()))
    digest = digest if isinstance(digest, str) else ""
    return Recipe(run.id, again, run.value, digest, run.versions, not_admitted(run.config))


def overrides(run: RunRecord, drop: Iterable[str] = ("seed",)) -> list[str]:
    """Return a run's overrides that say what it computes; of a setting that ran on folds, all."""
    dropped = (*NOT_REPEATED, *drop)
    kept = [line for line in run.overrides if not under(key_of(line), dropped)]
    return ["data.fold=all" if drop and key_of(one) == "data.fold" else one for one in kept]


def _confirm(sweep: Sweep, verdict: Verdict) -> Iterator[Advice]:
    """Yield more seeds for the best and for what is not significantly different from it."""
    winner, folder = verdict.winner, _folder(sweep)
    if len(winner.values) >= SEEDS:
        return
    if sweep.study and folder and verdict.default:
        shared = overrides(winner.runs[0], drop=("seed", *sweep.entries[0].knobs))  # data, epochs
        walk = command(["+study=confirm", f"study.walk={folder}", *shared], many=True)
        yield Advice(f"Confirm {winner.name}, one knob at a time from the default", walk)
        return
    open_ = [c.other for c in verdict.comparisons if c.relation != "beaten"]
    rivals = [c for c in open_ if c is not verdict.default][:2]
    several = (winner, *rivals)
    settings = [overrides(c.runs[0]) for c in several]
    together = _one_grid(settings)
    each = zip(((c,) for c in several), settings, strict=True)
    for group, words in [(several, together)] if together else each:
        why = f"Confirm {listed([c.name for c in group])} with {SEEDS} seeds"
        yield Advice(why, _seeds(sweep, group, words))


def _one_grid(settings: Sequence[Sequence[str]]) -> list[str]:
    """Return overrides of settings that differ in one plain value as those of a grid; else none."""
    keyed = [dict(word.partition("=")[::2] for word in words) for words in settings]
    if len({tuple(words) for words in keyed}) != 1:
        return []
    grid = {key: list(dict.fromkeys(words[key] for words in keyed)) for key in keyed[0]}
    differ = [values for values in grid.values() if len(values) > 1]
    if len(differ) != 1 or not all(map(PLAIN_VALUE.fullmatch, differ[0])):
        return []
    return [f"{key}={','.join(values)}" for key, values in grid.items()]


def _seeds(sweep: Sweep, group: Sequence[Candidate], words: Sequence[str]) -> str:
    """Give settings the seeds that the others get too, in the same sweep."""
    used = {seed for c in group for seed in c.values}
    seeds = sorted({*range(SEEDS), *used})
    if sweep.study:  # the seed that a search chose a setting by is biased in its favour
        seeds = [seed for seed in range(SEEDS + len(used)) if seed not in used][:SEEDS]
    return _in_sweep(sweep, [*words, f"seed={','.join(map(str, seeds))}"])


def _in_sweep(sweep: Sweep, words: Sequence[str]) -> str:
    """Return a command whose runs join a grid that is there."""
    folder = "" if sweep.study else _folder(sweep)
    return command([*words, *([f"hydra.sweep.dir={folder}"] if folder else [])], many=True)


def _folder(sweep: Sweep) -> str:
    """Return the sweep's folder as an override's value; empty where there are several."""
    return quoted(literal(str(sweep.folders[0]))) if len(sweep.folders) == 1 else ""


def _rebound(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the ranges that checks propose: a study's in one search, a grid's each for itself."""
    asked = [f for f in findings if f.level == "act" and f.knob is not None]
    run = verdict.winner.runs[0]
    if sweep.study and asked:
        new = {f.knob.name: f.knob for f in reversed(asked)}  # failures give way to bounds
        knobs = {k.name: k for k in sweep.space_of(verdict.winner.arm)} | new
        words = ["hydra/sweeper=search", *overrides(run, drop=("seed", "data.fold", *knobs))]
        words += map(range_of, knobs.values())
        words += [f"search.runs={len(sweep.explored(verdict.winner.arm))}"]
        ranges = [f"{k.name} from {short(k.low)} to {short(k.high)}" for k in new.values()]
        yield Advice(f"Search {listed(ranges[::-1], 8)}", command(words, many=True))
        return
    for finding in asked:
        if finding.check == "boundary":
            words = overrides(run, drop=("seed", finding.knob.name))
            values = ",".join(_grid(sweep, finding.knob))
            seeds = ",".join(map(str, sorted(verdict.winner.values)))  # else nothing compares
            words += [f"{finding.knob.name}={values}", f"seed={seeds}"]
            yield Advice(finding.do.rstrip("."), _in_sweep(sweep, words))


def range_of(knob: Knob) -> str:
    """Return a knob's range as a search takes it: `optimizer.lr=tag(log,interval(0.0001,0.01))`."""
    if knob.choices is not None:
        whole = all(map(INTEGER.fullmatch, knob.choices))  # 0, 0.1: the first is 0.0
        texts = [c if whole or not INTEGER.fullmatch(c) else f"{c}.0" for c in knob.choices]
        texts = [text if PLAIN_CHOICE.fullmatch(text) else quoted(text) for text in texts]
        return f"{knob.name}={','.join(texts)}"
    scale = "log" if knob.log else "linear"
    if knob.integer:
        return f"{knob.name}=tag({scale},int(interval({round(knob.low)},{round(knob.high)})))"
    return f"{knob.name}=tag({scale},interval({float(knob.low)!r},{float(knob.high)!r}))"


def _grid(sweep: Sweep, wider: Knob) -> list[str]:
    """Return the bound that was best and two values beyond it."""
    tried = sorted({*sweep.column(wider).values()})
    low, high = (tried[-1], wider.high) if wider.high > tried[-1] else (wider.low, tried[0])
    between = (low * high) ** 0.5 if wider.log else (low + high) / 2
    shown = [str(round(v)) if wider.integer else f"{v:.2g}" for v in (low, between, high)]
    return list(dict.fromkeys(shown))
