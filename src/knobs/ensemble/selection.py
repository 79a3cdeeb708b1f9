"""Greedy ensemble selection, and the gain that it brings on rows it has not seen.

Source: Caruana et al. 2004, "Ensemble selection from libraries of models": with replacement, from
the best run on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from knobs.errors import ConfigError
from knobs.models.members import mean_prediction
from knobs.training.metrics import evaluation
from knobs.training.scores import SCORES, score

ROUNDS = 20  # runs that are added at most, some of them several times
RESAMPLES = 1000  # of the rows, for the interval
SEED = 0  # of the halves and the resamples
LEAST_ROWS = 20  # of a half: with fewer nothing is told of the gain


@dataclass(frozen=True)
class Library:
    """Predictions of R runs for the same N validation rows.

    Args:
        outputs: (R, N, C) float32, logits or standardised values.
        targets: (N,) or (N, T).
        task: classification, multilabel or regression.
        std: (T,) of a regression's targets, in their own unit.
        metric: such as accuracy; `mode` is max or min.
    """

    outputs: Tensor
    targets: Tensor
    task: str
    std: Tensor
    metric: str
    mode: str

    def mean(self, counts: Tensor) -> Tensor:
        """Return the mean prediction (N, C) of runs, each counted so many times: (R,) whole."""
        return mean_prediction(self.task, self.outputs.repeat_interleave(counts, 0))

    def value(self, outputs: Tensor, rows: Tensor) -> float:
        """Return the metric of outputs (N, C) on some rows; higher is better whatever the mode.

        Raises:
            ConfigError: a metric of one's own, which only a run can compute.
        """
        guess, truth = outputs[rows], self.targets[rows]
        [usual] = evaluation(self.task, guess.unsqueeze(0), truth, self.std)
        if self.metric in usual:
            found = usual[self.metric]
        elif self.metric in SCORES[self.task]:
            found = score({self.metric: SCORES[self.task][self.metric]}, guess, truth)[self.metric]
        else:
            raise ConfigError(f"{self.metric}: a metric of one's own cannot select an ensemble")
        return found if self.mode == "max" else -found


@dataclass(frozen=True)
class Gain:
    """The metric's gain over the best run, each half of the rows judged by what the other chose.

    Args:
        best, ensemble: the metric of the best run and of the ensemble, in its own sign.
        difference: by how much the ensemble is better; negative where it is worse.
        low, high: 90 % interval of the difference, by a bootstrap over rows.
    """

    best: float
    ensemble: float
    difference: float
    low: float
    high: float


def select(library: Library, rows: Tensor) -> Tensor:
    """Return how often each run is taken, (R,) whole numbers, judged on some rows.

    The run that helps most is added each time, from the best one on, up to ROUNDS; of all the
    ensembles on the way the best one counts, of equal ones the smallest.
    """
    runs = len(library.outputs)
    counts = torch.zeros(runs, dtype=torch.long)
    best, best_counts = -float("inf"), counts
    for _ in range(ROUNDS):
        tried = []
        for run in range(runs):
            counts[run] += 1
            tried.append(library.value(library.mean(counts), rows))
            counts[run] -= 1
        run = max(range(runs), key=tried.__getitem__)
        counts[run] += 1
        if tried[run] > best:
            best, best_counts = tried[run], counts.clone()
    return best_counts


def gain(library: Library) -> Gain | None:
    """Return what selection gains on rows it has not seen; None where there are too few.

    Selected on one half of the rows and measured on the other, both ways.
    """
    generator = torch.Generator().manual_seed(SEED)
    halves = torch.randperm(len(library.targets), generator=generator).chunk(2)
    if len(halves) < 2 or min(map(len, halves)) < LEAST_ROWS:
        return None
    pairs = []
    for chosen_on, held in (halves, halves[::-1]):
        values = [library.value(outputs, chosen_on) for outputs in library.outputs]
        single = library.outputs[max(range(len(values)), key=values.__getitem__)]
        pairs.append((held, single, library.mean(select(library, chosen_on))))
    shares = [len(held) / len(library.targets) for held, _, _ in pairs]

    def judged(places: list[Tensor]) -> tuple[float, float]:
        both = [
            (library.value(single, rows), library.value(together, rows))
            for rows, (_, single, together) in zip(places, pairs, strict=True)
        ]
        best, ensemble = (
            sum(s * v for s, v in zip(shares, of, strict=True)) for of in zip(*both, strict=True)
        )
        return best, ensemble

    best, ensemble = judged([held for held, _, _ in pairs])
    differences = torch.empty(RESAMPLES, dtype=torch.float64)
    for i in range(RESAMPLES):
        drawn = [
            held[torch.randint(len(held), (len(held),), generator=generator)]
            for held, _, _ in pairs
        ]
        a, b = judged(drawn)
        differences[i] = b - a
    low, high = (
        differences[differences.isfinite()]
        .quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
        .tolist()
    )
    sign = 1 if library.mode == "max" else -1
    return Gain(sign * best, sign * ensemble, ensemble - best, low, high)
