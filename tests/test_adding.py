"""Adding an option is one YAML: each class here is new to the project, and all contracts hold.

A YAML alone, in a folder of one's own (`--config-dir`) or in a copy of conf/: it composes, its
arguments and ranges are checked, it trains, resumes to the same bits, and stacks where it may.
"""

import io
import json
import math
import shutil
import sys
from pathlib import Path

import processes
import pytest
import torch
from conftest import TRAIN
from trained import assert_same_bits, distance, interrupt_at, solo, together

from knobs import build
from knobs.config import command
from knobs.sweep import stackable
from knobs.training import loop
from knobs.training.checkpoint import restore, snapshot
from knobs.training.setup import assemble

CPU = torch.device("cpu")
HELP = "# An option that the project does not have.\n# Source: this test.\n"
# group: what its YAML holds, a wrong value and the words of the fault, and why it trains alone.
NEW = {
    "an optimizer": (
        "optimizer",
        """
        _target_: schedulefree.SGDScheduleFree
        _partial_: true
        lr: 0.5                # > 0; usually 0.1 .. 1
        momentum: 0.9
        weight_decay: ${l2:0}
        """,
        ("momentum=1", "must be a number >= 0 and < 1"),
        "SGDScheduleFree's update is not proportional to the learning rate, or mixes weights",
    ),
    "an optimizer with a rule of its own": (
        "optimizer",
        """
        _target_: schedulefree.RAdamScheduleFree
        _partial_: true
        lr: 1e-3
        silent_sgd_phase: false
        eps: 1e-8              # > 0 and < 1e-3
        """,
        ("eps=0", "must be a number > 0 and < 1e-3"),
        "RAdamScheduleFree's update is not proportional to the learning rate, or mixes weights",
    ),
    "an optimizer of a class that stacks": (
        "optimizer",
        """
        _target_: torch.optim.Adam
        _partial_: true
        lr: 1e-2
        betas: [0.8, 0.95]
        amsgrad: true
        """,
        ("amsgrad=1", "must be one of true, false"),
        "",
    ),
    "a schedule of torch": (
        "scheduler",
        """
        _target_: torch.optim.lr_scheduler.ConstantLR
        _partial_: true
        factor: 0.3
        total_iters: 50%
        last_epoch: -1
        interval: step
        """,
        ("last_epoch=0.5", "must be a whole number"),
        "",
    ),
    "a schedule as a function of t": (
        "scheduler",
        """
        _target_: torch.optim.lr_scheduler.MultiplicativeLR
        _partial_: true
        lr_lambda:
          _target_: knobs.schedulers.inverse_time
          _partial_: true
          rate: 0.01
        interval: step
        """,
        ("lr_lambda.rate=0", "must be a number > 0"),
        "",
    ),
    **{
        f"the activation {name}": (
            "activation",
            f"_target_: torch.nn.{name}\n_partial_: true\n{values}",
            (wrong, "must be a number"),
            "",
        )
        for name, values, wrong in (
            ("CELU", "alpha: 1.5", "alpha=wide"),
            ("Hardtanh", "min_val: -1.0\nmax_val: 2.0  # > 0", "max_val=-1"),
            ("Softshrink", "lambd: 0.2", "lambd=null"),
            ("Threshold", "threshold: 0.1\nvalue: 0.0", "value=x"),
        )
    },
    "an activation that draws": (
        "activation",
        "_target_: torch.nn.RReLU\n_partial_: true\nlower: 0.1\nupper: 0.3",
        ("upper=x", "must be a number"),
        None,  # its modules say it, not its config
    ),
    "an activation without values": (
        "activation",
        "_target_: torch.nn.Softsign\n_partial_: true",
        ("alpha=1", "unexpected keyword argument 'alpha'"),
        "",
    ),
    "an init": (
        "init",
        "_target_: torch.nn.init.sparse_\n_partial_: true\nsparsity: 0.3  # >= 0 and < 1\nstd: 0.1",
        ("sparsity=1", "must be a number >= 0 and < 1"),
        "",
    ),
    "a recipe of regularization": (
        "regularization",
        "defaults:\n  - none\n  - _self_\n\ndropout: 0.2\nl1: 1e-5\nlabel_smoothing: 0.05",
        ("l1=-1", "must be a number >= 0"),
        "",
    ),
    "a recipe of training": (
        "training",
        "defaults:\n  - default\n  - _self_\n\nclip_norm: 1.0\ngradient_accumulation_steps: 2",
        ("clip_norm=0", "must be null, or a number > 0"),
        "",
    ),
    "a model": (
        "model",
        """
        name: wide
        inputs: [table, image]
        _target_: knobs.models.mlp.mlp
        _partial_: true
        width: 16              # whole number >= 8
        depth: 1
        bias: true
        """,
        ("width=4", "must be a whole number >= 8"),
        "",
    ),
}


def write(folder, group, text):
    (folder / group).mkdir(parents=True, exist_ok=True)
    lines = [line.removeprefix(" " * 8) for line in text.strip("\n").splitlines()]
    (folder / group / "new.yaml").write_text(HELP + "\n".join(lines).rstrip() + "\n")


@pytest.fixture(params=sorted(NEW))
def new(request):
    return NEW[request.param]


@pytest.fixture(params=["--config-dir", "conf/"])
def compose(request, new, tmp_path):
    """Overrides -> configs and faults, where the YAML lies in one place or the other."""
    group, text, *_ = new
    folder = tmp_path / "conf"
    if request.param == "conf/":
        shutil.copytree(command.CONF, folder)
    write(folder, group, text)
    folders = (folder,) if request.param == "conf/" else (command.CONF, folder)

    def run(*overrides):
        given = [f"{group}=new", "tracking=local", "data=wine", "training.epochs=2", *overrides]
        configs, faults = command.check_overrides(given, folders=folders)
        return [{k: v for k, v in plain.items() if k != "hydra"} for plain in configs], faults

    return run


def test_a_new_yaml_composes_and_its_arguments_and_ranges_are_checked(new, compose):
    group, _, (wrong, words), _ = new
    [plain], faults = compose()
    assert faults == []
    assert plain[group].get("_target_", "") in NEW_TARGETS | {""}
    for change, message in ((f"++{group}.{wrong}", words), (f"+{group}.none_such=1", "none_such")):
        _, faults = compose(change)
        assert len(faults) == 1
        assert faults[0].startswith(group)
        assert message in faults[0]


NEW_TARGETS = {
    line.split()[1]
    for _, text, *_ in NEW.values()
    for line in text.splitlines()
    if line.strip().startswith("_target_")
}


def test_a_new_option_trains_resumes_and_stacks(new, compose):
    [plain], faults = compose()
    assert faults == []
    data = build.data(plain)

    def make(seed=0):
        return assemble(plain | {"seed": seed}, data, CPU)

    whole, seen = make(), []
    before = [p.detach().clone() for p in whole.model.parameters()]
    status, rows = solo(whole)
    assert status == "finished"
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, whole.model.parameters(), strict=True))
    # Stopped in the middle of an epoch, saved, read as data, and gone on with.
    broken = make()
    with pytest.raises(loop.Interrupted):
        seen.extend(loop.fit(broken, interrupt_at(3)))
    stored = io.BytesIO()
    torch.save(snapshot(broken), stored)
    stored.seek(0)
    resumed = make()
    restore(resumed, torch.load(stored, weights_only=True))
    seen += loop.fit(resumed)
    assert_same_bits(resumed.model.state_dict(), whole.model.state_dict())
    assert seen == rows
    # Beside another seed in one stack, if nothing is against it.
    assert stackable.alone(plain) == (new[-1] or "")
    if new[-1] == "":
        first, second = make(), make(seed=1)
        assert [end for end, _ in together([first, second]).values()] == ["finished"] * 2
        assert distance(first.model.parameters(), whole.model.parameters()) < 1e-4
        assert distance(second.model.parameters(), whole.model.parameters()) > 1e-3


OWN_KEYS = """
defaults:
  - default
  - _self_

noise: 0.1  # >= 0
at: [1, 2]
steps:
  - 1
  - 2
swa: {start: 0.75}
"""


def test_the_command_line_takes_a_yaml_and_a_key_of_ones_own(tmp_path):
    """A run checks its config a second time, in the process that trains it."""
    write(tmp_path / "mine", "activation", NEW["the activation CELU"][1])
    write(tmp_path / "mine", "training", OWN_KEYS)
    command = [sys.executable, TRAIN, "--config-dir", "mine", "activation=new", "training=new"]
    given = ["data=wine", "training.epochs=1", "tracking=local", "hydra.run.dir=run"]
    done = processes.run([*command, *given], tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    wrong = [*command, *given, "training.noise=-1"]
    refused = processes.run(wrong, tmp_path)
    assert "training.noise=-1: must be a number >= 0" in refused.stderr
    assert Path(tmp_path / "run").is_dir()
