"""Estimate what a further run of a search would bring, by the runs that there are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from knobs.report.importance.space import Space
from knobs.report.records import Knob
from knobs.search.methods import scores

FEWEST = 3  # settings with a value, below which no process is fitted
MOST = 300  # runs behind it: the cost grows with their cube
PROCESSES = 8  # hyperparameters that the gain is averaged over
POINTS, BEST, NEAR = 9, 3, 64  # log2 of the points looked at; rows, and points near each
STEP = 0.1  # of the unit cube, from a row to a point near it


def next_run(
    knobs: Sequence[Knob],
    rows: Sequence[dict[str, Any]],
    values: Sequence[float | None],
    mode: str,
    pruned: Sequence[bool] | None = None,
    seed: int = 0,
) -> float | None:
    """Estimate the gain of one further run where it promises most, in the objective's unit.

    The largest expected improvement of the true objective, under the Gaussian process of
    importance/gp.py, over what the search has: a value that was luck is no best to better. The
    report and `search.stop=auto` both ask this. Broken runs count as the worst; pruned ones not at
    all once three are whole, and bad values are clipped, as for a search's own model.

    Args:
        knobs, rows, values, mode, pruned: as for importance/effects.py.

    Returns: None where fewer than three settings have a value, or none differs.

    Source: Jones et al. 1998, Efficient Global Optimization of Expensive Black-Box Functions.
    """
    import scipy.linalg  # noqa: F401  # with threads of its own, which must be there to be limited
    from threadpoolctl import threadpool_limits  # of scikit-learn

    from knobs.report.importance import gp

    sign = 1 if mode == "max" else -1
    y = np.array([np.nan if value is None else sign * value for value in values], float)
    y[~np.isfinite(y)] = np.nan
    kept = np.arange(len(y))
    if pruned is not None and (~np.array(pruned, bool) & ~np.isnan(y)).sum() >= FEWEST:
        kept = np.flatnonzero(~np.array(pruned, bool))
    y = y[kept]
    if (~np.isnan(y)).sum() < FEWEST:
        return None
    y = -np.array(scores((-np.where(np.isnan(y), np.nanmin(y), y)).tolist()))
    space = Space(knobs, [rows[i] for i in kept], None)
    x = space.encode(space.rows)
    if not space.varied or not np.ptp(y) or len(np.unique(x, axis=0)) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    scale = y.std()
    y = (y - y.mean()) / scale
    at = space.encode(_promising(space, y, rng))
    with threadpool_limits(1, "blas"):  # matrices of some hundred rows: threads wait for each other
        thetas = gp.hyperparameters(x, space.owner, y, PROCESSES, rng)
        if len(y) > MOST:
            some = rng.permutation(len(y))[:MOST]
            some[0] = y.argmax()
            x, y = x[np.unique(some)], y[np.unique(some)]
        return float(scale * gp.improvement(x, space.owner, y, at, thetas).max())


def _promising(space: Space, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return positions [m, d] over the whole space, and near its best rows."""
    over = space.points(rng, POINTS)[0]
    best = space.rows[np.argsort(-y)[:BEST]].repeat(NEAR, 0)
    near = np.clip(best + STEP * rng.standard_normal(best.shape), 0, 1)
    other = rng.random(best.shape) < 1 / 4  # of knobs with choices
    chosen = np.where(other, over[: len(best)], best)
    choices = np.array([scale.choices > 0 for scale in space.scales])
    return space.active(np.concatenate([over, np.where(choices, chosen, near)]))
