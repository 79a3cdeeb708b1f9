"""The command line's help and completion: from the YAML files, without torch."""

import os
import re
import subprocess
import sys

import pytest
from conftest import REPO
from rich.console import Console

import knobs
from knobs import completion, help
from knobs.config.manual import WHOLE, Conf, first_comment
from knobs.errors import ConfigError
from knobs.identity import CONF

TRAIN = REPO / "train.py"
GROUPS = {path.parent.name for path in CONF.glob("*/*.yaml")}


@pytest.fixture
def ask(capsys, monkeypatch):
    """What `--help WORDS` prints at a width."""

    def shown(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert help.answer(["--help", *words])
        return capsys.readouterr().out

    return shown


def run(*words, **env):
    """The output of train.py in a process of its own, and whether it imported torch."""
    code = (
        f"import sys, runpy; sys.argv = [{str(TRAIN)!r}, *{words!r}]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(REPO / "src"), "COLUMNS": "80"} | env
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    *lines, torch = done.stdout.splitlines()
    assert torch == "False"
    return done.returncode, lines, done.stderr


# ------------------------------------------------------------------ the first screen
@pytest.mark.parametrize("flags", [("--help",), ("-h",), ("-h", "-m")])
def test_help_is_one_screen_that_names_every_group(flags):
    code, lines, error = run(*flags)
    assert (code, error) == (0, "")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert [g for g in GROUPS if f"{g}=" not in "\n".join(lines)] == []
    assert "  optimizer=       adam      how a gradient becomes an update" in lines


def test_more_groups_than_lines_are_named_in_one(tmp_path, ask):
    for name in "abcdefgh":
        (tmp_path / f"own_{name}").mkdir()
        (tmp_path / f"own_{name}" / "one.yaml").write_text("# One.\n")
    shown = ask("--config-dir", str(tmp_path))
    assert "  also own_a= own_b= own_c=" in shown
    assert len(shown.splitlines()) + 4 <= 24  # with the five of train.py's docstring


def test_the_version_is_one_place_and_needs_no_torch():
    code, lines, _ = run("--version")
    assert code == 0
    assert lines[0] == f"knobs {knobs.__version__}" == "knobs 0.2.0"
    assert lines[1].startswith("torch 2.")


# ------------------------------------------------------------------ groups, options, keys
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_shows_each_option_with_its_first_comment(ask, group):
    shown = ask(group, columns=300)
    for path in (CONF / group).glob("*.yaml"):
        assert f"{path.stem} " in shown
        assert first_comment(path) in shown


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}={p.stem}"
)
def test_an_option_shows_every_key_and_fits(ask, path, columns):
    group, option = path.parent.name, path.stem
    shown = ask(f"{group}={option}", columns=columns)
    if group in WHOLE:
        assert path.read_text().rstrip() in shown
        return
    heads = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert [
        key for key in Conf().keys(group, option) if key.removeprefix(f"{group}.") not in heads
    ] == []
    spilled = [line for line in shown.splitlines() if len(line) > columns]
    assert spilled == []


def test_a_key_has_its_default_its_rule_and_its_comment(ask):
    adam = ask("optimizer=adam").splitlines()
    assert "lr              1e-3          > 0; log 1e-4 .. 1e-2" in adam
    assert "amsgrad         false         true or false" in adam
    assert "  Source: Kingma and Ba 2014, arXiv:1412.6980." in adam
    quick = ask("training=quick")  # its own, and those of the option that it is made of
    assert re.search(r"^epochs +1 +whole number >= 1$", quick, re.MULTILINE)
    assert re.search(r"^clip_norm +null +null or > 0; largest norm", quick, re.MULTILINE)
    rates = ask("optimizer.lr").splitlines()
    assert "sgd            0.1      > 0; log 1e-2 .. 1" in rates
    assert len(rates) == 2 + len(Conf().options("optimizer"))
    assert ask("seed").splitlines()[1].startswith("seed  0        whole number >= 0 and < 2^63;")
    assert "objective.mode" in ask("objective")
    assert "default: training.early_stopping.patience" in ask("training.early_stopping")


def test_a_group_of_few_options_shows_its_defaults_keys_at_once(ask):
    assert "gradient_accumulation_steps  1" in ask("training")
    assert "dampening" not in ask("optimizer")


def test_hydras_groups_are_explained_too(ask):
    assert "* stack   runs that can share a computation train as one" in ask("hydra/launcher")
    assert "width               null" in ask("hydra/launcher=stack")


def test_help_behind_overrides_is_about_what_they_name(ask):
    shown = ask("optimizer=adam,sgd", "+study=lr", "scheduler.gamma=0.1", "seed=3", "-m")
    for line in (
        "optimizer=adam",
        "optimizer=sgd",
        "study=lr",
        "scheduler.gamma, by option of scheduler:",
    ):
        assert line in shown.splitlines()
    assert "\nseed  0 " in shown


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("optimizr", "did you mean optimizer?"),
        ("optimizer=adm", "did you mean optimizer=adam?"),
        ("optimizer.lrr", "did you mean optimizer.lr?"),
        ("seeed", "did you mean seed?"),
        ("hydra/launcher=stak", "did you mean stack?"),
        ("loss.qqqqqqqqqqqqqqqqq", "see --help loss"),
        ("qqqqqqqq", "--help lists what there is"),
        ("hydra/qqqq", "see --hydra-help"),
    ],
)
def test_an_unknown_word_is_answered_by_the_nearest(word, near):
    with pytest.raises(ConfigError, match=f"^--help {word}: no such .*{near}".replace("?", r"\?")):
        help.answer(["--help", word])


def test_a_fault_of_help_has_the_exit_code_of_a_config():
    code, lines, error = run("--help", "optimizr")
    assert (code, lines) == (2, [])
    assert error == "knobs: --help optimizr: no such group or key; did you mean optimizer?\n"


def test_options_of_ones_own_are_shown(tmp_path, ask):
    (tmp_path / "optimizer").mkdir()
    text = "# Mine, [bold] and whole.\n_target_: mylab.Mine\nlr: 2.0   # > 1; large\nsteps: [1,\n  2]\n"
    (tmp_path / "optimizer" / "mine.yaml").write_text(text)
    assert "  mine           Mine, [bold] and whole." in ask(
        "optimizer", "--config-dir", str(tmp_path)
    )
    shown = ask("optimizer=mine", f"--config-dir={tmp_path}").splitlines()
    assert "lr             2.0      > 1; large" in shown
    assert "mine           2.0      > 1; large" in ask("optimizer.lr", "-cd", str(tmp_path))
    (tmp_path / "optimizer" / "mine.yaml").write_text("lr: [")
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read as YAML"):
        ask("optimizer=mine", f"--config-dir={tmp_path}")


def test_no_color_and_columns_are_honoured(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert Console().width == 100
    code, lines, _ = run("--help", "optimizer=adam", NO_COLOR="1", FORCE_COLOR="1")
    assert code == 0
    assert "\x1b[36m" not in "\n".join(lines)  # no color; bold may be


# ------------------------------------------------------------------ completion
def completed(monkeypatch, capsys, line, shell="bash"):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.delenv("COMP_POINT", raising=False)
    assert help.answer(["-sc", f"query={shell}"])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("optimizer=ada", "adadelta adafactor adagrad adam adamax adamw"),
        ("optimizer=adam optimizer.be", "optimizer.betas="),
        ("optimizer=sgd optimizer.d", "optimizer.dampening= optimizer.differentiable="),
        ("optim", "optimizer. optimizer="),
        ("st", "+study="),
        ("+st", "+study="),
        ("+study=l", "+study=l1 +study=l2 +study=lr"),
        ("test=", "test=false test=true"),
        ("task=t", "task=train"),
        ("training.precision=", "training.precision=bf16 training.precision=fp32"),
        ("-m training.precision=fp32,b", "training.precision=fp32,bf16"),
        ("regularization.norm=", "regularization.norm=batch regularization.norm=layer regularization.norm=null"),
        ("training.ema=", "training.ema=null"),
        ("seed=", "seed=0"),
        ("optimizer.amsgrad=", "optimizer.amsgrad=false optimizer.amsgrad=true"),
        ("resume=", "resume=outputs/runs/2026-02-01/b resume=outputs/runs/2026-01-01/a"),
        ("rerun=outputs/runs/2026-01", "rerun=outputs/runs/2026-01-01/a"),
        ("trust=", "trust=false trust=true"),
        ("--dry", "--dry-run"),
        ("sweep=", "sweep=mine sweep=yours"),
        ("--he", "--help"),
        ("--help optim", "optimizer optimizer. optimizer="),
        ("--help training.ep", "training.epochs training.epochs="),
        ("--help optimizer=adamw", "optimizer=adamw"),
        ("qqq", ""),
        ("data.path=./o", "data.path=./outputs"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", ["python train.py", ".venv/bin/python ./train.py"])
def test_completion(tmp_path, monkeypatch, capsys, program, line, words):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/2026-01-01/a", "runs/2026-02-01/b", "runs/2026-02-01/c d", "sweeps/no"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    for path in (tmp_path / "outputs/runs").glob("*/*"):
        (path / "config.json").write_text("{}")
    for name, file in (("mine", "sweep.json"), ("yours", "study.json"), ("x=1", "sweep.json")):
        (tmp_path / "outputs/sweeps" / name).mkdir()
        (tmp_path / "outputs/sweeps" / name / file).write_text("{}")
    head = "optimizer=" if line == "optimizer=ada" else ""
    assert completed(monkeypatch, capsys, f"{program} {line}") == sorted(
        head + w for w in words.split()
    )


def test_completion_knows_a_folder_of_ones_own_and_the_place_of_the_cursor(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("# Mine.\nlr: 1.0\n")
    line = f"python train.py --config-dir {tmp_path} optimizer=mi"
    assert completed(monkeypatch, capsys, line) == ["optimizer=mine"]
    assert completed(monkeypatch, capsys, f"{line}ne optimizer.") == [
        f"optimizer.{key}=" for key in ("groups", "head_lr", "layer_decay", "lr")
    ]
    line = "python train.py optimizer=adamw seed=1"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(line.index("amw")))
    assert help.answer(["-sc", "query=fish"])
    assert capsys.readouterr().out.split() == [
        f"optimizer={o}" for o in sorted(Conf().options("optimizer")) if o.startswith("ad")
    ]


def test_hydra_answers_for_itself(monkeypatch):
    monkeypatch.setenv("COMP_LINE", "python train.py hydra/launcher=")
    assert not completion.complete(["query=bash"])
    assert not completion.complete(["install=bash"])
    assert not help.answer(["--hydra-help"])
    code, lines, _ = run("-sc", "query=bash", COMP_LINE="python train.py hydra/launcher=st")
    assert (code, lines) == (0, ["hydra/launcher=stack"])
    code, lines, _ = run("-sc", "query=bash", COMP_LINE="python train.py training.clip_n")
    assert (code, lines) == (0, ["training.clip_norm="])
