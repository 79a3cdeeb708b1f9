"""A run on the screen: a block before, a bar during, a block after.

On a terminal the bar is rich's, and each epoch with a new best leaves a line, ten of them at most;
elsewhere there is one plain line at most every few seconds, and nothing is wrapped.
"""

import math
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.constrain import Constrain
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from torch import nn

from knobs import metrics, shell
from knobs.data.dataset import Data
from knobs.identity import key_of, under
from knobs.init import CONV, FILLED, LINEAR
from knobs.models.layers import Dropout
from knobs.training.setup import class_counts, steps_per_epoch
from knobs.training.state import Run
from knobs.words import count, duration, folded, printable

PLAIN_SECONDS = 2.0  # between plain lines
MAX_HINTS = 3
BAR_SECONDS = 0.1  # between looks at the bar, which a step must not pay for
HISTORY = 10  # lines that a bar leaves behind at most
MAX_CLASSES, MAX_NAME = 6, 20  # names of classes shown; characters of one
MAX_NOTES = 1_000  # characters of what is told about reading the data


class Bar(Progress):
    """A bar that leaves room for the ^C a terminal echoes: wrapped by it, the bar stayed behind."""

    def __init__(self, *columns: ProgressColumn, console: Console, **settings: Any):
        self._out = console  # rich asks for the line before it has its own
        super().__init__(*columns, console=console, **settings)

    def get_renderables(self) -> Iterator[Constrain]:
        """Yield the one line."""
        yield Constrain(self.make_tasks_table(self.tasks), self._out.width - 3)


class Screen:
    """Shows progress: `with Screen(run, out) as screen`, then `epoch` and `step` as it goes."""

    def __init__(self, run: Run, out: Console):
        self.out = out
        self.metric, self.epochs = run.objective["metric"], run.refit or run.training["epochs"]
        self._last, self._began = 0.0, time.perf_counter()
        self._steps = steps_per_epoch(len(run.data.train), run.training)
        self._first = run.progress.epoch * self._steps + run.progress.batch  # > 0 if resumed
        # So many epochs apart, the lines of new bests are HISTORY - 1 at most; one is for the last.
        self._apart = max(1, math.ceil((self.epochs - 1) / (HISTORY - 2)))
        self._shown = -self._apart  # the epoch of the last line that stays
        self._waiting = ""  # the line that stays if nothing better comes
        self._best = run.progress.best_epoch
        self._bar = Bar(
            _words("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=3)),
            _words("{task.fields[values]}"),
            _words("{task.fields[times]}"),
            console=self.out,
            expand=True,
            transient=True,
            refresh_per_second=5,
            disable=not self.out.is_terminal,
        )
        done = run.progress.epoch
        self._task = self._bar.add_task(
            "", total=self.epochs * self._steps, completed=done * self._steps, epoch=done,
            epochs=self.epochs, values="", times="",
        )  # fmt: skip

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stay()
        self._bar.stop()

    def step(self, run: Run) -> None:
        """Move the bar after an optimizer step, at most ten times a second."""
        if not self._bar.disable and time.perf_counter() - self._last > BAR_SECONDS:
            self._last = time.perf_counter()
            done = run.progress.epoch * self._steps + run.progress.batch
            self._bar.update(self._task, completed=done, times=self._times(done))

    def epoch(self, run: Run, metrics: dict[str, Any]) -> None:
        """Show an epoch's metrics."""
        loss = f"{metrics['train/loss']:.4f}"
        value = f"{metrics[self.metric]:.4f}" if self.metric in metrics else "not measured"
        epoch, best = metrics["epoch"], run.progress.best_epoch
        line = f"epoch {epoch}/{self.epochs}  loss {loss}  {self.metric} {value}"
        if not self._bar.disable:
            done = epoch * self._steps
            values = f"loss {loss} {self.metric} {value}"
            values += f" best {run.progress.best:.4f}" if best and not run.refit else ""
            times = self._times(done)
            self._bar.update(self._task, completed=done, epoch=epoch, values=values, times=times)
            if best != self._best:
                self._best, self._waiting = best, line
                if epoch - self._shown >= self._apart:
                    self._shown = epoch
                    self._stay()
            return
        left = run.progress.seconds / epoch * (self.epochs - epoch)
        self._waiting = f"{line}  lr {metrics['lr']:.2e}  {_time(left)} left"
        if time.perf_counter() - self._last > PLAIN_SECONDS or epoch == self.epochs:
            self._last = time.perf_counter()
            self._stay()

    def _stay(self) -> None:
        """Print the line that waits, if one does: the last best, or the last epoch."""
        if self._waiting:
            self.out.print(escape(self._waiting), soft_wrap=True)
            self._waiting = ""

    def _times(self, done: int) -> str:
        """Return the time so far, and the time left once some steps of this process tell it."""
        passed = time.perf_counter() - self._began
        left = ""
        if done > self._first:
            rest = self.epochs * self._steps - done
            left = f", {_time(passed / (done - self._first) * rest)} left"
        return f"{_time(passed)}{left}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else duration(seconds)


def _words(text: str) -> TextColumn:
    """Return a column of the bar that is never wrapped."""
    return TextColumn(text, markup=False, table_column=Column(no_wrap=True))


def block(out: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """Print a title and named rows; empty rows are left out."""
    out.print(f"[bold]{escape(title)}[/]", soft_wrap=True)
    for name, value in rows:
        if value:
            _row(out, name, value)


def _row(out: Console, name: str, value: str, style: str = "dim") -> None:
    """Print a named row, in one line; on a terminal one too long goes on below its beginning."""
    lines = folded(value, out.width - 13) if out.is_terminal else [value]
    for i, line in enumerate(lines):
        out.print(f"  [{style}]{'' if i else name:<10}[/] {escape(line)}", soft_wrap=True)


def opening(out: Console, run: Run, config: dict, folder: Path, changed: list[str]) -> None:
    """Print what will run, what differs from the defaults first."""
    data, training = run.data, run.training
    splits = f"{len(data.train):,} train, {len(data.val):,} val, {len(data.test):,} test"
    unread = "" if config["test"] else " (not read)"
    size = "x".join(map(str, data.shape.input))
    kind = {"table": f"{size} inputs", "text": f"{size} tokens"}.get(data.kind, f"image {size}")
    members = f"{n} members, " if (n := len(run.networks)) > 1 else ""
    model = f"{config['model']['name']}, {members}{_parameters(run.model)}"
    stated = {key_of(line): line for line in changed}  # of a key given twice the last counts
    stated.pop("resume", None)  # the folder says it
    steps = f"{training['epochs']} epochs in batches of {training['batch_size']}"
    regularization = [
        f"{k} {v}" for k, v in config["regularization"].items() if v and v is not True
    ]
    head = getattr(run.networks[0], "head", None)
    zero = "; the last layer 0" * bool(training.get("zero_head") and isinstance(head, nn.Linear))
    rows = [
        ("changed", "  ".join(stated.values()) or "nothing: all defaults"),
        ("data", f"{data.name}: {splits}{unread}; {kind}"),
        ("read", printable("; ".join(data.notes), MAX_NOTES)),
        ("target", _target(run, config)),
        ("objective", chosen(run.data, config)),
        ("model", model + _activation(run.networks[0], config)),
        ("backbone", run.features),
        ("init", _init(run.networks[0], config["init"]) + zero),
        ("optimizer", f"{_short(config['optimizer'])}, {_values(config['optimizer'])}"),
        ("scheduler", f"{_short(config['scheduler'])} per {run.interval}"),
        ("regularize", ", ".join(regularization)),
        ("training", f"{steps}, {training['precision']} on {run.device}, seed {run.seed}"),
        ("resumed", _resumed(run)),
        ("refit", _refit(run, config)),
        ("folder", str(folder)),
    ]
    block(out, config["name"], rows)


def _refit(run: Run, config: dict) -> str:
    """Say that a run trains on the validation rows, and how long; empty where it does not."""
    if not run.refit:
        return ""
    epochs = f"{run.refit} of {run.training['epochs']} epochs, as was best in {config['refit']}"
    return f"the validation rows train as well; {epochs}"


def _resumed(run: Run) -> str:
    """Say after which epoch a run goes on; empty for a new one."""
    if not run.progress.step:
        return ""
    longer = f"; its schedule is rebuilt for {run.training['epochs']} epochs" * run.rebuilt
    return f"after epoch {run.progress.epoch}{longer}"


def _parameters(model: nn.Module) -> str:
    """Return `8,970 parameters`, and how many are trained where some are frozen."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
    frozen = f", {trained:,} trainable" if trained < total else ""
    return count(total, "parameter") + frozen


def _activation(network: nn.Module, config: dict) -> str:
    """Return `; ReLU`; nothing where there is no layer that one could follow.

    Of a network of one's own only what is in it: its signature may take none.
    """
    layers = {type(m) for m in network.modules() if not any(True for _ in m.children())}
    bare, name = (
        layers <= {nn.Flatten, nn.Linear, nn.Dropout, Dropout},
        _short(config["activation"]),
    )
    own = not config["model"]["_target_"].startswith("knobs.")
    lacks = own and name not in {layer.__name__ for layer in layers}
    return "" if bare or lacks else f"; {name}"


def _target(run: Run, config: dict) -> str:
    """Return what is predicted: the columns, where they are named, and the classes."""
    data, names = run.data, run.data.classes
    node = config["data"]
    columns = next((node[key] for key in ("target", "targets", "label") if node.get(key)), None)
    columns = [columns] if isinstance(columns, str) else columns or []
    parts = [_some([str(column) for column in columns])] * bool(columns)
    if not names:
        task = f"{data.task} of {count(data.shape.outputs, 'value')}"
        return ": ".join([*parts, data.task if data.shape.outputs == 1 else task])
    labels = data.task == "multilabel"
    what = count(len(names), "label") if labels else f"{len(names):,} classes"
    parts = [] if labels else parts  # whose columns are the labels
    return ", ".join([*parts, f"{what}: {_some([str(name) for name in names])}"])


def chosen(data: Data, config: dict) -> str:
    """Say that a rare class has changed the objective, and how to keep it; else nothing."""
    counts, stated = class_counts(data), config["objective"]["metric"]
    metric = metrics.objective(config["objective"], counts)["metric"]
    if metric == stated:
        return ""
    rarest = counts.index(min(counts))
    name, share = _some([data.classes[rarest]]), min(counts) / sum(counts)
    return (
        f"{metric}, as class {name} has {share:.1%} of the rows; objective.metric={stated}: as ever"
    )


def _some(names: list[str]) -> str:
    """Return a few names in full, of many the first two and the last."""
    names = [printable(name, MAX_NAME) for name in names]
    return ", ".join(names if len(names) <= MAX_CLASSES else [*names[:2], "...", names[-1]])


def _init(network: nn.Module, node: dict) -> str:
    """Return the schemes that filled a network's layers, and what the model filled itself."""
    modules = list(network.modules())
    if "_target_" in node:
        name = _short(node)
        scheme = "torch's own, each layer" if name == "torch_default" else name
    else:
        kinds = {"linear": LINEAR, "conv": CONV}
        used = [k for k, types in kinds.items() if any(isinstance(m, types) for m in modules)]
        used = [part for part in node if part in used]
        scheme = ", ".join(
            f"{_short(node[k])} ({k})" if used[1:] else _short(node[k]) for k in used
        )
    own = [
        parameter.numel()
        for module in modules
        if not isinstance(module, FILLED)
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" not in name
    ]
    itself = f"{count(sum(own), 'parameter')} by the model itself" if own else ""
    keeps, tensors = getattr(network, "keeps", 0), len([*network.parameters()])
    stay = "keep the weights they came with"
    if not getattr(network, "loaded", ()):
        stay = "are frozen as they were built, with no weights of any training"
    kept = f"{keeps} of {tensors} tensors {stay}" if keeps else ""
    return "; ".join(filter(None, [scheme, itself, kept]))


def hints(out: Console, lines: list[Any]) -> None:
    """Print at most three hints."""
    shown = [str(line) for line in lines[:MAX_HINTS]]
    if more := len(lines) - len(shown):
        shown.append(f"and {more} more; silence=[all] hides every one")
    for line in shown:
        _row(out, "hint", line, "yellow")


def closing(
    out: Console,
    run: Run,
    folder: Path,
    summary: dict,
    mirrored: tuple[str, str],
    seconds: float,
    changed: Sequence[str] = (),
) -> None:
    """Print how the run ended, what it cost, where its files are and what to do next.

    Args:
        changed: its overrides, of which a resume takes those of tracking from its command line.
        mirrored: where to, and how that ended; empty where it was not.
    """
    objective, status = summary["objective"], summary["status"]
    names = [n for n in ("metrics.jsonl", "summary.json") if (folder / n).is_file()]  # a full disk
    checkpoints = any((folder / "checkpoints").glob("*.safetensors"))
    resumable = status in ("interrupted", "failed") and checkpoints
    mirror = [o for o in changed if under(key_of(o), ("tracking",)) and o != "tracking=local"]
    speed = f"{summary['samples_per_second']:,} samples/s"
    predict = shlex.join(["python", "-m", "knobs.predict", str(folder), "INPUT"])
    rows = [
        ("baseline", _baseline(summary, bool(run.data.classes)) if objective else ""),
        ("! longer", _still_rising(summary) if objective else ""),
        ("test", ", ".join(f"{name} {v:.4f}" for name, v in (summary["test"] or {}).items())),
        ("cost", f"{seconds:.1f} s, {speed}, peak memory {summary['peak_memory_mib']:,} MiB"),
        ("files", f"{', '.join([*names, *['checkpoints/'] * checkpoints])} in {folder}"),
        mirrored,
        ("go on", shell.command([f"resume={folder}", *mirror]) if resumable else ""),
        ("predict", predict if checkpoints and run.data.preparation and run.best_weights else ""),
    ]
    block(out, f"{status}: {_result(summary)}", rows)


def _result(summary: dict) -> str:
    """Return the best value and its epoch; of a refit that nothing has measured it."""
    objective, epochs = summary["objective"], summary["epochs"]
    if not objective:
        left = "" if summary["test"] else "; only the test split is left to measure it (test=true)"
        return f"{count(epochs, 'epoch')}{left}"
    if objective["value"] is None:
        return f"best {objective['metric']} none"
    place = f"epoch {summary['best_epoch']} of {epochs}"
    return f"best {objective['metric']} {objective['value']:.4f} at {place}"


def _baseline(summary: dict, classes: bool) -> str:
    """Say what a constant and a linear model give, and whether the run is no better than one.

    Args:
        classes: whether the constant is one of them, not a mean.
    """
    simple, objective = summary["baselines"] or {}, summary["objective"]
    names = {"constant": "the most frequent class" if classes else "the mean"}
    on = f" (on {simple['linear_on']})" if "linear_on" in simple else ""
    names["linear"] = f"a linear model{on}"
    known = {k: simple[k] for k in names if simple.get(k) is not None}
    parts = [f"{value:.4f} {names[k]}" for k, value in known.items()]
    best, sign = objective["value"], -1 if objective["mode"] == "min" else 1
    better = [k for k, value in known.items() if best is not None and sign * (value - best) >= 0]
    worse = f"; the run is no better than {names[better[0]].partition(' (')[0]}" if better else ""
    return ", ".join(parts) + worse


def _still_rising(summary: dict) -> str:
    """Say that the best epoch is the last one; empty where it is not, or the run was cut short."""
    last = summary["status"] == "finished" and summary["best_epoch"] == summary["epochs"] > 1
    return "the best epoch is the last one; more epochs may help" * last


def _short(node: dict) -> str:
    """Return the name of what a node builds; a scheme of several parts goes by its parts."""
    if "lr_lambda" in node:
        return _short(node["lr_lambda"])
    if "_target_" in node:
        return node["_target_"].rpartition(".")[2].rstrip("_")
    return ", ".join(f"{_short(part)} ({name})" for name, part in node.items())


def _values(node: dict) -> str:
    """Return an optimizer's own numbers, without torch's switches."""
    shown = {
        k: v for k, v in node.items() if not k.startswith("_") and v not in (None, False, 0, [])
    }
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
