"""Hints where a config leaves the usual ranges: printed, never applied."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from knobs.config import rules
from knobs.models.layers import widths
from knobs.shape import Shape

USUAL_BATCHES = (16, 32, 64, 128, 256)
DEEP = 3  # hidden layers from which saturating activations starve the first ones


Says = Iterator[str]


@dataclass(frozen=True)
class Hint:
    """One rule that a config leaves.

    Args:
        rule: the name that `silence=[rule]` takes.
    """

    rule: str
    says: str
    source: str

    def __str__(self) -> str:
        return f"{self.says} ({self.source}; silence=[{self.rule}])"


def hints(config: dict, shape: Shape) -> list[Hint]:
    """Every hint about a checked config, in the order of RULES, less those silenced."""
    if "all" in config["silence"]:
        return []
    return [
        Hint(rule.__name__, says, rule.__doc__ or "")
        for rule in RULES
        if rule.__name__ not in config["silence"]
        for says in rule(config, shape)
    ]


# Each rule is named as silence= names it, its docstring is its source, and it yields what it says.
def lr(config: dict, shape: Shape) -> Says:
    """Godbole et al. 2023, Deep Learning Tuning Playbook"""
    node = config["optimizer"]
    usual = _usual_lr(node["_target_"], bool(node.get("momentum"))) if "lr" in node else None
    if usual and not usual[0] <= node["lr"] <= usual[1]:
        name = _class(node) + " with momentum" * (
            _class(node) == "SGD" and bool(node.get("momentum"))
        )
        yield f"lr {node['lr']:g} is outside {usual[0]:g} .. {usual[1]:g}, usual for {name}"


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


def deep_sigmoid(config: dict, shape: Shape) -> Says:
    """Glorot and Bengio 2010, section 3.1"""
    width, depth = config["model"].get("width"), config["model"].get("depth", 0)
    depth = len(width) if isinstance(width, list) else depth
    if _class(config["activation"]) in ("Sigmoid", "LogSigmoid") and depth >= DEEP:
        yield f"{depth} sigmoid layers: gradients vanish on the way to the first"


def selu_gain(config: dict, shape: Shape) -> Says:
    """Klambauer et al. 2017, arXiv:1706.02515"""
    node, convolves = config["init"], config["model"]["inputs"] == ["image"]
    scheme = (
        [node["linear"], *([node["conv"]] if convolves else [])] if "linear" in node else [node]
    )
    if _class(config["activation"]) == "SELU" and not all(map(_keeps_variance, scheme)):
        yield "selu normalizes itself only from gain 1: init=kaiming_normal"


def l2_with_adam(config: dict, shape: Shape) -> Says:
    """Loshchilov and Hutter 2017, arXiv:1711.05101"""
    node = config["optimizer"]
    decoupled = node.get("decoupled_weight_decay")
    if _class(node) == "Adam" and node.get("weight_decay") and not decoupled:
        yield "L2 in Adam's gradient is not weight decay; optimizer=adamw decouples it"


def dropout(config: dict, shape: Shape) -> Says:
    """Srivastava et al. 2014, appendix A.4"""
    if config["regularization"]["dropout"] > 0.5:
        yield f"dropout {config['regularization']['dropout']:g} is outside 0 .. 0.5"


def bias_before_norm(config: dict, shape: Shape) -> Says:
    """Ioffe and Szegedy 2015, section 3.2"""
    if config["regularization"]["norm"] == "batch" and config["model"].get("bias"):
        yield "a bias before batch norm does nothing; model.bias=false saves it"


def batch_size(config: dict, shape: Shape) -> Says:
    """Bengio 2012, arXiv:1206.5533, section 3.1.1"""
    size = config["training"]["batch_size"]
    if size not in USUAL_BATCHES:
        usual = ", ".join(map(str, USUAL_BATCHES))
        costs = "memory" if size > USUAL_BATCHES[-1] else "time" if size < USUAL_BATCHES[0] else ""
        yield f"batch size {size} is not among {usual}" + (f"; it costs {costs}" if costs else "")


def multiple_of_8(config: dict, shape: Shape) -> Says:
    """NVIDIA, Matrix Multiplication Background User's Guide"""
    width = config["model"].get("width", 8)
    odd = [
        w for w in (width if isinstance(width, list) else [width]) if isinstance(w, int) and w % 8
    ]
    if odd:
        yield f"width {odd[0]} is not a multiple of 8, which hardware likes"


def width(config: dict, shape: Shape) -> Says:
    """Heaton 2008, Introduction to Neural Networks with Java"""
    model = config["model"]
    if "table" not in model["inputs"] or isinstance(model.get("width", ""), str):
        return  # not fully connected, or a named rule, which follows a rule of its own
    low, high = sorted((shape.features, shape.outputs))
    for w in widths(model["width"], model["depth"], shape.features, shape.outputs):
        if w > 2 * shape.features:
            yield f"width {w} is over twice the {shape.features} inputs"
            return
        if not low <= w <= high:
            yield f"width {w} is outside outputs .. inputs, {low} .. {high}"
            return


def embedding(config: dict, shape: Shape) -> Says:
    """Bengio 2012; Kim 2014, arXiv:1408.5882"""
    size = config["model"].get("embedding_dim")
    if size not in (None, 128, 256):
        yield f"embedding {size} is not 128 or 256, the usual sizes"


def _class(node: dict) -> str:
    return node.get("_target_", "").rpartition(".")[2]


def _keeps_variance(init: dict) -> bool:
    unit = init.get("gain") in ("auto", 1) or init.get("nonlinearity") in ("auto", "linear")
    return unit or _class(init) == "lsuv"


RULES: tuple[Callable[[dict, Shape], Says], ...] = (
    lr,
    deep_sigmoid,
    selu_gain,
    l2_with_adam,
    dropout,
    bias_before_norm,
    batch_size,
    multiple_of_8,
    width,
    embedding,
)
