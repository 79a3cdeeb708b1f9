"""The arithmetic of a verdict: paired differences, the interval that decides, noise, expected best.

Sources: Student 1908, "The probable error of a mean"; Nadeau and Bengio 2003, "Inference for the
generalization error" (training sets that overlap); Westfall and Young 1993, "Resampling-based
multiple testing" (the largest t of a family, by simulation); Lan and DeMets 1983, "Discrete
sequential boundaries" (alpha spending); Dodge et al. 2019, "Show your work" (expected best).
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

LEVEL = 0.95  # of every interval, simultaneous over the arms and over the looks at them
Z = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
LEAST_PAIRS = 5  # fewer decide nothing
RATIO = 0.25  # validation to training examples, where no record states them: 20 % held out
DRAWN = 20_000  # simulated families: the standard error of a level of 95 % is 0.15 %
MOST_ARMS = 16  # of a family that is simulated; of more, see _for_more
LARGEST = 50_000  # examples of a validation split that is looked for
MOST_UNITS = 300  # of a simulated family

Repeat = tuple[int, int, int]  # seed, seed of the validation split, fold: what two arms share
Values = Mapping[Repeat, float]  # of the objective


@dataclass(frozen=True)
class Paired:
    """Differences between two arms on the repeats that both have; above 0 the first is the better.

    Where the repeats have several validation splits, a difference is that of one split, the mean
    over its seeds. Where all share one split, it is that of one seed, and speaks of that split
    alone.

    Args:
        repeats: that both have run.
        differences: one a unit, n of them.
        low, high: ends of the adjusted interval of the mean; None below 3 units.
        splits: whether the units are validation splits rather than seeds.
        constant: whether no repeat changed any value of either, and no number of examples tells
            how far they might: one observation.
    """

    repeats: tuple[Repeat, ...]
    differences: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    splits: bool = False
    constant: bool = False

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.differences)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the units: `seed 3`, `split 3`, `split 3, fold 1`."""
        if not self.splits:
            return tuple(f"seed {seed}" for seed, _, _ in self.repeats)
        splits = dict.fromkeys(repeat[1:] for repeat in self.repeats)
        return tuple(f"split {split}" + f", fold {fold}" * bool(fold) for split, fold in splits)

    @property
    def beats(self) -> bool:
        """True where the first is the better: LEAST_PAIRS at least, and the interval above 0."""
        return self.n >= LEAST_PAIRS and self.low is not None and self.low > 0


def paired(
    first: Values,
    others: Sequence[Values],
    sign: int = 1,
    *,
    ratio: float = RATIO,
    looks: Sequence[int] = (),
    examples: int = 0,
    arms: int = 0,
) -> list[Paired | None]:
    """Compare an arm with others, simultaneously; None for one that shares no repeat with it.

    An interval is mean +- c s sqrt(1/n + ratio) over splits, and over the seeds of one split
    mean +- sqrt((c s)^2 / n + z^2 error / examples): the split itself is a sample, and two arms
    that are right equally often differ on it by as much. c is `critical`. s is the standard
    deviation of the pair's own differences, though not less than the median of all pairs of the
    family (of many equal pairs one has a small s by chance), nor than a difference of so many
    examples has by itself, sqrt(|mean| / examples), of one example at least.

    Args:
        first, others: repeat -> value, of the arms of one family.
        sign: -1 where less is better.
        ratio: validation to training examples, of runs that differ in their validation split.
        looks: numbers of units at which the family is looked at, where more than once.
        examples: in a validation split, where the values are accuracies; else 0.
        arms: of the whole family, where these are a part of it.
    """
    family = [first, *others]
    pairs = list(combinations(range(len(family)), 2))
    units = {(i, j): _units(family[i], family[j], sign) for i, j in pairs}
    spreads = [statistics.variance(d) for d, _ in units.values() if len(d) > 1]
    least = statistics.median(spreads) if spreads else 0.0
    found: list[Paired | None] = []
    for other in range(1, len(family)):
        differences, splits = units[0, other]
        if not differences:
            found.append(None)
            continue
        n, mean = len(differences), statistics.fmean(differences)
        repeats = tuple(sorted(first.keys() & family[other].keys()))
        constant = n > 1 and not examples and _constant(repeats, first, family[other])
        reach = None
        if n >= 3:
            c = _of_look(max(arms, len(family)), n, tuple(looks), ratio if splits else 0.0)
            granular = max(abs(mean), 1 / n / examples) / examples if examples else 0.0
            variance = max(statistics.variance(differences), least, granular)
            reach = c * math.sqrt(variance * (1 / n + (ratio if splits else 0.0)))
            if examples and not splits:
                error = max(0.0, 1 - statistics.fmean(first.values()))
                reach = math.hypot(reach, Z * math.sqrt(error / examples))
        low, high = (None, None) if reach is None else (mean - reach, mean + reach)
        found.append(Paired(repeats, tuple(differences), mean, low, high, splits, constant))
    return found


def _constant(repeats: Sequence[Repeat], *arms: Values) -> bool:
    return all(len({arm[repeat] for repeat in repeats}) == 1 for arm in arms)


def _units(a: Values, b: Values, sign: int) -> tuple[list[float], bool]:
    """Return the differences by split, or by seed where all repeats share one split; and which."""
    common = sorted(a.keys() & b.keys())
    by_split: dict[tuple[int, int], list[float]] = {}
    for repeat in common:
        by_split.setdefault(repeat[1:], []).append(sign * (a[repeat] - b[repeat]))
    if len(by_split) > 1:
        return [statistics.fmean(same) for same in by_split.values()], True
    return [difference for same in by_split.values() for difference in same], False


def _of_look(arms: int, n: int, looks: tuple[int, ...], ratio: float) -> float:
    """Return the critical value at n units: of the latest look that has come, else of n alone."""
    passed = [i for i, look in enumerate(looks) if look <= n]
    if len(looks) < 2 or not passed:
        # Of more units than are simulated it is less by 0.4 % at most.
        return critical(arms, (n if arms == 2 else min(n, MOST_UNITS),), ratio)[0]
    return critical(arms, looks, ratio)[passed[-1]]


@functools.lru_cache(64)
def critical(arms: int, looks: tuple[int, ...], ratio: float = 0.0) -> tuple[float, ...]:
    """Return c of each look: how many standard errors equal arms differ by in 5 % of families.

    Equal arms are drawn DRAWN times, with the correlation between splits that overlapping training
    sets have, ratio / (1 + ratio). Their largest |t| over all pairs exceeds c at some look in
    1 - LEVEL of the families; each look spends in proportion to the units it adds. Two arms and one
    look: Student's t.

    Args:
        arms: at least 2; beyond MOST_ARMS by `_for_more`.
        looks: numbers of units, increasing, at least 3 each.
        ratio: of validation to training examples; 0 for the seeds of one split.
    """
    if arms == 2 and len(looks) == 1:
        from scipy.special import stdtrit  # 0.1 s

        return (float(stdtrit(looks[0] - 1, (1 + LEVEL) / 2)),)
    if arms > MOST_ARMS:
        pairs = arms * (arms - 1) / MOST_ARMS / (MOST_ARMS - 1)
        return tuple(_for_more(bound, pairs) for bound in critical(MOST_ARMS, looks, ratio))
    random = np.random.default_rng(0)
    most, shared = looks[-1], ratio / (1 + ratio)
    blocks = []
    for _ in range(-(-DRAWN // (block := max(1, 2_000_000 // (arms * most))))):
        values = random.standard_normal((block, arms, most)) * math.sqrt(1 - shared)
        values += random.standard_normal((block, arms, 1)) * math.sqrt(shared)
        blocks.append(np.stack([largest_t(values[:, :, :n], ratio) for n in looks], 1))
    drawn = np.concatenate(blocks)[:DRAWN]
    inside, spent, bounds = np.ones(len(drawn), bool), 0.0, []
    for look, n in enumerate(looks):
        due = (1 - LEVEL) * n / most - spent  # what this look may spend
        still = np.sort(drawn[inside, look])
        crossing = round(due * len(drawn))
        bounds.append(float(still[-crossing - 1] if crossing < len(still) else still[0]))
        crossed = inside & (drawn[:, look] > bounds[-1])
        spent += float(crossed.mean())
        inside &= ~crossed
    return tuple(bounds)


def _for_more(bound: float, factor: float) -> float:
    """Return the critical value of `factor` times as many pairs, by the tail of a normal curve.

    From 16 arms it gives 3.93 and 4.27 for 24 and 50 arms of 5 units; simulated 3.91 and 4.28.
    """
    normal = statistics.NormalDist()
    return -normal.inv_cdf(normal.cdf(-bound) / factor)


def largest_t(values: np.ndarray, ratio: float = 0.0) -> np.ndarray:
    """Return the largest |t| over all pairs of arms of each family, its s as in `paired`.

    Args:
        values: (families, arms, units).
        ratio: of validation to training examples.

    Returns: (families,).
    """
    _, arms, n = values.shape
    i, j = np.triu_indices(arms, 1)
    mean = values.mean(2)
    centred = values - mean[:, :, None]
    shared = centred @ centred.transpose(0, 2, 1) / (n - 1)  # covariances of the arms
    own = np.diagonal(shared, axis1=1, axis2=2)
    variance = own[:, i] + own[:, j] - 2 * shared[:, i, j]
    variance = np.maximum(variance, np.median(variance, 1, keepdims=True))
    return np.max(np.abs(mean[:, i] - mean[:, j]) / np.sqrt(variance * (1 / n + ratio)), 1)


def noise_floor(error: float, size: int) -> float:
    """Return the seed standard deviation of an accuracy as the size of the split alone sets it.

    sqrt(error / (2 size)).

    Args:
        error: 1 - accuracy, 0 to 1.
        size: examples in the validation split.
    """
    return math.sqrt(max(0.0, error) / (2 * size))


def split_size(accuracies: Sequence[float]) -> int | None:
    """Find the smallest split on which every accuracy is a whole number of examples, or None.

    Args:
        accuracies: 0 to 1, as computed in float32 or better.
    """
    shares = np.unique([a for a in accuracies if 0 < a < 1])
    if len(shares) < 8:  # few shares fit a smaller split by chance
        return None
    shares = shares[:: max(1, len(shares) // 64)]
    for first in range(8, LARGEST, 4096):
        sizes = np.arange(first, min(first + 4096, LARGEST + 1))[:, None]
        counts = sizes * shares
        fits = np.all(np.abs(counts - np.round(counts)) < 1e-3 + 2e-7 * sizes, axis=1)
        if fits.any():
            return int(sizes[fits.argmax(), 0])
    return None


def expected_best(values: Sequence[float]) -> np.ndarray:
    """Return the best of k of these values drawn at random: mean, 10 % and 90 % quantile by k.

    P(best of k <= i-th smallest) = C(i, k) / C(n, k), so all three are exact.

    Args:
        values: n of them; more is better.

    Returns: an array (n, 3), for k = 1 to n.
    """
    from scipy.special import gammaln

    ordered = np.sort(np.asarray(values, float))
    n = len(ordered)
    log = gammaln(np.arange(n + 1) + 1.0)  # of factorials
    i = np.arange(1, n + 1)
    rows = []
    for k in range(1, n + 1):
        below = np.zeros(n)
        fits = i >= k
        below[fits] = np.exp(log[i[fits]] - log[i[fits] - k] - log[n] + log[n - k])
        share = np.diff(below, prepend=0.0)
        quantiles = ordered[np.searchsorted(below, [0.1 - 1e-12, 0.9 - 1e-12]).clip(0, n - 1)]
        rows.append([share @ ordered, *quantiles])
    return np.array(rows).reshape(n, 3)
