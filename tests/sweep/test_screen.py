"""A sweep on the screen, as it is seen at 80 and 120 columns and in a file."""

import io
import math

import pytest
import torch
from rich.console import Console
from seen import kept, masked, seen

from knobs.config import command
from knobs.sweep import kin, screen
from knobs.sweep.grid import Supply
from knobs.sweep.lines import MOST, failures, note
from knobs.sweep.screen import Screen

STUDY = """# Which of two optimizers?
question: Which of two?
scientific: {optimizer: [adam, sgd]}
space:
  optimizer=adam:
    optimizer.lr: {low: 1e-4, high: 1e-2, scale: log}
  optimizer=sgd:
    optimizer.lr: {low: 1e-2, high: 1.0, scale: log}
fixed: [training.epochs]
set: [training.batch_size=256]
runs: 4
seeds: 2
"""
LOOKS = {"80": "80", "120": "120", "plain": ""}


# Between the narrowest and none at all: that a width is taken, tests/training/test_screen.py shows.
WIDE = pytest.param("120", marks=pytest.mark.slow)


@pytest.fixture(params=["80", WIDE, "plain"])
def look(request, monkeypatch):
    """A name of a look, for Consoles that the code makes itself."""
    for module, name in ((screen, "PLAIN_SECONDS"), (command, "TELL_SECONDS")):
        monkeypatch.setattr(module, name, math.inf)  # no lines that depend on the time
    if columns := LOOKS[request.param]:
        for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", columns)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LINES", "40")
    return request.param


def test_a_grid(look, sweep):
    grid = ["optimizer=adam,sgd", "optimizer.lr=1e-9", "model.width=64,32", "sweep=s"]
    code, told = sweep(*grid, "training.epochs=1", "training.batch_size=512", "tracking=local")
    assert code == 0, told
    lines = seen(told)
    board = next(i for i, line in enumerate(lines) if line.startswith("rank"))
    assert len([line for line in lines[board:] if line[:4].strip().isdigit()]) == 4
    lines = [*lines[:board], *lines[board + 5 :]]
    assert masked(lines) == kept(f"grid-{look}", lines)


def test_a_study(look, sweep, tmp_path):
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "two.yaml").write_text(STUDY)
    asked = ["--config-dir", str(tmp_path / "mine"), "+study=two", "training.epochs=1", "sweep=s"]
    code, told = sweep(*asked, "tracking=local", "hydra.launcher.width=1")
    assert code == 0, told
    lines = [line for line in seen(told) if line]
    report = next(i for i, line in enumerate(lines) if line.startswith("s  8 runs: 8 finished"))
    page = next(i for i, line in enumerate(lines) if line.startswith("page: "))
    lines = [*lines[:report], *lines[page:]]
    assert masked(lines) == kept(f"study-{look}", lines)
    assert lines[-1] == "page: outputs/sweeps/s/report.html"
    again, told = sweep(*asked, "tracking=local", "hydra.launcher.width=1")
    assert again == 0
    assert "search: 4 runs of 2 arms, 4 of them ended before" in told


def test_one_counter_counts_the_runs_of_all_phases():
    supply = Supply()
    supply.before, supply.coming = 40, 1
    face = Screen({n: f"seed={n}" for n in range(25)}, [], supply)
    face.done["finished"] = 5
    face.done["failed"] = 1
    assert face._line().startswith("runs 46/66  failed 1  ")


def out(terminal, width=80):
    return Console(
        file=io.StringIO(), width=width, force_terminal=terminal, color_system=None,
        highlight=False, soft_wrap=True,
    )  # fmt: skip


ROWS = [(str(n), f"RuntimeError: {'why ' * 30}".strip(), f"a/b/{n}/train.log") for n in range(50)]


def test_failures_are_all_there_and_whole_in_a_file():
    console = out(False)
    failures(console, ROWS)
    lines = console.file.getvalue().splitlines()
    assert lines == ["50 failed", *map("  ".join, ROWS)]


def test_failures_are_bounded_on_a_terminal_which_says_so():
    console = out(True)
    failures(console, ROWS)
    text = console.file.getvalue()
    assert "50 failed" in text
    assert f"and {50 - MOST} more" in text
    assert f"a/b/{MOST - 1}/train.log" in text
    assert f"a/b/{MOST}/train.log" not in text


def test_a_long_note_goes_on_indented_on_a_terminal_only():
    line = "  8 runs sequentially: " + "word " * 20 + "a" * 90
    plain, terminal = out(False), out(True, 40)
    note(plain, line)
    assert plain.file.getvalue() == f"{line}\n"
    note(terminal, line)
    lines = terminal.file.getvalue().splitlines()
    assert lines[0].startswith("  8 runs")
    assert all(part.startswith("    ") for part in lines[1:])
    assert all(len(part) <= 40 for part in lines[:-1])
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())


def made_up(name, notes, counts):
    """Data of two classes with `counts` training rows, as far as a sweep's screen looks at them."""
    train = type("Split", (), {"y": torch.tensor([0, 1]).repeat_interleave(torch.tensor(counts))})
    facts = {"name": name, "notes": notes, "task": "classification", "classes": ("a", "b")}
    return type("Data", (), facts | {"train": train, "all_y": None})()


def test_a_sweep_says_that_a_rare_class_changes_its_objective(monkeypatch):
    monkeypatch.setattr(kin.build, "data", lambda config: made_up("csv", ["x"], [95, 5]))
    out = Console(file=io.StringIO(), width=200)
    objective = {"metric": "val/accuracy", "mode": "max", "rare": 0.1}
    kin.reader(out)({"data": {}, "objective": objective})
    kin.reader(out)({"data": {}, "objective": objective | {"rare": 0}})
    why = "val/balanced_accuracy, as class b has 5.0% of the rows; objective.metric=val/accuracy"
    assert out.file.getvalue() == f"csv: {why}: as ever; x\ncsv: x\n"


def test_how_data_were_read_is_told_once_a_set(monkeypatch):
    """Not again for another split of it, nor where nothing is to be told."""
    read_sets = []
    judged = {"objective": {"metric": "val/accuracy", "mode": "max", "rare": 0.1}}

    def data(config):
        read_sets.append(config["data"])
        notes = [] if config["data"]["path"] == "plain" else ["3 columns", "a leak?"]
        return made_up("csv", notes, [5, 5])

    monkeypatch.setattr(kin.build, "data", data)
    out = Console(file=io.StringIO(), width=200)
    read = kin.reader(out)
    sets = [("t", 0), ("t", 1), ("t", 0), ("plain", 0), ("u", 0)]
    made = [read(judged | {"data": {"path": path, "split_seed": seed}}) for path, seed in sets]
    assert made[0] is made[2]
    assert len(read_sets) == 4
    assert out.file.getvalue() == "csv: 3 columns; a leak?\n" * 2
