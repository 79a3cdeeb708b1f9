"""The usual metrics of a split, by task. All are means over the whole split.

Each function takes the outputs of one run, or of the K runs of a stack at once.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.data import Data
from knobs.losses import BY_TASK, Loss


def evaluation(
    task: str,
    outputs: Tensor,
    targets: Tensor,
    target_std: float | Tensor,
    loss: Loss | None = None,
    weight: Tensor | None = None,
) -> list[dict]:
    """Return the metrics of K runs on one split.

    Args:
        outputs: [K, N, outputs].
        targets: (N,), or (N, T) of several targets or labels.
        target_std: of a regression's standardised targets, in their own unit; (T,) of several.
        loss: what the runs minimize, where it is not the usual one of the task.
        weight: (N,) of the examples, which the loss alone takes.
    """
    if task == "regression":
        guess = loss.predictions(outputs) if loss else outputs
        columns = regression(guess, targets, target_std)
    elif task == "multilabel":
        columns = multilabel(outputs, targets)
    else:
        columns = classification(outputs, targets)
    if weight is not None or (loss and loss.function is not BY_TASK[task]):
        of = loss or Loss(BY_TASK[task])
        columns["loss"] = of.validation(outputs, targets, weight).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def classification(outputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Return cross-entropy, accuracy, and macro F1 over the classes that occur.

    Args:
        outputs: [K, N, classes] logits.
        targets: (N,) class numbers.
    """
    runs, n, classes = outputs.shape
    losses = F.cross_entropy(outputs.flatten(0, 1), targets.repeat(runs), reduction="none")
    pairs = targets * classes + outputs.argmax(-1)
    pairs += torch.arange(runs, device=pairs.device).unsqueeze(1) * classes**2
    confusion = torch.bincount(pairs.flatten(), minlength=runs * classes**2)
    confusion = confusion.view(runs, classes, classes)
    hits, both = confusion.diagonal(dim1=1, dim2=2), confusion.sum(1) + confusion.sum(2)
    return {
        "loss": losses.view(runs, n).mean(1).tolist(),
        "accuracy": [hit / n for hit in hits.sum(1).tolist()],
        # F1 = 2 TP / (actual + guessed); a class neither there nor guessed has none, 0 / 0.
        "f1": (2 * hits / both).nanmean(1).tolist(),
    }


def multilabel(outputs: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Return binary cross-entropy, accuracy, and macro F1 over the labels, of decisions at p = 1/2.

    Accuracy is the share of examples with every label right, as scikit-learn's: the share of right
    labels is near 1 for a model that finds none. F1 is 0 for a label that is neither there nor
    guessed.

    Args:
        outputs: [K, N, labels] logits.
        targets: (N, labels) 0 or 1.
    """
    losses = F.binary_cross_entropy_with_logits(
        outputs, targets.expand_as(outputs), reduction="none"
    )
    guess, truth = outputs > 0, targets > 0
    both = (guess.sum(1) + truth.sum(0)).clamp(min=1)
    return {
        "loss": losses.mean((1, 2)).tolist(),
        "accuracy": (guess == truth).all(2).double().mean(1).tolist(),
        "f1": (2 * (guess & truth).sum(1) / both).mean(1).tolist(),
    }


def regression(
    outputs: Tensor, targets: Tensor, target_std: float | Tensor = 1.0
) -> dict[str, list[float]]:
    """Return the MSE of standardised targets, R2, and RMSE and MAE in the target's own unit.

    Of several targets the mean of each, whatever their units.

    Args:
        outputs: [K, N, T].
        targets: (N,) standardised, or (N, T).
        target_std: one standard deviation, in the target's unit; (T,) of several.
    """
    if targets.ndim == 2:
        stds = torch.as_tensor(target_std).expand(targets.shape[1]).to(outputs)
        parts = zip(outputs.split(1, -1), targets.unbind(1), stds, strict=True)
        each = [regression(*part) for part in parts]
        return {
            name: [
                sum(values) / len(values) for values in zip(*(e[name] for e in each), strict=True)
            ]
            for name in each[0]
        }
    if isinstance(target_std, Tensor):
        target_std = target_std.to(outputs)
    error = outputs.squeeze(-1) - targets
    squared = (error**2).mean(1)
    variance = targets.var(correction=0)
    return {
        "loss": squared.tolist(),
        "r2": (1 - squared / variance).tolist(),
        "rmse": (squared.sqrt() * target_std).tolist(),
        "mae": (error.abs().mean(1) * target_std).tolist(),
    }


def constant_baseline(data: Data, metric: str) -> float | None:
    """Return an objective on the validation split without a model; None where it is not known.

    Accuracy, or mean recall, of the most frequent class of the training split, R2 of its mean
    target (of several targets the mean R2).
    """
    targets, trained = data.val.y.cpu(), data.train.y.cpu()
    if data.task == "classification" and metric == "val/accuracy":
        return (targets == trained.bincount().argmax()).double().mean().item()
    if data.task == "classification" and metric == "val/balanced_accuracy":
        occurring = targets.unique()
        return (occurring == trained.bincount().argmax()).double().mean().item()
    if data.task == "regression" and metric == "val/r2":  # a standardised mean is 0
        outputs = torch.zeros(1, *targets.shape[:1], targets[0].numel(), dtype=torch.float64)
        return regression(outputs, targets.double(), 1.0)["r2"][0]
    return None
