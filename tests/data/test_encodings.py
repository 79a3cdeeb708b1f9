"""Numbers in bins: against the definition, saved, read, hostile; in a run, a resume and a sweep."""

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from sklearn.preprocessing import KBinsDiscretizer

from knobs import build
from knobs.config import command
from knobs.data import encodings, preparation
from knobs.data.encodings import BINS, bin_edges, piecewise
from knobs.data.inputs import Table
from knobs.data.preparation import ARRAYS, JSON, Preparation
from knobs.data.prepare import classes_of
from knobs.errors import CheckpointError, ConfigError, DataError


def by_definition(x, edges):
    """Gorishniy et al. 2022, equation 1, value by value, with both ends clipped."""
    rows = []
    for value in x:
        row = []
        for low, high in itertools.pairwise(edges):
            row.append(
                0.0 if value < low else 1.0 if value >= high else (value - low) / (high - low)
            )
        rows.append(row)
    return np.array(rows, np.float32).reshape(len(x), max(0, len(edges) - 1))


@pytest.mark.parametrize("seed", range(6))
def test_components_are_those_of_the_definition(seed):
    draw = np.random.default_rng(seed)
    kinds = [draw.normal(0, 3, 900), draw.exponential(2, 900), draw.integers(0, 7, 900) * 1.0]
    train = kinds[seed % 3] * 10.0 ** draw.integers(-5, 6)
    edges = bin_edges(train, np.arange(900))
    x = np.concatenate([train[:50], edges, [train.min() - 1, train.max() + 1e9, -1e300, 0]])
    out = np.full((len(x), len(edges) - 1), 9, np.float32)
    piecewise(x, edges, out)
    assert np.allclose(out, by_definition(x, edges), atol=1e-6)
    assert out[:50].sum(1).min() >= 0
    assert ((out >= 0) & (out <= 1)).all()


def test_edges_are_quantiles_and_few_values_are_their_own_edges():
    draw = np.random.default_rng(0)
    values, rows = draw.normal(size=5000), np.arange(5000)
    edges = bin_edges(values, rows)
    peer = KBinsDiscretizer(BINS, strategy="quantile", quantile_method="linear", subsample=None)
    assert np.array_equal(edges, peer.fit(values[:, None]).bin_edges_[0])
    few = np.array([3.0, 1, 1, np.nan, 2, 3])
    assert bin_edges(few, rows[:6]).tolist() == [1, 2, 3]
    spiked = np.where(draw.random(5000) < 0.9, 0.0, values)  # quantiles that are equal
    assert len(bin_edges(spiked, rows)) < BINS
    assert (np.diff(bin_edges(spiked, rows)) > 0).all()
    for none in (np.full(4, 7.0), np.full(4, np.nan), np.array([7, np.nan, 7, 7.0])):
        assert bin_edges(none, rows[:4]).shape == (0,)


def test_of_many_rows_the_edges_are_of_those_with_the_smallest_hash(monkeypatch):
    monkeypatch.setattr(encodings, "MOST_ROWS", 1000)
    values, rows = np.random.default_rng(0).normal(size=9000), np.arange(9000) * 3
    edges = bin_edges(values, rows)
    assert not np.array_equal(edges, np.quantile(values, np.linspace(0, 1, BINS + 1)))
    later = np.arange(9000) > 4000  # rows chosen by their own hash are chosen among fewer as well
    some = set(encodings.rng.sampled(rows, 1000)) & set(np.flatnonzero(later))
    again = np.flatnonzero(later)[encodings.rng.sampled(rows[later], 1000)]
    assert some <= set(again)
    assert np.abs(edges[1:-1] - np.quantile(values, np.linspace(0, 1, BINS + 1))[1:-1]).max() < 0.4


def table(rows=300, seed=0):
    draw = np.random.default_rng(seed)
    return pd.DataFrame({
        "a": np.where(draw.random(rows) < 0.1, np.nan, draw.normal(5, 2, rows)),
        "same": np.full(rows, 4.0),
        "few": draw.integers(0, 4, rows) * 1.0,
        "word": np.array(["x", "y"], object)[draw.integers(0, 2, rows)],
    })  # fmt: skip


def test_bins_stand_behind_what_there_was_before():
    rows, train = table(), np.arange(0, 300, 2)
    standard, ple, both = (Table.fit([rows], train, encoding=e) for e in encodings.ENCODINGS)
    x = both.apply(rows)
    assert torch.equal(x[:, :5], standard.apply(rows))
    assert torch.equal(ple.apply(rows), torch.cat([x[:, 3:5], x[:, 5:]], 1))
    assert both.width == x.shape[1] == 3 + 2 + BINS + 0 + 3
    a = rows["a"].fillna(float(np.nanmedian(rows["a"][train]))).to_numpy()
    assert np.allclose(x[:, 5 : 5 + BINS], by_definition(a, both.edges[0]), atol=1e-6)
    assert x[:, -3:].unique().tolist() == [0, 1]  # few: how many of its steps are reached
    assert x[:, -3:].sum(1).tolist() == rows["few"].tolist()


def test_a_standard_table_is_saved_as_ever():
    about, arrays = Table.fit([table()], np.arange(300)).saved()
    assert set(about) == {"numbers", "levels"}
    assert set(arrays) == {"median", "mean", "scale", "low", "high"}


def files(encoding="both"):
    inputs = Table.fit([table()], np.arange(300), encoding=encoding)
    return Preparation(inputs, classes_of(["u", "v"])).save()


@pytest.mark.parametrize("encoding", encodings.ENCODINGS)
def test_what_was_saved_makes_the_same_of_new_rows(encoding):
    inputs = Table.fit([table()], np.arange(300), encoding=encoding)
    again = Preparation.load(files(encoding))
    new = table(50, seed=9)
    assert torch.equal(again.apply(new), inputs.apply(new))
    assert again.save() == files(encoding)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("encoding", "all", "inputs.encoding='all': must be one of ple, both"),
    ("bins", [BINS, 0], "inputs.bins=.*must be 3 whole numbers from 0 to 32"),
    ("bins", [BINS, 0, True], "inputs.bins=.*must be 3 whole numbers"),
    ("bins", [BINS, 0, -1], "inputs.bins=.*must be 3 whole numbers"),
    ("bins", [BINS, 0, 10**9], "inputs.bins=.*must be 3 whole numbers"),
    ("bins", "abc", "inputs.bins=.*must be 3 whole numbers"),
    ("bins", [BINS, 0, 2], r"inputs.edges is \(37,\) of float64: must be \(36,\)"),
    ("bins", None, "inputs.bins=None: must be 3 whole numbers"),
    ("encoding", ..., "inputs.bins is no field of it"),
    ("edges", np.zeros(37), "inputs.edges=.*increasing within each number"),
    ("edges", np.full(37, np.nan), "inputs.edges: must be .* finite"),
    ("edges", np.zeros(37, np.float32), "inputs.edges is .* of float32: must be"),
    ("edges", None, "inputs.edges is missing"),
])  # fmt: skip
def test_hostile_bins_are_refused_by_field(name, value, message):
    saved = files()
    document, arrays = json.loads(saved[JSON]), safetensors.numpy.load(saved[ARRAYS])
    document.pop("sha256")
    if name == "edges":
        arrays.pop("inputs.edges")
        arrays |= {} if value is None else {"inputs.edges": value}
    elif value is ...:
        del document["inputs"][name]
    else:
        document["inputs"][name] = value
    content = safetensors.numpy.save(arrays)
    document["sha256"] = preparation._checksum(document, content)
    with pytest.raises(CheckpointError, match=message) as error:
        Preparation.load({JSON: json.dumps(document).encode(), ARRAYS: content})
    assert "\n" not in str(error.value)


def test_other_bins_make_another_table():
    one, rows = Table.fit([table()], np.arange(300), encoding="both"), table()
    assert one.unlike(Table.fit([rows], np.arange(300), encoding="both")) == ""
    assert one.unlike(Table.fit([rows], np.arange(300))) == "data.numbers"
    assert one.unlike(Table.fit([rows], np.arange(300), encoding="ple")) == "data.numbers"
    moved = one.edges[0] + 1e-2 * (np.arange(BINS + 1) == 7)
    assert one.unlike(dataclasses.replace(one, edges=(moved, *one.edges[1:]))) == "a"
    near = one.edges[0] * (1 + 1e-9)  # as another machine rounds
    assert one.unlike(dataclasses.replace(one, edges=(near, *one.edges[1:]))) == ""


def test_numbers_without_bins_are_refused_where_nothing_else_is_an_input():
    same = pd.DataFrame({"a": np.full(9, 2.0)})
    with pytest.raises(DataError, match="no number varies.*data.numbers=standard"):
        Table.fit([same], np.arange(9), encoding="ple")
    with pytest.raises(DataError, match="digits are images"):
        command_data("+data.numbers=both")
    with pytest.raises(ConfigError, match="numbers.*one of standard, ple, both"):
        command_data("data=wine", "data.numbers=bins")


def command_data(*overrides):
    return build.data(command.checked(list(overrides)))


@pytest.mark.parametrize("name", ["wine", "diabetes", "breast_cancer"])
def test_bundled_tables_have_bins_too(name):
    plain, both = command_data(f"data={name}"), command_data(f"data={name}", "data.numbers=both")
    features = plain.shape.features
    assert both.shape.features > 10 * features
    assert torch.equal(both.train.x[:, :features], plain.train.x)
    assert both.hash == plain.hash  # the same content, target and split


def write(path, rows=400):
    draw = np.random.default_rng(0)
    x, c = draw.normal(size=rows), draw.integers(0, 3, rows)
    y = np.sin(4 * x) + c
    x = np.where(draw.random(rows) < 0.02, np.nan, x)
    frame = pd.DataFrame({"x": x, "c": np.array(list("abc"))[c], "y": y})
    frame.to_csv(path, index=False)
    return ["data=csv", f"data.path={path}", "data.target=y", "data.task=regression"]


def test_a_run_with_bins_learns_a_wave_and_goes_on_to_the_same_bits(train, tmp_path):
    plain = [*write(tmp_path / "t.csv"), "model=linear", "optimizer.lr=3e-2"]
    common = [*plain, "data.numbers=both"]
    whole = train(*common, "training.epochs=12", folder="whole")
    assert whole.value > 0.85
    assert train(*plain, "training.epochs=12", folder="plain").value < 0.7
    train(*common, "training.epochs=5", folder="part")
    again = train(*common, "training.epochs=12", f"resume={tmp_path / 'part'}", folder="part")
    assert again.value == whole.value


def test_a_sweep_over_encodings_makes_a_stack_of_each(sweep, tmp_path):
    line = [*write(tmp_path / "t.csv"), "data.numbers=standard,both", "seed=0,1", "tracking=local"]
    code, said = sweep(*line, "training.epochs=2", "sweep=s")
    assert code == 0
    assert "4 runs in 2 stacks" in said
    both = Preparation.load(
        {n: (next(tmp_path.rglob("2/config.json")).parent / n).read_bytes() for n in (JSON, ARRAYS)}
    )
    assert both.inputs.encoding == "both"
