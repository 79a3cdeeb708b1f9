"""Docstrings of installed packages, read from their files: nothing of them is imported."""

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

WORDS = 60  # of a docstring, its first ones
LEAST = 12  # words of a docstring that counts
EACH = 300  # docstrings a module at most, evenly spread over its files
# Package -> its modules, which are the classes.
PACKAGES: dict[str, tuple[str, ...]] = {
    "scipy": ("stats", "signal", "optimize", "special", "sparse", "linalg", "spatial", "ndimage"),
    "numpy": ("lib", "linalg", "ma", "polynomial", "testing", "typing", "_core", "f2py"),
    "sklearn": ("linear_model", "ensemble", "metrics", "preprocessing", "cluster", "decomposition",
                "datasets", "model_selection"),
    "pandas": ("core/arrays", "core/indexes", "core/groupby", "core/reshape", "io", "plotting",
               "tseries", "core/window"),
    "matplotlib": ("axes", "backends", "projections", "testing", "tri", "_mathtext.py",
                   "patches.py", "collections.py", "widgets.py", "ticker.py", "colors.py"),
    "torch": ("nn", "optim", "distributed", "fx", "utils", "distributions", "ao", "autograd"),
    "sympy": ("core", "solvers", "physics", "functions", "polys", "matrices", "combinatorics",
              "stats"),
    "networkx": ("algorithms/centrality", "algorithms/flow", "algorithms/community", "generators",
                 "algorithms/shortest_paths", "drawing", "readwrite", "classes"),
    "transformers": ("models/bert", "models/t5", "models/vit", "models/clip", "models/whisper",
                     "generation", "pipelines", "integrations"),
}  # fmt: skip


@cache
def _found(package: str) -> tuple[tuple[str, str, int], ...]:
    """Return (text, module, number of arguments) of docstrings, each text once."""
    spec = importlib.util.find_spec(package)
    assert spec, package
    folder, seen = Path(spec.submodule_search_locations[0]), dict[str, tuple[str, int]]()
    for module in PACKAGES[package]:
        at = folder / module
        files = [at] if at.is_file() else sorted(at.rglob("*.py"))
        found = dict[str, int]()
        for file in files:
            if "tests" not in file.parts:
                found |= {text: count for text, count in _texts(file) if text not in found}
        new = [(text, count) for text, count in found.items() if text not in seen]
        step = max(1, -(-len(new) // EACH))
        seen |= {text: (module, count) for text, count in new[::step]}
    return tuple((text, module, count) for text, (module, count) in seen.items())


def _texts(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the docstrings of a file's classes and functions, and how many arguments they take."""
    kinds = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef
    with warnings.catch_warnings(action="ignore"):  # escapes in other people's strings
        tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        words = (ast.get_docstring(node) or "").split() if isinstance(node, kinds) else []
        if len(words) >= LEAST:
            args = getattr(node, "args", None)
            count = len(args.args) + len(args.kwonlyargs) if args else 0
            yield " ".join(words[:WORDS]), count


def docstrings(package: str) -> tuple[list[str], np.ndarray]:
    """Return docstrings of a package, and the module that each is of."""
    texts, modules, _ = zip(*_found(package), strict=True)
    return list(texts), np.array(modules)


def arguments(package: str) -> tuple[list[str], np.ndarray]:
    """Return docstrings of functions, and the logarithm of 1 plus how many arguments each takes."""
    found = [(text, count) for text, _, count in _found(package) if count]
    texts, counts = zip(*found, strict=True)
    return list(texts), np.log1p(np.array(counts, float))
