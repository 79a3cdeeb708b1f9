"""Files of tables: what is opened and what refused, Parquet and Excel, speed's ways read alike."""

import bz2
import datetime
import gzip
import io
import lzma
import os
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from knobs import build
from knobs.config import command
from knobs.data import opening, tables
from knobs.errors import DataError

BODY = "".join(f"{i * 7 % 40}.5,{'ab'[i % 3 == 0]},{i % 2}\n" for i in range(60))
TABLE = f"x,c,y\n{BODY}"


def load(path, *more):
    base = ["data=csv", f"data.path={path}", "data.target=y", "data.task=classification"]
    return build.data(command.checked([*base, *more]))


def zipped(members, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def locked(content):
    """A zip file whose flags say that it has a password."""
    content = bytearray(content)
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(start) + flags] |= 1
    return bytes(content)


def tar():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("t.csv"))
    return packed.getvalue()


@pytest.mark.parametrize(("name", "content"), [
    ("t.csv", TABLE.replace("\n", "\r\n", 20)), ("t.csv", TABLE.replace("\n", "\r")),
    ("t.csv", TABLE.replace("\n", "\r\r\n")), ("t.csv", TABLE.replace("x,c,y", " x ,\tc , y ")),
    ("t.csv", TABLE.replace("x,c,y", '"x",c," y\n"')), ("t.csv", f"\n\n{TABLE}\n\n"),
    ("t.csv", TABLE.rstrip("\n")), ("t.csv.gz", gzip.compress(TABLE.encode())),
    ("t.csv.bz2", bz2.compress(TABLE.encode())), ("t.csv.xz", lzma.compress(TABLE.encode())),
    ("t.zip", zipped({"t.csv": TABLE, "__MACOSX/._t.csv": "x", ".DS_Store": "y", "a/": ""})),
    ("t.csv", b"\xef\xbb\xbf" + TABLE.encode()), ("t.csv", TABLE.encode("utf-16")),
])  # fmt: skip
def test_one_table_however_it_is_written(name, content, tmp_path):
    (tmp_path / "plain.csv").write_text(TABLE)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    plain, found = load(tmp_path / "plain.csv"), load(tmp_path / name)
    assert torch.equal(plain.train.x, found.train.x)
    assert found.preparation.inputs.numbers == ("x",)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("t.csv", "", "t.csv: not a CSV with a header .it is empty"),
    ("t.csv", b"\xef\xbb\xbf", "t.csv: not a CSV with a header .it is empty"),
    ("t.csv", "x,c,y\n", "t.csv: has no rows"),
    ("t.csv", "y\n1\n0\n" * 20, "t.csv: no column is left to learn from"),
    ("t.csv", TABLE + "1\0,a,1\n", "t.csv: has bytes that no text has .NUL.; .*utf-16-le"),
    ("t.csv", TABLE.encode("utf-16-le"), "t.csv: has bytes that no text has .NUL.; .*utf-16-le"),
    ("t.csv", TABLE + "1,a\n", "t.csv, line 62: has 2 cells, the header 3 names; correct it"),
    ("t.csv", TABLE + '"1\n2",a\n', "t.csv, line 62: has 2 cells, the header 3 names"),
    ("t.csv", TABLE + "1,a,1,9\n", "t.csv: not a CSV .*Expected 3 fields in line 62, saw 4"),
    ("t.csv", TABLE + '1,"a,1\n2,b,0\n', "t.csv: not a CSV .*EOF inside string"),
    ("t.csv", BODY, r"t.csv: its first line looks like data \(0.5, b, 0\); has it a header"),
    ("t.csv", "1,1,2\n" + BODY, "t.csv: its first line looks like data"),
    ("t.csv", "x,x ,y\n" + BODY, "t.csv: more than one column x; rename all but one"),
    ("t.csv", f"sep=,\n{TABLE}", "t.csv: its first line is for Excel alone"),
    ("t.csv", "<!DOCTYPE html>", "t.csv: is a web page; download the file itself"),
    ("t.csv", "version https://git-lfs.github.com/spec/v1\n", "t.csv: is a pointer of Git LFS"),
    ("t.csv", '[{"x": 1}]', "t.csv: is JSON"),
    ("t.csv", gzip.compress(b"x"), "t.csv: begins as a file whose name ends in .gz; rename it"),
    ("t.xls", b"\xd0\xcf\x11\xe0" + bytes(99), "t.xls: is an Excel file of before 2007"),
    ("t.csv.gz", gzip.compress(TABLE.encode())[:-20], "t.csv.gz: not a CSV .*Compressed file ended"),
    ("t.csv.gz", TABLE, "t.csv.gz: not a CSV with a header .Not a gzipped file"),
    ("t.csv.gz", gzip.compress(gzip.compress(b"x")), "t.csv.gz: holds a .gz file; unpack it"),
    ("t.csv.xz", "\xfd7zXZ\0no", "t.csv.xz: not a CSV with a header"),
    ("t.tar.gz", tar(), "t.tar.gz: is an archive of files .tar.; unpack it"),
    ("t.zip", TABLE, "t.zip: not a CSV with a header .File is not a zip file"),
    ("t.zip", zipped({}), "t.zip: has 0 files; must have one, the table"),
    ("t.zip", zipped({"a.zip": zipped({"a": "b"})}), "t.zip: holds a .zip or .xlsx file; unpack"),
    ("t.zip", locked(zipped({"t.csv": TABLE})), "t.zip: has a password; unpack it"),
    ("t.parquet", "PAR1 no PAR1", "t.parquet: not a Parquet file"),
    ("t.xlsx", zipped({"a": "b"}), "t.xlsx: not an Excel file"),
], ids=lambda value: "bytes" if isinstance(value, bytes) else None)  # fmt: skip
def test_files_that_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load(tmp_path / name)


def test_what_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for path, message in [
        (tmp_path / "pipe.csv", "is a pipe, a socket or a device; write the table to a file"),
        (tmp_path / "folder.csv", "is a folder; expected a file"), ("/dev/zero", "is a pipe, a"),
        (tmp_path / "none.csv", "no such file"), (tmp_path / f"{'x' * 300}.csv", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            opening.check(tmp_path / path)


def test_a_text_larger_than_memory_is_refused(tmp_path, monkeypatch):
    """Before it is read, or while it is unpacked."""
    large = TABLE + BODY * 2000
    (tmp_path / "t.csv").write_text(large)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(large.encode()))
    (tmp_path / "t.zip").write_bytes(zipped({"t.csv": large}))
    monkeypatch.setattr(opening, "CHECKED", 2**16)
    monkeypatch.setattr(opening, "MOST_RATIO", 20)
    for name in ("t.csv.gz", "t.zip"):
        with pytest.raises(
            DataError, match=rf"{name}: [\d,]+ bytes unpack to over [\d,]+, as a bomb"
        ):
            load(tmp_path / name)
    monkeypatch.setattr(opening, "MOST_RATIO", 10**6)
    monkeypatch.setattr(opening, "free_memory", lambda: 2**20)
    for name, verb in (("t.csv", "is"), ("t.csv.gz", "unpacks to over"), ("t.zip", "unpacks to")):
        with pytest.raises(
            DataError, match=f"{name}: {verb} .* GiB of text, and 0.0 GiB of memory"
        ):
            load(tmp_path / name, "data.storage=memory")


@pytest.mark.parametrize("header", [
    "1990,1995,y", "0,1,y", "x,1,y", "2020-01,x,y",
])  # fmt: skip
def test_numbers_that_may_be_names(header, tmp_path):
    (tmp_path / "t.csv").write_text(f"{header}\n{BODY}")
    assert load(tmp_path / "t.csv").train.x.shape[1] == 3


@pytest.mark.parametrize("seed", range(6))
def test_columns_of_codes_are_those_of_a_slow_reader(seed, tmp_path):
    """Quoted cells, separators and lines in quotes, all line ends."""
    import csv

    draw = np.random.default_rng(seed)
    words = ["01", "0", "1", "a", " 02", "0.5", "", "10", *["a,01", "b\n02,03", '"03']][
        : 8 + seed % 4
    ]
    rows = [
        ["n1", "n2", "n3", "n4"],
        *(draw.choice(words, 4, p=None).tolist() for _ in range(3 + seed)),
    ]
    path, end = tmp_path / "t.csv", ["\n", "\r\n", "\r"][seed % 3]
    with path.open("w", newline="") as file:
        csv.writer(
            file, quoting=[csv.QUOTE_MINIMAL, csv.QUOTE_ALL][seed % 2], lineterminator=end
        ).writerows(rows)
    found = tables.coded(path, tables.Form(",", "utf-8"), rows[0])
    coded = {
        rows[0][i] for row in rows for i, w in enumerate(row) if w.strip()[:2] in ("01", "02", "03")
    }
    assert coded <= set(found)
    if seed % 4 == 0:  # no quoted lines or separators: exactly these
        assert coded == set(found)


def frame(rows=120):
    """A table of every type that has a like in a CSV."""
    draw = np.random.default_rng(0)
    day = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=31 * i) for i in range(rows)]
    return pd.DataFrame({
        "int": draw.integers(0, 9, rows), "float": draw.normal(size=rows).round(4),
        "rises": np.arange(rows), "holes": pd.array([None if i % 5 == 0 else i % 7 for i in range(rows)], "Int64"),
        "gaps": [np.nan if i % 9 == 0 else i / 4 for i in draw.permutation(rows)],
        "flag": draw.random(rows) < 0.5, "maybe": pd.array([[True, False, None][i % 3] for i in range(rows)], "boolean"),
        "word": draw.choice(["a", "b", None], rows), "kind": pd.Categorical(draw.choice(["p", "q"], rows)),
        "time": day, "zone": pd.DatetimeIndex(day).tz_localize("Europe/Berlin"), "none": [None] * rows,
        "code": [f"{v:03d}" for v in draw.integers(0, 5, rows)], "y": draw.integers(0, 3, rows),
    })  # fmt: skip


def test_parquet_gives_what_a_csv_gives(tmp_path):
    made = frame()
    made.to_csv(tmp_path / "t.csv", index=False)
    made.to_parquet(tmp_path / "t.parquet")
    made.iloc[::-1].iloc[::-1].set_index(made.index.to_numpy()[::-1]).to_parquet(
        tmp_path / "index.parquet"
    )
    plain = load(tmp_path / "t.csv")
    for name in ("t.parquet", "index.parquet"):
        found = load(tmp_path / name)
        assert found.notes == plain.notes
        assert found.classes == plain.classes == ["0", "1", "2"]
        assert torch.allclose(found.train.x, plain.train.x, atol=1e-5)
        assert found.preparation.inputs.levels == plain.preparation.inputs.levels


def test_types_of_arrow(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from decimal import Decimal

    from pyarrow import parquet

    n = 40
    columns = {
        "small": pa.array([i % 5 for i in range(n)], pa.int8()),
        "single": pa.array([0.1 * (i % 7) for i in range(n)], pa.float32()),
        "money": pa.array([Decimal(f"{i % 6}.25") for i in range(n)], pa.decimal128(9, 2)),
        "large": pa.array(["ab"[i % 2] for i in range(n)], pa.large_string()),
        "dict": pa.array(["ab"[i % 3 // 2] for i in range(n)]).dictionary_encode(),
        "day": pa.array([datetime.date(2024, 1 + i % 12, 1) for i in range(n)], pa.date32()),
        "long": pa.array([datetime.timedelta(minutes=i % 9) for i in range(n)], pa.duration("us")),
        "y": pa.array([0.5 + i % 2 for i in range(n)], pa.float32()),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet")
    assert data.classes == ["0.5", "1.5"]
    assert data.preparation.inputs.numbers[:4] == ("small", "single", "money", "day: day")
    assert set(data.preparation.inputs.levels) == {"large", "dict"}
    frame, _ = tables.read(tmp_path / "t.parquet", "auto", "auto", set())
    assert frame["long"].tolist()[:3] == [0, 60, 120]
    assert frame["money"].tolist()[:2] == [0.25, 1.25]
    lists = pa.table(columns | {"v": pa.array([[i] for i in range(n)])})
    parquet.write_table(lists, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column v holds list<.*>, which is no number.*data.drop=."):
        load(tmp_path / "t.parquet")
    assert torch.equal(load(tmp_path / "t.parquet", "data.drop=[v]").train.x, data.train.x)
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"t.parquet: not a Parquet file"):
        load(tmp_path / "t.parquet")


def book(path, rows, *more, merge=None):
    openpyxl = pytest.importorskip("openpyxl")
    made = openpyxl.Workbook()
    made.active.title = "first"
    for row in rows:
        made.active.append(row)
    for name in more:
        made.create_sheet(name).append(["other"])
    if merge:
        made.active.merge_cells(merge)
    made.save(path)
    return path


def test_excel_gives_what_a_csv_gives(tmp_path):
    made = frame().drop(columns="zone").astype(object)
    rows = made.where(made.notna(), None).to_numpy().tolist()
    made.to_csv(tmp_path / "t.csv", index=False)
    path = book(tmp_path / "t.xlsx", [[], [*made], *rows, []], "second", "third")
    plain, found = load(tmp_path / "t.csv"), load(path)
    assert found.notes == ["t.xlsx: sheet first of 3 (second, third not read)", *plain.notes]
    assert found.classes == plain.classes
    assert torch.allclose(found.train.x, plain.train.x, atol=1e-5)
    rows[7][-1] = None
    with pytest.raises(DataError, match="1 rows have no y .*t.xlsx, row 9"):
        load(book(tmp_path / "t.xlsx", [[*made], *rows]))


def test_cells_of_excel_that_hold_no_value(tmp_path):
    rows = [["x", "c", "y"], *([i, "ab"[i % 2], i % 2] for i in range(40))]
    with pytest.raises(DataError, match="t.xlsx: sheet first: A2:A4 are merged cells, of which"):
        load(book(tmp_path / "t.xlsx", rows, merge="A2:A4"))
    rows[5][0] = "=A2*2"
    with pytest.raises(DataError, match="t.xlsx: sheet first: A6 is a formula without a value"):
        load(book(tmp_path / "t.xlsx", rows))
    path = book(tmp_path / "t.xlsx", rows[:5])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="t.xlsx: not an Excel file"):
        load(path)
