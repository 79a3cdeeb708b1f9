"""The tasks: where their rows come from, and the split by source for holding out.

Nothing is downloaded: rows are of installed packages, of formulas with stated parameters, or of
files of the user's own. digits and Fashion-MNIST are kept out: searches are judged on them.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from knobs import build, targets
from knobs.config import command
from knobs.data import Data, own
from knobs.search.learn import files, formulas, passages, pictures

FOLDS, BYTE = 5, 27  # of a source's hash, the byte whose folds have tasks of all kinds
EVERY = ("tracking=local", "data.val=0.3", "data.test=0.1", "training.drop_last=true",
         "training.threads=1", "training.device=cpu")  # fmt: skip
TEXTS = ("data.max_length=64", "data.max_vocabulary=1500", "data.min_count=2")


@dataclass(frozen=True)
class Task:
    """A data set to train on.

    Args:
        name: of its file.
        source: what its rows come from: tasks of one source are held out together.
        kind: table, image or text.
        type: classification or regression.
        model: an option of conf/model.
        rows: -> (x, y); None: an option of conf/data has them, of the task's name.
        needs: packages that must be installed, for the rows.
        file: below the folder of data sets, where the rows are a file's.
    """

    name: str
    source: str
    kind: str
    type: str
    model: str
    rows: Callable[..., tuple[Any, Any]] | None
    needs: tuple[str, ...] = ()
    file: str = ""

    @property
    def fold(self) -> int:
        """Return which of FOLDS parts of the sources this one is in; no other source moves it."""
        return hashlib.sha256(self.source.encode()).digest()[BYTE] % FOLDS

    def lacks(self, root: Path | None) -> str:
        """Say what is missing to make its rows; empty if nothing is.

        Args:
            root: the folder of data sets, if there is one.
        """
        if missing := [name for name in self.needs if not importlib.util.find_spec(name)]:
            return f"needs {', '.join(missing)}: pip install {' '.join(missing)}"
        if self.file and not (root and (root / self.file).is_file()):
            return f"needs {self.file} in the folder of data sets: --root FOLDER, or KNOBS_DATA"
        return ""

    def lines(self) -> list[str]:
        """Return the overrides of its data and its model."""
        lines = [f"model={self.model}", *EVERY, *(TEXTS if self.kind == "text" else ())]
        if not self.rows:
            return [f"data={self.name}", *lines]
        form = "text_csv" if self.kind == "text" else "arrays"
        about = f"data.name={self.name}", f"data.kind={self.kind}", f"data.task={self.type}"
        return [f"data={form}", f"data.path={self.name}", *about, *lines]

    def data(self, root: Path | None = None) -> Data:
        """Make its rows, and split and prepare them as a run would."""
        config = command.checked(self.lines())
        if not self.rows:
            return build.data(config)
        x, y = self.rows(root / self.file) if self.file else self.rows()
        settings = {k: v for k, v in config["data"].items() if k in targets.SETTINGS}
        if self.kind == "text":
            settings = {k: v for k, v in settings.items() if k not in own.TABLES}
        return own.as_data((x, y), self.name, {}, settings)


def _tables() -> list[Task]:
    """Return the tables of scikit-learn's own sets and of formulas."""
    bundled = [
        Task(name, f"scikit-learn: {name}", "table", kind, "mlp", None, ("sklearn",))
        for name, kind in (("breast_cancer", "classification"), ("diabetes", "regression"))
    ]
    made = [
        Task(name, f"formula: {source}", "table", kind, "mlp", rows, ("sklearn",))
        for name, source, kind, rows in formulas.ALL
    ]
    housing = Task(
        *("california_housing", "California housing", "table", "regression", "mlp"),
        files.california, file="california_housing/housing.csv",
    )  # fmt: skip
    surveys = [
        Task(
            name, f"statsmodels: {name}", "table",
            "regression" if name == "randhie" else "classification", "mlp",
            partial(files.statsmodels, name), ("statsmodels",),
        )
        for name in files.STATSMODELS
    ]  # fmt: skip
    return [*bundled, *made, *surveys, housing]


def _texts() -> list[Task]:
    """Return the tasks of texts."""
    python = Task("python_docs", "python_docs", "text", "classification", "text_bag", None)
    docs = [
        Task(
            f"docs_{package}", f"docstrings: {package}", "text", "classification", "text_bag",
            partial(passages.docstrings, package), (package,),
        )
        for package in passages.PACKAGES
    ]  # fmt: skip
    counts = [
        Task(
            f"arguments_{package}", f"docstrings: {package}", "text", "regression", "text_bag",
            partial(passages.arguments, package), (package,),
        )
        for package in ("scipy", "pandas")
    ]  # fmt: skip
    banking = Task(
        *("banking77", "Banking77", "text", "classification", "text_bag"),
        files.banking77, file="banking77/train.csv",
    )  # fmt: skip
    return [python, *docs, *counts, banking]


def _images() -> list[Task]:
    """Return the tasks of small images."""
    return [
        Task(name, source, "image", kind, model, rows, needs)
        for name, source, kind, model, rows, needs in pictures.ALL
    ]


def all_tasks() -> Mapping[str, Task]:
    """Return the tasks by name."""
    return {task.name: task for task in (*_tables(), *_texts(), *_images())}
