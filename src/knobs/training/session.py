"""One run under way: its Run, its record, its W&B run; from opening to the summary."""

import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from knobs import build, record, storage
from knobs.config.resolvers import title
from knobs.data import Data
from knobs.data.inputs import Table
from knobs.data.preparation import ARRAYS, JSON, Preparation
from knobs.data.texts import Texts
from knobs.errors import DIVERGED, CheckpointError, DataError, ProcessLost, for_a_person
from knobs.identity import identity
from knobs.record import BROKEN, Record, read_config
from knobs.search.pruning import Pruner
from knobs.secrets import public, public_lines
from knobs.signals import Received, Stopped, exits, still_stopped
from knobs.tracking import Mirror, mirror, named
from knobs.tracking.about import summarized
from knobs.tracking.tracker import versions
from knobs.training import checkpoint, loop, predictions
from knobs.training.baselines import baselines
from knobs.training.screen import Screen
from knobs.training.setup import assemble
from knobs.training.state import Run

log = logging.getLogger("knobs")
SAVE_SECONDS = 5.0  # between checkpoints at ends of epochs: what a kill can cost
STEP_SECONDS = 5.0  # from one to the next, where that is between two steps of a long epoch
SAVE_SHARE = 20  # those between two steps take at most one part in so many of the time
JUDGED = ("finished", "stopped_early", "diverged")  # whose runs are held against baselines
SYNC_SECONDS = 30.0  # between those that are synced: what a power cut can cost


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its status and its value.

    Args:
        status: one of record.STATUSES.
        value: the objective's best value; NaN where there is none.
    """

    status: str
    value: float
    exit_code: int
    summary: dict[str, Any]


class Session:
    """A run that trains: the same whether alone or as a row of a stack.

    Args:
        config: checked and resolved.
        folder: where its record goes.
        about: the overrides and choices that made the config; of a sweep's job also its number.
        data: what `config` names, where it has been read already.
        track: makes the mirror.
        row: whether it is one of many in a stack, which sync two files each.
        stop: signals; from the moment that the record begins they are noted, no longer raised.

    Raises:
        UserError: data or a checkpoint that cannot be used; another process holds the folder.
    """

    def __init__(
        self,
        config: dict,
        folder: Path,
        device: torch.device,
        about: dict[str, Any] | None = None,
        data: Data | None = None,
        track: Callable[[dict, dict, Path, list[dict]], Mirror] = mirror,
        row: bool = False,
        stop: Received | None = None,
    ):
        about = about or {"overrides": [], "choices": {}}
        model = about["choices"].get("model") or config["model"].get("name", "")
        shown = title(about["overrides"], config["name"], config["data"]["name"], model)
        config = config | {"tracking": named(config["tracking"], shown)}
        self.row, self.config, self.about = row, config, about
        self.record = Record(folder)
        self.outcome: Outcome | None = None  # once it is closed
        self.tracker, begun = Mirror(config, folder, []), False
        self._log = b""  # the lines of the log that the checkpoint holds
        self._kept = 0  # the epoch of best.safetensors
        try:
            data = data or build.data(config)
            if config["resume"]:
                _compare_data(folder, data)
            if source := config.get("refit"):
                _compare_data(Path(source), data)
                data = data.joined()
            self.run = _assembled(config, data, device)
            again = config["resume"] and self._why_again()
            if again:  # from nothing: a state may have been taken over in part
                self.run = _assembled(config, data, device)
            told = public(config)
            document = {"identity": identity(config), "config": told, "data": data.about()}
            prepared = data.preparation.save() if data.preparation else {}
            if stop is not None:
                stop.at_once, begun = False, True
            self.record.begin(_public(self.about) | document, prepared, sync=not row)
            if again:
                checkpoint.tell([again], "the run begins again at its first step")
                self.record.restart()
                checkpoint.forget(self.record.checkpoints)
            earlier, fault = self.record.earlier(self.run.progress.epoch, self._log)
            if fault:
                checkpoint.say(fault)
            self._lines = [*map(storage.as_line, earlier)]  # each checkpoint has them too
            self.tracker = track(told["tracking"], told, folder, earlier)
            search, mode = config["search"], config["objective"]["mode"]
            self.pruner: Pruner | None = None  # ranks a run of a sweep among the others
            if "run" in self.about and search["pruner"] not in ("auto", "none"):
                self.pruner = Pruner(search["pruner"], folder.parent, mode, group=search["arm"])
        except BaseException as error:
            if begun and isinstance(error, Stopped):
                self.abandon(error.number)
            self.record.release()
            raise
        goes_on = bool(config["resume"] and not again)
        self._saved = time.perf_counter()
        # At the first save of one that goes on, nothing is known to outlive a power cut.
        self._synced = -math.inf if goes_on else self._saved
        self._rotates = not goes_on  # whether last.previous.safetensors is that of the save before
        self._due = self._saved + STEP_SECONDS

    def _why_again(self) -> str:
        """Put the run back to where it stood; return why it begins again, where it must.

        Raises:
            CheckpointError: a state that cannot be, and that may be another run's; or none, of a
                run that has come to its end.
        """
        folder, planned = self.record.folder, _planned(self.record.folder)
        try:
            self._log = checkpoint.resume(self.run, self.record.checkpoints, planned)
            return ""
        except CheckpointError as error:
            damaged = isinstance(error, checkpoint.NoCheckpoint)
            end = record.ended(folder)
            over = end is not None and end.status in (*JUDGED, "pruned")
            longer = planned != self.run.training["epochs"] and record.resumable(folder)
            # A run of a sweep is known by its config, and none of its files has the last word.
            if over and not longer:
                mend = f"the run has ended, and keeps what it has; rerun={folder} trains it anew"
                if self._kept_best():
                    why = "training.keep=best, which removes what a resume needs once it has ended"
                    mend = f"it was trained with {why}; {mend}, and training.keep=all keeps it"
                raise CheckpointError(f"{error}; {mend}") from None
            if not damaged and "run" not in self.about:
                raise
            return str(error)

    def _kept_best(self) -> bool:
        """Return whether the run that is here ended under training.keep=best."""
        with suppress(*BROKEN, LookupError, TypeError):
            before = read_config(self.record.folder)["config"]["training"].get("keep")
            return before == "best" and not record.resumable(self.record.folder)
        return False

    def keep(self, _run: Run) -> None:
        """Keep a checkpoint between two steps; see loop.fit."""
        self.save()

    @contextmanager
    def fitting(
        self, out: Console, received: Received
    ) -> Iterator[tuple[Screen, Callable[[Run], None]]]:
        """Show a run that is fitted inside, stop it when asked, and close it as it ended.

        Args:
            received: signals that ask it to stop, as they come.

        Returns:
            What shows it, and the `watch` for loop.fit.

        Raises:
            Exception: whatever failed the run, once the record says so.
        """
        run = self.run
        try:
            with Screen(run, out) as face:

                def watch(run: Run) -> None:
                    face.step(run)
                    run.stop_requested = bool(received)
                    run.save_requested = time.perf_counter() > self._due

                run.stop_requested = bool(received)
                try:
                    with still_stopped(received), exits():
                        yield face, watch
                    self.close(loop.ended(run))
                except loop.Diverged as error:
                    advice = "a lower lr, warm-up or clipping may help"
                    out.print(f"[red]diverged[/]: {error}; {advice}", soft_wrap=not out.is_terminal)
                    self.close("diverged", error)
                except loop.Interrupted:  # another process may have been asked
                    self.close("interrupted", number=(received or [signal.SIGTERM])[0])
        except ProcessLost as error:  # perhaps within a step
            self.abandon((received or [signal.SIGTERM])[0])
            if received:  # which asked the other one to end as well
                raise Stopped(received[0]) from error
            goes_on = f"resume={self.record.folder} goes on from the last checkpoint"
            raise ProcessLost(f"{error}; {goes_on}") from error
        except Stopped as error:
            self.abandon(error.number)
            raise
        except Exception as error:
            self.close("failed", error)
            raise

    def epoch(self, metrics: dict) -> None:
        """Write down one epoch."""
        self._lines.append(self.record.log(metrics))
        self.tracker.log(metrics)
        log.info("%s", record.as_json(metrics, None).decode().strip())

    def save_when_due(self) -> None:
        """Keep a checkpoint, unless the last one is young."""
        if time.perf_counter() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self, whole: bool = True, last: bool = False) -> None:
        """Keep the best weights so far, and if `whole` what a resume needs.

        A run that is under way is synced each SYNC_SECONDS, as last.previous.safetensors, which
        stays until the next one is synced: so a power cut costs no more.

        Args:
            last: whether the run ends with this; what then is kept outlives a power cut.
        """
        run, config, folder = self.run, self.config, self.record.checkpoints
        self._saved = time.perf_counter()
        self._due = self._saved + STEP_SECONDS
        if sync := last or self._saved - self._synced > SYNC_SECONDS:
            self._synced = self._saved
        if sync and not last and not self.row:  # a row's follow from its sweep and checkpoint
            self.record.settle()
        if not config["training"]["checkpoint"]:
            return
        parts = {name: config[name] for name in ("model", "activation", "regularization")}
        about = {"shape": run.data.shape.saved(), "config": parts}
        about |= {"task": run.data.task, "log_rates": run.loss.log_rates}
        if (members := len(run.networks)) > 1:
            about["members"] = members
        if described := getattr(run.networks[0], "described", None):
            about["network"] = described
        written = {}
        if run.best_weights and run.progress.best_epoch != self._kept:
            self._kept = run.progress.best_epoch
            best = about | {"epoch": self._kept}
            written |= checkpoint.save_best(folder, run.best_weights, best, sync and not whole)
        if whole:
            state = checkpoint.snapshot(run) | {"log": _bytes(self._lines)}
            name = checkpoint.PREVIOUS if sync and not last else checkpoint.LAST
            rotates = self._rotates and name == checkpoint.LAST
            written |= checkpoint.save_last(folder, state, about, sync, name, rotates)
        if written:
            checkpoint.save_manifest(folder, written)
        if sync and not last:
            self._rotates = False
            (folder / checkpoint.LAST).unlink(missing_ok=True)  # older by now
        self._due = later(self._saved)

    def close(
        self, status: str, failure: Exception | None = None, number: int = signal.SIGINT
    ) -> Outcome:
        """Save what the status calls for, write the summary, and let W&B end its run.

        Args:
            status: one of record.STATUSES.
            failure: what ended the run, if something did.
            number: the signal that interrupted it, if one did.
        """
        exit_code = 128 + number if status == "interrupted" else 0
        if status == "diverged":
            log.warning("%s", failure)
            exit_code = DIVERGED
        if status == "failed":
            exit_code = getattr(for_a_person(failure), "exit_code", 1)
        else:
            self.save(whole=status != "diverged", last=True)
            if status in (
                "finished",
                "stopped_early",
                "pruned",
            ):  # the last one has the best weights as well
                checkpoint.forget_best_before(self.record.checkpoints)
            self._keep_predictions()
        alone = "run" not in self.about  # a sweep has other runs to be held against, and no time
        summary = _summary(self.run, self.config, status, alone and status in JUDGED)
        try:
            self.record.finish(summary, not self.row)
        except OSError:  # on a full disk, as the run did
            if status != "failed":
                raise
            record.owe(self.record.folder, summary)
        value = self.run.progress.best
        self.outcome = Outcome(status, float("nan") if value is None else value, exit_code, summary)
        best = self.record.checkpoints / checkpoint.BEST
        self.tracker.end(summarized(summary), exit_code, best if best.is_file() else None)
        if not self.row:  # the process of a stack's mirrors knows which of them is the best
            self.tracker.judge(alone)
        return self.outcome

    def abandon(self, number: int) -> None:
        """Write the summary of a run that a second signal ends between any two instructions.

        It goes on from its last checkpoint; none is saved here, the run may stand within a step.
        """
        if self.outcome:
            return
        summary = _summary(self.run, self.config, "interrupted", False)
        self.record.finish(summary)
        self.outcome = Outcome("interrupted", float("nan"), 128 + number, summary)
        self.tracker.end(summarized(summary), 128 + number, None)

    def _keep_predictions(self) -> None:
        """Write predictions.safetensors, of the best epoch; none where there was no such epoch."""
        run = self.run
        if not run.best_weights or run.refit:
            return
        if run.best_outputs is None:  # the best epoch lies before a resume
            run.evaluated.load_state_dict(run.best_weights)
            loop.evaluate(run, run.data.val, "val")
            run.best_outputs = loop.half(run.outputs)
        data = predictions.encode(run.data.val, run.best_outputs, run.progress.best_epoch)
        record.write(self.record.folder / predictions.FILE, data)

    def restart(self) -> None:
        """Begin again at the first step, in the same folder."""
        self.run = _assembled(self.config, self.run.data, self.run.device)
        self.record.restart()
        self._lines.clear()
        checkpoint.forget(self.record.checkpoints)
        self._kept = 0


def _assembled(config: dict, data: Data, device: torch.device) -> Run:
    """Return a config's run at its first step; of a refit, with the epochs that it has."""
    run = assemble(config, data, device)
    run.refit = config.get("refit") and record.best_epoch(Path(config["refit"]))
    return run


def keep_best(sessions: Sequence[Session]) -> None:
    """Remove what only a resume needs, of runs with training.keep=best that came to their end.

    The rows of a stack sync little each (see Session.save), so first all of them outlive a power
    cut, at once. A process that is killed before leaves these files, which are whole.
    """
    ended = [
        one
        for one in sessions
        if one.config["training"].get("keep") == "best"
        and one.outcome
        and one.outcome.status in (*JUDGED, "pruned")
    ]
    if any(one.row for one in ended):
        storage.sync_all([one.record.folder for one in ended])
    for one in ended:
        checkpoint.keep_best(one.record.checkpoints)


def later(began: float) -> float:
    """Return when the next checkpoint between two steps is due, after one that began then."""
    now = time.perf_counter()
    return now + max(STEP_SECONDS, SAVE_SHARE * (now - began))


def prune(sessions: Sequence[Session]) -> None:
    """Mark those that are to end here, of runs that have come to an epoch's end together."""
    places: dict[tuple, dict[int, Run]] = {}
    for one in sessions:
        if one.pruner and one.run.progress.best is not None:
            moment = one.pruner, one.run.progress.epoch, one.config["training"]["epochs"]
            places.setdefault(moment, {})[one.about["run"]["number"]] = one.run
    for (pruner, epoch, epochs), runs in places.items():
        values = {number: run.progress.best for number, run in runs.items()}
        for number in pruner.stops(values, epoch, epochs):
            runs[number].pruned = True


def _bytes(lines: Sequence[bytes]) -> Tensor:
    """Return lines as one tensor of bytes."""
    return torch.frombuffer(bytearray(b"".join(lines) or b"\n"), dtype=torch.uint8)


def _planned(folder: Path) -> int | None:
    """Return how many epochs a run was to have when it was last begun; None where none says."""
    try:
        return read_config(folder)["config"]["training"]["epochs"]
    except (*BROKEN, KeyError, TypeError):
        return None


def _compare_data(folder: Path, data: Data) -> None:
    """Refuse to resume on other data than the run began with; older records do not tell.

    Raises:
        DataError: the content, the target or the split has another hash.
    """
    try:
        before = read_config(folder)["data"]["hash"]
    except (*BROKEN, LookupError, TypeError):
        return
    if before and data.hash and before != data.hash:
        changed = "its content, target or split has changed since the run began"
        mend = "put the old data back, or begin a new run"
        raise DataError(f"data={data.name}: {changed} (hash {before}, now {data.hash}); {mend}")
    _compare_inputs(folder, data)


def _compare_inputs(folder: Path, data: Data) -> None:
    """Refuse to resume where the same rows make other inputs, as rules of their reading change.

    Raises:
        DataError: naming the column of a table, or what texts have otherwise.
    """
    try:
        files = {name: storage.read(folder / name) for name in (JSON, ARRAYS)}
        before = Preparation.load(files).inputs
    except (OSError, ValueError):
        return
    now = data.preparation and data.preparation.inputs
    if isinstance(before, Table) and isinstance(now, Table) and (column := before.unlike(now)):
        widths = f"{before.width} inputs then, {now.width} now"
        raise DataError(
            f"data={data.name}: {column} is read otherwise than when the run began ({widths}), so "
            "its checkpoint does not fit; say data.columns as it was, or begin a new run"
        )
    if isinstance(before, Texts) and isinstance(now, Texts) and (fault := before.unlike(now)):
        raise DataError(
            f"data={data.name}: texts are read otherwise than when the run began ({fault}), so its "
            "checkpoint does not fit; begin a new run"
        )


def _public(about: dict[str, Any]) -> dict[str, Any]:
    """Return the same, without the secrets in its overrides."""
    return about | {"overrides": public_lines(about["overrides"])}


def _summary(run: Run, config: dict, status: str, judge: bool) -> dict[str, Any]:
    """Make summary.json; read the test split if that was asked for and the run came to its end.

    Args:
        judge: whether to fit the baselines.
    """
    progress, test = run.progress, None
    if config["test"] and status in ("finished", "stopped_early") and run.best_weights:
        run.evaluated.load_state_dict(run.best_weights)
        test = loop.evaluate(run, run.data.test, "test")
    several = {}
    if (members := len(run.networks)) > 1:
        several = {"members": members, "member_values": run.best_members}
    examples = progress.epoch * len(run.data.train) + progress.examples
    examples += sum(count for _, count in progress.pending)
    simple = None
    if judge and not run.refit:
        data = run.data.origin.to(run.device, torch.preserve_format)
        simple = baselines(data, run.objective["metric"], run.scores, run.loss)
    return {
        "status": status,
        "objective": None if run.refit else run.objective | {"value": progress.best},
        **({"refit_of": config["refit"]} if run.refit else {}),
        **several,
        "baselines": simple,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "steps": progress.step,
        "seconds": round(progress.seconds, 3),
        "parameters": sum(map(trainable, run.networks)),
        "samples_per_second": round(examples / max(progress.train_seconds, 1e-9)),
        "peak_memory_mib": round(peak_memory(run.device) / 2**20),
        "metrics": progress.best_metrics,
        "training_examples": len(run.data.train),
        "validation_examples": len(run.data.val),
        "test": test,
        "config_hash": identity(config),
        "versions": versions(),
    }


def trainable(network: nn.Module) -> int:
    """Count the weights of a network that training changes."""
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that the device's allocator held; on a CPU, that the process used."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
