"""One resolved config -> values that do not go together, or that no machine can do."""

import itertools
import os
from collections.abc import Iterator

from knobs import metrics, targets
from knobs.config.rules import show
from knobs.errors import did_you_mean
from knobs.secrets import public

# Optimizers of these but LBFGS treat each weight alone, so one steps all members of a run.
TREATS_WEIGHTS_ALONE = ("torch.optim.", "knobs.optimizers.", "schedulefree.")
MAX_STEPS = 10**9  # of an optimizer in one run
WEIGHT_BYTES, MODULE_BYTES = 8, 4096  # a weight and its gradient in float32; a layer's objects
WORDS = {"ngrams": 1, "min_count": 1, "max_vocabulary": 20_000}  # keys of `data`, of words alone
SURELY_FITS = 2**28  # bytes that are not worth a look at what is free

# Of several processes in a sweep.
ONE_PROCESS = (
    "training.processes={}: a run of a sweep has one process; leave it out, a sweep trains its "
    "runs side by side"
)


def has_single(size: int, count: int) -> bool:
    """Return whether a batch in at most `count` parts, as torch.chunk cuts it, has one of 1."""
    part = -(-size // count)
    return part == 1 or size % part == 1


def conflicts(config: dict) -> Iterator[str]:
    """Yield a line for each pair of incompatible values, naming the one to change."""
    data, model, reg = config["data"], config["model"], config["regularization"]
    optimizer, scheduler, training = config["optimizer"], config["scheduler"], config["training"]
    name, kind, task = data["name"], data["kind"], data["task"]

    if kind not in model["inputs"]:
        reads = f"reads {' or '.join(model['inputs'])}, and data={name} is {kind}"
        yield f"model={model['name']}: {reads}; choose another model"
    yield from tokenizer_faults(data, model)
    yield from metric_faults(config)
    yield from loss_faults(config)
    if scheduler.get("monitor") and scheduler["interval"] != "epoch":
        yield "scheduler.interval=step: the metric is measured once an epoch; use epoch"

    yield from target_faults(data)

    smoothing, mixing, l2 = reg["label_smoothing"], reg["mixup"], reg["l2"]
    if task != "classification" and smoothing:
        needs = f"needs classes, and {name} is a {task}; set it to 0"
        yield f"regularization.label_smoothing={smoothing}: {needs}"
    if task != "classification" and (sampler := training["sampler"]) == "balanced":
        needs = f"needs classes, and {name} is a {task}; use shuffle"
        yield f"training.sampler={sampler}: {needs}"
    if kind == "text" and mixing:
        yield f"regularization.mixup={mixing}: cannot mix words; set it to 0 for text"
    if l2 is not None and "weight_decay" not in optimizer:
        lacks = f"{optimizer['_target_']} takes no weight decay"
        yield f"regularization.l2={l2}: {lacks}; choose another optimizer, or l2=null"
    elif l2 is not None and l2 != optimizer["weight_decay"]:
        other = f"optimizer.weight_decay={optimizer['weight_decay']}"
        yield f"regularization.l2={l2}: and {other} are the same knob; set one of them"
    if "heads" in model and (dim := model["embedding_dim"]) % model["heads"]:
        yield f"model.heads={model['heads']}: must divide model.embedding_dim={dim}"

    if public(config["name"]) != config["name"]:
        yield "name=<hidden>: holds a secret, and names folders and logs; choose another"
    if (val := data.get("val", 0)) + (test := data.get("test", 0)) >= 1:
        yield f"data.val={val}: with data.test={test} nothing is left to train on"
    yield from fold_faults(data)
    path = config["init"].get("path")
    if path and not os.path.isfile(path):
        yield f"init.path={path}: no such file"
    if (count := training["gradient_accumulation_steps"]) > (size := training["batch_size"]):
        more = f"more microbatches than training.batch_size={size} examples"
        yield f"training.gradient_accumulation_steps={count}: {more}"
    if count > 1 and reg["norm"] == "batch" and has_single(size, count):
        more = f"of training.batch_size={size} has a microbatch of one example"
        yield f"training.gradient_accumulation_steps={count}: {more}, which batch norm cannot take"
    if (count := training["processes"]) > 1 and training["compile"]:
        yield f"training.processes={count}: cannot be compiled; use training.compile=false"
    if asked := augmented(config).get("transforms"):
        from knobs.data.augmenting import faults  # late, as all that needs torch

        yield from faults(asked)
    if data.get("normalize") == "weights" and not data.get("statistics"):
        lacks = "has no weights" if "architecture" in model else "brings no statistics of pictures"
        fault = f"model={model['name']} {lacks}; give model.weights=DEFAULT or a file, with "
        fault += "model=torchvision; or data.normalize=true"
        if "statistics" not in data:
            fault = f"data={name} takes no statistics of weights; choose data=image_folder, or true"
        yield f"data.normalize=weights: {fault}"
    if data.get("statistics") and data.get("normalize") != "weights":
        follows = "follows from data.normalize=weights; leave it out"
        yield f"data.statistics={data['statistics']}: {follows}"
    if data.get("size") == "weights" and data.get("normalize") != "weights":
        yield "data.size=weights: needs data.normalize=weights; or give a whole number >= 8"
    yield from member_conflicts(training, optimizer["_target_"])
    yield from tuning_conflicts(model, optimizer, scheduler)
    yield from size_faults(model, training)
    tracking = config["tracking"]
    yield from targets.resolve("tracking", tracking["_target_"]).faults(tracking)


def tokenizer_faults(data: dict, model: dict) -> Iterator[str]:
    """Yield a line where a network would get the tokens of another, or where a key counts for none.

    Its ids would be other words to it.
    """
    tokenizer, folder = data.get("tokenizer"), model.get("folder")
    if data["kind"] == "text" and folder and tokenizer != folder:
        key = "data.tokenizer" if "tokenizer" in data else "+data.tokenizer"
        yield f"{key}={show(tokenizer)}: model.folder={folder} knows its own; give {key}={folder}"
    for key, usual in WORDS.items():
        if tokenizer and data.get(key, usual) != usual:
            yield (
                f"data.{key}={show(data[key])}: is of words, and data.tokenizer={tokenizer} cuts "
                "the texts; leave it out"
            )


def fold_faults(data: dict) -> Iterator[str]:
    """Yield what is wrong with the fold that validates."""
    folds, fold = data.get("folds"), data.get("fold", 0)
    if fold == "all":
        how = f"python train.py -m data.folds={folds or 5} data.fold=all"
        yield f"data.fold=all: is a grid, with data.folds beside it: {how}; a search has one fold"
    elif fold and folds is None:
        yield f"data.fold={fold}: needs data.folds, how many there are; add data.folds=5"
    elif folds is not None and fold >= folds:
        yield f"data.fold={fold}: must be below data.folds={folds}; 0 .. {folds - 1}"


def target_faults(data: dict) -> Iterator[str]:
    """Yield a line for targets that contradict each other, the task, or what is left out."""
    key = next((key for key in ("label", "targets") if key in data), "target")
    target, task, weight = data.get(key), data["task"], data.get("weight")
    names = target if isinstance(target, list) else [target]
    given = f"data.{key}={show(target)}".replace("'", "")
    if "labels" in data and not data["labels"] and (task != "classification" or target):
        odd = given if task == "classification" else f"data.task={task}"
        yield f"{odd}: needs data.labels, a table of a row an image; folders are classes"
    elif isinstance(target, list):
        if len(names) < 2:
            yield f"{given}: a list is of two columns or more; one is data.{key}=COLUMN"
        elif task == "classification":
            many = "data.task=multilabel takes several columns of 0 and 1, regression of numbers"
            yield f"{given}: a classification has one target; {many}"
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{given}: {name} twice; name each column once"
    elif task == "multilabel" and data["_target_"].startswith("knobs."):
        columns = f"data.{key}=[A,B]" if key in data else "data=csv data.target=[A,B]"
        yield f"data.task=multilabel: needs a list of columns of 0 and 1: {columns}"
    for name in names:
        if name is not None and name in data.get("drop", ()):
            yield f"data.drop={name}: is a target; take it out of data.drop or of data.target"
        if name in [text.rpartition(":")[0] for text in data.get("columns", ())]:
            yield f"data.columns={name}: is a target; data.task says how it is read"
        if name is not None and data.get("split", "").partition(":")[2] == name:
            yield f"data.split={data['split']}: is a target; choose another column"
    if "text" in data and data["text"] in names:
        yield f"data.text={data['text']}: is what is predicted too; choose the column of texts"
    if weight is not None and weight in [*names, data.get("text")]:
        yield f"data.weight={weight}: has another part already; choose a column of weights"


def metric_faults(config: dict) -> Iterator[str]:
    """Yield metrics that the task does not have, and metrics of one's own that cannot be."""
    task, section = config["data"]["task"], config["metrics"]
    own = section.get("own") or {}
    has = [*metrics.of(task), *(f"val/{name}" for name in own)]
    for path, metric in metrics.watched(config).items():
        if metric not in has:
            near = did_you_mean(metric, has)
            yield f"{path}={metric}: a {task} run has {', '.join(has)}{near}"
    names = [metric.removeprefix("val/") for metric in has]
    for name in section["extra"]:
        if name not in names:
            near = did_you_mean(name, names)
            yield f"metrics.extra=[{name}]: a {task} run has {', '.join(names)}{near}"
    for name, node in own.items():
        if name in metrics.METRICS:
            yield f"metrics.own.{name}: is a metric of knobs; choose another name"
        elif not isinstance(node, dict) or "_target_" not in node:
            yield f"metrics.own.{name}: needs _target_, a function of (outputs, targets), and mode"
        elif node.get("mode") not in ("min", "max"):
            yield f"metrics.own.{name}.mode={show(node.get('mode'))}: must be one of min, max"
        elif not node.get("_partial_"):
            yield f"metrics.own.{name}._partial_: must be true, since knobs calls the function"


def loss_faults(config: dict) -> Iterator[str]:
    """Yield what of the loss the task, the smoothing or the weights do not fit."""
    loss, task, name = config["loss"], config["data"]["task"], config["data"]["name"]
    target = loss.get("_target_")
    called = target.rpartition(".")[2] if target else "auto"
    if task not in (fits := loss.get("tasks", metrics.TASKS)):
        fits = " or ".join(fits)
        yield f"loss={called}: is for {fits}, and {name} is a {task}; choose another, or loss=auto"
    if not target:
        return
    if not loss.get("_partial_"):
        yield "loss._partial_: must be true, since knobs calls the function"
    smoothing = config["regularization"]["label_smoothing"]
    takes = targets.signature(targets.resolve("loss", target)).parameters
    if smoothing and task == "classification" and "smoothing" not in takes:
        lacks = f"loss={called} takes no smoothing; set it to 0, or loss=cross_entropy"
        yield f"regularization.label_smoothing={smoothing}: {lacks}"
    weight = loss.get("weight")
    if isinstance(weight, list) and not any(weight):
        yield f"loss.weight={weight}: some class needs a weight above 0"


def member_conflicts(training: dict, optimizer: str) -> Iterator[str]:
    """Yield a line for each value that a run of several members cannot have."""
    if (count := training["members"]) == 1:
        return
    if training["compile"]:
        yield f"training.members={count}: cannot be compiled; use training.compile=false"
    mixes = optimizer == "torch.optim.LBFGS"
    if mixes or not optimizer.startswith(TREATS_WEIGHTS_ALONE):
        does = "mixes" if mixes else "may mix"
        remedy = "the members' weights; choose another optimizer"
        yield f"training.members={count}: {optimizer} {does} {remedy}"


def tuning_conflicts(model: dict, optimizer: dict, scheduler: dict) -> Iterator[str]:
    """Yield a line for each value of fine-tuning that would count for nothing."""
    if model.get("thaw") and not model.get("freeze"):
        yield f"model.thaw={model['thaw']}: nothing is frozen; give model.freeze=backbone as well"
    given = next((key for key in sorted(targets.OWN_KEYS["optimizer"]) if optimizer.get(key)), "")
    if not given:
        return
    asked = f"optimizer.{given}={optimizer[given]}"
    if "lr" not in optimizer and given == "layer_decay":
        yield f"{asked}: {optimizer['_target_']} has no lr; choose another optimizer"
    if optimizer["_target_"].endswith("LBFGS"):
        yield f"{asked}: LBFGS takes one rate for all weights; choose another optimizer"
    if absolute := next((key for key in ("max_lr", "base_lr") if key in scheduler), ""):
        sets = f"scheduler.{absolute} sets one rate for all weights; choose another scheduler"
        yield f"{asked}: {sets}"


def through_whole(config: dict) -> str:
    """Say why features of what is frozen cannot be computed once; empty if no value is against it.

    What a config does not say, the network and the data, is in training/features.py.
    """
    model, training = config["model"], config["training"]
    if model.get("cache", "auto") == "never":
        return "model.cache=never"
    if model.get("thaw"):
        return f"model.thaw={model['thaw']} trains it later"
    if alpha := config["regularization"]["mixup"]:
        return f"regularization.mixup={alpha} mixes its inputs"
    if drawn := [f"data.augment.{k}={show(v)}" for k, v in augmented(config).items() if v]:
        return f"{drawn[0]} changes its inputs"
    for key, none in {"members": 1, "processes": 1, "ema": None}.items():
        if training.get(key, none) != none:
            return f"training.{key}={training[key]}"
    return ""


def augmented(config: dict) -> dict:
    """Return what of the training examples is drawn anew each time."""
    return config["data"].get("augment") or {}


def missing_files(data: dict) -> Iterator[str]:
    """Yield a line for each file or folder that a data set names and that is not there.

    A run says so itself; a sweep asks before its first run.
    """
    for key in ("path", "test_path"):
        if (path := data.get(key)) and not os.path.exists(str(path)):
            yield f"data.{key}={path}: no such file or folder"
    if data.get("download") is False and not os.path.isdir(str(data.get("root", "."))):
        yield f"data.root={data['root']}: no such folder; data.download=true fetches the data"


def size_faults(model: dict, training: dict) -> Iterator[str]:
    """Yield what is too much to build or to wait for, by arithmetic: it is never tried."""
    if (epochs := training["epochs"]) > MAX_STEPS:
        yield f"training.epochs={epochs}: more than {MAX_STEPS:,} optimizer steps; use fewer"
    weights, modules = least_weights(model)
    needed = training["members"] * (WEIGHT_BYTES * weights + MODULE_BYTES * modules)
    if needed > SURELY_FITS and needed > (free := _free()):
        sizes = {f"model.{k}": model[k] for k in ("width", "depth", "embedding_dim") if k in model}
        sizes |= {"training.members": training["members"]} if training["members"] > 1 else {}
        named = " ".join(f"{key}={show(value)}" for key, value in sizes.items())
        gib = f"{needed / 2**30:,.1f}" if needed < 2**60 else f"{needed / 2**30:.0e}"
        needs = f"needs at least {gib} GiB for weights and gradients"
        yield f"{named}: {needs}, and {free / 2**30:,.1f} GiB are free; use a smaller one"


def least_weights(model: dict) -> tuple[float, int]:
    """Return a lower bound on a network's weights and modules, from its config alone."""
    width, depth = model.get("width"), model.get("depth", 1)
    dim, convolutional = model.get("embedding_dim", 1), "convs" in model
    if isinstance(width, list):
        pairs = [a * b for a, b in itertools.pairwise(width)]
        return sum(pairs) * (9 if convolutional else 1) + dim, len(width)
    if not isinstance(width, int):  # a rule that looks at the data, or none
        return dim, depth
    if convolutional:  # doubled a stage; the last one counts most
        return 9.0 * width * width * 4.0 ** min(depth, 400), depth
    if "heads" in model:
        return depth * (2.0 * width * dim + 4.0 * dim * dim), depth
    inner = 8.0 * width * (width + dim) if "bidirectional" in model else float(width) * width
    return max(0, depth - ("bidirectional" not in model)) * inner + float(width) * dim, depth


def _free() -> int:
    import torch  # late, as all that builds

    from knobs import build

    return build.free_memory(torch.device("cpu"))
