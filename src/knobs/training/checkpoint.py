"""Weights on disk: best.safetensors, which loads back into a model, and last.pt, for resuming."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knobs.errors import CheckpointError, first_line
from knobs.models.members import Ensemble
from knobs.training.loop import Progress, Run

BEST, LAST = "best.safetensors", "last.pt"


def save_best(folder: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write best.safetensors.

    Args:
        about: what `load` needs: the shape and the model's part of the config. One JSON text, since
            safetensors writes several in an order that changes from run to run.
    """
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    plain = {name: w.detach().cpu().contiguous().clone() for name, w in weights.items()}
    partial = folder / f"{BEST}.partial"
    save_file(plain, partial, {"knobs": json.dumps(about)})
    os.replace(partial, folder / BEST)  # a reader finds the old file or the new one, never half


def save_last(folder: Path, state: dict) -> None:
    """Write last.pt: the state of `snapshot`."""
    folder.mkdir(exist_ok=True)
    partial = folder / f"{LAST}.partial"
    torch.save(_compact(state), partial)
    os.replace(partial, folder / LAST)


def _compact(state: Any) -> Any:
    """Return the same, every view of a tensor copied: torch.save writes whole storages."""
    if isinstance(state, dict):
        return {name: _compact(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_compact(value) for value in state)
    if isinstance(state, torch.Tensor) and state.untyped_storage().nbytes() > state.nbytes:
        return state.clone(memory_format=torch.contiguous_format)
    return state


def snapshot(run: Run) -> dict:
    """Return all that a resume needs, as tensors and plain data."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "average": run.average.state_dict() if run.average else None,
        "best_weights": run.best_weights,
        "progress": asdict(run.progress),
    } | ({"best_members": run.best_members} if len(run.networks) > 1 else {})


def restore(run: Run, state: dict) -> None:
    """Put a run back to where `snapshot` was taken.

    Raises:
        CheckpointError: the state is of a run with another config.
    """
    try:
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.scheduler.load_state_dict(state["scheduler"])
        if run.average:
            run.average.load_state_dict(state["average"])
        run.best_weights = state["best_weights"]
        run.best_members = state.get("best_members", [])
        run.progress = Progress(**state["progress"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{LAST} does not fit this config: {reason}") from None


def load_last(folder: Path) -> dict[str, Any]:
    """Read last.pt, data only, to the CPU; what it is loaded into knows its own device.

    Raises:
        CheckpointError: it is not there, or not whole.
    """
    path = folder / LAST
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; the run kept no checkpoint to resume from")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None


def load(folder: str | Path) -> nn.Module:
    """Load the model of a run with its best weights, in eval mode, on the CPU.

    Of a run with several members the model gives their mean prediction (see Ensemble).

    Args:
        folder: a run's folder.

    Raises:
        CheckpointError: no run, no checkpoint, or one that is not whole.
    """
    from safetensors import safe_open

    from knobs import build
    from knobs.shape import Shape

    path = Path(folder) / "checkpoints" / BEST
    if not path.is_file():
        missing = "no such file; give the folder of a run that kept checkpoints"
        raise CheckpointError(f"{path}: {missing}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["knobs"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        shape = Shape(**about["shape"] | {"input": tuple(about["shape"]["input"])})
    except Exception as error:  # a Rust error, a missing key, bad JSON
        raise CheckpointError(f"{path}: not a checkpoint of knobs ({error})") from None
    networks = [build.model(about["config"], shape) for _ in range(about.get("members", 1))]
    model = networks[0] if len(networks) == 1 else Ensemble(networks, about["task"])
    model.load_state_dict(weights)
    return model.eval()
