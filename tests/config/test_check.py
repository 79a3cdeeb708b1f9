"""Faults are found before anything runs, all at once, each naming field, value, and what is allowed."""

import math
from pathlib import Path
from typing import Literal

import pytest

from knobs.config import command, rules
from knobs.config.rules import of_comment, of_type
from knobs.errors import ConfigError
from knobs.identity import identity
from knobs.schedulers import percent
from knobs.secrets import public

CSV = "data=csv data.path=t.csv data.task="


def faults(*overrides, grid=False):
    return command.check_overrides(list(overrides), grid=grid)[1]


@pytest.mark.parametrize(("override", "message"), [
    ("optimizer=adm", "optimizer=adm: no such option; did you mean adam? options: "),
    ("optimiser=adam", "optimiser=adam: no such key; did you mean optimizer=adam?"),
    ("training.epoch=3", "training.epoch=3: no such key; did you mean training.epochs?"),
    ("optimizer.lr=abc", "optimizer.lr=abc: must be a number > 0"),
    ("optimizer.lr=-1", "optimizer.lr=-1: must be a number > 0"),
    ("optimizer.lr=nan", "optimizer.lr=nan: must be a number > 0"),
    ("optimizer.lr=null", "optimizer.lr=null: must be a number > 0"),
    ("optimizer.lr=true", "optimizer.lr=true: must be a number > 0"),
    ("optimizer.betas=[0.9,1.5]", "optimizer.betas=[0.9, 1.5]: must be a list of 2 items, each a number >= 0 and < 1"),
    ("training.epochs=2.5", "training.epochs=2.5: must be a whole number >= 1"),
    ("training.batch_size=0", "training.batch_size=0: must be a whole number >= 1"),
    ("seed=-1", "seed=-1: must be a whole number >= 0"),
    ("regularization.dropout=1", "regularization.dropout=1: must be a number >= 0 and < 1"),
    ("regularization.norm=group", "regularization.norm=group: must be one of null, batch, layer"),
    ("training.precision=fp16", "training.precision=fp16: must be one of fp32, bf16"),
    ("model.width=wide", "model.width=wide: must be a whole number >= 1, or a list of items"),
    ("+optimizer.foo=1", "optimizer.foo=1: torch.optim.Adam takes no argument foo"),
    ("+optimizer.learning_rate=1", "optimizer.learning_rate=1: torch.optim.Adam takes no argument learning_rate"),
    ("+training.foo=1", "training.foo=1: no such key"),
    ("+foo=1", "foo=1: no such key"),
    ("model=text_cnn", "model=text_cnn: reads text, and data=digits is image; choose another model"),
    ("data=wine model=cnn", "model=cnn: reads image, and data=wine is table"),
    ("data=diabetes objective.metric=val/accuracy", "objective.metric=val/accuracy: a regression run has val/loss, val/r2"),
    ("objective.metric=val/r2", "objective.metric=val/r2: a classification run has"),
    ("data=diabetes regularization=label_smoothing", "regularization.label_smoothing=0.1: needs classes"),
    ("data=python_docs model=text_bag regularization=mixup", "regularization.mixup=0.2: cannot mix words"),
    ("optimizer=lbfgs regularization=l2", "regularization.l2=0.0001: torch.optim.LBFGS takes no weight decay"),
    ("regularization=l2 optimizer.weight_decay=0.1", "are the same knob; set one of them"),
    ("scheduler=step scheduler.step_size=0", "scheduler.step_size=0: must be a whole number >= 1, or a percentage of the run"),
    ("scheduler=step scheduler.step_size=120%", "scheduler.step_size=120%: must be"),
    ("optimizer=nesterov optimizer.momentum=0", "optimizer: Nesterov momentum requires a momentum"),
    ("training.device=tpu9", "training.device=tpu9: must be auto, cpu, cuda"),
    ("data=csv", "data.path: has no default; give data.path=VALUE"),
    (f"{CSV}regression data.target=[a]", "data.target=[a]: a list is of two columns or more; one is data.target=COLUMN"),
    (f"{CSV}regression data.target=[]", "data.target=[]: a list is of two columns or more"),
    (f"{CSV}regression data.target=[a,b,a]", "data.target=[a, b, a]: a twice; name each column once"),
    (f"{CSV}regression data.target=[a,b] data.drop=[b]", "data.drop=b: is a target; take it out of data.drop or"),
    (f"{CSV}regression data.target=a data.drop=[a]", "data.drop=a: is a target"),
    (f"{CSV}classification data.target=[a,b]", "data.target=[a, b]: a classification has one target; data.task=multilabel"),
    (f"{CSV}multilabel data.target=a", "data.task=multilabel: needs a list of columns of 0 and 1"),
    (f"{CSV}regression data.target=3", "data.target=3: must be a word, or a list of items, each a word"),
    (f"{CSV}regression data.target=[a,3]", "data.target=['a', 3]: must be a word, or a list of items"),
    (f"{CSV}regression data.target=a data.weight=a", "data.weight=a: has another part already; choose a column"),
    (f"{CSV}sorting data.target=a", "data.task=sorting: must be one of classification, multilabel, regression"),
    ("data=text_csv data.path=t model=text_bag data.weight=label", "data.weight=label: has another part already"),
    ("data=text_csv data.path=t model=text_bag data.task=multilabel", "data.task=multilabel: needs a list"),
    ("init=tensor", "init.path: has no default; give init.path=VALUE"),
    ("init=tensor init.path=none.pt", "init.path=none.pt: no such file"),
    ("data.val=0.6 data.test=0.5", "nothing is left to train on"),
    ("optimizer.lr", "optimizer.lr: has no value; write optimizer.lr=VALUE, a number > 0"),
    ("training.gradient_accumulation_steps=64", "training.gradient_accumulation_steps=64: more microbatches than training.batch_size=32"),
    ("scheduler=plateau scheduler.interval=step", "scheduler.interval=step: the metric is measured once an epoch"),
    ("scheduler=plateau scheduler.monitor=val/acc", "scheduler.monitor=val/acc: a classification run has"),
    ("data=python_docs model=text_transformer model.heads=3", "model.heads=3: must divide model.embedding_dim=128"),
    ("data=python_docs model=text_transformer regularization=batchnorm", "regularization.norm=batch: knobs.models.text.text_transformer takes layer"),
    ("data=python_docs model=text_cnn model.width=[8,8]", "model.width=[8, 8]: must be a whole number >= 1"),
    ("optimizer=adafactor optimizer.eps=1e-8", "optimizer.eps=1e-08: must be [null, or a number >= 0, a number >= 0]"),
    ("optimizer.eps=[1e-8,1e-8]", "optimizer.eps=[1e-08, 1e-08]: must be a number >= 0"),
    ("optimizer.foreach=3", "optimizer.foreach=3: must be one of true, false, or null"),
    ("activation=silu activation.inplace=1", "activation.inplace=1: must be one of true, false"),
    ("data=mnist data.augment.flip=2", "data.augment.flip=2: must be one of true, false"),
    ("scheduler=plateau scheduler.mode=triangular", "scheduler.mode=triangular: must be one of min, max"),
    ("training.early_stopping=3", "training.early_stopping=3: is a section; set one of its keys: training.early_stopping.min_delta"),
    ("init.conv.nonlinearity=foo", "init: Unsupported nonlinearity foo"),
    ("tracking.tags=[a,'']", "tracking.tags=['a', '']: must be null, or a list of items, each a word of 1 to 64"),
])  # fmt: skip
def test_a_fault_names_field_value_and_what_is_allowed(override, message):
    found = faults(*override.split(" "))
    assert any(message in fault for fault in found), found
    assert len(found) <= 3


def test_all_faults_at_once():
    found = faults(
        "optimizer=adm",
        "training.epoch=3",
        "model.widht=8",
        "seed=-1",
        "training.batch_size=x",
        "+optimizer.foo=1",
    )
    fields = sorted(f.split("=")[0] for f in found)
    assert fields == [
        "model.widht",
        "optimizer",
        "optimizer.foo",
        "seed",
        "training.batch_size",
        "training.epoch",
    ]


def test_a_whole_grid_is_checked_and_faults_name_their_jobs():
    found = faults("optimizer=adam,lbfgs", "regularization.l2=1e-3,null", "seed=0,1", grid=True)
    assert len(found) == 1
    assert "LBFGS takes no weight decay" in found[0]
    assert "[jobs 4, 5 of 8, the first: optimizer=lbfgs regularization.l2=0.001 seed=0]" in found[0]
    configs, none = command.check_overrides(["optimizer=adam,sgd", "seed=0,1,2"], grid=True)
    assert not none
    assert len(configs) == 6


def test_checked_raises_with_every_fault():
    with pytest.raises(
        ConfigError, match=r"(?s)seed=-1.*training.epochs=0|training.epochs=0.*seed=-1"
    ):
        command.checked(["seed=-1", "training.epochs=0"])


def test_the_default_config_has_no_fault_and_seed_0_is_kept():
    assert faults() == []
    assert command.checked(["seed=0"])["seed"] == 0
    assert command.checked(["seed=0"]) == command.checked([]) | {"name": "seed0"}


def test_identity_is_what_a_run_computes():
    """Frozen: a change of these hashes makes finished runs of a sweep run again."""
    base = command.checked([])
    for same in (
        ["name=other"],
        ["tracking=local"],
        ["silence=[lr]"],
        ["training.threads=1"],
        ["optimizer.lr=0.001"],
    ):
        assert identity(command.checked(same)) == identity(base), same
    others = [
        identity(command.checked([o]))
        for o in ("seed=1", "optimizer.lr=2e-3", "training.epochs=3", "optimizer=sgd")
    ]
    assert len({*others, identity(base)}) == 5


def test_objective_follows_the_task():
    def objective(*overrides):
        return tuple(command.checked([*overrides])["objective"].values())

    assert objective() == ("val/accuracy", "max", 0.1)
    assert objective("data=diabetes") == ("val/r2", "max", 0.0)
    assert objective("objective.metric=val/accuracy") == ("val/accuracy", "max", 0.0)
    assert objective("objective.rare=0") == ("val/accuracy", "max", 0.0)
    assert command.checked(["objective.metric=val/loss"])["objective"]["mode"] == "min"


def test_a_secret_cannot_name_a_folder(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "s3cret-value")
    found = faults("name=${oc.env:MY_SERVICE_TOKEN}")
    assert found == ["name=<hidden>: holds a secret, and names folders and logs; choose another"]


def test_secrets_are_hidden(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "s3cret-value")
    hidden = public(
        {"a": {"api_key": "x"}, "b": "at s3cret-value!", "lr": 0.1, "c": ["s3cret-value"]}
    )
    assert hidden == {"a": {"api_key": "<hidden>"}, "b": "<hidden>", "lr": 0.1, "c": ["<hidden>"]}


@pytest.mark.parametrize(
    ("word", "share"),
    [("30%", 0.3), ("2.5%", 0.025), ("100%", 1.0), ("x%", None), (3, None), ("3", None)],
)
def test_percent(word, share):
    assert percent(word) == share


def test_rules_say_what_they_accept():
    every = [rule for path in rules.paths() if (rule := rules.rule(path))]
    assert all(rule.says for rule in every)
    assert [path for path in rules.paths() if (r := rules.rule(path)) and r.accepts({})] == [
        "skip",
        "zip",
    ]


@pytest.mark.parametrize(("words", "says", "accepted", "refused"), [
    ("> 0", "a number > 0", [1, 1e-9], [0, -1, True, "1", float("inf"), float("nan"), None]),
    (">= 0 and < 1", "a number >= 0 and < 1", [0, 0.99], [1, -1e-9]),
    ("<= 0", "a number <= 0", [0, -3.5], [0.1]),
    ("number", "a number", [-2, 0.5], ["x", None, False]),
    ("whole number >= 1 and <= 3", "a whole number >= 1 and <= 3", [1, 3], [0, 4, 1.0, True]),
    ("whole number >= 0 and < 2^63", "a whole number >= 0 and < 2^63", [2**63 - 1], [2**63, -1]),
    ("true or false", "one of true, false", [True, False], [1, "true", None]),
    ("fp32 or bf16", "one of fp32, bf16", ["fp32"], ["fp16", None]),
    ("null, batch or layer", "one of null, batch, layer", [None, "batch"], ["null", False]),
    ("null or > 0", "null, or a number > 0", [None, 2], [0, "null"]),
    ("null or word", "null, or a word", [None, "x"], ["", 3]),
    ("auto, or >= 0", "auto, or a number >= 0", ["auto", 0], ["x", -1]),
    ("each word", "a list of items, each a word", [[], ["a", "b"]], ["a", [1], None]),
    ("2 items, each > 0", "a list of 2 items, each a number > 0", [[1, 2]], [[1], [0, 1], [1, 2, 3]]),
    ("[null or >= 0, > 1]", "[null, or a number >= 0, a number > 1]", [[None, 2], [0, 2]], [[0, 1], [0], 0]),
    ("each whole number >= 1, or a percentage of the run",
     "a list of items, each a whole number >= 1, or a percentage of the run such as 30%",
     [[3, "50%"], ["100%"]], [["120%"], "50%", [0]]),
    ("whole number >= 1, or a list of them, or between or two_thirds",
     "a whole number >= 1, or a list of items, each a whole number >= 1, or one of between, two_thirds",
     [1, [1, 2], "between"], [0, [0], "wide"]),
])  # fmt: skip
def test_a_comment_states_a_rule(words, says, accepted, refused):
    for comment in (words, f"{words}; usually 3", f"{words}: what it is", f"{words} (so)"):
        rule = of_comment("???", comment)
        assert rule.says == says
        assert all(rule.accepts(value) for value in accepted)
        assert not any(rule.accepts(value) for value in refused)


@pytest.mark.parametrize(("comment", "default"), [
    ("", "3"), ("tokens", "3"), ("optimizer steps", "0"), ("0.1 .. 0.5", "0.2"), ("a fifth or more", "0.2"),
    ("null: never", "null"), ("false saves weights", "true"), ("words or pairs", "text"),
])  # fmt: skip
def test_prose_states_none(comment, default):
    assert of_comment(default, comment) is None


@pytest.mark.parametrize(("annotation", "says"), [
    (float, "a number"), (int, "a whole number"), (bool, "one of true, false"), (str, "a word"),
    (bool | None, "one of true, false, or null"), ("float | Tensor", "a number"),
    (tuple[float, float], "a list of 2 items, each a number"), (list[int], "a list of items, each a whole number"),
    (Literal["layer"] | None, "layer, or null"), ("Callable", None), (Path, None), (float | Path, None),
])  # fmt: skip
def test_a_signature_states_a_rule(annotation, says):
    rule = of_type(annotation)
    assert (rule and rule.says) == says


# Frozen: what the keys of every kind have always held.
@pytest.mark.parametrize(("key", "says"), [
    ("seed", "a whole number >= 0 and < 2^63"),
    ("task", "one of train, preview, suggest"),
    ("sweep", "null, or a name of at most 100 letters, digits, ., - and _"),
    ("test", "one of true, false"),
    ("objective.mode", "one of min, max"),
    ("data.split_seed", "a whole number >= 0"),
    ("data.val", "a number > 0 and < 1"),
    ("data.augment.crop", "a whole number >= 0 and <= 16"),
    ("model.width", "a whole number >= 1, or a list of items, each a whole number >= 1, or one of between, two_thirds, under_double"),
    ("activation.negative_slope", None),  # a float by its signature
    ("init.gain", "auto, or a number >= 0"),
    ("optimizer.lr", "a number > 0"),
    ("optimizer.betas", "a list of 2 items, each a number >= 0 and < 1"),
    ("optimizer.eps", "a number >= 0, or [null, or a number >= 0, a number >= 0]"),
    ("optimizer.etas", "[a number > 0 and < 1, a number > 1]"),
    ("scheduler.T_max", "a whole number >= 1, or a percentage of the run such as 30%"),
    ("scheduler.lr_lambda.warmup", "a whole number >= 0, or a percentage of the run such as 30%"),
    ("regularization.l2", "null, or a number >= 0"),
    ("regularization.l2_biases", "one of true, false"),
    ("training.early_stopping.patience", "null, or a whole number >= 1"),
    ("training.ema", "null, or a number > 0 and < 1"),
    ("training.compile", "one of true, false"),
    ("search.arm", "a word"),
    ("tracking.tags", "null, or a list of items, each a word of 1 to 64 characters"),
    ("training.none_such", None),
])  # fmt: skip
def test_rules_of_keys(key, says):
    rule = rules.rule(key)
    assert (rule and rule.says) == says


def test_a_glob_is_a_grid_over_a_group():
    configs, found = command.check_overrides(
        ["scheduler=glob(*)", "optimizer=glob(ada*)"], grid=True
    )
    assert not found
    options = [len([*command.CONF.glob(files)]) for files in ("scheduler/*", "optimizer/ada*")]
    assert len(configs) == math.prod(options) > 1


@pytest.mark.parametrize(("words", "fault"), [
    (["+loss.gamma=2"], "loss.gamma=2: loss=auto has no such key; it is one of focal"),
    (["+init.gain=2"], "init.gain=2: init=common has no such key; it is one of orthogonal, "),
    (["data=text_csv", "data.path=t.csv", "data.target=y"], "data.target=y: data=text_csv has no"),
])  # fmt: skip
def test_a_key_of_another_option_is_not_ignored(words, fault):
    _, faults = command.check_overrides(words)
    assert faults
    assert faults[0].startswith(fault)
