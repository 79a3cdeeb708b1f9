"""A checked config and its data -> a Run at its first step."""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from knobs import build, losses, metrics, rng, targets
from knobs.config.conflicts import MAX_STEPS, has_single
from knobs.data import Data, take
from knobs.data.dataset import Inputs, each
from knobs.errors import ConfigError, DataError, first_line, making
from knobs.models.members import Members
from knobs.targets import make
from knobs.training import features, starts
from knobs.training.scores import SCORES, Score, ready, undefined
from knobs.training.state import Run, autocast

INIT_SAMPLE = 256  # training examples that a data-dependent init looks at


def assemble(config: dict, data: Data, device: torch.device) -> Run:
    """Build everything of a run, on its device.

    Raises:
        ConfigError: the data leave a batch that the model cannot take, or need other weights.
        DataError: data that the loss, the sampler or a metric cannot take.
    """
    training, seed, data = config["training"], config["seed"], data.origin
    config = config | {"objective": metrics.objective(config["objective"], class_counts(data))}
    loss, scores = build.loss(config, data), scores_of(config, data)
    _check_loss(loss, config, data)
    if config["test"] and not len(data.test):
        raise DataError("no example is left for the test split, which test=true reads; "
                        "change data.test")  # fmt: skip
    if training.get("sampler") == "balanced":
        losses.class_counts("training.sampler=balanced", data.train.y, data.classes)
    steps = steps_per_epoch(len(data.train), training)
    _check_lengths(config, steps)
    few = torch.arange(min(INIT_SAMPLE, len(data.train)), device=data.train.y.device)
    # On the CPU and in NCHW, wherever and however the data lie already.
    sample = each(take(data.train, few).x, lambda x: x.cpu().contiguous())
    start = starts.key(config, data.shape, device)
    copied = starts.known(start)
    networks = [] if copied is None else [copied]
    with making("the weights of the model", "a smaller model (model.width, model.depth) may fit"):
        # A config may be older than the key of members.
        for member in range(len(networks), training.get("members", 1)):
            rng.seed_global(rng.key(rng.member(seed, member), "init"), torch.device("cpu"))
            networks.append(build.untrained(config, data.shape))
            if not member and not config["model"]["_target_"].startswith("knobs."):
                _check_model(networks[0], sample, data.shape.outputs, config["model"]["_target_"])
            build.initialize(config, networks[-1], sample)
        model = networks[0] if len(networks) == 1 else Members(networks)
    _check_last_batch(networks[0], sample, training, len(data.train), steps)
    images = any(isinstance(module, nn.Conv2d) for module in model.modules())
    memory_format = torch.preserve_format
    if training["channels_last"] and images:
        memory_format = torch.channels_last
    model = model.to(device, memory_format=memory_format)
    drawn = torch.get_rng_state()
    optimizer = build.optimizer(config, model)
    interval = config["scheduler"]["interval"]
    total = training["epochs"] * (steps if interval == "step" else 1)
    average = None
    if training["ema"]:
        update = get_ema_multi_avg_fn(training["ema"])
        average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    how = autocast(training, device)
    cut, placed, said = features.of(config, model, data, device, memory_format, how)
    if cut:
        starts.keep(start, model, cut.backbone, drawn)
    else:
        if copied is not None:
            starts.unshared(model)
        with making(f"the {len(data.train):,} training rows on {device}", "fewer rows may fit"):
            placed = data.to(device, memory_format)
    live = cut.live(model) if cut else model
    return Run(
        model=model,
        data=placed,
        optimizer=optimizer,
        scheduler=build.scheduler(config, optimizer, total),
        training=training,
        objective=config["objective"],
        device=device,
        seed=seed,
        interval=interval,
        monitor=config["scheduler"].get("monitor"),
        regularization=config["regularization"],
        average=average,
        forward=torch.compile(live) if training["compile"] else None,
        loss=loss.to(next(model.parameters())),
        scores=scores,
        cut=cut,
        features=said,
    )


def class_counts(data: Data) -> list[int]:
    """Return the training examples of each class; nothing where there are no classes.

    With folds those of all folds, so that they agree on the objective.
    """
    if data.task != metrics.CLASSES:
        return []
    y = data.train.y if data.all_y is None else data.all_y
    return y.bincount(minlength=len(data.classes)).tolist()


def scores_of(config: dict, data: Data) -> dict[str, Score]:
    """Return name -> function of the metrics that are computed because the config names them.

    Raises:
        DataError: one has no value on the validation split, whatever the model.
    """
    own = (config.get("metrics") or {}).get("own") or {}
    named = metrics.asked(config)
    for name, by in named.items():
        if len(data.val) and (why := undefined(name, data.val.y, data.shape.outputs, data.classes)):
            raise DataError(f"{by}: {why}")
    wanted = metrics.unusual(named)
    ready(wanted)
    return {
        name: make(f"metrics.own.{name}", own[name]) if name in own else SCORES[data.task][name]
        for name in wanted
    }


def _check_model(model: nn.Module, sample: Inputs, count: int, target: str) -> None:
    """Try a copy of a network of one's own on two examples; nothing is drawn that a run draws.

    Args:
        count: numbers that it must give for each.

    Raises:
        ConfigError: it raises, gives anything else, or has nothing to train.
    """
    few = each(sample, lambda x: x[:2])
    rows = len(next(iter(few.values())) if isinstance(few, dict) else few)
    field, must = f"model._target_={target}", f"must return a tensor (N, {count}) of a batch of N"
    for training in (True, False) if rows > 1 else (False,):
        with targets.blame("model", target, ConfigError), torch.random.fork_rng([]):
            outputs = copy.deepcopy(model).train(training)(few)
        if not isinstance(outputs, torch.Tensor):
            raise ConfigError(f"{field}: returned a {type(outputs).__name__}; {must}")
        if outputs.shape != (rows, count) or not outputs.is_floating_point():
            kind = f"{tuple(outputs.shape)}, {outputs.dtype}"
            raise ConfigError(f"{field}: returned {kind} for {rows} examples; {must}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"{field}: has no weights to train")


def _check_loss(loss: losses.Loss, config: dict, data: Data) -> None:
    """Try a loss of one's own on the first examples: it must give a value for each.

    Raises:
        ConfigError: it does not.
    """
    if not loss.by_row:
        return
    y = data.train.y[:2].cpu()
    outputs = torch.zeros(len(y), data.shape.outputs)
    fault = f"loss._target_={config['loss']['_target_']}: must return a value per example"
    try:
        values = loss.values(outputs, y)
    except Exception as error:  # code of one's own raises anything
        raise ConfigError(
            f"{fault}; it raised {type(error).__name__}: {first_line(error)}"
        ) from None
    if not isinstance(values, torch.Tensor) or values.shape != (len(y),):
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise ConfigError(f"{fault}, of shape ({len(y)},) for {len(y)} examples; got {shape}")


def steps_per_epoch(examples: int, training: dict) -> int:
    """Count the optimizer steps in one pass over the training split."""
    full, left = divmod(examples, training["batch_size"])
    return full + (1 if left and not training["drop_last"] else 0)


def _check_lengths(config: dict, steps: int) -> None:
    """Refuse more steps than a run can make, and a cycle that ends before the run.

    Args:
        steps: of an epoch.
    """
    epochs, scheduler = config["training"]["epochs"], config["scheduler"]
    if (total := steps * epochs) > MAX_STEPS:
        many = f"{total:,} optimizer steps, more than {MAX_STEPS:,}; use fewer"
        raise ConfigError(f"training.epochs={epochs}: {many}")
    ends, interval = scheduler.get("total_steps"), scheduler["interval"]
    total = total if interval == "step" else epochs
    if isinstance(ends, int) and ends < total:
        late = f"ends before the run, which has {total:,} {interval}s; use 100%"
        raise ConfigError(f"scheduler.total_steps={ends}: {late}")


def _check_last_batch(
    model: nn.Module, sample: Inputs, training: dict, examples: int, steps: int
) -> None:
    """Refuse an epoch without a batch, and a microbatch of 1 that a network cannot take."""
    size, count = training["batch_size"], training["gradient_accumulation_steps"]
    last = 0 if training["drop_last"] else examples % size
    full, left = examples >= size and has_single(size, count), last and has_single(last, count)
    if not steps:
        trouble, mend = "no full batch", "false"
    elif not (full or left) or _takes_one(model, sample):
        return
    elif full:
        raise ConfigError(
            f"training.gradient_accumulation_steps={count}: of training.batch_size={size} has a "
            "microbatch of one example, which batch norm cannot take"
        )
    else:
        parts = f", in {count} microbatches one of 1" * (last > 1)
        trouble, mend = f"a last batch of {last}{parts}, which batch norm cannot take", "true"
    raise ConfigError(
        f"training.batch_size={size}: {examples} training examples leave {trouble}; change it, or "
        f"training.drop_last={mend}"
    )


def _takes_one(model: nn.Module, sample: Inputs) -> bool:
    """Return whether a model trains on a batch of one example: over a picture batch norm can."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    if not any(isinstance(module, batch_norms) for module in model.modules()):
        return True
    try:
        with torch.no_grad():
            where = next(model.parameters()).device  # a network that was built before is there
            copy.deepcopy(model).train()(each(sample, lambda x: x[:1].to(where)))
    except ValueError:  # "Expected more than 1 value per channel when training"
        return False
    return True


@contextlib.contextmanager
def machine(training: dict) -> Iterator[torch.device]:
    """Enter the device, with threads and determinism as asked; put both back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    switch = training["deterministic"] != deterministic  # else unasked: it imports the compiler
    torch.set_num_threads(training["threads"] or threads)
    try:
        if switch:
            torch.use_deterministic_algorithms(not deterministic)
        yield build.device(training["device"])
    finally:
        torch.set_num_threads(threads)
        if switch:
            torch.use_deterministic_algorithms(deterministic)
