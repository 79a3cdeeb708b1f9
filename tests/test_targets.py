"""Config is data: what is not on its group's list is refused, and nothing of it runs."""

import pytest

from knobs import build, targets
from knobs.config import command

WICKED = ["torch.load", "os.system", "builtins.open", "torch.hub.load", "builtins.eval", "pathlib.Path.write_text",
          "torch.utils.cpp_extension.load_inline", "subprocess.run", "hydra.utils.get_method", "knobs.data.vision.os.system",
          "torch.optim.lr_scheduler.warnings.warn", "torch.nn.init.math.sqrt", "torch.optim.optimizer.functools.partial",
          "knobs.init.ConfigError", "torch.nn.modules.module.torch.load", "_", "", 3]  # fmt: skip


@pytest.mark.parametrize("target", WICKED)
@pytest.mark.parametrize(
    "group",
    [
        "data",
        "model",
        "activation",
        "init",
        "optimizer",
        "scheduler",
        "training",
        "hydra",
        "elsewhere",
    ],
)
def test_refused_in_every_group(group, target):
    with pytest.raises(ValueError, match="not allowed here|no module|has no"):
        targets.resolve(group, target)


@pytest.mark.parametrize("override", [
    "optimizer._target_=os.system", "+optimizer.x._target_=os.system", "+model.x={_target_:torch.load}",
    "+training.x._target_=torch.hub.load", "+anything._target_=builtins.open",
    "+hydra.callbacks.x._target_=os.system", "hydra.launcher._target_=os.system", "hydra.sweeper._target_=torch.load",
    "hydra.job_logging.handlers.file.class=os.system", "+hydra.job_logging.handlers.x={'()':os.system}",
    "hydra.job_logging.root.handlers=[ext://os.system]", "+hydra.callbacks.x=${oc.decode:'{_target_: os.system}'}",
    "+hydra.job_logging.handlers.x={class:{a:b}}", "+hydra.job.env_set.KNOBS_ALLOW=os.", "activation._target_=torch.nn.Sequential.load_state_dict",
    "optimizer._target_=torch.optim.lr_scheduler.StepLR", "scheduler.x._target_=${oc.env:HOME}",
])  # fmt: skip
def test_refused_before_anything_runs(override, monkeypatch):
    def called(*args, **kwargs):
        raise AssertionError("a refused target ran")

    monkeypatch.setattr("os.system", called)
    monkeypatch.setattr("torch.load", called)
    _, faults = command.check_overrides([override])
    assert faults
    assert len(faults) <= 2


def test_a_target_reached_by_interpolation_is_seen():
    _, faults = command.check_overrides(
        ["+evil={_target_:os.system}", "+hydra.callbacks.x=${evil}"]
    )
    assert any("evil._target_=os.system: not allowed here; no target is" in f for f in faults)


def test_build_checks_again():
    with pytest.raises(ValueError, match="not allowed here"):
        build.make("optimizer", {"_target_": "torch.load", "_partial_": True})
    with pytest.raises(ValueError, match="not allowed here"):
        build.make(
            "scheduler",
            {
                "_target_": "torch.optim.lr_scheduler.LambdaLR",
                "lr_lambda": {"_target_": "os.getcwd"},
            },
        )


def test_what_conf_uses_is_allowed():
    for group, target in [
        ("optimizer", "torch.optim.Adam"),
        ("init", "torch.nn.init.xavier_normal_"),
        ("activation", "torch.nn.ReLU"),
    ]:
        assert targets.resolve(group, target).__name__ == target.split(".")[-1]


def test_an_admitted_package_comes_from_the_environment_only(monkeypatch):
    monkeypatch.setattr(targets, "_ADMITTED", ("fractions.",))
    assert targets.resolve("data", "fractions.Fraction").__name__ == "Fraction"
    with pytest.raises(ValueError, match=r"must be a torch.optim.Optimizer"):
        targets.resolve("optimizer", "fractions.Fraction")
