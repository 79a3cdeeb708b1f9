"""Tables -> the prior that comes with the package."""

import argparse
import hashlib
import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from knobs import storage
from knobs.errors import DataError
from knobs.search import prior, table
from knobs.search.coordinates import NAMES, NUMBERS, context, coordinates
from knobs.search.learn import settings
from knobs.search.prior import Group, Prior, Process

COMMAND = ("python", "-m", "knobs.search.learn")
FACTS = ("task", "source", "fold", "type", "rows", "inputs", "classes")
STEPS = 150  # of the fit, at most
# What a setting of the table has where its overrides do not say it.
PLAIN = {"regularization.norm": None, "regularization.dropout": 0.0,
         "regularization.label_smoothing": 0.0, "model.embedding_dim": None}  # fmt: skip


def learn(given: argparse.Namespace, words: Sequence[str]) -> int:
    """Make the prior of the tables in a folder, and tell; return the exit code.

    Args:
        given: the command line. words: the same as typed.

    Raises:
        DataError: there are none, or one is damaged. ConfigError: no such task.
    """
    paths = sorted(given.folder.glob(f"*{table.ENDING}"))
    if given.tasks:
        paths = [given.folder / f"{name}{table.ENDING}" for name in sorted(given.tasks.split(","))]
    if not paths:
        first = "make some: python -m knobs.search.learn"
        raise DataError(f"{given.folder}: no {table.ENDING} files; {first}")
    out = given.out or prior.FILE
    made = of_tables([*map(table.read, paths)], shlex.join([*COMMAND, *words]))
    storage.write(out, prior.encode(made), sync=True)
    print(f"{out}: {made.tasks} tasks, {out.stat().st_size:,} bytes")
    return 0


def of_tables(tables: Sequence[table.Table], command: str = "") -> Prior:
    """Make a prior of tables.

    Raises:
        DataError: the settings of one meant others when it was made, or differ from those of the
            other tables of its model.
    """
    groups = []
    for kind in sorted({found.facts["model"] for found in tables}):
        mine = [found for found in tables if found.facts["model"] == kind]
        for found in mine:
            settings.overrides_of(found)
            if not np.array_equal(found.units, mine[0].units):
                raise DataError(
                    f"the table of {found.facts['task']}: other settings than that of "
                    f"{mine[0].facts['task']}; make both with the same --shapes"
                )
        points = points_of(mine[0])
        scores = np.stack([scores_of(found) for found in mine])
        tasks = [{name: found.facts[name] for name in FACTS} | _digest(found) for found in mine]
        groups.append(Group(kind, tasks, points, scores))
    about = {"date": datetime.now(UTC).date().isoformat(), "command": command}
    return Prior(groups, fitted(groups), about)


def _digest(found: table.Table) -> dict[str, str]:
    """Return a digest of a table's curves and data."""
    content = found.curves.tobytes() + found.units.tobytes() + found.facts["data"].encode()
    return {"digest": hashlib.sha256(content).hexdigest()[:16]}


def points_of(found: table.Table) -> np.ndarray:
    """Return the coordinates of a table's settings, (settings, coordinates).

    Those of label smoothing are those of a task with classes.
    """
    facts = found.facts
    lines = settings.overrides(facts["model"], True, facts["shapes"], found.units)
    mappings = [PLAIN | dict(map(_parsed, own)) for shape in lines for own in shape]
    return np.nan_to_num(coordinates(context({"model": facts["model"]}), mappings), nan=0.5)


def _parsed(line: str) -> tuple[str, Any]:
    key, _, text = line.partition("=")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def losses_of(found: table.Table) -> np.ndarray:
    """Return, of each setting, the mean over its seeds of the best objective, low is good.

    A run that diverged counts as what it reached before, if anything.
    """
    facts, values = found.facts, found.curves[0].astype(float)
    values = -values if facts["mode"] == "max" else values
    best = np.nanmin(np.where(np.isnan(values), np.inf, values), 1)
    return best.reshape(-1, facts["seeds"]).mean(1)


def scores_of(found: table.Table) -> np.ndarray:
    """Return the scores of a table's settings."""
    return prior.normal_scores(losses_of(found))


def fitted(groups: Sequence[Group]) -> Process:
    """Return the process that makes the scores of all groups likeliest, MAP."""
    count = len(NUMBERS)
    begin = torch.cat([
        torch.full((count,), -0.5), torch.full((len(NAMES),), -3.0),
        torch.tensor([0.0, -1.5, 0.5, -1.0, -1.5]),
    ]).double()  # fmt: skip
    free = begin.clone().requires_grad_()
    data = [
        (
            [torch.tensor(prior.apart(group.points, group.points, j)) for j in range(len(NAMES))],
            torch.tensor(group.scores.astype(float)),
        )
        for group in groups
    ]

    def process(free: torch.Tensor) -> Process:
        lengths, amplitudes, rest = free[:count], free[count : count + len(NAMES)], free[-5:]
        pairs, whole, stretch, other, noise = rest
        return Process(
            lengths.exp(), amplitudes.exp(), pairs.exp(), whole.exp(), 1 + stretch.exp(),
            other.sigmoid(), noise.exp(),
        )  # fmt: skip

    optimizer = torch.optim.LBFGS([free], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        own, total = process(free), ((free - begin) ** 2).sum() / 2
        for distances, scores in data:
            factors = (own.factors(j, apart, torch.exp) for j, apart in enumerate(distances))
            noise = (own.noise + prior.JITTER) * torch.eye(scores.shape[1])
            cov = own.combined(factors) + noise
            factor = torch.linalg.cholesky(cov)
            white = torch.linalg.solve_triangular(factor, scores.T, upper=False)
            total = total + len(scores) * factor.diagonal().log().sum() + (white**2).sum() / 2
        total.backward()
        return total

    optimizer.step(closure)
    with torch.no_grad():
        own = process(free)
    return Process(**{
        name: [round(float(v), 5) for v in value] if value.ndim else round(float(value), 5)
        for name, value in vars(own).items()
    })  # fmt: skip
