"""A run on the screen, as it is seen at 80 and 120 columns and in a file."""

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from seen import kept, masked, seen

from knobs.config import command
from knobs.training import screen
from knobs.training.run import execute
from knobs.training.screen import HISTORY, Screen

LOOKS = {"80": (80, True), "120": (120, True), "plain": (80, False)}
RUN = ["training.epochs=3", "training.batch_size=256", "optimizer=adam", "optimizer.lr=3e-3"]
RUN += ["model.width=32", "regularization=dropout", "regularization.l1=1e-6", "tracking=local"]
TABLE = ["data=csv", "data.path=houses.csv", "data.task=regression", "data.target=price"]
TABLE += ["training.epochs=2", "init=default", "model=linear", "test=true", "tracking=local"]


def console(look):
    width, terminal = LOOKS[look]
    out = io.StringIO()
    return Console(
        file=out, width=width, force_terminal=terminal, color_system=None, highlight=False
    )


def shown(look, overrides, folder="outputs/runs/2026-11-26/18-15-54-adam-lr0.003"):
    """The lines that a run leaves on the screen."""
    out = console(look)
    about = {"overrides": overrides, "choices": {}}
    execute(command.checked(overrides), Path(folder), out, about)
    return seen(out.file.getvalue())


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """A folder of the test's, a small table in it; plain lines for the first and the last epoch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(screen, "PLAIN_SECONDS", math.inf)
    rows = [f"{i % 7},{i % 5},{3 * (i % 7) - (i % 5)}" for i in range(60)]
    (tmp_path / "houses.csv").write_text("\n".join(["rooms,age,price", *rows]) + "\n")


@pytest.mark.parametrize("look", LOOKS)
def test_a_run(look):
    lines = shown(look, RUN)
    assert masked(lines) == kept(f"run-{look}", lines)


@pytest.mark.parametrize("look", LOOKS)
def test_a_regression_on_a_table(look):
    lines = shown(look, TABLE)
    assert masked(lines) == kept(f"table-{look}", lines)


@pytest.mark.parametrize("look", LOOKS)
def test_a_resumed_run(look):
    shown(look, RUN, "run")
    again = [*RUN, "training.epochs=5", "resume=run"]
    lines = shown(look, again, "run")
    assert masked(lines) == kept(f"resumed-{look}", lines)


@pytest.mark.parametrize("look", LOOKS)
def test_a_diverged_run(look):
    lines = [*RUN[:2], "optimizer=sgd", "optimizer.lr=1e30", "model=mlp", "tracking=local"]
    lines = shown(look, lines)
    assert masked(lines) == kept(f"diverged-{look}", lines)


@pytest.mark.parametrize(("look", "width"), [("80", 80), ("120", 120)])
def test_no_word_is_broken_and_nothing_is_lost(look, width):
    lines, plain = shown(look, RUN, "run"), shown("plain", RUN, "other")
    assert all(len(line) <= width for line in lines)
    first = plain.index(next(line for line in plain if line.startswith("epoch")))
    words = " ".join(lines).split()
    for word in " ".join(plain[:first]).replace("other", "run").split():
        assert word in words


# ------------------------------------------------------------------ the bar
def bar(run, look="80"):
    """A Screen of a run, which is not started."""
    return Screen(run, console(look))


def epochs(face, run, values):
    """Show epochs of these accuracies, each as the loop does."""
    for epoch, value in enumerate(values, 1):
        progress = run.progress
        progress.epoch, progress.seconds = epoch, float(epoch)
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch = value, epoch
        face.epoch(run, {"epoch": epoch, "train/loss": 0.5, "val/accuracy": value, "lr": 0.1})


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (9, 9), (10, 6), (100, 9), (1000, 9)])
def test_a_bar_leaves_ten_lines_of_bests_at_most_the_last_best_among_them(make_run, count, lines):
    run = make_run("tracking=local", f"training.epochs={count}")
    face = bar(run)
    with face:
        epochs(face, run, [i / count for i in range(count)])  # each the best so far
    left = [line for line in seen(face.out.file.getvalue()) if line.startswith("epoch ")]
    assert lines <= len(left) <= HISTORY
    assert left[0].startswith(f"epoch 1/{count} ")
    assert left[-1] == f"epoch {count}/{count}  loss 0.5000  val/accuracy {(count - 1) / count:.4f}"


def test_an_epoch_that_is_no_best_leaves_no_line(make_run):
    run = make_run("tracking=local", "training.epochs=40")
    face = bar(run)
    with face:
        epochs(face, run, [0.5, *[0.4] * 20, 0.6, 0.7, *[0.1] * 17])
    left = [line.split()[1] for line in seen(face.out.file.getvalue()) if "epoch" in line]
    assert left == ["1/40", "22/40", "23/40"]


def test_the_bar_has_times_loss_metric_and_best_within_80_columns(make_run):
    run = make_run("tracking=local", "training.epochs=100")
    face = bar(run)
    epochs(face, run, [0.25, 0.75, *[0.5] * 97])
    face._bar.update(face._task, times="100 s, 119 s left")
    out = console("80")
    out.print(face._bar.get_renderable())
    (line,) = seen(out.file.getvalue())[:1]
    values = "loss 0.5000 val/accuracy 0.5000 best 0.7500"
    assert line.startswith("epoch 99/100 ━")
    assert line.endswith(f" {values} 100 s, 119 s left")
    assert len(line) <= 78  # ^C has room


def test_elsewhere_the_last_epoch_is_shown_though_the_run_stopped_early(make_run):
    run = make_run("tracking=local", "training.epochs=40")
    face = bar(run, "plain")
    with face:
        epochs(face, run, [0.5, 0.4, 0.3])
    lines = face.out.file.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["3/40"]
    assert lines[0].endswith("val/accuracy 0.3000  lr 1.00e-01  37 s left")


# ------------------------------------------------------------------ what is named
def test_frozen_parameters_are_told_from_those_that_train():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    assert screen._parameters(net) == "21 parameters"
    net[0].requires_grad_(False)
    assert screen._parameters(net) == "21 parameters, 5 trainable"


@pytest.mark.parametrize(("overrides", "expected"), [
    ([], "xavier_normal"),
    (["data=digits", "model=cnn"], "kaiming_normal (conv), xavier_normal (linear)"),
    (["init=default"], "torch's own, each layer"),
    (["init=orthogonal"], "orthogonal"),
    (["activation=prelu"], "xavier_normal; 2 parameters by the model itself"),
])  # fmt: skip
def test_the_init_is_that_of_the_layers_there_are(make_run, overrides, expected):
    config = command.checked(["tracking=local", *overrides])
    assert (
        screen._init(make_run("tracking=local", *overrides).networks[0], config["init"]) == expected
    )


@pytest.mark.parametrize(("names", "expected"), [
    (["no", "yes"], "no, yes"),
    ([str(i) for i in range(6)], "0, 1, 2, 3, 4, 5"),
    ([str(i) for i in range(1000)], "0, 1, ..., 999"),
    (["x" * 99, "b"], f"{'x' * 19}…, b"),
])  # fmt: skip
def test_many_names_are_few_on_the_screen(names, expected):
    assert screen._some(names) == expected
