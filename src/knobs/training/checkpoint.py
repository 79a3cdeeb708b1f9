"""Weights on disk: best.safetensors, which loads into a model, and last.safetensors, to resume.

Of each the one before is kept as well, and manifest.json, written after them, has their sizes and
SHA-256. A file is whole if its bytes stand in the manifest, or if the digest that it carries is its
own: a killed process may have written it after the manifest. One that is not whole is never
believed: the one before takes its place, and that is said. What is whole is still looked at, see
stored.py, before a run takes it over.
"""

import hashlib
import io
import json
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from knobs import record, storage, targets
from knobs.codec import decode, encode, name_once
from knobs.errors import CheckpointError, first_line, note
from knobs.models.members import Ensemble
from knobs.shape import Shape
from knobs.training import stored
from knobs.training.state import Progress, Run
from knobs.words import printable

BEST, LAST, MANIFEST = "best.safetensors", "last.safetensors", "manifest.json"
PREVIOUS = "last.previous.safetensors"
LAST_OF_SCHEMA_1 = "last.pt"  # read for ever, never written
SAID_OF_SCHEMA_1 = {"shape", "config", "epoch"}  # by best.safetensors, which had no digest
# Schedules that end with the run: where it becomes longer, they are those of the new length.
FOLLOWS = (
    *(lr_scheduler.CosineAnnealingLR, lr_scheduler.LinearLR, lr_scheduler.PolynomialLR),
    *(lr_scheduler.OneCycleLR, lr_scheduler.LambdaLR),
)
MOVED = ("lr", "momentum", "betas")  # of a parameter group, by schedules
log = logging.getLogger("knobs")


Entry = dict[str, Any]  # of a file in the manifest: its bytes and their SHA-256


class NoCheckpoint(CheckpointError):
    """None is there, or all are damaged: their run can only begin again."""


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
    name_once(more["state"]["best_weights"], tensors)
    return _write(folder, name, tensors, (about or {}) | more, sync, rotate)


def save_manifest(folder: Path, written: dict[str, Entry], gone: str = "") -> None:
    """Write manifest.json, once the files are written: what they hold, and those before them.

    It is not synced: each of these files carries its own digest.
    """
    files = {name: e for name, e in (_manifest(folder) | written).items() if name != gone}
    document = {"schema": record.SCHEMA, "files": files}
    record.write(folder / MANIFEST, record.as_json(document))


def forget_best_before(folder: Path) -> None:
    """Remove the best weights before the best, which a run that has ended needs no more."""
    if (folder / _before(BEST)).exists():
        save_manifest(folder, {}, gone=_before(BEST))
        (folder / _before(BEST)).unlink()


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
    fixed = run.cut.backbone.values if run.cut else {}  # once, for the best weights have them too
    return {
        "model": run.model.state_dict() | fixed,
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "average": run.average.state_dict() if run.average else None,
        "best_weights": run.best_weights,
        "best_outputs": run.best_outputs,  # of a row no other arithmetic has the same bits
        "progress": asdict(run.progress),
    } | ({"best_members": run.best_members} if len(run.networks) > 1 else {})


def packed(state: dict) -> bytes:
    """Return a state of `snapshot` as bytes, for another process of the same run."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(state, tensors))
    return save(_apart(tensors), {"knobs": text})


def unpacked(data: bytes) -> dict[str, Any]:
    """Return the state of which `packed` returned the bytes."""
    from safetensors.torch import load as parse

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return decode(json.loads(header["__metadata__"]["knobs"]), parse(data))


def resume(run: Run, folder: Path, planned: int | None = None) -> bytes:
    """Put a run back to its newest state that is whole; see `restore`.

    Returns:
        The lines of metrics.jsonl up to there; older checkpoints have none.

    Raises:
        NoCheckpoint, CheckpointError: as `load_last` has them.
    """
    state = load_last(folder, lambda state: stored.fits(run, state))
    restore(run, state, planned)
    return state["log"].numpy().tobytes() if "log" in state else b""


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
    if run.cut:
        state = run.cut.shared(state)
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


def load_last(
    folder: Path, check: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any]:
    """Read the newest state that is whole, to the CPU; what it is loaded into knows its device.

    Args:
        check: what else a state must be, or it raises CheckpointError.

    Raises:
        NoCheckpoint: there is none that is whole. CheckpointError: of one that is, the content
            cannot be; it names the field.
    """
    faults: list[str] = []
    refused = False

    def state_of(name: str, read: Callable[[], Any]) -> dict[str, Any] | None:
        nonlocal refused
        try:
            state = read()
            stored.check(state)
            check(state)
        except Exception as error:  # content of any kind
            refused = True
            faults.append(f"{folder / name}: {stored.why(error)}")
            return None
        tell(faults, f"{name}, of epoch {state['progress']['epoch']}, takes its place")
        return state

    for name, tensors, about in _whole(folder, (LAST, PREVIOUS), faults):
        if state := state_of(name, lambda t=tensors, a=about: decode(a["state"], t)):
            return state
    path = folder / LAST_OF_SCHEMA_1
    if path.is_file():
        try:
            state = _of_schema_1(path)
        except Exception as error:  # torch raises many kinds
            faults.append(f"{path}: damaged ({first_line(error)})")
        else:
            if state_of(path.name, lambda: state):
                return state
    if refused:
        raise CheckpointError(f"{'; '.join(faults)}; remove {folder} to begin again")
    missing = f"{folder / LAST}: no such file; the run kept no checkpoint to resume from"
    raise NoCheckpoint("; ".join(faults) or missing)


def _of_schema_1(path: Path) -> Any:
    """Read last.pt, a zip archive that has a checksum of each tensor, which torch does not read."""
    data = io.BytesIO(storage.read(path, storage.memory()))
    with zipfile.ZipFile(data) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the CRC-32 of its {damaged} is another")
    data.seek(0)
    return torch.load(data, map_location="cpu", weights_only=True)


def keep_best(folder: Path) -> None:
    """Leave the best weights alone of a run that has come to its end, if there are any."""
    if (folder / BEST).is_file():
        forget(folder)
        (folder / _before(BEST)).unlink(missing_ok=True)
        files = {name: entry for name, entry in _manifest(folder).items() if name == BEST}
        record.write(folder / MANIFEST, record.as_json({"schema": record.SCHEMA, "files": files}))


def forget(folder: Path) -> None:
    """Remove what a run could go on from: it begins again."""
    for name in (LAST, PREVIOUS, LAST_OF_SCHEMA_1):
        (folder / name).unlink(missing_ok=True)


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
    path, faults = Path(folder) / record.CHECKPOINTS, []
    for name, weights, about in _whole(path, (BEST, LAST, PREVIOUS, _before(BEST)), faults):
        try:
            if "state" in about:
                weights = decode(about["state"]["best_weights"], weights)
            if "digest" not in about:
                _compare_with_last(path, weights, about)
            _refuse_foreign(path / name, about)
            model, shape = _network(weights, about)
        except _Foreign:
            raise
        except Exception as error:  # a missing key, weights of another model
            faults.append(f"{path / name}: not a checkpoint of knobs ({first_line(error)})")
            continue
        tell(faults, f"{name}, of epoch {printable(str(about.get('epoch')), 40)}, takes its place")
        return model.eval(), shape, about
    missing = f"{path / BEST}: no such file; give the folder of a run that kept checkpoints"
    raise CheckpointError("; ".join(faults) or missing)


class _Foreign(CheckpointError):
    """A network of code that KNOBS_ALLOW does not admit here: no other file of the run helps."""


def _refuse_foreign(path: Path, about: dict[str, Any]) -> None:
    """Refuse to build what a config names and nobody here has admitted."""
    if packages := targets.not_admitted(about["config"]):
        listed = ", ".join(printable(package, 60) for package in packages)
        admit = "read it, then export KNOBS_ALLOW for it yourself"
        raise _Foreign(f"{path}: this run used code of its own ({listed}); {admit}")


def _network(weights: dict[str, Tensor], about: dict[str, Any]) -> tuple[nn.Module, Shape]:
    """Build the network that a checkpoint describes, and fill it with its weights."""
    from knobs import build

    shape = Shape.read(about["shape"])
    config, count = record.migrate(about["config"]), about.get("members", 1)
    if type(count) is not int or not 1 <= count <= len(weights):
        raise CheckpointError(f"members={count}: must be as many as there are networks")
    node = config["model"]
    if node["_target_"].startswith("knobs.") and node.get("weights"):  # those here take their place
        config = config | {"model": node | {"weights": None}}
    if "network" in about:  # what its library needs to know, which the folder need not say again
        config = config | {"model": config["model"] | {"config": about["network"]}}
    networks = [build.model(config, shape) for _ in range(count)]
    model = networks[0]
    if count > 1:
        model = Ensemble(networks, about["task"], about["log_rates"])
    stored.same_tensors(model.state_dict(), weights, "weights")
    stored.sound(model, weights, "weights")
    model.load_state_dict(weights)
    return model, shape


def _compare_with_last(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Hold best.safetensors of schema 1, which has no digest, against what lies beside it.

    Raises:
        CheckpointError: config.json, or last.pt of the same best epoch, says otherwise.
    """
    try:
        config = record.read_json(path.parent / record.CONFIG)["config"]
        state = _of_schema_1(path / LAST_OF_SCHEMA_1)
        best, epoch = state["best_weights"], state["progress"]["best_epoch"]
    except Exception:  # nothing to hold it against
        return
    if any(config.get(section) != node for section, node in about["config"].items()):
        raise CheckpointError(f"its config is not that of {record.CONFIG}")
    if epoch == about["epoch"]:
        same = weights.keys() == best.keys() and all(w.equal(best[n]) for n, w in weights.items())
        if not same:
            raise CheckpointError(f"damaged, its weights are not those of {LAST_OF_SCHEMA_1}")


def _whole(
    folder: Path, names: tuple[str, ...], faults: list[str]
) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Any]]]:
    """Yield the files that are whole: name, tensors, and what else they say; note the others."""
    from safetensors.torch import load as parse

    sums = {entry["sha256"] for entry in _manifest(folder).values()}
    signs = (folder / MANIFEST).exists()
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
            of_schema_1 = about.keys() == SAID_OF_SCHEMA_1 and not signs and name == BEST
            if not (listed or signed or of_schema_1):
                faults.append(f"{path}: damaged, its SHA-256 is another")
                continue
            tensors = parse(data)
        except Exception as error:  # bytes of any kind
            faults.append(f"{path}: cannot be read ({_unread(error)})")
            continue
        yield name, tensors, about


def _unread(error: Exception) -> str:
    """Return why bytes are no checkpoint, for a person."""
    plain = isinstance(error, OSError) or type(error).__name__ == "SafetensorError"
    return printable(first_line(error), 100) if plain else "not a file that knobs writes"


def _manifest(folder: Path) -> dict[str, Entry]:
    """Return the entries of manifest.json by name; none where it cannot be read."""
    try:
        files = record.read_json(folder / MANIFEST)["files"]
        return {name: entry for name, entry in files.items() if isinstance(entry["sha256"], str)}
    except (*record.BROKEN, KeyError, TypeError, AttributeError):
        return {}


def tell(faults: list[str], instead: str) -> None:
    """Say what is done instead, where there are faults."""
    if faults:
        say(f"{'; '.join(faults)}; {instead}")


def say(line: str) -> None:
    """Say on the terminal and in the log what of a record was damaged."""
    log.warning("%s", line)
    note(line)
