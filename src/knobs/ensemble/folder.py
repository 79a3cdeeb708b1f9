"""Runs of one data set and one split -> a library of predictions; an ensemble's own folder."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from knobs import record, storage
from knobs.data.preparation import Preparation
from knobs.data.stored import ARRAYS, JSON
from knobs.ensemble.selection import Gain, Library
from knobs.errors import CheckpointError, ConfigError, first_line, making
from knobs.training import checkpoint, predictions

VERSION = 1
MOST_RUNS, MOST_COUNT = 10_000, 1000
# Of a run, what a prediction takes.
KEPT = (record.CONFIG, JSON, ARRAYS)


@dataclass(frozen=True)
class Candidate:
    """A run that has ended, with what it says of its validation rows.

    Args:
        folder: of the run.
        kind: what must be equal in all runs of an ensemble: data, split, preparation, metric.
        value: of the objective. rows, targets, outputs: see predictions.encode.
    """

    folder: Path
    kind: tuple
    value: float
    mode: str
    rows: Tensor
    targets: Tensor
    outputs: Tensor


def candidate(folder: Path) -> Candidate:
    """Read a run that has ended.

    Raises:
        CheckpointError: no such run, one that has not come to its end, or a damaged record.
    """
    try:
        summary, config = record.read_summary(folder), record.read_config(folder)
        objective, status = summary["objective"], summary["status"]
        if objective is None:
            raise CheckpointError(f"{folder}: trained on the validation rows, so nothing judges it")
        files = {name: storage.read(folder / name) for name in (JSON, ARRAYS)}
        data = storage.read(folder / predictions.FILE)
        found = predictions.decode(data)
        epoch, best = int(storage.about(data).get("epoch", 0)), summary["best_epoch"]
        metric, mode, value = (objective[key] for key in ("metric", "mode", "value"))
        whole, loss = config["data"]["hash"], config["config"]["loss"].get("_target_")
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        lacks = f"has no {Path(error.filename).name}"
        raise CheckpointError(f"{folder}: no run that an ensemble can judge; it {lacks}") from None
    except (*record.BROKEN, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: no run that has ended ({first_line(error)})") from None
    if status not in record.FINISHED or not isinstance(value, int | float):
        raise CheckpointError(f"{folder}: ended {status}; an ensemble takes finished runs")
    if loss == "knobs.losses.poisson":
        raise CheckpointError(f"{folder}: loss=poisson, whose rates no ensemble averages")
    if epoch not in (0, best):  # a power cut can leave those of the run before it went on
        of_it = f"{predictions.FILE} is of epoch {epoch}, the best one is {best}"
        raise CheckpointError(f"{folder}: {of_it}; resume={folder} writes it again")
    if not whole:
        raise CheckpointError(f"{folder}: its data have no hash, so nothing tells that all agree")
    kind = (whole, files[JSON], files[ARRAYS], metric, mode, tuple(found["rows"].tolist()))
    return Candidate(
        folder, kind, float(value), mode, *(found[k] for k in ("rows", "targets", "outputs"))
    )


def of_sweep(folder: Path) -> tuple[list[Candidate], list[str]]:
    """Return a sweep's runs that can be averaged, the best first, and what is left out, and why.

    Of several data sets, splits or metrics, those that most runs have; of several preparations of
    these, that of the best run which another run shares.

    Raises:
        CheckpointError: not two such runs.
    """
    places = sorted(path.parent for path in folder.glob(f"*/{record.SUMMARY}"))
    found, left = [], []
    for place in places[:MOST_RUNS]:
        try:
            found.append(candidate(place))
        except CheckpointError as error:
            left.append(str(error))
    comparable = [(one.kind[0], *one.kind[3:]) for one in found]
    most = max(comparable, key=comparable.count, default=None)
    rivals = [one for one, its in zip(found, comparable, strict=True) if its == most]
    rivals.sort(key=lambda one: -one.value if one.mode == "max" else one.value)
    kinds = [one.kind for one in rivals]
    kind = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    kept = [one for one in rivals if one.kind == kind]
    for one, its in zip(found, comparable, strict=True):
        if its != most:
            left.append(f"{one.folder}: other data, split or objective")
        elif one.kind != kind:
            value = f"{one.kind[3]} {one.value:.4f}"
            left.append(f"{one.folder}: its rows are prepared otherwise ({value})")
    if not kept:
        why = f" ({left[0]})" if left else ""
        raise CheckpointError(f"{folder}: an ensemble takes two finished runs or more{why}")
    return kept, left


def alike(candidates: Sequence[Candidate]) -> None:
    """Refuse runs that differ in their data, split, preparation or objective.

    Raises:
        CheckpointError: naming the first that does.
    """
    names = ("data or split", *["preparation"] * 2, *["objective"] * 2, "validation rows")
    first = candidates[0]
    for one in candidates[1:]:
        for name, mine, its in zip(names, first.kind, one.kind, strict=True):
            if mine != its:
                raise CheckpointError(f"{one.folder}: another {name} than {first.folder}")


def library(candidates: Sequence[Candidate]) -> Library:
    """Return the predictions of runs that are alike."""
    first = candidates[0]
    files = {name: storage.read(first.folder / name) for name in (JSON, ARRAYS)}
    target = Preparation.load(files).target
    with making(f"the outputs of {len(candidates)} runs", "name a sweep of fewer runs"):
        outputs = torch.stack([one.outputs.float() for one in candidates])
    std = torch.from_numpy(target.std)
    metric = first.kind[3].partition("/")[2]
    return Library(outputs, first.targets, target.task, std, metric, first.mode)


def write(out: Path, candidates: Sequence[Candidate], counts: Tensor, gain: Gain | None) -> None:
    """Write an ensemble as a folder of its own, with what each of its runs predicts by.

    Raises:
        CheckpointError: a run that kept no weights. ConfigError: a folder that is there.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists; choose another --out, or remove it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    members: dict[str, Any] = {}
    taken = [(one, n) for one, n in zip(candidates, counts.tolist(), strict=True) if n]
    try:
        for i, (one, n) in enumerate(taken):
            place = partial / "members" / str(i)
            (place / record.CHECKPOINTS).mkdir(parents=True)
            for name in KEPT:
                shutil.copyfile(one.folder / name, place / name)
            for name in (checkpoint.BEST, checkpoint.MANIFEST):
                source = one.folder / record.CHECKPOINTS / name
                if source.is_file():
                    shutil.copyfile(source, place / record.CHECKPOINTS / name)
            checkpoint.read_best(place)
            members[str(i)] = {"run": str(one.folder), "count": n}
        document = {"version": VERSION, "metric": taken[0][0].kind[3], "members": members}
        document["gain"] = asdict(gain) if gain else None
        record.write(partial / record.ENSEMBLE, record.sealed(document), sync=True)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def members(folder: Path) -> list[tuple[Path, int]]:
    """Return the folders of an ensemble's members, and how often each counts.

    Raises:
        CheckpointError: an ensemble.json that is not as `write` writes it.
    """
    path = folder / record.ENSEMBLE
    try:
        document = record.read_json(path)
        version, named = document["version"], document["members"]
        counts = [named[str(i)]["count"] for i in range(len(named))]
    except (*record.BROKEN, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({first_line(error)})") from None
    if version != VERSION or not all(type(n) is int and 1 <= n <= MOST_COUNT for n in counts):
        raise CheckpointError(f"{path}: not an ensemble of this version of knobs")
    if not counts:
        raise CheckpointError(f"{path}: has no members")
    return [(folder / "members" / str(i), n) for i, n in enumerate(counts)]
