"""What a search may set: knobs, their ranges, and arms with knobs of their own.

A knob is a Range of numbers, whose scale is always said, or a Choice. An arm is one value of what a
study asks about (an optimizer, say) with the knobs that go with it: Adam's learning rate is not
SGD's, so nothing is shared between arms. A plain search has one arm, named "".

Three ways in: JSON as study.json holds it, a study's YAML, and Hydra's sweep overrides. Methods see
a point of the unit cube, a coordinate a knob.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from knobs.errors import ConfigError

DIGITS = 4  # of a float that a search proposes: what is run can be read and typed
MAX_INTEGER = 2**53  # beyond it not every whole number is a float
SCALES = {"log": True, "linear": False}
BARE = re.compile(r"[A-Za-z_][\w./-]*")  # a string that Hydra reads as itself, unless
WORDS = {"null", "true", "false", "inf", "nan"}


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
        bounds = (self.low, self.high)
        where = f"range {self.low} to {self.high}"
        if not all(_number(b) and math.isfinite(b) for b in bounds) or not self.low < self.high:
            raise ConfigError(f"{where}: must be two finite numbers, the lower first")
        if self.log and self.low <= 0:
            raise ConfigError(f"{where}: must be above 0 on a log scale; or take scale linear")
        if self.integer and (
            any(b != int(b) for b in bounds) or max(map(abs, bounds)) > MAX_INTEGER
        ):
            raise ConfigError(f"{where}: must be whole numbers")
        kind = int if self.integer else float
        object.__setattr__(self, "low", kind(self.low))
        object.__setattr__(self, "high", kind(self.high))
        if self.step is not None:
            whole = not self.integer or (_number(self.step) and self.step == int(self.step))
            if not _number(self.step) or not 0 < self.step <= self.high - self.low or not whole:
                raise ConfigError(f"{where}: step {self.step} must be above 0 and within the range")
            if self.log:
                raise ConfigError(f"{where}: a step is of a linear range; leave it out")
            steps = math.floor((self.high - self.low) / self.step + 1e-9)
            high = round(self.low + steps * self.step, 12)
            object.__setattr__(self, "high", kind(high))

    @property
    def levels(self) -> int | None:
        """How many values there are; None where they are continuous."""
        if not self.integer and self.step is None:
            return None
        return round((self.high - self.low) / (self.step or 1)) + 1

    def to_unit(self, value: float) -> float:
        """Where a value lies in [0, 1]; beyond the bounds it is clipped."""
        low, high = self._edges()
        return min(max((self._scale(value) - low) / (high - low), 0.0), 1.0)

    def from_unit(self, u: float) -> float | int:
        """The value at u in [0, 1]: a float of few digits, a whole number, or on the step."""
        low, high = self._edges()
        value = low + min(max(u, 0.0), 1.0) * (high - low)
        return self.clean(math.exp(value) if self.log else value)

    def clean(self, value: float) -> float | int:
        """The nearest value of this range that is written in few digits."""
        if levels := self.levels:
            unit = self.step or 1
            index = min(max(round((value - self.low) / unit), 0), levels - 1)
            found = self.low + index * unit
            return int(found) if self.integer else round(found, 12)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether a value lies between the bounds."""
        return _number(value) and self.low <= value <= self.high

    def _edges(self) -> tuple[float, float]:
        """Bounds on the scale; each of the levels has as wide a cell as the others."""
        half = (self.step or 1) / 2 if self.levels else 0.0
        return self._scale(self.low - half), self._scale(self.high + half)

    def _scale(self, value: float) -> float:
        if self.log:
            return math.log(max(value, self.low / 2))
        return float(value)


@dataclass(frozen=True)
class Choice:
    """One of several options: JSON values of any kind, each once.

    Raises:
        ConfigError: none, or one of them twice.
    """

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        texts = [_same(option) for option in self.options]
        if not texts or len(set(texts)) < len(texts):
            raise ConfigError(f"choices [{', '.join(texts)}]: must be one or more, each once")

    @property
    def levels(self) -> int:
        """How many options there are."""
        return len(self.options)

    def to_unit(self, value: Any) -> float:
        """The middle of the option's cell in [0, 1]."""
        return (self.index(value) + 0.5) / len(self.options)

    def from_unit(self, u: float) -> Any:
        """The option whose cell holds u."""
        return self.options[min(int(max(u, 0.0) * len(self.options)), len(self.options) - 1)]

    def index(self, value: Any) -> int:
        """Which option a value is; 0 is 0.0, True is not 1."""
        return [_same(option) for option in self.options].index(_same(value))

    def contains(self, value: Any) -> bool:
        """Whether a value is an option."""
        return _same(value) in [_same(option) for option in self.options]


def _same(option: Any) -> str:
    """A text that equal options share."""
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
    def of(cls, knobs: Knobs) -> "Space":
        """A plain search's."""
        return cls({"": knobs})

    @classmethod
    def from_json(cls, arms: Any) -> "Space":
        """From `to_json`'s."""
        if not isinstance(arms, dict):
            raise ConfigError(f"space {arms!r}: must be an object, an arm a key")
        return cls({str(name): knobs_from_json(arm) for name, arm in arms.items()})

    def to_json(self) -> dict[str, Any]:
        """Arm -> knob -> what study.json says of it."""
        return {name: knobs_to_json(knobs) for name, knobs in self.arms.items()}

    @classmethod
    def from_yaml(cls, node: Mapping[str, Any], arms: Sequence[str] = ()) -> "Space":
        """From a study's `space` section.

        A key with an equals sign is a condition: what lies below it is searched in that arm alone.

            training.batch_size: {low: 16, high: 512, scale: log, int: true}
            activation: {choices: [relu, gelu]}
            optimizer=adam:
              optimizer.lr: {low: 1e-4, high: 1e-2, scale: log}
            optimizer=momentum:
              optimizer.lr: {low: 1e-3, high: 1, scale: log}

        Args:
            arms: the study's, where some have no condition of their own.
        """
        common = {k: knob_from_yaml(k, v) for k, v in node.items() if "=" not in k}
        own = {
            str(arm): {k: knob_from_yaml(k, v) for k, v in _section(arm, knobs).items()}
            for arm, knobs in node.items()
            if "=" in arm
        }
        if arms and (unknown := own.keys() - set(arms)):
            raise ConfigError(f"space.{min(unknown)}: no arm of this study; one of {list(arms)}")
        return cls({arm: common | own.get(arm, {}) for arm in arms or own or [""]})


# ------------------------------------------------------------------ JSON
def knobs_to_json(knobs: Knobs) -> dict[str, dict[str, Any]]:
    """Knob -> {low, high, log, int?, step?} or {choices}."""
    return {name: _to_json(knob) for name, knob in knobs.items()}


def _to_json(knob: Knob) -> dict[str, Any]:
    if isinstance(knob, Choice):
        return {"choices": list(knob.options)}
    told: dict[str, Any] = {"low": knob.low, "high": knob.high, "log": knob.log}
    if knob.integer:
        told["int"] = True
    if knob.step is not None:
        told["step"] = knob.step
    return told


def knobs_from_json(node: Any) -> Knobs:
    """The knobs that `knobs_to_json` wrote.

    Raises:
        ConfigError: it is something else.
    """
    return {str(name): _from_json(name, knob) for name, knob in _section("space", node).items()}


def _from_json(name: str, node: Any) -> Knob:
    node = _section(name, node)
    if "choices" in node:
        return _choice(name, node)
    if node.get("log") is not True and node.get("log") is not False:
        raise ConfigError(f"{name}: log={node.get('log')!r} must be true or false")
    return _range(name, node, node["log"], {"low", "high", "log", "int", "step"})


# ------------------------------------------------------------------ YAML
def knob_from_yaml(name: str, node: Any) -> Knob:
    """A knob of a study's YAML: {low, high, scale: log|linear, int?, step?} or {choices: [...]}.

    Raises:
        ConfigError: a part missing, unknown or wrong, named with the knob.
    """
    node = _section(name, node)
    if "choices" in node:
        return _choice(name, node)
    scale = node.get("scale")
    if not isinstance(scale, str) or scale not in SCALES:
        raise ConfigError(f"{name}: scale={scale!r} must be log or linear; say which")
    return _range(name, node, SCALES[scale], {"low", "high", "scale", "int", "step"})


def _section(name: str, node: Any) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        form = "{low: 1e-4, high: 1e-1, scale: log} or {choices: [...]}"
        raise ConfigError(f"{name}: {node!r} must be a section such as {form}")
    return node


def _choice(name: str, node: Mapping[str, Any]) -> Choice:
    options = node["choices"]
    if set(node) != {"choices"} or not isinstance(options, list | tuple):
        raise ConfigError(f"{name}: choices must be a list, with nothing beside it")
    return _named(name, lambda: Choice(tuple(options)))


def _range(name: str, node: Mapping[str, Any], log: bool, allowed: set[str]) -> Range:
    if wrong := sorted(set(node) - allowed):
        raise ConfigError(f"{name}: unknown {', '.join(wrong)}; allowed are {sorted(allowed)}")
    low, high = node.get("low"), node.get("high")
    if not _number(low) or not _number(high):
        raise ConfigError(f"{name}: low={low!r}, high={high!r} must be two numbers")
    if not isinstance(whole := node.get("int", False), bool):
        raise ConfigError(f"{name}: int={whole!r} must be true or false")
    return _named(name, lambda: Range(low, high, log, whole, node.get("step")))


def _named(name: str, make: Callable[[], Knob]) -> Any:
    """What `make` makes; its complaint names the knob."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ------------------------------------------------------------------ Hydra's overrides
def from_overrides(overrides: Iterable[Any]) -> tuple[Knobs, list[str]]:
    """Knobs of a command line, and the overrides that every run has in common.

    Args:
        overrides: as hydra.core.override_parser.types.Override, already parsed.
    """
    knobs, fixed = {}, []
    for override in overrides:
        knob = from_override(override)
        if knob is None:
            fixed.append(override.input_line)
        else:
            knobs[override.get_key_element()] = knob
    return knobs, fixed


def from_override(override: Any) -> Knob | None:
    """The knob that an override sweeps; None where it has one value.

    `a,b` and `choice(a,b)` are options, `range(1,6)` the whole numbers 1 to 5, and
    `tag(log,interval(1e-4,1e-1))` or `tag(linear,interval(0,0.5))` an interval. `int(...)` around
    an interval keeps to whole numbers, `tag(log,...)` around a range spreads it by factors.

    Args:
        override: a hydra.core.override_parser.types.Override.

    Raises:
        ConfigError: an interval that does not say log or linear, or bounds that cannot be.
    """
    if not override.is_sweep_override():
        return None
    name, sweep = override.get_key_element(), override.value()
    if override.is_interval_sweep():
        low, high, tags = sweep.start, sweep.end, sweep.tags
        if len(scale := tags & SCALES.keys()) != 1:
            form = f"interval({_text(low)},{_text(high)})"
            whole = "int" if isinstance(low, int) else ""
            ways = [f"{name}=tag({s},{whole and 'int('}{form}{whole and ')'})" for s in SCALES]
            raise ConfigError(f"{name}: an interval must say log or linear: {' or '.join(ways)}")
        whole = isinstance(low, int) and isinstance(high, int)
        return _named(name, lambda: Range(low, high, SCALES[scale.pop()], whole))
    if override.is_range_sweep():
        values = list(sweep.range())
        if len(values) < 2 or values[0] > values[-1]:
            return _named(name, lambda: Choice(tuple(values)))
        log, whole = "log" in sweep.tags, all(isinstance(value, int) for value in values)
        step = None if whole and sweep.step == 1 else sweep.step
        return _named(name, lambda: Range(values[0], values[-1], log, whole, step))
    # A glob knows its options only by asking Hydra, which the iterator does.
    options = [getattr(o, "text", o) for o in getattr(sweep, "list", ())]
    return _named(name, lambda: Choice(tuple(options or override.sweep_iterator())))


def override(name: str, value: Any) -> str:
    """`name=value` as Hydra's command line takes it, which reads the same value again."""
    return f"{name}={_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        if BARE.fullmatch(value) and value.lower() not in WORDS:
            return value
        # A backslash escapes only a quote, or another one in front of a quote.
        return "'" + re.sub(r"(\\*)('|$)", r"\1\1\2", value).replace("'", r"\'") + "'"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(child)}" for key, child in value.items()) + "}"
    return repr(value) if isinstance(value, float) else json.dumps(value)
