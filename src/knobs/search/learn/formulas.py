"""Tables made by formulas: scikit-learn's generators and a few more, each with its parameters.

Every function returns x, float32 (N, F), and y, (N,); no row of numbers comes twice.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]
SEED = 0


def sklearn(generator: str, **parameters: object) -> Rows:
    """Return rows of one of scikit-learn's generators, `sklearn.datasets.make_...`."""
    from sklearn import datasets  # late: a second

    x, y = getattr(datasets, f"make_{generator}")(**parameters, random_state=SEED)[:2]
    return x.astype(np.float32), y


def parity(rows: int, bits: int, noise: int) -> Rows:
    """Return whether an odd number of `bits` inputs is positive; `noise` inputs say nothing."""
    x = np.random.default_rng(SEED).normal(size=(rows, bits + noise))
    return x.astype(np.float32), (x[:, :bits] > 0).sum(1) % 2


def spirals(rows: int, arms: int, noise: float) -> Rows:
    """Return points of spirals in the plane, a turn and a half each, and their arms."""
    draw = np.random.default_rng(SEED)
    y, radius = np.arange(rows) % arms, draw.uniform(0.2, 1, rows)
    angle = 3 * np.pi * radius + 2 * np.pi * y / arms
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return (x + draw.normal(0, noise, x.shape)).astype(np.float32), y


def teacher(rows: int, inputs: int, hidden: int, classes: int, noise: float) -> Rows:
    """Return what a random tanh network of one hidden layer says; the largest output, of several.

    Args:
        classes: 0 for a value.
        noise: standard deviation, of outputs of standard deviation 1.
    """
    draw = np.random.default_rng(SEED)
    x = draw.normal(size=(rows, inputs))
    first = draw.normal(size=(inputs, hidden)) * 2 / inputs**0.5
    outputs = np.tanh(x @ first) @ draw.normal(size=(hidden, max(1, classes)))
    outputs = outputs / outputs.std(0) + draw.normal(0, noise, outputs.shape)
    return x.astype(np.float32), outputs.argmax(1) if classes else outputs[:, 0]


def tree(rows: int, inputs: int, depth: int, classes: int, flip: float) -> Rows:
    """Return the leaves' classes of a random tree of cuts; a share `flip` gets a random class."""
    draw = np.random.default_rng(SEED)
    x, node = draw.uniform(-1, 1, (rows, inputs)), np.zeros(rows, int)
    for _ in range(depth):
        feature = draw.integers(inputs, size=2**depth)
        cut = draw.uniform(-0.4, 0.4, 2**depth)
        node = 2 * node + (x[np.arange(rows), feature[node]] > cut[node])
    y = np.concatenate([np.arange(classes), draw.integers(classes, size=2**depth)])[node]
    odd = draw.random(rows) < flip
    return x.astype(np.float32), np.where(odd, draw.integers(classes, size=rows), y)


def waves(rows: int, inputs: int, most: float) -> Rows:
    """Return a sum of sines, of frequencies up to `most` an input, plus noise of a tenth."""
    draw = np.random.default_rng(SEED)
    x, rates = draw.uniform(-1, 1, (rows, inputs)), draw.uniform(0.3, most, inputs)
    y = np.sin(np.pi * x * rates).sum(1)
    return x.astype(np.float32), y + draw.normal(0, 0.1, rows) * y.std()


def steps(rows: int, inputs: int, levels: int) -> Rows:
    """Return values that are constant on each cell of a grid, plus noise of a fifth."""
    draw = np.random.default_rng(SEED)
    x = draw.uniform(0, 1, (rows, inputs))
    y = draw.normal(size=(levels,) * inputs)[tuple((x * levels).astype(int).T)]
    return x.astype(np.float32), y + draw.normal(0, 0.2, rows)


def heavy(rows: int, inputs: int) -> Rows:
    """Return a linear function plus Student's t noise of 2 degrees of freedom: outliers."""
    draw = np.random.default_rng(SEED)
    x = draw.normal(size=(rows, inputs))
    return x.astype(np.float32), x @ draw.normal(size=inputs) + draw.standard_t(2, rows)


def lorenz(rows: int, ahead: int) -> Rows:
    """Return states of Lorenz's system (10, 28, 8/3), and the first coordinate `ahead` steps later.

    Euler's steps of .005; every fifth state is a row. Source: Lorenz 1963.
    """
    state, path = np.array([1.0, 1.0, 25.0]), []
    for _ in range(2000 + 5 * rows + ahead):
        a, b, c = state
        state = state + 0.005 * np.array([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])
        path.append(state)
    whole = np.array(path[2000:])
    return whole[: 5 * rows : 5].astype(np.float32), whole[ahead : 5 * rows + ahead : 5, 0]


def _of(name: str, generator: str, kind: str, **parameters: object) -> tuple:
    return name, f"make_{generator}", kind, partial(sklearn, generator, **parameters)


CLASSES, VALUES = "classification", "regression"
# Name, source, type, rows. The redundant and the repeated inputs are scikit-learn's defaults.
ALL: tuple[tuple[str, str, str, Callable[[], Rows]], ...] = (
    _of("blobs", "blobs", CLASSES, n_samples=1500, centers=8, n_features=5, cluster_std=4.0),
    _of("moons", "moons", CLASSES, n_samples=1000, noise=0.3),
    _of("circles", "circles", CLASSES, n_samples=1000, noise=0.15, factor=0.6),
    _of("two_classes", "classification", CLASSES, n_samples=2000, n_features=20, n_informative=5,
        n_redundant=5, flip_y=0.05),
    _of("ten_classes", "classification", CLASSES, n_samples=3000, n_features=30, n_informative=10,
        n_classes=10),
    _of("wide_classes", "classification", CLASSES, n_samples=600, n_features=100, n_informative=10),
    _of("rare_class", "classification", CLASSES, n_samples=3000, n_features=15, n_informative=6,
        weights=[0.94], class_sep=1.5),
    _of("hastie", "hastie_10_2", CLASSES, n_samples=3000),
    _of("quantiles", "gaussian_quantiles", CLASSES, n_samples=2000, n_features=6, n_classes=4),
    _of("friedman1", "friedman1", VALUES, n_samples=2000, noise=1.0),
    _of("friedman2", "friedman2", VALUES, n_samples=1500, noise=50.0),
    _of("friedman3", "friedman3", VALUES, n_samples=1500, noise=0.1),
    _of("sparse", "sparse_uncorrelated", VALUES, n_samples=1000, n_features=20),
    _of("linear", "regression", VALUES, n_samples=1500, n_features=50, noise=20.0),
    _of("swiss_roll", "swiss_roll", VALUES, n_samples=2000, noise=0.5),
    _of("s_curve", "s_curve", VALUES, n_samples=1000, noise=0.1),
    ("parity", "parity", CLASSES, partial(parity, 3000, 3, 5)),
    ("spirals", "spirals", CLASSES, partial(spirals, 1500, 3, 0.02)),
    ("teacher_classes", "teacher", CLASSES, partial(teacher, 5000, 16, 32, 5, 0.3)),
    ("teacher_values", "teacher", VALUES, partial(teacher, 5000, 16, 32, 0, 0.3)),
    ("tree", "tree", CLASSES, partial(tree, 4000, 10, 6, 4, 0.1)),
    ("waves", "waves", VALUES, partial(waves, 3000, 4, 3.0)),
    ("steps", "steps", VALUES, partial(steps, 3000, 3, 4)),
    ("heavy", "heavy", VALUES, partial(heavy, 2000, 10)),
    ("lorenz", "lorenz", VALUES, partial(lorenz, 3000, 60)),
)  # fmt: skip
