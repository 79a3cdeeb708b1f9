"""Begin a part of one's own: its YAML and its code, which work at once.

A model, data set, loss or metric is a function or class in a package of your own; a study is a YAML
alone. Nothing that is there is overwritten.
"""

import argparse
import keyword
import os
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from knobs import storage
from knobs.config import rules
from knobs.errors import ConfigError, StorageError, ended
from knobs.metrics import METRICS
from knobs.targets import ALLOWED

# kind: the group of its YAML, the YAML, the code, the overrides that use it
MODEL = '''\
# NAME: one hidden layer.
name: NAME                # word
inputs: [table, image]    # each table, image or text
_target_: PACKAGE.MODULE.Net
_partial_: true
width: 64                 # whole number >= 1
''', '''\
"""The network NAME."""

from collections.abc import Callable

from torch import Tensor, nn


class Net(nn.Module):
    """(N, *input) -> (N, outputs).

    knobs gives those of shape, inputs, outputs, activation, norm and dropout that are named here:
    inputs and outputs are numbers, `activation()` makes a layer. What else there is comes from the
    YAML.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        activation: Callable[[], nn.Module],
        dropout: float,
        width: int,
    ):
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), activation(), nn.Dropout(dropout)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return a number for each class, or each target."""
        return self.head(self.hidden(x))
'''  # fmt: skip
DATA = '''\
# NAME: points in two classes.
name: NAME                # word
kind: table               # table, image or text
task: classification      # classification, multilabel or regression
_target_: PACKAGE.MODULE.rows
examples: 300             # whole number >= 30
normalize: true           # true or false; standardized by the training split, or left as they are
val: 0.2                  # > 0 and < 1; share of the examples held out to choose by
test: 0.2                 # > 0 and < 1; share held out to be read once, with test=true
split_seed: 0             # whole number >= 0; the same split whatever the run's seed
val_seed: null            # null or whole number >= 0; of the validation split alone
folds: null               # null or whole number >= 2
fold: 0                   # whole number >= 0, or all
''', '''\
"""The data set NAME."""

import numpy as np


def rows(examples: int) -> tuple:
    """Return x (N, F) and y (N,): arrays or tensors, which knobs splits and standardizes.

    It may as well return a DataFrame (with data.target), a torch Dataset, or what there is of
    {"train": ..., "val": ..., "test": ...}.
    """
    random = np.random.default_rng(0)
    x = random.normal(size=(examples, 4))
    return x, (x[:, 0] * x[:, 1] > 0).astype(int)
'''  # fmt: skip
LOSS = '''\
# NAME: cross-entropy to a power.
tasks: [classification]   # each classification, multilabel or regression
_target_: PACKAGE.MODULE.values
_partial_: true
power: 1.0                # > 0
''', '''\
"""The loss NAME."""

from torch import Tensor
from torch.nn import functional as F


def values(outputs: Tensor, targets: Tensor, *, power: float) -> Tensor:
    """Return a value per example, (N, C) and (N,) -> (N,); knobs takes the mean."""
    return F.cross_entropy(outputs, targets, reduction="none") ** power
'''  # fmt: skip
METRIC = '''\
# NAME: the lowest recall of any class.
defaults:
  - default
  - _self_

own:
  NAME:
    _target_: PACKAGE.MODULE.score
    _partial_: true
    mode: max             # min or max
''', '''\
"""The metric NAME."""

from torch import Tensor


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a number of a whole split, (N, C) and (N,)."""
    right = outputs.argmax(1) == targets
    counts = targets.bincount(minlength=outputs.shape[1])
    return (targets[right].bincount(minlength=len(counts)) / counts)[counts > 0].min()
'''  # fmt: skip
STUDY = '''\
# Which of two optimizers, each at its own learning rate?
question: Which of two optimizers, each at its own learning rate?
scientific: {optimizer: [adam, momentum]}
space:
  optimizer.lr: {low: 1e-3, high: 1e-1, scale: log}
fixed: [training.epochs]
runs: 8
seeds: 3
''', ""  # fmt: skip
KINDS = {
    "model": ("model", *MODEL, "model=NAME"),
    "data": ("data", *DATA, "data=NAME"),
    "loss": ("loss", *LOSS, "loss=NAME"),
    "metric": ("metrics", *METRIC, "metrics=NAME objective.metric=val/NAME"),
    "study": ("study", *STUDY, "-m +study=NAME training.epochs=5"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Write a part of one's own; return the exit code."""
    parser = argparse.ArgumentParser(prog="knobs new", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="of the option: letters, digits and _")
    parser.add_argument("--package", default="own", help="the folder it goes to; default own")
    given = parser.parse_args(words)
    return ended(lambda: _new(given.kind, given.name, given.package))


def _new(kind: str, name: str, package: str) -> int:
    group, yaml, code, use = KINDS[kind]
    _refuse(kind, group, name, package)
    module = f"{kind}_{name}"
    folder = Path(package)
    files = {folder / "conf" / group / f"{name}.yaml": yaml}
    if code:
        files[folder / f"{module}.py"] = code
    if there := [file for file in files if file.exists()]:
        raise StorageError(f"{there[0]}: is there already; choose another name, or remove it")
    if code and not (folder / "__init__.py").exists():
        files[folder / "__init__.py"] = f'"""Parts of {package}."""\n'
    for file, text in files.items():
        for word, value in (("NAME", name), ("PACKAGE", package), ("MODULE", module)):
            text = re.sub(rf"\b{word}\b", value, text)
        file.parent.mkdir(parents=True, exist_ok=True)
        storage.write(file, text.encode())
        print(f"wrote {file}")
    print(f"next: {command(package, use.replace('NAME', name), bool(code))}")
    return 0


def command(package: str, use: str, code: bool) -> str:
    """Return the command that uses a part, with what its process needs."""
    train = Path("train.py")
    if not train.is_file() and (rules.CONF.parent / "train.py").is_file():
        train = rules.CONF.parent / "train.py"
    beside = not train.is_absolute() and not train.is_symlink()  # then Python looks here
    needs = "" if beside else "PYTHONPATH=. "
    admitted = [word for word in os.environ.get("KNOBS_ALLOW", "").split(",") if word.strip(" .")]
    if f"{package}." not in admitted:
        admitted.append(f"{package}.")
    needs = f"{needs}KNOBS_ALLOW={shlex.quote(','.join(admitted))} " if code else ""
    return f"{needs}python {train} --config-dir {package}/conf {use}"


def _refuse(kind: str, group: str, name: str, package: str) -> None:
    """Refuse names that Python, Hydra or knobs would take for another thing.

    Raises:
        ConfigError: naming the name and the fix.
    """
    must = "must be a name of Python: at most 60 letters, digits and _, no digit first"
    for what, word in (("name", name), ("--package", package)):
        plain = word.isascii() and word.isidentifier() and len(word) <= 60
        if not plain or keyword.iskeyword(word) or word.startswith("_"):
            raise ConfigError(f"knobs new: {what} {word!r}: {must}")
    if (rules.CONF / group / f"{name}.yaml").exists() or (kind == "metric" and name in METRICS):
        raise ConfigError(f"knobs new: {kind} {name}: knobs has one of this name; choose another")
    ours = {prefix.partition(".")[0] for prefixes, _ in ALLOWED.values() for prefix in prefixes}
    taken = package in ours | sys.stdlib_module_names | {"conf", "outputs", "src"}
    if not taken and not Path(package).is_dir():
        taken = find_spec(package) is not None
    if taken:
        fix = "choose another, with --package"
        raise ConfigError(
            f"knobs new: --package {package}: Python knows another of this name; {fix}"
        )


if __name__ == "__main__":
    sys.exit(main())
