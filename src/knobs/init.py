"""Initial weights: a torch.nn.init function on every weight, or a scheme for the whole model."""

import functools
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from knobs.errors import ConfigError, first_line

GATES = {
    **{nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1},
    **{nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1},
}
LINEAR = (nn.Linear, nn.MultiheadAttention, *GATES)
CONV = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)
# What a scheme fills, or what has the same weights under each; elsewhere a model's draw stays.
FILLED = (*LINEAR, *CONV, *EMBEDDINGS, *NORMS)
# Each tensor to its own: the size of a layer plays no part, so embeddings take part too.
FANLESS = (nn.init.constant_, nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_)
_TORCH_NAMES = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.LeakyReLU: "leaky_relu",
    nn.Identity: "linear",
}


def gain(activation: nn.Module) -> float:
    """Return the factor of a layer's std with which `activation` keeps its input's variance.

    torch's calculate_gain where it is right; else 1 / sqrt(E[phi(z)^2]) for z ~ N(0, 1), by
    Gauss-Hermite quadrature, which gives 1 for selu (torch says 3/4), 1.535 for gelu and 1.678
    for silu (torch raises). For an activation whose outputs have no mean square, an error.

    Source: He et al. 2015, arXiv:1502.01852, section 2.2, for phi in place of ReLU.
    """
    if type(activation) in _TORCH_NAMES:
        slope = getattr(activation, "negative_slope", None)
        return float(nn.init.calculate_gain(_TORCH_NAMES[type(activation)], slope))
    import numpy as np

    z, weights = np.polynomial.hermite_e.hermegauss(201)
    with torch.no_grad():
        outputs = activation.double()(torch.from_numpy(z))
    mean_square = float((outputs**2 * torch.from_numpy(weights)).sum() / math.sqrt(2 * math.pi))
    return 1 / math.sqrt(mean_square)


def scheme(function: Any, gain_: float) -> Callable[[Tensor], None]:
    """Return a tensor function from a torch.nn.init partial in which `auto` means the gain."""
    arguments = dict(function.keywords)
    follows = arguments.get("nonlinearity") == "auto"
    if follows:
        # calculate_gain knows few names: draw with gain 1, then multiply.
        arguments["nonlinearity"] = "linear"
    if arguments.get("gain") == "auto":
        arguments["gain"] = gain_

    def fill(tensor: Tensor) -> None:
        function.func(tensor, **arguments)
        if follows:
            tensor.mul_(gain_)

    return fill


@torch.no_grad()
def apply(model: nn.Module, linear: Any, conv: Any, gain_: float) -> None:
    """Fill the weights of torch's layers: biases 0, norms 1 and 0, embeddings as fans allow.

    Args:
        model: its modules are visited in order, so the draws follow from the seed.
        linear: a torch.nn.init partial for linear, recurrent and attention weights.
        conv: the one for convolutions.
        gain_: what `auto` stands for; the head, which no activation follows, has gain 1.
    """
    for name, module in model.named_modules():
        here = 1.0 if name.split(".")[-1] == "head" else gain_
        if isinstance(module, LINEAR + CONV):
            fill = scheme(conv if isinstance(module, CONV) else linear, here)
            for weight in weight_blocks(module):
                fill(weight)
        elif isinstance(module, EMBEDDINGS):
            if linear.func in FANLESS:
                scheme(linear, here)(module.weight)
            else:
                nn.init.normal_(module.weight, std=getattr(module, "first_std", 1.0))
            if module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
        elif isinstance(module, NORMS) and module.weight is not None:
            nn.init.ones_(module.weight)
        for part, parameter in module.named_parameters(recurse=False):
            if "bias" in part:
                parameter.zero_()


def weight_blocks(module: nn.Module) -> Iterator[Tensor]:
    """Yield a module's weight matrices, a gate's or projection's each where torch joins them."""
    for name, parameter in module.named_parameters(recurse=False):
        if "weight" in name and parameter.ndim >= 2:
            of_gates = name.startswith(("weight_ih", "weight_hh"))
            gates = next((n for of, n in GATES.items() if of_gates and isinstance(module, of)), 1)
            yield from parameter.chunk(3 if name == "in_proj_weight" else gates)


def torch_default(model: nn.Module, batch: Tensor) -> None:
    """Leave what torch's constructors drew."""


def lsuv(model: nn.Module, batch: Tensor, *, tolerance: float, max_iters: int) -> None:
    """Orthogonal weights, each layer then scaled until its outputs on `batch` have variance 1.

    Args:
        batch: (N, ...) training inputs.
        tolerance: how far from 1 a variance may stay.
        max_iters: tries a layer.

    Source: Mishkin and Matas 2015, arXiv:1511.06422, algorithm 1.
    """
    orthogonal = functools.partial(nn.init.orthogonal_)
    apply(model, orthogonal, orthogonal, 1.0)
    model.eval()
    for module in (m for m in model.modules() if isinstance(m, (nn.Linear, *CONV))):
        for _ in range(max_iters):
            variance = _output_variance(model, module, batch)
            if variance is None or variance < 1e-12 or abs(variance - 1) <= tolerance:
                break  # not reached by this batch, dead, or done
            with torch.no_grad():
                module.weight.div_(math.sqrt(variance))
    model.train()


@torch.no_grad()
def _output_variance(model: nn.Module, module: nn.Module, batch: Tensor) -> float | None:
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(batch)
    hook.remove()
    return outputs[0].var().item() if outputs else None


def from_file(model: nn.Module, batch: Tensor, *, path: str, layers: list[str] | None) -> None:
    """Copy weights from a file; names and shapes must fit.

    Args:
        path: .safetensors, or torch's own format with weights only.
        layers: name prefixes to copy (`hidden`, `head.weight`); None copies the whole model.

    Raises:
        ConfigError: naming what is missing, left over or of another shape.
    """
    stored, current = _read(path), model.state_dict()
    prefixes = None if layers is None else tuple(f"{layer}." for layer in layers)
    chosen = [n for n in current | stored if prefixes is None or f"{n}.".startswith(prefixes)]
    misfits = [] if chosen else [f"init.layers={layers}: neither model nor file has such a layer"]
    for name in chosen:
        if name not in stored:
            misfits.append(f"{name}: the model has it, {path} does not")
        elif name not in current:
            misfits.append(f"{name}: {path} has it, the model does not")
        elif (here := tuple(current[name].shape)) != (there := tuple(stored[name].shape)):
            misfits.append(f"{name}: the model's shape is {here}, the file's {there}")
    if misfits:
        raise ConfigError("init=tensor: " + "; ".join(misfits))
    model.load_state_dict({name: stored[name] for name in chosen}, strict=False)


def _read(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise ConfigError(f"init.path={path}: no such file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many kinds
        reason = first_line(error)
        raise ConfigError(f"init.path={path}: not a file of weights ({reason})") from None
