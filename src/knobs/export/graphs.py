"""A trained network -> the bytes of a graph that other programs run."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from knobs.errors import ConfigError, first_line
from knobs.shape import Shape

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUTS, PROBABILITIES = "input", "outputs", "probabilities"
CLOSE = 1e-5  # of the network's outputs, or of their size where that is above 1
SIZES = (1, 7, 64)  # of the batches on which a graph is tried


class Graph(nn.Module):
    """A network that also gives probabilities where its outputs are logits.

    Args:
        task: classification, multilabel or regression.
    """

    def __init__(self, network: nn.Module, task: str):
        super().__init__()
        self.network, self.task = network, task

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map prepared (N, *input) -> (N, C) probabilities, if any, and (N, C) outputs."""
        outputs = self.network(x)
        if self.task == "regression":
            return (outputs,)
        return (
            outputs.softmax(-1) if self.task == "classification" else outputs.sigmoid()
        ), outputs


def names(task: str) -> list[str]:
    """Return what a graph gives, in its order."""
    return [OUTPUTS] if task == "regression" else [PROBABILITIES, OUTPUTS]


def needs(packages: tuple[str, ...]) -> None:
    """Refuse an export whose packages are not installed.

    Raises:
        ConfigError: with the command that installs them.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        command = f"pip install {' '.join(packages)}"
        raise ConfigError(
            f"--to onnx: needs {', '.join(missing)}; {command} (the extra `export`), or --to torch"
        )


def onnx(network: nn.Module, task: str, shape: Shape) -> bytes:
    """Return an ONNX graph of any batch size, tried against the network.

    Raises:
        ConfigError: why the network has none, or packages that are not installed.
    """
    needs(PACKAGES)
    graph, batch = Graph(network, task).eval(), {0: torch.export.Dim("batch", min=1)}
    with _quiet("ONNX"), torch.no_grad():
        program = torch.onnx.export(
            graph, (examples(shape, 2),), dynamo=True, dynamic_shapes=(batch,), verbose=False,
            input_names=[INPUT], output_names=names(task),
        )  # fmt: skip
        data = program.model_proto.SerializeToString()
    from onnxruntime import InferenceSession

    session = InferenceSession(data)
    _compare(graph, shape, lambda x: session.run(None, {INPUT: x.numpy()}))
    return data


def exported(network: nn.Module, task: str, shape: Shape) -> bytes:
    """Return a .pt2 file of torch.export, of any batch size, tried against the network.

    Raises:
        ConfigError: why the network has none.
    """
    graph, batch = Graph(network, task).eval(), {0: torch.export.Dim("batch", min=1)}
    file = io.BytesIO()
    with _quiet("torch.export"), torch.no_grad():
        program = torch.export.export(graph, (examples(shape, 2),), dynamic_shapes=(batch,))
        torch.export.save(program, file)
    run = program.module()
    _compare(graph, shape, lambda x: [values.numpy() for values in run(x)])
    return file.getvalue()


def examples(shape: Shape, count: int) -> Tensor:
    """Return prepared inputs of a network: normal numbers, or token ids."""
    draw = torch.Generator().manual_seed(count)
    size = (count, *shape.input)
    if shape.vocabulary:
        return torch.randint(shape.vocabulary, size, generator=draw, dtype=torch.int32)
    return torch.randn(size, generator=draw)


@torch.no_grad()
def _compare(graph: Graph, shape: Shape, run: object) -> None:
    """Refuse a graph that computes something else than the network.

    Raises:
        ConfigError: with the difference.
    """
    for count in SIZES:
        x = examples(shape, count)
        for mine, its in zip(graph(x), run(x), strict=True):
            expected = mine.numpy()
            off = np.abs(its - expected) / np.maximum(1, np.abs(expected))
            if its.shape != expected.shape or not off.max() <= CLOSE:
                raise ConfigError(
                    f"the exported graph differs from the network by {off.max():.1e} on a batch of "
                    f"{count}, more than {CLOSE:g}: it is not written"
                )


@contextmanager
def _quiet(what: str) -> Iterator[None]:
    """Silence an exporter's notes to its developers; say in a line why it failed.

    Raises:
        ConfigError: it failed.
    """
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # they raise many kinds
        cause = error.__cause__ or error
        raise ConfigError(f"{what} cannot express this network ({first_line(cause)})") from None
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
