"""Piecewise-linear encodings of numbers: where a value stands among bins of the training rows.

Component t of a value is its place within bin t: 0 below the bin, 1 above it, linear inside. A
linear layer on them is a piecewise-linear function of the number, which trees fit and standardised
numbers do not. Source: Gorishniy et al. 2022, arXiv:2203.05556, section 3.2; here also the first
and the last bin are clipped, so that no value is far away.
"""

from collections.abc import Sequence

import numpy as np

from knobs import rng
from knobs.data.stored import Fields

ENCODINGS = ("standard", "ple", "both")  # of numbers: standardised, in bins, or one after the other
BINS = 32  # of a number, at most
MOST_ROWS = 1_000_000  # training rows that the bins are taken from
BLOCK = 65_536  # rows that are encoded at once


def bin_edges(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (bins + 1,) increasing edges of a number's bins; () where it has one value or none.

    The edges are all values where they are few, else quantiles, equal ones once. Of more than
    MOST_ROWS rows those with the smallest hash count, however the rows are read.

    Args:
        values: (n,) of the training rows, NaN where missing.
        rows: (n,) their numbers.
    """
    if len(rows) > MOST_ROWS:
        values = values[rng.sampled(rows, MOST_ROWS)]
    edges = np.unique(values[~np.isnan(values)])
    if len(edges) > BINS + 1:
        present = values[~np.isnan(values)]
        edges = np.unique(np.quantile(present, np.linspace(0, 1, BINS + 1)))
    return edges if len(edges) > 1 else edges[:0]


def piecewise(values: np.ndarray, edges: np.ndarray, out: np.ndarray) -> None:
    """Write the places of values (n,) within the bins to `out` (n, bins), each from 0 to 1."""
    with np.errstate(over="ignore"):  # a value far from a narrow bin is beyond it all the same
        for start in range(0, len(values), BLOCK):
            some = slice(start, start + BLOCK)
            places = (values[some, None] - edges[:-1]) / np.diff(edges)
            np.clip(places, 0, 1, out=out[some], casting="same_kind")


def read_edges(fields: Fields, count: int) -> tuple[str, tuple[np.ndarray, ...]]:
    """Return the encoding and the edges of `count` numbers, of fields that may lack both.

    Raises:
        CheckpointError: edges that do not increase, or are not as many as the bins say.
    """
    if "encoding" not in fields.node:
        return "standard", ()
    encoding = fields.choice("encoding", ENCODINGS[1:])
    accepts = lambda v: (  # noqa: E731
        isinstance(v, list)
        and len(v) == count
        and all(type(n) is int and 0 <= n <= BINS for n in v)
    )
    bins = fields.value("bins", accepts, f"{count} whole numbers from 0 to {BINS}")
    sizes = [n + 1 if n else 0 for n in bins]
    edges = fields.array("edges", sum(sizes), ("float64",))
    each = tuple(np.split(edges, np.cumsum(sizes)[:-1])) if sizes else ()
    with np.errstate(over="ignore"):
        widths = [np.diff(one) for one in each]
    if not all(((one > 0) & np.isfinite(one)).all() for one in widths):
        raise fields.wrong("edges", "...", "increasing within each number")
    return encoding, each


def saved_edges(encoding: str, edges: Sequence[np.ndarray]) -> tuple[dict, dict]:
    """Return what `read_edges` reads: names and arrays; nothing of standardised numbers."""
    if encoding == "standard":
        return {}, {}
    about = {"encoding": encoding, "bins": [max(0, len(one) - 1) for one in edges]}
    return about, {"edges": np.concatenate([np.zeros(0), *edges])}
