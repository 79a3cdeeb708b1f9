"""What each key of a config may hold: one table, read by config.check and by the error messages.

A key that is not here is checked against the signature of the `_target_` it goes to.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from knobs.schedulers import percent


@dataclass(frozen=True)
class Rule:
    """A test of one value and the words that say what passes it."""

    says: str
    accepts: Callable[[Any], bool]


def number(low: float = -math.inf, high: float = math.inf, ends: str = "[]") -> Rule:
    """A finite number between low and high; `ends` as in interval notation: `(]` leaves low out."""

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        above = value > low if ends[0] == "(" else value >= low
        below = value < high if ends[1] == ")" else value <= high
        return math.isfinite(value) and above and below

    bounds = [f"{'>' if ends[0] == '(' else '>='} {low:g}"] if math.isfinite(low) else []
    bounds += [f"{'<' if ends[1] == ')' else '<='} {high:g}"] if math.isfinite(high) else []
    return Rule(f"a number {' and '.join(bounds)}".strip(), accepts)


def whole(low: int, high: float = math.inf) -> Rule:
    """A whole number between low and high, both included."""
    words = f"a whole number >= {low}" + (f" and <= {high:g}" if math.isfinite(high) else "")
    return Rule(
        words, lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high
    )


def one_of(*options: Any) -> Rule:
    """One of the words (or values) given."""
    return Rule(
        "one of " + ", ".join("null" if o is None else str(o) for o in options),
        lambda v: any(v is o or (v == o and type(v) is type(o)) for o in options),
    )


def list_of(rule: Rule, size: int | None = None) -> Rule:
    """A list whose items all pass `rule`."""
    count = f"{size} items" if size else "items"
    return Rule(
        f"a list of {count}, each {rule.says}",
        lambda v: (
            isinstance(v, list)
            and (size is None or len(v) == size)
            and all(rule.accepts(item) for item in v)
        ),
    )


def either(*rules: Rule) -> Rule:
    """What any of the rules accepts."""
    return Rule(", or ".join(r.says for r in rules), lambda v: any(r.accepts(v) for r in rules))


def pair(first: Rule, second: Rule) -> Rule:
    """A list of two, each with a rule of its own."""
    return Rule(
        f"[{first.says}, {second.says}]",
        lambda v: (
            isinstance(v, list) and len(v) == 2 and first.accepts(v[0]) and second.accepts(v[1])
        ),
    )


null = one_of(None)
flag = one_of(True, False)
text = Rule("a word", lambda v: isinstance(v, str) and v != "")
filename = Rule(
    "a name of letters, digits, ., - and _",
    lambda v: type(v) in (str, int, float) and re.fullmatch(r"\w[\w.-]*", str(v)) is not None,
)
positive = number(0, ends="(]")
at_least_0 = number(0)
share = number(0, 1)
below_1 = number(0, 1, "[)")
some = number(0, 1, "()")
share_of_run = Rule(
    "a share of the run such as 30%", lambda v: percent(v) is not None and percent(v) <= 1
)
duration = either(whole(1), share_of_run)
warmup = either(whole(0), share_of_run)
width = either(whole(1), list_of(whole(1)), one_of("between", "two_thirds", "under_double"))
switch = either(flag, null)
gain = either(one_of("auto"), at_least_0)
clip = either(null, positive)

RULES: dict[str, Rule] = {
    "seed": whole(0, 2**63 - 1),
    "task": one_of("train", "preview"),
    "test": flag,
    "resume": either(null, text),
    "sweep": either(null, filename),
    "retry_failed": flag,
    "silence": list_of(text),
    "name": text,
    "objective.metric": text,
    "objective.mode": one_of("min", "max"),
    "data.name": text,
    "data.kind": one_of("table", "image", "text"),
    "data.task": one_of("classification", "regression"),
    "data.val": some,
    "data.test": some,
    "data.split_seed": whole(0),
    "data.root": text,
    "data.download": flag,
    "data.augment.crop": whole(0, 16),
    "data.augment.flip": flag,
    "data.size": whole(8),
    "data.memory_gib": at_least_0,
    "data.workers": whole(0),
    "data.path": text,
    "data.test_path": either(null, text),
    "data.target": text,
    "data.text": text,
    "data.label": text,
    "data.drop": list_of(text),
    "data.topics": whole(2),
    "data.words": whole(1),
    "data.ngrams": whole(1, 3),
    "data.max_length": whole(1),
    "data.max_vocabulary": whole(1),
    "data.min_count": whole(1),
    "model.name": text,
    "model.inputs": list_of(one_of("table", "image", "text")),
    "model.width": width,
    "model.depth": whole(0),
    "model.convs": either(whole(1), list_of(whole(1))),
    "model.bias": flag,
    "model.embedding_dim": whole(1),
    "model.kernel_sizes": list_of(whole(1)),
    "model.heads": whole(1),
    "model.bidirectional": flag,
    "activation.inplace": flag,
    "activation.negative_slope": number(),
    "activation.approximate": one_of("none", "tanh"),
    "activation.alpha": positive,
    "activation.num_parameters": whole(1),
    "activation.init": number(),
    "activation.beta": positive,
    "activation.threshold": positive,
    "init.gain": gain,
    "init.linear.gain": gain,
    "init.conv.a": number(),
    "init.conv.mode": one_of("fan_in", "fan_out"),
    "init.conv.nonlinearity": text,
    "init.a": number(),
    "init.b": number(),
    "init.val": number(),
    "init.mean": number(),
    "init.std": at_least_0,
    "init.mode": one_of("fan_in", "fan_out"),
    "init.nonlinearity": text,
    "init.tolerance": positive,
    "init.max_iters": whole(1),
    "init.path": text,
    "init.layers": either(null, list_of(text)),
    "optimizer.lr": positive,
    "optimizer.betas": list_of(below_1, 2),
    "optimizer.eps": either(at_least_0, pair(either(null, at_least_0), at_least_0)),
    "optimizer.adamw_eps": at_least_0,
    "optimizer.weight_decay": at_least_0,
    "optimizer.momentum": below_1,
    "optimizer.dampening": share,
    "optimizer.nesterov": flag,
    "optimizer.amsgrad": flag,
    "optimizer.lr_decay": at_least_0,
    "optimizer.initial_accumulator_value": at_least_0,
    "optimizer.rho": share,
    "optimizer.alpha": share,
    "optimizer.centered": flag,
    "optimizer.momentum_decay": at_least_0,
    "optimizer.decoupled_weight_decay": flag,
    "optimizer.beta2_decay": number(high=0),
    "optimizer.d": number(1),
    "optimizer.lambd": at_least_0,
    "optimizer.t0": at_least_0,
    "optimizer.etas": pair(some, number(1, ends="(]")),
    "optimizer.step_sizes": list_of(positive, 2),
    "optimizer.max_iter": whole(1),
    "optimizer.max_eval": either(null, whole(1)),
    "optimizer.tolerance_grad": at_least_0,
    "optimizer.tolerance_change": at_least_0,
    "optimizer.history_size": whole(1),
    "optimizer.line_search_fn": one_of(None, "strong_wolfe"),
    "optimizer.ns_coefficients": list_of(number(), 3),
    "optimizer.ns_steps": whole(1, 99),
    "optimizer.adjust_lr_fn": one_of(None, "original", "match_rms_adamw"),
    "optimizer.warmup_steps": whole(0),
    "optimizer.r": at_least_0,
    "optimizer.weight_lr_power": at_least_0,
    "optimizer.foreach": switch,
    "optimizer.fused": switch,
    "optimizer.maximize": flag,
    "optimizer.capturable": flag,
    "optimizer.differentiable": flag,
    "scheduler.interval": one_of("epoch", "step"),
    "scheduler.factor": positive,
    "scheduler.gamma": positive,
    "scheduler.step_size": duration,
    "scheduler.milestones": list_of(duration),
    "scheduler.T_max": duration,
    "scheduler.T_0": duration,
    "scheduler.T_mult": whole(1),
    "scheduler.eta_min": at_least_0,
    "scheduler.total_iters": either(whole(0), share_of_run),
    "scheduler.total_steps": duration,
    "scheduler.start_factor": number(0, 1, "(]"),
    "scheduler.end_factor": share,
    "scheduler.power": at_least_0,
    "scheduler.max_lr": positive,
    "scheduler.base_lr": at_least_0,
    "scheduler.pct_start": share,
    "scheduler.anneal_strategy": one_of("cos", "linear"),
    "scheduler.cycle_momentum": flag,
    "scheduler.base_momentum": share,
    "scheduler.max_momentum": share,
    "scheduler.div_factor": positive,
    "scheduler.final_div_factor": positive,
    "scheduler.three_phase": flag,
    "scheduler.step_size_up": duration,
    "scheduler.step_size_down": either(null, duration),
    "scheduler.mode": one_of("min", "max", "triangular", "triangular2", "exp_range"),
    "scheduler.monitor": text,
    "scheduler.patience": whole(0),
    "scheduler.threshold": at_least_0,
    "scheduler.threshold_mode": one_of("rel", "abs"),
    "scheduler.cooldown": whole(0),
    "scheduler.min_lr": at_least_0,
    "scheduler.eps": at_least_0,
    "scheduler.lr_lambda.rate": positive,
    "scheduler.lr_lambda.factor": positive,
    "scheduler.lr_lambda.warmup": warmup,
    "scheduler.lr_lambda.total": duration,
    "scheduler.lr_lambda.decay": warmup,
    "scheduler.lr_lambda.floor": share,
    "regularization.dropout": below_1,
    "regularization.norm": one_of(None, "batch", "layer"),
    "regularization.l1": at_least_0,
    "regularization.l2": either(null, at_least_0),
    "regularization.l2_biases": flag,
    "regularization.label_smoothing": below_1,
    "regularization.mixup": at_least_0,
    "training.epochs": whole(1),
    "training.batch_size": whole(1),
    "training.drop_last": flag,
    "training.early_stopping.patience": either(null, whole(1)),
    "training.early_stopping.min_delta": at_least_0,
    "training.clip_norm": clip,
    "training.clip_value": clip,
    "training.accumulate": whole(1),
    "training.ema": either(null, some),
    "training.precision": one_of("fp32", "bf16"),
    "training.compile": flag,
    "training.channels_last": flag,
    "training.device": text,
    "training.threads": either(null, whole(1)),
    "training.deterministic": flag,
    "training.checkpoint": flag,
    "search.method": one_of(
        *("auto", "best", "random", "sobol", "tpe", "gp", "cmaes", "grid"),
    ),
    "search.runs": either(null, whole(1)),
    "search.epochs": either(null, whole(1)),
    "search.minutes": either(null, positive),
    "search.width": whole(1),
    "search.pruner": one_of("auto", "asha", "hyperband", "none"),
    "search.seed": whole(0),
    "search.arm": Rule("a word", lambda v: isinstance(v, str)),
    "tracking.mode": one_of("auto", "online", "offline", "disabled"),
    "tracking.project": text,
    "tracking.entity": either(null, text),
    "tracking.group": either(null, text),
    "tracking.tags": list_of(
        Rule("a word of 1 to 64 characters", lambda v: isinstance(v, str) and 0 < len(v) <= 64)
    ),
    "tracking.run_name": text,
    "tracking.artifact": flag,
    "tracking.timeout": positive,
}
