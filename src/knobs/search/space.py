"""The space of a search: knobs, their ranges, and arms with knobs of their own.

A knob is a Range of numbers, whose scale is always said, or a Choice. An arm is one value of what a
study asks about (an optimizer, say) with the knobs that go with it: Adam's learning rate is not
SGD's, so nothing is shared between arms. A plain search has one arm, named "".

Two ways in: a study's YAML, and Hydra's sweep overrides. Methods see a point of the unit cube, a
coordinate a knob.
"""

import contextlib
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knobs.errors import ConfigError
from knobs.shell import quoted

DIGITS = 4  # of a float that a search proposes: what is run can be read and typed
MAX_INTEGER = 2**53  # beyond it not every whole number is a float
SCALES = {"log": True, "linear": False}
# Of knobs by the last part of their key: on which scale equal steps matter equally.
USUAL_SCALES = dict.fromkeys(
    ("lr", "weight_decay", "l1", "l2", "eps", "batch_size", "width", "embedding_dim", "clip_norm"),
    "log",
) | dict.fromkeys(("dropout", "label_smoothing", "mixup", "depth", "momentum", "seed"), "linear")
WHOLE = ("batch_size", "width", "embedding_dim", "depth", "seed")
MOST_CHOICES = 1000  # of a range that falls
NO_RANGE = "a range needs a finite start and stop, and a step other than 0"
MODES = ("max", "min")  # of an objective
KEYS = {"low", "high", "scale", "int", "step"}  # of a range in a study's YAML


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included.

    Args:
        log: a factor counts the same everywhere; needs low > 0.
        integer: whole numbers only.
        step: only low, low + step, ...; of a linear range.

    Raises:
        ConfigError: the bounds, the scale or the step cannot be.
    """

    low: float
    high: float
    log: bool
    integer: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        low, high, step = self.low, self.high, self.step
        where = f"range {low} to {high}"
        if not all(_number(b) and math.isfinite(b) for b in (low, high)) or not low < high:
            raise ConfigError(f"{where}: must be two finite numbers, the lower first")
        if self.log and low <= 0:
            raise ConfigError(f"{where}: must be above 0 on a log scale; or take scale linear")
        if self.integer and (low % 1 or high % 1 or max(abs(low), abs(high)) > MAX_INTEGER):
            raise ConfigError(f"{where}: must be whole numbers")
        kind = int if self.integer else float
        low, high = kind(low), kind(high)
        if step is not None:
            if not _number(step) or not 0 < step <= high - low or (self.integer and step % 1):
                raise ConfigError(f"{where}: step {step} must be above 0 and within the range")
            if self.log:
                raise ConfigError(f"{where}: a step is of a linear range; leave it out")
            steps = math.floor((high - low) / step + 1e-9)
            high = kind(round(low + steps * step, 12))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def levels(self) -> int | None:
        """Count the values; None where they are continuous."""
        if not self.integer and self.step is None:
            return None
        return round((self.high - self.low) / (self.step or 1)) + 1

    def to_unit(self, value: float) -> float:
        """Return where a value lies in [0, 1]; beyond the bounds it is clipped."""
        low, high = self._edges
        return min(max((self._scale(value) - low) / (high - low), 0.0), 1.0)

    def from_unit(self, u: float) -> float | int:
        """Return the value at u in [0, 1]: of few digits, whole, or on the step."""
        low, high = self._edges
        value = low + min(max(u, 0.0), 1.0) * (high - low)
        return self.clean(math.exp(value) if self.log else value)

    def clean(self, value: float) -> float | int:
        """Return the nearest value of this range that is written in few digits."""
        if levels := self.levels:
            unit = self.step or 1
            index = min(max(round((value - self.low) / unit), 0), levels - 1)
            value = self.low + index * unit
            return int(value) if self.integer else round(value, 12)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Return whether a value lies between the bounds."""
        return _number(value) and self.low <= value <= self.high

    @functools.cached_property  # a model asks for thousands of points
    def _edges(self) -> tuple[float, float]:
        """Return bounds on the scale; each of the levels has as wide a cell as the others."""
        half = (self.step or 1) / 2 if self.levels else 0.0
        return self._scale(self.low - half), self._scale(self.high + half)

    def _scale(self, value: float) -> float:
        return math.log(max(value, self.low / 2)) if self.log else float(value)


@dataclass(frozen=True)
class Choice:
    """One of several options: JSON values of any kind, each once.

    Raises:
        ConfigError: none, or one of them twice.
    """

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        texts = [*map(_same, self.options)]
        if not texts or len(set(texts)) < len(texts):
            raise ConfigError(f"choices [{', '.join(texts)}]: must be one or more, each once")

    @property
    def levels(self) -> int:
        """Count the options."""
        return len(self.options)

    def to_unit(self, value: Any) -> float:
        """Return the middle of the option's cell in [0, 1]."""
        return (self.index(value) + 0.5) / len(self.options)

    def from_unit(self, u: float) -> Any:
        """Return the option whose cell holds u."""
        return self.options[min(int(max(u, 0.0) * len(self.options)), len(self.options) - 1)]

    def index(self, value: Any) -> int:
        """Return the index of the option that a value is; 0 is 0.0, True is not 1."""
        return [*map(_same, self.options)].index(_same(value))

    def contains(self, value: Any) -> bool:
        """Return whether a value is an option."""
        return _same(value) in map(_same, self.options)


def _same(option: Any) -> str:
    """Return a text that equal options share."""
    return json.dumps(float(option) if type(option) is int else option)


Knob = Range | Choice
Knobs = dict[str, Knob]


@dataclass(frozen=True)
class Space:
    """The arms of a search, each with its own knobs.

    Args:
        arms: name -> knobs; a plain search has one arm, "".
    """

    arms: dict[str, Knobs]

    def __post_init__(self) -> None:
        for arm in [arm for arm, knobs in (self.arms or {"": {}}).items() if not knobs]:
            form = "optimizer.lr='tag(log,interval(1e-4,1e-1))'"
            raise ConfigError(f"{arm or 'search'}: no knob to search; give one a range: {form}")

    @classmethod
    def from_yaml(
        cls, node: Mapping[str, Any], arms: Sequence[str] = (), also: Knobs | None = None
    ) -> "Space":
        """Read a study's `space` section.

        A key with an equals sign is a condition: what lies below it is searched in that arm alone.

            training.batch_size: {low: 16, high: 512, scale: log, int: true}
            activation: {choices: [relu, gelu]}
            optimizer=adam:
              optimizer.lr: {low: 1e-4, high: 1e-2, scale: log}
            optimizer=momentum:
              optimizer.lr: {low: 1e-3, high: 1, scale: log}

        Args:
            arms: the study's, where some have no condition of their own.
            also: knobs of all arms that are given elsewhere.
        """
        common = {k: knob_from_yaml(k, v) for k, v in node.items() if "=" not in k}
        conditional = {
            str(arm): {k: knob_from_yaml(k, v) for k, v in _section(arm, knobs).items()}
            for arm, knobs in node.items()
            if "=" in arm
        }
        if arms and (unknown := conditional.keys() - set(arms)):
            raise ConfigError(f"space.{min(unknown)}: no arm of this study; one of {list(arms)}")
        arms = arms or list(conditional) or [""]
        return cls({arm: common | conditional.get(arm, {}) | (also or {}) for arm in arms})


def knobs_to_json(knobs: Knobs) -> dict[str, dict[str, Any]]:
    """Return knob -> {low, high, log, int?, step?} or {choices}, as study.json holds it."""
    return {name: _to_json(knob) for name, knob in knobs.items()}


def _to_json(knob: Knob) -> dict[str, Any]:
    if isinstance(knob, Choice):
        return {"choices": list(knob.options)}
    node = {"low": knob.low, "high": knob.high, "log": knob.log}
    node |= {"int": True} if knob.integer else {}
    return node | ({} if knob.step is None else {"step": knob.step})


def knob_from_yaml(name: str, node: Any) -> Knob:
    """Read a knob of a study: {low, high, scale: log|linear, int?, step?} or {choices: [...]}.

    Raises:
        ConfigError: a part missing, unknown or wrong, named with the knob.
    """
    node = _section(name, node)
    with _naming(name):
        return _choice(node) if "choices" in node else _range(node)


def _section(name: str, node: Any) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        form = "{low: 1e-4, high: 1e-1, scale: log} or {choices: [...]}"
        raise ConfigError(f"{name}: {node!r} must be a section such as {form}")
    return node


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the knob in a complaint about it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _choice(node: Mapping[str, Any]) -> Choice:
    options = node["choices"]
    if set(node) != {"choices"} or not isinstance(options, list | tuple):
        raise ConfigError("choices must be a list, with nothing beside it")
    return Choice(tuple(options))


def _range(node: Mapping[str, Any]) -> Range:
    low, high, scale = node.get("low"), node.get("high"), node.get("scale")
    if not isinstance(scale, str) or scale not in SCALES:
        raise ConfigError(f"scale={scale!r} must be log or linear; say which")
    if wrong := sorted(set(node) - KEYS):
        raise ConfigError(f"unknown {', '.join(wrong)}; allowed are {sorted(KEYS)}")
    if not _number(low) or not _number(high):
        raise ConfigError(f"low={low!r}, high={high!r} must be two numbers")
    if not isinstance(whole := node.get("int", False), bool):
        raise ConfigError(f"int={whole!r} must be true or false")
    return Range(low, high, SCALES[scale], whole, node.get("step"))


def one_of(what: str, value: str, names: Iterable[str]) -> None:
    """Refuse a value that is none of the names."""
    if value not in names:
        raise ConfigError(f"{what}={value}: must be one of {', '.join(names)}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def from_overrides(overrides: Sequence[Any]) -> tuple[Knobs, list[str]]:
    """Return the knobs of a command line, and the overrides that every run has in common.

    Args:
        overrides: as hydra.core.override_parser.types.Override, already parsed.
    """
    knobs = {o.get_key_element(): from_override(o) for o in overrides if o.is_sweep_override()}
    return knobs, [o.input_line for o in overrides if not o.is_sweep_override()]


def from_override(override: Any) -> Knob:
    """Return the knob that an override sweeps.

    `a,b` and `choice(a,b)` are options, `range(1,6)` the whole numbers 1 to 5, and
    `tag(log,interval(1e-4,1e-1))` or `tag(linear,interval(0,0.5))` an interval. `int(...)` around
    an interval keeps to whole numbers, `tag(log,...)` around a range spreads it by factors.

    Args:
        override: a hydra.core.override_parser.types.Override with is_sweep_override().

    Raises:
        ConfigError: an interval that does not say log or linear, or bounds that cannot be.
    """
    name, sweep = override.get_key_element(), override.value()
    with _naming(name):
        if override.is_interval_sweep():
            return _interval(name, sweep)
        if override.is_range_sweep():
            return _range_of(sweep)
        # A glob knows its options only by asking Hydra, which the iterator does.
        options = [getattr(o, "text", o) for o in getattr(sweep, "list", ())]
        return Choice(tuple(options or override.sweep_iterator()))


def range_size(sweep: Any) -> int | None:
    """Count the values of `range(a,b,step)` without building them; None where they have no end."""
    start, stop, step = sweep.start, sweep.stop, sweep.step
    if not all(map(math.isfinite, (start, stop, step))) or step == 0:
        return None
    return max(0, math.ceil((stop - start) / step - 1e-9))


def _range_of(sweep: Any) -> Knob:
    """Return what `range(a,b,step)` searches; its values are not built where they are a range."""
    if (count := range_size(sweep)) is None:
        raise ConfigError(NO_RANGE)
    start, stop, step = sweep.start, sweep.stop, sweep.step
    whole = all(isinstance(value, int) for value in (start, stop, step))
    if count < 2 or step < 0:
        if count > MOST_CHOICES:
            raise ConfigError(f"has {count:,} values; write it the lower first")
        return Choice(tuple(sweep.range()))
    last = start + (count - 1) * step
    last = last if whole else float(f"{last:.12g}")
    return Range(start, last, "log" in sweep.tags, whole, None if whole and step == 1 else step)


def _interval(name: str, sweep: Any) -> Range:
    """Return a range; its scale is the one that it says, else the one usual for this knob."""
    low, high = sweep.start, sweep.end
    whole = isinstance(low, int) and isinstance(high, int)
    scales = sweep.tags & SCALES.keys()
    scale, usual = min(scales, default=None), USUAL_SCALES.get(name.rpartition(".")[2])
    if not scales and usual and not (usual == "log" and low <= 0):
        scale = usual
        whole = name.rpartition(".")[2] in WHOLE  # interval(0,1) is no choice of 0 and 1
        if whole and (low % 1 or high % 1):
            raise ConfigError(f"interval({low},{high}): must be whole numbers")
    if scale is None or len(scales) > 1:
        least = low if low > 0 else high / 1e4  # a log scale begins above 0
        forms = {"log": (least, high), "linear": (low, high)}
        ways = " or ".join(f"'{name}={_interval_text(s, *ends)}'" for s, ends in forms.items())
        raise ConfigError(f"an interval must say log or linear: {ways}")
    return Range(low, high, SCALES[scale], whole)


def _interval_text(scale: str, low: float, high: float) -> str:
    text = f"interval({_text(low)},{_text(high)})"
    return f"tag({scale},{f'int({text})' if isinstance(low, int) else text})"


def override(name: str, value: Any) -> str:
    """Return `name=value` as Hydra's command line takes it, which reads the same value again."""
    return f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(child)}" for key, child in value.items()) + "}"
    return repr(value) if isinstance(value, float) else json.dumps(value)
