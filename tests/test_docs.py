"""README.md, AGENTS.md and docs/: every command and Python snippet runs, every link resolves, output is real."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import processes
import pytest
import tiny_networks
from conftest import REPO
from PIL import Image

from knobs.compare.gate import ARMS, Plan
from knobs.config.manual import default_options

# The log is a dated record: its commands are those of their day.
PAGES = {
    path.name: path.read_text()
    for path in (REPO / "README.md", REPO / "AGENTS.md", *sorted((REPO / "docs").glob("*.md")))
    if path.name != "LOG.md"
}
README = PAGES["README.md"]
ENDINGS = (
    *(
        "finished: best val/",
        "finished: 1 epoch",
        "nothing was trained",
        "rank  val/",
        "page: ",
        "folder: ",
    ),
    *(
        "no runs below outputs",
        "run,sweep,status",
        "nothing to remove",
        "GiB at most",
        " removed, ",
        "optimizer=",
        "row,prediction",
        "optimizer.lr,",
        "on this validation split",
    ),
)


def blocks(language):
    """(page, text) of every block in a language."""
    return [
        (name, block)
        for name, page in PAGES.items()
        for block in re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ]


# Commands that follow on one another, a paragraph a kind of data.
[PATHS] = re.findall(
    r"^## From your file to predictions\n.*?```bash\n(.*?)^```", README, re.S | re.M
)
PATHS = PATHS.strip().split("\n\n")
LINES = list(
    dict.fromkeys(
        line
        for _, block in blocks("bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    )
)
MAKE = [line for line in LINES if line.startswith("make ")]
COMMANDS = [line for line in LINES if line not in MAKE and line not in "\n".join(PATHS)]
GATES = [line for line in COMMANDS if "--gate" in line]
VERDICTS = (0, 20, 21, 22)  # exit codes of a comparison
# A block under a line that is a path in backquotes is that file; the commands find it there.
FILE = r"^`(\S+)`:\n\n```(?:yaml|python)\n(.*?)^```"
FILES = [found for page in PAGES.values() for found in re.findall(FILE, page, re.DOTALL | re.M)]
SNIPPETS = [s for _, s in blocks("python") if s not in {text for _, text in FILES}]


# ------------------------------------------------------------------ a folder to run in
def run(cwd, *words, env=None):
    """A command in a folder, without W&B and on one thread."""
    paths = [str(cwd), *filter(None, [os.environ.get("PYTHONPATH")])]  # mylab lies beside train.py
    quiet = {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    # A gate's commands begin with `python`, which is that of an activated environment.
    quiet["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    env = os.environ | quiet | (env or {})
    return processes.run([sys.executable, *words], cwd, env, timeout=300)


def write_house(path):
    rows = "".join(f"{i % 7},{'ab'[i % 2] if i % 5 else ''},{i * 1.5}\n" for i in range(80))
    path.write_text("rooms,kind,price\n" + rows)


@pytest.fixture(scope="session")
def outputs(tmp_path_factory):
    """outputs/ with the run and the sweep that the pages call DATE/TIME-NAME and NAME."""
    folder, train = tmp_path_factory.mktemp("outputs"), str(REPO / "train.py")
    write_house(folder / "house.csv")
    for words in (
        ["training.epochs=1", "hydra.run.dir=outputs/runs/DATE/TIME-NAME"],
        [
            "training.epochs=1",
            "hydra.run.dir=outputs/runs/DATE/TIME-NAME-house",
            "data=csv",
            "data.path=house.csv",
            "data.target=price",
            "data.task=regression",
        ],
        ["-m", "sweep=NAME", "optimizer.lr=1e-3,3e-3,1e-2,3e-2", "seed=0,1", "training.epochs=1"],
    ):
        done = run(folder, train, *words)
        assert done.returncode == 0, done.stderr
    return folder / "outputs"


@pytest.fixture
def folder(tmp_path, request):
    """A working folder with the files that commands and snippets name."""
    (tmp_path / "train.py").symlink_to(REPO / "train.py")
    write_house(tmp_path / "house.csv")
    rows = "".join(f"word{i % 9} and more,{'xyz'[i % 3]},{i % 2},{i // 2 % 2}\n" for i in range(90))
    (tmp_path / "mail.csv").write_text("body,topic,spam,urgent\n" + rows)
    rows = "".join(f"word{i % 9} and more,{i % 5 + 1}\n" for i in range(90))
    (tmp_path / "reviews.csv").write_text("text,stars\n" + rows)
    rows = "".join(f"{i % 30},{i % 7},{'yn'[i % 2]}\n" for i in range(90))
    (tmp_path / "visits.csv").write_text("patient,age,ill\n" + rows)
    rows = "".join(f"2024-{i % 12 + 1:02}-{i % 28 + 1:02},{i % 5},{i * 2}\n" for i in range(90))
    (tmp_path / "sales.csv").write_text("sold on,kind,sold\n" + rows)
    rows = [(seed, seed % 3 / 100) for seed in range(6)]
    lines = (f"before,{s},{0.8 + x}\nafter,{s},{0.9 - x}\n" for s, x in rows)
    (tmp_path / "results.csv").write_text("arm,seed,val/accuracy\n" + "".join(lines))
    lines = (f"adam,{s},{0.9 + x},1\nsgd,{s},{0.9 - x},2\n" for s, x in rows)
    (tmp_path / "export.csv").write_text("optimizer,seed,val/accuracy,val/loss\n" + "".join(lines))
    (tmp_path / "faces").mkdir()
    for i in range(20):
        Image.new("RGB", (40, 40), (i * 9, i, 10)).save(tmp_path / "faces" / f"{i}.png")
    rows = "".join(f"{i}.png,{i + 20},{i % 2},{i // 2 % 2}\n" for i in range(20))
    (tmp_path / "faces" / "metadata.csv").write_text("file_name,age,glasses,hat\n" + rows)
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (40, 40), (c * 200, i, 10)).save(
                tmp_path / "pictures" / name / f"{i}.png"
            )
    for path, text in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    text = str(request.node.callspec.params) if hasattr(request.node, "callspec") else ""
    for extra in EXTRAS:
        if f"model={extra}" in text and importlib.util.find_spec(extra) is None:
            pytest.skip(f"the extra `{extra}` is not installed")
    if "model=transformers" in text:
        tiny_networks.network("bert", tmp_path / "FOLDER")
        tiny_networks.table(tmp_path / "texts.csv")
    if "NAME" in text:
        shutil.copytree(request.getfixturevalue("outputs"), tmp_path / "outputs")
    (tmp_path / "outputs" / "sweeps").mkdir(parents=True, exist_ok=True)  # of knobs ls, clean
    return tmp_path


# ------------------------------------------------------------------ commands
def split(line):
    """A shell line -> its variables and its words."""
    words = shlex.split(line)
    count = next(i for i, word in enumerate(words) if not re.fullmatch(r"[A-Z_]+=.*", word))
    return dict(word.split("=", 1) for word in words[:count]), words[count:]


def test_every_command_is_run():
    """A command of another kind needs a way to be tested here."""
    assert len(COMMANDS) >= 30
    other = [
        c for c in COMMANDS if split(c)[1][:2] not in (["python", "train.py"], ["python", "-m"])
    ]
    assert other == []


# Parts of the commands that train most, with what shows in `make test` that their kind trains.
MOST = {
    "tracking=local search.runs=6": "the study of the README",
    "+study=two_optimizers": "tests/sweep/test_study.py: a study of one's own is one YAML",
    "+study=confirm": "tests/sweep/test_study.py: a walk ends at what was confirmed",
    'data.fold=all "seed=range(0,5)"': "the five folds without it",
    "momentum,rprop": "the grid of two optimizers, with seeds",
    "sweep=rates": "grids of other names",
    "launcher=joblib": "tests/faults/test_processes.py: joblib's workers",
    "training.members=1,4": "tests/training/test_members.py; members of one run",
    "pruner=asha": "tests/sweep/test_study.py: a grid prunes through every launcher",
    "hydra.run.dir=outputs/two": "two processes of the README",
}
EXTRAS = ("timm", "transformers")  # packages that `model=` of their name needs
LONG = [c for c in COMMANDS if c not in GATES and any(part in c for part in MOST)]
SLOW = [pytest.param(c, marks=pytest.mark.slow) if c in GATES + LONG else c for c in COMMANDS]


def filled(command):
    """A command -> its variables and the words of a short run of it."""
    variables, words = split(command)
    words = words[1:]
    if words[0] == "train.py":
        words = [str(REPO / "train.py"), *words[1:]]
        given = any(word.startswith(("training.epochs", "--help", "refit=")) for word in words)
        words += [] if given else ["training.epochs=1"]
        if any(word.startswith("+study=") for word in words):  # 5 to 20 pairs an arm otherwise
            key = "+study.max_pairs" if "--config-dir" in words else "study.max_pairs"
            words += ["study.seeds=2", f"{key}=2"]
    # Hydra looks for conf/ beside train.py, and not where a link points.
    words = [word.replace("python train.py", f"python {REPO / 'train.py'}") for word in words]
    return variables, words


def test_each_part_is_of_a_command():
    assert [part for part in MOST if not any(part in c for c in COMMANDS)] == []


@pytest.mark.parametrize("command", LONG)
def test_a_command_that_trains_much_is_accepted(command, folder):
    variables, words = filled(command)
    done = run(folder, *words, "--dry-run", env=variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("folder: ")


@pytest.mark.parametrize("command", SLOW)
def test_a_command_runs(command, folder):
    variables, words = filled(command)
    done = run(folder, *words, env=variables)
    assert done.returncode in (VERDICTS if "knobs.compare" in words else (0,)), done.stderr
    if words[0] != "train.py":
        assert any(ending in done.stdout for ending in ENDINGS), done.stdout


@pytest.mark.parametrize("gate", GATES)
def test_the_commands_of_a_gate_are_those_of_runs(gate, folder):
    plan = Plan(tuple(word for word in shlex.split(gate) if "{seed}" in word))
    for arm in ARMS:
        python, script, *words = plan.words(arm, 0)
        assert (python, script) == ("python", "train.py")
        done = run(folder, str(REPO / script), *words, "--dry-run")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.partition("\n")[0][2:12])
def test_a_file_is_trained_on_predicted_and_exported(path, folder):
    """The same answers from the run and, without knobs, from its export."""
    _, *commands = path.splitlines()
    for command in commands:
        words = split(command)[1][1:]
        if words[0] == "train.py":
            words = [str(REPO / "train.py"), *words[1:], "training.epochs=2"]
        done = run(folder, *words)
        assert done.returncode == 0, done.stderr
    source, answers = split(commands[1])[1][4], split(commands[1])[1][-1]
    exported = folder / split(commands[2])[1][-1]
    again = [sys.executable, "-I", "predict.py", str(folder / source), "--out", "again.csv"]
    done = subprocess.run(again, cwd=exported, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ours, theirs = (pd.read_csv(p) for p in (folder / answers, exported / "again.csv"))
    assert len(ours) == {"house.csv": 80, "mail.csv": 90, "pictures": 40}[source]
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("command", MAKE)
def test_a_make_command_has_a_target(command):
    done = subprocess.run(
        ["make", "-sn", *shlex.split(command)[1:]], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "python" in done.stdout.splitlines()[-1]


def test_a_study_by_make_is_a_study():
    study = 'make sweep ARGS="+study=optimizer"'
    assert study in MAKE
    done = subprocess.run(
        ["make", "-sn", *shlex.split(study)[1:]], cwd=REPO, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].endswith("python train.py -m +study=optimizer")


def test_make_lists_its_targets():
    done = subprocess.run(["make", "-s"], cwd=REPO, capture_output=True, text=True, check=True)
    targets = {line.split()[0] for line in done.stdout.splitlines()}
    assert targets >= {"train", "sweep", "report", "sync", "test", "check", "bench"}


# ------------------------------------------------------------------ snippets
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs(snippet, folder):
    strict = "import warnings\nwarnings.simplefilter('error')\n"  # -W would be a process of its own
    done = run(folder, "-c", strict + snippet)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ output
def masked(text):
    """Lines with numbers, times and folders out of sight, and spaces as one."""
    lines = (re.sub(r"\d[\w.,:+-]*", "#", line) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def sample(page, first):
    """The output block that begins with a line."""
    found = re.findall(rf"^```\n({re.escape(first)}.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, first
    return found[0]


def test_the_sample_of_a_run_is_what_a_run_prints(tmp_path):
    """A change of the output needs the sample recorded anew."""
    done = run(tmp_path, str(REPO / "train.py"))
    printed = masked(done.stdout)
    shown = [line for line in masked(sample(README, "digits-mlp-adam\n")) if line != "..."]
    assert len(shown) >= 10
    assert [line for line in shown if line not in printed] == []


def test_the_sample_of_faults_is_what_the_check_prints(tmp_path):
    command = next(c for c in re.findall(r"^\$ (python train.py .*)$", README, re.MULTILINE))
    done = run(tmp_path, str(REPO / "train.py"), *shlex.split(command)[2:])
    assert done.returncode == 2
    assert done.stderr.strip() == sample(README, f"$ {command}").partition("\n")[2].strip()


@pytest.mark.parametrize("page", ["README.md", "studies.md"])
def test_the_sample_of_a_report_has_the_columns_of_a_report(page, outputs):
    """Of importance; a grid has no default config and so no expected gain."""
    done = run(outputs.parent, "-m", "knobs.report", "outputs/sweeps/NAME", "--out", "report")
    assert done.returncode == 0, done.stderr
    head = next(line for line in masked(done.stdout) if line.startswith("knob "))
    assert any(line.startswith(f"{head} ") for line in masked(PAGES[page])), head


# ------------------------------------------------------------------ what is said exists
def test_the_readme_is_short():
    assert len(README.splitlines()) <= 250


def test_the_page_for_agents_is_short():
    assert len(PAGES["AGENTS.md"].splitlines()) < 40


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page):
    """Files, and headings of pages, as GitHub names them; code in backquotes that is a path too."""
    here = REPO if page in ("README.md", "AGENTS.md") else REPO / "docs"
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[page])
    for link in links:
        if link.startswith("http"):
            continue
        path, _, heading = link.partition("#")
        target = (here / path).resolve() if path else here / page
        assert target.exists(), link
        if heading:
            heads = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            ids = {re.sub(r"[^\w\s-]", "", head.lower()).replace(" ", "-") for head in heads}
            assert heading in ids, link
    for path in re.findall(r"`((?:tests|conf|docs|benchmarks)/[\w/.-]+)`", PAGES[page]):
        assert (REPO / path).exists(), path


def knobs_table():
    """Group -> the options that the README's table names."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", README, re.MULTILINE)
    return {
        group: [o for o in options.strip().split(", ") if o != "..."] for group, options in rows
    }


def test_the_table_of_knobs_has_every_group():
    groups = {p.name for p in (REPO / "conf").iterdir() if p.is_dir()} - {"hydra"}
    assert set(knobs_table()) == groups, "a folder of conf/ is a row of the table in README.md"


@pytest.mark.parametrize("group", knobs_table())
def test_the_table_of_knobs_names_options_that_exist(group):
    """The default first. It need not name them all: a new YAML changes no page."""
    named = knobs_table()[group]
    options = {p.stem for p in (REPO / "conf" / group).glob("*.yaml")}
    assert [o for o in named if o not in options] == []
    default = default_options().get(group)
    assert named[0] == default or default in (None, "null")
