"""Facts about the data of a run: rows, columns, vocabulary or pixels, as its record has them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from knobs.report.files import of
from knobs.report.run.parts import Part, Table, named
from knobs.report.run.records import Prepared, RunFiles
from knobs.words import listed, number, printable

MOST_COLUMNS = 200  # of a table
LEVELS = 8  # of a category, by name
SPLITS = ("train", "val", "test")
MOST_NOTES = 20


def data(files: RunFiles) -> Part:
    """Return rows of the splits, columns and their kinds, and what was said when it was read."""
    prepared = files.prepared
    facts = _splits(files)
    tables: list[Table] = []
    if prepared:
        kind = {"table": _of_table, "text": _of_text, "image": _of_images}.get(prepared.kind)
        facts |= kind(prepared) if kind else {"kind": prepared.kind}
        if columns := list(_columns(prepared)):
            more = len(columns) - MOST_COLUMNS
            see = f"{more:,} more columns are left out." if more > 0 else ""
            heads = ("column", "kind", "median", "mean", "sd", "values")
            tables.append(Table(heads, tuple(columns[:MOST_COLUMNS]), see=see))
        if prepared.task == "regression":
            rows = tuple(
                (named(prepared.names, i), number(m, 5), number(s, 5))
                for i, (m, s) in enumerate(zip(prepared.mean, prepared.std, strict=True))
            )[:MOST_COLUMNS]
            tables.append(Table(("target", "mean", "sd"), rows, "Targets of the training rows"))
    texts = [f"{note.rstrip('.')}." for note in notes(files)]
    if not prepared:
        texts.append("The run kept no preparation: its columns and statistics are not known.")
    return Part("data", "The data", tuple(texts), facts, tables=tuple(tables))


def notes(files: RunFiles) -> list[str]:
    """Return the sentences that the run said when it read its data."""
    given = [str(note) for note in of(files.data, "notes", list)]
    more = len(given) - MOST_NOTES
    return [*given[:MOST_NOTES], *([f"and {more:,} notes more"] if more > 0 else [])]


def _splits(files: RunFiles) -> dict[str, str]:
    rows = of(files.data, "rows", list)
    if len(rows) == len(SPLITS) and all(type(n) is int for n in rows):
        return {f"{name} rows": f"{n:,}" for name, n in zip(SPLITS, rows, strict=True)}
    size = files.run.validation_examples
    return {"val rows": f"{size:,}"} if size else {}


def _of_table(prepared: Prepared) -> dict[str, str]:
    numbers, levels = of(prepared.inputs, "numbers", list), of(prepared.inputs, "levels", dict)
    wide = sum(len(known) for known in levels.values() if isinstance(known, list))
    return {"inputs": f"{len(numbers) + wide:,}", "columns": f"{len(_kinds(prepared)):,}"}


def _of_text(prepared: Prepared) -> dict[str, str]:
    tokens, length = of(prepared.inputs, "tokens", list), of(prepared.inputs, "length", int)
    ngrams = of(prepared.inputs, "ngrams", int)
    size = len(tokens) or of(prepared.inputs, "vocabulary", int)  # the latter of a tokenizer
    facts = {"vocabulary": f"{size:,} tokens", "length": f"{length:,} tokens at most"}
    return facts | ({"n-grams": f"up to {ngrams} words"} if ngrams > 1 else {})


def _of_images(prepared: Prepared) -> dict[str, str]:
    sizes = {name: of(prepared.inputs, name, int) for name in ("width", "height", "channels")}
    facts = {"size": f"{sizes['width']} x {sizes['height']}", "channels": str(sizes["channels"])}
    for name in ("mean", "scale"):
        values = prepared.arrays.get(name)
        if isinstance(values, np.ndarray) and values.size:
            facts |= {f"pixel {name}": listed([number(v) for v in values.flatten().tolist()], 4)}
    return facts


def _kinds(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """Return column -> its kind and what else is kept of it, in the order of the table."""
    columns = of(prepared.inputs, "columns", dict)
    if columns:
        return {name: about for name, about in columns.items() if isinstance(about, dict)}
    numbers = {str(n): {"kind": "number"} for n in of(prepared.inputs, "numbers", list)}
    return numbers | {n: {"kind": "category"} for n in of(prepared.inputs, "levels", dict)}


def _columns(prepared: Prepared) -> Iterator[tuple[str, ...]]:
    """Yield a row a column of a table; none of other data."""
    numbers = {str(n): i for i, n in enumerate(of(prepared.inputs, "numbers", list))}
    levels = of(prepared.inputs, "levels", dict)
    stats = [prepared.arrays.get(name) for name in ("median", "mean", "scale")]
    for name, about in _kinds(prepared).items():
        cells, values = ("", "", ""), ""
        place = numbers.get(name)
        if place is not None:
            cells = tuple(
                number(float(v[place]), 4) if v is not None and place < len(v) else ""
                for v in stats
            )
        known = levels.get(name)
        if isinstance(known, list):
            names = [printable(str(level), 24) or "(empty)" for level in known]
            values = f"{len(known):,}: {listed(names, LEVELS)}"
        elif parts := of(about, "parts", list):
            values = listed(list(map(str, parts)), LEVELS)
        yield named([name], 0), str(about.get("kind", "")), *cells, values
