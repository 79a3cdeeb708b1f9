"""A sweep whose process dies anywhere, and that is run again, ends with the bits of one that never did."""

import random

import pytest
from forked import KILLED, Forked, places
from injected import assert_clean, bits, faults

FOLDER = "outputs/sweeps/s"
SWEEP = ["-m", "sweep=s", "tracking=local", "training.device=cpu"]
# Rows that end early, diverge, or have more epochs; what sums, draws, scales or moves by the row.
KINDS = {
    "mlp": ["data=wine", "activation=mish,tanh", "optimizer=sgd", "optimizer.lr=1e-3,1e-1",
            "training.epochs=9", "training.early_stopping.patience=2", "regularization.norm=batch"],
    "knobs": ["data=wine", "activation=silu", "optimizer=adamw,nadam", "training.epochs=3,5",
              "regularization.dropout=0.1,0.3", "regularization.mixup=0.2", "regularization.l1=1e-5",
              "regularization.l2=1e-3", "training.clip_norm=1", "scheduler=one_cycle"],
    "cnn": ["data=digits", "training.batch_size=500", "model=cnn", "model.width=[5,6]",
            "optimizer=momentum,rmsprop", "optimizer.lr=1e-3,1e20", "training.epochs=2,3"],
    "text": ["data=python_docs", "data.topics=4", "data.max_length=8", "training.batch_size=512",
             "model=text_bag", "optimizer=adagrad,radam", "seed=0,1", "training.epochs=1,3"],
    "tabular": ["data=wine", "model=tabular", "optimizer=adamax,adadelta", "activation=elu,gelu",
                "scheduler=plateau", "training.members=2", "training.epochs=2,4"],
    "folds": ["data=wine", "data.folds=3", "data.fold=all", "optimizer=adam,sgd",
              "training.epochs=2,4", "hydra.launcher.width=4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def run():
    with Forked() as run:
        yield run


def all_bits(folder):
    runs = [path for path in (folder / FOLDER).iterdir() if path.name.isdecimal()]
    return {path.name: bits(path) for path in runs}


@faults(
    "the process of a sweep of stacks dies at any step or write, up to three times",
    "the same command ends it; every run has the bits that it has where nothing died",
    quick=3,
    whole=8 * len(KINDS),
)
def test_a_sweep_that_died_ends_with_the_same_bits(cases, tried, run, tmp_path):
    draw = random.Random(12)
    for name in ("mlp", "cnn", "folds") if cases == 3 else KINDS:
        words = KINDS[name]
        whole = tmp_path / name
        code, told = run(whole, *SWEEP, *words, save=0)
        assert code == 0, told
        expected, count = all_bits(whole), places(whole)
        for case in range(max(1, cases // len(KINDS))):
            died = tmp_path / f"{name}-{case}"
            halved = False
            for turn in range(draw.randint(1, 3)):
                # The first one mostly late, where rows have ended and others stand apart.
                die = draw.randint(1 if turn else count // 3, count)
                code, told = run(died, *SWEEP, *words, die=die, save=0)
                halved = halved or "in two halves" in told
                if code != KILLED:
                    break
            code, told = run(died, *SWEEP, *words, save=0)
            assert code == 0, told
            assert_clean(told, died)
            if halved or "in two halves" in told:  # died twice and no further: see test_rows.py
                continue
            assert all_bits(died) == expected, (name, case)
            tried()
