"""`task=preview`: the learning rate over the run, drawn without training."""

import io
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from knobs import build, storage
from knobs.errors import ConfigError
from knobs.optimizers import training_mode
from knobs.training.setup import steps_per_epoch

MOST_STEPS = 10**6  # that are drawn


def rates(config: dict, steps_per_epoch: int) -> list[float]:
    """Return the rate of every step of the run, from the real schedule on a stand-in network.

    A plateau schedule is shown as it is while its metric keeps improving.
    """
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = build.optimizer(config, net)
    training_mode(optimizer, True)
    per_step = config["scheduler"]["interval"] == "step"
    epochs = config["training"]["epochs"]
    scheduler = build.scheduler(config, optimizer, epochs * steps_per_epoch if per_step else epochs)
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    lrs = []
    for _ in range(epochs):
        for _ in range(steps_per_epoch):
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step(lambda: torch.zeros(()))
            if per_step:
                scheduler.step()
        if not per_step and not plateau:
            scheduler.step()
    return lrs


def preview(config: dict, folder: Path, out: Console) -> None:
    """Draw the rates to lr.png in `folder` and in the terminal."""
    per_epoch = steps_per_epoch(len(build.data(config).train), config["training"])
    if (steps := per_epoch * config["training"]["epochs"]) > MOST_STEPS:
        raise ConfigError(
            f"training.epochs={config['training']['epochs']}: a preview draws each of {steps:,} "
            f"optimizer steps, and {MOST_STEPS:,} at most; use fewer epochs"
        )
    values = rates(config, per_epoch)
    epochs = [step / per_epoch for step in range(len(values))]
    choices = (config[knob]["_target_"].rpartition(".")[2] for knob in ("optimizer", "scheduler"))
    title = f"learning rate: {', '.join(choices)}"
    out.print(draw(epochs, values, title), markup=False, soft_wrap=True)
    save(epochs, values, title, folder / "lr.png")
    ends = f"lr first {values[0]:.3g}, highest {max(values):.3g}, last {values[-1]:.3g}"
    out.print(f"{len(values):,} steps in {config['training']['epochs']} epochs; {ends}")
    out.print(f"drawn in {folder / 'lr.png'}; nothing was trained")


def draw(epochs: list[float], values: list[float], title: str) -> str:
    """Draw the curve in characters, 72 wide."""
    import plotext

    plotext.clear_figure()
    plotext.plotsize(72, 16)
    plotext.plot(epochs, values)
    plotext.title(title)
    plotext.xlabel("epoch")
    return plotext.uncolorize(plotext.build())


def save(epochs: list[float], values: list[float], title: str, path: Path) -> None:
    """Write the curve as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, values)
    axes.set(title=title.capitalize(), xlabel="epoch", ylabel="lr", ylim=(0, None))
    axes.grid(alpha=0.3)
    made = io.BytesIO()
    figure.savefig(made, dpi=150)
    storage.write(path, made.getvalue())
