"""Values that are each allowed and do not go together."""

from collections.abc import Iterator
from pathlib import Path

from knobs.identity import public

METRICS = {
    "classification": ("val/loss", "val/accuracy", "val/f1"),
    "regression": ("val/loss", "val/r2", "val/rmse", "val/mae"),
}


def conflicts(config: dict) -> list[str]:
    """Return a line for each pair of incompatible values, naming the one to change."""
    return [f"{path}={value}: {why}" for path, value, why in _conflicts(config)]


def _conflicts(config: dict) -> Iterator[tuple[str, object, str]]:
    data, model, reg = config["data"], config["model"], config["regularization"]
    optimizer, scheduler, training = config["optimizer"], config["scheduler"], config["training"]
    name, kind, task = data["name"], data["kind"], data["task"]

    if kind not in model["inputs"]:
        reads = " or ".join(model["inputs"])
        yield (
            "model",
            model["name"],
            f"reads {reads}, and data={name} is {kind}; choose another model",
        )
    for path, metric in (
        ("objective.metric", config["objective"]["metric"]),
        ("scheduler.monitor", scheduler.get("monitor")),
    ):
        if metric is not None and metric not in METRICS[task]:
            yield path, metric, f"a {task} run has {', '.join(METRICS[task])}"
    if scheduler.get("monitor") and scheduler["interval"] != "epoch":
        yield "scheduler.interval", "step", "the metric is measured once an epoch; use epoch"

    smoothing, mixing, l2 = reg["label_smoothing"], reg["mixup"], reg["l2"]
    if task == "regression" and smoothing:
        why = f"needs classes, and {name} is a regression; set it to 0"
        yield "regularization.label_smoothing", smoothing, why
    if kind == "text" and mixing:
        yield "regularization.mixup", mixing, "cannot mix words; set it to 0 for text"
    if l2 is not None and "weight_decay" not in optimizer:
        why = f"{optimizer['_target_']} takes no weight decay; choose another optimizer, or l2=null"
        yield "regularization.l2", l2, why
    elif l2 is not None and l2 != optimizer["weight_decay"]:
        other = f"optimizer.weight_decay={optimizer['weight_decay']}"
        yield "regularization.l2", l2, f"and {other} are the same knob; set one of them"
    if "heads" in model and model["embedding_dim"] % model["heads"]:
        why = f"must divide model.embedding_dim={model['embedding_dim']}"
        yield "model.heads", model["heads"], why

    if public(config["name"]) != config["name"]:
        yield "name", "<hidden>", "holds a secret, and names folders and logs; choose another"
    if data.get("val", 0) + data.get("test", 0) >= 1:
        yield "data.val", data["val"], f"with data.test={data['test']} nothing is left to train on"
    path = config["init"].get("path")
    if path and not Path(path).is_file():
        yield "init.path", path, "no such file"
    if training["accumulate"] > training["batch_size"]:
        why = f"more microbatches than training.batch_size={training['batch_size']} examples"
        yield "training.accumulate", training["accumulate"], why
