"""A run on the screen: a block before, a bar during, a block after.

On a terminal the bar is rich's; elsewhere one plain line at most every few seconds.
"""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from knobs.training.setup import steps_per_epoch
from knobs.training.state import Run

PLAIN_SECONDS = 2.0  # between plain lines
MAX_HINTS = 3
BAR_SECONDS = 0.1  # between looks at the bar, which a step must not pay for


class Screen:
    """Shows progress: `with Screen(run, out) as screen`, then `epoch` and `step` as it goes."""

    def __init__(self, run: Run, out: Console):
        self.out = out
        self.metric = run.objective["metric"]
        self._last = 0.0
        self._steps = steps_per_epoch(len(run.data.train), run.training)
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]:>4}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[metric]} {task.fields[value]}"),
            TextColumn("lr {task.fields[lr]}"),
            TimeRemainingColumn(),
            console=self.out,
            transient=True,
            refresh_per_second=5,
            disable=not self.out.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=run.training["epochs"] * self._steps,
            completed=run.progress.epoch * self._steps, epoch=run.progress.epoch,
            epochs=run.training["epochs"], loss="-",
            metric=self.metric, value="-", lr=f"{run.lr:.2e}",
        )  # fmt: skip

    def __enter__(self) -> "Screen":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, run: Run) -> None:
        """Move the bar after an optimizer step, at most ten times a second."""
        if not self._bar.disable and time.perf_counter() - self._last > BAR_SECONDS:
            self._last = time.perf_counter()
            done = run.progress.epoch * self._steps + run.progress.batch
            self._bar.update(self._task, completed=done, lr=f"{run.lr:.2e}")

    def epoch(self, run: Run, metrics: dict[str, Any]) -> None:
        """Show an epoch's metrics."""
        loss, value = f"{metrics['train/loss']:.4f}", f"{metrics[self.metric]:.4f}"
        epoch, epochs = metrics["epoch"], run.training["epochs"]
        if not self._bar.disable:
            self._bar.update(
                self._task, completed=epoch * self._steps, epoch=epoch, loss=loss, value=value
            )
        elif time.perf_counter() - self._last > PLAIN_SECONDS or epoch == epochs:
            self._last = time.perf_counter()
            left = run.progress.seconds / epoch * (epochs - epoch)
            self.out.print(
                f"epoch {epoch}/{epochs}  loss {loss}  {self.metric} {value}  "
                f"lr {metrics['lr']:.2e}  {left:.0f} s left"
            )


def block(out: Console, title: str, rows: list[tuple[str, str]]) -> None:
    """Print a title and named rows; empty rows are left out."""
    out.print(f"[bold]{escape(title)}[/]")
    for name, value in rows:
        if value:
            out.print(f"  [dim]{name:<10}[/] {escape(value)}")


def opening(out: Console, run: Run, config: dict, folder: Path, changed: list[str]) -> None:
    """Print what will run, what differs from the defaults first."""
    data, training = run.data, run.training
    splits = f"{len(data.train):,} train, {len(data.val):,} val, {len(data.test):,} test"
    unread = "" if config["test"] else " (not read)"
    kind = f"{data.kind} {'x'.join(map(str, data.shape.input))}"
    target = f"{len(data.classes)} classes" if data.classes else "regression"
    weights = sum(p.numel() for p in run.model.parameters())
    members = f"{n} members, " if (n := len(run.networks)) > 1 else ""
    model = f"{config['model']['name']}, {members}{weights:,} weights"
    model = f"{model}; {_short(config['activation'])}"
    steps = f"{training['epochs']} epochs in batches of {training['batch_size']}"
    against = [f"{k} {v}" for k, v in config["regularization"].items() if v and v is not True]
    rows = [
        ("changed", "  ".join(changed) or "nothing: all defaults"),
        ("data", f"{data.name}: {splits}{unread}; {kind}, {target}"),
        ("model", f"{model}; init {_short(config['init'])}"),
        ("optimizer", f"{_short(config['optimizer'])}, {_values(config['optimizer'])}"),
        ("scheduler", f"{_short(config['scheduler'])} per {run.interval}"),
        ("against", f"over-fitting: {', '.join(against)}" if against else ""),
        ("training", f"{steps}, {training['precision']} on {run.device}, seed {run.seed}"),
        ("folder", str(folder)),
    ]
    block(out, config["name"], rows)


def hints(out: Console, lines: list[Any]) -> None:
    """Print at most three hints."""
    shown = [escape(str(line)) for line in lines[:MAX_HINTS]]
    if more := len(lines) - len(shown):
        shown.append(f"and {more} more; silence=\\[all] hides every one")
    for line in shown:
        out.print(f"  [yellow]{'hint':<10}[/] {line}")


def closing(
    out: Console, folder: Path, summary: dict, mirrored: tuple[str, str], seconds: float
) -> None:
    """Print how the run ended, what it cost, where its files are and what to do next.

    Args:
        mirrored: where to, and how that ended; empty where it was not.
    """
    objective, status = summary["objective"], summary["status"]
    value = "none" if objective["value"] is None else f"{objective['value']:.4f}"
    speed = f"{summary['samples_per_second']:,} samples/s"
    checkpoints = ", checkpoints/" if (folder / "checkpoints").is_dir() else ""
    label, line = mirrored
    look = f"wandb leet {folder}/wandb" if "offline" in line else f"cat {folder}/metrics.jsonl"
    resumable = status == "interrupted" and bool(checkpoints)
    rows = [
        ("best", f"epoch {summary['best_epoch']} of {summary['epochs']}"),
        ("test", ", ".join(f"{name} {v:.4f}" for name, v in (summary["test"] or {}).items())),
        ("cost", f"{seconds:.1f} s, {speed}, peak memory {summary['peak_memory_mib']:,} MiB"),
        ("files", f"{folder}: metrics.jsonl, summary.json{checkpoints}"),
        (label, line),
        ("look", look),
        ("go on", f"python train.py resume={folder}" * resumable),
    ]
    block(out, f"{status}: best {objective['metric']} {value}", rows)


def _short(node: dict) -> str:
    """Return the name of what a node builds; a scheme of several parts goes by its parts."""
    if "lr_lambda" in node:
        return _short(node["lr_lambda"])
    if "_target_" in node:
        return node["_target_"].rpartition(".")[2].rstrip("_")
    return ", ".join(f"{_short(part)} ({name})" for name, part in node.items())


def _values(node: dict) -> str:
    """Return an optimizer's own numbers, without torch's switches."""
    shown = {k: v for k, v in node.items() if not k.startswith("_") and v not in (None, False, 0)}
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
