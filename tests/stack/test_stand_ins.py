"""A stack that goes on from checkpoints of several epochs has the bits of one that never stopped."""

import copy

import pytest
import torch
from trained import assert_same_bits, make

from knobs.stack import loop as stack
from knobs.stack.optimizers import in_slices, kind
from knobs.stack.stand_ins import Place, stand_in
from knobs.training.batches import epoch_batches
from knobs.training.checkpoint import restore, snapshot

OPTIMIZERS = ("nadam", "sgd", "nadam", "momentum")


def rows():
    """Four runs of two to five epochs, in the order of their rows."""
    base = ["data=wine", "activation=mish", "training.batch_size=32", "model.width=9"]
    return in_slices(
        [
            make([*base, f"seed={k}", f"training.epochs={2 + k}", f"optimizer={OPTIMIZERS[k]}",
                  f"scheduler={('one_cycle', 'cosine')[k % 2]}"], torch.float32)
            for k in range(4)
        ]
    )  # fmt: skip


def train(runs, stand_ins=None):
    """What every run is after each of its epochs but the last, and when it has ended."""
    seen, ends = {}, {}

    def look(stacked):
        for run in stacked.release():
            if run not in (stand_ins or {}):
                seen[run.seed, run.progress.epoch] = copy.deepcopy(snapshot(run))

    stack.fit(
        runs,
        lambda *_: None,
        lambda run, *_: ends.update({run.seed: run.model.state_dict() | run.best_weights}),
        lambda _: None,
        look,
        stand_ins=stand_ins,
    )
    return seen, ends


@pytest.mark.parametrize("epochs", [{0: 1, 1: 1, 2: 1, 3: 1}, {0: 2, 1: 1, 2: 1, 3: 1},
                                    {0: 2, 1: 1, 2: 3, 3: 2}, {0: 2, 1: 3, 2: 2, 3: 4},
                                    {0: 2, 1: 3, 2: 3, 3: 2}, {0: 0, 1: 0, 2: 2, 3: 3}])  # fmt: skip
def test_rows_of_several_epochs_go_on_to_the_same_bits(epochs):
    seen, expected = train(rows())
    runs, stand_ins, place = [], {}, min(epoch for k, epoch in epochs.items() if epoch < 2 + k)
    steps = len(list(epoch_batches(rows()[0])))
    for run in rows():
        epoch, over = epochs[run.seed], epochs[run.seed] == run.training["epochs"]
        if epoch and not over:
            restore(run, copy.deepcopy(seen[run.seed, epoch]))
        if epoch > place:  # further than others, or over
            other = next(r for r in rows() if r.seed == run.seed)
            runs.append(stand_in(other, place, 0, steps))
            stand_ins[other] = Place(epoch, 0, None if over else run)
        elif not over:
            runs.append(run)
    _, ends = train(runs, stand_ins)
    left = {run.seed for run in rows() if epochs[run.seed] < run.training["epochs"]}
    assert ends.keys() == left
    for seed in left:
        assert_same_bits(ends[seed], expected[seed])


def test_a_stack_of_fewer_rows_has_other_bits():
    _, expected = train(rows())
    _, ends = train(rows()[1:])
    assert any(not torch.equal(ends[1][name], value) for name, value in expected[1].items())


def test_rows_that_lie_beside_their_kind_keep_their_order():
    runs = rows()
    backwards = runs[::-1]
    assert in_slices(backwards) == backwards
    mixed = [runs[1], runs[0], runs[2], runs[3]]
    kinds = [kind(run) for run in in_slices(mixed)]
    assert [*dict.fromkeys(kinds)] == [k for i, k in enumerate(kinds) if k not in kinds[:i]]
    assert kinds == sorted(kinds)
