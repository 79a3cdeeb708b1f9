"""A Gaussian process of a few hundred runs, and whole functions drawn from its posterior.

The kernel is a sum over knobs, one Matern 5/2 each, plus one Matern 5/2 of all knobs together, with
length scales of its own: main effects are learned from few runs, interactions where the runs show
them, and a knob whose main effect is wavy need not take part in every interaction. Own
arithmetic, because scikit-learn's lacks what few runs need: length scales shared by the columns of
a categorical knob, priors, hyperparameters drawn instead of guessed once, and functions drawn at
thousands of points at a time.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.optimize import minimize
from scipy.special import logsumexp

Array, Rng = np.ndarray, np.random.Generator
# Priors of theta, all logarithms: length scales of the joint part [d] and of each knob's own part
# [d], variances of the joint part, of each own part and of the noise; inputs fill the unit cube,
# targets have variance 1.
SCALE, ALONE, JOINT, OWN, NOISE = (1.5, 1.5), (1.0, 1.5), (-1.0, 1.5), (-0.5, 1.2), (-4.0, 2.5)
BOUNDS = (-12.0, 6.0)
STARTS = ((0.0, -1.0, -0.5, -4.0), (1.0, -1.0, -0.5, -1.0), (-1.0, -0.5, -0.5, -3.0))
ITERATIONS = 60
FITTED = 192  # rows that the hyperparameters are fitted to
CANDIDATES = 128  # of hyperparameters, of which the likely ones are kept
WIDER, TAILS = 1.3, 8  # how much vaguer than Laplace they are proposed; degrees of freedom
FEATURES = 256  # of a prior draw; a quarter of it for a knob's own part
JITTER = 1e-8
TEMPER = 0.4  # power of the likelihood: no function is a draw of this process, and the full power
# makes few runs certain of a wrong one (the safe Bayes of Grünwald and van Ommen 2017)
TRUSTED = 4  # hyperparameters that the prediction of left-out settings is averaged over
SHUFFLES = 999  # of the values, for the test of any effect at all


def matern(r: Array) -> Array:
    """Matern 5/2: (1 + r + r2 / 3) exp(-r), where r is the scaled distance times sqrt(5)."""
    rise = r / 3
    rise += 1
    rise *= r
    rise += 1
    rise *= np.exp(-r)
    return rise


def distance(a: Array, b: Array, weight: Array | float) -> Array:
    """sqrt(5) times the distances [n, m] of points [n, C] and [m, C], columns weighted [C]."""
    a, b = a * weight, b * weight
    if a.shape[1] == 1:
        return np.abs(a - b.T) * 5**0.5
    square = a @ (-10 * b.T)
    square += 5 * (a * a).sum(1)[:, None]
    square += 5 * (b * b).sum(1)
    return np.sqrt(np.maximum(square, 0, out=square), out=square)


def squares(x: Array, owner: Array) -> Array:
    """Squared distances of the rows along each knob: [d, n, n]."""
    knobs = [x[:, owner == k] for k in range(owner.max() + 1)]
    return np.stack([((k[:, None] - k[None]) ** 2).sum(-1) for k in knobs])


def likelihood(
    theta: Array, squared: Array, y: Array, gradient: bool = True
) -> tuple[float, Array | None]:
    """Log marginal likelihood and its gradient by theta [2 d + 3].

    Args:
        squared: [d, n, n], as `squares` makes it.
        y: [n], standardised.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 2.30 and 5.9.
    """
    d, n = len(squared), len(y)
    together, alone = np.exp(-2 * theta[: 2 * d]).reshape(2, d)
    joint, own, noise = np.exp(theta[2 * d :])
    r = np.sqrt(5 * np.tensordot(together, squared, 1))
    each = np.sqrt(5 * alone[:, None, None] * squared)
    fall, falls = np.exp(-r), np.exp(-each)
    k_joint = joint * (1 + r + r * r / 3) * fall
    k_own = own * ((1 + each + each * each / 3) * falls).sum(0)
    whole = k_joint + k_own
    whole.flat[:: n + 1] += noise + JITTER
    factor, failed = lapack.dpotrf(whole, lower=1)
    if failed:
        return -1e10, np.zeros(2 * d + 3)
    half, _ = lapack.dtrtrs(factor, y, lower=1)
    value = -half @ half / 2 - np.log(np.diag(factor)).sum() - n * np.log(2 * np.pi) / 2
    if not gradient:
        return value, None
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    alpha = inverse @ y
    outer = np.outer(alpha, alpha) - inverse
    # Times 5/3 D / l2: dK / d log l.
    both = together * np.tensordot(squared, outer * joint * (1 + r) * fall, 2)
    each = alone * np.einsum(
        "ij,kij,kij->k", outer, own * (1 + each) * falls, squared, optimize=True
    )
    by_scale = 5 / 6 * np.concatenate([both, each])
    others = [(outer * k_joint).sum() / 2, (outer * k_own).sum() / 2, noise * np.trace(outer) / 2]
    return value, np.array([*by_scale, *others])


def hyperparameters(x: Array, owner: Array, y: Array, count: int, rng: Rng) -> Array:
    """Draw likely values of theta, [count, 2 d + 3], from their posterior.

    Importance resampling from a mixture of Student's t at the posterior's modes: few runs often
    leave it open whether a function is wild or the runs are noisy.

    Args:
        x: [n, C], in the unit cube; y: [n], standardised.
        owner: [C], the knob of each column.
    """
    if len(y) > FITTED:
        some = np.sort(rng.choice(len(y), FITTED, replace=False))
        x, y = x[some], y[some]
    squared, d = squares(x, owner), owner.max() + 1
    mean, sd = np.array([SCALE] * d + [ALONE] * d + [JOINT, OWN, NOISE]).T
    size = len(mean)

    def objective(theta: Array, gradient: bool = True) -> tuple[float, Array | None]:
        value, slope = likelihood(theta, squared, y, gradient)
        z = (theta - mean) / sd
        return z @ z / 2 - TEMPER * value, z / sd - TEMPER * slope if gradient else None

    modes, step = [], 1e-3
    limits = {"bounds": [BOUNDS] * (size), "options": {"maxiter": ITERATIONS}}
    for scale, *rest in STARTS:
        start = np.array([scale] * 2 * d + rest)
        fit = minimize(objective, start, jac=True, method="L-BFGS-B", **limits)
        if any(np.abs(fit.x - other).max() < 0.2 for other, *_ in modes):
            continue
        moves = step * np.eye(size)
        slopes = [objective(fit.x + m)[1] - objective(fit.x - m)[1] for m in moves]
        hessian = np.array(slopes) / (2 * step)
        curves, axes = np.linalg.eigh((hessian + hessian.T) / 2)
        curves = np.maximum(curves, 1 / sd.max() ** 2)  # never vaguer than the vaguest prior
        modes.append((fit.x, -fit.fun - np.log(curves).sum() / 2, curves, axes))
    share = np.array([evidence for _, evidence, *_ in modes])
    share = np.exp(share - logsumexp(share))
    share = 0.7 * share + 0.3 / len(modes)
    z = rng.standard_normal((CANDIDATES, size))
    z *= WIDER / np.sqrt(rng.chisquare(TAILS, (CANDIDATES, 1)) / TAILS)
    which = rng.choice(len(modes), CANDIDATES, p=share)
    thetas = np.empty_like(z)
    for i, m in enumerate(which):
        mode, _, curves, axes = modes[m]
        thetas[i] = mode + axes @ (z[i] / np.sqrt(curves))
    proposed = []
    for part, (mode, _, curves, axes) in zip(share, modes, strict=True):
        tail = np.log1p((((thetas - mode) @ axes) ** 2 @ curves) / WIDER**2 / TAILS)
        proposed.append(np.log(part) + np.log(curves).sum() / 2 - (TAILS + size) / 2 * tail)
    thetas = np.clip(thetas, BOUNDS[0] - 2, BOUNDS[1] + 2)
    weight = np.array([-objective(theta, gradient=False)[0] for theta in thetas])
    weight -= logsumexp(proposed, axis=0)
    weight = np.cumsum(np.exp(weight - weight.max()))
    even = (rng.random() + np.arange(count)) / count * weight[-1]
    return thetas[np.minimum(np.searchsorted(weight, even), CANDIDATES - 1)]


@dataclass(frozen=True)
class Drawn:
    """k functions from the posterior under one theta, part by part of the kernel.

    Args:
        parts: a kernel part each: (columns [c], weight [c], variance, rows [n, c], then the prior
            draws' omega [c, F], phase [F] and coefficients [F, k]).
        update: [n, k], coefficients of the rows.
    """

    parts: list
    update: Array


def draw(x: Array, owner: Array, y: Array, theta: Array, rng: Rng) -> Drawn:
    """Draw functions by Matheron's rule: a draw from the prior, moved to agree with the rows.

    Args:
        x: [n, C], the rows; y: [n, k], the targets of each of k functions.
        owner: [C], the knob of each column.

    Source: Wilson et al. 2020, Efficiently Sampling Functions from Gaussian Process Posteriors.
    """
    d = owner.max() + 1
    joint, own, noise = np.exp(theta[2 * d :])
    split = [(np.arange(len(owner)), theta[owner], joint, FEATURES)]
    each = [(np.flatnonzero(owner == k), theta[d + k], own, FEATURES // 4) for k in range(d)]
    split += [(c, np.full(len(c), scale), *rest) for c, scale, *rest in each]
    parts = []
    rest = y - rng.standard_normal(y.shape) * noise**0.5
    for columns, scales, variance, features in split:
        # The spectral density of Matern 5/2 is Student's t with 5 degrees of freedom.
        weight = np.exp(-scales)
        omega = rng.standard_normal((len(columns), features)) * weight[:, None]
        omega *= np.sqrt(5 / rng.chisquare(5, features))
        phase = rng.uniform(0, 2 * np.pi, features)
        prior = rng.standard_normal((features, y.shape[1])) * np.sqrt(2 * variance / features)
        rows = x[:, columns]
        rest = rest - _waves(rows, omega, phase, prior)
        parts.append((columns, weight, variance, rows, omega, phase, prior))
    whole = covariance(x, owner, theta)
    return Drawn(parts, cho_solve(cho_factor(whole, lower=True, overwrite_a=True), rest))


def evaluate(groups: list[Drawn], x: Array) -> Array:
    """All functions of all groups at points [m, C]: [K, m]."""
    totals = [0.0] * len(groups)
    for p, (columns, *_) in enumerate(groups[0].parts):
        at, back = x[:, columns], slice(None)
        if p > 0:  # a knob's own part meets few different values
            at, back = np.unique(at, axis=0, return_inverse=True)
            back = back.ravel()
        for g, group in enumerate(groups):
            _, weight, variance, rows, *waves = group.parts[p]
            values = variance * (matern(distance(at, rows, weight)) @ group.update)
            totals[g] = totals[g] + (values + _waves(at, *waves))[back]
    return np.concatenate(totals, 1).T


def _waves(x: Array, omega: Array, phase: Array, prior: Array) -> Array:
    """Prior draws at x; single precision, which is as good as the features are many."""
    return np.cos((x @ omega + phase).astype(np.float32)) @ prior.astype(np.float32)


def kernel(a: Array, b: Array, owner: Array, theta: Array) -> Array:
    """Return the covariance of the function at points [n, C] with that at others [m, C]: [n, m]."""
    d = owner.max() + 1
    joint, own, _ = np.exp(theta[2 * d :])
    total = joint * matern(distance(a, b, np.exp(-theta[owner])))
    for k in range(d):
        total += own * matern(distance(a[:, owner == k], b[:, owner == k], np.exp(-theta[d + k])))
    return total


def covariance(x: Array, owner: Array, theta: Array) -> Array:
    """Return the covariance of the values of runs x [n, C], with their noise: [n, n]."""
    total = kernel(x, x, owner, theta)
    total.flat[:: len(x) + 1] += np.exp(theta[-1]) + JITTER
    return total


def improvement(x: Array, owner: Array, y: Array, at: Array, thetas: Array) -> Array:
    """Return what the function at points [m, C] is expected to have over its best row: [m].

    E max(f(p) - f(b), 0), the mean over theta; b is the row where the function is highest on
    average, so luck of a noisy value is no lead (Frazier 2018, A Tutorial on Bayesian Optimization,
    4.1).

    Args:
        x: [n, C], the rows; y: [n], standardised.
    """
    from scipy.stats import norm

    found = []
    for theta in thetas:
        factor = cho_factor(covariance(x, owner, theta), lower=True, overwrite_a=True)
        rows = kernel(x, x, owner, theta)
        found.append((theta, factor, rows, rows @ cho_solve(factor, y)))
    best = int(np.mean([means for *_, means in found], 0).argmax())
    gains = []
    for theta, factor, rows, means in found:
        d = owner.max() + 1
        joint, own, _ = np.exp(theta[2 * d :])
        across = kernel(x, at, owner, theta)
        known = cho_solve(factor, across)  # [n, m]
        mean = y @ known - means[best]
        spread = joint + own * d - (across * known).sum(0)
        spread += rows[best, best] - rows[best] @ cho_solve(factor, rows[best])
        spread -= 2 * (across[best] - rows[best] @ known)
        sd = np.sqrt(np.maximum(spread, JITTER))
        gains.append(mean * norm.cdf(mean / sd) + sd * norm.pdf(mean / sd))
    return np.mean(gains, 0)


def left_out(x: Array, owner: Array, y: Array, thetas: Array) -> float:
    """Return R2 of predicting each setting's values from the runs of all other settings.

    1 is perfect, 0 as good as the mean of the others, less is worse. Leaving out one setting needs
    no second fit (Rasmussen and Williams, eq. 5.12); theta was fitted to all of them.

    Args:
        x: [n, C]; y: [n], of mean 0; equal rows are one setting.
    """
    _, setting = np.unique(x, axis=0, return_inverse=True)
    groups = [np.flatnonzero(setting.ravel() == s) for s in range(setting.max() + 1)]
    rests = np.zeros(len(y))
    for theta in thetas:
        inverse = np.linalg.inv(covariance(x, owner, theta))
        alpha = inverse @ y
        for rows in groups:
            rests[rows] += np.linalg.solve(inverse[np.ix_(rows, rows)], alpha[rows]) / len(thetas)
    return 1 - float((rests**2).sum()) / left_out_mean(y, groups)


def left_out_mean(y: Array, groups: list[Array]) -> float:
    """Return the sum of squares left by the mean of all other settings' values."""
    n, total = len(y), y.sum()
    means = [(total - y[rows].sum()) / (n - len(rows)) for rows in groups]
    squares = (((y[rows] - mean) ** 2).sum() for rows, mean in zip(groups, means, strict=True))
    return max(float(sum(squares)), JITTER)


def any_effect(x: Array, owner: Array, y: Array, rng: Rng) -> float:
    """Return p of a permutation test that no knob has an effect on the values y [n].

    The statistic is the best prediction of left-out settings under three hyperparameters fixed
    beforehand, so a permutation needs no fit and the test is exact where each setting ran as often.
    Seeds of a setting are averaged.
    """
    x, setting = np.unique(x, axis=0, return_inverse=True)
    setting = setting.ravel()
    y = np.bincount(setting, y) / np.bincount(setting)
    y = (y - y.mean()) / (y.std() or 1.0)
    shuffled = np.stack([y, *(rng.permutation(y) for _ in range(SHUFFLES))], 1)
    errors = []
    d = owner.max() + 1
    for scale, *rest in STARTS:
        inverse = np.linalg.inv(covariance(x, owner, np.array([scale] * 2 * d + rest)))
        rests = inverse @ shuffled / np.diag(inverse)[:, None]
        errors.append((rests**2).sum(0))
    best = np.min(errors, 0)
    return float(np.mean(best <= best[0] * (1 + 1e-9)))
