"""Ways to get in: configs, folders and files that try to run code, or to write and send elsewhere."""

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import sys
import time

import pytest
from fake_sweeps import fake_grid
from injected import command, faults

import knobs
from knobs import cli, listing, record, storage, targets, words
from knobs.config import command as lines
from knobs.errors import StorageError, UserError
from knobs.report import __main__ as report
from knobs.report import analysis, leaderboard

MODULE = "evil_of_tests"
EVIL = f"{MODULE}.ran"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module that can be imported, and leaves a mark when it is; asserts that nothing did."""
    mark, home = tmp_path / "mark", tmp_path / "path"
    home.mkdir()
    code = f"open({str(mark)!r}, 'w').close()\ndef ran(*args, **kwargs): open({str(mark)!r}, 'w')\n"
    (home / f"{MODULE}.py").write_text(code)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")

    def variables():
        return [os.environ.get(name) for name in NAMES]

    before = variables()

    def untouched():
        assert not mark.exists()
        assert MODULE not in sys.modules
        assert variables() == before

    return untouched


def chosen(ways, cases):
    """So many of the ways, always the same ones, spread over all."""
    return random.Random(0).sample(ways, cases)


# ------------------------------------------------------------------ what a config names
NODES = ["{_target_:%s}", "{_target_:%s,_partial_:true}", "[{_target_:%s}]", "[[{_target_:%s}]]",
         "{a:{b:[{_target_:%s}]}}"]  # fmt: skip
SECTIONS = ["data", "model", "optimizer", "scheduler", "activation", "init", "init.linear", "loss",
            "tracking", "training", "regularization", "search", "objective", "metrics",
            "metrics.own", "hydra.launcher", "hydra.sweeper", "hydra.callbacks"]  # fmt: skip
CODE = [
    EVIL, "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "torch.hub.load",
    "pickle.loads", "hydra.utils.get_class", "hydra.utils.call", "knobs.data.vision.os.system",
    "hydra._internal.instantiate._instantiate2.instantiate", "torch.optim.Adam.__init__",
    "torch.optim.adam.torch.load", "knobs.targets.make", "knobs.storage.write", "_io.open",
    "torch.nn.modules.module.torch", "knobs.init.ConfigError", "importlib.import_module", "code.interact",
    "hydra_plugins.knobs_launcher.os.system", "torch.nn.Module.load_state_dict",
]  # fmt: skip
SPELLED = [
    f"++optimizer._args_=[{{_target_:{EVIL}}}]", "++optimizer._args_=[1]",
    "++optimizer._recursive_=true", "++optimizer._convert_=object", "++model._recursive_=true",
    "++model._partial_=false", "++optimizer._partial_=false", "++data._partial_=true",
    "++tracking._partial_=true", "++activation._partial_=false", "++init.linear._partial_=1",
    "++optimizer._target_='${oc.env:HOME}'", f"optimizer._target_='{MODULE}.${{oc.decode:ran}}'",
    f"+x._target_={EVIL}", f"++x={{_target_:{EVIL}}}", f"optimizer={{_target_:{EVIL}}}",
    "optimizer._target_='${oc.create:{a:1}}'", f"optimizer._target_='${{oc.env:NO_SUCH,{EVIL}}}'",
    f"++optimizer.y='${{oc.create:{{_target_:{EVIL}}}}}'",
    f"++optimizer.y='${{oc.decode:\"{{_target_: {EVIL}}}\"}}'", "name='${eval:1}'",
    f"optimizer._target_='${{oc.select:no.such,{EVIL}}}'", "++tracking.y='${python:1}'",
    f"optimizer._target_={MODULE.upper()}.ran", f"optimizer._target_=' {EVIL}'",
    f"optimizer._target_={MODULE}", "optimizer._target_=.ran", "optimizer._target_=torch.optim.",
    f"optimizer._target_=[{EVIL}]", f"optimizer._target_={{a:{EVIL}}}", "optimizer._target_=null",
    "optimizer._target_=1", "optimizer._target_=''", "tracking._target_=knobs.tracking.Guarded",
    "tracking._target_=knobs.tracking.remote.Remote", "data._target_=knobs.data.files.open",
    "data._target_=knobs.data.prepare.prepare", "model._target_=knobs.models.layers.torch",
    "+optimizer@hydra.launcher=adam", "+model@hydra.callbacks=mlp", "+experiment@hydra=x",
    "+optimizer@hydra.job.env_set=adam", "hydra/launcher=../../../x", "optimizer=/etc/passwd",
    "optimizer=../../path/evil", "model=..", "+../x=y", "~hydra", "hydra=null", "+hydra={}",
    "name=../../../x", "++data.name=../x", "++model.name=a/../../b", "sweep=../../x",
]  # fmt: skip
NAMES = ["PATH", "PYTHONPATH", "PYTHONSTARTUP", "GIT_DIR", "GIT_EXTERNAL_DIFF", "LD_PRELOAD",
         "BASH_ENV", "WANDB_API_KEY", "WANDB_BASE_URL", "HTTPS_PROXY", "HOME", "SSL_CERT_FILE",
         "TMPDIR", "KNOBS_ALLOW", "KNOBS_CACHE", "KNOBS_DATA", "XDG_CACHE_HOME", "TORCH_HOME",
         "PAGER", "CXX", "DYLD_INSERT_LIBRARIES", "omp_num_threads"]  # fmt: skip
OF_HYDRA = [
    *(f"+hydra.job.env_set.{name}=x" for name in NAMES),
    *(f"++hydra.job.env_set={{{name}:x}}" for name in NAMES[:4]), "hydra.job.env_copy=[PATH]",
    "++hydra={job:{env_set:{PATH:x}}}", "hydra.job.env_set='${oc.create:{PATH:x}}'",
    "hydra.job.env_set='${optimizer}'", "hydra.job.env_copy='${oc.create:[HOME]}'",
    *(f"hydra.searchpath=[{place}]" for place in (f"pkg://{MODULE}", f"PKG://{MODULE}",
      "structured://x", "http://x/y", "pkg://hydra.conf", f"' pkg://{MODULE}'")),
    f"hydra.searchpath=pkg://{MODULE}", f"hydra.searchpath='${{oc.env:NO_SUCH,pkg://{MODULE}}}'",
    f"hydra.searchpath=['${{oc.env:NO_SUCH,\"pkg://{MODULE}\"}}']",
    "hydra.job_logging.handlers.file.filename=/tmp/x", "hydra.job_logging.version=2",
    f"hydra.job_logging.handlers.x.class={EVIL}", f"+hydra.job_logging.filters.x.()={EVIL}",
    "hydra.hydra_logging.root.handlers=[x]", "hydra/job_logging=colorlog", "hydra.job_logging={}",
    f"hydra.job_logging='${{oc.create:{{handlers:{{x:{{class:{EVIL}}}}}}}}}'",
    "hydra.job_logging=null", "hydra/job_logging=[default,knobs]", "hydra.job.name=../../x",
    "hydra.job.name='${oc.env:HOME}'", "hydra.output_subdir=..", "hydra.output_subdir=/tmp/x",
    f"+hydra.callbacks.x._target_={EVIL}", f"++hydra.callbacks=[{{_target_:{EVIL}}}]",
    "+hydra.callbacks.x._target_=hydra.experimental.callbacks.LogJobReturnCallback",
    f"hydra.launcher={{_target_:{EVIL}}}", f"++hydra.launcher._args_=[{{_target_:{EVIL}}}]",
    "hydra.launcher._target_=hydra._internal.core_plugins.basic_launcher.HydraContext",
    f"++hydra.sweeper.params={{hydra.launcher._target_:{EVIL}}}", "hydra/env=x", "hydra/output=x",
    "+hydra/callbacks=x", "hydra/launcher=submitit_local", "hydra/sweeper=optuna", "hydra/help=x",
]  # fmt: skip
TYPED = [
    *(f"++{section}.x={NODES[i % len(NODES)] % EVIL}" for i, section in enumerate(SECTIONS)),
    *(f"++{section}._target_={EVIL}" for section in SECTIONS), *SPELLED, *OF_HYDRA,
]  # fmt: skip


@faults("override that names code or a program", "refused in one line", quick=10, whole=len(TYPED))
def test_no_override_lets_code_in(evil, cases, tried):
    for line in chosen(TYPED, cases):
        _, found = lines.check_overrides([line])
        assert found, line
        assert all("\n" not in fault and "Traceback" not in fault for fault in found)
        evil()
        tried()


@faults("config that names code of others", "refused before it is imported",
        quick=len(SECTIONS) * len(CODE))  # fmt: skip
def test_no_section_of_a_config_lets_code_in(evil, cases, tried):
    for section in SECTIONS:
        for target in CODE:
            config = {"_target_": target}
            for part in reversed(section.split(".")):
                config = {part: [config]} if part == "callbacks" else {part: config}
            (fault,) = targets.faults(config)
            assert "not allowed here" in fault or "no module" in fault, fault
            with pytest.raises(ValueError, match="not allowed here|no module"):
                targets.make(section, {"_target_": target, "_partial_": True})
            evil()
            tried()


# ------------------------------------------------------------------ folders of others
@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of one epoch, of whose folder the tests take copies."""
    home = tmp_path_factory.mktemp("made")
    command(home, "training.epochs=1", "hydra.run.dir=run", "tracking=local")
    return home / "run"


def put(node, path, value):
    """Set a value at a dotted path of plain data."""
    *above, last = path.split(".")
    for part in above:
        node = node.setdefault(part, {})
    node[last] = value


WAYS_OF_RECORDS = [
    *((f"config.{section}._target_", EVIL) for section in SECTIONS[:9]),
    *((f"config.{section}.x", [{"_target_": EVIL}]) for section in SECTIONS[:6]),
    ("config.optimizer._args_", [{"_target_": EVIL}]), ("config.x", {"_target_": EVIL}),
    ("config.optimizer._target_", ["x"]), ("config.optimizer._target_", {"_target_": EVIL}),
    ("config.optimizer._target_", f"${{oc.env:NO_SUCH,{EVIL}}}"),
    ("config.optimizer.lr", f"${{oc.decode:'{{_target_: {EVIL}}}'}}"),
    ("config.metrics.own", {"f": {"_target_": EVIL, "_partial_": True}}),
    ("overrides", [f"+x._target_={EVIL}"]), ("overrides", [f"optimizer._target_={EVIL}"]),
    ("overrides", ["seed=1", f"++optimizer.x={{_target_:{EVIL}}}"]), ("overrides", [3]),
    ("overrides", ["--config-dir=/tmp"]), ("overrides", {"a": 1}), ("overrides", [["seed=1"]]),
    ("config", [1]), ("config", "x"), ("schema", 10**6), ("schema", "x"),
]  # fmt: skip
RECORDS = [
    (word, *way)
    for way in WAYS_OF_RECORDS
    for word in ("resume", "rerun", "refit")
    if word == "resume" or way[0] != "overrides"  # which no other takes from a record
]


@faults("record of somebody else's that names code", "refused in one line", quick=6,
        whole=len(RECORDS))  # fmt: skip
def test_no_record_lets_code_in(made, evil, tmp_path, cases, tried):
    kept = (made / "config.json").read_bytes()
    for word, path, value in chosen(RECORDS, cases):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(made, tmp_path / "run")
        document = json.loads(kept)
        put(document, path, value)
        (tmp_path / "run" / "config.json").write_text(json.dumps(document))
        words = [f"{word}=run", "hydra.run.dir=new"][: 1 if word == "resume" else 2]
        with pytest.raises((UserError, *lines.NOT_COMPOSED)) as error:
            cli.prepare(words)
        assert "\x1b" not in str(error.value)
        evil()
        tried()


# ------------------------------------------------------------------ what stands in a folder
def pipe(path, _):
    os.mkfifo(path)


def device(path, _):
    path.symlink_to("/dev/zero")


def link(path, victim):
    path.symlink_to(victim)


def hard_link(path, victim):
    path.hardlink_to(victim)


def folder(path, _):
    path.mkdir()


def deep(path, _):
    path.write_text("[" * 100_000)


KINDS = (pipe, device, link, hard_link, folder, deep)
INSIDE = ["config.json", "metrics.jsonl", "summary.json", "train.log", "preparation.json",
          "preparation.safetensors", "checkpoints/manifest.json", "checkpoints/best.safetensors",
          "checkpoints/last.safetensors", "predictions.safetensors"]  # fmt: skip
PLACES = [(kind, name) for kind in KINDS for name in INSIDE]
AT_ONCE = 30  # seconds in which nobody waits for a pipe, or reads a device


@faults("pipe, device, link or folder in the place of a record's file", "read as a file, or refused",
        quick=10, whole=len(PLACES))  # fmt: skip
def test_what_stands_in_a_run_folder_is_not_followed(made, tmp_path, cases, tried):
    victim = tmp_path / "victim"
    for kind, name in chosen(PLACES, cases):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(made, tmp_path / "run")
        path = tmp_path / "run" / name
        victim.unlink(missing_ok=True)
        shutil.copy(path, victim)
        content = victim.read_bytes()
        path.unlink()
        kind(path, victim)
        began = time.monotonic()
        with contextlib.suppress(UserError):
            knobs.load(tmp_path / "run")
        with contextlib.suppress(UserError, *record.BROKEN, KeyError, TypeError):
            record.read_config(tmp_path / "run")
            record.read_summary(tmp_path / "run")
        with contextlib.suppress(OSError), contextlib.suppress(StorageError):
            storage.append(path, b"{}\n")
        if kind is not deep:
            assert not path.is_file() or path.is_symlink() or path.samefile(victim)
        assert victim.read_bytes() == content, (kind, name)
        assert time.monotonic() - began < AT_ONCE
        tried()


@faults("link in the place of a file that a run writes", "refused, named", quick=12)
def test_nothing_is_written_through_a_link_of_any_kind(tmp_path, cases, tried):
    for name in record.WRITTEN_INTO:
        for kind in (link, hard_link):
            run, victim = tmp_path / f"{name}-{kind.__name__}", tmp_path / "victim"
            run.mkdir()
            victim.write_bytes(b"half")
            kind(run / name, victim)
            with pytest.raises(StorageError, match=f"{name}: is a (hard )?link"):
                record.hold(run)
            for do in (lambda p: storage.append(p, b"x\n"), storage.cut_half_line, storage.Lock):
                with pytest.raises(StorageError, match=f"{name}: is a (hard )?link"):
                    do(run / name)
            assert victim.read_bytes() == b"half"
            tried()


# ------------------------------------------------------------------ names that are shown
PAYLOADS = [
    "<script>window.owned=1</script>", '"><img src=x onerror=window.owned=1>', "=cmd|'/c calc'!A1",
    "\x1b]0;owned\x07\x1b[31m", "[x](javascript:alert(1))", "a\n\n# owned\n|b|", "@SUM(1+1)*cmd|x!A",
    "{{7*7}}${7*7}", "</script><svg onload=window.owned=1>", "-2+3+cmd|x!A", "\u202eowned\u2028",
]  # fmt: skip
FIELDS = 6


def hostile(folder, payload):
    """A grid whose names are all a payload: of knobs, values, options, its study's, its metric's."""
    sweep = fake_grid(folder)
    for i, path in enumerate(sorted(sweep.glob("*/config.json"))):
        about = json.loads(path.read_text())
        about["config"]["name"] = payload
        about["config"]["model"] |= {payload: f"{payload}{i % 2}", "note": f"{payload}{i % 3}"}
        about["choices"] = (about.get("choices") or {}) | {"model": f"{payload}{i % 2}"}
        about["overrides"] += [f"model.{payload}={i % 2}", f"model.note={payload}{i % 3}"]
        path.write_text(json.dumps(about))
        summary = json.loads((path.parent / "summary.json").read_text())
        summary["versions"] |= {payload: payload}
        (path.parent / "summary.json").write_text(json.dumps(summary))
    return sweep


def cells(text):
    return [cell for row in csv.reader(io.StringIO(text)) for cell in row]


@faults("name that is markup, a formula or an escape sequence", "text, wherever it is shown",
        quick=2, whole=len(PAYLOADS))  # fmt: skip
def test_a_name_is_text_wherever_it_is_shown(tmp_path, capsys, monkeypatch, cases, tried):
    for i, payload in enumerate(chosen(PAYLOADS, cases)):
        home = tmp_path / str(i)
        sweep = hostile(home / "outputs" / "sweeps" / "s", payload)
        monkeypatch.chdir(home)
        assert report.main([str(sweep), "--out", "out"]) == 0
        told = capsys.readouterr()
        assert listing.main(["--csv"]) == 0
        table = capsys.readouterr().out
        page, markdown = ((home / "out" / f"report.{kind}").read_text() for kind in ("html", "md"))
        assert all(c.isprintable() or c == "\n" for c in told.out + told.err), payload
        assert "<" not in payload or payload not in page
        outside = "".join(markdown.split("```")[::2])
        assert "\n# owned" not in markdown
        assert not re.search(r"(?<!\\)\]\(javascript:", outside)
        assert not re.search(r"<(script|img|svg)", outside)
        assert "\x1b" not in page + markdown
        board = leaderboard.as_csv(analysis.make([sweep]).sweep.entries)
        for cell in (*cells(table), *cells(board)):
            assert words.cell(cell) == cell, cell
        tried(FIELDS)
