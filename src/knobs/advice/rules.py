"""Rules of thumb: short hints when a config leaves the usual ranges. Never an error, never a change."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from knobs.models.layers import widths
from knobs.shape import Shape

# Where each optimizer's rate usually lies; others: 1e-3 .. 1e-2.
USUAL_LR = {
    "Adam": (1e-4, 1e-2),
    "AdamW": (1e-4, 1e-2),
    "NAdam": (1e-4, 1e-2),
    "RAdam": (1e-4, 1e-2),
    "Adamax": (1e-4, 1e-2),
    "RMSprop": (1e-4, 1e-2),
    "Muon": (1e-4, 1e-2),
    "SGD": (1e-2, 1.0),
    "SGD with momentum": (1e-3, 1.0),
    "ASGD": (1e-2, 1.0),
    "Adagrad": (1e-3, 1e-1),
    "Adafactor": (1e-3, 1e-1),
    "Rprop": (1e-3, 1e-1),
    "Adadelta": (0.1, 1.0),
    "LBFGS": (0.1, 1.0),
}
USUAL_BATCHES = (16, 32, 64, 128, 256)
DEEP = 3  # hidden layers from which saturating activations starve the first ones


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
    """Every hint about a checked config, in the order of the rules, less those silenced."""
    if "all" in config["silence"]:
        return []
    found = [hint for rule in RULES for hint in rule(config, shape)]
    return [hint for hint in found if hint.rule not in config["silence"]]


def _class(node: dict) -> str:
    return node["_target_"].rpartition(".")[2]


def lr(config: dict, shape: Shape) -> Iterator[Hint]:
    node = config["optimizer"]
    name = _class(node) + (" with momentum" if _class(node) == "SGD" and node.get("momentum") else "")
    low, high = USUAL_LR.get(name, (1e-3, 1e-2))
    if "lr" in node and not low <= node["lr"] <= high:
        yield Hint("lr", f"lr {node['lr']:g} is outside {low:g} .. {high:g}, usual for {name}",
                   "Godbole et al. 2023, Deep Learning Tuning Playbook")  # fmt: skip


def batch_size(config: dict, shape: Shape) -> Iterator[Hint]:
    size = config["training"]["batch_size"]
    if size not in USUAL_BATCHES:
        cost = "memory" if size > USUAL_BATCHES[-1] else "time"
        costs = f"; one as {'large' if cost == 'memory' else 'small'} costs {cost}"
        outside = not USUAL_BATCHES[0] <= size <= USUAL_BATCHES[-1]
        yield Hint("batch_size", f"batch size {size} is not among {', '.join(map(str, USUAL_BATCHES))}"
                   + (costs if outside else ""), "Bengio 2012, arXiv:1206.5533, section 3.1.1")  # fmt: skip


def width(config: dict, shape: Shape) -> Iterator[Hint]:
    model = config["model"]
    if "width" not in model:
        return
    given = model["width"] if isinstance(model["width"], list) else [model["width"]]
    odd = [w for w in given if isinstance(w, int) and w % 8]
    if odd:
        yield Hint("width_multiple", f"width {odd[0]} is not a multiple of 8, which hardware likes",
                   "NVIDIA, Matrix Multiplication Background")  # fmt: skip
    if model["name"] != "mlp":
        return
    ends = sorted((shape.features, shape.outputs))
    for w in widths(model["width"], model["depth"], shape.features, shape.outputs):
        if not ends[0] <= w <= ends[1] and not isinstance(model["width"], str):
            twice = w > 2 * shape.features
            says = f"over twice the {shape.features} inputs" if twice else f"outside outputs .. inputs, {ends[0]} .. {ends[1]}"
            yield Hint("width", f"width {w} is {says}", "Heaton 2008, Introduction to Neural Networks")
            return


def dropout(config: dict, shape: Shape) -> Iterator[Hint]:
    p = config["regularization"]["dropout"]
    if p > 0.5:
        yield Hint("dropout", f"dropout {p:g} is outside 0 .. 0.5", "Srivastava et al. 2014, appendix A.4")


def embedding(config: dict, shape: Shape) -> Iterator[Hint]:
    size = config["model"].get("embedding_dim")
    if size not in (None, 128, 256):
        yield Hint("embedding", f"embedding {size} is not 128 or 256, the usual sizes", "Bengio 2012; Kim 2014")


def l2_with_adam(config: dict, shape: Shape) -> Iterator[Hint]:
    node = config["optimizer"]
    if _class(node) == "Adam" and node.get("weight_decay") and not node.get("decoupled_weight_decay"):
        yield Hint("l2_with_adam", "L2 in Adam's gradient is not weight decay; optimizer=adamw decouples it",
                   "Loshchilov and Hutter 2017, arXiv:1711.05101")  # fmt: skip


def bias_before_norm(config: dict, shape: Shape) -> Iterator[Hint]:
    if config["regularization"]["norm"] == "batch" and config["model"].get("bias"):
        yield Hint("bias", "a bias before batch norm does nothing; model.bias=false saves it",
                   "Ioffe and Szegedy 2015, section 3.2")  # fmt: skip


def deep_sigmoid(config: dict, shape: Shape) -> Iterator[Hint]:
    model = config["model"]
    depth = len(model["width"]) if isinstance(model.get("width"), list) else model.get("depth", 0)
    if _class(config["activation"]) in ("Sigmoid", "LogSigmoid") and depth >= DEEP:
        yield Hint("deep_sigmoid", f"{depth} sigmoid layers: gradients vanish on the way to the first",
                   "Glorot and Bengio 2010, section 3.1")  # fmt: skip


def selu_gain(config: dict, shape: Shape) -> Iterator[Hint]:
    if _class(config["activation"]) != "SELU":
        return
    node = config["init"]
    parts = [node] if "_target_" in node else [node["linear"], node["conv"]]
    unit = all(
        part.get("gain") in ("auto", 1, 1.0) or part.get("nonlinearity") in ("auto", "linear")
        for part in parts
        if not (part is node.get("conv") and config["data"]["kind"] != "image")
    )
    if not unit or config["model"]["name"] == "cnn" and node.get("conv", {}).get("nonlinearity") == "relu":
        yield Hint("selu_gain", "selu normalises itself only from gain 1: init=kaiming_normal",
                   "Klambauer et al. 2017, arXiv:1706.02515")  # fmt: skip


RULES: tuple[Callable[[dict, Shape], Iterator[Hint]], ...] = (
    lr,
    deep_sigmoid,
    selu_gain,
    l2_with_adam,
    dropout,
    bias_before_norm,
    batch_size,
    width,
    embedding,
)
