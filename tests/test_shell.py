"""Printed commands: whatever a name holds, a shell and Hydra read it back as it was."""

import random
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from knobs import shell

NASTY = [
    "", " ", "plain", "a/b-c_d.e", "it's", "a b", "x=1", "${x}", "$x", "ä", "a,b", "{a}", "[a]", "(a)",
    "a:b", "'", "''", '"', "'\"", "\\", "\\\\", "\\'", "'\\", "a\\", "a\\'b", "\\\\'", "a\\\\'b\\\\", "1",
    "-1", "1.5", "1e5", "1_0", "-.5", "true", "NULL", "nan", "-inf", "+", "~x", "@", "a#b", "a;b", "a&b",
    "*", "?", "|", "%", "a\tb", " a", "a ", "日本", "-m", "--x", "=", ",", "range(0,5)", "a/1", "1/2",
]  # fmt: skip


def parsed(line):
    return OverridesParser.create().parse_override(line).value()


def check(value):
    (word,) = shlex.split(shlex.quote(f"a.b={shell.quoted(value)}"))
    assert parsed(word) == value
    written = OverridesParser.create().parse_override(f"a={shell.quoted(shell.literal(value))}")
    assert OmegaConf.create({"a": written.value()}).a == value


@pytest.mark.parametrize("value", NASTY)
def test_a_quoted_value_comes_back_as_it_was(value):
    check(value)


def test_so_do_300_random_values():
    draw = random.Random(0)
    for _ in range(300):
        letters = draw.choices(
            "ab1 0.'\"\\\\\\\\=,${}[]():;#&*?|~+-_/@!%^<>`äß日\t", k=draw.randint(0, 12)
        )
        check("".join(letters))


def test_a_sweep_takes_a_quoted_comma_as_one_value():
    override = OverridesParser.create().parse_override(f"a={shell.quoted('x,y')}")
    assert not override.is_sweep_override()


def test_a_command_carries_what_this_process_was_given(monkeypatch):
    monkeypatch.delenv("KNOBS_ALLOW", raising=False)
    assert shell.command(["a=1"], many=True) == "python train.py -m a=1"  # argv is pytest's
    argv = ["x/train.py", "a=2", "-m", "--config-dir", "my lab/conf", "-cn=other", "-c", "job"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("KNOBS_ALLOW", "mylab.,its own.")
    line = shell.command(["a=1"])
    assert line == (
        "KNOBS_ALLOW='mylab.,its own.' python train.py --config-name other "
        "--config-dir 'my lab/conf' a=1"
    )
    assert shlex.split(line)[1:] == [
        "python",
        "train.py",
        "--config-name",
        "other",
        "--config-dir",
        "my lab/conf",
        "a=1",
    ]


@pytest.mark.parametrize("word", ["a=\x1b[31m", "a=\n", "a=" + "b" * 2001])
def test_what_cannot_be_shown_as_it_is_gives_no_command(word):
    assert shell.command([word]) == ""
