"""What a person sees of a run: a block before, a bar during, a block after.

On a terminal the bar is rich's; elsewhere one plain line at most every few seconds.
"""

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from knobs.training.loop import Run

PLAIN_SECONDS = 2.0  # between plain lines
BAR_SECONDS = 0.1  # between looks at the bar, which a step must not pay for


class Screen:
    """The run's face: `with Screen(run) as screen`, then `epoch` and `step` as it goes."""

    def __init__(self, run: "Run", console: Console | None = None):
        self.out = console or Console(highlight=False, soft_wrap=True)
        self.metric = run.objective["metric"]
        self._last = 0.0
        self._value = "-"
        steps = -(-len(run.data.train) // run.training["batch_size"])
        self._steps = max(1, steps)
        self._total = run.training["epochs"] * self._steps
        self._bar: Progress | None = None
        if self.out.is_terminal:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]:>4}/{task.fields[epochs]}"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[metric]} {task.fields[value]}"),
                TextColumn("lr {task.fields[lr]}"),
                TimeRemainingColumn(),
                console=self.out,
                transient=True,
                refresh_per_second=5,
            )
            self._task = self._bar.add_task(
                "", total=self._total, completed=run.progress.epoch * self._steps,
                epoch=run.progress.epoch, epochs=run.training["epochs"], loss="-",
                metric=self.metric, value="-", lr=f"{run.lr:.2e}",
            )  # fmt: skip

    def __enter__(self) -> "Screen":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, run: "Run") -> None:
        """After every optimizer step: moves the bar, at most ten times a second."""
        if self._bar and time.perf_counter() - self._last > BAR_SECONDS:
            self._last = time.perf_counter()
            done = run.progress.epoch * self._steps + run.progress.batch
            self._bar.update(self._task, completed=done, lr=f"{run.lr:.2e}")

    def epoch(self, run: "Run", metrics: dict[str, Any]) -> None:
        """After every epoch."""
        loss, value = f"{metrics['train/loss']:.4f}", f"{metrics[self.metric]:.4f}"
        epoch, epochs = metrics["epoch"], run.training["epochs"]
        if self._bar:
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
    """A title and named rows; empty rows are left out."""
    out.print(f"[bold]{escape(title)}[/]")
    for name, value in rows:
        if value:
            out.print(f"  [dim]{name:<10}[/] {escape(value)}")


def opening(out: Console, run: "Run", config: dict, folder: Path, changed: list[str]) -> None:
    """What will run, what differs from the defaults first."""
    data, training, reg = run.data, run.training, config["regularization"]
    weights = sum(p.numel() for p in run.model.parameters())
    shape = "x".join(map(str, data.shape.input))
    held = (
        f"{len(data.test):,} test (held back)" if not config["test"] else f"{len(data.test):,} test"
    )
    active = [f"{k} {v}" for k, v in reg.items() if v not in (0, 0.0, None, True)]
    rows = [
        ("changed", "  ".join(changed) or "nothing: all defaults"),
        ("data", f"{data.name}: {len(data.train):,} train, {len(data.val):,} val, {held}; {data.kind} {shape}"
                 + (f", {len(data.classes)} classes" if data.classes else ", regression")),
        ("model", f"{config['model']['name']}, {weights:,} weights; activation {_short(config['activation'])}"
                  f"; init {_short(config['init'])}"),
        ("optimizer", f"{_short(config['optimizer'])}, {_values(config['optimizer'])}"),
        ("scheduler", f"{_short(config['scheduler'])} per {run.interval}"),
        ("against", ", ".join(active) and f"over-fitting: {', '.join(active)}"),
        ("training", f"{training['epochs']} epochs, batch {training['batch_size']}, {training['precision']}"
                     f" on {run.device}, seed {run.seed}"),
        ("folder", str(folder)),
    ]  # fmt: skip
    block(out, config["name"], rows)


def _short(node: dict) -> str:
    """The name of what a node builds; a scheme of several parts goes by its parts."""
    if "lr_lambda" in node:
        return _short(node["lr_lambda"])
    if "_target_" in node:
        return node["_target_"].rpartition(".")[2].rstrip("_")
    return " + ".join(f"{name} {_short(part)}" for name, part in node.items())


def _values(node: dict) -> str:
    """An optimizer's own numbers, without torch's switches."""
    shown = {k: v for k, v in node.items() if not k.startswith("_") and v not in (None, False, 0)}
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
