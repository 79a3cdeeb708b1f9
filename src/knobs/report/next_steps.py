"""Commands to copy, made from records: the next runs, and the best run again.

A record may be anyone's, so a word of it reaches a command only in a shell's quotes, and a command
with a word that cannot be shown as it is (line breaks, control characters) is left out. What a
command needs beside its overrides comes from the process that prints: see shell.command.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from knobs.identity import key_of, under
from knobs.report.compare import comparable, constant_of
from knobs.report.conclusions import Advice, Candidate, Finding, Recipe, Verdict
from knobs.report.fairness import LEAST_EXPLORED, troubles
from knobs.report.leaderboard import REPEATS
from knobs.report.records import Knob, RunRecord, Sweep, knob_value, splits_vary
from knobs.report.stats import LEAST_PAIRS as SEEDS
from knobs.shell import command, literal, quoted
from knobs.targets import not_admitted
from knobs.words import count, listed, short

# Of an override: where a run is kept, or which sweep it was part of; not what it computes.
NOT_REPEATED = (
    *("hydra", "sweep", "resume", "rerun", "trust", "retry_failed", "keep_going"),
    *("zip", "skip", "study", "search", "task", "test"),
)
PLACE = ("hydra", "sweep")  # where a study is kept
MOST = 5
INTEGER = re.compile(r"-?\d+")
PLAIN_VALUE = re.compile(r"[\w.+-]+")
PLAIN_CHOICE = re.compile(r"[\w.+/%-]+|[\[{].*")  # no string that Hydra would want in quotes


def next_steps(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> list[Advice]:
    """Return the next commands, the most useful first."""
    if verdict.winner is None:
        return [*_on(sweep, verdict)]
    steps = [*_on(sweep, verdict), *_confirm(sweep, verdict), *_repeated(sweep, verdict, findings)]
    steps += _rebound(sweep, verdict, findings)
    steps += _for_longer(sweep, verdict, findings)
    steps = [advice for advice in steps if advice.command][: MOST - 1]
    return [*steps, *test_look(sweep, verdict)]


def _on(sweep: Sweep, verdict: Verdict) -> Iterator[Advice]:
    """Yield the command of a study that has not come to its end, which goes on."""
    study = sweep.study
    if study and study.scientific and study.asked and _folder(sweep) and _open(sweep, verdict):
        words = [line for line in study.asked if not under(key_of(line), PLACE)]
        words.append(f"hydra.sweep.dir={_folder(sweep)}")
        yield Advice("The study's own command, which goes on", command(words, many=True))


def _open(sweep: Sweep, verdict: Verdict) -> bool:
    """Tell whether runs that the comparison waits for have not ended."""
    winner = [verdict.winner] if verdict.winner else []
    every = [*winner, *(c.other for c in verdict.comparisons)]
    return any(doubt.kind == "open" for doubt in troubles(sweep, every, verdict.noise))


def test_look(sweep: Sweep, verdict: Verdict) -> list[Advice]:
    """Return the command that reads the test split for what is recommended and confirmed."""
    winner = verdict.winner
    read = any(run.tests for run in sweep.runs)
    if winner is None or len(winner.values) < SEEDS or read or _open(sweep, verdict):
        return []
    line = command([*overrides(winner.runs[0], drop=()), "test=true"])
    why = f"Read the test split, once, for {winner.name}, when all choices are made"
    return [Advice(why, line)] if line else []


def recipe(sweep: Sweep, verdict: Verdict) -> Recipe | None:
    """Return how to run the winner's best run again."""
    if verdict.winner is None:
        return None
    run = max(verdict.winner.runs, key=lambda run: sweep.objective.sign * run.value)
    digest = run.summary.get("config_hash")
    again = command(overrides(run, drop=()))
    digest = digest if isinstance(digest, str) else ""
    return Recipe(run.id, again, run.value, digest, run.versions, not_admitted(run.config))


def overrides(run: RunRecord, drop: Iterable[str] = REPEATS) -> list[str]:
    """Return a run's overrides that say what it computes."""
    dropped = (*NOT_REPEATED, *drop)
    return [line for line in run.overrides if not under(key_of(line), dropped)]


def _for_longer(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield longer or shorter runs: of a grid its best and its rivals, on the repeats they had."""
    winner = verdict.winner
    arms = sweep.study and len([arm for arm in sweep.study.arms if arm]) > 1
    factors = {} if arms else {"too short": 2, "too long": 0.5}  # of arms: see _repeated
    for check in [f.check for f in findings if f.level == "act" and f.check in factors]:
        epochs = max(1, round(factors[check] * (winner.runs[0].planned or 1)))
        longer, several = f"training.epochs={epochs}", not sweep.study and len(winner.values) > 1
        if not several:
            words = [*overrides(winner.runs[0], drop=("training.epochs",)), longer]
            yield Advice(f"The best setting for {count(epochs, 'epoch')}", command(words))
            continue
        group = [winner, *_rivals(sweep, verdict)]
        settings = [overrides(c.runs[0], drop=(*REPEATS, "training.epochs")) for c in group]
        together = _one_grid(settings)
        names = listed([c.name for c in group]) if together else "The best setting"
        words = [*(together or settings[0]), longer, *_same_repeats(winner)]
        yield Advice(f"{names} for {count(epochs, 'epoch')}", command(words, many=True))


def _rivals(sweep: Sweep, verdict: Verdict) -> list[Candidate]:
    """Return the first of the settings that the winner does not beat and that are near it."""
    open_ = [c.other for c in verdict.comparisons if c.relation != "beaten"]
    near = [c for c in open_ if comparable(sweep, verdict.noise, verdict.winner.mean, c.mean)]
    return [c for c in near if c is not verdict.default][:2]


def _confirm(sweep: Sweep, verdict: Verdict) -> Iterator[Advice]:
    """Yield more seeds for the best and for what is not significantly different from it."""
    winner, folder = verdict.winner, _folder(sweep)
    constant, sign = constant_of(sweep), sweep.objective.sign
    worthless = constant is not None and sign * (winner.mean - constant) <= 0
    if len(winner.values) >= SEEDS or worthless or _open(sweep, verdict):
        return
    if sweep.study and folder and verdict.default:
        shared = overrides(winner.runs[0], drop=(*REPEATS, *sweep.entries[0].knobs))  # data, epochs
        walk = command(["+study=confirm", f"study.walk={folder}", *shared], many=True)
        yield Advice(f"Confirm {winner.name}, one knob at a time from the default", walk)
        return
    several = (winner, *_rivals(sweep, verdict))
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
    used = {seed for c in group for seed, _, _ in c.values}
    seeds = sorted({*range(SEEDS), *used})
    if sweep.study:  # the seed that a search chose a setting by is biased in its favour
        used |= {run.seed for run in sweep.explored()}
        seeds = [seed for seed in range(SEEDS + len(used)) if seed not in used][:SEEDS]
    return _in_sweep(sweep, [*words, *_repeats(group[0].runs[0], seeds)])


def _repeats(run: RunRecord, seeds: Iterable[int]) -> list[str]:
    """Return overrides that repeat a setting, its validation split too where it can vary."""
    numbers = ",".join(map(str, seeds))
    if knob_value(run, "data.folds"):
        return [f"seed={numbers}", "data.fold=all"]
    if not splits_vary(run.config):
        return [f"seed={numbers}"]
    return [f"zip={{seed:[{numbers}],data.val_seed:[{numbers}]}}"]


def _same_repeats(winner: Candidate) -> list[str]:
    """Return overrides of the repeats that a setting ran with: else nothing compares."""
    lines = [[w for w in run.overrides if under(key_of(w), REPEATS)] for run in winner.runs]
    keyed = [{key_of(w): w.partition("=")[2] for w in words} for words in lines]
    keys = list(dict.fromkeys(key for one in keyed for key in one))
    if keys in ([], ["seed"]):
        return [f"seed={','.join(str(seed) for seed in sorted({r.seed for r in winner.runs}))}"]
    lists = {key: ",".join(one.get(key, "null") for one in keyed) for key in keys}
    if len(lists) == 1:  # a zip pairs two lists at least
        return ["=".join(item) for item in lists.items()]
    return [f"zip={{{','.join(f'{key}:[{values}]' for key, values in lists.items())}}}"]


def _in_sweep(sweep: Sweep, words: Sequence[str]) -> str:
    """Return a command whose runs join a grid that is there."""
    folder = "" if sweep.study else _folder(sweep)
    return command([*words, *([f"hydra.sweep.dir={folder}"] if folder else [])], many=True)


def _folder(sweep: Sweep) -> str:
    """Return the sweep's folder as an override's value; empty where there are several."""
    return quoted(literal(str(sweep.folders[0]))) if len(sweep.folders) == 1 else ""


def _repeated(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the same study again, with what held an arm back mended for every arm."""
    study, run = sweep.study, verdict.winner.runs[0]
    if not study or study.name in ("", "search", "confirm") or len(sweep.folders) > 1:
        return
    rivals = [verdict.winner, *(c.other for c in verdict.comparisons)]
    found = troubles(sweep, rivals, verdict.noise)
    if not found:
        return
    wider = {t.knob.name: t.knob for t in found if t.knob}
    knobs = [_widest(sweep, knob) for knob in wider.values()]
    knobs += [  # that break runs, where no arm has its best value beyond
        f.knob
        for f in findings
        if f.check == "failures" and f.level == "act" and f.knob and f.knob.name not in wider
        if all(_holds(f.knob, sweep.column(f.knob).get(c.runs[0].id)) for c in rivals)
    ]
    changed = [k.name for k in knobs]
    if study.asked:
        dropped = (*PLACE, "search.runs", "search.epochs", "search.minutes", "test", *changed)
        words = [line for line in study.asked if not under(key_of(line), dropped)]
    else:  # of an older record: as its runs tell
        searched = {k.name for space in study.arms.values() for k in space}
        dropped = (*REPEATS, *study.scientific, *searched)
        words = [f"+study={quoted(study.name)}", *overrides(run, drop=dropped), *_asked(sweep)]
    words += map(range_of, knobs)
    kinds = {trouble.kind for trouble in found}
    reasons = [f"{k.name} from {short(k.low)} to {short(k.high)}" for k in knobs]
    if "short" in kinds and "training.epochs" not in study.scientific:
        epochs = 2 * (run.planned or 1)
        words = [w for w in words if key_of(w) != "training.epochs"] + [f"training.epochs={epochs}"]
        reasons.append(count(epochs, "epoch"))
    runs = len(sweep.explored())
    if "few" in kinds:  # twice as many, and as many in each arm as are not few again
        runs = max(2 * runs, LEAST_EXPLORED * len(study.arms))
        reasons.append(count(runs, "run"))
    why = f"The same study again, with {listed(reasons, 8)}" if reasons else ""
    if why:
        yield Advice(why, command([*words, f"search.runs={runs}"], many=True))


def _widest(sweep: Sweep, knob: Knob) -> Knob:
    """Return a range that holds those of all arms: a command line has one for all."""
    ranges = [k for space in sweep.study.arms.values() for k in space if k.name == knob.name]
    return replace(
        knob,
        low=min([knob.low, *(k.low for k in ranges if k.low is not None)]),
        high=max([knob.high, *(k.high for k in ranges if k.high is not None)]),
    )


def _holds(knob: Knob, value: float | None) -> bool:
    return value is None or knob.low <= value <= knob.high


def _asked(sweep: Sweep) -> list[str]:
    """Return what a study compares as overrides: `optimizer=adam,momentum`."""
    asked: dict[str, dict[str, None]] = {}
    for arm in sweep.study.arms:
        for line in arm.split(" "):
            key, _, value = line.partition("=")
            if key in sweep.study.scientific:
                asked.setdefault(key, {})[value] = None
    return [f"{key}={','.join(values)}" for key, values in asked.items()]


def _rebound(sweep: Sweep, verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the ranges that checks propose: a search's in one search, a grid's each for itself."""
    asked = [f for f in findings if f.level == "act" and f.knob is not None]
    run = verdict.winner.runs[0]
    if sweep.study and sweep.study.name not in ("", "search", "confirm"):
        return  # see _repeated
    if sweep.study and asked:
        new = {f.knob.name: f.knob for f in reversed(asked)}  # failures give way to bounds
        knobs = {k.name: k for k in sweep.space_of(verdict.winner.arm)} | new
        words = ["hydra/sweeper=search", *overrides(run, drop=(*REPEATS, *knobs))]
        words += map(range_of, knobs.values())
        words += [f"search.runs={len(sweep.explored(verdict.winner.arm))}"]
        ranges = [f"{k.name} from {short(k.low)} to {short(k.high)}" for k in new.values()]
        yield Advice(f"Search {listed(ranges[::-1], 8)}", command(words, many=True))
        return
    for finding in asked:
        if finding.check == "boundary":
            words = overrides(run, drop=(*REPEATS, finding.knob.name))
            values = ",".join(_grid(sweep, finding.knob))
            words += [f"{finding.knob.name}={values}", *_same_repeats(verdict.winner)]
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
