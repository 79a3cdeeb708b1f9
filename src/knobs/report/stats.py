"""The arithmetic of a verdict: paired differences, their interval and test, noise, expected best.

Sources: Student 1908, "The probable error of a mean"; Fisher 1935, "The design of experiments",
section 21 (the sign-flip test); Keuls 1952, "The use of the studentized range" (a difference is
held against the range of as many settings); Dodge et al. 2019, "Show your work" (expected best).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

EXACT = 14  # so many pairs have 16,384 sign patterns: all are counted
SHUFFLES = 4000  # the standard error of a p of 0.1 is 0.005
LEAST_PAIRS = 5  # fewer cannot reach a p of 1/16, the smallest of 5 pairs
LEVEL = 0.95  # of an interval
LARGEST = 50_000  # examples of a validation split that is looked for
ALPHA = 0.1  # 5 pairs that all agree in sign pass it, 4 cannot


@dataclass(frozen=True)
class Paired:
    """Differences between two settings, seed by seed; above 0 the first is the better.

    Args:
        seeds: that both have run, one for each difference.
        low, high: ends of the 95 % interval of the mean; None below 3 pairs.
        p: of the sign-flip test, two-sided, or as `among` has it.
    """

    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p: float

    @property
    def n(self) -> int:
        """The number of pairs."""
        return len(self.differences)

    @property
    def apart(self) -> bool:
        """True where the interval lies above 0, were there seeds enough."""
        return self.low is not None and self.low > 0

    @property
    def beats(self) -> bool:
        """True where the first is the better: an interval above 0, and p at most ALPHA."""
        return self.apart and self.p <= ALPHA

    def among(self, tables: Sequence[Mapping[int, float]]) -> "Paired":
        """The same, its p no smaller than that of `range_test`.

        Args:
            tables: seed -> value: of the first, of settings that lie between the two, and of the
                second, in this order; those without one of the seeds are left out.
        """
        whole = [[table[s] for s in self.seeds] for table in tables if {*self.seeds} <= {*table}]
        return replace(self, p=max(self.p, range_test(whole)))


def paired(a: Mapping[int, float], b: Mapping[int, float], sign: int = 1) -> Paired | None:
    """Compare two settings' values on the seeds that both have; None if there are none.

    Args:
        a, b: seed -> value.
        sign: -1 where less is better.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return None
    differences = tuple(sign * (a[seed] - b[seed]) for seed in seeds)
    low, high = interval(differences)
    mean = float(np.mean(differences))
    return Paired(seeds, differences, mean, low, high, sign_flip(differences))


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float | None, float | None]:
    """Return Student's t interval of a mean; (None, None) below 3 values.

    Of five differences between two equal settings it held the true one 95 times in 100, the BCa
    bootstrap 85 times.
    """
    if len(values) < 3:
        return None, None
    if np.ptp(values) <= 1e-12 * max(1e-300, float(np.abs(values).max())):
        return float(np.mean(values)), float(np.mean(values))  # no spread, nothing to resample
    from scipy.special import stdtrit  # 0.1 s

    n, mean = len(values), float(np.mean(values))
    reach = float(stdtrit(n - 1, (1 + level) / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return mean - reach, mean + reach


def sign_flip(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference: the share of sign patterns as far from 0.

    Exact up to 14 pairs, by 65,536 drawn patterns beyond. The smallest p of n pairs is 2 / 2**n.
    """
    values = np.asarray(differences, float)
    n = len(values)
    if n <= EXACT:
        signs = np.array(list(product((1, -1), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1, -1), (2**16, n))
        signs[0] = 1  # the pattern that was seen
    means = np.abs(signs @ values)
    return float(np.mean(means >= means[0] * (1 - 1e-9)))


def range_test(values: Sequence[Sequence[float]]) -> float:
    """Return p of the lead of the first of some settings over the last, of best over worst.

    The share of shuffles of the settings within each seed in which any two means lie as far apart:
    of seven equal settings the best and some other always look different, which a test of the pair
    alone takes for a finding in 29 of 100 studies. Of two settings it is the sign-flip test.

    Args:
        values: settings x seeds.
    """
    table = np.asarray(values, float)
    if len(table) == 2:
        return sign_flip(list(table[0] - table[1]))
    seen = abs(float(np.mean(table[0] - table[-1])))
    order = np.random.default_rng(0).random((SHUFFLES, *table.shape)).argsort(1)
    means = np.take_along_axis(table[None], order, 1).mean(2)  # (shuffles, settings)
    wider = int(np.sum(np.ptp(means, 1) >= seen * (1 - 1e-9)))
    return (1 + wider) / (1 + SHUFFLES)


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
