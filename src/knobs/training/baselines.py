"""Baselines of a run: a constant prediction, and a linear model of the same inputs."""

import logging
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs import rng
from knobs.data import Data, Stream, Tensors, take
from knobs.data.inputs import BLOCK
from knobs.losses import BY_TASK, Loss
from knobs.training.metrics import constant_baseline, evaluation
from knobs.training.scores import Score, score

MOST_FEATURES = 1024  # of a linear model; more are hashed into as many
MOST_WORK = 20_000_000  # rows x features x outputs that it is fitted on
LEAST_ROWS = 1000
STEPS, TOLERANCE = 100, 1e-4  # of L-BFGS, as scikit-learn has them: at most; the last slope
log = logging.getLogger("knobs")


def baselines(data: Data, metric: str, scores: dict[str, Score], loss: Loss) -> dict[str, Any]:
    """Return an objective on the validation split of a constant and of a linear model.

    Ridge or logistic regression with scikit-learn's penalties, on the run's own inputs: numbers,
    pixels, or counts of tokens. Nothing here fails a run: what cannot be had is None.

    Args:
        metric: the objective, such as val/r2.
        scores: functions of the metrics that the config asks for.
        loss: what the run minimizes; val/loss is computed where it is the usual one.

    Returns:
        `constant` and `linear`; `linear_on` says what that was fitted on where it is not all.
    """
    found: dict[str, Any] = {"constant": None, "linear": None}
    try:
        found["constant"] = constant_baseline(data, metric)
        found |= _linear(data, metric, scores, loss)
    except Exception as error:
        log.warning("no linear baseline: %s: %s", type(error).__name__, error)
    return found


def _linear(data: Data, metric: str, scores: dict[str, Score], loss: Loss) -> dict[str, Any]:
    usual = loss.function is BY_TASK[data.task] and not loss.weights
    known = usual or metric != "val/loss"
    if isinstance(data.train, Stream) or isinstance(data.val, Stream) or not known:
        return {}
    split = data.train
    if not isinstance(split.x, Tensor):
        return {}
    outputs = data.shape.outputs
    wide = data.shape.vocabulary or data.shape.features
    features = min(wide, MOST_FEATURES)
    most = max(LEAST_ROWS, MOST_WORK // (features * outputs))
    on = []
    if len(split) > most:
        places = torch.from_numpy(rng.sampled(torch.arange(len(split)).numpy(), most))
        on = [f"{most:,} of {len(split):,} training rows"]
        batch = take(split, places.to(split.y.device))
        split = Tensors(batch.x, batch.y, batch.weight)
    on += [f"{wide:,} features hashed to {features:,}"] * (features < wide)
    x = _features(split.x, data.shape.vocabulary)
    weight = torch.ones(len(x)) if split.weight is None else split.weight.cpu()
    fitted = ridge if data.task == "regression" else logistic
    coefficients, bias = fitted(x, split.y.cpu(), weight, outputs)
    # In blocks: those of a text are as wide as its vocabulary.
    blocks = data.val.x.split(BLOCK)
    guess = torch.cat([_features(x, data.shape.vocabulary) @ coefficients for x in blocks]) + bias
    y = data.val.y.cpu()
    of = None if data.val.weight is None else data.val.weight.cpu()
    std = data.target_std.to(guess)
    [values] = evaluation(data.task, guess.unsqueeze(0), y, std, None, of)
    name = metric.partition("/")[2]
    value = values[name] if name in values else score({name: scores[name]}, guess, y)[name]
    if not math.isfinite(value):
        return {}
    return {"linear": value} | ({"linear_on": ", ".join(on)} if on else {})


def _features(x: Tensor, vocabulary: int) -> Tensor:
    """Return (N, F) float32 inputs of a linear model: pixels laid flat, tokens counted.

    Beyond MOST_FEATURES, feature j is added to feature j modulo MOST_FEATURES. The ids of tokens go
    by frequency, so the frequent ones do not meet. Source: Weinberger et al. 2009, arXiv:0902.2206.
    """
    x = x.cpu().flatten(1)
    if vocabulary:
        counts = torch.zeros(len(x), min(vocabulary, MOST_FEATURES))
        real = (x != 0).float()
        return counts.scatter_add_(1, x.long() % MOST_FEATURES, real)
    if x.shape[1] <= MOST_FEATURES:
        return x.float()
    padded = F.pad(x.float(), (0, -x.shape[1] % MOST_FEATURES))
    return padded.unflatten(1, (-1, MOST_FEATURES)).sum(1)


def ridge(
    x: Tensor, y: Tensor, weight: Tensor, outputs: int, alpha: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return coefficients (F, T) and bias (T,): least squares plus alpha |coefficients|^2.

    In closed form, in float64. Source: scikit-learn's Ridge, with its default alpha.

    Args:
        x: (N, F). y: (N,) or (N, T). weight: (N,) of the examples.
    """
    x, y, share = x.double(), y.double().view(len(y), outputs), (weight / weight.sum()).double()
    x_mean, y_mean = share @ x, share @ y
    x, y = x - x_mean, y - y_mean
    weighted = x * weight.double().unsqueeze(1)
    penalty = alpha * torch.eye(x.shape[1], dtype=x.dtype)
    coefficients = torch.linalg.solve(weighted.mT @ x + penalty, weighted.mT @ y)
    return coefficients.float(), (y_mean - x_mean @ coefficients).float()


@torch.no_grad()
def logistic(
    x: Tensor, y: Tensor, weight: Tensor, outputs: int, c: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return coefficients (F, C) and bias (C,): c times the summed log loss plus half the squares.

    Multinomial for classes (N,), one by one for labels (N, L). By L-BFGS, on inputs centred and
    scaled to about one curvature, under the penalty of the inputs as they are.
    Source: scikit-learn's LogisticRegression, with its default C.

    Args:
        x: (N, F). weight: (N,) of the examples.
    """
    total, mean = float(weight.sum()), (weight / weight.sum()) @ x
    x = x - mean
    scale = (weight @ x.square() / 4 + 1 / c).rsqrt() * total**0.5
    x = x * scale
    # Of two classes scikit-learn has one vector; two that are opposite have half its squares.
    penalty = (2.0 if y.ndim == 1 and outputs == 2 else 1.0) / c / total * scale.unsqueeze(1) ** 2
    truth = y if y.ndim == 2 else F.one_hot(y, outputs).to(x)
    share = (weight / total).unsqueeze(1)
    parameters = torch.zeros(x.shape[1] + 1, outputs, requires_grad=True)

    def objective() -> Tensor:
        rows, bias = parameters[:-1], parameters[-1]
        logits = torch.addmm(bias, x, rows)
        if y.ndim == 2:
            guess = logits.sigmoid()
            losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        else:
            logs = logits.log_softmax(1)
            guess, losses = logs.exp(), -logs * truth
        slopes = (guess - truth) * share
        parameters.grad = torch.cat([x.mT @ slopes + penalty * rows, slopes.sum(0, keepdim=True)])
        return (losses * share).sum() + (penalty * rows.square()).sum() / 2

    solver = torch.optim.LBFGS(
        [parameters], max_iter=STEPS, tolerance_grad=TOLERANCE, tolerance_change=0,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip
    solver.step(objective)
    coefficients = parameters[:-1] * scale.unsqueeze(1)
    return coefficients, parameters[-1] - mean @ coefficients
