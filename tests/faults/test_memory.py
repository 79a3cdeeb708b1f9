"""Out of memory: exit 7, what was being made and a fix that fits it; the record can be resumed."""

import errno
import random

import numpy as np
import pandas as pd
import pytest
import torch
from fake_sweeps import fake_grid
from injected import bits, faults, tried  # noqa: F401
from predict_cases import table_words, write_pictures, write_table

from knobs import build, record
from knobs.__main__ import main
from knobs.config import command as line
from knobs.data import inputs, opening, tables, texts
from knobs.errors import MemoryShortage, for_a_person, making, size, starved
from knobs.report import write
from knobs.training import loop, session
from knobs.training.run import execute

SMALL = ["tracking=local", "data=wine", "model=linear", "training.epochs=3"]


class OutOfMemoryError(RuntimeError):
    """As an accelerator's is called."""


def real(make):
    try:
        make()
    except Exception as error:
        return error
    raise AssertionError("it fits")


ERRORS = {
    "Python": MemoryError(),
    "numpy": real(lambda: np.empty(2**58)),
    "torch on a CPU": real(lambda: torch.empty(2**58)),
    "torch on an accelerator": OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
    "CUDA's call": RuntimeError("CUDA error: out of memory"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "C++": RuntimeError("std::bad_alloc"),
    "pandas' parser": pd.errors.ParserError("Error tokenizing data. C error: out of memory"),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "threads": RuntimeError("can't start new thread"),
    "a library": ImportError("libx.so: failed to map segment from shared object"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_everybodys_error_is_one_of_memory(name):
    assert starved(ERRORS[name])
    with pytest.raises(MemoryShortage) as error, making("a table (3 KiB)", "fewer rows"):
        raise ERRORS[name]
    assert error.value.exit_code == 7
    told = str(error.value)
    assert told.startswith("out of memory for a table (3 KiB) (")
    assert told.endswith("); fewer rows")
    assert "enforce fail" not in told
    assert isinstance(for_a_person(ERRORS[name]), MemoryShortage)
    assert for_a_person(error.value).__traceback__ is None  # its frames hold what was made


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ValueError("memory"), OSError(errno.ENOENT, "no file")]
)
def test_other_errors_are_none_of_memory(error):
    assert not starved(error)
    with pytest.raises(type(error)) as same, making("a table", "fewer rows"):
        raise error
    assert same.value is error


def test_the_innermost_name_counts():
    told = "^out of memory for the inner"
    outer, inner = making("the outer", "a fix"), making("the inner", "a fix")
    with pytest.raises(MemoryShortage, match=told), outer, inner:
        raise MemoryError


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "0 KiB"), (2048, "2 KiB"), (3 * 2**20, "3.0 MiB"), (5.5 * 2**30, "5.5 GiB")],
)
def test_size(count, said):
    assert size(count) == said


def test_what_surely_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(opening, "free_memory", lambda: 2**30)
    told = r"^out of memory for a table \(4.0 GiB\): 1.0 GiB are free; fewer rows$"
    with pytest.raises(MemoryShortage, match=told), opening.room("a table", 2**32, "fewer rows"):
        raise AssertionError("it is made")


def starving(monkeypatch, place, name, calls=0):
    """Let a function run out of memory, from its call of this number on."""
    true, count = getattr(place, name), iter(range(10**9))

    def call(*args, **kwargs):
        if next(count) >= calls:
            raise ERRORS["torch on a CPU"]
        return true(*args, **kwargs)

    monkeypatch.setattr(place, name, call)


# Where -> (module, function, its first call that fails), what is named, the fix.
STAGES = {
    "reading": ((tables, "parsed", 0), r"the cells of .*t\.csv, a file of \d+ KiB", "fewer rows or columns"),
    "encoding": ((inputs.Table, "_encoded", 0), r"the encoding of 240 rows as \d+ columns \(\d+ KiB\)", "data.drop"),
    "model": ((build, "model", 0), "the weights of the model", "model.width"),
    "first step": ((loop, "train_step", 0), "a step of 32 examples", "training.batch_size"),
    "later step": ((loop, "train_step", 9), "a step of 32 examples", "training.batch_size"),
    "evaluation": ((loop.metrics, "evaluation", 1), r"the outputs on \d+ rows, 1,024 at a time", "data.val"),
}  # fmt: skip


@faults(
    "memory runs out in reading, encoding, building, a step, the evaluation",
    "exit 7, what was made and its fix; a run under way has a summary, and goes on to the same bits",
    quick=6,
)
def test_run_without_memory(cases, tried, tmp_path, monkeypatch):  # noqa: F811
    write_table(tmp_path / "t.csv")
    words = [
        "tracking=local",
        "training.epochs=3",
        "training.batch_size=32",
        *table_words(tmp_path / "t.csv", "cheap"),
    ]
    config = line.checked(words)
    execute(config, tmp_path / "whole")
    expected = bits(tmp_path / "whole")
    monkeypatch.setattr(session, "SAVE_SECONDS", 0.0)
    for name in random.Random(0).sample(list(STAGES), cases):
        (place, function, calls), what, fix = STAGES[name]
        folder = tmp_path / name.replace(" ", "-")
        with monkeypatch.context() as patch:
            starving(patch, place, function, calls)
            with pytest.raises(MemoryShortage, match=what) as error:
                execute(config, folder)
        assert fix in str(error.value), name
        assert "you tried to allocate" in str(error.value), name
        begun = (folder / record.CONFIG).is_file()
        assert begun == (name not in ("reading", "encoding", "model"))
        assert not begun or record.ended(folder).status == "failed"
        resumed = str(folder) if record.resumable(folder) else None
        assert bool(resumed) == (name in ("later step", "evaluation")), name
        execute(config | {"resume": resumed}, folder)
        assert bits(folder) == expected, name
        tried()


def test_texts_and_pictures_name_their_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "CHECKED", 0)
    monkeypatch.setattr(opening, "free_memory", lambda: 0)
    with pytest.raises(
        MemoryShortage, match=r"for 9 texts of 300 tokens \(11 KiB\): .*data\.max_len"
    ):
        texts.encode_texts([["a"]] * 9, {}, 300)
    write_pictures(tmp_path)
    words = [
        "data=image_folder",
        f"data.root={tmp_path}",
        "data.size=32",
        "tracking=local",
        "model=cnn",
    ]
    with pytest.raises(
        MemoryShortage, match=r"24 pictures of 32 x 32 \(72 KiB\).*data\.memory_gib=0"
    ):
        build.data(line.checked(words))


@faults(
    "memory runs out in a report and in a prediction",
    "exit 7, what was made; nothing half written",
    quick=2,
)
def test_commands_without_memory(cases, tried, tmp_path, monkeypatch, capsys):  # noqa: F811
    fake_grid(tmp_path / "sweep", rates=(1e-3,), seeds=1)
    with monkeypatch.context() as patch:
        starving(patch, write, "page")
        assert main(["report", str(tmp_path / "sweep"), "--out", str(tmp_path / "out")]) == 7
    told = capsys.readouterr().err
    assert told.startswith("out of memory for the report on 2 runs, its tables and plots (")
    assert not (tmp_path / "out").exists()
    tried()
    write_table(tmp_path / "t.csv")
    words = ["tracking=local", "training.epochs=1", *table_words(tmp_path / "t.csv", "cheap")]
    execute(line.checked(words), tmp_path / "run")
    with monkeypatch.context() as patch:
        starving(patch, inputs.Table, "_encoded")
        out = ["--out", str(tmp_path / "a.csv")]
        assert main(["predict", str(tmp_path / "run"), str(tmp_path / "t.csv"), *out]) == 7
    assert "out of memory for the encoding of 240 rows" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("a.csv*")) == []
    tried()
    assert cases == 2


@faults(
    "memory runs out in a stack",
    "it goes on as two halves; each run ends well, exit 0",
    quick=1,
)
def test_stack_without_memory(cases, tried, sweep, monkeypatch):  # noqa: F811
    from knobs.stack import loop as stack

    starving_once(monkeypatch, stack, "fit")
    code, told = sweep(*SMALL, "seed=0,1,2,3", "sweep=s")
    assert code == 0, told
    assert "no memory for 4 runs at once: they go on as two halves" in told
    tried(cases)


def starving_once(monkeypatch, place, name):
    true, left = getattr(place, name), [ERRORS["torch on a CPU"]]

    def call(*args, **kwargs):
        if left:
            raise left.pop()
        return true(*args, **kwargs)

    monkeypatch.setattr(place, name, call)
