"""predictions.safetensors: what the best weights say of the validation split."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

import knobs
from knobs import build
from knobs.config import command
from knobs.data import Tensors
from knobs.record import read_config, read_summary
from knobs.training import loop, predictions
from knobs.training.predictions import FILE, MOST_BYTES, SAMPLED, encode, sampled


def kept(folder):
    return load((Path(folder) / FILE).read_bytes())


def expected(folder):
    """What the loaded model says of the run's validation split, and that split."""
    split = build.data(read_config(folder)["config"]).val
    with torch.no_grad():
        return split, knobs.load(folder)(split.x)


@pytest.mark.parametrize("words", [
    [], ["data=diabetes"], ["data=wine", "regularization=batchnorm", "training.batch_size=16"],
    ["training.members=3", "regularization=dropout"], ["training.ema=0.9"], ["model=cnn"],
], ids=" ".join)  # fmt: skip
def test_a_run_keeps_the_outputs_of_its_best_epoch(words, train, tmp_path):
    train("training.epochs=4", "optimizer.lr=1e-2", *words)
    folder = tmp_path / "run"
    split, outputs = expected(folder)
    file = kept(folder)
    assert file["outputs"].dtype == torch.float16
    assert file["rows"].tolist() == sorted(split.rows.tolist())
    assert torch.equal(file["targets"], split.y)  # parts are ascending
    assert torch.allclose(file["outputs"].float(), outputs, atol=2e-3, rtol=2e-3)
    if split.y.dtype == torch.int64:
        accuracy = (file["outputs"].float().argmax(1) == split.y).float().mean().item()
        best = read_summary(folder)["objective"]["value"]
        assert accuracy == pytest.approx(best, abs=1.5 / len(split.y))


def test_rows_of_a_stack_keep_theirs_and_one_that_diverged_before_any_epoch_keeps_none(
    sweep, tmp_path
):
    code, told = sweep("sweep=s", "optimizer=sgd", "optimizer.lr=0.1,1e30", "training.epochs=2")
    assert code == 0, told
    folder = tmp_path / "outputs/sweeps/s"
    _, outputs = expected(folder / "0")
    assert torch.allclose(kept(folder / "0")["outputs"].float(), outputs, atol=2e-3, rtol=2e-3)
    assert not (folder / "1" / FILE).exists()


def test_a_resume_without_a_better_epoch_keeps_the_same(train, tmp_path):
    train("training.epochs=2", "optimizer.lr=1e-2")
    before = kept(tmp_path / "run")
    (tmp_path / "run" / FILE).unlink()
    train("training.epochs=3", "optimizer.lr=1e-2", "resume=run", "objective.metric=val/loss",
          "training.early_stopping.min_delta=100")  # fmt: skip
    assert read_summary(tmp_path / "run")["best_epoch"] == 2
    after = kept(tmp_path / "run")
    assert torch.equal(after["rows"], before["rows"])
    assert torch.allclose(after["outputs"], before["outputs"], atol=2e-3)


def test_a_large_split_keeps_the_same_rows_in_every_run():
    count, classes = 200_000, 20
    rows = torch.randperm(3 * count, generator=torch.Generator().manual_seed(0))[:count]
    split = Tensors(torch.zeros(count, 1), rows % classes, rows=rows)
    outputs = loop.half(rows.unsqueeze(1) % 1000 + torch.arange(classes))
    data = encode(split, outputs, 3)
    assert len(data) <= MOST_BYTES
    file = load(data)
    assert len(file["rows"]) == SAMPLED
    assert torch.equal(file["rows"], file["rows"].sort().values)
    assert torch.equal(file["targets"], file["rows"] % classes)
    assert torch.equal(file["outputs"][:, 0].long(), file["rows"] % 1000)
    half = torch.arange(count) % 2 == 0  # of other rows: those in both are chosen by their own hash
    fewer = Tensors(torch.zeros(int(half.sum()), 1), split.y[half], rows=rows[half])
    again = load(encode(fewer, outputs[half], 3))["rows"]
    both = set(file["rows"].tolist()) & set(rows[half].tolist())
    assert both <= set(again.tolist())


def test_the_sample_is_spread_evenly():
    chosen = sampled(torch.arange(1_000_000), 20_000)
    counts = torch.histc(chosen.float(), 10, 0, 1_000_000)
    assert (counts - 2000).abs().max() < 5 * 2000**0.5


def test_many_outputs_stay_below_the_limit():
    split = Tensors(torch.zeros(30_000, 1), torch.zeros(30_000, dtype=torch.int64))
    data = encode(split, torch.zeros(30_000, 1000).half(), 1)
    assert 0.9 * MOST_BYTES < len(data) <= MOST_BYTES


def test_what_float16_cannot_hold_is_its_largest():
    largest = torch.finfo(torch.float16).max
    assert loop.half(torch.tensor([1e9, -1e9, 1.0])).tolist() == [largest, -largest, 1.0]
    assert predictions.FILE == "predictions.safetensors"


def test_without_checkpoints_there_are_predictions(tmp_path):
    from knobs.training.run import execute

    words = ["tracking=local", "training.epochs=1", "training.checkpoint=false"]
    execute(command.checked(words), tmp_path)
    assert kept(tmp_path)["outputs"].shape == (360, 10)
