"""Hints: printed when a config leaves the usual ranges, silent otherwise, never more than text."""

import pytest

from knobs.config import command
from knobs.config.hints import hints
from knobs.shape import Shape

DIGITS = Shape((1, 8, 8), 10)


def rules(*overrides, shape=DIGITS):
    return [h.rule for h in hints(command.checked(list(overrides)), shape, 200)]


@pytest.mark.parametrize(("overrides", "expected"), [
    ([], []),
    (["optimizer.lr=0.1"], ["lr"]),
    (["optimizer.lr=1e-5"], ["lr"]),
    (["optimizer.lr=1e-4"], []),
    (["optimizer=sgd"], []),
    (["optimizer=sgd", "optimizer.lr=1e-3"], ["lr"]),
    (["optimizer=momentum", "optimizer.lr=1e-3"], []),
    (["optimizer=adadelta"], []),
    (["training.batch_size=100"], ["batch_size"]),
    (["training.batch_size=512"], ["batch_size"]),
    (["training.batch_size=256"], []),
    (["model.width=50"], ["multiple_of_8"]),
    (["model.width=8"], ["width"]),
    (["model.width=128"], ["width"]),
    (["model.width=between"], []),
    (["model.width=[64,32]"], []),
    (["regularization.dropout=0.6"], ["dropout"]),
    (["data=python_docs", "model=text_bag", "model.embedding_dim=64"], ["embedding"]),
    (["data=python_docs", "model=text_bag", "model.embedding_dim=256"], []),
    (["regularization=l2"], ["l2_with_adam"]),
    (["scheduler=cosine", "scheduler.T_max=40"], []),
    (["scheduler=cosine", "scheduler.T_max=41"], ["schedule"]),
    (["scheduler=step", "scheduler.step_size=39"], []),
    (["scheduler=step", "scheduler.step_size=40"], ["schedule"]),
    (["scheduler=multistep", "scheduler.milestones=[10,40,50]"], ["schedule", "schedule"]),
    (["scheduler=wsd", "scheduler.lr_lambda.total=999"], ["schedule"]),
    (["scheduler=wsd", "scheduler.lr_lambda.total=200"], []),
    (["regularization=l2", "optimizer=adamw"], []),
    (["regularization=batchnorm"], ["bias_before_norm"]),
    (["regularization=batchnorm", "model.bias=false"], []),
    (["activation=sigmoid", "model.depth=3"], ["deep_sigmoid"]),
    (["activation=sigmoid"], []),
    (["activation=selu"], []),
    (["activation=selu", "init=xavier_normal", "init.gain=2"], ["selu_gain"]),
    (["activation=selu", "init=kaiming_normal", "init.nonlinearity=relu"], ["selu_gain"]),
])  # fmt: skip
def test_rules(overrides, expected):
    assert rules(*overrides) == expected


def test_every_optimizers_own_default_is_usual():
    for path in (command.CONF / "optimizer").glob("*.yaml"):
        assert "lr" not in rules(f"optimizer={path.stem}"), path.stem


def test_a_hint_names_its_source_and_how_to_silence_it():
    (hint,) = hints(command.checked(["optimizer.lr=0.5"]), DIGITS)
    assert str(hint) == (
        "lr 0.5 is outside 0.0001 .. 0.01, usual for Adam "
        "(Godbole et al. 2023, Deep Learning Tuning Playbook; silence=[lr])"
    )
    assert rules("optimizer.lr=0.5", "silence=[lr]") == []
    assert rules("optimizer.lr=0.5", "model.width=50", "silence=[all]") == []


def test_at_most_three_are_shown(train, tmp_path):
    import io

    from rich.console import Console

    from knobs.training.run import execute

    out = Console(file=io.StringIO(), width=300)
    plain = command.checked([
        "tracking=local", "training.epochs=1", "optimizer.lr=0.5", "model.width=[500,50]",
        "regularization.dropout=0.7", "regularization.norm=batch", "training.batch_size=100",
    ])  # fmt: skip
    execute(plain, tmp_path / "r", out)
    shown = [line for line in out.file.getvalue().splitlines() if line.strip().startswith("hint")]
    assert len(shown) == 4
    assert "and 3 more; silence=[all] hides every one" in shown[-1]
