"""The README's commands run, its options exist, and no command is forgotten."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import REPO
from PIL import Image

README = (REPO / "README.md").read_text()
BASH = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
STUDY = 'make sweep ARGS="+study=optimizer"'
COMMANDS = list(dict.fromkeys(line for line in BASH if line.startswith("python train.py")))


def test_every_command_is_known():
    assert len(COMMANDS) >= 15
    assert set(BASH) - set(COMMANDS) == {
        "make train",
        "make test",
        STUDY,
    }


def test_a_study_by_make_is_a_study():
    done = subprocess.run(
        ["make", "-sn", *shlex.split(STUDY)[1:]], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].endswith("python train.py -m +study=optimizer")


@pytest.fixture
def folder(tmp_path):
    """A working folder with the files that the commands name."""
    rows = "".join(f"{i % 7},{'ab'[i % 2] if i % 5 else ''},{i * 1.5}\n" for i in range(80))
    (tmp_path / "house.csv").write_text("rooms,kind,price\n" + rows)
    rows = "".join(f"word{i % 9} and more,{'xyz'[i % 3]}\n" for i in range(90))
    (tmp_path / "mail.csv").write_text("body,topic\n" + rows)
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (40, 40), (c * 200, i, 10)).save(
                tmp_path / "pictures" / name / f"{i}.png"
            )
    return tmp_path


def run(cwd, *args):
    env = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPO / "train.py"), *args]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command, folder):
    args = shlex.split(command)[2:]
    if args[0].startswith("resume="):
        assert (
            run(folder, "training.epochs=1", "hydra.run.dir=outputs/runs/DATE/TIME-NAME").returncode
            == 0
        )
    elif not any(a.startswith("training.epochs") for a in args):
        args.append("training.epochs=1")
    done = run(folder, *args)
    assert done.returncode == 0, done.stderr
    told = ("finished: best val/", "nothing was trained", "rank  val/", "page: ")
    assert any(words in done.stdout for words in told)


def test_the_table_of_knobs_lists_every_option():
    for group in (REPO / "conf").iterdir():
        if not group.is_dir() or group.name == "hydra":
            continue
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group.name}` |"))
        words = set(re.findall(r"\w+", row))
        assert {p.stem for p in group.glob("*.yaml")} <= words, group.name


def test_make_lists_its_targets():
    done = subprocess.run(["make", "-s"], cwd=REPO, capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {
        "train",
        "test",
        "check",
        "bench",
        "clean",
        "format",
    }
