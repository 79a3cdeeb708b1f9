"""The files of the table that a prior is learned from: their bytes, and damage to them."""

import json

import numpy as np
import pytest

from knobs.errors import DataError
from knobs.search import table
from knobs.search.learn import settings

FACTS = {
    "task": "t", "source": "s", "fold": 0, "kind": "table", "type": "regression", "model": "mlp",
    "rows": 500, "train": 300, "inputs": [3], "vocabulary": 0, "classes": 0, "data": "",
    "overrides": "", "objective": "val/r2", "mode": "max", "knobs": ["lr", "l1"],
    "shapes": [{}, {}], "settings": 2, "seeds": 3, "epochs": 5, "seconds": 1.5, "versions": {},
    "date": "2026-01-01", "command": "",
}  # fmt: skip
UNITS = np.arange(8, dtype=np.uint16).reshape(4, 2) * 8000
CURVES = np.linspace(-2, 2, 2 * 12 * 5).reshape(2, 12, 5).astype(np.float16)


@pytest.fixture
def path(tmp_path):
    table.write(tmp_path / "t.table", table.Table(FACTS, UNITS, CURVES))
    return tmp_path / "t.table"


def test_bytes_are_a_line_of_json_and_two_arrays(path):
    head, arrays = path.read_bytes().split(b"\n", 1)
    assert {n: v for n, v in json.loads(head).items() if n not in ("version", "sha256")} == FACTS
    assert arrays == UNITS.astype("<u2").tobytes() + CURVES.astype("<f2").tobytes()


def test_a_table_comes_back_as_it_was(path):
    found = table.read(path)
    assert found.facts == FACTS
    np.testing.assert_array_equal(found.units, UNITS)
    np.testing.assert_array_equal(found.curves, CURVES)
    np.testing.assert_array_equal(found.points, (UNITS + 0.5) / 65536)


def test_packed_keeps_nan_and_bounds_what_float16_does_not_hold():
    packed = table.packed(np.array([1e9, -np.inf, np.nan, 0.1]))
    np.testing.assert_array_equal(packed, np.array([65504, -65504, np.nan, 0.1], np.float16))


def test_every_changed_or_lost_byte_is_noticed(path):
    data = path.read_bytes()
    for i in range(0, len(data), 7):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(DataError, match=r"t\.table: no table"):
            table.read(path)
    for end in (0, 1, 100, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=r"t\.table: no table"):
            table.read(path)
    path.write_bytes(data)
    assert table.read(path).facts == FACTS


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epochs", 4, "bytes of arrays"),
        ("settings", 0, "settings is 0"),
        ("seeds", 0, "seeds is 0"),
        ("epochs", True, "epochs is True"),
        ("fold", "1", "fold is '1'"),
        ("mode", None, "mode is None"),
        ("shapes", [], "no shapes"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, key, value, says):
    with pytest.raises(ValueError, match=says):
        table.write(tmp_path / "t.table", table.Table(FACTS | {key: value}, UNITS, CURVES))
    assert [*tmp_path.iterdir()] == []


def test_another_version_and_other_files_are_refused(path, tmp_path):
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(DataError, match="version 2, and this is version 1"):
        table.read(path)
    for data in (b"[1]\n", b"\xff\n", b"[" * 50_000 + b"\n", b"{}\n"):
        path.write_bytes(data)
        with pytest.raises(DataError, match="no table"):
            table.read(path)
    with pytest.raises(DataError, match="cannot be read"):
        table.read(tmp_path / "missing.table")


def test_a_whole_table_is_small_enough():
    runs = settings.SHAPES * settings.SETTINGS * settings.SEEDS
    units = 2 * len(settings.KNOBS) * settings.SHAPES * settings.SETTINGS
    header = 6000  # a whole one has about 4,000
    assert runs == 512
    assert header + units + 2 * 2 * runs * settings.EPOCHS <= table.MOST_BYTES


def test_tables_that_are_here_are_whole():
    from conftest import REPO

    found = sorted((REPO / "benchmarks" / "table").glob("*.table"))
    if not found:
        pytest.skip("no table has been made; python -m knobs.search.learn makes them")
    for path in found:
        assert path.stat().st_size <= table.MOST_BYTES
        made = table.read(path)
        assert f"{made.facts['task']}.table" == path.name
        assert made.curves.shape == (2, 512, settings.EPOCHS)
        assert len(settings.overrides_of(made)) == 256
        ends = made.curves[0, :, -1]
        assert np.isfinite(ends).mean() > 0.7, "most runs train"
        assert np.isfinite(ends[np.isfinite(made.curves[1, :, -1])]).all()
        after = np.isnan(made.curves[:, :, :-1]) & ~np.isnan(made.curves[:, :, 1:])
        assert not after.any(), "a run that has diverged does not come back"
