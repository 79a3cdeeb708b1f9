"""Weights on disk: best.safetensors, which loads into a model, and last.safetensors, to resume.

Of each the one before is kept as well, and manifest.json, written after them, has their sizes and
SHA-256. A file is whole if its bytes stand in the manifest, or if the digest that it carries is its
own: a killed process may have written it after the manifest. One that is not whole is never
believed: the one before takes its place, and that is said.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from knobs import record, storage
from knobs.codec import decode, encode
from knobs.errors import CheckpointError, first_line, note
from knobs.models.members import Ensemble
from knobs.shape import Shape
from knobs.training.state import Progress, Run

BEST, LAST, MANIFEST = "best.safetensors", "last.safetensors", "manifest.json"
PREVIOUS = "last.previous.safetensors"
LAST_OF_SCHEMA_1 = "last.pt"  # read for ever, never written
# Schedules that end with the run: where it becomes longer, they are those of the new length.
FOLLOWS = (
    *(lr_scheduler.CosineAnnealingLR, lr_scheduler.LinearLR, lr_scheduler.PolynomialLR),
    *(lr_scheduler.OneCycleLR, lr_scheduler.LambdaLR),
)
MOVED = ("lr", "momentum", "betas")  # of a parameter group, by schedules
log = logging.getLogger("knobs")


Entry = dict[str, Any]  # of a file in the manifest: its bytes and their SHA-256


def save_best(
    folder: Path, weights: dict[str, Tensor], about: dict[str, Any], sync: bool = False
) -> dict[str, Entry]:
    """Write best.safetensors; return its entry for the manifest, and that of the one before.

    Args:
        about: what `load` needs: the shape and the model's part of the config.
        sync: as record.write has it.
    """
    plain = {name: w.detach().cpu().contiguous() for name, w in weights.items()}
    return _write(folder, BEST, plain, about, sync)


def save_last(
    folder: Path,
    state: dict,
    about: dict[str, Any] | None = None,
    sync: bool = False,
    name: str = LAST,
    rotate: bool = True,
) -> dict[str, Entry]:
    """Write last.safetensors; return its entry for the manifest, and that of the one before.

    Args:
        state: of `snapshot`; whatever else it has comes back from `load_last`.
        about: as of `save_best`: the best weights are here too, should their own file be lost.
        name: LAST, or PREVIOUS.
        rotate: whether the one before is kept.
    """
    tensors: dict[str, Tensor] = {}
    more = {"state": encode(state, tensors), "epoch": state["progress"]["epoch"]}
    return _write(folder, name, tensors, (about or {}) | more, sync, rotate)


def save_manifest(folder: Path, written: dict[str, Entry]) -> None:
    """Write manifest.json, once the files are written: what they hold, and those before them.

    It is not synced: each of these files carries its own digest.
    """
    document = {"schema": record.SCHEMA, "files": _manifest(folder) | written}
    record.write(folder / MANIFEST, record.as_json(document))


def _write(
    folder: Path,
    name: str,
    tensors: dict[str, Tensor],
    about: dict[str, Any],
    sync: bool,
    rotate: bool = True,
) -> dict[str, Entry]:
    from safetensors.torch import save

    storage.make_folder(folder)
    # One JSON text: safetensors writes several in an order that changes from run to run.
    data = save(_apart(tensors), {"knobs": json.dumps({"digest": storage.UNSIGNED} | about)})
    data = storage.signed(data)
    before = {}
    if rotate and (folder / name).exists():
        before = {_before(name): e for n, e in _manifest(folder).items() if n == name}
        os.replace(folder / name, folder / _before(name))
    record.write(folder / name, data, sync)
    return before | {name: {"bytes": len(data), "sha256": _digest(data)}}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share their memory, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen or tensor.storage_offset() else tensor
        seen.add(place)
    return apart


def _before(name: str) -> str:
    return name.replace(".", ".previous.", 1)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def snapshot(run: Run) -> dict:
    """Return all that a resume needs, as tensors and plain data."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "average": run.average.state_dict() if run.average else None,
        "best_weights": run.best_weights,
        "best_outputs": run.best_outputs,  # of a row no other arithmetic has the same bits
        "progress": asdict(run.progress),
    } | ({"best_members": run.best_members} if len(run.networks) > 1 else {})


def restore(run: Run, state: dict, planned: int | None = None) -> None:
    """Put a run back to where `snapshot` was taken.

    Args:
        planned: epochs that the run was to have then; None: as many as now. Where they differ, a
            schedule that follows the length of the run (FOLLOWS) is rebuilt for the new length and
            placed at its step; others go on as they are.

    Raises:
        CheckpointError: the state is of a run with another config.
    """
    rebuilt = planned not in (None, run.training["epochs"]) and isinstance(run.scheduler, FOLLOWS)
    try:
        run.model.load_state_dict(state["model"])
        if rebuilt:
            _place(run.scheduler, state["scheduler"]["last_epoch"])
        moved = [{k: g[k] for k in MOVED if k in g} for g in run.optimizer.param_groups]
        run.optimizer.load_state_dict(state["optimizer"])
        if rebuilt:
            for group, values in zip(run.optimizer.param_groups, moved, strict=True):
                group.update(values)
        else:
            run.scheduler.load_state_dict(state["scheduler"])
        if run.average:
            run.average.load_state_dict(state["average"])
        run.best_weights = state["best_weights"]
        run.best_outputs = state.get("best_outputs")
        run.best_members = state.get("best_members", [])
        run.progress = Progress(**state["progress"])
        run.rebuilt = rebuilt
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise CheckpointError(f"the checkpoint does not fit this config: {reason}") from None


def _place(scheduler: LRScheduler, steps: int) -> None:
    """Take a new schedule to where it is after so many steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer has made none
        for _ in range(steps):
            scheduler.step()


def load_last(folder: Path) -> dict[str, Any]:
    """Read the newest state that is whole, to the CPU; what it is loaded into knows its device.

    Raises:
        CheckpointError: there is none.
    """
    faults: list[str] = []
    for name, tensors, about in _whole(folder, (LAST, PREVIOUS), faults):
        try:
            state = decode(about["state"], tensors)
        except (KeyError, ValueError) as error:
            faults.append(f"{folder / name}: {first_line(error)}")
            continue
        _tell(faults, f"{name}, of epoch {about.get('epoch')}, takes its place")
        return state
    path = folder / LAST_OF_SCHEMA_1
    if path.is_file():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds
            faults.append(f"{path}: cannot be read ({first_line(error)})")
        else:
            _tell(faults, f"{path.name} takes its place")
            return state
    if faults:
        raise CheckpointError(f"{'; '.join(faults)}; remove {folder} to begin anew")
    missing = "no such file; the run kept no checkpoint to resume from"
    raise CheckpointError(f"{folder / LAST}: {missing}")


def load(folder: str | Path) -> nn.Module:
    """Load the network of a run with its best weights, in eval mode, on the CPU.

    Of a run with several members it gives their mean prediction (see Ensemble).

    Args:
        folder: a run's folder.

    Raises:
        CheckpointError: no run, no checkpoint, or none that is whole.
    """
    return read_best(folder)[0]


def read_best(folder: str | Path) -> tuple[nn.Module, Shape, dict[str, Any]]:
    """Return what `load` does, the shape of its inputs, and what the checkpoint says of the run."""
    from knobs import build

    path, faults = Path(folder) / record.CHECKPOINTS, []
    for name, weights, about in _whole(path, (BEST, LAST, PREVIOUS, _before(BEST)), faults):
        try:
            if "state" in about:
                weights = decode(about["state"]["best_weights"], weights)
            shape = Shape(**about["shape"] | {"input": tuple(about["shape"]["input"])})
            config, count = record.migrate(about["config"]), about.get("members", 1)
            networks = [build.model(config, shape) for _ in range(count)]
            model = networks[0]
            if count > 1:
                model = Ensemble(networks, about["task"], about["log_rates"])
            model.load_state_dict(weights)
        except Exception as error:  # a missing key, weights of another model
            faults.append(f"{path / name}: not a checkpoint of knobs ({first_line(error)})")
            continue
        _tell(faults, f"{name}, of epoch {about.get('epoch')}, takes its place")
        return model.eval(), shape, about
    missing = f"{path / BEST}: no such file; give the folder of a run that kept checkpoints"
    raise CheckpointError("; ".join(faults) or missing)


def _whole(
    folder: Path, names: tuple[str, ...], faults: list[str]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    """Yield the files that are whole: name, tensors, and what else they say; note the others."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    sums = {entry["sha256"] for entry in _manifest(folder).values()}
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        try:
            data = storage.read(path, storage.memory())
            size = int.from_bytes(data[:8], "little")
            said = json.loads(data[8 : 8 + size])["__metadata__"]
            about = json.loads(said["knobs"])
            own = about.get("digest")
            listed = _digest(data) in sums
            signed = storage.intact(data, own)
            # Schema 1 had neither digest nor manifest.
            if not (listed or signed or (own is None and not sums)):
                faults.append(f"{path}: damaged, its SHA-256 is another")
                continue
            tensors = parse(data)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, RecursionError) as error:
            faults.append(f"{path}: cannot be read ({first_line(error)})")
            continue
        yield name, tensors, about


def _manifest(folder: Path) -> dict[str, Entry]:
    """Return the entries of manifest.json by name; none where it cannot be read."""
    try:
        files = record.read_json(folder / MANIFEST)["files"]
        return {name: entry for name, entry in files.items() if isinstance(entry["sha256"], str)}
    except (*record.BROKEN, KeyError, TypeError, AttributeError):
        return {}


def _tell(faults: list[str], instead: str) -> None:
    """Say that an older checkpoint is used."""
    if faults:
        say(f"{'; '.join(faults)}; {instead}")


def say(line: str) -> None:
    """Say on the terminal and in the log what of a record was damaged."""
    log.warning("%s", line)
    note(line)
