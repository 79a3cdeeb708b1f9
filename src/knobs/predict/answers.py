"""Outputs of a network -> answers: classes and their probabilities, or values in their own unit."""

import math

import numpy as np

from knobs.data.preparation import Target

TAKEN = ("row", "prediction", "error")  # names of columns that no target can have


def answers(target: Target, outputs: np.ndarray, log_rates: bool) -> dict[str, np.ndarray]:
    """Return name of a column -> (N,) answers.

    Classification: `prediction`, a class, and `p(CLASS)` for each. Multilabel: for each label 0 or
    1, and `p(LABEL)`. Regression: `prediction`, or a column for each target, in its own unit.

    Args:
        outputs: (N, C): logits, standardised values or, as `log_rates` says, logs of the values.
    """
    wide = outputs.astype(np.float64)
    if target.task == "classification":
        found = {"prediction": np.array(target.classes, object)[outputs.argmax(1)]}
        shares = np.exp(wide - wide.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return found | {f"p({c})": shares[:, i] for i, c in enumerate(target.classes)}
    if target.task == "multilabel":
        shares = np.exp(-np.logaddexp(0, -wide))
        columns = zip(target.classes, outputs.T, shares.T, strict=True)
        pairs = [((c, (o > 0).astype(int)), (f"p({c})", p)) for c, o, p in columns]
        return {_own(name): values for pair in pairs for name, values in pair}
    with np.errstate(over="ignore"):
        values = np.exp(wide) if log_rates else wide * target.std + target.mean
    return dict(zip(names(target), values.T, strict=True))


def names(target: Target) -> list[str]:
    """Return the columns of a regression's answers."""
    return ["prediction"] if len(target.names) == 1 else list(map(_own, target.names))


def _own(name: str) -> str:
    """Return the column of a target, under another name where the answers have one of that name."""
    return f"prediction({name})" if name in TAKEN else name


def digits(target: Target) -> dict[str, int]:
    """Return the significant digits of each column of numbers: six, or six of a deviation.

    A target of 1,000,000 with a deviation of 1 takes twelve: six would round all of it away.
    """
    if target.task != "regression":
        return {}
    ratios = np.abs(target.mean) / target.std
    more = [max(0, math.floor(math.log10(r))) if r > 0 else 0 for r in ratios]
    return {name: 6 + min(11, m) for name, m in zip(names(target), more, strict=True)}
