"""Weigh the effects of knobs by those that they had on other tasks, where the runs leave room.

A knob's total effect on each task of a prior (search/effects.py) gives a mean and a spread of its
log odds over tasks. The effects drawn from the process of this sweep's runs are taken for
measurements of it, and both are combined as normal distributions: few runs leave much to the other
tasks, many little. Beside it stands the hypothesis that other tasks do not tell one knob from
another: that all have the same mean and spread. The better the runs fit to that, the more of the
draws are left as they are.
"""

import math
from collections.abc import Sequence

import numpy as np

from knobs.search.effects import EDGE, LEAST, Others

Array = np.ndarray
# Of the log odds, beside that over tasks: how far the effects that the prior says lie from those of
# a random forest on the objective itself, of tasks whose source was left out (1.49).
SPREAD = 1.5
# Of what other tasks show against no difference between knobs, before any run: on tasks like theirs
# they count for .85 after 40 runs (at odds of 1: .98), and little on a function of other knobs.
ODDS = 0.1


def weighed(total: Array, names: Sequence[str], others: Others) -> tuple[Array, float]:
    """Return effects [resamples, knobs] as other tasks make them likely, and how much these count.

    Args:
        total: drawn from the process of the runs.
        names: of the knobs.
    """
    places = [k for k, name in enumerate(names) if name in others.odds]
    if len(places) < LEAST:
        return total, 0.0
    shares = np.clip(total[:, places], EDGE, 1 - EDGE)
    odds = np.log(shares / (1 - shares))
    mean, spread = np.array([others.odds[names[k]] for k in places]).T
    spread = np.hypot(spread, SPREAD)
    seen, open_ = odds.mean(0), odds.var(0, ddof=1) + 1e-6
    same = np.full(len(places), mean.mean())
    wide = math.sqrt(mean.var() + (spread**2).mean())
    evidence = _log_density(seen, mean, spread**2 + open_) + math.log(ODDS)
    against = _log_density(seen, same, wide**2 + open_)
    weight = 1 / (1 + math.exp(min(max(against - evidence, -50.0), 50.0)))
    middle = (spread**2 * seen + open_ * mean) / (spread**2 + open_)
    moved = middle + (odds - seen) * np.sqrt(spread**2 / (spread**2 + open_))
    found = total.copy()
    # Spread over the groups of functions.
    chosen = (np.arange(1, len(total) + 1) * 0.6180339887498949) % 1 < weight
    found[np.ix_(chosen, places)] = 1 / (1 + np.exp(-moved[chosen]))
    return found, weight


def _log_density(x: Array, mean: Array, variance: Array) -> float:
    return float(-0.5 * ((x - mean) ** 2 / variance + np.log(variance)).sum())
