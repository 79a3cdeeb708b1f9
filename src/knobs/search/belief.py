"""Expected improvement under what other tasks liked and what this search has seen.

Losses are in units of their own: s y = a + f(x), where f is the score of `knobs.search.prior`, a is
anything, and s > 0 is as likely as any other on a log scale; both have closed forms. f is

    learned: the prior, and beside it a Gaussian process over the search's own cube
    plain:   that process alone

Lengths, variances and noise are drawn and weighed by how likely the losses are (population Monte
Carlo, Cappé et al. 2004), and so is learned against plain: where the runs speak against the prior,
its weight falls. Sources: Rasmussen and Williams 2006, chapters 2 and 5; Jones et al. 1998.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from knobs.search.prior import Outlook

DRAWS, BETTER, AGAIN, ROUNDS = 48, 6, 24, 3  # of hypotheses: at first, kept, drawn about them
MOST = 6  # hypotheses that predict, of those with the prior and of those without
LEAST = 0.02  # weight of either side, below which it is left out
STEP = 0.4  # from a hypothesis to one about it, in logarithms
LENGTH, LENGTHS = math.log(0.7), 0.7  # mean and deviation of the logarithm
NOISE, NOISES = math.log(0.01), 1.2
AMPLITUDE, AMPLITUDES = math.log(0.15), 0.8  # of the process beside the prior
ODDS = 1.0  # of learned against plain, before any run
JITTER = 1e-8


@dataclass(frozen=True)
class Cube:
    """Points of a search's own unit cube.

    Args:
        points: (n, knobs). options: (knobs,), whether a knob is a choice: another is as far as any.
    """

    points: np.ndarray
    options: np.ndarray

    def squares(self, rows: slice, columns: slice) -> np.ndarray:
        """Return squared distances by knob, (knobs, rows, columns)."""
        apart = self.points[rows, None, :] - self.points[None, columns, :]
        return np.where(self.options, apart != 0, apart**2).transpose(2, 0, 1)


def matern(squares: np.ndarray) -> np.ndarray:
    """Return Matern 5/2 of squared distances in units of the length."""
    far = np.sqrt(5 * squares)
    return (1 + far + far**2 / 3) * np.exp(-far)


class Belief:
    """A distribution over f, after some losses.

    Args:
        cube, outlook: of the points that the losses are of, and then of those under way, which are
            taken to come as expected; without an outlook all is plain.
        losses: (n,), n >= 1.

    `learned` is the weight of the prior.
    """

    def __init__(
        self, cube: Cube, outlook: Outlook | None, losses: np.ndarray, rng: np.random.Generator
    ):
        count, self.rows = len(losses), slice(0, len(cube.points))
        y = losses - losses.mean()
        y = y / (y.std() or 1.0)
        squares = cube.squares(self.rows, self.rows)
        given = outlook and (outlook.mean[self.rows], outlook.covariance(self.rows, self.rows))
        told = given and (given[0][:count], given[1][:count, :count])
        self.models, self.learned = [], 0.0
        for weight, theta, learned in _drawn(squares[:, :count, :count], y, told, rng):
            amplitude = np.exp(theta[-1]) if learned else 1.0
            cov = amplitude * _process(theta, squares) + (given[1] if learned else 0.0)
            mean = given[0] if learned else np.zeros(len(cov))
            fit = _Fit(cov, np.exp(theta[-2]), y, mean)
            self.models.append((weight, theta, amplitude, learned, fit))
            self.learned += weight * learned

    def improvement(self, cube: Cube, outlook: Outlook | None) -> np.ndarray:
        """Return the improvement that is expected of each of further points, in any unit.

        Args:
            cube, outlook: of the points of the losses, and then of the further ones.
        """
        return sum(w * fit.improvement(*rest) for w, fit, rest in self._asked(cube, outlook))

    def _asked(self, cube: Cube, outlook: Outlook | None) -> Iterator[tuple]:
        """Yield weight, fit, and covariance, variance and mean of further points."""
        new = slice(self.rows.stop, len(cube.points))
        squares = cube.squares(new, self.rows)
        if outlook:
            means, variances = outlook.mean[new], outlook.variance()[new]
            covs = outlook.covariance(new, self.rows)
        for weight, theta, amplitude, learned, fit in self.models:
            cov = amplitude * _process(theta, squares)
            rest = (cov + covs, amplitude + variances, means) if learned else (cov, amplitude, 0.0)
            yield weight, fit, rest


def fitted(cube: Cube, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the likeliest lengths and noise of a process, of variance 1, over scores."""
    rows = slice(0, len(scores))
    _, theta, _ = _drawn(cube.squares(rows, rows), scores, None, np.random.default_rng(0))[0]
    return np.exp(theta[:-2]), float(np.exp(theta[-2])) + JITTER


def _process(theta: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return the covariance of the process over the cube, of variance 1."""
    return matern(np.tensordot(np.exp(-2 * theta[..., :-2]), squares, 1))


class _Fit:
    """A process with its parameters, and losses.

    Args:
        cov, mean: of the points of the losses, and of those under way. y: losses.
    """

    def __init__(self, cov: np.ndarray, noise: float, y: np.ndarray, mean: np.ndarray):
        count = len(y)
        self._condition(cov[:count, :count], noise, y, mean[:count], None)
        if len(cov) > count:
            expected = mean[count:] + self.level
            expected = expected + self._solve(cov[:count, count:]).T @ self.rest
            self._condition(cov, noise, np.r_[y, expected / self.scale], mean, self.scale)
        self.best = (self._solve(cov).T @ self.rest + mean + self.level).min()

    def _condition(
        self, cov: np.ndarray, noise: float, y: np.ndarray, mean: np.ndarray, scale: float | None
    ) -> None:
        self.factor = np.linalg.cholesky(cov + (noise + JITTER) * np.eye(len(y)))
        self.white = self._solve(np.stack([y, mean, np.ones(len(y))], 1))
        gram = self.white.T @ self.white
        self.scale = float(_scale(gram[None], len(y))[0]) if scale is None else scale
        self.ones = gram[2, 2]
        rest = self.white[:, 0] * self.scale - self.white[:, 1]
        self.level = rest @ self.white[:, 2] / self.ones
        self.rest = rest - self.level * self.white[:, 2]

    def _solve(self, b: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve_triangular  # late: a tenth of a second

        return solve_triangular(self.factor, b, lower=True, check_finite=False)

    def at(
        self, cov: np.ndarray, variance: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of f at further points.

        Args:
            cov: (m, n), with the points of the losses. variance, mean: of f before these.
        """
        white = self._solve(cov.T)
        spread = variance - (white**2).sum(0)
        spread = spread + (1 - white.T @ self.white[:, 2]) ** 2 / self.ones
        return mean + self.level + white.T @ self.rest, np.sqrt(np.maximum(spread, 1e-10))

    def improvement(self, cov: np.ndarray, variance: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Return what is expected, in units of the losses."""
        from scipy.special import ndtr

        at, spread = self.at(cov, variance, mean)
        z = (self.best - at) / spread
        density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        return spread * (z * ndtr(z) + density) / self.scale


def _scale(gram: np.ndarray, count: int) -> np.ndarray:
    """Return the likeliest s of each (hypotheses, 3, 3) Gram matrix of y, mean and ones."""
    yy, ym, _ = _projected(gram)
    yy = np.maximum(yy, 0)  # by rounding it may lie below
    flat = yy < 1e-12 * np.maximum(gram[:, 0, 0], 1e-300)
    root = np.sqrt(ym**2 + 4 * (count - 1) * yy)
    return np.where(flat | (root + ym <= 0), 1.0, (ym + root) / (2 * np.where(flat, 1.0, yy)))


def _projected(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y'Py, y'Pm, m'Pm, where P leaves out what is constant."""
    y1, m1, ones = gram[:, 0, 2], gram[:, 1, 2], gram[:, 2, 2]
    return (
        gram[:, 0, 0] - y1**2 / ones, gram[:, 0, 1] - y1 * m1 / ones, gram[:, 1, 1] - m1**2 / ones
    )  # fmt: skip


def _likelihood(cov: np.ndarray, y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return the log likelihood of y under each of (hypotheses, n, n)."""
    count = len(y)
    factor = np.linalg.cholesky(cov)
    sides = np.broadcast_to(np.stack([y, mean, np.ones(count)], 1), (len(cov), count, 3))
    white = np.linalg.solve(factor, sides)
    gram = np.swapaxes(white, 1, 2) @ white
    scale = _scale(gram, count)
    yy, ym, mm = _projected(gram)
    size = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(1) + np.log(gram[:, 2, 2]) / 2
    return (count - 1) * np.log(scale) - (scale**2 * yy - 2 * scale * ym + mm) / 2 - size


def _drawn(
    squares: np.ndarray, y: np.ndarray, given: tuple | None, rng: np.random.Generator
) -> list[tuple[float, np.ndarray, bool]]:
    """Draw hypotheses: weight, logarithms of lengths, noise, amplitude; whether it is learned."""
    knobs, count = len(squares), len(y)
    middle = np.array([LENGTH] * knobs + [NOISE, AMPLITUDE])
    width = np.array([LENGTHS] * knobs + [NOISES, AMPLITUDES])
    steps = rng.standard_normal((DRAWS, knobs + 2))
    thetas = np.r_[middle[None], middle + width * steps]
    found, scores = np.empty((0, knobs + 2)), np.empty((0, 2))
    for turn in range(ROUNDS):
        process = _process(thetas, squares)
        noise = (np.exp(thetas[:, -2]) + JITTER)[:, None, None] * np.eye(count)
        prior = -0.5 * (((thetas - middle) / width) ** 2).sum(1)
        plain = prior + _likelihood(process + noise, y, np.zeros(count))
        learned = np.full(len(thetas), -np.inf)
        if given:
            cov = given[1] + np.exp(thetas[:, -1])[:, None, None] * process + noise
            learned = prior + _likelihood(cov, y, given[0]) + math.log(ODDS)
        found = np.r_[found, thetas]
        scores = np.r_[scores, np.stack([plain, learned], 1)]
        if turn < ROUNDS - 1:
            best = found[np.argsort(-scores.max(1), kind="stable")[:BETTER]]
            about = np.repeat(best, AGAIN // BETTER, 0)
            thetas = about + STEP * rng.standard_normal(about.shape)
    weights = np.exp(scores - scores.max())
    kept = []
    for side in (0, 1):  # each as heavy as all that was drawn of it, by the best of them
        share, order = weights[:, side].sum(), np.argsort(-weights[:, side], kind="stable")[:MOST]
        if share > LEAST * weights.sum():
            mine = weights[order, side].sum()
            kept += [(weights[i, side] * share / mine, found[i], bool(side)) for i in order]
    whole = sum(weight for weight, *_ in kept)
    return [(weight / whole, theta, side) for weight, theta, side in kept]
