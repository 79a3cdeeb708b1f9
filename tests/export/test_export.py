"""Exported models: the same outputs by onnxruntime and torch.export, the same answers without knobs."""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from predict_cases import table_words, train, write_pictures, write_table, write_texts
from torch import nn

import knobs
from knobs import build
from knobs.__main__ import main
from knobs.config import command
from knobs.errors import ConfigError
from knobs.export import folder, graphs
from knobs.models.members import Ensemble
from knobs.shape import Shape

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

NUMBERS = Shape((5,), 3, numbers=4)
TABLE, PICTURE, TEXT = Shape((5,), 3), Shape((3, 12, 12), 3), Shape((9,), 3, 40)
# Each model family; those that take seconds to convert are slow tests.
FAMILIES = [
    ("model=linear", TABLE, 1), ("model=mlp regularization.norm=batch", TABLE, 1),
    ("model=mlp regularization.norm=layer", TABLE, 3), ("model=text_bag", TEXT, 1),
    *(pytest.param(words, shape, 1, marks=pytest.mark.slow) for words, shape in (
        ("model=mlp", TABLE), ("model=tabular", NUMBERS), ("model=cnn", PICTURE), ("model=cnn regularization.norm=layer", PICTURE),
        ("model=resnet18", PICTURE), ("model=text_cnn", TEXT), ("model=text_lstm", TEXT),
        ("model=text_transformer", TEXT),
    )),
]  # fmt: skip


def network_of(words, shape, members):
    data = {1: "wine", 3: "cifar10"}[len(shape.input)] if not shape.vocabulary else "python_docs"
    config = command.checked([f"data={data}", *words.split()])
    torch.manual_seed(0)
    networks = [build.model(config, shape) for _ in range(members)]
    for module in (m for net in networks for m in net.modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return (networks[0] if members == 1 else Ensemble(networks, "classification")).eval()


@pytest.mark.parametrize(("words", "shape", "members"), FAMILIES)
def test_a_graph_of_onnx_gives_the_outputs_of_the_network(words, shape, members):
    net = network_of(words, shape, members)
    session = onnxruntime.InferenceSession(graphs.onnx(net, "classification", shape))
    assert [o.name for o in session.get_outputs()] == ["probabilities", "outputs"]
    for count in (1, 7, 1000):
        x = graphs.examples(shape, count)
        if shape.vocabulary:
            x[0] = 0  # an empty text
        probabilities, outputs = session.run(None, {"input": x.numpy()})
        with torch.no_grad():
            expected = net(x)
        assert outputs.shape == (count, 3)
        assert np.abs(probabilities - expected.softmax(1).numpy()).max() < 1e-5
        assert np.abs(outputs - expected.numpy()).max() < 1e-4


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with sources, and a run and an export of each."""
    place = tmp_path_factory.mktemp("home")
    frame = write_table(place / "plain.csv")
    odd = [f"{v:.{2 + i % 2}f}".replace(".", ",") for i, v in enumerate(frame["size"])]
    frame.assign(size=odd, price=frame["price"].astype(str).str.replace(".", ",")).to_csv(
        place / "t.csv", sep=";", index=False
    )
    write_texts(place / "mail.csv")
    write_pictures(place / "pictures")
    runs = {
        "table": table_words(place / "t.csv", "cheap", "regularization=batchnorm"),
        "counts": table_words(place / "t.csv", "rooms", "loss=poisson", "training.members=2"),
        "text": ["data=text_csv", f"data.path={place / 'mail.csv'}", "data.text=body",
                 "data.label=topic", "data.min_count=1", "model=text_bag"],
        "pictures": ["data=image_folder", f"data.root={place / 'pictures'}", "data.size=16"],
    }  # fmt: skip
    for name, words in runs.items():
        train(place / name, *words)
        assert main(["export", str(place / name), "--out", str(place / f"{name}.onnx")]) == 0
    return place


GUARD = """
import runpy, sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("knobs", "torch", "safetensors", "sklearn"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Guard())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def alone(script, *words):
    """predict.py in a process that has no knobs: its exit code and what it says."""
    (script.parent.parent / "guard.py").write_text(GUARD)
    line = [sys.executable, "-I", script.parent.parent / "guard.py", script, *words]
    done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "code"), [("table", 23), ("counts", 23), ("text", 23), ("pictures", 23)]
)
def test_without_knobs_the_answers_are_the_same(name, code, home, tmp_path, capsys):
    shutil.copytree(home / f"{name}.onnx", tmp_path / "moved")
    if name == "text":
        source = tmp_path / "new.txt"
        source.write_text("late refund zebra\n\nthanks great\nwhere when how password 7 !\n" * 20)
    elif name == "pictures":
        source = tmp_path / "new"
        shutil.copytree(home / "pictures", source)
        (source / "broken.png").write_bytes(b"\x89PNG")
    else:
        source = tmp_path / "new.csv"
        frame = pd.read_csv(home / "t.csv", sep=";", dtype=str, keep_default_na=False)
        frame.loc[3, "kind"], frame.loc[4, "kind"], frame.loc[5, "age"] = "castle", "", "n.a."
        frame.loc[6, "size"], frame.loc[7, "sold"] = "wide", "3 Jan 2021"
        frame.to_csv(source, sep=";", index=False, encoding="utf-16")
    mine, its = tmp_path / "mine.csv", tmp_path / "its.csv"
    assert main(["predict", str(home / name), str(source), "--out", str(mine), "--keep"]) == code
    told = capsys.readouterr().err
    done = alone(tmp_path / "moved" / "predict.py", source, "--out", its, "--keep")
    assert done == (code, told)
    a, b = (pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in (mine, its))
    assert list(a) == list(b)
    for column in a:
        if a[column].dtype.kind == "f":
            assert np.allclose(a[column], b[column], atol=1e-5, rtol=1e-5, equal_nan=True)
        else:
            assert a[column].equals(b[column])
    assert a["error"].notna().sum() in (1, 20)


def test_a_folder_holds_what_it_says(home):
    found = {path.name for path in (home / "table.onnx").iterdir()}
    assert found == {"model.onnx", "preparation.json", "predict.py", "README.md", "reading"}
    for path in (home / "table.onnx").rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(
                ("import knobs", "from knobs", "import torch", "from torch")
            ), path
    document = json.loads((home / "counts.onnx" / "preparation.json").read_text())
    assert document["outputs"] == "log rates"
    kept = knobs.load(home / "counts").preparation.inputs
    again = np.array(document["arrays"]["inputs.mean"]["values"], kept.mean.dtype)
    assert np.array_equal(again, kept.mean)
    text = (home / "table.onnx" / "README.md").read_text()
    assert "`input` (float32, N x " in text
    assert "`outputs` are logits" in text


def test_torch_export_gives_the_outputs_of_the_network(home, tmp_path):
    out = tmp_path / "out"
    assert main(["export", str(home / "counts"), "--to", "torch", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"model.pt2", "preparation.json", "README.md"}
    program, model = torch.export.load(out / "model.pt2").module(), knobs.load(home / "counts")
    for count in (1, 7, 1000):
        x = graphs.examples(model.shape, count)
        with torch.no_grad():
            assert torch.allclose(program(x)[0], model.network(x), atol=1e-5)


# ------------------------------------------------------------------ what is refused
class Odd(nn.Module):
    """A network whose path depends on its numbers, which no graph has."""

    def forward(self, x):
        return x[:, :3] if x.sum() > 0 else -x[:, :3]


@pytest.mark.parametrize("to", [graphs.onnx, graphs.exported])
def test_what_has_no_graph_is_refused_with_a_reason(to):
    with pytest.raises(
        ConfigError, match=r"(ONNX|torch\.export) cannot express this network \(.+\)"
    ):
        to(Odd(), "classification", TABLE)


def test_a_graph_that_differs_is_not_written():
    graph = graphs.Graph(network_of("model=linear", TABLE, 1), "regression")
    with pytest.raises(
        ConfigError, match=r"differs from the network by \S+ on a batch of 1, more than"
    ):
        graphs._compare(graph, TABLE, lambda x: [graph(x)[0].numpy() + 1e-3])


def test_refusals_of_a_command_line(home, tmp_path, capsys, monkeypatch):
    def told(*words):
        code = main(["export", *map(str, words)])
        return code, capsys.readouterr().err

    monkeypatch.setattr(graphs, "onnx", lambda *a: b"graph")
    run = home / "table"
    out = tmp_path / "out"
    assert told(run, "--out", out)[0] == 0
    assert told(run, "--out", out) == (2, f"knobs: --out {out}: exists; --force replaces it\n")
    assert told(run, "--out", out, "--force")[0] == 0
    assert (out / "model.onnx").read_bytes() == b"graph"
    (out / "mine.txt").write_text("x")
    for place, message in ((out, "is no exported model"), (run, "is no exported model"),
                           (home / "t.csv", "is no exported model"), (tmp_path / "no/a", "no folder")):  # fmt: skip
        code, line = told(run, "--out", place, "--force")
        assert code == 2
        assert message in line
    monkeypatch.setattr(graphs.importlib.util, "find_spec", lambda name: None)
    code, line = told(run, "--out", tmp_path / "b")
    assert (code, line.count("\n")) == (2, 1)
    assert "needs onnx, onnxscript, onnxruntime; pip install onnx onnxscript onnxruntime" in line
    assert told(tmp_path / "none", "--to", "torch", "--out", tmp_path / "b")[0] == 4
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / "preparation.json").unlink()
    code, line = told(tmp_path / "old", "--to", "torch", "--out", tmp_path / "b")
    assert (code, "has no preparation.json" in line) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "old"}


def test_every_import_of_the_copied_code_is_there():
    files = folder.code()
    assert len(files) > 15
    for name, data in files.items():
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("reading"):
                place = node.module.replace(".", "/")
                modules = (
                    [place] if f"{place}.py" in files else [f"{place}/{a.name}" for a in node.names]
                )
                assert {f"{module}.py" for module in modules} <= files.keys(), (name, node.module)
