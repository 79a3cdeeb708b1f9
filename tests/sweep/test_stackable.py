"""What decides which runs share a stack, in a process without torch; torch's facts beside it."""

import json
import subprocess
import sys

from knobs.config import command
from knobs.stack.optimizers import LINEAR_IN_LR
from knobs.sweep import stackable
from knobs.sweep.grid import renewed
from knobs.sweep.jobs import Job

DRIVER = """
import json, sys
import hydra_plugins.knobs_launcher, hydra_plugins.knobs_sweeper
from knobs.sweep import grid, jobs, screen, stackable, study, trials
configs = json.load(sys.stdin)
print([stackable.alone(config) for config in configs])
print(len({stackable.shared(config) for config in configs}))
made = {n: jobs.Job(n, [f"seed={n}"], config) for n, config in enumerate(configs)}
with screen.Screen(screen.labels(made), [screen.Planned(4, 1, "", 30, 2.0)], grid.Supply()) as face:
    face.steps(1)
    face.epoch(0, {"metric": "val/loss", "mode": "min"}, 0.5, 1)
    face.ended(0, "finished")
print([name for name in sys.modules if name.split(".")[0] == "torch"])
"""


def test_a_grid_is_cut_and_shown_without_torch():
    lines = (["optimizer.lr=0.1"], ["optimizer.lr=0.2"], ["optimizer=lbfgs"], ["model.width=8"])
    configs = json.dumps([command.checked(["data=wine", *line]) for line in lines])
    ran = subprocess.run(
        [sys.executable, "-c", DRIVER], input=configs, capture_output=True, text=True, check=False
    )
    assert ran.stderr == ""
    reasons, kinds, cost, loaded = ran.stdout.splitlines()
    why = "LBFGS's update is not proportional to the learning rate, or mixes weights"
    assert reasons == str(["", "", why, ""])
    assert kinds == "2"
    assert cost == "4 runs in 1 stack, about 2.0 s"
    assert loaded == "[]"


def test_the_optimizers_that_stack_are_torchs_and_muon():
    """By the names under which torch has them, its modules' and its package's."""
    kinds = LINEAR_IN_LR
    assert tuple(kind.__name__ for kind in kinds) == stackable.LINEAR_IN_LR
    named = {f"{kind.__module__}.{kind.__qualname__}" for kind in kinds}
    ours = {"knobs.optimizers.Muon"}
    torchs = named | {f"torch.optim.{kind.__name__}" for kind in kinds}
    assert torchs | ours == stackable.STACKABLE


def test_a_job_is_renewed_by_what_its_run_has_left(tmp_path):
    """Any number of times, with the same result: nothing, a checkpoint, an end."""
    new = Job(3, ["seed=1"], command.checked(["seed=1"]), label="seed=1", differs=["seed=1"])
    assert renewed(new, tmp_path, False) is new
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.safetensors").touch()
    once = renewed(new, tmp_path, False)
    assert once.overrides == ["seed=1", f"resume={tmp_path}"]
    assert once.config == new.config | {"resume": str(tmp_path)}
    assert (once.number, once.label, once.differs) == (3, "seed=1", ["seed=1"])
    twice = renewed(once, tmp_path, False)
    assert (twice.overrides, twice.config) == (once.overrides, once.config)
    foreign = Job(4, ["x=1"], None)
    assert renewed(foreign, tmp_path, False) is foreign
    (tmp_path / "checkpoints" / "last.safetensors").unlink()
    (tmp_path / "checkpoints").rmdir()
    for status, anew in (("finished", None), ("failed", new)):
        end = {"status": status, "objective": {"value": 1.0}}
        (tmp_path / "summary.json").write_text(json.dumps(end))
        assert renewed(new, tmp_path, retry=False) is None
        assert renewed(new, tmp_path, retry=True) is anew
