"""The prior of other tasks: a distribution over how good a setting is on a task not yet seen.

A score is what a setting is worth among those of its task: the normal quantile of its rank, low is
good. Each task of a Prior has scores of the same settings. A Gaussian process makes a smooth
function of each task's; a new task is taken to be a draw from these functions: their mean, their
covariance, and what the process itself leaves open. The process is that of all tasks of a prior
(`Process`), a sum of effects of single coordinates, of pairs, and of all together, so that a
coordinate that nothing is known of is averaged out.
Sources: Golovin et al. 2017 (Vizier) and Wang et al. 2021 (HyperBO, arXiv:2109.08215) for priors of
other tasks; Durrande et al. 2012 for additive kernels.

The file is of safetensors: for each model kind `points` (settings, coordinates) float32 and
`scores` (tasks, settings) float16, and of itself the process, the tasks, version, date, command.
"""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from knobs import storage
from knobs.errors import DataError, first_line
from knobs.search import coordinates
from knobs.search.coordinates import NAMES, OPTIONS
from knobs.search.space import Knobs

VERSION = 1
FILE = Path(__file__).with_name("prior.safetensors")
MOST_BYTES = 300_000
ENOUGH = 5  # tasks of a kind of model, with which those of other kinds are left out
FOREIGN = 0.1  # weight of a task of another type, where there are ENOUGH of the same
JITTER = 1e-6
UNSAID = -9.0  # far from any coordinate


@dataclass(frozen=True)
class Process:
    """A Gaussian process over coordinates, in units of the scores' variance.

    Args:
        lengths: of NUMBERS. amplitudes: of NAMES.
        pairs, whole: weight of the pairs of coordinates, and of all of them together.
        stretch: of the lengths there. other: correlation of other options there.
        noise: variance.
    """

    lengths: Sequence[float]
    amplitudes: Sequence[float]
    pairs: float
    whole: float
    stretch: float
    other: float
    noise: float

    def factors(self, j: int, apart: Any, exp: Callable = np.exp) -> tuple[Any, Any]:
        """Return k_j and k'_j of `combined`, of a coordinate.

        Args:
            apart: squared distances of numbers; 0 or 1, whether options differ.
        """
        if j < len(OPTIONS):
            return 1 - apart, 1 - (1 - self.other) * apart
        length = self.lengths[j - len(OPTIONS)]
        return exp(-0.5 * apart / length**2), exp(-0.5 * apart / (length * self.stretch) ** 2)

    def combined(self, factors: Iterable[tuple[Any, Any]]) -> Any:
        """Return the covariance of settings.

        sum_j a_j k_j + pairs sum_{j<l} a_j k_j a_l k_l + whole prod_j k'_j
        """
        once, squares, product = 0.0, 0.0, 1.0
        pairs = zip(self.amplitudes, factors, strict=True)
        # What is the same in all rows comes first: it costs a row.
        for amplitude, (near, far) in sorted(pairs, key=lambda pair: pair[1][0].shape[0]):
            part = amplitude * near
            once, squares, product = once + part, squares + part**2, product * far
        return once + self.pairs * (once**2 - squares) / 2 + self.whole * product

    def averages(self, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the factors of a setting that says nothing, which is any of b, with those of b."""
        pairs = (self.factors(j, apart(b, b, j)) for j in range(len(NAMES)))
        return [(near.mean(0, keepdims=True), far.mean(0, keepdims=True)) for near, far in pairs]

    def between(
        self, a: np.ndarray, b: np.ndarray, averages: Sequence[tuple] | None = None
    ) -> np.ndarray:
        """Return the covariance of settings a (n, coordinates) with b (m, coordinates): (n, m).

        Args:
            averages: of b; for coordinates that a setting of a does not say.
        """

        def factors(j: int) -> tuple[np.ndarray, np.ndarray]:
            missing = np.isnan(a[:, j])
            if averages and missing.all():
                return averages[j]
            near, far = self.factors(j, apart(a[:1] if (a[:, j] == a[0, j]).all() else a, b, j))
            if averages and missing.any():
                rows, (mean, other) = missing[:, None], averages[j]
                near, far = np.where(rows, mean, near), np.where(rows, other, far)
            return near, far

        whole = self.combined(map(factors, range(len(NAMES))))
        return np.broadcast_to(whole, (len(a), len(b)))

    def among(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the same for settings of one search: what neither says is the same in both."""
        return self.between(np.nan_to_num(a, nan=UNSAID), np.nan_to_num(b, nan=UNSAID))

    @property
    def variance(self) -> float:
        """Return that of any setting."""
        a = np.array(self.amplitudes)
        return float(a.sum() + self.pairs * (a.sum() ** 2 - (a**2).sum()) / 2 + self.whole)


def apart(a: np.ndarray, b: np.ndarray, coordinate: int) -> np.ndarray:
    """Return (n, m) squared distances, or whether options differ."""
    x, y = a[:, coordinate, None], b[None, :, coordinate]
    return (x != y) * 1.0 if coordinate < len(OPTIONS) else (x - y) ** 2


@dataclass(frozen=True)
class Group:
    """Tasks with scores of the same settings.

    Args:
        kind: of their model. tasks: what is known of each, its name at least.
        points: (settings, coordinates). scores: (tasks, settings).
    """

    kind: str
    tasks: Sequence[Mapping[str, Any]]
    points: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Outlook:
    """A prior at some settings.

    Args:
        mean: (n,). parts: (n, tasks), whose products are the covariance between tasks.
        points: (n, coordinates). whitened: (n, settings of the tasks), whose products are what
            these take from the covariance of the process.
    """

    mean: np.ndarray
    parts: np.ndarray
    points: np.ndarray
    whitened: np.ndarray
    process: Process

    def covariance(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the covariance of some of the settings with others."""
        own = self.process.among(self.points[rows], self.points[columns])
        own = own - self.whitened[rows] @ self.whitened[columns].T
        return own + self.parts[rows] @ self.parts[columns].T

    def variance(self) -> np.ndarray:
        """Return the variance of each."""
        own = self.process.variance - (self.whitened**2).sum(1)
        return np.maximum(own, JITTER) + (self.parts**2).sum(1)


@dataclass(frozen=True)
class Prior:
    """Knowledge of other tasks.

    Args:
        about: its version, date and command; `digest`: of the file.
    """

    groups: Sequence[Group]
    process: Process
    about: Mapping[str, Any]

    @property
    def tasks(self) -> int:
        """Count the tasks."""
        return sum(len(group.tasks) for group in self.groups)

    @property
    def name(self) -> str:
        """Return what tells it from others."""
        return (
            f"learned {self.about.get('date', '')} {str(self.about.get('digest', ''))[:12]}".strip()
        )

    def view(self, knobs: Knobs, context: Mapping[str, Any]) -> "View | None":
        """Return it as a search of these knobs sees it; None where it knows none of them.

        Args:
            context: config key or group -> its value, of what is not searched.
        """
        fixed = coordinates.context(context)
        return View(self, fixed) if any(map(coordinates.known, knobs)) else None

    def alike(self, kind: str | None) -> list[int]:
        """Return which groups speak of a kind of model: its own, or all where it has too few."""
        own = [i for i, group in enumerate(self.groups) if group.kind == kind]
        enough = sum(len(self.groups[i].tasks) for i in own) >= ENOUGH
        return own if enough else [*range(len(self.groups))]

    def count(self, kind: str | None) -> int:
        """Count the tasks that speak of a kind of model."""
        return sum(len(self.groups[i].tasks) for i in self.alike(kind))

    def weights(self, kind: str | None, task: str | None) -> np.ndarray:
        """Return how much each task that speaks of a kind of model counts, 1 in sum.

        Args:
            task: the type of the new one, classification or regression; None: all count alike.
        """
        types = [about.get("type") for i in self.alike(kind) for about in self.groups[i].tasks]
        own = np.array([of == task for of in types])
        weights = np.where(own | (own.sum() < ENOUGH), 1.0, FOREIGN)
        return weights / weights.sum()

    @functools.cached_property
    def _solved(self) -> list[tuple[np.ndarray, np.ndarray, list]]:
        """Return of each group the inverse Cholesky factor, weights, and averages."""
        found = []
        for group in self.groups:
            own = self.process.between(group.points, group.points)
            own = own + (self.process.noise + JITTER) * np.eye(len(group.points))
            factor = np.linalg.inv(np.linalg.cholesky(own))
            weights = factor.T @ (factor @ group.scores.T.astype(float))
            found.append((factor, weights, self.process.averages(group.points)))
        return found

    def functions(self, points: np.ndarray, kind: str | None) -> np.ndarray:
        """Return the smooth score of each task at settings, (n, tasks); as for `at`."""
        return self._functions(points, kind)[0]

    def _functions(self, points: np.ndarray, kind: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the functions, and what they take from the process's covariance, whitened."""
        functions, whitened = [], None
        for i in self.alike(kind):
            group, (factor, weights, averages) = self.groups[i], self._solved[i]
            own = self.process.between(points, group.points, averages)
            functions.append(own @ weights)
            if whitened is None or group.kind == kind:
                whitened = own @ factor.T
        return np.concatenate(functions, 1), whitened

    def at(self, points: np.ndarray, kind: str | None, task: str | None = None) -> Outlook:
        """Return the prior at settings.

        Args:
            points: coordinates, (n, len(NAMES)).
            kind: of the model; None, or one that too few tasks have: all count alike.
            task: its type; see `weights`.
        """
        values, whitened = self._functions(points, kind)
        weights = self.weights(kind, task)
        mean = values @ weights
        parts = (values - mean[:, None]) * np.sqrt(weights)
        return Outlook(mean, parts, points, whitened, self.process)

    def shuffled(self, seed: int) -> "Prior":
        """Return a prior whose scores belong to other settings: what a control takes."""
        draw = np.random.default_rng(seed)
        groups = [
            replace(g, scores=g.scores[:, draw.permutation(g.scores.shape[1])]) for g in self.groups
        ]
        return Prior(groups, self.process, dict(self.about))


@dataclass(frozen=True)
class View:
    """A prior as a search sees it.

    Args:
        fixed: what its config says of any setting, from `coordinates.context`.
    """

    prior: Prior
    fixed: Mapping[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """Return what a report says of it."""
        tasks = self.prior.count(self.fixed.get("model"))
        return {"tasks": tasks, "date": self.prior.about.get("date", "")}

    def outlook(self, points: Sequence[Mapping[str, Any]]) -> Outlook:
        """Return the prior at values of the search's knobs."""
        rows, of = coordinates.coordinates(self.fixed, points), self.fixed
        return self.prior.at(rows, of.get("model"), of.get("type"))


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Return the normal quantiles of ranks, low for low values; NaN and inf are the highest.

    Equal values have equal scores. Along the last axis.
    """
    from scipy import stats  # late: a second

    values = np.where(np.isfinite(values), values, np.inf)
    ranks = stats.rankdata(values, axis=-1)
    return stats.norm.ppf((ranks - 0.5) / values.shape[-1])


# ------------------------------------------------------------------ the file
def encode(prior: Prior) -> bytes:
    """Return the file of a prior."""
    from safetensors.numpy import save

    tensors = {}
    for group in prior.groups:
        tensors[f"{group.kind}.points"] = group.points.astype(np.float32)
        tensors[f"{group.kind}.scores"] = group.scores.astype(np.float16)
    told = {"digest": storage.UNSIGNED, "version": VERSION, "coordinates": [*NAMES]}
    told |= {"process": vars(prior.process), **prior.about}
    told |= {"tasks": {group.kind: list(group.tasks) for group in prior.groups}}
    data = storage.signed(save(tensors, {"knobs": json.dumps(told)}))
    assert len(data) <= MOST_BYTES, f"a prior of {len(data):,} bytes"
    return data


@functools.cache
def learned(path: Path = FILE) -> Prior:
    """Read the prior that comes with the package.

    Raises:
        DataError: it cannot be read, is damaged, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    fix = "install knobs again, or search.prior=none"
    try:
        data = path.read_bytes()
        told = storage.about(data)
        if told["version"] != VERSION or told["coordinates"] != [*NAMES]:
            raise ValueError(f"version {told['version']}, and this is version {VERSION}")
        tensors, process = load(data), Process(**told["process"])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); {fix}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: no prior ({first_line(error)}); {fix}") from None
    groups = [
        Group(kind, tasks, tensors[f"{kind}.points"].astype(float), tensors[f"{kind}.scores"])
        for kind, tasks in told["tasks"].items()
    ]
    return Prior(groups, process, told)
