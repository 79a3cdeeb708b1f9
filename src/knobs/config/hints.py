"""Hints where a config leaves the usual ranges: printed, never applied."""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from knobs.config import rules
from knobs.identity import leaves
from knobs.shape import Shape

USUAL_BATCHES = (16, 32, 64, 128, 256)
DEEP = 3  # hidden layers from which saturating activations starve the first ones


@dataclass(frozen=True)
class Hint:
    """One rule that a config leaves.

    Args:
        rule: the name that `silence=[rule]` takes.
        says: the value, and what is usual.
        source: of the rule.
    """

    rule: str
    says: str
    source: str

    def __str__(self) -> str:
        return f"{self.says} ({self.source}; silence=[{self.rule}])"


def hints(config: dict, shape: Shape, steps: int | None = None) -> list[Hint]:
    """Return every hint about a checked config, less those silenced.

    Args:
        steps: optimizer steps of the run; None where they are not known.
    """
    silent = config["silence"]
    found = (*_hints(config, shape), *_late(config, steps))
    return [Hint(*hint) for hint in found if not {"all", hint[0]}.intersection(silent)]


def _hints(config: dict, shape: Shape) -> Iterator[tuple[str, str, str]]:
    """Yield (rule, what is unusual, source of the rule)."""
    model, optimizer, reg = config["model"], config["optimizer"], config["regularization"]
    activation, kind = _class(config["activation"]), _class(optimizer)

    momentum = bool(optimizer.get("momentum"))
    usual = _usual_lr(optimizer["_target_"], momentum) if "lr" in optimizer else None
    if usual and not usual[0] <= optimizer["lr"] <= usual[1]:
        name = kind + " with momentum" * (kind == "SGD" and momentum)
        text = f"lr {optimizer['lr']:g} is outside {usual[0]:g} .. {usual[1]:g}, usual for {name}"
        yield "lr", text, "Godbole et al. 2023, Deep Learning Tuning Playbook"

    width, depth = model.get("width"), model.get("depth", 0)
    depth = len(width) if isinstance(width, list) else depth
    if activation in ("Sigmoid", "LogSigmoid") and depth >= DEEP:
        text = f"{depth} sigmoid layers: gradients vanish on the way to the first"
        yield "deep_sigmoid", text, "Glorot and Bengio 2010, section 3.1"

    init = config["init"]
    used = ("linear", "conv") if model["inputs"] == ["image"] else ("linear",)
    schemes = [init[name] for name in used if name in init] or [init]
    if activation == "SELU" and not all(map(_keeps_variance, schemes)):
        text = "selu normalizes itself only from gain 1: init=kaiming_normal"
        yield "selu_gain", text, "Klambauer et al. 2017, arXiv:1706.02515"

    decay = optimizer.get("weight_decay") and not optimizer.get("decoupled_weight_decay")
    if kind == "Adam" and decay:
        text = "L2 in Adam's gradient is not weight decay; optimizer=adamw decouples it"
        yield "l2_with_adam", text, "Loshchilov and Hutter 2017, arXiv:1711.05101"

    if reg["dropout"] > 0.5:
        text = f"dropout {reg['dropout']:g} is outside 0 .. 0.5"
        yield "dropout", text, "Srivastava et al. 2014, appendix A.4"

    if reg["norm"] == "batch" and model.get("bias"):
        text = "a bias before batch norm does nothing; model.bias=false saves it"
        yield "bias_before_norm", text, "Ioffe and Szegedy 2015, section 3.2"

    size = config["training"]["batch_size"]
    if size not in USUAL_BATCHES:
        cost = "memory" if size > USUAL_BATCHES[-1] else "time" if size < USUAL_BATCHES[0] else ""
        text = f"batch size {size} is not among {', '.join(map(str, USUAL_BATCHES))}"
        text += f"; it costs {cost}" if cost else ""
        yield "batch_size", text, "Bengio 2012, arXiv:1206.5533, section 3.1.1"

    numbers = [w for w in (width if isinstance(width, list) else [width]) if isinstance(w, int)]
    for w in [w for w in numbers if w % 8][:1]:
        text = f"width {w} is not a multiple of 8, which hardware likes"
        yield "multiple_of_8", text, "NVIDIA, Matrix Multiplication Background User's Guide"

    if "table" in model["inputs"] and depth:  # fully connected
        texts = [text for w in numbers if (text := _unusual_width(w, shape))]
        for text in texts[:1]:
            yield "width", text, "Heaton 2008, Introduction to Neural Networks with Java"

    embedding = model.get("embedding_dim")
    if embedding not in (None, 128, 256):
        text = f"embedding {embedding} is not 128 or 256, the usual sizes"
        yield "embedding", text, "Bengio 2012; Kim 2014, arXiv:1408.5882"


def _late(config: dict, steps: int | None) -> Iterator[tuple[str, str, str]]:
    """Yield lengths of a schedule, as whole numbers, that the run does not reach."""
    scheduler, keys = config["scheduler"], rules.read(rules.CONF)
    total = steps if scheduler["interval"] == "step" else config["training"]["epochs"]
    for path, value in leaves({"scheduler": scheduler}):
        comments = " ".join(comment for _, comment in keys.get(path, {}).values())
        if total is None or "a percentage of the run" not in comments:
            continue
        at_its_end = path.endswith(("step_size", "milestones"))  # a step there comes too late
        for length in value if isinstance(value, list) else [value]:
            if isinstance(length, int) and length > total - at_its_end:
                run = f"{total:,} {scheduler['interval']}s"
                text = f"{path}={length} is not reached in a run of {run}; 100% is its length"
                yield "schedule", text, "torch.optim.lr_scheduler"


def _unusual_width(width: int, shape: Shape) -> str:
    low, high = sorted((shape.features, shape.outputs))
    if width > 2 * shape.features:
        return f"width {width} is over twice the {shape.features} inputs"
    usual = low <= width <= high
    return "" if usual else f"width {width} is outside outputs .. inputs, {low} .. {high}"


@functools.cache
def _usual_lr(target: str, momentum: bool) -> tuple[float, float] | None:
    """Return the range beside `lr` in the YAML of an optimizer, of the likest where several are."""
    keys = rules.read(rules.CONF)
    ranges: dict[bool, tuple[float, float]] = {}
    for option, (_, comment) in keys["optimizer.lr"].items():
        ends = re.search(r"(\S+) \.\. ([\d.e+-]+)", comment)
        if ends and keys["optimizer._target_"][option][0] == target:
            default = keys.get("optimizer.momentum", {}).get(option, ("0.0",))[0]
            ranges[(default != "0.0") == momentum] = float(ends[1]), float(ends[2])
    return ranges.get(True) or ranges.get(False)


def _class(node: dict) -> str:
    return node.get("_target_", "").rpartition(".")[2]


def _keeps_variance(init: dict) -> bool:
    unit = init.get("gain") in ("auto", 1) or init.get("nonlinearity") in ("auto", "linear")
    return unit or _class(init) == "lsuv"
