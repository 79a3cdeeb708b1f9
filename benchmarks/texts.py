"""Texts: knobs' text_bag beside tf-idf and logistic regression, on the same rows.

    OMP_NUM_THREADS=1 python benchmarks/texts.py                      # model=text_bag and no more
    OMP_NUM_THREADS=1 python benchmarks/texts.py --splits 5 -- optimizer.lr=3e-3 training.epochs=20

Sets, the first where KNOBS_DATA has it, the others made of what is installed with Python, so that
they differ a little from one installation to another:

    banking77    sentences of bank customers, 77 intents
    python_docs  passages of Python's reference, 20 topics
    packages     docstrings of installed packages: of which are they?
    stdlib       docstrings of the standard library: of which module?

Each split is trained, and judged on its test rows, by both: knobs by the epoch that is best on the
validation rows, the peer by the C of 1, 10, 100 that is. Printed for each set: test accuracy as
median [lowest .. highest] over the splits, seconds, and the difference, paired by split, with its
90 % interval (Student's t).
"""

import argparse
import ast
import contextlib
import csv
import importlib.util
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from knobs import build
from knobs.config import command
from knobs.training.run import execute

PACKAGES = ("numpy", "pandas", "scipy", "sklearn", "torch", "wandb")
ROWS, LEAST = 4000, 8  # of a set, drawn once; words of a docstring


def docstrings(folder: Path) -> Iterator[str]:
    """Yield the first paragraphs of what is documented in a folder's modules, or in one module."""
    for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
        if "tests" in file.parts:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            kinds = ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                paragraph = " ".join(text.split("\n\n")[0].split())
                if len(paragraph.split()) >= LEAST:
                    yield paragraph


def packages() -> list[tuple[str, str]]:
    """Return (docstring, package)."""
    found = {name: importlib.util.find_spec(name) for name in PACKAGES}
    folders = {n: Path(s.submodule_search_locations[0]) for n, s in found.items() if s}
    return [(text, name) for name, folder in folders.items() for text in docstrings(folder)]


def stdlib() -> list[tuple[str, str]]:
    """Return (docstring, module) of the 30 modules and packages that have most."""
    home = Path(os.__file__).parent
    places = [
        p for p in sorted(home.iterdir()) if p.suffix == ".py" or (p / "__init__.py").exists()
    ]
    rows = [(t, p.stem) for p in places if p.stem not in ("test", "idlelib") for t in docstrings(p)]
    most = {name for name, _ in Counter(name for _, name in rows).most_common(30)}
    return [(text, name) for text, name in rows if name in most]


def banking() -> list[tuple[str, str]]:
    """Return (sentence, intent); nothing where the set is not there."""
    file = Path(os.environ.get("KNOBS_DATA", "data")) / "banking77" / "train.csv"
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [(row["text"], row["category"]) for row in csv.DictReader(lines)]


def written(rows: list[tuple[str, str]], path: Path) -> Path:
    """Write different texts as a CSV, ROWS of them at most, drawn once."""
    rows = list(dict(rows).items())
    order = np.random.default_rng(0).permutation(len(rows))[:ROWS]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *(rows[i] for i in np.sort(order))])
    return path


def python_docs() -> list[tuple[str, str]]:
    """Return (passage, topic) as data=python_docs cuts them."""
    from pydoc_data.topics import topics

    from knobs.data.bundled import _passages

    longest = sorted(topics, key=lambda topic: (-len(topics[topic]), topic))[:20]
    return [(text, topic) for topic in longest for text in _passages(topics[topic], 40)]


SETS = {"banking77": banking, "python_docs": python_docs, "packages": packages, "stdlib": stdlib}


def peer(texts: list[str], labels: np.ndarray, parts: list[np.ndarray]) -> float:
    """Return the test accuracy of tf-idf and logistic regression, C by the validation rows."""
    train, chosen, held = parts
    vectors = TfidfVectorizer().fit([texts[i] for i in train])
    x = [vectors.transform([texts[i] for i in part]) for part in parts]
    models = [LogisticRegression(C=c, max_iter=2000).fit(x[0], labels[train]) for c in (1, 10, 100)]
    best = max(models, key=lambda model: model.score(x[1], labels[chosen]))
    return best.score(x[2], labels[held])


def compared(name: str, path: Path, more: list[str], splits: int) -> str:
    """Train both on every split of a set; return a row of what came of it."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    texts, labels = [text for text, _ in rows], np.array([label for _, label in rows])
    ours, theirs, seconds, took = [], [], [], []
    for seed in range(splits):
        words = ["data=text_csv", f"data.path={path}", "model=text_bag", "tracking=local", *more]
        words += [f"data.split_seed={seed}", f"seed={seed}", "test=true"]
        config = command.checked([*words, "training.checkpoint=false"])
        start = time.perf_counter()
        summary = execute(config, path.with_suffix("") / str(seed)).summary
        seconds.append(time.perf_counter() - start)
        ours.append(summary["test"]["test/accuracy"])
        data = build.data(config)
        parts = [split.rows.numpy() for split in (data.train, data.val, data.test)]
        start = time.perf_counter()
        theirs.append(peer(texts, labels, parts))
        took.append(time.perf_counter() - start)
    gains = 100 * (np.array(ours) - theirs)
    half = stats.sem(gains) * stats.t.ppf(0.95, len(gains) - 1) if len(gains) > 1 else np.nan
    return (
        f"{name:11} {len(labels):,} x {len(set(labels)):<3} {_spread(ours)}  {_spread(theirs)}  "
        f"{gains.mean():+.1f} [{gains.mean() - half:+.1f} .. {gains.mean() + half:+.1f}]  "
        f"{statistics.median(seconds):.1f} s, {statistics.median(took):.1f} s"
    )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} [{min(values):.4f} .. {max(values):.4f}]"


def main() -> None:
    """Compare on each set that is there, a line a set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("more", nargs="*", help="after --: overrides of the run")
    args = parser.parse_args()
    print(f"model=text_bag {' '.join(args.more)}")
    print(
        "set         size       knobs, test             tf-idf, test            points, 90 %; time"
    )
    with tempfile.TemporaryDirectory() as place:
        for name in args.sets:
            if not (rows := SETS[name]()):
                print(f"{name}: not there")
                continue
            path = written(rows, Path(place) / f"{name}.csv")
            with open(os.devnull, "w") as silent, contextlib.redirect_stderr(silent):
                row = compared(name, path, args.more, args.splits)
            print(row, flush=True)


if __name__ == "__main__":
    main()
