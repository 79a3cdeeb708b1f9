"""Losses: what training minimizes. A function of outputs and targets to a value per example.

Each works over any leading dimensions: of one run's tensors the values are (N,), of a stack's,
which have one more dimension in front, [K, N]. `Loss` is one of them as the loops use it.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from knobs.errors import ConfigError, DataError, MemoryShortage, for_a_person
from knobs.signals import exits

Facts = float | Tensor  # of one target, or (T,)


def cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    smoothing: float | Tensor = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return -w[y] log p(y), (*, N, C) and (*, N) -> (*, N).

    Args:
        smoothing: share of each target spread over all classes; (*) where it differs by row.
        weight: (C,) of the classes; see `Loss` for what divides their sum.

    Source: torch.nn.functional.cross_entropy, whose mean this has, weighted and smoothed.
    """
    logs = outputs.log_softmax(-1)
    values = F.nll_loss(logs.flatten(0, -2), targets.flatten(), weight, reduction="none")
    values = values.view_as(targets)
    if isinstance(smoothing, Tensor) or smoothing:
        share = smoothing.unsqueeze(-1) if isinstance(smoothing, Tensor) else smoothing
        spread = logs.mean(-1) if weight is None else (weight * logs).mean(-1)
        values = (1 - share) * values - share * spread
    return values


def focal(
    outputs: Tensor, targets: Tensor, *, gamma: float, weight: Tensor | None = None
) -> Tensor:
    """Return -w[y] (1 - p)^gamma log p of the target's class, (*, N, C) and (*, N) -> (*, N).

    Args:
        gamma: >= 0; 0 is cross-entropy, more attends to what the model has wrong.
        weight: (C,) of the classes.

    Source: Lin et al. 2017, arXiv:1708.02002, equations 4 and 5.
    """
    log_p = -cross_entropy(outputs, targets)
    # Never exactly 0, whose power has no finite gradient for gamma < 1.
    wrong = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    values = -(wrong**gamma) * log_p
    return values if weight is None else weight[targets] * values


def bce(outputs: Tensor, targets: Tensor, *, pos_weight: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy of the labels, (*, N, L) and (*, N, L) -> (*, N).

    Args:
        targets: 0 or 1 for each label.
        pos_weight: (L,), times the loss of a label that is there.

    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    return F.binary_cross_entropy_with_logits(
        outputs, targets, pos_weight=pos_weight, reduction="none"
    ).mean(-1)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error, its mean over targets, (*, N, T) and (*, N[, T]) -> (*, N)."""
    return _over_targets((_beside(outputs, targets) - targets) ** 2, outputs)


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the absolute error, its mean over targets, (*, N, T) and (*, N[, T]) -> (*, N)."""
    return _over_targets((_beside(outputs, targets) - targets).abs(), outputs)


def huber(outputs: Tensor, targets: Tensor, *, delta: float) -> Tensor:
    """Return e^2 / 2 up to |e| = delta, delta (|e| - delta / 2) beyond; shapes as of `mse`.

    Args:
        delta: > 0, in standard deviations of the target.

    Source: Huber 1964, Robust Estimation of a Location Parameter; torch.nn.HuberLoss.
    """
    guess = _beside(outputs, targets)
    return _over_targets(F.huber_loss(guess, targets, delta=delta, reduction="none"), outputs)


def poisson(outputs: Tensor, targets: Tensor, target_mean: Facts, target_std: Facts) -> Tensor:
    """Return e^o - y o: of counts y in their own unit, with the outputs their log rates.

    Args:
        targets: standardised; y = target_std targets + target_mean.

    Source: torch.nn.PoissonNLLLoss, without the term that no output changes.
    """
    logs = _beside(outputs, targets)
    counts = targets * target_std + target_mean
    return _over_targets(logs.exp() - counts * logs, outputs)


def _beside(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return outputs in the shape of the targets: one target has no dimension of its own."""
    return outputs.squeeze(-1) if targets.ndim < outputs.ndim else outputs


def _over_targets(values: Tensor, outputs: Tensor) -> Tensor:
    return values.mean(-1) if values.ndim == outputs.ndim else values


def rates(outputs: Tensor, target_mean: Facts, target_std: Facts) -> Tensor:
    """Return what log rates predict, standardised as a regression's targets are."""
    return (outputs.exp() - target_mean) / target_std


# Means by torch's own kernels of a single run without weights: records hold their bits, which
# another order of summation would round anew. The gradient of members [M, N, C] at once has the
# bits of these for each (N, C), of one target, where nothing is weighted, smoothed or scaled.
def _fused_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=smoothing)


def _fused_mse(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.mse_loss(_beside(outputs, targets), targets)


FUSED = {cross_entropy: _fused_cross_entropy, mse: _fused_mse}
BY_TASK: dict[str, Callable[..., Tensor]] = {
    "classification": cross_entropy,
    "multilabel": bce,
    "regression": mse,
}
PREDICTIONS = {poisson: rates}  # where outputs are not the prediction itself
WEIGHTS = ("weight", "pos_weight")  # (C,) or (L,); training's alone, validation is without


@dataclass(frozen=True)
class Loss:
    """A loss as both loops and the evaluation use it: its weighted mean over a batch.

    The mean is sum(w l) / sum(w), w the class weight times the example weight, as torch has it. A
    function that takes `weight` gives w l of the classes itself, since smoothing spreads a target
    over classes with weights of their own.

    Args:
        function: outputs (*, N, C) and targets (*, N[, T]) -> values (*, N).
        arguments: of the function: plain numbers, or facts of the data.
        weights: `weight` (C,) or `pos_weight` (L,) where asked for.
        by_row: whether a stack calls it row by row: code that knobs has not seen may take
            dimension 0 for the examples.
        faults: gets what a row's call raises, by its number; the row's loss is 0 from then on.
            None: it is raised.
    """

    function: Callable[..., Tensor]
    arguments: Mapping[str, object] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    by_row: bool = False
    faults: dict[int, Exception] | None = None

    def __post_init__(self) -> None:
        takes = inspect.signature(self.function).parameters
        object.__setattr__(self, "smooths", "smoothing" in takes)
        fused = None if self.weights or self.by_row else FUSED.get(self.function)
        object.__setattr__(self, "fused", fused)

    @property
    def log_rates(self) -> bool:
        """Return whether outputs are the logs of what is predicted."""
        return self.function is poisson

    def to(self, like: Tensor) -> "Loss":
        """Return the loss with its tensors on the device, and of the type, of another."""

        def move(values: Mapping) -> dict:
            return {k: v.to(like) if isinstance(v, Tensor) else v for k, v in values.items()}

        return replace(self, arguments=move(self.arguments), weights=move(self.weights))

    def values(
        self, outputs: Tensor, targets: Tensor, smoothing: float | Tensor = 0.0, plain: bool = False
    ) -> Tensor:
        """Return a value per example, (*, N), times the weights of the classes unless `plain`."""
        if self.by_row and outputs.ndim > 2:
            each = smoothing if isinstance(smoothing, Tensor) else [smoothing] * len(outputs)
            rows = zip(outputs, targets, each, strict=True)
            return torch.stack([self._row(k, *row, plain) for k, row in enumerate(rows)])
        arguments = {**self.arguments} if plain else {**self.arguments, **self.weights}
        if self.smooths:
            arguments["smoothing"] = smoothing
        return self.function(outputs, targets, **arguments)

    def _row(
        self, k: int, outputs: Tensor, targets: Tensor, smoothing: float | Tensor, plain: bool
    ) -> Tensor:
        """Return the values (N,) of row k of a stack."""
        try:
            if self.faults is None or k not in self.faults:
                with exits():
                    return self.values(outputs, targets, smoothing, plain)
        except Exception as error:
            if self.faults is None or isinstance(for_a_person(error), MemoryShortage):
                raise
            self.faults[k] = error
        return 0 * outputs.flatten(1).sum(1)

    def total(self, targets: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """Return the sum of the weights of a batch, (*); None where nothing is weighted.

        A batch without any weight has the sum 1: its loss is 0, not 0 / 0.
        """
        if "weight" in self.weights:
            of_class = self.weights["weight"][targets]
            weight = of_class if weight is None else of_class * weight
        if weight is None:
            return None
        total = weight.sum(-1)
        return torch.where(total > 0, total, torch.ones_like(total))

    def mean(
        self,
        outputs: Tensor,
        targets: Tensor,
        smoothing: float | Tensor = 0.0,
        weight: Tensor | None = None,
        total: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted mean over the examples, (*).

        Args:
            weight: (*, N) of the examples.
            total: what divides the weighted sum, (*): of a larger batch that this is a part of.
        """
        if self.fused and weight is None and outputs.ndim == 2:
            return self.fused(outputs, targets, smoothing)
        values = self.values(outputs, targets, smoothing)
        total = self.total(targets, weight) if total is None else total
        if weight is not None:
            values = values * weight
        return values.mean(-1) if total is None else values.sum(-1) / total

    def validation(self, outputs: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the mean [K] of K runs on one split, weighted by example weights alone.

        Args:
            outputs: [K, N, C]. targets: (N,) or (N, T). weight: (N,).
        """
        values = self.values(outputs, targets.expand(len(outputs), *targets.shape), plain=True)
        return values.mean(1) if weight is None else (values * weight).sum(1) / weight.sum()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what outputs predict in the terms of the targets: themselves, or their rates."""
        turn = PREDICTIONS.get(self.function)
        return turn(outputs, **self.arguments) if turn else outputs


def usual(task: str) -> Loss:
    """Return the loss of `loss=auto`."""
    return Loss(BY_TASK[task])


def class_weights(given: list[float] | str, targets: Tensor, classes: list[str]) -> Tensor:
    """Return `loss.weight` as a tensor (C,): the numbers given, or n / (classes * count).

    Args:
        targets: (N,) class numbers of the training split.

    Raises:
        ConfigError: not one number a class. DataError: a class without training examples.
    """
    if given != "balanced":
        return _one_each("weight", given, "classes", classes)
    counts = class_counts("loss.weight=balanced", targets, classes)
    return len(targets) / (len(classes) * counts.double())


def class_counts(asked: str, targets: Tensor, classes: list[str]) -> Tensor:
    """Return the number of training examples of each class, (C,).

    Raises:
        DataError: a class has none, and `asked` needs some.
    """
    counts = targets.bincount(minlength=len(classes))
    if not counts.all():
        empty = classes[int((counts == 0).nonzero()[0])]
        raise DataError(
            f"{asked}: class {empty} has no training example; "
            "leave its rows out, or change data.split_seed"
        )
    return counts


def positive_weights(given: list[float] | str, targets: Tensor, labels: list[str]) -> Tensor:
    """Return `loss.pos_weight` as a tensor (L,): the numbers given, or negatives / positives.

    Args:
        targets: (N, L) 0 or 1 of the training split.

    Raises:
        ConfigError: not one number a label. DataError: a label that is always, or never, there.
    """
    if given != "balanced":
        return _one_each("pos_weight", given, "labels", labels)
    positive = targets.double().sum(0)
    for name, count in zip(labels, positive.tolist(), strict=True):
        if count in (0, len(targets)):
            which = "never" if count == 0 else "always"
            raise DataError(
                f"loss.pos_weight=balanced: label {name} is {which} there in the training split; "
                "leave it out, or change data.split_seed"
            )
    return (len(targets) - positive) / positive


def _one_each(name: str, given: list[float], many: str, names: list[str]) -> Tensor:
    if len(given) != len(names):
        shown = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
        raise ConfigError(
            f"loss.{name}={given}: {len(given)} numbers for {len(names)} {many}; "
            f"give one each, in the order {shown}"
        )
    return torch.tensor(given, dtype=torch.float64)
