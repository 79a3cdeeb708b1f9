"""Code of one's own: the example package's tutorial runs, and what `knobs new` writes trains."""

import json
import os
import re
import shlex
import sys

import processes
import pytest
from conftest import REPO

from knobs import new, targets
from knobs.config import rules
from knobs.errors import StorageError

EXAMPLE = REPO / "examples" / "own"
README = (EXAMPLE / "README.md").read_text()
[COMMANDS] = re.findall(r"^```bash\n(.*?)^```", README, re.S | re.M)
[SNIPPET] = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
INSTALL, ALLOW, *COMMANDS = COMMANDS.splitlines()


def run(folder, words, path, allow):
    """A command in a folder that has train.py; return what it printed."""
    paths = [path, os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "KNOBS_ALLOW": allow}
    env |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    done = processes.run([sys.executable, *words], folder, os.environ | env, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    for name in ("train.py", "conf", "examples"):
        (place / name).symlink_to(REPO / name)
    (place / "points.csv").write_text("x0,x1\n0.1,0.2\n-0.5,0.4\n")
    return place


ENDS = (
    "outputs/own INPUT", "outputs/own INPUT", "report: python -m knobs.report",
    "page: ", "page: ", "page: ", "row,prediction",
)  # fmt: skip


def test_every_command_of_the_tutorial_runs_in_its_order(folder):
    assert INSTALL == "pip install -e examples/own"
    allow = ALLOW.removeprefix("export KNOBS_ALLOW=")
    assert len(COMMANDS) == len(ENDS)
    for line, end in zip(COMMANDS, ENDS, strict=True):
        words = shlex.split(line)
        assert words.pop(0) == "python"
        assert end in run(folder, words, EXAMPLE, allow), line
    own = folder / "outputs" / "own"
    summary = json.loads((own / "summary.json").read_text())
    assert summary["epochs"] == 30
    assert summary["objective"]["value"] > 0.7, "it learns the arms"
    config = json.loads((own / "config.json").read_text())
    assert config["data"]["hash"], "the content is in the record"
    said = run(folder, ["-c", SNIPPET], EXAMPLE, allow)
    assert "prediction" in said
    assert "p(2)" in said


def test_the_example_is_small():
    files = [*EXAMPLE.glob("own/*.py"), *EXAMPLE.glob("conf/*/*.yaml"), EXAMPLE / "pyproject.toml"]
    count = sum(len(file.read_text().splitlines()) for file in files)
    assert count + len(README.splitlines()) <= 250
    assert {file.parent.name for file in files if file.suffix == ".yaml"} == {
        "model", "data", "loss", "metrics", "scheduler", "init", "study"
    }  # fmt: skip


# ------------------------------------------------------------------ knobs new
@pytest.fixture
def begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("train.py", "conf"):
        (tmp_path / name).symlink_to(REPO / name)
    return tmp_path


def test_what_new_writes_trains_and_nothing_is_overwritten(begun, capsys):
    uses = []
    for kind in new.KINDS:
        assert new.main([kind, f"my_{kind}", "--package", "mylab"]) == 0
        *_, line = capsys.readouterr().out.splitlines()
        uses.append(line.split("--config-dir mylab/conf ")[1])
        assert ("PYTHONPATH=. KNOBS_ALLOW=mylab. python train.py" in line) == (kind != "study")
    assert uses[3] == "metrics=my_metric objective.metric=val/my_metric"
    words = ["train.py", "--config-dir", "mylab/conf", *" ".join(uses[:4]).split()]
    said = run(begun, [*words, "training.epochs=2"], begun, "mylab.")
    assert "finished: best val/my_metric" in said
    words = ["train.py", "--config-dir", "mylab/conf", *uses[4].split(), "search.runs=4"]
    assert "page: " in run(begun, words, begun, "")
    before = {path: path.read_bytes() for path in begun.glob("mylab/**/*.*")}
    for kind in new.KINDS:
        assert new.main([kind, f"my_{kind}", "--package", "mylab"]) == StorageError.exit_code
    assert {path: path.read_bytes() for path in begun.glob("mylab/**/*.*")} == before
    assert "is there already; choose another name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model", "1x"], "must be a name of Python"),
        (["model", "a-b"], "must be a name of Python"),
        (["model", "class"], "must be a name of Python"),
        (["model", "../x"], "must be a name of Python"),
        (["model", "x" * 61], "at most 60"),
        (["model", "mlp"], "knobs has one of this name"),
        (["metric", "accuracy"], "knobs has one of this name"),
        (["loss", "x", "--package", "json"], "Python knows another of this name"),
        (["loss", "x", "--package", "torch"], "Python knows another of this name"),
        (["loss", "x", "--package", "numpy"], "Python knows another of this name"),
        (["loss", "x", "--package", "knobs"], "Python knows another of this name"),
    ],
)
def test_names_that_mean_another_thing_are_refused(begun, capsys, words, told):
    assert new.main(words) == 2
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in begun.iterdir()) == ["conf", "train.py"]


def test_every_value_that_new_writes_has_its_rule(begun):
    for kind in ("model", "data", "loss"):
        new.main([kind, f"a_{kind}", "--package", "mylab"])
    own = begun / "mylab" / "conf"
    found = {path for path in rules.read(own) if path.count(".") == 1 and "._" not in path}
    assert found >= {"model.width", "data.examples", "data.val", "loss.power"}
    for path in found - {"model.name", "data.name"}:
        option = next(iter(rules.read(own)[path]))
        says = rules.rule(path, {path.split(".")[0]: option}, (own, rules.CONF))
        assert getattr(says, "says", "any value") != rules.anything.says, path


def test_a_printed_command_keeps_what_this_process_admits(begun, monkeypatch):
    monkeypatch.setenv("KNOBS_ALLOW", "theirs.")
    assert "KNOBS_ALLOW=theirs.,mylab. python" in new.command("mylab", "model=x", True)
    assert "KNOBS_ALLOW=theirs. python" in new.command("theirs", "model=x", True)
    assert new.command("mylab", "-m +study=x", False).endswith(
        "python train.py --config-dir mylab/conf -m +study=x"
    )
    assert targets.own("mylab.x") is False
