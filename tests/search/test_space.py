"""Ranges, choices and arms: their bounds, their unit cube, and what Hydra and YAML say of them."""

import json
import math
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from knobs.errors import ConfigError
from knobs.search import space
from knobs.search.space import Choice, Range, Space, from_override, knob_from_yaml


def parse(line):
    return OverridesParser.create().parse_overrides([line])[0]


# ------------------------------------------------------------------ the unit cube
@pytest.mark.parametrize(
    ("knob", "u", "value"),
    [
        (Range(1e-4, 1e-2, True), 0.5, 1e-3),
        (Range(1e-4, 1e-2, True), 0.0, 1e-4),
        (Range(1e-4, 1e-2, True), 1.0, 1e-2),
        (Range(0, 0.5, False), 0.25, 0.125),
        (Range(0, 1, False), 1 / 3, 0.3333),
        (Range(1, 5, False, True), 0.19, 1),
        (Range(1, 5, False, True), 0.21, 2),
        (Range(16, 512, True, True), 1.0, 512),
        (Range(0, 0.3, False, step=0.1), 0.99, 0.3),
        (Range(0, 10, False, True, step=4), 1.0, 8),
        (Choice(("a", "b", "c")), 0.34, "b"),
        (Choice(("a", "b", "c")), 1.0, "c"),
    ],
)
def test_a_coordinate_is_a_value(knob, u, value):
    assert knob.from_unit(u) == value
    assert type(knob.from_unit(u)) is type(value)


@pytest.mark.parametrize(
    "knob",
    [
        Range(1e-5, 3e-1, True),
        Range(-2, 7.5, False),
        Range(3, 700, True, True),
        Range(1, 6, False, True),
        Range(0, 1, False, step=0.05),
        Choice(("relu", None, True, 1, [64, 64])),
    ],
)
def test_there_and_back(knob):
    for i in range(101):
        value = knob.from_unit(i / 100)
        again = knob.from_unit(knob.to_unit(value))
        assert knob.contains(value)
        assert json.dumps(again) == json.dumps(value)


def test_levels_are_equally_likely():
    knob = Range(1, 4, False, True)
    drawn = [knob.from_unit((i + 0.5) / 400) for i in range(400)]
    assert [drawn.count(n) for n in (1, 2, 3, 4)] == [100] * 4
    factor = Range(2, 32, True, True)  # 2 has the cell 1.5 to 2.5, of 1.5 to 32.5
    share = math.log(2.5 / 1.5) / math.log(32.5 / 1.5)
    assert sum(factor.from_unit(i / 10_000) == 2 for i in range(10_000)) == pytest.approx(
        10_000 * share, abs=1
    )


def test_floats_have_few_digits_and_stay_inside():
    knob = Range(0.000123456, 0.0123456, True)
    values = [knob.from_unit(i / 50) for i in range(51)]
    assert (values[0], values[-1]) == (0.0001235, 0.0123456)  # .01235 would be outside
    assert all(float(f"{value:.4g}") == value for value in values[1:-1])


# ------------------------------------------------------------------ what cannot be
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((1, 1, False), "the lower first"),
        ((0, math.inf, False), "finite"),
        ((0, math.nan, False), "finite"),
        ((True, 2, False), "finite"),
        ((0, 1, True), "above 0 on a log scale"),
        ((0.5, 3, False, True), "whole numbers"),
        ((0, 2**60, False, True), "whole numbers"),
        ((1, 9, True, True, 2), "step is of a linear range"),
        ((0, 1, False, False, 2), "within the range"),
        ((0, 4, False, True, 0.5), "within the range"),
    ],
)
def test_a_range_that_cannot_be(args, words):
    with pytest.raises(ConfigError, match=words):
        Range(*args)


@pytest.mark.parametrize("options", [(), ("a", "a"), ([1], [1]), (0, 0.0)])
def test_a_choice_that_cannot_be(options):
    with pytest.raises(ConfigError, match="each once"):
        Choice(options)


def test_whole_and_other_numbers_are_one():
    knob = Choice((0, 0.1, True, "1"))
    assert [knob.contains(value) for value in (0.0, 0.1, True, 1, 1.0)] == [1, 1, 1, 0, 0]
    assert knob.index(0.0) == 0


# ------------------------------------------------------------------ Hydra
@pytest.mark.parametrize(
    ("line", "knob"),
    [
        ("a=tag(log, interval(1e-4,1e-1))", Range(1e-4, 1e-1, True)),
        ("a=tag(linear, interval(0,0.5))", Range(0, 0.5, False)),
        ("a=int(tag(log, interval(16,512)))", Range(16, 512, True, True)),
        ("a=tag(log, int(interval(16,512)))", Range(16, 512, True, True)),
        ("a=range(1,6)", Range(1, 5, False, True)),
        ("a=range(0,10,4)", Range(0, 8, False, True, 4)),
        ("a=range(0,1,0.25)", Range(0, 0.75, False, False, 0.25)),
        ("a=tag(log, range(1,65))", Range(1, 64, True, True)),
        ("a=choice(relu,gelu)", Choice(("relu", "gelu"))),
        ("a=1,2.5,null,true,'x y'", Choice((1, 2.5, None, True, "x y"))),
        ("a=[64,64],[128]", Choice(([64, 64], [128]))),
        ("a=range(3,4)", Choice((3,))),
    ],
)
def test_hydra_sweeps(line, knob):
    found = from_override(parse(line))
    assert found == knob
    assert repr(found) == repr(knob)  # 16 is not 16.0


@pytest.mark.parametrize(
    ("line", "ways"),
    [
        ("w=interval(1e-4,0.1)", "'w=tag(log,interval(0.0001,0.1))' or"),
        ("optimizer.lr=interval(0,0.1)", "'optimizer.lr=tag(log,interval(1e-05,0.1))' or"),
        ("w=int(interval(16,512))", "w=tag(linear,int(interval(16,512)))"),
        ("w=tag(log,linear,interval(16,512))", "must say log or linear"),
    ],
)
def test_an_interval_says_its_scale(line, ways):
    with pytest.raises(ConfigError) as error:
        from_override(parse(line))
    assert ways in str(error.value)


@pytest.mark.parametrize(
    ("line", "knob"),
    [
        ("optimizer.lr=interval(1e-4,1)", Range(1e-4, 1.0, True)),
        ("regularization.dropout=interval(0,0.5)", Range(0.0, 0.5, False)),
        ("regularization.dropout=interval(0,1)", Range(0.0, 1.0, False)),
        ("model.width=interval(8,64)", Range(8, 64, True, True)),
        ("model.depth=interval(1,4)", Range(1, 4, False, True)),
        ("optimizer.lr=tag(linear,interval(0,1))", Range(0.0, 1.0, False)),
    ],
)
def test_a_usual_scale_need_not_be_said(line, knob):
    assert repr(from_override(parse(line))) == repr(knob)


def test_a_large_range_is_not_built():
    assert from_override(parse("model.width=range(1,1000000000)")) == Range(
        1, 10**9 - 1, False, True
    )
    steps = from_override(parse("optimizer.lr=range(0.1,0.5,0.1)"))
    assert repr(steps) == repr(Range(0.1, 0.4, False, False, 0.1))
    with pytest.raises(ConfigError, match="has 999,999,999 values; write it the lower first"):
        from_override(parse("model.width=range(1000000000,1,-1)"))


def test_what_is_advised_is_understood():
    with pytest.raises(ConfigError) as error:
        from_override(parse("w=int(interval(16,512))"))
    advised = shlex.split(str(error.value).partition("linear: ")[2].replace(" or ", " "))
    assert [from_override(parse(line)) for line in advised] == [
        Range(16, 512, True, True),
        Range(16, 512, False, True),
    ]


def test_knobs_and_what_is_fixed():
    lines = ["optimizer=adam", "+optimizer.foo=tag(log,interval(1,2))", "activation=relu,gelu"]
    knobs, fixed = space.from_overrides([*map(parse, lines)])
    assert knobs == {"+optimizer.foo": Range(1, 2, True), "activation": Choice(("relu", "gelu"))}
    assert fixed == ["optimizer=adam"]


@pytest.mark.parametrize(
    "value",
    [
        *(
            1e-5,
            0.25,
            3,
            True,
            None,
            "relu",
            "null",
            "inf",
            "True",
            "30%",
            "a b",
            "",
            "a,b",
            "it's",
        ),
        *(
            "back\\slash",
            "\\'",
            "end\\",
            "[x]",
            "${x}",
            "1e3",
            "a=b",
            [64, 64],
            ["a b", None],
            "x:y",
        ),
    ],
)
def test_hydra_reads_what_we_write(value):
    found = parse(space.override("a", value)).value()
    assert found == value
    assert type(found) is type(value)


# ------------------------------------------------------------------ YAML and JSON
def test_a_studys_yaml():
    made = Space.from_yaml(
        {
            "training.batch_size": {"low": 16, "high": 512, "scale": "log", "int": True},
            "activation": {"choices": ["relu", "gelu"]},
            "optimizer=adam": {"optimizer.lr": {"low": 1e-4, "high": 1e-2, "scale": "log"}},
            "optimizer=sgd": {"optimizer.lr": {"low": 1e-3, "high": 1, "scale": "log"}},
        }
    )
    common = {
        "training.batch_size": Range(16, 512, True, True),
        "activation": Choice(("relu", "gelu")),
    }
    assert made.arms == {
        "optimizer=adam": common | {"optimizer.lr": Range(1e-4, 1e-2, True)},
        "optimizer=sgd": common | {"optimizer.lr": Range(1e-3, 1, True)},
    }


def test_what_study_json_holds_of_a_knob():
    knobs = {
        "lr": Range(1e-3, 1, True),
        "width": Range(16, 64, False, True, step=16),
        "act": Choice(("relu", None)),
    }
    assert space.knobs_to_json(knobs) == {
        "lr": {"low": 1e-3, "high": 1.0, "log": True},
        "width": {"low": 16, "high": 64, "log": False, "int": True, "step": 16},
        "act": {"choices": ["relu", None]},
    }


def test_arms_of_one_space():
    lr = {"low": 1e-3, "high": 1, "scale": "log"}
    made = Space.from_yaml({"lr": lr, "a=x": {"m": lr}}, ["a=x", "a=y"])
    assert {arm: list(knobs) for arm, knobs in made.arms.items()} == {
        "a=x": ["lr", "m"],
        "a=y": ["lr"],
    }
    assert list(Space.from_yaml({"lr": lr}).arms) == [""]
    with pytest.raises(ConfigError, match="no arm of this study"):
        Space.from_yaml({"lr": lr, "a=z": {"m": lr}}, ["a=x"])


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"low": 1, "high": 2}, "scale=None must be log or linear"),
        ({"low": 1, "high": 2, "scale": "Log"}, "must be log or linear"),
        ({"low": 1, "scale": "log"}, "must be two numbers"),
        ({"low": "1", "high": 2, "scale": "log"}, "must be two numbers"),
        ({"low": 1, "high": 2, "scale": "log", "ints": True}, "unknown ints"),
        ({"low": 1, "high": 2, "scale": "log", "int": 1}, "true or false"),
        ({"choices": "relu"}, "must be a list"),
        ({"choices": [1], "low": 1}, "nothing beside it"),
        (3, "must be a section"),
    ],
)
def test_yaml_that_cannot_be(node, words):
    with pytest.raises(ConfigError, match=words) as error:
        knob_from_yaml("optimizer.lr", node)
    assert str(error.value).startswith("optimizer.lr: ")


def test_a_space_has_a_knob():
    with pytest.raises(ConfigError, match="no knob to search"):
        Space({"": {}})
    with pytest.raises(ConfigError, match="no knob to search"):
        Space({})
