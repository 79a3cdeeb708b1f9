"""Runs that may share a stack, by their configs alone. Imports no torch.

What a config does not say, the data of its splits and what a stack costs, is in kin.py and
groups.py; a driver that hands groups of jobs to workers has neither.
"""

import functools
import json

from omegaconf import OmegaConf

from knobs.config import rules
from knobs.config.conflicts import through_whole
from knobs.regularization import PENALTIES
from knobs.targets import OWN_KEYS

# Optimizers whose update is proportional to the learning rate: stack/optimizers.py relies on it.
LINEAR_IN_LR = (
    *("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"),
)
STACKABLE = {f"torch.optim.{name}" for name in LINEAR_IN_LR}
STACKABLE |= {f"torch.optim.{name.lower()}.{name}" for name in LINEAR_IN_LR}
STACKABLE |= {"knobs.optimizers.Muon"}  # each matrix by itself: stack/muon.py
# Whose rows step one by one: an update that is not proportional to the rate, or mixes weights.
BY_ROW = {f"torch.optim.{name}" for name in ("ASGD", "Rprop", "Adafactor")}
BY_ROW |= {"schedulefree.AdamWScheduleFree"}
# Of these models rows of one stack may differ in their activation, where it is one of these: of a
# convolution's each kind of row would have to be copied out of a layout that all share.
ANY_ACTIVATION = {"knobs.models.mlp.mlp", "knobs.models.tabular.tabular"}
ACTIVATIONS = (
    *("Identity", "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish"),
    *("Softplus", "Sigmoid", "LogSigmoid", "Tanh", "Softsign", "Tanhshrink", "Hardtanh"),
    *("Hardsigmoid", "Hardswish", "Hardshrink", "Softshrink", "Threshold"),
)
MIXED = {f"torch.nn.{name}" for name in ACTIVATIONS}
# What rows of one stack may differ in, beside everything outside these sections, and what they
# share. A key that is in neither, and is not off, makes its run train alone.
FREE = {
    "training": (
        *("epochs", "sampler", "early_stopping", "clip_norm", "clip_value", "checkpoint"),
        *("zero_head", "keep"),
    ),
    "regularization": (*PENALTIES, "dropout", "l2", "l2_biases", "label_smoothing", "mixup"),
}
ALIKE = {
    "training": (
        *("batch_size", "drop_last", "gradient_accumulation_steps", "precision", "channels_last"),
        *("device", "threads", "deterministic", "members", "ema", "processes"),
    ),
    "regularization": ("norm",),
}
OFF = {"training": "training/default", "regularization": "regularization/none"}  # every knob is off
SHARED = ("data", "model", "activation", "loss", "regularization", "training")
SPLIT = ("fold", "split_seed", "val_seed")  # keys of `data` in which the rows of a stack may differ


def alone(config: dict) -> str:
    """Say why a run cannot be a row of a stack; empty if nothing in its config is against it."""
    optimizer = config["optimizer"]
    name = optimizer["_target_"].rpartition(".")[2]
    if optimizer["_target_"] not in STACKABLE | BY_ROW:
        return f"{name}'s update is not proportional to the learning rate, or mixes weights"
    for switch in ("maximize", "differentiable", "capturable"):
        if optimizer.get(switch):
            return f"optimizer.{switch}=true has no stacked form"
    for key in sorted(OWN_KEYS["optimizer"]):
        if optimizer.get(key):
            return f"optimizer.{key} is not known to stacks"
    if config["model"].get("freeze") and (why := through_whole(config)):
        return f"what is frozen computes at each step: {why}"
    for section in FREE:
        for key in sorted(config[section].keys() - {*FREE[section], *ALIKE[section]}):
            value, off = config[section][key], _off(section)
            if value != off[key] if key in off else value:
                return f"{section}.{key} is not known to stacks"
    return ""


def activation(config: dict) -> str:
    """Return a run's activation where others of its stack may have another; else empty."""
    mixed = config["activation"].get("_target_") in MIXED
    if mixed and config["model"].get("_target_") in ANY_ACTIVATION:
        return json.dumps(config["activation"], sort_keys=True)
    return ""


@functools.cache
def _off(section: str) -> dict:
    """Return a section with every knob at its neutral value."""
    return OmegaConf.to_container(OmegaConf.load(rules.CONF / f"{OFF[section]}.yaml"))


def shared(config: dict) -> str:
    """Return what the configs of one stack have in common, as a text to compare.

    Their data may differ in the split: see kin.py. In common is whether they drop anything as well:
    masks take time, which runs without need not share.
    """
    free = FREE | {"data": SPLIT}
    if activation(config):
        free |= {"activation": tuple(config["activation"])}
    parts: dict[str, object] = {
        section: {
            k: v for k, v in config.get(section, {}).items() if k not in free.get(section, ())
        }
        for section in SHARED
    }
    parts["drops"] = config["regularization"]["dropout"] > 0
    if (optimizer := config["optimizer"]["_target_"]) in BY_ROW:
        parts["optimizer"] = optimizer  # whose steps take a time of their own
    return json.dumps(parts, sort_keys=True)
