"""Slips of people who type: every command line of slips.txt, and others that are made up.

`python tests/test_slips.py` writes slips.txt again; read what changed before it is committed.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from knobs import build, cli
from knobs.config import rules
from knobs.errors import UserError

KEPT = Path(__file__).with_name("slips.txt")
VARIABLES = {"KNOBS_TEST_LR": "0.01", "HYDRA_FULL_ERROR": "0"}
NAMES = {g.name: ", ".join(rules.options(g.name, [rules.CONF])) for g in rules.CONF.iterdir()}


def blocks():
    """Return each command line of slips.txt with its message; a # begins a comment."""
    text = re.sub(r"^#.*\n", "", KEPT.read_text(), flags=re.M)
    pairs = (block.partition("\n")[::2] for block in text.strip().split("\n\n"))
    return [(line.removeprefix("$ "), message.strip("\n")) for line, message in pairs]


def told(argv):
    """Return what a command line is told before anything runs: `exit CODE` and the message."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
        try:
            cli.prepare(argv)
            code = 0
        except UserError as error:
            code = error.exit_code
            print(error)
    said = re.sub(r"checked [\d,]+ of [\d,]+ jobs\n", "", err.getvalue())  # on a slow machine
    return f"exit {code}: {said}".strip().replace(str(rules.CONF.parent), "REPO")


def shortened(message):
    """Put a group's name in braces in the place of all its options."""
    for group, names in NAMES.items():
        if "," in names:
            message = message.replace(names, f"{{{group}}}")
    return message


@pytest.fixture(autouse=True)
def a_place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "free_memory", lambda device: 8 * 2**30)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


def test_there_are_many():
    assert len(blocks()) >= 250


@pytest.mark.parametrize("part", range(8))
def test_a_slip_is_told_right(part, tmp_path):
    for line, message in blocks()[part::8]:
        assert shortened(told(shlex.split(line))) == message, line
        assert "Traceback" not in message
        assert message.startswith("exit 0") or list(tmp_path.iterdir()) == [], line
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)


@pytest.mark.parametrize("line", [
    "name=a\nb", "optimizer.lr=1\x1b[31m", "seed=\u200b1", "name=\udc80", "+x\x7f=1", "model=\x00",
])  # fmt: skip
def test_characters_that_are_no_text_are_named(line):
    message = told([line])
    assert message.startswith("exit 2: invalid config, nothing was run")
    assert re.search(r"character \d+ is U\+[0-9A-F]{4}, a control character or no text", message)
    assert message.isprintable() or message.replace("\n", "").isprintable()


@pytest.mark.parametrize(("line", "part"), [
    ("seed=" + "1" * 5000, "cannot be read"),
    ("name=" + "a" * 300, "255 bytes at most"),
    ("hydra.run.dir=" + "b" * 300, "255 bytes at most"),
    ("resume=" + "c" * 5000, "no run there"),
    ("optimizer.betas=" + "[" * 2000, "cannot be read"),
    ("training.note=" + "x" * 5000, "no such key"),
])  # fmt: skip
def test_what_is_too_long_is_cut_in_its_message(line, part):
    message = told([line])
    assert message.startswith(("exit 2", "exit 4"))
    assert part in message
    assert len(message) < 6000


# ------------------------------------------------------------------ made up
KEYS = [
    *rules.paths(),
    *NAMES,
    *cli.OWN,
    "hydra.run.dir",
    "hydra/launcher",
    "hydra.launcher.width",
    "zip",
    "skip",
    "lr",
]
VALUES = [
    "", "null", "true", "1", "0", "-1", "1e3", "1e400", "nan", "inf", ".", "..", "/", "a", "adam", "none", "[]", "{}", "[1,2]",
    "{a:1}", "[a,[b,{c:d}]]", "1,2", "a,b", "range(0,3)", "range(3)", "range(0,1e9)", "interval(0,1)", "tag(log,interval(1e-3,1))",
    "choice(1,2)", "glob(*)", "sort(3,1)", "shuffle(range(0,9))", "${seed}", "${oc.env:HOME}", "${x}", "'a b'", '"1"', "50%",
    "it's", "a=b", "ä", "???", "0x10", "1_000", "10%", "val/loss", "torch.optim.SGD", "os.system", "[", "}", "\\", "9" * 400,
]  # fmt: skip
PLAIN = [
    f"{key}={default}" for key, places in rules.read(rules.CONF).items() for default, _ in places.values()
    if default and default[0] not in "$?"
] + [f"{group}={option}" for group in NAMES for option in rules.options(group, [rules.CONF])]  # fmt: skip
lines = st.sampled_from(PLAIN) | st.builds(
    lambda sign, key, mark, value: f"{sign}{key}{mark}{value}",
    st.sampled_from(["", "", "", "+", "++", "~"]),
    st.one_of(
        st.sampled_from(KEYS),
        st.sampled_from(KEYS).map(lambda k: k[:-1] + "x"),
        st.text(max_size=6),
    ),
    st.sampled_from(["=", "=", "=", "=", "", "@x="]),
    st.one_of(st.sampled_from(VALUES), st.text(max_size=8)),
)
words = st.lists(lines, min_size=1, max_size=3).flatmap(
    lambda several: st.sampled_from(
        [several, ["-m", *several], ["-m", "hydra/sweeper=search", *several]]
    )
)
MADE_UP = 2000  # of these, 4 x 25 where the long trainings are left out


def made_up(count, seed):
    """Return those of so many command lines that took over 5 s; each ends in a code of a user's."""
    slow = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=False,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(words)
    def one(argv):
        began = time.monotonic()
        message = told(argv)  # whatever is no UserError fails here
        assert re.match(r"exit [0234569]", message), argv
        assert "Traceback" not in message, argv
        if time.monotonic() - began > 5:
            slow.append(argv)

    one()
    return slow


@pytest.mark.parametrize("part", range(4))
def test_made_up_command_lines_are_told_apart(part):
    assert made_up(25, seed=part) == []


@pytest.mark.slow
def test_many_made_up_command_lines_are_told_apart():
    assert made_up(MADE_UP, seed=2) == []


def write():
    """Write slips.txt with what each of its command lines is told now."""
    os.environ.update(VARIABLES)
    build.free_memory = lambda device: 8 * 2**30
    import tempfile

    lines = KEPT.read_text().splitlines()
    out = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for line in lines:
            if line.startswith("#"):
                out.append(line)
            elif line.startswith("$ "):
                out += [line, shortened(told(shlex.split(line[2:]))), ""]
    KEPT.write_text("\n".join(out).rstrip() + "\n")


if __name__ == "__main__":
    sys.exit(write())
