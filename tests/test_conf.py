"""A contract over every YAML in conf/: it explains itself, its values are ruled, it trains."""

import inspect
import math
from pathlib import Path

import fake_sets
import numpy as np
import pytest
import tiny_networks
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from knobs import build, targets
from knobs.config import command, rules
from knobs.config.manual import default_options, first_comment
from knobs.identity import differences
from knobs.search.methods import METHODS

CONF = command.CONF
read_data = build.data
FILES = sorted(CONF.rglob("*.yaml"))
GROUPS = [g for g, option in default_options().items() if g != "search" and option != "null"]
OPTIONS = [(g, p.stem) for g in GROUPS for p in sorted((CONF / g).glob("*.yaml"))]
# What an option needs beside itself to train for an epoch.
ALSO = {
    "lbfgs": ["training.batch_size=256"],
    "wandb": ["tracking.mode=disabled"],
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CONF)))
def test_a_yaml_opens_with_its_help(path):
    lines = path.read_text().splitlines()
    first = first_comment(path)
    assert lines[0].startswith("# "), "the first line is the option's help"
    assert 10 < len(first) <= 100


@pytest.mark.parametrize(
    "group", ["optimizer", "activation", "init", "scheduler", "model", "regularization", "loss"]
)
def test_an_option_names_its_source(group):
    for path in (CONF / group).glob("*.yaml"):
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert "Source" in " ".join(head) or path.stem == "none", path


def test_the_search_methods_are_those_there_are():
    assert rules.rule("search.method").says == "one of " + ", ".join(METHODS)


KEYS = [
    (group, option, path, default)
    for path, places in rules.read(CONF).items()
    for option, (default, _) in places.items()
    if default and (group := path.split(".")[0]) in GROUPS and "._" not in path
]


@pytest.mark.parametrize(("group", "option", "path", "default"), KEYS, ids=lambda x: x)
def test_every_key_has_a_rule_that_its_default_passes(group, option, path, default):
    """By its comment, or by the signature of the target it goes to."""
    rule = rules.rule(path, {group: option})
    if rule is None:
        section, _, name = path.rpartition(".")
        target = targets.resolve(section, rules.read(CONF)[f"{section}._target_"][option][0])
        rule = rules.of_type(inspect.signature(target).parameters[name].annotation)
    assert rule.says != rules.anything.says
    if default[0] not in "$?":
        assert rule.accepts(OmegaConf.to_container(OmegaConf.create(f"x: {default}"))["x"])


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Overrides that point each option at data of its own."""
    from knobs.torchvision_shim import torchvision

    def prepare(group, option):
        sets, at = torchvision.datasets, f"{group}/{option}"
        extra = list(ALSO.get(option, []))
        if group == "model":
            inputs = yaml.safe_load((CONF / "model" / f"{option}.yaml").read_text())["inputs"]
            text = ["data=python_docs", "data.max_length=16"]
            extra += ["training.batch_size=256", *(text if inputs == ["text"] else [])]
        if at == "model/timm":
            pytest.importorskip("timm", reason="the extra `timm` is not installed")
            extra += ["model.architecture=test_resnet"]
        elif at == "model/transformers":
            tiny_networks.network("bert", tmp_path)
            extra += [f"model.folder={tmp_path}"]
        if at == "regularization/none":
            extra += ["data=diabetes"]
        if group == "loss":
            extra += fitting(option)
            if "data.task=multilabel" in extra:
                rows = "".join(f"{i % 7},{i % 2},{int(i % 3 == 0)}\n" for i in range(60))
                (tmp_path / "labels.csv").write_text("x,odd,third\n" + rows)
                extra += [f"data.path={tmp_path / 'labels.csv'}"]
        if at == "data/mnist":
            fake_sets.write_mnist(sets.MNIST, tmp_path, monkeypatch)
            extra += [f"data.root={tmp_path}", "data.val=0.2"]
        elif at == "data/fashion_mnist":
            fake_sets.write_mnist(sets.FashionMNIST, tmp_path, monkeypatch)
            extra += [f"data.root={tmp_path}", "data.val=0.2"]
        elif at == "data/cifar10":
            fake_sets.write_cifar(sets.CIFAR10, tmp_path, monkeypatch, 10)
            extra += [f"data.root={tmp_path}", "model=cnn", "data.val=0.2"]
        elif at == "data/cifar100":
            fake_sets.write_cifar(sets.CIFAR100, tmp_path, monkeypatch, 100)
            extra += [f"data.root={tmp_path}", "model=cnn", "data.val=0.2"]
        elif at == "data/image_folder":
            write_images(tmp_path / "images")
            extra += [f"data.root={tmp_path / 'images'}", "model=cnn"]
        elif at == "data/csv":
            rows = "".join(f"{i % 7},{'ab'[i % 2]},{i % 3}\n" for i in range(60))
            (tmp_path / "t.csv").write_text("x,c,y\n" + rows)
            extra += [
                f"data.path={tmp_path / 't.csv'}",
                "data.target=y",
                "data.task=classification",
            ]
        elif at == "data/arrays":
            x = np.arange(180.0).reshape(60, 3) % 7
            np.savez(tmp_path / "a.npz", x=x, y=np.arange(60) % 2)
            extra += [f"data.path={tmp_path / 'a.npz'}", "data.task=classification"]
        elif at in ("data/text_csv", "data/python_docs"):
            rows = "".join(f"word{i % 5} again,{'ab'[i % 2]}\n" for i in range(60))
            (tmp_path / "t.csv").write_text("text,label\n" + rows)
            extra += ["model=text_bag"]
            extra += [f"data.path={tmp_path / 't.csv'}"] if option == "text_csv" else []
        elif at == "init/tensor":
            shapes = {"hidden.0": (64, 64), "hidden.2": (64, 64), "head": (10, 64)}
            weights = {f"{k}.weight": torch.randn(s) for k, s in shapes.items()}
            weights |= {f"{k}.bias": torch.zeros(s[0]) for k, s in shapes.items()}
            save_file(weights, tmp_path / "w.safetensors")
            extra += [f"init.path={tmp_path / 'w.safetensors'}"]
        return extra

    return prepare


def fitting(loss):
    """Overrides that give a loss data of its task."""
    [task, *_] = yaml.safe_load((CONF / "loss" / f"{loss}.yaml").read_text())["tasks"]
    labels = ["data=csv", "data.task=multilabel", "data.target=[odd,third]", "data.path=labels.csv"]
    return {"regression": ["data=diabetes"], "multilabel": labels}.get(task, [])


def write_images(root: Path) -> None:
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (root / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (40, 36), tuple(c + i for c in colour)).save(root / name / f"{i}.png")


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda x: x)
def test_every_option_trains_an_epoch(group, option, inputs, train):
    """Records what it says: finite metrics of one epoch, the objective the best of them."""
    overrides = [f"{group}={option}", *inputs(group, option), "training.epochs=1"]
    outcome = train(*overrides)
    assert outcome.status == "finished"
    assert outcome.summary["epochs"] == 1
    assert all(math.isfinite(v) for v in outcome.summary["metrics"].values())
    assert outcome.value == outcome.summary["metrics"][outcome.summary["objective"]["metric"]]


def test_an_option_changes_only_its_own_group():
    """conf/ has no option that moves another group's values behind the user's back."""
    local = ["tracking=local"]  # composed already, where each option trains an epoch
    base = command.checked(local)
    for group, option in OPTIONS:
        if group in ("data", "model", "tracking") or option == "tensor":
            continue  # these rename the run or need values
        needs = fitting(option) if group == "loss" else []
        other = command.checked([*local, f"{group}={option}", *needs])
        other_base = command.checked([*local, *needs]) if needs else base
        moved = {p.split(".")[0] for p in differences(other_base, other)}
        linked = {"optimizer"} if group == "regularization" else {"scheduler"}
        assert moved <= {group} | linked, (group, option)


def test_regularization_options_hold_the_same_keys_and_compose():
    keys = {
        o: set(command.checked([f"regularization={o}"])["regularization"])
        for g, o in OPTIONS
        if g == "regularization"
    }
    assert len(set(map(frozenset, keys.values()))) == 1
    both = command.checked(["regularization=dropout", "regularization.l2=1e-4"])
    assert both["regularization"]["dropout"] == 0.2
    assert both["optimizer"]["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "experiment").glob("*.yaml")))
def test_experiments_compose(name):
    plain = command.checked([f"experiment={name}"])
    assert plain["name"] != "digits-mlp-adam"


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "study").glob("*.yaml")))
def test_studies_compose(name):
    """Each composes, and asks for runs; `confirm` says what it needs."""
    _, faults = command.check_overrides(
        [f"+study={name}", "hydra/sweeper=search", "tracking=local"], grid=True
    )
    assert all("study.walk" in fault for fault in faults), faults
    assert bool(faults) == (name == "confirm")
