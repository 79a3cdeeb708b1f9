"""A run's trained network with what it takes to use it on raw rows."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from knobs import record, storage
from knobs.data.preparation import Preparation
from knobs.data.stored import ARRAYS, JSON, Fields
from knobs.ensemble.folder import alike, candidate, members, of_sweep
from knobs.errors import CheckpointError, ConfigError, DataError, first_line
from knobs.models.members import Ensemble
from knobs.predict import guard
from knobs.predict.drift import Tally
from knobs.predict.reading import BATCH, Model, Source, framed, predicted, prepare
from knobs.predict.sources import blocks_of
from knobs.shape import Shape
from knobs.training.checkpoint import read_best

POISSON = "knobs.losses.poisson"  # the loss whose outputs are log rates
log = logging.getLogger("knobs")


class Predictor(nn.Module):
    """Trained networks that answer raw rows by `predict`, and prepared tensors when called.

    Called it is the bare network, (N, *input) -> (N, outputs), of several their mean prediction.
    Its weights, modules and attributes are the network's, under the network's names.

    Args:
        networks: trained on one preparation; one may be an Ensemble.
        preparation: of their run, or why there is none.
        task: classification, multilabel or regression.
        shape: of what the network takes and gives.
        log_rates: whether outputs are logs of the values.
        source: how files of raw rows are read.
        counts: how often each network counts in the mean; once if None.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        preparation: Preparation | str,
        task: str,
        shape: Shape,
        log_rates: bool = False,
        source: Source | None = None,
        counts: Sequence[int] | None = None,
    ):
        super().__init__()
        several = len(networks) > 1
        self.network = Ensemble(networks, task, log_rates, counts) if several else networks[0]
        self.preparation, self.task, self.shape = preparation, task, shape
        self.log_rates, self.source = log_rates, source or Source()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Map prepared (N, *input) -> (N, outputs): logits, or standardised values.

        Raises:
            DataError: no tensor, or one that is evidently not prepared; see guard.py.
        """
        inputs = self.preparation.inputs if isinstance(self.preparation, Preparation) else None
        guard.check(x, self.shape, inputs, next(self.network.parameters(), None))
        return self.network(x)

    @property
    def model(self) -> Model:
        """Return what turns raw rows into answers.

        Raises:
            ConfigError: saying why raw rows cannot be prepared.
        """
        if not isinstance(self.preparation, Preparation):
            raise ConfigError(self.preparation)
        inputs, target = self.preparation.inputs, self.preparation.target
        return Model(inputs, target, self.source, self._outputs, self.log_rates)

    def predict(self, x: Any, errors: str = "raise") -> Any:
        """Return a data frame of the answers to raw rows, a row each, in their order.

        Classification: `prediction` and `p(CLASS)` for each class. Multilabel: for each label 0 or
        1, and `p(LABEL)`. Regression: `prediction`, or a column for each of several targets, in
        their own units. What differs from training is logged.

        Args:
            x: of a table: a data frame, a dict, or a file (CSV, TSV, .gz, .zip, Parquet, .xlsx); of
                a bundled table also an array (N, F) in the order of its columns. Of pictures: a
                folder, a file, a list of files, or pixels (N, C, H, W). Of texts: a list, a series,
                one text, a file of one text a line, or a table with the column of texts.
            errors: raise, or `column`: rows that cannot be read have empty cells, and what is wrong
                with them in a column `error`.

        Raises:
            DataError: naming what cannot be read. ConfigError: why this run takes no raw rows.
        """
        import pandas as pd

        if errors not in ("raise", "column"):
            raise ConfigError(f"errors={errors!r}: must be raise or column")
        model, tally, frames, index = self.model, Tally(), [], []
        for rows, found, faults in predicted(model, blocks_of(x, model), tally):
            if faults and errors == "raise":
                more = f" ({len(faults)} rows of a block are at fault)" * (len(faults) > 1)
                raise DataError(f"{tally.first}{more}; errors='column' predicts the other rows")
            frames.append(pd.DataFrame(framed(found, faults)))
            if errors == "column":
                frames[-1]["error"] = [faults.get(i, "") for i in range(len(frames[-1]))]
            index += list(rows.names)
        if not frames:
            raise DataError("no rows to predict")
        for line in tally.lines(model.inputs):
            log.warning("%s", line)
        whole = pd.concat(frames, ignore_index=True)
        if isinstance(x, pd.DataFrame) or (isinstance(x, pd.Series) and len(x) == len(whole)):
            return whole.set_axis(x.index)
        return whole.set_axis(index) if isinstance(index[0], str) else whole

    def outputs(self, x: Any) -> Tensor:
        """Return the outputs (N, C) of raw rows, as the network gives them: see `predict`.

        Raises:
            DataError: a row that cannot be read.
        """
        model, found, tally = self.model, [], Tally()
        for rows in blocks_of(x, model):
            x, faults = prepare(model, rows, tally)
            if faults:
                place = min(faults)
                raise DataError(f"row {rows.names[place]}: {faults[place]}")
            found.append(torch.from_numpy(self._outputs(x)))
        return torch.cat(found)

    @torch.no_grad()
    def _outputs(self, x: np.ndarray) -> np.ndarray:
        """Return (n, C) float32 outputs of prepared rows, by a network that draws nothing."""
        weight = next(self.network.parameters(), torch.zeros(()))
        training = self.training
        self.eval()
        try:
            parts = []
            for part in torch.from_numpy(x).split(BATCH):
                part = part.to(weight.device, weight.dtype if part.is_floating_point() else None)
                parts.append(self.network(part).float().cpu())
            return torch.cat(parts).numpy()
        finally:
            self.train(training)

    # ------------------------------------------------------------------ as the network itself
    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            network = self.__dict__.get("_modules", {}).get("network")
            if network is None or name.startswith("__"):
                raise
            return getattr(network, name)

    def __getitem__(self, place: int) -> nn.Module:
        return self.network[place]

    def named_modules(self, *args: Any, **options: Any) -> Any:
        """Yield the network's modules under its own names."""
        return self.network.named_modules(*args, **options)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the network's weights under its own names."""
        return self.network.state_dict(*args, **options)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Take weights under the network's own names."""
        return self.network.load_state_dict(*args, **options)


def load(folder: str | Path | Sequence[str | Path], top: int | None = None) -> Predictor:
    """Load a run's model with its best weights, in eval mode, on the CPU.

    `load(folder).predict(rows)` takes raw rows; called, the model takes prepared tensors. Of a run
    with several members, of several runs and of an ensemble it gives the mean prediction.

    Args:
        folder: of a run, of an ensemble (`python -m knobs.ensemble`), or of a sweep; or a list of
            runs' folders, of the same data, split and preparation.
        top: of a sweep, how many of its best finished runs are averaged.

    Raises:
        CheckpointError: no run, no checkpoint, or none that is whole; runs that cannot be averaged.
    """
    if not isinstance(folder, str | Path):
        return _mean_of([Path(one).expanduser() for one in folder])
    path = Path(folder).expanduser()
    if (path / record.ENSEMBLE).is_file():
        found = members(path)
        return _averaged([one for one, _ in found], [n for _, n in found])
    if top is None:
        return _load(path)
    if type(top) is not int or top < 1:
        raise ConfigError(f"top={top!r}: must be a whole number from 1 on")
    found, left = of_sweep(path)
    for line in left[:3]:
        log.warning("left out: %s", line)
    if len(left) > 3:
        log.warning("left out: %d more", len(left) - 3)
    if len(found) < top:
        log.warning("top=%d: only %d runs can be averaged", top, len(found))
    return _averaged([one.folder for one in found[:top]])  # which of_sweep knows to be alike


def _mean_of(folders: Sequence[Path]) -> Predictor:
    """Return the mean of runs that are alike in their data, split, preparation and objective."""
    if not folders:
        raise CheckpointError("no runs to load; give the folder of one, or several")
    if len(folders) > 1:
        alike([candidate(one) for one in folders])
    return _averaged(folders)


def _averaged(folders: Sequence[Path], counts: Sequence[int] | None = None) -> Predictor:
    models = [_load(one) for one in folders]
    first = models[0]
    for one, other in zip(folders[1:], models[1:], strict=True):
        if not isinstance(first.preparation, Preparation):
            raise CheckpointError(f"{folders[0]}: {first.preparation}")
        mine, its = (getattr(m.preparation, "save", dict)() for m in (first, other))
        if (mine, first.shape, first.log_rates) != (its, other.shape, other.log_rates):
            raise CheckpointError(f"{one}: prepared otherwise than {folders[0]}")
    return Predictor(
        [one.network for one in models], first.preparation, first.task, first.shape,
        first.log_rates, first.source, counts,
    )  # fmt: skip


def _load(path: Path) -> Predictor:
    """Return the model of one run, in whose folder nobody else may write."""
    storage.closed(path)
    network, shape, about = read_best(path)
    config = _config(path)
    preparation = _preparation(path, config)
    if isinstance(preparation, Preparation) and (fault := _unlike(preparation, shape)):
        raise CheckpointError(f"{path / JSON}: not of this checkpoint ({fault})")
    task = about.get("task") or config["data"].get("task")
    if isinstance(preparation, Preparation):
        if task not in (None, preparation.target.task):
            raise CheckpointError(f"{path / JSON}: of a {preparation.target.task}, not a {task}")
        task = preparation.target.task
    loss = config["loss"].get("_target_")
    log_rates = about.get("log_rates", loss == POISSON)
    if not isinstance(log_rates, bool):
        raise CheckpointError(
            f"{path}: log_rates={log_rates!r} of the checkpoint: must be true or false"
        )
    return Predictor([network], preparation, task or "", shape, log_rates, _source(path, config))


def _config(path: Path) -> dict[str, dict]:
    """Return the sections `data` and `loss` of a run's config; empty where there is none.

    Raises:
        CheckpointError: it is damaged, so that nothing tells how rows are read.
    """
    try:
        config = record.read_config(path)["config"]
    except CheckpointError:
        raise
    except (*record.BROKEN, KeyError, TypeError):
        config = {}
    sections = config if isinstance(config, dict) else {}
    return {n: s if isinstance(s := sections.get(n), dict) else {} for n in ("data", "loss")}


def _source(path: Path, config: dict[str, dict]) -> Source:
    """Return how the run's own files are read.

    Raises:
        CheckpointError: a config.json that says what cannot be.
    """
    data = config["data"]
    has_texts = str(data.get("_target_", "")).startswith("knobs.data.files.text")
    said = {"text": data.get("text", "") if has_texts else ""}
    said |= {key: data.get(key, "auto") for key in ("sep", "encoding")}
    try:
        return Source.read(Fields(said, {}, "data."))
    except CheckpointError as error:
        raise CheckpointError(f"{path / record.CONFIG}: {error}") from None


def _preparation(path: Path, config: dict[str, dict]) -> Preparation | str:
    """Return the preparation of a run, or why raw rows cannot be prepared."""
    calls = "model(tensor) takes tensors that are prepared already"
    if not (path / JSON).is_file():
        target = str(config["data"].get("_target_", ""))
        if (target and not target.startswith("knobs.")) or target.startswith("knobs.data.arrays."):
            how = "data frames, rows of numbers (N, F), pictures (N, C, H, W) and texts have one"
            how += ", Data where make_data is given inputs=Table.fit(...), say"
            return f"{path}: {target} tells no preparation of raw rows: {how}; {calls}"
        return f"{path}: has no {JSON}, as runs of older versions; train it again; {calls}"
    try:
        return Preparation.load({name: storage.read(path / name) for name in (JSON, ARRAYS)})
    except (OSError, ValueError) as error:
        return f"{path}: its preparation cannot be used ({first_line(error)}); {calls}"


def _unlike(preparation: Preparation, shape: Shape) -> str:
    """Return in which way a preparation makes other inputs or outputs than a network has."""
    inputs, target = preparation.inputs, preparation.target
    if inputs.kind == "table":
        made = (inputs.width,)
    elif inputs.kind == "image":
        made = (len(inputs.mean), *inputs.size)
    else:
        made = (inputs.length,)
        if len(inputs.tokens) + 2 != shape.vocabulary:
            return f"{len(inputs.tokens) + 2} token ids, the network has {shape.vocabulary}"
    if made != shape.input:
        return f"inputs of shape {made}, the network takes {shape.input}"
    answers = len(target.classes) or len(target.names)
    if answers != shape.outputs:
        return f"{answers} answers, the network gives {shape.outputs}"
    return ""
