"""A prior of one's own earlier sweeps: a Gaussian process of each, over the cube of this search."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knobs.search.belief import Cube, fitted, matern
from knobs.search.prior import Outlook, normal_scores
from knobs.search.space import Choice, Knob, Knobs

LEAST = 5  # runs of a sweep
MOST = 300  # of its runs, evenly spread over their order: a process costs their cube
FAR = 1e6  # length of a knob that a sweep does not know


@dataclass(frozen=True)
class Before:
    """An earlier sweep.

    Args:
        name: its folder. rows: knob -> value, of each run. losses: of each, low is good.
    """

    name: str
    rows: Sequence[Mapping[str, Any]]
    losses: Sequence[float]

    def knows(self, knobs: Knobs) -> list[str]:
        """Return the knobs that have two values or more there."""
        units = {n: {_unit(knob, row.get(n)) for row in self.rows} for n, knob in knobs.items()}
        return [name for name, there in units.items() if len(there - {None}) > 1]


@dataclass(frozen=True)
class OwnSweeps:
    """Earlier sweeps as a prior; takes the place of `prior.Prior`."""

    sweeps: Sequence[Before]

    @property
    def name(self) -> str:
        """Return what tells it from others: of the runs, not of where they lie."""
        text = json.dumps([[b.rows, b.losses] for b in self.sweeps], sort_keys=True, default=str)
        return f"sweeps {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def view(self, knobs: Knobs, context: Mapping[str, Any]) -> "SweepsView | None":
        """Return it as a search of these knobs sees it; None where it knows none of them."""
        mine = [before for before in self.sweeps if before.knows(knobs)]
        if not mine:
            return None
        names = [before.name for before in self.sweeps]
        return SweepsView([_Surface(before, knobs) for before in mine], knobs, names)


@dataclass(frozen=True)
class SweepsView:
    """Earlier sweeps as a search of some knobs sees them."""

    surfaces: Sequence["_Surface"]
    knobs: Knobs
    names: Sequence[str]

    @property
    def told(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {"sweeps": [*self.names]}

    def outlook(self, points: Sequence[Mapping[str, Any]]) -> Outlook:
        """Return the prior at values of the search's knobs."""
        cube = np.array([[k.to_unit(p[n]) for n, k in self.knobs.items()] for p in points])
        found = [surface.at(cube) for surface in self.surfaces]
        values = np.stack([mean for mean, _ in found], 1)
        mean = values.mean(1)
        parts = (values - mean[:, None]) / math.sqrt(len(found))
        largest = max(range(len(found)), key=lambda i: len(self.surfaces[i].cube.points))
        return Outlook(mean, parts, cube, found[largest][1], self.surfaces[largest])


class _Surface:
    """The process of one sweep. As a `prior.Process`: its covariance, of variance 1."""

    variance = 1.0

    def __init__(self, before: Before, knobs: Knobs):
        names = before.knows(knobs)
        rows = [[_unit(knobs[name], row.get(name)) for name in names] for row in before.rows]
        whole = [i for i, row in enumerate(rows) if None not in row]
        whole = whole[:: max(1, -(-len(whole) // MOST))]
        points = np.full((len(whole), len(knobs)), 0.5)
        points[:, [name in names for name in knobs]] = [rows[i] for i in whole]
        options = np.array([isinstance(knob, Choice) for knob in knobs.values()])
        scores = normal_scores(np.array([before.losses[i] for i in whole], float))
        self.cube = Cube(points, options)
        known = np.array([name in names for name in knobs])
        lengths, noise = fitted(self.cube, scores)
        self.lengths = np.where(known, lengths, FAR)
        own = self.among(points, points) + noise * np.eye(len(points))
        self.factor = np.linalg.inv(np.linalg.cholesky(own))
        self.solved = self.factor.T @ (self.factor @ scores)

    def among(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the covariance of points of the cube."""
        both = Cube(np.r_[a, b], self.cube.options)
        squares = both.squares(slice(0, len(a)), slice(len(a), None))
        return matern(np.tensordot(self.lengths**-2.0, squares, 1))

    def at(self, cube: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean at points, and what takes their variance down: (n,), (n, runs)."""
        own = self.among(cube, self.cube.points)
        return own @ self.solved, own @ self.factor.T


def _unit(knob: Knob, value: Any) -> float | None:
    """Return where a value lies in the cube; None where it has no place."""
    if isinstance(knob, Choice):
        return knob.to_unit(value) if knob.contains(value) else None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return knob.to_unit(value) if number and math.isfinite(value) else None
