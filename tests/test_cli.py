"""train.py as a user runs it: exit codes, what is printed, what is left behind."""

import json
import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import processes
import pytest
from conftest import REPO
from hydra._internal.hydra import Hydra
from trained import ENV, TRAIN
from trained import train_py as run

from knobs import cli
from knobs.config import command
from knobs.errors import ConfigError
from knobs.record import read_config, read_metrics, read_summary
from knobs.shell import literal, quoted
from knobs.storage import Lock


def folders(cwd):
    return sorted(p.parent for p in Path(cwd).glob("outputs/*/*/**/.hydra"))


def test_train_py_is_short():
    assert len((REPO / "train.py").read_text().splitlines()) <= 40


def test_a_run_shows_and_leaves_what_it_should(tmp_path):
    done = run(tmp_path, "optimizer=momentum", "training.epochs=3", "optimizer.lr=5")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    head = done.stdout.splitlines()
    assert head[1].split() == [
        "changed",
        "optimizer=momentum",
        "training.epochs=3",
        "optimizer.lr=5",
    ]
    assert "hint       lr 5 is outside 0.001 .. 1, usual for SGD with momentum" in done.stdout
    assert re.search(
        r"epoch 3/3  loss \d\.\d+  val/accuracy 0\.\d+  lr 5.00e\+00  0 s left", done.stdout
    )
    assert re.search(r"finished: best val/accuracy 0\.\d{4}", done.stdout)
    assert re.search(r"cost +\d+\.\d s, [\d,]+ samples/s, peak memory [\d,]+ MiB", done.stdout)
    (folder,) = folders(tmp_path)
    assert folder.name.endswith("-momentum-epochs3-lr5")
    assert sorted(p.name for p in folder.iterdir()) == [
        ".hydra",
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "predictions.safetensors",
        "preparation.json",
        "preparation.safetensors",
        "summary.json",
        "train.log",
    ]
    assert sorted(p.name for p in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]
    assert len(read_metrics(folder)) == 3
    assert "train/loss" in (folder / "train.log").read_text()


@pytest.mark.parametrize(("args", "code", "message"), [
    (["optimizer=adm", "training.epoch=3", "seed=-1"], 2, "invalid config: 3 faults, nothing was run"),
    (["optimizer._target_=os.system"], 2, "not allowed here"),
    (["optimizer.lr=abc"], 2, "optimizer.lr=abc: must be a number > 0"),
    (["-m", "optimizer=adam,sgdd"], 2, "did you mean sgd?"),
    (["model=cnn", "model.width=2", "model.depth=9"], 2, "model.depth=9: halves an image of (8, 8) to nothing"),
    (["data=fashion_mnist", "data.root=nowhere", "data.download=false"], 3, "train-images-idx3-ubyte.gz"),
    (["data=csv", "data.path=no.csv", "data.target=y", "data.task=regression"], 3, "no.csv: no such file; expected a CSV"),
    (["-cn", "config", "+hydra.callbacks.x._target_=os.system"], 2, "hydra.callbacks.x._target_=os.system: not allowed"),
    (["--experimental-rerun", "config.pickle"], 2, "reads a pickle, which can run code"),
    (["optimizer.lr=1e-2,1e-3"], 2, "optimizer.lr=1e-2,1e-3: several values are a grid; put -m first"),
    (["resume=nowhere"], 4, "resume=nowhere: no run there"),
])  # fmt: skip
def test_a_users_fault_is_one_message_and_leaves_nothing(args, code, message, tmp_path):
    done = run(tmp_path, *args)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert folders(tmp_path) == []


def test_divergence_is_exit_5_and_recorded(tmp_path):
    done = run(tmp_path, "optimizer=sgd", "optimizer.lr=1e12")
    assert done.returncode == 5
    assert "the loss is not a finite number at step" in done.stdout
    assert read_summary(folders(tmp_path)[0])["status"] == "diverged"


LONG = ["training.epochs=30", "regularization=dropout", "scheduler=one_cycle", "seed=3"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was not interrupted."""
    cwd = tmp_path_factory.mktemp("whole")
    assert run(cwd, *LONG, "hydra.run.dir=whole").returncode == 0
    return cwd / "whole"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_same_bits(number, code, whole, tmp_path):
    knobs, broken = LONG, tmp_path / "broken"
    process = processes.start([*TRAIN, *knobs, f"hydra.run.dir={broken}"], tmp_path, ENV)
    metrics = broken / "metrics.jsonl"
    deadline = time.time() + 60
    while time.time() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert re.search(r"go on +python train.py resume=\S*broken", out)
    assert read_summary(broken)["status"] == "interrupted"
    resumed = run(tmp_path, f"resume={broken}")
    assert resumed.returncode == 0, resumed.stderr
    for name in ("metrics.jsonl", "checkpoints/best.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert read_summary(broken)["status"] == "finished"
    assert run(tmp_path, f"resume={broken}").returncode == 0  # nothing left to do is no fault
    changed = run(tmp_path, f"resume={broken}", "optimizer.lr=1")
    assert changed.returncode == 2
    assert "optimizer.lr=1: a resumed run keeps its knobs" in changed.stderr


@pytest.mark.parametrize(
    ("words", "mode", "known"),
    [(["seed=1", "task=preview"], None, True), (["seed=1", "task=preview"], "MULTIRUN", False),
     (["-m", "seed=0,1"], None, True), (["hydra.mode=MULTIRUN", "seed=0,1"], None, False)],
)  # fmt: skip
def test_hydra_is_asked_for_its_mode_only_where_something_sets_it(
    words, mode, known, tmp_path, monkeypatch
):
    """It composes all to answer; mode stands for what a YAML has."""
    monkeypatch.chdir(tmp_path)
    line, whole = cli.prepare(words), Hydra.get_mode
    for config in command.LAST.jobs.values():
        config["hydra"]["mode"] = mode
    with cli._mode_known(line):
        assert (Hydra.get_mode is not whole) == known
        assert not known or Hydra.get_mode(None, "config", []) is None
    assert Hydra.get_mode is whole


def test_multirun_with_the_stock_launcher(tmp_path):
    done = run(tmp_path, "-m", "optimizer=adam,sgd", "seed=0,1", "training.epochs=1")
    assert done.returncode == 0, done.stderr
    jobs = folders(tmp_path)
    assert [j.name for j in jobs] == ["0", "1", "2", "3"]
    assert jobs[0].parent.parent.parent.name == "sweeps"
    assert len({read_summary(j)["config_hash"] for j in jobs}) == 4


def test_tab_completion(tmp_path):
    env = ENV | {"COMP_LINE": "python train.py optimizer=ada", "COMP_POINT": "29"}
    done = run(tmp_path, "-sc", "query=bash", env=env)
    assert set(done.stdout.split()) >= {"optimizer=adam", "optimizer=adamw", "optimizer=adagrad"}


def test_preview_draws_and_trains_nothing(tmp_path):
    done = run(tmp_path, "scheduler=one_cycle", "task=preview", "training.epochs=10")
    assert done.returncode == 0, done.stderr
    assert "340 steps in 10 epochs; lr first 4e-05, highest 0.001, last 4e-09" in done.stdout
    (folder,) = folders(tmp_path)
    assert (folder / "lr.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not (folder / "metrics.jsonl").exists()


def test_suggest_names_a_config_that_can_be_typed_and_trains_nothing(tmp_path):
    words = ["tracking=local", "training.epochs=1", "model.width=32"]
    done = run(tmp_path, "task=suggest", *words)
    assert done.returncode == 0, done.stderr
    (folder,) = folders(tmp_path)
    assert not (folder / "metrics.jsonl").exists()
    told = json.loads((folder / "suggestion.json").read_text())
    assert 0.5 < told["better_than"] < 1
    assert told["better_than"] > told["this_config_better_than"]
    assert len(told["tune_first"]) == 3
    assert told["tune_first"][0]["knob"] == "optimizer.lr"
    assert "model.width" not in told["config"]  # it is typed
    lines = done.stdout.splitlines()
    assert f"  {told['command']}" in lines
    assert f"  {told['search']}" in lines
    again = shlex.split(told["command"])
    assert again[:2] == ["python", "train.py"]
    assert set(words) < set(again)
    trained = run(tmp_path, *again[2:])
    assert trained.returncode == 0, trained.stderr
    config = json.loads(next(tmp_path.glob("**/summary.json")).with_name("config.json").read_text())
    found = config["config"]
    assert found["optimizer"]["lr"] == told["config"]["optimizer.lr"]
    assert found["model"]["depth"] == told["config"]["model.depth"]
    search = shlex.split(told["search"])[2:]
    shown = run(tmp_path, *search, "--dry-run")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=linear"], "task=suggest: model=linear is not known from other tasks"),
        (["optimizer=lbfgs"], "task=suggest: optimizer=lbfgs is not known from other tasks"),
    ],
)
def test_suggest_says_what_other_tasks_did_not_have(tmp_path, words, told):
    done = run(tmp_path, "task=suggest", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_two_runs_in_one_second_have_folders_of_their_own(tmp_path):
    dirs = {
        run(tmp_path, "hydra.run.dir=${free_dir:same}", "training.epochs=1").returncode
        for _ in range(2)
    }
    assert dirs == {0}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["same", "same-2"]


def test_a_config_of_the_users_own_folder(tmp_path):
    own = tmp_path / "own" / "optimizer"
    own.mkdir(parents=True)
    (own / "fast.yaml").write_text(
        "# mine\n_target_: torch.optim.SGD\n_partial_: true\nlr: 0.3\nweight_decay: 0\n"
    )
    done = run(
        tmp_path, "--config-dir", str(tmp_path / "own"), "optimizer=fast", "training.epochs=1"
    )
    assert done.returncode == 0, done.stderr
    assert "SGD, lr 0.3" in done.stdout


# ------------------------------------------------------------------ folders that hold a run
def test_a_new_run_is_not_typed_into_the_folder_of_another(tmp_path):
    assert run(tmp_path, "training.epochs=1", "hydra.run.dir=here").returncode == 0
    before = {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()}
    done = run(tmp_path, "training.epochs=1", "seed=1", "hydra.run.dir=here")
    assert done.returncode == 2
    assert "hydra.run.dir=here: holds a run already; resume=here goes on with it" in done.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "here").rglob("*") if p.is_file()} == before
    assert run(tmp_path, "task=preview", "hydra.run.dir=here").returncode == 0  # writes no run


@pytest.mark.parametrize("name", ["config.json", "sweep.json", "study.json", "ensemble.json"])
def test_a_folder_that_holds_something_takes_no_new_run(name, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=f"hydra.run.dir={tmp_path}: holds ") as refused:
        cli._refuse_another_run(tmp_path)
    if name == "config.json":
        assert f"resume={tmp_path} goes on with it, rerun={tmp_path} trains" in str(refused.value)


def test_a_refused_second_process_changes_nothing(tmp_path):
    """Not even `.hydra/`: the lock comes before Hydra writes."""
    words = ["training.epochs=3000", "hydra.run.dir=here"]
    first = processes.start([*TRAIN, *words], tmp_path, ENV)
    here = tmp_path / "here"
    while not (here / "checkpoints" / "last.safetensors").exists() and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)

    def files():
        return {p: p.read_bytes() for p in here.rglob("*") if p.is_file() and p.suffix != ".lock"}

    before = files()
    for second, code in (([*words, "seed=1"], 2), (["resume=here", "training.epochs=4000"], 9)):
        done = run(tmp_path, *second)
        assert done.returncode == code, done.stderr
        assert files() == before
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL


def test_two_new_runs_in_one_new_folder_are_told_apart(tmp_path):
    (tmp_path / "here").mkdir()
    holder = Lock(tmp_path / "here" / "run.lock")
    done = run(tmp_path, "training.epochs=1", "hydra.run.dir=here")
    assert (done.returncode, "another process is writing this run" in done.stderr) == (9, True)
    assert not (tmp_path / "here" / ".hydra").exists()
    holder.release()
    assert run(tmp_path, "training.epochs=1", "hydra.run.dir=here").returncode == 0


def test_an_old_name_of_a_key_is_taken_as_its_new_one(tmp_path):
    words = ["training.epochs=1", "hydra.run.dir=here"]
    done = run(tmp_path, *words, "training.accumulate=2")
    assert done.returncode == 0, done.stderr
    new = "training.gradient_accumulation_steps=2"
    assert f"training.accumulate=2 is {new} now, and is taken as that" in done.stderr
    about = read_config(tmp_path / "here")
    assert new in about["overrides"]
    assert about["config"]["training"]["gradient_accumulation_steps"] == 2
    (tmp_path / "own" / "training").mkdir(parents=True)
    recipe = "# Mine.\ndefaults:\n  - default\n  - _self_\n\naccumulate: 2\n"
    (tmp_path / "own" / "training" / "mine.yaml").write_text(recipe)
    done = run(tmp_path, "--config-dir", "own", "training=mine")
    assert done.returncode == 2
    assert "training.accumulate=2: is training.gradient_accumulation_steps now" in done.stderr


def test_a_run_without_its_hydra_folder_resumes_by_its_record(tmp_path):
    assert run(tmp_path, "training.epochs=1", "seed=4", "hydra.run.dir=here").returncode == 0
    shutil.rmtree(tmp_path / "here" / ".hydra")
    done = run(tmp_path, "resume=here", "training.epochs=2")
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_metrics(tmp_path / "here")] == [1, 2]
    assert read_config(tmp_path / "here")["config"]["seed"] == 4


def test_a_recorded_run_is_trained_again_and_changed(tmp_path):
    knobs = [
        "optimizer=momentum",
        "optimizer.lr=0.05",
        "scheduler=one_cycle",
        "training.epochs=2",
        "tracking=local",
    ]
    assert run(tmp_path, *knobs, "regularization.dropout=0.2", "hydra.run.dir=a").returncode == 0
    first = tmp_path / "a"
    again = run(tmp_path, "rerun=a", "tracking=local", "hydra.run.dir=b")
    assert again.returncode == 0, again.stderr
    assert read_config(tmp_path / "b")["identity"] == read_config(first)["identity"]
    assert read_metrics(tmp_path / "b") == read_metrics(first)
    changed = run(tmp_path, "rerun=a", "tracking=local", "optimizer.lr=0.1", "hydra.run.dir=c")
    assert changed.returncode == 0, changed.stderr
    was, now = (read_config(tmp_path / name)["config"] for name in "ac")
    assert (was["optimizer"]["lr"], now["optimizer"]["lr"]) == (0.05, 0.1)
    # What followed from the value follows from the new one.
    assert now["scheduler"]["max_lr"] == pytest.approx(2 * was["scheduler"]["max_lr"])
    assert now["regularization"] == was["regularization"]


@pytest.mark.parametrize("name", [
    "it's a", "${x=1},ä", *(pytest.param(n, marks=pytest.mark.slow) for n in ("it's", "a b", "x=1", "${x}", "ä", "c,d"))
])  # fmt: skip
def test_a_folder_of_any_name(name, tmp_path):
    """Two names have every character that the others have one by one; those say which it is."""
    place = tmp_path / name
    knobs = ["training.epochs=1", "tracking=local"]
    done = run(tmp_path, *knobs, f"hydra.run.dir={quoted(literal(str(place)))}")
    assert done.returncode == 0, done.stderr
    resumed = run(tmp_path, f"resume={place}", "training.epochs=2")
    assert resumed.returncode == 0, resumed.stderr
    assert len(read_metrics(place)) == 2


def test_a_bug_is_one_line_and_its_traceback_is_in_the_log(tmp_path):
    (tmp_path / "mylab.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Linear):\n"
        "    def __init__(self, shape):\n        super().__init__(shape.features, shape.outputs)\n\n"
        "    def forward(self, x):\n        if len(x) == 7:\n            raise KeyError('boom')\n"
        "        return super().forward(x.flatten(1))\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "# Mine.\nname: mine\ninputs: [image]\n_target_: mylab.Net\n_partial_: true\n"
    )
    words = ["--config-dir", "conf", "model=mine", "tracking=local", "hydra.run.dir=r"]
    words.append("training.batch_size=7")
    refused = run(tmp_path, *words)
    assert refused.returncode == 2
    assert "export KNOBS_ALLOW=mylab." in refused.stderr
    env = ENV | {
        "KNOBS_ALLOW": "mylab",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    done = run(tmp_path, *words, env=env)
    assert done.returncode == 1
    assert done.stderr == (
        "knobs: KeyError: 'boom'; a bug of knobs or of your own code, its traceback is in r/train.log\n"
    )
    assert "KeyError: 'boom'" in (tmp_path / "r" / "train.log").read_text()
    other = run(tmp_path, *words, env=env | {"KNOBS_ALLOW": "myla"})  # whole names
    assert other.returncode == 2


def test_a_dry_run_shows_and_leaves_nothing(tmp_path):
    done = run(tmp_path, "-m", "optimizer=adam,sgd", "seed=0,1", "tracking=local", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 runs in 1 stack: [\d,]+ optimizer steps, about [\d.]+ s", done.stdout)
    assert [line.split()[:3] for line in done.stdout.splitlines()[2:6]] == [
        [str(n), f"optimizer={name}", f"seed={seed}"]
        for n, (name, seed) in enumerate((o, s) for o in ("adam", "sgd") for s in (0, 1))
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_sweep_that_is_there_shows_what_is_left(tmp_path):
    knobs = ["tracking=local", "training.epochs=1", "sweep=s"]
    assert run(tmp_path, "-m", *knobs, "seed=0,1").returncode == 0
    over = run(tmp_path, "-m", *knobs, "seed=0,1", "--dry-run")
    assert (over.returncode, over.stdout) == (
        0,
        "nothing to run: every job of this sweep has ended\n",
    )
    left = run(tmp_path, "-m", *knobs, "seed=0,1,2", "--dry-run")
    assert left.returncode == 0, left.stderr
    assert "1 run sequentially" in left.stdout
    assert "seed=2" in left.stdout
