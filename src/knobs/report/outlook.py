"""Estimates from the runs of a search of what other runs would have brought."""

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knobs.report.records import Objective, RunRecord, Stop, Sweep
from knobs.search.pruning import Pruner, behind
from knobs.words import count, percent

ALIKE = ("random", "sobol")  # phases of a search whose runs are drawn without a look at the others
LEAST = 8  # runs, below which nothing is estimated
UPPER = 0.9  # quantile of the gain
SPACINGS = 5  # of the largest values, which the tail is fitted to
DRAWS = 4000  # simulated searches: the standard error of UPPER is 0.005
SIMULATED = 200  # runs of such a search at most: beyond, its quantile no longer changes
ORDERS = 50  # in which the runs are replayed: a share of them has a standard error of at most .07


@dataclass(frozen=True)
class Gain:
    """The gain that as many runs again would bring over the best of n.

    Args:
        chance: of a better value; 1/2 without ties.
        mean: expected gain, 0 where there is none; se: its jackknife standard error.
        high: in UPPER of all cases the gain is no larger, if the upper tail is exponential; in
            more of them where it is lighter, as that of a metric with a ceiling is.
    """

    chance: float
    mean: float
    se: float
    high: float


def started_from(tasks: int, sweeps: int) -> str:
    """Return what a search knew before its first run: `what 53 other tasks liked`."""
    return f"what {count(sweeps, 'earlier sweep') if sweeps else count(tasks, 'other task')} liked"


def expectations(sweep: Sweep, runs: Sequence[RunRecord]) -> list[tuple[float, RunRecord]]:
    """Return what a search's prior expected of runs that have a value, each a score and its run."""
    liked = sweep.study.liked if sweep.study else {}
    scores = ((liked.get(_number(run)), run) for run in runs if run.ok and run.value is not None)
    return [(score, run) for score, run in scores if score is not None]


def _number(run: RunRecord) -> int | None:
    """Return a run's number; in an older record that is its folder's name."""
    name = run.folder.name
    by_name = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else None
    return by_name if run.number is None else run.number


def rank_correlation(pairs: Sequence[tuple[float, RunRecord]]) -> float | None:
    """Return Kendall's tau-b of low scores with good runs; None below LEAST, or of all alike."""
    if len(pairs) < LEAST:
        return None
    from scipy.stats import kendalltau  # late: a third of a second

    sign = 1 if pairs[0][1].mode == "max" else -1
    tau = kendalltau([-score for score, _ in pairs], [sign * run.value for _, run in pairs])[0]
    return float(tau) if math.isfinite(tau) else None


def more(values: Sequence[float]) -> Gain:
    """Estimate what as many draws again would add to the best of these, if all are drawn alike.

    Of n values and m to come, each is as likely the best, so a better one comes with probability
    m / (n + m). The gain from n to 2 n is taken to be that from n / 2 to n: each value lies in the
    second half with probability 1/2, and the gain is X(1) - X(j) where the j - 1 largest lie in it
    and the j-th does not, which has probability 2^-j. Gains shrink with each doubling
    unless the upper tail is heavier than exponential, so this is rather too much than too little.
    `high` is a prediction: the gain in units of the tail's scale, estimated from the spacings of
    the largest values, has a distribution that simulation gives for exponential draws.

    Args:
        values: n of them, at least 2; more is better.

    Source: David and Nagaraja 2003, Order Statistics, 2.3.
    """
    ordered = np.sort(np.asarray(values, float))[::-1]
    n = len(ordered)
    share = 0.5 ** np.arange(1, n + 1)
    share[-1] *= 2  # all but the last lie in the second half
    gains = ordered[0] - ordered
    top = min(SPACINGS, n - 1)
    scale = float((np.arange(1, top + 1) @ (ordered[:top] - ordered[1 : top + 1])) / top)
    means = [_mean(np.delete(ordered, i)) for i in range(n)]
    spread = math.sqrt((n - 1) / n * float(np.square(means - np.mean(means)).sum()))
    chance, mean = float(share[gains > 0].sum()), float(share @ gains)
    return Gain(chance, mean, spread, scale * _largest(min(n, SIMULATED)))


@functools.cache
def _largest(n: int) -> float:
    """Return the UPPER quantile of the gain from n to 2 n exponential draws over their scale."""
    drawn = np.random.default_rng(0).standard_exponential((DRAWS, 2 * n))
    gain = np.maximum(drawn[:, n:].max(1) - drawn[:, :n].max(1), 0)
    ordered = -np.sort(-drawn[:, :n], 1)
    top = min(SPACINGS, n - 1)
    spacings = ordered[:, :top] - ordered[:, 1 : top + 1]
    return float(np.quantile(gain / (spacings @ np.arange(1, top + 1) / top), UPPER))


def _mean(ordered: np.ndarray) -> float:
    share = 0.5 ** np.arange(1, len(ordered) + 1)
    share[-1] *= 2
    return float(share @ (ordered[0] - ordered))


def enough(sweep: Sweep, runs: Sequence[RunRecord]) -> str:
    """Say what as many runs again would bring, or why that cannot be said."""
    alike = [run for run in runs if run.phase in ALIKE]
    if not alike:
        return "These runs were not drawn at random: they do not tell what more runs would bring."
    values = [sweep.objective.sign * run.value for run in alike if run.value is not None]
    drawn = f"the {count(len(alike), 'run')} drawn at random"
    if len(values) < LEAST:
        return f"Of {drawn} {len(values)} have a value: too few to tell what more would bring."
    worst = min(values)  # a broken run betters nothing
    gain = more(values + [worst] * (len(alike) - len(values)))
    amount = sweep.objective.amount
    text = (
        f"As many again as {drawn} would better their best with a probability of "
        f"{percent(gain.chance)}, by {amount(gain.mean, unit=False)} ± {amount(gain.se)} on "
        f"average and by no more than {amount(gain.high)} in {percent(UPPER)} of cases or more."
    )
    rest = len(runs) - len(alike)
    adapted = (
        " The search adapted afterwards; of its later runs nothing follows." if rest > 1 else ""
    )
    return text + adapted


def further(gain: float, noise: float, objective: Objective) -> str:
    """Say what one further run would bring, beside the noise of the validation split."""
    less = "less" if gain < noise else "no less"
    return (
        f"a further run is expected to gain {objective.amount(gain)} where it promises most, "
        f"{less} than the noise of the validation split, {objective.amount(noise)}"
    )


def stopped(stop: Stop, objective: Objective) -> str:
    """Say why a search was ended early: `stopped after 17 runs, 23 saved: ...`."""
    saved = f", {stop.saved:,} saved" if stop.saved else ""
    why = further(stop.gain, stop.noise, objective)
    return f"stopped after {count(stop.runs, 'run')}{saved}: {why}"


@dataclass(frozen=True)
class Replay:
    """The savings and losses that pruning by ASHA would have brought to a sweep.

    Args:
        runs: how many were replayed.
        saved: share of their epochs, mean over the orders.
        missed: share of the orders in which the best run would have been ended.
        loss: how far the best of those that go on falls behind then, at the mean; 0 if none.
    """

    runs: int
    saved: float
    missed: float
    loss: float


def replay(sweep: Sweep, runs: Sequence[RunRecord], seed: int = 0) -> Replay | None:
    """Replay ASHA on recorded curves, one run after another, in several random orders.

    Returns: None where runs were pruned, too few have the same number of epochs, or have no rung.
    """
    if any(run.status == "pruned" for run in runs):
        return None
    lengths = [run.planned for run in runs if run.ok and run.planned]
    epochs = max(set(lengths), key=lengths.count, default=0)
    same = [run for run in runs if run.planned == epochs and (run.ok or run.broke)]
    pruner = Pruner("asha", sweep.folders[0], sweep.objective.mode)
    rungs = pruner.rungs(epochs) if epochs else []
    if len(same) < LEAST or not rungs or all(run.value is None for run in same):
        return None
    losses = [[_loss(sweep, run, rung) for rung in rungs] for run in same]
    trained = [max((row.get("epoch", 0) for row in run.curve), default=0) for run in same]
    ends = [
        -sweep.objective.sign * run.value if run.value is not None else math.inf for run in same
    ]
    best, rng = int(np.argmin(ends)), np.random.default_rng(seed)
    saved, missed, lost = [], 0, []
    for _ in range(ORDERS):
        spent, survivors = _order(rng.permutation(len(same)).tolist(), losses, rungs, trained)
        saved.append(1 - spent / max(sum(trained), 1))
        missed += best not in survivors
        kept = min((ends[i] for i in survivors), default=math.inf)
        lost += [kept - ends[best]] * (best not in survivors)
    loss = float(np.mean(lost)) if lost else 0.0
    return Replay(len(same), float(np.mean(saved)), missed / ORDERS, loss)


def _order(
    order: list[int], losses: list[list[float]], rungs: list[int], trained: list[float]
) -> tuple[float, set[int]]:
    """Return the epochs spent in this order, and the runs that were not ended."""
    reached: list[list[float]] = [[] for _ in rungs]  # losses at each, ascending
    spent, survivors = 0.0, set()
    for i in order:
        for rung, at in zip(rungs, reached, strict=True):
            if trained[i] < rung:  # it ended by itself
                continue
            loss = losses[i][rungs.index(rung)]
            bisect.insort(at, loss)
            if behind(loss, at):
                spent += rung
                break
        else:
            spent += trained[i]
            survivors.add(i)
    return spent, survivors


def _loss(sweep: Sweep, run: RunRecord, rung: int) -> float:
    """Return the least loss up to an epoch, as a pruner sees it."""
    metric, sign = sweep.objective.metric, -sweep.objective.sign
    seen = [
        sign * row[metric] for row in run.curve if metric in row and row.get("epoch", 0) <= rung
    ]
    return min((value for value in seen if math.isfinite(value)), default=math.inf)
