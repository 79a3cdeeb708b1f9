"""The folder of an exported model: its graph, its preparation, and the code that reads raw rows.

That code is knobs' own, file for file, under another name: one set of rules, whoever predicts.
"""

import ast
import os
import re
import shutil
from pathlib import Path
from typing import Any

import knobs
from knobs.errors import ConfigError
from knobs.export import graphs
from knobs.predict.predictor import Predictor
from knobs.storage import as_json, replace_folder, sync_folder, write

SOURCE = Path(__file__).parents[1]  # the package knobs
READING = "reading"  # the package of its files in the folder
STANDALONE, TENSORS = SOURCE / "export/standalone.py", SOURCE / "export/tensors.py"
GRAPHS = {"onnx": "model.onnx", "torch": "model.pt2"}
README = """# An exported model

{source}, by knobs {version}.

- `{graph}`: prepared tensors `input` ({dtype}, N x {size}) to {gives}.
- `preparation.json`: what prepares raw rows, and what outputs mean: `outputs` are {meaning}.
{usage}"""
USAGE = """- `predict.py`: `python predict.py INPUT --out answers.csv` takes numpy, pandas and
  onnxruntime {more}, and not knobs. `--help` says what INPUT may be. The files in `reading/` are
  knobs' own.
"""
MEANING = {"logits": "logits", "values": "values in standard deviations of `target`",
           "log rates": "natural logs of the values"}  # fmt: skip


def export(run: str, model: Predictor, to: str, out: Path, force: bool) -> None:
    """Write a model's folder, whole or not at all.

    Args:
        run: where it comes from, in words.
        to: onnx or torch.

    Raises:
        ConfigError: a folder that is there, a network that has no such graph, or rows that nothing
            prepares.
    """
    _check(out, force)
    made = {"onnx": graphs.onnx, "torch": graphs.exported}[to]
    meaning = model.model  # refused where nothing prepares raw rows
    files = {GRAPHS[to]: made(model.network, model.task, model.shape)}
    document = preparation(model)
    files["preparation.json"] = as_json(document, None)
    usage = ""
    if to == "onnx":
        files |= code()
        more = {"image": "and Pillow"}.get(meaning.inputs.kind, "alone")
        usage = USAGE.format(more=more)
    files["README.md"] = README.format(
        source=f"Of the run {run}", version=knobs.__version__, graph=GRAPHS[to],
        dtype="int32 token ids" if model.shape.vocabulary else "float32",
        size=" x ".join(map(str, model.shape.input)), usage=usage,
        gives=" and ".join(f"`{name}`" for name in graphs.names(model.task)),
        meaning=MEANING[document["outputs"]],
    ).encode()  # fmt: skip
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        for name, data in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            write(partial / name, data, sync=True)
        replace_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_folder(out.parent)


def _check(out: Path, force: bool) -> None:
    """Refuse a folder that is there, unless it is an export that may be replaced.

    Raises:
        ConfigError: saying so.
    """
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: no folder {out.parent}")
    if not os.path.lexists(out):
        return
    inside = {path.name for path in out.iterdir()} if out.is_dir() and not out.is_symlink() else {}
    known = {*GRAPHS.values(), "preparation.json", "predict.py", "README.md", READING}
    if "preparation.json" not in inside or not set(inside) <= known:
        raise ConfigError(f"--out {out}: exists, and is no exported model; give another name")
    if not force:
        raise ConfigError(f"--out {out}: exists; --force replaces it")


def preparation(model: Predictor) -> dict[str, Any]:
    """Return preparation.json of an exported model: arrays as lists, so that JSON is enough."""
    meaning, arrays = model.model, {}
    document: dict[str, Any] = {"version": 1, "kind": meaning.inputs.kind}
    for section, part in (("inputs", meaning.inputs), ("target", meaning.target)):
        document[section], found = part.saved()
        for name, values in found.items():
            arrays[f"{section}.{name}"] = {"type": values.dtype.name, "values": values.tolist()}
    outputs = "log rates" if model.log_rates else "values"
    outputs = outputs if model.task == "regression" else "logits"
    source = meaning.source.saved()
    return document | {"outputs": outputs, "source": source, "arrays": arrays}


# ------------------------------------------------------------------ the code
def code() -> dict[str, bytes]:
    """Return file name -> content of predict.py and of all that it imports of knobs."""
    found, waiting = {}, [STANDALONE, TENSORS]
    while waiting:
        path = waiting.pop()
        if path not in found:
            text = path.read_text(encoding="utf-8")
            waiting += _imports(text)
            found[path] = _renamed(text)
    files = {"predict.py": found.pop(STANDALONE).encode()}
    for path, text in found.items():
        place = Path(READING) / path.relative_to(SOURCE)
        files |= {f"{parent}/__init__.py": b"" for parent in list(place.parents)[:-1]}
        files[str(place)] = text.encode()
    return files


def _imports(text: str) -> list[Path]:
    """Return the files of knobs that a module imports."""
    paths = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "knobs":
            continue
        place = SOURCE.joinpath(*node.module.split(".")[1:])
        parts = [place] if not place.is_dir() else [place / alias.name for alias in node.names]
        paths += [part.with_suffix(".py") for part in parts]
    return paths


def _renamed(text: str) -> str:
    """Return a module that imports knobs' files from READING, and the stand-in for torch."""
    text = re.sub(r"^( *)from knobs\b", rf"\1from {READING}", text, flags=re.M)
    export = f"{READING}.export"
    text = re.sub(
        r"^( *)import torch$", rf"\1from {export} import tensors as torch", text, flags=re.M
    )
    return re.sub(r"^( *)from torch import ", rf"\1from {export}.tensors import ", text, flags=re.M)
