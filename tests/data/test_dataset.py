"""Splits: one gather for every form of x, y and weight, and what a hash of the data tells apart."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from trained import assert_same_bits

from knobs import build
from knobs.config import command
from knobs.data import Batch, Stream, Tensors, take
from knobs.data.dataset import chunks
from knobs.data.prepare import content_hash, three_way
from knobs.errors import DataError
from knobs.record import read_config
from knobs.training import loop
from knobs.training.run import execute
from knobs.training.setup import assemble

CPU = torch.device("cpu")


def forms(n=10):
    """Splits of every form of x, of y and of weights."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=draw)
    images = torch.randn(n, 4, 4, 3, generator=draw).permute(0, 3, 1, 2)  # NHWC in memory
    y, many, weight = torch.arange(n), torch.randn(n, 2, generator=draw), torch.rand(n)
    yield Tensors(x, y)
    yield Tensors(images, y, weight)
    yield Tensors({"ids": torch.arange(n), "images": images}, many, weight)
    examples = (images * 40).to(torch.uint8)
    yield Stream(examples.__getitem__, many, lambda b: b.float(), weight=weight)


@pytest.mark.parametrize("split", list(forms()), ids=["plain", "images", "dict", "stream"])
def test_take_is_indexing(split):
    """Of x by name or not, of one target or several, with weights or without."""
    index = torch.tensor([7, 2, 2, 0])
    found = take(split, index)
    if isinstance(split, Stream):
        whole = torch.stack([split.examples(i) for i in range(len(split))]).float()
    else:
        whole = split.x
    for values, all_values in [(found.y, split.y), (found.weight, split.weight)] + (
        [(found.x[name], whole[name]) for name in whole]
        if isinstance(whole, dict)
        else [(found.x, whole)]
    ):
        assert (values is None) == (all_values is None)
        assert values is None or torch.equal(values, all_values[index])
    batches = [*split.batches([index, index[:1]]), *split.in_order(4)]
    assert [len(batch.y) for batch in batches] == [4, 1, 4, 4, 2]
    assert torch.equal(torch.cat([b.y for b in batches[2:]]), split.y)
    assert torch.equal(found.y, batches[0].y)


def test_a_split_may_be_empty():
    [batch] = Tensors(torch.empty(0, 3), torch.empty(0)).in_order(4)
    assert (batch.x.shape, len(batch.y), batch.weight) == ((0, 3), 0, None)


def test_take_keeps_the_memory_order_of_images():
    split = next(s for s in forms() if isinstance(s.x, torch.Tensor) and s.x.ndim == 4)
    assert take(split, torch.tensor([1, 5])).x.is_contiguous(memory_format=torch.channels_last)
    view = take(split, slice(2, 5))
    assert view.x.data_ptr() == split.x[2:].data_ptr()  # in order nothing is copied
    moved = split.to(CPU, torch.contiguous_format)
    assert moved.x.is_contiguous()
    assert torch.equal(moved.weight, split.weight)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20])
def test_chunks_are_torchs(count):
    x, y, weight = torch.randn(2, 10, 3), torch.randn(2, 10, 2), torch.rand(2, 10)
    parts = list(chunks(Batch({"a": x}, y, weight), count, dim=1))
    for i, values in ((1, y), (2, weight)):
        assert all(map(torch.equal, [p[i] for p in parts], values.chunk(count, 1)))
    assert all(map(torch.equal, [p.x["a"] for p in parts], x.chunk(count, 1)))
    assert len(parts) == len(y.chunk(count, 1))
    assert [p.weight for p in chunks(Batch(x, y), count, dim=1)] == [None] * len(parts)


class Named(torch.nn.Module):
    """A model that takes its inputs by name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x["pixels"])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_inputs_by_name_train_as_the_same_inputs_without(accumulate, make_run):
    plain = make_run(f"training.gradient_accumulation_steps={accumulate}", "training.epochs=2")
    named = make_run(f"training.gradient_accumulation_steps={accumulate}", "training.epochs=2")
    named.forward = named.model = Named(named.model)
    for part in ("train", "val"):
        split = getattr(named.data, part)
        object.__setattr__(named.data, part, Tensors({"pixels": split.x}, split.y))
    assert list(loop.fit(plain)) == list(loop.fit(named))
    assert_same_bits(plain.model.state_dict(), named.model.inner.state_dict())


def test_a_hash_is_of_the_content_and_the_split(tmp_path):
    parts = np.arange(4), np.arange(4, 6), np.arange(6, 8)
    x, y = np.arange(16.0).reshape(8, 2), np.arange(8)
    base = content_hash(parts, x, y)
    assert len(base) == 32
    assert content_hash(parts, torch.from_numpy(x), y.copy()) == base
    assert content_hash(parts, np.asfortranarray(x), y) == base
    changed, moved = x.copy(), (np.arange(5), np.arange(5, 6), parts[2])
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    others = [content_hash(parts, changed, y), content_hash(moved, x, y), content_hash(parts, y, x),
              content_hash(parts, x.reshape(2, 8), y), content_hash(parts, x.astype("f4"), y)]  # fmt: skip
    texts = [content_hash(parts, t) for t in (["ab", "c"], ["a", "bc"], ["abc"], "abc", [])]
    assert len({base, *others, *texts}) == 1 + len(others) + 4  # a text is a list of one
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1,2\n")
    assert content_hash(parts, tmp_path / "a") == content_hash(parts, tmp_path / "b")


def table(path, rows=60, bump=None):
    lines = [f"{i % 7},{'ab'[i % 2]},{i % 3},{i * 0.5 + (i == bump)}" for i in range(rows)]
    path.write_text("x,c,y,z\n" + "\n".join(lines) + "\n")
    return ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]


def found(*overrides):
    return build.data(command.checked(list(overrides))).hash


def test_what_changes_the_hash_of_a_set_and_what_does_not(tmp_path, monkeypatch):
    base = table(tmp_path / "t.csv")
    first = found(*base)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "t.csv", tmp_path / "elsewhere" / "u.csv")
    monkeypatch.chdir(tmp_path)
    assert found(*base, "data.path=./elsewhere/../elsewhere/u.csv") == first
    assert found(*base, "seed=3", "training.batch_size=16", "training.threads=2") == first
    changes = ["data.split_seed=1", "data.val=0.3", "data.drop=[z]", "data.weight=x",
               "data.target=x", "data.target=z data.task=regression"]  # fmt: skip
    hashes = [found(*base, *change.split()) for change in changes]
    hashes.append(found(*table(tmp_path / "t.csv", bump=17)))
    assert len({first, *hashes}) == 1 + len(hashes)
    digits = found()
    assert digits == found("model=linear")
    assert digits != found("data.split_seed=1")


def test_a_streamed_folder_is_known_by_names_sizes_and_some_files(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "a" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (9, 9), (i * 9, 9, 9)).save(tmp_path / "a" / name / f"{i}.bmp")
    base = ["data=image_folder", "data.size=8", "data.memory_gib=0"]
    first = found(*base, f"data.root={tmp_path / 'a'}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert found(*base, f"data.root={tmp_path / 'b'}/../b", "data.workers=1") == first
    Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / "b" / "dog" / "3.bmp")
    assert found(*base, f"data.root={tmp_path / 'b'}") != first
    (tmp_path / "a" / "cat" / "0.bmp").rename(tmp_path / "a" / "cat" / "9.bmp")
    assert found(*base, f"data.root={tmp_path / 'a'}") != first


def test_a_run_records_its_data_and_resumes_on_the_same_alone(tmp_path):
    """Before any training; a record that tells no hash, as older ones, resumes as before."""
    config = command.checked([*table(tmp_path / "t.csv"), "training.epochs=2", "tracking=local"])
    folder = tmp_path / "run"
    execute(config, folder)
    recorded = read_config(folder)
    data = build.data(config)
    hashes = {"hash": data.hash, "rows_hash": data.rows_hash}
    assert recorded["data"] == hashes | {"rows": [36, 12, 12], "notes": data.notes}
    for name, content in data.preparation.save().items():
        assert (folder / name).read_bytes() == content
    longer = config | {"resume": "yes", "training": config["training"] | {"epochs": 3}}
    assert execute(longer, folder).summary["epochs"] == 3
    table(tmp_path / "t.csv", bump=17)
    before = (folder / "metrics.jsonl").read_bytes(), (folder / "config.json").read_bytes()
    with pytest.raises(DataError, match=r"data=csv: its content, target or split has changed"):
        execute(longer, folder)
    assert (
        (folder / "metrics.jsonl").read_bytes(),
        (folder / "config.json").read_bytes(),
    ) == before
    del recorded["data"]
    (folder / "config.json").write_text(json.dumps(recorded))
    longer["training"]["epochs"] = 4
    assert execute(longer, folder).summary["epochs"] == 4


def test_a_run_whose_columns_were_read_otherwise_is_not_resumed(tmp_path):
    """The same rows, made into other inputs: as records of earlier rules have them."""
    draw = np.random.default_rng(0)
    rows = [f"{i},{draw.normal()},{i % 3}" for i in range(60)]
    (tmp_path / "t.csv").write_text("id,x,y\n" + "\n".join(rows) + "\n")
    base = ["data=csv", f"data.path={tmp_path / 't.csv'}", "data.target=y", "tracking=local"]
    config = command.checked([*base, "data.task=classification", "training.epochs=2"])
    folder = tmp_path / "run"
    execute(config, folder)
    longer = config | {"resume": "yes", "training": config["training"] | {"epochs": 3}}
    made = build.data(config)
    assert made.preparation.inputs.numbers == ("x",)
    first = made.preparation.inputs
    for earlier, width in (
        (replace(first, numbers=("id", "x"), median=np.zeros(2), mean=np.zeros(2),
                 scale=np.ones(2), columns=None, low=None, high=None), 2),
        (replace(first, mean=first.mean + 0.1, columns=None), 1),
    ):  # fmt: skip
        for name, content in replace(made.preparation, inputs=earlier).save().items():
            (folder / name).write_bytes(content)
        told = f"is read otherwise than when the run began .{width} inputs then, 1 now"
        with pytest.raises(DataError, match=told):
            execute(longer, folder)
    # Records of before there were kinds go on where the inputs are the same.
    for name, content in (
        replace(made.preparation, inputs=replace(first, columns=None)).save().items()
    ):
        (folder / name).write_bytes(content)
    assert execute(longer, folder).summary["epochs"] == 3


def test_a_stack_encodes_a_preparation_once(sweep, tmp_path, monkeypatch):
    """Every row has the files, whose content is made once for all."""
    from knobs.data import preparation

    made = []
    whole = preparation._checksum
    monkeypatch.setattr(preparation, "_checksum", lambda *a: made.append(1) or whole(*a))
    assert sweep("seed=0,1,2", "training.epochs=1", "tracking=local", "hydra.sweep.dir=s")[0] == 0
    contents = {(tmp_path / "s" / n / "preparation.json").read_bytes() for n in "012"}
    assert len(contents) == 1
    assert len(made) == 1
    record = json.loads((tmp_path / "s" / "1" / "config.json").read_text())
    assert record["data"] == build.data(command.checked([])).about()


WEIGHTED = ["data.weight=w", "data.drop=[c]"]
MANY = ["data.target=[p,q]", "data.task=regression"]
LABELS = ["data.target=[l,m]", "data.task=multilabel"]


def wide(path, rows=90):
    """Numbers, a class, targets, labels and weights, some of them 0."""
    draw = np.random.default_rng(0)
    lines = ["a,b,c,p,q,l,m,w"]
    for _ in range(rows):
        a, b = draw.normal(size=2)
        label, other = int(a > 0), int(a + b > 0)
        values = [a, b, "uv"[label], 3 * a + 5, 100 * b, label, other, draw.integers(4)]
        lines.append(",".join(str(value) for value in values))
    path.write_text("\n".join(lines) + "\n")
    return ["data=csv", f"data.path={path}", "tracking=local"]


@pytest.mark.parametrize("task", [MANY, LABELS], ids=["regression", "multilabel"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_loss_is_the_weighted_mean_of_the_examples(task, accumulate, tmp_path):
    """Over the whole batch, in microbatches too; and the validation loss over the whole split."""
    config = command.checked(
        [
            *wide(tmp_path / "t.csv"),
            *task,
            *WEIGHTED,
            f"training.gradient_accumulation_steps={accumulate}",
        ]
    )
    run = assemble(config, build.data(config), CPU)
    batch = next(loop.epoch_batches(run))

    def mean(x, y, w):
        outputs = run.model(x)
        if run.data.task == "regression":
            losses = ((outputs - y) ** 2).mean(1)
        else:
            p = outputs.sigmoid()
            losses = -(y * p.log() + (1 - y) * (1 - p).log()).mean(1)
        return (w * losses).sum() / w.sum()

    expected = mean(*batch)
    assert loop.backward(run, *batch).item() == pytest.approx(expected.item(), rel=1e-5)
    grads = [p.grad.clone() for p in run.model.parameters()]
    for grad, by_hand in zip(
        grads, torch.autograd.grad(expected, run.model.parameters()), strict=True
    ):
        assert torch.allclose(grad, by_hand, atol=1e-6)
    val = run.data.val
    loss = loop.evaluate(run, val, "val")["val/loss"]
    assert loss == pytest.approx(mean(val.x, val.y, val.weight).item(), rel=1e-5)


def test_several_targets_train_and_keep_their_units(tmp_path):
    config = command.checked([*wide(tmp_path / "t.csv"), *MANY, "data.drop=[c,l,m,w]",
                              "training.epochs=60", "optimizer.lr=0.02"])  # fmt: skip
    outcome = execute(config, tmp_path / "run")
    assert outcome.status == "finished"
    assert outcome.value > 0.9  # r2, the mean of both
    data = build.data(config)
    assert data.shape.outputs == 2
    table = pd.read_csv(tmp_path / "t.csv")[["p", "q"]].to_numpy()
    train = three_way(table, 0.2, 0.2, 0, "regression")[0]
    assert np.allclose(data.target_mean, table[train].mean(0), rtol=1e-12)
    assert np.allclose(data.target_std, table[train].std(0), rtol=1e-12)
    run = assemble(config, data, CPU)
    metrics = loop.evaluate(run, data.val, "val")
    error = (run.model(data.val.x) - data.val.y).detach().double() * data.target_std
    assert metrics["val/mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
    rmse = (error**2).mean(0).sqrt()
    assert metrics["val/rmse"] == pytest.approx(rmse.mean().item(), rel=1e-5)
